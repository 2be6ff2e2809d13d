"""The page's commands for building and racing, on real networks and real data."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

import eclab
from eclab.widgets import messages
from tests.lab_page import Page, same_weights


@pytest.fixture
def page() -> Page:
    return Page("2-6-5-2", data="circle", batch_size=50, epochs=3)


@pytest.fixture
def pictures() -> Page:
    return Page("1x8x8-c4k3-p2-c3k3-f-10", data="digits", epochs=1)


def test_edits_change_the_network_and_can_be_undone(page: Page):
    run = page.state()["run"]
    page.send("edit", op="widen", spec_index=0, width=9)
    assert page.state()["facts"]["net"].startswith("2-9-5-2")
    page.send("edit", op="add", spec_after=1, kind="linear", width=4)
    assert page.state()["facts"]["net"].startswith("2-9-5-4-2")
    page.send("edit", op="remove", spec_index=1)
    page.send("edit", op="activation", value="leaky_relu")
    page.send("edit", op="bias", value=True)
    assert page.state()["spec"]["activation"] == "leaky_relu"
    assert all(layer["bias"] for layer in page.state()["layers"][1:])
    assert page.state()["run"] == run + 5
    for _ in range(5):
        assert page.frame().content["undo"]
        page.send("undo")
    assert page.state()["facts"]["net"].startswith("2-6-5-2")
    assert page.frame().content["undo"] is None
    assert "nothing to undo" in page.error("undo")
    page.send("redo")
    assert page.state()["facts"]["net"].startswith("2-9-5-2")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"op": "widen", "spec_index": 0, "width": 0}, "width is 0"),
        ({"op": "widen", "spec_index": 0, "width": -3}, "-3"),
        ({"op": "widen", "spec_index": 9, "width": 3}, "9"),
        ({"op": "widen", "spec_index": 0}, "without a width"),
        ({"op": "widen", "width": 3}, "without its place"),
        ({"op": "widen", "spec_index": 1, "width": 0}, "layer 2: the linear layer's width is 0"),
        ({"op": "add", "spec_after": 0, "kind": "conv2d", "width": 3}, "the new layer"),
        ({"op": "remove", "spec_index": 2}, "the output layer gives the outputs"),
        ({"op": "activation", "value": "swoosh"}, "swoosh"),
        ({"op": "activation", "value": 3}, "3"),
        ({"op": "bias", "value": "yes"}, "true or false"),
    ],
)
def test_an_edit_that_cannot_be_is_one_message_and_changes_nothing(page: Page, arguments: dict[str, Any], words: str):
    state, weights = page.state(), page.weights()
    assert words in page.error("edit", **arguments)
    assert page.state() == state
    assert same_weights(page.weights(), weights)


def test_a_specification_is_loaded_from_json_and_saved(page: Page):
    saved = page.ask("save")
    assert saved["type"] == "file"
    page.send("spec", spec=eclab.NetworkSpec.parse("2-3-2").to_json())
    assert page.state()["facts"]["net"].startswith("2-3-2")
    page.send("spec", spec=saved["text"])
    assert page.state()["facts"]["net"].startswith("2-6-5-2")
    newer = json.dumps({**json.loads(saved["text"]), "schema": 99})
    assert "schema version 99" in page.error("spec", spec=newer)
    assert "no JSON" in page.error("spec", spec="{")
    assert "does not fit" in page.error("spec", spec=eclab.NetworkSpec.parse("3-3-2").to_json())
    assert page.state()["facts"]["net"].startswith("2-6-5-2")


def test_other_data_fit_the_network_to_them(page: Page):
    page.send("data", name="digits")
    assert page.state()["facts"]["net"].startswith("64-6-5-10")
    page.send("preset", name="conv")
    assert page.state()["layers"][1]["kind"] == "conv"
    message = page.ask("data", name="xor")
    assert message["level"] == "info"
    assert page.state()["facts"]["net"].startswith("2-6b-6b-4b-2b")
    page.send("undo")
    page.send("preset", name="dense")
    assert "direction" in page.ask("data", name="circle")["text"]
    assert page.state()["facts"]["net"].startswith("2-16b-16b-2b")
    assert "nope" in page.error("data", name="nope")
    assert "needs pictures" in page.error("preset", name="conv")
    assert "no preset" in page.error("preset", name="nope")


def test_a_race_with_a_known_outcome_brings_its_settings(page: Page):
    message = page.ask("preset", name="digits, a high rate")
    assert message["level"] == "info"
    state = page.state()
    assert state["facts"]["data"] == "digits"
    assert {lane["lr"] for lane in state["lanes"]} == {0.3}
    page.send("undo")
    assert {lane["lr"] for lane in page.state()["lanes"]} == {0.1}


def test_the_start_can_be_the_network_s_own(page: Page):
    race = page.session.bench.need_race()
    assert all(
        float(race.lanes[0].net.weight(e.parameter).parameter.detach()[e.index]) == 1
        for e in page.session.lane().chart.tree
    )
    page.send("start", start="model")
    assert page.state()["race"]["start"] == "model"
    lane = page.session.lane()
    assert any(float(lane.net.weight(e.parameter).parameter.detach()[e.index]) != 1 for e in lane.chart.tree)


def test_play_steps_to_the_end_and_says_so(page: Page):
    page.send("hello")
    page.send("play")
    while page.session.playing:
        page.session.advance()
    frame = page.frame().content
    assert frame["finished"]
    assert not frame["running"]
    assert frame["step"] == frame["total_steps"] == 30
    assert "reset it" in page.error("play")
    page.send("reset")
    assert page.frame().content["step"] == 0
    assert page.send("history")[0].content["rows"] == 0


def test_pause_and_stop_hold_the_race(page: Page):
    page.send("play")
    page.session.advance()
    page.send("pause")
    assert not page.session.playing
    page.send("play")
    page.session.advance()
    held = page.ask("stop")
    assert (held["type"], held["step"]) == ("held", 2)
    assert not page.session.playing


def test_rates_batches_and_decay_change_while_it_runs_and_outlive_an_edit(page: Page):
    page.send("step")
    page.send("lr", lane="sgd", value=0.01)
    page.send("batch", value=25)
    page.send("decay", value=0.001)
    frame = page.frame().content
    assert [lane["lr"] for lane in frame["lanes"]] == [0.01, 0.1]
    assert [event["kind"] for event in frame["events"]] == ["lr", "batch", "decay"]
    page.send("edit", op="widen", spec_index=0, width=7)
    state = page.state()
    assert [lane["lr"] for lane in state["lanes"]] == [0.01, 0.1]
    assert (state["race"]["batch_size"], state["race"]["weight_decay"]) == (25, 0.001)


@pytest.mark.parametrize(
    ("cmd", "arguments", "words"),
    [
        ("lr", {"lane": None, "value": 0}, "learning rate is 0"),
        ("lr", {"lane": None, "value": -0.1}, "learning rate is -0.1"),
        ("lr", {"lane": "adam", "value": 0.1}, "no lane 'adam'"),
        ("batch", {"value": 0}, "batch size"),
        ("batch", {"value": 10_000}, "500 training samples"),
        ("decay", {"value": -1}, "weight decay"),
        ("unbalance", {"sigma": -1}, "unbalance"),
        ("view", {"lane": "adam"}, "no lane 'adam'"),
        ("rescale", {"layer": "0", "unit": 0, "c": 0}, "0"),
        ("rescale", {"layer": "0", "unit": 0, "c": -2}, "-2"),
        ("rescale", {"layer": "0", "unit": 99, "c": 2}, "0 to 5"),
        ("rescale", {"layer": "9", "unit": 0, "c": 2}, "no layer '9'"),
        ("rescale", {"layer": "4", "unit": 0, "c": 2}, "cannot"),
        ("rescale", {"layer": "4", "c": 2}, "no unit of layer '4'"),
        ("rescale", {"layer": "0", "unit": 0, "c": 1e-300}, "range"),
        ("inspect", {"kind": "unit", "layer": 1}, "without its place"),
        ("inspect", {"kind": "unit", "layer": 7, "unit": 0}, "layer is 7"),
        ("inspect", {"kind": "edge", "link": 0, "tail": 0}, "without its place"),
        ("inspect", {"kind": "edge", "link": 5, "tail": 0, "head": 0}, "link is 5"),
        ("inspect", {"kind": "edge", "link": 0, "tail": 2, "head": 0}, "unit is 2"),
        ("inspect", {"kind": "edge", "parameter": "0.weight", "index": [9, 9]}, "outside"),
        ("paths", {"k": 0}, "1 to 1000"),
        ("map", {}, "without 'on'"),
    ],
)
def test_bad_input_is_a_message_in_place_and_changes_nothing(
    page: Page, cmd: str, arguments: dict[str, Any], words: str
):
    page.send("step")
    weights, rates = page.weights(), [lane.lr for lane in page.session.bench.lanes]
    events = list(page.session.bench.need_race().events)
    assert words in page.error(cmd, **arguments)
    assert same_weights(page.weights(), weights)
    assert rates == [lane.lr for lane in page.session.bench.lanes]
    assert events == page.session.bench.need_race().events
    assert page.session.scaling.totals(page.session.lane()) == {}


def test_what_nobody_expected_is_told_with_its_type_and_logged(
    page: Page, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def fail(*_: object) -> None:
        raise RuntimeError("the disk is on fire")

    monkeypatch.setattr(page.session.bench.race, "set_lr", fail)
    assert page.error("lr", value=0.1) == "RuntimeError: the disk is on fire"
    assert "could not run 'lr'" in caplog.text


def test_a_step_that_fails_stops_the_race_and_says_why(
    page: Page, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def fail() -> None:
        raise RuntimeError("out of memory")

    page.send("play")
    monkeypatch.setattr(page.session.bench.race, "step", fail)
    page.session.advance()
    assert not page.session.playing
    assert page.got[-1].content["text"] == "RuntimeError: out of memory"
    assert page.got[-1].content["where"] == "timeline"
    with pytest.raises(RuntimeError, match="out of memory"):
        page.session.end_run()


def test_a_diverged_lane_keeps_its_verdict_and_the_other_goes_on():
    page = Page("64-16-16-10", data="digits", lr={"sgd": 1e20, "ec-sgd": 0.05}, epochs=3)
    page.send("play")
    while page.session.playing:
        page.session.advance()
    lanes = {lane["name"]: lane for lane in page.frame().content["lanes"]}
    assert lanes["sgd"]["state"] == "diverged"
    assert "step" in lanes["sgd"]["verdict"]
    assert lanes["ec-sgd"]["state"] == "running"
    assert lanes["ec-sgd"]["test_acc"] > 0.5
    asked = page.ask("inspect", kind="lane", lane="sgd")
    assert None not in asked["after"].values() or "not finite" in asked["why"]
    assert page.ask("inspect", kind="lane", lane="ec-sgd")["why"] == ""
    page.send("view", lane="sgd")
    assert "no lane is running" in page.error("rescale", layer="0", unit=0, c=2.0, lanes="one")
    json.dumps(page.frame().content, allow_nan=False)


def test_the_decision_map_is_bytes_of_both_lanes(page: Page):
    page.send("hello")
    page.send("map", on=True)
    page.steps(3)
    page.session.flush()
    message = page.got[-1]
    assert message.content["type"] == "map"
    size = message.content["size"]
    assert message.content["lanes"] == ["sgd", "ec-sgd"]
    assert [len(buffer) for buffer in message.buffers[:3]] == [size * size] * 3
    points = np.frombuffer(message.buffers[3], dtype=np.float32).reshape(-1, 3)
    assert len(points) == message.content["points"]
    assert set(points[:, 2]) == {0.0, 1.0}
    race = page.session.bench.need_race()
    chances = race.decision_map("sgd", size)[:, :, 1]
    drawn = np.frombuffer(message.buffers[0], dtype=np.uint8).reshape(size, size)
    np.testing.assert_allclose(drawn / 255, chances, atol=0.003)


def test_only_points_in_the_plane_have_a_map(pictures: Page):
    assert "plane" in pictures.error("map", on=True)


def test_a_map_of_many_classes_names_the_class_and_how_sure_it_is():
    chances = np.zeros((1, 2, 3), dtype=np.float32)
    chances[0, 0], chances[0, 1] = [0.1, 0.8, 0.1], [0.0, 0.0, 1.0]
    first, second = messages._map_bytes(chances)
    assert first == 85 + math.floor(np.float32(0.8) * 84)
    assert second == 2 * 85 + 84
