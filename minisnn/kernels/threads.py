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
from pathlib import Path
from typing import Any

import numpy as np

from . import team
from .contract import whole
from .jit import CODE, Work, own_scratch, scratch_of
from .native import compile_loop

__all__ = ["can_share", "get_threads", "set_threads", "share_out"]

#: Below this many elements another thread brings less than it costs (131,000: 0.8 of the time of one thread if the other is
#: awake, 1.1 if it sleeps).
WORTH_SHARING = 150_000
#: Parts for each thread, about: so many that none waits long for the last, so few that taking them costs nothing.
PARTS_EACH = 16
#: Seconds that a helper stays awake after a run, where nobody else wants its CPU.
AWAKE = 5e-4
#: Threads at most.
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
        return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, _limit())
    if not asked.isdecimal() or int(asked) < 1:
        raise ValueError(f"MINISNN_THREADS: got {asked!r}, expected a whole number of at least 1")
    return int(asked)


@cache
def _limit() -> int:
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
    _threads = None if n is None else whole("set_threads: n", n)


def can_share() -> bool:
    """Whether there can be a team: it needs machine code."""
    from . import backend_problem

    return backend_problem("numba") is None


def share_out(work: Work | Callable[[int, int], object], n_tiles: int, n_elements: int) -> None:
    """Call ``work(lo, hi)`` over parts of ``range(n_tiles)``, in several threads where it is worth it.

    The team does one thing at a time.  What another thread of Python wants meanwhile, or such a part itself, is not shared.
    """
    n = min(n_tiles, n_elements // (WORTH_SHARING // 2), MOST_THREADS)
    n = min(n, get_threads()) if n > 1 else n  # to ask takes longer than a small run
    if n <= 1 or not (found := _team()).free.acquire(blocking=False):
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
    errors, done = list[BaseException](), list[int]()

    @CODE
    def part(packed, own, lo, hi):
        try:
            work(lo, hi)
            done.append(hi - lo)
        except BaseException as error:
            errors.append(error)

    found.run(_address_of(part), b"", 0, n, n_tiles)
    if errors:
        raise errors[0]
    if sum(done) != n_tiles:  # Python was interrupted where a part begins or ends, and ctypes could hand nothing on
        raise KeyboardInterrupt


class _Team:
    """A block of shared words, and the helpers that look at it."""

    def __init__(self) -> None:
        self.free = threading.Lock()
        self._lead, self._follow = (compile_loop(f, ()) for f in (team.lead, team.follow))
        n_words = team.HELPERS + team.LINE * MOST_THREADS
        memory = np.zeros(n_words + team.LINE, np.int64)
        words = memory[-memory.ctypes.data % (8 * team.LINE) // 8 :][:n_words]
        self._block, self._view = words.ctypes.data, memoryview(words.data).cast("B").cast("q")
        self._helpers = list[tuple[threading.Thread, threading.Lock]]()
        self._view[team.GIVE_WAY] = _give_way()
        self._patience, self._over = self._looks_in(AWAKE), False
        atexit.register(self.end)

    def _looks_in(self, seconds: float) -> int:
        """How often a helper looks in that time, where nothing else takes its CPU."""
        times, n = list[float](), 1000
        for _ in range(5):
            start = time.perf_counter()
            self._follow.run(self._block, 0, 0, n)
            times.append(time.perf_counter() - start)
        self._view[_word(0, team.ASLEEP)] = 0
        return max(1, int(n * seconds / min(times)))

    def run(self, address: int, packed: bytes, room: int, n_threads: int, n_tiles: int) -> None:
        """Run machine code over all tiles; the caller is one of the threads, and `free` is taken."""
        view, n_helpers = self._view, self._gather(n_threads - 1)
        grain = max(1, n_tiles // (PARTS_EACH * n_threads))
        _counters.pack_into(view, 8 * team.TAKEN, 0, 0, 0)
        _what_to_do.pack_into(view, 8 * team.RUN, address, room, n_tiles, grain, -(-n_tiles // grain))
        view[team.TURN] += 1
        view[team.MOST] = n_helpers
        for number, (_, wake) in enumerate(self._helpers[:n_helpers]):
            self._rouse(number, wake)
        self._lead.run(packed, own_scratch(room), self._block, 0)

    def _gather(self, n_helpers: int) -> int:
        """How many helpers there are, of so many that are wanted: the system may allow no more threads."""
        while len(self._helpers) < n_helpers and not self._over:
            number, wake = len(self._helpers), threading.Lock()
            wake.acquire()
            helper = threading.Thread(target=self._help, args=(number, wake), name=f"minisnn-{number + 1}", daemon=True)
            self._helpers.append((helper, wake))  # first of all: an interruption must not leave two with one number
            try:
                helper.start()
            except RuntimeError:
                self._helpers.pop()
                break
        return 0 if self._over else min(n_helpers, len(self._helpers))

    def _rouse(self, number: int, wake: threading.Lock) -> None:
        at = _word(number, team.ASLEEP)
        if self._view[at]:
            self._view[at] = 0
            wake.release()

    def _help(self, number: int, wake: threading.Lock) -> None:
        """The life of a helper.  Its scratch is not that of what it may be asked to do in Python."""
        view, wants = self._view, _word(number, team.WANTS)
        own = scratch_of(0)
        while not view[team.STOP]:
            self._follow.run(self._block, own[0], number, self._patience)
            if room := view[wants]:
                own = scratch_of(room)
                view[_word(number, team.HAS)], view[wants] = room, 0
            elif not view[team.STOP]:
                wake.acquire()

    def end(self) -> None:
        """Before the interpreter takes itself to pieces, nobody may be in machine code any more."""
        self._over = True
        self._view[team.STOP] = 1
        for number, (_, wake) in enumerate(self._helpers):
            self._rouse(number, wake)
        for helper, _ in self._helpers:
            if helper.ident is not None:
                helper.join(1.0)


def _word(number: int, which: int) -> int:
    """Where a helper has that word."""
    return team.HELPERS + team.LINE * number + which


#: What a run writes into the block, from `team.TAKEN` and from `team.RUN` on.
_counters, _what_to_do = struct.Struct("3q"), struct.Struct("5q")


@cache
def _give_way() -> int:
    """Address of the system's function that lets another thread have the CPU; 0 where none is known."""
    return _address_of(ctypes.CDLL(None).sched_yield) if os.name == "posix" else 0


def _address_of(function: Any) -> int:
    return ctypes.c_void_p.from_buffer(function).value or 0  # a cast would not let go of what it was given


_making, _made = threading.Lock(), list[_Team]()


def _team() -> _Team:
    """The team of this process."""
    if not _made:
        with _making:
            if not _made:
                _made.append(_Team())
    return _made[0]


def _forget_team() -> None:
    """A forked child has none of its parent's threads: it makes its own team."""
    global _making
    _making = threading.Lock()
    _made.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_team)
