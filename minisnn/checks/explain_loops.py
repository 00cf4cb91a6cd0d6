"""What is wrong with a time loop: in its steps, as a mistake with a name, or from which step on.

A wrong gradient that equals that of a mutant (:mod:`minisnn.checks.mutants`), or of a pair of them,
has that mistake: this is tried on one problem and verified on others of other shapes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..kernels import Dynamics
from ..kernels.arrays import Array
from .calls import reported
from .explain_formulas import explain_step
from .mutants import MUTANTS, Mutant, mutated
from .oracle import Problem, Run, Shape, run, truth
from .report import Finding, Report
from .steps import check_steps, steps_of
from .sums import monomials, same, sum_text

__all__ = ["Case", "Loop", "explain", "mutant_gradients", "name_mutants", "where_it_parts"]

#: Shapes [T, B, N] with no two sizes alike: a mean over one axis is not taken for another, nor for
#: a factor 1/2.
SHAPES = ((6, 3, 4), (5, 4, 3), (7, 5, 2))


class Loop(NamedTuple):
    """A time loop to be explained: its dynamics, its gradients of a problem, and problems for it.

    If parameters are `shared`, the gradient of every neuron is that of the one value they share.
    """

    dynamics: Dynamics
    gradients: Callable[[Problem], Mapping[str, Array]]
    make: Callable[[int, Shape], Problem]
    shared: bool = False
    seed: int = 0


class Case(NamedTuple):
    """A run, and the gradients that were returned for it."""

    run: Run
    yours: Mapping[str, Array]


def explain(report: Report, loop: Loop) -> None:
    """Findings: which step is wrong and how; if all steps are right, what is wrong around them."""
    if report.ok:
        return
    steps = steps_of(loop.dynamics)
    rows, problems = check_steps(steps, loop.seed)
    if problems or not all(row.ok for row in rows):
        report.find([finding for step in steps for finding in explain_step(step, loop.seed)])
    elif not all(row.ok for row in report.rows):
        with reported(report.problems), np.errstate(all="ignore"):
            report.find(_explain_loop(loop))


def _explain_loop(loop: Loop) -> list[Finding]:
    first, *others = (_case(loop, 99 + i, shape) for i, shape in enumerate(SHAPES))
    sentences = name_mutants(loop.dynamics, first, others, loop.shared)
    found = [Finding("time loop", sentence) for sentence in sentences]
    problem = loop.make(98, SHAPES[0])
    problem = problem._replace(d_state_last=0 * problem.d_state_last)
    true, _ = truth(loop.dynamics, problem, "tangent")
    found += where_it_parts(loop.gradients(problem)["x"], true["x"])
    return found if sentences else found + _one_step(loop)


def _case(loop: Loop, seed: int, shape: Shape) -> Case:
    problem = loop.make(seed, shape)
    yours = dict(loop.gradients(problem))
    if "threshold" in yours:  # a user's loop: its parameters by name
        params = [yours.pop(n) for n in loop.dynamics.neuron.params]
        yours["params"] = np.reshape([d + 0 * problem.theta for d in params], (-1, shape[2]))
        yours["theta"] = yours.pop("threshold") + 0 * problem.theta
    return Case(run(loop.dynamics, problem), yours)


# -- mistakes with a name


def mutant_gradients(
    dynamics: Dynamics, run: Run, mutants: Sequence[Mutant] = (), shared: bool = False
) -> dict[str, Array] | None:
    """The gradients of a run by a derivation with these mistakes.

    ``x [T, B, N]``, ``state0 [K, B, N]``, ``theta [N]``, ``params [Q, N]``; ``None`` if a mistake
    cannot be made here.
    """
    shape = run.problem.x.shape[1:]

    def full(values: Any) -> Array:
        every = [np.broadcast_to(np.asarray(d, float), shape) for d in values]
        return np.array(every).reshape(-1, *shape)

    try:
        with np.errstate(all="ignore"):
            found = mutated(*mutants)(dynamics, run)
            found |= {n: full(found[n]) for n in ("x", "state0")}
            found["theta"] = full([found["theta"]])[0].sum(axis=0)
            found["params"] = full(found["params"]).sum(axis=1)
    except (IndexError, ValueError, TypeError):
        return None
    if shared:
        for n in ("theta", "params"):
            found[n] = 0 * found[n] + found[n].sum(axis=-1, keepdims=True)
    return found


def name_mutants(
    dynamics: Dynamics, case: Case, others: Sequence[Case], shared: bool = False
) -> list[str]:
    """The sentence of the one mistake, or the two of a pair, that make exactly these gradients.

    A name must hold on all `others`, which have other shapes; no sentence if there is none.
    """

    def equal(found: Mapping[str, Array] | None, what: Mapping[str, Array]) -> bool:
        return found is not None and all(same(found[n], d) for n, d in what.items() if np.size(d))

    def made(mutants: Sequence[Mutant], at: Case = case) -> dict[str, Array] | None:
        return mutant_gradients(dynamics, at.run, mutants, shared)

    right = made(()) or {}
    changing = [m for m in MUTANTS if not equal(made((m,)) or right, right)]  # others fit any pair
    for mutants in (*((m,) for m in changing), *itertools.combinations(changing, 2)):
        if all(equal(made(mutants, c), c.yours) for c in (case, *others)):
            return [m.sentence for m in mutants]
    return []


# -- without a name


def where_it_parts(yours: Array, true: Array) -> list[Finding]:
    """The first step, counted from the end, at which the gradient of the input is wrong."""
    T, scale = len(true), np.abs(true).max()
    wrong = [t for t in range(T) if not np.abs(yours[t] - true[t]).max() <= 1e-11 * scale]
    if not wrong:
        return []
    t, at = wrong[-1], "at the last step, before anything has been carried"
    hint = "look at the slope and at what comes from above"
    if t < T - 1:
        at = f"at step t = {t} of 0..{T - 1}, {T - 1 - t} before the last"
        hint = "those after it are right, so look at the carry"
    return [Finding("d_x", f"going back in time, it parts from the true one {at}: {hint}")]


def _one_step(loop: Loop) -> list[Finding]:
    """The loop at T = 1 as formulas: what of d_spikes and of d_v reaches each argument."""
    dynamics, shape = loop.dynamics, (1, 1, 40)
    if len(dynamics.neuron.state) > 1 or not loop.make(0, shape).state0.any():
        return []
    findings = []
    for above in ("d_spikes", "d_v"):
        cells: dict[str, list] = {"x": [], "theta": [], "terms": []}
        for seed in (1, 2):
            p = loop.make(seed, shape)
            ones, zeros = np.ones_like(p.d_spikes), np.zeros_like(p.d_spikes)
            given = (ones, zeros) if above == "d_spikes" else (zeros, ones)
            p = p._replace(d_spikes=given[0], d_state_last=given[1])
            ran = run(dynamics, p)
            u, s = ran.charged[0][0][0], ran.spikes[0][0]
            slope = dynamics.surrogate.slope(u - p.theta, p.k)
            known = {"s": s, "u": u, "theta": p.theta, "slope": slope, "v": p.state0[0, 0]}
            known |= dict(zip(dynamics.neuron.params, p.params, strict=True))
            cells["terms"].append(monomials(known))
            both = loop.gradients(p), truth(dynamics, p, "tangent")[0]
            for name in ("x", "theta"):
                cells[name].append([np.ravel(gradients[name]) for gradients in both])
        for name, label in (("x", "x"), ("theta", "threshold")):
            columns = zip(*cells[name], strict=True)
            texts = [sum_text(values, cells["terms"], above) or "" for values in columns]
            if all(texts) and texts[0] != texts[1]:
                yours, true = texts
                findings.append(Finding(f"d_{label} in one step, from {above}", "", yours, true))
    return findings
