"""Undo and redo: the values something had, in order."""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class History(Generic[T]):
    """The values of something, with a place in them.

    Args:
        first: the value to start from.
        limit: how many values are kept; the oldest are forgotten.

    Example:
        >>> history = History("2-2")
        >>> history.push("2-3-2")
        >>> history.undo(), history.can_redo, history.redo()
        ('2-2', True, '2-3-2')
    """

    def __init__(self, first: T, limit: int = 100) -> None:
        self._values = [first]
        self._at = 0
        self._limit = limit

    @property
    def value(self) -> T:
        """The value now."""
        return self._values[self._at]

    @property
    def can_undo(self) -> bool:
        """Whether there is an earlier value."""
        return self._at > 0

    @property
    def can_redo(self) -> bool:
        """Whether there is a later value."""
        return self._at + 1 < len(self._values)

    def push(self, value: T) -> None:
        """Go on to a new value; what was undone before is forgotten."""
        self._values[self._at + 1 :] = [value]
        del self._values[: -self._limit]
        self._at = len(self._values) - 1

    def replace(self, value: T) -> None:
        """Another value in the present one's place."""
        self._values[self._at] = value

    def undo(self) -> T:
        """Go to the value before and return it; the first stays where it is."""
        self._at = max(0, self._at - 1)
        return self.value

    def redo(self) -> T:
        """Go to the value after and return it; the last stays where it is."""
        self._at = min(len(self._values) - 1, self._at + 1)
        return self.value
