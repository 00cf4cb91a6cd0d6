"""``minisnn train`` and ``minisnn eval``: train, leave figures, resume, evaluate what was saved."""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import minisnn as ms

from .. import files
from .options import FREE, RULES, Options, add_options, natural, whole

__all__ = ["add_commands", "evaluate", "train", "versions"]

COMPARED = ("sl", "tl", "stl")
WHAT_LEARNS = {
    "stl": "weights and thresholds",
    "sl": "weights",
    "tl": "thresholds",
    "stdl": "weights, thresholds and decays",
}


def add_commands(commands: Any) -> None:
    """The subcommands ``train`` and ``eval`` of a command line."""
    parser = commands.add_parser("train", help="train a network on one of the data sets")
    add_options(parser)
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: runs/RULE-seedN")
    text = "checkpoint.npz of an interrupted run, which goes on"
    parser.add_argument("--resume", type=Path, metavar="FILE", help=text)
    parser.set_defaults(run=train)

    parser = commands.add_parser("eval", help="accuracy of a saved network on a test set")
    text = "model.npz, or a checkpoint: its last epoch"
    parser.add_argument("file", type=Path, metavar="FILE", help=text)
    parser.add_argument("--data", choices=list(ms.data.SETS), help="default: as in training")
    add_options(parser, "data_dir")
    parser.add_argument("--steps", type=whole, help="time steps (default: as in training)")
    parser.add_argument("--seed", type=natural, help="of the encoding (default: as in training)")
    parser.set_defaults(run=evaluate)


def train(words: argparse.Namespace) -> int:
    """``minisnn train``."""
    options = Options(**{f.name: getattr(words, f.name) for f in fields(Options)})
    options = options.completed() if words.resume is None else _resumed(options, words)
    ms.set_threads(options.threads)
    if options.model == "stl-mnist" and len(ms.data.SETS[options.data].shape) != 3:
        cure = f"{options.data} has none; use --model mlp"
        raise ValueError(f"--model stl-mnist takes images, and {cure}")
    # The test set is loaded too, so that a missing file stops the run before it trains.
    data = {split: _load(options, split, options.model == "mlp") for split in ms.data.SPLITS}
    name = f"{options.rule}-seed{options.seed}"
    out = words.resume.parent if words.resume else _out_folder(words.out, name)
    import matplotlib

    matplotlib.use("Agg")  # figures go to files, whatever screen MPLBACKEND names
    resume, several, histories, runs = bool(words.resume), options.rule == "compare", {}, {}
    figures: dict[str, Callable[[], Any]] = {}
    for rule in COMPARED if several else (options.rule,):
        prefix = f"{rule}_" if several else ""
        path = out / f"{prefix}checkpoint.npz" if several or not resume else words.resume
        found = _train_rule(rule, options, data, path, prefix, resume)
        histories[rule], result, drawn = found
        figures |= {f"{prefix}{name}": draw for name, draw in drawn.items()}
        runs[rule] = {"rule": rule, **result, "history": json.loads(histories[rule].to_json())}
    if several:
        figures["compare"] = partial(ms.plot.compare, histories)
    record = {"command": asdict(options), "versions": versions(), "runs": runs}
    with files.replacing(out / "history.json") as part:
        part.write_text(json.dumps(record, indent=1))
    for name, draw in figures.items():  # last: everything else is on the disk
        ms.plot.save(draw(), out / f"{name}.png")
    names = sorted(p.name for p in out.iterdir() if not p.name.startswith("."))
    print(f"\nwritten to {out}: {', '.join(names)}")
    for rule, run in runs.items():
        print(f"{f'{rule} ' if several else ''}test accuracy: {100 * run['test_accuracy']:.1f} %")
    return 0


def evaluate(words: argparse.Namespace) -> int:
    """``minisnn eval FILE``."""
    net = ms.load(words.file)
    notes = files.read(words.file, ("network", "checkpoint"))[0].get("notes")
    command = notes.get("command") if isinstance(notes, dict) else None
    stored = Options() if command is None else Options.read(words.file, command)
    given = {n: getattr(words, n) for n in ("data", "data_dir", "seed")}
    given = {n: value for n, value in given.items() if value is not None}
    options = replace(stored, steps=words.steps or stored.steps or 8, **given)
    print(net)
    print(f"{options.data}, {options.steps} steps, seed {options.seed}")
    flat = not any(isinstance(layer, ms.Conv2d) for layer in net.layers.values())
    test = _load(options, "test", flat)
    share: Any = ms.train.evaluate(net, test, encoder=_encoder(options), seed=options.seed)[1]
    print(f"test accuracy: {100 * share:.1f} %")
    return 0


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


# -- one run


def _train_rule(
    rule: str, options: Options, data: dict[str, Any], path: Path, prefix: str, resume: bool
) -> tuple[ms.History, dict[str, Any], dict[str, Callable[[], Any]]]:
    """Train by one rule and write its files: history, result on the test set, and figures."""
    net, encoder = _network(options), _encoder(options)
    published = options.model == "stl-mnist"
    adam = ms.models.stl_mnist_optimizer if published else ms.Adam
    before = {n: p.copy() for n, p in net.params("*.threshold").items()}
    print(f"{rule}: {WHAT_LEARNS[rule]} learn")
    print(net)
    begun, command = time.perf_counter(), asdict(options)
    if not resume:
        path.unlink(missing_ok=True)  # of an earlier run in a folder that the user named
    try:
        history = ms.fit(
            net,
            adam(net, RULES[rule], lr=options.lr),
            data["train"],
            validation=data["validation"],
            keep="best",
            encoder=encoder,
            **{n: command[n] for n in ("epochs", "batch", "seed")},
            schedule=ms.models.STL_MNIST["schedule"] if published else None,
            checkpoint=path,
            resume=resume,
            notes={"command": command},
        )
    except KeyboardInterrupt:
        cure = f"to go on from the last epoch: minisnn train --resume {path}"
        raise KeyboardInterrupt(f"interrupted; {cure}") from None
    print(_table(history))
    seconds = f"{time.perf_counter() - begun:.1f} s of training"
    print(f"epoch {history.best_epoch} kept (*: best validation accuracy), {seconds}")
    # The network sees the test set once, after every choice has been made.
    loss, share = ms.train.evaluate(net, data["test"], encoder=encoder, seed=options.seed)
    x = encoder(data["validation"][0][:1], np.random.default_rng(options.seed))
    net.save(path.with_name(f"{prefix}model.npz"), command=command)
    figures: dict[str, Callable[[], Any]] = {
        "learning_curves": partial(ms.plot.learning_curves, history),
        "firing_rates": partial(ms.plot.firing_rates, history),
        "thresholds": partial(ms.plot.thresholds, before, net.params("*.threshold")),
        "raster": partial(ms.plot.raster, net["lif1"], net.forward(x)[1]["lif1"]),
    }
    return history, {"test_loss": loss, "test_accuracy": share}, figures


def _load(options: Options, split: str, flat: bool) -> Any:
    source = ms.data.SETS[options.data]
    has_choice = source.encoder == "frames" and source.steps is None  # events have no steps
    steps = {"steps": options.steps} if has_choice else {}
    return source.load(split, flat=flat, folder=options.data_dir, **steps)


def _encoder(options: Options) -> Any:
    return ms.encode.ENCODERS[ms.data.SETS[options.data].encoder](options.steps)


def _network(options: Options) -> ms.Network:
    rng, data = np.random.default_rng(options.seed), ms.data.SETS[options.data]
    lif: dict[str, Any] = {"threshold": options.threshold, "backend": options.backend}
    classes = len(data.classes)
    if options.model == "stl-mnist":
        lif |= {"shape": data.shape, "classes": classes}
        return ms.models.stl_mnist(options.width, rng=rng, **lif)
    return ms.models.mlp(int(np.prod(data.shape)), options.hidden, classes, rng=rng, **lif)


def _table(history: ms.History, most: int = 12) -> str:
    """The history's table; of a long one every few epochs, the best and the last."""
    head, lines = str(history).splitlines()[:2], str(history).splitlines()[2:]
    every = -(-len(lines) // most)
    kept = {len(lines) - 1, (history.best_epoch or 1) - 1, *range(0, len(lines), every)}
    return "\n".join([*head, *(lines[i] for i in sorted(kept))])


def _resumed(given: Options, words: argparse.Namespace) -> Options:
    """The options of the run that goes on, and those of `FREE` that are given anew."""
    anew = given.given()
    fixed = [n for n in anew if n not in FREE] + ([] if words.out is None else ["out"])
    if fixed:
        typed = ", ".join(f"--{n.replace('_', '-')}" for n in fixed)
        raise ValueError(f"--resume goes on with the options of that run; leave out {typed}")
    if not words.resume.exists():
        raise FileNotFoundError(f"--resume: there is no file {words.resume}")
    notes = files.read(words.resume, ("checkpoint",))[0].get("notes")
    if not isinstance(notes, dict) or "command" not in notes:
        cure = "go on with fit(..., resume=True)"
        raise ms.FileError(f"{words.resume} was not written by minisnn train: {cure}")
    return replace(Options.read(words.resume, notes["command"]), **anew)


def _out_folder(named: Path | None, name: str) -> Path:
    """The folder to write to, made before training, so that an error comes early."""
    number = 1
    while named is None:  # never over an earlier run that the user did not name
        out = Path("runs") / (name if number == 1 else f"{name}-{number}")
        try:
            out.mkdir(parents=True)
            return out
        except FileExistsError:
            number += 1
    named.mkdir(parents=True, exist_ok=True)
    if not os.access(named, os.W_OK):
        raise PermissionError(f"--out: {named} cannot be written to")
    written = [*named.glob("history.json"), *named.glob("*checkpoint.npz")]
    last = max(written, key=lambda p: p.stat().st_mtime_ns, default=None)
    if last is not None and last.name != "history.json":  # which a run writes last
        cure = f"--resume {last} goes on with it; or delete it, or choose another folder"
        raise FileExistsError(f"--out: {last} is of a run that was interrupted: {cure}")
    return named
