"""One step, cell by cell: the small Jacobian of each ingredient, yours against the true one.

An adjoint is linear in what comes from above, so unit vectors from above give its matrix.  The
complex step through the forward function gives the true one, in which the arguments named in
``stop`` are constants.  Both are computed in extended precision if the machine has it, so that the
rounding of a right formula in unusual algebra is not taken for a mistake.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..kernels import Dynamics
from ..kernels.arrays import Array
from ..neurons import Neuron
from ..resets import Reset
from ..surrogates import Surrogate
from .report import Row, row_of

__all__ = ["Step", "check_steps", "steps_of"]

REAL, COMPLEX = np.longdouble, np.clongdouble
ORIGIN = "cells of one step: complex step at 3 x 40 points, relative to the largest"

Points = dict[str, Array]
#: The entries of a Jacobian, by output and argument.
Matrix = dict[tuple[str, str], Array]


@dataclass(frozen=True)
class Step:
    """A forward and its adjoint as functions of single numbers, and the names of their arguments.

    ``forward(*args)`` returns one value for each of `outs`; ``adjoint(*cotangents, *args)`` one
    for each of `args`.  Arguments in `stop` count as constants; those in `fixed` have no derivative
    (the steepness).  `kind` is "charge", "reset", "slope" or "pair".
    """

    kind: str
    name: str
    forward: Callable[..., Any]
    adjoint: Callable[..., Any]
    args: tuple[str, ...]
    outs: tuple[str, ...]
    stop: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()

    def values(self, points: Points) -> list[Array]:
        """The forward at every point."""
        return _all(self.forward(*points.values()), points)

    def yours(self, points: Points) -> Matrix:
        """The matrix that the adjoint holds."""
        found: Matrix = {}
        one = np.ones_like(next(iter(points.values())))
        for out in self.outs:
            cotangents = [one if other == out else 0 * one for other in self.outs]
            results = _all(self.adjoint(*cotangents, *points.values()), points)
            found |= {(out, a): d for a, d in zip(self.free, results, strict=True)}
        return found

    def true(self, points: Points, stop: tuple[str, ...] | None = None) -> Matrix:
        """The matrix that it should hold."""
        found, h, stop = {}, REAL(1e-30), self.stop if stop is None else stop
        for a in self.free:
            moved = {n: (v + 1j * h * (n == a)).astype(COMPLEX) for n, v in points.items()}
            values = _all(self.forward(*moved.values()), points)
            for out, v in zip(self.outs, values, strict=True):
                found[out, a] = 0 * np.real(v) if a in stop else np.imag(v) / h
        return found

    @property
    def title(self) -> str:
        """Its kind and its name."""
        return f"{self.kind} {self.name}"

    @property
    def free(self) -> tuple[str, ...]:
        """The arguments that have a derivative."""
        return tuple(a for a in self.args if a not in self.fixed)

    def draw(self, rng: np.random.Generator, kind: str = "usual", n: int = 40) -> Points:
        """Random arguments: "usual" ones, "near" the threshold, or "wide" apart."""
        points = {a: rng.normal(0, 3.0 if kind == "wide" else 1.0, n) for a in self.args}
        params = self.args[len(self.outs) + 1 :] if self.kind == "charge" else ("k",)
        for a in self.args:
            if a == "theta" or a in params:
                points[a] = rng.uniform(*((0.4, 1.8) if a == "theta" else (0.2, 0.95)), n)
        if "s" in points:  # 0 or 1 in the hard network, anything in between in the smooth twin
            hard, soft = rng.integers(0, 2, n), rng.uniform(0, 1, n)
            points["s"] = np.where(np.arange(n) % 2, hard, soft)
        if "k" in points:
            points["k"] = rng.uniform(0.6, 4.0, n)
            scale = {"near": 1e-4, "wide": 3.0}.get(kind, 1.0)
            points["x"] = points["x"] * np.exp(rng.normal(0, 1, n)) * scale
        elif kind == "near" and "theta" in points:
            points["u"] = points["theta"] + 1e-4 * points["u"]
        return {a: v.astype(REAL) for a, v in points.items()}


def _all(values: Any, points: Points) -> list[Array]:
    """A result as a list of arrays, one value for each point."""
    n = len(next(iter(points.values())))
    return [np.broadcast_to(v, n) for v in (values if isinstance(values, tuple) else (values,))]


def charge_step(neuron: Neuron) -> Step:
    """The charge of a neuron."""
    args, outs = (*neuron.state, "x", *neuron.params), [f"{n}_new" for n in neuron.state]
    functions = neuron.charge, neuron.charge_adjoint
    return Step("charge", neuron.charge.__name__, *functions, args, ("u", *outs[1:]))


def reset_step(reset: Reset) -> Step:
    """A reset, whose author declares what is constant."""
    functions, args = (reset.reset, reset.reset_adjoint), ("u", "s", "theta")
    return Step("reset", reset.reset.__name__, *functions, args, ("v",), reset.stop)


def slope_step(surrogate: Surrogate) -> Step:
    """A surrogate: the slope is the derivative of the curve."""

    def adjoint(d_s: Any, x: Any, k: Any) -> Any:
        return d_s * surrogate.slope(x, k)

    functions, name = (surrogate.smooth, adjoint), surrogate.slope.__name__
    return Step("slope", name, *functions, ("x", "k"), ("s",), fixed=("k",))


def steps_of(dynamics: Dynamics) -> tuple[Step, Step, Step]:
    """The three steps of a neuron, a reset and a surrogate."""
    return charge_step(dynamics.neuron), reset_step(dynamics.reset), slope_step(dynamics.surrogate)


def check_steps(steps: tuple[Step, ...], seed: int = 0) -> tuple[list[Row], list[str]]:
    """A row for each cell of each step, at its worst point if wrong.

    And problems: an adjoint that is not linear, a function that is finite nowhere.
    """
    rows, problems = list[Row](), list[str]()
    with np.errstate(all="ignore"):
        for step in steps:
            rng, worst = np.random.default_rng([seed, 7]), dict[str, Row]()
            for kind in ("usual", "near", "wide"):
                for row in _rows(step, finite(step, step.draw(rng, kind))):
                    known = worst.setdefault(row.name, row)
                    if not row.ok and (known.ok or not row.error <= known.error):
                        worst[row.name] = row
            rows += worst.values()
            if worst:
                problems += _not_linear(step, finite(step, step.draw(rng)), rng)
            else:
                problems.append(f"{step.title}: not finite at any of the points tried")
    return rows, problems


def finite(step: Step, points: Points) -> Points:
    """The points at which the forward and its derivatives are finite."""
    values = (*step.values(points), *step.true(points, ()).values())
    good = np.all([np.isfinite(v) for v in values], axis=0)
    return {a: v[good] for a, v in points.items()}


def _rows(step: Step, points: Points) -> list[Row]:
    if not len(points[step.args[0]]):
        return []
    rows, yours, true = [], step.yours(points), step.true(points)
    # What is exactly zero has no size of its own: rounding is measured against its neighbours.
    largest = max(float(np.max(np.abs(t))) for t in true.values()) or 1.0
    for (out, a), right in true.items():
        name = f"d{out}/d{a if len(a) == 1 else f'({a})'}"
        name = "ds/du, the slope" if step.kind == "slope" else name
        sizes = right if right.any() else largest
        rows.append(row_of("one step", name, yours[out, a], right, ORIGIN, sizes))
    return rows


def _not_linear(step: Step, points: Points, rng: np.random.Generator) -> list[str]:
    """An adjoint is linear in what comes from above: unit vectors must add up."""
    n = len(points[step.args[0]])
    cotangents = {out: rng.normal(0, 2, n).astype(REAL) for out in step.outs}
    results = _all(step.adjoint(*cotangents.values(), *points.values()), points)
    yours, problems = step.yours(points), []
    above = ", ".join(f"d_{out}" for out in step.outs)
    for a, result in zip(step.free, results, strict=True):
        parts = [c * yours[out, a] for out, c in cotangents.items()]
        if np.max(np.abs(result - sum(parts))) > 1e-10 * (np.max(np.abs(parts)) or 1.0):
            law = "every term of an adjoint has one of them as a factor"
            problems.append(f"{step.title}: d_{a} is not linear in {above}: {law}")
    return problems
