"""Which skeleton: the strongest by dynamic programming, by hand, and re-based when it grows weak."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import eclab
from eclab import ChartError
from eclab.facade import Network
from eclab.kernels import torch_core as core
from eclab.kernels import torch_maps as maps
from eclab.paths.chart import Chart
from eclab.paths.enumerate import segments
from eclab.paths.rebase import changed, changes, rebased
from eclab.paths.skeleton import Edge
from eclab.paths.strongest import largest
from tests.test_ecsgd import MODELS, backward, pair, wide_narrow_wide
from tests.zoo import ZOO, dense, joined

F64 = torch.float64


def drawn(name: str) -> tuple[Network, Tensor]:
    net, x = ZOO[name].trace()
    with torch.no_grad():
        for p in net.model.parameters():
            p.normal_()
    return net, x


def value(net: Network, path: tuple[Edge, ...]) -> float:
    return float(np.prod([float(net.weight(e.parameter).parameter.detach()[e.index]) for e in path if e.parameter]))


def on_path(net: Network, path: tuple[Edge, ...]) -> set[int]:
    return {int(net.scale_of[edge.head]) for edge in path}


# strongest -----------------------------------------------------------------------------------------------------------


def is_layered(net: Network) -> bool:
    """No unit is tied and none lies before a batch-norm, so that every path through a unit is one of the list."""
    return not len(net.scale_free) and all(unit.state != "tied" for unit in net.units)


LAYERED = [name for name in ZOO if is_layered(ZOO[name].trace()[0])]


@pytest.mark.parametrize("name", LAYERED)
def test_its_chains_are_the_largest_of_all_without_biases(name: str) -> None:
    """Against the list of all paths: the largest |value| through every unit is that along its a- and b-chain."""
    net, _ = drawn(name)
    chart = net.chart("strongest")
    best: dict[int, float] = {}
    for path in segments(net):
        if net.weight(path[0].parameter).kind != "bias":
            for scale in on_path(net, path):
                best[scale] = max(best.get(scale, 0.0), abs(value(net, path)))
    chain = core.chains(chart.plan, [p.detach() for p in chart.parameters()])
    assert best
    for scale in range(1, net.num_units + 1):
        assert float((chain.cin[scale] * chain.cout[scale]).abs()) == pytest.approx(best[scale], rel=1e-12)


@pytest.mark.parametrize("name", ZOO)
def test_every_member_of_a_class_chooses_alike(name: str) -> None:
    net, _ = drawn(name)
    other = copy.deepcopy(net)
    eclab.random_rescale_(other, 1.5, torch.Generator().manual_seed(3))
    assert net.chart("strongest").skeleton == other.chart("strongest").skeleton
    assert net.chart("strongest").name == "strongest"


def test_it_is_looked_for_in_parts_of_a_large_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    net, _ = drawn("conv 1-D, stride, dilation, average pool")
    far = torch.randn(net.num_nodes, dtype=F64)
    whole = [largest(w, far, by_head=side) for w in net.weights for side in (True, False)]
    monkeypatch.setattr("eclab.paths.strongest._CHUNK", 5)
    parts = [largest(w, far, by_head=side) for w in net.weights for side in (True, False)]
    for one, two in zip(whole, parts, strict=True):
        assert torch.equal(one.units, two.units)
        assert torch.equal(one.logs, two.logs)
        assert torch.equal(one.places, two.places)


def test_a_unit_all_paths_of_which_are_0_has_no_chart() -> None:
    net, _ = drawn("wide-narrow-wide")
    with torch.no_grad():
        net.weights[0].parameter[2] = 0
    with pytest.raises(ChartError, match=r"every path into 0\[2\] has the value 0"):
        net.chart("strongest")


def test_ecsgd_trains_in_it_the_same_for_every_member() -> None:
    one, two, x = pair(MODELS["conv"])
    for net in (one, two):
        with torch.no_grad():
            for weight in net.weights:
                weight.parameter.mul_(1 + 0.1 * torch.rand(weight.shape, generator=torch.Generator().manual_seed(1)))
        optimizer = eclab.ECSGD(net, lr=0.02, chart="strongest")
        for _ in range(50):
            backward(net, x)
            optimizer.step()
    outputs = [joined(net.model(x)).detach() for net in (one, two)]
    assert float((outputs[0] - outputs[1]).abs().max() / outputs[0].abs().max()) < 1e-9


# by hand -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def net() -> Network:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2), nn.Tanh(), nn.Linear(2, 2)
    )
    return eclab.trace(model.double(), torch.ones(1, 3, dtype=F64))


def test_edges_by_hand_replace_those_of_the_diagonal(net: Network) -> None:
    chart = net.chart({"0[1]": ("0.weight", (1, 2)), ("2", 3): [("2.weight", (3, 0)), ("4.weight", (0, 3))]})
    plain = net.chart()
    assert [str(e) for e in set(chart.tree) - set(plain.tree)] != []
    assert {str(e) for e in set(chart.tree) - set(plain.tree)} == {"0.weight[1,2]", "2.weight[3,0]"}
    assert {str(e) for e in set(chart.b_edges) - set(plain.b_edges)} == {"4.weight[0,3]"}
    assert chart.name == "by hand"
    v = chart.coordinates()
    before = [p.detach().clone() for p in net.model.parameters()]
    chart.allocate(v)
    for p, q in zip(net.model.parameters(), before, strict=True):
        torch.testing.assert_close(p.detach(), q, rtol=1e-12, atol=1e-15)


def test_a_bias_may_be_a_tree_edge(net: Network) -> None:
    chart = net.chart({"0[1]": ("0.bias", (1,))})
    assert "0.bias[1]" in [str(edge) for edge in chart.tree]
    paths = {str(edge) for edge in chart.basis_path("0.weight", (1, 0)).edges}
    assert "0.weight[1,0]" in paths


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"0[9]": ("0.weight", (1, 2))}, r"there is no unit '0\[9\]'"),
        ({"4[0]": ("4.weight", (0, 0))}, r"unit 4\[0\] cannot scale: tanh at '5'"),
        ({"0[1]": ("0.weight", (2, 2))}, r"0.weight\[2,2\] neither leads to unit 0\[1\] nor leaves it"),
        ({"0[1]": ("0.weight", (1, 7))}, r"outside its shape \(4, 3\)"),
        ({"0[1]": ("9.weight", (1, 2))}, "there is no weight '9.weight'"),
        ({"0[1]": "0.weight"}, "'0.weight' is no edge"),
        ({"0[1]": 3}, "3 is no edge"),
        ({"0[1]": []}, "is no edge"),
        ({"0[1]": ("0.weight", "ab")}, "is no edge"),
    ],
)
def test_what_is_no_choice_is_refused(net: Network, choice: dict[Any, Any], words: str) -> None:
    with pytest.raises(ChartError, match=words):
        net.chart(choice)


def test_all_that_is_wrong_is_reported_together(net: Network) -> None:
    with pytest.raises(ChartError, match=r"no unit '0\[9\]'.*cannot scale"):
        net.chart({"0[9]": ("0.weight", (1, 2)), "4[0]": ("4.weight", (0, 0))})
    with pytest.raises(ChartError, match=r"there is no chart 5"):
        net.chart(5)  # type: ignore[arg-type]


class Circle(nn.Module):
    """A residual stream whose block reads and writes it: edges by hand can run in a circle."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        """One residual block."""
        h = torch.relu(self.a(x))
        out: Tensor = self.d(h + self.c(torch.relu(self.b(h))))
        return out


def test_a_circle_is_refused() -> None:
    net = eclab.trace(Circle(), torch.ones(2, 2))
    with pytest.raises(ChartError, match=r"a-edges .*c.weight\[0,0\].* run in a circle"):
        net.chart({"a[0]": ("c.weight", (0, 0))})


# re-basing -----------------------------------------------------------------------------------------------------------


def weaken(net: Network, edge: Edge, factor: float) -> None:
    with torch.no_grad():
        net.weight(edge.parameter).parameter[edge.index] *= factor


def path_values(chart: Chart, *, side: str) -> dict[int, dict[Edge, float]]:
    """Brute force: ``|p_e|`` of all weights that lead to (or leave) each free scale, chains multiplied out."""
    net = chart.net
    found: dict[int, dict[Edge, float]] = {}

    def chain(unit: int, up: bool) -> float:
        product, scale = 1.0, int(net.scale_of[unit])
        chosen = chart.skeleton.a if up else chart.skeleton.b
        while scale in chosen:
            edge = chosen[scale]
            product *= float(net.weight(edge.parameter).parameter.detach()[edge.index])
            scale = int(net.scale_of[edge.tail if up else edge.head])
        return product

    for weight in net.weights:
        if weight.kind == "bias":
            continue
        for index in np.ndindex(weight.shape):
            edge = Edge(weight.name, index, *weight.ends(index))
            p = chain(edge.tail, True) * float(weight.parameter.detach()[index]) * chain(edge.head, False)
            near = int(net.scale_of[edge.head if side == "a" else edge.tail])
            if near:
                found.setdefault(near, {})[edge] = abs(p)
    return found


@pytest.mark.parametrize("name", ["wide-narrow-wide", "conv 3×3, max-pool", "deep", "grouped conv"])
@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.9])
def test_weak_edges_give_way_to_their_strongest_sibling(name: str, threshold: float) -> None:
    net, _ = drawn(name)
    chart = net.chart()
    before = [p.detach().clone() for p in net.model.parameters()]
    new = rebased(chart, threshold)
    assert all(torch.equal(p, q) for p, q in zip(net.model.parameters(), before, strict=True))
    for side, old, now in (
        ("a", chart.skeleton.a, (new or chart).skeleton.a), ("b", chart.skeleton.b, (new or chart).skeleton.b),
    ):  # fmt: skip
        for scale, values in path_values(chart, side=side).items():
            strongest = max(values, key=lambda edge: values[edge])
            weak = values[old[scale]] < threshold * values[strongest]
            assert now[scale] == (strongest if weak else old[scale])


def test_a_strong_skeleton_stays() -> None:
    net, _ = drawn("wide-narrow-wide")
    assert rebased(net.chart("strongest"), 0.999) is None


def test_members_of_a_class_re_base_alike_and_changes_can_be_written_down() -> None:
    net, _ = drawn("conv 5×5 and 1×1, adaptive pool")
    other = copy.deepcopy(net)
    eclab.random_rescale_(other, 1.5, torch.Generator().manual_seed(3))
    new, same = rebased(net.chart(), 0.5), rebased(other.chart(), 0.5)
    assert new is not None
    assert same is not None
    assert new.skeleton == same.skeleton
    listed = changes(net.chart(), new)
    assert listed
    assert changed(net.chart(), listed).fingerprint == new.fingerprint


@pytest.mark.parametrize("name", ZOO)
def test_gradients_go_from_chart_to_chart_and_back(name: str) -> None:
    """``∂L/∂w = (∂v/∂w)ᵀ δ`` in the diagonal chart, then the inverse chain rule in the strongest: ``δ`` there."""
    net, x = drawn(name)
    joined(net.model(x)).square().mean().backward()
    one, two = net.chart(), net.chart("strongest")
    weights = [p.detach() for p in one.parameters()]
    gradients = [p.grad for p in one.parameters()]
    chains = [core.chains(chart.plan, weights) for chart in (one, two)]
    delta = maps.class_gradients(one.plan, weights, gradients, chains[0])
    back = maps.weight_gradients(one.plan, weights, delta, chains[0])
    there = maps.class_gradients(two.plan, weights, back, chains[1])
    expected = maps.class_gradients(two.plan, weights, gradients, chains[1])
    largest_gradient = max(float(g.abs().max()) for g in gradients if g is not None)
    largest_delta = max(float(d.abs().max()) for d in expected if d is not None)
    for got, wanted, size in ((back, gradients, largest_gradient), (there, expected, largest_delta)):
        for p, q in zip(got, wanted, strict=True):
            assert (p is None) == (q is None)
            if p is not None and q is not None:
                assert float((p - q).abs().max()) <= 1e-10 * size


def shrinking(net: Network) -> Edge:
    """A skeleton edge of the second layer, made weak."""
    edge = next(edge for edge in net.chart().b_edges if edge.parameter == "2.weight")
    weaken(net, edge, 0.02)
    return edge


@pytest.mark.parametrize("kind", ["ECSGD", "EC"])
def test_an_optimizer_re_bases_where_the_guard_acted(kind: str) -> None:
    one, two, x = pair(wide_narrow_wide)
    optimizers = []
    for net in (one, two):
        shrinking(net)
        options: dict[str, Any] = {"lr": 1e-3, "momentum": 0.5, "rebase": 0.05}
        make = eclab.ECSGD if kind == "ECSGD" else lambda net, **more: eclab.EC(net, torch.optim.SGD, **more)
        optimizer = make(net, **options)
        for _ in range(30):
            backward(net, x)
            optimizer.step()
        optimizers.append(optimizer)
    first = optimizers[0]
    assert first.guarded_moves > 0
    assert first.rebased_units > 0
    assert first.rebased_units == optimizers[1].rebased_units
    assert first.chart.skeleton == optimizers[1].chart.skeleton
    assert first.chart.fingerprint != one.chart().fingerprint
    outputs = [joined(net.model(x)).detach() for net in (one, two)]
    assert float((outputs[0] - outputs[1]).abs().max() / outputs[0].abs().max()) < 1e-9
    state = copy.deepcopy(first.state_dict())
    twin = copy.deepcopy(one)
    resumed = make(twin, **options)
    resumed.load_state_dict(state)
    assert resumed.chart.fingerprint == first.chart.fingerprint
    for net, optimizer in ((one, first), (twin, resumed)):
        backward(net, x)
        optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(one.model.parameters(), twin.model.parameters(), strict=True))


def test_without_the_option_the_chart_stays() -> None:
    one, _, x = pair(wide_narrow_wide)
    shrinking(one)
    optimizer = eclab.ECSGD(one, lr=1e-3)
    for _ in range(5):
        backward(one, x)
        optimizer.step()
    assert optimizer.guarded_moves > 0
    assert optimizer.rebased_units == 0
    assert optimizer.chart.fingerprint == one.chart().fingerprint


def test_a_chart_by_hand_can_be_trained_in() -> None:
    torch.manual_seed(0)
    model = dense(3, 4, 2).double()
    net = eclab.trace(model, torch.ones(1, 3, dtype=F64))
    optimizer = eclab.ECSGD(net, lr=1e-3, chart={"0[1]": [("0.weight", (1, 2)), ("2.weight", (0, 1))]})
    x = torch.randn(8, 3, dtype=F64)
    losses = []
    for _ in range(5):
        backward(net, x)
        losses.append(float(model(x).detach().square().mean()))
        optimizer.step()
    assert losses[-1] < losses[0]
    assert math.isfinite(losses[-1])


def test_a_basis_path_has_the_value_of_its_coordinate_before_a_batch_norm_too() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).double()
    net = eclab.trace(model, torch.randn(5, 3, dtype=F64))
    chart = net.chart()
    assert len(net.scale_free)
    v = chart.coordinates()
    for weight in chart.weights:
        for index in np.ndindex(weight.shape):
            if chart.role(Edge(weight.name, index, *weight.ends(index))) != "tree":
                expected = float(v[weight.name][index])
                assert chart.basis_path(weight.name, index).value == pytest.approx(expected, rel=1e-12)
    assert chart.basis_path("0.weight", (1, 0)).monomial == "0.weight[1,0] / (0.weight[1,1])"
