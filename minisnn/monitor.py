"""Monitoring a run: what every spiking layer does, epoch by epoch, and what stops or warns."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .kernels.arrays import Array, to_numpy
from .layers.stateful import Stateful
from .losses import accuracy, is_classes
from .network import Caches, Network
from .optimizers import not_finite

__all__ = ["EpochStats", "History", "ParameterWarning", "TrainingStopped"]

Loss = Callable[[Array, Array], tuple[float, Array]]


class ParameterWarning(UserWarning):
    """A threshold crossed 0, or a decay left [0, 1], in training."""


class TrainingStopped(ArithmeticError):
    """A loss or a gradient was not a finite number.  The parameters are those before that batch.

    Attributes: ``layer`` (the first that is not finite), ``epoch``, ``batch``, and ``history``, the
    epochs before.
    """

    def __init__(self, what: str, layer: str, epoch: int, batch: int, history: History) -> None:
        super().__init__(
            f"{what} in epoch {epoch + 1}, batch {batch + 1}; the first layer that is not finite "
            f"is {layer!r}. The parameters are those before this batch. Likely: a learning rate "
            "too high, inputs that are not finite, or a gradient that explodes over many steps (a "
            "detached reset or a smaller decay damps it)"
        )
        self.layer, self.epoch, self.batch, self.history = layer, epoch, batch, history


@dataclass
class History:
    """What happened in training: ``epochs[e]`` is a dict of numbers.

    Each epoch has ``epoch``, ``lr``, ``seconds``, ``train_loss``, ``train_accuracy``,
    ``validation_loss``, ``validation_accuracy`` (``None`` without validation), and ``layers``, for
    each spiking layer by name: ``firing_rate`` (spikes per neuron and step), ``silent`` and
    ``always_firing`` (share of neurons that never, or at every step, fired in the epoch's training
    batches), ``threshold_min``, ``threshold_mean``, ``threshold_max`` (after the epoch), and
    ``gradient_norm`` (of the threshold's gradient, mean over the batches).  Accuracies are ``None``
    if the labels are no class numbers.
    """

    epochs: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int | None = None

    def column(self, name: str, layer: str | None = None) -> list[float]:
        """One number over the epochs, of a layer if `layer` is given."""
        return [(row if layer is None else row["layers"][layer])[name] for row in self.epochs]

    @property
    def layers(self) -> list[str]:
        """Names of the spiking layers."""
        return list(self.epochs[0]["layers"]) if self.epochs else []

    def to_json(self) -> str:
        """All of it as JSON text."""
        return json.dumps({"best_epoch": self.best_epoch, "epochs": self.epochs}, indent=1)

    def __repr__(self) -> str:
        names = "  ".join(f"{name:>24}" for name in self.layers)
        heads = "  ".join("  rate  silent     theta" for _ in self.layers)
        lines = [f"epoch     loss   train  valid.  {names}", f"{'':31}{heads}"]
        for row in self.epochs:
            cells = [
                f"{layer['firing_rate']:6.1%} {layer['silent']:7.1%} {layer['threshold_mean']:9.3f}"
                for layer in row["layers"].values()
            ]
            shares = row["train_accuracy"], row["validation_accuracy"]
            train, valid = (f"{'-':>7}" if n is None else f"{n:7.1%}" for n in shares)
            train = f"{row['train_loss']:8.4f} {train}"
            mark = " *" if row["epoch"] == self.best_epoch else ""
            lines.append(f"{row['epoch']:5} {train} {valid}  {'  '.join(cells)}{mark}")
        return "\n".join(lines)


class EpochStats:
    """Sums over the batches of one epoch."""

    def __init__(self, net: Network, loss: Loss) -> None:
        self._net, self._loss = net, loss
        self.names = [n for n, layer in net.layers.items() if layer.spiking]
        self.thresholds = [f"{n}.threshold" for n in self.names]
        self.samples = self.batches = self.steps = self.scored = 0
        self.loss = self.right = 0.0
        self.spikes: dict[str, Any] = dict.fromkeys(self.names, 0)
        self.norms: dict[str, Any] = dict.fromkeys(self.names, 0.0)

    def counting_loss(self, scores: Array, labels: Array) -> tuple[float, Array]:
        """The loss; also counts right answers (of every chunk, if the steps are in chunks)."""
        if is_classes(labels):
            self.right += accuracy(scores, labels) * len(scores)
            self.scored += len(scores)
        return self._loss(scores, labels)

    def watch(self, caches: Caches) -> None:
        """Count spikes, and commit running statistics."""
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
            norm = np.linalg.norm(grads[f"{name}.threshold"])
            self.norms[name] = self.norms[name] + norm.astype(np.float64)

    def row(self) -> dict[str, Any]:
        """The epoch's losses and layers, as in `History`."""
        layers = {}
        for name in self.names:  # counts and thresholds of a network on a GPU are there
            counts, theta = to_numpy(self.spikes[name]), to_numpy(self._net[name].threshold)
            layers[name] = {
                "firing_rate": float(counts.mean() / self.steps),
                "silent": float((counts == 0).mean()),
                "always_firing": float((counts == self.steps).mean()),
                "threshold_min": float(theta.min()),
                "threshold_mean": float(theta.mean()),
                "threshold_max": float(theta.max()),
                "gradient_norm": float(self.norms[name] / self.batches),
            }
        loss, share = self.loss / self.samples, self.right / self.scored if self.scored else None
        return {"train_loss": loss, "train_accuracy": share, "layers": layers}


def problem_of(loss: float, grads: Mapping[str, Array]) -> tuple[str, str] | None:
    """What is not finite after a batch, in words, and its layer; ``None`` if all is finite."""
    if not np.isfinite(loss):
        return f"the loss became {loss}", "loss"
    # A membrane that is not a number never fires: the loss need not show it.
    if name := not_finite({n: grads[n] for n in reversed(list(grads))}):
        return f"the gradient of {name} is not finite", name.partition(".")[0]
    return None


def first_not_finite(net: Network, x: Array) -> str | None:
    """The first layer, from the input up, with a parameter, membrane or output not finite."""
    if not np.isfinite(x).all():
        return "input"
    outputs: dict[str, Array] = {}
    for name, layer in net.layers.items():
        x, cache = layer.forward(x, **net.extra_inputs(layer, outputs))
        outputs[name] = x
        arrays = [*layer.params.values(), x, *([cache.u] if layer.has_state else [])]
        if not all(np.isfinite(a).all() for a in arrays):
            return name
    return None


def warn_out_of_bounds(net: Network, epoch: int, warned: set[str]) -> None:
    """Warn of each parameter once a run, when it is first out of bounds after an epoch."""
    for layer_name, layer in net.layers.items():
        for param, problem in layer.out_of_bounds() if isinstance(layer, Stateful) else ():
            if (name := f"{layer_name}.{param}") not in warned:
                warned.add(name)
                text = f"after epoch {epoch + 1}, {name}: {problem}"
                warnings.warn(text, ParameterWarning, stacklevel=3)
