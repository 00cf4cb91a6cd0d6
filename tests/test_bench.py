"""The benchmark checks before it times, takes turns, and refuses to conclude from noise."""

import json
import re
import sys
import time
import types
from pathlib import Path

import fake_cupy
import numpy as np
import pytest

import minisnn as ms
from minisnn import cli
from minisnn.bench import cases, race

pytest.importorskip("numba")
TINY = "4x8x64"


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    """The scripts that are not part of the package, importable while a test runs."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "docs/benchmarks"))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name in ("crossover", "gpu", "libraries", "machine", "peers", "processes"):
            del sys.modules[name]


@pytest.fixture
def quick(monkeypatch):
    """Cases of every kind that take no time, and turns that end at once."""
    monkeypatch.setattr(race, "TURN", 0.0)
    for kind in cases.CASES:
        monkeypatch.setitem(cases.CASES, kind, {"tiny": cases.CASES[kind]["small"]})


def test_ours_computes_what_the_reference_does():
    for kind, case, tolerance in (("layer", TINY, 1e-5), ("step", "small", 1e-4), ("conv", "small", 1e-5)):
        expected, job = cases.make("numpy", kind, case)(), cases.make("minisnn", kind, case)
        for _ in range(2):
            errors = race.differences(job(), expected)
            assert errors and max(errors.values()) <= tolerance, (kind, errors)


def test_a_wrong_result_ends_the_run_before_the_clock_starts(monkeypatch):
    rng = np.random.default_rng(0)
    right = {"spikes": (rng.random((3, 4)) < 0.5).astype(np.uint8), "d_x": rng.normal(size=(3, 4))}
    wrong = {"spikes": 1 - right["spikes"], "d_x": right["d_x"] * 1.01}
    monkeypatch.setattr(race, "make", lambda *case: lambda: right)
    race.checked(lambda: right, "layer", "S")
    for name in right:
        with pytest.raises(ArithmeticError, match=f"layer: {name} differs .* nothing was timed"):
            race.checked(lambda name=name: {**right, name: wrong[name]}, "layer", "S")
    race.checked(lambda: {**right, "d_x": wrong["d_x"]}, "layer", "S", ("spikes", "y"))  # it detaches: by design
    for name in right:
        with pytest.raises(ArithmeticError, match=f"{name} differs"):
            race.check("layer", {name: float("nan")})


def test_a_race_measures_by_the_first():
    jobs = {who: cases.make(who, "layer", "32x64x1024") for who in cases.OURS}
    rows = race.race({who: lambda job=job: race.turn(job) for who, job in jobs.items()}, 3)
    assert rows["minisnn"].ratio == 1 and rows["minisnn"].seconds > 0
    assert rows["numpy"].ratio > 1


def test_turns_that_differ_are_marked():
    times = iter([1.0, 1.0, 1.0, 9.0, 1.0, 2.0, 1.0, 1.0, 1.0, 5.0])
    rows = race.race(dict.fromkeys(["minisnn", "numpy"], lambda: next(times)), 5)
    assert rows["minisnn"].steady and not rows["numpy"].steady
    assert re.fullmatch(r"S +1000.00 ms +x 2.00 \?", race.line("S", rows))


def test_the_command_prints_a_table_and_writes_figures(quick, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(race, "STEADY", float("inf"))
    file = tmp_path / "figures.json"
    assert cli.main(["bench", "--rounds", "1", "--json", str(file)]) == 0
    printed, figures = capsys.readouterr().out, json.loads(file.read_text())
    assert list(figures) == ["layer", "step", "conv", "net"]
    assert all(f"== {kind}: " in printed and figures[kind]["tiny"]["numpy"]["ratio"] > 0 for kind in figures)
    monkeypatch.setattr(race, "STEADY", 0.0)
    assert cli.main(["bench", "layer", "--rounds", "1"]) == 1
    assert "draw no conclusion" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--json", "nosuch/f.json"], "--json nosuch/f.json: there is no folder nosuch"),
        (["--rounds", "0"], "expected a whole number of at least 1, got '0'"),
        (["foo"], "argument PART: invalid choice: 'foo' (choose from"),
    ],
)
def test_wrong_words_are_said_before_anything_runs(words, message, capsys):
    try:
        assert cli.main(["bench", *words]) == 1
    except SystemExit as end:
        assert end.code == 2
    assert message in capsys.readouterr().err


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


# -- the scripts in docs/benchmarks: processes, other libraries


def fake_python(tmp_path, program):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{program}\n")
    python.chmod(0o755)
    return str(python)


def test_processes_race_and_tell_their_memory():
    import processes

    rows = processes.races("layer", TINY, ["minisnn", "numpy"], sys.executable, 1)
    assert list(rows) == ["minisnn", "numpy"] and rows["minisnn"].ratio == 1
    if sys.platform.startswith("linux"):  # no other system tells
        used = {w: processes.most_memory(sys.executable, w, "64x64x1024") for w in cases.OURS}
        array = 4 * cases.find("layer", "64x64x1024").size
        assert 1.25 * array < used["minisnn"] < 1.5 * array  # spikes of a byte, d_x, and no membranes
        assert 2 * array < used["numpy"]


def test_a_process_that_fails_dies_in_silence_or_says_a_lot_is_no_riddle(tmp_path):
    """One that the system ends for its memory, say; and one that warns more than a pipe holds."""
    import processes

    with pytest.raises(ChildProcessError, match="nobody layer 4x8x64: .*(torch|nobody)"):
        processes.races("layer", TINY, ["nobody"], sys.executable, 1)
    with pytest.raises(ChildProcessError, match="layer M: ended with 3 and no message"):
        processes.Worker(fake_python(tmp_path, "exit 3"), "layer", "M").read()
    with processes.Worker(fake_python(tmp_path, "head -c 300000 /dev/zero >&2\necho '{}'")) as worker:
        assert worker.read() == {}


def test_nothing_is_concluded_on_a_busy_machine(monkeypatch, capsys):
    import peers

    monkeypatch.setattr(peers.machine, "busy", lambda: 0.5)
    assert peers.main(["start"]) == 1
    assert "others use 50% of this machine: no conclusion is possible" in capsys.readouterr().out


def test_peers_prints_and_writes_figures(monkeypatch, tmp_path, capsys):
    import peers

    monkeypatch.setattr(peers.machine, "busy", lambda: 0.0)
    file = tmp_path / "figures.json"
    assert peers.main(["start", "--rounds", "1", "--json", str(file), "--peers", "norse"]) == 0
    assert "minisnn" in capsys.readouterr().out and json.loads(file.read_text())["start"]["minisnn"] > 0
    assert peers._steady({"layer": {"S": {"a": {"steady": True}, "b": {"steady": False}}}}) == [
        True,
        False,
    ]
    with pytest.raises(ChildProcessError, match="minisnn does not run in"):
        peers.main(["start", "--peers", "--python", fake_python(tmp_path, "exit 1")])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["foo"], "argument PART: got 'foo', expected some of layer, step, conv"),
        (["--json", "nosuch/f.json"], "--json nosuch/f.json: there is no folder nosuch"),
        (["--python", "/no/such"], "--python /no/such: there is no such interpreter"),
        (["--rounds", "0"], "expected a whole number of at least 1, got 0"),
    ],
)
def test_peers_refuses_wrong_words_before_anything_runs(words, message, capsys):
    import peers

    with pytest.raises(SystemExit):
        peers.main(words)
    assert message in capsys.readouterr().err


def test_every_part_runs_small(monkeypatch, quick, capsys):
    """With processes replaced by figures: what a part looks up and prints is there."""
    import peers

    row = race.Row(1.0, 2.0, True)
    monkeypatch.setattr(peers, "_cases", lambda kind: {"layer": ["L", "X", "C"]}.get(kind, ["tiny"]))
    monkeypatch.setattr(peers, "find", lambda kind, case: cases.Layer(3, 4, 5))
    monkeypatch.setattr(peers, "races", lambda kind, case, who, *_: dict.fromkeys(who, row))
    monkeypatch.setattr(peers, "turns", lambda jobs, *_: dict.fromkeys(jobs, row))
    monkeypatch.setattr(peers, "most_memory", lambda *_: 100.0)
    monkeypatch.setattr(peers.machine, "stream", lambda: 1e9)
    words = [part for part in peers.PARTS if part != "start"]
    assert peers.main([*words, "--anyway", "--peers", "torch", "snntorch"]) == 0
    printed = capsys.readouterr().out
    assert "of 1.0 GB/s" in printed and printed.count("snntorch") == 8 and "N  time   2.00" in printed


def test_a_crossover_that_was_not_found_is_not_a_figure(monkeypatch, capsys):
    import crossover

    monkeypatch.setattr(crossover, "crossover", lambda n: crossover.MOST if n == 1024 else 0.1)
    crossover.main()
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "n =  256: 10.0%",
        "n = 1024: above 24%, the highest density tried",
    ]


@pytest.mark.parametrize("sooner", ["adding", "dense"])
def test_a_crossover_is_looked_for_where_the_entries_have_room(sooner, monkeypatch):
    import crossover

    monkeypatch.setattr(crossover, "_seconds", lambda work: work() or (1.0 if work.__name__ == sooner else 2.0))
    found = crossover.crossover(20, rows=512, columns=256, rounds=1)
    assert found == crossover.MOST if sooner == "adding" else found < 0.01


def test_stream_and_description():
    import machine

    assert machine.stream(rounds=1) > 1e8
    assert "CPUs" in machine.describe() and 0 <= machine.busy(0.05) <= 1


# -- on a GPU: here on the stand-in, whose "card" is the CPU


@pytest.fixture
def card(monkeypatch):
    import gpu

    device = types.SimpleNamespace(id=0, synchronize=lambda: None)
    properties = types.SimpleNamespace(getDeviceProperties=lambda i: {"name": b"a card"})
    with fake_cupy.installed() as module:
        module.cuda = types.SimpleNamespace(Device=lambda: device, runtime=properties)
        monkeypatch.setattr(gpu, "SIZE", cases.Layer(3, 4, 64))
        monkeypatch.setattr(gpu, "backend_problem", lambda name: None)
        yield gpu


def test_a_gpu_is_measured_against_a_copy_and_the_loop_on_arrays(card, capsys, tmp_path):
    assert card.main(["--rounds", "3", "--json", str(tmp_path / "f.json"), "--peers"]) == 0
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
    monkeypatch.setattr(card, "_times", lambda *_: pytest.fail("it was timed"))
    with pytest.raises(ArithmeticError, match="d_x differs .* nothing was timed"):
        card.measure(card.SIZE, [], 3)


def test_without_a_gpu_the_benchmark_says_why(capsys):
    import gpu

    if ms.kernels.backend_problem("cupy") is None:
        pytest.skip("there is a card")
    assert gpu.main([]) == 1
    assert "backend 'cupy' cannot be used: " in capsys.readouterr().out


@pytest.mark.cudatext
def test_cupy_has_what_the_benchmark_calls():
    cupy = pytest.importorskip("cupy")
    assert callable(cupy.cuda.Device.synchronize) and hasattr(cupy.cuda.Device, "id")
    assert callable(cupy.cuda.runtime.getDeviceProperties)
