"""Compiled loops between processes: what was compiled once is found again, what was edited never meets old code."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import minisnn as ms

pytest.importorskip("numba")

ROOT = Path(__file__).parent.parent

RUN = """
import json, sys
import numpy as np
import minisnn as ms
from minisnn.kernels import native

def run(neuron, reset=ms.resets.hard, surrogate=ms.surrogates.atan(1.3), backward=True, **params):
    found = []
    for backend in ("numba", "numpy"):
        layer = ms.Spiking(3, neuron=neuron, reset=reset, surrogate=surrogate, dtype="float64", backend=backend, **params)
        x = np.linspace(-0.5, 2, 24).reshape(4, 2, 3)
        spikes, cache = layer.forward(x)
        found.append((cache.u, layer.backward(np.ones_like(x), cache)[0] if backward else cache.u))
    assert all(np.allclose(a, b, rtol=1e-13) for a, b in zip(*found)), "the backends differ"
    return float(found[0][0].sum()), float(found[0][1].sum())

def counts():
    return {**native.counts, "numba": "numba" in sys.modules}
"""


@pytest.fixture
def python(tmp_path):
    """Runs a program in a new process with a cache of its own; returns what it prints as JSON."""

    def run(program, stdin=None, **environment):
        path = tmp_path / "program.py"
        path.write_text(RUN + textwrap.dedent(program))
        command = [sys.executable, "-i" if stdin else "-B", *([] if stdin else [str(path)])]
        env = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
        env.pop("MINISNN_BACKEND", None)
        done = subprocess.run(
            command, input=stdin, capture_output=True, text=True, env={**env, **environment}, cwd=tmp_path, timeout=300
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.strip().splitlines()[-1])

    return run


TWO = """
run(ms.neurons.lif, ms.resets.soft)
run(ms.neurons.current_lif, backward=False)
print(json.dumps(counts()))
"""


def test_a_second_process_finds_everything_and_needs_no_numba(python, tmp_path):
    first, second = python(TWO), python(TWO)
    files = [p.name for p in (tmp_path / "cache" / "minisnn").iterdir() if not p.name.startswith("numba-")]
    assert first == {"found": 0, "compiled": 3, "numba": True}
    assert second == {"found": len(files), "compiled": 0, "numba": False} and len(files) == first["compiled"]


def test_nothing_compiled_is_lost_to_the_disk(python, tmp_path):
    """What needs Numba to run could not be kept, and would be compiled in every process."""
    program = """
        import inspect
        # First, since any loop brings the system's functions.
        charge = lambda v, x: np.tanh(v) + np.arctan(v) + np.cos(v) + np.log(v + 2) + x
        neuron = ms.Neuron(charge, lambda d_u, v, x: (d_u, d_u), params=())
        ms.Spiking(3, neuron=neuron, backend="numba", dtype="float64").forward(np.ones((2, 1, 3)))
        rng = np.random.default_rng(0)
        net = ms.models.conv_net((1, 8, 8), (4,), (8,), 3, rng=rng, dropout=0.2).using("numba")
        x, y = rng.random((4, 8, 1, 8, 8)) < 0.1, np.arange(8) % 3
        ms.optimizers.Adam(net).step(net.loss_and_grads(x, y, ms.losses.mse, rng=rng)[1])
        x = np.ones((2, 1, 3), np.float32)
        for surrogate in ms.surrogates.SURROGATES.values():
            if "np." in inspect.getsource(surrogate(2.0).slope):  # the others call nothing
                layer = ms.LIF(3, surrogate=surrogate(2.0), backend="numba")
                layer.backward(x, layer.forward(x)[1], wrt="threshold")
        print(json.dumps(counts()))
    """
    first, second = python(program), python(program)
    assert first["found"] == 0 and second == {"found": first["compiled"], "compiled": 0, "numba": False}


KERNELS = """
numbers = [0.125, 0.25]
kernels = [(ms.Neuron(eval(f"lambda v, x: {k} * v + x"), eval(f"lambda d_u, v, x: ({k} * d_u, d_u)"), params=()))
           for k in numbers]
"""


def test_code_of_two_processes_does_not_mix_in_a_third(python):
    """Machine code is linked by name: two processes give the same names to different functions."""
    for i in range(2):
        python(KERNELS + f"print(json.dumps(run(kernels[{i}])))\n")
    assert python(KERNELS + "[run(k) for k in kernels]\nprint(json.dumps(counts()))\n")["found"] == 4


RACE = """
import subprocess
if len(sys.argv) == 1:
    children = [subprocess.Popen([sys.executable, __file__, str(i)]) for i in range(2)]
    assert [child.wait() for child in children] == [0] * 2
for i in range(2):
    run(kernels[(i + int((sys.argv + ["0"])[1])) % 2])
print(json.dumps(counts()))
"""


def test_processes_that_compile_at_once_do_not_mix_up_their_loops(python):
    assert python(KERNELS + RACE)["found"] == 4


MODULE = """
LEAK = 0.25
def charge(v, x): return LEAK * v + 2 * x
def adjoint(d_u, v, x): return LEAK * d_u, 2 * d_u
"""
USE_MODULE = """
import mine
result = run(ms.Neuron(mine.charge, mine.adjoint, params=()), backward=BACKWARD)
print(json.dumps({**counts(), "result": result}))
"""


def test_an_edited_module_of_the_user_never_meets_a_stale_loop(python, tmp_path):
    module = tmp_path / "mine.py"
    module.write_text(MODULE)
    forward = USE_MODULE.replace("BACKWARD", "False")
    first, again = python(USE_MODULE.replace("BACKWARD", "True")), python(forward)
    assert again["compiled"] == 0 and again["result"][0] == first["result"][0]
    module.write_text(MODULE.replace("0.25", "0.75"))  # a constant that the body uses
    constant = python(forward)
    assert constant["found"] == 0 and constant["result"][0] != first["result"][0]
    module.write_text(MODULE.replace("2 * x", "3 * x").replace("2 * d_u", "3 * d_u"))  # the body
    body = python(forward)
    assert body["found"] == 0 and body["result"][0] not in (first["result"][0], constant["result"][0])
    module.write_text("# moved down\n\n" + MODULE + "\nUNUSED = 1\n")  # nothing that is computed
    moved = python(USE_MODULE.replace("BACKWARD", "True"))
    assert moved["compiled"] == 0 and moved["result"] == first["result"]
    module.write_text(MODULE.replace("LEAK * d_u, 2", "LEAK * d_u, 5"))  # the adjoint alone
    adjoint = python(USE_MODULE.replace("BACKWARD", "True"))
    assert adjoint["found"] == 1 and adjoint["compiled"] == 1


def test_an_edited_part_of_the_loops_never_meets_a_stale_loop(python, tmp_path):
    copy = shutil.copytree(ROOT / "minisnn", tmp_path / "copy" / "minisnn", ignore=shutil.ignore_patterns("__pycache__"))
    program = """
        x = np.ones((2, 1, 3), np.float32)
        print(json.dumps(float(ms.LIF(3, backend="numba", threshold=9.0).forward(x)[1].state["v"].sum())))
    """
    where = {"PYTHONPATH": str(copy.parent)}
    assert python(program, **where) == 4.5
    part = copy / "kernels" / "tile.py"
    text, line = part.read_text(), "        w[to + n] = array[at + n]\n"
    assert text.count(line) == 1
    part.write_text(text.replace(line, line.replace("array[at + n]", "array[at + n] + 1")))
    assert python(program, **where) == 7.5  # the leak, and the threshold, are read as one more than they are


def test_sources_edited_while_a_process_runs_do_not_leave_stale_code(python, tmp_path):
    copy = shutil.copytree(ROOT / "minisnn", tmp_path / "copy" / "minisnn", ignore=shutil.ignore_patterns("__pycache__"))
    program = """
        from pathlib import Path
        part = Path(ms.__file__).parent / "kernels" / "contract.py"
        text = part.read_text()
        if EDIT:
            part.write_text(text.replace("return u >= theta", "return u < theta"))
        layer = ms.LIF(3, backend="numba", threshold=9.0)
        print(json.dumps(float(layer.forward(np.ones((2, 1, 3), np.float32))[0].sum())))
    """
    where = {"PYTHONPATH": str(copy.parent)}
    assert python(program.replace("EDIT", "True"), **where) == 0
    assert python(program.replace("EDIT", "False"), **where) == 6


def test_without_llvm_the_reference_runs(python):
    python("print(json.dumps(run(ms.neurons.lif, backward=False)))\n")  # so that it is noted that Numba can be imported
    found = python("""
        sys.modules["llvmlite"] = sys.modules["llvmlite.binding"] = None
        from minisnn.kernels import backend_problem
        print(json.dumps([ms.LIF(3).backend, backend_problem("numba")]))
    """)
    assert found[0] == "numpy" and "llvmlite" in found[1]


def test_without_a_home_nothing_is_kept(python, tmp_path):
    found = python("""
        import os, pathlib
        os.environ.pop("NUMBA_CACHE_DIR"), os.environ.pop("XDG_CACHE_HOME", None)
        def no_home(self): raise RuntimeError("Could not determine home directory.")
        pathlib.Path.expanduser = no_home
        from minisnn.cli import main
        main(["info"])
        print(json.dumps(run(ms.neurons.lif, backward=False)))
    """)
    assert len(found) == 2


def test_functions_from_exec_a_closure_and_a_rebound_constant_work(python):
    found = python("""
        scope = {"np": np, "GAIN": 2.0}
        exec("def charge(v, x): return 0.5 * v + GAIN * x\\ndef adjoint(d_u, v, x): return 0.5 * d_u, GAIN * d_u", scope)
        neuron = ms.Neuron(scope["charge"], scope["adjoint"], params=())
        results = [run(neuron)]
        scope["GAIN"] = 3.0
        results.append(run(neuron))
        def make(gain):
            def charge(v, x): return 0.5 * v + gain * x
            def adjoint(d_u, v, x): return 0.5 * d_u, gain * d_u
            return ms.Neuron(charge, adjoint, params=())
        results += [run(make(2.0)), run(make(3.0)), run(make(4.0), backward=False)]
        print(json.dumps({"results": results}))
    """)["results"]
    assert found[0] == found[2] and found[1] == found[3] and len({tuple(r) for r in found}) == 3


def test_a_neuron_typed_at_the_prompt_works(python):
    found = python(
        "",
        stdin=RUN.replace("\n\n", "\n").replace("    return float", "    return float").replace("def counts", "\ndef counts")
        + "\ncharge = lambda v, x: 0.5 * v + x\nadjoint = lambda d_u, v, x: (0.5 * d_u, d_u)\n"
        "print(json.dumps(run(ms.Neuron(charge, adjoint, params=()))))\n",
    )
    assert len(found) == 2


@pytest.mark.parametrize("folder", ["/dev/null/cache", "/proc/cache"])
def test_a_folder_that_cannot_be_written_is_no_error(python, folder):
    assert len(python("print(json.dumps(run(ms.neurons.lif, backward=False)))\n", NUMBA_CACHE_DIR=folder)) == 2


def test_a_damaged_cache_is_no_error(python, tmp_path):
    program = "print(json.dumps([run(ms.neurons.lif, backward=False), counts()]))\n"
    expected = python(program)
    note, loop = sorted((tmp_path / "cache" / "minisnn").iterdir(), reverse=True)
    whole = loop.read_bytes()
    for damaged in (whole[:-40], b"not what it was", whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:]):
        loop.write_bytes(damaged)  # loading any of these would end the process
        assert python(program) == expected and loop.read_bytes() == whole
    note.write_bytes(b"?")
    found = python(program)[1]
    assert found == {"found": 1, "compiled": 0, "numba": True} and note.read_bytes() != b"?"


def test_the_folder_does_not_grow_without_end(tmp_path, monkeypatch):
    from minisnn.kernels import disk

    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(disk, "KEPT", 10)
    for i in range(11):
        disk.write(f"{i}", b"content")
        os.utime(disk.cache_folder() / f"{i}", (i, i)) if (disk.cache_folder() / f"{i}").exists() else None
    assert disk.read("10") == b"content" and disk.read("0") is None
    assert sorted(p.name for p in disk.cache_folder().iterdir()) == sorted(str(i) for i in range(5, 11))


def test_a_loop_refuses_arrays_that_it_was_not_compiled_for():
    """It works on bare memory: nothing else would notice."""
    from minisnn.kernels.update import _adam_loop

    good = np.ones(8, np.float32)
    loop, numbers = _adam_loop(good.dtype), [*[0.0] * 8, 8]
    frozen = np.broadcast_to(good[:1], 8).copy()
    frozen.flags.writeable = False
    misplaced = np.ones(33, np.uint8)[1:].view(np.float32)
    for bad in (good.astype(float), np.ones(16, np.float32)[::2], frozen, misplaced):
        with pytest.raises(TypeError, match="a compiled loop over rows of float32, float32"):
            loop(bad, good, good, good, *numbers)
    loop(good, frozen, good, good, *numbers)(0, 0)
    numbers[2] = 1.0  # the moving average of the gradient, which is only read: misplaced it is as good
    mean = np.zeros(8, np.float32)
    loop(good, misplaced, mean, good, *numbers)(0, 1)
    assert np.array_equal(mean, misplaced)


def test_a_loop_that_needs_numba_runs_and_is_not_kept(tmp_path, monkeypatch):
    from minisnn.kernels import jit, native

    def double(x, y, n, lo, hi):
        for i in range(lo, min(hi, n)):
            y[i] = 2 * x[i]

    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(native, "_load", lambda *arguments: None)  # as where a symbol is missing without Numba
    loop = native.compile_loop(double, (jit.reads("f4"), jit.writes("f4"), jit.WHOLE), "doubled")
    x, y = np.arange(5, dtype="f4"), np.zeros(5, "f4")
    loop(x, y, 5)(1, 9)
    assert y.tolist() == [0, 2, 4, 6, 8] and list(tmp_path.iterdir()) == []


def test_layers_run_through_numba_alone_where_nothing_can_be_loaded(python, tmp_path):
    """That code is not optimised: what it reads must be there, though nobody needs it."""
    found = python("native._load = lambda *arguments: None\nprint(json.dumps(run(ms.neurons.lif)))\n")
    files = (tmp_path / "cache" / "minisnn").iterdir()
    assert len(found) == 2 and all(file.name.startswith("numba-") for file in files)


def test_in_one_process_equal_functions_share_a_loop():
    from minisnn.kernels import native

    def make():
        def charge(v, x):
            return 0.4375 * v + x

        return ms.Neuron(charge, lambda d_u, v, x: (0.4375 * d_u, d_u), params=())

    x = np.ones((2, 1, 2), np.float32)
    ms.Spiking(2, neuron=make(), backend="numba").forward(x)
    known = dict(native.counts)
    ms.Spiking(2, neuron=make(), backend="numba").forward(x)  # a notebook cell run once more
    assert native.counts == known
