"""Jobs that take turns: their results are checked first, and ratios are of neighbours in time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .cases import Job, make

__all__ = ["DISTURBED", "Row", "check", "checked", "differences", "header", "line", "race", "turn"]

#: The largest difference from the reference that rounding makes.  Of spikes, the share that differ:
#: a neuron exactly at its threshold may fire or not.
ROUNDING = {"spikes": 1e-5, "layer": 1e-4, "step": 1e-3, "conv": 1e-4, "net": 0.1}
#: If the ratios in the middle half of the turns differ by more than this, something disturbed them.
STEADY = 1.25
DISTURBED = "?: turns differed by more than 25 %, the machine was disturbed: draw no conclusion"
#: The least seconds of a turn.
TURN = 0.25


class Row(NamedTuple):
    """One opponent: its median time in seconds, and the median of its times by the first's."""

    seconds: float
    ratio: float
    steady: bool


def race(turns: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, Row]:
    """Let the jobs take turns, `rounds` each.

    `turns` are functions that run a job for a while and return the seconds of one run.  The first
    is what the others are measured by.
    """
    times: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(rounds):
        for name, take in turns.items():
            times[name].append(take())
            time.sleep(0.02)  # until threads that spin while they wait sleep
    rows, first = {}, next(iter(times.values()))
    for name, own in times.items():
        ratios = sorted(a / b for a, b in zip(own, first, strict=True))
        low, high = (ratios[rounds * quarter // 4] for quarter in (1, 3))
        median = statistics.median(ratios)
        rows[name] = Row(statistics.median(own), median, high <= STEADY * low)
    return rows


def turn(job: Job) -> float:
    """Run a job for a while: the median time of a run, in seconds."""
    times: list[float] = []
    while sum(times) < TURN or len(times) < 3:
        start = time.perf_counter()
        job()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def header(names: Sequence[str]) -> str:
    """The head of a table of races."""
    return f"{'':14}{names[0]:>12}" + "".join(f"{name:>15}" for name in names[1:])


def line(case: str, rows: Mapping[str, Row]) -> str:
    """The line of one race: the first's time, the others' ratios; ? if something disturbed them."""
    first, *others = rows.values()
    cells = (f"x {row.ratio:.2f}{'' if row.steady else ' ?'}" for row in others)
    return f"{case:14}{1e3 * first.seconds:>9.2f} ms" + "".join(f"{cell:>15}" for cell in cells)


def checked(job: Job, kind: str, case: str, names: Sequence[str] | None = None) -> Job:
    """The job, if its results, or those of `names`, agree with the reference's; else an error."""
    found = {n: a for n, a in job().items() if names is None or n in names}
    check(kind, differences(found, make("numpy", kind, case)()))
    for _ in range(2):
        job()
    return job


def differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> dict[str, float]:
    """By name: the largest difference by the largest value; of spikes the share that differ."""
    errors = {}
    for name, value in found.items():
        wanted = np.asarray(expected[name], np.float64)
        error = np.abs(np.asarray(value, np.float64).reshape(wanted.shape) - wanted)
        share = np.mean(error != 0) if name == "spikes" else error.max() / np.abs(wanted).max()
        errors[name] = float(share)
    return errors


def check(kind: str, errors: Mapping[str, float]) -> None:
    """Raise `ArithmeticError` unless these differences, in a case of that kind, are rounding."""
    for name, error in errors.items():
        if not error <= ROUNDING["spikes" if name == "spikes" else kind]:
            raise ArithmeticError(
                f"{kind}: {name} differs from the reference by {error:.1e}: nothing was timed"
            )
