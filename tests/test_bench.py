"""The benchmark checks before it times, takes turns, and refuses to conclude from noise."""

import json
import sys
import time
import types

import fake_cupy
import numpy as np
import pytest

import minisnn as ms
from minisnn import cli
from minisnn.bench import cases, command, gpu, machine, ours, race, worker

pytest.importorskip("numba")
TINY = "4x8x64"


@pytest.fixture
def quiet(monkeypatch):
    monkeypatch.setattr(machine, "busy", lambda: 0.0)
    monkeypatch.setattr(worker, "ROUND", 0.01)


def options(*words):
    return cli._parser().parse_args(["bench", "--rounds", "3", *words])


def test_ours_computes_what_the_reference_does():
    for kind, case, tolerance in (("layer", TINY, 1e-5), ("step", cases.SMALL, 1e-4), ("conv", cases.SMALL, 1e-5)):
        expected, job = ours.make("numpy", kind, case)(), ours.make("minisnn", kind, case)
        for _ in range(2):
            errors = worker.compare(job(), expected)
            assert errors and max(errors.values()) <= tolerance, (kind, errors)


def test_a_wrong_result_ends_the_run_before_the_clock_starts():
    rng = np.random.default_rng(0)
    right = {"spikes": (rng.random((3, 4)) < 0.5).astype(np.uint8), "d_x": rng.normal(size=(3, 4))}
    wrong = {"spikes": 1 - right["spikes"], "d_x": right["d_x"] * 1.01}
    race.check("torch", "layer", "S", worker.compare(right, right))
    for name in right:
        errors = worker.compare({**right, name: wrong[name]}, right)
        with pytest.raises(ArithmeticError, match=f"torch, layer S: {name} differs .* nothing was timed"):
            race.check("torch", "layer", "S", errors)
    race.check("snntorch", "layer", "S", {"spikes": 0.0, "d_x": 0.5})  # it detaches: by design
    with pytest.raises(ArithmeticError, match="d_x differs"):
        race.check("torch", "layer", "S", {"d_x": float("nan")})


def test_a_race_measures_by_the_first(quiet):
    rows = race.race("layer", "32x64x1024", ["minisnn", "numpy"], options())
    assert rows["minisnn"].ratio == 1 and rows["minisnn"].seconds > 0
    assert rows["numpy"].ratio > 1


def test_a_process_that_fails_says_why():
    with pytest.raises(ChildProcessError, match="KeyError: 'nobody'|nobody"):
        race.race("layer", TINY, ["nobody"], options())


def test_a_process_that_dies_in_silence_or_says_a_lot_is_no_riddle(tmp_path):
    """One that the system ends for its memory, say; and one that warns more than a pipe holds."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 3\n")
    python.chmod(0o755)
    with pytest.raises(ChildProcessError, match="layer M: ended with 3, without a word"):
        race.Worker(str(python), "layer", "M").read()
    python.write_text("#!/bin/sh\nhead -c 300000 /dev/zero >&2\necho '{}'\n")
    worker = race.Worker(str(python))
    assert worker.read() == {}
    worker.close()


def test_nothing_is_concluded_on_a_busy_machine(monkeypatch, capsys):
    monkeypatch.setattr(machine, "busy", lambda: 0.5)
    assert cli.main(["bench", "start"]) == 1
    assert "others use 50% of this machine: nothing could be concluded" in capsys.readouterr().out


def test_turns_that_differ_are_marked(monkeypatch, capsys):
    times = iter([1.0, 1.0, 1.0, 9.0, 1.0, 2.0, 1.0, 1.0, 1.0, 5.0] * 9)
    monkeypatch.setattr(race.Worker, "__init__", lambda self, *words: None)
    monkeypatch.setattr(race.Worker, "read", lambda self: {"d_x": 0.0})
    monkeypatch.setattr(race.Worker, "turn", lambda self: next(times))
    monkeypatch.setattr(race.Worker, "close", lambda self: None)
    _, calm = command._table("layer", [TINY], ["minisnn", "numpy"], options())
    assert not calm and "?" in capsys.readouterr().out


def test_the_command_prints_a_table_and_writes_figures(quiet, tmp_path, capsys):
    file = tmp_path / "figures.json"
    assert cli.main(["bench", "start", "--rounds", "1", "--anyway", "--json", str(file), "--peers", "norse"]) == 0
    assert "minisnn" in capsys.readouterr().out
    assert json.loads(file.read_text())["start"]["minisnn"] > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--json", "nosuch/f.json"], "--json nosuch/f.json: there is no folder nosuch"),
        (["--python", "/no/such"], "--python /no/such: there is no such interpreter"),
        (["--rounds", "0"], "expected a whole number of at least 1, got '0'"),
        (["--rounds", "1", "--python", "PYTHON"], "minisnn does not run in"),
    ],
)
def test_wrong_words_are_said_before_anything_runs(words, message, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(machine, "busy", lambda: 0.0)
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    words = [str(python) if word == "PYTHON" else word for word in words]
    try:
        assert cli.main(["bench", "start", "--peers", *words]) == 1
    except SystemExit as end:
        assert end.code == 2
    assert message in capfd.readouterr().err


def test_parts_have_names(capsys):
    with pytest.raises(SystemExit):
        cli.main(["bench", "foo"])
    assert "argument PART: got 'foo', expected some of layer, step, conv" in capsys.readouterr().err


def test_a_crossover_that_was_not_found_is_not_a_figure(monkeypatch, capsys):
    from minisnn.bench import crossover

    monkeypatch.setattr(crossover, "crossover", lambda n: crossover.MOST if n == 1024 else 0.1)
    command._events(options())
    assert capsys.readouterr().out.splitlines()[-2:] == ["n =  256: 10.0%", "n = 1024: above 24%, as far as was looked"]


@pytest.mark.parametrize("sooner", ["adding", "dense"])
def test_a_crossover_is_looked_for_where_the_entries_have_room(sooner, monkeypatch):
    from minisnn.bench import crossover

    monkeypatch.setattr(crossover, "_seconds", lambda work: work() or (1.0 if work.__name__ == sooner else 2.0))
    found = crossover.crossover(20, rows=512, columns=256, rounds=1)
    assert found == crossover.MOST if sooner == "adding" else found < 0.01


def test_memory_of_a_run_is_measured():
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux tells the highest resident memory")
    used = {w: command.most_memory(sys.executable, w, "64x64x1024") for w in ours.OURS}
    array = 4 * cases.layer_of("64x64x1024").size
    assert 1.25 * array < used["minisnn"] < 1.5 * array  # spikes of a byte, d_x, and no membranes
    assert 2 * array < used["numpy"]


def test_stream_and_description():
    assert machine.stream(rounds=1) > 1e8
    assert "CPUs" in machine.describe() and 0 <= machine.busy(0.05) <= 1


def test_spikes_in_patches_have_their_density():
    spikes = cases.clusters(np.random.default_rng(0), (20, 4, 14, 14), 0.1)
    assert spikes.dtype == np.uint8 and abs(spikes.mean() - 0.1) < 0.002


def test_compiled_loops_have_not_fallen_back_to_scalars():
    """A coarse ratio with a wide margin (10 and more on a quiet machine): a silent fallback would go unseen otherwise."""
    rng = np.random.default_rng(0)
    x, d_y = rng.normal(0.3, 0.7, (2, 16, 64, 1024)).astype("float32")
    times = {}
    for backend in ("numba", "numpy"):
        layer = ms.LIF(1024, backend=backend)
        layer.backward(d_y, layer.forward(x)[1], wrt="threshold")
        runs = []
        for _ in range(5):
            start = time.perf_counter()
            layer.backward(d_y, layer.forward(x)[1], wrt="threshold")
            runs.append(time.perf_counter() - start)
        times[backend] = min(runs)
    assert times["numpy"] > 2 * times["numba"], times


# -- on a GPU: here on the stand-in, whose "card" is the CPU


@pytest.fixture
def card(monkeypatch):
    device = types.SimpleNamespace(id=0, synchronize=lambda: None)
    properties = types.SimpleNamespace(getDeviceProperties=lambda i: {"name": b"a card"})
    with fake_cupy.installed() as module:
        module.cuda = types.SimpleNamespace(Device=lambda: device, runtime=properties)
        monkeypatch.setattr(gpu, "SIZE", cases.Layer(3, 4, 64))
        yield module


def test_a_gpu_is_measured_against_a_copy_and_the_loop_on_arrays(card, capsys, tmp_path):
    assert cli.main(["bench", "--backend", "cupy", "--rounds", "3", "--json", str(tmp_path / "f.json"), "--peers"]) == 0
    printed, figures = capsys.readouterr().out, json.loads((tmp_path / "f.json").read_text())
    assert "a card: a copy moves" in printed and "(3, 4, 64)" in printed
    assert set(figures["seconds"]) == {"scan", "adjoint", "the loop on CuPy arrays"}
    moved = 9 * 3 * 4 * 64 / figures["seconds"]["scan"]
    assert np.isclose(figures["share"]["scan"], moved / figures["bandwidth"])


def test_nothing_is_timed_on_a_gpu_that_computes_something_else(card, monkeypatch):
    right = fake_cupy.OnReference.scan_adjoint

    def wrong(self, *args, **options):
        d_x, *others = right(self, *args, **options)
        return d_x * np.float32(1.001), *others

    monkeypatch.setattr(fake_cupy.OnReference, "scan_adjoint", wrong)
    monkeypatch.setattr(gpu, "_times", lambda *_: pytest.fail("it was timed"))
    with pytest.raises(ArithmeticError, match=r"\(4, 2, 64\): d_x differs .* nothing was timed"):
        gpu.measure(gpu.SIZE, [], 3)


def test_without_a_gpu_the_benchmark_says_why(capsys):
    if ms.kernels.backend_problem("cupy") is None:
        pytest.skip("there is a card")
    assert cli.main(["bench", "--backend", "cupy"]) == 1
    assert "backend 'cupy' cannot be used: " in capsys.readouterr().out
    assert cli.main(["bench", "layer", "--backend", "cupy"]) == 2
    assert "leave out layer" in capsys.readouterr().out


@pytest.mark.cudatext
def test_cupy_has_what_the_benchmark_calls():
    cupy = pytest.importorskip("cupy")
    assert callable(cupy.cuda.Device.synchronize) and hasattr(cupy.cuda.Device, "id")
    assert callable(cupy.cuda.runtime.getDeviceProperties)
