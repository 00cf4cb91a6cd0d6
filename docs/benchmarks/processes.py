"""Processes that take turns, one for each library.

``python docs/benchmarks/processes.py WHO KIND CASE [memory]`` is one process.  It prints ``{}``
after the comparison with the reference, then the time of a run for every line that it reads.  With
``memory`` it prints the peak memory of one run, and ends.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext

import libraries
from machine import peak_memory

import minisnn as ms
from minisnn.bench import cases, race

__all__ = ["Worker", "most_memory", "races", "turns"]

Job = tuple[str, str, str]  #: who, kind, case


class Worker:
    """A process that runs its job for one turn on request."""

    def __init__(self, python: str, *words: str) -> None:
        self.words = words
        self.errors = tempfile.TemporaryFile("w+")  # a pipe that is not read fills up and blocks
        self.process = subprocess.Popen(
            [python, __file__, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )

    def read(self) -> dict[str, float]:
        """The next line that it prints."""
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            said = self.errors.read().strip().splitlines() or [f"ended with {self.process.wait()} and no message"]
            raise ChildProcessError(f"{' '.join(self.words)}: {said[-1]}")
        return json.loads(line)

    def turn(self) -> float:
        """Run for one turn; returns the median time of a run."""
        print(file=self.process.stdin, flush=True)
        return self.read()["seconds"]

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()
        self.errors.close()


def turns(jobs: Sequence[Job], python: str, rounds: int) -> dict[Job, race.Row]:
    """Race jobs, each in a process of its own, after checking the results of all."""
    with ExitStack() as stack:
        workers = {job: stack.enter_context(Worker(python, *job)) for job in jobs}
        for worker in workers.values():
            worker.read()
        return race.race({job: worker.turn for job, worker in workers.items()}, rounds)


def races(kind: str, case: str, who: Sequence[str], python: str, rounds: int) -> dict[str, race.Row]:
    """One case by several libraries; ratios are relative to the first."""
    return {job[0]: row for job, row in turns([(w, kind, case) for w in who], python, rounds).items()}


def most_memory(python: str, who: str, case: str) -> float:
    """Peak memory of one run of a layer, in bytes."""
    with Worker(python, who, "layer", case, "memory") as worker:
        return worker.read()["bytes"]


def main() -> None:
    """One process; see the module."""
    who, kind, case = sys.argv[1:4]
    make = (cases if who in cases.OURS else libraries).make
    job = make(who, kind, case)
    if "memory" in sys.argv:
        make(who, kind, "small")()  # imports and compiling do not count
        print(json.dumps({"bytes": peak_memory(job)}))
        return
    race.checked(job, kind, case, libraries.COMPARED.get(who))
    print("{}", flush=True)
    with ms.one_blas_thread() if who in cases.OURS else nullcontext():  # as in fit
        for _ in sys.stdin:
            print(json.dumps({"seconds": race.turn(job)}), flush=True)


if __name__ == "__main__":
    main()
