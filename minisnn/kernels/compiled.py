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
        self.n_states = len(dynamics.neuron.state)
        self._loops: dict[tuple, Loop] = {}

    def _scan(self, x, state0, theta, params, k, twin):
        tiles, shape = plan(x.shape), (self.n_states, *x.shape[1:])
        held = self.dynamics.reset.stop if twin.base else ()
        how = x.dtype.char, twin.fire, held, twin.base is not None, None
        loop = self._loops.get(how) or self._build(how)
        spikes = memory.empty(x.shape, np.uint8 if twin.fire == "step" else x.dtype)
        states = memory.empty((tiles.spans, *shape), x.dtype)  # after each span of time
        run = _run(x, state0, states, theta, params, k)
        base = Base(*flat(*twin.base)) if twin.base else Base(run.x, run.x, run.lane_params)
        written = spikes.reshape(-1), states.reshape(-1)
        share(loop, tiles.n, x.size, run, base, *written, x.shape, tiles)
        return spikes, states[-1], {"borders": states[:-1], "membranes": self._membranes}

    def _scan_adjoint(self, d_spikes, d_state_last, cache, needs):
        x, borders, given = cache.x, cache.borders, (cache.theta, cache.params, cache.k)
        dtype, states, tiles = x.dtype, (self.n_states, *x.shape[1:]), plan(x.shape)
        if borders is None:  # another backend made the cache
            borders = self._scan(x, cache.state0, *given, cache.twin)[2]["borders"]
        if borders.shape != (tiles.spans - 1, *states):
            came = f"borders {list(borders.shape)}, expected {[tiles.spans - 1, *states]}"
            raise ValueError(f"cache: {came}: changed since")
        n_sums = 1 + len(cache.params) * needs.params
        how = dtype.char, cache.twin.fire, (), False, Needs(needs.x, needs.theta, n_sums > 1)
        loop = self._loops.get(how) or self._build(how)
        d_x = memory.empty(x.shape if needs.x else (0,), dtype)
        d_state0 = memory.empty(states if needs.state else (0,), dtype)
        d_sums = np.empty((n_sums, tiles.chunks, x.shape[2]), dtype)
        read = flat(d_spikes, np.empty(0, dtype) if d_state_last is None else d_state_last)
        written = d_x.reshape(-1), d_state0.reshape(-1), d_sums.reshape(-1)
        gradients = Gradients(*read, *written)  # type: ignore[call-arg]
        run = _run(x, cache.state0, borders, *given)
        share(loop, tiles.n, 2 * x.size, run, gradients, x.shape, tiles)
        return (
            d_x if needs.x else None,
            d_state0 if needs.state else None,
            d_sums[0] if needs.theta else None,
            d_sums[1:] if needs.params else None,
        )

    def _membranes(self, cache):
        """The states before the reset, ``[K, T, B, N]``, of a run that did not keep them."""
        x, params, dtype = cache.x, cache.params, cache.x.dtype
        states = self.n_states, *x.shape[1:]
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

    def _build(self, how: tuple) -> Loop:
        """The forward loop of these dynamics, or the adjoint that computes what is needed."""
        (_, fire, _, _, needs), used = how, self.dynamics.formulas()
        if needs is None and fire == "step":  # training's forward does not read the surrogate
            used = {name: used[name] for name in ("charge", "reset")}
        sizes = self.n_states, len(self.dynamics.neuron.params)
        self._loops[how] = _built(tuple(used.items()), sizes, *how)
        return self._loops[how]


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
def plan(shape: tuple[int, int, int]) -> Tiles:
    """Tiles of an input ``[T, B, N]``, from the shape alone: sums do not depend on threads."""
    n_steps, batch, n_lanes = shape
    width = min(n_lanes, LANES)
    pieces = -(-n_lanes // width)
    group = min(max(1, LANES // n_lanes), batch)
    # Each chunk makes a partial sum; some 32 tiles are enough for any machine.
    wanted_chunks = min(16, max(1, 32 // pieces))
    chunk = group * -(-batch // (group * wanted_chunks))
    chunks = -(-batch // chunk)
    return Tiles(width, group, chunk, pieces, chunks, pieces * chunks, max(1, -(-n_steps // SPAN)))


def _run(x, state0, borders, theta, params, k) -> Run:
    before = np.empty(0, x.dtype) if state0 is None else state0
    # `Kernel` has let it in: in one piece, or the same memory at every step.
    once = x[0] if x.strides[0] == 0 and len(x) else x
    arrays = flat(once, before, borders, np.concatenate([theta, params.ravel()]))
    return Run(*arrays, x.dtype.type(k))  # type: ignore[call-arg]


def problem() -> None:
    """Raise what hinders Numba from compiling here."""
    if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        raise ImportError("NUMBA_DISABLE_JIT is set: nothing can be compiled")


kernel = CompiledKernel
