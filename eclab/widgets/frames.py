"""How often the lab may send: at most ten messages a second, and none to a page that is behind."""

from __future__ import annotations

import time
from collections.abc import Callable

INTERVAL = 0.105
"""Seconds between two frames; a little over a tenth, so that no second holds more than ten."""

IN_FLIGHT = 2
"""Frames that may be under way without an answer from the page."""

PATIENCE = 5.0
"""Seconds after which an unanswered frame counts as lost: a page that went away costs one frame in that time."""


class FrameGate:
    """Decides whether a frame may leave now. Closed until a page says hello; what it drops is simply not built.

    With several pages the fastest sets the pace: every page sees the same messages.

    Args:
        clock: seconds, monotonic.

    Example:
        >>> now = [0.0]
        >>> gate = FrameGate(clock=lambda: now[0])
        >>> gate.ready()
        False
        >>> gate.open()
        >>> gate.ready(), gate.take(), gate.ready()
        (True, 1, False)
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._opened = False
        self._sent = 0
        self._answered = 0
        self._last = -INTERVAL

    @property
    def opened(self) -> bool:
        """Whether a page has said hello."""
        return self._opened

    def open(self) -> None:
        """A page is there and has everything sent so far, or is about to get it."""
        self._opened = True
        self._answered = self._sent

    def acknowledge(self, number: int) -> None:
        """A page has drawn frame ``number``; numbers never sent are ignored."""
        if self._answered < number <= self._sent:
            self._answered = number

    def wait(self) -> float | None:
        """Seconds until the next frame may leave; None while no page is there."""
        if not self._opened:
            return None
        behind = self._sent - self._answered >= IN_FLIGHT
        pause = PATIENCE if behind else INTERVAL
        return max(0.0, self._last + pause - self._clock())

    def ready(self) -> bool:
        """Whether a frame may leave now."""
        return self.wait() == 0.0

    def spend(self) -> None:
        """Something else than a frame was sent now and takes its place."""
        self._last = self._clock()

    def take(self) -> int:
        """Count a frame as sent now; returns its number, from 1."""
        self._sent += 1
        self._last = self._clock()
        return self._sent
