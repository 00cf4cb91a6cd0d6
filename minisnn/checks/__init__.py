"""Checks: is a hand-derived gradient right?  Surrogate gradients against three twin networks.

``check_adjoint(neuron, reset, surrogate)`` looks at formulas inside the time loop, entry by entry,
with the complex step.  ``check_grads(net, x, labels, loss)`` looks at whole networks on their own
backend, by differences, ``check_layer(layer, x)`` at one layer.  ``check_scan``, ``check_function``
and ``check_loss`` look at functions of your own.  Each returns a report: ``print`` it, or
``.raise_if_wrong()``.
"""

from .check_adjoint import check_adjoint
from .check_function import check_function, check_loss
from .check_grads import check_grads, check_layer
from .check_scan import check_scan, compare
from .differences import Difference, richardson
from .report import Finding, GradientError, Report, Row
from .twins import TWINS, run_twin

__all__ = [
    "TWINS",
    "Difference",
    "Finding",
    "GradientError",
    "Report",
    "Row",
    "check_adjoint",
    "check_function",
    "check_grads",
    "check_layer",
    "check_loss",
    "check_scan",
    "compare",
    "richardson",
    "run_twin",
]
