"""Network: layers one after the other, and backward through them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import dropwhile
from typing import Any

import numpy as np

from .kernels.arrays import Array, positive_int
from .layers import Layer
from .layers.inputs import as_upstream
from .losses import accuracy, predicted
from .rules import Pattern
from .stack import Stack, by_layer, naming

__all__ = ["Caches", "Network", "load", "naming"]

Loss = Callable[[Array, Any], tuple[float, Array]]
Penalty = Callable[[Array], tuple[float, Array]]


class Caches(dict[str, Any]):
    """The layers' caches by name; ``caches.state`` continues where this run ended."""

    @property
    def state(self) -> dict[str, dict[str, Array]]:
        """State after the last step of every layer that has one, for the next ``forward``."""
        found = {name: getattr(cache, "state", None) for name, cache in self.items()}
        return {name: state for name, state in found.items() if state is not None}


class Network(Stack):
    """Layers run one after the other; keyword order is layer order, and tables use the names.

    ``net = ms.Network(fc1=ms.Linear(64, 128, rng=rng), lif1=ms.LIF(128), vote=ms.Rate())``

    A network is on the CPU or on a GPU as a whole.  It moves inputs, masks and targets to its GPU;
    states and the scores' gradient must be there already, as the network's own results are.

    Raises
    ------
    ValueError : shapes or dtypes of neighbouring layers do not fit; the message names the layers.
    """

    def forward(
        self, x: Array, *, state=None, train=False, rng=None, masks=None
    ) -> tuple[Array, Caches]:
        """Run ``[T, B, ...]`` through all layers.

        Parameters
        ----------
        x : input of the net's dtype, or spikes (uint8, bool); time first.
        state : states to start from by layer, as in ``caches.state``; zero if not given.
        train, rng : for layers that differ in training, and those that draw random numbers.
        masks : masks of dropout layers by name; the layers multiply by these instead of drawn ones.

        Returns
        -------
        scores : output of the last layer.   caches : :class:`Caches` for ``backward``.

        Raises
        ------
        TypeError, ValueError : an argument does not fit; the message begins with the layer's name.
        """
        state = by_layer("Network: state", state, self._with("has_state"))
        masks = by_layer("Network: masks", masks, self._with("takes_mask"))
        x, caches, outputs = self._here(x), Caches(), dict[str, Array]()
        sources = {layer.source for layer in self.layers.values()}
        for name, layer in self.layers.items():
            options: dict[str, Any] = {"state": state.get(name), "train": train, "rng": rng}
            options |= self.extra_inputs(layer, outputs)
            options |= {"mask": masks[name]} if name in masks else {}
            with naming(name):
                x, caches[name] = layer.forward(x, **options)
            if name in sources:
                outputs[name] = x
        return x, caches

    def backward(
        self, d_scores, caches, *, d_state=None, d_inner=None, wrt: Pattern = None, input_grad=True
    ) -> tuple[Array | None, dict[str, Any]]:
        """Gradients of a loss, given that of the scores.

        Parameters
        ----------
        d_scores : gradient of the scores.   caches : what ``forward`` returned.
        d_state : gradients of the last states by layer.
        d_inner : further gradients of inner layers' outputs by layer, e.g. of penalties on spikes;
            they are added to what the layers above return.
        wrt : which parameters' gradients are needed (a pattern); all if not given.
        input_grad : whether the input's gradient is needed; if not, backward ends at the lowest
            parameter needed.

        Returns
        -------
        d_x : gradient of the input, or ``None``.
        grads : by name, ``grads["lif1.threshold"]``, in the parameters' shapes;
            ``grads["state"]["lif1"]`` for layers that were given a state.

        Raises
        ------
        TypeError, ValueError : an argument does not fit; the message names it.
        """
        if missing := [n for n in self if not isinstance(caches, Mapping) or n not in caches]:
            expected = "what forward returned, scores, caches = net.forward(x)"
            got = f"{type(caches).__name__} without {', '.join(missing)}"
            raise TypeError(f"Network: caches must be {expected}; got {got}")
        d_state = by_layer("Network: d_state", d_state, self._with("has_state"))
        d_inner = by_layer("Network: d_inner", d_inner, list(self))
        d_inner = {name: self._here(d) for name, d in d_inner.items()}
        chosen = self.params(wrt)
        needed = {n: [p for p in self[n].params if f"{n}.{p}" in chosen] for n in self}
        run = list(dropwhile(lambda n: not (input_grad or needed[n]), self))
        grads, states, d_x = dict[str, Any](), dict[str, Any](), d_scores
        for name in reversed(run):
            layer, below = self.layers[name], input_grad or name != run[0]
            options: Any = {"d_state": d_state.get(name), "wrt": needed[name], "input_grad": below}
            with naming(name):
                if name in d_inner:
                    inner = np.asarray(d_inner[name], self.dtype, like=d_x)
                    d_x = d_x + as_upstream(inner, d_x.shape, layer, f"d_inner[{name!r}]")
                if (other := layer.source) is not None:  # it is added: both get d_x
                    d_inner[other] = d_x + d_inner[other] if other in d_inner else d_x
                d_x, found = layer.backward(d_x, caches[name], **options)
            if "state" in found:
                states[name] = found.pop("state")
            grads |= {f"{name}.{p}": d for p, d in found.items()}
        grads = {n: grads[n] for n in self.params() if n in grads}
        return (d_x if input_grad else None), grads | ({"state": states} if states else {})

    def extra_inputs(self, layer: Layer, outputs: Mapping[str, Array]) -> dict[str, Array]:
        """What a layer takes besides its input, from the outputs of the layers before it."""
        return {} if layer.source is None else {"other": outputs[layer.source]}

    def loss_and_grads(
        self,
        x: Array,
        targets: Any,
        loss: Loss,
        *,
        state: Mapping[str, Any] | None = None,
        train: bool = False,
        rng: Any = None,
        masks: Mapping[str, Array] | None = None,
        wrt: Pattern = None,
        truncate: int | None = None,
        penalties: Mapping[str, Penalty] | None = None,
        watch: Callable[[Caches], None] | None = None,
    ) -> tuple[float, dict[str, Array]]:
        """The loss and its gradients in one call, as ``fit`` makes it; caches end with it.

        Parameters
        ----------
        x, targets, loss : input ``[T, B, ...]``; ``loss(scores, targets) -> (number, d_scores)``.
        state, train, rng, masks, wrt : as for ``forward`` and ``backward``.
        truncate : truncated backpropagation through time, in chunks of at most so many steps.
            States pass from chunk to chunk, gradients do not; the loss is the mean of the chunks'
            losses, weighted by their steps.
        penalties : by layer, functions of its spikes that return a number and its gradient; the
            number is added to the loss.  E.g. ``{"lif1": ms.losses.FiringRate(most=0.2)}``.
        watch : a function of the caches of every forward run, e.g. to count spikes.

        Returns
        -------
        loss : float.   grads : by parameter name.

        Raises
        ------
        TypeError, ValueError : an argument does not fit; the message names it.
        """
        penalties = by_layer("loss_and_grads: penalties", penalties, self._with("spiking"))
        if not callable(loss):
            expected = "a function, loss(scores, targets) -> (number, d_scores), e.g. ms.losses.mse"
            raise TypeError(f"loss_and_grads: loss must be {expected}; got {loss!r}")
        total, grads = 0.0, dict[str, Array]()
        for share, part, cut in _chunks(self._here(x), masks or {}, truncate):
            scores, caches = self.forward(part, state=state, train=train, rng=rng, masks=cut)
            value, d_scores = loss(scores, targets)
            d_inner = dict[str, Array]()
            if watch is not None:
                watch(caches)
            for name, penalty in penalties.items():
                extra, d_spikes = penalty(caches[name].spikes)
                value, d_inner[name] = value + extra, d_spikes if share == 1 else d_spikes * share
            d_scores = d_scores if share == 1 else d_scores * share
            _, found = self.backward(d_scores, caches, d_inner=d_inner, wrt=wrt, input_grad=False)
            found.pop("state", None)
            grads = {n: grads[n] + d for n, d in found.items()} if grads else found
            total, state = total + share * value, caches.state
        return total, grads

    def predict(self, x: Array) -> Array:
        """The class with the highest score, of equal ones the first: ``[B]``, int64.

        It is -1 if a score is not a number.  A network without a readout raises ValueError.
        """
        return predicted(self.forward(x)[0])

    def accuracy(self, x: Array, labels: Array) -> float:
        """Share of the samples ``[T, B, ...]`` whose prediction is their label ``[B]``."""
        return accuracy(self.forward(x)[0], labels)


load = Network.load


def _chunks(
    x: Array, masks: Mapping[str, Array], truncate: int | None
) -> Iterator[tuple[float, Array, dict[str, Array]]]:
    """The steps of `x`, at most `truncate` at a time: their share, the input, the masks."""
    steps = len(x) if np.ndim(x) else 0
    if steps == 0:  # the first layer checks the rest of x
        got = f"shape {list(x.shape)}" if hasattr(x, "shape") else repr(x)
        expected = "[T, B, ...], time first, of one step or more"
        raise ValueError(f"loss_and_grads: x must be {expected}; got {got}")
    if wrong := {n: len(m) for n, m in masks.items() if len(m) not in (1, steps)}:
        expected = f"masks of x's {steps} steps or of 1, [T or 1, B, ...]"
        raise ValueError(f"loss_and_grads: {expected}, got {wrong} steps")
    most = steps if truncate is None else positive_int("loss_and_grads: truncate", truncate)
    for start in range(0, steps, most):
        part = x[start : start + most]
        cut = {n: m if len(m) == 1 else m[start : start + most] for n, m in masks.items()}
        yield len(part) / steps, part, cut
