"""Is a time loop right that you have written out yourself?  It is compared with its dynamics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from ..kernels import Dynamics
from ..kernels.arrays import Array
from ..neurons import Neuron, lif
from ..resets import Reset, hard
from ..surrogates import Surrogate, atan
from . import calls
from .explain_loops import SHAPES, Loop, explain
from .oracle import ORIGIN, Problem, Shape, draw, run, truth
from .report import Report, row_of
from .steps import check_steps, steps_of

__all__ = ["check_scan", "problem_from_rest", "run_users"]


def check_scan(
    forward: Callable[..., Any],
    backward: Callable[..., Any],
    neuron: Neuron = lif,
    reset: Reset = hard,
    surrogate: Surrogate | None = None,
    *,
    shared: bool = False,
    seed: int = 0,
) -> Report:
    """Check a time loop of your own, forward and backward, against the dynamics it should run.

    Your loop spikes, so plain differences through it say nothing.  It is compared with the tangent
    twin of the neuron, reset and surrogate that you say it is: its spikes step by step, then each
    gradient entry by entry.

    Parameters
    ----------
    forward : ``forward(x, threshold=, decay=, ...) -> (spikes, cache)``; x and spikes are
        ``[T, B, N]``, the state starts at 0, the parameters come under the neuron's names.
    backward : ``backward(d_spikes, cache) -> (d_x, grads)``, grads a dict
        ``{"threshold": ..., "decay": ...}``.
    neuron, reset, surrogate : what the loop is meant to be; LIF, hard reset and atan with k = 2 if
        not given.  They are checked themselves first.
    shared : parameters are single numbers, and so are their gradients; else one value for each
        neuron, ``[N]``.
    seed : of the problems drawn.

    Returns
    -------
    report : as for :func:`minisnn.checks.check_function`.
    """
    dynamics = Dynamics(neuron, reset, atan(2.0) if surrogate is None else surrogate)
    parts = f"{neuron.charge.__name__}, {reset}, {dynamics.surrogate}"
    report = Report(f"time loop {calls.name_of(forward)}, {calls.name_of(backward)}: {parts}")

    def gradients(problem: Problem) -> dict[str, Array]:
        return run_users(forward, backward, dynamics, problem, shared, report.problems)

    rows, problems = check_steps(steps_of(dynamics), seed)
    if problems or not all(row.ok for row in rows):
        wrong = "the dynamics you compare with are wrong themselves: see check_adjoint"
        report.problems = [*problems, wrong]
    else:
        with calls.reported(report.problems):
            rows = []
            for number, shape in enumerate(SHAPES):
                problem = problem_from_rest(dynamics, seed + number, shape, shared)
                yours, found = gradients(problem), truth(dynamics, problem, "tangent")
                true, sizes = (_of_user(d, dynamics, shared) for d in found)
                for n in true:
                    row = row_of("tangent", f"d_{n}", yours[n], true[n], ORIGIN, sizes[n])
                    rows.append(row)
            report.add_worst(rows)
    make = partial(problem_from_rest, dynamics, shared=shared)
    explain(report, Loop(dynamics, gradients, make, shared, seed))
    return report


def problem_from_rest(dynamics: Dynamics, seed: int, shape: Shape, shared: bool = False) -> Problem:
    """A problem whose state starts at 0 and whose last state has no gradient."""
    for again in range(50):
        problem = draw(dynamics, np.random.default_rng([seed, 3, again]), shape)
        _, state0, theta, params, _, _, d_last = problem
        if shared:
            theta, params = 0 * theta + theta[0], 0 * params + params[:, :1]
        problem = problem._replace(theta=theta, params=params, k=dynamics.surrogate.k)
        problem = problem._replace(state0=0 * state0, d_state_last=0 * d_last)
        if 0 < np.mean(run(dynamics, problem).spikes) < 1:
            return problem
    raise ValueError(f"{dynamics.neuron}: starting from 0 it fires always or never in 50 problems")


def _of_user(found: Mapping[str, Array], dynamics: Dynamics, shared: bool) -> dict[str, Array]:
    """Gradients under the names, and in the shapes, that a user's loop returns."""
    named = {"threshold": found["theta"]}
    named |= dict(zip(dynamics.neuron.params, found["params"], strict=True))
    return {"x": found["x"]} | {n: np.asarray(d.sum()) if shared else d for n, d in named.items()}


def run_users(
    forward: Callable[..., Any],
    backward: Callable[..., Any],
    dynamics: Dynamics,
    problem: Problem,
    shared: bool,
    problems: list[str],
) -> dict[str, Array]:
    """The gradients of a user's loop by name; what it does wrong besides goes to `problems`."""
    values = {"threshold": problem.theta}
    values |= dict(zip(dynamics.neuron.params, problem.params, strict=True))
    params: dict[str, Any] = {n: float(v[0]) if shared else v.copy() for n, v in values.items()}
    x, d_spikes = problem.x.copy(), problem.d_spikes.copy()
    watch, names = {"x": x, "params": params}, "(spikes, cache)"
    spikes, cache = calls.forward_of(partial(forward, x, **params), watch, problems, names)
    _compare_spikes(spikes, np.stack(run(dynamics, problem).spikes))
    watch = {"d_spikes": d_spikes, "x": x, "cache": cache}
    d_x, grads = calls.backward_of(partial(backward, d_spikes, cache), watch, problems)
    like = {n: np.asarray(v, float) for n, v in params.items()}
    named = {"x": d_x, **calls.named_gradients(grads, like, "backward")}
    like["x"] = problem.x
    return calls.as_gradients(named, like)


def _compare_spikes(spikes: Any, expected: Array) -> None:
    try:
        found = np.asarray(spikes, float)
    except Exception:
        kind = type(spikes).__name__
        raise calls.Broken(
            f"forward returns {kind} as spikes, expected an array [T, B, N]"
        ) from None
    if found.shape != expected.shape:
        shapes = f"{list(found.shape)}, expected {list(expected.shape)}, that of x"
        raise calls.Broken(f"spikes from forward have shape {shapes}")
    if (wrong := (found != expected).any((1, 2))).any():
        hint = "is it u >= threshold before the reset, with the state at 0 before the first step?"
        at = f"its spikes differ from step t = {int(np.argmax(wrong))} on"
        raise calls.Broken(f"the forward is not the one you named: {at} ({hint})")
