"""Conv2d: the same small window of weights slides over every image of every step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from ..kernels import compiled_helpers
from ..kernels.arrays import Array, get_array_module, is_steady, positive_int
from .base import Back, Layer, as_cache, as_input, as_upstream, at_every_step

__all__ = ["Conv2d", "ConvCache"]

#: Values of unfolded windows to hold at once: they stay in the processor's cache.
PIECE = 1 << 20
#: On a GPU, which needs large products to be busy: 256 MB of float32.
PIECE_ON_GPU = 1 << 26


class ConvCache(NamedTuple):
    """Kept: the input ``x`` (spikes stay bytes), the ``weight`` it met, and its active ``entries``.

    These are an index of few spikes (:mod:`minisnn.kernels.spike_matmul`), ``None`` if there are
    many.  Windows are unfolded anew.
    """

    made_with: tuple[Any, ...]
    x: Array
    weight: Array
    entries: Any = None


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
        if len(size) != 2:
            expected = "k must be a whole number or two, (height, width)"
            raise ValueError(f"Conv2d: {expected}, got {k!r}")
        self.stride = positive_int("Conv2d: stride", stride)
        self.padding = positive_int("Conv2d: padding", padding, 0)
        sizes = {"c_out": c_out, "c_in": c_in, "k": size[0], "k (width)": size[1]}
        shape = tuple(positive_int(f"Conv2d: {name}", n) for name, n in sizes.items())
        self._set_weights(weight, shape, math.prod(shape[1:]), rng)
        self._set_bias(bias, c_out)

    def forward(self, x, *, state=None, train=False, rng=None) -> tuple[Array, ConvCache]:
        """``[T, B, c_in, H, W] -> [T, B, c_out, H', W']``; `x` of the layer's dtype, or spikes."""
        weight, entries = self.params["weight"], None
        x = as_input(x, self, (weight.shape[1], "H", "W"), steady=True)
        out = self._out_shape(x)[1:]
        steps = x[:1] if is_steady(x) else x
        images = steps.reshape(-1, *x.shape[2:])
        if compiled := self._compiled:
            sparse: Any = compiled_helpers(self.backend, "spike_matmul")
            rows, uses = images.reshape(-1, math.prod(x.shape[3:])), weight[:, 0].size
            entries = sparse.active_entries(rows, uses)  # each serves every place of the window
            y = compiled.forward(self._grid(compiled, steps), images, entries, weight)
        else:
            y = np.empty((len(images), len(weight), *out), self.dtype, like=images)
            for some, windows in self._windows(images, out):
                product = weight.reshape(len(weight), -1) @ windows  # (conv.1)
                y[some] = product.reshape(len(weight), -1, *out).swapaxes(0, 1)
        if "bias" in self.params:
            y += self.params["bias"][:, None, None]
        y = at_every_step(y.reshape(*steps.shape[:2], len(weight), *out), len(x))
        return y, ConvCache(self.made_with(), x, weight, entries)

    def backward(self, d_y, cache, *, d_state=None, wrt=None, input_grad=True) -> Back:
        """Gradients of the input, and of weight and bias summed over time, batch and positions."""
        _, x, weight, entries = as_cache(cache, ConvCache, self)
        needed = self.needs(wrt)
        d_y = as_upstream(d_y, (*x.shape[:2], *self._out_shape(x)), self)
        steps, d_steps = x, d_y
        if is_steady(x) and needed:
            steps, d_steps = x[:1], d_y.sum(axis=0, keepdims=True)  # (conv.5)
        grads: dict[str, Array] = {}
        if "bias" in needed:
            grads["bias"] = d_steps.sum(axis=(0, 1, 3, 4))
        if "weight" in needed:
            grads["weight"] = self._d_weight(d_steps, steps, entries).reshape(weight.shape)
        return self._d_x(d_y, x, weight).reshape(x.shape) if input_grad else None, grads

    def _d_weight(self, d_y: Array, x: Array, entries: Any) -> Array:
        images, d_images = x.reshape(-1, *x.shape[2:]), d_y.reshape(-1, *d_y.shape[2:])
        if compiled := self._compiled:
            return compiled.d_weight(self._grid(compiled, x), images, entries, d_images)
        fan_in = math.prod(self.params["weight"].shape[1:])
        total = np.zeros((d_images.shape[1], fan_in), self.dtype, like=x)
        for some, windows in self._windows(images, d_y.shape[3:]):
            total += _channels_first(d_images[some]) @ windows.T  # (conv.2)
        return total

    def _d_x(self, d_y: Array, x: Array, weight: Array) -> Array:
        d_images = d_y.reshape(-1, *d_y.shape[2:])
        if compiled := self._compiled:
            return compiled.d_input(self._grid(compiled, x), d_images, weight)
        flat, out, p = weight.reshape(len(weight), -1), d_y.shape[3:], self.padding
        d_x = np.empty((len(d_images), *x.shape[2:]), self.dtype, like=d_y)
        for some in _pieces(d_images, flat.shape[1] * math.prod(out)):
            d_windows = flat.T @ _channels_first(d_images[some])  # (conv.3)
            d_windows = d_windows.reshape(*weight.shape[1:], -1, *out)  # [c, p, q, n, H', W']
            d_padded = np.zeros((len(d_x[some]), *self._padded(x)), self.dtype, like=d_y)
            for places, i, j in self._places(d_padded, out):
                places += d_windows[:, i, j].swapaxes(0, 1)  # (conv.4)
            d_x[some] = d_padded[..., p : p + x.shape[3], p : p + x.shape[4]]
        return d_x

    # -- compiled

    @property
    def _compiled(self) -> ModuleType | None:
        """Compiled convolution: for square windows that move one by one, and little padding."""
        height, width = self.params["weight"].shape[2:]
        fits = self.stride == 1 and height == width and self.padding < height
        return compiled_helpers(self.backend, "conv") if fits else None

    def _grid(self, compiled: ModuleType, x: Array) -> Any:
        size = self.params["weight"].shape[2]
        return compiled.Grid(math.prod(x.shape[:2]), *x.shape[2:], size, self.padding)

    # -- in NumPy: windows unfolded into columns, a few images at a time

    def _windows(self, images: Array, out: tuple[int, ...]) -> Iterator[tuple[slice, Array]]:
        """Pieces of the images, every window a column: floats ``[c_in * k * k, n * H' * W']``."""
        size, p = self.params["weight"].shape[2:], self.padding
        c, height, width = images.shape[1:]
        for some in _pieces(images, math.prod((c, *size, *out))):
            n = len(images[some])
            piece = np.zeros((n, *self._padded(images)), self.dtype, like=images)
            piece[:, :, p : p + height, p : p + width] = images[some]
            windows = np.empty((c, *size, n, *out), self.dtype, like=images)
            for places, i, j in self._places(piece, out):
                windows[:, i, j] = places.swapaxes(0, 1)
            yield some, windows.reshape(c * math.prod(size), -1)

    def _places(self, padded: Array, out: tuple[int, ...]) -> Iterator[tuple[Array, int, int]]:
        """Each place (i, j) of the window: a view of its values ``[n, c, H', W']``, i and j."""
        s = self.stride
        for i, j in np.ndindex(*self.params["weight"].shape[2:]):
            yield padded[:, :, i : i + s * out[0] : s, j : j + s * out[1] : s], i, j

    def _padded(self, images: Array) -> tuple[int, ...]:
        c, height, width = images.shape[-3:]
        return c, height + 2 * self.padding, width + 2 * self.padding

    # -- bookkeeping

    def out_shape(self, in_shape: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if in_shape is None:
            return None
        c_out, c_in, *size = self.params["weight"].shape
        if len(in_shape) != 3 or in_shape[0] != c_in:
            wanted = f"images of {c_in} channels, [{c_in}, H, W]"
            raise ValueError(f"takes {wanted}, got {list(in_shape)} per sample and step")
        grown = [n + 2 * self.padding - m for n, m in zip(in_shape[1:], size, strict=True)]
        if min(grown) < 0:
            image = f"the image {list(in_shape[1:])}, padding {self.padding}"
            raise ValueError(f"has a window of {size}, larger than {image}")
        return c_out, *(n // self.stride + 1 for n in grown)

    @classmethod
    def rebuild(cls, config, params, dtype, custom) -> Any:
        weight, bias = params["weight"], "bias" in params
        c_out, c_in, *size = weight.shape
        layer = cls(c_in, c_out, tuple(size), weight=weight, bias=bias, dtype=dtype, **config)
        return layer._load(params)

    def _describe(self) -> str:
        c_out, c_in, height, width = self.params["weight"].shape
        bias = ", bias" if "bias" in self.params else ""
        sizes = f"window {height} x {width}, stride {self.stride}, padding {self.padding}"
        return f"{c_in} -> {c_out}, {sizes}{bias}"


def _channels_first(rows: Array) -> Array:
    """``[n, c, places] -> [c, n * places]``."""
    return rows.swapaxes(0, 1).reshape(rows.shape[1], -1)


def _pieces(images: Array, values: int) -> Iterator[slice]:
    """Slices of images of so many unfolded values, of at most `PIECE` each."""
    size = max(1, (PIECE if get_array_module(images) is np else PIECE_ON_GPU) // values)
    return (slice(start, start + size) for start in range(0, len(images), size))
