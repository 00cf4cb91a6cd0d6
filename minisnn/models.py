"""Whole networks: the published one, and a builder for others of its kind."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from . import layers as nn
from .network import Network
from .optimizers import Adam, exponential
from .rules import STL, Pattern
from .thresholds import Normal

__all__ = ["STL_MNIST", "conv_net", "mlp", "stl_mnist", "stl_mnist_optimizer"]

#: How the STL-SNN authors train it, in their published code; batch: samples in one.
STL_MNIST: dict[str, Any] = {"steps": 4, "batch": 50, "epochs": 100, "schedule": exponential(0.93)}


def conv_net(
    shape: tuple[int, int, int],
    channels: Sequence[int],
    hidden: Sequence[int],
    classes: int,
    *,
    rng: np.random.Generator,
    members: int = 10,
    kernel: int = 5,
    pool: int = 2,
    dropout: float = 0.5,
    threshold: float = 1.0,
    spread: float = 0.0,
    **options: Any,
) -> Network:
    """Blocks of convolution, then fully connected layers with dropout, then a vote.

    Parameters
    ----------
    shape : of one image, ``(channels, height, width)``.
    channels : output channels of each block: ``convI normI lifI poolI``; padding keeps the size,
        pooling divides it.
    hidden : neurons of each fully connected layer before the last: ``dropI fcI lifI``.
    classes, members : the last layer has `members` neurons for each class, which vote.
    rng : for weights and thresholds.
    kernel, pool : size of the convolutions' windows, and of the poolings'.
    dropout : probability that an input of a fully connected layer is dropped.
    threshold, spread : mean and standard deviation of the neurons' thresholds at the start.
    **options : for the spiking layers: ``reset``, ``surrogate``, ``decay``, ``backend``, ...
    """
    dtype = options.get("dtype", "float32")
    layers: dict[str, nn.Layer] = {}

    def lif(size: Any) -> nn.Layer:
        start = Normal(threshold, spread, rng) if spread else threshold
        return nn.LIF(size, threshold=start, **options)

    size: Any = shape
    for i, (c_in, c_out) in enumerate(pairwise((shape[0], *channels)), start=1):
        conv = nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, rng=rng, dtype=dtype)
        size = conv.out_shape(size)
        layers |= {f"conv{i}": conv, f"norm{i}": nn.BatchNorm2d(c_out, dtype=dtype)}
        layers |= {f"lif{i}": lif(size), f"pool{i}": nn.MaxPool2d(pool)}
        size = layers[f"pool{i}"].out_shape(size)
    layers["flatten"] = nn.Flatten()
    sizes = (math.prod(size), *hidden, members * classes)
    for i, (n_in, n_out) in enumerate(pairwise(sizes), start=1):
        fc = nn.Linear(n_in, n_out, rng=rng, dtype=dtype)
        layers |= {f"drop{i}": nn.Dropout(dropout), f"fc{i}": fc}
        layers[f"lif{len(channels) + i}"] = lif(n_out)
    return Network(**layers, vote=nn.PopulationVote(classes))


def stl_mnist(
    width: int = 128,
    *,
    shape: tuple[int, int, int] = (1, 28, 28),
    classes: int = 10,
    rng: np.random.Generator | None = None,
    **options: Any,
) -> Network:
    """The network that the STL-SNN authors published for MNIST.

    It has 13,590,756 parameters, 127,588 of them thresholds: Bernoulli coding over 4 steps; two
    blocks of a 5 x 5 convolution with `width` channels, normalisation at every step, neurons,
    maximum pooling; 2,048 neurons; 100 neurons that vote, ten for each class.  Decay 0.5, hard
    reset in the graph, atan with k = 2, thresholds 2.0 + normal noise of standard deviation 1e-4,
    no biases.  At first its last layers are silent: it learns through the surrogate's tails.

    Parameters
    ----------
    width : channels of the convolutions; 128 is the published net.
    shape, classes : of the data; MNIST's by default.
    rng : ``numpy.random.Generator``; ``default_rng(0)`` if not given.
    **options : as for :func:`conv_net`, e.g. ``threshold=1.0``.

    Source: H. Sun, W. Cai et al., their published code for MNIST (MIT licence).
    """
    rng = np.random.default_rng(0) if rng is None else rng
    options = {"threshold": 2.0, "spread": 1e-4, **options}
    return conv_net(shape, (width, width), (2048,), classes, rng=rng, **options)


def stl_mnist_optimizer(net: Network, pattern: Pattern = STL, lr: float = 1e-3) -> Adam:
    """The authors' optimizer: Adam with an L2 penalty of 1e-6 on everything that learns."""
    return Adam(net, pattern, lr=lr, weight_decay=1e-6)


def mlp(
    n_in: int,
    hidden: Sequence[int],
    classes: int,
    *,
    rng: np.random.Generator,
    members: int = 10,
    **options: Any,
) -> Network:
    """Fully connected layers of LIF neurons, ``fcI lifI``, and a vote of `members` a class."""
    layers: dict[str, nn.Layer] = {}
    for i, (n, m) in enumerate(pairwise((n_in, *hidden, members * classes)), start=1):
        layers[f"fc{i}"] = nn.Linear(n, m, rng=rng, dtype=options.get("dtype", "float32"))
        layers[f"lif{i}"] = nn.LIF(m, **options)
    return Network(**layers, vote=nn.PopulationVote(classes))
