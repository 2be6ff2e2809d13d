"""Rescaling in the lab: what a drag does to the lanes, always counted from the weights at the last training step."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from eclab.classes import apply_scales_, random_rescale_
from eclab.classes.group import numbered
from eclab.errors import ScaleError
from eclab.widgets.measure import Measure, measure

if TYPE_CHECKING:
    from eclab.race.record import Event
    from eclab.widgets.bench import Bench, LaneView

DRAG_ENDS = 3.0
"""Seconds without a word after which a drag counts as over: its page may be gone."""


@dataclass
class Base:
    """A lane before it was rescaled.

    Attributes:
        state: copies of its model's parameters and buffers.
        measure: what was measured on it then.
        totals: by layer, float64 ``[width]``: the factors since, all of them together.
        before_drag: the totals when the drag began.
    """

    state: dict[str, Tensor]
    measure: Measure
    totals: dict[str, Tensor] = field(default_factory=dict)
    before_drag: dict[str, Tensor] | None = None


@dataclass(frozen=True)
class Place:
    """Where all lanes stood in their classes at one time: what a rescaling is undone to.

    Attributes:
        age: how often a training step had made rescalings final by then.
        totals: by lane and layer, the factors since.
    """

    age: int
    totals: dict[str, dict[str, Tensor]]


class Scaling:
    """The rescalings since the last training step.

    Each is applied to the weights as they were at that step, with all factors multiplied up in float64, so that the
    rounding of a long drag never adds up, and undoing them gives back the same bits.

    Args:
        bench: whose lanes are rescaled.
    """

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._bases: dict[str, Base] = {}
        self._age = 0
        self._dragged = 0.0
        self._marks: dict[tuple[str, int | None, str], Event] = {}

    @property
    def dragging(self) -> bool:
        """Whether a drag is under way; the race waits for its end, three seconds without a word being one."""
        if time.monotonic() - self._dragged > DRAG_ENDS:
            self.end_drag()
        return any(base.before_drag is not None for base in self._bases.values())

    @property
    def moved(self) -> bool:
        """Whether a unit was rescaled since the last training step."""
        return any(base.totals for base in self._bases.values())

    def totals(self, lane: LaneView) -> dict[str, Tensor]:
        """The factors of a lane by layer, for the layers that have any."""
        base = self._bases.get(lane.name)
        return {} if base is None else base.totals

    def by_unit(self, lane: LaneView) -> Tensor | None:
        """The factors of a lane by unit, float64 ``[num_nodes]``; None where nothing was rescaled."""
        totals = self.totals(lane)
        return numbered(self._bench.net, totals)[self._bench.net.scale_of.cpu()] if totals else None

    def before(self, lane: LaneView) -> Base | None:
        """The lane before it was rescaled, if it was."""
        return self._bases.get(lane.name)

    def forget(self) -> None:
        """A training step was taken: from now on its weights are what rescalings start from."""
        self._age += 1
        self._bases.clear()
        self._marks.clear()

    def place(self) -> Place:
        """Where the lanes stand now."""
        return Place(self._age, {lane.name: dict(self.totals(lane)) for lane in self._bench.lanes})

    def move(self, here: Place, there: Place) -> None:
        """Rescale all running lanes by what leads from one place to another.

        As long as no training step came in between, that gives the same bits as were there then.
        """
        self.end_drag()
        lanes = [lane for lane in self._bench.running() if lane.name in there.totals]
        bases = {lane.name: self._base(lane) for lane in lanes}
        wanted = {
            name: there.totals[name]
            if there.age == self._age
            else _times(_times(base.totals, there.totals[name]), _inverse(here.totals[name]))
            for name, base in bases.items()
        }
        self._apply(lanes, wanted)
        for name, base in bases.items():
            base.totals = wanted[name]
        self._marks.clear()

    def take_over(self, old: Scaling) -> None:
        """The rescalings of another bench whose lanes stand here with the same weights; new lanes have the first's."""
        first = next(iter(old._bases.values()), None)
        for lane in self._bench.lanes if first is not None else ():
            known = any(lane.name == one.name for one in old._bench.lanes)
            base = old._bases.get(lane.name) if known else first
            if base is not None:
                state = {name: value.clone() for name, value in base.state.items()}
                self._bases[lane.name] = Base(state, base.measure, dict(base.totals))

    def end_drag(self) -> None:
        """What was dragged stays where it is."""
        for base in self._bases.values():
            base.before_drag = None

    def drag(self, layer: str, unit: int | None, c: float, lanes: Sequence[LaneView], *, commit: bool) -> None:
        """Rescale a unit, or every free unit of a layer, to ``c`` times its scale when the drag began.

        Args:
            layer: the layer's name.
            unit: the unit's index, or None for the whole layer.
            c: positive and finite.
            lanes: whose networks.
            commit: whether the drag is over.

        Raises:
            ScaleError: ``c`` is out of range, or the unit cannot be rescaled. Nothing is changed.
        """
        factors = self._by_layer(self._factors(layer, unit, c))
        bases = {lane.name: self._base(lane) for lane in lanes}
        wanted = {}
        for name, base in bases.items():
            start = base.totals if base.before_drag is None else base.before_drag
            wanted[name] = _times(start, factors)
        self._apply(lanes, wanted)
        for name, base in bases.items():
            if base.before_drag is None:
                base.before_drag = base.totals
            base.totals = wanted[name]
        self._dragged = time.monotonic()
        if commit:
            self.end_drag()
            self._mark(layer, unit, lanes)

    def unbalance(self, sigma: float) -> None:
        """Rescale every free unit of all lanes by the same random log-normal factors."""
        self.end_drag()
        lanes = self._bench.running()
        bases = {lane.name: self._base(lane) for lane in lanes}
        race = self._bench.race
        used = random_rescale_(self._bench.net, sigma=sigma) if race is None else race.unbalance(sigma)
        wanted = {name: _times(base.totals, used) for name, base in bases.items()}
        if any(base.totals for base in bases.values()):
            # from the base in one step, so that each weight is rounded once
            self._apply(lanes, wanted)
        for name, base in bases.items():
            base.totals = wanted[name]

    def undo(self) -> None:
        """Take back all rescalings since the last training step."""
        for lane in self._bench.lanes:
            base = self._bases.get(lane.name)
            if base is not None:
                lane.net.model.load_state_dict(base.state)
        race = self._bench.race
        if race is not None:
            race.events[:] = [e for e in race.events if not (e.kind == "rescale" and e.step == race.position)]
        self.forget()

    def _factors(self, layer: str, unit: int | None, c: float) -> Tensor:
        """Factors by number of the free scale, float64 ``[H + 1]``."""
        net, picture = self._bench.net, self._bench.picture
        if not (math.isfinite(c) and c > 0):
            raise ScaleError(f"the scale is {c:g}", allowed="a finite number > 0", fix="a scale such as 10")
        found = picture.layer(picture.number(layer))
        units = found.units.cpu() if unit is None else torch.tensor([picture.unit(picture.number(layer), unit)])
        scales = net.scale_of.cpu()[units]
        if not bool((scales > 0).any()):
            stuck = net.unit(int(units[0]))
            what = f"no unit of layer {layer!r}" if unit is None else f"unit {unit} of layer {layer!r}"
            raise ScaleError(f"{what} cannot be rescaled: {stuck.reason}", fix="choose a hidden unit that is free")
        factors = torch.ones(net.num_units + 1, dtype=torch.float64)
        factors[scales[scales > 0]] = c
        return factors

    def _by_layer(self, factors: Tensor) -> dict[str, Tensor]:
        """The same by layer, as the core takes them; units that an addition ties are all moved together."""
        net = self._bench.net
        found = {layer.name: factors[net.scale_of.cpu()[layer.units.cpu()]] for layer in net.layers}
        return {name: values for name, values in found.items() if bool((values != 1).any())}

    def _base(self, lane: LaneView) -> Base:
        if lane.name not in self._bases:
            state = {name: value.detach().clone() for name, value in lane.net.model.state_dict().items()}
            self._bases[lane.name] = Base(state, measure(lane, self._bench.x, self._bench.y))
        return self._bases[lane.name]

    def _apply(self, lanes: Sequence[LaneView], wanted: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Writes the weights; where the core refuses, they are as they were before."""
        now = {lane.name: _copy(lane) for lane in lanes}
        try:
            for lane in lanes:
                lane.net.model.load_state_dict(self._bases[lane.name].state)
                self._rescale(lane, wanted[lane.name])
        except BaseException:
            for lane in lanes:
                lane.net.model.load_state_dict(now[lane.name])
            raise

    def _rescale(self, lane: LaneView, scales: Mapping[str, Tensor]) -> None:
        race = self._bench.race
        if race is not None:
            race.rescale(scales, note="", lanes=[lane.name])
            return
        apply_scales_(lane.net, dict(scales))

    def _mark(self, layer: str, unit: int | None, lanes: Sequence[LaneView]) -> None:
        """One mark on the charts for all drags of a unit between two steps."""
        race = self._bench.race
        if race is None:
            return
        one = lanes[0].name if len(lanes) == 1 < len(self._bench.lanes) else None
        key = (layer, unit, one or "")
        old = self._marks.pop(key, None)
        if old is not None and old in race.events:
            race.events.remove(old)
        picture, factors = self._bench.picture, self.by_unit(lanes[0])
        number = int(picture.layer(picture.number(layer)).units[unit or 0])
        total = 1.0 if factors is None else float(factors[number])
        what = picture.unit_label(picture.number(layer), unit)
        race.note("rescale", f"rescaled {what}" + ("" if unit is None else f" × {total:.3g}"), one)
        self._marks[key] = race.events[-1]


def _times(totals: Mapping[str, Tensor], factors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Scales by layer, multiplied in float64."""
    more = {name: values.double().cpu() for name, values in factors.items()}
    return {**totals, **{name: values * totals.get(name, torch.ones_like(values)) for name, values in more.items()}}


def _inverse(totals: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: 1 / values for name, values in totals.items()}


def _copy(lane: LaneView) -> dict[str, Any]:
    return {name: value.detach().clone() for name, value in lane.net.model.state_dict().items()}
