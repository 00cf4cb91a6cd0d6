"""A whole step of Adam in one pass over a parameter: bit for bit what NumPy does in ten."""

from __future__ import annotations

import numpy as np

from .arrays import Array
from .jit import Loop, U, flat
from .threads import share

__all__ = ["adam"]


def adam(param: Array, grad: Array, mean: Array, square: Array, numbers: tuple[float, ...]) -> None:
    """Update `param` and its moments in place; all four are C-contiguous, of one shape and dtype.

    `numbers` : weight decay, b1, 1 - b1, b2, 1 - b2, root of the second bias correction, eps, rate
    over the first one.

    Raises ValueError, before anything is written, if an array does not fit the parameter.
    """
    for name, array in {"param": param, "grad": grad, "mean": mean, "square": square}.items():
        if (array.shape, array.dtype) != (param.shape, param.dtype) or not array.flags.c_contiguous:
            expected = f"C-contiguous, {param.dtype}{list(param.shape)} as the parameter"
            raise ValueError(f"adam: {name} must be {expected}")
        if array is not grad and not array.flags.writeable:
            raise ValueError(f"adam: {name} is read-only")
    rounded = tuple(param.dtype.type(n) for n in numbers)
    arrays = param.reshape(-1), *flat(grad), mean.reshape(-1), square.reshape(-1)
    share(adam_loop, param.size, param.size, *arrays, rounded)


@Loop
def adam_loop(param, grad, mean, square, numbers, first, last):
    decay, b1, rest1, b2, rest2, correction, eps, rate = numbers
    for i in range(U(first), U(last)):
        g = grad[i]
        if decay != 0:
            g = g + decay * param[i]
        m, s = mean[i] * b1 + rest1 * g, square[i] * b2 + rest2 * (g * g)
        mean[i], square[i] = m, s
        param[i] -= rate * (m / (np.sqrt(s) / correction + eps))
