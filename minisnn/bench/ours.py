"""minisnn's own jobs: the same cases as the peers', on a backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import minisnn as ms

from .cases import (
    CONVS,
    DECAY,
    NET_RATES,
    NETS,
    SMALL,
    STEPS,
    THRESHOLD,
    conv_inputs,
    layer_inputs,
    layer_of,
    net_inputs,
    step_inputs,
)  # fmt: skip

__all__ = ["OURS", "make", "net_at_trained_rates", "warm_up"]

#: Names in the tables, and their backends.
OURS = {"minisnn": "numba", "numpy": "numpy"}
Job = Callable[[], dict[str, Any]]  #: runs once; what was computed, by name


def make(who: str, kind: str, case: str) -> Job:
    """The job `who` (one of `OURS`) does for that kind of case."""
    return {"layer": _layer, "step": _step, "conv": _conv, "net": _net}[kind](case, OURS[who])


def warm_up(who: str, kind: str) -> Job:
    """A small job of the same kind, so that imports and compiling are not taken for memory of a run."""
    if who in OURS:
        return make(who, kind, SMALL)
    from . import peers

    return peers.make(who, kind, SMALL)


def _layer(case: str, backend: str) -> Job:
    x, d_y = layer_inputs(layer_of(case))
    layer = ms.LIF(x.shape[2], decay=DECAY, threshold=THRESHOLD, backend=backend)

    def run() -> dict[str, Any]:
        spikes, cache = layer.forward(x)
        d_x, grads = layer.backward(d_y, cache, wrt="threshold")
        return {"spikes": spikes, "d_x": d_x, "d_threshold": grads["threshold"]}

    return run


def _step(case: str, backend: str) -> Job:
    c = STEPS[case]
    spikes, labels, first, second = step_inputs(c)
    net = ms.Network(
        fc1=ms.Linear(c.n_in, c.hidden, weight=first),
        lif1=ms.LIF(c.hidden, decay=DECAY, threshold=THRESHOLD),
        fc2=ms.Linear(c.hidden, c.n_out, weight=second),
        lif2=ms.LIF(c.n_out, decay=DECAY, threshold=THRESHOLD),
        vote=ms.PopulationVote(c.classes),
    ).using(backend)
    adam = ms.Adam(net, ms.STL, lr=1e-6)

    def run() -> dict[str, Any]:
        loss, grads = net.loss_and_grads(spikes, labels, ms.losses.mse)
        adam.step(grads)
        return {"loss": np.asarray(loss), "d_weight": grads["fc1.weight"]}

    return run


def _conv(case: str, backend: str) -> Job:
    c = CONVS[case]
    x, weight, d_y = conv_inputs(c)
    layer = ms.Conv2d(c.c_in, c.c_out, c.k, padding=c.k // 2, weight=weight).using(backend)

    def run() -> dict[str, Any]:
        y, cache = layer.forward(x[None])
        d_x, grads = layer.backward(d_y[None], cache, input_grad=c.c_in > 1)
        return {"y": y[0], "d_weight": grads["weight"], **({} if d_x is None else {"d_x": d_x[0]})}

    return run


def net_at_trained_rates(case: str) -> ms.Network:
    """The published network without dropout, thresholds set so that its layers fire as a trained one's do."""
    net = ms.models.stl_mnist(NETS[case], dropout=0.0)
    x, _ = net_inputs()
    for name, layer in net.layers.items():
        if name in NET_RATES:
            low, high = 0.0, 64.0
            for _ in range(30):
                layer.params["threshold"][...] = 0.5 * (low + high)
                rate = layer.forward(x)[0].mean()
                low, high = (low, 0.5 * (low + high)) if rate < NET_RATES[name] else (0.5 * (low + high), high)
        x = layer.forward(x, train=True)[0]
    return net


def _net(case: str, backend: str) -> Job:
    x, labels = net_inputs()
    net = net_at_trained_rates(case).using(backend)
    adam = ms.Adam(net, ms.STL, lr=1e-6, weight_decay=1e-6)

    def run() -> dict[str, Any]:
        loss, grads = net.loss_and_grads(x, labels, ms.losses.mse, train=True)
        adam.step(grads)
        return {"loss": np.asarray(loss), "d_weight": grads["conv1.weight"], "d_threshold": grads["lif3.threshold"]}

    return run
