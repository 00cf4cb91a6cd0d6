"""CUDA text without a card: compiled by NVRTC, and run on the CPU by g++ through a small header."""

import ctypes
import os
import re
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from minisnn.kernels.cuda import OPTIONS, CudaKernel
from minisnn.kernels.cuda_text import Text

SHIM = Path(__file__).parent / "cuda_on_cpu.h"
GPP = shutil.which("g++")
SIGNATURE = re.compile(r'extern "C" __global__ void (\w+)\(([^)]*)\)')
TYPES = {"unsigned int": ctypes.c_uint32, "float": ctypes.c_float, "double": ctypes.c_double}


def missing_wheels():
    """Which of NVRTC and the headers that it needs is in no wheel here; found without importing anything."""

    def absent(wheel):
        for name in (wheel, f"{wheel}-cu12"):
            try:
                return not version(name)
            except PackageNotFoundError:
                pass
        return True

    return ", ".join(wheel for wheel in ("nvidia-cuda-nvrtc", "nvidia-cuda-runtime") if absent(wheel))


def headers():
    """Folders that NVRTC needs: of CuPy, of the CUDA headers that it brings, and of the CUDA runtime's wheel."""
    import cupy
    import nvidia

    include = Path(cupy.__file__).parent / "_core/include"
    cccl = next(include.rglob("libcudacxx"))
    runtime = [h.parent for root in nvidia.__path__ for h in Path(root).glob("*/include/cuda_fp16.h")]
    return [include, cccl, *runtime]


def cubin(code, arch):
    """The machine code for one architecture, made by NVRTC; its complaints as an error."""
    from cupy.cuda import nvrtc

    program = nvrtc.createProgram(code, "kernels.cu", [], [])
    options = [*OPTIONS, f"--gpu-architecture={arch}", *(f"-I{folder}" for folder in headers())]
    try:
        nvrtc.compileProgram(program, options)
        return nvrtc.getCUBIN(program)
    except Exception:
        raise AssertionError(nvrtc.getProgramLog(program)[:3000]) from None
    finally:
        nvrtc.destroyProgram(program)


def in_one(texts):
    """Many texts as one program: each in a namespace of its own, its kernel named by its place."""
    includes, parts = {}, []
    for i, text in enumerate(texts):
        lines = text.code.splitlines()
        includes |= dict.fromkeys(line for line in lines if line.startswith("#include"))
        body = "\n".join(line for line in lines if not line.startswith("#include"))
        body = SIGNATURE.sub(rf'extern "C" __global__ void k{i}(\2)', body)
        parts.append(f"namespace n{i} {{\n{body}\n}}")
    return "\n".join([*includes, *parts])


class OnCPU:
    """Kernels compiled for the CPU, by their text."""

    def __init__(self, folder):
        self.folder, self.functions, self.count = Path(folder), {}, 0

    def add(self, texts):
        """Compile those that are new, in one run of the compiler."""
        new = [text for text in dict.fromkeys(texts) if text not in self.functions]
        if not new:
            return
        self.count += 1
        source, library = self.folder / f"k{self.count}.cpp", self.folder / f"k{self.count}.so"
        code = "\n".join(line for line in in_one(new).splitlines() if not line.startswith("#include"))
        runs = []
        for i, text in enumerate(new):
            parameters = SIGNATURE.search(text.code)[2]
            names = ", ".join(p.split()[-1].strip("*") for p in parameters.split(","))
            runs.append(
                f'extern "C" void run{i}({parameters}, unsigned blocks, unsigned threads) {{\n'
                "  gridDim.x = blocks; blockDim.x = threads;\n"
                "  for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x)\n"
                f"    for (threadIdx.x = 0; threadIdx.x < threads; ++threadIdx.x) n{i}::k{i}({names});\n}}"
            )
        source.write_text("\n".join([f'#include "{SHIM}"', code, *runs]), encoding="utf-8")
        # No contraction: as on the GPU (--fmad=false) and in NumPy, each operation is rounded.
        command = [GPP, "-std=c++20", "-O1", "-ffp-contract=off", "-w", "-shared", "-fPIC", source, "-o", library]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})
        assert done.returncode == 0, done.stderr[:3000]
        loaded = ctypes.CDLL(str(library))
        for i, text in enumerate(new):
            self.functions[text] = getattr(loaded, f"run{i}")

    def run(self, text, blocks, threads, arguments):
        self.add([text])
        types = [p.strip().rsplit(" ", 1)[0] for p in SIGNATURE.search(text.code)[2].split(",")]
        given = [
            a.ctypes.data_as(ctypes.c_void_p) if t.endswith("*") else TYPES[t](a.item())
            for t, a in zip(types, arguments, strict=True)
        ]
        self.functions[text](*given, ctypes.c_uint32(blocks), ctypes.c_uint32(threads))


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
        spikes, _, cache = kernel.scan(x, None, theta, decay, 1.3, last=False)
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


class KernelOnCPU(CudaKernel):
    """The kernel as it is, on NumPy arrays: `change` may edit the text before it is run."""

    def __init__(self, dynamics, machine, change=None):
        super().__init__(dynamics)
        self.machine, self.change = machine, change

    def _arrays(self):
        return np

    def _run(self, text, blocks, threads, arguments):
        text = Text(text.name, self.change(text.code)) if self.change else text
        self.machine.run(text, blocks, threads, arguments)
