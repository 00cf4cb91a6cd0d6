"""Maximum pooling, compiled: images ``[n, H, W]``, windows k x k; a tile is one image."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import memory
from .arrays import Array
from .jit import Loop, U, read_only
from .threads import share

__all__ = ["max_pool", "max_pool_back"]


def max_pool(x: Array, k: int, place_dtype: Any) -> tuple[Array, Array]:
    """The (first) largest value of each window and its place: ``[n, H // k, W // k]`` both."""
    n, height, width = x.shape
    y = memory.empty((n, height // k, width // k), x.dtype)
    place = memory.empty(y.shape, place_dtype)
    kind = np.uint8 if x.dtype == bool else x.dtype
    given, values = read_only(np.ascontiguousarray(x).view(kind)), y.view(kind)
    share(max_loop, n, 4 * x.size, given, k, values, place)
    return y, place


def max_pool_back(d_y: Array, place: Array, shape: tuple[int, ...], k: int) -> Array:
    """To the place of each maximum its gradient, zero to all others: ``[n, H, W]``, the `shape`.

    Raises ValueError if `d_y` or `place` has another size than ``[n, H // k, W // k]``, or a place
    lies outside its window.
    """
    n, height, width = shape
    out = n, height // k, width // k
    d_y, place = (read_only(np.ascontiguousarray(a).reshape(out)) for a in (d_y, place))
    if not (0 <= place.min(initial=0) and place.max(initial=0) < k * k):
        raise ValueError(f"max_pool_back: a place lies outside its window of {k} x {k}")
    d_x = memory.empty(shape, d_y.dtype)
    share(back_loop, n, d_x.size, d_y, place, k, d_x)
    return d_x


# -- the loops


@Loop
def max_loop(x, k, y, place, first, last):
    k = U(k)
    for n in range(first, last):
        image = x[n]
        for i in range(U(y.shape[1])):
            for j in range(U(y.shape[2])):
                best, found = image[i * k, j * k], U(0)
                for p in range(k):
                    for q in range(k):
                        value = image[i * k + p, j * k + q]
                        larger = (value > best) | (value != value)  # a NaN must not hide
                        # no branch, which the processor could predict wrongly
                        best, found = value if larger else best, p * k + q if larger else found
                y[n, i, j], place[n, i, j] = best, found


@Loop
def back_loop(d_y, place, k, d_x, first, last):
    k = np.uint32(k)  # whose division is three times faster than that of 64 bits
    for n in range(first, last):
        d_x[n] = 0
        for i in range(U(d_y.shape[1])):
            for j in range(U(d_y.shape[2])):
                at = np.uint32(place[n, i, j])
                d_x[n, i * k + at // k, j * k + at % k] = d_y[n, i, j]
