"""Formulas: functions of a few numbers, traced once and written out for every backend.

A neuron, a reset and a surrogate are pairs of small functions.  Each is called once on *symbols*,
when the Neuron, Reset or Surrogate is made, and what it computes is recorded as a list of
assignments.  From that record come the functions that NumPy and Numba run, in which every number
has one dtype (:meth:`Formula.python`), their C for a GPU (:meth:`Formula.c`), and their values on
numbers of any other kind: SymPy's symbols, exact fractions (:meth:`Formula.evaluate`).

Straight-line arithmetic can be recorded: ``+ - * /``, comparisons, and the functions of NumPy in
:data:`FUNCTIONS`.  Helper functions and loops over constants unroll.  Constants are read when the
object is made.
"""

from __future__ import annotations

import hashlib
import inspect
import operator
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NoReturn

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

__all__ = ["FUNCTIONS", "Formula", "FormulaError", "trace"]

#: The functions of NumPy that a formula may call.
FUNCTIONS = ("exp", "arctan", "tanh", "sqrt", "log", "cos", "sin", "maximum", "minimum")
ARITHMETIC: dict[str, Callable[..., Any]] = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "divide": operator.truediv,
    "negative": operator.neg,
}
COMPARISONS = ("less", "less_equal", "greater", "greater_equal", "equal", "not_equal")
TEXT = {"add": "+", "subtract": "-", "multiply": "*", "divide": "/"}
TEXT |= dict(zip(COMPARISONS, ("<", "<=", ">", ">=", "==", "!="), strict=True))
ADVICE = {
    "absolute": "write |x| as np.maximum(x, -x): np.abs makes the complex step silently wrong",
    "sign": "multiply by comparisons, e.g. 1.0*(x > 0) - 1.0*(x < 0)",
    "where": "multiply by a comparison, e.g. x*(x > 0)",
    "power": "write x*x for x**2",
    "bitwise_and": "multiply a number by each comparison in turn, e.g. k*(x <= 0.5)*(x >= -0.5)",
}
LARGEST = float(np.finfo(np.float32).max)


class FormulaError(TypeError):
    """A function does what a backend cannot run; the message names the function and the cure."""


class Symbol(NDArrayOperatorsMixin):
    """A number whose value is not known yet: an argument, or the result of an operation.

    The mixin's operators call NumPy's functions, which hand the operation to `__array_ufunc__`.
    """

    def __init__(
        self, record: _Record, name: str, depends: frozenset[int], is_comparison: bool = False
    ) -> None:
        self.record, self.name = record, name
        self.depends, self.is_comparison = depends, is_comparison

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Symbol:
        name, out = ufunc.__name__, options.pop("out", (None,))[0]
        in_place = isinstance(out, Symbol) and name not in FUNCTIONS
        if method != "__call__" or options or (out is not None and not in_place):
            raise FormulaError(f"calls np.{name} with keyword arguments; pass plain ones")
        if in_place and out.name in self.record.args:
            why = "an in-place operator writes into the input"
            raise FormulaError(f"changes an argument in place; write a = a + b: {why}")
        found = self.record.operation(name, *inputs)
        self.record.changed |= {out.name} if in_place else set()
        return found

    def __array_function__(self, function: Any, *_: Any) -> NoReturn:
        raise FormulaError(f"uses np.{function.__name__}; {_advice(function.__name__)}")

    def __bool__(self) -> NoReturn:
        cure = "multiply by a comparison instead, e.g. x*(x > 0)"
        branches = "branches on a value (if, and, or, not, a chained comparison)"
        raise FormulaError(f"{branches}; {cure}")

    def __getitem__(self, index: Any) -> NoReturn:
        raise FormulaError("uses an index; a formula sees one number at a time")

    def __setitem__(self, index: Any, value: Any) -> NoReturn:
        raise FormulaError("uses an index to write into its input; a formula returns its results")

    def __float__(self) -> NoReturn:
        why = "as functions of the math module do; use numpy's functions"
        raise FormulaError(f"needs the value of a number, {why}")

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
        self.changed: set[str] = set()  #: steps that an in-place operator has changed since

    def operation(self, name: str, *inputs: Any) -> Symbol:
        """Record one operation; refuse what no backend, or not every one, could run alike."""
        if name not in (*FUNCTIONS, *ARITHMETIC, *COMPARISONS):
            raise FormulaError(f"uses np.{name}; {_advice(name)}")
        comparisons = sum(getattr(i, "is_comparison", False) for i in inputs)
        if comparisons > (name == "multiply"):
            why = "which widens float32 in a compiled loop"
            raise FormulaError(
                f"computes with a comparison, or two comparisons, {why}; {ADVICE['bitwise_and']}"
            )
        found = f"t{len(self.steps)}"
        self.steps.append((found, name, tuple(map(self.operand, inputs))))
        depends = frozenset[int]().union(*(getattr(i, "depends", ()) for i in inputs))
        return Symbol(self, found, depends, name in COMPARISONS)

    def operand(self, value: Any) -> str:
        """The name of a symbol, or of a constant."""
        if isinstance(value, Symbol):
            if value.record is not self:
                raise FormulaError("computes with a value that another formula left behind")
            if value.name in self.changed:
                why = "was changed in place under another name; write a = a + b"
                raise FormulaError(f"uses a value that {why}")
            return value.name
        if isinstance(value, np.ndarray) and value.ndim == 0:
            value = value[()]  # NumPy makes one of its own number left of a comparison
        is_number = isinstance(value, int | float | np.floating | np.integer)
        if isinstance(value, bool) or not is_number or not abs(value) <= LARGEST:
            got = f"{value!r}, a {type(value).__name__}"
            raise FormulaError(
                f"computes with {got}; expected a finite number that float32 can hold"
            )
        return self.constants.setdefault(repr(float(value)), f"c{len(self.constants)}")


@dataclass(frozen=True)
class Formula:
    """The record of one function.

    Two are equal if they compute the same by the same operations, whatever their names.  ``steps``
    are assignments ``(name, operation, operands)``.  Operands and ``results`` are names of
    arguments (``a0``), earlier steps (``t0``) or ``constants``, which are pairs of a name and the
    digits.  ``depends`` has for each result the positions of the arguments it is computed from.
    """

    name: str = field(compare=False, repr=False)
    args: tuple[str, ...]
    steps: tuple[tuple[str, str, tuple[str, ...]], ...]
    constants: tuple[tuple[str, str], ...]
    results: tuple[str, ...]
    depends: tuple[frozenset[int], ...] = field(repr=False)

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
            inputs = (known[o] for o in operands)
            arithmetic = ARITHMETIC.get(operation)
            known[name] = arithmetic(*inputs) if arithmetic else call(operation, *inputs)
        return tuple(known[r] for r in self.results)


def _text(operation: str, operands: tuple[str, ...], function: str) -> str:
    """One operation, as C and Python write it; `function` is its name if it is one."""
    if operation in FUNCTIONS:
        return f"{function}({', '.join(operands)})"
    return f"-{operands[0]}" if operation == "negative" else f" {TEXT[operation]} ".join(operands)


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
    name = f"{what}: {function.__name__}()"
    _check_arguments(function, name, n_args)
    record = _Record(n_args)
    try:
        found = function(*(Symbol(record, a, frozenset([i])) for i, a in enumerate(record.args)))
        values = found if isinstance(found, tuple) else (found,)
        if isinstance(found, tuple) and len(found) == 1:
            raise FormulaError("returns a 1-tuple; return the bare value")
        if len(values) != n_results:
            raise FormulaError(f"returns {len(values)} value(s), expected {n_results}")
        if any(getattr(value, "is_comparison", False) for value in values):
            raise FormulaError("must return numbers; multiply a comparison by 1.0 to make it one")
        results = tuple(map(record.operand, values))
    except FormulaError as error:
        raise FormulaError(f"{name} {error}") from None
    except Exception as error:
        message = f"{name} cannot be recorded: {type(error).__name__}: {error}"
        raise FormulaError(message) from None
    depends = tuple(frozenset[int](getattr(value, "depends", ())) for value in values)
    constants = tuple((n, digits) for digits, n in record.constants.items())
    steps = tuple(record.steps)
    return Formula(function.__name__, record.args, steps, constants, results, depends)


def _check_arguments(function: types.FunctionType, name: str, n_args: int) -> None:
    parameters = inspect.signature(function).parameters.values()
    names = ", ".join(p.name for p in parameters)
    if given := ", ".join(p.name for p in parameters if p.default is not p.empty):
        raise FormulaError(
            f"{name} gives default values to {given}; make them constants or parameters"
        )
    if any(p.kind not in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters):
        raise FormulaError(
            f"{name} takes *args or keyword arguments; list its arguments one by one"
        )
    if len(parameters) != n_args:
        raise FormulaError(f"{name} takes {len(parameters)} arguments ({names}), expected {n_args}")


def _advice(name: str) -> str:
    allowed = ", np.".join(FUNCTIONS)
    return ADVICE.get(name, f"only + - * /, comparisons and np.{allowed} are allowed")


@lru_cache(maxsize=1024)
def _python(formula: Formula, dtype: np.dtype) -> Callable[..., Any]:
    lines = [f"{n} = {_text(name, inputs, f'np.{name}')}" for n, name, inputs in formula.steps]
    lines.append(f"return {', '.join(formula.results)}")
    # A module's name that can be imported, and a name of its own: Numba's cache keeps functions
    # by these.
    scope: dict[str, Any] = {"np": np, "__name__": __name__}
    scope |= {n: dtype.type(float(digits)) for n, digits in formula.constants}
    source = "\n    ".join([f"def formula({', '.join(formula.args)}):", *lines])
    exec(compile(source, f"<formula {formula.name}>", "exec"), scope)
    function: Callable[..., Any] = scope["formula"]
    function.__name__ = function.__qualname__ = f"formula_{digest((formula, dtype.char))}"
    return function


def digest(mark: Any) -> str:
    """A short name for what has this `repr`, the same in every process."""
    return hashlib.sha256(repr(mark).encode()).hexdigest()[:16]
