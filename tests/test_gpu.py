"""The GPU backend on a card.  Everything that needs none is in test_cudatext.py."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from cudatext import train_by_hand
from grid import FEW, FULL, NEURONS, RESETS, SURROGATES, problem, relative, summed
from test_cudatext import OWN
from test_xp import LAYERS, NETS, layer_and_input, net_and_data, no_dropout, trained
from test_xp import there as on_device

import minisnn as ms
from minisnn.kernels import Base, Twin, backend_problem, kernel_of

PROBLEM = backend_problem("cupy")
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(PROBLEM is not None, reason=f"no GPU: {PROBLEM}")]
#: A GPU's exp and arctan are rounded in their own way, and numbers too small for float32 are 0 there.
TOLERANCE = {"float64": 1e-12, "float32": 1e-5}


def there(value):
    import cupy

    return cupy.asarray(value) if isinstance(value, np.ndarray) else value


def back(values):
    return tuple(v.get() for v in values)


def assert_agrees(dynamics, dtype, shape=(12, 5, 300), fire="step"):
    p, tolerance = problem(dynamics, shape, dtype=dtype), TOLERANCE[dtype]
    reference, kernel = kernel_of(dynamics, "numpy"), kernel_of(dynamics, "cupy")
    spikes, last, cache = reference.scan(*p[:5])
    base = None
    if fire == "tangent":
        base = Base(cache.u[0], cache.spikes, p.theta)
        p = p._replace(x=p.x + np.asarray(0.01, dtype))
    if fire != "step":
        spikes, last, cache = reference.scan(*p[:5], Twin(fire, base))
    found, found_last, found_cache = kernel.scan(*map(there, p[:5]), Twin(fire, base and Base(*map(there, base))))
    found, found_last, u = back((found, found_last, found_cache.u))
    if fire == "step":  # a lane that came near its threshold may have gone another way
        clear = (np.abs(cache.u[0] - p.theta) > 10 * tolerance * np.abs(cache.u[0]).max()).all(axis=0)
        assert clear.mean() > 0.9
        assert np.array_equal(found[:, clear], spikes[:, clear])
        assert relative(u[:, :, clear], cache.u[:, :, clear]) <= tolerance
        assert relative(found_last[:, clear], last[:, clear]) <= tolerance
    else:
        assert relative(found, spikes) <= tolerance and relative(u, cache.u) <= tolerance
    if base:  # such a run has no adjoint of its own
        return
    # Adjoints from the reference's spikes and membranes.
    kept = {n: there(getattr(cache, n)) for n in ("x", "spikes", "state0", "theta", "params", "membranes")}
    expected = summed(reference.scan_adjoint(p.d_spikes, p.d_state_last, cache))
    gradients = kernel.scan_adjoint(there(p.d_spikes), there(p.d_state_last), replace(cache, **kept))
    for a, b in zip(summed(back(gradients)), expected, strict=True):
        assert a.dtype == dtype and relative(a, b) <= tolerance


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("pair", [f"{n}-{r}" for n in NEURONS for r in RESETS])
def test_conformance(pair, dtype):
    for surrogate in SURROGATES:
        assert_agrees(FULL[f"{pair}-{surrogate}"], dtype)


@pytest.mark.parametrize("fire", ["smooth", "tangent"])
@pytest.mark.parametrize("name", FEW)
def test_twins(name, fire):
    assert_agrees(FULL[name], "float64", fire=fire)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", OWN)
def test_a_users_neuron(name, dtype):
    assert_agrees(OWN[name], dtype)


def test_without_exp_the_bits_are_those_of_the_reference():
    """No fused multiply-add: additions and multiplications are rounded as elsewhere."""
    p = problem(FULL["lif-soft-fast_sigmoid"], (50, 33, 257), dtype="float32")
    reference, kernel = (kernel_of(FULL["lif-soft-fast_sigmoid"], b) for b in ("numpy", "cupy"))
    spikes, last, cache = reference.scan(*p[:5])
    found = kernel.scan(*map(there, p[:5]))
    for a, b in zip(back((*found[:2], found[2].u)), (spikes, last, cache.u), strict=True):
        assert np.array_equal(a, b)


def test_the_same_bits_every_time():
    p = problem(FULL["lif-hard-atan"], (20, 64, 1000), dtype="float32")
    kernel = kernel_of(FULL["lif-hard-atan"], "cupy")
    x, d_spikes, d_last = there(p.x), there(p.d_spikes), there(p.d_state_last)
    runs = []
    for _ in range(3):
        spikes, last, cache = kernel.scan(x, *map(there, p[1:5]))
        runs.append(back((spikes, last, cache.u, *kernel.scan_adjoint(d_spikes, d_last, cache))))
    assert all(np.array_equal(a, b) for run in runs[1:] for a, b in zip(run, runs[0], strict=True))


def test_training_by_hand_reaches_the_same_accuracy():
    import cupy

    dynamics = FULL["lif-hard-atan"]
    expected = train_by_hand(kernel_of(dynamics, "numpy"), np, epochs=5)
    found = train_by_hand(kernel_of(dynamics, "cupy"), cupy, epochs=5)
    assert expected > 0.85 and abs(found - expected) < 0.02


# -- whole layers and networks, in float64: then rounding makes no spike jump


def double(values):
    """Arrays of floats in float64, spikes as they are."""
    if isinstance(values, dict):
        return {k: double(v) for k, v in values.items()}
    return values.astype("float64") if isinstance(values, np.ndarray) and values.dtype.kind == "f" else values


def assert_near(found, expected, tolerance=1e-9):
    assert type(found).__module__.startswith("cupy") and found.dtype == expected.dtype
    assert relative(found.get().astype(float), expected.astype(float)) <= tolerance


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name):
    plain, x, options = layer_and_input(name)
    plain, x, options = plain.astype("float64"), double(x), double(options)
    layer = plain.using("cupy")
    (y, cache), (y_there, cache_there) = plain.forward(x, **options), layer.forward(on_device(x), **on_device(options))
    assert_near(y_there, y)
    d_y = np.random.default_rng(2).normal(size=y.shape)
    (d_x, grads), (d_x_there, found) = plain.backward(d_y, cache), layer.backward(there(d_y), cache_there)
    assert_near(d_x_there, d_x)
    assert list(found) == list(grads)
    for parameter, d in grads.items():
        assert_near(found[parameter], d)


@pytest.mark.parametrize("name", NETS)
def test_networks(name):
    net, images, labels = net_and_data(name)
    net, x = no_dropout(net).astype("float64"), ms.encode.constant(images.astype("float64")[:9], steps=6)
    gpu = net.using("cupy")
    for one, other in ((net, gpu), (net.smoothed(), gpu.smoothed())):
        assert_near(other.forward(x)[0], one.forward(x)[0])
        loss, grads = one.loss_and_grads(x, labels[:9], ms.losses.cross_entropy, train=True)
        loss_there, found = other.loss_and_grads(x, labels[:9], ms.losses.cross_entropy, train=True)
        assert abs(loss_there - loss) < 1e-9
        for parameter, d in grads.items():
            assert_near(found[parameter], d)
    rows, expected = trained(gpu, (images.astype("float64"), labels)), trained(net, (images.astype("float64"), labels))
    assert [row["train_accuracy"] for row in rows] == [row["train_accuracy"] for row in expected]
    assert np.allclose([row["train_loss"] for row in rows], [row["train_loss"] for row in expected])


@pytest.mark.parametrize("what", ["bernoulli", "dropout"])
def test_what_is_drawn_on_the_card(what):
    """The seed decides, shares are right, 0 never fires and 1 does."""
    import cupy

    image = cupy.asarray(np.linspace(0, 1, 11, dtype=np.float32)[None])

    def draw(seed):
        rng = np.random.default_rng(seed)
        if what == "bernoulli":
            return ms.encode.bernoulli(image, steps=20_000, rng=rng).get()
        x = cupy.ones((20_000, 1, 11), np.float32)
        return ms.Dropout(0.3).using("cupy").forward(x, train=True, rng=rng)[0].get() > 0

    one, again, other = draw(0), draw(0), draw(1)
    assert np.array_equal(one, again) and not np.array_equal(one, other)
    expected = image.get()[0] if what == "bernoulli" else 0.7
    assert np.abs(one.mean(axis=(0, 1)) - expected).max() < 0.02
    if what == "bernoulli":
        assert not one[..., 0].any() and one[..., -1].mean() > 0.999


@pytest.mark.parametrize("rule", [ms.SL, ms.STL], ids=["SL", "STL"])
def test_training_reaches_the_same_accuracy(rule, tmp_path):
    found = {}
    for backend in ("numpy", "cupy"):
        net = ms.models.mlp(64, [128], 10, rng=np.random.default_rng(0)).using(backend)
        ms.fit(net, ms.Adam(net, rule, lr=2e-3), ms.data.digits("train"), validation=ms.data.digits("validation"), epochs=8,
               batch=32, encoder=ms.encode.Bernoulli(8), progress=False)  # fmt: skip
        found[backend] = ms.train.evaluate(net, ms.data.digits("test"), encoder=ms.encode.Bernoulli(8))[1]
    assert found["numpy"] > 0.93 and abs(found["cupy"] - found["numpy"]) < 0.03
    saved = ms.load(net.save(tmp_path / "net.npz")).using("numpy")  # what was trained on the card, on the CPU
    share = ms.train.evaluate(saved, ms.data.digits("test"), encoder=ms.encode.Bernoulli(8))[1]
    assert abs(share - found["cupy"]) < 0.03


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("rule", [ms.SL, ms.STL], ids=["SL", "STL"])
def test_the_published_network_on_mnist(rule, seed):
    """At full width for 10 epochs: minutes on a card, and MNIST's files (``MINISNN_DATA``)."""
    try:
        data = {part: ms.data.mnist(part, flat=False) for part in ("train", "validation", "test")}
    except FileNotFoundError as error:
        pytest.skip(str(error))
    net, recipe = ms.models.stl_mnist(rng=np.random.default_rng(seed)).using("cupy"), ms.models.STL_MNIST
    history = ms.fit(
        net, ms.models.stl_mnist_optimizer(net, rule), data["train"], validation=data["validation"], epochs=10, keep="best",
        batch=recipe["batch"], schedule=recipe["schedule"], encoder=ms.encode.Bernoulli(recipe["steps"]), seed=seed, progress=False,
    )  # fmt: skip
    share = ms.train.evaluate(net, data["test"], encoder=ms.encode.Bernoulli(recipe["steps"]), seed=seed)[1]
    print(f"{rule.name}, seed {seed}: {100 * share:.2f} %, {np.mean(history.column('seconds')):.1f} s an epoch")
    assert share >= 0.993


def test_memory_comes_back_after_an_error():
    import cupy

    pool, kernel = cupy.get_default_memory_pool(), kernel_of(FULL["lif-hard-atan"], "cupy")
    p = problem(FULL["lif-hard-atan"], (20, 64, 1000), dtype="float32")
    arguments = tuple(map(there, p[:5]))
    kernel.scan(*arguments)  # compiled, and what that takes is taken
    pool.free_all_blocks()
    before, limit = pool.used_bytes(), pool.get_limit()
    pool.set_limit(size=pool.total_bytes() + p.x.nbytes // 2)
    try:
        with pytest.raises(cupy.cuda.memory.OutOfMemoryError):
            kernel.scan(*arguments)
    finally:
        pool.set_limit(size=limit)
    assert pool.used_bytes() == before
    assert back(kernel.scan(*arguments)[:1])[0].any()


def test_more_than_two_to_the_31_numbers():
    import cupy

    kernel, shape = kernel_of(FULL["lif-hard-atan"], "cupy"), (3, 30_000, 24_000)
    assert np.prod(shape) > 2**31
    if cupy.cuda.Device().mem_info[0] < 32e9:
        pytest.skip("takes 32 GB of the card's memory")
    x = cupy.zeros(shape, np.float32)
    x[-1, -1, -1] = 2.0
    state0, theta = cupy.zeros((1, *shape[1:]), np.float32), cupy.ones(shape[2], np.float32)
    spikes, _, cache = kernel.scan(x, state0, theta, cupy.full((1, shape[2]), 0.5, np.float32), 2.0)
    assert spikes[-1, -1, -1] == 1 and int(spikes.sum(dtype=np.int64)) == 1 and cache.u[0, -1, -1, -1] == 2


def test_info_runs_a_kernel():
    done = subprocess.run([sys.executable, "-m", "minisnn", "info"], capture_output=True, text=True)
    assert done.returncode == 0 and "compute capability" in done.stdout and "compiled and run" in done.stdout
