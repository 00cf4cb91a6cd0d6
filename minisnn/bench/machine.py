"""What this machine can do, measured in the same run: memory bandwidth, and whether anybody else is busy on it."""

from __future__ import annotations

import os
import platform
import statistics
import time

import numpy as np

import minisnn as ms

__all__ = ["busy", "describe", "stream"]


def describe() -> str:
    """Processor, CPUs and versions in one line."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            name = next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{name}, {os.cpu_count()} CPUs, {ms.get_threads()} threads, Python {platform.python_version()}"


def stream(rounds: int = 9) -> float:
    """STREAM triad ``a = b + k * c`` from memory, all threads, in bytes a second (McCalpin): what memory allows."""
    from concurrent.futures import ThreadPoolExecutor  # late: every command of the command line imports this module

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
        raise ArithmeticError("the triad is wrong: no bandwidth was measured")
    return 12 * n / statistics.median(times)


def busy(seconds: float = 0.5) -> float:
    """Share of all CPUs that others use, while this process sleeps; 0 where the system does not tell."""
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
