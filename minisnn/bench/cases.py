"""What is timed: the sizes, inputs that are the same numbers in every process, and minisnn's jobs.

A job is a function that runs its case once and returns what it computed, by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import minisnn as ms

from ..kernels.arrays import Array

__all__ = ["CASES", "DECAY", "OURS", "THRESHOLD", "Conv", "Job", "Layer", "Net", "Step"]
__all__ += ["clusters", "find", "make", "net_at_trained_rates"]

#: minisnn's names in the tables, and their backends.
OURS = {"minisnn": "numba", "numpy": "numpy"}
DECAY, THRESHOLD = 0.5, 1.0
LIF = {"decay": DECAY, "threshold": THRESHOLD}
Job = Callable[[], dict[str, Any]]


def make(who: str, kind: str, case: str) -> Job:
    """The job of one of `OURS` for that case."""
    return find(kind, case).job(OURS[who])


def find(kind: str, case: str) -> Any:
    """A case by its name, or a layer by its sizes, e.g. ``"64x64x1024"``."""
    if kind == "layer" and case not in CASES[kind]:
        return Layer(*map(int, case.split("x")))
    return CASES[kind][case]


class Layer(NamedTuple):
    """A layer of LIF neurons over ``[T, B, N]``."""

    steps: int
    batch: int
    n: int

    @property
    def size(self) -> int:
        """Elements of one array."""
        return self.steps * self.batch * self.n

    def inputs(self) -> tuple[Array, Array]:
        """Input and gradient of the spikes, ``[T, B, N]``; about one neuron in five fires."""
        rng = np.random.default_rng(self.n)
        x = rng.standard_normal((self.steps, self.batch, self.n), np.float32)
        x *= np.float32(0.7)
        x += np.float32(0.3)
        return x, rng.standard_normal(x.shape, np.float32)

    def job(self, backend: str) -> Job:
        """Forward and backward."""
        x, d_y = self.inputs()
        return _pass(ms.LIF(self.n, **LIF, backend=backend), x, d_y, "spikes", wrt="threshold")


class Step(NamedTuple):
    """A training step of two linear layers with neurons and a population vote."""

    n_in: int
    hidden: int
    n_out: int
    classes: int
    steps: int
    batch: int
    density: float  #: of the input spikes

    def inputs(self) -> tuple[Array, Array, Array, Array]:
        """``(spikes uint8 [T, B, n_in], labels [B], weight1, weight2)``."""
        rng = np.random.default_rng(self.n_in)
        chance = rng.random((self.steps, self.batch, self.n_in), np.float32)
        scale = 1.5 / np.sqrt(self.n_in * self.density)
        first = rng.normal(0.2 * scale, scale, (self.n_in, self.hidden)).astype(np.float32)
        second = rng.normal(0.02, 0.15, (self.hidden, self.n_out)).astype(np.float32)
        labels = rng.integers(0, self.classes, self.batch)
        return (chance < self.density).view(np.uint8), labels, first, second

    def job(self, backend: str) -> Job:
        """Forward, backward and Adam."""
        spikes, labels, first, second = self.inputs()
        net = ms.Network(
            fc1=ms.Linear(self.n_in, self.hidden, weight=first),
            lif1=ms.LIF(self.hidden, **LIF),
            fc2=ms.Linear(self.hidden, self.n_out, weight=second),
            lif2=ms.LIF(self.n_out, **LIF),
            vote=ms.PopulationVote(self.classes),
        )
        return _training_step(net.using(backend), spikes, labels, {"d_weight": "fc1.weight"})


class Conv(NamedTuple):
    """A convolution with windows k x k and padding that keeps the size."""

    images: int
    c_in: int
    c_out: int
    k: int
    size: int
    density: float  #: of the input spikes

    def inputs(self) -> tuple[Array, Array, Array]:
        """Spikes ``[images, c_in, size, size]``, weights, and the gradient of the output."""
        rng = np.random.default_rng(0)
        x = clusters(rng, (self.images, self.c_in, self.size, self.size), self.density)
        weight = rng.standard_normal((self.c_out, self.c_in, self.k, self.k), np.float32)
        d_y = rng.standard_normal((self.images, self.c_out, self.size, self.size), np.float32)
        return x, weight, d_y

    def job(self, backend: str) -> Job:
        """Forward and backward; of a first layer without the gradient of its input."""
        x, weight, d_y = self.inputs()
        conv = ms.Conv2d(self.c_in, self.c_out, self.k, padding=self.k // 2, weight=weight)
        return _pass(conv.using(backend), x[None], d_y[None], "y", input_grad=self.c_in > 1)


class Net(NamedTuple):
    """A training step of the published network (`minisnn.models.stl_mnist`)."""

    width: int
    steps: int = 4
    batch: int = 50
    density: float = 0.12  #: of the input spikes
    #: Of its four spiking layers, measured at width 16 after an epoch of MNIST.
    rates: tuple[float, ...] = (0.043, 0.090, 0.163, 0.101)

    def inputs(self) -> tuple[Array, Array]:
        """``(spikes uint8 [T, B, 1, 28, 28], labels [B])``."""
        rng = np.random.default_rng(28)
        spikes = clusters(rng, (self.steps, self.batch, 1, 28, 28), self.density)
        return spikes, rng.integers(0, 10, self.batch)

    def job(self, backend: str) -> Job:
        """Forward, backward and Adam."""
        net, (x, labels) = net_at_trained_rates(self).using(backend), self.inputs()
        names = {"d_weight": "conv1.weight", "d_threshold": "lif3.threshold"}
        return _training_step(net, x, labels, names, weight_decay=1e-6)


#: Every case by its kind and its name; "small" takes no time and no memory.
CASES: dict[str, dict[str, Any]] = {
    "layer": {
        "small": Layer(4, 2, 64),
        "S": Layer(4, 64, 2048),
        "M": Layer(16, 128, 1024),
        "L": Layer(100, 128, 512),
        "X": Layer(300, 64, 256),
        "C": Layer(4, 50, 100352),
    },
    "step": {
        "small": Step(16, 16, 10, 10, 4, 4, 0.2),
        "784-1024-100": Step(784, 1024, 100, 10, 8, 128, 0.13),
        "700-256-20": Step(700, 256, 20, 20, 100, 128, 0.02),
    },
    "conv": {
        "small": Conv(2, 1, 2, 3, 6, 0.2),
        "1-128": Conv(200, 1, 128, 5, 28, 0.13),
        "128-128": Conv(200, 128, 128, 5, 14, 0.10),
    },
    "net": {"small": Net(2), "stl-mnist": Net(128)},
}


def clusters(rng: np.random.Generator, shape: tuple[int, ...], density: float) -> Array:
    """Spikes uint8 ``[..., H, W]`` in patches, as in feature maps: smoothed noise, cut off."""
    noise = rng.standard_normal(shape, np.float32)
    smooth = sum(np.roll(noise, move, axis) for axis in (-2, -1) for move in (-1, 0, 1))
    return (smooth > np.quantile(smooth, 1 - density)).view(np.uint8)


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


def _pass(layer: ms.Layer, x: Array, d_y: Array, output: str, **needs: Any) -> Job:
    """A layer forward and backward; its job returns the output and all gradients needed."""

    def run() -> dict[str, Any]:
        y, cache = layer.forward(x)
        d_x, grads = layer.backward(d_y, cache, **needs)
        found = {output: y, "d_x": d_x, **{f"d_{name}": grad for name, grad in grads.items()}}
        return {name: array for name, array in found.items() if array is not None}

    return run


def _training_step(
    net: ms.Network, x: Any, labels: Any, names: dict[str, str], **options: Any
) -> Job:
    """A training step; its job returns the loss and the gradients of these names."""
    adam = ms.Adam(net, ms.STL, lr=1e-6, **options)

    def run() -> dict[str, Any]:
        loss, grads = net.loss_and_grads(x, labels, ms.losses.mse, train=True)
        adam.step(grads)
        return {"loss": np.asarray(loss), **{n: grads[param] for n, param in names.items()}}

    return run
