"""Losses: a number and its gradient with respect to the scores, ``loss, d_scores = mse(scores, targets)``."""

from __future__ import annotations

from typing import Any

import numpy as np

from .kernels.contract import Array

__all__ = ["LOSSES", "accuracy", "cross_entropy", "mse"]


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
    scores, targets = _checked(scores, targets)
    difference = scores - (_one_hot(targets, scores) if targets.ndim == 1 else targets)
    d_scores = difference * scores.dtype.type(2 / scores.size)
    return float(np.mean(np.square(difference, dtype=np.float64))), d_scores


def cross_entropy(scores: Array, targets: Array) -> tuple[float, Array]:
    """Cross-entropy of the softmax of the scores, mean over the samples; finite for scores of any size.

    Parameters
    ----------
    scores : ``[B, C]``, taken as logits.
    targets : class numbers ``[B]``, or probabilities ``[B, C]`` (rows that add up to 1).

    Returns
    -------
    loss : float.   d_scores : ``[B, C]``, of the scores' dtype.
    """
    scores, targets = _checked(scores, targets)
    wanted = _one_hot(targets, scores) if targets.ndim == 1 else targets
    if targets.ndim == 2 and not (np.all(wanted >= 0) and np.allclose(wanted.sum(axis=1), 1, atol=1e-4)):
        raise ValueError("cross_entropy: targets of the scores' shape are probabilities: >= 0, rows that add up to 1")
    shifted = scores - scores.max(axis=1, keepdims=True)  # exp() of at most 0: nothing overflows
    log_sum = np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    loss = float(np.sum(wanted * (log_sum - shifted), dtype=np.float64) / len(scores))
    return loss, (np.exp(shifted - log_sum) - wanted) / scores.dtype.type(len(scores))


def accuracy(scores: Array, labels: Array) -> float:
    """Share of samples whose highest score is that of their class; of equal scores the first counts."""
    scores, labels = _checked(scores, labels)
    if labels.ndim != 1:
        raise ValueError(f"accuracy: labels must be class numbers [B], got shape {list(labels.shape)}")
    return float(np.mean(scores.argmax(axis=1) == labels))


#: Every loss of the package by its name.
LOSSES = {"mse": mse, "cross_entropy": cross_entropy}


def _checked(scores: Any, targets: Any) -> tuple[Array, Array]:
    scores, targets = np.asarray(scores), np.asarray(targets)
    if scores.ndim != 2 or scores.dtype.kind != "f":
        raise ValueError(f"scores must be floats [B, C], got {scores.dtype} {list(scores.shape)}")
    if len(scores) == 0:
        raise ValueError(f"scores have shape {list(scores.shape)}: an empty batch has no loss")
    if targets.shape == scores.shape and targets.dtype.kind in "fiub":
        return scores, targets.astype(scores.dtype, copy=False)
    if targets.ndim != 1 or targets.dtype.kind not in "iu":
        raise ValueError(
            f"targets must be class numbers [B] (integers) or an array of the scores' shape {list(scores.shape)}, "
            f"got {targets.dtype} {list(targets.shape)}"
        )
    if len(targets) != len(scores):
        raise ValueError(
            f"there are {len(targets)} labels for scores of {len(scores)} samples: minisnn is time-first, "
            "did you pass [B, T, ...] to forward?"
        )
    if targets.min() < 0 or targets.max() >= scores.shape[1]:
        raise ValueError(f"labels must lie in 0 to {scores.shape[1] - 1}, got {targets.min()} to {targets.max()}")
    return scores, targets


def _one_hot(labels: Array, scores: Array) -> Array:
    rows = np.zeros_like(scores)
    rows[np.arange(len(labels)), labels] = 1
    return rows
