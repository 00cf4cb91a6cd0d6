"""The pages: the parts of derivations, what they include from the source, what they print.  No Sphinx needed."""

import ast
import contextlib
import io
import re
import sys
import textwrap
from itertools import pairwise
from pathlib import Path

import pytest

import minisnn as ms

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "docs"))
DOCS = sorted(p for p in (ROOT / "docs").rglob("*.rst") if "_build" not in p.parts)
PAGES = sorted(p for p in (ROOT / "docs/derivations").glob("*.rst") if p.stem != "index")
#: How-to pages whose programs print: each is followed by what it prints.
PRINTING = (
    "add_a_neuron add_a_surrogate add_a_layer check_a_gradient long_sequences reproduce_the_paper teach_a_course".split()
)
HOW_TO = [ROOT / f"docs/how_to/{name}.rst" for name in PRINTING]
pages = pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)

TITLE = re.compile(r"^(\S.*)\n([-=~^])\2{2,}$", re.MULTILINE)
INCLUDE = re.compile(r"^\.\. literalinclude:: (\S+)\n((?:   :.*\n)*)", re.MULTILINE)
BLOCK = re.compile(r"^\.\. code-block:: (python|text)\n\n((?:   .*\n|\n)+)", re.MULTILINE)
NUMBER = re.compile(r"-?\d+(?:\.\d*)?(?:e[+-]\d+)?")


def sections(text):
    """[(title, body)] of a page, the text before the first section under the page's own title."""
    titles = list(TITLE.finditer(text))
    ends = [t.start() for t in titles[1:]] + [len(text)]
    return [(t[1], text[t.end() : end]) for t, end in zip(titles, ends, strict=True)]


def definitions(path):
    """Dotted names of all functions and classes of a file: what `:pyobject:` may name."""

    def walk(body, prefix):
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                yield prefix + node.name
                yield from walk(node.body, prefix + node.name + ".")

    return set(walk(ast.parse(path.read_text(encoding="utf-8")).body, ""))


@pytest.mark.parametrize("page", DOCS, ids=lambda p: p.stem)
def test_what_a_page_includes_exists(page):
    text = page.read_text(encoding="utf-8")
    assert text.count(".. literalinclude::") == len(INCLUDE.findall(text))
    for name, lines in INCLUDE.findall(text):
        path = (page.parent / name).resolve()
        assert path.is_file() and ROOT in path.parents, name
        for option, value in re.findall(r":([\w-]+): *(.*)", lines):
            if option == "pyobject":
                assert value in definitions(path), f"{name} has no {value}"
            elif option in ("start-at", "start-after", "end-before", "end-at"):
                assert value in path.read_text(encoding="utf-8"), f"{name} has no line with {value!r}"


@pages
def test_a_page_has_a_forward_a_backward_the_code_and_a_check(page):
    parts = sections(page.read_text(encoding="utf-8"))
    titles = [title for title, _ in parts]
    bodies = dict(parts)
    forward = next(i for i, t in enumerate(titles) if t == "The step" or t.startswith("Forward"))
    backward = next(i for i, t in enumerate(titles) if "backward" in t.lower())
    code, check = titles.index("The code"), titles.index("The check")
    assert forward < backward < code < check
    assert ":label:" in bodies[titles[forward]] and ":label:" in bodies[titles[backward]]
    assert ".. literalinclude::" in bodies["The code"] and "ms.checks." in bodies["The check"]
    assert ".. code-block:: text" in bodies["The check"] and "What is cached" in titles
    assert re.search(r"^Sources?: ", parts[-1][1], re.MULTILINE), "the source of the formulas stands at the end"


@pages
def test_references_to_equations_and_pages_resolve(page):
    text = page.read_text(encoding="utf-8")
    labels = {label for p in PAGES for label in re.findall(r":label: (\S+)", p.read_text(encoding="utf-8"))}
    assert set(re.findall(r":eq:`([^`]+)`", text)) <= labels
    names = {re.sub(r".*<(.+)>$", r"\1", name) for name in re.findall(r":doc:`([^`]+)`", text)}
    assert {name for name in names if not name.startswith("/")} <= {p.stem for p in PAGES}


@pages
def test_a_page_has_a_graph_that_is_drawn(page):
    graphs = pytest.importorskip("graphs", reason="matplotlib")
    names = re.findall(r"^\.\. graph:: (\w+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert page.stem in names and set(names) <= set(graphs.GRAPHS)


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_labels_of_graphs_stand_apart(direction):
    """No label on another one, none outside; and every arrow is told to those who do not see it."""
    figures, graphs = pytest.importorskip("figures", reason="matplotlib"), pytest.importorskip("graphs")
    with figures.matplotlib.rc_context(figures.STYLE):
        for name, graph in graphs.GRAPHS.items():
            assert not figures.overlaps(figures.drawing(graph, direction, "light")), name
            text = figures.description(graph, direction)
            arrows = [e for e in graph.edges if direction == "forward" or e.backward is not None]
            assert text.count(" to ") == len(arrows) and not set(text) & set("\\${}"), text


def test_a_label_on_another_is_seen():
    figures = pytest.importorskip("figures", reason="matplotlib")
    graph = figures.Graph({n: figures.Node((x, 1.0), "u[t]") for n, x in (("a", 1.0), ("b", 1.2), ("c", 4.4))})
    found = figures.overlaps(figures.drawing(graph, "forward", "light"))
    assert ("$u[t]$", "$u[t]$") in found and ("$u[t]$", "edge") in found


def test_every_page_stands_in_a_table_of_contents():
    for folder in ("derivations", "reference"):  # that of how_to takes all there are
        index = (ROOT / f"docs/{folder}/index.rst").read_text(encoding="utf-8")
        assert {p.stem for p in (ROOT / f"docs/{folder}").glob("*.rst")} - set(re.findall(r"^   (\w+)$", index, re.M)) == {
            "index"
        }


def test_the_reading_path_is_short():
    """The whole engine in at most 400 lines, those that are blank not counted."""
    page = ROOT / "docs/reading_path.rst"
    lines = 0
    for name, options in INCLUDE.findall(page.read_text(encoding="utf-8")):
        wanted, tree = re.search(r":pyobject: (\S+)", options)[1], (page.parent / name).read_text(encoding="utf-8")
        body = ast.parse(tree).body
        for part in wanted.split("."):
            node = next(n for n in body if getattr(n, "name", None) == part)
            body = node.body
        lines += sum(bool(line.strip()) for line in tree.splitlines()[node.lineno - 1 : node.end_lineno])
    print(f"reading path: {lines} lines")
    assert 250 < lines <= 400


@pytest.mark.parametrize(
    "name", [*ms.neurons.NEURONS, *ms.resets.RESETS, *ms.surrogates.SURROGATES, *ms.losses.LOSSES, "FiringRate", "Silence"]
)
def test_every_ingredient_is_named_on_a_page(name):
    word = re.compile(rf"(?<![\w.]){name}(?!\w)")
    assert any(word.search(text.lower() if name == "lif" else text) for text in (p.read_text("utf-8") for p in PAGES))


@pytest.mark.parametrize("page", [*PAGES, *HOW_TO], ids=lambda p: p.stem)
def test_a_page_prints_what_it_says(page, monkeypatch, tmp_path):
    """On the reference backend, which compiles nothing; numbers to rounding."""
    monkeypatch.chdir(tmp_path)  # a page may save a file
    monkeypatch.setenv("MINISNN_BACKEND", "numpy")
    blocks = [(kind, textwrap.dedent(body).strip()) for kind, body in BLOCK.findall(page.read_text(encoding="utf-8"))]
    assert not any(one == two == "text" for (one, _), (two, _) in pairwise([("text", ""), *blocks]))
    names = {"__name__": "__main__"}  # programs of one page go on from each other; what has no text after it prints nothing
    for (kind, program), (after, wanted) in pairwise([*blocks, ("python", "")]):
        if kind == "text":
            continue
        wanted = wanted if after == "text" else ""
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(program, page.name, "exec"), names)
        found, wanted = (text.replace("on numba", "on numpy") for text in (printed.getvalue(), wanted))
        assert NUMBER.sub("#", found).split() == NUMBER.sub("#", wanted).split()
        numbers = [[float(n) for n in NUMBER.findall(text)] for text in (found, wanted)]
        assert numbers[0] == pytest.approx(numbers[1], rel=1e-5, abs=1e-9)
