"""Mistakes with a name: what goes wrong when a time loop is derived or written down by hand.

Each is one change at one place of :func:`minisnn.checks.oracle.walk_back`.  A wrong gradient that equals the gradient with one
of them, or with a pair of them, has that mistake: this is tried on one problem and verified on others of other shapes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..kernels import Dynamics
from ..kernels.arrays import Array
from ..resets import RESETS
from .oracle import Problem, Run, Slip, as_arrays, run_of, true_gradients, walk_back
from .report import Finding
from .sums import evaluate, explain, monomials, same, write

__all__ = ["SHAPES", "SLIPS", "explain_loop", "name_mistakes", "where_it_parts", "with_slips"]


def _set(**fields: Callable[[SimpleNamespace], Any]) -> Callable[[SimpleNamespace], None]:
    """A change that gives fields of the step's namespace other values, all computed from the old ones."""
    return lambda e: e.__dict__.update({n: f(e) for n, f in fields.items()})


def _each(values: list[Any], change: Callable[[Any], Any]) -> list[Any]:
    return [change(v) for v in values]


def _at(e: SimpleNamespace, values: Any, shift: int) -> Any:
    """The entry `shift` steps away, 0 beyond either end."""
    return values[e.t + shift] if 0 <= e.t + shift < e.T else 0 * values[e.t]


def _only(e: SimpleNamespace, step: int, value: Any) -> Any:
    return value if e.t == step % e.T else 0 * value


def _other_reset(name: str) -> Callable[[SimpleNamespace], None]:
    def change(e: SimpleNamespace) -> None:
        e.d_u, e.d_s, e.d_theta = RESETS[name].reset_adjoint(e.d_v, e.u, e.s, e.theta)

    return change


def _flip(out: SimpleNamespace) -> None:
    out.d_theta = -out.d_theta


def _batch(e: SimpleNamespace) -> int:
    return e.run.spikes[0].shape[0]


#: Name of a mistake -> where it is made, what it does, and the sentence that explains it.
SLIPS: dict[str, Slip] = {
    # -- time
    "time runs forward": Slip("begin", _set(order=lambda e: e.order[::-1]),
        "time runs forward in the backward loop: start at t = T-1 and go back"),
    "no carry": Slip("start", _set(d_v=lambda e: e.d_v if e.t == e.T - 1 else 0 * e.d_v,
                                   d_others=lambda e: e.d_others if e.t == e.T - 1 else _each(e.d_others, lambda d: 0 * d)),
        "the carry is missing: the gradient of the membrane is not handed on to the step before"),
    "membrane not carried": Slip("start", _set(d_v=lambda e: e.d_v if e.t == e.T - 1 else 0 * e.d_v),
        "the membrane's gradient is not carried to the step before (the other states' is)"),
    "other states not carried": Slip("start", _set(
        d_others=lambda e: e.d_others if e.t == e.T - 1 else _each(e.d_others, lambda d: 0 * d)),
        "the gradient of the other states is not carried to the step before"),
    "upstream late": Slip("start", _set(d_spikes=lambda e: _at(e, e.d_up, -1)),
        "off by one in time: step t takes d_spikes[t-1], the gradient of the step before"),
    "upstream early": Slip("start", _set(d_spikes=lambda e: _at(e, e.d_up, 1)),
        "off by one in time: step t takes d_spikes[t+1], the gradient of the step after"),
    "upstream last only": Slip("start", _set(d_spikes=lambda e: _only(e, -1, e.d_spikes)),
        "only the spikes of the last step get a gradient; every step's d_spikes[t] belongs there"),
    "upstream first only": Slip("start", _set(d_spikes=lambda e: _only(e, 0, e.d_spikes)),
        "only the spikes of the first step get a gradient; every step's d_spikes[t] belongs there"),
    "upstream missing": Slip("start", _set(d_spikes=lambda e: 0 * e.d_spikes),
        "d_spikes, the gradient of the spikes from above, is left out"),
    "last state left out": Slip("begin", _set(
        d_v=lambda e: 0 * e.d_v, d_others=lambda e: _each(e.d_others, lambda d: 0 * d)),
        "the gradient of the last state is left out: the walk back starts from 0"),
    "spike of the step before": Slip("start", _set(s=lambda e: e.s_before),
        "off by one in time: the reset at step t takes the spike of step t-1"),
    "membrane of the step before": Slip("start", _set(u=lambda e: _at(e, [c[0] for c in e.run.charged], -1)),
        "off by one in time: the reset at step t takes the membrane u of step t-1"),
    # -- pre-reset and post-reset membrane
    "slope at v": Slip("start", _set(at=lambda e: e.v),
        "the slope is taken at v - theta, the membrane after the reset; it belongs at u - theta, before the reset"),
    "slope without threshold": Slip("start", _set(at=lambda e: e.u + e.theta),
        "the slope is taken at u; it belongs at u - theta"),
    "slope at u[t-1]": Slip("start", _set(at=lambda e: _at(e, [c[0] for c in e.run.charged], -1)),
        "off by one in time: the slope at step t is taken at the membrane u of step t-1"),
    "slope at v[t-1]": Slip("start", _set(at=lambda e: e.before[0]),
        "the slope is taken at v[t-1] - theta, before the charge; it belongs at u[t] - theta"),
    "reset at v": Slip("start", _set(u=lambda e: e.v),
        "the reset's adjoint takes v, the membrane after the reset; it needs u, the membrane before"),
    "v after for v before": Slip("spike", _set(before=lambda e: (e.v, *e.run.charged[e.t][1:])),
        "the charge's adjoint takes v[t], the state after this step; it needs v[t-1], the state before"),
    "u before for v before": Slip("spike", _set(
        before=lambda e: (_at(e, [c[0] for c in e.run.charged], -1) if e.t else e.before[0], *e.before[1:])),
        "the charge's adjoint takes u[t-1], the membrane before its reset; it needs v[t-1], after the reset"),
    "u for v before": Slip("spike", _set(before=lambda e: (e.run.charged[e.t][0], *e.before[1:])),
        "the charge's adjoint takes u[t], the membrane after the charge; it needs v[t-1], before"),
    # -- reset
    "detached": Slip("reset", _set(d_s=lambda e: 0 * e.d_v),
        "the reset path through the spike is missing: this is the gradient of a detached reset; declare stop=('s',) if you "
        "mean it"),
    "reset sign": Slip("reset", _set(d_s=lambda e: -e.d_s), "the reset path through the spike has the wrong sign"),
    "mask missing": Slip("reset", _set(d_u=lambda e: e.d_v),
        "the mask of the reset is missing: after a spike the membrane's gradient is passed on whole"),
    "mask inverted": Slip("reset", _set(d_u=lambda e: e.s * e.d_v),
        "the mask of the reset is the wrong way round: gradient passes where there was a spike"),
    "theta for u": Slip("reset", _set(d_s=lambda e: -e.theta * e.d_v),
        "the reset path through the spike holds -theta*d_v, which is that of the soft reset"),
    "u for theta": Slip("reset", _set(d_s=lambda e: -e.u * e.d_v),
        "the reset path through the spike holds -u*d_v, which is that of the hard reset"),
    "reset threshold missing": Slip("reset", _set(d_theta=lambda e: 0 * e.d_v),
        "the threshold also enters the reset: its path there is missing (it stays even when the spike is detached)"),
    "reset threshold sign": Slip("reset", _set(d_theta=lambda e: -e.d_theta),
        "the threshold's path in the reset has the wrong sign"),
    "reset skipped": Slip("reset", _set(d_u=lambda e: e.d_v, d_s=lambda e: 0 * e.d_v, d_theta=lambda e: 0 * e.d_v),
        "the reset is left out of the walk back altogether"),
    **{f"{name} reset": Slip("reset", _other_reset(name),
        f"this is the adjoint of another reset: {name}") for name in RESETS},
    # -- surrogate
    "slope missing": Slip("slope", _set(slope=lambda e: 1 + 0 * e.slope), "the surrogate's slope is left out"),
    "slope squared": Slip("slope", _set(slope=lambda e: e.slope * e.slope), "the surrogate's slope is there twice"),
    "slope of peak 1": Slip("slope", _set(slope=lambda e: e.slope / e.slope_of(e.t, 0 * e.u + 1e-12)),
        "the slope is scaled to a peak of 1; this surrogate's has another peak"),
    "reset path without slope": Slip("slope", _set(slope=lambda e: e.slope, d_spikes=lambda e: (
        e.d_spikes + e.d_back + e.d_s / e.slope - e.d_s), d_back=lambda e: 0),
        "the reset path through the spike is not multiplied by the slope"),
    "spike path missing": Slip("spike", _set(into_u=lambda e: e.d_u),
        "the gradient of the spike does not reach the membrane: d_u lacks + g"),
    "membrane path missing": Slip("spike", _set(into_u=lambda e: e.g),
        "the direct path from v to u is missing: d_u holds the spike's part g alone"),
    "spike path sign": Slip("spike", _set(into_u=lambda e: e.d_u - e.g),
        "the gradient of the spike enters the membrane with the wrong sign: d_u + g"),
    # -- threshold
    "threshold sign": Slip("end", _flip, "the gradient of the threshold has the wrong sign: s = step(u - theta)"),
    "threshold spike path": Slip("spike", _set(into_theta=lambda e: e.d_theta + 0 * e.g),
        "the threshold's path through the spike is missing: - g at every step"),
    "threshold spike sign": Slip("spike", _set(into_theta=lambda e: e.d_theta + e.g),
        "the threshold's path through the spike has the wrong sign: s = step(u - theta), hence - g"),
    "threshold last step": Slip("charge", _set(d_theta_scale=lambda e: float(e.t == e.T - 1)),
        "the threshold's gradient is that of the last step alone: add up over time"),
    "threshold first step": Slip("charge", _set(d_theta_scale=lambda e: float(e.t == 0)),
        "the threshold's gradient is that of the first step alone: it is overwritten where it should be added up"),
    "threshold with d_u": Slip("spike", _set(into_theta=lambda e: e.d_theta - e.into_u),
        "the threshold's gradient is taken from the membrane's (d_u + g); it is - g, the spike's part alone"),
    "threshold without upstream": Slip("spike", _set(into_theta=lambda e: e.d_theta - e.d_s * e.slope),
        "the threshold's gradient lacks the part of d_spikes: only the reset path is there"),
    "threshold without reset path": Slip("spike", _set(into_theta=lambda e: e.d_theta - (e.g - e.d_s * e.slope)),
        "the threshold's gradient lacks the reset path through the spike (d_s); the membrane's has it"),
    # -- charge and its parameters
    "leak missing": Slip("charge", _set(d_before=lambda e: [e.into_u, *e.d_before[1:]]),
        "the factor of the carry is missing: the membrane's gradient is handed on without decay"),
    "leak twice": Slip("charge", _set(d_before=lambda e: [e.d_before[0] * e.params[0], *e.d_before[1:]]),
        "the decay is there twice in the carry"),
    "input with leak": Slip("charge", _set(d_x=lambda e: e.d_x * e.params[0]),
        "the input's gradient is multiplied by decay; the input is not scaled"),
    "input without spike path": Slip("charge", _set(d_x=lambda e: e.d_x - e.g),
        "the input's gradient lacks the spike's part g"),
    "input without carry": Slip("charge", _set(d_x=lambda e: e.d_x - e.d_u),
        "the input's gradient lacks the part that comes through the membrane (d_u)"),
    "params last step": Slip("charge", _set(d_params_scale=lambda e: float(e.t == e.T - 1)),
        "the gradient of the neuron's parameters is that of the last step alone: add up over time"),
    "params first step": Slip("charge", _set(d_params_scale=lambda e: float(e.t == 0)),
        "the gradient of the neuron's parameters is that of the first step alone: it is overwritten, not added up"),
    "params sign": Slip("charge", _set(d_params_scale=lambda e: -1.0),
        "the gradient of the neuron's parameters has the wrong sign"),
    "params from x": Slip("spike", _set(before=lambda e: (e.x, *e.before[1:])),
        "the charge's adjoint takes x[t] where it needs v[t-1]"),
    "params swapped": Slip("end", _set(d_params=lambda e: e.d_params[::-1]),
        "the gradients of the parameters are in the wrong order"),
    "states swapped": Slip("charge", _set(d_before=lambda e: e.d_before[::-1]),
        "the gradients of the states are in the wrong order"),
    "initial state missing": Slip("end", _set(d_state0=lambda e: _each(e.d_state0, lambda d: 0 * d)),
        "the gradient of the initial state is missing"),
    # -- sums
    **{f"{name} of {what}": Slip("charge", _set(**{f"d_{field}_scale": lambda e, size=size: 1 / size(e)}),
        f"the gradient of the {what} is a mean over {axis} where it should be a sum")
       for name, axis, size in (("batch mean", "the batch", _batch), ("time mean", "time", lambda e: e.T),
                                ("mean", "batch and time", lambda e: e.T * _batch(e)))
       for what, field in (("threshold", "theta"), ("parameters", "params"))},
    # -- recurrent connections
    "recurrent detached": Slip("recurrent", _set(feedback=lambda e: 0 * e.feedback),
        "nothing goes back through the recurrent weight: the spikes that come back count as constants"),
    "recurrent transposed": Slip("recurrent", _set(feedback=lambda e: e.d_x @ e.recurrent),
        "the recurrent weight is not transposed on the way back"),
    "recurrent same step": Slip("recurrent", _set(paired=lambda e: e.s.T @ e.d_x),
        "off by one in time: the recurrent weight's gradient pairs d_x[t] with the spikes of t, not of t-1"),
    "recurrent same step but one": Slip("recurrent", _set(paired=lambda e: e.s.T @ e.d_x if e.t else e.paired),
        "off by one in time: the recurrent weight's gradient pairs d_x[t] with the spikes of t, not of t-1 (but at t = 0)"),
    "recurrent weight transposed": Slip("recurrent", _set(paired=lambda e: np.transpose(e.paired)),
        "the recurrent weight's gradient is transposed"),
    "recurrent weight missing": Slip("recurrent", _set(paired=lambda e: 0 * e.recurrent),
        "the recurrent weight's gradient is missing"),
    "recurrent batch mean": Slip("recurrent", _set(paired=lambda e: e.paired / _batch(e)),
        "the recurrent weight's gradient is a mean over the batch where it should be a sum"),
    "recurrent time mean": Slip("recurrent", _set(paired=lambda e: e.paired / e.T),
        "the recurrent weight's gradient is a mean over time where it should be a sum"),
    "recurrent first step": Slip("recurrent", _set(paired=lambda e: e.paired * (e.t == 0)),
        "the recurrent weight's gradient is that of one step alone: it is overwritten where it should be added up"),
    "recurrent last step": Slip("recurrent", _set(paired=lambda e: e.paired * (e.t == e.T - 1)),
        "the recurrent weight's gradient is that of the last step alone: add up over time"),
}  # fmt: skip

#: One problem for a recogniser: the run, what comes from above, and the gradients that were returned.
Case = tuple[Run, Array, Array, float, Mapping[str, Array]]


def with_slips(dynamics: Dynamics, case: Case, slips: Iterable[Slip] = (), shared: bool = False) -> dict[str, Array] | None:
    """The gradients of a derivation with these mistakes; ``None`` where a mistake cannot be made here.

    Where parameters are `shared`, the gradient of every neuron is that of the one value they share.
    """
    found, d_spikes, d_last, k, _ = case
    try:
        with np.errstate(all="ignore"):
            out = walk_back(dynamics, found, d_spikes, d_last, lambda t, x: dynamics.surrogate.slope(x, k), slips)
            arrays = as_arrays(out, *d_spikes.shape[1:])
    except (IndexError, ValueError, TypeError):
        return None
    if shared:
        arrays |= {n: 0 * arrays[n] + arrays[n].sum(axis=-1, keepdims=True) for n in ("theta", "params")}
    return arrays


def equal(found: Mapping[str, Array] | None, yours: Mapping[str, Array], precision: float = 1e-9) -> bool:
    """Whether every gradient in `yours` is the one found."""
    return found is not None and all(same(found[n], g, precision) for n, g in yours.items() if np.size(g))


def name_mistakes(dynamics: Dynamics, case: Case, fresh: Iterable[Callable[[], Case]], shared: bool = False) -> list[str]:
    """The sentence of the one mistake, or the two of a pair, that make exactly these gradients; else nothing.

    `fresh` makes more problems with the gradients returned there, of other shapes: a name must hold on all of them.
    """
    yours, right = case[-1], with_slips(dynamics, case, (), shared)
    changing = []  # slips that change anything here: the others would pair with everything
    for name, slip in SLIPS.items():
        found = with_slips(dynamics, case, [slip], shared)
        if found is not None and not equal(found, right or {}):
            changing.append(name)
            if equal(found, yours) and _holds(dynamics, [slip], fresh, shared):
                return [slip.sentence]
    for names in itertools.combinations(changing, 2):
        slips = [SLIPS[n] for n in names]
        if equal(with_slips(dynamics, case, slips, shared), yours) and _holds(dynamics, slips, fresh, shared):
            return [slip.sentence for slip in slips]
    return []


def _holds(dynamics: Dynamics, slips: list[Slip], fresh: Iterable[Callable[[], Case]], shared: bool) -> bool:
    return all(equal(with_slips(dynamics, again, slips, shared), again[-1]) for again in (make() for make in fresh))


# -- What is wrong with a time loop whose steps are right: a mistake by name, the step where it begins, or formulas.

#: Shapes [T, B, N] with no two sizes alike: a mean over one axis is not taken for another, nor for a factor 1/2.
SHAPES = ((6, 3, 4), (5, 4, 3), (7, 5, 2))

Gradients = Callable[[Problem], Mapping[str, Array]]


def explain_loop(
    dynamics: Dynamics,
    gradients: Gradients,
    make: Callable[[int, tuple[int, int, int]], Problem],
    shared: bool = False,
) -> list[Finding]:
    """Findings about a loop that is wrong although its steps are right: a mistake by name, or the step where it begins."""
    rename = not {"theta", "params"} & set(gradients(make(0, SHAPES[0])))

    def case(seed: int, shape: tuple[int, int, int]) -> Case:
        problem = make(seed, shape)
        yours = dict(gradients(problem))
        if rename:  # a user's loop: its parameters by name
            params = [np.broadcast_to(yours.pop(n), problem.theta.shape) for n in dynamics.neuron.params]
            yours["theta"] = np.broadcast_to(yours.pop("threshold"), problem.theta.shape)
            yours["params"] = np.array(params).reshape(-1, shape[2])
        return run_of(dynamics, problem), problem.d_spikes, problem.d_state_last, problem.k, yours

    fresh = [lambda s=s, shape=shape: case(100 + s, shape) for s, shape in enumerate(SHAPES[1:])]
    sentences = name_mistakes(dynamics, case(99, SHAPES[0]), fresh, shared)
    found = [Finding("time loop", sentence) for sentence in sentences]
    problem = make(98, SHAPES[0])
    problem = problem._replace(d_state_last=0 * problem.d_state_last)
    found += where_it_parts(gradients(problem)["x"], true_gradients(dynamics, problem, "tangent")["x"])
    return found if sentences else found + _one_step(dynamics, gradients, make)


def where_it_parts(yours: Array, true: Array) -> list[Finding]:
    """The first step, counted from the end, at which the gradient of the input is wrong."""
    T, scale = len(true), np.abs(true).max()
    wrong = [t for t in reversed(range(T)) if not np.abs(yours[t] - true[t]).max() <= 1e-11 * scale]
    if not wrong:
        return []
    t = wrong[0]
    late = "at the last step, before anything has been carried: look at the slope and at what comes from above"
    early = f"at step t = {t} of 0..{T - 1}, {T - 1 - t} before the last: those after it are right, so look at the carry"
    return [Finding("d_x", "going back in time, it parts from the true one " + (late if t == T - 1 else early))]


def _one_step(dynamics: Dynamics, gradients: Gradients, make: Callable) -> list[Finding]:
    """The loop at T = 1 as formulas from numbers: what of d_spikes and of d_v reaches each argument."""
    if len(dynamics.neuron.state) > 1 or not make(0, (1, 1, 40)).state0.any():
        return []
    findings = []
    for above in ("d_spikes", "d_v"):
        cells: list[dict[str, Any]] = []
        for seed in (1, 2):
            p = make(seed, (1, 1, 40))
            ones, zeros = np.ones_like(p.d_spikes), np.zeros_like(p.d_spikes)
            p = p._replace(
                d_spikes=ones if above == "d_spikes" else zeros, d_state_last=zeros if above == "d_spikes" else ones
            )
            run = run_of(dynamics, p)
            u, s = run.charged[0][0][0], run.spikes[0][0]
            known = {
                "s": s,
                "u": u,
                "theta": p.theta,
                "slope": dynamics.surrogate.slope(u - p.theta, p.k),
                "v": p.state0[0, 0],
            }
            known |= dict(zip(dynamics.neuron.params, p.params, strict=True))
            cells.append({"yours": gradients(p), "true": true_gradients(dynamics, p, "tangent"), "terms": monomials(known)})
        for name in ("x", "theta"):
            texts = []
            for which in ("yours", "true"):
                values = [np.ravel(c[which][name]) for c in cells]
                sums = explain(values[0], cells[0]["terms"])
                if sums is not None and same(values[1], evaluate(sums, cells[1]["terms"])):
                    texts.append(write(sums, above))
            if len(texts) == 2 and texts[0] != texts[1]:
                label = "threshold" if name == "theta" else name
                findings.append(Finding(f"d_{label} in one step, from {above}", "", texts[0], texts[1]))
    return findings
