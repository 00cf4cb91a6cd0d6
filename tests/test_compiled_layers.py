"""Compiled layers are held to NumPy's: rows added up or dense, convolution, normalisation, pooling, Adam's step."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minisnn as ms

pytest.importorskip("numba")
from minisnn.kernels import spike_matmul

SEEDS = st.integers(0, 2**32 - 1)


def relative(a, b):
    return np.abs(np.asarray(a, float) - b).max() / max(np.abs(b).max(), 1e-300)


@pytest.fixture
def always(monkeypatch):
    """Add up rows whatever it costs, so that small cases meet those loops too."""
    monkeypatch.setattr(spike_matmul, "worth_it", lambda density, n: density <= 1)
    monkeypatch.setattr(spike_matmul, "LEAST", 0)


def inputs(rng, kind, shape, dtype):
    spikes = (rng.random(shape) < rng.uniform(0, 0.24)).astype(np.uint8)
    return {
        "uint8": spikes,
        "bool": spikes.astype(bool),
        "float": spikes.astype(dtype),
        "scaled": spikes * np.dtype(dtype).type(1.25),
        "counts": spikes * rng.integers(1, 4, shape, np.uint8),
        "currents": rng.normal(size=shape).astype(dtype),
    }[kind]


KINDS = ["uint8", "bool", "float", "scaled", "counts", "currents"]


@given(SEEDS, st.integers(1, 70), st.integers(1, 40), st.sampled_from([np.uint8, np.float32, np.float64]))
def test_the_entries_are_what_is_active(seed, n_rows, n_columns, dtype):
    rng = np.random.default_rng(seed)
    x = (rng.random((n_rows, n_columns)) < 0.15).astype(dtype) * dtype(1 if dtype == np.uint8 else 2.5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spike_matmul, "worth_it", lambda density, n: density <= 1)
        patch.setattr(spike_matmul, "LEAST", 0)
        found = spike_matmul.active_entries(x, 8)
    if found is None:  # nothing is active, or too much for the room there is
        assert not x.any() or x.astype(bool).mean() > 0.1
        return
    for one, matrix in ((found, x), (spike_matmul.transposed(found), x.T)):
        assert one.n_columns == matrix.shape[1] and one.scale == x.max()
        for row, start, end in zip(matrix, one.starts, one.ends, strict=True):
            assert np.array_equal(one.columns[start:end], np.flatnonzero(row))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_linear(kind, dtype, always):
    for seed in range(8):
        rng = np.random.default_rng(seed)
        n_in, n_out = int(rng.integers(1, 60)), int(rng.integers(1, 40))
        layer = ms.Linear(n_in, n_out, rng=rng, bias=True, dtype=dtype)
        x = inputs(rng, kind, (3, int(rng.integers(1, 30)), n_in), dtype)
        check_layer(layer, x, rng)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_convolution(kind, dtype, always):
    for seed in range(8):
        rng = np.random.default_rng(seed)
        c_in, c_out, k = (int(n) for n in rng.integers(1, [6, 9, 6]))
        padding = int(rng.integers(0, k))
        stride = 2 if seed == 7 else 1
        layer = ms.Conv2d(c_in, c_out, k, padding=padding, stride=stride, rng=rng, bias=True, dtype=dtype)
        x = inputs(rng, kind, (2, int(rng.integers(1, 5)), c_in, *(int(n) for n in rng.integers(k, 12, 2))), dtype)
        check_layer(layer, x, rng)


@pytest.mark.parametrize("over", ["step", "time_batch"])
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_normalisation(over, train, dtype):
    for seed in range(5):
        rng = np.random.default_rng(seed)
        c = int(rng.integers(1, 6))
        layer = ms.BatchNorm2d(c, over=over, scale=0.7, dtype=dtype)
        layer.params["gamma"][...], layer.params["beta"][...] = rng.normal(size=(2, c))
        layer.buffers["running_mean"][...], layer.buffers["running_var"][...] = rng.uniform(0.5, 2, (2, c))
        x = rng.normal(1, 2, (3, int(rng.integers(2, 6)), c, 4, 5)).astype(dtype)
        check_layer(layer, x, rng, train=train)


@pytest.mark.parametrize("train", [True, False, np.bool_(True)])
def test_a_channel_that_is_not_finite_leaves_the_others_alone(train):
    x, d_y = np.random.default_rng(0).normal(size=(2, 3, 4, 2, 3, 3))
    x[0, 0, 0, 0, 0] = np.inf
    layer = ms.BatchNorm2d(2, dtype="float64")
    found = []
    with np.errstate(invalid="ignore"):
        for backend in ("numpy", "numba"):
            on = layer.using(backend)
            found.append(on.backward(d_y, on.forward(x, train=train)[1])[0])
    assert np.isfinite(found[0][:, :, 1:]).all()
    assert relative(found[1][:, :, 1:], found[0][:, :, 1:]) <= 1e-12


def test_a_piece_of_a_spike_train_may_begin_anywhere(always):
    """Spikes of one byte begin at odd places, where words of eight bytes do not."""
    rng = np.random.default_rng(0)
    spikes = rng.random((5, 7, 33)) < 0.1
    layer = ms.Linear(33, 8, rng=rng)
    for first in range(5):
        y, cache = layer.using("numba").forward(spikes[first:])
        z, kept = layer.using("numpy").forward(spikes[first:])
        d_weights = [layer.using(b).backward(z, c)[1]["weight"] for b, c in (("numba", cache), ("numpy", kept))]
        assert relative(y, z) <= 1e-6 and relative(*d_weights) <= 1e-6
    shifted = np.frombuffer(b"?" + rng.random((4, 2, 3)).astype("f4").tobytes(), np.float32, offset=1).reshape(4, 2, 3)
    assert np.array_equal(ms.LIF(3, backend="numba").forward(shifted)[0], ms.LIF(3, backend="numpy").forward(shifted)[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 2, 3])
def test_pooling_bit_for_bit(kind, k):
    for seed in range(5):
        rng = np.random.default_rng(seed)
        x = inputs(rng, kind, (2, 3, 2, *(int(n) for n in rng.integers(k, 9, 2))), "float32")
        if kind == "currents":
            x[rng.random(x.shape) < 0.2] = np.nan  # in any place of a window
        layers = [ms.MaxPool2d(k).using(backend) for backend in ("numpy", "numba")]
        (a, cache_a), (b, cache_b) = (layer.forward(x) for layer in layers)
        assert a.dtype == b.dtype and np.array_equal(a, b, equal_nan=kind == "currents")
        assert cache_a.at.dtype == cache_b.at.dtype and np.array_equal(cache_a.at, cache_b.at)
        d_y = rng.normal(size=a.shape).astype("float32")
        found = [layer.backward(d_y, cache)[0] for layer, cache in zip(layers, (cache_a, cache_b), strict=True)]
        assert np.array_equal(*found)


def check_layer(layer, x, rng, **options):
    """Output, cache and gradients of the compiled layer against NumPy's; its calls are pure."""
    tolerance = {"float32": 1e-4, "float64": 1e-12}[str(layer.dtype)]
    plain, fast = layer.using("numpy"), layer.using("numba")
    x_before = x.copy()
    expected, kept = plain.forward(x, **options)
    y, cache = fast.forward(x, **options)
    assert y.dtype == expected.dtype and relative(y, expected) <= tolerance
    d_y = rng.normal(size=y.shape).astype(layer.dtype)
    d_before = d_y.copy()
    d_x, grads = fast.backward(d_y, cache)
    again, grads_again = fast.backward(d_y, cache)
    expected_x, expected_grads = plain.backward(d_y, kept)
    assert relative(d_x, expected_x) <= tolerance and set(grads) == set(expected_grads)
    for name in grads:
        assert relative(grads[name], expected_grads[name]) <= tolerance, name
        assert np.array_equal(grads[name], grads_again[name]) and grads[name].flags.c_contiguous
    assert np.array_equal(d_x, again) and np.array_equal(x, x_before) and np.array_equal(d_y, d_before)
    for name in grads:
        alone, one = fast.backward(d_y, cache, wrt=name, input_grad=False)
        assert alone is None and list(one) == [name] and np.array_equal(one[name], grads[name])
    if hasattr(cache, "buffers"):
        for name, array in cache.buffers.items():
            assert relative(array, kept.buffers[name]) <= tolerance


def small_net(rng, dtype="float32", **options):
    net = ms.models.conv_net((2, 8, 8), (6, 5), (24,), 3, rng=rng, members=4, kernel=3, dtype=dtype, **options)
    return net.using("numba")


@settings(max_examples=15)
@given(SEEDS, st.sampled_from(["float32", "float64"]), st.sampled_from([None, 2]), st.booleans())
def test_loss_and_grads_of_a_whole_network_is_forward_and_backward_bit_for_bit(seed, dtype, truncate, penalty):
    rng = np.random.default_rng(seed)
    net = small_net(rng, dtype, threshold=0.6)
    x = (rng.random((4, 5, 2, 8, 8)) < 0.3).astype(np.uint8)
    labels = rng.integers(0, 3, 5)
    before = x.copy()
    penalties = {"lif1": ms.losses.FiringRate(0.01, 3.0)} if penalty else {}
    fast = net.loss_and_grads(
        x, labels, ms.losses.mse, train=True, rng=np.random.default_rng(1), truncate=truncate, penalties=penalties
    )
    loss, grads, state, noise = 0.0, {}, None, np.random.default_rng(1)
    for part in np.split(x, len(x) // truncate if truncate else 1):
        scores, caches = net.forward(part, train=True, rng=noise, state=state)
        state, share = caches.state, scores.dtype.type(len(part) / len(x))
        value, d_scores = ms.losses.mse(scores, labels)
        d_inner = {}
        for name, one in penalties.items():
            extra, d_spikes = one(caches[name].spikes)
            value, d_inner[name] = value + extra, d_spikes * share
        loss += float(share) * value
        found = net.backward(d_scores * share, caches, d_inner=d_inner, input_grad=False)[1]
        grads = {n: grads[n] + d if grads else d for n, d in found.items() if n != "state"}
    assert fast[0] == loss and set(fast[1]) == set(grads) and np.array_equal(x, before)
    for name, grad in grads.items():
        assert np.array_equal(fast[1][name], grad), name


def test_a_residual_branch_is_not_written_over():
    """Of currents, which the neurons in between would write over, and of spikes."""
    rng = np.random.default_rng(0)
    net = ms.Network(
        fc1=ms.Linear(6, 8, rng=rng), add0=ms.Add("fc1"), lif1=ms.LIF(8), fc2=ms.Linear(8, 8, rng=rng), lif2=ms.LIF(8),
        sum=ms.Add("lif1"), current=ms.Add("fc2"), rate=ms.Rate(),
    ).using("numba")  # fmt: skip
    x = rng.normal(1, 1, (5, 4, 6)).astype("float32")
    labels = rng.integers(0, 8, 4)
    fast = net.loss_and_grads(x, labels, ms.losses.mse)
    scores, caches = net.forward(x)
    grads = net.backward(ms.losses.mse(scores, labels)[1], caches, input_grad=False)[1]
    assert all(np.array_equal(fast[1][n], grads[n]) for n in grads)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "options", [{}, {"weight_decay": 1e-2}, {"weight_decay": 1e-2, "decoupled": True}, {"clip_norm": 1.0}]
)
def test_adam_in_one_pass_is_adam_bit_for_bit(dtype, options):
    nets = [ms.Network(fc=ms.Linear(200, 170, rng=np.random.default_rng(0), dtype=dtype), lif=ms.LIF(170, dtype=dtype))] * 2
    nets = [net.astype(dtype).using(backend) for net, backend in zip(nets, ("numpy", "numba"), strict=True)]
    adams = [ms.Adam(net, "fc*", lr=1e-2, **options) for net in nets]
    rng = np.random.default_rng(1)
    for _ in range(4):
        grad = {"fc.weight": rng.normal(size=(200, 170)).astype(dtype)}
        for adam in adams:
            adam.step(grad)
    assert np.array_equal(nets[0]["fc"].weight, nets[1]["fc"].weight)
    for moments in ("mean", "square"):
        assert np.array_equal(*(adam.moments()[moments]["fc.weight"] for adam in adams))


def test_same_bits_for_any_number_of_threads(always):
    rng = np.random.default_rng(0)
    net = ms.models.conv_net((2, 12, 12), (8,), (32,), 4, rng=rng, threshold=0.5, dropout=0.2).using("numba")
    x = (rng.random((4, 60, 2, 12, 12)) < 0.2).astype(np.uint8)
    runs = []
    try:
        for threads in (1, 2, 3):
            ms.set_threads(threads)
            runs.append(
                net.loss_and_grads(x, rng.integers(0, 4, 60) * 0, ms.losses.mse, train=True, rng=np.random.default_rng(2))
            )
    finally:
        ms.set_threads(None)
    for loss, grads in runs[1:]:
        assert loss == runs[0][0] and all(np.array_equal(grads[n], runs[0][1][n]) for n in grads)
