"""The lab without a page: every command on real networks and real data."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import eclab
from eclab.widgets import messages
from eclab.widgets.messages import CURVE_COLUMNS, Message
from eclab.widgets.opening import first_setup
from eclab.widgets.session import LabSession


class Page:
    """Sends commands to a session and keeps what comes back."""

    def __init__(self, model: Any = None, x: Any = None, y: Any = None, data: Any = None, **settings: Any) -> None:
        self.got: list[Message] = []
        settings = {"device": "cpu", **settings}
        self.session = LabSession(first_setup(model, x, y, data, settings), self.got.append)
        # charts are another test's business, and slow
        self.session.defer = lambda make, then: None

    def send(self, cmd: str, **arguments: Any) -> list[Message]:
        before = len(self.got)
        self.session.handle({"cmd": cmd, "id": "1:1", **arguments})
        return self.got[before:]

    def ask(self, cmd: str, **arguments: Any) -> dict[str, Any]:
        """The one answer to a command."""
        answers = [message.content for message in self.send(cmd, **arguments) if "id" in message.content]
        assert len(answers) == 1, answers
        return answers[0]

    def error(self, cmd: str, **arguments: Any) -> str:
        answer = self.ask(cmd, **arguments)
        assert answer["type"] == "message"
        assert answer["level"] == "error"
        assert answer["id"] == "1:1"
        return str(answer["text"])

    def state(self) -> dict[str, Any]:
        return self.session.state().content

    def frame(self) -> Message:
        return self.session.frame(1)

    def weights(self) -> list[torch.Tensor]:
        return [value.clone() for lane in self.session.bench.lanes for value in lane.net.model.state_dict().values()]

    def steps(self, count: int) -> None:
        for _ in range(count):
            self.send("step")


@pytest.fixture
def page() -> Page:
    return Page("2-6-5-2", data="circle", batch_size=50, epochs=3)


@pytest.fixture
def pictures() -> Page:
    return Page("1x8x8-c4k3-p2-c3k3-f-10", data="digits", epochs=1)


def same_weights(one: list[torch.Tensor], two: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


# -- messages ---------------------------------------------------------------------------------------------------------


def test_a_page_that_says_hello_gets_everything(page: Page):
    page.steps(3)
    kinds = [message.content["type"] for message in page.send("hello")]
    assert kinds == ["state", "history", "frame"]
    state, history, frame = (message.content for message in page.got[-3:])
    assert state["facts"]["m"] == 2 * 6 + 6 * 5 + 5 * 2
    assert (state["facts"]["H"], state["facts"]["class_dim"]) == (11, state["facts"]["m"] - 11)
    assert history["rows"] == history["next"] == 6
    assert frame["curve"] == {"from": 6, "rows": 0, "columns": list(CURVE_COLUMNS)}
    assert state["run"] == history["run"] == frame["run"]


def test_before_hello_nothing_is_sent(page: Page):
    page.send("window", layer=0, start=0, count=1)
    page.send("edit", op="bias", value=True)
    assert page.got == []
    assert not page.session.gate.ready()


def test_messages_are_plain_json(page: Page):
    page.send("hello")
    page.send("step")
    page.send("inspect", kind="unit", layer=1, unit=0)
    page.send("paths")
    page.send("same")
    for message in [*page.got, page.frame()]:
        json.dumps(message.content, allow_nan=False)
        assert all(isinstance(buffer, bytes) for buffer in message.buffers)


def test_frames_hold_the_drawn_weights_and_only_new_records(page: Page):
    page.send("hello")
    page.steps(2)
    message = page.frame()
    content, (curve, blocks) = message.content, message.buffers
    rows = np.frombuffer(curve).reshape(-1, len(CURVE_COLUMNS))
    assert content["curve"]["from"] == 0
    assert len(rows) == content["curve"]["rows"] == 4
    race = page.session.bench.need_race()
    for row, record in zip(rows, race.records, strict=True):
        assert row[0] == ["sgd", "ec-sgd"].index(record.lane)
        assert row[1:4].tolist() == [record.step, record.loss, record.train_acc]
    values = np.frombuffer(blocks, dtype=np.float32)
    lane = page.session.lane("ec-sgd")
    for block, weight in zip(content["blocks"], lane.net.weights, strict=True):
        size = block["rows"] * block["cols"]
        drawn = values[block["offset"] : block["offset"] + size].reshape(block["rows"], block["cols"])
        np.testing.assert_array_equal(drawn, weight.parameter.detach().numpy())
    page.send("step")
    assert page.frame().content["curve"]["from"] == 4


def test_a_convolution_is_drawn_by_channels(pictures: Page):
    frame = pictures.frame()
    values = np.frombuffer(frame.buffers[1], dtype=np.float32)
    first = pictures.session.lane().net.weights[0].parameter.detach().numpy()
    kernels = {entry["layer"]: entry for entry in frame.content["kernels"]}
    assert sorted(kernels) == [1, 2]
    entry = kernels[1]
    drawn = values[entry["offset"] :][: entry["rows"] * 9].reshape(entry["rows"], 3, 3)
    np.testing.assert_allclose(drawn, first.mean(1), rtol=1e-6)
    block = frame.content["blocks"][0]
    sizes = values[block["offset"] :][: block["rows"]]
    np.testing.assert_allclose(np.abs(sizes), np.linalg.norm(first.reshape(4, -1), axis=1), rtol=1e-6)
    np.testing.assert_array_equal(np.sign(sizes), np.sign(first.reshape(4, -1).sum(1)))


def test_behind_a_flatten_a_channel_is_one_unit(pictures: Page):
    links = pictures.state()["links"]
    assert [(link["from"], link["to"]) for link in links] == [(0, 1), (1, 2), (2, 3)]
    assert links[2]["parallel"] == 16
    assert [layer["width"] for layer in pictures.state()["layers"]] == [1, 4, 3, 10]
    assert pictures.state()["layers"][1]["after"] == ["max-pool 2"]


def test_layers_know_their_place_in_the_specification(pictures: Page):
    state = pictures.state()
    weighty = [i for i, layer in enumerate(state["spec"]["layers"]) if layer["type"] in ("linear", "conv2d")]
    assert [layer["spec_index"] for layer in state["layers"]] == [None, *weighty]
    assert [layer["label"] for layer in state["layers"]] == ["inputs", "layer 1", "layer 2", "outputs"]


def test_the_skeleton_drawn_is_the_chart_s(page: Page):
    state, net = page.state(), page.session.bench.net
    tree = [(link, tail, head) for link, tail, head in state["skeleton"]["tree"]]
    assert len(tree) == len(state["skeleton"]["b"]) == net.num_units
    for (link, tail, head), edge in zip(tree, net.chart().tree, strict=True):
        assert net.weights[link].name == edge.parameter
        assert (head, tail) == edge.index


def test_wide_layers_are_folded_and_windows_move(pictures: Page):
    page = Page("64-64-10", data="digits")
    layers = page.state()["layers"]
    assert [layer["folded"] for layer in layers] == [True, True, False]
    assert all(len(layer["units"]) == layer["window"]["count"] <= 40 for layer in layers)
    page.send("window", layer=1, start=60, count=40)
    assert page.state()["layers"][1]["window"] == {"start": 24, "count": 40}
    assert "1 to 40" in page.error("window", layer=1, start=0, count=41)
    assert "0 to 2" in page.error("window", layer=3, start=0, count=1)
    block = page.frame().content["blocks"][0]
    assert (block["rows"], block["cols"]) == (40, 16)


def test_history_is_thinned_and_keeps_the_test_accuracies():
    steps = np.arange(1, 10_001)
    rows = np.zeros((20_000, len(CURVE_COLUMNS)))
    rows[:, 0], rows[:, 1] = np.tile([0, 1], 10_000), np.repeat(steps, 2)
    rows[:, CURVE_COLUMNS.index("test_acc")] = np.where(rows[:, 1] % 500 == 0, 0.9, np.nan)
    kept = messages.thinned(rows)
    for lane in (0, 1):
        mine = kept[kept[:, 0] == lane]
        assert len(mine) <= 2000
        assert {500 * k for k in range(1, 21)} <= set(mine[:, 1])
        assert mine[0, 1] == 1
        assert mine[-1, 1] == 10_000
        assert (np.diff(mine[:, 1]) > 0).all()


def test_a_short_history_is_whole(page: Page):
    page.steps(5)
    message = page.send("history")[0]
    assert message.content["rows"] == 10
    assert np.frombuffer(message.buffers[0]).size == 10 * len(CURVE_COLUMNS)


# -- build ------------------------------------------------------------------------------------------------------------


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
        assert page.state()["can_undo"]
        page.send("undo")
    assert page.state()["facts"]["net"].startswith("2-6-5-2")
    assert not page.state()["can_undo"]
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
        ({"op": "add", "spec_after": 0, "kind": "conv2d", "width": 3}, "layer 1"),
        ({"op": "remove", "spec_index": 2}, "gives the outputs"),
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
    assert page.state()["facts"]["net"].startswith("2-6-6-4-2")
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


# -- race -------------------------------------------------------------------------------------------------------------


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
    assert "step 2" in page.ask("stop")["text"]
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


# -- classes ----------------------------------------------------------------------------------------------------------


def test_rescaling_a_unit_changes_weights_and_gradients_but_not_the_function(page: Page):
    page.steps(2)
    lane = page.session.lane()
    before = lane.net.model(page.session.bench.x).detach()
    answer = page.ask("rescale", layer="0", unit=3, c=100.0)
    assert (answer["type"], answer["kind"], answer["layer"], answer["unit"]) == ("inspect", "unit", 1, 3)
    old, new = answer["before"], answer["after"]
    assert new["in_norm"] == pytest.approx(100 * old["in_norm"], rel=1e-6)
    assert new["out_norm"] == pytest.approx(old["out_norm"] / 100, rel=1e-6)
    assert new["grad_w"] > 2 * old["grad_w"] or new["grad_w"] < old["grad_w"] / 2
    assert new["grad_v"] == pytest.approx(old["grad_v"], rel=1e-4)
    assert answer["change"]["same"]
    assert answer["change"]["max_abs"] <= answer["change"]["bound"] < 1e-4
    assert answer["c"] == 100.0
    torch.testing.assert_close(lane.net.model(page.session.bench.x).detach(), before, rtol=1e-4, atol=1e-5)
    assert page.frame().content["scales"]["1"][3] == 100.0


def test_the_same_scale_goes_to_every_lane_or_to_one(page: Page):
    page.steps(2)
    sgd, ec = (lane.net.weights[0].parameter for lane in page.session.bench.lanes)
    before = sgd[2].clone(), ec[2].clone()
    page.send("rescale", layer="0", unit=2, c=4.0)
    assert torch.equal(sgd[2], 4 * before[0])
    assert torch.equal(ec[2], 4 * before[1])
    page.send("view", lane="ec-sgd")
    page.send("rescale", layer="0", unit=2, c=2.0, lanes="one")
    assert torch.equal(sgd[2], 4 * before[0])
    assert torch.equal(ec[2], 8 * before[1])


def test_a_drag_counts_from_where_it_began_and_leaves_one_mark(page: Page):
    page.send("step")
    start = page.weights()
    for c in (1.5, 7.0, 3.0):
        page.send("rescale", layer="0", unit=1, c=c, commit=False)
    page.send("rescale", layer="0", unit=1, c=5.0, commit=True)
    page.send("rescale", layer="0", unit=1, c=2.0, commit=True)
    assert page.session.scaling.totals(page.session.lane())["0"][1] == 10.0
    events = page.frame().content["events"]
    assert [(event["kind"], event["text"]) for event in events] == [("rescale", "rescaled 0[1] × 10")]
    page.send("rescale", layer="0", unit=1, c=0.1, commit=True)
    assert same_weights(page.weights(), start)


def test_a_thousand_drags_round_no_more_than_one(page: Page):
    page.send("step")
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        c = float(torch.exp(torch.randn((), generator=generator)))
        page.send("rescale", layer="2", unit=0, c=c, commit=True)
    answer = page.ask("inspect", kind="unit", layer=2, unit=0)
    assert answer["change"]["same"], answer["change"]


def test_unscale_gives_back_the_same_bits_and_removes_the_marks(page: Page):
    page.steps(2)
    start = page.weights()
    page.send("unbalance", sigma=2.0)
    page.send("rescale", layer="0", unit=None, c=30.0)
    assert not same_weights(page.weights(), start)
    page.send("unscale")
    assert same_weights(page.weights(), start)
    frame = page.frame().content
    assert frame["events"] == []
    assert frame["scales"] == {}
    assert "no unit was rescaled" in page.ask("unscale")["text"]


def test_a_training_step_makes_rescalings_final(page: Page):
    page.send("rescale", layer="0", unit=0, c=8.0)
    page.send("step")
    assert page.frame().content["scales"] == {}
    answer = page.ask("inspect", kind="unit", layer=1, unit=0)
    assert answer["c"] == 1.0
    assert answer["before"] == answer["after"]


def test_the_race_waits_while_a_unit_is_dragged(page: Page):
    page.send("play")
    page.send("rescale", layer="0", unit=0, c=2.0, commit=False)
    page.session.advance()
    assert page.session.bench.need_race().position == 0
    page.send("rescale", layer="0", unit=0, c=3.0, commit=True)
    page.session.advance()
    assert page.session.bench.need_race().position == 1


def test_unbalanced_lanes_are_still_members_of_one_class(page: Page):
    page.send("unbalance", sigma=1.5)
    assert page.ask("same")["same"]
    page.send("rescale", layer="2", unit=1, c=50.0, lanes="one")
    answer = page.ask("same")
    assert answer["same"]
    assert answer["scales"]["2"][1] == pytest.approx(50.0, rel=1e-5)
    page.steps(5)
    answer = page.ask("same")
    assert not answer["same"]
    assert answer["where"] in answer["text"]


def test_a_whole_layer_has_one_scale_if_all_its_units_have(page: Page):
    answer = page.ask("rescale", layer="0", unit=None, c=3.0)
    assert (answer["kind"], answer["c"], answer["free"]) == ("layer", 3.0, 6)
    page.send("rescale", layer="0", unit=0, c=2.0)
    assert page.ask("inspect", kind="layer", layer=1)["c"] is None


# -- paths and the inspector ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["page", "pictures"])
def test_an_edge_shows_what_the_chart_says_of_it(which: str, request: pytest.FixtureRequest):
    page: Page = request.getfixturevalue(which)
    page.steps(2)
    lane = page.session.lane()
    roles = set()
    for number, link in enumerate(page.session.bench.picture.links):
        for head in range(min(3, page.session.bench.picture.widths[link.target])):
            answer = page.ask("inspect", kind="edge", link=number, tail=0, head=head)
            parameter, index = answer["parameter"], tuple(answer["index"])
            roles.add(answer["role"])
            assert (answer["link"], answer["tail"], answer["head"]) == (number, 0, head)
            assert answer["taps"] == link.parallel
            assert answer["w"] == pytest.approx(float(lane.net.weight(parameter).parameter.detach()[index]))
            if answer["role"] == "tree":
                assert answer["v"] is answer["path"] is None
                assert "tree edge" in answer["why"]
                continue
            path = answer["path"]
            assert answer["v"] == pytest.approx(path["value"], rel=1e-5)
            assert math.prod(edge["value"] for edge in path["edges"]) == pytest.approx(path["value"], rel=1e-6)
            assert path["edges"][0]["from"] == 0
            assert [edge["to"] for edge in path["edges"]][-1] == len(page.session.bench.picture.layers)
            for one, two in zip(path["edges"], path["edges"][1:], strict=False):
                assert (one["to"], one["head"]) == (two["from"], two["tail"])
    assert roles == {"tree", "skeleton b-edge", "basis"}


def test_gradients_are_those_of_the_loss_and_leave_no_trace(page: Page):
    page.steps(2)
    lane = page.session.lane()
    parameter = lane.net.weights[1].parameter
    kept = None if parameter.grad is None else parameter.grad.clone()
    answer = page.ask("inspect", kind="edge", parameter="2.weight", index=[3, 1])
    assert (parameter.grad is None) == (kept is None)
    if kept is not None and parameter.grad is not None:
        assert torch.equal(parameter.grad, kept)
    assert lane.net.model.training
    lane.net.model.zero_grad()
    bench = page.session.bench
    assert bench.y is not None
    nn.functional.cross_entropy(lane.net.model(bench.x), bench.y).backward()
    assert parameter.grad is not None
    assert answer["dL_dw"] == pytest.approx(float(parameter.grad[3, 1]), rel=1e-5)
    assert answer["dL_dv"] == pytest.approx(float(lane.chart.gradients()["2.weight"][3, 1]), rel=1e-4)


def test_a_bias_has_a_path_from_the_constant_source():
    page = Page("2-4b-2b", data="circle")
    answer = page.ask("inspect", kind="edge", parameter="0.bias", index=[1])
    assert (answer["link"], answer["tail"], answer["head"]) == (None, -1, 1)
    assert answer["path"]["edges"][0]["tail"] == -1


def test_top_paths_are_the_network_s_and_the_count_is_exact(page: Page):
    answer = page.ask("paths", k=5)
    assert answer["count"] == str(2 * 6 * 5 * 2)
    values = [abs(row["value"]) for row in answer["rows"]]
    assert len(values) == 5
    assert values == sorted(values, reverse=True)
    best = page.session.lane().net.top_paths(1)[0]
    assert answer["rows"][0]["value"] == pytest.approx(best.value)
    active = page.ask("paths", k=5, active=True)
    assert all(row["active"] for row in active["rows"])


def test_a_lane_and_the_inputs_can_be_asked_about(page: Page):
    page.send("step")
    lane = page.ask("inspect", kind="lane", lane="sgd")
    assert (lane["label"], lane["state"]) == ("SGD", "running")
    assert lane["after"]["grad_w"] > 0
    inputs = page.ask("inspect", kind="layer", layer=0)
    assert inputs["pinned"] == 2


# -- a model of one's own ---------------------------------------------------------------------------------------------


def own_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))


def own_data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(120, 4, generator=generator)
    return x, x[:, :3].argmax(1)


def test_a_model_without_labels_shows_classes_and_paths_but_does_not_race():
    model, (x, _) = own_model(), own_data()
    page = Page(model, x)
    state = page.state()
    assert (state["own_model"], state["trainable"]) == (True, False)
    assert [lane["name"] for lane in state["lanes"]] == ["model"]
    assert "Lab(model, x, y)" in state["hints"][0]
    answer = page.ask("rescale", layer="0", unit=1, c=9.0)
    assert answer["change"]["same"]
    assert answer["after"]["grad_w"] is None
    assert "labels" in answer["why"]
    assert page.ask("paths", k=3)["rows"]
    page.send("unbalance", sigma=1.0)
    page.send("unscale")
    for command in ("play", "step", "reset", "lr"):
        assert "no labels" in page.error(command, **({"value": 0.1} if command == "lr" else {}))
    assert "only one network" in page.error("same")
    json.dumps(page.frame().content, allow_nan=False)
    page.send("data", name="circle")
    assert page.state()["trainable"]
    page.send("undo")
    assert not page.state()["trainable"]


def test_a_model_with_labels_races_from_its_own_weights_and_is_never_touched():
    model, (x, y) = own_model(), own_data()
    before = [parameter.clone() for parameter in model.parameters()]
    page = Page(model, x, y, batch_size=16)
    assert page.state()["race"]["start"] == "model"
    assert same_weights([*page.session.lane().net.model.state_dict().values()], before)
    page.steps(5)
    assert page.frame().content["step"] == 5
    assert same_weights(list(model.parameters()), before)
    assert "model of your own" in page.error("edit", op="bias", value=True)
    assert "no specification" in page.error("save")


def test_a_network_whose_units_are_all_pinned_says_why():
    page = Page("2-4-2 · tanh", data="circle", lanes=["sgd"])
    state = page.state()
    assert state["facts"]["H"] == 0
    assert any("tanh" in hint.lower() for hint in state["hints"])
    assert all(unit["reason"] for unit in state["layers"][1]["units"])
    page.send("step")
    json.dumps(page.frame().content, allow_nan=False)
