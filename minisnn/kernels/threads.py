"""A small pool of Python threads for compiled loops, which run without the interpreter's lock.

The compiled code itself is serial: a loop walks a range of tiles, and the ranges are shared out here.  Each tile writes
places of its own, so results are the same bits for any number of threads.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable
from queue import SimpleQueue

__all__ = ["get_threads", "set_threads", "share_out"]

#: Below this many elements waking another thread costs more than it brings (65,000: twice the time of one thread).
WORTH_SHARING = 150_000

_lock = threading.Lock()
_threads: int | None = None
_helpers = 0
_jobs: SimpleQueue[tuple[Callable[[int, int], object], tuple[int, int], SimpleQueue]] = SimpleQueue()


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
    n = 1 if n_elements < WORTH_SHARING else min(get_threads(), n_tiles)
    if n == 1:
        work(0, n_tiles)
        return
    own, *parts = itertools.pairwise(n_tiles * i // n for i in range(n + 1))
    while _helpers < n - 1:
        _add_helper()
    ends: SimpleQueue[BaseException | None] = SimpleQueue()
    for part in parts:
        _jobs.put((work, part, ends))
    try:
        work(*own)
    finally:
        errors = [ends.get() for _ in parts]
    for error in filter(None, errors):
        raise error


def _add_helper() -> None:
    global _helpers
    with _lock:
        threading.Thread(target=_help, args=(_jobs,), name=f"minisnn-{_helpers + 1}", daemon=True).start()
        _helpers += 1


def _help(jobs: SimpleQueue) -> None:
    """The life of a helper.  An executor's futures would take half as long again as all of this to hand over a job."""
    while True:
        work, part, ends = jobs.get()
        error = None
        try:
            work(*part)
        except BaseException as raised:  # handed on: the caller raises it
            error = raised
        ends.put(error)
        del work, ends, error  # else the arrays of this job would be in use until the next one


def _forget_helpers() -> None:
    """A forked child has none of its parent's threads: it starts its own."""
    global _helpers, _jobs, _lock
    _helpers, _jobs, _lock = 0, SimpleQueue(), threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_helpers)
