"""The density of spikes above which a dense product is faster than a sum of rows.

``python docs/benchmarks/crossover.py`` measures it; `minisnn.kernels.spike_matmul.worth_it` is a
formula fitted to such measurements.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np

from minisnn.kernels import spike_matmul

__all__ = ["MOST", "crossover", "main"]

#: Highest density tried: denser inputs have no room for their entries
#: (`minisnn.kernels.spike_matmul.MOST`).
MOST = 0.24


def crossover(n: int, rows: int = 2048, columns: int = 784, rounds: int = 7) -> float:
    """The density at which a sum of rows, with its index, takes as long as a dense product.

    It times ``x @ table`` and ``x.T @ d_y``, for a table ``[columns, n]``.
    """
    rng = np.random.default_rng(n)
    table = rng.standard_normal((columns, n), np.float32)
    d_y = rng.standard_normal((rows, n), np.float32)

    def ratio(density: float) -> float:
        x = (rng.random((rows, columns), np.float32) < density).view(np.uint8)

        def adding() -> None:
            found = spike_matmul.active_entries(x, n, anyway=True)
            assert found is not None
            spike_matmul.add_rows(found, table)
            spike_matmul.add_rows(spike_matmul.transposed(found), d_y)

        def dense() -> None:
            x.astype(np.float32) @ table
            x.astype(np.float32).T @ d_y

        return statistics.median(_seconds(adding) / _seconds(dense) for _ in range(rounds))

    low, high = 0.0, MOST
    for _ in range(6):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if ratio(middle) < 1 else (low, middle)
    return MOST if high == MOST else 0.5 * (low + high)


def _seconds(work: Callable[[], None]) -> float:
    work()
    start = time.perf_counter()
    for _ in range(3):
        work()
    return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    for n in (20, 64, 256, 1024):
        density = crossover(n)
        print(f"n = {n:>4}: {density:.1%}" if density < MOST else f"n = {n:>4}: above {MOST:.0%}, the highest density tried")


if __name__ == "__main__":
    main()
