"""Where arrays are: in the CPU's memory (NumPy), or in that of a GPU (CuPy).  Nothing crosses over but by these functions.

Layers need little of this.  A NumPy function that meets a CuPy array hands it to CuPy's; one that *makes* an array is told
where by ``like=``, e.g. ``np.zeros(shape, dtype, like=x)`` (not ``np.full`` and ``np.ones``: NumPy 2 hands on an option,
``device=``, that CuPy does not know).
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np

__all__ = ["array_for", "host", "moved", "uniform", "writeable", "xp_of"]

Array = Any


def xp_of(array: Any) -> ModuleType:
    """``cupy`` for an array on a GPU, ``numpy`` for everything else; CuPy is not imported for it."""
    cupy = sys.modules.get("cupy")
    return cupy if cupy is not None and isinstance(array, cupy.ndarray) else np


def writeable(array: Array) -> bool:
    """Whether an array may be written over: not read-only, and not in the middle of a number.  CuPy knows no others."""
    return bool(getattr(array.flags, "behaved", True))


def moved(array: Array, backend: str | None) -> Array:
    """The array in the memory in which `backend` computes: itself if it is there, else a copy."""
    if backend == "cupy":
        import cupy

        return cupy.asarray(array)
    return host(array)


def host(array: Array) -> Array:
    """The array in the CPU's memory, to be written to a file or drawn: waits for the GPU, and copies, where it was there."""
    return array if xp_of(array) is np else array.get()


def array_for(backend: str, value: Any, what: str) -> Array:
    """Data as an array where `backend` computes.  What the CPU has goes to a GPU; nothing comes back from there unasked."""
    if backend != "cupy" and xp_of(value) is not np:
        raise TypeError(f"{what} on the GPU, the network on the CPU: bring them back with .get(), or net.using('cupy')")
    return moved(value, backend) if backend == "cupy" else np.asarray(value)


def uniform(rng: np.random.Generator, shape: tuple[int, ...], like: Array) -> Array:
    """float32 numbers in [0, 1) where `like` is: drawn from `rng`, or by CuPy with a seed that is drawn from it."""
    xp = xp_of(like)
    if xp is np:
        return rng.random(shape, dtype=np.float32)
    # Philox, because a generator lives for one draw: what CuPy takes by default is slow to set up.
    bits = xp.random.Philox4x3210(int(rng.integers(2**63)))
    return xp.random.Generator(bits).random(shape, dtype=np.float32)
