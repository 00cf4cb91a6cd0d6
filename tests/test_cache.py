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
from minisnn.kernels import compiled

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
    loops = compiled._loops.values()
    return {"hits": sum(sum(l.stats.cache_hits.values()) for l in loops),
            "misses": sum(sum(l.stats.cache_misses.values()) for l in loops), "loops": len(loops)}
"""


@pytest.fixture
def python(tmp_path):
    """Runs a program in a new process with a cache of its own; returns what it prints as JSON."""

    def run(program, stdin=None, **environment):
        path = tmp_path / "program.py"
        path.write_text(RUN + textwrap.dedent(program))
        command = [sys.executable, "-i" if stdin else "-B", *([] if stdin else [str(path)])]
        env = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
        env |= {"NUMBA_OPT": "0"}  # what is compiled need not be fast here, but soon
        env.pop("MINISNN_BACKEND", None)
        done = subprocess.run(
            command, input=stdin, capture_output=True, text=True, env={**env, **environment}, cwd=tmp_path, timeout=300
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.strip().splitlines()[-1])

    return run


ALL = """
for n, neuron in ms.neurons.NEURONS.items():
    run(neuron, ms.resets.soft if n == "lif" else ms.resets.hard)
print(json.dumps(counts()))
"""


def test_a_second_process_finds_everything(python, tmp_path):
    first, second = python(ALL), python(ALL)
    # An index for each loop.  With one for all, processes that compile at once made it point to each other's code.
    files = [p.suffix for p in (tmp_path / "cache").rglob("*.nb?")]
    assert files.count(".nbi") == files.count(".nbc") == first["loops"]
    assert first["hits"] == 0 and first["misses"] == first["loops"] == 2 * len(ms.neurons.NEURONS)
    assert second["misses"] == 0 and second["hits"] == second["loops"] == first["loops"]


KERNELS = """
numbers = [0.125, 0.25]
kernels = [(ms.Neuron(eval(f"lambda v, x: {k} * v + x"), eval(f"lambda d_u, v, x: ({k} * d_u, d_u)"), params=()))
           for k in numbers]
"""


def test_code_of_two_processes_does_not_mix_in_a_third(python):
    """Machine code is linked by name: two processes gave the same names to different functions."""
    for i in range(2):
        python(KERNELS + f"print(json.dumps(run(kernels[{i}])))\n")
    assert python(KERNELS + "[run(k) for k in kernels]\nprint(json.dumps(counts()))\n")["hits"] == 4


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
    assert python(KERNELS + RACE)["hits"] == 4


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
    assert again["misses"] == 0 and again["result"][0] == first["result"][0]
    module.write_text(MODULE.replace("0.25", "0.75"))  # a constant that the body uses
    constant = python(forward)
    assert constant["hits"] == 0 and constant["result"][0] != first["result"][0]
    module.write_text(MODULE.replace("2 * x", "3 * x").replace("2 * d_u", "3 * d_u"))  # the body
    body = python(forward)
    assert body["hits"] == 0 and body["result"][0] not in (first["result"][0], constant["result"][0])
    module.write_text("# moved down\n\n" + MODULE + "\nUNUSED = 1\n")  # nothing that is computed
    moved = python(USE_MODULE.replace("BACKWARD", "True"))
    assert moved["misses"] == 0 and moved["result"] == first["result"]
    module.write_text(MODULE.replace("LEAK * d_u, 2", "LEAK * d_u, 5"))  # the adjoint alone
    adjoint = python(USE_MODULE.replace("BACKWARD", "True"))
    assert adjoint["hits"] == 1 and adjoint["misses"] == 1


def test_an_edited_part_of_the_loops_never_meets_a_stale_loop(python, tmp_path):
    """Of what a loop is put together from, Numba's cache looks at the file with the loop alone."""
    copy = shutil.copytree(ROOT / "minisnn", tmp_path / "copy" / "minisnn", ignore=shutil.ignore_patterns("__pycache__"))
    program = """
        x = np.ones((2, 1, 3), np.float32)
        print(json.dumps(float(ms.LIF(3, backend="numba", threshold=9.0).forward(x)[1].state["v"].sum())))
    """
    where = {"PYTHONPATH": str(copy.parent)}
    assert python(program, **where) == 4.5
    part = copy / "kernels" / "rows.py"
    text, line = part.read_text(), "        array[at + n] = w[start + n]\n"
    assert text.count(line) == 1
    part.write_text(text.replace(line, line.replace("w[start + n]", "w[start + n] + 1")))
    assert python(program, **where) == 7.5


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
    assert len(python("print(json.dumps(run(ms.neurons.lif)))\n", NUMBA_CACHE_DIR=folder)) == 2


def test_a_damaged_cache_is_no_error(python, tmp_path):
    expected = python(USE := "print(json.dumps(run(ms.neurons.lif)))\n")
    files = [f for f in (tmp_path / "cache").rglob("*.nb?")]
    assert files
    for file in files:
        file.write_bytes(file.read_bytes()[:40] if file.suffix == ".nbi" else b"not what it was")
    assert python(USE) == expected


def test_in_one_process_equal_functions_share_a_loop():
    from minisnn.kernels import compiled

    def make():
        def charge(v, x):
            return 0.4375 * v + x

        return ms.Neuron(charge, lambda d_u, v, x: (0.4375 * d_u, d_u), params=())

    x = np.ones((2, 1, 2), np.float32)
    ms.Spiking(2, neuron=make(), backend="numba").forward(x)
    known = len(compiled._loops)
    ms.Spiking(2, neuron=make(), backend="numba").forward(x)  # a notebook cell run once more
    assert len(compiled._loops) == known
