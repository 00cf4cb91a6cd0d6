"""Settings of the documentation: ``python -m sphinx -W -b html docs docs/_build/html`` builds it, without a network.

``NO_LESSONS=1`` in the environment shows the lessons without running them, for a quick build of the other pages.
"""

import ast
import importlib.util
import os
import re
import sys
import textwrap
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.domains.math import MathDomain
from sphinx.errors import ExtensionError
from sphinx.util import inspect

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]
os.environ["MINISNN_FAST"] = "1"  # the build runs lessons in their short mode
os.environ.setdefault("MPLBACKEND", "Agg")

import figures  # noqa: E402
from graphs import GRAPHS  # noqa: E402

import minisnn  # noqa: E402

project = "minisnn"
author = "the minisnn authors"
copyright = "the minisnn authors. Code: MIT licence; text: CC BY 4.0"
version = release = minisnn.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "tutorials/GALLERY_HEADER.rst"]
default_role = None
suppress_warnings = ["config.cache"]  # the gallery's settings hold functions

# -- lessons

sphinx_gallery_conf = {
    "examples_dirs": ["../tutorials"],
    "gallery_dirs": ["tutorials"],
    "filename_pattern": r"[/\\]\d\d_",
    "within_subsection_order": "FileNameSortKey",
    "plot_gallery": not os.environ.get("NO_LESSONS"),
    "abort_on_example_error": True,
    "remove_config_comments": True,
    "download_all_examples": False,
    "show_signature": False,
    "show_memory": False,
    "min_reported_time": 1e9,
    "write_computation_times": False,
}

# -- the reference

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_type_aliases = {"Array": "Array", "Names": "Names", "Pattern": "Pattern", "Loss": "Loss", "Grads": "Grads"}
autodoc_preserve_defaults = True
napoleon_google_docstring = False
napoleon_custom_sections = [("Returns", "params_style")]
maximum_signature_line_length = 88
add_module_names = False
toc_object_entries_show_parents = "hide"

# -- mathematics: MathJax from a pip package, without a network; the browser renders formulas as SVG

_package = importlib.util.find_spec("sphinx-mathjax-offline")
if _package is None:
    raise ExtensionError("MathJax is missing: pip install '.[docs]'")
_mathjax = Path(_package.origin).parent / "static/mathjax/tex-svg-full.js"

mathjax_path = _mathjax.name
mathjax3_config = {"svg": {"fontCache": "local"}, "options": {"enableMenu": False}}

# -- look

html_theme = "furo"
html_title = "minisnn"
html_static_path = ["_static", str(_mathjax)]
html_css_files = ["minisnn.css"]
html_show_sphinx = False
html_copy_source = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b6e99", "color-brand-content": "#0b6e99"},
    "dark_css_variables": {"color-brand-primary": "#6cc5e8", "color-brand-content": "#6cc5e8"},
    "navigation_with_keys": True,
}
pygments_style = "tango"
pygments_dark_style = "native"


inspect.TypeAliasForwardRef.__repr__ = lambda alias: alias.name  # inside another type: list[Array], as in the source


class TaggedEquations(MathDomain):
    """Equations are numbered by their tags: ``(lif.4)`` on the page, in a reference to it, and in the code."""

    def note_equation(self, docname, labelid, location=None):
        """As in the base, with the label for a number."""
        super().note_equation(docname, labelid, location)
        self.equations[labelid] = (docname, labelid)


class DrawnGraph(Directive):
    """``.. graph:: name``: both drawings of a graph in ``graphs.py``, for light and dark pages, and a caption."""

    required_arguments, has_content = 1, True

    def run(self):
        """Make the figure; its alt text comes from the same description."""
        name = self.arguments[0]
        if name not in GRAPHS:
            raise self.error(f"no graph {name!r}; there are {', '.join(GRAPHS)}")
        figure = nodes.figure(classes=["graph"])
        for direction in figures.DIRECTIONS:
            for theme in figures.THEMES:
                uri, alt = f"/figures/{name}_{direction}_{theme}.svg", figures.description(GRAPHS[name], direction)
                figure += nodes.image(uri=uri, alt=alt, classes=[f"only-{theme}"])
        caption = nodes.Element()
        self.state.nested_parse(self.content, self.content_offset, caption)
        if caption.children:
            figure += nodes.caption("", "", *caption[0].children)
        return [figure]


# -- docstrings say "name : what it is" on one line, or several of them separated by three spaces; napoleon would read the
# -- description as a type

SECTION = re.compile(r"^\s*(Parameters|Returns|Raises|Attributes)$")
ENTRY = re.compile(r"^(\s*)((?:\*{0,2}\w+(?:, )?)+) : (\S.*)$")


def spread_entries(app, what, name, obj, options, lines):
    """Move the description after ``name :`` to a line of its own, in the sections that have such entries."""
    if what in ("attribute", "data", "property"):  # "What it is: more" is a sentence, not a type
        lines[0] = lines[0].replace(": ", " -- ", 1)
    found, margin = [], None
    for i, line in enumerate(lines):
        if SECTION.match(line) and i + 1 < len(lines) and set(lines[i + 1].strip()) == {"-"}:
            margin = len(line) - len(line.lstrip())
        elif line.strip() and margin is not None and i + 1 < len(lines) and set(lines[i + 1].strip()) == {"-"}:
            margin = None
        parts = re.split(r"\s{3}(?=\S+ : )", line.rstrip()) if margin is not None and line.strip() else [line]
        for j, part in enumerate(parts):
            entry = ENTRY.match(" " * margin + part.lstrip() if j else part) if margin is not None else None
            if entry and len(entry[1]) == margin:
                found += [entry[1] + entry[2], f"{entry[1]}    {entry[3]}"]
            else:
                found.append(part)
    lines[:] = found


def skip_fields(app, what, name, obj, skip, options):
    """Fields of named tuples, which their class's docstring explains."""
    return True if (getattr(obj, "__doc__", None) or "").startswith("Alias for field number") else None


def tidy_blocks(app, doctree):
    """Dedent methods from the source; highlight literal blocks only if they are Python."""
    for block in doctree.findall(nodes.literal_block):
        if block.get("source", "").endswith(".py"):
            block.rawsource = textwrap.dedent(block.astext())
            block[:] = [nodes.Text(block.rawsource)]
        elif "language" not in block:
            try:
                ast.parse(block.astext())
            except SyntaxError:
                block["language"] = "text"


def setup(app):
    """Draw the figures, number equations by their tags, and read this project's docstrings."""
    figures.draw(HERE / "figures")
    app.add_directive("graph", DrawnGraph)
    app.add_domain(TaggedEquations, override=True)
    app.connect("autodoc-process-docstring", spread_entries, priority=100)
    app.connect("autodoc-skip-member", skip_fields)
    app.connect("doctree-read", tidy_blocks)
