"""Data sets: images, events, time series.

:func:`digits` ships with the package; the others are read from a folder.
"""

from .dataset import SPLITS, DataSet, SubsetWarning
from .events import EVENT, read_events, to_frames
from .images import cifar10, digits, fashion_mnist, mnist
from .reading import DataError, read_idx
from .recordings import braille, nmnist
from .registry import SETS, get

__all__ = ["braille", "cifar10", "digits", "fashion_mnist", "mnist", "nmnist"]
__all__ += ["EVENT", "SETS", "SPLITS", "DataError", "DataSet", "SubsetWarning"]
__all__ += ["get", "read_events", "read_idx", "to_frames"]
