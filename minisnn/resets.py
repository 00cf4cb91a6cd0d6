"""Resets: what a spike does to the membrane, and the adjoint of that.

A reset is a pair of formulas (:mod:`minisnn.formula`)::

    reset(u, s, theta)                -> v     the membrane that is carried to the next step
    reset_adjoint(d_v, u, s, theta)   -> d_u, d_s, d_theta

``u`` is the membrane before the reset, ``s`` the spike, ``theta`` the threshold.

**Detached.**  Many libraries treat the spike inside the reset as a constant when they
differentiate.  The forward is the same, the gradient another.  ``stop`` is the author's *claim*
which arguments are constants: the checks hold those at their base values, so that they can tell a
path dropped on purpose from one forgotten.  Kernels never read it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .formula import Formula, trace

__all__ = ["RESETS", "Reset", "hard", "hard_detached", "none", "soft", "soft_detached"]


@dataclass(frozen=True)
class Reset:
    """A reset, its adjoint, and the arguments that its author declares constant.

    Parameters
    ----------
    reset, reset_adjoint : the forward ``(u, s, theta) -> v`` and its adjoint ``(d_v, u, s, theta)
        -> d_u, d_s, d_theta``.
    stop : names among ``"u"``, ``"s"``, ``"theta"`` that the adjoint treats as constants.

    Raises
    ------
    FormulaError : a function does what some backend cannot.
    ValueError : `stop` names something else.
    """

    reset: Callable[..., Any] = field(compare=False)
    reset_adjoint: Callable[..., Any] = field(compare=False)
    stop: tuple[str, ...] = ()
    #: The two functions, traced when the object is made.
    formulas: tuple[Formula, Formula] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        if unknown := set(stop) - {"u", "s", "theta"}:
            expected = "expected some of 'u', 's', 'theta'"
            raise ValueError(f"Reset: stop names {sorted(unknown)}, {expected}")
        object.__setattr__(self, "stop", stop)
        reset = trace(self.reset, "reset of a Reset", n_args=3, n_results=1)
        adjoint = trace(self.reset_adjoint, "reset_adjoint of a Reset", n_args=4, n_results=3)
        object.__setattr__(self, "formulas", (reset, adjoint))

    def __repr__(self) -> str:
        return f"Reset({self.reset.__name__}" + (f", stop={self.stop})" if self.stop else ")")


# -- hard: a spike empties the membrane


def hard_reset(u, s, theta):
    return u - s * u  # (lif.3)


def hard_adjoint(d_v, u, s, theta):
    return d_v - s * d_v, -u * d_v, 0  # d_u, d_s, d_theta: (lif.4) (lif.5)


def hard_detached_adjoint(d_v, u, s, theta):
    return d_v - s * d_v, 0, 0  # (resets.3)


hard = Reset(hard_reset, hard_adjoint)
hard_detached = Reset(hard_reset, hard_detached_adjoint, stop=("s",))

# -- soft: a spike takes one threshold away


def soft_reset(u, s, theta):
    return u - s * theta  # (resets.1)


def soft_adjoint(d_v, u, s, theta):
    return d_v, -theta * d_v, -(s * d_v)  # (resets.4)


def soft_detached_adjoint(d_v, u, s, theta):
    # The threshold is subtracted, whatever the spike depends on: its term stays.
    return d_v, 0, -(s * d_v)  # (resets.5)


soft = Reset(soft_reset, soft_adjoint)
soft_detached = Reset(soft_reset, soft_detached_adjoint, stop=("s",))

# -- none: a spike leaves the membrane as it is


def no_reset(u, s, theta):
    return u  # (resets.2)


def no_reset_adjoint(d_v, u, s, theta):
    return d_v, 0, 0  # (resets.6)


none = Reset(no_reset, no_reset_adjoint)

#: Every reset by its name; all contract, gradient and documentation tests run over it.
RESETS = {"hard": hard, "soft": soft, "none": none}
RESETS |= {"hard_detached": hard_detached, "soft_detached": soft_detached}
