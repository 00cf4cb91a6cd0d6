"""Lanes: a tile of them taken through a few time steps, forward or back, by the formulas of some dynamics.

A *lane* is one neuron of one sample.  What a tile of lanes needs at every step stands in one flat *scratch* ``w``, row
after row: states, thresholds and parameters, sums.  LLVM then sees that they do not overlap, and makes vector code; separate
arrays are two to three times slower.  Only input, output and the history are arrays of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np

from ..spikes import FIRES, hold
from .contract import Needs
from .jit import BLOCK, U, ahead, ahead_to_write, helper

__all__ = ["LANES", "PITCH", "Layout", "LoopSpec", "Steps", "back_steps", "forward_steps", "history_steps"]

#: Lanes of a tile: their rows of the scratch stay in the fastest cache or in the next.
LANES = 1024
#: From one row of the scratch to the next: not a power of two, or all rows would meet in the same few lines of the cache.
PITCH = LANES + 80


class Steps(NamedTuple):
    """Steps of a tile, as positions in flat arrays: the lanes of the first step begin at `at`, those of the next `pitch`
    further on; in the input at `x_at` and `x_pitch`, 0 if it is the same at every step.  What is needed next of the input,
    beyond the last step, lies at `x_after`.
    """

    at: np.uint64
    pitch: np.uint64
    x_at: np.uint64
    x_pitch: np.uint64
    x_after: np.uint64
    n: np.uint64
    lanes: np.uint64


class Layout(NamedTuple):
    """Rows of the scratch: states come first; then what is named here."""

    d_state: int  #: gradients of the states
    theta: int  #: threshold, and after it the parameters
    base_theta: int
    sums: int  #: gradients of threshold and parameters
    rows: int


class LoopSpec(NamedTuple):
    """What a loop is made of: formulas in its dtype, how many states and parameters they have, the dtype; how it fires."""

    f: dict[str, Callable]
    n_states: int
    n_params: int
    number: type
    fire: str = "step"
    held: tuple[str, ...] = ()
    based: bool = False  #: whether there is a base run
    looks_back: bool = False  #: whether gradients that are needed depend on the states before a step
    mark: str = ""  #: tells this loop's parts from those of others

    @property
    def layout(self) -> Layout:
        """Where everything stands in the scratch."""
        theta = 2 * self.n_states
        base = theta + 1 + self.n_params
        return Layout(self.n_states, theta, base, base + 1, base + 2 + self.n_params)


def forward_steps(spec: LoopSpec) -> Callable:
    """Charge, fire and reset: ``walk(w, k, x, steps, u, to, spikes, u0, s0)``.

    The membrane of each step is written into `u`, from `to` on, over that of the step before.  While the loop works on a
    block of lanes, the same block of the next step is on its way from memory.
    """
    layout, number, based = spec.layout, spec.number, spec.based
    charge, fire, as_number = helper(spec.f["charge"]), _fire(spec), _as_number(spec)
    reset = helper(hold(helper(spec.f["reset"]), spec.held), spec.mark)
    states_of, put_states = _gather(spec.n_states, 0), _put(spec.n_states, 0)
    params_of, as_tuple = _gather(spec.n_params, layout.theta + 1), _as_tuple(spec.n_states)
    theta_at, base_at = U(layout.theta * PITCH), U(layout.base_theta * PITCH)

    def walk(w, k, x, steps, u, to, spikes, u0, s0):
        at, x_at, m = steps.at, steps.x_at, steps.lanes
        for t in range(steps.n):
            x_next = x_at + steps.x_pitch if t + U(1) < steps.n else steps.x_after
            for block in range(U(0), m, BLOCK):
                end = min(block + BLOCK, m)
                ahead(x, x_next + block, end - block)
                if t + U(1) < steps.n:
                    ahead_to_write(spikes, at + steps.pitch + block, end - block)
                for n in range(block, end):
                    charged = as_tuple(charge(*(states_of(w, n) + (x[x_at + n],) + params_of(w, n))))
                    put_states(w, n, charged)
                    membrane, theta = charged[0], w[theta_at + n]
                    if based:
                        base_u, base_s, base_theta = u0[at + n], s0[at + n], w[base_at + n]
                    else:
                        base_u, base_s, base_theta = membrane, number(0), theta
                    fired = fire(membrane, theta, k, base_u, base_s, base_theta)
                    u[to + n], spikes[at + n], s = membrane, fired, as_number(fired)
                    w[n] = reset(membrane, s, theta, base_u, base_s, base_theta)
            at += steps.pitch
            x_at += steps.x_pitch

    return helper(walk, "forward", spec.mark)


def history_steps(spec: LoopSpec) -> Callable:
    """Forward, keeping what the way back needs: ``walk(w, k, x, steps, history, d_spikes, d_x)``.

    A row of the history holds the membrane, and where gradients depend on them the states before the step.  What the way
    back will need first of the last two arrays is asked for.
    """
    layout, number, pitch = spec.layout, spec.number, U((1 + spec.n_states) * PITCH)
    charge, fire, as_number, reset = helper(spec.f["charge"]), _fire(spec), _as_number(spec), helper(spec.f["reset"])
    states_of, put_states, put_before = _gather(spec.n_states, 0), _put(spec.n_states, 0), _put(spec.n_states, 1)
    params_of, as_tuple = _gather(spec.n_params, layout.theta + 1), _as_tuple(spec.n_states)
    theta_at, looks_back = U(layout.theta * PITCH), spec.looks_back

    def walk(w, k, x, steps, history, d_spikes, d_x):
        at, x_at, to, m = steps.at, steps.x_at, U(0), steps.lanes
        for t in range(steps.n):
            last = t + U(1) == steps.n
            for block in range(U(0), m, BLOCK):
                end = min(block + BLOCK, m)
                ahead(d_spikes, at + block, end - block)
                if last:
                    ahead_to_write(d_x, at + block, end - block)
                else:
                    ahead(x, x_at + steps.x_pitch + block, end - block)
                for n in range(block, end):
                    before = states_of(w, n)
                    if looks_back:
                        put_before(history, to + n, before)
                    charged = as_tuple(charge(*(before + (x[x_at + n],) + params_of(w, n))))
                    put_states(w, n, charged)
                    membrane, theta = charged[0], w[theta_at + n]
                    history[to + n] = membrane
                    s = as_number(fire(membrane, theta, k, membrane, number(0), theta))
                    w[n] = reset(membrane, s, theta)
            at += steps.pitch
            x_at += steps.x_pitch
            to += pitch

    return helper(walk, "history", spec.mark)


def back_steps(spec: LoopSpec, needs: Needs) -> Callable:
    """Back through the steps, the last comes first: ``walk(w, k, x, steps, history, d_spikes, d_x)``.

    Beyond the first lies the input that is needed next.
    """
    n_states, layout, number, pitch = spec.n_states, spec.layout, spec.number, U((1 + spec.n_states) * PITCH)
    charge_adjoint, reset_adjoint, slope = (helper(spec.f[name]) for name in ("charge_adjoint", "reset_adjoint", "slope"))
    fire, as_number = _fire(spec), _as_number(spec)
    d_states_of, put_d_states = _gather(n_states, layout.d_state), _put(n_states, layout.d_state)
    before_of = _gather(n_states, 1)
    params_of, add_params = _gather(spec.n_params, layout.theta + 1), _put(spec.n_params, layout.sums + 1, add=True)
    theta_at, sum_at, looks_back = U(layout.theta * PITCH), U(layout.sums * PITCH), spec.looks_back
    want_x, want_theta, want_params = needs.x, needs.theta, needs.params
    first_param = n_states + 1

    def walk(w, k, x, steps, history, d_spikes, d_x):
        last, m = steps.n - U(1), steps.lanes
        at, x_at, to = steps.at + last * steps.pitch, steps.x_at + last * steps.x_pitch, last * pitch
        for t in range(steps.n):
            first = t + U(1) == steps.n
            for block in range(U(0), m, BLOCK):
                end = min(block + BLOCK, m)
                if first:
                    ahead(x, steps.x_after + block, end - block)
                elif want_x:
                    ahead_to_write(d_x, at - steps.pitch + block, end - block)
                for n in range(block, end):
                    membrane, theta, d_after = history[to + n], w[theta_at + n], d_states_of(w, n)
                    before = before_of(history, to + n) if looks_back else d_after  # nobody looks at the second
                    s = as_number(fire(membrane, theta, k, membrane, number(0), theta))
                    d_u, d_s, d_theta = reset_adjoint(d_after[0], membrane, s, theta)
                    g = (d_s + d_spikes[at + n]) * slope(membrane - theta, k)  # (lif.7)
                    found = charge_adjoint(*((d_u + g,) + d_after[1:] + before + (x[x_at + n],) + params_of(w, n)))
                    put_d_states(w, n, found)
                    if want_x:
                        d_x[at + n] = found[n_states]
                    if want_theta:
                        w[sum_at + n] += d_theta - g  # (lif.11)
                    if want_params:
                        add_params(w, n, found[first_param:])
            at -= steps.pitch
            x_at -= steps.x_pitch
            to -= pitch

    return helper(walk, "back", spec.mark)


def _fire(spec: LoopSpec) -> Callable:
    """How neurons fire; "step" looks neither at the surrogate's curve nor at its slope."""
    unused = spec.f["reset"]
    fire = FIRES[spec.fire](*(helper(spec.f.get(name, unused)) for name in ("smooth", "slope")))
    return helper(fire, spec.mark)


def _as_number(spec: LoopSpec) -> Callable:
    """A spike as a number; for a comparison this is fewer instructions than a conversion."""
    one, zero = spec.number(1), spec.number(0)
    return helper((lambda fired: one if fired else zero) if spec.fire == "step" else (lambda fired: fired), spec.mark)


# -- values of one lane in several rows of an array.  Numba unrolls these for the number of states or parameters


@cache
def _gather(count: int, first: int) -> Callable:
    """``gather(w, n)``: lane `n` of `count` rows from row `first` on, as a tuple."""
    if count == 0:
        return helper(lambda w, n: (), "gather", 0)
    others, last = _gather(count - 1, first), U((first + count - 1) * PITCH)
    return helper(lambda w, n: others(w, n) + (w[last + n],), "gather", count, first)


@cache
def _put(count: int, first: int, add: bool = False) -> Callable:
    """``put(w, n, values)``: lane `n` of `count` rows becomes the first of the values, or grows by them."""
    if count == 0:
        return helper(lambda w, n, values: None, "put", 0)
    others, at, last = _put(count - 1, first, add), U((first + count - 1) * PITCH), count - 1

    def put(w, n, values):
        others(w, n, values)
        w[at + n] = w[at + n] + values[last] if add else values[last]

    return helper(put, count, first, add)


def _as_tuple(n_states: int) -> Callable:
    """A formula with one result returns it bare."""
    return helper((lambda value: (value,)) if n_states == 1 else (lambda values: values), "as_tuple", n_states == 1)
