"""Two derivations side by side: what an approximation keeps, by time lag and by path."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..kernels import Dynamics
from ..kernels.arrays import Array
from ..neurons import Neuron, lif
from ..resets import Reset, hard
from ..surrogates import Surrogate, atan
from .calls import reported
from .check_scan import draw_from_rest, run_users
from .explain_loops import mutant_gradients
from .mutants import Mutant
from .oracle import Problem, run
from .report import Report, row_of

__all__ = ["compare"]

ORIGIN = (
    "relative to the largest entry of the other; cosines and shares of the norm stand in the notes"
)
#: A line of a mutant: the carry is 0 up to a step.
CUT = "d_v, d_others = (d_v, d_others) if t > {} else (0 * d_v, [0 * d for d in d_others])"
#: Known rules: name -> the mutants that make them of backpropagation through time.
RULES: dict[str, tuple[Mutant, ...]] = {
    "bptt": (),
    "detached": (Mutant("reset", "d_s = 0 * d_v", ""),),
    "no carry": (Mutant("step", CUT.format("T"), ""),),
}

Gradients = Callable[[Problem], dict[str, Array]]


def compare(
    mine: Any,
    other: Any = "bptt",
    *,
    neuron: Neuron = lif,
    reset: Reset = hard,
    surrogate: Surrogate | None = None,
    steps: int = 8,
    seed: int = 0,
) -> Report:
    """Compare two derivations of one time loop, of which at least one approximates on purpose.

    Parameters
    ----------
    mine, other : each a pair ``(forward, backward)`` as for :func:`minisnn.checks.check_scan`
        (forward traces, e-prop, ...), a :class:`~minisnn.Reset` whose adjoint leaves something
        out, or the name of a rule: "bptt", "detached" (no gradient through the reset's spike),
        "no carry" (each step by itself), "truncated 3" (at most 3 steps back).
    neuron, reset, surrogate : the loop; LIF, hard reset and atan with k = 2 if not given.
    steps, seed : of the problem drawn.

    Returns
    -------
    report : ``.ok`` if they are the same.  Its notes hold, for each time lag (steps from a spike
        back to the input), the cosine between the two and the share of the norm; and how much of
        each *path* of backpropagation through time `mine` holds: direct (lag 0), carry (through
        the membrane), reset (through the reset's spike).
    """
    dynamics = Dynamics(neuron, reset, atan(2.0) if surrogate is None else surrogate)
    names, loop = (_name(mine), _name(other)), f"{neuron.charge.__name__}, {reset}, T = {steps}"
    report = Report(f"{names[0]} compared with {names[1]}: {loop}")
    problem = draw_from_rest(dynamics, seed, (steps, 16, 8)).problem
    with reported(report.problems):
        rules = [_gradients(rule, dynamics, report) for rule in (mine, other)]
        a, b = (rule(problem) for rule in rules)
        for n in b:
            if np.size(b[n]):
                twin, part = f"against {names[1]}", f"d_{n}"
                report.rows.append(row_of(twin, part, a[n], b[n], ORIGIN, tolerance=1e-9))
                share = f"norm {_share(a[n], b[n]):.2f} times"
                report.notes.append(f"{part}: cosine {_cosine(a[n], b[n]):.3f}, {share}")
        _by_lag(report, rules, problem)
        _by_path(report, a["x"], dynamics, problem)
    return report


def _name(rule: Any) -> str:
    if isinstance(rule, str):
        return rule
    function = rule.reset_adjoint if isinstance(rule, Reset) else rule[1]
    return getattr(function, "__name__", "yours")


def _gradients(rule: Any, dynamics: Dynamics, report: Report) -> Gradients:
    """A rule as a function from problems to gradients by name."""
    if isinstance(rule, Reset):
        return lambda p: _walk(dynamics._replace(reset=rule), p)
    if isinstance(rule, tuple) and len(rule) == 2 and all(map(callable, rule)):
        return lambda p: run_users(*rule, run(dynamics, p), dynamics, report.problems)
    if isinstance(rule, str) and rule in RULES:
        return lambda p: _walk(dynamics, p, *RULES[rule])
    name, _, steps = rule.partition(" ") if isinstance(rule, str) else ("", "", "")
    if name == "truncated" and steps.strip().isdigit():
        return lambda p: _truncated(dynamics, p, int(steps))
    raise TypeError(
        f"compare: expected (forward, backward), a ms.Reset, or one of "
        f"{', '.join(map(repr, RULES))}, 'truncated N', got {rule!r}"
    )


def _walk(dynamics: Dynamics, p: Problem, *mutants: Mutant) -> dict[str, Array]:
    found = mutant_gradients(dynamics, run(dynamics, p), mutants)
    assert found is not None
    return {n: found[n] for n in ("x", "threshold", *dynamics.neuron.params)}


def _truncated(dynamics: Dynamics, p: Problem, steps: int) -> dict[str, Array]:
    """Each spike's gradient goes back over at most `steps` steps."""
    parts = []
    for t in range(len(p.x)):
        cut = Mutant("step", CUT.format(t - steps), "")
        parts.append(_walk(dynamics, _told_at(p, t), cut))
    return {n: sum(part[n] for part in parts) for n in parts[0]}


def _told_at(p: Problem, t: int) -> Problem:
    """The problem with a gradient from above at step t alone."""
    alone = np.zeros_like(p.d_spikes)
    alone[t] = p.d_spikes[t]
    return p._replace(d_spikes=alone)


def _cosine(a: Array, b: Array) -> float:
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.vdot(a, b)) / norms if norms else float(not (np.any(a) or np.any(b)))


def _share(a: Array, b: Array) -> float:
    return float(np.linalg.norm(a) / (np.linalg.norm(b) or 1.0))


def _by_lag(report: Report, rules: list[Gradients], p: Problem) -> None:
    """An adjoint is linear in d_spikes: a gradient at step t alone shows what goes back from t."""
    T = len(p.x)
    lags: list[list[list[Array]]] = [[[] for _ in range(T)] for _ in rules]
    for t in range(T):
        for found, rule in zip(lags, rules, strict=True):
            d_x = rule(_told_at(p, t))["x"]
            for lag in range(t + 1):
                found[lag].append(d_x[t - lag])
    parts = [[np.array(a) for a in found] for found in lags]
    whole = [np.sqrt(sum(np.linalg.norm(a) ** 2 for a in found)) or 1.0 for found in parts]
    table = []
    for lag, pair in enumerate(zip(*parts, strict=True)):
        shares = [float(np.linalg.norm(a) / size) for a, size in zip(pair, whole, strict=True)]
        table.append((lag, _cosine(*pair), *shares))
        share = f"share of the norm {shares[0]:.3f}, other {shares[1]:.3f}"
        report.notes.append(f"lag {lag}: cosine {table[-1][1]:6.3f}; {share}")
    report.pictures["lags"] = table


def _by_path(report: Report, mine: Array, dynamics: Dynamics, p: Problem) -> None:
    """How much of each path of backpropagation through time `mine` holds, by least squares."""
    whole, detached, direct = (_walk(dynamics, p, *mutants)["x"] for mutants in RULES.values())
    paths = {"direct": direct, "carry": detached - direct, "reset": whole - detached}
    least = 1e-12 * np.linalg.norm(whole)
    paths = {n: d for n, d in paths.items() if np.linalg.norm(d) > least}
    columns = np.stack([d.ravel() for d in paths.values()], axis=1)
    held = np.linalg.lstsq(columns, mine.ravel(), rcond=None)[0]
    rest = _share(columns @ held - mine.ravel(), mine)
    shares = [_share(d, whole) for d in paths.values()]
    report.pictures["paths"] = list(zip(paths, map(float, held), shares, strict=True))
    for n, h, share in report.pictures["paths"]:
        norm = f"its norm is {share:.3f} of the whole gradient's"
        report.notes.append(f"path {n}: {h:6.3f} of it held; {norm}")
    report.notes.append(f"of no path: {rest:.3f} of the norm")
