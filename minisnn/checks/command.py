"""``minisnn check``: what a file defines, or without a file the installation."""

from __future__ import annotations

import argparse
import inspect
import json
import runpy
import sys
import time
import types
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .. import layers, losses, neurons, resets, surrogates
from ..kernels import ON_CPU, backend_problem
from ..layers.base import Layer
from ..network import Network
from ..thresholds import Softplus
from .calls import Broken, call
from .check_adjoint import check_adjoint
from .check_function import check_function, check_loss
from .check_grads import check_grads, check_layer
from .report import Report
from .steps import Step, check_steps

__all__ = ["add_command", "check_file", "check_installation"]

Named = Iterator[tuple[str, Callable[[], Report]]]


def add_command(commands: Any) -> None:
    """The subcommand ``check`` of a command line."""
    parser = commands.add_parser(
        "check", help="check gradients: those a file defines, or the installation"
    )
    parser.add_argument(
        "what",
        nargs="?",
        metavar="FILE.py[:NAME]",
        help="a Python file, or one name in it (default: minisnn itself)",
    )
    parser.add_argument("--json", action="store_true", help="print the reports as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command; the exit code is 0 if everything is right."""
    named = check_file(options.what) if options.what else check_installation()
    reports, wrong, begun = [], [], time.perf_counter()
    for name, check in named:
        report = _run_one(name, check)
        reports.append(json.loads(report.to_json()) | {"name": name})
        wrong += [] if report.ok else [name]
        if not options.json and (options.what or not report.ok):
            print(f"{name}: {report}\n")
        elif not options.json:
            print(f"  {name:<58} ok  {len(report.rows)} right", flush=True)
    if options.json:
        print(json.dumps({"ok": not wrong, "reports": reports}, indent=1))
    else:
        verdict = f"NOT RIGHT: {', '.join(wrong)}" if wrong else "all right"
        print(f"{len(reports)} checked in {time.perf_counter() - begun:.0f} s, {verdict}")
    return int(bool(wrong))


def _run_one(name: str, check: Callable[[], Report]) -> Report:
    try:
        return check()
    except (
        ValueError,
        TypeError,
        ImportError,
    ) as error:  # a refusal: nothing could be said about it
        return Report(name, problems=[str(error)])


# -- a file


def check_file(what: str) -> Named:
    """The checks of what a file defines: ``FILE.py`` or ``FILE.py:NAME``.

    Neurons, resets, surrogates, layers, networks, losses ``f(scores, targets)``, tuples ``(neuron, reset, surrogate)``,
    pairs of functions ``f`` and ``f_adjoint``, and reports of checks that the file runs by itself.
    """
    file, _, name = what.rpartition(":") if ".py:" in what else (what, "", "")
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"check: there is no file {file}")
    sys.path.insert(0, str(path.parent))
    try:
        found = call(runpy.run_path, str(path), run_name=path.stem, what=str(path))
    except Broken as error:
        raise ValueError(str(error)) from None
    finally:
        sys.path.remove(str(path.parent))
    mine = {
        n: v
        for n, v in found.items()
        if not n.startswith("__") and not isinstance(v, types.ModuleType)
    }
    if name and name not in mine:
        raise ValueError(
            f"check: {path} has no {name!r}; it defines {', '.join(mine) or 'nothing'}"
        )
    checks = [
        (n, check)
        for n, v in mine.items()
        if name in ("", n) and (check := _check_of(n, v, mine, str(path), bool(name)))
    ]
    if not checks:
        raise ValueError(
            f"check: nothing to check in {what}: no ms.Neuron, ms.Reset, ms.Surrogate, layer, network, "
            "loss(scores, targets), "
            "pair f and f_adjoint, or report of a check"
        )
    yield from checks


def _check_of(
    name: str, value: Any, mine: dict[str, Any], path: str, asked: bool
) -> Callable[[], Report] | None:
    """The check that fits a value; ``None`` where there is none, or where it is one of minisnn's own."""
    known = [*neurons.NEURONS.values(), *resets.RESETS.values()]
    if any(value is one for one in known) and not asked:
        return None
    lif, hard, atan = neurons.lif, resets.hard, surrogates.atan(1.3)
    if isinstance(value, neurons.Neuron):
        return lambda: check_adjoint(value, hard, atan)
    if isinstance(value, resets.Reset):
        return lambda: check_adjoint(lif, value, atan)
    if isinstance(value, surrogates.Surrogate):
        return lambda: check_adjoint(lif, hard, value)
    if isinstance(value, tuple) and [type(v) for v in value] == [
        neurons.Neuron,
        resets.Reset,
        surrogates.Surrogate,
    ]:
        return lambda: check_adjoint(*value)
    if isinstance(value, Report):
        return lambda: value
    if isinstance(value, Layer | Network):
        return lambda: _check_net(value)
    if not isinstance(value, types.FunctionType) or value.__code__.co_filename != path:
        return None
    arguments = tuple(inspect.signature(value).parameters)
    if arguments in (("scores", "targets"), ("scores", "labels")):
        return lambda: _check_a_loss(value)
    adjoint, used = mine.get(f"{name}_adjoint"), _used(mine)
    if isinstance(adjoint, types.FunctionType) and (asked or value not in used):
        return lambda: check_pair(value, adjoint)
    if name == "forward" and callable(mine.get("backward")) and "inputs" in mine:
        return lambda: check_function(value, mine["backward"], mine["inputs"], mine.get("params"))
    return None


def _used(mine: dict[str, Any]) -> list[Any]:
    """The functions that an ingredient in the file is made of: they are checked with it."""
    kinds = (neurons.Neuron, resets.Reset, surrogates.Surrogate)
    return [
        f for v in mine.values() if isinstance(v, kinds) for f in vars(v).values() if callable(f)
    ]


def check_pair(forward: Callable, adjoint: Callable) -> Report:
    """Check ``f(*args)`` and ``f_adjoint(*d_results, *args)``, functions of plain numbers, cell by cell."""
    args = tuple(inspect.signature(forward).parameters)
    report = Report(f"{forward.__name__}, {adjoint.__name__}")
    try:
        values = call(forward, *np.full((len(args), 1), 0.7), what=forward.__name__)
        outs = tuple(f"y{i}" for i in range(len(values))) if isinstance(values, tuple) else ("y",)
        results = call(adjoint, *np.full((len(outs) + len(args), 1), 0.7), what=adjoint.__name__)
        count = len(results) if isinstance(results, tuple) else 1
        if count != len(args):
            raise Broken(
                f"{adjoint.__name__} returns {count} value(s), expected {len(args)}: one for each of {', '.join(args)}"
            )
        step = Step(f"pair {forward.__name__}", forward, adjoint, args, outs, "pair")
        report.rows, report.problems = check_steps((step,))
        if not report.ok:
            from .explain_formulas import explain_step

            report.find(explain_step(step))
    except Broken as error:
        report.problems.append(str(error))
    return report


def _check_net(value: Any) -> Report:
    first = next(iter(value.layers.values())) if isinstance(value, Network) else value
    weight = first.params.get("weight")
    shape = getattr(first, "shape", None) or (
        None if weight is None or weight.ndim != 2 else weight.shape[:1]
    )
    if shape is None:
        raise ValueError(
            f"{type(first).__name__} does not say the shape of its input: call check_layer(layer, x) in the file"
        )
    x = np.random.default_rng(0).normal(0.5, 1.0, (5, 3, *shape))
    value = value.astype("float64")
    if isinstance(value, Layer):
        return check_layer(value, x)
    return check_grads(value, x, np.zeros(value.forward(x)[0].shape), losses.mse)


def _check_a_loss(loss: Callable) -> Report:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(6, 4))
    report = check_loss(loss, scores, rng.integers(0, 4, 6))
    return report if report.rows else check_loss(loss, scores, rng.normal(size=(6, 4)))


# -- the installation


def check_installation() -> Named:
    """Neurons x resets on the reference, surrogates in turn; each once on other backends; losses, layers, networks."""
    curves = list(surrogates.SURROGATES)
    pairs = [(n, r) for n in neurons.NEURONS for r in resets.RESETS]
    for i, (n, r) in enumerate(pairs):
        yield from _dynamics(n, r, curves[i % len(curves)], "numpy", draws=2)
    backends = [name for name in ON_CPU if backend_problem(name) is None]
    for backend in backends:
        some = (
            max(len(neurons.NEURONS), len(resets.RESETS), len(curves)) if backend != "numpy" else 0
        )
        for i in range(some):
            n, r = (
                list(neurons.NEURONS)[i % len(neurons.NEURONS)],
                list(resets.RESETS)[i % len(resets.RESETS)],
            )
            yield from _dynamics(n, r, curves[i % len(curves)], backend, draws=1)
    rng = np.random.default_rng(0)
    for name, loss in losses.LOSSES.items():
        yield (
            f"loss {name}",
            partial(check_loss, loss, rng.normal(size=(6, 4)), rng.integers(0, 4, 6)),
        )
    x, images = rng.normal(0.5, 1.0, (5, 3, 4)), rng.normal(0.5, 1.0, (4, 2, 2, 5, 7))
    for backend in backends:
        for name, layer in _layers(rng).items():
            sample = images if name in IMAGES else x
            yield (
                f"layer {name} on {backend}",
                partial(check_layer, layer.using(backend), sample, train=True, rng=rng),
            )
        net = _network(rng).using(backend)
        yield (
            f"network on {backend}",
            partial(check_grads, net, x, np.array([0, 1, 1]), losses.cross_entropy),
        )


def _dynamics(neuron: str, reset: str, curve: str, backend: str, draws: int) -> Named:
    parts = neurons.NEURONS[neuron], resets.RESETS[reset], surrogates.SURROGATES[curve](1.3)
    yield (
        f"{neuron}, {reset}, {curve} on {backend}",
        lambda: check_adjoint(*parts, backend=backend, draws=draws),
    )


#: Layers that take images.
IMAGES = (
    "convolution",
    "normalisation",
    "normalisation over time",
    "maximum pooling",
    "average pooling",
)


def _layers(rng: np.random.Generator) -> dict[str, Layer]:
    options: dict[str, Any] = {"dtype": "float64"}
    return {
        "linear": layers.Linear(4, 3, bias=True, rng=rng, dtype="float64"),
        "convolution": layers.Conv2d(
            2, 3, 3, stride=2, padding=1, bias=True, rng=rng, dtype="float64"
        ),
        "normalisation": layers.BatchNorm2d(2, scale=0.7, dtype="float64"),
        "normalisation over time": layers.BatchNorm2d(2, over="time_batch", dtype="float64"),
        "maximum pooling": layers.MaxPool2d(2, "float64"),
        "average pooling": layers.AvgPool2d(2, "float64"),
        "lif": layers.LIF(4, threshold=0.6, **options),
        "lif, softplus": layers.LIF(4, threshold=np.array([0.6]), constraint=Softplus(), **options),
        "recurrent": layers.Recurrent(4, rng=rng, threshold=0.6, **options),
        "membrane readout": layers.MembraneReadout(4, **options),
        "membrane readout, max": layers.MembraneReadout(4, over="max", **options),
        "dropout": layers.Dropout(0.4, dtype="float64"),
        "rate": layers.Rate("float64"),
        "vote": layers.PopulationVote(2, "float64"),
        "flatten": layers.Flatten().astype("float64"),
    }


def _network(rng: np.random.Generator) -> Network:
    options: dict[str, Any] = {"dtype": "float64", "threshold": 0.5}
    return Network(
        fc1=layers.Linear(4, 6, rng=rng, dtype="float64"), lif1=layers.LIF(6, **options),
        fc2=layers.Linear(6, 6, rng=rng, dtype="float64"), lif2=layers.LIF(6, **options), sum=layers.Add("lif1"),
        vote=layers.PopulationVote(2),
    )  # fmt: skip
