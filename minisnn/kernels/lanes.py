"""Lanes: a tile of them taken through a few time steps, forward or back, by the formulas.

A *lane* is one neuron of one sample.  What a tile of lanes needs at every step stands in one flat
*scratch* ``w``, row after row: states, thresholds and parameters, sums.  LLVM then sees that they
do not overlap, and makes vector code; separate arrays are two to three times slower.  Only input,
output and history are arrays of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np

from ..spikes import FIRES, hold
from .contract import Needs
from .jit import BLOCK, TO_READ, TO_WRITE, U, ahead, helper

__all__ = ["LANES", "PITCH", "LoopSpec", "Steps", "back_steps", "forward_steps"]

#: Lanes of a tile: their rows of the scratch stay in the fastest cache or in the next.
LANES = 1024
#: From one row of the scratch to the next.  Not a power of two, or all rows would meet in the same
#: few lines of the cache.
PITCH = LANES + 80


class Steps(NamedTuple):
    """Steps of a tile, as positions in flat arrays.

    The lanes of the first step begin at `at`, those of the next `pitch` further on; in the input
    at `x_at` and `x_pitch`, which is 0 if the input is the same at every step.  The input that the
    loop reads after these steps lies at `x_after`.
    """

    at: np.uint64
    pitch: np.uint64
    x_at: np.uint64
    x_pitch: np.uint64
    x_after: np.uint64
    n: np.uint64
    lanes: np.uint64


class LoopSpec(NamedTuple):
    """What a loop is made of: formulas in its dtype, their sizes, and how neurons fire."""

    f: dict[str, Callable]
    n_states: int
    n_params: int
    number: type
    fire: str = "step"
    held: tuple[str, ...] = ()
    based: bool = False  #: whether there is a base run
    looks_back: bool = False  #: whether gradients depend on the states before a step
    mark: str = ""  #: tells this loop's parts from those of others

    def rows(self) -> tuple[int, int, int, int]:
        """Rows of the scratch, after the states and their gradients, and how many there are.

        Where the threshold stands, with the parameters after it; the base run's threshold; and the
        gradients of threshold and parameters.
        """
        theta = 2 * self.n_states
        base = theta + 1 + self.n_params
        return theta, base, base + 1, base + 2 + self.n_params


def forward_steps(spec: LoopSpec, history: bool) -> Callable:
    """Charge, fire and reset: ``walk(w, k, x, steps, u, u_pitch, out, d_x, u0, s0)``.

    Row ``t * u_pitch`` of `u` takes the membrane of step t.  The forward loop writes its spikes
    into `out`.  Where the adjoint runs forward again (`history`), the states before the step follow
    the membrane if the adjoint needs them; `out` is the gradient of the spikes, which the way back
    reads next, and `d_x` the one that it writes.  While the loop works on a block of lanes, the
    same block of the next step is on its way from memory.
    """
    (theta, base, *_), based, n_states = spec.rows(), spec.based, spec.n_states
    charge, fire, as_number = helper(spec.f["charge"]), _fire(spec), _as_number(spec)
    number, keep_before = spec.number, history and spec.looks_back
    reset = helper(hold(helper(spec.f["reset"]), spec.held), spec.mark)
    states_of, put_states, put_before = _gather(n_states, 0), _put(n_states, 0), _put(n_states, 1)
    params_of, as_tuple = _gather(spec.n_params, theta + 1), _as_tuple(n_states)
    theta_at, base_at = U(theta * PITCH), U(base * PITCH)

    def walk(w, k, x, steps, u, u_pitch, out, d_x, u0, s0):
        at, x_at, to, m = steps.at, steps.x_at, U(0), steps.lanes
        for t in range(steps.n):
            last = t + U(1) == steps.n
            x_next = steps.x_after if last else x_at + steps.x_pitch
            for block in range(U(0), m, BLOCK):
                end = min(block + BLOCK, m)
                if history:
                    ahead(out, at + block, end - block, TO_READ)
                if history and last:
                    ahead(d_x, at + block, end - block, TO_WRITE)
                else:
                    ahead(x, x_next + block, end - block, TO_READ)
                if not history and not last:
                    ahead(out, at + steps.pitch + block, end - block, TO_WRITE)
                for n in range(block, end):
                    before = states_of(w, n)
                    if keep_before:
                        put_before(u, to + n, before)
                    charged = as_tuple(charge(*(before + (x[x_at + n],) + params_of(w, n))))
                    put_states(w, n, charged)
                    membrane, theta = charged[0], w[theta_at + n]
                    if based:
                        base_u, base_s, base_theta = u0[at + n], s0[at + n], w[base_at + n]
                    else:
                        base_u, base_s, base_theta = membrane, number(0), theta
                    u[to + n] = membrane
                    fired = fire(membrane, theta, k, base_u, base_s, base_theta)
                    if not history:
                        out[at + n] = fired
                    w[n] = reset(membrane, as_number(fired), theta, base_u, base_s, base_theta)
            at += steps.pitch
            x_at += steps.x_pitch
            to += u_pitch

    return helper(walk, "history" if history else "forward", spec.mark)


def back_steps(spec: LoopSpec, needs: Needs) -> Callable:
    """Back through the steps, the last first: ``walk(w, k, x, steps, history, d_spikes, d_x)``."""
    (theta, _, sums, _), n_states, number = spec.rows(), spec.n_states, spec.number
    reset_adjoint, charge_adjoint = map(helper, (spec.f["reset_adjoint"], spec.f["charge_adjoint"]))
    slope, fire, as_number = helper(spec.f["slope"]), _fire(spec), _as_number(spec)
    d_states_of, put_d_states = _gather(n_states, n_states), _put(n_states, n_states)
    before_of, params_of = _gather(n_states, 1), _gather(spec.n_params, theta + 1)
    add_params, first_param = _put(spec.n_params, sums + 1, add=True), n_states + 1
    theta_at, sum_at, looks_back = U(theta * PITCH), U(sums * PITCH), spec.looks_back
    want_x, want_theta, want_params = needs.x, needs.theta, needs.params
    pitch = U((1 + n_states) * PITCH)

    def walk(w, k, x, steps, history, d_spikes, d_x):
        last, m = steps.n - U(1), steps.lanes
        at, x_at = steps.at + last * steps.pitch, steps.x_at + last * steps.x_pitch
        to = last * pitch
        for t in range(steps.n):
            first = t + U(1) == steps.n
            for block in range(U(0), m, BLOCK):
                end = min(block + BLOCK, m)
                if first:
                    ahead(x, steps.x_after + block, end - block, TO_READ)
                elif want_x:
                    ahead(d_x, at - steps.pitch + block, end - block, TO_WRITE)
                for n in range(block, end):
                    membrane, theta, d_after = history[to + n], w[theta_at + n], d_states_of(w, n)
                    # Without `looks_back` the adjoint does not read the states: any will do.
                    before = before_of(history, to + n) if looks_back else d_after
                    s = as_number(fire(membrane, theta, k, membrane, number(0), theta))
                    d_u, d_s, d_theta = reset_adjoint(d_after[0], membrane, s, theta)
                    g = (d_s + d_spikes[at + n]) * slope(membrane - theta, k)  # (lif.7)
                    x_and_params = (x[x_at + n],) + params_of(w, n)
                    found = charge_adjoint(*((d_u + g,) + d_after[1:] + before + x_and_params))
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
    if spec.fire != "step":
        return helper(lambda fired: fired, spec.mark)
    return helper(lambda fired: one if fired else zero, spec.mark)


# -- values of one lane in several rows of an array; Numba unrolls these


@cache
def _gather(count: int, first: int) -> Callable:
    """``gather(w, n)``: lane `n` of `count` rows from row `first` on, as a tuple."""
    if count == 0:
        return helper(lambda w, n: (), "gather", 0)
    others, last = _gather(count - 1, first), U((first + count - 1) * PITCH)
    return helper(lambda w, n: others(w, n) + (w[last + n],), "gather", count, first)


@cache
def _put(count: int, first: int, add: bool = False) -> Callable:
    """``put(w, n, values)``: lane `n` of `count` rows becomes the values, or grows by them."""
    if count == 0:
        return helper(lambda w, n, values: None, "put", 0)
    others, at, last = _put(count - 1, first, add), U((first + count - 1) * PITCH), count - 1

    def put(w, n, values):
        others(w, n, values)
        w[at + n] = w[at + n] + values[last] if add else values[last]

    return helper(put, count, first, add)


def _as_tuple(n_states: int) -> Callable:
    """A formula with one result returns it bare."""
    wrap = (lambda value: (value,)) if n_states == 1 else (lambda values: values)
    return helper(wrap, "as_tuple", n_states == 1)
