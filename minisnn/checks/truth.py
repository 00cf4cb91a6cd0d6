"""The true gradients of a time loop, by the complex step through its twins, and the comparison with them."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..kernels import Dynamics
from ..kernels.contract import Array
from .loop import Run, fire_hard, fire_smooth, fire_tangent, run
from .problem import Problem, run_of
from .report import Row

__all__ = ["ORIGIN", "TOLERANCE", "row_of", "true_gradients"]

TOLERANCE = 1e-12
ORIGIN = "the time loop: complex step, relative to the largest entry"


def true_gradients(dynamics: Dynamics, problem: Problem, twin: str) -> dict[str, Array]:
    """The complex step through a twin, every entry of every argument at once."""
    base = run_of(dynamics, problem, smooth=twin == "smooth")
    fire = {"smooth": fire_smooth, "tangent": lambda d, k: fire_tangent(d, k, base), "slope 0": fire_hard}[twin]
    d_spikes = 0 * problem.d_spikes if twin == "slope 0" else problem.d_spikes
    found, h = {}, 1e-30
    for name in ("x", "state0", "theta", "params"):
        at = getattr(problem, name)
        if not at.size:
            found[name] = np.zeros(at.shape)
            continue
        # One entry shifted in each of at.size copies; the copies are a first axis that everything broadcasts over.
        shifted = at + 1j * h * np.eye(at.size).reshape(at.size, *at.shape)
        arguments = {n: getattr(problem, n)[None] for n in ("x", "state0", "theta", "params")} | {name: shifted}
        x, state0, theta, params = (np.moveaxis(a, 0, -3) if n != "theta" else a for n, a in arguments.items())
        lanes = tuple(np.moveaxis(params, -2, 0)[..., None, :]) if len(problem.params) else ()
        twin_run = run(dynamics, x, tuple(state0), theta[:, None], lanes, fire(dynamics, problem.k), base)
        moved = _loss(twin_run, d_spikes, problem.d_state_last).imag / h
        found[name] = np.broadcast_to(moved, at.size).reshape(at.shape)
    return found


def _loss(found: Run, d_spikes: Array, d_last: Array) -> Array:
    total: Any = sum((s * d).sum((-2, -1)) for s, d in zip(found.spikes, d_spikes, strict=True))
    return total + sum((v * d).sum((-2, -1)) for v, d in zip(found.last, d_last, strict=True))


def row_of(twin: str, name: str, analytic: Array, numeric: Array, tolerance: float, origin: str) -> Row:
    """Two arrays compared: the entry where they differ most, relative to the largest."""
    difference = np.abs(analytic - numeric)
    scale = np.abs(numeric).max()
    error = float(difference.max() / scale) if scale > 0 else float(difference.max())
    at = tuple(int(i) for i in np.unravel_index(np.argmax(difference), difference.shape))
    ok = bool(error <= tolerance)
    return Row(twin, name, analytic.shape, float(analytic[at]), float(numeric[at]), error, tolerance, origin, ok, at)
