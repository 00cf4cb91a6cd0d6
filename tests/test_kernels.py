"""The kernels' contract: a plain loop holds the reference, the reference holds the other backends."""

import itertools

import numpy as np
import pytest
from grid import FEW, FULL, NEURONS, PAIRS, RESETS, problem, relative, summed
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import minisnn as ms
from minisnn.kernels import Base, Dynamics, Wanted, kernel_of
from minisnn.kernels.contract import state_after
from minisnn.kernels.narrow import narrowed

numba = pytest.importorskip("numba")

#: Ingredients with exp, tanh or arctan agree to rounding, all others bit for bit (DESIGN 8).
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
    for kept in (cache, found_cache):
        after = state_after(FULL[name], kept)
        assert np.array_equal(after, last) and after.dtype == dtype and not np.shares_memory(after, kept.u)
    # Adjoints from the reference's spikes and u, so that a flipped spike could not hide or feign a fault.
    expected = summed(reference.scan_adjoint(p.d_spikes, p.d_state_last, cache))
    gradients = summed(compiled.scan_adjoint(p.d_spikes, p.d_state_last, cache))
    for a, b in zip(gradients, expected, strict=True):
        assert a.dtype == dtype and relative(a, b) <= TOLERANCE[dtype]


def test_the_core_grid_covers_every_pair():
    seen = [name.split("-") for name in PAIRS]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        every = itertools.product(*((NEURONS, RESETS, list(ms.surrogates.SURROGATES))[i] for i in (a, b)))
        assert {(s[a], s[b]) for s in seen} == set(every)


@pytest.mark.parametrize("name", PAIRS)
def test_backends_agree_in_float64(name):
    assert_backends_agree(name, "float64")


@pytest.mark.long
@pytest.mark.parametrize("name", FULL)
def test_backends_agree_in_float64_on_the_full_grid(name):
    assert_backends_agree(name, "float64")


@pytest.mark.parametrize("name", FEW)
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


@pytest.mark.parametrize("name", FEW)
def test_the_state_after_a_smooth_run_follows_from_what_it_kept(name):
    p = problem(FULL[name])
    _, last, cache = kernel_of(FULL[name], "numpy").scan(*p[:5], fire="smooth")
    assert np.array_equal(state_after(FULL[name], cache), last)


@pytest.mark.parametrize("fire", ["smooth", "tangent"])
@pytest.mark.parametrize("name", FEW)
def test_compiled_twins_equal_the_reference_twins(name, fire):
    dynamics = FULL[name]
    p = problem(dynamics)
    rng = np.random.default_rng(1)
    first = kernel_of(dynamics, "numpy").scan(*p[:5], fire="step" if fire == "tangent" else fire)[2]
    base = Base(first.u[0], first.spikes, first.theta)
    moved = p._replace(x=p.x + 0.01 * rng.normal(size=p.x.shape), theta=p.theta + 0.01)
    a = kernel_of(dynamics, "numpy").scan(*moved[:5], fire=fire, base=base)
    b = kernel_of(dynamics, "numba").scan(*moved[:5], fire=fire, base=base)
    assert relative(b[0], a[0]) <= 1e-13 and relative(b[1], a[1]) <= 1e-13 and relative(b[2].u, a[2].u) <= 1e-13
    if fire == "smooth":
        gradients = [
            summed(kernel_of(dynamics, k).scan_adjoint(p.d_spikes, p.d_state_last, a[2])) for k in ("numpy", "numba")
        ]
        for x, y in zip(*gradients, strict=True):
            assert relative(y, x) <= 1e-13


def test_a_twin_without_a_base_holds_nothing(backend):
    dynamics = FULL["lif-soft_detached-sigmoid"]
    p = problem(dynamics)
    kernel = kernel_of(dynamics, backend)
    free = kernel.scan(*p[:5], fire="smooth")
    base = Base(free[2].u[0] + 1, np.zeros_like(free[0]), free[2].theta)
    held = kernel.scan(*p[:5], fire="smooth", base=base)
    assert relative(held[1], free[1]) > 1e-3  # the reset took the base run's spikes: none
    assert np.array_equal(held[1][0], held[2].u[0, -1])


def test_a_spike_that_is_held_may_be_negated(backend):
    """The spikes of a base run are stored as uint8, where -1 is 255."""
    held = ms.Reset(lambda u, s, theta: u + (-s) * theta, lambda d_v, u, s, theta: (d_v, 0 * d_v, -s * d_v), stop=("s",))
    p = problem(dynamics := FULL["lif-soft-sigmoid"]._replace(reset=held))
    kernel = kernel_of(dynamics, backend)
    spikes, last, cache = kernel.scan(*p[:5])
    twin = kernel.scan(*p[:5], fire="tangent", base=Base(cache.u[0], spikes, cache.theta))
    assert spikes.any() and relative(twin[1], last) < 1e-12 and relative(twin[2].u, cache.u) < 1e-12


def test_a_tangent_needs_a_run_to_touch(backend):
    with pytest.raises(ValueError, match="fire: 'tangent' needs the base run"):
        kernel_of(FULL["lif-soft-sigmoid"], backend).scan(*problem(FULL["lif-soft-sigmoid"])[:5], fire="tangent")


def test_same_bits_for_any_number_of_threads():
    dynamics = FULL["lif-hard-atan"]
    p = problem(dynamics, (7, 33, 900), dtype="float32")
    kernel = kernel_of(dynamics, "numba")
    assert p.x.size > ms.kernels.threads.WORTH_SHARING
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
        d_params = kernel.scan_adjoint(p.d_spikes, None, cache, Wanted(params=asked))[3]
        assert (d_params is not None) == asked and (not asked or len(d_params) == 0)


def test_only_the_gradients_asked_for_are_given(backend):
    dynamics = FULL["lif-hard-atan"]
    p = problem(dynamics)
    kernel = kernel_of(dynamics, backend)
    cache = kernel.scan(*p[:5])[2]
    whole = kernel.scan_adjoint(p.d_spikes, p.d_state_last, cache)
    for wanted in ((True, True, False), (False, True, True), (True, False, False), (False, False, False)):
        d_x, d_state0, d_theta, d_params = kernel.scan_adjoint(p.d_spikes, p.d_state_last, cache, Wanted(*wanted))
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
def test_every_ingredient_compiles_in_float32_without_widening(name):
    neuron, reset, surrogate = FULL[name]
    real = numba.float32
    k, q = len(neuron.state), len(neuron.params)
    signatures = {
        neuron.charge: k + 1 + q, neuron.charge_adjoint: 2 * k + 1 + q, reset.reset: 3, reset.reset_adjoint: 4,
        surrogate.smooth: 2, surrogate.slope: 2,
    }  # fmt: skip
    for function, n in signatures.items():
        compiled = numba.njit((real,) * n)(narrowed(function, np.dtype("float32")))
        returned = compiled.nopython_signatures[0].return_type
        for one in getattr(returned, "types", (returned,)):
            assert one == real, f"{function.__name__} returns {returned}"


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
