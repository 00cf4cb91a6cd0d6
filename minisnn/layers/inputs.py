"""What layers take, checked: options, inputs, gradients, caches.  Errors name the layer."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..kernels.arrays import Array, get_array_module, is_steady

__all__ = ["Cache", "as_cache", "as_input", "as_upstream", "at_every_step", "require"]

_SPIKES = np.dtype(np.uint8), np.dtype(bool)
_FLOATS = np.dtype(np.float32), np.dtype(np.float64)


class Cache(SimpleNamespace):
    """What a run of `forward` keeps for `backward`, by name; ``made_with`` tells of which layer."""


def require(ok: Any, what: str, expected: str, got: Any, error: type = ValueError) -> None:
    """Raise the error of an option that is not as expected, unless it is `ok`."""
    if not ok:
        raise error(f"{what} must be {expected}, got {got!r}")


def as_input(x: Any, layer: Any, shape: Any = None, steady: bool = False) -> Array:
    """`x` as a C-contiguous array ``[T, B, *shape]`` of the layer's dtype or of spikes, or raise.

    Entries of `shape` are sizes, or names of sizes that are free; ``None`` admits any shape.
    `steady` : an input that is the same memory at every step (``arrays.is_steady``) stays so.
    """
    if type(x) is not np.ndarray or layer.backend == "cupy" or not x.flags.aligned:
        x = _as_array(x, "x", layer)
    fits, sizes = x.ndim >= 2, x.shape[2:]
    if fits and shape is not None and sizes != shape:
        fits = len(sizes) == len(shape)
        fits = fits and all(isinstance(n, str) or n == m for n, m in zip(shape, sizes, strict=True))
    if not fits or 0 in x.shape[:2] or (x.dtype != layer.dtype and x.dtype not in _SPIKES):
        raise _refusal(x, layer, shape, fits)
    return x if x.flags.c_contiguous or (steady and is_steady(x)) else x.copy()


def _refusal(x: Array, layer: Any, shape: Any, fits: bool) -> Exception:
    """The error of an input that `as_input` does not take."""
    name, dtype, sizes = type(layer).__name__, layer.dtype, x.shape[2:]
    if x.dtype != dtype and x.dtype not in _SPIKES:
        cure = f"use x.astype('{dtype}')"
        cure += f", or net.astype('{x.dtype}')" if x.dtype in _FLOATS else ""
        expected = f"expected {dtype}, or spikes as uint8 or bool"
        return TypeError(f"{name}: x has dtype {x.dtype}, {expected}: {cure}")
    got = f"{name}: x has shape {list(x.shape)}"
    if fits:
        empty = "no time steps (T = 0)" if x.shape[0] == 0 else "an empty batch (B = 0)"
        return ValueError(f"{got}: {empty}, expected at least one")
    hint = "minisnn is time-first: did you leave out the time axis, or pass [B, T, ...]?"
    if shape is not None and len(sizes) == len(shape):
        one = f"One sample at one step is {list(sizes)}."
        hint = f"Does the layer below have another size, or the data? {one}"
    wanted = "..." if shape is None else ", ".join(map(str, shape))
    return ValueError(f"{got}, expected [T, B, {wanted}] (time, batch, then one sample). {hint}")


def as_upstream(d: Any, shape: tuple[int, ...], layer: Any, what: str = "d_y") -> Array:
    """A gradient from above: C-contiguous, of the layer's dtype and the output's shape."""
    name, d = type(layer).__name__, _as_array(d, what, layer)
    if d.shape != tuple(shape):
        got = f"{what} has shape {list(d.shape)}, expected {list(shape)}, as forward gave"
        raise ValueError(f"{name}: {got}")
    if d.dtype != layer.dtype:
        got = f"{what} has dtype {d.dtype}, expected {layer.dtype}"
        raise TypeError(f"{name}: {got}: use {what}.astype('{layer.dtype}')")
    return d if d.flags.c_contiguous else d.copy()


def as_cache(cache: Any, layer: Any) -> Any:
    """The cache, if this layer's `forward` made it, and the layer was not changed since."""
    name = type(layer).__name__
    if not isinstance(cache, Cache):
        hint = ""
        if isinstance(cache, Mapping):
            hint = ": of a network's caches take the one by the layer's name, caches['...']"
        elif hasattr(cache, "ndim"):
            hint = ": y, cache = layer.forward(x), then layer.backward(d_y, cache)"
        got = f"cache must be what forward returned, got {type(cache).__name__}"
        raise TypeError(f"{name}: {got}{hint}")
    was, now = cache.made_with, layer.made_with()
    if was != now:
        differ = [(a, b) for a, b in zip(was, now, strict=False) if a != b] or [(was, now)]
        what = ", ".join(f"made with {a!r}, the layer has {b!r}" for a, b in differ)
        other = "the cache is that of another layer, or the layer was changed after forward"
        raise ValueError(f"{name}: {other}: {what}")
    return cache


def at_every_step(y: Array, steps: int) -> Array:
    """``[T, B, ...]`` from the one step that was computed of a steady input; else `y` itself."""
    return y if len(y) == steps else np.broadcast_to(y, (steps, *y.shape[1:]))


def _as_array(value: Any, what: str, layer: Any) -> Array:
    """`value` as an aligned array, if it is on the layer's device: a layer moves no arrays."""
    on_gpu, name = layer.backend == "cupy", type(layer).__name__
    if on_gpu == (get_array_module(value) is not np):
        return value if on_gpu else np.require(np.asarray(value), requirements="A")
    wrong = f"on the CPU, {what} is on the GPU: {what}.get(); or the layer's using('cupy')"
    if on_gpu:
        wrong = f"on the GPU, {what} is not: cupy.asarray({what}); or the layer's using('numba')"
    raise TypeError(f"{name} is {wrong}")
