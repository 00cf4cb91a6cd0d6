"""The grid: every neuron x reset x surrogate of the package, with problems that hide no mistake."""

import itertools

import numpy as np

import minisnn as ms
from minisnn.checks.oracle import draw
from minisnn.kernels import Dynamics

STEEPNESS = 1.3

FULL = {
    f"{n}-{r}-{s}": Dynamics(ms.neurons.NEURONS[n], ms.resets.RESETS[r], ms.surrogates.SURROGATES[s](STEEPNESS))
    for n, r, s in itertools.product(ms.neurons.NEURONS, ms.resets.RESETS, ms.surrogates.SURROGATES)
}


NEURONS, RESETS, SURROGATES = map(list, (ms.neurons.NEURONS, ms.resets.RESETS, ms.surrogates.SURROGATES))
#: Every neuron x reset, with the surrogates in turn.
COVERING = [
    f"{n}-{r}-{SURROGATES[(i + i // len(RESETS)) % len(SURROGATES)]}"
    for i, (n, r) in enumerate(itertools.product(NEURONS, RESETS))
]
#: Every neuron x reset, neuron x surrogate and reset x surrogate, in as few as can be.
PAIRS = [
    f"{n}-{RESETS[(i + j) % len(RESETS)]}-{s}" for i, n in enumerate(NEURONS) for j, s in enumerate(SURROGATES)
]  # fmt: skip
#: Every neuron, every reset and every surrogate at least once: what the Numba backend compiles in the core, four seconds for
#: each.  The loop around the three is the same for all, and test_formula.py holds every formula; pytest -m long has the grid.
FEW = [
    f"{NEURONS[i % len(NEURONS)]}-{RESETS[(i + i // len(NEURONS)) % len(RESETS)]}-{SURROGATES[i % len(SURROGATES)]}"
    for i in range(max(len(NEURONS), len(RESETS), len(SURROGATES)))
]


def problem(dynamics, shape=(6, 2, 3), seed=0, dtype="float64"):
    p = draw(dynamics, np.random.default_rng(seed), shape)
    return p._replace(**{n: getattr(p, n).astype(dtype) for n in p._fields if n != "k"})


def complex_step(f, at, step=1e-30):
    """Gradient of a real analytic function, entry by entry, exact to rounding: ``Im f(at + i h e) / h``."""
    gradient = np.empty_like(at)
    for i in np.ndindex(at.shape):
        shifted = at.astype(complex)
        shifted[i] += 1j * step
        gradient[i] = complex(f(shifted)).imag / step
    return gradient


def relative(a, b):
    """max|a - b| / max|b|, the measure of docs/design."""
    a, b = np.asarray(a), np.asarray(b)
    assert a.shape == b.shape
    if not b.size:
        return 0.0
    scale = np.abs(b).max()
    return float(np.abs(a - b).max() / scale) if scale else float(np.abs(a).max())


def summed(gradients):
    """The gradients of a scan with their partial sums added up."""
    d_x, d_state0, d_theta, d_params = gradients
    return d_x, d_state0, d_theta.sum(axis=0), d_params.sum(axis=1)
