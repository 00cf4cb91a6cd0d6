"""A small team of Python threads for compiled loops, which run without the interpreter's lock.

The compiled code itself is serial: a loop walks a range of tiles, and each thread takes the next few that nobody has taken
(:mod:`minisnn.kernels.team`).  Each tile writes places of its own, so results are the same bits for any number of threads.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import struct
import threading
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from . import team
from .jit import CODE, Work, own_scratch
from .native import compile_loop

__all__ = ["can_share", "get_threads", "set_threads", "share_out"]

#: Below this many elements waking another thread costs more than it brings (65,000: twice the time of one thread).
WORTH_SHARING = 150_000
#: Parts for each thread, about: so many that none waits long for the last, so few that taking them costs nothing.
PARTS = 16
#: Seconds that a helper stays awake after a run.
AWAKE = 5e-4
#: Threads at most.
MOST = 256

_threads: int | None = None


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


def can_share() -> bool:
    """Whether there can be a team: it needs machine code."""
    from . import backend_problem

    return backend_problem("numba") is None


def share_out(work: Work | Callable[[int, int], object], n_tiles: int, n_elements: int) -> None:
    """Call ``work(lo, hi)`` over parts of ``range(n_tiles)``, in several threads where it is worth it.

    While the team works for one thread of Python, another one's work is done by that thread alone.
    """
    n = 1 if n_elements < WORTH_SHARING else min(get_threads(), n_tiles, MOST)
    if n == 1 or not (found := _team()).free.acquire(blocking=False):
        work(0, n_tiles)
        return
    try:
        if isinstance(work, Work):
            found.run(work.loop.address, work.packed, work.room, n, n_tiles)
        else:
            _call_back(found, work, n, n_tiles)
    finally:
        found.free.release()


def _call_back(found: _Team, work: Callable[[int, int], object], n: int, n_tiles: int) -> None:
    """Share out what is no machine code; an error in any thread is raised here when all are done."""
    errors = list[BaseException]()

    @CODE
    def part(packed, own, lo, hi):
        try:
            work(lo, hi)
        except BaseException as error:
            errors.append(error)

    found.run(_address_of(part), b"", 0, n, n_tiles)
    if errors:
        raise errors[0]


class _Team:
    """A block of shared words, and the helpers that look at it."""

    def __init__(self) -> None:
        self.free = threading.Lock()
        self._lead, self._follow = (compile_loop(f, ()).run for f in (team.lead, team.follow))
        n_words = team.HELPERS + team.LINE * MOST
        memory = np.zeros(n_words + 8, np.int64)
        words = memory[-memory.ctypes.data % 64 // 8 :][:n_words]
        self._block, self._view = words.ctypes.data, memoryview(words.data).cast("B").cast("q")
        self._wakes, self._helpers = list[threading.Lock](), list[threading.Thread]()
        self._view[team.GIVE_WAY] = _give_way()
        self._patience, self._over = self._looks_in(AWAKE), False
        atexit.register(self._end)

    def _looks_in(self, seconds: float) -> int:
        """How often a helper looks in that time, where nothing else takes its CPU."""
        times, n = list[float](), 1000
        for _ in range(5):
            start = time.perf_counter()
            self._follow(self._block, 0, 0, n)
            times.append(time.perf_counter() - start)
        self._view[team.HELPERS + team.ASLEEP] = 0
        return max(1, int(n * seconds / min(times)))

    def run(self, address: int, packed: bytes, room: int, n_threads: int, n_tiles: int) -> None:
        """Run machine code over all tiles; the caller is one of the threads, and `free` is taken."""
        view, n_helpers = self._view, 0 if self._over else n_threads - 1
        while len(self._helpers) < n_helpers:
            self._add_helper()
        grain = max(1, n_tiles // (PARTS * n_threads))
        parts = -(-n_tiles // grain)
        _run.pack_into(view, 8 * team.TAKEN, *_ZEROS, address, room, n_tiles, grain, parts)
        view[team.TURN] += 1
        view[team.MOST] = n_helpers
        for helper in range(n_helpers):
            at = team.HELPERS + team.LINE * helper + team.ASLEEP
            if view[at]:
                view[at] = 0
                self._wakes[helper].release()
        self._lead(packed, own_scratch(room), self._block, 0)

    def _add_helper(self) -> None:
        number, wake = len(self._helpers), threading.Lock()
        wake.acquire()
        helper = threading.Thread(target=self._help, args=(number, wake), name=f"minisnn-{number + 1}", daemon=True)
        helper.start()
        self._wakes.append(wake)
        self._helpers.append(helper)

    def _help(self, number: int, wake: threading.Lock) -> None:
        """The life of a helper."""
        view, mine = self._view, team.HELPERS + team.LINE * number
        own = 0
        while not view[team.STOP]:
            self._follow(self._block, own, number, self._patience)
            if room := view[mine + team.WANTS]:
                own = own_scratch(room)
                view[mine + team.HAS], view[mine + team.WANTS] = room, 0
            else:
                wake.acquire()

    def _end(self) -> None:
        """Before the interpreter takes itself to pieces, nobody may be in machine code any more."""
        self._over = True
        self._view[team.STOP] = 1
        for number, (helper, wake) in enumerate(zip(self._helpers, self._wakes, strict=True)):
            at = team.HELPERS + team.LINE * number + team.ASLEEP
            if self._view[at]:
                self._view[at] = 0
                wake.release()
            helper.join(1.0)


#: What a run writes into the block: a line of counters, and what it is.
_run, _ZEROS = struct.Struct("13q"), (0,) * 8


@cache
def _give_way() -> int:
    """Address of the system's function that lets another thread have the CPU; 0 where there is none."""
    return _address_of(ctypes.CDLL(None).sched_yield) if os.name == "posix" else 0


def _address_of(function: Any) -> int:
    return ctypes.c_void_p.from_buffer(function).value or 0  # a cast would not let go of what it was given


@cache
def _team() -> _Team:
    return _Team()


if hasattr(os, "register_at_fork"):  # a forked child has none of its parent's threads: it makes its own team
    os.register_at_fork(after_in_child=_team.cache_clear)
