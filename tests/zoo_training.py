"""How the members of the zoo are started and trained where two optimizers are compared."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

import eclab
from eclab.facade import Network
from tests.zoo import MEMBERS, joined


class Steps(Protocol):
    """An optimizer, or a twin."""

    def step(self) -> object:
        """One step from the parameters' gradients."""


def start(name: str, seed: int = 0, noise: float = 0.1) -> tuple[Network, Tensor]:
    """A member at the paper's start, a little off it, so that no weight is 0 and no two paths are alike."""
    net, x = MEMBERS[name].trace(seed)
    eclab.start_skeleton_(net)
    with torch.no_grad():
        for p in net.model.parameters():
            if p.requires_grad:
                p.mul_(1 + noise * torch.randn_like(p)).add_(noise * torch.randn_like(p))
    return net, x


def backward(net: Network, x: Tensor, target: Tensor | float = 0.0, sign: float = 1.0) -> None:
    """The gradients of the mean squared error."""
    net.model.zero_grad()
    (sign * (joined(net.model(x)) - target).square().mean()).backward()


def outputs(net: Network, x: Tensor) -> Tensor:
    """All outputs side by side, in the model's own mode."""
    with torch.no_grad():
        return joined(net.model(x))


def gap(one: Network, two: Network, x: Tensor) -> float:
    """The largest difference of the outputs, relative to the largest output."""
    a, b = outputs(one, x), outputs(two, x)
    return float((a - b).abs().max() / a.abs().max())
