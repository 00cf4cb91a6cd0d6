"""Why this machine's GPU cannot be used: step by step, so that the message names the true cause."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

__all__ = ["describe", "explain", "facts", "problem"]


def facts() -> dict[str, str]:
    """What was found; "failed" is the step that went wrong, "error" how.  The GPU runs nothing."""
    wheels = []
    for name in ("cupy-cuda11x", "cupy-cuda12x", "cupy-cuda13x", "cupy"):
        with suppress(PackageNotFoundError):
            wheels.append(f"{name} {version(name)}")
    found = {"driver": _driver(), "CuPy": " and ".join(wheels), "failed": "import"}
    try:
        import cupy

        found["CUDA"], found["failed"] = _dotted(cupy.cuda.runtime.runtimeGetVersion()), "GPU"
        about = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.get_device_id())
        capability = f"compute capability {about['major']}.{about['minor']}"
        found["GPU"] = f"{about['name'].decode()}, {capability}"
        found["failed"] = "NVRTC"
        found["NVRTC"] = ".".join(map(str, cupy.cuda.nvrtc.getVersion()))
        del found["failed"]
    except Exception as error:  # CuPy fails in many ways; each is what the user must see
        found["error"] = f"{type(error).__name__}: {error}"
    return found


def explain(found: dict[str, str]) -> str | None:
    """Why there is no GPU to compute on, and what helps; ``None`` if nothing is in the way."""
    driver, has, made = found["driver"], found["CuPy"] or "CuPy", found.get("CUDA", "0")
    failed, error = found.get("failed"), found.get("error", "")
    install = f"pip install 'cupy-cuda{13 if float(driver or 13) >= 13 else 12}x[ctk]'"
    if old := bool(driver) and float(driver) < 12:
        install = f"update the driver (it knows CUDA {driver}; CuPy 14 needs 12.0 or newer)"
    wheels = " ".join(word for word in has.split() if word.startswith("cupy"))
    again = f"pip uninstall {wheels}, then {install}"
    if " and " in has:
        return f"{has} are both installed and overwrite each other: {again}"
    if failed == "import":
        absent = not found["CuPy"] and "No module named 'cupy'" in error
        what = "CuPy is not installed" if absent else f"{has} cannot be imported: {error}"
        also = "; there is no NVIDIA driver either, which comes first (and not from pip)"
        return f"{what}: {install}{'' if driver else also}"
    if not driver:
        return f"there is no NVIDIA driver: {has} is here, the driver is missing (not from pip)"
    if int(float(driver)) < int(float(made)):
        also = "" if old else f", or {again}"
        older = f"the driver knows CUDA {driver} at most"
        return f"{has} is made for CUDA {made}, but {older}: update the driver{also}"
    if failed == "GPU":
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        return f"the driver gives no GPU: {error}; CUDA_VISIBLE_DEVICES is {visible!r}"
    if failed == "NVRTC":
        return f"NVRTC, which compiles the kernels, is missing: {error}: {install}"
    return None


def problem() -> str | None:
    """Why kernels cannot run on a GPU here; ``None`` where they can."""
    return explain(facts())


def describe() -> dict[str, str]:
    """Driver, CuPy, GPU, NVRTC, and whether a kernel compiles and runs: for ``minisnn info``."""
    found = facts() | {"GPU kernel": "not run"}
    if explain(found) is None:
        import cupy

        try:
            found["GPU kernel"] = f"compiled and run: 0 + 1 + 2 = {cupy.arange(3).sum().item()}"
        except Exception as error:
            text = " ".join(str(error).split())[:500]
            found["GPU kernel"] = f"FAILED: {type(error).__name__}: {text}"
    return {"GPU": "none that can be used; backend cupy says why", **found}


def _dotted(cuda: int) -> str:
    return f"{cuda // 1000}.{cuda % 1000 // 10}" if cuda else ""


def _driver() -> str:
    """The newest CUDA that the driver knows, by its own answer; empty without one."""
    number, name = ctypes.c_int(0), "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    with suppress(OSError, AttributeError):
        ctypes.CDLL(name).cuDriverGetVersion(ctypes.byref(number))
    return _dotted(number.value)
