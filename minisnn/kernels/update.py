"""One pass over a parameter for a whole step of Adam: bit for bit what NumPy computes in ten passes."""

from __future__ import annotations

from functools import cache

import numpy as np

from .contract import Array
from .jit import WHOLE, Loop, U, reads, real, writes
from .native import compile_loop
from .threads import share_out

__all__ = ["adam"]

TILE = 1 << 14


def adam(param: Array, grad: Array, mean: Array, square: Array, numbers: tuple[float, ...]) -> None:
    """Update `param` and its moments in place.

    `numbers` : weight decay, b1, 1 - b1, b2, 1 - b2, root of the second bias correction, eps, rate over the first one.
    """
    tiles = -(-param.size // TILE)
    work = _adam_loop(param.dtype)(param, grad, mean, square, *numbers, param.size)
    share_out(work, tiles, param.size)


@cache
def _adam_loop(dtype: np.dtype) -> Loop:
    def adam_loop(param, grad, mean, square, decay, b1, rest1, b2, rest2, correction, eps, rate, size, lo, hi):
        for i in range(U(lo * TILE), U(min(hi * TILE, size))):
            g = grad[i]
            if decay != 0:
                g = g + decay * param[i]
            mean[i] = mean[i] * b1 + rest1 * g
            square[i] = square[i] * b2 + rest2 * (g * g)
            param[i] -= rate * (mean[i] / (np.sqrt(square[i]) / correction + eps))

    out = writes(dtype)
    return compile_loop(adam_loop, (out, reads(dtype), out, out, *(real(dtype),) * 8, WHOLE))
