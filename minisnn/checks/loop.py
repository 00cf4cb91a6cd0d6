"""The time loop of the derivation, written once more, for any kind of number: the oracle that kernels are held to.

It runs on arrays, on complex numbers (for the complex step) and on exact fractions (for the proof), one step a list entry.
:func:`walk_back` is the adjoint of DESIGN 4 with *hooks*: at each of them a named mistake may change what happened, so
that a wrong derivation can be recognised (:mod:`minisnn.checks.mistakes`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from ..kernels import Dynamics
from ..spikes import FIRES, hold

__all__ = ["Run", "Slip", "fire_hard", "fire_smooth", "fire_tangent", "run", "walk_back"]

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
