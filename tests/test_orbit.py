"""Moving along a class to members with a name: balanced, conditioned, canonical, extremal; and walks between two."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor, nn

import eclab
from eclab import Move
from eclab.classes.balance import Balancer, balanced_scales
from eclab.classes.condition import conditioned_scales
from eclab.classes.group import numbered
from eclab.classes.moves import gradient_norm
from eclab.classes.potential import ScaleGraph, Search
from eclab.network.frozen import edges_of, on_edges
from eclab.paths.enumerate import whole_paths
from eclab.paths.kappa import kappa
from tests.orbit_models import convex_minimum, edge_list, every_net, normed_net, residual_net
from tests.zoo import ZOO, dense, joined

F64 = torch.float64
NETS = every_net()
ALL = pytest.mark.parametrize("name", NETS)


def squares(net: eclab.Network) -> dict[str, torch.Tensor]:
    with on_edges(net):
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
    monkeypatch.setattr("eclab.classes.potential._KEPT_VALUES", 0)
    graph = ScaleGraph(net)
    assert not graph.keep
    assert torch.equal(Search(graph, graph.log_scales(None)).run(1e-12).scales, kept)


def test_the_graph_is_made_once_and_copied_with_its_network() -> None:
    net, _ = residual_net()
    other = copy.deepcopy(net)
    assert ScaleGraph.of(net) is ScaleGraph.of(net)
    again = copy.deepcopy(net)
    assert ScaleGraph.of(again).net is again
    assert ScaleGraph.of(other).net is other
    with torch.no_grad():
        again.model.get_parameter("up.weight").mul_(3.0)
    assert not torch.allclose(balanced_scales(again), balanced_scales(net))
    assert torch.equal(balanced_scales(pickle.loads(pickle.dumps(again))), balanced_scales(again))  # noqa: S301


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


# -- moves ------------------------------------------------------------------------------------------------------------


def with_gradients(net: eclab.Network, x: Tensor) -> None:
    net.model.zero_grad()
    torch.manual_seed(11)
    outputs = joined(net.model(x))
    (outputs * torch.randn_like(outputs)).sum().backward()


def state(net: eclab.Network) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in net.model.state_dict().items()}


def in_dtype(name: str, dtype: torch.dtype, seed: int = 3) -> tuple[eclab.Network, Tensor]:
    """A fresh copy of a network in this dtype, at a random member of its class."""
    net, x = NETS[name]
    net = copy.deepcopy(net)
    net.model.to(dtype)
    eclab.random_rescale_(net, 1.0, torch.Generator().manual_seed(seed))
    return net, x.to(dtype)


def to_canonical(net: eclab.Network) -> Move:
    return eclab.canonicalize_(net)


def half_way(net: eclab.Network) -> Move:
    other = copy.deepcopy(net)
    eclab.random_rescale_(other, 2.0, torch.Generator().manual_seed(5))
    return eclab.walk_(net, other, 0.5)


MOVES: dict[str, Callable[[eclab.Network], Move]] = {
    "balance_": eclab.balance_,
    "condition_": eclab.condition_,
    "canonicalize_": to_canonical,
    "extremal_, smallest": lambda net: eclab.extremal_(net, "smallest"),
    "extremal_, largest": lambda net: eclab.extremal_(net, "largest", bound=3.0),
    "walk_": half_way,
}


@ALL
@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("way", MOVES)
def test_a_move_keeps_the_function_and_takes_the_gradient_along(name: str, way: str, dtype: torch.dtype) -> None:
    net, x = in_dtype(name, dtype)
    with_gradients(net, x)
    before, outputs = state(net), joined(net.model(x)).detach()
    report = MOVES[way](net)
    change = eclab.function_change(before, net, x)
    if change.bound is not None:
        assert change
    else:  # tanh, or batch-norm with training statistics
        assert torch.allclose(joined(net.model(x)), outputs, rtol=0, atol=1e-9 if dtype is F64 else 1e-4)
    carried = {n: p.grad.clone() for n, p in net.model.named_parameters() if p.grad is not None}
    with_gradients(net, x)
    there = {n: p.grad for n, p in net.model.named_parameters() if p.grad is not None}
    assert carried.keys() == there.keys()
    largest = max(float(g.abs().max()) for g in there.values())  # a bias before batch-norm has none of its own
    # eps keeps batch-norm from being exact
    slack = max(100 * torch.finfo(dtype).eps, 1e-8 if len(net.scale_free) else 0.0)
    for n, g in there.items():
        assert torch.allclose(carried[n], g, rtol=1e-9 if dtype is F64 else 1e-3, atol=largest * slack), n
    assert report.grad_norm is not None
    assert report.norm[0] == pytest.approx(norm_of(net, before), rel=1e-6)
    assert report.norm[1] == pytest.approx(norm_of(net, state(net)), rel=1e-6)
    twin = copy.deepcopy(net)
    twin.model.load_state_dict(before)
    eclab.apply_scales_(twin, report.scales)
    pairs = zip(twin.model.parameters(), net.model.parameters(), strict=True)
    assert all(torch.allclose(p, q, rtol=1e-6) for p, q in pairs)


def norm_of(net: eclab.Network, values: dict[str, Tensor]) -> float:
    edges = edges_of(net, {name: values[name].double() for name in {w.name for w in net.weights}})
    return math.sqrt(sum(float(value.square().sum()) for value in edges.values()))


@ALL
def test_balance_has_the_smallest_norm_of_the_class(name: str) -> None:
    net, _ = in_dtype(name, F64)
    target = convex_minimum(net, squares(net))
    report = eclab.balance_(net)
    assert np.allclose(
        np.concatenate([c.log().numpy() for c in report.scales.values()]),
        np.concatenate([target[net.scale_of[layer.units].numpy()] for layer in net.hidden_layers()]),
        atol=1e-9,
    )
    if not len(net.scale_free):
        assert report.norm[1] < report.norm[0]
        for seed in range(3):
            other = copy.deepcopy(net)
            eclab.random_rescale_(other, 0.1, torch.Generator().manual_seed(seed))
            assert norm_of(other, state(other)) > report.norm[1]
    again = eclab.balance_(net)
    assert all(torch.allclose(c, torch.ones_like(c), rtol=1e-9) for c in again.scales.values())


@ALL
def test_kappa_scales_as_the_inverse_square_of_its_weight(name: str) -> None:
    net, _ = NETS[name]
    net = copy.deepcopy(net)
    before = kappa(net)
    scales = eclab.random_rescale_(net, 1.0, torch.Generator().manual_seed(0))
    c = numbered(net, scales)[net.scale_of]
    for weight in net.weights:
        expected = before[weight.name] * (c[weight.tail] / c[weight.head]) ** 2
        assert torch.allclose(kappa(net)[weight.name], expected, rtol=1e-10, atol=0)


DENSE = ["wide-narrow-wide", "some biases", "a width of 1", "deep", "leaky ReLU", "two branches", "residual"]


@pytest.mark.parametrize("name", DENSE)
def test_kappa_is_the_sum_over_all_paths(name: str) -> None:
    net, _ = NETS[name]
    found, slow = kappa(net), {w.name: torch.zeros(w.shape, dtype=F64) for w in net.weights}
    for path in whole_paths(net):
        edges = [edge for edge in path if edge.parameter]
        values = [float(net.weight(edge.parameter).parameter.detach()[edge.index]) for edge in edges]
        for number, edge in enumerate(edges):
            slow[edge.parameter][edge.index] += math.prod(v * v for k, v in enumerate(values) if k != number)
    for n, value in slow.items():
        assert torch.allclose(found[n], value, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", [*(name for name in ZOO if name != "tanh between"), "residual", "concatenation"])
def test_kappa_adds_up_to_the_path_norm(name: str) -> None:
    """``Σ_e into an output w_e² κ_e`` is the sum of all squared paths, as every path has one such weight."""
    net, _ = NETS[name]
    found = kappa(net)
    last = [w for w in net.weights if bool(torch.isin(w.head, net.outputs).all())]
    total = sum(float((w.parameter.detach().square() * found[w.name]).sum()) for w in last)
    assert math.log(total) == pytest.approx(2 * net.path_norm(2), rel=1e-12)


def test_kappa_of_a_convolution_by_hand() -> None:
    """Two taps, three positions, a max-pool over the first two and a linear layer behind."""
    model = nn.Sequential(nn.Conv1d(1, 1, 2), nn.ReLU(), nn.MaxPool1d(2, 1), nn.Flatten(), nn.Linear(2, 1)).double()
    with torch.no_grad():
        for parameter, values in zip(model.parameters(), ([2.0, 3.0], [5.0], [7.0, 11.0], [1.0]), strict=True):
            parameter.copy_(torch.tensor(values).reshape(parameter.shape))
    found = kappa(eclab.trace(model, torch.ones(1, 1, 4, dtype=F64)))
    out = 2 * 49.0 + 2 * 121.0  # each pooled position sees two conv positions
    assert found["0.weight"].flatten().tolist() == [out, out]
    assert found["0.bias"].tolist() == [out]
    assert found["4.weight"].flatten().tolist() == [2 * (4.0 + 9 + 25)] * 2
    assert found["4.bias"].tolist() == [1.0]


def path_kernel_objective(net: eclab.Network, diagonal: dict[str, Tensor], log_c: NDArray[np.float64]) -> float:
    """PathCond's objective ``m log tr − log det`` of the path kernel's diagonal at ``g_c(w)``, written down."""
    c = np.exp(np.concatenate([[0.0], log_c]))[net.scale_of.numpy()]
    parts = []
    for name in dict.fromkeys(weight.name for weight in net.weights):
        weight = net.weight(name)
        ratio = (c[weight.tail.numpy()] / c[weight.head.numpy()]) ** 2
        parts.append((diagonal[name].numpy() * ratio).reshape(-1))
    values = np.concatenate(parts)
    values = values[values > 0]
    return float(len(values) * np.log(values.sum()) - np.log(values).sum())


@ALL
def test_condition_minimises_the_published_objective(name: str) -> None:
    """No quasi-Newton search from the found scales gets any lower, and one from elsewhere ends there too."""
    net, _ = in_dtype(name, F64)
    diagonal = kappa(net)
    found = conditioned_scales(net)
    assert found.imbalance < 1e-11
    ell = found.scales.log().numpy()[1:]
    best = path_kernel_objective(net, diagonal, ell)

    def objective(log_c: NDArray[np.float64]) -> float:
        return path_kernel_objective(net, diagonal, log_c)

    rough = minimize(objective, ell + 0.3, method="BFGS")
    assert best <= rough.fun + 1e-9 * abs(rough.fun)
    assert np.allclose(rough.x, ell, atol=2e-3)
    report = eclab.condition_(net)
    assert report.value is not None
    assert report.value[1] <= report.value[0]
    m = sum(int((value > 0).sum()) for value in diagonal.values())
    assert report.value[1] == pytest.approx(best / m - math.log(m), abs=1e-9)


def test_condition_agrees_with_the_authors_rounds() -> None:
    """Unit by unit the positive root of ``B(A + m) x² + D A x + C(A − m) = 0``, as their algorithm has it."""
    net, _ = in_dtype("wide-narrow-wide", F64)
    head, tail, g = edge_list(net, kappa(net))
    kappas, m, z = g.numpy(), len(g), np.zeros(net.num_units + 1)
    for _ in range(400):
        for unit in range(1, net.num_units + 1):
            e = kappas * np.exp(z[tail] - z[head])
            into, out = head == unit, tail == unit
            a_h = int(into.sum()) - int(out.sum())
            b, c, d = (e[out] / np.exp(z[unit])).sum(), (e[into] * np.exp(z[unit])).sum(), e[~into & ~out].sum()
            roots = np.roots([b * (a_h + m), d * a_h, c * (a_h - m)])
            z[unit] = np.log(roots[roots > 0][0])
    assert np.allclose(conditioned_scales(net).scales.log().numpy(), z / 2, atol=1e-9)


@ALL
def test_canonical_members_have_tree_weights_of_one(name: str) -> None:
    one, _ = in_dtype(name, F64, seed=1)
    two, _ = in_dtype(name, F64, seed=2)
    chart = one.chart()
    signs = [float(one.weight(e.parameter).parameter.detach()[e.index].sign()) for e in chart.tree]
    eclab.canonicalize_(one, chart)
    eclab.canonicalize_(two)
    with on_edges(one):
        tree = [float(one.weight(e.parameter).parameter.detach()[e.index]) for e in chart.tree]
    assert tree == (pytest.approx(signs, rel=1e-15) if one.frozen_norms else signs)
    for p, q in zip(state(one).values(), state(two).values(), strict=True):
        assert torch.allclose(p, q, rtol=1e-9, atol=1e-300)


@ALL
def test_the_smallest_gradient_is_that_of_a_convex_solver(name: str) -> None:
    net, x = in_dtype(name, F64)
    with_gradients(net, x)
    g = {w.name: w.parameter.grad.square() for w in net.weights if w.parameter.grad is not None}
    if len(net.scale_free) or any(not bool(value.any()) for value in g.values()):
        return
    report = eclab.extremal_(net, "smallest")
    assert report.grad_norm is not None
    for seed in range(4):
        other = copy.deepcopy(net)
        eclab.random_rescale_(other, 0.05, torch.Generator().manual_seed(seed))
        with_gradients(other, x)
        assert (gradient_norm(other) or 0.0) > report.grad_norm[1] * (1 - 1e-12)


def test_smallest_gradient_equals_the_solver() -> None:
    net, x = residual_net()
    with_gradients(net, x)
    g = {w.name: w.parameter.grad.square() for w in net.weights if w.parameter.grad is not None}
    target = convex_minimum(net, g, sign=-1)
    report = eclab.extremal_(net, "smallest")
    for layer in net.hidden_layers():
        assert np.allclose(
            report.scales[layer.name].log().numpy(), target[net.scale_of[layer.units].numpy()], atol=1e-9
        )


SMALL = ["one hidden layer", "wide-narrow-wide, no bias", "a width of 1", "grouped conv", "residual", "tanh between"]


@pytest.mark.parametrize("name", SMALL)
def test_the_largest_gradient_is_the_best_of_all_corners(name: str) -> None:
    net, x = in_dtype(name, F64)
    with_gradients(net, x)
    head, tail, q = edge_list(
        net, {w.name: w.parameter.grad.square() for w in net.weights if w.parameter.grad is not None}
    )
    corners = np.array(list(itertools.product([-1.0, 1.0], repeat=net.num_units))) * math.log(3.0)
    corners = np.concatenate([np.zeros((len(corners), 1)), corners], 1)
    best = max(float((q.numpy() * np.exp(2 * (ell[tail] - ell[head]))).sum()) for ell in corners)
    report = eclab.extremal_(net, "largest", bound=3.0)
    assert report.grad_norm is not None
    assert report.grad_norm[1] == pytest.approx(best**0.5, rel=1e-10)
    assert max(float(c.log().abs().max()) for c in report.scales.values()) <= math.log(3.0) * (1 + 1e-12)


# -- walks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_a_walk_reaches_both_ends_bit_for_bit(dtype: torch.dtype) -> None:
    net, x = in_dtype("residual", dtype)
    with_gradients(net, x)
    other = copy.deepcopy(net)
    c = eclab.random_rescale_(other, 2.0, torch.Generator().manual_seed(5))
    start, end = state(net), state(other)
    grads = {n: p.grad.clone() for n, p in net.model.named_parameters() if p.grad is not None}
    walk = eclab.Walk(net, other)
    for layer, scales in walk.scales.items():
        assert torch.allclose(scales, c[layer], rtol=1e-5 if dtype is torch.float32 else 1e-12)
        assert torch.allclose(walk.c(0.5)[layer] ** 2, scales, rtol=1e-12)
    for t in (0.3, 1.0, 0.7, 0.5):
        walk.to_(t)
        assert eclab.function_change(start, net, x)
        if t == 1.0:
            assert all(torch.equal(value, end[name]) for name, value in state(net).items())
    half = net.weight("down.weight").parameter.detach().clone()
    geometric = (start["down.weight"].double().abs() * end["down.weight"].double().abs()).sqrt()
    assert torch.allclose(half.double().abs(), geometric, rtol=1e-6)
    walk.to_(0.0)
    assert all(torch.equal(value, start[name]) for name, value in state(net).items())
    assert all(torch.equal(p.grad, grads[n]) for n, p in net.model.named_parameters() if p.grad is not None)


def test_a_walk_refuses_another_class_and_changes_nothing() -> None:
    net, _ = residual_net()
    other = copy.deepcopy(net)
    with torch.no_grad():
        other.model.get_parameter("up.weight")[1, 2] *= 1.01
    before = state(net)
    with pytest.raises(eclab.ScaleError, match=r"not of one class.*up\.weight\[1, 2\]"):
        eclab.walk_(net, other)
    third = eclab.trace(dense(3, 4, 2).double(), torch.ones(1, 3, dtype=F64))
    with pytest.raises(eclab.ScaleError, match="shapes"):
        eclab.walk_(net, third)
    for t in (-0.1, 1.1, float("nan")):
        with pytest.raises(eclab.SettingError, match="t is"):
            eclab.walk_(net, copy.deepcopy(net), t)
    assert all(torch.equal(value, before[name]) for name, value in state(net).items())


def test_a_walk_out_of_range_changes_nothing() -> None:
    net, _ = in_dtype("residual", torch.float32)
    walk = eclab.Walk(net, {"down": torch.full((4,), 1e60, dtype=F64)})
    walk.to_(0.1)
    here = state(net)
    with pytest.raises(eclab.ScaleError, match="range of float32"):
        walk.to_(1.0)
    assert all(torch.equal(value, here[name]) for name, value in state(net).items())


# -- reports and refusals ---------------------------------------------------------------------------------------------


def test_reports_print_as_tables() -> None:
    net, x = in_dtype("wide-narrow-wide", F64)
    assert "‖∂L/∂w‖" not in str(eclab.balance_(net))
    for move in MOVES.values():
        with_gradients(net, x)
        report = move(net)
        text = str(report)
        assert text.splitlines()[0].split()[-2:] == ["before", "after"]
        assert {"‖w‖", "‖∂L/∂w‖", "c"} <= {line.split()[0] for line in text.splitlines()}
        assert report._repr_html_().count("<tr>") == len(text.splitlines())


@pytest.mark.parametrize("way", MOVES)
def test_a_refused_move_changes_nothing(way: str) -> None:
    for number, bad in enumerate((float("nan"), float("inf"))):
        broken, x = in_dtype("wide-narrow-wide", torch.float32)
        last = broken.weights[-2]
        with_gradients(broken, x)
        with torch.no_grad():
            broken.weight(last.name).parameter[0, 1] = bad
            if way.startswith("extremal"):
                gradient = broken.weight(last.name).parameter.grad
                assert gradient is not None
                gradient[0, number] = bad
        before = state(broken)
        with pytest.raises(eclab.EclabError):
            MOVES[way](broken)
        same = [torch.equal(p.nan_to_num(), before[n].nan_to_num()) for n, p in state(broken).items()]
        assert all(same)


def test_moves_refuse_bad_arguments() -> None:
    net, x = residual_net()
    with pytest.raises(eclab.ChartError, match="gradient of"):
        eclab.extremal_(net)
    with_gradients(net, x)
    with pytest.raises(eclab.SettingError, match="which"):
        eclab.extremal_(net, "widest")
    for bound in (1.0, -2.0, float("inf"), float("nan")):
        with pytest.raises(eclab.SettingError, match="bound"):
            eclab.extremal_(net, bound=bound)
    with pytest.raises(eclab.ChartError, match="another network"):
        eclab.canonicalize_(net, residual_net()[0].chart())
    chart = net.chart()
    edge = chart.tree[0]
    with torch.no_grad():
        net.weight(edge.parameter).parameter[edge.index] = 0
    with pytest.raises(eclab.ChartError, match="tree weight"):
        eclab.canonicalize_(net, chart)


def test_deep_narrow_networks_are_balanced_and_conditioned() -> None:
    """Where scales drift through 50 layers, steps unit by unit would take thousands of rounds."""
    torch.manual_seed(0)
    net = eclab.trace(dense(2, *[8] * 50, 2).double(), torch.ones(1, 2, dtype=F64))
    with torch.no_grad():
        for weight in net.weights:
            weight.parameter.mul_(2.0)
    assert Balancer(net).find().imbalance <= 1e-12
    found = conditioned_scales(net)
    assert found.imbalance <= 1e-12
    assert found.passes < 2_000
    report = eclab.condition_(net)
    assert report.value is not None
    assert report.value[1] < 0.5 * report.value[0]
