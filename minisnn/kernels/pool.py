"""Arrays from memory that is used again: fresh memory has to be fetched from the system page by page, which takes as long as
filling it.

A buffer is handed out again only when the last array on it is gone: every view of a lent array holds on to its lease, and a
weak reference tells when that goes.  So nothing is ever overwritten that anybody can still see, caches and results included.
"""

from __future__ import annotations

import ctypes
import math
import os
import weakref
from typing import Any

import numpy as np

from .place import Array, xp_of

__all__ = ["empty", "empty_like", "held", "release"]

#: Arrays below this many bytes are left to NumPy, which is as fast for them.
SMALL = 1 << 16
#: Buffers of that size, or twice it, ..., lie in large pages of memory: a processor finds them faster than many small ones.
LARGE_PAGE = 1 << 21
#: Lent and kept together may be that many bytes; beyond it nothing is kept that would make more than were ever lent at once.
FREELY = 1 << 30


def _quarter_of_memory() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4
    except (AttributeError, ValueError, OSError):  # no such question on this system
        return FREELY


#: Bytes that are kept at most, whatever was lent; the longest unused goes back to the system.
KEPT = max(FREELY, _quarter_of_memory())


class _Buffer:
    """Memory, from NumPy, which asks the system for large pages from 4 MB on; what does not fill such pages would waste it.

    `leases` : the type of a lease, which a lent array is based on: every view holds on to it, and to nothing behind it.
    """

    __slots__ = ("_memory", "address", "leases", "size")

    def __init__(self, n_bytes: int) -> None:
        self._memory = memory = np.empty(n_bytes + (0 if n_bytes % LARGE_PAGE else LARGE_PAGE), np.uint8)
        self.size, self.address, self.leases = n_bytes, memory.ctypes.data, ctypes.c_byte * n_bytes
        if memory.size > n_bytes:
            self.address += -self.address % LARGE_PAGE


_free: dict[int, _Buffer] = {}  # by their id, the longest unused first
_lent: dict[int, tuple[weakref.ref, _Buffer]] = {}
_most = 0  # bytes lent at once so far


def empty(shape: tuple[int, ...], dtype: Any, like: Array | None = None) -> Array:
    """As ``np.empty``, from the pool where that is worth it; where `like` is on a GPU, from the one that CuPy has."""
    if like is not None and xp_of(like) is not np:
        return np.empty(shape, dtype, like=like)
    dtype = np.dtype(dtype)
    n_bytes = math.prod(shape) * dtype.itemsize
    if n_bytes < SMALL:
        return np.empty(shape, dtype)
    buffer = _take(n_bytes)
    key = id(buffer)
    lease: Any = buffer.leases.from_address(buffer.address)  # NumPy takes anything that lies in memory
    _lent[key] = weakref.ref(lease, lambda _: _give_back(key)), buffer
    return np.ndarray(shape, dtype, lease)


def empty_like(array: Array) -> Array:
    """As ``np.empty_like`` for a C-contiguous array."""
    return empty(array.shape, array.dtype, array)


def held() -> int:
    """Bytes that are kept and not lent."""
    return sum(buffer.size for buffer in _free.copy().values())


def release() -> None:
    """Give all memory that is not in use back to the system."""
    _free.clear()


# Garbage may be collected, and a buffer come back, in the middle of any of these lines; another thread may run between any
# two: each step is one operation on a dict, which nothing interrupts.  `_most` may miss a rise, and then less is kept.


def _take(n_bytes: int) -> _Buffer:
    """A free buffer that fits and is not much too large, the last used first; else a new one."""
    for key, buffer in reversed(_free.copy().items()):
        if n_bytes <= buffer.size <= n_bytes + n_bytes // 4 and _free.pop(key, None) is not None:
            return buffer
    _make_way(n_bytes)
    return _Buffer(n_bytes)


def _make_way(n_bytes: int) -> None:
    """Before new memory is taken: what is kept and does not fit must not add to the most that was ever in use."""
    global _most
    lent = sum(buffer.size for _, buffer in _lent.copy().values())
    most = _most = max(_most, lent + n_bytes)
    _keep(max(FREELY, most) - lent - n_bytes)


def _give_back(key: int) -> None:
    _free[key] = _lent.pop(key)[1]
    _keep(KEPT)


def _keep(n_bytes: int) -> None:
    while _free and held() > n_bytes:
        _free.pop(next(iter(_free.copy()), 0), None)
