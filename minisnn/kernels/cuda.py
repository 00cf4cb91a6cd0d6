"""The loop on a GPU: CUDA text that ``cupyx.jit`` makes of floor 0 (:mod:`minisnn.kernels.cuda_text`), on CuPy arrays.

**Lanes.**  One thread a lane, time inside the thread.  Neighbouring threads are neighbouring lanes of ``[T, B, N]``, so that
a group of threads reads and writes whole lines of memory.  State stays in registers; every array passes through once.

**Sums.**  Each thread writes the threshold's gradient of its own lane: P = B partial sums, no atomics, the same bits always.

**Rounding.**  The text is compiled without fused multiply-adds, so that a step is rounded as elsewhere; the loops wait
for memory, not for arithmetic.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from .contract import Array, Base, Dynamics, ScanCache, Wanted, base_of, membranes
from .cuda_text import Text, adjoint_text, scan_text
from .device import problem
from .source import source_of

__all__ = ["OPTIONS", "CudaKernel", "kernel", "problem"]

THREADS = 256  #: in a block
#: For NVRTC, besides the folders of its headers.
OPTIONS = ("--std=c++17", "-DCUPY_JIT_MODE", "-DCUB_DISABLE_BF16_SUPPORT", "--fmad=false")


class CudaKernel:
    """Time loop and adjoint on CuPy arrays.  See :mod:`minisnn.kernels.contract`."""

    def __init__(self, dynamics: Dynamics) -> None:
        self.dynamics = dynamics
        neuron, reset, surrogate = dynamics
        for f in (neuron.charge, neuron.charge_adjoint, reset.reset, reset.reset_adjoint, surrogate.smooth, surrogate.slope):
            source_of(f)  # one that has none is refused now, not in the middle of a run

    def scan(
        self, x: Array, state0: Array | None, theta: Array, params: Array, k: float,
        fire: str = "step", base: Base | None = None, consume: bool = False, last: bool = True,
    ) -> tuple[Array, Array | None, ScanCache]:  # fmt: skip
        neuron, xp = self.dynamics.neuron, self._arrays()
        lanes, dtype = x.shape[1:], x.dtype
        states, held = (len(neuron.state), *lanes), self.dynamics.reset.stop if base else ()
        self._check(dtype, x=(x, x.shape), state0=(state0, states), theta=(theta, lanes[1:]),
                    params=(params, (len(neuron.params), *lanes[1:])))  # fmt: skip
        base = base_of(base, fire, dtype)
        u0, s0, theta0 = base or (x, x, theta)
        self._check(dtype, base_u=(u0, x.shape), base_spikes=(s0, x.shape), base_theta=(theta0, lanes[1:]))

        u = membranes(x, neuron, dtype, consume)
        spikes = xp.empty(x.shape, np.uint8 if fire == "step" else dtype)
        state_last = xp.empty(states, dtype) if last else None
        if x.size:
            text = scan_text(self.dynamics, dtype, fire, held, base is not None, state0 is not None, last)
            self._launch(text, x.shape, x, state0, theta, params, dtype.type(k), u0, s0, theta0, u, spikes, state_last)
        elif state_last is not None:
            state_last[...] = 0 if state0 is None else state0
        return spikes, state_last, ScanCache(x, u, spikes, state0, theta, params, k)

    def scan_adjoint(
        self, d_spikes: Array, d_state_last: Array | None, cache: ScanCache, wanted: Wanted = Wanted(), consume: bool = False
    ) -> tuple[Array | None, Array | None, Array | None, Array | None]:
        x, u, spikes, state0, theta, params, k = cache
        asked, wanted = wanted, wanted._replace(params=wanted.params and len(params) > 0)
        dtype, lanes, xp = x.dtype, x.shape[1:], self._arrays()
        self._check(dtype, d_spikes=(d_spikes, x.shape), d_state_last=(d_state_last, (len(u), *lanes)))

        d_x = (d_spikes if consume else xp.empty_like(x)) if wanted.x else None
        d_state0 = xp.empty((len(u), *lanes), dtype) if wanted.state else None
        sums = xp.empty if x.size else xp.zeros
        d_theta = sums(lanes, dtype) if wanted.theta else None
        d_params = sums((len(params), *lanes), dtype) if asked.params else None
        if x.size:
            soft, given = spikes.dtype != np.uint8, (state0 is not None, d_state_last is not None)
            text = adjoint_text(self.dynamics, dtype, soft, wanted, *given)
            self._launch(text, x.shape, d_spikes, d_state_last, x, u, spikes, state0, theta, params, dtype.type(k),
                         d_x, d_state0, d_theta, d_params)  # fmt: skip
        elif d_state0 is not None:
            d_state0[...] = 0 if d_state_last is None else d_state_last
        return d_x, d_state0, d_theta, d_params

    def _arrays(self) -> Any:
        import cupy

        return cupy

    def _check(self, dtype: np.dtype, **arrays: tuple[Array | None, tuple[int, ...]]) -> None:
        """A kernel sees addresses alone; whatever else arrays have to be is looked at here."""
        kind = self._arrays().ndarray
        for name, (array, shape) in arrays.items():
            if array is None:
                continue
            if not isinstance(array, kind):
                raise TypeError(f"backend 'cupy': {name} is a {type(array).__module__}.{type(array).__name__}, expected an "
                                "array on the GPU (cupy.asarray)")  # fmt: skip
            if array.dtype != dtype or array.shape != shape or not array.flags.c_contiguous:
                raise ValueError(f"backend 'cupy': {name} is {array.dtype} of shape {array.shape}, "
                                 f"expected {dtype} of shape {shape}, C-contiguous")  # fmt: skip

    def _launch(self, text: Text, shape: tuple[int, int, int], *arguments: Any) -> None:
        """One thread a lane.  In place of an array that there is not any will do: nothing touches it."""
        sizes = (np.uint32(n) for n in shape)
        arguments = tuple(arguments[0] if a is None else a for a in arguments)
        self._run(text, -(-shape[1] * shape[2] // THREADS), THREADS, (*arguments, *sizes))

    def _run(self, text: Text, blocks: int, threads: int, arguments: tuple[Any, ...]) -> None:
        _compiled(text)((blocks,), (threads,), arguments)


kernel = CudaKernel


@lru_cache(maxsize=512)
def _compiled(text: Text) -> Any:
    import cupy

    return cupy.RawModule(code=text.code, options=OPTIONS).get_function(text.name)
