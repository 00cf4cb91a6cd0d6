"""Options of ``minisnn train``: the same checks for those typed and those kept in a file."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import Field, asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import minisnn as ms

from ..kernels import BACKENDS

__all__ = ["FREE", "RULES", "Options", "add_options", "natural", "whole"]

RULES = {"stl": ms.STL, "sl": ms.SL, "tl": ms.TL, "stdl": ms.STDL}
#: Options that are not given are chosen for the data set, ...
DEFAULTS: dict[str, dict[str, Any]] = {
    "digits": {"epochs": 30, "batch": 32, "lr": 2e-3},
    "mnist": {"epochs": 10, "batch": 100, "lr": 1e-3},
    "fashion-mnist": {"epochs": 10, "batch": 100, "lr": 1e-3},
    "nmnist": {"epochs": 20, "batch": 20, "lr": 2e-3, "steps": 10},
    "cifar10": {"epochs": 20, "batch": 50, "lr": 1e-3},
    "braille": {"epochs": 20, "batch": 32, "lr": 2e-3, "steps": 77},
}
#: ... or for the model, whose choice wins except for the steps; the published network has that of
#: its authors.
MODELS: dict[str, dict[str, Any]] = {
    "mlp": {"hidden": [128], "steps": 8, "threshold": 1.0},
    "stl-mnist": {"width": 128, "steps": 4, "batch": 50, "lr": 1e-3, "threshold": 2.0},
}
#: The option that makes a model larger or smaller.
SIZE = {"mlp": "hidden", "stl-mnist": "width"}
#: Options that do not decide the numbers of a run and may be given anew when it is resumed.
FREE = ("data_dir", "threads", "epochs")


def whole(text: str, least: int = 1) -> int:
    """A whole number of at least `least`."""
    if text.isdecimal() and int(text) >= least:
        return int(text)
    raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}, got {text!r}")


natural = partial(whole, least=0)


def positive(text: str) -> float:
    """A finite number above 0."""
    with suppress(ValueError):
        if 0 < float(text) < float("inf"):
            return float(text)
    raise argparse.ArgumentTypeError(f"expected a number > 0, got {text!r}")


def _option(text: str, default: Any = None, **words: Any) -> Any:
    """A field with its help text and what else argparse needs to know."""
    text += "" if default is None else f" (default: {default})"
    return field(default=default, metadata={"help": text, **words})


def _by_data(name: str) -> str:
    return "default: " + ", ".join(f"{own[name]:g} for {data}" for data, own in DEFAULTS.items())


@dataclass(frozen=True)
class Options:
    """What decides a run; checkpoints and ``history.json`` keep it.  ``None``: not given."""

    rule: str = _option("what learns; compare: sl, tl and stl", "stl", choices=[*RULES, "compare"])
    data: str = _option("digits are bundled", "digits", choices=list(DEFAULTS))
    data_dir: str | None = _option("folder of the data (default: MINISNN_DATA)", metavar="DIR")
    model: str = _option("stl-mnist: the published network", "mlp", choices=list(MODELS))
    width: int = _option("channels of the published network (default: 128)", type=whole)
    hidden: Sequence[int] = _option(
        "neurons of the hidden layers (default: 128)", type=whole, nargs="+", metavar="N"
    )
    steps: int = _option("time steps a sample (default: 8; stl-mnist: 4)", type=whole)
    epochs: int = _option(f"passes through the data ({_by_data('epochs')})", type=whole)
    batch: int = _option(f"samples a batch ({_by_data('batch')})", type=whole)
    lr: float = _option(f"learning rate of Adam ({_by_data('lr')})", type=positive)
    threshold: float = _option("at the start (default: 1; stl-mnist: 2)", type=positive)
    seed: int = _option("the run is a function of it", 0, type=natural)
    backend: str | None = _option(
        "default: the best on the CPU; cupy: all of it on a GPU", choices=list(BACKENDS)
    )
    threads: int | None = _option("of the compiled loops (default: all CPUs)", type=whole)

    def completed(self) -> Options:
        """The same with a choice for each option that was not given."""
        for model, size in SIZE.items():
            if model != self.model and getattr(self, size) is not None:
                hint = f"--model {self.model} has --{SIZE[self.model]}"
                raise ValueError(f"--{size} is of --model {model}; {hint}")
        own = DEFAULTS[self.data]
        chosen = {**own, **MODELS[self.model]}
        chosen["steps"] = own.get("steps", chosen["steps"])
        return replace(self, **{n: v for n, v in chosen.items() if getattr(self, n) is None})

    def given(self) -> dict[str, Any]:
        """The options that differ from their defaults."""
        return {n: v for n, v in asdict(self).items() if v != getattr(Options, n)}

    @classmethod
    def read(cls, path: Path, stored: Any) -> Options:
        """The options that the file `path` keeps, checked as if they were typed."""
        known = {f.name: f for f in fields(cls)}
        try:
            if unknown := [name for name in stored if name not in known]:
                raise ValueError(f"there is no option {unknown[0]!r}")
            return cls(**{n: _read(known[n], v) for n, v in stored.items() if v is not None})
        except (argparse.ArgumentTypeError, AttributeError, TypeError, ValueError) as error:
            raise ms.FileError(f"{path}: its options cannot be read: {error}") from None


def _read(option: Field, value: Any) -> Any:
    words = option.metadata
    read = words.get("type", str)
    values = [read(str(one)) for one in (value if isinstance(value, list) else [value])]
    many = "nargs" in words
    fits = bool(values) if many else len(values) == 1
    if not fits or values[0] not in words.get("choices", values):
        raise ValueError(f"{option.name} is {value!r}")
    return values if many else values[0]


def add_options(parser: argparse.ArgumentParser, *names: str) -> None:
    """Add the options of these names to a parser, or all."""
    for one in fields(Options):
        if not names or one.name in names:
            word = f"--{one.name.replace('_', '-')}"
            parser.add_argument(word, default=one.default, **one.metadata)
