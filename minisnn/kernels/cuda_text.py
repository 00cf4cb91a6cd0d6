"""The CUDA text of the two loops, made from floor 0 by ``cupyx.jit``.  It takes CuPy, but no card and no driver.

The loops below are Python that never runs as Python: :mod:`minisnn.kernels.source` spells them out for the numbers of
states and parameters at hand, and ``cupyx.jit`` translates what comes of it, floor 0 included.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from ..grammar import GrammarError
from ..neurons import Neuron
from .contract import FIRES, Dynamics, Wanted, hold
from .narrow import fingerprint
from .source import spelled_out

__all__ = ["Text", "adjoint_text", "scan_text"]


class Text(NamedTuple):
    """CUDA text, and the name of the kernel in it."""

    name: str
    code: str


# -- the text: once for each thing computed, dtype and wish


def scan_text(
    dynamics: Dynamics, dtype: Any, fire: str = "step", held: tuple[str, ...] = (), based: bool = False,
    given: bool = True, last: bool = True,
) -> Text:  # fmt: skip
    """The CUDA text of the time loop of these dynamics.

    Parameters
    ----------
    dynamics : neuron, reset and surrogate.
    dtype : of all numbers.
    fire : a key of ``FIRES``.
    held : arguments of the reset that keep the values of a base run.
    based : whether there is a base run.
    given : whether there is an initial state; else it is zero.
    last : whether the last state is wanted.
    """
    neuron, reset, surrogate = dynamics
    used = {"charge": neuron.charge, "reset": reset.reset, "smooth": surrogate.smooth, "slope": surrogate.slope}
    number = np.dtype(dtype).type
    return _text("scan", used, neuron, number, np.uint8 if fire == "step" else number, fire, held, based, given, last)


def adjoint_text(
    dynamics: Dynamics, dtype: Any, soft_spikes: bool = False, wanted: Wanted = Wanted(),
    given: bool = True, given_last: bool = True,
) -> Text:  # fmt: skip
    """The CUDA text of the adjoint of that loop.

    Parameters
    ----------
    soft_spikes : whether spikes are stored in the net's dtype, not as bytes.
    wanted : the gradients that are wanted.
    given, given_last : whether there are an initial state, and a gradient of the last one; else they are zero.
    """
    neuron, reset, surrogate = dynamics
    wanted = wanted._replace(params=wanted.params and len(neuron.params) > 0)
    used = {"charge_adjoint": neuron.charge_adjoint, "reset": reset.reset, "reset_adjoint": reset.reset_adjoint}
    used |= {"slope": surrogate.slope}
    number = np.dtype(dtype).type
    return _text("adjoint", used, neuron, number, number if soft_spikes else np.uint8, wanted, given, given_last)


_texts: dict[tuple, Text] = {}


def _text(name: str, used: dict[str, Callable], neuron: Neuron, number: type, stored: type, *wishes: Any) -> Text:
    key = (name, tuple(fingerprint(f) for f in used.values()), neuron.state, neuron.params, number, stored, wishes)
    if key not in _texts:
        import cupy

        copies = {n: _on_device(spelled_out(f, np.dtype(number), np=cupy)) for n, f in used.items()}
        build, types = _LOOPS[name]
        loop = build(copies, number, stored, len(neuron.state), len(neuron.params), *wishes)
        try:
            _texts[key] = _transpiled(spelled_out(loop, jit=_jit()), types, number, stored)
        except Exception as error:  # what floor 0 allows and cupyx.jit does not know; its message shows the line
            functions = ", ".join(f"{f.__name__}()" for f in used.values())
            raise GrammarError(f"CuPy makes no GPU kernel of {functions}: {type(error).__name__}: {error}") from error
    return _texts[key]


@cache
def _jit() -> Any:
    from cupyx import jit

    return jit


def _on_device(function: Callable) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # cupyx.jit calls itself experimental
        return _jit().rawkernel(device=True)(function)


def _transpiled(loop: Callable, types: str, number: type, stored: type) -> Text:
    """What ``cupyx.jit`` makes of a loop: it is the same for every card, hence can be had without one."""
    from cupyx.jit import _compile, _cuda_types

    real, spike = _cuda_types.Scalar(number), _cuda_types.Scalar(stored)
    kinds = {"r": real, "R": _cuda_types.Ptr(real), "S": _cuda_types.Ptr(spike), "n": _cuda_types.uint32}
    made = _compile.transpile(loop, ['extern "C"', "__global__"], "cuda", [kinds[t] for t in types], _cuda_types.void)
    return Text(made.func_name, "#include <cupy/carray.cuh>\n" + made.code)


# -- the loops.  `spelled_out` writes out what is done for each state and parameter, and leaves out what is not wanted


def _scan_loop(
    f: dict[str, Any], number: type, stored: type, n_states: int, n_params: int,
    fire: str, held: tuple[str, ...], based: bool, given: bool, last: bool,
) -> Callable:  # fmt: skip
    charge = f["charge"]
    spike = _on_device(spelled_out(FIRES[fire](f["smooth"], f["slope"])))
    reset = _on_device(spelled_out(hold(f["reset"], held)))
    jit: Any = None  # the copy's is cupyx.jit

    def scan(x, state0, theta, params, k, u0, s0, theta0, u, spikes, state_last, n_steps, n_rows, n_lanes):
        lanes = np.int64(n_rows) * n_lanes  # indices take 64 bits: T * B * N goes beyond 2**31
        lane = np.int64(jit.blockIdx.x) * jit.blockDim.x + jit.threadIdx.x
        if lane >= lanes:
            return
        size = n_steps * lanes
        n = lane % n_lanes
        th = theta[n]
        p = (*(params[i * np.int64(n_lanes) + n] for i in range(n_params)),)
        zero = number(0)
        v = (*(state0[i * lanes + lane] if given else zero for i in range(n_states)),)
        for t in range(n_steps):
            at = t * lanes + lane
            if n_states == 1:
                v = (charge(v[0], x[at], *(p[i] for i in range(n_params))),)
            else:
                v = charge(*(v[i] for i in range(n_states)), x[at], *(p[i] for i in range(n_params)))
            for i in range(n_states):
                u[i * size + at] = v[i]
            base = (u0[at], s0[at], theta0[n]) if based else (v[0], v[0], th)  # nothing looks at the second
            s = number(spike(v[0], th, k, *(base[i] for i in range(3))))
            spikes[at] = stored(s)
            v = (reset(v[0], s, th, *(base[i] for i in range(3))), *(v[i] for i in range(1, n_states)))
        if last:
            for i in range(n_states):
                state_last[i * lanes + lane] = v[i]

    return scan


def _adjoint_loop(
    f: dict[str, Any],
    number: type,
    stored: type,
    n_states: int,
    n_params: int,
    wanted: Wanted,
    given: bool,
    given_last: bool,
) -> Callable:
    charge_adjoint, reset, reset_adjoint, slope = f["charge_adjoint"], f["reset"], f["reset_adjoint"], f["slope"]
    want_x, want_theta, want_params, want_state = wanted
    jit: Any = None

    def adjoint(d_spikes, d_state_last, x, u, spikes, state0, theta, params, k, d_x, d_state0, d_theta, d_params,
                n_steps, n_rows, n_lanes):  # fmt: skip
        lanes = np.int64(n_rows) * n_lanes
        lane = np.int64(jit.blockIdx.x) * jit.blockDim.x + jit.threadIdx.x
        if lane >= lanes:
            return
        size = n_steps * lanes
        n = lane % n_lanes
        th = theta[n]
        p = (*(params[i * np.int64(n_lanes) + n] for i in range(n_params)),)
        zero = d_th = number(0)
        d_p = (*(zero for i in range(n_params)),)
        d_v = (*(d_state_last[i * lanes + lane] if given_last else zero for i in range(n_states)),)
        charged = (*(u[i * size + size - lanes + lane] for i in range(n_states)),)
        s = number(spikes[size - lanes + lane])
        for back in range(n_steps):
            at = (n_steps - 1 - back) * lanes + lane
            d_u, d_s, d_theta_t = reset_adjoint(d_v[0], charged[0], s, th)
            g = (d_s + d_spikes[at]) * slope(charged[0] - th, k)  # (lif.7)
            if back + 1 < n_steps:  # the step before: what the reset left of it, and its membrane for the next round
                charged = (*(u[i * size + at - lanes] for i in range(n_states)),)
                s = number(spikes[at - lanes])
                before = (reset(charged[0], s, th), *(charged[i] for i in range(1, n_states)))
            else:
                before = (*(state0[i * lanes + lane] if given else zero for i in range(n_states)),)
            adjoints = charge_adjoint(
                d_u + g, *(d_v[i] for i in range(1, n_states)), *(before[i] for i in range(n_states)), x[at],
                *(p[i] for i in range(n_params)),
            )  # fmt: skip
            d_v = (*(adjoints[i] for i in range(n_states)),)
            if want_x:
                d_x[at] = adjoints[n_states]
            if want_theta:
                d_th = d_th + (d_theta_t - g)  # (lif.11)
            if want_params:
                d_p = (*(d_p[i] + adjoints[n_states + 1 + i] for i in range(n_params)),)
        if want_state:
            for i in range(n_states):
                d_state0[i * lanes + lane] = d_v[i]
        if want_theta:
            d_theta[lane] = d_th
        if want_params:
            for i in range(n_params):
                d_params[i * lanes + lane] = d_p[i]

    return adjoint


#: Name -> how the loop is built; its arguments: arrays of reals (R) and stored spikes (S), a real (r), sizes (n).
_LOOPS: dict[str, tuple[Callable, str]] = {
    "scan": (_scan_loop, "RRRRrRRRRSRnnn"),
    "adjoint": (_adjoint_loop, "RRRRSRRRrRRRRnnn"),
}
