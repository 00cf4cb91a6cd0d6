"""What every layer is: parameters by name, a forward that returns a cache, a backward that reads it.

The contract::

    y, cache = layer.forward(x, state=None, train=False, rng=None)
    d_x, grads = layer.backward(d_y, cache, d_state=None, wrt=None, input_grad=True)

Both are pure: inputs, caches and earlier results are never written, ``backward`` may be called twice, gradients are
returned and never accumulated.  Time comes first: ``x`` is ``[T, B, ...]``.  A cache holds references, not copies, to
its input and to weights: go backward before the optimizer's next step.

On a GPU the same code runs on CuPy arrays: NumPy's functions pass them on to CuPy's, and an array that is made is told where
by ``like=`` (:mod:`minisnn.kernels.arrays`).

To add a layer: a class with ``forward`` and ``backward``, and its name in ``minisnn/layers/__init__.py``.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np

from ..kernels import check_backend, default_backend
from ..kernels.arrays import Array, float_dtype, get_array_module, in_one_piece, is_steady, to_device

__all__ = ["Back", "Config", "Grads", "Layer", "Names", "as_cache", "as_input", "as_upstream"]

#: Names of parameters, ``None`` for all of them.   Gradients by parameter name; ``"state"`` holds those of a given state.
Names = Iterable[str] | None
Grads = dict[str, Any]
Back = tuple[Array | None, Grads]  #: what ``backward`` returns
Config = Mapping[str, Any]  # plain data


class Layer:
    """Base of all layers; holds the parameters and the copies with another backend, dtype or spike."""

    #: What each parameter is: "synapse", "threshold" or "neuron"; the learning rules SL, TL, STL choose by it.
    roles: dict[str, str]
    params: dict[str, Array]
    #: What is kept besides the parameters and does not learn by gradients, e.g. running statistics.
    buffers: dict[str, Array]
    dtype: np.dtype
    backend: str
    names_backend: bool
    spiking: ClassVar[bool] = False
    has_state: ClassVar[bool] = False
    takes_mask: ClassVar[bool] = False
    #: Name of an earlier layer whose output `forward` takes as ``other`` besides its input; ``None`` for most layers.
    source: str | None = None

    def __init__(self, dtype: Any = "float32", backend: str | None = None) -> None:
        self.dtype = float_dtype(dtype)
        #: What runs the time loops: the backend that was named, else the default of this machine as it is now.
        self.backend = default_backend() if backend is None else check_backend(backend)
        self.names_backend = backend is not None
        self.params, self.roles, self.buffers = {}, {}, {}

    def forward(self, x: Array, *, state: Any = None, train: bool = False, rng: Any = None) -> tuple[Array, Any]:
        """Return the output and a cache for `backward`.

        Raises
        ------
        TypeError, ValueError : `x` is not of the layer's dtype or spikes, or not ``[T, B, ...]`` of a size that fits; the
            message names what came and what was expected.
        """
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def backward(self, d_y: Array, cache: Any, *, d_state=None, wrt: Names = None, input_grad: bool = True) -> Back:
        """Return the gradient of the input and a dict of the parameters' gradients.

        Raises
        ------
        TypeError, ValueError : `d_y` has not the shape or dtype of the output; `wrt` names no parameter of the layer.
        """
        raise NotImplementedError(f"{type(self).__name__} has no backward")

    def made_with(self) -> tuple[Any, ...]:
        """What a cache keeps of the layer, to be told from that of another: sizes, options, dynamics."""
        return ()

    def out_shape(self, in_shape: tuple[int, ...] | None) -> tuple[int, ...] | None:
        """Shape of one sample at one step after this layer, ``None`` where unknown; ValueError where it cannot be."""
        return in_shape

    def using(self, backend: str) -> Layer:
        """The same layer on another backend: on the CPU all share their parameter arrays, a GPU has its own."""
        check_backend(backend)
        params, buffers = ({n: to_device(a, backend) for n, a in kept.items()} for kept in (self.params, self.buffers))
        return self._changed(backend=backend, names_backend=True, params=params, buffers=buffers)

    def astype(self, dtype: Any) -> Layer:
        """A copy of the layer with parameters of another float dtype."""
        dtype = float_dtype(dtype)
        params, buffers = ({n: a.astype(dtype) for n, a in kept.items()} for kept in (self.params, self.buffers))
        return self._changed(dtype=dtype, params=params, buffers=buffers)

    def smoothed(self) -> Layer:
        """The smooth twin: for a layer without spikes, the layer itself."""
        return self

    def twin(self, x: Array, base: Any, fire: str, *, state: Any = None, **other: Any) -> tuple[Array, Any]:
        """`forward` of a twin that holds on to the run with the cache `base` (``docs/design``, law 5).

        `fire` is "smooth", "tangent" or "step".  A layer that neither spikes nor draws is its own twin.
        """
        return self.forward(x, state=state, **other)

    def sides(self, cache: Any) -> Array | None:
        """On which side of its kinks every value lay: a difference across one is no derivative.  ``None``: no kinks."""
        return None

    def config(self) -> dict[str, Any]:
        """What a file keeps of the layer besides its arrays: plain data, from which `rebuild` makes it again."""
        return {}

    @classmethod
    def rebuild(cls, config: Config, params: Mapping[str, Array], dtype: Any, custom: Config) -> Layer:
        """The layer that `config` and `params` describe; `custom` has a user's own ingredients by name.

        It must not reserve memory for sizes that only `config` claims: a file may be damaged.
        """
        return cls(**config).astype(dtype)._load(params)

    def _load(self, params: Mapping[str, Array]) -> Layer:
        """Take over saved arrays, raw values, without looking at their bounds: training may have crossed them."""
        if set(params) != {*self.params, *self.buffers}:
            raise ValueError(f"its arrays are {[*self.params, *self.buffers]}, the file has {list(params)}")
        for name, array in params.items():
            if array.dtype != self.dtype:
                raise ValueError(f"{name} has dtype {array.dtype}, expected {self.dtype}")
            self._check_saved(name, array)
            (self.params if name in self.params else self.buffers)[name] = array
        return self

    def _check_saved(self, name: str, array: Array) -> None:
        expected = {**self.params, **self.buffers}[name].shape
        if array.shape != expected:
            raise ValueError(f"{name} has shape {list(array.shape)}, expected {list(expected)}")

    def _set_weights(self, name: str, values: Any, shape: tuple[int, ...], fan_in: int, rng: Any) -> None:
        """Weights as given, or drawn from U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""
        if values is None:
            if not isinstance(rng, np.random.Generator):
                raise TypeError(
                    f"{type(self).__name__}: rng must be a generator, e.g. rng=np.random.default_rng(0), got {rng!r}"
                )
            bound = 1 / math.sqrt(fan_in)
            values = rng.uniform(-bound, bound, shape)
        self._set(name, values, shape)

    def _set(self, name: str, values: Array, shape: tuple[int, ...]) -> None:
        """A synaptic parameter, from values of that shape."""
        array = np.array(values, self.dtype, order="C")
        if array.shape != shape:
            hint = ": did you mean its transpose?" if array.shape == shape[::-1] else ""
            raise ValueError(f"{type(self).__name__}: {name} has shape {list(array.shape)}, expected {list(shape)}{hint}")
        self.params[name], self.roles[name] = to_device(array, self.backend), "synapse"

    def _out_shape(self, x: Array) -> tuple[int, ...]:
        """`out_shape` of an input ``[T, B, ...]``, for a layer that is called by itself."""
        try:
            return self.out_shape(x.shape[2:])  # type: ignore[return-value]
        except ValueError as error:
            raise ValueError(f"{type(self).__name__}: {error}") from None

    def _changed(self, **attributes: Any) -> Layer:
        other = copy.copy(self)
        other.__dict__.update(attributes)
        return other

    def _wanted(self, wrt: Names) -> set[str]:
        """The names in `wrt`, all parameters for ``None``."""
        return set(self.params) if wrt is None else self._names_in("wrt", wrt, list(self.params))

    def _names_in(self, option: str, given: Any, known: list[str]) -> set[str]:
        """The names in an option, one or several of those that are known."""
        try:
            names = {given} if isinstance(given, str) else set(given)
        except TypeError:  # no names, but e.g. True
            raise TypeError(f"{type(self).__name__}: {option} must be names among {known}, got {given!r}") from None
        if unknown := names - set(known):
            expected = f"expected some of {known}" if known else "there are none"
            raise ValueError(f"{type(self).__name__}: {option} names {list(unknown)}, {expected}")
        return names

    def __getattr__(self, name: str) -> Any:
        params = self.__dict__.get("params", {})
        for arrays in (params, self.__dict__.get("buffers", {})):
            if name in arrays:
                return arrays[name]
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}; its parameters are {list(params)}")

    def _describe(self) -> str:
        return ""

    def __repr__(self) -> str:
        counts = ", ".join(f"{n} {list(p.shape)}" for n, p in self.params.items())
        return f"{type(self).__name__}({self._describe()})" + (f"  parameters: {counts}" if counts else "")


_SPIKES = np.dtype(np.uint8), np.dtype(bool)


def as_input(x: Any, layer: Layer, shape: tuple[int | str, ...] | None = None, steady: bool = False) -> Array:
    """`x` as a C-contiguous array ``[T, B, *shape]`` of floats of the layer's dtype or of spikes; else a clear error.

    Entries of `shape` are sizes, or names of sizes that are free; ``None`` admits any shape.   `steady` : an input that is
    the same memory at every step (``arrays.is_steady``) stays so.
    """
    name = type(layer).__name__
    x = _at_home(x, "x", layer)
    if x.dtype != layer.dtype and x.dtype not in _SPIKES:
        hint = ""
        if x.dtype.kind == "f":
            hint = f": convert the input with x.astype('{layer.dtype}')"
            hint += f", or the net with net.astype('{x.dtype}')" if x.dtype.itemsize in (4, 8) else ""
        elif x.dtype.kind in "iu":
            hint = f": spikes are uint8 or bool; anything else needs x.astype('{layer.dtype}')"
        raise TypeError(f"{name}: x has dtype {x.dtype}, expected {layer.dtype} (or uint8 or bool spikes){hint}")
    fits = x.ndim >= 2 if shape is None else x.ndim == 2 + len(shape)
    if fits and shape is not None and x.shape[2:] != shape:
        fits = all(isinstance(n, str) or n == m for n, m in zip(shape, x.shape[2:], strict=True))
    if not fits:
        wanted = "[T, B, ...]" if shape is None else f"[T, B{''.join(f', {n}' for n in shape)}]"
        hint = "minisnn is time-first: did you leave out the time axis, or pass [B, T, ...]?"
        if shape is not None and x.ndim == 2 + len(shape):
            hint = f"Does the layer below have another size, or the data? One sample at one step is {list(x.shape[2:])}."
        raise ValueError(f"{name}: x has shape {list(x.shape)}, expected {wanted} (time, batch, then one sample). {hint}")
    if x.shape[0] == 0 or x.shape[1] == 0:
        empty = "no time steps (T = 0)" if x.shape[0] == 0 else "an empty batch (B = 0)"
        raise ValueError(f"{name}: x has shape {list(x.shape)}: {empty}, expected at least one")
    return x if in_one_piece(x) or (steady and is_steady(x)) else x.copy()


def as_upstream(d: Any, shape: tuple[int, ...], layer: Layer, what: str = "d_y") -> Array:
    """A gradient that comes from above, checked: C-contiguous, of the layer's dtype and of the shape of its forward."""
    d = _at_home(d, what, layer)
    if d.shape != tuple(shape):
        raise ValueError(
            f"{type(layer).__name__}: {what} has shape {list(d.shape)}, expected {list(shape)}, as forward gave"
        )
    if d.dtype != layer.dtype:
        raise TypeError(
            f"{type(layer).__name__}: {what} has dtype {d.dtype}, expected {layer.dtype}: use {what}.astype('{layer.dtype}')"
        )
    return d if in_one_piece(d) else d.copy()


def as_cache(cache: Any, kind: Any, layer: Layer) -> Any:
    """The cache, if it is that of this layer's `forward`, and the layer is still the one that made it."""
    if not isinstance(cache, kind):
        name, hint = type(layer).__name__, ""
        if isinstance(cache, Mapping):
            hint = ": of a network's caches take the one by the layer's name, caches['...']"
        elif hasattr(cache, "ndim"):
            hint = ": y, cache = layer.forward(x), then layer.backward(d_y, cache)"
        raise TypeError(f"{name}: cache must be the {kind.__name__} that forward returned, got {type(cache).__name__}{hint}")
    if cache.made_with != (now := layer.made_with()):
        differ = [(a, b) for a, b in zip(cache.made_with, now, strict=False) if a != b] or [(cache.made_with, now)]
        raise ValueError(
            f"{type(layer).__name__}: the cache is that of another layer, or the layer was changed after forward: "
            + ", ".join(f"made with {a!r}, the layer has {b!r}" for a, b in differ)
        )
    return cache


def _at_home(value: Any, what: str, layer: Layer) -> Array:
    """`value` as an array, if it is where the layer is.  A layer moves nothing: it would do so at every step."""
    on_gpu, name = layer.backend == "cupy", type(layer).__name__
    if on_gpu and get_array_module(value) is np:
        raise TypeError(f"{name} is on the GPU, {what} is not: cupy.asarray({what}); or the layer's using('numba')")
    if not on_gpu and get_array_module(value) is not np:
        raise TypeError(f"{name} is on the CPU, {what} is on the GPU: {what}.get(); or the layer's using('cupy')")
    return value if on_gpu else np.asarray(value)
