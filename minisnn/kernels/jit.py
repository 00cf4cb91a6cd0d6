"""What all compiled kernels share: types of arrays, unsigned positions, functions that are compiled into others."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, register_jitable

from .narrow import digest

__all__ = ["U", "ahead", "array_type", "compile_loop", "helper", "named"]

#: Positions are unsigned: a signed one might count from the end, and the compiler then goes lane by lane.
U = np.uint64
#: Compiled into what calls it, and nothing else: Python never does, so that it needs no way in.
helper = register_jitable(no_cpython_wrapper=True, no_cfunc_wrapper=True)


def array_type(dtype: Any, readonly: bool = True, ndim: int = 1) -> types.Array:
    """Numba's type of a C-contiguous array of a NumPy dtype: what loops are compiled for."""
    return types.Array(numba.from_dtype(np.dtype(dtype)), ndim, "C", readonly=readonly)


def compile_loop(python_loop: Callable, signature: tuple) -> Callable:
    """The machine code of a Python function for one signature, from the disk cache where it has it."""
    try:
        python_loop.__qualname__ += f"_{_helpers()}"
        loop = numba.njit(nogil=True, error_model="numpy", cache=True)(python_loop)
        loop.compile(signature)
    except Exception:  # an unwritable folder, a damaged cache file: compile without, and let a true error show itself
        loop = numba.njit(nogil=True, error_model="numpy")(python_loop)
        loop.compile(signature)
    loop.disable_compile()  # read-only inputs are then accepted as they are, not compiled anew
    return loop


@cache
def _helpers() -> str:
    """A digest of the files with functions that are compiled into loops of others: Numba's cache does not look at them."""
    return digest([Path(__file__).with_name(f"{name}.py").read_bytes() for name in ("jit", "rows", "events", "normal")])


def named(mark: str) -> Callable:
    """A decorator for the parts of one loop: it puts `mark`, a digest of what the loop computes, into their names.

    Numba knows functions by name in two places where different code of one name gives wrong results: a cache file may be
    written by two processes at once, and machine code that two processes compiled meets in a third one.
    """

    def name(function: Callable) -> Callable:
        function.__qualname__ = f"{function.__name__}_{mark}"
        return helper(function)

    return name


@intrinsic
def _prefetch(typing_context, array, at):
    """Ask for one line of memory ahead of its use."""

    def code(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        place = builder.bitcast(builder.gep(data, [arguments[1]]), pointer)
        kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", (pointer,), kind)
        builder.call(prefetch, [place, *(number(n) for n in (0, 2, 1))])  # to be read, into the second cache, data

    return types.void(array, at), code


@helper
def ahead(array, at, m):
    """Ask for `m` numbers from `at` on: rows lie too far apart for the processor to guess which comes next."""
    for n in range(U(0), m, U(64 // array.itemsize)):
        _prefetch(array, at + n)  # type: ignore[call-arg]
