"""What is wrong with a plain function or a loss: its gradient recognised, or written as a sum."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np

from ..kernels.arrays import Array
from .calls import Broken, reported
from .differences import stencil
from .report import Finding, Report
from .sums import factor_names, held_by_all, monomials, same, sum_text

__all__ = ["explain_function", "explain_loss", "recognise"]

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


def recognise(
    yours: Any, candidates: Iterable[tuple[str, Array]], sizes: Mapping[str, float]
) -> Iterator[str]:
    """Every sentence that explains a gradient: a candidate equals it, or times a named factor."""
    yours = np.asarray(yours, np.float64)
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


# -- functions


def explain_function(report: Report, subject: Any, seed: int) -> None:
    """Findings: 0, a factor, transposed, another's, or a sum of products; verified once more."""
    if report.ok or not report.rows:
        return
    rng, here = np.random.default_rng([seed, 31]), subject.arrays
    facts: list[dict[str, list[str]]] = []
    noted = report.problems[:]
    with reported(report.problems):
        for again in range(2):
            point = subject.at(here, [seed, 23 + again])
            true = {n: _true(subject, point, n) for n in here}
            wrong = [n for n in here if not same(point.yours[n], true[n], ROUGH)]
            facts.append({n: list(_facts(n, point, true)) for n in wrong})
            spread = {n: 0.1 * (float(np.std(a)) or 1.0) for n, a in subject.arrays.items()}
            here = {n: a + spread[n] * rng.normal(size=a.shape) for n, a in here.items()}
        report.problems[:] = noted  # what it does wrong here it did before
        for name, texts in facts[0].items():
            if sentence := held_by_all([texts, facts[1].get(name, [])]):
                yours_text, bar, true_text = sentence.partition(" | ")  # two formulas
                formulas = ("", yours_text, true_text) if bar else (sentence,)
                report.find([Finding(f"d_{name}", *formulas)])


def _true(subject: Any, point: Any, name: str) -> Array:
    arrays, at = point.arrays, point.arrays[name]
    if at.size > MOST:
        return np.full(at.shape, np.nan)
    step = 1e-3 * max(float(np.std(at)), 1.0)
    return stencil(lambda moved: subject.weighted({**arrays, name: moved}, point.d_y), at, step)


def _facts(name: str, point: Any, true: dict[str, Array]) -> Iterator[str]:
    mine, right = point.yours[name], true[name]
    if not right.any():
        yield "there is no such path: the output does not depend on it, the gradient should be 0"
        return
    shapes = [v.shape for v in (*point.arrays.values(), *point.y.values())]
    sizes = {f"{n} (the length of an axis)": float(n) for s in shapes for n in s if n > 1}
    yield from recognise(mine, [("", right)], sizes)
    if right.ndim == 2 and right.shape[0] == right.shape[1] and same(mine, right.T, ROUGH):
        yield "it is transposed"
    for other, gradient in true.items():
        if other != name and gradient.shape == mine.shape and same(mine, gradient, ROUGH):
            yield f"this is the gradient of {other}: two results are mixed up"
    texts = [_sum_of(name, target, point) for target in (mine, right)]
    if all(texts) and texts[0] != texts[1]:
        yield " | ".join(map(str, texts))


def _sum_of(name: str, target: Array, point: Any) -> str | None:
    """A gradient as a sum of products, for functions that work entry by entry."""
    (out, value), *others = point.y.items()
    if others or not 3 < target.size <= 2000:
        return None
    known, shape = {}, value.shape
    for n, a in point.arrays.items():
        try:
            if np.broadcast_shapes(a.shape, shape) == shape:
                known[n] = np.broadcast_to(a, shape)
        except ValueError:
            return None
    if name not in known or len(known) > 6:
        return None
    terms = monomials({**known, "y": value}, 3 if len(known) < 5 else 2)
    summed = {n: _reduced(v * point.d_y[out], target.shape) for n, v in terms.items()}
    return sum_text([target], [summed], "d_y", precision=ROUGH)


def _reduced(a: Array, shape: tuple[int, ...]) -> Array:
    """`a` summed over the axes that `shape` does not have."""
    a = a.sum(axis=tuple(range(a.ndim - len(shape))))
    ones = tuple(i for i, n in enumerate(shape) if n == 1 and a.shape[i] > 1)
    return a.sum(axis=ones, keepdims=True).reshape(shape)


# -- losses


def explain_loss(report: Report, run: Callable, scores: Array, targets: Any, seed: int) -> None:
    """Findings for two batch sizes: a factor by name, or a sum of what losses are made of."""
    if report.ok or not report.rows:
        return
    rng, aims = np.random.default_rng([seed, 37]), np.asarray(targets)
    facts, mine, true = [], [], []
    for batch in (len(scores), len(scores) + 3):
        rows = np.arange(batch) % len(scores)
        at = scores[rows] + 0.3 * rng.normal(size=(batch, *scores.shape[1:]))
        some = targets if aims.shape[:1] != scores.shape[:1] else aims[rows]
        try:
            yours = run(at, some)[1]
            right = stencil(partial(_value_of, run, some), at, 1e-3)
        except Broken:
            return
        sizes = dict(zip(("B", "C"), map(float, at.shape), strict=False))
        terms = _loss_terms(at, np.asarray(some))
        facts.append(recognise(yours, [("", right)], sizes))
        mine.append(_loss_sums(yours, terms, sizes))
        true.append(_loss_sums(right, terms, sizes))
    sentence, yours_text, true_text = held_by_all(facts), held_by_all(mine), held_by_all(true)
    if sentence or yours_text:
        shown = yours_text and true_text
        report.find([Finding("d_scores", sentence, yours_text, shown)])


def _value_of(run: Callable, targets: Any, scores: Array) -> float:
    return run(scores, targets)[0]


def _loss_terms(scores: Array, targets: Array) -> dict[str, Array]:
    """What the gradients of losses are made of."""
    known, is_matrix = {"scores": scores}, scores.ndim == 2
    if targets.shape == scores.shape:
        known["targets"] = targets.astype(float)
    elif targets.shape == scores.shape[:1] and is_matrix and targets.dtype.kind in "iu":
        known["onehot"] = np.eye(scores.shape[1])[targets]
    if is_matrix:
        e = np.exp(scores - scores.max(axis=1, keepdims=True))
        known["softmax"] = e / e.sum(axis=1, keepdims=True)
    return monomials(known, 2)


def _loss_sums(gradient: Array, terms: dict[str, Array], sizes: Mapping[str, float]) -> list[str]:
    """A gradient as sums over sizes, those with the fewest digits first."""
    found = []
    for names in ((), ("B",), ("B", "C"), ("C",)):
        if not set(names) <= set(sizes):
            continue
        times = math.prod(sizes[n] for n in names)
        text = sum_text([gradient * times], [terms], most=2, precision=ROUGH)
        if text and text != "0":
            text = f"({text})" if " " in text and names else text
            below = f"/({'*'.join(names)})" if len(names) > 1 else "".join(f"/{n}" for n in names)
            found.append(text + below)
    return sorted(found, key=lambda text: sum(map(str.isdigit, text)))
