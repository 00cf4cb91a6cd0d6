"""Are the gradients of a whole network right?  On its own backend, on all twins, by differences."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from ..kernels.arrays import Array
from ..layers.base import Layer
from ..network import Caches, Network
from . import calls
from .differences import Point, compare_arrays
from .explain_layers import explain
from .report import Report, Row
from .twins import TWINS, Subject, run_twin, weighting, with_slope_zero

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
    checked by themselves, and the report names the one at fault, with its mistake.
    ``loss_and_grads``, which ``fit`` calls, has to give what ``backward`` gives.

    Parameters
    ----------
    net : a float64 network, ``net.astype("float64")``.
    x : input ``[T, B, ...]``.   targets, loss : as in training,
        ``loss(scores, targets) -> (number, d_scores)``.
    seed, directions : the directions drawn.
    entries : compare single entries: all of arrays up to that size, in place of directions;
        besides them, that many of larger ones, and no fewer than 24.
    twins : which of "smooth", "tangent", "slope 0".  The last one has a loss of its own, on the
        last membranes.  "real" shows why there are twins: differences of the spiking network
        itself are 0 almost everywhere, and are refused.
    train, rng, masks : as in ``forward``.  Dropout needs `rng` or `masks`; one mask is held for
        all differences.

    Returns
    -------
    report : a row passes if ``|difference| <= max(1e-7 * scale, 10 * estimated error)``, scale =
        norm of gradient * norm of direction, unless that error is too large to decide anything.

    Raises
    ------
    TypeError : not a network, or not of float64.
    ValueError : it is on a GPU, a twin is unknown, dropout has no mask to hold, or its states
        overflow on `x`.
    """
    _refuse(net, x, twins, train, rng, masks)
    options: dict[str, Any] = {"train": train} | ({} if masks is None else {"masks": masks})
    spiking = any(layer.spiking for layer in net.layers.values())
    report = Report(f"gradients of a network of {len(net.layers)} layers on {net.backend}")
    subject = Subject(net, np.array(x, np.float64), targets, loss, options, rng, report.problems)
    with calls.reported(report.problems):
        if spiking and masks is None:
            subject, report.notes = _tame(subject)
        for twin in twins if spiking else ("smooth",):
            rows = _rows_off_kinks(subject, twin, np.random.default_rng(seed), directions, entries)
            report.rows += rows
        report.problems += _differing_calls(subject)
    explain(report, subject)
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


# -- before anything is compared


def _only_float64(check: str, what: str, dtype: np.dtype) -> None:
    if dtype != np.dtype("float64"):
        raise TypeError(
            f"{check}: the {what} is {dtype}; differences need {check}({what}.astype('float64'), "
            "...): single precision cannot tell a wrong gradient from rounding"
        )


def _refuse(net: Any, x: Any, twins: tuple[str, ...], train: bool, rng: Any, masks: Any) -> None:
    if not isinstance(net, Network):
        hint = "a single layer goes to check_layer(layer, x)"
        raise TypeError(f"check_grads: expected a ms.Network, got {net!r}; {hint}")
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
            f"check_grads: {norms} takes statistics of a batch, but one sample always equals its "
            "mean: give x at least two samples"
        )


def _tame(subject: Subject) -> tuple[Subject, list[str]]:
    """The subject with an input, weaker or shorter, on which no state overflows, and a note."""
    x, nets = subject.x, (subject.net, subject.net.smoothed())
    tries = [(steps, scale) for steps in (len(x), 3) for scale in (1.0, 0.3, 0.1, 0.03)]
    for limit, (steps, scale) in itertools.product((1e6, 1e60), tries):
        tamed = subject._replace(x=scale * x[:steps])
        if max(_largest_state(tamed, net) for net in nets) <= limit:
            note = f"the neurons overflow on x: checked on {scale:g} * x[:{steps}]"
            return tamed, [note] if (steps, scale) != tries[0] else []
    raise ValueError(
        "check_grads: the network's states overflow, even on 0.03 * x and 3 steps. Are its weights "
        "or a neuron's parameters far too large?"
    )


def _largest_state(subject: Subject, net: Network) -> float:
    """Of a run that starts from the last state of another; infinite if it overflows."""
    _, caches = subject.forward(net)
    _, caches = subject.forward(net, caches.state)
    states = [v for c in caches.state.values() for v in c.values()]
    largest = max((float(np.max(np.abs(v))) for v in states), default=0.0)
    return float(np.nan_to_num(largest, nan=np.inf))


def _differing_calls(subject: Subject) -> list[str]:
    """``loss_and_grads``, which ``fit`` calls, against forward and backward."""
    net, x, targets, loss, options, rng, _ = subject
    scores, caches = subject.forward(net)
    d_scores = subject.d_scores(scores)
    _, grads = calls.call(net.backward, d_scores, caches, input_grad=False, what="backward")
    run = partial(calls.call, net.loss_and_grads, x, targets, loss, what="loss_and_grads")
    _, found = run(rng=copy.deepcopy(rng), **options)
    least = 1e-12 * max((float(np.max(np.abs(d))) for d in grads.values()), default=0.0)
    other = [n for n, d in grads.items() if not np.allclose(found[n], d, 1e-9, least)]
    what = "loss_and_grads, which fit calls, gives other gradients than backward"
    return [f"{what}: {', '.join(other)}"] if other else []


# -- one twin


def _rows_off_kinks(
    subject: Subject, twin: str, rng: np.random.Generator, directions: int, entries: int
) -> list[Row]:
    """The rows of one twin; if a kink lies at the very point, those of a point beside it."""
    at, compared = subject, _Twin(subject, twin, rng)
    for _ in range(4):
        rows = compare_arrays(twin, compared.point(at), rng, directions, entries)
        decided = all(row.verdict in ("ok", "WRONG", "REFUSED") for row in rows)
        if decided or subject.problems:
            break
        at = at._replace(x=subject.x + 1e-3 * rng.normal(size=subject.x.shape))
    return rows


class _Twin:
    """One twin of a network: its value as a function of all arrays, and its gradients."""

    def __init__(self, subject: Subject, twin: str, rng: np.random.Generator) -> None:
        self.twin, self.rng, net = twin, rng, subject.net
        self.fire = {**TWINS, "real": "step"}[twin]
        changed = {"smooth": net.smoothed, "slope 0": lambda: with_slope_zero(net)}
        self.run = changed.get(twin, lambda: net)()
        self.shifted = self.run.astype("float64")  # a copy: the net under check is never touched

    def point(self, at: Subject) -> Point:
        """The arrays of a run, its value as a function of them, and the gradients returned."""
        scores, base, state = self._forward(at)
        weights = {n: self._weigh(c) for n, c in base.state.items() if self.twin != "real"}
        arrays = {**self.shifted.params(), "x": at.x}
        starts = {f"{n}.{s}[0]": v for n, c in state.items() for s, v in c.items()}
        arrays |= {n: v for n, v in starts.items() if v.dtype == np.float64}
        arrays = {n: a.copy() for n, a in arrays.items()}

        def value(moved: Mapping[str, Array]) -> tuple[float, Any]:
            for name, live in self.shifted.params().items():
                live[...] = moved[name]
            start = {
                n: {s: moved.get(f"{n}.{s}[0]", v) for s, v in c.items()} for n, c in state.items()
            }
            run = (self.shifted, moved["x"], base, self.fire, start)
            y, caches = calls.call(run_twin, *run, what="forward")
            pairs = [(caches.state[n][s], w) for n, c in weights.items() for s, w in c.items()]
            total = sum(float(np.sum(v * w)) for v, w in pairs)
            if self.twin != "slope 0":
                total += float(calls.call(at.loss, y, at.targets, what="the loss")[0])
            sides = (self.shifted[n].sides(c) for n, c in caches.items())
            flat = [side.ravel() for side in sides if side is not None]
            return total, np.concatenate(flat) if flat else None

        if self.twin != "real":
            first, again = value(arrays)[0], value(arrays)[0]
            if abs(first - again) > 1e-9 * abs(again):
                cure = "a twin of a layer that draws must hold what its base run drew"
                raise calls.Broken(f"forward draws anew at every run: {cure}")
        return Point(value, arrays, self._backward(at, scores, base, weights, arrays))

    def _weigh(self, state: Mapping[str, Array]) -> dict[str, Array]:
        """Random weights, smaller for large states, so that no term drowns the others."""
        largest = {s: max(1.0, float(np.max(np.abs(v)))) for s, v in state.items()}
        return {s: self.rng.normal(size=np.shape(v)) / largest[s] for s, v in state.items()}

    def _forward(self, at: Subject) -> tuple[Array, Caches, dict[str, dict[str, Array]]]:
        """A run, and the state that it starts from: the last one of another run."""
        _, base = at.forward(self.run)
        state = {n: dict(c) for n, c in base.state.items()}
        (scores, base), (again, _) = (at.forward(self.run, state) for _ in range(2))
        if calls.bits(scores) != calls.bits(again):
            called = "called a second time on the same input"
            raise calls.Broken(f"forward returns other bits when it is {called}")
        return scores, base, state

    def _backward(
        self, at: Subject, scores: Array, base: Caches, weights: dict, arrays: dict[str, Array]
    ) -> dict[str, Array]:
        d_scores = np.zeros(scores.shape) if self.twin == "slope 0" else at.d_scores(scores)
        params = self.run.params()
        watch = {"d_scores": d_scores, "caches": dict(base), "x": at.x, "params": params}
        backward = partial(self.run.backward, d_scores, base, d_state=weights)
        d_x, grads = calls.backward_of(backward, at.problems, watch)
        grads = dict(grads)
        states = grads.pop("state", {})
        like = {n: arrays[n] for n in params}
        found = {"x": d_x, **calls.named_gradients(grads, like, "backward")}
        found |= {f"{n}.{s}[0]": d for n, c in states.items() for s, d in c.items()}
        if missing := ", ".join(n for n in arrays if n not in found):
            what = f"no gradient of the state it was given: {missing}"
            raise calls.Broken(f"backward returns {what} (grads['state'])")
        return calls.as_gradients(found, arrays)
