"""fit: it learns, it is a function of its seed, it reports health, and it stops at the first number that is none."""

import json
import warnings

import numpy as np
import pytest

import minisnn as ms
from minisnn.train import ParameterWarning, evaluate

ENCODER = ms.encode.Bernoulli(4)


def network(seed=0, threshold=1.0, backend="numpy", hidden=24):
    rng = np.random.default_rng(seed)
    return ms.Network(
        fc1=ms.Linear(64, hidden, rng=rng), lif1=ms.LIF(hidden, threshold=threshold, backend=backend),
        fc2=ms.Linear(hidden, 20, rng=rng), lif2=ms.LIF(20, threshold=threshold, backend=backend),
        vote=ms.PopulationVote(10),
    )  # fmt: skip


def digits(n=320):
    images, labels = ms.data.digits("train")
    return images[:n], labels[:n]


def train(net, rule=ms.STL, **options):
    options = {"epochs": 2, "batch": 32, "encoder": ENCODER, "lr": 5e-3, **options}
    optimizer = ms.Adam(net, rule, lr=options.pop("lr"))
    return ms.fit(net, optimizer, options.pop("data", digits()), **options)


def test_it_learns():
    net = network()
    history = train(net, epochs=12, loss=ms.losses.mse, lr=1e-2)
    loss = history.column("train_loss")
    assert loss[-1] < 0.4 * loss[0] and history.column("validation_accuracy")[-1] > 0.6


@pytest.mark.parametrize("rule", [ms.SL, ms.TL, ms.STL, ms.STDL])
def test_only_what_the_rule_names_changes(rule):
    net = network(threshold=0.3)
    before = {n: p.copy() for n, p in net.params().items()}
    train(net, rule)
    assert {n for n, p in net.params().items() if not np.array_equal(p, before[n])} == set(net.params(rule))


def test_a_run_is_a_function_of_its_seed(backend):
    runs = []
    for seed in (0, 0, 1):
        net = network(backend=backend)
        runs.append((train(net, seed=seed), net.params()))
    strip = [[{k: v for k, v in row.items() if k != "seconds"} for row in history.epochs] for history, _ in runs]
    assert strip[0] == strip[1] != strip[2]
    assert all(np.array_equal(runs[0][1][n], runs[1][1][n]) for n in runs[0][1])


def test_draws_of_different_purposes_differ():
    from minisnn.train import EVALUATE, SHUFFLE, SPLIT, TRAIN

    draws = {(e, b, s): np.random.default_rng([0, e, b, s]).integers(2**62) for e in (0, 1) for b in (0, 1)
             for s in (SPLIT, SHUFFLE, TRAIN, EVALUATE)}  # fmt: skip
    assert len(set(draws.values())) == len(draws)


def test_health_of_every_spiking_layer():
    net = network(threshold=np.array(0.5), backend="numpy")
    history = train(net, ms.SL, epochs=1, validation=0)
    health = history.epochs[0]["layers"]
    assert list(health) == history.layers == ["lif1", "lif2"]
    for h in health.values():
        assert 0 < h["firing_rate"] < 1 and 0 <= h["silent"] <= 1 and 0 <= h["always_firing"] <= 1
        assert h["threshold_min"] == h["threshold_mean"] == h["threshold_max"] == 0.5
        assert h["gradient_norm"] > 0  # also where thresholds do not learn
    assert history.column("firing_rate", "lif1") == [health["lif1"]["firing_rate"]]
    assert history.epochs[0]["validation_loss"] is None


def test_health_counts_dead_and_saturated_neurons():
    net = network()
    net["lif1"].threshold[:6] = 1e6
    net["lif1"].threshold[6:9] = -1e6
    net["fc1"].weight[:] = np.abs(net["fc1"].weight)  # no neuron is silent by itself
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParameterWarning)
        h = train(net, ms.SL, epochs=1, lr=1e-6).epochs[0]["layers"]["lif1"]
    assert h["silent"] == 6 / 24 and h["always_firing"] == 3 / 24


def test_health_equals_a_count_by_hand():
    net = network(threshold=0.4)
    images, labels = digits(40)
    history = train(net, ms.SL, epochs=1, batch=40, validation=0, lr=1e-9, data=(images, labels))
    from minisnn.train import SHUFFLE, TRAIN

    order = np.random.default_rng([0, 0, 0, SHUFFLE]).permutation(40)
    scores, caches = network(threshold=0.4).forward(ENCODER(images[order], np.random.default_rng([0, 0, 0, TRAIN])))
    spikes = caches["lif1"].spikes
    h = history.epochs[0]["layers"]["lif1"]
    assert np.isclose(h["firing_rate"], spikes.mean()) and h["silent"] == (spikes.sum(axis=(0, 1)) == 0).mean()
    assert np.isclose(history.epochs[0]["train_loss"], ms.losses.mse(scores, labels[order])[0], rtol=1e-5)
    assert history.epochs[0]["train_accuracy"] == ms.losses.accuracy(scores, labels[order])


@pytest.mark.parametrize("spoiled", ["lif1", "fc2", "input"])
def test_nan_stops_the_run_and_names_the_layer(spoiled):
    net = network(threshold=0.5)
    images, labels = digits(64)
    encoder = ENCODER
    if spoiled == "lif1":
        net["lif1"].decay[3] = np.nan
    elif spoiled == "fc2":
        net["fc2"].weight[3, 2] = np.nan
    else:
        encoder = type("Bad", (), {"steps": 2, "__call__": lambda s, x, rng: np.full((2, *x.shape), np.nan, "f4")})()
    with pytest.raises(ms.TrainingStopped, match="epoch 1, batch 1") as caught:
        train(net, data=(images, labels), encoder=encoder, validation=0)
    assert caught.value.layer == spoiled and repr(spoiled) in str(caught.value)
    assert (caught.value.epoch, caught.value.batch, caught.value.history.epochs) == (0, 0, [])


def test_a_loss_that_is_nan_leaves_the_parameters_as_they_were():
    net = network()
    before = {n: p.copy() for n, p in net.params().items()}
    with pytest.raises(ms.TrainingStopped, match="the loss became nan.*'loss'"):
        train(net, loss=lambda s, y: (float("nan"), s))
    with pytest.raises(ms.TrainingStopped, match="gradient of .* is not finite"):
        train(net, loss=lambda s, y: (1.0, s * np.float32("nan")))
    assert all(np.array_equal(before[n], p) for n, p in net.params().items())


def test_a_threshold_that_crosses_zero_is_warned_of_once():
    net = network(threshold=0.01)
    with pytest.warns(ParameterWarning) as seen:
        train(net, ms.TL, epochs=3, lr=0.05)
    texts = [str(w.message) for w in seen]
    assert len(texts) == len({t.split(":")[0].split(", ")[1] for t in texts}) and "threshold must be > 0" in texts[0]


def test_keep_best_ends_with_the_best_epoch():
    net = network()
    images, labels = digits()
    held_out = tuple(a[:60] for a in ms.data.digits("validation"))
    history = train(net, epochs=6, validation=held_out, keep="best", data=(images, labels), lr=3e-2)
    best = max(history.column("validation_accuracy"))
    assert history.column("validation_accuracy")[history.best_epoch - 1] == best
    assert evaluate(net, held_out, encoder=ENCODER, batch=32)[1] == best
    assert " *" in str(history)


def test_the_schedule_and_the_split():
    net = network()
    seen = []
    history = train(net, epochs=3, schedule=lambda e: seen.append(e) or 0.5**e, validation=0.25)
    assert seen == [0, 1, 2] and history.column("lr") == [5e-3, 2.5e-3, 1.25e-3]


def test_history_is_data():
    history = train(network())
    again = json.loads(history.to_json())
    assert again["epochs"] == history.epochs and again["best_epoch"] is None
    assert len(str(history).splitlines()) == 4 and "lif2" in str(history)
    assert ms.History().layers == []


BAD_FITS = {
    "optimizer of another net": ({"net": network(1)}, ValueError, "made for another network: fc1.weight"),
    "no epochs": ({"epochs": 0}, ValueError, "epochs must be a whole number"),
    "batch": ({"batch": 2.5}, TypeError, "batch must be a whole number"),
    "keep": ({"keep": "first"}, ValueError, "keep must be one of 'last', 'best'"),
    "best of nothing": ({"keep": "best", "validation": 0}, ValueError, "chooses by validation accuracy"),
    "share": ({"validation": 1.5}, ValueError, "validation must be a share"),
    "tiny share": ({"validation": 1e-9}, ValueError, "leaves one side empty"),
    "labels": ({"data": (digits()[0], digits()[1][:5])}, ValueError, r"\[320, 64\] and \[5\]"),
    "no samples": ({"data": (digits()[0][:0], digits()[1][:0])}, ValueError, "n > 0"),
    "not a pair": ({"data": digits()[0]}, TypeError, "a pair"),
    "not a net": ({"net": 3}, TypeError, "fit: net must be a ms.Network, got 3"),
}


@pytest.mark.parametrize("case", BAD_FITS)
def test_bad_calls_are_explained(case):
    options, kind, message = BAD_FITS[case]
    net = network()
    call = {"net": net, "optimizer": ms.Adam(net), "data": digits(), "epochs": 1, "encoder": ENCODER, **options}
    with pytest.raises(kind, match=message):
        ms.fit(call.pop("net"), call.pop("optimizer"), call.pop("data"), **call)
