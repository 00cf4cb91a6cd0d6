"""The data sets by name: digits ships with the package, MNIST and Fashion-MNIST are read from a folder.

The modules ``cifar`` and ``recordings`` put theirs in the same registry.
"""

from __future__ import annotations

import os
import warnings
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .idx import read_idx
from .reading import DataError

__all__ = ["SETS", "SPLITS", "DataSet", "SubsetWarning", "digits", "fashion_mnist", "mnist"]

Folder = str | os.PathLike[str] | None
Loaded = tuple[np.ndarray, np.ndarray]

#: Rows of the shuffled file of digits: 1,257 for training, 180 for validation, 360 for the one look at the end.
SPLITS = {"train": (0, 1257), "validation": (1257, 1437), "test": (1437, 1797)}


def digits(split: str = "train", flat: bool = True) -> Loaded:
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
    check_split("digits", split)
    from importlib import resources  # late: it brings half of the standard library

    with resources.files(__package__).joinpath("optdigits.npz").open("rb") as file:
        arrays = np.load(file, allow_pickle=False)
        images, labels = arrays["images"], arrays["labels"]
    return scaled(images, labels, slice(*SPLITS[split]), 16, flat)


def mnist(split: str = "train", flat: bool = True, folder: Folder = None) -> Loaded:
    """MNIST, handwritten digits: 70,000 images of 28 x 28 in 10 classes (LeCun, Cortes, Burges).

    Parameters
    ----------
    split : "train" (the first 55,000 of the 60,000 training images), "validation" (their last twelfth: 5,000) or
        "test" (10,000).  The order is that of the files, so the split is the same everywhere.
    flat : ``[n, 784]`` if true, else ``[n, 1, 28, 28]``.
    folder : where ``mnist/`` or the files themselves are; ``None``: the folder that ``MINISNN_DATA`` names.

    Returns
    -------
    images : float32 in [0, 1] (the file's 0 to 255, divided by 255).   labels : int64 ``[n]``, 0 to 9.

    Raises
    ------
    FileNotFoundError : a file is missing; it says where it was looked for, and how to get it.
    DataError : a file is not what was expected; it is named.
    """
    return _idx_set("mnist", split, flat, folder)


def fashion_mnist(split: str = "train", flat: bool = True, folder: Folder = None) -> Loaded:
    """Fashion-MNIST, articles of clothing: 70,000 images of 28 x 28 in 10 classes (Xiao, Rasul, Vollgraf 2017).

    Parameters, results and errors are those of :func:`mnist`; the folder is ``fashion-mnist/``.
    """
    return _idx_set("fashion-mnist", split, flat, folder)


@dataclass(frozen=True)
class DataSet:
    """A data set: ``load(split, flat, folder)``, and what a network must know before it is loaded.

    A set with the encoder "frames" has a time axis of its own: samples are ``[n, T, *shape]``, or ``[n, T, values]`` if
    flat.  Where `steps` is ``None``, how many is a choice: its ``load`` takes ``steps=`` as well.

    Parameters
    ----------
    title : its name in a sentence.
    shape : of one sample at one step: ``(channels, height, width)``, or ``(channels,)`` of a time series.
    classes : what the labels 0, 1, ... mean.
    load : ``load(split="train", flat=True, folder=None) -> (samples, labels)``.
    files : SHA-256 sums by file name, of what can be downloaded.
    mirrors : addresses of folders that hold these files.
    labels : CRC-32 of the label bytes, training and test.
    encoder : the name, in ``ms.encode.ENCODERS``, of what gives a sample its time.
    steps : time steps of every sample, if they are fixed.
    sizes : number of training and of test samples in the published set.
    home : where it can be had, if not by ``minisnn data get``.
    """

    title: str
    shape: tuple[int, ...]
    classes: tuple[str, ...]
    load: Callable[..., Loaded]
    files: Mapping[str, str] = field(default_factory=dict)
    mirrors: tuple[str, ...] = ()
    labels: tuple[int, ...] = ()
    encoder: str = "bernoulli"
    steps: int | None = None
    sizes: tuple[int, int] | None = None
    home: str = ""


class SubsetWarning(UserWarning):
    """Fewer samples were found than were published: accuracies on them do not compare with published ones."""


def _digits(split: str = "train", flat: bool = True, folder: Folder = None) -> Loaded:
    return digits(split, flat)  # it ships with the package: no folder is needed


#: Every data set by its name.
SETS = {
    "digits": DataSet("digits", (1, 8, 8), tuple("0123456789"), _digits),
    "mnist": DataSet(
        "MNIST", (1, 28, 28), tuple("0123456789"), mnist,
        files={
            "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        },
        mirrors=(
            "https://ossci-datasets.s3.amazonaws.com/mnist",
            "https://storage.googleapis.com/cvdf-datasets/mnist",
        ),
        labels=(0xBA07E8EF, 0xEE8604D9),
    ),
    "fashion-mnist": DataSet(
        "Fashion-MNIST", (1, 28, 28),
        ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        fashion_mnist,
        files={
            "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        },
        mirrors=(
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
        ),
        labels=(0x2ED6E46A, 0x242BC73F),
    ),
}  # fmt: skip


def base_folder(name: str, folder: Folder) -> Path:
    """The folder that was given, or else the one that ``MINISNN_DATA`` names."""
    given = folder if folder is not None else os.environ.get("MINISNN_DATA") or None
    if given is None:
        raise FileNotFoundError(
            f"{name}: no folder was given; say folder= (--data-dir D), or set MINISNN_DATA to the folder with {name}/ "
            f"inside. The files themselves: {source_of(name, 'D')}"
        )
    return Path(os.path.expanduser(given))


def source_of(name: str, base: Folder) -> str:
    """Where its files can be had: a command or an address."""
    return SETS[name].home or f"minisnn data get {name} --data-dir {base}"


def _idx_set(name: str, split: str, flat: bool, folder: Folder) -> Loaded:
    check_split(name, split)
    part = "t10k" if split == "test" else "train"
    image_path, label_path = _find(name, [f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"], folder)
    images, labels = read_idx(image_path, axes=3), read_idx(label_path, axes=1)
    if images.shape[1:] != SETS[name].shape[1:]:
        raise DataError(f"{image_path}: expected images of 28 x 28, found {images.shape[1]} x {images.shape[2]}")
    if len(images) != len(labels) or len(labels) == 0:
        raise DataError(
            f"{image_path} and {label_path}: expected as many images as labels, found {len(images):,} and {len(labels):,}"
        )
    if labels.max() > 9:
        raise DataError(f"{label_path}: expected labels 0 to 9, found {labels.max()} at row {labels.argmax():,}")
    # All sets of this kind have the same file names, and a mix-up would only show as an odd accuracy.
    for other, source in SETS.items():
        for its_part, crc in zip(("train", "t10k"), source.labels, strict=False):
            if zlib.crc32(labels.tobytes()) == crc and (other, its_part) != (name, part):
                raise DataError(f"{label_path}: expected {part} labels of {name}, found {its_part} labels of {other}")
    return scaled(images, labels, rows_of(split, len(labels), 12), 255, flat)


def _find(name: str, stems: list[str], folder: Folder) -> list[str]:
    """The path of each file, all from one folder."""
    base = base_folder(name, folder)
    places, partly = [base / name, base], []
    for place in places:
        found = [path for stem in stems if (path := _spelling(place, stem))]
        if len(found) == len(stems):
            return found
        partly += found
    raise FileNotFoundError(
        f"{name}: expected {' and '.join(stems)}, each with or without .gz, in {' or '.join(map(str, places))}; "
        f"found {'only ' + ', '.join(partly) if partly else 'neither' if base.exists() else f'no folder {base}'}. "
        f"Get them with: {source_of(name, base)}. "
        "Or say where they are: folder= (--data-dir D), or MINISNN_DATA"
    )


def _spelling(place: Path, stem: str) -> str | None:
    """The file as it is spelt there.  gzip goes first: it has a check sum, and is what ``get`` writes."""
    dotted = stem.replace("-idx", ".idx")
    there = [p for p in (f"{place / s}{end}" for s in (stem, dotted) for end in (".gz", "")) if os.path.exists(p)]
    # Some archives unpack to folders of these names: a file before a folder.
    return min(there, key=os.path.isdir, default=None)


def check_split(name: str, split: str) -> None:
    if split not in SPLITS:
        raise ValueError(f"{name}: unknown split {split!r}, expected one of {', '.join(map(repr, SPLITS))}")


def rows_of(split: str, n: int, share: int) -> slice:
    """The rows of a part's `n` that belong to the split: validation is one in `share` of training's, the last ones."""
    border = n - (n // share if split != "test" else 0)
    return slice(border, None) if split == "validation" else slice(border)


def warn_of_subset(name: str, split: str, found: int) -> None:
    """Say so, if it is not the whole published set."""
    part = "test" if split == "test" else "training"
    if (sizes := SETS[name].sizes) and found != (full := sizes[part == "test"]):
        text = f"{name}: found {found:,} of the {full:,} {part} samples; accuracies do not compare with published ones"
        warnings.warn(text, SubsetWarning, stacklevel=3)


def scaled(images: np.ndarray, labels: np.ndarray, rows: slice, top: int, flat: bool) -> Loaded:
    """Rows of ``[n, height, width]`` or ``[n, channels, height, width]`` as float32 in [0, 1]."""
    part = np.divide(images[rows], np.float32(top), dtype=np.float32)
    maps = images.shape[1:] if images.ndim == 4 else (1, *images.shape[1:])
    return part.reshape(len(part), *([np.prod(maps)] if flat else maps)), labels[rows].astype(np.int64)
