"""Chunked time: keep the states at the borders of sqrt(T) chunks, and run each chunk again when its gradient is due.

Memory grows with sqrt(T) instead of T, for about one more forward run (Chen et al. 2016, *Training Deep Nets with Sublinear
Memory Cost*, arXiv 1604.06174).  The runs are the same, so spikes and membranes are the same bits; sums over time are added
up chunk by chunk.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from . import pool
from .contract import Array, Kernel, Wanted
from .place import writeable

__all__ = ["ChunkedScan", "adjoint_in_chunks", "scan_in_chunks"]


class ChunkedScan(NamedTuple):
    """Kept: the input ``x``, the ``spikes``, and the states before the first step of each chunk of `size` steps."""

    kernel: Kernel
    x: Array
    spikes: Array
    borders: list[Array | None]
    size: int
    theta: Array
    params: Array
    k: float
    fire: str

    @property
    def u(self) -> Array:
        """All membranes, computed again: ``[K, T, B, N]``."""
        return self.kernel.scan(self.x, self.borders[0], self.theta, self.params, self.k, self.fire)[2].u


def scan_in_chunks(
    kernel: Kernel, x: Array, state0: Array | None, theta: Array, params: Array, k: float, fire: str, keep: bool = True
) -> tuple[Array, Array, ChunkedScan]:
    """As :meth:`Kernel.scan`; unless `keep`, the spikes are not put together, and those returned are without meaning."""
    size = math.isqrt(len(x) - 1) + 1
    dtype = np.dtype(np.uint8) if fire == "step" else x.dtype
    spikes = pool.empty(x.shape, dtype, x) if keep else np.broadcast_to(dtype.type(0), x.shape)
    state, borders = state0, list[Array | None]()
    for start in range(0, len(x), size):
        borders.append(state)
        found, state, run = kernel.scan(x[start : start + size], state, theta, params, k, fire)
        if keep:
            spikes[start : start + size] = found
        del found, run  # its memory is the next chunk's
    assert state is not None
    return spikes, state, ChunkedScan(kernel, x, spikes, borders, size, theta, params, k, fire)


def adjoint_in_chunks(
    d_spikes: Array, d_last: Array | None, cache: ChunkedScan, wanted: Wanted, consume: bool
) -> tuple[Array | None, Array | None, Array | None, Array | None]:
    """As :meth:`Kernel.scan_adjoint`."""
    kernel, x, _, borders, size, theta, params, k, fire = cache
    over = consume and writeable(d_spikes)
    d_x = (d_spikes if over else pool.empty_like(x)) if wanted.x else None
    d_state, d_theta, d_params = d_last, None, None
    for i in reversed(range(len(borders))):
        part = slice(i * size, i * size + size)
        again = kernel.scan(x[part], borders[i], theta, params, k, fire, last=False)[2]
        asked = wanted._replace(state=i > 0 or wanted.state)
        d_part, d_state, d_theta_part, d_params_part = kernel.scan_adjoint(d_spikes[part], d_state, again, asked, over)
        if d_x is not None and not over:
            d_x[part] = d_part
        del again, d_part
        d_theta = d_theta_part if d_theta is None else d_theta + d_theta_part
        d_params = d_params_part if d_params is None else d_params + d_params_part
    return d_x, d_state if wanted.state else None, d_theta, d_params
