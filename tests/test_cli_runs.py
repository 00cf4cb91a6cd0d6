"""The command line: going on with a run, evaluating what was saved, data from files; and the pages that show it."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from test_data_files import write_set

import minisnn as ms
from minisnn import files
from minisnn.cli import main
from minisnn.cli.options import Options

pytest.importorskip("matplotlib").use("Agg")
DOCS = Path(__file__).parent.parent / "docs"
SHORT = ["train", "--epochs", "3", "--hidden", "16", "--steps", "3", "--backend", "numpy"]


@pytest.fixture(autouse=True)
def quick_figures(monkeypatch):
    """Figures have tests of their own, and drawing them takes longer than all the rest here."""
    monkeypatch.setattr(ms.plot, "save", lambda figure, path: path.write_bytes(b"figure"))
    for name in ("learning_curves", "firing_rates", "thresholds", "raster", "compare"):
        monkeypatch.setattr(ms.plot, name, lambda *arguments: None)


def last_line(capsys):
    return capsys.readouterr().out.strip().splitlines()[-1]


def interrupt_after(monkeypatch, epochs):
    """Ctrl-C in the epoch after so many."""
    plain, done = ms.train._train_epoch, [0]

    def train_epoch(*arguments):
        done[0] += 1
        if done[0] > epochs:
            raise KeyboardInterrupt
        return plain(*arguments)

    monkeypatch.setattr(ms.train, "_train_epoch", train_epoch)
    return plain


@pytest.mark.parametrize("rule", ["stl", "compare"])
def test_an_interrupted_run_goes_on_to_the_same_end(tmp_path, capsys, monkeypatch, rule):
    command = [*SHORT, "--rule", rule, "--seed", "2"]
    assert main([*command, "--out", str(tmp_path / "whole")]) == 0
    expected = last_line(capsys)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2 if rule == "stl" else 4)
        assert main([*command, "--out", str(tmp_path / "run")]) == 130
    path = tmp_path / "run" / ("checkpoint.npz" if rule == "stl" else "tl_checkpoint.npz")
    assert f"minisnn train --resume {path}" in capsys.readouterr().err and path.exists()
    kept = path.read_bytes()
    assert main([*command, "--out", str(tmp_path / "run")]) == 1 and path.read_bytes() == kept
    assert f"{path} is of a run that was interrupted: --resume {path} goes on with it" in capsys.readouterr().err
    assert main(["train", "--resume", str(path)]) == 0
    assert last_line(capsys) == expected
    names = sorted(p.name for p in (tmp_path / "whole").iterdir())
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == names
    for name in names:
        if name.endswith("model.npz"):
            assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert main([*command, "--out", str(tmp_path / "run")]) == 0  # it is finished, and may be replaced


def test_a_run_goes_on_for_more_epochs_from_a_file_of_any_name(tmp_path, capsys):
    assert main([*SHORT, "--epochs", "2", "--out", str(tmp_path / "whole")]) == 0
    expected = last_line(capsys)
    assert main([*SHORT, "--epochs", "1", "--out", str(tmp_path / "run")]) == 0
    path = (tmp_path / "run" / "checkpoint.npz").rename(tmp_path / "run" / "other.npz")
    assert main(["train", "--resume", str(path), "--epochs", "2"]) == 0
    assert last_line(capsys) == expected
    assert (tmp_path / "run" / "model.npz").read_bytes() != b"" and not (tmp_path / "run" / "checkpoint.npz").exists()


@pytest.mark.parametrize(
    "notes", [None, 3, {}, {"command": {"help": "x"}}, {"command": None}, {"command": {"hidden": 1e10}}]
)
def test_notes_that_are_no_options_are_refused_in_words(tmp_path, capsys, notes):
    net = ms.Network(fc=ms.Linear(64, 10, rng=np.random.default_rng(0)), out=ms.Rate())
    path = files.write(tmp_path / "c.npz", "checkpoint", {"network": net.description(), "notes": notes}, net.arrays())
    assert main(["train", "--resume", str(path)]) == 1
    assert str(path) in capsys.readouterr().err


def test_figures_need_no_screen_and_come_last(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ms.plot, "learning_curves", lambda history: 1 / 0)
    assert main([*SHORT, "--epochs", "1", "--out", str(tmp_path)]) == 1
    assert {p.name for p in tmp_path.iterdir()} >= {"model.npz", "history.json"}
    assert "test_accuracy" in (tmp_path / "history.json").read_text(encoding="utf-8")


def test_eval_prints_what_training_printed(tmp_path, capsys):
    assert main([*SHORT, "--seed", "3", "--out", str(tmp_path)]) == 0
    expected = last_line(capsys)
    assert main(["eval", str(tmp_path / "model.npz")]) == 0
    assert last_line(capsys) == expected
    assert main(["eval", str(tmp_path / "checkpoint.npz"), "--steps", "5", "--seed", "1"]) == 0
    assert "digits, 5 steps, seed 1" in capsys.readouterr().out


def test_resume_and_eval_say_no_in_words(tmp_path, capsys):
    assert main([*SHORT, "--epochs", "1", "--out", str(tmp_path)]) == 0
    path = tmp_path / "checkpoint.npz"
    net = ms.Network(fc=ms.Linear(3, 10, rng=np.random.default_rng(0)), lif=ms.LIF(10), rate=ms.Rate())
    other = net.save(tmp_path / "other.npz")
    (tmp_path / "text.npz").write_text("hello")
    for words, message in (
        (["train", "--resume", str(tmp_path / "nothing.npz")], "there is no file"),
        (["train", "--resume", str(path), "--epochs", "9", "--lr", "1"], "leave out --lr"),
        (["train", "--resume", str(path), "--data-dir", "d", "--out", "o"], "leave out --out"),
        (["train", "--resume", str(other)], "holds a network, expected a checkpoint"),
        (["eval", str(tmp_path / "text.npz")], "is not a minisnn file"),
        (["eval", str(tmp_path / "none.npz")], "none.npz"),
        (["eval", str(other)], "expected [T, B, 3]"),
        (["train", "--data", "mnist", "--data-dir", str(tmp_path)], "train-images-idx3-ubyte"),
    ):
        capsys.readouterr()
        assert main(words) == 1
        assert message in capsys.readouterr().err, words


@pytest.mark.parametrize(
    "command",
    [{"rule": "std"}, {"steps": "many"}, {"new": 1}, "text", {"hidden": None, "seed": []}, {"hidden": []}, {"seed": [1, 2]}],
)
def test_options_in_a_file_are_checked_as_if_typed(tmp_path, command):
    with pytest.raises(ms.FileError, match="its options cannot be read"):
        Options.read(tmp_path, command)


def test_train_reads_files_in_the_format_of_mnist(tmp_path, capsys, monkeypatch):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (120, 28, 28), dtype=np.uint8), rng.integers(0, 10, 120, dtype=np.uint8)
    write_set(tmp_path / "mnist", images, labels)
    write_set(tmp_path / "mnist", images[:30], labels[:30], part="t10k")
    out = tmp_path / "run"
    command = ["train", "--data", "mnist", "--epochs", "1", "--hidden", "8", "--steps", "2", "--out", str(out)]
    assert main([*command, "--data-dir", str(tmp_path)]) == 0
    assert "Linear(784 -> 8" in capsys.readouterr().out
    record = json.loads((out / "history.json").read_text())
    assert record["command"]["batch"] == 100 and record["command"]["lr"] == 1e-3
    monkeypatch.setenv("MINISNN_DATA", str(tmp_path))
    assert main(["eval", str(out / "model.npz")]) == 0


def test_data_get_says_where_the_files_are(tmp_path, capsys, monkeypatch):
    def get(name, folder):
        (Path(folder) / "a.gz").write_bytes(b"")
        return Path(folder)

    monkeypatch.setattr(ms.data, "get", get)
    assert main(["data", "get", "mnist", "--data-dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"mnist: a.gz in {tmp_path}\n"
    with pytest.raises(SystemExit):
        main(["data", "get", "digits"])


def test_the_page_s_programs_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (DOCS / "how_to/save_and_resume.rst").read_text(encoding="utf-8")
    blocks = re.findall(r"code-block:: python\n\n((?:   .*\n|\n)+)", page)
    names = {}
    for block in blocks:
        exec(re.sub(r"^   ", "", block, flags=re.MULTILINE), names)
    assert len(blocks) == 4 and np.array_equal(names["same"]["lif1"].decay, names["net"]["lif1"].decay)
    assert names["fc1"].weight.shape == (64, 32) and names["again"]["lif"].dynamics.neuron is names["mine"]


def test_pytorch_s_layout_gives_pytorch_s_numbers():
    """weight [out, in]: y = x @ weight.T + bias."""
    rng = np.random.default_rng(0)
    weight, bias, x = rng.normal(size=(4, 6)), rng.normal(size=4), rng.normal(size=(3, 2, 6))
    layer = ms.Linear(6, 4, weight=weight.T, bias=bias, dtype="float64")
    assert np.allclose(layer.forward(x)[0], np.einsum("tbi,oi->tbo", x, weight) + bias, rtol=1e-14)
    with pytest.raises(ValueError, match=r"weight has shape \[4, 6\], expected \[6, 4\].*transpose"):
        ms.Linear(6, 4, weight=weight)
