"""The command line: ``minisnn train``, ``eval``, ``data``, ``check``, ``bench`` and ``info``."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import warnings
from collections.abc import Sequence

import minisnn as ms

from .. import checkpoint
from ..checks import command as check
from ..kernels import BACKENDS, backend_problem, default_backend
from ..kernels.gpu_info import describe
from . import bench, train
from .options import add_options

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; wrong usage ends the process with 2.

    The exit code is 0 if all is done, 1 after an error or if training stopped, 130 if interrupted.
    """
    options = _parser().parse_args(arguments)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: _say(f"warning: {message}")
            return int(options.run(options))
    except (ValueError, TypeError, OSError, ArithmeticError, ImportError) as error:
        _say(str(error))
        return 1
    except KeyboardInterrupt as stop:
        _say(str(stop) or "interrupted")
        return 130


def _say(message: str) -> None:
    print(f"minisnn: {message}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="minisnn", description="Spiking neural networks without autograd."
    )
    parser.add_argument("--version", action="version", version=f"minisnn {ms.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    train.add_commands(commands)
    data = commands.add_parser("data", help="download a data set").add_subparsers(
        required=True, metavar="COMMAND"
    )
    get = data.add_parser("get", help="download it")
    offered = [name for name, one in ms.data.SETS.items() if one.files]
    get.add_argument("name", choices=offered, metavar="NAME", help=" or ".join(offered))
    add_options(get, "data_dir")
    get.set_defaults(run=_get)
    check.add_command(commands)
    bench.add_command(commands)
    info = commands.add_parser("info", help="versions, backends, threads and the cache folder")
    info.set_defaults(run=_info)
    return parser


def _get(options: argparse.Namespace) -> int:
    folder = ms.data.get(options.name, options.data_dir)
    print(f"{options.name}: {', '.join(sorted(p.name for p in folder.iterdir()))} in {folder}")
    return 0


def _info(options: argparse.Namespace) -> int:
    lines = list(train.versions().items())
    lines.append(("platform", f"{platform.platform()}, {os.cpu_count()} CPUs"))
    problems = {name: backend_problem(name) for name in BACKENDS}
    for name, problem in problems.items():
        mark = " (default)" if problem is None and name == default_backend() else ""
        lines.append(("backend", f"{name}: {'ready' + mark if problem is None else problem}"))
    threads = f"{ms.get_threads()} for compiled loops (minisnn.set_threads, MINISNN_THREADS)"
    lines += [("threads", threads), ("BLAS", checkpoint.environment()["blas"])]
    if problems["numba"] is None:
        folder = os.environ.get("NUMBA_CACHE_DIR")
        folder = folder or "Numba's own, beside the sources or in the user's cache folder"
        lines.append(("cache", f"{folder} (NUMBA_CACHE_DIR moves it)"))
    for name, text in [*lines, *describe().items()]:
        print(f"{name:<12} {text}")
    return 0
