"""Large arrays in memory that is used again: fresh pages take as long as filling them.

An array and all its views keep a *lease* on their memory alive.  When the lease goes, no array can
see the memory any more, and the next one may have it.
"""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np

from .arrays import Array, get_array_module

__all__ = ["empty", "kept", "release"]

#: NumPy is as fast for arrays of fewer bytes.
SMALL = 1 << 16
#: Arrays begin where a line of the processor's cache does: vectors then lie in one line each.
LINE = 64
#: Bytes kept for later use at most: a quarter of the machine's memory, if it says how much it has.
MOST = 1 << 30
if hasattr(os, "sysconf") and {"SC_PHYS_PAGES", "SC_PAGE_SIZE"} <= set(os.sysconf_names):
    MOST = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4

_free: dict[int, Array] = {}  # by their id, the longest unused first


class _Lease:
    """Memory, seen as an array: NumPy keeps this object as the base of the array and its views."""

    memory: Array = None
    __array_interface__: dict[str, Any]

    def __del__(self) -> None:
        if _free is None or self.memory is None:  # the interpreter ends, or an interrupt came early
            return
        _free[id(self.memory)] = self.memory
        while _free and kept() > MOST:
            _free.pop(next(iter(_free.copy()), 0), None)


# Memory may come back in the middle of any of these lines, from the garbage collector or another
# thread: each step is one operation on a dictionary, which cannot be interrupted.


def empty(shape: tuple[int, ...], dtype: Any, like: Array | None = None) -> Array:
    """As ``np.empty``, in memory used before if there is some; CuPy (`like`) has its own pool."""
    if like is not None and get_array_module(like) is not np:
        return np.empty(shape, dtype, like=like)
    dtype = np.dtype(dtype)
    n_bytes = math.prod(shape) * dtype.itemsize
    if n_bytes < SMALL:
        return np.empty(shape, dtype)
    for key, memory in reversed(_free.copy().items()):  # the last used first: it may be in a cache
        fits = n_bytes <= memory.size <= n_bytes + n_bytes // 4
        if fits and _free.pop(key, None) is not None:
            break
    else:
        memory = np.empty(n_bytes + LINE, np.uint8)
        start = -memory.__array_interface__["data"][0] % LINE
        memory = memory[start : start + n_bytes]
    lease = _Lease()
    lease.memory, seen = memory, {"shape": shape, "typestr": dtype.str}
    lease.__array_interface__ = memory.__array_interface__ | seen
    return np.asarray(lease)


def kept() -> int:
    """Bytes that wait to be used again."""
    return sum(map(len, _free.copy().values()))


def release() -> None:
    """Give all memory that is not in use back to the system."""
    _free.clear()
