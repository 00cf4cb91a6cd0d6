"""Formats of untrusted files, plain or gzip: whatever is wrong becomes a :class:`DataError`.

Memory grows with what a file holds, never with what its header promises.
"""

from __future__ import annotations

import gzip
import math
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np

from ..files import array_from

__all__ = ["DataError", "known_format", "mismatch", "open_data"]
__all__ += ["read_idx", "read_npz", "read_records"]

#: The most bytes that are read, 1 GiB: a few kilobytes of gzip can hold more than any memory.
LIMIT = 1 << 30
CHUNK = 1 << 20

#: What often lies in place of the data, by its first bytes.
KNOWN_FORMATS = {
    b"<": "a web page (HTML): a download that went wrong",
    b"PK": "a zip archive: unpack it first",
    b"\x1f\x8b": "gzip within gzip: unpack it once",
    b"vers": "text, perhaps a Git LFS pointer: the data themselves were not fetched",
}


class DataError(ValueError):
    """A data set is not what was expected: the message names the file, and what was found."""


def mismatch(expected: str, found: str, path: Any = None) -> DataError:
    """The error of a file that does not hold what was expected; `open_data` adds its path."""
    where = "" if path is None else f"{path}: "
    return DataError(f"{where}expected {expected}, found {found}")


@contextmanager
def open_data(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file, plain or gzip; errors become a :class:`DataError` that begins with its path.

    The first bytes decide whether it is compressed, whatever its name.
    """
    try:
        if os.path.exists(path) and not os.path.isfile(path):  # a pipe would never end
            raise mismatch("a file", "a folder" if os.path.isdir(path) else "something else")
        with open(path, "rb") as file:
            packed = file.peek(2)[:2] == b"\x1f\x8b"
            yield gzip.GzipFile(fileobj=file) if packed else file  # type: ignore[misc]
    except FileNotFoundError:
        raise
    except DataError as problem:
        raise DataError(f"{path}: {problem}") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        found = f"them damaged or cut off ({error})"
        raise mismatch("whole gzip data", found, path) from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except MemoryError:
        raise DataError(f"{path}: holds more than fits into memory") from None


def known_format(start: bytes | bytearray) -> str | None:
    """What a file is, by its first bytes, if it is empty or something well known."""
    if not start:
        return "an empty file"
    start = start[:9].lstrip()
    return next((what for mark, what in KNOWN_FORMATS.items() if start.startswith(mark)), None)


def read_records(stream: BinaryIO, size: int, what: str) -> np.ndarray:
    """Read records of `size` bytes, uint8 ``[n, size]`` with n > 0; `what` names one."""
    content = _read(stream, LIMIT)
    if len(content) > LIMIT:
        raise mismatch(f"at most {LIMIT:,} bytes", "more")
    n, rest = divmod(len(content), size)
    if rest or not n:
        cut_off = f"{len(content):,} bytes: {what} {n + 1:,} is cut off"
        raise mismatch(f"{what}s of {size:,} bytes each", known_format(content) or cut_off)
    return np.frombuffer(content, np.uint8).reshape(n, size)


def read_idx(path: str | os.PathLike[str], axes: int | None = None) -> np.ndarray:
    """Read an IDX file of unsigned bytes, the format of MNIST: uint8, of the shape in its header.

    Parameters
    ----------
    path : the file, plain or gzip: its first bytes decide, whatever its name.
    axes : number of axes it must have: 3 for images ``[n, height, width]``, 1 for labels ``[n]``,
        ``None`` for any.

    Raises
    ------
    FileNotFoundError : there is no such file.
    DataError : it is not an IDX file, is damaged, cut off or too long, or holds more than 1 GiB.

    Notes
    -----
    Two zero bytes, a type (8: unsigned byte), the number of axes; each size as a big-endian uint32;
    the values, last axis fastest.  Source: Y. LeCun, C. Cortes, C. Burges, "The MNIST database",
    section on file formats.
    """
    with open_data(path) as stream:
        start = stream.read(4)
        if what := known_format(start):
            raise mismatch("an IDX file", what)
        # NumPy 1 stops at 32 axes.
        is_idx = len(start) == 4 and start[:3] == b"\0\0\x08" and 1 <= start[3] <= 32
        if not is_idx or axes not in (None, start[3]):
            any_kind = "the magic number of unsigned bytes, 2049 and up"
            found = _kind(start[3]) if is_idx else f"the bytes {start.hex(' ')}"
            raise mismatch(any_kind if axes is None else _kind(axes), found)
        header = stream.read(4 * start[3])
        if len(header) < 4 * start[3]:
            found = "the end of the file: it is cut off"
            raise mismatch(f"{start[3]} sizes in the header", found)
        sizes = np.frombuffer(header, ">u4").tolist()
        shape, count = " x ".join(f"{n:,}" for n in sizes), math.prod(sizes)
        if math.prod(max(n, 1) for n in sizes) > LIMIT:  # 0 x 4 billion is no shape either
            promised = f"a header that promises {shape}: it is damaged"
            raise mismatch(f"at most {LIMIT:,} bytes", promised)
        values = _read(stream, count)
        if len(values) != count:
            short = f"only {len(values):,}: it is cut off"
            found = short if len(values) < count else "more: the header or the end is wrong"
            raise mismatch(f"{shape} = {count:,} bytes after the header", found)
        return np.frombuffer(values, np.uint8).reshape(sizes)


def _kind(axes: int) -> str:
    kind = {1: "labels", 3: "images"}.get(axes, f"{axes} axes")
    return f"{kind} (magic number {0x800 + axes})"


def read_npz(stream: BinaryIO, *names: str) -> list[np.ndarray]:
    """Read arrays of an ``.npz``, compressed or not: no pickle, and at most `LIMIT` bytes."""
    try:
        with zipfile.ZipFile(stream) as archive:
            entries = {one.filename.removesuffix(".npy"): one for one in archive.infolist()}
            if missing := [n for n in names if n not in entries]:
                raise mismatch(f"the arrays {', '.join(names)}", f"no {', '.join(missing)}")
            if sum(entries[n].file_size for n in names) > LIMIT:
                promised = "a directory that promises more: it is damaged"
                raise mismatch(f"at most {LIMIT:,} bytes", promised)
            # archive.read compares the check sums.
            return [array_from(n, archive.read(entries[n])) for n in names]
    except (DataError, MemoryError):
        raise
    except Exception as error:  # a damaged archive can fail in any way
        problem = f"one that cannot be read ({type(error).__name__}: {error})"
        raise mismatch("an .npz of arrays", problem) from None


def _read(stream: BinaryIO, most: int) -> bytearray:
    """At most `most` bytes, and one more if the file is longer."""
    content = bytearray()
    while len(content) <= most and (chunk := stream.read(min(CHUNK, most + 1 - len(content)))):
        content += chunk
    return content
