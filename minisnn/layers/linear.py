"""Sums, step by step: Linear, of all inputs times weights, and Add, of two branches."""

from __future__ import annotations

from typing import Any

from ..kernels import compiled_helpers
from ..kernels.arrays import Array, is_steady, positive_int
from ..kernels.products import multiply
from .base import Back, Cache, Layer, as_input, at_every_step, require

__all__ = ["Add", "Linear"]


class Linear(Layer):
    """Synapses: ``y[t] = x[t] @ weight (+ bias)``.

    There is no bias unless it is given: with a learning threshold it would be a second offset.  An
    input that is the same at every step (``ms.encode.Constant``) is multiplied once.

    Parameters
    ----------
    n_in, n_out : sizes; input ``[T, B, n_in]``, output ``[T, B, n_out]``, weight ``[n_in, n_out]``.
    bias : whether to add a bias ``[n_out]``, zero at first; or its values.
    rng : ``numpy.random.Generator`` for the initial weights, U(-1/sqrt(n_in), 1/sqrt(n_in))
        (PyTorch's default, the STL-SNN authors' choice).
    weight : the weights themselves ``[n_in, n_out]``, instead of `rng`; PyTorch's ``Linear.weight``
        is ``[out, in]``, so give its transpose.
    dtype : "float32" or "float64".

    Raises
    ------
    TypeError, ValueError : a size is no whole number of at least 1; neither `rng` nor `weight` is
        given; `weight` or `bias` has another shape.
    """

    def __init__(self, n_in, n_out, *, bias=False, rng=None, weight=None, dtype="float32") -> None:
        super().__init__(dtype)
        n_in, n_out = positive_int("Linear: n_in", n_in), positive_int("Linear: n_out", n_out)
        self._set_weights(weight, (n_in, n_out), n_in, rng)
        self._set_bias(bias, n_out)

    def forward(self, x, *, state=None, train=False, rng=None) -> tuple[Array, Cache]:
        """``[T, B, n_in] -> [T, B, n_out]``; `x` of the layer's dtype, or spikes (uint8, bool)."""
        weight = self.params["weight"]
        sparse: Any = compiled_helpers(self.backend, "spike_matmul")
        x = as_input(x, self, weight.shape[:1], steady=True)
        steps = x[:1] if is_steady(x) else x
        rows = steps.reshape(-1, x.shape[2])
        # An index of few spikes: sums of rows then take the place of products.
        entries = None if sparse is None else sparse.active_entries(rows, weight.shape[1])
        if entries is None:
            y = multiply(rows, weight)  # (linear.1)
        else:
            y = sparse.add_rows(entries, weight)
        if "bias" in self.params:
            y += self.params["bias"]  # (linear.2)
        y = at_every_step(y.reshape(*steps.shape[:2], -1), len(x))
        return y, self.keep(y, shape=x.shape, rows=rows, weight=weight, entries=entries)

    def backward(self, d_y, cache, *, d_state=None, wrt=None, input_grad=True) -> Back:
        """Gradients of the input, and of ``weight`` and ``bias`` summed over time and batch."""
        d_y, needed = self.checked(d_y, cache, wrt)
        rows, weight, grads = cache.rows, cache.weight, {}
        d_all = d_y.reshape(-1, weight.shape[1])
        once = len(rows) < len(d_all)
        d_rows = d_y.sum(axis=0) if once and needed else d_all  # (linear.6)
        if "weight" in needed and cache.entries is None:
            grads["weight"] = multiply(rows.T, d_rows)  # (linear.3)
        elif "weight" in needed:
            sparse: Any = compiled_helpers(self.backend, "spike_matmul")
            grads["weight"] = sparse.add_rows(sparse.transposed(cache.entries), d_rows)
        if "bias" in needed:
            grads["bias"] = d_rows.sum(axis=0)  # (linear.4)
        d_x = multiply(d_all, weight.T).reshape(cache.shape) if input_grad else None  # (linear.5)
        return d_x, grads

    def out_shape(self, in_shape: tuple[int, ...] | None) -> tuple[int, ...]:
        n_in, n_out = self.params["weight"].shape
        if in_shape not in (None, (n_in,)):
            raise ValueError(f"takes {[n_in]} per sample and step, got {list(in_shape or ())}")
        return (n_out,)

    @classmethod
    def rebuild(cls, config, params, dtype, custom) -> Any:
        weight, bias = params["weight"], "bias" in params
        return cls(*weight.shape, weight=weight, bias=bias, dtype=dtype)._load(params)

    def _describe(self) -> str:
        n_in, n_out = self.params["weight"].shape
        return f"{n_in} -> {n_out}: y = x @ weight" + (" + bias" if "bias" in self.params else "")


class Add(Layer):
    """``y = x + output of an earlier layer``, a residual connection: a signal bypasses layers.

    ``Network(fc1=..., lif1=..., fc2=..., lif2=..., sum=ms.Add("lif1"), ...)`` adds the spikes of
    ``lif1`` to those of ``lif2``.  Sums of spikes are numbers: the output has the net's dtype.

    Parameters
    ----------
    source : name of the earlier layer; its output must have the shape of the input.
    """

    source: str
    options = ("source",)

    def __init__(self, source: str, *, dtype: Any = "float32") -> None:
        super().__init__(dtype)
        example = "the name of an earlier layer, e.g. Add('lif1')"
        require(isinstance(source, str), "Add: source", example, source, TypeError)
        self.source = source

    def forward(self, x, *, state=None, train=False, rng=None, other=None) -> tuple[Array, Any]:
        """``x + other``, both ``[T, B, ...]``; `other` comes from the network."""
        if other is None:
            raise TypeError(f"Add: needs other=, which a Network takes from {self.source!r}")
        x = as_input(x, self)
        other = as_input(other, self, x.shape[2:])
        y = x.astype(self.dtype, copy=False) + other
        return y, self.keep(y)

    def backward(self, d_y, cache, *, d_state=None, wrt=None, input_grad=True) -> Back:
        """The gradient as it is; ``Network.backward`` gives the same to the other branch."""
        d_y, _ = self.checked(d_y, cache, wrt)
        return d_y if input_grad else None, {}
