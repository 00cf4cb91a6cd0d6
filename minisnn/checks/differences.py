"""Differences: a derivative from values of a function alone, and gradients compared with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ..kernels.arrays import Array
from .report import Row

__all__ = ["Difference", "Point", "compare_arrays", "curves", "richardson"]

TOLERANCE = 1e-7
#: A difference whose estimated error is larger than this share of the gradient decides nothing.
TOO_COARSE = 1e-6
#: Gradients smaller than this share of the value drown in the rounding of its differences.
UNSEEN = 1e-7
ALONG = "differences along random directions, relative to the norms of gradient and direction"
ENTRIES = "differences entry by entry, relative to the largest entry"
KINK = "a kink (a threshold, a maximum) lies at this very point: choose another input or seed"
JUMPS = (
    "the output does not move under small steps: it only jumps (a spike?), and differences of it "
    "say nothing about a surrogate gradient; check_scan, check_layer and check_grads use twins"
)

#: Takes a step h, returns ``(value, sides)``; see :func:`richardson`.
Along = Callable[[float], tuple[float, Any]]


class Difference(NamedTuple):
    """A numeric derivative: its ``value``, its estimated ``error``, whether a kink was crossed."""

    value: float
    error: float
    crossed: bool


def richardson(f: Along, step: float = 1e-2, levels: int = 7) -> Difference:
    """Derivative of `f` at 0 by central differences, extrapolated to step 0.

    Central differences err by ``a h^2 + b h^4 + ...``.  Halving the step and combining neighbours
    removes one power after the other, until rounding takes over (Richardson); the entry of the
    table with the smallest estimated error is returned (Ridders).

    Parameters
    ----------
    f : takes a step ``h``, returns ``(value, sides)``.  ``sides`` is an array of booleans that
        tells on which side of its kinks each quantity lies, or ``None``.  A difference across a
        kink is no derivative.
    step : largest step to try; as long as a kink lies in between, it is halved up to 20 times.
    levels : number of step sizes combined.
    """
    for _ in range(20):
        (high, sides_high), (low, sides_low) = f(step), f(-step)
        crossed = sides_high is not None and not np.array_equal(sides_high, sides_low)
        if not crossed:
            break
        step /= 2
    if crossed:
        return Difference(float("nan"), float("inf"), True)
    table = [[(high - low) / (2 * step)]]
    best, error = table[0][0], float("inf")
    for level in range(1, levels):
        step /= 2
        row = [(f(step)[0] - f(-step)[0]) / (2 * step)]
        for power in range(1, level + 1):
            row.append(row[-1] + (row[-1] - table[-1][power - 1]) / (4**power - 1))
            guess = max(abs(row[-1] - row[-2]), abs(row[-1] - table[-1][power - 1]))
            if guess <= error:
                best, error = row[-1], guess
        if abs(row[-1] - table[-1][-1]) >= 2 * error:  # rounding has taken over
            break
        table.append(row)
    return Difference(float(best), float(error), False)


def _settled(f: Along, enough: float) -> Difference:
    """:func:`richardson` from smaller and smaller steps, to get inside undeclared kinks."""
    best = richardson(f)
    for step in (1e-3, 1e-4, 1e-5):
        if best.error <= enough:
            break
        finer = richardson(f, step, 4)
        best = finer if finer.error < best.error else best
    return best


def _at_a_kink(f: Along, scale: float) -> bool:
    """Whether the slopes to the left and to the right of 0 differ: there is no derivative then."""
    here = f(0.0)[0]
    jumps = [abs(f(h)[0] - 2 * here + f(-h)[0]) / h for h in (1e-4, 1e-6)]
    return jumps[1] > 0.3 * jumps[0] and jumps[1] > 1e-7 * scale


def _resolution(f: Along) -> float:
    """The smallest derivative that differences can see: rounding, over the smallest step."""
    here, steps = f(0.0)[0], (1e-14, 1e-13, 1e-12)
    moved = [abs(f(h)[0] - here) for h in (*steps, *(-h for h in steps))]
    rounding = max(np.spacing(abs(here)), *moved)
    return 1e4 * min(rounding, 1e-12 * (1 + abs(here)))  # what moves more is a jump


# -- gradients compared with differences


class Point(NamedTuple):
    """A function of named arrays at one point, and the gradients returned there.

    ``value(arrays)`` is the number they should be gradients of, and the sides of its kinks.  `y`
    are the function's outputs, `d_y` the weights that make one number of them.
    """

    value: Callable[[Mapping[str, Array]], tuple[float, Any]]
    arrays: Mapping[str, Array]
    gradients: Mapping[str, Array]
    y: Mapping[str, Array] = {}
    d_y: Mapping[str, Array] = {}

    def along(self, name: str, direction: Array) -> Along:
        """The value as a function of how far an array has gone in a direction."""
        at = self.arrays[name]
        return lambda h: self.value({**self.arrays, name: at + h * direction})

    def true(self, name: str, **changed: Array) -> Array:
        """A gradient, perhaps where other arrays are changed, by four-point differences: quick."""
        arrays = {**self.arrays, **changed}
        moved = arrays[name] = np.array(arrays[name], np.float64)
        gradient, h = np.empty(moved.shape), 1e-3 * max(float(np.std(moved)), 1.0)
        for i in np.ndindex(moved.shape):
            at, values = moved[i], []
            for step in (2 * h, h, -h, -2 * h):
                moved[i] = at + step
                values.append(self.value(arrays)[0])
            moved[i] = at
            gradient[i] = (-values[0] + 8 * values[1] - 8 * values[2] + values[3]) / (12 * h)
        return gradient


def compare_arrays(
    twin: str,
    point: Point,
    rng: np.random.Generator,
    directions: int = 2,
    entries: int = 0,
    prefix: str = "",
) -> list[Row]:
    """A row for each gradient, against differences of the value.

    Arrays of up to `entries` entries are compared entry by entry; larger ones along `directions`
    random directions, in which every entry takes part, and at `entries` entries drawn, no fewer
    than 24, if any.  A gradient found wrong is shown at its worst entry.
    """
    rows = []
    for name, array in point.gradients.items():
        compared = partial(_worst, twin, point, name)
        if not array.size:
            values = 0.0, 0.0, 0.0, TOLERANCE, "an empty array has no gradient"
            found = [Row(twin, name, array.shape, *values, True)]
        elif array.size <= entries:
            found = [compared(list(np.ndindex(array.shape)))]
        else:
            found = [compared([], rng.normal(size=array.shape)) for _ in range(directions)]
            if entries or any(row.verdict == "WRONG" for row in found):
                some = rng.choice(array.size, min(array.size, max(entries, 24)), replace=False)
                row = compared([np.unravel_index(i, array.shape) for i in some])
                found = [row] if row.verdict == "WRONG" else found + [row] * bool(entries)
        rows += [replace(max(found, key=_badness), name=f"{prefix}{name}")] if found else []
    return rows


def _badness(row: Row) -> tuple:
    return not row.ok, row.error != row.error, row.error


def _worst(
    twin: str, point: Point, name: str, entries: list[tuple], direction: Array | None = None
) -> Row:
    """The worst row of these entries of a gradient, or its row along a direction."""
    gradient, along = point.gradients[name], dict[tuple[int, ...], Array]()
    if direction is None:
        origin, size = ENTRIES, float(np.abs(gradient).max())
        for at in entries:
            along[tuple(map(int, at))] = one = np.zeros(gradient.shape)
            one[at] = 1.0
    else:
        origin, size = ALONG, float(np.linalg.norm(gradient) * np.linalg.norm(direction))
        along[()] = direction
    values = {at: point.along(name, d) for at, d in along.items()}
    numeric = {at: _settled(f, TOLERANCE / 10 * max(size, 1e-300)) for at, f in values.items()}
    scale = max(max(abs(d.value) for d in numeric.values()), size) or 1.0
    rows = []
    for at, f in values.items():
        # A bias before a normalisation has the gradient 0, and returns the rounding of it.
        seen, mine = max(scale, UNSEEN * abs(f(0.0)[0])), float((gradient * along[at]).sum())
        error, estimate = abs(mine - numeric[at].value) / seen, numeric[at].error / seen
        tolerance = max(TOLERANCE, min(10 * estimate, TOO_COARSE))
        ok = not numeric[at].crossed and estimate <= TOO_COARSE and error <= tolerance
        values_at = mine, numeric[at].value, error, tolerance
        row = Row(twin, name, gradient.shape, *values_at, origin, bool(ok), at)
        rows.append(row if ok else _second_look(row, numeric[at], seen, f))
    return max(rows, key=_badness)


def _second_look(row: Row, difference: Difference, scale: float, f: Along) -> Row:
    """A row that does not pass, unless the difference cannot tell."""
    coarse, resolution, estimate = richardson(f), _resolution(f), difference.error / scale
    if abs(row.analytic - coarse.value) + coarse.error <= resolution:  # too small to see
        error, allowed = abs(row.analytic - coarse.value) / scale, resolution / scale
        return replace(row, numeric=coarse.value, error=error, tolerance=allowed, ok=True)
    if row.analytic != 0 and difference.value == 0 and difference.error == 0:
        return replace(row, origin=JUMPS, refused=True)
    if not np.isfinite(row.analytic):
        return row
    if difference.crossed or _at_a_kink(f, scale):
        return replace(row, origin=KINK, error=0.0)
    # Too coarse a difference proves no mistake, unless that is far larger.
    proves = estimate <= TOO_COARSE or row.error > 100 * estimate
    return row if proves else replace(row, error=0.0)


def curves(point: Point, rng: np.random.Generator) -> list[tuple]:
    """For the figure: each gradient's error by the step of a plain difference, in one direction."""
    found, steps = [], [10.0 ** (-k / 2) for k in range(2, 25)]
    for name, gradient in point.gradients.items():
        direction = rng.normal(size=gradient.shape)
        f = point.along(name, direction)
        size = np.linalg.norm(gradient) * np.linalg.norm(direction) or 1.0
        slope = float((gradient * direction).sum())
        errors = [abs((f(h)[0] - f(-h)[0]) / (2 * h) - slope) / size for h in steps]
        found.append((name, steps, errors))
    return found
