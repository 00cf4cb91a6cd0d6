"""The reference: the time loop in NumPy, written to be read.  The other backends are held to it by tests."""

from __future__ import annotations

import numpy as np

from ..neurons import Neuron
from ..spikes import FIRES, hold
from .arrays import Array
from .contract import (
    ALL,
    HARD,
    Dynamics,
    Needs,
    ScanCache,
    Twin,
    base_of,
    check_adjoint_arrays,
    check_scan_arrays,
)

__all__ = ["ReferenceKernel", "kernel"]


class ReferenceKernel:
    """Time loop and adjoint on arrays of NumPy or CuPy, all lanes of a step at once: see :mod:`minisnn.kernels.contract`.

    It keeps every membrane, to be read; the adjoint takes them from its cache.
    """

    def __init__(self, dynamics: Dynamics) -> None:
        self.dynamics = dynamics
        self.neuron, self.reset = dynamics.neuron, dynamics.reset

    def scan(
        self, x: Array, state0: Array | None, theta: Array, params: Array, k: float, twin: Twin = HARD
    ) -> tuple[Array, Array, ScanCache]:
        given = state0
        state0 = zeros(self.neuron, x) if given is None else given
        dtype = np.result_type(x, state0, theta, params)  # complex where a check takes a complex step
        f = {name: formula.python(dtype) for name, formula in self.dynamics.formulas().items()}
        charge, reset, spike = f["charge"], f["reset"], FIRES[twin.fire](f["smooth"], f["slope"])
        base = base_of(twin, dtype)
        if dtype.kind != "c":
            check_scan_arrays(self.dynamics, x, given, theta, params, base)
        held_reset = hold(reset, self.reset.stop if base else ())
        k = x.real.dtype.type(k)

        u = np.empty((len(state0), *x.shape), dtype, like=x)
        spikes = np.empty(x.shape, np.uint8 if twin.fire == "step" else dtype, like=x)
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
        cache = ScanCache(self.dynamics, x, spikes, given, theta, params, k, twin, membranes=u)
        return spikes, np.stack(state).astype(dtype), cache

    def scan_adjoint(
        self, d_spikes: Array, d_state_last: Array | None, cache: ScanCache, needs: Needs = ALL
    ) -> tuple[Array | None, Array | None, Array | None, Array | None]:
        check_adjoint_arrays(self.dynamics, d_spikes, d_state_last, cache)
        x, u, spikes, theta, params = cache.x, cache.u, cache.spikes, cache.theta, cache.params
        state0 = zeros(self.neuron, x) if cache.state0 is None else cache.state0
        dtype, n_states, k = x.dtype, len(state0), x.dtype.type(cache.k)
        f = {name: formula.python(dtype) for name, formula in self.dynamics.formulas().items()}
        charge_adjoint, reset, reset_adjoint, slope = f["charge_adjoint"], f["reset"], f["reset_adjoint"], f["slope"]

        d_x = np.empty(x.shape, dtype, like=x)
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
            d_x if needs.x else None,
            d_state0 if needs.state else None,
            d_theta.sum(axis=0, keepdims=True) if needs.theta else None,
            d_params.sum(axis=1, keepdims=True) if needs.params else None,
        )


def zeros(neuron: Neuron, x: Array) -> Array:
    """A state, or the gradient of one, that nobody gave: ``[K, B, N]``."""
    return np.zeros((len(neuron.state), *x.shape[1:]), x.dtype, like=x)


kernel = ReferenceKernel
