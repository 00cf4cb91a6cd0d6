"""Data sets.  :func:`digits` ships with the package; the others are read from a folder: images, events, time series."""

from .cifar import cifar10
from .download import get
from .events import EVENT, read_events, to_frames
from .idx import read_idx
from .reading import DataError
from .recordings import braille, nmnist
from .sets import SETS, SPLITS, DataSet, SubsetWarning, digits, fashion_mnist, mnist

__all__ = [
    "EVENT", "SETS", "SPLITS", "DataError", "DataSet", "SubsetWarning", "braille", "cifar10", "digits", "fashion_mnist",
    "get", "mnist", "nmnist", "read_events", "read_idx", "to_frames",
]  # fmt: skip
