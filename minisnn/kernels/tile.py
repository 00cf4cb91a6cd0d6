"""A tile: what it has to work in, and how numbers get there and away.

What a tile needs in every step stands in one scratch array, ``w``, row after row: states, thresholds and parameters, sums.
The compiler can then see that they do not overlap, and makes vector code; it could not for separate arrays (three times
slower).  Positions are unsigned for the same reason: a signed one might count from the end.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .jit import U

__all__ = [
    "LANES", "PITCH", "Layout", "ahead", "clear", "collect", "line_of", "load", "missing", "prefetch", "read", "save",
    "spread", "store",
]  # fmt: skip

#: Lanes of a tile: its rows of the scratch fill the fastest cache, and stay in it or in the next.
LANES = 2048
#: From one row of the scratch to the next: not a power of two, or all rows would meet in the same few lines of the cache.
PITCH = LANES + 80


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


# -- words of the compiler


def prefetch(array, at):
    """Ask for one line of memory ahead of its use.  For the compiler this is a word of its own, and so is the next."""


def missing(array):
    """Whether there is no such array."""


# -- what is built from them


def line_of(number: type) -> np.uint64:
    """Numbers in a line of memory."""
    return U(64 // np.dtype(number).itemsize)


def ahead(array, at, m, line):
    """Ask for `m` numbers from `at` on: rows lie too far apart for the processor to guess which comes next."""
    n = U(0)
    while n < m:  # a range might have a step of zero, for all that the compiler knows, and that would be an error
        prefetch(array, at + n)
        n += line


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
