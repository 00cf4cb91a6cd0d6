"""What is wrong with the gradient of a plain function: it is recognised, or written as a sum."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from ..kernels.arrays import Array
from .calls import reported
from .differences import Point
from .report import Finding, Report
from .sums import factor_names, held_by_all, monomials, same, sum_text

__all__ = ["explain_function", "explain_gradients", "explain_loss", "is_square", "recognise"]

ROUGH = 1e-6
#: Arrays with more entries are not explained: each entry of the true gradient takes four runs.
MOST = 600

_MEANING = {
    "1/B": "a mean over the batch where a sum belongs",
    "B": "a sum over the batch where a mean belongs",
    "1/T": "a mean over time where a sum belongs, or counted once instead of T times",
    "T": "a sum over time where a mean belongs, or counted T times instead of once",
    "1/(T*B)": "a mean over batch and time where a sum belongs",
    "T*B": "a sum over batch and time where a mean belongs",
    "-1": "the sign is wrong",
}


def explain_gradients(
    points: Sequence[Point],
    sentences: Callable[[Point, str, Array], Iterable[str]],
    sums: Callable[[Point, str, Array], Iterable[str]] = lambda *_: (),
) -> list[Finding]:
    """A finding for each gradient that is wrong, if the same explanation holds at all points.

    ``sentences(point, name, true)`` are those that hold at a point; ``sums(point, name, gradient)``
    are ways to write a gradient, best first.
    """
    found = []
    for name, mine in points[0].gradients.items():
        if mine.size > MOST or same(mine, points[0].true(name), ROUGH):
            continue
        both = [(p, p.gradients[name], p.true(name)) for p in points]
        sentence = held_by_all(sentences(p, name, true) for p, _, true in both)
        yours_text = held_by_all(sums(p, name, yours) for p, yours, _ in both)
        true_text = held_by_all(sums(p, name, true) for p, _, true in both)
        if yours_text in ("", true_text):
            yours_text = true_text = ""
        if sentence or yours_text:
            found.append(Finding(f"d_{name}", sentence, yours_text, true_text))
    return found


def recognise(
    yours: Array, candidates: Iterable[tuple[str, Array]], sizes: Mapping[str, float]
) -> Iterator[str]:
    """Every sentence that explains a gradient: a candidate equals it, or times a named factor."""
    if not yours.any():
        yield "it is 0: the gradient is missing"
        return
    for text, found in candidates:
        if found.shape != yours.shape or not found.any():
            continue
        ratio = float((yours * found).sum() / (found * found).sum())
        if not same(yours, ratio * found, ROUGH):
            continue
        if abs(ratio - 1) <= ROUGH:
            yield text
            continue
        exact = float(Fraction(ratio).limit_denominator(2000))  # differences are not
        ratio = exact if abs(exact - ratio) <= 1e-7 * abs(ratio) else ratio
        for name in factor_names(ratio, sizes):
            meaning = f": {_MEANING[name]}" if name in _MEANING else ""
            yield f"{text}{'; ' * bool(text)}it is {name} times the true one{meaning}"


def is_square(a: Array) -> bool:
    """Whether its transpose has the same shape."""
    return a.ndim == 2 and a.shape[0] == a.shape[1]


# -- functions


def explain_function(
    report: Report, at: Callable[[Any, list[int]], Point], arrays: Mapping[str, Array], seed: int
) -> None:
    """Findings: 0, a factor, transposed, another's, or a sum of products."""
    rng = np.random.default_rng([seed, 31])
    spread = {n: 0.1 * (float(np.std(a)) or 1.0) for n, a in arrays.items()}
    fresh = {n: a + spread[n] * rng.normal(size=a.shape) for n, a in arrays.items()}
    points = (at(a, [seed, 23 + i]) for i, a in enumerate((arrays, fresh)))
    _explain(report, points, _function_sentences, _function_sums)


def _explain(report: Report, points: Iterator[Point], sentences: Any, sums: Any) -> None:
    """Add findings; what the functions do wrong at these points they did before."""
    noted = report.problems[:]
    if report.rows and not report.ok:
        with reported([]):
            report.find(explain_gradients([*points], sentences, sums))
        report.problems[:] = noted


def _function_sentences(point: Point, name: str, true: Array) -> Iterator[str]:
    mine = point.gradients[name]
    if not true.any():
        yield "there is no such path: the output does not depend on it, the gradient should be 0"
        return
    shapes = [v.shape for v in (*point.arrays.values(), *point.y.values())]
    sizes = {f"{n} (the length of an axis)": float(n) for s in shapes for n in s if n > 1}
    yield from recognise(mine, [("", true)], sizes)
    if is_square(true) and same(mine, true.T, ROUGH):
        yield "it is transposed"
    for other, values in point.arrays.items():
        alike = other != name and values.shape == mine.shape
        if alike and same(mine, point.true(other), ROUGH):
            yield f"this is the gradient of {other}: two results are mixed up"


def _function_sums(point: Point, name: str, gradient: Array) -> Iterator[str]:
    """A gradient as a sum of products, for functions that work entry by entry."""
    (out, value), *others = point.y.items()
    arrays = [*point.arrays.values()]
    if others or not 3 < gradient.size <= 2000 or len(arrays) > 6:
        return
    try:
        *every, _ = np.broadcast_arrays(*arrays, value)
    except ValueError:
        return
    if every[0].shape != value.shape:
        return
    known = {**dict(zip(point.arrays, every, strict=True)), "y": value}
    terms = monomials(known, 3 if len(arrays) < 5 else 2)
    summed = {n: _reduced(v * point.d_y[out], gradient.shape) for n, v in terms.items()}
    if text := sum_text([gradient], [summed], "d_y", precision=ROUGH):
        yield text


def _reduced(a: Array, shape: tuple[int, ...]) -> Array:
    """`a` summed over the axes that `shape` does not have."""
    a = a.sum(axis=tuple(range(a.ndim - len(shape))))
    ones = tuple(i for i, n in enumerate(shape) if n == 1 and a.shape[i] > 1)
    return a.sum(axis=ones, keepdims=True).reshape(shape)


# -- losses


def explain_loss(
    report: Report, at: Callable[[Array, Any], Point], scores: Array, targets: Any, seed: int
) -> None:
    """Findings for two batch sizes: a factor by name, or a sum of what losses are made of."""
    rng, sizes = np.random.default_rng([seed, 37]), (len(scores), len(scores) + 3)
    rows = [np.arange(batch) % len(scores) for batch in sizes]
    drawn = (scores[r] + 0.3 * rng.normal(size=(len(r), *scores.shape[1:])) for r in rows)
    one_each = np.shape(targets)[:1] == scores.shape[:1]
    aims = [np.asarray(targets)[r] if one_each else targets for r in rows]
    _explain(report, map(at, drawn, aims), _loss_sentences, _loss_sums)


def _loss_sentences(point: Point, name: str, true: Array) -> Iterator[str]:
    return recognise(point.gradients[name], [("", true)], _loss_sizes(true))


def _loss_sizes(scores: Array) -> dict[str, float]:
    return dict(zip(("B", "C"), map(float, (*scores.shape, 1)), strict=False))


def _loss_sums(point: Point, name: str, gradient: Array) -> list[str]:
    """A gradient as a sum of what losses are made of, over sizes; the fewest digits first."""
    scores, targets = point.arrays["scores"], np.asarray(point.arrays["targets"])
    known, is_matrix = {"scores": scores}, scores.ndim == 2
    if targets.shape == scores.shape:
        known["targets"] = targets.astype(float)
    elif targets.shape == scores.shape[:1] and is_matrix and targets.dtype.kind in "iu":
        known["onehot"] = np.eye(scores.shape[1])[targets]
    if is_matrix:
        e = np.exp(scores - scores.max(axis=1, keepdims=True))
        known["softmax"] = e / e.sum(axis=1, keepdims=True)
    terms, sizes, found = monomials(known, 2), _loss_sizes(scores), []
    for names, below in (("", ""), ("B", "/B"), ("BC", "/(B*C)"), ("C", "/C")):
        times = math.prod(sizes[n] for n in names)
        text = sum_text([gradient * times], [terms], most=2, precision=ROUGH) or "0"
        if text != "0":
            found.append((f"({text})" if " " in text and names else text) + below)
    return sorted(found, key=lambda text: sum(map(str.isdigit, text)))
