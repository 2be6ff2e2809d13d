"""Everything done in the lab can be undone and done again, to the bit; lanes come and go; a lost race rewinds."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch

import eclab
from eclab.race.lanes import MOST_LANES
from eclab.widgets import deeds, moments
from eclab.widgets.deeds import Deed, Deeds
from eclab.widgets.moments import Moments
from tests.lab_page import Page, same_weights


@pytest.fixture
def page() -> Page:
    made = Page("2-6-5-2", data="circle", batch_size=50, epochs=30, seed=1)
    made.send("hello")
    return made


def all_of(page: Page) -> dict[str, Any]:
    """What a person would see."""
    race = page.session.bench.need_race()
    content = page.frame().content
    return {
        "lanes": [(lane["name"], lane["lr"], lane["state"]) for lane in content["lanes"]],
        "step": content["step"],
        "total": content["total_steps"],
        "events": content["events"],
        "scales": content["scales"],
        "records": race.records.rows()[:, :9].tolist(),
        "net": page.state()["facts"]["net"],
        "data": page.state()["facts"]["data"],
        "batch": race.batch_size,
        "decay": [lane.weight_decay for lane in race.lanes],
    }


def differs(one: dict[str, Any], two: dict[str, Any]) -> list[str]:
    return [key for key in one if repr(one[key]) != repr(two[key])]


ACTS: list[tuple[str, dict[str, Any]]] = [
    ("edit", {"op": "widen", "spec_index": 0, "width": 9}),
    ("edit", {"op": "add", "spec_after": 1, "kind": "linear", "width": 4}),
    ("edit", {"op": "remove", "spec_index": 1}),
    ("edit", {"op": "activation", "value": "leaky_relu"}),
    ("edit", {"op": "bias", "value": True}),
    ("preset", {"name": "uneven"}),
    ("preset", {"name": "digits, a high rate"}),
    ("data", {"name": "xor"}),
    ("start", {"start": "model"}),
    ("lr", {"lane": "sgd", "value": 0.03}),
    ("lr", {"lane": None, "value": 0.03}),
    ("batch", {"value": 20}),
    ("epochs", {"value": 31}),
    ("decay", {"value": 0.01}),
    ("rescale", {"layer": "0", "unit": 2, "c": 7.0}),
    ("rescale", {"layer": "2", "unit": None, "c": 0.1, "lanes": "one"}),
    ("unbalance", {"sigma": 1.0}),
    ("reset", {}),
    ("step", {}),
    ("lane_add", {"kind": "sgd", "lr": 0.2}),
    ("lane_remove", {"lane": "sgd"}),
]


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize(("cmd", "arguments"), ACTS, ids=[f"{cmd} {list(a.values())}" for cmd, a in ACTS])
def test_each_act_is_undone_and_done_again(page: Page, cmd: str, arguments: dict[str, Any], steps: int):
    page.steps(steps)
    page.session.acts.deeds._pushed = -9.0  # as if the steps had been a while ago
    before, weights = all_of(page), page.weights()
    label = page.session.acts.deeds.undoable
    page.send(cmd, **arguments)
    assert page.frame().content["undo"] not in (None, label) or cmd == "step"
    after, moved = all_of(page), page.weights()
    if (cmd, steps) != ("reset", 0):
        assert differs(before, after) or not same_weights(weights, moved)
    page.send("undo")
    assert differs(before, all_of(page)) == []
    assert same_weights(page.weights(), weights)
    assert page.frame().content["redo"]
    page.send("redo")
    assert differs(after, all_of(page)) == []
    assert same_weights(page.weights(), moved)


def test_a_reset_that_is_undone_trains_on_as_if_it_had_not_been(page: Page):
    twin = Page("2-6-5-2", data="circle", batch_size=50, epochs=30, seed=1)
    page.steps(12)
    page.send("lr", lane="sgd", value=0.05)
    page.send("reset")
    page.steps(2)
    for _ in range(2):
        page.send("undo")
    page.steps(4)
    twin.steps(12)
    twin.send("lr", lane="sgd", value=0.05)
    twin.steps(4)
    assert same_weights(page.weights(), twin.weights())
    assert [r.loss for r in page.session.bench.need_race().records] == [
        r.loss for r in twin.session.bench.need_race().records
    ]


def test_an_edit_undone_brings_back_the_trained_network_and_its_curve(page: Page):
    page.steps(5)
    race, weights = page.session.bench.need_race(), page.weights()
    page.send("edit", op="widen", spec_index=0, width=9)
    page.steps(1)
    for _ in range(2):
        page.send("undo")
    assert page.session.bench.need_race() is race
    assert same_weights(page.weights(), weights)
    histories = [message.content for message in page.got if message.content["type"] == "history"]
    assert histories[-1]["next"] == 10


def test_a_rescaling_before_later_steps_is_undone_by_its_inverse(page: Page):
    page.send("rescale", layer="0", unit=1, c=8.0, lanes="all")
    race = page.session.bench.need_race()
    race.step()
    page.session.scaling.forget()
    outputs = page.session.lane().net.model(page.session.bench.x).detach()
    before = page.session.lane().net.weights[0].parameter[1].clone()
    page.send("undo")
    after = page.session.lane().net.weights[0].parameter[1]
    assert torch.equal(after * 8, before)
    torch.testing.assert_close(page.session.lane().net.model(page.session.bench.x).detach(), outputs)
    page.send("redo")
    assert torch.equal(page.session.lane().net.weights[0].parameter[1], before)


def test_a_drag_is_one_deed(page: Page):
    start = page.weights()
    for c in (1.5, 7.0, 3.0):
        page.send("rescale", layer="0", unit=1, c=c, commit=False)
    page.send("rescale", layer="0", unit=1, c=5.0, commit=True)
    page.send("undo")
    assert same_weights(page.weights(), start)
    assert page.frame().content["undo"] is None


def test_undo_while_it_plays_goes_back_to_where_it_began(page: Page):
    page.steps(2)
    page.session.acts.deeds._pushed = -9.0
    page.send("play")
    for _ in range(6):
        page.session.advance()
    page.send("undo")
    assert not page.session.playing
    assert page.session.bench.need_race().position == 2
    page.send("redo")
    assert page.session.bench.need_race().position == 8


# -- lanes ------------------------------------------------------------------------------------------------------------


def test_lanes_come_with_colours_of_their_own_and_leave_the_others_theirs(page: Page):
    for number in range(MOST_LANES - 2):
        answer = page.ask("lane_add", kind=("sgd", "ec-sgd")[number % 2], lr=0.01 * (number + 1))
        assert "joins" in answer["text"]
    lanes = page.state()["lanes"]
    assert len({lane["colour"] for lane in lanes}) == len({lane["name"] for lane in lanes}) == MOST_LANES
    assert len({lane["label"] for lane in lanes}) == MOST_LANES
    assert f"{MOST_LANES} lanes" in page.error("lane_add", kind="sgd")
    page.send("step")
    page.send("lane_remove", lane=lanes[2]["name"])
    left = page.state()["lanes"]
    assert left == [lane for lane in lanes if lane is not lanes[2]]
    page.send("edit", op="widen", spec_index=0, width=7)
    assert page.state()["lanes"] == left


def test_a_lane_that_joins_at_the_start_stands_where_the_others_stand(page: Page):
    page.send("unbalance", sigma=1.0)
    before = page.frame().content["scales"]
    assert page.ask("lane_add", kind="sgd")["text"] == "SGD 2 joins"
    states = [lane.net.model.state_dict() for lane in page.session.bench.lanes]
    assert all(torch.equal(states[0][key], states[2][key]) for key in states[0])
    assert page.frame().content["scales"] == before
    assert page.frame().content["events"][0]["text"] == "unbalanced, σ = 1"
    page.send("unscale")
    assert page.frame().content["scales"] == {}


def test_a_lane_that_joins_later_starts_the_race_anew(page: Page):
    page.steps(4)
    assert "starts anew" in page.ask("lane_add", kind="sgd", lr=0.2)["text"]
    assert page.session.bench.need_race().position == 0
    assert [lane["lr"] for lane in page.state()["lanes"]] == [0.1, 0.1, 0.2]
    page.send("undo")
    assert page.session.bench.need_race().position == 4
    page.send("redo")
    page.steps(1)
    assert len(page.session.bench.need_race().records) == 3


def test_the_others_go_on_without_the_lane_that_left(page: Page):
    twin = Page("2-6-5-2", data="circle", batch_size=50, epochs=30, seed=1)
    page.steps(4)
    page.send("lr", lane="sgd", value=0.05)
    page.send("lane_remove", lane="sgd")
    race = page.session.bench.need_race()
    assert race.position == 4
    assert {record.lane for record in race.records} == {"ec-sgd"}
    assert race.events == []
    page.steps(3)
    twin.steps(7)
    mine = [record.loss for record in race.records]
    assert mine == [record.loss for record in twin.session.bench.need_race().records if record.lane == "ec-sgd"]
    assert "only lane" in page.error("lane_remove", lane="ec-sgd")
    assert "no lane 'sgd'" in page.error("lane_remove", lane="sgd")
    assert "no lane 'swoosh'" in page.error("lane_add", kind="swoosh")
    assert "learning rate" in page.error("lane_add", kind="sgd", lr=-1)


def test_a_lane_that_plays_on_while_another_leaves(page: Page):
    page.send("play")
    page.session.advance()
    page.send("lane_remove", lane="sgd")
    assert page.session.playing
    page.session.advance()
    assert page.session.bench.need_race().position == 2


def test_the_inspector_counts_rebased_units(page: Page, monkeypatch: pytest.MonkeyPatch):
    assert [lane["rebased"] for lane in page.frame().content["lanes"]] == [0, 0]
    monkeypatch.setattr(eclab.ECSGD, "rebased_units", property(lambda self: 3))
    assert [lane["rebased"] for lane in page.frame().content["lanes"]] == [0, 3]
    assert page.ask("inspect", kind="lane", lane="ec-sgd")["rebased"] == 3


# -- rewinding --------------------------------------------------------------------------------------------------------


def lost_race() -> Page:
    page = Page("64-16-16-10", data="digits", lr={"sgd": 0.1, "ec-sgd": 0.05}, epochs=3)
    page.send("hello")
    now = [0.0]
    page.session.bench.moments._clock = lambda: now[0]
    page.send("play")
    for _ in range(5):
        now[0] += 1
        page.session.advance()
    page.send("lr", lane="sgd", value=1e20)
    while page.session.lane("sgd").state != "diverged":
        page.session.advance()
    return page


def test_a_lost_race_goes_back_to_before_it_was_lost():
    page = lost_race()
    frame = page.frame().content
    lost = next(event for event in frame["events"] if event["kind"] == "diverged")
    assert "step" in lost["text"]
    assert frame["rewind"] is not None
    assert frame["rewind"] < lost["step"]
    page.send("rewind")
    after = page.frame().content
    assert after["step"] == frame["rewind"]
    assert [lane["state"] for lane in after["lanes"]] == ["running", "running"]
    assert after["rewind"] is None
    assert not after["running"]
    page.send("undo")
    assert page.frame().content["lanes"][0]["state"] == "diverged"
    page.send("redo")
    page.steps(1)
    assert page.frame().content["step"] == frame["rewind"] + 1


def test_only_what_was_lost_goes_on_at_a_lower_rate():
    page = lost_race()
    rates = [lane["lr"] for lane in page.frame().content["lanes"]]
    assert rates == [1e20, 0.05]
    page.send("rewind", factor=0.5)
    assert [lane["lr"] for lane in page.frame().content["lanes"]] == [0.05, 0.05]
    assert page.frame().content["events"][-1]["text"] == "SGD lr 0.1 → 0.05"
    page.steps(30)
    assert all(lane["state"] == "running" for lane in page.frame().content["lanes"])


def test_there_is_nothing_to_rewind_to_before_the_first_step(page: Page):
    assert "no earlier step" in page.error("rewind")
    assert "no earlier step" in page.error("rewind", step=-3)


def test_moments_grow_sparser_towards_the_past_and_stay_few(page: Page):
    now = [0.0]
    race, kept = page.session.bench.need_race(), Moments(clock=lambda: now[0])
    for _ in range(150):
        now[0] += 1
        kept.pass_by(race)
        race.step()
    places = [moment.position for moment in kept._kept]
    assert len(places) == moments.MOST_MOMENTS
    assert places[0] == 0
    assert places[-1] == 149
    gaps = [b - a for a, b in pairwise(places)]
    assert max(gaps[:5]) > 3 * max(gaps[-5:])
    assert kept.before(149).position == places[-2]  # type: ignore[union-attr]  # there is one
    kept.went_back(40)
    assert max(moment.position for moment in kept._kept) <= 40


def test_a_network_too_large_for_several_moments_keeps_none(page: Page, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(moments, "MOST_BYTES", 100)
    monkeypatch.setattr("eclab.widgets.acts.MOST_BYTES", 100)
    page.steps(2)
    assert page.frame().content["undo"] is None
    assert "reset the race instead" in page.error("rewind")
    page.send("reset")
    assert page.session.bench.need_race().position == 0


# -- deeds ------------------------------------------------------------------------------------------------------------


def deed(label: str, log: list[str], size: int = 0, key: object = None) -> Deed:
    return Deed(label, lambda: log.append(f"-{label}"), lambda: log.append(f"+{label}"), size, key)


def test_deeds_close_together_with_one_key_are_one():
    now: list[float] = [0.0]
    log: list[str] = []
    line = Deeds(clock=lambda: now[0])
    line.push(deed("a", log, key="k"))
    now[0] = 1.0
    line.push(deed("b", log, key="k"))
    now[0] = 9.0
    line.push(deed("c", log, key="k"))
    line.undo()
    line.undo()
    assert log == ["-c", "-a"]
    line.redo()
    assert log[-1] == "+b"
    assert (line.undoable, line.redoable) == ("b", "c")
    line.push(deed("d", log, key="k"))
    assert line.redoable is None


def test_the_oldest_deeds_are_forgotten(monkeypatch: pytest.MonkeyPatch):
    log: list[str] = []
    line = Deeds()
    for number in range(deeds.MOST_DEEDS + 20):
        line.push(deed(str(number), log))
    count = 0
    while line.undoable:
        line.undo()
        count += 1
    assert count == deeds.MOST_DEEDS
    monkeypatch.setattr(deeds, "MOST_BYTES", 10)
    heavy = Deeds()
    for number in range(5):
        heavy.push(deed(str(number), log, size=4))
    assert [heavy.undo().label, heavy.undo().label, heavy.undoable] == ["4", "3", None]


def test_a_deed_that_cannot_be_undone_stays_where_it_is():
    def fail() -> None:
        raise ValueError("no")

    line = Deeds()
    line.push(Deed("a", fail, fail))
    with pytest.raises(ValueError, match="no"):
        line.undo()
    assert line.undoable == "a"


def test_the_page_knows_at_once_what_it_can_undo(page: Page):
    for cmd, arguments in ACTS:
        got = len(page.got)
        page.send(cmd, **arguments)
        page.session.flush()
        frames = [message.content for message in page.got[got:] if message.content["type"] == "frame"]
        assert frames[-1]["undo"] == page.session.acts.deeds.undoable
        if cmd in ("edit", "preset", "data", "start"):
            assert frames[0]["undo"] == page.session.acts.deeds.undoable
