"""Matrix products whose left side may be spikes: dense, or by adding up the few active rows."""

from __future__ import annotations

import copy
from types import ModuleType

import numpy as np

from . import memory
from .arrays import Array, get_array_module
from .threads import WORTH_A_THREAD, blas_is_limited, share

__all__ = ["SpikeMatrix", "multiply"]

#: Multiplications that take as long as an element of a time loop.
PER_ELEMENT = 15
#: Parts of a product.  Threads share them; their number does not change with that of the threads,
#: so that the same numbers come out.
PARTS = 4


class SpikeMatrix:
    """``[R, K]``, a row for each step and sample, in ``matrix @ weight`` and ``matrix.T @ d_rows``.

    If few entries are active, all of one value, it adds up rows: it finds the active entries once,
    for both products.

    Parameters
    ----------
    x : floats, or spikes (uint8, bool).
    n : columns of the tables in these products: the more, the better adding pays.
    sparse : the module :mod:`minisnn.kernels.spike_matmul` if Numba runs the loops; ``None``: dense
        products only.
    """

    def __init__(self, x: Array, n: int, sparse: ModuleType | None) -> None:
        self.x, self._sparse = x, sparse
        self._entries = None if sparse is None else sparse.active_entries(x, n)

    def __matmul__(self, table: Array) -> Array:
        """``[R, K] @ [K, n]``."""
        if self._entries is None:
            return multiply(self.x, table)
        return self._sparse.add_rows(self._entries, table)  # type: ignore[union-attr]

    @property
    def T(self) -> SpikeMatrix:
        """The transpose ``[K, R]``."""
        other = copy.copy(self)
        other.x = self.x.T
        if self._entries is not None:
            other._entries = self._sparse.transposed(self._entries)  # type: ignore[union-attr]
        return other


def multiply(a: Array, b: Array) -> Array:
    """``a @ b`` in the dtype of `b`, in memory that is used again (CuPy has its own).

    Threads share the rows while BLAS has but one; each makes floats of its own rows of spikes.
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
