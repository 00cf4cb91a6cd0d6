"""Data sets.  :func:`digits` ships with the package: real handwritten digits, small enough for a lesson."""

from __future__ import annotations

import numpy as np

__all__ = ["SPLITS", "digits"]

#: Rows of the shuffled file: 1,257 for training, 180 for validation, 360 for the one look at the end.
SPLITS = {"train": (0, 1257), "validation": (1257, 1437), "test": (1437, 1797)}


def digits(split: str = "train", flat: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Optical recognition of handwritten digits: 1,797 images of 8 x 8 in 10 classes.

    The test part of the UCI set *optdigits* (E. Alpaydin and C. Kaynak, 1998; CC BY 4.0), taken from scikit-learn's
    ``load_digits``.  The rows were shuffled once, with ``numpy.random.default_rng(0).permutation(1797)``; the order is
    stored in the file, so the split is the same for every version of NumPy.

    Parameters
    ----------
    split : "train" (1,257 images), "validation" (180) or "test" (360).
    flat : ``[n, 64]`` if true, else ``[n, 1, 8, 8]``.

    Returns
    -------
    images : float32 in [0, 1] (the file's 0 to 16, divided by 16).   labels : int64 ``[n]``, 0 to 9.
    """
    if split not in SPLITS:
        raise ValueError(f"digits: unknown split {split!r}, expected one of {', '.join(map(repr, SPLITS))}")
    from importlib import resources  # late: it brings half of the standard library

    with resources.files(__name__).joinpath("optdigits.npz").open("rb") as file:
        arrays = np.load(file, allow_pickle=False)
        images, labels = arrays["images"], arrays["labels"]
    rows = slice(*SPLITS[split])
    scaled = images[rows].astype(np.float32) / np.float32(16)
    return scaled.reshape(-1, 64) if flat else scaled.reshape(-1, 1, 8, 8), labels[rows].astype(np.int64)
