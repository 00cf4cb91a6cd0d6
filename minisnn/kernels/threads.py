"""Work shared among threads: compiled loops and matrix products run without the interpreter's lock.

Each tile writes places of its own, so results are the same bits for any number of threads.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from .arrays import positive_int

__all__ = ["blas_is_limited", "get_threads", "one_blas_thread", "set_threads", "share", "undisturbed"]

#: Elements of a forward loop that take one thread as long as another takes to wake, and back: some 100 microseconds.
WORTH_A_THREAD = 300_000
#: Parts for each thread: so many that none waits long for the last, so few that taking them costs nothing.
PARTS_EACH = 4
MOST_THREADS = 256
#: Where Linux says how much CPU time a container may take, in its newer way or its older one.
LIMITS = Path("/sys/fs/cgroup")

_threads: int | None = None


def get_threads() -> int:
    """How many threads a compiled loop may use: `set_threads`, else ``MINISNN_THREADS``, else the CPUs at hand.

    In a container these may be fewer than the machine has.
    """
    if _threads is not None:
        return _threads
    asked = os.environ.get("MINISNN_THREADS")
    if asked is None:
        return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, _cpu_limit())
    if not asked.isdecimal() or int(asked) < 1:
        raise ValueError(f"MINISNN_THREADS: got {asked!r}, expected a whole number of at least 1")
    return int(asked)


@cache
def _cpu_limit() -> int:
    """The CPUs that Linux lets this container use: the time that it may take in a period, by the period."""
    for names in (["cpu.max"], ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"]):
        try:
            quota, period = map(int, " ".join((LIMITS / name).read_text() for name in names).split())
        except (OSError, ValueError):  # no such file, or no limit ("max")
            continue
        if quota > 0:
            return -(-quota // period)
    return MOST_THREADS


def set_threads(n: int | None) -> None:
    """Let compiled loops use `n` threads; ``None`` returns to the default."""
    global _threads
    _threads = None if n is None else positive_int("set_threads: n", n)


def share(work: Callable[[int, int], object], n_tiles: int, n_elements: int) -> None:
    """Call ``work(first, last)`` on parts of ``range(n_tiles)``, in several threads where it is worth it.

    `n_elements` measures the work: what a forward loop does for so many elements.  The caller is one of the threads; it
    waits for no thread that has not begun, as the last parts are then its own.
    """
    n = min(n_tiles, n_elements // WORTH_A_THREAD, MOST_THREADS)
    n = min(n, get_threads()) if n > 1 else n  # to ask takes longer than a small run
    if n <= 1:
        work(0, n_tiles)
        return
    n_parts = min(n_tiles, PARTS_EACH * n)
    parts = deque((n_tiles * i // n_parts, n_tiles * (i + 1) // n_parts) for i in range(n_parts))

    def take() -> None:
        while True:
            try:
                part = parts.popleft()
            except IndexError:  # none is left
                return
            work(*part)

    warnings = np.geterr()  # NumPy warns, or does not, by thread

    def help_out() -> None:
        with np.errstate(**warnings):
            take()

    helpers = list[Future]()
    with suppress(RuntimeError):  # the interpreter is ending, or the system allows no more threads
        for _ in range(n - 1):
            helpers.append(_executor(n - 1).submit(help_out))
    try:
        take()
    finally:
        parts.clear()  # after an error or an interruption nobody needs the rest
    for helper in helpers:
        if not helper.cancel():
            helper.result()


# -- the matrix library has threads of its own.  After each product they keep their CPUs busy for a while, waiting for the
# -- next, and the loops that follow take up to twice as long


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """While this lasts, BLAS has one thread, for the whole process, and minisnn shares large products among its own.

    ``fit``, ``evaluate`` and the commands do this by themselves.  Around a training loop of your own it saves a quarter
    of the time of small networks, more on a busy machine::

        with ms.one_blas_thread():
            loss, grads = net.loss_and_grads(x, labels, ms.losses.mse)

    What is not known to threadpoolctl (Apple's Accelerate) keeps its threads.
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


_users = set[object]()
_limit: Any = None


def _follow_users() -> None:
    """Several threads may train at once: the first limits BLAS, and after the last it has as many threads as before."""
    global _limit
    if _users and _limit is None:
        _limit = _blas().limit(limits=1, user_api="blas")
    elif not _users and _limit is not None:
        _limit.restore_original_limits()
        _limit = None


def _in_blas_thread(work: Callable[[], Any]) -> Any:
    """In one thread, the same every time: threadpoolctl lets no other undo what one thread has set."""
    global _blas_thread
    if _blas_thread is None:
        _blas_thread = ThreadPoolExecutor(1, thread_name_prefix="minisnn-blas")
    with suppress(RuntimeError):  # the interpreter is ending
        return _blas_thread.submit(work).result()


_blas_thread: Executor | None = None


@cache
def _blas() -> Any:
    """The matrix libraries that NumPy has loaded; to look for them takes some milliseconds."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def undisturbed(work: Callable[[], Any]) -> Any:
    """``work()`` in a thread of its own: Ctrl-C reaches the main thread alone, and must not leave Numba half imported."""
    if threading.current_thread() is not threading.main_thread():
        return work()
    with ThreadPoolExecutor(1) as one:
        return one.submit(work).result()


_pool: tuple[int, Executor] | None = None


def _executor(n: int) -> Executor:
    """A pool of at least `n` threads; they sleep while there is nothing to do."""
    global _pool
    found = _pool
    if found is None or found[0] < n:
        found = _pool = n, ThreadPoolExecutor(n, thread_name_prefix="minisnn")
    return found[1]


def _forget_pool() -> None:
    """A forked child has none of its parent's threads: it makes a pool of its own."""
    global _pool, _blas_thread
    _pool = _blas_thread = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)
