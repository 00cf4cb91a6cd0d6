"""The reference: the time loop in NumPy, to be read.  Tests hold the other backends to it."""

from __future__ import annotations

import numpy as np

from ..spikes import FIRES, hold
from .contract import Dynamics, Kernel

__all__ = ["ReferenceKernel", "kernel"]


class ReferenceKernel(Kernel):
    """Time loop and adjoint on arrays of NumPy or CuPy, all lanes of a step at once.

    It keeps every membrane; the adjoint takes them from its cache.  Shapes stand in
    :mod:`minisnn.kernels.contract`.
    """

    def __init__(self, dynamics: Dynamics) -> None:
        super().__init__(dynamics)
        self.neuron, self.reset = dynamics.neuron, dynamics.reset

    def _scan(self, x, state0, theta, params, k, twin):
        f, k = self._formulas(x.dtype), x.dtype.type(k)
        charge, spike = f["charge"], FIRES[twin.fire](f["smooth"], f["slope"])
        reset = hold(f["reset"], self.reset.stop if twin.base else ())
        state = tuple(self._zeros(x) if state0 is None else state0)
        u = np.empty((len(state), *x.shape), x.dtype, like=x)
        spikes = np.empty(x.shape, np.uint8 if twin.fire == "step" else x.dtype, like=x)
        for t in range(len(x)):
            charged = charge(*state, x[t], *params)
            for i, value in enumerate(charged if isinstance(charged, tuple) else (charged,)):
                u[i, t] = value
            membrane, *others = u[:, t]
            base = membrane, 0, theta
            if twin.base:
                base = twin.base.u[t], twin.base.spikes[t], twin.base.theta
            s = spike(membrane, theta, k, *base)
            spikes[t] = s
            state = (reset(membrane, s.astype(x.dtype), theta, *base), *others)
        return spikes, np.stack(state).astype(x.dtype), {"membranes": u}

    def _scan_adjoint(self, d_spikes, d_state_last, cache, needs):
        x, u, spikes, theta, params = cache.x, cache.u, cache.spikes, cache.theta, cache.params
        f, k, n_states = self._formulas(x.dtype), x.dtype.type(cache.k), len(self.neuron.state)
        charge_adjoint, reset_adjoint = f["charge_adjoint"], f["reset_adjoint"]
        reset, slope = f["reset"], f["slope"]
        d_x = np.empty(x.shape, x.dtype, like=x)
        d_theta = np.zeros(x.shape[1:], x.dtype, like=x)
        d_params = np.zeros((len(params), *x.shape[1:]), x.dtype, like=x)
        d_v, *d_others = self._zeros(x) if d_state_last is None else d_state_last
        for t in reversed(range(len(x))):
            membrane, s = u[0, t], spikes[t].astype(x.dtype)
            if t:
                v = reset(u[0, t - 1], spikes[t - 1].astype(x.dtype), theta)
                before = v, *u[1:, t - 1]
            else:
                before = tuple(self._zeros(x) if cache.state0 is None else cache.state0)
            d_u, d_s, d_theta_t = reset_adjoint(d_v, membrane, s, theta)
            g = (d_s + d_spikes[t]) * slope(membrane - theta, k)  # (lif.7)
            adjoints = charge_adjoint(d_u + g, *d_others, *before, x[t], *params)
            d_v, *d_others = adjoints[:n_states]
            d_x[t] = adjoints[n_states]
            d_theta += d_theta_t - g  # (lif.11)
            for total, d_param in zip(d_params, adjoints[n_states + 1 :], strict=True):
                total += d_param
        d_state0 = self._zeros(x)
        for row, value in zip(d_state0, (d_v, *d_others), strict=True):
            row[...] = value
        return (
            d_x if needs.x else None,
            d_state0 if needs.state else None,
            d_theta.sum(axis=0, keepdims=True) if needs.theta else None,
            d_params.sum(axis=1, keepdims=True) if needs.params else None,
        )

    def _formulas(self, dtype):
        return {n: formula.python(dtype) for n, formula in self.dynamics.formulas().items()}

    def _zeros(self, x):
        """A state that was not given, or the gradient of one: ``[K, B, N]``."""
        return np.zeros((len(self.neuron.state), *x.shape[1:]), x.dtype, like=x)


kernel = ReferenceKernel
