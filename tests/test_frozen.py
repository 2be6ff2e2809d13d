"""Batch-norm with frozen statistics: two redundancies a channel, exact though β moves along."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import eclab
from eclab.network.frozen import edges_of, on_edges, weights_of
from eclab.network.run import active_units
from eclab.optim.reference import ReferenceECSGD
from eclab.paths import functional
from eclab.paths.enumerate import Path, rank, whole_paths
from tests.test_any_network import SmallResidual, resnet

F64 = torch.float64


def stirred(model: nn.Module, seed: int = 5) -> nn.Module:
    """Weights, factors, offsets and statistics at random, in float64 and evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    model = model.double().eval()
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                value.copy_(torch.randn(value.shape, generator=generator, dtype=F64))
                if name.endswith("running_var"):
                    value.square_().add_(0.1)
    return model


def dense() -> nn.Module:
    return stirred(
        nn.Sequential(
            nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3, bias=False), nn.BatchNorm1d(3),
            nn.ReLU(), nn.Linear(3, 2),
        )
    )  # fmt: skip


def residual() -> nn.Module:
    return stirred(SmallResidual(bn=True))


def convolutional() -> nn.Module:
    """Weights of their usual size, statistics that a few batches have left."""
    torch.manual_seed(0)
    model = resnet(bn=True).double()
    for _ in range(5):
        model(torch.randn(16, 1, 8, 8, dtype=F64))
    return model.eval()


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "dense": (dense, (3,)),
    "residual": (residual, (2,)),
    "convolutional": (convolutional, (1, 8, 8)),
}
every = pytest.mark.parametrize("name", MODELS)


def made(name: str, samples: int = 6) -> tuple[nn.Module, Tensor]:
    make, shape = MODELS[name]
    torch.manual_seed(1)
    return make(), torch.randn(samples, *shape, dtype=F64)


def gap(one: Tensor, two: Tensor) -> float:
    return ((one - two).abs().max() / one.abs().max()).item()


@every
def test_all_units_before_and_behind_are_free_and_scale_exactly(name: str) -> None:
    model, x = made(name)
    net = eclab.trace(model, x, verify=True)
    assert {unit.reason for unit in net.units if unit.reason} == {"it is an output"}
    before = model(x).detach()
    betas = {norm.beta: model.get_parameter(norm.beta).detach().clone() for norm in net.frozen_norms}
    eclab.random_rescale_(net, 1.0, torch.Generator().manual_seed(2))
    assert gap(before, model(x)) < 1e-11
    assert all(not torch.equal(model.get_parameter(beta), old) for beta, old in betas.items())


def test_a_unit_before_the_norm_scales_alone() -> None:
    model, x = made("dense")
    net, before = eclab.trace(model, x), model(x).detach()
    gamma, beta = (model.get_parameter(f"1.{name}").detach().clone() for name in ("weight", "bias"))
    mean, var = model.get_buffer("1.running_mean"), model.get_buffer("1.running_var")
    eclab.rescale_(net, "0", 2, 8.0)
    assert gap(before, model(x)) < 1e-13
    assert model.get_parameter("1.weight")[2].item() == pytest.approx(gamma[2].item() / 8, rel=1e-14)
    moved = beta[2] - gamma[2] * (1 - 1 / 8) * mean[2] / (var[2] + 1e-5).sqrt()
    assert model.get_parameter("1.bias")[2].item() == pytest.approx(moved.item(), rel=1e-12)
    others = [0, 1, 3]
    assert torch.equal(model.get_parameter("1.weight")[others], gamma[others])
    torch.testing.assert_close(model.get_parameter("1.bias")[others], beta[others], rtol=1e-14, atol=1e-15)


OPTIMIZERS: dict[str, Callable[[eclab.Network], Any]] = {
    "EC-SGD": lambda net: eclab.ECSGD(net, lr=1e-3),
    "EC-SGD, momentum and decay": lambda net: eclab.ECSGD(net, lr=1e-3, momentum=0.9, weight_decay=1e-2),
    "EC-SGD, balanced": lambda net: eclab.ECSGD(net, lr=1e-3, metric="balanced"),
    "EC-Adam": lambda net: eclab.EC(net, torch.optim.Adam, lr=1e-3),
    "Path-SGD": lambda net: eclab.PathSGD(net, lr=1e-3),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@every
def test_fifty_steps_from_two_members_give_one_function(name: str, optimizer: str) -> None:
    one, x = made(name)
    eclab.start_skeleton_(eclab.trace(one, x))
    two = copy.deepcopy(one)
    eclab.random_rescale_(eclab.trace(two, x), 1.0, torch.Generator().manual_seed(2))
    target, start = one(x).detach() + torch.randn_like(one(x)), one(x).detach()
    for model in (one, two):
        steps = OPTIMIZERS[optimizer](eclab.trace(model, x))
        for _ in range(50):
            steps.zero_grad()
            (model(x) - target).square().mean().backward()
            steps.step()
    assert gap(start, one(x)) > 1e-4
    assert gap(one(x), two(x)) < 1e-9
    assert eclab.same_class(one, two, x, tolerance=1e-6)


@pytest.mark.parametrize("name", ["dense", "residual"])
def test_the_step_is_that_of_brute_force(name: str) -> None:
    one, x = made(name)
    eclab.start_skeleton_(eclab.trace(one, x))
    two = copy.deepcopy(one)
    nets = [eclab.trace(model, x) for model in (one, two)]
    fast, slow = eclab.ECSGD(nets[0], lr=1e-4, momentum=0.5), ReferenceECSGD(nets[1], lr=1e-4, momentum=0.5)
    for _ in range(20):
        for model, optimizer in ((one, fast), (two, slow)):
            model.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
    for p, q in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["dense", "residual"])
def test_the_rank_of_paths_is_the_dimension(name: str) -> None:
    model, x = made(name)
    net = eclab.trace(model, x)
    assert rank(net) == net.class_dim


def test_the_rank_of_the_function_is_the_dimension() -> None:
    """Without a bias before the norm: that one and β are redundant in yet another way, which is no rescaling."""
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    stirred(model)
    many = 3 * torch.randn(60, 3, dtype=F64, generator=torch.Generator().manual_seed(0))
    table = eclab.trace(model, many).audit(many)
    assert (table.num_weights, table.num_units) == (30, 8)
    assert table.path_rank == table.functional_rank == 22


@every
def test_what_flows_into_a_scale_flows_out(name: str) -> None:
    model, x = made(name)
    net = eclab.trace(model, x)
    model(x).square().mean().backward()
    balance, size = torch.zeros(net.num_nodes, dtype=F64), torch.zeros(net.num_nodes, dtype=F64)
    with on_edges(net):
        for weight in net.weights:
            assert weight.parameter.grad is not None
            flow = weight.parameter.detach() * weight.parameter.grad
            balance += weight.sum_into_heads(flow, net.num_nodes) - weight.sum_into_tails(flow, net.num_nodes)
            size += weight.sum_into_heads(flow.abs(), net.num_nodes)
    by_scale = torch.zeros(net.num_units + 1, dtype=F64).index_add_(0, net.scale_of, balance)
    assert by_scale[1:].abs().max() < 1e-11 * size.max()


def value(net: eclab.Network, path: Path) -> float:
    with on_edges(net):
        return float(np.prod([net.weight(e.parameter).parameter[e.index].item() for e in path if e.parameter]))


@pytest.mark.parametrize("name", ["dense", "residual"])
def test_the_network_is_the_sum_of_its_active_paths(name: str) -> None:
    """``N_k(x) = Σ x_source a_p(x) v_p`` with the values of theory §1."""
    model, x = made(name, 1)
    net = eclab.trace(model, x)
    on = active_units(net, x)[0]
    inputs = [1.0, *x[0].tolist()]
    total = {int(unit): 0.0 for unit in net.outputs}
    for path in whole_paths(net):
        if all(bool(on[edge.head]) for edge in path):
            total[path[-1].head] += inputs[path[0].tail] * value(net, path)
    expected = model(x)[0].tolist()
    assert [total[int(unit)] for unit in net.outputs] == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("name", ["dense", "residual"])
def test_largest_paths_and_basis_paths_have_the_values_of_the_edges(name: str) -> None:
    model, x = made(name)
    net = eclab.trace(model, x)
    listed = whole_paths(net)
    values = sorted((abs(value(net, path)) for path in listed), reverse=True)
    assert np.allclose([abs(path.value) for path in net.top_paths(len(listed))], values, rtol=1e-12)
    assert np.exp(net.path_norm(1)) == pytest.approx(sum(values), rel=1e-12)
    chart = net.chart()
    v = chart.coordinates()
    norm = net.frozen_norms[0]
    found = chart.basis_path(norm.beta, (1,))
    assert found.value == pytest.approx(v[norm.beta][1].item(), rel=1e-14)


@every
def test_coordinates_are_those_of_the_class_and_lead_back(name: str) -> None:
    model, x = made(name)
    net = eclab.trace(model, x)
    chart, before = net.chart(), {key: p.detach().clone() for key, p in model.named_parameters()}
    v = chart.coordinates()
    assert all(torch.equal(p, before[key]) for key, p in model.named_parameters())
    tree = {edge.parameter for edge in chart.tree}
    other = copy.deepcopy(model)
    moved = eclab.trace(other, x)
    eclab.random_rescale_(moved, 1.0, torch.Generator().manual_seed(2))
    for key, value_there in moved.chart().coordinates().items():
        if key not in tree:
            torch.testing.assert_close(value_there, v[key], rtol=1e-9, atol=1e-11)
    w = functional.allocate(chart, functional.coordinates(chart, functional.live_weights(chart)))
    for key, p in w.items():
        torch.testing.assert_close(p, before[key], rtol=1e-10, atol=1e-12)
    chart.allocate({key: value_here * (1 if key in tree else 1.01) for key, value_here in v.items()})
    assert not all(torch.equal(p, before[key]) for key, p in model.named_parameters())
    chart.allocate(v)
    for key, p in model.named_parameters():
        torch.testing.assert_close(p.detach(), before[key], rtol=1e-9, atol=1e-11)


@every
def test_class_gradients_are_those_of_automatic_differentiation(name: str) -> None:
    model, x = made(name)
    net = eclab.trace(model, x)
    chart = net.chart()
    model(x).square().mean().backward()
    found = chart.gradients()
    v = {key: item.detach().requires_grad_() for key, item in chart.coordinates().items()}
    loss = torch.func.functional_call(model, functional.allocate(chart, v), (x,)).square().mean()
    tree = {(edge.parameter, edge.index) for edge in chart.tree}
    for key, gradient in zip(v, torch.autograd.grad(loss, list(v.values())), strict=True):
        expected = gradient.clone()
        for parameter, index in tree:
            if parameter == key:
                expected[index] = 0
        torch.testing.assert_close(found[key], expected, rtol=1e-8, atol=1e-8 * float(expected.abs().max()))


@every
def test_looking_changes_nothing_to_the_last_bit(name: str) -> None:
    model, x = made(name)
    net = eclab.trace(model, x)
    loss = model(x).square().mean()
    chart = net.chart("strongest")
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    chart.coordinates()
    net.top_paths(2)
    loss.backward()  # what was recorded before looking can still be differentiated
    grads = {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}
    pointers = {key: p.data_ptr() for key, p in model.named_parameters()}
    chart.gradients()
    assert all(torch.equal(p, before[key]) for key, p in model.named_parameters())
    assert all(p.grad is not None and torch.equal(p.grad, grads[key]) for key, p in model.named_parameters())
    assert pointers == {key: p.data_ptr() for key, p in model.named_parameters()}


@every
@pytest.mark.parametrize("move", [eclab.balance_, eclab.condition_, eclab.canonicalize_])
def test_orbit_moves_keep_the_function_and_its_gradient(name: str, move: Callable[[eclab.Network], Any]) -> None:
    model, x = made(name)
    net, before = eclab.trace(model, x), model(x).detach()
    model(x).square().mean().backward()
    move(net)
    assert gap(before, model(x)) < 1e-10
    kept = {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    model(x).square().mean().backward()
    for key, p in model.named_parameters():
        assert p.grad is not None
        torch.testing.assert_close(kept[key], p.grad, rtol=1e-8, atol=1e-8 * p.grad.abs().max().item())


def test_edges_and_weights_are_inverse() -> None:
    model, x = made("dense")
    net = eclab.trace(model, x)
    weights = {weight.name: weight.parameter.detach() for weight in net.weights}
    back = weights_of(net, edges_of(net, weights))
    for key, p in weights.items():
        torch.testing.assert_close(back[key], p, rtol=1e-14, atol=1e-14)


def test_an_offset_that_cannot_move_pins_what_comes_before() -> None:
    model, x = made("dense")
    model.get_parameter("1.bias").requires_grad_(False)
    net = eclab.trace(model, x, verify=True)
    unit = net.unit(int(net.layer("0").units[0]))
    assert unit.reason == "batch-norm at '1' subtracts a fixed mean, and has no offset that could move along"
    assert {net.unit(int(u)).state for u in net.layer("3").units} == {"free"}
