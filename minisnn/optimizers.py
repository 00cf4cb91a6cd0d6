"""Optimizers: what is handed to them is what learns (law 4); schedules: how the rate falls over epochs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from .kernels import compiled_helpers
from .kernels.arrays import Array, get_array_module, positive_int
from .layers.rules import LearningRule, Pattern
from .network import Network

__all__ = ["SGD", "Adam", "Optimizer", "cosine", "exponential", "gradient_norm", "not_finite"]

#: Parameters of fewer entries are left to NumPy, which is as fast for them.
WORTH_COMPILED = 1 << 14


class Optimizer:
    """Base: keeps the live arrays that learn, checks gradients, and updates in place.

    Parameters
    ----------
    net : the network whose parameters learn.
    pattern : which of them: ``ms.SL``, ``ms.TL``, ``ms.STL``, ``ms.STDL``, a name with wildcards, several of these.
    lr : learning rate.
    weight_decay : L2 penalty, coupled: each gradient grows by ``weight_decay * parameter`` (as the STL-SNN authors use
        it, on everything that learns).
    decoupled : with true the decay leaves the gradient alone and acts on the parameter, ``param -= rate * weight_decay *
        param`` before the step (AdamW: Loshchilov and Hutter 2019).
    clip_norm : gradients whose norm over all that learns is larger are scaled down to it (before the decay).
    lr_scale : factors on the rate by name with wildcards, e.g. ``{"*.threshold": 0.1}``; the last that matches counts.

    Raises
    ------
    ValueError : a pattern matches nothing, or a number is out of range.
    """

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
        if not isinstance(net, Network):
            raise TypeError(f"{type(self).__name__}: net must be a Network, got {net!r}")
        self.rule = pattern.name if isinstance(pattern, LearningRule) else None
        self.params = net.params(pattern)
        if not self.params:
            raise ValueError(f"{type(self).__name__}: nothing learns: the pattern {pattern!r} chooses no parameter")
        self._known = {*net.params(), "state"}
        self._backend = net.backend
        self.lr = _number("lr", lr, positive=True)
        self.weight_decay, self.decoupled = _number("weight_decay", weight_decay), bool(decoupled)
        self.clip_norm = None if clip_norm is None else _number("clip_norm", clip_norm, positive=True)
        self._constraints = {n: bound for n, bound in net.constraints().items() if n in self.params}
        self.lr_scale = {n: 1.0 for n in self.params}
        for one, factor in (lr_scale or {}).items():
            if not (matching := [n for n in self.params if fnmatchcase(n, one)]):
                raise ValueError(f"lr_scale: pattern {one!r} matches nothing that learns: {', '.join(self.params)}")
            self.lr_scale |= dict.fromkeys(matching, _number(f"lr_scale[{one!r}]", factor))
        self.steps = 0

    def step(self, grads: Mapping[str, Any], factor: float = 1.0) -> None:
        """Update every parameter that learns, in place.

        Parameters
        ----------
        grads : gradients by name; those of parameters that do not learn are ignored if they belong to the net.
        factor : what a schedule makes of the rate.

        Raises
        ------
        TypeError : `grads` is no dict.
        ValueError : a gradient is missing, has a name the net does not know, not its parameter's shape, dtype or device, or
            entries that are not finite numbers.  Nothing is changed then.
        """
        if not isinstance(grads, Mapping):
            raise TypeError(
                f"{type(self).__name__}.step: grads must be gradients by name, got {type(grads).__name__}: "
                "loss, grads = net.loss_and_grads(...), then optimizer.step(grads)"
            )
        if unknown := set(grads) - self._known:
            raise ValueError(f"{type(self).__name__}.step: {sorted(unknown)} are no parameters of this optimizer's net")
        for name, param in self.params.items():
            if name not in grads:
                raise ValueError(f"{type(self).__name__}.step: no gradient for {name!r}; got {', '.join(grads)}")
            grad = grads[name]
            module = get_array_module(grad)
            is_array = isinstance(grad, module.ndarray | np.generic)  # of one shared threshold NumPy makes a number
            expected = get_array_module(param), param.shape, param.dtype
            if not is_array or (module, grad.shape, grad.dtype) != expected:
                got = _about(grad) if is_array else repr(grad)
                raise ValueError(
                    f"{type(self).__name__}.step: the gradient of {name} is {got}, the parameter {_about(param)}"
                )
        if bad := not_finite({n: grads[n] for n in self.params}):
            raise ValueError(
                f"{type(self).__name__}.step: the gradient of {bad} has entries that are not finite, nothing was changed. "
                "Likely: an input that is not finite, a learning rate too high, or a gradient that explodes over many steps"
            )
        self.steps += 1
        shrink = 1.0
        if self.clip_norm is not None:
            norm = gradient_norm(grads[n] for n in self.params)
            shrink = self.clip_norm / norm if norm > self.clip_norm else 1.0
        for name, param in self.params.items():
            number, lr = param.dtype.type, self.lr * self.lr_scale[name] * factor
            grad = grads[name] if shrink == 1 else grads[name] * number(shrink)
            if self.weight_decay and self.decoupled:
                param *= number(1 - lr * self.weight_decay)
            self._update(name, param, grad, lr, 0.0 if self.decoupled else self.weight_decay)
            if name in self._constraints:
                self._constraints[name].project(param)

    def _update(self, name: str, param: Array, grad: Array, lr: float, decay: float) -> None:
        """One parameter, in place; `decay` is that of the coupled penalty."""
        raise NotImplementedError

    def moments(self) -> dict[str, dict[str, Array]]:
        """The live arrays that an optimizer carries from step to step, by their own name and the parameter's."""
        return {}

    def settings(self) -> dict[str, Any]:
        """Everything that decides what a step does, as plain data; a run is only continued with the same."""
        own = {n: v for n, v in vars(self).items() if isinstance(v, int | float | bool | None) and n != "steps"}
        return {"type": type(self).__name__, "lr_scale": self.lr_scale, "learns": list(self.params), **own}

    def __repr__(self) -> str:
        return f"{type(self).__name__}(lr={self.lr:g}) learns {', '.join(self.params)}"


class SGD(Optimizer):
    """Gradient descent with momentum: ``m = momentum * m + grad;  param -= lr * m``."""

    def __init__(self, net: Network, pattern: Pattern = None, *, lr: float, momentum: float = 0.0, **options: Any) -> None:
        super().__init__(net, pattern, lr=lr, **options)
        self.momentum = _number("momentum", momentum, below_one=True)
        self.velocity = {n: np.zeros_like(p) for n, p in self.params.items()}

    def moments(self) -> dict[str, dict[str, Array]]:
        """As in the base."""
        return {"velocity": self.velocity}

    def _update(self, name: str, param: Array, grad: Array, lr: float, decay: float) -> None:
        velocity, number = self.velocity[name], param.dtype.type
        grad = grad + number(decay) * param if decay else grad
        velocity *= number(self.momentum)
        velocity += grad
        param -= number(lr) * velocity


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015) with its bias corrections; `weight_decay` is coupled, as in the original.

    ``m = b1 m + (1 - b1) g;  w = b2 w + (1 - b2) g^2;  param -= lr * m / (1 - b1^t) / (sqrt(w / (1 - b2^t)) + eps)``
    """

    def __init__(
        self,
        net: Network,
        pattern: Pattern = None,
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        **options: Any,
    ) -> None:
        super().__init__(net, pattern, lr=lr, **options)
        self.beta1, self.beta2 = (_number(f"betas[{i}]", b, below_one=True) for i, b in enumerate(betas))
        self.eps = _number("eps", eps)
        self.mean = {n: np.zeros_like(p) for n, p in self.params.items()}
        self.square = {n: np.zeros_like(p) for n, p in self.params.items()}

    def moments(self) -> dict[str, dict[str, Array]]:
        """As in the base."""
        return {"mean": self.mean, "square": self.square}

    def _update(self, name: str, param: Array, grad: Array, lr: float, decay: float) -> None:
        mean, square, number = self.mean[name], self.square[name], param.dtype.type
        b1, b2 = self.beta1, self.beta2
        correction, rate = (1 - b2**self.steps) ** 0.5, lr / (1 - b1**self.steps)
        compiled = compiled_helpers(self._backend, "adam") if param.size >= WORTH_COMPILED else None
        if compiled is not None and param.flags.c_contiguous:
            numbers = (decay, b1, 1 - b1, b2, 1 - b2, correction, self.eps, rate)
            compiled.adam(param, np.ascontiguousarray(grad), mean, square, numbers)
            return
        grad = grad + number(decay) * param if decay else grad
        mean *= number(b1)
        mean += number(1 - b1) * grad
        square *= number(b2)
        square += number(1 - b2) * (grad * grad)
        root = np.sqrt(square)
        root /= number(correction)
        root += number(self.eps)
        param -= number(rate) * (mean / root)


def gradient_norm(grads: Iterable[Array]) -> float:
    """Euclidean norm over all entries of several gradients; a GPU adds up before it is waited for."""
    grads = list(grads)
    with np.errstate(over="ignore"):
        norm = math.sqrt(sum(np.vdot(g, g).astype(np.float64) for g in grads))
    if np.isfinite(norm):
        return norm
    return math.sqrt(sum(np.vdot(g, g) for g in (g.astype(np.float64) for g in grads)))  # squares beyond float32


def not_finite(grads: Mapping[str, Array]) -> str | None:
    """The name of the first gradient with an entry that is no finite number; a GPU is asked, and waited for, once."""
    # No sum is finite of which one term is not, and to add up takes half the time of asking each.
    with np.errstate(over="ignore", invalid="ignore"):
        sums = [np.isfinite(grad.sum()) for grad in grads.values()]
    if not sums or np.stack(sums).all():
        return None
    return next((name for name, grad in grads.items() if not np.isfinite(grad).all()), None)  # or it was too large a sum


def _about(array: Array) -> str:
    return f"{array.dtype} {list(array.shape)}" + (" on the GPU" if get_array_module(array) is not np else "")


# -- schedules: factors on the rate by epoch.  They are values with a repr, so that a checkpoint can tell one from another.


@dataclass(frozen=True)
class exponential:
    """A schedule for ``fit``: in epoch e (from 0) the rate is ``lr * gamma^e``."""

    gamma: float

    def __post_init__(self) -> None:
        if not 0 < self.gamma <= 1:
            raise ValueError(f"exponential: gamma must lie in (0, 1], got {self.gamma!r}")

    def __call__(self, epoch: int) -> float:
        """The factor in this epoch."""
        return self.gamma**epoch


@dataclass(frozen=True)
class cosine:
    """A schedule for ``fit``: the rate falls from ``lr`` along half a cosine, to ``lowest * lr`` after `epochs` epochs."""

    epochs: int
    lowest: float = 0.0

    def __post_init__(self) -> None:
        positive_int("cosine: epochs", self.epochs)
        if not 0 <= self.lowest <= 1:
            raise ValueError(f"cosine: lowest is a share of the rate and must lie in [0, 1], got {self.lowest!r}")

    def __call__(self, epoch: int) -> float:
        """The factor in this epoch."""
        share = min(epoch / self.epochs, 1.0)
        return self.lowest + (1 - self.lowest) * 0.5 * (1 + math.cos(math.pi * share))


def _number(name: str, value: Any, positive: bool = False, below_one: bool = False) -> float:
    ok = isinstance(value, int | float | np.number) and not isinstance(value, bool) and np.isfinite(value) and value >= 0
    if not ok or (positive and value == 0) or (below_one and value >= 1):
        wanted = "a number > 0" if positive else "a number in [0, 1)" if below_one else "a number >= 0"
        raise ValueError(f"{name} must be {wanted}, got {value!r}")
    return float(value)
