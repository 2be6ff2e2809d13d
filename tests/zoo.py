"""Small architectures of every kind the core must take; a test that runs over all of them covers all operations."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from eclab.facade import Network, trace


@dataclass(frozen=True)
class Member:
    """One architecture.

    Attributes:
        build: makes the model.
        shape: of one sample.
        homogeneous: whether every operation is, so that the unrolled network has path norms.
    """

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    homogeneous: bool = True

    def make(self, seed: int = 0, samples: int = 4) -> tuple[nn.Module, Tensor]:
        """The model in float64 and evaluation mode, and an input batch."""
        torch.manual_seed(seed)
        model = self.build().double().eval()
        return model, torch.randn(samples, *self.shape, dtype=torch.float64)

    def trace(self, seed: int = 0, samples: int = 4) -> tuple[Network, Tensor]:
        """The traced model, and an input batch."""
        net = copy.deepcopy(_traced(self))
        model, x = self.make(seed, samples)
        net.model.load_state_dict(model.state_dict())
        return net, x


@cache
def _traced(member: Member) -> Network:
    """Tracing takes longer than most of what the tests then do, so each architecture is traced once."""
    return trace(*member.make())


def dense(
    *widths: int, bias: bool | Sequence[bool] = True, activation: Callable[[], nn.Module] = nn.ReLU
) -> nn.Sequential:
    """Linear layers with an activation between them."""
    biases = [bias] * len(widths) if isinstance(bias, bool) else bias
    layers: list[nn.Module] = []
    for before, after, with_bias in zip(widths, widths[1:], biases, strict=False):
        layers += [nn.Linear(before, after, bias=with_bias), activation()]
    return nn.Sequential(*layers[:-1])


def joined(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    """A model's outputs side by side, ``[samples, outputs]``."""
    outputs = output if isinstance(output, tuple) else (output,)
    return torch.cat([value.flatten(1) for value in outputs], 1)


class Functional(nn.Module):
    """A forward pass of one's own: nested modules, functions in place of modules, a reshape with the batch size."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 2, 2), nn.ReLU())
        self.head = nn.ModuleDict({"scores": nn.Linear(8, 2)})

    def forward(self, x: Tensor) -> Tensor:
        """Conv, pool, flatten, linear."""
        x = nn.functional.max_pool2d(self.stem(x), 2, stride=1)
        scores: Tensor = self.head["scores"](torch.relu(x).view(len(x), -1))
        return scores

    def layers(self) -> nn.Sequential:
        """The same as a sequence."""
        return nn.Sequential(*self.stem, nn.MaxPool2d(2, 1), nn.ReLU(), nn.Flatten(), self.head["scores"])


class TwoInputs(nn.Module):
    """Two inputs through layers of their own, one output each."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = dense(2, 3, 1), dense(3, 2, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Slices stand for the two inputs."""
        return self.left(x[:, :2]), self.right(x[:, 2:])


ZOO: dict[str, Member] = {
    "one hidden layer": Member(lambda: dense(3, 5, 2), (3,)),
    "one hidden layer, no bias": Member(lambda: dense(3, 4, 2, bias=False), (3,)),
    "wide-narrow-wide": Member(lambda: dense(3, 6, 2, 5, 2), (3,)),
    "wide-narrow-wide, no bias": Member(lambda: dense(4, 5, 2, 6, 3, bias=False), (4,)),
    "equal widths, no bias": Member(lambda: dense(3, 3, 3, 3, bias=False), (3,)),
    "some biases": Member(lambda: dense(2, 4, 3, 3, bias=[True, False, True]), (2,)),
    "a width of 1": Member(lambda: dense(2, 3, 1, 4, 2), (2,)),
    "deep": Member(lambda: dense(2, *[2] * 7, 2), (2,)),
    "leaky ReLU": Member(lambda: dense(3, 4, 3, 2, activation=lambda: nn.LeakyReLU(0.2)), (3,)),
    "one PReLU slope": Member(lambda: dense(3, 4, 3, 2, activation=nn.PReLU), (3,)),
    "PReLU slopes, dropout, identity": Member(
        lambda: nn.Sequential(
            nn.Linear(3, 4), nn.PReLU(4), nn.Dropout(0.5), nn.Identity(), nn.Linear(4, 3), nn.PReLU(3), nn.Linear(3, 2)
        ),
        (3,),
    ),
    "tanh between": Member(
        lambda: nn.Sequential(
            nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2)
        ),
        (2,),
        homogeneous=False,
    ),
    "conv 3×3, max-pool": Member(
        lambda: nn.Sequential(
            nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 3)
        ),
        (1, 4, 4),
    ),
    "conv 1-D, stride, dilation, average pool": Member(
        lambda: nn.Sequential(
            nn.Conv1d(2, 3, 3, stride=2, padding=2, dilation=2, bias=False),
            nn.ReLU(),
            nn.AvgPool1d(3, stride=2, padding=1, ceil_mode=True),
            nn.Conv1d(3, 2, 2),
            nn.LeakyReLU(0.1),
            nn.Flatten(),
            nn.Linear(4, 2),
        ),
        (2, 9),
    ),
    "conv 5×5 and 1×1, adaptive pool": Member(
        lambda: nn.Sequential(
            nn.Conv2d(1, 2, 5, padding=2),
            nn.PReLU(2),
            nn.Conv2d(2, 3, 1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d((2, 3)),
            nn.Flatten(),
            nn.Linear(18, 2, bias=False),
        ),
        (1, 5, 4),
    ),
    "conv 2×2, stride 2, deep": Member(
        lambda: nn.Sequential(
            nn.Conv2d(1, 2, 2, stride=2),
            nn.ReLU(),
            nn.Conv2d(2, 2, (3, 1), padding=(1, 0), bias=False),
            nn.ReLU(),
            nn.AvgPool2d(2, padding=1, count_include_pad=False),
            nn.Flatten(),
            nn.Linear(8, 3),
            nn.ReLU(),
            nn.Linear(3, 2),
        ),
        (1, 4, 4),
    ),
    "grouped conv": Member(
        lambda: nn.Sequential(
            nn.Conv1d(4, 4, 2, groups=2), nn.ReLU(), nn.MaxPool1d(2, 1), nn.Conv1d(4, 2, 1), nn.ReLU(), nn.Flatten(),
            nn.Linear(4, 2),
        ),
        (4, 4),
    ),
    "all convolution": Member(
        lambda: nn.Sequential(
            nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 2, dilation=2), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        ),
        (2, 6, 6),
    ),
    "functional": Member(Functional, (1, 4, 4)),
    "two branches": Member(TwoInputs, (5,)),
}  # fmt: skip
