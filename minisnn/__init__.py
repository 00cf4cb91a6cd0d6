"""minisnn: spiking neural networks trained without autograd, every gradient derived by hand."""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from . import data, encode, losses, models, neurons, optimizers, resets, surrogates, thresholds
from .files import FileError
from .formula import FormulaError
from .kernels import BackendUnavailable
from .kernels.threads import get_threads, one_blas_thread, set_threads
from .layers import (
    LIF,
    Add,
    AvgPool2d,
    BatchNorm2d,
    Conv2d,
    Dropout,
    Flatten,
    Layer,
    Linear,
    MaxPool2d,
    MembraneReadout,
    PopulationVote,
    Rate,
    Recurrent,
    Spiking,
)
from .network import Network, load
from .neurons import Neuron
from .optimizers import SGD, Adam
from .resets import Reset
from .rules import SL, STDL, STL, TL, LearningRule
from .surrogates import Surrogate
from .train import History, TrainingStopped, fit
from .version import __version__

if _TYPE_CHECKING:
    from . import checks, plot

__all__ = ["checks", "data", "encode", "losses", "models", "neurons", "optimizers", "plot"]
__all__ += ["resets", "surrogates", "thresholds", "__version__"]
__all__ += ["LIF", "Add", "AvgPool2d", "BatchNorm2d", "Conv2d", "Dropout", "Flatten", "Layer"]
__all__ += ["Linear", "MaxPool2d", "MembraneReadout", "PopulationVote", "Rate", "Recurrent"]
__all__ += ["Neuron", "Network", "Reset", "Spiking", "Surrogate", "load"]
__all__ += ["SGD", "SL", "STDL", "STL", "TL", "Adam", "History", "LearningRule", "fit"]
__all__ += ["BackendUnavailable", "FileError", "FormulaError", "TrainingStopped"]
__all__ += ["get_threads", "one_blas_thread", "set_threads"]


def __getattr__(name: str) -> _Any:
    """Load what training does not need when it is first used."""
    if name in ("checks", "plot"):
        return _import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
