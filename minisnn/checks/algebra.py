"""Numbers that floor-0 functions can be run on, besides floats: formulas, and exact fractions with a derivative.

A floor-0 function is straight-line arithmetic and a few of NumPy's functions, so the same source runs on anything that has
the operators and takes NumPy's functions over (``__array_ufunc__``): no second copy of the maths is written.
"""

from __future__ import annotations

import math
import operator
from fractions import Fraction
from typing import Any

import numpy as np

__all__ = ["Dual", "Formula", "NotRational", "load_sympy"]

_OPERATIONS: dict[str, Any] = {
    "add": operator.add, "subtract": operator.sub, "multiply": operator.mul, "divide": operator.truediv,
    "negative": operator.neg, "less": operator.lt, "less_equal": operator.le, "greater": operator.gt,
    "greater_equal": operator.ge, "equal": operator.eq, "not_equal": operator.ne,
}  # fmt: skip


class NotRational(TypeError):
    """A function is not made of + - * / alone, so that it has no value on fractions."""


class Overloaded:
    """Operators that all end in :meth:`combine`; NumPy's functions end there too."""

    __slots__ = ()

    def combine(self, name: str, *arguments: Any) -> Any:
        """The result of the operation or function of NumPy called `name`."""
        raise NotImplementedError

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        return self.combine(ufunc.__name__, *inputs)

    def __add__(self, other: Any) -> Any:
        return self.combine("add", self, other)

    def __radd__(self, other: Any) -> Any:
        return self.combine("add", other, self)

    def __sub__(self, other: Any) -> Any:
        return self.combine("subtract", self, other)

    def __rsub__(self, other: Any) -> Any:
        return self.combine("subtract", other, self)

    def __mul__(self, other: Any) -> Any:
        return self.combine("multiply", self, other)

    def __rmul__(self, other: Any) -> Any:
        return self.combine("multiply", other, self)

    def __truediv__(self, other: Any) -> Any:
        return self.combine("divide", self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return self.combine("divide", other, self)

    def __neg__(self) -> Any:
        return self.combine("negative", self)

    def __pos__(self) -> Any:
        return self

    def __lt__(self, other: Any) -> Any:
        return self.combine("less", self, other)

    def __le__(self, other: Any) -> Any:
        return self.combine("less_equal", self, other)

    def __gt__(self, other: Any) -> Any:
        return self.combine("greater", self, other)

    def __ge__(self, other: Any) -> Any:
        return self.combine("greater_equal", self, other)


class Dual(Overloaded):
    """An exact fraction and its derivative along one direction: forward differentiation without rounding."""

    __slots__ = ("d", "value")

    def __init__(self, value: Any, d: Any = 0) -> None:
        self.value, self.d = Fraction(value), Fraction(d)

    def combine(self, name: str, *arguments: Any) -> Any:
        """The operation on values, and its rule on derivatives."""
        # A float is a fraction too, exactly: what the function computes with is what is proved.
        a, *rest = (x if isinstance(x, Dual) else Dual(float(x) if isinstance(x, np.generic) else x) for x in arguments)
        b = rest[0] if rest else a
        if name == "multiply":
            return Dual(a.value * b.value, a.d * b.value + a.value * b.d)
        if name == "divide":
            return Dual(a.value / b.value, (a.d - a.value / b.value * b.d) / b.value)
        if name in ("maximum", "minimum"):
            return a if (a.value >= b.value) == (name == "maximum") else b
        if name not in _OPERATIONS:
            raise NotRational(f"np.{name} of a fraction is no fraction")
        if name in ("add", "subtract"):
            return Dual(_OPERATIONS[name](a.value, b.value), _OPERATIONS[name](a.d, b.d))
        return Dual(-a.value, -a.d) if name == "negative" else _OPERATIONS[name](a.value, b.value)


def load_sympy() -> Any:
    """SymPy, or an ImportError with the pip line."""
    try:
        import sympy
    except ImportError as error:
        raise ImportError(f"formulas need SymPy: pip install 'minisnn[symbolic]' ({error})") from None
    return sympy


class Formula(Overloaded):
    """An expression of SymPy: whoever computes with it writes a formula down."""

    __slots__ = ("e",)

    def __init__(self, e: Any) -> None:
        self.e = e

    def combine(self, name: str, *arguments: Any) -> Formula:
        """The formula of an operation; a comparison is 1 where it holds and 0 elsewhere."""
        sp = load_sympy()
        a = [x.e if isinstance(x, Formula) else number(x) for x in arguments]
        if name in _OPERATIONS:
            found = _OPERATIONS[name](*a)
            is_comparison = name not in ("add", "subtract", "multiply", "divide", "negative")
            return Formula(sp.Piecewise((1, found), (0, True)) if is_comparison else found)
        if name in ("maximum", "minimum"):
            if sp.expand(a[0] + a[1]) == 0:
                return Formula(sp.Abs(a[0]) if name == "maximum" else -sp.Abs(a[0]))
            first = a[0] >= a[1] if name == "maximum" else a[0] <= a[1]
            return Formula(sp.Piecewise((a[0], first), (a[1], True)))
        return Formula(getattr(sp, {"arctan": "atan"}.get(name, name))(*a))


def number(value: Any) -> Any:
    """A number as a reader would write it: 0.5 is 1/2, and 1.5707963267948966 is pi/2."""
    sp = load_sympy()
    value = float(value)
    for factor, name in ((1.0, sp.Integer(1)), (math.pi, sp.pi), (1 / math.pi, 1 / sp.pi)):
        guess = Fraction(value / factor).limit_denominator(1000) if math.isfinite(value) else Fraction(0)
        if abs(float(guess) * factor - value) <= 2e-16 * abs(value):
            return sp.Rational(guess.numerator, guess.denominator) * name
    return sp.Float(value)
