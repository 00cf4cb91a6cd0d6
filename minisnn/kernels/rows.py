"""Rows of lanes: what a compiled loop does in one step, built from the floor-0 functions of some dynamics."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from .contract import FIRES, Wanted, hold
from .jit import U
from .tile import PITCH, Layout, ahead, line_of

__all__ = ["Rule", "adjoint_rows", "forward_row"]

#: Lanes that are worked on between two calls for memory: more calls at once than a processor keeps track of make it wait.
BLOCK = U(256)


class Rule(NamedTuple):
    """What a loop is made of: floor-0 functions in its dtype, how many states and parameters they have, the dtype."""

    f: dict[str, Callable]
    n_states: int
    n_params: int
    number: type

    @property
    def layout(self) -> Layout:
        """Where everything lies in the scratch."""
        return Layout.of(self.n_states, self.n_params)


# -- one step of one row of lanes.  `a` is where the lanes stand in the scratch, `at` where they stand in the arrays,
# -- `then` where the next row will: while a block is worked on, the same block of the next row is on its way from memory


def forward_row(rule: Rule, fire: str, held: tuple = (), over: bool = False, keep: str = "all") -> Callable:
    """`keep` : what is written, "all", "states" (no spikes) or "nothing"."""
    f, n_states, n_params, number = rule
    charge, spike = f["charge"], _spike(f, fire)
    reset = hold(f["reset"], held)
    layout = rule.layout
    threshold, base = U(layout.theta * PITCH), U(layout.base_theta * PITCH)
    line = line_of(number)
    gather_state, gather_params = _gather(n_states, 0), _gather(n_params, layout.theta + 1)
    put_state, as_tuple = _put(n_states, 0), _bare if n_states == 1 else _same

    def step_row(w, a, k, x, at, then, u, spikes, to, u0, s0, m):
        for block in range(U(0), m, BLOCK):
            end = min(block + BLOCK, m)
            ahead(x, then + block, end - block, line)
            for n in range(block, end):
                i = a + n
                states = as_tuple(charge(*((*gather_state(w, i), x[at + n], *gather_params(w, i)))))
                put_state(w, i, states)
                membrane, theta, theta0 = states[0], w[threshold + i], w[base + i]
                s = number(spike(membrane, theta, k, u0[at + n], s0[at + n], theta0))
                w[i] = reset(membrane, s, theta, u0[at + n], s0[at + n], theta0)
                if keep == "all":
                    spikes[to + n] = s
                if over:
                    x[at + n] = membrane  # two names for one memory would make the compiler go lane by lane
                elif keep != "nothing":
                    u[to + n] = membrane

    return step_row


def adjoint_rows(
    rule: Rule, wanted: Wanted, over: bool, far: bool, fire: str | None
) -> tuple[Callable, Callable, Callable, Callable]:
    """`far` : what was kept lies in memory, not a cache.   `fire` : how neurons fire again; ``None`` : spikes were kept."""
    f, n_states, n_params, number = rule
    spike = _spike(f, fire or "step")
    charge_adjoint, reset, reset_adjoint, slope = f["charge_adjoint"], f["reset"], f["reset_adjoint"], f["slope"]
    layout = rule.layout
    threshold, sums, past = U(layout.theta * PITCH), U(layout.sums * PITCH), U(layout.past * PITCH)
    gather_adjoint, gather_past, put_adjoint = _gather(n_states, 0), _gather(n_states, layout.past), _put(n_states, 0)
    gather_params, add_params = _gather(n_params, layout.theta + 1), _put(n_params, layout.sums + 1, True)
    after_states = n_states + 1
    want_x, want_theta, want_params, _ = wanted
    line = line_of(number)

    def fired(w, i, k, membrane, spikes, at):
        """The spike of one lane: fetched, or computed again."""
        theta = w[threshold + i]
        return number(spike(membrane, theta, k, membrane, membrane, theta) if fire else spikes[at])

    def unfire(w, i, k, membrane, s, d_spike):
        """Back through reset and spike of one lane."""
        theta = w[threshold + i]
        d_u, d_s, d_theta_t = reset_adjoint(w[i], membrane, s, theta)
        g = (d_s + d_spike) * slope(membrane - theta, k)  # (lif.7)
        w[i] = d_u + g
        if want_theta:
            w[sums + i] += d_theta_t - g  # (lif.11)

    def uncharge(w, i, x):
        """Back through the charge of one lane: the gradients of states, input and parameters."""
        adjoints = charge_adjoint(*(gather_adjoint(w, i) + gather_past(w, i) + (x,) + gather_params(w, i)))
        put_adjoint(w, i, adjoints)
        if want_params:
            add_params(w, i, adjoints[after_states:])
        return adjoints[n_states]

    def fire_row(w, a, k, u, spikes, kept, d_spikes, at, then, m):
        for block in range(U(0), m, BLOCK):
            end = min(block + BLOCK, m)
            ahead(d_spikes, then + block, end - block, line)
            for n in range(block, end):
                membrane = u[kept + n]
                unfire(w, a + n, k, membrane, fired(w, a + n, k, membrane, spikes, kept + n), d_spikes[at + n])

    def reset_row(w, a, k, u, spikes, kept, m):
        for n in range(m):
            s = fired(w, a + n, k, u[kept + n], spikes, kept + n)
            w[past + a + n] = reset(u[kept + n], s, w[threshold + a + n])

    def charge_row(w, a, x, d_x, at, m):
        for n in range(m):
            d = uncharge(w, a + n, x[at + n])
            if want_x:
                d_x[at + n] = d

    def step_row(w, a, k, x, u, spikes, kept, d_spikes, d_x, at, then, m):
        """All in one pass, where nothing that is wanted depends on the states before the charge."""
        for block in range(U(0), m, BLOCK):
            end = min(block + BLOCK, m)
            ahead(d_spikes, then + block, end - block, line)
            if far:
                ahead(u, then + block, end - block, line)
            for n in range(block, end):
                membrane = u[kept + n]
                unfire(w, a + n, k, membrane, fired(w, a + n, k, membrane, spikes, kept + n), d_spikes[at + n])
                d = uncharge(w, a + n, x[at + n])
                if want_x and over:
                    d_spikes[at + n] = d
                elif want_x:
                    d_x[at + n] = d

    return fire_row, reset_row, charge_row, step_row


def _spike(f: dict[str, Callable], fire: str) -> Callable:
    """How neurons fire; "step" looks neither at the surrogate's curve nor at its slope."""
    return FIRES[fire](f.get("smooth", f["reset"]), f.get("slope", f["reset"]))


# -- small helpers for any number of states and parameters: the compiler unrolls them


@cache
def _gather(count: int, first: int) -> Callable:
    """gather(w, n) -> values of lane n in `count` rows of the scratch from row `first` on."""
    if count == 0:

        def gather(w, n):
            return ()

    else:
        others, last = _gather(count - 1, first), U((first + count - 1) * PITCH)

        def gather(w, n):
            return others(w, n) + (w[last + n],)  # noqa: RUF005 - Numba reads no starred tuple

    return gather


@cache
def _put(count: int, first: int, add: bool = False) -> Callable:
    """put(w, n, values): lane n of `count` rows from row `first` on becomes the values, or grows by them."""
    if count == 0:

        def put(w, n, values):
            pass

    else:
        others, at, last = _put(count - 1, first, add), U((first + count - 1) * PITCH), count - 1
        if add:

            def put(w, n, values):
                others(w, n, values)
                w[at + n] += values[last]

        else:

            def put(w, n, values):
                others(w, n, values)
                w[at + n] = values[last]

    return put


def _bare(value):
    return (value,)


def _same(values):
    return values
