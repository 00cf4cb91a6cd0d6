"""Two derivations side by side.  For approximations made on purpose, what they keep, by time lag and by path."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..kernels import Dynamics
from ..kernels.arrays import Array
from ..neurons import Neuron, lif
from ..resets import Reset, hard
from ..surrogates import Surrogate, atan
from .calls import Broken
from .check_scan import problem_from_rest, run_users
from .explain_loops import SLIPS, with_slips
from .oracle import Problem, Slip, row_of, run_of
from .report import Report

__all__ = ["compare"]

ORIGIN = "relative to the largest entry of the other; cosines and shares of the norm stand in the notes"
#: Known rules: name -> the slips that make them of backpropagation through time.
RULES: dict[str, tuple[str, ...]] = {"bptt": (), "detached": ("detached",), "no carry": ("no carry",)}

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
    """Compare two derivations of one time loop, of which at least one is an approximation made on purpose.

    Parameters
    ----------
    mine, other : each a pair ``(forward, backward)`` as for :func:`minisnn.checks.check_scan` (forward traces, e-prop, ...),
        a :class:`~minisnn.Reset` whose adjoint leaves something out, or the name of a rule: "bptt", "detached" (no gradient
        through the reset's spike), "no carry" (each step by itself), "truncated 3" (at most 3 steps back).
    neuron, reset, surrogate : the loop; LIF, hard reset and atan with k = 2 if not given.
    steps, seed : of the problem drawn.

    Returns
    -------
    report : ``.ok`` if they are the same.  Its notes hold, for each time lag (steps from the spike that is told to the input
        that hears of it), the cosine between the two and the share of the norm; and how much of each *path* of
        backpropagation through time `mine` holds: direct (lag 0), carry (through the membrane), reset (through the
        reset's spike).
    """
    dynamics = Dynamics(neuron, reset, atan(2.0) if surrogate is None else surrogate)
    report = Report(f"{_name(mine)} compared with {_name(other)}: {neuron.charge.__name__}, {reset}, T = {steps}")
    problem = problem_from_rest(dynamics, seed, (steps, 16, 8), False)
    try:
        rules = [_gradients(rule, dynamics, report) for rule in (mine, other)]
        a, b = (rule(problem) for rule in rules)
        report.rows = [row_of(f"against {_name(other)}", f"d_{n}", a[n], b[n], 1e-9, ORIGIN) for n in b if np.size(b[n])]
        report.notes += [
            f"d_{n}: cosine {_cosine(a[n], b[n]):.3f}, norm {_share(a[n], b[n]):.2f} times" for n in b if np.size(b[n])
        ]
        _by_lag(report, rules, problem)
        _by_path(report, a["x"], dynamics, problem)
    except Broken as error:
        report.problems.append(str(error))
    return report


def _name(rule: Any) -> str:
    if isinstance(rule, str):
        return rule
    return rule.reset_adjoint.__name__ if isinstance(rule, Reset) else getattr(rule[1], "__name__", "yours")


def _gradients(rule: Any, dynamics: Dynamics, report: Report) -> Gradients:
    """A rule as a function from problems to gradients by name."""
    if isinstance(rule, Reset):
        return lambda p: _walk(dynamics._replace(reset=rule), p, [])
    if isinstance(rule, tuple) and len(rule) == 2 and all(map(callable, rule)):
        return lambda p: run_users(*rule, dynamics, p, False, report.problems)
    if isinstance(rule, str) and rule in RULES:
        return lambda p: _walk(dynamics, p, [SLIPS[n] for n in RULES[rule]])
    words = rule.split() if isinstance(rule, str) else []
    if len(words) == 2 and words[0] == "truncated" and words[1].isdigit():
        return lambda p: _truncated(dynamics, p, int(words[1]))
    raise TypeError(
        f"compare: expected (forward, backward), a ms.Reset, or one of {', '.join(map(repr, RULES))}, "
        f"'truncated N', got {rule!r}"
    )


def _walk(dynamics: Dynamics, p: Problem, slips: list[Slip]) -> dict[str, Array]:
    found = with_slips(dynamics, (run_of(dynamics, p), p.d_spikes, p.d_state_last, p.k, {}), slips)
    assert found is not None
    named = {"x": found["x"], "threshold": found["theta"]}
    return named | {n: found["params"][i] for i, n in enumerate(dynamics.neuron.params)}


def _truncated(dynamics: Dynamics, p: Problem, steps: int) -> dict[str, Array]:
    """Each spike's gradient goes back over at most `steps` steps."""
    total: dict[str, Array] = {}
    for t in range(len(p.x)):

        def stop(e: SimpleNamespace, t: int = t) -> None:
            if e.t <= t - steps:
                e.d_v, e.d_others = 0 * e.d_v, [0 * d for d in e.d_others]

        part = _walk(dynamics, p._replace(d_spikes=_only(p.d_spikes, t)), [Slip("start", stop, "")])
        total = {n: total.get(n, 0) + d for n, d in part.items()}
    return total


def _only(d: Array, t: int) -> Array:
    """What comes from above at step t alone."""
    alone = np.zeros_like(d)
    alone[t] = d[t]
    return alone


def _cosine(a: Array, b: Array) -> float:
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.vdot(a, b)) / norms if norms else float(not (np.any(a) or np.any(b)))


def _share(a: Array, b: Array) -> float:
    return float(np.linalg.norm(a) / (np.linalg.norm(b) or 1.0))


def _by_lag(report: Report, rules: list[Gradients], p: Problem) -> None:
    """An adjoint is linear in d_spikes: what step t' tells step t is found by telling only t'."""
    T = len(p.x)
    lags: list[list[list[Array]]] = [[[] for _ in range(T)] for _ in rules]
    for t in range(T):
        for found, rule in zip(lags, rules, strict=True):
            d_x = rule(p._replace(d_spikes=_only(p.d_spikes, t)))["x"]
            for lag in range(t + 1):
                found[lag].append(d_x[t - lag])
    whole = [np.sqrt(sum(np.linalg.norm(part) ** 2 for parts in found for part in parts)) or 1.0 for found in lags]
    table = []
    for lag, (a, b) in enumerate(zip(*lags, strict=True)):
        shares = [float(np.linalg.norm(parts) / size) for parts, size in zip((a, b), whole, strict=True)]
        table.append((lag, _cosine(np.array(a), np.array(b)), *shares))
        report.notes.append(
            f"lag {lag}: cosine {table[-1][1]:6.3f}; share of the norm {shares[0]:.3f}, other {shares[1]:.3f}"
        )
    report.pictures["lags"] = table


def _by_path(report: Report, mine: Array, dynamics: Dynamics, p: Problem) -> None:
    """How much of each path of backpropagation through time `mine` holds, by least squares."""
    whole, detached, direct = (_walk(dynamics, p, [SLIPS[n] for n in RULES[r]])["x"] for r in RULES)
    paths = {"direct": direct, "carry": detached - direct, "reset": whole - detached}
    paths = {n: d for n, d in paths.items() if np.linalg.norm(d) > 1e-12 * np.linalg.norm(whole)}
    columns = np.stack([d.ravel() for d in paths.values()], axis=1)
    held = np.linalg.lstsq(columns, mine.ravel(), rcond=None)[0]
    rest = float(np.linalg.norm(columns @ held - mine.ravel()) / (np.linalg.norm(mine) or 1.0))
    table = [(n, float(h), _share(d, whole)) for (n, d), h in zip(paths.items(), held, strict=True)]
    report.pictures["paths"] = table
    report.notes += [
        f"path {n}: {h:6.3f} of it held; its norm is {share:.3f} of the whole gradient's" for n, h, share in table
    ]
    report.notes.append(f"of no path: {rest:.3f} of the norm")
