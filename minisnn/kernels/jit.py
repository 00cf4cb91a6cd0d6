"""Compiled loops: how one is described, called, kept on disk, and found again.

A *loop* is a Python function over flat arrays and numbers, whose last two arguments are the range of tiles to work on.
It is compiled by Numba once on a machine (:mod:`minisnn.kernels.compiler`).  Its machine code is kept in a file, and from
then on LLVM alone loads it: importing Numba takes longer than everything else before a first gradient.

A file is named after what the loop computes, the sources of this folder and the processor, so that nothing that was edited
ever meets old code (:mod:`minisnn.kernels.disk`).
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import json
import os
import struct
import sys
import threading
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from . import disk

__all__ = [
    "U", "WHOLE", "Kind", "Loop", "compile_loop", "counts", "problem", "reads", "real", "scratch", "target_machine",
    "writes",
]  # fmt: skip

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

#: NumPy's marks of an array: in one piece (1) and aligned (256); and not read-only.
SOUND, WRITEABLE = 0x101, 0x400


class Loop:
    """Machine code; called with the arguments of a run it returns ``work(lo, hi)``."""

    def __init__(self, run: Callable, kinds: tuple[Kind, ...], code: Any) -> None:
        self._run, self._code = run, code
        names = [kind.name for kind in kinds]
        assert names == sorted(names, key=["scratch", "array", "real", "whole"].index)
        self._own, self._numbers = names.count("scratch"), names.count("scratch") + names.count("array")
        self._items = [kind.dtype.itemsize for kind in kinds[: self._own]]
        self._rooms: dict[tuple, tuple[tuple[int, ...], int]] = {}
        arrays = kinds[self._own : self._numbers]
        self._dtypes = [kind.dtype for kind in arrays]
        self._flags = [SOUND | WRITEABLE if kind.written else SOUND for kind in arrays]
        self._pack = struct.Struct("q" * self._numbers + "d" * names.count("real") + "q" * names.count("whole")).pack

    def __call__(self, *arguments: Any) -> Callable[[int, int], None]:
        own = arguments[: self._own]
        arrays: Sequence[Any] = arguments[self._own : self._numbers]
        if not self._fit(arrays):
            arrays = self._aligned(arrays)
        offsets, room = self._rooms.get(own) or self._make_room(own)
        places = [_address(a) if a.size else 0 for a in arrays]
        return _Work(self._run, self._pack(*offsets, *places, *arguments[self._numbers :]), room, arrays)

    def _fit(self, arrays: Sequence[Any]) -> bool:
        """Whether these are what the loop was compiled for: it works on bare memory, and would not notice."""
        if [a.dtype for a in arrays] != self._dtypes:
            return False
        return [a.flags.num & flags for a, flags in zip(arrays, self._flags, strict=True)] == self._flags

    def _aligned(self, arrays: Sequence[Any]) -> list[Any]:
        """With copies of those that begin in the middle of a number, and are only read."""
        found = [a if a.flags.aligned or f & WRITEABLE else a.copy() for a, f in zip(arrays, self._flags, strict=True)]
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


class _Work:
    """One run; it holds on to its arrays."""

    __slots__ = ("_arrays", "_packed", "_room", "_run")

    def __init__(self, run: Callable, packed: bytes, room: int, arrays: Sequence[Any]) -> None:
        self._run, self._packed, self._room, self._arrays = run, packed, room, arrays

    def __call__(self, lo: int, hi: int) -> None:
        own = _scratch.at if self._room <= _scratch.size else _grow(self._room)
        self._run(self._packed, own, lo, hi)


class _Scratch(threading.local):
    """What each thread keeps to work in, from one run to the next."""

    at, size = 0, 0


_scratch = _Scratch()


def _grow(size: int) -> int:
    _scratch.size = 0  # last to be set again: an interruption must not leave a place in memory that is gone
    _scratch.memory = np.empty(size + 64, np.uint8)
    _scratch.at = -(-_scratch.memory.ctypes.data // 64) * 64
    _scratch.size = size
    return _scratch.at


def _slow_address(array: Any) -> int:
    return array.ctypes.data


def _fast_address(array: Any) -> int:
    """NumPy keeps the address right behind what every Python object begins with: five times as fast as asking for it."""
    return _number_at(id(array) + _HEAD).value


_number_at, _HEAD = ctypes.c_ssize_t.from_address, object.__basicsize__
_probe = np.empty(3)
_address = _fast_address if _fast_address(_probe) == _probe.ctypes.data else _slow_address


# -- how it is kept and found


def compile_loop(python_loop: Callable, kinds: tuple[Kind, ...], *marks: Any) -> Loop:
    """The loop as machine code: from this process, from its file, or compiled.

    `marks` : what else it computes with, besides its own name, these kinds and all that stands in this folder: functions
    and numbers that it closes over.
    """
    name = disk.digest((_setting(), python_loop.__module__, python_loop.__qualname__, kinds, marks))
    with _compiling:
        found = _loaded.get(name)
        if found is None:
            found = _loaded[name] = _from_disk(name, kinds) or _compiled(name, python_loop, kinds)
        return found


_compiling = threading.RLock()


def _forget_lock() -> None:
    """A forked child has none of its parent's threads: nobody would let go of it."""
    global _compiling
    _compiling = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_lock)

#: The sources as they are imported; empty where there are none (in a zip file), and then nothing is kept.
SOURCES = b"".join(f.read_bytes() for f in sorted(Path(__file__).parent.glob("*.py")))
_loaded: dict[str, Loop] = {}
#: Loops found on disk, and loops compiled.
counts = {"found": 0, "compiled": 0}


def problem() -> None:
    """Raise what hinders Numba.  That nothing does is noted on disk, so that not every process has to import it to know."""
    import llvmlite
    import llvmlite.binding as llvm

    if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        raise ImportError("NUMBA_DISABLE_JIT is set: nothing can be compiled")
    note = f"numba-{disk.digest((*_numba(), llvmlite.__version__, np.__version__, sys.version))}"
    if "numba" in sys.modules or not _numba()[1] or disk.read(note) is None:
        import numba

        if not hasattr(llvm, "create_pipeline_tuning_options"):
            raise ImportError(f"numba {numba.__version__} is too old, expected 0.61 or later")
        if disk.read(note) is None:
            disk.write(note, b"")


@cache
def _numba() -> tuple[str, bytes]:
    """What tells one Numba from another, without importing it; nothing where there is none."""
    try:
        spec = importlib.util.find_spec("numba")
        place = Path(spec.origin) if spec and spec.origin else None
        return (str(place), place.with_name("_version.py").read_bytes()) if place else ("", b"")
    except (ImportError, ValueError, OSError):
        return "", b""


@cache
def _setting() -> tuple:
    """What all machine code depends on: our sources, Numba, LLVM, the processor, the system, and Python's bytecode."""
    import llvmlite
    import llvmlite.binding as llvm

    system = (*processor(), llvm.get_process_triple())
    return hashlib.sha256(SOURCES).hexdigest(), _numba()[1], llvmlite.__version__, system, sys.version_info[:2]


@cache
def processor() -> tuple[str, str]:
    """Name and features of this processor, as LLVM calls them."""
    import llvmlite.binding as llvm

    try:
        return llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()
    except RuntimeError:  # LLVM does not know the features of this kind
        return llvm.get_host_cpu_name(), ""


def target_machine() -> Any:
    """LLVM's idea of this machine."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    name, features = processor()
    target = llvm.Target.from_default_triple()
    return target.create_target_machine(cpu=name, features=features, opt=3, reloc="pic", jit=True, codemodel="jitdefault")


def _from_disk(name: str, kinds: tuple[Kind, ...]) -> Loop | None:
    content = disk.read(name) if SOURCES else None
    if content is None:
        return None
    symbols, code = content.split(b"\n", 1)
    loop = _load(json.loads(symbols), code, kinds)
    counts["found"] += loop is not None
    return loop


def _compiled(name: str, python_loop: Callable, kinds: tuple[Kind, ...]) -> Loop:
    from .compiler import machine_code

    symbols, code, address, owner = machine_code(python_loop, kinds)
    counts["compiled"] += 1
    loop = None if any(s.startswith(("numba_", "NRT_")) for s in symbols) else _load(symbols, code, kinds)
    if loop is None:  # it calls something that Numba alone has: it works, in this process
        return Loop(_callable(address), kinds, owner)
    if SOURCES:
        disk.write(name, json.dumps(symbols).encode() + b"\n" + code)
    return loop


def _load(symbols: list[str], code: bytes, kinds: tuple[Kind, ...]) -> Loop | None:
    """Machine code ready to run; ``None`` where one of the `symbols` that it needs is not there."""
    import llvmlite.binding as llvm

    # One engine each, so that equal names in two do not meet.  It brings the symbols of this process.
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), target_machine())
    if not all(llvm.address_of_symbol(symbol) for symbol in symbols):
        return None
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    return Loop(_callable(engine.get_function_address("run")), kinds, engine)


def _callable(address: int) -> Callable:
    return ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_ssize_t)(address)
