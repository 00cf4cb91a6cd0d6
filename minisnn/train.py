"""Training: the loop over epochs and batches."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from . import checkpoint as checkpoints
from .checkpoint import Progress
from .encode import Encoder
from .health import History, ParameterWarning, Tally, TrainingStopped, check_finite, warn_out_of_bounds
from .kernels.arrays import Array, array_for, positive_int
from .kernels.threads import one_blas_thread
from .losses import accuracy, mse
from .network import Network
from .optimizers import Optimizer

__all__ = ["History", "ParameterWarning", "TrainingStopped", "evaluate", "fit"]

Loss = Callable[[Array, Array], tuple[float, Array]]

#: Streams of random numbers.  Each draw has the generator ``default_rng([seed, epoch, batch, stream])``, so that a run
#: that is resumed needs no generator's state.
SPLIT, SHUFFLE, TRAIN, EVALUATE = 1, 2, 3, 4


@one_blas_thread()
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
    truncate: int | None = None,
    penalties: Mapping[str, Callable[[Array], tuple[float, Array]]] | None = None,
    keep: str = "last",
    checkpoint: str | Path | None = None,
    resume: bool = False,
    notes: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> History:
    """Train a network.

    Parameters
    ----------
    net, optimizer : the network, and the optimizer made for it: what it holds is what learns.
    data : ``(images [n, ...], labels [n])``; to a network on a GPU they move once, all of them.
    epochs, batch : number of epochs, samples per batch (the last batch of an epoch may be smaller).
    encoder : from images to input over time, e.g. ``ms.encode.Bernoulli(8)``.
    loss : ``loss(scores, labels) -> (number, d_scores)``.
    seed : the run is a function of it: order, encoding and split are drawn from ``[seed, epoch, batch]``.
    validation : share of `data` set aside, or ``(images, labels)``, or 0 for none.
    schedule : factor on the learning rate by epoch, e.g. ``ms.optimizers.exponential(0.93)``.
    truncate : truncated backpropagation through time, in chunks of so many steps; see :meth:`Network.loss_and_grads`.
    penalties : on the spikes of layers, e.g. ``{"lif1": ms.losses.FiringRate(most=0.2)}``.
    keep : "last", or "best": end with the parameters of the epoch with the best validation accuracy (of equal ones that
        with the smaller validation loss).
    checkpoint : a file (``.npz``) that holds the run as it was after the last epoch; see :mod:`minisnn.checkpoint`.
    resume : go on from `checkpoint` where it exists, to the same bits as a run that was never interrupted.
    notes : plain data to keep in the checkpoint.
    progress : show a progress bar (on a terminal).

    Returns
    -------
    history : :class:`History`, one row an epoch.

    Raises
    ------
    TrainingStopped : a loss or a gradient was not finite; it names the layer.
    FileExistsError : there is a checkpoint already, and nobody said `resume`.
    FileError : the checkpoint is damaged, or of another run; it names what differs.
    KeyboardInterrupt : after an interruption `net` and `optimizer` are as they were after the last epoch, if there is a
        checkpoint.
    ValueError, TypeError : arguments that do not fit.
    """
    from tqdm import tqdm

    images, labels = _checked(net, optimizer, data, epochs, batch, keep)
    if isinstance(validation, tuple):
        held_out: tuple[Array, Array] | None = _pair(net, validation, "fit: validation")
    else:
        images, labels, held_out = _split(images, labels, validation, seed)
    if keep == "best" and held_out is None:
        raise ValueError("fit: keep='best' chooses by validation accuracy; give validation= a share or data")
    setup = {
        "seed": seed, "batch": batch, "keep": keep, "truncate": truncate, "backend": net.backend,
        "encoder": checkpoints.describe(encoder), "loss": checkpoints.describe(loss),
        "schedule": checkpoints.describe(schedule), "penalties": checkpoints.describe(penalties),
        "data": checkpoints.digest(images, labels, *(held_out or ())) if checkpoint else "",
    }  # fmt: skip
    run = Progress()
    if checkpoint is not None:
        run = _begin(Path(checkpoint), resume, net, optimizer, setup, notes or {})
    recipe = _Recipe(encoder, loss, batch, seed, truncate, penalties)
    warned, batches = set[str](), -(-len(images) // batch)
    try:
        with tqdm(
            total=epochs * batches, initial=len(run.rows) * batches, disable=None if progress else True, unit="batch",
            leave=False,
        ) as bar:  # fmt: skip
            for epoch in range(len(run.rows), epochs):
                begun = time.perf_counter()
                factor = 1.0 if schedule is None else schedule(epoch)
                row = _train_epoch(net, optimizer, images, labels, recipe, epoch, factor, run, bar)
                row |= {"epoch": epoch + 1, "lr": optimizer.lr * factor}
                row |= {"validation_loss": None, "validation_accuracy": None}
                if held_out is not None:
                    found = evaluate(net, held_out, encoder=encoder, loss=loss, batch=batch, seed=seed)
                    row["validation_loss"], row["validation_accuracy"] = found
                    bar.set_postfix_str(f"epoch {epoch + 1}, validation {found[1]:.1%}")
                    grade = (found[1], -found[0])
                    if keep == "best" and (not run.best or grade > run.best_grade):
                        run.best = {n: a.copy() for n, a in net.arrays().items()}
                        run.best_grade, run.best_epoch = grade, epoch + 1
                row["seconds"] = time.perf_counter() - begun
                run.rows.append(row)
                warn_out_of_bounds(net, epoch, warned)
                if checkpoint is not None:
                    checkpoints.save(checkpoint, net, optimizer, run, setup, notes or {})
    except KeyboardInterrupt:
        if checkpoint is not None:
            checkpoints.restore(checkpoint, net, optimizer, setup)
        raise
    for name, array in net.arrays().items() if run.best else ():
        array[...] = run.best[name]
    return History(run.rows, run.best_epoch)


class _Recipe(NamedTuple):
    """What every epoch of a run has in common."""

    encoder: Encoder
    loss: Loss
    batch: int
    seed: int
    truncate: int | None
    penalties: Mapping[str, Callable[[Array], tuple[float, Array]]] | None


def _train_epoch(
    net: Network, optimizer: Optimizer, images: Array, labels: Array, recipe: _Recipe, epoch: int, factor: float,
    run: Progress, bar: Any,
) -> dict[str, Any]:  # fmt: skip
    """One pass through the data, a step a batch: the epoch's row of the history."""
    encoder, loss, batch, seed, truncate, penalties = recipe
    order = np.asarray(np.random.default_rng([seed, epoch, 0, SHUFFLE]).permutation(len(images)), like=images)
    tally = Tally(net, loss)
    for i, start in enumerate(range(0, len(images), batch)):
        rows = order[start : start + batch]
        rng = np.random.default_rng([seed, epoch, i, TRAIN])
        x = encoder(images[rows], rng)
        before = {n: b.copy() for n, b in net.buffers().items()}
        value, grads = net.loss_and_grads(
            x, labels[rows], tally.graded, wrt=[*optimizer.params, *tally.thresholds], train=True, rng=rng,
            truncate=truncate, penalties=penalties, watch=tally.watch,
        )  # fmt: skip
        check_finite(net, x, value, grads, before, epoch, i, run)
        optimizer.step(grads, factor)
        tally.add(value, len(rows), grads)
        bar.update()
    return tally.row(net)


def _begin(
    path: Path, resume: bool, net: Network, optimizer: Optimizer, setup: Mapping[str, Any], notes: Mapping[str, Any]
) -> Progress:
    """The run in `path`; a new one, which is written at once so that it can be resumed whatever happens."""
    if path.exists():
        if not resume:
            raise FileExistsError(f"fit: checkpoint {path} exists: resume=True goes on from it; or choose another path")
        return checkpoints.restore(path, net, optimizer, setup)
    run = Progress()
    checkpoints.save(path, net, optimizer, run, setup, notes)
    return run


@one_blas_thread()
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
    images, labels = _pair(net, data, "evaluate")
    total, right = 0.0, 0.0
    for i, start in enumerate(range(0, len(images), batch)):
        rows = slice(start, start + batch)
        scores, _ = net.forward(encoder(images[rows], np.random.default_rng([seed, 0, i, EVALUATE])))
        total += loss(scores, labels[rows])[0] * len(labels[rows])
        right += accuracy(scores, labels[rows]) * len(labels[rows])
    return total / len(labels), right / len(labels)


def _checked(net: Network, optimizer: Optimizer, data: Any, epochs: int, batch: int, keep: str) -> tuple[Array, Array]:
    if not isinstance(net, Network) or not isinstance(optimizer, Optimizer):
        raise TypeError(f"fit: expected fit(net, optimizer, (images, labels), ...), got {net!r}, {optimizer!r}")
    own = net.params()
    if strangers := [n for n, p in optimizer.params.items() if own.get(n) is not p]:
        raise ValueError(f"fit: the optimizer was made for another network: {', '.join(strangers)}")
    positive_int("fit: epochs", epochs)
    positive_int("fit: batch", batch)
    if keep not in ("last", "best"):
        raise ValueError(f"fit: keep must be 'last' or 'best', got {keep!r}")
    if not isinstance(data, tuple | list) or len(data) != 2:
        raise TypeError("fit: data must be a pair (images, labels)")
    return _pair(net, data, "fit")


def _pair(net: Network, data: Any, where: str) -> tuple[Array, Array]:
    """Images and labels where the network is; to a GPU they move once."""
    images, labels = (array_for(net.backend, a, f"{where}: {n}") for n, a in zip(("images", "labels"), data, strict=True))
    if images.ndim < 2 or labels.ndim < 1 or len(images) != len(labels) or len(images) == 0:
        raise ValueError(
            f"{where}: images must be [n, ...] and labels [n] with n > 0, got {list(images.shape)} and {list(labels.shape)}"
        )
    return images, labels


def _split(images: Array, labels: Array, share: Any, seed: int) -> tuple[Array, Array, tuple[Array, Array] | None]:
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share < 1:
        raise ValueError(f"fit: validation must be a share in [0, 1) or a tuple (images, labels), got {share!r}")
    n = round(share * len(images))
    if share == 0:
        return images, labels, None
    if n == 0 or n == len(images):
        raise ValueError(f"fit: validation={share} of {len(images)} samples leaves one side empty")
    order = np.asarray(np.random.default_rng([seed, 0, 0, SPLIT]).permutation(len(images)), like=images)
    return images[order[n:]], labels[order[n:]], (images[order[:n]], labels[order[:n]])
