"""`eclab race`: train in lockstep with a progress bar, then a table and a run on disk."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eclab.cli.words import Commands, add_network, command, hint, network, print_table, say
from eclab.errors import CheckpointError, SettingError

if TYPE_CHECKING:
    from eclab.race import Race, Verdict

_EXAMPLES = """examples:
  eclab race --net 64-32-32-10
  eclab race --data fashion-mnist --net 784-64-64-64-64-10 --lanes sgd,ec-sgd --epochs 3
  eclab race --net 64-32-10 --lr sgd=0.1,ec-sgd=0.2 --unbalance 2.0
  eclab race --net 64-32-10 --lanes sgd:0.05,sgd:0.1,ec-sgd:0.1
  eclab race --resume runs/2026-07-24-101500-digits

lanes: sgd, ec-sgd, ec-sgd-balanced, adam, adamw, rmsprop, ec-adam, path-sgd, enorm-sgd, pathcond-sgd, schedule-free,
ec-schedule-free. All start from the same function and see the same batches in the same order. Ctrl-C writes a
checkpoint.
"""
_FIXED = {
    "net": "--net",
    "activation": "--activation",
    "bias": "--bias",
    "data": "--data",
    "limit": "--limit",
    "lanes": "--lanes",
    "lr": "--lr",
    "batch": "--batch",
    "seed": "--seed",
    "start": "--start",
    "unbalance": "--unbalance",
    "momentum": "--momentum",
    "weight_decay": "--weight-decay",
    "eval_every": "--eval-every",
    "double": "--double",
}


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = command(commands, "race", run, "train one network by several optimizers, side by side", _EXAMPLES)
    add_network(parser)
    parser.add_argument("--data", metavar="NAME", help="data set (default digits); `eclab doctor` lists them")
    parser.add_argument("--limit", type=int, metavar="N", help="use only the first N training and test samples")
    parser.add_argument(
        "--lanes", metavar="LIST", help="1 to 8 optimizers, such as sgd,ec-sgd (the default) or sgd:0.1,adam:0.001"
    )
    parser.add_argument("--lr", metavar="RATE", help="learning rate: 0.1 (default), or sgd=0.1,ec-sgd=0.2")
    parser.add_argument("--epochs", type=int, metavar="N", help="passes over the training data (default 5)")
    parser.add_argument("--batch", type=int, metavar="N", help="samples a step (default 64)")
    parser.add_argument("--momentum", type=float, metavar="M", help="in [0, 1) (default 0)")
    parser.add_argument("--weight-decay", type=float, metavar="D", help="at least 0 (default 0)")
    parser.add_argument("--start", metavar="WORD", help="skeleton: its weights are 1 (default); model: as built")
    parser.add_argument("--unbalance", type=float, metavar="S", help="rescale every start by one random c (default 0)")
    parser.add_argument("--seed", type=int, metavar="N", help="of weights, batches and unbalance (default 0)")
    parser.add_argument("--eval-every", type=int, metavar="N", help="steps between two test accuracies")
    parser.add_argument("--double", action="store_true", default=None, help="float64 instead of float32")
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto (default), cpu, cuda, cuda:1, ...")
    parser.add_argument(
        "--out", type=_folder, metavar="DIR", help="new folder for the run (default runs/<time>-<data>)"
    )
    parser.add_argument("--resume", type=_folder, metavar="DIR", help="go on from this run's checkpoint")


def _folder(text: str) -> Path:
    if not text.strip():
        raise argparse.ArgumentTypeError("the folder is blank")
    return Path(text)


def run(given: argparse.Namespace) -> int:
    """Race, print, write."""
    from eclab.race.files import need_folder

    folder = _free_folder(given)
    race = _resumed(given) if given.resume else _new(given)
    if folder is None:
        folder = _new_folder(race.task.name)
    need_folder(folder)
    try:
        _drain(race, folder)
    except KeyboardInterrupt:
        race.checkpoint(folder / "checkpoint.safetensors")
        go_on = f"eclab race --resume {shlex.quote(str(folder))}"
        hint(f"eclab: stopped after step {race.position:,}; go on with: {go_on}")
        return 130
    race.checkpoint(folder / "checkpoint.safetensors")
    result = race.result()
    result.save(folder)
    _print(race, result.verdict())
    say(f"run written to {folder}")
    return 0


def _free_folder(given: argparse.Namespace) -> Path | None:
    """Where the run goes, known to be free before anything is trained; None for a new folder."""
    folder: Path | None = given.out or given.resume
    if folder is None or not (folder / "config.json").exists():
        return folder
    raise CheckpointError(
        f"{folder} already holds a finished run",
        allowed="a new folder; no run is overwritten",
        fix="give --out a new folder",
    )


def _new_folder(data: str) -> Path:
    """A folder of this race's own, made at once: several races may start within one second."""
    from eclab.race.files import need_folder

    stem = f"{datetime.now():%Y-%m-%d-%H%M%S}-{''.join(sign if sign.isalnum() else '-' for sign in data)}"
    candidates = [stem, *(f"{stem}-{number}" for number in range(2, 100))]
    need_folder(Path("runs"))
    for folder in (Path("runs") / name for name in candidates):
        with suppress(FileExistsError):
            folder.mkdir()
            return folder
    raise CheckpointError(f"runs already holds a hundred runs called {stem}", fix="give --out a new folder")


def _new(given: argparse.Namespace) -> Race:
    import torch

    from eclab.data import load
    from eclab.race import Race

    def chosen(name: str, default: Any) -> Any:
        value = getattr(given, name)
        return default if value is None else value

    return Race(
        network(given),
        load(chosen("data", "digits"), limit=given.limit),
        chosen("lanes", "sgd,ec-sgd"),
        lr=read_rates(chosen("lr", "0.1")),
        epochs=chosen("epochs", 5),
        batch_size=chosen("batch", 64),
        seed=chosen("seed", 0),
        device=given.device,
        start=chosen("start", "skeleton"),
        unbalance=chosen("unbalance", 0.0),
        momentum=chosen("momentum", 0.0),
        weight_decay=chosen("weight_decay", 0.0),
        eval_every=given.eval_every,
        dtype=torch.float64 if given.double else torch.float32,
    )


def _resumed(given: argparse.Namespace) -> Race:
    from eclab.race import Race

    changed = [flag for name, flag in _FIXED.items() if getattr(given, name) is not None]
    if changed:
        raise SettingError(
            f"{', '.join(changed)} is given with --resume",
            allowed="--epochs, --device and --out",
            fix="leave it out: the checkpoint says how the race goes on",
        )
    race = Race.resume(given.resume, device=given.device)
    if given.epochs is not None:
        race.set_epochs(given.epochs)
    return race


def read_rates(text: str) -> float | dict[str, float]:
    """A learning rate, or one for each lane.

    Raises:
        SettingError: it is neither.

    Example:
        >>> read_rates("0.1"), read_rates("sgd=0.1,ec-sgd=0.2")
        (0.1, {'sgd': 0.1, 'ec-sgd': 0.2})
    """
    try:
        if "=" not in text:
            return float(text)
        pairs = [part.partition("=") for part in text.split(",")]
        rates = {name.strip(): float(rate) for name, _, rate in pairs}
    except ValueError as error:
        raise SettingError(
            f"the learning rate is {text!r}", allowed="a number such as 0.1, or lane=number,lane=number"
        ) from error
    if len(rates) < len(pairs):
        raise SettingError(f"the learning rates {text!r} name a lane twice", allowed="one rate a lane")
    return rates


def _drain(race: Race, folder: Path) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    watched = sys.stderr.isatty()
    columns = (
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[lanes]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True), refresh_per_second=5, disable=not watched) as bar:
        task = bar.add_task("race", total=race.total_steps, completed=race.position, lanes="")

        def show(lanes: str, epoch_over: bool) -> None:
            bar.update(task, completed=race.position, lanes=lanes)
            if epoch_over and not watched:  # a bar cannot be drawn into a file: a line an epoch instead
                hint(f"epoch {race.order.epoch} of {race.epochs}: {lanes}")

        race.run(progress=_progress(race, folder, show))


def _progress(race: Race, folder: Path, show: Callable[[str, bool], None]) -> Callable[[Race], None]:
    seen = {"epoch": race.order.epoch, "row": len(race.records)}
    accuracy: dict[str, float] = {}

    def after_step(_: Race) -> None:
        for record in race.records[seen["row"] :]:
            if record.test_acc is not None:
                accuracy[record.lane] = record.test_acc
        seen["row"] = len(race.records)
        epoch_over = race.order.epoch != seen["epoch"]
        show("  ".join(_lane_text(lane, accuracy.get(lane.name)) for lane in race.lanes), epoch_over)
        if epoch_over:
            seen["epoch"] = race.order.epoch
            race.checkpoint(folder / "checkpoint.safetensors")

    return after_step


def _lane_text(lane: Any, accuracy: float | None) -> str:
    if not lane.running:
        return f"{lane.label} diverged"
    return lane.label if accuracy is None else f"{lane.label} {100 * accuracy:.1f} %"


def _print(race: Race, verdict: Verdict) -> None:
    from eclab.race.verdict import HEAD

    print_table(HEAD, [row.cells() for row in verdict.rows], right=range(1, len(HEAD) - 1))
    say()
    say(verdict.text)
    slower = race.overhead()
    if slower is not None:
        word = "longer" if slower >= 0 else "less"
        say(f"An EC-SGD iteration takes {abs(slower):.1f} % {word} than one of SGD (median of the last 100, in pairs).")
