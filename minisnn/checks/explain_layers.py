"""What is wrong with a layer: its gradient recognised as the true one, moved, transposed or scaled."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

import numpy as np

from ..kernels.arrays import Array
from ..layers.base import Layer
from .calls import call
from .differences import stencil
from .explain_formulas import explain_step
from .explain_loops import Case, name_mistakes, where_it_parts, with_slips
from .oracle import draw, fire_hard, run
from .report import Finding
from .steps import steps_of
from .sums import factor_names, same

__all__ = ["exact", "explain_layer", "recognise"]

ROUGH = 1e-6
#: Sizes [T, B] of the problems a mistake is recognised and verified on.
SIZES = ((5, 3), (4, 6), (7, 2))
MOST = 600

_MEANING = {
    "1/B": "a mean over the batch where a sum belongs", "B": "a sum over the batch where a mean belongs",
    "1/T": "a mean over time where a sum belongs, or counted once instead of T times",
    "T": "a sum over time where a mean belongs, or counted T times instead of once",
    "1/(T*B)": "a mean over batch and time where a sum belongs", "T*B": "a sum over batch and time where a mean belongs",
    "-1": "the sign is wrong",
}  # fmt: skip


def explain_layer(layer: Layer, x: Any, options: Mapping[str, Any], rng: Any) -> list[Finding]:
    """Findings about each gradient of `layer` that is wrong; none if all are right or no explanation holds."""
    if layer.spiking and hasattr(layer, "dynamics"):
        with np.errstate(all="ignore"):
            return [f for step in steps_of(layer.dynamics) for f in explain_step(step)] or _explain_spiking(layer)
    return _explain_plain(layer, np.asarray(x, np.float64), options, rng)


# -- layers of neurons: the time loop


def _explain_spiking(layer: Any) -> list[Finding]:
    dynamics, n = layer.dynamics, int(np.prod(layer.shape))
    recurrent = layer.params.get("recurrent")

    def case(seed: int, size: tuple[int, int]) -> Case:
        p = draw(dynamics, np.random.default_rng([seed, 13]), (*size, n))
        p = p._replace(k=dynamics.surrogate.k)
        full = {"threshold": p.theta, **dict(zip(dynamics.neuron.params, p.params, strict=True))}
        params = {name: full[name].reshape(layer.shape) if name in full else v for name, v in layer.params.items()}
        other = layer._changed(params=params)
        names, lanes = dynamics.neuron.state, (-1, *layer.shape)
        state = {s: v.reshape(lanes) for s, v in zip(names, p.state0, strict=True)}
        d_state = {s: v.reshape(lanes) for s, v in zip(names, p.d_state_last, strict=True)}
        before = None
        if recurrent is not None:
            before = np.random.default_rng(seed).integers(0, 2, (size[1], n)) * 1.0
            state["spikes"], d_state["spikes"] = before.reshape(lanes), np.zeros((size[1], *layer.shape))
        found = run(
            dynamics,
            p.x,
            tuple(p.state0),
            p.theta,
            tuple(p.params),
            fire_hard(dynamics, p.k),
            recurrent=recurrent,
            spikes0=before,
        )
        y, cache = call(other.forward, p.x.reshape(*size, *layer.shape), state=state, what="forward")
        if not np.array_equal(np.reshape(y, p.x.shape), np.stack(found.spikes)):
            raise ValueError("another loop than the one known here")
        d_x, grads = call(other.backward, p.d_spikes.reshape(y.shape), cache, d_state=d_state, what="backward")
        yours = {"x": np.reshape(d_x, p.x.shape), "theta": grads["threshold"].ravel()}
        yours["params"] = np.array([grads[name].ravel() for name in dynamics.neuron.params]).reshape(-1, n)
        yours["state0"] = np.stack([np.reshape(grads["state"][s], (size[1], n)) for s in names])
        if recurrent is not None:
            yours["recurrent"] = grads["recurrent"]
        return found, p.d_spikes, p.d_state_last, p.k, yours

    try:
        cases = [case(seed, size) for seed, size in enumerate(SIZES)]
    except (ValueError, TypeError, KeyError, AttributeError):
        return []
    right = with_slips(dynamics, cases[0])
    if right is None or all(same(right[name], d) for name, d in cases[0][-1].items() if np.size(d)):
        return []
    fresh = [lambda c=c: c for c in cases[1:]]
    found = [Finding("time loop", sentence) for sentence in name_mistakes(dynamics, cases[0], fresh)]
    return found + where_it_parts(cases[0][-1]["x"], right["x"])


# -- layers without


class _Plain:
    """A layer at one input: its own gradients, and the true ones by differences; variations of both."""

    def __init__(self, layer: Layer, x: Array, options: Mapping[str, Any], rng: Any, seed: int) -> None:
        self.layer, self.x, self.options, self.rng = layer, x, options, rng
        y, self.cache = self.forward(layer, x)
        self.weights = np.random.default_rng([seed, 17]).normal(size=np.shape(y))
        self.sizes = {"T": x.shape[0], "B": x.shape[1]}

    def forward(self, layer: Layer, x: Array) -> Any:
        draws = copy.deepcopy(self.rng)
        return call(layer.forward, x, train=self.options.get("train", False), rng=draws, what="forward")

    def yours(self) -> dict[str, Array]:
        d_x, grads = call(self.layer.backward, self.weights, self.cache, what="backward")
        return {"x": d_x, **{n: grads[n] for n in self.layer.params}}

    def true(self, name: str, x: Array | None = None, weights: Array | None = None, layer: Any = None) -> Array:
        x, weights = self.x if x is None else x, self.weights if weights is None else weights
        layer = self.layer if layer is None else layer

        def value(moved: Array) -> float:
            other = layer if name == "x" else layer._changed(params={**layer.params, name: moved})
            twin, _ = call(other.twin, moved if name == "x" else x, self.cache, "tangent", what="forward")
            return float(np.sum(twin * weights))

        return stencil(value, (x if name == "x" else layer.params[name]).astype(np.float64))

    def candidates(self, name: str) -> Iterator[tuple[str, Array]]:
        """Sentences, each with the gradient that would make it true (up to a factor)."""
        true, w, x = self.true(name), self.weights, self.x
        yield "", true
        if name == "x":
            yield from moved_in_time(true)
        elif true.ndim == 2 and true.shape[0] == true.shape[1]:
            yield "it is transposed", true.T
        for text, values in moved_in_time(x) if name != "x" else ():
            yield f"it pairs with the wrong input: {text}", self.true(name, x=values)
        if w.shape[:2] == x.shape[:2]:
            for text, values in moved_in_time(w):
                yield f"it pairs with the wrong d_y: {text}", self.true(name, weights=values)
        for p, value in self.layer.params.items():
            if value.ndim == 2 and value.shape[0] == value.shape[1]:
                turned = self.layer._changed(params={**self.layer.params, p: value.T.copy()})
                yield (
                    f"{p} is transposed the wrong way: d_y meets {p}.T where the forward has {p}",
                    self.true(name, layer=turned),
                )


def moved_in_time(a: Array) -> Iterator[tuple[str, Array]]:
    """An array ``[T, ...]`` taken at the wrong steps."""
    last, first = np.zeros_like(a), np.zeros_like(a)
    last[-1], first[0] = a[-1], a[0]
    late, early = np.roll(a, 1, axis=0), np.roll(a, -1, axis=0)
    yield "off by one in time: that of step t-1 stands at step t (the last one at the first)", late
    yield "off by one in time: that of step t+1 stands at step t (the first one at the last)", early
    yield (
        "off by one in time: that of step t-1 stands at step t",
        late * (np.arange(len(a)) > 0).reshape(-1, *[1] * (a.ndim - 1)),
    )
    yield (
        "off by one in time: that of step t+1 stands at step t",
        (early * (np.arange(len(a)) < len(a) - 1).reshape(-1, *[1] * (a.ndim - 1))),
    )
    yield "time runs the wrong way", a[::-1].copy()
    yield "only that of the last step is there", last
    yield "only that of the first step is there", first
    yield "the same at every step: the mean over time", np.broadcast_to(a.mean(axis=0), a.shape)


def _explain_plain(layer: Layer, x: Array, options: Mapping[str, Any], rng: Any) -> list[Finding]:
    draws = np.random.default_rng(19)
    shapes = [(*size, *x.shape[2:]) for size in SIZES[:2]]
    problems = [_Plain(layer, draws.choice(x.ravel(), shape), options, rng, i) for i, shape in enumerate(shapes)]
    found = []
    yours = [p.yours() for p in problems]
    for name, gradient in yours[0].items():
        if np.size(gradient) > MOST or same(gradient, problems[0].true(name), ROUGH):
            continue
        names = [
            dict.fromkeys(recognise(d[name], p.candidates(name), p.sizes)) for p, d in zip(problems, yours, strict=True)
        ]
        sentence = next((text for text in names[0] if all(text in others for others in names[1:])), "")
        if sentence:
            found.append(Finding(f"d_{name}", sentence))
    return found


def recognise(yours: Any, candidates: Iterator[tuple[str, Array]], sizes: Mapping[str, float]) -> Iterator[str]:
    """Every sentence that explains the gradient `yours`: a candidate equals it, as it is or times a factor with a name."""
    yours = np.asarray(yours, np.float64)
    if not yours.any():
        yield "it is 0: the gradient is missing"
        return
    for text, found in candidates:
        if found.shape != yours.shape or not found.any():
            continue
        ratio = float((yours * found).sum() / (found * found).sum())
        if not same(yours, ratio * found, ROUGH):
            continue
        if abs(ratio - 1) <= ROUGH:
            yield text
        for name in factor_names(exact(ratio), sizes) if abs(ratio - 1) > ROUGH else ():
            meaning = f": {_MEANING[name]}" if name in _MEANING else ""
            yield f"{text}{'; ' * bool(text)}it is {name} times the true one{meaning}"


def exact(ratio: float) -> float:
    """A ratio known to differences' precision, at the fraction of whole numbers that it must be."""
    guess = float(Fraction(ratio).limit_denominator(2000))
    return guess if abs(guess - ratio) <= 1e-7 * abs(ratio) else ratio
