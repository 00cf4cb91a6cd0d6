"""Surrogates: a smooth curve in place of the spike's jump, and its slope.

The spike is a step of ``x = u - theta``.  Its derivative is zero almost everywhere, so that a
network cannot learn from it.  A surrogate gradient puts the slope of a smooth curve in its place.
That is a *choice*, not a derivative of the spiking network.

A surrogate is a pair of formulas (:mod:`minisnn.formula`) of ``x`` and a steepness ``k``::

    smooth(x, k)   -> the curve, 0.5 at x = 0          slope(x, k)   -> its derivative

============== ===== ====== ===============================================================
name           peak  rise   source
============== ===== ====== ===============================================================
atan           k / 2 1      the STL-SNN authors' code (k = 2); Fang et al. 2021
sigmoid        k / 4 1      logistic curve in a form that is stable for large ``|k x|``
fast_sigmoid   1     2 / k  SuperSpike: Zenke and Ganguli 2018
exponential    k / 2 1      two-sided; Shrestha and Orchard 2018 (SLAYER) use this slope
triangle       k     1      Bellec et al. 2018, here with area 1; width 2 / k
boxcar         k     1      the rectangle of STBP: Wu et al. 2018; width 1 / k
============== ===== ====== ===============================================================

The peak is that of the slope, the rise that of the whole curve.

To add a surrogate: the pair and a function of ``k`` that makes it, named in :data:`SURROGATES`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .formula import Formula, trace

__all__ = ["SURROGATES", "Surrogate"]
__all__ += ["atan", "boxcar", "exponential", "fast_sigmoid", "sigmoid", "triangle"]

HALF_PI = math.pi / 2
INV_PI = 1 / math.pi


@dataclass(frozen=True)
class Surrogate:
    """A smooth curve and its slope, with a steepness.

    Parameters
    ----------
    smooth, slope : functions of ``(x, k)``, where x = membrane minus threshold.
    k : steepness, a positive number.
    kinks : where the curve is not smooth, besides at 0, as values of ``k * x``.  Differences do not
        step across these.

    Raises
    ------
    FormulaError : a function does what some backend cannot.
    ValueError : `k` is not a positive finite number.
    """

    smooth: Callable[..., Any] = field(compare=False)
    slope: Callable[..., Any] = field(compare=False)
    k: float
    kinks: tuple[float, ...] = ()
    #: The two functions, traced when the object is made.
    formulas: tuple[Formula, Formula] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        smooth = trace(self.smooth, "smooth of a Surrogate", n_args=2, n_results=1)
        slope = trace(self.slope, "slope of a Surrogate", n_args=2, n_results=1)
        object.__setattr__(self, "formulas", (smooth, slope))
        is_number = isinstance(self.k, int | float | np.number) and not isinstance(self.k, bool)
        if not is_number or not 0 < self.k < math.inf:
            expected = "k is the steepness, a positive finite number"
            raise ValueError(f"Surrogate: {expected}, got {self.k!r}")
        object.__setattr__(self, "k", float(self.k))

    def __repr__(self) -> str:
        return f"Surrogate({self.smooth.__name__}, {self.slope.__name__}, k={self.k:g})"


def atan_smooth(x, k):
    return 0.5 + INV_PI * np.arctan(HALF_PI * k * x)  # (surrogates.1)


def atan_slope(x, k):
    a = HALF_PI * k * x
    return 0.5 * k / (1 + a * a)  # (lif.6)


def atan(k: float = 2.0) -> Surrogate:
    """Arctangent curve; slope ``0.5 k / (1 + (pi k x / 2)^2)``, peak k/2, total rise 1.

    The authors' choice: k = 2.
    """
    return Surrogate(atan_smooth, atan_slope, k)


def sigmoid_smooth(x, k):
    return 0.5 + 0.5 * np.tanh(0.5 * k * x)  # (surrogates.2)


def sigmoid_slope(x, k):
    e = np.exp(-k * np.maximum(x, -x))  # at most 1, so the tails do not overflow
    return k * e / ((1 + e) * (1 + e))  # (surrogates.8)


def sigmoid(k: float = 4.0) -> Surrogate:
    """Logistic curve; slope ``k s (1 - s)``, peak k/4, total rise 1."""
    return Surrogate(sigmoid_smooth, sigmoid_slope, k)


def fast_sigmoid_smooth(x, k):
    return 0.5 + x / (1 + k * np.maximum(x, -x))  # (surrogates.3)


def fast_sigmoid_slope(x, k):
    a = 1 + k * np.maximum(x, -x)
    return 1 / (a * a)  # (surrogates.9)


def fast_sigmoid(k: float = 10.0) -> Surrogate:
    """SuperSpike's curve; slope ``1 / (1 + k |x|)^2``, peak 1 for every k, total rise 2/k."""
    return Surrogate(fast_sigmoid_smooth, fast_sigmoid_slope, k)


def exponential_smooth(x, k):
    left, right = np.exp(-k * np.maximum(-x, 0)), np.exp(-k * np.maximum(x, 0))  # both at most 1
    return 0.5 * (1 + left - right)  # (surrogates.4)


def exponential_slope(x, k):
    return 0.5 * k * np.exp(-k * np.maximum(x, -x))  # (surrogates.10)


def exponential(k: float = 4.0) -> Surrogate:
    """Two-sided exponential; slope ``0.5 k exp(-k |x|)``, peak k/2, total rise 1."""
    return Surrogate(exponential_smooth, exponential_slope, k)


def triangle_smooth(x, k):
    a = np.minimum(np.maximum(k * x, -1), 1)
    return 0.5 + a - 0.5 * a * np.maximum(a, -a)  # (surrogates.5)


def triangle_slope(x, k):
    return k * np.maximum(1 - k * np.maximum(x, -x), 0)  # (surrogates.11)


def triangle(k: float = 1.0) -> Surrogate:
    """Slope ``k max(0, 1 - k |x|)``: peak k, total rise 1; zero, so silent, beyond ``1 / k``."""
    return Surrogate(triangle_smooth, triangle_slope, k, kinks=(-1.0, 1.0))


def boxcar_smooth(x, k):
    return 0.5 + np.minimum(np.maximum(k * x, -0.5), 0.5)  # (surrogates.6)


def boxcar_slope(x, k):
    return k * (k * x <= 0.5) * (k * x >= -0.5)  # (surrogates.12)


def boxcar(k: float = 1.0) -> Surrogate:
    """Slope ``k`` within ``0.5 / k`` of the threshold and zero beyond: peak k, total rise 1."""
    return Surrogate(boxcar_smooth, boxcar_slope, k, kinks=(-0.5, 0.5))


#: Every surrogate by its name; all contract, gradient and documentation tests run over it.
SURROGATES: dict[str, Callable[..., Surrogate]] = {
    make.__name__: make for make in (atan, sigmoid, fast_sigmoid, exponential, triangle, boxcar)
}
