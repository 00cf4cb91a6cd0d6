"""Convolution with windows k x k and stride 1, compiled.

Inside, channels come last, so that what belongs to one place of an image lies side by side.  A gradient ``d_y`` is laid on
the *full* grid of ``(H + k - 1) x (W + k - 1)`` places, zero where no output was: there a weight ``[.., p, q]`` joins the
input at a place with the output at that place plus one fixed distance, and no border needs a second look.

Two ways for ``y`` and for the weights' gradient: windows unfolded and a dense product, a few images at a time; or, where few
inputs are active (:mod:`minisnn.kernels.events`), the weights of active inputs added up, one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import numpy as np

from . import pool
from .contract import Array
from .events import Events, add_rows
from .jit import WHOLE, Loop, U, reads, real, scratch, writes
from .native import compile_loop
from .products import dense
from .threads import share_out

__all__ = ["Grid", "d_input", "d_weight", "forward", "on_full_grid"]

#: Values of unfolded windows at once: a piece that stays in the cache between unfolding and product.
PIECE = 1 << 21


class Grid(NamedTuple):
    """Sizes: images of `n` x `c` x `height` x `width`, windows k x k, `padding` zeros around."""

    n: int
    c: int
    height: int
    width: int
    k: int
    padding: int

    @property
    def out(self) -> tuple[int, int]:
        """Height and width of the output."""
        grown = 2 * self.padding - self.k + 1
        return self.height + grown, self.width + grown

    @property
    def inset(self) -> int:
        """Where the output begins on the full grid."""
        return self.k - 1 - self.padding


def forward(grid: Grid, x: Array, events: Events | None, weight: Array) -> Array:
    """``[n, c, H, W] -> [n, o, H', W']``; weight ``[o, c, k, k]``."""
    n_out = len(weight)
    y = pool.empty((grid.n, n_out, *grid.out), weight.dtype)
    if events is not None:
        table = np.ascontiguousarray(weight.transpose(2, 3, 1, 0))
        places = grid.height * grid.width
        room = (grid.height + grid.k - 1) * (grid.width + grid.k - 1) * n_out, places * grid.c, places
        work = _add_weights(weight.dtype)(*room, *events[:3], table, y, events.scale, *grid, n_out)
        share_out(work, grid.n, y.size * grid.k)
        return y
    padded = _channels_last(x, grid.padding, weight.dtype)
    table = weight.transpose(2, 3, 1, 0).reshape(-1, n_out)
    for images, windows in _unfolded(padded, grid.k):
        _channels_first(dense(windows, table), y[images])
    return y


def on_full_grid(grid: Grid, d_y: Array) -> Array:
    """``[n, o, H', W']`` as ``[n, H + k - 1, W + k - 1, o]``."""
    return _channels_last(d_y, grid.inset, d_y.dtype)


def d_weight(grid: Grid, x: Array, events: Events | None, d_y: Array, d_full: Array) -> Array:
    """Gradient of the weights ``[o, c, k, k]``."""
    n_out = d_y.shape[1]
    if events is not None:
        sums = np.zeros((grid.c, grid.k, grid.k, n_out), d_y.dtype)
        arrays = (*events[:3], d_full, sums)
        work = _add_gradients(d_y.dtype)(grid.height * grid.width, *arrays, events.scale, *grid, n_out)
        share_out(work, grid.c * grid.k, d_full.size * grid.k)
        return np.ascontiguousarray(sums.transpose(3, 0, 1, 2))
    total = np.zeros((n_out, grid.k * grid.k * grid.c), d_y.dtype)
    padded = _channels_last(x, grid.padding, d_y.dtype)
    for images, windows in _unfolded(padded, grid.k):
        for one, rows in zip(d_y[images], np.split(windows, images.stop - images.start), strict=True):
            total += dense(one.reshape(n_out, -1), rows)
    return np.ascontiguousarray(total.reshape(n_out, grid.k, grid.k, grid.c).transpose(0, 3, 1, 2))


def d_input(grid: Grid, d_full: Array, weight: Array) -> Array:
    """Gradient of the input ``[n, c, H, W]``: a convolution of the full grid with the windows turned round."""
    d_x = pool.empty(grid[:4], weight.dtype)
    table = weight[:, :, ::-1, ::-1].transpose(2, 3, 0, 1).reshape(-1, grid.c)
    for images, windows in _unfolded(d_full, grid.k):
        _channels_first(dense(windows, table), d_x[images])
    return d_x


def _unfolded(padded: Array, k: int) -> Iterator[tuple[slice, Array]]:
    """Pieces of images ``[n, H, W, c]`` with the window of each place as a row: ``[n * H' * W', k * k * c]``."""
    n, height, width, c = padded.shape
    places = (height - k + 1) * (width - k + 1)
    step = max(1, PIECE // (places * k * k * c))
    room = pool.empty((min(step, n) * places, k * k * c), padded.dtype)
    for start in range(0, n, step):
        images = slice(start, min(start + step, n))
        windows = room[: (images.stop - start) * places]
        work = _unfold(padded.dtype)(padded[images], windows, height, width, c, k)
        share_out(work, (images.stop - start) * (height - k + 1), windows.size)
        yield images, windows


def _channels_last(x: Array, border: int, dtype: np.dtype) -> Array:
    """``[n, c, H, W]`` as ``[n, H + 2 border, W + 2 border, c]`` of floats, zeros around."""
    n, c, height, width = x.shape
    out = pool.empty((n, height + 2 * border, width + 2 * border, c), dtype)
    x = x.view(np.uint8) if x.dtype == bool else x
    share_out(_last(x.dtype, dtype)(x, out, c, height, width, border), n, x.size)
    return out


def _channels_first(rows: Array, out: Array) -> None:
    """``[n * places, c]`` into ``[n, c, H, W]``."""
    n, c = out.shape[:2]
    places = len(rows) // n
    share_out(_first(out.dtype)(rows, out, places, c), n, out.size)


# -- the loops


#: An index of active entries.
INDEX = (reads(np.int64), reads(np.int64), reads(np.int32))


@cache
def _last(given: np.dtype, dtype: np.dtype) -> Loop:
    def last(x, out, n_channels, n_rows, n_columns, n_border, lo, hi):
        c, height, width, border = U(n_channels), U(n_rows), U(n_columns), U(n_border)
        wide, places = width + U(2) * border, height * width
        size = (height + U(2) * border) * wide * c
        for n in range(U(lo), U(hi)):
            for i in range(n * size, n * size + size):
                out[i] = 0
            for i in range(places):
                to = n * size + ((i // width + border) * wide + i % width + border) * c
                for j in range(c):
                    out[to + j] = x[(n * c + j) * places + i]

    return compile_loop(last, (reads(given), writes(dtype), *(WHOLE,) * 4))


@cache
def _first(dtype: np.dtype) -> Loop:
    def first(rows, out, n_places, n_channels, lo, hi):
        places, c = U(n_places), U(n_channels)
        for n in range(U(lo), U(hi)):
            for j in range(c):
                for i in range(places):
                    out[(n * c + j) * places + i] = rows[(n * places + i) * c + j]

    return compile_loop(first, (reads(dtype), writes(dtype), WHOLE, WHOLE))


@cache
def _unfold(dtype: np.dtype) -> Loop:
    def unfold(padded, windows, n_rows, n_columns, n_channels, n_k, lo, hi):
        height, width, c, k = U(n_rows), U(n_columns), U(n_channels), U(n_k)
        places_high, places_wide, run = height - k + U(1), width - k + U(1), k * c
        for row in range(U(lo), U(hi)):
            n, y = row // places_high, row % places_high
            for x in range(places_wide):
                to = (row * places_wide + x) * k * run
                for p in range(k):
                    at = ((n * height + y + p) * width + x) * c
                    for i in range(run):
                        windows[to + p * run + i] = padded[at + i]

    return compile_loop(unfold, (reads(dtype), writes(dtype), *(WHOLE,) * 4))


@cache
def _add_weights(dtype: np.dtype) -> Loop:
    def add_weights(
        full, active, upto, starts, ends, columns, table, y, scale, n, c, height, width, k, padding, n_out, lo, hi
    ):
        wide, inset, o = U(width + k - 1), U(k - 1 - padding), U(n_out)
        out_high, out_wide = U(height + 2 * padding - k + 1), U(width + 2 * padding - k + 1)
        places = height * width
        for image in range(lo, hi):
            # The channels active at each place, in active[upto[place - 1]:upto[place]], from the places of each channel.
            for i in range(places):
                upto[i] = 0
            for row in range(image * c, image * c + c):
                for j in range(starts[row], ends[row]):
                    upto[columns[j]] += 1
            total = 0
            for i in range(places):
                total += upto[i]
                upto[i] = total - upto[i]
            for row in range(image * c, image * c + c):
                for j in range(starts[row], ends[row]):
                    active[upto[columns[j]]] = row - image * c
                    upto[columns[j]] += 1
            for i in range(U(height + k - 1) * wide * o):
                full[i] = 0
            for p in range(k):
                for q in range(k):
                    weights, at = U((p * k + q) * c) * o, U(0)
                    for i in range(places):
                        end = U(upto[i])
                        to = (U(i // width + k - 1 - p) * wide + U(i % width + k - 1 - q)) * o
                        add_rows(full, to, table, weights, active, at, end, o)
                        at = end
            for m in range(o):
                for line in range(out_high):
                    to = ((U(image) * o + m) * out_high + line) * out_wide
                    a = ((line + inset) * wide + inset) * o + m
                    for r in range(out_wide):
                        y[to + r] = full[a + r * o] * scale

    own = (scratch(dtype), scratch(np.uint32), scratch(np.int64))
    return compile_loop(add_weights, (*own, *INDEX, reads(dtype), writes(dtype), real(dtype), *(WHOLE,) * 7))


@cache
def _add_gradients(dtype: np.dtype) -> Loop:
    def add_gradients(at, starts, ends, columns, d_full, sums, scale, n, c, height, width, k, padding, n_out, lo, hi):
        wide, o = U(width + k - 1), U(n_out)
        size = U(height + k - 1) * wide * o
        for image in range(n):  # outermost: its gradients stay in the cache
            for channel in range(lo // k, -(-hi // k)):
                first = U(starts[image * c + channel])
                count = U(ends[image * c + channel]) - first
                for j in range(count):
                    place = columns[first + j]
                    at[j] = U(place // width) * wide + U(place % width)
                for p in range(max(lo - channel * k, 0), min(hi - channel * k, k)):
                    for q in range(k):
                        base = U(image) * size + (U(k - 1 - p) * wide + U(k - 1 - q)) * o
                        add_rows(sums, U((channel * k + p) * k + q) * o, d_full, base, at, U(0), count, o)
        if scale != 1:
            for m in range(U(lo * k) * o, U(hi * k) * o):
                sums[m] *= scale

    kinds = (scratch(np.uint64), *INDEX, reads(dtype), writes(dtype), real(dtype), *(WHOLE,) * 7)
    return compile_loop(add_gradients, kinds)
