"""Is a backward of your own right, or the gradient of a loss?  Plain functions, no base class."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from ..kernels.arrays import Array
from . import calls
from .differences import Point, compare_arrays, curves
from .explain_functions import explain_function, explain_loss
from .report import Report

__all__ = ["check_function", "check_loss"]

#: Arrays of up to so many entries are compared entry by entry.
ENTRIES = 40


def check_function(
    forward: Callable[..., Any],
    backward: Callable[..., Any],
    inputs: Any,
    params: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    entries: int = ENTRIES,
) -> Report:
    """Check a backward of your own against differences of its forward.

    Parameters
    ----------
    forward : ``forward(x, **params) -> (y, cache)``.
    backward : ``backward(d_y, cache) -> (d_x, grads)``: the gradient of the input in the input's
        form, and a dict of the parameters' gradients by name (``{}`` if there are none).
    inputs : what `forward` takes first: an array, a tuple (``forward(a, b, **params)``) or a dict
        of arrays (``forward(**inputs, **params)``); d_x has the same form.
    params : a dict of arrays or numbers, by name.
    seed : of the weights ``d_y`` that make one number of the output, and of what else is drawn.
    entries : arrays of up to so many entries are compared entry by entry, larger ones at so many
        and along random directions.

    Returns
    -------
    report : as for :func:`minisnn.checks.check_grads`.  Its `problems` say if a function raises,
        returns too many or too few values, a wrong shape or NaN, or writes into its input.

    Raises
    ------
    TypeError : an input or a parameter is not float64.
    """
    report = Report(f"gradients of {calls.name_of(forward)}, {calls.name_of(backward)}")
    pair = Function(forward, backward, inputs, dict(params or {}), report.problems)
    with calls.reported(report.problems):
        point, rng = pair.at(pair.arrays, [seed, 23]), np.random.default_rng([seed, 29])
        report.rows = compare_arrays("function", point, rng, entries=entries, prefix="d_")
        report.pictures["v curve"] = curves(point, rng)
    explain_function(report, pair.at, pair.arrays, seed)
    return report


class Function:
    """A user's pair of functions; calls get copies, and what they do wrong goes to `problems`."""

    def __init__(
        self, forward: Callable, backward: Callable, inputs: Any, params: Any, problems: list[str]
    ) -> None:
        self._forward, self._backward, self.problems = forward, backward, problems
        named = _by_name(inputs, "x")
        if double := set(named) & set(params):
            raise ValueError(f"check_function: {sorted(double)} is both an input and a parameter")
        self.kind, self.inputs, self.params = type(inputs), list(named), list(params)
        given = {**named, **params}
        self.scalars = {n for n, a in given.items() if isinstance(a, int | float)}
        self.arrays = {n: _float64(a, n) for n, a in given.items()}

    def forward(self, arrays: Mapping[str, Array]) -> tuple[Any, dict[str, Array], Any]:
        """What it returns first, the same by name (one array: ``"y"``), and the cache."""
        own = {n: float(a) if n in self.scalars else a.copy() for n, a in arrays.items()}
        forward = partial(self._forward, **own)
        if not issubclass(self.kind, Mapping):
            rest = {n: own[n] for n in self.params}
            forward = partial(self._forward, *(own[n] for n in self.inputs), **rest)
        y, cache = calls.watched(forward, "forward", "(y, cache)", self.problems, own)
        return y, {n: calls.as_numbers(v, n) for n, v in _by_name(y, "y").items()}, cache

    def at(self, arrays: dict[str, Array], seeds: list[int]) -> Point:
        """The gradients at these arrays of the outputs with random weights ``d_y``."""
        y, named_y, cache = self.forward(arrays)
        d_y = {n: np.random.default_rng(seeds).normal(size=v.shape) for n, v in named_y.items()}
        above: Any = {n: d.copy() for n, d in d_y.items()}
        if isinstance(y, tuple | list):
            above = tuple(above.values())
        elif not isinstance(y, Mapping):
            above = above["y"] if above["y"].shape else float(above["y"])
        backward, watch = partial(self._backward, above, cache), {"d_y": above, "cache": cache}
        d_x, grads = calls.backward_of(backward, self.problems, watch)
        inputs, params = ({n: arrays[n] for n in names} for names in (self.inputs, self.params))
        named = {"x": d_x}
        if issubclass(self.kind, tuple | list | Mapping):
            named = calls.named_gradients(d_x, inputs, "backward, as d_x,")
        named |= calls.named_gradients(grads if params or grads else {}, params, "backward")

        def value(moved: Mapping[str, Array]) -> tuple[float, None]:
            _, outputs, _ = self.forward(moved)
            return float(sum((v * d_y[n]).sum() for n, v in outputs.items())), None

        return Point(value, arrays, calls.as_gradients(named, arrays), named_y, d_y)


def _by_name(values: Any, name: str) -> dict[str, Any]:
    """A dict as it is, a tuple as ``x0``, ``x1``, ..., one value as ``x``."""
    if isinstance(values, tuple | list):
        return {f"{name}{i}": value for i, value in enumerate(values)}
    return dict(values) if isinstance(values, Mapping) else {name: values}


def _float64(value: Any, name: str) -> Array:
    array = np.asarray(value)
    if array.dtype == np.float64 or isinstance(value, int | float):
        return array.astype(np.float64)
    hint = "only floats can be shifted"
    if array.dtype.kind == "f":
        hint = "single precision cannot tell a wrong gradient from rounding"
    raise TypeError(f"{name} has dtype {array.dtype}: use {name}.astype('float64'); {hint}")


def check_loss(
    loss: Callable[..., Any], scores: Array, targets: Any, *, seed: int = 0, entries: int = ENTRIES
) -> Report:
    """Check that the gradient a loss returns is its derivative.

    Parameters
    ----------
    loss : ``loss(scores, targets) -> (number, d_scores)``.
    scores, targets : where to check it; scores are float64 ``[B, C]``.
    seed, entries : as for :func:`check_function`, and so are the report and what is raised.
    """
    scores = _float64(scores, "scores")
    report = Report(f"gradient of the loss {calls.name_of(loss)}")

    def run(at: Array, aims: Any) -> tuple[float, Array]:
        watch, names = {"scores": (at := at.copy()), "targets": aims}, "(number, d_scores)"
        made = partial(loss, at, aims)
        number, d_scores = calls.watched(made, "the loss", names, report.problems, watch)
        if np.shape(number) != () or not np.isfinite(number):
            raise calls.Broken(f"the loss returns {number!r}, expected one finite number")
        return float(number), calls.as_gradient(d_scores, at, "d_scores from the loss")

    def value(arrays: Mapping[str, Array]) -> tuple[float, None]:
        return run(arrays["scores"], arrays["targets"])[0], None

    def point(at: Array, aims: Any) -> Point:
        return Point(value, {"scores": at, "targets": aims}, {"scores": run(at, aims)[1]})

    with calls.reported(report.problems):
        at, rng = point(scores, targets), np.random.default_rng([seed, 29])
        report.rows = compare_arrays("loss", at, rng, entries=entries, prefix="d_")
    explain_loss(report, point, scores, targets, seed)
    return report
