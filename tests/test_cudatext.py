"""The GPU backend without a GPU: its CUDA text, compiled by NVRTC, and run on the CPU against the reference."""

import contextlib
import dataclasses
import importlib.util
import itertools
import mmap
import re
import sys

import numpy as np
import pytest
from cudatext import GPP, KERNELS, THREADS, KernelOnCPU, OnCPU, compiled, in_one, train_by_hand, without_nvrtc
from grid import COVERING, FEW, FULL, NEURONS, RESETS, SURROGATES, problem, summed

import minisnn as ms
from minisnn.kernels import HARD, Base, Dynamics, Needs, Twin, kernel_of
from minisnn.kernels.cuda import CudaKernel, cuda_text

pytestmark = pytest.mark.cudatext
NO_CUPY = "" if importlib.util.find_spec("cupy") else "CuPy, through which NVRTC is called, is not installed"
needs_nvrtc = pytest.mark.skipif(bool(NO_CUPY or without_nvrtc()), reason=NO_CUPY or without_nvrtc())
needs_gpp = pytest.mark.skipif(GPP is None, reason="there is no g++ here to compile the text for the CPU")
DTYPES = ["float32", "float64"]
#: What two libraries may round differently.
ROUNDED = {"exp", "arctan", "tanh", "log", "cos", "sin"}


# -- neurons of a user: several states and parameters, constants in all the places that a formula has, names that C++ has, too

RATE, HALF = np.float64(0.3), np.float32(0.5)


def trace_of(v, w, decay_w):
    return decay_w * w + 0.1 * v


def adaptive_charge(v, w, x, decay, decay_w, gain):
    w_new = trace_of(v, w, decay_w)
    return decay * v + x - gain * w_new + RATE * 0.1, w_new


def adaptive_adjoint(d_u, d_w_new, v, w, x, decay, decay_w, gain):
    d_w = d_w_new - gain * d_u
    return decay * d_u + 0.1 * d_w, decay_w * d_w, d_u, v * d_u, w * d_w, -trace_of(v, w, decay_w) * d_u


def three_charge(v, a, b, x, decay, p, q, r):
    b_new = r * b + x
    a_new = q * a + b_new
    return decay * v + p * a_new, a_new, b_new


def three_adjoint(d_v, d_a, d_b, v, a, b, x, decay, p, q, r):
    a_new = q * a + r * b + x
    d_a_new = d_a + p * d_v
    d_b_new = d_b + d_a_new
    return decay * d_v, q * d_a_new, r * d_b_new, d_b_new, v * d_v, a_new * d_v, a * d_a_new, b * d_b_new


def names_charge(double, c0, register, τ):
    int = register * double
    return int + np.maximum(c0, -c0) * np.exp(-τ) + HALF


def names_adjoint(d_u, double, t0, register, τ):
    e = np.exp(-τ)
    return register * d_u, e * d_u * (t0 > 0) - e * d_u * (t0 < 0), double * d_u, -np.maximum(t0, -t0) * e * d_u


OWN = {
    "adaptive": ms.Neuron(adaptive_charge, adaptive_adjoint, ("v", "w"), ("decay", "decay_w", "gain")),
    "three states": ms.Neuron(three_charge, three_adjoint, ("v", "a", "b"), ("decay", "p", "q", "r")),
    "names of C++": ms.Neuron(names_charge, names_adjoint, ("double",), ("register", "τ")),
    "lambdas": ms.Neuron(lambda v, x: v + x, lambda d_u, v, x: (d_u, d_u), params=()),
}
OWN = {name: Dynamics(neuron, ms.resets.soft, ms.surrogates.fast_sigmoid(1.3)) for name, neuron in OWN.items()}
PLANTED = Dynamics(ms.neurons.lif, ms.resets.soft, ms.surrogates.fast_sigmoid(1.3))

#: Faults planted in the text: (function, what stands there, what to put there).
FAULTS = [
    ("fire", "a0 >= a1", "a0 > a1"), ("charge", "t0 + a1", "t0 - a1"), ("held_reset", "a0 - t0", "a0 + t0"),
    ("held_reset", "out0 = t1", "out0 = a0"), ("scan", "t * lanes + lane", "lane"), ("scan", "th = theta[n]", "th = theta[0]"),
    ("scan", "load<K>(v, state0", "load<K>(v, 0"), ("scan", "x[t * x_pitch + lane]", "x[lane]"),
    ("charge_adjoint", "a3 * a0", "a0"), ("charge_adjoint", "a1 * a0", "a1 - a0"), ("reset", "a0 - t0", "a0"),
    ("reset_adjoint", "out1 = t1", "out1 = 0"), ("reset_adjoint", "-t2", "t2"), ("slope", "t3 * t3", "t3"),
    ("adjoint", "(d_s + d_spikes[at])", "d_spikes[at]"), ("adjoint", "d_u + g", "d_u"), ("adjoint", "d_u + g", "d_u - g"),
    ("adjoint", "d_theta_t - g", "d_theta_t + g"), ("adjoint", "d_theta_t - g", "d_theta_t"), ("adjoint", "u, at - lanes", "u, at"),
    ("adjoint", "spikes[at - lanes]", "spikes[at]"), ("adjoint", "load<K>(d_v, d_state_last", "load<K>(d_v, 0"),
    ("adjoint", "load<K>(before, state0", "load<K>(before, 0"), ("adjoint", "d_p[i] += ", "d_p[i] = "),
]  # fmt: skip


def planted(function, old, new):
    def change(text):
        head, name, rest = text.partition(f"void {function}(")
        body, end, others = rest.partition("\n}\n")
        assert body.count(old) == 1, f"{old} stands {body.count(old)} times in the text"
        return head + name + body.replace(old, new) + end + others

    return change


@pytest.fixture(scope="session")
def machine(tmp_path_factory):
    """Everything that the tests run, compiled at once: most of the time goes into starting the compiler."""
    machine = OnCPU(tmp_path_factory.mktemp("cuda"))
    texts = [cuda_text(d, dtype) for d in (*FULL.values(), *OWN.values()) for dtype in DTYPES]
    texts += [cuda_text(FULL[name], *rest) for name, *rest in itertools.product(FEW, DTYPES, ("smooth", "tangent"))]
    texts += [planted(*fault)(cuda_text(PLANTED, "float32")) for fault in FAULTS]
    machine.add(texts)
    return machine


def rounded(*formulas):
    return any(operation in ROUNDED for formula in formulas for _, operation, _ in formula.steps)


def same(found, expected, steps, exactly):
    """Bit for bit, or within 4 units in the last place a step, of the largest entry."""
    assert found.dtype == expected.dtype and found.shape == expected.shape
    if exactly or not expected.size:
        assert np.array_equal(found, expected, equal_nan=True)
    else:
        assert np.abs(found - expected).max() <= 4 * steps * np.finfo(expected.dtype).eps * np.abs(expected).max()


def assert_agrees(kernel, p, twin=HARD):
    """Spikes, membranes and states, then the adjoints."""
    reference, steps, f = kernel_of(kernel.dynamics, "numpy"), max(1, len(p.x)), kernel.dynamics.formulas()
    exactly = not rounded(f["charge"], f["reset"], f[{"step": "reset", "tangent": "slope"}.get(twin.fire, "smooth")])
    spikes, last, cache = reference.scan(*p[:5], twin)
    found, found_last, found_cache = kernel.scan(*p[:5], twin)
    same(found, spikes, steps, exactly or twin.fire == "step")
    same(found_cache.u, cache.u, steps, exactly)
    same(found_last, last, steps, exactly)
    if twin.base:  # such a run has no adjoint of its own
        return
    exactly = exactly and not rounded(f["charge_adjoint"], f["reset_adjoint"], f["slope"])
    expected = reference.scan_adjoint(p.d_spikes, p.d_state_last, cache)
    gradients = kernel.scan_adjoint(p.d_spikes, p.d_state_last, found_cache)
    assert gradients[2].shape == p.x.shape[1:], "one partial sum a sample"
    for a, b in zip(summed(gradients), summed(expected), strict=True):
        same(a, b, steps, exactly)


@needs_gpp
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pair", [f"{n}-{r}" for n in NEURONS for r in RESETS])
def test_the_text_computes_what_the_reference_does(pair, dtype, machine):
    for surrogate in SURROGATES:
        dynamics = FULL[f"{pair}-{surrogate}"]
        assert_agrees(KernelOnCPU(dynamics, machine), problem(dynamics, dtype=dtype))


@needs_gpp
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", OWN)
def test_a_users_neuron(name, dtype, machine):
    assert_agrees(KernelOnCPU(OWN[name], machine), problem(OWN[name], dtype=dtype))


@needs_gpp
@pytest.mark.parametrize("shape", [(1, 1, 1), (4, 1, 7), (3, 5, 257), (5, 300, 513), (0, 2, 3), (3, 0, 2), (200, 3, 11)])
def test_sizes(shape, machine):
    p = problem(PLANTED, (max(3, shape[0]), max(2, shape[1]), shape[2]), dtype="float32")
    t, b, _ = shape
    x, d_spikes = (np.ascontiguousarray(a[:t, :b]) for a in (p.x, p.d_spikes))
    state0, d_last = (np.ascontiguousarray(a[:, :b]) for a in (p.state0, p.d_state_last))
    assert_agrees(KernelOnCPU(PLANTED, machine), p._replace(x=x, d_spikes=d_spikes, state0=state0, d_state_last=d_last))


@needs_gpp
@pytest.mark.parametrize("fire", ["smooth", "tangent"])
@pytest.mark.parametrize("name", FEW)
def test_twins(name, fire, machine):
    dynamics = FULL[name]
    for dtype in DTYPES:
        p = problem(dynamics, dtype=dtype)
        cache = kernel_of(dynamics, "numpy").scan(*p[:5])[2]
        moved = p._replace(x=p.x + np.asarray(0.01, dtype))
        assert_agrees(KernelOnCPU(dynamics, machine), moved, Twin(fire, Base(cache.u[0], cache.spikes, p.theta)))
        if fire == "smooth":
            assert_agrees(KernelOnCPU(dynamics, machine), moved, Twin(fire))


@needs_gpp
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_loop_of_a_membrane_readout(dtype, machine):
    """Its surrogate is the membrane itself, and its slope a number."""
    layer = ms.MembraneReadout(5, dtype=dtype)
    p = problem(FULL["lif-none-atan"], (6, 4, 5), dtype=dtype)
    assert_agrees(KernelOnCPU(layer.dynamics, machine), p._replace(theta=np.zeros_like(p.theta)), Twin("smooth"))


@needs_gpp
@pytest.mark.parametrize("change", [None, ("a >= b || a != a", "a >= b"), ("a <= b || a != a", "a <= b")])
def test_nan_and_inf_pass_through_as_in_the_reference(change, machine):
    dynamics = FULL["lif-none-triangle"]
    p, kernel = problem(dynamics, (4, 3, 5)), KernelOnCPU(dynamics, machine, lambda text: text.replace(*change or ("", "")))
    p.x[1, 0, 0], p.x[1, 1, 1], p.x[1, 2, 2] = np.nan, np.inf, -np.inf
    # maximum and minimum as C has them drop what is not a number
    with np.errstate(all="ignore"), pytest.raises(AssertionError) if change else contextlib.nullcontext():
        assert_agrees(kernel, p)
        assert_agrees(kernel, p, Twin("smooth"))


def on_the_threshold(dtype):
    """Membranes of PLANTED that are at their threshold, and one step of the number format below."""
    theta = np.array([0.1, 0.3, 1.0], dtype)
    x = np.stack([theta, np.nextafter(theta, np.array(0, dtype))])[None]
    p = problem(PLANTED, (3, 2, 3), dtype=dtype)
    return p._replace(x=x, state0=np.zeros_like(p.state0), theta=theta, d_spikes=p.d_spikes[:1].copy())


@needs_gpp
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_membrane_exactly_at_the_threshold_fires(dtype, machine):
    p = on_the_threshold(dtype)
    assert KernelOnCPU(PLANTED, machine).scan(*p[:5])[0].tolist() == [[[1, 1, 1], [0, 0, 0]]]
    assert_agrees(KernelOnCPU(PLANTED, machine), p)


@needs_gpp
@pytest.mark.parametrize("fault", FAULTS, ids=[f"{d}: {old} -> {new}" for d, old, new in FAULTS])
def test_a_planted_fault_is_caught(fault, machine):
    change = planted(*fault)
    change(cuda_text(PLANTED, "float32"))  # it can be planted
    cases = [problem(PLANTED, dtype="float32"), on_the_threshold("float32")]
    for case in cases:
        assert_agrees(KernelOnCPU(PLANTED, machine), case)
    with pytest.raises(AssertionError):
        for case in cases:
            assert_agrees(KernelOnCPU(PLANTED, machine, change), case)


@needs_gpp
def test_only_the_gradients_that_are_needed_are_given(machine):
    dynamics = FULL["current_lif-hard-atan"]
    p, kernel = problem(dynamics, dtype="float32"), KernelOnCPU(dynamics, machine)
    cache = kernel.scan(*p[:5])[2]
    whole = kernel.scan_adjoint(p.d_spikes, p.d_state_last, cache)
    for needs in itertools.starmap(Needs, itertools.product((True, False), repeat=4)):
        some = kernel.scan_adjoint(p.d_spikes, p.d_state_last, cache, needs)
        for found, expected, needed in zip(some, whole, (needs.x, needs.state, needs.theta, needs.params), strict=True):
            assert (found is None) == (not needed) and (found is None or np.array_equal(found, expected))


@needs_gpp
@pytest.mark.parametrize("name", ["lif-hard-atan", "current_lif-hard-atan"])
def test_a_state_that_was_not_given_is_zero(name, machine):
    p, kernel = problem(FULL[name], dtype="float32"), KernelOnCPU(FULL[name], machine)
    zeros = np.zeros_like(p.state0)
    expected, given = kernel.scan(p.x, zeros, *p[2:5]), kernel.scan(p.x, None, *p[2:5])
    assert given[2].state0 is None and np.array_equal(given[0], expected[0]) and np.array_equal(given[1], expected[1])
    back = [kernel.scan_adjoint(p.d_spikes, last, scan[2]) for scan, last in ((expected, zeros), (given, None))]
    assert all(np.array_equal(a, b) for a, b in zip(*back, strict=True))
    empty = kernel.scan(p.x[:0].copy(), None, *p[2:5])
    assert not empty[1].any() and not kernel.scan_adjoint(p.d_spikes[:0].copy(), None, empty[2])[1].any()


@needs_gpp
@pytest.mark.parametrize("name", ["lif-hard-atan", "current_lif-soft-boxcar"])
def test_calls_are_pure_and_a_steady_input_is_kept_as_it_is(name, machine):
    p, kernel = problem(FULL[name], dtype="float32"), KernelOnCPU(FULL[name], machine)
    steady = p._replace(x=np.broadcast_to(p.x[0], p.x.shape))
    runs = []
    for case in (steady, steady._replace(x=steady.x.copy()), steady):
        before = [a.copy() for a in (*case[:4], case.d_spikes, case.d_state_last)]
        spikes, last, cache = kernel.scan(*case[:5])
        runs.append([spikes, last, cache.u, *kernel.scan_adjoint(case.d_spikes, case.d_state_last, cache)])
        after = (*case[:4], case.d_spikes, case.d_state_last)
        assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True)) and cache.x is case.x
    assert all(np.array_equal(a, b) for run in runs[1:] for a, b in zip(run, runs[0], strict=True))


@needs_gpp
def test_training_goes_the_same_way(machine):
    dynamics = FULL["lif-hard-fast_sigmoid"]
    expected = train_by_hand(kernel_of(dynamics, "numpy"), np, epochs=2)
    found = train_by_hand(KernelOnCPU(dynamics, machine), np, epochs=2)
    assert found == expected and found > 0.8


@needs_gpp
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="address space without memory is asked of Linux")
@pytest.mark.parametrize("name", ["lif-soft-fast_sigmoid", "current_lif-soft-fast_sigmoid"])
def test_indices_have_64_bits(name, machine):
    """The last lanes of more than 2**31: of the arrays' address space only what is touched becomes memory."""
    dynamics, t, n_lanes, batch = FULL[name], 5, 40_000, 70_000
    lanes = batch * n_lanes
    assert 2**31 < lanes < 2**32
    small = problem(dynamics, (t, 1, n_lanes), dtype="float32")

    class LastBlock(KernelOnCPU):
        def _arrays(self):
            return self

        def empty(self, shape, dtype):
            size = int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize
            no_reserve = 0x4000
            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve
            return np.frombuffer(mmap.mmap(-1, size, flags=flags), dtype).reshape(shape)

        ndarray = np.ndarray

        def _run(self, text, name, blocks, arguments):
            self.machine.run(text, name, blocks, arguments, first=blocks - 1)

    kernel = LastBlock(dynamics, machine)

    def big(a):
        made = kernel.empty((len(a), batch, n_lanes), "f4")
        made[:, -1] = a[:, -1]
        return made

    arrays = {n: big(getattr(small, n)) for n in ("x", "state0", "d_spikes", "d_state_last")}
    p, last_lanes = small._replace(**arrays), -(-lanes % -THREADS) or THREADS
    spikes, last, cache = kernel.scan(*p[:5])
    found = spikes, last, cache.u, *kernel.scan_adjoint(p.d_spikes, p.d_state_last, cache)
    reference = kernel_of(dynamics, "numpy")
    spikes, last, cache = reference.scan(*small[:5])
    back = reference.scan_adjoint(small.d_spikes, small.d_state_last, cache)
    for a, b in zip(found, (spikes, last, cache.u, *back), strict=True):
        assert np.array_equal(a[..., -1, -last_lanes:], b[..., -1, -last_lanes:]) and b[..., -1, -last_lanes:].any()


# -- the text itself


@needs_nvrtc
@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_nvrtc_compiles_every_formula(arch):
    texts = [cuda_text(d, dtype) for d in (*map(FULL.get, COVERING), *OWN.values()) for dtype in DTYPES]
    texts += [cuda_text(FULL[name], "float32", fire) for name in FEW for fire in ("smooth", "tangent")]
    found = compiled(in_one(texts), arch)
    assert found[:4] == b"\x7fELF" and all(f"{k}{i}\0".encode() in found for i in range(len(texts)) for k in KERNELS)


@needs_nvrtc
def test_nothing_in_a_float32_kernel_is_a_double_and_nothing_is_contracted():
    texts = [cuda_text(d, "float32") for d in OWN.values()] + [cuda_text(FULL[n], "float32") for n in FEW]
    code = compiled(in_one(texts), "compute_90", ptx=True).decode()
    # Divisions, exp and arctan have fused steps inside; the functions around them here have none.
    assert "add.rn.f32" in code and not re.search(r"\.f64", code)
    lif = compiled(cuda_text(FULL["lif-soft-triangle"], "float64"), "compute_90", ptx=True).decode()
    assert "mul.rn.f64" in lif and not re.search(r"fma\.|\.f32", lif)


@needs_nvrtc
def test_nvrtc_refuses_what_is_wrong():
    with pytest.raises(AssertionError, match="thet"):
        compiled(cuda_text(PLANTED, "float32").replace("th = theta[n]", "th = thet[n]"), "sm_90")


def test_numbers_keep_their_digits():
    text = cuda_text(OWN["adaptive"], "float64")
    assert "typedef double real;" in text and "(real)0.1;" in text and "(real)0.03;" in text and "float" not in text
    text = cuda_text(OWN["adaptive"], "float32")
    assert "typedef float real;" in text and "(real)0.1;" in text and "double" not in text


def test_the_text_is_one_for_all_that_is_equal():
    renamed = ms.Neuron(lambda a, b, c: c * a + b, lambda d, a, b, c: (c * d, d, a * d), params=("leak",))
    a = FULL["lif-hard-atan"]
    assert cuda_text(a, "float32") == cuda_text(a._replace(neuron=renamed, surrogate=ms.surrogates.atan(7.0)), "float32")
    assert cuda_text(a, "float32") != cuda_text(FULL["lif-hard_detached-atan"], "float32")


# -- arrays: addresses are all that a kernel sees


@pytest.mark.skipif(bool(NO_CUPY), reason=NO_CUPY)
def test_arrays_of_numpy_are_refused():
    p = problem(PLANTED, dtype="float32")
    with pytest.raises(TypeError, match=r"got a numpy.ndarray, expected an array on the GPU \(cupy.asarray\)"):
        CudaKernel(PLANTED).scan(*p[:5])


@needs_gpp
@pytest.mark.parametrize("field, change", [
    ("x", lambda a: np.asfortranarray(a)), ("state0", lambda a: a.astype("float64")), ("theta", lambda a: a[:-1].copy()),
    ("params", lambda a: np.concatenate([a, a])), ("d_spikes", lambda a: a[::-1]), ("d_state_last", lambda a: a[0]),
])  # fmt: skip
def test_wrong_arrays_are_refused(field, change, machine):
    p, kernel = problem(PLANTED, dtype="float32"), KernelOnCPU(PLANTED, machine)
    wrong = p._replace(**{field: change(getattr(p, field))})
    with pytest.raises(ValueError, match=rf"^{field} (is float(32|64) .*, expected float32|lies in pieces)"):
        cache = kernel.scan(*wrong[:5])[2]
        kernel.scan_adjoint(wrong.d_spikes, wrong.d_state_last, cache)


@needs_gpp
@pytest.mark.parametrize("change", [
    {"membranes": np.zeros((1, 6, 2, 2), "f4")}, {"membranes": np.zeros((1, 6, 2, 3))}, {"spikes": np.zeros((6, 2, 3), "f4")},
    {"twin": Twin("smooth")}, {"spikes": np.zeros((3, 2, 6), "u1").T},
], ids=repr)  # fmt: skip
def test_a_cache_that_was_changed_is_refused(change, machine):
    p, kernel = problem(PLANTED, dtype="float32"), KernelOnCPU(PLANTED, machine)
    cache = dataclasses.replace(kernel.scan(*p[:5])[2], **change)
    with pytest.raises(ValueError, match="^cache(: its membranes are not|.spikes (is|lies))"):
        kernel.scan_adjoint(p.d_spikes, p.d_state_last, cache)
    with pytest.raises(TypeError, match="cache.spikes is a builtins.list, x a numpy.ndarray"):
        kernel.scan_adjoint(p.d_spikes, p.d_state_last, dataclasses.replace(cache, spikes=cache.spikes.tolist()))
