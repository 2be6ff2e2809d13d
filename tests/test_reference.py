"""The twins: what they are by definition, and that the fast optimizers equal them in every setting."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import numpy as np
import pytest
import torch

from eclab.errors import ChartError, EclabError
from eclab.facade import Network
from eclab.network.network import Link
from eclab.optim import EC, ECSGD
from eclab.optim.reference import ReferenceEC, ReferenceECSGD
from eclab.optim.reference_basis import ReferenceBasis
from eclab.optim.reference_rebase import rebased_skeleton
from eclab.paths.enumerate import segments
from eclab.paths.rebase import rebased
from eclab.paths.skeleton import Edge
from tests.zoo import MEMBERS, joined
from tests.zoo_training import backward, gap, start

SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {"lr": 0.02},
    "momentum": {"lr": 0.005, "momentum": 0.9},
    "nesterov": {"lr": 0.005, "momentum": 0.8, "nesterov": True},
    "weight decay": {"lr": 0.02, "weight_decay": 0.1},
    "nesterov and weight decay": {"lr": 0.01, "momentum": 0.5, "nesterov": True, "weight_decay": 0.05},
    "maximize": {"lr": 0.01, "momentum": 0.5, "maximize": True},
    "guarded": {"lr": 0.05, "guard": 0.97},
}


def deviation(one: Network, two: Network) -> float:
    """The largest difference of two networks' weights, relative to the largest in the same parameter."""
    pairs = zip(one.model.parameters(), two.model.parameters(), strict=True)
    return max(float((p - q).detach().abs().max() / q.detach().abs().max()) for p, q in pairs)


def race(name: str, settings: dict[str, Any], steps: int = 100) -> tuple[int, int]:
    """Steps both twins on fresh data and compares them after each; the guarded moves of both."""
    fast, x = start(name)
    slow, first = copy.deepcopy(fast), copy.deepcopy(fast)
    settings = settings | {"lr": settings["lr"] * MEMBERS[name].rate}
    quick, brute = ECSGD(fast, **settings), ReferenceECSGD(slow, **settings)
    sign = -1.0 if settings.get("maximize") else 1.0
    for step in range(steps):
        x = torch.randn_like(x)
        target = torch.randn_like(joined(fast.model(x)))
        for net in (fast, slow):
            backward(net, x, target, sign)
        quick.step()
        brute.step()
        assert deviation(fast, slow) < 1e-9, f"step {step}"
        assert step % 10 != 9 or gap(fast, slow, x) < 1e-9, f"step {step}"
    assert deviation(fast, first) > 1e-3, "nothing has moved"
    return quick.guarded_moves, brute.guarded_moves


@pytest.mark.parametrize(("name", "kind"), list(zip(MEMBERS, [*SETTINGS][1:] * len(MEMBERS), strict=False)))
def test_the_twins_agree_with_momentum_decay_and_guard(name: str, kind: str) -> None:
    """Each architecture with one of the settings in turn; the plain ones run in ``test_zoo``."""
    race(name, SETTINGS[kind])


@pytest.mark.parametrize("name", ["wide-narrow-wide", "conv 3×3, max-pool", "deep"])
def test_the_guard_acts_alike_in_both_twins(name: str) -> None:
    fast, slow = race(name, SETTINGS["guarded"])
    assert fast == slow > 0


def test_one_step_far_beyond_the_guard() -> None:
    fast, x = start("wide-narrow-wide")
    slow = copy.deepcopy(fast)
    before = fast.chart().coordinates()
    quick, brute = ECSGD(fast, lr=5.0), ReferenceECSGD(slow, lr=5.0)
    target = torch.randn_like(joined(fast.model(x)))
    for net in (fast, slow):
        backward(net, x, target)
    quick.step()
    brute.step()
    assert quick.guarded_moves == brute.guarded_moves > 0
    assert deviation(fast, slow) < 1e-9
    chart = fast.chart()
    after = chart.coordinates()
    ratios = [
        float(after[e.parameter][e.index] / before[e.parameter][e.index])
        for e in chart.b_edges
        if e not in set(chart.tree)
    ]
    assert min(ratios) == pytest.approx(0.1)


@pytest.mark.parametrize(("fast", "slow"), [(ECSGD, ReferenceECSGD), (EC, ReferenceEC)])
def test_the_twins_have_the_same_arguments_and_defaults(fast: type, slow: type) -> None:
    """All but the metric, whose balanced kind has no chart and so no twin here."""
    one, two = (inspect.signature(kind).parameters for kind in (fast, slow))
    shared = {n: (p.default, p.kind) for n, p in one.items() if n != "metric"}
    assert shared == {n: (p.default, p.kind) for n, p in two.items()}


def is_chained(net: Network) -> bool:
    """Without additions, batch-norm and shared weights every coordinate is the value of a single path."""
    return not len(net.scale_free) and not any(isinstance(e, Link) or e.shared for e in net.edges)


CHAINED = [name for name, member in MEMBERS.items() if is_chained(member.trace()[0])]


@pytest.mark.parametrize("name", CHAINED)
def test_basis_paths_of_the_chart_are_those_found_among_all_paths(name: str) -> None:
    net, _ = MEMBERS[name].trace()
    chart = net.chart()
    found = basis_paths(net, set(chart.tree), set(chart.b_edges))
    basis = ReferenceBasis(net, chart.skeleton)
    assert len(found) == len(basis.edges) == net.class_dim
    for edge, row in zip(basis.edges, basis.B, strict=True):
        path = found[edge]
        assert chart.basis_path(edge.parameter, edge.index).edges == path
        assert row.sum() == len(path)


def basis_paths(net: Network, tree: set[Edge], b_edges: set[Edge]) -> dict[Edge, tuple[Edge, ...]]:
    """Of all paths those of the form ``a-chain + e + b-chain``, by their ``e`` outside the tree."""
    found: dict[Edge, tuple[Edge, ...]] = {}
    for path in segments(net):
        for place, edge in enumerate(path):
            if edge not in tree and tree.issuperset(path[:place]) and b_edges.issuperset(path[place + 1 :]):
                found[edge] = path
    return found


def test_the_jacobian_is_the_derivative_of_the_coordinates() -> None:
    net, _ = start("pre-activation")
    basis = ReferenceBasis(net, net.chart().skeleton)
    w, _ = basis.read()
    step = 1e-6 * np.eye(len(w))
    slopes = [(basis.coordinates(w + e) - basis.coordinates(w - e)) / 2e-6 for e in step]
    np.testing.assert_allclose(basis.jacobian(w), np.array(slopes).T, rtol=1e-6, atol=1e-8)


def test_what_is_no_basis_is_refused() -> None:
    net, _ = start("wide-narrow-wide")
    skeleton = net.chart().skeleton
    last = max(skeleton.b)
    wrong = {**skeleton.a, last: skeleton.a[last - 1]}
    with pytest.raises((EclabError, np.linalg.LinAlgError)):
        ReferenceBasis(net, type(skeleton)(wrong, skeleton.b))


# re-basing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [0.05, 0.5])
@pytest.mark.parametrize("name", MEMBERS)
def test_the_weak_edges_are_those_found_by_multiplying_out(name: str, threshold: float) -> None:
    net, _ = MEMBERS[name].trace()
    with torch.no_grad():
        for p in net.model.parameters():
            p.normal_()
    chart = net.chart()
    expected, replaced = rebased_skeleton(net, chart.skeleton, threshold)
    found = rebased(chart, threshold)
    assert (found is None) == (replaced == 0)
    skeleton = (found or chart).skeleton
    assert (dict(skeleton.a), dict(skeleton.b)) == (expected.a, expected.b)


@pytest.mark.parametrize("name", ["wide-narrow-wide", "residual, identity skip", "batch-norm", "inverted residual"])
@pytest.mark.parametrize("kind", ["ECSGD", "EC"])
def test_the_twins_re_base_alike(kind: str, name: str) -> None:
    """A guard that acts often, and then a weak edge: the same edges are replaced, and the state goes over alike."""
    fast, x = start(name)
    slow = copy.deepcopy(fast)
    options: dict[str, Any] = {"guard": 0.99, "rebase": 0.3}
    if kind == "ECSGD":
        options |= {"lr": 0.005, "momentum": 0.9, "weight_decay": 0.01}
        twins: Any = ECSGD(fast, **options), ReferenceECSGD(slow, **options)
    else:
        options |= {"lr": 0.005, "eps": 1e-3}  # a base that starts anew divides by small moments
        twins = EC(fast, torch.optim.Adam, **options), ReferenceEC(slow, torch.optim.Adam, **options)
    for step in range(50):
        if step == 20:
            for net in (fast, slow):
                weaken(net)
        batch = torch.randn_like(x)
        target = torch.randn_like(joined(fast.model(x)))
        for net, optimizer in zip((fast, slow), twins, strict=True):
            backward(net, batch, target)
            optimizer.step()
        assert deviation(fast, slow) < 1e-9, f"step {step}"
    assert twins[0].guarded_moves == twins[1].guarded_moves > 0
    assert twins[0].rebased_units == twins[1].rebased_units > 0


def weaken(net: Network) -> None:
    """A third of the first chart's b-edges becomes weak."""
    with torch.no_grad():
        for edge in net.chart().b_edges[::3]:
            net.weight(edge.parameter).parameter[edge.index] *= 0.05


# refusals ------------------------------------------------------------------------------------------------------------


def test_a_gradient_of_no_function_of_the_paths_is_refused() -> None:
    net, _ = start("one hidden layer")
    for p in net.model.parameters():
        p.grad = torch.randn_like(p)
    with pytest.raises(EclabError, match="none of a function of the paths"):
        ReferenceECSGD(net).step()


def test_a_zero_weight_is_refused() -> None:
    net, x = start("one hidden layer")
    net.weights[0].parameter.data[0, 1] = 0
    backward(net, x)
    for twin in (ReferenceECSGD(net), ReferenceEC(net, torch.optim.Adam)):
        with pytest.raises(ChartError, match="is 0"):
            twin.step()


def test_the_fast_one_takes_zero_weights_off_the_skeleton() -> None:
    """The limit of small weights is the step at 0."""
    steps = []
    for small in (0.0, 1e-9):
        net, x = start("wide-narrow-wide")
        net.weights[0].parameter.data[0, 1] = small
        backward(net, x)
        ECSGD(net, lr=0.05).step()
        steps.append(torch.cat([p.detach().reshape(-1) for p in net.model.parameters()]))
    assert float((steps[0] - steps[1]).abs().max()) < 1e-7
