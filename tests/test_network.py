"""Networks: order, names, patterns, shared parameters, and gradients layer by layer."""

import numpy as np
import pytest
from grid import relative

import minisnn as ms


def network(dtype="float32", backend="numpy", seed=0):
    rng = np.random.default_rng(seed)
    return ms.Network(
        fc1=ms.Linear(6, 8, rng=rng, bias=True, dtype=dtype),
        lif1=ms.LIF(8, threshold=0.5, dtype=dtype, backend=backend),
        fc2=ms.Linear(8, 6, rng=rng, dtype=dtype),
        lif2=ms.LIF(6, threshold=0.4, dtype=dtype, backend=backend),
        vote=ms.PopulationVote(3),
    )


NAMES = [
    "fc1.weight", "fc1.bias", "lif1.threshold", "lif1.decay", "fc2.weight", "lif2.threshold", "lif2.decay",
]  # fmt: skip
X = np.random.default_rng(1).normal(0.5, 1, (5, 4, 6)).astype("f4")
LABELS = np.array([0, 2, 1, 1])


def test_the_learning_rules_choose_by_what_a_parameter_is():
    net = network()
    assert list(net.params()) == NAMES
    assert list(net.params(ms.SL)) == ["fc1.weight", "fc1.bias", "fc2.weight"]
    assert list(net.params(ms.TL)) == ["lif1.threshold", "lif2.threshold"]
    assert list(net.params(ms.STL)) == [n for n in NAMES if "decay" not in n]
    assert list(net.params(ms.STDL)) == NAMES
    assert list(net.params("lif*.threshold")) == list(net.params(ms.TL))
    assert list(net.params(["fc1.*", ms.TL, "lif2.decay"])) == [n for n in NAMES if n not in ("lif1.decay", "fc2.weight")]
    neuron = ms.Neuron(lambda v, x, gain: v + gain * x, lambda d, v, x, gain: (d, gain * d, x * d), params=("gain",))
    own = ms.Network(a=ms.Spiking(3, neuron=neuron, gain=2.0))
    assert list(own.params(ms.STDL)) == ["a.threshold", "a.gain"] and list(own.params(ms.STL)) == ["a.threshold"]


def test_patterns_that_match_nothing_raise():
    with pytest.raises(ValueError, match="'lif3.threshold' matches no parameter; there are fc1.weight"):
        network().params(["fc1.weight", "lif3.threshold"])
    with pytest.raises(ValueError, match="SL"):
        ms.Network(lif=ms.LIF(3)).params(ms.SL)
    assert network().params([]) == {}


def test_params_are_live():
    net = network()
    net.params()["fc1.weight"][...] = 0
    assert not net["fc1"].weight.any()


def test_forward_and_backward_are_the_layers_in_turn(backend):
    net = network(backend=backend)
    scores, caches = net.forward(X)
    y, kept = X, {}
    for name, layer in net.layers.items():
        y, kept[name] = layer.forward(y)
    assert np.array_equal(y, scores) and scores.shape == (4, 3)
    assert caches["lif1"].spikes.shape == caches["lif1"].u.shape == (5, 4, 8)
    _, d = ms.losses.mse(scores, LABELS)
    d_x, grads = net.backward(d, caches)
    assert list(grads) == NAMES and all(g.shape == net.params()[n].shape for n, g in grads.items())
    for name in reversed(list(net)):
        d, found = net[name].backward(d, kept[name])
        assert all(np.array_equal(grads[f"{name}.{p}"], g) for p, g in found.items())
    assert np.array_equal(d_x, d)


def test_backward_twice_gives_the_same_and_changes_nothing():
    net = network()
    scores, caches = net.forward(X)
    d = ms.losses.mse(scores, LABELS)[1]
    before = {n: p.copy() for n, p in net.params().items()}
    first = net.backward(d, caches)
    net.forward(X + 1)
    second = net.backward(d, caches)
    assert np.array_equal(first[0], second[0])
    assert all(np.array_equal(first[1][n], second[1][n]) for n in NAMES)
    assert all(np.array_equal(before[n], p) for n, p in net.params().items())


def test_wrt_and_input_grad_leave_the_rest_out():
    net = network()
    scores, caches = net.forward(X)
    d = ms.losses.mse(scores, LABELS)[1]
    whole, everything = net.backward(d, caches)
    for pattern in (ms.SL, ms.TL, ms.STL, "lif2.*", "fc2.weight", []):
        for input_grad in (True, False):
            d_x, grads = net.backward(d, caches, wrt=pattern, input_grad=input_grad)
            assert list(grads) == list(net.params(pattern))
            assert all(np.array_equal(g, everything[n]) for n, g in grads.items())
            assert np.array_equal(d_x, whole) if input_grad else d_x is None


def test_the_walk_ends_at_the_lowest_layer_wanted(monkeypatch):
    net = network()
    scores, caches = net.forward(X)
    called = []
    for layer in net.layers.values():
        plain = layer.backward
        monkeypatch.setattr(layer, "backward", lambda *a, plain=plain, **k: called.append(k["input_grad"]) or plain(*a, **k))
    net.backward(ms.losses.mse(scores, LABELS)[1], caches, wrt="fc2.weight", input_grad=False)
    assert called == [True, True, False]


def test_penalties_on_inner_spikes_and_states(backend):
    net = network("float64", backend)
    x = X.astype(float)
    scores, caches = net.forward(x)
    rng = np.random.default_rng(0)
    inner = rng.normal(size=caches["lif1"].spikes.shape)
    d_last = {"lif2": {"v": rng.normal(size=(4, 6))}}
    _, zero = net.backward(np.zeros_like(scores), caches, d_inner={"lif1": inner})
    _, found = net["lif1"].backward(inner, caches["lif1"])
    assert relative(zero["lif1.threshold"], found["threshold"]) <= 1e-14
    _, grads = net.backward(np.zeros_like(scores), caches, d_state=d_last)
    assert grads["lif2.decay"].any() and not np.array_equal(grads["fc2.weight"], zero["fc2.weight"])
    with pytest.raises(TypeError, match=r"caches must be what forward returned, .*; got ndarray"):
        net.backward(caches, scores)
    with pytest.raises(TypeError, match="got dict without lif1$"):
        net.backward(scores, {n: cache for n, cache in caches.items() if n != "lif1"})
    with pytest.raises(ValueError, match="d_inner names"):
        net.backward(np.zeros_like(scores), caches, d_inner={"lif9": inner})
    for name in ("fc1", "lif9"):  # one without a state must not be passed over in silence
        with pytest.raises(ValueError, match=rf"d_state names \['{name}'\], expected some of \['lif1', 'lif2'\]"):
            net.backward(np.zeros_like(scores), caches, d_state={name: d_last["lif2"]})


def test_state_goes_in_and_comes_out():
    net = network()
    whole, _ = net.forward(X)
    _, first = net.forward(X[:2])
    _, second = net.forward(X[2:], state=first.state)
    assert set(first.state) == {"lif1", "lif2"}
    _, caches = net.forward(X)
    assert np.array_equal(np.concatenate([first["lif2"].spikes, second["lif2"].spikes]), caches["lif2"].spikes)
    assert whole.shape == (4, 3)
    grads = net.backward(np.ones((4, 3), "f4"), second)[1]
    assert set(grads["state"]) == {"lif1", "lif2"} and grads["state"]["lif1"]["v"].shape == (4, 8)
    with pytest.raises(ValueError, match="state names"):
        net.forward(X, state={"fc1": {}})


def test_using_and_smoothed_share_and_astype_copies():
    net = network()
    for other in (net.using("numpy"), net.smoothed()):
        assert other is not net and all(other.params()[n] is p for n, p in net.params().items())
    double = net.astype("float64")
    assert double.dtype == np.float64 and all(p.dtype == np.float64 for p in double.params().values())
    assert double["vote"].dtype == np.float64 and net["vote"].dtype == np.float32
    assert net.smoothed().forward(X)[1]["lif1"].spikes.dtype == np.float32


def test_backends_agree_on_a_network():
    pytest.importorskip("numba")
    net = network("float64")
    fast = net.using("numba")
    assert fast.backend == "numba" and net.backend == "numpy"
    (a, ca), (b, cb) = net.forward(X.astype(float)), fast.forward(X.astype(float))
    assert np.array_equal(a, b)
    d = ms.losses.cross_entropy(a, LABELS)[1]
    ga, gb = net.backward(d, ca)[1], fast.backward(d, cb)[1]
    assert all(relative(gb[n], ga[n]) <= 1e-13 for n in NAMES)


def test_repr_is_a_table():
    text = repr(network())
    assert text.splitlines()[0] == "Network, 132 parameters, float32, numpy; input [T, B, ...], time first"
    assert len(text.splitlines()) == 6 and "fc1 " in text and "3 classes" in text


RNG = np.random.default_rng(0)
BAD_NETWORKS = {
    "empty": (lambda: ms.Network(), ValueError, "at least one layer"),
    "not a layer": (lambda: ms.Network(fc1=3), TypeError, "fc1 must be a layer"),
    "sizes": (
        lambda: ms.Network(fc1=ms.Linear(3, 4, rng=RNG), lif1=ms.LIF(5)), ValueError,
        r"lif1 does not fit the layer before it: it has \[5\] neurons, got \[4\]",
    ),
    "sizes of linear": (
        lambda: ms.Network(a=ms.LIF(3), b=ms.Linear(4, 4, rng=RNG)), ValueError, r"b does not fit.*takes \[4\].*got \[3\]",
    ),
    "map into linear": (
        lambda: ms.Network(a=ms.LIF((2, 3)), b=ms.Linear(6, 4, rng=RNG)), ValueError, r"takes \[6\].*got \[2, 3\]",
    ),
    "vote": (lambda: ms.Network(a=ms.LIF(7), b=ms.PopulationVote(3)), ValueError, "multiple of 3 neurons"),
    "dtypes": (
        lambda: ms.Network(a=ms.Linear(3, 3, rng=RNG, dtype="float64"), b=ms.LIF(3)), TypeError,
        "one float dtype per net, got a float64, b float32",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_NETWORKS)
def test_networks_that_cannot_be_are_explained(name):
    make, kind, message = BAD_NETWORKS[name]
    with pytest.raises(kind, match=message):
        make()


def test_a_layer_may_stand_once_only():
    lif = ms.LIF(3)
    with pytest.raises(ValueError, match="a and b are the same layer"):
        ms.Network(a=lif, b=lif)


def test_errors_in_a_layer_name_it():
    with pytest.raises(ValueError, match=r"^fc1: Linear: x has shape \[5, 4, 5\], expected \[T, B, 6\]"):
        network().forward(X[..., :5])
    with pytest.raises(TypeError, match=r"^fc1: Linear: x has dtype float64, expected float32"):
        network().forward(X.astype(float))
    with pytest.raises(KeyError, match="no layer 'lif3'"):
        network()["lif3"]


def test_batch_first_input_is_found_out_by_the_labels():
    scores, _ = network().forward(X.swapaxes(0, 1))
    with pytest.raises(ValueError, match="4 labels for scores of 5 samples: minisnn is time-first"):
        ms.losses.mse(scores, LABELS)


def test_a_backend_that_is_missing_says_why(monkeypatch):
    from minisnn import kernels

    monkeypatch.setitem(kernels.BACKENDS, "nowhere", ("minisnn.kernels.nowhere", "pip install nowhere"))
    with pytest.raises(ms.BackendUnavailable, match=r"ModuleNotFoundError.*nowhere.*pip install nowhere"):
        network().using("nowhere")
    monkeypatch.setenv("MINISNN_BACKEND", "nunba")
    with pytest.raises(ValueError, match="MINISNN_BACKEND: unknown backend 'nunba'"):
        repr(ms.LIF(3))
    monkeypatch.setenv("MINISNN_BACKEND", "numpy")
    assert ms.LIF(3).backend == "numpy"
