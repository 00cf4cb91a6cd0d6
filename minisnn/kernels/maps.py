"""Normalisation and maximum pooling of feature maps, compiled: a few passes over the memory instead of ten."""

from __future__ import annotations

from functools import cache

import numpy as np

from . import pool
from .contract import Array
from .jit import WHOLE, Loop, U, reads, scratch, writes
from .native import compile_loop
from .normal import scale_and_shift, standardise, standardise_adjoint
from .place import writeable
from .threads import share_out

__all__ = ["max_pool", "max_pool_back", "normalise", "normalise_back", "statistics"]

# -- normalisation: maps ``[G, R, C, M]``, statistics for each of G groups and C channels over R repetitions and M places.
# -- All that belongs to one pair is small enough to stay in the cache from one pass to the next.


def statistics(x: Array) -> tuple[Array, Array]:
    """Mean and (biased) variance ``[G, C]``."""
    mean, var = np.empty((2, len(x), x.shape[2]), x.dtype)
    work = _statistics(x.dtype)(x.shape[3], x, mean, var, *x.shape[1:])
    share_out(work, mean.size, x.size)
    return mean, var


def normalise(x: Array, mean: Array, inverse: Array, gain: Array, beta: Array, spent: bool) -> tuple[Array, Array]:
    """``x_hat = (x - mean) * inverse`` and ``y = gain * x_hat + beta``; x_hat is written over `x` where that is `spent`."""
    x_hat, y = x if spent else pool.empty_like(x), pool.empty_like(x)
    per_pair = (np.ascontiguousarray(np.broadcast_to(a, (len(x), x.shape[2]))) for a in (mean, inverse, gain, beta))
    work = _normalise(x.dtype)(x, *per_pair, x_hat, y, *x.shape[1:])
    share_out(work, len(x) * x.shape[2], 2 * x.size)
    return x_hat, y


def normalise_back(
    d_y: Array, x_hat: Array, inverse: Array, gain: Array, through: bool, want_x: bool, spent: bool
) -> tuple[Array | None, Array, Array]:
    """``(d_x, sums of d_y * x_hat, sums of d_y)``; `through` the statistics, where the batch gave them."""
    d_x = d_y if spent and writeable(d_y) else pool.empty_like(d_y) if want_x else np.empty_like(d_y)
    along, sums = np.empty((2, len(d_y), d_y.shape[2]), d_y.dtype)
    factor = np.ascontiguousarray(np.broadcast_to(inverse * gain, along.shape))
    n_places = d_y.shape[3]
    work = _normalise_back(d_y.dtype)(
        n_places, n_places, d_y, x_hat, factor, d_x, along, sums,
        *d_y.shape[1:], int(through), int(want_x),
    )  # fmt: skip
    share_out(work, along.size, 2 * d_y.size)
    return d_x if want_x else None, along, sums


@cache
def _statistics(dtype: np.dtype) -> Loop:
    def statistics_loop(by_place, x, mean, var, repetitions, n_channels, n_places, lo, hi):
        c, places = U(n_channels), U(n_places)
        for pair in range(U(lo), U(hi)):
            first = (pair // c * U(repetitions) * c + pair % c) * places
            n = repetitions * n_places
            for i in range(places):
                by_place[i] = 0
            for r in range(U(repetitions)):
                at = first + r * c * places
                for i in range(places):
                    by_place[i] += x[at + i]
            total = 0.0
            for i in range(places):
                total += by_place[i]
            mean[pair] = total / n
            for i in range(places):
                by_place[i] = 0
            for r in range(U(repetitions)):
                at = first + r * c * places
                for i in range(places):
                    by_place[i] += (x[at + i] - mean[pair]) * (x[at + i] - mean[pair])
            total = 0.0
            for i in range(places):
                total += by_place[i]
            var[pair] = total / n

    return compile_loop(statistics_loop, (scratch(dtype), reads(dtype), writes(dtype), writes(dtype), *(WHOLE,) * 3))


@cache
def _normalise(dtype: np.dtype) -> Loop:
    def normalise_loop(x, mean, inverse, gain, beta, x_hat, y, repetitions, n_channels, n_places, lo, hi):
        c, places = U(n_channels), U(n_places)
        for pair in range(U(lo), U(hi)):
            m, v, g, b = mean[pair], inverse[pair], gain[pair], beta[pair]
            for r in range(U(repetitions)):
                at = ((pair // c * U(repetitions) + r) * c + pair % c) * places
                for i in range(places):
                    x_hat[at + i] = standardise(x[at + i], m, v)
                for i in range(places):
                    y[at + i] = scale_and_shift(x_hat[at + i], g, b)

    return compile_loop(normalise_loop, (*(reads(dtype),) * 5, writes(dtype), writes(dtype), *(WHOLE,) * 3))


@cache
def _normalise_back(dtype: np.dtype) -> Loop:
    number = dtype.type

    def back_loop(by_place, by_place_along, d_y, x_hat, factor, d_x, along, sums,
                  repetitions, n_channels, n_places, through, want_x, lo, hi):  # fmt: skip
        c, places = U(n_channels), U(n_places)
        for pair in range(U(lo), U(hi)):
            for i in range(places):
                by_place[i] = by_place_along[i] = 0
            for r in range(U(repetitions)):
                at = ((pair // c * U(repetitions) + r) * c + pair % c) * places
                for i in range(places):
                    by_place[i] += d_y[at + i]
                for i in range(places):
                    by_place_along[i] += d_y[at + i] * x_hat[at + i]
            total, total_along = 0.0, 0.0
            for i in range(places):
                total += by_place[i]
                total_along += by_place_along[i]
            sums[pair], along[pair] = total, total_along
            n, f = repetitions * n_places, factor[pair]
            mean, mean_along = number(0), number(0)
            if through:
                mean += total / n
                mean_along += total_along / n
            if want_x:
                for r in range(U(repetitions)):
                    at = ((pair // c * U(repetitions) + r) * c + pair % c) * places
                    for i in range(places):
                        by_place[i] = standardise_adjoint(d_y[at + i], x_hat[at + i], f, mean, mean_along)
                    for i in range(places):
                        d_x[at + i] = by_place[i]

    own, array, out = scratch(dtype), reads(dtype), writes(dtype)
    return compile_loop(back_loop, (own, own, *(array,) * 3, *(out,) * 3, *(WHOLE,) * 5))


# -- maximum pooling: images ``[n, H, W]``, windows k x k side by side


def max_pool(x: Array, k: int, place_dtype: type) -> tuple[Array, Array]:
    """The largest value of each window and its place in it, of equal ones the first."""
    n, height, width = x.shape
    y = pool.empty((n, height // k, width // k), x.dtype)
    place = pool.empty(y.shape, place_dtype)
    given = x.view(np.uint8) if x.dtype == bool else x
    loop = _max_pool(given.dtype, place.dtype)
    work = loop(given, y.view(given.dtype), place, height, width, k)
    share_out(work, n, 2 * x.size)
    return y, place


def max_pool_back(d_y: Array, place: Array, shape: tuple[int, ...], k: int) -> Array:
    """To the place of each maximum its gradient, zero to all others."""
    d_x = pool.empty(shape, d_y.dtype)
    n, height, width = shape
    loop = _max_pool_back(d_y.dtype, place.dtype)
    work = loop(d_y, place, d_x, height, width, k)
    share_out(work, n, 2 * d_x.size)
    return d_x


@cache
def _max_pool(dtype: np.dtype, place_dtype: np.dtype) -> Loop:
    def max_loop(x, y, place, height, width, n_k, lo, hi):
        k, wide = U(n_k), U(width)
        out_high, out_wide = U(height // n_k), U(width // n_k)
        for n in range(U(lo), U(hi)):
            for row in range(out_high):
                to = (n * out_high + row) * out_wide
                at = (n * U(height) + row * k) * wide
                for i in range(out_wide):
                    best, found = x[at + i * k], U(0)
                    for p in range(k):
                        for q in range(k):
                            value = x[at + p * wide + i * k + q]
                            if value > best or value != value:  # a NaN must not hide
                                best, found = value, p * k + q
                    y[to + i], place[to + i] = best, found

    outputs = (writes(dtype), writes(place_dtype))
    return compile_loop(max_loop, (reads(dtype), *outputs, *(WHOLE,) * 3))


@cache
def _max_pool_back(dtype: np.dtype, place_dtype: np.dtype) -> Loop:
    def back_loop(d_y, place, d_x, height, width, n_k, lo, hi):
        k, wide = U(n_k), U(width)
        out_high, out_wide = U(height // n_k), U(width // n_k)
        for n in range(U(lo), U(hi)):
            for i in range(n * U(height) * wide, (n + U(1)) * U(height) * wide):
                d_x[i] = 0
            for row in range(out_high):
                at, to = (n * out_high + row) * out_wide, (n * U(height) + row * k) * wide
                for i in range(out_wide):
                    found = U(place[at + i])
                    d_x[to + found // k * wide + i * k + found % k] = d_y[at + i]

    inputs = (reads(dtype), reads(place_dtype))
    return compile_loop(back_loop, (*inputs, writes(dtype), *(WHOLE,) * 3))
