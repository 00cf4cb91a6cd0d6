"""The house: imports go down only, equations and code are tagged alike, importing is light, sizes stay small."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import BUDGETS, line_counts

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "minisnn"

#: Law 6 of docs/design: a module may import from its own floor and from those before it.
FLOORS = [
    {"arguments", "formula", "neurons", "resets", "surrogates", "spikes"},
    {"kernels"},
    {"version", "files", "thresholds"},
    {"layers"},
    {"rules", "losses"},
    {"stack", "network"},
    {"optimizers"},
    {"encode", "data", "models", "checkpoint", "monitor", "train", "plot", "testing"},
    {"checks"},
    {"teach", "bench"},
    {"cli"},
    {"__main__", "__init__"},
]
FLOOR = {name: i for i, floor in enumerate(FLOORS) for name in floor}
#: The six packages of the project's card, tqdm for progress, and what is imported by name from the standard library.
ALLOWED = {
    "numpy",
    "numba",
    "llvmlite",  # comes with numba: requests for memory ahead of its use
    "threadpoolctl",  # one thread for the matrix library while loops have theirs
    "cupy",
    "cupyx",
    "matplotlib",
    "tqdm",
    "pooch",
    "minisnn",
    "sympy",
    "hypothesis",
    *sys.stdlib_module_names,
}

#: The one module that imports Numba as it is imported, which is when a loop has to run.
COMPILER = "jit"


def imports(path):
    """(module, level, at module level?) of every import in a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = set(tree.body)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, 0, node in top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            names = [node.module] if node.module else [alias.name for alias in node.names]
            yield from ((name, node.level, node in top) for name in names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module, 0, node in top


def modules():
    return sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down_only(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    floor = FLOOR[parts[0]]
    for name, level, _ in imports(path):
        if not level:
            assert name.split(".")[0] in ALLOWED, name
            continue
        base = parts[: len(parts) - level + (path.name == "__init__.py" and 0)]
        target = (*base, *name.split("."))[0]
        if path.name == "__init__.py" and len(parts) == 2 and level == 1:
            target = parts[0]
        assert FLOOR[target] <= floor, f"{'/'.join(parts)} imports {target}, which is above it"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_heavy_packages_are_imported_late(path):
    """numba only in the module that compiles, the others inside the functions that need them."""
    for name, level, at_top in imports(path):
        if not level and at_top and name.split(".")[0] in ("cupy", "cupyx", "matplotlib", "tqdm", "numba", "pooch"):
            assert path.parent.name == "kernels" and path.stem == COMPILER and name.split(".")[0] == "numba"


LIGHT = """
import json, os, sys
import numpy
before, environment = set(sys.modules), dict(os.environ)
import minisnn
new = {m.split(".")[0] for m in set(sys.modules) - before}
print(json.dumps([sorted(new - set(sys.stdlib_module_names)), environment == dict(os.environ)]))
"""


def test_importing_brings_numpy_alone_and_changes_no_environment():
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert json.loads(done.stdout) == [["minisnn"], True]


def test_without_numba_the_reference_runs():
    program = (
        "import sys; sys.modules['numba'] = None\n"
        "import numpy as np, minisnn as ms\n"
        "layer = ms.LIF(3); layer.forward(np.ones((2, 1, 3), 'f4')); print(layer.backend)\n"
        "try: ms.LIF(3, backend='numba')\nexcept ImportError as error: print(error)"
    )
    env = {k: v for k, v in os.environ.items() if k != "MINISNN_BACKEND"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, env=env, timeout=60)
    first, second = done.stdout.splitlines()
    assert first == "numpy" and "import of numba halted" in second and "pip install -U numba" in second


def test_names_of_modules_are_public_and_exist():
    import minisnn as ms

    for name in {*ms.__all__, *ms.layers.LAYERS}:
        assert name in ms.__all__ and getattr(ms, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'chekcs'"):
        _ = ms.chekcs


# -- how far it is from a layer to its compiled loop

#: Python calls and files from ``LIF.forward`` to the loop.  Lower them; 12 calls in 5 files are the aim.
CALLS, FILES = 18, 8


def test_few_calls_lie_between_a_layer_and_its_compiled_loop():
    pytest.importorskip("numba")
    import numpy as np

    import minisnn as ms

    layer, x = ms.LIF(128, backend="numba"), np.ones((25, 64, 128), "f4")
    layer.forward(x)  # compiles
    called = []

    def note(frame, event, arg):
        code, done = frame.f_code, called and called[-1] == ("kernels/jit.py", "__call__")
        path = Path(code.co_filename)
        if event == "call" and not done and path.is_relative_to(PACKAGE) and code.co_name != "<genexpr>":
            called.append((path.relative_to(PACKAGE).as_posix(), code.co_name))

    sys.setprofile(note)
    try:
        layer.forward(x)
    finally:
        sys.setprofile(None)
    assert called[0] == ("layers/spiking.py", "forward") and called[-1] == ("kernels/jit.py", "__call__")
    assert len(called) <= CALLS and len({path for path, _ in called}) <= FILES, called
    assert len([path for path, _ in called if path.startswith("layers/")]) <= 5


# -- equations

TAG = re.compile(r"\((\w+\.\d+)\)")
LABEL = re.compile(r":label: (\w+\.\d+)")
TEXT_ONLY = re.compile(r"^\.\. text only: (.+)$", re.MULTILINE)


def test_tags_in_the_code_and_labels_on_the_pages_are_one_to_one():
    pages = {p: p.read_text(encoding="utf-8") for p in (ROOT / "docs/derivations").glob("*.rst")}
    labels = [label for text in pages.values() for label in LABEL.findall(text)]
    assert labels and len(labels) == len(set(labels)), "a label stands twice"
    for page, text in pages.items():
        assert all(label.startswith(page.stem + ".") for label in LABEL.findall(text))
    only_text = {label for text in pages.values() for line in TEXT_ONLY.findall(text) for label in line.split()}
    comments = [line.partition("#")[2] for path in modules() for line in path.read_text(encoding="utf-8").splitlines()]
    tags = {tag for comment in comments for tag in TAG.findall(comment)}
    assert tags - set(labels) == set(), "tags without an equation"
    assert set(labels) - tags - only_text == set(), "equations that no code is tagged with"


# -- sizes

#: Two builders of the compiled loop have a few lines of code more than 40: a part of their own would count references.
LONG = {"forward_steps": 42, "back_steps": 46}


def test_rooms_stay_within_their_budgets():
    for room, (lines, budget) in line_counts().items():
        assert 0 < lines <= budget, room


def test_every_file_belongs_to_a_room():
    rooms = [f for patterns, _ in BUDGETS.values() for pattern in patterns for f in PACKAGE.glob(pattern)]
    assert sorted(rooms) == modules()


def code_lines(function, lines):
    """Lines of a function that are not blank, comment or docstring; nested functions count with it."""
    body = function.body
    if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        body = body[1:]
    own = lines[body[0].lineno - 1 : function.end_lineno] if body else []
    return sum(bool(x.strip()) and not x.strip().startswith("#") for x in own)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_and_functions_stay_short(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 300
    for node in ast.walk(ast.parse("\n".join(lines))):
        if isinstance(node, ast.FunctionDef) and node.body:
            assert code_lines(node, lines) <= LONG.get(node.name, 40), node.name


def imported_files(path):
    """Files of the package that a file imports from, at the top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            for name in (alias.name for alias in node.names):
                places = base / f"{name}.py", base / name / "__init__.py", base.with_suffix(".py"), base / "__init__.py"
                yield next(place for place in places if place.exists())


def test_no_file_imports_in_a_circle():
    """Inside rooms too, and imports inside functions count."""
    left = {p: set(imported_files(p)) - {p} for p in modules()}
    while free := {p for p, needs in left.items() if not needs & set(left)}:
        left = {p: needs for p, needs in left.items() if p not in free}
    assert not left, f"a circle among {sorted(str(p.relative_to(PACKAGE)) for p in left)}"
