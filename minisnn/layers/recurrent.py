"""Recurrent: spiking neurons whose spikes come back to them through a weight matrix at the next step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ..kernels import Base, ScanCache
from ..kernels.contract import Array
from .base import Config
from .spiking import Spiking
from .stateful import Asked, Stateful

__all__ = ["Recurrent"]


class RecurrentScan(NamedTuple):
    """The ``steps``' own caches (loops of one step), the spikes before the first, and all of ``x``, ``u``, ``spikes``."""

    steps: list[ScanCache]
    spikes_before: Array
    weight: Array
    x: Array
    u: Array
    spikes: Array
    theta: Array


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
        if self.remember != "all":
            raise ValueError("Recurrent: remembers all membranes; remember='chunks' is for layers without recurrent weights")
        if len(self.shape) != 1:
            raise ValueError(f"Recurrent: n must be a whole number of at least 1, got {n!r}")
        if "spikes" in self.dynamics.neuron.state or "recurrent" in self.dynamics.neuron.params:
            raise ValueError("Recurrent: the names 'spikes' (state) and 'recurrent' (parameter) are the layer's own")
        self._set_weights("recurrent", recurrent, (*self.shape, *self.shape), self.shape[0], rng)

    @property
    def state_names(self) -> tuple[str, ...]:
        return (*self.dynamics.neuron.state, "spikes")

    def _scan(
        self,
        x: Array,
        state0: Array | None,
        theta: Array,
        params: Array,
        fire: str,
        base: Base | None,
        consume: bool = False, last: bool = True,
    ) -> tuple[Array, Array, RecurrentScan]:  # fmt: skip
        weight = self.params["recurrent"]
        state0 = self._zeros(x) if state0 is None else state0
        inner, before = state0[:-1], state0[-1]
        steps, all_spikes = [], []
        for t in range(len(x)):
            current = x[t] + before @ weight  # (recurrent.1)
            base_t = base and Base(base.u[t : t + 1], base.spikes[t : t + 1], base.theta)
            spikes, inner, scan = Stateful._scan(self, current[None], inner, theta, params, fire, base_t)
            before = spikes[0].astype(self.dtype, copy=False)
            steps.append(scan)
            all_spikes.append(spikes)
        spikes = np.concatenate(all_spikes)
        u = np.concatenate([s.u for s in steps], axis=1)
        kept = RecurrentScan(steps, state0[-1], weight, x, u, spikes, theta)
        return spikes, np.concatenate([inner, before[None]]), kept

    def _scan_adjoint(
        self, d_spikes: Array, d_last: Array | None, scan: RecurrentScan, asked: Asked, consume: bool = False
    ) -> tuple[Array | None, Array, dict[str, Array]]:
        d_last = self._zeros(scan.x) if d_last is None else d_last
        d_inner, d_before = d_last[:-1], d_last[-1]
        d_x = np.empty_like(scan.x)
        grads: dict[str, Array] = {n: np.zeros_like(self.params[n]) for n in asked.params}
        all_of_a_step = asked._replace(x=True, state=True)
        for t in reversed(range(len(scan.steps))):
            d_s = (d_spikes[t] + d_before)[None]  # (recurrent.2)
            d_current, d_inner, found = Stateful._scan_adjoint(self, d_s, d_inner, scan.steps[t], all_of_a_step)
            assert d_current is not None
            d_x[t] = d_current[0]
            d_before = d_x[t] @ scan.weight.T  # (recurrent.3)
            if "recurrent" in asked.params:
                before = scan.spikes[t - 1].astype(self.dtype, copy=False) if t else scan.spikes_before
                grads["recurrent"] += before.T @ d_x[t]  # (recurrent.4)
            for name, d in found.items():
                grads[name] += d
        return d_x if asked.x else None, np.concatenate([d_inner, d_before[None]]), grads

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
