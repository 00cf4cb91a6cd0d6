"""Recurrent: spiking neurons whose spikes return to them through a weight matrix."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..kernels import Base, ScanCache, Twin
from ..kernels.arrays import Array
from .base import Back, require
from .spiking import Spiking, SpikingCache

__all__ = ["Recurrent"]


class RecurrentScan(NamedTuple):
    """The ``steps``' own caches, of loops of one step, and what all of them have in common."""

    steps: list[ScanCache]
    state0: Array | None
    weight: Array
    x: Array
    spikes: Array
    theta: Array

    @property
    def u(self) -> Array:
        """Every state before the reset, ``[K, T, B, N]``."""
        return np.concatenate([step.u for step in self.steps], axis=1)


class Recurrent(Spiking):
    """``n`` spiking neurons with ``current[t] = x[t] + spikes[t-1] @ recurrent``.

    Parameters
    ----------
    n : number of neurons; input and output ``[T, B, n]``.
    rng : ``numpy.random.Generator`` for ``recurrent`` ``[n, n]``, U(-1/sqrt(n), 1/sqrt(n)).
    recurrent : the weights themselves, instead of `rng`.
    **options : as for :class:`Spiking`: neuron, reset, surrogate, threshold, decay, ...

    The state has one entry more than the neuron's, ``"spikes"``: those of the step before.
    """

    def __init__(self, n: int, *, rng=None, recurrent=None, **options: Any) -> None:
        super().__init__(n, **options)
        require(len(self.shape) == 1, "Recurrent: n", "a whole number of at least 1", n)
        neuron = self.dynamics.neuron
        if "spikes" in neuron.state or "recurrent" in neuron.params:
            names = "'spikes' (state) and 'recurrent' (parameter)"
            raise ValueError(f"Recurrent: the names {names} are the layer's own")
        self._set_weights(recurrent, 2 * self.shape, self.shape[0], rng, "recurrent")

    @property
    def state_names(self) -> tuple[str, ...]:
        return (*self.dynamics.neuron.state, "spikes")

    def _run(self, x, state, twin: Twin) -> SpikingCache:
        x, state0, theta, params = self._ready(x, state)
        weight, k, kernel = self.params["recurrent"], self.dynamics.surrogate.k, self.kernel
        start, steps, all_spikes = self._or_zeros(state0, x), [], []
        inner, before = start[:-1], start[-1]
        for t in range(len(x)):
            current = x[t] + before @ weight  # (recurrent.1)
            if held := twin.base:
                held = Base(held.u[t, None], held.spikes[t, None], held.theta)
            how = Twin(twin.fire, held)
            spikes, inner, scan = kernel.scan(current[None], inner, theta, params, k, how)
            before = spikes[0].astype(self.dtype, copy=False)
            steps.append(scan)
            all_spikes.append(spikes)
        spikes = np.concatenate(all_spikes)
        whole = RecurrentScan(steps, state0, weight, x, spikes, theta)
        return self._ran(spikes, (*inner, before), whole)

    def _back(self, d_spikes, d_state, cache, needed: set[str], input_grad: bool) -> Back:
        scan = cache.scan
        d_last = self._or_zeros(self._stacked(d_state, scan.x.shape[1], "d_state"), scan.x)
        d_inner, d_before = d_last[:-1], d_last[-1]
        first = self._or_zeros(scan.state0, scan.x)[-1]  # spikes before the first step
        d_x = np.empty(scan.x.shape, self.dtype, like=scan.x)
        grads: dict[str, Any] = {n: np.zeros_like(a) for n, a in self.params.items() if n in needed}
        needs, kernel = self._needs(needed, x=True, state=True), self.kernel
        for t in reversed(range(len(scan.steps))):
            d_s = (d_spikes[t] + d_before)[None]  # (recurrent.2)
            found: Any = kernel.scan_adjoint(d_s, d_inner, scan.steps[t], needs)
            d_current, d_inner, d_theta, d_params = found
            d_x[t] = d_current[0]
            d_before = d_x[t] @ scan.weight.T  # (recurrent.3)
            if "recurrent" in needed:
                before = scan.spikes[t - 1].astype(self.dtype, copy=False) if t else first
                grads["recurrent"] += before.T @ d_x[t]  # (recurrent.4)
            for name, d in self._summed(d_theta, d_params, needed).items():
                grads[name] += d
        if scan.state0 is not None:
            grads["state"] = self._by_name((*d_inner, d_before))
        return d_x if input_grad else None, grads

    def _or_zeros(self, state: Array | None, x: Array) -> Array:
        if state is not None:
            return state
        return np.zeros((len(self.state_names), *x.shape[1:]), self.dtype, like=x)

    def _describe(self) -> str:
        return "x + spikes[t-1] @ recurrent into " + super()._describe()
