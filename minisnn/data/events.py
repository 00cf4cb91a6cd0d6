"""Events of a camera that reports changes: the format of N-MNIST, and frames for the layers."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np

from ..kernels.arrays import positive_int
from .reading import known_format, mismatch, open_data, read_records

__all__ = ["EVENT", "read_events", "to_frames"]

#: One event: column, row, polarity (0 darker, 1 brighter), time in microseconds.
EVENT = np.dtype([("x", np.int16), ("y", np.int16), ("p", np.uint8), ("t", np.int64)])

#: NumPy's kinds of numbers that a field may have, and their name.
KINDS = dict.fromkeys("xy", ("iu", "whole numbers"))
KINDS |= {"p": ("biu", "bool or whole numbers"), "t": ("iuf", "numbers")}

#: An event in this row marks an overflow of the camera's clock: later times are 2**13 us more.
OVERFLOW_ROW, OVERFLOW = 240, 1 << 13


def read_events(path: str | os.PathLike[str], size: tuple[int, int] = (34, 34)) -> np.ndarray:
    """Read a recording in the format of N-MNIST and N-Caltech101 (``.bin``; plain or gzip).

    `size` is the camera's ``(height, width)`` in pixels.

    Returns
    -------
    events : structured ``[n]``, with the fields ``x``, ``y`` (int16), ``p`` (uint8, 0 or 1) and
        ``t`` (int64, in microseconds), in the order of the file.

    Raises
    ------
    DataError : it is empty, no whole number of events, or an event lies outside the camera; it says
        which.

    Notes
    -----
    5 bytes an event: x; y; then, big-endian, 1 bit polarity and 23 bits time.  An event with y =
    240 marks an overflow of the clock: it is dropped, and all events after it are 2**13 us later.
    Source: G. Orchard, A. Jayawant, G. Cohen, N. Thakor, "Converting static image datasets to
    spiking neuromorphic datasets using saccades", 2015, and the authors' ``Read_Ndataset.m``.
    """
    with open_data(path) as stream:
        records = read_records(stream, 5, "event")
        x, y = records[:, 0], records[:, 1]
        marker = y == OVERFLOW_ROW
        outside = ((x >= size[1]) | (y >= size[0])) & ~marker
        if outside.any():
            i = int(outside.argmax())
            expected = f"x from 0 to {size[1] - 1} and y from 0 to {size[0] - 1}"
            found = f"x = {x[i]}, y = {y[i]} in event {i + 1:,}"
            raise mismatch(expected, known_format(records[:2].tobytes()) or found)
    events = np.empty(len(marker), EVENT)
    last = records[:, 2:].astype(np.int64) @ (1 << 16, 1 << 8, 1)  # 1 bit polarity, 23 bits time
    overflows = np.cumsum(marker, dtype=np.int64)
    events["x"], events["y"], events["p"] = x, y, last >> 23
    events["t"] = last % (1 << 23) + OVERFLOW * overflows
    return events[~marker]


def to_frames(
    events: np.ndarray,
    steps: int,
    size: tuple[int, int] = (34, 34),
    *,
    by: str = "time",
    duration: float | None = None,
    binary: bool = True,
) -> np.ndarray:
    """Events as frames ``[T, 2, height, width]``, with a channel for each polarity.

    A step of the network then sees the events of one part of the recording.

    Parameters
    ----------
    events : structured ``[n]`` in any order, with at least the fields ``x`` and ``y`` (whole
        numbers), ``p`` (0 or 1, or bool) and ``t`` (microseconds from the start, at least 0): those
        of :func:`read_events`, of tonic, and others.
    steps, size : number of frames T, and ``(height, width)`` in pixels.
    by : "time": T windows of equal length over [0, `duration`], each with its begin, the last one
        with its end as well; "count": T frames with equal numbers of events (to within one) in the
        order of time.
    duration : later events are left out, and no others; ``None``: the time of the last event.
    binary : uint8, 1 where there was any event: spikes, as layers take them.  False: float32
        numbers of events.

    Raises
    ------
    TypeError, ValueError : a field is missing or of another kind, an event lies outside `size`, or
        an argument does not fit.
    """
    steps = positive_int("to_frames: steps", steps)
    if by not in ("time", "count"):
        raise ValueError(f"to_frames: by must be 'time' or 'count', got {by!r}")
    if duration is not None and not 0 < duration < np.inf:
        expected = "a positive number of microseconds"
        raise ValueError(f"to_frames: duration must be {expected}, got {duration!r}")
    height, width = size
    x, y, p, t = _fields(events, {"x": width, "y": height, "p": 2, "t": np.inf})
    if duration is not None:
        x, y, p, t = (field[t <= duration] for field in (x, y, p, t))
    if by == "time":
        # Exact for t * steps < 2**53: 2,500 hours in 1,000 steps.
        length = duration or t.max(initial=0) or 1  # without an event, or all at 0, any will do
        frame = np.minimum(t * steps // length, steps - 1).astype(np.int64)
    else:
        frame = np.empty(len(t), np.int64)
        frame[np.argsort(t, kind="stable")] = np.arange(len(t)) * steps // max(len(t), 1)
    index = ((frame * 2 + p) * height + y) * width + x
    shape = (steps, 2, height, width)
    counts = np.bincount(index, minlength=math.prod(shape)).reshape(shape)
    return (counts > 0).view(np.uint8) if binary else counts.astype(np.float32)


def _fields(events: Any, ends: dict[str, float]) -> list[np.ndarray]:
    """The fields of these names, each from 0 to below its end: int64, and the time float64."""
    names = getattr(getattr(events, "dtype", None), "names", None)
    if names is None or events.ndim != 1:
        expected = f"a structured array [n] with the fields {', '.join(ends)}"
        is_array = isinstance(events, np.ndarray)
        got = f"an array of {events.dtype} {list(events.shape)}" if is_array else repr(events)[:60]
        raise TypeError(f"to_frames: events must be {expected}, got {got}")
    if missing := [name for name in ends if name not in names]:
        have = ", ".join(names)
        raise ValueError(f"to_frames: events have no field {', '.join(missing)}; they have {have}")
    fields = []
    for name, end in ends.items():
        field, (kinds, wanted) = events[name], KINDS[name]
        if field.dtype.kind not in kinds:
            raise TypeError(f"to_frames: the field {name} must hold {wanted}, got {field.dtype}")
        wrong = ~((field >= 0) & (field < end))
        if wrong.any():
            i = int(wrong.argmax())
            expected = "0 or more, and finite" if end == np.inf else f"0 to {end - 1}"
            got = f"{field[i]} in row {i:,}"
            raise ValueError(f"to_frames: the field {name} must be {expected}, got {got}")
        fields.append(field.astype(np.float64 if name == "t" else np.int64))
    return fields
