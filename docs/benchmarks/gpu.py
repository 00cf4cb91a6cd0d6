"""The loop on a GPU: its fraction of the memory bandwidth, and the other libraries' times.

``python docs/benchmarks/gpu.py [--rounds N] [--peers torch ...] [--json FILE]``.  Everything runs
in this process, in turns.  Each measurement starts and ends with an idle card.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from libraries import PEERS, layer_job

import minisnn as ms
from minisnn.bench.cases import CASES, DECAY, THRESHOLD, Layer
from minisnn.bench.race import check, differences
from minisnn.kernels import Dynamics, Needs, backend_problem, kernel_of
from minisnn.kernels.arrays import Array, to_numpy
from minisnn.kernels.reference import ReferenceKernel

__all__ = ["ON_CARD", "SIZE", "main", "measure"]

SIZE = Layer(100, 256, 4096)
#: Bytes of an element that pass through memory.  Scan: current, membrane, spike.  Adjoint: gradient
#: of the spikes, membrane, spike, gradient of the current.
BYTES = {"scan": 4 + 4 + 1, "adjoint": 4 + 4 + 1 + 4}
#: Peers that can run on a card, each in its eager loop.
ON_CARD = ("torch", "snntorch", "spikingjelly", "norse")
DYNAMICS = Dynamics(ms.neurons.lif, ms.resets.hard, ms.surrogates.atan(2.0))
NEEDS = Needs(params=False, state=False)


class Problem(NamedTuple):
    """A layer's inputs on the card."""

    x: Array
    theta: Array
    params: Array
    d_spikes: Array


def main(arguments: list[str] | None = None) -> int:
    """Measure one large layer; the exit code is 1 without a usable GPU."""
    parser = argparse.ArgumentParser(description="The loop on a GPU: one large layer.")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each (default: 9)")
    parser.add_argument(
        "--peers",
        nargs="*",
        choices=ON_CARD,
        help="which to run (default: those that are installed)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to a file")
    options = parser.parse_args(arguments)
    if problem := backend_problem("cupy"):
        print(f"backend 'cupy' cannot be used: {problem}")
        return 1
    peers = options.peers
    if peers is None:
        peers = [p for p in ON_CARD if importlib.util.find_spec(PEERS[p])]
    figures = measure(SIZE, peers, options.rounds)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    return 0


def measure(size: Layer, who: list[str], rounds: int) -> dict[str, Any]:
    """Check, then time, then print; the figures by name, times in seconds."""
    import cupy

    for layer in (CASES["layer"]["small"], size):
        _check(layer)
    card = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode()
    jobs = {**_ours(size), **{w: layer_job(w, size, "cuda") for w in who}}
    times = _times(jobs, rounds, cupy.cuda.Device().synchronize)
    seconds = {name: statistics.median(t) for name, t in times.items()}
    bandwidth = 2 * 4 * size.size / seconds.pop("copy")
    share = {name: n * size.size / seconds[name] / bandwidth for name, n in BYTES.items()}

    shape = ", ".join(map(str, size))
    print(f"{card}: a copy moves {bandwidth / 1e9:,.0f} GB/s (bytes read and written)")
    print(f"a layer of LIF neurons, [T, B, N] = ({shape}), float32, medians of {rounds} runs;")
    print("x: times as long")
    for name, n in BYTES.items():
        text = f"{n} bytes an element: {share[name]:.2f} of a copy's bandwidth"
        print(f"  {name:<26}{1e3 * seconds[name]:>9.3f} ms   {text}")
    both = seconds["scan"] + seconds["adjoint"]
    print(f"  {'both':<26}{1e3 * both:>9.3f} ms")
    for name in [n for n in seconds if n not in BYTES]:
        print(f"  {name:<26}{1e3 * seconds[name]:>9.3f} ms   x {seconds[name] / both:.1f}")
    return {"card": card, "shape": size, "bandwidth": bandwidth, "seconds": seconds, "share": share}


def _check(size: Layer) -> None:
    """Raise unless the kernel's results equal those of the same formulas on CuPy's arrays."""
    problem = _problem(size)
    found, wanted = (_forward_and_backward(make(DYNAMICS), problem) for make in (_on_card, ReferenceKernel))
    check("layer", differences(*({n: to_numpy(a) for n, a in r.items()} for r in (found, wanted))))


def _on_card(dynamics: Dynamics) -> Any:
    return kernel_of(dynamics, "cupy")


def _problem(size: Layer) -> Problem:
    import cupy

    x, d_spikes = map(cupy.asarray, size.inputs())
    theta, params = np.full(size.n, THRESHOLD, np.float32), np.full((1, size.n), DECAY, np.float32)
    return Problem(x, cupy.asarray(theta), cupy.asarray(params), d_spikes)


def _forward_and_backward(kernel: Any, problem: Problem) -> dict[str, Array]:
    x, theta, params, d_spikes = problem
    spikes, _, cache = kernel.scan(x, None, theta, params, DYNAMICS.surrogate.k)
    d_x, _, d_theta, _ = kernel.scan_adjoint(d_spikes, None, cache, NEEDS)
    return {"spikes": spikes, "d_x": d_x, "d_theta": d_theta.sum(axis=0)}


def _ours(size: Layer) -> dict[str, Callable[[], Any]]:
    import cupy

    problem = _problem(size)
    x, theta, params, d_spikes = problem
    kernel, k, to = _on_card(DYNAMICS), DYNAMICS.surrogate.k, cupy.empty_like(x)
    cache = kernel.scan(x, None, theta, params, k)[2]

    def copy() -> None:
        to[...] = x

    return {
        "copy": copy,
        "scan": lambda: kernel.scan(x, None, theta, params, k),
        "adjoint": lambda: kernel.scan_adjoint(d_spikes, None, cache, NEEDS),
        "the loop on CuPy arrays": lambda: _forward_and_backward(ReferenceKernel(DYNAMICS), problem),
    }


def _times(jobs: dict[str, Callable[[], Any]], rounds: int, wait: Callable[[], Any]) -> dict[str, list[float]]:
    """Seconds of each job in each turn; the first two turns compile and allocate, and do not count."""
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(rounds + 2):
        for name, job in jobs.items():
            wait()
            start = time.perf_counter()
            job()
            wait()
            if turn >= 2:
                times[name].append(time.perf_counter() - start)
    return times


if __name__ == "__main__":
    sys.exit(main())
