"""A race's result and its run on disk: a folder with JSON, Parquet and safetensors, written once and never changed."""

from __future__ import annotations

import importlib
import json
import platform
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from eclab import __version__
from eclab.errors import CheckpointError
from eclab.race.checkpoint import check_schema
from eclab.race.files import whole_file
from eclab.race.record import COLUMNS, Event
from eclab.race.verdict import Verdict, judge

if TYPE_CHECKING:
    import pandas as pd

    from eclab.race.race import Race

SCHEMA = 1
CONFIG, METRICS, WEIGHTS = "config.json", "metrics.parquet", "weights"
_FORM: dict[str, type] = {
    **dict.fromkeys(("lanes", "events"), list),
    **dict.fromkeys(("versions", "settings", "network", "data"), dict),
    **dict.fromkeys(("rows", "seed", "position"), int),
}

Weights = Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True)
class LaneEnd:
    """How a lane ended.

    Args:
        name, label, colour: as in the race.
        kind: its optimizer.
        lr: its last learning rate.
        state: "running" or "diverged".
        verdict: why it diverged, naming layer and step; else empty.
        guarded: moves of skeleton coordinates the guard has shortened.
    """

    name: str
    label: str
    colour: int
    kind: str
    lr: float
    state: str
    verdict: str
    guarded: int


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """What a race has recorded.

    Args:
        frame: one row a record, columns as in `COLUMNS`; a missing test accuracy is NaN.
        events: what happened between the steps.
        lanes: how the lanes ended.
        config: schema, versions, seed, device, git commit, settings, network and data, as plain data.
        weights: {lane: {parameter: tensor on the CPU}}; of schedule-free lanes the averaged ones that were judged.

    Example:
        >>> from eclab.race import Race
        >>> result = Race("64-8-10", "digits", epochs=1, device="cpu").run()
        >>> result.frame["lane"].unique().tolist(), sorted(result.weights)
        (['sgd', 'ec-sgd'], ['ec-sgd', 'sgd'])
        >>> result
        Result: SGD, EC-SGD on digits, 23 steps; print it for the verdict
    """

    frame: pd.DataFrame
    events: tuple[Event, ...]
    lanes: tuple[LaneEnd, ...]
    config: dict[str, Any]
    weights: Weights

    @classmethod
    def of(cls, race: Race) -> Result:
        """The result of a race so far, with a copy of the weights."""
        lanes = tuple(
            LaneEnd(lane.name, lane.label, lane.colour, lane.spec.kind, lane.lr, lane.state, lane.verdict, lane.guarded)
            for lane in race.lanes
        )
        weights = {}
        for lane in race.lanes:
            with lane.judged():
                weights[lane.name] = {key: _own(value) for key, value in lane.model.state_dict().items()}
        return cls(race.records.frame(), tuple(race.events), lanes, describe(race), weights)

    def chart(self, theme: str = "light", x: str = "step", smoothing: float = 0.6) -> Any:
        """All curves of the race as one Altair chart; see `eclab.charts.race_chart`."""
        # Charts know races, not the other way round: this one name is looked up only when a chart is asked for.
        charts = importlib.import_module("eclab.charts")
        return charts.race_chart(self.frame, self.lanes, self.events, theme=theme, x=x, smoothing=smoothing)

    def verdict(self) -> Verdict:
        """Test accuracy, loss, milliseconds a step, what diverged and where; with the caveat of one run."""
        return judge(self.frame, self.lanes)

    def save(self, path: str | Path) -> Path:
        """Write the run into a folder: config.json, metrics.parquet, weights/<lane>.safetensors.

        config.json is written last, so a folder without it holds no run.

        Raises:
            CheckpointError: the folder already holds a run, or cannot be written to; what is there stays as it is.
        """
        folder = Path(path)
        if (folder / CONFIG).exists():
            raise CheckpointError(
                f"{folder} already holds a run", allowed="a new folder; no run is overwritten", fix="choose another"
            )
        if folder.exists() and not folder.is_dir():
            raise CheckpointError(f"{folder} is a file", allowed="a new folder")
        with whole_file(folder / METRICS) as temporary:
            self.frame.to_parquet(temporary, index=False)
        for lane, tensors in self.weights.items():
            with whole_file(folder / WEIGHTS / f"{lane}.safetensors") as temporary:
                save_file({name: _own(value) for name, value in tensors.items()}, str(temporary))
        form = {
            **self.config,
            "lanes": [asdict(lane) for lane in self.lanes],
            "events": [asdict(event) for event in self.events],
            "rows": len(self.frame),
        }
        with whole_file(folder / CONFIG) as temporary:
            temporary.write_text(json.dumps(form, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return folder

    def __repr__(self) -> str:
        lanes = ", ".join(lane.label for lane in self.lanes)
        steps = f"{self.config['position']:,} steps"
        return f"Result: {lanes} on {self.config['data'].get('name')}, {steps}; print it for the verdict"

    def __str__(self) -> str:
        return str(self.verdict())

    def _repr_html_(self) -> str:
        return self.verdict()._repr_html_()


def load(path: str | Path) -> Result:
    """Read a run back. Weights are read when they are first looked at.

    Raises:
        CheckpointError: there is no run, a file is truncated, or a newer version wrote it.
    """
    import pandas as pd

    folder = Path(path)
    form = _read_config(folder)
    try:
        frame = pd.read_parquet(folder / METRICS)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / METRICS} is missing or truncated ({_first_line(error)})") from error
    if list(frame.columns) != list(COLUMNS) or len(frame) != form["rows"]:
        raise CheckpointError(
            f"{folder / METRICS} has {len(frame)} rows of {len(frame.columns)} columns",
            allowed=f"{form['rows']} rows of {len(COLUMNS)} columns",
        )
    try:
        lanes = tuple(LaneEnd(**lane) for lane in form.pop("lanes"))
        events = tuple(Event(**event) for event in form.pop("events"))
    except TypeError as error:
        raise CheckpointError(f"{folder / CONFIG} holds a lane or an event that is none ({error})") from error
    form.pop("rows")
    return Result(frame, events, lanes, form, StoredWeights(folder / WEIGHTS, tuple(lane.name for lane in lanes)))


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        form = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CheckpointError(
            f"{folder} holds no run (there is no {CONFIG})", fix="check the path, or resume its checkpoint"
        ) from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / CONFIG} is truncated or no JSON ({_first_line(error)})") from error
    if not isinstance(form, dict):
        raise CheckpointError(f"{folder / CONFIG} is no run")
    check_schema(form, SCHEMA, str(folder / CONFIG))
    wrong = [name for name, kind in _FORM.items() if not isinstance(form.get(name), kind)]
    if wrong:
        raise CheckpointError(f"{folder / CONFIG} lacks {', '.join(wrong)}, or holds something else in its place")
    return form


class StoredWeights(Mapping[str, Mapping[str, Tensor]]):
    """A run's weights by lane, read when asked for."""

    def __init__(self, folder: Path, lanes: tuple[str, ...]) -> None:
        self._folder, self._lanes = folder, lanes

    def __getitem__(self, lane: str) -> Mapping[str, Tensor]:
        if lane not in self._lanes:
            raise KeyError(lane)
        path = self._folder / f"{lane}.safetensors"
        try:
            return load_file(str(path))
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path} is missing or truncated ({_first_line(error)})") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._lanes)

    def __len__(self) -> int:
        return len(self._lanes)


def describe(race: Race) -> dict[str, Any]:
    """What a run was: everything but its records, as plain data."""
    net = race.start_net
    return {
        "schema": SCHEMA,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "eclab": __version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.machine()}",
        },
        "git": git_commit(),
        "seed": race.config.seed,
        "device": device_name(race.device),
        "threads": torch.get_num_threads(),
        "settings": race.config.to_dict(),
        "network": {
            "spec": None if race.spec_json is None else json.loads(race.spec_json),
            "layers": [f"{layer.name} {layer.kind} {layer.shape}" for layer in net.layers],
            "m": net.num_weights,
            "H": net.num_units,
        },
        "data": {
            "name": race.task.name,
            "fingerprint": race.task.fingerprint,
            "recipe": dict(race.task.recipe),
            "train": len(race.task.x),
            "test": len(race.task.x_test),
        },
        "position": race.position,
        "finished": race.finished,
    }


def device_name(device: torch.device) -> str:
    """A device in words.

    Example:
        >>> device_name(torch.device("cpu")).startswith("CPU")
        True
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads" if device.type == "cpu" else str(device)


def git_commit() -> str | None:
    """The commit of the working folder, with "+" if files differ from it; None outside a repository."""
    try:
        commit = _git("rev-parse", "HEAD")
        return commit + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], capture_output=True, text=True, timeout=5, check=True)
    return done.stdout.strip()


def _own(value: Tensor) -> Tensor:
    return value.detach().to("cpu", copy=True).contiguous()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
