"""Recordings, which have a time axis of their own: N-MNIST from an event camera, Braille letters from a touch sensor."""

from __future__ import annotations

import zipfile
from typing import BinaryIO

import numpy as np

from ..files import FileError, array_from
from .events import EVENT, read_events, to_frames
from .reading import LIMIT, DataError, opened
from .sets import SETS, DataSet, Folder, Loaded, base_folder, check_split, rows_of, source_of, warn_of_subset

__all__ = ["braille", "nmnist"]

#: Braille: the first and the last repetition of each split.
REPETITIONS = {"train": (0, 35), "validation": (36, 40), "test": (41, 49)}
TAXELS = (77, 12)


def nmnist(
    split: str = "train", steps: int = 10, folder: Folder = None, *, by: str = "time", duration: float | None = None,
    binary: bool = True,
) -> Loaded:  # fmt: skip
    """N-MNIST: MNIST shown to a moving event camera, 70,000 recordings of 0.3 s (Orchard, Jayawant, Cohen, Thakor 2015).

    Its copies are often subsets.  That of minisnn's own measurements has the first 1,000 training and the first 100 test
    recordings, which are not balanced over the classes: whoever gives a figure from a subset says so with it.

    Parameters
    ----------
    split : "train", "validation" (the last twelfth of the recordings in ``Train/``, 5,000 of 60,000 as in
        :func:`mnist`, 83 of 1,000) or "test" (all of ``Test/``).  The order is that of the files' numbers, which is
        MNIST's, whatever the label.
    steps : number of frames T of each recording.
    folder : where ``nmnist/`` or its folders are: ``Train/0/00002.bin`` and so on, label and number; ``None``: the
        folder that ``MINISNN_DATA`` names.
    by, duration, binary : how events become frames; see :func:`to_frames`.  T windows of time that are each
        recording's own, and uint8 0 or 1, unless told otherwise.

    Returns
    -------
    frames : ``[n, T, 2, 34, 34]``, uint8 0 or 1, or float32 counts; for ``fit`` with ``encoder=ms.encode.Frames()``.
    labels : int64 ``[n]``, 0 to 9.

    Raises
    ------
    FileNotFoundError : there are no recordings; it says where they were looked for.
    DataError : a file is not what was expected; it is named.

    Warns
    -----
    SubsetWarning : there are other than 60,000 recordings in ``Train/``, or 10,000 in ``Test/``.
    """
    check_split("nmnist", split)
    part, base = "Test" if split == "test" else "Train", base_folder("nmnist", folder)
    places = [base / "nmnist" / part, base / part]
    paths = next((found for place in places if (found := sorted(place.glob("[0-9]/[!.]*.bin")))), [])
    if not paths:
        raise FileNotFoundError(
            f"nmnist: expected recordings <label>/<number>.bin in {places[0]} or {places[1]}, found none. "
            f"Get them from: {source_of('nmnist', base)}"
        )
    if strangers := [p for p in paths if not p.stem.isdecimal()]:
        raise DataError(f"{strangers[0]}: expected a number as the file's name, found {strangers[0].stem!r}")
    warn_of_subset("nmnist", split, len(paths))
    rows = sorted(paths, key=lambda p: int(p.stem))[rows_of(split, len(paths), 12)]
    blank = to_frames(np.empty(0, EVENT), steps, by=by, duration=duration, binary=binary)
    frames = np.empty((len(rows), *blank.shape), blank.dtype)
    for i, path in enumerate(rows):
        frames[i] = to_frames(read_events(path), steps, by=by, duration=duration, binary=binary)
    return frames, np.array([int(p.parent.name) for p in rows], np.int64)


def braille(split: str = "train", folder: Folder = None) -> Loaded:
    """Braille letters under a touch sensor: 1,350 time series of 12 channels in 27 classes (Müller-Cleve et al. 2022).

    A nearest mean already finds every test letter: it shows that time series work, and compares nothing.

    Parameters
    ----------
    split : "train" (repetitions 0 to 35 of each letter, 972 series), "validation" (36 to 40, 135) or "test" (41 to 49,
        243).  The set has no split of its own.
    folder : where ``braille/`` or ``braille_letters_tactile.npz`` is; ``None``: the folder that ``MINISNN_DATA`` names.
        The file has the arrays ``taxel_data`` (uint8 ``[n, 77, 12]``), ``label`` and ``repetition`` (``[n]``); see
        fzenke/spytorch, notebooks/data, for their source.

    Returns
    -------
    series : float32 ``[n, 77, 12]`` in [0, 1], value / 255 (the set's authors feed 1 - value / 255); for ``fit`` with
        ``encoder=ms.encode.Frames()``.   labels : int64 ``[n]``, 0 (space) to 26 (Z).

    Raises
    ------
    FileNotFoundError : the file is missing; it says where it was looked for.
    DataError : the file is not what was expected.
    """
    check_split("braille", split)
    name, base = "braille_letters_tactile.npz", base_folder("braille", folder)
    places = [base / "braille" / name, base / name]
    path = next((p for p in places if p.exists()), None)
    if path is None:
        raise FileNotFoundError(
            f"braille: expected {places[0]} or {places[1]}, found neither. Get it from: {source_of('braille', base)}"
        )
    with opened(path) as stream:
        taxels, label, repetition = _npz(stream, ["taxel_data", "label", "repetition"])
        shapes = [f"{a.dtype} {list(a.shape)}" for a in (taxels, label, repetition)]
        fits = taxels.shape[1:] == TAXELS and label.shape == repetition.shape == taxels.shape[:1]
        if not fits or taxels.dtype != np.uint8 or not {label.dtype.kind, repetition.dtype.kind} <= {"i", "u"}:
            raise DataError(f"expected taxel_data uint8 [n, 77, 12], label [n], repetition [n], found {', '.join(shapes)}")
        for what, values, last in (("labels", label, 26), ("repetitions", repetition, 49)):
            if (wrong := values[(values < 0) | (values > last)]).size:
                raise DataError(f"expected {what} 0 to {last}, found {wrong[0]}")
    first, last = REPETITIONS[split]
    rows = (repetition >= first) & (repetition <= last)
    return taxels[rows] / np.float32(255), label[rows].astype(np.int64)


def _npz(stream: BinaryIO, names: list[str]) -> list[np.ndarray]:
    """Arrays of an ``.npz``, packed or not.  No pickle, and no more memory than `LIMIT` whatever it promises."""
    try:
        with zipfile.ZipFile(stream) as archive:
            there = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
            if missing := [n for n in names if n not in there]:
                raise DataError(f"expected the arrays {', '.join(names)}, found no {', '.join(missing)}")
            if sum(there[n].file_size for n in names) > LIMIT:
                raise DataError(f"expected at most {LIMIT:,} bytes, the directory promises more: it is damaged")
            return [array_from(n, archive.read(there[n])) for n in names]  # reading compares the check sum
    except (DataError, MemoryError):
        raise
    except FileError as error:
        raise DataError(str(error)) from None
    except Exception as error:  # a damaged archive can fail in any way there is
        raise DataError(f"expected an .npz of arrays, found it damaged ({type(error).__name__}: {error})") from None


def _nmnist(split: str = "train", flat: bool = True, folder: Folder = None, steps: int = 10) -> Loaded:
    frames, labels = nmnist(split, steps, folder)
    return frames.reshape(*frames.shape[:2], -1) if flat else frames, labels


SETS["nmnist"] = DataSet(
    "N-MNIST", (2, 34, 34), tuple("0123456789"), _nmnist, encoder="frames", sizes=(60_000, 10_000),
    home="https://www.garrickorchard.com/datasets/n-mnist",
)  # fmt: skip
SETS["braille"] = DataSet(
    "Braille letters", TAXELS[1:], ("space", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
    lambda split="train", flat=True, folder=None: braille(split, folder), encoder="frames", steps=TAXELS[0],
    home="https://github.com/fzenke/spytorch (notebooks/data; its pickle must be made an .npz)",
)  # fmt: skip
