"""A proof for neurons that are made of + - * / alone: exact fractions, every spike pattern.

The adjoint J' of a step must keep ``<d, J e> = <J' d, e>`` for every direction e and every d from
above.  Fractions do not round, so the two sides are compared with ``==``.  Slopes are free numbers,
so the proof holds for every surrogate.  Spike patterns are imposed, so that it holds for all of
them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from fractions import Fraction
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..formula import COMPARISONS, Formula
from ..kernels import Dynamics
from .oracle import Problem, run, walk_back

__all__ = ["prove"]

LONGEST = 5
#: A wrong identity of degree d holds at a random point with probability d / SIZE at most (Schwartz
#: and Zippel).
SIZE = 2**40


class Dual:
    """An exact fraction and its derivative along one direction."""

    def __init__(self, value: Any, d: Any = 0) -> None:
        self.value, self.d = Fraction(value), Fraction(d)

    def __add__(self, other: Any) -> Dual:
        other = _dual(other)
        return Dual(self.value + other.value, self.d + other.d)

    def __mul__(self, other: Any) -> Dual:
        other = _dual(other)
        return Dual(self.value * other.value, self.d * other.value + self.value * other.d)

    def __truediv__(self, other: Dual) -> Dual:
        ratio = self.value / other.value
        return Dual(ratio, (self.d - ratio * other.d) / other.value)

    def __neg__(self) -> Dual:
        return Dual(-self.value, -self.d)

    def __sub__(self, other: Dual) -> Dual:
        return self + -other

    __radd__, __rmul__ = __add__, __mul__


def _dual(value: Any) -> Dual:
    return value if isinstance(value, Dual) else Dual(value)


def _call(name: str, a: Dual, b: Dual | None = None) -> Dual:
    """Comparisons, maximum and minimum; the derivative is that of the larger or smaller side."""
    if b is None:
        raise TypeError(f"np.{name} of a fraction is no fraction")
    if name in COMPARISONS:
        return Dual(int(getattr(np, name)(a.value, b.value)))
    return a if (a.value >= b.value) == (name == "maximum") else b


def _exact(formula: Formula) -> Callable[..., Any]:
    def function(*values: Any) -> Any:
        results = formula.evaluate(*map(_dual, values), call=_call, number=Dual)
        return results if len(results) > 1 else results[0]

    return function


def prove(dynamics: Dynamics) -> str | None:
    """What is proved, as a sentence; ``None`` if it is not: not rational, or the identity fails."""
    f: Any = SimpleNamespace(**{name: _exact(f) for name, f in dynamics.formulas().items()})
    f.stop = dynamics.reset.stop
    exact = dynamics._replace(neuron=f, reset=f)
    sizes, draws = (len(dynamics.neuron.state), len(dynamics.neuron.params)), Random(0)
    lengths = range(1, LONGEST + 1)
    patterns = [p for T in lengths for p in itertools.product((0, 1), repeat=T)]
    try:
        if not all(_identity_holds(exact, sizes, p, draws) for p in patterns):
            return None
    except (ZeroDivisionError, OverflowError, TypeError):
        return None
    return (
        f"Proved for T <= {LONGEST}: <d, J e> == <J' d, e> on exact fractions, "
        f"all {len(patterns)} spike patterns, slopes free"
    )


def _identity_holds(
    exact: Dynamics, sizes: tuple[int, int], pattern: tuple[int, ...], draws: Random
) -> bool:
    def some(count: int) -> list[Fraction]:
        return [Fraction(draws.randrange(1, SIZE), draws.randrange(1, SIZE)) for _ in range(count)]

    def moving(count: int) -> list[Dual]:
        return [Dual(value - 1, d) for value, d in (some(2) for _ in range(count))]

    def fire(t: int, u: Dual, at: Dual) -> Dual:
        return Dual(pattern[t], slopes[t] * (u.d - at.d))

    (n_states, n_params), T = sizes, len(pattern)
    x, state0, (theta,), params = (moving(n) for n in (T, n_states, 1, n_params))
    slopes, d_spikes, d_last = some(T), [*map(Dual, some(T))], [*map(Dual, some(n_states))]
    problem = Problem(x, state0, theta, params, 1.0, d_spikes, d_last)
    still = ([Dual(v.value) for v in values] for values in (x, state0, params))
    x0, state00, params0 = still
    at_rest = problem._replace(x=x0, state0=state00, theta=Dual(theta.value), params=params0)
    found = run(exact, problem, fire, run(exact, at_rest, fire))  # `stop` holds values of at_rest
    results = zip([*d_spikes, *d_last], [*found.spikes, *found.states[-1]], strict=True)
    back = walk_back(exact, found, lambda t, at: Dual(slopes[t]))
    gradients = [*back["x"], *back["state0"], back["theta"], *back["params"]]
    pairs = zip(gradients, [*x, *state0, theta, *params], strict=True)
    return sum(d.value * r.d for d, r in results) == sum(_dual(d).value * e.d for d, e in pairs)
