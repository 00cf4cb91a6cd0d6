"""The compiled loops over time: forward, back, and there and back.

A *tile* is a piece of the lanes, over a chunk of the batch's rows (:func:`minisnn.kernels.compiled.plan`).  Its states,
thresholds and sums lie in the scratch (:mod:`minisnn.kernels.rows`); time runs inside it.
"""

from __future__ import annotations

from collections.abc import Callable

import numba
import numpy as np
from numba import types

from .contract import Wanted
from .jit import U, array_type
from .rows import PITCH, Layout, adjoint_rows, clear, collect, forward_row, load, read, save, spread, store

__all__ = ["adjoint_loop", "round_loop", "scan_loop"]

#: Fewer lanes at a time would be read in pieces too short for the memory: running steps again takes less time.
NARROWEST = 1024
#: Bytes of membranes and spikes that a tile keeps on its way there and back: they stay in a cache.
KEPT = 2_000_000


def scan_loop(
    part: Callable, f: dict, n_states: int, n_params: int, number: type, fire: str, held: tuple, over: bool
) -> tuple[Callable, tuple]:
    """Forward.  As every builder: the Python function for Numba, and the signature to compile it for."""
    layout = Layout.of(n_states, n_params)
    step_row = forward_row(part, f, n_states, n_params, number, fire, held, over)
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
                save(state_last, step, lo, w, n_states, 0, m)

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
    fire_row, reset_row, charge_row, step_row = adjoint_rows(part, f, n_states, n_params, number, wanted, over, far=True)
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
                save(d_state0, step, lo, w, n_states, 0, m)
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
    """There and back for one tile after the other: membranes and spikes never leave the cache.

    For a few hundred steps fewer lanes at a time will do.  For more, time is cut into spans; the states before each are
    kept, and a span is run again before the walk goes back through it.
    """
    layout = Layout.of(n_states, n_params)
    step_row = forward_row(part, f, n_states, n_params, number, fire)
    fire_back, reset_row, charge_back, back_row = adjoint_rows(part, f, n_states, n_params, number, wanted, over)
    theta, sums, past, scratch = layout.theta, layout.sums, layout.past, layout.rows * PITCH
    stored = np.uint8 if fire == "step" else number
    bytes_of_a_step = n_states * np.dtype(number).itemsize + np.dtype(stored).itemsize

    @part
    def there(w, a, k, x, u, spikes, n_span, begin, n_steps, step, lo, after, m):
        """Forward through a span of time from step `begin` on; what it keeps counts from there."""
        for slot in range(min(n_span, n_steps - begin)):
            at = (begin + slot) * step + lo
            then = at + step if begin + slot + U(1) < n_steps else after
            step_row(w, a, k, x, at, then, u, spikes, slot * m, x, x, m)
            for i in range(1, n_states):
                store(u, (U(i) * n_span + slot) * m, w, i, a, m)

    @part
    def back(w, a, k, x, u, spikes, n_span, begin, n_steps, d_spikes, d_x, step, lo, after, borders, border, m):
        """And back through it, down to the states at its border."""
        steps = min(n_span, n_steps - begin)
        for gone in range(steps):
            slot = steps - U(1) - gone
            at = (begin + slot) * step + lo
            then = at - step if begin + slot > U(0) else (n_steps - U(1)) * step + after
            if not looks_back:
                back_row(w, a, k, x, u, spikes, slot * m, d_spikes, d_x, at, then, m)
                continue
            fire_back(w, a, k, u, spikes, slot * m, d_spikes, at, then, m)
            if slot > U(0):
                reset_row(w, a, u, spikes, (slot - U(1)) * m, m)
                for i in range(1, n_states):
                    read(w, past + i, u, (U(i) * n_span + slot - U(1)) * m, a, m)
            else:
                load(w, past, n_states, borders, m, border, a, m)
            charge_back(w, a, x, d_x, at, m)

    def there_and_back(x, state0, rows, k, d_spikes, d_state_last, d_x, d_state0, d_rows,
                       n_steps, n_rows, n_lanes, width, group, chunk, pieces, first, last):  # fmt: skip
        step = U(n_rows * n_lanes)
        narrow = KEPT // (bytes_of_a_step * n_steps) // 64 * 64
        narrow = min(narrow, width * group) if narrow >= NARROWEST else width * group
        span = min(max(KEPT // (bytes_of_a_step * narrow), 1), n_steps)
        spans = -(-n_steps // span)
        w = np.zeros(scratch, x.dtype)
        u, spikes = np.empty(n_states * span * narrow, x.dtype), np.empty(span * narrow, stored)
        borders = np.empty((spans + 1) * n_states * narrow, x.dtype)  # states before each span; the adjoint, while it waits
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
                    for run in range(2 * spans - 1):  # there span by span; and back, each but the last run again first
                        again = run >= spans
                        which = 2 * spans - 2 - run if again else run
                        begin, border = U(which * span), U(which * n_states) * m
                        if again:
                            save(borders, m, U(spans * n_states) * m, w, n_states, lane, m)
                            load(w, 0, n_states, borders, m, border, lane, m)
                        elif spans > 1 or looks_back:
                            save(borders, m, border, w, n_states, lane, m)
                        there(w, a, k, x, u, spikes, U(span), begin, U(n_steps), step, lo, after, m)
                        if run < spans - 1:
                            continue
                        if again:
                            load(w, 0, n_states, borders, m, U(spans * n_states) * m, lane, m)
                        else:
                            load(w, 0, n_states, d_state_last, step, lo, lane, m)
                        back(w, a, k, x, u, spikes, U(span), begin, U(n_steps), d_spikes, d_x, step, lo, after,
                             borders, border, m)  # fmt: skip
                    save(d_state0, step, lo, w, n_states, lane, m)
            collect(d_rows, tile // pieces, n0, w, sums, wide, group)

    real = numba.from_dtype(np.dtype(number))
    given, made = array_type(number), array_type(number, False)
    return part(there_and_back), (
        given, given, given, real, made if over else given, given, made, made, array_type(number, False, 3),
        *(types.intp,) * 9,
    )  # fmt: skip
