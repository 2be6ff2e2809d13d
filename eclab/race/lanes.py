"""Lanes: what can race, how a lane is written, and one lane's model, optimizer and state."""

from __future__ import annotations

import difflib
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from eclab.errors import EclabError, SettingError
from eclab.race import settings
from eclab.race.kinds import KINDS, NAME, kinds
from eclab.race.measure import EVALUATION_CHUNK, Gauge, accuracy

if TYPE_CHECKING:
    from eclab.facade import Network

MOST_LANES = 8
RECENT_STEPS = 100


@dataclass(frozen=True)
class LaneSpec:
    """How a lane was asked for.

    Args:
        name: unique in its race: the optimizer's, with "-2", "-3" ... where it appears again.
        kind: the optimizer, one of `kinds()`.
        label: as shown.
        colour: place in the charts' palette.
        lr: the learning rate given with the lane, or None.
        momentum, weight_decay: given with the lane, or None for the race's.
        options: further options of the optimizer.
    """

    name: str
    kind: str
    label: str
    colour: int
    lr: float | None = None
    momentum: float | None = None
    weight_decay: float | None = None
    options: dict[str, Any] = field(default_factory=dict)


def parse_lanes(lanes: object) -> tuple[LaneSpec, ...]:
    """Lanes as a user writes them -> specifications with unique names and colours.

    Args:
        lanes: "sgd,ec-sgd", or a list of names, "name:rate" strings and dicts
            {"optimizer": name, "lr": .., "momentum": .., "weight_decay": .., "name": .., "label": .., "colour": ..,
            option: ..}.

    Raises:
        SettingError: no lane or more than 8, an unknown optimizer or option, a rate out of range, a name used twice.

    Example:
        >>> [(lane.name, lane.label, lane.colour) for lane in parse_lanes("sgd:0.1,sgd:0.2,ec-sgd")]
        [('sgd', 'SGD lr 0.1', 0), ('sgd-2', 'SGD lr 0.2', 2), ('ec-sgd', 'EC-SGD', 1)]
    """
    wanted: list[object] = list(lanes.split(",")) if isinstance(lanes, str) else _as_list(lanes)
    if any(isinstance(one, str) and not one.strip() for one in wanted):
        raise SettingError(f"one of the lanes {lanes!r} is empty", allowed=", ".join(KINDS), fix="leave it out")
    if not 1 <= len(wanted) <= MOST_LANES:
        raise SettingError(f"the race has {len(wanted)} lanes", allowed=f"1 to {MOST_LANES}")
    asked = [_read_lane(lane) for lane in wanted]
    names = _unique_names(asked)
    colours = _colours(asked)
    labels = _labels(asked)
    return tuple(_spec(*four) for four in zip(asked, names, labels, colours, strict=True))


def _as_list(lanes: object) -> list[object]:
    if isinstance(lanes, Sequence):
        return list(lanes)
    raise SettingError(f"the lanes are {lanes!r}", allowed='a list such as ["sgd", "ec-sgd"]')


def _read_lane(lane: object) -> dict[str, Any]:
    if isinstance(lane, LaneSpec):
        given = {key: getattr(lane, key) for key in ("name", "label", "colour", "lr", "momentum", "weight_decay")}
        return {"optimizer": lane.kind, **{k: v for k, v in given.items() if v is not None}, **lane.options}
    if isinstance(lane, Mapping):
        asked = {str(key): value for key, value in lane.items()}
    elif isinstance(lane, str):
        name, colon, rate = lane.strip().partition(":")
        asked = {"optimizer": name, **({"lr": _rate(rate, lane)} if colon else {})}
    else:
        raise SettingError(f"a lane is {lane!r}", allowed='a name such as "sgd", "sgd:0.2", or a dict')
    if asked.get("optimizer") not in kinds():
        near = difflib.get_close_matches(str(asked.get("optimizer")).lower(), KINDS, n=1)
        raise SettingError(
            f"there is no lane {asked.get('optimizer')!r}",
            allowed=", ".join(KINDS),
            fix=f"write {near[0]!r}" if near else 'write a name, or a name with its rate as in "ec-sgd:0.2"',
        )
    return asked


def _rate(text: str, lane: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise SettingError(f"the learning rate in {lane!r} is {text!r}", allowed="a finite number > 0") from error


def _unique_names(asked: list[dict[str, Any]]) -> list[str]:
    names: list[str] = []
    for one in asked:
        base = str(one.get("name", one["optimizer"]))
        if not NAME.fullmatch(base):
            raise SettingError(f"a lane is called {base!r}", allowed="letters, digits, '-', '_' and '.'")
        # each lane's weights become a file of its name, and some file systems do not tell A from a
        taken = [name.casefold() for name in names]
        if "name" in one and base.casefold() in taken:
            raise SettingError(f"two lanes are called {base!r}", fix="give each lane a name of its own")
        number = 1
        name = base
        while name.casefold() in taken:
            number += 1
            name = f"{base}-{number}"
        names.append(name)
    return names


def _labels(asked: list[dict[str, Any]]) -> list[str]:
    optimizers = [one["optimizer"] for one in asked]
    labels: list[str] = []
    for number, one in enumerate(asked):
        label = KINDS[one["optimizer"]].label
        twins = [other for other in asked if other["optimizer"] == one["optimizer"]]
        if "label" in one:
            label = str(one["label"]).strip()
            if not label:
                raise SettingError("the label of a lane is blank", fix="leave it out")
        elif len({twin.get("lr") for twin in twins}) == len(twins) > 1 and "lr" in one:
            label = f"{label} lr {one['lr']:g}"
        elif optimizers[:number].count(one["optimizer"]):
            label = f"{label} {optimizers[:number].count(one['optimizer']) + 1}"
        labels.append(label)
    return labels


def _colours(asked: list[dict[str, Any]]) -> list[int]:
    """A lane's own colour is kept; the others take their optimizer's if it is free, else one no other here has."""
    owned = {KINDS[one["optimizer"]].colour for one in asked}
    order = sorted(range(MOST_LANES), key=lambda place: (place in owned, place))
    colours = [settings.whole(one["colour"], "a lane's colour", least=0) if "colour" in one else -1 for one in asked]
    for number, one in enumerate(asked):
        if colours[number] < 0:
            mine = KINDS[one["optimizer"]].colour
            free = next(place for place in order if place not in colours)
            colours[number] = mine if mine is not None and mine not in colours else free
    return colours


def _spec(asked: dict[str, Any], name: str, label: str, colour: int) -> LaneSpec:
    kind = KINDS[asked["optimizer"]]
    known = {"optimizer", "name", "label", "colour", "lr", "momentum", "weight_decay"}
    options = {key: value for key, value in asked.items() if key not in known}
    unknown = [key for key in options if key not in kind.options]
    if unknown:
        allowed = ", ".join(sorted(known | set(kind.options)))
        raise SettingError(f"the lane {name} has the option {', '.join(unknown)}", allowed=allowed)
    for key, value in options.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise SettingError(f"the {key} of {name} is {value}", allowed="a finite number")
    lr, momentum, decay = asked.get("lr"), asked.get("momentum"), asked.get("weight_decay")
    if momentum is not None and not kind.momentum:
        allowed = ", ".join(sorted((known | set(kind.options)) - {"momentum"}))
        raise SettingError(f"the lane {name} has the option momentum", allowed=allowed)
    return LaneSpec(
        name,
        kind.name,
        label,
        colour,
        None if lr is None else settings.rate(lr, f"the learning rate of {name}"),
        None if momentum is None else settings.below_one(momentum, f"the momentum of {name}"),
        None if decay is None else settings.non_negative(decay, f"the weight decay of {name}"),
        options,
    )


class Lane:
    """One optimizer with its own copy of the network.

    Args:
        spec: how it was asked for.
        net: its network; the lane trains `net.model`.
        lr, momentum, weight_decay: what it starts with.

    Attributes:
        state: "running", or "diverged" once a loss, gradient or weight was not finite.
        verdict: why it diverged, naming layer and step; else empty.
        time: seconds spent on forward, backward and step.
        recent: (step, milliseconds) of its last 100 steps.
        gauge: measures |w_in|^2 - |w_out|^2 of its units.
    """

    def __init__(self, spec: LaneSpec, net: Network, lr: float, momentum: float, weight_decay: float) -> None:
        kind = KINDS[spec.kind]
        if kind.needs_free_units and net.num_units == 0:
            raise SettingError(
                f"the model has no free unit, so {spec.label} has no class to work in",
                allowed="a model with at least one hidden unit that can be rescaled",
                fix='add a hidden layer with ReLU, or race "sgd" alone',
            )
        self.spec, self.net = spec, net
        self.model: nn.Module = net.model
        self.state, self.verdict, self.time = "running", "", 0.0
        self.recent: deque[tuple[int, float]] = deque(maxlen=RECENT_STEPS)
        self.gauge = Gauge(net)
        self._momentum = momentum
        self.prepare()
        self.optimizer = self._build(spec, lr, momentum, weight_decay)

    def prepare(self) -> None:
        """Bring the weights to where this optimizer starts, the conditioned member for one; no function changes."""
        prepare = KINDS[self.spec.kind].prepare
        if prepare is not None:
            prepare(self.net)

    def _build(self, spec: LaneSpec, lr: float, momentum: float, weight_decay: float) -> torch.optim.Optimizer:
        make = KINDS[spec.kind].make
        try:
            optimizer = make(self.net, lr=lr, momentum=momentum, weight_decay=weight_decay, **spec.options)
            if (train := getattr(optimizer, "train", None)) is not None:
                train()
            return optimizer
        except EclabError:
            raise
        except (TypeError, ValueError) as error:
            raise SettingError(f"the lane {spec.name} cannot be built: {error}", fix="change its options") from error

    def new_optimizer(self, spec: LaneSpec, momentum: float) -> torch.optim.Optimizer:
        """An optimizer over this lane's weights for a state to be loaded into; the lane keeps its own."""
        return self._build(spec, spec.lr or self.lr, momentum, spec.weight_decay or 0.0)

    def resume(self, spec: LaneSpec, optimizer: torch.optim.Optimizer, momentum: float) -> None:
        """Go on with another optimizer over the same weights."""
        self.spec, self.optimizer, self._momentum = spec, optimizer, momentum
        self.recent.clear()

    @property
    def name(self) -> str:
        """Unique in its race."""
        return self.spec.name

    @property
    def label(self) -> str:
        """As shown."""
        return self.spec.label

    @property
    def colour(self) -> int:
        """Place in the charts' palette."""
        return self.spec.colour

    @property
    def running(self) -> bool:
        """Whether it still trains."""
        return self.state == "running"

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    @property
    def weight_decay(self) -> float:
        """The weight decay of the next step."""
        return float(self.optimizer.param_groups[0]["weight_decay"])

    @property
    def momentum(self) -> float:
        """The momentum; 0 for optimizers that have none."""
        return self._momentum if KINDS[self.spec.kind].momentum else 0.0

    @property
    def guarded(self) -> int:
        """Moves of skeleton coordinates the guard has shortened so far; 0 for lanes without a guard."""
        return int(getattr(self.optimizer, "guarded_moves", 0))

    def set(self, key: str, value: float) -> None:
        """Change "lr" or "weight_decay" of every parameter group."""
        for group in self.optimizer.param_groups:
            group[key] = value

    def took(self, step: int, ms_forward_backward: float, ms_step: float) -> None:
        """Add up the time of one step; one that did not get as far as the optimizer is no measure of speed."""
        self.time += 1e-3 * (ms_forward_backward + ms_step)
        if ms_step:
            self.recent.append((step, ms_forward_backward + ms_step))

    def diverge(self, verdict: str) -> None:
        """Stop for good, with the reason."""
        self.state, self.verdict = "diverged", verdict

    def restart(self) -> None:
        """Run again with a new optimizer at the present settings; the weights are the caller's to set."""
        self.state, self.verdict, self.time = "running", "", 0.0
        self.recent.clear()
        self.prepare()
        self.optimizer = self._build(self.spec, self.lr, self._momentum, self.weight_decay)

    def accuracy(
        self, x: Tensor, y: Tensor, stop: Callable[[], bool] | None = None, chunk: int = EVALUATION_CHUNK
    ) -> float | None:
        """Share of samples classified correctly by the judged model; see `eclab.race.measure.accuracy`."""
        with self.judged():
            return accuracy(self.model, x, y, stop, chunk)

    @contextmanager
    def judged(self) -> Iterator[None]:
        """The model as it is judged: with schedule-free optimizers at their average, else as it is.

        Afterwards the weights it trains with are back, bit for bit, so that looking changes no result.
        """
        switch = getattr(self.optimizer, "eval", None)
        if switch is None:
            yield
            return
        groups = self.optimizer.param_groups
        before = [parameter.detach().clone() for parameter in self.model.parameters()]
        kept = [{key: value for key, value in group.items() if key != "params"} for group in groups]
        try:
            with suppress(EclabError):  # class coordinates that end here: then it is judged as it is
                switch()
            yield
        finally:
            with torch.no_grad():
                for parameter, old in zip(self.model.parameters(), before, strict=True):
                    parameter.copy_(old)
            for group, values in zip(groups, kept, strict=True):
                group.update(values)
