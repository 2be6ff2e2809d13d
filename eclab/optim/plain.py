"""The plain SGD step, for parameters outside every class and as a part of other steps."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim.optimizer import Optimizer
from torch.optim.sgd import sgd

from eclab.errors import SettingError

MOMENTUM = "momentum_buffer"


def refuse_zero_rate(lr: float) -> None:
    """A schedule may end at 0; an optimizer does not begin there."""
    if float(lr) == 0:
        raise SettingError("lr is 0", allowed="a finite number > 0", fix="give lr such a number, 0.1 for one")


def sgd_on(
    group: dict[str, Any], values: list[Tensor], gradients: list[Tensor], buffers: list[Tensor | None]
) -> list[Tensor | None]:
    """The step of ``torch.optim.SGD`` on ``values``, in place; the new momentum buffers."""
    sgd(
        values,
        gradients,
        buffers,
        weight_decay=float(group["weight_decay"]),
        momentum=float(group["momentum"]),
        lr=float(group["lr"]),
        dampening=0.0,
        nesterov=bool(group["nesterov"]),
        maximize=bool(group["maximize"]),
    )
    return buffers


def sgd_step(optimizer: Optimizer, group: dict[str, Any]) -> None:
    """The step of ``torch.optim.SGD`` on a group of an optimizer that keeps its buffers as SGD does."""
    params = [p for p in group["params"] if p.grad is not None]
    state = optimizer.state
    buffers = [state[p].get(MOMENTUM) if p in state else None for p in params]
    for p, buffer in zip(params, sgd_on(group, params, [p.grad for p in params], buffers), strict=True):
        if buffer is not None:
            state[p][MOMENTUM] = buffer
