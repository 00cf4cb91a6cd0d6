"""Losses: a number and its gradient with respect to the scores.

``loss, d_scores = mse(scores, targets)``.  Penalties on the spikes of an inner layer are functions
of the spikes, ``value, d_spikes = penalty(spikes)``: give them to ``fit(..., penalties={"lif1":
...})``, or their gradient to ``net.backward(..., d_inner={"lif1": d_spikes})``.

If the scores are on a GPU, targets may be on either side.  The loss is a float, so the CPU waits
for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .kernels.arrays import Array, get_array_module

__all__ = ["LOSSES", "FiringRate", "Silence", "accuracy", "cross_entropy", "mse"]


def mse(scores: Array, targets: Array) -> tuple[float, Array]:
    """Mean squared error: the mean of ``(scores - targets)^2`` over samples and classes.

    Parameters
    ----------
    scores : ``[B, C]``.
    targets : class numbers ``[B]`` (taken as one-hot), or an array of the shape of `scores`.

    Returns
    -------
    loss : float.   d_scores : ``[B, C]``, of the scores' dtype.
    """
    scores, rows = _checked(scores, targets)
    difference = scores - rows
    d_scores = difference * scores.dtype.type(2 / scores.size)  # (losses.5)
    return float(np.mean(np.square(difference, dtype=np.float64))), d_scores  # (losses.1)


def cross_entropy(scores: Array, targets: Array) -> tuple[float, Array]:
    """Cross-entropy of the softmax of the scores, mean over samples; finite for large scores too.

    Parameters
    ----------
    scores : ``[B, C]``, taken as logits.
    targets : class numbers ``[B]``, or probabilities ``[B, C]`` (rows that add up to 1).

    Returns
    -------
    loss : float.   d_scores : ``[B, C]``, of the scores' dtype.
    """
    scores, rows = _checked(scores, targets)
    sums = rows.sum(axis=1)
    if np.ndim(targets) == 2 and not (np.all(rows >= 0) and np.allclose(sums, 1, atol=1e-4)):
        expected = "probabilities: >= 0, rows that add up to 1"
        raise ValueError(f"cross_entropy: targets of the scores' shape must be {expected}")
    shifted = scores - scores.max(axis=1, keepdims=True)  # exp() of at most 0: nothing overflows
    log_sum = np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    loss = np.sum(rows * (log_sum - shifted), dtype=np.float64) / len(scores)  # (losses.2)
    d_scores = (np.exp(shifted - log_sum) - rows) / scores.dtype.type(len(scores))  # (losses.6)
    return float(loss), d_scores


def accuracy(scores: Array, labels: Array) -> float:
    """Share of samples whose prediction is their class."""
    if np.ndim(labels) != 1:
        got = list(np.shape(labels))
        raise ValueError(f"accuracy: labels must be class numbers [B], got shape {got}")
    scores, rows = _checked(scores, labels)
    return float(np.mean(predicted(scores) == rows.argmax(axis=1)))


def predicted(scores: Array) -> Array:
    """The class with the highest score, of equal ones the first: ``[B]``, int64.

    If a score is not a number, there is no such class: -1.
    """
    scores = _scores(scores)
    return np.where(np.isnan(scores).any(axis=1), -1, scores.argmax(axis=1))


#: Every loss of the package by its name.
LOSSES = {"mse": mse, "cross_entropy": cross_entropy}


# -- penalties: ``spikes [T, B, ...] -> (value, d_spikes)``


@dataclass(frozen=True)
class FiringRate:
    """Against too many spikes: ``weight * mean over neurons of max(0, rate - most)^2``.

    A neuron's rate is the mean of its spikes over time and batch.  Fewer spikes mean less energy on
    neuromorphic hardware.
    """

    most: float = 0.2
    weight: float = 1.0

    def __call__(self, spikes: Array) -> tuple[float, Array]:
        """The gradient is float64, or of the spikes' dtype in a twin."""
        excess = np.maximum(_rates(spikes) - self.most, 0)  # (losses.3)
        return _mean_square(spikes, excess, self.weight)


@dataclass(frozen=True)
class Silence:
    """Against too few spikes: ``weight * mean over neurons of max(0, least - rate)^2``.

    A silent neuron has small surrogate gradients and may never learn; this pulls its membrane up to
    its threshold.
    """

    least: float = 0.01
    weight: float = 1.0

    def __call__(self, spikes: Array) -> tuple[float, Array]:
        """The gradient is float64, or of the spikes' dtype in a twin."""
        excess = -np.maximum(self.least - _rates(spikes), 0)  # (losses.4)
        return _mean_square(spikes, excess, self.weight)


def _rates(spikes: Array) -> Array:
    return spikes.mean(axis=(0, 1), dtype=np.float64)  # one number a neuron


def _mean_square(spikes: Array, excess: Array, weight: float) -> tuple[float, Array]:
    """``weight * mean of excess^2``, and its gradient with respect to the spikes."""
    runs = spikes.shape[0] * spikes.shape[1]
    d_rate = 2 * weight / (runs * excess.size) * excess  # (losses.7)
    d_rate = d_rate.astype(spikes.dtype if spikes.dtype.kind == "f" else np.float64)
    return float(weight * np.mean(excess * excess)), np.broadcast_to(d_rate, spikes.shape)


# -- scores and targets


def _checked(scores: Any, targets: Any) -> tuple[Array, Array]:
    """The scores, and the targets as rows ``[B, C]``, one-hot for class numbers."""
    scores = _scores(scores)
    targets = np.asarray(targets, like=scores)  # to the GPU if the scores are there
    if targets.ndim == 1 and targets.dtype.kind == "f" and scores.shape[1] == 1:
        targets = targets[:, None]  # one number to predict
    if targets.shape == scores.shape and targets.dtype.kind in "fiub":
        return scores, targets.astype(scores.dtype, copy=False)
    if not is_classes(targets):
        expected = f"class numbers [B] (integers) or an array {list(scores.shape)} as the scores"
        raise ValueError(f"targets must be {expected}, got {targets.dtype} {list(targets.shape)}")
    if len(targets) != len(scores):
        raise ValueError(
            f"there are {len(targets)} labels for scores of {len(scores)} samples: "
            "minisnn is time-first, did you pass [B, T, ...] to forward?"
        )
    check_labels(targets, scores)
    one_hot = targets[:, None] == np.arange(scores.shape[1], like=scores)
    return scores, one_hot.astype(scores.dtype)


def is_classes(labels: Array) -> bool:
    """Whether labels are class numbers ``[n]``."""
    return labels.ndim == 1 and labels.dtype.kind in "iub"


def check_labels(labels: Array, scores: Array) -> None:
    """Raise ValueError, with the row, unless each label is the number of a score."""
    classes = scores.shape[-1]
    wrong = (labels < 0) | (labels >= classes)
    if wrong.any():  # one question, and one wait for a GPU
        got = (
            f"0 to {classes - 1}, got {labels.min()} to {labels.max()}, row {wrong.argmax()} first"
        )
        why = f"class numbers begin at 0, and the network has {classes} scores"
        raise ValueError(f"targets: labels must lie in {got}: {why}")


def _scores(scores: Any) -> Array:
    scores = scores if get_array_module(scores) is not np else np.asarray(scores)
    if scores.ndim != 2 or scores.dtype.kind != "f":
        got = f"got {scores.dtype} {list(scores.shape)}"
        cure = ": end the network with a readout, e.g. ms.Rate()" if scores.ndim > 2 else ""
        raise ValueError(f"scores must be floats [B, C], {got}{cure}")
    if len(scores) == 0:
        raise ValueError(f"scores have shape {list(scores.shape)}: an empty batch has no loss")
    return scores
