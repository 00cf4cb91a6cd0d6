"""What is wrong with a time loop: in its steps, as a mistake with a name, or from which step on.

A wrong gradient that equals that of a mutant (:mod:`minisnn.checks.mutants`), or of a pair of them,
has that mistake: this is tried on one problem and verified on others of other shapes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..kernels import Dynamics
from ..kernels.arrays import Array
from .calls import reported
from .explain_formulas import explain_step
from .mutants import MUTANTS, Mutant, mutated
from .oracle import Run, Shape, by_name, run
from .report import Finding, Report
from .steps import steps_of
from .sums import monomials, same, sum_text

__all__ = ["Mutant", "explain", "explain_loop", "mutant_gradients"]

#: Shapes [T, B, N] with no two sizes alike: a mean over one axis is not taken for another, nor for
#: a factor 1/2.
SHAPES = ((6, 3, 4), (5, 4, 3), (7, 5, 2))

Gradients = Mapping[str, Array]
Draw = Callable[[int, Shape], Run]
Backward = Callable[[Run], Gradients]


def explain(report: Report, dynamics: Dynamics, draw: Draw, gradients: Backward, seed: int) -> None:
    """Findings about the steps that are wrong; if all are right, about the loop around them.

    ``draw(seed, shape)`` is a run of the dynamics; ``gradients(run)`` are those of the loop under
    check, by name.
    """
    if not report.ok:
        with reported(report.problems), np.errstate(all="ignore"):
            report.find(explain_loop(dynamics, draw, gradients, seed))


def explain_loop(
    dynamics: Dynamics, draw: Draw, gradients: Backward, seed: int = 0
) -> list[Finding]:
    """Findings, of which the first names the mistake if it has a name."""
    if found := [f for step in steps_of(dynamics) for f in explain_step(step, seed)]:
        return found
    runs = [draw(99 + i, shape) for i, shape in enumerate(SHAPES)]
    yours = [gradients(drawn) for drawn in runs]
    right = mutant_gradients(dynamics, runs[0]) or {}
    if _equal(right, yours[0]):
        return []
    sentences = _mutants_like(dynamics, runs, yours)
    found = [Finding("time loop", sentence) for sentence in sentences]
    found += _where_it_parts(yours[0]["x"], right["x"])
    return found if sentences else found + _one_step(dynamics, draw, gradients)


# -- mistakes with a name


def mutant_gradients(
    dynamics: Dynamics, run: Run, mutants: Sequence[Mutant] = ()
) -> dict[str, Array] | None:
    """The gradients of a run by a derivation with these mistakes, by name.

    ``x [T, B, N]``, states ``[B, N]``, threshold and parameters ``[N]``; ``None`` if a mistake
    cannot be made here.
    """
    shape = run.problem.x.shape[1:]

    def full(values: Any) -> list[Array]:
        return [np.broadcast_to(np.asarray(d, float), shape) for d in values]

    try:
        with np.errstate(all="ignore"):
            found = mutated(*mutants)(dynamics, run)
            found |= {"x": np.array(full(found["x"])), "state0": full(found["state0"])}
            found["theta"] = full([found["theta"]])[0].sum(axis=0)
            found["params"] = [d.sum(axis=0) for d in full(found["params"])]
            named = by_name(dynamics, found)
    except (IndexError, ValueError, TypeError):
        return None
    return named if run.recurrent is None else {**named, "recurrent": found["recurrent"]}


def _equal(found: Gradients | None, yours: Gradients) -> bool:
    """Whether all gradients agree; that of a single number is a sum over the neurons."""
    if found is None:
        return False
    return all(same(found[n] if np.ndim(d) else found[n].sum(), d) for n, d in yours.items())


def _mutants_like(dynamics: Dynamics, runs: Sequence[Run], yours: Sequence[Gradients]) -> list[str]:
    """The sentence of the mutant, or of the pair of them, with these gradients in all runs."""

    def made(*mutants: Mutant, at: int = 0) -> dict[str, Array] | None:
        return mutant_gradients(dynamics, runs[at], mutants)

    right = made() or {}
    changing = [m for m in MUTANTS if not _equal(made(m) or right, right)]  # others fit any pair
    for mutants in (*((m,) for m in changing), *itertools.combinations(changing, 2)):
        if all(_equal(made(*mutants, at=i), yours[i]) for i in range(len(runs))):
            return [m.sentence for m in mutants]
    return []


# -- without a name


def _where_it_parts(yours: Array, true: Array) -> list[Finding]:
    """The first step, counted from the end, at which the gradient of the input is wrong."""
    T, scale = len(true), np.abs(true).max()
    wrong = [t for t in range(T) if not np.abs(yours[t] - true[t]).max() <= 1e-11 * scale]
    if not wrong:
        return []
    t, at = wrong[-1], "at the last step, before anything has been carried"
    hint = "look at the slope and at d_spikes"
    if t < T - 1:
        at = f"at step t = {t} of 0..{T - 1}, {T - 1 - t} before the last"
        hint = "those after it are right, so look at the carry"
    return [Finding("d_x", f"going back in time, it parts from the true one {at}: {hint}")]


def _one_step(dynamics: Dynamics, draw: Draw, gradients: Backward) -> list[Finding]:
    """The loop at T = 1 as formulas: what of d_spikes and of d_v reaches each argument.

    For one state that does not start at 0, and enough neurons that not any formula fits.
    """
    shape, findings = (1, 1, 40), []
    runs = [draw(seed, shape) for seed in (1, 2)]
    if runs[0].problem.state0.shape != shape or not runs[0].problem.state0.any():
        return []
    for above, d_spikes, d_last in (("d_spikes", 1, 0), ("d_v", 0, 1)):
        cells: dict[str, list] = {"x": [], "threshold": []}
        terms = []
        for drawn in runs:
            p = drawn.problem
            p = p._replace(d_spikes=d_spikes + 0 * p.x, d_state_last=d_last + 0 * p.state0)
            ran = run(dynamics, p, "step", None, drawn.recurrent, drawn.spikes0)
            u, s = ran.charged[0][0][0], ran.spikes[0][0]
            slope = dynamics.surrogate.slope(u - p.theta, p.k)
            known = {"s": s, "u": u, "theta": p.theta, "slope": slope, "v": p.state0[0, 0]}
            known |= dict(zip(dynamics.neuron.params, p.params, strict=True))
            terms.append(monomials(known))
            both = gradients(ran), mutant_gradients(dynamics, ran) or {}
            for name, found in cells.items():
                found.append([np.ravel(d[name]) for d in both])
        for name, found in cells.items():
            texts = [sum_text(values, terms, above) or "" for values in zip(*found, strict=True)]
            if all(texts) and texts[0] != texts[1]:
                what = f"d_{name} in one step, from {above}"
                findings.append(Finding(what, yours=texts[0], true=texts[1]))
    return findings
