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

    def __init__(self, memory: Array, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self.memory = memory
        kind = {"version": 3, "shape": shape, "typestr": dtype.str}
        self.__array_interface__ = kind | {"data": memory.__array_interface__["data"]}

    def __del__(self) -> None:
        memory = vars(self).get("memory")
        if _free is None or memory is None:  # the interpreter is ending, or an interrupt came early
            return
        _free[id(memory)] = memory
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
    return np.asarray(_Lease(_unused(n_bytes), shape, dtype))


def kept() -> int:
    """Bytes that wait to be used again."""
    return sum(memory.size for memory in _free.copy().values())


def release() -> None:
    """Give all memory that is not in use back to the system."""
    _free.clear()


def _unused(n_bytes: int) -> Array:
    """Free memory that fits and is not much too large, the last used first; else new memory."""
    for key, memory in reversed(_free.copy().items()):
        if n_bytes <= memory.size <= n_bytes + n_bytes // 4 and _free.pop(key, None) is not None:
            return memory
    memory = np.empty(n_bytes + LINE, np.uint8)
    start = -memory.__array_interface__["data"][0] % LINE
    return memory[start : start + n_bytes]
