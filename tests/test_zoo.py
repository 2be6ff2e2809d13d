"""Every architecture keeps theory's promises, and every optimizer of the table keeps its contract on them."""

from __future__ import annotations

import copy
import io
import os

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import eclab
from eclab.network.frozen import on_edges
from eclab.optim.reference import ReferenceECSGD
from eclab.optim.reference_basis import ReferenceBasis
from eclab.paths.enumerate import columns, path_matrix, rank, segments, whole_paths
from eclab.paths.monomials import exponents
from tests.optimizer_table import CONTROLS, OPTIMIZERS
from tests.zoo import MEMBERS, joined
from tests.zoo_training import Steps, backward, gap, outputs, start

NIGHTLY = os.environ.get("ECLAB_HYPOTHESIS") == "nightly"

members = pytest.mark.parametrize("name", MEMBERS)


def pairs() -> list[tuple[str, str]]:
    """Architectures with optimizers: all in the nightly run, else each with ECSGD and one of the others in turn."""
    first, *others = (name for name, entry in OPTIMIZERS.items() if entry.invariant)
    if NIGHTLY:
        return [(name, optimizer) for name in MEMBERS for optimizer in (first, *others)]
    turns = [others[place % len(others)] for place in range(len(MEMBERS))]
    return [(name, first) for name in MEMBERS] + list(zip(MEMBERS, turns, strict=True))


# optimizers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "optimizer"), pairs())
def test_all_members_of_a_class_and_the_twin_stay_one_function(name: str, optimizer: str) -> None:
    """50 steps from two members of a class, 100 beside the brute-force twin, on fresh data: 1e-9 of the outputs."""
    entry, options = OPTIMIZERS[optimizer], OPTIMIZERS[optimizer].scaled(MEMBERS[name].rate)
    one, x = start(name)
    two, slow, first = copy.deepcopy(one), copy.deepcopy(one), outputs(one, x)
    eclab.random_rescale_(two, 1.0, torch.Generator().manual_seed(7))
    quick, other = entry.make(one, **options), entry.make(two, **options)
    twin = entry.twin(slow, **options) if entry.twin else None
    getattr(twin, "train", lambda: None)()
    for step in range(100 if twin else 50):
        batch, target = torch.randn_like(x), torch.randn_like(first)
        for net, stepped in ((one, quick), (two, other if step < 50 else None), (slow, twin)):
            if stepped is not None:
                backward(net, batch, target)
                stepped.step()
        if step % 10 == 9:  # what has gone apart stays apart
            assert step >= 50 or gap(one, two, x) < 1e-9, f"another member, step {step}"
            assert twin is None or gap(one, slow, x) < 1e-9, f"the twin, step {step}"
    assert float((outputs(one, x) - first).abs().max() / first.abs().max()) > 1e-2, "nothing has moved"
    if twin is not None:
        assert getattr(quick, "guarded_moves", 0) == twin.guarded_moves


@pytest.mark.parametrize("control", CONTROLS)
@members
def test_an_optimizer_on_weights_depends_on_the_member(name: str, control: str) -> None:
    """So the test above can fail: torch's own are off by more than a thousandth after five steps."""
    entry = CONTROLS[control]
    one, x = start(name)
    two = copy.deepcopy(one)
    eclab.random_rescale_(two, 1.0, torch.Generator().manual_seed(7))
    targets = torch.randn(5, *outputs(one, x).shape, dtype=x.dtype)
    for net in (one, two):
        optimizer = entry.make(net)
        for target in targets:
            backward(net, x, target)
            optimizer.step()
    assert not gap(one, two, x) < 1e-3


@pytest.mark.parametrize(
    "name", ["wide-narrow-wide", "one PReLU slope", "residual, batch-norm", "LayerNorm and a ReLU-MLP block"]
)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_state_dict_goes_on_identically_in_mid_run(optimizer: str, name: str) -> None:
    entry = OPTIMIZERS[optimizer]
    one, x = start(name)
    quick = entry.make(one)
    targets = torch.randn(10, *outputs(one, x).shape, dtype=x.dtype)
    for target in targets[:5]:
        backward(one, x, target)
        quick.step()
    file = io.BytesIO()
    torch.save({"model": one.model.state_dict(), "optimizer": quick.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    two, _ = MEMBERS[name].trace(seed=1)
    two.model.load_state_dict(saved["model"])
    resumed = entry.make(two, lr=1.0)
    resumed.load_state_dict(saved["optimizer"])
    for target in targets[5:]:
        for net, stepped in ((one, quick), (two, resumed)):
            backward(net, x, target)
            stepped.step()
    for p, q in zip(one.model.parameters(), two.model.parameters(), strict=True):
        assert torch.equal(p, q)


class TwoInputs(nn.Module):
    """Two arguments, two outputs of different kinds, a tower of each that meets the other one's."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 3), nn.Conv1d(1, 3, 2)
        self.c, self.d = nn.Linear(3, 2), nn.Linear(3, 1)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors and signals."""
        h, k = torch.relu(self.a(x)), torch.relu(self.b(y)).mean(-1)
        return self.c(h + k), self.d(k)


def test_several_inputs_and_outputs() -> None:
    torch.manual_seed(0)
    model = TwoInputs().double()
    x = torch.randn(4, 2, dtype=torch.float64), torch.randn(4, 1, 4, dtype=torch.float64)
    one = eclab.trace(model, x)
    eclab.start_skeleton_(one)
    two, slow = copy.deepcopy(one), copy.deepcopy(one)
    eclab.random_rescale_(two, 1.0)
    optimizers: list[Steps] = [eclab.ECSGD(one, lr=0.01), eclab.ECSGD(two, lr=0.01), ReferenceECSGD(slow, lr=0.01)]
    for _ in range(20):
        for net, optimizer in zip((one, two, slow), optimizers, strict=True):
            net.model.zero_grad()
            (joined(net.model(*x)) - 1).square().mean().backward()
            optimizer.step()
    expected = joined(one.model(*x)).detach()
    for net in (two, slow):
        torch.testing.assert_close(joined(net.model(*x)).detach(), expected, rtol=1e-9, atol=1e-9)


# structure -----------------------------------------------------------------------------------------------------------


@members
def test_the_function_is_that_of_the_whole_class(name: str) -> None:
    one, x = start(name)
    two = copy.deepcopy(one)
    eclab.random_rescale_(two, 2.0, torch.Generator().manual_seed(1))
    assert gap(one, two, x) < 1e-11
    assert one.num_units > 0


@members
def test_what_flows_into_a_scale_flows_out(name: str) -> None:
    """Conservation: ``Σ_in w g = Σ_out w g`` for every free scale, for an arbitrary loss."""
    net, x = start(name)
    y = joined(net.model(x))
    (y * torch.randn_like(y)).sum().backward()
    balance, size = torch.zeros(2, net.num_nodes, dtype=x.dtype)
    with on_edges(net):
        for weight in net.weights:
            if weight.parameter.grad is not None:
                flow = weight.parameter.detach() * weight.parameter.grad
                balance += weight.sum_into_heads(flow, net.num_nodes) - weight.sum_into_tails(flow, net.num_nodes)
                size += weight.sum_into_heads(flow.abs(), net.num_nodes)
    by_scale = torch.zeros(net.num_units + 1, dtype=x.dtype).index_add_(0, net.scale_of, balance)
    assert float(by_scale[1:].abs().max()) < 1e-12 * float(size.max())


@members
def test_the_rank_of_all_paths_is_m_minus_h(name: str) -> None:
    net, _ = MEMBERS[name].trace()
    assert rank(net) == net.class_dim == net.num_weights - net.num_units


@members
def test_every_path_is_a_monomial_of_the_basis_with_whole_exponents(name: str) -> None:
    """Paths that end before a batch-norm count relative to the first that ends there, as in ``path_matrix``."""
    net, _ = MEMBERS[name].trace()
    chart = net.chart()
    basis = ReferenceBasis(net, chart.skeleton)
    assert abs(np.linalg.det(basis.B[:, ~basis.on_tree])) == pytest.approx(1)
    P = path_matrix(net)
    powers = P[:, ~basis.on_tree] @ basis.E
    np.testing.assert_array_equal(powers, np.rint(powers))
    np.testing.assert_array_equal(powers @ basis.B, P)
    place = {(edge.parameter, edge.index): row for row, edge in enumerate(basis.edges)}
    for path, expected in zip(segments(net), powers, strict=True):
        if int(net.scale_of[path[-1].head]) == 0:
            found = np.zeros(len(place))
            for edge, power in exponents(chart, path).items():
                found[place[edge.parameter, edge.index]] = power
            np.testing.assert_array_equal(found, expected)


@members
def test_coordinates_gradients_and_weights_are_those_found_among_all_paths(name: str) -> None:
    net, x = start(name)
    backward(net, x, 1.0)
    for p in net.model.parameters():
        p.grad = torch.zeros_like(p) if p.grad is None else p.grad
    chart = net.chart()
    basis = ReferenceBasis(net, chart.skeleton)
    w, g = basis.read()
    v, delta = chart.coordinates(), chart.gradients()
    listed = np.array([float(v[edge.parameter][edge.index]) for edge in basis.edges])
    np.testing.assert_allclose(listed, basis.coordinates(w), rtol=1e-12)
    found = np.array([float(delta[edge.parameter][edge.index]) for edge in basis.edges])
    np.testing.assert_allclose(found, basis.gradients(w, g), rtol=0, atol=1e-10 * np.abs(found).max())
    # a third way: automatic differentiation of v ↦ loss(WA(v)) is Jᵀ of the allocation, the inverse of the reference's
    inverse = np.linalg.inv(basis.jacobian(w)[:, ~basis.on_tree])
    np.testing.assert_allclose(found, inverse.T @ g[~basis.on_tree], rtol=0, atol=1e-10 * np.abs(found).max())
    np.testing.assert_allclose(basis.allocate(w, basis.coordinates(w)), w, rtol=1e-12)


@members
def test_weights_come_back_from_their_coordinates(name: str) -> None:
    """Also at coordinates elsewhere, where the chart and the reference must allocate the same weights."""
    net, _ = start(name)
    chart = net.chart()
    basis = ReferenceBasis(net, chart.skeleton)
    w, _ = basis.read()
    moved = {key: value * (1 + 0.3 * torch.rand_like(value)) for key, value in chart.coordinates().items()}
    for weight in net.weights:
        if not weight.parameter.requires_grad:
            moved[weight.name] = weight.parameter.detach().clone()
    chart.allocate(moved)
    again, _ = basis.read()
    number = columns(net)
    v = np.array([float(moved[edge.parameter][edge.index]) for edge in basis.edges])
    np.testing.assert_allclose(again, basis.allocate(w, v), rtol=1e-12)
    for edge in chart.tree:
        assert again[number[edge.parameter, edge.index]] == w[number[edge.parameter, edge.index]]


@members
def test_counts_and_largest_paths_agree_with_the_list(name: str) -> None:
    net, _ = start(name)
    listed = whole_paths(net)
    assert net.count_paths() == len(listed)
    w, _ = ReferenceBasis(net, net.chart().skeleton).read()
    number = columns(net)
    sizes = [
        np.prod([abs(w[number[edge.parameter, edge.index]]) for edge in path if edge.parameter]) for path in listed
    ]
    found = [abs(path.value) for path in net.top_paths(min(len(listed), 100))]
    np.testing.assert_allclose(found, sorted(sizes, reverse=True)[: len(found)], rtol=1e-12)
