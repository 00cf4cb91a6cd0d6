"""Images: the digits that ship with the package; MNIST and Fashion-MNIST, read from files."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np

from .dataset import SPLITS, DataSet, Folder, Loaded, rows_of, scaled, spelled
from .idx import read_idx
from .reading import DataError

__all__ = ["DIGITS", "FASHION_MNIST", "MNIST", "digits", "fashion_mnist", "mnist"]


def digits(split: str = "train", flat: bool = True, folder: Folder = None) -> Loaded:
    """Optical recognition of handwritten digits: 1,797 images of 8 x 8 in 10 classes.

    The test part of the UCI set *optdigits* (E. Alpaydin and C. Kaynak, 1998; CC BY 4.0), taken
    from scikit-learn's ``load_digits``.  The rows were shuffled once, with
    ``numpy.random.default_rng(0).permutation(1797)``; the order is stored in the file, so the split
    is the same for every version of NumPy.

    Parameters
    ----------
    split : "train" (1,257 images), "validation" (180) or "test" (360).
    flat : ``[n, 64]`` if true, else ``[n, 1, 8, 8]``.
    folder : not used: the file ships with the package.

    Returns
    -------
    images : float32 in [0, 1] (the file's 0 to 16, divided by 16).
    labels : int64 ``[n]``, 0 to 9.
    """
    DIGITS.check_split(split)
    from importlib import resources  # late: it brings half of the standard library

    with resources.files(__package__).joinpath("optdigits.npz").open("rb") as file:
        arrays = np.load(file, allow_pickle=False)
        images, labels = arrays["images"], arrays["labels"]
    return scaled(images, labels, slice(*SPLITS[split]), 16, flat)


def mnist(split: str = "train", flat: bool = True, folder: Folder = None) -> Loaded:
    """MNIST, handwritten digits: 70,000 images of 28 x 28 in 10 classes (LeCun, Cortes, Burges).

    Parameters
    ----------
    split : "train" (the first 55,000 of the 60,000 training images), "validation" (their last
        twelfth: 5,000) or "test" (10,000), in the order of the files.
    flat : ``[n, 784]`` if true, else ``[n, 1, 28, 28]``.
    folder : where ``mnist/`` or the files themselves are; ``None``: what ``MINISNN_DATA`` names.

    Returns
    -------
    images : float32 in [0, 1] (the file's 0 to 255, divided by 255).
    labels : int64 ``[n]``, 0 to 9.

    Raises
    ------
    FileNotFoundError : a file is missing; it says where it was looked for, and how to get it.
    DataError : a file is not what was expected; it is named.
    """
    return _read(MNIST, split, flat, folder)


def fashion_mnist(split: str = "train", flat: bool = True, folder: Folder = None) -> Loaded:
    """Fashion-MNIST, articles of clothing: 70,000 images of 28 x 28 (Xiao, Rasul, Vollgraf 2017).

    Parameters, results and errors are those of :func:`mnist`; the folder is ``fashion-mnist/``.
    """
    return _read(FASHION_MNIST, split, flat, folder)


def _read(source: DataSet, split: str, flat: bool, folder: Folder) -> Loaded:
    source.check_split(split)
    part = "t10k" if split == "test" else "train"
    stems = [f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"]

    def find(place: Path) -> list[Path]:
        return [p for stem in stems for p in spelled(place, stem, stem.replace("-idx", ".idx"))]

    expected = f"{stems[0]} and {stems[1]}, each with or without .gz,"
    image_path, label_path = source.locate(folder, expected, find, needed=2)
    images, labels = read_idx(image_path, axes=3), read_idx(label_path, axes=1)
    height, width = images.shape[1:]
    if (height, width) != source.shape[1:]:
        raise DataError(f"{image_path}: expected images of 28 x 28, found {height} x {width}")
    if len(images) != len(labels) or len(labels) == 0:
        found = f"expected as many images as labels, found {len(images):,} and {len(labels):,}"
        raise DataError(f"{image_path} and {label_path}: {found}")
    if labels.max() > 9:
        found = f"{labels.max()} at row {labels.argmax():,}"
        raise DataError(f"{label_path}: expected labels 0 to 9, found {found}")
    # Both sets have the same file names, and a mix-up would only show as an odd accuracy.
    crc = zlib.crc32(labels.tobytes())
    for other in (MNIST, FASHION_MNIST):
        for its_part, its_crc in zip(("train", "t10k"), other.labels, strict=True):
            if crc == its_crc and (other.name, its_part) != (source.name, part):
                expected = f"expected {part} labels of {source.name}"
                found = f"found {its_part} labels of {other.name}"
                raise DataError(f"{label_path}: {expected}, {found}")
    return scaled(images, labels, rows_of(split, len(labels), 12), 255, flat)


def _files(*sums: str) -> dict[str, str]:
    """SHA-256 sums by file name: images and labels of training, then of test."""
    kinds = ("images-idx3", "labels-idx1")
    names = [f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in kinds]
    return dict(zip(names, sums, strict=True))


DIGITS = DataSet("digits", (1, 8, 8), tuple("0123456789"), digits)
MNIST = DataSet(
    "mnist",
    (1, 28, 28),
    tuple("0123456789"),
    mnist,
    files=_files(
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    ),
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist",
        "https://storage.googleapis.com/cvdf-datasets/mnist",
    ),
    labels=(0xBA07E8EF, 0xEE8604D9),
)
FASHION_MNIST = DataSet(
    "fashion-mnist",
    (1, 28, 28),
    (*"T-shirt/top Trouser Pullover Dress Coat Sandal Shirt Sneaker Bag".split(), "Ankle boot"),
    fashion_mnist,
    files=_files(
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    ),
    mirrors=(
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
    ),
    labels=(0x2ED6E46A, 0x242BC73F),
)
