"""Files: a header of plain data and arrays in one ``.npz``, written whole or not at all.

No pickle, ever: loading one runs whatever code it holds.  ``np.load(path)["fc1.weight"]`` reads an
array without minisnn.  :func:`read` trusts no file: before it reserves memory for an array, it
compares the size with the bytes that are there.
"""

from __future__ import annotations

import io
import json
import math
import os
import secrets
import stat
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from .kernels.arrays import to_numpy
from .version import __version__

__all__ = ["FORMAT", "FileError", "array_from", "find", "name_in_file", "read", "replacing"]
__all__ += ["write"]

#: Grows when older versions cannot read what this one writes.
FORMAT = 1


class FileError(ValueError):
    """A file is damaged, not ours, or of a newer format; the message names it and what is wrong."""


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A path to write to.  Once that file is on the disk, it replaces the one at `path`.

    Its name is new, so that two writers, or a link that somebody laid there, do no harm.
    """
    path = Path(path)
    part = path.with_name(f".{path.name[:60]}.{secrets.token_hex(8)}.part")
    open(part, "xb").close()
    try:
        yield part
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write(
    path: str | Path, kind: str, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> Path:
    """Write a file of that `kind`; the same content gives the same bytes on every device."""
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {path.parent}")
    text = json.dumps({"minisnn": __version__, "format": FORMAT, "kind": kind, **header})
    content = {"header": np.frombuffer(text.encode(), np.uint8), **arrays}
    if objects := [name for name, array in content.items() if array.dtype.hasobject]:
        raise TypeError(f"{path}: arrays of objects, which a file cannot hold: {objects}")
    with replacing(path) as part, open(part, "wb") as file:
        np.savez(file, **{name: to_numpy(array) for name, array in content.items()})
    return path


def read(path: str | Path, kinds: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The header and the arrays of a file of one of those `kinds`.

    Raises
    ------
    FileNotFoundError, OSError : it does not exist, or cannot be opened.
    FileError : anything else that is wrong with it.
    """
    if "\0" in str(path) or (Path(path).exists() and not stat.S_ISREG(os.stat(path).st_mode)):
        raise FileError(f"{str(path)!r} is not a file")
    with open(path, "rb") as file:
        try:
            kind, header, arrays = _content(file, os.fstat(file.fileno()).st_size)
        except FileError as error:
            raise FileError(f"{path}: {error}") from None
        except Exception as error:  # a damaged file can fail in any way
            damage = f"{type(error).__name__}: {error}"
            raise FileError(f"{path} is damaged or not a minisnn file: {damage}") from None
    if kind not in kinds:
        raise FileError(f"{path} holds a {kind}, expected a {' or a '.join(kinds)}")
    return header, arrays


def _content(file: Any, size: int) -> tuple[str, dict[str, Any], dict[str, np.ndarray]]:
    """The kind, the header and the arrays of a file of `size` bytes."""
    start = file.read(4)
    if start[:1] == b"\x80":
        raise FileError("it is a pickle: loading one runs the code in it")
    if start[:2] != b"PK":
        raise FileError(f"it is not a minisnn file, an .npz: it begins with {start!r}, not b'PK'")
    arrays: dict[str, np.ndarray] = {}
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        plain = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
        if not plain or sum(entry.file_size for entry in entries) > size:  # or they overlap
            raise FileError("its arrays are compressed or claim to be larger than the file")
        for entry in entries:
            name = entry.filename.removesuffix(".npy")
            if name in arrays:
                raise FileError(f"it holds {name!r} twice")
            arrays[name] = array_from(name, archive.read(entry))  # which compares the checksum
    header = json.loads(bytes(arrays.pop("header")))
    kind, number, version = (header.pop(name) for name in ("kind", "format", "minisnn"))
    if not (isinstance(kind, str) and isinstance(number, int) and isinstance(version, str)):
        raise FileError("the header does not say what the file is")
    if number > FORMAT:
        ours = f"this is minisnn {__version__}, which reads up to format {FORMAT}"
        written = f"it has format {number}, written by minisnn {version}"
        raise FileError(f"{written}; {ours}: pip install -U minisnn")
    return kind, header, arrays


def array_from(name: str, content: bytes) -> np.ndarray:
    """An array of numbers from the bytes of an ``.npy`` file.

    Raises
    ------
    FileError : it holds objects, is of another version, or claims a size that is not there.
    """
    stream = io.BytesIO(content)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise FileError(f"the array {name!r} is of an unknown version")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    if dtype.hasobject:
        raise FileError(f"the array {name!r} is a pickle of Python objects, which may run code")
    body = content[stream.tell() :]
    fits = min(shape, default=0) >= 0 and math.prod(shape) * dtype.itemsize == len(body)
    if dtype.kind not in "fiub" or not fits:
        raise FileError(f"the array {name!r} claims {dtype} {list(shape)}, has {len(body)} bytes")
    return np.frombuffer(body, dtype).reshape(shape, order="F" if fortran else "C").copy()


# -- names of neurons, resets, surrogates and layers


def name_in_file(value: Any, registry: Mapping[str, Any], function: Any) -> str:
    """Its name in the registry; ``"custom:"`` and the name of its function for a user's own."""
    return next((n for n, one in registry.items() if one == value), f"custom:{function.__name__}")


def find(name: str, registry: Mapping[str, Any], custom: Mapping[str, Any]) -> Any:
    """The inverse of :func:`name_in_file`."""
    if name in registry:
        return registry[name]
    own = name.removeprefix("custom:")
    if own in custom:
        return custom[own]
    if own == name:
        raise ValueError(f"it uses {own!r}, which this version of minisnn does not know")
    raise ValueError(f"it uses {own!r}, which is not ours: ms.load(path, custom={{{own!r}: ...}})")
