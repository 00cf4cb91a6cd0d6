"""The formulas of normalisation, for numbers and for arrays: the layer in NumPy and the compiled passes use the same."""

from __future__ import annotations

from .arrays import Array

__all__ = ["scale_and_shift", "standardise", "standardise_adjoint"]


def standardise(x: Array, mean: Array, inverse: Array) -> Array:
    """`inverse` : 1 / the standard deviation."""
    return (x - mean) * inverse  # (norm.2)


def scale_and_shift(x_hat: Array, gain: Array, beta: Array) -> Array:
    """`gain` : gamma and the fixed factor."""
    return gain * x_hat + beta  # (norm.3)


def standardise_adjoint(d_y: Array, x_hat: Array, factor: Array, mean: Array, mean_along: Array) -> Array:
    """Back through both: `factor` is gain * inverse, the means are those of ``d_y`` and ``d_y * x_hat``."""
    return factor * (d_y - mean - x_hat * mean_along)  # (norm.6)
