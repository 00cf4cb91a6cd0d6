"""Normalisation in NumPy: the formulas, which the compiled passes use too, and the passes.

Maps are ``[G, R, C, M]``, statistics ``[G, C]``; :mod:`minisnn.kernels.batchnorm` has the same
functions.
"""

from __future__ import annotations

from .arrays import Array


def standardise(x: Array, mean: Array, inverse: Array) -> Array:
    """`inverse` : 1 / the standard deviation."""
    return (x - mean) * inverse  # (norm.2)


def scale_and_shift(x_hat: Array, gain: Array, beta: Array) -> Array:
    """`gain` : gamma and the fixed factor."""
    return gain * x_hat + beta  # (norm.3)


def standardise_adjoint(
    d_y: Array, x_hat: Array, factor: Array, mean: Array, mean_along: Array
) -> Array:
    """Back through both: `factor` is gain * inverse, the means are those of d_y and d_y * x_hat."""
    return factor * (d_y - mean - x_hat * mean_along)  # (norm.6)


def statistics(x: Array) -> tuple[Array, Array]:
    """Mean and (biased) variance of each group and channel."""
    return x.mean(axis=(1, 3)), x.var(axis=(1, 3))  # (norm.1)


def normalise(
    x: Array, mean: Array, inverse: Array, gain: Array, beta: Array
) -> tuple[Array, Array]:
    """``(x_hat, y)``."""
    x_hat = standardise(x, _maps(mean), _maps(inverse))
    return x_hat, scale_and_shift(x_hat, _maps(gain[None]), _maps(beta[None]))


def normalise_back(
    d_y: Array, x_hat: Array, inverse: Array, gain: Array, through: bool, want_x: bool
) -> tuple[Array | None, Array, Array]:
    """``(d_x, sums of d_y * x_hat, sums of d_y)``; `through` the statistics, if of the batch."""
    along, sums = (d_y * x_hat).sum(axis=(1, 3)), d_y.sum(axis=(1, 3))
    if not want_x:
        return None, along, sums
    # Running statistics are constants.
    share = d_y.dtype.type(1 / (d_y.shape[1] * d_y.shape[3]) if through else 0)
    means = _maps(share * sums), _maps(share * along)
    return standardise_adjoint(d_y, x_hat, _maps(inverse * gain), *means), along, sums


def _maps(values: Array) -> Array:
    """``[G, C]``, to meet ``[G, R, C, M]``."""
    return values[:, None, :, None]
