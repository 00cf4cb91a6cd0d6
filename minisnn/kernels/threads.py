"""A small pool of Python threads for compiled loops, which run without the interpreter's lock.

The compiled code itself is serial: a loop walks a range of tiles, and the ranges are shared out here.  Each tile writes
places of its own, so results are the same bits for any number of threads.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from concurrent.futures import Executor

__all__ = ["get_threads", "set_threads", "share_out"]

#: Below this many elements waking another thread costs more than it brings (65,000: twice the time of one thread).
WORTH_SHARING = 150_000

_lock = threading.Lock()
_threads: int | None = None
_pool: tuple[int, Executor] | None = None


def get_threads() -> int:
    """How many threads a compiled loop may use: `set_threads`, else ``MINISNN_THREADS``, else the CPUs at hand."""
    if _threads is not None:
        return _threads
    asked = os.environ.get("MINISNN_THREADS")
    if asked is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not asked.isdigit() or int(asked) < 1:
        raise ValueError(f"MINISNN_THREADS: got {asked!r}, expected a whole number of at least 1")
    return int(asked)


def set_threads(n: int | None) -> None:
    """Let compiled loops use `n` threads; ``None`` returns to the default."""
    global _threads
    if n is not None and (isinstance(n, bool) or not isinstance(n, int) or n < 1):
        raise ValueError(f"threads: got {n!r}, expected a whole number of at least 1, or None")
    _threads = n


def share_out(work: Callable[[int, int], object], n_tiles: int, n_elements: int) -> None:
    """Call ``work(lo, hi)`` over parts of ``range(n_tiles)``, in several threads where it is worth it."""
    n = min(get_threads(), n_tiles)
    if n == 1 or n_elements < WORTH_SHARING:
        work(0, n_tiles)
        return
    own, *parts = itertools.pairwise(n_tiles * i // n for i in range(n + 1))
    pool = _pool_of(n - 1)
    others = [pool.submit(work, *part) for part in parts]
    try:
        work(*own)
    finally:
        for other in others:
            other.result()


def _pool_of(size: int) -> Executor:
    global _pool
    from concurrent.futures import ThreadPoolExecutor  # late: NumPy's users need not wait for it

    with _lock:
        if _pool is None or _pool[0] < size:
            _pool = size, ThreadPoolExecutor(size, thread_name_prefix="minisnn")
        return _pool[1]


def _forget_pool() -> None:
    """A forked child has none of its parent's threads: it starts a pool of its own."""
    global _pool, _lock
    _pool, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)
