"""What the GPU backend says and does where there is no card and no CuPy: the true cause, and sources spelled out."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from grid import NEURONS, RESETS, SURROGATES

import minisnn as ms
from minisnn.kernels import BACKENDS, ON_CPU, BackendUnavailable, backend_problem
from minisnn.kernels.device import Facts, describe, explain
from minisnn.kernels.source import RESERVED, source_of, spelled_out

ROOT = Path(__file__).parent.parent
NO_CUPY = "ModuleNotFoundError: No module named 'cupy'"
TWELVE, THIRTEEN = ("cupy-cuda12x 14.2.0",), ("cupy-cuda13x 14.2.0",)


@pytest.mark.parametrize("found, says", [
    (Facts(import_error=NO_CUPY, driver=13000), ["CuPy is not installed", "pip install 'cupy-cuda13x[ctk]'"]),
    (Facts(import_error=NO_CUPY, driver=12040), ["CuPy is not installed", "pip install 'cupy-cuda12x[ctk]'"]),
    (Facts(import_error=NO_CUPY), ["CuPy is not installed", "cupy-cuda13x[ctk]", "no NVIDIA driver either"]),
    (Facts(import_error=NO_CUPY, driver=11080), ["CuPy is not installed", "update the driver (it knows CUDA 11.8"]),
    (Facts(THIRTEEN, "ImportError: libxyz.so.1: cannot open", 13000), ["cupy-cuda13x 14.2.0 cannot be imported", "libxyz.so.1"]),
    (Facts(THIRTEEN, runtime=13020, device_error="x"), ["no NVIDIA driver", "not with pip"]),
    (Facts(THIRTEEN, driver=12040, runtime=13020, device_error="cudaErrorInsufficientDriver"),
     ["made for CUDA 13.2, but the driver knows CUDA 12.4 at most", "pip uninstall cupy-cuda13x", "'cupy-cuda12x[ctk]'"]),
    (Facts(THIRTEEN, driver=11080, runtime=13020), ["the driver knows CUDA 11.8 at most: update the driver"]),
    (Facts(TWELVE, driver=13000, runtime=12090, device_error="cudaErrorNoDevice: no CUDA-capable device is detected"),
     ["the driver gives no card: cudaErrorNoDevice"]),
    (Facts(TWELVE + THIRTEEN, driver=12040), ["overwrite each other", "pip uninstall cupy-cuda12x cupy-cuda13x", "cuda12x[ctk]"]),
    (Facts(TWELVE, driver=12040, runtime=12090, nvrtc_error="RuntimeError: libnvrtc.so.12 is missing"),
     ["NVRTC", "libnvrtc.so.12 is missing", "pip install nvidia-cuda-nvrtc-cu12"]),
    (Facts(THIRTEEN, driver=13000, runtime=13020, nvrtc_error="RuntimeError: gone"), ["gone: pip install nvidia-cuda-nvrtc"]),
])  # fmt: skip
def test_the_true_cause_and_what_helps(found, says):
    for words in says:
        assert words in explain(found)


@pytest.mark.parametrize("driver", [12040, 13000, 14000])
def test_nothing_is_in_the_way(driver):
    assert explain(Facts(TWELVE, driver=driver, runtime=12040, nvrtc="12.4")) is None


@pytest.mark.skipif(backend_problem("cupy") is None, reason="there is a GPU here")
def test_using_cupy_where_it_cannot_be_used():
    layer = ms.LIF(3)
    with pytest.raises(BackendUnavailable, match="backend 'cupy' cannot be used: .*(driver|CuPy is not installed|no card)"):
        layer.using("cupy")
    about = describe()
    assert about["GPU kernel"] == "not run" and about["GPU"].startswith("none that can be used")


def test_cupy_that_cannot_be_imported():
    program = (
        "import sys; sys.modules['cupy'] = None\n"
        "import minisnn as ms\n"
        "try: ms.LIF(3, backend='cupy')\nexcept ImportError as error: print(error)\n"
        "from minisnn.cli import main; main(['info'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    first, *info = done.stdout.splitlines()
    assert "import of cupy halted" in first and ("pip install 'cupy-cuda" in first or "update the driver" in first)
    assert any(line.startswith("GPU kernel") and line.endswith("not run") for line in info)


def test_names_of_backends():
    assert set(ON_CPU) == {"numba", "numpy"} and {*ON_CPU, "cupy"} == set(BACKENDS)


# -- sources


def spelled(function, dtype="float32", **names):
    return inspect.getsource(spelled_out(function, np.dtype(dtype) if dtype else None, **names))


HALF = 0.5
TENTH = np.float64(0.1)


def test_numbers_are_computed_and_typed():
    def function(x, k):
        """A docstring."""
        middle: float = 2 * HALF / 2
        return middle * x * TENTH + (k > 1), -1, np.exp(-HALF)

    assert ast.unparse(ast.parse(spelled(function))) == (
        "def function(x, k):\n    middle = _number(0.5)\n"
        f"    return (middle * x * _number(0.1) + (k > _number(1)), _number(-1), _number({np.exp(-0.5).item()!r}))"
    )


@pytest.mark.parametrize("name", [*NEURONS, *RESETS, *SURROGATES])
def test_spelled_out_a_function_computes_the_same(name):
    """The copy is a Python function, too: it gives the same numbers, in the dtype of its arguments."""
    pairs = {
        **{n: (f.charge, f.charge_adjoint) for n, f in ms.neurons.NEURONS.items()},
        **{n: (f.reset, f.reset_adjoint) for n, f in ms.resets.RESETS.items()},
        **{n: (f().smooth, f().slope) for n, f in ms.surrogates.SURROGATES.items()},
    }
    for function in pairs[name]:
        for dtype in (np.float32, np.float64):
            arguments = np.random.default_rng(0).normal(size=(function.__code__.co_argcount, 50)).astype(dtype)
            found = spelled_out(function, np.dtype(dtype), np=np)(*arguments)
            expected = function(*arguments)
            for a, b in zip(*(v if isinstance(v, tuple) else (v,) for v in (found, expected)), strict=True):
                assert np.asarray(a).dtype == dtype and np.array_equal(a, b)


def test_what_is_known_is_left_out_and_the_rest_written_out():
    n, wanted = 2, False

    def loop(f, a, b):
        v = (*(a[i * 3] for i in range(n)),)
        for t in range(b):
            v = f(*(v[i] for i in range(n)), b if wanted else t)
            if wanted:
                a[0] = v[0]
            for i in range(1, n):
                a[i + t] = v[i]

    text = spelled(loop, None)
    assert "v = (a[0], a[3])" in text and "for t in range(b):" in text and "v = f(v[0], v[1], t)" in text
    assert "a[1 + t] = v[1]" in text and "if" not in text and "a[0] =" not in text


def test_assigning_to_several_names_is_one_at_a_time():
    def function(x):
        x = y = x + 1
        return x * y

    assert "    x = x + _number(1)\n    y = x\n" in spelled(function)


def test_names_that_cpp_would_misread_are_replaced():
    def function(double, τ):
        int = double * τ
        return int

    assert spelled(function).splitlines() == [
        "def function(local_0, local_1):", "    local_2 = local_0 * local_1", "    return local_2",
    ]  # fmt: skip
    assert {"double", "int", "exp", "isnan"} <= RESERVED


def test_a_local_name_hides_a_global_number():
    function = eval("lambda HALF, k: HALF * k")
    with pytest.raises(ms.grammar.GrammarError, match="no source that can be read: was it typed into a bare interpreter"):
        source_of(function)

    def own(HALF, k):
        return HALF * k

    assert "return HALF * k" in spelled(own)


PAIR = (lambda x: x + 1.0, lambda x: x + 2.0), (lambda x: x + 2.0,)


def test_lambdas_are_told_apart():
    (one, two), (three,) = PAIR
    assert "_number(1.0)" in spelled(one) and "_number(2.0)" in spelled(two) and "_number(2.0)" in spelled(three)


def test_a_neuron_typed_into_a_bare_interpreter_says_so():
    program = (
        "import minisnn as ms\nfrom minisnn.kernels import Dynamics\nfrom minisnn.kernels.cuda import CudaKernel\n"
        "def charge(v, x): return v + x\n\ndef adjoint(d_u, v, x): return d_u, d_u\n\n"
        "mine = ms.Neuron(charge, adjoint, params=())\n"
        "try: CudaKernel(Dynamics(mine, ms.resets.hard, ms.surrogates.atan()))\nexcept TypeError as error: print(error)\n\n"
    )
    # From 3.13 an interactive interpreter keeps what was typed; from a pipe it never does.
    done = subprocess.run([sys.executable], input=program, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.stdout.startswith("charge() has no source that can be read"), done.stderr
    assert "define it in a file or a notebook" in done.stdout


def test_a_file_edited_since_its_import_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "edited_neuron.py"
    path.write_text("def charge(v, x):\n    return v + x\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    import edited_neuron

    assert source_of(edited_neuron.charge).name == "charge"
    path.write_text("def charge(v, x):\n    return v - x  # another formula\n", encoding="utf-8")
    with pytest.raises(ms.grammar.GrammarError, match="no longer holds the function that was imported"):
        source_of(edited_neuron.charge)
