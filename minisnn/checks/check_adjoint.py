"""Is a neuron, a reset and a surrogate derived right?  In one step, and in the time loop."""

from __future__ import annotations

from itertools import product

import numpy as np

from ..kernels import Dynamics, Twin, check_backend, default_backend, kernel_of
from ..kernels.arrays import Array
from ..neurons import Neuron
from ..resets import Reset
from ..surrogates import Surrogate
from .explain_loops import explain
from .oracle import Problem, Run, Shape, by_name, draw, loop_rows, run
from .proof import prove
from .report import Report, Row
from .steps import check_steps, steps_of
from .twins import TWINS, without_slope

__all__ = ["check_adjoint", "rows_of"]


def check_adjoint(
    neuron: Neuron,
    reset: Reset,
    surrogate: Surrogate,
    *,
    seed: int = 0,
    draws: int = 3,
    backend: str | None = None,
) -> Report:
    """Check the adjoints of a neuron, a reset and a surrogate: each alone, and in the time loop.

    First one step, cell by cell: each partial derivative that the adjoints hold, against the true
    one (see :mod:`minisnn.checks.steps`).  Then the loop: the gradient of every input, initial
    state, threshold and parameter, against the complex step through the smooth twin, the tangent
    twin, and the real network with slope 0 (see :mod:`minisnn.checks.twins`), on random problems
    that hide no mistake.  The steepness is drawn as well, since a slope may be right at one k only.
    What is wrong is explained: as a formula if one step is wrong, by name if the loop is.

    Parameters
    ----------
    neuron, reset, surrogate : the ingredients; `reset.stop` is respected.
    seed, draws : the problems drawn.
    backend : whose time loop is checked; the default backend of this machine if not given.

    Returns
    -------
    report : worst entry of each gradient over the draws; relative error allowed: 1e-12.

    Raises
    ------
    ValueError : the neuron overflows, or never fires, in every problem drawn.
    """
    for value, kind in ((neuron, Neuron), (reset, Reset), (surrogate, Surrogate)):
        if not isinstance(value, kind):
            expected = f"expected a ms.{kind.__name__}, got {value!r}"
            raise TypeError(f"check_adjoint(neuron, reset, surrogate): {expected}")
    backend = default_backend() if backend is None else check_backend(backend)
    functions = ", ".join(f.__name__ for f in (neuron.charge, reset.reset, surrogate.slope))
    report = Report(f"adjoints of {functions}; stop={reset.stop}; on {backend}")
    dynamics = Dynamics(neuron, reset, surrogate)
    problems = [draw(dynamics, np.random.default_rng([seed, number])) for number in range(draws)]
    problems[0] = problems[0]._replace(k=surrogate.k)  # the others have a k of their own
    report.rows, report.problems = check_steps(steps_of(dynamics), seed)
    with np.errstate(all="ignore"):
        report.problems += _forward_differs(dynamics, problems, backend)
        report.add_worst(_all_rows(dynamics, problems, backend))
        if report.ok and (proved := prove(dynamics)):
            report.notes.append(proved)
        elif not report.ok:
            report.notes += _other_stop(dynamics, problems, backend)

    def drawn(n: int, shape: Shape) -> Run:
        return run(dynamics, draw(dynamics, np.random.default_rng([seed, 5, n]), shape))

    def gradients(ran: Run) -> dict[str, Array]:
        return kernel_gradients(dynamics, ran.problem, "tangent", backend)

    explain(report, dynamics, drawn, gradients, seed)
    return report


def _all_rows(dynamics: Dynamics, problems: list[Problem], backend: str) -> list[Row]:
    return [r for p, twin in product(problems, TWINS) for r in rows_of(dynamics, p, twin, backend)]


def rows_of(dynamics: Dynamics, problem: Problem, twin: str, backend: str) -> list[Row]:
    """One row for each gradient of one problem on one twin."""
    return loop_rows(dynamics, problem, twin, kernel_gradients(dynamics, problem, twin, backend))


def kernel_gradients(
    dynamics: Dynamics, problem: Problem, twin: str, backend: str
) -> dict[str, Array]:
    """The gradients of a problem by the time loop of a backend."""
    d_spikes, d_last = problem.d_spikes, problem.d_state_last
    if twin == "slope 0":  # a loss on membranes alone: the jump itself has no derivative
        surrogate, d_spikes = without_slope(dynamics.surrogate), 0 * d_spikes
        dynamics = dynamics._replace(surrogate=surrogate)
    kernel = kernel_of(dynamics, backend)
    _, _, cache = kernel.scan(*problem[:5], Twin("smooth" if twin == "smooth" else "step"))
    d_x, d_state0, d_theta, d_params = kernel.scan_adjoint(d_spikes, d_last, cache)
    assert d_theta is not None and d_params is not None
    sums = {"theta": d_theta.sum(axis=0), "params": d_params.sum(axis=1)}
    return by_name(dynamics, {"x": d_x, "state0": d_state0, **sums})


def _forward_differs(dynamics: Dynamics, problems: list[Problem], backend: str) -> list[str]:
    """The first step at which a backend's run differs from that of the equations."""
    what = f"the forward run on {backend}"
    for problem in problems:
        spikes, last, cache = kernel_of(dynamics, backend).scan(*problem[:5])
        expected = run(dynamics, problem)
        u = np.stack([charged[0] for charged in expected.charged])
        too_far = np.abs(cache.u[0] - u).max((1, 2)) > 1e-9 * np.abs(u).max((1, 2))
        wrong = too_far | (spikes != np.stack(expected.spikes)).any((1, 2))
        if wrong.any():
            equations = "the equations u = charge, s = (u >= theta), v = reset"
            at = f"at step t = {int(np.argmax(wrong))}, before any gradient is taken"
            return [f"{what} leaves {equations} {at}"]
        state = np.stack([np.broadcast_to(v, u.shape[1:]) for v in expected.states[-1]])
        if last is None or not np.allclose(last, state, rtol=1e-9):
            return [f"{what} returns another last state than the equations do"]
    return []


def _other_stop(dynamics: Dynamics, problems: list[Problem], backend: str) -> list[str]:
    """If the adjoint is wrong for the `stop` claimed but exact for another one, say so."""
    functions, claimed = (dynamics.reset.reset, dynamics.reset.reset_adjoint), dynamics.reset.stop
    for u, s, theta in product((0, 1), repeat=3):
        stop = ("u",) * u + ("s",) * s + ("theta",) * theta
        other = dynamics._replace(reset=Reset(*functions, stop))
        if {*stop} != {*claimed} and all(r.ok for r in _all_rows(other, problems, backend)):
            held = f"exact for stop={stop}, these arguments of the reset being constants"
            return [f"{held}; you claimed stop={claimed}"]
    return []
