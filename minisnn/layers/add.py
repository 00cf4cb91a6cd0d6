"""Add: the sum of two branches, so that a signal can pass by a few layers (a residual connection)."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..kernels.arrays import Array
from .base import Back, Layer, Names, as_cache, as_input, as_upstream

__all__ = ["Add", "AddCache"]


class AddCache(NamedTuple):
    """Kept: the shape; a sum hands its gradient to both sides as it is."""

    made_with: tuple[Any, ...]
    shape: tuple[int, ...]


class Add(Layer):
    """``y = x + output of an earlier layer``; :class:`~minisnn.Network` hands that output over.

    ``Network(fc1=..., lif1=..., fc2=..., lif2=..., sum=ms.Add("lif1"), ...)`` adds the spikes of ``lif1`` to those
    of ``lif2``.  Sums of spikes are numbers: the output has the net's dtype.

    Parameters
    ----------
    source : name of the earlier layer; its output must have the shape of the input.
    """

    source: str

    def __init__(self, source: str, *, dtype: Any = "float32") -> None:
        super().__init__(dtype)
        if not isinstance(source, str):
            raise TypeError(f"Add: source must be the name of an earlier layer, e.g. Add('lif1'), got {source!r}")
        self.source = source

    def forward(
        self, x: Array, *, state: Any = None, train: bool = False, rng: Any = None, other: Array | None = None
    ) -> tuple[Array, AddCache]:
        """``x + other``, both ``[T, B, ...]``."""
        if other is None:
            raise TypeError(f"Add: runs inside a Network, which hands it the output of {self.source!r}; or give other=")
        x = as_input(x, self)
        other = as_input(other, self, x.shape[2:])
        return x.astype(self.dtype, copy=False) + other, AddCache(self.made_with(), x.shape)

    def backward(self, d_y: Array, cache: AddCache, *, d_state=None, wrt: Names = None, input_grad: bool = True) -> Back:
        """The gradient as it is; ``Network.backward`` hands the same to the other branch."""
        self._wanted(wrt)
        return as_upstream(d_y, as_cache(cache, AddCache, self).shape, self) if input_grad else None, {}

    def config(self) -> dict[str, Any]:
        return {"source": self.source}

    def _describe(self) -> str:
        return f"x + {self.source}"
