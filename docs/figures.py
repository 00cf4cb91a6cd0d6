"""Figures that are drawn by code when the documentation is built: SVG, once for a light page and once for a dark one."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib.figure import Figure
from matplotlib.text import Text

Point = tuple[float, float]

#: Ink, faint ink, paths of the forward run, the surrogate's path; the background is the page's.
THEMES = {
    "light": {"ink": "#1b1f24", "faint": "#8a919b", "along": "#0072b2", "spike": "#d55e00", "page": "#ffffff"},
    "dark": {"ink": "#e6e8eb", "faint": "#8f98a3", "along": "#63b8ea", "spike": "#ff9d57", "page": "#131416"},
}


def lif_graph(theme: str, steps: int = 3) -> Figure:
    """What depends on what in a LIF neuron, over a few steps.  Going backward, a gradient takes every arrow in reverse."""
    colours = THEMES[theme]
    along, spike = colours["along"], colours["spike"]
    figure = Figure(figsize=(8.4, 3.8))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-1.55, 4.2 * steps - 1.05), ylim=(-2.75, 3.15))
    axes.axis("off")

    def node(x: float, y: float, letter: str, t: int, colour: str) -> Text:
        name = f"${letter}[t{t:+d}]$" if t else f"${letter}[t]$"
        box = {"boxstyle": "round,pad=0.35", "facecolor": colours["page"], "edgecolor": colour, "linewidth": 1.4}
        return axes.text(x, y, name, ha="center", va="center", fontsize=13, color=colours["ink"], zorder=3, bbox=box)

    def arrow(start: Text | Point, end: Text | Point, colour: str, **style: Any) -> None:
        ends = [one.get_position() if isinstance(one, Text) else one for one in (start, end)]
        patches = {p: one.get_bbox_patch() for p, one in (("patchA", start), ("patchB", end)) if isinstance(one, Text)}
        look = {"arrowstyle": "-|>", "color": colour, "linewidth": 1.6, "shrinkA": 0, "shrinkB": 1, "mutation_scale": 13}
        # above the nodes: a box knows where it is once it has been drawn
        axes.annotate("", ends[1], ends[0], zorder=4, arrowprops=look | patches | style)

    def word(x: float, y: float, text: str, colour: str) -> None:
        axes.text(x, y, text, ha="center", va="center", fontsize=11, color=colour)

    carried: Text | Point = (-1.5, 1.0)
    for t in range(steps):
        at = 4.2 * t
        x = node(at, 2.7, "x", t, colours["faint"])
        u, s, v = node(at, 1.0, "u", t, along), node(at, -0.8, "s", t, spike), node(at + 2.1, 1.0, "v", t, along)
        arrow(carried, u, along)
        word(at - 1.05, 1.3, "decay", along)
        arrow(x, u, along)
        arrow(u, s, spike, linestyle="--")
        word(at - 0.72, 0.1, r"$H(u - \theta)$", spike)
        arrow(u, v, along)
        word(at + 1.02, 1.3, r"$1 - s$", along)
        arrow(s, v, spike)
        word(at + 1.5, -0.15, "reset", spike)
        arrow(s, (at, -2.2), spike)
        word(at, -2.5, "layer above", spike)
        carried = v
    arrow(carried, (4.2 * steps - 1.1, 1.0), along)
    return figure


def draw(folder: Path) -> None:
    """Write all figures to `folder`, for both kinds of page."""
    folder.mkdir(exist_ok=True)
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": "minisnn", "mathtext.fontset": "cm"}):
        for theme in THEMES:
            lif_graph(theme).savefig(folder / f"lif_graph_{theme}.svg", transparent=True, metadata={"Date": None})
