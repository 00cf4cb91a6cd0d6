"""The loop on a GPU: one CUDA C++ text for scan and adjoint, with the formulas' C printed into it.

**Lanes.**  One thread a lane, time inside the thread.  Neighbouring threads are neighbouring lanes
of ``[T, B, N]``, so that a group of threads reads and writes whole lines of memory.  State stays in
registers; every array passes through once.

**Sums.**  Each thread writes the threshold's gradient of its own lane: P = B partial sums, no
atomics, the same bits always.

**Rounding.**  NVRTC compiles the text without fused multiply-adds, so that a step rounds as
elsewhere; the loops wait for memory, not for arithmetic.  An array that is not given, or a gradient
that is not needed, is a null pointer.
"""

from __future__ import annotations

from functools import lru_cache
from string import Template
from typing import Any

import numpy as np

from .. import spikes
from ..formula import trace
from .arrays import Array, is_steady
from .contract import Dynamics, Kernel, Twin
from .gpu_info import problem

__all__ = ["OPTIONS", "CudaKernel", "cuda_text", "kernel", "problem"]

THREADS = 256  #: in a block
OPTIONS = ("--std=c++17", "--fmad=false")  #: for NVRTC

TEXT = Template(r"""
typedef $real real;
typedef $stored stored;  // spikes in memory
typedef long long Index;  // T * B * N goes beyond 2**31
constexpr int K = $n_states, Q = $n_params, Q1 = Q ? Q : 1;  // C++ has no array of length 0

// as NumPy's: NaN stays NaN
__device__ inline real maximum(real a, real b) { return a >= b || a != a ? a : b; }
__device__ inline real minimum(real a, real b) { return a <= b || a != a ? a : b; }

$formulas

template <int n> __device__ inline void load(real* to, const real* from, Index at, Index pitch) {
    #pragma unroll
    for (int i = 0; i < n; ++i) to[i] = from ? from[at + i * pitch] : 0;
}
template <int n> __device__ inline void store(real* to, const real* from, Index at, Index pitch) {
    #pragma unroll
    for (int i = 0; i < n; ++i) if (to) to[at + i * pitch] = from[i];
}

extern "C" __global__ void scan(
    const real* x, const real* state0, const real* theta, const real* params, real k,
    const real* base_u, const real* base_s, const real* base_theta,
    real* u, stored* spikes, real* state_last,
    Index n_steps, Index lanes, Index n_lanes, Index x_pitch
) {
    const Index lane = (Index)blockIdx.x * blockDim.x + threadIdx.x, n = lane % n_lanes;
    if (lane >= lanes) return;
    const real th = theta[n], th0 = base_theta ? base_theta[n] : th;
    real v[K], p[Q1], s;
    load<K>(v, state0, lane, lanes);
    load<Q>(p, params, n, n_lanes);
    for (Index t = 0; t < n_steps; ++t) {
        const Index at = t * lanes + lane;
        const real x_t = x[t * x_pitch + lane];
        $charge
        store<K>(u, v, at, n_steps * lanes);
        const real u0 = base_u ? base_u[at] : v[0], s0 = base_s ? base_s[at] : 0;
        fire(v[0], th, k, u0, s0, th0, s);
        spikes[at] = s;
        held_reset(v[0], s, th, u0, base_s ? s0 : s, th0, v[0]);
    }
    store<K>(state_last, v, lane, lanes);
}

extern "C" __global__ void adjoint(
    const real* d_spikes, const real* d_state_last,
    const real* x, const real* u, const stored* spikes, const real* state0,
    const real* theta, const real* params, real k,
    real* d_x, real* d_state0, real* d_theta, real* d_params,
    Index n_steps, Index lanes, Index n_lanes, Index x_pitch
) {
    const Index lane = (Index)blockIdx.x * blockDim.x + threadIdx.x, n = lane % n_lanes;
    const Index size = n_steps * lanes;
    if (lane >= lanes) return;
    const real th = theta[n];
    real p[Q1], d_p[Q1] = {0}, d_p_t[Q1], d_v[K], charged[K], before[K];
    real d_th = 0, d_x_t, d_u, d_s, d_theta_t, psi, s = 0;
    load<Q>(p, params, n, n_lanes);
    load<K>(d_v, d_state_last, lane, lanes);
    if (n_steps) {
        load<K>(charged, u, size - lanes + lane, size);
        s = spikes[size - lanes + lane];
    }
    for (Index t = n_steps - 1; t >= 0; --t) {
        const Index at = t * lanes + lane;
        const real x_t = x[t * x_pitch + lane];
        reset_adjoint(d_v[0], charged[0], s, th, d_u, d_s, d_theta_t);
        slope(charged[0] - th, k, psi);
        const real g = (d_s + d_spikes[at]) * psi;  // (lif.7)
        if (t) {  // what the reset left of the step before, and its states for the next round
            load<K>(before, u, at - lanes, size);
            charged[0] = before[0];
            s = spikes[at - lanes];
            reset(charged[0], s, th, before[0]);
        } else {
            load<K>(before, state0, lane, lanes);
        }
        $charge_adjoint
        store<1>(d_x, &d_x_t, at, 0);
        d_th += d_theta_t - g;  // (lif.11)
        #pragma unroll
        for (int i = 0; i < Q; ++i) d_p[i] += d_p_t[i];
    }
    store<K>(d_state0, d_v, lane, lanes);
    store<1>(d_theta, &d_th, lane, 0);
    store<Q>(d_params, d_p, lane, lanes);
}
""")


@lru_cache(maxsize=512)
def cuda_text(dynamics: Dynamics, dtype: Any, fire: str = "step") -> str:
    """The CUDA C++ of these dynamics: kernels ``scan`` and ``adjoint``.

    Parameters
    ----------
    dtype : of all numbers, float32 or float64.
    fire : a key of ``FIRES``.  Spikes are stored as bytes for "step", else as numbers.
    """
    formulas = dynamics.formulas()
    python = {name: formula.python("float64") for name, formula in formulas.items()}
    fires = spikes.FIRES[fire](python["smooth"], python["slope"])

    def spike(u, theta, k, u0, s0, theta0):
        return 1.0 * fires(u, theta, k, u0, s0, theta0)

    held_reset = spikes.hold(python["reset"], dynamics.reset.stop)
    formulas |= {"fire": trace(spike, fire, 6, 1), "held_reset": trace(held_reset, "reset", 6, 1)}
    real = {"f": "float", "d": "double"}[np.dtype(dtype).char]
    n_states, n_params = len(dynamics.neuron.state), len(dynamics.neuron.params)
    v, d_v, before = ([f"{name}[{i}]" for i in range(n_states)] for name in ("v", "d_v", "before"))
    p, d_p = ([f"{name}[{i}]" for i in range(n_params)] for name in ("p", "d_p_t"))
    back = "d_u + g", *d_v[1:], *before, "x_t", *p, *d_v, "d_x_t", *d_p
    return TEXT.substitute(
        real=real,
        stored="unsigned char" if fire == "step" else real,
        n_states=n_states,
        n_params=n_params,
        formulas="\n\n".join(formula.c(name) for name, formula in formulas.items()),
        charge=f"charge({', '.join([*v, 'x_t', *p, *v])});",
        charge_adjoint=f"charge_adjoint({', '.join(back)});",
    )


class CudaKernel(Kernel):
    """Time loop and adjoint on CuPy arrays.  See :mod:`minisnn.kernels.contract`."""

    def _scan(self, x, state0, theta, params, k, twin):
        self._check_place(x)
        xp, dtype, n_states = self._arrays(), x.dtype, len(self.dynamics.neuron.state)
        u = xp.empty((n_states, *x.shape), dtype)
        spikes = xp.empty(x.shape, np.uint8 if twin.fire == "step" else dtype)
        state_last = xp.empty((n_states, *x.shape[1:]), dtype)
        read = x, state0, theta, params, dtype.type(k), *(twin.base or [None] * 3)
        self._launch("scan", twin, x, *read, u, spikes, state_last)
        return spikes, state_last, {"membranes": u}

    def _scan_adjoint(self, d_spikes, d_state_last, cache, needs):
        self._check_place(d_spikes)
        x, u, dtype, xp = cache.x, cache.u, cache.x.dtype, self._arrays()
        states = len(self.dynamics.neuron.state), *x.shape[1:]
        if (u.dtype, u.shape) != (dtype, (states[0], *x.shape)) or not u.flags.c_contiguous:
            raise ValueError(f"cache: its membranes are not those of {dtype} {list(x.shape)}")
        d_x = xp.empty(x.shape, dtype) if needs.x else None
        d_state0 = xp.empty(states, dtype) if needs.state else None
        d_theta = xp.empty(x.shape[1:], dtype) if needs.theta else None
        d_params = xp.empty((len(cache.params), *x.shape[1:]), dtype) if needs.params else None
        read = d_spikes, d_state_last, x, u, cache.spikes, cache.state0, cache.theta, cache.params
        written = d_x, d_state0, d_theta, d_params
        self._launch("adjoint", cache.twin, x, *read, dtype.type(cache.k), *written)
        return written

    def _arrays(self) -> Any:
        import cupy

        return cupy

    def _check_place(self, x: Array) -> None:
        if not isinstance(x, self._arrays().ndarray):
            kind = f"{type(x).__module__}.{type(x).__name__}"
            expected = "expected an array on the GPU (cupy.asarray)"
            raise TypeError(f"backend 'cupy': got a {kind}, {expected}")

    def _launch(self, name: str, twin: Twin, x: Array, *arguments: Any) -> None:
        """One thread a lane."""
        n_steps, lanes, n_lanes = len(x), x.shape[1] * x.shape[2], x.shape[2]
        sizes = map(np.int64, (n_steps, lanes, n_lanes, 0 if is_steady(x) else lanes))
        given = (np.int64(0) if a is None else a for a in arguments)  # a null pointer
        if lanes:
            text = cuda_text(self.dynamics, x.dtype, twin.fire)
            self._run(text, name, -(-lanes // THREADS), (*given, *sizes))

    def _run(self, text: str, name: str, blocks: int, arguments: tuple[Any, ...]) -> None:
        _compiled(text).get_function(name)((blocks,), (THREADS,), arguments)


@lru_cache(maxsize=512)
def _compiled(text: str) -> Any:
    import cupy

    return cupy.RawModule(code=text, options=OPTIONS)


kernel = CudaKernel
