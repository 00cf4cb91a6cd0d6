"""Layers: each a pure forward with its adjoint.  See :mod:`minisnn.layers.base` for what a layer is."""

from .add import Add
from .base import Layer
from .batchnorm import BatchNorm2d
from .conv import Conv2d
from .dropout import Dropout
from .linear import Linear
from .membrane import MembraneReadout
from .pool import AvgPool2d, MaxPool2d
from .readout import Flatten, PopulationVote, Rate
from .recurrent import Recurrent
from .spiking import LIF, Spiking

__all__ = [
    "LAYERS", "LIF", "Add", "AvgPool2d", "BatchNorm2d", "Conv2d", "Dropout", "Flatten", "Layer", "Linear", "MaxPool2d",
    "MembraneReadout", "PopulationVote", "Rate", "Recurrent", "Spiking",
]  # fmt: skip

_KINDS = (
    Add, AvgPool2d, BatchNorm2d, Conv2d, Dropout, Flatten, Linear, MaxPool2d, MembraneReadout, PopulationVote, Rate,
    Recurrent, Spiking,
)  # fmt: skip

#: Every kind of layer by its name: what a saved network may consist of.
LAYERS: dict[str, type[Layer]] = {kind.__name__: kind for kind in _KINDS}
