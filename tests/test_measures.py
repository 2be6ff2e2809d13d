"""Measures of a class: differentiable charts and the basis-path norm, against enumeration and finite differences."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

import eclab
from eclab.errors import ChartError, SettingError
from eclab.facade import Network
from eclab.paths import functional
from eclab.paths.chart import Chart
from tests.zoo import ZOO, Member, dense, joined

F64 = torch.float64


class Residual(nn.Module):
    """Identity skips on one stream."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Stem, two residual blocks, head."""
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.one(x))
        out: Tensor = self.head(torch.relu(x + self.two(x)))
        return out


def normed() -> nn.Sequential:
    """Batch-norm behind linear layers, with an ε so small that it leaves the scale before it free."""
    one, two = nn.BatchNorm1d(5, eps=1e-20), nn.BatchNorm1d(3, eps=1e-20)
    layers = [nn.Linear(4, 5), one, nn.ReLU(), nn.Linear(5, 3), two, nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(3, 2))


MEMBERS = {**ZOO, "residual stream": Member(Residual, (3,)), "batch-norm, frozen": Member(normed, (4,))}
TRAINING = "batch-norm, training statistics"
NAMES = [*MEMBERS, TRAINING]


def traced(name: str, seed: int = 0) -> tuple[Network, Tensor]:
    """A member of the zoo, or a network whose batch-norm uses the statistics of the batch."""
    if name in ZOO:
        return ZOO[name].trace(seed)
    model, x = (Member(normed, (4,)) if name == TRAINING else MEMBERS[name]).make(seed, samples=6)
    return eclab.trace(model.train(name == TRAINING), x), x


def loss_of(net: Network, x: Tensor) -> Tensor:
    loss: Tensor = (joined(net.model(x)) - 1).square().mean()
    return loss


def live(net: Network) -> dict[str, Tensor]:
    return {weight.name: weight.parameter.detach() for weight in net.weights}


def close(one: dict[str, Tensor], two: dict[str, Tensor], tolerance: float = 1e-12) -> None:
    """Equal up to rounding, that of the largest entry of all: sums that cancel leave as much."""
    assert one.keys() == two.keys()
    size = max(float(value.abs().max()) for value in one.values())
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=tolerance, atol=tolerance * size)


# the chart as pure functions -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_pure_coordinates_and_allocation_are_those_of_the_chart(name: str) -> None:
    net, _ = traced(name)
    chart = net.chart()
    v = functional.coordinates(chart, live(net))
    close(chart.coordinates(), v, 1e-15)
    close(live(net), functional.allocate(chart, v))

    wanted = {key: value * (0.5 + torch.rand_like(value)) for key, value in v.items()}
    for edge in chart.tree:
        wanted[edge.parameter][edge.index] = v[edge.parameter][edge.index]
    found = functional.allocate(chart, wanted)
    chart.allocate(wanted)
    close(live(net), found)


@pytest.mark.parametrize("name", NAMES)
def test_the_slope_through_allocation_is_the_inverse_chain_rule(name: str) -> None:
    net, x = traced(name)
    chart = net.chart()
    weights = live(net)
    v = {key: value.requires_grad_() for key, value in functional.coordinates(chart, weights).items()}
    through = functional.allocate(chart, v)
    loss = (joined(torch.func.functional_call(net.model, through, (x,))) - 1).square().mean()
    slopes = dict(zip(v, torch.autograd.grad(loss, list(v.values())), strict=True))
    for edge in chart.tree:  # slopes along the tree are those along the orbit, and no coordinates
        assert abs(float(slopes[edge.parameter][edge.index])) < 1e-9 * max(
            float(s.abs().max()) for s in slopes.values()
        )
        slopes[edge.parameter][edge.index] = 0.0

    loss_of(net, x).backward()
    close(chart.gradients(), slopes, 1e-9)
    grads = {weight.name: weight.parameter.grad for weight in net.weights if weight.parameter.grad is not None}
    close(chart.gradients(), functional.gradients(chart, weights, grads), 1e-15)


@pytest.mark.parametrize("name", ["wide-narrow-wide", "a width of 1", "residual stream", TRAINING])
def test_torch_differentiates_twice_through_both_maps(name: str) -> None:
    net, _ = traced(name)
    chart = net.chart()
    weights = {key: 1 + 0.2 * torch.randn_like(value) for key, value in live(net).items()}  # differences need size
    for function, at in (
        (functional.coordinates, weights),
        (functional.allocate, functional.coordinates(chart, weights)),
    ):
        names = list(at)

        def flat(*tensors: Tensor, names: list[str] = names, function: object = function) -> tuple[Tensor, ...]:
            found = function(chart, dict(zip(names, tensors, strict=True)))  # type: ignore[operator]
            return tuple(found.values())

        inputs = tuple(value.clone().requires_grad_() for value in at.values())
        assert torch.autograd.gradcheck(flat, inputs, rtol=1e-5)
        assert torch.autograd.gradgradcheck(flat, inputs, rtol=1e-4, atol=1e-4)


def test_torch_func_goes_through_the_maps() -> None:
    net, x = traced("some biases")
    chart = net.chart()
    v = functional.coordinates(chart, live(net))
    scales = torch.tensor([0.9, 1.0, 1.1], dtype=F64)

    def loss(scale: Tensor) -> Tensor:
        weights = functional.allocate(chart, {name: scale * value for name, value in v.items()})
        return joined(torch.func.functional_call(net.model, weights, (x,))).square().mean()

    one_by_one = torch.stack([loss(scale) for scale in scales])
    torch.testing.assert_close(torch.vmap(loss)(scales), one_by_one, rtol=1e-12, atol=0)
    slope = torch.func.grad(loss)(scales[1])
    assert float(slope) == pytest.approx(
        float((loss(1 + 1e-6 * scales[1]) - loss(1 - 1e-6 * scales[1])) / 2e-6), rel=1e-6
    )


# the basis-path norm -------------------------------------------------------------------------------------------------


def listed(chart: Chart) -> tuple[list[float], list[float]]:
    """The values of the basis paths one by one: of the skeleton, and the others."""
    on: list[float] = []
    off: list[float] = []
    for weight in chart.weights:
        for place in range(weight.numel):
            index = tuple(int(i) for i in torch.unravel_index(torch.tensor(place), weight.shape))
            try:
                path = chart.basis_path(weight.name, index)
            except ChartError:
                continue  # a tree edge
            own = next(edge for edge in path.edges if (edge.parameter, edge.index) == (weight.name, index))
            (on if chart.role(own) == "b-edge" else off).append(abs(path.value))
    return on, off


@pytest.mark.parametrize("name", [name for name in MEMBERS if name != "batch-norm, frozen"])
@pytest.mark.parametrize("p", [1.0, 2.0, 3.5])
def test_the_norm_is_that_of_the_paths_listed(name: str, p: float) -> None:
    net, _ = traced(name)
    on, off = listed(net.chart())
    assert len(on) + len(off) == net.class_dim
    total = math.fsum(value**p for value in [*on, *off])
    assert eclab.basis_path_norm(net, p).item() == pytest.approx(total, rel=1e-12)
    assert eclab.basis_path_norm(net.chart(), p, root=True).item() == pytest.approx(total ** (1 / p), rel=1e-12)
    logs = math.fsum(abs(math.log(value)) ** p for value in on) + math.fsum(value**p for value in off)
    assert eclab.basis_path_norm(net, p, skeleton="log").item() == pytest.approx(logs, rel=1e-12)


def test_the_papers_norm_is_the_largest() -> None:
    net, _ = traced("wide-narrow-wide")
    on, off = listed(net.chart())
    assert eclab.basis_path_norm(net, math.inf).item() == pytest.approx(max(*on, *off), rel=1e-14)
    papers = max(max(abs(math.log(value)) for value in on), *off)
    assert eclab.basis_path_norm(net, math.inf, skeleton="log").item() == pytest.approx(papers, rel=1e-14)
    assert eclab.basis_path_norm(net, 400, root=True).item() == pytest.approx(max(*on, *off), rel=1e-2)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", ["value", "log"])
def test_the_norm_does_not_feel_a_rescaling(name: str, form: str) -> None:
    net, _ = traced(name)
    before = eclab.basis_path_norm(net, skeleton=form).item()
    eclab.random_rescale_(net, 2.0, torch.Generator().manual_seed(1))
    assert eclab.basis_path_norm(net, skeleton=form).item() == pytest.approx(before, rel=1e-12)


@pytest.mark.parametrize("name", ["wide-narrow-wide", "conv 3×3, max-pool", "residual stream", TRAINING])
@pytest.mark.parametrize(("p", "form", "root"), [(1.0, "value", False), (2.0, "log", False), (3.0, "value", True)])
def test_the_norms_gradient_against_differences(name: str, p: float, form: str, root: bool) -> None:
    net, _ = traced(name)
    chart = net.chart()
    norm = eclab.basis_path_norm(chart, p, skeleton=form, root=root)
    parameters = chart.parameters()
    slopes = torch.autograd.grad(norm, parameters)
    for parameter, slope in zip(parameters, slopes, strict=True):
        for place in range(0, parameter.numel(), 3):
            entry = parameter.data.view(-1)
            old = float(entry[place])
            h = 1e-6 * max(abs(old), 1e-3)
            ends = []
            for sign in (1, -1):
                entry[place] = old + sign * h
                ends.append(eclab.basis_path_norm(chart, p, skeleton=form, root=root).item())
            entry[place] = old
            size = max(float(s.abs().max()) for s in slopes)
            assert float(slope.reshape(-1)[place]) == pytest.approx(
                (ends[0] - ends[1]) / (2 * h), rel=1e-5, abs=1e-6 * size
            )


def test_as_a_loss_term_it_is_weight_decay_in_class_space() -> None:
    """Two ways to the same trajectory: decay inside the optimizer, and half the norm in the loss."""
    net, x = traced("some biases")
    eclab.start_skeleton_(net)
    other = copy.deepcopy(net)
    decayed = eclab.ECSGD(net, lr=0.02, momentum=0.9, weight_decay=0.1)
    plain = eclab.ECSGD(other, lr=0.02, momentum=0.9)
    for _ in range(50):
        for each, optimizer, term in ((net, decayed, 0.0), (other, plain, 0.1 / 2)):
            optimizer.zero_grad()
            (loss_of(each, x) + (term * eclab.basis_path_norm(each) if term else 0)).backward()
            optimizer.step()
    close(live(net), live(other), 1e-10)
    assert decayed.guarded_moves == plain.guarded_moves


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_sgd_with_the_norm_ends_with_smaller_paths(dtype: torch.dtype) -> None:
    sizes = {}
    for strength in (0.0, 0.05):
        net, x = traced("one hidden layer")
        net.model.to(dtype)
        optimizer = torch.optim.SGD(net.model.parameters(), lr=0.1)
        for _ in range(100):
            optimizer.zero_grad()
            loss: Tensor = (joined(net.model(x.to(dtype))) - 1).square().mean()
            (loss + strength * eclab.basis_path_norm(net, 1)).backward()
            optimizer.step()
        sizes[strength] = eclab.basis_path_norm(net, 1).item()
    assert sizes[0.05] < 0.7 * sizes[0.0]


def test_values_far_beyond_float32_are_no_trouble() -> None:
    model = dense(4, *[4] * 30, 2, bias=False).float()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(40.0)
    net = eclab.trace(model, torch.ones(1, 4))
    norm = eclab.basis_path_norm(net, 2)
    norm.backward()
    exact = eclab.basis_path_norm(eclab.trace(copy.deepcopy(model).double(), torch.ones(1, 4, dtype=F64)), 2)
    assert norm.item() == pytest.approx(exact.item(), rel=1e-12)
    assert norm.item() > 1e40, "the example must leave float32"
    assert math.isfinite(eclab.basis_path_norm(net, 12, root=True).item())


def test_norms_that_do_not_exist_are_refused() -> None:
    net, _ = traced("some biases")
    for p in (0, 0.5, -1, math.nan, "two"):
        with pytest.raises(SettingError, match="p is"):
            eclab.basis_path_norm(net, p)  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="skeleton is 'logs'"):
        eclab.basis_path_norm(net, skeleton="logs")
    edge = net.chart().b_edges[0]
    with torch.no_grad():
        net.weight(edge.parameter).parameter[edge.index] = 0.0
    assert math.isfinite(eclab.basis_path_norm(net).item())
    with pytest.raises(ChartError, match="no logarithm"):
        eclab.basis_path_norm(net, skeleton="log")


def test_the_norm_of_no_paths_but_zeros() -> None:
    net, _ = traced("some biases")
    with torch.no_grad():
        for parameter in net.model.parameters():
            parameter.zero_()
    norm = eclab.basis_path_norm(net)
    norm.backward()
    assert norm.item() == 0.0
    assert all(bool((p.grad == 0).all()) for p in net.model.parameters() if p.grad is not None)
