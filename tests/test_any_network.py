"""Residual streams, concatenation, batch-norm, transposed and grouped convolutions: exact, like plain layers."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import eclab
from eclab.network.rules import supported
from eclab.paths.enumerate import Path, rank, segments, whole_paths
from eclab.paths.monomials import exponents

F64 = torch.float64
EPS = 1e-30
"""Batch-norm takes a scale away up to its eps, so what must hold to rounding is tested with next to none."""


def norm(width: int, on: bool, kind: type[nn.Module] = nn.BatchNorm2d) -> nn.Module:
    return kind(width, eps=EPS) if on else nn.Identity()


class Block(nn.Module):
    """A residual block, its skip learned where the shape changes."""

    def __init__(self, i: int, o: int, stride: int = 1, *, bn: bool) -> None:
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(i, o, 3, stride, 1, bias=not bn), nn.Conv2d(o, o, 3, 1, 1, bias=not bn)
        self.b1, self.b2 = norm(o, bn), norm(o, bn)
        changes = stride > 1 or i != o
        self.down = nn.Sequential(nn.Conv2d(i, o, 1, stride, bias=False), norm(o, bn)) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        value: Tensor = functional.relu(self.b2(self.c2(functional.relu(self.b1(self.c1(x))))) + self.down(x))
        return value


def resnet(*, bn: bool) -> nn.Module:
    stem = [nn.Conv2d(1, 4, 3, 1, 1, bias=False), norm(4, bn), nn.ReLU()]
    blocks = [Block(4, 4, bn=bn), Block(4, 6, 2, bn=bn), Block(6, 6, bn=bn)]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))


class PreActivation(nn.Module):
    """A stream that only batch-norms read: its scale is felt by nothing downstream."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.n1, self.c1 = nn.Conv2d(1, 2, 1), norm(2, True), nn.Conv2d(2, 2, 1, bias=False)
        self.n2, self.c2, self.n3, self.head = norm(2, True), nn.Conv2d(2, 2, 1), norm(2, True), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.c2(functional.relu(self.n2(self.c1(functional.relu(self.n1(x))))))
        value: Tensor = self.head(functional.relu(self.n3(x)).mean((2, 3)))
        return value


class DenseNet(nn.Module):
    """Concatenated features, batch-norm before each convolution, a grouped transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.c0, self.n1, self.c1 = nn.Conv2d(1, 3, 3, 1, 1), norm(3, True), nn.Conv2d(3, 4, 3, 1, 1, bias=False)
        self.n2, self.c2 = norm(7, True), nn.Conv2d(7, 5, 1)
        self.up, self.head = nn.ConvTranspose2d(12, 4, 2, 2, groups=2), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.c0(x)
        y = torch.cat([x, self.c1(functional.relu(self.n1(x)))], 1)
        z = torch.cat([y, self.c2(functional.relu(self.n2(y)))], 1)
        value: Tensor = self.head(functional.relu(self.up(functional.relu(z))).mean((2, 3)))
        return value


class Mixed(nn.Module):
    """Concatenation of an activated and a linear branch, ``x @ W + p``, a scaled residual branch."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(64, 5), nn.Linear(64, 3, bias=False)
        self.W, self.p = nn.Parameter(torch.randn(8, 6)), nn.Parameter(torch.randn(6))
        self.r, self.head = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        z = functional.relu(torch.cat([functional.relu(self.a(x)), self.b(x)], -1) @ self.W + self.p)
        value: Tensor = self.head(z + 0.5 * functional.leaky_relu(self.r(z)))
        return value


def depthwise() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, 1, 1), nn.ReLU(), nn.Conv2d(6, 6, 3, 1, 1, groups=6), norm(6, True), nn.ReLU(),
        nn.Conv2d(6, 4, 1), nn.ReLU(), nn.Conv2d(4, 8, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(288, 3),
    )  # fmt: skip


class SmallResidual(nn.Module):
    """Small enough to list its paths."""

    def __init__(self, *, bn: bool) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(2, 3), nn.Linear(3, 2), nn.Linear(2, 3, bias=False)
        self.d, self.e, self.f = nn.Linear(3, 3), nn.Linear(3, 2), nn.Linear(3, 2)
        self.n = norm(3, bn, nn.BatchNorm1d)

    def forward(self, x: Tensor) -> Tensor:
        h = functional.relu(self.a(x))
        h = functional.relu(h + self.n(self.c(functional.relu(self.b(h)))))
        h = h + functional.relu(self.d(h))
        return torch.cat([self.e(h), self.f(h)], 1)


class SummedUp(nn.Module):
    """The sum over its units ties those of one layer."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sum(-1, keepdim=True)


class SmallTransposed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.ConvTranspose2d(2, 4, 2, groups=2), nn.ConvTranspose2d(4, 2, 1, bias=False)
        self.W = nn.Parameter(torch.randn(2, 2))

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.b(functional.relu(self.a(x)))).mean((2, 3)) @ self.W


Make = Callable[[], nn.Module]
LARGE: dict[str, tuple[Make, float]] = {
    "residual": (lambda: resnet(bn=False), 1e-4),
    "residual, batch-norm": (lambda: resnet(bn=True), 1e-3),
    "densenet": (DenseNet, 1e-3),
    "mixed": (Mixed, 1e-3),
    "depthwise": (depthwise, 1e-3),
}
SMALL: dict[str, tuple[Make, tuple[int, ...]]] = {
    "residual": (lambda: SmallResidual(bn=False), (2,)),
    "residual, batch-norm": (lambda: SmallResidual(bn=True), (2,)),
    "pre-activation": (PreActivation, (1, 2, 2)),
    "transposed": (SmallTransposed, (2, 2, 2)),
}
large = pytest.mark.parametrize("name", LARGE)
small = pytest.mark.parametrize("name", SMALL)


def made(make: Make) -> nn.Module:
    torch.manual_seed(0)
    return make().to(F64)


def pictures() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(16, 1, 8, 8, dtype=F64), torch.randn(16, 3, dtype=F64)


def drawn(name: str) -> tuple[nn.Module, eclab.Network]:
    make, shape = SMALL[name]
    model = made(make)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model, eclab.trace(model, torch.randn(4, *shape, dtype=F64))


def gap(one: Tensor, two: Tensor) -> float:
    return ((one - two).abs().max() / one.abs().max()).item()


@large
def test_twenty_steps_from_two_members_give_one_function(name: str) -> None:
    make, lr = LARGE[name]
    x, t = pictures()
    one = made(make)
    eclab.start_skeleton_(eclab.trace(one, x))
    two = copy.deepcopy(one)
    eclab.random_rescale_(eclab.trace(two, x), 1.0, torch.Generator().manual_seed(2))
    assert gap(one(x), two(x)) < 1e-12
    first: list[float] = []
    for model in (one, two):
        optimizer = eclab.ECSGD(eclab.trace(model, x), lr=lr)
        for _ in range(20):
            optimizer.zero_grad()
            loss = (model(x) - t).square().mean()
            loss.backward()
            optimizer.step()
            first.append(loss.item())
    assert first[19] < first[0]
    assert gap(one(x), two(x)) < 1e-9
    assert eclab.same_class(one, two, x)


@large
def test_what_flows_into_a_scale_flows_out(name: str) -> None:
    x, t = pictures()
    model = made(LARGE[name][0])
    net = eclab.trace(model, x)
    (model(x) - t).square().mean().backward()
    balance = torch.zeros(net.num_nodes, dtype=F64)
    size = torch.zeros(net.num_nodes, dtype=F64)
    for weight in net.weights:
        assert weight.parameter.grad is not None
        flow = weight.parameter.detach() * weight.parameter.grad
        balance += weight.sum_into_heads(flow, net.num_nodes) - weight.sum_into_tails(flow, net.num_nodes)
        size += weight.sum_into_heads(flow.abs(), net.num_nodes)
    by_scale = torch.zeros(net.num_units + 1, dtype=F64).index_add_(0, net.scale_of, balance)
    assert by_scale[1:].abs().max() < 1e-10 * size.max()


@small
def test_the_rank_is_the_class_dimension(name: str) -> None:
    _, net = drawn(name)
    assert rank(net) == net.class_dim == net.num_weights - net.num_units


@small
def test_counts_and_largest_paths_agree_with_the_list(name: str) -> None:
    _, net = drawn(name)
    listed = whole_paths(net)
    assert net.count_paths() == len(listed)
    values = sorted((abs(value(net, path)) for path in listed), reverse=True)
    found = [abs(path.value) for path in net.top_paths(len(listed) + 5)]
    assert np.allclose(found, values, rtol=1e-12)


def value(net: eclab.Network, path: Path) -> float:
    weights = [net.weight(edge.parameter).parameter[edge.index].item() for edge in path if edge.parameter]
    return float(np.prod(weights))


@pytest.mark.parametrize("name", ["residual", "transposed"])
def test_every_path_is_a_monomial_of_basis_paths(name: str) -> None:
    _, net = drawn(name)
    chart = net.chart()
    v = chart.coordinates()
    for path in segments(net):
        product = np.prod([float(v[e.parameter][e.index]) ** n for e, n in exponents(chart, path).items()])
        assert product == pytest.approx(value(net, path), rel=1e-12)


@pytest.mark.parametrize("name", ["residual", "mixed"])
def test_the_path_norm_is_the_network_on_magnitudes(name: str) -> None:
    x, _ = pictures()
    model = made(LARGE[name][0])
    net = eclab.trace(model, x)
    magnitudes = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in magnitudes.parameters():
            parameter.abs_()
        expected = float(magnitudes(torch.ones_like(x[:1])).sum())
    assert net.path_norm(1, log=False) == pytest.approx(expected, rel=1e-12)


def test_questions_leave_running_statistics_alone() -> None:
    x, _ = pictures()
    model = made(lambda: resnet(bn=True))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    net = eclab.trace(model, x)
    net.audit(x)
    net.top_paths(3, x[:1])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(eclab.ChartError, match="training statistics"):
        net.path_norm()


def test_a_stream_has_one_scale_a_channel() -> None:
    net = eclab.trace(made(lambda: resnet(bn=False)), pictures()[0])
    # stem and first block share 4, each later block has its inner units, and the two 6-channel blocks share 6
    assert net.num_units == 4 + 4 + 6 + 6 + 6
    assert {unit.state for unit in net.units if unit.layer == "0"} == {"tied"}
    assert {unit.state for unit in net.units if unit.layer == "3.c1"} == {"free"}


def test_batch_norm_has_two_redundancies_a_channel_in_training_and_when_frozen() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    x = torch.randn(5, 3)
    assert eclab.trace(model, x).num_units == 8
    assert eclab.trace(model.eval(), x).num_units == 8
    plain = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, affine=False), nn.ReLU(), nn.Linear(4, 2))
    assert eclab.trace(plain, x).num_units == 4
    frozen = eclab.trace(plain.eval(), x)
    assert frozen.num_units == 0
    assert "subtracts a fixed mean" in next(unit.reason for unit in frozen.units if unit.layer == "0")


def test_rescaling_a_tied_unit_moves_the_whole_stream() -> None:
    x, _ = pictures()
    model = made(lambda: resnet(bn=False))
    net, before = eclab.trace(model, x), model(x)
    eclab.rescale_(net, "0", 1, 7.0)
    assert gap(before, model(x)) < 1e-12
    row = nn.Sequential(nn.Linear(2, 3), SummedUp(), nn.Linear(1, 2)).to(F64)
    inputs, before = torch.randn(5, 2, dtype=F64), row(torch.ones(1, 2, dtype=F64))
    eclab.rescale_(eclab.trace(row, inputs), "0", 1, 7.0)
    assert gap(before, row(torch.ones(1, 2, dtype=F64))) < 1e-12
    scales = torch.ones(4, dtype=F64)
    with pytest.raises(eclab.ScaleError, match="tied"):
        eclab.apply_scales_(net, {"0": scales, "3.c2": 2 * scales})


def test_the_table_of_operations_names_each_once() -> None:
    names = [words for words, _, _ in supported()]
    assert len(names) == len(set(names))
    assert ("tanh", "pins its units", "") in supported()
