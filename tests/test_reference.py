"""The fast optimizer equals its brute-force twin, and the twin is what theory says."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from eclab.classes import start_skeleton_
from eclab.errors import ChartError, EclabError
from eclab.facade import Network
from eclab.optim import ECSGD
from eclab.optim.reference import ReferenceECSGD, basis_paths
from tests.zoo import ZOO, joined

SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {"lr": 0.02},
    "momentum": {"lr": 0.005, "momentum": 0.9},
    "nesterov": {"lr": 0.005, "momentum": 0.8, "nesterov": True},
    "weight decay": {"lr": 0.02, "weight_decay": 0.1},
    "nesterov and weight decay": {"lr": 0.01, "momentum": 0.5, "nesterov": True, "weight_decay": 0.05},
    "maximize": {"lr": 0.01, "momentum": 0.5, "maximize": True},
    "guarded": {"lr": 0.05, "guard": 0.97},
}


def start(name: str, noise: float = 0.1) -> tuple[Network, Tensor]:
    """A member at the paper's start, a little off it."""
    net, x = ZOO[name].trace()
    start_skeleton_(net)
    with torch.no_grad():
        for p in net.model.parameters():
            p.mul_(1 + noise * torch.randn_like(p))
    return net, x


def backward(net: Network, x: Tensor, target: Tensor, sign: float = 1.0) -> None:
    net.model.zero_grad()
    (sign * (joined(net.model(x)) - target).square().mean()).backward()


def deviation(one: Network, two: Network) -> float:
    """The largest difference of two networks' weights, relative to the largest in the same parameter."""
    pairs = zip(one.model.parameters(), two.model.parameters(), strict=True)
    return max(float((p - q).detach().abs().max() / q.detach().abs().max()) for p, q in pairs)


def race(name: str, settings: dict[str, Any], steps: int = 100) -> tuple[int, int]:
    """Steps both twins on fresh data and compares them after each; the guarded moves of both."""
    fast, x = start(name)
    slow = copy.deepcopy(fast)
    quick, brute = ECSGD(fast, **settings), ReferenceECSGD(slow, **settings)
    sign = -1.0 if settings.get("maximize") else 1.0
    for step in range(steps):
        x = torch.randn_like(x)
        target = torch.randn_like(joined(fast.model(x)))
        for net in (fast, slow):
            backward(net, x, target, sign)
        quick.step()
        brute.step()
        one, two = joined(fast.model(x)).detach(), joined(slow.model(x)).detach()
        assert deviation(fast, slow) < 1e-9, f"step {step}"
        assert float((one - two).abs().max() / two.abs().max()) < 1e-9, f"step {step}"
    assert deviation(fast, start(name)[0]) > 1e-3, "nothing has moved"
    return quick.guarded_moves, brute.guarded_moves


@pytest.mark.parametrize("name", ZOO)
def test_the_twins_agree_for_100_steps(name: str) -> None:
    race(name, SETTINGS["plain"])


@pytest.mark.parametrize(("name", "kind"), list(zip(ZOO, [*SETTINGS][1:] * len(ZOO), strict=False)))
def test_the_twins_agree_with_momentum_decay_and_guard(name: str, kind: str) -> None:
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


def test_the_twins_have_the_same_arguments_and_defaults() -> None:
    """All but the metric and re-basing, which have twins of their own."""
    fast, slow = (inspect.signature(kind).parameters for kind in (ECSGD, ReferenceECSGD))
    shared = {n: (p.default, p.kind) for n, p in fast.items() if n not in ("metric", "rebase")}
    assert shared == {n: (p.default, p.kind) for n, p in slow.items()}


@pytest.mark.parametrize("name", ZOO)
def test_basis_paths_of_the_chart_are_those_found_among_all_paths(name: str) -> None:
    net, _ = ZOO[name].trace()
    chart = net.chart()
    found = basis_paths(net, set(chart.tree), set(chart.b_edges))
    assert len(found) == net.class_dim
    for edge, path in found.items():
        assert chart.basis_path(edge.parameter, edge.index).edges == path


@pytest.mark.parametrize("name", ZOO)
def test_icr_is_the_gradient_of_the_loss_along_weight_allocation(name: str) -> None:
    """``δ`` against a third way: automatic differentiation of ``v ↦ loss(WA(v))``, here by the reference's Jacobian."""
    net, x = start(name)
    backward(net, x, torch.zeros_like(joined(net.model(x))))
    brute = ReferenceECSGD(net)
    w, g = brute._read()
    v = brute.coordinates(w)
    J_of_allocation = np.linalg.inv(brute.jacobian(w)[:, ~brute.on_tree])
    expected = J_of_allocation.T @ g[~brute.on_tree]
    np.testing.assert_allclose(brute.gradients(w, g), expected, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(brute.allocate(w, v), w, rtol=1e-12)


def test_a_gradient_of_no_function_of_the_paths_is_refused() -> None:
    net, _ = start("one hidden layer")
    for p in net.model.parameters():
        p.grad = torch.randn_like(p)
    with pytest.raises(EclabError, match="none of a function of the paths"):
        ReferenceECSGD(net).step()


def test_a_zero_weight_is_refused() -> None:
    net, x = start("one hidden layer")
    net.weights[0].parameter.data[0, 1] = 0
    backward(net, x, torch.zeros(4, 2, dtype=torch.float64))
    with pytest.raises(ChartError, match="is 0"):
        ReferenceECSGD(net).step()


def test_the_fast_one_takes_zero_weights_off_the_skeleton() -> None:
    """The limit of small weights is the step at 0."""
    steps = []
    for small in (0.0, 1e-9):
        net, x = start("wide-narrow-wide")
        net.weights[0].parameter.data[0, 1] = small
        backward(net, x, torch.zeros(4, 2, dtype=torch.float64))
        ECSGD(net, lr=0.05).step()
        steps.append(torch.cat([p.detach().reshape(-1) for p in net.model.parameters()]))
    assert float((steps[0] - steps[1]).abs().max()) < 1e-7
