"""Pooling: each window of an image becomes one value.  Windows do not overlap; one that is not whole is dropped."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ..kernels import compiled_helpers
from ..kernels.arrays import Array, positive_int
from .base import Back, Layer, Names, as_cache, as_input, as_upstream

__all__ = ["AvgPool2d", "MaxPool2d", "PoolCache"]


class PoolCache(NamedTuple):
    """Kept: the shape of the input, and for a maximum its place in the window, ``at = row * k + column``."""

    made_with: tuple[Any, ...]
    shape: tuple[int, ...]
    at: Array | None


class _Pool2d(Layer):
    """What the two have in common: windows of `k` x `k`."""

    def __init__(self, k: int, dtype: Any = "float32") -> None:
        super().__init__(dtype)
        self.k = positive_int(f"{type(self).__name__}: k", k)

    def _places(self, x: Array) -> Iterator[Array]:
        """For each place in a window, row by row, a view of its values over all whole windows ``[T, B, C, H', W']``."""
        height, width = (n // self.k * self.k for n in x.shape[-2:])
        for row, column in np.ndindex(self.k, self.k):
            yield x[..., row : height : self.k, column : width : self.k]

    def made_with(self) -> tuple[Any, ...]:
        return type(self).__name__, self.k

    def _check(self, x: Array) -> Array:
        x = as_input(x, self, ("C", "H", "W"))
        self._out_shape(x)
        return x

    def backward(self, d_y: Array, cache: PoolCache, *, d_state=None, wrt: Names = None, input_grad: bool = True) -> Back:
        """``[T, B, C, H // k, W // k] -> [T, B, C, H, W]``: to each window its gradient; what no window covers gets none."""
        self._wanted(wrt)
        cache = as_cache(cache, PoolCache, self)
        d_y = as_upstream(d_y, (*cache.shape[:-2], *(n // self.k for n in cache.shape[-2:])), self)
        return self._spread(d_y, cache) if input_grad else None, {}

    def _spread(self, d_y: Array, cache: PoolCache) -> Array:
        raise NotImplementedError

    def out_shape(self, in_shape: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if in_shape is None:
            return None
        if len(in_shape) != 3 or min(in_shape[1:]) < self.k:
            raise ValueError(f"takes images [C, H, W] of at least {self.k} x {self.k}, got {list(in_shape)}")
        return (in_shape[0], in_shape[1] // self.k, in_shape[2] // self.k)

    def config(self) -> dict[str, Any]:
        return {"k": self.k}

    def _describe(self) -> str:
        return f"window {self.k} x {self.k}"


class MaxPool2d(_Pool2d):
    """The largest value of each window, ``[T, B, C, H, W] -> [T, B, C, H // k, W // k]``; spikes stay spikes.

    The gradient goes to the first maximum, row by row, also where all values are equal (as PyTorch does on the CPU).
    """

    def forward(self, x: Array, *, state: Any = None, train: bool = False, rng: Any = None) -> tuple[Array, PoolCache]:
        """``[T, B, C, H, W] -> [T, B, C, H // k, W // k]``, of the dtype of `x`."""
        x = self._check(x)
        place_dtype = np.uint8 if self.k < 16 else np.int32
        if compiled := compiled_helpers(self.backend, "maxpool"):
            y, at = compiled.max_pool(x.reshape(-1, *x.shape[3:]), self.k, place_dtype)
            y, at = (a.reshape(*x.shape[:3], *a.shape[1:]) for a in (y, at))
            return y, PoolCache(self.made_with(), x.shape, at)
        views = self._places(x)
        y = next(views).copy()
        at = np.zeros(y.shape, place_dtype, like=x)
        for place, values in enumerate(views, start=1):
            larger = values > y
            if x.dtype.kind == "f":
                larger |= np.isnan(values)  # a NaN must not hide
            np.copyto(y, values, where=larger)
            at[larger] = place  # (pool.1)
        return y, PoolCache(self.made_with(), x.shape, at)

    def _spread(self, d_y: Array, cache: PoolCache) -> Array:
        """Each gradient goes to where its maximum was; all else gets nothing."""
        if compiled := compiled_helpers(self.backend, "maxpool"):
            images = (math.prod(cache.shape[:3]), *cache.shape[3:])
            return compiled.max_pool_back(d_y, cache.at, images, self.k).reshape(cache.shape)
        d_x = np.zeros(cache.shape, self.dtype, like=d_y)
        for place, values in enumerate(self._places(d_x)):
            np.copyto(values, d_y, where=cache.at == place)  # (pool.2)
        return d_x

    def twin(  # type: ignore[override]
        self, x: Array, base: PoolCache, fire: str, *, state: Any = None
    ) -> tuple[Array, PoolCache]:
        """The base run's choice is held: among equal spikes a maximum has no derivative of its own."""
        x = self._check(x)
        y = np.empty(base.at.shape, x.dtype, like=x)  # type: ignore[union-attr]
        for place, values in enumerate(self._places(x)):
            np.copyto(y, values, where=base.at == place)
        return y, PoolCache(self.made_with(), x.shape, base.at)


class AvgPool2d(_Pool2d):
    """The mean of each window, ``[T, B, C, H, W] -> [T, B, C, H // k, W // k]``."""

    def forward(self, x: Array, *, state: Any = None, train: bool = False, rng: Any = None) -> tuple[Array, PoolCache]:
        """``[T, B, C, H, W] -> [T, B, C, H // k, W // k]``, of the layer's dtype."""
        x = self._check(x)
        first, *rest = self._places(x)
        y = first.astype(self.dtype)
        for values in rest:
            y += values
        y *= self.dtype.type(1 / self.k**2)  # (pool.3)
        return y, PoolCache(self.made_with(), x.shape, None)

    def _spread(self, d_y: Array, cache: PoolCache) -> Array:
        """Each value of a window gets an equal share."""
        d_x = np.zeros(cache.shape, self.dtype, like=d_y)
        share = d_y * self.dtype.type(1 / self.k**2)
        for values in self._places(d_x):
            values[...] = share  # (pool.4)
        return d_x
