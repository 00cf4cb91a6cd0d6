"""Conv2d: the same small window of weights slides over every image of every step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..kernels.contract import Array, whole
from ..kernels.place import xp_of
from .base import Config, Grads, Layer, Names, as_cache, as_input, as_upstream

if TYPE_CHECKING:
    from ..kernels import images

__all__ = ["Conv2d", "ConvCache"]

#: Values of unfolded windows to hold at once: a piece that stays in the cache between unfolding and product.
PIECE = 1 << 20
#: On a GPU, which needs large products to be busy: 256 MB of float32.
PIECE_ON_GPU = 1 << 26


class ConvCache(NamedTuple):
    """Kept: the input ``x`` as it came (spikes stay bytes), the ``weight`` it met, and the index of its active entries where
    they were few (:mod:`minisnn.kernels.events`).  Windows are unfolded anew.
    """

    x: Array
    weight: Array
    events: Any = None


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

    gives_away = True

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
        self.stride, self.padding = whole("Conv2d: stride", stride), whole("Conv2d: padding", padding, 0)
        shape = whole("Conv2d: c_out", c_out), whole("Conv2d: c_in", c_in), *(whole("Conv2d: k", n) for n in size)
        self._set_weights("weight", weight, shape, math.prod(shape[1:]), rng)
        if bias is not False:
            self._set("bias", np.zeros(c_out) if bias is True else bias, shape[:1])

    def forward(self, x: Array, *, state: Any = None, train: bool = False, rng: Any = None) -> tuple[Array, ConvCache]:
        """``[T, B, c_in, H, W] -> [T, B, c_out, H', W']``; `x` of the layer's dtype, or spikes (uint8, bool)."""
        weight = self.params["weight"]
        x = as_input(x, self, (weight.shape[1], "H", "W"))
        _, *out = self._out_shape(x)
        events = None
        if self._compiled:
            y, events = self._forward_compiled(x, weight)
        else:
            y = self._forward_unfolded(x, weight, out)
        if "bias" in self.params:
            y += self.params["bias"][:, None]
        return y.reshape(*x.shape[:2], len(weight), *out), ConvCache(x, weight, events)

    def _forward_unfolded(self, x: Array, weight: Array, out: list[int]) -> Array:
        """``[T * B, c_out, H' * W']``: windows unfolded, a few images at a time."""
        flat = weight.reshape(len(weight), -1)
        y = np.empty((math.prod(x.shape[:2]), len(weight), math.prod(out)), self.dtype, like=x)
        for rows, windows in self._windows(x, out):
            product = flat @ windows  # (conv.1)
            y[rows] = product.reshape(len(weight), -1, y.shape[2]).swapaxes(0, 1)
        return y

    def backward(
        self, d_y: Array, cache: ConvCache, *, d_state: Any = None, wrt: Names = None, input_grad: bool = True
    ) -> tuple[Array | None, Grads]:
        """Gradients of the input, and of ``weight`` and ``bias`` summed over time, batch and positions."""
        x, weight, events = as_cache(cache, ConvCache, self)
        wanted = self._wanted(wrt)
        _, *out = self._out_shape(x)
        d_rows = as_upstream(d_y, (*x.shape[:2], len(weight), *out), self).reshape(-1, len(weight), math.prod(out))
        grads: Grads = {}
        if "bias" in wanted:
            grads["bias"] = d_rows.sum(axis=(0, 2))
        if self._compiled:
            d_x, d_weight = self._backward_compiled(d_rows, x, weight, events, "weight" in wanted, input_grad)
        else:
            d_weight = self._d_weight(d_rows, x, out) if "weight" in wanted else None
            d_x = self._d_x(d_rows, x, weight, out) if input_grad else None
        if d_weight is not None:
            grads["weight"] = d_weight.reshape(weight.shape)
        return None if d_x is None else d_x.reshape(x.shape), grads

    def _d_weight(self, d_rows: Array, x: Array, out: list[int]) -> Array:
        total = np.zeros((d_rows.shape[1], math.prod(self.params["weight"].shape[1:])), self.dtype, like=x)
        for rows, windows in self._windows(x, out):
            total += _channels_first(d_rows[rows]) @ windows.T  # (conv.2)
        return total

    def _d_x(self, d_rows: Array, x: Array, weight: Array, out: list[int]) -> Array:
        flat = weight.reshape(len(weight), -1)
        d_x, p = np.empty((len(d_rows), *x.shape[2:]), self.dtype, like=x), self.padding
        for rows in _pieces(d_rows, flat.shape[1] * math.prod(out)):
            d_windows = flat.T @ _channels_first(d_rows[rows])  # (conv.3)
            folded = self._fold(d_windows.reshape(*weight.shape[1:], -1, *out), self._padded(x.shape[2:]))
            d_x[rows] = folded[:, :, p : p + x.shape[3], p : p + x.shape[4]].swapaxes(0, 1)
        return d_x

    # -- the same, compiled: minisnn.kernels.images

    @property
    def _compiled(self) -> bool:
        """Square windows that move one by one, and padding inside of them: everything else is left to NumPy."""
        height, width = self.params["weight"].shape[2:]
        return self.backend == "numba" and self.stride == 1 and height == width and self.padding < height

    def _grid(self, x: Array) -> images.Grid:
        from ..kernels import images

        c_in, height, width = x.shape[2:]
        return images.Grid(math.prod(x.shape[:2]), c_in, height, width, self.params["weight"].shape[2], self.padding)

    def _forward_compiled(self, x: Array, weight: Array) -> tuple[Array, Any]:
        from ..kernels import events, images

        # One entry of the index is used for every place of the window.
        found = events.index(x.reshape(-1, math.prod(x.shape[3:])), weight.size // weight.shape[1])
        y = images.forward(self._grid(x), x.reshape(-1, *x.shape[2:]), found, weight)
        return y.reshape(*y.shape[:2], -1), found

    def _backward_compiled(
        self, d_rows: Array, x: Array, weight: Array, events: Any, want_weight: bool, want_x: bool
    ) -> tuple[Array | None, Array | None]:
        from ..kernels import images

        grid = self._grid(x)
        d_y = d_rows.reshape(*d_rows.shape[:2], *grid.out)
        d_full = images.on_full_grid(grid, d_y)
        d_weight = None
        if want_weight:
            d_weight = images.d_weight(grid, x.reshape(-1, *x.shape[2:]), events, d_y, d_full)
        return images.d_input(grid, d_full, weight) if want_x else None, d_weight

    def _windows(self, x: Array, out: list[int]) -> Iterator[tuple[slice, Array]]:
        """Pieces of the images with every window unfolded into a column: ``[c_in * k * k, n * H' * W']``, floats."""
        size, p, s = self.params["weight"].shape[2:], self.padding, self.stride
        images = x.reshape(-1, *x.shape[2:])
        for rows in _pieces(images, math.prod((x.shape[2], *size, *out))):
            piece = np.zeros((len(images[rows]), *self._padded(x.shape[2:])), self.dtype, like=x)
            piece[:, :, p : p + x.shape[3], p : p + x.shape[4]] = images[rows]
            windows = np.empty((x.shape[2], *size, len(piece), *out), self.dtype, like=x)
            for i, j in np.ndindex(*size):  # a place in the window, over all positions of the window
                windows[:, i, j] = piece[:, :, i : i + s * out[0] : s, j : j + s * out[1] : s].swapaxes(0, 1)
            yield rows, windows.reshape(x.shape[2] * math.prod(size), -1)

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
    size = max(1, (PIECE if xp_of(images) is np else PIECE_ON_GPU) // values)
    return (slice(start, start + size) for start in range(0, len(images), size))
