"""Differences: a derivative from values of the function alone, with an estimate of its own error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..kernels.arrays import Array

__all__ = ["Difference", "at_a_kink", "complex_step", "richardson", "settled"]

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
