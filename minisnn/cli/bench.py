"""``minisnn bench``: Numba's loops against the NumPy reference, on this machine."""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import minisnn as ms

from ..bench.cases import CASES, OURS, make
from ..bench.race import DISTURBED, checked, header, line, race, turn
from .options import whole

__all__ = ["add_command", "run"]


def add_command(commands: Any) -> None:
    """The subcommand ``bench`` of a command line."""
    parser = commands.add_parser("bench", help="how fast, against the NumPy reference")
    parts, text = [*CASES, "all"], f"{', '.join(CASES)} (default: all)"
    parser.add_argument("what", nargs="*", choices=parts, default="all", metavar="PART", help=text)
    text = "turns of each backend (default: 9)"
    parser.add_argument("--rounds", type=whole, default=9, help=text)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to it")
    parser.set_defaults(run=run)


@ms.one_blas_thread()  # as in fit
def run(options: argparse.Namespace) -> int:
    """Run the command; the exit code is 1 if turns differed too much to conclude anything."""
    file, figures, steady = options.json, dict[str, Any](), True
    if file and not file.absolute().parent.is_dir():  # an error before many minutes, not after
        raise FileNotFoundError(f"bench: --json {file}: there is no folder {file.parent}")
    for kind in CASES if "all" in options.what else dict.fromkeys(options.what):
        names = [name for name in CASES[kind] if name != "small"]
        print(f"== {kind}: {type(CASES[kind][names[0]]).__doc__}\n{header(list(OURS))}")
        for case in names:
            jobs = {who: checked(make(who, kind, case), kind, case) for who in OURS}
            rows = race({who: partial(turn, job) for who, job in jobs.items()}, options.rounds)
            print(line(case, rows), flush=True)
            figures.setdefault(kind, {})[case] = {who: row._asdict() for who, row in rows.items()}
            steady &= all(row.steady for row in rows.values())
        if file:  # after each part, so that an interruption loses one
            file.write_text(json.dumps(figures, indent=1), encoding="utf-8")
        print()
    print("minisnn: times on Numba, forward and backward; x: times as long")
    if not steady:
        print(DISTURBED)
    return 0 if steady else 1
