"""Pooling: each window of an image becomes one value.

Windows do not overlap; one that is not whole is dropped.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..kernels import compiled_helpers
from ..kernels.arrays import Array, positive_int
from .base import Back, Cache, Layer, as_input

__all__ = ["AvgPool2d", "MaxPool2d"]


class _Pool2d(Layer):
    """What the two have in common: windows of `k` x `k`."""

    options = ("k",)

    def __init__(self, k: int, dtype: Any = "float32") -> None:
        super().__init__(dtype)
        self.k = positive_int(f"{type(self).__name__}: k", k)

    def forward(self, x, *, state=None, train=False, rng=None, at=None) -> tuple[Array, Cache]:
        """``[T, B, C, H, W] -> [T, B, C, H // k, W // k]``; `at` : places of maxima, if given."""
        x = as_input(x, self, ("C", "H", "W"))
        self._out_shape(x)
        y, at = self._pooled(x, at)
        return y, self.keep(y, shape=x.shape, at=at)

    def backward(self, d_y, cache, *, d_state=None, wrt=None, input_grad=True) -> Back:
        """To each window its gradient; what no window covers gets 0."""
        d_y, _ = self.checked(d_y, cache, wrt)
        return self._spread(d_y, cache) if input_grad else None, {}

    def _places(self, x: Array) -> Iterator[Array]:
        """For each place in a window, row by row, a view ``[T, B, C, H', W']`` of its values."""
        height, width = (n // self.k * self.k for n in x.shape[-2:])
        for row, column in np.ndindex(self.k, self.k):
            yield x[..., row : height : self.k, column : width : self.k]

    def out_shape(self, in_shape: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if in_shape is None:
            return None
        if len(in_shape) != 3 or min(in_shape[1:]) < self.k:
            wanted = f"images [C, H, W] of at least {self.k} x {self.k}"
            raise ValueError(f"takes {wanted}, got {list(in_shape)}")
        return (in_shape[0], in_shape[1] // self.k, in_shape[2] // self.k)


class MaxPool2d(_Pool2d):
    """The largest value of each window, of the dtype of the input: spikes stay spikes.

    ``[T, B, C, H, W] -> [T, B, C, H // k, W // k]``.  The gradient goes to the first maximum, row
    by row, also if all values are equal (as PyTorch does on the CPU).
    """

    holds = ("at",)  # ``row * k + column``: among equal spikes a maximum has no derivative

    def _pooled(self, x: Array, at: Array | None) -> tuple[Array, Array]:
        compiled = compiled_helpers(self.backend, "maxpool")
        place_dtype = np.uint8 if self.k < 16 else np.int32
        if compiled and at is None:
            y, at = compiled.max_pool(x.reshape(-1, *x.shape[3:]), self.k, place_dtype)
            return tuple(a.reshape(*x.shape[:3], *a.shape[1:]) for a in (y, at))
        first, *rest = self._places(x)
        y, chosen = first.copy(), np.zeros(first.shape, place_dtype, like=x)
        for place, values in enumerate(rest, start=1):
            larger = values > y if at is None else at == place
            if at is None and x.dtype.kind == "f":
                larger |= np.isnan(values)  # a NaN must not hide
            np.copyto(y, values, where=larger)
            chosen[larger] = place  # (pool.1)
        return y, chosen

    def _spread(self, d_y: Array, cache: Cache) -> Array:
        """Each gradient goes to the place of its maximum; all others get 0."""
        if compiled := compiled_helpers(self.backend, "maxpool"):
            images = (math.prod(cache.shape[:3]), *cache.shape[3:])
            return compiled.max_pool_back(d_y, cache.at, images, self.k).reshape(cache.shape)
        d_x = np.zeros(cache.shape, self.dtype, like=d_y)
        for place, values in enumerate(self._places(d_x)):
            np.copyto(values, d_y, where=cache.at == place)  # (pool.2)
        return d_x


class AvgPool2d(_Pool2d):
    """The mean of each window, ``[T, B, C, H, W] -> [T, B, C, H // k, W // k]``."""

    def _pooled(self, x: Array, at: None) -> tuple[Array, None]:
        first, *rest = self._places(x)
        y = first.astype(self.dtype)
        for values in rest:
            y += values
        y *= self.dtype.type(1 / self.k**2)  # (pool.3)
        return y, None

    def _spread(self, d_y: Array, cache: Cache) -> Array:
        """Each value of a window gets an equal share."""
        d_x = np.zeros(cache.shape, self.dtype, like=d_y)
        share = d_y * self.dtype.type(1 / self.k**2)
        for values in self._places(d_x):
            values[...] = share  # (pool.4)
        return d_x
