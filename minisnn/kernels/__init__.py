"""Backends: the time loops that run the formulas, looked up here by their names."""

from __future__ import annotations

import importlib
import os
from functools import cache, lru_cache
from types import ModuleType
from typing import Any

from .contract import HARD, Base, Dynamics, Kernel, Needs, ScanCache, Twin
from .threads import undisturbed

__all__ = ["HARD", "Base", "Dynamics", "Kernel", "Needs", "ScanCache", "Twin", "kernel_of"]

#: Name of a backend -> the module with its ``kernel``, and how to install what it needs.
BACKENDS = {
    "numba": ("minisnn.kernels.compiled", "pip install -U numba"),
    "numpy": ("minisnn.kernels.reference", "pip install numpy"),
    "cupy": ("minisnn.kernels.cuda", "pip install 'cupy-cuda13x[ctk]'"),
}
#: Those that compute on NumPy arrays.
ON_CPU = tuple(name for name in BACKENDS if name != "cupy")


class BackendUnavailable(ImportError):
    """A backend was named that cannot be used here; the message has the true cause and the cure."""


@cache
def _load(name: str) -> tuple[Any, str | None]:
    module, cure = BACKENDS[name]
    try:
        found = undisturbed(lambda: importlib.import_module(module))
        return found, found.problem() if hasattr(found, "problem") else None
    except Exception as error:  # whatever hinders it is what the user must see
        return None, f"{type(error).__name__}: {error} (install it with: {cure})"


def backend_problem(name: str) -> str | None:
    """Why the backend `name` cannot be used here; ``None`` where it can."""
    return _load(name)[1]


def check_backend(name: str, where: str = "backend") -> str:
    """`name` if it can be used; else a clear error."""
    if name not in BACKENDS:
        expected = ", ".join(map(repr, BACKENDS))
        raise ValueError(f"{where}: unknown backend {name!r}, expected one of {expected}")
    if problem := backend_problem(name):
        raise BackendUnavailable(f"{where}: backend {name!r} cannot be used: {problem}")
    return name


def default_backend() -> str:
    """``MINISNN_BACKEND`` where it is set; else numba if it can be imported, else numpy."""
    if name := os.environ.get("MINISNN_BACKEND"):
        return check_backend(name, "MINISNN_BACKEND")
    return "numpy" if backend_problem("numba") else "numba"


@lru_cache(maxsize=256)
def kernel_of(dynamics: Dynamics, backend: str) -> Kernel:
    """The time loop of these dynamics on that backend."""
    made: Kernel = _load(check_backend(backend))[0].kernel(dynamics)
    return made


def compiled_helpers(backend: str, name: str) -> ModuleType | None:
    """What else is compiled, by the name of its file, e.g. "conv"; ``None``: NumPy's form alone."""
    return importlib.import_module(f"{__name__}.{name}") if backend == "numba" else None
