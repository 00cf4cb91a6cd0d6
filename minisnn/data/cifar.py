"""CIFAR-10 in its binary version: batches of records, each a label and three planes of bytes."""

from __future__ import annotations

import os

import numpy as np

from .reading import LIMIT, DataError, opened, read_most, stranger
from .sets import SETS, DataSet, Folder, Loaded, base_folder, check_split, rows_of, scaled, source_of, warn_of_subset

__all__ = ["cifar10"]

#: Bytes of a record: the label; 32 x 32 red, green, blue, row by row.
RECORD = 1 + 3 * 32 * 32


def cifar10(split: str = "train", flat: bool = False, folder: Folder = None) -> Loaded:
    """CIFAR-10, colour photographs: 60,000 images of 32 x 32 in 10 classes (A. Krizhevsky 2009).

    Parameters
    ----------
    split : "train" (the first nine tenths of the training images, 45,000 of 50,000), "validation" (their last tenth:
        5,000) or "test" (10,000).  The order is that of the batches and of the images in them.
    flat : ``[n, 3, 32, 32]`` unless true, else ``[n, 3072]``.
    folder : where ``cifar10/`` or the files themselves are: ``data_batch_1.bin`` to ``data_batch_5.bin`` and
        ``test_batch.bin``, each with or without ``.gz``; ``None``: the folder that ``MINISNN_DATA`` names.

    Returns
    -------
    images : float32 in [0, 1] (the file's 0 to 255, divided by 255), the channels red, green, blue.
    labels : int64 ``[n]``, 0 to 9.

    Raises
    ------
    FileNotFoundError : there is no batch; it says where they were looked for.
    DataError : a file is no whole number of records of 3,073 bytes, or has a label above 9.

    Warns
    -----
    SubsetWarning : there are other than 50,000 training images, because some batches are missing or shorter, or other
        than 10,000 test images.
    """
    check_split("cifar10", split)
    stems = ["test_batch"] if split == "test" else [f"data_batch_{i}" for i in range(1, 6)]
    base = base_folder("cifar10", folder)
    for place in (base / "cifar10", base):
        # gzip goes first: it has a check sum.
        spelt = [[f"{place / stem}.bin{end}" for end in (".gz", "")] for stem in stems]
        if paths := [found[0] for pair in spelt if (found := [p for p in pair if os.path.exists(p)])]:
            records = np.concatenate([_records(path) for path in paths])
            break
    else:
        raise FileNotFoundError(
            f"cifar10: expected {stems[0]}.bin{'' if split == 'test' else ' to data_batch_5.bin, at least one of them'}, "
            f"with or without .gz, in {base / 'cifar10'} or {base}; found none. Get them from: {source_of('cifar10', base)}"
        )
    warn_of_subset("cifar10", split, len(records))
    images = records[:, 1:].reshape(-1, 3, 32, 32)
    return scaled(images, records[:, 0], rows_of(split, len(records), 10), 255, flat)


def _records(path: str) -> np.ndarray:
    with opened(path) as stream:
        content = read_most(stream, LIMIT)
        if not content or len(content) % RECORD or len(content) > LIMIT:
            found = stranger(content[:9]) or f"{len(content):,} bytes"
            raise DataError(f"expected a whole number of records of {RECORD:,} bytes, found {found}")
        records = np.frombuffer(content, np.uint8).reshape(-1, RECORD)
        labels = records[:, 0]
        if labels.max() > 9:
            raise DataError(f"expected labels 0 to 9, found {labels.max()} in record {labels.argmax() + 1:,}")
        return records


SETS["cifar10"] = DataSet(
    "CIFAR-10", (3, 32, 32),
    ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    lambda split="train", flat=True, folder=None: cifar10(split, flat, folder), sizes=(50_000, 10_000),
    home="https://www.cs.toronto.edu/~kriz/cifar.html (the binary version)",
)  # fmt: skip
