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
        self, x: Array, state0: Array, theta: Array, params: Array, k: float,
        fire: str = "step", base: Base | None = None, consume: bool = False,
    ) -> tuple[Array, Array, ScanCache]:  # fmt: skip
        held = self.dynamics.reset.stop if base else ()
        base = base or Base(x, x, theta)  # nothing looks at it then: any arrays of the right shapes will do
        u = membranes(x, len(state0), self.dynamics.neuron, x.dtype, consume)
        spikes = np.empty(x.shape, np.uint8 if fire == "step" else x.dtype)
        state_last = np.empty_like(state0)
        loop = _compiled(_scan_loop, self.dynamics, x.dtype, fire=fire, held=held)
        _run_tiles(
            loop, x.shape, _flat(x), _flat(state0), _rows_of(theta, params), x.dtype.type(k),
            _flat(base.u), _flat(base.spikes.astype(x.dtype, copy=False)), base.theta[None],
            _flat(u), _flat(spikes), _flat(state_last),
        )  # fmt: skip
        return spikes, state_last, ScanCache(x, u, spikes, state0, theta, params, k)

    def scan_adjoint(
        self, d_spikes: Array, d_state_last: Array, cache: ScanCache, wanted: Wanted = Wanted(), consume: bool = False
    ) -> tuple[Array | None, Array, Array | None, Array | None]:
        x, u, spikes, state0, theta, params, k = cache
        wanted = wanted._replace(params=wanted.params and len(params) > 0)
        # Where d_x is not wanted nothing touches it, and it takes no memory.
        d_x = d_spikes if consume and d_spikes.flags.writeable else np.empty_like(x)
        d_state0 = np.empty_like(state0)
        d_rows = np.empty((1 + len(params), plan(*x.shape[1:]).chunks, len(theta)), x.dtype)
        soft = spikes.dtype != np.uint8
        loop = _compiled(_adjoint_loop, self.dynamics, x.dtype, soft_spikes=soft, wanted=wanted)
        _run_tiles(
            loop, x.shape, _flat(d_spikes), _flat(d_state_last), _flat(x), _flat(u), _flat(spikes), _flat(state0),
            _rows_of(theta, params), x.dtype.type(k), _flat(d_x), _flat(d_state0), d_rows,
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


# -- small helpers for any number of states and parameters: the compiler unrolls them


@cache
def _gather(count: int) -> Callable:
    """gather(a, n) -> (a[0, n], ..., a[count - 1, n])."""
    if count == 0:

        def gather(a, n):
            return ()

    else:
        others, last = _gather(count - 1), count - 1

        def gather(a, n):
            return others(a, n) + (a[last, n],)  # noqa: RUF005 - Numba reads no starred tuple

    return _named(str(count))(gather)


@cache
def _put(count: int, add: bool = False) -> Callable:
    """put(a, n, values): a[i, n] becomes values[i], or grows by it, for i < count."""
    if count == 0:

        def put(a, n, values):
            pass

    else:
        others, last = _put(count - 1, add), count - 1
        if add:

            def put(a, n, values):
                others(a, n, values)
                a[last, n] += values[last]

        else:

            def put(a, n, values):
                others(a, n, values)
                a[last, n] = values[last]

    return _named(f"{count}{add}")(put)


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
def _scratch(like, rows, size):
    return np.zeros((rows, size), like.dtype)


@register_jitable
def _load(scratch, a, lo, hi):
    """Lanes `lo` to `hi` of every row of `a` ``[rows, L]``."""
    for i in range(a.shape[0]):
        for n in range(hi - lo):
            scratch[i, n] = a[i, lo + n]


@register_jitable
def _store(a, lo, hi, scratch):
    for i in range(a.shape[0]):
        for n in range(hi - lo):
            a[i, lo + n] = scratch[i, n]


@register_jitable
def _load_step(scratch, a, t, lo, hi):
    """Lanes `lo` to `hi` of step `t` of every row of `a` ``[rows, T, L]``."""
    for i in range(a.shape[0]):
        _load_row(scratch[i], a[i, t, lo:hi])


@register_jitable
def _store_step(a, t, lo, hi, scratch):
    for i in range(a.shape[0]):
        _store_row(a[i, t, lo:hi], scratch[i])


@register_jitable
def _load_row(scratch, row):
    for n in range(row.shape[0]):
        scratch[n] = row[n]


@register_jitable
def _store_row(row, scratch):
    for n in range(row.shape[0]):
        row[n] = scratch[n]


@register_jitable
def _spread(lanes, rows, n0, width, group):
    """Rows of N values, from `n0` on, laid out for `group` rows of the batch side by side."""
    for i in range(rows.shape[0]):
        for g in range(group):
            for n in range(width):
                lanes[i, g * width + n] = rows[i, n0 + n]


@register_jitable
def _collect(sums, chunk, n0, lanes, width, group):
    """The adjoint of `_spread`: into `sums` ``[rows, P, N]``, added up over the batch rows side by side; empties `lanes`."""
    for i in range(sums.shape[0]):
        for n in range(width):
            sums[i, chunk, n0 + n] = lanes[i, n]
        for g in range(1, group):
            for n in range(width):
                sums[i, chunk, n0 + n] += lanes[i, g * width + n]
        for n in range(lanes.shape[1]):
            lanes[i, n] = 0


# -- the loops.  Each builder returns a Python function for Numba and the signature to compile it for


def _array(dtype: Any, ndim: int, readonly: bool = True) -> types.Array:
    return types.Array(dtype, ndim, "C", readonly=readonly)


def _scan_loop(
    part: Callable, f: dict, n_states: int, n_params: int, number: type, fire: str, held: tuple
) -> tuple[Callable, tuple]:
    charge = f["charge"]
    spike = part(FIRES[fire](f.get("smooth", charge), f.get("slope", charge)))  # "step" looks at neither
    reset = part(hold(f["reset"], held))
    gather_state, gather_params, put_state = _gather(n_states), _gather(n_params), _put(n_states)
    as_tuple = _bare if n_states == 1 else _same

    @part
    def charge_row(v, x, params):
        for n in range(x.shape[0]):
            put_state(v, n, as_tuple(charge(*((*gather_state(v, n), x[n], *gather_params(params, n))))))

    @part
    def fire_row(membrane, theta, k, spikes, u0, s0, theta0):
        for n in range(spikes.shape[0]):
            s = number(spike(membrane[n], theta[n], k, u0[n], s0[n], theta0[n]))
            spikes[n] = s
            membrane[n] = reset(membrane[n], s, theta[n], u0[n], s0[n], theta0[n])

    def scan(x, state0, rows, k, u0, s0, theta0, u, spikes, state_last, n_rows, width, group, chunk, pieces, first, last):
        n_lanes, size = rows.shape[1], width * group
        v, tile = _scratch(x, n_states, size), _scratch(x, 1 + n_params, size)
        tile0 = _scratch(x, 1, size)
        for number_of_tile in range(first, last):
            piece, part = number_of_tile % pieces, number_of_tile // pieces
            n0 = piece * width
            wide = min(width, n_lanes - n0)
            _spread(tile, rows, n0, wide, group)
            _spread(tile0, theta0, n0, wide, group)
            for row in range(part * chunk, min(part * chunk + chunk, n_rows), group):
                lo = row * n_lanes + n0
                hi = lo + wide * min(group, n_rows - row)
                _load(v, state0, lo, hi)
                for t in range(x.shape[0]):
                    charge_row(v, _row(x, t, lo, hi), tile[1:])
                    _store_step(u, t, lo, hi, v)
                    base_u, base_s = _row(u0, t, lo, hi), _row(s0, t, lo, hi)
                    fire_row(v[0], tile[0], k, _row(spikes, t, lo, hi), base_u, base_s, tile0[0])
                _store(state_last, lo, hi, v)

    real = numba.from_dtype(np.dtype(number))
    stored = types.uint8 if fire == "step" else real
    base = (_array(real, 2), _array(real, 2), _array(real, 2))
    outputs = (_array(real, 3, False), _array(stored, 2, False), _array(real, 2, False))
    return part(scan), (_array(real, 2), _array(real, 2), _array(real, 2), real, *base, *outputs, *(types.intp,) * 7)


def _adjoint_loop(
    part: Callable, f: dict, n_states: int, n_params: int, number: type, soft_spikes: bool, wanted: Wanted
) -> tuple[Callable, tuple]:
    charge_adjoint, reset, reset_adjoint, slope = f["charge_adjoint"], f["reset"], f["reset_adjoint"], f["slope"]
    gather_state, gather_params, put_state = _gather(n_states), _gather(n_params), _put(n_states)
    add_params = _put(n_params, True)
    after_states = n_states + 1
    want_x, want_theta, want_params = wanted

    @part
    def reset_row(membrane, spikes, theta):
        for n in range(spikes.shape[0]):
            membrane[n] = reset(membrane[n], number(spikes[n]), theta[n])

    @part
    def fire_row(d_v, d_theta, u, spikes, d_spikes, theta, k):
        for n in range(u.shape[0]):
            d_u, d_s, d_theta_t = reset_adjoint(d_v[n], u[n], number(spikes[n]), theta[n])
            g = (d_s + d_spikes[n]) * slope(u[n] - theta[n], k)  # (lif.7)
            d_v[n] = d_u + g
            if want_theta:
                d_theta[n] += d_theta_t - g  # (lif.11)

    @part
    def charge_row(d_v, d_x, d_params, before, x, params):
        for n in range(x.shape[0]):
            adjoints = charge_adjoint(*(gather_state(d_v, n) + gather_state(before, n) + (x[n],) + gather_params(params, n)))
            put_state(d_v, n, adjoints)
            if want_x:
                d_x[n] = adjoints[n_states]
            if want_params:
                add_params(d_params, n, adjoints[after_states:])

    def adjoint(d_spikes, d_state_last, x, u, spikes, state0, rows, k, d_x, d_state0, d_rows,
                n_rows, width, group, chunk, pieces, first, last):  # fmt: skip
        n_lanes, size = rows.shape[1], width * group
        d_v, before = _scratch(x, n_states, size), _scratch(x, n_states, size)
        tile, d_tile = _scratch(x, 1 + n_params, size), _scratch(x, 1 + n_params, size)
        for number_of_tile in range(first, last):
            piece, part = number_of_tile % pieces, number_of_tile // pieces
            n0 = piece * width
            wide = min(width, n_lanes - n0)
            _spread(tile, rows, n0, wide, group)
            for row in range(part * chunk, min(part * chunk + chunk, n_rows), group):
                lo = row * n_lanes + n0
                hi = lo + wide * min(group, n_rows - row)
                _load(d_v, d_state_last, lo, hi)
                for t in range(x.shape[0] - 1, -1, -1):
                    if t > 0:
                        _load_step(before, u, t - 1, lo, hi)
                        reset_row(before[0], _row(spikes, t - 1, lo, hi), tile[0])
                    else:
                        _load(before, state0, lo, hi)
                    membrane, s, d_s = u[0, t, lo:hi], _row(spikes, t, lo, hi), _row(d_spikes, t, lo, hi)
                    fire_row(d_v[0], d_tile[0], membrane, s, d_s, tile[0], k)
                    charge_row(d_v, _row(d_x, t, lo, hi), d_tile[1:], before, _row(x, t, lo, hi), tile[1:])
                _store(d_state0, lo, hi, d_v)
            _collect(d_rows, part, n0, d_tile, wide, group)

    real = numba.from_dtype(np.dtype(number))
    stored = real if soft_spikes else types.uint8
    inputs = (_array(real, 2), _array(real, 2), _array(real, 2), _array(real, 3), _array(stored, 2), _array(real, 2))
    outputs = (_array(real, 2, False), _array(real, 2, False), _array(real, 3, False))
    return part(adjoint), (*inputs, _array(real, 2), real, *outputs, *(types.intp,) * 7)
