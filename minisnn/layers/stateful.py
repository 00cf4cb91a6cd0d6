"""Layers of neurons: what they share, whether they spike or not.  Parameters, states in and out, the time loop."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from .. import neurons, resets, surrogates
from ..files import name_in_file
from ..kernels import HARD, Dynamics, Kernel, Needs, ScanCache, Twin, kernel_of
from ..kernels.arrays import Array, to_device
from .base import Layer, as_input, as_upstream

__all__ = ["DEFAULT_DECAY", "Stateful", "by_name", "formula", "out_of_bounds"]

#: Leak of a parameter called ``decay...`` that was not given: the STL-SNN authors' value.
DEFAULT_DECAY = 0.5


class Stateful(Layer):
    """Base of layers of neurons with a state.

    A neuron of the layer is a *lane* of the time loop: whatever the layer's shape, the kernels see ``[T, B, N]``.
    """

    has_state = True
    shape: tuple[int, ...]
    dynamics: Dynamics

    def _set_up(self, shape: Any, neuron: Any, reset: Any, surrogate: Any) -> None:
        name = type(self).__name__
        for what, value, kind in (
            ("neuron", neuron, neurons.Neuron),
            ("reset", reset, resets.Reset),
            ("surrogate", surrogate, surrogates.Surrogate),
        ):
            if not isinstance(value, kind):
                raise TypeError(f"{name}: {what} must be a ms.{kind.__name__}, e.g. {_EXAMPLE[what]}, got {value!r}")
        self.shape, self.dynamics = _shape(name, shape), Dynamics(neuron, reset, surrogate)

    def _add_neuron_params(self, given: dict[str, Any]) -> None:
        """The neuron's parameters, each from its keyword; a leak may be left out."""
        name, params = type(self).__name__, self.dynamics.neuron.params
        if unknown := sorted(set(given) - set(params)):
            import difflib

            options = {n for one in type(self).__mro__ for n in inspect.signature(one).parameters}
            near = difflib.get_close_matches(unknown[0], [*params, *options], 1)
            meant = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"{name}: the neuron has no parameter {unknown}; its parameters are {params}{meant}")
        for param in params:
            if param not in given and not param.startswith("decay"):
                raise TypeError(f"{name}: the neuron's parameter {param!r} is missing: {name}(..., {param}=...)")
            self._add(param, given.get(param, DEFAULT_DECAY), "neuron")

    def _add(self, name: str, value: Any, role: str) -> None:
        self.params[name], self.roles[name] = to_device(self._spread(name, value), self.backend), role

    def _spread(self, name: str, value: Any) -> Array:
        """A parameter's array: a number is one value for every neuron, an array keeps its shape."""
        layer = type(self).__name__
        is_number = isinstance(value, int | float | np.generic) and not isinstance(value, bool)
        array = np.full(self.shape, value, self.dtype) if is_number else np.array(value, self.dtype)
        self._check_fits(name, array)
        if not np.isfinite(array).all():
            raise ValueError(f"{layer}: {name} must be finite, got {value!r}")
        if problem := out_of_bounds(name, array):
            raise ValueError(f"{layer}: {problem}")
        return array

    def _check_fits(self, name: str, array: Array) -> None:
        full = (1,) * (len(self.shape) - array.ndim) + array.shape
        if len(full) != len(self.shape) or any(n not in (1, m) for n, m in zip(full, self.shape, strict=True)):
            raise ValueError(
                f"{type(self).__name__}: {name} has shape {list(array.shape)}, "
                f"which does not broadcast to the layer's {list(self.shape)}"
            )

    # -- the run over time, and back

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of what is carried from step to step."""
        return self.dynamics.neuron.state

    def made_with(self) -> tuple[Any, ...]:
        return type(self).__name__, self.shape, *self.dynamics

    @property
    def kernel(self) -> Kernel:
        """The time loop of these dynamics, looked up once."""
        dynamics, backend, kernel = self.__dict__.get("_kernel", (None, None, None))
        if dynamics is not self.dynamics or backend != self.backend:
            kernel = kernel_of(self.dynamics, self.backend)
            self._kernel = self.dynamics, self.backend, kernel
        return kernel

    def _run(
        self, x: Array, state: Any, theta: Array | None, twin: Twin = HARD
    ) -> tuple[Array, dict[str, Array], ScanCache]:
        """``(spikes [T, B, N], state after the last step, cache of the loop)``; no `theta`: 0."""
        x, state0, params = self._ready(x, state)
        theta = np.zeros(x.shape[2:], self.dtype, like=x) if theta is None else theta
        spikes, state_last, scan = self.kernel.scan(x, state0, theta, params, self.dynamics.surrogate.k, twin)
        return spikes, by_name(self.state_names, state_last, self.shape), scan

    def _ready(self, x: Array, state: Any) -> tuple[Array, Array | None, Array]:
        """``(input current [T, B, N], state [K, B, N], parameters [Q, N])``, checked."""
        x = as_input(x, self, self.shape, steady=True).astype(self.dtype, copy=False)
        lanes = (*x.shape[:2], math.prod(self.shape))
        rest = [self._lanes(self.params[n]) for n in self.dynamics.neuron.params]
        params = np.concatenate(rest).reshape(-1, lanes[2]) if rest else np.empty((0, lanes[2]), self.dtype, like=x)
        return x.reshape(lanes), self._stacked(state, x.shape[1], "state"), params

    def _back(
        self, d_spikes: Array, d_state: Any, scan: ScanCache, wanted: set[str], input_grad: bool, state_given: bool
    ) -> tuple[Array | None, dict[str, Any]]:
        """``(d_x [T, B, N], gradients of the parameters, and of the initial state as "state" if one was given)``."""
        d_last = self._stacked(d_state, scan.x.shape[1], "d_state")
        needs = self._needs(wanted, input_grad, state_given)
        found = self.kernel.scan_adjoint(d_spikes.reshape(scan.x.shape), d_last, scan, needs)
        d_x, d_state0, d_theta, d_params = found
        grads: dict[str, Any] = self._summed(d_theta, d_params, wanted)
        return d_x, grads | ({"state": by_name(self.state_names, d_state0, self.shape)} if state_given else {})

    def _needs(self, wanted: set[str], x: bool, state: bool) -> Needs:
        return Needs(x, "threshold" in wanted, not wanted.isdisjoint(self.dynamics.neuron.params), state)

    def _summed(self, d_theta: Array | None, d_params: Array | None, wanted: set[str]) -> dict[str, Array]:
        """Partial sums of a kernel added up to the parameters' shapes."""
        sums: dict[str, Array] = {} if d_theta is None else {"threshold": d_theta}
        if d_params is not None:
            sums |= zip(self.dynamics.neuron.params, d_params, strict=True)
        return {n: self._of_shape(sums[n], self.params[n]) for n in self.params if n in sums and n in wanted}

    def _stacked(self, state: Any, batch: int, what: str) -> Array | None:
        """A state given by name as ``[K, B, N]``; ``None``, for zeros, if none was."""
        if state is None:
            return None
        return np.stack(self._state_arrays(state, batch, what)).reshape(-1, batch, math.prod(self.shape))

    def _lanes(self, param: Array) -> Array:
        """A parameter of any shape that broadcasts, laid out as one value per neuron ``[N]``."""
        whole = param if param.shape == self.shape else np.broadcast_to(param, self.shape)
        return whole.flatten()  # (thresholds.5)

    def _of_shape(self, sums: Array, param: Array) -> Array:
        """The adjoint of `_lanes`: partial sums ``[P, N]`` added up to the shape of the parameter."""
        d = sums.sum(axis=0).reshape(self.shape)
        if param.shape == self.shape:
            return d
        full = (1,) * (d.ndim - param.ndim) + param.shape
        axes = tuple(i for i, (n, m) in enumerate(zip(full, d.shape, strict=True)) if n == 1 and m > 1)
        return d.sum(axis=axes, keepdims=True).reshape(param.shape) if axes else d.reshape(param.shape)  # (thresholds.6)

    def _state_arrays(self, state: Mapping[str, Array], batch: int, what: str) -> list[Array]:
        names = self.state_names
        if not isinstance(state, Mapping) or set(state) != set(names):
            got = sorted(state) if isinstance(state, Mapping) else type(state).__name__
            raise ValueError(f"{type(self).__name__}: {what} must be a dict with the keys {list(names)}, got {got}")
        return [as_upstream(state[n], (batch, *self.shape), self, f"{what}[{n!r}]") for n in names]

    def out_shape(self, in_shape: tuple[int, ...] | None) -> tuple[int, ...]:
        if in_shape not in (None, self.shape):
            raise ValueError(f"has {list(self.shape)} neurons, got {list(in_shape or ())} per sample and step")
        return self.shape

    def config(self) -> dict[str, Any]:
        neuron, reset, surrogate = self.dynamics
        return {
            "shape": list(self.shape),
            "neuron": name_in_file(neuron, neurons.NEURONS, neuron.charge),
            "reset": name_in_file(reset, resets.RESETS, reset.reset),
            "surrogate": name_in_file(
                surrogate, {n: make(surrogate.k) for n, make in surrogates.SURROGATES.items()}, surrogate.smooth
            ),
            "k": surrogate.k,
        }

    def _check_saved(self, name: str, array: Array) -> None:
        self._check_fits(name, array)

    def out_of_bounds(self) -> Iterable[tuple[str, str]]:
        """``(parameter, what is wrong)`` for every parameter that has left the range where it makes sense."""
        for name in self.params:
            if problem := out_of_bounds(name, getattr(self, name)):
                yield name, problem


def by_name(names: tuple[str, ...], states: Array | None, shape: tuple[int, ...]) -> dict[str, Array]:
    """States ``[K, B, N]`` of the loop as a layer returns them: ``{name: [B, *shape]}``."""
    assert states is not None
    return {n: s.reshape(-1, *shape) for n, s in zip(names, states, strict=True)}


def out_of_bounds(name: str, values: Array) -> str | None:
    """What is wrong with a threshold or a decay; ``None`` if nothing is."""
    if name == "threshold" and not (values > 0).all():
        return f"threshold must be > 0, got {float(values.min()):g}: a neuron with threshold <= 0 fires without input"
    if name.startswith("decay") and not ((values >= 0) & (values <= 1)).all():
        worst = float(values.min() if values.min() < 0 else values.max())
        return f"{name} must lie in [0, 1], got {worst:g}: it is the share of the state kept per step, not a time constant"
    return None


_EXAMPLE = {"neuron": "ms.neurons.lif", "reset": "ms.resets.hard", "surrogate": "ms.surrogates.atan(2.0)"}


def _shape(layer: str, shape: Any) -> tuple[int, ...]:
    sizes = tuple(shape) if isinstance(shape, tuple | list) else (shape,)
    if not sizes or not all(isinstance(n, int | np.integer) and not isinstance(n, bool) and n > 0 for n in sizes):
        raise ValueError(f"{layer}: shape must be a positive whole number or a tuple of them, got {shape!r}")
    return tuple(int(n) for n in sizes)


def formula(function: Any) -> str:
    """What a one-line function returns, in its own words; its name where there is no source to read."""
    try:
        lines = [line.split("#")[0].strip() for line in inspect.getsource(function).splitlines()]
    except (OSError, TypeError):
        return f"{function.__name__}(...)"
    returned = [line.removeprefix("return ") for line in lines if line.startswith("return ")]
    return returned[0] if returned else f"{function.__name__}(...)"
