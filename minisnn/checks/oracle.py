"""The time loop of the derivation, written once more, for any kind of number: the oracle that kernels are held to.

It runs on arrays, on complex numbers (for the complex step) and on exact fractions (for the proof), one step a list entry.
:func:`walk_back` is the adjoint of DESIGN 4 with *hooks*: at each of them a named mistake may change what happened, so
that a wrong derivation can be recognised (:mod:`minisnn.checks.explain_loops`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from ..kernels import Dynamics
from ..kernels.arrays import Array
from ..spikes import FIRES, hold
from .report import Row

__all__ = [
    "ORIGIN",
    "Problem",
    "Run",
    "Slip",
    "TOLERANCE",
    "draw",
    "fire_hard",
    "fire_smooth",
    "fire_tangent",
    "row_of",
    "run",
    "run_of",
    "true_gradients",
    "truth",
    "walk_back",
]

Fire = Callable[[int, Any, Any], Any]  # (t, u, theta) -> spike


class Run(NamedTuple):
    """Everything that happened: lists over time.  ``before`` and ``charged`` hold tuples of states, ``last`` one tuple."""

    x: Sequence[Any]
    before: list[tuple[Any, ...]]
    charged: list[tuple[Any, ...]]
    spikes: list[Any]
    last: tuple[Any, ...]
    theta: Any
    params: tuple[Any, ...]
    recurrent: Any
    spikes0: Any


def fire_hard(dynamics: Dynamics, k: float) -> Fire:
    """The step itself."""
    return lambda t, u, theta: (u >= theta) * 1.0


def fire_smooth(dynamics: Dynamics, k: float) -> Fire:
    """The surrogate's curve in place of the step."""
    return lambda t, u, theta: dynamics.surrogate.smooth(u - theta, k)


def fire_tangent(dynamics: Dynamics, k: float, base: Run) -> Fire:
    """The straight line through each spike of the run `base`, with the surrogate's slope."""
    line = FIRES["tangent"](dynamics.surrogate.smooth, dynamics.surrogate.slope)
    return lambda t, u, theta: line(u, theta, k, base.charged[t][0], base.spikes[t], base.theta)


def run(
    dynamics: Dynamics,
    x: Sequence[Any],
    state0: tuple[Any, ...],
    theta: Any,
    params: tuple[Any, ...],
    fire: Fire,
    base: Run | None = None,
    recurrent: Any = None,
    spikes0: Any = None,
) -> Run:
    """The loop forward; arguments that ``reset.stop`` names keep the values of the run `base`, if there is one.

    With `recurrent`, a weight ``[N, N]``, the spikes of each step come back as a current at the next; `spikes0` are those
    before the first.
    """
    reset = hold(dynamics.reset.reset, dynamics.reset.stop if base else ())
    state, s = state0, spikes0
    found = Run(x, [], [], [], state0, theta, params, recurrent, spikes0)
    for t in range(len(x)):
        current = x[t] if recurrent is None or s is None else x[t] + s @ recurrent
        found.before.append(state)
        charged = dynamics.neuron.charge(*state, current, *params)
        u, *others = charged if isinstance(charged, tuple) else (charged,)
        s = fire(t, u, theta)
        held = (base.charged[t][0], base.spikes[t], base.theta) if base else (None, None, None)
        state = (reset(u, s, theta, *held), *others)
        found.charged.append((u, *others))
        found.spikes.append(s)
    return found._replace(last=state)


class Slip(NamedTuple):
    """A mistake with a name: what it does to the step at hand, at which hook, and the sentence that explains it."""

    hook: str
    change: Callable[[SimpleNamespace], None]
    sentence: str


def walk_back(
    dynamics: Dynamics,
    found: Run,
    d_spikes: Sequence[Any],
    d_last: Sequence[Any],
    slope: Callable,
    slips: Iterable[Slip] = (),
) -> SimpleNamespace:
    """The adjoint of `run`: ``d_x`` (a list over time), ``d_state0``, and per-lane sums ``d_theta`` and ``d_params``.

    `slope` is a function of ``(t, u - theta)``.  At each hook the `slips` that belong there change the namespace of the
    step.
    """
    n, (neuron, reset, _) = len(found.before[0]), dynamics

    def hook(name: str, e: SimpleNamespace) -> None:
        for slip in slips:
            if slip.hook == name:
                slip.change(e)

    T = len(found.x)
    out = SimpleNamespace(
        d_x=[0] * T, d_theta=0, d_params=[0] * len(found.params), d_recurrent=0, order=list(reversed(range(T))), run=found,
        d_v=d_last[0], d_others=list(d_last[1:]), d_back=0, T=T, theta=found.theta, dynamics=dynamics,
    )  # fmt: skip
    hook("begin", out)
    d_v, d_others, d_back = out.d_v, out.d_others, out.d_back
    first = 0 * found.spikes[0] if found.spikes0 is None else found.spikes0
    for t in out.order:
        u = found.charged[t][0]
        e = SimpleNamespace(
            t=t, T=T, run=found, d_v=d_v, d_others=d_others, u=u, s=found.spikes[t], before=found.before[t], x=found.x[t],
            theta=found.theta, params=found.params, at=u, d_spikes=d_spikes[t], d_up=d_spikes, d_back=d_back, slope_of=slope,
            v=found.before[t + 1][0] if t + 1 < T else found.last[0], dynamics=dynamics, d_theta_scale=1, d_params_scale=1,
            s_before=found.spikes[t - 1] if t else first, recurrent=found.recurrent,
        )  # fmt: skip
        if found.recurrent is not None and (t or found.spikes0 is not None):
            e.x = e.x + e.s_before @ found.recurrent
        hook("start", e)
        e.d_u, e.d_s, e.d_theta = reset.reset_adjoint(e.d_v, e.u, e.s, found.theta)
        hook("reset", e)
        e.slope = slope(t, e.at - found.theta)
        hook("slope", e)
        e.g = (e.d_s + e.d_spikes + e.d_back) * e.slope
        e.into_u, e.into_theta = e.d_u + e.g, e.d_theta - e.g
        hook("spike", e)
        results = neuron.charge_adjoint(e.into_u, *e.d_others, *e.before, e.x, *found.params)
        e.d_before, e.d_x, e.d_params = list(results[:n]), results[n], list(results[n + 1 :])
        hook("charge", e)
        d_v, *d_others = e.d_before
        out.d_x[t] = e.d_x
        out.d_theta = out.d_theta + e.into_theta * e.d_theta_scale
        out.d_params = [total + d * e.d_params_scale for total, d in zip(out.d_params, e.d_params, strict=True)]
        if found.recurrent is not None:
            e.feedback, e.paired = e.d_x @ found.recurrent.T, e.s_before.T @ e.d_x
            hook("recurrent", e)
            d_back, out.d_recurrent = e.feedback, out.d_recurrent + e.paired
    out.d_state0 = [d_v, *d_others]
    out.last_step = e
    hook("end", out)
    return out


def as_arrays(out: SimpleNamespace, batch: int, lanes: int) -> dict[str, Any]:
    """What `walk_back` returns as arrays: ``x [T, B, N]``, ``state0 [K, B, N]``, ``theta [N]``, ``params [Q, N]``."""

    def full(value: Any) -> Any:
        return np.broadcast_to(np.asarray(value, float), (batch, lanes))

    found = {"x": np.stack([full(d) for d in out.d_x]), "state0": np.stack([full(d) for d in out.d_state0])}
    found["theta"] = full(out.d_theta).sum(axis=0)
    found["params"] = np.array([full(d).sum(axis=0) for d in out.d_params]).reshape(-1, lanes)
    if out.run.recurrent is not None:
        found["recurrent"] = np.asarray(out.d_recurrent)
    return found


# -- Random problems that hide no mistake.

#: How far the inputs and states are stretched, in turn, until a neuron is found that fires and stays finite.
SCALES = (1.0, 3.0, 0.3, 0.1, 10.0, 0.03)
TAME, FINITE = 1e3, 1e60


class Problem(NamedTuple):
    """Arguments of a scan, and gradients from above: of the spikes and of the last state."""

    x: Array
    state0: Array
    theta: Array
    params: Array
    k: float
    d_spikes: Array
    d_state_last: Array


def run_of(dynamics: Dynamics, problem: Problem, smooth: bool = False) -> Run:
    """The hard or the smooth run of a problem."""
    fire = (fire_smooth if smooth else fire_hard)(dynamics, problem.k)
    return run(dynamics, problem.x, tuple(problem.state0), problem.theta, tuple(problem.params), fire)


def draw(dynamics: Dynamics, rng: np.random.Generator, shape: tuple[int, int, int] = (6, 2, 3), tries: int = 60) -> Problem:
    """A random problem that hides no mistake, float64.

    Defaults hide mistakes: at k = 2 the factor k/2 of atan is 1, at threshold 1 ``theta * d_v`` looks like ``d_v``, at T = 1
    or decay 0 a detached reset looks right.  So k lies in (0.6, 4), thresholds in (0.4, 1.8), parameters in (0.2, 0.95),
    states and all gradients are nonzero; and it is drawn anew until there is a spike, a silence, and a spike followed by a
    silence, as far as the shape allows.  A neuron that overflows gets other inputs and states, then fewer steps, down to 3.

    Raises
    ------
    ValueError : no such run, or only runs that overflow, in `tries` draws of each kind.
    """
    steps = [shape[0]] + [3] * (shape[0] > 3)
    for limit in (TAME, FINITE):
        for T in steps:
            for scale in SCALES:
                for _ in range(tries):
                    problem = _draw_once(dynamics, rng, (T, *shape[1:]), scale)
                    if _hides_nothing(dynamics, problem, limit):
                        return problem
    raise ValueError(
        f"{dynamics.neuron}: no finite run with a spike and a silence after it, in {tries} draws each of inputs and states "
        f"{' and '.join(f'{s:g}' for s in SCALES)} times the usual size over {' and '.join(map(str, steps))} "
        "steps. Does the "
        "neuron overflow, fire always, or never? The thresholds tried lie in 0.4 to 1.8, the parameters in 0.2 to 0.95"
    )


def _draw_once(dynamics: Dynamics, rng: np.random.Generator, shape: tuple[int, int, int], scale: float) -> Problem:
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


def _hides_nothing(dynamics: Dynamics, problem: Problem, limit: float) -> bool:
    with np.errstate(all="ignore"):
        hard = run_of(dynamics, problem)
        spikes = np.stack(hard.spikes)
        enough = spikes.size == 1 or 0 < spikes.mean() < 1
        if len(spikes) > 1:
            enough = enough and bool(((spikes[:-1] == 1) & (spikes[1:] == 0)).any())
        return enough and all(largest(r) <= limit for r in (hard, run_of(dynamics, problem, smooth=True)))


def largest(found: Run) -> float:
    """The largest absolute value among all states of a run; NaN counts as infinite."""
    values = [np.max(np.abs(v)) for states in (*found.charged, found.last) for v in states]
    return float(np.nan_to_num(np.max(values), nan=np.inf, posinf=np.inf))


# -- The true gradients of a time loop, by the complex step through its twins, and the comparison with them.

TOLERANCE = 1e-12
ORIGIN = "the time loop: complex step, relative to the largest entry, its terms taken without sign"


def true_gradients(dynamics: Dynamics, problem: Problem, twin: str) -> dict[str, Array]:
    """The complex step through a twin, every entry of every argument at once."""
    return truth(dynamics, problem, twin)[0]


def truth(dynamics: Dynamics, problem: Problem, twin: str) -> tuple[dict[str, Array], dict[str, Array]]:
    """The gradients, and the sizes that rounding is measured against: their terms, one for each d above, without sign."""
    base = run_of(dynamics, problem, smooth=twin == "smooth")
    fire = {"smooth": fire_smooth, "tangent": lambda d, k: fire_tangent(d, k, base), "slope 0": fire_hard}[twin]
    d_spikes = 0 * problem.d_spikes if twin == "slope 0" else problem.d_spikes
    found, sizes, h = {}, {}, 1e-30
    for name in ("x", "state0", "theta", "params"):
        at = getattr(problem, name)
        if not at.size:
            found[name] = sizes[name] = np.zeros(at.shape)
            continue
        # One entry shifted in each of at.size copies; the copies are a first axis that everything broadcasts over.
        shifted = at + 1j * h * np.eye(at.size).reshape(at.size, *at.shape)
        arguments = {n: getattr(problem, n)[None] for n in ("x", "state0", "theta", "params")} | {name: shifted}
        x, state0, theta, params = (np.moveaxis(a, 0, -3) if n != "theta" else a for n, a in arguments.items())
        lanes = tuple(np.moveaxis(params, -2, 0)[..., None, :]) if len(problem.params) else ()
        twin_run = run(dynamics, x, tuple(state0), theta[:, None], lanes, fire(dynamics, problem.k), base)
        terms = [np.imag(s) / h * d for s, d in zip(twin_run.spikes, d_spikes, strict=True)]
        terms += [np.imag(v) / h * d for v, d in zip(twin_run.last, problem.d_state_last, strict=True)]
        total: Any = sum(term.sum((-2, -1)) for term in terms)
        size: Any = sum(np.abs(term).sum((-2, -1)) for term in terms)
        found[name], sizes[name] = (np.broadcast_to(v, at.size).reshape(at.shape) for v in (total, size))
    return found, sizes


def row_of(
    twin: str, name: str, analytic: Array, numeric: Array, tolerance: float, origin: str, sizes: Array | None = None
) -> Row:
    """Two arrays compared: the entry where they differ most, relative to the largest (of `sizes`, where given)."""
    difference = np.abs(analytic - numeric)
    scale = np.abs(numeric if sizes is None else sizes).max()
    error = float(difference.max() / scale) if scale > 0 else float(difference.max())
    ok = bool(error <= tolerance)  # where all is right the largest entry is shown: the worst one is a matter of rounding
    at = tuple(int(i) for i in np.unravel_index(np.argmax(np.abs(numeric) if ok else difference), difference.shape))
    return Row(twin, name, analytic.shape, float(analytic[at]), float(numeric[at]), error, tolerance, origin, ok, at)
