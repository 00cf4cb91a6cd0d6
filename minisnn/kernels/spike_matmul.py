"""Products with spikes: if few inputs are active, ``x @ weight`` is the sum of the active rows.

The active entries are found once and used twice: row by row for the product ``x @ weight``, column
by column for the gradient ``x.T @ d_y``.  Both add rows of a table, in the order of the entries, so
results do not depend on threads; a dense product adds in another order: other last bits.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from . import memory
from .arrays import Array
from .jit import Loop, U, inlined, read_only
from .threads import share

__all__ = ["ActiveEntries", "active_entries", "add_rows", "transposed", "worth_it"]

#: Share of active entries above which a dense product is always faster.
MOST = 0.25
#: Smaller inputs are not worth the search.
LEAST = 1 << 14


class ActiveEntries(NamedTuple):
    """The active entries of a matrix: row r has the columns ``columns[starts[r]:ends[r]]``.

    All of them have the value `scale`: 1 for spikes, 1 / (1 - p) after dropout.
    """

    starts: Array
    ends: Array
    columns: Array
    n_columns: int
    scale: float


def worth_it(density: float, n: int) -> bool:
    """Whether adding rows of `n` values beats a dense product; measured on x86."""
    return density < 0.24 * n / (n + 190)


def active_entries(x: Array, n: int, anyway: bool = False) -> ActiveEntries | None:
    """The active entries of ``[R, K]``; ``None`` if a dense product with `n` columns is faster.

    Also ``None`` if they have several values or an infinite one, or are more than there is room
    for; with `anyway` these are the only reasons.
    """
    n_rows, n_columns = x.shape
    x = read_only(np.ascontiguousarray(x).view(np.uint8 if x.dtype == bool else x.dtype))
    flat = x.reshape(-1)
    sample = flat[:: max(1, flat.size // 4096)]  # shows at little cost that an input is dense
    density = 0.7 * np.count_nonzero(sample) / max(1, sample.size)
    if not anyway and (x.size < LEAST or not worth_it(density, n)):
        return None
    scale = flat[np.argmax(flat != 0)]
    if not np.isfinite(scale):  # sums are multiplied by it, those of no spikes too
        return None
    chunk = 8 * max(1, -(-n_rows // 256))  # rows
    room, n_chunks = int(MOST * chunk * n_columns) + n_columns, -(-n_rows // chunk)
    starts, ends = np.empty((2, n_rows), np.int64)
    columns, fits = memory.empty((n_chunks * room,), np.int32), np.zeros(n_chunks, np.uint8)
    found = starts, ends, columns, fits
    share(find_loop, n_chunks, 3 * x.size, x, scale, chunk, room, *found)
    if not fits.all() or not (anyway or worth_it((ends - starts).sum() / x.size, n)):
        return None
    return ActiveEntries(starts, ends, columns, n_columns, float(scale))


def transposed(entries: ActiveEntries) -> ActiveEntries:
    """The same entries column by column."""
    starts, ends = np.zeros((2, entries.n_columns), np.int64)
    rows = memory.empty((int((entries.ends - entries.starts).sum()),), np.int32)
    transpose_loop(*map(read_only, entries[:3]), starts, ends, rows)
    return ActiveEntries(starts, ends, rows, len(entries.starts), entries.scale)


def add_rows(entries: ActiveEntries, table: Array) -> Array:
    """``x @ table`` for a table ``[n_columns, n]``; a table of another length raises ValueError."""
    if table.ndim != 2 or len(table) != entries.n_columns:
        expected = f"expected [{entries.n_columns}, n]"
        raise ValueError(f"add_rows: the table is {list(table.shape)}, {expected}")
    out = memory.empty((len(entries.starts), table.shape[1]), table.dtype)
    given = *map(read_only, entries[:3]), read_only(table.ravel())
    rest = table.dtype.type(entries.scale), out.reshape(-1), table.shape[1]
    share(add_loop, len(out), out.size * 8, *given, *rest)
    return out


# -- the loops


@Loop
def find_loop(x, scale, chunk, room, starts, ends, columns, fits, first, last):
    """A tile is a chunk of rows, with `room` for its entries.

    It does not fit if it has more, or one that is not `scale`.
    """
    n_columns = U(x.shape[1])
    for number in range(first, last):
        base, same = U(number * room), True
        k, full = base, base + U(room) - n_columns
        for row in range(number * chunk, min(number * chunk + chunk, len(x))):
            starts[row] = k
            if k <= full:
                for i in range(n_columns):
                    columns[k] = i  # the next overwrites it if it is not active: no branch
                    k += U(x[row, i] != 0)
                for j in range(U(starts[row]), k):
                    same &= x[row, U(columns[j])] == scale
            else:
                same = False
            ends[row] = k
        fits[number] = same


@Loop
def transpose_loop(starts, ends, columns, new_starts, new_ends, rows):
    for row in range(len(starts)):
        for k in range(U(starts[row]), U(ends[row])):
            new_starts[U(columns[k])] += 1
    total = 0
    for c in range(len(new_starts)):
        total += new_starts[c]
        new_starts[c] = new_ends[c] = total - new_starts[c]
    for row in range(len(starts)):
        for k in range(U(starts[row]), U(ends[row])):
            column = U(columns[k])
            rows[U(new_ends[column])] = row
            new_ends[column] += 1


@Loop
def add_loop(starts, ends, columns, table, scale, out, n, first, last):
    """A tile is one row of `out`."""
    n = U(n)
    for row in range(first, last):
        to = U(row) * n
        for i in range(n):
            out[to + i] = 0
        add_runs(out, to, table, U(0), columns, n, U(starts[row]), U(ends[row]), n)
        if scale != 1:
            for i in range(n):
                out[to + i] *= scale


@inlined  # a call would count references to its arrays: a tenth of the time for short rows
def add_runs(out, to, table, base, numbers, pitch, first, last, n):
    """To the `n` entries of `out` from `to` on add runs of `table`; all three arrays are flat.

    The runs begin at ``base + numbers[first:last] * pitch``.  Four are added at a time, so that
    `out` is read and written a fourth as often.
    """
    j = first
    while j + U(4) <= last:
        a, b = base + U(numbers[j]) * pitch, base + U(numbers[j + U(1)]) * pitch
        c, d = base + U(numbers[j + U(2)]) * pitch, base + U(numbers[j + U(3)]) * pitch
        for i in range(n):
            out[to + i] += (table[a + i] + table[b + i]) + (table[c + i] + table[d + i])
        j += U(4)
    while j < last:
        a = base + U(numbers[j]) * pitch
        for i in range(n):
            out[to + i] += table[a + i]
        j += U(1)
