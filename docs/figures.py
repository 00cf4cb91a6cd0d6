"""The graphs of the derivation pages, drawn as SVG when the documentation is built, for light and for dark pages.

A graph is a list of nodes with their places, and of edges (:mod:`graphs`).  There are two drawings of it.  Forward, an arrow
leads to what is computed.  Backward, every arrow is reversed and labelled with the factor of the gradient; gradients at one
node add up.
"""

import re
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

Point = tuple[float, float]

#: Ink, faint ink, forward arrows, arrows of a spike, backward arrows, fill of cached values, background.
THEMES = {
    "light": {
        "ink": "#1b1f24",
        "faint": "#8a919b",
        "value": "#0072b2",
        "spike": "#d55e00",
        "back": "#007a57",
        "kept": "#e3eef5",
        "page": "#ffffff",
    },
    "dark": {
        "ink": "#e6e8eb",
        "faint": "#8f98a3",
        "value": "#63b8ea",
        "spike": "#ff9d57",
        "back": "#4fd1a5",
        "kept": "#22364a",
        "page": "#131416",
    },
}
DIRECTIONS = ("forward", "backward")
TITLE = 0.25  # inches, above the graph
STYLE = {"svg.fonttype": "path", "svg.hashsalt": "minisnn", "mathtext.fontset": "cm"}


@dataclass(frozen=True)
class Node:
    """A value at a place (inches), or a word without a box (kind "word").

    `name` is mathematics without dollar signs, or plain text for a word.  `back` names its gradient; the default is d_name.
    """

    at: Point
    name: str
    kind: str = "value"  # "value", "spike", "given" (an input, a parameter), "word"
    kept: bool = False  # in the cache
    back: str = ""

    def label(self, direction: str) -> str:
        """The text in the box."""
        if self.kind == "word":
            return self.back if direction == "backward" and self.back else self.name
        if direction == "forward":
            return f"${self.name}$"
        letter, rest = re.fullmatch(r"(.+?)((?:\[.*\])?)", self.name).groups()
        return f"${self.back or f'd_{{{letter}}}{rest}'}$"


@dataclass(frozen=True)
class Edge:
    """An arrow from one node to another; `forward` and `backward` are its labels, with mathematics between dollar signs.

    If `backward` is None, the node at its start is a constant and gets no gradient.
    """

    start: str
    end: str
    forward: str = ""
    backward: str | None = ""
    kind: str = "value"  # "value", "spike", "jump" (dashed: the step, and backward the surrogate)
    side: str = ""  # of the label: above, below, left, right, or two of them, as "below right"
    along: float = 0.5  # position of the label along the arrow
    bend: float = 0.0


@dataclass(frozen=True)
class Graph:
    """Nodes by name, edges between them, the size of the drawing in inches."""

    nodes: dict[str, Node]
    edges: list[Edge] = field(default_factory=list)
    size: Point = (4.4, 3.4)


def drawing(graph: Graph, direction: str, theme: str) -> Figure:
    """One of the two drawings of a graph."""
    colours, back = THEMES[theme], direction == "backward"
    width, height = graph.size
    figure = Figure(figsize=(width, height + TITLE))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height + TITLE))
    axes.axis("off")
    axes.text(0.05, height + TITLE / 2, direction, va="center", fontsize=11, weight="bold", color=colours["ink"])
    texts: dict[str, Text] = {}
    for key, node in graph.nodes.items():
        edge = {"value": colours["value"], "spike": colours["spike"]}.get(node.kind, colours["faint"])
        fill = colours["kept"] if node.kept and not back else colours["page"]
        box = {
            "boxstyle": "round,pad=0.3",
            "facecolor": fill,
            "edgecolor": colours["back"] if back else edge,
            "linewidth": 1.4,
        }
        # a constant has no gradient
        silent = back and all(e.backward is None for e in graph.edges if e.start == key)
        silent &= any(e.start == key for e in graph.edges)
        if silent and node.kind != "word":
            box |= {"edgecolor": colours["faint"], "linestyle": ":"}
        texts[key] = axes.text(
            *node.at,
            node.label("forward" if silent else direction),
            ha="center",
            va="center",
            zorder=3,
            fontsize=10.5 if node.kind == "word" and not (back and node.back) else 13,
            color=colours["faint"] if silent or (node.kind == "word" and not (back and node.back)) else colours["ink"],
            bbox=None if node.kind == "word" else box,
        )
    renderer = figure.canvas.get_renderer()
    for edge in graph.edges:
        if back and edge.backward is None:
            continue
        ends = (edge.end, edge.start) if back else (edge.start, edge.end)
        colour = colours["back"] if back else colours["value" if edge.kind == "value" else "spike"]
        _arrow(axes, *(texts[key] for key in ends), colour, edge, edge.bend if not back else -edge.bend, renderer)
        word = edge.backward if back else edge.forward
        if word:
            _word(axes, graph, edge, word, colour)
    return figure


def _arrow(axes: Any, start: Text, end: Text, colour: str, edge: Edge, bend: float, renderer: Any) -> None:
    def patch(text: Text) -> dict[str, Any]:
        return {"patch": text.get_bbox_patch()} if text.get_bbox_patch() else {}

    look: dict[str, Any] = {"arrowstyle": "-|>", "color": colour, "linewidth": 1.5, "mutation_scale": 12}
    look |= {"shrinkA": 0 if patch(start) else 9, "shrinkB": 1 if patch(end) else 9}
    look |= {"linestyle": "--" if edge.kind == "jump" else "-", "connectionstyle": f"arc3,rad={bend}"}
    for side, text in (("patchA", start), ("patchB", end)):
        if box := patch(text):
            text.get_window_extent(renderer)
            text.update_bbox_position_size(renderer)
            look[side] = box["patch"]
    # above the nodes: a box knows where it is once it has been drawn
    axes.annotate("", end.get_position(), start.get_position(), zorder=4, arrowprops=look)


def _word(axes: Any, graph: Graph, edge: Edge, word: str, colour: str) -> None:
    (x0, y0), (x1, y1) = graph.nodes[edge.start].at, graph.nodes[edge.end].at
    x, y = x0 + edge.along * (x1 - x0), y0 + edge.along * (y1 - y0)
    x, y = x + 0.5 * edge.bend * (y1 - y0), y - 0.5 * edge.bend * (x1 - x0)
    sides = (edge.side or ("above" if abs(x1 - x0) >= abs(y1 - y0) else "right")).split()
    gap = 0.09 if len(sides) == 1 else 0.04
    ha, va = "center", "center"
    if found := {"left", "right"} & set(sides):
        ha, x = ("right", x - gap) if "left" in found else ("left", x + gap)
    if found := {"above", "below"} & set(sides):
        va, y = ("bottom", y + gap) if "above" in found else ("top", y - gap)
    axes.text(x, y, word, ha=ha, va=va, fontsize=10.5, color=colour, zorder=5)


def overlaps(figure: Figure) -> list[tuple[str, str]]:
    """Pairs of overlapping labels, and labels outside the drawing (paired with "edge")."""
    renderer = figure.canvas.get_renderer()
    figure.canvas.draw()
    boxes = []
    for text in figure.axes[0].texts:
        if text.get_text():
            patch = text.get_bbox_patch()
            boxes.append((text.get_text(), (patch or text).get_window_extent(renderer)))
    found = [(a, b) for (a, one), (b, two) in combinations(boxes, 2) if Bbox.intersection(one, two) is not None]
    inside = figure.bbox
    return found + [(a, "edge") for a, box in boxes if box.x0 < 0 or box.y0 < 0 or box.x1 > inside.x1 or box.y1 > inside.y1]


def _plain(text: str) -> str:
    """Mathematics as one reads it aloud."""
    text = re.sub(r"\\(?:mathit|mathsf|mathrm)\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"\\hat\{([^{}]*)\}", r"hat-\1", text)
    text = re.sub(r"\\dfrac\{([^{}]*)\}\{([^{}]*)\}", r"(\1)/(\2) ", text)
    text = text.replace(r"\cdots", "...").replace(r"\vdots", "...").replace(r"\cdot", "times ")
    text = re.sub(r"\\[;,! ]", " ", text)
    return re.sub(r"\s+", " ", re.sub(r"[${}\\]", "", text)).strip()


def description(graph: Graph, direction: str) -> str:
    """The alt text of a drawing: its arrows in words."""
    arrows = []
    for edge in graph.edges:
        word = edge.backward if direction == "backward" else edge.forward
        if word is None:
            continue
        ends = (edge.start, edge.end) if direction == "forward" else (edge.end, edge.start)
        arrow = " to ".join(_plain(graph.nodes[key].label(direction)) for key in ends)
        arrows.append(f"{arrow} ({_plain(word)})" if word else arrow)
    return f"{direction.capitalize()}: " + "; ".join(arrows) + "."


def draw(folder: Path) -> None:
    """Write all graphs to `folder`, in both directions and themes."""
    from graphs import GRAPHS

    folder.mkdir(exist_ok=True)
    with matplotlib.rc_context(STYLE):
        for name, graph in GRAPHS.items():
            for direction in DIRECTIONS:
                for theme in THEMES:
                    path = folder / f"{name}_{direction}_{theme}.svg"
                    drawing(graph, direction, theme).savefig(path, transparent=True, metadata={"Date": None})
