"""The command line: ``minisnn train``, ``eval``, ``data``, ``check``, ``bench`` and ``info``."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import minisnn as ms

from . import checkpoint as checkpoints
from . import jobs
from .bench import command as bench
from .checks import command
from .kernels import BACKENDS, backend_problem, default_backend
from .kernels.gpu_info import describe

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (0: done, 1: training stopped or an error, 2: wrong usage)."""
    options = _parser().parse_args(arguments)
    options.parse = _parse
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: print(f"minisnn: warning: {message}", file=sys.stderr)
            return int(options.run(options))
    except (ValueError, TypeError, OSError, ArithmeticError, ImportError) as error:
        print(f"minisnn: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("minisnn: interrupted", file=sys.stderr)
        return 130


class _Parser(argparse.ArgumentParser):
    """For words that come from a file: a wrong one is an error like any other, and does not end the process."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def _parse(words: Sequence[str]) -> argparse.Namespace:
    return _parser(_Parser).parse_args(words)


def _parser(kind: type[argparse.ArgumentParser] = argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser = kind(prog="minisnn", description="Spiking neural networks without autograd.")
    parser.add_argument("--version", action="version", version=f"minisnn {ms.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=kind)
    _add_train(commands)

    evaluate = commands.add_parser("eval", help="accuracy of a saved network on its test set")
    evaluate.add_argument("file", type=Path, metavar="FILE", help="model.npz, or a checkpoint: its last epoch")
    evaluate.add_argument("--data", choices=list(ms.data.SETS), default=None, help="default: what it was trained on")
    _add_data_dir(evaluate)
    evaluate.add_argument("--steps", type=_whole, default=None, help="time steps a sample (default: as in training)")
    evaluate.add_argument("--seed", type=_natural, default=None, help="of the encoding (default: as in training)")
    evaluate.set_defaults(run=jobs.evaluate)

    data = commands.add_parser("data", help="download a data set")
    get = data.add_subparsers(required=True, metavar="COMMAND", parser_class=kind).add_parser("get", help="download it")
    get.add_argument("name", choices=[n for n, one in ms.data.SETS.items() if one.files], metavar="NAME",
                     help="mnist or fashion-mnist")  # fmt: skip
    _add_data_dir(get)
    get.set_defaults(run=_get)

    command.add_command(commands)
    bench.add_command(commands, _whole)

    info = commands.add_parser("info", help="versions, backends, threads and the cache folder")
    info.set_defaults(run=_info)
    return parser


def _add_train(commands: Any) -> None:
    train = commands.add_parser("train", help="train a network on images of digits or clothes")
    train.add_argument("--rule", choices=[*jobs.RULES, "compare"], default="stl",
                       help="what learns (default: stl); compare: sl, tl and stl")  # fmt: skip
    train.add_argument("--data", choices=list(jobs.DEFAULTS), default="digits",
                       help="default: digits, which are bundled")  # fmt: skip
    _add_data_dir(train)
    train.add_argument("--model", choices=["mlp", "stl-mnist"], default="mlp",
                       help="fully connected layers (default), or the published convolutional network")  # fmt: skip
    train.add_argument("--width", type=_whole, default=None, help="channels of the published network (default: 128)")
    train.add_argument("--hidden", type=_whole, nargs="+", default=None, metavar="N",
                       help="neurons of the hidden layers (default: 128)")  # fmt: skip
    train.add_argument("--steps", type=_whole, default=None, help="time steps a sample (default: 8; stl-mnist: 4)")
    chosen = {n: ", ".join(f"{v[n]:g} for {d}" for d, v in jobs.DEFAULTS.items()) for n in ("epochs", "batch", "lr")}
    train.add_argument("--epochs", type=_whole, default=None, help=f"passes through the data (default: {chosen['epochs']})")
    train.add_argument("--batch", type=_whole, default=None, help=f"samples a batch (default: {chosen['batch']})")
    train.add_argument("--lr", type=_positive, default=None, help=f"learning rate of Adam (default: {chosen['lr']})")
    train.add_argument("--threshold", type=_positive, default=None, help="at the start (default: 1; stl-mnist: 2)")
    train.add_argument("--seed", type=_natural, default=0, help="the run is a function of it (default: 0)")
    train.add_argument("--backend", choices=list(BACKENDS), default=None,
                       help="time loops (default: the best on the CPU); cupy: all of it on a GPU")  # fmt: skip
    train.add_argument("--threads", type=_whole, default=None, help="of the compiled loops (default: all CPUs)")
    train.add_argument("--out", type=Path, default=None, metavar="DIR", help="where to write (default: runs/RULE-seedN)")
    train.add_argument("--resume", type=Path, default=None, metavar="FILE",
                       help="go on with an interrupted run: its checkpoint.npz")  # fmt: skip
    train.set_defaults(run=jobs.train)


def _add_data_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data-dir", type=Path, default=None, metavar="DIR",
                        help="folder of the data files (default: what MINISNN_DATA names)")  # fmt: skip


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


def _get(options: argparse.Namespace) -> int:
    folder = ms.data.get(options.name, options.data_dir)
    print(f"{options.name}: {', '.join(sorted(p.name for p in folder.iterdir()))} in {folder}")
    return 0


def _info(options: argparse.Namespace) -> int:
    for name, version in jobs.versions().items():
        print(f"{name:<12} {version}")
    print(f"{'platform':<12} {platform.platform()}, {os.cpu_count()} CPUs")
    for name in BACKENDS:
        problem = backend_problem(name)
        mark = " (default)" if problem is None and name == default_backend() else ""
        print(f"{'backend':<12} {name}: {'ready' + mark if problem is None else problem}")
    print(f"{'threads':<12} {ms.get_threads()} for compiled loops (minisnn.set_threads, MINISNN_THREADS)")
    print(f"{'BLAS':<12} {checkpoints.environment()['blas']}")
    if backend_problem("numba") is None:
        folder = os.environ.get("NUMBA_CACHE_DIR") or "Numba's own, beside the sources or in the user's cache folder"
        print(f"{'cache':<12} {folder} (NUMBA_CACHE_DIR moves it)")
    for name, text in describe().items():
        print(f"{name:<12} {text}")
    return 0
