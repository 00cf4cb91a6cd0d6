"""Figures of a training run and of a layer at work, as Matplotlib figures: show or save them."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .files import replacing
from .kernels.arrays import Array, to_numpy
from .layers import Layer, Spiking
from .layers.inputs import as_cache
from .layers.spiking import SpikingCache
from .train import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["compare", "firing_rates", "learning_curves", "raster", "save", "thresholds"]

#: Colour-blind eyes tell them apart.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


def learning_curves(history: History) -> Figure:
    """Loss and accuracy over the epochs, in training and on validation data."""
    _with_epochs("learning_curves: history", history)
    figure, (left, right) = _axes(1, 2, (9, 3.6))
    for part, color in (("train", COLORS[0]), ("validation", COLORS[1])):
        _curve(left, history, f"{part}_loss", scale=1, color=color, label=part)
        _curve(right, history, f"{part}_accuracy", color=color, label=part)
    if (best := history.best_epoch) is not None:
        right.axvline(best, color="0.6", linestyle=":", label=f"kept: epoch {best}")
    _over_epochs(left, ylabel="loss", yscale="log", title="Loss")
    _over_epochs(right, ylabel="accuracy (%)", title="Accuracy")
    return figure


def firing_rates(history: History) -> Figure:
    """Firing rate of each spiking layer over the epochs, and the share of its silent neurons."""
    _with_epochs("firing_rates: history", history)
    figure, (left, right) = _axes(1, 2, (9, 3.6))
    for name, color in zip(history.layers, cycle(COLORS), strict=False):
        _curve(left, history, "firing_rate", name, color=color, label=name)
        _curve(right, history, "silent", name, color=color, label=name)
    text = "spikes per neuron and step (%)"
    _over_epochs(left, ylabel=text, title="Firing rate", ylim=(0, None))
    _over_epochs(right, ylabel="neurons (%)", title="Neurons that never fire", ylim=(0, None))
    return figure


def compare(histories: Mapping[str, History]) -> Figure:
    """Validation accuracy over the epochs of several runs, e.g. of the rules SL, TL and STL."""
    figure, axes = _axes(1, 1, (6, 3.8))
    for (name, history), color in zip(histories.items(), cycle(COLORS), strict=False):
        _with_epochs(f"compare: {name!r}", history)
        if None in history.column("validation_accuracy"):
            raise ValueError(f"compare: {name!r} has no validation accuracy; fit(validation=0.1)")
        _curve(axes, history, "validation_accuracy", color=color, label=name)
    _over_epochs(axes, ylabel="validation accuracy (%)", title="Learning rules")
    return figure


def thresholds(before: Mapping[str, Array], after: Mapping[str, Array]) -> Figure:
    """Histograms of the thresholds before and after training, a panel for each layer.

    Both are arrays by name, e.g. copies of those of ``net.params("*.threshold")``.
    """
    figure, axes = _axes(1, len(after), (4.2 * len(after), 3.6))
    for panel, (name, values) in zip(np.atleast_1d(axes), after.items(), strict=True):
        start, values = (np.ravel(to_numpy(a)) for a in (before[name], values))
        both = np.concatenate([start, values])
        spread = max(np.ptp(both), 0.02)
        bins = np.linspace(both.min() - 0.05 * spread, both.min() + 1.05 * spread, 33)
        if np.ptp(start) < 0.05 * spread:  # one tall bar would flatten the other histogram
            mean = start.mean()
            panel.axvline(mean, color="0.5", linestyle="--", label=f"before: {mean:.3g}")
        else:
            panel.hist(start, bins, color="0.7", label="before")
        panel.hist(values, bins, color=COLORS[0], alpha=0.8, label="after")
        panel.set(xlabel="threshold", ylabel="neurons", title=name)
        panel.legend()
    return figure


def raster(
    layer: Layer, cache: SpikingCache, *, sample: int = 0, neuron: int | None = None, most: int = 40
) -> Figure:
    """What a layer does with one sample: its spikes, and one neuron's membrane and threshold.

    Parameters
    ----------
    layer, cache : a spiking layer, and what its ``forward`` returned (``caches["lif1"]``).
    sample : which sample of the batch.
    neuron : whose membrane to show; one that fires about half the time if not given.
    most : how many neurons to draw in the raster.
    """
    if not isinstance(layer, Spiking):
        raise TypeError(f"raster: layer must be a spiking layer, got {layer!r}")
    cache = as_cache(cache, layer)
    theta = np.broadcast_to(to_numpy(layer.threshold), layer.shape).ravel()
    steps = len(cache.spikes)
    u, spikes = (to_numpy(a[:, sample]).reshape(steps, -1) for a in (cache.u, cache.spikes))
    shown = min(max(most, 1), spikes.shape[1])
    if neuron is None:
        neuron = int(np.abs(spikes[:, :shown].mean(axis=0) - 0.5).argmin())
    v = layer.dynamics.reset.reset(u, spikes.astype(u.dtype), theta)
    figure, (top, bottom) = _axes(2, 1, (7, 5.6), sharex=True, height_ratios=(3, 2))
    times, rows = np.nonzero(spikes[:, :shown])
    size = (170 / max(shown, 15)) ** 2
    top.scatter(times + 1, rows, marker="|", s=size, color="0.15", linewidths=1.6)
    if neuron < shown:
        top.axhline(neuron, color=COLORS[1], alpha=0.35, linewidth=3, zorder=0)
    title = f"Spikes of {shown} of {spikes.shape[1]} neurons"
    top.set(ylabel="neuron", title=title, ylim=(-1, shown))
    # Charge from v[t-1] to u[t], then the reset, straight down, from u[t] to v[t].
    time = np.arange(1, steps + 1)
    both = np.stack([u[:, neuron], v[:, neuron]], axis=1).ravel()
    bottom.plot(np.repeat(time, 2), both, color=COLORS[0], label="membrane")
    fired = spikes[:, neuron] > 0
    bottom.plot(time, u[:, neuron], "o", color=COLORS[0], markersize=4, label="before the reset")
    bottom.plot(time[fired], u[fired, neuron], "*", color=COLORS[1], markersize=12, label="spike")
    text = f"threshold {theta[neuron]:.2f}"
    bottom.axhline(theta[neuron], color=COLORS[1], linestyle="--", label=text)
    bottom.set(xlabel="time step", ylabel="membrane", title=f"Neuron {neuron}")
    bottom.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    bottom.locator_params(axis="x", integer=True)
    return figure


def save(figure: Figure, path: str | Path) -> Path:
    """Write a figure to a file and close it; the file is whole or not there."""
    from matplotlib import pyplot

    path = Path(path)
    with replacing(path) as part:
        figure.savefig(part, format=path.suffix[1:] or "png", dpi=130)
    pyplot.close(figure)
    return path


def _with_epochs(what: str, history: History) -> None:
    """Raise unless there is something to draw."""
    if not isinstance(history, History):
        raise TypeError(f"{what} must be what fit returned, a History, got {history!r}")
    if not history.epochs:
        raise ValueError(f"{what} has no epochs")


def _axes(rows: int, columns: int, size: tuple[float, float], **options: Any) -> Any:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(rows, columns, figsize=size, layout="constrained", **options)
    for panel in np.ravel(axes):
        panel.grid(alpha=0.25)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _curve(axes: Axes, history: History, column: str, layer=None, scale=100, **style: Any) -> None:
    values = history.column(column, layer)
    if None not in values:  # without validation, or without classes
        axes.plot(history.column("epoch"), np.multiply(values, scale), **style)


def _over_epochs(axes: Axes, **labels: Any) -> None:
    axes.set(xlabel="epoch", **labels)
    axes.locator_params(axis="x", integer=True)
    if axes.lines:
        axes.legend()
