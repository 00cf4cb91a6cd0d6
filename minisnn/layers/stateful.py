"""Layers of neurons, whether they spike or not: parameters, states in and out, the time loop."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from .. import neurons, resets, surrogates
from ..files import name_in_file
from ..kernels import HARD, Dynamics, Kernel, Needs, ScanCache, kernel_of
from ..kernels.arrays import Array, positive_int, to_device
from .base import Back, Layer, as_input, as_upstream

__all__ = ["DEFAULT_DECAY", "Stateful", "by_name", "formula", "out_of_bounds", "stand_ins"]

#: Leak of a parameter called ``decay...`` that was not given: the STL-SNN authors' value.
DEFAULT_DECAY = 0.5
#: What each ingredient must be, and an example.
_INGREDIENTS = {
    "neuron": (neurons.Neuron, "ms.neurons.lif"),
    "reset": (resets.Reset, "ms.resets.hard"),
    "surrogate": (surrogates.Surrogate, "ms.surrogates.atan(2.0)"),
}


class Stateful(Layer):
    """Base of layers of neurons with a state.

    A neuron of the layer is a *lane* of the time loop: kernels see ``[T, B, N]`` for any shape.
    """

    has_state = True
    shape: tuple[int, ...]
    dynamics: Dynamics
    _kernel: tuple[Any, ...] = (None, None, None)

    def _set_up(self, shape: Any, neuron: Any, reset: Any, surrogate: Any) -> None:
        name, dynamics = type(self).__name__, Dynamics(neuron, reset, surrogate)
        for (what, (kind, example)), value in zip(_INGREDIENTS.items(), dynamics, strict=True):
            if not isinstance(value, kind):
                expected = f"must be a ms.{kind.__name__}, e.g. {example}"
                raise TypeError(f"{name}: {what} {expected}, got {value!r}")
        sizes = tuple(shape) if isinstance(shape, tuple | list) and shape else (shape,)
        self.shape = tuple(positive_int(f"{name}: shape {shape!r}: each size", n) for n in sizes)
        self.dynamics = dynamics

    def _add_neuron_params(self, given: dict[str, Any]) -> None:
        """The neuron's parameters, each from its keyword; a leak may be left out."""
        name, params = type(self).__name__, self.dynamics.neuron.params
        if unknown := sorted(set(given) - set(params)):
            import difflib

            options = {n for one in type(self).__mro__ for n in inspect.signature(one).parameters}
            near = difflib.get_close_matches(unknown[0], [*params, *options], 1)
            hint = f"its parameters are {params}" + (f"; did you mean {near[0]}?" if near else "")
            raise ValueError(f"{name}: the neuron has no parameter {unknown}; {hint}")
        for param in params:
            if param not in given and not param.startswith("decay"):
                missing = f"the neuron's parameter {param!r} is missing: {name}(..., {param}=...)"
                raise TypeError(f"{name}: {missing}")
            self._add(param, given.get(param, DEFAULT_DECAY), "neuron")

    def _add(self, name: str, value: Any, role: str) -> None:
        """A parameter: a number is one value for every neuron, an array keeps its shape."""
        self.roles[name] = role
        shape = self.shape if isinstance(value, int | float | np.generic) else np.shape(value)
        self.params[name] = to_device(self._as_param(name, value, shape), self.backend)

    def _as_param(self, name: str, values: Any, shape: tuple[int, ...]) -> Array:
        if self.roles.get(name, "synapse") == "synapse":
            return super()._as_param(name, values, shape)
        layer, given = type(self).__name__, np.asarray(values)
        if given.dtype.kind not in "iuf":
            expected = "must be a number or an array of numbers"
            raise TypeError(f"{layer}: {name} {expected}, got {values!r}")
        given = given if given.ndim else np.full(shape, given)
        array = super()._as_param(name, given, shape)
        pairs = zip(array.shape[::-1], self.shape[::-1], strict=False)
        if array.ndim > len(self.shape) or not all(n in (1, m) for n, m in pairs):
            raise ValueError(
                f"{layer}: {name} has shape {list(array.shape)}, "
                f"which does not broadcast to the layer's {list(self.shape)}"
            )
        if not np.isfinite(array).all():
            raise ValueError(f"{layer}: {name} must be finite, got {values!r}")
        if problem := out_of_bounds(name, array):
            raise ValueError(f"{layer}: {problem}")
        bound = self.constraint if self.roles[name] == "threshold" else None
        return array if bound is None else bound.raw(array)

    # -- the run over time, and back

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of what is carried from step to step."""
        return self.dynamics.neuron.state

    def made_with(self) -> tuple[Any, ...]:
        return type(self).__name__, self.shape, *self.dynamics

    @property
    def kernel(self) -> Kernel:
        """The time loop of these dynamics, looked up once: its hash takes 3 microseconds."""
        dynamics, backend, kernel = self._kernel
        if dynamics is not self.dynamics or backend != self.backend:
            kernel = kernel_of(self.dynamics, self.backend)
            self._kernel = self.dynamics, self.backend, kernel
        return kernel

    def _run(self, x, state, theta, twin=HARD) -> tuple[Array, dict[str, Array], ScanCache]:
        """``(spikes [T, B, *shape], state after the last step, cache of the loop)``."""
        x, state0, theta, params = self._ready(x, state, theta)
        k = self.dynamics.surrogate.k
        spikes, last, scan = self.kernel.scan(x, state0, theta, params, k, twin)
        spikes = spikes.reshape(*x.shape[:2], *self.shape)
        return spikes, by_name(self.state_names, last, self.shape), scan

    def _ready(self, x, state, theta) -> tuple[Array, Array | None, Array, Array]:
        """What a kernel takes: ``x [T, B, N]``, ``state0 [K, B, N]``, ``theta [N]``, ``params``."""
        x = as_input(x, self, self.shape, steady=True).astype(self.dtype, copy=False)
        lanes = self._lanes(theta, like=x)
        state0 = None if state is None else self._stacked(state, x.shape[1], "state")
        return x.reshape(*x.shape[:2], -1), state0, lanes[0], lanes[1:]

    def _lanes(self, theta: Array | float, like: Array) -> Array:
        """Threshold and parameters of any shape, as one value per neuron: ``[1 + Q, N]``."""
        names = self.dynamics.neuron.params
        lanes = np.empty((1 + len(names), *self.shape), self.dtype, like=like)
        lanes[0] = theta  # (thresholds.5)
        for row, name in enumerate(names, start=1):
            lanes[row] = self.params[name]
        return lanes.reshape(len(lanes), -1)

    def _of_shape(self, sums: Array, param: Array) -> Array:
        """The adjoint of `_lanes`: partial sums ``[P, N]`` added up to the parameter's shape."""
        d = sums.sum(axis=0).reshape(self.shape)
        if param.shape == self.shape:
            return d
        full = (1,) * (d.ndim - param.ndim) + param.shape
        axes = tuple(i for i, (n, m) in enumerate(zip(full, d.shape, strict=True)) if n < m)
        d = d.sum(axis=axes, keepdims=True) if axes else d  # (thresholds.6)
        return d.reshape(param.shape)

    def _back(self, d_spikes, d_state, cache, needed: set[str], input_grad: bool) -> Back:
        """``(d_x [T, B, *shape], gradients)``; ``"state"`` among these if a state was given."""
        scan, given = cache.scan, cache.state_given
        d_last = self._stacked(d_state, scan.x.shape[1], "d_state")
        needs = self._needs(needed, input_grad, given)
        d_flat = d_spikes.reshape(scan.x.shape)
        d_x, d_state0, d_theta, d_params = self.kernel.scan_adjoint(d_flat, d_last, scan, needs)
        grads: dict[str, Any] = self._summed(d_theta, d_params, needed)
        if given:
            grads["state"] = by_name(self.state_names, d_state0, self.shape)
        return None if d_x is None else d_x.reshape(d_spikes.shape), grads

    def _needs(self, needed: set[str], x: bool, state: bool) -> Needs:
        params = not needed.isdisjoint(self.dynamics.neuron.params)
        return Needs(x, "threshold" in needed, params, state)

    def _summed(self, d_theta: Any, d_params: Any, needed: set[str]) -> dict[str, Array]:
        """Partial sums of a kernel added up to the parameters' shapes."""
        names = "threshold", *self.dynamics.neuron.params
        sums = dict(zip(names, (d_theta, *([] if d_params is None else d_params)), strict=False))
        needed = needed & set(sums)
        return {n: self._of_shape(sums[n], p) for n, p in self.params.items() if n in needed}

    def _stacked(self, state: Any, batch: int, what: str) -> Array | None:
        """A state given by name as ``[K, B, N]``; ``None``, for zeros, if none was."""
        if state is None:
            return None
        names = self.state_names
        if not isinstance(state, Mapping) or set(state) != set(names):
            got = sorted(state) if isinstance(state, Mapping) else type(state).__name__
            expected = f"must be a dict with the keys {list(names)}"
            raise ValueError(f"{type(self).__name__}: {what} {expected}, got {got}")
        size = (batch, *self.shape)
        arrays = [as_upstream(state[n], size, self, f"{what}[{n!r}]") for n in names]
        return np.stack(arrays).reshape(-1, batch, math.prod(self.shape))

    def out_shape(self, in_shape: tuple[int, ...] | None) -> tuple[int, ...]:
        if in_shape not in (None, self.shape):
            got = f"{list(in_shape or ())} per sample and step"
            raise ValueError(f"has {list(self.shape)} neurons, got {got}")
        return self.shape

    def config(self) -> dict[str, Any]:
        neuron, reset, surrogate = self.dynamics
        made = {name: make(surrogate.k) for name, make in surrogates.SURROGATES.items()}
        return {
            "shape": list(self.shape),
            "neuron": name_in_file(neuron, neurons.NEURONS, neuron.charge),
            "reset": name_in_file(reset, resets.RESETS, reset.reset),
            "surrogate": name_in_file(surrogate, made, surrogate.smooth),
            "k": surrogate.k,
        }

    def out_of_bounds(self) -> Iterable[tuple[str, str]]:
        """``(parameter, what is wrong)`` for those that have left the range that makes sense."""
        for name in self.params:
            if problem := out_of_bounds(name, getattr(self, name)):
                yield name, problem


def by_name(names: tuple[str, ...], states: Any, shape: tuple[int, ...]) -> dict[str, Array]:
    """States ``[K, B, N]`` of the loop as a layer returns them: ``{name: [B, *shape]}``."""
    return {n: s.reshape(-1, *shape) for n, s in zip(names, states, strict=True)}


def stand_ins(names: Iterable[str], params: Mapping[str, Array], value: float) -> dict[str, Any]:
    """Values for a constructor that training may have left, of the shapes that the file has."""
    return {n: np.full(np.shape(params.get(n, 0)), value) for n in names}


def out_of_bounds(name: str, values: Array) -> str | None:
    """What is wrong with a threshold or a decay, ``None`` if it is in bounds."""
    if name == "threshold" and not (values > 0).all():
        problem = f"threshold must be > 0, got {float(values.min()):g}"
        return f"{problem}: a neuron with threshold <= 0 fires without input"
    if name.startswith("decay") and not ((values >= 0) & (values <= 1)).all():
        worst = float(values.min() if values.min() < 0 else values.max())
        problem = f"{name} must lie in [0, 1], got {worst:g}"
        return f"{problem}: it is the share of the state kept per step, not a time constant"
    return None


def formula(function: Any) -> str:
    """What a one-line function returns, in its own words; its name if its source is not there."""
    try:
        lines = [line.split("#")[0].strip() for line in inspect.getsource(function).splitlines()]
    except (OSError, TypeError):
        return f"{function.__name__}(...)"
    returned = [line.removeprefix("return ") for line in lines if line.startswith("return ")]
    return returned[0] if returned else f"{function.__name__}(...)"
