"""Batch normalisation, compiled: two passes over the memory instead of ten.

Maps are ``[G, R, C, M]``: each pair of a group and a channel has its own statistics, over R
repetitions and M places.  A tile is one such pair: its numbers stay in the cache between passes.
"""

from __future__ import annotations

import math

import numpy as np

from . import memory
from .arrays import Array
from .jit import Loop, U, helper, read_only
from .normal import scale_and_shift, standardise, standardise_adjoint, statistics
from .threads import share

__all__ = ["normalise", "normalise_back", "statistics"]

# The compiled passes use the same three formulas as the layer in NumPy.
for formula in (scale_and_shift, standardise, standardise_adjoint):
    helper(formula)


def normalise(
    x: Array, mean: Array, inverse: Array, gain: Array, beta: Array
) -> tuple[Array, Array]:
    """``x_hat = (x - mean) * inverse`` and ``y = gain * x_hat + beta``, each shaped as `x`.

    Raises ValueError if one of the others is no array that fits ``[G, C]``.
    """
    pairs, (x_hat, y) = (len(x), x.shape[2]), (memory.empty(x.shape, x.dtype) for _ in range(2))
    values = [_given(np.broadcast_to(a, pairs)) for a in (mean, inverse, gain, beta)]
    given = _given(x), *values, x_hat, y
    share(normalise_loop, math.prod(pairs), 2 * x.size, *given)
    return x_hat, y


def normalise_back(
    d_y: Array, x_hat: Array, inverse: Array, gain: Array, through: bool, want_x: bool
) -> tuple[Array | None, Array, Array]:
    """``(d_x, sums of d_y * x_hat, sums of d_y)``, maps ``[G, R, C, M]`` and sums ``[G, C]``.

    `through` : also through the statistics, if of the batch.   `want_x` : else d_x is ``None``.

    Raises ValueError if an array does not fit the others.
    """
    if d_y.shape != x_hat.shape:
        raise ValueError(f"normalise_back: d_y is {list(d_y.shape)}, x_hat {list(x_hat.shape)}")
    d_x = memory.empty(d_y.shape if want_x else (0, 0, 0, 0), d_y.dtype)
    along, sums = np.empty((2, len(d_y), d_y.shape[2]), d_y.dtype)
    factor = _given(np.broadcast_to(inverse * gain, along.shape))
    given = _given(d_y), _given(x_hat), factor, through, d_x, along, sums
    share(back_loop, along.size, 3 * d_y.size, *given)
    return d_x if want_x else None, along, sums


def _given(array: Array) -> Array:
    """What a loop reads: C-contiguous, and read-only."""
    return read_only(np.ascontiguousarray(array))


# -- the loops.  Totals add up by place first, which LLVM turns into vector code, then in float64


@Loop
def normalise_loop(x, mean, inverse, gain, beta, x_hat, y, first, last):
    n_channels, n_places = x.shape[2], U(x.shape[3])
    for pair in range(first, last):
        g, c = pair // n_channels, pair % n_channels
        m, v, scale, shift = mean[g, c], inverse[g, c], gain[g, c], beta[g, c]
        for r in range(x.shape[1]):
            for i in range(n_places):
                standard = standardise(x[g, r, c, i], m, v)
                x_hat[g, r, c, i] = standard
                y[g, r, c, i] = scale_and_shift(standard, scale, shift)


@Loop
def back_loop(d_y, x_hat, factor, through, d_x, along, sums, first, last):
    n_channels, repetitions, n_places = d_y.shape[2], d_y.shape[1], U(d_y.shape[3])
    n, by_place = repetitions * d_y.shape[3], np.empty(d_y.shape[3], d_y.dtype)
    by_place_along = np.empty_like(by_place)
    for pair in range(first, last):
        g, c = pair // n_channels, pair % n_channels
        by_place[:] = 0
        by_place_along[:] = 0
        for r in range(repetitions):
            for i in range(n_places):
                by_place[i] += d_y[g, r, c, i]
                by_place_along[i] += d_y[g, r, c, i] * x_hat[g, r, c, i]
        total = by_place.astype(np.float64).sum()
        total_along = by_place_along.astype(np.float64).sum()
        sums[g, c], along[g, c] = total, total_along
        f, mean, mean_along = factor[g, c], 0.0, 0.0  # running statistics are constants
        if through:
            mean, mean_along = total / n, total_along / n
        if d_x.size > 0:
            for r in range(repetitions):
                for i in range(n_places):
                    d, standard = d_y[g, r, c, i], x_hat[g, r, c, i]
                    d_x[g, r, c, i] = standardise_adjoint(d, standard, f, mean, mean_along)
