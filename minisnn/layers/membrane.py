"""MembraneReadout: neurons that never fire, whose membranes are the scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from .. import neurons, resets
from ..files import find
from ..kernels import ScanCache, Twin
from ..kernels.arrays import Array
from ..surrogates import Surrogate
from .base import Back, Config, Names, as_cache, as_upstream
from .stateful import Stateful, formula

__all__ = ["MembraneReadout", "ReadoutCache"]

OVER = ("last", "max")


def membrane(x, k):
    """In place of a spike: the membrane itself.  With threshold 0 the time loop then puts out u."""
    return x  # (readouts.3)


def membrane_slope(x, k):
    """Its derivative."""
    return 1  # (readouts.7)


class ReadoutCache(NamedTuple):
    """``u``: the membrane over time ``[T, B, *shape]``; ``at``: the step that was read, ``[B, *shape]``; ``state``."""

    made_with: tuple[Any, ...]
    u: Array
    at: Array
    state: dict[str, Array]
    scan: ScanCache
    state_given: bool


class MembraneReadout(Stateful):
    """Leaky neurons without threshold and reset: the score is the membrane, ``[T, B, *shape] -> [B, *shape]``.

    Parameters
    ----------
    shape : number of scores.
    over : "last": the membrane after the last step; "max": its largest value over the steps (of equal ones the first).
    neuron : the dynamics, ``ms.neurons.lif`` by default.
    decay, **params : the neuron's parameters, as for :class:`Spiking`.
    """

    def __init__(
        self,
        shape: int | tuple[int, ...],
        *,
        over: str = "last",
        neuron: neurons.Neuron = neurons.lif,
        dtype: Any = "float32",
        backend: str | None = None,
        **params: Any,
    ) -> None:
        super().__init__(dtype, backend)
        if over not in OVER:
            raise ValueError(f"MembraneReadout: over must be one of {', '.join(map(repr, OVER))}, got {over!r}")
        self.over = over
        self._set_up(shape, neuron, resets.none, Surrogate(membrane, membrane_slope, 1.0))
        self._add_neuron_params(params)

    def forward(
        self, x: Array, *, state: Mapping[str, Array] | None = None, train: bool = False, rng: Any = None
    ) -> tuple[Array, ReadoutCache]:
        """``[T, B, *shape] -> [B, *shape]``; `state` as for :class:`Spiking`."""
        return self._forward(x, state, None)

    def twin(  # type: ignore[override]
        self, x: Array, base: ReadoutCache, fire: str, *, state: Mapping[str, Array] | None = None
    ) -> tuple[Array, ReadoutCache]:
        """The base run's choice of steps is held: silent neurons have equal membranes, between which a maximum may jump."""
        return self._forward(x, state, base.at)

    def made_with(self) -> tuple[Any, ...]:
        return *super().made_with(), self.over

    def _forward(self, x: Array, state: Mapping[str, Array] | None, at: Array | None) -> tuple[Array, ReadoutCache]:
        flat, after, scan = self._run(x, state, None, Twin("smooth"))
        u = flat.reshape(*flat.shape[:2], *self.shape)
        if at is None:
            at = u.argmax(axis=0) if self.over == "max" else np.zeros_like(u[0], int) + (len(u) - 1)  # (readouts.4)
        scores = np.take_along_axis(u, at[None], axis=0)[0]
        return scores, ReadoutCache(self.made_with(), u, at, after, scan, state is not None)

    def backward(self, d_y: Array, cache: ReadoutCache, *, d_state=None, wrt: Names = None, input_grad: bool = True) -> Back:
        """The gradient enters at the step that was read, and goes back through the leak from there."""
        d_u = np.zeros_like(as_cache(cache, ReadoutCache, self).u)
        d_scores = as_upstream(d_y, cache.u.shape[1:], self)
        np.put_along_axis(d_u, cache.at[None], d_scores[None], axis=0)  # (readouts.5)
        d_x, grads = self._back(d_u, d_state, cache.scan, self._wanted(wrt), input_grad, cache.state_given)
        return None if d_x is None else d_x.reshape(cache.u.shape), grads

    def config(self) -> dict[str, Any]:
        return {n: v for n, v in super().config().items() if n in ("shape", "neuron")} | {"over": self.over}

    @classmethod
    def rebuild(cls, config: Config, params: Mapping[str, Array], dtype: Any, custom: Config) -> MembraneReadout:
        neuron = find(config["neuron"], neurons.NEURONS, custom)
        small: Any = dict.fromkeys(neuron.params, np.array(0.5))
        layer = cls(tuple(config["shape"]), over=config["over"], neuron=neuron, dtype=dtype, **small)
        return layer._load(params)  # type: ignore[return-value]

    def _describe(self) -> str:
        sizes = ", ".join(map(str, self.shape))
        return f"{sizes}: u = {formula(self.dynamics.neuron.charge)}; score = {self.over} of u over time; {self.backend}"
