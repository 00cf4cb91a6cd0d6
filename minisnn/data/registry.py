"""The data sets by name."""

from __future__ import annotations

from .cifar import CIFAR10
from .images import DIGITS, FASHION_MNIST, MNIST
from .recordings import BRAILLE, NMNIST

__all__ = ["SETS"]

#: Every data set by its name.
SETS = {one.name: one for one in (DIGITS, MNIST, FASHION_MNIST, CIFAR10, NMNIST, BRAILLE)}
