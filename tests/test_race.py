"""The race: lockstep, records, starts, divergence, and what it refuses."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import eclab
from eclab.errors import DataError, EclabError, ScaleError, SettingError, SpecError
from eclab.race import COLUMNS, Kind, Race, Record, RecordLog, kinds, parse_lanes, register
from eclab.race.batches import BatchOrder
from eclab.race.kinds import KINDS
from eclab.race.measure import Gauge, gradient_norm, where_not_finite


def small(**settings) -> Race:
    return Race("64-12-12-10", "digits", **{"device": "cpu", "epochs": 2, "seed": 3, **settings})


def weights(lane) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in lane.model.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# -- lockstep ---------------------------------------------------------------------------------------------------------


def test_all_lanes_start_from_the_same_weights_with_the_skeleton_at_one() -> None:
    race = small(lanes="sgd,ec-sgd,sgd:0.3")
    first = weights(race.lanes[0])
    assert all(same(first, weights(lane)) for lane in race.lanes)
    chart = race.lanes[0].net.chart("diagonal")
    for edge in (*chart.tree, *chart.b_edges):
        assert first[edge.parameter][edge.index] == 1


def test_start_model_keeps_the_model() -> None:
    model = nn.Sequential(nn.Linear(64, 9), nn.ReLU(), nn.Linear(9, 10))
    before = copy.deepcopy(model.state_dict())
    race = Race(model, "digits", lanes="sgd,sgd", start="model", device="cpu")
    assert all(same(before, weights(lane)) for lane in race.lanes)
    race.run(steps=3)
    assert same(before, dict(model.state_dict())), "the model given is never touched"


def test_two_lanes_of_the_same_optimizer_stay_equal_bit_for_bit() -> None:
    race = small(lanes="ec-sgd,sgd,ec-sgd,sgd")
    race.run(steps=30)
    ec, sgd, ec_again, sgd_again = (weights(lane) for lane in race.lanes)
    assert same(ec, ec_again)
    assert same(sgd, sgd_again)
    assert not same(ec, sgd)


def test_a_lane_does_what_a_plain_loop_does() -> None:
    race = small(lanes="sgd,ec-sgd", lr=0.05, momentum=0.9, weight_decay=1e-3)
    model = copy.deepcopy(race.start_net.model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    order = BatchOrder(len(race.task.x), race.config.seed)
    race.run(steps=25)
    for _ in range(25):
        batch = order.take(64)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(race.task.x[batch]), race.task.y[batch]).backward()
        optimizer.step()
    assert same(weights(race.lanes[0]), dict(model.state_dict()))


def test_the_order_of_the_batches_is_the_seeds_alone() -> None:
    one, other, third = small(), small(lanes="sgd"), small(seed=4)
    torch.manual_seed(99)
    assert torch.equal(one.order.take(64), other.order.take(64))
    assert not torch.equal(one.order.take(64), third.order.take(64))


def test_every_sample_comes_once_an_epoch_whatever_the_batches() -> None:
    order = BatchOrder(10, seed=0)
    seen = [order.take(size) for size in (3, 4, 2, 5)]
    assert sorted(torch.cat(seen).tolist()) == list(range(10))
    assert (order.epoch, order.offset) == (1, 0)
    assert order.remaining(4, epochs=3) == 6


@pytest.mark.parametrize(("size", "count"), [(5, 2), (65, 64), (9, 8), (9, 4), (8, 4), (3, 2), (2, 2), (7, 7)])
def test_what_is_too_few_for_a_batch_goes_along_with_the_one_before(size: int, count: int) -> None:
    order = BatchOrder(size, seed=0, fewest=2)
    for epoch in range(2):
        steps, seen = order.remaining(count, epochs=epoch + 1), []
        while order.epoch == epoch:
            seen.append(order.take(count))
        assert len(seen) == steps
        assert min(map(len, seen)) >= 2
        assert sorted(torch.cat(seen).tolist()) == list(range(size))


def test_batch_normalization_never_gets_a_batch_of_one() -> None:
    data = eclab.data.wrap((torch.randn(65, 4), torch.arange(65) % 2), (torch.randn(4, 4), torch.arange(4) % 2))
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))
    race = Race(model, data, ["sgd"], batch_size=64, epochs=2, device="cpu")
    assert race.total_steps == 2
    assert race.run().frame["step"].tolist() == [1, 2]
    with pytest.raises(SettingError, match=r"the batch size is 1.*from 2 to 65.*batch normalization"):
        race.set_batch_size(1)
    with pytest.raises(SettingError, match="the batch size is 1"):
        Race(model, data, ["sgd"], batch_size=1, device="cpu")
    assert Race(nn.Linear(4, 2), data, ["sgd"], batch_size=1, epochs=1, device="cpu").total_steps == 65


def test_dropout_drops_the_same_units_in_every_lane() -> None:
    model = nn.Sequential(nn.Linear(64, 20), nn.ReLU(), nn.Dropout(0.5), nn.Linear(20, 10))
    race = Race(model, "digits", lanes="sgd,sgd", device="cpu", epochs=1)
    state = torch.get_rng_state()
    race.run(steps=10)
    assert same(weights(race.lanes[0]), weights(race.lanes[1]))
    assert torch.equal(state, torch.get_rng_state()), "the user's random numbers are left alone"


def test_a_finished_race_gives_nothing_more() -> None:
    race = small(epochs=1, batch_size=500)
    records = list(race)
    assert race.finished
    assert race.step() == []
    assert race.position == race.total_steps == 3
    assert len(records) == 6
    assert records[-1].epoch == 1.0


def test_breaking_off_the_generator_loses_nothing() -> None:
    race = small()
    for record in race:
        assert record.lane == "sgd"
        break
    assert race.position == 1
    assert len(race.records) == 2


# -- records ----------------------------------------------------------------------------------------------------------


def test_records_are_plain_numbers() -> None:
    race = small()
    for record in race.step():
        values = [getattr(record, name) for name in COLUMNS]
        assert [type(value) for value in values] == [
            *(int, float, str, float, float, float),
            *(type(None), float, float, int, float, float, float),
        ]
        assert record.ms_forward_backward > 0
        assert record.ms_step > 0
        assert record.time == pytest.approx((record.ms_forward_backward + record.ms_step) / 1000)


def test_both_lanes_see_the_same_loss_and_gradient_at_the_first_step() -> None:
    sgd, ec = small().step()
    assert sgd.loss == ec.loss
    assert sgd.grad_norm == ec.grad_norm
    assert sgd.train_acc == ec.train_acc


def test_test_accuracy_comes_at_its_interval_and_at_the_end() -> None:
    race = small(eval_every=5, epochs=1)
    steps = {record.step for record in race if record.test_acc is not None}
    assert steps == {5, 10, 15, 20, race.total_steps}
    last = race.records[-1]
    assert last.test_acc == race.evaluate("ec-sgd")
    assert last.test_acc is not None
    assert 0.5 < last.test_acc <= 1


@pytest.mark.parametrize("net", ["64-12-9-10", "64-12b-10b", "1x8x8-c4k3b-p2-c6k3-a2-f-12-10"])
def test_the_gauge_of_a_step_is_that_of_its_units(net: str) -> None:
    race = Race(net, "digits", device="cpu", unbalance=0.5)
    race.step()
    lane = race.lanes[1]
    units = torch.cat(list(lane.gauge.per_unit().values()))
    assert race.records[-1].gauge_drift == pytest.approx(float(units.nansum()), rel=1e-5)


def test_gauge_counts_biases_and_leaves_out_pinned_units() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))
    net = eclab.trace(model, torch.zeros(2, 3))
    squares = {name: value.detach().square() for name, value in model.named_parameters()}
    expected = squares["0.weight"].sum(1) + squares["0.bias"] - squares["2.weight"].sum(0)
    gauge = Gauge(net)
    assert gauge.total() == pytest.approx(float(expected.sum()), rel=1e-5)
    assert torch.allclose(gauge.per_unit()["0"], expected.double())
    assert gauge.per_unit()["2"].isnan().all()


def test_gauge_hardly_moves_along_small_steps_of_sgd() -> None:
    """Gradient flow in weight space conserves it, so its change goes with the square of the rate."""
    race = small(lr=1e-3, lanes="sgd", dtype=torch.float64, start="model")
    before = race.lanes[0].gauge.per_unit()
    race.run(steps=40)
    moved = max(float((after - before[name]).abs().nan_to_num().max()) for name, after in _units(race).items())
    assert moved < 1e-4


def _units(race: Race) -> dict[str, torch.Tensor]:
    return race.lanes[0].gauge.per_unit()


def test_the_log_gives_back_what_it_got_also_across_blocks() -> None:
    log = RecordLog(["a", "b"])
    rows = [
        Record(n, n / 10, "ab"[n % 2], 0.1, 1.0, 0.5, None if n % 3 else 0.25, 2.0, -1.0, n, 1.0, 0.5, 0.1)
        for n in range(1, 9001)
    ]
    for row in rows:
        log.append(row)
    assert list(log) == rows
    assert log[-1] == rows[-1]
    assert log[4090:4100] == rows[4090:4100]
    assert log.rows(4090, 4100).shape == (10, len(COLUMNS))
    copy_of_log = RecordLog(["a", "b"])
    copy_of_log.extend(log.rows())
    assert list(copy_of_log) == rows
    with pytest.raises(IndexError):
        log[9000]


def test_the_frame_has_a_column_for_each_field() -> None:
    frame = small().run(steps=7).frame
    assert tuple(frame.columns) == COLUMNS
    assert frame["lane"].tolist()[:2] == ["sgd", "ec-sgd"]
    assert frame["step"].dtype == np.int64
    assert frame["test_acc"].notna().sum() == 2


# -- unbalanced starts ------------------------------------------------------------------------------------------------


def test_unbalance_moves_every_lane_alike_and_no_function() -> None:
    plain, moved = small(dtype=torch.float64), small(unbalance=2.0, dtype=torch.float64)
    assert same(weights(moved.lanes[0]), weights(moved.lanes[1]))
    assert not same(weights(plain.lanes[0]), weights(moved.lanes[0]))
    x = plain.task.x[:50]
    with torch.no_grad():
        assert torch.allclose(plain.lanes[0].model(x), moved.lanes[0].model(x), rtol=1e-9)
    assert eclab.same_class(plain.lanes[0].model, moved.lanes[0].model, x)


def test_an_unbalanced_start_breaks_sgd_and_leaves_ec_sgd_where_it_was() -> None:
    """What the project is about, on the digits: at this rate balanced SGD trains well, unbalanced it is lost."""
    settings = {"lanes": "sgd,ec-sgd", "lr": 0.1, "epochs": 4, "dtype": torch.float64}
    balanced = {row.label: row for row in small(**settings).run().verdict().rows}
    race = small(**settings, unbalance=3.0)
    unbalanced = {row.label: row for row in race.run().verdict().rows}
    assert (balanced["SGD"].last_accuracy or 0) > 0.8
    assert (balanced["EC-SGD"].last_accuracy or 0) > 0.8
    assert unbalanced["SGD"].state == "diverged" or (unbalanced["SGD"].last_accuracy or 0) < 0.5
    assert unbalanced["EC-SGD"].last_accuracy == pytest.approx(balanced["EC-SGD"].last_accuracy, abs=0.01)


# -- divergence -------------------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_its_lane_alone() -> None:
    race = small(lanes="sgd:1e12,ec-sgd:0.1,sgd:0.1", epochs=1)
    records = list(race)
    lost, *kept = race.lanes
    assert (lost.state, [lane.state for lane in kept]) == ("diverged", ["running", "running"])
    last = [record for record in records if record.lane == "sgd"][-1]
    assert not (math.isfinite(last.loss) and math.isfinite(last.grad_norm))
    assert f"step {last.step}" in lost.verdict
    assert "is not finite" in lost.verdict or "overflow" in lost.verdict
    assert [event.kind for event in race.events] == ["diverged"]
    assert race.position == race.total_steps, "the others go on"
    assert all(value.isfinite().all() for value in weights(lost).values())


def test_the_verdict_names_the_first_layer_whose_output_is_not_finite() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    weights = dict(model.named_parameters())
    with torch.no_grad():
        weights["2.weight"].fill_(3e38)
        weights["0.weight"].fill_(1e3)
    assert where_not_finite(model, torch.ones(1, 2)) == 'the output of layer "2" (Linear) is not finite'
    with torch.no_grad():
        weights["0.bias"].fill_(math.nan)
    assert where_not_finite(model, torch.ones(1, 2)) == "the weight 0.bias is not finite"


def test_a_nan_gradient_changes_no_weight() -> None:
    race = small(lanes="sgd,ec-sgd", epochs=1)
    race.run(steps=2)
    before = [weights(lane) for lane in race.lanes]
    for lane in race.lanes:
        lane.model.get_parameter("2.weight").register_hook(lambda gradient: gradient * math.nan)
    race.step()
    assert all(same(weights(lane), was) for lane, was in zip(race.lanes, before, strict=True))
    assert race.finished, "no lane is left"
    assert race.lanes[0].verdict == "diverged at step 3: the gradient of 2.weight is not finite"
    assert race.lanes[1].verdict == race.lanes[0].verdict


def test_a_step_that_overflows_is_taken_back() -> None:
    race = small(lanes="sgd", lr=1e20)
    race.lanes[0].model.get_parameter("2.weight").register_hook(lambda gradient: gradient * 1e30)
    before = weights(race.lanes[0])
    race.step()
    assert same(before, weights(race.lanes[0]))
    assert "overflow" in race.lanes[0].verdict


def test_gradient_norms_beyond_single_precision() -> None:
    weight = nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([3e38, 1e38])
    assert gradient_norm([weight]) == pytest.approx(math.sqrt(10) * 1e38, rel=1e-6)
    assert gradient_norm([nn.Parameter(torch.zeros(2))]) == 0.0


def test_a_race_cut_off_within_a_step_says_so() -> None:
    race = small()
    handle = race.lanes[1].model.register_forward_hook(_fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        race.step()
    handle.remove()
    with pytest.raises(SettingError, match="in the middle of a step"):
        race.step()
    race.reset()
    assert len(race.step()) == 2


def _fail(*_):
    raise RuntimeError("out of memory")


# -- lanes ------------------------------------------------------------------------------------------------------------


def test_lane_names_labels_and_colours() -> None:
    lanes = parse_lanes(["ec-sgd", "sgd", "ec-sgd:0.2", {"optimizer": "sgd", "lr": 0.3, "label": "mine"}])
    assert [lane.name for lane in lanes] == ["ec-sgd", "sgd", "ec-sgd-2", "sgd-2"]
    assert [lane.label for lane in lanes] == ["EC-SGD", "SGD", "EC-SGD lr 0.2", "mine"]
    assert [lane.colour for lane in lanes] == [1, 0, 2, 3]
    assert len({lane.colour for lane in parse_lanes(["sgd"] * 8)}) == 8


def test_rates_by_lane() -> None:
    race = small(lanes=["sgd", "ec-sgd:0.4"], lr={"sgd": 0.2})
    assert [lane.lr for lane in race.lanes] == [0.2, 0.4]


def test_options_of_an_optimizer_reach_it() -> None:
    race = small(lanes=[{"optimizer": "ec-sgd", "guard": 0.25, "momentum": 0.8}, "sgd"], momentum=0.5)
    assert race.lanes[0].optimizer.param_groups[0]["guard"] == 0.25
    assert [lane.optimizer.param_groups[0]["momentum"] for lane in race.lanes] == [0.8, 0.5]


def test_a_new_optimizer_is_one_line() -> None:
    def make(net, *, lr, momentum, weight_decay):
        return torch.optim.RMSprop(net.model.parameters(), lr=lr, momentum=momentum, weight_decay=weight_decay)

    register(Kind("rmsprop-test", "RMSprop", make))
    try:
        race = small(lanes="sgd,rmsprop-test", lr=0.01)
        race.run(steps=3)
        assert race.lanes[1].label == "RMSprop"
        with pytest.raises(SettingError, match="cannot race as"):
            register(Kind("rmsprop-test", "RMSprop", make))
    finally:
        del KINDS["rmsprop-test"]
    assert "rmsprop-test" not in kinds()


def test_a_convolutional_network_takes_pictures_and_a_dense_one_takes_them_flat() -> None:
    conv = Race("1x8x8-c4k3-p2-f-10", "digits", device="cpu", epochs=1)
    assert conv.task.input_shape == (1, 8, 8)
    assert len(conv.step()) == 2
    assert small().task.input_shape == (64,)


def test_own_data() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 5, generator=generator)
    y = (x.sum(1) > 0).long()
    race = Race("5-6-2", (x, y), device="cpu", batch_size=10, epochs=1)
    assert race.task.x.shape[1:] == (5,)
    assert len(list(race)) == 2 * race.total_steps


def test_a_model_without_free_units_races_with_sgd_alone() -> None:
    model = nn.Sequential(nn.Linear(64, 10))
    race = Race(model, "digits", lanes="sgd", device="cpu")
    assert len(race.step()) == 1
    assert race.records[0].gauge_drift == 0.0


# -- what is refused --------------------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[dict[str, Any], type[EclabError], str]] = {
    "batch larger than the data": ({"batch_size": 10_000}, SettingError, "the batch size is 10000.*1438"),
    "no batch": ({"batch_size": 0}, SettingError, "the batch size is 0"),
    "half a batch": ({"batch_size": 1.5}, SettingError, "the batch size is 1.5"),
    "rate of zero": ({"lr": 0}, SettingError, "the learning rate is 0"),
    "negative rate": ({"lr": -0.1}, SettingError, "the learning rate is -0.1"),
    "rate that is no number": ({"lr": math.nan}, SettingError, "the learning rate is nan"),
    "infinite rate": ({"lr": math.inf}, SettingError, "the learning rate is inf"),
    "rate beyond single precision": ({"lr": 1e31}, SettingError, "the learning rate is 1e\\+31"),
    "rate in words": ({"lr": "fast"}, SettingError, "the learning rate is 'fast'"),
    "rate of a lane": ({"lr": {"sgd": 0.1, "ec-sgd": -1}}, SettingError, "the learning rate of ec-sgd is -1"),
    "rate of no lane": ({"lr": {"sgd": 0.1, "adamant": 1}}, SettingError, "adamant"),
    "rate missing": ({"lr": {"sgd": 0.1}}, SettingError, "no learning rate is given for ec-sgd"),
    "unknown lane": ({"lanes": "sgd,magic"}, SettingError, "there is no lane 'magic'"),
    "no lane": ({"lanes": []}, SettingError, "0 lanes"),
    "too many lanes": ({"lanes": ["sgd"] * 9}, SettingError, "9 lanes"),
    "lanes of nothing": ({"lanes": 5}, SettingError, "the lanes are 5"),
    "lane of nothing": ({"lanes": [5]}, SettingError, "a lane is 5"),
    "bad rate in a lane": ({"lanes": "sgd:fast"}, SettingError, "the learning rate in 'sgd:fast'"),
    "negative rate in a lane": ({"lanes": "sgd:-1"}, SettingError, "the learning rate of sgd is -1"),
    "unknown option": ({"lanes": [{"optimizer": "sgd", "gaurd": 1}]}, SettingError, "gaurd"),
    "one empty lane": ({"lanes": "sgd,,ec-sgd"}, SettingError, "one of the lanes 'sgd,,ec-sgd' is empty"),
    "lane in capitals": ({"lanes": "SGD"}, SettingError, "there is no lane 'SGD'.*write 'sgd'"),
    "lane of a list": ({"lanes": [{"optimizer": ["sgd"]}]}, SettingError, r"there is no lane \['sgd'\]"),
    "names that differ in case": (
        {"lanes": [{"optimizer": "sgd", "name": "a"}, {"optimizer": "sgd", "name": "A"}]},
        SettingError,
        "two lanes are called 'A'",
    ),
    "blank label": ({"lanes": [{"optimizer": "sgd", "label": " "}]}, SettingError, "label"),
    "option of NaN": (
        {"lanes": [{"optimizer": "sgd", "dampening": math.nan}]},
        SettingError,
        "the dampening of sgd is nan",
    ),
    "options that torch refuses": (
        {"lanes": [{"optimizer": "sgd", "nesterov": True}]},
        SettingError,
        "the lane sgd cannot be built: Nesterov",
    ),
    "name twice": ({"lanes": [{"optimizer": "sgd", "name": "a"}] * 2}, SettingError, "two lanes are called 'a'"),
    "bad name": ({"lanes": [{"optimizer": "sgd", "name": "a b"}]}, SettingError, "a lane is called 'a b'"),
    "unknown data": ({"data": "nowhere"}, DataError, "nowhere"),
    "no epochs": ({"epochs": 0}, SettingError, "the number of epochs is 0"),
    "momentum of one": ({"momentum": 1.0}, SettingError, "the momentum is 1"),
    "negative decay": ({"weight_decay": -1}, SettingError, "the weight decay is -1"),
    "negative unbalance": ({"unbalance": -1.0}, SettingError, "the unbalance is -1"),
    "unknown start": ({"start": "zero"}, SettingError, "the start is 'zero'"),
    "unknown device": ({"device": "abacus"}, SettingError, "the device 'abacus'"),
    "device without memory": ({"device": "meta"}, SettingError, "the device 'meta'"),
    "device that is not there": ({"device": "cuda:99"}, SettingError, "the device 'cuda:99'"),
    "seed beyond torch": ({"seed": 2**63}, SettingError, "the seed is 9223372036854775808"),
    "unbalance beyond single precision": ({"unbalance": 500.0}, ScaleError, "an unbalance of 500 takes weights"),
    "negative seed": ({"seed": -1}, SettingError, "the seed is -1"),
    "half precision": ({"dtype": torch.float16}, SettingError, "the dtype is torch.float16"),
    "too few inputs": ({"model": "63-8-10"}, SettingError, "does not fit digits"),
    "too few outputs": ({"model": "64-8-9"}, SettingError, "does not fit digits.*10 outputs"),
    "width of zero": ({"model": "64-0-10"}, SpecError, "width"),
    "no model": ({"model": 7}, SettingError, "the model is a int"),
    "no free unit": ({"model": "64-10"}, SettingError, "no free unit"),
    "unbalance without free unit": (
        {"model": "64-10", "lanes": "sgd", "unbalance": 1.0},
        SettingError,
        "no free unit",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    given, kind, text = REFUSED[case]
    settings: dict[str, Any] = {"model": "64-8-10", "data": "digits", "device": "cpu", **given}
    with pytest.raises(kind, match=text) as caught:
        Race(settings.pop("model"), **settings)
    assert isinstance(caught.value, EclabError)


def test_a_model_that_raises_is_refused_with_its_reason() -> None:
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(64, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise KeyError("no such part")

    with pytest.raises(SettingError, match=r"does not fit digits.*no such part"):
        Race(Broken(), "digits", device="cpu")


def test_a_weight_without_gradient_is_refused_before_anything_is_trained() -> None:
    model = nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    model.get_parameter("0.weight").requires_grad_(False)
    with pytest.raises(SettingError, match=r"no gradient for 0\.weight"):
        Race(model, "digits", device="cpu")


def test_a_model_with_a_wrong_kind_of_output_is_refused() -> None:
    model = nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Unflatten(1, (2, 4)))
    with pytest.raises(SettingError, match="its outputs have the shape 2×4"):
        Race(model, "digits", device="cpu")
