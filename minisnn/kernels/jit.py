"""Compiled loops: what one is written with, and how it is called.

A *loop* is a Python function over arrays, flat for it whatever their shape, and numbers; the last two are the range of tiles
to work on.
:mod:`minisnn.kernels.native` makes machine code of it, which takes bare memory: addresses and numbers, packed in a row.
"""

from __future__ import annotations

import ctypes
import struct
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

__all__ = ["CODE", "U", "WHOLE", "Kind", "Loop", "Work", "own_scratch", "reads", "real", "scratch", "scratch_of", "writes"]

#: Positions are unsigned: a signed one might count from the end, and the compiler then goes lane by lane.
U = np.uint64


# -- what a loop is written with


class Kind(NamedTuple):
    """What one argument of a loop is.  First come all scratch arrays, then the others, then numbers, then whole numbers."""

    name: str  #: scratch, array, real or whole
    dtype: Any = None
    written: bool = False


def scratch(dtype: Any) -> Kind:
    """A flat array that each thread has for itself, with anything in it; the caller gives its size."""
    return Kind("scratch", np.dtype(dtype))


def reads(dtype: Any) -> Kind:
    """A flat array that is read."""
    return Kind("array", np.dtype(dtype))


def writes(dtype: Any) -> Kind:
    """A flat array that is written."""
    return Kind("array", np.dtype(dtype), True)


def real(dtype: Any) -> Kind:
    """A number."""
    return Kind("real", np.dtype(dtype))


WHOLE = Kind("whole")

# -- how it is called

#: Machine code, and what it is given: its arguments in a row, scratch, and the tiles from lo to hi.
CODE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_ssize_t)
#: NumPy's marks of an array: in one piece (1) and aligned (256); and not read-only.
SOUND, WRITEABLE = 0x101, 0x400


class Loop:
    """Machine code; called with the arguments of a run it returns ``work(lo, hi)``.

    `address` : where it begins.   `code` : what holds on to it.
    """

    def __init__(self, address: int, kinds: tuple[Kind, ...], code: Any) -> None:
        self.run, self.address, self._code = CODE(address), address, code
        names = [kind.name for kind in kinds]
        assert names == sorted(names, key=["scratch", "array", "real", "whole"].index)
        self._own, self._numbers = names.count("scratch"), names.count("scratch") + names.count("array")
        self._items = [kind.dtype.itemsize for kind in kinds[: self._own]]
        self._rooms: dict[tuple, tuple[tuple[int, ...], int]] = {}
        arrays = kinds[self._own : self._numbers]
        self._dtypes = [kind.dtype for kind in arrays]
        self._flags = [SOUND | WRITEABLE if kind.written else SOUND for kind in arrays]
        self._pack = struct.Struct("q" * self._numbers + "d" * names.count("real") + "q" * names.count("whole")).pack

    def __call__(self, *arguments: Any) -> Work:
        own = arguments[: self._own]
        arrays: Sequence[Any] = arguments[self._own : self._numbers]
        if not self._fit(arrays):
            arrays = self._made_sound(arrays)
        offsets, room = self._rooms.get(own) or self._make_room(own)
        return Work(self, self._pack(*offsets, *_addresses(arrays), *arguments[self._numbers :]), room, arrays)

    def _fit(self, arrays: Sequence[Any]) -> bool:
        """Whether these are what the loop was compiled for: it works on bare memory, and would not notice."""
        if [a.dtype for a in arrays] != self._dtypes:
            return False
        return [a.flags.num & flags for a, flags in zip(arrays, self._flags, strict=True)] == self._flags

    def _made_sound(self, arrays: Sequence[Any]) -> list[Any]:
        """With copies of those that lie in pieces or begin in the middle of a number, and are only read."""
        found = [a if f & WRITEABLE or a.flags.num & f == f else a.copy() for a, f in zip(arrays, self._flags, strict=True)]
        if not self._fit(found):
            got = ", ".join(f"{a.dtype}{list(a.strides)}{'' if a.flags.writeable else ' read-only'}" for a in arrays)
            raise TypeError(f"a compiled loop over rows of {', '.join(map(str, self._dtypes))} got {got}")
        return found

    def _make_room(self, own: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
        """Where each scratch array begins, and the room for all."""
        offsets, room = list[int](), 0
        for n, item in zip(own, self._items, strict=True):
            offsets.append(room)
            room += -(-n * item // 64) * 64
        if len(self._rooms) > 100:
            self._rooms.clear()
        found = self._rooms[own] = tuple(offsets), room
        return found


class Work(NamedTuple):
    """One run; it holds on to its arrays."""

    loop: Loop
    packed: bytes
    room: int  #: bytes of scratch that a thread needs for it
    arrays: Sequence[Any]

    def __call__(self, lo: int, hi: int) -> None:
        self.loop.run(self.packed, own_scratch(self.room), lo, hi)


class _Scratch(threading.local):
    """What each thread keeps to work in, from one run to the next."""

    size = 0
    place: tuple[int, Any] = 0, None


_scratch = _Scratch()


def own_scratch(room: int) -> int:
    """Where this thread has at least so many bytes of its own."""
    if room > _scratch.size:
        _scratch.size = 0  # last to be set again: an interruption must not leave a place in memory that is gone
        _scratch.place = scratch_of(room)
        _scratch.size = room
    return _scratch.place[0]


def scratch_of(room: int) -> tuple[int, Any]:
    """``(where so many bytes begin, what holds on to them)``."""
    memory = np.empty(room + 64, np.uint8)
    return -(-memory.ctypes.data // 64) * 64, memory


def _slow_addresses(arrays: Sequence[Any]) -> list[int]:
    """Where they begin; 0 where there is nothing."""
    return [a.ctypes.data if a.size else 0 for a in arrays]


def _fast_addresses(arrays: Sequence[Any]) -> list[int]:
    """NumPy keeps the address right behind what every Python object begins with: five times as fast as asking for it."""
    return [_number_at(id(a) + _HEAD).value if a.size else 0 for a in arrays]


_number_at, _HEAD = ctypes.c_ssize_t.from_address, object.__basicsize__
_probe = [np.empty(3)]
_addresses = _fast_addresses if _fast_addresses(_probe) == _slow_addresses(_probe) else _slow_addresses
