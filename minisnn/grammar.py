"""What a floor-0 function may contain, so that NumPy, Numba and a GPU read it alike.

A neuron, a reset and a surrogate are pairs of small functions, and the very same source runs on arrays, inside a
compiled loop over single numbers and on a GPU.  That works for straight-line arithmetic and for little else.
:func:`check` reads the bytecode, so it needs no source file and treats a notebook cell like a module, and then runs
the function once on probes that watch what is done to them.
"""

from __future__ import annotations

import dis
import types
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NoReturn

import numpy as np

__all__ = ["FUNCTIONS", "GrammarError", "check", "dependencies", "numbers_of"]

#: The functions of NumPy that a floor-0 function may call.
FUNCTIONS = ("exp", "arctan", "tanh", "sqrt", "log", "cos", "sin", "maximum", "minimum")

_ADVICE = {
    "abs": "write |x| as np.maximum(x, -x): np.abs makes the complex step silently wrong",
    "absolute": "write |x| as np.maximum(x, -x): np.abs makes the complex step silently wrong",
    "sign": "a GPU kernel refuses it; multiply by comparisons, e.g. 1.0*(x > 0) - 1.0*(x < 0)",
    "where": "a GPU kernel refuses it; multiply by a comparison, e.g. x*(x > 0)",
    "pi": "bind the number to a module-level name, e.g. HALF_PI = math.pi / 2, and use that name",
}
_OPERATORS = ("+", "-", "*", "/")
#: Instruction names (or their beginnings) of straight-line code, over CPython 3.11 to 3.14.
_STRAIGHT = (
    "CACHE", "CALL", "COMPARE_OP", "COPY", "EXTENDED_ARG", "LOAD_", "BUILD_TUPLE", "MAKE_CELL", "NOP", "NOT_TAKEN",
    "POP_TOP", "PRECALL", "PUSH_NULL", "RESUME", "RETURN_", "STORE_FAST", "SWAP", "UNARY_NEGATIVE", "UNARY_POSITIVE",
    "UNPACK_SEQUENCE",
)  # fmt: skip


class GrammarError(TypeError):
    """A floor-0 function does what one of the backends could not read; the message names the function and the cure."""


def check(function: Any, what: str, n_args: int, n_results: int) -> None:
    """Raise :class:`GrammarError` unless `function` keeps the grammar of floor 0.

    Parameters
    ----------
    function : the function to look at.
    what : its role, for the message, e.g. ``"charge of a neuron with state ('v',)"``.
    n_args, n_results : how many arguments it must take and how many values it must return (1: a bare value).
    """
    if not isinstance(function, types.FunctionType):
        raise GrammarError(f"{what}: expected a plain Python function, got {type(function).__name__} {function!r}")
    name = f"{what}: {function.__name__}()"
    _check_signature(function, name, n_args)
    _check_instructions(function, name)
    _check_results(function, name, n_args, n_results)


def numbers_of(function: Any) -> dict[str, Any]:
    """The module-level and enclosing numbers that `function` uses, by name: what a compiled copy has to freeze."""
    names = function.__code__.co_names
    found = {n: function.__globals__[n] for n in names if _is_number(function.__globals__.get(n))}
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    return found | {n: cell.cell_contents for n, cell in cells}


@lru_cache(maxsize=512)
def dependencies(function: Any) -> tuple[frozenset[int], ...]:
    """For each result of `function` the positions of the arguments it is computed from."""
    result = function(*(_Probe(sources={i}) for i in range(function.__code__.co_argcount)))
    values = result if isinstance(result, tuple) else (result,)
    return tuple(getattr(value, "sources", frozenset()) for value in values)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.floating | np.integer) and not isinstance(value, bool)


def _check_signature(function: types.FunctionType, name: str, n_args: int) -> None:
    code = function.__code__
    if function.__defaults__ or function.__kwdefaults__:
        arguments = code.co_varnames[code.co_argcount - len(function.__defaults__ or ()) : code.co_argcount]
        names = ", ".join(arguments + tuple(function.__kwdefaults__ or ()))
        raise GrammarError(f"{name} gives default values to {names}; make them module-level numbers or parameters")
    if code.co_flags & 0x0C or code.co_kwonlyargcount:
        raise GrammarError(f"{name} takes *args or keyword arguments; list its arguments one by one")
    if code.co_argcount != n_args:
        got = ", ".join(code.co_varnames[: code.co_argcount])
        raise GrammarError(f"{name} takes {code.co_argcount} arguments ({got}), expected {n_args}")
    for variable, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        if not _is_number(cell.cell_contents):
            raise GrammarError(
                f"{name} uses the enclosing variable {variable!r}, a {type(cell.cell_contents).__name__}; "
                "only numbers may be enclosed"
            )


def _check_instructions(function: types.FunctionType, name: str) -> None:
    returns = 0
    for step in dis.get_instructions(function):
        op, arg = step.opname, step.argval
        if "JUMP" in op or op.startswith(("FOR_", "GET_ITER", "SEND", "TO_BOOL", "UNARY_NOT", "YIELD")):
            raise GrammarError(
                f"{name} branches or loops (if, and, or, not, a chained comparison, a conditional expression); "
                "multiply by a comparison instead, e.g. x*(x > 0)"
            )
        if "SUBSCR" in op or "SLICE" in op or (op == "BINARY_OP" and step.argrepr == "[]"):
            raise GrammarError(f"{name} uses an index; floor 0 sees one number at a time")
        if op == "BINARY_OP":
            if step.argrepr not in _OPERATORS:
                hint = "; write x*x for x**2" if "**" in step.argrepr else ""
                hint = "; write a = a + b: an in-place operator writes into the input" if step.argrepr[-1] == "=" else hint
                raise GrammarError(f"{name} uses the operator {step.argrepr}; only + - * / are allowed{hint}")
        elif op in ("KW_NAMES", "CALL_KW", "CALL_FUNCTION_EX"):
            raise GrammarError(f"{name} calls a function with keyword or starred arguments; pass plain ones")
        elif op in ("LOAD_GLOBAL", "LOAD_NAME"):
            _check_global(function, name, arg)
        elif op in ("LOAD_ATTR", "LOAD_METHOD"):
            if arg not in FUNCTIONS:
                advice = _ADVICE.get(arg, "allowed are np." + " np.".join(FUNCTIONS))
                raise GrammarError(f"{name} uses .{arg}; {advice}")
        elif not op.startswith(_STRAIGHT) and (op, arg) != ("CALL_INTRINSIC_1", 5):  # 5: the unary plus
            raise GrammarError(f"{name} is not straight-line arithmetic (instruction {op})")
        returns += op.startswith("RETURN_") and op != "RETURN_GENERATOR"
    if returns != 1:
        raise GrammarError(f"{name} has {returns} return statements, expected one, at its end")


def _check_global(function: types.FunctionType, name: str, variable: str) -> None:
    if variable not in function.__globals__:
        raise GrammarError(f"{name} uses {variable!r}, which is not a module-level number (or not defined yet)")
    value = function.__globals__[variable]
    if value is not np and not _is_number(value):
        raise GrammarError(
            f"{name} uses {variable!r}, a {type(value).__name__}; floor 0 uses numpy's functions, "
            "its arguments and module-level numbers, and calls no other function"
        )


class _Probe:
    """A stand-in for a number or for the result of a comparison, which refuses what a backend would refuse."""

    __slots__ = ("is_comparison", "sources")

    def __init__(self, is_comparison: bool = False, sources: Iterable[int] = ()) -> None:
        self.is_comparison, self.sources = is_comparison, frozenset(sources)

    def _combine(self, other: Any) -> _Probe:
        if self.is_comparison and (isinstance(other, bool) or getattr(other, "is_comparison", False)):
            raise GrammarError(
                "combines two comparisons, which widens float32 in a compiled loop; "
                "multiply a number by each in turn, e.g. k*(x <= 0.5)*(x >= -0.5)"
            )
        return _Probe(sources=_sources(self, other))

    def _compare(self, other: Any) -> _Probe:
        return _Probe(True, _sources(self, other))

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _combine
    __lt__ = __le__ = __gt__ = __ge__ = __eq__ = __ne__ = _compare  # type: ignore[assignment]
    __hash__ = None  # type: ignore[assignment]

    def __neg__(self) -> _Probe:
        if self.is_comparison:
            raise GrammarError("negates a comparison; write -1.0*(x > 0)")
        return _Probe(sources=self.sources)

    __pos__ = __neg__

    def __bool__(self) -> NoReturn:
        raise GrammarError("asks whether a number is true; multiply by a comparison instead")

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> _Probe:
        if ufunc in (np.add, np.subtract, np.multiply, np.divide):  # a number of NumPy's on the left
            return self._combine(inputs[0])
        if ufunc.__name__ not in FUNCTIONS:
            raise GrammarError(f"uses np.{ufunc.__name__}")
        if any(getattr(i, "is_comparison", False) for i in inputs):
            raise GrammarError(f"hands a comparison to np.{ufunc.__name__}; multiply it by 1.0 first")
        return _Probe(sources=_sources(*inputs))


def _sources(*values: Any) -> frozenset[int]:
    """From which arguments these values come; numbers come from none."""
    return frozenset().union(*(getattr(value, "sources", ()) for value in values))


def _check_results(function: types.FunctionType, name: str, n_args: int, n_results: int) -> None:
    try:
        result = function(*(_Probe() for _ in range(n_args)))
    except GrammarError as error:
        raise GrammarError(f"{name} {error}") from None
    except Exception as error:
        raise GrammarError(f"{name} fails on plain numbers: {type(error).__name__}: {error}") from None
    values = result if isinstance(result, tuple) else (result,)
    if isinstance(result, tuple) and len(result) == 1:
        raise GrammarError(f"{name} returns a 1-tuple; return the bare value")
    if len(values) != n_results:
        raise GrammarError(f"{name} returns {len(values)} value(s), expected {n_results}")
    for value in values:
        if getattr(value, "is_comparison", False) or not (isinstance(value, _Probe) or _is_number(value)):
            raise GrammarError(f"{name} must return numbers; multiply a comparison by 1.0 to make it one")
