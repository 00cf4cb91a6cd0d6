"""Formulas: what may stand in one, and that what is recorded computes the same, bit for bit."""

import math
from fractions import Fraction

import numpy as np
import pytest

import minisnn as ms
from minisnn.formula import trace
from minisnn.kernels import Dynamics, kernel_of

HALF, LIST = 0.5, [1.0]
STRAY = []


def of_two(function):
    return trace(function, "slope of a Surrogate", 2, 1)


# -- what is refused, and what the message says


def branches(x, k):
    if x > 0:
        return k
    return x


def in_place(x, k):
    x += k
    return x


def in_place_alias(x, k):
    a = b = x * k
    a += 1
    return a + b


def keeps(x, k):
    STRAY.append(x)
    return x * k


def takes_what_was_kept(x, k):
    keeps(x, k)
    return STRAY[0] * k


def keyword_only(x, *, k=2.0):
    return x * k


def writes(x, k):
    x[0] = k
    return x


def loops_over_an_argument(x, k):
    return sum(a for a in x) * k


REFUSED = {
    branches: "branches", in_place: r"an argument, .*a = a \+ b", in_place_alias: "has two names", takes_what_was_kept: "left behind",
    keyword_only: r"2 arguments \(x, \*, k=2.0\), .* default values", writes: "index", loops_over_an_argument: "index",
}  # fmt: skip
REFUSED |= {of: message for message, functions in {
    "branches": [lambda x, k: x if x > 0 else k, lambda x, k: k * (0 < x < 1), lambda x, k: k * (x > 0 and x < 1),
                 lambda x, k: max(x, k), lambda x, k: k * (not x)],
    "index": [lambda x, k: x[0] * k],
    "functions of the math module": [lambda x, k: math.exp(x) * k, lambda x, k: float(x) * k, lambda x, k: k * LIST[x]],
    r"np.maximum\(x, -x\)": [lambda x, k: np.abs(x) * k, lambda x, k: abs(x) * k],
    "multiply by comparisons": [lambda x, k: np.sign(x) * k],
    "multiply by a comparison": [lambda x, k: np.where(x > 0, x, k)],
    r"x\*x": [lambda x, k: x**2 * k, lambda x, k: np.power(x, 2), lambda x, k: 2**x],
    "floor_divide": [lambda x, k: x // k], "np.sinh; only": [lambda x, k: np.sinh(x) * k], "np.clip": [lambda x, k: np.clip(x, 0, k)],
    "a comparison, or two": [lambda x, k: (x <= HALF) * (x >= -HALF) * k, lambda x, k: k * -(x > 0), lambda x, k: 1 - (x > k),
                        lambda x, k: np.maximum(x > k, k), lambda x, k: (x > 0) == (k > 0)],
    "by each comparison in turn": [lambda x, k: k * ((x > 0) & (x < 1))],
    "must return numbers": [lambda x, k: x > k],
    r"\(x, k=2.0\), expected 2 .* default values": [lambda x, k=2.0: x * k],
    r"arguments \((\*x|x, \*\*k)\), expected 2 with names of their own": [lambda *x: x[0], lambda x, **k: x],
    "arguments": [lambda x: x, lambda x, k, z: x],
    "computes with .*, a list": [lambda x, k: x * k + LIST, lambda x, k: LIST],
    "computes with True": [lambda x, k: x * True], "computes with inf": [lambda x, k: x * math.inf],
    "float32 can hold": [lambda x, k: x * 1e39, lambda x, k: x * 10**400, lambda x, k: 1j * x, lambda x, k: None,
                         lambda x, k: np.array([1.0, 2.0]) * x],
    "'nowhere' is not defined": [lambda x, k: x * k * nowhere],  # noqa: F821
    "keyword": [lambda x, k: np.maximum(x, k, out=x)],
    "returns a tuple of 1, expected a bare value": [lambda x, k: (x * k,)], "a tuple of 2, expected a bare": [lambda x, k: (x, k)],
}.items() for of in functions}  # fmt: skip


@pytest.mark.parametrize("function", REFUSED, ids=lambda f: REFUSED[f])
def test_refuses(function):
    with pytest.raises(ms.FormulaError, match=REFUSED[function]) as caught:
        if function is takes_what_was_kept:
            of_two(keeps)
        ms.Surrogate(ms.surrogates.atan_smooth, function, 2.0)
    assert str(caught.value).startswith(f"slope of a Surrogate: {function.__name__}() ")


def test_refuses_what_is_no_function_and_counts_arguments_and_results():
    with pytest.raises(ms.FormulaError, match="plain Python function"):
        ms.Surrogate(np.tanh, ms.surrogates.atan_slope, 2.0)
    with pytest.raises(ms.FormulaError, match=r"takes 3 arguments \(v, x, decay\), expected 2"):
        ms.Neuron(ms.neurons.lif_charge, ms.neurons.lif_adjoint, params=())
    with pytest.raises(ms.FormulaError, match="returns a tuple of 3, expected a tuple of 5"):
        ms.Neuron(ms.neurons.current_lif_charge, lambda a, b, v, i, x, d, e: (a, b, x), ("v", "i"), ("decay", "decay_syn"))


def test_names_of_states_and_parameters_are_checked():
    lif = ms.neurons.lif
    with pytest.raises(TypeError, match="tuple of names"):
        ms.Neuron(lif.charge, lif.charge_adjoint, state="v")
    with pytest.raises(ValueError, match="names must differ"):
        ms.Neuron(lif.charge, lif.charge_adjoint, state=("v",), params=("v",))
    with pytest.raises(ValueError, match="uses that name"):
        ms.Neuron(lif.charge, lif.charge_adjoint, params=("threshold",))
    with pytest.raises(ValueError, match="stop names"):
        ms.Reset(ms.resets.hard_reset, ms.resets.hard_adjoint, stop=("spike",))
    for k in (0, -1.0, math.inf, math.nan, "2", True):
        with pytest.raises(ValueError, match="steepness"):
            ms.surrogates.atan(k)


# -- what is recorded computes the same


def helper(x, weights=(0.5, 0.25)):
    total = 0
    for weight in weights:
        total += weight * x * x
    return total


def everything(x, k):
    """All operations, numbers of all kinds on both sides, names that text could mix up, a helper and a loop."""
    c0, t0, np_ = HALF * x, np.float32(2) / k, np.float64(0.25)
    a = HALF * np.exp(-k * np.maximum(x, -x)) + np.arctan(x) * np.tanh(x) - np.sqrt(k) / np.log(2.0 + k)
    b = np.minimum(np.cos(x), np.sin(x)) + (np_ <= x) * t0 + (np_ != x) * c0 - (3 - x)
    for power in range(2):
        b = b * x + power
    c, d = a, +b
    return c * (x <= HALF) * (x >= -HALF) + 1.0 * (d != x) - d / np.int64(3) + helper(x) + math.pi * np.pi


def own_names(np, c0, t0):
    return 0.1 * c0 + np * t0 - 0.2


BUILT_IN = {
    **{f"{n} {f.name}": (f, g) for n, o in {**ms.neurons.NEURONS, **ms.resets.RESETS}.items()
       for f, g in zip(o.formulas, (getattr(o, a) for a in ("charge", "charge_adjoint", "reset", "reset_adjoint") if hasattr(o, a)), strict=True)},
    **{f"{f.name}": (f, g) for o in (make(1.3) for make in ms.surrogates.SURROGATES.values())
       for f, g in zip(o.formulas, (o.smooth, o.slope), strict=True)},
    "everything": (of_two(everything), everything), "own names": (trace(own_names, "charge", 3, 1), own_names),
    "numbers alone": (trace(lambda x, k: (0, 1.5), "adjoint", 2, 2), lambda x, k: (0, 1.5)),
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", BUILT_IN)
def test_it_keeps_the_dtype_and_equals_the_function_bit_for_bit(name, dtype):
    formula, function = BUILT_IN[name]
    number = np.dtype(dtype).type
    draws = np.abs(np.random.default_rng(0).normal(size=(len(formula.args), 50))).astype(dtype)
    for args in (draws, draws[:, 0]):  # arrays, and single numbers
        found = formula.python(dtype)(*args)
        # NumPy's numbers of 64 bits widen float32 in the function itself: there they are as exact as can be.
        wide = name == "everything" and dtype == "float32"
        expected = function(*(args.astype("float64") if wide else args))
        for a, b in zip(*(v if isinstance(v, tuple) else (v,) for v in (found, expected)), strict=True):
            assert np.asarray(a).dtype == dtype
            assert np.allclose(a, b, rtol=1e-5, atol=1e-5) if wide else np.array_equal(a, number(b))


def test_in_complex_numbers_constants_are_real():
    z = np.array([0.3 + 1e-20j])
    found = of_two(lambda x, k: 0.1 * x * x + k).python("complex128")(z, 1.0)
    assert found.dtype == complex and np.isclose(found.imag[0], 0.1 * 2 * 0.3 * 1e-20, rtol=1e-12)


@pytest.mark.parametrize("name", BUILT_IN)
def test_it_has_values_on_numbers_of_other_kinds(name):
    formula, _ = BUILT_IN[name]
    z = np.random.default_rng(1).uniform(0.2, 2.0, (len(formula.args), 5)) + 1e-20j
    for args in (z, z.real):
        expected = formula.python(args.dtype)(*args)
        expected = expected if isinstance(expected, tuple) else (expected,)
        for a, b in zip(
            formula.evaluate(*args, call=lambda name, *values: getattr(np, name)(*values)), expected, strict=True
        ):
            assert np.array_equal(a, b)


def test_it_is_exact_on_fractions_and_asks_for_what_these_do_not_have():
    def unknown(name, *operands):
        raise LookupError(name)

    charge = ms.neurons.leaky_integrator.formulas[0]
    found = charge.evaluate(Fraction(1, 3), Fraction(1, 7), Fraction(2, 3), call=unknown, number=Fraction)
    assert found == (Fraction(2, 9) + Fraction(1, 21),)
    with pytest.raises(LookupError, match="arctan"):
        ms.surrogates.atan().formulas[0].evaluate(Fraction(1), Fraction(2), call=unknown, number=Fraction)


def test_loops_and_helpers_unroll():
    assert of_two(lambda x, k: helper(x) + k) == of_two(lambda x, k: 0 + 0.5 * x * x + 0.25 * x * x + k)
    cubed = of_two(lambda x, k: math.prod([x] * 3) * k)
    assert [operation for _, operation, _ in cubed.steps] == ["multiply"] * 4


def test_results_know_what_they_are_computed_from():
    charge, adjoint = ms.neurons.current_lif.formulas  # of (d_u, d_i_new, v, i, x, decay, decay_syn)
    assert charge.depends == ({0, 1, 2, 3, 4}, {1, 2, 4}) and adjoint.depends == (
        {0, 5},
        {0, 1, 6},
        {0, 1},
        {0, 2},
        {0, 1, 3},
    )
    assert ms.resets.none.formulas[1].depends == ({0}, set(), set())


def test_equal_are_those_that_compute_the_same_whatever_the_names():
    def other(membrane, current, leak):
        charged = leak * membrane
        return charged + current

    lif = ms.neurons.lif.formulas[0]
    same = trace(other, "charge", 3, 1)
    assert same == lif and hash(same) == hash(lif) and same.name == "other" and same.python("f4") is lif.python("f4")
    assert same.python("f4") is not same.python("f8")
    different = [
        lambda a, b, c: a * c + b, lambda a, b, c: c * a - b, lambda a, b, c: c * a + b + 0.0, lambda a, b, c: c * a + b + -0.0,
        lambda a, b, c: c * a + b + 1e-300, lambda a, b, c: c * b + a,
    ]  # fmt: skip
    formulas = [lif, *(trace(f, "charge", 3, 1) for f in different)]
    assert len(set(formulas)) == len({f.python("f8").__name__ for f in formulas}) == len(formulas)
    assert trace(lambda a, b: a + b, "f", 2, 1) != trace(lambda a, b, c: a + b, "f", 3, 1)  # one more, which is not used


def test_functions_without_a_source_are_formulas_too():
    scope = {}
    exec("def slope(x, k): return HALF * k / (1 + x * x)", {"HALF": 0.5}, scope)
    assert of_two(scope["slope"]).python("f8")(1.0, 3.0) == 0.75


def enclosing(value):
    return lambda d_u, v, x: (value * d_u, d_u)


def test_constants_are_read_when_the_object_is_made(backend, monkeypatch):
    def neuron():
        return ms.Neuron(lambda v, x: HALF * v + x, enclosing(HALF), params=())

    def last(neuron):
        kernel = kernel_of(Dynamics(neuron, ms.resets.none, ms.surrogates.atan()), backend)
        return kernel.scan(np.ones((2, 1, 1)), None, np.ones(1), np.empty((0, 1)), 2.0)[1].item()

    before = neuron()
    assert last(before) == 1.5
    monkeypatch.setitem(globals(), "HALF", 0.25)
    after = neuron()
    assert last(before) == 1.5 and last(after) == 1.25 and before != after and before == before
    monkeypatch.setitem(globals(), "HALF", 0.5)
    assert neuron() == before and kernel_of(Dynamics(neuron(), ms.resets.none, ms.surrogates.atan()), backend) is kernel_of(
        Dynamics(before, ms.resets.none, ms.surrogates.atan()), backend
    )


def test_c_has_one_line_a_step_and_no_name_of_the_function():
    formula = trace(lambda int, τ: (int * np.maximum(τ, -τ) + 0.1, 0), "charge", 2, 2)
    assert formula.c("charge").splitlines() == [
        "__device__ inline void charge(const real a0, const real a1, real& out0, real& out1) {",
        "    const real c0 = (real)0.1;", "    const real c1 = (real)0.0;", "    const real t0 = -a1;",
        "    const real t1 = maximum(a1, t0);", "    const real t2 = a0 * t1;", "    const real t3 = t2 + c0;",
        "    out0 = t3;", "    out1 = c1;", "}",
    ]  # fmt: skip
