"""Are the gradients of a whole network right?  On its own backend, on all three twins, by differences."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from ..kernels.arrays import Array
from ..layers.base import Layer
from ..network import Caches, Network
from .calls import Broken, as_gradient, call, changed, named_gradients, pair, same_bits, snapshot, watched
from .check_function import check_loss
from .differences import compare_arrays
from .explain_layers import explain_layer
from .report import Finding, Report, Row
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

    For each parameter, the input and each state at the start, the derivative of the loss (and of a random weighting of the
    last states) along random directions, in which every entry takes part, is compared with ``sum(gradient * direction)``.
    If one is wrong, every layer and the loss are looked at by themselves, and the one at fault is named with its mistake.
    ``loss_and_grads``, which ``fit`` calls, has to give what ``backward`` gives.

    Parameters
    ----------
    net : a float64 network (``net.astype("float64")``: single precision cannot tell a wrong gradient from rounding).
    x : input ``[T, B, ...]``.   targets, loss : as in training, ``loss(scores, targets) -> (number, d_scores)``.
    seed, directions : the directions drawn.
    entries : compare single entries: all of arrays up to that size, in place of directions; besides them, that many of
        larger ones, and no fewer than 24.
    twins : which of "smooth", "tangent", "slope 0".  The last one has a loss of its own, on the last membranes.  "real"
        shows why there are twins: differences of the spiking network itself are 0 almost everywhere, and are refused.
    train, rng, masks : as in ``forward``.  Dropout needs `rng` or `masks`: what is drawn is then held for all differences.

    Returns
    -------
    report : a row passes if ``|difference| <= max(1e-7 * scale, 10 * estimated error)``, scale = norm of gradient * norm of
        direction; a row whose estimated error is too large to decide anything does not pass.

    Raises
    ------
    TypeError : not a network, or not of float64.
    ValueError : it is on a GPU, a twin is unknown, dropout has nothing to hold, or its states overflow on `x`.
    """
    _refuse(net, x, twins, train, rng, masks)
    x = np.array(x, np.float64)
    options: dict[str, Any] = {"train": train} | ({} if masks is None else {"masks": masks})
    spiking = any(layer.spiking for layer in net.layers.values())
    report = Report(f"gradients of a network of {len(net.layers)} layers on {net.backend}")
    try:
        x, cut = _tame(net, x, options, rng) if spiking and masks is None else (x, "")
        report.notes += [cut] if cut else []
        for twin in twins if spiking else ("smooth",):
            problem = _Problem(net, x, targets, loss, twin, np.random.default_rng(seed), options, rng, report)
            report.rows += problem.rows_off_kinks(directions, entries)
        _compare_calls(net, x, targets, loss, options, rng, report)
    except Broken as error:
        report.problems.append(str(error))
    if not report.ok:
        _look_inside(net, x, targets, loss, options, rng, report)
    return report


def _compare_calls(net: Network, x: Array, targets: Any, loss: Loss, options: dict, rng: Any, report: Report) -> None:
    """``loss_and_grads``, which ``fit`` calls, against forward and backward."""
    scores, caches = call(net.forward, x, rng=copy.deepcopy(rng), what="forward", **options)
    _, d_scores = pair(call(loss, scores, targets, what="the loss"), "the loss", "(number, d_scores)")
    _, grads = call(net.backward, d_scores, caches, input_grad=False, what="backward")
    _, found = call(net.loss_and_grads, x, targets, loss, rng=copy.deepcopy(rng), what="loss_and_grads", **options)
    least = 1e-12 * max((float(np.max(np.abs(d))) for d in grads.values()), default=0.0)
    if differing := [n for n, d in grads.items() if not np.allclose(found[n], d, 1e-9, least)]:
        report.problems.append(
            f"loss_and_grads, which fit calls, gives other gradients than backward: {', '.join(differing)}"
        )


def check_layer(layer: Layer, x: Array, *, seed: int = 0, **options: Any) -> Report:
    """Compare the gradients of one float64 layer with differences; the loss is a random weighting of its output.

    Any subclass of ``ms.Layer`` will do, spiking or not.  `options` are those of :func:`check_grads`, and so is the report.
    """
    if not isinstance(layer, Layer):
        raise TypeError(f"check_layer(layer, x): expected a ms.Layer, got {layer!r}; plain functions go to check_function")
    _only_float64("check_layer", "layer", layer.dtype)
    net = Network(layer=layer)
    report = check_grads(net, x, np.random.default_rng([seed, 1]), weighting, seed=seed, **options)
    report.title = f"gradients of {type(layer).__name__} on {layer.backend}"
    return report


def weighting(y: Array, weights: Any) -> tuple[float, Array]:
    """A loss for a single layer: its output, weighted at random (the same weights for every output of one shape)."""
    weights = copy.deepcopy(weights).normal(size=np.shape(y))
    return float(np.sum(y * weights)), weights


def _only_float64(check: str, what: str, dtype: np.dtype) -> None:
    if dtype != np.dtype("float64"):
        raise TypeError(
            f"{check}: the {what} is {dtype}; differences need {check}({what}.astype('float64'), ...): "
            "single precision cannot tell a wrong gradient from rounding"
        )


def _refuse(net: Any, x: Any, twins: tuple[str, ...], train: bool, rng: Any, masks: Any) -> None:
    if not isinstance(net, Network):
        raise TypeError(f"check_grads: expected a ms.Network, got {net!r}; a single layer goes to check_layer(layer, x)")
    _only_float64("check_grads", "net", net.dtype)
    if net.backend == "cupy":
        raise ValueError("check_grads: the network is on a GPU, the checks run on the CPU: net.using('numpy')")
    if unknown := [t for t in twins if t not in (*TWINS, "real")]:
        raise ValueError(f"check_grads: unknown twins {unknown}, expected some of {[*TWINS, 'real']}")
    drawn = [n for n, layer in net.layers.items() if layer.takes_mask]
    norms = [n for n, layer in net.layers.items() if layer.buffers]
    if train and rng is None and masks is None and drawn:
        raise ValueError(
            f"check_grads: {', '.join(drawn)} drops at random: without a mask that is held, each difference sees another "
            "network. Give rng=np.random.default_rng(0) (one mask is drawn and held), or masks={...}"
        )
    if train and np.shape(x)[1:2] == (1,) and norms:
        raise ValueError(
            f"check_grads: {', '.join(norms)} takes statistics of a batch, and those of one sample say nothing (its "
            "deviation from itself is 0 whatever the input): give x at least two samples"
        )


def _tame(net: Network, x: Array, options: Mapping[str, Any], rng: Any) -> tuple[Array, str]:
    """An input on which nothing overflows: `x`, or a weaker or a shorter one, and what was done to it."""
    for limit in (1e6, 1e60):
        for steps in (len(x), 3):
            for scale in (1.0, 0.3, 0.1, 0.03):
                sizes = [_size(run, scale * x[:steps], options, rng) for run in (net, net.smoothed())]
                if max(sizes) <= limit:
                    plain = (steps, scale) == (len(x), 1.0)
                    note = "" if plain else f"the neurons overflow on x: checked on {scale:g} * x[:{steps}]"
                    return scale * x[:steps], note
    raise ValueError(
        "check_grads: the network's states overflow, even on 0.03 * x and 3 steps: nothing can be compared. Are its weights "
        "or a neuron's parameters far too large?"
    )


def _size(net: Network, x: Array, options: Mapping[str, Any], rng: Any) -> float:
    """The largest state of a run that goes on where a run has ended; infinite if it overflows."""
    state: dict[str, Any] = {}
    for _ in range(2):
        _, caches = pair(
            call(net.forward, x, rng=copy.deepcopy(rng), what="forward", **options, **({"state": state} if state else {})),
            "forward", "(scores, caches)",
        )  # fmt: skip
        state = caches.state
    largest = [float(np.max(np.abs(v))) for c in state.values() for v in c.values()]
    return float(np.nan_to_num(max(largest, default=0.0), nan=np.inf))


class _Problem:
    """One twin of a network at one input: its value as a function of all arrays, and the gradients it returns."""

    def __init__(
        self, net: Network, x: Array, targets: Any, loss: Loss, twin: str, rng: np.random.Generator,
        options: dict[str, Any], draws: Any, report: Report,
    ) -> None:  # fmt: skip
        self.x, self.targets, self.loss, self.twin, self.rng, self.report = x, targets, loss, twin, rng, report
        self.net, self.options, self.draws = net, options, draws
        self.fire = {**TWINS, "real": "step"}[twin]
        self.run = {"smooth": net.smoothed, "slope 0": lambda: with_slope_zero(net)}.get(twin, lambda: net)()
        self.shifted = self.run.astype("float64")  # one copy to shift parameters in; the net under check is never touched

    def rows_off_kinks(self, directions: int, entries: int) -> list[Row]:
        """The rows of this twin; where a kink lies at the very point, those of a point beside it."""
        start = self.x
        for _ in range(4):
            rows = self.rows(directions, entries)
            if all(row.verdict in ("ok", "WRONG", "REFUSED") for row in rows) or self.report.problems:
                break
            self.x = start + 1e-3 * self.rng.normal(size=start.shape)
        return rows

    def rows(self, directions: int, entries: int) -> list[Row]:
        scores, base, state = self._forward()
        weights = {} if self.twin == "real" else {n: self._weigh(c) for n, c in base.state.items()}
        arrays = {**self.shifted.params(), "x": self.x}
        arrays |= {f"{n}.{s}[0]": v for n, c in state.items() for s, v in c.items() if v.dtype == np.float64}
        arrays = {n: a.copy() for n, a in arrays.items()}

        def value(moved: Mapping[str, Array]) -> tuple[float, Array]:
            for name, live in self.shifted.params().items():
                live[...] = moved[name]
            start = {n: {s: moved.get(f"{n}.{s}[0]", v) for s, v in c.items()} for n, c in state.items()}
            y, caches = call(run_twin, self.shifted, moved["x"], base, self.fire, start, what="forward")
            total = sum(float(np.sum(caches.state[n][s] * w)) for n, c in weights.items() for s, w in c.items())
            if self.twin != "slope 0":
                total += float(call(self.loss, y, self.targets, what="the loss")[0])
            return total, _sides(self.shifted, caches)

        if self.twin != "real" and abs(value(arrays)[0] - (again := value(arrays)[0])) > 1e-9 * abs(again):
            raise Broken("forward draws anew at every run: a twin of a layer that draws must hold what its base run drew")
        gradients = self._backward(scores, base, weights, arrays)
        return compare_arrays(self.twin, value, arrays, gradients, self.rng, directions, entries)

    def _weigh(self, state: Mapping[str, Array]) -> dict[str, Array]:
        """Random weights of a last state, which make terms of about 1 of states of any size: none drowns the others."""
        return {s: self.rng.normal(size=np.shape(v)) / max(1.0, float(np.max(np.abs(v)))) for s, v in state.items()}

    def _forward(self) -> tuple[Array, Caches, dict[str, dict[str, Array]]]:
        """A run that starts from a state of its own: where a run has ended."""
        x, before = self.x, snapshot(x=self.x, params=self.run.params())

        def forward(**state: Any) -> Any:
            return call(self.run.forward, x, rng=copy.deepcopy(self.draws), what="forward", **self.options, **state)

        scores, base = pair(forward(), "forward", "(scores, caches)")
        state = {n: dict(c) for n, c in base.state.items()}
        if state:
            scores, base = forward(state=state)
        self.report.problems += [f"forward writes into {name}" for name in changed(before)]
        if not same_bits(scores, forward(**({"state": state} if state else {}))[0]):
            raise Broken("forward returns other bits when it is called a second time on the same input")
        return scores, base, state

    def _backward(self, scores: Array, base: Caches, weights: dict, arrays: dict[str, Array]) -> dict[str, Array]:
        if self.twin == "slope 0":
            d_scores = np.zeros(scores.shape)
        else:
            _, d_scores = pair(call(self.loss, scores, self.targets, what="the loss"), "the loss", "(number, d_scores)")
            d_scores = as_gradient(d_scores, scores, "d_scores from the loss")
        before = snapshot(d_scores=d_scores, caches=dict(base), x=self.x, params=self.run.params())
        backward = partial(self.run.backward, d_scores, base, d_state=weights)
        d_x, grads = pair(watched(backward, before, self.report.problems), "backward", "(d_x, grads)")
        grads = dict(grads)
        states = grads.pop("state", {})
        params = {n: arrays[n] for n in self.run.params()}
        found = {"x": d_x, **named_gradients(grads, params, "backward")}
        found |= {f"{n}.{s}[0]": d for n, c in states.items() for s, d in c.items()}
        if missing := [n for n in arrays if n not in found]:
            raise Broken(f"backward returns no gradient of the state it was given: {', '.join(missing)} (grads['state'])")
        return {n: as_gradient(found[n], a, f"d_{n} from backward") for n, a in arrays.items()}


def _sides(net: Network, caches: Caches) -> Array:
    """On which side of its kinks (a threshold, a maximum) every value lies: a difference across one is no derivative."""
    sides = [side.ravel() for n, c in caches.items() if (side := net[n].sides(c)) is not None]
    return np.concatenate(sides) if sides else np.zeros(0, bool)


# -- which layer it is


def _look_inside(net: Network, x: Array, targets: Any, loss: Loss, options: dict, rng: Any, report: Report) -> None:
    """Every layer by itself, at the input it had, and the loss: findings about those that are wrong."""
    alone, outputs, name, masks = len(net.layers) == 1, dict[str, Array](), "", options.get("masks", {})
    try:
        for name, layer in net.layers.items():
            extra = net.extra_inputs(layer, outputs) | ({"mask": masks[name]} if name in masks else {})
            found = [] if extra else explain_layer(layer, x, options, rng)
            run = {"train": options["train"], "rng": copy.deepcopy(rng), "what": f"{name}.forward"}
            x, _ = pair(call(layer.forward, x, **run, **extra), f"{name}.forward", "(y, cache)")
            outputs[name] = x
            prefix = "" if alone else f"{name}: "
            report.find([replace(f, name=prefix + f.name) for f in found])
    except (Broken, ValueError, TypeError, KeyError, AttributeError) as error:
        report.problems += [] if str(error) in " ".join(report.problems) else [f"{name}: {error}" if name else str(error)]
        return
    if loss is weighting:
        return
    of_loss = check_loss(loss, np.asarray(x, np.float64), targets)
    report.find([replace(f, name=f"loss: {f.name}") for f in of_loss.findings])
    report.problems += [p for p in of_loss.problems if p not in report.problems]
    if report.findings or report.problems or not any(row.verdict == "WRONG" for row in report.rows):
        return
    if of_loss.ok:
        what = "each layer and the loss seem right by themselves: look at the walk back through layers (Network.backward)"
        report.find([Finding("network", what)])
    else:
        report.find([Finding("loss", "its gradient is not its derivative: see check_loss(loss, scores, targets)")])
