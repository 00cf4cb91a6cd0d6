"""The compiled loop: Numba around the same functions as the reference, tile by tile.

**Tiles.**  All lanes of a step lie side by side in memory, ``B * N`` of them.  A tile is about 2,048 lanes, small enough
that its state and its thresholds stay in the fastest cache while time runs *inside* the tile.  Where N is small a tile
is several whole rows of the batch; where it is large, a piece of a row, taken over a chunk of rows.

**Rows.**  Inside a tile a step is a few short loops over rows of numbers.  Each reads and writes few arrays, because
the compiler only makes vector code where it can rule out that they overlap.

**Disk cache.**  Loops close over narrowed copies (:mod:`minisnn.kernels.narrow`), so that Numba stores what they
compute and not what they are called.  If a cache cannot be read or written the loop is compiled without it.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from functools import cache, lru_cache, partial
from typing import Any, NamedTuple

import numba
import numpy as np
from numba import types
from numba.extending import register_jitable

from ..grammar import dependencies
from ..neurons import Neuron
from . import pool
from .contract import FIRES, Array, Base, Dynamics, ScanCache, Wanted, hold, membranes
from .narrow import digest, fingerprint, narrowed
from .threads import share_out

__all__ = ["CompiledKernel", "cache_folder", "kernel"]

LANES = 2048


class Tiles(NamedTuple):
    """How the lanes are cut: tile ``i`` is piece ``i % pieces`` of the rows of chunk ``i // pieces``."""

    width: int  #: lanes of one row in a tile
    group: int  #: rows that run side by side (more than one only if a tile holds whole rows)
    chunk: int  #: rows of a tile, one group after the other; each chunk makes one partial sum
    pieces: int
    chunks: int


def plan(n_rows: int, n_lanes: int) -> Tiles:
    """Tiles for B rows of N lanes: from the shapes alone, so that sums never depend on the threads."""
    width = min(n_lanes, LANES)
    pieces = -(-n_lanes // width)
    group = min(max(1, LANES // n_lanes), n_rows)
    wanted_chunks = min(16, max(1, 32 // pieces))
    chunk = group * -(-n_rows // (group * wanted_chunks))
    return Tiles(width, group, chunk, pieces, -(-n_rows // chunk))


class CompiledKernel:
    """Time loop and adjoint compiled by Numba.  See :mod:`minisnn.kernels.contract`."""

    def __init__(self, dynamics: Dynamics) -> None:
        self.dynamics = dynamics

    def scan(
        self, x: Array, state0: Array | None, theta: Array, params: Array, k: float,
        fire: str = "step", base: Base | None = None, consume: bool = False, last: bool = True,
    ) -> tuple[Array, Array | None, ScanCache]:  # fmt: skip
        held = self.dynamics.reset.stop if base else ()
        base = base or Base(x, x, theta)  # nothing looks at it then: any arrays of the right shapes will do
        u = membranes(x, self.dynamics.neuron, x.dtype, consume)
        spikes = pool.empty(x.shape, np.uint8 if fire == "step" else x.dtype)
        state_last = pool.empty((len(u), *x.shape[1:]), x.dtype) if last else None
        loop = _compiled(_scan_loop, self.dynamics, x.dtype, fire=fire, held=held)
        _run_tiles(
            loop, x.shape, _flat(x), _states(state0, x), _rows_of(theta, params), x.dtype.type(k),
            _flat(base.u), _flat(base.spikes.astype(x.dtype, copy=False)), base.theta[None],
            _flat(u), _flat(spikes), _states(state_last, x),
        )  # fmt: skip
        return spikes, state_last, ScanCache(x, u, spikes, state0, theta, params, k)

    def scan_adjoint(
        self, d_spikes: Array, d_state_last: Array | None, cache: ScanCache, wanted: Wanted = Wanted(), consume: bool = False
    ) -> tuple[Array | None, Array | None, Array | None, Array | None]:
        x, u, spikes, state0, theta, params, k = cache
        wanted = wanted._replace(params=wanted.params and len(params) > 0)
        if consume and d_spikes.flags.writeable:
            d_x = d_spikes
        else:  # where it is not wanted nothing touches it, and it takes no memory
            d_x = pool.empty_like(x) if wanted.x else np.empty_like(x)
        d_state0 = pool.empty((len(u), *x.shape[1:]), x.dtype) if wanted.state else None
        n_sums = 1 + len(params) if wanted.params else 1
        d_rows = np.empty((n_sums, plan(*x.shape[1:]).chunks, len(theta)), x.dtype)
        soft = spikes.dtype != np.uint8
        loop = _compiled(
            _adjoint_loop, self.dynamics, x.dtype, soft_spikes=soft, wanted=wanted._replace(state=True),
            looks_back=_looks_back(self.dynamics.neuron, wanted),
        )  # fmt: skip
        _run_tiles(
            loop, x.shape, _flat(d_spikes), _states(d_state_last, x), _flat(x), _flat(u), _flat(spikes), _states(state0, x),
            _rows_of(theta, params), x.dtype.type(k), _flat(d_x), _states(d_state0, x), d_rows,
        )  # fmt: skip
        no_params = not wanted.params and len(params) > 0
        return (
            d_x if wanted.x else None,
            d_state0,
            d_rows[0] if wanted.theta else None,
            None if no_params else d_rows[1:],
        )


def _rows_of(theta: Array, params: Array) -> Array:
    """Thresholds and parameters as the rows of one array ``[1 + Q, N]``."""
    return np.concatenate([theta[None], params])


def _looks_back(neuron: Neuron, wanted: Wanted) -> bool:
    """Whether any gradient that is wanted depends on the state before the charge."""
    k = len(neuron.state)
    needed = [*range(k), *([k] if wanted.x else []), *(range(k + 1, k + 1 + len(neuron.params)) if wanted.params else [])]
    depends = dependencies(neuron.charge_adjoint)
    return any(k <= argument < 2 * k for result in needed for argument in depends[result])


def _states(states: Array | None, x: Array) -> Array:
    """``[K, B, N]`` with lanes side by side; without rows where there is none, and then nothing is read or written."""
    return np.empty((0, math.prod(x.shape[1:])), x.dtype) if states is None else _flat(states)


def _flat(a: Array) -> Array:
    """``[..., B, N]`` with its lanes side by side, ``[..., B * N]``: a view."""
    return a.reshape(*a.shape[:-2], -1)


def _run_tiles(loop: Callable, shape: tuple[int, int, int], *arguments: Any) -> None:
    """Share out the tiles of a run over ``[T, B, N]``."""
    tiles = plan(*shape[1:])
    run = partial(loop, *arguments, shape[1], tiles.width, tiles.group, tiles.chunk, tiles.pieces)
    share_out(run, tiles.pieces * tiles.chunks, math.prod(shape))


kernel = CompiledKernel


def cache_folder() -> str:
    """Where compiled loops are kept between processes."""
    try:
        return str(numba.core.caching.FunctionCache(_scan_loop)._impl.locator.get_cache_path())
    except Exception as error:
        return f"none ({error})"


# -- compiling: once for each thing computed, dtype and wish


def _compiled(build: Callable, dynamics: Dynamics, dtype: np.dtype, **options: Any) -> Callable:
    """The loop that `build` makes of these dynamics; compiled, or loaded from disk, if it is new to this process."""
    neuron, reset, surrogate = dynamics
    if build is _scan_loop:
        used = {"charge": neuron.charge, "reset": reset.reset}
        if options["fire"] != "step":  # only a twin's forward knows the surrogate: all others share one loop
            used |= {"smooth": surrogate.smooth, "slope": surrogate.slope}
    else:
        used = {"charge_adjoint": neuron.charge_adjoint, "reset": reset.reset, "reset_adjoint": reset.reset_adjoint}
        used |= {"slope": surrogate.slope}
    marks = tuple(fingerprint(f) for f in used.values())
    key = (build, marks, len(neuron.state), len(neuron.params), dtype.char, tuple(options.items()))
    loop = _loops.get(key)
    if loop is None:
        with _compiling:
            loop = _loops.get(key)
            if loop is None:
                copies = {n: _jitable(narrowed(f, dtype)) for n, f in used.items()}
                part = _named(digest((build.__name__, *key[1:])))
                python_loop, signature = build(part, copies, len(neuron.state), len(neuron.params), dtype.type, **options)
                loop = _loops[key] = _compile(python_loop, signature)
    return loop


_loops: dict[tuple, Callable] = {}
_compiling = threading.RLock()
_jitable = lru_cache(maxsize=None)(register_jitable)  # registering one function twice makes calls to it ambiguous


def _named(mark: str) -> Callable:
    """A decorator for the parts of one loop: it puts `mark`, a digest of what the loop computes, into their names.

    Numba knows functions by name in two places where different code of one name gives wrong results: a cache file may be
    written by two processes at once, and machine code that two processes compiled meets in a third one.
    """

    def name(function: Callable) -> Callable:
        function.__qualname__ = f"{function.__name__}_{mark}"
        return register_jitable(function)

    return name


def _compile(python_loop: Callable, signature: tuple) -> Callable:
    try:
        loop = numba.njit(nogil=True, error_model="numpy", cache=True)(python_loop)
        loop.compile(signature)
    except Exception:  # an unwritable folder, a damaged cache file: compile without, and let a true error show itself
        loop = numba.njit(nogil=True, error_model="numpy")(python_loop)
        loop.compile(signature)
    loop.disable_compile()  # read-only inputs are then accepted as they are, not compiled anew
    return loop


# -- scratch: everything a tile keeps between steps stands in one array, row after row.  The compiler can then see that the
# -- rows do not overlap, and makes vector code; it could not for separate arrays (three times slower).

#: From one row of the scratch to the next: not a power of two, or all rows would meet in the same few lines of the cache.
PITCH = LANES + 80


@cache
def _gather(count: int, first: int) -> Callable:
    """gather(w, n) -> values of lane n in `count` rows of the scratch from row `first` on."""
    if count == 0:

        def gather(w, n):
            return ()

    else:
        others, last = _gather(count - 1, first), (first + count - 1) * PITCH

        def gather(w, n):
            return others(w, n) + (w[last + n],)  # noqa: RUF005 - Numba reads no starred tuple

    return _named(f"{count}_{first}")(gather)


@cache
def _put(count: int, first: int, add: bool = False) -> Callable:
    """put(w, n, values): lane n of `count` rows from row `first` on becomes the values, or grows by them."""
    if count == 0:

        def put(w, n, values):
            pass

    else:
        others, at, last = _put(count - 1, first, add), (first + count - 1) * PITCH, count - 1
        if add:

            def put(w, n, values):
                others(w, n, values)
                w[at + n] += values[last]

        else:

            def put(w, n, values):
                others(w, n, values)
                w[at + n] = values[last]

    return _named(f"{count}_{first}_{add}")(put)


@register_jitable
def _bare(value):
    return (value,)


@register_jitable
def _same(values):
    return values


@register_jitable
def _row(a, t, lo, hi):
    return a[t, lo:hi]


@register_jitable
def _clear(w, first, rows):
    for n in range(first * PITCH, (first + rows) * PITCH):
        w[n] = 0


@register_jitable
def _read(w, row, a):
    """One row of the scratch becomes `a`."""
    for n in range(a.shape[0]):
        w[row * PITCH + n] = a[n]


@register_jitable
def _write(a, w, row):
    for n in range(a.shape[0]):
        a[n] = w[row * PITCH + n]


@register_jitable
def _load(w, first, a, lo, hi):
    """Lanes `lo` to `hi` of every row of `a` ``[rows, L]``; without rows nothing is read."""
    for i in range(a.shape[0]):
        _read(w, first + i, a[i, lo:hi])


@register_jitable
def _store(a, lo, hi, w, first):
    for i in range(a.shape[0]):
        _write(a[i, lo:hi], w, first + i)


@register_jitable
def _spread(w, first, rows, n0, width, group):
    """Rows of N values, from `n0` on, laid out for `group` rows of the batch side by side."""
    for i in range(rows.shape[0]):
        for g in range(group):
            _read(w[g * width :], first + i, rows[i, n0 : n0 + width])


@register_jitable
def _collect(sums, chunk, n0, w, first, width, group):
    """The adjoint of `_spread`: into `sums` ``[rows, P, N]``, added up over the batch rows side by side."""
    for i in range(sums.shape[0]):
        _write(sums[i, chunk, n0 : n0 + width], w, first + i)
        for g in range(1, group):
            for n in range(width):
                sums[i, chunk, n0 + n] += w[(first + i) * PITCH + g * width + n]


# -- the loops.  Each builder returns a Python function for Numba and the signature to compile it for


def _array(dtype: Any, ndim: int, readonly: bool = True) -> types.Array:
    return types.Array(dtype, ndim, "C", readonly=readonly)


def _scan_loop(
    part: Callable, f: dict, n_states: int, n_params: int, number: type, fire: str, held: tuple
) -> tuple[Callable, tuple]:
    charge = f["charge"]
    spike = part(FIRES[fire](f.get("smooth", charge), f.get("slope", charge)))  # "step" looks at neither
    reset = part(hold(f["reset"], held))
    theta, base_theta, rows_in_use = n_states, n_states + 1 + n_params, n_states + 2 + n_params
    gather_state, gather_params, put_state = _gather(n_states, 0), _gather(n_params, theta + 1), _put(n_states, 0)
    as_tuple = _bare if n_states == 1 else _same

    @part
    def charge_row(w, x):
        for n in range(x.shape[0]):
            put_state(w, n, as_tuple(charge(*((*gather_state(w, n), x[n], *gather_params(w, n))))))

    @part
    def fire_row(w, k, u, spikes, u0, s0):
        for n in range(u.shape[0]):
            membrane, at = w[n], w[theta * PITCH + n]
            s = number(spike(membrane, at, k, u0[n], s0[n], w[base_theta * PITCH + n]))
            u[n], spikes[n] = membrane, s
            w[n] = reset(membrane, s, at, u0[n], s0[n], w[base_theta * PITCH + n])

    def scan(x, state0, rows, k, u0, s0, theta0, u, spikes, state_last, n_rows, width, group, chunk, pieces, first, last):
        n_lanes = rows.shape[1]
        w = np.zeros(rows_in_use * PITCH, x.dtype)
        for number_of_tile in range(first, last):
            piece, part = number_of_tile % pieces, number_of_tile // pieces
            n0 = piece * width
            wide = min(width, n_lanes - n0)
            _spread(w, theta, rows, n0, wide, group)
            _spread(w, base_theta, theta0, n0, wide, group)
            for row in range(part * chunk, min(part * chunk + chunk, n_rows), group):
                lo = row * n_lanes + n0
                hi = lo + wide * min(group, n_rows - row)
                _clear(w, 0, n_states)
                _load(w, 0, state0, lo, hi)
                for t in range(x.shape[0]):
                    charge_row(w, _row(x, t, lo, hi))
                    for i in range(1, n_states):
                        _write(u[i, t, lo:hi], w, i)
                    base_u, base_s = _row(u0, t, lo, hi), _row(s0, t, lo, hi)
                    fire_row(w, k, u[0, t, lo:hi], _row(spikes, t, lo, hi), base_u, base_s)
                _store(state_last, lo, hi, w, 0)

    real = numba.from_dtype(np.dtype(number))
    stored = types.uint8 if fire == "step" else real
    base = (_array(real, 2), _array(real, 2), _array(real, 2))
    outputs = (_array(real, 3, False), _array(stored, 2, False), _array(real, 2, False))
    return part(scan), (_array(real, 2), _array(real, 2), _array(real, 2), real, *base, *outputs, *(types.intp,) * 7)


def _adjoint_loop(
    part: Callable, f: dict, n_states: int, n_params: int, number: type, soft_spikes: bool, wanted: Wanted, looks_back: bool
) -> tuple[Callable, tuple]:
    charge_adjoint, reset, reset_adjoint, slope = f["charge_adjoint"], f["reset"], f["reset_adjoint"], f["slope"]
    theta, sums = n_states, n_states + 1 + n_params
    past = sums + 1 + n_params
    rows_in_use = past + n_states
    gather_adjoint, gather_past, put_adjoint = _gather(n_states, 0), _gather(n_states, past), _put(n_states, 0)
    gather_params, add_params = _gather(n_params, theta + 1), _put(n_params, sums + 1, True)
    after_states = n_states + 1
    want_x, want_theta, want_params, _ = wanted

    @part
    def fire_row(w, k, u, spikes, d_spikes):
        for n in range(u.shape[0]):
            at = w[theta * PITCH + n]
            d_u, d_s, d_theta_t = reset_adjoint(w[n], u[n], number(spikes[n]), at)
            g = (d_s + d_spikes[n]) * slope(u[n] - at, k)  # (lif.7)
            w[n] = d_u + g
            if want_theta:
                w[sums * PITCH + n] += d_theta_t - g  # (lif.11)

    @part
    def reset_row(w, u, spikes):
        for n in range(u.shape[0]):
            w[past * PITCH + n] = reset(u[n], number(spikes[n]), w[theta * PITCH + n])

    @part
    def charge_row(w, x, d_x):
        for n in range(x.shape[0]):
            adjoints = charge_adjoint(*(gather_adjoint(w, n) + gather_past(w, n) + (x[n],) + gather_params(w, n)))
            put_adjoint(w, n, adjoints)
            if want_x:
                d_x[n] = adjoints[n_states]
            if want_params:
                add_params(w, n, adjoints[after_states:])

    def adjoint(d_spikes, d_state_last, x, u, spikes, state0, rows, k, d_x, d_state0, d_rows,
                n_rows, width, group, chunk, pieces, first, last):  # fmt: skip
        n_lanes = rows.shape[1]
        w = np.zeros(rows_in_use * PITCH, x.dtype)
        for number_of_tile in range(first, last):
            piece, part = number_of_tile % pieces, number_of_tile // pieces
            n0 = piece * width
            wide = min(width, n_lanes - n0)
            _spread(w, theta, rows, n0, wide, group)
            _clear(w, sums, 1 + n_params)
            for row in range(part * chunk, min(part * chunk + chunk, n_rows), group):
                lo = row * n_lanes + n0
                hi = lo + wide * min(group, n_rows - row)
                _clear(w, 0, n_states)
                _load(w, 0, d_state_last, lo, hi)
                for t in range(x.shape[0] - 1, -1, -1):
                    fire_row(w, k, u[0, t, lo:hi], _row(spikes, t, lo, hi), _row(d_spikes, t, lo, hi))
                    if looks_back and t > 0:
                        reset_row(w, u[0, t - 1, lo:hi], _row(spikes, t - 1, lo, hi))
                        for i in range(1, n_states):
                            _read(w, past + i, u[i, t - 1, lo:hi])
                    elif looks_back:
                        _clear(w, past, n_states)
                        _load(w, past, state0, lo, hi)
                    charge_row(w, _row(x, t, lo, hi), _row(d_x, t, lo, hi))
                _store(d_state0, lo, hi, w, 0)
            _collect(d_rows, part, n0, w, sums, wide, group)

    real = numba.from_dtype(np.dtype(number))
    stored = real if soft_spikes else types.uint8
    inputs = (_array(real, 2), _array(real, 2), _array(real, 2), _array(real, 3), _array(stored, 2), _array(real, 2))
    outputs = (_array(real, 2, False), _array(real, 2, False), _array(real, 3, False))
    return part(adjoint), (*inputs, _array(real, 2), real, *outputs, *(types.intp,) * 7)
