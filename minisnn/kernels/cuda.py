"""The loop on a GPU: CUDA text that ``cupyx.jit`` makes of floor 0 and of the two loops below.

**Lanes.**  One thread a lane, time inside the thread.  Neighbouring threads are neighbouring lanes of ``[T, B, N]``, so that
a group of threads reads and writes whole lines of memory.  State stays in registers; every array passes through once.

**Sums.**  Each thread writes the threshold's gradient of its own lane: P = B partial sums, no atomics, the same bits always.

**Text.**  :func:`scan_text` and :func:`adjoint_text` need CuPy but no card.  It is compiled without fused multiply-adds, so
that a step is rounded as by the other backends; the loops wait for memory, not for arithmetic.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np

from ..neurons import Neuron
from .contract import FIRES, Array, Base, Dynamics, ScanCache, Wanted, hold, over_current
from .device import problem
from .narrow import fingerprint
from .source import source_of, spelled_out

__all__ = ["OPTIONS", "CudaKernel", "Text", "adjoint_text", "kernel", "problem", "scan_text"]

THREADS = 256  #: in a block
#: For NVRTC, besides the folders of its headers.
OPTIONS = ("--std=c++17", "-DCUPY_JIT_MODE", "-DCUB_DISABLE_BF16_SUPPORT", "--fmad=false")


class Text(NamedTuple):
    """CUDA text, and the name of the kernel in it."""

    name: str
    code: str


class CudaKernel:
    """Time loop and adjoint on CuPy arrays.  See :mod:`minisnn.kernels.contract`."""

    def __init__(self, dynamics: Dynamics) -> None:
        self.dynamics = dynamics
        neuron, reset, surrogate = dynamics
        for f in (neuron.charge, neuron.charge_adjoint, reset.reset, reset.reset_adjoint, surrogate.smooth, surrogate.slope):
            source_of(f)  # one that has none is refused now, not in the middle of a run

    def scan(
        self, x: Array, state0: Array, theta: Array, params: Array, k: float,
        fire: str = "step", base: Base | None = None, consume: bool = False,
    ) -> tuple[Array, Array, ScanCache]:  # fmt: skip
        neuron, xp = self.dynamics.neuron, self._arrays()
        lanes, dtype = x.shape[1:], x.dtype
        held = self.dynamics.reset.stop if base else ()
        self._check(dtype, x=(x, x.shape), state0=(state0, (len(neuron.state), *lanes)), theta=(theta, lanes[1:]),
                    params=(params, (len(neuron.params), *lanes[1:])))  # fmt: skip
        u0, s0, theta0 = (base.u, base.spikes.astype(dtype, copy=False), base.theta) if base else (x, x, theta)
        self._check(dtype, base_u=(u0, x.shape), base_spikes=(s0, x.shape), base_theta=(theta0, lanes[1:]))

        u = x[None] if consume and over_current(neuron) else xp.empty((len(state0), *x.shape), dtype)
        spikes = xp.empty(x.shape, np.uint8 if fire == "step" else dtype)
        state_last = xp.empty_like(state0) if x.size else state0.copy()
        if x.size:
            text = scan_text(self.dynamics, dtype, fire, held, based=base is not None)
            self._launch(text, x.shape, x, state0, theta, params, dtype.type(k), u0, s0, theta0, u, spikes, state_last)
        return spikes, state_last, ScanCache(x, u, spikes, state0, theta, params, k)

    def scan_adjoint(
        self, d_spikes: Array, d_state_last: Array, cache: ScanCache, wanted: Wanted = Wanted(), consume: bool = False
    ) -> tuple[Array | None, Array, Array | None, Array | None]:
        x, u, spikes, state0, theta, params, k = cache
        wanted = wanted._replace(params=wanted.params and len(params) > 0)
        dtype, (n_rows, n_lanes), xp = x.dtype, x.shape[1:], self._arrays()
        self._check(dtype, d_spikes=(d_spikes, x.shape), d_state_last=(d_state_last, state0.shape))

        d_state0 = xp.empty_like(state0) if x.size else d_state_last.copy()
        # What is not wanted takes no memory: nothing touches it, any address will do.
        d_x = (d_spikes if consume else xp.empty_like(x)) if wanted.x else d_state0
        d_theta = xp.zeros((n_rows, n_lanes), dtype) if wanted.theta else d_state0
        d_params = xp.zeros((len(params), n_rows, n_lanes), dtype) if wanted.params or not len(params) else d_state0
        if x.size:
            text = adjoint_text(self.dynamics, dtype, spikes.dtype != np.uint8, wanted)
            self._launch(text, x.shape, d_spikes, d_state_last, x, u, spikes, state0, theta, params, dtype.type(k),
                         d_x, d_state0, d_theta, d_params)  # fmt: skip
        return (
            d_x if wanted.x else None,
            d_state0,
            d_theta if wanted.theta else None,
            d_params if wanted.params or not len(params) else None,
        )

    def _arrays(self) -> Any:
        import cupy

        return cupy

    def _check(self, dtype: np.dtype, **arrays: tuple[Array, tuple[int, ...]]) -> None:
        """A kernel sees addresses alone; whatever else arrays have to be is looked at here."""
        kind = self._arrays().ndarray
        for name, (array, shape) in arrays.items():
            if not isinstance(array, kind):
                raise TypeError(f"backend 'cupy': {name} is a {type(array).__module__}.{type(array).__name__}, expected an "
                                "array on the GPU (cupy.asarray); layers do not move arrays there yet")  # fmt: skip
            if array.dtype != dtype or array.shape != shape or not array.flags.c_contiguous:
                raise ValueError(f"backend 'cupy': {name} is {array.dtype} of shape {array.shape}, "
                                 f"expected {dtype} of shape {shape}, C-contiguous")  # fmt: skip

    def _launch(self, text: Text, shape: tuple[int, int, int], *arguments: Any) -> None:
        """One thread a lane."""
        sizes = (np.uint32(n) for n in shape)
        self._run(text, -(-shape[1] * shape[2] // THREADS), THREADS, (*arguments, *sizes))

    def _run(self, text: Text, blocks: int, threads: int, arguments: tuple[Any, ...]) -> None:
        _compiled(text)((blocks,), (threads,), arguments)


kernel = CudaKernel


@lru_cache(maxsize=512)
def _compiled(text: Text) -> Any:
    import cupy

    return cupy.RawModule(code=text.code, options=OPTIONS).get_function(text.name)


# -- the text: once for each thing computed, dtype and wish


def scan_text(dynamics: Dynamics, dtype: Any, fire: str = "step", held: tuple[str, ...] = (), based: bool = False) -> Text:
    """The CUDA text of the time loop of these dynamics.

    Parameters
    ----------
    dynamics : neuron, reset and surrogate.
    dtype : of all numbers.
    fire : a key of ``FIRES``.
    held : arguments of the reset that keep the values of a base run.
    based : whether there is a base run.
    """
    neuron, reset, surrogate = dynamics
    used = {"charge": neuron.charge, "reset": reset.reset, "smooth": surrogate.smooth, "slope": surrogate.slope}
    number = np.dtype(dtype).type
    return _text("scan", used, neuron, number, np.uint8 if fire == "step" else number, fire, held, based)


def adjoint_text(dynamics: Dynamics, dtype: Any, soft_spikes: bool = False, wanted: Wanted = Wanted()) -> Text:
    """The CUDA text of the adjoint of that loop; `soft_spikes`: they are stored in the net's dtype, not as bytes."""
    neuron, reset, surrogate = dynamics
    wanted = wanted._replace(params=wanted.params and len(neuron.params) > 0)
    used = {"charge_adjoint": neuron.charge_adjoint, "reset": reset.reset, "reset_adjoint": reset.reset_adjoint}
    used |= {"slope": surrogate.slope}
    number = np.dtype(dtype).type
    return _text("adjoint", used, neuron, number, number if soft_spikes else np.uint8, wanted)


_texts: dict[tuple, Text] = {}


def _text(name: str, used: dict[str, Callable], neuron: Neuron, number: type, stored: type, *wishes: Any) -> Text:
    key = (name, tuple(fingerprint(f) for f in used.values()), neuron.state, neuron.params, number, stored, wishes)
    if key not in _texts:
        import cupy

        copies = {n: _on_device(spelled_out(f, np.dtype(number), np=cupy)) for n, f in used.items()}
        build, types = _LOOPS[name]
        loop = build(copies, number, stored, len(neuron.state), len(neuron.params), *wishes)
        _texts[key] = _transpiled(spelled_out(loop, jit=_jit()), types, number, stored)
    return _texts[key]


@cache
def _jit() -> Any:
    from cupyx import jit

    return jit


def _on_device(function: Callable) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # cupyx.jit calls itself experimental
        return _jit().rawkernel(device=True)(function)


def _transpiled(loop: Callable, types: str, number: type, stored: type) -> Text:
    """What ``cupyx.jit`` makes of a loop: it is the same for every card, hence can be had without one."""
    from cupyx.jit import _compile, _cuda_types

    real, spike = _cuda_types.Scalar(number), _cuda_types.Scalar(stored)
    kinds = {"r": real, "R": _cuda_types.Ptr(real), "S": _cuda_types.Ptr(spike), "n": _cuda_types.uint32}
    made = _compile.transpile(loop, ['extern "C"', "__global__"], "cuda", [kinds[t] for t in types], _cuda_types.void)
    return Text(made.func_name, "#include <cupy/carray.cuh>\n" + made.code)


# -- the loops.  `spelled_out` writes out what is done for each state and parameter, and leaves out what is not wanted


def _scan_loop(
    f: dict[str, Any],
    number: type,
    stored: type,
    n_states: int,
    n_params: int,
    fire: str,
    held: tuple[str, ...],
    based: bool,
) -> Callable:
    charge = f["charge"]
    spike = _on_device(spelled_out(FIRES[fire](f["smooth"], f["slope"])))
    reset = _on_device(spelled_out(hold(f["reset"], held)))
    jit: Any = None  # the copy's is cupyx.jit

    def scan(x, state0, theta, params, k, u0, s0, theta0, u, spikes, state_last, n_steps, n_rows, n_lanes):
        lanes = np.int64(n_rows) * n_lanes  # indices take 64 bits: T * B * N goes beyond 2**31
        lane = np.int64(jit.blockIdx.x) * jit.blockDim.x + jit.threadIdx.x
        if lane >= lanes:
            return
        size = n_steps * lanes
        n = lane % n_lanes
        th = theta[n]
        p = (*(params[i * np.int64(n_lanes) + n] for i in range(n_params)),)
        v = (*(state0[i * lanes + lane] for i in range(n_states)),)
        for t in range(n_steps):
            at = t * lanes + lane
            if n_states == 1:
                v = (charge(v[0], x[at], *(p[i] for i in range(n_params))),)
            else:
                v = charge(*(v[i] for i in range(n_states)), x[at], *(p[i] for i in range(n_params)))
            for i in range(n_states):
                u[i * size + at] = v[i]
            base = (u0[at], s0[at], theta0[n]) if based else (v[0], v[0], th)  # nothing looks at the second
            s = number(spike(v[0], th, k, *(base[i] for i in range(3))))
            spikes[at] = stored(s)
            v = (reset(v[0], s, th, *(base[i] for i in range(3))), *(v[i] for i in range(1, n_states)))
        for i in range(n_states):
            state_last[i * lanes + lane] = v[i]

    return scan


def _adjoint_loop(f: dict[str, Any], number: type, stored: type, n_states: int, n_params: int, wanted: Wanted) -> Callable:
    charge_adjoint, reset, reset_adjoint, slope = f["charge_adjoint"], f["reset"], f["reset_adjoint"], f["slope"]
    want_x, want_theta, want_params = wanted
    jit: Any = None

    def adjoint(d_spikes, d_state_last, x, u, spikes, state0, theta, params, k, d_x, d_state0, d_theta, d_params,
                n_steps, n_rows, n_lanes):  # fmt: skip
        lanes = np.int64(n_rows) * n_lanes
        lane = np.int64(jit.blockIdx.x) * jit.blockDim.x + jit.threadIdx.x
        if lane >= lanes:
            return
        size = n_steps * lanes
        n = lane % n_lanes
        th = theta[n]
        p = (*(params[i * np.int64(n_lanes) + n] for i in range(n_params)),)
        d_v = (*(d_state_last[i * lanes + lane] for i in range(n_states)),)
        d_th = number(0)
        d_p = (*(d_th for i in range(n_params)),)
        charged = (*(u[i * size + size - lanes + lane] for i in range(n_states)),)
        s = number(spikes[size - lanes + lane])
        for back in range(n_steps):
            at = (n_steps - 1 - back) * lanes + lane
            d_u, d_s, d_theta_t = reset_adjoint(d_v[0], charged[0], s, th)
            g = (d_s + d_spikes[at]) * slope(charged[0] - th, k)  # (lif.7)
            if back + 1 < n_steps:  # the step before: what the reset left of it, and its membrane for the next round
                charged = (*(u[i * size + at - lanes] for i in range(n_states)),)
                s = number(spikes[at - lanes])
                before = (reset(charged[0], s, th), *(charged[i] for i in range(1, n_states)))
            else:
                before = (*(state0[i * lanes + lane] for i in range(n_states)),)
            adjoints = charge_adjoint(
                d_u + g, *(d_v[i] for i in range(1, n_states)), *(before[i] for i in range(n_states)), x[at],
                *(p[i] for i in range(n_params)),
            )  # fmt: skip
            d_v = (*(adjoints[i] for i in range(n_states)),)
            if want_x:
                d_x[at] = adjoints[n_states]
            if want_theta:
                d_th = d_th + (d_theta_t - g)  # (lif.11)
            if want_params:
                d_p = (*(d_p[i] + adjoints[n_states + 1 + i] for i in range(n_params)),)
        for i in range(n_states):
            d_state0[i * lanes + lane] = d_v[i]
        if want_theta:
            d_theta[lane] = d_th
        if want_params:
            for i in range(n_params):
                d_params[i * lanes + lane] = d_p[i]

    return adjoint


#: Name -> how the loop is built; its arguments: arrays of reals (R) and stored spikes (S), a real (r), sizes (n).
_LOOPS: dict[str, tuple[Callable, str]] = {
    "scan": (_scan_loop, "RRRRrRRRRSRnnn"),
    "adjoint": (_adjoint_loop, "RRRRSRRRrRRRRnnn"),
}
