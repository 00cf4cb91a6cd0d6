"""Convolution, pooling and normalisation: against plain loops, by the three twins, and by the authors' own rules."""

import itertools

import numpy as np
import pytest
from grid import relative
from hypothesis import given
from hypothesis import strategies as st

import minisnn as ms

RNG = np.random.default_rng(0)


# -- convolution


def plain_conv(x, weight, bias, stride, padding):
    """The definition, one output at a time."""
    x = np.pad(x, ((0, 0), (0, 0), (0, 0), (padding, padding), (padding, padding)))
    kh, kw = weight.shape[2:]
    height, width = ((n - k) // stride + 1 for n, k in zip(x.shape[3:], (kh, kw), strict=True))
    y = np.empty((*x.shape[:2], len(weight), height, width))
    for i, j in itertools.product(range(height), range(width)):
        window = x[..., i * stride : i * stride + kh, j * stride : j * stride + kw]
        y[..., i, j] = np.einsum("tbcpq,ocpq->tbo", window, weight) + bias
    return y


sizes = {
    "c_in": st.integers(1, 3), "c_out": st.integers(1, 4), "kh": st.integers(1, 4), "kw": st.integers(1, 4),
    "stride": st.integers(1, 3), "padding": st.integers(0, 2), "h": st.integers(4, 9), "w": st.integers(4, 9),
    "seed": st.integers(0, 10**6),
}  # fmt: skip


@given(**sizes, spikes=st.booleans())
def test_conv_is_the_sum_over_windows(c_in, c_out, kh, kw, stride, padding, h, w, seed, spikes):
    rng = np.random.default_rng(seed)
    layer = ms.Conv2d(c_in, c_out, (kh, kw), stride=stride, padding=padding, bias=rng.normal(size=c_out), rng=rng,
                      dtype="float64")  # fmt: skip
    x = rng.normal(size=(2, 3, c_in, h, w))
    x = (x > 0.5).view(np.uint8) if spikes else x
    y, _ = layer.forward(x)
    assert relative(y, plain_conv(x, layer.weight, layer.bias, stride, padding)) <= 1e-13
    assert y.shape[2:] == layer.out_shape(x.shape[2:])


@given(**sizes)
def test_conv_gradients_are_right(c_in, c_out, kh, kw, stride, padding, h, w, seed):
    """A convolution is linear in input and weight: the dot-product test is exact for any size of step."""
    rng = np.random.default_rng(seed)
    layer = ms.Conv2d(c_in, c_out, (kh, kw), stride=stride, padding=padding, bias=True, rng=rng, dtype="float64")
    x, d = rng.normal(size=(2, 2, c_in, h, w)), rng.normal(size=(2, 2, c_in, h, w))
    y, cache = layer.forward(x)
    d_y = rng.normal(size=y.shape)
    d_x, grads = layer.backward(d_y, cache)
    scale = np.linalg.norm(d_x) * np.linalg.norm(d) + 1e-300
    assert abs(((layer.forward(x + d)[0] - y) * d_y).sum() - (d_x * d).sum()) <= 1e-12 * scale
    step = rng.normal(size=layer.weight.shape)
    other = ms.Conv2d(c_in, c_out, (kh, kw), stride=stride, padding=padding, weight=layer.weight + step, dtype="float64")
    found = ((other.forward(x)[0] - y) * d_y).sum()
    assert (
        abs(found - (grads["weight"] * step).sum()) <= 1e-12 * np.linalg.norm(grads["weight"]) * np.linalg.norm(step) + 1e-12
    )
    assert np.allclose(grads["bias"], d_y.sum(axis=(0, 1, 3, 4)), rtol=1e-12)


def test_pieces_do_not_change_a_bit(monkeypatch):
    from minisnn.layers import conv

    layer = ms.Conv2d(3, 4, 3, padding=1, rng=RNG)
    x = RNG.normal(size=(3, 4, 3, 6, 7)).astype("f4")
    y, cache = layer.forward(x)
    d_x, _ = layer.backward(y, cache)
    for piece in (1, 2000, 10**9):
        monkeypatch.setattr(conv, "PIECE", piece)
        again, kept = layer.forward(x)
        assert np.array_equal(again, y) and np.array_equal(layer.backward(y, kept)[0], d_x)


# -- pooling


def plain_max(x, k):
    """Value and place of the first maximum of each whole window."""
    *front, h, w = x.shape
    y = np.empty((*front, h // k, w // k), x.dtype)
    at = np.empty(y.shape, int)
    for where in np.ndindex(*y.shape):
        *rest, i, j = where
        window = x[(*rest, slice(i * k, i * k + k), slice(j * k, j * k + k))].ravel()
        y[where], at[where] = window.max(), window.argmax()
    return y, at


@given(k=st.integers(1, 3), h=st.integers(3, 7), w=st.integers(3, 7), seed=st.integers(0, 10**6), spikes=st.booleans())
def test_max_pooling_takes_the_first_maximum(k, h, w, seed, spikes):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 2, (2, 2, 2, h, w)).astype(np.uint8) if spikes else rng.normal(size=(2, 2, 2, h, w))
    layer = ms.MaxPool2d(k).astype("float64")
    y, cache = layer.forward(x)
    expected, at = plain_max(x, k)
    assert y.dtype == x.dtype and np.array_equal(y, expected) and np.array_equal(cache.at, at)
    d_y = rng.normal(size=y.shape)
    d_x, _ = layer.backward(d_y, cache)
    assert d_x.sum() == pytest.approx(d_y.sum()) and np.count_nonzero(d_x) == d_y.size
    for where in np.ndindex(*y.shape):
        *rest, i, j = where
        row, column = divmod(int(at[where]), k)
        assert d_x[(*rest, i * k + row, j * k + column)] == d_y[where]


@given(k=st.integers(1, 3), h=st.integers(3, 7), w=st.integers(3, 7), seed=st.integers(0, 10**6))
def test_average_pooling_is_a_mean_and_shares_out(k, h, w, seed):
    rng = np.random.default_rng(seed)
    x, layer = rng.normal(size=(2, 2, 2, h, w)), ms.AvgPool2d(k).astype("float64")
    y, cache = layer.forward(x)
    cut = x[..., : h // k * k, : w // k * k]
    assert np.allclose(y, cut.reshape(2, 2, 2, h // k, k, w // k, k).mean(axis=(4, 6)), rtol=1e-13)
    d_y = rng.normal(size=y.shape)
    d_x, _ = layer.backward(d_y, cache)
    assert (d_x * x).sum() == pytest.approx((d_y * y).sum()) and not d_x[..., h // k * k :, :].any()


def test_a_nan_does_not_hide_in_a_window():
    x = np.zeros((1, 1, 1, 2, 2), "f4")
    for place in range(4):
        bad = x.copy()
        bad.reshape(-1)[place] = np.nan
        assert np.isnan(ms.MaxPool2d(2).forward(bad)[0]).all() and np.isnan(ms.AvgPool2d(2).forward(bad)[0]).all()


# -- batch normalisation


def torch_rule(x, mean, var, momentum=0.1):
    """Running statistics after each step of x [T, B, C, H, W], by PyTorch's documented rule."""
    for step in x:
        n = step.size // step.shape[1]
        new_mean, new_var = step.mean(axis=(0, 2, 3)), step.var(axis=(0, 2, 3)) * n / (n - 1)
        mean, var = (1 - momentum) * mean + momentum * new_mean, (1 - momentum) * var + momentum * new_var
    return mean, var


@given(
    t=st.integers(1, 4),
    b=st.integers(1, 3),
    c=st.integers(1, 3),
    seed=st.integers(0, 10**6),
    over=st.sampled_from(["step", "time_batch"]),
)
def test_normalisation_and_its_running_statistics(t, b, c, seed, over):
    rng = np.random.default_rng(seed)
    layer = ms.BatchNorm2d(c, over=over, scale=0.7, dtype="float64")
    layer.params["gamma"][:], layer.params["beta"][:] = rng.normal(1, 0.2, c), rng.normal(size=c)
    net = ms.Network(norm=layer)
    x = rng.normal(2, 3, (t, b, c, 4, 3))
    y, caches = net.forward(x, train=True)
    parts = x if over == "step" else x.reshape(1, t * b, c, 4, 3)
    z = (parts - parts.mean(axis=(1, 3, 4), keepdims=True)) / np.sqrt(parts.var(axis=(1, 3, 4), keepdims=True) + 1e-5)
    expected = (0.7 * layer.gamma[:, None, None] * z + layer.beta[:, None, None]).reshape(x.shape)
    assert np.allclose(y, expected, rtol=1e-11, atol=1e-11)
    assert not net.buffers()["norm.running_mean"].any() and (net.buffers()["norm.running_var"] == 1).all()  # not yet
    net.commit(caches)
    mean, var = torch_rule(parts, np.zeros(c), np.ones(c))
    assert np.allclose(layer.running_mean, mean, rtol=1e-12) and np.allclose(layer.running_var, var, rtol=1e-12)
    z = (x - mean[:, None, None]) / np.sqrt(var[:, None, None] + 1e-5)
    assert np.allclose(net.forward(x)[0], 0.7 * layer.gamma[:, None, None] * z + layer.beta[:, None, None], rtol=1e-11)


@pytest.mark.parametrize("over", ["step", "time_batch"])
def test_backward_never_writes_the_running_statistics_and_using_shares_them(over):
    net = ms.Network(norm=ms.BatchNorm2d(2, over=over))
    x = RNG.normal(size=(3, 2, 2, 3, 3)).astype("f4")
    before = {n: b.copy() for n, b in net.buffers().items()}
    for train in (True, False):
        y, caches = net.forward(x, train=train)
        net.backward(y, caches)
    assert all(np.array_equal(before[n], b) for n, b in net.buffers().items())
    other = net.using("numpy")
    other.commit(other.forward(x, train=True)[1])
    assert net["norm"].running_mean.any()
    assert net.astype("float64")["norm"].running_mean.dtype == np.float64


def test_one_value_per_channel_has_no_variance():
    with pytest.raises(ValueError, match="more than one value per channel"):
        ms.BatchNorm2d(2).forward(np.ones((3, 1, 2, 1, 1), "f4"), train=True)


# -- all of it, by the three twins


def network(seed, k, stride, padding, size, pool, over, backend="numpy", bias=False):
    rng = np.random.default_rng(seed)
    options = {"dtype": "float64"}
    conv = ms.Conv2d(2, 3, k, stride=stride, padding=padding, bias=bias, rng=rng, **options)
    shape = conv.out_shape((2, *size))
    pooled = pool(2).out_shape(shape)
    n = int(np.prod(pooled))
    return ms.Network(
        conv=conv, norm=ms.BatchNorm2d(3, over=over, scale=0.8, **options),
        lif=ms.LIF(shape, threshold=rng.uniform(0.3, 0.9, shape), backend=backend, surrogate=ms.surrogates.atan(1.3), **options),
        pool=pool(2), flatten=ms.Flatten(), fc=ms.Linear(n, 6, rng=rng, **options),
        lif2=ms.LIF(6, threshold=0.3, backend=backend, **options), vote=ms.PopulationVote(3),
    ), rng.normal(0.3, 1, (3, 2, 2, *size)), rng.integers(0, 3, 2)  # fmt: skip


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("pool", [ms.MaxPool2d, ms.AvgPool2d])
def test_convolutional_networks_pass_the_three_twins(pool, train, backend):
    net, x, labels = network(1, 3, 2, 1, (7, 9), pool, "step", backend)
    ms.checks.check_grads(net, x, labels, ms.losses.mse, train=train).raise_if_wrong()


@given(
    seed=st.integers(0, 10**6), k=st.integers(1, 3), stride=st.integers(1, 2), padding=st.integers(0, 2),
    h=st.integers(5, 8), w=st.integers(5, 8), pool=st.sampled_from([ms.MaxPool2d, ms.AvgPool2d]),
    over=st.sampled_from(["step", "time_batch"]),
)  # fmt: skip
def test_convolutional_networks_are_right_for_any_size(seed, k, stride, padding, h, w, pool, over):
    net, x, labels = network(seed, k, stride, padding, (h, w), pool, over)
    ms.checks.check_grads(net, x, labels, ms.losses.mse, seed=seed, directions=1, train=True).raise_if_wrong()


def test_a_bias_before_a_normalisation_has_no_gradient_and_that_is_no_alarm():
    net, x, labels = network(1, 3, 2, 1, (7, 9), ms.MaxPool2d, "step", bias=True)
    scores, caches = net.forward(x, train=True)
    grads = net.backward(ms.losses.mse(scores, labels)[1], caches)[1]
    assert np.abs(grads["conv.bias"]).max() <= 1e-14 * np.abs(grads["conv.weight"]).max() * 100
    ms.checks.check_grads(net, x, labels, ms.losses.mse, train=True).raise_if_wrong()


# -- errors

CONV = ms.Conv2d(2, 3, 3, rng=RNG)
BAD = {
    "channels": (lambda: CONV.forward(np.zeros((1, 1, 4, 5, 5), "f4")), r"\[1, 1, 4, 5, 5\], expected \[T, B, 2, H, W\]"),
    "no channel axis": (lambda: CONV.forward(np.zeros((1, 1, 5, 5), "f4")), "time-first"),
    "small image": (lambda: CONV.forward(np.zeros((1, 1, 2, 2, 2), "f4")), r"Conv2d: has a window of \[3, 3\], larger"),
    "network": (
        lambda: ms.Network(a=ms.LIF((3, 8, 8)), b=CONV), r"b does not fit the layer before it: it takes images of 2 channels",
    ),
    "no rng": (lambda: ms.Conv2d(1, 1, 3), "rng must be a generator"),
    "stride": (lambda: ms.Conv2d(1, 1, 3, stride=0, rng=RNG), "stride must be a whole number of at least 1"),
    "padding": (lambda: ms.Conv2d(1, 1, 3, padding=-1, rng=RNG), "padding must be a whole number of at least 0"),
    "weight": (lambda: ms.Conv2d(1, 2, 3, weight=np.zeros((1, 2, 3, 3))), r"expected \[2, 1, 3, 3\]"),
    "pool": (lambda: ms.MaxPool2d(0), "k must be a whole number"),
    "pool of a small image": (lambda: ms.MaxPool2d(4).forward(np.zeros((1, 1, 1, 3, 9), "f4")), "of at least 4 x 4"),
    "over": (lambda: ms.BatchNorm2d(2, over="time"), r"over must be one of \('step', 'time_batch'\)"),
    "momentum": (lambda: ms.BatchNorm2d(2, momentum=1.5), "momentum must be a number > 0 and <= 1"),
    "norm channels": (lambda: ms.BatchNorm2d(2).forward(np.zeros((1, 1, 3, 2, 2), "f4")), r"expected \[T, B, 2, H, W\]"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_calls_are_explained(name):
    call, message = BAD[name]
    with pytest.raises((ValueError, TypeError), match=message):
        call()
