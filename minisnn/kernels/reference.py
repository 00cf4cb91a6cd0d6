"""The reference: the time loop in NumPy, written to be read.  The other backends are held to it by tests."""

from __future__ import annotations

import numpy as np

from ..neurons import Neuron
from .contract import FIRES, Array, Base, Dynamics, ScanCache, Wanted, base_of, hold, membranes
from .narrow import for_numpy
from .place import writeable

__all__ = ["ReferenceKernel", "kernel"]


class ReferenceKernel:
    """Time loop and adjoint on arrays of NumPy or CuPy, all lanes of a step at once: see :mod:`minisnn.kernels.contract`."""

    def __init__(self, dynamics: Dynamics) -> None:
        self.neuron, self.reset, self.surrogate = dynamics

    def scan(
        self, x: Array, state0: Array | None, theta: Array, params: Array, k: float,
        fire: str = "step", base: Base | None = None, consume: bool = False, last: bool = True,
    ) -> tuple[Array, Array | None, ScanCache]:  # fmt: skip
        given = state0
        state0 = zeros(self.neuron, x) if given is None else given
        dtype = np.result_type(x, state0, theta, params)  # complex where a check takes a complex step
        charge, reset = for_numpy(self.neuron.charge, dtype), for_numpy(self.reset.reset, dtype)
        spike = FIRES[fire](for_numpy(self.surrogate.smooth, dtype), for_numpy(self.surrogate.slope, dtype))
        base = base_of(base, fire, dtype)
        held_reset = hold(reset, self.reset.stop if base else ())
        k = x.real.dtype.type(k)

        u = membranes(x, self.neuron, dtype, consume)
        spikes = np.empty(x.shape, np.uint8 if fire == "step" else dtype, like=x)
        state = tuple(state0)
        for t in range(len(x)):
            charged = charge(*state, x[t], *params)
            for row, value in zip(u[:, t], charged if isinstance(charged, tuple) else (charged,), strict=True):
                row[...] = value
            membrane, *others = u[:, t]
            base_u, base_s, base_theta = (base.u[t], base.spikes[t], base.theta) if base else (membrane, 0, theta)
            s = spike(membrane, theta, k, base_u, base_s, base_theta)
            spikes[t] = s
            s = s.astype(dtype)
            state = (held_reset(membrane, s, theta, base_u, base_s, base_theta), *others)
        return spikes, np.stack(state).astype(dtype) if last else None, ScanCache(x, u, spikes, given, theta, params, k)

    def scan_adjoint(
        self, d_spikes: Array, d_state_last: Array | None, cache: ScanCache, wanted: Wanted = Wanted(), consume: bool = False
    ) -> tuple[Array | None, Array | None, Array | None, Array | None]:
        x, u, spikes, state0, theta, params, k = cache
        state0 = zeros(self.neuron, x) if state0 is None else state0
        dtype, n_states, k = x.dtype, len(state0), x.dtype.type(k)
        charge_adjoint = for_numpy(self.neuron.charge_adjoint, dtype)
        reset, reset_adjoint = for_numpy(self.reset.reset, dtype), for_numpy(self.reset.reset_adjoint, dtype)
        slope = for_numpy(self.surrogate.slope, dtype)

        d_x = d_spikes if consume and writeable(d_spikes) else np.empty_like(x)
        d_theta = np.zeros(x.shape[1:], dtype, like=x)
        d_params = np.zeros((len(params), *x.shape[1:]), dtype, like=x)
        d_v, *d_others = zeros(self.neuron, x) if d_state_last is None else d_state_last
        for t in reversed(range(len(x))):
            membrane, s = u[0, t], spikes[t].astype(dtype)
            if t:
                before = (reset(u[0, t - 1], spikes[t - 1].astype(dtype), theta), *u[1:, t - 1])
            else:
                before = tuple(state0)
            d_u, d_s, d_theta_t = reset_adjoint(d_v, membrane, s, theta)
            g = (d_s + d_spikes[t]) * slope(membrane - theta, k)  # (lif.7)
            adjoints = charge_adjoint(d_u + g, *d_others, *before, x[t], *params)
            d_v, *d_others = adjoints[:n_states]
            d_x[t] = adjoints[n_states]
            d_theta += d_theta_t - g  # (lif.11)
            for total, d_param in zip(d_params, adjoints[n_states + 1 :], strict=True):
                total += d_param

        d_state0 = np.empty_like(state0)
        for row, value in zip(d_state0, (d_v, *d_others), strict=True):
            row[...] = value
        return (
            d_x if wanted.x else None,
            d_state0 if wanted.state else None,
            d_theta.sum(axis=0, keepdims=True) if wanted.theta else None,
            d_params.sum(axis=1, keepdims=True) if wanted.params else None,
        )


def zeros(neuron: Neuron, x: Array) -> Array:
    """A state, or the gradient of one, that nobody gave: ``[K, B, N]``."""
    return np.zeros((len(neuron.state), *x.shape[1:]), x.dtype, like=x)


kernel = ReferenceKernel
