"""Dense matrix products whose left side may be spikes."""

from __future__ import annotations

import numpy as np

from . import memory
from .arrays import Array, get_array_module
from .threads import WORTH_A_THREAD, blas_is_limited, share

__all__ = ["multiply"]

#: Multiplications that take as long as an element of a time loop.
PER_ELEMENT = 15
#: Parts of a product for threads to share: the same for any number of them, as are the results.
PARTS = 4


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
