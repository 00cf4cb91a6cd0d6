"""Large arrays in memory that is used again: fetching fresh pages from the system takes as long as filling them.

An array and all its views keep a *lease* on their memory alive; when it goes, nobody can see the memory any more, and only
then it is used again.
"""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np

from .arrays import Array, get_array_module

__all__ = ["empty", "empty_like", "kept", "release"]

#: Arrays of fewer bytes are left to NumPy, which is as fast for them.
SMALL = 1 << 16
#: Arrays begin where a line of the processor's cache does: vectors then lie in one line each.
LINE = 64


def _most() -> int:
    """Bytes that are kept for later use at most: a quarter of the machine's memory; beyond it the longest unused goes."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4
    except (AttributeError, ValueError, OSError):  # no such question on this system
        return 1 << 30


MOST = _most()
_free: dict[int, Array] = {}  # by their id, the longest unused first


class _Lease:
    """Memory, seen as an array: NumPy keeps the object that has ``__array_interface__`` as the base of all its views."""

    def __init__(self, memory: Array, shape: tuple[int, ...], dtype: np.dtype) -> None:
        where = memory.__array_interface__["data"]
        self.memory = memory
        self.__array_interface__ = {"version": 3, "shape": shape, "typestr": dtype.str, "data": where}

    def __del__(self) -> None:
        if _free is None:  # the interpreter is ending
            return
        _free[id(self.memory)] = self.memory
        while _free and kept() > MOST:
            _free.pop(next(iter(_free.copy()), 0), None)


# Memory may come back in the middle of any of these lines, from the garbage collector or another thread: each step is one
# operation on a dictionary, which nothing interrupts.


def empty(shape: tuple[int, ...], dtype: Any, like: Array | None = None) -> Array:
    """As ``np.empty``, in memory used before if there is some; for a `like` on a GPU in CuPy's, which has its own pool."""
    if like is not None and get_array_module(like) is not np:
        return np.empty(shape, dtype, like=like)
    dtype = np.dtype(dtype)
    n_bytes = math.prod(shape) * dtype.itemsize
    if n_bytes < SMALL:
        return np.empty(shape, dtype)
    memory = _unused(n_bytes)
    return np.asarray(_Lease(memory, shape, dtype))


def empty_like(array: Array) -> Array:
    """As ``np.empty_like`` for a C-contiguous array."""
    return empty(array.shape, array.dtype, array)


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
