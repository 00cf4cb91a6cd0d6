"""Training: the loop over epochs and batches, and what it reports about the health of every spiking layer."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .encode import Encoder
from .kernels.contract import Array
from .layers import Layer
from .layers.stateful import Stateful
from .losses import accuracy, mse
from .network import Caches, Network
from .optimizers import Optimizer

__all__ = ["History", "ParameterWarning", "TrainingStopped", "evaluate", "fit"]

Loss = Callable[[Array, Array], tuple[float, Array]]

#: Streams of random numbers.  Each draw has the generator ``default_rng([seed, epoch, batch, stream])``, so that a run
#: that is resumed needs no generator's state.
SPLIT, SHUFFLE, TRAIN, EVALUATE = 1, 2, 3, 4


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


def fit(
    net: Network,
    optimizer: Optimizer,
    data: tuple[Array, Array],
    *,
    epochs: int,
    encoder: Encoder,
    batch: int = 64,
    loss: Loss = mse,
    seed: int = 0,
    validation: float | tuple[Array, Array] = 0.1,
    schedule: Callable[[int], float] | None = None,
    keep: str = "last",
    progress: bool = True,
) -> History:
    """Train a network.

    Parameters
    ----------
    net, optimizer : the network, and the optimizer made for it: what it holds is what learns.
    data : ``(images [n, ...], labels [n])``.
    epochs, batch : number of epochs, samples per batch (the last batch of an epoch may be smaller).
    encoder : from images to input over time, e.g. ``ms.encode.Bernoulli(8)``.
    loss : ``loss(scores, labels) -> (number, d_scores)``.
    seed : the run is a function of it: order, encoding and split are drawn from ``[seed, epoch, batch]``.
    validation : share of `data` set aside, or ``(images, labels)``, or 0 for none.
    schedule : factor on the learning rate by epoch, e.g. ``ms.optimizers.exponential(0.93)``.
    keep : "last", or "best": end with the parameters of the epoch with the best validation accuracy (of equal ones that
        with the smaller validation loss).
    progress : show a progress bar (on a terminal).

    Returns
    -------
    history : :class:`History`, one row an epoch.

    Raises
    ------
    TrainingStopped : a loss or a gradient was not finite; it names the layer.
    ValueError, TypeError : arguments that do not fit.
    """
    from tqdm import tqdm

    images, labels = _checked(net, optimizer, data, epochs, batch, keep)
    if isinstance(validation, tuple):
        held_out: tuple[Array, Array] | None = (np.asarray(validation[0]), np.asarray(validation[1]))
    else:
        images, labels, held_out = _split(images, labels, validation, seed)
    if keep == "best" and held_out is None:
        raise ValueError("fit: keep='best' chooses by validation accuracy; give validation= a share or data")
    history, warned = History(), set[str]()
    best: tuple[tuple[float, float], dict[str, Array]] | None = None
    starts = range(0, len(images), batch)
    with tqdm(total=epochs * len(starts), disable=None if progress else True, unit="batch", leave=False) as bar:
        for epoch in range(epochs):
            begun = time.perf_counter()
            factor = 1.0 if schedule is None else schedule(epoch)
            order = np.random.default_rng([seed, epoch, 0, SHUFFLE]).permutation(len(images))
            tally = _Tally(net)
            for i, start in enumerate(starts):
                rows = order[start : start + batch]
                rng = np.random.default_rng([seed, epoch, i, TRAIN])
                _train_batch(net, optimizer, images[rows], labels[rows], encoder, loss, rng, factor, tally, history, i)
                bar.update()
            row = tally.row(net)
            row |= {"epoch": epoch + 1, "lr": optimizer.lr * factor, "validation_loss": None, "validation_accuracy": None}
            if held_out is not None:
                row["validation_loss"], row["validation_accuracy"] = evaluate(
                    net, held_out, encoder=encoder, loss=loss, batch=batch, seed=seed
                )
                bar.set_postfix_str(f"epoch {epoch + 1}, validation {row['validation_accuracy']:.1%}")
                grade = (row["validation_accuracy"], -row["validation_loss"])
                if keep == "best" and (best is None or grade > best[0]):
                    best = grade, {n: p.copy() for n, p in net.params().items()}
                    history.best_epoch = epoch + 1
            row["seconds"] = time.perf_counter() - begun
            history.epochs.append(row)
            _warn_out_of_bounds(net, epoch, warned)
    if best is not None:
        for name, param in net.params().items():
            param[...] = best[1][name]
    return history


def evaluate(
    net: Network,
    data: tuple[Array, Array],
    *,
    encoder: Encoder,
    loss: Loss = mse,
    batch: int = 256,
    seed: int = 0,
) -> tuple[float, float]:
    """Mean loss and accuracy on ``(images, labels)``, with the same encoded spikes for the same seed."""
    images, labels = np.asarray(data[0]), np.asarray(data[1])
    _same_length(images, labels, "evaluate")
    total, right = 0.0, 0.0
    for i, start in enumerate(range(0, len(images), batch)):
        rows = slice(start, start + batch)
        scores, _ = net.forward(encoder(images[rows], np.random.default_rng([seed, 0, i, EVALUATE])))
        total += loss(scores, labels[rows])[0] * len(labels[rows])
        right += accuracy(scores, labels[rows]) * len(labels[rows])
    return total / len(labels), right / len(labels)


def _train_batch(
    net: Network, optimizer: Optimizer, images: Array, labels: Array, encoder: Encoder, loss: Loss,
    rng: np.random.Generator, factor: float, tally: _Tally, history: History, batch: int,
) -> None:  # fmt: skip
    x = encoder(images, rng)
    scores, caches = net.forward(x, train=True, rng=rng)
    value, d_scores = loss(scores, labels)
    if not np.isfinite(value):
        layer = _first_not_finite(net, x) or "loss"
        raise TrainingStopped(f"the loss became {value}", layer, len(history.epochs), batch, history)
    _, grads = net.backward(d_scores, caches, wrt=[*optimizer.params, *tally.thresholds], input_grad=False)
    for name in reversed(grads):
        if not np.isfinite(grads[name]).all():  # a membrane that is not a number never fires: the loss need not show it
            layer = _first_not_finite(net, x) or name.rpartition(".")[0]
            raise TrainingStopped(f"the gradient of {name} is not finite", layer, len(history.epochs), batch, history)
    optimizer.step(grads, factor)
    tally.add(value, accuracy(scores, labels), len(labels), caches, grads)


class _Tally:
    """Sums over the batches of one epoch."""

    def __init__(self, net: Network) -> None:
        self.names = [n for n, layer in net.layers.items() if layer.spiking]
        self.thresholds = [f"{n}.threshold" for n in self.names]
        self.samples, self.batches, self.steps = 0, 0, 0
        self.loss, self.right = 0.0, 0.0
        self.spikes: dict[str, Any] = dict.fromkeys(self.names, 0)
        self.norms: dict[str, float] = dict.fromkeys(self.names, 0.0)

    def add(self, loss: float, share_right: float, n: int, caches: Caches, grads: Mapping[str, Array]) -> None:
        self.samples += n
        self.batches += 1
        self.loss += loss * n
        self.right += share_right * n
        for name in self.names:
            spikes = caches[name].spikes
            self.spikes[name] = self.spikes[name] + spikes.sum(axis=(0, 1), dtype=np.int64)
            self.norms[name] += float(np.linalg.norm(grads[f"{name}.threshold"]))
        self.steps += n * (len(spikes) if self.names else 0)

    def row(self, net: Network) -> dict[str, Any]:
        layers = {}
        for name in self.names:
            counts, theta = self.spikes[name], net[name].threshold
            layers[name] = {
                "firing_rate": float(counts.mean() / self.steps),
                "silent": float((counts == 0).mean()),
                "always_firing": float((counts == self.steps).mean()),
                "threshold_min": float(theta.min()),
                "threshold_mean": float(theta.mean()),
                "threshold_max": float(theta.max()),
                "gradient_norm": self.norms[name] / self.batches,
            }
        return {"train_loss": self.loss / self.samples, "train_accuracy": self.right / self.samples, "layers": layers}


def _first_not_finite(net: Network, x: Array) -> str | None:
    """The first layer, from the input up, with a parameter, a membrane or an output that is not finite."""
    if not np.isfinite(x).all():
        return "input"
    ill: list[str] = []

    def run(name: str, layer: Layer, x: Array, extra: dict[str, Array]) -> tuple[Array, Any]:
        y, cache = layer.forward(x, **extra)
        seen = (*layer.params.values(), y, *((cache.u,) if layer.has_state else ()))
        if not all(np.isfinite(a).all() for a in seen):
            ill.append(name)
        return y, cache

    net.walk(x, run)
    return ill[0] if ill else None


def _warn_out_of_bounds(net: Network, epoch: int, warned: set[str]) -> None:
    """One warning a run for each parameter: the first time that it is out of bounds after an epoch."""
    for layer_name, layer in net.layers.items():
        for param, problem in layer.out_of_bounds() if isinstance(layer, Stateful) else ():
            if (name := f"{layer_name}.{param}") not in warned:
                warned.add(name)
                warnings.warn(f"after epoch {epoch + 1}, {name}: {problem}", ParameterWarning, stacklevel=3)


def _checked(net: Network, optimizer: Optimizer, data: Any, epochs: int, batch: int, keep: str) -> tuple[Array, Array]:
    if not isinstance(net, Network) or not isinstance(optimizer, Optimizer):
        raise TypeError(f"fit: expected fit(net, optimizer, (images, labels), ...), got {net!r}, {optimizer!r}")
    own = net.params()
    if strangers := [n for n, p in optimizer.params.items() if own.get(n) is not p]:
        raise ValueError(f"fit: the optimizer was made for another network: {', '.join(strangers)}")
    for name, n in (("epochs", epochs), ("batch", batch)):
        if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
            raise ValueError(f"fit: {name} must be a whole number of at least 1, got {n!r}")
    if keep not in ("last", "best"):
        raise ValueError(f"fit: keep must be 'last' or 'best', got {keep!r}")
    if not isinstance(data, tuple | list) or len(data) != 2:
        raise TypeError("fit: data must be a pair (images, labels)")
    images, labels = np.asarray(data[0]), np.asarray(data[1])
    _same_length(images, labels, "fit")
    return images, labels


def _same_length(images: Array, labels: Array, where: str) -> None:
    if images.ndim < 2 or labels.ndim < 1 or len(images) != len(labels) or len(images) == 0:
        raise ValueError(
            f"{where}: images must be [n, ...] and labels [n] with n > 0, got {list(images.shape)} and {list(labels.shape)}"
        )


def _split(images: Array, labels: Array, share: Any, seed: int) -> tuple[Array, Array, tuple[Array, Array] | None]:
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share < 1:
        raise ValueError(f"fit: validation must be a share in [0, 1) or a tuple (images, labels), got {share!r}")
    n = round(share * len(images))
    if share == 0:
        return images, labels, None
    if n == 0 or n == len(images):
        raise ValueError(f"fit: validation={share} of {len(images)} samples leaves one side empty")
    order = np.random.default_rng([seed, 0, 0, SPLIT]).permutation(len(images))
    return images[order[n:]], labels[order[n:]], (images[order[:n]], labels[order[:n]])
