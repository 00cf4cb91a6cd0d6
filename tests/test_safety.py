"""What must not bring a process down, or change a number in silence: exits, interruptions, forks, and caches that do not fit."""

import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import minisnn as ms
from minisnn.kernels import Dynamics, Needs, Twin, kernel_of

pytest.importorskip("numba")
pytestmark = pytest.mark.process

RNG = np.random.default_rng(0)


def python(program, *args, timeout=200, **environment):
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(program), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env={**os.environ, **environment})


EXIT = """
    import sys, threading, time
    import numpy as np
    import minisnn as ms

    ms.set_threads(int(sys.argv[1]))
    rng = np.random.default_rng(0)
    net = ms.Network(
        conv=ms.Conv2d(2, 4, 3, padding=1, rng=rng), norm=ms.BatchNorm2d(4), lif=ms.LIF((4, 16, 16)), pool=ms.MaxPool2d(2),
        flat=ms.Flatten(), fc=ms.Linear(256, 512, rng=rng), last=ms.LIF(512), vote=ms.PopulationVote(4),
    ).using("numba")
    x, labels = rng.random((8, 64, 2, 16, 16)) < 0.1, rng.integers(0, 4, 64)

    def train():
        net.loss_and_grads(x, labels, ms.losses.mse, train=True)

    def train_for_ever():
        while True:
            train()

    train()
    for _ in range(int(sys.argv[1])):
        threading.Thread(target=train_for_ever, daemon=True).start()
    time.sleep(0.3)
"""


@pytest.mark.parametrize("n_threads", [1, 3])
def test_a_process_ends_while_daemon_threads_are_in_kernels(n_threads):
    """A thread that is in a loop at exit must not meet memory, or machine code, that is gone.  (Run 50 times by hand.)"""
    for _ in range(3):
        done = python(EXIT, n_threads)
        assert done.returncode == 0, (done.returncode, done.stderr)


INTERRUPTED_AT_FIRST = """
    import _thread, sys, threading, time
    import numpy as np

    def interrupt():
        time.sleep(float(sys.argv[1]))
        _thread.interrupt_main()

    threading.Thread(target=interrupt, daemon=True).start()
    try:
        import minisnn as ms
        net = ms.Network(fc=ms.Linear(6, 5, rng=np.random.default_rng(0)), lif=ms.LIF(5), rate=ms.Rate())
        x = np.ones((4, 3, 6), np.float32)
        net.loss_and_grads(x, np.zeros(3, int), ms.losses.mse)
        time.sleep(20)
    except KeyboardInterrupt:
        pass
    import minisnn as ms
    for _ in range(3):
        net = ms.Network(fc=ms.Linear(6, 5, rng=np.random.default_rng(0)), lif=ms.LIF(5), rate=ms.Rate())
        x = np.ones((4, 3, 6), np.float32)
        found = [n.loss_and_grads(x, np.zeros(3, int), ms.losses.mse)[1] for n in (net.using("numba"), net.using("numpy"))]
        assert all(np.allclose(found[0][n], found[1][n], atol=1e-6) for n in found[0])
    assert net.backend == "numba"
"""


@pytest.mark.parametrize("seconds", [0.4, 1.2])
def test_an_interruption_of_the_first_use_leaves_a_session_that_works(seconds, tmp_path):
    """Numba must not be left half imported, nor a loop half compiled."""
    done = python(INTERRUPTED_AT_FIRST, seconds, NUMBA_CACHE_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr


def test_an_import_that_was_interrupted_holds_up_no_thread_of_ours():
    """Python may then keep its import lock for the main thread, as long as the process lives."""
    program = "import _imp; _imp.acquire_lock()" + textwrap.dedent(INTERRUPTED_AT_FIRST).replace("sleep(20)", "sleep(0)")
    done = python(program + "with ms.one_blas_thread(): net.forward(x)", 1000, timeout=100)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no interval timer on this system")
def test_training_survives_two_hundred_interruptions():
    rng = np.random.default_rng(0)
    net = ms.Network(
        fc1=ms.Linear(64, 512, rng=rng), lif1=ms.LIF(512), fc2=ms.Linear(512, 100, rng=rng), lif2=ms.LIF(100),
        vote=ms.PopulationVote(10),
    ).using("numba")  # fmt: skip
    x, labels = (rng.random((8, 160, 64)) < 0.5).view(np.uint8), rng.integers(0, 10, 160)
    ms.set_threads(3)

    def grads():
        with ms.one_blas_thread():
            return net.loss_and_grads(x, labels, ms.losses.mse)[1]

    expected, interruptions = grads(), 0
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        while interruptions < 200:
            try:
                signal.setitimer(signal.ITIMER_REAL, float(rng.uniform(1e-4, 0.005)))
                for _ in range(1000):
                    grads()
            except KeyboardInterrupt:
                interruptions += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        ms.set_threads(None)
    found = grads()
    assert all(np.array_equal(found[n], expected[n]) for n in expected)


FORK_WHILE_COMPILING = """
    import os, sys, threading, time
    import numpy as np
    import minisnn as ms

    def use(k):
        layer = ms.LIF(3, surrogate=ms.surrogates.SURROGATES[k](1.5), backend="numba")
        x = np.ones((2, 1, 3), np.float32)
        return layer.backward(x, layer.forward(x)[1])

    use("atan")
    compiling = threading.Thread(target=use, args=("sigmoid",))
    compiling.start()
    time.sleep(0.3)
    child = os.fork()
    use("triangle")  # both compile
    compiling.join() if child else None
    if child:
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_process_may_fork_while_another_of_its_threads_compiles(tmp_path):
    done = python(FORK_WHILE_COMPILING, timeout=120, NUMBA_CACHE_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr


# -- caches, attributes and arrays that do not fit


def two_states(n, **options):
    return ms.Spiking(n, neuron=ms.neurons.current_lif, decay_syn=0.8, **options)


def layers(backend):
    """Pairs of layers that take the same input, of which one must not read the other's cache."""
    rng = np.random.default_rng(0)
    spikes = (RNG.random((5, 4, 2, 6, 6)) < 0.2).view(np.uint8)
    flat = RNG.standard_normal((5, 4, 8)).astype(np.float32)
    same_weight = ms.Linear(8, 4, rng=rng)
    pairs = {
        "states": (ms.LIF(8), two_states(8), flat),
        "reset": (ms.LIF(8), ms.LIF(8, reset=ms.resets.soft), flat),
        "surrogate": (ms.LIF(8), ms.LIF(8, surrogate=ms.surrogates.atan(3.0)), flat),
        "twin": (ms.LIF(8), ms.LIF(8).smoothed(), flat),
        "images": (ms.LIF((2, 6, 6)), ms.LIF((2, 6, 6), reset=ms.resets.none), spikes),
        "readout": (ms.MembraneReadout(8), ms.MembraneReadout(8, over="max"), flat),
        "recurrent": (ms.LIF(8), ms.Recurrent(8, rng=rng), flat),
        "linear": (same_weight, ms.Linear(8, 5, rng=rng), flat),
        "pool": (ms.MaxPool2d(2), ms.MaxPool2d(3), spikes),
        "kind of pool": (ms.MaxPool2d(2), ms.AvgPool2d(2), spikes),
        "convolution": (ms.Conv2d(2, 3, 3, rng=rng), ms.Conv2d(2, 3, 3, padding=1, rng=rng), spikes),
        "window": (ms.Conv2d(2, 3, 3, rng=rng), ms.Conv2d(2, 3, 2, rng=rng), spikes),
        "norm": (ms.BatchNorm2d(2), ms.BatchNorm2d(2, over="time_batch"), spikes.astype(np.float32)),
    }  # fmt: skip
    return {name: (a.using(backend), b.using(backend), x) for name, (a, b, x) in pairs.items()}


@pytest.mark.parametrize("which", layers("numpy"))
def test_the_cache_of_another_layer_is_refused(which, backend):
    for a, b, x in (layers(backend)[which], (lambda a, b, x: (b, a, x))(*layers(backend)[which])):
        y, cache = a.forward(x, train=True) if isinstance(a, ms.BatchNorm2d) else a.forward(x)
        with pytest.raises((ValueError, TypeError), match="cache"):
            b.backward(np.ones(y.shape, np.float32), cache)


def test_a_layer_that_was_changed_after_forward_is_refused(backend):
    x = (RNG.random((5, 4, 2, 6, 6)) < 0.2).view(np.uint8)
    pool, conv = ms.MaxPool2d(2).using(backend), ms.Conv2d(2, 3, 3, rng=RNG).using(backend)
    for layer, name, value in ((pool, "k", 1), (conv, "padding", -1), (conv, "stride", 2)):
        y, cache = layer.forward(x)
        before = getattr(layer, name)
        setattr(layer, name, value)
        with pytest.raises(ValueError, match="changed after forward"):
            layer.backward(np.ones(y.shape, np.float32), cache)
        setattr(layer, name, before)


def test_two_nets_with_equal_names_do_not_read_each_other_s_caches():
    nets = [ms.Network(fc=ms.Linear(4, 6, rng=RNG), lif=lif, rate=ms.Rate()) for lif in (ms.LIF(6), two_states(6))]
    scores, caches = nets[0].forward(np.ones((3, 2, 4), np.float32))
    with pytest.raises(ValueError, match="lif: Spiking: the cache is that of another layer"):
        nets[1].backward(scores, caches)


def test_an_input_whose_shape_was_changed_in_place_is_noticed_or_harmless(backend):
    layer = ms.LIF(6, backend=backend)
    x = RNG.standard_normal((4, 3, 6)).astype(np.float32)
    _, cache = layer.forward(x)
    expected = layer.backward(np.ones_like(x), cache)[0]
    x.shape = (2, 6, 6)
    assert np.array_equal(layer.backward(np.ones((4, 3, 6), np.float32), cache)[0], expected)


def guarded(shape, dtype):
    """An array that ends where memory that cannot be touched begins (Linux), and one that begins behind such memory."""
    import ctypes
    import mmap

    n, page = int(np.prod(shape)) * np.dtype(dtype).itemsize, mmap.PAGESIZE
    pages = -(-n // page)
    memory = mmap.mmap(-1, (pages + 2) * page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    for at in (start, start + (pages + 1) * page):
        assert protect(ctypes.c_void_p(at), page, 0) == 0
    whole = np.frombuffer(memory, np.uint8)
    for begin in (page, (pages + 1) * page - n):
        yield whole[begin : begin + n].view(dtype).reshape(shape)


GUARDED = """
    import itertools, sys
    import numpy as np
    sys.path.insert(0, sys.argv[1])
    from test_safety import guarded, two_states
    import minisnn as ms

    rng = np.random.default_rng(0)
    for make, (t, b, n) in itertools.product((ms.LIF, two_states), ((1, 1, 1), (3, 2, 1000), (2, 3, 1025), (65, 1, 33))):
        layer = make(n, backend="numba")
        for x, d_y in zip(guarded((t, b, n), "f4"), guarded((t, b, n), "f4")):
            x[...], d_y[...] = rng.standard_normal((2, t, b, n))
            layer.backward(d_y, layer.forward(x)[1])
    x = next(guarded((3, 5, 2, 7, 7), "u1"))
    x[...] = rng.random(x.shape) < 0.3
    for layer in (ms.Conv2d(2, 3, 3, rng=rng), ms.Conv2d(2, 3, 3, padding=2, rng=rng), ms.MaxPool2d(2), ms.MaxPool2d(3)):
        y, cache = layer.using("numba").forward(x)
        layer.using("numba").backward(y.astype("f4"), cache)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="guard pages are made with Linux's mprotect")
def test_kernels_read_and_write_nothing_beside_their_arrays():
    done = python(GUARDED, os.path.dirname(__file__))
    assert done.returncode == 0, (done.returncode, done.stderr)


DYNAMICS = Dynamics(ms.neurons.lif, ms.resets.hard, ms.surrogates.atan(2.0))


def run_arguments():
    x = RNG.standard_normal((4, 3, 5)).astype(np.float32)
    return {
        "x": x, "state0": np.zeros((1, 3, 5), np.float32), "theta": np.ones(5, np.float32),
        "params": np.full((1, 5), 0.5, np.float32), "k": 2.0,
    }  # fmt: skip


WRONG = {
    "x": [np.zeros((4, 15), np.float32), np.zeros((4, 3, 6), np.float32), np.zeros((4, 3, 5), np.float32)[:, ::-1]],
    "state0": [np.zeros((2, 3, 5), np.float32), np.zeros((1, 3, 4), np.float32), np.zeros((1, 3, 5))],
    "theta": [np.ones(4, np.float32), np.ones((1, 5), np.float32), np.ones(5)],
    "params": [np.ones((2, 5), np.float32), np.ones(5, np.float32), np.ones((1, 4), np.float32)],
}


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, values in WRONG.items() for v in values])
def test_arrays_of_wrong_sizes_end_at_the_kernel_s_door(name, value, backend):
    kernel = kernel_of(DYNAMICS, backend)
    with pytest.raises((ValueError, TypeError), match="expected|lies in pieces"):
        kernel.scan(**(run_arguments() | {name: value}))


def test_wrong_gradients_and_caches_end_at_the_kernel_s_door(backend):
    kernel = kernel_of(DYNAMICS, backend)
    spikes, _, cache = kernel.scan(**run_arguments())
    good = np.ones(spikes.shape, np.float32)
    for bad in (good[:3].copy(), good[:, :, :4].copy(), good.astype(float), good[::-1]):
        with pytest.raises(ValueError, match="d_spikes"):
            kernel.scan_adjoint(bad, None, cache)
    with pytest.raises(ValueError, match="d_state_last"):
        kernel.scan_adjoint(good, np.ones((2, 3, 5), np.float32), cache)
    other = kernel_of(DYNAMICS._replace(neuron=ms.neurons.current_lif), backend)
    with pytest.raises(ValueError, match="cache: made by"):
        other.scan_adjoint(good, None, cache, Needs())
    soft = kernel.scan(**run_arguments(), twin=Twin("smooth"))[2]
    base = soft.twin._replace(base=None)
    assert base.fire == "smooth"
    cache.x.shape = (2, 6, 5)
    with pytest.raises(ValueError, match="changed since|expected"):
        kernel.scan_adjoint(good.reshape(2, 6, 5), None, cache)
