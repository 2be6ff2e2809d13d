"""A page's command is checked before anything runs."""

from __future__ import annotations

import contextlib
import inspect
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eclab.errors import SettingError
from eclab.widgets.commands import COMMANDS, parse
from eclab.widgets.handlers import Handlers


@pytest.mark.parametrize("command", COMMANDS.values(), ids=lambda command: command.name)
def test_every_command_has_a_handler_that_takes_its_arguments(command: Any):
    parameters = inspect.signature(getattr(Handlers, command.name)).parameters
    names = {argument.name for argument in command.arguments}
    taken = {name for name, parameter in parameters.items() if parameter.kind is parameter.POSITIONAL_OR_KEYWORD}
    rest = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    assert taken - {"self"} <= names
    assert rest or names <= taken


def test_every_handler_is_a_command():
    assert {name for name in vars(Handlers) if not name.startswith("_")} == set(COMMANDS)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, "no command None"),
        ({"cmd": 3}, "no command 3"),
        ({"cmd": "plai"}, "did you mean 'play'"),
        ({"cmd": "lr"}, "'lr' came without 'value'.*a finite number"),
        ({"cmd": "lr", "value": "0.1"}, "'value' of 'lr' is '0.1'.*a finite number"),
        ({"cmd": "lr", "value": True}, "is True"),
        ({"cmd": "lr", "value": math.nan}, "is nan"),
        ({"cmd": "lr", "value": math.inf}, "is inf"),
        ({"cmd": "lr", "value": None}, "is None"),
        ({"cmd": "lr", "lane": 3, "value": 0.1}, "'lane' of 'lr' is 3.*a text or null"),
        ({"cmd": "batch", "value": 2.5}, "a whole number"),
        ({"cmd": "start", "start": "zero"}, '"skeleton", "model"'),
        ({"cmd": "map", "on": 1}, "true or false"),
        ({"cmd": "inspect", "kind": "edge", "index": [1, "2"]}, "a list of whole numbers or null"),
        ({"cmd": "window", "layer": 0, "start": 0}, "without 'count'"),
    ],
)
def test_what_does_not_fit_is_one_clear_error(content: dict[str, Any], words: str):
    with pytest.raises(SettingError, match=words):
        parse(content)


def test_defaults_are_filled_in_and_unknown_keys_ignored():
    command, arguments = parse({"cmd": "rescale", "id": "1:2", "layer": "0", "c": 3, "index": 1})
    assert command.where == "classes"
    assert arguments == {"layer": "0", "unit": None, "c": 3.0, "commit": True, "lanes": "all"}
    assert isinstance(arguments["c"], float)


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists)


@given(st.sampled_from(sorted(COMMANDS)), st.dictionaries(st.sampled_from(["layer", "value", "c", "k", "lane"]), JSON))
def test_no_message_does_anything_but_pass_or_raise(name: str, arguments: dict[str, Any]):
    with contextlib.suppress(SettingError):
        parse({"cmd": name, **arguments})
