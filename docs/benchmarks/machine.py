"""The machine: its memory bandwidth, its load, and the memory that a job needs."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

import minisnn as ms

__all__ = ["busy", "describe", "peak_memory", "stream"]


def describe() -> str:
    """Processor, CPUs and versions in one line."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            name = next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    python = platform.python_version()
    return f"{name}, {os.cpu_count()} CPUs, {ms.get_threads()} threads, Python {python}"


def stream(rounds: int = 9) -> float:
    """Bytes a second of the STREAM triad ``a = b + k * c`` from memory, all threads (McCalpin)."""
    import numba

    @numba.njit(nogil=True)
    def triad(a, b, c, k):
        for i in range(a.shape[0]):
            a[i] = b[i] + k * c[i]

    n, threads = 1 << 25, ms.get_threads()
    a, b, c = (np.ones(n, np.float32) for _ in range(3))
    triad(a[:1], b[:1], c[:1], np.float32(2))
    parts = [slice(n * i // threads, n * (i + 1) // threads) for i in range(threads)]
    times = []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(rounds):
            start = time.perf_counter()
            list(pool.map(lambda part: triad(a[part], b[part], c[part], np.float32(2)), parts))
            times.append(time.perf_counter() - start)
    if not np.array_equal(a, np.full(n, 3, np.float32)):
        raise ArithmeticError("the triad's result is wrong: no bandwidth was measured")
    return 12 * n / statistics.median(times)


def busy(seconds: float = 0.5) -> float:
    """Fraction of all CPUs that other processes use; 0 if the system does not tell."""
    before = _ticks()
    time.sleep(seconds)
    after = _ticks()
    if before is None or after is None:
        return 0.0
    idle, total = after[0] - before[0], after[1] - before[1]
    return 1 - idle / total if total else 0.0


def _ticks() -> tuple[int, int] | None:
    try:
        with open("/proc/stat", encoding="ascii") as file:
            numbers = [int(n) for n in file.readline().split()[1:9]]
    except (OSError, ValueError):
        return None
    return numbers[3] + numbers[4], sum(numbers)


def peak_memory(job: Callable[[], Any]) -> int:
    """Peak growth of the resident memory in one run, in bytes; Linux only."""
    before = _status("VmRSS")
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")  # resets VmHWM, the highest so far
    kept = job()
    most = _status("VmHWM")
    del kept
    return most - before


def _status(name: str) -> int:
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name + ":"))
