"""The Numba backend: the same formulas as the reference, compiled into loops over tiles of lanes.

Nothing is kept but the input and the spikes: the adjoint runs forward again (:mod:`minisnn.kernels.loops`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from ..neurons import Neuron
from . import memory
from .arrays import Array, is_steady
from .contract import ALL, HARD, Base, Dynamics, Needs, ScanCache, Twin, base_of, check_adjoint_arrays, check_scan_arrays
from .jit import Loop, digest, flat_read_only
from .lanes import LANES, LoopSpec
from .loops import SPAN, Gradients, Outputs, Run, Tiles, adjoint_loop, scan_loop
from .threads import share

__all__ = ["CompiledKernel", "kernel", "plan", "problem"]


@lru_cache
def plan(batch: int, n_lanes: int) -> Tiles:
    """Tiles for B rows of N lanes: from the shapes alone, so that sums never depend on the threads."""
    width = min(n_lanes, LANES)
    pieces = -(-n_lanes // width)
    group = min(max(1, LANES // n_lanes), batch)
    wanted_chunks = min(16, max(1, 32 // pieces))  # each makes a partial sum; some 32 tiles are enough for any machine
    chunk = group * -(-batch // (group * wanted_chunks))
    return Tiles(width, group, chunk, pieces, -(-batch // chunk))


class CompiledKernel:
    """Time loop and adjoint compiled by Numba.  See :mod:`minisnn.kernels.contract`."""

    def __init__(self, dynamics: Dynamics) -> None:
        self.dynamics = dynamics
        self._loops: dict[tuple, Loop] = {}

    def scan(
        self, x: Array, state0: Array | None, theta: Array, params: Array, k: float, twin: Twin = HARD
    ) -> tuple[Array, Array, ScanCache]:
        base = base_of(twin, x.dtype)
        check_scan_arrays(self.dynamics, x, state0, theta, params, base)
        n_states = len(self.dynamics.neuron.state)
        spikes = memory.empty(x.shape, np.uint8 if twin.fire == "step" else x.dtype)
        state_last = memory.empty((n_states, *x.shape[1:]), x.dtype)
        borders = memory.empty(_borders(n_states, x), x.dtype)
        out = Outputs(spikes, state_last, borders, np.empty((0, 0, 0, 0), x.dtype))
        self._scan(x, state0, theta, params, k, twin, base, out)
        return (
            spikes,
            state_last,
            ScanCache(self.dynamics, x, spikes, state0, theta, params, k, twin, borders, self._membranes),
        )

    def _membranes(self, cache: ScanCache) -> Array:
        """The states before the reset, ``[K, T, B, N]``, of a run that did not keep them."""
        n_states = len(self.dynamics.neuron.state)
        base = base_of(cache.twin, cache.x.dtype)
        states = (n_states, *cache.x.shape[1:])
        u = np.empty((n_states, *cache.x.shape), cache.x.dtype)
        out = Outputs(np.empty_like(cache.spikes), np.empty(states, u.dtype), np.empty_like(cache.borders), u)
        self._scan(cache.x, cache.state0, cache.theta, cache.params, cache.k, cache.twin, base, out)
        return u

    def _scan(
        self, x: Array, state0: Array | None, theta: Array, params: Array, k: float, twin: Twin, base: Base | None,
        out: Outputs,
    ) -> None:  # fmt: skip
        loop = self._loop(scan_loop, x.dtype, twin.fire, self.dynamics.reset.stop if base else (), base is not None)
        run, tiles = _run(x, state0, out.borders, theta, params, k), plan(*x.shape[1:])
        touched = Base(*map(flat_read_only, base)) if base else Base(run.x, run.x, run.lane_params)
        out = Outputs(*(a.reshape(-1) for a in out))
        n_tiles = tiles.pieces * tiles.chunks
        share(lambda first, last: loop(run, touched, out, x.shape, tiles, first, last), n_tiles, x.size)

    def scan_adjoint(
        self, d_spikes: Array, d_state_last: Array | None, cache: ScanCache, needs: Needs = ALL
    ) -> tuple[Array | None, Array | None, Array | None, Array | None]:
        check_adjoint_arrays(self.dynamics, d_spikes, d_state_last, cache)
        x, theta, params = cache.x, cache.theta, cache.params
        n_states, tiles = len(self.dynamics.neuron.state), plan(*x.shape[1:])
        nothing = np.empty(0, x.dtype)
        d_x = memory.empty_like(x) if needs.x else nothing
        d_state0 = memory.empty((n_states, *x.shape[1:]), x.dtype) if needs.state else nothing
        through_params = needs.params and len(params) > 0
        d_sums = np.empty((1 + len(params) * through_params, tiles.chunks, len(theta)), x.dtype)
        given = flat_read_only(nothing if d_state_last is None else d_state_last)
        written = (a.reshape(-1) for a in (d_x, d_state0, d_sums))
        gradients = Gradients(flat_read_only(d_spikes), given, *written)
        borders: Any = cache.borders
        if borders is None:  # another backend made the cache
            borders = self.scan(x, cache.state0, theta, params, cache.k, cache.twin)[2].borders
        if borders.shape != _borders(n_states, x):
            raise ValueError(f"cache: borders {list(borders.shape)}, expected {list(_borders(n_states, x))}: changed since")
        run = _run(x, cache.state0, borders, theta, params, cache.k)
        loop = self._loop(adjoint_loop, x.dtype, cache.twin.fire, needs=needs._replace(params=through_params, state=True))
        n_tiles = tiles.pieces * tiles.chunks
        share(lambda first, last: loop(run, gradients, x.shape, tiles, first, last), n_tiles, 2 * x.size)
        return (
            d_x if needs.x else None,
            d_state0 if needs.state else None,
            d_sums[0] if needs.theta else None,
            d_sums[1:] if needs.params else None,
        )

    def _loop(self, build: Any, dtype: np.dtype, *fires: Any, needs: Needs | None = None) -> Loop:
        """The loop that `build` makes of these dynamics; `fires` : how neurons fire, what is held, if there is a base."""
        key = build, dtype.char, *fires, needs
        if key not in self._loops:
            neuron, used = self.dynamics.neuron, self.dynamics.formulas()
            if needs is None and fires[0] == "step":  # training's forward does not know the surrogate: one loop for all
                used = {name: used[name] for name in ("charge", "reset")}
            python = {name: f.python(dtype) for name, f in used.items()}
            spec = LoopSpec(python, len(neuron.state), len(neuron.params), dtype.type, *fires)
            mark = *used.values(), len(neuron.state), len(neuron.params), key[1:]
            spec = spec._replace(mark=digest(mark), looks_back=needs is not None and _looks_back(neuron, needs))
            self._loops[key] = _shared(build.__name__, mark, lambda: build(spec) if needs is None else build(spec, needs))
        return self._loops[key]


_loops: dict[tuple, Loop] = {}


def _shared(name: str, mark: tuple, build: Callable[[], Callable]) -> Loop:
    """One loop for all dynamics that compute the same, e.g. a notebook's cell that was run once more."""
    if (name, mark) not in _loops:
        _loops[name, mark] = Loop(build(), mark)
    return _loops[name, mark]


def _looks_back(neuron: Neuron, needs: Needs) -> bool:
    """Whether any gradient that is needed depends on the states before the step."""
    k = len(neuron.state)
    needed = [*range(k), *([k] if needs.x else []), *(range(k + 1, k + 1 + len(neuron.params)) if needs.params else [])]
    depends = neuron.formulas[1].depends
    return any(k <= argument < 2 * k for result in needed for argument in depends[result])


def _borders(n_states: int, x: Array) -> tuple[int, ...]:
    """The shape of the states before each span of time but the first."""
    return max(len(x) - 1, 0) // SPAN, n_states, *x.shape[1:]


def _run(x: Array, state0: Array | None, borders: Array, theta: Array, params: Array, k: float) -> Run:
    before = np.empty(0, x.dtype) if state0 is None else state0
    lane_params = np.concatenate([theta, params.reshape(-1)])
    arrays = (x[0] if is_steady(x) else x, before, borders, lane_params)
    return Run(*map(flat_read_only, arrays), x.dtype.type(k))  # type: ignore[call-arg]


def problem() -> None:
    """Raise what hinders Numba from compiling here."""
    if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        raise ImportError("NUMBA_DISABLE_JIT is set: nothing can be compiled")


kernel = CompiledKernel
