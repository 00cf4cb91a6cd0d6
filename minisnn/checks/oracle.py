"""The oracle: the time loop of the derivation, written once more for any kind of number.

It runs on arrays, on complex numbers (for the complex step) and on exact fractions (for the
proof); its results are lists over time.  Around it stand random problems that hide no mistake, and
the true gradients of a problem.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ..kernels import Dynamics
from ..kernels.arrays import Array
from ..spikes import FIRES, hold
from .report import Row, row_of
from .twins import TWINS

__all__ = ["Problem", "Run", "Shape", "by_name", "draw", "loop_rows", "run", "truth", "walk_back"]

ORIGIN = "time loop by the complex step, relative to the largest sum of absolute terms"
#: Inputs and states are scaled by each of these in turn until a neuron fires and stays finite.
SCALES = (1.0, 3.0, 0.3, 0.1, 10.0, 0.03)
TRIES = 60
TAME, FINITE = 1e3, 1e60

Shape = tuple[int, int, int]  #: [T, B, N]


class Problem(NamedTuple):
    """Arguments of a scan, and gradients from above: of the spikes and of the last state."""

    x: Any
    state0: Any
    theta: Any
    params: Any
    k: float
    d_spikes: Any
    d_state_last: Any


class Run(NamedTuple):
    """A forward run: currents (recurrent ones included), spikes, and states, as lists over time.

    ``states`` are those before each step and the last one; ``charged`` those after the charge;
    ``spikes0`` are the spikes before the first step.
    """

    problem: Problem
    x: list[Any]
    states: list[tuple[Any, ...]]
    charged: list[tuple[Any, ...]]
    spikes: list[Any]
    recurrent: Any
    spikes0: Any


def run(
    dynamics: Dynamics,
    problem: Problem,
    fire: str | Callable[[int, Any, Any], Any] = "step",
    base: Run | None = None,
    recurrent: Any = None,
    spikes0: Any = None,
) -> Run:
    """The loop forward.

    `fire` is a key of ``minisnn.spikes.FIRES``, or a function of ``(t, u, theta)``.  Arguments that
    ``reset.stop`` names keep the values of the run `base`, if it is given.  With `recurrent`, a
    weight ``[N, N]``, the spikes of each step are a current at the next.
    """
    neuron, reset, surrogate = dynamics
    x, state0, theta, params, k, *_ = problem
    held_reset = hold(reset.reset, reset.stop if base else ())
    spike: Any = isinstance(fire, str) and FIRES[fire](surrogate.smooth, surrogate.slope)
    state, s = tuple(state0), 0 * x[0] if spikes0 is None else spikes0
    found = Run(problem, [], [state], [], [], recurrent, s)
    for t in range(len(x)):
        current = x[t] if recurrent is None else x[t] + s @ recurrent
        charged = neuron.charge(*state, current, *params)
        u, *others = charged if isinstance(charged, tuple) else (charged,)
        held = (base.charged[t][0], base.spikes[t], base.problem.theta) if base else (None,) * 3
        s = fire(t, u, theta) if callable(fire) else spike(u, theta, k, *held) * 1.0
        state = (held_reset(u, s, theta, *held), *others)
        found.x.append(current)
        found.charged.append((u, *others))
        found.spikes.append(s)
        found.states.append(state)
    return found


def walk_back(
    dynamics: Dynamics, run: Run, slope: Callable[[int, Any], Any] | None = None
) -> dict[str, Any]:
    """The adjoint of `run`: gradients of x (over time), state0, theta, params and recurrent.

    ``slope(t, u - theta)`` is the surrogate's if not given.  The comments name lines: a mutant of
    this derivation has one line more after one of them (:mod:`minisnn.checks.mutants`).
    """
    neuron, reset, surrogate = dynamics
    _, _, theta, params, k, d_spikes, d_last = run.problem
    slope = slope or (lambda t, x: surrogate.slope(x, k))
    n, T, recurrent = len(run.states[0]), len(run.x), run.recurrent
    d_x, d_theta, d_params, d_recurrent = [0] * T, 0, [0] * len(params), 0
    d_v, *d_others = d_last
    d_back, steps = 0, reversed(range(T))  # begin
    for t in steps:
        u, s, x, before = run.charged[t][0], run.spikes[t], run.x[t], run.states[t]
        at, d_s_above, s_before = u, d_spikes[t], run.spikes[t - 1] if t else run.spikes0  # step
        d_u, d_s, d_theta_t = reset.reset_adjoint(d_v, u, s, theta)  # reset
        slope_t = slope(t, at - theta)  # slope
        g = (d_s + d_s_above + d_back) * slope_t  # g
        into_u, into_theta = d_u + g, d_theta_t - g  # spike
        adjoints = neuron.charge_adjoint(into_u, *d_others, *before, x, *params)
        d_before, d_x[t], d_params_t = adjoints[:n], adjoints[n], adjoints[n + 1 :]  # charge
        d_v, *d_others = d_before
        d_theta = d_theta + into_theta
        d_params = [total + d for total, d in zip(d_params, d_params_t, strict=True)]
        if recurrent is not None:
            d_back, paired = d_x[t] @ recurrent.T, s_before.T @ d_x[t]  # recurrent
            d_recurrent = d_recurrent + paired
    d_state0 = [d_v, *d_others]  # end
    found = {"x": d_x, "state0": d_state0, "theta": d_theta, "params": d_params}
    return found if recurrent is None else {**found, "recurrent": d_recurrent}


# -- problems


def draw(
    dynamics: Dynamics,
    rng: Any,
    shape: Shape = (6, 2, 3),
    change: Callable[[Problem], Problem] = lambda problem: problem,
) -> Problem:
    """A random problem that hides no mistake, float64, after a `change` of what was drawn.

    Defaults hide mistakes: at k = 2 the factor k/2 of atan is 1, at threshold 1 ``theta * d_v``
    looks like ``d_v``, at T = 1 or decay 0 a detached reset looks right.  So k lies in (0.6, 4),
    thresholds in (0.4, 1.8), parameters in (0.2, 0.95), states and all gradients are nonzero; and
    the run has a spike, a silence, and a spike followed by a silence, as far as the shape allows.
    A neuron that overflows gets other inputs and states, then 3 steps.

    Raises
    ------
    ValueError : no draw has such a run, or all such runs overflow.
    """
    lengths = [shape[0]] + [3] * (shape[0] > 3)
    for limit, T, scale in itertools.product((TAME, FINITE), lengths, np.repeat(SCALES, TRIES)):
        problem = change(_any_problem(dynamics, rng, (T, *shape[1:]), scale))
        with np.errstate(all="ignore"):
            runs = [run(dynamics, problem, fire) for fire in ("step", "smooth")]
            values = [v for r in runs for state in (*r.charged, r.states[-1]) for v in state]
            is_tame = all(np.max(np.abs(v)) <= limit for v in values)
        spikes = np.stack(runs[0].spikes)
        enough = spikes.size == 1 or 0 < spikes.mean() < 1
        if is_tame and enough and (T == 1 or ((spikes[:-1] == 1) & (spikes[1:] == 0)).any()):
            return problem
    sizes, steps = (" and ".join(f"{v:g}" for v in values) for values in (SCALES, lengths))
    raise ValueError(
        f"{dynamics.neuron}: no finite run with a spike and a silence after it, in {TRIES} draws "
        f"each of inputs and states {sizes} times the usual size over {steps} steps. Does the "
        "neuron overflow, fire always, or never? The thresholds tried lie in 0.4 to 1.8, the "
        "parameters in 0.2 to 0.95"
    )


def _any_problem(dynamics: Dynamics, rng: Any, shape: Shape, scale: float) -> Problem:
    n_states, n_params = len(dynamics.neuron.state), len(dynamics.neuron.params)
    return Problem(
        x=rng.normal(0.6, 1.0, shape) * scale,
        state0=rng.normal(0.0, 0.7, (n_states, *shape[1:])) * scale,
        theta=rng.uniform(0.4, 1.8, shape[2]),
        params=rng.uniform(0.2, 0.95, (n_params, shape[2])),
        k=float(rng.uniform(0.6, 4.0)),
        d_spikes=rng.normal(size=shape),
        d_state_last=rng.normal(size=(n_states, *shape[1:])),
    )


# -- the truth


def by_name(dynamics: Dynamics, found: Mapping[str, Any]) -> dict[str, Any]:
    """Gradients of x, state0, theta and params under the names that reports show."""
    neuron = dynamics.neuron
    states = {f"{n}[0]": d for n, d in zip(neuron.state, found["state0"], strict=True)}
    params = dict(zip(neuron.params, found["params"], strict=True))
    return {"x": found["x"], **states, "threshold": found["theta"], **params}


def truth(
    dynamics: Dynamics, problem: Problem, twin: str
) -> tuple[dict[str, Array], dict[str, Array]]:
    """The true gradients of a twin by the complex step, every entry of every argument at once.

    With them comes the scale of rounding: the sums of the absolute terms of each.
    """
    base = run(dynamics, problem, "smooth" if twin == "smooth" else "step")
    d_spikes = 0 * problem.d_spikes if twin == "slope 0" else problem.d_spikes
    found, sizes, h = dict[str, Array](), dict[str, Array](), 1e-30
    for name in ("x", "state0", "theta", "params"):
        at = getattr(problem, name)
        # One entry shifted in each of at.size copies, an axis that everything broadcasts over:
        # [T, copies, B, N], [K, copies, B, N], [copies, 1, N] and [Q, copies, 1, N].
        each = {n: getattr(problem, n)[None] for n in ("x", "state0", "theta", "params")}
        each[name] = at + 1j * h * np.eye(at.size).reshape(at.size, *at.shape)
        each = {n: np.moveaxis(a, 0, 1) if n != "theta" else a for n, a in each.items()}
        each |= {n: each[n][..., None, :] for n in ("theta", "params")}
        moved = run(dynamics, problem._replace(**each), TWINS[twin], base)
        results = *moved.spikes, *moved.states[-1]
        above = *d_spikes, *problem.d_state_last
        terms = [np.imag(r) / h * d for r, d in zip(results, above, strict=True)]
        for into, sign in ((found, lambda a: a), (sizes, np.abs)):
            total: Any = sum(sign(term).sum((-2, -1)) for term in terms)
            into[name] = np.broadcast_to(total, at.size).reshape(at.shape)
    return by_name(dynamics, found), by_name(dynamics, sizes)


def loop_rows(
    dynamics: Dynamics, problem: Problem, twin: str, yours: Mapping[str, Array]
) -> list[Row]:
    """A row for each of these gradients; that of a single number is a sum over the neurons."""
    rows, both = [], truth(dynamics, problem, twin)
    for n, d in yours.items():
        true, size = (values[n] if np.ndim(d) else np.asarray(values[n].sum()) for values in both)
        rows.append(row_of(twin, f"d_{n}", d, true, ORIGIN, size))
    return rows
