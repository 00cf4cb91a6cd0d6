"""No false alarm: right neurons of any kind pass, in any shape, whatever their algebra."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minisnn as ms
from minisnn import testing as some
from minisnn.checks.check_adjoint import rows_of
from minisnn.checks.oracle import draw
from minisnn.checks.steps import check_steps, steps_of

ATAN = ms.surrogates.atan(1.3)
THIRD = 1 / 3
LEAK = np.exp(-0.1)

# Each: charge, adjoint, state, params.  Nothing here is how one would write it; all of it is right.
RIGHT = {
    "differences of squares": (
        lambda v, x, decay: ((v + decay) * (v + decay) - v * v - decay * decay) / 2 + x,
        lambda d, v, x, decay: (((v + decay) - v) * d, d, ((v + decay) - decay) * d),
        ("v",), ("decay",),
    ),
    "a sum of powers": (
        lambda v, x, decay: decay * v + x - 0.1 * v * v * v,
        lambda d, v, x, decay: ((decay - 0.3 * v * v) * d, d, v * d), ("v",), ("decay",),
    ),
    "integrate and fire with a bound": (
        lambda v, x: np.maximum(v + x, -1.0), lambda d, v, x: (d * (v + x >= -1.0), d * (v + x >= -1.0)), ("v",), (),
    ),
    "divided": (
        lambda v, x, tau: v + (x - v) / (1 + tau), lambda d, v, x, tau: (
            d - d / (1 + tau), d / (1 + tau), -(x - v) * d / ((1 + tau) * (1 + tau))), ("v",), ("tau",),
    ),
    "numbers of numpy": (
        lambda v, x, gain: LEAK * v + gain * x, lambda d, v, x, gain: (LEAK * d, gain * d, x * d), ("v",), ("gain",),
    ),
    "a third": (
        lambda v, x, decay: v / 3 + decay * x, lambda d, v, x, decay: (THIRD * d, decay * d, x * d), ("v",), ("decay",),
    ),
    "logistic": (
        lambda v, x, decay: decay * v + 4 / (1 + np.exp(-x)) - 2,
        lambda d, v, x, decay: (decay * d, 4 * np.exp(-x) / ((1 + np.exp(-x)) * (1 + np.exp(-x))) * d, v * d), ("v",), ("decay",),
    ),
    "exponential": (
        lambda v, x, decay: decay * v + 0.2 * np.exp(np.minimum(v, 2.0)) + x - 0.2,
        lambda d, v, x, decay: ((decay + 0.2 * np.exp(np.minimum(v, 2.0)) * (v < 2.0)) * d, d, v * d), ("v",), ("decay",),
    ),
    "oscillating": (
        lambda v, w, x, decay: (decay * (np.cos(0.5 * v) * v - w) + x, 0.9 * w + 0.3 * np.sin(v)),
        lambda d, e, v, w, x, decay: (
            decay * (np.cos(0.5 * v) - 0.5 * v * np.sin(0.5 * v)) * d + 0.3 * np.cos(v) * e, 0.9 * e - decay * d, d,
            (np.cos(0.5 * v) * v - w) * d), ("v", "w"), ("decay",),
    ),
    "three states": (
        lambda v, i, j, x, a, b: (a * v + i, b * i + j, 0.5 * j + x),
        lambda d, e, f, v, i, j, x, a, b: (a * d, d + b * e, e + 0.5 * f, f, v * d, i * e), ("v", "i", "j"), ("a", "b"),
    ),
    "conductance": (
        lambda v, g, x, decay: (decay * v + 0.5 * g * (2 - v), 0.7 * g + np.maximum(x, 0.0)),
        lambda d, e, v, g, x, decay: (
            (decay - 0.5 * g) * d, 0.5 * (2 - v) * d + 0.7 * e, e * (x > 0.0), v * d), ("v", "g"), ("decay",),
    ),
    "a parameter it does not use": (
        lambda v, x, decay, unused: decay * v + x, lambda d, v, x, decay, unused: (decay * d, d, v * d, 0), ("v",),
        ("decay", "unused"),
    ),
    "square root and logarithm": (
        lambda v, x, decay: decay * v + np.log(1 + np.exp(x)) * np.sqrt(decay),
        lambda d, v, x, decay: (
            decay * d, np.sqrt(decay) * d / (1 + np.exp(-x)), v * d + 0.5 * np.log(1 + np.exp(x)) / np.sqrt(decay) * d),
        ("v",), ("decay",),
    ),
    "weak input": (lambda v, x, decay: decay * v + 0.02 * x, lambda d, v, x, decay: (decay * d, 0.02 * d, v * d), ("v",), ("decay",)),
    "growing": (lambda v, x, gain: 3 * v + x, lambda d, v, x, gain: (3 * d, d, 0), ("v",), ("gain",)),
    "growing fast": (
        lambda v, x, decay: v * v * v + x, lambda d, v, x, decay: (3 * v * v * d, d, 0), ("v",), ("decay",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("reset", ["hard", "soft", "none", "soft_detached"])
@pytest.mark.parametrize("name", RIGHT)
def test_right_neurons_pass(name, reset):
    charge, adjoint, state, params = RIGHT[name]
    neuron = ms.Neuron(charge, adjoint, state=state, params=params)
    report = ms.checks.check_adjoint(neuron, ms.resets.RESETS[reset], ATAN, backend="numpy")
    report.raise_if_wrong()
    assert not report.findings


RESETS = {
    "to a constant": ms.Reset(lambda u, s, theta: u - s * (u - 0.1), lambda d, u, s, theta: (d - s * d, -(u - 0.1) * d, 0)),
    "by half a threshold": ms.Reset(
        lambda u, s, theta: u - 0.5 * s * theta, lambda d, u, s, theta: (d, -0.5 * theta * d, -0.5 * s * d)),
    "to minus theta": ms.Reset(
        lambda u, s, theta: u * (1 - s) - s * theta, lambda d, u, s, theta: ((1 - s) * d, -(u + theta) * d, -(s * d))),
    "all detached": ms.Reset(lambda u, s, theta: u - s * theta, lambda d, u, s, theta: (d, 0, 0), stop=("s", "theta")),
    "squared": ms.Reset(
        lambda u, s, theta: u - s * theta * u * u, lambda d, u, s, theta: (
            d - 2 * s * theta * u * d, -theta * u * u * d, -s * u * u * d)),
}  # fmt: skip


@pytest.mark.parametrize("name", RESETS)
def test_right_resets_pass(name):
    report = ms.checks.check_adjoint(ms.neurons.lif, RESETS[name], ATAN, backend="numpy").raise_if_wrong()
    assert any("Proved for T <= 5" in note for note in report.notes)


SURROGATES = {
    "erf-like": (
        lambda x, k: 0.5 + 0.5 * np.tanh(k * x + 0.1 * k * x * x * x),
        lambda x, k: 0.5 * (k + 0.3 * k * x * x) * (
            1 - np.tanh(k * x + 0.1 * k * x * x * x) * np.tanh(k * x + 0.1 * k * x * x * x)),
    ),
    "leaky": (
        lambda x, k: 0.5 + np.minimum(np.maximum(k * x, -0.5), 0.5) + 0.01 * x,
        lambda x, k: 0.01 + k * (k * x >= -0.5) * (k * x <= 0.5),
    ),
    "straight": (lambda x, k: 0.5 + k * x, lambda x, k: k),
}  # fmt: skip


@pytest.mark.parametrize("name", SURROGATES)
def test_right_surrogates_pass(name):
    surrogate = ms.Surrogate(*SURROGATES[name], 1.7)
    ms.checks.check_adjoint(ms.neurons.lif, ms.resets.hard, surrogate, backend="numpy").raise_if_wrong()


@given(
    dynamics=some.dynamics(),
    shape=some.shapes(),
    seed=st.integers(0, 2**32 - 1),
    twin=st.sampled_from(list(ms.checks.TWINS)),
)
def test_right_dynamics_pass_in_any_shape(dynamics, shape, seed, twin):
    for row in rows_of(dynamics, draw(dynamics, np.random.default_rng(seed), shape), twin, "numpy"):
        assert row.ok, row


@given(dynamics=some.dynamics(), seed=st.integers(0, 2**32 - 1))
def test_right_steps_pass(dynamics, seed):
    rows, problems = check_steps(steps_of(dynamics), seed)
    assert not problems and all(row.ok for row in rows), rows


@settings(max_examples=15)
@given(net=some.networks(), x=some.arrays((5, 3, 4)), seed=st.integers(0, 2**32 - 1))
def test_right_networks_pass(net, x, seed):
    ms.checks.check_grads(net, x, np.array([0, 1, 1]), ms.losses.mse, directions=1, seed=seed).raise_if_wrong()


@pytest.mark.long
@settings(max_examples=10_000)
@given(
    dynamics=some.dynamics(),
    shape=some.shapes(),
    seed=st.integers(0, 2**32 - 1),
    twin=st.sampled_from(list(ms.checks.TWINS)),
)
def test_right_dynamics_pass_ten_thousand_times(dynamics, shape, seed, twin):
    test_right_dynamics_pass_in_any_shape.hypothesis.inner_test(dynamics, shape, seed, twin)


def test_a_neuron_that_always_overflows_is_refused_and_one_that_sometimes_does_is_checked():
    def explode(v, x, decay):
        return np.exp(np.exp(np.exp(v * v + 9.0))) + x

    neuron = ms.Neuron(explode, lambda d, v, x, decay: (d, d, 0))
    with pytest.raises(ValueError, match="Does the neuron overflow"):
        ms.checks.check_adjoint(neuron, ms.resets.hard, ATAN, backend="numpy")
