"""Layers of neurons over time: states in and out, the time loop; and the layer that spikes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from .. import neurons, resets, surrogates
from ..files import find, name_in_file
from ..kernels import Base, Dynamics, Kernel, Needs, Twin, kernel_of
from ..kernels.arrays import Array
from ..thresholds import CONSTRAINTS, Constraint, Normal
from .base import Back, Cache, as_input, as_upstream, require
from .stateful import DEFAULT_DECAY, Stateful, formula

__all__ = ["LIF", "OverTime", "Spiking", "SpikingCache"]


class SpikingCache(Cache):
    """What `backward` needs, and what there is to look at after a forward run.

    ``spikes`` and ``u`` (the membrane after the charge and before the reset) are
    ``[T, B, *shape]``; ``state`` is the state after the last step, for the next call:
    ``{"v": [B, *shape], ...}``.
    """

    @property
    def u(self) -> Array:
        """The membrane.  Compiled loops do not keep it: each look runs the layer forward again."""
        return self.scan.u[0].reshape(self.spikes.shape)


class OverTime(Stateful):
    """Base of layers of neurons: the run over time, and back.

    A neuron of the layer is a *lane* of the time loop: kernels see ``[T, B, N]`` for any shape.
    """

    @cached_property
    def kernel(self) -> Kernel:
        """The time loop of these dynamics on this backend."""
        return kernel_of(self.dynamics, self.backend)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        self.__dict__.pop("kernel", None)  # other dynamics have another

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of what the layer carries from step to step."""
        return self.dynamics.neuron.state

    def _run(self, x, state, twin: Twin) -> SpikingCache:
        x, state0, theta, params = self._ready(x, state)
        k = self.dynamics.surrogate.k
        return self._ran(*self.kernel.scan(x, state0, theta, params, k, twin))

    def _ran(self, spikes, last, scan) -> SpikingCache:
        spikes = spikes.reshape(*spikes.shape[:2], *self.shape)
        state = self._by_name(last)
        return self.keep(spikes, SpikingCache, spikes=spikes, state=state, scan=scan)

    def _ready(self, x, state) -> tuple[Array, Array | None, Array, Array]:
        """``x [T, B, N]``, ``state0 [K, B, N]``, ``theta [N]``, ``params [Q, N]`` for a kernel."""
        x = as_input(x, self, self.shape, steady=True).astype(self.dtype, copy=False)
        state0 = None if state is None else self._stacked(state, x.shape[1], "state")
        names = self.dynamics.neuron.params
        lanes = np.empty((1 + len(names), *self.shape), self.dtype, like=x)
        lanes[0] = self.threshold if self.spiking else 0  # for each neuron (thresholds.5)
        for row, name in enumerate(names, start=1):
            lanes[row] = self.params[name]
        lanes = lanes.reshape(len(lanes), -1)
        return x.reshape(*x.shape[:2], -1), state0, lanes[0], lanes[1:]

    def _back(self, d_spikes, d_state, cache, needed: set[str], input_grad: bool) -> Back:
        """``(d_x [T, B, *shape], gradients)``; ``"state"`` among these if a state was given."""
        scan, has_state = cache.scan, cache.scan.state0 is not None
        d_last = self._stacked(d_state, scan.x.shape[1], "d_state")
        needs, d_flat = self._needs(needed, input_grad, has_state), d_spikes.reshape(scan.x.shape)
        d_x, d_state0, d_theta, d_params = self.kernel.scan_adjoint(d_flat, d_last, scan, needs)
        grads: dict[str, Any] = self._summed(d_theta, d_params, needed)
        if has_state:
            grads["state"] = self._by_name(d_state0)
        return None if d_x is None else d_x.reshape(d_spikes.shape), grads

    def _needs(self, needed: set[str], x: bool, state: bool) -> Needs:
        params = not needed.isdisjoint(self.dynamics.neuron.params)
        return Needs(x, "threshold" in needed, params, state)

    def _summed(self, d_theta: Any, d_params: Any, needed: set[str]) -> dict[str, Array]:
        """The adjoint of `_ready`: partial sums ``[P, N]`` added up to the parameters' shapes."""
        grads, names = dict[str, Array](), ("threshold", *self.dynamics.neuron.params)
        sums_of = d_theta, *(() if d_params is None else d_params)
        for name, sums in zip(names, sums_of, strict=False):
            if name in needed:
                d, shape = sums.sum(axis=0).reshape(self.shape), self.params[name].shape
                full = (1,) * (d.ndim - len(shape)) + shape
                axes = tuple(i for i, n in enumerate(full) if n < d.shape[i])
                d = d.sum(axis=axes, keepdims=True) if axes else d  # (thresholds.6)
                grads[name] = d.reshape(shape)
        return grads

    def _by_name(self, states: Any) -> dict[str, Array]:
        """States ``[K, B, N]`` of the loop as a layer returns them: ``{name: [B, *shape]}``."""
        named = zip(self.state_names, states, strict=True)
        return {n: state.reshape(-1, *self.shape) for n, state in named}

    def _stacked(self, state: Any, batch: int, what: str) -> Array | None:
        """The inverse of `_by_name`; ``None``, for zeros, if there is no state."""
        if state is None:
            return None
        names = self.state_names
        got = sorted(state) if isinstance(state, Mapping) else type(state)
        expected = f"a dict with the keys {list(names)}"
        require(got == sorted(names), f"{type(self).__name__}: {what}", expected, got)
        size = (batch, *self.shape)
        arrays = [as_upstream(state[n], size, self, f"{what}[{n!r}]") for n in names]
        return np.stack(arrays).reshape(-1, batch, math.prod(self.shape))


class Spiking(OverTime):
    """A layer of spiking neurons: any neuron, any reset, any surrogate.

    Parameters
    ----------
    shape : shape of one sample at one step, e.g. ``128`` or ``(8, 14, 14)``.
    neuron, reset, surrogate : the dynamics, e.g. ``ms.neurons.lif``, ``ms.resets.soft``,
        ``ms.surrogates.atan(2.0)``.
    threshold : a number gives every neuron a threshold of its own, which starts there; an array
        keeps its own shape, which must broadcast to `shape` (``np.array(1.0)`` is one shared
        threshold, ``(C, 1, 1)`` one per channel); or ``ms.thresholds.Normal(mean, std, rng=rng)``.
    decay : leak per step in [0, 1], the share of the membrane that is kept; number or array as for
        `threshold`.  Default 0.5.
    constraint : ``ms.thresholds.LowerBound(0.1)`` or ``ms.thresholds.Softplus()``; none by default.
        Then ``params`` hold the raw value that learns; ``layer.threshold`` is the effective one.
    dtype : "float32" or "float64".
    backend : "numba", "numpy", "cupy", or ``None`` for this machine's default.
    **params : the neuron's other parameters by their names, e.g. ``decay_syn=0.8``.

    Raises
    ------
    ValueError : a threshold <= 0, a decay outside [0, 1], a shape that does not fit, a parameter
        the neuron lacks.
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
        constraint: Constraint | None = None,
        dtype: Any = "float32",
        backend: str | None = None,
        **params: Any,
    ) -> None:
        curve = surrogates.atan(2.0) if surrogate is None else surrogate
        super().__init__(shape, Dynamics(neuron, reset, curve), dtype, backend)
        what, ok = f"{type(self).__name__}: constraint", isinstance(constraint, Constraint | None)
        require(ok, what, f"one of {list(CONSTRAINTS)}", constraint, TypeError)
        self.constraint = constraint
        drawn = threshold.draw(self.shape) if isinstance(threshold, Normal) else threshold
        self._add("threshold", drawn, "threshold")
        self._add_neuron_params(params if decay is None else {**params, "decay": decay})

    @property
    def threshold(self) -> Array:
        """The threshold that the neurons see; the parameter itself unless there is a constraint."""
        raw = self.params["threshold"]
        return raw if self.constraint is None else self.constraint.effective(raw)

    def forward(self, x, *, state=None, train=False, rng=None) -> tuple[Array, SpikingCache]:
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
        cache = self._run(x, state, Twin(self.fire))
        return cache.spikes, cache

    def twin(self, x, base, fire, *, state=None, **other) -> tuple[Array, SpikingCache]:
        held = Base(base.scan.u[0], base.scan.spikes, base.scan.theta)
        cache = self._run(x, state, Twin(fire, held))
        return cache.spikes, cache

    def sides(self, cache: SpikingCache) -> Array:
        above = cache.scan.u[0] - cache.scan.theta
        surrogate = self.dynamics.surrogate
        kinks = surrogate.kinks if self.fire == "smooth" else ()
        return np.stack([above >= kink / surrogate.k for kink in (0.0, *kinks)])

    def backward(self, d_y, cache, *, d_state=None, wrt=None, input_grad=True) -> Back:
        """Backpropagation through time, the spikes' jump replaced by the surrogate's slope.

        Parameters
        ----------
        d_y : gradient of the spikes ``[T, B, *shape]``.   cache : what `forward` returned.
        d_state : gradient of the last state, ``{"v": [B, *shape], ...}``; zero if not given.
        wrt, input_grad : which gradients are needed, as for every layer.

        Returns
        -------
        d_x : ``[T, B, *shape]``, or ``None``.
        grads : ``"threshold"`` and the neuron's parameters, each in its parameter's shape; and
            ``"state": {"v": [B, *shape], ...}`` if the forward was given a state.
        """
        d_spikes, needed = self.checked(d_y, cache, wrt)
        d_x, grads = self._back(d_spikes, d_state, cache, needed, input_grad)
        if self.constraint is not None and "threshold" in grads:
            raw = self.params["threshold"]
            grads["threshold"] = self.constraint.adjoint(grads["threshold"], raw)
        return d_x, grads

    def smoothed(self) -> Any:
        """The smooth twin: spikes are the surrogate's curve.  It shares this layer's parameters."""
        return self._changed(fire="smooth")

    def config(self) -> dict[str, Any]:
        _, reset, surrogate = self.dynamics
        made = {name: make(surrogate.k) for name, make in surrogates.SURROGATES.items()}
        bound = self.constraint
        return super().config() | {
            "reset": name_in_file(reset, resets.RESETS, reset.reset),
            "surrogate": name_in_file(surrogate, made, surrogate.smooth),
            "k": surrogate.k,
            "constraint": None if bound is None else [type(bound).__name__, vars(bound)],
        }

    @classmethod
    def rebuild(cls, config, params, dtype, custom, **more: Any) -> Any:
        k, bound = config["k"], config["constraint"]
        made = {name: make(k) for name, make in surrogates.SURROGATES.items()}
        more["reset"] = find(config["reset"], resets.RESETS, custom)
        more["surrogate"] = replace(find(config["surrogate"], made, custom), k=k)
        more["constraint"] = None if bound is None else CONSTRAINTS[bound[0]](**bound[1])
        more["threshold"] = np.full(np.shape(params.get("threshold")), 1e9)
        return super().rebuild(config, params, dtype, custom, **more)

    def _describe(self) -> str:
        neuron, reset, surrogate = self.dynamics
        spike, held = "u >= threshold", f" ({', '.join(reset.stop)} detached)" if reset.stop else ""
        if self.fire != "step":
            spike = f"{surrogate.smooth.__name__}(u - threshold) (smooth twin)"
        sizes, charge = ", ".join(map(str, self.shape)), formula(neuron.charge)
        equations = f"u = {charge}; spike = {spike}; v = {formula(reset.reset)}{held}"
        slope = f"{surrogate.slope.__name__}, k={surrogate.k:g}; {self.backend}"
        bound = f"; threshold: {self.constraint}" if self.constraint else ""
        return f"{sizes}: {equations}; {slope}{bound}"


def LIF(shape: int | tuple[int, ...], *, decay=DEFAULT_DECAY, threshold=1.0, **options) -> Spiking:
    """A layer of leaky integrate-and-fire neurons: :class:`Spiking` with ``neurons.lif``.

    By default the STL-SNN authors' neuron: hard reset in the graph (not detached), atan surrogate
    with k = 2, zero initial state, spike at ``>=``.
    """
    return Spiking(shape, neuron=neurons.lif, decay=decay, threshold=threshold, **options)
