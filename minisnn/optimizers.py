"""Optimizers, whose parameters are what learns, and schedules of the learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .kernels import compiled_helpers
from .kernels.arrays import Array, get_array_module, positive_int
from .network import Network, naming
from .rules import Pattern, choose

__all__ = ["SGD", "Adam", "Optimizer", "cosine", "exponential", "gradient_norm", "not_finite"]

#: NumPy updates parameters of fewer entries: for them it is as fast as compiled code.
WORTH_COMPILED = 1 << 14
#: What a setting may be, as its error says it.
RANGES: dict[str, Callable[[Any], bool]] = {
    ">= 0": lambda n: 0 <= n < math.inf,
    "> 0": lambda n: 0 < n < math.inf,
    "in [0, 1)": lambda n: 0 <= n < 1,
    "in [0, 1]": lambda n: 0 <= n <= 1,
    "in (0, 1]": lambda n: 0 < n <= 1,
}


class Optimizer:
    """Base: keeps the live arrays that learn, checks gradients, and updates in place.

    Parameters
    ----------
    net : the network whose parameters learn.
    pattern : which of them: ``ms.SL``, ``ms.TL``, ``ms.STL``, ``ms.STDL``, a name with wildcards,
        several of these.
    lr : learning rate.
    weight_decay : L2 penalty, coupled: each gradient grows by ``weight_decay * parameter`` (as the
        STL-SNN authors use it, on everything that learns).
    decoupled : if true, the decay acts on the parameter instead, ``param -= rate * weight_decay *
        param`` before the step (AdamW: Loshchilov and Hutter 2019).
    clip_norm : the largest norm of the gradient over all that learns; a larger gradient is scaled
        down to it, before the decay.
    lr_scale : factors on the rate by name with wildcards, e.g. ``{"*.threshold": 0.1}``; the last
        that matches counts.

    Raises
    ------
    ValueError : a pattern matches no parameter, or a number is out of range.
    """

    #: Names of the moments: arrays like the parameters that go on from step to step.
    carries: tuple[str, ...] = ()

    def __init__(
        self,
        net: Network,
        pattern: Pattern = None,
        *,
        lr: float,
        weight_decay: float = 0.0,
        decoupled: bool = False,
        clip_norm: float | None = None,
        lr_scale: Mapping[str, float] | None = None,
    ) -> None:
        kind = type(self).__name__
        if not isinstance(net, Network):
            raise TypeError(f"{kind}: net must be a Network, got {net!r}")
        self.params = net.params(pattern)
        if not self.params:
            raise ValueError(f"{kind}: the pattern {pattern!r} chooses no parameter to learn")
        self._net = net
        self.lr = _number("lr", lr, "> 0")
        self.weight_decay = _number("weight_decay", weight_decay)
        self.decoupled = bool(decoupled)
        self.clip_norm = None if clip_norm is None else _number("clip_norm", clip_norm, "> 0")
        self.lr_scale = dict.fromkeys(self.params, 1.0)
        for name, factor in (lr_scale or {}).items():
            with naming("lr_scale"):
                chosen = choose(name, self.params)
            self.lr_scale |= dict.fromkeys(chosen, _number(f"lr_scale[{name!r}]", factor))
        self._moments = {
            moment: {n: np.zeros_like(p) for n, p in self.params.items()} for moment in self.carries
        }
        self.steps = 0

    def step(self, grads: Mapping[str, Any], factor: float = 1.0) -> None:
        """Update every parameter that learns, in place.

        Parameters
        ----------
        grads : gradients by name; those of parameters of the net that do not learn are ignored.
        factor : the schedule's factor on the rate.

        Raises
        ------
        TypeError : `grads` is no dict.
        ValueError : a gradient is missing, has a name the net does not know, not its parameter's
            shape, dtype or device, or entries that are not finite numbers.  Then no parameter
            changes.
        """
        self._check(grads)
        _number(f"{type(self).__name__}.step: factor", factor)
        self.steps += 1
        shrink = 1.0
        if self.clip_norm is not None:
            norm = gradient_norm(grads[n] for n in self.params)
            shrink = self.clip_norm / norm if norm > self.clip_norm else 1.0
        constraints = self._net.constraints()
        for name, param in self.params.items():
            number, lr = param.dtype.type, self.lr * self.lr_scale[name] * factor
            grad = grads[name] if shrink == 1 else grads[name] * number(shrink)
            if self.weight_decay and self.decoupled:
                param *= number(1 - lr * self.weight_decay)
            self._update(name, param, grad, lr, 0.0 if self.decoupled else self.weight_decay)
            if name in constraints:
                constraints[name].project(param)

    def _check(self, grads: Any) -> None:
        where = f"{type(self).__name__}.step"
        if not isinstance(grads, Mapping):
            expected = f"gradients by name, got {type(grads).__name__}"
            example = "loss, grads = net.loss_and_grads(...), then optimizer.step(grads)"
            raise TypeError(f"{where}: grads must be {expected}: {example}")
        if unknown := set(grads) - {*self._net.params(), "state"}:
            raise ValueError(f"{where}: {sorted(unknown)} are no parameters of the optimizer's net")
        for name, param in self.params.items():
            if name not in grads:
                raise ValueError(f"{where}: no gradient for {name!r}; got {', '.join(grads)}")
            if (given := _about(grads[name])) != (own := _about(param)):
                differ = f"is {given}, the parameter {own}"
                raise ValueError(f"{where}: the gradient of {name} {differ}")
        if bad := not_finite({n: grads[n] for n in self.params}):
            raise ValueError(
                f"{where}: the gradient of {bad} has entries that are not finite; no parameter "
                "changed. Likely: an input that is not finite, a learning rate too high, or a "
                "gradient that explodes over many steps"
            )

    def _update(self, name: str, param: Array, grad: Array, lr: float, decay: float) -> None:
        """One parameter, in place; `decay` is the coupled one."""
        raise NotImplementedError

    def moments(self) -> dict[str, dict[str, Array]]:
        """The live moments, by their name and the parameter's."""
        return self._moments

    def settings(self) -> dict[str, Any]:
        """What decides a step, as plain data; a run continues only with the same."""
        own = {n: v for n, v in vars(self).items() if isinstance(v, int | float | bool | None)}
        own.pop("steps")
        kind, learns = type(self).__name__, list(self.params)
        return {"type": kind, "lr_scale": self.lr_scale, "learns": learns, **own}

    def __repr__(self) -> str:
        return f"{type(self).__name__}(lr={self.lr:g}) learns {', '.join(self.params)}"


class SGD(Optimizer):
    """Gradient descent with momentum: ``m = momentum * m + grad;  param -= lr * m``."""

    carries = ("velocity",)

    def __init__(self, net: Network, pattern=None, *, lr: float, momentum=0.0, **options) -> None:
        super().__init__(net, pattern, lr=lr, **options)
        self.momentum = _number("momentum", momentum, "in [0, 1)")

    def _update(self, name: str, param: Array, grad: Array, lr: float, decay: float) -> None:
        velocity, number = self._moments["velocity"][name], param.dtype.type
        grad = grad + number(decay) * param if decay else grad
        velocity *= number(self.momentum)
        velocity += grad
        param -= number(lr) * velocity


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015) with its bias corrections; `weight_decay` is coupled, as there.

    ``m = b1 m + (1 - b1) g;  w = b2 w + (1 - b2) g^2;``
    ``param -= lr * m / (1 - b1^t) / (sqrt(w / (1 - b2^t)) + eps)``
    """

    carries = ("mean", "square")

    def __init__(
        self, net: Network, pattern=None, *, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, **options
    ) -> None:
        super().__init__(net, pattern, lr=lr, **options)
        self.beta1 = _number("betas[0]", betas[0], "in [0, 1)")
        self.beta2 = _number("betas[1]", betas[1], "in [0, 1)")
        self.eps = _number("eps", eps)

    def _update(self, name: str, param: Array, grad: Array, lr: float, decay: float) -> None:
        mean, square = (self._moments[moment][name] for moment in self.carries)
        b1, b2, number = self.beta1, self.beta2, param.dtype.type
        correction, rate = (1 - b2**self.steps) ** 0.5, lr / (1 - b1**self.steps)
        compiled = compiled_helpers(self._net.backend, "adam")
        if compiled and param.size >= WORTH_COMPILED and param.flags.c_contiguous:
            numbers = (decay, b1, 1 - b1, b2, 1 - b2, correction, self.eps, rate)
            compiled.adam(param, np.ascontiguousarray(grad), mean, square, numbers)
            return
        grad = grad + number(decay) * param if decay else grad
        mean *= number(b1)
        mean += number(1 - b1) * grad
        square *= number(b2)
        square += number(1 - b2) * (grad * grad)
        root = np.sqrt(square) / number(correction) + number(self.eps)
        param -= number(rate) * (mean / root)


# -- all entries of several gradients


def gradient_norm(grads: Iterable[Array]) -> float:
    """Euclidean norm over all entries of several gradients."""
    grads = list(grads)
    with np.errstate(over="ignore"):
        norm = math.sqrt(sum(np.vdot(g, g).astype(np.float64) for g in grads))
    if not np.isfinite(norm):  # squares beyond float32
        norm = math.sqrt(sum(np.vdot(g, g) for g in (g.astype(np.float64) for g in grads)))
    return norm


def not_finite(grads: Mapping[str, Array]) -> str | None:
    """The name of the first gradient with an entry that is no finite number."""
    # A sum is quicker than a look at every entry, and finite only if all of them are.  Stacked, the
    # sums make the CPU wait once for a GPU.
    with np.errstate(over="ignore", invalid="ignore"):
        sums = [np.isfinite(grad.sum()) for grad in grads.values()]
    if not sums or np.stack(sums).all():
        return None
    # A sum of finite entries may overflow.
    return next((name for name, grad in grads.items() if not np.isfinite(grad).all()), None)


def _about(value: Any) -> str:
    """What a gradient and its parameter must have in common, in words."""
    module = get_array_module(value)
    if not isinstance(value, module.ndarray | np.generic):  # a sum over all neurons is a number
        return repr(value)
    return f"{value.dtype} {list(value.shape)}" + ("" if module is np else " on the GPU")


def _number(name: str, value: Any, wanted: str = ">= 0") -> float:
    is_number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not is_number or not RANGES[wanted](value):
        raise ValueError(f"{name} must be a number {wanted}, got {value!r}")
    return float(value)


# -- schedules: factors on the rate by epoch, whose repr tells a checkpoint one from another


@dataclass(frozen=True)
class exponential:
    """A schedule for ``fit``: in epoch e (from 0) the rate is ``lr * gamma^e``."""

    gamma: float

    def __post_init__(self) -> None:
        _number("exponential: gamma", self.gamma, "in (0, 1]")

    def __call__(self, epoch: int) -> float:
        """The factor in this epoch."""
        return self.gamma**epoch


@dataclass(frozen=True)
class cosine:
    """A schedule for ``fit``: half a cosine from ``lr`` to ``lowest * lr`` in `epochs` epochs."""

    epochs: int
    lowest: float = 0.0

    def __post_init__(self) -> None:
        positive_int("cosine: epochs", self.epochs)
        _number("cosine: lowest, a share of the rate,", self.lowest, "in [0, 1]")

    def __call__(self, epoch: int) -> float:
        """The factor in this epoch."""
        share = min(epoch / self.epochs, 1.0)
        return self.lowest + (1 - self.lowest) * 0.5 * (1 + math.cos(math.pi * share))
