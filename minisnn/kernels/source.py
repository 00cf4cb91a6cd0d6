"""The sources of functions, spelled out for a GPU.

``cupyx.jit`` reads the *source* of a function, and it reads less of Python than floor 0 and the loops around it use.  So
they are spelled out for it first, into text that has the same meaning:

- What is known before the kernel runs is computed: ``a if known else b``, ``if known:``, and the numbers of a floor-0
  function, which then get the net's dtype.  (By itself ``cupyx.jit`` makes ``tau = 0.1`` a float32, in float64 nets too.)
- What is done for each state or parameter is written out: ``f(*(a[i] for i in range(n)))`` becomes ``f(a[0], a[1])``.
- Names that mean something to C++ are replaced.

The source is the function's own: it is compiled again and must give the instructions that the function has.  A file
edited since it was imported, which would bring another formula to the GPU, is found by that.
"""

from __future__ import annotations

import ast
import copy
import dis
import inspect
import linecache
import types
from functools import lru_cache
from operator import attrgetter
from typing import Any

import numpy as np

from ..grammar import GrammarError, numbers_of
from .disk import digest
from .narrow import computes

__all__ = ["source_of", "spelled_out"]

Function = Any  # a plain Python function

#: Names that a formula may have and C++ or CUDA use otherwise.
RESERVED = frozenset(
    """alignas alignof and and_eq asm atan auto bitand bitor bool break case catch char class compl concept const consteval
    constexpr constinit continue cos cupy decltype default delete do double dynamic_cast else enum exp explicit export
    extern false float for friend goto half if inline int isnan log long max min mutable namespace new noexcept not not_eq
    nullptr operator or or_eq private protected public register reinterpret_cast requires return short signed sin sizeof
    sqrt static static_assert static_cast std struct switch tanh template this thread_local throw true try typedef typeid
    typename union unsigned using virtual void volatile wchar_t while xor xor_eq NAN STD""".split()
)


def source_of(function: Function) -> ast.FunctionDef:
    """The syntax tree of `function`: of the very code that it runs.

    Raises
    ------
    GrammarError : there is no source (a function typed into a bare interpreter), or it is no longer that of the function.
    """
    code = function.__code__
    try:
        text = "".join(inspect.findsource(function)[0])
    except (OSError, TypeError):
        raise GrammarError(
            f"{code.co_name}() has no source that can be read: was it typed into a bare interpreter? A GPU kernel is made "
            "from the source; define it in a file or a notebook"
        ) from None
    nodes, codes = _parsed(text, code.co_filename)
    for found in codes:
        if found.co_name == code.co_name and computes(found) == computes(code):
            node = copy.deepcopy(next(nodes[place] for place in _places(found) if place in nodes))
            if isinstance(node, ast.Lambda):
                return ast.FunctionDef("function", node.args, [ast.Return(node.body)], [])
            return node
    raise GrammarError(
        f"{code.co_name}(): {code.co_filename} no longer holds the function that was imported from it; import it anew"
    )


@lru_cache(maxsize=64)
def _parsed(text: str, file: str) -> tuple[dict[tuple[int, int], Any], list[types.CodeType]]:
    """Every function in `text`: its syntax by its place, and its code."""
    tree = ast.parse(text)
    nodes: dict[tuple[int, int], Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            nodes[min([node.lineno, *(n.lineno for n in node.decorator_list)]), -1] = node
        elif isinstance(node, ast.Lambda):
            nodes[node.body.lineno, node.body.col_offset] = node
    codes = [compile(tree, file, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)]
    for code in codes:  # it grows on the way: functions in functions
        codes += [c for c in code.co_consts if isinstance(c, types.CodeType)]
    return nodes, codes


def _places(code: types.CodeType) -> list[tuple[int, int | None]]:
    """Where to look for a function: its line; for a lambda, several of which may share a line, all places in it."""
    if code.co_name != "<lambda>":
        return [(code.co_firstlineno, -1)]
    return [(p.lineno, p.col_offset) for p in map(attrgetter("positions"), dis.get_instructions(code)) if p and p.lineno]


def spelled_out(function: Function, dtype: np.dtype | None = None, **names: Any) -> Function:
    """A copy of `function` that ``cupyx.jit`` can read.

    Parameters
    ----------
    function : a floor-0 function, or a loop that encloses what it is built around.
    dtype : of every number in a floor-0 function; ``None`` leaves the numbers of a loop, which are indices, as they are.
    names : what stands for these names in the copy, e.g. ``np=cupy``, or a device function for an enclosed one.
    """
    enclosed = dict(inspect.getclosurevars(function).nonlocals)
    known = {n: v for n, v in {**enclosed, **numbers_of(function)}.items() if isinstance(v, _KNOWN)}
    node = _Speller(known).visit(source_of(function))
    node = _Typist().visit(node) if dtype else node
    text = ast.unparse(ast.fix_missing_locations(node))
    scope = {n: function.__globals__[n] for n in function.__code__.co_names if n in function.__globals__}
    scope |= enclosed | names | {"_number": dtype and dtype.type}
    file = f"<minisnn gpu {digest(text)}>"
    # Where `inspect` looks for sources that are in no file; without a date it is never dropped.
    linecache.cache[file] = len(text), None, text.splitlines(keepends=True), file
    exec(compile(text, file, "exec", dont_inherit=True), scope)
    return scope[node.name]


_KNOWN = (bool, int, float, str, np.integer, np.floating)


class _Speller(ast.NodeTransformer):
    """Computes what is known, writes out what is repeated, renames what C++ would misread."""

    def __init__(self, known: dict[str, Any]) -> None:
        self.known = {n: v.item() if isinstance(v, np.generic) else v for n, v in known.items()}
        self.renamed: dict[str, str] = {}

    def visit_FunctionDef(self, node: ast.FunctionDef) -> Any:
        node.decorator_list, node.returns = [], None
        node.name = node.name if node.name.isascii() else "function"
        stored = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        own = [a.arg for a in node.args.args] + sorted(stored)
        self.known = {n: v for n, v in self.known.items() if n not in own}
        self.renamed = {n: f"local_{i}" for i, n in enumerate(own) if n in RESERVED or not n.isascii()}
        for argument in node.args.args:
            argument.arg, argument.annotation = self.renamed.get(argument.arg, argument.arg), None
        if isinstance(node.body[0], ast.Expr) and isinstance(node.body[0].value, ast.Constant):
            del node.body[0]  # the docstring
        return self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> Any:
        if isinstance(node.ctx, ast.Load) and node.id in self.known:
            return ast.Constant(self.known[node.id])
        return ast.Name(self.renamed.get(node.id, node.id), node.ctx)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> Any:
        assert node.value is not None
        return ast.Assign([self.visit(node.target)], self.visit(node.value))

    def visit_Assign(self, node: ast.Assign) -> Any:
        first, *others = node.targets
        if others and isinstance(first, ast.Name):  # a = b = value: one at a time
            read = ast.Name(first.id, ast.Load())
            return [self.visit(ast.Assign([t], v)) for t, v in [(first, node.value), *((o, read) for o in others)]]
        return self.generic_visit(node)

    def visit_If(self, node: ast.If) -> Any:
        test = self.visit(node.test)
        if isinstance(test, ast.Constant):
            return [self.visit(s) for s in (node.body if test.value else node.orelse)]
        return self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> Any:
        test = self.visit(node.test)
        assert isinstance(test, ast.Constant), "cupyx.jit has no choice between two values"
        return self.visit(node.body if test.value else node.orelse)

    def visit_For(self, node: ast.For) -> Any:
        values = self._known_range(node.iter)
        return self.generic_visit(node) if values is None else self._each(node.target, values, node.body)

    def visit_Starred(self, node: ast.Starred) -> Any:
        assert isinstance(node.value, ast.GeneratorExp) and len(node.value.generators) == 1
        loop = node.value.generators[0]
        values = self._known_range(loop.iter)
        assert values is not None, "only what is known can be written out"
        return self._each(loop.target, values, [node.value.elt])

    def _known_range(self, node: ast.expr) -> range | None:
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range"):
            return None
        bounds = [self.visit(copy.deepcopy(a)) for a in node.args]
        return range(*(b.value for b in bounds)) if all(isinstance(b, ast.Constant) for b in bounds) else None

    def _each(self, target: ast.expr, values: range, nodes: list[Any]) -> list[Any]:
        assert isinstance(target, ast.Name)
        before, done = self.known, []
        for value in values:
            self.known = before | {target.id: value}
            done += [self.visit(copy.deepcopy(node)) for node in nodes]
        self.known = before
        return done

    def _computed(self, node: Any) -> Any:
        """`node`, or its value where all parts of it are known: by Python's arithmetic, as everywhere else."""
        node = self.generic_visit(node)
        parts = [n for n in ast.iter_child_nodes(node) if isinstance(n, ast.expr)]
        if isinstance(node, ast.Call):
            of_numpy = isinstance(node.func, ast.Attribute) and getattr(node.func.value, "id", "") == "np"
            parts = node.args if of_numpy else [node]
        if not parts or not all(isinstance(p, ast.Constant) for p in parts):
            return node
        value = eval(compile(ast.fix_missing_locations(ast.Expression(node)), "known", "eval"), {"np": np})
        return ast.Constant(value.item() if isinstance(value, np.generic) else value)

    visit_BinOp = visit_UnaryOp = visit_Compare = visit_Call = _computed


class _Typist(ast.NodeTransformer):
    """Gives every number the dtype, by a name: a literal has no room for it."""

    def visit_Constant(self, node: ast.Constant) -> Any:
        return node if isinstance(node.value, bool | str) else ast.Call(ast.Name("_number", ast.Load()), [node], [])
