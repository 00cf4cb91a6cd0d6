"""MembraneReadout: neurons that never fire, whose membranes are the scores."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .. import neurons, resets
from ..files import find
from ..kernels import ScanCache, Twin
from ..kernels.arrays import Array
from ..surrogates import Surrogate
from .base import Back, as_cache, as_upstream
from .stateful import Stateful, formula, stand_ins

__all__ = ["MembraneReadout", "ReadoutCache"]

OVER = ("last", "max")


def membrane(x, k):
    """In place of a spike: the membrane itself.  With threshold 0 the time loop then puts out u."""
    return x  # (readouts.3)


def membrane_slope(x, k):
    """Its derivative."""
    return 1  # (readouts.7)


class ReadoutCache(NamedTuple):
    """``u``: the membrane over time ``[T, B, *shape]``; ``at``: the step read, ``[B, *shape]``."""

    made_with: tuple[Any, ...]
    u: Array
    state: dict[str, Array]
    scan: ScanCache
    state_given: bool
    at: Array


class MembraneReadout(Stateful):
    """Leaky neurons without threshold and reset; the score is the membrane.

    ``[T, B, *shape] -> [B, *shape]``.

    Parameters
    ----------
    shape : number of scores.
    over : "last": the membrane after the last step; "max": its largest value over the steps (of
        equal ones the first).
    neuron : the dynamics, ``ms.neurons.lif`` by default.
    decay, **params : the neuron's parameters, as for :class:`Spiking`.
    """

    def __init__(
        self, shape, *, over="last", neuron=neurons.lif, dtype="float32", backend=None, **params
    ) -> None:
        super().__init__(dtype, backend)
        if over not in OVER:
            known = ", ".join(map(repr, OVER))
            raise ValueError(f"MembraneReadout: over must be one of {known}, got {over!r}")
        self.over = over
        self._set_up(shape, neuron, resets.none, Surrogate(membrane, membrane_slope, 1.0))
        self._add_neuron_params(params)

    def made_with(self) -> tuple[Any, ...]:
        return *super().made_with(), self.over

    def forward(
        self, x, *, state=None, train=False, rng=None, at=None
    ) -> tuple[Array, ReadoutCache]:
        """``[T, B, *shape] -> [B, *shape]``; `state` as for :class:`Spiking`.

        `at` : the steps to read, ``[B, *shape]``, instead of those that `over` chooses.
        """
        u, after, scan = self._run(x, state, 0.0, Twin("smooth"))
        if at is None and self.over == "max":
            at = u.argmax(axis=0)  # (readouts.4)
        elif at is None:
            at = np.zeros_like(u[0], int) + (len(u) - 1)
        scores = np.take_along_axis(u, at[None], axis=0)[0]
        return scores, ReadoutCache(self.made_with(), u, after, scan, state is not None, at)

    def backward(self, d_y, cache, *, d_state=None, wrt=None, input_grad=True) -> Back:
        """The gradient enters at the step that was read, and goes back through the leak."""
        d_u = np.zeros_like(as_cache(cache, ReadoutCache, self).u)
        d_scores = as_upstream(d_y, cache.u.shape[1:], self)
        np.put_along_axis(d_u, cache.at[None], d_scores[None], axis=0)  # (readouts.5)
        return self._back(d_u, d_state, cache, self.needs(wrt), input_grad)

    def twin(self, x, base, fire, *, state=None, **other) -> tuple[Array, ReadoutCache]:
        """The base run's steps are held: between equal membranes a maximum may jump."""
        return self.forward(x, state=state, at=base.at)

    def config(self) -> dict[str, Any]:
        stored = super().config()
        return {"shape": stored["shape"], "neuron": stored["neuron"], "over": self.over}

    @classmethod
    def rebuild(cls, config, params, dtype, custom) -> Any:
        neuron, over = find(config["neuron"], neurons.NEURONS, custom), config["over"]
        small = stand_ins(neuron.params, params, 0.5)
        layer = cls(tuple(config["shape"]), over=over, neuron=neuron, dtype=dtype, **small)
        return layer._load(params)

    def _describe(self) -> str:
        sizes, charge = ", ".join(map(str, self.shape)), formula(self.dynamics.neuron.charge)
        return f"{sizes}: u = {charge}; score = {self.over} of u over time; {self.backend}"
