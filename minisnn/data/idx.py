"""The IDX format of the MNIST files: a magic number, the sizes, then unsigned bytes."""

from __future__ import annotations

import math
import os
from typing import BinaryIO

import numpy as np

from .reading import LIMIT, DataError, open_data, read_limited, unexpected_format

__all__ = ["read_idx"]

KINDS = {1: "labels", 3: "images"}  #: by number of axes


def read_idx(path: str | os.PathLike[str], axes: int | None = None) -> np.ndarray:
    """Read an IDX file of unsigned bytes.

    The first bytes decide whether it is compressed, whatever its name.  Memory grows with what the
    file holds, never with what its header promises.

    Parameters
    ----------
    path : the file, plain or gzip.
    axes : number of axes it must have: 3 for images ``[n, height, width]``, 1 for labels ``[n]``,
        ``None`` for any.

    Returns
    -------
    values : uint8, of the shape in the header.

    Raises
    ------
    FileNotFoundError : there is no such file.
    DataError : it is not an IDX file, is damaged, cut off or too long, or larger than ``LIMIT``.

    Notes
    -----
    Two zero bytes, a type (8: unsigned byte), the number of axes; each size as a big-endian uint32;
    the values, last axis fastest.  Source: Y. LeCun, C. Cortes, C. Burges, "The MNIST database",
    section on file formats.
    """
    with open_data(path) as stream:
        return _values(stream, _sizes(stream, axes))


def _sizes(stream: BinaryIO, axes: int | None) -> list[int]:
    start = stream.read(4)
    if not start:
        raise DataError("expected an IDX file, found an empty one")
    if what := unexpected_format(start):
        raise DataError(f"expected an IDX file, found {what}")
    # NumPy 1 stops at 32 axes.
    is_idx = len(start) == 4 and start[:3] == b"\0\0\x08" and 1 <= start[3] <= 32
    if not is_idx or axes not in (None, start[3]):
        expected = "the magic number of unsigned bytes, 2049 and up"
        expected = expected if axes is None else _kind(axes)
        found = _kind(start[3]) if is_idx else f"the bytes {start.hex(' ')}"
        raise DataError(f"expected {expected}, found {found}")
    header = stream.read(4 * start[3])
    if len(header) < 4 * start[3]:
        found = "found the end of the file: it is cut off"
        raise DataError(f"expected {start[3]} sizes in the header, {found}")
    return [int(n) for n in np.frombuffer(header, ">u4")]


def _kind(axes: int) -> str:
    return f"{KINDS.get(axes, f'{axes} axes')} (magic number {0x800 + axes})"


def _values(stream: BinaryIO, sizes: list[int]) -> np.ndarray:
    count = math.prod(sizes)
    shape = " x ".join(f"{n:,}" for n in sizes)
    if math.prod(max(n, 1) for n in sizes) > LIMIT:  # 0 x 4 billion is no shape either
        promised = f"the header promises {shape}: it is damaged"
        raise DataError(f"expected at most {LIMIT:,} bytes, {promised}")
    values = read_limited(stream, count)
    if len(values) != count:
        found = "more: the header or the end is wrong"
        if len(values) < count:
            found = f"only {len(values):,}: it is cut off"
        raise DataError(f"expected {shape} = {count:,} bytes after the header, found {found}")
    return np.frombuffer(values, np.uint8).reshape(sizes)
