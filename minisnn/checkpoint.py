"""Checkpoints: a training run as it was after an epoch, so that it goes on as if never interrupted.

A checkpoint holds no state of a generator: every draw of a run has the generator
``default_rng([seed, epoch, batch, stream])``.  It holds what decides the numbers of the run, its
*setup*, and a run only goes on with the same one.
"""

from __future__ import annotations

import inspect
import os
import platform
import warnings
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

from . import files
from .encode import Encoder
from .formula import digest
from .kernels.arrays import Array, to_numpy
from .monitor import History, Loss
from .network import Network
from .optimizers import Optimizer

__all__ = ["Run", "environment"]

Data = tuple[Array, Array]
Penalties = Mapping[str, Callable[[Array], tuple[float, Array]]]


@dataclass
class Run:
    """A run of ``fit``: what all its epochs have in common, and how far it is."""

    net: Network
    optimizer: Optimizer
    data: Data
    held_out: Data | None
    encoder: Encoder
    loss: Loss
    batch: int
    seed: int
    schedule: Callable[[int], float] | None
    truncate: int | None
    penalties: Penalties | None
    keep: str
    history: History = field(default_factory=History)
    best: dict[str, Array] = field(default_factory=dict)  #: the network's arrays in its best epoch
    best_grade: tuple[float, ...] = ()
    notes: dict[str, Any] = field(default_factory=dict)  #: plain data to keep in the checkpoint

    @cached_property
    def setup(self) -> dict[str, Any]:
        """What decides the numbers of the run besides network and optimizer, as plain data."""
        plain = {n: getattr(self, n) for n in ("seed", "batch", "truncate", "keep")}
        others = ("encoder", "loss", "schedule", "penalties")
        data = _digest(*self.data, *(self.held_out or ()))
        described = {n: _described(getattr(self, n)) for n in others}
        return {**plain, **described, "backend": self.net.backend, "data": data}

    def begin(self, path: Path, resume: bool) -> None:
        """Bring a new run to where that in the file was; if there is no file, write one."""
        if not path.exists():
            self.save(path)
        elif resume:
            self.restore(path)
        else:
            cure = "resume=True goes on from it; or choose another path"
            raise FileExistsError(f"fit: checkpoint {path} exists: {cure}")

    def save(self, path: Path) -> None:
        """Write the run: the file is the old one or the new one at every moment."""
        content = {
            **self._decisive(),
            "steps": self.optimizer.steps,
            "environment": environment(),
            "rows": self.history.epochs,
            "best_epoch": self.history.best_epoch,
            "best_grade": list(self.best_grade),
            "notes": self.notes,
        }
        files.write(path, "checkpoint", content, self._arrays(self.best))

    def restore(self, path: Path) -> None:
        """Bring the run to where the one in the file was; a FileError leaves it as it is."""
        found, arrays = files.read(path, ("checkpoint",))
        try:
            history, best, grade = self._checked(found, arrays)
        except files.FileError as error:
            raise files.FileError(f"{path}: {error}") from None
        except Exception as error:  # a header may hold anything
            damage = f"{type(error).__name__}: {error}"
            raise files.FileError(f"{path} is damaged: {damage}") from None
        if difference := _difference(found.get("environment"), environment(), "environment"):
            text = f"{path}: {difference}; the last bits of the run may differ from now on"
            warnings.warn(text, stacklevel=5)
        for name, array in self._arrays(best).items():
            array[...] = np.asarray(arrays[name], like=array)
        self.history, self.best, self.best_grade = history, best, grade
        self.optimizer.steps = found["steps"]

    def _checked(
        self, found: Mapping[str, Any], arrays: Mapping[str, Array]
    ) -> tuple[History, dict[str, Array], tuple[float, ...]]:
        """The history in a file's content, room for its best arrays, and their grade."""
        history, best = History(list(found["rows"]), found["best_epoch"]), dict[str, Array]()
        _check_rows(history.epochs)
        if history.best_epoch is not None:
            best = {n: np.empty_like(a) for n, a in self.net.arrays().items()}
        stored = {**found, "arrays": _kinds(arrays)}
        for part, ours in {**self._decisive(), "arrays": _kinds(self._arrays(best))}.items():
            if difference := _difference(stored[part], ours, part):
                raise files.FileError(f"it holds another run: {difference}")
        if type(found["steps"]) is not int or found["steps"] < 0:
            raise files.FileError(f"it counts {found['steps']!r} steps")
        return history, best, tuple(found["best_grade"])

    def _decisive(self) -> dict[str, Any]:
        """What decides the numbers of the run, as plain data: the same in a file and here."""
        settings = self.optimizer.settings()
        return {"network": self.net.description(), "optimizer": settings, "setup": self.setup}

    def _arrays(self, best: Mapping[str, Array]) -> dict[str, Array]:
        """The live arrays of a run by their names in the file."""
        arrays = self.net.arrays()
        for moment, values in self.optimizer.moments().items():
            arrays |= {f"optimizer/{moment}/{n}": a for n, a in values.items()}
        return arrays | {f"best/{n}": a for n, a in best.items()}


def _check_rows(rows: list[dict[str, Any]]) -> None:
    """Raise if the rows of a history are not one an epoch, of numbers."""
    for epoch, row in enumerate(rows, start=1):
        rates = [layer["firing_rate"] + layer["silent"] for layer in row["layers"].values()]
        numbers = [row["train_loss"], row["train_accuracy"] or 0.0, *rates]
        if row["epoch"] != epoch or not all(isinstance(n, float) for n in numbers):
            raise files.FileError(f"row {epoch} of its history is none")


def _kinds(arrays: Mapping[str, Array]) -> dict[str, str]:
    return {name: f"{array.dtype} {list(array.shape)}" for name, array in arrays.items()}


def _difference(stored: Any, ours: Any, where: str) -> str | None:
    """The first place where two pieces of plain data differ, in words."""
    if isinstance(stored, list) and isinstance(ours, list) and len(stored) == len(ours):
        stored, ours = dict(enumerate(stored)), dict(enumerate(ours))
    if isinstance(stored, dict) and isinstance(ours, dict):
        keys = {**ours, **stored}
        found = (_difference(stored.get(key), ours.get(key), f"{where}.{key}") for key in keys)
        return next(filter(None, found), None)
    return None if stored == ours else f"{where} is {stored!r} in the file, {ours!r} here"


def _digest(*arrays: Array) -> str:
    """A check sum of data, so that a run does not go on with other data unnoticed."""
    total = 0
    for array in map(to_numpy, arrays):
        total = zlib.crc32(f"{array.dtype}{array.shape}".encode(), total)
        total = zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, total)
    return f"{total:08x}"


def _described(value: Any, depth: int = 5) -> Any:
    """A part of the setup as plain data, alike in every process.

    A function of the user's is its code and the values that the code refers to; an object is its
    class, with the code of its methods, and its attributes.
    """
    inside = partial(_described, depth=depth - 1)
    name = getattr(value, "__qualname__", type(value).__qualname__)
    if value is None or isinstance(value, bool | int | float | str | np.generic):
        return repr(value)
    if (getattr(value, "__module__", None) or "").partition(".")[0] == __package__:
        return name if " at 0x" in repr(value) else repr(value)
    if depth == 0 or isinstance(value, ModuleType | BuiltinFunctionType | np.ufunc):
        return name
    if isinstance(value, Mapping):
        return {str(key): inside(one) for key, one in value.items()}
    if isinstance(value, tuple | list):
        return [inside(one) for one in value]
    if isinstance(value, np.ndarray):
        return _digest(value)
    if isinstance(value, partial):
        return [inside(one) for one in (value.func, value.args, value.keywords)]
    if isinstance(value, MethodType):
        return [inside(value.__func__), inside(value.__self__)]
    if isinstance(value, FunctionType):
        enclosed = inspect.getclosurevars(value)
        values = inside({**enclosed.nonlocals, **enclosed.globals})
        found = {"defaults": inside(value.__defaults__), "values": values}
        return {"name": name, "code": _code(value), **found}
    if not hasattr(value, "__dict__"):
        text = f"checkpoint: {value!r} cannot be compared with that of a run that goes on"
        warnings.warn(text, stacklevel=6)
        return name
    methods = [_code(one) for one in vars(type(value)).values() if isinstance(one, FunctionType)]
    return {"class": name, "code": methods, "attributes": inside(vars(value))}


def _code(function: FunctionType) -> str:
    """A digest of a function's source, names and numbers; one line may hold several functions."""
    code = function.__code__
    numbers = [c for c in code.co_consts if isinstance(c, int | float)]
    try:
        source = inspect.getsource(function)
    except (OSError, TypeError):  # it was typed into a terminal
        source = code.co_code.hex()
    return digest((source, code.co_names, numbers))


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
