"""Every optimizer that must keep the contracts, one line each; ``test_optimizer_contract`` and ``test_zoo`` run it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import schedulefree
import torch
from torch.optim.optimizer import Optimizer

import eclab
from eclab.facade import Network
from eclab.optim.reference import ReferenceEC, ReferenceECSGD


@dataclass(frozen=True)
class Entry:
    """One optimizer with the settings it is tested with.

    Attributes:
        build: makes it from a network and options.
        base: the optimizer of ``torch.optim`` whose step parameters outside every class take.
        options: rates low enough, and ``eps`` large enough, that rounding stays rounding over 100 steps.
        twin: makes its brute-force twin, which has a ``step()``; None where it has none over all paths.
        invariant: whether it takes all members of a class to one function; the controls and a single sweep do not.
    """

    build: Callable[..., Optimizer]
    base: Callable[..., Optimizer]
    options: dict[str, Any] = field(default_factory=dict)
    twin: Callable[..., Any] | None = None
    invariant: bool = True

    def make(self, net: Network, **more: Any) -> Optimizer:
        """The optimizer with its options, ready to train."""
        optimizer = self.build(net, **(self.options | more))
        getattr(optimizer, "train", lambda: None)()
        return optimizer

    def scaled(self, rate: float) -> dict[str, Any]:
        """The options with the learning rate times this."""
        return self.options | {"lr": self.options["lr"] * rate}


def ecsgd(**options: Any) -> Entry:
    """:class:`eclab.ECSGD` and its twin."""
    return Entry(eclab.ECSGD, torch.optim.SGD, options, ReferenceECSGD)


def ec(base: Callable[..., Optimizer], **options: Any) -> Entry:
    """:class:`eclab.EC` with a base, and its twin."""

    def build(net: Network, **more: Any) -> Optimizer:
        return eclab.EC(net, base, **more)

    def twin(net: Network, **more: Any) -> ReferenceEC:
        return ReferenceEC(net, base, **more)

    return Entry(build, base, options, twin)


def control(base: Callable[..., Optimizer], **options: Any) -> Entry:
    """An optimizer of ``torch.optim`` on the weights: what all members of a class do not agree on."""

    def build(net: Network, **more: Any) -> Optimizer:
        return base(net.model.parameters(), **more)

    return Entry(build, base, options, invariant=False)


OPTIMIZERS: dict[str, Entry] = {
    "ECSGD": ecsgd(lr=0.005),
    "ECSGD, momentum": ecsgd(lr=0.001, momentum=0.9),
    "ECSGD, Nesterov, decay": ecsgd(lr=0.001, momentum=0.9, nesterov=True, weight_decay=0.01),
    "PathSGD": Entry(eclab.PathSGD, torch.optim.SGD, {"lr": 0.005}),
    "PathSGD, momentum, decay": Entry(
        eclab.PathSGD, torch.optim.SGD, {"lr": 0.001, "momentum": 0.9, "weight_decay": 0.01}
    ),
    "ENormSGD": Entry(eclab.ENormSGD, torch.optim.SGD, {"lr": 0.005}, invariant=False),
    "ENormSGD, Nesterov, decay, to convergence": Entry(
        eclab.ENormSGD,
        torch.optim.SGD,
        {"lr": 0.001, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01, "sweeps": None},
    ),
    "EC(SGD)": ec(torch.optim.SGD, lr=0.001, momentum=0.9, weight_decay=0.01),
    "EC(Adam)": ec(torch.optim.Adam, lr=0.003, eps=1e-6),
    "EC(AdamW)": ec(torch.optim.AdamW, lr=0.003, eps=1e-6, weight_decay=0.05),
    "EC(RMSprop)": ec(torch.optim.RMSprop, lr=0.001, eps=1e-6),
    "EC(Adagrad)": ec(torch.optim.Adagrad, lr=0.005, eps=1e-6),
    "EC(schedule-free SGD)": ec(schedulefree.SGDScheduleFree, lr=0.005),
    "EC(schedule-free AdamW)": ec(schedulefree.AdamWScheduleFree, lr=0.003, eps=1e-6),
}
"""A new optimizer joins with one line here."""

CONTROLS: dict[str, Entry] = {
    "SGD": control(torch.optim.SGD, lr=0.005),
    "Adam": control(torch.optim.Adam, lr=0.003),
}
