"""BatchNorm2d: each channel is brought to mean 0 and variance 1, then scaled and shifted as it learns."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ..kernels.contract import Array, whole
from ..kernels.normal import scale_and_shift, standardise, standardise_adjoint
from ..kernels.place import writeable
from .base import Config, Grads, Layer, Names, as_cache, as_input, as_upstream

__all__ = ["BatchNorm2d", "NormCache"]

OVER = {"step": (1, 3, 4), "time_batch": (0, 1, 3, 4)}


class NormCache(NamedTuple):
    """Kept: the normalised input, one over the standard deviation, ``gamma`` as it was; whether the batch gave the
    statistics; and the running statistics as they would be after this run (``net.commit`` applies them).
    """

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

    gives_away = True

    def __init__(
        self, c: int, *, over: str = "step", scale: float = 1.0, momentum: float = 0.1, eps: float = 1e-5,
        dtype: Any = "float32",
    ) -> None:  # fmt: skip
        super().__init__(dtype)
        c = whole("BatchNorm2d: c, the channels,", c)
        if over not in OVER:
            raise ValueError(f"BatchNorm2d: over must be one of {', '.join(map(repr, OVER))}, got {over!r}")
        for name, value, most in (("scale", scale, math.inf), ("momentum", momentum, 1), ("eps", eps, math.inf)):
            if not isinstance(value, int | float | np.number) or not 0 < value <= most or value == math.inf:
                raise ValueError(f"BatchNorm2d: {name} must be a number > 0{' and <= 1' * (most == 1)}, got {value!r}")
        self.over, self.scale, self.momentum, self.eps = over, float(scale), float(momentum), float(eps)
        self.params = {"gamma": np.ones(c, self.dtype), "beta": np.zeros(c, self.dtype)}
        self.roles = dict.fromkeys(self.params, "synapse")
        self.buffers = {"running_mean": np.zeros(c, self.dtype), "running_var": np.ones(c, self.dtype)}

    def forward(self, x: Array, *, state: Any = None, train: bool = False, rng: Any = None) -> tuple[Array, NormCache]:
        """``[T, B, c, H, W]``, the same shape out; `train`: statistics of the batch instead of the running ones."""
        return self._forward(x, train, False)

    def forward_once(self, x: Array, spent: bool, **options: Any) -> tuple[Array, NormCache]:
        return self._forward(x, options.get("train", False), spent)

    def _forward(self, x: Array, train: bool, spent: bool) -> tuple[Array, NormCache]:
        gamma, number = self.params["gamma"], self.dtype.type
        given = as_input(x, self, (len(gamma), "H", "W"))
        x = given.astype(self.dtype, copy=False)
        if self.backend == "numba":
            return self._forward_compiled(x, train, spent or x is not given)
        buffers = self.buffers
        if train:
            axes = OVER[self.over]
            mean, var = x.mean(axis=axes, keepdims=True), x.var(axis=axes, keepdims=True)  # (norm.1)
            buffers = self._updated(mean, var, x.size // mean.size)
        else:
            mean, var = (_per_channel(buffers[n]) for n in ("running_mean", "running_var"))
        inverse = 1 / np.sqrt(var + number(self.eps))
        x_hat = standardise(x, mean, inverse)
        y = scale_and_shift(x_hat, _per_channel(gamma * number(self.scale)), _per_channel(self.params["beta"]))
        return y, NormCache(x_hat, inverse, gamma, train, buffers)

    # -- the same, compiled: minisnn.kernels.maps sees [G, R, C, M], statistics for each of G groups over R and M

    def _grouped(self, x: Array) -> Array:
        steps, batch, c, *size = x.shape
        return x.reshape(*((steps, batch) if self.over == "step" else (1, steps * batch)), c, math.prod(size))

    def _forward_compiled(self, x: Array, train: bool, spent: bool) -> tuple[Array, NormCache]:
        from ..kernels import maps

        grouped, number, buffers = self._grouped(x), self.dtype.type, self.buffers
        if train:
            mean, var = maps.statistics(grouped)
            buffers = self._updated(mean[:, None], var[:, None], grouped.shape[1] * grouped.shape[3])
        else:
            mean, var = buffers["running_mean"][None], buffers["running_var"][None]
        inverse = 1 / np.sqrt(var + number(self.eps))
        gain = self.params["gamma"] * number(self.scale)
        x_hat, y = maps.normalise(grouped, mean, inverse, gain, self.params["beta"], spent and writeable(grouped))
        return y.reshape(x.shape), NormCache(x_hat.reshape(x.shape), inverse, self.params["gamma"], train, buffers)

    def backward_once(self, d_y: Array, cache: NormCache, spent: bool, **options: Any) -> tuple[Array | None, Grads]:
        return self._backward(d_y, cache, options.get("wrt"), options.get("input_grad", True), spent)

    def _backward(
        self, d_y: Array, cache: NormCache, wrt: Names, input_grad: bool, spent: bool
    ) -> tuple[Array | None, Grads]:
        x_hat, inverse, gamma, train, _ = as_cache(cache, NormCache, self)
        if self.backend != "numba":
            return self._backward_arrays(d_y, cache, wrt, input_grad)
        from ..kernels import maps

        wanted, scale = self._wanted(wrt), self.dtype.type(self.scale)
        d_y = self._grouped(as_upstream(d_y, x_hat.shape, self))
        d_x, along, sums = maps.normalise_back(d_y, self._grouped(x_hat), inverse, gamma * scale, train, input_grad, spent)
        found = {"gamma": scale * along.sum(axis=0), "beta": sums.sum(axis=0)}
        return None if d_x is None else d_x.reshape(x_hat.shape), {n: d for n, d in found.items() if n in wanted}

    def _updated(self, mean: Array, var: Array, n: int) -> dict[str, Array]:
        """The running statistics after these, a step at a time."""
        if n < 2:
            raise ValueError("BatchNorm2d: training needs more than one value per channel: a variance of one value is 0")
        keep, new = self.dtype.type(1 - self.momentum), self.dtype.type(self.momentum)
        found = dict(self.buffers)
        for m, v in zip(mean.reshape(-1, mean.shape[2]), var.reshape(-1, var.shape[2]), strict=True):
            found["running_mean"] = keep * found["running_mean"] + new * m
            found["running_var"] = keep * found["running_var"] + new * (v * self.dtype.type(n / (n - 1)))
        return found

    def backward(
        self, d_y: Array, cache: NormCache, *, d_state: Any = None, wrt: Names = None, input_grad: bool = True
    ) -> tuple[Array | None, Grads]:
        """Through the statistics too, where the batch gave them."""
        return self._backward(d_y, cache, wrt, input_grad, False)

    def _backward_arrays(self, d_y: Array, cache: NormCache, wrt: Names, input_grad: bool) -> tuple[Array | None, Grads]:
        x_hat, inverse, gamma, train, _ = cache
        wanted, scale = self._wanted(wrt), self.dtype.type(self.scale)
        d_y = as_upstream(d_y, x_hat.shape, self)
        grads: Grads = {}
        if "gamma" in wanted:
            grads["gamma"] = scale * (d_y * x_hat).sum(axis=(0, 1, 3, 4))  # (norm.4)
        if "beta" in wanted:
            grads["beta"] = d_y.sum(axis=(0, 1, 3, 4))  # (norm.5)
        if not input_grad:
            return None, grads
        mean, mean_along = scale * 0, scale * 0  # running statistics are constants
        if train:
            axes = OVER[self.over]
            mean, mean_along = d_y.mean(axis=axes, keepdims=True), (d_y * x_hat).mean(axis=axes, keepdims=True)
        return standardise_adjoint(d_y, x_hat, inverse * _per_channel(gamma * scale), mean, mean_along), grads

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


def _per_channel(values: Array) -> Array:
    return values[:, None, None]
