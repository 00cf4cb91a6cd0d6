"""A data set: how it is read, what a network must know of it, where its files are, its splits."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["SPLITS", "DataSet", "Folder", "Loaded", "SubsetWarning", "scaled", "spelled"]

Folder = str | os.PathLike[str] | None
Loaded = tuple[np.ndarray, np.ndarray]
Find = Callable[[Path], list[Path]]

#: Rows of the shuffled file of digits, by split: the first one and the one after the last.
SPLITS = {"train": (0, 1257), "validation": (1257, 1437), "test": (1437, 1797)}


class SubsetWarning(UserWarning):
    """Fewer samples were found than were published: accuracies do not compare with others."""


@dataclass(frozen=True)
class DataSet:
    """A data set: how it is read, and what a network must know before."""

    name: str  #: its key in ``SETS``, and the name of its folder
    #: Of one sample at one step: ``(channels, height, width)``, or ``(channels,)``.
    shape: tuple[int, ...]
    classes: tuple[str, ...]  #: what the labels 0, 1, ... mean
    read: Callable[..., Loaded]  #: ``read(split, flat, folder)``, see :meth:`load`
    files: Mapping[str, str] = field(default_factory=dict)  #: SHA-256 by name, to be downloaded
    mirrors: tuple[str, ...] = ()  #: addresses of folders that hold these files
    labels: tuple[int, ...] = ()  #: CRC-32 of the label bytes, training and test
    #: The name, in ``ms.encode.ENCODERS``, of what gives a sample its time.  With "frames" it has a
    #: time axis of its own, ``[n, T, *shape]``.
    encoder: str = "bernoulli"
    #: Time steps of every sample, if they are fixed; else `load` of "frames" takes ``steps=``.
    steps: int | None = None
    sizes: tuple[int, int] | None = None  #: training and test samples of the published set
    home: str = ""  #: the address of a set that ``minisnn data get`` does not fetch

    def load(
        self, split: str = "train", flat: bool = True, folder: Folder = None, **options: Any
    ) -> Loaded:
        """Samples and labels; with `flat` the axes of a sample are one, except for time."""
        samples, labels = self.read(split, flat, folder, **options)
        if flat and self.encoder == "frames":
            samples = samples.reshape(*samples.shape[:2], math.prod(self.shape))
        return samples, labels

    def check_split(self, split: str) -> None:
        """Raise `ValueError` unless there is such a split."""
        if split not in SPLITS:
            known = ", ".join(map(repr, SPLITS))
            raise ValueError(f"{self.name}: unknown split {split!r}, expected one of {known}")

    def base_folder(self, folder: Folder) -> Path:
        """The folder that is given, or else the one that ``MINISNN_DATA`` names."""
        given = folder if folder is not None else os.environ.get("MINISNN_DATA") or None
        if given is None:
            raise self._missing("no folder was given", "D")
        return Path(os.path.expanduser(given))

    def locate(
        self, split: str, folder: Folder, expected: str, find: Find, needed: int = 1
    ) -> list[Path]:
        """A split's files, which `find` finds in the set's own folder, or else in the base folder.

        If neither has `needed` of them, the error says where to get the files.
        """
        self.check_split(split)
        base = self.base_folder(folder)
        own = base / self.name
        in_own, in_base = find(own), find(base)
        for paths in (in_own, in_base):
            if len(paths) >= needed:
                return paths
        partly = ", ".join(map(str, in_own + in_base))
        found = f"only {partly}" if partly else "none" if base.exists() else f"no folder {base}"
        raise self._missing(f"expected {expected} in {own} or {base}; found {found}", base)

    def _missing(self, problem: str, base: Folder) -> FileNotFoundError:
        by_command = f"with: minisnn data get {self.name} --data-dir {base}"
        source = f"from: {self.home}" if self.home else by_command
        place = f"where {self.name}/ or they are: folder= (--data-dir D), or MINISNN_DATA"
        return FileNotFoundError(f"{self.name}: {problem}. Get the files {source}. Or say {place}")

    def rows(self, split: str, n: int, share: int) -> slice:
        """The rows of a split among `n`; validation is the last of `share` parts of training.

        It warns if the published set has another number of samples.
        """
        part = "test" if split == "test" else "training"
        if self.sizes and n != (full := self.sizes[part == "test"]):
            text = f"{self.name}: found {n:,} of the {full:,} {part} samples; "
            text += "accuracies do not compare with published ones"
            warnings.warn(text, SubsetWarning, stacklevel=3)
        border = n if split == "test" else n - n // share
        return slice(border, None) if split == "validation" else slice(border)


def spelled(place: Path, names: Iterable[str]) -> list[Path]:
    """Those files of these names that are there, with or without ``.gz``, with "-idx" or ".idx".

    A compressed one goes first, because gzip has a check sum.
    """
    found = []
    for name in names:
        spellings = (name, name.replace("-idx", ".idx"))
        paths = [place / f"{one}{end}" for one in spellings for end in (".gz", "")]
        there = [path for path in paths if os.path.exists(path)]
        # Some archives unpack to folders of these names: a file goes before a folder.
        found += sorted(there, key=os.path.isdir)[:1]
    return found


def scaled(images: np.ndarray, labels: np.ndarray, rows: slice, top: int, flat: bool) -> Loaded:
    """Rows of images ``[n, channels, height, width]`` as float32 in [0, 1], labels as int64."""
    part = np.divide(images[rows], np.float32(top), dtype=np.float32)
    if flat:  # not -1: there may be no rows
        part = part.reshape(len(part), math.prod(part.shape[1:]))
    return part, labels[rows].astype(np.int64)
