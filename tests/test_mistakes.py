"""What users do by mistake: it ends in an error that names the argument, before anything is changed."""

import os
import zipfile
from functools import partial

import numpy as np
import pytest

import minisnn as ms
from minisnn import files

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


# -- fit


def digits(n=120):
    images, labels = ms.data.digits("train")
    return images[:n], labels[:n]


def trained(net=None, optimizer=ms.Adam, data=None, **options):
    """What `fit` returns or raises, and the steps that were made."""
    rng = np.random.default_rng(0)
    net = net or ms.Network(fc=ms.Linear(64, 10, rng=rng), lif=ms.LIF(10), out=ms.Rate())
    opt = optimizer(net, ms.STL, lr=1e-3)
    options = {"epochs": 1, "encoder": ms.encode.Bernoulli(2), "progress": False, "seed": 1, **options}
    try:
        return ms.fit(net, opt, data or digits(), **options), opt
    except (ValueError, TypeError) as error:
        return error, opt


@pytest.mark.parametrize("options, message", [
    ({"loss": "mse"}, "fit: loss must be a function, e.g. ms.losses.mse, got 'mse': did you mean ms.losses.mse"),
    ({"loss": ms.losses.FiringRate}, "fit: loss must be .* a class; make an object of it, FiringRate"),
    ({"encoder": None}, "fit: encoder must be a function, e.g. ms.encode.Bernoulli"),
    ({"encoder": ms.encode.Bernoulli}, "fit: encoder must be .* a class; make an object of it, Bernoulli"),
    ({"schedule": 0.9}, "fit: schedule must be a function, .* got 0.9"),
    ({"penalties": {"lif": 0.1}}, r"fit: penalties\['lif'\] must be a function, .* got 0.1"),
    ({"seed": None}, "fit: seed must be a whole number of at least 0, got None"),
    ({"seed": -1}, "fit: seed must be a whole number of at least 0, got -1"),
    ({"epochs": 1.5}, "fit: epochs must be a whole number of at least 1, got 1.5"),
    ({"batch": True}, "fit: batch must be a whole number"),
    ({"validation": (np.zeros((2, 64)),)}, r"fit: validation: data must be a pair"),
    ({"keep": "beste"}, "fit: keep must be one of 'last', 'best', got 'beste'"),
    ({"learning_rate": 1}, "fit: unknown argument 'learning_rate'; did you mean lr="),
    ({"batch_size": 1}, "fit: unknown argument 'batch_size'; did you mean batch="),
    ({"epoch": 1}, "fit: unknown argument 'epoch'; did you mean epochs="),
    ({"truncate": 0}, "fit: truncate must be a whole number of at least 1, got 0"),
    ({"data": ([[1.0], [1.0, 2.0]], [0, 1])}, "fit: images"),
])  # fmt: skip
def test_a_wrong_argument_of_fit_is_named(options, message):
    error, opt = trained(**options)
    assert opt.steps == 0 and isinstance(error, ValueError | TypeError)
    with pytest.raises(type(error), match=message):
        raise error


X, Y = ms.data.digits("validation")


@pytest.mark.parametrize("validation, message", [
    ((X, Y + 1), "fit: validation: targets: labels must lie in 0 to 9, got 1 to 10, row"),
    ((X[:, :60], Y), "fit: validation: fc: Linear: x has shape"),
    ((X * 255, Y), r"fit: validation: images must lie in \[0, 1\].*divide by 255"),
    ((X, Y * 1.0), "fit: validation: targets must be class numbers"),
    ((np.full_like(X, np.nan), Y), "fit: validation: images must lie"),
])  # fmt: skip
def test_validation_data_are_looked_at_before_the_first_step(validation, message):
    error, opt = trained(validation=validation)
    assert opt.steps == 0
    with pytest.raises(type(error), match=message):
        raise error


def test_every_label_is_looked_at_before_the_first_step():
    images, labels = digits()
    labels = labels.copy()
    labels[100] = 10
    error, opt = trained(data=(images, labels), validation=0)
    assert opt.steps == 0 and "fit: targets: labels must lie in 0 to 9" in str(error) and "row 100 first" in str(error)


@pytest.mark.parametrize("factor", [np.nan, -1.0, "0.9", None, np.inf])
def test_a_factor_on_the_rate_is_a_number(factor):
    error, opt = trained(schedule=lambda epoch: factor)
    assert opt.steps == 0 and str(error).startswith("fit: schedule(0) must be a finite number >= 0, got ")
    net = ms.Network(fc=ms.Linear(6, 3, rng=RNG), out=ms.Rate())
    before, opt = net.params()["fc.weight"].copy(), ms.SGD(net, lr=1)
    _, grads = net.loss_and_grads(np.ones((2, 1, 6), "f4"), np.array([0]), ms.losses.mse)
    with pytest.raises(ValueError, match="factor must be a number >= 0"):
        opt.step(grads, factor=factor)
    assert np.array_equal(net.params()["fc.weight"], before) and opt.steps == 0


def regression(n_out=1):
    return ms.Network(
        fc=ms.Linear(8, 32, rng=RNG), lif=ms.LIF(32), last=ms.Linear(32, n_out, rng=RNG), out=ms.MembraneReadout(n_out)
    )


def mae(scores, targets):
    d = scores - targets.reshape(scores.shape)
    return float(np.abs(d).mean()), (np.sign(d) / d.size).astype(scores.dtype)


@pytest.mark.parametrize("n_out, shape, loss", [(1, (80,), ms.losses.mse), (1, (80, 1), ms.losses.mse),
                                                (3, (80, 3), ms.losses.mse), (1, (80,), mae), (3, (80, 3), mae)])  # fmt: skip
def test_targets_that_are_no_classes_train_validate_and_are_evaluated(n_out, shape, loss, tmp_path):
    data, net = (RNG.random((80, 8), np.float32), RNG.random(shape).astype("f4")), regression(n_out)
    history, _ = trained(net, data=data, loss=loss, validation=0.25, keep="best", checkpoint=tmp_path / "c.npz")
    row = history.epochs[0]
    assert row["train_accuracy"] is None and row["validation_accuracy"] is None and row["validation_loss"] > 0
    assert "NaN" not in history.to_json() and "nan" not in repr(history) and history.best_epoch == 1
    found = ms.train.evaluate(net, data, encoder=ms.encode.Constant(3), loss=loss)
    assert found[0] > 0 and found[1] is None
    again, _ = trained(
        net, data=data, loss=loss, validation=0.25, keep="best", checkpoint=tmp_path / "c.npz", resume=True, epochs=2
    )
    assert len(again.epochs) == 2
    ms.plot.learning_curves(history)


def test_a_network_whose_scores_are_not_finite_has_no_accuracy():
    net = ms.Network(fc=ms.Linear(64, 10, rng=RNG), out=ms.MembraneReadout(10))
    net["fc"].params["weight"][3, 3] = np.nan
    with pytest.raises(ValueError, match="evaluate: the loss is nan; the first layer that is not finite is 'fc'"):
        ms.train.evaluate(net, (X, Y), encoder=ms.encode.Bernoulli(2))


# -- a run that goes on


def weighted(scores, targets, w=1.0):
    loss, d = ms.losses.cross_entropy(scores, targets)
    return loss * w, d * scores.dtype.type(w)


class Scaled:
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, images, rng):
        return ms.encode.constant(images * self.factor, steps=2)


def closure(w):
    return lambda scores, targets: weighted(scores, targets, w)


def stretched(by):
    def schedule(epoch):
        return by * 0.9**epoch

    return schedule


@pytest.mark.parametrize("first, second", [
    ({"loss": partial(weighted, w=1.0)}, {"loss": partial(weighted, w=2.0)}),
    ({"loss": closure(1.0)}, {"loss": closure(3.0)}),
    ({"loss": lambda s, t: weighted(s, t)}, {"loss": lambda s, t: weighted(s, t, 2.0)}),
    ({"encoder": Scaled(1.0)}, {"encoder": Scaled(0.5)}),
    ({"encoder": Scaled(np.ones(64, "f4"))}, {"encoder": Scaled(np.full(64, 0.5, "f4"))}),
    ({"encoder": Scaled(1.0).__call__}, {"encoder": Scaled(0.5).__call__}),
    ({"schedule": stretched(1.0)}, {"schedule": stretched(0.5)}),
    ({"penalties": {"lif": ms.losses.FiringRate(0.1)}}, {"penalties": {"lif": ms.losses.FiringRate(0.2)}}),
    ({"penalties": {"lif": lambda s: (0.0, np.zeros(s.shape))}}, {"penalties": {"lif": lambda s: (1.0, np.zeros(s.shape))}}),
])  # fmt: skip
def test_another_run_does_not_go_on(first, second, tmp_path):
    options = {"checkpoint": tmp_path / "c.npz", "resume": True}
    assert not isinstance(trained(**first, **options)[0], Exception)
    error, opt = trained(**second, **options, epochs=2)
    assert isinstance(error, ms.FileError) and f"setup.{next(iter(first))}" in str(error) and opt.steps == 0
    history, _ = trained(**first, **options, epochs=2)
    assert len(history.epochs) == 2


def test_what_cannot_be_compared_is_named_in_a_warning(tmp_path):
    class Slots:
        __slots__ = ("w",)

        def __call__(self, scores, targets):
            return ms.losses.mse(scores, targets)

    with pytest.warns(UserWarning, match="Slots.* cannot be compared"):
        trained(loss=Slots(), checkpoint=tmp_path / "c.npz")


# -- files


def test_two_writers_of_one_file_do_no_harm_and_leave_nothing(tmp_path):
    path, other = tmp_path / "net.npz", tmp_path / "other"
    other.write_bytes(b"mine")
    (tmp_path / ".net.npz.part").symlink_to(other)
    with files.replacing(path) as one, files.replacing(path) as two:
        assert one != two
        one.write_bytes(b"one")
        two.write_bytes(b"two")
    assert path.read_bytes() == b"one" and other.read_bytes() == b"mine"
    with pytest.raises(ZeroDivisionError), files.replacing(path) as part:
        part.write_bytes(b"half")
        raise ZeroDivisionError
    assert path.read_bytes() == b"one"
    assert sorted(p.name for p in tmp_path.iterdir()) == [".net.npz.part", "net.npz", "other"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, "a\0b"):
        with pytest.raises(ms.FileError, match="is not a file"):
            ms.load(path)


def test_entries_that_lie_over_each_other_are_refused(tmp_path):
    """Many entries that claim the same bytes would fill the memory."""
    path = ms.Network(fc=ms.Linear(64, 64, rng=RNG)).save(tmp_path / "net.npz")
    with zipfile.ZipFile(path) as archive:
        entry = max(archive.infolist(), key=lambda e: e.file_size)
    with zipfile.ZipFile(path, "a") as archive:
        copy = zipfile.ZipInfo("again.npy")
        for name in ("header_offset", "file_size", "compress_size", "CRC"):
            setattr(copy, name, getattr(entry, name))
        archive.filelist += [copy]
        archive.NameToInfo["again.npy"] = copy
        archive._didModify = True
    with pytest.raises(ms.FileError, match="claim to be larger than the file"):
        ms.load(path)


def test_attributes_are_told_from_what_describes_their_object(tmp_path):
    """An attribute called `code` or `name` is compared as any other, and hides nothing."""

    class Named(Scaled):
        def __init__(self, factor, code):
            super().__init__(factor)
            self.code = code

    options = {"checkpoint": tmp_path / "c.npz", "resume": True}
    trained(encoder=Named(1.0, 3), **options)
    error, _ = trained(encoder=Named(1.0, 4), epochs=2, **options)
    assert isinstance(error, ms.FileError) and "setup.encoder.attributes.code is '3' in the file, '4' here" in str(error)


@pytest.mark.parametrize("change", [{"epoch": 7}, {"train_loss": 1}, {"train_accuracy": "good"}, {"layers": {"lif": {}}}])
def test_a_history_that_is_none_is_refused(change, tmp_path):
    path = tmp_path / "c.npz"
    trained(checkpoint=path)
    header, arrays = files.read(path, ("checkpoint",))
    header["rows"][0] |= change
    files.write(path, "checkpoint", header, arrays)
    error, opt = trained(checkpoint=path, resume=True, epochs=2)
    assert isinstance(error, ms.FileError) and opt.steps == 0


def test_arrays_of_objects_are_refused_before_a_file_is_written(tmp_path):
    path = ms.Network(fc=ms.Linear(6, 3, rng=RNG)).save(tmp_path / "net.npz")
    before, net = path.read_bytes(), ms.Network(fc=ms.Linear(6, 3, rng=RNG))
    net["fc"].buffers["names"] = np.array(["a", None], object)
    with pytest.raises(TypeError, match=r"arrays of objects, which a file cannot hold: \['fc.names'\]"):
        net.save(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name, meant", [("tau", "decay=math.exp"), ("beta", "decay="), ("v_threshold", "threshold="),
                                         ("spike_grad", "surrogate="), ("reset_mechanism", "reset=")])  # fmt: skip
def test_what_other_libraries_call_an_argument_is_translated(name, meant):
    with pytest.raises(ValueError, match=rf"no parameter \['{name}'\].*; did you mean {meant}"):
        ms.LIF(4, **{name: 2.0})
