"""The compiled loop: Numba around the same functions as the reference, tile by tile.

**Tiles.**  All lanes of a step lie side by side in memory, ``B * N`` of them.  A tile is about 2,048 lanes, small enough
that its state and its thresholds stay in the fastest cache while time runs *inside* the tile.  Where N is small a tile
is several whole rows of the batch; where it is large, a piece of a row, taken over a chunk of rows.

**Rows.**  Inside a tile a step is a few short loops over rows of numbers (:mod:`minisnn.kernels.rows`).

**Disk.**  What was compiled once is loaded without Numba (:mod:`minisnn.kernels.native`).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np

from ..grammar import dependencies
from ..neurons import Neuron
from . import pool
from .contract import Array, Base, Dynamics, ScanCache, Wanted, base_of, membranes
from .jit import Loop
from .loops import adjoint_loop, round_loop, scan_loop, states_loop
from .narrow import fingerprint, narrowed, rests_on
from .native import compile_loop, problem
from .place import writeable
from .rows import Rule
from .threads import share_out
from .tile import LANES, PITCH, Layout

__all__ = ["CompiledKernel", "kernel", "problem"]

#: Lanes at a time on the way there and back: their rows of the scratch leave room in the fastest cache for what passes by.
#: Fewer would be read in pieces too short for the memory.  The other loops take a whole tile: they bring membranes from
#: memory or take them there, and then even these pieces are too short.
AT_ONCE = 1024
#: Bytes of membranes that a tile keeps on its way there and back: they stay in the last cache.
KEPT = 1 << 22
#: Bytes that it keeps of a span, where time is cut: spans have to be run again anyway, and so a nearer cache will do.
KEPT_OF_A_SPAN = 1 << 20


class Tiles(NamedTuple):
    """How the lanes are cut: tile ``i`` is piece ``i % pieces`` of the rows of chunk ``i // pieces``."""

    width: int  #: lanes of one row in a tile
    group: int  #: rows that run side by side (more than one only if a tile holds whole rows)
    chunk: int  #: rows of a tile, one group after the other; each chunk makes one partial sum
    pieces: int
    chunks: int


@lru_cache
def plan(n_rows: int, n_lanes: int) -> Tiles:
    """Tiles for B rows of N lanes: from the shapes alone, so that sums never depend on the threads."""
    width = min(n_lanes, LANES)
    pieces = -(-n_lanes // width)
    group = min(max(1, LANES // n_lanes), n_rows)
    wanted_chunks = min(16, max(1, 32 // pieces))  # each makes a partial sum; some 32 tiles are enough for any team
    chunk = group * -(-n_rows // (group * wanted_chunks))
    return Tiles(width, group, chunk, pieces, -(-n_rows // chunk))


def spans(n_steps: int, lanes: int, bytes_of_a_step: int) -> tuple[int, int]:
    """On the way there and back: how many of a tile's lanes at a time, and for how many steps they keep everything."""
    narrow = min(lanes, AT_ONCE)
    if bytes_of_a_step * narrow * n_steps <= KEPT:
        return narrow, n_steps
    # All lanes: what is kept fits the cache either way, and longer rows come from memory sooner.
    return lanes, max(KEPT_OF_A_SPAN // (bytes_of_a_step * lanes), 1)


class CompiledKernel:
    """Time loop and adjoint compiled by Numba.  See :mod:`minisnn.kernels.contract`."""

    def __init__(self, dynamics: Dynamics) -> None:
        self.dynamics = dynamics
        self._loops: dict[tuple, tuple[tuple, list, Loop]] = {}
        self._scratch = Layout.of(len(dynamics.neuron.state), len(dynamics.neuron.params)).rows * PITCH

    def _loop(self, build: Callable, dtype: np.dtype, **options: Any) -> Loop:
        """The loop that `build` makes of these dynamics as they are now: what has not changed is not asked for again."""
        key = build, dtype.char, *options.values()
        if found := self._loops.get(key):
            functions, before, loop = found
            if all(map(operator.is_, rests_on(functions), before)):
                return loop
        used = _used(build, self.dynamics, **options)
        functions = tuple(used.values())
        now = rests_on(functions)  # first: they may change while this compiles
        loop = _compiled(build, self.dynamics, used, dtype, **options)
        self._loops[key] = functions, now, loop
        return loop

    def scan(
        self, x: Array, state0: Array | None, theta: Array, params: Array, k: float,
        fire: str = "step", base: Base | None = None, consume: bool = False, last: bool = True,
    ) -> tuple[Array, Array | None, ScanCache]:  # fmt: skip
        base, held = base_of(base, fire, x.dtype), self.dynamics.reset.stop if base else ()
        touched = base or Base(x, x, _nothing(x.dtype))  # if none, nothing comes of it; but code not optimised reads there
        u = membranes(x, self.dynamics.neuron, x.dtype, consume)
        spikes = pool.empty(x.shape, np.uint8 if fire == "step" else x.dtype)
        state_last = pool.empty((len(u), *x.shape[1:]), x.dtype) if last else None
        over = np.may_share_memory(u, x)
        loop = self._loop(scan_loop, x.dtype, fire=fire, held=held, over=over)
        _run_tiles(
            loop, x.shape, self._scratch, x, _or_nothing(state0, x), _rows_of(theta, params), *touched, u, spikes,
            _or_nothing(state_last, x), k,
        )  # fmt: skip
        return spikes, state_last, ScanCache(x, u, spikes, state0, theta, params, k)

    def scan_adjoint(
        self, d_spikes: Array, d_state_last: Array | None, cache: ScanCache, wanted: Wanted = Wanted(), consume: bool = False
    ) -> tuple[Array | None, Array | None, Array | None, Array | None]:
        x, u, spikes, state0, theta, params, k = cache
        out = _Gradients(self.dynamics, d_spikes, x, theta, params, wanted, consume)
        soft, over = spikes.dtype != np.uint8, out.d_x is d_spikes
        loop = self._loop(adjoint_loop, x.dtype, soft_spikes=soft, wanted=out.wanted, over=over)
        _run_tiles(
            loop, x.shape, self._scratch, d_spikes, _or_nothing(d_state_last, x), x, u, spikes, _or_nothing(state0, x),
            _rows_of(theta, params), *out.arrays(x), k,
        )  # fmt: skip
        return out.result()

    def there_and_back(
        self, x: Array, state0: Array | None, theta: Array, params: Array, k: float, fire: str,
        d_spikes: Array, d_state_last: Array | None, wanted: Wanted, consume: bool,
    ) -> tuple[Array | None, Array | None, Array | None, Array | None]:  # fmt: skip
        out = _Gradients(self.dynamics, d_spikes, x, theta, params, wanted, consume)
        n_states, tiles = len(self.dynamics.neuron.state), plan(*x.shape[1:])
        narrow, span = spans(len(x), tiles.width * tiles.group, n_states * x.itemsize)
        before, rows = _or_nothing(state0, x), _rows_of(theta, params)
        if span < len(x):
            before = self._before_each(span, x, before, rows, k, fire)
        loop = self._loop(round_loop, x.dtype, fire=fire, wanted=out.wanted, over=out.d_x is d_spikes)
        _run_tiles(
            loop, x.shape, self._scratch, n_states * span * narrow, n_states * narrow,
            x, before, rows, d_spikes, _or_nothing(d_state_last, x), *out.arrays(x), k, narrow, span,
        )  # fmt: skip
        return out.result()

    def _before_each(self, span: int, x: Array, state0: Array, rows: Array, k: float, fire: str) -> Array:
        """The states before each span of time, ``[spans * K, B, N]``."""
        found = pool.empty((-(-len(x) // span) * len(self.dynamics.neuron.state), *x.shape[1:]), x.dtype)
        loop = self._loop(states_loop, x.dtype, fire=fire)
        _run_tiles(loop, x.shape, self._scratch, x, state0, rows, found, k, span)
        return found


class _Gradients:
    """Room for what an adjoint returns, and what of it is wanted."""

    def __init__(
        self, dynamics: Dynamics, d_spikes: Array, x: Array, theta: Array, params: Array, wanted: Wanted, consume: bool
    ) -> None:
        self.asked = wanted
        self.wanted = Wanted(wanted.x, wanted.theta, wanted.params and len(params) > 0, True)
        if consume and writeable(d_spikes):
            self.d_x = d_spikes
        else:  # where it is not wanted nothing touches it, and it takes no memory
            self.d_x = pool.empty_like(x) if wanted.x else np.empty_like(x)
        states = (len(dynamics.neuron.state), *x.shape[1:])
        self.d_state0 = pool.empty(states, x.dtype) if wanted.state else None
        n_sums = 1 + len(params) if self.wanted.params else 1
        self.d_rows = np.empty((n_sums, plan(*x.shape[1:]).chunks, len(theta)), x.dtype)

    def arrays(self, x: Array) -> tuple[Array, Array, Array]:
        """As the loops take them."""
        return self.d_x, _or_nothing(self.d_state0, x), self.d_rows

    def result(self) -> tuple[Array | None, Array | None, Array | None, Array | None]:
        """``(d_x, d_state0, d_theta, d_params)``."""
        return (
            self.d_x if self.asked.x else None,
            self.d_state0,
            self.d_rows[0] if self.asked.theta else None,
            self.d_rows[1:] if self.asked.params else None,
        )


def _rows_of(theta: Array, params: Array) -> Array:
    """Thresholds and parameters one after the other, ``[(1 + Q) * N]``."""
    return np.concatenate([theta, params.reshape(-1)])


def _looks_back(neuron: Neuron, wanted: Wanted) -> bool:
    """Whether any gradient that is wanted depends on the state before the charge."""
    k = len(neuron.state)
    needed = [*range(k), *([k] if wanted.x else []), *(range(k + 1, k + 1 + len(neuron.params)) if wanted.params else [])]
    depends = dependencies(neuron.charge_adjoint)
    return any(k <= argument < 2 * k for result in needed for argument in depends[result])


def _or_nothing(states: Array | None, x: Array) -> Array:
    """States; empty where there are none, and then zeros are read and nothing is written."""
    return _nothing(x.dtype) if states is None else states


@cache
def _nothing(dtype: np.dtype) -> Array:
    return np.empty(0, dtype)


def _run_tiles(loop: Loop, shape: tuple[int, int, int], *arguments: Any) -> None:
    """Share out the tiles of a run over ``[T, B, N]``."""
    tiles = plan(*shape[1:])
    run = loop(*arguments, *shape, tiles.width, tiles.group, tiles.chunk, tiles.pieces)
    share_out(run, tiles.pieces * tiles.chunks, math.prod(shape))


kernel = CompiledKernel


# -- compiling: once for each thing computed, dtype and wish

#: Loops that go forward alone.
FORWARD = scan_loop, states_loop


def _used(build: Callable, dynamics: Dynamics, fire: str = "step", **_: Any) -> dict[str, Callable]:
    """Which functions of some dynamics such a loop is made of."""
    neuron, reset, surrogate = dynamics
    used = {"reset": reset.reset}
    if build is not adjoint_loop:
        used["charge"] = neuron.charge
        if fire != "step":  # only a twin's forward knows the surrogate: all others share one loop
            used |= {"smooth": surrogate.smooth, "slope": surrogate.slope}
    if build not in FORWARD:
        used |= {"charge_adjoint": neuron.charge_adjoint, "reset_adjoint": reset.reset_adjoint, "slope": surrogate.slope}
    return used


def _compiled(build: Callable, dynamics: Dynamics, used: dict[str, Callable], dtype: np.dtype, **options: Any) -> Loop:
    """The loop that `build` makes of these functions as they are now."""
    n_states, n_params = len(dynamics.neuron.state), len(dynamics.neuron.params)
    if build not in FORWARD:
        options["looks_back"] = _looks_back(dynamics.neuron, options["wanted"])
    marks = *map(fingerprint, used.values()), n_states, n_params, dtype.char, options
    rule = Rule({n: narrowed(f, dtype) for n, f in used.items()}, n_states, n_params, dtype.type)
    return compile_loop(*build(rule, **options), *marks)
