"""Add: the sum of two branches, so that a signal can bypass layers: a residual connection."""

from __future__ import annotations

from typing import Any

from ..kernels.arrays import Array
from .base import Back, Layer, ShapeCache, as_cache, as_input, as_upstream

__all__ = ["Add"]


class Add(Layer):
    """``y = x + output of an earlier layer``, which :class:`~minisnn.Network` passes in.

    ``Network(fc1=..., lif1=..., fc2=..., lif2=..., sum=ms.Add("lif1"), ...)`` adds the spikes of
    ``lif1`` to those of ``lif2``.  Sums of spikes are numbers: the output has the net's dtype.

    Parameters
    ----------
    source : name of the earlier layer; its output must have the shape of the input.
    """

    source: str
    options = ("source",)

    def __init__(self, source: str, *, dtype: Any = "float32") -> None:
        super().__init__(dtype)
        if not isinstance(source, str):
            example = "the name of an earlier layer, e.g. Add('lif1')"
            raise TypeError(f"Add: source must be {example}, got {source!r}")
        self.source = source

    def forward(
        self, x, *, state=None, train=False, rng=None, other=None
    ) -> tuple[Array, ShapeCache]:
        """``x + other``, both ``[T, B, ...]``."""
        if other is None:
            inside = f"runs inside a Network, which passes in the output of {self.source!r}"
            raise TypeError(f"Add: {inside}; or give other=")
        x = as_input(x, self)
        other = as_input(other, self, x.shape[2:])
        return x.astype(self.dtype, copy=False) + other, ShapeCache(self.made_with(), x.shape)

    def backward(self, d_y, cache, *, d_state=None, wrt=None, input_grad=True) -> Back:
        """The gradient as it is; ``Network.backward`` gives the same to the other branch."""
        self.needs(wrt)
        d_y = as_upstream(d_y, as_cache(cache, ShapeCache, self).shape, self)
        return d_y if input_grad else None, {}

    def _describe(self) -> str:
        return f"x + {self.source}"
