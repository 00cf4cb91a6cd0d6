"""Arrays, and where they are: in the CPU's memory (NumPy), or in that of a GPU (CuPy).

Arrays move between the two only through these functions.  A NumPy function that meets a CuPy array
hands it to CuPy's.  One that *makes* an array takes ``like=``, e.g. ``np.zeros(shape, dtype,
like=x)``; not ``np.full`` and ``np.ones``, since NumPy 2 passes on an option, ``device=``, that
CuPy does not know.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np

Array = Any


def get_array_module(array: Any) -> ModuleType:
    """``cupy`` for an array on a GPU, ``numpy`` for everything else, without importing CuPy."""
    cupy = sys.modules.get("cupy")
    return cupy if cupy is not None and isinstance(array, cupy.ndarray) else np


def to_device(array: Array, backend: str | None) -> Array:
    """The array in the memory in which `backend` computes: itself if it is there, else a copy."""
    if backend == "cupy":
        import cupy

        return cupy.asarray(array)
    return to_numpy(array)


def to_numpy(array: Array) -> Array:
    """The array in the CPU's memory, to be saved or drawn; from a GPU it waits, and copies."""
    return array if get_array_module(array) is np else array.get()


def array_for(backend: str, value: Any, what: str) -> Array:
    """Data as an array where `backend` computes: the CPU's go to a GPU, a GPU's stay there."""
    if backend != "cupy" and get_array_module(value) is not np:
        cure = "bring them back with .get(), or net.using('cupy')"
        raise TypeError(f"{what} on the GPU, the network on the CPU: {cure}")
    try:
        array = value if get_array_module(value) is not np else np.asarray(value)
    except ValueError as error:  # lists of several lengths
        raise ValueError(f"{what} must be an array of numbers: {error}") from None
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{what} must be an array of numbers, got {array.dtype} {value!r}")
    return to_device(array, backend)


def in_one_piece(array: Array) -> bool:
    """Whether an array is C-contiguous and aligned (CuPy knows no other)."""
    return bool(array.flags.c_contiguous and getattr(array.flags, "aligned", True))


def is_steady(x: Array) -> bool:
    """Whether `x` ``[T, ...]`` is the same memory at every step, as ``encode.Constant`` makes it.

    Layers of synapses then compute once what they make of it.
    """
    return len(x) > 1 and x.strides[0] == 0 and in_one_piece(x[0])


def uniform(rng: np.random.Generator, shape: tuple[int, ...], like: Array) -> Array:
    """float32 numbers in [0, 1) where `like` is; CuPy draws with a seed that `rng` draws."""
    xp = get_array_module(like)
    if xp is np:
        return rng.random(shape, dtype=np.float32)
    # Philox, because a generator lives for one draw: CuPy's default is slow to set up.
    bits = xp.random.Philox4x3210(int(rng.integers(2**63)))
    return xp.random.Generator(bits).random(shape, dtype=np.float32)


def float_dtype(dtype: Any) -> np.dtype:
    """float32 or float64 as a NumPy dtype; any other raises."""
    found = np.dtype(dtype)
    if found not in (np.dtype("float32"), np.dtype("float64")):
        raise TypeError(f"dtype: got {found}, expected 'float32' or 'float64'")
    return found


def positive_int(what: str, value: Any, least: int = 1) -> int:
    """A whole number of at least `least` as an int; all else (True too) raises and names `what`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{what} must be a whole number of at least {least}, got {value!r}")
    return int(value)
