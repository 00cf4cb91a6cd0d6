"""Is a time loop right that you have written out yourself?  It is compared with its dynamics."""

from __future__ import annotations

from collections.abc import Callable
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
from .oracle import Problem, Run, Shape, draw, loop_rows, run
from .report import Report
from .steps import check_steps, steps_of

__all__ = ["check_scan", "draw_from_rest", "run_users"]


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
    twin of the neuron, reset and surrogate that you name: its spikes step by step, then each
    gradient entry by entry.

    Parameters
    ----------
    forward : ``forward(x, threshold=, decay=, ...) -> (spikes, cache)``; x and spikes are
        ``[T, B, N]``, the state starts at 0, the parameters have the neuron's names.
    backward : ``backward(d_spikes, cache) -> (d_x, grads)``, grads a dict
        ``{"threshold": ..., "decay": ...}``.
    neuron, reset, surrogate : the dynamics that the loop should run; LIF, hard reset and atan with
        k = 2 if not given.  They are checked first.
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

    def loop_of(number: int, shape: Shape) -> Run:
        return draw_from_rest(dynamics, number, shape, shared)

    def gradients(drawn: Run) -> dict[str, Array]:
        return run_users(forward, backward, drawn, dynamics, report.problems, shared)

    steps, report.problems = check_steps(steps_of(dynamics), seed)
    if report.problems or not all(row.ok for row in steps):
        report.problems.append(
            "the dynamics you compare with are wrong themselves: see check_adjoint"
        )
    else:
        with calls.reported(report.problems):
            runs, rows = [loop_of(seed + i, shape) for i, shape in enumerate(SHAPES)], []
            for drawn in runs:
                rows += loop_rows(dynamics, drawn.problem, "tangent", gradients(drawn))
            report.add_worst(rows)
    explain(report, Loop(dynamics, loop_of, gradients), seed)
    return report


def draw_from_rest(dynamics: Dynamics, seed: int, shape: Shape, shared: bool = False) -> Run:
    """A run whose state starts at 0, and whose last state has no gradient."""

    def change(p: Problem) -> Problem:
        if shared:
            p = p._replace(theta=0 * p.theta + p.theta[0], params=0 * p.params + p.params[:, :1])
        k = dynamics.surrogate.k
        return p._replace(state0=0 * p.state0, d_state_last=0 * p.d_state_last, k=k)

    return run(dynamics, draw(dynamics, np.random.default_rng([seed, 3, 0]), shape, change))


def run_users(
    forward: Callable[..., Any],
    backward: Callable[..., Any],
    drawn: Run,
    dynamics: Dynamics,
    problems: list[str],
    shared: bool = False,
) -> dict[str, Array]:
    """The gradients of a user's loop by name; what else it does wrong goes to `problems`."""
    problem = drawn.problem
    values = {"threshold": problem.theta}
    values |= dict(zip(dynamics.neuron.params, problem.params, strict=True))
    params: dict[str, Any] = {n: float(v[0]) if shared else v.copy() for n, v in values.items()}
    x, d_spikes = problem.x.copy(), problem.d_spikes.copy()
    watch, names = {"x": x, "params": params}, "(spikes, cache)"
    made = partial(forward, x, **params)
    spikes, cache = calls.watched(made, "forward", names, problems, watch)
    _compare_spikes(spikes, np.stack(drawn.spikes))
    watch = {"d_spikes": d_spikes, "x": x, "cache": cache}
    d_x, grads = calls.backward_of(partial(backward, d_spikes, cache), problems, watch)
    like = {n: np.asarray(v, float) for n, v in params.items()}
    named = {"x": d_x, **calls.named_gradients(grads, like, "backward")}
    return calls.as_gradients(named, {"x": problem.x, **like})


def _compare_spikes(spikes: Any, expected: Array) -> None:
    found = calls.as_numbers(spikes, "spikes", "an array [T, B, N]")
    if found.shape != expected.shape:
        shapes = f"{list(found.shape)}, expected {list(expected.shape)}, that of x"
        raise calls.Broken(f"spikes from forward have shape {shapes}")
    if (wrong := (found != expected).any((1, 2))).any():
        hint = "is it u >= threshold before the reset, with the state at 0 before the first step?"
        at = f"its spikes differ from step t = {int(np.argmax(wrong))} on"
        raise calls.Broken(f"the forward is not the one you named: {at} ({hint})")
