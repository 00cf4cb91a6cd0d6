"""Hypothesis strategies for property tests: right neurons, resets, surrogates and networks.

``from minisnn import testing`` needs hypothesis: ``pip install 'minisnn[test]'``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from .kernels import Dynamics
from .kernels.arrays import Array
from .layers import Linear, PopulationVote, Spiking
from .network import Network
from .neurons import NEURONS, Neuron
from .resets import RESETS
from .surrogates import SURROGATES

__all__ = ["arrays", "dynamics", "networks", "neurons"]
__all__ += ["resets", "shapes", "surrogates", "thresholds"]


def shapes() -> st.SearchStrategy[tuple[int, int, int]]:
    """Small ``(T, B, N)``."""
    return st.tuples(st.integers(1, 6), st.integers(1, 3), st.integers(1, 4))


@st.composite
def arrays(draw: Any, shape: tuple[int, ...], low: float = -2.0, high: float = 3.0) -> Array:
    """Float64 arrays of random numbers between `low` and `high`; the seed is what shrinks."""
    return np.random.default_rng(draw(st.integers(0, 2**32 - 1))).uniform(low, high, shape)


def thresholds(n: int) -> st.SearchStrategy[Array]:
    """Thresholds in (0.4, 1.8), one for each of `n` neurons."""
    return arrays((n,), 0.4, 1.8)


def resets() -> st.SearchStrategy[Any]:
    """Every reset of the package."""
    return st.sampled_from(list(RESETS.values()))


def surrogates() -> st.SearchStrategy[Any]:
    """Every surrogate of the package with a steepness in (0.6, 4)."""
    makers = st.sampled_from(list(SURROGATES.values()))
    return st.builds(lambda make, k: make(k), makers, st.floats(0.6, 4.0))


def neurons() -> st.SearchStrategy[Neuron]:
    """The package's neurons, and others: saturating, resting, resonating, adapting."""
    makers = st.sampled_from([_saturating, _resting, _resonating, _adapting])
    constants = st.floats(0.1, 0.9)
    own = st.builds(lambda make, a, b: make(a, b), makers, constants, constants)
    return st.one_of(st.sampled_from(list(NEURONS.values())), own)


def dynamics() -> st.SearchStrategy[Dynamics]:
    """A neuron, a reset and a surrogate."""
    return st.builds(Dynamics, neurons(), resets(), surrogates())


@st.composite
def networks(draw: Any, n_in: int = 4, n_classes: int = 2, backend: str = "numpy") -> Network:
    """Two layers of neurons of one kind, float64: ``[T, B, n_in]`` to ``[B, n_classes]``."""
    parts = draw(dynamics())._asdict()
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    hidden, out = draw(st.integers(2, 6)), n_classes * draw(st.integers(1, 2))

    def layer(n: int) -> Spiking:
        params: dict[str, Any] = {p: rng.uniform(0.2, 0.9, n) for p in parts["neuron"].params}
        threshold = rng.uniform(0.3, 0.9, n)
        return Spiking(n, threshold=threshold, dtype="float64", backend=backend, **parts, **params)

    return Network(
        fc1=Linear(n_in, hidden, bias=True, rng=rng, dtype="float64"),
        lif1=layer(hidden),
        fc2=Linear(hidden, out, rng=rng, dtype="float64"),
        lif2=layer(out),
        vote=PopulationVote(n_classes),
    )


# -- right neurons that are not in the package


def _saturating(a: float, b: float) -> Neuron:
    def charge(v, x, decay):
        return decay * v + a * np.tanh(v) + b * x

    def adjoint(d_u, v, x, decay):
        t = np.tanh(v)
        return (decay + a * (1 - t * t)) * d_u, b * d_u, v * d_u

    return Neuron(charge, adjoint)


def _resting(a: float, b: float) -> Neuron:
    def charge(v, x, decay, rest):
        return rest + decay * (v - rest) + x / (1 + a)

    def adjoint(d_u, v, x, decay, rest):
        return decay * d_u, d_u / (1 + a), (v - rest) * d_u, d_u - decay * d_u

    return Neuron(charge, adjoint, params=("decay", "rest"))


def _resonating(a: float, b: float) -> Neuron:
    def charge(v, w, x, decay):
        return decay * v - a * w + x, b * w + a * v

    def adjoint(d_u, d_w_new, v, w, x, decay):
        return decay * d_u + a * d_w_new, b * d_w_new - a * d_u, d_u, v * d_u

    return Neuron(charge, adjoint, state=("v", "w"))


def _adapting(a: float, b: float) -> Neuron:
    def charge(v, w, x, decay, gain):
        u = decay * v + gain * (x - w)
        return u, a * w + b * np.exp(-u * u)

    def adjoint(d_u, d_w_new, v, w, x, decay, gain):
        u = decay * v + gain * (x - w)
        d = d_u - 2 * b * u * np.exp(-u * u) * d_w_new
        return decay * d, a * d_w_new - gain * d, gain * d, v * d, (x - w) * d

    return Neuron(charge, adjoint, state=("v", "w"), params=("decay", "gain"))
