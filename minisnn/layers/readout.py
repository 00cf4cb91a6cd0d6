"""Readouts: from spikes over time to one score per class, and the change of shape before them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import neurons, resets
from ..kernels import Dynamics, Twin
from ..kernels.arrays import Array, positive_int
from ..surrogates import Surrogate
from .base import Back, Cache, Layer, as_input, require
from .spiking import OverTime
from .stateful import formula

__all__ = ["Flatten", "MembraneReadout", "PopulationVote", "Rate"]

OVER = ("last", "max")


class Flatten(Layer):
    """Joins the axes of a sample: ``[T, B, ...] -> [T, B, n]``.  Time and batch stay."""

    def forward(self, x, *, state=None, train=False, rng=None) -> tuple[Array, Cache]:
        """``[T, B, ...] -> [T, B, n]``."""
        x = as_input(x, self)
        y = x.reshape(*x.shape[:2], -1)
        return y, self.keep(y, shape=x.shape)

    def backward(self, d_y, cache, *, d_state=None, wrt=None, input_grad=True) -> Back:
        """``[T, B, n] -> [T, B, ...]``."""
        d_y, _ = self.checked(d_y, cache, wrt)
        return d_y.reshape(cache.shape) if input_grad else None, {}

    def out_shape(self, in_shape: tuple[int, ...] | None) -> tuple[int, ...] | None:
        return None if in_shape is None else (math.prod(in_shape),)


class Rate(Layer):
    """Mean over time: ``[T, B, n] -> [B, n]``, the firing rate of each neuron as its score."""

    ends_time = True
    n_classes: Any = None  #: in which the neurons vote; without, each is its own class

    def forward(self, x, *, state=None, train=False, rng=None) -> tuple[Array, Cache]:
        """``[T, B, n] -> [B, scores]``: mean over time and members."""
        x = as_input(x, self, ("n",))
        self._out_shape(x)
        members = x.shape[2] // self.n_classes if self.n_classes else 1  # (readouts.2)
        total = x.sum(axis=0, dtype=self.dtype).reshape(x.shape[1], -1, members).sum(axis=2)
        scores = total / self.dtype.type(len(x) * members)  # (readouts.1)
        return scores, self.keep(scores, shape=x.shape)

    def backward(self, d_y, cache, *, d_state=None, wrt=None, input_grad=True) -> Back:
        """``[B, scores] -> [T, B, n]``: the same share for every step and member."""
        d_y, _ = self.checked(d_y, cache, wrt)
        steps, _, n = cache.shape
        members = n // self.n_classes if self.n_classes else 1
        if not input_grad:
            return None, {}
        share = np.repeat(d_y / self.dtype.type(steps * members), members, axis=1)  # (readouts.6)
        return np.broadcast_to(share, cache.shape).copy(), {}

    def _describe(self) -> str:
        return "mean over time"


class PopulationVote(Rate):
    """A group of neighbouring neurons votes for each class: mean over its members and over time.

    Parameters
    ----------
    n_classes : number of classes; input ``[T, B, n_classes * members]``, output ``[B, n_classes]``.
        Class c is voted for by the neurons ``c * members`` to ``(c + 1) * members - 1``.
    """

    options = ("n_classes",)

    def __init__(self, n_classes: int, dtype: Any = "float32") -> None:
        super().__init__(dtype)
        self.n_classes = positive_int("PopulationVote: n_classes", n_classes)

    def out_shape(self, in_shape: tuple[int, ...] | None) -> tuple[int, ...]:
        if in_shape is not None and (len(in_shape) != 1 or in_shape[0] % self.n_classes):
            wanted = f"a multiple of {self.n_classes} neurons per sample"
            raise ValueError(f"takes {wanted}, got {list(in_shape)}")
        return (self.n_classes,)

    def _describe(self) -> str:
        return f"{self.n_classes} classes: mean over members and time"


def membrane(x, k):
    """In place of a spike: the membrane itself.  With threshold 0 the time loop then puts out u."""
    return x  # (readouts.3)


def membrane_slope(x, k):
    """Its derivative."""
    return 1  # (readouts.7)


class MembraneReadout(OverTime):
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

    fire, options, ends_time = "smooth", ("over",), True
    holds = ("at",)  # between equal membranes a maximum may jump

    def __init__(
        self, shape, *, over="last", neuron=neurons.lif, dtype="float32", backend=None, **params
    ) -> None:
        ingredients = Dynamics(neuron, resets.none, Surrogate(membrane, membrane_slope, 1.0))
        super().__init__(shape, ingredients, dtype, backend)
        require(over in OVER, "MembraneReadout: over", f"one of {OVER}", over)
        self.over = over
        self._add_neuron_params(params)

    def forward(self, x, *, state=None, train=False, rng=None, at=None) -> tuple[Array, Any]:
        """``[T, B, *shape] -> [B, *shape]``; `state` as for :class:`Spiking`.

        `at` : the steps to read, ``[B, *shape]``, instead of those that `over` chooses.
        """
        run = self._run(x, state, Twin(self.fire))
        u = run.spikes
        if at is None and self.over == "max":
            at = u.argmax(axis=0)  # (readouts.4)
        elif at is None:
            at = np.zeros_like(u[0], int) + (len(u) - 1)
        scores = np.take_along_axis(u, at[None], axis=0)[0]
        return scores, self.keep(scores, u=u, state=run.state, scan=run.scan, at=at)

    def backward(self, d_y, cache, *, d_state=None, wrt=None, input_grad=True) -> Back:
        """The gradient enters at the step that was read, and goes back through the leak."""
        d_scores, needed = self.checked(d_y, cache, wrt)
        d_u = np.zeros_like(cache.u)
        np.put_along_axis(d_u, cache.at[None], d_scores[None], axis=0)  # (readouts.5)
        return self._back(d_u, d_state, cache, needed, input_grad)

    def _describe(self) -> str:
        sizes, charge = ", ".join(map(str, self.shape)), formula(self.dynamics.neuron.charge)
        return f"{sizes}: u = {charge}; score = {self.over} of u over time; {self.backend}"
