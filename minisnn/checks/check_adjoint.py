"""Is a neuron, a reset and a surrogate derived right?  Cell by cell in one step, entry by entry in the time loop."""

from __future__ import annotations

import numpy as np

from ..kernels import Dynamics, Twin, check_backend, default_backend, kernel_of
from ..kernels.arrays import Array
from ..neurons import Neuron
from ..resets import Reset
from ..surrogates import Surrogate
from .explain_formulas import explain_step
from .explain_loops import explain_loop
from .oracle import ORIGIN, TOLERANCE, Problem, draw, row_of, run_of, truth
from .proof import prove
from .report import Report, Row
from .steps import check_steps, steps_of
from .twins import TWINS, without_slope

__all__ = ["check_adjoint", "rows_of"]


def check_adjoint(
    neuron: Neuron, reset: Reset, surrogate: Surrogate, *, seed: int = 0, draws: int = 3, backend: str | None = None
) -> Report:
    """Check the adjoints of a neuron, a reset and a surrogate: each by itself, and all inside the time loop.

    First one step, cell by cell: each partial derivative that the adjoints hold, against the true one (see
    :mod:`minisnn.checks.steps`).  Then the loop: the gradient of every input, initial state, threshold and parameter, against
    the complex step through the smooth twin, the tangent twin, and the real network with slope 0 (see
    :mod:`minisnn.checks.twins`), on random problems that hide no mistake.  The steepness is drawn as well: a slope may be
    right at one k only.  What is wrong is explained: as a formula where one step is wrong, by name where the loop is.

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
    ValueError : the neuron overflows, or never fires, in every problem drawn: nothing can be said about it.
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
    steps = steps_of(dynamics)
    report.rows, report.problems = check_steps(steps, seed)
    steps_right = report.ok
    if not steps_right:
        report.find([finding for step in steps for finding in explain_step(step, seed)])
    with np.errstate(all="ignore"):
        report.problems += _forward_differs(dynamics, problems, backend)
        report.add_worst([row for p in problems for twin in TWINS for row in rows_of(dynamics, p, twin, backend)])
        if report.ok and (proved := prove(dynamics)):
            report.notes.append(proved)
        elif not report.ok:
            report.notes += _other_stop(dynamics, problems, backend)
        if steps_right and not report.ok:  # each function is right, hence the loop around them is not
            report.find(
                explain_loop(
                    dynamics,
                    lambda p: kernel_gradients(dynamics, p, "tangent", backend),
                    lambda number, shape: draw(dynamics, np.random.default_rng([seed, 5, number]), shape),
                )
            )
    return report


def rows_of(dynamics: Dynamics, problem: Problem, twin: str, backend: str) -> list[Row]:
    """One row for each gradient of one problem on one twin."""
    yours, (true, sizes) = kernel_gradients(dynamics, problem, twin, backend), truth(dynamics, problem, twin)
    neuron, rows = dynamics.neuron, []
    for name, parts in (("x", ("d_x",)), ("state0", neuron.state), ("theta", ("d_threshold",)), ("params", neuron.params)):
        for i, part in enumerate(parts):
            a, b, size = (d[name][i] if name in ("state0", "params") else d[name] for d in (yours, true, sizes))
            label = {"state0": f"d_{part}[0]", "params": f"d_{part}"}.get(name, part)
            rows.append(row_of(twin, label, a, b, TOLERANCE, ORIGIN, size))
    return rows


def kernel_gradients(dynamics: Dynamics, problem: Problem, twin: str, backend: str) -> dict[str, Array]:
    """What the adjoint of a backend's time loop makes of a problem."""
    d_spikes, d_last = problem.d_spikes, problem.d_state_last
    if twin == "slope 0":  # a loss on membranes alone: the jump itself has no derivative
        dynamics, d_spikes = dynamics._replace(surrogate=without_slope(dynamics.surrogate)), 0 * d_spikes
    kernel = kernel_of(dynamics, backend)
    _, _, cache = kernel.scan(*problem[:5], Twin("smooth" if twin == "smooth" else "step"))
    d_x, d_state0, d_theta, d_params = kernel.scan_adjoint(d_spikes, d_last, cache)
    found = {"x": d_x, "state0": d_state0, "theta": np.sum(d_theta, axis=0)}  # type: ignore[arg-type]
    return found | {"params": np.sum(d_params, axis=1)}  # type: ignore[arg-type]


def _forward_differs(dynamics: Dynamics, problems: list[Problem], backend: str) -> list[str]:
    """Where a backend's run is not the run of the derivation."""
    for problem in problems:
        spikes, last, cache = kernel_of(dynamics, backend).scan(*problem[:5])
        expected = run_of(dynamics, problem)
        u = np.stack([charged[0] for charged in expected.charged])
        scale = np.abs(u).max((1, 2))
        wrong = (spikes != np.stack(expected.spikes)).any((1, 2)) | (np.abs(cache.u[0] - u).max((1, 2)) > 1e-9 * scale)
        if wrong.any():
            return [f"the forward run on {backend} leaves the equations u = charge, s = (u >= theta), v = reset at step "
                    f"t = {int(np.argmax(wrong))}, before any gradient is taken"]  # fmt: skip
        if last is None or not np.allclose(
            last, np.stack([np.broadcast_to(v, last[0].shape) for v in expected.last]), rtol=1e-9
        ):
            return [f"the forward run on {backend} returns another last state than the equations do"]
    return []


def _other_stop(dynamics: Dynamics, problems: list[Problem], backend: str) -> list[str]:
    """If the adjoint is wrong for the `stop` claimed but exact for another one, say so."""
    reset = dynamics.reset
    for stop in ((), ("s",), ("theta",), ("s", "theta"), ("u",), ("u", "s"), ("u", "theta"), ("u", "s", "theta")):
        other = dynamics._replace(reset=Reset(reset.reset, reset.reset_adjoint, stop))
        if set(stop) != set(reset.stop) and all(
            row.ok for p in problems for twin in TWINS for row in rows_of(other, p, twin, backend)
        ):
            return [f"exact for stop={stop}, these arguments of the reset being constants; you claimed stop={reset.stop}"]
    return []
