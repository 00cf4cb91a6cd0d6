"""What a number is made of: values at random points, explained as a small sum of products of known quantities."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction

import numpy as np

from ..kernels.arrays import Array

__all__ = ["Sum", "evaluate", "explain", "factor_name", "factor_names", "monomials", "same", "write"]

#: A sum of products: coefficient and name of each term; the name is looked up in what `monomials` makes.
Sum = tuple[tuple[float, str], ...]

PRECISION = 1e-9
_UNITS = ((1.0, ""), (math.pi, "pi"), (1 / math.pi, "1/pi"), (math.pi**2, "pi*pi"))


def same(a: Array, b: Array, precision: float = PRECISION) -> bool:
    """Whether two arrays agree to rounding, relative to the larger of them."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return False
    scale = max(np.abs(a).max(initial=0), np.abs(b).max(initial=0))
    return bool(np.abs(a - b).max(initial=0) <= precision * scale)


def monomials(values: Mapping[str, Array], degree: int = 3) -> dict[str, Array]:
    """Every product of up to `degree` of the quantities `values`, by its name: ``"1"``, ``"u"``, ``"s*u"``, ``"u*u"``."""
    found: dict[str, Array] = {"1": np.ones(np.broadcast_shapes(*(np.shape(v) for v in values.values())))}
    for n in range(1, degree + 1):
        for names in itertools.combinations_with_replacement(values, n):
            product = found["1"]
            for name in names:
                product = product * values[name]
            found["*".join(names)] = product
    return found


def explain(target: Array, terms: Mapping[str, Array], most: int = 3, precision: float = PRECISION) -> Sum | None:
    """`target` as a sum of at most `most` of the `terms` with plain coefficients; ``None`` if there is none.

    Fewest terms first; among equals the first in the order of `terms`.
    """
    y = np.ravel(np.asarray(target, float))
    if not np.isfinite(y).all() or not len(y):
        return None
    size = np.abs(y).max()
    if size == 0:
        return ()
    names = [n for n, v in terms.items() if np.isfinite(v).all() and np.abs(v).max() > 0]
    columns = np.stack([np.broadcast_to(terms[n], np.shape(target)).ravel() for n in names], axis=1).astype(float)
    columns, norms = columns / np.linalg.norm(columns, axis=0), np.linalg.norm(columns, axis=0)
    gram, right = columns.T @ columns, columns.T @ y
    for count in range(1, most + 1):
        for chosen in _best(gram, right, count):
            part = columns[:, chosen]
            weights = np.linalg.lstsq(part, y, rcond=None)[0]
            if np.abs(part @ weights - y).max() <= precision * size:
                plain = [_plain(w / norms[c], 10 * precision) for w, c in zip(weights, chosen, strict=True)]
                if all(p is not None for p in plain):
                    return tuple((float(p), names[c]) for p, c in zip(plain, chosen, strict=True))  # type: ignore[arg-type]
    return None


def _best(gram: Array, right: Array, count: int, keep: int = 4) -> Sequence[Sequence[int]]:
    """The few sets of `count` columns that leave the least of the target, by the normal equations; all are looked at."""
    n = len(right)
    if count == 1:
        return [[int(i)] for i in np.argsort(-(right**2), kind="stable")[:keep]]
    if math.comb(n, count) > 60_000:
        return []
    sets = np.array(list(itertools.combinations(range(n), count)))
    if not len(sets):
        return []
    g = gram[sets[:, :, None], sets[:, None, :]] + 1e-13 * np.eye(count)
    gained = np.einsum("si,si->s", right[sets], np.linalg.solve(g, right[sets][..., None])[..., 0])
    return sets[np.argsort(-gained, kind="stable")[:keep]].tolist()


def _plain(value: float, precision: float) -> float | None:
    """`value` if it is a coefficient that somebody may have meant: a small fraction, perhaps times pi."""
    for unit, _ in _UNITS:
        guess = Fraction(value / unit).limit_denominator(16)
        if guess and abs(float(guess) * unit - value) <= precision * abs(value):
            return float(guess) * unit
    return None


def evaluate(found: Sum, terms: Mapping[str, Array]) -> Array:
    """The value of a sum of products."""
    return sum((c * terms[n] for c, n in found), 0 * terms["1"])


def write(found: Sum, times: str = "") -> str:
    """A sum of products as text, each product times the factor called `times`: ``d_v - s*d_v``."""
    text = ""
    for coefficient, name in found:
        names = "*".join([n for n in name.split("*") if n != "1"] + [times] * bool(times))
        size = _written(abs(coefficient))
        product = names if size == "1" and names else f"{size}*{names}" if names else size
        text += (" - " if coefficient < 0 else " + ") + product
    return (("-" if text.startswith(" - ") else "") + text[3:]) if text else "0"


def _written(value: float) -> str:
    for unit, name in _UNITS:
        guess = Fraction(value / unit).limit_denominator(1000)
        if abs(float(guess) * unit - value) <= 1e-8 * abs(value):
            return f"{guess}{'*' * bool(name)}{name}" if guess != 1 or not name else name
    return f"{value:.6g}"


def factor_names(ratio: float, sizes: Mapping[str, float]) -> Iterator[str]:
    """A constant ratio in every way that it can be made of known sizes: ``"1/B"``, ``"2"``, ``"-1/(B*T)"``."""
    powers = [p for p in itertools.product((0, 1, -1), repeat=len(sizes)) if sum(map(abs, p)) <= 3]
    bases = list(itertools.product((1.0, 2.0, 0.5), (1, -1)))
    for power, base in sorted(itertools.product(powers, bases), key=lambda c: sum(map(abs, c[0])) + 1.5 * (c[1][0] != 1)):
        product = math.prod(v**p for v, p in zip(sizes.values(), power, strict=True))
        if abs(math.prod(base) * product - ratio) <= 1e-8 * abs(ratio):
            above, below = ([n for n, p in zip(sizes, power, strict=True) if p == sign] for sign in (1, -1))
            yield _factor_text(math.prod(base), above, below)
    if text := _plain(ratio, 1e-8):
        yield _factor_text(text, [], [])


def factor_name(ratio: float, sizes: Mapping[str, float]) -> str | None:
    """The simplest of :func:`factor_names`; ``None`` if there is none."""
    return next(factor_names(ratio, sizes), None)


def _factor_text(base: float, above: list[str], below: list[str]) -> str:
    top, _, bottom = _written(abs(base)).partition("/")
    over = "*".join([top] * (top != "1") + above) or "1"
    under = [bottom] * bool(bottom) + below
    return "-" * (base < 0) + over + (f"/{under[0]}" if len(under) == 1 else f"/({'*'.join(under)})" if under else "")
