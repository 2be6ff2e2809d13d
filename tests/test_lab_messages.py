"""What the page gets: whole, small, and plain."""

from __future__ import annotations

import json

import numpy as np
import pytest

from eclab.widgets import messages
from eclab.widgets.messages import CURVE_COLUMNS
from tests.lab_page import Page


@pytest.fixture
def page() -> Page:
    return Page("2-6-5-2", data="circle", batch_size=50, epochs=3)


@pytest.fixture
def pictures() -> Page:
    return Page("1x8x8-c4k3-p2-c3k3-f-10", data="digits", epochs=1)


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
