"""How a neuron fires: the real jump, and two stand-ins whose derivative the backward run computes.

Each builds ``fire(u, theta, k, u0, s0, theta0)`` from the functions of a surrogate; values with a 0
are those of a base run that a twin holds on to.  All backends run these very functions.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["FIRES", "hold"]


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


def hold(reset: Callable, stop: tuple[str, ...]) -> Callable:
    """The reset with the arguments named in `stop` kept at the base run's values."""
    hold_u, hold_s, hold_theta = "u" in stop, "s" in stop, "theta" in stop

    def held(u, s, theta, u0, s0, theta0):
        return reset(u0 if hold_u else u, s0 if hold_s else s, theta0 if hold_theta else theta)

    return held
