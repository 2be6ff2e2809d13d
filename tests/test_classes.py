"""Moving along a class, and telling classes apart."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import eclab

F64 = torch.float64


def dense(dtype: torch.dtype = F64) -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Linear(3, 5),
        nn.ReLU(),
        nn.Linear(5, 2, bias=False),
        nn.LeakyReLU(),
        nn.Linear(2, 4),
        nn.PReLU(),
        nn.Linear(4, 2),
    ).to(dtype)


def conv(dtype: torch.dtype = F64) -> nn.Sequential:
    torch.manual_seed(4)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.PReLU(4),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 3, 2, stride=2, bias=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(12, 5),
        nn.ReLU(),
        nn.Linear(5, 2),
    ).to(dtype)


def samples(model: nn.Sequential) -> Tensor:
    shape = (3,) if isinstance(model[0], nn.Linear) else (1, 8, 8)
    return torch.randn(7, *shape, generator=torch.Generator().manual_seed(5), dtype=next(model.parameters()).dtype)


MODELS = pytest.mark.parametrize("make", [dense, conv])


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def unchanged(model: nn.Module, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@MODELS
def test_rescaling_a_unit_scales_what_enters_and_leaves_it(make: type) -> None:
    model = make()
    x = samples(model)
    net, before, outputs = eclab.trace(model, x), state(model), model(x)
    eclab.rescale_(net, "0", 2, 7.5)
    assert torch.allclose(model.get_parameter("0.weight")[2], 7.5 * before["0.weight"][2], rtol=1e-15)
    assert torch.equal(model.get_parameter("0.weight")[:2], before["0.weight"][:2])
    assert torch.allclose(model.get_parameter("0.bias")[2], 7.5 * before["0.bias"][2], rtol=1e-15)
    name = "2.weight" if make is dense else "3.weight"
    assert torch.allclose(model.get_parameter(name)[:, 2], before[name][:, 2] / 7.5, rtol=1e-15)
    assert torch.allclose(model(x), outputs, rtol=1e-12, atol=1e-14)


@MODELS
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_a_random_member_is_the_same_function_within_the_stated_bound(make: type, dtype: torch.dtype) -> None:
    model = make(dtype)
    x = samples(model)
    net, before = eclab.trace(model, x), state(model)
    scales = eclab.random_rescale_(net, 2.0, torch.Generator().manual_seed(0))
    change = eclab.function_change(before, net, x)
    assert change
    assert change.bound is not None
    assert 0 <= change.max_abs <= change.bound < (1e-3 if dtype is torch.float32 else 1e-9)
    assert {name: len(c) for name, c in scales.items()} == {layer.name: layer.width for layer in net.hidden_layers()}


def test_function_change_sees_a_real_change() -> None:
    model = dense()
    x = samples(model)
    net, before = eclab.trace(model, x), state(model)
    with torch.no_grad():
        model.get_parameter("0.weight")[0, 0] += 1e-6
    assert not eclab.function_change(before, net, x)


def test_function_change_has_no_bound_beyond_homogeneous_operations() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Softmax(-1), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    x = torch.ones(2, 3, dtype=F64)
    net, before = eclab.trace(model, x), state(model)
    change = eclab.function_change(before, net, x)
    assert (change.max_abs, change.bound) == (0.0, None)


@MODELS
def test_the_certificate_finds_the_scales(make: type) -> None:
    one = make()
    x = samples(one)
    two = copy.deepcopy(one)
    scales = eclab.random_rescale_(eclab.trace(two, x), 2.0, torch.Generator().manual_seed(1))
    certificate = eclab.same_class(one, two, x)
    assert certificate
    assert certificate.max_deviation < 1e-13
    assert certificate.output_deviation is not None
    assert certificate.output_deviation < 1e-12
    for name, c in scales.items():
        assert torch.allclose(certificate.scales[name], c, rtol=1e-12)


@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_one_weight_off_is_another_class(data: st.DataObject) -> None:
    one = dense()
    two = copy.deepcopy(one)
    x = samples(one)
    eclab.random_rescale_(eclab.trace(two, x), 1.0, torch.Generator().manual_seed(2))
    name = data.draw(st.sampled_from(["0.weight", "0.bias", "2.weight", "4.weight", "6.weight", "6.bias"]))
    parameter = two.get_parameter(name)
    index = tuple(data.draw(st.integers(0, size - 1)) for size in parameter.shape)
    with torch.no_grad():
        parameter[index] *= 1.01
    # A unit's own scale may absorb a change of its only weight; none of these units has just one.
    certificate = eclab.same_class(one, two, x)
    assert not certificate
    assert certificate.max_deviation > 1e-6
    assert certificate.where


def test_a_flipped_sign_is_another_class() -> None:
    one = dense()
    two = copy.deepcopy(one)
    with torch.no_grad():
        two.get_parameter("0.weight")[1].neg_()
        two.get_parameter("2.weight")[:, 1].neg_()
    assert not eclab.same_class(one, two, samples(one))


def test_units_that_are_all_zero_do_not_hide_the_class() -> None:
    one = dense()
    with torch.no_grad():
        one.get_parameter("0.weight")[1] = 0
        one.get_parameter("0.bias")[1] = 0
    two = copy.deepcopy(one)
    x = samples(one)
    eclab.random_rescale_(eclab.trace(two, x), 1.0, torch.Generator().manual_seed(2))
    assert eclab.same_class(one, two, x)


def test_networks_of_other_shape_or_slope_differ_in_words() -> None:
    one = dense()
    x = samples(one)
    wider = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2)).double()
    assert "shapes" in eclab.same_class(one, wider, x).where
    two = copy.deepcopy(one)
    with torch.no_grad():
        two.get_parameter("5.weight").add_(0.1)
    assert "5.weight" in eclab.same_class(one, two, x).where
    leaky, relu = (nn.Sequential(nn.Linear(3, 6), act, nn.Linear(6, 2)).double() for act in (nn.LeakyReLU(), nn.ReLU()))
    assert not eclab.same_class(leaky, relu, x)


@pytest.mark.parametrize("scale", [0.0, -2.0, float("nan"), float("inf"), "two", "2", True])
def test_scales_outside_the_group_change_nothing(scale: float) -> None:
    model = dense()
    net, before = eclab.trace(model, samples(model)), state(model)
    with pytest.raises(eclab.ScaleError, match="finite number > 0"):
        eclab.rescale_(net, "0", 0, scale)
    assert unchanged(model, before)


def test_scales_that_do_not_fit_change_nothing() -> None:
    model = dense(torch.float32)
    net, before = eclab.trace(model, samples(model)), state(model)
    cases: list[tuple[tuple[Any, ...], str]] = [
        (("0", 5, 2.0), "no unit 5"),
        (("9", 0, 2.0), "no layer '9'"),
        (("6", 0, 2.0), "it is an output"),
        (("0", torch.ones(4)), r"shape \(4,\)"),
        (("0", torch.tensor([1.0, 2.0, -1.0, 1.0, 1.0])), "unit 2"),
        (("0", 0, 1e39), "range of float32"),
        (("0", 0, 1e-45), "range of float32"),
        (("0", 0), "scale is missing"),
    ]
    for arguments, words in cases:
        with pytest.raises(eclab.ScaleError, match=words):
            eclab.rescale_(net, *arguments)
    odd: list[Any] = [-1.0, float("nan"), "1", True, None]
    for sigma in odd:
        with pytest.raises(eclab.SettingError, match="sigma"):
            eclab.random_rescale_(net, sigma)
    assert unchanged(model, before)


@MODELS
def test_start_skeleton_sets_the_skeleton_and_nothing_else(make: type) -> None:
    model = make()
    net, before = eclab.trace(model, samples(model)), state(model)
    chart = net.chart()
    eclab.start_skeleton_(net, chart)
    for edge in {*chart.tree, *chart.b_edges}:
        assert model.get_parameter(edge.parameter)[edge.index] == 1
    changed = sum(int((value != before[name]).sum()) for name, value in model.state_dict().items())
    assert changed == len({*chart.tree, *chart.b_edges})
    other = eclab.trace(make(), samples(model))
    with pytest.raises(eclab.ChartError, match="another network"):
        eclab.start_skeleton_(net, other.chart())


def test_audit_counts_ranks_and_dead_units() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1)).double()
    x = 3 * torch.randn(200, 2, dtype=F64)
    with torch.no_grad():  # four lines that cut the samples differently, so that no unit can stand in for another
        model.get_parameter("0.weight").copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, -1.0]]))
        model.get_parameter("0.bias").copy_(torch.tensor([0.5, -0.5, 0.3, -0.2]))
    net = eclab.trace(model, x)
    alive = net.audit(x)
    assert (alive.num_weights, alive.num_units, alive.class_dim) == (17, 4, 13)
    assert (alive.path_rank, alive.functional_rank, alive.dead_units) == (13, 13, ())
    with torch.no_grad():
        model.get_parameter("0.bias")[3] = -1e6
    table = net.audit(x)
    assert table.path_rank == 13
    assert table.dead_units == ("0[3]",)
    # The dead unit takes its 3 incoming and 1 outgoing weight with it, less its own redundancy.
    assert table.functional_rank == 13 - 3
    assert "dead units" in str(table)
    with pytest.raises(eclab.TraceError, match="the samples do not fit the model"):
        net.audit(torch.ones(2, 9, dtype=F64))
    assert "<table" in table._repr_html_()
    assert "H/m" in str(net)


def test_audit_leaves_ranks_out_where_they_cost_too_much() -> None:
    model = nn.Sequential(nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10))
    table = eclab.trace(model, torch.ones(1, 784)).audit()
    assert (table.path_rank, table.functional_rank, table.dead_units) == (None, None, None)
