"""Encoders: from values to input over T = `steps` time steps, ``[B, ...] -> [T, B, ...]``.

Each is a class, ``encoder = Bernoulli(8)`` for ``fit`` and then ``encoder(images, rng)``, and a
function of the same name that does it at once.  Images on a GPU are encoded there: CuPy's generator
draws, with a seed that `rng` draws.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .kernels.arrays import Array, get_array_module, positive_int, uniform

__all__ = ["Bernoulli", "Constant", "Frames", "Latency"]
__all__ += ["ENCODERS", "bernoulli", "constant", "frames", "latency"]

#: A call with values and a ``numpy.random.Generator``.
Encoder = Callable[[Array, Any], Array]


class InSteps:
    """An encoder with a number of steps; its repr, made from `text`, stands in checkpoints."""

    text = ""
    steps: Any

    def __init__(self, steps: int) -> None:
        self.steps = positive_int("steps", steps)

    def check(self, images: Any) -> Array:
        """The values ``[B, ...]`` as an array; ValueError unless they lie in [0, 1]."""
        images = _as_array(images)
        if images.ndim < 1 or images.shape[0] == 0:
            got = f"got shape {list(images.shape)}"
            raise ValueError(f"images must be [B, ...] with at least one sample, {got}")
        low, high = images.min(), images.max()
        if images.dtype.kind not in "fbiu" or not (low >= 0 and high <= 1):
            hint = ": divide by 255?" if images.dtype.kind in "iuf" and high > 1 else ""
            raise ValueError(f"images must lie in [0, 1], got {images.dtype} {low} to {high}{hint}")
        return images

    def __repr__(self) -> str:
        return self.text.format(self.steps or "as many")


class Bernoulli(InSteps):
    """Rate coding: at every step each value is the probability of a spike, drawn anew."""

    text = "Bernoulli({} steps): spike with probability = value"

    def __call__(self, images: Array, rng: np.random.Generator) -> Array:
        """Values ``[B, ...]``, 0 (never fires) to 1 (always), to spikes ``[T, B, ...]``, uint8."""
        images = self.check(images)
        if not isinstance(rng, np.random.Generator):
            hint = "e.g. rng=np.random.default_rng(0)"
            raise TypeError(f"bernoulli: rng must be a generator, {hint}, got {rng!r}")
        chance = uniform(rng, (self.steps, *images.shape), like=images)
        return (chance < images).view(np.uint8)


class Constant(InSteps):
    """Direct coding: the same values at every step, as an input current."""

    text = "Constant({} steps): the value as a current at every step"

    def __call__(self, images: Array, rng: Any = None) -> Array:
        """Values ``[B, ...]`` in [0, 1] to currents ``[T, B, ...]`` of the same dtype.

        They are a read-only view, whose steps are the same memory (time stride 0).  Linear and
        Conv2d multiply such an input once.  `rng` is not used.
        """
        images = self.check(images)
        once = np.ascontiguousarray(images, like=images)
        return np.broadcast_to(once, (self.steps, *once.shape))


class Latency(InSteps):
    """Latency coding: each value fires once, the larger the earlier; 1 at the first step, 0 never.

    A value ``p > 0`` fires in the step ``floor((1 - p) * T)``, counted from 0.
    """

    text = "Latency({} steps): one spike, the larger the value the earlier"

    def __call__(self, images: Array, rng: Any = None) -> Array:
        """Values ``[B, ...]`` in [0, 1] to spikes ``[T, B, ...]``, uint8; `rng` is not used."""
        values = self.check(images).astype(np.float64)
        first = np.minimum(np.floor((1 - values) * self.steps), self.steps - 1)  # tiny: fires last
        first = np.where(values > 0, first, self.steps)
        time = np.arange(self.steps, like=values).reshape(-1, *(1 for _ in values.shape))
        return (first == time).view(np.uint8)


class Frames(InSteps):
    """Data that have a time axis, such as frames of events or time series: time goes first.

    With `steps` the data must have so many; ``None``: any number.
    """

    text = "Frames({} steps): the data's own time axis goes first"

    def __init__(self, steps: int | None = None) -> None:
        self.steps = None if steps is None else positive_int("steps", steps)

    def __call__(self, images: Array, rng: Any = None) -> Array:
        """``[B, T, ...]``, finite and not negative, to ``[T, B, ...]`` of the same dtype.

        Counts and currents may exceed 1.  Whole numbers above 1 are no spikes and become float32.
        `rng` is not used.
        """
        images = self.check(images)
        is_plain = images.dtype.kind in "fb" or (images.dtype == np.uint8 and images.max() <= 1)
        dtype = images.dtype if is_plain else np.float32
        return np.ascontiguousarray(images.swapaxes(0, 1), dtype=dtype, like=images)

    def check(self, images: Any) -> Array:
        """The frames ``[B, T, ...]`` as an array; ValueError unless they are as `__call__` says."""
        images = _as_array(images)
        if images.ndim < 2 or images.size == 0 or self.steps not in (None, images.shape[1]):
            steps = "a step or more" if self.steps is None else f"T = {self.steps} steps"
            expected = f"[B, T, ...] with a sample or more and {steps}"
            raise ValueError(f"frames must be {expected}, got shape {list(images.shape)}")
        low, high = images.min(), images.max()
        if images.dtype.kind not in "fbiu" or not (low >= 0 and np.isfinite(high)):
            got = f"{images.dtype} {low} to {high}"
            raise ValueError(f"frames must be finite and not negative, got {got}")
        return images


def bernoulli(images: Array, *, steps: int, rng: np.random.Generator) -> Array:
    """:class:`Bernoulli` at once: values ``[B, ...]`` in [0, 1] to spikes ``[T, B, ...]``."""
    return Bernoulli(steps)(images, rng)


def constant(images: Array, *, steps: int) -> Array:
    """:class:`Constant` at once: values ``[B, ...]`` in [0, 1] to currents ``[T, B, ...]``."""
    return Constant(steps)(images)


def latency(images: Array, *, steps: int) -> Array:
    """:class:`Latency` at once: values ``[B, ...]`` in [0, 1] to spikes ``[T, B, ...]``."""
    return Latency(steps)(images)


def frames(images: Array, *, steps: int | None = None) -> Array:
    """:class:`Frames` at once: ``[B, T, ...]`` to ``[T, B, ...]``."""
    return Frames(steps)(images)


#: Every encoder of the package by its name.
ENCODERS = {"bernoulli": Bernoulli, "constant": Constant, "latency": Latency, "frames": Frames}


def _as_array(images: Any) -> Array:
    return images if get_array_module(images) is not np else np.asarray(images)
