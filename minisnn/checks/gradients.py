"""Are the gradients of a whole network right?  On its own backend, on all three twins, by differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..kernels.contract import Array
from ..layers.base import Layer
from ..network import Caches, Network
from .differences import Difference, richardson
from .report import Report, Row
from .twins import TWINS, run_twin, with_slope_zero

__all__ = ["check_grads", "check_layer"]

Loss = Callable[[Array, Array], tuple[float, Array]]

TOLERANCE = 1e-7
#: A difference whose own estimated error is larger than this share of the gradient decides nothing.
TOO_COARSE = 1e-6


def check_grads(
    net: Network,
    x: Array,
    targets: Any,
    loss: Loss,
    *,
    seed: int = 0,
    directions: int = 2,
    twins: tuple[str, ...] = tuple(TWINS),
    train: bool = False,
    rng: np.random.Generator | None = None,
) -> Report:
    """Compare every gradient of a network with differences through its twins.

    For each parameter and for the input, the derivative along random directions, in which every entry takes part, is
    compared with ``sum(gradient * direction)``.

    Parameters
    ----------
    net : a float64 network (``net.astype("float64")``: single precision cannot tell a wrong gradient from rounding).
    x : input ``[T, B, ...]``.   targets, loss : as in training, ``loss(scores, targets) -> (number, d_scores)``.
    seed, directions : the directions drawn.
    twins : which of "smooth", "tangent", "slope 0".  The last one has a loss of its own, on the last membranes.

    Returns
    -------
    report : a row passes if ``|difference| <= max(1e-7 * scale, 10 * estimated error)``, scale = norm of gradient * norm of
        direction; a row whose estimated error is too large to decide anything does not pass.
    """
    if net.dtype != np.dtype("float64"):
        raise TypeError(f"check_grads: the net is {net.dtype}; differences need check_grads(net.astype('float64'), ...)")
    if unknown := [t for t in twins if t not in TWINS]:
        raise ValueError(f"check_grads: unknown twins {unknown}, expected some of {list(TWINS)}")
    x = np.asarray(x, np.float64)
    spiking = any(layer.spiking for layer in net.layers.values())
    report = Report(f"gradients of a network of {len(net.layers)} layers on {net.backend}")
    for twin in twins if spiking else ("smooth",):
        _check_twin(net, x, targets, loss, twin, np.random.default_rng(seed), directions, report, train, rng)
    return report


def check_layer(layer: Layer, x: Array, *, seed: int = 0, **options: Any) -> Report:
    """Compare the gradients of one float64 layer with differences; the loss is a random weighting of its output."""
    net = Network(layer=layer)
    weights = np.random.default_rng([seed, 1]).normal(size=net.forward(x)[0].shape)

    def loss(y: Array, weights: Array) -> tuple[float, Array]:
        return float((y * weights).sum()), weights

    return check_grads(net, x, weights, loss, seed=seed, **options)


def _check_twin(
    net: Network,
    x: Array,
    targets: Any,
    loss: Loss,
    twin: str,
    rng: np.random.Generator,
    directions: int,
    report: Report,
    train: bool,
    draws: Any,
) -> None:
    fire = TWINS[twin]
    run = {"smooth": net.smoothed, "tangent": lambda: net, "slope 0": lambda: with_slope_zero(net)}[twin]()
    scores, base = run.forward(x, train=train, rng=draws)
    d_state: dict[str, Any] = {}
    _, d_scores = loss(scores, targets)
    if twin == "slope 0":
        d_state = {n: {s: rng.normal(size=v.shape) for s, v in state.items()} for n, state in base.state.items()}
        d_scores = np.zeros_like(d_scores)
    d_x, grads = run.backward(d_scores, base, d_state=d_state)
    gradients: dict[str, Array] = {**grads, "x": d_x}

    # One copy to shift parameters in; the network under check is never touched.
    shifted = run.astype("float64")
    arrays = {**shifted.params(), "x": x.copy()}
    for name, array in arrays.items():
        gradient, start = gradients[name], array.copy()
        rows = []
        for _ in range(directions):
            direction = rng.normal(size=array.shape)

            def along(h: float, array=array, start=start, direction=direction) -> tuple[float, Array]:
                np.add(start, h * direction, out=array)
                y, caches = run_twin(shifted, arrays["x"], base, fire)
                if twin == "slope 0":
                    value = sum((s[n] * d_state[layer][n]).sum() for layer, s in caches.state.items() for n in s)
                else:
                    value = loss(y, targets)[0]
                sides = _sides(shifted, caches)
                array[...] = start  # only now: what a layer returns may be a view of its input
                return float(value), sides

            scale = float(np.linalg.norm(gradient) * np.linalg.norm(direction))
            rows.append(_row(twin, name, gradient, float((gradient * direction).sum()), richardson(along), scale))
        report.add_worst(rows)


def _sides(net: Network, caches: Caches) -> Array:
    """On which side of its kinks (a threshold, a maximum) every value lies: a difference across one is no derivative."""
    sides = [side.ravel() for n, c in caches.items() if (side := net[n].sides(c)) is not None]
    return np.concatenate(sides) if sides else np.zeros(0, bool)


def _row(twin: str, name: str, gradient: Array, analytic: float, numeric: Difference, scale: float) -> Row:
    scale = max(scale, abs(numeric.value)) or 1.0
    error, estimate = abs(analytic - numeric.value) / scale, numeric.error / scale
    tolerance = max(TOLERANCE, min(10 * estimate, TOO_COARSE))
    origin = "differences along a random direction, relative to the norms of gradient and direction"
    if numeric.crossed:
        origin = "a threshold lies within every step tried: choose another input or seed"
    decided = not numeric.crossed and estimate <= TOO_COARSE
    ok = bool(decided and error <= tolerance)
    return Row(twin, name, gradient.shape, analytic, numeric.value, error, tolerance, origin, ok)
