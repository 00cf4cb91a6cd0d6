"""The kernels' contract: a plain loop holds the reference, the reference holds the other backends."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from grid import FEW, FULL, NEURONS, RESETS, problem, relative, summed
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import minisnn as ms
from minisnn.kernels import HARD, Base, Dynamics, Needs, Twin, kernel_of
from minisnn.kernels.loops import SPAN

numba = pytest.importorskip("numba")

#: Ingredients with exp, tanh or arctan agree to rounding, all others bit for bit (docs/design).
TOLERANCE = {"float64": 1e-13, "float32": 1e-5}


def plain_loop(dynamics, p):
    """The definition, one number at a time: spikes and u of every sample and neuron."""
    neuron, reset, _ = dynamics
    spikes, u = np.zeros(p.x.shape, np.uint8), np.zeros_like(p.x)
    for b, n in itertools.product(range(p.x.shape[1]), range(p.x.shape[2])):
        state = [float(s[b, n]) for s in p.state0]
        for t in range(len(p.x)):
            new = neuron.charge(*state, float(p.x[t, b, n]), *(float(q[n]) for q in p.params))
            new = list(new) if isinstance(new, tuple) else [new]
            s = 1.0 if new[0] >= p.theta[n] else 0.0
            spikes[t, b, n], u[t, b, n] = s, new[0]
            state = [reset.reset(new[0], s, float(p.theta[n])), *new[1:]]
    return spikes, u


@pytest.mark.parametrize("name", [f"{n}-{r}-atan" for n in NEURONS for r in RESETS])
def test_reference_equals_a_plain_loop(name):
    p = problem(FULL[name])
    spikes, u = plain_loop(FULL[name], p)
    found, _, cache = kernel_of(FULL[name], "numpy").scan(*p[:5])
    assert np.array_equal(found, spikes) and np.array_equal(cache.u[0], u)


def assert_backends_agree(name, dtype, shape=(6, 2, 3), seed=0):
    p = problem(FULL[name], shape, seed, dtype)
    reference, compiled = (kernel_of(FULL[name], b) for b in ("numpy", "numba"))
    spikes, last, cache = reference.scan(*p[:5])
    found, found_last, found_cache = compiled.scan(*p[:5])
    assert found.dtype == np.uint8 and found_cache.u.dtype == dtype and found_last.dtype == dtype
    assert np.array_equal(found, spikes)
    assert np.array_equal(found_cache.u, cache.u) and np.array_equal(found_last, last)
    # Spikes and u are the same bits, so that a flipped spike could not hide or feign a fault of the adjoint.
    expected = summed(reference.scan_adjoint(p.d_spikes, p.d_state_last, cache))
    gradients = summed(compiled.scan_adjoint(p.d_spikes, p.d_state_last, found_cache))
    for a, b in zip(gradients, expected, strict=True):
        assert a.dtype == dtype and relative(a, b) <= TOLERANCE[dtype]


def test_the_core_grid_covers_every_ingredient():
    seen = zip(*(name.split("-") for name in FEW), strict=True)
    assert [set(s) for s in seen] == [set(NEURONS), set(RESETS), set(ms.surrogates.SURROGATES)]


@pytest.mark.parametrize("name", FEW)
def test_backends_agree_in_float64(name):
    assert_backends_agree(name, "float64")


@pytest.mark.long
@pytest.mark.parametrize("name", FULL)
def test_backends_agree_in_float64_on_the_full_grid(name):
    assert_backends_agree(name, "float64")


# Every formula is held to the reference in both dtypes by test_formula.py.
@pytest.mark.parametrize("name", FEW[::2])
def test_backends_agree_in_float32(name):
    assert_backends_agree(name, "float32")


@pytest.mark.long
@pytest.mark.parametrize("name", FULL)
def test_backends_agree_in_float32_on_the_full_grid(name):
    assert_backends_agree(name, "float32")


@given(t=st.integers(1, 9), b=st.integers(1, 7), n=st.integers(1, 40), seed=st.integers(0, 10**6), which=st.integers(0, 99))
def test_backends_agree_for_any_shape(t, b, n, seed, which):
    assert_backends_agree(FEW[which % len(FEW)], "float64", (t, b, n), seed)


@pytest.mark.parametrize("shape", [(3, 5, 2047), (3, 5, 2048), (3, 3, 2049), (2, 2, 5000), (2, 70, 700), (2, 4100, 1)])
def test_backends_agree_where_tiles_end(shape):
    assert_backends_agree("lif-hard-atan", "float64", shape)


STEPS = [SPAN - 1, SPAN, SPAN + 1, 2 * SPAN, 2 * SPAN + 1, 200]  # the compiled adjoint runs SPAN steps forward at a time
#: Within a few hundred steps these do not run away, as the quadratic neuron does.
LONG = ["lif-hard-atan", "current_lif-soft_detached-fast_sigmoid"]


@pytest.mark.parametrize("given", [True, False], ids=["state0", "zeros"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("name", LONG)
def test_backends_agree_over_more_than_a_span_of_time(name, steps, dtype, given):
    """All of arithmetic alone, the slope of atan too: every bit but those of sums, which are taken in another order."""
    p = problem(FULL[name], (steps, 3, 5), steps, dtype)
    state0, d_last = (p.state0, p.d_state_last) if given else (None, None)
    found = []
    for backend in ("numpy", "numba"):
        kernel = kernel_of(FULL[name], backend)
        spikes, last, cache = kernel.scan(p.x, state0, *p[2:5])
        assert cache.u.flags.c_contiguous and cache.u.dtype == dtype
        found.append(
            [(spikes, last, cache.u, *(back := kernel.scan_adjoint(p.d_spikes, d_last, cache))[:2]), summed(back)[2:]]
        )
    (exact, sums), (fast, fast_sums) = found
    assert 0.05 < exact[0].mean() < 0.95 and all(np.array_equal(a, b) for a, b in zip(fast, exact, strict=True))
    assert all(relative(a, b) <= {"float64": 1e-12, "float32": 1e-5}[dtype] for a, b in zip(fast_sums, sums, strict=True))


@pytest.mark.parametrize("steps", [6, SPAN + 1])
@pytest.mark.parametrize("name", LONG)
def test_an_input_that_is_the_same_memory_at_every_step_is_as_good_as_a_copy(name, steps, backend):
    kernel, p = kernel_of(FULL[name], backend), problem(FULL[name], (steps, 3, 5))
    runs = []
    for x in (steady := np.broadcast_to(p.x[0], p.x.shape), steady.copy()):
        for twin in (HARD, Twin("smooth")):
            spikes, last, cache = kernel.scan(x, *p[1:5], twin)
            runs.append((spikes, last, cache.u, *kernel.scan_adjoint(p.d_spikes, p.d_state_last, cache)))
    assert all(
        np.array_equal(a, b)
        for run, copied in zip(runs[:2], runs[2:], strict=True)
        for a, b in zip(run, copied, strict=True)
    )
    assert runs[0][3].flags.c_contiguous and not steady.flags.writeable and not np.array_equal(runs[0][3][0], runs[0][3][1])


@pytest.mark.parametrize("given", [True, False], ids=["state0", "zeros"])
@pytest.mark.parametrize("steps", [6, SPAN + 1, 2 * SPAN + 6])
@pytest.mark.parametrize("fire", ["smooth", "tangent"])
@pytest.mark.parametrize("name", ["lif-soft_detached-triangle", "current_lif-soft_detached-fast_sigmoid"])
def test_the_membranes_of_twins_are_those_of_the_reference(name, fire, steps, given):
    """Their curve is arithmetic alone, and what a base run holds is read again where a look at u runs forward again."""
    dynamics, p = FULL[name], problem(FULL[name], (steps, 3, 5))
    first = kernel_of(dynamics, "numpy").scan(*p[:5])[2]
    moved = p.x + 0.01 * np.random.default_rng(1).normal(size=p.x.shape), p.state0 if given else None, *p[2:5]
    for base in (Base(first.u[0], first.spikes, first.theta), None)[: 1 + (fire == "smooth")]:
        a, b = (kernel_of(dynamics, backend).scan(*moved, Twin(fire, base)) for backend in ("numpy", "numba"))
        assert all(np.array_equal(x, y) for x, y in zip((*b[:2], b[2].u), (*a[:2], a[2].u), strict=True))
        assert base is None or not np.array_equal(b[2].u[0], first.u[0])


@pytest.mark.parametrize("fire", ["smooth", "tangent"])
@pytest.mark.parametrize("name", FEW[::2])
def test_compiled_twins_equal_the_reference_twins(name, fire):
    dynamics = FULL[name]
    p = problem(dynamics)
    rng = np.random.default_rng(1)
    first = kernel_of(dynamics, "numpy").scan(*p[:5], Twin("step" if fire == "tangent" else fire))[2]
    base = Base(first.u[0], first.spikes, first.theta)
    moved = p._replace(x=p.x + 0.01 * rng.normal(size=p.x.shape), theta=p.theta + 0.01)
    kernels = [kernel_of(dynamics, backend) for backend in ("numpy", "numba")]
    a, b = (kernel.scan(*moved[:5], Twin(fire, base)) for kernel in kernels)
    assert relative(b[0], a[0]) <= 1e-13 and relative(b[1], a[1]) <= 1e-13 and relative(b[2].u, a[2].u) <= 1e-13
    if fire == "smooth":
        caches = [kernel.scan(*moved[:5], Twin(fire))[2] for kernel in kernels]
        gradients = [summed(k.scan_adjoint(p.d_spikes, p.d_state_last, c)) for k, c in zip(kernels, caches, strict=True)]
        for x, y in zip(*gradients, strict=True):
            assert relative(y, x) <= 1e-13


def test_a_twin_without_a_base_holds_nothing(backend):
    dynamics = FULL["lif-soft_detached-sigmoid"]
    p = problem(dynamics)
    kernel = kernel_of(dynamics, backend)
    free = kernel.scan(*p[:5], Twin("smooth"))
    base = Base(free[2].u[0] + 1, np.zeros_like(free[0]), free[2].theta)
    held = kernel.scan(*p[:5], Twin("smooth", base))
    assert relative(held[1], free[1]) > 1e-3  # the reset took the base run's spikes: none
    assert np.array_equal(held[1][0], held[2].u[0, -1])


def test_a_spike_that_is_held_may_be_negated(backend):
    """The spikes of a base run are stored as uint8, where -1 is 255."""
    held = ms.Reset(lambda u, s, theta: u + (-s) * theta, lambda d_v, u, s, theta: (d_v, 0 * d_v, -s * d_v), stop=("s",))
    p = problem(dynamics := FULL["lif-soft-sigmoid"]._replace(reset=held))
    kernel = kernel_of(dynamics, backend)
    spikes, last, cache = kernel.scan(*p[:5])
    twin = kernel.scan(*p[:5], Twin("tangent", Base(cache.u[0], spikes, cache.theta)))
    assert spikes.any() and relative(twin[1], last) < 1e-12 and relative(twin[2].u, cache.u) < 1e-12


def test_what_does_not_fit_is_refused_at_the_door(backend):
    """A compiled loop sees memory and sizes, and would read and write beside an array that does not fit."""
    dynamics = FULL["lif-soft-sigmoid"]
    kernel, other, p = kernel_of(dynamics, backend), kernel_of(FULL["lif-hard-atan"], backend), problem(dynamics, (3, 2, 4))
    cache = kernel.scan(*p[:5])[2]
    base = Base(cache.u[0], cache.spikes, cache.theta)
    held, short = kernel.scan(*p[:5], Twin("step", base))[2], p._replace(x=p.x[:2].copy())

    def back(d_spikes=p.d_spikes, d_last=p.d_state_last, cache=cache):
        return kernel.scan_adjoint(d_spikes, d_last, cache)

    for kind, message, call in (
        (ValueError, "'tangent' needs the base run", lambda: kernel.scan(*p[:5], Twin("tangent"))),
        (ValueError, r"base.u is .*3, 2, 4\], expected .*2, 2, 4\]", lambda: kernel.scan(*short[:5], Twin("smooth", base))),
        (ValueError, r"x has shape \[2, 4\]", lambda: kernel.scan(p.x[0], *p[1:5])),
        (ValueError, "state0 is float64 .*1, 1, 4", lambda: kernel.scan(p.x, p.state0[:, :1].copy(), *p[2:5])),
        (ValueError, "theta is float32", lambda: kernel.scan(p.x, None, p.theta.astype("f4"), *p[3:5])),
        (ValueError, "x lies in pieces", lambda: kernel.scan(p.x[::2], *p[1:5])),
        (ValueError, r"d_spikes is float64 \[2, 2, 4\]", lambda: back(p.d_spikes[:2].copy())),
        (ValueError, "d_spikes lies in pieces", lambda: back(p.d_spikes[::-1])),
        (TypeError, "d_spikes is a builtins.list", lambda: back(p.d_spikes.tolist())),
        (ValueError, "d_state_last is float32", lambda: back(d_last=p.d_state_last.astype("f4"))),
        (ValueError, r"cache.spikes is uint8 \[2, 2, 4\]", lambda: back(cache=replace(cache, spikes=cache.spikes[:2]))),
        (ValueError, "cache.spikes is float64", lambda: back(cache=replace(cache, spikes=cache.spikes.astype(float)))),
        (ValueError, "cache: made by .*hard", lambda: back(cache=other.scan(*p[:5])[2])),
        (ValueError, "holds on to a base run", lambda: back(cache=held)),
    ):  # fmt: skip
        with pytest.raises(kind, match=message):
            call()


def test_same_bits_for_any_number_of_threads():
    dynamics = FULL["lif-hard-atan"]
    p = problem(dynamics, (16, 130, 900), dtype="float32")
    kernel = kernel_of(dynamics, "numba")
    assert p.x.size > 3 * ms.kernels.threads.WORTH_A_THREAD
    runs = []
    for n in (1, 2, 3, 7):
        ms.set_threads(n)
        try:
            spikes, last, cache = kernel.scan(*p[:5])
            runs.append([spikes, last, cache.u, *kernel.scan_adjoint(p.d_spikes, p.d_state_last, cache)])
        finally:
            ms.set_threads(None)
    for run in runs[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(runs[0], run, strict=True))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), which=st.integers(0, 99))
def test_calls_are_pure(backend, seed, which):
    dynamics = FULL[FEW[which % len(FEW)]]
    p = problem(dynamics, seed=seed)
    kernel = kernel_of(dynamics, backend)
    before = [a.copy() if isinstance(a, np.ndarray) else a for a in p]
    spikes, last, cache = kernel.scan(*p[:5])
    kept = [a.copy() for a in (spikes, last, cache.u)]
    first = kernel.scan_adjoint(p.d_spikes, p.d_state_last, cache)
    copies = [a.copy() for a in first]
    kernel.scan(*problem(dynamics, seed=seed + 1)[:5])
    second = kernel.scan_adjoint(p.d_spikes, p.d_state_last, cache)
    assert all(np.array_equal(a, b) for a, b in zip(before, p, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(kept, (spikes, last, cache.u), strict=True))
    assert all(np.array_equal(a, b) and np.array_equal(a, c) for a, b, c in zip(first, second, copies, strict=True))
    assert not any(np.shares_memory(a, b) for a, b in zip(first, second, strict=True) if a.size)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(t=st.integers(2, 9), seed=st.integers(0, 10**6), which=st.integers(0, 99))
def test_chunks_over_time_equal_the_whole(backend, t, seed, which):
    """State out is state in: the spikes bit for bit, the gradients through the chained adjoints."""
    dynamics = FULL[FEW[which % len(FEW)]]
    p = problem(dynamics, (t, 2, 3), seed)
    kernel, cut = kernel_of(dynamics, backend), t // 2
    spikes, last, cache = kernel.scan(*p[:5])
    head, middle, first = kernel.scan(p.x[:cut].copy(), *p[1:5])
    tail, end, second = kernel.scan(p.x[cut:].copy(), middle, *p[2:5])
    assert np.array_equal(np.concatenate([head, tail]), spikes) and np.array_equal(end, last)
    whole = summed(kernel.scan_adjoint(p.d_spikes, p.d_state_last, cache))
    later = summed(kernel.scan_adjoint(p.d_spikes[cut:].copy(), p.d_state_last, second))
    earlier = summed(kernel.scan_adjoint(p.d_spikes[:cut].copy(), later[1], first))
    assert np.array_equal(np.concatenate([earlier[0], later[0]]), whole[0]) and np.array_equal(earlier[1], whole[1])
    assert relative(earlier[2] + later[2], whole[2]) <= 1e-12
    assert relative(earlier[3] + later[3], whole[3]) <= 1e-12


def test_gradients_of_no_parameters_are_given_only_if_asked_for(backend):
    kernel, p = kernel_of(FULL["integrate_and_fire-hard-atan"], backend), problem(FULL["integrate_and_fire-hard-atan"])
    cache = kernel.scan(*p[:5])[2]
    for asked in (True, False):
        d_params = kernel.scan_adjoint(p.d_spikes, None, cache, Needs(params=asked))[3]
        assert (d_params is not None) == asked and (not asked or len(d_params) == 0)


def test_only_the_gradients_asked_for_are_given(backend):
    dynamics = FULL["lif-hard-atan"]
    p = problem(dynamics)
    kernel = kernel_of(dynamics, backend)
    cache = kernel.scan(*p[:5])[2]
    whole = kernel.scan_adjoint(p.d_spikes, p.d_state_last, cache)
    choices = (True, True, False), (False, True, True), (True, False, False), (False, False, False)
    for wanted in choices if backend == "numpy" else choices[1::2]:  # two more loops to compile are enough
        d_x, d_state0, d_theta, d_params = kernel.scan_adjoint(p.d_spikes, p.d_state_last, cache, Needs(*wanted))
        assert np.array_equal(d_state0, whole[1])
        for found, expected, asked in zip((d_x, d_theta, d_params), (whole[0], *whole[2:]), wanted, strict=True):
            assert (found is None) == (not asked) and (found is None or np.array_equal(found, expected))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_membrane_exactly_at_threshold_fires(backend, dtype):
    kernel = kernel_of(FULL["integrate_and_fire-hard-atan"], backend)
    theta = np.array([0.1, 0.3, 1.0], dtype)
    below = np.nextafter(theta, np.array(0, dtype))
    x = np.stack([theta, below])[None].astype(dtype)
    spikes = kernel.scan(x, np.zeros((1, 2, 3), dtype), theta, np.empty((0, 3), dtype), 2.0)[0]
    assert spikes.tolist() == [[[1, 1, 1], [0, 0, 0]]]


@pytest.mark.parametrize("name", FEW)
def test_every_formula_compiles_in_float32_without_widening(name):
    real = numba.float32
    for formula in FULL[name].formulas().values():
        compiled = numba.njit((real,) * len(formula.args))(formula.python("float32"))
        returned = compiled.nopython_signatures[0].return_type
        for one in getattr(returned, "types", (returned,)):
            assert one == real, f"{formula.name} returns {returned}"


def three_state_charge(v, a, b, x, decay, p, q, r):
    b_new = r * b + x
    a_new = q * a + b_new
    return decay * v + p * a_new, a_new, b_new


def three_state_adjoint(d_v, d_a, d_b, v, a, b, x, decay, p, q, r):
    a_new = q * a + r * b + x
    d_a_new = d_a + p * d_v
    d_b_new = d_b + d_a_new
    return decay * d_v, q * d_a_new, r * d_b_new, d_b_new, v * d_v, a_new * d_v, a * d_a_new, b * d_b_new


def test_any_number_of_states_and_parameters(backend):
    neuron = ms.Neuron(three_state_charge, three_state_adjoint, ("v", "a", "b"), ("decay", "p", "q", "r"))
    dynamics = Dynamics(neuron, ms.resets.soft, ms.surrogates.atan(1.3))
    p = problem(dynamics)
    spikes, last, cache = kernel_of(dynamics, backend).scan(*p[:5])
    expected, u = plain_loop(dynamics, p)
    assert np.array_equal(spikes, expected) and np.array_equal(cache.u[0], u) and last.shape == (3, 2, 3)
    if backend == "numpy":  # and the two agree
        ms.checks.check_adjoint(*dynamics, backend=backend).raise_if_wrong()
    gradients = summed(kernel_of(dynamics, backend).scan_adjoint(p.d_spikes, p.d_state_last, cache))
    for a, b in zip(
        gradients, summed(kernel_of(dynamics, "numpy").scan_adjoint(p.d_spikes, p.d_state_last, cache)), strict=True
    ):
        assert relative(a, b) <= 1e-13


@settings(max_examples=10)
@given(seed=st.integers(0, 10**6))
def test_nan_and_inf_pass_through_alike(seed):
    p = problem(FULL["lif-hard-atan"], (4, 3, 5), seed)
    x = p.x.copy()
    x[1, 0, 0], x[1, 1, 1], x[1, 2, 2] = np.nan, np.inf, -np.inf
    with np.errstate(all="ignore"):
        a, b = (kernel_of(FULL["lif-hard-atan"], k).scan(x, *p[1:5]) for k in ("numpy", "numba"))
    assert np.array_equal(a[0], b[0]) and np.array_equal(a[2].u, b[2].u, equal_nan=True)
    assert not a[0][1:, 0, 0].any()  # a membrane that is not a number never fires
