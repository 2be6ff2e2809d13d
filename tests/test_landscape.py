"""Slices of the loss: against the model itself, along the orbit, and where the chart ends."""

from __future__ import annotations

import copy
import json
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import eclab
from eclab.errors import ChartError, SettingError
from tests.test_measures import NAMES, traced
from tests.test_sharpness import product, started, target_loss

F64 = torch.float64
AXES = ["0.weight[0,0]", ("2.weight", (0, 0))]


def test_a_spurious_critical_point() -> None:
    """``f = w₂ relu(w₁ x)``: at ``w₁ = w₂ = 0`` the weights' gradient vanishes, that of ``v = w₁ w₂`` does not."""
    net, x = product(0.5, 0.5)
    found = eclab.landscape(net, x, x, axes=AXES, span=2.0, points=21)
    weights = found["weights"]
    assert (weights.axes, weights.centre) == (("0.weight[0,0]", "2.weight[0,0]"), (0.5, 0.5))
    middle = 10
    assert weights.a[middle] == weights.b[middle] == 0.0
    assert weights.gradient[middle, middle] == 0.0
    assert weights.loss[middle, middle] == pytest.approx(2.5, rel=1e-14)  # mean of (x − 0)²
    w2, w1 = np.meshgrid(weights.b, weights.a, indexing="ij")
    on = w1 > 0  # elsewhere the unit is dead
    v = w1 * w2
    np.testing.assert_allclose(weights.loss[on], 2.5 * (v[on] - 1) ** 2, rtol=1e-12, atol=1e-15)
    slope = 5 * np.abs(v - 1)
    np.testing.assert_allclose(weights.gradient[on], (slope * np.hypot(w1, w2))[on], rtol=1e-12, atol=1e-15)
    inside = on & (w2 != 0)
    np.testing.assert_allclose(weights.class_gradient[inside], slope[inside], rtol=1e-9, atol=1e-12)
    assert weights.class_gradient[middle + 1, middle + 1] > 4.7, "beside the spurious point it is near 5"
    assert math.isnan(weights.class_gradient[middle, middle])
    assert weights.reasons[middle][middle] == (
        "the skeleton weight 0.weight[0,0] is 0: no class gradient at the edge of the chart"
    )


def test_the_class_slice_of_one_product_is_a_parabola_as_far_as_the_chart_reaches() -> None:
    net, x = product(0.5, 0.5)
    found = eclab.landscape(net, x, x, axes=AXES, span=(-1.0, 2.0), points=7)["class"]
    assert found.axes == ("2.weight[0,0]",), "the tree's weight is no coordinate"
    assert found.a.tolist() == [-1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0]
    assert found.b.tolist() == [0.0]
    assert found.centre == (0.25, 0.0)
    np.testing.assert_allclose(found.loss[0, 3:], 2.5 * (found.a[3:] - 1) ** 2, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(found.gradient[0, 3:], 5 * np.abs(found.a[3:] - 1), rtol=1e-12, atol=1e-15)
    assert np.isnan(found.loss[0, :3]).all()
    assert found.reasons[0] == (
        "2.weight[0,0]'s path changes its sign: beyond the edge of the chart",
        "2.weight[0,0]'s path changes its sign: beyond the edge of the chart",
        "2.weight[0,0]'s path is 0: the edge of the chart",
        *[""] * 4,
    )


@pytest.mark.parametrize("name", ["wide-narrow-wide", "conv 3×3, max-pool", "residual stream"])
def test_points_of_the_weight_slice_are_those_of_the_model(name: str) -> None:
    net, x = traced(name)
    d = [{key: torch.randn_like(p) for key, p in net.model.named_parameters()} for _ in range(2)]
    found = eclab.landscape(net, x, None, axes=d, span=0.3, points=3, spaces=["weights"], loss=target_loss)["weights"]
    for i, b in enumerate(found.b):
        for j, a in enumerate(found.a):
            moved = copy.deepcopy(net)
            with torch.no_grad():
                for key, p in moved.model.named_parameters():
                    p.add_(float(a) * d[0][key] + float(b) * d[1][key])
            loss = target_loss(moved.model(x), None)
            loss.backward()
            assert found.loss[i, j] == pytest.approx(float(loss.detach()), rel=1e-12)
            weights = [weight.parameter for weight in moved.weights]
            length = math.sqrt(sum(float(p.grad.square().sum()) for p in weights if p.grad is not None))
            assert found.gradient[i, j] == pytest.approx(length, rel=1e-10)
            deltas = moved.chart().gradients().values()
            of_class = math.sqrt(sum(float(delta.square().sum()) for delta in deltas))
            assert found.class_gradient[i, j] == pytest.approx(of_class, rel=1e-8)


@pytest.mark.parametrize("name", ["wide-narrow-wide", "some biases"])
def test_points_of_the_class_slice_are_those_of_weight_allocation(name: str) -> None:
    net, x = started(name)
    chart = net.chart()
    v = chart.coordinates()
    d = {key: 0.1 * torch.randn_like(value) for key, value in v.items()}
    found = eclab.landscape(net, x, None, axes=[d], points=5, spaces=["class"], loss=target_loss)["class"]
    for edge in chart.tree:
        d[edge.parameter][edge.index] = 0.0
    for j, a in enumerate(found.a):
        moved = copy.deepcopy(net)
        moved.chart().allocate({key: value + float(a) * d[key] for key, value in v.items()})
        loss = target_loss(moved.model(x), None)
        loss.backward()
        assert found.loss[0, j] == pytest.approx(float(loss.detach()), rel=1e-12)
        deltas = moved.chart().gradients().values()
        assert found.gradient[0, j] == pytest.approx(
            math.sqrt(sum(float(delta.square().sum()) for delta in deltas)), rel=1e-10
        )
    assert found.reasons == (("",) * 5,)


@pytest.mark.parametrize("name", NAMES)
def test_the_class_slice_is_the_same_along_the_orbit_and_the_weight_slice_is_not(name: str) -> None:
    net, x = started(name)
    before = eclab.landscape(net, x, None, points=4, span=0.4, loss=target_loss, seed=5)
    eclab.random_rescale_(net, 1.0, torch.Generator().manual_seed(1))
    after = eclab.landscape(net, x, None, points=4, span=0.4, loss=target_loss, seed=5)
    one, two = before["class"], after["class"]
    np.testing.assert_allclose(two.loss, one.loss, rtol=1e-8)
    np.testing.assert_allclose(two.gradient, one.gradient, rtol=1e-6)
    assert one.reasons == two.reasons
    one, two = before["weights"], after["weights"]
    assert np.abs(np.log(two.gradient / one.gradient)).max() > 0.01


def test_every_missing_number_has_its_reason_and_no_other_has_one() -> None:
    net, x = traced("wide-narrow-wide")
    frame = eclab.landscape(net, x, None, loss=target_loss, points=11, span=2.0).frame
    assert list(frame.columns) == ["space", "a", "b", "loss", "gradient", "class_gradient", "reason"]
    assert len(frame) == 2 * 11 * 11
    missing = frame[["loss", "gradient", "class_gradient"]].isna().any(axis=1)
    assert (missing == (frame["reason"] != "")).all()
    assert missing[frame["space"] == "class"].any()
    assert not frame["loss"][frame["space"] == "weights"].isna().any()


def test_an_overflow_is_a_reason() -> None:
    net, x = product(0.5, 0.5)
    found = eclab.landscape(net, x, x, axes=AXES[:1], span=(1.0, 1e200), points=2, spaces=["weights"])["weights"]
    assert math.isnan(found.loss[0, 1])
    assert found.reasons[0][1].startswith("the loss is inf")


@pytest.mark.parametrize("name", ["wide-narrow-wide", "conv 3×3, max-pool"])
def test_a_loss_that_cannot_be_batched_goes_point_by_point(name: str) -> None:
    net, x = traced(name)

    def stubborn(outputs: Tensor, y: object) -> Tensor:
        loss = target_loss(outputs, y)
        return loss if float(loss.detach()) > 0 else 0 * loss  # a decision on the data, which torch cannot batch

    one, two = (eclab.landscape(net, x, None, points=5, loss=loss).frame for loss in (target_loss, stubborn))
    for column in ("loss", "gradient", "class_gradient"):
        np.testing.assert_allclose(two[column], one[column], rtol=1e-9)
    assert (one["reason"] == two["reason"]).all()


def test_random_directions_are_seeded_orthogonal_and_of_the_weights_size() -> None:
    net, x = traced("wide-narrow-wide")
    one, two, other = (
        eclab.landscape(net, x, None, points=3, loss=target_loss, spaces=["weights"], seed=seed)["weights"]
        for seed in (1, 1, 2)
    )
    assert (one.loss == two.loss).all()
    assert not np.allclose(one.loss, other.loss)


def test_axes_may_differ_by_space() -> None:
    net, x = product(0.5, 0.5)
    axes = {"weights": AXES, "class": "2.weight[0,0]"}
    found = eclab.landscape(net, x, x, axes=axes, points=3)
    assert (found["weights"].axes, found["class"].axes) == (("0.weight[0,0]", "2.weight[0,0]"), ("2.weight[0,0]",))
    assert found["class"].a.tolist() == [-0.5, 0.0, 0.5]  # twice the coordinate's size, 0.25


@pytest.mark.parametrize(
    ("setting", "kind", "words"),
    [
        ({"axes": ["0.weight[0,0]"]}, ChartError, r"0\.weight\[0, 0\] is a tree edge"),
        ({"axes": ["0.weight[3,0]"]}, ChartError, "outside its shape"),
        ({"axes": ["0.weight"]}, SettingError, "cannot be read"),
        ({"axes": ["0.weight[0,0]"] * 3}, SettingError, "3 axes were given"),
        ({"axes": [{"nine": torch.ones(1, 1)}]}, SettingError, "nine, which is no weight"),
        ({"axes": [{"2.weight": torch.ones(2)}]}, SettingError, "2.weight, of another shape"),
        ({"points": 1}, SettingError, "points is 1"),
        ({"span": -1.0}, SettingError, "span is -1"),
        ({"spaces": "class"}, SettingError, "spaces is 'class'"),
        ({"spaces": ["paths"]}, SettingError, "no space 'paths'"),
    ],
)
def test_what_cannot_be_drawn_is_refused(setting: dict[str, object], kind: type[Exception], words: str) -> None:
    net, x = product()
    with pytest.raises(kind, match=words):
        eclab.landscape(net, x, x, **setting)  # type: ignore[arg-type]


def test_a_slice_that_was_not_taken() -> None:
    net, x = product()
    with pytest.raises(SettingError, match="no slice in 'class'"):
        eclab.landscape(net, x, x, points=2, spaces=["weights"])["class"]


# the picture ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_picture_has_a_map_a_line_and_the_reasons(theme: str) -> None:
    net, x = product(0.5, 0.5)
    found = eclab.landscape(net, x, x, axes=AXES, span=1.0, points=5)
    spec = found.chart(theme).to_dict()
    titles = [[panel["title"] for panel in row["hconcat"]] for row in spec["vconcat"]]
    assert titles == [
        ["Loss, weight space", "Length of ∂L/∂w", "Length of ∂L/∂v"],
        ["Loss, class space", "Length of ∂L/∂v"],
    ]
    cells = [row for rows in spec["datasets"].values() for row in rows if "reason" in row]
    assert len(cells) == 3 * 25 + 2 * 5 - 3  # the three missing points of both lines are one data set
    assert all((cell["value"] is None) <= bool(cell["reason"]) for cell in cells)
    assert "NaN" not in json.dumps(spec)
    with pytest.raises(SettingError, match="theme"):
        found.chart("sepia")


def test_the_picture_can_be_drawn() -> None:
    """Vega itself renders it, a flat loss and a network outside the picture included."""
    import vl_convert

    model = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1)).double()
    x = torch.ones(3, 1, dtype=F64)

    def flat(outputs: Tensor, _y: object) -> Tensor:
        return 0 * outputs.sum()

    net = eclab.trace(model, x)
    found = eclab.landscape(net, x, None, loss=flat, points=3, axes=["2.weight[0,0]", "2.bias[0]"], span=(5.0, 6.0))
    assert "<svg" in vl_convert.vegalite_to_svg(found.chart().to_dict())
