"""What the GPU backend says where there is no GPU and no CuPy: the true cause."""

import subprocess
import sys
from pathlib import Path

import pytest

import minisnn as ms
from minisnn.kernels import BACKENDS, ON_CPU, BackendUnavailable, backend_problem
from minisnn.kernels.gpu_info import describe, explain

ROOT = Path(__file__).parent.parent
NO_CUPY = {"failed": "import", "error": "ModuleNotFoundError: No module named 'cupy'"}
TWELVE, THIRTEEN = "cupy-cuda12x 14.2.0", "cupy-cuda13x 14.2.0"


def found(driver="", wheels="", **others):
    return {"driver": driver, "CuPy": wheels, **others}


@pytest.mark.parametrize("facts, says", [
    (found("13.0", **NO_CUPY), ["CuPy is not installed", "pip install 'cupy-cuda13x[ctk]'"]),
    (found("12.4", **NO_CUPY), ["CuPy is not installed", "pip install 'cupy-cuda12x[ctk]'"]),
    (found(**NO_CUPY), ["CuPy is not installed", "cupy-cuda13x[ctk]", "no NVIDIA driver either"]),
    (found("11.8", **NO_CUPY), ["CuPy is not installed", "update the driver (it knows CUDA 11.8"]),
    (found("13.0", THIRTEEN, failed="import", error="ImportError: libxyz.so.1: cannot open"), [f"{THIRTEEN} cannot be imported", "libxyz.so.1"]),
    (found("", THIRTEEN, CUDA="13.2", failed="GPU", error="x"), ["no NVIDIA driver", "not from pip"]),
    (found("12.4", THIRTEEN, CUDA="13.2", failed="GPU", error="cudaErrorInsufficientDriver"),
     ["made for CUDA 13.2, but the driver knows CUDA 12.4 at most", "pip uninstall cupy-cuda13x", "'cupy-cuda12x[ctk]'"]),
    (found("11.8", THIRTEEN, CUDA="13.2", failed="GPU"), ["the driver knows CUDA 11.8 at most: update the driver"]),
    (found("13.0", TWELVE, CUDA="12.9", failed="GPU", error="cudaErrorNoDevice: no CUDA-capable device is detected"),
     ["the driver gives no GPU: cudaErrorNoDevice", "CUDA_VISIBLE_DEVICES"]),
    (found("12.4", f"{TWELVE} and {THIRTEEN}"), ["overwrite each other", "pip uninstall cupy-cuda12x cupy-cuda13x", "cuda12x[ctk]"]),
    (found("12.4", TWELVE, CUDA="12.9", failed="NVRTC", error="RuntimeError: libnvrtc.so.12 is missing"),
     ["NVRTC", "libnvrtc.so.12 is missing", "pip install 'cupy-cuda12x[ctk]'"]),
])  # fmt: skip
def test_the_true_cause_and_what_helps(facts, says):
    for words in says:
        assert words in explain(facts)


@pytest.mark.parametrize("driver", ["12.4", "13.0", "14.0"])
def test_nothing_is_in_the_way(driver):
    assert explain(found(driver, TWELVE, CUDA="12.4", NVRTC="12.4", GPU="a card")) is None


@pytest.mark.skipif(backend_problem("cupy") is None, reason="there is a GPU here")
def test_using_cupy_where_it_cannot_be_used():
    with pytest.raises(BackendUnavailable, match="backend 'cupy' cannot be used: .*(driver|CuPy is not installed|no GPU)"):
        ms.LIF(3).using("cupy")
    about = describe()
    assert about["GPU kernel"] == "not run" and about["GPU"].startswith("none that can be used")


def test_cupy_that_cannot_be_imported():
    program = (
        "import sys; sys.modules['cupy'] = None\n"
        "import minisnn as ms\n"
        "try: ms.LIF(3, backend='cupy')\nexcept ImportError as error: print(error)\n"
        "from minisnn.kernels.gpu_info import describe; print(describe()['GPU kernel'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    first, last = done.stdout.splitlines()
    assert "import of cupy halted" in first and ("pip install 'cupy-cuda" in first or "update the driver" in first)
    assert last == "not run"


def test_names_of_backends():
    assert set(ON_CPU) == {"numba", "numpy"} and {*ON_CPU, "cupy"} == set(BACKENDS)
