"""The contract that every backend keeps: what a time loop takes, what it returns, and what its cache holds.

A *kernel* is the time loop of one neuron, one reset and one surrogate, in two directions::

    kernel.scan(x, state0, theta, params, k)                    -> (spikes, state_last, cache)
    kernel.scan_adjoint(d_spikes, d_state_last, cache, needs)   -> (d_x, d_state0, d_theta, d_params)

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

Everything is C-contiguous and of one float dtype; `x` may be the same memory at every step (``arrays.is_steady``).  Calls
are pure: no input, cache or earlier result is written.  P depends on the shapes alone, never on the number of threads.
Gradients that are not needed come back as ``None``.

One step, as in ``docs/derivations/lif``::

    u, *others = charge(*state, x[t], *params)           s = fire(u, theta)           v = reset(u, s, theta)

A *twin* is the same loop with another ``fire``: the surrogate's curve ``smooth``, or the ``tangent`` to it at the spikes of
a base run.  If a base run is given, the arguments that ``reset.stop`` names keep its values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from ..formula import Formula
from ..neurons import Neuron
from ..resets import Reset
from ..surrogates import Surrogate
from .arrays import Array, get_array_module, in_one_piece, is_steady

__all__ = [
    "ALL", "HARD", "Base", "Dynamics", "Kernel", "Needs", "ScanCache", "Twin", "base_of", "check_adjoint_arrays",
    "check_scan_arrays",
]  # fmt: skip


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
    """A run whose values a twin holds on to: membrane ``u`` and ``spikes`` (``[T, B, N]``), ``theta`` (``[N]``)."""

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

    Kept: the input ``x``, the ``spikes``, the initial state (``None`` for zeros), and thresholds, parameters and steepness
    as they were.  Everything else follows from these: a compiled kernel keeps no membranes, but the states before each span
    of time (``borders``), and `membranes` is the function that runs forward again.
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
        """Every state after the charge and before the reset, ``[K, T, B, N]``; ``u[0]`` is the membrane."""
        return self.membranes(self) if callable(self.membranes) else self.membranes


class Kernel(Protocol):
    """The time loop of one neuron, reset and surrogate, and its adjoint."""

    dynamics: Dynamics

    def scan(
        self, x: Array, state0: Array | None, theta: Array, params: Array, k: float, twin: Twin = HARD
    ) -> tuple[Array, Array, ScanCache]:
        """Run T steps: ``(spikes, state_last, cache)``; `k` is the steepness of the surrogate.

        Raises
        ------
        TypeError, ValueError : an array has another dtype or shape than the others ask for; "tangent" is given no base.
        """

    def scan_adjoint(
        self, d_spikes: Array, d_state_last: Array | None, cache: ScanCache, needs: Needs = ALL
    ) -> tuple[Array | None, Array | None, Array | None, Array | None]:
        """Go back over the T steps: ``(d_x, d_state0, d_theta, d_params)``.

        Raises
        ------
        TypeError, ValueError : an array does not fit; the cache is that of other dynamics, or of a run with a base.
        """


def base_of(twin: Twin, dtype: Any) -> Base | None:
    """The base run of a twin, its spikes in the dtype that the loop computes in: nothing may be computed from uint8."""
    if twin.base is None and twin.fire == "tangent":
        raise ValueError("twin: 'tangent' needs the base run that it touches, got no base")
    return twin.base and twin.base._replace(spikes=twin.base.spikes.astype(dtype, copy=False))


# -- at the kernel's door: a compiled loop sees memory and sizes, and would read and write beside an array that does not fit


def check_scan_arrays(
    dynamics: Dynamics, x: Array, state0: Array | None, theta: Array, params: Array, base: Base | None
) -> None:
    """Raise unless all arrays of a run fit `x`, ``[T, B, N]``."""
    if x.ndim != 3:
        raise ValueError(f"x has shape {list(x.shape)}, expected [T, B, N]")
    _, batch, n = x.shape
    fitting = {
        "state0": (state0, (len(dynamics.neuron.state), batch, n)), "theta": (theta, (n,)),
        "params": (params, (len(dynamics.neuron.params), n)),
    }  # fmt: skip
    if base is not None:
        fitting |= {"base.u": (base.u, x.shape), "base.spikes": (base.spikes, x.shape), "base.theta": (base.theta, (n,))}
    _check(x, fitting | {"x": (x, x.shape)})


def check_adjoint_arrays(dynamics: Dynamics, d_spikes: Array, d_state_last: Array | None, cache: ScanCache) -> None:
    """Raise unless the cache is one of these dynamics, still whole, and the gradients fit it."""
    if cache.dynamics != dynamics:
        raise ValueError(f"cache: made by {cache.dynamics}, this kernel runs {dynamics}")
    if cache.twin.base is not None:
        raise ValueError("cache: of a twin that holds on to a base run, which has no adjoint of its own")
    check_scan_arrays(dynamics, cache.x, cache.state0, cache.theta, cache.params, None)
    if cache.spikes.shape != cache.x.shape:
        shapes = f"spikes {list(cache.spikes.shape)} of an input {list(cache.x.shape)}"
        raise ValueError(f"cache: {shapes}: one was changed since")
    states = len(dynamics.neuron.state), *cache.x.shape[1:]
    _check(cache.x, {"d_spikes": (d_spikes, cache.x.shape), "d_state_last": (d_state_last, states)})


def _check(x: Array, arrays: dict[str, tuple[Array | None, tuple[int, ...]]]) -> None:
    kind = get_array_module(x).ndarray
    for name, (array, shape) in arrays.items():
        if array is None:
            continue
        if not isinstance(array, kind):
            got = f"{type(array).__module__}.{type(array).__name__}"
            raise TypeError(f"{name} is a {got}, x a {kind.__module__}.{kind.__name__}: both must be in one place")
        if array.dtype != x.dtype or array.shape != shape:
            raise ValueError(f"{name} is {array.dtype} {list(array.shape)}, expected {x.dtype} {list(shape)} to fit x")
        if not (in_one_piece(array) or (name == "x" and is_steady(array))):
            cure = f"np.require({name}, requirements='CA')"
            raise ValueError(
                f"{name} lies in pieces or begins in the middle of a number; expected C-contiguous, aligned: {cure}"
            )
