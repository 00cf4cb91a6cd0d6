"""Recordings, which have a time axis: N-MNIST from an event camera, Braille from a touch sensor."""

from __future__ import annotations

from typing import Any

import numpy as np

from .dataset import DataSet, Folder, Loaded
from .events import EVENT, read_events, to_frames
from .reading import mismatch, open_data, read_npz

__all__ = ["BRAILLE", "NMNIST", "braille", "nmnist"]

#: Braille: the first and the last repetition of each split.
REPETITIONS = {"train": (0, 35), "validation": (36, 40), "test": (41, 49)}
TAXELS = (77, 12)


def nmnist(
    split: str = "train",
    steps: int = 10,
    folder: Folder = None,
    *,
    by: str = "time",
    duration: float | None = None,
    binary: bool = True,
) -> Loaded:
    """N-MNIST: MNIST shown to a moving event camera, 70,000 recordings of 0.3 s.

    Its copies are often subsets, not balanced over the classes: give the number of recordings with
    every figure; a :class:`SubsetWarning` says it.  Source: Orchard, Jayawant, Cohen, Thakor 2015.

    Parameters
    ----------
    split : "train", "validation" (the last twelfth of the recordings in ``Train/``, 5,000 of
        60,000) or "test" (all of ``Test/``), in the order of the files' numbers, which is MNIST's.
    steps : number of frames T of each recording.
    folder : where ``nmnist/`` is, or ``Train/0/00002.bin`` and so on, label and number.
    by, duration, binary : how events become frames; see :func:`to_frames`.

    Returns
    -------
    frames : ``[n, T, 2, 34, 34]``, uint8 0 or 1, or float32 counts; for ``fit`` with
        ``encoder=ms.encode.Frames()``.   labels : 0 to 9.
    """
    part = "Test" if split == "test" else "Train"
    expected, pattern = f"recordings {part}/<label>/<number>.bin", f"{part}/[0-9]/[!.]*.bin"
    paths = NMNIST.locate(split, folder, expected, lambda place: sorted(place.glob(pattern)))
    for path in paths:
        if not path.stem.isdecimal():
            raise mismatch("a number as the file's name", repr(path.stem), path)
    paths = sorted(paths, key=lambda p: int(p.stem))[NMNIST.rows(split, len(paths), 12)]
    options: dict[str, Any] = {"by": by, "duration": duration, "binary": binary}
    blank = to_frames(np.empty(0, EVENT), steps, **options)
    frames = np.empty((len(paths), *blank.shape), blank.dtype)
    for i, path in enumerate(paths):
        frames[i] = to_frames(read_events(path), steps, **options)
    return frames, np.array([int(p.parent.name) for p in paths], np.int64)


def braille(split: str = "train", folder: Folder = None) -> Loaded:
    """Braille letters under a touch sensor: 1,350 time series of 12 channels in 27 classes.

    An easy set: a nearest mean already finds every test letter.  It shows that time series work,
    not which network is better.  Source: Müller-Cleve et al. 2022.

    Parameters
    ----------
    split : "train" (repetitions 0 to 35 of each letter, 972 series), "validation" (36 to 40, 135)
        or "test" (41 to 49, 243).  The set has no split of its own.
    folder : where ``braille/`` or ``braille_letters_tactile.npz`` is, which has the arrays
        ``taxel_data`` (uint8 ``[n, 77, 12]``), ``label`` and ``repetition`` (``[n]``); see
        fzenke/spytorch, notebooks/data.

    Returns
    -------
    series : float32 ``[n, 77, 12]`` in [0, 1], value / 255 (the set's authors feed 1 - value /
        255); for ``fit`` with ``encoder=ms.encode.Frames()``.   labels : 0 (space) to 26 (Z).
    """
    name = "braille_letters_tactile.npz"
    path, *_ = BRAILLE.locate(split, folder, name, lambda place: [*place.glob(name)])
    with open_data(path) as stream:
        taxels, label, repetition = arrays = read_npz(stream, "taxel_data", "label", "repetition")
        fits = taxels.shape[1:] == TAXELS and label.shape == repetition.shape == taxels.shape[:1]
        fits &= taxels.dtype == np.uint8 and {label.dtype.kind, repetition.dtype.kind} <= {*"iu"}
        if not fits:
            shapes = ", ".join(f"{a.dtype} {list(a.shape)}" for a in arrays)
            raise mismatch("taxel_data uint8 [n, 77, 12], label [n], repetition [n]", shapes)
        for what, values, last in (("labels", label, 26), ("repetitions", repetition, 49)):
            if (wrong := values[(values < 0) | (values > last)]).size:
                raise mismatch(f"{what} 0 to {last}", f"{wrong[0]}")
    first, last = REPETITIONS[split]
    rows = (repetition >= first) & (repetition <= last)
    return taxels[rows] / np.float32(255), label[rows].astype(np.int64)


NMNIST = DataSet(
    "nmnist",
    (2, 34, 34),
    tuple("0123456789"),
    lambda split, flat, folder, steps=10: nmnist(split, steps, folder),
    encoder="frames",
    sizes=(60_000, 10_000),
    home="https://www.garrickorchard.com/datasets/n-mnist",
)
BRAILLE = DataSet(
    "braille",
    TAXELS[1:],
    ("space", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
    lambda split, flat, folder: braille(split, folder),
    encoder="frames",
    steps=TAXELS[0],
    home="https://github.com/fzenke/spytorch (notebooks/data; its pickle must be made an .npz)",
)
