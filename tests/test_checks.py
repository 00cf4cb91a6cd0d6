"""The checks: they pass what is right, and are trusted only because they reject what is wrong."""

import re
from pathlib import Path

import numpy as np
import pytest
from grid import COVERING, FEW, FULL, PAIRS, complex_step, problem
from hypothesis import given
from hypothesis import strategies as st

import minisnn as ms
from minisnn.checks import Report, Row, richardson, run_twin
from minisnn.checks.check_adjoint import rows_of
from minisnn.kernels import ON_CPU, Dynamics
from minisnn.layers import LAYERS
from minisnn.neurons import current_lif, current_lif_charge, integrate_and_fire_charge, lif, lif_charge
from minisnn.resets import hard, hard_adjoint, hard_detached, hard_reset, soft, soft_adjoint, soft_detached, soft_reset
from minisnn.surrogates import HALF_PI, atan_smooth, fast_sigmoid_smooth, sigmoid_smooth

ATAN = ms.surrogates.atan(1.3)


@pytest.mark.parametrize("name", PAIRS)
def test_built_ins_are_right_on_the_reference(name):
    ms.checks.check_adjoint(*FULL[name], backend="numpy").raise_if_wrong()


@pytest.mark.long
@pytest.mark.parametrize("name", FULL)
def test_all_built_ins_are_right_on_the_reference(name):
    ms.checks.check_adjoint(*FULL[name], backend="numpy").raise_if_wrong()


@pytest.mark.parametrize("name", FEW[1::3])
def test_built_ins_are_right_on_the_compiled_backend(name):
    pytest.importorskip("numba")
    ms.checks.check_adjoint(*FULL[name], backend="numba", draws=2).raise_if_wrong()


@given(
    t=st.integers(1, 6), b=st.integers(1, 3), n=st.integers(1, 4), seed=st.integers(0, 10**6), which=st.integers(0, 99),
    twin=st.sampled_from(list(ms.checks.TWINS)),
)  # fmt: skip
def test_adjoints_are_right_for_any_shape(t, b, n, seed, which, twin):
    dynamics = FULL[COVERING[which % len(COVERING)]]
    for row in rows_of(dynamics, problem(dynamics, (t, b, n), seed), twin, "numpy"):
        assert row.ok, row


# -- detached resets


@pytest.mark.parametrize("reset", [hard_detached, soft_detached])
def test_detached_resets_fail_the_plain_twins_and_pass_with_stop(reset):
    ms.checks.check_adjoint(lif, reset, ATAN, backend="numpy").raise_if_wrong()
    claimed = ms.Reset(reset.reset, reset.reset_adjoint)  # the same functions without the claim
    report = ms.checks.check_adjoint(lif, claimed, ATAN, backend="numpy")
    wrong = {(r.twin, r.name) for r in report.rows if not r.ok}
    assert {("smooth", "d_x"), ("tangent", "d_x")} <= wrong
    assert not any(twin == "slope 0" for twin, _ in wrong)  # that path is only in the spike
    assert "exact for stop=('s',)" in str(report) and "you claimed stop=()" in str(report)


@pytest.mark.parametrize("reset", [hard, soft])
def test_a_claim_that_is_not_true_is_rejected_too(reset):
    report = ms.checks.check_adjoint(lif, ms.Reset(reset.reset, reset.reset_adjoint, ("s",)), ATAN, backend="numpy")
    assert not report.ok and "exact for stop=()" in str(report)


# -- planted mistakes: one term wrong in each

NEURON_MISTAKES = {
    "decay forgotten": lambda d_u, v, x, decay: (d_u, d_u, v * d_u),
    "decay squared": lambda d_u, v, x, decay: (decay * decay * d_u, d_u, v * d_u),
    "no carry": lambda d_u, v, x, decay: (0, d_u, v * d_u),
    "x instead of v": lambda d_u, v, x, decay: (decay * d_u, d_u, x * d_u),
    "input scaled": lambda d_u, v, x, decay: (decay * d_u, (1 - decay) * d_u, v * d_u),
    "sign of d_decay": lambda d_u, v, x, decay: (decay * d_u, d_u, -v * d_u),
    "d_decay missing": lambda d_u, v, x, decay: (decay * d_u, d_u, 0),
}
RESET_MISTAKES = {
    "mask forgotten": (hard_reset, lambda d_v, u, s, theta: (d_v, -u * d_v, 0)),
    "mask inverted": (hard_reset, lambda d_v, u, s, theta: (s * d_v, -u * d_v, 0)),
    "sign of the spike's path": (hard_reset, lambda d_v, u, s, theta: (d_v - s * d_v, u * d_v, 0)),
    "theta for u": (hard_reset, lambda d_v, u, s, theta: (d_v - s * d_v, -theta * d_v, 0)),
    "a threshold path too many": (hard_reset, lambda d_v, u, s, theta: (d_v - s * d_v, -u * d_v, -(s * d_v))),
    "the spike's path missing": (hard_reset, lambda d_v, u, s, theta: (d_v - s * d_v, 0, 0)),
    "reset threshold path missing": (soft_reset, lambda d_v, u, s, theta: (d_v, -theta * d_v, 0)),
    "reset threshold path sign": (soft_reset, lambda d_v, u, s, theta: (d_v, -theta * d_v, s * d_v)),
    "theta forgotten": (soft_reset, lambda d_v, u, s, theta: (d_v, -d_v, -(s * d_v))),
    "masked like a hard reset": (soft_reset, lambda d_v, u, s, theta: (d_v - s * d_v, -theta * d_v, -(s * d_v))),
    "adjoint of the other reset": (soft_reset, hard_adjoint),
    "and the other way round": (hard_reset, soft_adjoint),
}
SURROGATE_MISTAKES = {
    "factor k forgotten": (atan_smooth, lambda x, k: 0.5 / (1 + HALF_PI * k * x * HALF_PI * k * x)),
    "half forgotten": (atan_smooth, lambda x, k: k / (1 + HALF_PI * k * x * HALF_PI * k * x)),
    "right at k = 2 only": (atan_smooth, lambda x, k: 1 / (1 + HALF_PI * k * x * HALF_PI * k * x)),
    "pi forgotten": (atan_smooth, lambda x, k: 0.5 * k / (1 + k * x * k * x)),
    "slope of another curve": (sigmoid_smooth, ms.surrogates.atan_slope),
}
CURRENT_MISTAKES = {
    "new current's second path missing": lambda d_u, d_i, v, i, x, a, b: (a * d_u, b * d_i, d_i, v * d_u, i * d_i),
    "decays mixed up": lambda d_u, d_i, v, i, x, a, b: (
        b * d_u, a * (d_i + d_u), d_i + d_u, v * d_u, i * (d_i + d_u),
    ),
    "states mixed up": lambda d_u, d_i, v, i, x, a, b: (b * (d_i + d_u), a * d_u, d_i + d_u, v * d_u, i * (d_i + d_u)),
}  # fmt: skip
SURROGATE_MISTAKES["normalised to area 1"] = (
    fast_sigmoid_smooth,
    lambda x, k: 0.5 * k / ((1 + k * np.maximum(x, -x)) * (1 + k * np.maximum(x, -x))),
)


def rejects(neuron, reset, surrogate):
    report = ms.checks.check_adjoint(neuron, reset, surrogate, backend="numpy")
    assert not report.ok
    with pytest.raises(ms.checks.GradientError, match="WRONG"):
        report.raise_if_wrong()


@pytest.mark.parametrize("mistake", NEURON_MISTAKES)
@pytest.mark.parametrize("reset", [hard, soft, ms.resets.none])
def test_rejects_mistakes_in_a_neuron(mistake, reset):
    rejects(ms.Neuron(lif_charge, NEURON_MISTAKES[mistake]), reset, ATAN)


@pytest.mark.parametrize("mistake", CURRENT_MISTAKES)
def test_rejects_mistakes_in_a_neuron_of_two_states(mistake):
    names = {"state": current_lif.state, "params": current_lif.params}
    rejects(ms.Neuron(current_lif_charge, CURRENT_MISTAKES[mistake], **names), hard, ATAN)


@pytest.mark.parametrize("mistake", RESET_MISTAKES)
def test_rejects_mistakes_in_a_reset(mistake):
    rejects(lif, ms.Reset(*RESET_MISTAKES[mistake]), ATAN)


@pytest.mark.parametrize("mistake", SURROGATE_MISTAKES)
def test_rejects_mistakes_in_a_surrogate_even_at_its_default_steepness(mistake):
    rejects(lif, hard, ms.Surrogate(*SURROGATE_MISTAKES[mistake], 2.0))


def test_a_user_s_right_neuron_passes():
    def charge(v, x, decay, rest):
        return rest + decay * (v - rest) + np.tanh(x)

    def adjoint(d_u, v, x, decay, rest):
        slope = 1 - np.tanh(x) * np.tanh(x)
        return decay * d_u, slope * d_u, (v - rest) * d_u, (1 - decay) * d_u

    neuron = ms.Neuron(charge, adjoint, params=("decay", "rest"))
    ms.checks.check_adjoint(neuron, hard, ATAN, backend="numpy").raise_if_wrong()


# -- whole networks


def network(reset=hard, neuron=lif, backend="numpy", surrogate=ATAN, seed=0):
    rng = np.random.default_rng(seed)
    options = {"reset": reset, "neuron": neuron, "backend": backend, "surrogate": surrogate, "dtype": "float64"}
    net = ms.Network(
        flat=ms.Flatten(),
        fc1=ms.Linear(6, 10, rng=rng, bias=True, dtype="float64"),
        lif1=ms.Spiking(10, threshold=rng.uniform(0.4, 0.9, 10), **options),
        fc2=ms.Linear(10, 6, rng=rng, dtype="float64"),
        lif2=ms.Spiking(6, threshold=np.array(0.3), **options),
        vote=ms.PopulationVote(3),
    )
    return net, rng.uniform(0, 2, (6, 4, 2, 3)), rng.integers(0, 3, 4)


@pytest.mark.parametrize("loss", ms.losses.LOSSES.values(), ids=list(ms.losses.LOSSES))
@pytest.mark.parametrize(("name", "backend"), [(n, "numpy") for n in FEW] + [(n, "numba") for n in FEW[::4]])
def test_networks_are_right_on_every_backend(name, loss, backend):
    neuron, reset, surrogate = FULL[name]
    net, x, labels = network(reset, neuron, backend, surrogate)
    report = ms.checks.check_grads(net, x, labels, loss)
    report.raise_if_wrong()
    assert {r.twin for r in report.rows} == set(ms.checks.TWINS)
    states = {f"{n}.{s}[0]" for n in ("lif1", "lif2") for s in neuron.state}
    assert {r.name for r in report.rows} == {*net.params(), "x", *states}


@given(seed=st.integers(0, 10**6), which=st.integers(0, 99))
def test_networks_are_right_for_any_seed(seed, which):
    neuron, reset, surrogate = FULL[COVERING[which % len(COVERING)]]
    net, x, labels = network(reset, neuron, "numpy", surrogate, seed)
    ms.checks.check_grads(net, x, labels, ms.losses.mse, seed=seed, directions=1).raise_if_wrong()


def test_the_tangent_twin_has_the_values_of_the_hard_network(backend):
    net, x, _ = network(backend=backend)
    scores, caches = net.forward(x)
    twin, twin_caches = run_twin(net, x, caches, "tangent")
    assert np.allclose(twin, scores, rtol=1e-14) and np.array_equal(twin_caches["lif1"].u, caches["lif1"].u)


class WrongLinear(ms.Linear):
    """A layer with one mistake."""

    mistake = ""

    def backward(self, d_y, cache, *, d_state=None, wrt=None, input_grad=True):
        d_x, grads = super().backward(d_y, cache, d_state=d_state, wrt=wrt, input_grad=input_grad)
        if self.mistake == "mean over the batch" and "weight" in grads:
            grads["weight"] = grads["weight"] / d_y.shape[1]
        elif self.mistake == "off by one in time":
            d_x = np.roll(d_x, 1, axis=0)
        elif self.mistake == "first step only":
            d_x = d_x * (np.arange(len(d_x)) == 0)[:, None, None]
        elif self.mistake == "bias counted once" and "bias" in grads:
            grads["bias"] = grads["bias"] / len(d_y)
        return d_x, grads


@pytest.mark.parametrize(
    "mistake", ["", "mean over the batch", "off by one in time", "first step only", "bias counted once"]
)
def test_rejects_mistakes_in_a_layer_of_a_network(mistake):
    net, x, labels = network()
    wrong = WrongLinear(10, 6, bias=True, rng=np.random.default_rng(1), dtype="float64")
    wrong.mistake = mistake
    report = ms.checks.check_grads(ms.Network(**{**net.layers, "fc2": wrong}), x, labels, ms.losses.mse)
    assert report.ok == (mistake == "")


def test_a_loss_with_a_wrong_gradient_is_rejected():
    def halved(scores, labels):
        value, d_scores = ms.losses.mse(scores, labels)
        return value, d_scores / 2

    net, x, labels = network()
    assert not ms.checks.check_grads(net, x, labels, halved).ok


def test_check_layer():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 4, 6))
    ms.checks.check_layer(ms.Linear(6, 2, rng=rng, bias=True, dtype="float64"), x).raise_if_wrong()
    ms.checks.check_layer(ms.LIF(6, threshold=0.5, dtype="float64", backend="numpy"), x).raise_if_wrong()


def test_a_layer_that_raises_is_reported():
    class Broken(ms.Linear):
        def forward(self, x, **options):
            raise RuntimeError("not yet written")

    layer = Broken(3, 2, rng=np.random.default_rng(0), dtype="float64")
    report = ms.checks.check_layer(layer, np.ones((2, 3, 3)))
    assert not report.ok and any("not yet written" in problem for problem in report.problems)
    net = ms.Network(fc=ms.Linear(3, 3, rng=np.random.default_rng(0), dtype="float64"), mine=layer)
    report = ms.checks.check_grads(net, np.ones((2, 3, 3)), np.zeros((3, 2)), ms.losses.mse)
    assert not report.ok and any("not yet written" in problem for problem in report.problems)


def test_what_a_layer_does_tells_whether_it_draws_not_its_name():
    class Normaliser(ms.Dropout):
        pass

    class Dropouts(ms.Linear):
        pass

    x = np.random.default_rng(0).normal(size=(3, 2, 4))
    with pytest.raises(ValueError, match="drops at random"):
        ms.checks.check_layer(Normaliser(0.5, dtype="float64"), x, train=True)
    ms.checks.check_layer(Dropouts(4, 2, rng=np.random.default_rng(0), dtype="float64"), x, train=True).raise_if_wrong()


def test_every_layer_of_the_installation_is_checked_on_every_backend(monkeypatch):
    from minisnn.checks import command

    seen = set()

    def look(what, *rest, **options):
        parts = what.layers.values() if isinstance(what, ms.Network) else [what]
        seen.update((layer.backend or what.backend, type(layer)) for layer in parts)

    monkeypatch.setattr(command, "check_layer", look)
    monkeypatch.setattr(command, "check_grads", look)
    for _, run in command.check_installation():
        if run.func is look:
            run()
    kinds = {*LAYERS.values()} - {ms.Spiking} | {type(ms.LIF(1))}
    assert seen == {(backend, kind) for backend in ON_CPU for kind in kinds}


def test_check_grads_refuses_float32_and_unknown_twins():
    net, x, labels = network()
    with pytest.raises(TypeError, match=r"astype\('float64'\)"):
        ms.checks.check_grads(net.astype("float32"), x, labels, ms.losses.mse)
    with pytest.raises(ValueError, match="unknown twins"):
        ms.checks.check_grads(net, x, labels, ms.losses.mse, twins=("soft",))
    with pytest.raises(TypeError, match=r"expected a ms\.Reset"):
        ms.checks.check_adjoint(lif, "hard", ATAN)


def test_checks_change_nothing():
    net, x, labels = network()
    before = {n: p.copy() for n, p in net.params().items()}
    kept = x.copy()
    ms.checks.check_grads(net, x, labels, ms.losses.mse)
    assert np.array_equal(x, kept) and all(np.array_equal(before[n], p) for n, p in net.params().items())


def test_verdicts_stand_without_explanations_and_no_file_imports_in_a_circle():
    folder, imported = Path(ms.checks.__file__).parent, {}
    for path in folder.glob("*.py"):
        found = re.findall(r"^ *from \.(\w*) import \(?\s*(\w+)", path.read_text(), re.M)
        imported[path.stem] = {module or name for module, name in found}
    explanations = {name for name in imported if name.startswith("explain_")} | {"mutants", "sums"}
    tools = "calls differences oracle proof report steps twins".split()
    assert not any(imported[name] & explanations for name in tools)
    assert all(len(imported[name] & explanations) == 1 for name in imported if name.startswith("check_"))
    left = {name: set(names) for name, names in imported.items() if name != "__init__"}
    while left:
        free = {name for name, names in left.items() if not names & set(left)}
        assert free, f"a circle among {sorted(left)}"
        left = {name: names for name, names in left.items() if name not in free}


# -- differences


@given(a=st.floats(0.5, 3), b=st.floats(-2, 2))
def test_richardson_knows_its_error(a, b):
    found = richardson(lambda h: (np.sin(a * (b + h)) * np.exp(b + h), None))
    exact = (a * np.cos(a * b) + np.sin(a * b)) * np.exp(b)
    assert abs(found.value - exact) <= max(20 * found.error, 1e-11) and found.error <= 1e-8


def test_richardson_steps_inside_a_kink_or_says_that_it_cannot():
    def ramp(at):
        return lambda h: (abs(h - at) + h**2, np.array([h > at]))

    near = richardson(ramp(1e-4))
    assert np.isclose(near.value, -1) and not near.crossed
    on = richardson(ramp(0.0))
    assert on.crossed and np.isnan(on.value)


def test_complex_step_is_exact():
    x = np.array([[0.3, -1.2], [2.0, 0.7]])
    assert np.allclose(complex_step(lambda v: (np.arctan(v) ** 2).sum(), x), 2 * np.arctan(x) / (1 + x**2), rtol=1e-15)


# -- the report


def test_a_report_of_nothing_is_not_ok_and_undecided_is_said():
    assert not Report("empty").ok
    row = Row("smooth", "x", (1,), 1.0, 1.0, 0.0, 1e-7, "differences", False)
    assert "UNDECIDED" in str(Report("one", [row])) and not Report("one", [row]).ok
    nan = Row("smooth", "x", (1,), np.nan, 1.0, np.nan, 1e-7, "differences", False)
    report = Report("two")
    report.add_worst([row, nan])
    assert len(report.rows) == 1 and not report.ok
    assert max(map(len, str(ms.checks.check_adjoint(lif, hard, ATAN, backend="numpy")).splitlines())) <= 100


def test_a_neuron_whose_gradient_is_not_a_number_is_wrong():
    def adjoint(d_u, v, x):
        return d_u, d_u / (x - x)

    with np.errstate(all="ignore"):
        assert not ms.checks.check_adjoint(
            ms.Neuron(integrate_and_fire_charge, adjoint, params=()), hard, ATAN, backend="numpy"
        ).ok


def test_unsuitable_dynamics_are_said_not_looped_over():
    def silent(v, x, decay):
        return 0 * v - 5.0

    neuron = ms.Neuron(silent, lambda d_u, v, x, decay: (0, 0, 0))
    with pytest.raises(ValueError, match="no finite run with a spike"):
        ms.checks.check_adjoint(neuron, hard, ATAN)
    assert Dynamics(neuron, hard, ATAN).neuron is neuron
