"""Is a backward of your own right, or the gradient of a loss?  Plain functions, no base class."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ..kernels.arrays import Array
from . import calls
from .differences import compare_arrays, curves
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
    inputs : what `forward` takes first: an array, a tuple of arrays (``forward(a, b, **params)``,
        d_x a tuple likewise), or a dict of arrays (``forward(**inputs, **params)``, d_x a dict
        likewise).
    params : a dict of arrays or numbers, by name.
    seed : of the weights ``d_y`` that make one number of the output, and of directions and entries
        drawn.
    entries : arrays of up to so many entries are compared entry by entry, larger ones at so many
        and along random directions.

    Returns
    -------
    report : as for :func:`minisnn.checks.check_grads`.  A derivation that raises, returns too many
        or too few values, a wrong shape or NaN, or writes into its input is reported in `problems`.

    Raises
    ------
    TypeError : an input or a parameter is not float64.
    """
    report = Report(f"gradients of {calls.name_of(forward)}, {calls.name_of(backward)}")
    subject = Function((forward, backward), inputs, dict(params or {}), report.problems)
    arrays = subject.arrays
    with calls.reported(report.problems):
        point = subject.at(arrays, [seed, 23])

        def value(moved: Mapping[str, Array]) -> tuple[float, None]:
            return subject.weighted(moved, point.d_y), None

        rng = np.random.default_rng([seed, 29])
        rows = compare_arrays("function", value, arrays, point.yours, rng, entries=entries)
        report.rows = [replace(row, name=f"d_{row.name}") for row in rows]
        report.pictures["v curve"] = curves(value, arrays, point.yours, rng)
    explain_function(report, subject, seed)
    return report


class Point(NamedTuple):
    """Inputs and parameters, outputs, their weights, and the gradients returned, all by name."""

    arrays: dict[str, Array]
    y: dict[str, Array]
    d_y: dict[str, Array]
    yours: dict[str, Array]


class Function:
    """A user's pair of functions, called with copies and watched; what goes wrong is noted."""

    def __init__(
        self, functions: tuple[Callable, Callable], inputs: Any, params: Any, problems: list[str]
    ) -> None:
        (self._forward, self._backward), self.problems = functions, problems
        named = {"x": inputs}
        if isinstance(inputs, tuple | list):
            named = {f"x{i}": a for i, a in enumerate(inputs)}
        elif isinstance(inputs, Mapping):
            named = dict(inputs)
        if double := set(named) & set(params):
            raise ValueError(f"check_function: {sorted(double)} is both an input and a parameter")
        self.by_name = isinstance(inputs, Mapping)
        self.alone = not isinstance(inputs, tuple | list | Mapping)
        self.inputs, self.params = list(named), list(params)
        given = named | params
        self.scalars = {n for n, a in given.items() if isinstance(a, int | float)}
        self.arrays = {n: _float64(a, n) for n, a in given.items()}

    def forward(self, arrays: Mapping[str, Array]) -> tuple[dict[str, Array], Any]:
        """Outputs by name (one array: ``"y"``) and cache."""
        own = {n: float(a) if n in self.scalars else a.copy() for n, a in arrays.items()}
        named, first = dict(own), []
        if not self.by_name:
            first = [named.pop(n) for n in self.inputs]
        forward = partial(self._forward, *first, **named)
        y, cache = calls.forward_of(forward, own, self.problems, "(y, cache)")
        self.kind = type(y) if isinstance(y, tuple | list | Mapping) else None
        found = {"y": y} if self.kind is None else y
        if isinstance(y, tuple | list):
            found = {f"y{i}": v for i, v in enumerate(y)}
        return {n: _finite(v, n) for n, v in found.items()}, cache

    def weighted(self, arrays: Mapping[str, Array], d_y: Mapping[str, Array]) -> float:
        """The outputs as one number, whose gradient `backward` returns for `d_y`."""
        y, _ = self.forward(arrays)
        return float(sum((v * d_y[n]).sum() for n, v in y.items()))

    def at(self, arrays: dict[str, Array], seeds: list[int]) -> Point:
        """Outputs at these arrays, random weights ``d_y`` of them, and the gradients for these."""
        y, cache = self.forward(arrays)
        d_y = {n: np.random.default_rng(seeds).normal(size=v.shape) for n, v in y.items()}
        handed: Any = {n: d.copy() for n, d in d_y.items()}
        if self.kind is None:
            handed = handed["y"] if handed["y"].shape else float(handed["y"])
        elif not issubclass(self.kind, Mapping):
            handed = tuple(handed.values())
        backward, watch = partial(self._backward, handed, cache), {"d_y": handed, "cache": cache}
        d_x, grads = calls.backward_of(backward, watch, self.problems)
        inputs, params = ({n: arrays[n] for n in names} for names in (self.inputs, self.params))
        named = {"x": d_x}
        if not self.alone:
            named = calls.named_gradients(d_x, inputs, "backward, as d_x,")
        named |= calls.named_gradients(grads if params or grads else {}, params, "backward")
        return Point(arrays, y, d_y, calls.as_gradients(named, arrays))


def _finite(value: Any, name: str) -> Array:
    array = calls.as_numbers(value, name)
    if not np.isfinite(array).all():
        wrong = "entries that are not finite: it has no gradient at this input"
        raise calls.Broken(f"forward returns {name} with {wrong}")
    return array


def _float64(value: Any, name: str) -> Array:
    array = np.asarray(value)
    if array.dtype == np.float64 or isinstance(value, int | float):
        return array.astype(np.float64)
    hint = "only floats can be shifted"
    if array.dtype.kind == "f":
        hint = "single precision cannot tell a wrong gradient from rounding"
    raise TypeError(f"{name} has dtype {array.dtype}: use {name}.astype('float64'); {hint}")


def check_loss(
    loss: Callable[..., Any],
    scores: Array,
    targets: Any,
    *,
    seed: int = 0,
    entries: int = ENTRIES,
) -> Report:
    """Check that the gradient a loss returns is its derivative.

    Parameters
    ----------
    loss : ``loss(scores, targets) -> (number, d_scores)``.
    scores : where to check it, float64 ``[B, C]``.   targets : as for `loss`.
    seed, entries : as for :func:`check_function`.

    Returns
    -------
    report : as for :func:`check_function`.

    Raises
    ------
    TypeError : `scores` are not float64.
    """
    scores = _float64(scores, "scores")
    report = Report(f"gradient of the loss {calls.name_of(loss)}")

    def run(at: Array, aims: Any, watch: bool = False) -> tuple[float, Array]:
        at = at.copy()
        before = calls.snapshot(scores=at, targets=aims)
        result = calls.call(loss, at, aims, what="the loss")
        value, d_scores = calls.pair(result, "the loss", "(number, d_scores)")
        if watch:
            report.problems += [f"the loss writes into {name}" for name in calls.changed(before)]
        if np.shape(value) != () or not np.isfinite(value):
            raise calls.Broken(f"the loss returns {value!r}, expected one finite number")
        return float(value), calls.as_gradient(d_scores, at, "d_scores from the loss")

    def value(moved: Mapping[str, Array]) -> tuple[float, None]:
        return run(moved["d_scores"], targets)[0], None

    with calls.reported(report.problems):
        at, gradients = {"d_scores": scores}, {"d_scores": run(scores, targets, watch=True)[1]}
        rng = np.random.default_rng([seed, 29])
        report.rows = compare_arrays("loss", value, at, gradients, rng, entries=entries)
    explain_loss(report, run, scores, targets, seed)
    return report
