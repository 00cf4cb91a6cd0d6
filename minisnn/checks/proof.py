"""A proof for neurons that are made of + - * / alone: exact fractions, every spike pattern.

The adjoint J' of a step must keep ``<d, J e> = <J' d, e>`` for every direction e and every d from above.  On fractions there
is no rounding, so the two sides are compared with ``==``.  Slopes are free numbers: whatever the surrogate, it is proved
with it.  A spike pattern is imposed, so every way through the reset is walked.
"""

from __future__ import annotations

import itertools
from fractions import Fraction
from random import Random
from typing import Any

from ..kernels import Dynamics
from .algebra import Dual, NotRational
from .oracle import run, walk_back

__all__ = ["LONGEST", "prove"]

LONGEST = 5
#: A wrong identity of degree d holds at a random point with probability d / SIZE at most (Schwartz and Zippel).
SIZE = 2**40


def prove(dynamics: Dynamics, longest: int = LONGEST, seed: int = 0) -> str | None:
    """What is proved, as a sentence; ``None`` where it is not: not rational, or the identity fails."""
    draws, patterns = Random(seed), 0
    try:
        for steps in range(1, longest + 1):
            for pattern in itertools.product((0, 1), repeat=steps):
                if not _identity_holds(dynamics, pattern, draws):
                    return None
                patterns += 1
    except (NotRational, ZeroDivisionError, OverflowError, TypeError):
        return None
    return f"Proved for T <= {longest}: <d, J e> == <J' d, e> on exact fractions, all {patterns} spike patterns, slopes free"


def _identity_holds(dynamics: Dynamics, pattern: tuple[int, ...], draws: Random) -> bool:
    def some() -> Fraction:
        return Fraction(draws.randrange(1, SIZE), draws.randrange(1, SIZE))

    def moving() -> Dual:
        return Dual(some() - 1, some())

    n, steps = len(dynamics.neuron.state), len(pattern)
    x, state0 = [moving() for _ in pattern], tuple(moving() for _ in range(n))
    theta, params = moving(), tuple(moving() for _ in dynamics.neuron.params)
    slopes = [some() for _ in pattern]

    def fire(t: int, u: Dual, at: Dual) -> Dual:
        return Dual(pattern[t], slopes[t] * (u.d - at.d))

    still = [tuple(Dual(v.value) for v in values) for values in (x, state0, (theta,), params)]
    base = run(dynamics, still[0], still[1], still[2][0], still[3], fire)  # what `stop` names keeps its values
    found = run(dynamics, x, state0, theta, params, fire, base)
    d_spikes, d_last = [Dual(some()) for _ in range(steps)], [Dual(some()) for _ in range(n)]
    forward = sum(d.value * s.d for d, s in zip(d_spikes, found.spikes, strict=True))
    forward += sum(d.value * v.d for d, v in zip(d_last, found.last, strict=True))
    back = walk_back(dynamics, found, d_spikes, d_last, lambda t, at: Dual(slopes[t]))
    pairs = [*zip(back.d_x, x, strict=True), *zip(back.d_state0, state0, strict=True), (back.d_theta, theta)]
    pairs += zip(back.d_params, params, strict=True)
    return forward == sum(_value(d) * e.d for d, e in pairs)


def _value(d: Any) -> Fraction:
    return d.value if isinstance(d, Dual) else Fraction(d)
