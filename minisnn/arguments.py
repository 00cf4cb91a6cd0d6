"""Arguments of public calls: a rule looks at each, and its error names the call and the argument.

For example ``@arguments(epochs=whole(), loss=function("ms.losses.mse"))`` above ``fit``.
"""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, NamedTuple, TypeVar

import numpy as np

__all__ = ["Rule", "arguments", "check", "flag", "function", "number", "one_of", "whole"]

Call = TypeVar("Call", bound=Callable[..., Any])

#: What other libraries call an argument, and how it is said here.
PEERS = {
    "tau": "decay=math.exp(-dt / tau)",
    "tau_mem": "decay=math.exp(-dt / tau)",
    "beta": "decay=, the share of the membrane that is kept per step",
    "alpha": "decay_syn= of neuron=ms.neurons.current_lif",
    "leak": "decay=",
    "v_threshold": "threshold=",
    "v_th": "threshold=",
    "vth": "threshold=",
    "spike_grad": "surrogate=, e.g. ms.surrogates.atan(2.0)",
    "surrogate_function": "surrogate=, e.g. ms.surrogates.atan(2.0)",
    "reset_mechanism": "reset=ms.resets.soft or ms.resets.hard",
    "detach_reset": "reset=ms.resets.hard_detached",
    "in_features": "n_in, the first argument",
    "out_features": "n_out, the second argument",
    "batch_size": "batch=",
    "learning_rate": "lr=",
    "num_steps": "steps=",
}


class Rule(NamedTuple):
    """What an argument must be: in words, of which kinds, and what must hold of its value."""

    expected: str
    kinds: tuple[type, ...] = (object,)
    holds: Callable[[Any], Any] = lambda value: True
    likely: Callable[[Any], str] = lambda value: ""  #: the likely mistake, in words


def check(where: str, value: Any, rule: Rule) -> Any:
    """`value` if it keeps the rule; `where` names the call and the argument, e.g. "fit: batch".

    Raises TypeError for another kind (True is no number), and ValueError for another value.
    """
    is_kind = isinstance(value, rule.kinds) and not (type(value) is bool and int in rule.kinds)
    if is_kind and rule.holds(value):
        return value
    error = ValueError if is_kind else TypeError
    raise error(f"{where} must be {rule.expected}, got {value!r}{rule.likely(value)}")


def arguments(**rules: Rule) -> Callable[[Call], Call]:
    """Check these arguments before the call; a default that was not changed is not looked at."""

    def decorate(call: Call) -> Call:
        signature = inspect.signature(call)
        name = call.__qualname__.removesuffix(".__init__")
        options = [n for n, p in signature.parameters.items() if p.kind is not p.VAR_KEYWORD]

        @wraps(call)
        def checked(*args: Any, **given: Any) -> Any:
            if len(options) == len(signature.parameters):
                known(name, given, options)
            for argument, value in signature.bind(*args, **given).arguments.items():
                if argument in rules and value is not signature.parameters[argument].default:
                    check(f"{name}: {argument}", value, rules[argument])
            return call(*args, **given)

        return checked  # type: ignore[return-value]

    return decorate


def known(where: str, given: Iterable[str], options: Iterable[str]) -> None:
    """Raise TypeError if a name is none of the `options`; it says what a peer's name is here."""
    for name in given:
        if name not in options:
            word = meant(name, options)
            word += "=" if word in options else ""
            hint = f"; did you mean {word}?" if word else f"; it takes {', '.join(options)}"
            raise TypeError(f"{where}: unknown argument {name!r}{hint}")


def meant(name: str, options: Iterable[str]) -> str:
    """What a user may have meant by an argument's name: a peer's word, a misspelling, or ""."""
    near = difflib.get_close_matches(name, options, 1)
    return PEERS.get(name, near[0] if near else "")


# -- rules


def whole(least: int = 1) -> Rule:
    """A whole number of at least `least`."""
    expected = f"a whole number of at least {least}"
    return Rule(expected, (int, np.integer), lambda value: value >= least)


def number(low: float = -math.inf, high: float = math.inf, *, above: bool = False) -> Rule:
    """A finite number from `low` to `high`; with `above`, greater than `low`."""
    expected = "a finite number"
    expected += f" {'>' if above else '>='} {low:g}" if low > -math.inf else ""
    expected += f" and <= {high:g}" if high < math.inf else ""

    def holds(value: Any) -> bool:
        return math.isfinite(value) and (value > low if above else value >= low) and value <= high

    return Rule(expected, (int, float, np.integer, np.floating), holds)


def one_of(*names: str) -> Rule:
    """One of some words."""
    return Rule(f"one of {', '.join(map(repr, names))}", (str,), lambda value: value in names)


flag = Rule("True or False", (bool, np.bool_))


def function(example: str, registry: Iterable[str] = ()) -> Rule:
    """Something to call, e.g. a loss: no name of one, and no class of which one is made."""

    def likely(value: Any) -> str:
        if isinstance(value, type):
            return f": a class; make an object of it, {value.__name__}(...)"
        folder = example.split("(")[0].rpartition(".")[0]
        return f": did you mean {folder}.{value}?" if value in tuple(registry) else ""

    expected = f"a function, e.g. {example}"
    return Rule(expected, holds=lambda f: callable(f) and not isinstance(f, type), likely=likely)
