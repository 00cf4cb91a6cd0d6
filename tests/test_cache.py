"""Compiled loops between processes: Numba's cache finds what was compiled, and what was edited never meets old code."""

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
pytestmark = pytest.mark.process

ROOT = Path(__file__).parent.parent

RUN = """
import json, sys
import numpy as np
import minisnn as ms

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
    from minisnn.kernels.jit import ALL
    stats = [code.stats for loop in ALL for code in loop.compiled.values()]
    return {name: sum(sum(getattr(s, f"cache_{name}").values()) for s in stats) for name in ("hits", "misses")}
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


def test_a_second_process_finds_everything(python):
    """Helpers of every kind: a net of convolution, normalisation, pooling, sparse products, and Adam."""
    program = """
        rng = np.random.default_rng(0)
        net = ms.models.conv_net((1, 8, 8), (4,), (8,), 3, rng=rng, dropout=0.2).using("numba")
        x, y = rng.random((4, 40, 1, 8, 8)) < 0.1, np.arange(40) % 3
        ms.optimizers.Adam(net).step(net.loss_and_grads(x, y, ms.losses.mse, rng=rng, train=True)[1])
        run(ms.neurons.current_lif, ms.resets.soft, decay_syn=0.5)
        print(json.dumps(counts()))
    """
    first, second = python(program), python(program)
    assert first["hits"] == 0 and first["misses"] > 5 and second == {"hits": first["misses"], "misses": 0}


KERNELS = """
numbers = [0.125, 0.25]
kernels = [(ms.Neuron(eval(f"lambda v, x: {k} * v + x"), eval(f"lambda d_u, v, x: ({k} * d_u, d_u)"), params=()))
           for k in numbers]
"""


RACE = """
import subprocess
if len(sys.argv) == 1:
    children = [subprocess.Popen([sys.executable, __file__, str(i)]) for i in range(2)]
    assert [child.wait() for child in children] == [0] * 2
for i in range(2):
    run(kernels[(i + int((sys.argv + ["0"])[1])) % 2])
print(json.dumps(counts()))
"""


def test_processes_that_compile_at_once_do_not_mix_up_their_loops_nor_in_a_third(python):
    """Numba links machine code by name: two processes give the same names to different functions."""
    python(KERNELS + RACE)
    assert python(KERNELS + "[run(k) for k in kernels]\nprint(json.dumps(counts()))\n") == {"hits": 4, "misses": 0}


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
    forward, both = (USE_MODULE.replace("BACKWARD", str(backward)) for backward in (False, True))
    first = python(both)
    module.write_text(MODULE.replace("0.25", "0.75"))  # a constant that the body uses
    constant = python(forward)
    module.write_text(MODULE.replace("2 * x", "3 * x").replace("2 * d_u", "3 * d_u"))  # the body
    body = python(forward)
    assert constant["hits"] == body["hits"] == 0
    assert len({run["result"][0] for run in (first, constant, body)}) == 3
    module.write_text("# moved down\n\n" + MODULE + "\nUNUSED = 1\n")  # nothing that is computed
    moved = python(both)
    assert moved["misses"] == 0 and moved["result"] == first["result"]


def test_an_edited_part_of_the_loops_never_meets_a_stale_loop(python, tmp_path):
    """Numba's cache looks at the file of the loop alone; what is compiled into it stands in others."""
    copy = shutil.copytree(ROOT / "minisnn", tmp_path / "copy" / "minisnn", ignore=shutil.ignore_patterns("__pycache__"))
    program = """
        layer = ms.LIF(3, backend="numba", threshold=9.0)
        print(json.dumps(float(layer.forward(np.ones((2, 1, 3), np.float32))[0].sum())))
    """
    where = {"PYTHONPATH": str(copy.parent)}
    assert python(program, **where) == 0
    part = copy / "spikes.py"
    text, line = part.read_text(), "return u >= theta"
    assert text.count(line) == 1
    part.write_text(text.replace(line, "return u <  theta"))  # of the same size, and perhaps in the same second
    assert python(program, **where) == 6


def test_without_numba_the_reference_runs(python):
    found = python("""
        sys.modules["numba"] = None
        from minisnn.kernels import backend_problem
        print(json.dumps([ms.LIF(3).backend, backend_problem("numba")]))
    """)
    assert found[0] == "numpy" and "numba" in found[1]


def test_a_neuron_typed_at_the_prompt_works(python):
    found = python(
        "",
        stdin=RUN.replace("\n\n", "\n").replace("def counts", "\ndef counts")
        + "\ncharge = lambda v, x: 0.5 * v + x\nadjoint = lambda d_u, v, x: (0.5 * d_u, d_u)\n"
        "print(json.dumps(run(ms.Neuron(charge, adjoint, params=()))))\n",
    )
    assert len(found) == 2


def test_without_a_home_and_in_a_folder_that_cannot_be_written_nothing_is_kept(python, tmp_path):
    copy = shutil.copytree(ROOT / "minisnn", tmp_path / "copy" / "minisnn", ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "kernels" / "__pycache__").write_text("a file, where Numba would make a folder")
    where = dict.fromkeys(("NUMBA_CACHE_DIR", "HOME", "XDG_CACHE_HOME"), "/dev/null/cache")
    for _ in range(2):
        found = python(
            "print(json.dumps([run(ms.neurons.lif, backward=False), counts()]))\n", **where, PYTHONPATH=str(copy.parent)
        )
        assert found[1]["hits"] == 0


def test_a_damaged_cache_is_no_error(python, tmp_path):
    program = (
        "print(json.dumps([run(ms.neurons.lif, ms.resets.none, backward=False), run(ms.neurons.lif, backward=False)]))\n"
    )
    expected = python(program)
    files = [f for f in (tmp_path / "cache").rglob("*") if f.suffix in (".nbi", ".nbc")]
    assert len(files) == 4
    for file, damage in zip(files, (b"", b"not what it was", files[2].read_bytes()[:100], b"?"), strict=True):
        file.write_bytes(damage)
    assert python(program) == expected


def test_in_one_process_equal_functions_share_a_loop():
    from minisnn.kernels.jit import ALL

    def make():
        def charge(v, x):
            return 0.4375 * v + x

        return ms.Neuron(charge, lambda d_u, v, x: (0.4375 * d_u, d_u), params=())

    x = np.ones((2, 1, 2), np.float32)
    ms.Spiking(2, neuron=make(), backend="numba").forward(x)
    known = len(ALL)
    ms.Spiking(2, neuron=make(), backend="numba").forward(x)  # a notebook cell run once more
    assert len(ALL) == known
