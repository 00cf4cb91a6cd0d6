"""Events of a camera that reports changes, not images: the N-MNIST format, and frames for the layers."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from ..kernels.arrays import positive_int
from .reading import LIMIT, DataError, opened, read_most, stranger

__all__ = ["EVENT", "read_events", "to_frames"]

#: One event: column, row, polarity (0 darker, 1 brighter), time in microseconds.
EVENT = np.dtype([("x", np.int16), ("y", np.int16), ("p", np.uint8), ("t", np.int64)])

#: An event in this row is none: it says that the camera's clock ran over, and 2**13 us are to be added from here on.
OVERFLOW_ROW, OVERFLOW = 240, 1 << 13


def read_events(path: str | os.PathLike[str], size: tuple[int, int] = (34, 34)) -> np.ndarray:
    """Read a recording in the format of N-MNIST and N-Caltech101 (``.bin``; plain or gzip).

    Parameters
    ----------
    path : the file.
    size : ``(height, width)`` of the camera, in pixels.

    Returns
    -------
    events : structured ``[n]``, with the fields ``x``, ``y`` (int16), ``p`` (uint8, 0 or 1) and ``t`` (int64, in
        microseconds), in the order of the file.

    Raises
    ------
    FileNotFoundError : there is no such file.
    DataError : it is empty, no whole number of events, or an event lies outside the camera; it says which.

    Notes
    -----
    5 bytes an event: x; y; then, big-endian, 1 bit polarity and 23 bits time.  An event with y = 240 marks an overflow
    of the clock: it is dropped, and all events after it are 2**13 us later.  Source: G. Orchard, A. Jayawant, G. Cohen,
    N. Thakor, "Converting static image datasets to spiking neuromorphic datasets using saccades", 2015, and the authors'
    ``Read_Ndataset.m``.
    """
    with opened(path) as stream:
        return _events(read_most(stream, LIMIT), size)


def _events(content: bytearray, size: tuple[int, int]) -> np.ndarray:
    if not content:
        raise DataError("expected events of 5 bytes each, found an empty file")
    if len(content) > LIMIT:
        raise DataError(f"expected at most {LIMIT:,} bytes, found more")
    if len(content) % 5:
        found = stranger(content[:9]) or f"{len(content):,} bytes: event {len(content) // 5 + 1:,} is cut off"
        raise DataError(f"expected events of 5 bytes each, found {found}")
    columns = np.frombuffer(content, np.uint8).reshape(-1, 5).T
    marker = columns[1] == OVERFLOW_ROW
    outside = (columns[0] >= size[1]) | (columns[1] >= size[0])
    outside &= ~marker
    if outside.any():
        i = int(outside.argmax())
        found = stranger(content[:9]) or f"x = {columns[0, i]}, y = {columns[1, i]} in event {i + 1:,}"
        raise DataError(f"expected x from 0 to {size[1] - 1} and y from 0 to {size[0] - 1}, found {found}")
    events = np.empty(len(marker), EVENT)
    events["x"], events["y"], events["p"] = columns[0], columns[1], columns[2] >> 7
    high, middle, low = columns[2:].astype(np.int64)
    events["t"] = ((high & 127) << 16 | middle << 8 | low) + OVERFLOW * np.cumsum(marker, dtype=np.int64)
    return events[~marker]


def to_frames(
    events: np.ndarray, steps: int, size: tuple[int, int] = (34, 34), *, by: str = "time", duration: float | None = None,
    binary: bool = True,
) -> np.ndarray:  # fmt: skip
    """Events as frames: a step of the network sees the events of one stretch of the recording.

    Parameters
    ----------
    events : structured ``[n]`` in any order, with at least the fields ``x`` and ``y`` (whole numbers), ``p`` (0 or 1, or
        bool) and ``t`` (microseconds from the start, at least 0): those of :func:`read_events`, of tonic, and others.
    steps : number of frames T.
    size : ``(height, width)`` in pixels.
    by : "time": T windows of equal length over [0, `duration`], each with its begin, the last one with its end as well;
        "count": T frames with equal numbers of events (to within one) in the order of time.
    duration : events after it are left out, the only ones that are ever lost; ``None``: the time of the last event.
    binary : uint8, 1 where there was any event: spikes, as layers take them.  False: float32 numbers of events, whose sum
        is the number of events.

    Returns
    -------
    frames : ``[T, 2, height, width]``; channel 0 has the events of polarity 0, channel 1 those of polarity 1.

    Raises
    ------
    TypeError, ValueError : a field is missing or of another kind, an event lies outside `size`, or an argument does not fit.
    """
    steps = positive_int("to_frames: steps", steps)
    if by not in ("time", "count"):
        raise ValueError(f"to_frames: by must be 'time' or 'count', got {by!r}")
    if duration is not None and not 0 < duration < np.inf:
        raise ValueError(f"to_frames: duration must be a positive number of microseconds, got {duration!r}")
    height, width = size
    x, y, p, t = _fields(events, {"x": width, "y": height, "p": 2, "t": np.inf})
    if duration is not None:
        x, y, p, t = (field[t <= duration] for field in (x, y, p, t))
    if by == "time":
        # Exact for t * steps < 2**53: 2,500 hours in 1,000 steps.  Without any event, or all at 0, any length will do.
        frame = np.minimum(t * steps // (duration or t.max(initial=0) or 1), steps - 1).astype(np.int64)
    else:
        frame = np.empty(len(t), np.int64)
        frame[np.argsort(t, kind="stable")] = np.arange(len(t)) * steps // max(len(t), 1)
    index = ((frame * 2 + p) * height + y) * width + x
    counts = np.bincount(index, minlength=steps * 2 * height * width).reshape(steps, 2, height, width)
    return (counts > 0).view(np.uint8) if binary else counts.astype(np.float32)


def _fields(events: Any, ends: dict[str, float]) -> list[np.ndarray]:
    """The fields of these names, each from 0 to below its end: int64, and the time float64."""
    names = getattr(getattr(events, "dtype", None), "names", None)
    if names is None or events.ndim != 1:
        raise TypeError(
            f"to_frames: events must be a structured array [n] with the fields {', '.join(ends)}, got "
            + (f"an array of {events.dtype} {list(events.shape)}" if isinstance(events, np.ndarray) else repr(events)[:60])
        )
    if missing := [name for name in ends if name not in names]:
        raise ValueError(f"to_frames: events have no field {', '.join(missing)}; they have {', '.join(names)}")
    fields = []
    for name, end in ends.items():
        field, kinds = events[name], {"p": "biu", "t": "iuf"}.get(name, "iu")
        if field.dtype.kind not in kinds:
            wanted = {"p": "bool or whole numbers", "t": "numbers"}.get(name, "whole numbers")
            raise TypeError(f"to_frames: the field {name} must hold {wanted}, got {field.dtype}")
        wrong = ~((field >= 0) & (field < end))
        if wrong.any():
            i = int(wrong.argmax())
            expected = "0 or more, and finite" if end == np.inf else f"0 to {end - 1}"
            raise ValueError(f"to_frames: the field {name} must be {expected}, got {field[i]} in row {i:,}")
        fields.append(field.astype(np.float64 if name == "t" else np.int64))
    return fields
