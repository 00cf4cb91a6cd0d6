"""Surrogates: the slope is the derivative of the curve, and both stay finite and of their dtype."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minisnn as ms

#: What each surrogate's docstring states: peak of the slope and total rise, for a steepness k.
STATED = {
    "atan": lambda k: (k / 2, 1), "sigmoid": lambda k: (k / 4, 1), "fast_sigmoid": lambda k: (1, 2 / k),
    "exponential": lambda k: (k / 2, 1), "triangle": lambda k: (k, 1), "boxcar": lambda k: (k, 1),
}  # fmt: skip

names = pytest.mark.parametrize("name", ms.surrogates.SURROGATES)
steepness = st.floats(0.3, 30).filter(lambda k: abs(k - 2) > 0.05)


@names
@given(k=steepness, x=st.floats(-8, 8).filter(lambda x: x != 0))
def test_slope_is_the_derivative_of_smooth(name, k, x):
    s = ms.surrogates.SURROGATES[name](k)
    step = 1e-30
    derivative = np.asarray(s.smooth(np.complex128(x + 1j * step), s.k)).imag / step
    assert np.isclose(s.slope(np.float64(x), s.k), derivative, rtol=1e-12, atol=1e-300)


@names
@given(k=steepness)
def test_peak_rise_and_value_at_zero_are_as_stated(name, k):
    s = ms.surrogates.SURROGATES[name](k)
    peak, rise = STATED[name](k)
    x = np.linspace(-5, 5, 1001)
    assert s.smooth(0.0, k) == 0.5
    assert np.isclose(s.slope(0.0, k), peak) and s.slope(x, k).max() <= peak * (1 + 1e-12)
    assert np.isclose(s.smooth(1e9, k) - s.smooth(-1e9, k), rise, rtol=1e-6)
    assert (np.diff(s.smooth(x, k)) >= 0).all()


@names
@given(k=st.floats(0.3, 100))
def test_finite_and_of_one_dtype_over_plus_minus_1e4_in_float32(name, k):
    s = ms.surrogates.SURROGATES[name](k)
    x = np.concatenate([np.linspace(-1e4, 1e4, 4001), np.linspace(-1, 1, 401)]).astype(np.float32)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        for values in (s.smooth(x, np.float32(k)), s.slope(x, np.float32(k))):
            assert values.dtype == np.float32 and np.isfinite(values).all()


def test_changing_the_surrogate_changes_the_gradient():
    rng = np.random.default_rng(0)
    x, d_y = rng.normal(0.6, 1, (4, 2, 3)).astype("f4"), rng.normal(size=(4, 2, 3)).astype("f4")
    found = []
    for surrogate in [*(make(1.3) for make in ms.surrogates.SURROGATES.values()), ms.surrogates.atan(1.4)]:
        layer = ms.LIF(3, surrogate=surrogate, backend="numpy")
        found.append(layer.backward(d_y, layer.forward(x)[1])[0])
    for i, a in enumerate(found):
        assert not any(np.allclose(a, b) for b in found[i + 1 :])
