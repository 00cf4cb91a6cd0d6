"""One pass over a parameter for a whole step of Adam: bit for bit what NumPy computes in ten passes."""

from __future__ import annotations

from functools import cache, partial

import numba
import numpy as np
from numba import types

from .contract import Array
from .jit import array_type, compile_loop, helper
from .threads import share_out

__all__ = ["adam"]

TILE = 1 << 14


def adam(param: Array, grad: Array, mean: Array, square: Array, numbers: tuple[float, ...]) -> None:
    """Update `param` and its moments in place.

    `numbers` : weight decay, b1, 1 - b1, b2, 1 - b2, root of the second bias correction, eps, rate over the first one.
    """
    tiles = -(-param.size // TILE)
    values = [param.dtype.type(n) for n in numbers]
    work = partial(_adam_loop(param.dtype), *(a.reshape(-1) for a in (param, grad, mean, square)), *values)
    share_out(work, tiles, param.size)


@cache
def _adam_loop(dtype: np.dtype):
    def adam_loop(param, grad, mean, square, decay, b1, rest1, b2, rest2, correction, eps, rate, lo, hi):
        for tile in range(lo, hi):
            at = slice(tile * TILE, tile * TILE + TILE)
            step(param[at], grad[at], mean[at], square[at], decay, b1, rest1, b2, rest2, correction, eps, rate)

    @helper
    def step(param, grad, mean, square, decay, b1, rest1, b2, rest2, correction, eps, rate):
        for i in range(param.shape[0]):
            g = grad[i]
            if decay != 0:
                g = g + decay * param[i]
            mean[i] = mean[i] * b1 + rest1 * g
            square[i] = square[i] * b2 + rest2 * (g * g)
            param[i] -= rate * (mean[i] / (np.sqrt(square[i]) / correction + eps))

    value = numba.from_dtype(dtype)
    live, given = array_type(dtype, False), array_type(dtype)
    return compile_loop(adam_loop, (live, given, live, live, *(value,) * 8, types.intp, types.intp))
