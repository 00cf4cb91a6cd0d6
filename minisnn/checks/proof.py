"""A proof for neurons that are made of + - * / alone: exact fractions, every spike pattern.

The adjoint J' of a step must keep ``<d, J e> = <J' d, e>`` for every direction e and every d from
above.  On fractions there is no rounding, so the two sides are compared with ``==``.  Slopes are
free numbers: whatever the surrogate, it is proved with it.  A spike pattern is imposed, so every
way through the reset is walked.
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
from .oracle import run, walk_back

__all__ = ["prove"]

LONGEST = 5
#: A wrong identity of degree d holds at a random point with probability d / SIZE at most (Schwartz
#: and Zippel).
SIZE = 2**40


class NotRational(TypeError):
    """A formula is not made of + - * / alone, so that it has no value on fractions."""


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
    """Comparisons, maximum and minimum; the derivative is that of the side at hand."""
    if b is None or name not in (*COMPARISONS, "maximum", "minimum"):
        raise NotRational(f"np.{name} of a fraction is no fraction")
    if name in COMPARISONS:
        return Dual(int(getattr(np, name)(a.value, b.value)))
    return a if (a.value >= b.value) == (name == "maximum") else b


def _exact(formula: Formula) -> Callable[..., Any]:
    def function(*values: Any) -> Any:
        results = formula.evaluate(*map(_dual, values), call=_call, number=Dual)
        return results if len(results) > 1 else results[0]

    return function


def prove(dynamics: Dynamics, longest: int = LONGEST, seed: int = 0) -> str | None:
    """What is proved, as a sentence; ``None`` if it is not: not rational, or the identity fails."""
    draws, f = Random(seed), {name: _exact(f) for name, f in dynamics.formulas().items()}
    neuron: Any = SimpleNamespace(charge=f["charge"], charge_adjoint=f["charge_adjoint"])
    reset: Any = SimpleNamespace(
        reset=f["reset"], reset_adjoint=f["reset_adjoint"], stop=dynamics.reset.stop
    )
    exact, sizes = dynamics._replace(neuron=neuron, reset=reset), dynamics.neuron
    patterns = [p for steps in range(longest) for p in itertools.product((0, 1), repeat=steps + 1)]
    try:
        for pattern in patterns:
            if not _identity_holds(exact, len(sizes.state), len(sizes.params), pattern, draws):
                return None
    except (NotRational, ZeroDivisionError, OverflowError, TypeError):
        return None
    return (
        f"Proved for T <= {longest}: <d, J e> == <J' d, e> on exact fractions, "
        f"all {len(patterns)} spike patterns, slopes free"
    )


def _identity_holds(
    exact: Dynamics, n_states: int, n_params: int, pattern: tuple[int, ...], draws: Random
) -> bool:
    def some() -> Fraction:
        return Fraction(draws.randrange(1, SIZE), draws.randrange(1, SIZE))

    def moving(count: int) -> tuple[Dual, ...]:
        return tuple(Dual(some() - 1, some()) for _ in range(count))

    steps = len(pattern)
    arguments = [moving(count) for count in (steps, n_states, 1, n_params)]
    slopes = [some() for _ in pattern]

    def fire(t: int, u: Dual, at: Dual) -> Dual:
        return Dual(pattern[t], slopes[t] * (u.d - at.d))

    def ran(values: list[tuple[Dual, ...]], base: Any = None) -> Any:
        x, state0, (theta,), params = values
        return run(exact, x, state0, theta, params, fire, base)

    base = ran([tuple(Dual(v.value) for v in values) for values in arguments])  # for `stop`
    found = ran(arguments, base)
    d_spikes, d_last = ([Dual(some()) for _ in range(count)] for count in (steps, n_states))
    above, results = [*d_spikes, *d_last], [*found.spikes, *found.states[-1]]
    forward = sum(d.value * r.d for d, r in zip(above, results, strict=True))
    back = walk_back(exact, found, d_spikes, d_last, lambda t, at: Dual(slopes[t]))
    gradients = [*back["x"], *back["state0"], back["theta"], *back["params"]]
    moved = itertools.chain(*arguments)
    return forward == sum(_dual(d).value * e.d for d, e in zip(gradients, moved, strict=True))
