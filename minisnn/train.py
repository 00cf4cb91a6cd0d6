"""Training: the loop over epochs and batches."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from . import monitor
from .arguments import Rule, arguments, check, flag, function, number, one_of, whole
from .checkpoint import Data, Penalties, Run
from .encode import Encoder
from .kernels.arrays import array_for
from .kernels.threads import one_blas_thread
from .losses import LOSSES, accuracy, check_labels, is_classes, mse
from .monitor import EpochStats, History, Loss, ParameterWarning, TrainingStopped
from .network import Network, naming
from .optimizers import Optimizer

__all__ = ["History", "ParameterWarning", "TrainingStopped", "evaluate", "fit"]

#: Streams of random numbers.  Each draw has the generator ``default_rng([seed, epoch, batch,
#: stream])``, so that a run that is resumed needs no generator's state.
SPLIT, SHUFFLE, TRAIN, EVALUATE, LOOK = 1, 2, 3, 4, 5

RULES = {
    "net": Rule("a ms.Network", (Network,)),
    "encoder": function("ms.encode.Bernoulli(8)"),
    "loss": function("ms.losses.mse", LOSSES),
    "batch": whole(),
    "seed": whole(0),
}


@arguments(
    **RULES,
    optimizer=Rule("an optimizer, e.g. ms.Adam(net, ms.STL)", (Optimizer,)),
    epochs=whole(),
    schedule=function("ms.optimizers.exponential(0.93)"),
    truncate=whole(),
    keep=one_of("last", "best"),
    resume=flag,
    progress=flag,
)
@one_blas_thread()
def fit(
    net: Network,
    optimizer: Optimizer,
    data: Data,
    *,
    epochs: int,
    encoder: Encoder,
    batch: int = 64,
    loss: Loss = mse,
    seed: int = 0,
    validation: float | Data = 0.1,
    schedule: Callable[[int], float] | None = None,
    truncate: int | None = None,
    penalties: Penalties | None = None,
    keep: str = "last",
    checkpoint: str | Path | None = None,
    resume: bool = False,
    notes: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> History:
    """Train a network; its :class:`History` has one row an epoch.

    Parameters
    ----------
    net, optimizer : the network, and the optimizer made for it: what it holds is what learns.
    data : ``(images [n, ...], labels [n])``; to a network on a GPU they move once, all of them.
    epochs, batch : number of epochs, samples per batch (the last batch of an epoch may be smaller).
    encoder : from images to input over time, e.g. ``ms.encode.Bernoulli(8)``.
    loss : ``loss(scores, labels) -> (number, d_scores)``.
    seed : the run is a function of it: order, encoding and split are drawn from ``[seed, epoch,
        batch]``.
    validation : share of `data` set aside, or ``(images, labels)``, or 0 for none.
    schedule : factor on the learning rate by epoch, e.g. ``ms.optimizers.exponential(0.93)``.
    truncate : truncated backpropagation through time, in chunks of so many steps; see
        :meth:`Network.loss_and_grads`.
    penalties : on the spikes of layers, e.g. ``{"lif1": ms.losses.FiringRate(most=0.2)}``.
    keep : "last", or "best": end with the parameters of the epoch with the best validation accuracy
        (of equal ones that with the smaller validation loss).
    checkpoint : a file (``.npz``) that holds the run as it was after the last epoch; see
        :mod:`minisnn.checkpoint`.
    resume : go on from `checkpoint` if it exists, to the same bits as a run that was never
        interrupted.
    notes : plain data to keep in the checkpoint.
    progress : show a progress bar (on a terminal).

    Raises
    ------
    TrainingStopped : a loss or a gradient was not finite; it names the layer.
    FileExistsError : there is a checkpoint already, and `resume` is false.
    FileError : the checkpoint is damaged, or of another run; it names what differs.
    KeyboardInterrupt : after an interruption `net` and `optimizer` are as they were after the last
        epoch, if there is a checkpoint.
    ValueError, TypeError : arguments that do not fit.
    """
    from tqdm import tqdm

    own = net.params()
    if foreign := [n for n, p in optimizer.params.items() if own.get(n) is not p]:
        raise ValueError(f"fit: the optimizer was made for another network: {', '.join(foreign)}")
    for name, penalty in (penalties or {}).items():
        check(f"fit: penalties[{name!r}]", penalty, function("ms.losses.FiringRate(most=0.2)"))
    data, held = _split(net, _pair(net, data, "fit"), validation, seed)
    if keep == "best" and held is None:
        cure = "give validation= a share or data"
        raise ValueError(f"fit: keep='best' chooses by validation accuracy; {cure}")
    run = Run(
        net, optimizer, data, held, encoder, loss, batch, seed, schedule, truncate, penalties, keep
    )
    _look(run)
    path = None if checkpoint is None else Path(checkpoint)
    if path is not None:
        run.notes = dict(notes or {})
        run.begin(path, resume)
    rows, batches, warned = run.history.epochs, -(-len(data[0]) // batch), set[str]()
    sizes = {"total": epochs * batches, "initial": len(rows) * batches, "unit": "batch"}
    try:
        with tqdm(**sizes, disable=None if progress else True, leave=False) as bar:
            while len(rows) < epochs:
                rows.append(_epoch(run, bar))
                monitor.warn_out_of_bounds(net, len(rows) - 1, warned)
                if path is not None:
                    run.save(path)
    except KeyboardInterrupt:
        if path is not None:
            run.restore(path)
        raise
    if run.best:
        for name, array in net.arrays().items():
            array[...] = run.best[name]
    return run.history


def _epoch(run: Run, bar: Any) -> dict[str, Any]:
    """One epoch with its validation, the best parameters kept: the row of the history."""
    begun, epoch = time.perf_counter(), len(run.history.epochs)
    schedule = run.schedule or (lambda epoch: 1.0)
    factor = check(f"fit: schedule({epoch})", schedule(epoch), number(0))
    row = _train_epoch(run, epoch, factor, bar)
    row |= {"epoch": epoch + 1, "lr": run.optimizer.lr * factor}
    row |= {"validation_loss": None, "validation_accuracy": None}
    if run.held_out is not None:
        options = {n: getattr(run, n) for n in ("encoder", "loss", "batch", "seed")}
        value, share = evaluate(run.net, run.held_out, **options)
        row |= {"validation_loss": value, "validation_accuracy": share}
        shown = f"loss {value:.4f}" if share is None else f"{share:.1%}"
        bar.set_postfix_str(f"epoch {epoch + 1}, validation {shown}")
        grade = (share or 0.0, -value)
        if run.keep == "best" and (not run.best or grade > run.best_grade):
            run.best = {n: a.copy() for n, a in run.net.arrays().items()}
            run.best_grade, run.history.best_epoch = grade, epoch + 1
    return row | {"seconds": time.perf_counter() - begun}


def _train_epoch(run: Run, epoch: int, factor: float, bar: Any) -> dict[str, Any]:
    """One pass through the data, a step a batch: losses and layers of the epoch."""
    net, optimizer, (images, labels) = run.net, run.optimizer, run.data
    stats = EpochStats(net, run.loss)
    order = np.random.default_rng([run.seed, epoch, 0, SHUFFLE]).permutation(len(images))
    order = np.asarray(order, like=images)
    for i, start in enumerate(range(0, len(images), run.batch)):
        rows = order[start : start + run.batch]
        rng = np.random.default_rng([run.seed, epoch, i, TRAIN])
        x = run.encoder(images[rows], rng)
        before = {n: b.copy() for n, b in net.buffers().items()}
        loss, grads = net.loss_and_grads(
            x,
            labels[rows],
            stats.counting_loss,
            wrt=[*optimizer.params, *stats.thresholds],
            train=True,
            rng=rng,
            truncate=run.truncate,
            penalties=run.penalties,
            watch=stats.watch,
        )
        if problem := monitor.problem_of(loss, grads):
            for name, array in net.buffers().items():
                array[...] = before[name]
            what, layer = problem
            where = monitor.first_not_finite(net, x) or layer
            raise TrainingStopped(what, where, epoch, i, run.history)
        optimizer.step(grads, factor)
        stats.add(loss, len(rows), grads)
        bar.update()
    return stats.row()


@arguments(**RULES)
@one_blas_thread()
def evaluate(
    net: Network,
    data: Data,
    *,
    encoder: Encoder,
    loss: Loss = mse,
    batch: int = 256,
    seed: int = 0,
) -> tuple[float, float | None]:
    """Mean loss and accuracy on ``(images, labels)``; a seed always encodes the same spikes.

    The accuracy is ``None`` if the labels are no class numbers.  A loss that is not finite raises
    ValueError, which names the layer.
    """
    images, labels = _pair(net, data, "evaluate")
    total, right, classes = 0.0, 0.0, is_classes(labels)
    for i, start in enumerate(range(0, len(images), batch)):
        rows = slice(start, start + batch)
        rng = np.random.default_rng([seed, 0, i, EVALUATE])
        x = encoder(images[rows], rng)
        scores, _ = net.forward(x)
        value = loss(scores, labels[rows])[0]
        if not np.isfinite(value):
            where = f"the first layer that is not finite is {monitor.first_not_finite(net, x)!r}"
            raise ValueError(f"evaluate: the loss is {value}; {where}")
        total += value * len(labels[rows])
        right += accuracy(scores, labels[rows]) * len(labels[rows]) if classes else 0
    return total / len(labels), right / len(labels) if classes else None


# -- arguments, checked


def _pair(net: Network, data: Any, where: str) -> Data:
    """Images and labels in the memory in which the network computes."""
    if not isinstance(data, tuple | list) or len(data) != 2:
        raise TypeError(f"{where}: data must be a pair (images, labels)")
    images, labels = (
        array_for(net.backend, a, f"{where}: {n}")
        for n, a in zip(("images", "labels"), data, strict=True)
    )
    if images.ndim < 2 or labels.ndim < 1 or len(images) != len(labels) or len(images) == 0:
        got = f"{list(images.shape)} and {list(labels.shape)}"
        raise ValueError(f"{where}: images must be [n, ...] and labels [n] with n > 0, got {got}")
    return images, labels


def _split(net: Network, data: Data, share: Any, seed: int) -> tuple[Data, Data | None]:
    """Data to train on, and to validate with: those given, or a share of the first."""
    if isinstance(share, tuple):
        return data, _pair(net, share, "fit: validation")
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share < 1:
        expected = "a share in [0, 1) or a tuple (images, labels)"
        raise ValueError(f"fit: validation must be {expected}, got {share!r}")
    if share == 0:
        return data, None
    images, labels = data
    n = round(share * len(images))
    if n in (0, len(images)):
        raise ValueError(f"fit: validation={share} of {len(images)} samples leaves one side empty")
    order = np.random.default_rng([seed, 0, 0, SPLIT]).permutation(len(images))
    order = np.asarray(order, like=images)
    return (images[order[n:]], labels[order[n:]]), (images[order[:n]], labels[order[:n]])


def _look(run: Run) -> None:
    """Raise before the first step if data do not fit encoder, network and loss.

    All values and labels are looked at; one sample goes through the network.
    """
    rng = np.random.default_rng([run.seed, 0, 0, LOOK])
    held = {} if run.held_out is None else {"fit: validation": run.held_out}
    for name, (images, labels) in ({"fit": run.data} | held).items():
        with naming(name):
            if check_all := getattr(run.encoder, "check", None):
                check_all(images)
            scores, _ = run.net.forward(run.encoder(images[:1], rng))
            if is_classes(labels):
                check_labels(labels, scores)
            run.loss(scores, labels[:1])
