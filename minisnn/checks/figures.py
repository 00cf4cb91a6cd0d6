"""Figures of a report: where the errors lie, how they depend on the step, what two derivations share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .report import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["figure_of"]

BLUE, RED, GREEN = "#0072b2", "#d55e00", "#009e73"  # told apart by colour-blind eyes too


def figure_of(report: Report) -> Figure:
    """A heat map of the errors, red where wrong; for a comparison the gradient by lag and path; V-curves if any."""
    import matplotlib.pyplot as plt

    wanted = [name for name in ("v curve", "lags", "paths") if name in report.pictures]
    panels = wanted if "lags" in wanted else ["cells", *wanted]
    figure, axes = plt.subplots(1, len(panels), figsize=(5.4 * len(panels), 4.2), squeeze=False, layout="constrained")
    for panel, name in zip(axes[0], panels, strict=True):
        {"cells": _cells, "lags": _lags, "paths": _paths, "v curve": _curve}[name](panel, report)
    figure.suptitle(report.title, fontsize=9)
    return figure


def _cells(axes: Axes, report: Report) -> None:
    twins, names = (list(dict.fromkeys(getattr(row, field) for row in report.rows)) for field in ("twin", "name"))
    errors = np.full((len(names), len(twins)), np.nan)
    for row in report.rows:
        size = np.log10(max(row.error, 1e-20) / row.tolerance) if np.isfinite(row.error) else 12.0
        errors[names.index(row.name), twins.index(row.twin)] = size
        mark = "" if row.ok else row.verdict
        axes.text(twins.index(row.twin), names.index(row.name), mark, ha="center", va="center", fontsize=7)
    image = axes.imshow(errors, cmap="coolwarm", vmin=-8, vmax=8, aspect="auto")
    axes.set_xticks(range(len(twins)), twins, fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_title("Error, in powers of ten above what is allowed", fontsize=9)
    axes.figure.colorbar(image, ax=axes, label="log10(error / allowed)")


def _lags(axes: Axes, report: Report) -> None:
    lag, cosine, mine, other = np.array(report.pictures["lags"]).T
    axes.bar(lag - 0.2, mine, 0.4, color=BLUE, label="share of the norm")
    axes.bar(lag + 0.2, other, 0.4, color="0.7", label="the other's")
    axes.plot(lag, cosine, "o-", color=RED, label="cosine of the two")
    axes.set(xlabel="time lag (steps)", title="Gradient of the input by lag")
    axes.legend(fontsize=8)


def _paths(axes: Axes, report: Report) -> None:
    names, held, share = zip(*report.pictures["paths"], strict=True)
    at = np.arange(len(names))
    axes.bar(at - 0.2, held, 0.4, color=GREEN, label="how much of it is held")
    axes.bar(at + 0.2, share, 0.4, color="0.7", label="its norm in the whole")
    axes.set_xticks(at, names)
    axes.set(title="Gradient of the input by path")
    axes.legend(fontsize=8)


def _curve(axes: Axes, report: Report) -> None:
    for name, steps, errors in report.pictures["v curve"]:
        axes.loglog(steps, np.maximum(errors, 1e-17), ".-", label=name)
    axes.set(
        xlabel="step h of the difference", ylabel="relative error", title="Too large a step errs, too small a step rounds"
    )
    axes.legend(fontsize=7)
