"""Skeleton, coordinates, inverse chain rule and weight allocation against their definitions."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import eclab
from eclab.errors import ChartError, ScaleError
from eclab.facade import Network
from eclab.paths.chart import Chart
from eclab.paths.enumerate import columns, rank
from eclab.paths.skeleton import Edge
from tests.zoo import ZOO, dense, joined

F64 = torch.float64


def with_gradients(name: str, seed: int = 0) -> Network:
    net, x = ZOO[name].trace(seed)
    (joined(net.model(x)) - 1).square().mean().backward()
    return net


def gradient(p: Tensor) -> Tensor:
    assert p.grad is not None
    return p.grad


def state(net: Network) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in net.model.named_parameters()}


def unchanged(net: Network, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(p, before[name]) for name, p in net.model.named_parameters())


# the skeleton --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ZOO)
def test_every_free_unit_has_one_tree_edge_in_and_one_b_edge_out(name: str) -> None:
    net, _ = ZOO[name].trace()
    chart = net.chart("diagonal")
    free = (net.scale_of > 0).nonzero().flatten().tolist()
    assert sorted(edge.head for edge in chart.tree) == free
    assert sorted(edge.tail for edge in chart.b_edges) == free
    for edge in (*chart.tree, *chart.b_edges):
        assert net.weight(edge.parameter).ends(edge.index) == (edge.tail, edge.head)


@pytest.mark.parametrize("name", ZOO)
def test_the_tree_is_a_forest_rooted_at_ground(name: str) -> None:
    net, _ = ZOO[name].trace()
    up = {edge.head: edge.tail for edge in net.chart().tree}
    for unit in up:
        seen, here = set(), unit
        while here in up:
            assert here not in seen
            seen.add(here)
            here = up[here]
        assert int(net.scale_of[here]) == 0


def test_equal_widths_give_the_papers_diagonal() -> None:
    net, _ = ZOO["equal widths, no bias"].trace()
    chart = net.chart()
    assert [str(e) for e in chart.tree] == [f"{layer}.weight[{u},{u}]" for layer in (0, 2) for u in range(3)]
    assert sorted(map(str, chart.b_edges)) == [f"{layer}.weight[{u},{u}]" for layer in (2, 4) for u in range(3)]


def by_parameter(edges: tuple[Edge, ...]) -> dict[str, list[tuple[int, ...]]]:
    found: dict[str, list[tuple[int, ...]]] = {}
    for edge in edges:
        found.setdefault(edge.parameter, []).append(edge.index)
    return found


def test_unequal_widths_wrap_around() -> None:
    net, _ = ZOO["wide-narrow-wide"].trace()  # 3-6-2-5-2
    assert by_parameter(net.chart().tree) == {
        "0.weight": [(v, v % 3) for v in range(6)],
        "2.weight": [(v, v % 6) for v in range(2)],
        "4.weight": [(v, v % 2) for v in range(5)],
    }
    out = by_parameter(net.chart().b_edges)
    assert {name: sorted(found, key=lambda index: index[1]) for name, found in out.items()} == {
        "2.weight": [(u % 2, u) for u in range(6)],
        "4.weight": [(u % 5, u) for u in range(2)],
        "6.weight": [(u % 2, u) for u in range(5)],
    }


def test_a_kernels_centre_tap_and_a_flattens_middle_position_are_taken() -> None:
    net, _ = ZOO["conv 5×5 and 1×1, adaptive pool"].trace()
    assert [str(e) for e in net.chart().tree] == [
        "0.weight[0,0,2,2]",
        "0.weight[1,0,2,2]",
        "2.weight[0,0,0,0]",
        "2.weight[1,1,0,0]",
        "2.weight[2,0,0,0]",
    ]
    assert sorted(str(e) for e in net.chart().b_edges if e.parameter == "6.weight") == [
        "6.weight[0,15]",
        "6.weight[0,3]",
        "6.weight[1,9]",
    ]


def test_roles() -> None:
    net, _ = ZOO["wide-narrow-wide"].trace()
    chart = net.chart()
    roles = [chart.role(Edge(w.name, index, *w.ends(index))) for w in net.weights for index in np.ndindex(w.shape)]
    assert roles.count("tree") == net.num_units
    assert roles.count("b-edge") + roles.count("basis") == net.class_dim
    assert roles.count("b-edge") == len(set(chart.b_edges) - set(chart.tree))


def test_an_unknown_skeleton_and_a_unit_without_one_are_refused() -> None:
    net, _ = ZOO["deep"].trace()
    with pytest.raises(ChartError, match=r"no chart 'strange'.*'diagonal'"):
        net.chart("strange")


def test_charts_with_the_same_skeleton_have_the_same_fingerprint() -> None:
    one, two, other = ZOO["deep"].trace()[0], ZOO["deep"].trace(1)[0], ZOO["some biases"].trace()[0]
    assert one.chart().fingerprint == two.chart().fingerprint != other.chart().fingerprint


# the basis -----------------------------------------------------------------------------------------------------------


def non_tree(chart: Chart) -> list[Edge]:
    """All edges that have a coordinate, from the inputs to the outputs."""
    edges = [Edge(w.name, i, *w.ends(i)) for w in chart.net.weights for i in np.ndindex(w.shape)]
    return [edge for edge in edges if chart.role(edge) != "tree"]


def basis_matrix(chart: Chart, edges: list[Edge]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """0/1 ``[basis paths, m]``."""
    column = columns(chart.net)
    matrix = np.zeros((len(edges), len(column)), dtype=np.int64)
    for row, edge in enumerate(edges):
        for e in chart.basis_path(edge.parameter, edge.index).edges:
            matrix[row, column[e.parameter, e.index]] += 1
    return matrix


@pytest.mark.parametrize("name", ZOO)
def test_the_path_matrix_has_rank_m_minus_H_and_so_has_the_basis(name: str) -> None:
    net, _ = ZOO[name].trace()
    chart = net.chart()
    edges = non_tree(chart)
    assert len(edges) == net.class_dim
    assert rank(net) == net.class_dim
    assert np.linalg.matrix_rank(basis_matrix(chart, edges)) == net.class_dim


@pytest.mark.parametrize("name", ZOO)
def test_the_basis_is_unit_triangular_on_the_edges_outside_the_tree(name: str) -> None:
    net, _ = ZOO[name].trace()
    chart = net.chart()
    edges = non_tree(chart)
    column = columns(net)
    square = basis_matrix(chart, edges)[:, [column[e.parameter, e.index] for e in edges]]
    assert (square == np.triu(square)).all()
    assert (square.diagonal() == 1).all()


@pytest.mark.parametrize("name", ZOO)
def test_coordinates_are_the_values_of_the_basis_paths(name: str) -> None:
    net, _ = ZOO[name].trace()
    chart = net.chart()
    v = chart.coordinates()
    for edge in non_tree(chart):
        path = chart.basis_path(edge.parameter, edge.index)
        assert path.value == pytest.approx(math.prod(path.values), rel=1e-14)
        assert float(v[edge.parameter][edge.index]) == pytest.approx(path.value, rel=1e-12)
        assert path.monomial == " · ".join(map(str, path.edges))
        assert int(net.scale_of[path.edges[0].tail]) == int(net.scale_of[path.edges[-1].head]) == 0
    for edge in chart.tree:
        assert float(v[edge.parameter][edge.index]) == float(net.weight(edge.parameter).parameter.detach()[edge.index])


def test_a_basis_path_in_words() -> None:
    net, _ = ZOO["wide-narrow-wide"].trace()
    path = net.chart().basis_path("2.weight", (1, 4))
    assert path.monomial == "0.weight[4,1] · 2.weight[1,4] · 4.weight[1,1] · 6.weight[1,1]"
    bias = net.chart().basis_path("4.bias", (3,))
    assert bias.monomial == "4.bias[3] · 6.weight[1,3]"
    assert net.chart().basis_path("4.bias", 3) == bias


@pytest.mark.parametrize(
    ("parameter", "index", "kind", "words"),
    [
        ("0.weight", (0, 0), ChartError, "tree edge, which is no coordinate"),
        ("0.weight", (9, 0), ChartError, "outside its shape"),
        ("0.weight", (0,), ChartError, "outside its shape"),
        ("0.weight", (-1, 0), ChartError, "outside its shape"),
        ("nine", (0, 0), ScaleError, "no weight 'nine'"),
    ],
)
def test_weights_without_a_basis_path(
    parameter: str, index: tuple[int, ...], kind: type[Exception], words: str
) -> None:
    net, _ = ZOO["wide-narrow-wide"].trace()
    with pytest.raises(kind, match=words):
        net.chart().basis_path(parameter, index)


# coordinates and allocation ------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(name=st.sampled_from(sorted(ZOO)), seed=st.integers(0, 1000), sigma=st.floats(0, 3))
def test_coordinates_are_the_same_for_a_whole_class(name: str, seed: int, sigma: float) -> None:
    net, _ = ZOO[name].trace(seed)
    chart = net.chart()
    before = chart.coordinates()
    eclab.random_rescale_(net, sigma, torch.Generator().manual_seed(seed))
    after = chart.coordinates()
    for edge in non_tree(chart):
        one, two = before[edge.parameter][edge.index], after[edge.parameter][edge.index]
        assert float(two) == pytest.approx(float(one), rel=1e-11)


@settings(max_examples=40)
@given(name=st.sampled_from(sorted(ZOO)), seed=st.integers(0, 1000))
def test_allocation_inverts_coordinates(name: str, seed: int) -> None:
    net, _ = ZOO[name].trace(seed)
    chart = net.chart()
    before = state(net)
    v = chart.coordinates()
    chart.allocate(v)
    for key, p in net.model.named_parameters():
        torch.testing.assert_close(p.detach(), before[key], rtol=1e-12, atol=0)

    wanted = {key: value * (0.5 + torch.rand_like(value)) for key, value in v.items()}
    chart.allocate(wanted)
    reached = chart.coordinates()
    for edge in non_tree(chart):
        assert float(reached[edge.parameter][edge.index]) == pytest.approx(
            float(wanted[edge.parameter][edge.index]), rel=1e-11
        )
    for edge in chart.tree:
        kept = net.weight(edge.parameter).parameter.detach()
        assert float(kept[edge.index]) == float(before[edge.parameter][edge.index])


def test_zero_coordinates_off_the_skeleton_are_fine() -> None:
    net, _ = ZOO["wide-narrow-wide"].trace()
    chart = net.chart()
    v = chart.coordinates()
    v["0.weight"][0, 1] = 0.0
    chart.allocate(v)
    assert float(net.weight("0.weight").parameter.detach()[0, 1]) == 0.0
    assert float(chart.coordinates()["0.weight"][0, 1]) == 0.0


def _drop(v: dict[str, Tensor]) -> None:
    del v["2.bias"]


def _reshape(v: dict[str, Tensor]) -> None:
    v["2.bias"] = v["2.bias"][:1]


def _infinite(v: dict[str, Tensor]) -> None:
    v["0.weight"][1, 2] = torch.inf


def _flip(v: dict[str, Tensor]) -> None:
    v["6.weight"][0, 0] *= -1


def _vanish(v: dict[str, Tensor]) -> None:
    v["6.weight"][1, 1] = 0


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_drop, r"'2\.bias' is missing"),
        (_reshape, r"'2\.bias' has shape \(1,\), not \(2,\)"),
        (_infinite, r"'0\.weight' holds a value that is not finite"),
        (_flip, r"6\.weight\[0, 0\] goes from .* edge of the chart"),
        (_vanish, r"6\.weight\[1, 1\] goes from .* to 0"),
    ],
)
def test_coordinates_of_no_weights_are_refused(spoil: Any, words: str) -> None:
    net, _ = ZOO["wide-narrow-wide"].trace()
    v, before = net.chart().coordinates(), state(net)
    spoil(v)
    with pytest.raises(ChartError, match=words):
        net.chart().allocate(v)
    nothing: Any = None
    with pytest.raises(ChartError, match="the coordinates are a NoneType"):
        net.chart().allocate(nothing)
    assert unchanged(net, before)


# the inverse chain rule ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ZOO)
def test_what_flows_into_a_unit_flows_out_of_it(name: str) -> None:
    """The conservation law behind everything: ``Σ_in w g = Σ_out w g`` for every free unit."""
    net = with_gradients(name)
    into, out = torch.zeros(net.num_nodes, dtype=F64), torch.zeros(net.num_nodes, dtype=F64)
    for weight in net.weights:
        flow = (weight.parameter * gradient(weight.parameter)).detach()
        into += weight.sum_into_heads(flow, net.num_nodes)
        out += weight.sum_into_tails(flow, net.num_nodes)
    free = net.scale_of > 0
    size = float(out.abs().max())
    torch.testing.assert_close(into[free], out[free], rtol=1e-10, atol=1e-13 * size)
    assert float(into[free].abs().max()) > 1e-6 * size
    ends = net.outputs[net.scale_of[net.outputs] == 0]
    assert not torch.allclose(into[ends], out[ends]), "the law must fail where it does not hold"


@pytest.mark.parametrize("name", ZOO)
def test_icr_solves_the_chain_rule(name: str) -> None:
    """``Σ_p δ_p ∂v_p/∂w_e = g_e`` for every weight, those of the tree included."""
    net = with_gradients(name)
    chart = net.chart()
    column = columns(net)
    delta = chart.gradients()
    w = np.concatenate([weight.parameter.detach().numpy().reshape(-1) for weight in net.weights])
    g = np.concatenate([gradient(weight.parameter).numpy().reshape(-1) for weight in net.weights])
    edges = non_tree(chart)
    B = basis_matrix(chart, edges)
    v = np.where(B == 1, w, 1.0).prod(1)
    d = np.array([float(delta[e.parameter][e.index]) for e in edges])
    np.testing.assert_allclose((B * v[:, None] / w).T @ d, g, rtol=1e-9, atol=1e-12 * np.abs(g).max())
    for edge in chart.tree:
        assert float(delta[edge.parameter][edge.index]) == 0.0
    assert len(column) == len(w)


@pytest.mark.parametrize("name", ["wide-narrow-wide", "conv 3×3, max-pool", "tanh between"])
def test_icr_is_the_slope_of_the_loss_along_each_coordinate(name: str) -> None:
    """Central differences of the loss through weight allocation."""
    net, x = ZOO[name].trace()
    chart = net.chart()

    def loss() -> Tensor:
        value: Tensor = (joined(net.model(x)) - 1).square().mean()
        return value

    loss().backward()
    delta, v, before = chart.gradients(), chart.coordinates(), state(net)
    for edge in non_tree(chart)[::5]:
        h = 1e-6 * abs(float(v[edge.parameter][edge.index]))
        ends = []
        for sign in (1, -1):
            moved = {key: value.clone() for key, value in v.items()}
            moved[edge.parameter][edge.index] += sign * h
            chart.allocate(moved)
            ends.append(float(loss().detach()))
            with torch.no_grad():
                for key, p in net.model.named_parameters():
                    p.copy_(before[key])
        slope = (ends[0] - ends[1]) / (2 * h)
        assert float(delta[edge.parameter][edge.index]) == pytest.approx(slope, rel=2e-3, abs=1e-7 / h * 1e-8)


def test_class_gradients_are_the_same_for_a_whole_class() -> None:
    net, x = ZOO["wide-narrow-wide"].trace()
    other = copy.deepcopy(net)
    eclab.random_rescale_(other, 2.0, torch.Generator().manual_seed(1))
    for each in (net, other):
        (joined(each.model(x)) - 1).square().mean().backward()
    one, two = net.chart().gradients(), other.chart().gradients()
    for key in one:
        torch.testing.assert_close(one[key], two[key], rtol=1e-9, atol=1e-10 * float(one[key].abs().max()))


def test_gradients_may_be_given_by_name() -> None:
    net = with_gradients("some biases")
    chart = net.chart()
    given_gradients = {weight.name: gradient(weight.parameter) for weight in net.weights}
    expected = chart.gradients()
    net.model.zero_grad()
    found = chart.gradients(given_gradients)
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    with pytest.raises(ChartError, match=r"gradient of 0\.weight, .* is missing.*backward"):
        chart.gradients()


def test_a_chart_stores_no_weights_and_follows_them() -> None:
    net, _ = ZOO["some biases"].trace()
    chart = net.chart()
    before = chart.coordinates()["0.bias"].clone()
    with torch.no_grad():
        net.weight("0.bias").parameter.mul_(2)
    torch.testing.assert_close(chart.coordinates()["0.bias"], 2 * before)


def test_reading_a_chart_leaves_weights_and_gradients_alone() -> None:
    net = with_gradients("conv 3×3, max-pool")
    chart = net.chart()
    before = state(net)
    gradients = {name: gradient(p).clone() for name, p in net.model.named_parameters()}
    chart.coordinates()
    chart.gradients()
    assert unchanged(net, before)
    assert all(torch.equal(gradient(p), gradients[name]) for name, p in net.model.named_parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_coordinates_have_the_shape_and_dtype_of_the_parameters(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Conv1d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2)).to(dtype)
    net = eclab.trace(model, torch.ones(1, 1, 4, dtype=dtype))
    model(torch.ones(1, 1, 4, dtype=dtype)).sum().backward()
    for found in (net.chart().coordinates(), net.chart().gradients()):
        assert {k: (t.shape, t.dtype) for k, t in found.items()} == {
            k: (p.shape, dtype) for k, p in model.named_parameters()
        }


def test_a_wide_network_has_a_chart_in_time() -> None:
    """Index arithmetic: no work that grows with the weights."""
    net = eclab.trace(dense(784, 2048, 2048, 10), torch.zeros(1, 784))
    chart = net.chart()
    assert len(chart.tree) == 4096
    assert sum(t.numel() for t in (*chart.plan.heads, *chart.plan.tails)) < 4 * 4096 + 784 + 100
