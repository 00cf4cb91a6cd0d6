"""What users do by mistake: it ends in an error that names the argument, before anything is changed."""

import numpy as np
import pytest

import minisnn as ms

RNG = np.random.default_rng(0)


def small(**layers):
    return ms.Network(fc=ms.Linear(6, 3, rng=RNG), lif=ms.LIF(3), **layers)


# -- networks


@pytest.mark.parametrize("name", ["layers.0", "block/fc", "", "a b", "a" * 300, "x\0", "a:b"])
def test_a_name_that_files_and_patterns_cannot_hold_is_refused(name):
    with pytest.raises(ValueError, match="a layer's name must be"):
        ms.Network(**{name: ms.Rate()})


@pytest.mark.parametrize("name", ["0", "conv_1", "fc-2", "größe"])
def test_other_names_are_saved_and_loaded(name, tmp_path):
    path = ms.Network(**{name: ms.Linear(6, 3, rng=RNG)}).save(tmp_path / "net.npz")
    assert list(ms.load(path).layers) == [name]


@pytest.mark.parametrize("readout", [ms.Rate(), ms.PopulationVote(3), ms.MembraneReadout(3)], ids=repr)
def test_a_layer_after_a_readout_is_refused(readout):
    with pytest.raises(ValueError, match="lif2 follows out, after which there is no time axis; out must be the last"):
        small(out=readout, lif2=ms.LIF(3))


def test_a_network_without_a_readout_predicts_no_class():
    x = RNG.random((5, 4, 6), np.float32)
    for call in (lambda: small().predict(x), lambda: small().accuracy(x, np.zeros(4, int))):
        with pytest.raises(ValueError, match=r"scores must be floats \[B, C\], got uint8 \[5, 4, 3\]: end the network with"):
            call()


# -- numbers that are not finite


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("make", [
    lambda w: ms.Linear(6, 3, weight=w((6, 3))),
    lambda w: ms.Linear(6, 3, rng=RNG, bias=w(3)),
    lambda w: ms.Conv2d(1, 2, 3, weight=w((2, 1, 3, 3))),
    lambda w: ms.Recurrent(3, recurrent=w((3, 3))),
    lambda w: setattr(ms.Linear(6, 3, rng=RNG), "weight", w((6, 3))),
])  # fmt: skip
def test_weights_must_be_finite(make, value):
    def weights(shape):
        array = RNG.random(shape)
        array.flat[-1] = value
        return array

    with pytest.raises(ValueError, match="(weight|bias|recurrent) must be finite"):
        make(weights)


def test_a_score_that_is_not_a_number_is_of_no_class():
    scores = np.array([[0, 1, 0], [0, np.nan, 1], [np.nan] * 3], np.float32)
    assert ms.losses.accuracy(scores, [1, 2, 0]) == pytest.approx(1 / 3)
    assert ms.losses.predicted(scores).tolist() == [1, -1, -1]


# -- labels


def test_truth_values_are_class_numbers():
    scores = RNG.random((4, 2), np.float32)
    labels = np.array([True, False, True, True])
    for loss in ms.losses.LOSSES.values():
        assert loss(scores, labels)[0] == loss(scores, labels.astype(int))[0]


def test_the_row_of_a_wrong_label_is_named():
    with pytest.raises(ValueError, match="labels must lie in 0 to 2, got 0 to 5, row 2 first"):
        ms.losses.mse(np.zeros((4, 3), np.float32), [0, 1, 5, 5])
