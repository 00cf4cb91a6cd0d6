"""The command line: ``minisnn train`` and ``minisnn info``."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
import warnings
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

import minisnn as ms

from .kernels import BACKENDS, BackendUnavailable, backend_problem, default_backend

__all__ = ["main"]

RULES = {"stl": ms.STL, "sl": ms.SL, "tl": ms.TL, "stdl": ms.STDL}
COMPARED = ("sl", "tl", "stl")
WHAT_LEARNS = {
    "stl": "weights and thresholds", "sl": "weights", "tl": "thresholds", "stdl": "weights, thresholds and decays",
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (0: done, 1: training stopped or an error, 2: wrong usage)."""
    options = _parser().parse_args(arguments)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: print(f"minisnn: warning: {message}", file=sys.stderr)
            return int(options.run(options))
    except (ValueError, TypeError, OSError, ArithmeticError, BackendUnavailable) as error:
        print(f"minisnn: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("minisnn: interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="minisnn", description="Spiking neural networks without autograd.")
    parser.add_argument("--version", action="version", version=f"minisnn {ms.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    train = commands.add_parser(
        "train", help="train a network on handwritten digits", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    train.add_argument("--rule", choices=[*RULES, "compare"], default="stl", help="what learns; compare: sl, tl and stl")
    train.add_argument("--hidden", type=_whole, nargs="+", default=[128], metavar="N", help="neurons of the hidden layers")
    train.add_argument("--steps", type=_whole, default=8, help="time steps a sample")
    train.add_argument("--epochs", type=_whole, default=30, help="passes through the training data")
    train.add_argument("--batch", type=_whole, default=32, help="samples a batch")
    train.add_argument("--lr", type=_positive, default=2e-3, help="learning rate of Adam")
    train.add_argument("--threshold", type=_positive, default=1.0, help="threshold of every neuron at the start")
    train.add_argument("--seed", type=_natural, default=0, help="the run is a function of it")
    train.add_argument(
        "--backend", choices=list(BACKENDS), default=None, help="time loops (default: the best that is there)"
    )
    train.add_argument("--threads", type=_whole, default=None, help="threads of the compiled loops (default: all CPUs)")
    train.add_argument("--out", type=Path, default=None, metavar="DIR", help="where to write (default: runs/RULE-seedN)")
    train.set_defaults(run=_train)

    info = commands.add_parser("info", help="versions, backends, threads and the cache folder")
    info.set_defaults(run=_info)
    return parser


def _whole(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def _natural(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 0, got {text!r}")
    return int(text)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number > 0, got {text!r}")
    return value


# -- train


def _train(options: argparse.Namespace) -> int:
    ms.set_threads(options.threads)
    out = _out_folder(options.out, f"{options.rule}-seed{options.seed}")
    names = COMPARED if options.rule == "compare" else (options.rule,)
    histories, results = {}, {}
    for name in names:
        histories[name], results[name] = _train_rule(name, options, out, f"{name}_" if len(names) > 1 else "")
    if len(names) > 1:
        ms.plot.save(ms.plot.compare(histories), out / "compare.png")
    record = {
        "command": {k: v for k, v in vars(options).items() if k not in ("run", "out")},
        "versions": _versions(),
        "runs": {n: {"rule": n, **results[n], "history": json.loads(histories[n].to_json())} for n in names},
    }
    _write(out / "history.json", json.dumps(record, indent=1).encode())
    print(f"\nwritten to {out}: {', '.join(sorted(p.name for p in out.iterdir() if not p.name.startswith('.')))}")
    for name in names:
        prefix = f"{name} " if len(names) > 1 else ""
        print(f"{prefix}test accuracy: {100 * results[name]['test_accuracy']:.1f} %")
    return 0


def _train_rule(name: str, options: argparse.Namespace, out: Path, prefix: str) -> tuple[ms.History, dict[str, Any]]:
    net = _network(options)
    encoder = ms.encode.Bernoulli(options.steps)
    optimizer = ms.Adam(net, RULES[name], lr=options.lr)
    before = {n: p.copy() for n, p in net.params("*.threshold").items()}
    print(f"{name}: {WHAT_LEARNS[name]} learn")
    print(net)
    begun = time.perf_counter()
    history = ms.fit(
        net, optimizer, ms.data.digits("train"), validation=ms.data.digits("validation"), keep="best", encoder=encoder,
        epochs=options.epochs, batch=options.batch, seed=options.seed,
    )  # fmt: skip
    print(_table(history))
    print(f"epoch {history.best_epoch} kept (*: best validation accuracy), {time.perf_counter() - begun:.1f} s of training")
    # The test set is opened once, here, after every choice has been made.
    images, labels = ms.data.digits("test")
    loss, share = ms.train.evaluate(net, (images, labels), encoder=encoder, seed=options.seed)
    _, caches = net.forward(encoder(images[:1], np.random.default_rng(options.seed)))
    figures = {
        "learning_curves": ms.plot.learning_curves(history),
        "firing_rates": ms.plot.firing_rates(history),
        "thresholds": ms.plot.thresholds(before, net.params("*.threshold")),
        "raster": ms.plot.raster(net["lif1"], caches["lif1"]),
    }
    for figure_name, figure in figures.items():
        ms.plot.save(figure, out / f"{prefix}{figure_name}.png")
    _write_model(out / f"{prefix}model.npz", net)
    return history, {"test_loss": loss, "test_accuracy": share}


def _network(options: argparse.Namespace) -> ms.Network:
    rng = np.random.default_rng(options.seed)
    layers: dict[str, ms.Layer] = {}
    sizes = [64, *options.hidden, 100]
    for i, (n_in, n_out) in enumerate(pairwise(sizes), start=1):
        layers[f"fc{i}"] = ms.Linear(n_in, n_out, rng=rng)
        layers[f"lif{i}"] = ms.LIF(n_out, threshold=options.threshold, backend=options.backend)
    return ms.Network(**layers, vote=ms.PopulationVote(10))


def _table(history: ms.History, most: int = 12) -> str:
    """The history's table; of a long one every few epochs, the best and the last."""
    head, lines = str(history).splitlines()[:2], str(history).splitlines()[2:]
    every = -(-len(lines) // most)
    kept = {len(lines) - 1, (history.best_epoch or 1) - 1, *range(0, len(lines), every)}
    return "\n".join([*head, *(lines[i] for i in sorted(kept))])


def _out_folder(asked: Path | None, name: str) -> Path:
    """The folder to write to, made now: nobody should train first and then learn that it cannot be written."""
    out = asked
    if out is None:  # never over an earlier run that nobody asked to replace
        out, number = Path("runs") / name, 2
        while out.exists():
            out, number = Path("runs") / f"{name}-{number}", number + 1
    out.mkdir(parents=True, exist_ok=True)
    if not os.access(out, os.W_OK):
        raise PermissionError(f"--out: {out} cannot be written to")
    return out


def _write(path: Path, content: bytes) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(content)
    part.replace(path)


def _write_model(path: Path, net: ms.Network) -> None:
    """Every parameter by its name, as plain arrays."""
    part = path.with_name(f".{path.name}.part.npz")
    np.savez(part, allow_pickle=False, **net.params())
    part.replace(path)


# -- info


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {"minisnn": ms.__version__, "python": platform.python_version()}
    for package in ("numpy", "numba", "matplotlib", "cupy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _info(options: argparse.Namespace) -> int:
    for name, version in _versions().items():
        print(f"{name:<12} {version}")
    print(f"{'platform':<12} {platform.platform()}, {os.cpu_count()} CPUs")
    for name in BACKENDS:
        problem = backend_problem(name)
        mark = " (default)" if problem is None and name == default_backend() else ""
        print(f"{'backend':<12} {name}: {'ready' + mark if problem is None else problem}")
    print(f"{'backend':<12} cupy: not part of this version")
    print(f"{'threads':<12} {ms.get_threads()} for compiled loops (minisnn.set_threads, MINISNN_THREADS)")
    print(f"{'BLAS':<12} {_blas()}")
    if backend_problem("numba") is None:
        from .kernels.compiled import cache_folder

        print(f"{'cache':<12} {cache_folder()} (NUMBA_CACHE_DIR moves it)")
    return 0


def _blas() -> str:
    found = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    threads = os.environ.get("OPENBLAS_NUM_THREADS") or os.environ.get("OMP_NUM_THREADS") or "its own choice"
    return f"{found.get('name', 'unknown')} {found.get('version', '')}, threads: {threads}"
