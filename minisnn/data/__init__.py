"""Data sets: images, events, time series.

Each is a function of the split, "train", "validation" or "test", that returns samples and labels
(int64 ``[n]``, from 0).  :func:`digits` ships with the package.  The others read `folder`, which
holds the files or the set's own folder, such as ``mnist/``; ``None``: what ``MINISNN_DATA`` names.

A missing file raises FileNotFoundError, which says where it was looked for and how to get it.  A
file that is not what was expected raises :class:`DataError`, which names it.
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
