"""Functions of a user's own: right ones pass; those that misbehave are named, with none of our frames in the way."""

import json
import os
import re
import subprocess
import sys
import traceback

import numpy as np
import pytest

import minisnn as ms
from minisnn.checks import check_function

RNG = np.random.default_rng(0)
X, W = RNG.normal(size=(4, 3)), RNG.normal(size=(3, 2))


def forward(x, w, b):
    y = np.tanh(x @ w + b)
    return y, (x, w, y)


def backward(d_y, cache):
    x, w, y = cache
    d = d_y * (1 - y * y)
    return d @ w.T, {"w": x.T @ d, "b": d.sum(0)}


PARAMS = {"w": W, "b": RNG.normal(size=2)}


def test_a_right_function_passes():
    report = check_function(forward, backward, X, PARAMS).raise_if_wrong()
    assert {r.name for r in report.rows} == {"d_x", "d_w", "d_b"}
    figure = report.plot()
    assert len(figure.axes) >= 2


def test_tuples_dicts_numbers_and_no_parameters():
    check_function(lambda a, b: (a * b, (a, b)), lambda d, c: ((d * c[1], d * c[0]), {}), (X, X + 1)).raise_if_wrong()
    check_function(
        lambda u, theta: (u - theta, u), lambda d, c: ({"u": d, "theta": -d}, {}), {"u": X, "theta": X * 2}
    ).raise_if_wrong()
    check_function(
        lambda x, k: (np.arctan(k * x), (x, k)),
        lambda d, c: (d * c[1] / (1 + (c[0] * c[1]) ** 2), {"k": float((d * c[0] / (1 + (c[0] * c[1]) ** 2)).sum())}),
        X, {"k": 1.3},
    ).raise_if_wrong()  # fmt: skip
    check_function(
        lambda x: (np.maximum(x, 0), x), lambda d, x: (d * (x > 0), {}), RNG.normal(size=(20, 30))
    ).raise_if_wrong()
    check_function(lambda x: (float(x.sum()), x), lambda d, x: (d * np.ones_like(x), None), X).raise_if_wrong()


def changed(**how):
    def wrong(d_y, cache):
        d_x, grads = backward(d_y, cache)
        found = {"x": d_x, **grads}
        found |= {n: f(found, d_y, cache) for n, f in how.items()}
        return found.pop("x"), found

    return wrong


def raising(d_y, cache):
    raise RuntimeError("not today")


def writing(d_y, cache):
    d_y *= 2
    return backward(d_y, cache)


def writing_cache(d_y, cache):
    found = backward(d_y, cache)
    cache[2][...] = 0
    return found


def forgetful(d_y, cache):
    d_x, grads = backward(d_y, cache)
    return d_x + 1e-9 * np.random.default_rng().normal(), grads


WRONG = {
    "raises": (raising, r"backward raises RuntimeError: not today \(test_checks_functions.py, line \d+: raise"),
    "one value": (lambda d, c: backward(d, c)[0], "backward returns one ndarray, expected two values"),
    "three values": (lambda d, c: (*backward(d, c), 1), "backward returns 3 values, expected two"),
    "nothing": (lambda d, c: None, "backward returns one NoneType"),
    "no dict": (lambda d, c: (backward(d, c)[0], 3.0), "float as its gradients of the parameters, expected a dict"),
    "a name missing": (lambda d, c: (backward(d, c)[0], {"w": W}), "no gradient for 'b'"),
    "a name too many": (changed(extra=lambda f, d, c: W), r"gradients for \['extra'\], which are no parameters"),
    "shape": (changed(x=lambda f, d, c: f["x"][0]), r"d_x from backward has shape \[3\], expected \[4, 3\]"),
    "transposed shape": (changed(w=lambda f, d, c: f["w"].T), r"\[2, 3\], expected \[3, 2\]: transposed\?"),
    "not summed": (changed(b=lambda f, d, c: d), "is a sum over the shared axes"),
    "none": (changed(w=lambda f, d, c: None), "d_w from backward is None"),
    "text": (changed(w=lambda f, d, c: "w"), "d_w from backward has dtype"),
    "ragged": (changed(w=lambda f, d, c: [[1.0], [1.0, 2.0]]), "d_w from backward is no array"),
    "nan": (changed(w=lambda f, d, c: f["w"] * np.nan), r"d_w from backward holds nan at \[0, 0\] \(6 of 6"),
    "inf": (changed(b=lambda f, d, c: f["b"] / 0.0), "d_b from backward holds -?inf"),
    "single precision": (changed(x=lambda f, d, c: f["x"].astype("f4")), "dtype float32, expected float64"),
    "writes into d_y": (writing, "backward writes into d_y"),
    "writes into the cache": (writing_cache, r"backward writes into cache\[2\]"),
    "other bits": (forgetful, "other bits when it is called a second time"),
    "sign": (changed(b=lambda f, d, c: -f["b"]), "d_b: it is -1 times.*sign"),
    "missing": (changed(w=lambda f, d, c: 0 * f["w"]), "d_w: it is 0"),
    "mean": (changed(b=lambda f, d, c: f["b"] / 4), r"d_b: it is 1/4 \(the length of an axis\) times"),
}


@pytest.mark.parametrize("name", WRONG)
def test_misbehaviour_is_named(name):
    wrong, pattern = WRONG[name]
    x, w = X.copy(), W.copy()
    report = check_function(forward, wrong, X, PARAMS)
    assert not report.ok and re.search(pattern, " ".join([*report.problems, *map(str, report.findings)])), report
    assert np.array_equal(X, x) and np.array_equal(W, w)
    assert max(map(len, str(report).splitlines())) <= 100
    json.loads(report.to_json())
    try:
        report.raise_if_wrong()
    except ms.checks.GradientError as error:
        assert [f.name for f in traceback.extract_tb(error.__traceback__)][
            -1
        ] == "raise_if_wrong" and error.__cause__ is None


FORWARDS = {
    "raises": (lambda x, w, b: 1 / 0, "forward raises ZeroDivisionError"),
    "one value": (lambda x, w, b: x @ w, "forward returns one ndarray, expected two values"),
    "nan": (lambda x, w, b: (x @ w * np.nan, 0), "forward returns y with entries that are not finite"),
    "writes": (lambda x, w, b: forward(x.__imul__(1.5), w, b), "forward writes into x"),
    "text": (lambda x, w, b: ("y", 0), "forward returns str as y"),
    "another signature": (lambda x, weight: (x, 0), "forward raises TypeError"),
}


@pytest.mark.parametrize("name", FORWARDS)
def test_a_misbehaving_forward_is_named(name):
    wrong, pattern = FORWARDS[name]
    report = check_function(wrong, backward, X, PARAMS)
    assert not report.ok and re.search(pattern, " ".join(report.problems)), report


def test_what_is_wrong_entry_by_entry_is_told_in_formulas():
    def step(v, x, decay):
        return decay * v + (1 - decay) * x, (v, x, decay)

    def back(d, cache):
        v, _, decay = cache
        return {"v": decay * d, "x": (1 - decay) * d}, {"decay": d * v}

    v, x, decay = RNG.normal(size=(3, 40))
    report = check_function(step, back, {"v": v, "x": x}, {"decay": decay})
    assert not report.ok and "d_decay: yours v*d_y, true v*d_y - x*d_y" in str(report).replace(
        "-x*d_y + v*d_y", "v*d_y - x*d_y"
    )


def centred(x, b):
    z = x + b
    return z - z.mean(axis=0), None


def centred_back(d_y, cache):
    d_x = d_y - d_y.mean(axis=0)
    return d_x, {"b": d_x.sum(axis=0)}


@pytest.mark.parametrize("seed", range(40))
def test_a_gradient_of_zero_is_right_although_it_rounds(seed):
    rng = np.random.default_rng(seed)  # the mean takes b away again: its gradient is 0, its differences round
    x, params = rng.normal(0, 30, size=(50, 3)), {"b": rng.normal(size=3)}
    check_function(centred, centred_back, x, params, seed=seed).raise_if_wrong()

    def wrong(d_y, cache):
        d_x, grads = centred_back(d_y, cache)
        return d_x, {"b": grads["b"] + 1e-6}

    assert not check_function(centred, wrong, x, params, seed=seed).ok


def test_a_function_that_spikes_is_refused():
    report = check_function(lambda x: ((x > 0.2) * 1.0, x), lambda d, x: (d / (1 + x * x), {}), X)
    assert [r.verdict for r in report.rows] == ["REFUSED"] and "it only jumps (a spike?)" in str(report)
    net = ms.Network(lif=ms.LIF(3, dtype="float64", backend="numpy", threshold=0.4), rate=ms.Rate("float64"))
    report = ms.checks.check_grads(
        net, RNG.normal(0.5, 1, (5, 4, 3)), np.array([0, 1, 2, 0]), ms.losses.mse, twins=("real",)
    )
    assert {r.verdict for r in report.rows} == {"REFUSED"} and not report.ok


def test_single_precision_and_whole_numbers_are_refused():
    for bad in (X.astype("f4"), np.arange(4)):
        with pytest.raises(TypeError, match=r"astype\('float64'\)"):
            check_function(forward, backward, bad, PARAMS)


def test_dropout_needs_a_mask_that_is_held():
    rng = np.random.default_rng(0)
    net = ms.Network(
        fc=ms.Linear(4, 6, rng=rng, dtype="float64"), drop=ms.Dropout(0.5), lif=ms.LIF(6, dtype="float64", threshold=0.3),
        vote=ms.PopulationVote(2),
    ).using("numpy")  # fmt: skip
    x, labels = rng.normal(0.5, 1, (5, 3, 4)), np.array([0, 1, 1])
    with pytest.raises(ValueError, match="drop drops at random: without a mask"):
        ms.checks.check_grads(net, x, labels, ms.losses.mse, train=True)
    ms.checks.check_grads(net, x, labels, ms.losses.mse, train=True, rng=np.random.default_rng(1)).raise_if_wrong()
    masks = {"drop": (rng.random((5, 3, 6)) < 0.5) * 2.0}
    ms.checks.check_grads(net, x, labels, ms.losses.mse, masks=masks).raise_if_wrong()


# -- a layer that misbehaves, in a network


class Rude(ms.Layer):
    """Passes on what it is given, and does something else besides."""

    how = None

    def forward(self, x, *, state=None, train=False, rng=None):
        return 2 * x, x

    def backward(self, d_y, cache, *, d_state=None, wrt=None, input_grad=True):
        return self.how(2 * d_y, d_y), {}


RUDE = {
    "shape": (lambda d, above: d[0], "d_y has shape|d_x.*shape"),
    "raises": (lambda d, above: d[99], "raises IndexError.*test_checks_functions"),
    "writes": (lambda d, above: above.__imul__(2), "writes into d_scores"),
    "nan": (lambda d, above: d * np.nan, "nan"),
    "wrong": (lambda d, above: d / 2, "d_x: it is 1/2 times"),
}


@pytest.mark.parametrize("name", RUDE)
def test_a_rude_layer_is_named(name):
    layer = Rude("float64")
    layer.how, pattern = RUDE[name]
    report = ms.checks.check_layer(layer, X[None].repeat(3, 0))
    assert not report.ok and re.search(pattern, str(report).replace("\n      ", " ")), report


# -- comparing, and the command line


def test_compare():
    compare = ms.checks.compare
    assert compare("bptt").ok and compare("truncated 9").ok and compare("detached", "detached").ok
    report = compare("detached")
    assert not report.ok and "path reset: -0.000 of it held" in str(report).replace("reset:  0.000", "reset: -0.000")
    assert "0 of 3 the same" in str(report) and len(report.plot().axes) == 2
    cut = compare("truncated 3", reset=ms.resets.soft)
    assert "lag 2: cosine  1.000" in str(cut) and "lag 3: cosine  0.000" in str(cut)
    assert np.allclose([row.analytic for row in compare(ms.resets.hard_detached).rows], [r.analytic for r in report.rows])
    with pytest.raises(TypeError, match="truncated N"):
        compare("e-prop")


FILE = """
import minisnn as ms
def charge(v, x, decay): return decay * v + (1 - decay) * x
def adjoint(d_u, v, x, decay): return decay * d_u, (1 - decay) * d_u, (v - x) * d_u
mine = ms.Neuron(charge, adjoint)
def gone(d_v, u, s, theta): return d_v, 0, -s * d_v
def minus(u, s, theta): return u - s * theta
reset = ms.Reset(minus, gone)
def f(a, b): return a * b * b
def f_adjoint(d, a, b): return d * b * b, d * a * b
def hinge(scores, targets): return float(((scores - targets) ** 2).sum()), scores - targets
"""


def command(tmp_path, text, *arguments, name=""):
    path = tmp_path / "mine.py"
    path.write_text(text)
    words = [sys.executable, "-m", "minisnn", "check", f"{path}{name}", *arguments]
    numpy = {**os.environ, "MINISNN_BACKEND": "numpy"}  # nothing to compile
    return subprocess.run(words, capture_output=True, text=True, timeout=120, env=numpy)


def test_the_command_checks_a_file(tmp_path):
    done = command(tmp_path, FILE)
    assert done.returncode == 1 and "4 checked" in done.stdout and "NOT RIGHT: reset, f, hinge" in done.stdout
    assert command(tmp_path, FILE, name=":mine").returncode == 0
    found = json.loads(command(tmp_path, FILE, "--json", name=":f").stdout)
    assert not found["ok"] and found["reports"][0]["name"] == "f" and found["reports"][0]["findings"]


@pytest.mark.parametrize(
    ("text", "message"),
    [("1 / 0", "ZeroDivisionError.*line 1"), ("a = 1", "nothing to check"), (FILE.replace("def charge(v", "def charge(w, v"), "FormulaError")],
)  # fmt: skip
def test_the_command_explains_a_file_that_cannot_be_checked(tmp_path, text, message):
    done = command(tmp_path, text)
    assert done.returncode == 1 and re.search(message, done.stderr) and "Traceback" not in done.stderr


def test_the_command_checks_the_installation(monkeypatch, capsys):
    from minisnn.checks import command as module
    from minisnn.cli import main

    some = dict(module.check_installation())
    kinds = [*ms.neurons.NEURONS, *ms.resets.RESETS, *ms.surrogates.SURROGATES, *ms.losses.LOSSES]
    assert all(re.search(rf"\b{kind}\b", " ".join(some)) for kind in kinds)
    picked = [(name, some[name]) for name in ("loss mse", "lif, hard, atan on numpy", "network with rate on numpy")]
    monkeypatch.setattr(module, "check_installation", lambda: iter(picked))
    assert main(["check"]) == 0 and "3 checked" in capsys.readouterr().out


def test_a_float32_layer_and_a_difference_nobody_can_explain_are_said():
    layer = ms.Linear(3, 2, rng=np.random.default_rng(0))
    with pytest.raises(TypeError, match=r"check_layer: the layer is float32.*layer\.astype\('float64'\)"):
        ms.checks.check_layer(layer, np.zeros((4, 5, 3)))
    assert "not explained by a short formula" in str(ms.checks.report.Finding("d_x of mine"))
