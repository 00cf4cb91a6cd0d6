"""A run that was interrupted, in any way and at any moment, ends with the same bits as one that was not."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import minisnn as ms

IMAGES, LABELS = (a[:160] for a in ms.data.digits())


def make(optimizer=ms.Adam, **options):
    rng = np.random.default_rng(0)
    net = ms.Network(
        fc1=ms.Linear(64, 16, rng=rng), lif1=ms.LIF(16, threshold=0.5, backend="numpy", constraint=ms.thresholds.Softplus()),
        drop=ms.Dropout(0.2), fc2=ms.Linear(16, 20, rng=rng), lif2=ms.LIF(20, threshold=0.5, backend="numpy"),
        vote=ms.PopulationVote(10),
    )  # fmt: skip
    return net, optimizer(net, ms.STL, **{"lr": 5e-3, **options})


def fit(net, optimizer, epochs=4, **options):
    options = {"encoder": ms.encode.Bernoulli(4), "batch": 32, "schedule": ms.optimizers.exponential(0.8), **options}
    return ms.fit(net, optimizer, (IMAGES, LABELS), epochs=epochs, progress=False, **options)


def strip(history):
    return history.best_epoch, [{k: v for k, v in row.items() if k != "seconds"} for row in history.epochs]


def same(a, b):
    return all(np.array_equal(p, b.params()[n]) for n, p in a.params().items())


@pytest.mark.parametrize("keep", ["last", "best"])
@pytest.mark.parametrize(
    ("optimizer", "options"), [(ms.Adam, {"weight_decay": 1e-3, "decoupled": True}), (ms.SGD, {"momentum": 0.9})]
)
def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path, keep, optimizer, options):
    whole, steps = make(optimizer, **options)
    expected = fit(whole, steps, keep=keep)
    for stop in range(5):
        path = tmp_path / f"{stop}.npz"
        if stop:
            fit(*make(optimizer, **options), keep=keep, epochs=stop, checkpoint=path)
        net, again = make(optimizer, **options)
        history = fit(net, again, keep=keep, checkpoint=path, resume=True, notes={"course": 3})
        assert strip(history) == strip(expected) and same(net, whole) and again.steps == steps.steps
        later = make(optimizer, **options)
        assert strip(fit(*later, keep=keep, checkpoint=path, resume=True)) == strip(expected) and same(later[0], whole)
        assert ms.load(path).description() == whole.description()


def test_an_interruption_leaves_the_last_epoch_border(tmp_path, monkeypatch):
    path, border, calls, encode = tmp_path / "run.npz", make(), [0], ms.encode.Bernoulli.__call__
    fit(*border, epochs=2)

    def interrupted(encoder, images, rng):
        calls[0] += 1
        if calls[0] == 17:  # two to begin with, 5 training and 1 validation batch an epoch: in the third
            raise KeyboardInterrupt
        return encode(encoder, images, rng)

    net, optimizer = make()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ms.encode.Bernoulli, "__call__", interrupted)
        fit(net, optimizer, checkpoint=path, encoder=ms.encode.Bernoulli(4))
    assert same(net, border[0]) and optimizer.steps == border[1].steps
    whole, _ = make()
    fit(whole, _)
    fit(net, optimizer, checkpoint=path, resume=True)
    assert same(net, whole)


OTHERS = {
    "seed": (lambda: (make(), {"seed": 1}), "setup.seed is 0 in the file, 1 here"),
    "batch": (lambda: (make(), {"batch": 16}), "setup.batch is 32 in the file, 16 here"),
    "encoder": (lambda: (make(), {"encoder": ms.encode.Bernoulli(5)}), "setup.encoder"),
    "schedule": (lambda: (make(), {"schedule": None}), "setup.schedule"),
    "loss": (lambda: (make(), {"loss": ms.losses.cross_entropy}), "setup.loss is 'mse' in the file, 'cross_entropy' here"),
    "data": (lambda: (make(), {"validation": 0.2}), "setup.data"),
    "rate": (lambda: (make(lr=1e-3), {}), "optimizer.lr is 0.005 in the file, 0.001 here"),
    "optimizer": (lambda: (make(ms.SGD), {}), "optimizer.type is 'Adam' in the file, 'SGD' here"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_another_run_is_refused_and_nothing_changed(tmp_path, what):
    path = tmp_path / "run.npz"
    fit(*make(), epochs=1, checkpoint=path)
    before = path.read_bytes()
    other, message = OTHERS[what]
    (net, optimizer), options = other()
    fresh, _ = other()[0]
    with pytest.raises(ms.FileError, match=message):
        fit(net, optimizer, checkpoint=path, resume=True, **options)
    assert path.read_bytes() == before and same(net, fresh) and optimizer.steps == 0


def test_another_architecture_is_refused_and_an_old_checkpoint_is_not_overwritten(tmp_path):
    path = tmp_path / "run.npz"
    fit(*make(), epochs=1, checkpoint=path)
    with pytest.raises(FileExistsError, match=r"run\.npz exists: resume=True"):
        fit(*make(), checkpoint=path)
    net = ms.Network(fc=ms.Linear(64, 10, rng=np.random.default_rng(0)), lif=ms.LIF(10), rate=ms.Rate())
    with pytest.raises(ms.FileError, match=r"holds another run: network\.layers"):
        fit(net, ms.Adam(net, ms.STL), checkpoint=path, resume=True)
    model = net.save(tmp_path / "model.npz")
    with pytest.raises(ms.FileError, match="holds a network, expected a checkpoint"):
        fit(net, ms.Adam(net, ms.STL), checkpoint=model, resume=True)


# -- killed from outside

KILLED = """
import sys
sys.path.insert(0, {tests!r})
import test_resuming as t
net, optimizer = t.make()
t.fit(net, optimizer, epochs=6, checkpoint={path!r}, resume=True)
net.save({model!r})
"""


def run_killed(folder, kills, rng, longest):
    """Kill a run at random moments, so many times; every file on the way must load.  Yields each network that got to its end."""
    path, model = folder / "run.npz", folder / "model.npz"
    program = KILLED.format(tests=os.path.dirname(__file__), path=str(path), model=str(model))
    done, model_read = 0, False
    while done < kills or not model_read:
        process = subprocess.Popen([sys.executable, "-c", program], cwd=os.path.dirname(os.path.dirname(__file__)))
        try:
            process.wait(timeout=float(rng.uniform(0.0, longest)) if done < kills else None)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            done += 1
        for file in (path, model):
            if file.exists():
                ms.load(file)
        model_read = model.exists()
        if model_read:
            yield ms.load(model)
            path.unlink()
            model.unlink()


def started():
    """Seconds that a whole run takes in a process of its own."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import minisnn"], check=True)
    return time.perf_counter() - begun


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_a_killed_run_ends_with_the_same_bits(tmp_path):
    whole, optimizer = make()
    fit(whole, optimizer, epochs=6)
    ends = [same(net, whole) for net in run_killed(tmp_path, 3, np.random.default_rng(0), 4 * started())]
    assert ends and all(ends)


@pytest.mark.long
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_a_run_killed_300_times_ends_with_the_same_bits(tmp_path):
    whole, optimizer = make()
    fit(whole, optimizer, epochs=6)
    ends = [same(net, whole) for net in run_killed(tmp_path, 300, np.random.default_rng(1), 4 * started())]
    assert len(ends) > 10 and all(ends)


# -- many at once


def _trained(seed):
    net, optimizer = make()
    fast = net.using("numba")
    optimizer = ms.Adam(fast, ms.STL, lr=5e-3)
    fit(fast, optimizer, epochs=2, seed=seed)
    return {n: p.tobytes() for n, p in fast.params().items()}


def test_eight_threads_train_at_once():
    pytest.importorskip("numba")
    from concurrent.futures import ThreadPoolExecutor

    expected = [_trained(seed) for seed in range(4)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(_trained, [0, 1, 2, 3, 0, 1, 2, 3])) == expected * 2


def test_eight_spawned_processes_train_at_once():
    pytest.importorskip("numba")
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    expected = [_trained(seed) for seed in range(2)]
    with ProcessPoolExecutor(8, mp_context=get_context("spawn")) as pool:
        assert list(pool.map(_trained, [0, 1] * 4)) == expected * 4
