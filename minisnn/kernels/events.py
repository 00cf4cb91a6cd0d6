"""Products with spikes by adding up rows: where few inputs are active, ``x @ weight`` is the sum of the active rows.

An *index* of the active entries is built once and used twice: by rows for the forward product ``x @ weight``, by columns for
the gradient ``x.T @ d_y``.  Both add rows of a table.  Sums run in the order of the index, so results do not depend on
threads; compared with a dense product the order differs, and with it the last bits.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

from . import pool
from .contract import Array
from .jit import WHOLE, Loop, U, reads, real, scratch, writes
from .native import compile_loop
from .threads import share_out

__all__ = ["Events", "gather", "index", "turned", "worth_it"]

#: Rows with a larger share of active entries are no case for adding rows, whatever their length.
MOST = 0.25
#: Smaller inputs are not worth looking at.
LEAST = 1 << 14


class Events(NamedTuple):
    """The active entries of a matrix, row by row: row r has the columns ``columns[starts[r]:ends[r]]``.

    All of them have the value `scale`: 1 for spikes, 1 / (1 - p) after dropout.
    """

    starts: Array
    ends: Array
    columns: Array
    n_columns: int
    scale: float


def worth_it(density: float, n: int) -> bool:
    """Whether adding rows of `n` values beats a dense product; measured by ``minisnn bench events``."""
    return density < 0.24 * n / (n + 190)


def index(x: Array, n: int, anyway: bool = False) -> Events | None:
    """The active entries of ``[R, K]``; ``None`` where a dense product with tables of `n` columns is the better way.

    ``None`` too where they have several values or an infinite one, or are more than there is room for; `anyway` leaves the
    choice to these.
    """
    x = x.view(np.uint8) if x.dtype == bool else x
    flat = x.reshape(-1)
    sample = flat[:: max(1, flat.size // 4096)]  # dense currents are found out at little cost
    if not anyway and (x.size < LEAST or not worth_it(0.7 * np.count_nonzero(sample) / sample.size, n)):
        return None
    n_rows, n_columns = x.shape
    chunk = 8 * max(1, -(-n_rows // 256))  # rows; a multiple of 8, so that each chunk begins at a whole word
    room = int(MOST * chunk * n_columns) + 8
    n_chunks = -(-n_rows // chunk)
    starts, ends = np.empty(n_rows, np.int64), np.empty(n_rows, np.int64)
    columns, fits = pool.empty((n_chunks * room,), np.int32), np.zeros(n_chunks, np.uint8)
    scale = flat[np.argmax(flat != 0)]
    if not np.isfinite(scale):  # sums are multiplied by it, those of no spikes too
        return None
    words = flat.view(np.uint8)[: x.nbytes // 8 * 8].view(np.uint64)
    found = room + 8 // x.itemsize
    find = _find_loop(x.dtype)(
        found, words, flat, starts, ends, columns, fits, scale, n_rows, n_columns, len(words), chunk, room
    )
    share_out(find, n_chunks, x.size)
    if not fits.all() or not (anyway or worth_it((ends - starts).sum() / x.size, n)):
        return None
    return Events(starts, ends, columns, n_columns, float(scale))


def turned(events: Events) -> Events:
    """The same entries column by column."""
    starts, ends = np.zeros(events.n_columns, np.int64), np.empty(events.n_columns, np.int64)
    rows = pool.empty((int((events.ends - events.starts).sum()),), np.int32)
    _turn_loop()(*events[:3], starts, ends, rows, len(events.starts), events.n_columns)(0, 1)
    return Events(starts, ends, rows, len(events.starts), events.scale)


def gather(events: Events, table: Array) -> Array:
    """``x @ table`` for a table ``[n_columns, n]``."""
    n_rows = len(events.starts)
    out = pool.empty((n_rows, table.shape[1]), table.dtype)
    tile = -(-n_rows // 64)
    arrays = (*events[:3], table, out)
    work = _gather_loop(table.dtype)(*arrays, events.scale, n_rows, table.shape[1], tile)
    share_out(work, -(-n_rows // tile), out.size * 8)
    return out


@cache
def _find_loop(dtype: np.dtype) -> Loop:
    per_word = 8 // dtype.itemsize

    def find(found, words, flat, starts, ends, columns, fits, scale, n_rows, n_columns, n_words, chunk, room, lo, hi):
        for number in range(lo, hi):
            row, end_row = number * chunk, min(number * chunk + chunk, n_rows)
            end, base, k = end_row * n_columns, number * room, U(0)
            whole_words = min(end // per_word, n_words)
            for word in range(U(row * n_columns // per_word), U(whole_words)):
                if words[word] != 0 and k <= U(room):
                    at = word * U(per_word)
                    for i in range(U(per_word)):  # each is written, and stays if it is active: no branch to mispredict
                        found[k] = at + i
                        k += U(flat[at + i] != 0)
            for p in range(U(whole_words * per_word), U(end)):  # the last entries are no whole word
                if k <= U(room):
                    found[k] = p
                    k += U(flat[p] != 0)
            if k > U(room):
                continue
            next_row, same = row * n_columns, True
            for j in range(np.int64(k)):
                while found[j] >= next_row:
                    starts[row] = ends[max(row - 1, number * chunk)] = base + j
                    row += 1
                    next_row += n_columns
                columns[base + j] = found[j] - (next_row - n_columns)
                same &= flat[found[j]] == scale
            for r in range(row, end_row):
                starts[r] = base + np.int64(k)
            for r in range(max(row - 1, number * chunk), end_row):
                ends[r] = base + np.int64(k)
            fits[number] = same

    inputs = (scratch(np.int64), reads(np.uint64), reads(dtype))
    outputs = (writes(np.int64), writes(np.int64), writes(np.int32), writes(np.uint8))
    return compile_loop(find, (*inputs, *outputs, real(dtype), *(WHOLE,) * 5))


@cache
def _turn_loop() -> Loop:
    def turn(starts, ends, columns, turned_starts, turned_ends, rows, n_rows, n_columns, lo, hi):
        for row in range(n_rows):
            for k in range(starts[row], ends[row]):
                turned_starts[columns[k]] += 1
        total = 0
        for c in range(n_columns):
            total += turned_starts[c]
            turned_starts[c] = turned_ends[c] = total - turned_starts[c]
        for row in range(n_rows):
            for k in range(starts[row], ends[row]):
                rows[turned_ends[columns[k]]] = row
                turned_ends[columns[k]] += 1

    inputs = (reads(np.int64), reads(np.int64), reads(np.int32))
    return compile_loop(turn, (*inputs, writes(np.int64), writes(np.int64), writes(np.int32), WHOLE, WHOLE))


def add_rows(out, to, table, base, numbers, first, last, n):
    """To `n` entries of `out` add those rows of `table` (counted from `base`) that ``numbers[first:last]`` names.

    Four at a time: `out` is then read and written a fourth as often.
    """
    j = first
    while j + U(4) <= last:
        a, b = base + U(numbers[j]) * n, base + U(numbers[j + U(1)]) * n
        c, d = base + U(numbers[j + U(2)]) * n, base + U(numbers[j + U(3)]) * n
        for i in range(n):
            out[to + i] += (table[a + i] + table[b + i]) + (table[c + i] + table[d + i])
        j += U(4)
    while j < last:
        a = base + U(numbers[j]) * n
        for i in range(n):
            out[to + i] += table[a + i]
        j += U(1)


@cache
def _gather_loop(dtype: np.dtype) -> Loop:
    def gather(starts, ends, columns, table, out, scale, n_rows, n_columns, tile, lo, hi):
        n, end_row = U(n_columns), min(hi * tile, n_rows)
        for row in range(lo * tile, end_row):
            at = U(row) * n
            for i in range(n):
                out[at + i] = 0
            add_rows(out, at, table, U(0), columns, U(starts[row]), U(ends[row]), n)
            if scale != 1:
                for i in range(n):
                    out[at + i] *= scale

    inputs = (reads(np.int64), reads(np.int64), reads(np.int32), reads(dtype))
    return compile_loop(gather, (*inputs, writes(dtype), real(dtype), WHOLE, WHOLE, WHOLE))
