"""Thresholds at the start, and what keeps them where they make sense while they learn.

``threshold=ms.thresholds.Normal(1.0, 0.01, rng=rng)`` draws them;
``constraint=ms.thresholds.LowerBound(0.1)`` or ``ms.thresholds.Softplus()`` bounds them.  With a
constraint the layer's parameter is the *raw* value, which learns, and ``layer.threshold`` the
*effective* one, which the neurons see.  By default there is no constraint (as the STL-SNN authors
have it), and a threshold may cross 0: ``fit`` warns then.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .kernels.arrays import Array

__all__ = ["CONSTRAINTS", "Constraint", "LowerBound", "Normal", "Softplus"]

PER = ("neuron", "channel", "layer")


@dataclass(frozen=True)
class Normal:
    """Thresholds from a normal distribution: the STL-SNN authors' "heterogeneity".

    Parameters
    ----------
    mean, std : of the distribution; 2.0 and 1e-4 there.
    rng : ``numpy.random.Generator``.
    per : "neuron": each has its own; "channel": one for each entry of the first axis; "layer": one,
        shared by all.
    """

    mean: float
    std: float
    rng: np.random.Generator
    per: str = "neuron"

    def __post_init__(self) -> None:
        if not isinstance(self.rng, np.random.Generator):
            example = "a generator, e.g. rng=np.random.default_rng(0)"
            raise TypeError(f"Normal: rng must be {example}, got {self.rng!r}")
        if self.per not in PER:
            raise ValueError(f"Normal: per must be one of {PER}, got {self.per!r}")

    def draw(self, shape: tuple[int, ...]) -> Array:
        """An array that broadcasts to the layer's `shape`."""
        per_channel = (shape[0], *(1 for _ in shape[1:]))
        sizes = {"neuron": shape, "channel": per_channel, "layer": ()}[self.per]
        return np.asarray(self.rng.normal(self.mean, self.std, sizes))


@dataclass(frozen=True)
class LowerBound:
    """Thresholds of at least `bound`: the raw value is the threshold, a step below is cut short.

    The step is cut and not the gradient: a threshold at the bound can rise again.
    """

    bound: float

    def __post_init__(self) -> None:
        if not 0 < self.bound < float("inf"):
            raise ValueError(f"LowerBound: bound must be a number > 0, got {self.bound!r}")

    def effective(self, raw: Array) -> Array:
        """``max(raw, bound)``."""
        return np.maximum(raw, raw.dtype.type(self.bound))  # (thresholds.1)

    def adjoint(self, d_effective: Array, raw: Array) -> Array:
        """The gradient of thresholds on which the bound does not act."""
        return d_effective * (raw >= raw.dtype.type(self.bound))  # (thresholds.4)

    def raw(self, effective: Array) -> Array:
        """The threshold itself."""
        lowest = effective.min()
        if not lowest >= effective.dtype.type(self.bound):
            raise ValueError(f"threshold {lowest:g} lies below its lower bound {self.bound:g}")
        return effective

    def project(self, raw: Array) -> None:
        """Raise what lies below the bound."""
        np.maximum(raw, raw.dtype.type(self.bound), out=raw)


@dataclass(frozen=True)
class Softplus:
    """Thresholds ``log(1 + exp(raw))``: always positive, nearly `raw` if that is large."""

    def effective(self, raw: Array) -> Array:
        """``log(1 + exp(raw))``, in a form that does not overflow."""
        return np.logaddexp(raw, 0)  # (thresholds.2)

    def adjoint(self, d_effective: Array, raw: Array) -> Array:
        """Times ``1 / (1 + exp(-raw))``."""
        return d_effective * np.exp(-np.logaddexp(-raw, 0))  # (thresholds.3)

    def raw(self, effective: Array) -> Array:
        """``log(exp(theta) - 1)``; NumPy makes a scalar of a single number, this an array."""
        return np.asarray(effective + np.log(-np.expm1(-effective)))

    def project(self, raw: Array) -> None:
        """Every raw value is in bounds."""


#: A bound on thresholds: ``effective`` is what the neurons see of a raw value, ``adjoint`` takes
#: its gradient back, ``raw`` is its inverse at the start, and ``project`` brings a raw value back
#: in bounds, in place, after an optimizer's step.
Constraint = LowerBound | Softplus

#: Every constraint by its name.
CONSTRAINTS: dict[str, Any] = {"LowerBound": LowerBound, "Softplus": Softplus}
