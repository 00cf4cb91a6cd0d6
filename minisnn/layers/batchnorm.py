"""BatchNorm2d: each channel is brought to mean 0 and variance 1, then scaled and shifted as it learns."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from ..kernels import compiled_helpers, normal
from ..kernels.arrays import Array, positive_int
from .base import Back, Config, Layer, Names, as_cache, as_input, as_upstream

__all__ = ["BatchNorm2d", "NormCache"]

OVER = {"step": (1, 3, 4), "time_batch": (0, 1, 3, 4)}


class NormCache(NamedTuple):
    """Kept: the normalised input, one over the standard deviation, ``gamma`` as it was; whether the batch gave the
    statistics; and the running statistics as they would be after this run (``net.commit`` applies them).
    """

    made_with: tuple[Any, ...]
    x_hat: Array
    inverse: Array
    gamma: Array
    train: bool
    buffers: dict[str, Array]


class BatchNorm2d(Layer):
    """``y = gamma * scale * (x - mean) / sqrt(var + eps) + beta``, for every channel.

    In training mean and (biased) variance are those of the batch; otherwise the running ones.  A training run does not write
    the running statistics: it puts new ones into its cache, and ``net.commit(caches)`` applies them (``fit`` does).

    Parameters
    ----------
    c : channels; input ``[T, B, c, H, W]``.
    over : "step": statistics of every step by itself, over B, H and W, and T updates of the running ones in a forward (the
        STL-SNN authors' choice); "time_batch": over T as well, and one update.
    scale : a fixed factor, e.g. ``alpha * V_th`` for threshold-dependent normalisation (Zheng et al. 2021).
    momentum : weight of new statistics, ``running = (1 - momentum) * running + momentum * new``; the new variance is the
        unbiased one (PyTorch's rule).
    eps : added to the variance.

    Raises
    ------
    ValueError : `c` is no whole number, `over` none of the two, a number is out of range; or in training, a channel has a
        single value, whose variance is 0.
    """

    def __init__(
        self, c: int, *, over: str = "step", scale: float = 1.0, momentum: float = 0.1, eps: float = 1e-5,
        dtype: Any = "float32",
    ) -> None:  # fmt: skip
        super().__init__(dtype)
        c = positive_int("BatchNorm2d: c, the channels,", c)
        if over not in OVER:
            raise ValueError(f"BatchNorm2d: over must be one of {', '.join(map(repr, OVER))}, got {over!r}")
        for name, value, most in (("scale", scale, math.inf), ("momentum", momentum, 1), ("eps", eps, math.inf)):
            if not isinstance(value, int | float | np.number) or not 0 < value <= most or value == math.inf:
                raise ValueError(f"BatchNorm2d: {name} must be a number > 0{' and <= 1' * (most == 1)}, got {value!r}")
        self.over, self.scale, self.momentum, self.eps = over, float(scale), float(momentum), float(eps)
        self.params = {"gamma": np.ones(c, self.dtype), "beta": np.zeros(c, self.dtype)}
        self.roles = dict.fromkeys(self.params, "synapse")
        self.buffers = {"running_mean": np.zeros(c, self.dtype), "running_var": np.ones(c, self.dtype)}

    def made_with(self) -> tuple[Any, ...]:
        return len(self.params["gamma"]), self.over, self.scale

    def forward(self, x: Array, *, state: Any = None, train: bool = False, rng: Any = None) -> tuple[Array, NormCache]:
        """``[T, B, c, H, W]``, the same shape out; `train`: statistics of the batch instead of the running ones."""
        gamma, number = self.params["gamma"], self.dtype.type
        x = as_input(x, self, (len(gamma), "H", "W")).astype(self.dtype, copy=False)
        grouped, buffers = self._grouped(x), self.buffers
        if train:
            mean, var = self._passes.statistics(grouped)
            buffers = self._updated(mean, var, x.size // mean.size)
        else:
            mean, var = buffers["running_mean"][None], buffers["running_var"][None]
        inverse, gain = 1 / np.sqrt(var + number(self.eps)), gamma * number(self.scale)
        x_hat, y = self._passes.normalise(grouped, mean, inverse, gain, self.params["beta"])
        cache = NormCache(self.made_with(), x_hat.reshape(x.shape), inverse, gamma, train, buffers)
        return y.reshape(x.shape), cache

    @property
    def _passes(self) -> ModuleType:
        """The passes over the maps, compiled or in NumPy."""
        return compiled_helpers(self.backend, "batchnorm") or normal

    def backward(self, d_y: Array, cache: NormCache, *, d_state=None, wrt: Names = None, input_grad: bool = True) -> Back:
        """Through the statistics too, where the batch gave them."""
        _, x_hat, inverse, gamma, train, _ = as_cache(cache, NormCache, self)
        wanted, gain = self._wanted(wrt), gamma * self.dtype.type(self.scale)
        d_maps, x_hat_maps = self._grouped(as_upstream(d_y, x_hat.shape, self)), self._grouped(x_hat)
        d_x, along, sums = self._passes.normalise_back(d_maps, x_hat_maps, inverse, gain, train, input_grad)
        found = {"gamma": self.dtype.type(self.scale) * along.sum(axis=0), "beta": sums.sum(axis=0)}  # (norm.4) (norm.5)
        return None if d_x is None else d_x.reshape(x_hat.shape), {n: d for n, d in found.items() if n in wanted}

    def _grouped(self, x: Array) -> Array:
        """``[G, R, c, M]``: statistics for each of G groups and c channels, over R repetitions and M positions."""
        steps, batch, c, *size = x.shape
        return x.reshape(*((steps, batch) if self.over == "step" else (1, steps * batch)), c, math.prod(size))

    def _updated(self, mean: Array, var: Array, n: int) -> dict[str, Array]:
        """The running statistics after these, a step at a time."""
        if n < 2:
            raise ValueError("BatchNorm2d: training needs more than one value per channel: a variance of one value is 0")
        keep, new = self.dtype.type(1 - self.momentum), self.dtype.type(self.momentum)
        found = dict(self.buffers)
        for m, v in zip(mean, var, strict=True):
            found["running_mean"] = keep * found["running_mean"] + new * m
            found["running_var"] = keep * found["running_var"] + new * (v * self.dtype.type(n / (n - 1)))
        return found

    def twin(  # type: ignore[override]
        self, x: Array, base: NormCache, fire: str, *, state: Any = None
    ) -> tuple[Array, NormCache]:
        """In training or not, as the base run was."""
        return self.forward(x, train=base.train)

    def config(self) -> dict[str, Any]:
        return {"over": self.over, "scale": self.scale, "momentum": self.momentum, "eps": self.eps}

    @classmethod
    def rebuild(cls, config: Config, params: Mapping[str, Array], dtype: Any, custom: Config) -> BatchNorm2d:
        layer = cls(len(params["gamma"]), dtype=dtype, **config)
        return layer._load(params)  # type: ignore[return-value]

    def _describe(self) -> str:
        scale = "" if self.scale == 1 else f", scale {self.scale:g}"
        return f"{len(self.params['gamma'])} channels, statistics over {'T, ' * (self.over != 'step')}B, H, W{scale}"
