"""Layers: each a pure forward with its adjoint; :mod:`minisnn.layers.base` says what a layer is."""

from .base import Layer
from .conv import Conv2d
from .linear import Add, Linear
from .pool import AvgPool2d, MaxPool2d
from .readout import Flatten, MembraneReadout, PopulationVote, Rate
from .recurrent import Recurrent
from .spiking import LIF, Spiking
from .training import BatchNorm2d, Dropout

_NEURONS = Spiking, Recurrent, MembraneReadout
_SYNAPSES = Linear, Conv2d, BatchNorm2d, MaxPool2d, AvgPool2d
_OTHERS = Add, Dropout, Flatten, PopulationVote, Rate

#: Every kind of layer by its name: what a saved network may consist of.
LAYERS: dict[str, type[Layer]] = {c.__name__: c for c in (*_NEURONS, *_SYNAPSES, *_OTHERS)}

__all__ = ["LAYERS", "LIF", "Layer", *LAYERS]
