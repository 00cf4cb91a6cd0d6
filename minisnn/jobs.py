"""The main jobs of the command line: train a network and leave figures, go on with a run, evaluate what was saved."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import minisnn as ms

from . import checkpoint as checkpoints
from . import files
from .loading import from_file

__all__ = ["COMPARED", "DEFAULTS", "RULES", "evaluate", "train", "versions"]

RULES = {"stl": ms.STL, "sl": ms.SL, "tl": ms.TL, "stdl": ms.STDL}
COMPARED = ("sl", "tl", "stl")
WHAT_LEARNS = {
    "stl": "weights and thresholds", "sl": "weights", "tl": "thresholds", "stdl": "weights, thresholds and decays",
}  # fmt: skip
#: What is not given is chosen for the data set.
DEFAULTS: dict[str, dict[str, Any]] = {
    "digits": {"epochs": 30, "batch": 32, "lr": 2e-3},
    "mnist": {"epochs": 10, "batch": 100, "lr": 1e-3},
    "fashion-mnist": {"epochs": 10, "batch": 100, "lr": 1e-3},
    "nmnist": {"epochs": 20, "batch": 20, "lr": 2e-3, "steps": 10},
    "cifar10": {"epochs": 20, "batch": 50, "lr": 1e-3},
    "braille": {"epochs": 20, "batch": 32, "lr": 2e-3, "steps": 77},
}
#: What is not given is chosen for the published network as its authors have it; the epochs are the data set's.
PUBLISHED: dict[str, Any] = {"steps": 4, "batch": 50, "lr": 1e-3, "threshold": 2.0}
#: The option that makes a model larger or smaller, and its default.
SIZE: dict[str, tuple[str, Any]] = {"mlp": ("hidden", [128]), "stl-mnist": ("width", 128)}
#: Options that do not decide the numbers of a run and may be given anew when it goes on.
FREE = ("data_dir", "threads")


def train(options: argparse.Namespace) -> int:
    """``minisnn train``."""
    if options.resume is not None:
        options = _resumed(options)
    else:
        own = DEFAULTS[options.data]
        chosen = {"steps": 8, "threshold": 1.0, **own, SIZE[options.model][0]: SIZE[options.model][1]}
        for model, (size, _) in SIZE.items():
            if model != options.model and getattr(options, size) is not None:
                raise ValueError(f"--{size} is of --model {model}; --model {options.model} has --{SIZE[options.model][0]}")
        if options.model == "stl-mnist":
            chosen |= PUBLISHED | {n: own[n] for n in ("steps",) if n in own}  # a series has its steps
        for name, value in chosen.items():
            if getattr(options, name) is None:
                setattr(options, name, value)
    ms.set_threads(options.threads)
    names = COMPARED if options.rule == "compare" else (options.rule,)
    if options.model == "stl-mnist" and len(ms.data.SETS[options.data].shape) != 3:
        raise ValueError(f"--model stl-mnist takes images, and {options.data} has none; use --model mlp")
    # The test set too, so that a missing file is found out now; it is looked at once, at the end.
    data = {s: _load(options.data, s, options.model == "mlp", options.data_dir, options.steps)
            for s in ("train", "validation", "test")}  # fmt: skip
    out = options.resume.parent if options.resume else _out_folder(options.out, f"{options.rule}-seed{options.seed}")
    histories, results = {}, {}
    for name in names:
        histories[name], results[name] = _train_rule(name, options, data, out, f"{name}_" if len(names) > 1 else "")
    if len(names) > 1:
        ms.plot.save(ms.plot.compare(histories), out / "compare.png")
    record = {
        "command": _command(options),
        "versions": versions(),
        "runs": {n: {"rule": n, **results[n], "history": json.loads(histories[n].to_json())} for n in names},
    }
    with files.replacing(out / "history.json") as part:
        part.write_text(json.dumps(record, indent=1))
    print(f"\nwritten to {out}: {', '.join(sorted(p.name for p in out.iterdir() if not p.name.startswith('.')))}")
    for name in names:
        prefix = f"{name} " if len(names) > 1 else ""
        print(f"{prefix}test accuracy: {100 * results[name]['test_accuracy']:.1f} %")
    return 0


def evaluate(options: argparse.Namespace) -> int:
    """``minisnn eval FILE``."""
    header, arrays = files.read(options.file, ("network", "checkpoint"))
    net = from_file(options.file, header, arrays, {})
    notes = header.get("notes")
    command = notes.get("command") if isinstance(notes, dict) else None
    stored = argparse.Namespace(**(_parsed(options.parse, options.file, command) if command is not None else {}))
    name = options.data or getattr(stored, "data", "digits")
    steps = options.steps or getattr(stored, "steps", 8)
    seed = options.seed if options.seed is not None else getattr(stored, "seed", 0)
    folder = options.data_dir or getattr(stored, "data_dir", None)
    print(net)
    print(f"{name}, {steps} steps, seed {seed}")
    flat = not any(isinstance(layer, ms.Conv2d) for layer in net.layers.values())
    test = _load(name, "test", flat, folder, steps)
    share = ms.train.evaluate(net, test, encoder=_encoder(name, steps), seed=seed)[1]
    print(f"test accuracy: {100 * share:.1f} %")
    return 0


def _train_rule(
    name: str, options: argparse.Namespace, data: dict[str, Any], out: Path, prefix: str
) -> tuple[ms.History, dict[str, Any]]:
    net = _network(options)
    encoder = _encoder(options.data, options.steps)
    published = options.model == "stl-mnist"
    optimizer = (ms.models.stl_mnist_optimizer if published else ms.Adam)(net, RULES[name], lr=options.lr)
    before = {n: p.copy() for n, p in net.params("*.threshold").items()}
    print(f"{name}: {WHAT_LEARNS[name]} learn")
    print(net)
    begun, path = time.perf_counter(), out / f"{prefix}checkpoint.npz"
    if options.resume is None:
        path.unlink(missing_ok=True)  # of an earlier run in a folder that was asked for by name
    try:
        history = ms.fit(
            net, optimizer, data["train"], validation=data["validation"], keep="best", encoder=encoder,
            epochs=options.epochs, batch=options.batch, seed=options.seed,
            schedule=ms.models.STL_MNIST["schedule"] if published else None,
            checkpoint=path, resume=options.resume is not None, notes={"command": _command(options)},
        )  # fmt: skip
    except KeyboardInterrupt:
        print(f"minisnn: interrupted; to go on from the last epoch: minisnn train --resume {path}", file=sys.stderr)
        raise
    print(_table(history))
    print(f"epoch {history.best_epoch} kept (*: best validation accuracy), {time.perf_counter() - begun:.1f} s of training")
    # The one look at the test set, after every choice has been made.
    loss, share = ms.train.evaluate(net, data["test"], encoder=encoder, seed=options.seed)
    _, caches = net.forward(encoder(data["validation"][0][:1], np.random.default_rng(options.seed)))
    figures = {
        "learning_curves": ms.plot.learning_curves(history),
        "firing_rates": ms.plot.firing_rates(history),
        "thresholds": ms.plot.thresholds(before, net.params("*.threshold")),
        "raster": ms.plot.raster(net["lif1"], caches["lif1"]),
    }
    for figure_name, figure in figures.items():
        ms.plot.save(figure, out / f"{prefix}{figure_name}.png")
    net.save(out / f"{prefix}model.npz", command=_command(options))
    return history, {"test_loss": loss, "test_accuracy": share}


def _load(name: str, split: str, flat: bool, folder: Path | None, steps: int) -> tuple[np.ndarray, np.ndarray]:
    source = ms.data.SETS[name]
    cut = (
        {"steps": steps} if source.encoder == "frames" and source.steps is None else {}
    )  # events have no steps of their own
    return source.load(split, flat=flat, folder=folder, **cut)


def _encoder(name: str, steps: int) -> Any:
    return ms.encode.ENCODERS[ms.data.SETS[name].encoder](steps)


def _network(options: argparse.Namespace) -> ms.Network:
    rng, data = np.random.default_rng(options.seed), ms.data.SETS[options.data]
    classes, lif = len(data.classes), {"threshold": options.threshold, "backend": options.backend}
    if options.model == "stl-mnist":
        channels, height, width = data.shape
        return ms.models.stl_mnist(options.width, shape=(channels, height, width), classes=classes, rng=rng, **lif)
    return ms.models.mlp(int(np.prod(data.shape)), options.hidden, classes, rng=rng, **lif)


def _table(history: ms.History, most: int = 12) -> str:
    """The history's table; of a long one every few epochs, the best and the last."""
    head, lines = str(history).splitlines()[:2], str(history).splitlines()[2:]
    every = -(-len(lines) // most)
    kept = {len(lines) - 1, (history.best_epoch or 1) - 1, *range(0, len(lines), every)}
    return "\n".join([*head, *(lines[i] for i in sorted(kept))])


# -- options that a file keeps, so that a run can go on


def _command(options: argparse.Namespace) -> dict[str, Any]:
    """The options as plain data."""
    kept = {k: v for k, v in vars(options).items() if k not in ("run", "parse", "out", "resume")}
    return {k: str(v) if isinstance(v, Path) else v for k, v in kept.items()}


def _parsed(parse: Any, path: Path, command: Any) -> dict[str, Any]:
    """Options that came from a file, checked as if they had been typed."""
    words = ["train"]
    try:
        for name, value in command.items():
            if value is not None:
                words += [f"--{name.replace('_', '-')}", *(map(str, value) if isinstance(value, list) else [str(value)])]
        return vars(parse(words))
    except (AttributeError, TypeError, ValueError) as error:
        raise ms.FileError(f"{path}: its options cannot be read: {error}") from None


def _resumed(options: argparse.Namespace) -> argparse.Namespace:
    """The options of the run that `options.resume` holds, with those of `FREE` that were given anew."""
    default = options.parse(["train"])
    given = [k for k, v in vars(options).items() if k not in ("resume", "run", "parse", *FREE) and v != getattr(default, k)]
    if given:
        names = ", ".join(f"--{k.replace('_', '-')}" for k in given)
        raise ValueError(f"--resume goes on with the options of that run; leave out {names}")
    if not options.resume.exists():
        raise FileNotFoundError(f"--resume: there is no file {options.resume}")
    notes = checkpoints.header(options.resume)["notes"]
    if "command" not in notes:
        raise ms.FileError(f"{options.resume} was not written by minisnn train: go on with fit(..., resume=True)")
    stored = _parsed(options.parse, options.resume, notes["command"])
    return argparse.Namespace(**{**stored, "resume": options.resume}
                              | {k: v for k in FREE if (v := getattr(options, k)) is not None})  # fmt: skip


def _out_folder(asked: Path | None, name: str) -> Path:
    """The folder to write to, made now: nobody should train first and then learn that it cannot be written."""
    if asked is not None:
        asked.mkdir(parents=True, exist_ok=True)
        if not os.access(asked, os.W_OK):
            raise PermissionError(f"--out: {asked} cannot be written to")
        written = sorted([*asked.glob("*checkpoint.npz"), *asked.glob("history.json")], key=lambda p: p.stat().st_mtime_ns)
        if written and written[-1].name != "history.json":  # which a run writes last
            raise FileExistsError(f"--out: {written[-1]} is of a run that was interrupted: --resume {written[-1]} goes on "
                                  "with it; or delete it, or choose another folder")  # fmt: skip
        return asked
    out, number = Path("runs") / name, 2
    while True:  # never over an earlier run that nobody asked to replace
        try:
            out.mkdir(parents=True)
            return out
        except FileExistsError:
            out, number = Path("runs") / f"{name}-{number}", number + 1


def versions() -> dict[str, str]:
    """Versions of minisnn, Python and the packages that it uses."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"minisnn": ms.__version__, "python": platform.python_version()}
    for package in ("numpy", "numba", "matplotlib"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
