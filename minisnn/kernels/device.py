"""What stands between this machine and the GPU: found out step by step, so that the message names the true cause."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

import numpy as np

__all__ = ["Facts", "describe", "explain", "facts", "problem"]


OLDEST = 12000  #: CUDA, of what CuPy 14 runs on


class Facts(NamedTuple):
    """What was found.  CUDA versions are as CUDA counts them: 12040 is 12.4."""

    wheels: tuple[str, ...] = ()  #: CuPy's packages, e.g. ``("cupy-cuda13x 14.2.0",)``
    import_error: str = ""  #: what ``import cupy`` says
    driver: int = 0  #: the newest CUDA that the driver knows; 0 without a driver
    runtime: int = 0  #: the CUDA that CuPy was made for
    device_error: str = ""  #: what asking for a card says
    nvrtc: str = ""  #: version of the compiler
    nvrtc_error: str = ""


def facts() -> Facts:
    """Look, and change nothing."""
    found = Facts(wheels=_wheels(), driver=_driver())
    try:
        import cupy
        from cupy.cuda import nvrtc, runtime

        found = found._replace(runtime=runtime.runtimeGetVersion())
    except Exception as error:  # CuPy fails in many ways; each is what the user must see
        return found._replace(import_error=f"{type(error).__name__}: {error}")
    try:
        cupy.cuda.Device().compute_capability  # noqa: B018 - asking is what may fail
    except Exception as error:
        found = found._replace(device_error=str(error))
    try:
        return found._replace(nvrtc=".".join(map(str, nvrtc.getVersion())))
    except Exception as error:
        return found._replace(nvrtc_error=f"{type(error).__name__}: {error}")


def explain(found: Facts) -> str | None:
    """Why there is no GPU to compute on, and what helps; ``None`` if nothing is in the way."""
    has = " and ".join(found.wheels) or "CuPy"
    names = " ".join(w.split()[0] for w in found.wheels) or "cupy"
    if len(found.wheels) > 1:
        return f"{has} are both installed and overwrite each other: pip uninstall {names}, then {_install(found.driver)}"
    if found.import_error and not found.wheels and "No module named 'cupy'" in found.import_error:
        also = "" if found.driver else "; there is no NVIDIA driver either, which comes first (and not from pip)"
        return f"CuPy is not installed: {_install(found.driver)}{also}"
    if found.import_error:
        return f"{has} cannot be imported: {found.import_error} (to install it anew: {_install(found.driver)})"
    if not found.driver:
        return (
            f"there is no NVIDIA driver: {has} is here, the driver of the graphics card has to be installed (not with pip)"
        )
    if found.driver // 1000 < found.runtime // 1000:
        other = f", or pip uninstall {names}, then {_install(found.driver)}" if found.driver >= OLDEST else ""
        made, knows = _dotted(found.runtime), _dotted(found.driver)
        return f"{has} is made for CUDA {made}, but the driver knows CUDA {knows} at most: update the driver{other}"
    if found.device_error:
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        also = f"; CUDA_VISIBLE_DEVICES is {hidden!r}" if hidden is not None else ""
        return f"the driver gives no card: {found.device_error}{also}"
    if found.nvrtc_error:
        wheel = {12: "nvidia-cuda-nvrtc-cu12"}.get(found.runtime // 1000, "nvidia-cuda-nvrtc")
        return f"NVRTC, which compiles the kernels, is missing: {found.nvrtc_error}: pip install {wheel}"
    return None


def problem() -> str | None:
    """Why kernels cannot run on a GPU here; ``None`` where they can."""
    return explain(facts())


def describe() -> dict[str, str]:
    """Device, driver, CUDA, NVRTC, and whether a kernel compiles and runs: for ``minisnn info``."""
    found = facts()
    cause = explain(found)
    return {
        "GPU": "none that can be used; backend cupy says why" if cause else _card(),
        "driver": f"knows CUDA up to {_dotted(found.driver)}" if found.driver else "none",
        "CuPy": ", ".join(found.wheels) or found.import_error or "not from a wheel",
        "CUDA": f"{_dotted(found.runtime)}, which CuPy is made for" if found.runtime else "unknown without CuPy",
        "NVRTC": found.nvrtc or found.nvrtc_error or "unknown without CuPy",
        "GPU kernel": "not run" if cause else _trial(),
    }


def _dotted(cuda: int) -> str:
    return f"{cuda // 1000}.{cuda % 1000 // 10}"


def _install(driver: int) -> str:
    """The pip line that fits the driver."""
    if 0 < driver < OLDEST:
        return f"update the driver (it knows CUDA {_dotted(driver)}; CuPy 14 needs {_dotted(OLDEST)} or newer)"
    return f"pip install 'cupy-cuda{12 if 0 < driver < 13000 else 13}x[ctk]'"


def _wheels() -> tuple[str, ...]:
    found = []
    for name in ("cupy-cuda11x", "cupy-cuda12x", "cupy-cuda13x", "cupy"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            pass
    return tuple(found)


def _driver() -> int:
    """The driver itself is asked, since CuPy may be the one that is missing."""
    try:
        library = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        number = ctypes.c_int(0)
        return number.value if library.cuDriverGetVersion(ctypes.byref(number)) == 0 else 0
    except (OSError, AttributeError):
        return 0


def _card() -> str:
    import cupy

    about = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.get_device_id())
    return (
        f"{about['name'].decode()}, compute capability {about['major']}.{about['minor']}, "
        f"{about['totalGlobalMem'] / 2**30:.1f} GiB, the first of {cupy.cuda.runtime.getDeviceCount()}"
    )


def _trial() -> str:
    """One kernel, compiled and run, and compared with the reference."""
    import cupy

    from ..neurons import lif
    from ..resets import hard
    from ..surrogates import atan
    from .contract import Dynamics
    from .cuda import CudaKernel
    from .reference import ReferenceKernel

    draws = np.random.default_rng(0).normal(0.5, 1, (8, 4, 33)).astype(np.float32)
    inputs = draws, draws[:1].copy(), draws[0, 0] ** 2 + np.float32(0.1), np.full((1, 33), 0.5, np.float32)
    dynamics = Dynamics(lif, hard, atan())
    expected = ReferenceKernel(dynamics).scan(*inputs, 2.0)[0]
    begun = time.perf_counter()
    try:
        x, state0, theta, params = (cupy.asarray(a) for a in inputs)
        spikes = CudaKernel(dynamics).scan(x, state0, theta, params, 2.0)[0].get()
    except Exception as error:
        return f"FAILED: {type(error).__name__}: {' '.join(str(error).split())[:500]}"
    taken = time.perf_counter() - begun
    if not np.array_equal(spikes, expected):
        return f"WRONG: {(spikes != expected).sum()} of {spikes.size} spikes differ from those of the reference"
    return f"compiled and run in {taken:.2f} s, {spikes.sum()} spikes, those of the reference"
