"""The two compiled loops over time: forward, and its adjoint.

A *tile* is a piece of the lanes over a chunk of the batch's rows; time runs inside it.  Its states, thresholds and sums
stand in a scratch (:mod:`minisnn.kernels.lanes`).

No membranes are kept between the two: the adjoint takes time in *spans*, the last first, runs each span forward once more
from the states before it, with its membranes in a scratch that stays in the cache, and walks back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .arrays import Array
from .contract import Needs
from .jit import U, helper
from .lanes import PITCH, LoopSpec, Steps, back_steps, forward_steps, history_steps

__all__ = ["SPAN", "Gradients", "Outputs", "Run", "Tiles", "adjoint_loop", "scan_loop"]

#: Steps that the adjoint runs forward at a time: for one state they and their input fill half of a second cache of 1 MB.
SPAN = 64


class Run(NamedTuple):
    """What both loops read: input ``[T, B, N]``, or ``[B, N]`` if it is the same at every step; states before the first step
    ``[K, B, N]``, or empty for zeros, and before each later span ``[spans - 1, K, B, N]``; thresholds and parameters
    ``[1 + Q, N]``; the surrogate's steepness.  All arrays lie flat.
    """

    x: Array
    state0: Array
    borders: Array
    lane_params: Array
    k: float


class Outputs(NamedTuple):
    """What the forward loop writes, ``[T, B, N]`` and ``[K, B, N]``; membranes ``[K, T, B, N]``, or empty: not kept."""

    spikes: Array
    state_last: Array
    borders: Array
    u: Array


class Gradients(NamedTuple):
    """What the adjoint loop reads, gradients of spikes and last state (or empty: zeros), and what it writes."""

    d_spikes: Array
    d_state_last: Array
    d_x: Array
    d_state0: Array
    d_sums: Array  #: ``[1 or 1 + Q, chunks, N]``


class Tiles(NamedTuple):
    """How the lanes are cut: tile ``i`` is piece ``i % pieces`` of the rows of chunk ``i // pieces``."""

    width: int  #: lanes of one row in a tile
    group: int  #: rows that run side by side (more than one only if a tile holds whole rows)
    chunk: int  #: rows of a tile, one group after the other; each chunk makes one partial sum
    pieces: int
    chunks: int


def scan_loop(spec: LoopSpec) -> Callable:
    """``scan(run, base, out, shape, tiles, first, last)``: the forward loop over the tiles from `first` to `last`."""
    walk, layout, n_states, number = forward_steps(spec), spec.layout, spec.n_states, spec.number
    theta, base_theta, n_rows, constants, based = layout.theta, layout.base_theta, layout.rows, 1 + spec.n_params, spec.based

    def scan(run, base, out, shape, tiles, first, last):
        n_steps, batch, n_lanes = shape
        pitch, keep = U(batch * n_lanes), out.u.size > 0
        x_pitch = pitch if run.x.size == n_steps * batch * n_lanes else U(0)
        w, unkept = np.empty(n_rows * PITCH, number), np.empty(PITCH, number)
        u, at_once = (out.u, 1) if keep else (unkept, SPAN)
        for tile in range(first, last):
            n0, begin = tile % tiles.pieces * tiles.width, tile // tiles.pieces * tiles.chunk
            width, end = min(tiles.width, n_lanes - n0), min(begin + tiles.chunk, batch)
            spread(w, theta, run.lane_params, constants, n_lanes, n0, width, tiles.group)
            if based:
                spread(w, base_theta, base.theta, 1, n_lanes, n0, width, tiles.group)
            for row in range(begin, end, tiles.group):
                lo, m = U(row * n_lanes + n0), U(width * min(tiles.group, end - row))
                load(w, 0, n_states, run.state0, U(0), pitch, lo, m)
                for start in range(0, n_steps, at_once):
                    if start > 0 and start % SPAN == 0:
                        store(out.borders, U((start // SPAN - 1) * n_states), w, 0, n_states, pitch, lo, m)
                    stop = min(start + at_once, n_steps)
                    x_after = U(stop) * x_pitch + lo if stop < n_steps else lo + U(tiles.group * n_lanes)
                    at, x_at = U(start) * pitch + lo, U(start) * x_pitch + lo
                    steps = Steps(at, pitch, x_at, x_pitch, x_after, U(stop - start), m)
                    walk(w, run.k, run.x, steps, u, at if keep else U(0), out.spikes, base.u, base.spikes)
                    if keep:
                        for i in range(1, n_states):
                            copy(u, U(i * n_steps) * pitch + at, w, U(i * PITCH), m)
                store(out.state_last, U(0), w, 0, n_states, pitch, lo, m)

    return scan


def adjoint_loop(spec: LoopSpec, needs: Needs) -> Callable:
    """``adjoint(run, gradients, shape, tiles, first, last)``: back over the steps of the tiles from `first` to `last`."""
    forward, back, layout = history_steps(spec), back_steps(spec, needs), spec.layout
    n_states, number, d_state, theta, sums = spec.n_states, spec.number, layout.d_state, layout.theta, layout.sums
    n_rows, constants, n_sums = layout.rows, 1 + spec.n_params, 1 + spec.n_params if needs.params else 1

    def adjoint(run, gradients, shape, tiles, first, last):
        n_steps, batch, n_lanes = shape
        pitch = U(batch * n_lanes)
        x_pitch = pitch if run.x.size == n_steps * batch * n_lanes else U(0)
        w = np.empty(n_rows * PITCH, number)
        history = np.empty(min(n_steps, SPAN) * (1 + n_states) * PITCH, number)
        for tile in range(first, last):
            n0, begin = tile % tiles.pieces * tiles.width, tile // tiles.pieces * tiles.chunk
            width, end = min(tiles.width, n_lanes - n0), min(begin + tiles.chunk, batch)
            spread(w, theta, run.lane_params, constants, n_lanes, n0, width, tiles.group)
            w[sums * PITCH : (sums + n_sums) * PITCH] = 0
            for row in range(begin, end, tiles.group):
                lo, m = U(row * n_lanes + n0), U(width * min(tiles.group, end - row))
                load(w, d_state, n_states, gradients.d_state_last, U(0), pitch, lo, m)
                for span in range((n_steps - 1) // SPAN, -1, -1):
                    start, stop = span * SPAN, min(span * SPAN + SPAN, n_steps)
                    x_after = U(start - SPAN) * x_pitch + lo if span > 0 else lo + U(tiles.group * n_lanes)
                    at, x_at = U(start) * pitch + lo, U(start) * x_pitch + lo
                    steps = Steps(at, pitch, x_at, x_pitch, x_after, U(stop - start), m)
                    if span > 0:
                        load(w, 0, n_states, run.borders, U((span - 1) * n_states), pitch, lo, m)
                    else:
                        load(w, 0, n_states, run.state0, U(0), pitch, lo, m)
                    forward(w, run.k, run.x, steps, history, gradients.d_spikes, gradients.d_x)
                    back(w, run.k, run.x, steps, history, gradients.d_spikes, gradients.d_x)
                store(gradients.d_state0, U(0), w, d_state, n_states, pitch, lo, m)
            collect(gradients.d_sums, n_sums, tiles, tile, n_lanes, n0, width, w, sums)

    return adjoint


# -- between arrays and the scratch


@helper
def copy(target, to, source, at, m):
    for n in range(m):
        target[to + n] = source[at + n]


@helper
def load(w, first, n_states, states, row, pitch, lo, m):
    """Lanes from `lo` on of the rows ``[.., B * N]`` from `row` on into the scratch, from its row `first` on; or zeros."""
    for i in range(n_states):
        at = (first + i) * PITCH
        if states.size > 0:
            copy(w, U(at), states, (row + U(i)) * pitch + lo, m)
        else:
            w[at : at + PITCH] = 0


@helper
def store(states, row, w, first, n_states, pitch, lo, m):
    """The opposite of `load`; nothing if there is no array."""
    if states.size > 0:
        for i in range(n_states):
            copy(states, (row + U(i)) * pitch + lo, w, U((first + i) * PITCH), m)


@helper
def spread(w, first, rows, count, n_lanes, n0, width, group):
    """Rows ``[count, N]``, from lane `n0` on, into the scratch from row `first` on: once for each sample side by side."""
    for i in range(count):
        for g in range(group):
            copy(w, U((first + i) * PITCH + g * width), rows, U(i * n_lanes + n0), U(width))


@helper
def collect(sums, count, tiles, tile, n_lanes, n0, width, w, first):
    """The adjoint of `spread`: added up over the samples side by side, into ``[count, chunks, N]``."""
    for i in range(count):
        to = U((i * tiles.chunks + tile // tiles.pieces) * n_lanes + n0)
        copy(sums, to, w, U((first + i) * PITCH), U(width))
        for g in range(1, tiles.group):
            for n in range(width):
                sums[to + U(n)] += w[U((first + i) * PITCH + g * width + n)]
