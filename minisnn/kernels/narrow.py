"""Copies of floor-0 functions whose numbers have one dtype: nothing widens.

In a compiled loop ``0.5 * v`` with a float32 ``v`` is a float64, since a bare number is one.  A *narrowed copy* has every
number, written in the body, at module level or in a closure, cast to the dtype.
"""

from __future__ import annotations

import builtins
import dis
import types
from functools import lru_cache
from typing import Any

import numpy as np

from ..grammar import numbers_of

__all__ = ["computes", "fingerprint", "for_numpy", "narrowed", "rests_on"]

Function = Any  # a plain Python function: the grammar has made sure of it


def fingerprint(function: Function) -> tuple[Any, ...]:
    """Equal for two functions exactly if they compute the same: the code and the numbers it uses *now*.

    Its ``repr`` is the same in every process.
    """
    numbers = tuple((n, type(v).__name__, repr(v)) for n, v in numbers_of(function).items())
    return computes(function.__code__), numbers


def rests_on(functions: tuple[Function, ...]) -> list[Any]:
    """What the fingerprints of these functions are taken from: as long as these are the same objects, so are they.

    Cheap enough for every call, so that a constant rebound in a notebook never meets a stale kernel.
    """
    now: list[Any] = []
    for function in functions:
        code = function.__code__
        now += code, *map(function.__globals__.get, code.co_names)
        now += [cell.cell_contents for cell in function.__closure__ or ()]
    return now


@lru_cache(maxsize=512)
def computes(code: types.CodeType) -> tuple[Any, ...]:
    """Equal for code that does the same with the same names."""
    constants = tuple(repr(c) for c in code.co_consts if not isinstance(c, str))  # the docstring is not code
    return code.co_code, code.co_argcount, constants, code.co_names, code.co_freevars


def narrowed(function: Function, dtype: np.dtype) -> Function:
    """A copy of `function` in which every number has `dtype`; one object for equal functions."""
    return _narrowed(_Key(fingerprint(function), function), np.dtype(dtype))


def for_numpy(function: Function, dtype: np.dtype) -> Function:
    """`function` itself, unless a NumPy scalar in it (``np.exp(-0.1)`` at module level) would widen float32 arrays."""
    if any(isinstance(v, np.generic) for v in numbers_of(function).values()):
        return narrowed(function, dtype)
    return function


class _Key:
    """A function, compared by its fingerprint."""

    __slots__ = ("function", "mark")

    def __init__(self, mark: tuple[Any, ...], function: Function) -> None:
        self.mark, self.function = mark, function

    def __hash__(self) -> int:
        return hash(self.mark)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self.mark == other.mark


@lru_cache(maxsize=512)
def _narrowed(key: _Key, dtype: np.dtype) -> Function:
    function, code = key.function, key.function.__code__
    number = dtype.type

    def cast(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(cast(v) for v in value)
        is_number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
        return number(value) if is_number else value

    constants = tuple(None if isinstance(c, str) else cast(c) for c in code.co_consts)  # the docstring is not code
    bytecode, constants = _without_small_ints(code, constants, number)
    scope: dict[str, Any] = {n: cast(v) for n, v in numbers_of(function).items() if n not in code.co_freevars}
    scope |= {n: np for n in code.co_names if function.__globals__.get(n) is np}
    scope |= {"__name__": __name__, "__builtins__": builtins}
    cells = tuple(types.CellType(cast(c.cell_contents)) for c in function.__closure__ or ())
    code = code.replace(co_code=bytecode, co_consts=constants)
    return types.FunctionType(code, scope, function.__name__, None, cells or None)


def _without_small_ints(code: types.CodeType, constants: tuple, number: type) -> tuple[bytes, tuple]:
    """From Python 3.14 small integers stand in the instructions; make them constants of the dtype."""
    small = dis.opmap.get("LOAD_SMALL_INT")
    if small is None:
        return code.co_code, constants
    bytecode = bytearray(code.co_code)
    for step in dis.get_instructions(code):
        if step.opcode == small:
            bytecode[step.offset : step.offset + 2] = bytes((dis.opmap["LOAD_CONST"], len(constants)))
            constants += (number(step.argval),)
    if len(constants) > 255:
        raise ValueError(f"{code.co_name}: more than 255 numbers in one function")
    return bytes(bytecode), constants
