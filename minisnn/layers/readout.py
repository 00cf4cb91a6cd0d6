"""Readouts: from spikes over time to one score per class, and the change of shape before them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..kernels.arrays import Array, positive_int
from .base import Back, Layer, ShapeCache, as_cache, as_input, as_upstream

__all__ = ["Flatten", "PopulationVote", "Rate"]


class Flatten(Layer):
    """Joins the axes of a sample: ``[T, B, ...] -> [T, B, n]``.  Time and batch stay."""

    def forward(self, x, *, state=None, train=False, rng=None) -> tuple[Array, ShapeCache]:
        """``[T, B, ...] -> [T, B, n]``."""
        x = as_input(x, self)
        return x.reshape(*x.shape[:2], -1), ShapeCache(self.made_with(), x.shape)

    def backward(self, d_y, cache, *, d_state=None, wrt=None, input_grad=True) -> Back:
        """``[T, B, n] -> [T, B, ...]``."""
        self.needs(wrt)
        shape = as_cache(cache, ShapeCache, self).shape
        d_y = as_upstream(d_y, (*shape[:2], math.prod(shape[2:])), self)
        return d_y.reshape(shape) if input_grad else None, {}

    def out_shape(self, in_shape: tuple[int, ...] | None) -> tuple[int, ...] | None:
        return None if in_shape is None else (math.prod(in_shape),)


class Rate(Layer):
    """Mean over time: ``[T, B, n] -> [B, n]``, the firing rate of each neuron as its score."""

    def _members(self, n: int) -> int:
        """How many neighbours share a score."""
        return 1

    def forward(self, x, *, state=None, train=False, rng=None) -> tuple[Array, ShapeCache]:
        """``[T, B, n] -> [B, scores]``: mean over time and members."""
        x = as_input(x, self, ("n",))
        members = self._members(x.shape[2])
        total = x.sum(axis=0, dtype=self.dtype).reshape(x.shape[1], -1, members).sum(axis=2)
        scores = total / self.dtype.type(len(x) * members)  # (readouts.1)
        return scores, ShapeCache(self.made_with(), x.shape)

    def backward(self, d_y, cache, *, d_state=None, wrt=None, input_grad=True) -> Back:
        """``[B, scores] -> [T, B, n]``: the same share for every step and member."""
        self.needs(wrt)
        steps, batch, n = as_cache(cache, ShapeCache, self).shape
        members = self._members(n)
        d_y = as_upstream(d_y, (batch, n // members), self)
        if not input_grad:
            return None, {}
        share = np.repeat(d_y / self.dtype.type(steps * members), members, axis=1)  # (readouts.6)
        return np.broadcast_to(share, cache.shape).copy(), {}

    def _describe(self) -> str:
        return "mean over time"


class PopulationVote(Rate):
    """A group of neighbouring neurons votes for each class: mean over its members and over time.

    Parameters
    ----------
    n_classes : number of classes; input ``[T, B, n_classes * members]``, output ``[B, n_classes]``.
        Class c is voted for by the neurons ``c * members`` to ``(c + 1) * members - 1``.
    """

    options = ("n_classes",)

    def __init__(self, n_classes: int, dtype: Any = "float32") -> None:
        super().__init__(dtype)
        self.n_classes = positive_int("PopulationVote: n_classes", n_classes)

    def _members(self, n: int) -> int:
        if n % self.n_classes:
            raise ValueError(
                f"PopulationVote: {n} neurons cannot be shared out evenly among {self.n_classes} "
                f"classes; use a multiple of {self.n_classes}"
            )
        return n // self.n_classes  # (readouts.2)

    def out_shape(self, in_shape: tuple[int, ...] | None) -> tuple[int, ...]:
        if in_shape is not None and (len(in_shape) != 1 or in_shape[0] % self.n_classes):
            wanted = f"a multiple of {self.n_classes} neurons per sample"
            raise ValueError(f"takes {wanted}, got {list(in_shape)}")
        return (self.n_classes,)

    def _describe(self) -> str:
        return f"{self.n_classes} classes: mean over members and time"
