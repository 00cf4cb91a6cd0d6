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
    "process": "starts processes: caches on disk, exits, forks and interrupts",
    "gpu": "needs a GPU",
    "docs": "builds the documentation",
    "long": "the full grid, on demand: pytest -m long --hypothesis-profile=long",
}

hypothesis.settings.register_profile("ci", derandomize=True, deadline=None, max_examples=25)
hypothesis.settings.register_profile("long", deadline=None, max_examples=1000, print_blob=True)
hypothesis.settings.load_profile("ci")

#: Rooms of the house and how many lines each may have, docstrings included: lowered freely, never raised.
BUDGETS = {
    "arguments": (["arguments.py"], 141),
    "maths": (["formula.py", "neurons.py", "resets.py", "surrogates.py", "spikes.py"], 749),
    "kernels": (["kernels/*.py"], 2490),
    "layers": (["layers/*.py", "thresholds.py"], 1812),
    "network": (["network.py", "stack.py", "rules.py", "losses.py", "optimizers.py", "files.py"], 1171),
    "use and data": (
        [f"{n}.py" for n in "encode models train monitor checkpoint plot testing version __init__ __main__".split()]
        + ["data/*.py"],
        2169,
    ),
    "checks": (["checks/*.py"], 3567),
    "bench": (["bench/*.py"], 319),
    "cli": (["cli/*.py"], 510),
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
    """Lines of each room: ``{room: (lines, budget)}``."""
    package = Path(__file__).parent.parent / "minisnn"
    counts = {}
    for room, (patterns, budget) in BUDGETS.items():
        files = [f for pattern in patterns for f in package.glob(pattern)]
        counts[room] = sum(len(f.read_text(encoding="utf-8").splitlines()) for f in files), budget
    return counts


def pytest_terminal_summary(terminalreporter):
    terminalreporter.section("lines of the package")
    counts = line_counts() | {"whole": tuple(map(sum, zip(*line_counts().values(), strict=True)))}
    for room, (lines, budget) in counts.items():
        terminalreporter.write_line(f"{room:<10} {lines:6,} of {budget:6,}")
