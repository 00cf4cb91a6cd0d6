"""Recurrent: spiking neurons whose spikes come back to them through a weight matrix at the next step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..kernels import Base, ScanCache, Twin
from ..kernels.arrays import Array
from .base import Config
from .spiking import Spiking
from .stateful import by_name

__all__ = ["Recurrent"]


@dataclass(frozen=True, eq=False)
class RecurrentScan:
    """The ``steps``' own caches (loops of one step), the spikes before the first, and all of ``x`` and ``spikes``."""

    steps: list[ScanCache]
    spikes_before: Array
    weight: Array
    x: Array
    spikes: Array
    theta: Array

    @property
    def u(self) -> Array:
        """Every state before the reset, ``[K, T, B, N]``."""
        return np.concatenate([step.u for step in self.steps], axis=1)


class Recurrent(Spiking):
    """``n`` spiking neurons with ``current[t] = x[t] + spikes[t-1] @ recurrent``; backpropagation through all of time.

    Parameters
    ----------
    n : number of neurons; input and output ``[T, B, n]``.
    rng : ``numpy.random.Generator`` for ``recurrent`` ``[n, n]``, U(-1/sqrt(n), 1/sqrt(n)).
    recurrent : the weights themselves, instead of `rng`.
    **options : as for :class:`Spiking`: neuron, reset, surrogate, threshold, decay, ...

    The state has one entry more than the neuron's, ``"spikes"``: those of the step before.
    """

    def __init__(
        self, n: int, *, rng: np.random.Generator | None = None, recurrent: Array | None = None, **options: Any
    ) -> None:
        super().__init__(n, **options)
        if len(self.shape) != 1:
            raise ValueError(f"Recurrent: n must be a whole number of at least 1, got {n!r}")
        if "spikes" in self.dynamics.neuron.state or "recurrent" in self.dynamics.neuron.params:
            raise ValueError("Recurrent: the names 'spikes' (state) and 'recurrent' (parameter) are the layer's own")
        self._set_weights("recurrent", recurrent, (*self.shape, *self.shape), self.shape[0], rng)

    @property
    def state_names(self) -> tuple[str, ...]:
        return (*self.dynamics.neuron.state, "spikes")

    def _run(  # type: ignore[override]
        self, x: Array, state: Any, theta: Array, twin: Twin
    ) -> tuple[Array, dict[str, Array], RecurrentScan]:
        x, state0, params = self._ready(x, state)
        weight, k = self.params["recurrent"], self.dynamics.surrogate.k
        state0 = self._zeros(x) if state0 is None else state0
        inner, before = state0[:-1], state0[-1]
        steps, all_spikes = [], []
        for t in range(len(x)):
            current = x[t] + before @ weight  # (recurrent.1)
            base = twin.base and Base(twin.base.u[t : t + 1], twin.base.spikes[t : t + 1], twin.base.theta)
            spikes, inner, scan = self.kernel.scan(current[None], inner, theta, params, k, Twin(twin.fire, base))
            before = spikes[0].astype(self.dtype, copy=False)
            steps.append(scan)
            all_spikes.append(spikes)
        spikes = np.concatenate(all_spikes)
        after = by_name(self.state_names, np.concatenate([inner, before[None]]), self.shape)
        return spikes, after, RecurrentScan(steps, state0[-1], weight, x, spikes, theta)

    def _back(  # type: ignore[override]
        self, d_spikes: Array, d_state: Any, scan: RecurrentScan, wanted: set[str], input_grad: bool, state_given: bool
    ) -> tuple[Array | None, dict[str, Any]]:
        d_last = self._stacked(d_state, scan.x.shape[1], "d_state")
        d_last = self._zeros(scan.x) if d_last is None else d_last
        d_inner, d_before = d_last[:-1], d_last[-1]
        d_x = np.empty(scan.x.shape, self.dtype, like=scan.x)
        grads: dict[str, Any] = {n: np.zeros_like(self.params[n]) for n in self.params if n in wanted}
        needs = self._needs(wanted, x=True, state=True)
        for t in reversed(range(len(scan.steps))):
            d_s = (d_spikes[t] + d_before)[None]  # (recurrent.2)
            d_current, d_inner, d_theta, d_params = self.kernel.scan_adjoint(d_s, d_inner, scan.steps[t], needs)
            assert d_current is not None
            d_x[t] = d_current[0]
            d_before = d_x[t] @ scan.weight.T  # (recurrent.3)
            if "recurrent" in wanted:
                before = scan.spikes[t - 1].astype(self.dtype, copy=False) if t else scan.spikes_before
                grads["recurrent"] += before.T @ d_x[t]  # (recurrent.4)
            for name, d in self._summed(d_theta, d_params, wanted).items():
                grads[name] += d
        if state_given:
            grads["state"] = by_name(self.state_names, np.concatenate([d_inner, d_before[None]]), self.shape)
        return d_x if input_grad else None, grads

    def _zeros(self, x: Array) -> Array:
        return np.zeros((len(self.state_names), *x.shape[1:]), self.dtype, like=x)

    @classmethod
    def _own(cls, config: Config, params: Mapping[str, Array]) -> tuple[Any, dict[str, Any]]:
        return config["shape"][0], {"recurrent": params["recurrent"]}

    def _check_saved(self, name: str, array: Array) -> None:
        if name != "recurrent":  # which the constructor has seen
            super()._check_saved(name, array)

    def _describe(self) -> str:
        return "x + spikes[t-1] @ recurrent into " + super()._describe()
