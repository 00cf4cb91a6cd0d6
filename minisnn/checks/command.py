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

from .. import layers, losses
from ..kernels import ON_CPU, backend_problem
from ..layers.base import Layer
from ..network import Network
from ..neurons import NEURONS, Neuron, lif
from ..resets import RESETS, Reset, hard
from ..surrogates import SURROGATES, Surrogate, atan
from ..thresholds import Softplus
from .calls import Broken, call, reported
from .check_adjoint import check_adjoint
from .check_function import check_function, check_loss
from .check_grads import check_grads, check_layer
from .explain_formulas import explain_step
from .report import Report
from .steps import Step, check_steps

__all__ = ["add_command", "check_file", "check_installation"]

Check = Callable[[], Report]


def add_command(commands: Any) -> None:
    """The subcommand ``check`` of a command line."""
    text = "check gradients: those a file defines, or the installation"
    parser = commands.add_parser("check", help=text)
    what = "a Python file, or one name in it (default: minisnn itself)"
    parser.add_argument("what", nargs="?", metavar="FILE.py[:NAME]", help=what)
    parser.add_argument("--json", action="store_true", help="print the reports as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command; the exit code is 0 if everything is right."""
    named = check_file(options.what) if options.what else check_installation()
    reports, wrong, begun = [], [], time.perf_counter()
    for name, check in named:
        try:
            report = check()
        except (ValueError, TypeError, ImportError) as error:  # a refusal
            report = Report(name, problems=[str(error)])
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


# -- a file


def check_file(what: str) -> Iterator[tuple[str, Check]]:
    """The checks of what a file defines: ``FILE.py`` or ``FILE.py:NAME``.

    Neurons, resets, surrogates, layers, networks, losses ``f(scores, targets)``, tuples
    ``(neuron, reset, surrogate)``, pairs of functions ``f`` and ``f_adjoint``, and reports of
    checks that the file runs by itself.
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
    skipped = types.ModuleType
    mine = {n: v for n, v in found.items() if not (n.startswith("__") or isinstance(v, skipped))}
    if name and name not in mine:
        defined = ", ".join(mine) or "nothing"
        raise ValueError(f"check: {path} has no {name!r}; it defines {defined}")
    chosen = {n: mine[n] for n in ([name] if name else mine)}
    checks = {n: _check_of(n, v, mine, str(path), bool(name)) for n, v in chosen.items()}
    if not any(checks.values()):
        raise ValueError(
            f"check: nothing to check in {what}: no ms.Neuron, ms.Reset, ms.Surrogate, layer, "
            "network, loss(scores, targets), pair f and f_adjoint, or report of a check"
        )
    yield from ((n, check) for n, check in checks.items() if check)


def _check_of(name: str, value: Any, mine: dict[str, Any], path: str, named: bool) -> Check | None:
    """The check that fits a value; ``None`` if there is none, or if minisnn defines the value."""
    parts: list[Any] = [lif, hard, atan(1.3)]
    kinds = [Neuron, Reset, Surrogate]
    is_ours = any(value is known for known in (*NEURONS.values(), *RESETS.values()))
    if is_ours and not named:
        return None
    if type(value) in kinds:
        parts[kinds.index(type(value))] = value
        return partial(check_adjoint, *parts)
    if isinstance(value, tuple) and [type(v) for v in value] == kinds:
        return partial(check_adjoint, *value)
    if isinstance(value, Report):
        return lambda: value
    if isinstance(value, Layer | Network):
        return partial(_check_net, value)
    if not isinstance(value, types.FunctionType) or value.__code__.co_filename != path:
        return None
    if tuple(inspect.signature(value).parameters) in (("scores", "targets"), ("scores", "labels")):
        return partial(_check_a_loss, value)
    # The functions that an ingredient in the file is made of are checked with it.
    used = [f for v in mine.values() if type(v) in kinds for f in vars(v).values()]
    adjoint = mine.get(f"{name}_adjoint")
    if isinstance(adjoint, types.FunctionType) and (named or not any(value is f for f in used)):
        return partial(check_pair, value, adjoint)
    if name == "forward" and callable(mine.get("backward")) and "inputs" in mine:
        return partial(check_function, value, mine["backward"], mine["inputs"], mine.get("params"))
    return None


def check_pair(forward: Callable, adjoint: Callable) -> Report:
    """Check ``f(*args)`` and ``f_adjoint(*d_results, *args)``, functions of numbers, by cells."""
    args, name = tuple(inspect.signature(forward).parameters), adjoint.__name__
    report = Report(f"{forward.__name__}, {name}")
    with reported(report.problems):
        values = call(forward, *np.full((len(args), 1), 0.7), what=forward.__name__)
        several = isinstance(values, tuple)
        outs = tuple(f"y{i}" for i in range(len(values))) if several else ("y",)
        results = call(adjoint, *np.full((len(outs) + len(args), 1), 0.7), what=name)
        count = len(results) if isinstance(results, tuple) else 1
        if count != len(args):
            expected = f"expected {len(args)}: one for each of {', '.join(args)}"
            raise Broken(f"{name} returns {count} value(s), {expected}")
        step = Step("pair", forward.__name__, forward, adjoint, args, outs)
        report.rows, report.problems = check_steps((step,))
        if not report.ok:
            report.find(explain_step(step))
    return report


def _check_net(value: Any) -> Report:
    first = next(iter(value.layers.values())) if isinstance(value, Network) else value
    weight, shape = first.params.get("weight"), getattr(first, "shape", None)
    if not shape and weight is not None and weight.ndim == 2:
        shape = weight.shape[:1]
    if not shape:
        cure = "call check_layer(layer, x) in the file"
        raise ValueError(f"{type(first).__name__} does not say the shape of its input: {cure}")
    x = np.random.default_rng(0).normal(0.5, 1.0, (5, 3, *shape))
    value = value.astype("float64")
    if isinstance(value, Layer):
        return check_layer(value, x)
    return check_grads(value, x, np.zeros(value.forward(x)[0].shape), losses.mse)


def _check_a_loss(loss: Callable) -> Report:
    """With labels; if it cannot take these, with an array of targets."""
    rng = np.random.default_rng(0)
    scores, labels, targets = (
        rng.normal(size=(6, 4)),
        rng.integers(0, 4, 6),
        rng.normal(size=(6, 4)),
    )
    report = check_loss(loss, scores, labels)
    return report if report.rows else check_loss(loss, scores, targets)


# -- the installation


def check_installation() -> Iterator[tuple[str, Check]]:
    """The losses; every neuron, reset, surrogate and layer of the package on each backend."""
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(6, 4)), rng.integers(0, 4, 6)
    for name, loss in losses.LOSSES.items():
        yield f"loss {name}", partial(check_loss, loss, scores, labels)
    x = rng.normal(0.5, 1.0, (4, 2, 2, 6, 6))
    kinds: list[dict[str, Any]] = [NEURONS, RESETS, SURROGATES]
    for backend in (name for name in ON_CPU if backend_problem(name) is None):
        for i in range(max(map(len, kinds))):
            names = [list(kind)[i % len(kind)] for kind in kinds]
            neuron, reset, curve = (kind[n] for kind, n in zip(kinds, names, strict=True))
            check = partial(check_adjoint, neuron, reset, curve(1.3), backend=backend)
            yield f"{', '.join(names)} on {backend}", check
        readouts: list[tuple[str, Layer]] = [
            ("vote", layers.PopulationVote(2)),
            ("rate", layers.Rate()),
        ]
        for name, readout in readouts:
            arguments = _network(rng, readout).using(backend), x, np.array([0, 1])
            check = partial(check_grads, *arguments, losses.cross_entropy, train=True, rng=rng)
            yield f"network with {name} on {backend}", check
        last = layers.MembraneReadout(4, over="max", dtype="float64", backend=backend)
        yield f"membrane readout on {backend}", partial(check_layer, last, x[:, :, 0, 0, :4])


def _network(rng: np.random.Generator, readout: Layer) -> Network:
    """Every kind of layer but the membrane readout, on images ``[T, B, 2, 6, 6]``."""
    net = Network(
        conv=layers.Conv2d(2, 3, 3, stride=1, padding=1, bias=True, rng=rng),
        norm=layers.BatchNorm2d(3, scale=0.7),
        lif1=layers.LIF((3, 6, 6), threshold=np.array([0.6]), constraint=Softplus()),
        max=layers.MaxPool2d(2),
        over_time=layers.BatchNorm2d(3, over="time_batch"),
        average=layers.AvgPool2d(3),
        flat=layers.Flatten(),
        drop=layers.Dropout(0.4),
        fc1=layers.Linear(3, 4, bias=True, rng=rng),
        recurrent=layers.Recurrent(4, rng=rng, threshold=0.6),
        fc2=layers.Linear(4, 4, rng=rng),
        lif2=layers.LIF(4, threshold=0.5),
        sum=layers.Add("recurrent"),
        readout=readout,
    )
    return net.astype("float64")
