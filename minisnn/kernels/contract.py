"""The contract that every backend keeps: what a time loop takes, what it returns, and what its cache holds.

A *kernel* is the time loop of one neuron, one reset and one surrogate, in two directions::

    kernel.scan(x, state0, theta, params, k)                       -> (spikes, state_last, cache)
    kernel.scan_adjoint(d_spikes, d_state_last, cache, wanted)     -> (d_x, d_state0, d_theta, d_params)

Shapes, for T steps, B samples, N lanes (neurons), K states and Q parameters:

==================  ==============  ======================================================================
x, d_x              ``[T, B, N]``   input current
spikes, d_spikes    ``[T, B, N]``   ``uint8`` 0 or 1, of the net's float dtype in a twin; ``d_spikes`` always of that dtype
state0, state_last  ``[K, B, N]``   before the first step, and after the reset of the last; ``None`` for zeros
theta               ``[N]``         threshold of each lane
params              ``[Q, N]``      parameters of each lane, in the order of ``neuron.params``
d_theta             ``[P, N]``      P partial sums over batch rows: add them up
d_params            ``[Q, P, N]``   likewise
==================  ==============  ======================================================================

Everything is C-contiguous and of one float dtype.  Calls are pure: no input, cache or earlier result is written.  With
``consume=True`` one is: `scan` may write the membrane over ``x``, and `scan_adjoint` writes ``d_x`` over ``d_spikes``.
P depends on the shapes alone, never on the number of threads.  Gradients that are not wanted come back as ``None``.

One step, in the words of DESIGN and of ``docs/derivations/lif``::

    u, *others = charge(*state, x[t], *params)           s = fire(u, theta)           v = reset(u, s, theta)

A *twin* is the same loop with another ``fire`` (law 5): the surrogate's curve ``smooth``, or the ``tangent`` to it at
the spikes of a base run.  Where a base run is given, the arguments that ``reset.stop`` names keep its values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..grammar import dependencies
from ..neurons import Neuron
from ..resets import Reset
from ..surrogates import Surrogate
from . import pool
from .narrow import for_numpy
from .place import Array, writeable

__all__ = [
    "FIRES", "Base", "Dynamics", "Kernel", "ScanCache", "Wanted", "base_of", "float_dtype", "hold", "membranes",
    "state_after", "there_and_back", "whole",
]  # fmt: skip


class Dynamics(NamedTuple):
    """The three ingredients of a kernel; everything else about it is the loop."""

    neuron: Neuron
    reset: Reset
    surrogate: Surrogate


class Base(NamedTuple):
    """A run whose values a twin holds on to: membrane ``u`` and ``spikes`` (``[T, B, N]``), ``theta`` (``[N]``)."""

    u: Array
    spikes: Array
    theta: Array


class Wanted(NamedTuple):
    """Which gradients :meth:`Kernel.scan_adjoint` is to compute."""

    x: bool = True
    theta: bool = True
    params: bool = True
    state: bool = True  #: of the initial state


class ScanCache(NamedTuple):
    """What the adjoint needs of the forward run.

    Kept: the input ``x`` (its memory may be that of ``u[0]``, where `scan` consumed it), every state after the charge and
    before the reset (``u``, ``[K, T, B, N]``; ``u[0]`` is the membrane), the ``spikes``, the initial state (``None`` for
    zeros), and thresholds, parameters and steepness as they were.  Recomputed: the membrane after the reset, ``v[t-1]`` =
    reset of ``u[0][t-1]``: one cheap operation against a fourth of the memory.
    """

    x: Array
    u: Array
    spikes: Array
    state0: Array | None
    theta: Array
    params: Array
    k: float


class Kernel(Protocol):
    """The time loop of one neuron, reset and surrogate, and its adjoint."""

    def scan(
        self, x: Array, state0: Array | None, theta: Array, params: Array, k: float,
        fire: str = "step", base: Base | None = None, consume: bool = False, last: bool = True,
    ) -> tuple[Array, Array | None, ScanCache]:  # fmt: skip
        """Run T steps: ``(spikes, state_last, cache)``; `state_last` is ``None`` unless `last` asks for it.

        `k` : steepness of the surrogate.   `fire` : which of :data:`FIRES`.   `base` : the run that a twin holds on to.
        `consume` : ``x`` may be written over.   Raises `ValueError` where "tangent" is given no base.
        """

    def scan_adjoint(
        self, d_spikes: Array, d_state_last: Array | None, cache: ScanCache, wanted: Wanted = Wanted(), consume: bool = False
    ) -> tuple[Array | None, Array | None, Array | None, Array | None]:
        """Go back over the T steps: ``(d_x, d_state0, d_theta, d_params)``."""


def state_after(dynamics: Dynamics, cache: ScanCache) -> Array:
    """The state after the last step, from what a run without a base kept: the `state_last` of `scan`.

    Bit for bit, where the reset is made of + - * / and comparisons; NumPy's ``exp`` is not that of a compiled loop.
    """
    reset = for_numpy(dynamics.reset.reset, cache.u.dtype)
    state = cache.u[:, -1].copy()
    state[0] = reset(state[0], cache.spikes[-1].astype(state.dtype), cache.theta)
    return state


def there_and_back(
    kernel: Kernel, x: Array, state0: Array | None, theta: Array, params: Array, k: float, fire: str,
    d_spikes: Array, d_state_last: Array | None, wanted: Wanted, consume: bool,
) -> tuple[Array | None, Array | None, Array | None, Array | None]:  # fmt: skip
    """`scan` and `scan_adjoint` in one, for a run of which nothing but gradients is wanted; ``consume`` is for ``d_spikes``.

    A kernel that can do better has a method of this name.
    """
    if hasattr(kernel, "there_and_back"):
        return kernel.there_and_back(x, state0, theta, params, k, fire, d_spikes, d_state_last, wanted, consume)
    cache = kernel.scan(x, state0, theta, params, k, fire, last=False)[2]
    return kernel.scan_adjoint(d_spikes, d_state_last, cache, wanted, consume)


# -- the three ways to fire.  Each builds, from the surrogate's functions, fire(u, theta, k, u0, s0, theta0): the values
# -- with a 0 are those of the base run.  All backends are made of these very functions.


def _step(smooth: Callable, slope: Callable) -> Callable:
    def fire(u, theta, k, u0, s0, theta0):
        return u >= theta  # (lif.2)

    return fire


def _smooth(smooth: Callable, slope: Callable) -> Callable:
    def fire(u, theta, k, u0, s0, theta0):
        return smooth(u - theta, k)

    return fire


def _tangent(smooth: Callable, slope: Callable) -> Callable:
    def fire(u, theta, k, u0, s0, theta0):
        return s0 + slope(u0 - theta0, k) * ((u - theta) - (u0 - theta0))

    return fire


FIRES = {"step": _step, "smooth": _smooth, "tangent": _tangent}


def base_of(base: Base | None, fire: str, dtype: Any) -> Base | None:
    """The base run of a twin, its spikes in the dtype that the loop computes in: nothing may be computed from uint8."""
    if base is None and fire == "tangent":
        raise ValueError("fire: 'tangent' needs the base run that it touches, got no base")
    return base and base._replace(spikes=base.spikes.astype(dtype, copy=False))


def _over_current(neuron: Neuron) -> bool:
    """Whether membranes may lie in the memory of the input current.

    Not where there is more than one state, or where the adjoint has to see the current again.
    """
    n_states = len(neuron.state)
    return n_states == 1 and not any(2 * n_states in arguments for arguments in dependencies(neuron.charge_adjoint))


def membranes(x: Array, neuron: Neuron, dtype: Any, consume: bool) -> Array:
    """Room for every state before the reset, ``[K, T, B, N]``: in the memory of `x` where it is consumed and that can be."""
    if consume and x.dtype == dtype and writeable(x) and _over_current(neuron):
        return x[None]
    return pool.empty((len(neuron.state), *x.shape), dtype, x)


def hold(reset: Callable, stop: tuple[str, ...]) -> Callable:
    """The reset with the arguments named in `stop` kept at the base run's values."""
    hold_u, hold_s, hold_theta = "u" in stop, "s" in stop, "theta" in stop

    def held(u, s, theta, u0, s0, theta0):
        return reset(u0 if hold_u else u, s0 if hold_s else s, theta0 if hold_theta else theta)

    return held


def float_dtype(dtype: Any) -> np.dtype:
    """float32 or float64 as a NumPy dtype; any other raises."""
    found = np.dtype(dtype)
    if found not in (np.dtype("float32"), np.dtype("float64")):
        raise TypeError(f"dtype: got {found}, expected 'float32' or 'float64'")
    return found


def whole(what: str, value: Any, least: int = 1) -> int:
    """A whole number as an int; one that is smaller than `least`, True and anything else raise and name `what`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{what} must be a whole number of at least {least}, got {value!r}")
    return int(value)
