"""Matrix products whose left side may be spikes: dense, or by adding up the few rows that are active."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from . import blas, pool
from .place import Array, xp_of

__all__ = ["Rows", "dense"]


class Rows:
    """``[R, K]``, one row for every step and sample, to be multiplied as ``rows @ weight`` and ``rows.T @ d_rows``.

    Where few entries are active, all of one value, and Numba runs the loops, rows are added up instead
    (:mod:`minisnn.kernels.events`): the index of the active entries is built once, and serves both products.

    Parameters
    ----------
    x : floats, or spikes (uint8, bool).   dtype : of the products.
    n : columns of what it will be multiplied with: the more, the better adding pays.
    backend : as of the layer.
    """

    def __init__(self, x: Array, dtype: np.dtype, n: int, backend: str) -> None:
        self.x, self.dtype = x, dtype
        self._loops: ModuleType | None = None
        if backend == "numba":
            from . import events as loops

            self._events: Any = loops.index(x, n)
            if self._events is not None:
                self._loops = loops

    def __matmul__(self, table: Array) -> Array:
        """``[R, K] @ [K, n]``."""
        if self._loops is None:
            return dense(self.x.astype(self.dtype, copy=False), table)
        return self._loops.gather(self._events, np.ascontiguousarray(table))

    @property
    def T(self) -> Rows:
        """The transpose ``[K, R]``."""
        other: Rows = object.__new__(Rows)
        other.x, other.dtype, other._loops = self.x.T, self.dtype, self._loops
        if self._loops is not None:
            other._events = self._loops.turned(self._events)
        return other


def dense(a: Array, b: Array) -> Array:
    """``a @ b`` in memory of the pool; CuPy has its own."""
    if xp_of(a) is not np:
        return a @ b
    out = pool.empty((len(a), b.shape[1]), np.result_type(a, b))
    blas.product(a, b, out)
    return out
