"""What is timed: the sizes, and inputs that are the same numbers for everybody."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..kernels.arrays import Array

__all__ = [
    "CONVS", "LAYERS", "NETS", "NET_RATES", "SMALL", "STEPS", "Conv", "Layer", "Step", "clusters", "conv_inputs",
    "layer_inputs", "layer_of", "net_inputs", "step_inputs",
]  # fmt: skip

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


class Step(NamedTuple):
    """A training step of two fully connected layers, input spikes of that density, a population vote."""

    n_in: int
    hidden: int
    n_out: int
    classes: int
    steps: int
    batch: int
    density: float


class Conv(NamedTuple):
    """A convolution of `images` with windows k x k and padding that keeps the size; ``density`` of its input spikes."""

    images: int
    c_in: int
    c_out: int
    k: int
    size: int
    density: float


#: The published network (`minisnn.models.stl_mnist`), with the firing rates that its layers were measured to have after
#: an epoch of MNIST at width 16: density of the input spikes, then the rates of the four spiking layers.
NETS = {"stl-mnist": 128, "stl-mnist-16": 16}
NET_BATCH, NET_STEPS, NET_DENSITY = 50, 4, 0.12
NET_RATES = {"lif1": 0.043, "lif2": 0.090, "lif3": 0.163, "lif4": 0.101}

#: A case of every kind that takes no time and no memory.
SMALL = "small"
LAYERS = {
    SMALL: Layer(4, 2, 64),
    "S": Layer(4, 64, 2048),
    "M": Layer(16, 128, 1024),
    "L": Layer(100, 128, 512),
    "X": Layer(300, 64, 256),
    "C": Layer(4, 50, 100352),
}


def layer_of(case: str) -> Layer:
    """A layer by its name, or by its sizes, e.g. ``"64x64x1024"``."""
    return LAYERS[case] if case in LAYERS else Layer(*map(int, case.split("x")))


STEPS = {
    SMALL: Step(16, 16, 10, 10, 4, 4, 0.2),
    "784-1024-100": Step(784, 1024, 100, 10, 8, 128, 0.13),
    "700-256-20": Step(700, 256, 20, 20, 100, 128, 0.02),
}
CONVS = {
    SMALL: Conv(2, 1, 2, 3, 6, 0.2),
    "1-128": Conv(200, 1, 128, 5, 28, 0.13),
    "128-128": Conv(200, 128, 128, 5, 14, 0.10),
}


def layer_inputs(case: Layer) -> tuple[Array, Array]:
    """Input current and gradient of the spikes, float32 ``[T, B, N]``; about one neuron in five fires."""
    rng = np.random.default_rng(case.n)
    x = rng.standard_normal((case.steps, case.batch, case.n), np.float32)
    x *= np.float32(0.7)
    x += np.float32(0.3)
    return x, rng.standard_normal(x.shape, np.float32)


def step_inputs(case: Step) -> tuple[Array, Array, Array, Array]:
    """``(spikes uint8 [T, B, n_in], labels [B], weight1, weight2)``."""
    rng = np.random.default_rng(case.n_in)
    spikes = (rng.random((case.steps, case.batch, case.n_in), np.float32) < case.density).view(np.uint8)
    scale = 1.5 / np.sqrt(case.n_in * case.density)
    first = rng.normal(0.2 * scale, scale, (case.n_in, case.hidden)).astype(np.float32)
    second = rng.normal(0.02, 0.15, (case.hidden, case.n_out)).astype(np.float32)
    return spikes, rng.integers(0, case.classes, case.batch), first, second


def clusters(rng: np.random.Generator, shape: tuple[int, ...], density: float) -> Array:
    """Spikes uint8 ``[..., H, W]`` of that density in patches, as feature maps have them: smoothed noise, cut off."""
    noise = rng.standard_normal(shape, np.float32)
    smooth = sum(np.roll(noise, move, axis) for axis in (-2, -1) for move in (-1, 0, 1))
    return (smooth > np.quantile(smooth, 1 - density)).view(np.uint8)


def net_inputs() -> tuple[Array, Array]:
    """``(spikes uint8 [T, B, 1, 28, 28], labels [B])``."""
    rng = np.random.default_rng(28)
    return clusters(rng, (NET_STEPS, NET_BATCH, 1, 28, 28), NET_DENSITY), rng.integers(0, 10, NET_BATCH)


def conv_inputs(c: Conv) -> tuple[Array, Array, Array]:
    """Spikes ``[images, c_in, size, size]``, weights, and the gradient of the output, ``[images, c_out, size, size]``."""
    rng = np.random.default_rng(0)
    x = clusters(rng, (c.images, c.c_in, c.size, c.size), c.density)
    weight = rng.standard_normal((c.c_out, c.c_in, c.k, c.k), np.float32)
    return x, weight, rng.standard_normal((c.images, c.c_out, c.size, c.size), np.float32)
