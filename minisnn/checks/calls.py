"""Calls of a derivation that may misbehave: what it does wrong is named, in its author's terms."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ..kernels.arrays import Array

PACKAGE = str(Path(__file__).parent.parent)


class Broken(Exception):
    """A derivation could not be compared; the message says why."""


@contextmanager
def reported(problems: list[str]) -> Iterator[None]:
    """In this context :class:`Broken` becomes one of the `problems`; each is there once."""
    try:
        yield
    except Broken as error:
        problems.append(str(error))
    finally:
        problems[:] = dict.fromkeys(problems)


def call(function: Callable[..., Any], *args: Any, what: str, **kwargs: Any) -> Any:
    """``function(*args, **kwargs)``; an exception in it becomes :class:`Broken`, with its line."""
    try:
        with np.errstate(all="ignore"):
            return function(*args, **kwargs)
    except (Exception, SystemExit) as error:
        place, frames = "", [*traceback.extract_tb(error.__traceback__)]
        frames = [f for f in frames if not f.filename.startswith(PACKAGE)]
        for others in ("<string>", "<frozen", "site-packages"):
            frames = [f for f in frames if others not in f.filename] or frames
        if frames:
            last = frames[-1]
            place = f" ({Path(last.filename).name}, line {last.lineno}: {last.line})"
        raise Broken(f"{what} raises {type(error).__name__}: {error}{place}") from None


def pair(value: Any, what: str, names: str) -> tuple[Any, Any]:
    """`value` if it is a pair; else :class:`Broken` says what it is."""
    if not isinstance(value, tuple | list):
        raise Broken(f"{what} returns one {type(value).__name__}, expected two values: {names}")
    if len(value) != 2:
        raise Broken(f"{what} returns {len(value)} values, expected two: {names}")
    return value[0], value[1]


def as_gradient(value: Any, like: Array, what: str) -> Array:
    """`value` as a gradient of `like`: finite float64 numbers of its shape, or :class:`Broken`."""
    if value is None:
        raise Broken(f"{what} is None, expected an array of shape {list(like.shape)}")
    try:
        array = np.asarray(value)
    except Exception as error:
        raise Broken(f"{what} is no array: {type(error).__name__}: {error}") from None
    single = array.dtype.kind == "f" and array.dtype.itemsize < 8
    if array.dtype.kind not in "fiub" or single:
        hint = ": compute in float64, single precision cannot tell a wrong gradient from rounding"
        raise Broken(f"{what} has dtype {array.dtype}, expected float64" + hint * single)
    if array.shape != like.shape:
        shapes = f"{list(array.shape)}, expected {list(like.shape)}"
        raise Broken(f"{what} has shape {shapes}{_shape_hint(array, like)}")
    if not np.isfinite(array).all():
        bad = np.argwhere(~np.isfinite(array))
        at = ", ".join(map(str, bad[0])) or "all of it"
        count = f"{len(bad)} of {array.size} entries are not finite"
        raise Broken(f"{what} holds {array[tuple(bad[0])]} at [{at}] ({count})")
    return array.astype(np.float64)


def as_numbers(value: Any, name: str, expected: str = "an array of numbers") -> Array:
    """What `forward` returns as `name`, finite and in float64; or :class:`Broken`."""
    try:
        array = np.asarray(value, np.float64)
    except Exception:
        what = f"{type(value).__name__} as {name}, expected {expected}"
        raise Broken(f"forward returns {what}") from None
    if not np.isfinite(array).all():
        wrong = "entries that are not finite: it has no gradient at this input"
        raise Broken(f"forward returns {name} with {wrong}")
    return array


def as_gradients(named: Mapping[str, Any], like: Mapping[str, Array]) -> dict[str, Array]:
    """What `backward` returned by name as gradients of the arrays `like`."""
    return {n: as_gradient(named[n], a, f"d_{n} from backward") for n, a in like.items()}


def _shape_hint(array: Array, like: Array) -> str:
    if array.shape == like.T.shape:
        return ": transposed?"
    if array.size == like.size:
        return ": the right number of entries in another shape"
    if array.ndim > like.ndim:
        return ": is a sum over the shared axes (time, batch) missing?"
    return ": summed over an axis too many?" if array.ndim < like.ndim else ""


def named_gradients(value: Any, params: Mapping[str, Array], what: str) -> dict[str, Any]:
    """Gradients by the parameters' names, given by name or in their order; or :class:`Broken`."""
    names = list(params)
    if isinstance(value, tuple | list) and len(value) == len(params):
        return dict(zip(params, value, strict=True))
    if not isinstance(value, Mapping):
        expected = f"a dict with the keys {names}" if names else "{}, as there are no parameters"
        kind = f"{type(value).__name__} as its gradients of the parameters"
        raise Broken(f"{what} returns {kind}, expected {expected}")
    if missing := ", ".join(repr(n) for n in params if n not in value):
        raise Broken(f"{what} returns no gradient for {missing}; it has {list(value)}")
    if unknown := [n for n in value if n not in params]:
        wrong = f"{unknown}, which are no parameters"
        raise Broken(f"{what} returns gradients for {wrong}; expected {names}")
    return dict(value)


# -- arrays that change


def bits(value: Any, name: str = "", depth: int = 7) -> dict[str, bytes]:
    """The bits of every array inside tuples, lists, dicts and objects, by the path to it."""
    if isinstance(value, np.ndarray | float):
        return {name: np.asarray(value).tobytes()}
    if depth == 0 or isinstance(value, str | bytes | int | type | ModuleType | None):
        return {}
    if isinstance(value, Mapping):
        inside = {f"{name}[{k!r}]" if name else str(k): v for k, v in value.items()}
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        inside = {f"{name}.{k}": getattr(value, k) for k in value._fields}
    elif isinstance(value, tuple | list):
        inside = {f"{name}[{i}]": v for i, v in enumerate(value)}
    else:
        inside = {f"{name}.{k}": v for k, v in getattr(value, "__dict__", {}).items()}
    return {k: b for n, v in inside.items() for k, b in bits(v, n, depth - 1).items()}


def watched(
    function: Callable[[], Any], what: str, names: str, problems: list[str], watch: dict[str, Any]
) -> tuple[Any, Any]:
    """The pair that `function` returns; if it writes into arrays of `watch`, that is a problem."""
    before = bits(watch)
    found = call(function, what=what)
    after = bits(watch)
    problems += [f"{what} writes into {n}" for n in before if before[n] != after.get(n)]
    return pair(found, what, names)


def backward_of(
    backward: Callable[[], Any], problems: list[str], watch: dict[str, Any]
) -> tuple[Any, Any]:
    """The same of a backward, which has to return the same bits when it is called again."""
    noted, again = len(problems), "called a second time"
    found = watched(backward, "backward", "(d_x, grads)", problems, watch)
    if len(problems) == noted and bits(found) != bits(call(backward, what=f"backward, {again},")):
        problems.append(f"backward returns other bits when it is {again} on the same cache")
    return found


def name_of(function: Any) -> str:
    """What to call a function, or an object that is called like one."""
    return getattr(function, "__name__", type(function).__name__)
