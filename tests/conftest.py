"""Profiles, fixtures and the table of line counts.  The grid that contract tests run over stands in grid.py."""

import os
from pathlib import Path

# Before NumPy is loaded: workers that each have threads of the matrix library for all CPUs wait for each other, ten times slower.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import hypothesis
import pytest

from minisnn.kernels import ON_CPU, backend_problem

MARKS = {
    "lesson": "runs a tutorial",
    "paper": "compares with the authors' network",
    "cudatext": "compiles the CUDA text, needs no GPU",
    "gpu": "needs a GPU",
    "docs": "builds the documentation",
    "long": "the full grid, on demand: pytest -m long --hypothesis-profile=long",
}

hypothesis.settings.register_profile("ci", derandomize=True, deadline=None, max_examples=25)
hypothesis.settings.register_profile("long", deadline=None, max_examples=1000, print_blob=True)
hypothesis.settings.load_profile("ci")

#: Rooms of the house (DESIGN 1) and how many lines of code each may have.
BUDGETS = {
    # The trace of a formula, which stood in kernels/ three times over, and the ways to fire, which stood there as well.
    "floor 0": (["neurons.py", "resets.py", "surrogates.py", "formula.py", "spikes.py"], 390),
    "kernels": (
        [f"kernels/{n}.py" for n in "__init__ contract reference compiled loops lanes jit threads memory products".split()],
        930,
    ),
    # What Numba does for layers without a state: spikes added up, convolution, normalisation, pooling, Adam.
    "kernels: layers": ([f"kernels/{n}.py" for n in "spike_matmul conv batchnorm maxpool normal adam".split()], 490),
    # The loop, finding out what a machine lacks, and where arrays are.
    "kernels: GPU": ([f"kernels/{n}.py" for n in "cuda gpu_info arrays".split()], 260),
    # 30 of them for arrays on a GPU.
    "layers to optimizers": (["layers/*.py", "network.py", "loading.py", "losses.py", "optimizers.py"], 1730),
    "everything above": (
        [
            "encode.py",
            "data/*.py",
            "train.py",
            "health.py",
            "plot.py",
            "cli.py",
            "jobs.py",
            "files.py",
            "thresholds.py",
            "checkpoint.py",
            "models.py",
            "version.py",
            "__init__.py",
            "__main__.py",
        ],
        1500,
    ),
    "bench": (["bench/*.py"], 830),  # 120 of them for a GPU
    # Verdicts are what must be right; explanations and tools were budgeted with them at 1,000 and outgrew it (issue 4).
    "checks": (
        [
            f"checks/{n}.py"
            for n in "__init__ adjoint compared differences functions gradients guard loop problem report scan step truth twins".split()
        ],
        1400,
    ),
    "checks: explanations": (
        [f"checks/{n}.py" for n in "algebra faults formulas mistakes monomials transforms".split()],
        830,
    ),
    "checks: tools": ([f"checks/{n}.py" for n in "command comparison figures proof strategies".split()], 490),
}


def pytest_configure(config):
    for name, text in MARKS.items():
        config.addinivalue_line("markers", f"{name}: {text}")
    if not config.option.markexpr:  # plain pytest is the core
        config.option.markexpr = " and ".join(f"not {name}" for name in MARKS)
    if not hasattr(config, "workerinput"):
        _share_out(config)


# -- a run of the whole suite is shared out among the CPUs, where pytest-xdist is installed (the extra "test" has it); a run of
# -- named files is not.  Workers compile into one disk cache.


def _share_out(config):
    whole = not config.option.file_or_dir and not config.option.collectonly
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if whole and cpus > 1 and config.pluginmanager.hasplugin("xdist") and config.option.numprocesses is None:
        config.option.tx = ["popen"] * min(cpus, 4)
        config.option.dist = "worksteal"


@pytest.fixture(params=ON_CPU)
def backend(request):
    if problem := backend_problem(request.param):
        pytest.skip(f"backend {request.param}: {problem}")
    return request.param


def line_counts():
    """Lines that are not blank, comment or docstring, by room: ``{room: (lines, budget)}``."""
    package = Path(__file__).parent.parent / "minisnn"
    counts = {}
    for room, (patterns, budget) in BUDGETS.items():
        files = [f for pattern in patterns for f in package.glob(pattern)]
        counts[room] = sum(code_lines(f) for f in files), budget
    return counts


def code_lines(path):
    import ast

    source = path.read_text(encoding="utf-8")
    text = set()
    for node in ast.walk(ast.parse(source)):
        body = getattr(node, "body", None)
        first = body[0] if isinstance(body, list) and body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            text |= set(range(first.lineno, first.end_lineno + 1))
    lines = source.splitlines()
    return sum(bool(x.strip()) and not x.strip().startswith("#") and i not in text for i, x in enumerate(lines, 1))


def pytest_terminal_summary(terminalreporter):
    terminalreporter.section("lines of code (without comments, docstrings and blank lines)")
    for room, (lines, budget) in line_counts().items():
        terminalreporter.write_line(f"{room:<22} {lines:5} of about {budget}")
