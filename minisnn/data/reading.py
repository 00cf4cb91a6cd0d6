"""Reading untrusted data files, plain or gzip: every failure is a :class:`DataError`."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np

__all__ = ["LIMIT", "DataError", "open_data", "read_limited", "read_records", "unexpected_format"]

#: Bytes that are read at most, 1 GiB: a few kilobytes of gzip can hold more than any memory.
LIMIT = 1 << 30
CHUNK = 1 << 20

#: What is often found in place of the data, by its first bytes.
UNEXPECTED = {
    b"<": "a web page (HTML): a download that went wrong",
    b"PK": "a zip archive: unpack it first",
    b"\x1f\x8b": "gzip within gzip: unpack it once",
    b"vers": "text, perhaps a Git LFS pointer: the data themselves were not fetched",
}


class DataError(ValueError):
    """A data set is not what was expected: the message names the file, and what was found."""


@contextmanager
def open_data(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file, plain or gzip; errors become a :class:`DataError` that begins with its path.

    The first bytes decide whether it is compressed, whatever its name.
    """
    if os.path.exists(path) and not os.path.isfile(path):  # a folder, or a pipe without an end
        found = "a folder" if os.path.isdir(path) else "something else"
        raise DataError(f"{path}: expected a file, found {found}")
    try:
        with open(path, "rb") as file:
            packed = file.peek(2)[:2] == b"\x1f\x8b"
            yield gzip.GzipFile(fileobj=file) if packed else file  # type: ignore[misc]
    except FileNotFoundError:
        raise
    except DataError as problem:
        raise DataError(f"{path}: {problem}") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        expected = "expected whole gzip data, found them damaged or cut off"
        raise DataError(f"{path}: {expected} ({error})") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except MemoryError:
        raise DataError(f"{path}: holds more than fits into memory") from None


def read_limited(stream: BinaryIO, most: int) -> bytearray:
    """Read `most` bytes, or one more if there are more; memory grows with what the file holds."""
    content = bytearray()
    while len(content) <= most and (chunk := stream.read(min(CHUNK, most + 1 - len(content)))):
        content += chunk
    return content


def read_records(stream: BinaryIO, size: int, what: str) -> np.ndarray:
    """Read records of `size` bytes, uint8 ``[n, size]`` with n > 0; `what` names one."""
    content = read_limited(stream, LIMIT)
    if len(content) > LIMIT:
        raise DataError(f"expected at most {LIMIT:,} bytes, found more")
    n, rest = divmod(len(content), size)
    if rest or not n:
        found = (
            f"{len(content):,} bytes: {what} {n + 1:,} is cut off" if content else "an empty file"
        )
        found = unexpected_format(content) or found
        raise DataError(f"expected {what}s of {size:,} bytes each, found {found}")
    return np.frombuffer(content, np.uint8).reshape(n, size)


def unexpected_format(start: bytes | bytearray) -> str | None:
    """What a file is, by its first bytes, if it is something well known in the wrong place."""
    start = start[:9].lstrip()
    return next((what for mark, what in UNEXPECTED.items() if start.startswith(mark)), None)
