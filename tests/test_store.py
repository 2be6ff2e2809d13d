"""Checkpoints continue bit for bit; runs are written once, whole, and read back; broken files are refused."""

from __future__ import annotations

import json
import re
import signal
import threading
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import eclab
from eclab.errors import CheckpointError
from eclab.network.spec import NetworkSpec
from eclab.race import COLUMNS, Race, checkpoint, load
from eclab.race.files import whole_file
from eclab.race.interrupt import whole_steps

EXACT = [name for name in COLUMNS if not name.startswith("ms_") and name != "time"]


def small(**settings) -> Race:
    return Race("64-12-12-10", "digits", **{"device": "cpu", "epochs": 2, "seed": 3, **settings})


def assert_same_race(one: Race, other: Race) -> None:
    assert one.records.frame()[EXACT].equals(other.records.frame()[EXACT])
    assert one.events == other.events
    assert (one.position, one.epochs, one.batch_size, one.order.state()[0]) == (
        *(other.position, other.epochs, other.batch_size),
        other.order.state()[0],
    )
    for mine, theirs in zip(one.lanes, other.lanes, strict=True):
        assert (mine.state, mine.verdict, mine.lr, mine.guarded) == (
            *(theirs.state, theirs.verdict),
            *(theirs.lr, theirs.guarded),
        )
        here, there = mine.model.state_dict(), theirs.model.state_dict()
        assert all(torch.equal(here[name], there[name]) for name in here)
        assert_same_state(mine.optimizer.state_dict(), theirs.optimizer.state_dict())


def assert_same_state(one: dict, other: dict) -> None:
    assert one["param_groups"] == other["param_groups"]
    assert one["state"].keys() == other["state"].keys()
    for number, state in one["state"].items():
        for key, value in state.items():
            twin = other["state"][number][key]
            assert torch.equal(value, twin) if isinstance(value, torch.Tensor) else value == twin


# -- checkpoints ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_ten_steps_a_checkpoint_and_ten_more_are_twenty_steps_bit_for_bit(tmp_path: Path, momentum: float) -> None:
    settings = {"momentum": momentum, "lr": 0.02, "lanes": "sgd,ec-sgd,sgd:0.05", "weight_decay": 1e-4}

    def first_half(race: Race) -> None:
        race.run(steps=4)
        race.set_lr("ec-sgd", 0.03)
        race.set_batch_size(50)
        race.unbalance(0.5)
        race.run(steps=6)

    def second_half(race: Race) -> None:
        race.run(steps=2)
        race.unbalance(0.3)
        race.set_lr(None, 0.01)
        race.run(steps=8)

    straight, stopped = small(**settings), small(**settings)
    first_half(straight)
    second_half(straight)
    first_half(stopped)
    resumed = Race.resume(stopped.checkpoint(tmp_path / "a.safetensors"))
    assert_same_race(resumed, stopped)
    second_half(resumed)
    assert_same_race(resumed, straight)
    assert straight.position == 20


def test_a_checkpoint_goes_on_across_an_epoch_and_after_a_divergence(tmp_path: Path) -> None:
    settings = {"lanes": "sgd:1e12,ec-sgd", "batch_size": 300, "epochs": 3}
    straight, stopped = small(**settings), small(**settings)
    straight.run()
    stopped.run(steps=5)
    assert stopped.order.offset == 0
    resumed = Race.resume(stopped.checkpoint(tmp_path))
    assert resumed.lanes[0].state == "diverged"
    resumed.run()
    assert_same_race(resumed, straight)


def test_reset_after_resume_starts_where_the_race_started(tmp_path: Path) -> None:
    race = small(unbalance=1.0)
    race.run(steps=5)
    resumed = Race.resume(race.checkpoint(tmp_path / "a.safetensors"))
    resumed.reset()
    race.reset()
    race.run(steps=5)
    resumed.run(steps=5)
    assert_same_race(resumed, race)


def test_own_models_and_own_data_are_passed_again(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 5, generator=generator)
    data = (x, (x.sum(1) > 0).long())

    def model(width: int = 6) -> nn.Module:
        return nn.Sequential(nn.Linear(5, width), nn.LeakyReLU(), nn.Linear(width, 2))

    race = Race(model(), data, device="cpu", batch_size=10)
    race.run(steps=3)
    path = race.checkpoint(tmp_path / "own.safetensors")
    resumed = Race.resume(path, model=model(), data=data)
    race.run(steps=3)
    resumed.run(steps=3)
    assert_same_race(resumed, race)
    with pytest.raises(CheckpointError, match="a model of your own"):
        Race.resume(path, data=data)
    with pytest.raises(CheckpointError, match=r"another network: 0\.bias is \(6,\) there and \(7,\) here"):
        Race.resume(path, model=model(7), data=data)
    with pytest.raises(CheckpointError, match="the data of the checkpoint cannot be loaded"):
        Race.resume(path, model=model())
    with pytest.raises(CheckpointError, match="other data"):
        Race.resume(path, model=model(), data=(2 * x, data[1]))
    with pytest.raises(CheckpointError, match="another network or other data"):
        Race.resume(path, model=model(), data="digits")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.99])
def test_a_truncated_checkpoint_changes_nothing(tmp_path: Path, share: float) -> None:
    race = small()
    race.run(steps=3)
    path = race.checkpoint(tmp_path / "a.safetensors")
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    _refused(race, path, "truncated or no checkpoint")


def _refused(race: Race, path: Path, text: str) -> None:
    before = {
        lane.name: {name: value.clone() for name, value in lane.model.state_dict().items()} for lane in race.lanes
    }
    position, records = race.position, len(race.records)
    with pytest.raises(CheckpointError, match=text):
        race.restore(path)
    assert (race.position, len(race.records)) == (position, records)
    for lane in race.lanes:
        assert all(torch.equal(value, before[lane.name][name]) for name, value in lane.model.state_dict().items())


def _rewrite(path: Path, change) -> None:
    with safe_open(str(path), framework="pt") as file:
        numbers = json.loads(file.metadata()["eclab.race"])
    tensors = load_file(str(path))
    change(numbers, tensors)
    text = json.dumps(numbers)
    metadata = {"eclab.race": text, "eclab.checksum": checkpoint._checksum(text, tensors)}
    save_file(tensors, str(path), metadata=metadata)


def test_no_changed_byte_goes_unnoticed(tmp_path: Path) -> None:
    race = small(momentum=0.9)
    race.run(steps=3)
    path = race.checkpoint(tmp_path / "a.safetensors")
    content = path.read_bytes()
    for at in range(0, len(content), max(1, len(content) // 199)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        _refused(race, path, "truncated|damaged|schema|no checkpoint|no JSON")
    path.write_bytes(content)
    race.restore(path)


def test_checkpoints_of_another_race_change_nothing(tmp_path: Path) -> None:
    race = small()
    race.run(steps=2)
    wide = Race("64-13-12-10", "digits", device="cpu").checkpoint(tmp_path / "wide.safetensors")
    _refused(race, wide, "belongs to another network")
    lanes = small(lanes="ec-sgd,sgd").checkpoint(tmp_path / "lanes.safetensors")
    _refused(race, lanes, "has the lanes ec-sgd, sgd")
    data = Race("64-12-12-10", eclab.data.load("digits", limit=200), device="cpu").checkpoint(
        tmp_path / "d.safetensors"
    )
    _refused(race, data, "other data")
    double = small(dtype=torch.float64).checkpoint(tmp_path / "double.safetensors")
    _refused(race, double, "a race in float64")
    leaky = NetworkSpec.parse("64-12-12-10", activation="leaky_relu")
    other = Race(leaky, "digits", device="cpu").checkpoint(tmp_path / "leaky.safetensors")
    _refused(race, other, "computes something else")
    _refused(race, tmp_path / "nowhere.safetensors", "there is no checkpoint")


def test_newer_and_damaged_checkpoints_change_nothing(tmp_path: Path) -> None:
    race = small(momentum=0.9)
    race.run(steps=2)

    def newer(numbers, _):
        numbers["schema"] = 2

    def headless(numbers, _):
        del numbers["position"]

    def stranger(numbers, _):
        numbers["config"]["lanes"][0]["kind"] = "magic"

    def odd(numbers, _):
        numbers["config"]["colour"] = 1

    def armless(_, tensors):
        del tensors["lane/1/model/2.weight"]

    def orderless(_, tensors):
        del tensors["order"]

    def groupless(numbers, _):
        numbers["lanes"][1]["groups"] = []

    cases = {
        newer: "schema version 2",
        headless: "lacks position",
        stranger: "the lane magic",
        odd: "cannot be read",
        armless: "2.weight is missing there",
        orderless: "incomplete",
        groupless: "chart",
    }
    for change, text in cases.items():
        path = race.checkpoint(tmp_path / "a.safetensors")
        _rewrite(path, change)
        _refused(race, path, text)
    save_file({"a": torch.zeros(1)}, str(tmp_path / "a.safetensors"))
    _refused(race, tmp_path / "a.safetensors", "no checkpoint of a race")
    for text, said in (("[1]", "are a list"), ("{", "are no JSON"), ('{"schema": true}', "schema version True")):
        save_file({"a": torch.zeros(1)}, str(tmp_path / "a.safetensors"), metadata={"eclab.race": text})
        _refused(race, tmp_path / "a.safetensors", said)


@pytest.mark.parametrize("chart", ["strongest", {"0[3]": ("0.weight", (3, 5))}])
def test_a_lane_with_another_chart_goes_on_from_a_checkpoint(tmp_path: Path, chart) -> None:
    race = small(lanes=[{"optimizer": "ec-sgd", "chart": chart}], start="model", lr=1e-6)
    race.run(steps=2)
    resumed = Race.resume(race.checkpoint(tmp_path / "a.safetensors"), device="cpu")
    race.run(steps=2)
    resumed.run(steps=2)
    assert_same_race(resumed, race)
    assert resumed.config == race.config


def test_a_checkpoint_knows_how_its_data_were_loaded(tmp_path: Path) -> None:
    data = eclab.data.load("spiral", seed=4, noise=0.2, samples=90, limit=80)
    race = Race("2-8-2", data, batch_size=20, device="cpu")
    race.run(steps=3)
    resumed = Race.resume(race.checkpoint(tmp_path / "a.safetensors"), device="cpu")
    race.run(steps=3)
    resumed.run(steps=3)
    assert_same_race(resumed, race)
    assert race.result().config["data"]["recipe"] == dict(data.recipe)


def test_files_have_the_rights_the_user_gives_new_files(tmp_path: Path) -> None:
    race = small()
    race.run(steps=1)
    (tmp_path / "plain").touch()
    race.checkpoint(tmp_path / "a.safetensors")
    race.result().save(tmp_path / "run")
    rights = {one.stat().st_mode for one in tmp_path.rglob("*") if one.is_file()}
    assert rights == {(tmp_path / "plain").stat().st_mode}


def test_a_checkpoint_holds_no_pickle_and_is_one_file(tmp_path: Path) -> None:
    race = small()
    path = race.checkpoint(tmp_path / "deep" / "er" / "a.safetensors")
    assert [one.name for one in path.parent.iterdir()] == ["a.safetensors"]
    assert set(load_file(str(path))) >= {"order", "records", "start/0.weight", "lane/1/model/4.weight"}


def test_a_race_cut_off_within_a_step_is_not_checkpointed(tmp_path: Path) -> None:
    race = small()
    race.lanes[1].model.register_forward_hook(_fail)
    with pytest.raises(RuntimeError):
        race.step()
    with pytest.raises(CheckpointError, match="in the middle of a step"):
        race.checkpoint(tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


def _fail(*_):
    raise RuntimeError("out of memory")


def test_what_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")

    def fail_half_way() -> None:
        with whole_file(path) as temporary:
            temporary.write_text("new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    assert path.read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["a"]
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match="cannot be written"):
        small().checkpoint(tmp_path / "file" / "a.safetensors")


def test_ctrl_c_waits_for_the_end_of_a_step() -> None:
    race = small()
    race.lanes[0].model.register_forward_hook(lambda *_: signal.raise_signal(signal.SIGINT))
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        race.run()
    assert race.position == 1
    assert len(race.records) == 2
    assert race.broken == ""
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_second_ctrl_c_gets_through_and_other_threads_are_left_alone() -> None:
    done = []

    def interrupted_twice() -> None:
        with whole_steps():
            signal.raise_signal(signal.SIGINT)
            done.append(1)
            signal.raise_signal(signal.SIGINT)
            done.append(2)

    with pytest.raises(KeyboardInterrupt):
        interrupted_twice()
    assert done == [1]

    def quietly() -> None:
        with whole_steps():
            done.append(3)

    thread = threading.Thread(target=quietly)
    thread.start()
    thread.join()
    assert done == [1, 3]


# -- runs -------------------------------------------------------------------------------------------------------------


def test_a_run_is_read_back_as_it_was(tmp_path: Path) -> None:
    race = small(lanes="sgd:1e12,ec-sgd")
    race.run(steps=5)
    race.set_lr("ec-sgd", 0.2)
    result = race.run()
    folder = result.save(tmp_path / "run")
    again = load(folder)
    assert again.frame.equals(result.frame)
    assert again.events == result.events
    assert again.lanes == result.lanes
    assert again.config == result.config
    assert str(again.verdict()) == str(result.verdict())
    assert list(again.weights) == ["sgd", "ec-sgd"]
    for lane, tensors in again.weights.items():
        assert all(torch.equal(tensors[name], result.weights[lane][name]) for name in result.weights[lane])
    assert sorted(one.relative_to(folder).as_posix() for one in folder.rglob("*") if one.is_file()) == [
        "config.json",
        "metrics.parquet",
        "weights/ec-sgd.safetensors",
        "weights/sgd.safetensors",
    ]


def test_the_weights_of_a_result_are_a_copy() -> None:
    race = small()
    result = race.run(steps=2)
    before = result.weights["sgd"]["0.weight"].clone()
    race.run(steps=2)
    assert torch.equal(before, result.weights["sgd"]["0.weight"])


def test_a_run_says_how_to_repeat_it(tmp_path: Path) -> None:
    form = json.loads((small(unbalance=0.5).run(steps=2).save(tmp_path / "run") / "config.json").read_text())
    assert form["schema"] == 1
    assert form["seed"] == 3
    assert form["device"].startswith("CPU")
    assert form["versions"]["torch"] == str(torch.__version__)
    assert form["settings"]["unbalance"] == 0.5
    assert form["network"]["spec"]["layers"][0] == {"type": "linear", "width": 12, "bias": False}
    assert (form["network"]["m"], form["network"]["H"]) == (64 * 12 + 12 * 12 + 12 * 10, 24)
    assert form["data"]["name"] == "digits"
    assert form["git"] is None or re.fullmatch("[0-9a-f]{40}\\+?", form["git"])
    assert (form["position"], form["finished"], form["rows"]) == (2, False, 4)


def test_runs_are_never_overwritten(tmp_path: Path) -> None:
    folder = small().run(steps=1).save(tmp_path / "run")
    before = {one: one.read_bytes() for one in folder.rglob("*") if one.is_file()}
    with pytest.raises(CheckpointError, match="already holds a run"):
        small().run(steps=2).save(folder)
    assert before == {one: one.read_bytes() for one in folder.rglob("*") if one.is_file()}
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="is a file"):
        small().run(steps=1).save(tmp_path / "file")


def test_broken_runs_are_refused(tmp_path: Path) -> None:
    result = small().run(steps=3)

    def broken(number: int) -> Path:
        return result.save(tmp_path / f"run{number}")

    with pytest.raises(CheckpointError, match="holds no run"):
        load(tmp_path / "nowhere")
    folder = broken(1)
    (folder / "config.json").write_text((folder / "config.json").read_text()[:100])
    with pytest.raises(CheckpointError, match="truncated or no JSON"):
        load(folder)
    folder = broken(2)
    form = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**form, "schema": 99}))
    with pytest.raises(CheckpointError, match="schema version 99"):
        load(folder)
    (folder / "config.json").write_text(json.dumps({"schema": 1}))
    with pytest.raises(CheckpointError, match=r"lacks lanes, events, versions, .*rows"):
        load(folder)
    for changes in ({"lanes": [{"name": "sgd"}]}, {"events": ["x"]}, {"lanes": None}, {"rows": "6"}, {"seed": None}):
        (folder / "config.json").write_text(json.dumps({**form, **changes}))
        with pytest.raises(CheckpointError, match=r"none|something else"):
            load(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="is no run"):
        load(folder)
    (folder / "config.json").write_text(json.dumps({**form, "rows": 1000}))
    with pytest.raises(CheckpointError, match="has 6 rows"):
        load(folder)
    folder = broken(3)
    (folder / "metrics.parquet").write_bytes((folder / "metrics.parquet").read_bytes()[:500])
    with pytest.raises(CheckpointError, match=r"metrics\.parquet is missing or truncated"):
        load(folder)
    folder = broken(4)
    (folder / "weights" / "sgd.safetensors").write_bytes(b"")
    again = load(folder)
    assert again.weights["ec-sgd"]
    with pytest.raises(CheckpointError, match=r"sgd\.safetensors is missing or truncated"):
        again.weights["sgd"]
    with pytest.raises(KeyError):
        again.weights["nobody"]


# -- the verdict ------------------------------------------------------------------------------------------------------


def test_the_verdict_gives_numbers_and_promises_nothing() -> None:
    race = small(lanes="sgd:1e12,ec-sgd,sgd:0.1", epochs=1)
    result = race.run()
    verdict = result.verdict()
    lost, ec, sgd = verdict.rows
    assert (lost.state, lost.last_accuracy, lost.best_accuracy) == ("diverged", None, None)
    assert ec.last_accuracy == race.evaluate("ec-sgd")
    assert ec.best_accuracy is not None
    assert ec.best_accuracy >= (ec.last_accuracy or 0)
    assert sgd.steps == race.position
    text = str(verdict)
    assert "One run with one seed proves nothing" in text
    assert "SGD lr 1e+12 diverged at step" in text
    assert "nan" not in text.lower()
    assert "<table>" in result._repr_html_()
    assert str(result) == text
    assert "significant" not in text


def test_a_verdict_before_the_first_evaluation() -> None:
    verdict = small().run(steps=1).verdict()
    assert [row.last_accuracy for row in verdict.rows] == [None, None]
    assert "–" in str(verdict)
