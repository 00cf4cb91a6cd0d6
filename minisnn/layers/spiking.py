"""Spiking: a layer of neurons whose thresholds and leaks are parameters like any weight."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from .. import neurons, resets, surrogates
from ..kernels import Base, Dynamics, ScanCache, Wanted, kernel_of
from ..kernels.contract import Array
from .base import Layer, as_input, as_upstream

__all__ = ["LIF", "Spiking", "SpikingCache"]

#: Leak of a parameter called ``decay...`` that was not given: the STL-SNN authors' value.
DEFAULT_DECAY = 0.5


class SpikingCache(NamedTuple):
    """What `backward` needs, and what there is to look at after a forward run.

    ``spikes`` and ``u`` (the membrane after the charge and before the reset) are ``[T, B, *shape]``; ``state`` is the
    state after the last step, ready to be handed to the next call: ``{"v": [B, *shape], ...}``.
    """

    spikes: Array
    u: Array
    state: dict[str, Array]
    scan: ScanCache
    state_given: bool


class Spiking(Layer):
    """A layer of spiking neurons: any neuron, any reset, any surrogate.

    Parameters
    ----------
    shape : shape of one sample at one step, e.g. ``128`` or ``(8, 14, 14)``.
    neuron, reset, surrogate : the dynamics, e.g. ``ms.neurons.lif``, ``ms.resets.soft``, ``ms.surrogates.atan(2.0)``.
    threshold : a number gives every neuron a threshold of its own, which starts there; an array keeps its own shape,
        which must broadcast to `shape` (``np.array(1.0)`` is one shared threshold, ``(C, 1, 1)`` one per channel).
    decay : leak per step in [0, 1], the share of the membrane that is kept; number or array as for `threshold`.
        Default 0.5.
    dtype : "float32" or "float64".   backend : "numba", "numpy", or ``None`` for this machine's default.
    **params : the neuron's other parameters by their names, e.g. ``decay_syn=0.8``.

    Raises
    ------
    ValueError : a threshold <= 0, a decay outside [0, 1], a shape that does not fit, a parameter the neuron lacks.
    TypeError : an ingredient of the wrong kind, or a missing parameter.
    """

    spiking = True

    def __init__(
        self,
        shape: int | tuple[int, ...],
        *,
        neuron: neurons.Neuron = neurons.lif,
        reset: resets.Reset = resets.hard,
        surrogate: surrogates.Surrogate | None = None,
        threshold: Any = 1.0,
        decay: Any = None,
        dtype: Any = "float32",
        backend: str | None = None,
        **params: Any,
    ) -> None:
        super().__init__(dtype, backend)
        surrogate = surrogates.atan(2.0) if surrogate is None else surrogate
        for name, value, kind in (
            ("neuron", neuron, neurons.Neuron),
            ("reset", reset, resets.Reset),
            ("surrogate", surrogate, surrogates.Surrogate),
        ):
            if not isinstance(value, kind):
                raise TypeError(f"Spiking: {name} must be a ms.{kind.__name__}, e.g. {_EXAMPLE[name]}, got {value!r}")
        self.shape = _shape(shape)
        self.dynamics = Dynamics(neuron, reset, surrogate)
        self.fire = "step"
        self._add("threshold", threshold, "threshold")
        if decay is not None:
            params["decay"] = decay
        for name in neuron.params:
            if name not in params and not name.startswith("decay"):
                raise TypeError(f"Spiking: the neuron's parameter {name!r} is missing: Spiking(..., {name}=...)")
            self._add(name, params.pop(name, DEFAULT_DECAY), "neuron")
        if params:
            raise ValueError(f"Spiking: the neuron has no parameter {sorted(params)}; its parameters are {neuron.params}")

    def _add(self, name: str, value: Any, role: str) -> None:
        is_number = isinstance(value, int | float | np.generic) and not isinstance(value, bool)
        array = np.full(self.shape, value, self.dtype) if is_number else np.array(value, self.dtype)
        try:
            np.broadcast_to(array, self.shape)
        except ValueError:
            raise ValueError(
                f"Spiking: {name} has shape {list(array.shape)}, which does not broadcast to the layer's {list(self.shape)}"
            ) from None
        if not np.isfinite(array).all():
            raise ValueError(f"Spiking: {name} must be finite, got {value!r}")
        if problem := out_of_bounds(name, array):
            raise ValueError(f"Spiking: {problem}")
        self.params[name], self.roles[name] = array, role

    def forward(
        self, x: Array, *, state: Mapping[str, Array] | None = None, train: bool = False, rng: Any = None
    ) -> tuple[Array, SpikingCache]:
        """Run the neurons over time.

        Parameters
        ----------
        x : input current ``[T, B, *shape]``, of the layer's dtype, or spikes (uint8, bool).
        state : state before the first step, ``{"v": [B, *shape], ...}``; zero if not given.
        train, rng : not used; every layer takes them.

        Returns
        -------
        spikes : ``[T, B, *shape]``, uint8 0 or 1 (of the layer's dtype in a smooth twin).
        cache : :class:`SpikingCache`.
        """
        return self._run(x, state, self.fire, None)

    def twin(
        self, x: Array, base: SpikingCache, fire: str, *, state: Mapping[str, Array] | None = None
    ) -> tuple[Array, SpikingCache]:
        return self._run(x, state, fire, Base(base.scan.u[0], base.scan.spikes, base.scan.theta))

    def sides(self, cache: SpikingCache) -> Array:
        return cache.scan.u[0] >= cache.scan.theta

    def _run(self, x: Array, state: Mapping[str, Array] | None, fire: str, base: Base | None) -> tuple[Array, SpikingCache]:
        x = as_input(x, self, self.shape).astype(self.dtype, copy=False)
        lanes = (*x.shape[:2], math.prod(self.shape))
        names = self.dynamics.neuron.state
        if state is None:
            state0 = np.zeros((len(names), *lanes[1:]), self.dtype)
        else:
            state0 = np.stack(self._state_arrays(state, x.shape[1], "state")).reshape(-1, *lanes[1:])
        theta, *rest = (self._lanes(p) for p in self.params.values())
        params = np.stack(rest) if rest else np.empty((0, lanes[2]), self.dtype)
        spikes, state_last, scan = kernel_of(self.dynamics, self.backend).scan(
            x.reshape(lanes), state0, theta, params, self.dynamics.surrogate.k, fire, base
        )
        after = {n: s.reshape(-1, *self.shape) for n, s in zip(names, state_last, strict=True)}
        cache = SpikingCache(spikes.reshape(x.shape), scan.u[0].reshape(x.shape), after, scan, state is not None)
        return cache.spikes, cache

    def backward(
        self,
        d_y: Array,
        cache: SpikingCache,
        *,
        d_state: Mapping[str, Array] | None = None,
        wrt: Iterable[str] | None = None,
        input_grad: bool = True,
    ) -> tuple[Array | None, dict[str, Any]]:
        """Backpropagation through time, the spikes' jump replaced by the surrogate's slope.

        Parameters
        ----------
        d_y : gradient of the spikes ``[T, B, *shape]``.
        cache : what `forward` returned.
        d_state : gradient of the state after the last step, ``{"v": [B, *shape], ...}``; zero if not given.
        wrt : names of the parameters whose gradients are wanted; all if not given.
        input_grad : whether the gradient of the input is wanted; if not, ``d_x`` is ``None``.

        Returns
        -------
        d_x : ``[T, B, *shape]``.
        grads : ``"threshold"`` and the neuron's parameters, each in its parameter's shape; and
            ``"state": {"v": [B, *shape], ...}`` if the forward was given a state.
        """
        names, wanted = self.dynamics.neuron.state, self._wanted(wrt)
        lanes = cache.scan.x.shape
        d_spikes = as_upstream(d_y, cache.spikes.shape, self).reshape(lanes)
        if d_state is None:
            d_last = np.zeros((len(names), *lanes[1:]), self.dtype)
        else:
            d_last = np.stack(self._state_arrays(d_state, lanes[1], "d_state")).reshape(-1, *lanes[1:])
        d_x, d_state0, d_theta, d_params = kernel_of(self.dynamics, self.backend).scan_adjoint(
            d_spikes, d_last, cache.scan, Wanted(input_grad, "threshold" in wanted, bool(wanted - {"threshold"}))
        )
        sums = [d_theta, *(d_params if d_params is not None else [None] * len(self.dynamics.neuron.params))]
        grads: dict[str, Any] = {
            n: self._of_shape(total, self.params[n]) for n, total in zip(self.params, sums, strict=True) if n in wanted
        }
        if cache.state_given:
            grads["state"] = {n: d.reshape(-1, *self.shape) for n, d in zip(names, d_state0, strict=True)}
        return None if d_x is None else d_x.reshape(cache.spikes.shape), grads

    def _lanes(self, param: Array) -> Array:
        """A parameter of any shape that broadcasts, laid out as one value per neuron ``[N]``."""
        return np.broadcast_to(param, self.shape).flatten()

    def _of_shape(self, sums: Array, param: Array) -> Array:
        """The adjoint of `_lanes`: partial sums ``[P, N]`` added up to the shape of the parameter."""
        d = sums.sum(axis=0).reshape(self.shape)
        full = (1,) * (d.ndim - param.ndim) + param.shape
        axes = tuple(i for i, (n, m) in enumerate(zip(full, d.shape, strict=True)) if n == 1 and m > 1)
        return d.sum(axis=axes, keepdims=True).reshape(param.shape) if axes else d.reshape(param.shape)

    def _state_arrays(self, state: Mapping[str, Array], batch: int, what: str) -> list[Array]:
        names = self.dynamics.neuron.state
        if not isinstance(state, Mapping) or set(state) != set(names):
            got = sorted(state) if isinstance(state, Mapping) else type(state).__name__
            raise ValueError(f"Spiking: {what} must be a dict with the keys {list(names)}, got {got}")
        return [as_upstream(state[n], (batch, *self.shape), self, f"{what}[{n!r}]") for n in names]

    def smoothed(self) -> Spiking:
        """The smooth twin: spikes are the surrogate's curve.  It shares its parameter arrays with this layer."""
        return self._changed(fire="smooth")  # type: ignore[return-value]

    def out_shape(self, in_shape: tuple[int, ...] | None) -> tuple[int, ...]:
        if in_shape not in (None, self.shape):
            raise ValueError(f"has {list(self.shape)} neurons, got {list(in_shape or ())} per sample and step")
        return self.shape

    def _describe(self) -> str:
        neuron, reset, surrogate = self.dynamics
        spike = "u >= threshold" if self.fire == "step" else f"{surrogate.smooth.__name__}(u - threshold) (smooth twin)"
        return (
            f"{', '.join(map(str, self.shape))}: u = {_formula(neuron.charge)}; spike = {spike}; "
            f"v = {_formula(reset.reset)}" + (f" ({', '.join(reset.stop)} detached)" if reset.stop else "")
            + f"; {surrogate.slope.__name__}, k={surrogate.k:g}; {self.backend}"
        )  # fmt: skip


def LIF(shape: int | tuple[int, ...], *, decay: Any = DEFAULT_DECAY, threshold: Any = 1.0, **options: Any) -> Spiking:
    """A layer of leaky integrate-and-fire neurons, the STL-SNN authors' by default: :class:`Spiking` with ``neurons.lif``.

    Hard reset in the graph (not detached), atan surrogate with k = 2, zero initial state, spike at ``>=``.
    """
    return Spiking(shape, neuron=neurons.lif, decay=decay, threshold=threshold, **options)


def out_of_bounds(name: str, values: Array) -> str | None:
    """What is wrong with a threshold or a decay; ``None`` if nothing is."""
    if name == "threshold" and not (values > 0).all():
        return f"threshold must be > 0, got {values.min():g}: a neuron with threshold <= 0 fires without input"
    if name.startswith("decay") and not ((values >= 0) & (values <= 1)).all():
        worst = values.min() if values.min() < 0 else values.max()
        return f"{name} must lie in [0, 1], got {worst:g}: it is the share of the state kept per step, not a time constant"
    return None


_EXAMPLE = {"neuron": "ms.neurons.lif", "reset": "ms.resets.hard", "surrogate": "ms.surrogates.atan(2.0)"}


def _shape(shape: Any) -> tuple[int, ...]:
    sizes = tuple(shape) if isinstance(shape, tuple | list) else (shape,)
    if not sizes or not all(isinstance(n, int | np.integer) and not isinstance(n, bool) and n > 0 for n in sizes):
        raise ValueError(f"Spiking: shape must be a positive whole number or a tuple of them, got {shape!r}")
    return tuple(int(n) for n in sizes)


def _formula(function: Any) -> str:
    """What a one-line function returns, in its own words; its name where there is no source to read."""
    try:
        lines = [line.split("#")[0].strip() for line in inspect.getsource(function).splitlines()]
    except (OSError, TypeError):
        return f"{function.__name__}(...)"
    returned = [line.removeprefix("return ") for line in lines if line.startswith("return ")]
    return returned[0] if returned else f"{function.__name__}(...)"
