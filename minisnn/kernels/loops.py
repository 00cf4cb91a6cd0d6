"""The compiled loops over time, built around the floor-0 functions of some dynamics: forward, back, and there and back.

A *tile* is a piece of the lanes, over a chunk of the batch's rows (:func:`minisnn.kernels.compiled.plan`).  Everything it
keeps between steps stands in one array, the *scratch*, row after row: states, thresholds and parameters, sums.  The compiler
can then see that they do not overlap, and makes vector code; it could not for separate arrays (three times slower).
Positions are unsigned for the same reason: a signed one might count from the end.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, register_jitable

from .contract import FIRES, Wanted, hold

__all__ = ["LANES", "Layout", "U", "adjoint_loop", "array_type", "helper", "named", "round_loop", "scan_loop"]

#: Compiled into what calls it, and nothing else: Python never does, so that it needs no way in.
helper = register_jitable(no_cpython_wrapper=True, no_cfunc_wrapper=True)
U = np.uint64
#: Lanes of a tile: its rows of the scratch stay in the fastest cache.
LANES = 2048
#: From one row of the scratch to the next: not a power of two, or all rows would meet in the same few lines of the cache.
PITCH = LANES + 80
#: Fewer lanes at a time would be read in pieces too short for the memory (four times slower at 64).
NARROWEST = 512
#: Lanes that are worked on between two calls for memory: more calls at once than a processor keeps track of make it wait.
BLOCK = U(256)
#: Bytes of membranes and spikes that a tile keeps on its way there and back: they stay in a cache, unless time is very long.
KEPT = 2_000_000


def array_type(dtype: Any, readonly: bool = True, ndim: int = 1) -> types.Array:
    """Numba's type of a C-contiguous array of a NumPy dtype: what loops are compiled for."""
    return types.Array(numba.from_dtype(np.dtype(dtype)), ndim, "C", readonly=readonly)


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


def scan_loop(
    part: Callable, f: dict, n_states: int, n_params: int, number: type, fire: str, held: tuple, over: bool
) -> tuple[Callable, tuple]:
    """Forward.  As every builder: the Python function for Numba, and the signature to compile it for."""
    layout = Layout.of(n_states, n_params)
    step_row = _forward_row(part, f, n_states, n_params, number, fire, held, over)
    theta, base_theta, scratch = layout.theta, layout.base_theta, layout.rows * PITCH

    def scan(x, state0, rows, k, u0, s0, theta0, u, spikes, state_last,
             n_steps, n_rows, n_lanes, width, group, chunk, pieces, first, last):  # fmt: skip
        step = U(n_rows * n_lanes)
        w = np.zeros(scratch, x.dtype)
        for tile in range(first, last):
            n0 = tile % pieces * width
            wide = min(width, n_lanes - n0)
            spread(w, theta, rows, n0, wide, group, n_lanes)
            spread(w, base_theta, theta0, n0, wide, group, n_lanes)
            for row in range(tile // pieces * chunk, min((tile // pieces + 1) * chunk, n_rows), group):
                lo, m = U(row * n_lanes + n0), U(wide * min(group, n_rows - row))
                load(w, 0, n_states, state0, step, lo, 0, m)
                for t in range(U(n_steps)):
                    at = t * step + lo
                    after = at + step if t + U(1) < U(n_steps) else lo + U(group * n_lanes)
                    step_row(w, U(0), k, x, at, after, u, spikes, at, u0, s0, m)
                    for i in range(1, n_states):
                        store(u, (U(i * n_steps) + t) * step + lo, w, i, U(0), m)
                for i in range(state_last.shape[0] // step):
                    store(state_last, U(i) * step + lo, w, i, U(0), m)

    real = numba.from_dtype(np.dtype(number))
    stored = np.uint8 if fire == "step" else number
    given, made = array_type(number), array_type(number, False)
    inputs = (made if over else given, given, given, real, given, given, given)
    return part(scan), (*inputs, made, array_type(stored, False), made, *(types.intp,) * 9)


def adjoint_loop(
    part: Callable,
    f: dict,
    n_states: int,
    n_params: int,
    number: type,
    soft_spikes: bool,
    wanted: Wanted,
    looks_back: bool,
    over: bool,
) -> tuple[Callable, tuple]:
    """Back over the steps of a run that kept its membranes and spikes."""
    layout = Layout.of(n_states, n_params)
    fire_row, reset_row, charge_row, step_row = _adjoint_rows(part, f, n_states, n_params, number, wanted, over, far=True)
    theta, sums, past, scratch = layout.theta, layout.sums, layout.past, layout.rows * PITCH

    def adjoint(d_spikes, d_state_last, x, u, spikes, state0, rows, k, d_x, d_state0, d_rows,
                n_steps, n_rows, n_lanes, width, group, chunk, pieces, first, last):  # fmt: skip
        step = U(n_rows * n_lanes)
        last_step = U(n_steps - 1) * step
        w = np.zeros(scratch, x.dtype)
        for tile in range(first, last):
            n0 = tile % pieces * width
            wide = min(width, n_lanes - n0)
            spread(w, theta, rows, n0, wide, group, n_lanes)
            clear(w, sums, 1 + n_params)
            for row in range(tile // pieces * chunk, min((tile // pieces + 1) * chunk, n_rows), group):
                lo, m = U(row * n_lanes + n0), U(wide * min(group, n_rows - row))
                load(w, 0, n_states, d_state_last, step, lo, 0, m)
                for back in range(U(n_steps)):
                    t = U(n_steps - 1) - back
                    at = t * step + lo
                    after = at - step if t > U(0) else lo + last_step + U(group * n_lanes)
                    if not looks_back:
                        step_row(w, U(0), k, x, u, spikes, at, d_spikes, d_x, at, after, m)
                        continue
                    fire_row(w, U(0), k, u, spikes, at, d_spikes, at, after, m)
                    if t > U(0):
                        reset_row(w, U(0), u, spikes, at - step, m)
                        for i in range(1, n_states):
                            read(w, past + i, u, (U(i * n_steps) + t - U(1)) * step + lo, U(0), m)
                    else:
                        load(w, past, n_states, state0, step, lo, 0, m)
                    charge_row(w, U(0), x, d_x, at, m)
                for i in range(d_state0.shape[0] // step):
                    store(d_state0, U(i) * step + lo, w, i, U(0), m)
            collect(d_rows, tile // pieces, n0, w, sums, wide, group)

    real = numba.from_dtype(np.dtype(number))
    stored = number if soft_spikes else np.uint8
    given, made = array_type(number), array_type(number, False)
    inputs = (made if over else given, given, given, given, array_type(stored), given, given, real)
    return part(adjoint), (*inputs, made, made, array_type(number, False, 3), *(types.intp,) * 9)


def round_loop(
    part: Callable,
    f: dict,
    n_states: int,
    n_params: int,
    number: type,
    fire: str,
    wanted: Wanted,
    looks_back: bool,
    over: bool,
) -> tuple[Callable, tuple]:
    """There and back for one tile after the other: membranes and spikes never leave the cache."""
    layout = Layout.of(n_states, n_params)
    step_row = _forward_row(part, f, n_states, n_params, number, fire)
    fire_back, reset_row, charge_back, back_row = _adjoint_rows(part, f, n_states, n_params, number, wanted, over)
    theta, sums, past, scratch = layout.theta, layout.sums, layout.past, layout.rows * PITCH
    stored = np.uint8 if fire == "step" else number
    bytes_of_a_step = n_states * np.dtype(number).itemsize + np.dtype(stored).itemsize

    def there_and_back(x, state0, rows, k, d_spikes, d_state_last, d_x, d_state0, d_rows,
                       n_steps, n_rows, n_lanes, width, group, chunk, pieces, first, last):  # fmt: skip
        step = U(n_rows * n_lanes)
        last_step = U(n_steps - 1) * step
        narrow = min(max(KEPT // (bytes_of_a_step * n_steps) // 64 * 64, NARROWEST), width * group)
        w = np.zeros(scratch, x.dtype)
        u, spikes = np.empty(n_states * n_steps * narrow, x.dtype), np.empty(n_steps * narrow, stored)
        for tile in range(first, last):
            n0 = tile % pieces * width
            wide = min(width, n_lanes - n0)
            spread(w, theta, rows, n0, wide, group, n_lanes)
            clear(w, sums, 1 + n_params)
            for row in range(tile // pieces * chunk, min((tile // pieces + 1) * chunk, n_rows), group):
                lanes = wide * min(group, n_rows - row)
                for lane in range(0, lanes, narrow):
                    a, m, lo = U(lane), U(min(narrow, lanes - lane)), U(row * n_lanes + n0 + lane)
                    after = lo + (m if lane + narrow < lanes else U(group * n_lanes - lane))
                    load(w, 0, n_states, state0, step, lo, lane, m)
                    for t in range(U(n_steps)):
                        then = t * step + step + lo if t + U(1) < U(n_steps) else after
                        step_row(w, a, k, x, t * step + lo, then, u, spikes, t * m, x, x, m)
                        for i in range(1, n_states):
                            store(u, (U(i * n_steps) + t) * m, w, i, a, m)
                    load(w, 0, n_states, d_state_last, step, lo, lane, m)
                    for back in range(U(n_steps)):
                        now = U(n_steps - 1) - back
                        then = now * step - step + lo if now > U(0) else last_step + after
                        if not looks_back:
                            back_row(w, a, k, x, u, spikes, now * m, d_spikes, d_x, now * step + lo, then, m)
                            continue
                        fire_back(w, a, k, u, spikes, now * m, d_spikes, now * step + lo, then, m)
                        if now > U(0):
                            reset_row(w, a, u, spikes, (now - U(1)) * m, m)
                            for i in range(1, n_states):
                                read(w, past + i, u, (U(i * n_steps) + now - U(1)) * m, a, m)
                        else:
                            load(w, past, n_states, state0, step, lo, lane, m)
                        charge_back(w, a, x, d_x, now * step + lo, m)
                    for i in range(d_state0.shape[0] // step):
                        store(d_state0, U(i) * step + lo, w, i, a, m)
            collect(d_rows, tile // pieces, n0, w, sums, wide, group)

    real = numba.from_dtype(np.dtype(number))
    given, made = array_type(number), array_type(number, False)
    return part(there_and_back), (
        given, given, given, real, made if over else given, given, made, made, array_type(number, False, 3),
        *(types.intp,) * 9,
    )  # fmt: skip


# -- one step of one row of lanes.  `a` is where the lanes stand in the scratch, `at` where they stand in the arrays,
# -- `then` where the next row will: while a block is worked on, the same block of the next row is on its way from memory


def _forward_row(
    part: Callable,
    f: dict,
    n_states: int,
    n_params: int,
    number: type,
    fire: str,
    held: tuple = (),
    over: bool = False,
) -> Callable:
    charge = f["charge"]
    spike = part(FIRES[fire](f.get("smooth", charge), f.get("slope", charge)))  # "step" looks at neither
    reset = part(hold(f["reset"], held))
    layout = Layout.of(n_states, n_params)
    threshold, base = U(layout.theta * PITCH), U(layout.base_theta * PITCH)
    gather_state, gather_params = _gather(n_states, 0), _gather(n_params, layout.theta + 1)
    put_state, as_tuple = _put(n_states, 0), _bare if n_states == 1 else _same

    @part
    def step_row(w, a, k, x, at, then, u, spikes, to, u0, s0, m):
        for block in range(U(0), m, BLOCK):
            end = min(block + BLOCK, m)
            ahead(x, then + block, end - block)
            for n in range(block, end):
                i = a + n
                states = as_tuple(charge(*((*gather_state(w, i), x[at + n], *gather_params(w, i)))))
                put_state(w, i, states)
                membrane, theta, theta0 = states[0], w[threshold + i], w[base + i]
                s = number(spike(membrane, theta, k, u0[at + n], s0[at + n], theta0))
                w[i] = reset(membrane, s, theta, u0[at + n], s0[at + n], theta0)
                spikes[to + n] = s
                if over:
                    x[at + n] = membrane  # two names for one memory would make the compiler go lane by lane
                else:
                    u[to + n] = membrane

    return step_row


def _adjoint_rows(
    part: Callable,
    f: dict,
    n_states: int,
    n_params: int,
    number: type,
    wanted: Wanted,
    over: bool,
    far: bool = False,
) -> tuple[Callable, Callable, Callable, Callable]:
    charge_adjoint, reset, reset_adjoint, slope = f["charge_adjoint"], f["reset"], f["reset_adjoint"], f["slope"]
    layout = Layout.of(n_states, n_params)
    threshold, sums, past = U(layout.theta * PITCH), U(layout.sums * PITCH), U(layout.past * PITCH)
    gather_adjoint, gather_past, put_adjoint = _gather(n_states, 0), _gather(n_states, layout.past), _put(n_states, 0)
    gather_params, add_params = _gather(n_params, layout.theta + 1), _put(n_params, layout.sums + 1, True)
    after_states = n_states + 1
    want_x, want_theta, want_params, _ = wanted

    @part
    def unfire(w, i, k, membrane, s, d_spike):
        """Back through reset and spike of one lane."""
        theta = w[threshold + i]
        d_u, d_s, d_theta_t = reset_adjoint(w[i], membrane, s, theta)
        g = (d_s + d_spike) * slope(membrane - theta, k)  # (lif.7)
        w[i] = d_u + g
        if want_theta:
            w[sums + i] += d_theta_t - g  # (lif.11)

    @part
    def uncharge(w, i, x):
        """Back through the charge of one lane: the gradients of states, input and parameters."""
        adjoints = charge_adjoint(*(gather_adjoint(w, i) + gather_past(w, i) + (x,) + gather_params(w, i)))
        put_adjoint(w, i, adjoints)
        if want_params:
            add_params(w, i, adjoints[after_states:])
        return adjoints[n_states]

    @part
    def fire_row(w, a, k, u, spikes, kept, d_spikes, at, then, m):
        for block in range(U(0), m, BLOCK):
            end = min(block + BLOCK, m)
            ahead(d_spikes, then + block, end - block)
            for n in range(block, end):
                unfire(w, a + n, k, u[kept + n], number(spikes[kept + n]), d_spikes[at + n])

    @part
    def reset_row(w, a, u, spikes, kept, m):
        for n in range(m):
            w[past + a + n] = reset(u[kept + n], number(spikes[kept + n]), w[threshold + a + n])

    @part
    def charge_row(w, a, x, d_x, at, m):
        for n in range(m):
            d = uncharge(w, a + n, x[at + n])
            if want_x:
                d_x[at + n] = d

    @part
    def step_row(w, a, k, x, u, spikes, kept, d_spikes, d_x, at, then, m):
        """All in one pass, where nothing that is wanted depends on the states before the charge."""
        for block in range(U(0), m, BLOCK):
            end = min(block + BLOCK, m)
            ahead(d_spikes, then + block, end - block)
            if far:
                ahead(u, then + block, end - block)
                ahead(spikes, then + block, end - block)
            for n in range(block, end):
                unfire(w, a + n, k, u[kept + n], number(spikes[kept + n]), d_spikes[at + n])
                d = uncharge(w, a + n, x[at + n])
                if want_x and over:
                    d_spikes[at + n] = d
                elif want_x:
                    d_x[at + n] = d

    return fire_row, reset_row, charge_row, step_row


# -- small helpers for any number of states and parameters: the compiler unrolls them


def named(mark: str) -> Callable:
    """A decorator for the parts of one loop: it puts `mark`, a digest of what the loop computes, into their names.

    Numba knows functions by name in two places where different code of one name gives wrong results: a cache file may be
    written by two processes at once, and machine code that two processes compiled meets in a third one.
    """

    def name(function: Callable) -> Callable:
        function.__qualname__ = f"{function.__name__}_{mark}"
        return helper(function)

    return name


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

    return named(f"{count}_{first}")(gather)


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

    return named(f"{count}_{first}_{add}")(put)


@helper
def _bare(value):
    return (value,)


@helper
def _same(values):
    return values


@intrinsic
def _prefetch(typing_context, array, at):
    """Ask for one line of memory ahead of its use."""

    def code(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        place = builder.bitcast(builder.gep(data, [arguments[1]]), pointer)
        kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", (pointer,), kind)
        builder.call(prefetch, [place, *(number(n) for n in (0, 2, 1))])  # to be read, into the second cache, data

    return types.void(array, at), code


@helper
def ahead(array, at, m):
    """Ask for `m` numbers from `at` on: rows lie too far apart for the processor to guess which comes next."""
    for n in range(U(0), m, U(64 // array.itemsize)):
        _prefetch(array, at + n)  # type: ignore[call-arg]


@helper
def clear(w, first, rows):
    for n in range(U(first * PITCH), U((first + rows) * PITCH)):
        w[n] = 0


@helper
def read(w, row, array, at, a, m):
    """Lanes of one row of the scratch, from an array."""
    to = U(row * PITCH) + a
    for n in range(m):
        w[to + n] = array[at + n]


@helper
def store(array, at, w, row, a, m):
    """Lanes of one row of the scratch, into an array."""
    start = U(row * PITCH) + a
    for n in range(m):
        array[at + n] = w[start + n]


@helper
def load(w, first, rows, states, step, lo, lane, m):
    """States from an array ``[rows, step]``; zeros where it is empty."""
    for i in range(rows):
        if states.shape[0] == 0:
            to = U((first + i) * PITCH + lane)
            for n in range(m):
                w[to + n] = 0
        else:
            read(w, first + i, states, U(i) * step + lo, U(lane), m)


@helper
def spread(w, first, rows, n0, width, group, n_lanes):
    """Rows ``[.., N]``, their values from `n0` on, laid out for `group` rows of the batch side by side."""
    for i in range(rows.shape[0] // n_lanes):
        for g in range(group):
            read(w, first + i, rows, U(i * n_lanes + n0), U(g * width), U(width))


@helper
def collect(sums, chunk, n0, w, first, width, group):
    """The adjoint of `spread`: into `sums` ``[rows, P, N]``, added up over the batch rows side by side."""
    for i in range(sums.shape[0]):
        start = U((first + i) * PITCH)
        for n in range(U(width)):
            sums[i, chunk, U(n0) + n] = w[start + n]
        for g in range(1, group):
            for n in range(U(width)):
                sums[i, chunk, U(n0) + n] += w[start + U(g * width) + n]
