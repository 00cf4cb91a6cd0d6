"""Dropout: in training each value is dropped with probability p, and what is kept is scaled up."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..kernels.arrays import Array, uniform
from .base import Back, Layer, as_cache, as_input, as_upstream

__all__ = ["Dropout", "DropoutCache"]


class DropoutCache(NamedTuple):
    """Kept: the shape of the input, and its ``mask``, ``None`` if no value was dropped."""

    made_with: tuple[Any, ...]
    shape: tuple[int, ...]
    mask: Array | None


class Dropout(Layer):
    """``y[t] = x[t] * mask[t]``, the mask 0 with probability p and 1 / (1 - p) otherwise.

    Out of training, ``y = x``.

    Parameters
    ----------
    p : probability of being dropped, in [0, 1).
    per_step : a fresh mask at every step (the STL-SNN authors' choice), or one for all steps of a
        sample.
    """

    takes_mask = True
    options = ("p", "per_step")
    holds = ("mask",)  # with another one a twin would be another network

    def __init__(self, p: float = 0.5, *, per_step: bool = True, dtype: Any = "float32") -> None:
        super().__init__(dtype)
        if isinstance(p, bool) or not isinstance(p, int | float | np.number) or not 0 <= p < 1:
            meaning = "p is the probability of being dropped, a number in [0, 1)"
            raise ValueError(f"Dropout: {meaning}, got {p!r}")
        self.p, self.per_step = float(p), bool(per_step)

    def forward(
        self, x, *, state=None, train=False, rng=None, mask=None
    ) -> tuple[Array, DropoutCache]:
        """``[T, B, ...] -> [T, B, ...]``.

        Parameters
        ----------
        x : input, of the layer's dtype or spikes.
        train : whether to drop.
        rng : generator for the mask, needed to drop (on a GPU: for the seed of CuPy's).
        mask : multiplied as given, the factor 1 / (1 - p) included; ``[T, B, ...]`` or
            ``[1, B, ...]``.
        """
        x = as_input(x, self)
        if mask is None and train and self.p:
            mask = self._draw(x, rng)
        if mask is None:
            return x, DropoutCache(self.made_with(), x.shape, None)
        mask = np.asarray(mask, self.dtype, like=x)
        if mask.ndim != x.ndim or mask.shape[1:] != x.shape[1:] or len(mask) not in (1, len(x)):
            expected = f"expected {list(x.shape)} or 1 for the first axis"
            raise ValueError(f"Dropout: mask has shape {list(mask.shape)}, {expected}")
        return x * mask, DropoutCache(self.made_with(), x.shape, mask)  # (dropout.2)

    def _draw(self, x: Array, rng: Any) -> Array:
        if not isinstance(rng, np.random.Generator):
            needed = "training draws a mask and needs forward(..., train=True, rng=generator)"
            raise TypeError(f"Dropout: {needed}, got {rng!r}")
        sizes = x.shape if self.per_step else (1, *x.shape[1:])
        kept = uniform(rng, sizes, like=x) >= np.float32(self.p)  # (dropout.1)
        return kept * self.dtype.type(1 / (1 - self.p))

    def backward(self, d_y, cache, *, d_state=None, wrt=None, input_grad=True) -> Back:
        """``d_x = d_y * mask``: the same mask."""
        self.needs(wrt)
        d_y = as_upstream(d_y, as_cache(cache, DropoutCache, self).shape, self)
        d_x = d_y if cache.mask is None else d_y * cache.mask  # (dropout.3)
        return d_x if input_grad else None, {}

    def _describe(self) -> str:
        masks = "a mask each step" if self.per_step else "one mask for all steps"
        return f"p={self.p:g}, {masks}; in training only"
