"""Figures show what they say; the command line runs the main job, and says no in words."""

import json
import subprocess
import sys

import numpy as np
import pytest

import minisnn as ms
from minisnn.cli import main

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")


@pytest.fixture(scope="module")
def trained():
    rng = np.random.default_rng(0)
    net = ms.Network(
        fc1=ms.Linear(64, 16, rng=rng), lif1=ms.LIF(16, threshold=0.5, backend="numpy"),
        fc2=ms.Linear(16, 10, rng=rng), lif2=ms.LIF(10, backend="numpy"), rate=ms.Rate(),
    )  # fmt: skip
    before = {n: p.copy() for n, p in net.params("*.threshold").items()}
    images, labels = (a[:160] for a in ms.data.digits())
    history = ms.fit(net, ms.Adam(net, ms.STL), (images, labels), epochs=3, encoder=ms.encode.Bernoulli(6))
    caches = net.forward(ms.encode.bernoulli(images[:2], steps=6, rng=rng))[1]
    return net, before, history, caches


def test_learning_curves_and_rates_show_the_history(trained, tmp_path):
    _, _, history, _ = trained
    figure = ms.plot.learning_curves(history)
    loss, accuracy = figure.axes
    assert np.array_equal(loss.lines[0].get_ydata(), history.column("train_loss"))
    assert np.allclose(accuracy.lines[1].get_ydata(), 100 * np.array(history.column("validation_accuracy")))
    rates = ms.plot.firing_rates(history)
    assert [line.get_label() for line in rates.axes[0].lines] == ["lif1", "lif2"]
    assert np.allclose(rates.axes[1].lines[0].get_ydata(), 100 * np.array(history.column("silent", "lif1")))
    for name, fig in (("a.png", figure), ("b.svg", rates)):
        assert ms.plot.save(fig, tmp_path / name).stat().st_size > 5000
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.svg"]


def test_histograms_count_every_neuron(trained):
    net, before, _, _ = trained
    figure = ms.plot.thresholds(before, net.params("*.threshold"))
    for axes, (name, values) in zip(figure.axes, net.params("*.threshold").items(), strict=True):
        assert axes.get_title() == name and sum(p.get_height() for p in axes.patches) == values.size
    spread = {n: np.linspace(0.5, 2, p.size) for n, p in before.items()}
    figure = ms.plot.thresholds(spread, spread)
    assert sum(p.get_height() for p in figure.axes[0].patches) == 2 * 16


def test_the_raster_has_every_spike(trained):
    net, _, _, caches = trained
    figure = ms.plot.raster(net["lif1"], caches["lif1"], sample=1, neuron=3)
    top, bottom = figure.axes
    assert len(top.collections[0].get_offsets()) == caches["lif1"].spikes[:, 1].sum()
    u = caches["lif1"].u[:, 1, 3]
    assert np.array_equal(bottom.lines[0].get_ydata()[::2], u)
    assert np.array_equal(bottom.lines[0].get_ydata()[1::2], np.where(u >= net["lif1"].threshold[3], 0, u))
    with pytest.raises(TypeError, match="spiking layer"):
        ms.plot.raster(net["fc1"], caches["lif1"])


def test_compare_has_a_line_a_run(trained):
    figure = ms.plot.compare({"sl": trained[2], "stl": trained[2]})
    assert [line.get_label() for line in figure.axes[0].lines] == ["sl", "stl"]


# -- the command line

SHORT = ["train", "--epochs", "3", "--hidden", "24", "--steps", "4", "--backend", "numpy"]


def test_train_leaves_figures_history_and_model(tmp_path, capsys):
    out = tmp_path / "run"
    assert main([*SHORT, "--out", str(out), "--seed", "3"]) == 0
    printed = capsys.readouterr().out
    assert sorted(p.name for p in out.iterdir()) == [
        "checkpoint.npz", "firing_rates.png", "history.json", "learning_curves.png", "model.npz", "raster.png", "thresholds.png",
    ]  # fmt: skip
    record = json.loads((out / "history.json").read_text())
    accuracy = record["runs"]["stl"]["test_accuracy"]
    assert printed.strip().splitlines()[-1] == f"test accuracy: {100 * accuracy:.1f} %" and 0.1 < accuracy <= 1
    assert record["command"]["seed"] == 3 and len(record["runs"]["stl"]["history"]["epochs"]) == 3
    assert record["versions"]["minisnn"] == ms.__version__
    with np.load(out / "model.npz", allow_pickle=False) as model:
        assert model["fc1.weight"].shape == (64, 24) and set(model) >= {"lif1.threshold", "lif2.decay"}


def test_the_same_command_gives_the_same_run(tmp_path):
    for name in ("a", "b"):
        assert main([*SHORT, "--out", str(tmp_path / name)]) == 0
    with np.load(tmp_path / "a/model.npz") as a, np.load(tmp_path / "b/model.npz") as b:
        assert all(np.array_equal(a[n], b[n]) for n in a)


def test_compare_runs_three_rules(tmp_path, capsys):
    assert main([*SHORT, "--rule", "compare", "--out", str(tmp_path), "--hidden", "16", "12"]) == 0
    last = capsys.readouterr().out.strip().splitlines()[-3:]
    assert [line.split(":")[0] for line in last] == ["sl test accuracy", "tl test accuracy", "stl test accuracy"]
    assert (tmp_path / "compare.png").exists() and len(list(tmp_path.glob("*_raster.png"))) == 3


def test_without_out_no_earlier_run_is_overwritten(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert main([*SHORT, "--epochs", "1"]) == 0
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == ["stl-seed0", "stl-seed0-2"]


def test_a_folder_that_cannot_be_made_is_said_before_training(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main([*SHORT, "--out", str(tmp_path / "file")]) == 1
    assert "minisnn:" in capsys.readouterr().err


def test_a_size_of_the_other_model_is_refused_and_nothing_is_left(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MINISNN_DATA", raising=False)
    for words, message in (
        (["--width", "16"], "--width is of --model stl-mnist; --model mlp has --hidden"),
        (["--model", "stl-mnist", "--hidden", "16"], "--hidden is of --model mlp; --model stl-mnist has --width"),
        (["--data", "mnist"], "mnist"),
    ):
        assert main(["train", *words]) == 1
        assert message in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments",
    [["--rule", "std"], ["--hidden", "0"], ["--lr", "-1"], ["--lr", "fast"], ["--seed", "-1"], ["--threshold", "0"],
     ["--backend", "torch"], ["--epochs", "1.5"], ["--threads", "0"]],
)  # fmt: skip
def test_wrong_options_are_explained(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["train", *arguments])
    assert caught.value.code == 2 and arguments[0] in capsys.readouterr().err


def test_info(capsys, monkeypatch):
    monkeypatch.setenv("MINISNN_THREADS", "3")
    assert main(["info"]) == 0
    printed = capsys.readouterr().out
    for part in (f"minisnn      {ms.__version__}", "numba:", "numpy: ready", "3 for compiled loops", "BLAS", "cupy"):
        assert part in printed
    monkeypatch.setenv("MINISNN_THREADS", "many")
    assert main(["info"]) == 1 and "MINISNN_THREADS: got 'many'" in capsys.readouterr().err


def test_python_m_minisnn():
    done = subprocess.run([sys.executable, "-m", "minisnn", "--version"], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == f"minisnn {ms.__version__}"
