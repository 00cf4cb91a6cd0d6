"""Conv2d: the same small window of weights slides over every image of every step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from ..kernels import compiled_helpers
from ..kernels.arrays import Array, get_array_module, is_steady, positive_int
from .base import Back, Config, Grads, Layer, Names, as_cache, as_input, as_upstream

__all__ = ["Conv2d", "ConvCache"]

#: Values of unfolded windows to hold at once: a piece that stays in the cache between unfolding and product.
PIECE = 1 << 20
#: On a GPU, which needs large products to be busy: 256 MB of float32.
PIECE_ON_GPU = 1 << 26


class ConvCache(NamedTuple):
    """Kept: the input ``x`` as it came (spikes stay bytes), the ``weight`` it met, and the index of its active entries if
    they were few (:mod:`minisnn.kernels.spike_matmul`).  Windows are unfolded anew.
    """

    made_with: tuple[Any, ...]
    x: Array
    weight: Array
    entries: Any = None


class Conv2d(Layer):
    """Cross-correlation, step by step: ``y[o, i, j] = sum over c, p, q of weight[o, c, p, q] * x[c, s i + p, s j + q]``.

    Parameters
    ----------
    c_in, c_out : channels; input ``[T, B, c_in, H, W]``, output ``[T, B, c_out, H', W']`` with
        ``H' = (H + 2 padding - k) // stride + 1``.
    k : size of the window, a number or ``(height, width)``; weight ``[c_out, c_in, *k]``, as in PyTorch.
    stride, padding : steps of the window, and zeros around the image.
    bias : whether to add a bias ``[c_out]``, zero at first; or its values.
    rng : ``numpy.random.Generator`` for the weights, U(-1/sqrt(fan_in), 1/sqrt(fan_in)), fan_in = c_in * k * k.
    weight : the weights themselves, instead of `rng`.

    Raises
    ------
    TypeError, ValueError : a size is no whole number; neither `rng` nor `weight` is given; `weight` or `bias` has another
        shape.
    """

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
            raise ValueError(f"Conv2d: k must be a whole number or two, (height, width), got {k!r}")
        self.stride, self.padding = positive_int("Conv2d: stride", stride), positive_int("Conv2d: padding", padding, 0)
        sizes = {"c_out": c_out, "c_in": c_in, "k": size[0], "k (width)": size[1]}
        shape = tuple(positive_int(f"Conv2d: {name}", n) for name, n in sizes.items())
        self._set_weights("weight", weight, shape, math.prod(shape[1:]), rng)
        if bias is not False:
            self._set("bias", np.zeros(c_out) if bias is True else bias, shape[:1])

    def made_with(self) -> tuple[Any, ...]:
        return self.params["weight"].shape, self.stride, self.padding

    def forward(self, x: Array, *, state: Any = None, train: bool = False, rng: Any = None) -> tuple[Array, ConvCache]:
        """``[T, B, c_in, H, W] -> [T, B, c_out, H', W']``; `x` of the layer's dtype, or spikes (uint8, bool)."""
        weight = self.params["weight"]
        x = as_input(x, self, (weight.shape[1], "H", "W"), steady=True)
        out = self._out_shape(x)[1:]
        steps, entries = x[:1] if is_steady(x) else x, None
        images = steps.reshape(-1, *x.shape[2:])
        if compiled := self._compiled:
            sparse = compiled_helpers(self.backend, "spike_matmul")
            # Each entry is used for every place of the window.
            entries = sparse and sparse.active_entries(images.reshape(-1, math.prod(x.shape[3:])), weight[:, 0].size)
            y = compiled.forward(self._grid(compiled, steps), images, entries, weight)
        else:
            y = self._forward_unfolded(images, weight, out)
        if "bias" in self.params:
            y += self.params["bias"][:, None, None]
        y = y.reshape(*steps.shape[:2], len(weight), *out)
        y = y if len(steps) == len(x) else np.broadcast_to(y, (len(x), *y.shape[1:]))
        return y, ConvCache(self.made_with(), x, weight, entries)

    def _forward_unfolded(self, images: Array, weight: Array, out: tuple[int, ...]) -> Array:
        """``[n, c_out, H', W']``: windows unfolded, a few images at a time."""
        y = np.empty((len(images), len(weight), *out), self.dtype, like=images)
        for some, windows in self._windows(images, out):
            product = weight.reshape(len(weight), -1) @ windows  # (conv.1)
            y[some] = product.reshape(len(weight), -1, *out).swapaxes(0, 1)
        return y

    def backward(self, d_y: Array, cache: ConvCache, *, d_state=None, wrt: Names = None, input_grad: bool = True) -> Back:
        """Gradients of the input, and of ``weight`` and ``bias`` summed over time, batch and positions."""
        _, x, weight, entries = as_cache(cache, ConvCache, self)
        wanted = self._wanted(wrt)
        out = self._out_shape(x)[1:]
        d_y = as_upstream(d_y, (*x.shape[:2], len(weight), *out), self)
        steps, d_steps = (x[:1], d_y.sum(axis=0, keepdims=True)) if is_steady(x) and wanted else (x, d_y)  # (conv.5)
        grads: Grads = {}
        if "bias" in wanted:
            grads["bias"] = d_steps.sum(axis=(0, 1, 3, 4))
        if "weight" in wanted:
            grads["weight"] = self._d_weight(d_steps, steps, entries).reshape(weight.shape)
        return self._d_x(d_y, x, weight).reshape(x.shape) if input_grad else None, grads

    def _d_weight(self, d_y: Array, x: Array, entries: Any) -> Array:
        images, d_images = x.reshape(-1, *x.shape[2:]), d_y.reshape(-1, *d_y.shape[2:])
        if compiled := self._compiled:
            return compiled.d_weight(self._grid(compiled, x), images, entries, d_images)
        total = np.zeros((d_images.shape[1], math.prod(self.params["weight"].shape[1:])), self.dtype, like=x)
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
            folded = self._fold(d_windows.reshape(*weight.shape[1:], -1, *out), self._padded(x.shape[2:]))
            d_x[some] = folded[:, :, p : p + x.shape[3], p : p + x.shape[4]].swapaxes(0, 1)
        return d_x

    @property
    def _compiled(self) -> ModuleType | None:
        """Compiled convolution: for square windows that move one by one, and padding inside of them."""
        height, width = self.params["weight"].shape[2:]
        fits = self.stride == 1 and height == width and self.padding < height
        return compiled_helpers(self.backend, "conv") if fits else None

    def _grid(self, compiled: ModuleType, x: Array) -> Any:
        return compiled.Grid(math.prod(x.shape[:2]), *x.shape[2:], self.params["weight"].shape[2], self.padding)

    def _windows(self, images: Array, out: tuple[int, ...]) -> Iterator[tuple[slice, Array]]:
        """Pieces of the images with every window unfolded into a column: ``[c_in * k * k, n * H' * W']``, floats."""
        size, p, s = self.params["weight"].shape[2:], self.padding, self.stride
        c, height, width = images.shape[1:]
        for some in _pieces(images, math.prod((c, *size, *out))):
            piece = np.zeros((len(images[some]), *self._padded(images.shape[1:])), self.dtype, like=images)
            piece[:, :, p : p + height, p : p + width] = images[some]
            windows = np.empty((c, *size, len(piece), *out), self.dtype, like=images)
            for i, j in np.ndindex(*size):  # a place in the window, over all positions of the window
                windows[:, i, j] = piece[:, :, i : i + s * out[0] : s, j : j + s * out[1] : s].swapaxes(0, 1)
            yield some, windows.reshape(c * math.prod(size), -1)

    def _fold(self, d_windows: Array, padded: tuple[int, ...]) -> Array:
        """The adjoint of unfolding: each value of ``[c, p, q, n, H', W']`` is added where it came from, ``[c, n, H, W]``."""
        s, (n, height, width) = self.stride, d_windows.shape[3:]
        d_x = np.zeros((padded[0], n, *padded[1:]), self.dtype, like=d_windows)
        for p, q in np.ndindex(*d_windows.shape[1:3]):
            d_x[:, :, p : p + s * height : s, q : q + s * width : s] += d_windows[:, p, q]  # (conv.4)
        return d_x

    def _padded(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (shape[0], shape[1] + 2 * self.padding, shape[2] + 2 * self.padding)

    def out_shape(self, in_shape: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if in_shape is None:
            return None
        c_out, c_in, *size = self.params["weight"].shape
        if len(in_shape) != 3 or in_shape[0] != c_in:
            raise ValueError(f"takes images of {c_in} channels, [{c_in}, H, W], got {list(in_shape)} per sample and step")
        _, *padded = self._padded(in_shape)
        height, width = ((n - m) // self.stride + 1 for n, m in zip(padded, size, strict=True))
        if height < 1 or width < 1:
            raise ValueError(f"has a window of {size}, larger than the image {list(in_shape[1:])}, padding {self.padding}")
        return c_out, height, width

    def config(self) -> dict[str, Any]:
        return {"stride": self.stride, "padding": self.padding}

    @classmethod
    def rebuild(cls, config: Config, params: Mapping[str, Array], dtype: Any, custom: Config) -> Conv2d:
        weight = params["weight"]
        c_out, c_in, *size = weight.shape
        layer = cls(c_in, c_out, tuple(size), weight=weight, bias="bias" in params, dtype=dtype, **config)
        return layer._load(params)  # type: ignore[return-value]

    def _describe(self) -> str:
        c_out, c_in, *size = self.params["weight"].shape
        extra = f", stride {self.stride}, padding {self.padding}" + (", bias" if "bias" in self.params else "")
        return f"{c_in} -> {c_out}, window {size[0]} x {size[1]}{extra}"


def _channels_first(rows: Array) -> Array:
    """``[n, c, places] -> [c, n * places]``."""
    return rows.swapaxes(0, 1).reshape(rows.shape[1], -1)


def _pieces(images: Array, values: int) -> Iterator[slice]:
    """Slices of images of so many unfolded values, of at most `PIECE` each."""
    size = max(1, (PIECE if get_array_module(images) is np else PIECE_ON_GPU) // values)
    return (slice(start, start + size) for start in range(0, len(images), size))
