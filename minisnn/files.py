"""Files: a header of plain data and arrays in one ``.npz``, written whole or not at all, and read without trust.

No pickle, ever: loading one runs whatever code it holds.  ``np.load(path)["fc1.weight"]`` reads an array without minisnn.
A file is believed in nothing: sizes are compared with the bytes that are there before memory is reserved for them.
"""

from __future__ import annotations

import io
import json
import math
import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from .kernels.arrays import to_numpy
from .version import __version__

__all__ = ["FORMAT", "FileError", "array_from", "find", "name_in_file", "read", "replacing", "write"]

#: Grows when older versions could not read what is written.
FORMAT = 1

HEADER = "header"


class FileError(ValueError):
    """A file is damaged, not ours, or of a newer format; the message names the file and what was expected."""


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` when all is on the disk: a reader sees the old file or the new."""
    path = Path(path)
    part = path.with_name(f".{path.name}.part")
    yield part
    with open(part, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(part, path)
    if hasattr(os, "O_DIRECTORY"):  # the folder's entry too, where folders can be opened
        folder = os.open(path.parent, os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write(path: str | Path, kind: str, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Path:
    """Write a file of that `kind`; the same content gives the same bytes, wherever the arrays are."""
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {path.parent}")
    text = json.dumps({"minisnn": __version__, "format": FORMAT, "kind": kind, **header}, allow_nan=True)
    content = {HEADER: np.frombuffer(text.encode(), np.uint8), **arrays}
    with replacing(path) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as file:
        for name, array in content.items():
            entry = zipfile.ZipInfo(f"{name}.npy")  # its date is 1980: a file is a function of its content
            with file.open(entry, "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, np.asarray(to_numpy(array)), version=(1, 0), allow_pickle=False)
    return path


def read(path: str | Path, kinds: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The header and the arrays of a file of one of those `kinds`.

    Raises
    ------
    FileNotFoundError, OSError : it is not there or may not be read.
    FileError : anything else that is wrong with it.
    """
    path = Path(path)
    with open(path, "rb") as file:
        start = file.read(4)
        if start[:1] == b"\x80":
            raise FileError(f"{path} is a pickle, not a minisnn file; loading one runs the code in it, so it is refused")
        if start[:2] != b"PK":
            raise FileError(f"{path} is not a minisnn file (an .npz that begins with 'PK'), it begins with {start!r}")
        try:
            arrays = _members(file, path.stat().st_size)
            header = json.loads(bytes(arrays.pop(HEADER)))
            kind, number, version = header.pop("kind"), header.pop("format"), header.pop("minisnn")
            known = isinstance(kind, str) and isinstance(number, int) and isinstance(version, str)
        except FileError as error:
            raise FileError(f"{path}: {error}") from None
        except Exception as error:  # a damaged file can fail in any way there is
            raise FileError(f"{path} is damaged or not a minisnn file: {type(error).__name__}: {error}") from None
    if not known:
        raise FileError(f"{path}: the header does not say what the file is")
    if number > FORMAT:
        raise FileError(
            f"{path} has format {number}, written by minisnn {version}; this is minisnn {__version__}, "
            f"which reads up to format {FORMAT}: pip install -U minisnn"
        )
    if kind not in kinds:
        raise FileError(f"{path} holds a {kind}, expected a {' or a '.join(kinds)}")
    return header, arrays


def _members(file: Any, size: int) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if any(e.compress_type != zipfile.ZIP_STORED or e.file_size > size for e in entries):
            raise FileError("its arrays are compressed or claim to be larger than the file; minisnn stores them as they are")
        for entry in entries:
            name = entry.filename.removesuffix(".npy")
            if name in arrays:
                raise FileError(f"it holds {name!r} twice")
            arrays[name] = array_from(name, archive.read(entry))  # reading compares the checksum
    return arrays


def array_from(name: str, content: bytes) -> np.ndarray:
    """An array of numbers from the bytes of an ``.npy`` file; whatever else they hold is a :class:`FileError`."""
    stream = io.BytesIO(content)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise FileError(f"the array {name!r} is of an unknown version")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    if dtype.hasobject:
        raise FileError(f"the array {name!r} is a pickle of Python objects, which would run code when loaded: refused")
    body = content[stream.tell() :]
    if dtype.kind not in "fiub" or any(n < 0 for n in shape) or math.prod(shape) * dtype.itemsize != len(body):
        raise FileError(f"the array {name!r} claims to be {dtype} {list(shape)}, but has {len(body)} bytes")
    return np.frombuffer(body, dtype).reshape(shape, order="F" if fortran else "C").copy()


# -- names of neurons, resets and surrogates in a file


def name_in_file(value: Any, registry: Mapping[str, Any], function: Any) -> str:
    """The name that a file keeps: that in the registry, or for a user's own ``"custom:"`` and its function's name."""
    found = [name for name, one in registry.items() if one == value]
    return found[0] if found else f"custom:{function.__name__}"


def find(name: str, registry: Mapping[str, Any], custom: Mapping[str, Any]) -> Any:
    """The inverse of :func:`name_in_file`: the ingredient that a file names."""
    if name in registry:
        return registry[name]
    own = name.removeprefix("custom:")
    if own in custom:
        return custom[own]
    raise ValueError(f"it uses {own!r}, which is not part of minisnn; give it: ms.load(path, custom={{{own!r}: ...}})")
