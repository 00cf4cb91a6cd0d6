"""Conv2d: the same small window of weights slides over every image of every step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np

from ..kernels import compiled_helpers, memory
from ..kernels.arrays import Array, get_array_module, is_steady, positive_int
from ..kernels.threads import blas_is_limited, one_blas_thread, share
from .base import Back, Cache, Layer, as_input, at_every_step, require

__all__ = ["Conv2d"]

#: Values of unfolded windows at once: with their products they fill half of a second cache of 1 MB;
#: on a GPU, which needs large products to be busy, 256 MB.
PIECE, PIECE_ON_GPU = 1 << 17, 1 << 26
#: Chunks of images, each with a sum of the weights' gradient, and values of all sums at most.  The
#: results do not depend on the number of threads, since these do not.
CHUNKS, SUMS = 32, 1 << 23
#: Multiplications of a matrix product that take as long as one element of a time loop.
PER_ELEMENT = 16


class Conv2d(Layer):
    """Cross-correlation: a sum over channels c and places (p, q) of the window, step by step.

    ``y[o, i, j] = sum over c, p, q of weight[o, c, p, q] * x[c, s i + p, s j + q]``, s the stride.

    Parameters
    ----------
    c_in, c_out : channels; input ``[T, B, c_in, H, W]``, output ``[T, B, c_out, H', W']`` with
        ``H' = (H + 2 padding - k) // stride + 1``.
    k : size of the window, a number or ``(height, width)``; weight ``[c_out, c_in, *k]``, as in
        PyTorch.
    stride, padding : steps of the window, and zeros around the image.
    bias : whether to add a bias ``[c_out]``, zero at first; or its values.
    rng : ``numpy.random.Generator`` for the weights, U(-1/sqrt(fan_in), 1/sqrt(fan_in)),
        fan_in = c_in * k * k.
    weight : the weights themselves, instead of `rng`.

    Raises
    ------
    TypeError, ValueError : a size is no whole number; neither `rng` nor `weight` is given; `weight`
        or `bias` has another shape.
    """

    options = ("stride", "padding")

    def __init__(
        self,
        c_in: int,
        c_out: int,
        k: int | tuple[int, int],
        *,
        stride: int = 1,
        padding: int = 0,
        bias: bool | Array = False,
        rng: np.random.Generator | None = None,
        weight: Array | None = None,
        dtype: Any = "float32",
    ) -> None:
        super().__init__(dtype)
        size = (k, k) if isinstance(k, int | np.integer) else tuple(k)
        require(len(size) == 2, "Conv2d: k", "a whole number or two, (height, width)", k)
        self.stride = positive_int("Conv2d: stride", stride)
        self.padding = positive_int("Conv2d: padding", padding, 0)
        sizes = {"c_out": c_out, "c_in": c_in, "k": size[0], "k (width)": size[1]}
        shape = tuple(positive_int(f"Conv2d: {name}", n) for name, n in sizes.items())
        self._set_weights(weight, shape, math.prod(shape[1:]), rng)
        self._set_bias(bias, c_out)

    def forward(self, x, *, state=None, train=False, rng=None) -> tuple[Array, Cache]:
        """``[T, B, c_in, H, W] -> [T, B, c_out, H', W']``; `x` of the layer's dtype, or spikes."""
        weight = self.params["weight"]
        x = as_input(x, self, (weight.shape[1], "H", "W"), steady=True)
        steps, out = x[:1] if is_steady(x) else x, self._out_shape(x)[1:]
        images = steps.reshape(-1, *x.shape[2:])
        entries, compiled = None, self._compiled
        if compiled:  # each active entry meets the weights of every place of a window
            sparse: Any = compiled_helpers(self.backend, "spike_matmul")
            rows = images.reshape(-1, math.prod(images.shape[2:]))
            entries = sparse.active_entries(rows, weight[:, 0].size)
        if entries is None:
            y = self._product(images, weight, out)
        else:
            y = compiled.forward(images.shape, entries, weight, self.padding)
        if "bias" in self.params:
            y += self.params["bias"][:, None, None]
        y = at_every_step(y.reshape(*steps.shape[:2], len(weight), *out), len(x))
        return y, self.keep(y, x=x, weight=weight, entries=entries)

    def backward(self, d_y, cache, *, d_state=None, wrt=None, input_grad=True) -> Back:
        """Gradients of the input, and of weight and bias summed over time, batch and positions."""
        d_y, needed = self.checked(d_y, cache, wrt)
        x, weight = cache.x, cache.weight
        steps, d_steps = x, d_y
        if is_steady(x) and needed:
            steps, d_steps = x[:1], d_y.sum(axis=0, keepdims=True)  # (conv.5)
        grads: dict[str, Array] = {}
        if "bias" in needed:
            grads["bias"] = d_steps.sum(axis=(0, 1, 3, 4))
        if "weight" in needed:
            images, d_images = (a.reshape(-1, *a.shape[2:]) for a in (steps, d_steps))
            grads["weight"] = self._d_weight(images, d_images, cache.entries).reshape(weight.shape)
        return self._d_x(d_y, x.shape, weight) if input_grad else None, grads

    def _product(self, images: Array, weight: Array, out: tuple[int, ...]) -> Array:
        y = memory.empty((len(images), len(weight), *out), self.dtype, like=images)
        rows = y.reshape(*y.shape[:2], math.prod(out))

        def work(chunk: int, some: slice, windows: Array, columns: Array) -> None:
            self._unfold(images[some], windows)
            np.matmul(weight.reshape(len(weight), -1), columns, out=rows[some])  # (conv.1)

        self._in_pieces(images, out, CHUNKS, work)
        return y

    def _d_weight(self, images: Array, d_images: Array, entries: Any) -> Array:
        if entries is not None:
            return self._compiled.d_weight(images.shape, entries, d_images, self.padding)
        fan_in, n_out = math.prod(self.params["weight"].shape[1:]), d_images.shape[1]
        n_chunks = max(1, min(CHUNKS, SUMS // (fan_in * n_out)))
        sums = np.zeros((n_chunks, fan_in, n_out), self.dtype, like=images)
        places = math.prod(d_images.shape[2:])
        d_columns = d_images.reshape(len(images), n_out, places).swapaxes(1, 2)

        def work(chunk: int, some: slice, windows: Array, columns: Array) -> None:
            self._unfold(images[some], windows)
            sums[chunk] += np.matmul(columns, d_columns[some]).sum(axis=0)  # (conv.2)

        self._in_pieces(images, d_images.shape[2:], n_chunks, work)
        return sums.sum(axis=0).T.copy()

    def _d_x(self, d_y: Array, shape: tuple[int, ...], weight: Array) -> Array:
        d_x = memory.empty(shape, self.dtype, like=d_y)
        d_images, out = d_x.reshape(-1, *shape[2:]), d_y.shape[3:]
        d_rows = d_y.reshape(len(d_images), len(weight), math.prod(out))

        def work(chunk: int, some: slice, d_windows: Array, d_columns: Array) -> None:
            np.matmul(weight.reshape(len(weight), -1).T, d_rows[some], out=d_columns)  # (conv.3)
            self._fold(d_windows, d_images[some])

        self._in_pieces(d_images, out, CHUNKS, work)
        return d_x

    # -- windows unfolded into columns, a few images at a time

    def _in_pieces(self, images: Array, out: Any, n_chunks: int, work: Callable) -> None:
        """Call ``work(chunk, some, windows, columns)`` for a few images at a time, in threads."""
        n_out, *window = self.params["weight"].shape
        size, places, n, piece = math.prod(window), math.prod(out), len(images), PIECE
        if on_gpu := get_array_module(images) is not np:
            piece, n_chunks = PIECE_ON_GPU, 1
        step = max(1, min(-(-n // n_chunks), piece // (size * max(places, n_out))))

        def run(first: int, last: int) -> None:
            columns = memory.empty((step, size, places), self.dtype, like=images)
            windows = columns.reshape(step, *window, *out)  # two views of the same memory
            for chunk in range(first, last):
                end = n * (chunk + 1) // n_chunks
                for start in range(n * chunk // n_chunks, end, step):
                    count = min(step, end - start)
                    some = slice(start, start + count)
                    work(chunk, some, windows[:count], columns[:count])

        # Each value is moved, and multiplied n_out times.
        elements = n * size * places * (PER_ELEMENT + n_out) // PER_ELEMENT
        # Threads of BLAS, in each of ours, would wait for each other.
        with nullcontext() if on_gpu or blas_is_limited() else one_blas_thread():
            share(run, n_chunks, elements)

    def _unfold(self, images: Array, windows: Array) -> None:
        """What each place (p, q) of the window sees, into ``windows[n, c, p, q]``."""
        if compiled := self._compiled:
            return compiled.unfold(images, windows, self.padding)
        p = self.padding
        padded = np.pad(images, ((0, 0), (0, 0), (p, p), (p, p)))
        for place, values in self._places(padded, windows.shape[4:]):
            windows[:, :, *place] = values

    def _fold(self, d_windows: Array, d_images: Array) -> None:
        """The adjoint of `_unfold`: each value is added where it came from."""
        if compiled := self._compiled:
            return compiled.fold(d_windows, d_images, self.padding)
        p, (height, width) = self.padding, d_images.shape[2:]
        padded_shape = *d_images.shape[:2], height + 2 * p, width + 2 * p
        d_padded = np.zeros(padded_shape, self.dtype, like=d_images)
        for place, d_values in self._places(d_padded, d_windows.shape[4:]):
            d_values += d_windows[:, :, *place]  # (conv.4)
        d_images[...] = d_padded[:, :, p : p + height, p : p + width]

    def _places(self, padded: Array, out: tuple[int, ...]) -> Iterator[tuple[tuple, Array]]:
        """Each place (p, q) of the window, and a view of its values ``[n, c, H', W']``."""
        s = self.stride
        for p, q in np.ndindex(*self.params["weight"].shape[2:]):
            yield (p, q), padded[:, :, p : p + s * out[0] : s, q : q + s * out[1] : s]

    @property
    def _compiled(self) -> Any:
        """Compiled loops: for square windows that move one by one, and little padding."""
        height, width = self.params["weight"].shape[2:]
        fits = self.stride == 1 and height == width and self.padding < height
        return compiled_helpers(self.backend, "conv") if fits else None

    def out_shape(self, in_shape: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if in_shape is None:
            return None
        c_out, c_in, *size = self.params["weight"].shape
        if len(in_shape) != 3 or in_shape[0] != c_in:
            got = f"got {list(in_shape)} per sample and step"
            raise ValueError(f"takes images of {c_in} channels, [{c_in}, H, W], {got}")
        grown = [n + 2 * self.padding - m for n, m in zip(in_shape[1:], size, strict=True)]
        if min(grown) < 0:
            image = f"the image {list(in_shape[1:])}, padding {self.padding}"
            raise ValueError(f"has a window of {size}, larger than {image}")
        return c_out, *(n // self.stride + 1 for n in grown)

    @classmethod
    def rebuild(cls, config, params, dtype, custom) -> Any:
        weight, bias = params["weight"], "bias" in params
        c_out, c_in, *size = weight.shape
        options = {"weight": weight, "bias": bias, "dtype": dtype} | config
        return cls(c_in, c_out, tuple(size), **options)._load(params)

    def _describe(self) -> str:
        c_out, c_in, height, width = self.params["weight"].shape
        moves = f"stride {self.stride}, padding {self.padding}"
        bias = ", bias" if "bias" in self.params else ""
        return f"{c_in} -> {c_out}, window {height} x {width}, {moves}{bias}"
