"""Random problems that hide no mistake."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..kernels import Dynamics
from ..kernels.arrays import Array
from .loop import Run, fire_hard, fire_smooth, run

__all__ = ["Problem", "draw", "run_of"]

#: How far the inputs and states are stretched, in turn, until a neuron is found that fires and stays finite.
SCALES = (1.0, 3.0, 0.3, 0.1, 10.0, 0.03)
TAME, FINITE = 1e3, 1e60


class Problem(NamedTuple):
    """Arguments of a scan, and gradients from above: of the spikes and of the last state."""

    x: Array
    state0: Array
    theta: Array
    params: Array
    k: float
    d_spikes: Array
    d_state_last: Array


def run_of(dynamics: Dynamics, problem: Problem, smooth: bool = False) -> Run:
    """The hard or the smooth run of a problem."""
    fire = (fire_smooth if smooth else fire_hard)(dynamics, problem.k)
    return run(dynamics, problem.x, tuple(problem.state0), problem.theta, tuple(problem.params), fire)


def draw(dynamics: Dynamics, rng: np.random.Generator, shape: tuple[int, int, int] = (6, 2, 3), tries: int = 60) -> Problem:
    """A random problem that hides no mistake, float64.

    Defaults hide mistakes: at k = 2 the factor k/2 of atan is 1, at threshold 1 ``theta * d_v`` looks like ``d_v``, at T = 1
    or decay 0 a detached reset looks right.  So k lies in (0.6, 4), thresholds in (0.4, 1.8), parameters in (0.2, 0.95),
    states and all gradients are nonzero; and it is drawn anew until there is a spike, a silence, and a spike followed by a
    silence, as far as the shape allows.  A neuron that overflows gets other inputs and states, then fewer steps, down to 3.

    Raises
    ------
    ValueError : no such run, or only runs that overflow, in `tries` draws of each kind.
    """
    steps = [shape[0]] + [3] * (shape[0] > 3)
    for limit in (TAME, FINITE):
        for T in steps:
            for scale in SCALES:
                for _ in range(tries):
                    problem = _draw_once(dynamics, rng, (T, *shape[1:]), scale)
                    if _hides_nothing(dynamics, problem, limit):
                        return problem
    raise ValueError(
        f"{dynamics.neuron}: no finite run with a spike and a silence after it, in {tries} draws each of inputs and states "
        f"{' and '.join(f'{s:g}' for s in SCALES)} times the usual size over {' and '.join(map(str, steps))} "
        "steps. Does the "
        "neuron overflow, fire always, or never? The thresholds tried lie in 0.4 to 1.8, the parameters in 0.2 to 0.95"
    )


def _draw_once(dynamics: Dynamics, rng: np.random.Generator, shape: tuple[int, int, int], scale: float) -> Problem:
    n_states, n_params = len(dynamics.neuron.state), len(dynamics.neuron.params)
    return Problem(
        x=rng.normal(0.6, 1.0, shape) * scale,
        state0=rng.normal(0.0, 0.7, (n_states, *shape[1:])) * scale,
        theta=rng.uniform(0.4, 1.8, shape[2]),
        params=rng.uniform(0.2, 0.95, (n_params, shape[2])),
        k=float(rng.uniform(0.6, 4.0)),
        d_spikes=rng.normal(size=shape),
        d_state_last=rng.normal(size=(n_states, *shape[1:])),
    )


def _hides_nothing(dynamics: Dynamics, problem: Problem, limit: float) -> bool:
    with np.errstate(all="ignore"):
        hard = run_of(dynamics, problem)
        spikes = np.stack(hard.spikes)
        enough = spikes.size == 1 or 0 < spikes.mean() < 1
        if len(spikes) > 1:
            enough = enough and bool(((spikes[:-1] == 1) & (spikes[1:] == 0)).any())
        return enough and all(largest(r) <= limit for r in (hard, run_of(dynamics, problem, smooth=True)))


def largest(found: Run) -> float:
    """The largest absolute value among all states of a run; NaN counts as infinite."""
    values = [np.max(np.abs(v)) for states in (*found.charged, found.last) for v in states]
    return float(np.nan_to_num(np.max(values), nan=np.inf, posinf=np.inf))
