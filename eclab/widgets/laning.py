"""Lanes that come and go in the lab: the others stay as they are, in their colours."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from eclab.errors import SettingError
from eclab.race import checkpoint
from eclab.race.lanes import MOST_LANES, LaneSpec, parse_lanes
from eclab.race.record import COLUMNS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from eclab.race.race import Race
    from eclab.widgets.bench import Setup

ADAPTIVE = ("adam", "rms")
ADAPTIVE_RATE = 0.003
"""The rate a lane gets whose steps are measured in weights and not in gradients; others get that of the first lane."""


def lanes_now(race: Race) -> tuple[LaneSpec, ...]:
    """The lanes with the settings they have now."""
    return tuple(replace(lane.spec, lr=lane.lr, weight_decay=lane.weight_decay) for lane in race.lanes)


def without_rates(lanes: str | Sequence[Any]) -> tuple[LaneSpec, ...]:
    """The same lanes, open for another rate."""
    return tuple(replace(lane, lr=None) for lane in parse_lanes(lanes))


def with_lane(setup: Setup, race: Race, kind: str, lr: float | None) -> Setup:
    """The setup with one lane more, at the end.

    Raises:
        SettingError: there are eight already, or no optimizer is called so.
    """
    if len(race.lanes) >= MOST_LANES:
        raise SettingError(f"the race has {MOST_LANES} lanes", allowed=f"at most {MOST_LANES}", fix="remove one first")
    rate = lr
    if rate is None:
        rate = ADAPTIVE_RATE if any(word in kind for word in ADAPTIVE) else race.lanes[0].lr
    new = {"optimizer": kind, "lr": rate, "label": _label(race, kind)}
    return setup.having(lanes=(*lanes_now(race), new), lr=rate)


def _label(race: Race, kind: str) -> str:
    """Its own, numbered where the label is taken."""
    plain, taken = parse_lanes([kind])[0].label, {lane.label for lane in race.lanes}
    return next(
        label for label in (plain, *(f"{plain} {number}" for number in range(2, MOST_LANES + 2))) if label not in taken
    )


def without_lane(setup: Setup, race: Race, name: str) -> Setup:
    """The setup without a lane.

    Raises:
        SettingError: there is no such lane, or no other.
    """
    gone = race.lane(name)
    if len(race.lanes) == 1:
        raise SettingError(f"{gone.label} is the only lane", fix="add another one first")
    left = tuple(lane for lane in lanes_now(race) if lane.name != gone.name)
    return setup.having(lanes=left, lr=left[0].lr)


def carry_over(old: Race, new: Race) -> None:
    """Let a race with other lanes go on where one stood: lanes of both keep all they have.

    A lane that only the new race has starts where the first lane stands, so the old one must be at its start then.
    """
    found = checkpoint.take(old)
    names = [lane.name for lane in old.lanes]
    origin = [names.index(lane.name) if lane.name in names else None for lane in new.lanes]
    kept = {lane.name for lane, place in zip(new.lanes, origin, strict=True) if place is not None}
    tensors = {name: value for name, value in found.tensors.items() if not name.startswith("lane/")}
    for number, place in enumerate(origin):
        tensors |= {
            f"lane/{number}/model/{key}": value for key, value in found.part(f"lane/{place or 0}/model/").items()
        }
        if place is not None:
            state = found.part(f"lane/{place}/optimizer/")
            tensors |= {f"lane/{number}/optimizer/{key}": value for key, value in state.items()}
    tensors["records"] = _records(tensors["records"], origin)
    config = found.numbers["config"]
    numbers = {
        **found.numbers,
        "config": {**config, "lanes": new.config.to_dict()["lanes"]},
        "lanes": [
            _fresh(new, number) if place is None else found.numbers["lanes"][place]
            for number, place in enumerate(origin)
        ],
        "events": [event for event in found.numbers["events"] if event["lane"] is None or event["lane"] in kept],
    }
    checkpoint.put(new, checkpoint.Snapshot(numbers, tensors), "the race before")
    for lane, place in zip(new.lanes, origin, strict=True):
        if place is None:
            lane.prepare()


def _fresh(new: Race, number: int) -> Mapping[str, Any]:
    """A lane that has not begun, in the form of a checkpoint."""
    form: Mapping[str, Any] = checkpoint.take(new).numbers["lanes"][number]
    return form


def _records(rows: torch.Tensor, origin: Sequence[int | None]) -> torch.Tensor:
    column = COLUMNS.index("lane")
    parts = rows[torch.isin(rows[:, column], torch.tensor([float(p) for p in origin if p is not None]).double())]
    new = parts.clone()
    for number, place in enumerate(origin):
        if place is not None:
            new[parts[:, column] == place, column] = float(number)
    return new
