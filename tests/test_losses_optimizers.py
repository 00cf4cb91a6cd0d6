"""Losses against differences and extremes; optimizers against their formulas, written out step by step."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minisnn as ms
from minisnn.checks.differences import richardson

RNG = np.random.default_rng(0)
LOSSES = pytest.mark.parametrize("loss", ms.losses.LOSSES.values(), ids=list(ms.losses.LOSSES))


@LOSSES
@given(b=st.integers(1, 5), c=st.integers(2, 6), seed=st.integers(0, 10**6), soft=st.booleans())
def test_gradients_equal_differences(loss, b, c, seed, soft):
    rng = np.random.default_rng(seed)
    scores, direction = rng.normal(size=(b, c)), rng.normal(size=(b, c))
    targets = rng.dirichlet(np.ones(c), b) if soft else rng.integers(0, c, b)
    d_scores = loss(scores, targets)[1]
    found = richardson(lambda h: (loss(scores + h * direction, targets)[0], None))
    assert abs(found.value - (d_scores * direction).sum()) <= max(1e-9, 10 * found.error)


def test_mse_is_the_mean_over_samples_and_classes():
    scores = np.array([[0.5, 0.0, 0.25], [1.0, 0.5, 0.0]])
    value, d_scores = ms.losses.mse(scores, np.array([0, 2]))
    assert value == np.mean(np.square(scores - np.eye(3)[[0, 2]])) and np.allclose(
        d_scores, 2 * (scores - np.eye(3)[[0, 2]]) / 6
    )


def test_cross_entropy_is_finite_for_scores_of_any_size():
    for dtype in ("float32", "float64"):
        scores = np.array([[1e30, 0, -1e30], [1e4, 1e4, 0], [-1e4, -1e4, -1e4]], dtype)
        value, d_scores = ms.losses.cross_entropy(scores, np.array([0, 1, 2]))
        assert np.isclose(value, (0 + np.log(2) + np.log(3)) / 3) and np.isfinite(d_scores).all()
        assert d_scores.dtype == dtype and np.allclose(d_scores.sum(axis=1), 0, atol=1e-6)


@LOSSES
def test_loss_of_a_float32_net_is_float32_and_pure(loss):
    scores, labels = RNG.normal(size=(4, 3)).astype("f4"), np.array([0, 1, 2, 0])
    kept = scores.copy()
    value, d_scores = loss(scores, labels)
    assert type(value) is float and d_scores.dtype == np.float32 and np.array_equal(scores, kept)


def test_loss_of_nan_is_nan():
    for loss in ms.losses.LOSSES.values():
        assert np.isnan(loss(np.full((2, 3), np.nan), np.array([0, 1]))[0])


BAD_TARGETS = {
    "label too large": (np.zeros((2, 3)), [0, 3], "labels must lie in 0 to 2, got 0 to 3"),
    "label negative": (np.zeros((2, 3)), [-1, 2], "got -1 to 2"),
    "float labels": (np.zeros((2, 3)), [0.0, 1.0], "class numbers"),
    "column of labels": (np.zeros((2, 3)), [[0], [1]], "class numbers"),
    "other batch": (np.zeros((2, 3)), [0, 1, 2], "3 labels for scores of 2 samples: minisnn is time-first"),
    "spikes instead of scores": (np.zeros((5, 2, 3)), [0, 1], r"scores must be floats \[B, C\]"),
    "empty": (np.zeros((0, 3)), np.zeros(0, int), "empty batch"),
}


@pytest.mark.parametrize("case", BAD_TARGETS)
@LOSSES
def test_bad_targets_are_explained(loss, case):
    scores, targets, message = BAD_TARGETS[case]
    with pytest.raises(ValueError, match=message):
        loss(scores, np.asarray(targets))


def test_cross_entropy_wants_probabilities():
    with pytest.raises(ValueError, match="probabilities"):
        ms.losses.cross_entropy(np.zeros((1, 3)), np.array([[1.0, 1.0, 0.0]]))


def test_accuracy():
    scores = np.array([[0.1, 0.9], [0.5, 0.5], [0.2, 0.8]])
    assert ms.losses.accuracy(scores, np.array([1, 0, 0])) == 2 / 3
    with pytest.raises(ValueError, match="class numbers"):
        ms.losses.accuracy(scores, scores)


# -- optimizers


def network(dtype="float64"):
    return ms.Network(
        fc1=ms.Linear(3, 4, rng=np.random.default_rng(0), dtype=dtype), lif1=ms.LIF(4, dtype=dtype, backend="numpy")
    )


def gradients(net, seed):
    rng = np.random.default_rng(seed)
    return {n: rng.normal(size=p.shape).astype(p.dtype) for n, p in net.params().items()}


def test_sgd_with_momentum_and_l2():
    net = network()
    w, m = net["fc1"].weight.copy(), 0
    optimizer = ms.SGD(net, ms.SL, lr=0.1, momentum=0.9, weight_decay=0.01)
    for step in range(4):
        grads = gradients(net, step)
        optimizer.step(grads, factor=0.5**step)
        m = 0.9 * m + grads["fc1.weight"] + 0.01 * w
        w = w - 0.1 * 0.5**step * m
        assert np.allclose(net["fc1"].weight, w, rtol=1e-14)


def test_adam_with_coupled_l2():
    net = network()
    w, m, v = net["fc1"].weight.copy(), 0, 0
    optimizer = ms.Adam(net, ms.SL, lr=0.1, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.01)
    for t in range(1, 6):
        grads = gradients(net, t)
        optimizer.step(grads)
        g = grads["fc1.weight"] + 0.01 * w
        m, v = 0.8 * m + 0.2 * g, 0.95 * v + 0.05 * g**2
        w = w - 0.1 * (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.95**t)) + 1e-6)
        assert np.allclose(net["fc1"].weight, w, rtol=1e-12)


@pytest.mark.parametrize("make", [ms.SGD, ms.Adam])
def test_what_is_handed_over_learns_and_nothing_else(make):
    for rule in (ms.SL, ms.TL, ms.STL, ms.STDL, "lif1.decay"):
        net = network("float32")
        before = {n: p.copy() for n, p in net.params().items()}
        grads = gradients(net, 0)
        kept = {n: g.copy() for n, g in grads.items()}
        make(net, rule, lr=0.1).step(grads)
        changed = {n for n, p in net.params().items() if not np.array_equal(p, before[n])}
        assert changed == set(net.params(rule))
        assert all(p.dtype == np.float32 for p in net.params().values())
        assert all(np.array_equal(grads[n], kept[n]) for n in grads)


def test_rate_factors_by_pattern():
    slow, fast = network(), network()
    ms.SGD(slow, lr=0.1, lr_scale={"*.threshold": 0.5, "lif1.*": 0.1, "*.threshold*": 0.25}).step(gradients(slow, 0))
    ms.SGD(fast, lr=0.1).step(gradients(fast, 0))
    for name, factor in {"fc1.weight": 1, "lif1.threshold": 0.25, "lif1.decay": 0.1}.items():
        start = network().params()[name]
        assert np.allclose(slow.params()[name] - start, factor * (fast.params()[name] - start))


BAD_STEPS = {
    "missing": (lambda g: g.pop("lif1.threshold"), "no gradient for 'lif1.threshold'"),
    "shape": (
        lambda g: g.update({"lif1.threshold": np.zeros(3)}),
        r"lif1.threshold is float64 \[3\], the parameter float64 \[4\]",
    ),
    "dtype": (lambda g: g.update({"fc1.weight": np.zeros((3, 4), "f4")}), "float32"),
    "kind": (lambda g: g.update({"fc1.weight": None}), "is None"),
    "nan": (lambda g: g["fc1.weight"].__setitem__((1, 2), np.nan), "gradient of fc1.weight has entries that are not finite"),
    "stranger": (lambda g: g.update({"fc9.weight": np.zeros(3)}), r"\['fc9.weight'\] are no parameters"),
}


@pytest.mark.parametrize("case", BAD_STEPS)
@pytest.mark.parametrize("make", [ms.SGD, ms.Adam])
def test_gradients_that_do_not_fit_are_explained_and_change_nothing(make, case):
    net = network()
    optimizer = make(net, lr=0.1)
    spoil, message = BAD_STEPS[case]
    grads = gradients(net, 0)
    spoil(grads)
    before = {n: p.copy() for n, p in net.params().items()}
    with pytest.raises(ValueError, match=message):
        optimizer.step(grads)
    assert all(np.array_equal(before[n], p) for n, p in net.params().items()) and optimizer.steps == 0


def test_the_loss_and_the_gradients_together_are_no_gradients():
    with pytest.raises(TypeError, match=r"SGD.step: grads must be .* got tuple: loss, grads = net.loss_and_grads"):
        ms.SGD(network(), lr=0.1).step((0.5, gradients(network(), 0)))


def test_bad_settings_are_explained():
    net = network()
    for options, message in (
        ({"lr": 0}, "lr must be a number > 0"), ({"lr": -1}, "lr"), ({"lr": np.nan}, "lr"), ({"lr": "fast"}, "lr"),
        ({"lr": 0.1, "momentum": 1.0}, "momentum"), ({"lr": 0.1, "weight_decay": -1}, "weight_decay"),
        ({"lr": 0.1, "lr_scale": {"lif7.*": 1}}, "lr_scale: pattern .* matches no parameter; there are fc1.weight"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            ms.SGD(net, **options)
    with pytest.raises(ValueError, match="matches no parameter"):
        ms.Adam(net, "fc7.*")
    with pytest.raises(ValueError, match="chooses no parameter to learn"):
        ms.Adam(net, [])
    with pytest.raises(TypeError, match="net must be a Network"):
        ms.Adam(net.params())
    with pytest.raises(ValueError, match="betas"):
        ms.Adam(net, betas=(0.9, 1.0))


def test_the_exponential_schedule():
    schedule = ms.optimizers.exponential(0.93)
    assert schedule(0) == 1 and np.isclose(schedule(99) * 1e-3, 7.58e-7, rtol=1e-3)  # the authors' last rate
    with pytest.raises(ValueError, match="gamma"):
        ms.optimizers.exponential(1.5)


# -- clipping, decoupled decay, schedules


def one(values, pattern=None, make=ms.SGD, **options):
    net = ms.Network(fc=ms.Linear(2, 2, weight=np.array(values), dtype="float64"))
    return net, make(net, pattern, **options)


def test_clipping_scales_all_that_learns_to_one_norm():
    net, optimizer = one([[1.0, 1], [1, 1]], lr=1.0, clip_norm=0.5)
    grad = np.array([[3.0, 0], [0, 4]])
    optimizer.step({"fc.weight": grad})
    assert np.allclose(net["fc"].weight, 1 - grad / 10) and grad[0, 0] == 3  # the caller's gradient is left alone
    optimizer.step({"fc.weight": grad / 100})
    assert np.allclose(net["fc"].weight, 1 - grad / 10 - grad / 100)  # small ones pass as they are
    net, optimizer = one([[1.0, 1], [1, 1]], lr=1.0, clip_norm=4.9)
    optimizer.step({"fc.weight": grad})  # of norm 5: just above
    assert np.allclose(net["fc"].weight, 1 - grad * 0.98)
    assert ms.optimizers.gradient_norm([grad, grad]) == pytest.approx(50**0.5)
    with pytest.raises(ValueError, match="clip_norm"):
        one([[1.0, 1], [1, 1]], lr=1.0, clip_norm=0)


def test_gradients_whose_sums_and_squares_overflow_are_finite_and_clipped():
    huge = np.full((2, 2), 3e38, np.float32)
    assert ms.optimizers.not_finite({"a": huge}) is None and ms.optimizers.gradient_norm([huge]) == pytest.approx(6e38)
    net = ms.Network(fc=ms.Linear(2, 2, weight=np.ones((2, 2))))
    ms.SGD(net, lr=1.0, clip_norm=1.0).step({"fc.weight": huge})
    assert np.allclose(net["fc"].weight, 0.5)
    huge[0, 0] = -np.inf  # the sum is NaN, or infinite, whatever the others are
    assert ms.optimizers.not_finite({"b": np.ones(3), "a": huge}) == "a"


def test_decoupled_decay_leaves_the_gradient_alone():
    """By hand: p <- p (1 - lr wd), then Adam's step, which for the first gradient is lr times its sign."""
    net, optimizer = one([[2.0, 2], [2, 2]], make=ms.Adam, lr=0.1, weight_decay=0.5, decoupled=True, eps=0.0)
    optimizer.step({"fc.weight": np.array([[1.0, -1], [5, -5]])})
    assert np.allclose(net["fc"].weight, 2 * 0.95 - 0.1 * np.array([[1, -1], [1, -1]]))
    coupled, optimizer = one([[2.0, 2], [2, 2]], lr=0.1, weight_decay=0.5)
    optimizer.step({"fc.weight": np.zeros((2, 2))})
    assert np.allclose(coupled["fc"].weight, 2 * 0.95)


def test_schedules_are_values_with_a_name():
    assert [ms.optimizers.exponential(0.5)(e) for e in range(3)] == [1, 0.5, 0.25]
    half = ms.optimizers.cosine(4, lowest=0.2)
    assert np.allclose([half(e) for e in range(6)], [1, 0.882842712, 0.6, 0.317157288, 0.2, 0.2])
    assert repr(half) == "cosine(epochs=4, lowest=0.2)" and half == ms.optimizers.cosine(4, 0.2)
    for make in (lambda: ms.optimizers.cosine(0), lambda: ms.optimizers.cosine(3, 2.0)):
        with pytest.raises(ValueError, match="cosine"):
            make()
