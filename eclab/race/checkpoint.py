"""Checkpoints: one safetensors file with all a race needs to go on exactly, its numbers as JSON in the header."""

from __future__ import annotations

import copy
import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from eclab.errors import CheckpointError, EclabError
from eclab.race.config import Config
from eclab.race.files import whole_file
from eclab.race.measure import evaluating
from eclab.race.record import COLUMNS, Event, RecordLog
from eclab.race.task import find_data, spec_from

if TYPE_CHECKING:
    from eclab.race.lanes import Lane
    from eclab.race.race import Race

SCHEMA = 1
NAME = "checkpoint.safetensors"
_KEY, _CHECKSUM = "eclab.race", "eclab.checksum"
_PROBE_SAMPLES = 8
_SAME = 1e-3
"""Outputs that differ by less, relative to the largest, are one function: devices and versions round differently."""
_EARLIER = "use an earlier checkpoint"
_NUMBERS = frozenset(
    "config spec data position epochs batch_size unbalances order events lanes columns".split()  # noqa: SIM905
)


@dataclass(frozen=True)
class Snapshot:
    """What a checkpoint holds: numbers and tensors."""

    numbers: dict[str, Any]
    tensors: dict[str, Tensor]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose name starts so, without that."""
        return {name.removeprefix(prefix): value for name, value in self.tensors.items() if name.startswith(prefix)}


# -- writing ----------------------------------------------------------------------------------------------------------


def write(race: Race, path: Path) -> Path:
    """See `Race.checkpoint`."""
    target = path / NAME if path.is_dir() else path
    snapshot = take(race)
    try:
        text = json.dumps(snapshot.numbers, allow_nan=True)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"a lane's optimizer has a setting that is no plain value ({error})") from error
    header = {_KEY: text, _CHECKSUM: _checksum(text, snapshot.tensors)}
    with whole_file(target) as temporary:
        save_file(snapshot.tensors, str(temporary), metadata=header)
    return target


def _checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    """Of everything in the file, since safetensors notices what is missing but not what has changed."""
    total = zlib.crc32(text.encode())
    for name in sorted(tensors):
        value = tensors[name].contiguous()
        total = zlib.crc32(f"{name} {value.dtype} {tuple(value.shape)}".encode(), total)
        total = zlib.crc32(value.reshape(-1).view(torch.uint8).numpy().data, total)
    return f"{total:08x}"


def take(race: Race) -> Snapshot:
    """Copy the state of a race; also of one in the middle of its epochs, never in the middle of a step."""
    if race.broken:
        raise CheckpointError(
            f"the race stopped in the middle of a step ({race.broken}), so it cannot be continued exactly",
            fix="reset the race, or resume an earlier checkpoint",
        )
    order, generator = race.order.state()
    tensors = {"order": generator, "records": torch.from_numpy(race.records.rows())}
    tensors["probe"] = probe(race, race.start_net.model)
    tensors |= {f"start/{name}": value for name, value in race.start_net.model.state_dict().items()}
    lanes = []
    for number, lane in enumerate(race.lanes):
        tensors |= {f"lane/{number}/model/{name}": value for name, value in lane.model.state_dict().items()}
        groups, values, states = _optimizer_state(lane)
        tensors |= {f"lane/{number}/optimizer/{name}": value for name, value in states.items()}
        shown = {"state": lane.state, "verdict": lane.verdict, "time": lane.time, "recent": list(lane.recent)}
        lanes.append({**shown, "groups": groups, "values": values})
    numbers = {
        "schema": SCHEMA,
        "versions": {"torch": str(torch.__version__)},
        "config": race.config.to_dict(),
        "spec": race.spec_json,
        "data": {"name": race.task.name, "fingerprint": race.task.fingerprint, "recipe": dict(race.task.recipe)},
        "position": race.position,
        "epochs": race.epochs,
        "batch_size": race.batch_size,
        "unbalances": race.unbalances,
        "order": order,
        "events": [asdict(event) for event in race.events],
        "lanes": lanes,
        "columns": list(COLUMNS),
    }
    return Snapshot(numbers, {name: _own(value) for name, value in tensors.items()})


def _own(value: Tensor) -> Tensor:
    return value.detach().to("cpu", copy=True).contiguous()


def _optimizer_state(lane: Lane) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]], dict[str, Tensor]]:
    form = lane.optimizer.state_dict()
    values: dict[str, dict[str, Any]] = {}
    tensors: dict[str, Tensor] = {}
    for number, state in form["state"].items():
        for key, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"{number}/{key}"] = value
            else:
                values.setdefault(str(number), {})[key] = value
    return form["param_groups"], values, tensors


# -- reading ----------------------------------------------------------------------------------------------------------


def read(path: Path) -> Snapshot:
    """Read a checkpoint back.

    Raises:
        CheckpointError: there is none, it is truncated or something else, or a newer version wrote it.
    """
    source = path / NAME if path.is_dir() else path
    try:
        with safe_open(str(source), framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no checkpoint {source}", fix="check the path") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{source} is truncated or no checkpoint ({error})", fix=_EARLIER) from error
    if _KEY not in header:
        raise CheckpointError(f"{source} is a safetensors file, but no checkpoint of a race")
    numbers = _numbers(header[_KEY], str(source))
    if header.get(_CHECKSUM) != _checksum(header[_KEY], tensors):
        raise CheckpointError(f"{source} is damaged: its checksum is not that of its content", fix=_EARLIER)
    missing = _NUMBERS - numbers.keys()
    if missing:
        raise CheckpointError(f"{source} lacks {', '.join(sorted(missing))}", fix=_EARLIER)
    return Snapshot(numbers, tensors)


def _numbers(text: str, where: str) -> dict[str, Any]:
    try:
        numbers = json.loads(text)
    except ValueError as error:
        raise CheckpointError(f"the numbers in {where} are no JSON ({error})", fix=_EARLIER) from error
    if not isinstance(numbers, dict):
        raise CheckpointError(f"the numbers in {where} are a {type(numbers).__name__}", fix=_EARLIER)
    check_schema(numbers, SCHEMA, where)
    return numbers


def check_schema(form: Mapping[str, Any], known: int, where: str) -> None:
    """A CheckpointError unless this version can read the form."""
    schema = form.get("schema")
    if isinstance(schema, bool) or not isinstance(schema, int) or not 1 <= schema <= known:
        raise CheckpointError(
            f"{where} has the schema version {schema}",
            allowed=f"1 to {known}" if known > 1 else "1",
            fix="update eclab",
        )


def resume(path: Path, model: nn.Module | None, data: Any, device: str | torch.device) -> Race:
    """See `Race.resume`."""
    from eclab.data import load
    from eclab.race.race import Race

    snapshot = read(path)
    config = Config.from_dict(snapshot.numbers["config"])
    spec = snapshot.numbers["spec"]
    if model is None and spec is None:
        raise CheckpointError(
            f"{path} was written for a model of your own", fix="pass it: Race.resume(path, model=model)"
        )
    known = snapshot.numbers["data"]
    try:
        dataset = load(**(known["recipe"] or {"name": known["name"]})) if data is None else find_data(data)
    except EclabError as error:
        raise CheckpointError(f"the data of the checkpoint cannot be loaded ({error.seen})", fix=error.fix) from error
    try:
        race = Race(
            spec_from(spec) if model is None else model,
            dataset,
            config.lanes,
            epochs=config.epochs,
            batch_size=min(config.batch_size, len(dataset.x_train)),
            seed=config.seed,
            device=device,
            start="model",
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            dtype=getattr(torch, config.dtype),
        )
    except EclabError as error:
        raise CheckpointError(f"{path} belongs to another network or other data ({error.seen})") from error
    put(race, snapshot, str(path))
    return race


def restore(race: Race, path: Path) -> None:
    """See `Race.restore`."""
    put(race, read(path), str(path))


def put(race: Race, snapshot: Snapshot, where: str) -> None:
    """Bring a race to a snapshot. Everything is checked before anything is changed."""
    config = Config.from_dict(snapshot.numbers["config"])
    _check_same_race(race, config, snapshot, where)
    lanes = [
        _PreparedLane(lane, config.lanes[number], snapshot, number, where) for number, lane in enumerate(race.lanes)
    ]
    start = snapshot.part("start/")
    _check_shapes(race.start_net.model, start, where)
    _check_function(race, start, snapshot.tensors["probe"], where)
    for prepared in lanes:
        prepared.assign()
    race.start_net.model.load_state_dict(start)
    _put_numbers(race, config, snapshot)


def _put_numbers(race: Race, config: Config, snapshot: Snapshot) -> None:
    numbers = snapshot.numbers
    race.config, race.broken = config, ""
    race.position, race.epochs = numbers["position"], numbers["epochs"]
    race.batch_size, race.unbalances = numbers["batch_size"], numbers["unbalances"]
    race.order.restore(numbers["order"], snapshot.tensors["order"])
    race.events = [Event(**event) for event in numbers["events"]]
    race.records = RecordLog([lane.name for lane in race.lanes])
    race.records.extend(snapshot.tensors["records"].numpy())


def _check_same_race(race: Race, config: Config, snapshot: Snapshot, where: str) -> None:
    numbers = snapshot.numbers
    data = numbers["data"]
    if data["fingerprint"] != race.task.fingerprint:
        raise CheckpointError(
            f"{where} was written for other data ({data['name']}, checksum {data['fingerprint']}) "
            f"than {race.task.name} (checksum {race.task.fingerprint})",
            fix="pass the same data: Race.resume(path, data=...)",
        )
    if config.dtype != race.config.dtype:
        raise CheckpointError(
            f"{where} was written for a race in {config.dtype}", allowed=f"{race.config.dtype}, as this race has it"
        )
    here = [(lane.name, lane.spec.kind) for lane in race.lanes]
    there = [(lane.name, lane.kind) for lane in config.lanes]
    if here != there:
        raise CheckpointError(
            f"{where} has the lanes {', '.join(name for name, _ in there)}",
            allowed=f"the lanes of this race: {', '.join(name for name, _ in here)}",
            fix="use Race.resume, which builds the race from the checkpoint",
        )
    needed = {"order", "records", "probe"}
    if not needed <= set(snapshot.tensors) or list(COLUMNS) != numbers["columns"]:
        raise CheckpointError(f"{where} is incomplete", fix=_EARLIER)


def _check_shapes(model: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    here = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    there = {name: tuple(value.shape) for name, value in weights.items()}
    if here == there:
        return
    different = sorted(name for name in here.keys() | there.keys() if here.get(name) != there.get(name))
    first = different[0]
    raise CheckpointError(
        f"{where} belongs to another network: {first} is {there.get(first, 'missing')} there "
        f"and {here.get(first, 'missing')} here",
        fix="pass the model the race was started with",
    )


def probe(race: Race, model: nn.Module) -> Tensor:
    """The model's outputs for the first training samples: two models of the same shapes may still differ in these."""
    with evaluating(model):
        outputs: Tensor = model(race.task.x[:_PROBE_SAMPLES])
    return outputs


def _check_function(race: Race, start: Mapping[str, Tensor], wanted: Tensor, where: str) -> None:
    model = copy.deepcopy(race.start_net.model)
    model.load_state_dict(start)
    found = probe(race, model).cpu()
    if found.shape == wanted.shape:
        size = float(wanted.abs().nan_to_num(0.0).max())
        if torch.allclose(found, wanted, rtol=_SAME, atol=_SAME * size, equal_nan=True):
            return
    raise CheckpointError(
        f"{where} belongs to another network: with the weights it started from, this one computes something else",
        fix="pass the model the race was started with",
    )


class _PreparedLane:
    """A lane's state, checked and ready to be put in place."""

    def __init__(self, lane: Lane, spec: Any, snapshot: Snapshot, number: int, where: str) -> None:
        self._lane, self._spec = lane, spec
        self._form: dict[str, Any] = snapshot.numbers["lanes"][number]
        self._weights = snapshot.part(f"lane/{number}/model/")
        _check_shapes(lane.model, self._weights, where)
        config = snapshot.numbers["config"]
        self._momentum = float(config["momentum"] if spec.momentum is None else spec.momentum)
        state: dict[int, dict[str, Any]] = {int(key): dict(value) for key, value in self._form["values"].items()}
        for name, value in snapshot.part(f"lane/{number}/optimizer/").items():
            index, _, key = name.partition("/")
            state.setdefault(int(index), {})[key] = value
        self._optimizer = lane.new_optimizer(spec, self._momentum)
        try:
            self._optimizer.load_state_dict({"state": state, "param_groups": self._form["groups"]})
        except CheckpointError:
            raise
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise CheckpointError(f"{where} does not fit the optimizer of {lane.name} ({error})") from error

    def assign(self) -> None:
        """Nothing can fail from here on."""
        form = self._form
        self._lane.model.load_state_dict(self._weights)
        self._lane.resume(self._spec, self._optimizer, self._momentum)
        self._lane.state, self._lane.verdict, self._lane.time = form["state"], form["verdict"], form["time"]
        self._lane.recent.extend((int(step), float(milliseconds)) for step, milliseconds in form["recent"])
