"""What a number is made of: values at random points as a small sum of products of known ones."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction

import numpy as np

from ..kernels.arrays import Array

__all__ = ["as_fraction", "factor_names", "held_by_all", "monomials", "same", "sum_text"]

#: A sum of products: coefficient and name of each term; `monomials` has the names' values.
Sum = tuple[tuple[float, str], ...]

PRECISION = 1e-9
UNITS = {"": 1.0, "pi": math.pi, "1/pi": 1 / math.pi, "pi*pi": math.pi**2}


def same(a: Array, b: Array, precision: float = PRECISION) -> bool:
    """Whether two arrays agree to rounding, relative to the larger of them."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return False
    scale = max(np.abs(a).max(initial=0), np.abs(b).max(initial=0))
    return bool(np.abs(a - b).max(initial=0) <= precision * scale)


def held_by_all(texts: Iterable[Iterable[str]]) -> str:
    """The first text that stands in every list; "" if there is none."""
    first, *others = map(list, texts)
    return next((text for text in first if all(text in other for other in others)), "")


def monomials(values: Mapping[str, Array], degree: int = 3) -> dict[str, Array]:
    """Every product of up to `degree` quantities by its name: ``"1"``, ``"u"``, ``"s*u"``."""
    one = np.ones(np.broadcast_shapes(*map(np.shape, values.values())))
    found = {"1": one}
    for n in range(1, degree + 1):
        for names in itertools.combinations_with_replacement(values, n):
            found["*".join(names)] = math.prod((values[name] for name in names), start=one)
    return found


def sum_text(
    targets: Sequence[Array],
    terms: Sequence[Mapping[str, Array]],
    times: str = "",
    most: int = 3,
    precision: float = PRECISION,
) -> str | None:
    """A target as text, ``d_v - s*d_v``: a sum of products, each times the factor called `times`.

    It is found for the first of the `targets` and has to hold for the others; ``None`` if no sum of
    at most `most` terms does.
    """
    found = _explain(targets[0], terms[0], most, precision)
    for target, values in zip(targets, terms, strict=True):
        total = sum((c * values[n] for c, n in found or ()), 0 * values["1"])
        if found is None or not same(target, total, precision):
            return None
    return _write(found or (), times)


def _explain(target: Array, terms: Mapping[str, Array], most: int, precision: float) -> Sum | None:
    """`target` as a sum of `terms` with plain coefficients, fewest terms first."""
    y, shape = np.ravel(np.asarray(target, float)), np.shape(target)
    if not np.isfinite(y).all() or not y.any():
        return () if len(y) and not y.any() else None
    names = [n for n, v in terms.items() if np.isfinite(v).all() and v.any()]
    columns = np.stack([np.broadcast_to(terms[n], shape).ravel() for n in names], axis=1)
    size, norms = np.abs(y).max(), np.linalg.norm(columns, axis=0)
    columns = columns / norms
    gram, right = columns.T @ columns, columns.T @ y
    for chosen in (c for count in range(1, most + 1) for c in _best(gram, right, count)):
        part = columns[:, chosen]
        weights = np.linalg.lstsq(part, y, rcond=None)[0]
        if np.abs(part @ weights - y).max() <= precision * size:
            plain = [_plain(w, 10 * precision) for w in weights / norms[chosen]]
            if all(plain):
                return tuple((p, names[c]) for p, c in zip(plain, chosen, strict=True))
    return None


def _best(gram: Array, right: Array, count: int, keep: int = 4) -> Sequence[Sequence[int]]:
    """The few sets of `count` columns that leave the least of the target (normal equations)."""
    n = len(right)
    if count == 1:
        return [[int(i)] for i in np.argsort(-(right**2), kind="stable")[:keep]]
    if not 0 < math.comb(n, count) <= 60_000:
        return []
    sets = np.array(list(itertools.combinations(range(n), count)))
    g = gram[sets[:, :, None], sets[:, None, :]] + 1e-13 * np.eye(count)
    solved = np.linalg.solve(g, right[sets][..., None])[..., 0]
    gained = np.einsum("si,si->s", right[sets], solved)
    return sets[np.argsort(-gained, kind="stable")[:keep]].tolist()


def as_fraction(value: float, most: int, precision: float) -> tuple[Fraction, str] | None:
    """A number as a fraction with denominators up to `most`, and its unit: "", "pi", ..."""
    for name, unit in UNITS.items():
        guess = Fraction(value / unit).limit_denominator(most)
        if abs(float(guess) * unit - value) <= precision * abs(value):
            return guess, name
    return None


def _plain(value: float, precision: float) -> float:
    """`value` as a plain coefficient, a small fraction perhaps times pi; 0.0 if it is none."""
    guess, unit = as_fraction(value, 16, precision) or (0, "")
    return float(guess) * UNITS[unit]


def _write(found: Sum, times: str) -> str:
    text = ""
    for coefficient, name in found:
        names = "*".join([n for n in name.split("*") if n != "1"] + [times] * bool(times))
        size = _written(abs(coefficient))
        product = names if size == "1" and names else f"{size}*{names}" if names else size
        text += (" - " if coefficient < 0 else " + ") + product
    return (("-" if text.startswith(" - ") else "") + text[3:]) if text else "0"


def _written(value: float) -> str:
    guess, unit = as_fraction(value, 1000, 1e-8) or (f"{value:.6g}", "")
    return "*".join([str(guess)] * (guess != 1 or not unit) + [unit] * bool(unit))


def factor_names(ratio: float, sizes: Mapping[str, float]) -> Iterator[str]:
    """A ratio in every way that it can be made of known sizes: ``"1/B"``, ``"-1/(B*T)"``."""
    powers = [p for p in itertools.product((0, 1, -1), repeat=len(sizes)) if sum(map(abs, p)) <= 3]
    bases = itertools.product((1.0, 2.0, 0.5), (1, -1))
    ways = sorted(
        itertools.product(powers, bases),
        key=lambda way: sum(map(abs, way[0])) + 1.5 * (way[1][0] != 1),
    )
    for power, base in ways:
        product = math.prod(v**p for v, p in zip(sizes.values(), power, strict=True))
        if abs(math.prod(base) * product - ratio) <= 1e-8 * abs(ratio):
            yield _factor_text(math.prod(base), dict(zip(sizes, power, strict=True)))
    if plain := _plain(ratio, 1e-8):
        yield _factor_text(plain, {})


def _factor_text(base: float, powers: Mapping[str, int]) -> str:
    top, _, bottom = _written(abs(base)).partition("/")
    above, below = ([n for n, p in powers.items() if p == sign] for sign in (1, -1))
    over = "*".join([top] * (top != "1") + above) or "1"
    under = [bottom] * bool(bottom) + below
    under_text = f"/({'*'.join(under)})" if len(under) > 1 else "".join(f"/{n}" for n in under)
    return "-" * (base < 0) + over + under_text
