"""Network: layers one after the other, and backward through them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from . import files
from .kernels.arrays import Array, positive_int
from .layers import LAYERS, Layer
from .rules import Pattern
from .stack import Stack, check_names, naming

__all__ = ["Caches", "Network", "naming"]

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
    """Layers run one after the other; keyword order is layer order, the names stand in every table.

    ``net = ms.Network(fc1=ms.Linear(64, 128, rng=rng), lif1=ms.LIF(128), vote=ms.Rate())``

    A network is on the CPU or on a GPU as a whole.  To its GPU it moves inputs, masks and targets
    that are not there yet; states and the scores' gradient come from a run there; what it returns
    stays there.

    Raises
    ------
    ValueError : shapes or dtypes of neighbouring layers do not fit; the message names the layers.
    """

    # -- forward and backward

    def forward(
        self, x: Array, *, state=None, train=False, rng=None, masks=None
    ) -> tuple[Array, Caches]:
        """Run ``[T, B, ...]`` through all layers.

        Parameters
        ----------
        x : input of the net's dtype, or spikes (uint8, bool); time first.
        state : states to start from by layer, as in ``caches.state``; zero if not given.
        train, rng : for the layers that behave otherwise in training, and those that draw.
        masks : masks of dropout layers by name, multiplied as given instead of drawn.

        Returns
        -------
        scores : output of the last layer.   caches : :class:`Caches` for ``backward``.

        Raises
        ------
        TypeError, ValueError : a dtype or a shape does not fit, the message begins with the layer's
            name; `state` or `masks` name layers that have none.
        """
        state, masks = dict(state or {}), dict(masks or {})
        check_names("Network: state", state, self._with("has_state"), "which have no state")
        check_names("Network: masks", masks, self._with("takes_mask"), "which take none")
        x, caches, outputs = self._here(x), Caches(), dict[str, Array]()
        for name, layer in self.layers.items():
            extra = self.extra_inputs(layer, outputs)
            if name in masks:
                extra["mask"] = masks[name]
            with naming(name):
                x, caches[name] = layer.forward(
                    x, state=state.get(name), train=train, rng=rng, **extra
                )
            if name in self._sources:
                outputs[name] = x
        return x, caches

    def extra_inputs(self, layer: Layer, outputs: Mapping[str, Array]) -> dict[str, Array]:
        """What a layer takes besides its input, from the outputs of the layers before it."""
        return {} if layer.source is None else {"other": outputs[layer.source]}

    def backward(
        self, d_scores, caches, *, d_state=None, d_inner=None, wrt: Pattern = None, input_grad=True
    ) -> tuple[Array | None, dict[str, Any]]:
        """Gradients of a loss, given that of the scores.

        Parameters
        ----------
        d_scores : gradient of the scores.   caches : what ``forward`` returned.
        d_state : gradients of the last states by layer.
        d_inner : gradients of inner layers' outputs by layer, added to what comes from above
            (penalties on spikes).
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
        TypeError, ValueError : a gradient has not the shape or dtype of what it is the gradient of;
            `d_state` or `d_inner` name layers that have none; `wrt` matches no parameter.
        """
        order = list(self.layers)
        if not isinstance(caches, Mapping) or (missing := [n for n in order if n not in caches]):
            is_mapping = isinstance(caches, Mapping)
            got = f"none for {', '.join(missing)}" if is_mapping else type(caches).__name__
            made = "what forward returned, scores, caches = net.forward(x)"
            raise TypeError(f"Network: caches must be {made}; got {got}")
        d_state = dict(d_state or {})
        d_inner = {n: self._here(d) for n, d in (d_inner or {}).items()}
        check_names("Network: d_state", d_state, self._with("has_state"), "which have no state")
        check_names("Network: d_inner", d_inner, order, f"the layers are {order}")
        needed = [n.split(".") for n in self.params(wrt)]
        lowest = 0 if input_grad else min([order.index(n) for n, _ in needed] or [len(order)])
        grads, states, d_x = dict[str, Any](), dict[str, Any](), d_scores
        for name in reversed(order[lowest:]):
            layer = self.layers[name]
            if name in d_inner:
                d_x = d_x + self._like(d_inner[name], d_x, name)
            if (other := layer.source) is not None:  # its other branch gets the same gradient
                d_inner[other] = d_x + d_inner[other] if other in d_inner else d_x
            cache, d_last = caches[name], d_state.get(name)
            own, below = [p for n, p in needed if n == name], input_grad or name != order[lowest]
            with naming(name):
                d_x, found = layer.backward(d_x, cache, d_state=d_last, wrt=own, input_grad=below)
            if "state" in found:
                states[name] = found.pop("state")
            grads.update({f"{name}.{p}": d for p, d in found.items()})
        grads = {n: grads[n] for n in self.params() if n in grads}
        return (d_x if input_grad else None), grads | ({"state": states} if states else {})

    def _like(self, d: Array, output: Any, name: str) -> Array:
        """The gradient of an inner layer's output, in the net's dtype."""
        d = np.asarray(d, like=output)
        if d.shape != output.shape:
            shapes = f"shape {list(d.shape)}, its output {list(output.shape)}"
            raise ValueError(f"Network: d_inner[{name!r}] has {shapes}")
        return d.astype(self.dtype, copy=False)

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
        """The loss and its gradients in one call: what ``fit`` calls; caches do not outlive it.

        Parameters
        ----------
        x, targets, loss : input ``[T, B, ...]``; ``loss(scores, targets) -> (number, d_scores)``.
        state, train, rng, masks, wrt : as for ``forward`` and ``backward``.
        truncate : truncated backpropagation through time.  The steps are cut into chunks of at most
            so many; states are carried on, gradients are not; the loss is the mean of the chunks'
            losses, weighted by their steps.
        penalties : by layer, functions of its spikes that return a number and its gradient; the
            number is added to the loss.  E.g. ``{"lif1": ms.losses.FiringRate(most=0.2)}``.
        watch : called with the caches of every forward run, e.g. to count spikes.

        Returns
        -------
        loss : float.   grads : by parameter name.

        Raises
        ------
        ValueError : `x` has no time steps, or its shape or dtype does not fit; `masks` are of other
            steps than `x`; `penalties` or `state` name layers that have none; `wrt` matches no
            parameter.
        TypeError : `loss` is no function.
        """
        penalties, spiking = penalties or {}, self._with("spiking")
        known = f"the spiking layers are {spiking}"
        check_names("loss_and_grads: penalties", penalties, spiking, known)
        if not callable(loss):
            expected = "a function, loss(scores, targets) -> (number, d_scores), e.g. ms.losses.mse"
            raise TypeError(f"loss_and_grads: loss must be {expected}; got {loss!r}")
        total, grads = 0.0, dict[str, Array]()
        for share, part, cut in _chunks(self._here(x), masks or {}, truncate):
            scores, caches = self.forward(part, state=state, train=train, rng=rng, masks=cut)
            value, d_scores = loss(scores, targets)
            if watch is not None:
                watch(caches)
            inner = {name: penalty(caches[name].spikes) for name, penalty in penalties.items()}
            for extra, _ in inner.values():
                value += extra
            total += share * value
            d_inner = {name: d if share == 1 else d * share for name, (_, d) in inner.items()}
            d_scores = d_scores if share == 1 else d_scores * d_scores.dtype.type(share)
            _, found = self.backward(d_scores, caches, d_inner=d_inner, wrt=wrt, input_grad=False)
            found.pop("state", None)
            grads = {n: grads[n] + d for n, d in found.items()} if grads else found
            state = caches.state
        return total, grads

    def predict(self, x: Array) -> Array:
        """The class with the highest score, of equal ones the first: ``[B]``, int64."""
        return self.forward(x)[0].argmax(axis=1)

    def accuracy(self, x: Array, labels: Array) -> float:
        """Share of the samples ``[T, B, ...]`` whose prediction is their label ``[B]``."""
        found = self.predict(x)
        labels = np.asarray(labels, like=found)
        if labels.shape != found.shape:
            expected = f"labels must be class numbers {list(found.shape)}"
            raise ValueError(f"accuracy: {expected}, got shape {list(labels.shape)}")
        return float(np.mean(found == labels))

    # -- on disk

    def description(self) -> dict[str, Any]:
        """Architecture as plain data: what a file keeps of the network besides its arrays."""
        layers = [
            {"name": name, "type": files.name_in_file(type(layer), LAYERS, type(layer))}
            | {"config": layer.config(), "arrays": [*layer.params, *layer.buffers]}
            for name, layer in self.layers.items()
        ]
        return {"dtype": str(self.dtype), "layers": layers}

    def save(self, path: str | Path, **notes: Any) -> Path:
        """Write architecture and parameters to one ``.npz`` without pickle; `ms.load` reads it.

        The file is whole or not there.  `notes` are plain data to keep with it.  What a neuron or a
        layer of your own computes is not stored: give it to `ms.load`.

        Raises
        ------
        TypeError : a layer of your own needs arguments that its ``options`` do not name.
        """
        for name, layer in self.layers.items():
            if type(layer) not in LAYERS.values():
                _check_rebuilds(name, layer)
        header = {"network": self.description(), "notes": notes}
        return files.write(path, "network", header, self.arrays())


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


def _check_rebuilds(name: str, layer: Layer) -> None:
    """Raise if a layer of a user's own class cannot be made again of what a file keeps of it."""
    try:
        arrays = {**layer.params, **layer.buffers}
        type(layer).rebuild(layer.config(), arrays, layer.dtype, {})
    except (TypeError, AttributeError) as error:
        cure = "`options` must name the constructor's arguments, kept as attributes"
        raise TypeError(f"save: {name}: cannot be rebuilt from a file: {error}; {cure}") from None
    except ValueError:  # it has a neuron of its own, which ms.load is given
        pass
