"""Convolution with windows of k x k places that move one by one, compiled.

*Dense*: im2col.  A loop unfolds a few images, so that each window is a column; one matrix product
per image does the rest: ``y = weight @ windows``.  Each thread unfolds images of its own, so few
that their windows stay in its cache.  Channels stay first, so ``y`` comes out in its final layout.
The gradient of the input goes the same way back: a product gives the gradients of the windows, and
a loop adds each of them where it came from (col2im).

*Sparse*: if few inputs are active (:mod:`minisnn.kernels.spike_matmul`), loops add up rows of all
output channels that belong to active inputs.  Here channels come last, on a *full* grid of
``(H + k - 1) x (W + k - 1)`` places, zero where there is no output: a weight ``[.., p, q]`` joins
an input with the output one fixed distance away, and borders are no special case.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np

from . import memory
from .arrays import Array
from .jit import Loop, U, helper, read_only
from .spike_matmul import ActiveEntries, add_runs
from .threads import blas_is_limited, one_blas_thread, share

__all__ = ["Grid", "d_input", "d_weight", "forward", "on_full_grid"]

#: Values of unfolded windows at once: half a megabyte of float32, half of a second cache.
PIECE = 1 << 17
#: Chunks of images, each with a sum of the weights' gradient, and values of all sums at most.  They
#: do not depend on the number of threads, so the bits of the results do not either.
CHUNKS, SUMS = 32, 1 << 23
#: Multiplications of a matrix product that take as long as one element of a forward loop.
PER_ELEMENT = 16


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


def forward(grid: Grid, x: Array, active: ActiveEntries | None, weight: Array) -> Array:
    """``[n, c, H, W] -> [n, o, H', W']``; weight ``[o, c, k, k]``, `x` floats or spikes.

    `active` holds the active entries of `x` as rows ``[n * c, H * W]``, or is ``None``: the dense
    way.  Like all functions here it raises ValueError if a size does not fit `grid`.
    """
    x = _checked(grid, "x", x, grid[:4])
    weight = _checked(grid, "weight", weight, (None, grid.c, grid.k, grid.k))
    y = memory.empty((grid.n, len(weight), *grid.out), weight.dtype)
    if active is not None:
        table = read_only(weight[..., ::-1].transpose(2, 1, 3, 0).ravel())
        given = *_entries(grid, active), table, y, weight.dtype.type(active.scale), grid
        share(add_weights, grid.n, y.size * grid.k, *given)
        return y
    matrix = weight.reshape(len(weight), -1)
    rows = y.reshape(grid.n, len(weight), math.prod(grid.out))

    def work(chunk: int, images: slice, windows: Array, columns: Array) -> None:
        unfold(x[images], windows, grid)
        np.matmul(matrix, columns, out=rows[images])  # (conv.1)

    _share_pieces(grid, len(weight), y.dtype, CHUNKS, work)
    return y


def d_weight(grid: Grid, x: Array, active: ActiveEntries | None, d_y: Array) -> Array:
    """Gradient of the weights ``[o, c, k, k]``; `x` and `active` as they went forward."""
    x = _checked(grid, "x", x, grid[:4])
    d_y = _checked(grid, "d_y", d_y, (grid.n, None, *grid.out))
    c, k, n_out = grid.c, grid.k, d_y.shape[1]
    if active is not None:
        d_full, total = read_only(on_full_grid(grid, d_y)), np.zeros((c, k, k, n_out), d_y.dtype)
        given = *_entries(grid, active), d_full, total, d_y.dtype.type(active.scale), grid
        share(add_gradients, c * k, d_full.size * k, *given)
        return np.ascontiguousarray(total[:, :, ::-1].transpose(3, 0, 1, 2))
    d_columns = d_y.reshape(grid.n, n_out, math.prod(grid.out)).swapaxes(1, 2)
    n_chunks = max(1, min(CHUNKS, SUMS // (c * k * k * n_out)))
    sums = np.zeros((n_chunks, c * k * k, n_out), d_y.dtype)

    def work(chunk: int, images: slice, windows: Array, columns: Array) -> None:
        unfold(x[images], windows, grid)
        sums[chunk] += np.matmul(columns, d_columns[images]).sum(0)  # (conv.2)

    _share_pieces(grid, n_out, d_y.dtype, n_chunks, work)
    return np.ascontiguousarray(sums.sum(0).T).reshape(n_out, c, k, k)


def d_input(grid: Grid, d_y: Array, weight: Array) -> Array:
    """Gradient of the input ``[n, c, H, W]``; `d_y` ``[n, o, H', W']``, weight ``[o, c, k, k]``."""
    weight = _checked(grid, "weight", weight, (None, grid.c, grid.k, grid.k))
    d_y = _checked(grid, "d_y", d_y, (grid.n, len(weight), *grid.out))
    d_x = memory.empty(grid[:4], weight.dtype)
    matrix = weight.reshape(len(weight), -1).T
    d_rows = d_y.reshape(grid.n, len(weight), math.prod(grid.out))

    def work(chunk: int, images: slice, d_windows: Array, d_columns: Array) -> None:
        np.matmul(matrix, d_rows[images], out=d_columns)  # (conv.3)
        fold(d_windows, d_x[images], grid)  # (conv.4)

    _share_pieces(grid, len(weight), d_x.dtype, CHUNKS, work)
    return d_x


def on_full_grid(grid: Grid, d_y: Array) -> Array:
    """``[n, o, H', W']`` as ``[n, H + k - 1, W + k - 1, o]``, zeros around."""
    d_y = _checked(grid, "d_y", d_y, (grid.n, None, *grid.out))
    inset, (high, wide) = grid.k - 1 - grid.padding, grid.out
    shape = grid.n, grid.height + grid.k - 1, grid.width + grid.k - 1, d_y.shape[1]
    full = memory.empty(shape, d_y.dtype)
    full[:] = 0
    full[:, inset : inset + high, inset : inset + wide] = d_y.transpose(0, 2, 3, 1)
    return full


def _checked(grid: Grid, name: str, array: Array, shape: tuple[int | None, ...]) -> Array:
    """The array, contiguous and read-only, if its shape fits (``None``: any size)."""
    if min(grid[1:5]) < 1 or not 0 <= grid.padding < grid.k or min(grid.out) < 1 or grid.n < 0:
        expected = "sizes of at least 1, 0 <= padding < k, windows within images"
        raise ValueError(f"convolution: got {grid}, expected {expected}")
    sizes = [1 if n is None else n for n in shape]
    if (
        array.ndim != 4
        or 0 in sizes[1:]
        or any(m == 0 if n is None else m != n for n, m in zip(shape, array.shape, strict=True))
    ):
        expected = ", ".join("1 or more" if n is None else str(n) for n in shape)
        came = f"{name} of shape {list(array.shape)}"
        raise ValueError(f"convolution: got {came}, expected [{expected}] for {grid}")
    return read_only(np.ascontiguousarray(array))


def _entries(grid: Grid, active: ActiveEntries) -> list[Array]:
    """The arrays of the active entries if they fit ``[n * c, H * W]``; loops check each column."""
    starts, ends, columns = active.starts, active.ends, active.columns
    rows, places = grid.n * grid.c, grid.height * grid.width
    fit = starts.shape == ends.shape == (rows,) and active.n_columns == places
    outside = (starts < 0) | (ends > len(columns)) | (starts > ends) | (ends - starts > places)
    if not fit or outside.any():
        came = f"{len(starts)} rows of {active.n_columns} columns, {len(columns)} entries"
        expected = f"{rows} rows of {places} for {grid}"
        raise ValueError(f"convolution: got active entries in {came}, expected {expected}")
    return [read_only(starts), read_only(ends), read_only(columns)]


def _share_pieces(grid: Grid, n_out: int, dtype: np.dtype, n_chunks: int, work: Callable) -> None:
    """Call ``work(chunk, images, windows, columns)`` for a few images at a time.

    Threads share the chunks of images.  Memory for the windows comes in two views: ``[images, c, k,
    k, H', W']`` for the loops, ``[images, c * k * k, H' * W']`` for products.  BLAS has one thread
    in each of ours: threads of its own would wait for each other.
    """
    size, places = grid.c * grid.k * grid.k, math.prod(grid.out)
    # Windows and products stay in the cache.  Each value is moved, and multiplied n_out times.
    step = max(1, min(-(-grid.n // n_chunks), PIECE // (size * max(places, n_out))))
    elements = grid.n * size * places * (PER_ELEMENT + n_out) // PER_ELEMENT

    def run(first: int, last: int) -> None:
        columns = memory.empty((step, size, places), dtype)
        windows = columns.reshape(step, grid.c, grid.k, grid.k, *grid.out)
        for chunk in range(first, last):
            end = grid.n * (chunk + 1) // n_chunks
            for start in range(grid.n * chunk // n_chunks, end, step):
                count = min(step, end - start)
                work(chunk, slice(start, start + count), windows[:count], columns[:count])

    with nullcontext() if blas_is_limited() else one_blas_thread():
        share(run, n_chunks, elements)


@Loop
def unfold(x, windows, grid):
    """Images ``[n, c, H, W]`` into windows ``[n, c, k, k, H', W']``: what each place sees."""
    border, k, high, wide = grid.padding, U(grid.k), U(windows.shape[4]), U(windows.shape[5])
    padded = np.zeros((grid.height + 2 * border, grid.width + 2 * border), windows.dtype)
    inner = padded[border : border + grid.height, border : border + grid.width]
    for n in range(U(len(x))):
        for c in range(U(grid.c)):
            inner[:] = x[n, c]
            for p in range(k):
                for q in range(k):
                    for i in range(high):
                        for j in range(wide):
                            windows[n, c, p, q, i, j] = padded[p + i, q + j]


@Loop
def fold(d_windows, d_x, grid):
    """The adjoint of `unfold`: each value is added where it came from."""
    border, k, high, wide = grid.padding, U(grid.k), U(d_windows.shape[4]), U(d_windows.shape[5])
    padded = np.empty((grid.height + 2 * border, grid.width + 2 * border), d_x.dtype)
    inner = padded[border : border + grid.height, border : border + grid.width]
    for n in range(U(len(d_x))):
        for c in range(U(grid.c)):
            padded[:] = 0
            for p in range(k):
                for q in range(k):
                    for i in range(high):
                        for j in range(wide):
                            padded[p + i, q + j] += d_windows[n, c, p, q, i, j]
            d_x[n, c] = inner


@Loop
def add_weights(starts, ends, columns, table, y, scale, grid, first, last):
    """Outputs of the images: weights ``[k, c, k, o]`` of active inputs, added on the full grid.

    The weights of a row of the window go to places side by side, from right to left: they are
    added as one run of the table.
    """
    k, c, width, o = grid.k, grid.c, grid.width, U(y.shape[1])
    wide, inset, row = U(width + k - 1), U(k - 1 - grid.padding), U(k) * o
    full = np.empty((grid.height + k - 1) * (width + k - 1) * y.shape[1], y.dtype)
    active = np.empty(grid.height * width * c, np.uint64)
    upto = np.empty(grid.height * width, np.int64)
    for image in range(first, last):
        by_place(starts, ends, columns, image * c, c, active, upto)
        full[:] = 0
        for p in range(k):
            at = U(0)
            for i in range(len(upto)):
                to = (U(i // width + k - 1 - p) * wide + U(i % width)) * o
                add_runs(full, to, table, U(p * c) * row, active, row, at, U(upto[i]), row)
                at = U(upto[i])
        for m in range(o):
            for i in range(U(y.shape[2])):
                at = ((i + inset) * wide + inset) * o + m
                for j in range(U(y.shape[3])):
                    y[U(image), m, i, j] = full[at + j * o] * scale


@helper
def by_place(starts, ends, columns, first, c, active, upto):
    """Sort by place: the active channels of place i come to ``active[upto[i - 1]:upto[i]]``."""
    upto[:] = 0
    for channel in range(c):
        for j in range(U(starts[first + channel]), U(ends[first + channel])):
            if not 0 <= columns[j] < len(upto):
                raise ValueError("convolution: got an active entry outside of its image")
            upto[columns[j]] += 1
    total = 0
    for i in range(len(upto)):
        total += upto[i]
        upto[i] = total - upto[i]
    for channel in range(c):
        for j in range(U(starts[first + channel]), U(ends[first + channel])):
            active[upto[columns[j]]] = channel
            upto[columns[j]] += 1


@Loop
def add_gradients(starts, ends, columns, d_full, total, scale, grid, first, last):
    """For rows of windows ``[c * k]`` of ``total[c, k, k, o]``: add up gradients of outputs.

    They are those of all outputs that active inputs reached.  The outputs that an input reached
    through a row of the window lie side by side, from right to left.
    """
    k, width, o = grid.k, grid.width, U(total.shape[3])
    places, wide, row, size = grid.height * width, U(width + k - 1), U(k) * o, U(d_full[:1].size)
    at, flat, gradients = np.empty(places, np.uint64), total.reshape(-1), d_full.reshape(-1)
    for image in range(grid.n):  # outermost: its gradients stay in the cache
        for tile in range(first, last):
            channel = image * grid.c + tile // k
            begin, end = U(starts[channel]), U(ends[channel])
            for j in range(end - begin):
                place = columns[begin + j]
                if not 0 <= place < places:
                    raise ValueError("convolution: got an active entry outside of its image")
                at[j] = U(place // width) * wide + U(place % width)
            base = U(image) * size + U(k - 1 - tile % k) * wide * o
            add_runs(flat, U(tile) * row, gradients, base, at, o, U(0), end - begin, row)
    for m in range(U(first) * row, U(last) * row):
        flat[m] *= scale
