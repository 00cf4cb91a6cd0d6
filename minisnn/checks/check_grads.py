"""Are the gradients of a whole network right?  On its own backend, on all twins, by differences."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from ..kernels.arrays import Array
from ..layers.base import Layer
from ..network import Caches, Network
from .calls import (
    Broken,
    as_gradient,
    call,
    changed,
    named_gradients,
    pair,
    reported,
    same_bits,
    snapshot,
    watched,
)
from .differences import compare_arrays
from .explain_layers import Subject, explain
from .report import Report, Row
from .twins import TWINS, run_twin, with_slope_zero

__all__ = ["check_grads", "check_layer"]

Loss = Callable[[Array, Any], tuple[float, Array]]


def check_grads(
    net: Network,
    x: Array,
    targets: Any,
    loss: Loss,
    *,
    seed: int = 0,
    directions: int = 2,
    entries: int = 0,
    twins: tuple[str, ...] = tuple(TWINS),
    train: bool = False,
    rng: np.random.Generator | None = None,
    masks: Mapping[str, Array] | None = None,
) -> Report:
    """Compare every gradient of a network with differences through its twins.

    For each parameter, the input and each state at the start, the derivative of the loss (and of a
    random weighting of the last states) along random directions, in which every entry takes part,
    is compared with ``sum(gradient * direction)``.  If one is wrong, every layer and the loss are
    looked at by themselves, and the one at fault is named with its mistake.  ``loss_and_grads``,
    which ``fit`` calls, has to give what ``backward`` gives.

    Parameters
    ----------
    net : a float64 network (``net.astype("float64")``: single precision cannot tell a wrong
        gradient from rounding).
    x : input ``[T, B, ...]``.   targets, loss : as in training,
        ``loss(scores, targets) -> (number, d_scores)``.
    seed, directions : the directions drawn.
    entries : compare single entries: all of arrays up to that size, in place of directions;
        besides them, that many of larger ones, and no fewer than 24.
    twins : which of "smooth", "tangent", "slope 0".  The last one has a loss of its own, on the
        last membranes.  "real" shows why there are twins: differences of the spiking network
        itself are 0 almost everywhere, and are refused.
    train, rng, masks : as in ``forward``.  Dropout needs `rng` or `masks`: what is drawn is then
        held for all differences.

    Returns
    -------
    report : a row passes if ``|difference| <= max(1e-7 * scale, 10 * estimated error)``, scale =
        norm of gradient * norm of direction; a row whose estimated error is too large to decide
        anything does not pass.

    Raises
    ------
    TypeError : not a network, or not of float64.
    ValueError : it is on a GPU, a twin is unknown, dropout has nothing to hold, or its states
        overflow on `x`.
    """
    _refuse(net, x, twins, train, rng, masks)
    x = np.array(x, np.float64)
    options: dict[str, Any] = {"train": train} | ({} if masks is None else {"masks": masks})
    spiking = any(layer.spiking for layer in net.layers.values())
    report = Report(f"gradients of a network of {len(net.layers)} layers on {net.backend}")
    with reported(report.problems):
        if spiking and masks is None:
            x, report.notes = _tame(net, x, options, rng)
        for twin in twins if spiking else ("smooth",):
            draws = np.random.default_rng(seed)
            problem = _Problem(net, x, targets, loss, twin, draws, options, rng, report.problems)
            report.rows += problem.rows_off_kinks(directions, entries)
        _compare_calls(net, x, targets, loss, options, rng, report)
    of_loss = None if loss is weighting else loss
    explain(report, Subject(net, x, targets, of_loss, options, rng))
    return report


def check_layer(layer: Layer, x: Array, *, seed: int = 0, **options: Any) -> Report:
    """Compare the gradients of one float64 layer with differences.

    The loss is a random weighting of its output.  Any subclass of ``ms.Layer`` will do, spiking or
    not.  `options` are those of :func:`check_grads`, and so is the report.
    """
    if not isinstance(layer, Layer):
        expected = f"expected a ms.Layer, got {layer!r}; plain functions go to check_function"
        raise TypeError(f"check_layer(layer, x): {expected}")
    _only_float64("check_layer", "layer", layer.dtype)
    weights = np.random.default_rng([seed, 1])
    report = check_grads(Network(layer=layer), x, weights, weighting, seed=seed, **options)
    report.title = f"gradients of {type(layer).__name__} on {layer.backend}"
    return report


def weighting(y: Array, weights: Any) -> tuple[float, Array]:
    """A loss for a single layer: its output, weighted at random but always alike."""
    weights = copy.deepcopy(weights).normal(size=np.shape(y))
    return float(np.sum(y * weights)), weights


# -- before anything is compared


def _only_float64(check: str, what: str, dtype: np.dtype) -> None:
    if dtype != np.dtype("float64"):
        raise TypeError(
            f"{check}: the {what} is {dtype}; differences need {check}({what}.astype('float64'), "
            "...): single precision cannot tell a wrong gradient from rounding"
        )


def _refuse(net: Any, x: Any, twins: tuple[str, ...], train: bool, rng: Any, masks: Any) -> None:
    if not isinstance(net, Network):
        expected = (
            f"expected a ms.Network, got {net!r}; a single layer goes to check_layer(layer, x)"
        )
        raise TypeError(f"check_grads: {expected}")
    _only_float64("check_grads", "net", net.dtype)
    if net.backend == "cupy":
        cure = "the checks run on the CPU: net.using('numpy')"
        raise ValueError(f"check_grads: the network is on a GPU, {cure}")
    if unknown := [t for t in twins if t not in (*TWINS, "real")]:
        expected = f"expected some of {[*TWINS, 'real']}"
        raise ValueError(f"check_grads: unknown twins {unknown}, {expected}")
    drawn = ", ".join(n for n, layer in net.layers.items() if layer.takes_mask)
    norms = ", ".join(n for n, layer in net.layers.items() if layer.buffers)
    if train and rng is None and masks is None and drawn:
        raise ValueError(
            f"check_grads: {drawn} drops at random: without a mask that is held, each difference "
            "sees another network. Give rng=np.random.default_rng(0) (one mask is drawn and held), "
            "or masks={...}"
        )
    if train and np.shape(x)[1:2] == (1,) and norms:
        raise ValueError(
            f"check_grads: {norms} takes statistics of a batch, and those of one sample say "
            "nothing (its deviation from itself is 0 whatever the input): give x at least two "
            "samples"
        )


def _tame(net: Network, x: Array, options: Mapping[str, Any], rng: Any) -> tuple[Array, list[str]]:
    """An input on which nothing overflows: `x`, or a weaker or shorter one, and a note of it."""
    smooth, sizes = net.smoothed(), (1.0, 0.3, 0.1, 0.03)
    tries = [(steps, scale) for steps in (len(x), 3) for scale in sizes]
    for limit in (1e6, 1e60):
        for steps, scale in tries:
            tamed = scale * x[:steps]
            if max(_size(run, tamed, options, rng) for run in (net, smooth)) <= limit:
                note = f"the neurons overflow on x: checked on {scale:g} * x[:{steps}]"
                return tamed, [note] if (steps, scale) != tries[0] else []
    raise ValueError(
        "check_grads: the network's states overflow, even on 0.03 * x and 3 steps: nothing can be "
        "compared. Are its weights or a neuron's parameters far too large?"
    )


def _size(net: Network, x: Array, options: Mapping[str, Any], rng: Any) -> float:
    """The largest state of a run that goes on where a run has ended; infinite if it overflows."""
    start: dict[str, Any] = {}
    for _ in range(2):
        result = call(net.forward, x, rng=copy.deepcopy(rng), what="forward", **options, **start)
        _, caches = pair(result, "forward", "(scores, caches)")
        start = {"state": caches.state} if caches.state else {}
    states = [v for c in caches.state.values() for v in c.values()]
    largest = max((float(np.max(np.abs(v))) for v in states), default=0.0)
    return float(np.nan_to_num(largest, nan=np.inf))


def _compare_calls(
    net: Network, x: Array, targets: Any, loss: Loss, options: dict, rng: Any, report: Report
) -> None:
    """``loss_and_grads``, which ``fit`` calls, against forward and backward."""
    run = {"rng": rng, **options}
    scores, caches = call(net.forward, x, what="forward", **copy.deepcopy(run))
    d_scores = _gradient_of_loss(loss, scores, targets)
    _, grads = call(net.backward, d_scores, caches, input_grad=False, what="backward")
    fit = call(net.loss_and_grads, x, targets, loss, what="loss_and_grads", **copy.deepcopy(run))
    least = 1e-12 * max((float(np.max(np.abs(d))) for d in grads.values()), default=0.0)
    found = {n: np.allclose(fit[1][n], d, 1e-9, least) for n, d in grads.items()}
    if differing := ", ".join(n for n, same in found.items() if not same):
        what = "loss_and_grads, which fit calls, gives other gradients than backward"
        report.problems.append(f"{what}: {differing}")


def _gradient_of_loss(loss: Loss, scores: Array, targets: Any) -> Array:
    result = call(loss, scores, targets, what="the loss")
    return pair(result, "the loss", "(number, d_scores)")[1]


# -- one twin


class _Problem:
    """One twin of a network at one input: its value as a function of all arrays, its gradients."""

    def __init__(
        self,
        net: Network,
        x: Array,
        targets: Any,
        loss: Loss,
        twin: str,
        rng: np.random.Generator,
        options: dict[str, Any],
        draws: Any,
        problems: list[str],
    ) -> None:
        self.x, self.targets, self.loss, self.twin, self.rng = x, targets, loss, twin, rng
        self.options, self.draws, self.problems = options, draws, problems
        self.fire = {**TWINS, "real": "step"}[twin]
        changed = {"smooth": net.smoothed, "slope 0": lambda: with_slope_zero(net)}
        self.run = changed.get(twin, lambda: net)()
        self.shifted = self.run.astype("float64")  # a copy: the net under check is never touched

    def rows_off_kinks(self, directions: int, entries: int) -> list[Row]:
        """The rows of this twin; if a kink lies at the very point, those of a point beside it."""
        start = self.x
        for _ in range(4):
            rows = self.rows(directions, entries)
            decided = all(row.verdict in ("ok", "WRONG", "REFUSED") for row in rows)
            if decided or self.problems:
                break
            self.x = start + 1e-3 * self.rng.normal(size=start.shape)
        return rows

    def rows(self, directions: int, entries: int) -> list[Row]:
        scores, base, state = self._forward()
        weights = {n: self._weigh(c) for n, c in base.state.items() if self.twin != "real"}
        arrays = {**self.shifted.params(), "x": self.x}
        starts = {f"{n}.{s}[0]": v for n, c in state.items() for s, v in c.items()}
        arrays |= {n: v for n, v in starts.items() if v.dtype == np.float64}
        arrays = {n: a.copy() for n, a in arrays.items()}

        def value(moved: Mapping[str, Array]) -> tuple[float, Array]:
            for name, live in self.shifted.params().items():
                live[...] = moved[name]
            start = {
                n: {s: moved.get(f"{n}.{s}[0]", v) for s, v in c.items()} for n, c in state.items()
            }
            run = (self.shifted, moved["x"], base, self.fire, start)
            y, caches = call(run_twin, *run, what="forward")
            pairs = [(caches.state[n][s], w) for n, c in weights.items() for s, w in c.items()]
            total = sum(float(np.sum(v * w)) for v, w in pairs)
            if self.twin != "slope 0":
                total += float(call(self.loss, y, self.targets, what="the loss")[0])
            return total, _sides(self.shifted, caches)

        if self.twin != "real":
            first, again = value(arrays)[0], value(arrays)[0]
            if abs(first - again) > 1e-9 * abs(again):
                cure = "a twin of a layer that draws must hold what its base run drew"
                raise Broken(f"forward draws anew at every run: {cure}")
        gradients = self._backward(scores, base, weights, arrays)
        return compare_arrays(self.twin, value, arrays, gradients, self.rng, directions, entries)

    def _weigh(self, state: Mapping[str, Array]) -> dict[str, Array]:
        """Random weights that make terms of about 1 of states of any size: none drowns others."""
        largest = {s: max(1.0, float(np.max(np.abs(v)))) for s, v in state.items()}
        return {s: self.rng.normal(size=np.shape(v)) / largest[s] for s, v in state.items()}

    def _forward(self) -> tuple[Array, Caches, dict[str, dict[str, Array]]]:
        """A run that starts from a state of its own: where a run has ended."""
        x, before = self.x, snapshot(x=self.x, params=self.run.params())

        def forward(**state: Any) -> Any:
            rng = copy.deepcopy(self.draws)
            return call(self.run.forward, x, rng=rng, what="forward", **self.options, **state)

        scores, base = pair(forward(), "forward", "(scores, caches)")
        state = {n: dict(c) for n, c in base.state.items()}
        start = {"state": state} if state else {}
        if start:
            scores, base = forward(**start)
        self.problems += [f"forward writes into {name}" for name in changed(before)]
        if not same_bits(scores, forward(**start)[0]):
            again = "called a second time on the same input"
            raise Broken(f"forward returns other bits when it is {again}")
        return scores, base, state

    def _backward(
        self, scores: Array, base: Caches, weights: dict, arrays: dict[str, Array]
    ) -> dict[str, Array]:
        d_scores = np.zeros(scores.shape)
        if self.twin != "slope 0":
            d_scores = _gradient_of_loss(self.loss, scores, self.targets)
            d_scores = as_gradient(d_scores, scores, "d_scores from the loss")
        params = self.run.params()
        before = snapshot(d_scores=d_scores, caches=dict(base), x=self.x, params=params)
        backward = partial(self.run.backward, d_scores, base, d_state=weights)
        result = watched(backward, before, self.problems)
        d_x, grads = pair(result, "backward", "(d_x, grads)")
        grads = dict(grads)
        states = grads.pop("state", {})
        found = {"x": d_x, **named_gradients(grads, {n: arrays[n] for n in params}, "backward")}
        found |= {f"{n}.{s}[0]": d for n, c in states.items() for s, d in c.items()}
        if missing := ", ".join(n for n in arrays if n not in found):
            what = f"no gradient of the state it was given: {missing}"
            raise Broken(f"backward returns {what} (grads['state'])")
        return {n: as_gradient(found[n], a, f"d_{n} from backward") for n, a in arrays.items()}


def _sides(net: Network, caches: Caches) -> Array:
    """On which side of its kinks every value lies: a difference across one is no derivative."""
    sides = [side.ravel() for n, c in caches.items() if (side := net[n].sides(c)) is not None]
    return np.concatenate(sides) if sides else np.zeros(0, bool)
