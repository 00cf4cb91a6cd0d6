"""What a layer is: parameters by name, a forward that returns a cache, a backward that reads it.

The contract::

    y, cache = layer.forward(x, state=None, train=False, rng=None)
    d_x, grads = layer.backward(d_y, cache, d_state=None, wrt=None, input_grad=True)

Both are pure: they write no input, cache or earlier result, ``backward`` may be called twice, and
gradients are returned, never accumulated.  Time comes first: ``x`` is ``[T, B, ...]``.  A cache
refers to its input and to the weights and does not copy them: go backward before the optimizer's
next step.

On a GPU the same code runs on CuPy arrays: NumPy's functions pass them on to CuPy's, and ``like=``
tells a function that makes an array where to make it (:mod:`minisnn.kernels.arrays`).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ..kernels import check_backend, default_backend
from ..kernels.arrays import Array, float_dtype, to_device
from .inputs import Cache, as_cache, as_input, as_upstream, at_every_step, require

__all__ = ["Back", "Layer", "Names"]
__all__ += ["Cache", "as_cache", "as_input", "as_upstream", "at_every_step", "require"]

Names = Iterable[str] | None  #: names of parameters, ``None`` for all of them
#: What ``backward`` returns: the gradient of the input, and gradients by parameter name, with
#: ``"state"`` for those of a given state.
Back = tuple[Array | None, dict[str, Any]]


class Layer:
    """Base of all layers; holds the parameters, makes copies with another backend or dtype."""

    spiking, has_state, takes_mask = False, False, False
    ends_time = False  #: whether the output is ``[B, ...]``, scores for the whole run
    #: Arguments of the constructor that are plain data, kept under their names: a file has them.
    options: tuple[str, ...] = ()
    #: Name of an earlier layer whose output `forward` takes as ``other`` besides its input.
    source: str | None = None
    #: What a twin takes from the base run: fields of its cache, and arguments of `forward`.
    holds: tuple[str, ...] = ()

    def __init__(self, dtype: Any = "float32", backend: str | None = None) -> None:
        self.dtype = float_dtype(dtype)
        #: What runs the time loops: the backend that was named, else the default of this machine.
        self.backend = default_backend() if backend is None else check_backend(backend)
        self.names_backend = backend is not None
        self.params: dict[str, Array] = {}
        #: What parameters are: "threshold", "neuron", or "synapse", which may be left out.
        self.roles: dict[str, str] = {}
        #: What does not learn by gradients, e.g. running statistics.
        self.buffers: dict[str, Array] = {}

    def forward(self, x: Array, *, state=None, train=False, rng=None) -> tuple[Array, Any]:
        """Return the output and a cache for `backward`.

        Raises
        ------
        TypeError, ValueError : `x` is not of the layer's dtype or spikes, or not ``[T, B, ...]`` of
            a size that fits; the message names what came and what was expected.
        """
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def backward(self, d_y, cache, *, d_state=None, wrt: Names = None, input_grad=True) -> Back:
        """Return the gradient of the input and a dict of the parameters' gradients.

        Parameters
        ----------
        d_y : gradient of the output.   cache : what `forward` returned.
        d_state : gradient of the state after the last step; zero if not given.
        wrt : names of the parameters whose gradients are needed; all if not given.
        input_grad : whether the input's gradient is needed; if not, it is ``None``.

        Raises
        ------
        TypeError, ValueError : `d_y` has not the shape or dtype of the output; `wrt` names no
            parameter of the layer.
        """
        raise NotImplementedError(f"{type(self).__name__} has no backward")

    def needs(self, wrt: Names) -> set[str]:
        """The parameters that `wrt` names, one or several; all for ``None``, else an error."""
        known = list(self.params)
        if wrt is None:
            return set(known)
        if not isinstance(wrt, Iterable):  # e.g. True
            raise TypeError(f"{type(self).__name__}: wrt must be names among {known}, got {wrt!r}")
        names = {wrt} if isinstance(wrt, str) else set(wrt)
        if unknown := names.difference(known):
            expected = f"expected some of {known}" if known else "there are none"
            raise ValueError(f"{type(self).__name__}: wrt names {list(unknown)}, {expected}")
        return names

    def made_with(self) -> tuple[Any, ...]:
        """What tells a cache of the layer from that of another: its kind, options and sizes."""
        shapes = [array.shape for array in self.params.values()]
        return type(self).__name__, *[getattr(self, name) for name in self.options], *shapes

    def keep(self, y: Array, kind: type = Cache, **values: Any) -> Any:
        """The cache of a run with the output `y`: the `values` that `backward` reads, by name."""
        return kind(made_with=self.made_with(), y_shape=y.shape, **values)

    def checked(self, d_y: Any, cache: Any, wrt: Names) -> tuple[Array, set[str]]:
        """``(d_y, names)`` that fit; raises, e.g. if `keep` of another layer made the cache."""
        d_y = as_upstream(d_y, as_cache(cache, self).y_shape, self)
        return d_y, self.needs(wrt)

    def out_shape(self, in_shape: tuple[int, ...] | None) -> tuple[int, ...] | None:
        """Shape of one sample at one step after this layer, ``None`` if unknown.

        Raises ValueError if the layer cannot take `in_shape`; the message goes on after "it".
        """
        return in_shape

    def _out_shape(self, x: Array) -> Any:
        """`out_shape` of an input ``[T, B, ...]``, for a layer that is called by itself."""
        try:
            return self.out_shape(x.shape[2:])
        except ValueError as error:
            raise ValueError(f"{type(self).__name__}: {error}") from None

    # -- the same layer, otherwise

    def using(self, backend: str) -> Layer:
        """The same layer on another backend: those on the CPU share arrays, a GPU has its own."""
        check_backend(backend)
        new = {"backend": backend, "names_backend": True}
        return self._changed(lambda array: to_device(array, backend), **new)

    def astype(self, dtype: Any) -> Layer:
        """A copy of the layer with parameters of another float dtype."""
        dtype = float_dtype(dtype)
        return self._changed(lambda array: array.astype(dtype), dtype=dtype)

    def _changed(self, convert: Any = None, **attributes: Any) -> Layer:
        """A copy with other attributes; its arrays are converted, or shared."""
        other = copy.copy(self)
        for kind in ("params", "buffers") if convert else ():
            attributes[kind] = {name: convert(a) for name, a in getattr(self, kind).items()}
        for name, value in attributes.items():
            setattr(other, name, value)
        return other

    def smoothed(self) -> Layer:
        """The smooth twin: for a layer without spikes, the layer itself."""
        return self

    def twin(self, x, base, fire: str, *, state=None, **other) -> tuple[Array, Any]:
        """`forward` of a twin that keeps to the run with the cache `base` (:ref:`law-5`).

        `fire` is "smooth", "tangent" or "step".  A layer without spikes is its own twin, if it
        `holds` what it drew or chose.
        """
        held = {name: getattr(base, name) for name in self.holds}
        return self.forward(x, state=state, **other, **held)

    def sides(self, cache: Any) -> Array | None:
        """On which side of its kinks every value lay, ``None`` if the layer has no kinks.

        A difference across a kink is no derivative.
        """
        return None

    # -- in a file

    def config(self) -> dict[str, Any]:
        """What a file keeps of the layer besides its arrays: plain data, which `rebuild` reads."""
        return {name: getattr(self, name) for name in self.options}

    @classmethod
    def rebuild(cls, config, params, dtype, custom) -> Any:
        """The layer that `config` and arrays by name describe; `custom` has a user's ingredients.

        It must not reserve memory for sizes that only `config` claims: a file may be damaged.
        """
        return cls(**config).astype(dtype)._load(params)

    def _load(self, params: Mapping[str, Array]) -> Any:
        """Take over saved raw values, in bounds or not: training may have crossed them."""
        expected = {**self.params, **self.buffers}
        if set(params) != set(expected):
            raise ValueError(f"its arrays are {list(expected)}, the file has {list(params)}")
        for name, array in params.items():
            if (array.dtype, array.shape) != (self.dtype, shape := expected[name].shape):
                got = f"{name} is {array.dtype} {list(array.shape)}"
                raise ValueError(f"{got}, expected {self.dtype} {list(shape)}")
            (self.params if name in self.params else self.buffers)[name] = array
        return self

    # -- parameters

    def _set(self, name: str, values: Any, shape: tuple[int, ...]) -> None:
        """A parameter of that shape, from values that are checked."""
        self.params[name] = to_device(self._as_param(name, values, shape), self.backend)

    def _set_weights(self, values, shape, fan_in: int, rng: Any, name: str = "weight") -> None:
        """Weights as given, or drawn from U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""
        if values is None:
            ok, what = isinstance(rng, np.random.Generator), f"{type(self).__name__}: rng"
            require(ok, what, "a generator, e.g. rng=np.random.default_rng(0)", rng, TypeError)
            bound = 1 / math.sqrt(fan_in)
            values = rng.uniform(-bound, bound, shape)
        self._set(name, values, shape)

    def _set_bias(self, values: Any, n: int) -> None:
        """A bias as given, or of zeros for ``True``; none for ``False``."""
        if values is not False:
            self._set("bias", np.zeros(n) if values is True else values, (n,))

    def _as_param(self, name: str, values: Any, shape: tuple[int, ...]) -> Array:
        """Values for a parameter of that shape, checked."""
        array = np.array(values, self.dtype, order="C")
        if array.shape != shape:
            hint = ": did you mean its transpose?" if array.shape == shape[::-1] else ""
            got = f"{name} has shape {list(array.shape)}, expected {list(shape)}{hint}"
            raise ValueError(f"{type(self).__name__}: {got}")
        require(np.isfinite(array).all(), f"{type(self).__name__}: {name}", "finite", values)
        return array

    def __setattr__(self, name: str, value: Any) -> None:
        """New values of a parameter are checked as the constructor's, and written in place."""
        arrays = self.__dict__.get("params", {}) | self.__dict__.get("buffers", {})
        if name in arrays:
            new = self._as_param(name, value, arrays[name].shape)
            arrays[name][...] = to_device(new, self.backend)
        else:
            super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        params = self.__dict__.get("params", {})
        arrays = params | self.__dict__.get("buffers", {})
        if name in arrays:
            return arrays[name]
        kind = type(self).__name__
        raise AttributeError(f"{kind} has no attribute {name!r}; its parameters are {list(params)}")

    def _describe(self) -> str:
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in self.options)

    def __repr__(self) -> str:
        counts = ", ".join(f"{n} {list(p.shape)}" for n, p in self.params.items())
        found = f"{type(self).__name__}({self._describe()})"
        return f"{found}  parameters: {counts}" if counts else found
