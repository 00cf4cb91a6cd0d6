"""A checker is trusted only when it rejects: planted mistakes, each caught, and explained in the words expected.

Each case: what is planted, and a pattern that the findings must match (``None``: caught, but no explanation is asked for).
Mistakes in neurons, resets and surrogates stand in test_checks_formulas.py.
"""

import inspect
import itertools
import re
import sys
import textwrap

import numpy as np
import pytest

import minisnn as ms
from minisnn.checks.explain_loops import mutant_gradients
from minisnn.checks.mutants import MUTANTS
from minisnn.checks.oracle import draw, run, walk_back
from minisnn.kernels import Dynamics

ATAN = ms.surrogates.atan(1.3)
X = np.random.default_rng(3).normal(0.4, 1.0, (5, 3, 4))


def text_of(report):
    return " ".join(map(str, report.findings)) + " ".join(report.problems)


def rejects(report, pattern):
    assert not report.ok
    with pytest.raises(ms.checks.GradientError):
        report.raise_if_wrong()
    assert max(map(len, str(report).splitlines())) <= 100
    assert not pattern or re.search(pattern, text_of(report)), text_of(report)
    assert not any(f.yours and f.yours == f.true for f in report.findings)


# -- Linear


class WrongLinear(ms.Linear):
    """Linear with a backward of its own."""

    wrong = None

    def backward(self, d_y, cache, *, d_state=None, wrt=None, input_grad=True):
        x, w = cache.rows.reshape(cache.shape), cache.weight
        return self.wrong(x, d_y, w)


def rows(a):
    return a.reshape(-1, a.shape[-1])


def right(x, d, w):
    return (rows(d) @ w.T).reshape(x.shape), {"weight": rows(x).T @ rows(d), "bias": rows(d).sum(0)}


def linear(**changes):
    def wrong(self, x, d, w):
        d_x, grads = right(x, d, w)
        found = {"x": d_x, **grads}
        found |= {n: f(x, d, w) for n, f in changes.items()}
        return found.pop("x"), found

    return wrong


LINEAR = {
    "weight: mean over the batch": (linear(weight=lambda x, d, w: rows(x).T @ rows(d) / x.shape[1]), "weight.*1/B.*mean over the batch"),
    "weight: mean over time": (linear(weight=lambda x, d, w: rows(x).T @ rows(d) / len(x)), "weight.*1/T.*mean over time"),
    "weight: mean over both": (linear(weight=lambda x, d, w: rows(x).T @ rows(d) / (len(x) * x.shape[1])), r"weight.*1/\(T\*B\)"),
    "weight: sign": (linear(weight=lambda x, d, w: -rows(x).T @ rows(d)), "weight.*sign"),
    "weight: twice": (linear(weight=lambda x, d, w: 2 * rows(x).T @ rows(d)), "weight.*2 times"),
    "weight: transposed": (linear(weight=lambda x, d, w: rows(d).T @ rows(x)), "weight.*transposed"),
    "weight: missing": (linear(weight=lambda x, d, w: 0 * w), "weight.*it is 0"),
    "weight: last step": (linear(weight=lambda x, d, w: x[-1].T @ d[-1]), "weight.*only that of the last step"),
    "weight: first step": (linear(weight=lambda x, d, w: x[0].T @ d[0]), "weight.*only that of the first step"),
    "weight: input a step late": (linear(weight=lambda x, d, w: rows(x[:-1]).T @ rows(d[1:])), "weight.*off by one"),
    "weight: input a step early": (linear(weight=lambda x, d, w: rows(x[1:]).T @ rows(d[:-1])), "weight.*off by one"),
    "weight: time reversed": (linear(weight=lambda x, d, w: rows(x[::-1]).T @ rows(d)), "weight.*time runs the wrong way"),
    "bias: mean over the batch": (linear(bias=lambda x, d, w: rows(d).sum(0) / x.shape[1]), "bias.*1/B"),
    "bias: mean": (linear(bias=lambda x, d, w: rows(d).mean(0)), r"bias.*1/\(T\*B\).*mean over batch and time"),
    "bias: last step": (linear(bias=lambda x, d, w: d[-1].sum(0)), "bias.*last step"),
    "bias: missing": (linear(bias=lambda x, d, w: 0 * d[0, 0]), "bias.*it is 0"),
    "x: weight not transposed": (linear(x=lambda x, d, w: (rows(d) @ w).reshape(x.shape)), "d_x.*weight is transposed the wrong way"),
    "x: sign": (linear(x=lambda x, d, w: -(d @ w.T)), "d_x.*sign"),
    "x: off by one": (linear(x=lambda x, d, w: np.roll(d @ w.T, 1, axis=0)), "d_x.*off by one"),
    "x: time reversed": (linear(x=lambda x, d, w: (d @ w.T)[::-1].copy()), "d_x.*time runs the wrong way"),
    "x: missing": (linear(x=lambda x, d, w: 0 * x), "d_x.*it is 0"),
    "x: mean over the batch": (linear(x=lambda x, d, w: d @ w.T / x.shape[1]), "d_x.*1/B"),
    "x: wrong shape": (linear(x=lambda x, d, w: (d @ w.T)[0]), r"d_x.*shape \[3, 4\], expected \[5, 3, 4\]"),
    "weight: not summed": (linear(weight=lambda x, d, w: np.einsum("tbi,tbo->tio", x, d)), "weight.*sum over the shared axes"),
    "weight: nan": (linear(weight=lambda x, d, w: w * np.nan), "weight.*nan"),
    "bias: not returned": (lambda self, x, d, w: (d @ w.T, {"weight": right(x, d, w)[1]["weight"]}), "no gradient for 'layer.bias'"),
    "returns three": (lambda self, x, d, w: (*right(x, d, w), 0), "3 values|too many values"),
    "raises": (lambda self, x, d, w: 1 / 0, "ZeroDivisionError.*test_checks_planted"),
    "writes into d_y": (lambda self, x, d, w: (np.multiply(d, 2, out=d), right(x, d / 2, w))[1], "writes into d_scores"),
    "writes into its input": (lambda self, x, d, w: (np.add(x, 1, out=x), right(x - 1, d, w))[1], "writes into .*x"),
}  # fmt: skip


@pytest.mark.parametrize("name", LINEAR)
def test_linear(name):
    wrong, pattern = LINEAR[name]
    layer = WrongLinear(4, 4, bias=True, rng=np.random.default_rng(0), dtype="float64")
    layer.bias[:] = 0.1
    layer.wrong = lambda *a: wrong(layer, *a)
    assert layer.forward(X)[1].weight is layer.params["weight"]
    rejects(ms.checks.check_layer(layer, X), pattern)


def test_the_linear_that_the_mistakes_start_from_is_right():
    layer = WrongLinear(4, 4, bias=True, rng=np.random.default_rng(0), dtype="float64")
    layer.wrong = right
    ms.checks.check_layer(layer, X).raise_if_wrong()


def test_the_layer_at_fault_is_named_in_a_network():
    rng = np.random.default_rng(0)
    wrong = WrongLinear(6, 4, bias=True, rng=rng, dtype="float64")
    wrong.wrong = lambda *a: linear(weight=lambda x, d, w: rows(x).T @ rows(d) / x.shape[1])(wrong, *a)
    lif = {"dtype": "float64", "backend": "numpy", "threshold": 0.4}
    net = ms.Network(
        fc1=ms.Linear(4, 6, rng=rng, dtype="float64"), lif1=ms.LIF(6, **lif), fc2=wrong, lif2=ms.LIF(4, **lif),
        vote=ms.PopulationVote(2),
    )  # fmt: skip
    report = ms.checks.check_grads(net, X, np.array([0, 1, 1]), ms.losses.mse)
    rejects(report, "fc2: d_weight: .*mean over the batch")
    assert not any("fc1" in f.name or "lif" in f.name for f in report.findings)


# -- readouts


class WrongRate(ms.Rate):
    wrong = None

    def backward(self, d_y, cache, *, d_state=None, wrt=None, input_grad=True):
        d_x, grads = super().backward(d_y, cache)
        return self.wrong(d_x), grads


class WrongVote(ms.PopulationVote):
    wrong = None

    def backward(self, d_y, cache, *, d_state=None, wrt=None, input_grad=True):
        d_x, grads = super().backward(d_y, cache)
        return self.wrong(d_x), grads


def last_only(d):
    return d * (np.arange(len(d)) == len(d) - 1)[:, None, None]


READOUTS = {
    "a sum where the mean over time belongs": (lambda d: d * len(d), r"T times.*sum over time where a mean"),
    "counted once instead of T times": (lambda d: d / len(d), "1/T.*counted once instead of T times"),
    "last step only": (last_only, "only that of the last step"),
    "all of it at the last step": (lambda d: last_only(d) * len(d), "only that of the last step.*T times"),
    "batch mean": (lambda d: d / d.shape[1], "1/B"),
    "sign": (lambda d: -d, "sign"),
    "missing": (lambda d: 0 * d, "it is 0"),
    "half": (lambda d: d / 2, "1/2 times"),
}


@pytest.mark.parametrize("name", READOUTS)
@pytest.mark.parametrize("kind", [WrongRate, WrongVote])
def test_readouts(name, kind):
    layer = kind("float64") if kind is WrongRate else kind(2, "float64")
    layer.wrong, pattern = READOUTS[name]
    rejects(ms.checks.check_layer(layer, X), pattern)


# -- losses


def softmax(s):
    e = np.exp(s - s.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def onehot(labels, n):
    return np.eye(n)[labels]


def mse(change):
    return lambda s, t: (ms.losses.mse(s, t)[0], change(s, onehot(t, s.shape[1])))


def entropy(change):
    return lambda s, t: (ms.losses.cross_entropy(s, t)[0], change(s, onehot(t, s.shape[1])))


LOSSES = {
    "mse: factor 2 missing": (mse(lambda s, t: (s - t) / s.size), "1/2 times"),
    "mse: mean over the batch only": (mse(lambda s, t: 2 * (s - t) / len(s)), "it is C times"),
    "mse: a sum": (mse(lambda s, t: 2 * (s - t)), r"it is B\*C times"),
    "mse: sign": (mse(lambda s, t: 2 * (t - s) / s.size), "sign"),
    "mse: targets forgotten": (mse(lambda s, t: 2 * s / s.size), r"yours 2\*scores/\(B\*C\), true \(2\*scores - 2\*onehot\)/\(B\*C\)"),
    "mse: divided by C twice": (mse(lambda s, t: 2 * (s - t) / s.size / s.shape[1]), "1/C times"),
    "entropy: a sum": (entropy(lambda s, t: softmax(s) - t), "it is B times"),
    "entropy: sign": (entropy(lambda s, t: (t - softmax(s)) / len(s)), "sign"),
    "entropy: targets forgotten": (entropy(lambda s, t: softmax(s) / len(s)), r"yours softmax/B, true .-onehot \+ softmax./B"),
    "entropy: softmax forgotten": (entropy(lambda s, t: (s - t) / len(s)), r"yours .scores - onehot./B"),
    "entropy: mean over classes too": (entropy(lambda s, t: (softmax(s) - t) / s.size), "1/C times"),
    "entropy: missing": (entropy(lambda s, t: 0 * s), "it is 0"),
    "entropy: not a pair": (lambda s, t: ms.losses.cross_entropy(s, t)[0], "returns one float"),
    "entropy: wrong shape": (entropy(lambda s, t: (softmax(s) - t)[0]), r"shape \[4\], expected \[6, 4\]"),
    "mse: writes into the scores": (lambda s, t: (s.__isub__(onehot(t, 4)), ((s**2).mean(), 2 * s / s.size))[1], "writes into scores"),
}  # fmt: skip


@pytest.mark.parametrize("name", LOSSES)
def test_losses(name):
    rng = np.random.default_rng(5)
    loss, pattern = LOSSES[name]
    rejects(ms.checks.check_loss(loss, rng.normal(size=(6, 4)), rng.integers(0, 4, 6)), pattern)


@pytest.mark.parametrize("loss", ms.losses.LOSSES.values())
def test_right_losses(loss):
    rng = np.random.default_rng(5)
    ms.checks.check_loss(loss, rng.normal(size=(6, 4)), rng.integers(0, 4, 6)).raise_if_wrong()


# -- time loops of a user's own: LIF, soft reset, written out


def loop(change=None, result=None):
    """A user's time loop; `change` replaces parts of one step of the walk back, `result` what comes out."""

    def forward(x, threshold, decay):
        v, u_all, v_all, s_all = np.zeros_like(x[0]), [], [], []
        for t in range(len(x)):
            v_all.append(v)
            u = decay * v + x[t]
            s = (u >= threshold) * 1.0
            v = u - s * threshold
            u_all.append(u)
            s_all.append(s)
        return np.array(s_all), (x, np.array(u_all), np.array(v_all), np.array(s_all), threshold, decay)

    def backward(d_spikes, cache):
        x, u, v, s, threshold, decay = cache
        d_v, d_x = np.zeros_like(x[0]), np.zeros_like(x)
        d_threshold = d_decay = 0
        order = range(len(x)) if change == "forward" else range(len(x) - 1, -1, -1)
        for t in order:
            d_u, d_s, d_th = d_v, -threshold * d_v, -s[t] * d_v
            at, up = u[t] - threshold, d_spikes[t]
            if change == "detached":
                d_s = 0
            elif change == "threshold in reset":
                d_th = 0
            elif change == "hard":
                d_u, d_s, d_th = (1 - s[t]) * d_v, -u[t] * d_v, 0
            elif change == "slope at u":
                at = u[t]
            elif change == "slope at v":
                at = u[t] - s[t] * threshold - threshold
            elif change == "late":
                up = d_spikes[t - 1] if t else 0 * up
            a = 0.5 * np.pi * 1.3 * at
            slope = 0.65 / (1 + a * a)
            if change == "slope missing":
                slope = 1.0
            elif change == "slope twice":
                slope = slope * slope
            g = (d_s + up) * slope
            d_u = d_u + g
            d_threshold = d_threshold + (d_th + g if change == "sign" else d_th - g).sum(0)
            d_decay = d_decay + (d_u * (u[t] if change == "u for v" else v[t])).sum(0)
            d_x[t] = d_u
            d_v = d_u if change == "no decay" else 0 * d_u if change == "no carry" else decay * d_u
        found = d_x, {"threshold": d_threshold, "decay": d_decay}
        return result(*found) if result else found

    return forward, backward


def scaled(name, factor):
    return lambda d_x, grads: (d_x, {**grads, name: grads[name] * factor})


LOOPS = {
    "time forward": (loop("forward"), "time runs forward"),
    "no carry": (loop("no carry"), "carry is missing"),
    "no decay": (loop("no decay"), "without decay"),
    "detached": (loop("detached"), "detached reset"),
    "threshold in the reset": (loop("threshold in reset"), "threshold also enters the reset"),
    "adjoint of the hard reset": (loop("hard"), "another reset: hard"),
    "slope at u": (loop("slope at u"), "slope is taken at u"),
    "slope at v": (loop("slope at v"), "slope is taken at v - theta"),
    "off by one": (loop("late"), "off by one in time"),
    "slope missing": (loop("slope missing"), "slope is left out"),
    "slope twice": (loop("slope twice"), "slope is there twice"),
    "sign of the threshold": (loop("sign"), "spike has the wrong sign"),
    "u for v": (loop("u for v"), "needs v.t-1., before"),
    "mean over the batch": (loop(None, lambda d, g: (d, {**g, "threshold": g["threshold"] / d.shape[1]})), "mean over the batch"),
    "mean over time": (loop(None, lambda d, g: (d, {**g, "decay": g["decay"] / len(d)})), "mean over time"),
    "sign of all of threshold": (loop(None, scaled("threshold", -1)), "threshold has the wrong sign"),
    "two mistakes": (loop("no decay", lambda d, g: (d, {**g, "threshold": g["threshold"] / d.shape[1]})), "without decay.*mean over the batch"),
    "two others": (loop("detached", lambda d, g: (d, {**g, "decay": g["decay"] / len(d)})), "detached.*mean over time"),
    "wrong shape": (loop(None, lambda d, g: (d, {**g, "decay": g["decay"].sum()})), r"d_decay.*shape \[\], expected \[4\]"),
    "no gradient": (loop(None, lambda d, g: (d, {"decay": g["decay"]})), "no gradient for 'threshold'"),
    "one value": (loop(None, lambda d, g: d), "returns one ndarray"),
    "nan": (loop(None, lambda d, g: (d * np.nan, g)), "d_x.*nan"),
}  # fmt: skip


@pytest.mark.parametrize("name", LOOPS)
def test_time_loops(name):
    (forward, backward), pattern = LOOPS[name]
    report = ms.checks.check_scan(forward, backward, ms.neurons.lif, ms.resets.soft, ATAN)
    rejects(report, pattern)


def test_the_loop_that_the_mistakes_start_from_is_right():
    ms.checks.check_scan(*loop(), ms.neurons.lif, ms.resets.soft, ATAN).raise_if_wrong()


def test_a_loop_of_other_dynamics_is_told_so():
    report = ms.checks.check_scan(*loop(), ms.neurons.lif, ms.resets.hard, ATAN)
    assert not report.ok and "the forward is not the one you named" in str(report)


# -- mistakes in the kernel itself


class WrongKernel:
    """The reference with a mistake."""

    def __init__(self, dynamics, change):
        from minisnn.kernels.reference import ReferenceKernel

        self.right, self.change = ReferenceKernel(dynamics), change

    def scan(self, *args, **kwargs):
        return self.right.scan(*args, **kwargs)

    def scan_adjoint(self, d_spikes, d_last, cache, *wanted):
        return self.change(self.right, d_spikes, d_last, cache)


def kernel_without_last(right, d, last, cache):
    return right.scan_adjoint(d, 0 * last, cache)


def kernel_late(right, d, last, cache):
    return right.scan_adjoint(np.concatenate([0 * d[:1], d[:-1]]), last, cache)


def kernel_theta(right, d, last, cache):
    d_x, d_state0, d_theta, d_params = right.scan_adjoint(d, last, cache)
    return d_x, d_state0, -d_theta, d_params


def kernel_params(right, d, last, cache):
    d_x, d_state0, d_theta, d_params = right.scan_adjoint(d, last, cache)
    return d_x, d_state0, d_theta, d_params / d.shape[1]


def kernel_state(right, d, last, cache):
    d_x, d_state0, d_theta, d_params = right.scan_adjoint(d, last, cache)
    return d_x, 0 * d_state0, d_theta, d_params


KERNELS = {
    "last state": (kernel_without_last, "gradient of the last state is left out"),
    "off by one": (kernel_late, "off by one in time"),
    "sign": (kernel_theta, "threshold has the wrong sign"),
    "mean": (kernel_params, "mean over the batch"),
    "initial state": (kernel_state, "initial state is missing"),
}


@pytest.mark.parametrize("name", KERNELS)
def test_kernels(name, monkeypatch):
    change, pattern = KERNELS[name]
    monkeypatch.setattr(
        sys.modules["minisnn.checks.check_adjoint"], "kernel_of", lambda dynamics, backend: WrongKernel(dynamics, change)
    )
    rejects(ms.checks.check_adjoint(ms.neurons.current_lif, ms.resets.hard, ATAN, backend="numpy"), pattern)


def test_a_kernel_whose_mistake_has_no_name_is_shown_in_formulas(monkeypatch):
    def change(right, d, last, cache):
        d_x, *others = right.scan_adjoint(d, last, cache)
        return 1.1 * d_x, *others

    module = sys.modules["minisnn.checks.check_adjoint"]
    monkeypatch.setattr(module, "kernel_of", lambda dynamics, backend: WrongKernel(dynamics, change))
    report = ms.checks.check_adjoint(ms.neurons.lif, ms.resets.hard, ATAN, backend="numpy")
    rejects(report, r"d_x in one step, from d_spikes: yours 11/10\*slope\*d_spikes, true slope\*d_spikes")


# -- mutants: the same mistakes as lines of text


def test_every_mutant_follows_a_line_of_the_derivation_and_changes_what_comes_out():
    marked = [line.rpartition("  # ")[2] for line in inspect.getsource(walk_back).splitlines()]
    assert len(set(MUTANTS)) == len(MUTANTS) >= 70
    rng, changed = np.random.default_rng(0), set()
    for neuron, reset in itertools.product(ms.neurons.NEURONS.values(), ms.resets.RESETS.values()):
        dynamics = Dynamics(neuron, reset, ATAN)
        weight, spikes = rng.normal(size=(4, 4)), rng.integers(0, 2, (3, 4)) * 1.0
        ran = run(dynamics, draw(dynamics, rng, (5, 3, 4)), recurrent=weight, spikes0=spikes)
        right = mutant_gradients(dynamics, ran)
        for mutant in MUTANTS:
            assert marked.count(mutant.line) == 1 and mutant.sentence
            found = mutant_gradients(dynamics, ran, [mutant])
            if found is not None and any(not np.allclose(found[n], d) for n, d in right.items()):
                changed.add(mutant)
    assert changed == set(MUTANTS)


# -- Recurrent


def recurrent(change):
    """A recurrent layer whose walk back has one line changed."""
    from minisnn.layers import recurrent as module

    source = textwrap.dedent(inspect.getsource(module.Recurrent._back))
    assert change[0] in source, change[0]
    names = dict(vars(module))
    exec("from __future__ import annotations\n" + source.replace(*change), names)
    layer = ms.Recurrent(4, rng=np.random.default_rng(0), threshold=0.6, dtype="float64", backend="numpy", surrogate=ATAN)
    kind = type("WrongRecurrent", (ms.Recurrent,), {"_back": names["_back"]})
    layer.__class__ = kind
    return layer


PAIRED = 'grads["recurrent"] += before.T @ d_x[t]'
RECURRENT = {
    "not transposed": (("@ scan.weight.T", "@ scan.weight"), "not transposed on the way back"),
    "detached": (("d_spikes[t] + d_before", "d_spikes[t]"), "spikes that come back count as constants"),
    "overwritten": ((PAIRED, PAIRED.replace("+=", "=")), "first step alone|of one step alone"),
    "same step": (("scan.spikes[t - 1]", "scan.spikes[t]"), "off by one in time"),
    "transposed": ((PAIRED, 'grads["recurrent"] += (before.T @ d_x[t]).T'), "recurrent weight's gradient is transposed"),
    "batch mean": ((PAIRED, PAIRED + " / d_x.shape[1]"), "mean over the batch"),
    "time mean": ((PAIRED, PAIRED + " / len(d_x)"), "mean over time"),
    "missing": ((PAIRED, "pass"), "gradient is missing"),
    "inner carry lost": (("d_current, d_inner, d_theta", "d_current, _, d_theta"), "carry|initial state"),
}


@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent(name):
    change, pattern = RECURRENT[name]
    rejects(ms.checks.check_layer(recurrent(change), X), pattern)


def test_the_recurrent_that_the_mistakes_start_from_is_right():
    ms.checks.check_layer(recurrent(("d_s = (", "d_s = (")), X).raise_if_wrong()


def test_dropout_without_its_factor_is_not_explained_by_accident():
    class Wrong(ms.Dropout):
        def backward(self, d_y, cache, *, d_state=None, wrt=None, input_grad=True):
            return d_y * (cache.mask > 0), {}

    report = ms.checks.check_layer(Wrong(0.4, dtype="float64"), X, train=True, rng=np.random.default_rng(0))
    rejects(report, "d_x: it is 3/5 times the true one$")


# -- spiking layers


class WrongSpiking(ms.Spiking):
    wrong = None

    def backward(self, d_y, cache, *, d_state=None, wrt=None, input_grad=True):
        d_x, grads = super().backward(d_y, cache, d_state=d_state)
        return self.wrong(d_x, grads)


SPIKING = {
    "sign of the threshold": (lambda d, g: (d, {**g, "threshold": -g["threshold"]}), "threshold has the wrong sign"),
    "mean over the batch": (lambda d, g: (d, {**g, "decay": g["decay"] / d.shape[1]}), "parameters is a mean over the batch"),
    "no initial state": (lambda d, g: (d, {**g, "state": {"v": 0 * g["state"]["v"]}}) if "state" in g else (d, g), "initial state"),
}  # fmt: skip


@pytest.mark.parametrize("name", SPIKING)
def test_spiking_layers(name):
    layer = WrongSpiking(4, threshold=0.6, reset=ms.resets.soft, dtype="float64", backend="numpy", surrogate=ATAN)
    layer.wrong, pattern = SPIKING[name]
    rejects(ms.checks.check_layer(layer, X), pattern)
