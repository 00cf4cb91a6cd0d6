"""What layers of neurons are made of: ingredients, and parameters with their bounds."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import numpy as np

from .. import neurons, resets, surrogates
from ..arguments import meant
from ..files import find, name_in_file
from ..kernels import Dynamics
from ..kernels.arrays import Array, positive_int
from ..thresholds import Constraint
from .base import Layer, require

__all__ = ["DEFAULT_DECAY", "Stateful", "formula"]

#: Leak of a parameter called ``decay...`` that was not given: the STL-SNN authors' value.
DEFAULT_DECAY = 0.5
#: What each ingredient must be, and an example.
_INGREDIENTS = {
    "neuron": (neurons.Neuron, "ms.neurons.lif"),
    "reset": (resets.Reset, "ms.resets.hard"),
    "surrogate": (surrogates.Surrogate, "ms.surrogates.atan(2.0)"),
}


class Stateful(Layer):
    """Base of layers of neurons: shape, dynamics and parameters."""

    has_state, fire = True, "step"
    constraint: Constraint | None = None  #: what bounds the threshold

    def __init__(self, shape: Any, dynamics: Dynamics, dtype: Any, backend: str | None) -> None:
        super().__init__(dtype, backend)
        name = type(self).__name__
        for what, value in dynamics._asdict().items():
            kind, example = _INGREDIENTS[what]
            expected = f"a ms.{kind.__name__}, e.g. {example}"
            require(isinstance(value, kind), f"{name}: {what}", expected, value, TypeError)
        sizes = tuple(shape) if isinstance(shape, tuple | list) and shape else (shape,)
        self.shape = tuple(positive_int(f"{name}: shape {shape!r}: each size", n) for n in sizes)
        self.dynamics = dynamics

    def _add_neuron_params(self, given: dict[str, Any]) -> None:
        """The neuron's parameters, each from its keyword; a leak may be left out."""
        name, params = type(self).__name__, self.dynamics.neuron.params
        if unknown := sorted(set(given) - set(params)):
            options = {n for one in type(self).__mro__ for n in inspect.signature(one).parameters}
            word = meant(unknown[0], [*params, *options])
            hint = f"its parameters are {params}" + (f"; did you mean {word}?" if word else "")
            raise ValueError(f"{name}: the neuron has no parameter {unknown}; {hint}")
        for param in params:
            if param not in given and not param.startswith("decay"):
                missing = f"the neuron's parameter {param!r} is missing: {name}(..., {param}=...)"
                raise TypeError(f"{name}: {missing}")
            self._add(param, given.get(param, DEFAULT_DECAY), "neuron")

    def _add(self, name: str, value: Any, role: str) -> None:
        """A parameter: a number is one value for every neuron, an array keeps its shape."""
        self.roles[name] = role
        is_number = isinstance(value, int | float | np.generic)
        self._set(name, value, self.shape if is_number else np.shape(value))

    def _as_param(self, name: str, values: Any, shape: tuple[int, ...]) -> Array:
        if name not in self.roles:  # weights
            return super()._as_param(name, values, shape)
        layer, given = type(self).__name__, np.asarray(values)
        ok, expected = given.dtype.kind in "iuf", "a number or an array of numbers"
        require(ok, f"{layer}: {name}", expected, values, TypeError)
        array = super()._as_param(name, given if given.ndim else np.full(shape, given), shape)
        pairs = zip(array.shape[::-1], self.shape[::-1], strict=False)
        if array.ndim > len(self.shape) or not all(n in (1, m) for n, m in pairs):
            wrong = f"which does not broadcast to the layer's {list(self.shape)}"
            raise ValueError(f"{layer}: {name} has shape {list(array.shape)}, {wrong}")
        if problem := _out_of_bounds(name, array):
            raise ValueError(f"{layer}: {problem}")
        bound = self.constraint if name == "threshold" else None
        return array if bound is None else bound.raw(array)

    def out_of_bounds(self) -> Iterable[tuple[str, str]]:
        """``(parameter, what is wrong)`` for those that have left the range that makes sense."""
        for name in self.params:
            if problem := _out_of_bounds(name, getattr(self, name)):
                yield name, problem

    def made_with(self) -> tuple[Any, ...]:
        options = [getattr(self, name) for name in self.options]
        return type(self).__name__, self.shape, *self.dynamics, self.fire, *options

    def out_shape(self, in_shape: tuple[int, ...] | None) -> tuple[int, ...]:
        if in_shape not in (None, self.shape):
            got = f"{list(in_shape or ())} per sample and step"
            raise ValueError(f"has {list(self.shape)} neurons, got {got}")
        return self.shape

    def config(self) -> dict[str, Any]:
        neuron = self.dynamics.neuron
        name = name_in_file(neuron, neurons.NEURONS, neuron.charge)
        return {"shape": list(self.shape), "neuron": name} | super().config()

    @classmethod
    def rebuild(cls: Any, config, params, dtype, custom, **more: Any) -> Any:
        neuron = find(config["neuron"], neurons.NEURONS, custom)
        more |= {name: config[name] for name in cls.options}
        # In bounds, which training may have left, and no larger than in the file.
        more |= {name: np.full(np.shape(params.get(name)), 0.5) for name in neuron.params}
        shape, given = tuple(config["shape"]), {**params, **more}
        return cls(shape, neuron=neuron, dtype=dtype, **given)._load(params)


def _out_of_bounds(name: str, values: Array) -> str | None:
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
    """What a one-line function returns, as it is written; its name if its source is not there."""
    try:
        lines = [line.split("#")[0].strip() for line in inspect.getsource(function).splitlines()]
    except (OSError, TypeError):
        lines = []
    returned = (line.removeprefix("return ") for line in lines if line.startswith("return "))
    return next(returned, f"{function.__name__}(...)")
