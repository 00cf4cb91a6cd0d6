"""Twins: networks whose ordinary derivative is the surrogate gradient.

smooth
    The surrogate's curve in place of the jump.  Checks every term, the slope included; spikes are
    soft.
tangent
    The hard network, run once; then each jump replaced by the straight line through its base point
    with the surrogate's slope.  Same values as the hard network, and its derivative IS the
    surrogate gradient at hard spikes.
slope 0
    The real network with a loss on its membranes and the slope set to zero.  Checks every path
    that does not pass a spike.

Arguments that a reset's ``stop`` names keep the values of the base run, as its author declared.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ..kernels.arrays import Array
from ..network import Caches, Network, naming
from ..surrogates import Surrogate
from .calls import as_gradient, call, pair, watched

__all__ = ["TWINS", "Subject", "run_twin", "weighting", "with_slope_zero"]

#: Name of a twin -> how its spiking layers fire.
TWINS = {"smooth": "smooth", "tangent": "tangent", "slope 0": "step"}


def without_slope(surrogate: Surrogate) -> Surrogate:
    """The same curve with the slope 0: the true derivative of the jump, almost everywhere."""
    return Surrogate(surrogate.smooth, lambda x, k: 0, surrogate.k)


def with_slope_zero(net: Network) -> Network:
    """The network without paths through spikes in its gradient; it shares its parameters."""

    def change(layer: Any) -> Any:
        if not layer.spiking:
            return layer
        surrogate = without_slope(layer.dynamics.surrogate)
        return layer._changed(dynamics=layer.dynamics._replace(surrogate=surrogate))

    return net._map(change)


def run_twin(
    net: Network, x: Array, base: Caches, fire: str, state: Any = None
) -> tuple[Array, Caches]:
    """Run a twin of `net` that is based on the run with the caches `base`: ``(scores, caches)``.

    `fire` is "smooth", "tangent" or "step"; `state` holds the states to start from, by layer.
    """
    start = {name: {"state": s} for name, s in (state or {}).items()}
    caches, outputs = Caches(), dict[str, Array]()
    for name, layer in net.layers.items():
        extra = {**start.get(name, {}), **net.extra_inputs(layer, outputs)}
        with naming(name):
            x, caches[name] = layer.twin(x, base[name], fire, **extra)
        outputs[name] = x
    return x, caches


class Subject(NamedTuple):
    """A network under check, with what its forward and its loss take; problems are noted."""

    net: Network
    x: Array
    targets: Any
    loss: Callable[[Array, Any], tuple[float, Array]]
    options: dict[str, Any]
    rng: Any
    problems: list[str]

    def forward(self, net: Network, state: Any = None) -> tuple[Array, Any]:
        """A run of this network or a variant of it; random draws are the same at each call."""
        options = self.options | ({"state": state} if state else {})
        run = partial(net.forward, self.x, rng=copy.deepcopy(self.rng), **options)
        watch = {"x": self.x, "params": net.params()}
        return watched(run, "forward", "(scores, caches)", self.problems, watch)

    def d_scores(self, scores: Array) -> Array:
        """The gradient that the loss returns."""
        found = call(self.loss, scores, self.targets, what="the loss")
        _, d_scores = pair(found, "the loss", "(number, d_scores)")
        return as_gradient(d_scores, scores, "d_scores from the loss")


def weighting(y: Array, weights: Any) -> tuple[float, Array]:
    """A loss for a single layer: its output times random weights, the same at each call."""
    weights = copy.deepcopy(weights).normal(size=np.shape(y))
    return float(np.sum(y * weights)), weights
