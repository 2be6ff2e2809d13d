"""What was done, so that it can be undone and done again: one line of deeds for the whole lab."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace

MOST_DEEDS = 100
MOST_BYTES = 512 * 2**20
"""What deeds may hold in memory, all together; the oldest are forgotten first."""

MERGE_WITHIN = 2.0
"""Seconds in which deeds with one key count as one: a held key, or a slider moved twice."""


@dataclass(frozen=True)
class Deed:
    """Something done.

    Args:
        label: what, in words: "learning rate of SGD".
        undo, redo: take it back, and do it again. Each leaves everything as it was if it fails.
        size: bytes it keeps in memory.
        key: deeds that follow each other closely with the same key are one; None never is.
    """

    label: str
    undo: Callable[[], None]
    redo: Callable[[], None]
    size: int = 0
    key: Hashable = None


class Deeds:
    """Deeds in order, with a place among them.

    Args:
        clock: seconds, monotonic.

    Example:
        >>> seen = []
        >>> deeds = Deeds()
        >>> deeds.push(Deed("shout", lambda: seen.append("unshout"), lambda: seen.append("shout")))
        >>> deeds.undo().label, deeds.redo().label, seen
        ('shout', 'shout', ['unshout', 'shout'])
        >>> deeds.undoable, deeds.redoable
        ('shout', None)
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._deeds: list[Deed] = []
        self._at = 0
        self._pushed = 0.0

    @property
    def undoable(self) -> str | None:
        """What would be undone, in words; None for nothing."""
        return self._deeds[self._at - 1].label if self._at else None

    @property
    def redoable(self) -> str | None:
        """What would be done again, in words; None for nothing."""
        return self._deeds[self._at].label if self._at < len(self._deeds) else None

    def continues(self, key: Hashable) -> bool:
        """Whether the last deed has this key and was just now: then what comes next is a part of it."""
        close = self._clock() - self._pushed < MERGE_WITHIN and self._at == len(self._deeds) > 0
        if close and self._deeds[-1].key == key:
            self._pushed = self._clock()
            return True
        return False

    def push(self, deed: Deed) -> None:
        """Something was done; what was undone before is forgotten."""
        if deed.key is not None and self.continues(deed.key):
            self._deeds[-1] = replace(deed, undo=self._deeds[-1].undo)
        else:
            self._deeds[self._at :] = [deed]
            self._at = len(self._deeds)
        self._pushed = self._clock()
        self._forget()

    def undo(self) -> Deed:
        """Take the last deed back; there must be one."""
        deed = self._deeds[self._at - 1]
        deed.undo()
        self._at -= 1
        return deed

    def redo(self) -> Deed:
        """Do the deed that was undone last again; there must be one."""
        deed = self._deeds[self._at]
        deed.redo()
        self._at += 1
        return deed

    def _forget(self) -> None:
        while len(self._deeds) > 1 and (
            len(self._deeds) > MOST_DEEDS or sum(deed.size for deed in self._deeds) > MOST_BYTES
        ):
            del self._deeds[0]
            self._at -= 1
