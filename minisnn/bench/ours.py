"""minisnn's own jobs: the same cases as the peers', on a backend, by the documented fast calls or the pure ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import minisnn as ms

from .cases import CONVS, DECAY, LAYERS, STEPS, THRESHOLD, clusters, layer_inputs, step_inputs

__all__ = ["OURS", "Job", "make"]

#: Names on the command line: backend, and whether by the calls that may overwrite their inputs.
OURS = {"minisnn": ("numba", True), "minisnn-pure": ("numba", False), "numpy": ("numpy", False)}


class Job:
    """Runs once when called; `before` puts back what the last run wrote over, and is not timed."""

    def __init__(self, run: Callable[[], dict[str, Any]], before: Callable[[], None] = lambda: None) -> None:
        self.run, self.before = run, before

    def __call__(self) -> dict[str, Any]:
        """Run once; what was computed, by name."""
        return self.run()


def make(who: str, kind: str, case: str) -> Job:
    """The job `who` (one of `OURS`) does for that kind of case."""
    backend, fast = OURS[who]
    return {"layer": _layer, "step": _step, "conv": _conv}[kind](case, backend, fast)


def _layer(case: str, backend: str, fast: bool) -> Job:
    x, d_y = layer_inputs(LAYERS[case])
    layer = ms.LIF(x.shape[2], decay=DECAY, threshold=THRESHOLD, backend=backend)
    if not fast:

        def pure() -> dict[str, Any]:
            spikes, cache = layer.forward(x)
            d_x, grads = layer.backward(d_y, cache, wrt="threshold")
            return {"spikes": spikes, "d_x": d_x, "d_threshold": grads["threshold"]}

        return Job(pure)
    x_once, d_once = x.copy(), d_y.copy()

    def before() -> None:
        x_once[...], d_once[...] = x, d_y

    def consuming() -> dict[str, Any]:
        d_x, grads = layer.vjp(x_once, d_once, consume=("x", "d_y"), wrt="threshold")
        return {"d_x": d_x, "d_threshold": grads["threshold"]}

    return Job(consuming, before)


def _step(case: str, backend: str, fast: bool) -> Job:
    c = STEPS[case]
    spikes, labels, first, second = step_inputs(c)
    net = ms.Network(
        fc1=ms.Linear(c.n_in, c.hidden, weight=first),
        lif1=ms.LIF(c.hidden, decay=DECAY, threshold=THRESHOLD, backend=backend),
        fc2=ms.Linear(c.hidden, c.n_out, weight=second),
        lif2=ms.LIF(c.n_out, decay=DECAY, threshold=THRESHOLD, backend=backend),
        vote=ms.PopulationVote(c.classes),
    )
    adam = ms.Adam(net, ms.STL, lr=1e-6)

    def run() -> dict[str, Any]:
        loss, grads = net.loss_and_grads(spikes, labels, ms.losses.mse)
        adam.step(grads)
        return {"loss": np.asarray(loss), "d_weight": grads["fc1.weight"]}

    return Job(run)


def _conv(case: str, backend: str, fast: bool) -> Job:
    c = CONVS[case]
    rng = np.random.default_rng(0)
    x = clusters(rng, (c.images, c.c_in, c.size, c.size), c.density)[None]
    weight = rng.standard_normal((c.c_out, c.c_in, c.k, c.k), np.float32)
    d_y = rng.standard_normal((1, c.images, c.c_out, c.size, c.size), np.float32)
    layer = ms.Conv2d(c.c_in, c.c_out, c.k, padding=c.k // 2, weight=weight)

    def run() -> dict[str, Any]:
        y, cache = layer.forward(x)
        d_x, grads = layer.backward(d_y, cache, input_grad=c.c_in > 1)
        return {"y": y[0], "d_weight": grads["weight"], **({} if d_x is None else {"d_x": d_x[0]})}

    return Job(run)
