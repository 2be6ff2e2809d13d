"""Parameters, records and the runner: what notebooks are made of."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some

import eclab
from eclab.errors import EclabError, ScaleError, SettingError
from eclab.notebook import MIME_TYPE, Choice, Kind, Range, Several, Text, Whole, parameter_names, recorded, run

PARAMETERS = "count: int = 3  # how many\nname: str = 'ABC'  # of whom\n"
CHECK = """
import eclab
from eclab.notebook import Choice, Whole
eclab.parameters(globals(), count=Whole(1, 9), name=Choice("ABC", "DEF"))
"""
RECORDS = """
eclab.record("name", name)
eclab.record("count", count)
eclab.record("good", count > 2)
eclab.record("paths", 10**30 + count)
eclab.record("half", count / 2)
eclab.record("nan", float("nan")), eclab.record("infinite", float("inf"));
"""


def write(path: Path, *cells: str) -> Path:
    """A notebook whose first cell is tagged "parameters"."""
    made = [nbformat.v4.new_code_cell(source) for source in cells]
    made[0].metadata["tags"] = ["parameters"]
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=made, metadata=kernel), path)
    return path


def as_record(name: str, value: Any, kind: str, schema: int = 1) -> dict[str, Any]:
    content = {"schema": schema, "name": name, "type": kind, "value": value}
    return {"output_type": "display_data", "data": {MIME_TYPE: content, "text/plain": ""}, "metadata": {}}


def notebook_of(*outputs: dict[str, Any]) -> dict[str, Any]:
    return {"cells": [{"cell_type": "markdown"}, {"cell_type": "code", "outputs": list(outputs)}]}


# -- parameters --------------------------------------------------------------------------------------------------------

POSITIVE = Range(0, 10, open_left=True)


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (Whole(1, 8), [1, 8, np.int64(3)], [0, 9, 2.0, True, "2", None, math.nan, torch.tensor(2)]),
        (Range(0, 10), [0, 10, 0.5, np.float32(1.5)], [-1e-9, 10.1, math.nan, math.inf, "1", True, None, [1]]),
        (POSITIVE, [1e-300, 10], [0, 0.0, -1]),
        (Range(0, 1, open_right=True), [0, 0.999], [1, 1.0]),
        (Choice("digits", "circle"), ["digits"], ["Digits", "", None, 0]),
        (Choice(True, False), [True, False], [0, 1, "True"]),
        (Text("a network"), ["64-10"], ["", "  ", None, 64]),
        (Several(POSITIVE, 1, 3), [[0.1], (1, 2, 3)], [[], [1, 2, 3, 4], [0], 0.1, "0.1", None]),
    ],
)
def test_kinds_hold_what_they_say(kind: Kind, good: list[Any], bad: list[Any]) -> None:
    assert [value for value in good if not kind.holds(value)] == []
    assert [value for value in bad if kind.holds(value)] == []


def test_kinds_say_what_they_hold() -> None:
    assert Whole(1, 60_000).allowed == "a whole number from 1 to 60,000"
    assert Range(0, 1).allowed == "a number from 0 to 1"
    assert Range(0, 1, open_left=True, open_right=True).allowed == "a number from 0 to 1, without 0 and 1"
    assert Choice("a", "b", "c").allowed == "'a', 'b' or 'c'"
    assert Choice("a").allowed == "'a'"
    assert Several(POSITIVE, 1, 4).allowed == "a list of 1 to 4, each a number from 0 to 10, without 0"


def test_good_parameters_pass_and_others_are_not_looked_at() -> None:
    eclab.parameters({"lr": 0.1, "other": object()}, lr=POSITIVE)


def test_all_wrong_parameters_are_in_one_message() -> None:
    with pytest.raises(SettingError) as refused:
        eclab.parameters({"lr": -1, "data": "mnist"}, lr=POSITIVE, data=Choice("digits"), steps=Whole(1, 5))
    assert str(refused.value) == (
        "the parameter lr is -1; the parameter data is 'mnist'; the parameter steps is missing. "
        "Allowed: lr: a number from 0 to 10, without 0; data: 'digits'; steps: a whole number from 1 to 5. "
        "To fix it: set it in the cell tagged parameters, or pass another value to eclab.notebook.run."
    )


def test_a_long_value_is_cut_in_the_message() -> None:
    with pytest.raises(SettingError) as refused:
        eclab.parameters({"name": "x" * 10_000}, name=Choice("a"))
    assert len(str(refused.value)) < 300


# -- records -----------------------------------------------------------------------------------------------------------


def test_outside_a_notebook_a_record_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    eclab.record("class_dim", 1_840)
    eclab.record("loss", np.float64(0.25))
    eclab.record("same", True)
    assert capsys.readouterr().out == "class_dim = 1,840\nloss = 0.25\nsame = True\n"


@pytest.mark.parametrize("value", [None, [1], {"a": 1}, torch.tensor(1.0), np.ones(1), 1j, b"x"])
def test_only_plain_values_are_recorded(value: Any) -> None:
    with pytest.raises(SettingError, match="the record 'x' is of type"):
        eclab.record("x", value)


@pytest.mark.parametrize("name", ["", "  "])
def test_a_record_has_a_name(name: str) -> None:
    with pytest.raises(SettingError, match="blank"):
        eclab.record(name, 1)


class Shell:
    """What a kernel's shell looks like to a record."""

    def __init__(self) -> None:
        self.display_pub, self.shown = self, list[dict[str, Any]]()

    def get_ipython(self) -> Shell:
        return self

    def publish(self, data: dict[str, Any]) -> None:
        self.shown.append(json.loads(json.dumps(data, allow_nan=False)))


@given(
    value=some.one_of(some.booleans(), some.integers(), some.integers(-(10**300), 10**300), some.floats(), some.text())
)
def test_what_is_recorded_is_what_is_read(value: bool | int | float | str) -> None:
    shell = Shell()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "IPython", shell)
        eclab.record("x", value)
    read = recorded(notebook_of({"output_type": "display_data", "data": shell.shown[0]}))["x"]
    assert type(read) is type(value)
    assert read == value or (read != read and value != value)


@pytest.mark.parametrize(
    ("notebook", "words"),
    [
        (notebook_of(as_record("x", 1, "int"), as_record("x", 1, "int")), "'x' is recorded twice"),
        (notebook_of(as_record("x", 1, "int", schema=2)), "has schema 2"),
        (notebook_of(as_record("x", 1, "list")), "cannot be read"),
        (notebook_of(as_record("x", "many", "int")), "cannot be read"),
        (notebook_of({"data": {MIME_TYPE: "x"}}), "cannot be read"),
        ({"worksheets": []}, "no notebook"),
        ({"cells": [], "nbformat": 3}, "no notebook"),
        ({"cells": [1]}, "no notebook"),
    ],
)
def test_broken_records_are_refused(notebook: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        recorded(notebook)


def test_a_file_that_is_no_notebook_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.ipynb"
    broken.write_text("{", encoding="utf-8")
    for path in (broken, tmp_path / "missing.ipynb"):
        with pytest.raises(SettingError, match=path.name):
            recorded(path)


# -- the runner --------------------------------------------------------------------------------------------------------


def test_parameter_names_in_their_order(tmp_path: Path) -> None:
    assert parameter_names(write(tmp_path / "one.ipynb", PARAMETERS)) == ("count", "name")


def test_an_unknown_parameter_is_refused_before_anything_runs(tmp_path: Path) -> None:
    path, output = write(tmp_path / "one.ipynb", PARAMETERS), tmp_path / "out.ipynb"
    with pytest.raises(SettingError, match=r"no parameter 'cuont'.*Allowed: count, name.*did you mean 'count'"):
        run(path, {"cuont": 3}, output)
    assert not output.exists()


def test_a_value_that_no_cell_can_hold_is_refused_before_anything_runs(tmp_path: Path) -> None:
    path = write(tmp_path / "one.ipynb", PARAMETERS)
    for value in (object(), torch.ones(1), {1: "a"}, [object()], np.float64(1)):
        with pytest.raises(SettingError, match="the parameter count is of type"):
            run(path, {"count": value})


@pytest.mark.parametrize("content", [None, "{", "[]", "{}", '{"cells": 3}', '{"cells": [], "nbformat": 3}'])
def test_what_is_no_notebook_is_refused(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "odd.ipynb"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(SettingError, match=r"odd\.ipynb"):
        run(path)


@pytest.mark.notebook
def test_a_run_returns_and_writes_what_was_recorded(tmp_path: Path) -> None:
    path, output = write(tmp_path / "one.ipynb", PARAMETERS, CHECK, RECORDS), tmp_path / "runs" / "out.ipynb"
    source = path.read_bytes()
    found = run(path, {"count": 4}, output)
    assert math.isnan(float(found.pop("nan")))
    assert found == {
        "name": "ABC", "count": 4, "good": True, "paths": 10**30 + 4, "half": 2.0, "infinite": math.inf,
    }  # fmt: skip
    again = recorded(output)
    assert {name: again[name] for name in found} == found
    assert path.read_bytes() == source


@pytest.mark.notebook
def test_a_refused_value_is_the_same_error_as_in_the_notebook(tmp_path: Path) -> None:
    path, output = write(tmp_path / "one.ipynb", PARAMETERS, CHECK, RECORDS), tmp_path / "out.ipynb"
    with pytest.raises(SettingError) as refused:
        run(path, {"count": 40}, output)
    assert str(refused.value).startswith("the parameter count is 40. Allowed: count: a whole number from 1 to 9.")
    assert recorded(output) == {}


@pytest.mark.notebook
def test_the_errors_of_cells_come_through(tmp_path: Path) -> None:
    raising = "from eclab.errors import ScaleError\nraise ScaleError('the scale is 0')"
    with pytest.raises(ScaleError, match="the scale is 0"):
        run(write(tmp_path / "scale.ipynb", PARAMETERS, raising))
    output = tmp_path / "out.ipynb"
    with pytest.raises(EclabError, match=r"cell 2 of zero\.ipynb failed with ZeroDivisionError.*out\.ipynb holds"):
        run(write(tmp_path / "zero.ipynb", PARAMETERS, "1 / 0"), output=output)
    assert output.exists()


@pytest.mark.notebook
def test_a_cell_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    with pytest.raises(EclabError, match="took longer than 1 s"):
        run(write(tmp_path / "slow.ipynb", PARAMETERS, "import time; time.sleep(60)"), timeout=1)
