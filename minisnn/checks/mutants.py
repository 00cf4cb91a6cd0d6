"""Mutants: the derivation of a time loop with one mistake, as it is made by hand.

A mutant is :func:`minisnn.checks.oracle.walk_back` with one line more: it follows the line named,
and overwrites what that line computed.  Two mutants make a derivation with both mistakes.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

from ..resets import RESETS
from . import oracle

__all__ = ["MUTANTS", "Mutant", "mutated"]


class Mutant(NamedTuple):
    """A mistake: the line of ``walk_back`` where it is made, as code, and as a sentence."""

    line: str
    text: str
    sentence: str


#: A word in braces stands for each of these in turn: code -> words.
WORDS = {
    "reset": {name: name for name in RESETS},
    "batch": {"len(s)": "the batch", "T": "time", "(T * len(s))": "batch and time"},
    "last": {"T - 1": "last", "0": "first"},
}


def _read(table: str) -> tuple[Mutant, ...]:
    """Entries ``line: text`` with an indented sentence below."""
    mutants = []
    for entry in re.split(r"\n(?=\S)", table.strip()):
        head, *below = entry.splitlines()
        line, text = head.split(": ", 1)
        word = next((f"{{{word}}}" for word in WORDS if f"{{{word}}}" in text), "{}")
        for code, name in WORDS.get(word[1:-1], {"": ""}).items():
            sentence = " ".join(map(str.strip, below)).replace(word, name)
            mutants.append(Mutant(line, text.replace(word, code), sentence))
    return tuple(mutants)


def mutated(*mutants: Mutant) -> Callable[..., dict[str, Any]]:
    """``walk_back`` with these mistakes."""
    known = mutants if set(mutants) - set(MUTANTS) else MUTANTS
    return partial(_compiled(known), {known.index(mutant) for mutant in mutants})


@cache
def _compiled(known: tuple[Mutant, ...]) -> Callable[..., dict[str, Any]]:
    """``walk_back`` with one more argument before the others: which mutants it makes."""
    lines = []
    for line in inspect.getsource(oracle.walk_back).splitlines():
        indent, name = line[: len(line) - len(line.lstrip())], line.rpartition("  # ")[2]
        here = [(i, mutant.text) for i, mutant in enumerate(known) if mutant.line == name]
        lines += [line, *(f"{indent}if {i} in mistakes: {text}" for i, text in here)]
    scope = {**vars(oracle), "RESETS": RESETS}
    exec("\n".join(lines).replace("(", "(mistakes, ", 1), scope)
    return scope["walk_back"]


#: What goes wrong when a time loop is derived or written down: time, membranes before and after
#: the reset, the reset, the slope, the threshold, the charge, sums, recurrent connections.
MUTANTS = _read("""
begin: steps = range(T)
    time runs forward in the backward loop: start at t = T-1 and go back
step: d_v, d_others = (d_v, d_others) if t == T - 1 else (0 * d_v, [0 * d for d in d_others])
    the carry is missing: the gradient of the membrane does not reach the step before
step: d_v = d_v if t == T - 1 else 0 * d_v
    the membrane's gradient is not carried to the step before (the other states' is)
step: d_others = d_others if t == T - 1 else [0 * d for d in d_others]
    the gradient of the other states is not carried to the step before
step: d_s_above = d_spikes[t - 1] if t else 0 * d_s_above
    off by one in time: step t takes d_spikes[t-1], the gradient of the step before
step: d_s_above = d_spikes[t + 1] if t < T - 1 else 0 * d_s_above
    off by one in time: step t takes d_spikes[t+1], the gradient of the step after
step: d_s_above = d_s_above if t == {last} else 0 * d_s_above
    only the spikes of the {last} step get a gradient; every step's d_spikes[t] belongs there
step: d_s_above = 0 * d_s_above
    d_spikes, the gradient of the spikes from above, is left out
begin: d_v, d_others = 0 * d_v, [0 * d for d in d_others]
    the gradient of the last state is left out: the walk back starts from 0
step: s = s_before
    off by one in time: the reset at step t takes the spike of step t-1
step: u = run.charged[t - 1][0] if t else 0 * u
    off by one in time: the reset at step t takes the membrane u of step t-1
step: at = run.states[t + 1][0]
    the slope is taken at v - theta, after the reset; it belongs at u - theta, before the reset
step: at = u + theta
    the slope is taken at u; it belongs at u - theta
step: at = run.charged[t - 1][0] if t else 0 * u
    off by one in time: the slope at step t is taken at the membrane u of step t-1
step: at = before[0]
    the slope is taken at v[t-1] - theta, before the charge; it belongs at u[t] - theta
step: u = run.states[t + 1][0]
    the reset's adjoint takes v, the membrane after the reset; it needs u, the membrane before
spike: before = run.states[t + 1][0], *run.charged[t][1:]
    the charge's adjoint takes v[t], the state after this step; it needs v[t-1], before
spike: before = run.charged[t - 1][0] if t else before[0], *before[1:]
    the charge's adjoint takes u[t-1], before the reset; it needs v[t-1], after the reset
spike: before = run.charged[t][0], *before[1:]
    the charge's adjoint takes u[t], the membrane after the charge; it needs v[t-1], before
reset: d_s = 0 * d_v
    the reset path through the spike is missing: this is the gradient of a detached reset; declare
    stop=('s',) if you mean it
reset: d_s = -d_s
    the reset path through the spike has the wrong sign
reset: d_u = d_v
    the mask of the reset is missing: after a spike the membrane's gradient stays whole
reset: d_u = s * d_v
    the mask of the reset is the wrong way round: gradient passes where there was a spike
reset: d_s = -theta * d_v
    the reset path through the spike holds -theta*d_v, which is that of the soft reset
reset: d_s = -u * d_v
    the reset path through the spike holds -u*d_v, which is that of the hard reset
reset: d_theta_t = 0 * d_v
    the threshold also enters the reset: its path there is missing (a detached spike leaves it)
reset: d_theta_t = -d_theta_t
    the threshold's path in the reset has the wrong sign
reset: d_u, d_s, d_theta_t = d_v, 0 * d_v, 0 * d_v
    the reset is left out of the walk back altogether
reset: d_u, d_s, d_theta_t = RESETS["{reset}"].reset_adjoint(d_v, u, s, theta)
    this is the adjoint of another reset: {reset}
slope: slope_t = 1 + 0 * slope_t
    the surrogate's slope is left out
slope: slope_t = slope_t * slope_t
    the surrogate's slope is there twice
slope: slope_t = slope_t / slope(t, 0 * u + 1e-12)
    the slope is scaled to a peak of 1; this surrogate's has another peak
g: g = d_s + (d_s_above + d_back) * slope_t
    the reset path through the spike is not multiplied by the slope
spike: into_u = d_u
    the gradient of the spike does not reach the membrane: d_u lacks + g
spike: into_u = g
    the direct path from v to u is missing: d_u holds the spike's part g alone
spike: into_u = d_u - g
    the gradient of the spike enters the membrane with the wrong sign: d_u + g
end: d_theta = -d_theta
    the gradient of the threshold has the wrong sign: s = step(u - theta)
spike: into_theta = d_theta_t + 0 * g
    the threshold's path through the spike is missing: - g at every step
spike: into_theta = d_theta_t + g
    the threshold's path through the spike has the wrong sign: s = step(u - theta), hence - g
charge: into_theta = into_theta * (t == {last})
    the threshold's gradient is that of the {last} step alone: add it up over time
spike: into_theta = d_theta_t - into_u
    the threshold's gradient is taken from the membrane's (d_u + g); the spike's part alone, - g, is
    right
spike: into_theta = d_theta_t - d_s * slope_t
    the threshold's gradient lacks the part of d_spikes: only the reset path is there
spike: into_theta = d_theta_t - (g - d_s * slope_t)
    the threshold's gradient lacks the reset path through the spike (d_s); the membrane's has it
charge: d_before = into_u, *d_before[1:]
    the factor of the carry is missing: the membrane's gradient is carried back without decay
charge: d_before = d_before[0] * params[0], *d_before[1:]
    the decay is there twice in the carry
charge: d_x[t] = d_x[t] * params[0]
    the input's gradient is multiplied by decay; the input is not scaled
charge: d_x[t] = d_x[t] - g
    the input's gradient lacks the spike's part g
charge: d_x[t] = d_x[t] - d_u
    the input's gradient lacks the part that comes through the membrane (d_u)
charge: d_params_t = [d * (t == {last}) for d in d_params_t]
    the gradient of the neuron's parameters is that of the {last} step alone: add it up over time
charge: d_params_t = [-d for d in d_params_t]
    the gradient of the neuron's parameters has the wrong sign
spike: before = x, *before[1:]
    the charge's adjoint takes x[t] where it needs v[t-1]
end: d_params = d_params[::-1]
    the gradients of the parameters are in the wrong order
charge: d_before = d_before[::-1]
    the gradients of the states are in the wrong order
end: d_state0 = [0 * d for d in d_state0]
    the gradient of the initial state is missing
charge: into_theta = into_theta / {batch}
    the gradient of the threshold is a mean over {batch} where it should be a sum
charge: d_params_t = [d / {batch} for d in d_params_t]
    the gradient of the parameters is a mean over {batch} where it should be a sum
recurrent: d_back = 0 * d_back
    the recurrent weight carries no gradient back: the spikes that come back count as constants
recurrent: d_back = d_x[t] @ recurrent
    the recurrent weight is not transposed on the way back
recurrent: paired = s.T @ d_x[t]
    off by one in time: the recurrent weight's gradient pairs d_x[t] with the spikes of t, not t-1
recurrent: paired = s.T @ d_x[t] if t else paired
    off by one in time: the recurrent weight's gradient pairs d_x[t] with the spikes of t, not t-1
    (but at t = 0)
recurrent: paired = paired.T
    the recurrent weight's gradient is transposed
recurrent: paired = 0 * recurrent
    the recurrent weight's gradient is missing
recurrent: paired = paired / {batch}
    the recurrent weight's gradient is a mean over {batch} where it should be a sum
recurrent: paired = paired * (t == {last})
    the recurrent weight's gradient is that of the {last} step alone: add it up over time
""")
