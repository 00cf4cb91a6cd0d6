"""Encoders: from values in [0, 1], or from data that have a time axis, to input over time, ``[B, ...] -> [T, B, ...]``.

Images on a GPU are encoded there: what is random is drawn by CuPy's generator, whose seed is drawn from `rng`.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from .kernels.arrays import Array, get_array_module, positive_int, uniform

__all__ = [
    "ENCODERS", "Bernoulli", "Constant", "Encoder", "Frames", "Latency", "bernoulli", "constant", "frames", "latency",
]  # fmt: skip


class Encoder(Protocol):
    """What ``fit`` wants: a call with values and a generator."""

    @property
    def steps(self) -> int | None:
        """Number of time steps T; ``None``: as many as the data have."""

    def __call__(self, images: Array, rng: np.random.Generator) -> Array:
        """``[B, ...] -> [T, B, ...]``."""


def bernoulli(images: Array, *, steps: int, rng: np.random.Generator) -> Array:
    """Rate coding: at every step each value is the probability of a spike, drawn anew.

    Parameters
    ----------
    images : ``[B, ...]``, values in [0, 1]; 0 never fires, 1 always.
    steps : number of time steps T.
    rng : ``numpy.random.Generator``.

    Returns
    -------
    spikes : ``[T, B, ...]``, uint8 0 or 1.
    """
    images, steps = _checked(images, steps)
    if not isinstance(rng, np.random.Generator):
        raise TypeError(f"bernoulli: rng must be a generator, e.g. rng=np.random.default_rng(0), got {rng!r}")
    chance = uniform(rng, (steps, *images.shape), like=images)
    return (chance < images).view(np.uint8)


def constant(images: Array, *, steps: int) -> Array:
    """Direct coding: the same values at every step, as an input current.

    Parameters
    ----------
    images : ``[B, ...]``, floats in [0, 1].
    steps : number of time steps T.

    Returns
    -------
    currents : ``[T, B, ...]``, of the dtype of `images`: a read-only view of them, whose steps are the same memory (time
        stride 0).  Linear and Conv2d multiply such an input once.
    """
    images, steps = _checked(images, steps)
    view = np.broadcast_to(np.ascontiguousarray(images, like=images), (steps, *images.shape))
    return view


def latency(images: Array, *, steps: int) -> Array:
    """Latency coding: each value fires once, the larger the earlier; 1 at the first step, 0 never.

    Parameters
    ----------
    images : ``[B, ...]``, values in [0, 1].
    steps : number of time steps T; a value ``p > 0`` fires in the step ``floor((1 - p) * T)``, counted from 0.

    Returns
    -------
    spikes : ``[T, B, ...]``, uint8 0 or 1.
    """
    images, steps = _checked(images, steps)
    values = images.astype(np.float64)
    first = np.where(values > 0, np.floor((1 - values) * steps), steps)
    first = np.where(values > 0, np.minimum(first, steps - 1), first)  # a tiny value fires last
    time = np.arange(steps, like=values).reshape(-1, *(1 for _ in values.shape))
    return (first == time).view(np.uint8)


def frames(images: Array, *, steps: int | None = None) -> Array:
    """Data that have a time axis already, such as frames of events or time series: time goes first.

    Parameters
    ----------
    images : ``[B, T, ...]``, finite and not negative; counts and currents may exceed 1.
    steps : number of time steps T that is expected; ``None``: any.

    Returns
    -------
    values : ``[T, B, ...]``, of the dtype of `images`; whole numbers above 1 are no spikes and become float32.
    """
    images = _as_array(images)
    if images.ndim < 2 or images.size == 0:
        raise ValueError(f"frames must be [B, T, ...] with at least one sample and step, got shape {list(images.shape)}")
    if steps is not None and images.shape[1] != positive_int("steps", steps):
        raise ValueError(f"frames must be [B, T, ...] with T = {steps} steps, got shape {list(images.shape)}")
    if images.dtype.kind not in "fbiu" or not (images.min() >= 0 and np.isfinite(images.max())):
        raise ValueError(f"frames must be finite and not negative, got {images.dtype} {images.min()} to {images.max()}")
    is_plain = images.dtype.kind in "fb" or (images.dtype == np.uint8 and images.max() <= 1)
    return np.ascontiguousarray(images.swapaxes(0, 1), dtype=images.dtype if is_plain else np.float32, like=images)


class Bernoulli:
    """:func:`bernoulli` with the number of steps fixed: an encoder for ``fit``."""

    def __init__(self, steps: int) -> None:
        self.steps = positive_int("steps", steps)

    def __call__(self, images: Array, rng: np.random.Generator) -> Array:
        """``[B, ...] -> [T, B, ...]``, uint8."""
        return bernoulli(images, steps=self.steps, rng=rng)

    def __repr__(self) -> str:
        return f"Bernoulli({self.steps} steps): spike with probability = value"


class Constant:
    """:func:`constant` with the number of steps fixed: an encoder for ``fit``."""

    def __init__(self, steps: int) -> None:
        self.steps = positive_int("steps", steps)

    def __call__(self, images: Array, rng: np.random.Generator) -> Array:
        """``[B, ...] -> [T, B, ...]``, of the dtype of `images`; `rng` is not used."""
        return constant(images, steps=self.steps)

    def __repr__(self) -> str:
        return f"Constant({self.steps} steps): the value as a current at every step"


class Latency:
    """:func:`latency` with the number of steps fixed: an encoder for ``fit``."""

    def __init__(self, steps: int) -> None:
        self.steps = positive_int("steps", steps)

    def __call__(self, images: Array, rng: np.random.Generator) -> Array:
        """``[B, ...] -> [T, B, ...]``, uint8; `rng` is not used."""
        return latency(images, steps=self.steps)

    def __repr__(self) -> str:
        return f"Latency({self.steps} steps): one spike, the larger the value the earlier"


class Frames:
    """:func:`frames` as an encoder for ``fit``; `steps`: how many the data must have, ``None`` for any."""

    def __init__(self, steps: int | None = None) -> None:
        self.steps = None if steps is None else positive_int("steps", steps)

    def __call__(self, images: Array, rng: np.random.Generator) -> Array:
        """``[B, T, ...] -> [T, B, ...]``; `rng` is not used."""
        return frames(images, steps=self.steps)

    def __repr__(self) -> str:
        return f"Frames({'as many' if self.steps is None else self.steps} steps): the data's own time axis goes first"


#: Every encoder of the package by its name.
ENCODERS = {"bernoulli": Bernoulli, "constant": Constant, "latency": Latency, "frames": Frames}


def _as_array(images: Any) -> Array:
    return images if get_array_module(images) is not np else np.asarray(images)


def _checked(images: Any, steps: Any) -> tuple[Array, int]:
    images = _as_array(images)
    if images.ndim < 1 or images.shape[0] == 0:
        raise ValueError(f"images must be [B, ...] with at least one sample, got shape {list(images.shape)}")
    if images.dtype.kind not in "fbiu" or not (images.min() >= 0 and images.max() <= 1):
        hint = ": divide by 255?" if images.dtype.kind in "iuf" and images.max() > 1 else ""
        raise ValueError(f"images must lie in [0, 1], got {images.dtype} {images.min()} to {images.max()}{hint}")
    return images, positive_int("steps", steps)
