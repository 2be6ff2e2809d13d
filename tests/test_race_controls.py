"""What can be done to a race while it runs: rates, batches, rescaling, reset; what can be asked of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import eclab
from eclab.errors import EclabError, ScaleError, SettingError
from eclab.race import Race


def small(**settings) -> Race:
    return Race("64-12-12-10", "digits", **{"device": "cpu", "epochs": 2, "seed": 3, **settings})


@pytest.fixture
def race() -> Race:
    return small(dtype=torch.float64)


def weights(race: Race) -> list[dict[str, torch.Tensor]]:
    return [{name: value.clone() for name, value in lane.model.state_dict().items()} for lane in race.lanes]


def same(one: list[dict[str, torch.Tensor]], other: list[dict[str, torch.Tensor]]) -> bool:
    return all(torch.equal(a[name], b[name]) for a, b in zip(one, other, strict=True) for name in a)


def outputs(race: Race) -> list[torch.Tensor]:
    with torch.no_grad():
        return [lane.model(race.task.x[:40]) for lane in race.lanes]


# -- rates, batches, decay --------------------------------------------------------------------------------------------


def test_a_rate_changes_one_lane_or_all_from_the_next_step(race: Race) -> None:
    race.step()
    race.set_lr("sgd", 0.3)
    race.set_lr(None, 0.3)
    race.step()
    assert [record.lr for record in race.records] == [0.1, 0.1, 0.3, 0.3]
    assert [(event.step, event.kind, event.lane, event.text) for event in race.events] == [
        (1, "lr", "sgd", "SGD lr 0.1 → 0.3"),
        (1, "lr", "ec-sgd", "EC-SGD lr 0.1 → 0.3"),
    ]
    race.set_lr(None, 0.05)
    assert race.events[-1].text == "lr 0.3 → 0.05"
    assert race.events[-1].lane is None


def test_setting_what_is_set_leaves_no_event(race: Race) -> None:
    race.set_lr(None, 0.1)
    race.set_batch_size(64)
    race.set_weight_decay(0.0)
    race.set_epochs(2)
    assert race.events == []


def test_batch_size_and_epochs_change_the_steps_left(race: Race) -> None:
    samples = len(race.task.x)
    race.step()
    race.set_batch_size(100)
    assert race.total_steps == 1 + math.ceil((samples - 64) / 100) + math.ceil(samples / 100)
    race.set_epochs(3)
    assert race.total_steps == 1 + math.ceil((samples - 64) / 100) + 2 * math.ceil(samples / 100)
    race.run()
    assert race.finished
    assert race.order.seen == 3
    with pytest.raises(SettingError, match="the number of epochs is 2"):
        race.set_epochs(2)
    race.set_epochs(4)
    assert race.total_steps > race.position
    assert [event.kind for event in race.events] == ["batch", "epochs", "epochs"]


def test_weight_decay_reaches_the_optimizers(race: Race) -> None:
    race.set_weight_decay(0.01)
    assert [lane.optimizer.param_groups[0]["weight_decay"] for lane in race.lanes] == [0.01, 0.01]
    race.set_weight_decay(0.0, "sgd")
    assert [lane.weight_decay for lane in race.lanes] == [0.0, 0.01]


@pytest.mark.parametrize("lr", [0, -1, math.nan, math.inf, "x", None, True])
def test_a_bad_rate_changes_nothing(race: Race, lr) -> None:
    with pytest.raises(SettingError, match="the learning rate"):
        race.set_lr(None, lr)
    assert [lane.lr for lane in race.lanes] == [0.1, 0.1]
    assert race.events == []


def test_other_bad_settings_change_nothing(race: Race) -> None:
    for call in (
        lambda: race.set_batch_size(10_000),
        lambda: race.set_batch_size(0),
        lambda: race.set_weight_decay(-1),
        lambda: race.set_lr("nobody", 0.1),
        lambda: race.unbalance(0),
        lambda: race.unbalance(math.nan),
        lambda: race.run(steps=0),
        lambda: race.decision_map("sgd"),
        lambda: race.map_extent,
    ):
        with pytest.raises(SettingError):
            call()
    assert race.events == []
    assert race.batch_size == 64


# -- rescaling --------------------------------------------------------------------------------------------------------


def test_rescaling_moves_all_lanes_and_no_function(race: Race) -> None:
    race.run(steps=5)
    before, was = outputs(race), weights(race)
    used = race.rescale({"0": torch.linspace(0.5, 2.0, 12), "2": 3.0})
    assert used["2"].tolist() == [3.0] * 12
    for now, then in zip(outputs(race), before, strict=True):
        assert torch.allclose(now, then, rtol=1e-9)
    assert torch.allclose(race.lanes[0].model.get_parameter("4.weight"), was[0]["4.weight"] / 3)
    assert torch.allclose(race.lanes[1].model.get_parameter("4.weight"), was[1]["4.weight"] / 3)
    assert [(event.kind, event.text) for event in race.events] == [("rescale", "rescaled 12 units of 0, 12 units of 2")]


def test_notes_of_rescalings(race: Race) -> None:
    one = torch.ones(12)
    one[3] = 10.0
    race.rescale({"0": one})
    race.rescale({"0": one}, note="")
    race.rescale({"0": one}, note="dragged", lanes=["sgd"])
    assert [(event.text, event.lane) for event in race.events] == [("rescaled 0[3] × 10", None), ("dragged", "sgd")]


def test_unbalance_mid_run_is_the_same_in_all_lanes_and_another_each_time(race: Race) -> None:
    race.run(steps=3)
    before = outputs(race)
    first = race.unbalance(2.0)
    second = race.unbalance(2.0)
    assert set(first) == {"0", "2"}
    assert not torch.equal(first["0"], second["0"])
    for now, then in zip(outputs(race), before, strict=True):
        assert torch.allclose(now, then, rtol=1e-8)
    assert [event.text for event in race.events] == ["unbalanced, σ = 2"] * 2
    again = small(dtype=torch.float64)
    again.run(steps=3)
    assert torch.equal(again.unbalance(2.0)["0"], first["0"]), "it comes from the seed"


def test_unbalancing_mid_run_is_nothing_to_ec_sgd() -> None:
    plain, moved = small(dtype=torch.float64), small(dtype=torch.float64)
    for race in (plain, moved):
        race.run(steps=5)
    moved.unbalance(1.5)
    for race in (plain, moved):
        race.run(steps=10)
    sgd, ec = (float((a - b).abs().max() / a.abs().max()) for a, b in zip(outputs(plain), outputs(moved), strict=True))
    assert ec < 1e-7
    assert sgd > 1e-3


@pytest.mark.parametrize(
    "scales",
    [{"0": 0.0}, {"0": -1.0}, {"0": math.nan}, {"9": 2.0}, {"4": 2.0}, {"0": [1.0, 2.0]}, {"0": "x"}, {"0": None}, "x"],
)
def test_a_bad_rescaling_changes_nothing(race: Race, scales) -> None:
    before = weights(race)
    with pytest.raises(EclabError):
        race.rescale(scales)
    assert same(before, weights(race))
    assert race.events == []


def test_a_rescaling_that_overflows_in_one_lane_is_taken_back_in_all() -> None:
    race = small()
    with torch.no_grad():
        race.lanes[1].model.get_parameter("0.weight").mul_(1e10)
    before = weights(race)
    with pytest.raises(ScaleError):
        race.rescale({"0": 1e30})
    assert same(before, weights(race))


def test_lanes_that_diverged_are_left_alone() -> None:
    race = small(lanes="sgd:1e12,ec-sgd", epochs=1)
    race.run()
    before = weights(race)
    race.rescale({"0": 2.0})
    after = weights(race)
    assert same(before[:1], after[:1])
    assert not same(before[1:], after[1:])
    with pytest.raises(SettingError, match="no lane is running"):
        race.rescale({"0": 2.0}, lanes=["sgd"])


# -- reset ------------------------------------------------------------------------------------------------------------


def test_reset_goes_back_to_the_start_and_runs_the_same_again() -> None:
    race = small(unbalance=0.5, momentum=0.9, lr=0.02)
    first = race.run(steps=8)
    start = race.start_net.model.state_dict()
    race.rescale({"0": 5.0})
    race.reset()
    assert race.position == 0
    assert len(race.records) == 0
    assert race.events == []
    assert all(torch.equal(lane.model.state_dict()[name], start[name]) for lane in race.lanes for name in start)
    second = race.run(steps=8)
    assert first.frame["loss"].equals(second.frame["loss"])


def test_reset_keeps_the_settings_as_they_are_now() -> None:
    race = small()
    race.set_lr("sgd", 0.03)
    race.set_batch_size(32)
    race.set_epochs(4)
    race.reset()
    assert [lane.lr for lane in race.lanes] == [0.03, 0.1]
    assert (race.batch_size, race.epochs) == (32, 4)


def test_reset_revives_a_lane_that_diverged() -> None:
    race = small(lanes="sgd:1e12,ec-sgd", epochs=1)
    race.run()
    race.set_lr("sgd", 0.1)
    race.reset()
    race.run()
    assert [lane.state for lane in race.lanes] == ["running", "running"]
    assert race.lanes[0].verdict == ""


# -- questions --------------------------------------------------------------------------------------------------------


def test_decision_map_is_the_network_on_a_grid_top_row_first() -> None:
    race = Race("2-8-8-2", "spiral", device="cpu", epochs=1)
    race.run(steps=5)
    chances = race.decision_map("ec-sgd", 17)
    left, right, bottom, top = race.map_extent
    assert chances.shape == (17, 17, 2)
    assert chances.dtype == np.float32
    assert np.allclose(chances.sum(-1), 1, atol=1e-6)
    corners = torch.tensor([[left, top], [right, top], [left, bottom], [(left + right) / 2, (top + bottom) / 2]])
    with torch.no_grad():
        expected = torch.softmax(race.lane("ec-sgd").model(corners.float()), 1).numpy()
    found = np.stack([chances[0, 0], chances[0, -1], chances[-1, 0], chances[8, 8]])
    assert np.allclose(found, expected, atol=1e-5)
    x = race.task.x
    assert left < float(x[:, 0].min())
    assert float(x[:, 1].max()) < top
    with pytest.raises(SettingError, match="the resolution is 1"):
        race.decision_map("sgd", 1)


def test_speed_and_overhead(race: Race) -> None:
    assert race.steps_per_second("sgd") is None
    assert race.overhead() is None
    race.run(steps=20)
    speed, overhead = race.steps_per_second("sgd"), race.overhead()
    assert speed is not None
    assert overhead is not None
    recent = [sum(pair) for pair in _milliseconds(race, "sgd")]
    assert speed == pytest.approx(1000 / np.median(recent))
    assert overhead > -100
    assert small(lanes="sgd").overhead() is None


def _milliseconds(race: Race, lane: str) -> list[tuple[float, float]]:
    return [(one.ms_forward_backward, one.ms_step) for one in race.records if one.lane == lane]


def test_evaluation_can_be_broken_off(race: Race) -> None:
    race.interrupt_with(lambda: True)
    records = race.run(steps=23).frame
    assert records["test_acc"].isna().all()
    race.interrupt_with(None)
    assert race.run().frame["test_acc"].notna().any()


def test_evaluation_uses_evaluation_mode_and_leaves_training_mode() -> None:
    model = torch.nn.Sequential(
        torch.nn.Linear(64, 20), torch.nn.ReLU(), torch.nn.Dropout(0.9), torch.nn.Linear(20, 10)
    )
    race = Race(model, "digits", device="cpu")
    race.run(steps=10)
    assert race.evaluate("sgd") == race.evaluate("sgd")
    assert all(lane.model.training for lane in race.lanes)


def test_lanes_are_members_of_different_classes_after_a_step(race: Race) -> None:
    x = race.task.x[:20]
    assert eclab.same_class(race.lanes[0].model, race.lanes[1].model, x)
    race.step()
    assert not eclab.same_class(race.lanes[0].model, race.lanes[1].model, x)
