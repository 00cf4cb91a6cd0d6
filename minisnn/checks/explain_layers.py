"""What is wrong in a network: which layer, and its gradient recognised as the true one changed."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from ..kernels.arrays import Array
from ..layers.base import Layer
from .calls import Broken, call, pair
from .check_function import check_loss
from .differences import Point
from .explain_functions import explain_gradients, is_square, recognise
from .explain_loops import explain_loop
from .oracle import Run, Shape, draw, run
from .report import Finding, Report
from .twins import Subject, weighting

__all__ = ["explain"]

#: Sizes [T, B] of the problems that a mistake is recognised and verified on.
SIZES = ((5, 3), (4, 6))
ERRORS = (Broken, ValueError, TypeError, KeyError, AttributeError)


def explain(report: Report, subject: Subject) -> None:
    """Findings about every layer by itself, at the input it had, and about the loss."""
    if report.ok:
        return
    net, x, options = subject.net, subject.x, subject.options
    outputs, name, masks = dict[str, Array](), "", options.get("masks", {})
    try:
        for name, layer in net.layers.items():
            extra = net.extra_inputs(layer, outputs)
            extra |= {"mask": masks[name]} if name in masks else {}
            found = [] if extra else _explain_layer(layer, x, subject)
            draws = {"train": options["train"], "rng": copy.deepcopy(subject.rng)}
            what = f"{name}.forward"
            x, _ = pair(call(layer.forward, x, what=what, **draws, **extra), what, "(y, cache)")
            outputs[name] = x
            prefix = "" if len(net.layers) == 1 else f"{name}: "
            report.find([replace(f, name=prefix + f.name) for f in found])
    except ERRORS as error:
        if str(error) not in " ".join(report.problems):
            report.problems.append(f"{name}: {error}" if name else str(error))
        return
    if subject.loss is weighting:
        return
    of_loss = check_loss(subject.loss, np.asarray(x, np.float64), subject.targets)
    report.find([replace(f, name=f"loss: {f.name}") for f in of_loss.findings])
    report.problems += [p for p in of_loss.problems if p not in report.problems]
    wrong = any(row.verdict == "WRONG" for row in report.rows)
    if wrong and not report.findings and not report.problems:
        hint = "its gradient is not its derivative: see check_loss(loss, scores, targets)"
        alone = "each layer and the loss seem right by themselves: look at Network.backward"
        report.find([Finding("network", alone) if of_loss.ok else Finding("loss", hint)])


def _explain_layer(layer: Layer, x: Any, subject: Subject) -> list[Finding]:
    """Findings about each gradient of a layer that is wrong and can be explained."""
    if not layer.spiking or not hasattr(layer, "dynamics"):
        x, draws = np.asarray(x, np.float64), np.random.default_rng(19)
        inputs = [draws.choice(x.ravel(), (*size, *x.shape[2:])) for size in SIZES]
        points = [_point_of(layer, at, subject, seed) for seed, at in enumerate(inputs)]
        return explain_gradients(points, _sentences)
    try:
        with np.errstate(all="ignore"):
            loop = partial(_run_of, layer), partial(_gradients, layer)
            return explain_loop(layer.dynamics, *loop)
    except ERRORS[1:]:  # its forward is another loop than the one known here
        return []


# -- layers of neurons: the time loop


def _run_of(layer: Any, seed: int, shape: Shape) -> Run:
    """A run of the loop that the layer should run, on a random problem."""
    dynamics, n = layer.dynamics, int(np.prod(layer.shape))
    rng = np.random.default_rng([seed, 13])
    p = draw(dynamics, rng, (*shape[:2], n))._replace(k=dynamics.surrogate.k)
    recurrent = layer.params.get("recurrent")
    spikes0 = None if recurrent is None else rng.integers(0, 2, (shape[1], n)) * 1.0
    return run(dynamics, p, recurrent=recurrent, spikes0=spikes0)


def _gradients(layer: Any, ran: Run) -> dict[str, Array]:
    """The gradients of the layer for this run; raises if its forward is another loop."""
    p, neuron, lanes = ran.problem, layer.dynamics.neuron, (-1, *layer.shape)
    drawn = {"threshold": p.theta, **dict(zip(neuron.params, p.params, strict=True))}
    shaped = {name: d.reshape(layer.shape) for name, d in drawn.items() if name in layer.params}
    layer = layer._changed(params={**layer.params, **shaped})
    state, d_state = (
        {s: v.reshape(lanes) for s, v in zip(neuron.state, values, strict=True)}
        for values in (p.state0, p.d_state_last)
    )
    if ran.recurrent is not None:
        before = ran.spikes0.reshape(lanes)
        state["spikes"], d_state["spikes"] = before, 0 * before
    x = p.x.reshape(*p.x.shape[:2], *layer.shape)
    y, cache = call(layer.forward, x, state=state, what="forward")
    if not np.array_equal(np.reshape(y, p.x.shape), np.stack(ran.spikes)):
        raise ValueError("another loop than the one known here")
    d_y = p.d_spikes.reshape(y.shape)
    d_x, grads = call(layer.backward, d_y, cache, d_state=d_state, what="backward")
    found = {"x": np.reshape(d_x, p.x.shape)}
    found |= {n: grads[n].ravel() if n in drawn else grads[n] for n in layer.params}
    return found | {f"{s}[0]": grads["state"][s].reshape(p.x.shape[1:]) for s in neuron.state}


# -- layers without neurons


def _point_of(layer: Layer, x: Array, subject: Subject, seed: int) -> Point:
    """The layer at one input; the weights of its output are one of the arrays."""
    train, rng = subject.options.get("train", False), copy.deepcopy(subject.rng)
    y, cache = call(layer.forward, x, train=train, rng=rng, what="forward")
    weights = np.random.default_rng([seed, 17]).normal(size=np.shape(y))

    def value(arrays: Mapping[str, Array]) -> tuple[float, None]:
        other = layer._changed(params={n: arrays[n] for n in layer.params})
        twin, _ = call(other.twin, arrays["x"], cache, "tangent", what="forward")
        return float(np.sum(twin * arrays["y"])), None

    d_x, grads = call(layer.backward, weights, cache, what="backward")
    gradients = {"x": d_x, **{n: grads[n] for n in layer.params}}
    return Point(value, {"x": x, "y": weights, **layer.params}, gradients)


def _sentences(point: Point, name: str, true: Array) -> Iterator[str]:
    sizes = dict(zip(("T", "B"), point.arrays["x"].shape, strict=False))
    return recognise(point.gradients[name], _candidates(point, name, true), sizes)


def _candidates(point: Point, name: str, true: Array) -> Iterator[tuple[str, Array]]:
    """Sentences, each with the gradient that would make it true (up to a factor)."""
    x, d_y = point.arrays["x"], point.arrays["y"]
    yield "", true
    if name == "x":
        yield from _shifted_in_time(true)
    else:
        if is_square(true):
            yield "it is transposed", true.T
        for text, values in _shifted_in_time(x):
            yield f"it pairs with the wrong input: {text}", point.true(name, x=values)
    if d_y.shape[:2] == x.shape[:2]:
        for text, values in _shifted_in_time(d_y):
            yield f"it pairs with the wrong d_y: {text}", point.true(name, y=values)
    for p in point.gradients:
        if p != "x" and is_square(point.arrays[p]):
            wrong = f"d_y meets {p}.T where the forward has {p}"
            found = point.true(name, **{p: point.arrays[p].T})
            yield f"{p} is transposed the wrong way: {wrong}", found


def _shifted_in_time(a: Array) -> Iterator[tuple[str, Array]]:
    """An array ``[T, ...]`` taken at the wrong steps."""
    t, last = np.arange(len(a)).reshape(-1, *[1] * (a.ndim - 1)), len(a) - 1
    late, early = np.roll(a, 1, axis=0), np.roll(a, -1, axis=0)
    of_before = "off by one in time: that of step t-1 stands at step t"
    of_after = "off by one in time: that of step t+1 stands at step t"
    yield f"{of_before} (the last one at the first)", late
    yield f"{of_after} (the first one at the last)", early
    yield of_before, late * (t > 0)
    yield of_after, early * (t < last)
    yield "time runs the wrong way", a[::-1]
    yield "only that of the last step is there", a * (t == last)
    yield "only that of the first step is there", a * (t == 0)
    yield "the same at every step: the mean over time", np.broadcast_to(a.mean(axis=0), a.shape)
