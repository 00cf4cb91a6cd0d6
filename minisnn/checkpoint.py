"""Checkpoints: a training run as it was after an epoch, so that it goes on as if never interrupted.

A checkpoint holds no state of a generator: every draw of a run has the generator
``default_rng([seed, epoch, batch, stream])``.  It holds what decides the numbers of the run, its
*setup*, and a run only goes on with the same one.
"""

from __future__ import annotations

import os
import platform
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from . import files
from .kernels.arrays import Array, to_numpy
from .monitor import History
from .network import Network
from .optimizers import Optimizer

__all__ = ["Checkpoint", "Progress", "describe", "digest", "environment"]


@dataclass
class Progress:
    """How far a run is: its history, and the best arrays so far with their grade."""

    history: History = field(default_factory=History)
    best_grade: tuple[float, ...] = ()
    best: dict[str, Array] = field(default_factory=dict)


class Checkpoint(NamedTuple):
    """The file of a run, and what the run consists of."""

    path: Path
    net: Network
    optimizer: Optimizer
    setup: dict[str, Any]
    notes: dict[str, Any]

    def begin(self, resume: bool) -> Progress:
        """The run in the file; if there is none, a new one, written at once."""
        if not self.path.exists():
            self.save(progress := Progress())
            return progress
        if resume:
            return self.restore()
        cure = "resume=True goes on from it; or choose another path"
        raise FileExistsError(f"fit: checkpoint {self.path} exists: {cure}")

    def save(self, progress: Progress) -> None:
        """Write the run: the file is the old one or the new one at every moment."""
        content = {
            **self._parts(),
            "steps": self.optimizer.steps,
            "environment": environment(),
            "rows": progress.history.epochs,
            "best_epoch": progress.history.best_epoch,
            "best_grade": list(progress.best_grade),
            "notes": self.notes,
        }
        files.write(self.path, "checkpoint", content, self._arrays(progress.best))

    def restore(self) -> Progress:
        """Bring network and optimizer to where the run in the file was; all of it or nothing.

        Raises
        ------
        FileError : the file is damaged, or holds another run; it names what differs.
        """
        found, arrays = files.read(self.path, ("checkpoint",))
        try:
            progress, targets = self._checked(found, arrays)
        except files.FileError as error:
            raise files.FileError(f"{self.path}: {error}") from None
        except Exception as error:  # a header may hold anything
            damage = f"{type(error).__name__}: {error}"
            raise files.FileError(f"{self.path} is damaged: {damage}") from None
        if difference := _difference(found.get("environment"), environment(), "environment"):
            text = f"{self.path}: {difference}; the last bits of the run may differ from now on"
            warnings.warn(text, stacklevel=5)
        for name, array in targets.items():
            array[...] = np.asarray(arrays[name], like=array)
        self.optimizer.steps = found["steps"]
        return progress

    def _parts(self) -> dict[str, Any]:
        """What must be the same in a file and here."""
        settings = self.optimizer.settings()
        return {"network": self.net.description(), "optimizer": settings, "setup": self.setup}

    def _arrays(self, best: Mapping[str, Array]) -> dict[str, Array]:
        """The live arrays of the run by their names in the file."""
        arrays = self.net.arrays()
        for moment, values in self.optimizer.moments().items():
            arrays |= {f"optimizer/{moment}/{n}": a for n, a in values.items()}
        return arrays | {f"best/{n}": a for n, a in best.items()}

    def _checked(self, found: Mapping[str, Any], arrays: Mapping[str, Array]) -> tuple[Any, Any]:
        """The progress in a file's content, and the live arrays that its arrays belong to."""
        for part, ours in self._parts().items():
            if difference := _difference(found[part], ours, part):
                raise files.FileError(f"it holds another run: {difference}")
        history = History(list(found["rows"]), found["best_epoch"])
        repr(history)  # raises if a row is not one of numbers
        progress = Progress(history, tuple(found["best_grade"]))
        if history.best_epoch is not None:
            progress.best = {n: np.empty_like(a) for n, a in self.net.arrays().items()}
        targets = self._arrays(progress.best)
        given, wanted = ({n: _kind(a) for n, a in some.items()} for some in (arrays, targets))
        if difference := _difference(given, wanted, "arrays"):
            raise files.FileError(f"it holds another run: {difference}")
        if type(found["steps"]) is not int or found["steps"] < 0:
            raise files.FileError(f"it counts {found['steps']!r} steps")
        return progress, targets


def _kind(array: Array) -> str:
    return f"{array.dtype} {list(array.shape)}"


def _difference(stored: Any, ours: Any, where: str) -> str | None:
    """The first place where two pieces of plain data differ, in words."""
    if isinstance(stored, list) and isinstance(ours, list) and len(stored) == len(ours):
        stored, ours = dict(enumerate(stored)), dict(enumerate(ours))
    if isinstance(stored, dict) and isinstance(ours, dict):
        keys = {**ours, **stored}
        found = (_difference(stored.get(key), ours.get(key), f"{where}.{key}") for key in keys)
        return next(filter(None, found), None)
    return None if stored == ours else f"{where} is {stored!r} in the file, {ours!r} here"


def digest(*arrays: Array) -> str:
    """A check sum of data, so that a run does not go on with other data unnoticed."""
    total = 0
    for array in map(to_numpy, arrays):
        total = zlib.crc32(f"{array.dtype}{array.shape}".encode(), total)
        total = zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, total)
    return f"{total:08x}"


def describe(value: Any) -> str:
    """A part of the setup, alike in every process: its repr, or its name if that has an address."""
    text = repr(value)
    has_address = " at 0x" in text
    return getattr(value, "__qualname__", type(value).__qualname__) if has_address else text


def environment() -> dict[str, str]:
    """What else the last bits of a run depend on: versions and BLAS with its threads."""
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    threads = os.environ.get("OPENBLAS_NUM_THREADS") or os.environ.get("OMP_NUM_THREADS")
    threads = threads or f"its own choice of {os.cpu_count()}"
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "machine": platform.machine(),
        "blas": f"{blas.get('name', 'unknown')} {blas.get('version', '')}, threads: {threads}",
    }
