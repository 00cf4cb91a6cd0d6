"""Rows of lanes: what a compiled loop does in one step, built from the floor-0 functions of some dynamics.

What a tile needs in every step stands in one scratch array, ``w``, row after row: states, thresholds and parameters, sums.
The compiler can then see that they do not overlap, and makes vector code; it could not for separate arrays (three times
slower).  Positions are unsigned for the same reason: a signed one might count from the end.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np

from .contract import FIRES, Wanted, hold
from .jit import U

__all__ = [
    "LANES", "PITCH", "Layout", "Rule", "adjoint_rows", "clear", "collect", "forward_row", "load", "missing", "prefetch",
    "read", "save", "spread", "store",
]  # fmt: skip

#: Lanes of a tile: its rows of the scratch stay in the fastest cache.
LANES = 2048
#: From one row of the scratch to the next: not a power of two, or all rows would meet in the same few lines of the cache.
PITCH = LANES + 80
#: Lanes that are worked on between two calls for memory: more calls at once than a processor keeps track of make it wait.
BLOCK = U(256)


class Layout(NamedTuple):
    """Rows of the scratch: states (later their gradients) first, then what is named here."""

    theta: int  #: threshold, and after it the parameters
    base_theta: int
    sums: int  #: gradients of threshold and parameters
    past: int  #: the states before the charge
    rows: int

    @classmethod
    def of(cls, n_states: int, n_params: int) -> Layout:
        """The layout for K states and Q parameters."""
        base = n_states + 1 + n_params
        return cls(n_states, base, base + 1, base + 2 + n_params, base + 2 + n_params + n_states)


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


def forward_row(rule: Rule, fire: str, held: tuple = (), over: bool = False, keep: bool = True) -> Callable:
    f, n_states, n_params, number = rule
    charge, spike = f["charge"], _spike(f, fire)
    reset = hold(f["reset"], held)
    layout = rule.layout
    threshold, base = U(layout.theta * PITCH), U(layout.base_theta * PITCH)
    line = _line(number)
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
                if keep:
                    spikes[to + n] = s
                if over:
                    x[at + n] = membrane  # two names for one memory would make the compiler go lane by lane
                else:
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
    line = _line(number)

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


def prefetch(array, at):
    """Ask for one line of memory ahead of its use.  For the compiler this is a word of its own, and so is the next."""


def missing(array):
    """Whether there is no such array."""


def _line(number: type) -> np.uint64:
    """Numbers in a line of memory."""
    return U(64 // np.dtype(number).itemsize)


def ahead(array, at, m, line):
    """Ask for `m` numbers from `at` on: rows lie too far apart for the processor to guess which comes next."""
    n = U(0)
    while n < m:  # a range might have a step of zero, for all that the compiler knows, and that would be an error
        prefetch(array, at + n)
        n += line


def _bare(value):
    return (value,)


def _same(values):
    return values


def clear(w, first, rows):
    for n in range(U(first * PITCH), U((first + rows) * PITCH)):
        w[n] = 0


def read(w, row, array, at, a, m):
    """Lanes of one row of the scratch, from an array."""
    to = U(row * PITCH) + a
    for n in range(m):
        w[to + n] = array[at + n]


def store(array, at, w, row, a, m):
    """Lanes of one row of the scratch, into an array."""
    start = U(row * PITCH) + a
    for n in range(m):
        array[at + n] = w[start + n]


def load(w, first, rows, states, step, lo, lane, m):
    """States from an array ``[rows, step]``; zeros where it is empty."""
    for i in range(rows):
        if missing(states):
            to = U((first + i) * PITCH + lane)
            for n in range(m):
                w[to + n] = 0
        else:
            read(w, first + i, states, U(i) * step + lo, U(lane), m)


def save(states, step, lo, w, rows, lane, m):
    """The opposite of `load`, from the first rows of the scratch; nothing where there is no array."""
    if not missing(states):
        for i in range(rows):
            store(states, U(i) * step + lo, w, i, U(lane), m)


def spread(w, first, rows, count, n0, width, group, n_lanes):
    """Rows ``[count, N]``, their values from `n0` on, laid out for `group` rows of the batch side by side; or nothing."""
    for i in range(0 if missing(rows) else count):
        for g in range(group):
            read(w, first + i, rows, U(i * n_lanes + n0), U(g * width), U(width))


def collect(sums, rows, chunks, chunk, n_lanes, n0, w, first, width, group):
    """The adjoint of `spread`: into `sums` ``[rows, chunks, N]``, added up over the batch rows side by side."""
    for i in range(rows):
        to, start = U((i * chunks + chunk) * n_lanes + n0), U((first + i) * PITCH)
        for n in range(U(width)):
            sums[to + n] = w[start + n]
        for g in range(1, group):
            for n in range(U(width)):
                sums[to + n] += w[start + U(g * width) + n]
