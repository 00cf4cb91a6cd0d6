"""Processes that take turns: what each computes is checked first, and ratios are taken between neighbours in time."""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Row", "Worker", "check", "installed", "most_memory", "race", "turns"]

#: Peers whose neurons are the same mathematics, gradients included: what they compute is compared.  The others detach
#: something or scale it, and only their spikes are.
SAME = ("minisnn", "numpy", "torch", "torch.compile")
#: Rounds of one pair that differ by more than this were disturbed.
STEADY = 1.25


class Row(NamedTuple):
    """One opponent in one race: its median time in seconds, and its time by ours, the median over rounds."""

    seconds: float
    ratio: float
    steady: bool


def race(kind: str, case: str, who: Sequence[str], options: argparse.Namespace) -> dict[str, Row]:
    """Let processes take turns; the first of `who` is what the others are measured by."""
    found = turns([(w, kind, case) for w in who], options)
    times = dict(zip(who, zip(*found, strict=True), strict=True))
    rows = {}
    for w in who:
        ratios = sorted(a / b for a, b in zip(times[w], times[who[0]], strict=True))
        low, high = (ratios[len(ratios) * q // 4] for q in (1, 3))
        rows[w] = Row(statistics.median(times[w]), statistics.median(ratios), high <= STEADY * low)
    return rows


def turns(jobs: Sequence[tuple[str, str, str]], options: argparse.Namespace) -> list[list[float]]:
    """Seconds that each of the jobs, ``(who, kind, case)``, took, turn by turn: all live in processes of their own."""
    workers: list[Worker] = []
    try:
        workers += [Worker(options.python, *job) for job in jobs]
        for job, worker in zip(jobs, workers, strict=True):
            check(*job, worker.read())
        found: list[list[float]] = []
        for _ in range(options.rounds):
            found.append([])
            for worker in workers:
                found[-1].append(worker.turn())
                time.sleep(0.02)  # threads that spin while they wait come to rest
        return found
    finally:
        for worker in workers:
            worker.close()


def check(who: str, kind: str, case: str, errors: dict[str, float]) -> None:
    """Raise unless a process computed what it should, as far as it is the same mathematics."""
    from .worker import must_agree  # late: every command of the command line imports this module

    looked_at = errors if who in SAME else {n: e for n, e in errors.items() if n in ("spikes", "y")}
    must_agree(f"{who}, {kind} {case}", kind, looked_at)


class Worker:
    """A process that computes when it is told to."""

    def __init__(self, python: str, *words: str) -> None:
        self.words = words
        self.errors = tempfile.TemporaryFile("w+")  # a pipe that nobody reads fills up with warnings, and all stands still
        self.process = subprocess.Popen(
            [python, "-m", "minisnn.bench.worker", *words],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True,
        )  # fmt: skip

    def read(self) -> dict[str, float]:
        """The next line that it prints."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            said = self.errors.read().strip().splitlines() or [f"ended with {self.process.wait()}, without a word"]
            raise ChildProcessError(f"bench: {' '.join(self.words)}: {said[-1]}")
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
        self.errors.close()


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
