"""Layers in order, by name: whether they fit, their parameters, copies with another backend."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Self

from .kernels import check_backend, default_backend
from .kernels.arrays import Array, float_dtype, to_device
from .layers import Layer
from .rules import Pattern, choose
from .thresholds import Constraint

__all__ = ["Stack", "check_names", "naming"]


class Stack:
    """Layers in order; the names appear in every table.  :class:`minisnn.Network` runs them."""

    def __init__(self, **layers: Layer) -> None:
        if not layers:
            example = "e.g. Network(fc1=ms.Linear(64, 10, rng=rng))"
            raise ValueError(f"Network: needs at least one layer, {example}")
        seen: dict[int, str] = {}
        for name, layer in layers.items():
            if not isinstance(layer, Layer):
                raise TypeError(f"Network: {name} must be a layer, got {layer!r}")
            if id(layer) in seen:
                both = f"{seen[id(layer)]} and {name} are the same layer"
                raise ValueError(f"Network: {both}; make one for each")
            seen[id(layer)] = name
        dtypes = {n: layer.dtype for n, layer in layers.items() if layer.params}
        dtypes = dtypes or {n: layer.dtype for n, layer in layers.items()}
        if len(set(dtypes.values())) > 1:
            got = ", ".join(f"{n} {d}" for n, d in dtypes.items())
            raise TypeError(f"Network: one float dtype per net, got {got}")
        self.dtype = next(iter(dtypes.values()))
        # Layers without parameters follow the net's dtype: that saves saying it ten times.
        layers = {n: a if a.params else a.astype(self.dtype) for n, a in layers.items()}
        self.layers = _on_one_device(layers)
        _check_shapes(self.layers)
        #: Layers whose output a later layer takes besides its input.
        self._sources = {layer.source for layer in self.layers.values()}

    # -- parameters

    def params(self, pattern: Pattern = None) -> dict[str, Array]:
        """The live parameter arrays by name (``"fc1.weight"``), those that `pattern` chooses.

        Raises
        ------
        ValueError : the pattern matches no parameter; the message lists the names.
        """
        each = [(n, layer, p) for n, layer in self.layers.items() for p in layer.params]
        arrays = {f"{n}.{p}": layer.params[p] for n, layer, p in each}
        if pattern is None:
            return arrays
        roles = {f"{n}.{p}": layer.roles.get(p, "synapse") for n, layer, p in each}
        return {n: arrays[n] for n in choose(pattern, roles)}

    def buffers(self) -> dict[str, Array]:
        """The live arrays that do not learn by gradients, by name: ``"norm1.running_mean"``."""
        each = [(n, layer, b) for n, layer in self.layers.items() for b in layer.buffers]
        return {f"{n}.{b}": layer.buffers[b] for n, layer, b in each}

    def arrays(self) -> dict[str, Array]:
        """All that a network is besides its architecture: parameters and buffers."""
        return {**self.params(), **self.buffers()}

    def commit(self, caches: Mapping[str, Any]) -> None:
        """Take over the running statistics of a training run: the one place that writes them."""
        for name, layer in self.layers.items():
            for buffer, array in layer.buffers.items():
                array[...] = caches[name].buffers[buffer]

    def constraints(self) -> dict[str, Constraint]:
        """The bounds on parameters, by parameter name."""
        found = {f"{n}.threshold": getattr(a, "constraint", None) for n, a in self.layers.items()}
        return {n: bound for n, bound in found.items() if bound is not None}

    # -- the same network, otherwise

    def using(self, backend: str) -> Self:
        """The same network on another backend: those on the CPU share arrays, a GPU has its own.

        ``net.using("cupy")`` copies them to the GPU, ``using("numba")`` of a network there back.
        An optimizer belongs to the network that it was made for.
        """
        check_backend(backend)
        return self._map(lambda layer: layer.using(backend))

    def astype(self, dtype: Any) -> Self:
        """A copy of the network with parameters of another float dtype."""
        dtype = float_dtype(dtype)
        return self._map(lambda layer: layer.astype(dtype))

    def smoothed(self) -> Self:
        """The smooth twin, in which each spike is the surrogate's curve.  It shares parameters."""
        return self._map(lambda layer: layer.smoothed())

    def _map(self, change: Callable[[Layer], Layer]) -> Self:
        return type(self)(**{name: change(layer) for name, layer in self.layers.items()})

    def _with(self, attribute: str) -> list[str]:
        return [name for name, layer in self.layers.items() if getattr(layer, attribute)]

    def _here(self, x: Any) -> Array:
        """An input where the network is: it goes to a GPU; the first layer objects to one there."""
        first = next(iter(self.layers.values()))  # all are in one place
        return to_device(x, "cupy") if first.backend == "cupy" else x

    @property
    def backend(self) -> str:
        """The backend of the spiking layers, or several joined by ``+``; on a GPU that of all."""
        layers = self.layers.values()
        found = {layer.backend for layer in layers if layer.spiking or layer.backend == "cupy"}
        return "+".join(sorted(found)) or "numpy"

    def __getitem__(self, name: str) -> Layer:
        if name not in self.layers:
            raise KeyError(f"no layer {name!r}; there are {', '.join(self.layers)}")
        return self.layers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.layers)

    def __repr__(self) -> str:
        width = max(map(len, self.layers))
        total = f"{sum(p.size for p in self.params().values()):,} parameters"
        head = f"Network, {total}, {self.dtype}, {self.backend}; input [T, B, ...], time first"
        return "\n".join([head, *(f"  {name:<{width}}  {a!r}" for name, a in self.layers.items())])


def _on_one_device(layers: dict[str, Layer]) -> dict[str, Layer]:
    """On the CPU or on a GPU as a whole: layers that name no backend follow those that do."""
    named = {name: layer.backend for name, layer in layers.items() if layer.names_backend}
    if len({backend == "cupy" for backend in named.values()}) > 1:
        got = ", ".join(f"{n} {b}" for n, b in named.items())
        raise ValueError(f"Network: one device per net, got {got}")
    backend = next(iter(named.values()), None) or default_backend()
    moves = {n: "cupy" in (backend, layer.backend) for n, layer in layers.items()}
    return {n: layer.using(backend) if moves[n] else layer for n, layer in layers.items()}


def _check_shapes(layers: dict[str, Layer]) -> None:
    """Raise unless each layer takes what the layers before it put out."""
    shapes: dict[str, Any] = {}
    shape = None
    for name, layer in layers.items():
        if layer.source is not None and layer.source not in shapes:
            wrong = f"the output of {layer.source!r}, which is no layer before it"
            raise ValueError(f"Network: {name} takes {wrong}")
        try:
            shape = shapes[name] = layer.out_shape(shape)
        except ValueError as error:
            wrong = f"does not fit the layer before it: it {error}"
            raise ValueError(f"Network: {name} {wrong}") from None
        other = shape if layer.source is None else shapes[layer.source]
        if shape is not None and other is not None and other != shape:
            shapes_of = f"of shape {list(other)} to an input of {list(shape)}"
            raise ValueError(f"Network: {name} adds {layer.source} {shapes_of}")


def check_names(what: str, given: Iterable[str], known: Iterable[str], wrong: str) -> None:
    """Raise if `given` has a name that is not `known`."""
    if unknown := set(given) - set(known):
        raise ValueError(f"{what} names {sorted(unknown)}, {wrong}")


class naming:
    """Puts a layer's name in front of the errors that come out of it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: Any) -> None:
        if (
            isinstance(error, ValueError | TypeError)
            and error.args
            and isinstance(error.args[0], str)
        ):
            error.args = (f"{self.name}: {error.args[0]}", *error.args[1:])
