"""Balanced members of classes: the convex problem behind them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import eclab
from eclab.classes.balance import Balancer, balanced_scales
from tests.orbit_models import convex_minimum, every_net, normed_net, residual_net
from tests.zoo import ZOO, dense

F64 = torch.float64
NETS = every_net()
ALL = pytest.mark.parametrize("name", NETS)


def squares(net: eclab.Network) -> dict[str, torch.Tensor]:
    return {weight.name: weight.parameter.detach().square() for weight in net.weights}


@ALL
@pytest.mark.parametrize("sigma", [0.0, 2.0])
def test_balanced_scales_are_those_of_a_convex_solver(name: str, sigma: float) -> None:
    net, _ = NETS[name]
    eclab.random_rescale_(net, sigma, torch.Generator().manual_seed(1))
    found = Balancer(net).find()
    assert found.imbalance <= 1e-12
    assert np.allclose(found.scales.log().numpy(), convex_minimum(net, squares(net)), rtol=0, atol=1e-9)
    assert found.scales[0] == 1


def test_balanced_scales_follow_the_member() -> None:
    """From ``g_c(w)`` they are those from ``w`` divided by ``c``."""
    net, _ = residual_net()
    before = balanced_scales(net)
    c = eclab.random_rescale_(net, 3.0, torch.Generator().manual_seed(2))
    by_scale = torch.ones(net.num_units + 1, dtype=F64)
    for layer in net.hidden_layers():
        by_scale[net.scale_of[layer.units]] = c[layer.name]
    assert torch.allclose(balanced_scales(net), before / by_scale, rtol=1e-10)


def test_other_values_than_squared_weights() -> None:
    net, _ = residual_net()
    q = {w.name: torch.rand(w.shape, dtype=F64) for w in net.weights}
    found = balanced_scales(net, values=q)
    assert np.allclose(found.log().numpy(), convex_minimum(net, q), rtol=0, atol=1e-9)


def test_squares_that_are_not_kept_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    net, _ = NETS["conv 5×5 and 1×1, adaptive pool"]
    kept = balanced_scales(net)
    monkeypatch.setattr("eclab.classes.balance._KEPT_SQUARES", 0)
    assert torch.equal(balanced_scales(net), kept)


def test_a_start_near_the_minimum_takes_few_passes() -> None:
    torch.manual_seed(0)
    net = eclab.trace(dense(50, 128, 128, 128, 10), torch.ones(1, 50))
    balancer = Balancer(net)
    first = balancer.find()
    with torch.no_grad():
        for parameter in net.model.parameters():
            parameter.add_(1e-4 * parameter.abs().mean() * torch.randn_like(parameter))
    again = balancer.find(start=first.scales)
    rough = balancer.find(start=first.scales, tolerance=1e-7)
    assert (again.imbalance, rough.imbalance) < (1e-12, 1e-7)
    assert rough.passes <= 8
    assert rough.passes < again.passes <= 17 < first.passes
    assert balancer.find(start=again.scales).passes == 1


def test_units_without_a_way_in_or_out_keep_their_scale() -> None:
    net, _ = ZOO["wide-narrow-wide"].trace()
    layers = [module for module in net.model.children() if isinstance(module, nn.Linear)]
    with torch.no_grad():
        layers[0].weight[2] = 0
        layers[0].bias[2] = 0
        layers[3].weight[:, 1] = 0
    scales = balanced_scales(net)
    first, third = net.layers[0], net.layers[2]
    assert scales[net.scale_of[first.units[2]]] == 1
    assert scales[net.scale_of[third.units[1]]] == 1
    assert int((scales == 1).sum()) == 3  # ground too
    assert Balancer(net).find().imbalance <= 1e-12


def test_a_loop_that_leads_nowhere_keeps_its_scale() -> None:
    """Stream unit 0 is fed and read by the block alone: the weights between the two could shrink for ever."""
    net, _ = residual_net()
    with torch.no_grad():
        net.model.get_parameter("head.weight")[:, 0] = 0
        net.model.get_parameter("direct.weight")[1:, 0] = 0
        net.model.get_parameter("down.weight")[:, 0] = 0
        net.model.get_parameter("down.weight")[1, 0] = 0.5
        net.model.get_parameter("up.weight")[1:, 1] = 0
    balancer = Balancer(net)
    scales = balancer.find().scales
    stream, inner = net.layer("stem").units[0], net.layer("down").units[1]
    assert scales[net.scale_of[stream]] == scales[net.scale_of[inner]] == 1
    assert int((scales == 1).sum()) == 3


def test_batch_norm_rows_get_length_one() -> None:
    net, _ = normed_net()
    scales = balanced_scales(net)
    weight = net.weight("0.weight")
    length = (weight.parameter.detach().flatten(1).norm(dim=1) * scales[net.scale_of[weight.head.reshape(-1)]]).numpy()
    assert np.allclose(length, 1, rtol=1e-12)


def test_a_network_without_free_units_has_one_scale() -> None:
    net = eclab.trace(nn.Linear(2, 2), torch.ones(1, 2))
    assert balanced_scales(net).tolist() == [1.0]


def test_bad_input_is_refused() -> None:
    net, _ = residual_net()
    n = net.num_units + 1
    for start in (torch.ones(n - 1), torch.full((n,), -1.0), torch.full((n,), 2.0), torch.full((n,), float("nan"))):
        with pytest.raises(eclab.ScaleError, match="start"):
            balanced_scales(net, start=start)
    for tolerance in (0.0, 1.0, float("nan")):
        with pytest.raises(eclab.SettingError, match="tolerance"):
            balanced_scales(net, tolerance=tolerance)
    with torch.no_grad():
        net.model.get_parameter("direct.weight")[1, 1] = float("inf")
    with pytest.raises(eclab.NonFiniteError, match=r"direct\.weight"):
        balanced_scales(net)
