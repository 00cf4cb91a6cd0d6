"""What is wrong with a step, as formulas: yours, the true one, and their difference; and in a sentence.

Two ways to the formulas.  With SymPy the function itself is run on symbols.  Without it (or where it cannot read the
function) the values at random points are explained as small sums of products.  Whatever is printed has been compared with
the function at fresh random points first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..kernels.arrays import Array
from ..resets import RESETS
from ..surrogates import SURROGATES
from .algebra import Formula, load_sympy
from .report import Finding
from .steps import Step, finite, reset_step
from .sums import evaluate, explain, factor_name, monomials, same, write

__all__ = ["explain_step"]

LONGEST = 200


def explain_step(step: Step, seed: int = 0) -> list[Finding]:
    """A finding for each argument whose derivative is wrong."""
    rng, found = np.random.default_rng([seed, 11]), []
    with np.errstate(all="ignore"):
        points, fresh = (finite(step, step.draw(rng)) for _ in range(2))
        for a in step.free:
            yours, true = (_column(matrix, step, a) for matrix in (step.yours(points), step.true(points)))
            if same(yours, true, 1e-11):
                continue
            name = f"slope {step.title.split()[1]}" if step.kind == "slope" else f"d_{a} of {step.title.split()[1]}"
            formulas = _from_symbols(step, a, fresh) or _from_numbers(step, a, points, fresh)
            found.append(Finding(name, _sentence(step, a, points, fresh), **formulas))
    return found


def _column(matrix: dict[tuple[str, str], Array], step: Step, a: str) -> Array:
    return np.stack([matrix[out, a] for out in step.outs]).astype(float)


# -- formulas


def _from_symbols(step: Step, a: str, fresh: dict[str, Array]) -> dict[str, Any]:
    """Yours, true, difference and their LaTeX by SymPy; nothing where it is absent or disagrees with the numbers."""
    try:
        sp = load_sympy()
    except ImportError:
        return {}
    symbols = {n: sp.Symbol(n, real=True, positive=n == "k" or None) for n in step.args}
    above = {out: sp.Symbol(f"d_{out}", real=True) for out in step.outs}
    try:
        names = [Formula(s) for s in symbols.values()]
        results = _tuple(step.adjoint(*(Formula(s) for s in above.values()), *names))
        yours = _expression(results[step.free.index(a)])
        outs = [_expression(value) for value in _tuple(step.forward(*names))]
        true = sp.Integer(0)
        if a not in step.stop:
            true = sum((d * sp.diff(out, symbols[a]) for d, out in zip(above.values(), outs, strict=True)), true)
        if step.kind == "slope":
            yours, true = (e.subs(above["s"], 1) for e in (yours, true))
        yours, true, difference = (_shortest(sp, e) for e in (yours, true, yours - true))
        for j, out in enumerate(step.outs):  # compared with the functions themselves before anything is printed
            one = {d: int(i == j) for i, d in enumerate(above.values())}
            for e, matrix in ((yours, step.yours(fresh)), (true, step.true(fresh))):
                value = sp.lambdify(list(symbols.values()), e.subs(one), "numpy")(*(v.astype(float) for v in fresh.values()))
                if not same(np.broadcast_to(value, fresh[a].shape), matrix[out, a]):
                    return {}
    except Exception:  # SymPy meets something it cannot do: the numbers remain
        return {}
    texts = [str(e).replace("**2", "^2").replace("**", "^") for e in (yours, true, difference)]
    if max(map(len, texts)) > LONGEST:
        return {}
    latex = tuple(sp.latex(e) for e in (yours, true, difference))
    return {"yours": texts[0], "true": texts[1], "difference": texts[2], "latex": latex}


def _shortest(sp: Any, e: Any) -> Any:
    return min((e, sp.simplify(e), sp.factor_terms(sp.simplify(e))), key=lambda form: len(str(form)))


def _tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _expression(value: Any) -> Any:
    return value.e if isinstance(value, Formula) else load_sympy().nsimplify(value)


def _from_numbers(step: Step, a: str, points: dict[str, Array], fresh: dict[str, Array]) -> dict[str, Any]:
    """The same from values at random points; nothing where they are no small sum of products."""
    texts = []
    for which in ("yours", "true", "difference"):
        parts = []
        for out in step.outs:
            cells = [_cell(step, (out, a), p, which) for p in (points, fresh)]
            values = [{n: v.astype(float) for n, v in p.items()} for p in (points, fresh)]
            text = _sum_text(cells, [monomials(v) for v in values], "" if step.kind == "slope" else f"d_{out}")
            if text is None and step.kind == "slope" and which != "difference":  # most slopes are one over a polynomial
                terms = [monomials({**v, "1/k": 1 / v["k"]}, 4) for v in values]
                terms = [{n: v for n, v in t.items() if not {"k", "1/k"} <= set(n.split("*"))} for t in terms]
                inverse = _sum_text([1 / c for c in cells], terms, "")
                text = None if inverse is None else f"1/({inverse})"
            if text is None and not (step.kind == "slope" and which == "difference"):
                return {}
            parts += [text] if text else []
        texts.append(" + ".join(parts).replace("+ -", "- "))
    texts = [text or "0" for text in texts[:2]] + texts[2:]
    return dict(zip(("yours", "true", "difference"), texts, strict=True))


def _sum_text(cells: list[Array], terms: list[dict[str, Array]], times: str) -> str | None:
    """`cells` at two sets of points as one sum of products, found at the first and verified at the second."""
    found = explain(cells[0], terms[0])
    if found is None or not same(cells[1], evaluate(found, terms[1])):
        return None
    return write(found, times) if found else ""


def _cell(step: Step, cell: tuple[str, str], points: dict[str, Array], which: str) -> Array:
    yours, true = (m[cell].astype(float) for m in (step.yours(points), step.true(points)))
    return {"yours": yours, "true": true, "difference": yours - true}[which]


# -- sentences


def _sentence(step: Step, a: str, points: dict[str, Array], fresh: dict[str, Array]) -> str:
    """The first sentence that is true of both sets of points."""
    if not np.isfinite(_column(step.yours(points), step, a)).all():
        return "not a finite number at some points where the forward is finite"
    held: list[list[str]] = []
    for p in (points, fresh):
        yours = _column(step.yours(p), step, a)
        held.append(
            [text for text, expected in _candidates(step, a, p) if same(yours, np.broadcast_to(expected, yours.shape))]
        )
    return next((text for text in held[0] if text in held[1]), "")


def _candidates(step: Step, a: str, p: dict[str, Array]) -> Iterator[tuple[str, Array]]:
    """Sentences, each with the derivative by `a` that would make it true."""
    matrix = step.true(p)
    true, plain = _column(matrix, step, a), {n: v.astype(float) for n, v in p.items()}
    if step.kind == "reset":
        yield from _reset_candidates(step, a, plain, true)
    elif step.kind == "slope":
        yield from _slope_candidates(step, plain)
    what = {"state": "nothing is carried to the step before", "x": "nothing reaches the input"}
    place = "state" if a in step.args[: len(step.outs)] else a
    yield f"the path through {a} is missing" + (f": {what[place]}" if place in what else ""), 0 * true
    if not true.any():
        stop = f" ({a} is declared constant by stop={step.stop})" if a in step.stop else ""
        yield f"there is no such path: it should be 0{stop}", _column(step.yours(p), step, a)
    yield "the sign is wrong", -true
    for j, out in enumerate(step.outs):
        if len(step.outs) > 1:
            yield f"the path through {out} is missing", np.where(np.arange(len(step.outs))[:, None] == j, 0, true)
            yield (
                f"the path through {out} is counted twice",
                np.where(np.arange(len(step.outs))[:, None] == j, 2 * true, true),
            )
            yield f"only the path through {out} is there", np.where(np.arange(len(step.outs))[:, None] == j, true, 0)
    for b, value in plain.items():
        yield f"the factor {b} is missing", true / value
        yield f"the factor {b} is there once too often", true * value
        yield f"it is multiplied by 1 - {b}", true * (1 - value)
        yield f"the factor 1 - {b} is missing", true / (1 - value)
    for b in step.free:
        if b != a:
            yield f"this is the derivative by {b}: two results are mixed up", _column(matrix, step, b)
    yield from _substituted(step, a, p)
    yours = _column(step.yours(p), step, a)
    ratio = float((yours * true).sum() / (true * true).sum()) if true.any() else 0.0
    if name := factor_name(ratio, {}):
        yield f"it is {name} times the true one: a constant factor", ratio * true


def _substituted(step: Step, a: str, p: dict[str, Array]) -> Iterator[tuple[str, Array]]:
    """The true derivative with one quantity standing where another belongs."""
    values = dict(zip(step.outs, step.values(p), strict=True))
    for b in step.args:
        for c, value in {**p, **values}.items():
            if c != b:
                yield f"{c} stands where {b} belongs", _column(step.true({**p, b: np.asarray(value, p[b].dtype)}), step, a)


def _reset_candidates(step: Step, a: str, p: dict[str, Array], true: Array) -> Iterator[tuple[str, Array]]:
    if a == "s" and "s" not in step.stop:
        yield (
            "the reset path through the spike is missing: this is the gradient of a detached reset; declare "
            "stop=('s',) if you "
            "mean it", 0 * true,
        )  # fmt: skip
    if a == "theta":
        yield "the reset holds the threshold, too: its path is missing (it stays even when the spike is detached)", 0 * true
    if a == "u" and same(true[0], 1 - p["s"]):
        yield "the mask 1 - s is missing: a spike empties the membrane, so nothing goes back past it", 0 * true + 1
        yield "the mask is the wrong way round: gradient passes where there was no spike, 1 - s", 0 * true + p["s"]
    for name, other in RESETS.items():
        if not other.stop:
            yield f"this is the derivative of the {name} reset", _column(reset_step(other).true(p), step, a)


def _slope_candidates(step: Step, p: dict[str, Array]) -> Iterator[tuple[str, Array]]:
    x, k = p["x"], p["k"]
    true = step.true(p)["s", "x"].astype(float)
    peak = step.true({**p, "x": 0 * p["x"] + 1e-9})["s", "x"].astype(float)
    yield "this is the curve itself, not its slope", step.values(p)[0][None]
    yield "the sign is wrong: the curve rises", -true[None]
    for power, text in ((1, "{}*k"), (2, "{}*k*k"), (-1, "{}/k"), (-2, "{}/(k*k)")):
        for c, factor in ((1, "1"), (2, "2"), (0.5, "0.5"), (np.pi, "pi"), (1 / np.pi, "1/pi")):
            times = text.format(factor).removeprefix("1*")
            yield f"it is {times} times the true slope: a factor of the steepness is wrong", (c * k**power * true)[None]
    yield "it is scaled to a peak of 1; the curve's own slope has another peak", (true / peak)[None]
    for name, make in SURROGATES.items():
        other = make(1.0)
        if other.smooth is not step.forward:
            yield f"this is the slope of another curve: {name}", other.slope(x, k)[None]
    for text, value in (
        ("1", 1 + 0 * k),
        ("2", 2 + 0 * k),
        ("2*k", 2 * k),
        ("0.5*k", k / 2),
        ("k*k", k * k),
        ("1/k", 1 / k),
    ):
        yield f"{text} stands where k belongs", step.true({**p, "k": value.astype(p["k"].dtype)})["s", "x"][None]
