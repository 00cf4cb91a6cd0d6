"""Work shared among threads: every tile once, whoever takes it; and one BLAS thread for as long as somebody trains."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minisnn as ms
from minisnn.kernels import products, threads
from minisnn.kernels.threads import share

#: Enough elements for several threads.
MANY = 10**7


@pytest.fixture
def three_threads():
    ms.set_threads(3)
    yield
    ms.set_threads(None)


@given(n_tiles=st.integers(1, 50), n_threads=st.integers(1, 9), elements=st.sampled_from([10, MANY]))
def test_every_tile_is_run_once(n_tiles, n_threads, elements):
    run = []
    ms.set_threads(n_threads)
    try:
        share(lambda first, last: run.extend(range(first, last)), n_tiles, elements)
    finally:
        ms.set_threads(None)
    assert sorted(run) == list(range(n_tiles))


def test_helpers_take_part_and_no_more_than_there_may_be(three_threads):
    seen = set()

    def work(first, last):
        seen.add(threading.current_thread().name)
        time.sleep(0.01)

    for _ in range(50):
        share(work, 12, MANY)
        if len(seen) == 3:
            break
    assert len(seen) == 3 and sum(name.startswith("minisnn") for name in seen) == 2
    ms.set_threads(1)
    seen.clear()
    share(work, 12, MANY)
    assert seen == {threading.current_thread().name}


def test_several_callers_at_once_each_get_all_their_tiles(three_threads):
    counts = [np.zeros(40) for _ in range(4)]

    def work(count):
        def one(first, last):
            count[first:last] += 1

        return one

    def call(count):
        for _ in range(300):
            share(work(count), 40, MANY)

    callers = [threading.Thread(target=call, args=(c,)) for c in counts]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert all((c == 300).all() for c in counts)


def test_a_run_within_a_run(three_threads):
    found = []

    def work(first, last):
        for tile in range(first, last):
            share(lambda a, b, tile=tile: found.extend((tile, i) for i in range(a, b)), 5, MANY)

    share(work, 6, MANY)
    assert sorted(found) == [(a, b) for a in range(6) for b in range(5)]


def test_an_error_in_any_thread_reaches_the_caller_and_the_threads_live_on(three_threads):
    for failing in range(9):

        def work(first, last, failing=failing):
            time.sleep(0.001)
            if first <= failing < last:
                raise ZeroDivisionError(f"in tile {failing}")

        with pytest.raises(ZeroDivisionError, match=f"in tile {failing}"):
            share(work, 9, MANY)
    found = []
    share(lambda first, last: found.extend(range(first, last)), 7, MANY)
    assert sorted(found) == list(range(7))


def test_without_threads_the_caller_does_all(monkeypatch, three_threads):
    def start(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threads.threading.Thread, "start", start)
    monkeypatch.setattr(threads, "_helpers", [])
    found = []
    share(lambda first, last: found.extend(range(first, last)), 7, MANY)
    assert sorted(found) == list(range(7))


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no interval timer on this system")
def test_no_interruption_leaves_a_lock_behind():
    """Those of Python's executors were: some call after an interrupt waited for ever."""
    program = """
        import random, signal
        import minisnn as ms
        from minisnn.kernels.threads import share

        ms.set_threads(3)
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        rng, interruptions = random.Random(0), 0
        while interruptions < 2000:
            try:
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(5e-5, 1e-3))
                while True:
                    share(lambda first, last: None, 8, 10**9)
            except KeyboardInterrupt:
                interruptions += 1
        signal.setitimer(signal.ITIMER_REAL, 0)
        found = []
        share(lambda first, last: found.extend(range(first, last)), 8, 10**9)
        assert sorted(found) == list(range(8))
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], timeout=60, check=True)


def test_an_interruption_waits_for_what_must_not_be_left_half_done():
    done = []

    def work():
        signal.raise_signal(signal.SIGINT)
        done.append(True)

    with pytest.raises(KeyboardInterrupt):
        threads.undisturbed(work)
    assert done and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    done.clear()
    other = threading.Thread(target=threads.undisturbed, args=(lambda: done.append(True),))
    other.start()
    other.join()
    assert done and threads.undisturbed(lambda: 3) == 3


def test_threads_let_go_of_what_they_worked_on(three_threads):
    class Arrays:
        def __call__(self, first, last):
            pass

    work = Arrays()
    gone = weakref.ref(work)
    share(work, 30, MANY)
    del work
    deadline = time.monotonic() + 5
    while gone() is not None and time.monotonic() < deadline:
        time.sleep(0.01)  # a helper may still be on its way out
    assert gone() is None


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
    threads._cpu_limit.cache_clear()
    try:
        assert ms.get_threads() == (allowed or 64)
    finally:
        threads._cpu_limit.cache_clear()


# -- one thread for BLAS


def blas_threads():
    return [info["num_threads"] for info in threads._blas().info() if info["user_api"] == "blas"]


@pytest.fixture
def four_blas_threads():
    if not blas_threads():
        pytest.skip("threadpoolctl does not know NumPy's matrix library")
    limit = threads._in_blas_thread(lambda: threads._blas().limit(limits=4, user_api="blas"))
    yield
    threads._in_blas_thread(limit.restore_original_limits)


def test_blas_has_one_thread_for_as_long_as_anybody_trains(four_blas_threads):
    before = blas_threads()
    inside, out = threading.Event(), threading.Event()

    def train():
        with ms.one_blas_thread():
            inside.set()
            out.wait()

    other = threading.Thread(target=train)
    with ms.one_blas_thread():
        other.start()
        inside.wait()
        assert set(blas_threads()) == {1} and threads.blas_is_limited()
    assert set(blas_threads()) == {1}, "another thread still trains"
    out.set()
    other.join()
    assert blas_threads() == before and not threads.blas_is_limited()


def test_an_interruption_gives_blas_its_threads_back(four_blas_threads, monkeypatch):
    before, whole = blas_threads(), threads._in_blas_thread

    def interrupted(work):
        monkeypatch.undo()
        whole(work)
        raise KeyboardInterrupt

    monkeypatch.setattr(threads, "_in_blas_thread", interrupted)
    with pytest.raises(KeyboardInterrupt), ms.one_blas_thread():
        pass
    assert blas_threads() == before and not threads.blas_is_limited()


def test_fit_limits_blas(four_blas_threads):
    rng, seen = np.random.default_rng(0), []
    net = ms.Network(fc=ms.Linear(4, 3, rng=rng), lif=ms.LIF(3), rate=ms.Rate())

    def loss(scores, labels):
        seen.append(set(blas_threads()))
        return ms.losses.mse(scores, labels)

    data = rng.random((8, 4)), rng.integers(0, 3, 8)
    before = blas_threads()
    ms.fit(net, ms.SGD(net, lr=0.1), data, epochs=1, encoder=ms.encode.Bernoulli(2), loss=loss, progress=False)
    assert seen and all(found == {1} for found in seen) and blas_threads() == before


def test_a_product_has_the_same_bits_for_any_number_of_threads():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((1003, 300), np.float32), rng.standard_normal((300, 300), np.float32)
    found = []
    with ms.one_blas_thread():
        for n in (1, 2, 7):
            ms.set_threads(n)
            found.append(products.multiply(a, b))
    ms.set_threads(None)
    assert len(a) * b.size // products.PER_ELEMENT > 2 * threads.WORTH_A_THREAD
    assert all(np.array_equal(found[0], f) for f in found) and np.allclose(found[0], a @ b, rtol=1e-4, atol=1e-4)


def test_numpy_warns_in_helpers_as_in_the_caller(three_threads):
    a, b = np.full((400, 200), 1e30, np.float32), np.full((200, 200), 1e30, np.float32)
    with np.errstate(over="ignore", invalid="ignore"), warnings.catch_warnings(), ms.one_blas_thread():
        warnings.simplefilter("error")
        for _ in range(20):
            products.multiply(a, b)


FORKS = """
import os, sys, threading
import numpy as np
import minisnn as ms

def helpers():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("minisnn")]

ms.set_threads(3)
layer = ms.LIF(1000)
x = np.ones((12, 120, 1000), np.float32)
for _ in range(20):
    expected = layer.forward(x)[0]
assert helpers()
child = os.fork()
for _ in range(20):
    assert np.array_equal(layer.forward(x)[0], expected)
assert helpers()
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_has_threads_of_its_own():
    pytest.importorskip("numba")
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKS]
    run = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert (run.returncode, run.stderr) == (0, "")
