"""Matrix products shared out among our own threads, each with one thread of the matrix library.

OpenBLAS's threads keep a CPU busy for a tenth of a second after each product, waiting for the next; on two CPUs the loops
that follow take up to twice as long.  So OpenBLAS is told to use one thread while a product of ours runs, and then as many
as before.  Where the library is another one, or cannot be found, its own threads do the work.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np

from .contract import Array
from .threads import can_share, share_out

__all__ = ["product"]

#: Multiplications below which a product is left to one thread, and parts it is cut into otherwise: not a matter of threads,
#: so that the same numbers come out for any number of them.
WORTH_SHARING = 1 << 22
PARTS = 4

_lock = threading.Lock()
_running, _before = 0, 1


def product(a: Array, b: Array, out: Array) -> None:
    """``out = a @ b``, rows of `a` shared out."""
    work = len(a) * b.size
    if work < WORTH_SHARING or _controls() is None or not can_share():
        np.matmul(a, b, out=out)
        return
    parts, warnings = min(PARTS, len(a)), np.geterr()

    def multiply(lo: int, hi: int) -> None:
        with np.errstate(**warnings):  # a helper has its own
            for part in range(lo, hi):
                rows = slice(len(a) * part // parts, len(a) * (part + 1) // parts)
                np.matmul(a[rows], b, out=out[rows])

    with _one_thread():
        share_out(multiply, parts, work)


@contextmanager
def _one_thread() -> Iterator[None]:
    """OpenBLAS has one thread while any product of ours runs, in whatever thread of Python."""
    global _running, _before
    controls = _controls()
    assert controls is not None
    get, put = controls
    with _lock:
        if _running == 0:
            _before = get()
            put(1)
        _running += 1
    try:
        yield
    finally:
        with _lock:
            _running -= 1
            if _running == 0:
                put(_before)


def _forget() -> None:
    """A forked child has none of its parent's threads: no product is running in it."""
    global _lock, _running
    _lock = threading.Lock()
    if _running and (controls := _controls()) is not None:
        controls[1](_before)
    _running = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


@cache
def _controls() -> tuple[Callable[[], int], Callable[[int], Any]] | None:
    """The functions of the OpenBLAS that NumPy has loaded which read and set its number of threads."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as file:
            paths = {line.split(maxsplit=5)[5].strip() for line in file if "openblas" in line}
        for path in sorted(paths):
            library = ctypes.CDLL(path)
            for name in ("scipy_openblas_{}_num_threads64_", "openblas_{}_num_threads64_", "openblas_{}_num_threads"):
                if hasattr(library, name.format("set")):
                    return getattr(library, name.format("get")), getattr(library, name.format("set"))
    except OSError:
        pass
    return None
