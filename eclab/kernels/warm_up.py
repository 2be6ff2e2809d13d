"""Compiles the CPU core ahead of its first use: ``python -m eclab.kernels.warm_up``. The code is kept on disk."""

from __future__ import annotations

import torch

from eclab.kernels import step
from eclab.kernels.plan import Edges, Plan
from eclab.kernels.settings import StepSettings


def warm_up() -> None:
    """One step of a network with one hidden unit, for each dtype and with and without momentum."""
    one, two = torch.tensor([1]), torch.tensor([0])
    ground = torch.tensor([[0]])
    place = (two, two)
    tree = Edges(0, place, one, two, torch.tensor([True]))
    b_edge = Edges(1, place, one, two, torch.tensor([False]))
    plan = Plan(2, (ground + 1, ground), (ground, ground + 1), (tree,), (b_edge,), torch.zeros(0, dtype=one.dtype), ())
    for dtype in (torch.float32, torch.float64):
        weights = [torch.ones(1, 1, dtype=dtype) for _ in range(2)]
        gradients = [torch.zeros(1, 1, dtype=dtype) for _ in range(2)]
        for momentum, buffers in ((0.0, [None, None]), (0.9, gradients)):
            step(plan, weights, gradients, buffers, StepSettings(lr=0.1, momentum=momentum))


if __name__ == "__main__":
    warm_up()
