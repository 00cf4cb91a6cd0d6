"""Processes that take turns: what each computes is checked first, and ratios are taken between neighbours in time."""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Row", "Worker", "check", "installed", "most_memory", "race"]

#: Peers whose neurons are the same mathematics, gradients included: what they compute is compared.  The others detach
#: something or scale it, and only their spikes are.
SAME = ("minisnn", "minisnn-pure", "numpy", "torch", "torch.compile")
#: Rounds of one pair that differ by more than this were disturbed.
STEADY = 1.25


class Row(NamedTuple):
    """One opponent in one race: its median time in seconds, and its time by ours, the median over rounds."""

    seconds: float
    ratio: float
    steady: bool


def race(kind: str, case: str, who: Sequence[str], options: argparse.Namespace) -> dict[str, Row]:
    """Let processes take turns; the first of `who` is what the others are measured by."""
    workers = {w: Worker(options.python, w, kind, case) for w in who}
    try:
        for w, worker in workers.items():
            check(w, kind, case, worker.read())
        times: dict[str, list[float]] = {w: [] for w in who}
        for _ in range(options.rounds):
            for w, worker in workers.items():
                times[w].append(worker.turn())
                time.sleep(0.02)  # threads that spin while they wait come to rest
    finally:
        for worker in workers.values():
            worker.close()
    rows = {}
    for w in who:
        ratios = sorted(a / b for a, b in zip(times[w], times[who[0]], strict=True))
        low, high = (ratios[len(ratios) * q // 4] for q in (1, 3))
        rows[w] = Row(statistics.median(times[w]), statistics.median(ratios), high <= STEADY * low)
    return rows


def check(who: str, kind: str, case: str, errors: dict[str, float]) -> None:
    """Raise unless a process computed what it should, as far as it is the same mathematics."""
    from .worker import must_agree  # late: every command of the command line imports this module

    looked_at = errors if who in SAME else {n: e for n, e in errors.items() if n in ("spikes", "y")}
    must_agree(f"{who}, {kind} {case}", kind, looked_at)


class Worker:
    """A process that computes when it is told to."""

    def __init__(self, python: str, *words: str) -> None:
        self.words = words
        self.process = subprocess.Popen(
            [python, "-m", "minisnn.bench.worker", *words],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def read(self) -> dict[str, float]:
        """The next line that it prints."""
        assert self.process.stdout is not None and self.process.stderr is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{' '.join(self.words)}: {self.process.stderr.read().strip().splitlines()[-1]}")
        found: dict[str, float] = json.loads(line)
        return found

    def turn(self) -> float:
        """Let it run for a while: the median time of a run."""
        assert self.process.stdin is not None
        print(file=self.process.stdin, flush=True)
        return self.read()["seconds"]

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.communicate()


def most_memory(python: str, who: str, case: str) -> float:
    """Bytes that one run of a layer needed at most."""
    worker = Worker(python, who, "layer", case, "memory")
    try:
        return worker.read()["bytes"]
    finally:
        worker.close()


def installed(python: str, module: str) -> bool:
    """Whether that interpreter has the module."""
    if python == sys.executable:
        return importlib.util.find_spec(module) is not None
    look = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    return subprocess.run([python, "-c", look], check=False).returncode == 0
