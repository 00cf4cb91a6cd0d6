"""Checkpoints: a training run at the border of an epoch, so that it can go on as if nothing had happened.

Nothing random has to be kept: every draw of a run has the generator ``default_rng([seed, epoch, batch, stream])``.  What
decides the numbers of a run is kept as its *setup*, and a run only goes on with the same one.
"""

from __future__ import annotations

import os
import platform
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from . import files
from .kernels.arrays import Array, to_numpy
from .network import Network
from .optimizers import Optimizer

__all__ = ["Progress", "describe", "digest", "environment", "header", "restore", "save"]


@dataclass
class Progress:
    """How far a run is: the history's rows, and the best arrays so far with their grade."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int | None = None
    best_grade: tuple[float, ...] = ()
    best: dict[str, Array] = field(default_factory=dict)


def save(path: str | Path, net: Network, optimizer: Optimizer, progress: Progress, setup: Mapping, notes: Mapping) -> None:
    """Write the run to `path`: the file is the old one or the new one at every moment."""
    arrays = net.arrays()
    for moment, values in optimizer.moments().items():
        arrays |= {f"optimizer/{moment}/{n}": a for n, a in values.items()}
    arrays |= {f"best/{n}": a for n, a in progress.best.items()}
    content = {
        "network": net.description(),
        "optimizer": optimizer.settings(),
        "steps": optimizer.steps,
        "setup": dict(setup),
        "environment": environment(),
        "rows": progress.rows,
        "best_epoch": progress.best_epoch,
        "best_grade": list(progress.best_grade),
        "notes": dict(notes),
    }
    files.write(path, "checkpoint", content, arrays)


def header(path: str | Path) -> dict[str, Any]:
    """What a checkpoint says of itself, e.g. its ``"notes"``."""
    return files.read(path, ("checkpoint",))[0]


def restore(path: str | Path, net: Network, optimizer: Optimizer, setup: Mapping[str, Any]) -> Progress:
    """Bring `net` and `optimizer` to where the run in `path` was; nothing is changed unless everything fits.

    Raises
    ------
    FileError : the file is damaged, or belongs to another network, optimizer or setup; it names what differs.
    """
    found, arrays = files.read(path, ("checkpoint",))
    try:
        for what, stored, ours in (
            ("network", found["network"], net.description()),
            ("optimizer", found["optimizer"], optimizer.settings()),
            ("setup", found["setup"], dict(setup)),
        ):
            if difference := _difference(stored, ours, what):
                raise files.FileError(f"it holds another run: {difference}")
        progress = Progress(_rows(found["rows"]), found["best_epoch"], tuple(found["best_grade"]))
        targets = net.arrays()
        for moment, values in optimizer.moments().items():
            targets |= {f"optimizer/{moment}/{n}": a for n, a in values.items()}
        if progress.best_epoch is not None:
            progress.best = {n: np.empty_like(a) for n, a in net.arrays().items()}
            targets |= {f"best/{n}": a for n, a in progress.best.items()}
        if set(targets) != set(arrays):
            raise files.FileError(f"its arrays are not those of this run: {sorted(set(targets) ^ set(arrays))}")
        for name, array in targets.items():
            if arrays[name].shape != array.shape or arrays[name].dtype != array.dtype:
                raise files.FileError(f"{name} is {arrays[name].dtype} {list(arrays[name].shape)} in it")
        if type(found["steps"]) is not int or found["steps"] < 0:
            raise files.FileError(f"it counts {found['steps']!r} steps")
    except Exception as error:  # a header may hold anything
        kind = "" if isinstance(error, files.FileError) else f"damaged: {type(error).__name__}: "
        raise files.FileError(f"{path}: {kind}{error}") from None
    if difference := _difference(found.get("environment"), environment(), "environment"):
        warnings.warn(f"{path}: {difference}; the last bits of the run may differ from now on", stacklevel=4)
    for name, array in targets.items():
        array[...] = np.asarray(arrays[name], like=array)
    optimizer.steps = found["steps"]
    return progress


def _rows(rows: Any) -> list[dict[str, Any]]:
    """The history's rows, if that is what they are."""
    for number, row in enumerate(rows, start=1):
        health = row["layers"].values()
        numbers = (row["train_loss"], row["train_accuracy"], *(h["firing_rate"] + h["silent"] for h in health))
        if row["epoch"] != number or not all(isinstance(n, float) for n in numbers):
            raise files.FileError(f"row {number} of its history is none")
    return list(rows)


def _difference(stored: Any, ours: Any, where: str) -> str | None:
    """The first place where two pieces of plain data differ, in words."""
    if isinstance(stored, dict) and isinstance(ours, dict):
        for key in {**ours, **stored}:
            if found := _difference(stored.get(key), ours.get(key), f"{where}.{key}"):
                return found
        return None
    if isinstance(stored, list) and isinstance(ours, list) and len(stored) == len(ours):
        return _difference(dict(enumerate(stored)), dict(enumerate(ours)), where)
    return None if stored == ours else f"{where} is {stored!r} in the file, {ours!r} here"


def digest(*arrays: Array) -> str:
    """A check sum of data, so that a run does not go on with other data unawares."""
    total = 0
    for array in map(to_numpy, arrays):
        total = zlib.crc32(f"{array.dtype}{array.shape}".encode(), total)
        total = zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, total)
    return f"{total:08x}"


def describe(value: Any) -> str:
    """What a part of the setup is, alike in every process: its repr, or its name where the repr has an address."""
    text = repr(value)
    is_plain = " at 0x" not in text
    return text if is_plain else str(getattr(value, "__qualname__", type(value).__qualname__))


def environment() -> dict[str, str]:
    """What else the last bits of a run depend on: versions and the matrix library with its threads."""
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    threads = (
        os.environ.get("OPENBLAS_NUM_THREADS") or os.environ.get("OMP_NUM_THREADS") or f"its own choice of {os.cpu_count()}"
    )
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "machine": platform.machine(),
        "blas": f"{blas.get('name', 'unknown')} {blas.get('version', '')}, threads: {threads}",
    }
