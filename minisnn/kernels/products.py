"""Matrix products whose left side may be spikes: dense, or by adding up the few rows that are active."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from . import memory
from .arrays import Array, get_array_module
from .threads import WORTH_A_THREAD, blas_is_limited, share

__all__ = ["SpikeMatrix", "multiply"]

#: Multiplications that take as long as an element of a time loop.
PER_ELEMENT = 15
#: Parts of a product that is shared: not a matter of threads, so that the same numbers come out for any number of them.
PARTS = 4


class SpikeMatrix:
    """``[R, K]``, one row for every step and sample, for the products ``matrix @ weight`` and ``matrix.T @ d_rows``.

    Where few entries are active, all of one value, rows are added up instead: the active entries are found once, and serve
    both products.

    Parameters
    ----------
    x : floats, or spikes (uint8, bool).
    n : columns of the tables in these products: the more, the better adding pays.
    sparse : the module :mod:`minisnn.kernels.spike_matmul` where Numba runs the loops; ``None``: dense products only.
    """

    def __init__(self, x: Array, n: int, sparse: ModuleType | None) -> None:
        self.x, self._sparse = x, sparse
        self._entries: Any = None if sparse is None else sparse.active_entries(x, n)

    def __matmul__(self, table: Array) -> Array:
        """``[R, K] @ [K, n]``."""
        if self._sparse is None or self._entries is None:
            return multiply(self.x, table)
        return self._sparse.add_rows(self._entries, table)

    @property
    def T(self) -> SpikeMatrix:
        """The transpose ``[K, R]``."""
        other: SpikeMatrix = object.__new__(SpikeMatrix)
        other.x, other._sparse, other._entries = self.x.T, self._sparse, None
        if self._sparse is not None and self._entries is not None:
            other._entries = self._sparse.transposed(self._entries)
        return other


def multiply(a: Array, b: Array) -> Array:
    """``a @ b`` in the dtype of `b`, in memory that is used again (CuPy has its own).

    Rows are shared among threads while BLAS has but one; each makes floats of its own rows if they are spikes.
    """
    if get_array_module(a) is not np:
        return a.astype(b.dtype, copy=False) @ b
    out = memory.empty((len(a), b.shape[1]), b.dtype)
    work = len(a) * b.size // PER_ELEMENT
    if not blas_is_limited() or work < 2 * WORTH_A_THREAD:
        return np.matmul(a.astype(b.dtype, copy=False), b, out=out)
    parts = min(PARTS, len(a))

    def some_rows(first: int, last: int) -> None:
        for part in range(first, last):
            rows = slice(len(a) * part // parts, len(a) * (part + 1) // parts)
            np.matmul(a[rows].astype(b.dtype, copy=False), b, out=out[rows])

    share(some_rows, parts, work)
    return out
