"""Images: the digits that ship with the package; MNIST, Fashion-MNIST and CIFAR-10 from files."""

from __future__ import annotations

import zlib
from functools import partial
from pathlib import Path

import numpy as np

from .dataset import SPLITS, DataSet, Folder, Loaded, scaled, spelled
from .reading import mismatch, open_data, read_idx, read_npz, read_records

__all__ = ["CIFAR10", "DIGITS", "FASHION_MNIST", "MNIST"]
__all__ += ["cifar10", "digits", "fashion_mnist", "mnist"]

#: CIFAR-10: bytes of a record.  The label; 32 x 32 red, green, blue, row by row.
RECORD = 1 + 3 * 32 * 32


def digits(split: str = "train", flat: bool = True, folder: Folder = None) -> Loaded:
    """Optical recognition of handwritten digits: 1,797 images of 8 x 8 in 10 classes.

    The test part of the UCI set *optdigits* (E. Alpaydin and C. Kaynak, 1998; CC BY 4.0), taken
    from scikit-learn's ``load_digits``.  The file's rows were shuffled once, with
    ``numpy.random.default_rng(0).permutation(1797)``; `folder` is not used.

    Parameters
    ----------
    split : "train" (1,257 images), "validation" (180) or "test" (360).
    flat : ``[n, 64]`` if true, else ``[n, 1, 8, 8]``; float32 in [0, 1], values / 16.
    """
    DIGITS.check_split(split)
    from importlib import resources  # late: it brings half of the standard library

    with resources.files(__package__).joinpath("optdigits.npz").open("rb") as file:
        images, labels = read_npz(file, "images", "labels")  # type: ignore[arg-type]
    return scaled(images[:, None], labels, slice(*SPLITS[split]), 16, flat)


def mnist(split: str = "train", flat: bool = True, folder: Folder = None) -> Loaded:
    """MNIST, handwritten digits: 70,000 images of 28 x 28 in 10 classes (LeCun, Cortes, Burges).

    Parameters
    ----------
    split : "train" (the first 55,000 of the 60,000 training images), "validation" (their last
        twelfth: 5,000) or "test" (10,000), in the order of the files.
    flat : ``[n, 784]`` if true, else ``[n, 1, 28, 28]``; float32 in [0, 1], values / 255.
    folder : where ``mnist/`` or the files are.
    """
    return _idx_set(MNIST, split, flat, folder)


def fashion_mnist(split: str = "train", flat: bool = True, folder: Folder = None) -> Loaded:
    """Fashion-MNIST, articles of clothing: 70,000 images of 28 x 28 (Xiao, Rasul, Vollgraf 2017).

    Parameters are those of :func:`mnist`; the folder is ``fashion-mnist/``.
    """
    return _idx_set(FASHION_MNIST, split, flat, folder)


def _idx_set(source: DataSet, split: str, flat: bool, folder: Folder) -> Loaded:
    part = "t10k" if split == "test" else "train"
    names = [f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"]
    expected = f"{' and '.join(names)}, each with or without .gz,"
    find = partial(spelled, names=names)
    image_path, label_path = source.locate(split, folder, expected, find, needed=2)
    images, labels = read_idx(image_path, axes=3), read_idx(label_path, axes=1)
    if images.shape[1:] != source.shape[1:]:
        size, found = (" x ".join(map(str, a)) for a in (source.shape[1:], images.shape[1:]))
        raise mismatch(f"images of {size}", found, image_path)
    if len(images) != len(labels) or len(labels) == 0:
        found = f"{len(images):,} and {len(labels):,}"
        raise mismatch("as many images as labels", found, f"{image_path} and {label_path}")
    _check_labels(labels, label_path)
    # Both sets have the same file names, and a mix-up would only show as an odd accuracy.
    theirs = LABEL_FILES.get(zlib.crc32(labels.tobytes()), (source.name, part))
    if theirs != (source.name, part):
        found = f"{theirs[1]} labels of {theirs[0]}"
        raise mismatch(f"{part} labels of {source.name}", found, label_path)
    return scaled(images[:, None], labels, source.rows(split, len(labels), 12), 255, flat)


def cifar10(split: str = "train", flat: bool = False, folder: Folder = None) -> Loaded:
    """CIFAR-10, colour photographs: 60,000 images of 32 x 32 in 10 classes (A. Krizhevsky 2009).

    A :class:`SubsetWarning` says if batches are missing or shorter.

    Parameters
    ----------
    split : "train" (the first nine tenths of the training images, 45,000 of 50,000), "validation"
        (their last tenth: 5,000) or "test" (10,000), in the order of the batches.
    flat : ``[n, 3, 32, 32]``, red, green, blue, unless true, else ``[n, 3072]``; values as MNIST's.
    folder : where ``cifar10/`` or the files are: ``data_batch_1.bin`` to ``data_batch_5.bin``,
        ``test_batch.bin``, with or without ``.gz``.
    """
    names, expected = ["test_batch.bin"], "test_batch.bin"
    if split != "test":
        names = [f"data_batch_{i}.bin" for i in range(1, 6)]
        expected = f"{names[0]} to {names[-1]}, at least one of them"
    expected = f"{expected}, with or without .gz,"
    paths = CIFAR10.locate(split, folder, expected, partial(spelled, names=names))
    records = np.concatenate([_batch(path) for path in paths])
    images = records[:, 1:].reshape(-1, *CIFAR10.shape)
    return scaled(images, records[:, 0], CIFAR10.rows(split, len(records), 10), 255, flat)


def _batch(path: Path) -> np.ndarray:
    with open_data(path) as stream:
        records = read_records(stream, RECORD, "record")
    _check_labels(records[:, 0], path)
    return records


def _check_labels(labels: np.ndarray, path: Path) -> None:
    if labels.max() > 9:
        raise mismatch("labels 0 to 9", f"{labels.max()} at row {labels.argmax():,}", path)


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
CIFAR10 = DataSet(
    "cifar10",
    (3, 32, 32),
    tuple("airplane automobile bird cat deer dog frog horse ship truck".split()),
    cifar10,
    sizes=(50_000, 10_000),
    home="https://www.cs.toronto.edu/~kriz/cifar.html (the binary version)",
)
#: Set and part of the published label files, by CRC-32.
LABEL_FILES = {
    crc: (source.name, part)
    for source in (MNIST, FASHION_MNIST)
    for part, crc in zip(("train", "t10k"), source.labels, strict=True)
}
