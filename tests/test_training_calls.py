"""The calls between a network and a training loop: loss_and_grads, truncation, penalties, predict."""

import numpy as np
import pytest
from grid import relative
from test_network import LABELS, NAMES, X, network

import minisnn as ms
from minisnn.checks import richardson

MSE = ms.losses.mse


def test_loss_and_grads_equals_forward_and_backward_bit_for_bit(backend):
    net = network(backend=backend)
    scores, caches = net.forward(X)
    loss, d = MSE(scores, LABELS)
    for pattern in (None, ms.STL, ms.TL, "fc2.weight"):
        _, grads = net.backward(d, caches, wrt=pattern)
        found, fast = net.loss_and_grads(X, LABELS, MSE, wrt=pattern)
        assert found == loss and list(fast) == list(grads) and all(np.array_equal(fast[n], grads[n]) for n in grads)
    assert net.loss_and_grads(X, LABELS, MSE, truncate=99)[0] == loss


def test_truncation_cuts_gradients_and_carries_states(backend):
    net = network("float64", backend)
    x = X.astype(float)
    loss, grads = net.loss_and_grads(x, LABELS, MSE, truncate=2)
    state, total, expected = None, 0.0, dict.fromkeys(NAMES, 0.0)
    for a, b in ((0, 2), (2, 4), (4, 5)):
        scores, caches = net.forward(x[a:b], state=state)
        value, d = MSE(scores, LABELS)
        total += value * (b - a) / 5
        found = net.backward(d * (b - a) / 5, caches)[1]
        expected = {n: expected[n] + found[n] for n in NAMES}
        state = caches.state
    assert loss == pytest.approx(total, rel=1e-14)
    assert all(relative(grads[n], expected[n]) <= 1e-14 for n in NAMES)
    with pytest.raises(ValueError, match="truncate must be a whole number"):
        net.loss_and_grads(x, LABELS, MSE, truncate=0)


def test_misspelled_options_and_no_time_steps_are_refused():
    net = network()
    with pytest.raises(TypeError, match="unexpected keyword argument 'trian'"):
        net.loss_and_grads(X, LABELS, MSE, trian=True)
    with pytest.raises(ValueError, match=r"loss_and_grads: x must be \[T, B, ...\].* one step or more; got shape \[0, "):
        net.loss_and_grads(X[:0], LABELS, MSE)
    with pytest.raises(ValueError, match=r"loss_and_grads: x must be \[T, B, ...\].*; got None"):
        net.loss_and_grads(None, LABELS, MSE)
    with pytest.raises(ValueError, match=r"loss_and_grads: x must be .*; got shape \[\]"):
        net.loss_and_grads(np.float32(1), LABELS, MSE)
    with pytest.raises(TypeError, match="loss_and_grads: loss must be a function.* got 'mse'"):
        net.loss_and_grads(X, LABELS, "mse")


def test_truncation_of_a_readout_that_adds_over_time_misses_only_what_crosses_the_cuts():
    """With no leak and no reset nothing crosses: the truncated gradient of a mean over time is the full one."""
    rng = np.random.default_rng(0)
    options = {"dtype": "float64", "backend": "numpy"}
    net = ms.Network(fc=ms.Linear(6, 6, rng=rng, dtype="float64"), lif=ms.LIF(6, decay=0.0, **options), rate=ms.Rate())
    x = rng.normal(size=(8, 3, 6))

    def linear(scores, weights):
        return float((scores * weights).sum()), weights

    weights = rng.normal(size=(3, 6))
    whole, cut = (net.loss_and_grads(x, weights, linear, truncate=k, wrt=ms.STL) for k in (None, 2))
    assert cut[0] == pytest.approx(whole[0]) and all(relative(cut[1][n], whole[1][n]) <= 1e-13 for n in whole[1])


@pytest.mark.parametrize("penalty", [ms.losses.FiringRate(0.2, 3.0), ms.losses.Silence(0.6, 3.0)], ids=["rate", "silence"])
def test_penalties_have_the_gradient_of_their_value(penalty):
    """On the smooth twin, whose spikes have an ordinary derivative."""
    net = network("float64").smoothed()
    x = X.astype(float)
    loss, grads = net.loss_and_grads(x, LABELS, MSE, penalties={"lif1": penalty, "lif2": penalty})
    plain = net.loss_and_grads(x, LABELS, MSE)
    assert loss > plain[0] and not np.array_equal(grads["fc1.weight"], plain[1]["fc1.weight"])
    rng = np.random.default_rng(0)
    for name, param in net.params().items():
        start, direction = param.copy(), rng.normal(size=param.shape)

        def along(h, param=param, start=start, direction=direction):
            param[...] = start + h * direction
            value = net.loss_and_grads(x, LABELS, MSE, penalties={"lif1": penalty, "lif2": penalty})[0]
            param[...] = start
            return value, None

        found = richardson(along, step=1e-4)
        assert abs(found.value - (grads[name] * direction).sum()) <= 1e-7 * max(1, abs(found.value))


def test_penalties_act_through_fit_and_pull_silent_neurons_up():
    images, labels = (a[:200] for a in ms.data.digits())

    def rate(penalties):
        rng = np.random.default_rng(0)
        net = ms.Network(
            fc1=ms.Linear(64, 24, rng=rng), lif1=ms.LIF(24, threshold=3.0, backend="numpy"),
            fc2=ms.Linear(24, 20, rng=rng), lif2=ms.LIF(20, threshold=0.5, backend="numpy"), vote=ms.PopulationVote(10),
        )  # fmt: skip
        history = ms.fit(net, ms.Adam(net, ms.STL, lr=5e-3), (images, labels), epochs=4, penalties=penalties,
                         encoder=ms.encode.Bernoulli(4), progress=False)  # fmt: skip
        return history.column("silent", "lif1")[-1]

    assert rate({"lif1": ms.losses.Silence(0.1, 10.0)}) < 0.5 * rate(None)


def test_penalties_and_inner_gradients_that_do_not_fit_are_named():
    net = network()
    with pytest.raises(ValueError, match=r"penalties names \['fc1'\], expected some of \['lif1', 'lif2'\]"):
        net.loss_and_grads(X, LABELS, MSE, penalties={"fc1": ms.losses.Silence()})
    scores, caches = net.forward(X)
    with pytest.raises(ValueError, match=r"^lif1: .*d_inner\['lif1'\] has shape \[8\], expected \[5, 4, 8\]"):
        net.backward(np.zeros_like(scores), caches, d_inner={"lif1": np.zeros(8, "f4")})


# -- predict


def test_predict_and_accuracy():
    net = network()
    scores, _ = net.forward(X)
    found = net.predict(X)
    assert found.dtype == np.int64 and np.array_equal(found, scores.argmax(axis=1))
    assert net.accuracy(X, found) == 1.0 and net.accuracy(X, (found + 1) % 3) == 0.0
    with pytest.raises(ValueError, match="2 labels for scores of 4 samples"):
        net.accuracy(X, LABELS[:2])
