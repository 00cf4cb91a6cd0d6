"""Data sets.  :func:`digits` ships with the package; :func:`mnist` and :func:`fashion_mnist` are read from a folder."""

from .download import get
from .idx import read_idx
from .reading import DataError
from .sets import SETS, SPLITS, DataSet, digits, fashion_mnist, mnist

__all__ = ["SETS", "SPLITS", "DataError", "DataSet", "digits", "fashion_mnist", "get", "mnist", "read_idx"]
