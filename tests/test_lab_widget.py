"""``eclab.Lab`` in a notebook without a browser: what papermill and a user's own code see."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import eclab
from eclab.errors import SettingError, SpecError
from eclab.widgets import assets

Make = Callable[..., eclab.Lab]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[eclab.Lab] = []

    def lab(*arguments: Any, **settings: Any) -> eclab.Lab:
        made.append(eclab.Lab(*arguments, **{"device": "cpu", **settings}))
        return made[-1]

    yield lab
    for one in made:
        one.close()


def test_it_opens_without_arguments(make: Make):
    lab = make()
    assert lab.race.task.name == "digits"
    assert lab.spec is not None
    assert lab.spec.text.startswith("64-")
    assert [lane.name for lane in lab.race.lanes] == ["sgd", "ec-sgd"]


def test_run_blocks_and_returns_the_result(make: Make):
    lab = make("2-6-5-2", data="circle", epochs=2)
    result = lab.run()
    assert lab.race.finished
    assert len(result.frame) == 2 * lab.race.total_steps
    assert result.frame["test_acc"].notna().any()


def test_run_takes_steps_then_epochs(make: Make):
    lab = make("2-6-5-2", data="circle", epochs=50, batch_size=50)
    assert len(lab.run(steps=7).frame) == 14
    lab.step(2)
    assert lab.race.position == 9
    lab.run(epochs=1)
    assert lab.race.finished
    assert lab.race.position == 20
    with pytest.raises(SettingError, match="the race is over"):
        lab.run()
    with pytest.raises(SettingError, match="number of epochs"):
        lab.run(epochs=0)
    with pytest.raises(SettingError, match="number of steps"):
        make("2-4-2", data="xor").run(steps=-1)


def test_the_same_settings_give_the_same_numbers_as_a_race(make: Make):
    settings: dict[str, Any] = {"epochs": 2, "seed": 3, "lr": 0.05, "unbalance": 0.5, "device": "cpu"}
    lab = make("2-6-5-2", data="circle", **settings)
    race = eclab.Race("2-6-5-2", eclab.data.load("circle", seed=3), **settings)
    columns = ["step", "lane", "loss", "train_acc"]
    assert lab.run().frame[columns].equals(race.run().frame[columns])


def test_play_pause_reset(make: Make):
    lab = make("2-6-5-2", data="circle", epochs=10_000)
    lab.play()
    end = time.monotonic() + 10
    while lab.race.position < 3:
        assert time.monotonic() < end
    lab.pause()
    position = lab.race.position
    time.sleep(0.1)
    assert lab.race.position == position
    lab.set_lr(0.01, lane="sgd")
    assert [lane.lr for lane in lab.race.lanes] == [0.01, 0.1]
    with pytest.raises(SettingError, match="learning rate"):
        lab.set_lr(float("nan"))
    lab.reset()
    assert lab.race.position == 0
    lab.stop()


def test_the_notebook_stays_usable_while_a_race_runs(make: Make):
    lab = make(epochs=10_000)
    lab.play()
    longest = 0.0
    for _ in range(50):
        started = time.monotonic()
        sum(range(1000))
        time.sleep(0.001)
        longest = max(longest, time.monotonic() - started)
    lab.pause()
    assert longest < 0.25


def test_what_was_done_from_python_can_be_undone(make: Make):
    lab = make("2-6-5-2", data="circle", epochs=20)
    lab.run(steps=3)
    lab.set_lr(0.01, lane="sgd")
    lab.reset()
    assert lab.race.position == 0
    assert [lab.undo(), lab.undo()] == ["reset", "learning rate of SGD"]
    assert (lab.race.position, lab.race.lanes[0].lr) == (3, 0.1)
    assert lab.redo() == "learning rate of SGD"
    assert lab.undo() == "learning rate of SGD"
    assert lab.undo() == "training"
    assert lab.race.position == 0
    with pytest.raises(SettingError, match="nothing to undo"):
        lab.undo()
    with pytest.raises(SettingError, match="no earlier step"):
        lab.rewind()


def test_lanes_are_added_and_removed_from_python(make: Make):
    lab = make("2-6-5-2", data="circle", lanes="sgd:0.2,ec-sgd")
    lab.add_lane("ec-sgd", lr=0.5)
    lab.run(steps=2)
    lab.remove_lane("sgd")
    assert [(lane.name, lane.lr) for lane in lab.race.lanes] == [("ec-sgd", 0.1), ("ec-sgd-2", 0.5)]
    assert len(lab.run(steps=1).frame) == 6
    with pytest.raises(SettingError, match="no lane 'swoosh'"):
        lab.add_lane("swoosh")


def test_a_rate_changed_in_the_lab_outlives_the_next_network(make: Make):
    lab = make("2-6-5-2", data="circle", lanes="sgd:0.2,ec-sgd")
    lab.set_lr(0.3, lane="sgd")
    lab._handle_custom_msg({"cmd": "edit", "id": "1:2", "op": "widen", "spec_index": 0, "width": 8}, [])
    lab._call(lambda: None)
    assert [lane.lr for lane in lab.race.lanes] == [0.3, 0.1]


def test_a_rescaled_unit_is_still_the_same_class(make: Make):
    lab = make("2-6-5-2", data="circle")
    lab.rescale("0", 2, 10.0, lane="sgd")
    certificate = eclab.same_class(lab.net("sgd"), lab.net("ec-sgd"), lab.race.task.x[:8])
    assert certificate.same
    assert float(certificate.scales["0"][2]) == pytest.approx(0.1, rel=1e-5)
    with pytest.raises(eclab.ScaleError):
        lab.rescale("0", 2, -1.0)


def test_it_is_saved_and_loaded(make: Make, tmp_path: Path):
    lab = make("2-6-5-2 · LeakyReLU", data="circle")
    path = lab.save(tmp_path / "net.eclab.json")
    again = eclab.Lab.load(path, data="xor", device="cpu")
    assert again.spec == lab.spec
    assert again.race.task.name == "xor"
    again.close()
    with pytest.raises(SettingError, match="cannot be read"):
        eclab.Lab.load(tmp_path / "gone.json")
    path.write_text(path.read_text()[:20])
    with pytest.raises(SpecError):
        eclab.Lab.load(path)


@pytest.mark.parametrize(
    ("arguments", "settings", "words"),
    [
        ((), {"epoch": 3}, "no setting 'epoch'.*did you mean 'epochs'"),
        ((), {"dataset": "digits"}, "no setting 'dataset'.*did you mean 'data'"),
        ((), {"zzz": 1}, "no setting 'zzz'.*Allowed: data, lanes, lr"),
        ((), {"lr": 0}, "learning rate"),
        ((), {"lr": float("nan")}, "learning rate"),
        ((), {"lanes": ["swoosh"]}, "swoosh"),
        ((), {"batch_size": 10**6}, "batch"),
        ((), {"start": "zero"}, "start"),
        ((3,), {}, "the model is a int"),
        ((nn.Linear(2, 2),), {}, "without inputs"),
        ((None, torch.ones(4, 2)), {}, "without classes y"),
        ((None, None, torch.ones(4)), {}, "without inputs x"),
        (("2-4-2", torch.ones(4, 2), torch.zeros(4)), {"data": "xor"}, "both data and x"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_hint(arguments: tuple[Any, ...], settings: dict[str, Any], words: str):
    with pytest.raises(SettingError, match=words):
        eclab.Lab(*arguments, **settings)


@pytest.mark.parametrize("text", ["2-0-2", "2--2", "2-a-2", "", "2-4-3"])
def test_a_network_that_cannot_be_is_refused(text: str):
    with pytest.raises(eclab.EclabError):
        eclab.Lab(text, data="circle")


def test_own_arrays_and_a_model_without_labels(make: Make):
    x, y = torch.randn(60, 3), torch.arange(60) % 2
    assert make("3-5-2", x, y).race.task.input_shape == (3,)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    lab = make(model, x)
    assert lab.net().num_units == 4
    assert lab.spec is None
    with pytest.raises(SettingError, match="no labels"):
        lab.run()
    with pytest.raises(SettingError, match="no labels"):
        _ = lab.race


def test_it_has_a_plain_text_for_where_there_is_no_page(make: Make):
    lab = make("2-6-5-2", data="circle")
    bundle, _ = lab._repr_mimebundle_()
    text = bundle["text/plain"]
    assert text == repr(lab)
    assert "2-6-5-2" in text
    assert "m = 52" in text
    assert "EC-SGD" in text
    assert "application/vnd.jupyter.widget-view+json" in bundle


def test_what_a_saved_notebook_keeps_is_small(make: Make):
    lab = make("2-6-5-2", data="circle")
    lab.run(steps=3)
    state = lab.get_state()
    own = {"settings", "_spec", "_esm", "_css"}
    assert own <= set(state)
    assert json.loads(state["_spec"]) == json.loads(lab.spec.to_json())  # type: ignore[union-attr]  # it has one
    rest = {key: value for key, value in state.items() if key not in {"_esm", "_css"}}
    assert len(json.dumps({key: value for key, value in rest.items() if isinstance(value, str | dict | int)})) < 4000
    assert state["_esm"] == assets.esm()


def test_the_page_s_messages_reach_the_session_and_its_answers_the_page(make: Make, monkeypatch: pytest.MonkeyPatch):
    lab = make("2-6-5-2", data="circle")
    sent: list[dict[str, Any]] = []
    monkeypatch.setattr(lab, "send", lambda content, buffers=None: sent.append(content))
    lab._handle_custom_msg({"cmd": "hello", "id": "1:1"}, [])
    lab._handle_custom_msg({"cmd": "edit", "id": "1:2", "op": "widen", "spec_index": 0, "width": 8}, [])
    lab._handle_custom_msg({"cmd": "lr", "id": "1:3", "value": -1}, [])
    lab._call(lambda: None)
    assert "2-8-5-2" in lab.summary()
    assert lab.spec is not None
    assert json.loads(lab._spec) == lab.spec.to_dict()
    kinds = [content["type"] for content in sent]
    assert kinds[:3] == ["state", "history", "frame"]
    error = next(content for content in sent if content["type"] == "message")
    assert (error["id"], error["where"], error["level"]) == ("1:3", "lr", "error")


def test_two_labs_know_nothing_of_each_other(make: Make):
    one, two = make("2-6-5-2", data="circle"), make("2-6-5-2", data="circle")
    one.run(steps=2)
    assert (one.race.position, two.race.position) == (2, 0)


def test_a_closed_lab_holds_nothing(make: Make):
    lab = eclab.Lab("2-4-2", data="circle", device="cpu")
    lab.run(steps=1)
    lab.close()
    with pytest.raises(RuntimeError, match="closed"):
        lab.play()
    assert "step 1 of" in repr(lab)


def test_a_process_ends_while_a_lab_plays():
    code = (
        "import eclab; lab = eclab.Lab('2-5-2', data='circle', epochs=10**5); lab.play(); print(lab.race.position >= 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr.strip()) == (0, "True", "")


def test_a_process_ends_while_its_charts_are_compiled(tmp_path: Path):
    code = (
        "import eclab; lab = eclab.Lab('2-5-2', data='circle');"
        "lab._handle_custom_msg({'cmd': 'hello', 'id': '1:1'}, []); lab._call(lambda: print('greeted'))"
    )
    empty = {**os.environ, "ECLAB_CACHE": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False, env=empty
    )
    assert (done.returncode, done.stdout.strip(), done.stderr.strip()) == (0, "greeted", "")


def test_a_lab_closes_while_its_charts_are_compiled(make: Make, monkeypatch: pytest.MonkeyPatch):
    release = threading.Event()
    monkeypatch.setattr("eclab.widgets.handlers.compiled_charts", lambda: release.wait(5))
    lab = make("2-6-5-2", data="circle")
    lab._handle_custom_msg({"cmd": "hello", "id": "1:1"}, [])
    lab._call(lambda: None)
    (thread,) = lab._driver._aside
    lab.close()
    release.set()
    thread.join(5)  # what it raised would be a warning, and so an error here
    assert not thread.is_alive()


def test_the_widget_loads_no_charts():
    code = (
        "import sys, eclab; eclab.Lab('2-4-2', data='circle', epochs=1).run();"
        "print([name for name in ('altair', 'vl_convert', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"


def test_the_page_is_heard_while_a_cell_runs():
    from ipykernel.comm.comm import BaseComm

    from eclab.widgets.lab import listen_while_busy

    comm = BaseComm(comm_id="a", target_name="b")
    comm._reply_subshell_id = None  # what it notes when the main thread writes
    listen_while_busy(comm)
    assert comm._reply_subshell_for({}, "the page's own") == "the page's own"
    listen_while_busy(object())


def test_run_waits_though_the_thread_is_slow_to_begin(make: Make):
    for _ in range(20):
        lab = make("2-3-2", data="circle", epochs=1)
        lab.run(steps=2)
        assert lab.race.position == 2
        lab.close()
