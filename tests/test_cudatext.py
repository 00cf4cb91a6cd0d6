"""The GPU backend without a card: its CUDA text, compiled by NVRTC, and run on the CPU against the reference."""

import importlib.util
import itertools
import re

import numpy as np
import pytest
from cudatext import GPP, SHIM, SIGNATURE, KernelOnCPU, OnCPU, cubin, in_one, missing_wheels, train_by_hand
from grid import COVERING, FEW, FULL, NEURONS, RESETS, SURROGATES, problem, summed

import minisnn as ms
from minisnn.kernels import Base, Dynamics, Wanted, kernel_of
from minisnn.kernels.cuda import CudaKernel
from minisnn.kernels.cuda_text import adjoint_text, scan_text

NO_CUPY = importlib.util.find_spec("cupy") is None
pytestmark = [
    pytest.mark.cudatext,
    pytest.mark.skipif(NO_CUPY, reason="CuPy is not installed (pip install '.[gpu-test]')"),
]
MISSING = missing_wheels()
needs_nvrtc = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {MISSING} (pip install '.[gpu-test]')")
needs_gpp = pytest.mark.skipif(GPP is None, reason="there is no g++ here to compile the text for the CPU")
PAIRS = [f"{n}-{r}" for n in NEURONS for r in RESETS]
DTYPES = ["float32", "float64"]
#: What two libraries may round differently.
ROUNDED = {"exp", "arctan", "tanh", "log", "cos", "sin"}


# -- a neuron of a user: two states, three parameters, constants in all the places that the grammar allows

RATE = np.float64(0.3)


def adaptive_charge(v, w, x, decay, decay_w, gain):
    small = tenth = 0.1  # a local number: the GPU's float64 must not see 0.1f
    w_new: float = decay_w * w + small * v
    return decay * v + x - gain * w_new + RATE * tenth, w_new


def adaptive_adjoint(d_u, d_w_new, v, w, x, decay, decay_w, gain):
    small = 0.1
    w_new = decay_w * w + small * v
    d_w = d_w_new - gain * d_u
    return decay * d_u + small * d_w, decay_w * d_w, d_u, v * d_u, w * d_w, -w_new * d_u


ADAPTIVE = ms.Neuron(adaptive_charge, adaptive_adjoint, ("v", "w"), ("decay", "decay_w", "gain"))


def three_charge(v, a, b, x, decay, p, q, r):
    b_new = r * b + x
    a_new = q * a + b_new
    return decay * v + p * a_new, a_new, b_new


def three_adjoint(d_v, d_a, d_b, v, a, b, x, decay, p, q, r):
    a_new = q * a + r * b + x
    d_a_new = d_a + p * d_v
    d_b_new = d_b + d_a_new
    return decay * d_v, q * d_a_new, r * d_b_new, d_b_new, v * d_v, a_new * d_v, a * d_a_new, b * d_b_new


def names_charge(double, x, exp, τ):
    int = exp * double
    return int + np.maximum(x, -x) * np.exp(-τ)


def names_adjoint(d_u, double, x, exp, τ):
    e = np.exp(-τ)
    return exp * d_u, e * d_u * (x > 0) - e * d_u * (x < 0), double * d_u, -np.maximum(x, -x) * e * d_u


OWN = {
    "adaptive": ADAPTIVE,
    "three states": ms.Neuron(three_charge, three_adjoint, ("v", "a", "b"), ("decay", "p", "q", "r")),
    "names of C++": ms.Neuron(names_charge, names_adjoint, ("double",), ("exp", "τ")),
    "lambdas": ms.Neuron(lambda v, x: v + x, lambda d_u, v, x: (d_u, d_u), params=()),
}
OWN = {name: Dynamics(neuron, ms.resets.soft, ms.surrogates.fast_sigmoid(1.3)) for name, neuron in OWN.items()}


# -- running it on the CPU

#: Faults planted in the text: (direction, what stands there, what to put there).
FAULTS = [
    ("scan", "(u >= theta)", "(u > theta)"),
    ("scan", "((decay * v) + x)", "((decay * v) - x)"),
    ("scan", "(u - (s * theta))", "(u + (s * theta))"),
    ("scan", "(u - (s * theta))", "u"),
    ("scan", "(((long long)(t) * lanes) + lane)", "lane"),
    ("scan", "= theta[n]", "= theta[0]"),
    ("adjoint", "(decay * d_u)", "d_u"),
    ("adjoint", "(v * d_u)", "(v - d_u)"),
    ("adjoint", "((-theta) * d_v)", "0.0f"),
    ("adjoint", "(-(s * d_v))", "(s * d_v)"),
    ("adjoint", "(-(s * d_v))", "0.0f"),
    ("adjoint", "(d_s + d_spikes[at])", "d_spikes[at]"),
    ("adjoint", "(d_u + g)", "d_u"),
    ("adjoint", "(d_u + g)", "(d_u - g)"),
    ("adjoint", "(d_theta_t - g)", "(d_theta_t + g)"),
    ("adjoint", "(d_theta_t - g)", "d_theta_t"),
    ("adjoint", "((0ll * size) + at) - lanes", "((0ll * size) + at)"),
    ("adjoint", "(a * a)", "a"),
    ("adjoint", "spikes[(at - lanes)]", "spikes[at]"),
]
PLANTED = Dynamics(ms.neurons.lif, ms.resets.soft, ms.surrogates.fast_sigmoid(1.3))


def planted(direction, old, new):
    def change(code):
        if f"void {direction}(" not in code:
            return code
        assert code.count(old) == 1, f"{old} stands {code.count(old)} times in the text"
        return code.replace(old, new)

    return change


@pytest.fixture(scope="session")
def machine(tmp_path_factory):
    """Everything that the tests run, compiled at once: most of the time goes into starting the compiler."""
    texts, machine = [], OnCPU(tmp_path_factory.mktemp("cuda"))
    for dynamics, dtype in itertools.product([*FULL.values(), *OWN.values()], DTYPES):
        texts += [scan_text(dynamics, dtype), adjoint_text(dynamics, dtype)]
    for name, dtype in itertools.product(FEW, DTYPES):
        texts += [scan_text(FULL[name], dtype, "smooth"), adjoint_text(FULL[name], dtype, True)]
        texts += [scan_text(FULL[name], dtype, "tangent", FULL[name].reset.stop, based=True)]
    some = FULL["current_lif-hard-atan"]
    texts += [adjoint_text(some, "float32", wanted=Wanted(*w)) for w in itertools.product((True, False), repeat=4)]
    for dynamics in (some, FULL["lif-hard-atan"]):
        texts += [scan_text(dynamics, "float32", given=False), scan_text(dynamics, "float32", last=False)]
        texts += [adjoint_text(dynamics, "float32", given=False, given_last=False)]
    for direction, old, new in FAULTS:
        text = {"scan": scan_text, "adjoint": adjoint_text}[direction](PLANTED, "float32")
        texts.append(text._replace(code=planted(direction, old, new)(text.code)))
    machine.add(texts)
    return machine


def rounded(*functions):
    return any(ROUNDED & set(f.__code__.co_names) for f in functions)


def same(found, expected, steps, exactly):
    """Bit for bit, or within 4 units in the last place a step, of the largest entry."""
    assert found.dtype == expected.dtype and found.shape == expected.shape
    if exactly or not expected.size:
        assert np.array_equal(found, expected)
    else:
        assert np.abs(found - expected).max() <= 4 * steps * np.finfo(expected.dtype).eps * np.abs(expected).max()


def assert_agrees(kernel, p, fire="step", base=None):
    """Spikes, membranes and states, then the adjoints from the reference's spikes and membranes."""
    neuron, reset, surrogate = kernel.dynamics
    reference, steps = kernel_of(kernel.dynamics, "numpy"), max(1, len(p.x))
    curve = {"smooth": surrogate.smooth, "tangent": surrogate.slope}.get(fire, reset.reset)
    exactly = not rounded(neuron.charge, reset.reset, curve)
    spikes, last, cache = reference.scan(*p[:5], fire=fire, base=base)
    found, found_last, found_cache = kernel.scan(*p[:5], fire=fire, base=base)
    same(found, spikes, steps, exactly or fire == "step")
    same(found_cache.u, cache.u, steps, exactly)
    same(found_last, last, steps, exactly)
    exactly = not rounded(neuron.charge_adjoint, reset.reset, reset.reset_adjoint, surrogate.slope)
    expected = reference.scan_adjoint(p.d_spikes, p.d_state_last, cache)
    gradients = kernel.scan_adjoint(p.d_spikes, p.d_state_last, cache)
    assert gradients[2].shape == p.x.shape[1:], "one partial sum a sample"
    for a, b in zip(summed(gradients), summed(expected), strict=True):
        same(a, b, steps, exactly)


@needs_gpp
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pair", PAIRS)
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
    dynamics = PLANTED
    p = problem(dynamics, (max(3, shape[0]), max(2, shape[1]), shape[2]), dtype="float32")
    t, b, _ = shape
    x, d_spikes = (np.ascontiguousarray(a[:t, :b]) for a in (p.x, p.d_spikes))
    state0, d_last = (np.ascontiguousarray(a[:, :b]) for a in (p.state0, p.d_state_last))
    assert_agrees(KernelOnCPU(dynamics, machine), p._replace(x=x, d_spikes=d_spikes, state0=state0, d_state_last=d_last))


@needs_gpp
@pytest.mark.parametrize("fire", ["smooth", "tangent"])
@pytest.mark.parametrize("name", FEW)
def test_twins(name, fire, machine):
    dynamics = FULL[name]
    for dtype in DTYPES:
        p = problem(dynamics, dtype=dtype)
        _, _, cache = kernel_of(dynamics, "numpy").scan(*p[:5])
        base = Base(cache.u[0], cache.spikes, p.theta) if fire == "tangent" else None
        moved = p._replace(x=p.x + np.asarray(0.01, dtype))
        assert_agrees(KernelOnCPU(dynamics, machine), moved, fire, base)


@needs_gpp
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_loop_of_a_membrane_readout(dtype, machine):
    """Its surrogate is the membrane itself, and its slope a number."""
    layer = ms.MembraneReadout(5, dtype=dtype)
    p = problem(FULL["lif-none-atan"], (6, 4, 5), dtype=dtype)
    assert_agrees(KernelOnCPU(layer.dynamics, machine), p._replace(theta=np.zeros_like(p.theta)), "smooth")


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
    spikes = KernelOnCPU(PLANTED, machine).scan(*p[:5])[0]
    assert spikes.tolist() == [[[1, 1, 1], [0, 0, 0]]]
    assert_agrees(KernelOnCPU(PLANTED, machine), p)


@needs_gpp
@pytest.mark.parametrize("fault", FAULTS, ids=[f"{d}: {old} -> {new}" for d, old, new in FAULTS])
def test_a_planted_fault_is_caught(fault, machine):
    p = problem(PLANTED, dtype="float32")
    cases = [p, on_the_threshold("float32")]
    for case in cases:
        assert_agrees(KernelOnCPU(PLANTED, machine), case)

    def caught(case):
        try:
            assert_agrees(KernelOnCPU(PLANTED, machine, planted(*fault)), case)
        except AssertionError as error:
            assert "times in the text" not in str(error)
            return True
        return False

    assert any(caught(case) for case in cases)


@needs_gpp
def test_what_is_not_wanted_is_not_given(machine):
    dynamics = FULL["current_lif-hard-atan"]
    p, kernel = problem(dynamics, dtype="float32"), KernelOnCPU(dynamics, machine)
    spikes, _, cache = kernel.scan(*p[:5])
    found = kernel.scan(*p[:5], last=False)
    assert found[1] is None and np.array_equal(found[0], spikes) and np.array_equal(found[2].u, cache.u)
    whole = kernel.scan_adjoint(p.d_spikes, p.d_state_last, cache)
    for wanted in itertools.starmap(Wanted, itertools.product((True, False), repeat=4)):
        some = kernel.scan_adjoint(p.d_spikes, p.d_state_last, cache, wanted)
        asked_for = (wanted.x, wanted.state, wanted.theta, wanted.params)
        for found, expected, asked in zip(some, whole, asked_for, strict=True):
            assert (found is None) == (not asked) and (found is None or np.array_equal(found, expected))


@needs_gpp
@pytest.mark.parametrize("name", ["lif-hard-atan", "current_lif-hard-atan"])
def test_a_state_that_nobody_gave_is_zero(name, machine):
    p, kernel = problem(FULL[name], dtype="float32"), KernelOnCPU(FULL[name], machine)
    nothing = np.zeros_like(p.state0)
    expected, given = kernel.scan(p.x, nothing, *p[2:5]), kernel.scan(p.x, None, *p[2:5])
    assert given[2].state0 is None and np.array_equal(given[0], expected[0]) and np.array_equal(given[1], expected[1])
    back = [
        kernel.scan_adjoint(p.d_spikes, d_last, scan[2]) for scan, d_last in ((expected, nothing), (given, None))
    ]  # fmt: skip
    assert all(np.array_equal(a, b) for a, b in zip(*back, strict=True))
    empty = kernel.scan(p.x[:0].copy(), None, *p[2:5])
    assert not empty[1].any() and not kernel.scan_adjoint(p.d_spikes[:0].copy(), None, empty[2])[1].any()


@needs_gpp
@pytest.mark.parametrize("name", ["lif-hard-atan", "current_lif-soft-boxcar"])
def test_calls_are_pure_unless_they_may_consume(name, machine):
    p, kernel = problem(FULL[name], dtype="float32"), KernelOnCPU(FULL[name], machine)
    before = [a.copy() for a in (p.x, p.state0, p.theta, p.params, p.d_spikes, p.d_state_last)]
    spikes, last, cache = kernel.scan(*p[:5])
    d_x = kernel.scan_adjoint(p.d_spikes, p.d_state_last, cache)[0]
    after = (p.x, p.state0, p.theta, p.params, p.d_spikes, p.d_state_last)
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    x, d_spikes = p.x.copy(), p.d_spikes.copy()
    fast_spikes, fast_last, fast_cache = kernel.scan(x, *p[1:5], consume=True)
    fast_d_x = kernel.scan_adjoint(d_spikes, p.d_state_last, fast_cache, consume=True)[0]
    assert np.shares_memory(fast_d_x, d_spikes) and np.shares_memory(fast_cache.u, x) == (name == "lif-hard-atan")
    for a, b in ((fast_spikes, spikes), (fast_last, last), (fast_cache.u, cache.u), (fast_d_x, d_x)):
        assert np.array_equal(a, b)


@needs_gpp
def test_training_goes_the_same_way(machine):
    dynamics = FULL["lif-hard-fast_sigmoid"]
    expected = train_by_hand(kernel_of(dynamics, "numpy"), np, epochs=2)
    found = train_by_hand(KernelOnCPU(dynamics, machine), np, epochs=2)
    assert found == expected and found > 0.8


# -- the text itself

NUMBER = re.compile(r"(?<![\w.])\d+\.?\d*(?:e[-+]?\d+)?(\w*)")


def floor_0(code):
    """The part of the text that floor 0 became: without CuPy's own functions, and the loop."""
    functions = [
        f for f in re.findall(r"^__device__ .*?^}", code, re.MULTILINE | re.DOTALL) if " cupy_" not in f.splitlines()[0]
    ]
    assert len(functions) >= 3
    return re.sub(r"STD::get<\d+>", "", "\n".join(functions))


@pytest.mark.parametrize("pair", PAIRS)
def test_numbers_have_the_type_of_the_net(pair):
    """In float32 nothing is a double, in float64 no number was a float on its way."""
    for surrogate in SURROGATES:
        for dtype, own, other, suffix in (("float32", "float", "double", "f"), ("float64", "double", "float", "")):
            dynamics = FULL[f"{pair}-{surrogate}"]
            for code in (scan_text(dynamics, dtype).code, adjoint_text(dynamics, dtype).code):
                code = code.replace("cupy/float16.cuh", "")
                assert re.search(rf"\b{own}\b", code) and not re.search(rf"\b{other}\b", code)
                assert {m[1] for m in NUMBER.finditer(floor_0(code))} <= {suffix}


def test_numbers_of_a_users_neuron_keep_their_digits():
    code = scan_text(OWN["adaptive"], "float64").code
    assert "double small = 0.1;" in code and "float" not in code.replace("float16", "")
    assert "(0.3 * tenth)" in code
    code = scan_text(OWN["adaptive"], "float32").code
    assert "float small = 0.1f;" in code and "double" not in code


@needs_nvrtc
@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_nvrtc_compiles_the_whole_grid(arch):
    texts = [make(FULL[n], "float32") for n in FULL for make in (scan_text, adjoint_text)]
    texts += [make(FULL[n], "float64") for n in COVERING for make in (scan_text, adjoint_text)]
    texts += [make(d, dtype) for d in OWN.values() for dtype in DTYPES for make in (scan_text, adjoint_text)]
    for name in FEW:
        texts += [scan_text(FULL[name], "float32", "smooth"), adjoint_text(FULL[name], "float32", True)]
        texts += [scan_text(FULL[name], "float32", "tangent", FULL[name].reset.stop, based=True)]
    texts = list(dict.fromkeys(texts))
    found = cubin(in_one(texts), arch)
    assert found[:4] == b"\x7fELF" and all(f"k{i}\0".encode() in found for i in range(len(texts)))


@needs_nvrtc
def test_nvrtc_refuses_what_is_wrong():
    text = scan_text(PLANTED, "float32")
    with pytest.raises(AssertionError, match="thet"):
        cubin(text.code.replace("(u >= theta)", "(u >= thet)"), "sm_90")


@needs_gpp
@pytest.mark.parametrize("name", ["lif-soft-fast_sigmoid", "current_lif-hard-atan"])
def test_indices_have_64_bits(name, tmp_path):
    """The last lane of more than 2**31, run with arrays that only note where they are asked: no memory is taken."""
    import ctypes
    import subprocess

    dynamics, shape = FULL[name], (5, 70_000, 40_000)
    lanes = shape[1] * shape[2]
    k, q = len(dynamics.neuron.state), len(dynamics.neuron.params)
    assert lanes > 2**31 and lanes < 2**32
    expected = {
        "x": 5 * lanes, "u": k * 5 * lanes, "spikes": 5 * lanes, "state0": k * lanes, "theta": shape[2], "params": q * shape[2],
        "state_last": k * lanes, "d_spikes": 5 * lanes, "d_x": 5 * lanes, "d_state_last": k * lanes, "d_state0": k * lanes,
        "d_theta": lanes, "d_params": q * lanes,
    }  # fmt: skip
    for text in (scan_text(dynamics, "float32"), adjoint_text(dynamics, "float32")):
        code = "\n".join(line for line in text.code.splitlines() if not line.startswith("#include"))
        parameters = [p.split() for p in SIGNATURE.search(code)[2].split(", ")]
        arrays = [(" ".join(p[:-1])[:-1], p[-1]) for p in parameters if p[-2].endswith("*")]
        given = ", ".join(p[-1] if p[-2].endswith("*") else {"k": "1.3f"}.get(p[-1], f"sizes.{p[-1]}") for p in parameters)
        noting = re.sub(r"(float|unsigned char)[*] (?=[a-z])", r"Noted<\1>& ", code)
        probe = f"""#include "{SHIM}"
struct {{ unsigned n_steps = {shape[0]}, n_rows = {shape[1]}, n_lanes = {shape[2]}; }} sizes;
template <class T> struct Noted {{
  long long top = -1; T value = T();
  template <class I> T& operator[](I i) {{
    static_assert(sizeof(I) == 8, "an index of 32 bits");
    top = std::max<long long>(top, i); return value;
  }}
}};
{noting}
extern "C" void run(long long* tops) {{
  blockDim.x = 256; blockIdx.x = {(lanes - 1) // 256}u; threadIdx.x = {(lanes - 1) % 256};
  {" ".join(f"Noted<{t}> {n};" for t, n in arrays)}
  {text.name}({given});
  {" ".join(f"tops[{i}] = {n}.top;" for i, (_, n) in enumerate(arrays))}
}}"""
        (tmp_path / "probe.cpp").write_text(probe, encoding="utf-8")
        library = tmp_path / f"{text.name}.so"
        command = [GPP, "-std=c++20", "-w", "-shared", "-fPIC", tmp_path / "probe.cpp", "-o", library]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[:3000]
        tops = (ctypes.c_longlong * len(arrays))()
        ctypes.CDLL(str(library)).run(tops)
        found = {n: top + 1 for (_, n), top in zip(arrays, tops, strict=True)}
        used = {n: v for n, v in found.items() if v}
        assert used == {n: expected[n] for n in used} and len(used) >= 7


def walrus_charge(v, x):
    return (u := v + x) * 0.5 + u


def test_what_cupy_cannot_translate_is_said_with_its_line():
    neuron = ms.Neuron(walrus_charge, lambda d_u, v, x: (1.5 * d_u, 1.5 * d_u), params=())
    dynamics = Dynamics(neuron, ms.resets.hard, ms.surrogates.atan())
    with pytest.raises(ms.grammar.GrammarError, match=r"no GPU kernel of walrus_charge\(\).*NamedExpr[^>]*>[^>]*> *return"):
        scan_text(dynamics, "float32")


def test_the_text_is_made_once_for_all_that_is_equal():
    a, b = FULL["lif-hard-atan"], FULL["lif-hard_detached-boxcar"]
    assert scan_text(a, "float32") == scan_text(b, "float32")  # the forward knows neither surrogate nor detaching
    assert adjoint_text(a, "float32") != adjoint_text(b, "float32")
    assert scan_text(a, "float32") is scan_text(a, np.float32)


# -- arrays: addresses are all that a kernel sees


def test_arrays_of_numpy_are_refused():
    p = problem(PLANTED, dtype="float32")
    with pytest.raises(TypeError, match=r"x is a numpy.ndarray, expected an array on the GPU \(cupy.asarray\)"):
        CudaKernel(PLANTED).scan(*p[:5])


@needs_gpp
@pytest.mark.parametrize("field, change", [
    ("x", lambda a: np.asfortranarray(a)), ("state0", lambda a: a.astype("float64")), ("theta", lambda a: a[:-1].copy()),
    ("params", lambda a: np.concatenate([a, a])), ("d_spikes", lambda a: a[::-1]), ("d_state_last", lambda a: a[0]),
])  # fmt: skip
def test_wrong_arrays_are_refused(field, change, machine):
    p, kernel = problem(PLANTED, dtype="float32"), KernelOnCPU(PLANTED, machine)
    wrong = p._replace(**{field: change(getattr(p, field))})
    with pytest.raises(ValueError, match=rf"{field} is float(32|64) of shape .*, expected float32 of shape .*C-contiguous"):
        cache = kernel.scan(*wrong[:5])[2]
        kernel.scan_adjoint(wrong.d_spikes, wrong.d_state_last, cache)
