"""What compiled loops leave on disk: small files, whole or not there, and checked when they are read."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = ["cache_folder", "digest", "read", "write"]

#: Files that are kept, some 20 kB each; of more, the half that was not used for longest goes.
KEPT = 1000


def cache_folder() -> Path | None:
    """Where machine code is kept between processes: in ``NUMBA_CACHE_DIR``, else in the user's folder for such things.

    ``None`` where there is no such folder: then nothing is kept.
    """
    if chosen := os.environ.get("NUMBA_CACHE_DIR"):
        return Path(chosen) / "minisnn"
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    else:
        base = "~/Library/Caches" if sys.platform == "darwin" else os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return Path(base).expanduser() / "minisnn"
    except RuntimeError:  # the user has no home
        return None


def digest(mark: Any) -> str:
    """A name for what has this `repr`, the same in every process."""
    return hashlib.sha256(repr(mark).encode()).hexdigest()[:24]


def read(name: str) -> bytes | None:
    """What was written under this name; ``None`` where nothing was, or it is damaged."""
    if (folder := cache_folder()) is None:
        return None
    try:
        content = (folder / name).read_bytes()
    except OSError:
        return None
    with suppress(OSError):  # perhaps it is not ours
        os.utime(folder / name)
    return content[32:] if hashlib.sha256(content[32:]).digest() == content[:32] else None


def write(name: str, content: bytes) -> None:
    """Write it, if that can be; processes may do so at once."""
    if (folder := cache_folder()) is None:
        return
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=folder)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.sha256(content).digest() + content)
            os.replace(temporary, folder / name)
        except OSError:  # the disk is full, or another process reads the file (Windows)
            os.unlink(temporary)
            raise
        kept = sorted(folder.iterdir(), key=os.path.getmtime)
        for old in kept[: KEPT // 2] if len(kept) > KEPT else []:
            old.unlink(missing_ok=True)
