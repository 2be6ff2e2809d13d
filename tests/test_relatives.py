"""Relatives of EC-SGD: Path-SGD and ENorm-SGD, against slow twins, invariance and refusals."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import eclab
from eclab.classes.balance import Balancer
from eclab.facade import Network
from eclab.paths.enumerate import columns, whole_paths
from eclab.paths.kappa import kappa
from tests.orbit_models import every_net
from tests.zoo import ZOO, dense, joined

F64 = torch.float64
NETS = every_net(ZOO)
ALL = pytest.mark.parametrize("name", NETS)

Make = Callable[..., torch.optim.Optimizer]


def fresh(name: str) -> tuple[Network, Tensor]:
    net, x = NETS[name]
    return copy.deepcopy(net), x


def backward(net: Network, x: Tensor, number: int) -> None:
    net.model.zero_grad()
    generator = torch.Generator().manual_seed(number)
    noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
    outputs = joined(net.model(x + noise))
    target = torch.randn(outputs.shape, generator=generator, dtype=x.dtype)
    (outputs - target).square().mean().backward()


def train(net: Network, x: Tensor, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for number in steps:
        backward(net, x, number)
        optimizer.step()


def outputs_of(net: Network, x: Tensor) -> Tensor:
    with torch.no_grad():
        return joined(net.model(x))


def state_of(net: Network) -> list[Tensor]:
    return [p.detach().clone() for p in net.model.parameters()]


def same(one: list[Tensor], two: list[Tensor]) -> bool:
    return all(torch.equal(p.nan_to_num(7.0), q.nan_to_num(7.0)) for p, q in zip(one, two, strict=True))


INVARIANT: dict[str, Make] = {
    "Path-SGD": lambda net: eclab.PathSGD(net, lr=0.01),
    "Path-SGD, momentum, decay": lambda net: eclab.PathSGD(net, lr=0.003, momentum=0.9, weight_decay=0.01),
    "Path-SGD, Nesterov": lambda net: eclab.PathSGD(net, lr=0.003, momentum=0.9, nesterov=True),
    "ENorm-SGD to convergence": lambda net: eclab.ENormSGD(net, lr=0.01, momentum=0.9, sweeps=None),
}


@ALL
@pytest.mark.parametrize("make", INVARIANT.values(), ids=INVARIANT)
def test_fifty_steps_are_the_same_from_two_members(name: str, make: Make) -> None:
    one, x = fresh(name)
    two, _ = fresh(name)
    eclab.random_rescale_(two, 2.0, torch.Generator().manual_seed(4))
    start = outputs_of(one, x)
    # eps keeps batch-norm itself from being exactly scale-free
    tolerance = 1e-9 if not len(one.scale_free) else 1e-6
    for net in (one, two):
        train(net, x, make(net), range(50))
    atol = tolerance * float(start.abs().max())
    assert torch.allclose(outputs_of(one, x), outputs_of(two, x), rtol=tolerance, atol=atol)
    assert not torch.allclose(outputs_of(one, x), start, rtol=1e-3)


@pytest.mark.parametrize("make", INVARIANT.values(), ids=INVARIANT)
def test_rescaling_in_mid_run_changes_nothing(make: Make) -> None:
    one, x = fresh("residual")
    two, _ = fresh("residual")
    first, second = make(one), make(two)
    for block in range(3):
        steps = range(10 * block, 10 * block + 10)
        train(one, x, first, steps)
        if block:
            eclab.random_rescale_(two, 1.5, torch.Generator().manual_seed(block))
        if isinstance(second, eclab.ENormSGD) and block:
            return  # its momentum lives at the balanced member only as long as nobody else leaves it
        train(two, x, second, steps)
    assert torch.allclose(outputs_of(one, x), outputs_of(two, x), rtol=1e-9, atol=1e-10)


class SlowPathSGD:
    """Path-SGD as its paper states it: all paths are listed, and every step goes through the list."""

    def __init__(self, net: Network, lr: float, momentum: float, weight_decay: float) -> None:
        self.net, self.lr, self.momentum, self.weight_decay = net, lr, momentum, weight_decay
        self.buffers: dict[str, Tensor] = {}
        column = columns(net)
        paths = [[column[e.parameter, e.index] for e in path if e.parameter] for path in whole_paths(net)]
        longest = max(map(len, paths))
        # a shorter path is filled up with one more weight, of value 1
        self.paths = np.array([path + [len(column)] * (longest - len(path)) for path in paths])

    def kappa(self) -> dict[str, Tensor]:
        """κ, path by path."""
        weights = {weight.name: weight.parameter.detach() for weight in self.net.weights}
        squares = np.append(np.concatenate([w.reshape(-1).numpy() for w in weights.values()]) ** 2, 1.0)
        found = np.zeros_like(squares)
        for place in range(self.paths.shape[1]):
            others = np.delete(self.paths, place, axis=1)
            np.add.at(found, self.paths[:, place], squares[others].prod(1))
        parts = torch.from_numpy(found[:-1]).split([w.numel() for w in weights.values()])
        return {name: part.reshape(w.shape) for (name, w), part in zip(weights.items(), parts, strict=True)}

    @torch.no_grad()
    def step(self) -> None:
        """``u = w √κ`` with ``√κ`` held fixed takes the step of SGD with momentum."""
        for name, size in self.kappa().items():
            w = self.net.weight(name).parameter
            assert w.grad is not None
            root = size.sqrt()
            u, slope = w * root, w.grad / root + self.weight_decay * w * root
            self.buffers[name] = self.momentum * self.buffers.get(name, torch.zeros_like(u)) + slope
            w.copy_((u - self.lr * self.buffers[name]) / root)


@pytest.mark.parametrize("name", ["wide-narrow-wide", "some biases", "deep", "leaky ReLU", "two branches", "residual"])
@pytest.mark.parametrize(("momentum", "decay"), [(0.0, 0.0), (0.9, 0.02)])
def test_path_sgd_equals_its_twin_for_100_steps(name: str, momentum: float, decay: float) -> None:
    fast, x = fresh(name)
    slow, _ = fresh(name)
    optimizer = eclab.PathSGD(fast, lr=0.003, momentum=momentum, weight_decay=decay)
    twin = SlowPathSGD(slow, 0.003, momentum, decay)
    for number in range(100):
        backward(fast, x, number)
        backward(slow, x, number)
        optimizer.step()
        twin.step()
    for p, q in zip(state_of(fast), state_of(slow), strict=True):
        assert torch.allclose(p, q, rtol=1e-9, atol=1e-12)


def test_kappa_is_refreshed_at_every_step() -> None:
    """The public code's trap: with the κ of the first step the second one would be another."""
    net, x = fresh("one hidden layer")
    optimizer = eclab.PathSGD(net, lr=0.2)
    stale = kappa(net)
    train(net, x, optimizer, range(3))
    before, current = state_of(net), kappa(net)
    backward(net, x, 3)
    gradients = [p.grad.clone() for p in net.model.parameters() if p.grad is not None]
    optimizer.step()
    names = [name for name, _ in net.model.named_parameters()]
    for name, w, g, now in zip(names, before, gradients, state_of(net), strict=True):
        assert torch.allclose(now, w - 0.2 * g / current[name], rtol=1e-12)
    assert any(not torch.allclose(stale[name], current[name], rtol=1e-2) for name in names)


def test_weight_decay_of_path_sgd_is_the_gradient_of_the_path_norm() -> None:
    net, _ = fresh("residual")
    optimizer = eclab.PathSGD(net, lr=0.1, weight_decay=0.5)
    for p in net.model.parameters():
        p.grad = torch.zeros_like(p)
    before = state_of(net)
    norms = [net.path_norm(2)]
    optimizer.step()
    norms.append(net.path_norm(2))
    for now, w in zip(state_of(net), before, strict=True):
        assert torch.allclose(now, w * (1 - 0.1 * 0.5), rtol=1e-12)
    assert norms[1] < norms[0]


def test_weights_without_paths_stay() -> None:
    net, x = fresh("wide-narrow-wide")
    last = net.layers[-1]
    with torch.no_grad():
        net.weight(last.weight).parameter[:, 2] = 0  # nothing leaves unit 2 of the layer before
    unit = net.layers[-2]
    before = net.weight(unit.weight).parameter.detach()[2].clone()
    train(net, x, eclab.PathSGD(net, lr=0.01, weight_decay=0.1), range(1))
    assert torch.equal(net.weight(unit.weight).parameter.detach()[2], before)
    assert all(bool(p.isfinite().all()) for p in state_of(net))


# -- ENorm-SGD --------------------------------------------------------------------------------------------------------


@ALL
@pytest.mark.parametrize("sweeps", [1, 3, None])
def test_enorm_sgd_is_sgd_up_to_its_sweep(name: str, sweeps: int | None) -> None:
    """One step from the balanced member is SGD's function, whatever the sweep does to the weights."""
    net, x = fresh(name)
    eclab.balance_(net)
    plain = copy.deepcopy(net)
    train(net, x, eclab.ENormSGD(net, lr=0.01, sweeps=sweeps), range(1))
    train(plain, x, torch.optim.SGD(plain.model.parameters(), lr=0.01), range(1))
    tolerance = 1e-10 if not len(net.scale_free) else 1e-7
    assert torch.allclose(outputs_of(net, x), outputs_of(plain, x), rtol=tolerance, atol=tolerance)
    assert Balancer(net).search().imbalance() < Balancer(plain).search().imbalance()


@ALL
def test_sweeps_converge_to_the_balanced_member(name: str) -> None:
    net, _ = fresh(name)
    eclab.random_rescale_(net, 1.0, torch.Generator().manual_seed(0))
    balancer = Balancer(net)
    search, last = balancer.search(), math.inf
    while search.imbalance() > 1e-11:
        search.sweep()
        search.to(search.ell)
        assert search.objective() <= last + 1e-12 * abs(last)
        last = search.objective()
    assert torch.allclose(search.ell, balancer.find().scales.log(), rtol=0, atol=1e-9)


@ALL
def test_to_convergence_it_is_ecsgd_in_the_balanced_metric(name: str) -> None:
    one, x = fresh(name)
    two, _ = fresh(name)
    train(one, x, eclab.ENormSGD(one, lr=0.01, weight_decay=0.01, sweeps=None), range(20))
    train(two, x, eclab.ECSGD(two, lr=0.01, weight_decay=0.01, metric="balanced"), range(20))
    tolerance = 1e-9 if not len(one.scale_free) else 1e-6
    assert torch.allclose(outputs_of(one, x), outputs_of(two, x), rtol=tolerance, atol=tolerance)


def test_momentum_goes_along_with_a_sweep() -> None:
    """A sweep between two steps is a change of member, and the buffer is a gradient there."""
    net, x = fresh("some biases")
    optimizer = eclab.ENormSGD(net, lr=0.01, momentum=0.9)
    train(net, x, optimizer, range(1))
    name = net.weights[0].name
    weight = net.weight(name).parameter
    buffer = optimizer.state[weight]["momentum_buffer"]
    assert weight.grad is not None
    twin, _ = fresh("some biases")
    train(twin, x, torch.optim.SGD(twin.model.parameters(), lr=0.01), range(1))
    factor = weight.detach() / twin.weight(name).parameter.detach()
    assert torch.allclose(buffer, weight.grad / factor, rtol=1e-9)
    assert not torch.allclose(factor, torch.ones_like(factor), rtol=1e-2)


# -- refusals ---------------------------------------------------------------------------------------------------------

RELATIVES: dict[str, Make] = {
    "PathSGD": lambda net, **more: eclab.PathSGD(net, **({"lr": 0.01, "momentum": 0.9} | more)),
    "ENormSGD": lambda net, **more: eclab.ENormSGD(net, **({"lr": 0.01, "momentum": 0.9} | more)),
    "ENormSGD, to convergence": lambda net, **more: eclab.ENormSGD(
        net, **({"lr": 0.01, "momentum": 0.9, "sweeps": None} | more)
    ),
}
EACH = pytest.mark.parametrize("make", RELATIVES.values(), ids=RELATIVES)


def states_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [value.clone() for state in optimizer.state.values() for value in state.values()]


@EACH
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_gradients_that_are_not_finite_change_nothing(make: Make, bad: float) -> None:
    net, x = fresh("PReLU slopes, dropout, identity")
    optimizer = make(net)
    train(net, x, optimizer, range(2))
    for parameter in net.model.parameters():
        backward(net, x, 2)
        assert parameter.grad is not None
        parameter.grad.view(-1)[0] = bad
        weights, states = state_of(net), states_of(optimizer)
        with pytest.raises(eclab.NonFiniteError, match="no weight was changed"):
            optimizer.step()
        assert same(state_of(net), weights)
        assert same(states_of(optimizer), states)


@EACH
def test_a_step_that_overflows_changes_nothing(make: Make) -> None:
    net, x = fresh("one hidden layer")
    net.model.float()
    optimizer = make(net, lr=1e38)
    backward(net, x.float(), 0)
    for p in net.model.parameters():
        assert p.grad is not None
        p.grad *= 1e4
    before = state_of(net)
    with pytest.raises(eclab.NonFiniteError, match="no weight was changed"):
        optimizer.step()
    assert same(state_of(net), before)
    assert not states_of(optimizer)


@EACH
def test_missing_gradients_are_refused(make: Make) -> None:
    net, x = fresh("residual")
    optimizer = make(net)
    backward(net, x, 0)
    net.model.get_parameter("up.weight").grad = None
    before = state_of(net)
    with pytest.raises(eclab.ChartError, match=r"up\.weight is missing"):
        optimizer.step()
    assert same(state_of(net), before)


@EACH
def test_settings_out_of_range_are_refused(make: Make) -> None:
    net, x = fresh("one hidden layer")
    for bad in ({"lr": 0.0}, {"lr": -1.0}, {"lr": math.nan}, {"momentum": -0.1}, {"weight_decay": math.inf}):
        with pytest.raises(eclab.SettingError, match=next(iter(bad))):
            make(net, **bad)
    with pytest.raises(eclab.SettingError, match="nesterov"):
        make(net, momentum=0.0, nesterov=True)
    optimizer = make(net)
    optimizer.param_groups[0]["lr"] = math.nan
    backward(net, x, 0)
    before = state_of(net)
    with pytest.raises(eclab.SettingError, match="lr"):
        optimizer.step()
    assert same(state_of(net), before)


def test_sweeps_are_whole_numbers() -> None:
    net, _ = fresh("one hidden layer")
    for sweeps in (0, -1, 1.5, True, "two"):
        with pytest.raises(eclab.SettingError, match="sweeps"):
            eclab.ENormSGD(net, sweeps=sweeps)  # type: ignore[arg-type]


@EACH
def test_networks_it_cannot_serve_are_refused(make: Make) -> None:
    with pytest.raises(eclab.SettingError, match="first argument"):
        make(nn.Linear(2, 2))
    with pytest.raises(eclab.ChartError, match="no unit"):
        make(eclab.trace(nn.Linear(2, 2), torch.ones(1, 2)))


@EACH
def test_state_of_another_kind_is_refused(make: Make) -> None:
    net, x = fresh("one hidden layer")
    optimizer = make(net)
    train(net, x, optimizer, range(1))
    before: Any = copy.deepcopy(optimizer.state_dict())
    for other in (eclab.ECSGD(net), torch.optim.SGD(net.model.parameters(), lr=0.1)):
        with pytest.raises(eclab.CheckpointError, match="belongs to"):
            optimizer.load_state_dict(other.state_dict())
    after = optimizer.state_dict()
    assert all(
        torch.equal(after["state"][k]["momentum_buffer"], v["momentum_buffer"]) for k, v in before["state"].items()
    )


def test_frozen_statistics_and_training_statistics_both_train() -> None:
    for training in (True, False):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ReLU(), *dense(5, 4, 2)).double().train(training)
        x = torch.randn(16, 3, dtype=F64)
        net = eclab.trace(model, x)
        for make in RELATIVES.values():
            optimizer = make(net)
            losses = []
            for _ in range(20):
                optimizer.zero_grad()
                loss = (model(x) - x[:, :2]).square().mean()
                loss.backward()
                losses.append(float(loss.detach()))
                optimizer.step()
            assert losses[-1] < losses[0]


def test_float32_follows_float64() -> None:
    torch.manual_seed(0)
    double = eclab.trace(dense(4, 16, 16, 3).double(), torch.ones(1, 4, dtype=F64))
    single = eclab.trace(copy.deepcopy(double.model).float(), torch.ones(1, 4))
    x = torch.randn(8, 4, dtype=F64)
    for make in RELATIVES.values():
        one, two = copy.deepcopy(double), copy.deepcopy(single)
        train(one, x, make(one), range(20))
        optimizer = make(two)
        for number in range(20):
            backward(one, x, number)  # the same noise and targets
            two.model.zero_grad()
            generator = torch.Generator().manual_seed(number)
            noise = torch.randn(x.shape, generator=generator, dtype=F64)
            outputs = two.model((x + noise).float())
            target = torch.randn(outputs.shape, generator=generator, dtype=F64).float()
            (outputs - target).square().mean().backward()
            optimizer.step()
        assert torch.allclose(outputs_of(one, x), outputs_of(two, x.float()).double(), rtol=1e-3, atol=1e-4)
