"""Numba, as its documentation has it: ``njit(nogil=True, cache=True)`` and Numba's own disk cache.

A *loop* is a plain function over arrays and numbers.  It calls plain functions that
:func:`helper` makes known to Numba: Numba compiles them into the loop, and finds the loop in its
cache in the next process.  (With compiled functions inside it would not.)
"""

from __future__ import annotations

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

from ..formula import digest
from .arrays import Array
from .threads import undisturbed

__all__ = ["Loop", "ahead", "digest", "flat", "helper", "inlined", "read_only"]

#: Positions are unsigned: a signed one might count from the end, and LLVM then goes lane by lane.
U = np.uint64
#: Lanes between two requests for memory: more than a processor keeps track of make it wait.
BLOCK = U(256)
OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
#: Every loop of this process.
ALL: list[Loop] = []


class Loop:
    """A function that Numba compiles, once for each kind of arguments that it is called with.

    Parameters
    ----------
    function : the loop in Python; ``@Loop`` as a decorator on a function at module level.
    mark : for a loop that is built inside a function, for arguments of one kind: what tells it
        from others of its name, e.g. the formulas that it is built from.
    """

    def __init__(self, function: Callable[..., Any], mark: Any = "") -> None:
        # Numba's cache looks at the loop's own file and name, not at what is compiled into it.
        function.__qualname__ = f"{function.__name__}_{digest((SOURCES, mark))}"
        self.function, self.one_kind = function, bool(mark)
        self.compiled: dict[tuple, Callable[..., None]] = {}
        ALL.append(self)

    def __call__(self, *arguments: Any) -> None:
        kind: tuple = ()
        if not self.one_kind:
            arrays = [a if isinstance(a, np.ndarray) else None for a in arguments]
            kind = tuple([a if a is None else (a.dtype, a.flags.writeable) for a in arrays])
        (self.compiled.get(kind) or self._compile(kind, arguments))(*arguments)

    def _compile(self, kind: tuple, arguments: tuple[Any, ...]) -> Callable[..., None]:
        def work() -> Callable[..., None]:
            with _compiling:
                if kind not in self.compiled:
                    signature = tuple(map(numba.typeof, arguments))
                    try:
                        found = numba.njit(self.function, cache=True, **OPTIONS)
                        found.compile(signature)
                    except Exception:  # no folder, full disk, damaged file: never an error
                        found = numba.njit(self.function, **OPTIONS)
                        found.compile(signature)
                    found.disable_compile()
                    self.compiled[kind] = found
                return self.compiled[kind]

        return undisturbed(work)


def helper(function: Callable[..., Any], *mark: Any) -> Callable[..., Any]:
    """Let loops call `function`, which stays a plain one.

    `mark` : for one that is built inside another function, what tells it from others of its name.
    Numba links machine code by name, and code of two processes may meet in the cache of a third.
    """
    if mark:
        function.__qualname__ = f"{function.__name__.strip('<>')}_{digest(mark)}"
    return register_jitable(no_cpython_wrapper=True, no_cfunc_wrapper=True)(function)


#: As :func:`helper`, for a short one: Numba copies it into the loop, and does not count references
#: to its arrays at every call.
inlined = register_jitable(inline="always")


def read_only(array: Array) -> Array:
    """The same memory, read-only: Numba then refuses to compile a loop that writes it."""
    view = array.view()
    view.flags.writeable = False
    return view


def flat(*arrays: Array) -> list[Array]:
    """As :func:`read_only`, each in one row."""
    views = []
    for array in arrays:
        views.append(array.reshape(-1))
        views[-1].flags.writeable = False
    return views


# -- names in the cache


#: The sources as they were imported: helpers of a loop may stand in any of these files.
HERE = Path(__file__).parent
SOURCES = digest([f.read_bytes() for f in (*sorted(HERE.glob("*.py")), HERE.parent / "spikes.py")])


# -- a forked child has one thread, which must not wait for a lock that another one held

_compiling = threading.RLock()
if hasattr(os, "register_at_fork"):
    release = _compiling.release
    os.register_at_fork(before=_compiling.acquire, after_in_parent=release, after_in_child=release)


# -- memory ahead of its use: rows of two steps lie too far apart for the processor to guess which
# -- comes next; worth 1.2 to 1.8 times


def _prefetch(write: int) -> Any:
    """Request the line of memory at ``array[at]``, to read or write it, into the second cache."""

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


# At module level: Numba's cache does not know an intrinsic in a closure again.
_to_read, _to_write = _prefetch(0), _prefetch(1)
TO_READ, TO_WRITE = False, True


@helper
def ahead(array, at, m, to_write):
    """Request `m` numbers from `at` on; `to_write` is one of the two constants above."""
    for n in range(U(0), m, U(64 // array.itemsize)):
        if to_write:
            _to_write(array, at + n)
        else:
            _to_read(array, at + n)
