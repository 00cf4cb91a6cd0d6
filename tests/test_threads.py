"""The team of threads: every tile once, whoever takes it, and nobody left behind."""

import os
import subprocess
import sys
import textwrap
import threading
import time
import weakref

import numpy as np
import pytest
from grid import FULL, problem
from hypothesis import given
from hypothesis import strategies as st

import minisnn as ms
from minisnn.kernels import kernel_of
from minisnn.kernels.threads import share_out

pytest.importorskip("numba")

#: Enough elements for several threads.
MANY = 10**6


@pytest.fixture
def three_threads():
    ms.set_threads(3)
    yield
    ms.set_threads(None)


@pytest.fixture(scope="module")
def counting():
    """A loop that adds one to the count of each tile, by way of scratch."""
    from minisnn.kernels.jit import WHOLE, reads, scratch, writes
    from minisnn.kernels.native import compile_loop

    def counting_loop(own, x, counts, room, lo, hi):
        for tile in range(lo, hi):
            for i in range(room):
                own[i] = x[tile]
            counts[tile] += own[room - 1]

    return compile_loop(counting_loop, (scratch("f8"), reads("f8"), writes("f8"), WHOLE))


@given(n_tiles=st.integers(1, 50), n_threads=st.integers(1, 9), elements=st.sampled_from([10, 10**6]))
def test_every_tile_is_run_once(n_tiles, n_threads, elements):
    run = []
    ms.set_threads(n_threads)
    try:
        share_out(lambda lo, hi: run.extend(range(lo, hi)), n_tiles, elements)
    finally:
        ms.set_threads(None)
    assert sorted(run) == list(range(n_tiles))


@given(n_tiles=st.integers(1, 3000), n_threads=st.integers(1, 9), room=st.integers(1, 5000))
def test_every_tile_is_run_once_in_machine_code(counting, n_tiles, n_threads, room):
    ones, counts = np.ones(n_tiles), np.zeros(n_tiles)
    work = counting(room, ones, counts, room)
    ms.set_threads(n_threads)
    try:
        for _ in range(3):
            share_out(work, n_tiles, MANY)
    finally:
        ms.set_threads(None)
    assert (counts == 3).all()


def test_runs_that_follow_each_other_do_not_mix(counting, three_threads):
    """Helpers come late, leave late and fall asleep in between: ten thousand short runs see all of it."""
    runs = [np.zeros(n) for n in (2, 3, 5, 16, 17, 200)]
    works = [(counting(7, np.ones(len(c)), c, 7), len(c)) for c in runs]
    for i in range(10_000):
        share_out(*works[i % len(works)], MANY)
        if i % 1000 == 0:
            time.sleep(0.002)  # long enough for all to sleep
    for i, counts in enumerate(runs):
        assert (counts == len(range(i, 10_000, len(runs)))).all()


def test_helpers_do_their_part(counting, three_threads):
    """A team whose helpers never come would give the right numbers too."""
    seen = set()

    def work(lo, hi):
        seen.add(threading.current_thread().name)
        time.sleep(0.01)

    for _ in range(50):
        share_out(work, 12, MANY)
        if len(seen) == 3:
            break
    assert len(seen) == 3 and sum(name.startswith("minisnn-") for name in seen) == 2
    ms.set_threads(2)
    seen.clear()
    for _ in range(20):
        share_out(work, 4, MANY)
    assert "minisnn-2" not in seen  # it is there, and not asked


def test_two_threads_of_python_at_once_each_get_all_their_tiles(counting, three_threads):
    counts = [np.zeros(40) for _ in range(4)]
    works = [counting(3, np.ones(40), c, 3) for c in counts]

    def run(work):
        for _ in range(500):
            share_out(work, 40, MANY)

    callers = [threading.Thread(target=run, args=(work,)) for work in works]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert all((c == 500).all() for c in counts)


def test_a_run_within_a_run(three_threads):
    found = []

    def work(lo, hi):
        for tile in range(lo, hi):
            share_out(lambda a, b, tile=tile: found.extend((tile, i) for i in range(a, b)), 5, MANY)

    share_out(work, 6, MANY)
    assert sorted(found) == [(a, b) for a in range(6) for b in range(5)]


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_an_error_in_any_thread_reaches_the_caller_when_all_are_done(failing):
    done = []

    def work(lo, hi):
        if lo == failing:
            raise ZeroDivisionError(f"in tile {lo}")
        time.sleep(0.02)
        done.append(lo)

    ms.set_threads(3)
    try:
        with pytest.raises(ZeroDivisionError, match=f"in tile {failing}"):
            share_out(work, 3, 10**6)
        assert sorted([*done, failing]) == [0, 1, 2]
        found = []
        share_out(lambda lo, hi: found.extend(range(lo, hi)), 7, 10**6)  # the threads live on
        assert sorted(found) == list(range(7))
    finally:
        ms.set_threads(None)


def test_threads_let_go_of_what_they_worked_on():
    class Arrays:
        def __call__(self, lo, hi):
            pass

    work = Arrays()
    gone = weakref.ref(work)
    ms.set_threads(3)
    try:
        share_out(work, 3, 10**6)
    finally:
        ms.set_threads(None)
    del work
    for _ in range(500):  # the caller may be faster than the thread
        if gone() is None:
            return
        time.sleep(0.01)
    pytest.fail("a thread holds on to its last job")


def test_a_team_survives_a_fork():
    kernel = kernel_of(FULL["lif-hard-atan"], "numba")
    p = problem(FULL["lif-hard-atan"], (5, 40, 1000), dtype="float32")
    ms.set_threads(2)
    try:
        expected = kernel.scan(*p[:5])[0]
        child = os.fork()
        if child == 0:
            os._exit(0 if np.array_equal(kernel.scan(*p[:5])[0], expected) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        ms.set_threads(None)


ENDS = """
import os, sys
import numpy as np
import minisnn as ms

ms.set_threads(3)
layer = ms.LIF(1000)
x = np.ones((5, 40, 1000), np.float32)
for _ in range(20):
    expected = layer.forward(x)[0]
child = os.fork()  # it ends like any other process
assert np.array_equal(layer.forward(x)[0], expected)
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_process_ends_while_helpers_are_awake():
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(ENDS)], capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stderr) == (0, "")
