"""The Numba backend: the same formulas as the reference, compiled into loops over tiles of lanes.

The cache keeps the input and the spikes: the adjoint runs forward again
(:mod:`minisnn.kernels.loops`).
"""

from __future__ import annotations

import os
from functools import cache, lru_cache

import numpy as np

from ..formula import Formula
from . import memory
from .arrays import is_steady
from .contract import Base, Dynamics, Kernel, Needs
from .jit import Loop, digest, flat
from .lanes import LANES, LoopSpec
from .loops import SPAN, Gradients, Run, Tiles, adjoint_loop, scan_loop
from .threads import share

__all__ = ["CompiledKernel", "kernel", "plan", "problem"]


class CompiledKernel(Kernel):
    """Time loop and adjoint compiled by Numba.  See :mod:`minisnn.kernels.contract`."""

    def __init__(self, dynamics: Dynamics) -> None:
        super().__init__(dynamics)
        self.sizes = len(dynamics.neuron.state), len(dynamics.neuron.params)
        self._loops: dict[tuple, Loop] = {}

    def _scan(self, x, state0, theta, params, k, twin):
        held, (states, borders) = self.dynamics.reset.stop if twin.base else (), self._shapes(x)
        loop = self._loop(x.dtype, twin.fire, held, twin.base is not None, None)
        spikes = memory.empty(x.shape, np.uint8 if twin.fire == "step" else x.dtype)
        state_last, before_spans = np.empty(states, x.dtype), np.empty(borders, x.dtype)
        run, tiles = _run(x, state0, before_spans, theta, params, k), plan(*x.shape[1:])
        base = Base(*map(flat, twin.base)) if twin.base else Base(run.x, run.x, run.lane_params)
        written = spikes.reshape(-1), state_last.reshape(-1), before_spans.reshape(-1)
        given, n_tiles = (run, base, *written, x.shape, tiles), tiles.pieces * tiles.chunks
        share(lambda first, last: loop(*given, first, last), n_tiles, x.size)
        return spikes, state_last, {"borders": before_spans, "membranes": self._membranes}

    def _scan_adjoint(self, d_spikes, d_state_last, cache, needs):
        x, params, dtype, (states, shape) = (
            cache.x,
            cache.params,
            cache.x.dtype,
            self._shapes(cache.x),
        )
        given = cache.theta, params, cache.k
        borders, tiles = cache.borders, plan(*x.shape[1:])
        if borders is None:  # another backend made the cache
            borders = self._scan(x, cache.state0, *given, cache.twin)[2]["borders"]
        if borders.shape != shape:
            came = f"borders {list(borders.shape)}, expected {list(shape)}"
            raise ValueError(f"cache: {came}: changed since")
        n_sums = 1 + self.sizes[1] * needs.params
        used = needs._replace(params=n_sums > 1, state=True)
        loop = self._loop(dtype, cache.twin.fire, (), False, used)
        d_x = memory.empty(x.shape if needs.x else (0,), dtype)
        d_state0 = np.empty(states if needs.state else 0, dtype)
        d_sums = np.empty((n_sums, tiles.chunks, x.shape[2]), dtype)
        d_last = np.empty(0, dtype) if d_state_last is None else d_state_last
        written = d_x.reshape(-1), d_state0.reshape(-1), d_sums.reshape(-1)
        gradients = Gradients(flat(d_spikes), flat(d_last), *written)
        read = _run(x, cache.state0, borders, *given), gradients, x.shape, tiles
        n_tiles, work = tiles.pieces * tiles.chunks, 2 * x.size
        share(lambda first, last: loop(*read, first, last), n_tiles, work)
        return (
            d_x if needs.x else None,
            d_state0 if needs.state else None,
            d_sums[0] if needs.theta else None,
            d_sums[1:] if needs.params else None,
        )

    def _membranes(self, cache):
        """The states before the reset, ``[K, T, B, N]``, of a run that did not keep them."""
        x, params, dtype, (states, _) = cache.x, cache.params, cache.x.dtype, self._shapes(cache.x)
        charge = self.dynamics.formulas()["charge"].python(dtype)
        state = np.zeros(states, dtype) if cache.state0 is None else cache.state0
        u, base = np.empty((states[0], *x.shape), dtype), cache.twin.base
        for t in range(len(x)):
            charged = charge(*state, x[t], *params)
            u[:, t] = np.stack(charged) if isinstance(charged, tuple) else charged
            now = slice(t, t + 1)
            at_t = base and Base(base.u[now], base.spikes[now], base.theta)
            twin = cache.twin._replace(base=at_t)
            state = self._scan(x[now], state, cache.theta, params, cache.k, twin)[1]
        return u

    def _shapes(self, x):
        """Of states, ``[K, B, N]``, and of those before each span of time but the first."""
        states = self.sizes[0], *x.shape[1:]
        return states, (max(len(x) - 1, 0) // SPAN, *states)

    def _loop(self, dtype: np.dtype, fire: str, held, based, needs: Needs | None) -> Loop:
        """The loop of these dynamics, forward, or the adjoint that computes what it `needs`."""
        key = dtype.char, fire, held, based, needs
        if key not in self._loops:
            used = self.dynamics.formulas()
            if needs is None and fire == "step":  # training's forward does not read the surrogate
                used = {name: used[name] for name in ("charge", "reset")}
            self._loops[key] = _built(tuple(used.items()), self.sizes, *key)
        return self._loops[key]


@cache
def _built(formulas: tuple[tuple[str, Formula], ...], sizes, char: str, *how) -> Loop:
    """One loop for all dynamics that compute the same, as a notebook's cell that ran once more."""
    (fire, held, based, needs), (n_states, n_params) = how, sizes
    f, dtype = dict(formulas), np.dtype(char)
    looks_back = needs is not None and _looks_back(f["charge_adjoint"].depends, n_states, needs)
    mark = *f.values(), sizes, char, *how
    python = {name: formula.python(dtype) for name, formula in f.items()}
    number, known = dtype.type, digest(mark)
    spec = LoopSpec(python, n_states, n_params, number, fire, held, based, looks_back, known)
    return Loop(scan_loop(spec) if needs is None else adjoint_loop(spec, needs), mark)


def _looks_back(depends, n_states: int, needs: Needs) -> bool:
    """Whether any gradient that is needed depends on the states before the step."""
    needed = [*depends[: n_states + needs.x], *(depends[n_states + 1 :] if needs.params else ())]
    return any(n_states <= argument < 2 * n_states for one in needed for argument in one)


@lru_cache
def plan(batch: int, n_lanes: int) -> Tiles:
    """Tiles for B rows of N lanes; from the shapes alone, so that sums do not depend on threads."""
    width = min(n_lanes, LANES)
    pieces = -(-n_lanes // width)
    group = min(max(1, LANES // n_lanes), batch)
    # Each chunk makes a partial sum; some 32 tiles are enough for any machine.
    wanted_chunks = min(16, max(1, 32 // pieces))
    chunk = group * -(-batch // (group * wanted_chunks))
    return Tiles(width, group, chunk, pieces, -(-batch // chunk))


def _run(x, state0, borders, theta, params, k) -> Run:
    before = np.empty(0, x.dtype) if state0 is None else state0
    lane_params, x = np.concatenate([theta, params.ravel()]), x[0] if is_steady(x) else x
    return Run(flat(x), flat(before), flat(borders), flat(lane_params), x.dtype.type(k))


def problem() -> None:
    """Raise what hinders Numba from compiling here."""
    if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        raise ImportError("NUMBA_DISABLE_JIT is set: nothing can be compiled")


kernel = CompiledKernel
