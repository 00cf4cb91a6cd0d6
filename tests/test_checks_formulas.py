"""Planted mistakes in neurons, resets and surrogates: each caught, and the term explained, with SymPy and without."""

import re

import numpy as np
import pytest
import test_checks as planted

import minisnn as ms
from minisnn.checks import explain_formulas
from minisnn.checks.explain_formulas import explain_step
from minisnn.checks.steps import charge_step, check_steps, reset_step, slope_step
from minisnn.neurons import current_lif, current_lif_charge, lif_charge
from minisnn.resets import hard_reset, soft_reset
from minisnn.surrogates import atan_smooth, fast_sigmoid_smooth, sigmoid_smooth


def leaky_charge(v, x, decay):
    return decay * v + (1 - decay) * x


def exponential_charge(v, x, decay):
    return decay * v + np.exp(v) + x


PI2 = float(np.pi / 2)


LEAKY = {
    "input not scaled": (lambda d, v, x, decay: (decay * d, d, (v - x) * d), "d_x.*true"),
    "decay: the input's part missing": (lambda d, v, x, decay: (decay * d, (1 - decay) * d, v * d), r"d_decay.*yours d_u\*v|d_decay.*yours v\*d_u"),
    "decay: sign of the input's part": (lambda d, v, x, decay: (decay * d, (1 - decay) * d, (v + x) * d), "d_decay"),
    "leak and input exchanged": (lambda d, v, x, decay: ((1 - decay) * d, decay * d, (v - x) * d), "d_v.*derivative by x"),
    "half": (lambda d, v, x, decay: (0.5 * decay * d, (1 - decay) * d, (v - x) * d), "d_v.*1/2 times"),
    "three times": (lambda d, v, x, decay: (decay * d, 3 * (1 - decay) * d, (v - x) * d), "d_x.*3 times"),
}  # fmt: skip
RESETS = {
    "hard: theta path of u": (hard_reset, lambda d, u, s, theta: (d - s * d, -u * d, u * d), r"d_theta.*should be 0"),
    "hard: mask squared": (hard_reset, lambda d, u, s, theta: ((1 - s) * (1 - s) * d, -u * d, 0), "d_u"),
    "hard: s for u": (hard_reset, lambda d, u, s, theta: (d - s * d, -s * d, 0), "d_s.*s stands where u belongs"),
    "hard: gradient doubled": (hard_reset, lambda d, u, s, theta: (2 * (d - s * d), -u * d, 0), "d_u.*2 times"),
    "hard: twice u": (hard_reset, lambda d, u, s, theta: (d - s * d, -u * u * d, 0), "d_s.*factor u is there once too often"),
    "soft: theta by 1 - s": (soft_reset, lambda d, u, s, theta: (d, -theta * d, (1 - s) * d), "d_theta"),
    "soft: sign of s": (soft_reset, lambda d, u, s, theta: (d, theta * d, -s * d), "d_s.*sign"),
    "soft: nothing carried": (soft_reset, lambda d, u, s, theta: (0, -theta * d, -s * d), "d_u.*is missing"),
    "soft: theta counted twice": (soft_reset, lambda d, u, s, theta: (d, -theta * d, -2 * s * d), "d_theta.*2 times"),
    "soft: theta squared": (soft_reset, lambda d, u, s, theta: (d, -theta * theta * d, -s * d), "d_s.*factor theta is there once too often"),
    "none: a mask": (ms.resets.no_reset, lambda d, u, s, theta: (d - s * d, 0, 0), "d_u.*hard reset"),
}  # fmt: skip
SLOPES = {
    "k squared": (atan_smooth, lambda x, k: 0.5 * k * k / (1 + (PI2 * k * x) * (PI2 * k * x)), "k times the true slope"),
    "sign": (atan_smooth, lambda x, k: -0.5 * k / (1 + (PI2 * k * x) * (PI2 * k * x)), "sign"),
    "doubled": (atan_smooth, lambda x, k: k / (1 + (PI2 * k * x) * (PI2 * k * x)), "2 times"),
    "the curve itself": (atan_smooth, ms.surrogates.atan_smooth, "the curve itself"),
    "peak 1": (sigmoid_smooth, lambda x, k: 4 * np.exp(-k * np.maximum(x, -x)) / ((1 + np.exp(-k * np.maximum(x, -x))) * (1 + np.exp(-k * np.maximum(x, -x)))), "4/k times|peak of 1"),
    "k of 1": (sigmoid_smooth, lambda x, k: np.exp(-np.maximum(x, -x)) / ((1 + np.exp(-np.maximum(x, -x))) * (1 + np.exp(-np.maximum(x, -x)))), "1 stands where k belongs|true"),
    "fast sigmoid of atan": (fast_sigmoid_smooth, ms.surrogates.atan_slope, "another curve: atan"),
    "not squared": (fast_sigmoid_smooth, lambda x, k: 1 / (1 + k * np.maximum(x, -x)), "slope <lambda>: yours"),
}  # fmt: skip


def cases():
    for name, adjoint in planted.NEURON_MISTAKES.items():
        yield f"lif: {name}", charge_step(ms.Neuron(lif_charge, adjoint)), "d_"
    for name, adjoint in planted.CURRENT_MISTAKES.items():
        names = {"state": current_lif.state, "params": current_lif.params}
        yield f"current: {name}", charge_step(ms.Neuron(current_lif_charge, adjoint, **names)), "d_"
    for name, (adjoint, pattern) in LEAKY.items():
        yield f"leaky: {name}", charge_step(ms.Neuron(leaky_charge, adjoint)), pattern
    yield "exponential: exp forgotten", charge_step(
        ms.Neuron(exponential_charge, lambda d, v, x, decay: (decay * d, d, v * d))), "d_v"  # fmt: skip
    for name, parts in planted.RESET_MISTAKES.items():
        yield f"reset: {name}", reset_step(ms.Reset(*parts)), "d_"
    for name, (forward, adjoint, pattern) in RESETS.items():
        yield f"reset: {name}", reset_step(ms.Reset(forward, adjoint)), pattern
    for name, parts in planted.SURROGATE_MISTAKES.items():
        yield f"slope: {name}", slope_step(ms.Surrogate(*parts, 2.0)), "slope"
    for name, (smooth, slope, pattern) in SLOPES.items():
        yield f"slope: {name}", slope_step(ms.Surrogate(smooth, slope, 2.0)), pattern


CASES = {name: (step, pattern) for name, step, pattern in cases()}


def explained(finding):
    return bool(finding.sentence or finding.yours)


@pytest.mark.parametrize("sympy", [True, False], ids=["symbols", "numbers"])
def test_mistakes_are_explained(sympy, monkeypatch):
    if sympy:
        pytest.importorskip("sympy", reason="formulas need SymPy: pip install 'minisnn[symbolic]'")
    else:
        monkeypatch.setattr(explain_formulas, "load_sympy", lambda: (_ for _ in ()).throw(ImportError("no SymPy here")))
    without = []
    for name, (step, pattern) in CASES.items():
        rows, problems = check_steps((step,))
        assert problems or not all(row.ok for row in rows), name
        found = explain_step(step)
        assert found, name
        if all(map(explained, found)):
            assert sympy is False or re.search(pattern, " ".join(map(str, found))), (name, found)
        else:
            without.append(name)
    assert len(CASES) >= 45 and len(without) <= 0.1 * len(CASES), without


def test_formulas_name_the_missing_term_and_have_latex():
    sympy = pytest.importorskip("sympy", reason="formulas need SymPy: pip install 'minisnn[symbolic]'")
    step = reset_step(ms.Reset(soft_reset, lambda d_v, u, s, theta: (d_v, -theta * d_v, 0)))
    (found,) = explain_step(step)
    assert (found.yours, found.true, found.difference) == ("0", "-d_v*s", "d_v*s") and "d_{v}" in found.latex[1]
    assert sympy and "the reset holds the threshold" in found.sentence


def test_an_adjoint_that_is_not_linear_is_named():
    report = ms.checks.check_adjoint(
        ms.Neuron(lif_charge, lambda d, v, x, decay: (decay * d, d * d, v * d)),
        ms.resets.hard,
        planted.ATAN,
        backend="numpy",
    )
    assert not report.ok and "d_x is not linear in d_u" in str(report)


def test_a_slope_that_is_no_number_is_named():
    report = ms.checks.check_adjoint(
        ms.neurons.lif, ms.resets.hard, ms.Surrogate(atan_smooth, lambda x, k: np.log(x) * 0 + 1, 1.3), backend="numpy"
    )
    assert not report.ok and "not a finite number at some points" in str(report)
