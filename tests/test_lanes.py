"""Every optimizer that can race: it runs, is continued bit for bit, and keeps or breaks its curve when unbalanced."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from eclab.classes import condition_
from eclab.cli import main
from eclab.errors import CheckpointError, SettingError
from eclab.race import Race, kinds, parse_lanes
from eclab.race.kinds import KINDS
from eclab.widgets.laning import carry_over

EVERY = pytest.mark.parametrize("kind", kinds())

RATES = {"adam": 0.003, "adamw": 0.003, "rmsprop": 0.001, "ec-adam": 0.003, "ec-sgd": 0.05, "ec-schedule-free": 0.1}

INVARIANT = {
    "ec-sgd",
    "ec-sgd-balanced",
    "ec-adam",
    "path-sgd",
    "pathcond-sgd",
    "ec-schedule-free",
}


def race_of(kind: str, net: str = "64-12-8-10", **settings: object) -> Race:
    given = {"lanes": [f"{kind}:{RATES.get(kind, 0.05)}"], "device": "cpu", "epochs": 1, "seed": 3, "eval_every": 5}
    return Race(net, "digits", **(given | settings))  # type: ignore[arg-type]


def weights(race: Race) -> list[Tensor]:
    return [value.clone() for lane in race.lanes for value in lane.model.state_dict().values()]


def losses(race: Race) -> list[float]:
    return [float(value) for value in race.records.frame()["loss"]]


def same(one: list[Tensor], two: list[Tensor]) -> bool:
    return all(torch.equal(p, q) for p, q in zip(one, two, strict=True))


@EVERY
@pytest.mark.parametrize("net", ["64-12-8-10", "1x8x8-c4k3-p2-f-10"])
def test_it_runs_and_learns(kind: str, net: str) -> None:
    race = race_of(kind, net, epochs=4)
    race.run()
    found = losses(race)
    assert race.lanes[0].running, race.lanes[0].verdict
    assert all(map(math.isfinite, found))
    assert sum(found[-10:]) < 0.9 * sum(found[:10])
    assert race.evaluate(kind) > 0.3


@EVERY
def test_it_is_continued_bit_for_bit(kind: str, tmp_path: Path) -> None:
    race = race_of(kind, momentum=0.5, weight_decay=1e-4)
    race.run(steps=7)
    race.checkpoint(tmp_path / "half.safetensors")
    race.run(steps=6)
    again = Race.resume(tmp_path / "half.safetensors", device="cpu")
    again.run(steps=6)
    assert again.position == race.position == 13
    assert same(weights(again), weights(race))
    assert losses(again) == losses(race)
    assert list(again.records.frame()["test_acc"].dropna()) == list(race.records.frame()["test_acc"].dropna())


@EVERY
def test_a_reset_begins_as_it_began(kind: str) -> None:
    race = race_of(kind)
    start = weights(race)
    race.run(steps=4)
    first = losses(race)
    race.reset()
    assert same(weights(race), start)
    race.run(steps=4)
    assert losses(race) == first


@EVERY
def test_only_class_space_lanes_keep_their_curve_when_unbalanced(kind: str) -> None:
    plain, unbalanced = (race_of(kind, dtype=torch.float64, unbalance=sigma) for sigma in (0.0, 1.0))
    for race in (plain, unbalanced):
        race.run(steps=20)
    one, two = losses(plain), losses(unbalanced)
    assert two[0] == pytest.approx(one[0], rel=1e-12)
    if kind in INVARIANT:
        assert two == pytest.approx(one, rel=1e-9)
    else:
        assert two != pytest.approx(one, rel=1e-2)


def test_enorm_to_convergence_keeps_its_curve_too() -> None:
    lane = {"optimizer": "enorm-sgd", "lr": 0.05, "sweeps": None}
    races = [race_of("", lanes=[lane], dtype=torch.float64, unbalance=sigma) for sigma in (0.0, 1.0)]
    for race in races:
        race.run(steps=20)
    assert losses(races[0]) == pytest.approx(losses(races[1]), rel=1e-9)


def test_pathcond_starts_at_the_conditioned_member_of_the_same_class() -> None:
    race = Race("64-12-8-10", "digits", ["sgd", "pathcond-sgd"], device="cpu", dtype=torch.float64)
    plain, conditioned = race.lanes
    x = race.task.x[:50]
    assert torch.allclose(plain.model(x), conditioned.model(x), rtol=1e-10, atol=1e-12)
    one, two = (lane.model.get_parameter("0.weight") for lane in race.lanes)
    assert not torch.allclose(one, two, rtol=1e-2)


# -- schedule-free ----------------------------------------------------------------------------------------------------

FREE = pytest.mark.parametrize("kind", ["schedule-free", "ec-schedule-free"])


@FREE
def test_schedule_free_is_judged_at_its_average_and_looking_changes_nothing(kind: str) -> None:
    looked, blind = race_of(kind), race_of(kind, eval_every=10_000)
    for _ in range(12):
        looked.step()
        looked.evaluate(kind)
        looked.result()
        blind.step()
    assert same(weights(looked), weights(blind))
    lane = looked.lanes[0]
    training = weights(looked)
    with lane.judged():
        averaged = weights(looked)
        assert not lane.optimizer.param_groups[0]["train_mode"]
        correct = float((lane.model(looked.task.x_test).argmax(1) == looked.task.y_test).double().mean())
    assert not same(averaged, training)
    assert same(weights(looked), training)
    assert lane.optimizer.param_groups[0]["train_mode"]
    assert looked.evaluate(kind) == pytest.approx(correct)
    assert same(list(looked.result().weights[kind].values()), averaged)


def test_ec_schedule_free_averages_coordinates() -> None:
    """Where it is judged is the same function from every member, for which weights would have to be averaged in v."""
    races = [race_of("ec-schedule-free", dtype=torch.float64, unbalance=sigma) for sigma in (0.0, 1.0)]
    outputs = []
    for race in races:
        race.run(steps=15)
        with race.lanes[0].judged():
            outputs.append(race.lanes[0].model(race.task.x_test))
    assert torch.allclose(outputs[0], outputs[1], rtol=1e-9, atol=1e-10)


def test_a_missing_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "schedulefree", None)
    with pytest.raises(SettingError, match="pip install schedulefree"):
        race_of("schedule-free")


# -- lanes as they are written ----------------------------------------------------------------------------------------


def test_colours_and_labels_are_stable() -> None:
    for others in ("sgd,ec-sgd", "path-sgd,sgd,adam,ec-sgd"):
        found = {lane.kind: (lane.colour, lane.label) for lane in parse_lanes(others)}
        assert (found["sgd"], found["ec-sgd"]) == ((0, "SGD"), (1, "EC-SGD"))
    own = [kind.colour for kind in KINDS.values() if kind.colour is not None]
    assert sorted(own) == list(range(8))
    for lanes in (list(kinds())[:8], list(kinds())[-8:], ["adam"] * 8):
        assert sorted(lane.colour for lane in parse_lanes(lanes)) == list(range(8))
    assert len({kind.label for kind in KINDS.values()}) == len(KINDS)


def test_momentum_is_for_those_that_have_one() -> None:
    race = Race("64-8-10", "digits", ["sgd", "adam", "ec-adam"], momentum=0.9, lr=0.01, device="cpu")
    assert [lane.momentum for lane in race.lanes] == [0.9, 0.0, 0.0]
    for kind in ("adam", "adamw", "ec-adam"):
        with pytest.raises(SettingError, match="option momentum"):
            parse_lanes([{"optimizer": kind, "momentum": 0.9}])


def test_options_reach_the_optimizer() -> None:
    lanes = [
        {"optimizer": "adam", "betas": [0.8, 0.9]},
        {"optimizer": "ec-adam", "metric": "balanced"},
        {"optimizer": "enorm-sgd", "sweeps": 3},
        {"optimizer": "schedule-free", "warmup_steps": 10},
    ]
    race = Race("64-8-10", "digits", lanes, lr=0.01, device="cpu")
    race.run(steps=2)
    groups = [lane.optimizer.param_groups[0] for lane in race.lanes]
    assert tuple(groups[0]["betas"]) == (0.8, 0.9)
    assert (groups[2]["sweeps"], groups[3]["warmup_steps"]) == (3, 10)
    with pytest.raises(SettingError, match="cannot be built"):
        Race("64-8-10", "digits", [{"optimizer": "adam", "betas": 3}], device="cpu")


def test_a_checkpoint_of_another_optimizer_is_refused(tmp_path: Path) -> None:
    race = race_of("path-sgd")
    race.run(steps=2)
    race.checkpoint(tmp_path / "one.safetensors")
    other = race_of("enorm-sgd")
    with pytest.raises(CheckpointError, match="lanes"):
        other.restore(tmp_path / "one.safetensors")


def test_the_commands_help_names_every_lane(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["race", "--help"])
    named = capsys.readouterr().out.split("lanes: ")[1].split(". All")[0].replace("\n", " ").split(", ")
    assert [name.strip() for name in named] == list(kinds())


def test_a_lane_that_joins_in_the_lab_is_prepared_where_the_others_stand() -> None:
    """The first lane's weights, which may have been rescaled meanwhile, are where the new one begins."""
    old = Race("64-8-10", "digits", ["sgd"], device="cpu", dtype=torch.float64)
    old.unbalance(1.0)
    new = Race("64-8-10", "digits", ["sgd", "pathcond-sgd"], device="cpu", dtype=torch.float64)
    carry_over(old, new)
    first, joined = (lane.model for lane in new.lanes)
    x = new.task.x[:50]
    assert torch.allclose(first(x), joined(x), rtol=1e-10, atol=1e-12)
    assert torch.allclose(condition_(new.lanes[1].net).scales["0"], torch.ones(8, dtype=torch.float64), rtol=1e-9)
    assert not torch.allclose(condition_(new.lanes[0].net).scales["0"], torch.ones(8, dtype=torch.float64), rtol=1e-2)


def test_the_command_races_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lanes = "adam:0.003,path-sgd:0.05,enorm-sgd:0.05,pathcond-sgd:0.05,schedule-free:0.1,ec-adam:0.003"
    arguments = ["race", "--net", "64-8-10", "--lanes", lanes, "--epochs", "1", "--limit", "200", "--device", "cpu"]
    assert main([*arguments, "--out", str(tmp_path / "run")]) == 0
    text = capsys.readouterr().out
    for label in ("Adam", "Path-SGD", "ENorm-SGD", "PathCond, SGD", "Schedule-free", "EC-Adam"):
        assert label in text
