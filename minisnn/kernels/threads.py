"""Work shared among threads: compiled loops and matrix products run without the interpreter's lock.

Each tile writes places of its own, so results are the same bits for any number of threads.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from .arrays import positive_int

__all__ = ["blas_is_limited", "get_threads", "one_blas_thread", "set_threads", "share"]

#: Elements of a forward loop that take as long as waking a thread: some 100 microseconds.
WORTH_A_THREAD = 300_000
#: Parts for each thread: so many that none waits long for the last, so few that they cost nothing.
PARTS_EACH = 4
MOST_THREADS = 256
#: Where Linux says how much CPU time a container may take, in its newer way or its older one.
LIMITS = Path("/sys/fs/cgroup")

_threads: int | None = None


def get_threads() -> int:
    """How many threads a compiled loop may use.

    What `set_threads` said, else ``MINISNN_THREADS``, else the CPUs at hand, which in a container
    may be fewer than the machine has.
    """
    if _threads is not None:
        return _threads
    given = os.environ.get("MINISNN_THREADS")
    if given is None:
        allowed = getattr(os, "sched_getaffinity", lambda process: range(os.cpu_count() or 1))(0)
        return min(len(allowed), _cpu_limit())
    if not given.isdecimal() or int(given) < 1:
        raise ValueError(f"MINISNN_THREADS: got {given!r}, expected a whole number of at least 1")
    return int(given)


@cache
def _cpu_limit() -> int:
    """The CPUs that Linux grants this container: CPU time in a period, divided by the period."""
    for names in (["cpu.max"], ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"]):
        try:
            text = " ".join((LIMITS / name).read_text() for name in names)
            quota, period = map(int, text.split())
        except (OSError, ValueError):  # no such file, or no limit ("max")
            continue
        if quota > 0:
            return -(-quota // period)
    return MOST_THREADS


def set_threads(n: int | None) -> None:
    """Let compiled loops use `n` threads; ``None`` returns to the default."""
    global _threads
    _threads = None if n is None else positive_int("set_threads: n", n)


def share(work: Callable[..., object], n_tiles: int, n_elements: int, *given: Any) -> None:
    """Call ``work(*given, first, last)`` on parts of ``range(n_tiles)``, if worth it in threads.

    `n_elements` measures the work: what a forward loop does for so many elements.  The caller is
    one of the threads; it takes all parts that no other thread has begun.
    """
    n = min(n_tiles, n_elements // WORTH_A_THREAD, MOST_THREADS)
    n = min(n, get_threads()) if n > 1 else n  # to look that up takes longer than a small run
    if n <= 1:
        work(*given, 0, n_tiles)
        return
    n_parts = min(n_tiles, PARTS_EACH * n)
    edges = [n_tiles * i // n_parts for i in range(n_parts + 1)]
    parts = deque(pairwise(edges))
    warnings = np.geterr()  # NumPy warns, or does not, by thread

    def take() -> None:
        with np.errstate(**warnings):
            while True:
                try:
                    part = parts.popleft()
                except IndexError:  # none is left
                    return
                work(*given, *part)

    helpers = []
    with suppress(RuntimeError):  # the interpreter is ending, or there can be no more threads
        helpers += [_pool().submit(take) for _ in range(n - 1)]
    try:
        take()
    finally:
        parts.clear()  # if this thread stopped early, the others need not go on
    for helper in helpers:
        if not helper.cancel():
            helper.result()


@cache
def _pool() -> Executor:
    """Threads, made as they are needed; they sleep while there is no work."""
    return ThreadPoolExecutor(MOST_THREADS, thread_name_prefix="minisnn")


def undisturbed(work: Callable[[], Any]) -> Any:
    """``work()`` in another thread: Ctrl-C reaches the main thread alone."""
    if threading.current_thread() is not threading.main_thread():
        return work()
    with ThreadPoolExecutor(1) as one:
        return one.submit(work).result()


# -- the matrix library has threads of its own.  After each product they keep their CPUs busy for a
# -- while, waiting for the next, and the loops that follow take up to twice as long

_users = set[object]()
_limit: Any = None


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """While this lasts, BLAS has one thread, and minisnn shares large products among its own.

    ``fit``, ``evaluate`` and the commands do this by themselves.  Around a training loop of your
    own it saves a quarter of the time of small networks, more on a busy machine::

        with ms.one_blas_thread():
            loss, grads = net.loss_and_grads(x, labels, ms.losses.mse)

    It holds for the whole process.  Apple's Accelerate, which threadpoolctl does not know, keeps
    its threads.
    """
    me = object()
    try:
        _users.add(me)
        _in_blas_thread(_follow_users)
        yield
    finally:
        _users.discard(me)
        _in_blas_thread(_follow_users)


def blas_is_limited() -> bool:
    """Whether BLAS has one thread now, because of :func:`one_blas_thread`."""
    return bool(_users)


def _follow_users() -> None:
    """The first user limits BLAS; after the last it has as many threads as before."""
    global _limit
    if _users and _limit is None:
        _limit = _blas().limit(limits=1, user_api="blas")
    elif not _users and _limit is not None:
        _limit.restore_original_limits()
        _limit = None


def _in_blas_thread(work: Callable[[], Any]) -> Any:
    """In the same thread every time: threadpoolctl lets a thread undo only what it has set."""
    with suppress(RuntimeError):  # the interpreter is ending
        return _blas_thread().submit(work).result()


@cache
def _blas_thread() -> Executor:
    return ThreadPoolExecutor(1, thread_name_prefix="minisnn-blas")


@cache
def _blas() -> Any:
    """The matrix libraries that NumPy has loaded; to look for them takes some milliseconds."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


if hasattr(os, "register_at_fork"):  # a child has none of its parent's threads, and makes its own
    os.register_at_fork(after_in_child=_pool.cache_clear)
    os.register_at_fork(after_in_child=_blas_thread.cache_clear)
