"""Rescaling, the inspector and paths in the lab, and models of one's own."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn

from eclab.race.measure import Gauge
from tests.lab_page import Page, same_weights


@pytest.fixture
def page() -> Page:
    return Page("2-6-5-2", data="circle", batch_size=50, epochs=3)


@pytest.fixture
def pictures() -> Page:
    return Page("1x8x8-c4k3-p2-c3k3-f-10", data="digits", epochs=1)


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
    assert [(event["kind"], event["text"]) for event in events] == [("rescale", "rescaled unit 2 of layer 1 × 10")]
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


def test_the_share_of_path_value_is_that_of_all_paths_and_of_the_class(page: Page):
    page.steps(2)
    net, number = page.session.lane().net, page.session.bench.picture.unit(1, 2)
    values = [
        (path.value**2, {str(edge) for edge in path.edges}, {edge.head for edge in path.edges})
        for path in net.top_paths(1000)
    ]
    total = sum(value for value, _, _ in values)
    edge = page.ask("inspect", kind="edge", link=1, tail=2, head=3)
    name = f"{edge['parameter']}[{','.join(map(str, edge['index']))}]"
    assert edge["share"] == pytest.approx(sum(v for v, edges, _ in values if name in edges) / total, rel=1e-9)
    unit = page.ask("inspect", kind="unit", layer=1, unit=2)
    assert unit["share"] == pytest.approx(sum(v for v, _, heads in values if number in heads) / total, rel=1e-9)
    page.send("rescale", layer="0", unit=2, c=50.0)
    assert page.ask("inspect", kind="unit", layer=1, unit=2)["share"] == pytest.approx(unit["share"], rel=1e-5)


def test_the_gauge_of_a_unit_is_shown_from_the_start_to_now(page: Page):
    """‖in‖² − ‖out‖²: SGD at a small rate nearly conserves it, EC-SGD does not; the sum is the record of the race."""
    page.steps(20)
    bench = page.session.bench
    drift = {}
    for lane in bench.lanes:
        page.send("view", lane=lane.name)
        answers = [page.ask("inspect", kind="layer", layer=number, unit=None)["gauge"] for number in (1, 2)]
        start = Gauge(bench.need_race().start_net).per_unit()
        now = Gauge(lane.net).per_unit()
        for layer, answer in zip(lane.net.layers, answers, strict=False):
            assert answer["start"] == pytest.approx(float(start[layer.name].sum()), rel=1e-6, abs=1e-9)
            assert answer["now"] == pytest.approx(float(now[layer.name].sum()), rel=1e-6, abs=1e-9)
        unit = page.ask("inspect", kind="unit", layer=1, unit=0)["gauge"]
        assert unit["now"] == pytest.approx(float(now[lane.net.layers[0].name][0]), rel=1e-6, abs=1e-9)
        drift[lane.name] = sum(abs(answer["now"] - answer["start"]) for answer in answers)
    assert drift["sgd"] != drift["ec-sgd"]
