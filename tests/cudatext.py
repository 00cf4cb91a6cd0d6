"""CUDA text without a GPU: compiled by NVRTC, and run on the CPU by g++, one thread after the other."""

import ctypes
import os
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from minisnn.kernels.cuda import OPTIONS, THREADS, CudaKernel

GPP = shutil.which("g++")
KERNELS = ("scan", "adjoint")
#: What CUDA has and C++ lacks.  Kernels take their arguments as ``cuLaunchKernel`` passes them: by the address of each.
ON_CPU = """
#include <cmath>
#include <type_traits>
#include <utility>
#define __global__
#define __device__
using std::exp, std::atan, std::tanh, std::sqrt, std::log, std::cos, std::sin;  // with overloads for float, as CUDA's
static struct { unsigned x; } threadIdx, blockIdx, blockDim;
template <class... A, std::size_t... i>
static void launch(void (*kernel)(A...), void** at, unsigned first, unsigned blocks, std::index_sequence<i...>) {
    for (blockIdx.x = first; blockIdx.x < blocks; ++blockIdx.x)
        for (threadIdx.x = 0; threadIdx.x < blockDim.x; ++threadIdx.x) kernel(*(std::remove_const_t<A>*)at[i]...);
}
template <class... A>
static void launch(void (*kernel)(A...), void** at, unsigned first, unsigned blocks, unsigned threads) {
    blockDim.x = threads;
    launch(kernel, at, first, blocks, std::index_sequence_for<A...>());
}
"""


def without_nvrtc():
    """Why nothing can be compiled for a GPU here, or an empty text; found without importing anything."""
    for wheel in ("nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu12"):
        try:
            return "" if version(wheel) else wheel
        except PackageNotFoundError:
            pass
    return "nvidia-cuda-nvrtc is not installed (pip install '.[gpu-test]')"


def compiled(code, arch, ptx=False):
    """Machine code for one architecture, or its readable form, by NVRTC; its complaints as an error."""
    from cupy.cuda import nvrtc

    program = nvrtc.createProgram(code, "kernels.cu", [], [])
    try:
        nvrtc.compileProgram(program, [*OPTIONS, f"--gpu-architecture={arch}"])
        return nvrtc.getPTX(program) if ptx else nvrtc.getCUBIN(program)
    except Exception:
        raise AssertionError(nvrtc.getProgramLog(program)[:3000]) from None
    finally:
        nvrtc.destroyProgram(program)


def in_one(texts):
    """Many texts as one program: each in a namespace of its own, its kernels numbered."""
    parts = []
    for i, text in enumerate(texts):
        for kernel in KERNELS:
            text = text.replace(f"void {kernel}(", f"void {kernel}{i}(")
        parts.append(f"namespace n{i} {{\n{text}\n}}")
    return "\n".join(parts)


class OnCPU:
    """Texts compiled for the CPU."""

    def __init__(self, folder):
        self.folder, self.functions, self.count = Path(folder), {}, 0

    def add(self, texts):
        """Compile those that are new, in one run of the compiler."""
        new = [text for text in dict.fromkeys(texts) if (text, "scan") not in self.functions]
        if not new:
            return
        self.count += 1
        source, library = self.folder / f"k{self.count}.cpp", self.folder / f"k{self.count}.so"
        names = {(text, kernel): f"{kernel}{i}" for i, text in enumerate(new) for kernel in KERNELS}
        ways_in = [
            f'extern "C" void run_{name}(void** at, unsigned first, unsigned blocks, unsigned threads) {{'
            f" launch(n{name.removeprefix(kernel)}::{name}, at, first, blocks, threads); }}"
            for (_, kernel), name in names.items()
        ]
        source.write_text("\n".join([ON_CPU, in_one(new), *ways_in]), encoding="utf-8")
        # No contraction: as on the GPU (--fmad=false) and in NumPy, each operation is rounded.
        command = [GPP, "-std=c++17", "-O1", "-ffp-contract=off", "-w", "-shared", "-fPIC", source, "-o", library]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})
        assert done.returncode == 0, done.stderr[:3000]
        loaded = ctypes.CDLL(str(library))
        self.functions |= {key: getattr(loaded, f"run_{name}") for key, name in names.items()}

    def run(self, text, kernel, blocks, arguments, first=0):
        """Blocks from `first` to `blocks`, one thread after the other."""
        self.add([text])
        values = [np.array(a.ctypes.data if isinstance(a, np.ndarray) else a) for a in arguments]
        places = (ctypes.c_void_p * len(values))(*(v.ctypes.data for v in values))
        self.functions[text, kernel](places, first, blocks, THREADS)


class KernelOnCPU(CudaKernel):
    """The kernel as it is, on NumPy arrays: `change` may edit the text before it is run."""

    def __init__(self, dynamics, machine, change=lambda text: text):
        super().__init__(dynamics)
        self.machine, self.change = machine, change

    def _arrays(self):
        return np

    def _run(self, text, name, blocks, arguments):
        self.machine.run(self.change(text), name, blocks, arguments)


def train_by_hand(kernel, xp, epochs):
    """Accuracy on the digits of two weight matrices and thresholds around one scan; `xp`: numpy or cupy."""
    import minisnn as ms

    rng, steps, hidden = np.random.default_rng(0), 8, 100
    data = {split: ms.data.digits(split) for split in ("train", "test")}
    images, digits = (xp.asarray(a) for a in data["train"])
    w1 = xp.asarray(rng.normal(0, 0.3, (64, hidden)).astype(np.float32))
    w2 = xp.asarray(rng.normal(0, 0.1, (hidden, 10)).astype(np.float32))
    theta, decay = xp.ones(hidden, np.float32), xp.full((1, hidden), 0.5, np.float32)

    def forward(pixels):
        x = xp.repeat((pixels @ w1)[None], steps, axis=0)
        spikes, _, cache = kernel.scan(x, None, theta, decay, 1.3)
        return spikes.mean(axis=0, dtype=np.float32), cache

    for _ in range(epochs):
        order = rng.permutation(len(images))
        for rows in np.array_split(order, len(images) // 32):
            rows = xp.asarray(rows)
            rate, cache = forward(images[rows])
            error = (rate @ w2 - xp.eye(10, dtype=np.float32)[digits[rows]]) / np.float32(len(rows))
            d_spikes = xp.repeat((error @ w2.T / np.float32(steps))[None], steps, axis=0)
            d_x, _, d_theta, _ = kernel.scan_adjoint(d_spikes, None, cache)
            w2 -= 0.5 * rate.T @ error
            w1 -= 0.5 * images[rows].T @ d_x.sum(axis=0)
            theta = theta - 0.5 * d_theta.sum(axis=0)
    images, digits = (xp.asarray(a) for a in data["test"])
    return float((forward(images)[0] @ w2).argmax(axis=1).__eq__(digits).mean())
