"""The team of threads: every tile once, whoever takes it, and nobody left behind."""

import os
import subprocess
import sys
import threading
import time
import warnings
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minisnn as ms
from minisnn.kernels import blas, jit, team, threads
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
            counts[tile] += own[room - 1] - tile

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
    counts = np.zeros(n_tiles)
    work = counting(room, 1.0 + np.arange(n_tiles), counts, room)
    ms.set_threads(n_threads)
    try:
        for _ in range(3):
            share_out(work, n_tiles, MANY)
    finally:
        ms.set_threads(None)
    assert (counts == 3).all()  # no scratch was another thread's


def test_runs_that_follow_each_other_do_not_mix(counting, three_threads):
    """Helpers come late, leave late and fall asleep in between: ten thousand short runs see all of it."""
    runs = [np.zeros(n) for n in (2, 3, 5, 16, 17, 200)]
    works = [(counting(7, 1.0 + np.arange(len(c)), c, 7), len(c)) for c in runs]
    for i in range(10_000):
        share_out(*works[i % len(works)], MANY)
        if i % 1000 == 0:
            time.sleep(0.002)  # long enough for all to sleep
    for i, counts in enumerate(runs):
        assert (counts == len(range(i, 10_000, len(runs)))).all()


def test_helpers_take_part_in_machine_code_whatever_scratch_it_needs(counting, three_threads):
    """A team whose helpers never come would give the right numbers too."""
    found = threads._team()
    for room in (10, 100_000, 200_000):
        work, before = counting(room, np.arange(60.0), np.zeros(60), room), found._view[team.TURN]
        deadline = time.monotonic() + 20
        while not all(found._view[threads._word(helper, team.SEEN)] > before for helper in (0, 1)):
            assert time.monotonic() < deadline, f"some helper never came, scratch of {room}"
            share_out(work, 60, MANY)


def test_helpers_do_their_part_in_python(three_threads):
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
    works = [counting(3, 1.0 + np.arange(40), c, 3) for c in counts]

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
def test_an_error_in_any_thread_reaches_the_caller_when_all_are_done(failing, three_threads):
    for _ in range(20):
        done, together = [], threading.Barrier(3, timeout=1)  # one part for each thread

        def work(lo, hi, done=done, together=together):
            together.wait()
            if lo == failing:
                raise ZeroDivisionError(f"in tile {lo}")
            time.sleep(0.02)
            done.append(lo)

        try:
            share_out(work, 3, MANY)
        except threading.BrokenBarrierError:  # a helper fell asleep at that very moment
            continue
        except ZeroDivisionError as error:
            assert str(error) == f"in tile {failing}"
            break
    else:
        pytest.fail("no error came, or the helpers did not")
    assert sorted([*done, failing]) == [0, 1, 2]
    found = []
    share_out(lambda lo, hi: found.extend(range(lo, hi)), 7, MANY)  # the threads live on
    assert sorted(found) == list(range(7))


def test_a_part_that_is_lost_is_an_interruption(monkeypatch, three_threads):
    """Python may be interrupted before a part's first line; ctypes then says so, and goes on."""
    run = threads._Team.run
    monkeypatch.setattr(threads._Team, "run", lambda team, a, p, r, n, n_tiles: run(team, a, p, r, n, n_tiles - 1))
    with pytest.raises(KeyboardInterrupt):
        share_out(lambda lo, hi: None, 5, MANY)


def test_fewer_threads_than_wanted_will_do(monkeypatch, counting):
    def start(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    ms.set_threads(7)
    team, counts = threads._Team(), np.zeros(40)
    monkeypatch.setattr(threads, "_made", [team])
    try:
        share_out(counting(3, 1.0 + np.arange(40), counts, 3), 40, MANY)
    finally:
        ms.set_threads(None)
    assert (counts == 1).all() and team._helpers == []


def test_no_two_helpers_have_one_number_though_starting_one_was_interrupted(monkeypatch, three_threads):
    start, started = threading.Thread.start, []

    def interrupted(thread):
        started.append(thread.name)
        start(thread)
        if len(started) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    monkeypatch.setattr(threads, "_made", [threads._Team()])
    with pytest.raises(KeyboardInterrupt):
        share_out(lambda lo, hi: None, 5, MANY)
    share_out(lambda lo, hi: None, 5, MANY)
    assert started == ["minisnn-1", "minisnn-2"]
    threads._made[0].end()


def test_a_child_forked_during_a_product_gives_the_matrix_library_its_threads_back(monkeypatch):
    given = []
    monkeypatch.setattr(blas, "_controls", lambda: (lambda: 1, given.append))
    for name, value in {"_running": 1, "_before": 5, "_lock": None}.items():
        monkeypatch.setattr(blas, name, value)
    blas._forget()
    assert given == [5] and blas._running == 0 and blas._lock.acquire(blocking=False)


def test_machine_code_within_a_part_does_not_take_the_scratch_of_the_next_run(counting, three_threads):
    sizes = {}

    def work(lo, hi):
        sizes[threading.current_thread().name] = jit._scratch.size  # what such machine code would make larger

    share_out(counting(7777, np.arange(60.0), np.zeros(60), 7777), 60, MANY)
    found = threads._team()
    deadline = time.monotonic() + 20
    while not any(name.startswith("minisnn-") for name in sizes):
        assert time.monotonic() < deadline, "no helper ever came"
        share_out(counting(7777, np.arange(60.0), np.zeros(60), 7777), 60, MANY)
        share_out(work, 60, MANY)
    assert any(found._view[threads._word(helper, team.HAS)] for helper in (0, 1))
    assert {size for name, size in sizes.items() if name.startswith("minisnn-")} == {0}


def test_numpy_warns_in_helpers_as_in_the_caller(three_threads):
    a, b, out = (
        np.full((400, 200), 1e30, np.float32),
        np.full((200, 200), 1e30, np.float32),
        np.empty((400, 200), np.float32),
    )
    with np.errstate(over="ignore", invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(20):
            blas.product(a, b, out)


def test_the_first_two_calls_at_once_make_one_team(monkeypatch):
    class Slow(threads._Team):
        def __init__(self):
            time.sleep(0.1)
            super().__init__()

    monkeypatch.setattr(threads, "_made", [])
    monkeypatch.setattr(threads, "_Team", Slow)
    found, together = [], threading.Barrier(4)

    def first():
        together.wait()
        found.append(threads._team())

    callers = [threading.Thread(target=first) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(set(map(id, found))) == len(threads._made) == 1


@pytest.mark.parametrize("asleep", [False, True])
def test_a_team_ends_at_once(asleep, counting, monkeypatch):
    for _ in range(10):
        team = threads._Team()
        monkeypatch.setattr(threads, "_made", [team])
        ms.set_threads(4)
        try:
            share_out(counting(3, np.arange(40.0), np.zeros(40), 3), 40, MANY)
            if asleep:
                time.sleep(0.02)
            start = time.perf_counter()
            team.end()
            assert time.perf_counter() - start < 0.5
            assert not any(helper.is_alive() for helper, _ in team._helpers)
            share_out(counting(3, np.arange(40.0), np.zeros(40), 3), 40, MANY)  # what runs at exit may still compute
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
    assert gone() is None


FORKS = """
import os, sys, threading
import numpy as np
import minisnn as ms

def helpers():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("minisnn-")]

ms.set_threads(3)
layer = ms.LIF(1000)
x = np.ones((6, 60, 1000), np.float32)
for _ in range(20):
    expected = layer.forward(x)[0]
assert len(helpers()) == 2
child = os.fork()
assert np.array_equal(layer.forward(x)[0], expected)
assert len(helpers()) == 2
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_has_a_team_of_its_own_and_both_end_while_helpers_are_awake():
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKS]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stderr) == (0, "")


@pytest.mark.parametrize(
    ("files", "allowed"),
    [
        ({"cpu.max": "250000 100000"}, 3),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({"cpu.max": ""}, None),
        ({}, None),
    ],
)
def test_a_container_gets_no_more_threads_than_it_may_use_cpus(files, allowed, tmp_path, monkeypatch):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    monkeypatch.setattr(threads, "LIMITS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.delenv("MINISNN_THREADS", raising=False)
    threads._limit.cache_clear()
    try:
        assert ms.get_threads() == (allowed or 64)
    finally:
        threads._limit.cache_clear()
