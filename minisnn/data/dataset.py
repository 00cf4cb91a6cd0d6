"""What all data sets share: what a network must know of one, where its files are, its splits."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["SPLITS", "DataSet", "Folder", "Loaded", "SubsetWarning", "spelled"]

Folder = str | os.PathLike[str] | None
Loaded = tuple[np.ndarray, np.ndarray]

#: Rows of the shuffled file of digits, by split: the first one and the one after the last.
SPLITS = {"train": (0, 1257), "validation": (1257, 1437), "test": (1437, 1797)}


class SubsetWarning(UserWarning):
    """Fewer samples were found than were published: accuracies do not compare with others."""


@dataclass(frozen=True)
class DataSet:
    """A data set: how it is read, and what a network must know before.

    Parameters
    ----------
    name : in ``SETS``, of its folder and in messages.
    shape : of one sample at one step: ``(channels, height, width)``, or ``(channels,)``.
    classes : what the labels 0, 1, ... mean.
    read : ``read(split, flat, folder)``, see :meth:`load`.
    files : SHA-256 sums by file name, of what can be downloaded.
    mirrors : addresses of folders that hold these files.
    labels : CRC-32 of the label bytes, training and test.
    encoder : the name, in ``ms.encode.ENCODERS``, of what gives a sample its time.  With "frames"
        it has a time axis of its own, ``[n, T, *shape]``.
    steps : time steps of every sample, if they are fixed; else `load` of "frames" takes ``steps=``.
    sizes : number of training and of test samples in the published set.
    home : where it can be had, if not by ``minisnn data get``.
    """

    name: str
    shape: tuple[int, ...]
    classes: tuple[str, ...]
    read: Callable[..., Loaded]
    files: Mapping[str, str] = field(default_factory=dict)
    mirrors: tuple[str, ...] = ()
    labels: tuple[int, ...] = ()
    encoder: str = "bernoulli"
    steps: int | None = None
    sizes: tuple[int, int] | None = None
    home: str = ""

    def load(
        self, split: str = "train", flat: bool = True, folder: Folder = None, **options: Any
    ) -> Loaded:
        """Samples and labels; with `flat` the axes of a sample are one, except for time."""
        samples, labels = self.read(split, flat, folder, **options)
        if flat and self.encoder == "frames":
            samples = samples.reshape(*samples.shape[:2], -1)
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
            raise FileNotFoundError(
                f"{self.name}: no folder was given; say folder= (--data-dir D), or set "
                f"MINISNN_DATA to the folder with {self.name}/ inside. {self._get_it('D')}"
            )
        return Path(os.path.expanduser(given))

    def locate(
        self, folder: Folder, expected: str, find: Callable[[Path], list[Path]], needed: int = 1
    ) -> list[Path]:
        """The files that `find` finds in the set's own folder, or else in the base folder.

        Raises
        ------
        FileNotFoundError : neither has `needed` of them; it says where to get the files.
        """
        base = self.base_folder(folder)
        places, partly = [base / self.name, base], []
        for place in places:
            paths = find(place)
            if len(paths) >= needed:
                return paths
            partly += paths
        found = "none" if base.exists() else f"no folder {base}"
        if partly:
            found = f"only {', '.join(map(str, partly))}"
        raise FileNotFoundError(
            f"{self.name}: expected {expected} in {places[0]} or {places[1]}; found {found}. "
            f"{self._get_it(base)}. Or say where they are: folder= (--data-dir D), or MINISNN_DATA"
        )

    def _get_it(self, base: Folder) -> str:
        if self.home:
            return f"Get the files from: {self.home}"
        return f"Get the files with: minisnn data get {self.name} --data-dir {base}"

    def warn_of_subset(self, split: str, found: int) -> None:
        """Warn unless it is the whole published set."""
        part = "test" if split == "test" else "training"
        if self.sizes and found != (full := self.sizes[part == "test"]):
            text = f"{self.name}: found {found:,} of the {full:,} {part} samples; "
            text += "accuracies do not compare with published ones"
            warnings.warn(text, SubsetWarning, stacklevel=3)


def spelled(place: Path, *names: str) -> list[Path]:
    """The file of the first of these names that is there, in a list; else an empty list.

    A compressed one goes first, because gzip has a check sum.
    """
    paths = [place / f"{name}{end}" for name in names for end in (".gz", "")]
    there = [path for path in paths if os.path.exists(path)]
    # Some archives unpack to folders of these names: a file before a folder.
    return sorted(there, key=os.path.isdir)[:1]


def rows_of(split: str, n: int, share: int) -> slice:
    """The rows of a split in a part of `n`; validation is the last of `share` parts of training."""
    border = n - (n // share if split != "test" else 0)
    return slice(border, None) if split == "validation" else slice(border)


def scaled(images: np.ndarray, labels: np.ndarray, rows: slice, top: int, flat: bool) -> Loaded:
    """Rows of images ``[n, ..., height, width]`` as float32 in [0, 1], labels as int64."""
    part = np.divide(images[rows], np.float32(top), dtype=np.float32)
    maps = images.shape[1:] if images.ndim == 4 else (1, *images.shape[1:])
    shape = [np.prod(maps)] if flat else maps
    return part.reshape(len(part), *shape), labels[rows].astype(np.int64)
