"""Layers that carry something through time or draw at random: recurrent, membrane readout, dropout, sums of branches."""

import itertools

import numpy as np
import pytest
from grid import relative
from hypothesis import given
from hypothesis import strategies as st

import minisnn as ms

RNG = np.random.default_rng(0)
TWO_STATES = {"neuron": ms.neurons.current_lif, "decay_syn": 0.7}


def recurrent(backend="numpy", dtype="float64", n=4, seed=0, **options):
    rng = np.random.default_rng(seed)
    options = {"threshold": rng.uniform(0.4, 0.9, n), **options}
    return ms.Recurrent(n, rng=rng, backend=backend, dtype=dtype, **options)


# -- recurrent


@pytest.mark.parametrize("reset", ms.resets.RESETS)
@pytest.mark.parametrize("options", [{}, TWO_STATES], ids=["lif", "two states"])
def test_recurrent_passes_the_three_twins(reset, options, backend):
    if backend != "numpy" and (reset, bool(options)) != ("soft_detached", True):
        pytest.skip("compiled for one of the ten")
    layer = recurrent(backend, reset=ms.resets.RESETS[reset], surrogate=ms.surrogates.atan(1.3), **options)
    x = np.random.default_rng(1).normal(0.5, 1, (6, 3, 4))
    report = ms.checks.check_layer(layer, x).raise_if_wrong()
    assert {"layer.recurrent", "layer.threshold", "layer.decay", "x"} <= {r.name for r in report.rows}


def test_recurrent_is_the_loop_it_says(backend):
    layer = recurrent(backend)
    x = RNG.normal(0.5, 1, (6, 3, 4))
    v, s = np.zeros((3, 4)), np.zeros((3, 4))
    for t, spikes in enumerate(layer.forward(x)[0]):
        u = layer.decay * v + (x[t] + s @ layer.params["recurrent"])
        s = (u >= layer.threshold).astype(float)
        v = u - s * u
        assert np.array_equal(spikes, s)


def test_recurrent_without_weights_is_spiking(backend):
    x, d_y = RNG.normal(0.5, 1, (6, 3, 4)), RNG.normal(size=(6, 3, 4))
    layer = recurrent(backend, recurrent=np.zeros((4, 4)))
    plain = ms.LIF(4, threshold=layer.threshold, dtype="float64", backend=backend)
    (y, cache), (z, kept) = layer.forward(x), plain.forward(x)
    assert np.array_equal(y, z) and np.array_equal(cache.u, kept.u)
    (d_x, grads), (d_z, found) = layer.backward(d_y, cache), plain.backward(d_y, kept)
    assert relative(d_x, d_z) <= 1e-15 and relative(grads["threshold"], found["threshold"]) <= 1e-14
    assert grads["recurrent"].any()  # zero weights still have a gradient


@given(
    cuts=st.lists(st.integers(1, 8), max_size=3), seed=st.integers(0, 10**6), fast=st.booleans(),
    kind=st.sampled_from([("float32", True, False), ("float64", False, False), ("float64", True, True)]),
)  # fmt: skip
def test_chunks_over_time_equal_the_whole(cuts, seed, kind, fast):
    """Spikes, states, input and state gradients bit for bit; parameters to the rounding of sums in another order."""
    dtype, soft, two = kind
    rng = np.random.default_rng(seed)
    options = {"reset": ms.resets.soft if soft else ms.resets.hard, **(TWO_STATES if two else {})}
    layer = recurrent("numba" if fast else "numpy", dtype, seed=seed, surrogate=ms.surrogates.fast_sigmoid(3.0), **options)
    x, d_y = rng.normal(0.5, 1, (9, 2, 4)).astype(dtype), rng.normal(size=(9, 2, 4)).astype(dtype)
    zero = {n: np.zeros((2, 4), dtype) for n in layer.state_names}
    whole, cache = layer.forward(x, state=zero)
    d_x, grads = layer.backward(d_y, cache)
    borders = [0, *sorted({c for c in cuts if c < 9}), 9]
    state, caches, parts = zero, [], []
    for a, b in itertools.pairwise(borders):
        y, kept = layer.forward(x[a:b], state=state)
        parts.append(y)
        caches.append(kept)
        state = kept.state
    assert np.array_equal(np.concatenate(parts), whole)
    assert all(np.array_equal(state[n], cache.state[n]) for n in layer.state_names)
    d_state, d_parts, total = None, [], dict.fromkeys(layer.params, 0)
    for (a, b), kept in zip(reversed(list(itertools.pairwise(borders))), reversed(caches), strict=True):
        d, found = layer.backward(d_y[a:b], kept, d_state=d_state)
        d_state = found["state"]
        d_parts.insert(0, d)
        total = {n: total[n] + found[n] for n in layer.params}
    assert np.array_equal(np.concatenate(d_parts), d_x)
    assert all(np.array_equal(d_state[n], grads["state"][n]) for n in layer.state_names)
    assert all(relative(total[n], grads[n]) <= (1e-13 if dtype == "float64" else 1e-4) for n in layer.params)


def test_recurrent_says_what_is_wrong():
    for make, message in (
        (lambda: ms.Recurrent(3), "rng must be a generator"),
        (lambda: ms.Recurrent((2, 3), rng=RNG), "whole number"),
        (lambda: ms.Recurrent(3, recurrent=np.zeros((3, 2))), r"\[3, 2\], expected \[3, 3\]"),
        (lambda: recurrent().forward(np.zeros((2, 1, 4)), state={"v": np.zeros((1, 4))}), r"keys \['v', 'spikes'\]"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            make()
    net = ms.Network(r=recurrent())
    assert list(net.params(ms.SL)) == ["r.recurrent"] and "spikes[t-1] @ recurrent" in repr(net)


# -- membrane readout


@pytest.mark.parametrize("over", ["last", "max"])
@pytest.mark.parametrize("neuron", ms.neurons.NEURONS)
def test_a_membrane_readout_passes_the_three_twins(over, neuron, backend):
    if backend != "numpy" and neuron != "lif":
        pytest.skip("compiled for one neuron")
    rng = np.random.default_rng(0)
    options = {"dtype": "float64", "backend": backend}
    net = ms.Network(
        fc=ms.Linear(5, 4, rng=rng, dtype="float64"), lif=ms.LIF(4, threshold=0.6, **options),
        out=ms.MembraneReadout(4, over=over, neuron=ms.neurons.NEURONS[neuron], **options),
    )  # fmt: skip
    x, labels = rng.normal(0.5, 1, (5, 3, 5)), rng.integers(0, 4, 3)
    ms.checks.check_grads(net, x, labels, ms.losses.cross_entropy).raise_if_wrong()


def test_a_membrane_readout_is_the_leaky_sum_it_says(backend):
    x = RNG.normal(size=(5, 3, 4))
    u = np.zeros((3, 4))
    all_u = np.stack([u := 0.8 * u + xt for xt in x])
    options = {"decay": 0.8, "dtype": "float64", "backend": backend}
    last, cache = ms.MembraneReadout(4, **options).forward(x)
    assert np.array_equal(last, all_u[-1]) and np.array_equal(cache.u, all_u) and np.array_equal(cache.state["v"], u)
    assert np.array_equal(ms.MembraneReadout(4, over="max", **options).forward(x)[0], all_u.max(axis=0))
    rest, _ = ms.MembraneReadout(4, **options).forward(x[2:], state={"v": all_u[1]})
    assert np.array_equal(rest, last)
    with pytest.raises(ValueError, match=r"over must be one of \('last', 'max'\)"):
        ms.MembraneReadout(4, over="mean")


def test_a_readout_trains_with_cross_entropy():
    images, labels = (a[:400] for a in ms.data.digits())
    rng = np.random.default_rng(0)
    net = ms.Network(
        fc1=ms.Linear(64, 32, rng=rng), lif1=ms.LIF(32, threshold=0.5, backend="numpy"),
        fc2=ms.Linear(32, 10, rng=rng), out=ms.MembraneReadout(10, decay=0.9, backend="numpy"),
    )  # fmt: skip
    history = ms.fit(net, ms.Adam(net, ms.STL, lr=5e-3), (images, labels), epochs=8, batch=32, loss=ms.losses.cross_entropy,
                     encoder=ms.encode.Latency(5), progress=False)  # fmt: skip
    assert history.column("train_accuracy")[-1] > 0.8


# -- dropout


@given(
    p=st.floats(0.05, 0.9), t=st.integers(1, 5), b=st.integers(1, 4), seed=st.integers(0, 10**6), per_step=st.booleans(),
    spikes=st.booleans(),
)  # fmt: skip
def test_dropout_multiplies_by_its_mask(p, t, b, seed, per_step, spikes):
    rng = np.random.default_rng(seed)
    layer = ms.Dropout(p, per_step=per_step)
    x = (rng.random((t, b, 7)) < 0.5).view(np.uint8) if spikes else rng.normal(size=(t, b, 7)).astype("f4")
    assert np.array_equal(layer.forward(x)[0], x)
    y, cache = layer.forward(x, train=True, rng=np.random.default_rng(seed))
    again = layer.forward(x, train=True, rng=np.random.default_rng(seed))[0]
    assert y.dtype == np.float32 and np.array_equal(y, again) and len(cache.mask) == (t if per_step else 1)
    assert set(np.unique(cache.mask)) <= {np.float32(0), np.float32(1 / (1 - p))}
    assert np.array_equal(y, x * cache.mask) and np.array_equal(layer.forward(x, mask=cache.mask)[0], y)
    d_y = rng.normal(size=y.shape).astype("f4")
    assert np.array_equal(layer.backward(d_y, cache)[0], d_y * cache.mask)


def test_dropout_keeps_the_mean_and_the_share():
    x = np.ones((50, 40, 100), np.float32)
    y, cache = ms.Dropout(0.3).forward(x, train=True, rng=RNG)
    assert abs((cache.mask == 0).mean() - 0.3) < 0.01 and abs(y.mean() - 1) < 0.01


def dropped(dtype="float64"):
    rng = np.random.default_rng(0)
    return ms.Network(
        fc1=ms.Linear(5, 8, rng=rng, dtype=dtype), lif1=ms.LIF(8, threshold=0.4, dtype=dtype, backend="numpy"),
        drop1=ms.Dropout(0.4), fc2=ms.Linear(8, 6, rng=rng, dtype=dtype),
        lif2=ms.LIF(6, threshold=0.3, dtype=dtype, backend="numpy"), vote=ms.PopulationVote(3),
    )  # fmt: skip


def test_masks_are_handed_in_and_held_by_twins():
    net, x = dropped(), RNG.normal(0.6, 1, (4, 3, 5))
    _, base = net.forward(x, train=True, rng=np.random.default_rng(1))
    masks = {"drop1": base["drop1"].mask}
    scores, caches = net.forward(x, masks=masks)
    assert np.array_equal(scores, net.forward(x, train=True, rng=np.random.default_rng(1))[0])
    twin, _ = ms.checks.run_twin(net, x, caches, "tangent")
    assert np.allclose(twin, scores, rtol=1e-14)
    with pytest.raises(ValueError, match="masks names"):
        net.forward(x, masks={"fc1": masks["drop1"]})
    with pytest.raises(ValueError, match=r"mask has shape \[2, 3, 8\]"):
        net.forward(x, masks={"drop1": masks["drop1"][:2]})
    with pytest.raises(TypeError, match="needs forward.*rng=generator"):
        net.forward(x, train=True)
    with pytest.raises(ValueError, match=r"number in \[0, 1\)"):
        ms.Dropout(1.0)


# -- sums of branches


def residual(dtype="float64", backend="numpy"):
    rng = np.random.default_rng(0)
    options = {"dtype": dtype, "backend": backend, "threshold": 0.5}
    return ms.Network(
        fc1=ms.Linear(5, 6, rng=rng, dtype=dtype), lif1=ms.LIF(6, **options),
        fc2=ms.Linear(6, 6, rng=rng, dtype=dtype), lif2=ms.LIF(6, **options),
        sum=ms.Add("lif1"), fc3=ms.Linear(6, 6, rng=rng, dtype=dtype), again=ms.Add("lif1"),
        lif3=ms.LIF(6, **options), vote=ms.PopulationVote(3),
    )  # fmt: skip


def test_sums_of_branches_pass_the_three_twins(backend):
    x, labels = RNG.normal(0.8, 1, (5, 4, 5)), RNG.integers(0, 3, 4)
    ms.checks.check_grads(residual(backend=backend), x, labels, ms.losses.mse).raise_if_wrong()


def test_a_sum_is_a_sum_and_its_source_must_fit():
    net, x = residual(), RNG.normal(0.8, 1, (5, 4, 5))
    caches = net.forward(x)[1]
    total = caches["lif2"].spikes.astype(float) + caches["lif1"].spikes
    y, kept = net["sum"].forward(caches["lif2"].spikes, other=caches["lif1"].spikes)
    assert np.array_equal(y, total) and total.max() == 2
    assert np.array_equal(net["lif3"].forward(net["fc3"].forward(y)[0] + caches["lif1"].spikes)[0], caches["lif3"].spikes)
    assert np.array_equal(net["sum"].backward(total, kept)[0], total)
    with pytest.raises(ValueError, match="'lif9', which is no layer before it"):
        ms.Network(lif1=ms.LIF(3), sum=ms.Add("lif9"))
    with pytest.raises(ValueError, match=r"adds lif1 of shape \[3\] to an input of \[4\]"):
        ms.Network(lif1=ms.LIF(3), fc=ms.Linear(3, 4, rng=RNG), sum=ms.Add("lif1"))
    with pytest.raises(TypeError, match="which a Network takes from 'lif1'"):
        ms.Add("lif1").forward(x)
