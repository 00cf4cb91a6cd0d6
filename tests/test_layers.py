"""Layers: shapes, gradients against differences, purity, and errors that say what to do."""

import inspect

import numpy as np
import pytest
from grid import FULL, relative
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import minisnn as ms
from minisnn.layers import LAYERS as REGISTRY

RNG = np.random.default_rng(0)
SIZES = {"n_in": 6, "n_out": 4, "shape": 6, "n": 6, "c": 2, "c_in": 2, "c_out": 3, "k": 2, "n_classes": 3}


def example(kind):
    """A small layer of a kind of the registry, and the shape of a sample that it takes."""
    given = {n: v for n, v in (SIZES | {"rng": RNG}).items() if n in inspect.signature(kind).parameters}
    return kind(**given), (2, 6, 6) if given.keys() & {"c", "k"} else (6,)


def layers(dtype="float64", backend="numpy"):
    rng = np.random.default_rng(1)
    options = {"dtype": dtype, "backend": backend}
    alone = {name: example(kind) for name, kind in REGISTRY.items() if "source" not in kind.options}
    return {
        **{name: (layer.astype(dtype).using(backend), shape) for name, (layer, shape) in alone.items()},
        "linear with bias": (ms.Linear(6, 4, bias=True, rng=rng, dtype=dtype), (6,)),
        "lif over a map": (ms.LIF((2, 3), threshold=rng.uniform(0.4, 1.0, (2, 1)), decay=np.array(0.7), **options), (2, 3)),
        "current": (
            ms.Spiking((2, 3), neuron=ms.neurons.current_lif, threshold=np.array(0.6), decay_syn=0.8, **options),
            (2, 3),
        ),
        "no leak": (ms.Spiking(6, neuron=ms.neurons.integrate_and_fire, reset=ms.resets.soft, **options), (6,)),
        "softplus": (ms.LIF(6, threshold=0.7, constraint=ms.thresholds.Softplus(), **options), (6,)),
        "lower bound": (
            ms.LIF((2, 3), threshold=np.full((2, 1), 0.7), constraint=ms.thresholds.LowerBound(0.2), **options),
            (2, 3),
        ),
        "recurrent with two states": (
            ms.Recurrent(6, rng=rng, neuron=ms.neurons.current_lif, reset=ms.resets.soft, threshold=0.7, **options),
            (6,),
        ),
        "largest membrane": (ms.MembraneReadout((2, 3), over="max", neuron=ms.neurons.current_lif, **options), (2, 3)),
    }


LAYERS = list(layers())


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_equal_differences(name):
    layer, shape = layers()[name]
    x = np.random.default_rng(2).normal(0.5, 1, (5, 3, *shape))
    ms.checks.check_layer(layer, x).raise_if_wrong()


@pytest.mark.parametrize("name", LAYERS)
def test_backends_agree_on_a_layer(name):
    pytest.importorskip("numba")
    layer, shape = layers()[name]
    x = np.random.default_rng(2).normal(0.5, 1, (5, 3, *shape))
    (y, cache), (z, fast) = layer.forward(x), layer.using("numba").forward(x)
    d_y = np.random.default_rng(3).normal(size=y.shape)
    (d_x, grads), (d_z, fast_grads) = layer.backward(d_y, cache), layer.using("numba").backward(d_y, fast)
    assert np.array_equal(y, z) and relative(d_z, d_x) <= 1e-13
    assert all(relative(fast_grads[n], grads[n]) <= 1e-13 for n in layer.params)


def awkward(x, kind):
    """The same values in an array that is not the usual kind."""
    if kind == "read-only":
        x = x.copy()
        x.flags.writeable = False
    elif kind == "not contiguous":
        x = np.repeat(x, 2, axis=-1)[..., ::2]
    elif kind == "fortran":
        x = np.asfortranarray(x)
    elif kind == "reversed":
        x = x[::-1].copy()[::-1]
    return x


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(LAYERS),
    kind=st.sampled_from(["plain", "read-only", "not contiguous", "fortran", "reversed"]),
    t=st.integers(1, 5), b=st.integers(1, 4), seed=st.integers(0, 10**6),
)  # fmt: skip
def test_layers_are_pure_for_any_array(backend, name, kind, t, b, seed):
    layer, shape = layers("float32", backend)[name]
    rng = np.random.default_rng(seed)
    plain = rng.normal(0.5, 1, (t, b, *shape)).astype("f4")
    y, cache = layer.forward(plain)
    d_y = rng.normal(size=y.shape).astype("f4")
    expected = layer.backward(d_y, cache)
    params = {n: p.copy() for n, p in layer.params.items()}

    x, d = awkward(plain, kind), awkward(d_y, kind)
    y2, cache2 = layer.forward(x)
    kept = y2.copy()
    for d_x, grads in (layer.backward(d, cache2), layer.backward(d, cache2)):
        assert np.array_equal(d_x, expected[0]) and d_x.dtype == np.float32
        assert all(np.array_equal(grads[n], expected[1][n]) and grads[n].dtype == np.float32 for n in layer.params)
    assert np.array_equal(y2, y) and np.array_equal(y2, kept)
    assert np.array_equal(x, plain) and np.array_equal(d, d_y)
    assert all(np.array_equal(params[n], p) for n, p in layer.params.items())


@pytest.mark.parametrize("name", LAYERS)
def test_only_what_is_wanted_and_unknown_names(name):
    layer, shape = layers()[name]
    y, cache = layer.forward(np.ones((2, 3, *shape)))
    d_y = np.ones(y.shape)
    for wanted in layer.params:
        d_x, grads = layer.backward(d_y, cache, wrt=[wanted], input_grad=False)
        assert d_x is None and set(grads) == {wanted}
    assert layer.backward(d_y, cache, wrt=[])[1] == {}
    with pytest.raises(ValueError, match="wrt names"):
        layer.backward(d_y, cache, wrt=["wieght"])


def test_spikes_and_bools_are_welcome(backend):
    table = layers("float32", backend)
    for name in REGISTRY.keys() & table:
        layer, shape = table[name]
        spikes = RNG.random((3, 2, *shape)) < 0.5
        expected = layer.forward(spikes.astype("f4"))[0]
        for x in (spikes, spikes.astype(np.uint8)):
            assert np.array_equal(layer.forward(x)[0], expected)


def test_linear_is_the_product_it_says():
    layer = ms.Linear(6, 4, bias=True, rng=np.random.default_rng(3), dtype="float64")
    layer.bias[:] = [1, 2, 3, 4]
    x = RNG.normal(size=(3, 2, 6))
    assert np.allclose(layer.forward(x)[0], np.einsum("tbi,io->tbo", x, layer.weight) + layer.bias, rtol=1e-14)
    weights = ms.Linear(400, 300, rng=np.random.default_rng(0)).weight
    assert np.abs(weights).max() <= 1 / 20 and np.isclose(weights.std(), 1 / 20 / 3**0.5, rtol=0.01)


def test_readouts_are_the_means_they_say():
    x = RNG.integers(0, 2, (5, 3, 12)).astype(np.uint8)
    assert np.allclose(ms.Rate("float64").forward(x)[0], x.mean(axis=0))
    votes = ms.PopulationVote(4, "float64").forward(x)[0]
    assert np.allclose(votes, x.reshape(5, 3, 4, 3).mean(axis=(0, 3)))


# -- parameters of a spiking layer


def test_a_number_is_one_value_each_and_an_array_keeps_its_shape():
    number = ms.LIF((2, 3), threshold=0.5, decay=0.25)
    assert number.threshold.shape == number.decay.shape == (2, 3) and number.threshold.dtype == np.float32
    for shape in ((), (1,), (3,), (2, 1), (2, 3)):
        values = np.full(shape, 0.5)
        layer = ms.LIF((2, 3), threshold=values, dtype="float64", backend="numpy")
        x, d_y = RNG.normal(size=(4, 5, 2, 3)), RNG.normal(size=(4, 5, 2, 3))
        grads = layer.backward(d_y, layer.forward(x)[1])[1]
        full = ms.LIF((2, 3), threshold=0.5, dtype="float64", backend="numpy")
        expected = full.backward(d_y, full.forward(x)[1])[1]["threshold"]
        assert grads["threshold"].shape == shape == layer.threshold.shape
        assert np.isclose(grads["threshold"].sum(), expected.sum())
        values[...] = 9
        assert (layer.threshold == 0.5).all()  # a copy of what came in


def test_state_in_and_out_and_its_gradient(backend):
    layer = ms.Spiking(3, neuron=ms.neurons.current_lif, decay_syn=0.7, dtype="float64", backend=backend)
    x, d_y = RNG.normal(0.5, 1, (6, 2, 3)), RNG.normal(size=(6, 2, 3))
    whole, cache = layer.forward(x)
    assert set(cache.state) == {"v", "i"} and cache.state["v"].shape == (2, 3)
    assert "state" not in layer.backward(d_y, cache)[1]
    head, first = layer.forward(x[:2])
    tail, second = layer.forward(x[2:], state=first.state)
    assert np.array_equal(np.concatenate([head, tail]), whole)
    d_tail, late = layer.backward(d_y[2:], second)
    d_head, early = layer.backward(d_y[:2], first, d_state=late["state"])
    d_x, grads = layer.backward(d_y, cache)
    assert np.array_equal(np.concatenate([d_head, d_tail]), d_x)
    for name in layer.params:
        assert relative(early[name] + late[name], grads[name]) <= 1e-13


def test_astype_copies_and_using_shares():
    layer = ms.LIF(3, backend="numpy")
    assert layer.astype("float64").threshold.dtype == np.float64
    assert not np.shares_memory(layer.astype("float32").threshold, layer.threshold)
    for other in (layer.using("numpy"), layer.smoothed()):
        assert other is not layer and other.threshold is layer.threshold
    smooth = layer.smoothed().forward(np.full((2, 1, 3), 1.0, "f4"))[0]
    assert smooth.dtype == np.float32 and smooth[0, 0, 0] == 0.5


def test_repr_teaches():
    text = repr(ms.LIF(128, backend="numpy"))
    for part in ("128", "decay * v + x", "u - s * u", "k=2", "numpy", "threshold [128]"):
        assert part in text
    assert "detached" in repr(ms.LIF(2, reset=ms.resets.soft_detached)) and "6 -> 4" in repr(ms.Linear(6, 4, rng=RNG))
    assert "smooth twin" in repr(ms.LIF(2).smoothed())


# -- errors

LIF = ms.LIF(6, backend="numpy")
X = np.zeros((3, 2, 6), np.float32)

BAD_CALLS = {
    "no time axis": (lambda: LIF.forward(X[0]), ValueError, r"\[2, 6\], expected \[T, B, 6\].*time-first"),
    "wrong size": (
        lambda: LIF.forward(X[..., :5]), ValueError, r"\[3, 2, 5\], expected \[T, B, 6\].*One sample at one step is \[5\]",
    ),
    "float16": (lambda: LIF.forward(X.astype("f2")), TypeError, r"float16, expected float32.*x.astype\('float32'\)$"),
    "misspelled": (lambda: ms.LIF(6, treshold=1.0), ValueError, r"\['treshold'\].*did you mean threshold\?"),
    "float64": (lambda: LIF.forward(X.astype(float)), TypeError, r"float64, expected float32.*net.astype\('float64'\)"),
    "integers": (lambda: LIF.forward(X.astype(int)), TypeError, "int64, expected float32, or spikes as uint8"),
    "empty batch": (lambda: LIF.forward(X[:, :0]), ValueError, "empty batch"),
    "no steps": (lambda: LIF.forward(X[:0]), ValueError, "no time steps"),
    "state without a name": (lambda: LIF.forward(X, state={}), ValueError, r"keys \['v'\], got \[\]"),
    "state as an array": (lambda: LIF.forward(X, state=X[0]), ValueError, r"keys \['v'\], got <class 'numpy.ndarray'>"),
    "state of another batch": (lambda: LIF.forward(X, state={"v": X[0, :1]}), ValueError, r"state\['v'\] has shape \[1, 6\]"),
    "gradient of another shape": (lambda: LIF.backward(X[:1], LIF.forward(X)[1]), ValueError, r"d_y has shape \[1, 2, 6\]"),
    "a network's caches": (
        lambda: LIF.backward(X, {"lif": LIF.forward(X)[1]}), TypeError, r"what forward returned, got dict.*caches\['",
    ),
    "cache and gradient swapped": (lambda: LIF.backward(LIF.forward(X)[1], X), TypeError, r"got ndarray: y, cache = layer.for"),
    "another layer's cache": (
        lambda: ms.Linear(6, 6, rng=RNG).backward(X, ms.Flatten().forward(X)[1]), ValueError, "with 'Flatten', the layer has 'Linear'",
    ),
    "gradient of another dtype": (lambda: LIF.backward(X.astype(float), LIF.forward(X)[1]), TypeError, "d_y has dtype float64"),
    "threshold zero": (lambda: ms.LIF(3, threshold=0.0), ValueError, "threshold must be > 0, got 0"),
    "threshold negative": (lambda: ms.LIF(3, threshold=[1, -2, 1]), ValueError, "threshold must be > 0, got -2"),
    "threshold nan": (lambda: ms.LIF(3, threshold=np.nan), ValueError, "threshold must be finite"),
    "threshold shape": (lambda: ms.LIF(3, threshold=np.ones(4)), ValueError, r"\[4\], which does not broadcast.*\[3\]"),
    "threshold larger": (lambda: ms.LIF(3, threshold=np.ones((2, 3))), ValueError, "does not broadcast"),
    "decay above 1": (lambda: ms.LIF(3, decay=1.5), ValueError, r"decay must lie in \[0, 1\], got 1.5.*not a time constant"),
    "decay below 0": (lambda: ms.LIF(3, decay=-0.1), ValueError, r"decay must lie in \[0, 1\], got -0.1"),
    "unknown parameter": (lambda: ms.Spiking(3, tau=2.0), ValueError, r"no parameter \['tau'\].*\('decay',\)"),
    "decay of a neuron without": (
        lambda: ms.Spiking(3, neuron=ms.neurons.integrate_and_fire, decay=0.5), ValueError, "no parameter",
    ),
    "reset by name": (lambda: ms.Spiking(3, reset="hard"), TypeError, "e.g. ms.resets.hard, got 'hard'"),
    "neuron by name": (lambda: ms.Spiking(3, neuron="lif"), TypeError, r"ms\.Neuron"),
    "surrogate not made": (lambda: ms.Spiking(3, surrogate=ms.surrogates.atan), TypeError, r"ms.surrogates.atan\(2.0\)"),
    "unknown backend": (lambda: ms.LIF(3, backend="torch"), ValueError, "unknown backend 'torch', expected"),
    "half precision": (lambda: ms.LIF(3, dtype="float16"), TypeError, "float16, expected 'float32' or 'float64'"),
    "shape zero": (lambda: ms.LIF(0), ValueError, "shape 0: each size must be a whole number of at least 1"),
    "no rng": (lambda: ms.Linear(3, 4), TypeError, "rng must be a generator"),
    "a seed for an rng": (lambda: ms.Linear(3, 4, rng=0), TypeError, "default_rng"),
    "no outputs": (lambda: ms.Linear(3, 0, rng=RNG), ValueError, "n_out"),
    "classes": (lambda: ms.PopulationVote(0), ValueError, "n_classes"),
    "uneven vote": (lambda: ms.PopulationVote(4).forward(X), ValueError, r"PopulationVote: takes a multiple of 4 neurons.*got \[6\]"),
    "unknown attribute": (lambda: LIF.thresold, AttributeError, r"its parameters are \['threshold', 'decay'\]"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_calls_are_explained(name):
    call, kind, message = BAD_CALLS[name]
    with pytest.raises(kind, match=message):
        call()


def test_a_missing_parameter_is_named_and_a_missing_leak_is_one_half():
    neuron = ms.Neuron(lambda v, x, gain: v + gain * x, lambda d, v, x, gain: (d, gain * d, x * d), params=("gain",))
    with pytest.raises(TypeError, match="'gain' is missing"):
        ms.Spiking(3, neuron=neuron)
    assert ms.Spiking(3, neuron=neuron, gain=2.0).gain.shape == (3,)
    assert (ms.Spiking(3, neuron=ms.neurons.current_lif).decay_syn == 0.5).all()


def test_the_default_neuron_is_the_authors_one():
    neuron, reset, surrogate = ms.LIF(3).dynamics
    assert (neuron, reset) == (ms.neurons.lif, ms.resets.hard) and surrogate == ms.surrogates.atan(2.0)
    assert (ms.LIF(3).decay == 0.5).all() and (ms.LIF(3).threshold == 1).all()
    assert FULL  # the grid is not empty


def test_an_assigned_parameter_is_checked_takes_effect_and_stays_live(backend):
    fc, lif = ms.Linear(2, 3, rng=RNG), ms.LIF(3, threshold=np.array(1.0), backend=backend)
    held = fc.params["weight"], lif.params["threshold"], lif.params["decay"]
    fc.weight, lif.threshold, lif.decay = np.ones((2, 3)), 0.5, [0.1, 0.2, 0.3]
    assert (fc.forward(np.ones((1, 1, 2), "f4"))[0] == 2).all() and lif.threshold.shape == ()
    assert (held[0] == 1).all() and held[1] == 0.5 and held[2].tolist() == pytest.approx([0.1, 0.2, 0.3])
    soft = ms.LIF(3, constraint=ms.thresholds.Softplus())
    soft.threshold = 2.0
    assert soft.threshold == pytest.approx(2.0) and soft.params["threshold"] == pytest.approx(np.log(np.e**2 - 1))
    norm = ms.BatchNorm2d(2)
    norm.running_var = [4.0, 9.0]
    assert norm.buffers["running_var"].tolist() == [4, 9]
    wrong = [(fc, "weight", np.ones((3, 2)), r"weight has shape \[3, 2\].*transpose"),
             (lif, "threshold", -1.0, "threshold must be > 0"), (lif, "decay", 2.0, "share of the state"),
             (lif, "decay", np.ones(1), r"decay has shape \[1\], expected \[3\]"), (lif, "threshold", "1", "numbers")]  # fmt: skip
    for layer, name, value, message in wrong:
        with pytest.raises((ValueError, TypeError), match=message):
            setattr(layer, name, value)
    assert (fc.weight == 1).all() and lif.threshold == 0.5


@pytest.mark.parametrize("value", ["0.5", b"1", True, np.array(True), np.bool_(True), ["1"]], ids=repr)
def test_thresholds_and_decays_are_numbers(value):
    for name in ("threshold", "decay"):
        with pytest.raises(TypeError, match=f"LIF|Spiking: {name} must be a number or an array of numbers"):
            ms.LIF(1, **{name: value})
