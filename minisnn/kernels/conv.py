"""What is compiled of a convolution whose windows of k x k places move one by one.

*Dense*: im2col.  :func:`unfold` makes a column of each window, and a matrix product does the rest;
on the way back a product gives the gradients of the windows, and :func:`fold` adds each of them
where it came from (col2im).

*Sparse*: if few inputs are active (:mod:`minisnn.kernels.spike_matmul`), loops add up rows of all
output channels that belong to active inputs.  Here channels come last, on a *full* grid of
``(H + k - 1) x (W + k - 1)`` places, zero where there is no output: a weight ``[.., p, q]`` joins
an input with the output one fixed distance away, and borders are no special case.
"""

from __future__ import annotations

import numpy as np

from . import memory
from .arrays import Array
from .jit import Loop, U, helper, read_only
from .spike_matmul import ActiveEntries, add_runs
from .threads import share

__all__ = ["d_weight", "fold", "forward", "unfold"]


def unfold(images: Array, windows: Array, padding: int) -> None:
    """Images ``[n, c, H, W]`` into windows ``[n, c, k, k, H', W']``: what each place sees.

    Like all functions here it raises ValueError if sizes do not fit.
    """
    _check(images.shape, windows.shape[3], padding, windows.shape[4:])
    unfold_loop(read_only(np.ascontiguousarray(images)), windows, padding)


def fold(d_windows: Array, d_images: Array, padding: int) -> None:
    """The adjoint of `unfold`: each value is added where it came from."""
    _check(d_images.shape, d_windows.shape[3], padding, d_windows.shape[4:])
    fold_loop(read_only(d_windows), d_images, padding)


def forward(shape: tuple[int, ...], active: ActiveEntries, weight: Array, padding: int) -> Array:
    """Images of that shape ``[n, c, H, W] -> [n, o, H', W']``, weight ``[o, c, k, k]``.

    `active` holds the active entries of the images as rows ``[n * c, H * W]``.
    """
    n, _, *size = shape
    n_out, k = len(weight), weight.shape[3]
    out = [m + 2 * padding - k + 1 for m in size]
    _check(shape, k, padding, out, weight.shape[1:])
    y = memory.empty((n, n_out, *out), weight.dtype)
    table = read_only(weight[..., ::-1].transpose(2, 1, 3, 0).ravel())
    given = *_entries(shape, active), table, y, weight.dtype.type(active.scale), *size, k, padding
    share(add_weights, n, y.size * k, *given)
    return y


def d_weight(shape: tuple[int, ...], active: ActiveEntries, d_y: Array, padding: int) -> Array:
    """Gradient of the weights ``[o, c, k, k]``; `d_y` ``[n, o, H', W']``."""
    n, c, height, width = shape
    k, n_out, (high, wide) = height + 2 * padding - d_y.shape[2] + 1, d_y.shape[1], d_y.shape[2:]
    _check(shape, k, padding, (high, wide), (c, k, k), len(d_y))
    inset = k - 1 - padding
    d_full = memory.empty((n, height + k - 1, width + k - 1, n_out), d_y.dtype)
    d_full[:] = 0
    d_full[:, inset : inset + high, inset : inset + wide] = d_y.transpose(0, 2, 3, 1)
    total = np.zeros((c, k, k, n_out), d_y.dtype)
    scale = d_y.dtype.type(active.scale)
    given = *_entries(shape, active), read_only(d_full), total, scale, width
    share(add_gradients, c * k, d_full.size * k, *given)
    return np.ascontiguousarray(total[:, :, ::-1].transpose(3, 0, 1, 2))


def _check(shape, k, padding, out, weight_shape=None, n_images=None) -> None:
    n, c, height, width = shape
    fits = k >= 1 and 0 <= padding < k and min(out) >= 1
    fits &= tuple(out) == (height + 2 * padding - k + 1, width + 2 * padding - k + 1)
    if not fits or (weight_shape or (c, k, k)) != (c, k, k) or (n_images or n) != n:
        sizes = f"images {list(shape)}, windows {k} x {k}, padding {padding}, outputs {list(out)}"
        raise ValueError(f"convolution: sizes do not fit: {sizes}, weights of {weight_shape}")


def _entries(shape: tuple[int, ...], active: ActiveEntries) -> list[Array]:
    """The arrays of the active entries if they fit ``[n * c, H * W]``; loops check each column."""
    starts, ends, columns = active.starts, active.ends, active.columns
    rows, places = shape[0] * shape[1], shape[2] * shape[3]
    fit = starts.shape == ends.shape == (rows,) and active.n_columns == places
    outside = (starts < 0) | (ends > len(columns)) | (starts > ends) | (ends - starts > places)
    if not fit or outside.any():
        came = f"{len(starts)} rows of {active.n_columns} columns, {len(columns)} entries"
        expected = f"{rows} rows of {places}"
        raise ValueError(f"convolution: got active entries in {came}, expected {expected}")
    return [read_only(starts), read_only(ends), read_only(columns)]


# -- the loops


@Loop
def unfold_loop(images, windows, padding):
    n_images, channels, height, width = images.shape
    k, high, wide = U(windows.shape[3]), U(windows.shape[4]), U(windows.shape[5])
    padded = np.zeros((height + 2 * padding, width + 2 * padding), windows.dtype)
    inner = padded[padding : padding + height, padding : padding + width]
    for n in range(U(n_images)):
        for c in range(U(channels)):
            inner[:] = images[n, c]
            for p in range(k):
                for q in range(k):
                    for i in range(high):
                        for j in range(wide):
                            windows[n, c, p, q, i, j] = padded[p + i, q + j]


@Loop
def fold_loop(d_windows, d_images, padding):
    n_images, channels, height, width = d_images.shape
    k, high, wide = U(d_windows.shape[3]), U(d_windows.shape[4]), U(d_windows.shape[5])
    padded = np.empty((height + 2 * padding, width + 2 * padding), d_images.dtype)
    inner = padded[padding : padding + height, padding : padding + width]
    for n in range(U(n_images)):
        for c in range(U(channels)):
            padded[:] = 0
            for p in range(k):
                for q in range(k):
                    for i in range(high):
                        for j in range(wide):
                            padded[p + i, q + j] += d_windows[n, c, p, q, i, j]
            d_images[n, c] = inner


@Loop
def add_weights(starts, ends, columns, table, y, scale, height, width, k, padding, first, last):
    """Outputs of the images: weights ``[k, c, k, o]`` of active inputs, added on the full grid.

    The weights of a row of the window go to places side by side, from right to left: they are
    added as one run of the table.
    """
    c, o = len(starts) // len(y), U(y.shape[1])
    wide, inset, row = U(width + k - 1), U(k - 1 - padding), U(k) * o
    full = np.empty((height + k - 1) * (width + k - 1) * y.shape[1], y.dtype)
    active, upto = np.empty(height * width * c, np.uint64), np.empty(height * width, np.int64)
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
def add_gradients(starts, ends, columns, d_full, total, scale, width, first, last):
    """For rows of windows ``[c * k]`` of ``total[c, k, k, o]``: add up gradients of outputs.

    They are those of all outputs that active inputs reached.  The outputs that an input reached
    through a row of the window lie side by side, from right to left.
    """
    c, k, _, n_out = total.shape
    o, row, size, wide = U(n_out), U(k * n_out), U(d_full[:1].size), U(d_full.shape[2])
    places = (d_full.shape[1] - k + 1) * width
    at, flat, gradients = np.empty(places, np.uint64), total.reshape(-1), d_full.reshape(-1)
    for image in range(len(d_full)):  # outermost: its gradients stay in the cache
        for tile in range(first, last):
            channel = image * c + tile // k
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
