"""Plain functions: a forward and a backward of your own, or a loss, without a base class."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from ..kernels.arrays import Array
from .calls import Broken, as_gradient, call, changed, name_of, named_gradients, pair, snapshot, watched
from .differences import compare_arrays, curves, stencil
from .explain_layers import recognise
from .report import Finding, Report
from .sums import evaluate, explain, monomials, same, write

__all__ = ["check_function", "check_loss"]

#: Arrays of up to so many entries are compared entry by entry.
ENTRIES = 40
ROUGH = 1e-6


def check_function(
    forward: Callable[..., Any],
    backward: Callable[..., Any],
    inputs: Any,
    params: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    entries: int = ENTRIES,
) -> Report:
    """Check a backward of your own against differences of its forward.

    Parameters
    ----------
    forward : ``forward(x, **params) -> (y, cache)``.
    backward : ``backward(d_y, cache) -> (d_x, grads)``: the gradient of the input in the input's form, and a dict of the
        parameters' gradients by name (``{}`` where there are none).
    inputs : what `forward` takes first: an array, a tuple of arrays (``forward(a, b, **params)``, d_x a tuple likewise), or
        a dict of arrays (``forward(**inputs, **params)``, d_x a dict likewise).
    params : a dict of arrays or numbers, by name.
    seed : of the weights ``d_y`` that make one number of the output, and of directions and entries drawn.
    entries : arrays of up to so many entries are compared entry by entry, larger ones at so many and along random
        directions.

    Returns
    -------
    report : as for :func:`minisnn.checks.check_grads`.  A derivation that raises, returns too many or too few values, a
        wrong shape or NaN, or writes into its input is reported in `problems`.

    Raises
    ------
    TypeError : an input or a parameter is not float64.
    """
    named = {"x": inputs}
    if isinstance(inputs, tuple | list):
        named = {f"x{i}": a for i, a in enumerate(inputs)}
    elif isinstance(inputs, Mapping):
        named = dict(inputs)
    given = {n: _float64(a, n) for n, a in named.items()}
    weights = {n: _float64(a, n) for n, a in (params or {}).items()}
    if double := set(given) & set(weights):
        raise ValueError(f"check_function: {sorted(double)} is both an input and a parameter")
    scalars = {n for n, a in {**named, **(params or {})}.items() if isinstance(a, int | float)}
    form = "dict" if isinstance(inputs, Mapping) else "tuple" if isinstance(inputs, tuple | list) else "array"
    report = Report(f"gradients of {name_of(forward)}, {name_of(backward)}")
    subject = _Function(forward, backward, form, tuple(given), tuple(weights), scalars, report)
    try:
        arrays = {**given, **weights}
        y, cache = subject.forward(arrays)
        d_y = {n: np.random.default_rng([seed, 23]).normal(size=v.shape) for n, v in y.items()}
        gradients = subject.backward(arrays, y, d_y, cache)

        def value(moved: Mapping[str, Array]) -> tuple[float, None]:
            return float(sum((v * d_y[n]).sum() for n, v in subject.forward(moved)[0].items())), None

        rng = np.random.default_rng([seed, 29])
        report.rows = compare_arrays("function", value, arrays, gradients, rng, entries=entries)
        report.rows = [_renamed(row) for row in report.rows]
        report.pictures["v curve"] = curves(value, arrays, gradients, rng)
        if not report.ok:
            report.find(_explain(subject, arrays, seed))
    except Broken as error:
        report.problems.append(str(error))
    report.problems = list(dict.fromkeys(report.problems))
    return report


def check_loss(loss: Callable[..., Any], scores: Array, targets: Any, *, seed: int = 0, entries: int = ENTRIES) -> Report:
    """Check that the gradient a loss returns is its derivative.

    Parameters
    ----------
    loss : ``loss(scores, targets) -> (number, d_scores)``.
    scores : where to check it, float64 ``[B, C]``.   targets : as for `loss`.
    seed, entries : as for :func:`check_function`.

    Returns
    -------
    report : as for :func:`check_function`.

    Raises
    ------
    TypeError : `scores` are not float64.
    """
    scores = _float64(scores, "scores")
    report = Report(f"gradient of the loss {name_of(loss)}")

    def run(at: Array, aims: Any, watch: bool = False) -> tuple[float, Array]:
        at = at.copy()
        before = snapshot(scores=at, targets=aims)
        value, d_scores = pair(call(loss, at, aims, what="the loss"), "the loss", "(number, d_scores)")
        if watch:
            report.problems += [f"the loss writes into {name}" for name in changed(before)]
        if np.shape(value) != () or not np.isfinite(value):
            raise Broken(f"the loss returns {value!r}, expected one finite number")
        return float(value), as_gradient(d_scores, at, "d_scores from the loss")

    try:
        _, d_scores = run(scores, targets, watch=True)
        rng = np.random.default_rng([seed, 29])

        def value(moved: Mapping[str, Array]) -> tuple[float, None]:
            return run(moved["d_scores"], targets)[0], None

        report.rows = compare_arrays("loss", value, {"d_scores": scores}, {"d_scores": d_scores}, rng, entries=entries)
        if not report.ok:
            report.find(_explain_loss(run, scores, targets, seed))
    except Broken as error:
        report.problems.append(str(error))
    return report


def _renamed(row: Any) -> Any:
    return replace(row, name=f"d_{row.name}")


def _float64(value: Any, name: str) -> Array:
    array = np.asarray(value)
    if array.dtype == np.float64 or isinstance(value, int | float):
        return array.astype(np.float64)
    is_float = array.dtype.kind == "f"
    hint = "single precision cannot tell a wrong gradient from rounding" if is_float else "only floats can be shifted"
    raise TypeError(f"{name} has dtype {array.dtype}: use {name}.astype('float64'); {hint}")


class _Function:
    """A user's pair of functions, called with copies and watched."""

    def __init__(
        self, forward: Callable, backward: Callable, form: str, inputs: tuple[str, ...], params: tuple[str, ...],
        scalars: set[str], report: Report,
    ) -> None:  # fmt: skip
        self._forward, self._backward, self.form, self.inputs, self.params = forward, backward, form, inputs, params
        self.scalars, self.report = scalars, report

    def forward(self, arrays: Mapping[str, Array]) -> tuple[dict[str, Array], Any]:
        """Output by name (one array: ``"y"``) and cache; the function gets copies of its own."""
        own = {n: float(a) if n in self.scalars else a.copy() for n, a in arrays.items()}
        params = {n: own[n] for n in self.params}
        positional = [] if self.form == "dict" else [own[n] for n in self.inputs]
        named = {n: own[n] for n in self.inputs} if self.form == "dict" else {}
        before = snapshot(**own)
        result = call(self._forward, *positional, **named, **params, what="forward")
        self.report.problems += [f"forward writes into {n}" for n in changed(before) if f"forward writes into {n}" not in
                                 self.report.problems]  # fmt: skip
        y, cache = pair(result, "forward", "(y, cache)")
        found = {f"y{i}": v for i, v in enumerate(y)} if isinstance(y, tuple | list) else y
        found = dict(found) if isinstance(found, Mapping) else {"y": found}
        self.one = not isinstance(y, tuple | list | Mapping)
        self.kind = type(y)
        outputs = {}
        for n, v in found.items():
            try:
                outputs[n] = np.asarray(v, np.float64)
            except Exception:
                raise Broken(f"forward returns {type(v).__name__} as {n}, expected an array of numbers") from None
            if not np.isfinite(outputs[n]).all():
                raise Broken(f"forward returns {n} with entries that are not finite: nothing can be compared at this input")
        return outputs, cache

    def backward(self, arrays: Mapping[str, Array], y: dict, d_y: Mapping[str, Array], cache: Any) -> dict[str, Array]:
        """The gradients by name, watched for what a backward must not do."""
        handed: Any = {n: d.copy() for n, d in d_y.items()}
        if self.one:
            handed = handed["y"] if handed["y"].shape else float(handed["y"])
        elif not issubclass(self.kind, Mapping):
            handed = tuple(handed.values())
        before = snapshot(d_y=handed, cache=cache)
        result = watched(partial(self._backward, handed, cache), before, self.report.problems)
        d_x, grads = pair(result, "backward", "(d_x, grads)")
        named: dict[str, Any] = {"x": d_x}
        if self.form != "array":
            named = named_gradients(d_x, {n: arrays[n] for n in self.inputs}, "backward, as d_x,")
        named |= named_gradients(grads if self.params or grads else {}, {n: arrays[n] for n in self.params}, "backward")
        return {n: as_gradient(named[n], a, f"d_{n} from backward") for n, a in arrays.items()}


# -- explanations


def _explain(subject: _Function, arrays: dict[str, Array], seed: int) -> list[Finding]:
    """Gradients recognised: 0, a factor, transposed, another's, or a sum of products; verified at a fresh point."""
    rng = np.random.default_rng([seed, 31])
    here = arrays
    spread = {n: float(np.std(a)) or 1.0 for n, a in arrays.items()}
    facts: list[dict[str, list[str]]] = []
    quiet = subject.report.problems[:]
    for again in range(2):
        y, cache = subject.forward(here)
        d_y = {n: np.random.default_rng([seed, 23 + again]).normal(size=v.shape) for n, v in y.items()}
        yours = subject.backward(here, y, d_y, cache)
        true = {n: _true(subject, here, d_y, n) for n in here}
        facts.append({n: list(_facts(n, yours, true, here, y, d_y)) for n in here if not same(yours[n], true[n], ROUGH)})
        here = {n: a + 0.1 * spread[n] * rng.normal(size=a.shape) for n, a in arrays.items()}
    subject.report.problems = quiet
    found = []
    for name, texts in facts[0].items():
        held = [text for text in texts if text in facts[1].get(name, [])]
        if held and (sentence := held[0]):
            found.append(_finding(f"d_{name}", sentence))
    return found


def _finding(name: str, text: str) -> Finding:
    """A sentence, or two formulas with a bar between."""
    yours, bar, true = text.partition(" | ")
    return Finding(name, "", yours, true) if bar else Finding(name, text)


def _true(subject: _Function, arrays: dict[str, Array], d_y: Mapping[str, Array], name: str) -> Array:
    if arrays[name].size > 600:
        return np.full(arrays[name].shape, np.nan)

    def value(moved: Array) -> float:
        return float(sum((v * d_y[n]).sum() for n, v in subject.forward({**arrays, name: moved})[0].items()))

    return stencil(value, arrays[name], 1e-3 * max(float(np.std(arrays[name])), 1.0))


def _facts(
    name: str, yours: dict[str, Array], true: dict[str, Array], arrays: dict[str, Array], y: dict[str, Array], d_y: Mapping
) -> Iterator[str]:
    mine, right = yours[name], true[name]
    if not right.any():
        yield "there is no such path: the output does not depend on it, the gradient should be 0"
        return
    lengths = {f"{n} (the length of an axis)": float(n) for v in (*arrays.values(), *y.values()) for n in v.shape if n > 1}
    yield from recognise(mine, iter([("", right)]), lengths)
    if right.ndim == 2 and right.shape[0] == right.shape[1] and same(mine, right.T, ROUGH):
        yield "it is transposed"
    for other, gradient in true.items():
        if other != name and gradient.shape == mine.shape and same(mine, gradient, ROUGH):
            yield f"this is the gradient of {other}: two results are mixed up"
    yield from _sums(name, mine, right, arrays, y, d_y)


def _sums(
    name: str, mine: Array, right: Array, arrays: dict[str, Array], y: dict[str, Array], d_y: Mapping
) -> Iterator[str]:
    """Yours and the true one as sums of products, for functions that work entry by entry."""
    if len(y) > 1 or mine.size > 2000:
        return
    (out, value), shape = next(iter(y.items())), np.shape(next(iter(y.values())))
    try:
        known = {n: np.broadcast_to(a, shape) for n, a in arrays.items() if np.broadcast_shapes(a.shape, shape) == shape}
    except ValueError:
        return
    if name not in known or len(known) > 6:
        return
    terms = monomials({**known, "y": value}, 3 if len(known) < 5 else 2)
    summed = {n: _reduced(v * d_y[out], mine.shape) for n, v in terms.items()}
    texts = []
    for target in (mine, right):
        found = explain(target, summed, precision=ROUGH) if target.size > 3 else None
        if found is None or not same(target, evaluate(found, summed), ROUGH):
            return
        texts.append(write(found, "d_y"))
    if texts[0] != texts[1]:
        yield " | ".join(texts)


def _reduced(a: Array, shape: tuple[int, ...]) -> Array:
    """`a` summed over the axes that `shape` does not have."""
    extra = a.ndim - len(shape)
    a = a.sum(axis=tuple(range(extra)))
    return a.sum(axis=tuple(i for i, n in enumerate(shape) if n == 1 and a.shape[i] > 1), keepdims=True).reshape(shape)


def _explain_loss(run: Callable, scores: Array, targets: Any, seed: int) -> list[Finding]:
    """A loss's gradient, for two batch sizes: a factor by name, or a sum of what losses are made of."""
    rng, aims = np.random.default_rng([seed, 37]), np.asarray(targets)
    facts, mine, true = [], [], []
    for batch in (len(scores), len(scores) + 3):
        rows = np.arange(batch) % len(scores)
        at = scores[rows] + 0.3 * rng.normal(size=(batch, *scores.shape[1:]))
        try:
            some = targets if aims.shape[:1] != scores.shape[:1] else aims[rows]
            yours, right = run(at, some)[1], stencil(partial(_first_of, run, some), at, 1e-3)
        except Broken:
            return []
        sizes = dict(zip(("B", "C"), map(float, at.shape), strict=False))
        facts.append(list(recognise(yours, iter([("", right)]), sizes)))
        terms = _loss_terms(at, np.asarray(some))
        mine.append(list(_loss_sums(yours, terms, sizes)))
        true.append(list(_loss_sums(right, terms, sizes)))
    sentence = next((text for text in facts[0] if text in facts[1]), "")
    yours, right = (_in_both(*pairs) for pairs in (mine, true))
    if not (sentence or yours):
        return []
    return [Finding("d_scores", sentence, yours, right if yours else "")]


def _in_both(first: list[str], second: list[str]) -> str:
    """The text with fewest digits that holds for both; "" if none does."""
    return min((text for text in first if text in second), key=lambda text: sum(map(str.isdigit, text)), default="")


def _first_of(run: Callable, targets: Any, at: Array) -> float:
    return run(at, targets)[0]


def _loss_terms(scores: Array, targets: Array) -> dict[str, Array]:
    """What the gradients of losses are made of."""
    known = {"scores": scores}
    if targets.shape == scores.shape:
        known["targets"] = targets.astype(float)
    elif targets.shape == scores.shape[:1] and scores.ndim == 2 and targets.dtype.kind in "iu":
        known["onehot"] = np.eye(scores.shape[1])[targets]
    if scores.ndim == 2:
        e = np.exp(scores - scores.max(axis=1, keepdims=True))
        known["softmax"] = e / e.sum(axis=1, keepdims=True)
    return monomials(known, 2)


def _loss_sums(gradient: Array, terms: dict[str, Array], sizes: Mapping[str, float]) -> Iterator[str]:
    for names in ((), ("B",), ("B", "C"), ("C",)):
        if set(names) <= set(sizes) and (found := explain(gradient * math.prod(sizes[n] for n in names), terms, 2, ROUGH)):
            text = f"({write(found)})" if len(found) > 1 and names else write(found)
            yield text + (f"/({'*'.join(names)})" if len(names) > 1 else f"/{names[0]}" if names else "")
