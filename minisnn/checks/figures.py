"""Figures of a report: where the errors lie, how they depend on the step, what rules share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["figure_of"]

BLUE, RED, GREEN = "#0072b2", "#d55e00", "#009e73"  # told apart by colour-blind eyes too


def figure_of(title: str, rows: Sequence[Any], pictures: Mapping[str, Any]) -> Figure:
    """A heat map of the errors of a report, red where wrong, and V-curves if any.

    For a comparison, the gradient by lag and path instead.
    """
    import matplotlib.pyplot as plt

    kinds = {"cells": _cells, "v curve": _curve, "lags": _lags, "paths": _paths}
    tables = {"cells": rows, **pictures}
    shown = [n for n in kinds if n in tables and not (n == "cells" and "lags" in tables)]
    size = 5.4 * len(shown), 4.2
    figure, axes = plt.subplots(1, len(shown), figsize=size, squeeze=False, layout="constrained")
    for panel, name in zip(axes[0], shown, strict=True):
        kinds[name](panel, tables[name])
    figure.suptitle(title, fontsize=9)
    return figure


def _cells(axes: Axes, rows: Sequence[Any]) -> None:
    twins, names = (list(dict.fromkeys(getattr(r, f) for r in rows)) for f in ("twin", "name"))
    errors = np.full((len(names), len(twins)), np.nan)
    for row in rows:
        x, y = twins.index(row.twin), names.index(row.name)
        finite = np.isfinite(row.error)
        errors[y, x] = np.log10(max(row.error, 1e-20) / row.tolerance) if finite else 12.0
        axes.text(x, y, "" if row.ok else row.verdict, ha="center", va="center", fontsize=7)
    image = axes.imshow(errors, cmap="coolwarm", vmin=-8, vmax=8, aspect="auto")
    axes.set_xticks(range(len(twins)), twins, fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_title("Error, in powers of ten above what is allowed", fontsize=9)
    axes.figure.colorbar(image, ax=axes, label="log10(error / allowed)")


def _lags(axes: Axes, table: Sequence[tuple]) -> None:
    lag, cosine, mine, other = np.array(table).T
    axes.bar(lag - 0.2, mine, 0.4, color=BLUE, label="share of the norm")
    axes.bar(lag + 0.2, other, 0.4, color="0.7", label="the other's")
    axes.plot(lag, cosine, "o-", color=RED, label="cosine of the two")
    axes.set(xlabel="time lag (steps)", title="Gradient of the input by lag")
    axes.legend(fontsize=8)


def _paths(axes: Axes, table: Sequence[tuple]) -> None:
    names, held, share = zip(*table, strict=True)
    at = np.arange(len(names))
    axes.bar(at - 0.2, held, 0.4, color=GREEN, label="how much of it is held")
    axes.bar(at + 0.2, share, 0.4, color="0.7", label="its norm in the whole")
    axes.set_xticks(at, names)
    axes.set(title="Gradient of the input by path")
    axes.legend(fontsize=8)


def _curve(axes: Axes, table: Sequence[tuple]) -> None:
    for name, steps, errors in table:
        axes.loglog(steps, np.maximum(errors, 1e-17), ".-", label=name)
    title = "Too large a step errs, too small a step rounds"
    axes.set(xlabel="step h of the difference", ylabel="relative error", title=title)
    axes.legend(fontsize=7)
