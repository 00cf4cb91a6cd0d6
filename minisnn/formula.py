"""Formulas: functions of a few numbers, traced once and written out for every backend.

A neuron, a reset and a surrogate are pairs of small functions.  :func:`trace` calls each once on
*symbols*, when the Neuron, Reset or Surrogate is made, and records what it computes as a list of
assignments.  From that record come the functions that NumPy and Numba run, in which every number
has one dtype (:meth:`Formula.python`), their C for a GPU (:meth:`Formula.c`), and their values on
numbers of any other kind: SymPy's symbols, exact fractions (:meth:`Formula.evaluate`).

A formula is straight-line arithmetic: ``+ - * /``, comparisons, and the functions of NumPy in
:data:`FUNCTIONS`.  Helper functions and loops over constants unroll.  Constants are read when the
object is made.
"""

from __future__ import annotations

import hashlib
import inspect
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NoReturn

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

__all__ = ["FUNCTIONS", "Formula", "FormulaError", "trace"]

#: What a formula may compute, by NumPy's names: functions, and operators with their signs.
FUNCTIONS = ("exp", "arctan", "tanh", "sqrt", "log", "cos", "sin", "maximum", "minimum")
ARITHMETIC = {"add": "+", "subtract": "-", "multiply": "*", "divide": "/", "negative": "-"}
COMPARISONS = {"less": "<", "less_equal": "<=", "greater": ">", "greater_equal": ">="}
COMPARISONS |= {"equal": "==", "not_equal": "!="}
SIGNS = ARITHMETIC | COMPARISONS
#: How to write what it may not.
ADVICE = {
    "absolute": "write |x| as np.maximum(x, -x): np.abs makes the complex step silently wrong",
    "sign": "multiply by comparisons, e.g. 1.0*(x > 0) - 1.0*(x < 0)",
    "where": "multiply by a comparison, e.g. x*(x > 0)",
    "power": "write x*x for x**2",
    "bitwise_and": "multiply a number by each comparison in turn, e.g. k*(x <= 0.5)*(x >= -0.5)",
}
IN_PLACE = "changes an argument, or a value that has two names, in place; write a = a + b"
ALLOWED = f"only + - * /, comparisons and np.{', np.'.join(FUNCTIONS)} are allowed"
LARGEST = float(np.finfo(np.float32).max)


class FormulaError(TypeError):
    """A function does what a backend cannot run; the message names the function and the cure."""


@dataclass(eq=False, repr=False)
class Symbol(NDArrayOperatorsMixin):
    """A number whose value is not known yet: an argument, or the result of an operation.

    The mixin's operators call NumPy's functions, which call `__array_ufunc__`.
    """

    record: _Record
    name: str
    is_comparison: bool = False

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Symbol:
        """Record one operation, or refuse it if the backends would not all compute the same."""
        record, name, out = self.record, ufunc.__name__, options.pop("out", (None,))[0]
        if name not in FUNCTIONS and name not in SIGNS:
            raise FormulaError(f"uses np.{name}; {ADVICE.get(name, ALLOWED)}")
        in_place = isinstance(out, Symbol) and name not in FUNCTIONS
        if method != "__call__" or options or (out is not None and not in_place):
            raise FormulaError(f"calls np.{name} with keyword arguments; pass plain ones")
        if in_place and out.name in record.args:
            raise FormulaError(IN_PLACE)
        if sum(getattr(i, "is_comparison", False) for i in inputs) > (name == "multiply"):
            wrong = "computes with a comparison, or two, which widens float32 in a compiled loop"
            raise FormulaError(f"{wrong}; {ADVICE['bitwise_and']}")
        operands, found = tuple(map(record.operand, inputs)), f"t{len(record.steps)}"
        record.steps.append((found, name, operands))
        record.changed |= {out.name} if in_place else set()
        return Symbol(record, found, name in COMPARISONS)

    def __array_function__(self, function: Any, *_: Any) -> NoReturn:
        name = function.__name__
        raise FormulaError(f"uses np.{name}; {ADVICE.get(name, ALLOWED)}")

    def __bool__(self) -> NoReturn:
        branches = "branches on a value (if, and, or, not, a chained comparison)"
        raise FormulaError(f"{branches}; multiply by a comparison instead, e.g. x*(x > 0)")

    def __getitem__(self, *_: Any) -> NoReturn:
        raise FormulaError("uses an index; a formula sees one number at a time")

    def __float__(self) -> NoReturn:
        why = "as functions of the math module do; use numpy's functions"
        raise FormulaError(f"needs the value of a number, {why}")

    __setitem__ = __getitem__
    __int__ = __index__ = __complex__ = __float__

    def __pos__(self) -> Symbol:
        return self


class _Record:
    """What a function has computed so far.

    Arguments are called ``a0``, ``a1``: the function's own names may be those of C or of steps.
    """

    def __init__(self, n_args: int) -> None:
        self.args = tuple(f"a{i}" for i in range(n_args))
        self.steps: list[tuple[str, str, tuple[str, ...]]] = []
        self.constants: dict[str, str] = {}  #: digits -> name
        self.changed: set[str] = set()  #: steps that an in-place operator wrote over

    def operand(self, value: Any) -> str:
        """The name of a symbol, or of a constant."""
        if isinstance(value, Symbol):
            if value.record is not self:
                raise FormulaError("computes with a value that another formula left behind")
            if value.name in self.changed:
                raise FormulaError(IN_PLACE)
            return value.name
        if isinstance(value, np.ndarray) and value.ndim == 0:
            value = value[()]  # NumPy makes one of its own number left of a comparison
        is_number = isinstance(value, int | float | np.floating | np.integer)
        if isinstance(value, bool) or not is_number or not abs(value) <= LARGEST:
            got = f"{value!r}, a {type(value).__name__}"
            expected = "expected a finite number that float32 can hold"
            raise FormulaError(f"computes with {got}; {expected}")
        return self.constants.setdefault(repr(float(value)), f"c{len(self.constants)}")


@dataclass(frozen=True)
class Formula:
    """The record of one function.

    Two are equal if they compute the same by the same operations, whatever their names.  ``steps``
    are assignments ``(name, operation, operands)``.  Operands and ``results`` are names of
    arguments (``a0``), earlier steps (``t0``) or ``constants``, which are pairs of a name and the
    digits.
    """

    name: str = field(compare=False, repr=False)
    args: tuple[str, ...]
    steps: tuple[tuple[str, str, tuple[str, ...]], ...]
    constants: tuple[tuple[str, str], ...]
    results: tuple[str, ...]

    @property
    def depends(self) -> tuple[set[int], ...]:
        """For each result the positions of the arguments that it is computed from."""
        known = {name: {i} for i, name in enumerate(self.args)}
        known |= {name: set() for name, _ in self.constants}
        for name, _, operands in self.steps:
            known[name] = set[int]().union(*(known[o] for o in operands))
        return tuple(known[r] for r in self.results)

    def python(self, dtype: Any) -> Callable[..., Any]:
        """The formula as a function for NumPy and Numba.

        Its numbers have `dtype`, or if that is complex, the dtype of its real part.
        """
        return _python(self, np.zeros(0, dtype).real.dtype)

    def c(self, name: str) -> str:
        """A C++ function ``void name(arguments, results)`` on numbers of the type ``real``."""
        numbers = [f"const real {a}" for a in self.args]
        numbers += [f"real& out{i}" for i in range(len(self.results))]
        lines = [f"const real {n} = (real){digits};" for n, digits in self.constants]
        for n, operation, operands in self.steps:
            function = {"arctan": "atan"}.get(operation, operation)
            lines.append(f"const real {n} = {_text(operation, operands, function)};")
        lines += [f"out{i} = {r};" for i, r in enumerate(self.results)]
        head = f"__device__ inline void {name}({', '.join(numbers)}) {{"
        return "\n".join([head, *(f"    {line}" for line in lines), "}"])

    def evaluate(
        self, *values: Any, call: Callable[..., Any], number: Callable[[float], Any] = float
    ) -> tuple[Any, ...]:
        """The results for arguments of any kind that has ``+ - * /``.

        ``number(value)`` makes a constant of that kind; ``call(name, *operands)`` computes a
        comparison or a function by its name in NumPy.
        """
        known = dict(zip(self.args, values, strict=True))
        known |= {name: number(float(digits)) for name, digits in self.constants}
        for name, operation, operands in self.steps:
            inputs = [known[o] for o in operands]
            if operation in ARITHMETIC:  # NumPy calls the operators of objects it does not know
                known[name] = getattr(np, operation)(*inputs)
            else:
                known[name] = call(operation, *inputs)
        return tuple(known[r] for r in self.results)


def _text(operation: str, operands: tuple[str, ...], function: str) -> str:
    """One operation, as C and Python write it; `function` is its name if it is one."""
    if operation in FUNCTIONS:
        return f"{function}({', '.join(operands)})"
    return f"-{operands[0]}" if operation == "negative" else f" {SIGNS[operation]} ".join(operands)


@lru_cache(maxsize=1024)
def _python(formula: Formula, dtype: np.dtype) -> Callable[..., Any]:
    lines = [f"{n} = {_text(name, inputs, f'np.{name}')}" for n, name, inputs in formula.steps]
    lines.append(f"return {', '.join(formula.results)}")
    # Numba's disk cache finds a function by its module, which must be one that can be imported,
    # and by its name, which no other function may have.
    scope: dict[str, Any] = {"np": np, "__name__": __name__}
    scope |= {n: dtype.type(float(digits)) for n, digits in formula.constants}
    source = "\n    ".join([f"def formula({', '.join(formula.args)}):", *lines])
    exec(compile(source, f"<formula {formula.name}>", "exec"), scope)
    function: Callable[..., Any] = scope["formula"]
    function.__name__ = function.__qualname__ = f"formula_{digest((formula, dtype.char))}"
    return function


def trace(function: Any, what: str, n_args: int, n_results: int) -> Formula:
    """The record of `function`.

    Parameters
    ----------
    function : a plain Python function.
    what : its role, for messages, e.g. ``"charge of a neuron with state ('v',)"``.
    n_args, n_results : how many arguments it must take, and how many values it must return (1: a
        bare value).

    Raises
    ------
    FormulaError : it takes or returns something else, or computes what cannot be recorded.
    """
    if not isinstance(function, types.FunctionType):
        kind = type(function).__name__
        raise FormulaError(f"{what}: expected a plain Python function, got {kind} {function!r}")
    name, signature = f"{what}: {function.__name__}()", inspect.signature(function)
    named = [p for p in signature.parameters.values() if p.kind <= p.POSITIONAL_OR_KEYWORD]
    plain = [p for p in named if p.default is p.empty]
    if not len(plain) == len(signature.parameters) == n_args:
        got = f"takes {len(signature.parameters)} arguments {signature}"
        expected = f"expected {n_args} with names of their own and without default values"
        raise FormulaError(f"{name} {got}, {expected}")
    record = _Record(n_args)
    try:
        found = function(*(Symbol(record, a) for a in record.args))
        got = f"a tuple of {len(found)}" if isinstance(found, tuple) else "a bare value"
        expected = f"a tuple of {n_results}" if n_results > 1 else "a bare value"
        if got != expected:
            raise FormulaError(f"returns {got}, expected {expected}")
        values = found if isinstance(found, tuple) else (found,)
        if any(getattr(value, "is_comparison", False) for value in values):
            raise FormulaError("must return numbers; multiply a comparison by 1.0 to make it one")
        results = tuple(map(record.operand, values))
    except FormulaError as error:
        raise FormulaError(f"{name} {error}") from None
    except Exception as error:
        raise FormulaError(f"{name} fails on symbols: {type(error).__name__}: {error}") from None
    constants = tuple((n, digits) for digits, n in record.constants.items())
    return Formula(function.__name__, record.args, tuple(record.steps), constants, results)


def digest(mark: Any) -> str:
    """A short name for what has this `repr`, the same in every process."""
    return hashlib.sha256(repr(mark).encode()).hexdigest()[:16]
