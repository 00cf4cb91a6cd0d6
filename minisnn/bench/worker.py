"""One process of the benchmark: ``python -m minisnn.bench.worker WHO KIND CASE``.

It makes its job, compares what the job computes with the NumPy reference, and prints one line of JSON.  Then it does a
round for every line it reads: runs the job for a while and prints the median time of a run.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from typing import Any

import numpy as np

from . import ours, peers

__all__ = ["compare", "main"]

#: A round lasts about so long, in seconds.
ROUND = 0.25


def main() -> None:
    """See the module."""
    who, kind, case = sys.argv[1:4]
    started = time.perf_counter()
    job = ours.make(who, kind, case) if who in ours.OURS else ours.Job(peers.make(who, kind, case))
    job.before()
    found = {name: np.array(value.detach() if hasattr(value, "detach") else value) for name, value in job().items()}
    first = time.perf_counter() - started
    expected = ours.make("numpy", kind, case)()
    print(json.dumps({"first": first, **compare(found, expected)}), flush=True)
    del found, expected
    for _ in range(2):
        job.before()
        job()
    for _ in sys.stdin:
        print(json.dumps({"seconds": _round(job)}), flush=True)


def _round(job: ours.Job) -> float:
    times: list[float] = []
    while sum(times) < ROUND or len(times) < 3:
        job.before()
        start = time.perf_counter()
        job()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


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


if __name__ == "__main__":
    main()
