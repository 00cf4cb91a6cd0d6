"""CIFAR-10 in its binary version: batches of records, each a label and three planes of bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .dataset import DataSet, Folder, Loaded, rows_of, scaled, spelled
from .reading import DataError, open_data, read_records

__all__ = ["CIFAR10", "cifar10"]

#: Bytes of a record: the label; 32 x 32 red, green, blue, row by row.
RECORD = 1 + 3 * 32 * 32


def cifar10(split: str = "train", flat: bool = False, folder: Folder = None) -> Loaded:
    """CIFAR-10, colour photographs: 60,000 images of 32 x 32 in 10 classes (A. Krizhevsky 2009).

    Results and errors are those of :func:`mnist`; the channels are red, green, blue.

    Parameters
    ----------
    split : "train" (the first nine tenths of the training images, 45,000 of 50,000), "validation"
        (their last tenth: 5,000) or "test" (10,000), in the order of the batches.
    flat : ``[n, 3, 32, 32]`` unless true, else ``[n, 3072]``.
    folder : where ``cifar10/`` or the files are: ``data_batch_1.bin`` to ``data_batch_5.bin``,
        ``test_batch.bin``, with or without ``.gz``; ``None``: what ``MINISNN_DATA`` names.

    Warns
    -----
    SubsetWarning : not all images are there, because batches are missing or shorter.
    """
    CIFAR10.check_split(split)
    names, expected = ["test_batch.bin"], "test_batch.bin, with or without .gz,"
    if split != "test":
        names = [f"data_batch_{i}.bin" for i in range(1, 6)]
        expected = f"{names[0]} to {names[-1]}, at least one of them, with or without .gz,"

    def find(place: Path) -> list[Path]:
        return [path for name in names for path in spelled(place, name)]

    paths = CIFAR10.locate(folder, expected, find)
    records = np.concatenate([_records(path) for path in paths])
    CIFAR10.warn_of_subset(split, len(records))
    images = records[:, 1:].reshape(-1, 3, 32, 32)
    return scaled(images, records[:, 0], rows_of(split, len(records), 10), 255, flat)


def _records(path: Path) -> np.ndarray:
    with open_data(path) as stream:
        records = read_records(stream, RECORD, "record")
        labels = records[:, 0]
        if labels.max() > 9:
            found = f"found {labels.max()} in record {labels.argmax() + 1:,}"
            raise DataError(f"expected labels 0 to 9, {found}")
        return records


CIFAR10 = DataSet(
    "cifar10",
    (3, 32, 32),
    tuple("airplane automobile bird cat deer dog frog horse ship truck".split()),
    cifar10,
    sizes=(50_000, 10_000),
    home="https://www.cs.toronto.edu/~kriz/cifar.html (the binary version)",
)
