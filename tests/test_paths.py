"""Counts, largest paths, norms and monomials against lists of all paths and explicitly unrolled networks."""

from __future__ import annotations

import math
import time
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

import eclab
from eclab.errors import ChartError, EclabError, NonFiniteError, SettingError
from eclab.facade import Network
from eclab.network.rules import RULES
from eclab.network.run import active_units
from eclab.paths.enumerate import Path, path_matrix, segments, whole_paths
from eclab.paths.monomials import exponents
from eclab.paths.unrolled import HANDLERS
from tests.zoo import ZOO, Functional, TwoInputs, dense

F64 = torch.float64
Floats = NDArray[np.float64]

HOMOGENEOUS = [name for name, member in ZOO.items() if member.homogeneous]


def value_of(net: Network, path: Path) -> float:
    return math.prod(float(net.weight(edge.parameter).parameter.detach()[edge.index]) for edge in path)


@cache
def deep_network() -> Network:
    """500 layers of width 3 without biases; traced once, since that takes seconds."""
    return eclab.trace(dense(*[3] * 501, bias=False).double(), torch.ones(1, 3, dtype=F64))


# counts --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ZOO)
def test_counts_are_those_of_a_list_of_all_paths(name: str) -> None:
    net, _ = ZOO[name].trace()
    assert net.count_paths() == len(whole_paths(net))


def test_counts_are_exact_integers_of_any_size() -> None:
    widths = (784, 512, 512, 512, 10)
    net = eclab.trace(dense(*widths), torch.zeros(1, 784))
    expected = sum(math.prod(widths[start:]) for start in range(len(widths)))
    assert net.count_paths() == expected == 1_053_611_791_370
    assert deep_network().count_paths() == 3**501


def test_kernel_taps_and_positions_are_parallel_edges() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 4, 5, bias=False))
    assert eclab.trace(model, torch.zeros(1, 2, 4, 4)).count_paths() == 2 * 9 * 3 * 4 * 5
    grouped = nn.Sequential(nn.Conv1d(4, 6, 3, groups=2, bias=False))
    assert eclab.trace(grouped, torch.zeros(1, 4, 5)).count_paths() == 6 * 2 * 3


@given(widths=st.lists(st.integers(1, 5), min_size=2, max_size=5), bias=st.booleans())
@settings(max_examples=10)
def test_counts_of_any_widths(widths: list[int], bias: bool) -> None:
    net = eclab.trace(dense(*widths, bias=bias), torch.zeros(1, widths[0]))
    starts = range(len(widths) if bias else 1)
    assert net.count_paths() == sum(math.prod(widths[start:]) for start in starts)


# lists ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ZOO)
def test_segments_run_from_ground_to_ground_over_free_units_only(name: str) -> None:
    net, _ = ZOO[name].trace()
    found = segments(net)
    assert len(set(found)) == len(found)
    for path in found:
        free = [int(net.scale_of[edge.head]) > 0 for edge in path]
        assert free == [True] * (len(path) - 1) + [False]
        assert int(net.scale_of[path[0].tail]) == 0
    matrix = path_matrix(net)
    assert matrix.shape == (len(found), net.num_weights)
    assert set(np.unique(matrix)) <= {0, 1}
    assert matrix.sum(1).tolist() == [len(path) for path in found]


def test_segments_of_a_pinned_network_join_to_whole_paths() -> None:
    net, _ = ZOO["tanh between"].trace()
    assert len(segments(net)) < len(whole_paths(net))
    joined = {one + two for one in segments(net) for two in segments(net) if one[-1].head == two[0].tail}
    assert {path for path in whole_paths(net) if len(path) == 4} == {path for path in joined if len(path) == 4}


def test_too_many_paths_to_list_are_refused() -> None:
    net, _ = ZOO["deep"].trace()
    with pytest.raises(EclabError, match="more than 100 paths"):
        segments(net, limit=100)
    assert len(segments(net, limit=len(segments(net)))) == len(segments(net))


# largest paths -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ZOO)
def test_the_largest_paths_are_all_paths_in_order(name: str) -> None:
    net, _ = ZOO[name].trace()
    everything = {path: value_of(net, path) for path in whole_paths(net)}
    found = net.top_paths(len(everything) + 10)
    assert {path.edges for path in found} == set(everything)
    assert len(found) == len(everything)
    sizes = [abs(path.value) for path in found]
    np.testing.assert_allclose(sizes, sorted(map(abs, everything.values()), reverse=True), rtol=1e-12)
    for path in found:
        assert path.value == pytest.approx(everything[path.edges], rel=1e-12)
        assert path.log_value == pytest.approx(math.log(abs(path.value)), abs=1e-12)
        assert path.output == path.edges[-1].head
        assert path.active is None
    first = net.top_paths(7)
    assert first == found[:7]


@pytest.mark.parametrize("name", ZOO)
def test_with_a_sample_only_paths_whose_units_are_on(name: str) -> None:
    net, x = ZOO[name].trace()
    on = active_units(net, x[:1])[0]
    lit = {path for path in whole_paths(net) if all(bool(on[edge.head]) for edge in path)}
    found = net.top_paths(10**6, x[:1])
    assert {path.edges for path in found} == lit
    assert all(path.active for path in found)
    logs = [path.log_value for path in found]
    assert logs == sorted(logs, reverse=True)


def test_some_sample_switches_some_path_off() -> None:
    net, x = ZOO["wide-narrow-wide"].trace()
    assert len(net.top_paths(10**6, x[:1])) < net.count_paths()


def test_zero_weights_are_left_out() -> None:
    net, _ = ZOO["wide-narrow-wide"].trace()
    with torch.no_grad():
        for weight in net.weights:
            weight.parameter.mul_(torch.rand(weight.shape, dtype=F64) < 0.6)
    values = [value_of(net, path) for path in whole_paths(net)]
    found = net.top_paths(10**6)
    assert len(found) == sum(value != 0 for value in values)
    assert all(path.value for path in found)


def test_a_network_of_zeros_has_no_largest_path() -> None:
    model = dense(2, 3, 1)
    for p in model.parameters():
        p.data.zero_()
    assert eclab.trace(model, torch.ones(1, 2)).top_paths(5) == []


def test_equal_paths_come_each_once_and_always_in_the_same_order() -> None:
    model = dense(3, 4, 4, 2, bias=False)
    for p in model.parameters():
        p.data.fill_(0.5)
    net = eclab.trace(model, torch.ones(1, 3))
    found = net.top_paths(1000)
    assert len({path.edges for path in found}) == len(found) == 96
    assert found == net.top_paths(1000)


@pytest.mark.timing
def test_the_hundred_largest_of_a_trillion_paths_in_under_a_second() -> None:
    net = eclab.trace(dense(784, 512, 512, 512, 10), torch.zeros(1, 784))
    start = time.perf_counter()
    found = net.top_paths(k=100)
    assert time.perf_counter() - start < 1
    assert len({path.edges for path in found}) == 100


def test_the_largest_path_of_500_layers() -> None:
    """Products that leave float64, and a depth that no recursion would take."""
    net = deep_network()
    for p in net.model.parameters():
        p.data.normal_().mul_(1e3)
    found = net.top_paths(50)
    best = np.zeros(3)
    for weight in net.weights:
        best = (np.log(np.abs(weight.parameter.detach().numpy())) + best).max(1)
    assert found[0].log_value == pytest.approx(best.max(), rel=1e-12)
    assert len(found[0].edges) == 500
    assert math.isinf(found[0].value)
    assert found[0].log_value > 3000


@given(seed=st.integers(0, 10_000), name=st.sampled_from(sorted(ZOO)), sigma=st.floats(0, 2))
@settings(max_examples=25)
def test_the_largest_paths_are_those_of_the_class(seed: int, name: str, sigma: float) -> None:
    net, _ = ZOO[name].trace(seed)
    before = net.top_paths(10)
    eclab.random_rescale_(net, sigma, torch.Generator().manual_seed(seed))
    after = net.top_paths(10)
    if ZOO[name].homogeneous:
        np.testing.assert_allclose([p.value for p in after], [p.value for p in before], rtol=1e-10)


@pytest.mark.parametrize("k", [0, -1, 2.5, "ten", True])
def test_how_many_paths_must_be_a_whole_number(k: Any) -> None:
    net, _ = ZOO["deep"].trace()
    with pytest.raises(SettingError, match="k is"):
        net.top_paths(k)


def test_more_than_one_sample_is_refused() -> None:
    net, x = ZOO["deep"].trace()
    with pytest.raises(SettingError, match="x has 4 samples"):
        net.top_paths(3, x)


@pytest.mark.parametrize("ask", [lambda net: net.top_paths(3), lambda net: net.path_norm()])
def test_weights_that_are_not_finite_are_named(ask: Any) -> None:
    net, _ = ZOO["deep"].trace()
    net.weight("4.weight").parameter.data[0, 1] = math.nan
    with pytest.raises(NonFiniteError, match=r"'4\.weight' holds nan"):
        ask(net)


# norms ---------------------------------------------------------------------------------------------------------------


def window_members(pool: nn.Module, shape: tuple[int, ...]) -> Floats:
    """0/1 ``[outputs, inputs]`` of a max-pool, found by lighting one position after another."""
    lit = torch.eye(math.prod(shape), dtype=F64).reshape(-1, *shape) * 2 - 1
    found: Floats = (pool(lit).flatten(1) > 0).double().numpy().T
    return found


def dense_matrix(layer: nn.Module, shape: tuple[int, ...]) -> tuple[Floats, Floats]:
    """A layer on feature maps of this shape as a matrix ``[outputs, inputs]`` and an offset ``[outputs]``."""
    with torch.no_grad():
        zero = layer(torch.zeros(1, *shape, dtype=F64)).flatten()
        rows = layer(torch.eye(math.prod(shape), dtype=F64).reshape(-1, *shape)).flatten(1) - zero
    return rows.numpy().T, zero.numpy()


def unrolled_norm(model: nn.Module, shape: tuple[int, ...], p: float) -> float:
    """``log ‖v‖_p`` as a product of explicit matrices of ``|w|^p``."""
    assert isinstance(model, nn.Sequential)
    sums = np.ones(math.prod(shape))
    for layer in model:
        with torch.no_grad():
            after = tuple(layer(torch.zeros(2, *shape, dtype=F64)).shape[1:])
        if isinstance(layer, nn.MaxPool1d | nn.MaxPool2d | nn.MaxPool3d):
            sums = window_members(layer, shape) @ sums
        elif not isinstance(layer, nn.ReLU | nn.LeakyReLU | nn.PReLU | nn.Dropout | nn.Identity | nn.Flatten):
            matrix, offset = dense_matrix(layer, shape)
            sums = np.abs(matrix) ** p @ sums + np.abs(offset) ** p
        shape = after
    return math.log(sums.sum()) / p


@pytest.mark.parametrize("p", [0.5, 1, 2, 3.7])
@pytest.mark.parametrize("name", HOMOGENEOUS)
def test_norms_are_those_of_the_explicitly_unrolled_network(name: str, p: float) -> None:
    net, _ = ZOO[name].trace()
    parts = [(net.model, ZOO[name].shape)]
    if isinstance(net.model, Functional):
        parts = [(net.model.layers(), ZOO[name].shape)]
    if isinstance(net.model, TwoInputs):
        parts = [(net.model.left, (2,)), (net.model.right, (3,))]
    sums = [p * unrolled_norm(part, shape, p) for part, shape in parts]
    expected = math.log(sum(map(math.exp, sums))) / p
    assert net.path_norm(p) == pytest.approx(expected, rel=1e-10, abs=1e-10)
    assert net.path_norm(p, log=False) == pytest.approx(math.exp(expected), rel=1e-9)


POOLS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "max 2×2": (nn.MaxPool2d(2), (2, 5, 4)),
    "max 3×3, stride 2, padded, ceil": (nn.MaxPool2d(3, 2, 1, ceil_mode=True), (2, 6, 7)),
    "max, stride beyond the window": (nn.MaxPool2d(2, 3), (1, 8, 7)),
    "max, dilated": (nn.MaxPool2d(2, 1, 0, dilation=2), (1, 5, 6)),
    "max, uneven": (nn.MaxPool2d((3, 1), (1, 2), (1, 0)), (1, 4, 5)),
    "max 1-D": (nn.MaxPool1d(3, 2, 1, dilation=2), (2, 9)),
    "max 3-D": (nn.MaxPool3d(2, 1), (1, 3, 2, 3)),
    "average 2×2": (nn.AvgPool2d(2), (2, 5, 4)),
    "average, padded": (nn.AvgPool2d(3, 2, 1), (2, 5, 6)),
    "average, padded, padding not counted": (nn.AvgPool2d(3, 2, 1, count_include_pad=False), (2, 5, 6)),
    "average, ceil": (nn.AvgPool2d(3, 2, ceil_mode=True), (1, 6, 8)),
    "average, ceil, padded": (nn.AvgPool2d(3, 2, 1, ceil_mode=True), (1, 6, 7)),
    "average, ceil, padded, padding not counted": (
        nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
        (1, 6, 7),
    ),
    "average, own divisor": (nn.AvgPool2d(2, divisor_override=3), (1, 4, 4)),
    "average 1-D, ceil": (nn.AvgPool1d(3, 2, 1, ceil_mode=True), (2, 8)),
    "average 3-D": (nn.AvgPool3d(2, 1, 1), (1, 2, 3, 2)),
    "adaptive, even": (nn.AdaptiveAvgPool2d(2), (2, 4, 6)),
    "adaptive, uneven windows": (nn.AdaptiveAvgPool2d((3, 2)), (2, 7, 5)),
    "adaptive, more outputs than inputs": (nn.AdaptiveAvgPool2d((5, 3)), (1, 3, 3)),
    "adaptive, one axis kept": (nn.AdaptiveAvgPool2d((None, 2)), (1, 3, 5)),
    "adaptive 1-D": (nn.AdaptiveAvgPool1d(4), (2, 7)),
    "adaptive 3-D": (nn.AdaptiveAvgPool3d((2, 1, 2)), (1, 3, 2, 3)),
}


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("case", POOLS)
def test_every_kind_of_pool(case: str, p: float) -> None:
    """Between two convolutions, so that windows at the border and within weigh differently."""
    pool, shape = POOLS[case]
    torch.manual_seed(0)
    kind = {2: nn.Conv1d, 3: nn.Conv2d, 4: nn.Conv3d}[len(shape)]
    before: nn.Module = kind(shape[0], 2, 3, padding=1)
    model = nn.Sequential(before, nn.ReLU(), pool, kind(2, 2, 1), nn.Flatten()).double()
    width = model(torch.zeros(1, *shape, dtype=F64)).shape[1]
    model = nn.Sequential(*model, nn.ReLU(), nn.Linear(width, 2).double())
    net = eclab.trace(model, torch.zeros(1, *shape, dtype=F64))
    assert net.path_norm(p) == pytest.approx(unrolled_norm(model, shape, p), rel=1e-10)


@pytest.mark.parametrize("p", [0.5, 1, 2])
def test_norms_of_dense_networks_are_sums_over_all_paths(p: float) -> None:
    for name in ("one hidden layer", "wide-narrow-wide", "deep", "some biases", "two branches"):
        net, _ = ZOO[name].trace()
        total = sum(abs(value_of(net, path)) ** p for path in whole_paths(net))
        assert net.path_norm(p) == pytest.approx(math.log(total) / p, rel=1e-11, abs=1e-11)


def test_a_large_p_gives_the_largest_path() -> None:
    net, _ = ZOO["wide-narrow-wide"].trace()
    assert net.path_norm(5000.0) == pytest.approx(net.top_paths(1)[0].log_value, abs=math.log(512) / 5000)


def test_small_paths_count_where_large_ones_are_cut_off() -> None:
    """With one scale for a whole layer the second unit would vanish beside the first, whose outgoing weight is 0."""
    model = dense(1, 2, 1, bias=False).double()
    model.get_parameter("0.weight").data = torch.tensor([[1e200], [1e-200]], dtype=F64)
    model.get_parameter("2.weight").data = torch.tensor([[0.0, 3.0]], dtype=F64)
    net = eclab.trace(model, torch.ones(1, 1, dtype=F64))
    assert net.path_norm(1) == pytest.approx(math.log(3e-200), rel=1e-12)


def test_depth_and_norms_beyond_float64() -> None:
    net = deep_network()
    for factor in (1.0, 1e-4, 1e4):
        for weight in net.weights:
            weight.parameter.data.fill_(factor)
        # 3^501 paths with the value factor^500
        for p in (0.5, 1.0, 2.0):
            expected = 500 * math.log(factor) + 501 * math.log(3) / p
            assert net.path_norm(p) == pytest.approx(expected, rel=1e-12)
    assert net.path_norm(1, log=False) == math.inf


def test_a_network_of_zeros_has_norm_zero() -> None:
    model = nn.Sequential(nn.Conv1d(1, 2, 2), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(2, 1))
    for p in model.parameters():
        p.data.zero_()
    net = eclab.trace(model, torch.ones(1, 1, 3))
    assert net.path_norm() == -math.inf
    assert net.path_norm(log=False) == 0.0


@given(seed=st.integers(0, 10_000), name=st.sampled_from(HOMOGENEOUS), p=st.floats(0.1, 50), sigma=st.floats(0, 4))
@settings(max_examples=30)
def test_norms_are_those_of_the_class(seed: int, name: str, p: float, sigma: float) -> None:
    net, _ = ZOO[name].trace(seed)
    before = net.path_norm(p)
    eclab.random_rescale_(net, sigma, torch.Generator().manual_seed(seed))
    assert net.path_norm(p) == pytest.approx(before, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name", HOMOGENEOUS)
def test_the_weights_are_only_read(name: str) -> None:
    net, _ = ZOO[name].trace()
    net.model.train()
    before = {key: value.clone() for key, value in net.model.state_dict().items()}
    net.path_norm(2)
    net.top_paths(3)
    net.count_paths()
    assert all(torch.equal(value, before[key]) for key, value in net.model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in net.model.parameters())
    assert net.model.training


@pytest.mark.parametrize(("widths", "slack"), [((5, 6, 4), 1e-13), ((1024, 1024, 4), 1e-6)])
def test_float32_models_are_measured_in_float64_and_large_ones_to_their_own_rounding(
    widths: tuple[int, ...], slack: float
) -> None:
    torch.manual_seed(0)
    model = dense(*widths)
    one = eclab.trace(model, torch.ones(1, widths[0]))
    single, large = one.path_norm(2), one.path_norm(9)
    two = eclab.trace(model.double(), torch.ones(1, widths[0], dtype=F64))
    assert single == pytest.approx(two.path_norm(2), abs=slack)
    assert large == pytest.approx(two.path_norm(9), rel=1e-13)


@pytest.mark.parametrize("p", [0, -1, math.nan, math.inf, "two", "1", True, None])
def test_exponents_that_are_none(p: Any) -> None:
    net, _ = ZOO["deep"].trace()
    with pytest.raises(SettingError, match="p is"):
        net.path_norm(p)


class Doubtful(nn.Module):
    """Three things that paths have no value through."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(2, 3), nn.Linear(3, 3), nn.LayerNorm(3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(self.three(self.two(torch.tanh(self.one(x)))), -1)


def test_all_that_has_no_paths_is_named_in_one_error() -> None:
    net = eclab.trace(Doubtful(), torch.ones(1, 2))
    with pytest.raises(ChartError, match=r"tanh; layer_norm at 'three'; softmax"):
        net.path_norm()


def test_every_homogeneous_operation_has_a_path_norm() -> None:
    """The table of operations and the norms' own must not drift apart."""
    names = {name for rule in RULES if rule.homogeneous for name in rule.names}
    without = (
        "einsum embedding embedding_bag group_norm _native_batch_norm_legit_functional where sign gt ge lt le "
        "max_unpool2d max_unpool3d upsample_linear1d upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d "
        "_upsample_bilinear2d_aa _upsample_bicubic2d_aa"
    )
    assert names - set(HANDLERS) == {f"aten.{name}" for name in without.split()}
    assert set(HANDLERS) - names == {"operator.getitem"}


# monomials -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ZOO)
def test_every_path_is_a_monomial_of_basis_paths(name: str) -> None:
    net, _ = ZOO[name].trace()
    chart = net.chart()
    v = {key: value.numpy() for key, value in chart.coordinates().items()}
    for path in segments(net):
        found = exponents(chart, path)
        assert all(type(n) is int and n for n in found.values())
        assert all(chart.role(edge) != "tree" for edge in found)
        product = math.prod(float(v[edge.parameter][edge.index]) ** n for edge, n in found.items())
        assert product == pytest.approx(value_of(net, path), rel=1e-12)


@pytest.mark.parametrize("name", ["wide-narrow-wide", "conv 2×2, stride 2, deep"])
def test_a_basis_path_is_itself(name: str) -> None:
    net, _ = ZOO[name].trace()
    chart = net.chart()
    for path in segments(net):
        for edge in path:
            if chart.role(edge) != "tree" and chart.basis_path(edge.parameter, edge.index).edges == path:
                assert exponents(chart, path) == {edge: 1}


def test_whole_paths_through_pinned_units_are_monomials_too() -> None:
    net, _ = ZOO["tanh between"].trace()
    chart = net.chart()
    v = chart.coordinates()
    for path in net.top_paths(20):
        product = math.prod(float(v[e.parameter][e.index]) ** n for e, n in exponents(chart, path.edges).items())
        assert product == pytest.approx(path.value, rel=1e-12)


def test_edges_that_are_no_path_are_refused() -> None:
    net, _ = ZOO["deep"].trace()
    chart = net.chart()
    path = net.top_paths(1)[0].edges
    for wrong in ((), path[:-1], path[1:] if len(path) > 1 else (path[0], path[0]), path[::-1]):
        if wrong != path:
            with pytest.raises(ChartError, match="no path from ground to ground"):
                exponents(chart, wrong)


def test_a_large_networks_norm_goes_through_a_layer_of_a_wide_range(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above a million weights it is worked out in float32, but for layers whose channels' scales lie far apart."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Conv2d(3, 2, 2), nn.ReLU(), nn.Flatten(),
        nn.Linear(18, 4), nn.ReLU(), nn.Linear(4, 2),
    )  # fmt: skip
    net = eclab.trace(model, torch.ones(2, 1, 6, 6))
    with torch.no_grad():
        net.weights[0].parameter[0] *= 1e-18
        net.weights[0].parameter[1] *= 1e18
    expected = [net.path_norm(p) for p in (1, 2)]
    monkeypatch.setattr("eclab.paths.norms._SMALL", 0)
    assert [net.path_norm(p) for p in (1, 2)] == pytest.approx(expected, rel=1e-6)
