"""Spiking: a layer of neurons whose thresholds and leaks are parameters like any weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from .. import neurons, resets, surrogates
from ..files import find
from ..kernels import Base, ScanCache, Twin
from ..kernels.arrays import Array, to_device
from ..thresholds import CONSTRAINTS, Constraint, Normal
from .base import Back, Config, Names, as_cache, as_upstream
from .stateful import DEFAULT_DECAY, Stateful, formula

__all__ = ["LIF", "Spiking", "SpikingCache"]


class SpikingCache(NamedTuple):
    """What `backward` needs, and what there is to look at after a forward run.

    ``spikes`` and ``u`` (the membrane after the charge and before the reset) are ``[T, B, *shape]``; ``state`` is the
    state after the last step, for the next call: ``{"v": [B, *shape], ...}``.
    """

    made_with: tuple[Any, ...]
    spikes: Array
    state: dict[str, Array]
    scan: ScanCache
    state_given: bool

    @property
    def u(self) -> Array:
        """The membrane.  A compiled loop does not keep it: each look runs the layer forward again."""
        return self.scan.u[0].reshape(self.spikes.shape)


class Spiking(Stateful):
    """A layer of spiking neurons: any neuron, any reset, any surrogate.

    Parameters
    ----------
    shape : shape of one sample at one step, e.g. ``128`` or ``(8, 14, 14)``.
    neuron, reset, surrogate : the dynamics, e.g. ``ms.neurons.lif``, ``ms.resets.soft``, ``ms.surrogates.atan(2.0)``.
    threshold : a number gives every neuron a threshold of its own, which starts there; an array keeps its own shape,
        which must broadcast to `shape` (``np.array(1.0)`` is one shared threshold, ``(C, 1, 1)`` one per channel); or
        ``ms.thresholds.Normal(mean, std, rng=rng)``.
    decay : leak per step in [0, 1], the share of the membrane that is kept; number or array as for `threshold`.
        Default 0.5.
    constraint : ``ms.thresholds.LowerBound(0.1)`` or ``ms.thresholds.Softplus()``; none by default.  Then ``params`` hold
        the raw value that learns, and ``layer.threshold`` is the effective one.
    dtype : "float32" or "float64".   backend : "numba", "numpy", "cupy", or ``None`` for this machine's default.
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
        constraint: Constraint | None = None,
        dtype: Any = "float32",
        backend: str | None = None,
        **params: Any,
    ) -> None:
        super().__init__(dtype, backend)
        self._set_up(shape, neuron, reset, surrogates.atan(2.0) if surrogate is None else surrogate)
        if constraint is not None and type(constraint) not in CONSTRAINTS.values():
            raise TypeError(f"{type(self).__name__}: constraint must be one of {list(CONSTRAINTS)}, got {constraint!r}")
        self.fire, self.constraint = "step", constraint
        if isinstance(threshold, Normal):
            threshold = threshold.draw(self.shape)
        effective = self._spread("threshold", threshold)
        raw = effective if constraint is None else constraint.raw(effective)
        self.params["threshold"] = to_device(raw, self.backend)
        self.roles["threshold"] = "threshold"
        self._add_neuron_params(params if decay is None else {**params, "decay": decay})

    @property
    def threshold(self) -> Array:
        """The threshold that the neurons see; the parameter itself unless there is a constraint."""
        raw = self.params["threshold"]
        return raw if self.constraint is None else self.constraint.effective(raw)

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
        return self._forward(x, state, Twin(self.fire))

    def twin(  # type: ignore[override]
        self, x: Array, base: SpikingCache, fire: str, *, state: Mapping[str, Array] | None = None
    ) -> tuple[Array, SpikingCache]:
        return self._forward(x, state, Twin(fire, Base(base.scan.u[0], base.scan.spikes, base.scan.theta)))

    def sides(self, cache: SpikingCache) -> Array:
        above = cache.scan.u[0] - cache.scan.theta
        surrogate = self.dynamics.surrogate
        kinks = surrogate.kinks if self.fire == "smooth" else ()
        return np.stack([above >= kink / surrogate.k for kink in (0.0, *kinks)])

    def made_with(self) -> tuple[Any, ...]:
        return *super().made_with(), self.fire

    def _forward(self, x: Array, state: Mapping[str, Array] | None, twin: Twin) -> tuple[Array, SpikingCache]:
        spikes, after, scan = self._run(x, state, self._lanes(self.threshold), twin)
        spikes = spikes.reshape(*spikes.shape[:2], *self.shape)
        return spikes, SpikingCache(self.made_with(), spikes, after, scan, state is not None)

    def backward(self, d_y: Array, cache: SpikingCache, *, d_state=None, wrt: Names = None, input_grad: bool = True) -> Back:
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
        d_spikes = as_upstream(d_y, as_cache(cache, SpikingCache, self).spikes.shape, self)
        d_x, grads = self._back(d_spikes, d_state, cache.scan, self._wanted(wrt), input_grad, cache.state_given)
        if self.constraint is not None and "threshold" in grads:
            grads["threshold"] = self.constraint.adjoint(grads["threshold"], self.params["threshold"])
        return None if d_x is None else d_x.reshape(d_spikes.shape), grads

    def smoothed(self) -> Spiking:
        """The smooth twin: spikes are the surrogate's curve.  It shares its parameter arrays with this layer."""
        return self._changed(fire="smooth")  # type: ignore[return-value]

    def config(self) -> dict[str, Any]:
        bound = self.constraint
        return super().config() | {"constraint": None if bound is None else [type(bound).__name__, vars(bound)]}

    @classmethod
    def rebuild(cls, config: Config, params: Mapping[str, Array], dtype: Any, custom: Config) -> Spiking:
        neuron = find(config["neuron"], neurons.NEURONS, custom)
        reset = find(config["reset"], resets.RESETS, custom)
        made = {n: make(config["k"]) for n, make in surrogates.SURROGATES.items()}
        surrogate = replace(find(config["surrogate"], made, custom), k=config["k"])
        bound = config["constraint"]
        shape, own = cls._own(config, params)
        layer = cls(  # small stand-ins for the arrays, which need not keep a constructor's bounds after training
            shape, neuron=neuron, reset=reset, surrogate=surrogate, dtype=dtype,
            constraint=None if bound is None else CONSTRAINTS[bound[0]](**bound[1]),
            threshold=np.array(1e9), **dict.fromkeys(neuron.params, np.array(0.5)),  # type: ignore[arg-type]
            **own,
        )  # fmt: skip
        return layer._load(params)  # type: ignore[return-value]

    @classmethod
    def _own(cls, config: Config, params: Mapping[str, Array]) -> tuple[Any, dict[str, Any]]:
        """What the constructor takes first, and arrays for which there is no stand-in."""
        return tuple(config["shape"]), {}

    def _describe(self) -> str:
        neuron, reset, surrogate = self.dynamics
        spike = "u >= threshold" if self.fire == "step" else f"{surrogate.smooth.__name__}(u - threshold) (smooth twin)"
        return (
            f"{', '.join(map(str, self.shape))}: u = {formula(neuron.charge)}; spike = {spike}; "
            f"v = {formula(reset.reset)}" + (f" ({', '.join(reset.stop)} detached)" if reset.stop else "")
            + f"; {surrogate.slope.__name__}, k={surrogate.k:g}; {self.backend}"
            + (f"; threshold: {self.constraint}" if self.constraint else "")
        )  # fmt: skip


def LIF(shape: int | tuple[int, ...], *, decay: Any = DEFAULT_DECAY, threshold: Any = 1.0, **options: Any) -> Spiking:
    """A layer of leaky integrate-and-fire neurons, the STL-SNN authors' by default: :class:`Spiking` with ``neurons.lif``.

    Hard reset in the graph (not detached), atan surrogate with k = 2, zero initial state, spike at ``>=``.
    """
    return Spiking(shape, neuron=neurons.lif, decay=decay, threshold=threshold, **options)
