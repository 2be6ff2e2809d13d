"""What stands in the lab: a network, its data, a race over them, and the settings all of it was made with."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from eclab.errors import SettingError
from eclab.widgets.moments import Moments
from eclab.widgets.picture import Picture
from eclab.widgets.scaling import Scaling

if TYPE_CHECKING:
    from eclab.data import Dataset
    from eclab.facade import Network
    from eclab.network.spec import NetworkSpec
    from eclab.paths.chart import Chart
    from eclab.race.lanes import Lane
    from eclab.race.race import Race

BATCH = 64

PROBE = 64
"""Samples on which the lab measures outputs and gradients."""


@dataclass(frozen=True)
class Settings:
    """How races are made in this lab; names and units are those of :class:`eclab.Race`.

    Without a batch size it is 64, or all samples where there are fewer.
    """

    lanes: str | Sequence[Any] = ("sgd", "ec-sgd")
    lr: float | Mapping[str, float] = 0.1
    epochs: int = 100
    batch_size: int | None = None
    seed: int = 0
    device: str | torch.device = "auto"
    start: str = "skeleton"
    unbalance: float = 0.0
    momentum: float = 0.0
    weight_decay: float = 0.0
    eval_every: int | None = None
    dtype: torch.dtype = torch.float32

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The settings there are."""
        return tuple(setting.name for setting in fields(cls))

    def race_arguments(self, samples: int) -> dict[str, Any]:
        """As keyword arguments of a race on so many training samples."""
        found = {setting.name: getattr(self, setting.name) for setting in fields(self)}
        return {**found, "batch_size": min(BATCH, samples) if self.batch_size is None else self.batch_size}


@dataclass(frozen=True, eq=False)
class Setup:
    """One thing the lab can show; undo goes from one to another.

    Args:
        spec: the network's specification, or None for a model of one's own.
        model: a model of one's own, never changed.
        data: the data; None for a model without labels.
        x: inputs for a model without labels.
        settings: of its race.
    """

    spec: NetworkSpec | None
    model: nn.Module | None
    data: Dataset | None
    x: Tensor | None
    settings: Settings

    def having(self, **changes: Any) -> Setup:
        """The same with other settings."""
        return replace(self, settings=replace(self.settings, **changes))


@dataclass(eq=False)
class LaneView:
    """A lane as the lab looks at it; without a race, the network alone.

    Attributes:
        name, label, colour: as the page shows them.
        net: its network.
    """

    name: str
    label: str
    colour: int
    net: Network
    _lane: Lane | None = field(default=None, repr=False)

    @property
    def chart(self) -> Chart:
        """The chart that its skeleton and coordinates are of: its optimizer's, which may re-base, else the diagonal."""
        own: Chart | None = None if self._lane is None else getattr(self._lane.optimizer, "chart", None)
        return self._diagonal if own is None else own

    @cached_property
    def _diagonal(self) -> Chart:
        return self.net.chart("diagonal")

    @property
    def state(self) -> str:
        """ "running" or "diverged"; "still" without a race."""
        return "still" if self._lane is None else self._lane.state

    @property
    def verdict(self) -> str:
        """Why it diverged, else empty."""
        return "" if self._lane is None else self._lane.verdict

    @property
    def lr(self) -> float | None:
        """Its learning rate now."""
        return None if self._lane is None else self._lane.lr

    @property
    def guarded(self) -> int:
        """Moves its guard has shortened."""
        return 0 if self._lane is None else self._lane.guarded

    @property
    def rebased(self) -> int:
        """Units that got another skeleton edge, because theirs had become weak against its siblings."""
        return 0 if self._lane is None else int(getattr(self._lane.optimizer, "rebased_units", 0))


class Bench:
    """A setup, built.

    Args:
        setup: what to build.

    Attributes:
        race: the race; None for a model without labels.
        lanes: what can be looked at, at least one.
        picture: the drawing all lanes share.
        scaling: the rescalings since the last training step.
        moments: earlier moments of the race, to rewind to.
        x, y: a few samples on which outputs and gradients are measured; y is None without labels.
    """

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.race: Race | None = None
        self.y: Tensor | None = None
        if setup.data is None:
            self.x, net = _look_only(setup)
            self.lanes = [LaneView("model", type(net.model).__name__, 0, net)]
        else:
            from eclab.race.race import Race

            source: Any = setup.spec if setup.model is None else setup.model
            self.race = Race(source, setup.data, **setup.settings.race_arguments(len(setup.data.x_train)))
            self.x, self.y = self.race.task.x[:PROBE], self.race.task.y[:PROBE]
            self.lanes = [LaneView(lane.name, lane.label, lane.colour, lane.net, lane) for lane in self.race.lanes]
        self.picture = Picture(self.lanes[0].net, numbered=setup.model is None)
        self.scaling = Scaling(self)
        self.moments = Moments()

    @property
    def net(self) -> Network:
        """The network of the first lane; its structure is that of all."""
        return self.lanes[0].net

    def lane(self, name: str | None) -> LaneView:
        """The lane of that name; the first with None."""
        for lane in self.lanes:
            if name is None or name == lane.name:
                return lane
        raise SettingError(f"there is no lane {name!r}", allowed=", ".join(lane.name for lane in self.lanes))

    def running(self, name: str | None = None) -> list[LaneView]:
        """The lanes that have not diverged, or the one of that name."""
        if name is not None:
            return [self.lane(name)]
        return [lane for lane in self.lanes if lane.state != "diverged"]

    def need_race(self) -> Race:
        """The race, or an error that says how to get one."""
        if self.race is None:
            raise SettingError(
                "there are no labels, so there is nothing to train on",
                fix="pass labels too: eclab.Lab(model, x, y)",
            )
        return self.race

    @property
    def size(self) -> int:
        """Bytes it holds, roughly: weights, gradients and one buffer of each lane."""
        return 12 * self.net.num_weights * (len(self.lanes) + 1)

    @property
    def device(self) -> str:
        """Where it runs, in words."""
        device = self.x.device
        if device.type == "cuda":
            return torch.cuda.get_device_name(device)
        return f"CPU · {torch.get_num_threads()}" if device.type == "cpu" else str(device)


def _look_only(setup: Setup) -> tuple[Tensor, Network]:
    from eclab.facade import trace
    from eclab.race import settings

    if setup.model is None or setup.x is None:
        raise SettingError("a model came without inputs", fix="pass a few samples: eclab.Lab(model, x)")
    device = settings.device(setup.settings.device)
    dtype = setup.settings.dtype
    x = setup.x[:PROBE].to(device=device, dtype=dtype)
    model = copy.deepcopy(setup.model).to(device=device, dtype=dtype)
    try:
        with torch.no_grad():
            model(x[:2])
    except Exception as problem:  # noqa: BLE001 - a model may raise anything
        shape = "×".join(map(str, x.shape[1:]))
        raise SettingError(
            f"the model cannot take samples of {shape} ({str(problem).splitlines()[0]})",
            fix="pass x as the model would get it, [samples, ...]",
        ) from None
    return x, trace(model, x)
