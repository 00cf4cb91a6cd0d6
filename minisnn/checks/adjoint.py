"""Is a neuron, a reset and a surrogate derived right?  Every entry of every gradient, by the complex step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ..kernels import Base, Dynamics, check_backend, default_backend, kernel_of
from ..kernels.contract import Array
from ..neurons import Neuron
from ..resets import Reset
from ..surrogates import Surrogate
from .differences import complex_step
from .report import Report, Row
from .twins import TWINS, without_slope

__all__ = ["Problem", "check_adjoint", "draw"]

TOLERANCE = 1e-12


class Problem(NamedTuple):
    """Arguments of a scan, and gradients from above: of the spikes and of the last state."""

    x: Array
    state0: Array
    theta: Array
    params: Array
    k: float
    d_spikes: Array
    d_state_last: Array


def draw(dynamics: Dynamics, rng: np.random.Generator, shape: tuple[int, int, int] = (6, 2, 3), tries: int = 200) -> Problem:
    """A random problem that hides no mistake, float64.

    Defaults hide mistakes: at k = 2 the factor k/2 of atan is 1, at threshold 1 ``theta * d_v`` looks like ``d_v``, at T = 1
    or decay 0 a detached reset looks right.  So k lies in (0.6, 4), thresholds in (0.4, 1.8), parameters in (0.2, 0.95),
    states and all gradients are nonzero; and it is drawn anew until there is a spike, a silence, and a spike followed by a
    silence, as far as the shape allows.

    Raises
    ------
    ValueError : no such run, or only runs that overflow, in `tries` draws.
    """
    n_states, n_params = len(dynamics.neuron.state), len(dynamics.neuron.params)
    kernel = kernel_of(dynamics, "numpy")
    for _ in range(tries):
        problem = Problem(
            x=rng.normal(0.6, 1.0, shape),
            state0=rng.normal(0.0, 0.7, (n_states, *shape[1:])),
            theta=rng.uniform(0.4, 1.8, shape[2]),
            params=rng.uniform(0.2, 0.95, (n_params, shape[2])),
            k=float(rng.uniform(0.6, 4.0)),
            d_spikes=rng.normal(size=shape),
            d_state_last=rng.normal(size=(n_states, *shape[1:])),
        )
        with np.errstate(all="ignore"):
            spikes, last, cache = kernel.scan(*problem[:5])
        enough = spikes.size == 1 or 0 < spikes.mean() < 1
        if shape[0] > 1:
            enough = enough and bool(((spikes[:-1] == 1) & (spikes[1:] == 0)).any())
        if enough and np.isfinite(last).all() and np.isfinite(cache.u).all():
            return problem
    raise ValueError(f"{dynamics.neuron}: no finite run with a spike and a silence after it in {tries} draws of {shape}")


def check_adjoint(
    neuron: Neuron, reset: Reset, surrogate: Surrogate, *, seed: int = 0, draws: int = 3, backend: str | None = None
) -> Report:
    """Check the adjoints of a neuron, a reset and a surrogate inside the time loop.

    The gradient of every input, initial state, threshold and parameter is compared with the complex step through the smooth
    twin, the tangent twin, and the real network with slope 0 (see :mod:`minisnn.checks.twins`), on random problems that hide
    no mistake.  The steepness is drawn as well: a slope may be right at one k only.

    Parameters
    ----------
    neuron, reset, surrogate : the ingredients; `reset.stop` is respected.
    seed, draws : the problems drawn.
    backend : whose adjoint is checked; the default backend of this machine if not given.

    Returns
    -------
    report : worst entry of each gradient over the draws; relative error allowed: 1e-12.
    """
    for value, kind in ((neuron, Neuron), (reset, Reset), (surrogate, Surrogate)):
        if not isinstance(value, kind):
            raise TypeError(f"check_adjoint(neuron, reset, surrogate): expected a ms.{kind.__name__}, got {value!r}")
    backend = default_backend() if backend is None else check_backend(backend)
    functions = ", ".join(f.__name__ for f in (neuron.charge, reset.reset, surrogate.slope))
    report = Report(f"adjoints of {functions}; stop={reset.stop}; on {backend}")
    dynamics = Dynamics(neuron, reset, surrogate)
    problems = [draw(dynamics, np.random.default_rng([seed, number])) for number in range(draws)]
    problems[0] = problems[0]._replace(k=surrogate.k)  # the others have a k of their own: a slope may be right at one only
    report.add_worst([row for p in problems for twin in TWINS for row in compare(dynamics, p, twin, backend)])
    if not report.ok:
        report.notes += _other_stop(dynamics, problems, backend)
    return report


def compare(dynamics: Dynamics, problem: Problem, twin: str, backend: str) -> list[Row]:
    """One row for each gradient of one problem on one twin."""
    fire = TWINS[twin]
    d_spikes, d_last = problem.d_spikes, problem.d_state_last
    if twin == "slope 0":  # a loss on membranes alone: the jump itself has no derivative
        dynamics, d_spikes = Dynamics(dynamics.neuron, dynamics.reset, without_slope(dynamics.surrogate)), 0 * d_spikes
    kernel, reference = kernel_of(dynamics, backend), kernel_of(dynamics, "numpy")
    _, _, cache = kernel.scan(*problem[:5], fire="smooth" if fire == "smooth" else "step")
    d_x, d_state0, d_theta, d_params = kernel.scan_adjoint(d_spikes, d_last, cache)
    base = Base(cache.u[0], cache.spikes, cache.theta)

    def loss(**changed: Array) -> complex:
        spikes, last, _ = reference.scan(*problem._replace(**changed)[:5], fire=fire, base=base)
        return (spikes * d_spikes).sum() + (last * d_last).sum()

    analytic: dict[str, Array] = {"x": d_x, "state0": d_state0}
    analytic |= {"theta": np.sum(d_theta, axis=0), "params": np.sum(d_params, axis=1)}  # type: ignore[arg-type]
    rows = []
    for name, gradient in analytic.items():
        numeric = complex_step(partial(_loss_of, loss, name), getattr(problem, name))
        if name in ("state0", "params"):
            names = dynamics.neuron.state if name == "state0" else dynamics.neuron.params
            parts: Any = [(f"d_{n}" + "[0]" * (name == "state0"), gradient[i], numeric[i]) for i, n in enumerate(names)]
        else:
            parts = [(f"d_{'threshold' if name == 'theta' else name}", gradient, numeric)]
        rows += [_row(twin, *part) for part in parts]
    return rows


def _loss_of(loss: Callable[..., complex], name: str, value: Array) -> complex:
    return loss(**{name: value})


def _row(twin: str, name: str, analytic: Array, numeric: Array) -> Row:
    difference = np.abs(analytic - numeric)
    scale = np.abs(numeric).max()
    error = float(difference.max() / scale) if scale > 0 else float(difference.max())
    at = np.unravel_index(np.argmax(difference), difference.shape)
    origin = "complex step, relative to the largest entry"
    ok = bool(error <= TOLERANCE)
    return Row(twin, name, analytic.shape, float(analytic[at]), float(numeric[at]), error, TOLERANCE, origin, ok)


def _other_stop(dynamics: Dynamics, problems: list[Problem], backend: str) -> list[str]:
    """If the adjoint is wrong for the `stop` claimed but exact for another one, say so."""
    neuron, reset, surrogate = dynamics
    for stop in ((), ("s",), ("theta",), ("s", "theta"), ("u",), ("u", "s"), ("u", "theta"), ("u", "s", "theta")):
        other = Dynamics(neuron, Reset(reset.reset, reset.reset_adjoint, stop), surrogate)
        if set(stop) != set(reset.stop) and all(
            row.ok for p in problems for twin in TWINS for row in compare(other, p, twin, backend)
        ):
            return [f"exact for stop={stop}, these arguments of the reset being constants; you claimed stop={reset.stop}"]
    return []
