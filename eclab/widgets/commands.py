"""The commands a page may send: their arguments, checked before anything runs."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from eclab.errors import SettingError


class _Required:
    """Marks an argument without a default."""


REQUIRED: Final = _Required()

_KINDS: Final[dict[str, str]] = {
    "text": "a text",
    "whole": "a whole number",
    "number": "a finite number",
    "flag": "true or false",
    "list": "a list of whole numbers",
    "any": "a value",
}


@dataclass(frozen=True)
class Argument:
    """One argument of a command.

    Args:
        name: its key in the message.
        kind: "text", "whole", "number", "flag", "list" or "any".
        default: its value when absent; ``REQUIRED`` for none. None also allows null.
        choices: the texts allowed; empty for any.
    """

    name: str
    kind: str
    default: Any = REQUIRED
    choices: tuple[str, ...] = ()

    def read(self, command: str, content: Mapping[str, Any]) -> Any:
        """The value in ``content``, or a :class:`SettingError` that says what is allowed."""
        if self.name not in content or (content[self.name] is None and self.default is None):
            if isinstance(self.default, _Required):
                raise SettingError(f"'{command}' came without '{self.name}'", allowed=self.allowed)
            return self.default
        value = content[self.name]
        if not self._fits(value):
            raise SettingError(f"'{self.name}' of '{command}' is {value!r}", allowed=self.allowed)
        return float(value) if self.kind == "number" else value

    @property
    def allowed(self) -> str:
        """What it accepts, in words."""
        if self.choices:
            return ", ".join(f'"{choice}"' for choice in self.choices)
        return _KINDS[self.kind] + (" or null" if self.default is None else "")

    def _fits(self, value: Any) -> bool:
        if self.kind == "text":
            return isinstance(value, str) and (not self.choices or value in self.choices)
        if self.kind == "flag":
            return isinstance(value, bool)
        if self.kind == "any":
            return True
        if self.kind == "list":
            return isinstance(value, list) and all(type(item) is int for item in value)
        whole = type(value) is int
        return whole if self.kind == "whole" else whole or (isinstance(value, float) and math.isfinite(value))


@dataclass(frozen=True)
class Command:
    """A command of the page.

    Args:
        name: its name; the session's method is ``do_<name>``.
        where: the part of the page that shows its errors.
        arguments: what it takes.
    """

    name: str
    where: str
    arguments: tuple[Argument, ...] = ()


def _table(*commands: Command) -> dict[str, Command]:
    return {command.name: command for command in commands}


_LANE = Argument("lane", "text", None)
_LAYER = Argument("layer", "whole")
_MAYBE_LAYER = Argument("layer", "whole", None)

COMMANDS: Final = _table(
    Command("hello", "stage"),
    Command("history", "timeline"),
    Command("vega", "timeline"),
    Command("spec", "build", (Argument("spec", "text"),)),
    Command("undo", "build"),
    Command("redo", "build"),
    Command(
        "edit",
        "build",
        (
            Argument("op", "text", choices=("add", "remove", "widen", "activation", "bias")),
            Argument("spec_index", "whole", None),
            Argument("spec_after", "whole", None),
            Argument("width", "whole", None),
            Argument("kind", "text", "linear", ("linear", "conv2d")),
            Argument("value", "any", None),
        ),
    ),
    Command("preset", "build", (Argument("name", "text"),)),
    Command("data", "build", (Argument("name", "text"),)),
    Command("start", "race", (Argument("start", "text", choices=("skeleton", "model")),)),
    Command("play", "timeline"),
    Command("pause", "timeline"),
    Command("step", "timeline"),
    Command("stop", "timeline"),
    Command("reset", "timeline"),
    Command("rewind", "timeline", (Argument("step", "whole", None), Argument("factor", "number", 1.0))),
    Command("lane_add", "timeline", (Argument("kind", "text"), Argument("lr", "number", None))),
    Command("lane_remove", "timeline", (Argument("lane", "text"),)),
    Command("lr", "lr", (_LANE, Argument("value", "number"))),
    Command("batch", "batch", (Argument("value", "whole"),)),
    Command("epochs", "epochs", (Argument("value", "whole"),)),
    Command("decay", "decay", (Argument("value", "number"),)),
    Command("view", "stage", (Argument("lane", "text"),)),
    Command("window", "stage", (_LAYER, Argument("start", "whole"), Argument("count", "whole"))),
    Command(
        "rescale",
        "classes",
        (
            Argument("layer", "text"),
            Argument("unit", "whole", None),
            Argument("c", "number"),
            Argument("commit", "flag", True),
            Argument("lanes", "text", "all", ("all", "one")),
        ),
    ),
    Command("unbalance", "classes", (Argument("sigma", "number"),)),
    Command("unscale", "classes"),
    Command("same", "classes", (Argument("a", "text", None), Argument("b", "text", None))),
    Command(
        "inspect",
        "inspector",
        (
            Argument("kind", "text", choices=("unit", "edge", "layer", "lane")),
            _MAYBE_LAYER,
            Argument("unit", "whole", None),
            Argument("link", "whole", None),
            Argument("tail", "whole", None),
            Argument("head", "whole", None),
            Argument("parameter", "text", None),
            Argument("index", "list", None),
            _LANE,
        ),
    ),
    Command("paths", "paths", (Argument("k", "whole", 10), Argument("active", "flag", False))),
    Command("map", "race", (Argument("on", "flag"),)),
    Command("save", "build"),
)
"""Every command, by name."""


def parse(content: Mapping[str, Any]) -> tuple[Command, dict[str, Any]]:
    """The command in a page's message, and its arguments checked.

    Args:
        content: the message, ``{"cmd": name, ...}``; keys the command does not know are ignored, since pages of
            several versions may be open.

    Raises:
        SettingError: there is no such command, or an argument is missing or does not fit.

    Example:
        >>> parse({"cmd": "lr", "lane": None, "value": 1})[1]
        {'lane': None, 'value': 1.0}
    """
    name = content.get("cmd")
    if not isinstance(name, str) or name not in COMMANDS:
        raise SettingError(f"the lab has no command {name!r}", allowed=", ".join(COMMANDS), fix=did_you_mean(name))
    command = COMMANDS[name]
    return command, {argument.name: argument.read(name, content) for argument in command.arguments}


def did_you_mean(name: object, known: tuple[str, ...] = tuple(COMMANDS)) -> str | None:
    """``did you mean 'epochs'?`` where a known name is close, else None."""
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else None
