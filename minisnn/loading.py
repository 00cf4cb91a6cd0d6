"""Loading: a network made again from a file that :meth:`minisnn.Network.save` wrote."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import files
from .kernels.arrays import Array, float_dtype
from .layers import LAYERS, Layer
from .network import Network, naming

__all__ = ["from_file", "load"]


def load(path: str | Path, *, custom: Mapping[str, Any] | None = None) -> Network:
    """The network that :meth:`Network.save`, or a checkpoint of ``fit``, wrote to `path`.

    Parameters
    ----------
    custom : what is not minisnn's own: ingredients by the name of their function, layers by that of
        their class, e.g. ``{"my_charge": my_neuron, "Gain": Gain}``.

    Raises
    ------
    FileNotFoundError : there is no such file.
    FileError : it is damaged, a pickle, of a newer format, or needs `custom`.
    """
    header, arrays = files.read(path, ("network", "checkpoint"))
    return from_file(path, header, arrays, custom or {})


def from_file(
    path: str | Path, header: Mapping[str, Any], arrays: Mapping[str, Array], custom: Any
) -> Network:
    """The network in the content of a file; a checkpoint has more arrays, with a ``/``."""
    try:
        own = {name: array for name, array in arrays.items() if "/" not in name}
        return _rebuilt(header["network"], own, custom)
    except Exception as error:  # the header may hold anything
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise files.FileError(f"{path}: no network can be made of it: {kind}{error}") from None


def _rebuilt(description: Mapping[str, Any], arrays: Mapping[str, Array], custom: Any) -> Network:
    """The network of a :meth:`Network.description` and its arrays by name."""
    dtype, layers = float_dtype(description["dtype"]), dict[str, Layer]()
    expected = [f"{one['name']}.{p}" for one in description["layers"] for p in one["arrays"]]
    if sorted(expected) != sorted(arrays):
        given = f"the file has {', '.join(arrays) or 'none'}"
        raise ValueError(f"its arrays are {', '.join(expected) or 'none'}, {given}")
    for one in description["layers"]:
        name, kind = one["name"], one["type"]
        if kind not in LAYERS and not kind.startswith("custom:"):
            unknown = "which this version of minisnn does not know"
            raise ValueError(f"the layer {name!r} is of the kind {kind!r}, {unknown}")
        own = {p: arrays[f"{name}.{p}"] for p in one["arrays"]}
        with naming(name):
            made = files.find(kind, LAYERS, custom)
            layers[name] = made.rebuild(one["config"], own, dtype, custom)
    return Network(**layers)
