"""Linear: every output is a weighted sum of every input, step by step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ..kernels.contract import Array, whole
from ..kernels.products import Rows, dense
from .base import Config, Grads, Layer, Names, as_cache, as_input, as_upstream

__all__ = ["Linear", "LinearCache"]


class LinearCache(NamedTuple):
    """Kept: the input ``x`` as it came (spikes stay bytes), its ``rows`` ready for products, the ``weight`` it met."""

    x: Array
    rows: Rows
    weight: Array


class Linear(Layer):
    """Synapses: ``y[t] = x[t] @ weight (+ bias)``.

    There is no bias unless asked for: with a learning threshold it would be a second offset.

    Parameters
    ----------
    n_in, n_out : sizes; input ``[T, B, n_in]``, output ``[T, B, n_out]``, weight ``[n_in, n_out]``.
    bias : whether to add a bias ``[n_out]``, zero at first; or its values.
    rng : ``numpy.random.Generator`` for the initial weights, U(-1/sqrt(n_in), 1/sqrt(n_in)) (PyTorch's default, the
        STL-SNN authors' choice).
    weight : the weights themselves ``[n_in, n_out]``, instead of `rng`; PyTorch's ``Linear.weight`` is ``[out, in]``, so
        hand over its transpose.
    dtype : "float32" or "float64".

    Raises
    ------
    TypeError, ValueError : a size is no whole number of at least 1; neither `rng` nor `weight` is given; `weight` or `bias`
        has another shape.
    """

    gives_away = True

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        bias: bool | Array = False,
        rng: np.random.Generator | None = None,
        weight: Array | None = None,
        dtype: Any = "float32",
    ) -> None:
        super().__init__(dtype)
        n_in, n_out = whole("Linear: n_in", n_in), whole("Linear: n_out", n_out)
        self._set_weights("weight", weight, (n_in, n_out), n_in, rng)
        if bias is not False:
            self._set("bias", np.zeros(n_out) if bias is True else bias, (n_out,))

    @classmethod
    def rebuild(cls, config: Config, params: Mapping[str, Array], dtype: Any, custom: Config) -> Linear:
        weight = params["weight"]
        layer = cls(*weight.shape, weight=weight, bias="bias" in params, dtype=dtype)
        return layer._load(params)  # type: ignore[return-value]

    def forward(self, x: Array, *, state: Any = None, train: bool = False, rng: Any = None) -> tuple[Array, LinearCache]:
        """``[T, B, n_in] -> [T, B, n_out]``; `x` of the layer's dtype, or spikes (uint8, bool)."""
        weight = self.params["weight"]
        x = as_input(x, self, weight.shape[:1])
        rows = Rows(x.reshape(-1, x.shape[2]), self.dtype, weight.shape[1], self.backend)
        y = rows @ weight  # (linear.1)
        if "bias" in self.params:
            y += self.params["bias"]  # (linear.2)
        return y.reshape(*x.shape[:2], -1), LinearCache(x, rows, weight)

    def backward(
        self, d_y: Array, cache: LinearCache, *, d_state: Any = None, wrt: Names = None, input_grad: bool = True
    ) -> tuple[Array | None, Grads]:
        """Gradients of the input, and of ``weight`` and ``bias`` summed over time and batch."""
        x, rows, weight = as_cache(cache, LinearCache, self)
        wanted = self._wanted(wrt)
        d_rows = as_upstream(d_y, (*x.shape[:2], weight.shape[1]), self).reshape(-1, weight.shape[1])
        grads = {}
        if "weight" in wanted:
            grads["weight"] = rows.T @ d_rows  # (linear.3)
        if "bias" in wanted:
            grads["bias"] = d_rows.sum(axis=0)  # (linear.4)
        d_x = dense(d_rows, weight.T).reshape(x.shape) if input_grad else None  # (linear.5)
        return d_x, grads

    def out_shape(self, in_shape: tuple[int, ...] | None) -> tuple[int, ...]:
        n_in, n_out = self.params["weight"].shape
        if in_shape not in (None, (n_in,)):
            raise ValueError(f"takes {[n_in]} per sample and step, got {list(in_shape or ())}")
        return (n_out,)

    def _describe(self) -> str:
        n_in, n_out = self.params["weight"].shape
        return f"{n_in} -> {n_out}: y = x @ weight" + (" + bias" if "bias" in self.params else "")
