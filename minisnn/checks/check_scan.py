"""A time loop that you have written out: its check, and what an approximation of it keeps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from ..kernels import Dynamics
from ..kernels.arrays import Array
from ..neurons import Neuron, lif
from ..resets import Reset, hard
from ..surrogates import Surrogate, atan
from . import calls
from .explain_loops import SHAPES, Mutant, explain, mutant_gradients
from .oracle import Problem, Run, Shape, draw, loop_rows, run
from .report import Report, row_of
from .steps import check_steps, steps_of

__all__ = ["check_scan", "compare"]

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


def check_scan(
    forward: Callable[..., Any],
    backward: Callable[..., Any],
    neuron: Neuron = lif,
    reset: Reset = hard,
    surrogate: Surrogate | None = None,
    *,
    shared: bool = False,
    seed: int = 0,
) -> Report:
    """Check a time loop of your own, forward and backward, against the dynamics it should run.

    Your loop spikes, so plain differences through it cannot check it.  The tangent twin of the
    neuron, reset and surrogate that you name can: the check compares the spikes step by step, then
    each gradient entry by entry.

    Parameters
    ----------
    forward : ``forward(x, threshold=, decay=, ...) -> (spikes, cache)``; x and spikes are
        ``[T, B, N]``, the state starts at 0, the parameters have the neuron's names.
    backward : ``backward(d_spikes, cache) -> (d_x, grads)``, grads a dict
        ``{"threshold": ..., "decay": ...}``.
    neuron, reset, surrogate : what the loop should run; LIF, hard reset and atan with k = 2 if not
        given.  They are checked first.
    shared : parameters and their gradients are single numbers, not one for each neuron, ``[N]``.
    seed : of the problems drawn.

    Returns
    -------
    report : as for :func:`minisnn.checks.check_function`.
    """
    dynamics = Dynamics(neuron, reset, atan(2.0) if surrogate is None else surrogate)
    parts = f"{neuron.charge.__name__}, {reset}, {dynamics.surrogate}"
    report = Report(f"time loop {calls.name_of(forward)}, {calls.name_of(backward)}: {parts}")

    def loop_of(number: int, shape: Shape) -> Run:
        return _draw_from_rest(dynamics, number, shape, shared)

    def gradients(drawn: Run) -> dict[str, Array]:
        return _run_users(forward, backward, drawn, dynamics, report.problems, shared)

    steps, report.problems = check_steps(steps_of(dynamics), seed)
    if report.problems or not all(row.ok for row in steps):
        wrong = "the dynamics you compare with are wrong themselves: see check_adjoint"
        report.problems.append(wrong)
    else:
        with calls.reported(report.problems):
            runs, rows = [loop_of(seed + i, shape) for i, shape in enumerate(SHAPES)], []
            for drawn in runs:
                rows += loop_rows(dynamics, drawn.problem, "tangent", gradients(drawn))
            report.add_worst(rows)
    explain(report, dynamics, loop_of, gradients, seed)
    return report


def _draw_from_rest(dynamics: Dynamics, seed: int, shape: Shape, shared: bool = False) -> Run:
    """A run whose state starts at 0, and whose last state has no gradient."""

    def change(p: Problem) -> Problem:
        if shared:
            p = p._replace(theta=0 * p.theta + p.theta[0], params=0 * p.params + p.params[:, :1])
        k = dynamics.surrogate.k
        return p._replace(state0=0 * p.state0, d_state_last=0 * p.d_state_last, k=k)

    return run(dynamics, draw(dynamics, np.random.default_rng([seed, 3, 0]), shape, change))


def _run_users(
    forward: Callable[..., Any],
    backward: Callable[..., Any],
    drawn: Run,
    dynamics: Dynamics,
    problems: list[str],
    shared: bool = False,
) -> dict[str, Array]:
    """The gradients of a user's loop by name; what else it does wrong goes to `problems`."""
    problem = drawn.problem
    values = {"threshold": problem.theta}
    values |= dict(zip(dynamics.neuron.params, problem.params, strict=True))
    params: dict[str, Any] = {n: float(v[0]) if shared else v.copy() for n, v in values.items()}
    x, d_spikes = problem.x.copy(), problem.d_spikes.copy()
    watch, names = {"x": x, "params": params}, "(spikes, cache)"
    made = partial(forward, x, **params)
    spikes, cache = calls.watched(made, "forward", names, problems, watch)
    found, expected = (
        calls.as_numbers(spikes, "spikes", "an array [T, B, N]"),
        np.stack(drawn.spikes),
    )
    if found.shape != expected.shape:
        shapes = f"{list(found.shape)}, expected {list(expected.shape)}, that of x"
        raise calls.Broken(f"spikes from forward have shape {shapes}")
    if (wrong := (found != expected).any((1, 2))).any():
        hint = "is it u >= threshold before the reset, with the state at 0 before the first step?"
        at = f"its spikes differ from step t = {int(np.argmax(wrong))} on"
        raise calls.Broken(f"the forward is not the one you named: {at} ({hint})")
    watch = {"d_spikes": d_spikes, "x": x, "cache": cache}
    d_x, grads = calls.backward_of(partial(backward, d_spikes, cache), problems, watch)
    like = {n: np.asarray(v, float) for n, v in params.items()}
    named = {"x": d_x, **calls.named_gradients(grads, like, "backward")}
    return calls.as_gradients(named, {"x": problem.x, **like})


# -- two derivations side by side: what an approximation keeps, by time lag and by path


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
    neuron, reset, surrogate, steps, seed : the loop and the problem; LIF, hard reset and atan with
        k = 2 if not given.

    Returns
    -------
    report : ``.ok`` if they are the same.  Its notes hold, for each time lag (steps from a spike
        back to the input), the cosine between the two and the share of the norm; and how much of
        each *path* of backpropagation through time `mine` holds: direct (lag 0), carry (through
        the membrane), reset (through the reset's spike).
    """
    dynamics = Dynamics(neuron, reset, atan(2.0) if surrogate is None else surrogate)
    problems: list[str] = []
    pairs = [_rule(rule, dynamics, problems) for rule in (mine, other)]
    names, rules = zip(*pairs, strict=True)
    loop = f"{neuron.charge.__name__}, {reset}, T = {steps}"
    report = Report(f"{names[0]} compared with {names[1]}: {loop}", problems=problems)
    problem = _draw_from_rest(dynamics, seed, (steps, 16, 8)).problem
    with calls.reported(problems):
        a, b = (rule(problem) for rule in rules)
        for n in b:
            twin, part = f"against {names[1]}", f"d_{n}"
            report.rows.append(row_of(twin, part, a[n], b[n], ORIGIN, tolerance=1e-9))
            share = f"norm {_share(a[n], b[n]):.2f} times"
            report.notes.append(f"{part}: cosine {_cosine(a[n], b[n]):.3f}, {share}")
        _by_lag(report, rules, problem)
        _by_path(report, a["x"], dynamics, problem)
    return report


def _rule(rule: Any, dynamics: Dynamics, problems: list[str]) -> tuple[str, Gradients]:
    """The name of a rule, and the rule as a function from problems to gradients by name."""
    if isinstance(rule, Reset):
        return calls.name_of(rule.reset_adjoint), lambda p: _walk(dynamics._replace(reset=rule), p)
    if isinstance(rule, tuple) and len(rule) == 2 and all(map(callable, rule)):
        return calls.name_of(rule[1]), lambda p: _run_users(
            *rule, run(dynamics, p), dynamics, problems
        )
    text = rule if isinstance(rule, str) else ""
    first, _, most = text.partition(" ")
    if text in RULES:
        return text, lambda p: _walk(dynamics, p, *RULES[text])
    if first == "truncated" and most.strip().isdigit():
        return text, lambda p: _truncated(dynamics, p, int(most))
    raise TypeError(
        f"compare: expected (forward, backward), a ms.Reset, or one of "
        f"{', '.join(map(repr, RULES))}, 'truncated N', got {rule!r}"
    )


def _walk(dynamics: Dynamics, p: Problem, *mutants: Mutant) -> dict[str, Array]:
    found = mutant_gradients(dynamics, run(dynamics, p), mutants)
    assert found is not None
    return {n: found[n] for n in ("x", "threshold", *dynamics.neuron.params)}


def _truncated(dynamics: Dynamics, p: Problem, steps: int) -> dict[str, Array]:
    """The gradient of each spike goes back over at most `steps` steps."""
    cuts = (Mutant("step", CUT.format(t - steps), "") for t in range(len(p.x)))
    parts = [_walk(dynamics, _only_at(p, t), cut) for t, cut in enumerate(cuts)]
    return {n: sum(part[n] for part in parts) for n in parts[0]}


def _only_at(p: Problem, t: int) -> Problem:
    """The problem with a gradient from above at step t alone."""
    at = (np.arange(len(p.x)) == t)[:, None, None]
    return p._replace(d_spikes=at * p.d_spikes)


def _cosine(a: Array, b: Array) -> float:
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.vdot(a, b)) / norms if norms else float(not (np.any(a) or np.any(b)))


def _share(a: Array, b: Array) -> float:
    return float(np.linalg.norm(a) / (np.linalg.norm(b) or 1.0))


def _by_lag(report: Report, rules: Sequence[Gradients], p: Problem) -> None:
    """An adjoint is linear in d_spikes: a gradient at step t alone shows what goes back from t."""
    table, T = [], len(p.x)
    back = [[rule(_only_at(p, t))["x"] for t in range(T)] for rule in rules]
    parts = [[np.array([d[t][t - g] for t in range(g, T)]) for g in range(T)] for d in back]
    whole = [np.sqrt(sum(np.linalg.norm(a) ** 2 for a in found)) or 1.0 for found in parts]
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
