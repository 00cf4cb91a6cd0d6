"""Numba, as its documentation has it: ``njit(nogil=True, cache=True)``, and machine code in Numba's own disk cache.

A *loop* is a plain function over arrays and numbers.  What it calls are plain functions too, made known to Numba with
:func:`helper`: Numba compiles them into the loop, and finds the loop in its cache in the next process.  (It would not if
they were compiled functions themselves.)
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, register_jitable

from .arrays import Array
from .threads import undisturbed

__all__ = [
    "ALL", "BLOCK", "Loop", "U", "ahead", "ahead_to_write", "digest", "flat_read_only", "helper", "inlined",
    "read_only",
]  # fmt: skip

#: Positions are unsigned: a signed one might count from the end, and LLVM then goes lane by lane.
U = np.uint64
#: Lanes that are worked on between two requests for memory: more at once than a processor keeps track of make it wait.
BLOCK = U(256)
OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}


#: Every loop of this process.
ALL: list[Loop] = []


class Loop:
    """A function that Numba compiles, once for each kind of arguments that it is called with.

    Parameters
    ----------
    function : the loop in Python; as a decorator ``@Loop`` on a function at module level nothing else is needed.
    mark : for a loop that is built inside a function, for arguments of one kind: what tells it from others of its name, e.g.
        the formulas that it is built from.
    """

    def __init__(self, function: Callable[..., Any], mark: Any = "") -> None:
        # Numba's cache looks at the loop's own file and name, not at what is compiled into it: so that is in the name.
        function.__qualname__ = f"{function.__name__}_{digest((SOURCES, mark))}"
        self.function, self.one_kind = function, bool(mark)
        self.compiled: dict[tuple, Callable[..., None]] = {}
        ALL.append(self)

    def __call__(self, *arguments: Any) -> None:
        kind: tuple = ()
        if not self.one_kind:
            kind = tuple([(a.dtype, a.flags.writeable) if isinstance(a, np.ndarray) else None for a in arguments])
        (self.compiled.get(kind) or self._compile(kind, arguments))(*arguments)

    def _compile(self, kind: tuple, arguments: tuple[Any, ...]) -> Callable[..., None]:
        def work() -> Callable[..., None]:
            with _compiling:
                if kind not in self.compiled:
                    signature = tuple(map(numba.typeof, arguments))
                    try:
                        found = numba.njit(self.function, cache=True, **OPTIONS)
                        found.compile(signature)
                    except Exception:  # no folder to write to, a full disk, a damaged file: a cache is never an error
                        found = numba.njit(self.function, **OPTIONS)
                        found.compile(signature)
                    found.disable_compile()
                    self.compiled[kind] = found
                return self.compiled[kind]

        return undisturbed(work)


def helper(function: Callable[..., Any], *mark: Any) -> Callable[..., Any]:
    """Let loops call `function`, which stays a plain one.

    `mark` : for one that is built inside another function, what tells it from others of its name.  Numba links machine code
    by name, and code of two processes may meet in the cache of a third.
    """
    if mark:
        function.__qualname__ = f"{function.__name__.strip('<>')}_{digest(mark)}"
    return register_jitable(no_cpython_wrapper=True, no_cfunc_wrapper=True)(function)


#: As :func:`helper`, for a short one: Numba copies it into the loop, and counts no references to its arrays at every call.
inlined = register_jitable(inline="always")


def flat_read_only(array: Array) -> Array:
    """As :func:`read_only`, in one row."""
    view = array.reshape(-1)
    view.flags.writeable = False
    return view


def read_only(array: Array) -> Array:
    """The same memory as an array that cannot be written: Numba then refuses to compile a loop that writes it."""
    view = array.view()
    view.flags.writeable = False
    return view


# -- names in the cache


def digest(mark: Any) -> str:
    """A short name for what has this `repr`, the same in every process."""
    return hashlib.sha256(repr(mark).encode()).hexdigest()[:16]


#: The sources as they were imported: helpers of a loop may stand in any of these files.
HERE = Path(__file__).parent
SOURCES = digest([file.read_bytes() for file in (*sorted(HERE.glob("*.py")), HERE.parent / "spikes.py")])


# -- compiling and forking: a forked child has one thread, and would wait for ever for the one that held the lock

_compiling = threading.RLock()


def _forget_lock() -> None:
    global _compiling
    _compiling = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=lambda: _compiling.acquire(), after_in_parent=lambda: _compiling.release(), after_in_child=_forget_lock
    )


# -- memory ahead of its use


def _prefetch(write: int) -> Any:
    """A request for the line of memory at ``array[at]``, to be read or written, into the second cache."""

    @intrinsic
    def prefetch(typing_context: Any, array: Any, at: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
            data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
            line = builder.bitcast(builder.gep(data, [arguments[1]]), pointer)
            kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
            function = builder.module.declare_intrinsic("llvm.prefetch", (pointer,), kind)
            builder.call(function, [line, number(write), number(2), number(1)])
            return context.get_dummy_value()

        return types.void(array, at), code

    return prefetch


_to_read, _to_write = _prefetch(0), _prefetch(1)


@helper
def ahead(array, at, m):
    """Ask for `m` numbers from `at` on before they are read.

    Rows of two steps lie too far apart in memory for the processor to guess which comes next: worth 1.2 to 1.8 times.
    """
    for n in range(U(0), m, U(64 // array.itemsize)):
        _to_read(array, at + n)


@helper
def ahead_to_write(array, at, m):
    """Ask for `m` numbers from `at` on before they are written."""
    for n in range(U(0), m, U(64 // array.itemsize)):
        _to_write(array, at + n)
