"""The true gradients of a time loop, by the complex step through its twins, and the comparison with them."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..kernels import Dynamics
from ..kernels.arrays import Array
from .loop import fire_hard, fire_smooth, fire_tangent, run
from .problem import Problem, run_of
from .report import Row

__all__ = ["ORIGIN", "TOLERANCE", "row_of", "true_gradients", "truth"]

TOLERANCE = 1e-12
ORIGIN = "the time loop: complex step, relative to the largest entry, its terms taken without sign"


def true_gradients(dynamics: Dynamics, problem: Problem, twin: str) -> dict[str, Array]:
    """The complex step through a twin, every entry of every argument at once."""
    return truth(dynamics, problem, twin)[0]


def truth(dynamics: Dynamics, problem: Problem, twin: str) -> tuple[dict[str, Array], dict[str, Array]]:
    """The gradients, and the sizes that rounding is measured against: their terms, one for each d above, without sign."""
    base = run_of(dynamics, problem, smooth=twin == "smooth")
    fire = {"smooth": fire_smooth, "tangent": lambda d, k: fire_tangent(d, k, base), "slope 0": fire_hard}[twin]
    d_spikes = 0 * problem.d_spikes if twin == "slope 0" else problem.d_spikes
    found, sizes, h = {}, {}, 1e-30
    for name in ("x", "state0", "theta", "params"):
        at = getattr(problem, name)
        if not at.size:
            found[name] = sizes[name] = np.zeros(at.shape)
            continue
        # One entry shifted in each of at.size copies; the copies are a first axis that everything broadcasts over.
        shifted = at + 1j * h * np.eye(at.size).reshape(at.size, *at.shape)
        arguments = {n: getattr(problem, n)[None] for n in ("x", "state0", "theta", "params")} | {name: shifted}
        x, state0, theta, params = (np.moveaxis(a, 0, -3) if n != "theta" else a for n, a in arguments.items())
        lanes = tuple(np.moveaxis(params, -2, 0)[..., None, :]) if len(problem.params) else ()
        twin_run = run(dynamics, x, tuple(state0), theta[:, None], lanes, fire(dynamics, problem.k), base)
        terms = [np.imag(s) / h * d for s, d in zip(twin_run.spikes, d_spikes, strict=True)]
        terms += [np.imag(v) / h * d for v, d in zip(twin_run.last, problem.d_state_last, strict=True)]
        total: Any = sum(term.sum((-2, -1)) for term in terms)
        size: Any = sum(np.abs(term).sum((-2, -1)) for term in terms)
        found[name], sizes[name] = (np.broadcast_to(v, at.size).reshape(at.shape) for v in (total, size))
    return found, sizes


def row_of(
    twin: str, name: str, analytic: Array, numeric: Array, tolerance: float, origin: str, sizes: Array | None = None
) -> Row:
    """Two arrays compared: the entry where they differ most, relative to the largest (of `sizes`, where given)."""
    difference = np.abs(analytic - numeric)
    scale = np.abs(numeric if sizes is None else sizes).max()
    error = float(difference.max() / scale) if scale > 0 else float(difference.max())
    ok = bool(error <= tolerance)  # where all is right the largest entry is shown: the worst one is a matter of rounding
    at = tuple(int(i) for i in np.unravel_index(np.argmax(np.abs(numeric) if ok else difference), difference.shape))
    return Row(twin, name, analytic.shape, float(analytic[at]), float(numeric[at]), error, tolerance, origin, ok, at)
