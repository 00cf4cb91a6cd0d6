"""Layers: each a pure forward with its adjoint.  See :mod:`minisnn.layers.base` for what a layer is."""

from .add import Add
from .base import Layer
from .dropout import Dropout
from .linear import Linear
from .membrane import MembraneReadout
from .readout import Flatten, PopulationVote, Rate
from .recurrent import Recurrent
from .spiking import LIF, Spiking

__all__ = [
    "LAYERS", "LIF", "Add", "Dropout", "Flatten", "Layer", "Linear", "MembraneReadout", "PopulationVote", "Rate",
    "Recurrent", "Spiking",
]  # fmt: skip

#: Every kind of layer by its name: what a saved network may consist of.
LAYERS: dict[str, type[Layer]] = {
    kind.__name__: kind
    for kind in (Add, Dropout, Flatten, Linear, MembraneReadout, PopulationVote, Rate, Recurrent, Spiking)
}
