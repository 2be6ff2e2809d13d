"""What every optimizer of eclab must do as ``torch.optim`` does; a new one joins ``optimizer_table``."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.optim.optimizer import register_optimizer_step_post_hook

import eclab
from eclab.facade import Network
from tests.optimizer_table import OPTIMIZERS, Entry

ALL = pytest.mark.parametrize("entry", OPTIMIZERS.values(), ids=OPTIMIZERS)
OF_TORCH = pytest.mark.parametrize(
    "entry",
    [pytest.param(entry, id=name) for name, entry in OPTIMIZERS.items() if entry.base.__module__.startswith("torch.")],
)
"""Bases from elsewhere know neither ``maximize`` nor rates that are tensors."""


@pytest.fixture
def net() -> Network:
    """Two outputs, unequal widths, biases, and a PReLU whose slope lies outside the class."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 3), nn.PReLU(), nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)
    )
    traced = eclab.trace(model, torch.ones(1, 4))
    eclab.start_skeleton_(traced)
    return traced


def batch(number: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(number)
    return torch.randn(8, 4, generator=generator), torch.randn(8, 2, generator=generator)


def loss_of(net: Network, number: int = 0) -> Tensor:
    x, target = batch(number)
    loss: Tensor = (net.model(x) - target).square().mean()
    return loss


def train(net: Network, optimizer: torch.optim.Optimizer, numbers: range) -> None:
    for number in numbers:
        optimizer.zero_grad()
        loss_of(net, number).backward()
        optimizer.step()


def state_of(net: Network) -> list[Tensor]:
    return [p.detach().clone() for p in net.model.parameters()]


def identical(one: list[Tensor], two: list[Tensor]) -> bool:
    return all(torch.equal(p, q) for p, q in zip(one, two, strict=True))


@ALL
def test_construction_changes_no_weight(entry: Entry, net: Network) -> None:
    before = state_of(net)
    entry.make(net)
    assert identical(state_of(net), before)


@ALL
def test_steps_lower_the_loss(entry: Entry, net: Network) -> None:
    optimizer = entry.make(net)
    before = float(loss_of(net).detach())
    train(net, optimizer, range(1))
    for _ in range(20):
        optimizer.zero_grad()
        loss_of(net).backward()
        optimizer.step()
    assert float(loss_of(net).detach()) < before


@ALL
def test_groups_hold_every_parameter_once_and_by_name(entry: Entry, net: Network) -> None:
    optimizer = entry.make(net)
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in net.model.parameters()}
    assert len(held) == len(list(net.model.parameters()))
    names = [name for group in optimizer.param_groups for name in group["param_names"]]
    assert sorted(names) == sorted(name for name, _ in net.model.named_parameters())
    for group in optimizer.param_groups:
        assert {"lr", "weight_decay", *entry.options} <= set(group)


@ALL
def test_a_state_dict_continues_bit_for_bit(entry: Entry, net: Network) -> None:
    optimizer = entry.make(net)
    train(net, optimizer, range(5))
    file = io.BytesIO()
    torch.save({"model": net.model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    train(net, optimizer, range(5, 10))

    file.seek(0)
    saved = torch.load(file, weights_only=True)
    other = copy.deepcopy(net)
    other.model.load_state_dict(saved["model"])
    resumed = entry.make(other, lr=1.0)
    resumed.load_state_dict(saved["optimizer"])
    assert resumed.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
    train(other, resumed, range(5, 10))
    assert identical(state_of(other), state_of(net))


@ALL
def test_a_state_dict_of_another_chart_is_refused(entry: Entry, net: Network) -> None:
    other = eclab.trace(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)), torch.ones(1, 4))
    optimizer, before = entry.make(net), state_of(net)
    with pytest.raises(eclab.CheckpointError, match="belongs to chart"):
        optimizer.load_state_dict(entry.make(other).state_dict())
    with pytest.raises(eclab.CheckpointError, match="belongs to chart"):
        optimizer.load_state_dict(torch.optim.SGD(net.model.parameters(), lr=0.1).state_dict())
    assert identical(state_of(net), before)


@ALL
def test_a_closure_is_evaluated_with_gradients_and_its_loss_returned(entry: Entry, net: Network) -> None:
    by_closure = copy.deepcopy(net)
    optimizer, calls = entry.make(by_closure), []

    def closure() -> float:
        assert torch.is_grad_enabled()
        optimizer.zero_grad()
        loss = loss_of(by_closure)
        loss.backward()
        calls.append(float(loss.detach()))
        return calls[-1]

    with torch.no_grad():
        returned = optimizer.step(closure)
    assert [returned] == calls
    train(net, entry.make(net), range(1))
    assert identical(state_of(net), state_of(by_closure))


@ALL
def test_hooks_run_around_every_step(entry: Entry, net: Network) -> None:
    optimizer, seen = entry.make(net), []
    removable = [
        optimizer.register_step_pre_hook(lambda _o, _a, _k: seen.append("before")),
        optimizer.register_step_post_hook(lambda _o, _a, _k: seen.append("after")),
        register_optimizer_step_post_hook(lambda _o, _a, _k: seen.append("global")),
    ]
    train(net, optimizer, range(2))
    assert seen == ["before", "after", "global"] * 2
    for hook in removable:
        hook.remove()
    train(net, optimizer, range(1))
    assert len(seen) == 6

    saved: list[str] = []
    optimizer.register_state_dict_post_hook(lambda _o, _d: saved.append("saved"))
    optimizer.register_load_state_dict_pre_hook(lambda _o, _d: saved.append("loaded"))
    optimizer.load_state_dict(optimizer.state_dict())
    assert saved == ["saved", "loaded"]


SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "StepLR": lambda o: lr_scheduler.StepLR(o, 2, 0.5),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [1, 3]),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.8),
    "CosineAnnealingLR, to 0": lambda o: lr_scheduler.CosineAnnealingLR(o, 4),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, 0.1, total_iters=3),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 1 / (1 + epoch)),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.05, total_steps=8, cycle_momentum=False),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.05, 2, cycle_momentum=False),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o, 0.5, 2), lr_scheduler.ExponentialLR(o, 0.5)], [2]
    ),
}


@ALL
@pytest.mark.parametrize("scheduler", SCHEDULERS.values(), ids=SCHEDULERS)
def test_schedulers_set_the_rate_of_the_next_step(
    entry: Entry, scheduler: Callable[[torch.optim.Optimizer], Any], net: Network
) -> None:
    """The same as writing the rates that the scheduler gives to SGD."""
    by_hand = copy.deepcopy(net)
    optimizer, other = entry.make(net), entry.make(by_hand)
    stub = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=optimizer.param_groups[0]["lr"])
    schedule, rates = scheduler(optimizer), scheduler(stub)
    seen = set()
    for number in range(6):
        for group in other.param_groups:
            group["lr"] = stub.param_groups[0]["lr"]
        seen.add(stub.param_groups[0]["lr"])
        train(net, optimizer, range(number, number + 1))
        train(by_hand, other, range(number, number + 1))
        stub.step()
        schedule.step()
        rates.step()
    assert len(seen) > 1
    assert identical(state_of(net), state_of(by_hand))


def test_one_cycle_moves_the_momentum_too(net: Network) -> None:
    optimizer = eclab.ECSGD(net, lr=0.01, momentum=0.9)
    schedule = lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=6)
    seen = []
    for number in range(5):
        train(net, optimizer, range(number, number + 1))
        seen.append(optimizer.param_groups[0]["momentum"])
        schedule.step()
    assert seen[0] == 0.95
    assert min(seen) < 0.9


def test_reduce_on_plateau_takes_hold(net: Network) -> None:
    optimizer = eclab.ECSGD(net, lr=0.05)
    schedule = lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=0)
    for loss in (1.0, 1.0, 1.0):
        train(net, optimizer, range(1))
        schedule.step(loss)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.0005)


@OF_TORCH
def test_maximize_ascends(entry: Entry, net: Network) -> None:
    """The same as descending on the loss with the other sign."""
    other = copy.deepcopy(net)
    up, down = entry.make(net, maximize=True), entry.make(other)
    for number in range(3):
        train(net, up, range(number, number + 1))
        down.zero_grad()
        (-loss_of(other, number)).backward()
        down.step()
    assert identical(state_of(net), state_of(other))


@ALL
def test_a_pickle_continues_bit_for_bit(entry: Entry, net: Network) -> None:
    optimizer = entry.make(net)
    train(net, optimizer, range(3))
    again = pickle.loads(pickle.dumps(optimizer))  # noqa: S301
    train(net, optimizer, range(3, 6))
    assert not identical(state_of(again.net), state_of(net))
    train(again.net, again, range(3, 6))
    assert identical(state_of(again.net), state_of(net))


@ALL
def test_a_deep_copy_goes_its_own_way(entry: Entry, net: Network) -> None:
    optimizer = entry.make(net)
    train(net, optimizer, range(3))
    again = copy.deepcopy(optimizer)
    before = state_of(net)
    train(again.net, again, range(3, 6))  # type: ignore[attr-defined]
    assert identical(state_of(net), before)
    train(net, optimizer, range(3, 6))
    assert identical(state_of(again.net), state_of(net))  # type: ignore[attr-defined]


@ALL
def test_zero_grad_clears_or_zeroes(entry: Entry, net: Network) -> None:
    optimizer = entry.make(net)
    loss_of(net).backward()
    optimizer.zero_grad(set_to_none=False)
    assert all(p.grad is not None and not p.grad.any() for p in net.model.parameters())
    optimizer.zero_grad()
    assert all(p.grad is None for p in net.model.parameters())


@ALL
def test_a_step_without_any_gradient_does_nothing(entry: Entry, net: Network) -> None:
    optimizer, before = entry.make(net), state_of(net)
    optimizer.step()
    assert identical(state_of(net), before)


@ALL
def test_an_added_group_takes_the_base_step(entry: Entry, net: Network) -> None:
    extra = nn.Parameter(torch.tensor([1.0, 2.0]))
    twin = nn.Parameter(extra.detach().clone())
    optimizer = entry.make(net)
    optimizer.add_param_group({"params": [extra], "param_names": ["extra"], "lr": 0.3})
    known = inspect.signature(entry.base).parameters
    base = entry.base([twin], **{name: value for name, value in entry.options.items() if name in known} | {"lr": 0.3})
    for made in (optimizer, base):
        getattr(made, "train", lambda: None)()
    for number in range(3):
        optimizer.zero_grad()
        loss_of(net, number).backward()
        extra.grad = torch.tensor([0.5, float(number)])
        twin.grad = extra.grad.clone()
        optimizer.step()
        base.step()
    assert torch.equal(extra, twin)


@OF_TORCH
def test_a_rate_may_be_a_tensor(entry: Entry, net: Network) -> None:
    other = copy.deepcopy(net)
    train(net, entry.make(net, lr=0.03125), range(3))
    train(other, entry.make(other, lr=torch.tensor(0.03125)), range(3))
    assert identical(state_of(net), state_of(other))


@OF_TORCH
def test_gradients_are_left_as_they_are(entry: Entry, net: Network) -> None:
    optimizer = entry.make(net, maximize=True)
    loss_of(net).backward()
    before = [p.grad.clone() for p in net.model.parameters() if p.grad is not None]
    optimizer.step()
    assert identical([p.grad for p in net.model.parameters() if p.grad is not None], before)


@ALL
def test_it_prints_its_settings(entry: Entry, net: Network) -> None:
    optimizer = entry.make(net)
    text = repr(optimizer)
    assert f"lr: {entry.options['lr']}" in text
    assert ("guard: 0.1" in text) == ("guard" in optimizer.param_groups[0])
