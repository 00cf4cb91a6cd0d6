"""The two compiled loops over time: forward, and its adjoint.

A *tile* is a piece of the lanes over a chunk of the batch's rows; time runs inside it.  Its states,
thresholds and sums stand in a scratch (:mod:`minisnn.kernels.lanes`).

The forward keeps no membranes.  The adjoint takes time in *spans*, the last first, runs each span
forward once more from the states before it, with its membranes in a scratch that stays in the
cache, and walks back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .arrays import Array
from .contract import Needs
from .jit import U, helper
from .lanes import PITCH, LoopSpec, Steps, back_steps, forward_steps

__all__ = ["SPAN", "Gradients", "Run", "Tiles", "adjoint_loop", "scan_loop"]

#: Steps that the adjoint runs forward at a time: for one state they and their input fill half of a
#: second cache of 1 MB.
SPAN = 64


class Run(NamedTuple):
    """What both loops read; all arrays lie flat."""

    x: Array  #: input ``[T, B, N]``, or ``[B, N]`` if it is the same at every step
    state0: Array  #: states before the first step ``[K, B, N]``, or empty for zeros
    borders: Array  #: and before each later span ``[spans - 1, K, B, N]``
    lane_params: Array  #: thresholds and parameters ``[1 + Q, N]``
    k: float  #: steepness of the surrogate


class Gradients(NamedTuple):
    """What the adjoint loop reads, and what it writes; arrays that are not needed are empty."""

    d_spikes: Array
    d_state_last: Array  #: empty for zeros
    d_x: Array
    d_state0: Array
    d_sums: Array  #: ``[1 or 1 + Q, chunks, N]``


class Tiles(NamedTuple):
    """How the lanes are cut: tile ``i`` is piece ``i % pieces`` of rows chunk ``i // pieces``."""

    width: int  #: lanes of one row in a tile
    group: int  #: rows that run side by side, more than one only if a tile holds whole rows
    chunk: int  #: rows of a tile, one group after the other; each chunk makes one partial sum
    pieces: int
    chunks: int
    n: int  #: tiles
    spans: int  #: of time


def scan_loop(spec: LoopSpec) -> Callable:
    """Forward over the tiles from `first` to `last`; writes spikes, and states after each span."""
    walk, n_states, number = forward_steps(spec, history=False), spec.n_states, spec.number
    (theta, base_theta, _, n_rows), n_constants, based = spec.rows(), 1 + spec.n_params, spec.based

    def scan(run, base, spikes, states, shape, tiles, first, last):
        n_steps, batch, n_lanes = shape
        pitch, w, u = U(batch * n_lanes), np.empty(n_rows * PITCH, number), np.empty(PITCH, number)
        for tile in range(first, last):
            n0, width, begin, end = borders_of(tiles, tile, batch, n_lanes)
            spread(w, theta, run.lane_params, n_constants, n_lanes, n0, width, tiles.group)
            if based:
                spread(w, base_theta, base.theta, 1, n_lanes, n0, width, tiles.group)
            for row in range(begin, end, tiles.group):
                lo, m = U(row * n_lanes + n0), U(width * min(tiles.group, end - row))
                load(w, 0, n_states, run.state0, U(0), pitch, lo, m)
                for span in range(tiles.spans):
                    start, stop = span * SPAN, min(span * SPAN + SPAN, n_steps)
                    after = stop if stop < n_steps else -1
                    steps = steps_of(run, shape, start, stop, after, lo, m, tiles)
                    walk(w, run.k, run.x, steps, u, U(0), spikes, u, base.u, base.spikes)
                    store(states, U(span * n_states), w, 0, n_states, pitch, lo, m)

    return scan


def adjoint_loop(spec: LoopSpec, needs: Needs) -> Callable:
    """Back over the tiles from `first` to `last`; writes gradients."""
    forward, back = forward_steps(spec, history=True), back_steps(spec, needs)
    (theta, _, sums, n_rows), n_states, number = spec.rows(), spec.n_states, spec.number
    n_constants, n_sums = 1 + spec.n_params, 1 + spec.n_params if needs.params else 1
    d_state, history_pitch = n_states, U((1 + n_states) * PITCH)

    def adjoint(run, gradients, shape, tiles, first, last):
        n_steps, batch, n_lanes = shape
        pitch, d_spikes, d_x = U(batch * n_lanes), gradients.d_spikes, gradients.d_x
        w = np.empty(n_rows * PITCH, number)
        history = np.empty(min(n_steps, SPAN) * (1 + n_states) * PITCH, number)
        for tile in range(first, last):
            n0, width, begin, end = borders_of(tiles, tile, batch, n_lanes)
            spread(w, theta, run.lane_params, n_constants, n_lanes, n0, width, tiles.group)
            w[sums * PITCH : (sums + n_sums) * PITCH] = 0
            for row in range(begin, end, tiles.group):
                lo, m = U(row * n_lanes + n0), U(width * min(tiles.group, end - row))
                load(w, d_state, n_states, gradients.d_state_last, U(0), pitch, lo, m)
                for span in range((n_steps - 1) // SPAN, -1, -1):
                    start, stop = span * SPAN, min(span * SPAN + SPAN, n_steps)
                    steps = steps_of(run, shape, start, stop, start - SPAN, lo, m, tiles)
                    if span > 0:
                        row_of = U((span - 1) * n_states)
                        load(w, 0, n_states, run.borders, row_of, pitch, lo, m)
                    else:
                        load(w, 0, n_states, run.state0, U(0), pitch, lo, m)
                    forward(w, run.k, run.x, steps, history, history_pitch, d_spikes, d_x, w, w)
                    back(w, run.k, run.x, steps, history, d_spikes, d_x)
                store(gradients.d_state0, U(0), w, d_state, n_states, pitch, lo, m)
            collect(gradients.d_sums, n_sums, tiles, tile, n_lanes, n0, width, w, sums)

    return adjoint


@helper
def borders_of(tiles, tile, batch, n_lanes):
    """First lane and number of lanes of a tile; its first row of the batch and the one after."""
    n0, begin = tile % tiles.pieces * tiles.width, tile // tiles.pieces * tiles.chunk
    return n0, min(tiles.width, n_lanes - n0), begin, min(begin + tiles.chunk, batch)


@helper
def steps_of(run, shape, start, stop, after, lo, m, tiles):
    """Steps `start` to `stop` of `m` lanes from `lo` on.

    The loop reads step `after` of the input next; if that is negative, the next group of rows.
    """
    n_steps, batch, n_lanes = shape
    pitch = U(batch * n_lanes)
    x_pitch = pitch if run.x.size == n_steps * batch * n_lanes else U(0)
    x_after = U(after) * x_pitch + lo if after >= 0 else lo + U(tiles.group * n_lanes)
    at, x_at = U(start) * pitch + lo, U(start) * x_pitch + lo
    return Steps(at, pitch, x_at, x_pitch, x_after, U(stop - start), m)


# -- between arrays and the scratch


@helper
def copy(target, to, source, at, m):
    for n in range(m):
        target[to + n] = source[at + n]


@helper
def load(w, first, n_states, states, row, pitch, lo, m):
    """Rows ``[.., B * N]`` from `row` on, lanes from `lo` on, into `w` from row `first` on."""
    for i in range(n_states):
        at = (first + i) * PITCH
        if states.size > 0:
            copy(w, U(at), states, (row + U(i)) * pitch + lo, m)
        else:
            w[at : at + PITCH] = 0


@helper
def store(states, row, w, first, n_states, pitch, lo, m):
    """The opposite of `load`; without an array it does nothing."""
    if states.size > 0:
        for i in range(n_states):
            copy(states, (row + U(i)) * pitch + lo, w, U((first + i) * PITCH), m)


@helper
def spread(w, first, rows, count, n_lanes, n0, width, group):
    """Rows ``[count, N]``, from lane `n0` on, into `w`: once for each sample side by side."""
    for i in range(count):
        for g in range(group):
            to, at = U((first + i) * PITCH + g * width), U(i * n_lanes + n0)
            copy(w, to, rows, at, U(width))


@helper
def collect(sums, count, tiles, tile, n_lanes, n0, width, w, first):
    """The adjoint of `spread`: add up the samples side by side, into ``[count, chunks, N]``."""
    for i in range(count):
        to = U((i * tiles.chunks + tile // tiles.pieces) * n_lanes + n0)
        copy(sums, to, w, U((first + i) * PITCH), U(width))
        for g in range(1, tiles.group):
            for n in range(width):
                sums[to + U(n)] += w[U((first + i) * PITCH + g * width + n)]
