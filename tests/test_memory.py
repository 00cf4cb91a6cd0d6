"""Memory that is used again is never memory that somebody can still see."""

import gc
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minisnn as ms
from minisnn.kernels import memory

BIG = (3, 1 << 15)


@pytest.fixture(autouse=True)
def nothing_kept():
    gc.collect()
    memory.release()


def address(array):
    return array.__array_interface__["data"][0]


def test_memory_comes_back_when_the_last_array_on_it_is_gone():
    first = memory.empty(BIG, np.float32)
    at = address(first)
    del first
    assert memory.kept() > 0
    assert address(memory.empty(BIG, np.float32)) == at


@pytest.mark.parametrize(
    "view",
    [
        lambda a: a[1:],
        lambda a: a.reshape(-1)[5:6],
        lambda a: a.T,
        lambda a: a.view(np.uint8),
        lambda a: memoryview(a),
        lambda a: np.asarray(memoryview(a)),
        lambda a: np.frombuffer(a, np.uint8),
        lambda a: a[None][..., ::2][0],
        lambda a: iter(a.reshape(-1)),
    ],
)
def test_any_view_keeps_it(view):
    first = memory.empty(BIG, np.float32)
    at, kept = address(first), view(first)
    del first
    second = memory.empty(BIG, np.float32)
    assert address(second) != at
    assert memory.kept() == 0
    del kept
    assert memory.kept() > 0


@given(st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1, max_size=30))
def test_arrays_at_hand_never_overlap(wishes):
    alive = []
    for i, (size, drop) in enumerate(wishes):
        array = memory.empty((size, 1 << 14), np.float32)
        array[...] = i
        alive.append((i, array))
        if drop:
            alive.pop(len(alive) // 2)
        assert all((a == n).all() for n, a in alive)


def test_threads_never_share(seconds=0.5):
    stop, wrong = threading.Event(), []

    def work(mark):
        rng = np.random.default_rng(mark)
        while not stop.is_set():
            arrays = [memory.empty((int(rng.integers(1, 4)), 1 << 14), np.float32) for _ in range(3)]
            for a in arrays:
                a[...] = mark
            if any((a != mark).any() for a in arrays):
                wrong.append(mark)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    stop.wait(seconds)
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong


def test_what_is_kept_is_bounded(monkeypatch):
    monkeypatch.setattr(memory, "MOST", 1 << 20)
    arrays = [memory.empty((1 << 16,), np.float32) for _ in range(10)]
    del arrays
    assert 0 < memory.kept() <= 1 << 20


def test_results_of_a_layer_outlive_later_runs(backend):
    """The contract: a cache and results of an earlier run are never written, memory used again or not."""
    rng = np.random.default_rng(0)
    layer = ms.LIF(512, backend=backend)
    x = rng.standard_normal((20, 16, 512), np.float32)
    spikes, cache = layer.forward(x)
    d_x, _ = layer.backward(x, cache)
    copies = [a.copy() for a in (spikes, cache.u, cache.state["v"], d_x)]
    del cache
    u_and_state = layer.forward(x)[1]
    for _ in range(3):
        layer.backward(x + 1, layer.forward(2 * x)[1])
    assert np.array_equal(spikes, copies[0]) and np.array_equal(d_x, copies[3])
    assert np.array_equal(u_and_state.u, copies[1]) and np.array_equal(u_and_state.state["v"], copies[2])
