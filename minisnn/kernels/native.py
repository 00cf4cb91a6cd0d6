"""Machine code of loops: from this process, from disk, or compiled.

A loop is compiled by Numba once on a machine (:mod:`minisnn.kernels.compiler`).  Its machine code is kept in a file, and
from then on LLVM alone loads it: importing Numba takes longer than everything else before a first gradient.

A file is named after what the loop computes, the sources of this folder and the processor, so that nothing that was edited
ever meets old code (:mod:`minisnn.kernels.disk`).
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import sys
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from . import disk
from .jit import Kind, Loop

__all__ = ["compile_loop", "counts", "problem", "target_machine"]


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


def _sources() -> str:
    """What tells this folder's sources from others; empty where there are none (in a zip file): then nothing is kept."""
    found = b"".join(f.read_bytes() for f in sorted(Path(__file__).parent.glob("*.py")))
    return hashlib.sha256(found).hexdigest() if found else ""


#: As they are imported, whatever is edited later.
SOURCES = _sources()
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
    return SOURCES, _numba()[1], llvmlite.__version__, system, sys.version_info[:2]


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
        return Loop(address, kinds, owner)
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
    return Loop(engine.get_function_address("run"), kinds, engine)
