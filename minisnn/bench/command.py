"""``minisnn bench``: its parts, each of which prints a table (:mod:`minisnn.bench.race` does the timing)."""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..kernels import backend_problem
from . import machine
from .cases import CONVS, LAYERS, NETS, SMALL, STEPS, layer_of
from .peers import PEERS
from .race import installed, most_memory, race, turns

__all__ = ["add_command", "run"]

#: Share of the CPUs that others may use before a run is refused.
QUIET = 0.15
#: Bytes of an element of a layer that have to pass through memory.  Forward: current, spike.  Backward: current, gradient of
#: the spike, gradient of the current.
BYTES = (4 + 1) + (4 + 4 + 4)


def add_command(commands: Any, whole: Callable[[str], int]) -> None:
    """The subcommand ``bench`` of a command line; `whole` reads a whole number of at least 1."""
    parser = commands.add_parser("bench", help="how fast, against the reference and the peers that are installed")
    parser.add_argument("what", nargs="*", type=_part, metavar="PART",
                        help=f"{', '.join(PARTS)} (default: all; scaling takes 16 GB and a quarter of an hour)")  # fmt: skip
    parser.add_argument("--backend", choices=["numba", "cupy"], default="numba",
                        help="cupy: one large layer on a GPU, by itself (default: numba)")  # fmt: skip
    parser.add_argument("--rounds", type=whole, default=9, help="turns of every process (default: 9)")
    parser.add_argument("--python", default=sys.executable, metavar="FILE",
                        help="interpreter of the processes (default: this one), with minisnn and the peers")  # fmt: skip
    parser.add_argument("--peers", nargs="*", choices=list(PEERS), default=None,
                        help="which to run, none if none is named (default: those that are installed)")  # fmt: skip
    parser.add_argument("--anyway", action="store_true", help="run although others use this machine")
    parser.add_argument("--json", metavar="FILE", default=None, help="also write the figures to a file")
    parser.set_defaults(run=run)


def _part(word: str) -> str:
    if word not in PARTS:
        raise argparse.ArgumentTypeError(f"got {word!r}, expected some of {', '.join(PARTS)}")
    return word


def run(options: argparse.Namespace) -> int:
    """Run the command; the exit code is 1 if a result is wrong or nothing can be concluded."""
    if options.json and not Path(options.json).absolute().parent.is_dir():  # not after half an hour
        raise FileNotFoundError(f"bench: --json {options.json}: there is no folder {Path(options.json).parent}")
    if shutil.which(options.python) is None:
        raise FileNotFoundError(f"bench: --python {options.python}: there is no such interpreter")
    if options.backend == "cupy":
        return _on_gpu(options)
    load = machine.busy()
    if load > QUIET and not options.anyway:
        print(f"minisnn bench: others use {load:.0%} of this machine: nothing could be concluded (--anyway runs it)")
        return 1
    _find_peers(options)
    print(machine.describe())
    print(f"peers: {', '.join(options.peers) or 'none is installed'}; medians of {options.rounds} turns; x: times as long\n")
    figures: dict[str, Any] = {"machine": machine.describe(), "rounds": options.rounds}
    steady = True
    for name in dict.fromkeys(options.what or PARTS):
        print(f"== {name}: {(PARTS[name].__doc__ or '').rstrip('.')}")
        figures[name], calm = PARTS[name](options)
        _keep(figures, options)  # as soon as there are any
        steady &= calm
        print()
    if not steady:
        print("Turns marked ? differed by more than a quarter: the machine was disturbed, do not conclude from them.")
    return 0 if steady else 1


def _on_gpu(options: argparse.Namespace) -> int:
    from . import gpu

    if options.what:
        print(f"minisnn bench: --backend cupy measures one layer, and no parts: leave out {' '.join(options.what)}")
        return 2
    if problem := backend_problem("cupy"):
        print(f"minisnn bench: backend 'cupy' cannot be used: {problem}")
        return 1
    _find_peers(options)
    _keep(gpu.measure(gpu.SIZE, [p for p in gpu.ON_CARD if p in options.peers], options.rounds), options)
    return 0


def _keep(figures: dict[str, Any], options: argparse.Namespace) -> None:
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(figures, file, indent=1)


def _find_peers(options: argparse.Namespace) -> None:
    if options.peers is None:
        options.peers = [p for p, module in PEERS.items() if installed(options.python, module)]


# -- parts.  Each prints a table and returns its figures, and whether the machine was calm


Part = Callable[[argparse.Namespace], tuple[dict[str, Any], bool]]


def _table(kind: str, cases: Sequence[str], who: Sequence[str], options: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    print(f"{'':14}{'minisnn':>12}" + "".join(f"{w:>15}" for w in who[1:]))
    found: dict[str, Any] = {}
    for case in cases:
        rows = race(kind, case, who, options)
        found[case] = {w: row._asdict() for w, row in rows.items()}
        cells = "".join(f"{'x ' + format(rows[w].ratio, '.2f') + ' ?'[: 2 * (not rows[w].steady)]:>15}" for w in who[1:])
        print(f"{case:14}{1e3 * rows[who[0]].seconds:>9.2f} ms{cells}", flush=True)
    return found, all(row["steady"] for rows in found.values() for row in rows.values())


def _layers(options: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """One layer of LIF neurons, forward and backward with the threshold's gradient, [T, B, N]."""
    found: dict[str, Any] = {}
    bandwidths: dict[str, float] = {}
    calm = True
    for case in [c for c in LAYERS if c != SMALL]:
        peers = [p for p in options.peers if (p, case) != ("torch.compile", "X")]  # 300 steps unrolled: minutes
        rows, steady = _table("layer", [case], ["minisnn", "numpy", *peers], options)
        found |= rows
        calm &= steady
        if case in ("L", "X", "C"):
            bandwidths[case] = machine.stream()
    print(f"{BYTES} bytes an element, forward and backward, as a share of STREAM triad, measured right after:")
    for case, bandwidth in bandwidths.items():
        share = BYTES * LAYERS[case].size / found[case]["minisnn"]["seconds"] / bandwidth
        found[case] |= {"STREAM": bandwidth, "share": share}
        print(f"  {case} {share:.2f} of {bandwidth / 1e9:.1f} GB/s")
    return found, calm


def _steps(options: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """A training step of two layers with a population vote, forward, backward and Adam."""
    return _table("step", [c for c in STEPS if c != SMALL], ["minisnn", "numpy", *options.peers], options)


def _convs(options: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """A convolution of 200 images of spikes in patches, forward and backward."""
    peers = [p for p in options.peers if p == "torch"]
    return _table("conv", [c for c in CONVS if c != SMALL], ["minisnn", "numpy", *peers], options)


def _net(options: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """A training step of the published network, 50 images, 4 steps, at the firing rates of a trained one."""
    peers = [p for p in options.peers if p in ("torch", "snntorch")]
    return _table("net", list(NETS)[:1], ["minisnn", *peers], options)


START = {
    "minisnn": "import numpy as np, minisnn as ms\n"
    "net = ms.Network(fc=ms.Linear(64, 32, rng=np.random.default_rng(0)), lif=ms.LIF(32), rate=ms.Rate())\n"
    "net.loss_and_grads(np.ones((4, 2, 64), np.float32), np.array([0, 1]), ms.losses.mse)",
    "torch": "import torch\n"
    "fc, x = torch.nn.Linear(64, 32, bias=False), torch.ones(4, 2, 64)\n"
    "v, total = torch.zeros(2, 32), 0\n"
    "for current in fc(x):\n    v = 0.5 * v + current\n    total = total + torch.sigmoid(v - 1)\n"
    "total.sum().backward()",
}


def _start(options: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """From the start of a process to its first gradient, compiled code on disk."""
    who = ["minisnn", *[p for p in options.peers if p == "torch"]]
    times: dict[str, list[float]] = {w: [] for w in who}
    for i in range(options.rounds + 1):
        for w in who:
            begun = time.perf_counter()
            if subprocess.run([options.python, "-c", START[w]], check=False).returncode:
                raise ChildProcessError(f"bench start: {w} does not run in {options.python}: see above")
            if i:  # the first compiles
                times[w].append(time.perf_counter() - begun)
    found = {w: statistics.median(t) for w, t in times.items()}
    print("  ".join(f"{w} {seconds:.2f} s" for w, seconds in found.items()))
    return found, True


def _memory(options: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """Most memory of one layer's run there and back besides its inputs, in arrays [T, B, N] of float32."""
    who = ["minisnn", *[p for p in options.peers if p != "torch.compile"]]
    found: dict[str, Any] = {}
    for case in ("X", "C"):
        array = 4 * LAYERS[case].size
        found[case] = {w: most_memory(options.python, w, case) / array for w in who}
        print(f"{case}  " + "  ".join(f"{w} {arrays:.2f}" for w, arrays in found[case].items()), flush=True)
    return found, True


def _scaling(options: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """Time and memory of one element as T, B or N grow from (64, 64, 1024) to 64 times as much, by those at first."""
    found: dict[str, Any] = {}
    for axis in range(3):
        sizes = [[n * factor if i == axis else n for i, n in enumerate((64, 64, 1024))] for factor in (1, 4, 16, 64)]
        names = ["x".join(map(str, size)) for size in sizes]
        elements = [layer_of(name).size for name in names]
        used = [most_memory(options.python, "minisnn", n) for n in names]
        turn = turns([("minisnn", "layer", name) for name in names], options)
        ratios = {
            "memory": [used[i] / used[0] * elements[0] / elements[i] for i in range(4)],
            "time": [statistics.median(t[i] / t[0] for t in turn) * elements[0] / elements[i] for i in range(4)],
        }
        for what, values in ratios.items():
            print(f"{'TBN'[axis]}  {what:<7}" + " ".join(f"{r:.2f}" for r in values), flush=True)
        found["TBN"[axis]] = ratios
    return found, True


def _events(options: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """Spikes added up against a dense product: from which density on it is slower, for tables of n columns."""
    from .crossover import MOST, crossover

    found = {str(n): crossover(n) for n in (20, 64, 256, 1024)}
    for n, density in found.items():
        print(f"n = {n:>4}: {density:.1%}" if density < MOST else f"n = {n:>4}: above {MOST:.0%}, as far as was looked")
    return found, True


PARTS: dict[str, Part] = {
    "layer": _layers, "step": _steps, "conv": _convs, "net": _net, "start": _start, "memory": _memory,
    "scaling": _scaling, "events": _events,
}  # fmt: skip
