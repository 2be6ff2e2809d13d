"""Sharpness against closed forms, whole Hessians and differences; the same for a class, not for its members."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import eclab
from eclab.errors import ChartError, DataError, NonFiniteError, SettingError
from eclab.facade import Network
from tests.test_measures import NAMES, traced
from tests.zoo import dense, joined

F64 = torch.float64


def target_loss(outputs: object, _y: object) -> Tensor:
    """A loss for any number of outputs."""
    return (joined(outputs) - 1).square().mean()  # type: ignore[arg-type]


def product(w1: float = 2.0, w2: float = 0.5) -> tuple[Network, Tensor]:
    """``f = w₂ relu(w₁ x)`` on two samples."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 1, bias=False)).double()
    x = torch.tensor([[1.0], [2.0]], dtype=F64)
    for weight, value in zip(model.parameters(), (w1, w2), strict=True):
        weight.data.fill_(value)
    return eclab.trace(model, x), x


def started(name: str) -> tuple[Network, Tensor]:
    """A member of the zoo at the paper's start, where coordinates are of the size of weights."""
    net, x = traced(name)
    eclab.start_skeleton_(net)
    return net, x


def test_one_product_in_closed_form() -> None:
    """``L = (v − 1)² · 5/2`` with ``v = w₁ w₂``."""
    net, x = product(3.0, 0.5)
    found = eclab.sharpness(net, x, x, epsilon=0.1)
    assert (found.space, found.dimension, found.trace_error, found.spread) == ("class", 1, 0.0, 1.0)
    assert found.loss == pytest.approx(0.625, rel=1e-14)
    assert found.gradient == pytest.approx(2.5, rel=1e-13)
    assert found.largest == pytest.approx(5.0, rel=1e-12)
    assert found.trace == pytest.approx(5.0, rel=1e-12)
    assert found.increase == pytest.approx(2.5 * (0.65**2 - 0.5**2), rel=1e-12)  # v from 1.5 to 1.65
    assert found.relative_increase == pytest.approx(found.increase / 1.625, rel=1e-14)
    weights = eclab.sharpness(net, x, x, space="weights")
    hessian = 5 * torch.tensor([[0.25, 2.0], [2.0, 9.0]], dtype=F64)  # 5 [[w₂², 2v − 1], [2v − 1, w₁²]]
    assert weights.largest == pytest.approx(float(torch.linalg.eigvalsh(hessian)[-1]), rel=1e-12)
    assert weights.trace == pytest.approx(5 * 9.25, rel=1e-12)
    assert weights.spread == pytest.approx(6.0, rel=1e-14)


def test_where_no_unit_scales_both_spaces_are_one() -> None:
    """Least squares: the Hessian is ``2/n XᵀX`` everywhere."""
    x, y = torch.randn(20, 4, dtype=F64), torch.randn(20, 1, dtype=F64)
    net = eclab.trace(nn.Linear(4, 1, bias=False).double(), x)
    expected = torch.linalg.eigvalsh(2 / 20 * x.T @ x)
    for space in ("class", "weights"):
        found = eclab.sharpness(net, x, y, space=space)
        assert found.largest == pytest.approx(float(expected[-1]), rel=1e-12)
        assert found.trace == pytest.approx(float(expected.sum()), rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_a_rescaling_changes_the_weights_sharpness_and_not_the_classes(name: str) -> None:
    net, x = started(name)
    before = {space: eclab.sharpness(net, x, None, loss=target_loss, space=space) for space in ("class", "weights")}
    eclab.random_rescale_(net, 1.0, torch.Generator().manual_seed(2))
    after = {space: eclab.sharpness(net, x, None, loss=target_loss, space=space) for space in ("class", "weights")}
    for number in ("loss", "gradient", "largest", "trace", "increase", "radius"):
        one, two = (getattr(each["class"], number) for each in (before, after))
        assert two == pytest.approx(one, rel=1e-7), number
    assert before["class"].held == after["class"].held
    assert abs(math.log(after["weights"].largest / before["weights"].largest)) > 0.05
    assert after["weights"].loss == pytest.approx(before["weights"].loss, rel=1e-10)


@pytest.mark.parametrize("name", ["wide-narrow-wide", "conv 3×3, max-pool", "residual stream"])
@pytest.mark.parametrize("space", ["class", "weights"])
def test_lanczos_and_hutchinson_against_the_whole_hessian(name: str, space: str) -> None:
    net, x = started(name)
    whole = eclab.sharpness(net, x, None, loss=target_loss, space=space, exact=1000)
    found = eclab.sharpness(net, x, None, loss=target_loss, space=space, exact=0, probes=400)
    assert found.largest == pytest.approx(whole.largest, rel=1e-8)
    assert found.increase == pytest.approx(whole.increase, rel=1e-3)
    assert 0 < found.trace_error < 0.3 * whole.largest * whole.dimension
    assert abs(found.trace - whole.trace) < 4 * found.trace_error
    again = eclab.sharpness(net, x, None, loss=target_loss, space=space, exact=0, probes=400)
    assert again == found, "the same seed gives the same numbers"


@pytest.mark.parametrize("name", ["wide-narrow-wide", "some biases"])
def test_the_trace_is_that_of_differences_of_the_class_gradient(name: str) -> None:
    """Twin: central differences of ``∂L/∂v`` by the inverse chain rule, through weight allocation."""
    net, x = started(name)
    chart = net.chart()
    v = chart.coordinates()
    tree = {(edge.parameter, edge.index) for edge in chart.tree}
    trace = 0.0
    for key, value in v.items():
        for place in range(value.numel()):
            index = tuple(int(i) for i in torch.unravel_index(torch.tensor(place), value.shape))
            if (key, index) in tree:
                continue
            slopes = []
            for h in (1e-6, -1e-6):
                moved = {each: tensor.clone() for each, tensor in v.items()}
                moved[key][index] += h
                chart.allocate(moved)
                net.model.zero_grad()
                target_loss(net.model(x), None).backward()
                slopes.append(float(chart.gradients()[key][index]))
            trace += (slopes[0] - slopes[1]) / 2e-6
    chart.allocate(v)
    assert eclab.sharpness(net, x, None, loss=target_loss).trace == pytest.approx(trace, rel=1e-5)


def test_the_increase_is_at_least_that_of_random_moves() -> None:
    net, x = started("wide-narrow-wide")
    found = eclab.sharpness(net, x, None, loss=target_loss, epsilon=0.05)
    chart = net.chart()
    v = chart.coordinates()
    tree = {(edge.parameter, edge.index) for edge in chart.tree}
    before = {key: p.detach().clone() for key, p in net.model.named_parameters()}
    most = 0.0
    for _ in range(200):
        d = {key: torch.randn_like(value) for key, value in v.items()}
        for key, index in tree:
            d[key][index] = 0.0
        length = math.sqrt(sum(float(value.square().sum()) for value in d.values()))
        chart.allocate({key: value + d[key] * found.radius / length for key, value in v.items()})
        most = max(most, float(target_loss(net.model(x), None).detach()) - found.loss)
        net.model.load_state_dict(before)
    assert 0 < most < found.increase
    assert found.increase < found.gradient * found.radius + 50 * found.largest * found.radius**2


def test_the_ball_ends_with_the_chart() -> None:
    """From a small skeleton path the way out is blocked by the guard, and said to be."""
    net, x = product(3.0, 0.5)
    found = eclab.sharpness(net, x, 10 * x, epsilon=5.0, guard=0.25)
    assert found.held == 1
    assert found.increase == pytest.approx(2.5 * ((10 - 0.375) ** 2 - 8.5**2), rel=1e-12)  # v may fall to 1.5 / 4
    assert "edge of the chart" in str(found)


def test_class_numbers_ask_for_cross_entropy() -> None:
    model = dense(3, 6, 4).float()
    x, y = torch.randn(30, 3), torch.randint(0, 4, (30,))
    net = eclab.trace(model, x)
    found = eclab.sharpness(net, x, y)
    assert found.loss == pytest.approx(float(nn.functional.cross_entropy(model(x), y).detach()), rel=1e-6)
    assert eclab.sharpness(net, x, y, loss="cross_entropy") == found
    assert "largest eigenvalue" in found._repr_html_()
    assert all(p.grad is None for p in model.parameters())


def test_frozen_weights_are_no_variables() -> None:
    model = dense(3, 4, 4, 2).double()
    model[4].weight.requires_grad_(False)
    x = torch.randn(5, 3, dtype=F64)
    net = eclab.trace(model, x)
    found = eclab.sharpness(net, x, torch.zeros(5, 2, dtype=F64))
    assert found.dimension == net.class_dim - 8
    assert eclab.sharpness(net, x, torch.zeros(5, 2, dtype=F64), space="weights").dimension == net.num_weights - 8


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"space": "paths"}, "no space 'paths'"),
        ({"loss": "hinge"}, "no loss 'hinge'"),
        ({"loss": lambda outputs, y: outputs}, r"the loss returns a tensor of shape \(2, 1\)"),
        ({"epsilon": 0.0}, "epsilon is 0"),
        ({"guard": 1.0}, "guard is 1"),
        ({"probes": 1}, "probes is 1"),
    ],
)
def test_settings_out_of_range_are_refused(setting: dict[str, object], words: str) -> None:
    net, x = product()
    with pytest.raises(SettingError, match=words):
        eclab.sharpness(net, x, x, **setting)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("loss", "y", "words"),
    [
        (None, None, "the targets are NoneType"),
        (None, torch.zeros(2), r"shape \(2,\) and the outputs \(2, 1\)"),
        ("cross_entropy", torch.zeros(3, dtype=torch.int64), r"shape \(3,\) and the outputs"),
        ("cross_entropy", torch.tensor([0, 1]), "the classes go from 0 to 1 and there are 1 outputs"),
        ("cross_entropy", torch.zeros(2), r"shape \(2,\) and the outputs"),
    ],
)
def test_targets_that_do_not_fit_are_refused(loss: str | None, y: Tensor | None, words: str) -> None:
    net, x = product()
    with pytest.raises(DataError, match=words):
        eclab.sharpness(net, x, y, loss=loss)


def test_samples_that_do_not_fit_are_refused() -> None:
    net, x = product()
    with pytest.raises(DataError, match=r"samples do not fit the model.*traced with, \(2, 1\)"):
        eclab.sharpness(net, torch.ones(2, 3, dtype=F64), x)
    two, x = traced("two branches")
    with pytest.raises(DataError, match="the model has 2 outputs"):
        eclab.landscape(two, x, torch.zeros(4, 1, dtype=F64))


def test_points_without_a_sharpness_are_refused() -> None:
    net, x = product(2.0, 0.0)
    with pytest.raises(ChartError, match=r"skeleton weight 2\.weight\[0,0\] is 0"):
        eclab.sharpness(net, x, x)
    assert eclab.sharpness(net, x, x, space="weights").trace == pytest.approx(20.0, rel=1e-12)
    with pytest.raises(ChartError, match="another network"):
        eclab.sharpness(net, x, x, chart=product()[0].chart())
    with pytest.raises(NonFiniteError, match="the loss is nan"):
        eclab.sharpness(*product(), x * math.nan)
    net.model.get_parameter("2.weight").data.fill_(math.inf)
    with pytest.raises(NonFiniteError, match=r"'2\.weight' holds inf"):
        eclab.sharpness(net, x, x, space="weights")
