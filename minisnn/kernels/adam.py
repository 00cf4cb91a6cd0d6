"""One pass over a parameter for a whole step of Adam: bit for bit what NumPy computes in ten passes."""

from __future__ import annotations

import numpy as np

from .arrays import Array
from .jit import Loop, U, read_only
from .threads import share

__all__ = ["adam"]


def adam(param: Array, grad: Array, mean: Array, square: Array, numbers: tuple[float, ...]) -> None:
    """Update `param` and its moments in place; all four arrays are C-contiguous, of one shape and dtype.

    `numbers` : weight decay, b1, 1 - b1, b2, 1 - b2, root of the second bias correction, eps, rate over the first one.

    Raises ValueError, before anything is written, if an array does not fit the parameter.
    """
    for name, array in {"param": param, "grad": grad, "mean": mean, "square": square}.items():
        if (array.shape, array.dtype) != (param.shape, param.dtype) or not array.flags.c_contiguous:
            raise ValueError(f"adam: {name} must be C-contiguous, {param.dtype}{list(param.shape)} as the parameter")
        if array is not grad and not array.flags.writeable:
            raise ValueError(f"adam: {name} is read-only")
    param, grad, mean, square = (a.reshape(-1) for a in (param, read_only(grad), mean, square))
    rounded = [param.dtype.type(n) for n in numbers]
    share(lambda first, last: adam_loop(param, grad, mean, square, *rounded, first, last), param.size, param.size)


@Loop
def adam_loop(param, grad, mean, square, decay, b1, rest1, b2, rest2, correction, eps, rate, first, last):
    for i in range(U(first), U(last)):
        g = grad[i]
        if decay != 0:
            g = g + decay * param[i]
        m, s = mean[i] * b1 + rest1 * g, square[i] * b2 + rest2 * (g * g)
        mean[i], square[i] = m, s
        param[i] -= rate * (m / (np.sqrt(s) / correction + eps))
