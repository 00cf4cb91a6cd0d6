"""Work shared among threads: compiled loops and matrix products run without the interpreter's lock.

Each tile writes places of its own, so results are the same bits for any number of threads.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np

from .arrays import positive_int

__all__ = ["blas_is_limited", "get_threads", "one_blas_thread", "set_threads", "share"]

#: Elements of a forward loop for each thread: with fewer, waking it takes longer than it saves.
WORTH_A_THREAD = 600_000
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
    parts, done = deque(pairwise(edges)), SimpleQueue[Any]()
    warnings = np.geterr()  # NumPy warns, or does not, by thread

    def take() -> None:
        with np.errstate(**warnings):
            while parts:
                with suppress(IndexError):  # another thread took the last one
                    part = parts.popleft()
                    done.put(_outcome(partial(work, *given, *part)))

    try:
        _give(take, n - 1)
        take()
        for _ in range(n_parts):
            _result(done.get())
    finally:
        parts.clear()  # if this thread stopped early, the others need not go on


# -- threads, asleep while there is no work.  An interrupt may leave a lock of Python's executors
# -- and events taken for ever, but not a queue that is written in C

_jobs = SimpleQueue[Any]()
_helpers: list[threading.Thread] = []


def _serve(jobs: SimpleQueue[Any]) -> None:
    """What a thread does: one job after the other; ``None`` ends it."""
    while (job := jobs.get()) is not None:
        job()
        del job  # with the arrays that it holds


def _give(job: Callable[[], None], n: int) -> None:
    """Let `n` threads run it, as soon as they can."""
    with suppress(RuntimeError):  # the interpreter is ending, or there can be no more threads
        while len(_helpers) < n:
            name = f"minisnn-{len(_helpers)}"
            helper = threading.Thread(target=_serve, args=(_jobs,), name=name, daemon=True)
            helper.start()
            _helpers.append(helper)
    for _ in range(n):
        _jobs.put(job)


def _outcome(work: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    """What `work` returns, and what it raises."""
    try:
        return work(), None
    except BaseException as error:
        return None, error


def _result(outcome: tuple[Any, BaseException | None]) -> Any:
    """What a job returned; what it raised is raised here."""
    found, error = outcome
    try:
        if error:
            raise error
        return found
    finally:
        del outcome, error  # whose traceback holds this frame, and so the job's arrays


def undisturbed(work: Callable[[], Any]) -> Any:
    """``work()``, for which Ctrl-C waits: what an import or a compiler left half done stays so.

    It runs in the calling thread.  An interrupted import may have left Python's import lock taken,
    which holds up every thread but the one that has it.
    """
    main = threading.current_thread() is threading.main_thread()  # Ctrl-C reaches that one alone
    if not main or signal.getsignal(signal.SIGINT) is None:  # or C code, which installed a handler
        return work()
    came = []
    handler = signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    try:
        return work()
    finally:
        signal.signal(signal.SIGINT, handler)
        if came:
            signal.raise_signal(signal.SIGINT)


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
    undisturbed(_blas)  # it imports threadpoolctl
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
        answer = SimpleQueue[Any]()
        _blas_jobs().put(lambda: answer.put(_outcome(work)))
        return _result(answer.get())


@cache
def _blas_jobs() -> SimpleQueue[Any]:
    jobs = SimpleQueue[Any]()
    threading.Thread(target=_serve, args=(jobs,), name="minisnn-blas", daemon=True).start()
    return jobs


@cache
def _blas() -> Any:
    """The matrix libraries that NumPy has loaded; to look for them takes some milliseconds."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def _forget_threads() -> None:
    """A forked child has none of its parent's threads: it makes its own."""
    global _jobs
    _jobs = SimpleQueue[Any]()
    _helpers.clear()
    _blas_jobs.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)
