"""Layers in order, by name: whether they fit, their parameters, copies, and their file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from . import files
from .kernels import check_backend, default_backend
from .kernels.arrays import Array, float_dtype, to_device
from .layers import LAYERS, Layer
from .rules import Pattern, choose
from .thresholds import Constraint

__all__ = ["Stack", "by_layer", "naming"]

LONGEST = 60  #: letters of a layer's name


class Stack:
    """Layers in order; the names appear in every table.  :class:`minisnn.Network` runs them."""

    def __init__(self, **layers: Layer) -> None:
        if not layers:
            example = "e.g. Network(fc1=ms.Linear(64, 10, rng=rng))"
            raise ValueError(f"Network: needs at least one layer, {example}")
        for name, layer in layers.items():
            if not isinstance(layer, Layer):
                raise TypeError(f"Network: {name} must be a layer, got {layer!r}")
            if not all(c.isalnum() or c in "_-" for c in name) or not 0 < len(name) <= LONGEST:
                expected = f"1 to {LONGEST} letters, digits, '_' and '-': parameters and files use"
                raise ValueError(f"Network: a layer's name must be {expected} it; got {name!r}")
            first = next(n for n, other in layers.items() if other is layer)
            if first != name:
                raise ValueError(f"Network: {first} and {name} are the same layer; make two")
        decide = {n: layer for n, layer in layers.items() if layer.params} or layers
        if len({layer.dtype for layer in decide.values()}) > 1:
            got = ", ".join(f"{n} {layer.dtype}" for n, layer in decide.items())
            raise TypeError(f"Network: one float dtype per net, got {got}")
        self.dtype = next(iter(decide.values())).dtype
        # Layers without parameters follow, so that their makers need not name the dtype.
        layers = {n: a if a.params else a.astype(self.dtype) for n, a in layers.items()}
        self.layers = _on_one_device(layers)
        _check_shapes(self.layers)

    # -- parameters

    def params(self, pattern: Pattern = None) -> dict[str, Array]:
        """The live parameter arrays by name (``"fc1.weight"``), those that `pattern` chooses.

        Raises
        ------
        ValueError : the pattern matches no parameter; the message lists the names.
        """
        arrays, roles = dict[str, Array](), dict[str, str]()
        for name, layer in self.layers.items():
            arrays |= {f"{name}.{p}": array for p, array in layer.params.items()}
            roles |= {f"{name}.{p}": layer.roles.get(p, "synapse") for p in layer.params}
        return arrays if pattern is None else {n: arrays[n] for n in choose(pattern, roles)}

    def buffers(self) -> dict[str, Array]:
        """The live arrays that do not learn by gradients, by name: ``"norm1.running_mean"``."""
        each = [(n, b, array) for n, a in self.layers.items() for b, array in a.buffers.items()]
        return {f"{n}.{b}": array for n, b, array in each}

    def arrays(self) -> dict[str, Array]:
        """All that a network is besides its architecture: parameters and buffers."""
        return {**self.params(), **self.buffers()}

    def commit(self, caches: Mapping[str, Any]) -> None:
        """Take over the running statistics of a training run; only this method writes them."""
        for name, layer in self.layers.items():
            for buffer, array in layer.buffers.items():
                array[...] = caches[name].buffers[buffer]

    def constraints(self) -> dict[str, Constraint]:
        """The bounds on parameters, by parameter name."""
        found = {f"{n}.threshold": getattr(a, "constraint", None) for n, a in self.layers.items()}
        return {n: bound for n, bound in found.items() if bound is not None}

    # -- copies with something changed

    def using(self, backend: str) -> Self:
        """The same network on another backend: those on the CPU share arrays, a GPU has its own.

        ``net.using("cupy")`` copies them to the GPU, ``using("numba")`` of that network copies them
        back.  An optimizer belongs to the network that it was made for.
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

    # -- on disk

    def description(self) -> dict[str, Any]:
        """Architecture as plain data: what a file keeps of the network besides its arrays."""
        layers = [
            {"name": name, "type": files.name_in_file(type(layer), LAYERS, type(layer))}
            | {"config": layer.config(), "arrays": [*layer.params, *layer.buffers]}
            for name, layer in self.layers.items()
        ]
        return {"dtype": str(self.dtype), "layers": layers}

    @classmethod
    def rebuild(cls, description: Mapping[str, Any], arrays: Mapping[str, Array], custom) -> Self:
        """The network of a `description` and its arrays by name; `custom` as for `load`."""
        dtype, layers = float_dtype(description["dtype"]), dict[str, Layer]()
        expected = [f"{one['name']}.{p}" for one in description["layers"] for p in one["arrays"]]
        if sorted(expected) != sorted(arrays):
            given = f"the file has {', '.join(arrays) or 'none'}"
            raise ValueError(f"its arrays are {', '.join(expected) or 'none'}, {given}")
        for one in description["layers"]:
            own = {p: arrays[f"{one['name']}.{p}"] for p in one["arrays"]}
            with naming(one["name"]):
                kind = files.find(one["type"], LAYERS, custom)
                layers[one["name"]] = kind.rebuild(one["config"], own, dtype, custom)
        return cls(**layers)

    def save(self, path: str | Path, **notes: Any) -> Path:
        """Write architecture and parameters to one ``.npz`` without pickle; `ms.load` reads it.

        The file is written whole or not at all, and keeps `notes`, which are plain data.  It does
        not hold what a neuron or a layer of your own computes: give those to `ms.load`.

        Raises
        ------
        TypeError : a layer of your own needs arguments that its ``options`` do not name.
        """
        for name, layer in self.layers.items():
            if type(layer) not in LAYERS.values():
                _check_rebuilds(name, layer)
        header = {"network": self.description(), "notes": notes}
        return files.write(path, "network", header, self.arrays())

    @classmethod
    def load(cls, path: str | Path, *, custom: Mapping[str, Any] | None = None) -> Self:
        """The network that :meth:`save`, or a checkpoint of ``fit``, wrote to `path`.

        Parameters
        ----------
        custom : what is not minisnn's own: ingredients by the name of their function, layers by
            that of their class, e.g. ``{"my_charge": my_neuron, "Gain": Gain}``.

        Raises
        ------
        FileNotFoundError : there is no such file.
        FileError : it is damaged, a pickle, of a newer format, or needs `custom`.
        """
        header, arrays = files.read(path, ("network", "checkpoint"))
        own = {name: array for name, array in arrays.items() if "/" not in name}
        try:  # a checkpoint has more arrays, with a "/"
            return cls.rebuild(header["network"], own, custom or {})
        except Exception as error:  # the header may hold anything
            kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
            raise files.FileError(f"{path}: no network can be made of it: {kind}{error}") from None

    # -- where it runs, and how it looks

    def _with(self, attribute: str) -> list[str]:
        return [name for name, layer in self.layers.items() if getattr(layer, attribute)]

    def _here(self, x: Any) -> Array:
        """`x` on the network's GPU if it has one; else the first layer checks where it is."""
        return to_device(x, "cupy") if self.backend == "cupy" else x

    @property
    def backend(self) -> str:
        """The backend of the spiking layers, or several joined by ``+``; on a GPU that of all."""
        each = self.layers.values()
        found = {layer.backend for layer in each if layer.spiking or layer.backend == "cupy"}
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
    shapes, shape, ended = dict[str | None, Any](), None, None
    for name, layer in layers.items():
        if ended is not None:
            wrong = f"follows {ended}, after which there is no time axis"
            raise ValueError(f"Network: {name} {wrong}; {ended} must be the last layer")
        ended = name if layer.ends_time else None
        if layer.source is not None and layer.source not in shapes:
            wrong = f"the output of {layer.source!r}, which is no layer before it"
            raise ValueError(f"Network: {name} takes {wrong}")
        try:
            shape = shapes[name] = layer.out_shape(shape)
        except ValueError as error:
            wrong = f"does not fit the layer before it: it {error}"
            raise ValueError(f"Network: {name} {wrong}") from None
        other = shapes.get(layer.source, shape)
        if shape is not None and other is not None and other != shape:
            wrong = f"{layer.source} of shape {list(other)} to an input of {list(shape)}"
            raise ValueError(f"Network: {name} adds {wrong}")


def _check_rebuilds(name: str, layer: Layer) -> None:
    """Raise if a file could not bring back a layer of a user's own class."""
    try:
        arrays = {**layer.params, **layer.buffers}
        type(layer).rebuild(layer.config(), arrays, layer.dtype, {})
    except (TypeError, AttributeError) as error:
        cure = "`options` must name the constructor's arguments, kept as attributes"
        raise TypeError(f"save: {name}: cannot be rebuilt from a file: {error}; {cure}") from None
    except ValueError:  # it has a neuron of its own, which ms.load is given
        pass


def by_layer(what: str, given: Any, known: list[str]) -> dict[str, Any]:
    """What was given by layer, as a dict; raise if a name is not `known`."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise TypeError(f"{what} must be a dict by layer, some of {known}, got {given!r}")
    if unknown := sorted(set(given) - set(known)):
        raise ValueError(f"{what} names {unknown}, expected some of {known}")
    return dict(given)


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Put a layer's name in front of the errors that come out of it."""
    try:
        yield
    except (ValueError, TypeError) as error:
        if error.args and isinstance(error.args[0], str):
            error.args = (f"{name}: {error.args[0]}", *error.args[1:])
        raise
