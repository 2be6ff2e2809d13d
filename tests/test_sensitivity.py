"""What an EC step does to the function, chart by chart, against the optimizer and against differences."""

from __future__ import annotations

import copy
import math
import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import eclab
from eclab.errors import ChartError, EclabError, SettingError
from eclab.facade import Network
from eclab.paths.chart import Chart
from eclab.paths.skeleton import Edge
from tests.test_measures import NAMES, traced
from tests.test_sharpness import target_loss
from tests.zoo import dense, joined

F64 = torch.float64


def he(*widths: int, bias: bool = False) -> nn.Sequential:
    """A network initialised after He et al."""
    model = dense(*widths, bias=bias).double()
    for name, parameter in model.named_parameters():
        if name.endswith("weight"):
            nn.init.kaiming_normal_(parameter, nonlinearity="relu")
    return model


def both(widths: tuple[int, ...] = (3, 6, 5, 2)) -> tuple[Network, Tensor, Tensor]:
    x, y = torch.randn(20, widths[0], dtype=F64), torch.randn(20, widths[-1], dtype=F64)
    return eclab.trace(he(*widths, bias=True), x), x, y


@pytest.mark.parametrize("lr", [1e-4, 1e-2])
def test_a_step_with_a_rate_is_the_optimizers(lr: float) -> None:
    net, x, y = both()
    found = eclab.chart_sensitivity(net, x, y, lr=lr)
    assert found.charts == ("diagonal", "strongest")
    before = net.model(x).detach()
    for chart, step, held in zip(found.charts, found.steps, found.guarded, strict=True):
        other = copy.deepcopy(net)
        optimizer = eclab.ECSGD(other, lr=lr, chart=chart)
        nn.functional.mse_loss(other.model(x), y).backward()
        optimizer.step()
        moved = (other.model(x).detach() - before).reshape(-1)
        torch.testing.assert_close(step, moved, rtol=1e-9, atol=1e-9 * float(moved.abs().max()))
        assert held == optimizer.guarded_moves
    other = copy.deepcopy(net)
    nn.functional.mse_loss(other.model(x), y).backward()
    torch.optim.SGD(other.model.parameters(), lr=lr).step()
    torch.testing.assert_close(found.plain, (other.model(x).detach() - before).reshape(-1), rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("name", NAMES)
def test_the_infinitesimal_step_is_the_limit_of_small_ones(name: str) -> None:
    net, x = traced(name)
    eclab.start_skeleton_(net)
    whole = eclab.chart_sensitivity(net, x, None, ["diagonal"] * 2, loss=target_loss)
    small = eclab.chart_sensitivity(net, x, None, ["diagonal"] * 2, loss=target_loss, lr=1e-7)
    torch.testing.assert_close(small.steps / 1e-7, whole.steps, rtol=1e-3, atol=1e-4 * float(whole.steps.abs().max()))
    torch.testing.assert_close(small.plain / 1e-7, whole.plain, rtol=1e-3, atol=1e-4 * float(whole.plain.abs().max()))
    assert (whole.ratio, whole.charts) == (1.0, ("diagonal 1", "diagonal 2"))
    assert whole.cosine == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("name", ["wide-narrow-wide", "conv 3×3, max-pool", "residual stream"])
def test_it_is_the_same_for_a_whole_class(name: str) -> None:
    net, x = traced(name)
    before = eclab.chart_sensitivity(net, x, None, loss=target_loss)
    eclab.random_rescale_(net, 1.5, torch.Generator().manual_seed(3))
    after = eclab.chart_sensitivity(net, x, None, loss=target_loss)
    assert after.ratio == pytest.approx(before.ratio, rel=1e-9)
    assert after.cosine == pytest.approx(before.cosine, rel=1e-9)
    assert float(after.plain.norm()) != pytest.approx(float(before.plain.norm()), rel=1e-3)


def test_charts_by_hand_and_the_table() -> None:
    net, x, y = both((3, 4, 2))
    by_hand = {"0[1]": [("0.weight", (1, 2)), ("2.weight", (0, 1))]}
    found = eclab.chart_sensitivity(net, x, y, ("diagonal", by_hand, net.chart("strongest")), lr=1e-3)
    assert found.charts == ("diagonal", "by hand", "strongest")
    ratios, cosines = found.ratios(), found.cosines()
    assert float(ratios[0, 1]) == pytest.approx(found.ratio, rel=1e-12)
    assert float(ratios[1, 0]) == pytest.approx(1 / found.ratio, rel=1e-12)
    assert float(cosines[1, 0]) == pytest.approx(found.cosine, rel=1e-12)
    assert abs(found.cosine) < 1
    frame = found.frame
    assert list(frame["chart"]) == list(found.charts)
    assert frame["size / plain"][0] == pytest.approx(float(found.steps[0].norm() / found.plain.norm()), rel=1e-12)
    assert "diagonal over by hand" in str(found)
    assert "<table" in found._repr_html_()


def test_the_strongest_chart_moves_a_normally_initialised_network_less() -> None:
    """Steps go with 1/v²: over 20 networks the diagonal chart's are larger, typically by far."""
    net, x, y = both((4, 8, 8, 3))
    ratios = []
    for seed in range(20):
        torch.manual_seed(seed)
        net.model.load_state_dict(he(4, 8, 8, 3, bias=True).state_dict())
        ratios.append(eclab.chart_sensitivity(net, x, y).ratio)
    assert float(torch.tensor(ratios).median()) > 10
    assert sum(ratio > 1 for ratio in ratios) >= 18


def random_chart(net: Network, rng: random.Random) -> Chart:
    """Any incoming and any outgoing weight for every unit; in a network of layers the chains always end."""
    into: dict[int, list[Edge]] = {}
    out: dict[int, list[Edge]] = {}
    for weight in net.weights:
        if weight.kind == "linear":
            for index in np.ndindex(weight.shape):
                edge = Edge(weight.name, index, *weight.ends(index))
                into.setdefault(edge.head, []).append(edge)
                out.setdefault(edge.tail, []).append(edge)
    free = [unit for unit in net.units if unit.state == "free"]
    return net.chart({unit.name: [rng.choice(into[unit.number]), rng.choice(out[unit.number])] for unit in free})


def test_two_charts_at_random_disagree_by_an_order_of_magnitude() -> None:
    """Theory §5, over 40 networks 4-6-6-6-3 after He: the median size ratio is above 5, the median cosine below 0.9."""
    rng = random.Random(0)
    x, y = torch.randn(32, 4, dtype=F64), torch.randn(32, 3, dtype=F64)
    net = eclab.trace(he(4, 6, 6, 6, 3), x)
    ratios, cosines = [], []
    for seed in range(40):
        torch.manual_seed(seed)
        net.model.load_state_dict(he(4, 6, 6, 6, 3).state_dict())
        found = eclab.chart_sensitivity(net, x, y, [random_chart(net, rng), random_chart(net, rng)])
        ratios.append(max(found.ratio, 1 / found.ratio))
        cosines.append(found.cosine)
    assert np.median(ratios) > 5
    assert 0 < np.median(cosines) < 0.9


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"charts": "diagonal"}, "charts is 'diagonal'"),
        ({"charts": ("diagonal",)}, "two or more charts"),
        ({"lr": 0.0}, "lr is 0"),
        ({"lr": math.inf}, "lr is inf"),
        ({"guard": 1.0}, "guard is 1"),
    ],
)
def test_settings_out_of_range_are_refused(setting: dict[str, object], words: str) -> None:
    net, x, y = both((2, 3, 1))
    with pytest.raises(SettingError, match=words):
        eclab.chart_sensitivity(net, x, y, **setting)  # type: ignore[arg-type]


def test_where_no_chart_moves_anything_it_says_so() -> None:
    net, x, _ = both((2, 3, 1))
    with pytest.raises(EclabError, match="the gradient is 0"):
        eclab.chart_sensitivity(net, x, net.model(x).detach())
    with pytest.raises(ChartError, match="no chart 'widest'"):
        eclab.chart_sensitivity(net, x, joined(net.model(x)), ("diagonal", "widest"))
    with pytest.raises(SettingError, match="first argument is Sequential"):
        eclab.chart_sensitivity(net.model, x, x)  # type: ignore[arg-type]
