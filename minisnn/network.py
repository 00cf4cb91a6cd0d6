"""Network: layers one after the other, and the walk back through them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from . import files
from .kernels import check_backend, default_backend
from .kernels.arrays import Array, float_dtype, positive_int, to_device
from .layers import LAYERS, Layer
from .thresholds import Constraint

__all__ = ["SL", "STDL", "STL", "TL", "Caches", "Network", "Rule"]

Loss = Callable[[Array, Any], tuple[float, Array]]


@dataclass(frozen=True)
class Rule:
    """A learning rule: which parameters learn, chosen by what they are ("synapse", "threshold", "neuron")."""

    name: str
    roles: tuple[str, ...]

    def __repr__(self) -> str:
        return f"Rule({self.name}: {' + '.join(self.roles)})"


#: The rules of the paper: synaptic, threshold and synapse-threshold learning; STDL also learns decays.
SL = Rule("SL", ("synapse",))
TL = Rule("TL", ("threshold",))
STL = Rule("STL", ("synapse", "threshold"))
STDL = Rule("STDL", ("synapse", "threshold", "neuron"))

#: Chooses parameters: a rule, a name with wildcards such as ``"lif*.threshold"``, several of these, ``None`` for all.
Pattern = Rule | str | Iterable[str] | None


class Caches(dict[str, Any]):
    """The layers' caches by name, e.g. ``caches["lif1"].spikes``; ``caches.state`` continues where this run ended."""

    @property
    def state(self) -> dict[str, dict[str, Array]]:
        """State after the last step of every layer that has one, for the `state` of the next ``forward``."""
        found = {name: getattr(cache, "state", None) for name, cache in self.items()}
        return {name: state for name, state in found.items() if state is not None}


class Network:
    """Layers run one after the other; keyword order is layer order, and the names appear in every table.

    ``net = ms.Network(fc1=ms.Linear(64, 128, rng=rng), lif1=ms.LIF(128), vote=ms.PopulationVote(10))``

    A network is on the CPU or on a GPU as a whole.  To its GPU it moves inputs, masks and targets that are not there yet;
    states and the scores' gradient come from a run there; what it returns stays there.

    Raises
    ------
    ValueError : shapes or dtypes of neighbouring layers do not fit; the message names the layers.
    """

    def __init__(self, **layers: Layer) -> None:
        if not layers:
            raise ValueError("Network: needs at least one layer, e.g. Network(fc1=ms.Linear(64, 10, rng=rng))")
        for name, layer in layers.items():
            if not isinstance(layer, Layer):
                raise TypeError(f"Network: {name} must be a layer, got {layer!r}")
        seen: dict[int, str] = {}
        for name, layer in layers.items():
            if id(layer) in seen:
                raise ValueError(f"Network: {seen[id(layer)]} and {name} are the same layer; make one for each")
            seen[id(layer)] = name
        learning = {n: layer for n, layer in layers.items() if layer.params} or layers
        dtypes = {n: layer.dtype for n, layer in learning.items()}
        if len(set(dtypes.values())) > 1:
            raise TypeError(f"Network: one float dtype per net, got {', '.join(f'{n} {d}' for n, d in dtypes.items())}")
        self.dtype = next(iter(dtypes.values()))
        # Layers without parameters follow the net's dtype: nobody should have to say it ten times.
        layers = {n: layer if layer.params else layer.astype(self.dtype) for n, layer in layers.items()}
        self.layers = _in_one_place(layers)
        #: Layers whose output a later layer takes besides its input.
        self._sources = {layer.source for layer in self.layers.values()}
        shape = None
        shapes: dict[str, Any] = {}
        for name, layer in self.layers.items():
            if layer.source is not None and layer.source not in shapes:
                raise ValueError(f"Network: {name} takes the output of {layer.source!r}, which is no layer before it")
            try:
                shape = shapes[name] = layer.out_shape(shape)
            except ValueError as error:
                raise ValueError(f"Network: {name} does not fit the layer before it: it {error}") from None
            other = shape if layer.source is None else shapes[layer.source]
            if shape is not None and other is not None and other != shape:
                raise ValueError(f"Network: {name} adds {layer.source} of shape {list(other)} to an input of {list(shape)}")

    # -- parameters

    def params(self, pattern: Pattern = None) -> dict[str, Array]:
        """The live parameter arrays by name (``"fc1.weight"``), those that `pattern` chooses.

        Raises
        ------
        ValueError : the pattern matches nothing; the message lists the names.
        """
        everything = {f"{n}.{p}": (layer, p) for n, layer in self.layers.items() for p in layer.params}
        if pattern is None:
            chosen = list(everything)
        elif isinstance(pattern, Rule):
            chosen = [n for n, (layer, p) in everything.items() if layer.roles[p] in pattern.roles]
        else:
            patterns = [pattern] if isinstance(pattern, str) else list(pattern)
            if not patterns:
                return {}
            for one in patterns:
                if not any(fnmatchcase(n, one) for n in everything):
                    raise ValueError(f"pattern {one!r} matches no parameter; there are {', '.join(everything) or 'none'}")
            chosen = [n for n in everything if any(fnmatchcase(n, one) for one in patterns)]
        if not chosen and everything:
            raise ValueError(f"{pattern!r} matches no parameter; there are {', '.join(everything)}")
        return {n: everything[n][0].params[everything[n][1]] for n in chosen}

    def buffers(self) -> dict[str, Array]:
        """The live arrays that do not learn by gradients, by name, e.g. ``"norm1.running_mean"``."""
        return {f"{n}.{b}": array for n, layer in self.layers.items() for b, array in layer.buffers.items()}

    def arrays(self) -> dict[str, Array]:
        """All that a network is besides its architecture: parameters and buffers."""
        return {**self.params(), **self.buffers()}

    def commit(self, caches: Mapping[str, Any]) -> None:
        """Take over the running statistics that a training run has found; nothing else writes them."""
        for name, layer in self.layers.items():
            for buffer, array in layer.buffers.items():
                array[...] = caches[name].buffers[buffer]

    # -- the run and the walk back

    def forward(
        self,
        x: Array,
        *,
        state: Mapping[str, Any] | None = None,
        train: bool = False,
        rng: Any = None,
        masks: Mapping[str, Array] | None = None,
    ) -> tuple[Array, Caches]:
        """Run ``[T, B, ...]`` through all layers.

        Parameters
        ----------
        x : input of the net's dtype, or spikes (uint8, bool); time first.
        state : states to start from by layer, as in ``caches.state``; zero if not given.
        train, rng : handed to the layers, for those that behave otherwise in training.
        masks : masks of dropout layers by name, multiplied as given instead of drawn.

        Returns
        -------
        scores : output of the last layer.   caches : :class:`Caches` for ``backward``.

        Raises
        ------
        TypeError, ValueError : a dtype or a shape does not fit, the message begins with the layer's name; `state` or `masks`
            name layers that have none.
        """
        state, masks = dict(state or {}), dict(masks or {})
        if unknown := set(state) - {n for n, layer in self.layers.items() if layer.has_state}:
            raise ValueError(f"Network: state names {sorted(unknown)}, which have no state")
        if unknown := set(masks) - {n for n, layer in self.layers.items() if layer.takes_mask}:
            raise ValueError(f"Network: masks names {sorted(unknown)}, which take none")
        x, caches, outputs = self._here(x), Caches(), dict[str, Array]()
        for name, layer in self.layers.items():
            extra = self.extra_inputs(layer, outputs)
            if name in masks:
                extra["mask"] = masks[name]
            with naming(name):
                x, caches[name] = layer.forward(x, state=state.get(name), train=train, rng=rng, **extra)
            if name in self._sources:
                outputs[name] = x
        return x, caches

    def extra_inputs(self, layer: Layer, outputs: Mapping[str, Array]) -> dict[str, Array]:
        """What a layer takes besides its input, from the outputs of the layers before it."""
        return {} if layer.source is None else {"other": outputs[layer.source]}

    def backward(
        self,
        d_scores: Array,
        caches: Mapping[str, Any],
        *,
        d_state: Mapping[str, Any] | None = None,
        d_inner: Mapping[str, Array] | None = None,
        wrt: Pattern = None,
        input_grad: bool = True,
    ) -> tuple[Array | None, dict[str, Any]]:
        """Gradients of a loss, given that of the scores.

        Parameters
        ----------
        d_scores : gradient of the scores.   caches : what ``forward`` returned.
        d_state : gradients of the last states by layer.
        d_inner : gradients of inner layers' outputs by layer, added to what comes from above (penalties on spikes).
        wrt : which parameters' gradients are wanted (a pattern); all if not given.
        input_grad : whether the input's gradient is wanted; if not, the walk ends at the lowest parameter wanted.

        Returns
        -------
        d_x : gradient of the input, or ``None``.
        grads : by name, ``grads["lif1.threshold"]``, in the parameters' shapes; ``grads["state"]["lif1"]`` for layers
            that were given a state.

        Raises
        ------
        TypeError, ValueError : a gradient has not the shape or dtype of what it is the gradient of; `d_state` or `d_inner`
            name layers that have none; `wrt` matches nothing.
        """
        if not isinstance(caches, Mapping) or (missing := [n for n in self.layers if n not in caches]):
            got = f"none for {', '.join(missing)}" if isinstance(caches, Mapping) else type(caches).__name__
            raise TypeError(f"Network: caches must be what forward returned, scores, caches = net.forward(x); got {got}")
        d_state, d_inner = dict(d_state or {}), {n: self._here(d) for n, d in (d_inner or {}).items()}
        if unknown := set(d_state) - {n for n, layer in self.layers.items() if layer.has_state}:
            raise ValueError(f"Network: d_state names {sorted(unknown)}, which have no state")
        if unknown := set(d_inner) - set(self.layers):
            raise ValueError(f"Network: d_inner names {sorted(unknown)}, the layers are {list(self.layers)}")
        wanted = [n.split(".") for n in self.params(wrt)]
        order = list(self.layers)
        lowest = 0 if input_grad else min((order.index(name) for name, _ in wanted), default=len(order))
        grads, states = dict[str, Any](), dict[str, Any]()
        d_x: Array | None = d_scores
        for i in reversed(range(lowest, len(order))):
            name, layer = order[i], self.layers[order[i]]
            if name in d_inner:
                d_x = d_x + self._like(d_inner[name], d_x, name)
            if layer.source is not None:  # its other branch gets the same gradient
                d_inner[layer.source] = d_x + d_inner[layer.source] if layer.source in d_inner else d_x
            with naming(name):
                d_x, found = layer.backward(
                    d_x, caches[name], d_state=d_state.get(name), wrt=[p for n, p in wanted if n == name],
                    input_grad=input_grad or i > lowest,
                )  # fmt: skip
            if "state" in found:
                states[name] = found.pop("state")
            grads.update({f"{name}.{p}": d for p, d in found.items()})
        grads = {n: grads[n] for n in self.params() if n in grads} | ({"state": states} if states else {})
        return (d_x if input_grad else None), grads

    def _like(self, d: Array, output: Any, name: str) -> Array:
        """The gradient of an inner layer's output, in the dtype of the net."""
        d = np.asarray(d, like=output)
        if d.shape != output.shape:
            raise ValueError(f"Network: d_inner[{name!r}] has shape {list(d.shape)}, its output {list(output.shape)}")
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
        penalties: Mapping[str, Callable[[Array], tuple[float, Array]]] | None = None,
        watch: Callable[[Caches], None] | None = None,
    ) -> tuple[float, dict[str, Array]]:
        """The loss and its gradients in one call: what ``fit`` calls; caches do not outlive it.

        Parameters
        ----------
        x, targets, loss : input ``[T, B, ...]``; ``loss(scores, targets) -> (number, d_scores)``.
        state, train, rng, masks : as for ``forward``.
        wrt : which parameters' gradients are wanted (a pattern); all if not given.
        truncate : truncated backpropagation through time.  The steps are cut into chunks of at most so many; states are
            carried on, gradients are not; the loss is the mean of the chunks' losses, weighted by their steps.
        penalties : by layer, functions of its spikes that return a number and its gradient; the number is added
            to the loss.  E.g. ``{"lif1": ms.losses.FiringRate(most=0.2)}``.
        watch : called with the caches of every forward run, e.g. to count spikes.

        Returns
        -------
        loss : float.   grads : by parameter name.

        Raises
        ------
        ValueError : `x` has no time steps, or its shape or dtype does not fit; `masks` are of other steps than `x`;
            `penalties` or `state` name layers that have none; `wrt` matches nothing.
        TypeError : `loss` is no function.
        """
        truncate = None if truncate is None else positive_int("loss_and_grads: truncate", truncate)
        spiking = [n for n, layer in self.layers.items() if layer.spiking]
        if unknown := set(penalties or ()) - set(spiking):
            raise ValueError(f"loss_and_grads: penalties names {sorted(unknown)}, the spiking layers are {spiking}")
        if not callable(loss):
            raise TypeError(
                f"loss_and_grads: loss must be a function, loss(scores, targets) -> (number, d_scores), e.g. ms.losses.mse; "
                f"got {loss!r}"
            )
        x, masks, total, grads = self._here(x), masks or {}, 0.0, dict[str, Array]()
        steps = self._steps(x, masks)
        for start in range(0, steps, truncate or steps):
            part = x[start : start + (truncate or steps)]
            cut = {n: m if len(m) == 1 else m[start : start + len(part)] for n, m in masks.items()}
            scores, caches = self.forward(part, state=state, train=train, rng=rng, masks=cut)
            value, d_scores = loss(scores, targets)
            if watch is not None:
                watch(caches)
            d_inner = {}
            for name, penalty in (penalties or {}).items():
                extra, d_inner[name] = penalty(caches[name].spikes)
                value += extra
            share = len(part) / steps
            total += share * value
            if share < 1:
                d_scores = d_scores * d_scores.dtype.type(share)
                d_inner = {n: d * share for n, d in d_inner.items()}
            _, found = self.backward(d_scores, caches, d_inner=d_inner, wrt=wrt, input_grad=False)
            found.pop("state", None)
            if start + len(part) < steps:
                state = caches.state
            grads = {n: grads[n] + d for n, d in found.items()} if grads else found
        return total, grads

    def _steps(self, x: Any, masks: Mapping[str, Array]) -> int:
        """The time steps of an input, if it has some and the masks are of as many."""
        steps = len(x) if np.ndim(x) else 0
        if steps == 0:  # the first layer checks the rest of x
            got = f"shape {list(x.shape)}" if hasattr(x, "shape") else repr(x)
            raise ValueError(f"loss_and_grads: x must be [T, B, ...], time first, of one step or more; got {got}")
        if wrong := {n: len(m) for n, m in masks.items() if len(m) not in (1, steps)}:
            raise ValueError(f"loss_and_grads: masks of x's {steps} steps or of 1, [T or 1, B, ...], got {wrong} steps")
        return steps

    def predict(self, x: Array) -> Array:
        """The class with the highest score, of equal ones the first: ``[T, B, ...] -> [B]``, int64, where the network is."""
        return self.forward(x)[0].argmax(axis=1)

    def accuracy(self, x: Array, labels: Array) -> float:
        """Share of the samples ``[T, B, ...]`` whose prediction is their label ``[B]``."""
        found = self.predict(x)
        labels = np.asarray(labels, like=found)
        if labels.shape != found.shape:
            raise ValueError(f"accuracy: labels must be class numbers {list(found.shape)}, got shape {list(labels.shape)}")
        return float(np.mean(found == labels))

    def constraints(self) -> dict[str, Constraint]:
        """The bounds on parameters, by parameter name."""
        found = {f"{n}.threshold": getattr(layer, "constraint", None) for n, layer in self.layers.items()}
        return {n: bound for n, bound in found.items() if bound is not None}

    # -- on disk

    def description(self) -> dict[str, Any]:
        """Architecture as plain data: what a file keeps of the network besides its arrays."""
        layers = [
            {"name": n, "type": type(layer).__name__, "config": layer.config(), "arrays": [*layer.params, *layer.buffers]}
            for n, layer in self.layers.items()
        ]
        return {"dtype": str(self.dtype), "layers": layers}

    def save(self, path: str | Path, **notes: Any) -> Path:
        """Write architecture and parameters to one ``.npz`` without pickle; `ms.load` makes the network again.

        The file is whole or not there.  `notes` are plain data to keep with it.  What a neuron of your own computes is not
        stored: hand it to `ms.load`.

        Raises
        ------
        TypeError : a layer is of a class of your own, which no file could name.
        """
        if strangers := [n for n, layer in self.layers.items() if LAYERS.get(type(layer).__name__) is not type(layer)]:
            raise TypeError(
                f"save: {', '.join(strangers)}: a layer of your own cannot be rebuilt from a file; save net.params()"
            )
        return files.write(path, "network", {"network": self.description(), "notes": notes}, self.arrays())

    # -- the same network, otherwise

    def using(self, backend: str) -> Network:
        """The same network on another backend: on the CPU all share their parameter arrays, a GPU has its own.

        ``net.using("cupy")`` copies them to the GPU, ``using("numba")`` or ``using("numpy")`` of a network there back.  An
        optimizer belongs to the network that it was made for.
        """
        check_backend(backend)
        return self._map(lambda layer: layer.using(backend))

    def astype(self, dtype: Any) -> Network:
        """A copy of the network with parameters of another float dtype."""
        dtype = float_dtype(dtype)
        return self._map(lambda layer: layer.astype(dtype))

    def smoothed(self) -> Network:
        """The smooth twin: every spike is the surrogate's curve.  It shares its parameter arrays with this network."""
        return self._map(lambda layer: layer.smoothed())

    def _here(self, x: Any) -> Array:
        """An input where the network is: it goes to its GPU, and is not brought back from one; the first layer objects."""
        first = next(iter(self.layers.values()))  # all are in one place
        return to_device(x, "cupy") if first.backend == "cupy" else x

    def _map(self, change: Callable[[Layer], Layer]) -> Network:
        return Network(**{name: change(layer) for name, layer in self.layers.items()})

    @property
    def backend(self) -> str:
        """The backend of the spiking layers; several are joined by ``+``.  On a GPU it is that of all."""
        found = {layer.backend for layer in self.layers.values() if layer.spiking or layer.backend == "cupy"}
        return "+".join(sorted(found)) or "numpy"

    def __getitem__(self, name: str) -> Layer:
        if name not in self.layers:
            raise KeyError(f"no layer {name!r}; there are {', '.join(self.layers)}")
        return self.layers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.layers)

    def __repr__(self) -> str:
        width = max(map(len, self.layers))
        total = sum(p.size for p in self.params().values())
        head = f"Network, {total:,} parameters, {self.dtype}, {self.backend}; input [T, B, ...], time first"
        return "\n".join([head, *(f"  {name:<{width}}  {layer!r}" for name, layer in self.layers.items())])


def _in_one_place(layers: dict[str, Layer]) -> dict[str, Layer]:
    """On the CPU or on a GPU as a whole: layers that name no backend follow those that do."""
    named = {name: layer.backend for name, layer in layers.items() if layer.names_backend}
    if len({backend == "cupy" for backend in named.values()}) > 1:
        raise ValueError(f"Network: one device per net, got {', '.join(f'{n} {b}' for n, b in named.items())}")
    backend = next(iter(named.values()), None) or default_backend()
    return {n: layer.using(backend) if "cupy" in (backend, layer.backend) else layer for n, layer in layers.items()}


class naming:
    """Puts a layer's name in front of the errors that come out of it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, ValueError | TypeError) and error.args and isinstance(error.args[0], str):
            error.args = (f"{self.name}: {error.args[0]}", *error.args[1:])
