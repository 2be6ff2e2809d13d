"""The parameters of a notebook: their types and ranges, checked in the cell behind the one that sets them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from eclab.errors import SettingError


class Kind(ABC):
    """What a parameter may be."""

    @property
    @abstractmethod
    def allowed(self) -> str:
        """What is accepted, in words."""

    @abstractmethod
    def holds(self, value: object) -> bool:
        """Whether the value is accepted."""


@dataclass(frozen=True)
class Whole(Kind):
    """A whole number from `least` to `most`, both included; True and False are none.

    Example:
        >>> Whole(1, 8).holds(8), Whole(1, 8).holds(0), Whole(1, 8).holds(2.0), Whole(0, 1).holds(True)
        (True, False, False, False)
    """

    least: int
    most: int

    @property
    def allowed(self) -> str:
        return f"a whole number from {self.least:,} to {self.most:,}"

    def holds(self, value: object) -> bool:
        number = _number(value)
        return isinstance(value, Integral) and number is not None and self.least <= number <= self.most


@dataclass(frozen=True)
class Range(Kind):
    """A finite number between two bounds.

    Args:
        low, high: the bounds.
        open_left, open_right: whether that bound itself is left out.

    Example:
        >>> positive = Range(0, 10, open_left=True)
        >>> positive.holds(0.1), positive.holds(0), positive.holds("0.1"), positive.holds(float("nan"))
        (True, False, False, False)
    """

    low: float
    high: float
    open_left: bool = False
    open_right: bool = False

    @property
    def allowed(self) -> str:
        without = [f"{bound:g}" for bound, left in ((self.low, self.open_left), (self.high, self.open_right)) if left]
        return f"a number from {self.low:g} to {self.high:g}" + (f", without {' and '.join(without)}" * bool(without))

    def holds(self, value: object) -> bool:
        number = _number(value)
        if number is None or not math.isfinite(number):
            return False
        above = self.low < number if self.open_left else self.low <= number
        return above and (number < self.high if self.open_right else number <= self.high)


@dataclass(frozen=True, init=False)
class Choice(Kind):
    """One of the values listed, and of that value's type.

    Example:
        >>> Choice("digits", "circle").holds("digits"), Choice(True, False).holds(1)
        (True, False)
    """

    values: tuple[object, ...]

    def __init__(self, *values: object) -> None:
        object.__setattr__(self, "values", values)

    @property
    def allowed(self) -> str:
        return " or ".join(filter(None, [", ".join(map(repr, self.values[:-1])), *map(repr, self.values[-1:])]))

    def holds(self, value: object) -> bool:
        return any(type(value) is type(one) and value == one for one in self.values)


@dataclass(frozen=True)
class Text(Kind):
    """A text that is not blank; what it means is for its reader to check.

    Args:
        meaning: what the text is, for the message.

    Example:
        >>> Text("a network such as '64-32-10'").holds("64-32-10"), Text().holds(" ")
        (True, False)
    """

    meaning: str = "a text"

    @property
    def allowed(self) -> str:
        return self.meaning

    def holds(self, value: object) -> bool:
        return isinstance(value, str) and bool(value.strip())


@dataclass(frozen=True)
class Several(Kind):
    """A list (or tuple) of values that are all of one kind.

    Args:
        kind: what each may be.
        least, most: how many there may be.

    Example:
        >>> rates = Several(Range(0, 10, open_left=True), 1, 4)
        >>> rates.holds([0.1, 1]), rates.holds([]), rates.holds(0.1), rates.holds([0.1, -1])
        (True, False, False, False)
    """

    kind: Kind
    least: int
    most: int

    @property
    def allowed(self) -> str:
        return f"a list of {self.least} to {self.most}, each {self.kind.allowed}"

    def holds(self, value: object) -> bool:
        if not isinstance(value, list | tuple):
            return False
        return self.least <= len(value) <= self.most and all(map(self.kind.holds, value))


def parameters(values: Mapping[str, Any], **kinds: Kind) -> None:
    """Checks a notebook's parameters; the cell behind the one tagged "parameters" calls it.

    Args:
        values: the notebook's variables, ``globals()``.
        kinds: what each parameter may be.

    Raises:
        SettingError: a parameter is missing, of another type or out of range; all of them in one message.

    Example:
        >>> from eclab.notebook import Choice, Range, Whole
        >>> lr, width, data = 0.1, 8, "digits"
        >>> parameters(globals(), lr=Range(0, 10, open_left=True), width=Whole(1, 512), data=Choice("digits", "circle"))
        >>> parameters({"lr": -1}, lr=Range(0, 10))
        Traceback (most recent call last):
        eclab.errors.SettingError: the parameter lr is -1. Allowed: lr: a number from 0 to 10. ...
    """
    missing = [name for name in kinds if name not in values]
    wrong = [name for name, kind in kinds.items() if name in values and not kind.holds(values[name])]
    if not missing and not wrong:
        return
    seen = [f"the parameter {name} is {_shown(values[name])}" for name in wrong]
    seen += [f"the parameter {name} is missing" for name in missing]
    raise SettingError(
        "; ".join(seen),
        allowed="; ".join(f"{name}: {kind.allowed}" for name, kind in kinds.items() if name in (*wrong, *missing)),
        fix="set it in the cell tagged parameters, or pass another value to eclab.notebook.run",
    )


def _number(value: object) -> int | float | None:
    """The value as Python's own number, or None; True and False are switches, not numbers."""
    if isinstance(value, bool):
        return None
    if isinstance(value, Integral):
        return int(value)
    return float(value) if isinstance(value, Real) else None


def _shown(value: object) -> str:
    """The value as it would be typed, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
