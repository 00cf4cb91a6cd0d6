"""Opening files that nobody vouches for: plain or gzip, read to a limit, every failure told as a :class:`DataError`."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

__all__ = ["LIMIT", "DataError", "opened", "read_most", "stranger"]

#: Bytes that are read at most, 1 GiB: a few kilobytes of gzip can promise, and even hold, more than any memory.
LIMIT = 1 << 30
CHUNK = 1 << 20

#: What is often found in place of the data, by its first bytes.
STRANGERS = {
    b"<": "a web page (HTML): a download that went wrong",
    b"PK": "a zip archive: unpack it first",
    b"\x1f\x8b": "gzip within gzip: unpack it once",
    b"vers": "text, perhaps a Git LFS pointer: the data themselves were not fetched",
}


class DataError(ValueError):
    """A data set that is not what was expected: the message names the file, what was expected and what was found."""


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file to read from, plain or gzip; errors while it is open become a :class:`DataError` that begins with its name.

    Whether it is compressed is seen from its first bytes, whatever its name.
    """
    if os.path.exists(path) and not os.path.isfile(path):  # a folder, or a pipe that would never end
        raise DataError(f"{path}: expected a file, found {'a folder' if os.path.isdir(path) else 'something else'}")
    try:
        with open(path, "rb") as file:
            packed = file.peek(2)[:2] == b"\x1f\x8b"
            yield gzip.GzipFile(fileobj=file) if packed else file  # type: ignore[misc]
    except FileNotFoundError:
        raise
    except DataError as problem:
        raise DataError(f"{path}: {problem}") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: expected whole gzip data, found them damaged or cut off ({error})") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except MemoryError:
        raise DataError(f"{path}: holds more than fits into memory") from None


def read_most(stream: BinaryIO, most: int) -> bytearray:
    """What is there, `most` bytes and one more at the utmost: memory grows with what the file holds."""
    content = bytearray()
    while len(content) <= most and (chunk := stream.read(min(CHUNK, most + 1 - len(content)))):
        content += chunk
    return content


def stranger(start: bytes | bytearray) -> str | None:
    """What a file is that begins so, if it is something well known in the wrong place."""
    return next((what for mark, what in STRANGERS.items() if start.lstrip().startswith(mark)), None)
