"""The compiled loops over time: forward, back, there and back, and forward for the states on the way alone.

A *tile* is a piece of the lanes, over a chunk of the batch's rows (:func:`minisnn.kernels.compiled.plan`).  Its states,
thresholds and sums lie in the scratch (:mod:`minisnn.kernels.tile`); time runs inside it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .contract import Wanted
from .jit import WHOLE, U, reads, real, scratch, writes
from .rows import Rule, adjoint_rows, forward_row
from .tile import clear, collect, load, read, save, spread, store

__all__ = ["adjoint_loop", "round_loop", "scan_loop", "states_loop"]

#: The last arguments of every loop: ``T, B, N`` and the tiles' width, group, chunk and pieces.
SIZES = (WHOLE,) * 7


def scan_loop(rule: Rule, fire: str, held: tuple, over: bool) -> tuple[Callable, tuple]:
    """Forward.  As every builder: the Python function for the compiler, and what its arguments are."""
    n_states, number, layout = rule.n_states, rule.number, rule.layout
    walk = _there(rule, fire, held, over)
    theta, base_theta, constants = layout.theta, layout.base_theta, 1 + rule.n_params

    def scan(w, x, state0, rows, u0, s0, theta0, u, spikes, state_last, k,
             n_steps, n_rows, n_lanes, width, group, chunk, pieces, first, last):  # fmt: skip
        step = U(n_rows * n_lanes)
        for tile in range(first, last):
            n0, begin = tile % pieces * width, tile // pieces * chunk
            wide = min(width, n_lanes - n0)
            spread(w, theta, rows, constants, n0, wide, group, n_lanes)
            spread(w, base_theta, theta0, 1, n0, wide, group, n_lanes)
            for i in range(-(-min(chunk, n_rows - begin) // group)):
                row = begin + i * group
                lo, m = U(row * n_lanes + n0), U(wide * min(group, n_rows - row))
                load(w, 0, n_states, state0, step, lo, 0, m)
                walk(w, U(0), k, x, u, spikes, lo, step, U(n_steps), u0, s0, U(0), U(n_steps), U(n_steps), step, lo,
                     lo + U(group * n_lanes), m)  # fmt: skip
                save(state_last, step, lo, w, n_states, 0, m)

    one, out = reads(number), writes(number)
    stored = writes(np.uint8 if fire == "step" else number)
    arrays = (out if over else one, *(one,) * 5, out, stored, out)
    return scan, (scratch(number), *arrays, real(number), *SIZES)


def adjoint_loop(rule: Rule, soft_spikes: bool, wanted: Wanted, looks_back: bool, over: bool) -> tuple[Callable, tuple]:
    """Back over the steps of a run that kept its membranes, and its spikes, which are looked at only if they are soft.

    Firing again takes less time than fetching them.
    """
    n_states, number, layout = rule.n_states, rule.number, rule.layout
    walk = _back(rule, wanted, looks_back, over, True, None if soft_spikes else "step")
    theta, sums, constants = layout.theta, layout.sums, 1 + rule.n_params
    n_sums = constants if wanted.params else 1

    def adjoint(w, d_spikes, d_state_last, x, u, spikes, state0, rows, d_x, d_state0, d_rows, k,
                n_steps, n_rows, n_lanes, width, group, chunk, pieces, first, last):  # fmt: skip
        step, chunks = U(n_rows * n_lanes), -(-n_rows // chunk)
        for tile in range(first, last):
            n0, begin = tile % pieces * width, tile // pieces * chunk
            wide = min(width, n_lanes - n0)
            spread(w, theta, rows, constants, n0, wide, group, n_lanes)
            clear(w, sums, n_sums)
            for i in range(-(-min(chunk, n_rows - begin) // group)):
                row = begin + i * group
                lo, m = U(row * n_lanes + n0), U(wide * min(group, n_rows - row))
                load(w, 0, n_states, d_state_last, step, lo, 0, m)
                walk(w, U(0), k, x, u, spikes, lo, step, U(n_steps), d_spikes, d_x, U(0), U(n_steps), U(n_steps), step, lo,
                     lo + U(group * n_lanes), state0, step, lo, m)  # fmt: skip
                save(d_state0, step, lo, w, n_states, 0, m)
            collect(d_rows, n_sums, chunks, tile // pieces, n_lanes, n0, w, sums, wide, group)

    one, out = reads(number), writes(number)
    arrays = (out if over else one, one, one, one, reads(number if soft_spikes else np.uint8), one, one, out, out, out)
    return adjoint, (scratch(number), *arrays, real(number), *SIZES)


def states_loop(rule: Rule, fire: str) -> tuple[Callable, tuple]:
    """Forward, keeping nothing but the states before each span of time."""
    n_states, number, layout = rule.n_states, rule.number, rule.layout
    walk = _there(rule, fire, keep="nothing")
    theta, constants = layout.theta, 1 + rule.n_params

    def states(w, x, state0, rows, before, k, span, n_steps, n_rows, n_lanes, width, group, chunk, pieces, first, last):
        step, spans = U(n_rows * n_lanes), -(-n_steps // span)
        for tile in range(first, last):
            n0, begin = tile % pieces * width, tile // pieces * chunk
            wide = min(width, n_lanes - n0)
            spread(w, theta, rows, constants, n0, wide, group, n_lanes)
            for i in range(-(-min(chunk, n_rows - begin) // group)):
                row = begin + i * group
                lo, m = U(row * n_lanes + n0), U(wide * min(group, n_rows - row))
                load(w, 0, n_states, state0, step, lo, 0, m)
                for which in range(spans):
                    save(before, step, U(which * n_states) * step + lo, w, n_states, 0, m)
                    if which < spans - 1:
                        walk(w, U(0), k, x, x, x, U(0), U(0), U(0), x, x, U(which * span), U(span), U(n_steps), step, lo,
                             lo + U(group * n_lanes), m)  # fmt: skip

    one = reads(number)
    return states, (scratch(number), one, one, one, writes(number), real(number), WHOLE, *SIZES)


def round_loop(rule: Rule, fire: str, wanted: Wanted, looks_back: bool, over: bool) -> tuple[Callable, tuple]:
    """There and back for one tile after the other: membranes never leave the cache, and spikes are computed again.

    A tile is cut into pieces of `narrow` lanes, and for more steps than a cache holds, time into spans, the last of which
    comes first; `before` are the states before each of them (:func:`states_loop`).
    """
    n_states, number, layout = rule.n_states, rule.number, rule.layout
    there, back = _there(rule, fire, keep="states"), _back(rule, wanted, looks_back, over, False, fire)
    theta, sums, constants = layout.theta, layout.sums, 1 + rule.n_params
    n_sums = constants if wanted.params else 1

    def there_and_back(w, u, waits, x, before, rows, d_spikes, d_state_last, d_x, d_state0, d_rows, k,
                       narrow, span, n_steps, n_rows, n_lanes, width, group, chunk, pieces, first, last):  # fmt: skip
        step, spans, chunks = U(n_rows * n_lanes), -(-n_steps // span), -(-n_rows // chunk)
        for tile in range(first, last):
            n0, begin = tile % pieces * width, tile // pieces * chunk
            wide = min(width, n_lanes - n0)
            spread(w, theta, rows, constants, n0, wide, group, n_lanes)
            clear(w, sums, n_sums)
            for i in range(-(-min(chunk, n_rows - begin) // group)):
                row = begin + i * group
                lanes = wide * min(group, n_rows - row)
                for piece in range(-(-lanes // narrow)):
                    lane = piece * narrow
                    a, m, lo = U(lane), U(min(narrow, lanes - lane)), U(row * n_lanes + n0 + lane)
                    after = lo + (m if lane + narrow < lanes else U(group * n_lanes - lane))
                    for gone in range(spans):
                        which = spans - 1 - gone
                        start, border = U(which * span), U(which * n_states) * step + lo
                        steps = min(U(span), U(n_steps) - start)
                        if gone > 0:
                            save(waits, m, U(0), w, n_states, lane, m)
                        load(w, 0, n_states, before, step, border, lane, m)
                        there(w, a, k, x, u, u, U(0), m, U(span), x, x, start, steps, U(n_steps), step, lo, after, m)
                        if gone > 0:
                            load(w, 0, n_states, waits, m, U(0), lane, m)
                        else:
                            load(w, 0, n_states, d_state_last, step, lo, lane, m)
                        back(w, a, k, x, u, u, U(0), m, U(span), d_spikes, d_x, start, steps, U(n_steps), step, lo,
                             after, before, step, border, m)  # fmt: skip
                    save(d_state0, step, lo, w, n_states, lane, m)
            collect(d_rows, n_sums, chunks, tile // pieces, n_lanes, n0, w, sums, wide, group)

    one, own, out = reads(number), scratch(number), writes(number)
    arrays = (one, one, one, out if over else one, one, out, out, out)
    return there_and_back, (own, own, own, *arrays, real(number), WHOLE, WHOLE, *SIZES)


# -- the walks.  Lanes begin at `lo` in arrays of a whole run, where steps lie `step` apart, and at `a` in the scratch.  Of
# -- what the way there keeps for the way back, step `begin` lies at `kept`, the others `pitch` apart, and another state's
# -- `room` steps further on.  At `after` lie the lanes that come after these, so that they are on their way in time.


def _there(rule: Rule, fire: str, held: tuple = (), over: bool = False, keep: str = "all") -> Callable:
    step_row, n_states = forward_row(rule, fire, held, over, keep), rule.n_states

    def there(w, a, k, x, u, spikes, kept, pitch, room, u0, s0, begin, steps, n_steps, step, lo, after, m):
        """Forward through `steps` steps of time."""
        for slot in range(steps):
            at, to = (begin + slot) * step + lo, slot * pitch + kept
            then = at + step if begin + slot + U(1) < n_steps else after
            step_row(w, a, k, x, at, then, u, spikes, to, u0, s0, m)
            for i in range(1, n_states if keep != "nothing" else 1):
                store(u, U(i) * room * pitch + to, w, i, a, m)

    return there


def _back(rule: Rule, wanted: Wanted, looks_back: bool, over: bool, far: bool, fire: str | None) -> Callable:
    fire_row, reset_row, charge_row, step_row = adjoint_rows(rule, wanted, over, far, fire)
    n_states, past = rule.n_states, rule.layout.past

    def back(w, a, k, x, u, spikes, kept, pitch, room, d_spikes, d_x, begin, steps, n_steps, step, lo, after,
             borders, apart, border, m):  # fmt: skip
        """And back through them, down to the states before the first: at `border`, one `apart` from the other."""
        for gone in range(steps):
            slot = steps - U(1) - gone
            at, to = (begin + slot) * step + lo, slot * pitch + kept
            then = at - step if begin + slot > U(0) else (n_steps - U(1)) * step + after
            if not looks_back:
                step_row(w, a, k, x, u, spikes, to, d_spikes, d_x, at, then, m)
                continue
            fire_row(w, a, k, u, spikes, to, d_spikes, at, then, m)
            if slot > U(0):
                reset_row(w, a, k, u, spikes, to - pitch, m)
                for i in range(1, n_states):
                    read(w, past + i, u, U(i) * room * pitch + to - pitch, a, m)
            else:
                load(w, past, n_states, borders, apart, border, a, m)
            charge_row(w, a, x, d_x, at, m)

    return back
