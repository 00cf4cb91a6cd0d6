"""One step, cell by cell: the small Jacobian of each ingredient, yours against the true one.

An adjoint is linear in what comes from above, so unit vectors from above give its matrix.  The true one is the complex step
through the forward function, arguments named in ``stop`` being constants.  Both are taken in extended precision where the
machine has it, so that a right formula in unusual algebra is not mistaken for a wrong one.
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
from .report import Row

__all__ = ["Step", "check_steps", "steps_of"]

TOLERANCE = 1e-12
REAL, COMPLEX = np.longdouble, np.clongdouble
ORIGIN = "cells of one step: complex step at 3 x 40 points, relative to the largest"


@dataclass(frozen=True)
class Step:
    """A forward and its adjoint as functions of single numbers, and what their arguments are called.

    ``forward(*args)`` returns one value for each of `outs`; ``adjoint(*cotangents, *args)`` one for each of `args`.
    `fixed` names arguments by which nothing is differentiated (the steepness); `stop` those that count as constants.
    """

    title: str
    forward: Callable[..., Any]
    adjoint: Callable[..., Any]
    args: tuple[str, ...]
    outs: tuple[str, ...]
    kind: str
    stop: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()

    def values(self, points: dict[str, Array]) -> list[Array]:
        """The forward at every point."""
        return _all(self.forward(*points.values()), points)

    def yours(self, points: dict[str, Array]) -> dict[tuple[str, str], Array]:
        """The matrix that the adjoint holds, by (output, argument)."""
        found: dict[tuple[str, str], Array] = {}
        one = np.ones_like(next(iter(points.values())))
        for j, out in enumerate(self.outs):
            cotangents = [one if i == j else 0 * one for i in range(len(self.outs))]
            results = _all(self.adjoint(*cotangents, *points.values()), points)
            found |= {(out, a): d for a, d in zip(self.free, results, strict=True)}
        return found

    def true(self, points: dict[str, Array], stop: tuple[str, ...] | None = None) -> dict[tuple[str, str], Array]:
        """The matrix that it should hold."""
        h = REAL(1e-30)
        found: dict[tuple[str, str], Array] = {}
        for a in self.free:
            shifted = {n: (v + 1j * h if n == a else v).astype(COMPLEX) for n, v in points.items()}
            values = _all(self.forward(*shifted.values()), points)
            held = a in (self.stop if stop is None else stop)
            found |= {(out, a): 0 * np.real(v) if held else np.imag(v) / h for out, v in zip(self.outs, values, strict=True)}
        return found

    @property
    def free(self) -> tuple[str, ...]:
        """The arguments by which the adjoint differentiates."""
        return tuple(a for a in self.args if a not in self.fixed)

    def draw(self, rng: np.random.Generator, kind: str = "usual", n: int = 40) -> dict[str, Array]:
        """Random arguments: "usual" ones, "near" the threshold, or "wide" apart."""
        wide = 3.0 if kind == "wide" else 1.0
        points = {a: rng.normal(0, wide, n) for a in self.args}
        for a in self.args:
            if a == "theta" or a in self.params:
                points[a] = rng.uniform(0.4, 1.8, n) if a == "theta" else rng.uniform(0.2, 0.95, n)
        if "s" in points:  # spikes are 0 or 1 in the hard network and anything in between in the smooth twin
            points["s"] = np.where(np.arange(n) % 2, rng.integers(0, 2, n), rng.uniform(0, 1, n))
        if "k" in points:
            points["k"] = rng.uniform(0.6, 4.0, n)
            points["x"] = points["x"] * np.exp(rng.normal(0, 1, n)) * {"near": 1e-4, "wide": 3.0}.get(kind, 1.0)
        elif kind == "near" and "theta" in points:
            points["u"] = points["theta"] + 1e-4 * points["u"]
        return {a: v.astype(REAL) for a, v in points.items()}

    @property
    def params(self) -> tuple[str, ...]:
        """The arguments that stay the same over time."""
        return self.args[len(self.outs) + 1 :] if self.kind == "charge" else ("theta", "k")


def _all(values: Any, points: dict[str, Array]) -> list[Array]:
    """A result as a list of arrays, one value for each point."""
    n = len(next(iter(points.values())))
    return [np.broadcast_to(v, n) for v in (values if isinstance(values, tuple) else (values,))]


def charge_step(neuron: Neuron) -> Step:
    """The charge of a neuron."""
    outs = ("u", *(f"{n}_new" for n in neuron.state[1:]))
    args = (*neuron.state, "x", *neuron.params)
    return Step(f"charge {neuron.charge.__name__}", neuron.charge, neuron.charge_adjoint, args, outs, "charge")


def reset_step(reset: Reset) -> Step:
    """A reset, which respects what its author declared constant."""
    args = ("u", "s", "theta")
    return Step(f"reset {reset.reset.__name__}", reset.reset, reset.reset_adjoint, args, ("v",), "reset", reset.stop)


def slope_step(surrogate: Surrogate) -> Step:
    """A surrogate: the slope is the derivative of the curve."""

    def adjoint(d_s: Any, x: Any, k: Any) -> Any:
        return d_s * surrogate.slope(x, k)

    return Step(f"slope {surrogate.slope.__name__}", surrogate.smooth, adjoint, ("x", "k"), ("s",), "slope", fixed=("k",))


def steps_of(dynamics: Dynamics) -> tuple[Step, Step, Step]:
    """The three steps of a neuron, a reset and a surrogate."""
    return charge_step(dynamics.neuron), reset_step(dynamics.reset), slope_step(dynamics.surrogate)


def check_steps(steps: tuple[Step, ...], seed: int = 0) -> tuple[list[Row], list[str]]:
    """A row for each cell of each step, at its worst point if wrong; and problems: an adjoint that is not linear, a NaN."""
    rows, problems = [], []
    with np.errstate(all="ignore"):
        for step in steps:
            found, bad = _check_step(step, np.random.default_rng([seed, 7]))
            rows += found
            problems += bad
    return rows, problems


def _check_step(step: Step, rng: np.random.Generator) -> tuple[list[Row], list[str]]:
    worst: dict[tuple[str, str], Row] = {}
    for kind in ("usual", "near", "wide"):
        points = finite(step, step.draw(rng, kind))
        if not len(points[step.args[0]]):
            continue
        yours, true = step.yours(points), step.true(points)
        # What is exactly zero has no size of its own: there rounding is measured against the neighbouring cells.
        largest = max(float(np.max(np.abs(t))) for t in true.values()) or 1.0
        for cell in true:
            row = _row(step, cell, yours[cell], true[cell], largest)
            if cell not in worst or (not row.ok and (worst[cell].ok or not row.error <= worst[cell].error)):
                worst[cell] = row
    if not worst:
        return [], [f"{step.title}: not finite at any of the points tried"]
    return list(worst.values()), _not_linear(step, finite(step, step.draw(rng)), rng)


def finite(step: Step, points: dict[str, Array]) -> dict[str, Array]:
    """The points at which the forward and its derivatives are finite."""
    good = np.all([np.isfinite(v) for v in (*step.values(points), *step.true(points, ()).values())], axis=0)
    return {a: v[good] for a, v in points.items()}


def _row(step: Step, cell: tuple[str, str], yours: Array, true: Array, largest: float) -> Row:
    difference = np.abs(yours - true)
    scale = float(np.max(np.abs(true))) or largest
    error = float(np.max(difference) / scale)
    at = int(np.argmax(np.abs(true) if error <= TOLERANCE else np.where(np.isnan(difference), np.inf, difference)))
    name = f"d{cell[0]}/d{cell[1] if len(cell[1]) == 1 else f'({cell[1]})'}" if step.kind != "slope" else "ds/du, the slope"
    ok = bool(error <= TOLERANCE)
    return Row("one step", name, true.shape, float(yours[at]), float(true[at]), error, TOLERANCE, ORIGIN, ok, (at,))


def _not_linear(step: Step, points: dict[str, Array], rng: np.random.Generator) -> list[str]:
    """An adjoint is linear in what comes from above: a sum of unit vectors must give the sum of what they give."""
    n = len(points[step.args[0]])
    cotangents = [rng.normal(0, 2, n).astype(REAL) for _ in step.outs]
    results = dict(zip(step.free, _all(step.adjoint(*cotangents, *points.values()), points), strict=True))
    yours = step.yours(points)
    problems = []
    for a, result in results.items():
        parts = [c * yours[out, a] for out, c in zip(step.outs, cotangents, strict=True)]
        scale = np.max(np.abs(parts)) or 1.0
        error = np.max(np.abs(result - sum(parts))) / scale
        if error > 1e-10:
            above = ", ".join(f"d_{out}" for out in step.outs)
            problems.append(
                f"{step.title}: d_{a} is not linear in {above}: every term of an adjoint has one of them as a factor"
            )
    return problems
