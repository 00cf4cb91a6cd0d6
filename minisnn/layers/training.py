"""What behaves otherwise in training: BatchNorm2d takes the batch's statistics, Dropout draws."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import numpy as np

from ..kernels import compiled_helpers, normal
from ..kernels.arrays import Array, positive_int, uniform
from .base import Back, Cache, Layer, as_input, require

__all__ = ["BatchNorm2d", "Dropout"]

OVER = ("step", "time_batch")


class BatchNorm2d(Layer):
    """``y = gamma * scale * (x - mean) / sqrt(var + eps) + beta``, for every channel.

    In training mean and (biased) variance are those of the batch; otherwise the running ones.  A
    training run does not write the running statistics: it puts new ones into its cache, and
    ``net.commit(caches)`` applies them (``fit`` does).

    Parameters
    ----------
    c : channels; input ``[T, B, c, H, W]``.
    over : "step": statistics of every step by itself, over B, H and W, and T updates of the running
        ones in a forward (the STL-SNN authors' choice); "time_batch": over T as well, one update.
    scale : a fixed factor, e.g. ``alpha * V_th`` for threshold-dependent normalisation (Zheng et
        al. 2021).
    momentum : weight of new statistics, ``running = (1 - momentum) * running + momentum * new``;
        the new variance is the unbiased one (PyTorch's rule).
    eps : added to the variance.

    Raises
    ------
    ValueError : `c` is no whole number, `over` none of the two, a number is out of range; or in
        training, a channel has a single value, whose variance is 0.
    """

    options = ("over", "scale", "momentum", "eps")
    holds = ("train",)

    def __init__(self, c: int, *, over="step", scale=1.0, momentum=0.1, eps=1e-5, dtype="float32"):
        super().__init__(dtype)
        c = positive_int("BatchNorm2d: c, the channels,", c)
        require(over in OVER, "BatchNorm2d: over", f"one of {OVER}", over)
        for name, value in (("scale", scale), ("momentum", momentum), ("eps", eps)):
            ok = isinstance(value, int | float | np.number) and 0 < value < math.inf
            require(ok, f"BatchNorm2d: {name}", "a number > 0", value)
        require(momentum <= 1, "BatchNorm2d: momentum", "a number > 0 and <= 1", momentum)
        self.over, self.scale = over, float(scale)
        self.momentum, self.eps = float(momentum), float(eps)
        zeros, ones = np.zeros((2, c), self.dtype), np.ones((2, c), self.dtype)
        self.params = {"gamma": ones[0], "beta": zeros[0]}
        self.buffers = {"running_mean": zeros[1], "running_var": ones[1]}

    def forward(self, x, *, state=None, train=False, rng=None) -> tuple[Array, Cache]:
        """``[T, B, c, H, W]``, the same shape out; `train` : statistics of the batch."""
        gamma, number = self.params["gamma"], self.dtype.type
        x = as_input(x, self, (len(gamma), "H", "W")).astype(self.dtype, copy=False)
        passes, grouped, buffers = self._passes, self._grouped(x), self.buffers
        if train:
            mean, var = passes.statistics(grouped)
            buffers = self._updated(mean, var, x.size // mean.size)
        else:
            mean, var = buffers["running_mean"][None], buffers["running_var"][None]
        inverse, gain = 1 / np.sqrt(var + number(self.eps)), gamma * number(self.scale)
        x_hat, y = passes.normalise(grouped, mean, inverse, gain, self.params["beta"])
        y = y.reshape(x.shape)
        kept = {"x_hat": x_hat.reshape(x.shape), "inverse": inverse, "gamma": gamma}
        return y, self.keep(y, **kept, train=train, buffers=buffers)

    def backward(self, d_y, cache, *, d_state=None, wrt=None, input_grad=True) -> Back:
        """Through the statistics too, if the batch gave them."""
        d_y, needed = self.checked(d_y, cache, wrt)
        scale = self.dtype.type(self.scale)
        d_maps, x_maps = self._grouped(d_y), self._grouped(cache.x_hat)
        run = d_maps, x_maps, cache.inverse, cache.gamma * scale, cache.train, input_grad
        d_x, along, sums = self._passes.normalise_back(*run)
        found = {"gamma": scale * along.sum(axis=0), "beta": sums.sum(axis=0)}  # (norm.4) (norm.5)
        grads = {n: d for n, d in found.items() if n in needed}
        return None if d_x is None else d_x.reshape(d_y.shape), grads

    @property
    def _passes(self) -> ModuleType:
        """The passes over the maps, compiled or in NumPy."""
        return compiled_helpers(self.backend, "batchnorm") or normal

    def _grouped(self, x: Array) -> Array:
        """``[G, R, c, M]``: G groups with statistics of their own, R repetitions, M positions."""
        steps, batch, c, *size = x.shape
        groups = (steps, batch) if self.over == "step" else (1, steps * batch)
        return x.reshape(*groups, c, math.prod(size))

    def _updated(self, mean: Array, var: Array, n: int) -> dict[str, Array]:
        """The running statistics after these, a step at a time."""
        if n < 2:
            needed = "training needs more than one value per channel"
            raise ValueError(f"BatchNorm2d: {needed}: a variance of one value is 0")
        number = self.dtype.type
        keep, new, unbiased = map(number, (1 - self.momentum, self.momentum, n / (n - 1)))
        found = dict(self.buffers)
        for m, v in zip(mean, var, strict=True):
            found["running_mean"] = keep * found["running_mean"] + new * m
            found["running_var"] = keep * found["running_var"] + new * (v * unbiased)
        return found

    @classmethod
    def rebuild(cls, config, params, dtype, custom) -> Any:
        return cls(len(params["gamma"]), dtype=dtype, **config)._load(params)

    def _describe(self) -> str:
        scale = "" if self.scale == 1 else f", scale {self.scale:g}"
        over = "B, H, W" if self.over == "step" else "T, B, H, W"
        return f"{len(self.params['gamma'])} channels, statistics over {over}{scale}"


class Dropout(Layer):
    """``y[t] = x[t] * mask[t]``, the mask 0 with probability p and 1 / (1 - p) otherwise.

    Out of training, ``y = x``.

    Parameters
    ----------
    p : probability of being dropped, in [0, 1).
    per_step : a fresh mask at every step (the STL-SNN authors' choice), or one for all steps of a
        sample.
    """

    takes_mask = True
    options = ("p", "per_step")
    holds = ("mask",)  # with another one a twin would be another network

    def __init__(self, p: float = 0.5, *, per_step: bool = True, dtype: Any = "float32") -> None:
        super().__init__(dtype)
        ok = isinstance(p, int | float | np.number) and not isinstance(p, bool) and 0 <= p < 1
        require(ok, "Dropout: p, the probability of being dropped,", "a number in [0, 1)", p)
        self.p, self.per_step = float(p), bool(per_step)

    def forward(self, x, *, state=None, train=False, rng=None, mask=None) -> tuple[Array, Any]:
        """``[T, B, ...] -> [T, B, ...]``; `train` : whether to drop, which needs `rng`.

        `mask` : multiplied as given, the factor 1 / (1 - p) included; its first axis may be 1.
        """
        x = as_input(x, self)
        if mask is None and train and self.p:
            mask = self._drawn(x, rng)
        if mask is None:
            return x, self.keep(x, mask=None)
        mask = np.asarray(mask, self.dtype, like=x)
        if mask.ndim != x.ndim or mask.shape[1:] != x.shape[1:] or len(mask) not in (1, len(x)):
            expected = f"expected {list(x.shape)} or 1 for the first axis"
            raise ValueError(f"Dropout: mask has shape {list(mask.shape)}, {expected}")
        y = x * mask  # (dropout.2)
        return y, self.keep(y, mask=mask)

    def _drawn(self, x: Array, rng: Any) -> Array:
        if not isinstance(rng, np.random.Generator):
            needed = "training draws a mask and needs forward(..., train=True, rng=generator)"
            raise TypeError(f"Dropout: {needed}, got {rng!r}")
        sizes = x.shape if self.per_step else (1, *x.shape[1:])
        kept = uniform(rng, sizes, like=x) >= np.float32(self.p)  # (dropout.1)
        return kept * self.dtype.type(1 / (1 - self.p))

    def backward(self, d_y, cache, *, d_state=None, wrt=None, input_grad=True) -> Back:
        """``d_x = d_y * mask``: the same mask."""
        d_y, _ = self.checked(d_y, cache, wrt)
        d_x = d_y if cache.mask is None else d_y * cache.mask  # (dropout.3)
        return d_x if input_grad else None, {}

    def _describe(self) -> str:
        masks = "a mask each step" if self.per_step else "one mask for all steps"
        return f"p={self.p:g}, {masks}; in training only"
