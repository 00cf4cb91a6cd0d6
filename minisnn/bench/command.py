"""``minisnn bench``: Numba's loops against the NumPy reference, on this machine."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import minisnn as ms

from .cases import CASES
from .ours import OURS, make
from .race import DISTURBED, checked, header, line, race, turn

__all__ = ["add_command", "run"]

PARTS = {
    "layer": "one layer of LIF neurons, forward and backward with the threshold's gradient",
    "step": "a training step of two layers with a population vote: forward, backward and Adam",
    "conv": "a convolution of 200 images of spikes in patches, forward and backward",
    "net": "a training step of the published network, at the firing rates of a trained one",
}


def add_command(commands: Any, whole: Callable[[str], int]) -> None:
    """The subcommand ``bench`` of a command line; `whole` reads a whole number of at least 1."""
    parser = commands.add_parser("bench", help="how fast, against the NumPy reference")
    parser.add_argument(
        "what", nargs="*", type=_part, metavar="PART", help=f"{', '.join(PARTS)} (default: all)"
    )
    parser.add_argument(
        "--rounds", type=whole, default=9, help="turns of each backend (default: 9)"
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write the figures to a file"
    )
    parser.set_defaults(run=run)


def _part(word: str) -> str:
    if word not in PARTS:
        raise argparse.ArgumentTypeError(f"got {word!r}, expected some of {', '.join(PARTS)}")
    return word


@ms.one_blas_thread()  # as in fit
def run(options: argparse.Namespace) -> int:
    """Run the command; the exit code is 1 if turns differed too much to conclude anything."""
    if options.json and not options.json.absolute().parent.is_dir():  # not after many minutes
        raise FileNotFoundError(
            f"bench: --json {options.json}: there is no folder {options.json.parent}"
        )
    figures: dict[str, Any] = {}
    for kind in dict.fromkeys(options.what or PARTS):
        print(f"== {kind}: {PARTS[kind]}\n{header(list(OURS))}")
        for case in [c for c in CASES[kind] if c != "small"]:
            jobs = {who: checked(make(who, kind, case), kind, case) for who in OURS}
            rows = race({who: partial(turn, job) for who, job in jobs.items()}, options.rounds)
            print(line(case, rows), flush=True)
            figures.setdefault(kind, {})[case] = {who: row._asdict() for who, row in rows.items()}
        if options.json:  # as soon as there are any
            options.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")
        print()
    print("times of minisnn on Numba; x: times as long")
    if all(
        row["steady"]
        for part in figures.values()
        for rows in part.values()
        for row in rows.values()
    ):
        return 0
    print(DISTURBED)
    return 1
