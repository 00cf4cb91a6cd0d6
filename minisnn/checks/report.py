"""The report: a row for each comparison, what is wrong and why, a verdict, a table and a figure."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Finding", "GradientError", "Report", "Row", "row_of"]

WIDTH = 100
BLUE, RED, GREEN = "#0072b2", "#d55e00", "#009e73"  # told apart by colour-blind eyes too


class GradientError(AssertionError):
    """A gradient is not the derivative it should be; the message is the report's table."""


@dataclass(frozen=True)
class Row:
    """One comparison: the gradient of `name` on one twin, or one cell of a step's Jacobian.

    ``analytic`` and ``numeric`` are the two values where they differ most (for a directional
    comparison, the only two), and ``at`` is where that is; ``error`` is the relative error,
    ``tolerance`` the largest allowed, and ``origin`` says why that much.  ``refused`` marks a
    comparison that decides nothing, because the function compared with has no derivative.
    """

    twin: str
    name: str
    shape: tuple[int, ...]
    analytic: float
    numeric: float
    error: float
    tolerance: float
    origin: str
    ok: bool
    at: tuple[int, ...] = ()
    refused: bool = False

    @property
    def verdict(self) -> str:
        """In a word: ok, WRONG, UNDECIDED (the numeric value is too coarse to tell) or REFUSED.

        DIFFERS if two derivations are compared: neither need be right.
        """
        if self.ok:
            return "ok"
        if self.twin.startswith("against "):
            return "DIFFERS"
        decided = "UNDECIDED" if self.error <= self.tolerance else "WRONG"
        return "REFUSED" if self.refused else decided


def row_of(
    twin: str,
    name: str,
    analytic: Any,
    numeric: Any,
    origin: str,
    sizes: Any = None,
    tolerance: float = 1e-12,
) -> Row:
    """Two arrays compared where they differ most, relative to the largest (of `sizes`, if given).

    If all is right, the largest entry is shown: which one is worst is a matter of rounding.
    """
    difference = np.abs(analytic - numeric)
    scale = np.abs(numeric if sizes is None else sizes).max()
    error = float(difference.max() / scale) if scale > 0 else float(difference.max())
    ok = bool(error <= tolerance)
    worst = np.argmax(np.abs(numeric) if ok else difference)
    at = tuple(int(i) for i in np.unravel_index(worst, difference.shape))
    values = float(analytic[at]), float(numeric[at])
    return Row(twin, name, analytic.shape, *values, error, tolerance, origin, ok, at)


@dataclass(frozen=True)
class Finding:
    """What is wrong with one gradient, in formulas and in a sentence; verified on fresh numbers."""

    name: str
    sentence: str = ""
    yours: str = ""
    true: str = ""
    difference: str = ""
    latex: tuple[str, ...] = ()

    def __str__(self) -> str:
        named = {"yours": self.yours, "true": self.true, "yours - true =": self.difference}
        formulas = ", ".join(f"{name} {text}" for name, text in named.items() if text)
        if formulas or self.sentence:
            return f"{self.name}: {'; '.join(filter(None, (formulas, self.sentence)))}"
        hint = "with SymPy it may be shown as one: pip install sympy"
        what = "not explained by a short formula in s, u, v, theta, decay and the slope"
        return f"{self.name}: wrong, and {what}" + ("" if find_spec("sympy") else f"; {hint}")


@dataclass
class Report:
    """The outcome of a check; a table when printed.

    ``problems`` are what kept a derivation from being compared (it raised, returned the wrong
    shape, wrote into its input); ``findings`` say which term is wrong; ``notes`` are remarks that
    decide nothing.
    """

    title: str
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    #: What ``plot`` draws besides the rows: name of a panel -> its table.
    pictures: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def ok(self) -> bool:
        """Whether there are rows, all of them are right, and there are no problems."""
        return bool(self.rows) and all(row.ok for row in self.rows) and not self.problems

    def add_worst(self, rows: list[Row]) -> None:
        """Add the worst of `rows` for each gradient of each twin."""
        worst: dict[tuple[str, str], Row] = {}
        for row in rows:
            known = worst.setdefault((row.twin, row.name), row)
            if (not row.ok, row.error) > (not known.ok, known.error) or row.error != row.error:
                worst[row.twin, row.name] = row
        self.rows += worst.values()

    def find(self, found: Iterable[Finding]) -> None:
        """Add findings that are not there yet."""
        self.findings += [f for f in found if f not in self.findings]

    def raise_if_wrong(self) -> Report:
        """The report if every gradient is right; else :class:`GradientError` with the table."""
        if not self.ok:
            raise GradientError(f"\n{self}")
        return self

    def to_json(self) -> str:
        """Everything in the report as JSON text; numbers that are not finite as strings."""
        content = {**asdict(self), "ok": self.ok}
        del content["pictures"]
        for row, found in zip(self.rows, content["rows"], strict=True):
            found["verdict"] = row.verdict
        return json.dumps(_plain(content), indent=1, allow_nan=False)

    def plot(self) -> Figure:
        """A Matplotlib figure: a heat map of the errors, red where wrong, and V-curves if any.

        For a comparison, the gradient by lag and path instead.
        """
        import matplotlib.pyplot as plt

        panels: dict[str, Any] = {
            "cells": _cells,
            "v curve": _curves,
            "lags": _lags,
            "paths": _paths,
        }
        tables = ({} if "lags" in self.pictures else {"cells": self.rows}) | self.pictures
        size = 5.4 * len(tables), 4.2
        figure, axes = plt.subplots(1, len(tables), squeeze=False, figsize=size)
        figure.set_layout_engine("constrained")
        for panel, (name, table) in zip(axes[0], tables.items(), strict=True):
            panels[name](panel, table)
        figure.suptitle(self.title, fontsize=9)
        return figure

    def __repr__(self) -> str:
        lines = _wrap([self.title], "")
        for twin in dict.fromkeys(row.twin for row in self.rows):
            lines += _table(twin, [row for row in self.rows if row.twin == twin])
        findings = [str(finding) for finding in self.findings]
        for title, texts in (
            ("errors before the comparison", self.problems),
            ("which term", findings),
        ):
            lines += [f"  {title}:", *_wrap(texts, "    ")] if texts else []
        lines += _wrap(f"error: {origin}" for origin in dict.fromkeys(r.origin for r in self.rows))
        lines += _wrap(f"note: {note}" for note in self.notes)
        verdict = "right" if self.ok else "right: NOT RIGHT"
        if any(row.verdict == "DIFFERS" for row in self.rows):
            verdict = "the same"
        lines.append(f"  {sum(row.ok for row in self.rows)} of {len(self.rows)} {verdict}")
        return "\n".join(lines)


def _table(twin: str, rows: list[Row]) -> list[str]:
    name = max(len(twin), *(len(row.name) + 2 for row in rows))
    true = "other" if twin.startswith("against ") else "true"
    head = f"{'shape':>9} {'worst at':>9} {'yours':>12} {true:>12} {'error':>7} {'allowed':>7}"
    lines = [f"  {twin:<{name}} {head}"]
    for r in rows:
        shape = "x".join(map(str, r.shape)) or "1"
        at = "-" if r.ok else ",".join(map(str, r.at)) or "-"
        values = f"{r.analytic:12.5e} {r.numeric:12.5e} {r.error:7.0e} {r.tolerance:7.0e}"
        lines.append(f"    {r.name:<{name - 2}} {shape:>9} {at:>9} {values}  {r.verdict}")
    return lines


def _wrap(texts: Iterable[str], indent: str = "  ") -> list[str]:
    wrapper = textwrap.TextWrapper(WIDTH, initial_indent=indent, break_long_words=False)
    wrapper.subsequent_indent = f"{indent}  "
    return [line for text in texts for line in wrapper.wrap(text) or [indent]]


def _plain(value: Any) -> Any:
    """`value` with what JSON lacks replaced: NumPy numbers, tuples, NaN."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, bool | str | int | None):
        return value
    number = float(value)
    return number if np.isfinite(number) else str(number)


# -- panels of the figure


def _cells(axes: Axes, rows: Sequence[Row]) -> None:
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


def _curves(axes: Axes, table: Sequence[tuple]) -> None:
    for name, steps, errors in table:
        axes.loglog(steps, np.maximum(errors, 1e-17), ".-", label=name)
    title = "Too large a step errs, too small a step rounds"
    axes.set(xlabel="step h of the difference", ylabel="relative error", title=title)
    axes.legend(fontsize=7)
