"""The settings a race was started with, as plain data that go into checkpoints and runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from eclab.errors import CheckpointError
from eclab.race.kinds import kinds
from eclab.race.lanes import LaneSpec


def _tuples(value: Any) -> Any:
    """JSON knows lists only; an edge of a chart by hand is a tuple."""
    if isinstance(value, list):
        return tuple(map(_tuples, value))
    return {key: _tuples(one) for key, one in value.items()} if isinstance(value, dict) else value


@dataclass(frozen=True)
class Config:
    """Settings of a race; the names and units are those of `Race`."""

    lanes: tuple[LaneSpec, ...]
    epochs: int
    batch_size: int
    seed: int
    start: str
    unbalance: float
    momentum: float
    weight_decay: float
    eval_every: int | None
    dtype: str

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**asdict(self), "lanes": [asdict(lane) for lane in self.lanes]}

    @classmethod
    def from_dict(cls, form: Mapping[str, Any]) -> Config:
        """Back from plain data.

        Raises:
            CheckpointError: something is missing, unknown, or a lane this version cannot run.
        """
        try:
            lanes = tuple(LaneSpec(**{**lane, "options": _tuples(lane["options"])}) for lane in form["lanes"])
            config = cls(**{**form, "lanes": lanes})
        except (KeyError, TypeError) as error:
            raise CheckpointError(
                f"the race's settings cannot be read ({error})", fix="write the checkpoint again with this version"
            ) from error
        unknown = [lane.kind for lane in config.lanes if lane.kind not in kinds()]
        if unknown:
            raise CheckpointError(
                f"the checkpoint has the lane {', '.join(unknown)}, which this version does not know",
                allowed=", ".join(kinds()),
                fix="update eclab, or register the optimizer first",
            )
        return config
