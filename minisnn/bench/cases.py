"""What is timed: the sizes, and inputs that are the same numbers in every process."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..kernels.arrays import Array

__all__ = ["CASES", "DECAY", "THRESHOLD", "Conv", "Layer", "Net", "Step", "clusters", "find"]

DECAY, THRESHOLD = 0.5, 1.0


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


def find(kind: str, case: str) -> Any:
    """A case by its name, or a layer by its sizes, e.g. ``"64x64x1024"``."""
    if kind == "layer" and case not in CASES[kind]:
        return Layer(*map(int, case.split("x")))
    return CASES[kind][case]


def clusters(rng: np.random.Generator, shape: tuple[int, ...], density: float) -> Array:
    """Spikes uint8 ``[..., H, W]`` in patches, as in feature maps: smoothed noise, cut off."""
    noise = rng.standard_normal(shape, np.float32)
    smooth = sum(np.roll(noise, move, axis) for axis in (-2, -1) for move in (-1, 0, 1))
    return (smooth > np.quantile(smooth, 1 - density)).view(np.uint8)
