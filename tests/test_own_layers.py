"""Classes of a user's own on top of minisnn's: no call may pass by what they do, or write over what they keep."""

import runpy
import textwrap
from pathlib import Path

import numpy as np
import pytest

import minisnn as ms
from minisnn.checks.command import check_file

LABELS = np.array([0, 2, 1])
X = np.random.default_rng(1).normal(0.6, 1.0, (5, 3, 8))


def rng():
    return np.random.default_rng(0)


def same_by_both_calls(net, x=X):
    scores, caches = net.forward(x, train=True, rng=rng())
    loss, d_scores = ms.losses.mse(scores, LABELS)
    grads = net.backward(d_scores, caches, input_grad=False)[1]
    found = net.loss_and_grads(x, LABELS, ms.losses.mse, train=True, rng=rng())
    assert found[0] == loss and all(np.array_equal(found[1][n], d) for n, d in grads.items())


class Squashed(ms.Linear):
    """Its backward looks at the output that it gave away."""

    def forward(self, x, **options):
        y, cache = super().forward(x, **options)
        y = np.tanh(y)
        return y, (cache, y)

    def backward(self, d_y, cache, **options):
        return super().backward(d_y * (1 - cache[1] ** 2), cache[0], **options)


class Louder:
    """A mixin: the class that it is mixed into has no forward of its own."""

    def forward(self, x, **options):
        return super().forward(2 * x, **options)

    def backward(self, d_y, cache, **options):
        d_x, grads = super().backward(d_y, cache, **options)
        return (None if d_x is None else 2 * d_x), grads


class LouderSpiking(Louder, ms.Spiking):
    pass


class LouderNorm(Louder, ms.BatchNorm2d):
    pass


def test_an_output_that_a_subclass_keeps_is_not_written_over(backend):
    fc = Squashed(8, 3, rng=rng(), dtype="float64")
    net = ms.Network(fc=fc, lif=ms.LIF(3, threshold=0.3, dtype="float64"), rate=ms.Rate()).using(backend)
    same_by_both_calls(net)
    ms.checks.check_layer(fc, X).raise_if_wrong()


def test_what_a_subclass_or_a_mixin_does_is_not_passed_by(backend):
    lif = LouderSpiking(8, threshold=0.8, dtype="float64").using(backend)
    same_by_both_calls(ms.Network(lif=lif, fc=ms.Linear(8, 3, rng=rng(), dtype="float64"), rate=ms.Rate()).using(backend))
    plain, d_y = ms.Spiking(8, threshold=0.8, dtype="float64").using(backend), np.random.default_rng(2).normal(size=X.shape)
    (y, cache), (z, kept) = lif.forward(X), plain.forward(2 * X)
    assert np.array_equal(y, z) and np.array_equal(lif.backward(d_y, cache)[0], 2 * plain.backward(d_y, kept)[0])


def test_a_normalisation_of_one_s_own_may_call_ours(backend):
    x = np.random.default_rng(3).normal(size=(4, 3, 2, 5, 5))
    norm = LouderNorm(2, dtype="float64").using(backend)
    assert np.allclose(norm.forward(x, train=True)[0], ms.BatchNorm2d(2, dtype="float64").forward(2 * x, train=True)[0])
    parts = dict(flat=ms.Flatten().astype("float64"), fc=ms.Linear(50, 3, rng=rng(), dtype="float64"), rate=ms.Rate())
    same_by_both_calls(ms.Network(norm=norm, **parts).using(backend), x)
    ms.checks.check_layer(norm, x, train=True).raise_if_wrong()


def test_a_method_hung_on_one_layer_is_called(backend):
    net = ms.Network(fc=ms.Linear(8, 3, rng=rng(), dtype="float64"), lif=ms.LIF(3, dtype="float64"), rate=ms.Rate())
    net = net.using(backend)
    lif, seen = net["lif"], []
    plain, plain_back = lif.forward, lif.backward
    lif.forward = lambda x, **options: plain(3 * x, **options)
    lif.backward = lambda d, cache, **options: seen.append(d) or plain_back(d, cache, **options)
    same_by_both_calls(net)
    assert len(seen) == 2


def test_gradients_that_a_layer_keeps_are_not_written_over(backend):
    class Probe(ms.Layer):
        def forward(self, x, **options):
            return x, None

        def backward(self, d_y, cache, **options):
            self.seen, self.copy = d_y, d_y.copy()
            return d_y, {}

    probe = Probe("float64")
    net = ms.Network(
        fc=ms.Linear(8, 6, rng=rng(), dtype="float64"), lif=ms.LIF(6, threshold=0.3, dtype="float64"), probe=probe,
        fc2=ms.Linear(6, 3, rng=rng(), dtype="float64"), rate=ms.Rate(),
    ).using(backend)  # fmt: skip
    net.loss_and_grads(X, LABELS, ms.losses.mse)
    probe = net["probe"]
    assert np.array_equal(probe.seen, probe.copy)


def test_the_layer_of_the_how_to_page_is_checked_by_the_command_and_its_parameter_is_a_synapse(tmp_path):
    page = (Path(__file__).parent.parent / "docs/how_to/add_a_layer.rst").read_text(encoding="utf-8")
    classes = textwrap.dedent(page[page.index("   import numpy as np") : page.index("   rng =")])
    (tmp_path / "mine.py").write_text(classes + "gain = Gain(4)\nhasty = Hasty(4)\n")
    assert {name: check().ok for name, check in check_file(str(tmp_path / "mine.py"))} == {"gain": True, "hasty": False}
    gain, hasty = map(runpy.run_path(str(tmp_path / "mine.py")).get, ("gain", "hasty"))
    net = ms.Network(gain=gain, lif=ms.LIF(4))
    assert list(net.params(ms.SL)) == ["gain.gain"] and list(net.params()) == ["gain.gain", "lif.threshold", "lif.decay"]
    with pytest.raises(ValueError, match="Hasty: the cache is that of another layer"):
        hasty.backward(*gain.forward(np.ones((2, 1, 4), "f4")))


@pytest.mark.parametrize("steps", [4, 9])
@pytest.mark.parametrize("truncate", [None, 3])
def test_masks_of_another_length_are_refused(steps, truncate):
    net = ms.Network(drop=ms.Dropout(0.5), fc=ms.Linear(8, 3, rng=rng()), rate=ms.Rate())
    mask = np.ones((steps, 3, 8), np.float32)
    with pytest.raises(ValueError, match=rf"masks of x's 5 steps or of 1.*got {{'drop': {steps}}} steps"):
        net.loss_and_grads(X.astype("f4"), LABELS, ms.losses.mse, masks={"drop": mask}, train=True, truncate=truncate)


def test_one_infinite_input_stays_in_its_row():
    x = np.zeros((2, 32, 784), np.float32)
    x[1, 3, 5] = np.inf
    with np.errstate(all="ignore"):
        y = ms.Linear(784, 100, rng=rng()).using("numba").forward(x)[0]
    assert not np.isfinite(y[1, 3]).any() and np.isfinite(np.delete(y.reshape(64, 100), 35, 0)).all()
