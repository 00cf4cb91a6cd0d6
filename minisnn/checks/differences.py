"""Differences: a derivative from values of the function alone, with an estimate of its own error."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ..kernels.arrays import Array
from .report import Row

__all__ = ["Difference", "at_a_kink", "compare_arrays", "complex_step", "curves", "richardson", "settled"]

#: Takes a step h, returns ``(value, sides)``; see :func:`richardson`.
Along = Callable[[float], tuple[float, Any]]


class Difference(NamedTuple):
    """A numeric derivative: its ``value``, the estimated ``error`` of that, and whether a kink lay in between."""

    value: float
    error: float
    crossed: bool


def richardson(f: Along, step: float = 1e-2, levels: int = 7) -> Difference:
    """Derivative of `f` at 0 by central differences, extrapolated to step 0 (Richardson; Ridders' choice of the entry).

    Central differences err by ``a h^2 + b h^4 + ...``.  Halving the step and combining neighbours removes one power after
    the other, until rounding takes over; the entry of the table with the smallest estimated error is returned.

    Parameters
    ----------
    f : takes a step ``h``, returns ``(value, sides)``.  ``sides`` is an array of booleans that tells on which side of its
        kinks each quantity lies, or ``None``.  A difference across a kink is no derivative.
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
        if abs(row[-1] - table[-1][-1]) >= 2 * error:  # rounding has taken over: smaller steps only add noise
            break
        table.append(row)
    return Difference(float(best), float(error), False)


def settled(f: Along, wanted: float) -> Difference:
    """:func:`richardson` from smaller and smaller steps until its error is `wanted`: inside of kinks nobody told of."""
    best = richardson(f)
    for step in (1e-3, 1e-4, 1e-5):
        if best.error <= wanted:
            break
        finer = richardson(f, step, 4)
        best = finer if finer.error < best.error else best
    return best


def at_a_kink(f: Along, scale: float) -> bool:
    """Whether the slopes to the left and to the right of 0 differ: there is no derivative to compare with then."""
    here = f(0.0)[0]
    jumps = [abs(f(h)[0] - 2 * here + f(-h)[0]) / h for h in (1e-4, 1e-6)]
    return jumps[1] > 0.3 * jumps[0] and jumps[1] > 1e-7 * scale


def complex_step(f: Callable[[Array], complex], at: Array, step: float = 1e-30) -> Array:
    """Gradient of a real analytic function, entry by entry, exact to rounding: ``Im f(at + i h e) / h``."""
    gradient = np.empty_like(at)
    for i in np.ndindex(at.shape):
        shifted = at.astype(complex)
        shifted[i] += 1j * step
        gradient[i] = complex(f(shifted)).imag / step
    return gradient


def stencil(f: Callable[[Array], float], at: Array, h: float = 1e-2) -> Array:
    """Every entry of a gradient by a four-point difference, error of order ``h^4``: quick, to recognise a gradient by."""
    gradient, moved = np.empty(at.shape), at.copy()
    for i in np.ndindex(at.shape):
        values = []
        for step in (2 * h, h, -h, -2 * h):
            moved[i] = at[i] + step
            values.append(f(moved))
        moved[i] = at[i]
        gradient[i] = (-values[0] + 8 * values[1] - 8 * values[2] + values[3]) / (12 * h)
    return gradient


# -- Gradients compared with differences of a function: along random directions, or entry by entry.

TOLERANCE = 1e-7
#: A difference whose own estimated error is larger than this share of the gradient decides nothing.
TOO_COARSE = 1e-6
#: Gradients smaller than this share of the value cannot be told from 0: a difference has its value's rounding, 1e-14 of it.
UNSEEN = 1e-7
ALONG = "differences along random directions, relative to the norms of gradient and direction"
ENTRIES = "differences entry by entry, relative to the largest entry"
KINK = "a kink (a threshold, a maximum) lies at this very point: choose another input or seed"
JUMPS = (
    "the output does not move at all under small steps: it only jumps (a spike?), so differences of it say nothing about a "
    "surrogate gradient; check_scan, check_layer and check_grads compare with twins instead"
)

#: Takes the arrays by name, returns the value that is differentiated, and on which sides of its kinks everything lay.
Value = Callable[[Mapping[str, Array]], tuple[float, Any]]


def compare_arrays(
    twin: str,
    value: Value,
    arrays: Mapping[str, Array],
    gradients: Mapping[str, Array],
    rng: np.random.Generator,
    directions: int = 2,
    entries: int = 0,
) -> list[Row]:
    """A row for each array: its gradient against differences of `value`.

    Arrays of up to `entries` entries are compared entry by entry; larger ones along `directions` random directions, in which
    every entry takes part, and at `entries` entries drawn, no fewer than 24, if any.  A gradient found wrong is shown at its
    worst entry.
    """
    rows = []
    for name, array in arrays.items():
        gradient = gradients[name]
        if array.size <= entries:
            found = [_entries(twin, name, value, arrays, gradient, list(np.ndindex(array.shape)))]
        else:
            found = [_along(twin, name, value, arrays, gradient, rng.normal(size=array.shape)) for _ in range(directions)]
            if entries or any(row.verdict == "WRONG" for row in found):
                some = rng.choice(array.size, min(array.size, max(entries, 24)), replace=False)
                chosen = [tuple(int(j) for j in np.unravel_index(i, array.shape)) for i in some]
                by_entry = _entries(twin, name, value, arrays, gradient, chosen)
                found = [by_entry] if by_entry.verdict == "WRONG" else [*found, by_entry] if entries else found
        rows.append(max(found, key=lambda row: (not row.ok, row.error != row.error, row.error)) if found else None)
    return [row for row in rows if row is not None]


def curves(
    value: Value, arrays: Mapping[str, Array], gradients: Mapping[str, Array], rng: np.random.Generator
) -> list[tuple]:
    """For the figure: each gradient's error against the step of a plain difference, along one random direction."""
    found = []
    for name, array in arrays.items():
        direction = rng.normal(size=array.shape)
        along, size = moved(value, arrays, name, direction), np.linalg.norm(gradients[name]) * np.linalg.norm(direction)
        steps = [10.0 ** (-k / 2) for k in range(2, 25)]
        slope = float((gradients[name] * direction).sum())
        found.append((name, steps, [abs((along(h)[0] - along(-h)[0]) / (2 * h) - slope) / (size or 1.0) for h in steps]))
    return found


def moved(value: Value, arrays: Mapping[str, Array], name: str, direction: Array) -> Along:
    """`value` as a function of how far the array `name` has gone in a direction."""
    return lambda h: value({**arrays, name: arrays[name] + h * direction})


def _along(twin: str, name: str, value: Value, arrays: Mapping[str, Array], gradient: Array, direction: Array) -> Row:
    f = moved(value, arrays, name, direction)
    scale = float(np.linalg.norm(gradient) * np.linalg.norm(direction))
    numeric = settled(f, TOLERANCE / 10 * scale)
    scale = max(scale, abs(numeric.value)) or 1.0
    return _row(twin, name, gradient, float((gradient * direction).sum()), numeric, scale, ALONG, f)


def _entries(
    twin: str, name: str, value: Value, arrays: Mapping[str, Array], gradient: Array, chosen: list[tuple[int, ...]]
) -> Row:
    found = {}
    for i in chosen:
        direction = np.zeros(gradient.shape)
        direction[i] = 1.0
        f = moved(value, arrays, name, direction)
        found[i] = settled(f, TOLERANCE / 10 * max(float(np.abs(gradient).max(initial=0)), 1e-300)), f
    if not found:
        return Row(twin, name, gradient.shape, 0.0, 0.0, 0.0, TOLERANCE, "an empty array has no gradient", True)
    scale = max(max(abs(d.value) for d, _ in found.values()), float(np.abs(gradient).max())) or 1.0
    rows = [_row(twin, name, gradient, float(gradient[i]), d, scale, ENTRIES, f, i) for i, (d, f) in found.items()]
    return max(rows, key=lambda row: (not row.ok, row.error != row.error, row.error))


def _row(
    twin: str, name: str, gradient: Array, analytic: float, numeric: Difference, scale: float, origin: str, f: Along,
    at: tuple[int, ...] = (),
) -> Row:  # fmt: skip
    # A bias before a normalisation has the gradient 0, and what is returned is the rounding of it.
    scale = max(scale, UNSEEN * abs(f(0.0)[0]))
    error, estimate = abs(analytic - numeric.value) / scale, numeric.error / scale
    tolerance = max(TOLERANCE, min(10 * estimate, TOO_COARSE))
    decided = not numeric.crossed and estimate <= TOO_COARSE
    ok = bool(decided and error <= tolerance)
    refused = False
    if not ok and analytic != 0 and numeric.value == 0 and numeric.error == 0:
        origin, refused = JUMPS, True
    elif not ok and np.isfinite(analytic) and (numeric.crossed or at_a_kink(f, scale)):
        origin, error = KINK, 0.0
    elif not ok and not decided and np.isfinite(analytic):
        # A difference that is too coarse is no proof of a mistake, unless it is wrong by far more than its own error.
        error = error if error > 100 * estimate else 0.0
    return Row(twin, name, gradient.shape, analytic, numeric.value, error, tolerance, origin, ok, at, refused)
