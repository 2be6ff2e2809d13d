"""Numbers that a notebook leaves behind, under names, to be read and compared by tests and by other programs."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from eclab.errors import SettingError

MIME_TYPE = "application/vnd.eclab.record+json"
"""The type under which a record lies among a cell's outputs."""

_SCHEMA = 1
_EXACT = 2**53  # beyond it a page that reads and saves the notebook again would round the number
_TYPES = {"bool": bool, "int": int, "float": float, "str": str}

Plain = bool | int | float | str


def record(name: str, value: Plain) -> None:
    """Shows a number and leaves it in the notebook for :func:`recorded`.

    In a notebook it becomes an output of the cell, of eclab's own MIME type and as text; elsewhere a line of text.

    Args:
        name: what it is, once a notebook.
        value: a number (any size, NaN and infinities too), True, False or a text.

    Raises:
        SettingError: the name is blank, or the value is none of these.

    Example:
        >>> record("class_dim", 14)
        class_dim = 14
    """
    if not str(name).strip():
        raise SettingError(f"the name of the record is {name!r}", allowed="a text that is not blank")
    plain = _plain(name, value)
    text = f"{name} = {plain:,}" if type(plain) is int else f"{name} = {plain!r}"
    shell = _shell()
    if shell is None:
        sys.stdout.write(f"{text}\n")
        return
    content = {"schema": _SCHEMA, "name": name, "type": type(plain).__name__, "value": _json_value(plain)}
    shell.display_pub.publish({MIME_TYPE: content, "text/plain": text})


def recorded(notebook: str | Path | Mapping[str, Any]) -> dict[str, Plain]:
    """What the cells of a notebook recorded.

    Args:
        notebook: path of an .ipynb file, or a notebook as nbformat or papermill return it.

    Returns:
        The values by name, in the order of the cells.

    Raises:
        SettingError: no such file, no notebook, a record of a newer eclab, or a name recorded twice.

    Example:
        >>> content = {"schema": 1, "name": "m", "type": "int", "value": 17}
        >>> cell = {"cell_type": "code", "outputs": [{"output_type": "display_data", "data": {MIME_TYPE: content}}]}
        >>> recorded({"cells": [cell]})
        {'m': 17}
    """
    found: dict[str, Plain] = {}
    for cell in cells_of(notebook):
        for output in cell.get("outputs", ()):
            content = output.get("data", {}).get(MIME_TYPE)
            if content is None:
                continue
            name, value = _read(content)
            if name in found:
                raise SettingError(
                    f"{name!r} is recorded twice", allowed="one record a name", fix="give the second one its own name"
                )
            found[name] = value
    return found


def _plain(name: str, value: object) -> Plain:
    """The value as one of the four types that JSON can carry."""
    if isinstance(value, bool | str):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    raise SettingError(
        f"the value of the record {name!r} is of type {type(value).__name__}",
        allowed="a number, True, False or a text",
        fix="take the number out first, tensor.item() for one",
    )


def _json_value(value: Plain) -> Plain:
    """JSON has no NaN and no infinities, and its readers keep whole numbers exact only up to 2⁵³."""
    if type(value) is int and abs(value) > _EXACT:
        return str(value)
    if type(value) is float and not math.isfinite(value):
        return str(value)
    return value


def _shell() -> Any:
    """The running IPython, or None; it is never imported for this."""
    loaded = sys.modules.get("IPython")
    return None if loaded is None else loaded.get_ipython()


def cells_of(notebook: str | Path | Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The cells of a notebook of format 4.

    Raises:
        SettingError: there is no such file, or it is no such notebook.
    """
    content: Any = notebook if isinstance(notebook, Mapping) else _content(notebook)
    cells = content.get("cells") if isinstance(content, Mapping) and content.get("nbformat", 4) == 4 else None
    if not isinstance(cells, list) or not all(isinstance(cell, Mapping) for cell in cells):
        named = "it" if isinstance(notebook, Mapping) else str(notebook)
        raise SettingError(f"{named} is no notebook", allowed="a notebook of format 4, an .ipynb file")
    return cells


def _content(path: str | Path) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingError(f"the notebook {path} cannot be read ({error})", allowed="an .ipynb file") from error


def _read(content: Any) -> tuple[str, Plain]:
    try:
        if content["schema"] > _SCHEMA:
            raise SettingError(
                f"the record {content.get('name')!r} has schema {content['schema']}",
                allowed=f"schema {_SCHEMA}",
                fix="read it with the newer eclab that wrote it",
            )
        return str(content["name"]), _TYPES[content["type"]](content["value"])
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, SettingError):
            raise
        raise SettingError(f"the record {content!r} cannot be read", allowed="what eclab.record writes") from error
