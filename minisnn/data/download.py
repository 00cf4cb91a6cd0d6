"""Downloads, checked against the published SHA-256 sums."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

from .dataset import Folder
from .reading import DataError
from .registry import SETS

__all__ = ["get"]


def get(name: str, folder: Folder = None, *, url: str | None = None, progress: bool = True) -> Path:
    """Download a data set to where its reader finds it.

    Each file is written under another name, checked, and only then put in place.  A good file that
    is there already is not fetched again, so a second call goes on where the first one failed.

    Parameters
    ----------
    name : "mnist" or "fashion-mnist".
    folder : the files go to ``folder/name`` (to ``folder`` itself if that is its name); ``None``:
        the folder that ``MINISNN_DATA`` names.
    url : a server of your own, with ``mnist/`` and ``fashion-mnist/`` under this address; ``None``:
        what ``MINISNN_DATA_URL`` says, else the public mirrors, one after the other.
    progress : show a progress bar (on a terminal).

    Returns
    -------
    folder : the one that holds the files.

    Raises
    ------
    DataError : the set is unknown, or a file could not be fetched from any address; it says why for
        each.
    ImportError : pooch is not installed.
    FileNotFoundError, OSError : no folder was given, or it cannot be written to.
    """
    offered = [n for n, source in SETS.items() if source.files]
    if name not in offered:
        known = "is unknown"
        if name in SETS:
            address = SETS[name].home
            known = f"is not ours to fetch, see {address}" if address else "ships with minisnn"
        offer = f"those to download are {', '.join(offered)}"
        raise DataError(f"get: the data set {name!r} {known}; {offer}")
    source, own = SETS[name], url or os.environ.get("MINISNN_DATA_URL")
    base = source.base_folder(folder)
    home = base if base.name == name else base / name
    home.mkdir(parents=True, exist_ok=True)
    mirrors = (f"{own.rstrip('/')}/{name}",) if own else source.mirrors
    for file, sha256 in source.files.items():
        _fetch(mirrors, file, sha256, home, progress)
    return home


def _fetch(mirrors: Iterable[str], file: str, sha256: str, home: Path, progress: bool) -> None:
    try:
        import pooch  # type: ignore
    except ImportError as error:
        raise ImportError(f"get: downloads need pooch ({error}): pip install pooch") from error
    # identity: else a client may unpack the .gz that a server calls compressed for transport.
    headers, bar = {"Accept-Encoding": "identity"}, progress and sys.stderr.isatty()
    fetch = pooch.HTTPDownloader(progressbar=bar, timeout=30, headers=headers)
    problems = []
    for mirror in mirrors:
        address, known_hash = f"{mirror}/{file}", f"sha256:{sha256}"
        try:
            pooch.retrieve(address, known_hash, fname=file, path=home, downloader=fetch)
        except OSError as error:  # requests' errors are OSErrors, and some are ValueErrors as well
            problems.append(f"{address}: {error}")
        except ValueError:
            found = f"other bytes than those published (their SHA-256 is not {sha256})"
            problems.append(f"{address}: {found}")
        else:
            (home / file).chmod(0o644)  # it was a temporary file, for one user only
            return
    tried = "\n  ".join(problems)
    raise DataError(f"get: {file} could not be fetched; what was fetched before stays\n  {tried}")
