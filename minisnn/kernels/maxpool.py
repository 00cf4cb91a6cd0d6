"""Maximum pooling, compiled: images ``[n, H, W]``, windows k x k side by side.  A tile is one image."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import memory
from .arrays import Array
from .jit import Loop, U, helper, read_only
from .threads import share

__all__ = ["max_pool", "max_pool_back"]


def max_pool(x: Array, k: int, place_dtype: Any) -> tuple[Array, Array]:
    """The largest value of each window and its place in it, of equal ones the first: ``[n, H // k, W // k]`` both."""
    n, height, width = x.shape
    y = memory.empty((n, height // k, width // k), x.dtype)
    place = memory.empty(y.shape, place_dtype)
    kind = np.uint8 if x.dtype == bool else x.dtype
    given, values = read_only(np.ascontiguousarray(x).view(kind)), y.view(kind)
    share(lambda first, last: max_loop(given, k, values, place, first, last), n, 4 * x.size)
    return y, place


def max_pool_back(d_y: Array, place: Array, shape: tuple[int, ...], k: int) -> Array:
    """To the place of each maximum its gradient, zero to all others: ``[n, H, W]``, which is `shape`.

    Raises ValueError if `d_y` or `place` has another size than ``[n, H // k, W // k]``, or a place lies outside its window.
    """
    n, height, width = shape
    out = n, height // k, width // k
    d_y, place = (read_only(np.ascontiguousarray(a).reshape(out)) for a in (d_y, place))
    if not (0 <= place.min(initial=0) and place.max(initial=0) < k * k):
        raise ValueError(f"max_pool_back: a place lies outside its window of {k} x {k}")
    d_x = memory.empty(shape, d_y.dtype)
    share(lambda first, last: back_loop(d_y, place, k, d_x, first, last), n, d_x.size)
    return d_x


# -- the loops


@Loop
def max_loop(x, k, y, place, first, last):
    offsets, k, width = offsets_of(k, x.shape[2]), U(k), U(x.shape[2])
    for n in range(first, last):
        image = x[n].reshape(-1)
        for row in range(U(y.shape[1])):
            for column in range(U(y.shape[2])):
                at = row * k * width + column * k
                best, found = image[at], U(0)
                for j in range(U(1), U(len(offsets))):
                    value = image[at + offsets[j]]
                    larger = (value > best) | (value != value)  # a NaN must not hide
                    best, found = value if larger else best, U(j) if larger else found  # no branch to mispredict
                y[n, row, column], place[n, row, column] = best, found


@Loop
def back_loop(d_y, place, k, d_x, first, last):
    offsets, k, width = offsets_of(k, d_x.shape[2]), U(k), U(d_x.shape[2])
    for n in range(first, last):
        image = d_x[n].reshape(-1)
        image[:] = 0
        for row in range(U(d_y.shape[1])):
            for column in range(U(d_y.shape[2])):
                at = row * k * width + column * k
                image[at + offsets[U(place[n, row, column])]] = d_y[n, row, column]


@helper
def offsets_of(k, width):
    """From the first entry of a window to each of its ``k * k``, row by row, in a flat image."""
    found = np.empty(k * k, np.uint64)
    for j in range(k * k):
        found[j] = j // k * width + j % k
    return found
