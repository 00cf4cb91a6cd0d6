"""The contract that every backend keeps: what a time loop takes and returns, and its cache.

A *kernel* is the time loop of one neuron, one reset and one surrogate, in two directions::

    kernel.scan(x, state0, theta, params, k)                  -> spikes, state_last, cache
    kernel.scan_adjoint(d_spikes, d_state_last, cache, needs) -> d_x, d_state0, d_theta, d_params

Shapes, for T steps, B samples, N lanes (neurons), K states and Q parameters:

==================  ==============  ==========================================================
x, d_x              ``[T, B, N]``   input current
spikes, d_spikes    ``[T, B, N]``   ``uint8`` 0 or 1, floats in a twin; ``d_spikes`` floats
state0, state_last  ``[K, B, N]``   before the first step, and after the reset of the last;
                                    ``None`` for zeros
theta               ``[N]``         threshold of each lane
params              ``[Q, N]``      parameters of each lane, in the order of ``neuron.params``
d_theta             ``[P, N]``      P partial sums over batch rows: add them up
d_params            ``[Q, P, N]``   likewise
==================  ==============  ==========================================================

Everything is C-contiguous and of one float dtype; `x` may be the same memory at every step
(``arrays.is_steady``).  Calls are pure: they write no input, cache or earlier result.  P depends
on the shapes alone, never on the number of threads.  Gradients that are not needed are ``None``.

One step, as in ``docs/derivations/lif``::

    u, *others = charge(*state, x[t], *params)     s = fire(u, theta)     v = reset(u, s, theta)

A *twin* is the same loop with another ``fire``: the surrogate's curve ``smooth``, or the
``tangent`` to it at the spikes of a base run.  If a base run is given, the arguments that
``reset.stop`` names keep its values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..formula import Formula
from ..neurons import Neuron
from ..resets import Reset
from ..surrogates import Surrogate
from .arrays import Array, get_array_module, in_one_piece, is_steady

__all__ = ["ALL", "HARD", "Base", "Dynamics", "Kernel", "Needs", "ScanCache", "Twin"]


class Dynamics(NamedTuple):
    """The three ingredients of a kernel; everything else about it is the loop."""

    neuron: Neuron
    reset: Reset
    surrogate: Surrogate

    def formulas(self) -> dict[str, Formula]:
        """All six, by name."""
        names = ("charge", "charge_adjoint", "reset", "reset_adjoint", "smooth", "slope")
        return dict(zip(names, (f for one in self for f in one.formulas), strict=True))


class Base(NamedTuple):
    """The run that a twin holds on to: membrane and spikes ``[T, B, N]``, threshold ``[N]``."""

    u: Array
    spikes: Array
    theta: Array


class Twin(NamedTuple):
    """How neurons fire, a key of ``minisnn.spikes.FIRES``, and the run that they hold on to."""

    fire: str = "step"
    base: Base | None = None


#: The spiking network itself.
HARD = Twin()


class Needs(NamedTuple):
    """Which gradients :meth:`Kernel.scan_adjoint` is to compute."""

    x: bool = True
    theta: bool = True
    params: bool = True
    state: bool = True  #: of the initial state


ALL = Needs()


@dataclass(frozen=True, eq=False)
class ScanCache:
    """What the adjoint needs of a forward run, and what it was made with.

    Kept are the input ``x``, the ``spikes``, the initial state (``None`` for zeros), thresholds,
    parameters and steepness.  Everything else follows from these: a compiled kernel keeps no
    membranes, but the states before each span of time (``borders``), and `membranes` is the
    function that runs forward again.
    """

    dynamics: Dynamics  #: of the kernel that made it
    x: Array
    spikes: Array
    state0: Array | None
    theta: Array
    params: Array
    k: float
    twin: Twin = HARD
    borders: Array | None = None
    membranes: Array | Callable[[ScanCache], Array] | None = None

    @property
    def u(self) -> Array:
        """Every state between charge and reset, ``[K, T, B, N]``; ``u[0]`` is the membrane."""
        return self.membranes(self) if callable(self.membranes) else self.membranes


class Kernel:
    """The time loop of one neuron, reset and surrogate, and its adjoint.

    The checks stand here: compiled loops see memory and sizes, and would read and write beside an
    array that does not fit.  A backend adds ``_scan`` and ``_scan_adjoint``.
    """

    def __init__(self, dynamics: Dynamics) -> None:
        self.dynamics = dynamics

    def scan(
        self, x: Array, state0: Array, theta: Array, params: Array, k: float, twin: Twin = HARD
    ) -> tuple[Array, Array, ScanCache]:
        """Run T steps: ``(spikes, state_last, cache)``; `k` is the steepness of the surrogate.

        Raises
        ------
        TypeError, ValueError : an array has another dtype or shape than `x` asks for; the twin is
            "tangent" and has no base.
        """
        if twin.base is not None:  # formulas take no uint8
            spikes = twin.base.spikes.astype(x.dtype, copy=False)
            twin = twin._replace(base=twin.base._replace(spikes=spikes))
        elif twin.fire == "tangent":
            raise ValueError("twin: 'tangent' needs the base run that it touches, got no base")
        self._check(x, state0, theta, params, twin)
        spikes, state_last, kept = self._scan(x, state0, theta, params, k, twin)
        cache = ScanCache(self.dynamics, x, spikes, state0, theta, params, k, twin, **kept)
        return spikes, state_last, cache

    def scan_adjoint(
        self, d_spikes: Array, d_state_last: Array, cache: ScanCache, needs: Needs = ALL
    ) -> tuple[Array, Array, Array, Array]:
        """Go back over the T steps: ``(d_x, d_state0, d_theta, d_params)``.

        Raises
        ------
        TypeError, ValueError : an array does not fit; the cache belongs to other dynamics or to a
            run with a base, or one of its arrays was changed.
        """
        if cache.dynamics != self.dynamics:
            raise ValueError(f"cache: made by {cache.dynamics}, this kernel runs {self.dynamics}")
        if cache.twin.base is not None:
            raise ValueError("cache: of a twin that holds on to a base run: it has no adjoint")
        given = cache.x, cache.state0, cache.theta, cache.params, cache.twin
        self._check(*given, cache.spikes, d_spikes, d_state_last)
        return self._scan_adjoint(d_spikes, d_state_last, cache, needs)

    def _scan(self, x, state0, theta, params, k, twin) -> tuple[Array, Array, dict[str, Any]]:
        """``(spikes, state_last, what else the cache keeps)``."""
        raise NotImplementedError

    def _scan_adjoint(self, d_spikes, d_state_last, cache, needs) -> tuple[Any, Any, Any, Any]:
        raise NotImplementedError

    def _check(
        self, x, state0, theta, params, twin, spikes=None, d_spikes=None, d_state_last=None
    ) -> None:
        """Raise unless all arrays fit `x`, ``[T, B, N]``, and lie where it lies."""
        if x.ndim != 3:
            raise ValueError(f"x has shape {list(x.shape)}, expected [T, B, N]")
        kind, (_, batch, n), neuron = get_array_module(x).ndarray, x.shape, self.dynamics.neuron
        states = len(neuron.state), batch, n
        of_spikes = np.dtype(np.uint8) if twin.fire == "step" else x.dtype
        arrays = [
            ("x", x, x.shape, x.dtype),
            ("state0", state0, states, x.dtype),
            ("theta", theta, (n,), x.dtype),
            ("params", params, (len(neuron.params), n), x.dtype),
            ("cache.spikes", spikes, x.shape, of_spikes),
            ("d_spikes", d_spikes, x.shape, x.dtype),
            ("d_state_last", d_state_last, states, x.dtype),
        ]
        if twin.base is not None:
            shapes = x.shape, x.shape, (n,)
            names = (f"base.{name}" for name in Base._fields)
            arrays += zip(names, twin.base, shapes, [x.dtype] * 3, strict=True)
        for name, array, shape, dtype in arrays:
            if array is None:
                continue
            if not isinstance(array, kind):
                got = f"{type(array).__module__}.{type(array).__name__}"
                expected = f"{kind.__module__}.{kind.__name__}"
                raise TypeError(f"{name} is a {got}, x a {expected}: both must be in one place")
            if array.dtype != dtype or array.shape != shape:
                came = f"{array.dtype} {list(array.shape)}"
                raise ValueError(f"{name} is {came}, expected {dtype} {list(shape)} to fit x")
            if not (in_one_piece(array) or (name == "x" and is_steady(array))):
                raise ValueError(
                    f"{name} lies in pieces or begins in the middle of a number; expected "
                    f"C-contiguous, aligned: np.require({name}, requirements='CA')"
                )
