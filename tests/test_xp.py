"""Whole networks on CuPy arrays, without a card: a strict stand-in for CuPy, on which every number is NumPy's, bit for bit."""

import inspect
import re
import sys

import fake_cupy
import numpy as np
import pytest
from cudatext import GPP, KernelOnCPU, OnCPU
from fake_cupy import ndarray
from grid import FULL, problem, relative

import minisnn as ms
from minisnn.kernels import backend_problem
from minisnn.kernels.arrays import array_for, get_array_module, to_numpy
from minisnn.kernels.reference import ReferenceKernel

STEPS, BATCH = 4, 3


@pytest.fixture
def cupy():
    with fake_cupy.installed() as module:
        yield module


def there(value):
    """The same with every array on the device."""
    if isinstance(value, np.ndarray):
        return sys.modules["cupy"].asarray(value)
    if isinstance(value, dict):
        return {k: there(v) for k, v in value.items()}
    return tuple(map(there, value)) if isinstance(value, tuple) else value


def assert_same(found, expected):
    """Everything that is an array for NumPy is one on the device, of the same bits."""
    if isinstance(expected, np.ndarray | np.generic):
        assert isinstance(found, ndarray), type(found)
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert np.array_equal(found.get(), expected, equal_nan=expected.dtype.kind == "f")
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for name in expected:
            assert_same(found[name], expected[name])
    elif isinstance(expected, tuple):
        assert len(found) == len(expected)
        for a, b in zip(found, expected, strict=True):
            assert_same(a, b)
    else:
        assert type(found) is type(expected) and found == expected


# -- the stand-in is strict


@pytest.mark.parametrize("leave", [
    lambda a, b: np.asarray(a), lambda a, b: np.array(a), lambda a, b: np.ascontiguousarray(a), lambda a, b: b.__setitem__(0, a),
    lambda a, b: a + b, lambda a, b: b + a, lambda a, b: a @ b, lambda a, b: b @ a, lambda a, b: np.add(a, 1, out=b),
    lambda a, b: np.stack([a, b]), lambda a, b: np.copyto(a, b), lambda a, b: a.__setitem__(0, b[0]), lambda a, b: a[b > 0],
    lambda a, b: a.__iadd__(b), lambda a, b: a == b, lambda a, b: float(a), lambda a, b: bool(a), lambda a, b: f"{a.min():g}",
    lambda a, b: np.zeros(3)[a[0, 0]], lambda a, b: np.take_along_axis(a, b.astype(int), 0), lambda a, b: np.where(a > 0, a, b),
    lambda a, b: np.full(3, 1.0, like=a), lambda a, b: np.zeros(3, like=b) + a[0],
])  # fmt: skip
def test_no_array_crosses_over_unasked(leave):
    with pytest.raises((TypeError, ValueError)):
        leave(fake_cupy.asarray(np.eye(3)), np.eye(3))


def test_what_is_not_on_the_device_is_not_there():
    a = fake_cupy.asarray(np.eye(3))
    with pytest.raises(AttributeError):
        _ = a.flags.writeable
    assert isinstance(a.sum(), ndarray) and isinstance(a[0, 0], ndarray) and float(a.sum()) == 3 and a.get().sum() == 3


# -- layers


def currents(rng, *shape):
    return rng.normal(0.6, 1.0, (STEPS, BATCH, *shape)).astype("float32")


def spikes(rng, *shape):
    return (rng.random((STEPS, BATCH, *shape)) < 0.4).astype(np.uint8)


def _rng():
    return np.random.default_rng(1)


#: A layer, its input, and what else `forward` takes.
LAYERS = {
    "linear": (lambda: ms.Linear(6, 5, bias=True, rng=_rng()), spikes, (6,), {}),
    "linear, currents": (lambda: ms.Linear(6, 5, rng=_rng()), currents, (6,), {}),
    "conv": (lambda: ms.Conv2d(2, 3, 3, padding=1, bias=True, rng=_rng()), spikes, (2, 6, 7), {}),
    "conv, stride": (lambda: ms.Conv2d(2, 3, (3, 2), stride=2, rng=_rng()), currents, (2, 7, 6), {}),
    "norm, training": (lambda: ms.BatchNorm2d(2, scale=0.7), currents, (2, 3, 4), {"train": True}),
    "norm, all of time": (lambda: ms.BatchNorm2d(2, over="time_batch"), currents, (2, 3, 4), {"train": True}),
    "norm": (lambda: ms.BatchNorm2d(2), currents, (2, 3, 4), {}),
    "max pool": (lambda: ms.MaxPool2d(2), spikes, (2, 5, 6), {}),
    "max pool, currents": (lambda: ms.MaxPool2d(3), currents, (2, 7, 6), {}),
    "mean pool": (lambda: ms.AvgPool2d(2), spikes, (2, 5, 6), {}),
    "dropout": (lambda: ms.Dropout(0.4), spikes, (6,), {"mask": np.float32([0, 1, 2, 0, 1, 2]) * np.ones((1, BATCH, 1), "f4")}),
    "dropout, asleep": (lambda: ms.Dropout(0.4), spikes, (6,), {}),
    "flatten": (ms.Flatten, spikes, (2, 3), {}),
    "vote": (lambda: ms.PopulationVote(3), spikes, (6,), {}),
    "rate": (ms.Rate, currents, (6,), {}),
    "add": (lambda: ms.Add("earlier"), spikes, (6,), {"other": np.full((STEPS, BATCH, 6), 1, np.uint8)}),
    "lif": (lambda: ms.LIF((2, 3), decay=_rng().uniform(0.2, 0.9, (2, 1))), currents, (2, 3), {}),
    "lif, spikes in": (lambda: ms.LIF(6, reset=ms.resets.soft, threshold=np.array(0.7)), spikes, (6,), {}),
    "bounded": (lambda: ms.LIF(6, constraint=ms.thresholds.LowerBound(0.2)), currents, (6,), {}),
    "one threshold": (lambda: ms.LIF(6, threshold=np.array(0.7), constraint=ms.thresholds.LowerBound(0.6)), currents, (6,), {}),
    "softplus": (lambda: ms.LIF(6, constraint=ms.thresholds.Softplus()), currents, (6,), {}),
    "two states": (lambda: ms.Spiking(6, neuron=ms.neurons.current_lif, decay_syn=0.6), currents, (6,), {}),
    "no leak": (lambda: ms.Spiking(6, neuron=ms.neurons.integrate_and_fire), currents, (6,), {}),
    "recurrent": (lambda: ms.Recurrent(6, rng=_rng()), currents, (6,), {}),
    "membrane": (lambda: ms.MembraneReadout(6), currents, (6,), {}),
    "largest membrane": (lambda: ms.MembraneReadout(6, over="max", neuron=ms.neurons.current_lif), currents, (6,), {}),
}  # fmt: skip


def layer_and_input(name):
    make, draw, shape, options = LAYERS[name]
    return make().using("numpy"), draw(_rng(), *shape), options


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name, cupy):
    plain, x, options = layer_and_input(name)
    layer = plain.using("cupy")
    assert_same({**layer.params, **layer.buffers}, {**plain.params, **plain.buffers})
    y, cache = plain.forward(x, **options)
    y_there, cache_there = layer.forward(there(x), **there(options))
    assert_same(y_there, y)
    d_y = np.random.default_rng(2).normal(size=y.shape).astype("float32")
    for _ in range(2):  # calls are pure
        assert_same(layer.backward(there(d_y), cache_there), plain.backward(d_y, cache))
    found = layer.backward(there(d_y), cache_there, wrt=[], input_grad=False)
    assert found == (None, {})
    for attribute in ("u", "spikes", "state", "at", "buffers"):
        if hasattr(cache, attribute):
            assert_same(getattr(cache_there, attribute), getattr(cache, attribute))
    assert_same(layer.twin(there(x), cache_there, "step", **there({k: v for k, v in options.items() if k == "other"}))[0], y)


STATEFUL = ["lif", "two states", "no leak", "recurrent", "membrane", "largest membrane"]


@pytest.mark.parametrize("name", STATEFUL)
def test_states_go_in_and_come_out(name, cupy):
    plain, x, _ = layer_and_input(name)
    layer, rng = plain.using("cupy"), np.random.default_rng(3)
    state = {n: rng.normal(size=(BATCH, *plain.shape)).astype("float32") for n in plain.state_names}
    (y, cache), (y_there, cache_there) = plain.forward(x, state=state), layer.forward(there(x), state=there(state))
    assert_same((y_there, cache_there.state), (y, cache.state))
    d_y = rng.normal(size=y.shape).astype("float32")
    expected = plain.backward(d_y, cache, d_state=cache.state)
    assert "state" in expected[1]
    assert_same(layer.backward(there(d_y), cache_there, d_state=cache_there.state), expected)


def test_sides_and_smooth_twins(cupy):
    plain, x, _ = layer_and_input("lif")
    for one in (plain, plain.smoothed()):
        layer = one.using("cupy")
        (y, cache), (y_there, cache_there) = one.forward(x), layer.forward(there(x))
        assert_same(y_there, y)
        assert_same(layer.sides(cache_there), one.sides(cache))
        assert_same(layer.twin(there(x), cache_there, "tangent")[0], one.twin(x, cache, "tangent")[0])


# -- networks


def shared():
    lif = ms.LIF(6, threshold=np.array(0.3), constraint=ms.thresholds.Softplus())
    return ms.Network(fc=ms.Linear(8, 6, rng=_rng()), lif=lif, rate=ms.Rate())


def conv_net():
    return ms.models.conv_net((1, 6, 6), (2,), (8,), 3, rng=_rng(), members=2, kernel=3, threshold=0.15, spread=0.02)


def residual():
    return ms.Network(
        fc1=ms.Linear(8, 6, rng=_rng()), lif1=ms.LIF(6, threshold=0.3), fc2=ms.Linear(6, 6, rng=_rng(), bias=True),
        lif2=ms.LIF(6, threshold=0.4), sum=ms.Add("lif1"), fc3=ms.Linear(6, 3, rng=_rng()), out=ms.MembraneReadout(3, over="max"),
    )  # fmt: skip


def recurrent():
    return ms.Network(fc=ms.Linear(8, 6, rng=_rng()), rec=ms.Recurrent(6, rng=_rng(), threshold=0.3), rate=ms.Rate())


NETS = {
    "mlp": (lambda: ms.models.mlp(8, [7], 3, rng=_rng(), members=2, threshold=0.3), (8,)),
    "conv": (conv_net, (1, 6, 6)),
    "residual": (residual, (8,)),
    "recurrent": (recurrent, (8,)),
    "shared": (shared, (8,)),
}


def net_and_data(name):
    make, shape = NETS[name]
    net, rng = make().using("numpy"), np.random.default_rng(5)
    images = rng.random((40, *shape)).astype("float32")
    n = {"recurrent": 6, "shared": 6}.get(name, 3)
    return net, images, rng.integers(0, n, 40)


@pytest.mark.parametrize("name", NETS)
def test_networks(name, cupy):
    net, images, labels = net_and_data(name)
    x = ms.encode.constant(images[:5], steps=4).copy()  # each step in memory of its own, on the device too
    gpu = net.using("cupy")
    assert gpu.backend == "cupy" and all(layer.backend == "cupy" for layer in gpu.layers.values())
    assert_same(gpu.arrays(), net.arrays())
    scores, caches = net.forward(x)
    assert all(0 < caches[n].spikes.mean() < 1 for n in net if net[n].spiking)
    for given in (x, there(x)):  # what is not there yet is moved
        scores_there, caches_there = gpu.forward(given)
        assert_same(scores_there, scores)
    assert_same(caches_there.state, caches.state)
    loss, d_scores = ms.losses.cross_entropy(scores, labels[:5])
    loss_there, d_there = ms.losses.cross_entropy(scores_there, labels[:5])
    assert loss_there == loss
    assert_same(d_there, d_scores)
    inner = {n: np.ones(caches[n].spikes.shape, "f4") for n in net if net[n].spiking}
    assert_same(gpu.backward(d_there, caches_there, d_inner=inner), net.backward(d_scores, caches, d_inner=inner))
    assert_same(gpu.predict(x), net.predict(x))
    assert gpu.accuracy(x, labels[:5]) == gpu.accuracy(x, there(labels[:5])) == net.accuracy(x, labels[:5])


@pytest.mark.parametrize("loss", ms.losses.LOSSES.values(), ids=list(ms.losses.LOSSES))
@pytest.mark.parametrize("truncate", [None, 2])
@pytest.mark.parametrize("name", NETS)
def test_loss_and_grads(name, truncate, loss, cupy):
    net, images, labels = net_and_data(name)
    x, gpu = ms.encode.constant(images[:5], steps=5).copy(), net.using("cupy")
    spiking = [n for n in net if net[n].spiking]
    options = {
        "truncate": truncate,
        "penalties": {spiking[0]: ms.losses.FiringRate(0.1), spiking[-1]: ms.losses.Silence(0.9, 2.0)},
        "train": True,
    }
    drops = {n: (np.random.default_rng(4).random((5, 5, *out)) < 0.5) / np.float32(0.5) for n, out in (("drop1", (18,)), ("drop2", (8,)))
             if n in net.layers}  # fmt: skip
    expected = net.loss_and_grads(x, labels[:5], loss, masks=drops, **options)
    for move in (there, lambda a: a):
        assert_same(gpu.loss_and_grads(move(x), move(labels[:5]), loss, masks=drops, **options), expected)


TRAINED = {
    "Adam": lambda net: ms.Adam(net, ms.STL, lr=0.01, weight_decay=1e-3, clip_norm=0.05, lr_scale={"*.threshold": 0.3}),
    "AdamW": lambda net: ms.Adam(net, ms.STDL, lr=0.01, weight_decay=1e-2, decoupled=True),
    "SGD": lambda net: ms.SGD(net, lr=0.1, momentum=0.9, weight_decay=1e-3, clip_norm=0.05),
}


@pytest.mark.parametrize("kind", TRAINED)
def test_optimizers(kind, cupy):
    net = ms.Network(
        fc=ms.Linear(8, 6, rng=_rng()),
        lif=ms.LIF(6, threshold=0.3, constraint=ms.thresholds.LowerBound(0.295)),
        rate=ms.Rate(),
    )
    net = net.using("numpy")
    gpu = net.using("cupy")
    one, other = TRAINED[kind](net), TRAINED[kind](gpu)
    rng = np.random.default_rng(6)
    for _ in range(3):
        grads = {n: rng.normal(size=p.shape).astype("f4") for n, p in net.params().items()}
        one.step(grads, 0.5)
        other.step(there(grads), 0.5)
    assert_same(gpu.params(), net.params())
    assert_same(other.moments(), one.moments())
    assert other.settings() == one.settings()
    with pytest.raises(ValueError, match=r"the gradient of fc.weight is float32 \[8, 6\], the parameter .* on the GPU"):
        other.step(grads)
    with pytest.raises(ValueError, match=r"the gradient of fc.weight is float32 \[8, 6\] on the GPU, the parameter"):
        one.step(there(grads))


# -- training


def trained(net, data, **options):
    optimizer = ms.Adam(net, ms.STL, lr=0.01, clip_norm=1.0)
    options = {"epochs": 2, "batch": 8, "encoder": ms.encode.Constant(4), "loss": ms.losses.cross_entropy, "seed": 3,
               "validation": 0.25, "keep": "best", "progress": False, **options}  # fmt: skip
    history = ms.fit(net, optimizer, data, **options)
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history.epochs]


def no_dropout(net):
    return ms.Network(**{n: layer for n, layer in net.layers.items() if not isinstance(layer, ms.Dropout)})


@pytest.mark.parametrize("name", NETS)
def test_fit(name, cupy, tmp_path):
    net, images, labels = net_and_data(name)
    net = no_dropout(net)
    gpu, moved = net.using("cupy"), net.using("cupy")
    path = tmp_path / f"{name}.npz"
    expected = trained(net, (images, labels))
    found = trained(gpu, (images, labels))
    assert found == expected
    for row in found:  # plain numbers, that JSON can keep
        numbers = [v for layer in row["layers"].values() for v in layer.values()]
        assert all(type(v) is float for v in (*numbers, row["train_loss"], row["train_accuracy"], row["validation_loss"]))
    assert_same(gpu.arrays(), net.arrays())
    held_out = there((images[:9], labels[:9]))
    trained(moved, there((images, labels)), validation=held_out, keep="last", checkpoint=path)
    assert_same(moved.arrays(), ms.load(path).arrays())  # on the disk as a CPU reads it


def test_data_move_once(cupy, monkeypatch):
    net, images, labels = net_and_data("mlp")
    gpu, count = net.using("cupy"), []
    monkeypatch.setattr(
        cupy, "asarray", lambda a: count.append(np.shape(a) if isinstance(a, np.ndarray) else 0) or fake_cupy.asarray(a)
    )
    trained(gpu, (images, labels), epochs=3, validation=0, keep="last")
    assert [shape for shape in count if shape] == [images.shape, labels.shape]


def test_a_run_goes_on_from_its_checkpoint(cupy, tmp_path):
    net, images, labels = net_and_data("mlp")
    whole, parts, path = net.using("cupy"), net.using("cupy"), tmp_path / "run.npz"
    whole = whole.astype("float32")
    expected = trained(whole, (images, labels), epochs=3)
    trained(parts, (images, labels), epochs=2, checkpoint=path)
    fresh = net.using("cupy").astype("float32")
    assert trained(fresh, (images, labels), epochs=3, checkpoint=path, resume=True) == expected
    assert_same(fresh.arrays(), {n: to_numpy(a) for n, a in whole.arrays().items()})


@pytest.mark.parametrize("encoder", [ms.encode.Bernoulli(6), ms.encode.Latency(6), ms.encode.Frames()], ids=repr)
def test_encoders(encoder, cupy):
    images = np.random.default_rng(0).random((7, 5, 4)).astype("float32")
    found = encoder(there(images), np.random.default_rng(3))
    if isinstance(encoder, ms.encode.Bernoulli):  # CuPy's generator, with a seed that is drawn from ours
        seed = int(np.random.default_rng(3).integers(2**63))
        chance = np.random.default_rng(seed).random((6, 7, 5, 4), dtype=np.float32)
        assert_same(found, (chance < images).view(np.uint8))
    else:
        assert_same(found, encoder(images, np.random.default_rng(3)))
    with pytest.raises(ValueError, match=r"\[0, 1\]|not negative"):
        encoder(there(-images), np.random.default_rng(3))


def test_dropout_draws_on_the_device(cupy):
    layer, x = ms.Dropout(0.25).using("cupy"), there(np.ones((3, 4, 50), np.uint8))
    runs = [layer.forward(x, train=True, rng=np.random.default_rng(seed))[0].get() for seed in (0, 0, 1)]
    assert np.array_equal(runs[0], runs[1]) and not np.array_equal(runs[0], runs[2])
    assert set(np.unique(runs[0])) == {np.float32(0), np.float32(4 / 3)} and abs((runs[0] == 0).mean() - 0.25) < 0.06


def test_a_gradient_that_is_not_finite_stops_the_run(cupy):
    net, images, labels = net_and_data("mlp")
    gpu = net.using("cupy")
    gpu["fc1"].params["weight"][0, 0] = np.nan
    with pytest.raises(ms.TrainingStopped, match="'fc1'"):
        trained(gpu, (images, labels))


def test_a_threshold_that_crosses_zero_is_told(cupy):
    net, images, labels = net_and_data("mlp")
    gpu = net.using("cupy")
    gpu["lif1"].params["threshold"][0], gpu["lif1"].params["decay"][1] = -5.0, 1.5
    with pytest.warns(ms.train.ParameterWarning) as told:
        trained(gpu, (images, labels))
    told = [str(one.message) for one in told]
    assert "lif1.threshold: threshold must be > 0, got -" in told[0] and "decay must lie in [0, 1], got 1.5" in told[1]


# -- there and back


def test_using_there_and_back(cupy):
    net, _, _ = net_and_data("conv")
    gpu = net.using("cupy")
    back = gpu.using("numpy")
    for name, array in net.arrays().items():
        assert np.array_equal(back.arrays()[name], array) and back.arrays()[name] is not array
    assert all(a is gpu.using("cupy").arrays()[n] for n, a in gpu.arrays().items())  # no second copy
    assert all(a is net.using("numpy").arrays()[n] for n, a in net.arrays().items())
    gpu["fc1"].params["weight"][...] = 7
    assert not (net["fc1"].weight == 7).any() and (gpu.using("numpy")["fc1"].weight == 7).all()
    double = gpu.astype("float64")
    assert (
        double.backend == "cupy" and double["fc1"].weight.dtype == np.float64 and isinstance(double["fc1"].weight, ndarray)
    )


def test_saved_on_a_gpu_and_loaded_on_a_cpu(cupy, tmp_path):
    net, images, _ = net_and_data("conv")
    gpu = net.using("cupy")
    assert (gpu.save(tmp_path / "a.npz").read_bytes()) == net.save(tmp_path / "b.npz").read_bytes()
    loaded = ms.load(tmp_path / "a.npz").using("numpy")
    x = ms.encode.constant(images, steps=3)
    assert np.array_equal(loaded.forward(x)[0], net.forward(x)[0])


def test_a_network_is_in_one_place(cupy, monkeypatch):
    net = ms.models.mlp(8, [7], 3, rng=_rng(), backend="cupy")  # which the neurons name, and all follow
    assert net.backend == "cupy" and isinstance(net["fc1"].weight, ndarray)
    named = {"backend": "cupy"}
    for layer in (ms.LIF(3, **named), ms.Recurrent(3, rng=_rng(), **named), ms.MembraneReadout(3, **named)):
        assert layer.params and all(isinstance(p, ndarray) for p in layer.params.values())
    with pytest.raises(ValueError, match="one device per net, got a numpy, b cupy"):
        ms.Network(a=ms.LIF(3, backend="numpy"), b=ms.LIF(3, backend="cupy"))
    monkeypatch.setenv("MINISNN_BACKEND", "cupy")
    assert isinstance(ms.models.mlp(8, [7], 3, rng=_rng())["fc1"].weight, ndarray)
    assert isinstance(ms.models.mlp(8, [7], 3, rng=_rng(), backend="numpy")["fc1"].weight, np.ndarray)


@pytest.mark.parametrize("name", LAYERS)
def test_arrays_in_the_wrong_place_are_named_with_the_cure(name, cupy):
    plain, x, options = layer_and_input(name)
    layer = plain.using("cupy")
    with pytest.raises(TypeError, match=r"is on the GPU, x is not: cupy.asarray\(x\)"):
        layer.forward(x, **options)
    with pytest.raises(TypeError, match=r"is on the CPU, x is on the GPU: x.get\(\)"):
        plain.forward(there(x), **options)
    y, cache = layer.forward(there(x), **there(options))
    with pytest.raises(TypeError, match=r"is on the GPU, d_y is not: cupy.asarray\(d_y\)"):
        layer.backward(y.get().astype("float32"), cache)


def test_networks_and_losses_and_checks_say_it_too(cupy):
    net, images, labels = net_and_data("mlp")
    gpu, x = net.using("cupy"), ms.encode.constant(images, steps=3)
    with pytest.raises(TypeError, match="fc1: Linear is on the CPU, x is on the GPU"):
        net.forward(there(x))
    for call in (
        lambda data: trained(net, data),
        lambda data: ms.train.evaluate(net, data, encoder=ms.encode.Constant(3)),
    ):
        with pytest.raises(TypeError, match=r"images on the GPU, the network on the CPU.*\.get\(\), or net.using\('cupy'\)"):
            call(there((images, labels)))
    with pytest.raises(TypeError, match="Please use `.get"):
        ms.losses.mse(net.forward(x)[0], there(labels))
    with pytest.raises(ValueError, match="labels must lie in 0 to 2, got 0 to 9"):
        ms.losses.mse(gpu.forward(x)[0], np.where(labels == 1, 9, labels))
    with pytest.raises(ValueError, match=r"on a GPU, .* net.using\('numpy'\)"):
        ms.checks.check_grads(gpu.astype("float64"), x.astype("float64"), labels, ms.losses.mse)


def test_figures(cupy, tmp_path):
    pytest.importorskip("matplotlib").use("Agg")
    net, images, _ = net_and_data("mlp")
    gpu = net.using("cupy")
    _, caches = gpu.forward(ms.encode.constant(images, steps=6))
    before = {n: p.copy() for n, p in gpu.params("*.threshold").items()}
    for figure in (ms.plot.raster(gpu["lif1"], caches["lif1"]), ms.plot.thresholds(before, gpu.params("*.threshold"))):
        assert ms.plot.save(figure, tmp_path / "a.png").stat().st_size > 1000


def test_the_command_line(cupy, tmp_path, capsys):
    from minisnn.cli import main

    assert (
        main(["train", "--backend", "cupy", "--epochs", "1", "--steps", "3", "--hidden", "20", "--out", str(tmp_path)]) == 0
    )
    assert "cupy; input" in capsys.readouterr().out
    assert main(["eval", str(tmp_path / "model.npz")]) == 0  # which a machine without a GPU can do
    assert "cupy" not in capsys.readouterr().out


# -- what was called is there in CuPy, and takes the same


@pytest.mark.parametrize("name", ["lif-hard-atan", "current_lif-soft-fast_sigmoid"])
def test_the_reference_runs_on_the_device(name, cupy):
    """The same loop on CuPy's arrays: what the kernel on a card is compared with, there."""
    x, state0, theta, params, k, d_spikes, d_last = problem(FULL[name], seed=3)
    for given in (None, state0):
        expected = ReferenceKernel(FULL[name]).scan(x, given, theta, params, k)
        found = ReferenceKernel(FULL[name]).scan(*map(there, (x, given, theta, params)), k)
        assert_same(tuple(found[:2]), tuple(expected[:2]))
        assert_same(found[2].u, expected[2].u)
        for last in (None, d_last):
            back = ReferenceKernel(FULL[name]).scan_adjoint(there(d_spikes), there(last), found[2])
            assert_same(back, ReferenceKernel(FULL[name]).scan_adjoint(d_spikes, last, expected[2]))


@pytest.mark.cudatext
def test_cupy_has_what_is_called(tmp_path):
    cupy = pytest.importorskip("cupy")
    fake_cupy.CALLS.clear()
    with fake_cupy.installed() as module:
        for name in LAYERS:
            test_layers(name, module)
        for name in NETS:
            test_networks(name, module)
            test_loss_and_grads(name, 2, ms.losses.cross_entropy, module)
            test_fit(name, module, tmp_path)
        for kind in TRAINED:
            test_optimizers(kind, module)
        for name in STATEFUL:
            test_states_go_in_and_come_out(name, module)
        test_dropout_draws_on_the_device(module)
        for encoder in (ms.encode.Bernoulli(6), ms.encode.Latency(6), ms.encode.Frames()):
            test_encoders(encoder, module)
        test_sides_and_smooth_twins(module)
        for name in ("lif-hard-atan", "current_lif-soft-fast_sigmoid"):
            test_the_reference_runs_on_the_device(name, module)
    names = {name for _, name, *_ in fake_cupy.CALLS}
    assert {
        "zeros",
        "stack",
        "take_along_axis",
        "copyto",
        "linalg.norm",
        "sum",
    } <= names
    for kind, name, n, options in sorted(fake_cupy.CALLS):
        found = cupy.ndarray if kind == "method" else cupy
        for part in name.split("."):
            found = getattr(found, part)
        assert found is not getattr(np, name.split(".")[0], None), f"{name} is NumPy's own"
        if isinstance(found, cupy.ufunc) or name == "matmul":
            assert set(options) <= {"out", "dtype", "where"}
            continue
        signature_of(found).bind(*[None] * (n + (kind == "method")), **dict.fromkeys(options))
    assert callable(cupy.random.Philox4x3210) and "size=None, dtype=" in cupy.random.Generator.random.__doc__
    for name in ("__bool__", "__float__", "__len__", "__iter__", "get"):
        assert hasattr(cupy.ndarray, name)


#: What layers ask of NumPy with an array on the device `a`, and what else there is to know of it: `b` is one of NumPy.
REACHES_CUPY = [
    "np.zeros(3, 'f4', like=a)", "np.empty((3,), 'f4', like=a)", "np.arange(3, like=a)", "np.asarray(b, 'f4', like=a)",
    "np.zeros_like(a[0], int)", "np.ascontiguousarray(a.T, like=a)", "np.stack([a, a])", "np.concatenate([a, a])", "a + np.float32(2)",
    "np.float32(2) * a", "np.sqrt(a)", "np.isfinite(a).all()", "np.copyto(a, a, where=a)", "np.linalg.norm(a)", "np.repeat(a, 2, axis=1)",
]  # fmt: skip
REFUSED = [
    "np.asarray(a)", "np.ascontiguousarray(a)", "a @ b", "np.stack([a, b])", "np.copyto(a, b)", "a.__setitem__(0, b[0])", "bool(a)",
    "np.zeros(3)[a[0, 0]]", "np.full(3, 1.0, like=a)", "np.ones(3, like=a)", "a.flags.writeable",
]  # fmt: skip


@pytest.mark.cudatext
@pytest.mark.skipif(backend_problem("cupy") is None, reason="with a card all of it runs: pytest -m gpu")
def test_the_rules_of_the_stand_in_are_those_of_cupys_arrays():
    """An array of CuPy can be laid over memory of the CPU, to see which function it is handed to: without a card, one that fails."""
    cupy = pytest.importorskip("cupy")
    memory, b = np.eye(3), np.eye(3)
    pointer = cupy.cuda.MemoryPointer(cupy.cuda.UnownedMemory(memory.ctypes.data, memory.nbytes, memory, 0), 0)
    real, fake = cupy.ndarray((3, 3), float, pointer), fake_cupy.asarray(np.eye(3))
    assert get_array_module(real) is cupy and array_for("numpy", b, "x") is b
    for call in REACHES_CUPY:
        with pytest.raises(cupy.cuda.runtime.CUDARuntimeError):
            eval(call, {"np": np, "a": real, "b": b})
    for call in REFUSED:
        for a in (real, fake):
            with pytest.raises((TypeError, ValueError, AttributeError)):
                eval(call, {"np": np, "a": a, "b": b})
    with pytest.raises(TypeError, match=r"Spiking is on the CPU, x is on the GPU: x.get\(\)"):
        ms.LIF(3, backend="numpy").forward(real)


class OnText(KernelOnCPU):
    """The kernel as it is, its checks and its launches, on arrays of the stand-in: g++ has compiled the text that a card would run."""

    def _arrays(self):
        return sys.modules["cupy"]

    def _run(self, text, name, blocks, arguments):
        super()._run(text, name, blocks, [fake_cupy.inside(a) for a in arguments])


@pytest.mark.cudatext
@pytest.mark.skipif(GPP is None, reason="there is no g++ here to compile the text for the CPU")
@pytest.mark.parametrize("name", NETS)
def test_training_with_the_text_that_a_card_would_run(name, tmp_path):
    """The nearest to training on a card that there is without one: only the sums over samples are in another order."""
    machine = OnCPU(tmp_path)
    net, images, labels = net_and_data(name)
    net = no_dropout(net)
    for layer in net.layers.values():
        if isinstance(layer, ms.Spiking):  # arithmetic alone: what differs is no library's arctan
            layer.dynamics = layer.dynamics._replace(surrogate=ms.surrogates.fast_sigmoid(2.0))
    with fake_cupy.installed(lambda dynamics: OnText(dynamics, machine)):
        gpu, x = net.using("cupy"), ms.encode.constant(images[:6], steps=4)
        (scores, caches), (scores_there, caches_there) = net.forward(x), gpu.forward(x)
        assert_same((scores_there, caches_there.state), (scores, caches.state))
        grads = [one.loss_and_grads(x, labels[:6], ms.losses.cross_entropy)[1] for one in (net, gpu)]
        assert all(relative(to_numpy(grads[1][n]), d) < 1e-5 for n, d in grads[0].items())
        rows, expected = trained(gpu, (images, labels), keep="last"), trained(net, (images, labels), keep="last")
        assert machine.count  # it was the text
        assert all(abs(a["train_loss"] - b["train_loss"]) < 1e-3 for a, b in zip(rows, expected, strict=True))
        assert all(relative(to_numpy(gpu.arrays()[n]), a) < 0.02 for n, a in net.arrays().items())


def signature_of(function):
    """Of compiled methods it stands in the first line of their documentation."""
    try:
        return inspect.signature(function)
    except ValueError:
        text = re.match(r"\w+\.\w+\((.*?)\)( ->.*)?$", function.__doc__.splitlines()[0])[1]
        texts = [one.partition("=")[0].split()[-1] + ("=None" if "=" in one else "") for one in text.split(", ")]
        scope = {}
        exec(f"def f({', '.join(texts)}): pass", scope)
        return inspect.signature(scope["f"])
