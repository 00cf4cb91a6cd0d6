"""One process of the benchmark: ``python -m minisnn.bench.worker WHO KIND CASE [memory]``.

It makes its job, compares what the job computes with the NumPy reference, and prints one line of JSON.  Then it does a
round for every line it reads: runs the job for a while and prints the median time of a run.  With ``memory`` it prints the
most memory that one run needed, and ends.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from contextlib import nullcontext
from typing import Any

import numpy as np

import minisnn as ms

from . import ours, peers

__all__ = ["ROUNDING", "compare", "main", "must_agree"]

#: Largest difference of a result from the reference's that is rounding: a spike exactly at its threshold may flip.
ROUNDING = {"layer": 1e-4, "step": 1e-3, "conv": 1e-4, "net": 0.1}
#: A round lasts about so long, in seconds.
ROUND = 0.25


def main() -> None:
    """See the module."""
    who, kind, case = sys.argv[1:4]
    job = (ours if who in ours.OURS else peers).make(who, kind, case)
    if "memory" in sys.argv:
        print(json.dumps({"bytes": _peak(job, ours.warm_up(who, kind))}))
        return
    found = {name: _as_array(value) for name, value in job().items()}
    expected = ours.make("numpy", kind, case)()
    print(json.dumps(compare(found, expected)), flush=True)
    del found, expected
    with ms.one_blas_thread() if who in ours.OURS else nullcontext():  # as in fit
        for _ in range(2):
            job()
        for _ in sys.stdin:
            print(json.dumps({"seconds": _round(job)}), flush=True)


def compare(found: dict[str, Any], expected: dict[str, Any]) -> dict[str, float]:
    """By name: the share of spikes that differ, else the largest difference by the largest value."""
    errors = {}
    for name, value in found.items():
        wanted = np.asarray(expected[name], np.float64)
        value = np.asarray(value, np.float64).reshape(wanted.shape)
        if name == "spikes":
            errors[name] = float(np.mean(value != wanted))
        else:
            errors[name] = float(np.max(np.abs(value - wanted)) / np.max(np.abs(wanted)))
    return errors


def must_agree(who: str, kind: str, errors: dict[str, float]) -> None:
    """Raise unless what :func:`compare` found is rounding, in a case of that kind."""
    for name, error in errors.items():
        if not error <= (1e-5 if name == "spikes" else ROUNDING[kind]):
            raise ArithmeticError(f"{who}: {name} differs from the reference by {error:.1e}: nothing was timed")


def _as_array(value: Any) -> Any:
    """A copy of what a job returned, an array of NumPy's or of torch's."""
    return np.array(value.detach().numpy() if hasattr(value, "detach") else value)


def _round(job: peers.Job) -> float:
    times: list[float] = []
    while sum(times) < ROUND or len(times) < 3:
        start = time.perf_counter()
        job()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _peak(job: peers.Job, warm_up: peers.Job) -> int:
    """Growth of the resident memory over one run, at its highest; Linux alone tells."""
    warm_up()
    before = _status("VmRSS")
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")  # the highest so far is forgotten
    kept = job()
    most = _status("VmHWM")
    del kept
    return most - before


def _status(name: str) -> int:
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name + ":"))


if __name__ == "__main__":
    main()
