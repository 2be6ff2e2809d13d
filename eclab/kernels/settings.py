"""What a step is given besides tensors, and what it answers; the same for every back end."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StepSettings:
    """The numbers of one EC-SGD step; names and meaning as in ``torch.optim.SGD``, ``guard`` as ρ_min of theory §4."""

    lr: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False
    guard: float = 0.1
    maximize: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of a step.

    Attributes:
        finite: whether every number was finite and no path value 0; where not, nothing was changed.
        guarded: how many skeleton moves the guard held back.
    """

    finite: bool
    guarded: int
