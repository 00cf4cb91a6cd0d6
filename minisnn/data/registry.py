"""The data sets by name, and their download, checked against the published SHA-256 sums."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

from .dataset import Folder
from .images import CIFAR10, DIGITS, FASHION_MNIST, MNIST
from .reading import DataError
from .recordings import BRAILLE, NMNIST

__all__ = ["SETS", "get"]

#: Every data set by its name.
SETS = {one.name: one for one in (DIGITS, MNIST, FASHION_MNIST, CIFAR10, NMNIST, BRAILLE)}


def get(name: str, folder: Folder = None, *, url: str | None = None, progress: bool = True) -> Path:
    """Download a data set to a folder in which its reader finds it, and return that folder.

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

    Raises
    ------
    DataError : the set is unknown, or no address gave a file; it says why for each address.
    ImportError : pooch is not installed.
    FileNotFoundError, OSError : no folder was given, or it cannot be written to.
    """
    offered = [n for n, source in SETS.items() if source.files]
    if name not in offered:
        known = "is unknown"
        if name in SETS:
            home = SETS[name].home
            known = f"is not ours to fetch, see {home}" if home else "ships with minisnn"
        offer = f"those to download are {', '.join(offered)}"
        raise DataError(f"get: the data set {name!r} {known}; {offer}")
    source, own = SETS[name], url or os.environ.get("MINISNN_DATA_URL")
    target = source.base_folder(folder)
    target = target if target.name == name else target / name
    target.mkdir(parents=True, exist_ok=True)
    mirrors = (f"{own.rstrip('/')}/{name}",) if own else source.mirrors
    for file, sha256 in source.files.items():
        _fetch(mirrors, file, sha256, target, progress)
    return target


def _fetch(mirrors: Iterable[str], file: str, sha256: str, target: Path, progress: bool) -> None:
    try:
        import pooch  # type: ignore
    except ImportError as error:
        raise ImportError(f"get: downloads need pooch ({error}): pip install pooch") from error
    # identity: else a client may unpack the .gz that a server calls compressed for transport.
    headers, bar = {"Accept-Encoding": "identity"}, progress and sys.stderr.isatty()
    fetch = pooch.HTTPDownloader(progressbar=bar, timeout=30, headers=headers)
    problems = []
    for address in (f"{mirror}/{file}" for mirror in mirrors):
        try:
            pooch.retrieve(address, f"sha256:{sha256}", fname=file, path=target, downloader=fetch)
        except OSError as error:  # requests' errors are OSErrors, and some are ValueErrors as well
            problems.append(f"{address}: {error}")
        except ValueError:
            found = f"other bytes than those published (their SHA-256 is not {sha256})"
            problems.append(f"{address}: {found}")
        else:
            (target / file).chmod(0o644)  # it was a temporary file, for one user only
            return
    tried = "\n  ".join(problems)
    raise DataError(f"get: {file} could not be fetched; what was fetched before stays\n  {tried}")
