"""Layers: each a pure forward with its adjoint.  See :mod:`minisnn.layers.base` for what a layer is."""

from .base import Layer
from .linear import Linear
from .readout import Flatten, PopulationVote, Rate
from .spiking import LIF, Spiking

__all__ = ["LIF", "Flatten", "Layer", "Linear", "PopulationVote", "Rate", "Spiking"]
