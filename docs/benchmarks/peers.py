"""minisnn against the NumPy reference and other libraries.

``python docs/benchmarks/peers.py [PART ...]`` prints a table per part; ``--help`` lists the options.
Peers are torch (a plain loop, and compiled), snnTorch, SpikingJelly and Norse, if installed.
`minisnn` must be importable: install it, or set ``PYTHONPATH`` to the repository.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import machine
from libraries import PEERS
from processes import most_memory, races, turns

from minisnn.bench.cases import CASES, find
from minisnn.bench.race import DISTURBED, header, line

__all__ = ["main"]

#: Fraction of the CPUs that other processes may use; above it the script refuses to run.
QUIET = 0.15
#: Bytes of an element of a layer that pass through memory.  Forward: current, spike.
#: Backward: current, gradient of the spike, gradient of the current.
BYTES = (4 + 1) + (4 + 4 + 4)

Figures = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts; the exit code is 1 if nothing can be concluded."""
    options = _options(arguments)
    load = machine.busy()
    if load > QUIET and not options.anyway:
        print(f"others use {load:.0%} of this machine: no conclusion is possible (--anyway runs it)")
        return 1
    print(machine.describe())
    print(f"peers: {', '.join(options.peers) or 'none'}")
    print(f"medians of {options.rounds} turns; x: times as long\n")
    figures: Figures = {"machine": machine.describe(), "rounds": options.rounds}
    for name in dict.fromkeys(options.what or PARTS):
        print(f"== {name}: {PARTS[name].__doc__.rstrip('.')}")
        figures[name] = PARTS[name](options)
        if options.json:  # after each part
            options.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")
        print()
    if all(_steady(figures)):
        return 0
    print(DISTURBED)
    return 1


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="minisnn against the libraries that are installed.")
    parser.add_argument(
        "what",
        nargs="*",
        metavar="PART",
        help=f"{', '.join(PARTS)} (default: all; scaling takes 16 GB and a quarter of an hour)",
    )
    parser.add_argument("--rounds", type=int, default=9, help="turns of every process (default: 9)")
    parser.add_argument(
        "--python",
        default=sys.executable,
        metavar="FILE",
        help="interpreter of the processes (default: this one), with minisnn and the peers",
    )
    parser.add_argument(
        "--peers",
        nargs="*",
        choices=list(PEERS),
        help="which to run, none if none is named (default: those that are installed)",
    )
    parser.add_argument("--anyway", action="store_true", help="run on a busy machine too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to a file")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.what if name not in PARTS]:
        parser.error(f"argument PART: got {unknown[0]!r}, expected some of {', '.join(PARTS)}")
    if options.rounds < 1:
        parser.error(f"--rounds: expected a whole number of at least 1, got {options.rounds}")
    if options.json and not options.json.absolute().parent.is_dir():  # before half an hour of work
        parser.error(f"--json {options.json}: there is no folder {options.json.parent}")
    if shutil.which(options.python) is None:
        parser.error(f"--python {options.python}: there is no such interpreter")
    if options.peers is None:
        options.peers = [peer for peer, module in PEERS.items() if _installed(options.python, module)]
    return options


def _installed(python: str, module: str) -> bool:
    if python == sys.executable:
        return importlib.util.find_spec(module) is not None
    look = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    return subprocess.run([python, "-c", look], check=False).returncode == 0


def _steady(figures: Figures) -> list[bool]:
    """The marks of every race in a part's figures."""
    marks = [figures["steady"]] if "steady" in figures else []
    return marks + [mark for part in figures.values() if isinstance(part, dict) for mark in _steady(part)]


# -- parts.  Each prints a table and returns its figures


def _table(kind: str, cases: Sequence[str], who: Sequence[str], options: argparse.Namespace) -> Figures:
    print(header(who))
    found = {}
    for case in cases:
        rows = races(kind, case, who, options.python, options.rounds)
        print(line(case, rows), flush=True)
        found[case] = {w: row._asdict() for w, row in rows.items()}
    return found


def _cases(kind: str) -> list[str]:
    return [case for case in CASES[kind] if case != "small"]


def _layers(options: argparse.Namespace) -> Figures:
    """One layer of LIF neurons, forward and backward with the threshold's gradient, [T, B, N]."""
    found: Figures = {}
    for case in _cases("layer"):
        unrolled = {"torch.compile"} if case == "X" else set()  # 300 steps: minutes
        peers = [p for p in options.peers if p not in unrolled]
        found |= _table("layer", [case], ["minisnn", "numpy", *peers], options)
        if case in ("L", "X", "C"):
            found[case]["STREAM"] = machine.stream()
    print(f"{BYTES} bytes an element, relative to STREAM triad, measured right after:")
    for case in ("L", "X", "C"):
        bandwidth, seconds = found[case]["STREAM"], found[case]["minisnn"]["seconds"]
        share = found[case]["share"] = BYTES * find("layer", case).size / seconds / bandwidth
        print(f"  {case} {share:.2f} of {bandwidth / 1e9:.1f} GB/s")
    return found


def _steps(options: argparse.Namespace) -> Figures:
    """A training step of two layers with a population vote: forward, backward, Adam."""
    return _table("step", _cases("step"), ["minisnn", "numpy", *options.peers], options)


def _convs(options: argparse.Namespace) -> Figures:
    """A convolution of 200 images of spikes in patches, forward and backward."""
    return _table(
        "conv",
        _cases("conv"),
        ["minisnn", "numpy", *[p for p in options.peers if p == "torch"]],
        options,
    )


def _net(options: argparse.Namespace) -> Figures:
    """A training step of the published network, at the firing rates of a trained one."""
    peers = [p for p in options.peers if p in ("torch", "snntorch")]
    return _table("net", _cases("net"), ["minisnn", *peers], options)


START = {
    "minisnn": """
import numpy as np, minisnn as ms
net = ms.Network(fc=ms.Linear(64, 32, rng=np.random.default_rng(0)), lif=ms.LIF(32), rate=ms.Rate())
net.loss_and_grads(np.ones((4, 2, 64), np.float32), np.array([0, 1]), ms.losses.mse)
""",
    "torch": """
import torch
fc, x = torch.nn.Linear(64, 32, bias=False), torch.ones(4, 2, 64)
v, total = torch.zeros(2, 32), 0
for current in fc(x):
    v = 0.5 * v + current
    total = total + torch.sigmoid(v - 1)
total.sum().backward()
""",
}


def _start(options: argparse.Namespace) -> Figures:
    """From the start of a process to its first gradient, compiled code on disk."""
    times: dict[str, list[float]] = {w: [] for w in START if w == "minisnn" or w in options.peers}
    for i in range(options.rounds + 1):
        for who, own in times.items():
            begun = time.perf_counter()
            if subprocess.run([options.python, "-c", START[who]], check=False).returncode:
                raise ChildProcessError(f"start: {who} does not run in {options.python}: see above")
            if i:  # the first compiles
                own.append(time.perf_counter() - begun)
    found = {who: statistics.median(own) for who, own in times.items()}
    print("  ".join(f"{who} {seconds:.2f} s" for who, seconds in found.items()))
    return found


def _memory(options: argparse.Namespace) -> Figures:
    """Peak memory of a layer besides its inputs, in arrays [T, B, N] of float32."""
    who = ["minisnn", *[p for p in options.peers if p != "torch.compile"]]
    found: Figures = {}
    for case in ("X", "C"):
        array = 4 * find("layer", case).size
        found[case] = {w: most_memory(options.python, w, case) / array for w in who}
        print(
            f"{case}  " + "  ".join(f"{w} {arrays:.2f}" for w, arrays in found[case].items()),
            flush=True,
        )
    return found


def _scaling(options: argparse.Namespace) -> Figures:
    """Time and memory per element as T, B or N grow to 64 times, relative to the first size."""
    found: Figures = {}
    for axis, letter in enumerate("TBN"):
        sizes = [[n * factor if i == axis else n for i, n in enumerate((64, 64, 1024))] for factor in (1, 4, 16, 64)]
        names = ["x".join(map(str, size)) for size in sizes]
        elements = [find("layer", name).size / find("layer", names[0]).size for name in names]
        used = [most_memory(options.python, "minisnn", name) for name in names]
        rows = turns([("minisnn", "layer", name) for name in names], options.python, options.rounds).values()
        ratios = found[letter] = {
            "memory": [m / used[0] / n for m, n in zip(used, elements, strict=True)],
            "time": [row.ratio / n for row, n in zip(rows, elements, strict=True)],
        }
        for what, values in ratios.items():
            print(f"{letter}  {what:<7}" + " ".join(f"{r:.2f}" for r in values), flush=True)
    return found


PARTS = {
    "layer": _layers,
    "step": _steps,
    "conv": _convs,
    "net": _net,
    "start": _start,
    "memory": _memory,
    "scaling": _scaling,
}

if __name__ == "__main__":
    sys.exit(main())
