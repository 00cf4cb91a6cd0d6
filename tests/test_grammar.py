"""Floor 0: what its functions may contain, and that the package's own keep to it."""

import math
import types

import numpy as np
import pytest

import minisnn as ms
from minisnn import grammar
from minisnn.kernels.narrow import fingerprint, for_numpy, narrowed

HALF = 0.5
LIST = [1.0]


def helper(x):
    return x


def branches(x, k):
    if x > 0:
        return k
    return x


def conditional(x, k):
    return x if x > 0 else k


def chained(x, k):
    return k * (0 < x < 1)


def boolean(x, k):
    return k * (x > 0 and x < 1)


def loops(x, k):
    for _ in (1, 2):
        x = x + k
    return x


def index(x, k):
    return x[0] * k


def calls(x, k):
    return helper(x) * k


def uses_pi(x, k):
    return np.pi * x * k


def uses_math(x, k):
    return math.exp(x) * k


def uses_abs(x, k):
    return np.abs(x) * k


def uses_builtin_abs(x, k):
    return abs(x) * k


def uses_sign(x, k):
    return np.sign(x) * k


def uses_where(x, k):
    return np.where(x > 0, x, k)


def power(x, k):
    return x**2 * k


def floor_division(x, k):
    return x // k


def in_place(x, k):
    x += k
    return x


def two_comparisons(x, k):
    return (x <= HALF) * (x >= -HALF) * k


def negated_comparison(x, k):
    return k * -(x > 0)


def comparison_result(x, k):
    return x > k


def default(x, k=2.0):
    return x * k


def keyword_only(x, *, k=2.0):
    return x * k


def starred(*x):
    return x[0]


def global_list(x, k):
    return x * k * LIST


def unknown_name(x, k):
    return x * k * nowhere  # noqa: F821


def keyword_call(x, k):
    return np.maximum(x, k, out=x)


def one_tuple(x, k):
    return (x * k,)


def two_values(x, k):
    return x, k


def writes(x, k):
    x[0] = k
    return x


def enclosing(value):
    def slope(x, k):
        return x * k * value

    return slope


REFUSED = {
    branches: "branches", conditional: "branches", chained: "branches", boolean: "branches", loops: "branches",
    index: "index", calls: "calls no other function", uses_pi: "module-level name", uses_math: "floor 0 uses numpy",
    uses_abs: r"np.maximum\(x, -x\)", uses_builtin_abs: "'abs'", uses_sign: "comparisons", uses_where: "comparison",
    power: r"x\*x", floor_division: "operator //", in_place: "a = a \\+ b", two_comparisons: "two comparisons",
    negated_comparison: "negates", comparison_result: "must return numbers", default: "default values to k",
    keyword_only: "default values to k", starred: r"\*args", global_list: "'LIST', a list", unknown_name: "'nowhere'",
    keyword_call: "keyword", one_tuple: "1-tuple", two_values: "2 value", writes: "index",
}  # fmt: skip


@pytest.mark.parametrize("function", REFUSED, ids=lambda f: f.__name__)
def test_refuses(function):
    with pytest.raises(ms.GrammarError, match=REFUSED[function]) as caught:
        ms.Surrogate(ms.surrogates.atan_smooth, function, 2.0)
    assert function.__name__ in str(caught.value) and "slope of a Surrogate" in str(caught.value)


def test_enclosed_numbers_pass_and_anything_else_is_named():
    ms.Surrogate(ms.surrogates.atan_smooth, enclosing(3.0), 2.0)
    with pytest.raises(ms.GrammarError, match="enclosing variable 'value', a list"):
        ms.Surrogate(ms.surrogates.atan_smooth, enclosing([3.0]), 2.0)


def test_accepts_what_the_design_allows():
    def slope(x, k):
        a = HALF * np.exp(-k * np.maximum(x, -x)) + np.arctan(x) * np.tanh(x) - np.sqrt(k) / np.log(2.0 + k)
        b = np.minimum(np.cos(x), np.sin(x))
        c, d = a, b
        return +c * (x <= HALF) * (x >= -HALF) + 1.0 * (d != x) - d

    slope.__globals__  # noqa: B018 - a nested function without enclosed names is fine
    ms.Surrogate(ms.surrogates.atan_smooth, slope, 2.0)
    ms.Surrogate(ms.surrogates.atan_smooth, lambda x, k: 0, 2.0)


def test_refuses_what_is_no_function_and_counts_arguments_and_results():
    with pytest.raises(ms.GrammarError, match="plain Python function"):
        ms.Surrogate(np.tanh, ms.surrogates.atan_slope, 2.0)
    with pytest.raises(ms.GrammarError, match=r"takes 3 arguments \(v, x, decay\), expected 2"):
        ms.Neuron(ms.neurons.lif_charge, ms.neurons.lif_adjoint, params=())
    with pytest.raises(ms.GrammarError, match=r"returns 3 value\(s\), expected 5"):
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


# -- narrowed copies

NUMBER = 2
SCALAR = np.float64(0.1)


def with_numbers(x, k):
    """Has a docstring, integers, a global number and a tuple of constants."""
    a = 2 * x + NUMBER
    return a / 3 + k * (x > 0)


def constants(x, k):
    return 0, 1.5


def with_scalar(x, k):
    return x * SCALAR + k


def test_narrowed_copies_keep_the_dtype_of_their_arguments():
    for function in (with_numbers, with_scalar, enclosing(2.5), lambda x, k: 0 * x + 7):
        for number in (np.float32, np.float64):
            result = narrowed(function, np.dtype(number))(number(0.25), number(1.5))
            assert type(result) is number, function.__name__
            assert np.isclose(result, function(0.25, 1.5), rtol=1e-6)
    assert [type(v) for v in narrowed(constants, np.dtype("f4"))(1, 2)] == [np.float32] * 2


def test_equal_functions_share_a_copy_and_changed_ones_do_not(monkeypatch):
    def again(x, k):
        return x * k * NUMBER

    first = narrowed(again, np.dtype("f4"))
    twin = types.FunctionType(again.__code__, again.__globals__)
    assert narrowed(twin, np.dtype("f4")) is first
    mark = fingerprint(again)
    monkeypatch.setitem(globals(), "NUMBER", 3)
    assert fingerprint(again) != mark
    assert narrowed(again, np.dtype("f4"))(np.float32(1), np.float32(1)) == 3
    monkeypatch.setitem(globals(), "NUMBER", 2.0)  # 2 and 2.0 are equal, and yet not the same constant
    assert fingerprint(again) != mark


def test_numpy_runs_the_original_unless_a_scalar_would_widen():
    assert for_numpy(with_numbers, np.dtype("f4")) is with_numbers
    x = np.ones(3, np.float32)
    assert with_scalar(x, x).dtype == np.float64
    assert for_numpy(with_scalar, np.dtype("f4"))(x, x).dtype == np.float32


def test_every_ingredient_keeps_the_grammar():
    """Built-ins are checked when they are made; this holds that the check is not skipped."""
    for neuron in ms.neurons.NEURONS.values():
        n_states, n_params = len(neuron.state), len(neuron.params)
        grammar.check(neuron.charge, "charge", n_states + 1 + n_params, n_states)
    with pytest.raises(ms.GrammarError):
        grammar.check(two_values, "slope", 2, 1)
