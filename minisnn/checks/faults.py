"""What is wrong with a time loop whose steps are right: a mistake by name, the step where it begins, or formulas."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..kernels import Dynamics
from ..kernels.arrays import Array
from .mistakes import Case, name_mistakes
from .monomials import evaluate, explain, monomials, same, write
from .problem import Problem, run_of
from .report import Finding
from .truth import true_gradients

__all__ = ["SHAPES", "explain_loop", "where_it_parts"]

#: Shapes [T, B, N] with no two sizes alike: a mean over one axis is not taken for another, nor for a factor 1/2.
SHAPES = ((6, 3, 4), (5, 4, 3), (7, 5, 2))

Gradients = Callable[[Problem], Mapping[str, Array]]


def explain_loop(
    dynamics: Dynamics,
    gradients: Gradients,
    make: Callable[[int, tuple[int, int, int]], Problem],
    shared: bool = False,
) -> list[Finding]:
    """Findings about a loop that is wrong although its steps are right: a mistake by name, or the step where it begins."""
    rename = not {"theta", "params"} & set(gradients(make(0, SHAPES[0])))

    def case(seed: int, shape: tuple[int, int, int]) -> Case:
        problem = make(seed, shape)
        yours = dict(gradients(problem))
        if rename:  # a user's loop: its parameters by name
            params = [np.broadcast_to(yours.pop(n), problem.theta.shape) for n in dynamics.neuron.params]
            yours["theta"] = np.broadcast_to(yours.pop("threshold"), problem.theta.shape)
            yours["params"] = np.array(params).reshape(-1, shape[2])
        return run_of(dynamics, problem), problem.d_spikes, problem.d_state_last, problem.k, yours

    fresh = [lambda s=s, shape=shape: case(100 + s, shape) for s, shape in enumerate(SHAPES[1:])]
    sentences = name_mistakes(dynamics, case(99, SHAPES[0]), fresh, shared)
    found = [Finding("time loop", sentence) for sentence in sentences]
    problem = make(98, SHAPES[0])
    problem = problem._replace(d_state_last=0 * problem.d_state_last)
    found += where_it_parts(gradients(problem)["x"], true_gradients(dynamics, problem, "tangent")["x"])
    return found if sentences else found + _one_step(dynamics, gradients, make)


def where_it_parts(yours: Array, true: Array) -> list[Finding]:
    """The first step, counted from the end, at which the gradient of the input is wrong."""
    T, scale = len(true), np.abs(true).max()
    wrong = [t for t in reversed(range(T)) if not np.abs(yours[t] - true[t]).max() <= 1e-11 * scale]
    if not wrong:
        return []
    t = wrong[0]
    late = "at the last step, before anything has been carried: look at the slope and at what comes from above"
    early = f"at step t = {t} of 0..{T - 1}, {T - 1 - t} before the last: those after it are right, so look at the carry"
    return [Finding("d_x", "going back in time, it parts from the true one " + (late if t == T - 1 else early))]


def _one_step(dynamics: Dynamics, gradients: Gradients, make: Callable) -> list[Finding]:
    """The loop at T = 1 as formulas from numbers: what of d_spikes and of d_v reaches each argument."""
    if len(dynamics.neuron.state) > 1 or not make(0, (1, 1, 40)).state0.any():
        return []
    findings = []
    for above in ("d_spikes", "d_v"):
        cells: list[dict[str, Any]] = []
        for seed in (1, 2):
            p = make(seed, (1, 1, 40))
            ones, zeros = np.ones_like(p.d_spikes), np.zeros_like(p.d_spikes)
            p = p._replace(
                d_spikes=ones if above == "d_spikes" else zeros, d_state_last=zeros if above == "d_spikes" else ones
            )
            run = run_of(dynamics, p)
            u, s = run.charged[0][0][0], run.spikes[0][0]
            known = {
                "s": s,
                "u": u,
                "theta": p.theta,
                "slope": dynamics.surrogate.slope(u - p.theta, p.k),
                "v": p.state0[0, 0],
            }
            known |= dict(zip(dynamics.neuron.params, p.params, strict=True))
            cells.append({"yours": gradients(p), "true": true_gradients(dynamics, p, "tangent"), "terms": monomials(known)})
        for name in ("x", "theta"):
            texts = []
            for which in ("yours", "true"):
                values = [np.ravel(c[which][name]) for c in cells]
                sums = explain(values[0], cells[0]["terms"])
                if sums is not None and same(values[1], evaluate(sums, cells[1]["terms"])):
                    texts.append(write(sums, above))
            if len(texts) == 2 and texts[0] != texts[1]:
                label = "threshold" if name == "theta" else name
                findings.append(Finding(f"d_{label} in one step, from {above}", "", texts[0], texts[1]))
    return findings
