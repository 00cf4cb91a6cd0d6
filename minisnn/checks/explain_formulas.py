"""What is wrong with a step, as formulas (yours, the true one, their difference) and a sentence.

With SymPy the function is traced and evaluated on symbols.  Without it (or if the function cannot
be traced) its values at random points are written as small sums of products.  Every formula printed
has been compared with the function at fresh random points.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..formula import COMPARISONS, trace
from ..kernels.arrays import Array
from ..resets import RESETS
from ..surrogates import SURROGATES
from .report import Finding
from .steps import Step, finite, reset_step
from .sums import as_fraction, factor_names, held_by_all, monomials, same, sum_text

__all__ = ["explain_step"]

LONGEST = 200

Points = dict[str, Array]
#: A derivative at several sets of points, ``[outs, n]`` each.
Columns = list[Array]


def explain_step(step: Step, seed: int = 0) -> list[Finding]:
    """A finding for each argument whose derivative is wrong."""
    rng, found = np.random.default_rng([seed, 11]), []
    with np.errstate(all="ignore"):
        points = [finite(step, step.draw(rng)) for _ in range(2)]
        matrices = [[step.yours(p) for p in points], [step.true(p) for p in points]]
        for a in step.free:
            yours, true = ([_column(m, step, a) for m in both] for both in matrices)
            if same(yours[0], true[0], 1e-11):
                continue
            name = f"slope {step.name}" if step.kind == "slope" else f"d_{a} of {step.name}"
            columns = {"yours": yours, "true": true}
            formulas = _from_symbols(step, a, points[1], columns)
            formulas = formulas or _from_numbers(step, points, columns)
            found.append(Finding(name, _sentence(step, a, points, yours), **formulas))
    return found


def _column(matrix: dict[tuple[str, str], Array], step: Step, a: str) -> Array:
    return np.stack([matrix[out, a] for out in step.outs]).astype(float)


# -- formulas by SymPy


def load_sympy() -> Any:
    """SymPy, or an ImportError with the pip line."""
    try:
        import sympy
    except ImportError as error:
        install = "pip install 'minisnn[symbolic]'"
        raise ImportError(f"formulas need SymPy: {install} ({error})") from None
    return sympy


def _from_symbols(step: Step, a: str, fresh: Points, columns: dict[str, Columns]) -> dict[str, Any]:
    """Yours, true, difference and their LaTeX; empty if SymPy is absent or disagrees."""
    try:
        sp = load_sympy()
        symbols = {n: sp.Symbol(n, real=True, positive=n == "k" or None) for n in step.args}
        above = [sp.Symbol(f"d_{out}", real=True) for out in step.outs]
        yours, true = _expressions(sp, step, a, symbols, [1] if step.kind == "slope" else above)
        forms = [_shortest(sp, e) for e in (yours, true, yours - true)]
        for e, (_, column) in zip(forms, columns.values(), strict=False):  # on fresh points
            for j, cell in enumerate(column):
                one = {d: int(i == j) for i, d in enumerate(above)}
                value = sp.lambdify([*symbols.values()], e.subs(one), "numpy")
                found = value(*(v.astype(float) for v in fresh.values()))
                if not same(np.broadcast_to(found, cell.shape), cell):
                    return {}
    except Exception:  # SymPy meets something it cannot do: the numbers remain
        return {}
    texts = [str(e).replace("**2", "^2").replace("**", "^") for e in forms]
    if max(map(len, texts)) > LONGEST:
        return {}
    named = dict(zip(("yours", "true", "difference"), texts, strict=True))
    return {**named, "latex": tuple(map(sp.latex, forms))}


def _expressions(sp: Any, step: Step, a: str, symbols: dict[str, Any], above: list) -> tuple:
    """What the adjoint returns for `a`, and what it should, as expressions of SymPy."""
    arguments, n_outs = list(symbols.values()), len(step.outs)
    forward = trace(step.forward, step.name, len(arguments), n_outs)
    adjoint = trace(step.adjoint, step.name, n_outs + len(arguments), len(step.free))
    yours = adjoint.evaluate(*above, *arguments, call=_symbolic, number=_number)
    outs = forward.evaluate(*arguments, call=_symbolic, number=_number)
    slopes = [d * sp.diff(out, symbols[a]) for d, out in zip(above, outs, strict=True)]
    return yours[step.free.index(a)], sum(slopes if a not in step.stop else [], sp.Integer(0))


def _symbolic(name: str, *values: Any) -> Any:
    """A comparison, 1 if it holds and 0 if not, or a function."""
    sp = load_sympy()
    if name in COMPARISONS:
        return sp.Piecewise((1, sp.Rel(*values, COMPARISONS[name])), (0, True))
    if name in ("maximum", "minimum"):
        a, b = values
        if sp.expand(a + b) == 0:
            return sp.Abs(a) if name == "maximum" else -sp.Abs(a)
        return sp.Piecewise((a, a >= b if name == "maximum" else a <= b), (b, True))
    return getattr(sp, {"arctan": "atan"}.get(name, name))(*values)


def _number(value: float) -> Any:
    """A number as a reader would write it: 0.5 is 1/2, and 1.5707963267948966 is pi/2."""
    sp = load_sympy()
    guess, unit = as_fraction(value, 1000, 2e-16) or (sp.Float(value), "1")
    return sp.sympify(guess) * sp.sympify(unit or "1")


def _shortest(sp: Any, e: Any) -> Any:
    simple = sp.simplify(e)
    return min((e, simple, sp.factor_terms(simple)), key=lambda form: len(str(form)))


# -- formulas from numbers


def _from_numbers(step: Step, points: list[Points], columns: dict[str, Columns]) -> dict[str, str]:
    """The same from values at random points; empty if they are no small sum of products."""
    texts, is_slope = {}, step.kind == "slope"
    values = [{n: v.astype(float) for n, v in p.items()} for p in points]
    terms = [monomials(v) for v in values]
    pairs = zip(*columns.values(), strict=True)
    for which, found in {**columns, "difference": [yours - true for yours, true in pairs]}.items():
        parts = []
        for j, out in enumerate(step.outs):
            cells = [column[j] for column in found]
            text = sum_text(cells, terms, "" if is_slope else f"d_{out}")
            if text is None and is_slope:
                text = "" if which == "difference" else _inverse_text(cells, values)
            if text is None:
                return {}
            parts += [text] if text not in ("", "0") else []
        texts[which] = " + ".join(parts).replace("+ -", "- ") or "0" * (which != "difference")
    return texts


def _inverse_text(cells: Columns, values: list[Points]) -> str | None:
    """Most slopes are one over a polynomial."""
    terms = [monomials({**v, "1/k": 1 / v["k"]}, 4) for v in values]
    terms = [{n: v for n, v in t.items() if not {"k", "1/k"} <= {*n.split("*")}} for t in terms]
    text = sum_text([1 / c for c in cells], terms)
    return text and f"1/({text})"


# -- sentences


def _sentence(step: Step, a: str, points: list[Points], yours: Columns) -> str:
    """The first sentence that is true of all sets of points."""
    if not np.isfinite(yours[0]).all():
        return "not a finite number at some points where the forward is finite"
    return held_by_all(
        [t for t, d in _candidates(step, a, p) if same(mine, np.broadcast_to(d, mine.shape))]
        for p, mine in zip(points, yours, strict=True)
    )


def _candidates(step: Step, a: str, p: Points) -> Iterator[tuple[str, Array]]:
    """Sentences, each with the derivative by `a` that would make it true."""
    matrix = step.true(p)
    true, plain = _column(matrix, step, a), {n: v.astype(float) for n, v in p.items()}
    if step.kind == "reset":
        yield from _reset_candidates(step, a, plain, true)
    elif step.kind == "slope":
        yield from _slope_candidates(step, plain)
    lost = {"x": ": no gradient reaches the input"}
    for state in step.args[: len(step.outs)]:
        lost[state] = ": no gradient reaches the step before"
    yield f"the path through {a} is missing{lost.get(a, '')}", 0 * true
    if not true.any():
        stop = f" ({a} is declared constant by stop={step.stop})" if a in step.stop else ""
        yield f"there is no such path: it should be 0{stop}", _column(step.yours(p), step, a)
    yield "the sign is wrong", -true
    for j, out in enumerate(step.outs if len(step.outs) > 1 else ()):
        this = np.arange(len(step.outs))[:, None] == j
        yield f"the path through {out} is missing", np.where(this, 0, true)
        yield f"the path through {out} is counted twice", np.where(this, 2 * true, true)
        yield f"only the path through {out} is there", np.where(this, true, 0)
    for b, value in plain.items():
        yield f"the factor {b} is missing", true / value
        yield f"the factor {b} is there once too often", true * value
        yield f"it is multiplied by 1 - {b}", true * (1 - value)
        yield f"the factor 1 - {b} is missing", true / (1 - value)
    for b in step.free:
        if b != a:
            mixed = _column(matrix, step, b)
            yield f"this is the derivative by {b}: two results are mixed up", mixed
    values = {**p, **dict(zip(step.outs, step.values(p), strict=True))}
    for b in step.args:  # one quantity stands where another belongs
        for c, value in values.items():
            if c != b:
                other = step.true({**p, b: np.asarray(value, p[b].dtype)})
                yield f"{c} stands where {b} belongs", _column(other, step, a)
    yours = _column(step.yours(p), step, a)
    ratio = float((yours * true).sum() / (true * true).sum()) if true.any() else 0.0
    if name := next(factor_names(ratio, {}), None):
        yield f"it is {name} times the true one: a constant factor", ratio * true


def _reset_candidates(step: Step, a: str, p: Points, true: Array) -> Iterator[tuple[str, Array]]:
    zero, s = 0 * true, p["s"]
    if a == "s" and "s" not in step.stop:
        cure = "declare stop=('s',) if you mean it"
        lost = f"this is the gradient of a detached reset; {cure}"
        yield f"the reset path through the spike is missing: {lost}", zero
    if a == "theta":
        lost = "its path is missing (it stays even when the spike is detached)"
        yield f"the reset holds the threshold, too: {lost}", zero
    if a == "u" and same(true[0], 1 - s):
        lost = "a spike empties the membrane, so no gradient passes it"
        yield f"the mask 1 - s is missing: {lost}", zero + 1
        lost = "gradient passes where there was no spike, 1 - s"
        yield f"the mask is the wrong way round: {lost}", zero + s
    for name, other in RESETS.items():
        if not other.stop:
            derivative = _column(reset_step(other).true(p), step, a)
            yield f"this is the derivative of the {name} reset", derivative


def _slope_candidates(step: Step, p: Points) -> Iterator[tuple[str, Array]]:
    x, k = p["x"], p["k"]
    true, peak = (step.true({**p, "x": at})["s", "x"].astype(float) for at in (x, 0 * x + 1e-9))
    yield "this is the curve itself, not its slope", step.values(p)[0][None]
    yield "the sign is wrong: the curve rises", -true[None]
    factors = {"1": 1, "2": 2, "0.5": 0.5, "pi": np.pi, "1/pi": 1 / np.pi}
    for text, power in {"*k": k, "*k*k": k**2, "/k": k**-1, "/(k*k)": k**-2}.items():
        for c, factor in factors.items():
            times = f"{c}{text}".removeprefix("1*")
            wrong = "a factor of the steepness is wrong"
            yield f"it is {times} times the true slope: {wrong}", (factor * power * true)[None]
    scaled = (true / peak)[None]
    yield "it is scaled to a peak of 1; the curve's own slope has another peak", scaled
    for name, make in SURROGATES.items():
        other = make(1.0)
        if other.smooth is not step.forward:
            yield f"this is the slope of another curve: {name}", other.slope(x, k)[None]
    one = 1 + 0 * k
    stands = {"1": one, "2": 2 * one, "2*k": 2 * k, "0.5*k": k / 2, "k*k": k * k, "1/k": 1 / k}
    for text, value in stands.items():
        replaced = step.true({**p, "k": value.astype(p["k"].dtype)})["s", "x"]
        yield f"{text} stands where k belongs", replaced[None]
