"""Calls of a derivation that may misbehave: whatever it does wrong is named, and none of our frames is in the way."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ..kernels.arrays import Array

__all__ = [
    "Broken", "arrays_in", "as_gradient", "call", "changed", "name_of", "named_gradients", "pair", "same_bits", "snapshot",
    "watched",
]  # fmt: skip

PACKAGE = str(Path(__file__).parent.parent)


class Broken(Exception):
    """A derivation could not be compared; the message says why, in its author's terms."""


def call(function: Callable[..., Any], *args: Any, what: str, **kwargs: Any) -> Any:
    """``function(*args, **kwargs)``; an exception in it becomes :class:`Broken`, with its author's line."""
    try:
        with np.errstate(all="ignore"):
            return function(*args, **kwargs)
    except (Exception, SystemExit) as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(PACKAGE)]
        frames = [f for f in frames if not f.filename.startswith(("<string>", "<frozen"))] or frames
        frames = [f for f in frames if "site-packages" not in f.filename] or frames
        where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno}: {frames[-1].line})" if frames else ""
        raise Broken(f"{what} raises {type(error).__name__}: {error}{where}") from None


def pair(value: Any, what: str, names: str) -> tuple[Any, Any]:
    """`value` if it is a pair; else what it is."""
    if not isinstance(value, tuple | list):
        raise Broken(f"{what} returns one {type(value).__name__}, expected two values: {names}")
    if len(value) != 2:
        raise Broken(f"{what} returns {len(value)} values, expected two: {names}")
    return value[0], value[1]


def as_gradient(value: Any, like: Array, what: str) -> Array:
    """`value` as a gradient of `like`: numbers of its shape, none of them NaN or infinite; else :class:`Broken`."""
    if value is None:
        raise Broken(f"{what} is None, expected an array of shape {list(like.shape)}")
    try:
        array = np.asarray(value)
    except Exception as error:
        raise Broken(f"{what} is no array: {type(error).__name__}: {error}") from None
    if array.dtype.kind not in "fiub" or (array.dtype.kind == "f" and array.dtype.itemsize < 8):
        hint = ": compute in float64, single precision cannot tell a wrong gradient from rounding"
        raise Broken(f"{what} has dtype {array.dtype}, expected float64" + hint * (array.dtype.kind == "f"))
    if array.shape != like.shape:
        hint = ""
        if array.shape == like.T.shape:
            hint = ": transposed?"
        elif array.size == like.size:
            hint = ": the right number of entries in another shape"
        elif len(array.shape) > len(like.shape):
            hint = ": is a sum over the shared axes (time, batch) missing?"
        elif len(array.shape) < len(like.shape):
            hint = ": summed over an axis too many?"
        raise Broken(f"{what} has shape {list(array.shape)}, expected {list(like.shape)}{hint}")
    if not np.isfinite(array).all():
        bad = np.argwhere(~np.isfinite(array))
        at = ", ".join(map(str, bad[0])) or "all of it"
        raise Broken(f"{what} holds {array[tuple(bad[0])]} at [{at}] ({len(bad)} of {array.size} entries are not finite)")
    return array.astype(np.float64)


def named_gradients(value: Any, params: Mapping[str, Array], what: str) -> dict[str, Any]:
    """A dict of gradients by the parameters' names (or one value for each, in their order); else :class:`Broken`."""
    if isinstance(value, tuple | list) and len(value) == len(params):
        return dict(zip(params, value, strict=True))
    if not isinstance(value, Mapping):
        expected = f"a dict with the keys {list(params)}" if params else "an empty dict: there are no parameters"
        raise Broken(f"{what} returns {type(value).__name__} as its gradients of the parameters, expected {expected}")
    if missing := [n for n in params if n not in value]:
        raise Broken(f"{what} returns no gradient for {', '.join(map(repr, missing))}; it has {list(value)}")
    if unknown := [n for n in value if n not in params]:
        raise Broken(f"{what} returns gradients for {unknown}, which are no parameters; expected {list(params)}")
    return dict(value)


# -- who writes where


def arrays_in(value: Any, name: str, depth: int = 6) -> dict[str, Array]:
    """Every array inside tuples, lists, dicts and objects, by the path that leads to it."""
    if isinstance(value, np.ndarray):
        return {name: value}
    if depth == 0 or isinstance(value, str | bytes | int | float | type(None) | type | ModuleType):
        return {}
    if isinstance(value, Mapping):
        inside = {f"{name}[{k!r}]": v for k, v in value.items()}
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        inside = {f"{name}.{k}": v for k, v in zip(value._fields, value, strict=True)}
    elif isinstance(value, tuple | list):
        inside = {f"{name}[{i}]": v for i, v in enumerate(value)}
    else:
        inside = {f"{name}.{k}": v for k, v in getattr(value, "__dict__", {}).items()}
    return {k: a for n, v in inside.items() for k, a in arrays_in(v, n, depth - 1).items()}


def snapshot(**values: Any) -> dict[str, tuple[Array, bytes]]:
    """The bits of every array in `values`, to be handed to :func:`changed`."""
    return {n: (a, a.tobytes()) for name, value in values.items() for n, a in arrays_in(value, name).items()}


def changed(before: dict[str, tuple[Array, bytes]]) -> list[str]:
    """Names of the arrays that are no longer what they were."""
    return [name for name, (array, bits) in before.items() if array.tobytes() != bits]


def same_bits(a: Any, b: Any) -> bool:
    """Whether two results hold the same arrays, bit for bit."""
    first, second = (
        {n: np.asarray(v).tobytes() for n, v in arrays_in([np.asarray(a) if np.isscalar(a) else a], "").items()}
        for a in (a, b)
    )
    return first == second


def watched(backward: Callable[[], Any], before: dict[str, tuple[Array, bytes]], problems: list[str]) -> Any:
    """What `backward` returns; that it writes into the arrays of `before`, or is another the second time, to `problems`."""
    first = call(backward, what="backward")
    written = changed(before)
    problems += [f"backward writes into {name}" for name in written]
    if not written and not same_bits(first, call(backward, what="backward, called a second time,")):
        problems.append("backward returns other bits when it is called a second time on the same cache")
    return first


def name_of(function: Any) -> str:
    """What to call a function, or an object that is called like one."""
    return getattr(function, "__name__", type(function).__name__)
