"""The health of a run: what every spiking layer does, epoch by epoch, and what stops or warns."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .checkpoint import Progress
from .kernels.arrays import Array, to_numpy
from .layers.stateful import Stateful
from .losses import accuracy
from .network import Caches, Network
from .optimizers import not_finite

__all__ = ["History", "ParameterWarning", "Tally", "TrainingStopped", "check_finite", "warn_out_of_bounds"]

Loss = Callable[[Array, Array], tuple[float, Array]]


class ParameterWarning(UserWarning):
    """A threshold crossed 0, or a decay left [0, 1], in training."""


class TrainingStopped(ArithmeticError):
    """A loss or a gradient was not a finite number.  The parameters are those before that batch.

    Attributes: ``layer`` (the first that is not finite), ``epoch``, ``batch``, ``history`` (the epochs before).
    """

    def __init__(self, what: str, layer: str, epoch: int, batch: int, history: History) -> None:
        super().__init__(
            f"{what} in epoch {epoch + 1}, batch {batch + 1}; the first layer that is not finite is {layer!r}. "
            "The parameters are those before this batch. Likely: a learning rate too high, inputs that are not finite, "
            "or a gradient that explodes over many steps (a detached reset or a smaller decay damps it)"
        )
        self.layer, self.epoch, self.batch, self.history = layer, epoch, batch, history


@dataclass
class History:
    """What happened, epoch by epoch: ``epochs[e]`` is a dict of numbers, ``epochs[e]["layers"][name]`` a layer's health.

    Each epoch has ``epoch``, ``lr``, ``seconds``, ``train_loss``, ``train_accuracy``, ``validation_loss`` and
    ``validation_accuracy`` (``None`` without validation).  A layer's health: ``firing_rate`` (spikes per neuron and
    step), ``silent`` and ``always_firing`` (share of neurons that never, or at every step, fired in the epoch's
    training batches), ``threshold_min``, ``threshold_mean``, ``threshold_max`` (after the epoch), and
    ``gradient_norm`` (of the threshold's gradient, mean over the batches).
    """

    epochs: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int | None = None

    def column(self, name: str, layer: str | None = None) -> list[float]:
        """One number over the epochs, of a layer's health if `layer` is given."""
        return [(row if layer is None else row["layers"][layer])[name] for row in self.epochs]

    @property
    def layers(self) -> list[str]:
        """Names of the spiking layers."""
        return list(self.epochs[0]["layers"]) if self.epochs else []

    def to_json(self) -> str:
        """All of it as JSON text."""
        return json.dumps({"best_epoch": self.best_epoch, "epochs": self.epochs}, indent=1)

    def __repr__(self) -> str:
        lines = [f"{'epoch':>5} {'loss':>8} {'train':>7} {'valid.':>7}  " + "  ".join(f"{n:>24}" for n in self.layers)]
        lines += [" " * 31 + "  ".join(f"{'rate':>6} {'silent':>7} {'theta':>9}" for _ in self.layers)]
        for row in self.epochs:
            valid = "      -" if row["validation_accuracy"] is None else f"{row['validation_accuracy']:7.1%}"
            health = "  ".join(
                f"{h['firing_rate']:6.1%} {h['silent']:7.1%} {h['threshold_mean']:9.3f}" for h in row["layers"].values()
            )
            mark = " *" if row["epoch"] == self.best_epoch else ""
            lines.append(f"{row['epoch']:5} {row['train_loss']:8.4f} {row['train_accuracy']:7.1%} {valid}  {health}{mark}")
        return "\n".join(lines)


class Tally:
    """Sums over the batches of one epoch."""

    def __init__(self, net: Network, loss: Loss) -> None:
        self._net, self._loss = net, loss
        self.names = [n for n, layer in net.layers.items() if layer.spiking]
        self.thresholds = [f"{n}.threshold" for n in self.names]
        self.samples, self.batches, self.steps, self.answers = 0, 0, 0, 0
        self.loss, self.right = 0.0, 0.0
        self.spikes: dict[str, Any] = dict.fromkeys(self.names, 0)
        self.norms: dict[str, Any] = dict.fromkeys(self.names, 0.0)

    def graded(self, scores: Array, labels: Array) -> tuple[float, Array]:
        """The loss; counts right answers on the way (of a chunk, where time is cut into chunks)."""
        self.answers += len(scores)
        self.right += accuracy(scores, labels) * len(scores) if labels.ndim == 1 else np.nan
        return self._loss(scores, labels)

    def watch(self, caches: Caches) -> None:
        """Counts spikes, and takes over running statistics."""
        self._net.commit(caches)
        for name in self.names:
            spikes = caches[name].spikes
            self.spikes[name] = self.spikes[name] + spikes.sum(axis=(0, 1), dtype=np.int64)
        self.steps += spikes.shape[0] * spikes.shape[1] if self.names else 0

    def add(self, loss: float, n: int, grads: Mapping[str, Array]) -> None:
        """A batch of `n` samples is done."""
        self.samples += n
        self.batches += 1
        self.loss += loss * n
        for name in self.names:
            self.norms[name] = self.norms[name] + np.linalg.norm(grads[f"{name}.threshold"]).astype(np.float64)

    def row(self, net: Network) -> dict[str, Any]:
        """The epoch's row of the history, but for what only `fit` knows."""
        layers = {}
        for name in self.names:
            counts, theta = to_numpy(self.spikes[name]), to_numpy(net[name].threshold)  # counted where the network is
            layers[name] = {
                "firing_rate": float(counts.mean() / self.steps),
                "silent": float((counts == 0).mean()),
                "always_firing": float((counts == self.steps).mean()),
                "threshold_min": float(theta.min()),
                "threshold_mean": float(theta.mean()),
                "threshold_max": float(theta.max()),
                "gradient_norm": float(self.norms[name] / self.batches),
            }
        return {"train_loss": self.loss / self.samples, "train_accuracy": self.right / self.answers, "layers": layers}


def check_finite(
    net: Network, x: Array, value: float, grads: Mapping[str, Array], buffers: Mapping[str, Array], epoch: int, batch: int,
    run: Progress,
) -> None:  # fmt: skip
    """Raise `TrainingStopped`, running statistics put back, unless the loss and all gradients are finite."""
    problem = None if np.isfinite(value) else f"the loss became {value}"
    layer = "loss"
    # A membrane that is not a number never fires: the loss need not show it.
    if problem is None and (name := not_finite({n: grads[n] for n in reversed(list(grads))})):
        problem, layer = f"the gradient of {name} is not finite", name.partition(".")[0]
    if problem is not None:
        for name, array in net.buffers().items():
            array[...] = buffers[name]
        history = History(run.rows, run.best_epoch)
        raise TrainingStopped(problem, _first_not_finite(net, x) or layer, epoch, batch, history)


def _first_not_finite(net: Network, x: Array) -> str | None:
    """The first layer, from the input up, with a parameter, a membrane or an output that is not finite."""
    if not np.isfinite(x).all():
        return "input"
    outputs: dict[str, Array] = {}
    for name, layer in net.layers.items():
        x, cache = layer.forward(x, **net.extra_inputs(layer, outputs))
        outputs[name] = x
        if not all(np.isfinite(a).all() for a in (*layer.params.values(), x, *((cache.u,) if layer.has_state else ()))):
            return name
    return None


def warn_out_of_bounds(net: Network, epoch: int, warned: set[str]) -> None:
    """One warning a run for each parameter: the first time that it is out of bounds after an epoch."""
    for layer_name, layer in net.layers.items():
        for param, problem in layer.out_of_bounds() if isinstance(layer, Stateful) else ():
            if (name := f"{layer_name}.{param}") not in warned:
                warned.add(name)
                warnings.warn(f"after epoch {epoch + 1}, {name}: {problem}", ParameterWarning, stacklevel=3)
