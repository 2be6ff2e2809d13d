"""A race at earlier moments: what undo and rewind go back to, kept in memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from eclab.race import checkpoint

if TYPE_CHECKING:
    from eclab.race.race import Race

MOST_MOMENTS = 24
MOST_BYTES = 256 * 2**20
"""What the moments of one race may hold in memory."""

SHARE = 0.02
"""Of the time, what taking moments may cost."""


class Moment:
    """All of a race at one step. Its records are not copied: a race only ever adds to them.

    Args:
        race: in between two steps.

    Attributes:
        position: the step.
        size: bytes it holds.
    """

    def __init__(self, race: Race) -> None:
        found = checkpoint.take(race)
        self.position = race.position
        self._records, self._count = race.records, len(race.records)
        # the start's weights never change, and the records are the race's own
        tensors = {
            name: value for name, value in found.tensors.items() if name != "records" and not name.startswith("start/")
        }
        self._snapshot = replace(found, tensors=tensors)
        self.size = sum(value.numel() * value.element_size() for value in tensors.values())
        self.running = all(lane.running for lane in race.lanes)

    def put(self, race: Race) -> None:
        """Bring the race back here."""
        start = {f"start/{name}": value for name, value in race.start_net.model.state_dict().items()}
        rows = torch.from_numpy(self._records.rows(0, self._count))
        full = replace(self._snapshot, tensors={**self._snapshot.tensors, **start, "records": rows})
        checkpoint.put(race, full, f"step {self.position:,}")


class Moments:
    """Moments of a race while it goes on, ever sparser towards the past, so that one can rewind.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kept: list[Moment] = []
        self._next = 0.0

    def pass_by(self, race: Race) -> None:
        """The race is between two steps: keep the moment if it is time to."""
        now = self._clock()
        if now < self._next or race.broken or (self._kept and self._kept[-1].position >= race.position):
            return
        moment = Moment(race)
        spent = self._clock() - now
        self._next = now + max(0.5, spent / SHARE)
        if 2 * moment.size > MOST_BYTES:
            # too large to keep several: rewinding then means starting anew
            self._next = float("inf")
            return
        self._kept.append(moment)
        self._thin(moment.size)

    def before(self, step: int) -> Moment | None:
        """The last moment before a step at which every lane still ran."""
        return next((one for one in reversed(self._kept) if one.position < step and one.running), None)

    def went_back(self, step: int) -> None:
        """What came after a step never happened."""
        self._kept = [one for one in self._kept if one.position <= step]

    def _thin(self, size: int) -> None:
        """Drop the moment that stands closest to its neighbours, measured by its age."""
        while len(self._kept) > 2 and (len(self._kept) > MOST_MOMENTS or len(self._kept) * size > MOST_BYTES):
            newest = self._kept[-1].position + 1
            gaps = [
                (self._kept[k + 1].position - self._kept[k - 1].position) / (newest - self._kept[k].position)
                for k in range(1, len(self._kept) - 1)
            ]
            del self._kept[1 + gaps.index(min(gaps))]
