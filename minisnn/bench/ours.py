"""minisnn's own jobs: each makes its inputs, and returns a function that runs the case once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import minisnn as ms

from .cases import DECAY, THRESHOLD, Conv, Layer, Net, Step, find

__all__ = ["OURS", "Job", "make", "net_at_trained_rates"]

#: Names in the tables, and their backends.
OURS = {"minisnn": "numba", "numpy": "numpy"}
Job = Callable[[], dict[str, Any]]  #: runs once; returns what it computed, by name
LIF = {"decay": DECAY, "threshold": THRESHOLD}


def make(who: str, kind: str, case: str) -> Job:
    """The job of one of `OURS` for that case."""
    jobs: dict[str, Callable[[Any, str], Job]] = {
        "layer": _layer,
        "step": _step,
        "conv": _conv,
        "net": _net,
    }
    return jobs[kind](find(kind, case), OURS[who])


def _layer(case: Layer, backend: str) -> Job:
    x, d_y = case.inputs()
    layer = ms.LIF(case.n, **LIF, backend=backend)

    def run() -> dict[str, Any]:
        spikes, cache = layer.forward(x)
        d_x, grads = layer.backward(d_y, cache, wrt="threshold")
        return {"spikes": spikes, "d_x": d_x, "d_threshold": grads["threshold"]}

    return run


def _step(case: Step, backend: str) -> Job:
    spikes, labels, first, second = case.inputs()
    net = ms.Network(
        fc1=ms.Linear(case.n_in, case.hidden, weight=first),
        lif1=ms.LIF(case.hidden, **LIF),
        fc2=ms.Linear(case.hidden, case.n_out, weight=second),
        lif2=ms.LIF(case.n_out, **LIF),
        vote=ms.PopulationVote(case.classes),
    )
    return _training_step(net.using(backend), spikes, labels, {"d_weight": "fc1.weight"})


def _conv(case: Conv, backend: str) -> Job:
    x, weight, d_y = case.inputs()
    conv = ms.Conv2d(case.c_in, case.c_out, case.k, padding=case.k // 2, weight=weight)
    layer = conv.using(backend)

    def run() -> dict[str, Any]:
        y, cache = layer.forward(x[None])
        d_x, grads = layer.backward(d_y[None], cache, input_grad=case.c_in > 1)
        return {"y": y[0], "d_weight": grads["weight"], **({} if d_x is None else {"d_x": d_x[0]})}

    return run


def _net(case: Net, backend: str) -> Job:
    net, (x, labels) = net_at_trained_rates(case).using(backend), case.inputs()
    names = {"d_weight": "conv1.weight", "d_threshold": "lif3.threshold"}
    return _training_step(net, x, labels, names, weight_decay=1e-6)


def _training_step(
    net: ms.Network, x: Any, labels: Any, names: dict[str, str], **options: Any
) -> Job:
    """Forward, backward and Adam; returns the loss and the gradients of these names."""
    adam = ms.Adam(net, ms.STL, lr=1e-6, **options)

    def run() -> dict[str, Any]:
        loss, grads = net.loss_and_grads(x, labels, ms.losses.mse, train=True)
        adam.step(grads)
        return {"loss": np.asarray(loss), **{n: grads[param] for n, param in names.items()}}

    return run


def net_at_trained_rates(case: Net) -> ms.Network:
    """The published network without dropout, its thresholds set so that it fires as if trained."""
    net, rates = ms.models.stl_mnist(case.width, dropout=0.0), iter(case.rates)
    x, _ = case.inputs()
    for layer in net.layers.values():
        if layer.spiking:
            wanted, low, high = next(rates), 0.0, 64.0
            for _ in range(30):  # bisection
                middle = 0.5 * (low + high)
                layer.params["threshold"][...] = middle
                low, high = (low, middle) if layer.forward(x)[0].mean() < wanted else (middle, high)
        x = layer.forward(x, train=True)[0]
    return net
