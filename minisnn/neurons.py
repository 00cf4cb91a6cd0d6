"""Neuron models: how the state moves in one time step, and the adjoint of that move.

A neuron is a pair of formulas (:mod:`minisnn.formula`).  With K states and Q parameters::

    charge(*states, x, *params)                       -> K new states, a bare value for K = 1
    charge_adjoint(*d_states, *states, x, *params)    -> K d_states, d_x, Q d_params, in one tuple

``states`` are the values *before* the step, ``x`` the input current.  In the adjoint ``d_states``
are the gradients of the loss with respect to the *new* states, and the results those with respect
to the arguments of ``charge``, in their order.  The first state is the membrane.  Threshold and
reset act on it alone.

To add a neuron: write the pair, and one line in :data:`NEURONS`.  A neuron of your own needs no
registration.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .formula import Formula, trace

__all__ = ["NEURONS", "Neuron"]
__all__ += ["current_lif", "integrate_and_fire", "leaky_integrator", "lif", "quadratic"]


@dataclass(frozen=True)
class Neuron:
    """The dynamics of one step as a pair of functions, and the names of its states and parameters.

    Parameters
    ----------
    charge, charge_adjoint : the forward step and its adjoint, in the orders given above.
    state : names of the states; the first is the membrane potential.
    params : names of the parameters, in the order in which ``charge`` takes them.

    Raises
    ------
    FormulaError : a function does what some backend cannot; the message names it and the cure.
    """

    charge: Callable[..., Any] = field(compare=False)
    charge_adjoint: Callable[..., Any] = field(compare=False)
    state: tuple[str, ...] = ("v",)
    params: tuple[str, ...] = ("decay",)
    #: The two functions, traced when the object is made.
    formulas: tuple[Formula, Formula] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        for what in ("state", "params"):
            names = getattr(self, what)
            named = all(isinstance(n, str) and n.isidentifier() for n in names)
            if isinstance(names, str) or not named:
                expected = "must be a tuple of names, e.g. ('v',)"
                raise TypeError(f"Neuron: {what} {expected}, got {names!r}")
            object.__setattr__(self, what, tuple(names))
        names = *self.state, *self.params
        if not self.state or len(set(names)) < len(names):
            expected = "names must differ and state must not be empty"
            raise ValueError(f"Neuron: {expected}, got {self.state}, {self.params}")
        if reserved := {"threshold", "state"} & set(self.params):
            wrong = f"params may not be called {reserved.pop()!r}, since the layer uses that name"
            raise ValueError(f"Neuron: {wrong}")
        k, q = len(self.state), len(self.params)
        about = f"of a Neuron with state {self.state} and params {self.params}"
        charge = trace(self.charge, f"charge {about}", k + 1 + q, k)
        adjoint = trace(self.charge_adjoint, f"charge_adjoint {about}", 2 * k + 1 + q, k + 1 + q)
        object.__setattr__(self, "formulas", (charge, adjoint))

    def __repr__(self) -> str:
        return f"Neuron({self.charge.__name__}, state={self.state}, params={self.params})"


# -- leaky integrate-and-fire, the STL-SNN authors' neuron: the leak acts on the membrane after its
# -- reset, the input is not scaled


def lif_charge(v, x, decay):
    return decay * v + x  # (lif.1)


def lif_adjoint(d_u, v, x, decay):
    return decay * d_u, d_u, v * d_u  # d_v, d_x, d_decay: (lif.8) (lif.9) (lif.10)


lif = Neuron(lif_charge, lif_adjoint, state=("v",), params=("decay",))

# -- integrate and fire: no leak, hence no parameter


def integrate_and_fire_charge(v, x):
    return v + x  # (neurons.1)


def integrate_and_fire_adjoint(d_u, v, x):
    return d_u, d_u  # d_v, d_x (neurons.4)


integrate_and_fire = Neuron(integrate_and_fire_charge, integrate_and_fire_adjoint, params=())

# -- leaky integrator: the leak also scales the input, so that the membrane approaches a constant
# -- input and never exceeds it


def leaky_integrator_charge(v, x, decay):
    return decay * v + (1 - decay) * x  # (neurons.2)


def leaky_integrator_adjoint(d_u, v, x, decay):
    return decay * d_u, (1 - decay) * d_u, (v - x) * d_u  # d_v, d_x, d_decay (neurons.5)


leaky_integrator = Neuron(leaky_integrator_charge, leaky_integrator_adjoint)

# -- quadratic: below 1 the membrane falls back to 0, above it runs away by itself


def quadratic_charge(v, x, decay):
    return v + decay * v * (v - 1) + x  # (neurons.3)


def quadratic_adjoint(d_u, v, x, decay):
    return d_u + decay * (2 * v - 1) * d_u, d_u, v * (v - 1) * d_u  # d_v, d_x, d_decay (neurons.6)


quadratic = Neuron(quadratic_charge, quadratic_adjoint)

# -- current-based LIF: spikes charge a synaptic current, which decays by itself and charges the
# -- membrane


def current_lif_charge(v, i, x, decay, decay_syn):
    i_new = decay_syn * i + x  # (current_lif.1)
    return decay * v + i_new, i_new  # (current_lif.2)


def current_lif_adjoint(d_u, d_i_new, v, i, x, decay, decay_syn):
    d_i = d_i_new + d_u  # both paths to the new current: (current_lif.3)
    # d_v, d_i, d_x, d_decay, d_decay_syn: (current_lif.4)
    return decay * d_u, decay_syn * d_i, d_i, v * d_u, i * d_i


current_lif = Neuron(current_lif_charge, current_lif_adjoint, ("v", "i"), ("decay", "decay_syn"))

#: Every neuron by its name; all contract, gradient and documentation tests run over it.
NEURONS = {
    "lif": lif,
    "integrate_and_fire": integrate_and_fire,
    "current_lif": current_lif,
    "leaky_integrator": leaky_integrator,
    "quadratic": quadratic,
}
