"""Downloads, checked against the published SHA-256 sums."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from .reading import DataError
from .sets import SETS, Folder, base_folder

__all__ = ["get"]


def get(name: str, folder: Folder = None, *, url: str | None = None, progress: bool = True) -> Path:
    """Download a data set to where its reader finds it.

    Each file is written under another name, checked, and only then put in place.  A good file that is there already is
    not fetched again, so a second call goes on where the first one failed.

    Parameters
    ----------
    name : "mnist" or "fashion-mnist".
    folder : the files go to ``folder/name`` (to ``folder`` itself if that is its name); ``None``: the folder that
        ``MINISNN_DATA`` names.
    url : a server of your own, with ``mnist/`` and ``fashion-mnist/`` under this address; ``None``: what
        ``MINISNN_DATA_URL`` says, else the public mirrors, one after the other.
    progress : show a progress bar (on a terminal).

    Returns
    -------
    folder : the one that holds the files.

    Raises
    ------
    DataError : the set is unknown, or a file could not be fetched from any address; it says why for each.
    ImportError : pooch is not installed.
    FileNotFoundError, OSError : no folder was given, or it cannot be written to.
    """
    offered = [n for n, source in SETS.items() if source.files]
    if name not in offered:
        address = SETS[name].home if name in SETS else ""
        known = f"is not ours to fetch, see {address}" if address else "ships with minisnn" if name in SETS else "is unknown"
        raise DataError(f"get: the data set {name!r} {known}; those to download are {', '.join(offered)}")
    base, own = base_folder(name, folder), url or os.environ.get("MINISNN_DATA_URL")
    home = base if base.name == name else base / name
    home.mkdir(parents=True, exist_ok=True)
    for file, sha256 in SETS[name].files.items():
        _fetch([f"{own.rstrip('/')}/{name}"] if own else SETS[name].mirrors, file, sha256, home, progress)
    return home


def _fetch(addresses: tuple[str, ...] | list[str], file: str, sha256: str, home: Path, progress: bool) -> None:
    try:
        import pooch  # type: ignore
    except ImportError as error:
        raise ImportError(f"get: downloads need pooch ({error}): pip install pooch") from error
    # identity: a server must not say that the .gz is packed for the journey, and the client unpack it.
    downloader = pooch.HTTPDownloader(
        progressbar=progress and sys.stderr.isatty(), timeout=30, headers={"Accept-Encoding": "identity"}
    )
    problems = []
    for address in addresses:
        try:
            pooch.retrieve(f"{address}/{file}", f"sha256:{sha256}", fname=file, path=home, downloader=downloader)
        except OSError as error:  # requests' errors are OSErrors, and some of them ValueErrors as well
            problems.append(f"{address}/{file}: {error}")
        except ValueError:
            problems.append(f"{address}/{file}: other bytes than those published (their SHA-256 is not {sha256})")
        else:
            (home / file).chmod(0o644)  # it was a temporary file, for one user only
            return
    raise DataError(f"get: {file} could not be fetched; what was fetched before stays\n  " + "\n  ".join(problems))
