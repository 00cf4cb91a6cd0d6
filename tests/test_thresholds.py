"""Thresholds: how they start, what bounds them, and that a bound's gradient is right."""

import numpy as np
import pytest
from grid import complex_step
from hypothesis import given
from hypothesis import strategies as st

import minisnn as ms

SOFT, BOUND = ms.thresholds.Softplus(), ms.thresholds.LowerBound(0.3)


@given(theta=st.floats(1e-3, 50))
def test_a_constraint_starts_where_it_was_told(theta):
    for dtype, tolerance in (("float32", 1e-5), ("float64", 1e-12)):
        layer = ms.LIF(3, threshold=theta, constraint=SOFT, dtype=dtype)
        assert np.allclose(layer.threshold, theta, rtol=tolerance) and layer.threshold.dtype == dtype
        assert layer.params["threshold"].dtype == dtype


@given(raw=st.floats(-80, 80))
def test_softplus_is_stable_and_its_adjoint_its_derivative(raw):
    at = np.array([raw])
    with np.errstate(all="raise", under="ignore"):
        value, slope = SOFT.effective(at), SOFT.adjoint(np.ones(1), at)
    exact = complex_step(lambda r: np.log(1 + np.exp(r)).sum(), at) if raw > -30 else np.exp(at)
    assert value > 0 and np.isclose(slope, exact, rtol=1e-12, atol=1e-300)
    for wide in (-1e4, 1e4):
        assert np.isfinite(SOFT.effective(np.array([wide], "f4"))).all()
        assert np.isfinite(SOFT.adjoint(np.ones(1, "f4"), np.array([wide], "f4"))).all()


@pytest.mark.parametrize("constraint", [SOFT, BOUND])
def test_one_shared_threshold_with_a_constraint_learns(constraint):
    net = ms.Network(lif=ms.LIF(3, threshold=np.array(0.8), constraint=constraint, dtype="float64", backend="numpy"))
    x = np.random.default_rng(0).normal(0.5, 1, (4, 2, 3))
    ms.checks.check_layer(net["lif"], x).raise_if_wrong()
    before = float(net["lif"].threshold)
    ms.Adam(net, ms.TL, lr=0.01).step(net.backward(np.ones((4, 2, 3)), net.forward(x)[1])[1])
    assert float(net["lif"].threshold) != before


def test_a_threshold_at_its_bound_is_cut_short_and_can_rise_again():
    net = ms.Network(lif=ms.LIF(3, threshold=0.5, constraint=BOUND))
    optimizer = ms.SGD(net, ms.TL, lr=1.0)
    optimizer.step({"lif.threshold": np.array([5, 0.1, 0], "f4")})
    assert np.allclose(net["lif"].threshold, [0.3, 0.4, 0.5]) and net["lif"].params["threshold"][0] == np.float32(0.3)
    optimizer.step({"lif.threshold": np.array([-1, 0, 0], "f4")})
    assert np.allclose(net["lif"].threshold, [1.3, 0.4, 0.5])


def test_params_hold_the_raw_value_and_tables_the_effective_one():
    layer = ms.LIF(4, threshold=0.01, constraint=SOFT, backend="numpy")
    assert layer.params["threshold"].max() < 0 < layer.threshold.min()
    net = ms.Network(fc=ms.Linear(64, 4, rng=np.random.default_rng(0)), lif=layer, rate=ms.Rate())
    images, labels = (a[:60] for a in ms.data.digits())
    history = ms.fit(
        net, ms.Adam(net, ms.STL), (images, labels % 4), epochs=1, encoder=ms.encode.Constant(3), progress=False
    )
    assert history.column("threshold_mean", "lif")[0] == pytest.approx(float(net["lif"].threshold.mean()))
    assert "Softplus" in repr(layer) and layer.threshold.min() > 0


def test_thresholds_drawn_per_neuron_channel_or_layer():
    draw = {per: ms.LIF((4, 3, 2), threshold=ms.thresholds.Normal(2.0, 0.1, np.random.default_rng(0), per)).threshold
            for per in ("neuron", "channel", "layer")}  # fmt: skip
    assert [d.shape for d in draw.values()] == [(4, 3, 2), (4, 1, 1), ()]
    assert len(np.unique(draw["neuron"])) == 24 and len(np.unique(draw["channel"])) == 4
    wide = ms.LIF(20_000, threshold=ms.thresholds.Normal(2.0, 1e-2, rng=np.random.default_rng(0))).threshold
    assert abs(wide.mean() - 2) < 1e-3 and abs(wide.std() - 1e-2) < 1e-3
    same = ms.LIF((4, 3, 2), threshold=ms.thresholds.Normal(2.0, 0.1, np.random.default_rng(0)))
    assert np.array_equal(same.threshold, draw["neuron"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ms.LIF(3, threshold=0.1, constraint=BOUND), "0.1 lies below its lower bound 0.3"),
        (lambda: ms.thresholds.LowerBound(0), "bound must be a number > 0"),
        (lambda: ms.LIF(3, constraint="softplus"), "constraint must be one of"),
        (lambda: ms.thresholds.Normal(1, 0.1, rng=0), "rng must be a generator"),
        (lambda: ms.thresholds.Normal(1, 0.1, np.random.default_rng(0), per="row"), "per must be one of"),
        (lambda: ms.LIF(99, threshold=ms.thresholds.Normal(0.1, 1, np.random.default_rng(0))), "threshold must be > 0"),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()
