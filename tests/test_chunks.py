"""Chunked time: the same spikes and gradients in the memory of sqrt(T) steps."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minisnn as ms
from minisnn.kernels import pool


def pair(shape, **options):
    return [ms.Spiking(shape, remember=remember, **options) for remember in ("all", "chunks")]


def relative(a, b):
    return np.abs(a - b).max() / max(np.abs(b).max(), 1e-300)


#: Compiling each pair takes a second or two: Numba runs two.
PAIRS = {
    "numpy": [(n, r) for n in ms.neurons.NEURONS if n != "quadratic" for r in ms.resets.RESETS],  # which runs away
    "numba": [("lif", "hard"), ("current_lif", "soft")],
}


@pytest.mark.parametrize("where", PAIRS)
@settings(max_examples=30)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1), steps=st.integers(1, 40), given_state=st.booleans())
def test_chunks_are_the_whole(where, data, seed, steps, given_state):
    if where == "numba":
        pytest.importorskip("numba")
    neuron, reset = data.draw(st.sampled_from(PAIRS[where]))
    rng = np.random.default_rng(seed)
    neuron = ms.neurons.NEURONS[neuron]
    params = {n: 0.8 for n in neuron.params if n != "decay"} | ({"decay": 0.7} if "decay" in neuron.params else {})
    whole, chunks = pair(
        5, neuron=neuron, reset=ms.resets.RESETS[reset], threshold=0.7, dtype="float64", backend=where, **params
    )
    x, d_y = rng.normal(0.3, 0.5, (2, steps, 3, 5))
    names = neuron.state
    state = {n: rng.normal(size=(3, 5)) for n in names} if given_state else None
    d_state = {n: rng.normal(size=(3, 5)) for n in names} if given_state else None
    (y, cache), (y_chunks, cache_chunks) = (layer.forward(x, state=state) for layer in (whole, chunks))
    assert np.array_equal(y, y_chunks) and np.array_equal(cache.u, cache_chunks.u)
    assert all(np.array_equal(cache.state[n], cache_chunks.state[n]) for n in names)
    d_x, grads = whole.backward(d_y, cache, d_state=d_state)
    d_x_chunks, grads_chunks = chunks.backward(d_y, cache_chunks, d_state=d_state)
    assert np.array_equal(d_x, d_x_chunks)  # goes from step to step: the very same operations
    if given_state:
        before, again = grads.pop("state"), grads_chunks.pop("state")
        assert all(np.array_equal(before[n], again[n]) for n in names)
    assert set(grads) == set(grads_chunks)
    for name in grads:
        assert relative(grads_chunks[name], grads[name]) <= 1e-12
    spent, d_spent = x.copy(), d_y.copy()
    d_x_once, grads_once = chunks.vjp(spent, d_spent, consume=("x", "d_y"), state=state, d_state=d_state)
    assert np.array_equal(d_x_once, d_x) and all(np.array_equal(grads_once[n], grads_chunks[n]) for n in grads)


def peak(layer, x, d_y):
    """Most memory of a run there and back, besides its two results."""
    pool.release()
    tracemalloc.start()
    y, cache = layer.forward(x)
    d_x, _ = layer.backward(d_y, cache)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most - y.nbytes - d_x.nbytes


def test_memory_of_a_thousand_steps(backend):
    x = np.random.default_rng(0).normal(0.3, 0.5, (1000, 16, 512)).astype("float32")
    whole, chunks = pair(512, backend=backend)
    for layer in (whole, chunks):
        peak(layer, x[:50], x[:50])  # compile
    a, b = peak(chunks, x, x), peak(whole, x, x)
    assert x.nbytes <= b <= 1.3 * x.nbytes
    assert a <= 0.15 * b


def test_a_run_of_which_only_gradients_are_wanted_keeps_next_to_nothing():
    """`vjp` on Numba goes there and back part by part: the same bits, and no array of membranes."""
    pytest.importorskip("numba")
    rng = np.random.default_rng(0)
    x, d_y = rng.normal(0.3, 0.5, (2, 100, 128, 512)).astype("float32")
    layer = ms.LIF(512, backend="numba")
    _, cache = layer.forward(x)
    d_x, grads = layer.backward(d_y, cache)
    layer.vjp(x[:3], d_y[:3].copy(), consume="d_y")
    pool.release()
    spent = d_y.copy()
    tracemalloc.start()
    d_x_once, grads_once = layer.vjp(x, spent, consume="d_y")
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most <= 0.1 * x.nbytes
    assert np.shares_memory(d_x_once, spent)
    assert np.array_equal(d_x_once, d_x) and all(np.array_equal(grads_once[n], grads[n]) for n in grads)


def test_a_network_with_chunks_trains_to_the_same_numbers(backend):
    rng = np.random.default_rng(0)
    weights = rng.normal(0, 0.5, (12, 10))
    nets = [
        ms.Network(fc=ms.Linear(12, 10, weight=weights, dtype="float64"),
                   lif=ms.LIF(10, dtype="float64", remember=remember), rate=ms.Rate()).using(backend)
        for remember in ("all", "chunks")
    ]  # fmt: skip
    x = (rng.random((30, 6, 12)) < 0.3).astype(np.uint8)
    labels = rng.integers(0, 10, 6)
    (loss, grads), (loss_chunks, grads_chunks) = (net.loss_and_grads(x, labels, ms.losses.mse) for net in nets)
    assert loss == loss_chunks
    assert all(relative(grads_chunks[n], grads[n]) <= 1e-12 for n in grads)
    report = ms.checks.check_grads(nets[1], x[:7], labels, ms.losses.mse)
    assert report.ok, report


def test_clear_errors():
    with pytest.raises(ValueError, match=r"remember must be one of \('all', 'chunks'\), got 'some'"):
        ms.LIF(3, remember="some")
    with pytest.raises(ValueError, match="Recurrent: remembers all membranes"):
        ms.Recurrent(3, rng=np.random.default_rng(0), remember="chunks")


@pytest.mark.parametrize(
    ("neuron", "steps", "dtype", "wrt", "cut"),
    [("current_lif", 30, "float64", None, False), ("current_lif", 700, "float64", None, True),
     ("lif", 900, "float32", ("threshold",), False), ("lif", 1400, "float32", ("threshold",), True)],
)  # fmt: skip
def test_there_and_back_is_the_pure_run_bit_for_bit_however_long(neuron, steps, dtype, wrt, cut):
    """A tile is cut into pieces, the last smaller; or, where its cache holds no more steps, time into spans."""
    pytest.importorskip("numba")
    from minisnn.kernels.compiled import spans

    narrow, span = spans(steps, 1400, len(ms.neurons.NEURONS[neuron].state) * np.dtype(dtype).itemsize)
    assert (narrow < 1400) != cut and (span < steps) == cut
    rng, neuron = np.random.default_rng(0), ms.neurons.NEURONS[neuron]
    layer = ms.Spiking(
        700, neuron=neuron, reset=ms.resets.soft, threshold=0.8, dtype=dtype, backend="numba",
        **{n: v for n, v in zip(neuron.params, (0.6, 0.5), strict=False)},
    )  # fmt: skip
    x, d_y = rng.normal(0.2, 0.4, (2, steps, 3, 700)).astype(dtype)
    state, d_state = ({n: rng.normal(size=(3, 700)).astype(dtype) for n in neuron.state} for _ in range(2))
    d_x, grads = layer.backward(d_y, layer.forward(x, state=state)[1], d_state=d_state, wrt=wrt)
    for consume in ((), ("d_y",)):
        d_x_once, once = layer.vjp(x, d_y.copy(), state=state, d_state=d_state, wrt=wrt, consume=consume)
        assert np.array_equal(d_x_once, d_x)
        before, before_once = grads["state"], once.pop("state")
        assert all(np.array_equal(before_once[n], before[n]) for n in before)
        assert set(once) == set(grads) - {"state"} and all(np.array_equal(once[n], grads[n]) for n in once)


@pytest.mark.parametrize("shape", [(7, 5, 2500), (7, 71, 60), (2, 3, 2048), (1, 2, 5)])
def test_spans_of_any_length_give_the_same_bits(shape, monkeypatch):
    """Also where a tile is a part of a row, or several rows with some left over."""
    pytest.importorskip("numba")
    from minisnn.kernels import compiled

    rng = np.random.default_rng(0)
    layer = ms.LIF(shape[2], threshold=0.8, decay=0.6, backend="numba")
    x, d_y = rng.normal(0.2, 0.4, (2, *shape)).astype("f4")
    d_x, grads = layer.vjp(x, d_y, wrt="threshold")
    for span in (1, 2, 3, 7):
        monkeypatch.setattr(compiled, "spans", lambda n_steps, lanes, _, span=span: (min(lanes, 700), min(span, n_steps)))
        d_x_cut, cut = layer.vjp(x, d_y, wrt="threshold")
        assert np.array_equal(d_x_cut, d_x) and np.array_equal(cut["threshold"], grads["threshold"])
