"""Small architectures of every kind the core must take; a test that runs over all ``MEMBERS`` covers all operations."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from eclab.facade import Network, trace

EPS = 1e-30
"""Batch-norm takes a scale away up to its eps, so what must hold to rounding is tested with next to none."""


@dataclass(frozen=True)
class Member:
    """One architecture.

    Attributes:
        build: makes the model.
        shape: of one sample.
        homogeneous: whether every operation is, so that the unrolled network has path norms.
        training: whether it is traced and run in training mode, as batch-norm with statistics of the batch is.
        rate: what learning rates are multiplied with: less where a small network would leave the neighbourhood in
            which rounding stays rounding.
    """

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    homogeneous: bool = True
    training: bool = False
    rate: float = 1.0

    def make(self, seed: int = 0, samples: int = 4) -> tuple[nn.Module, Tensor]:
        """The model in float64 and its mode, and an input batch."""
        torch.manual_seed(seed)
        model = self.build().double().train(self.training)
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


def norm1d(width: int, **options: bool) -> nn.BatchNorm1d:
    """Batch-norm with next to no eps."""
    return nn.BatchNorm1d(width, eps=EPS, **options)


def norm2d(width: int, **options: bool) -> nn.BatchNorm2d:
    """Batch-norm with next to no eps."""
    return nn.BatchNorm2d(width, eps=EPS, **options)


class Residual(nn.Module):
    """``activation(branch(x) + skip(x))``."""

    def __init__(self, branch: nn.Module, skip: nn.Module | None = None, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.branch, self.skip, self.activation = branch, skip or nn.Identity(), activation or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """The sum of both."""
        value: Tensor = self.activation(self.branch(x) + self.skip(x))
        return value


class Concatenated(nn.Module):
    """The values of several branches side by side."""

    def __init__(self, *branches: nn.Module, axis: int = 1) -> None:
        super().__init__()
        self.branches, self.axis = nn.ModuleList(branches), axis

    def forward(self, x: Tensor) -> Tensor:
        """``cat([branch(x), …])``."""
        return torch.cat([branch(x) for branch in self.branches], self.axis)


class Tokens(nn.Module):
    """Weights over the last axis of ``[samples, positions, features]``, a permutation, a mean over positions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.mix, self.head = nn.Linear(2, 3), nn.Conv1d(3, 2, 1), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Linear on tokens, convolution on the transposed tokens, mean, linear."""
        value: Tensor = self.head(functional.relu(self.mix(functional.relu(self.first(x)).permute(0, 2, 1))).mean(-1))
        return value


class Transformer(nn.Module):
    """One head of attention, LayerNorm, and a ReLU-MLP block, which alone scales freely."""

    def __init__(self, *, attention: bool) -> None:
        super().__init__()
        self.embed, self.norm, self.mlp, self.head = nn.Linear(2, 3), nn.LayerNorm(3), dense(3, 4, 3), nn.Linear(3, 2)
        self.qkv = nn.Linear(3, 9) if attention else None

    def forward(self, x: Tensor) -> Tensor:
        """``[samples, positions, features]`` to one row of scores a sample."""
        h = self.embed(x)
        if self.qkv is not None:
            q, k, v = self.qkv(h).chunk(3, -1)
            h = h + torch.softmax(q @ k.transpose(-1, -2), -1) @ v
        h = h + self.mlp(self.norm(h))
        scores: Tensor = self.head(h.mean(1))
        return scores


class Product(nn.Module):
    """``x @ W + p`` with parameters of the module's own, a branch times a number, a gate that pins."""

    def __init__(self) -> None:
        super().__init__()
        self.W, self.p = nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(4))
        self.branch, self.gate, self.head = nn.Linear(4, 4), nn.Linear(3, 2), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        """A residual stream, whose scores are gated."""
        h = functional.relu(x @ self.W + self.p)
        h = h + 0.5 * functional.leaky_relu(self.branch(h))
        scores: Tensor = self.head(h) * torch.sigmoid(self.gate(x))
        return scores


class Tied(nn.Module):
    """One layer used twice, and a decoder that is the encoder transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.again, self.free = nn.Linear(3, 2), nn.Linear(2, 2), dense(2, 4, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Encoder, twice the same layer, free layers, decoder."""
        h = functional.relu(self.encode(x))
        h = functional.relu(self.again(functional.relu(self.again(h))))
        return functional.linear(self.free(h), self.encode.weight.t())


class OneWeight(nn.Module):
    """Two modules that hold the same parameter; what surrounds them is free."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(2, 3), nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2)
        self.e = dense(2, 3, 2)
        self.c.weight = self.b.weight

    def forward(self, x: Tensor) -> Tensor:
        """Four layers in a row, and two beside them."""
        h = functional.relu(self.b(functional.relu(self.a(x))))
        scores: Tensor = self.d(functional.relu(self.c(h))) + self.e(x)
        return scores


def frozen(model: nn.Module, *names: str) -> nn.Module:
    """The model with these parameters frozen."""
    for name in names:
        model.get_parameter(name).requires_grad_(False)
    return model


def settled(model: nn.Module) -> nn.Module:
    """The model with running statistics as after some training."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            nn.init.normal_(module.running_mean)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2.0)  # type: ignore[arg-type]
    return model


def inverted(*, bn: bool) -> nn.Module:
    """MobileNetV2's block: expand, depthwise, project without activation, add."""
    norm: Callable[[int], nn.Module] = norm2d if bn else lambda width: nn.Identity()
    branch = nn.Sequential(
        nn.Conv2d(2, 4, 1, bias=not bn), norm(4), nn.ReLU(),
        nn.Conv2d(4, 4, 2, padding=1, dilation=2, groups=4, bias=not bn), norm(4), nn.ReLU(),
        nn.Conv2d(4, 2, 1, bias=not bn), norm(2),
    )  # fmt: skip
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2)]
    return nn.Sequential(nn.Conv2d(1, 2, 2, bias=not bn), norm(2), Residual(branch), *head)


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
"""Layers in a row, and branches that never meet again."""

MEMBERS: dict[str, Member] = ZOO | {
    "residual, identity skip": Member(
        lambda: nn.Sequential(
            nn.Linear(2, 3), nn.ReLU(), Residual(dense(3, 2, 3), activation=nn.ReLU()), nn.Linear(3, 2)
        ),
        (2,),
    ),
    "residual, three blocks": Member(
        lambda: nn.Sequential(
            nn.Linear(2, 3), *(Residual(nn.Sequential(nn.ReLU(), *dense(3, 2, 3))) for _ in range(3)), nn.Linear(3, 1)
        ),
        (2,), rate=0.2,
    ),
    "residual, learned skip": Member(
        lambda: nn.Sequential(
            nn.Conv2d(1, 2, 2), nn.ReLU(),
            Residual(
                nn.Sequential(nn.Conv2d(2, 3, 2, stride=2), nn.ReLU(), nn.Conv2d(3, 3, 1)),
                nn.Conv2d(2, 3, 1, stride=2, bias=False),
                nn.ReLU(),
            ),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2),
        ),
        (1, 5, 5),
    ),
    "residual, several readers": Member(
        lambda: nn.Sequential(
            nn.Linear(2, 3), nn.ReLU(), Residual(dense(3, 2, 3)), Residual(nn.Sequential(nn.Linear(3, 3), nn.ReLU())),
            Concatenated(nn.Linear(3, 2), nn.Linear(3, 1, bias=False)),
        ),
        (2,),
    ),
    "concatenation": Member(
        lambda: nn.Sequential(
            nn.Linear(2, 2), nn.ReLU(),
            Concatenated(nn.Identity(), nn.Sequential(nn.Linear(2, 3), nn.ReLU()), nn.Linear(2, 1)),
            nn.Linear(6, 2), nn.ReLU(), nn.Linear(2, 2),
        ),
        (2,),
    ),
    "concatenation, densenet": Member(
        lambda: nn.Sequential(
            nn.Conv2d(1, 2, 2),
            Concatenated(nn.Identity(), nn.Sequential(norm2d(2), nn.ReLU(), nn.Conv2d(2, 2, 1, bias=False))),
            norm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.AvgPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(2, 2),
        ),
        (1, 3, 3), training=True, homogeneous=False,
    ),
    "batch-norm": Member(
        lambda: nn.Sequential(
            nn.Linear(3, 4, bias=False), norm1d(4), nn.ReLU(), nn.Linear(4, 3), norm1d(3), nn.LeakyReLU(0.1),
            nn.Linear(3, 2),
        ),
        (3,), training=True, homogeneous=False,
    ),
    "batch-norm 2-D": Member(
        lambda: nn.Sequential(
            nn.Conv2d(1, 3, 2, bias=False), norm2d(3), nn.ReLU(), nn.MaxPool2d(2, 1), nn.Conv2d(3, 2, 2), norm2d(2),
            nn.ReLU(), nn.Flatten(), nn.Linear(2, 2),
        ),
        (1, 4, 4), training=True, homogeneous=False,
    ),
    "batch-norm without running statistics": Member(
        lambda: nn.Sequential(
            nn.Linear(3, 4), norm1d(4, track_running_stats=False), nn.ReLU(), nn.Linear(4, 2)
        ),
        (3,), homogeneous=False,
    ),
    "batch-norm without factors": Member(
        lambda: nn.Sequential(
            nn.Linear(3, 4), norm1d(4, affine=False), nn.ReLU(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)
        ),
        (3,), training=True, homogeneous=False,
    ),
    "batch-norm, frozen statistics": Member(
        lambda: settled(
            nn.Sequential(
                nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2)
            )
        ),
        (3,), homogeneous=False,
    ),
    "batch-norm behind batch-norm": Member(
        lambda: nn.Sequential(norm1d(3), nn.Linear(3, 4), norm1d(4), norm1d(4), nn.ReLU(), nn.Linear(4, 2), norm1d(2)),
        (3,), training=True, homogeneous=False,
    ),
    "residual, batch-norm": Member(
        lambda: nn.Sequential(
            nn.Conv2d(1, 2, 2, bias=False), norm2d(2), nn.ReLU(),
            Residual(
                nn.Sequential(
                    nn.Conv2d(2, 3, 1, bias=False), norm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 1, bias=False), norm2d(2)
                ),
                activation=nn.ReLU(),
            ),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2),
        ),
        (1, 3, 3), training=True, homogeneous=False,
    ),
    "pre-activation": Member(
        lambda: nn.Sequential(
            nn.Conv2d(1, 2, 2),
            Residual(
                nn.Sequential(
                    norm2d(2), nn.ReLU(), nn.Conv2d(2, 2, 1, bias=False), norm2d(2), nn.ReLU(), nn.Conv2d(2, 2, 1)
                )
            ),
            norm2d(2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2),
        ),
        (1, 3, 3), training=True, homogeneous=False,
    ),
    "depthwise separable": Member(
        lambda: nn.Sequential(
            nn.Conv2d(1, 3, 2), nn.ReLU(), nn.Conv2d(3, 3, 2, groups=3), nn.ReLU(), nn.Conv2d(3, 2, 1), nn.ReLU(),
            nn.Flatten(), nn.Linear(8, 2),
        ),
        (1, 4, 4),
    ),
    "inverted residual": Member(lambda: inverted(bn=False), (1, 3, 3)),
    "inverted residual, batch-norm": Member(lambda: inverted(bn=True), (1, 3, 3), training=True, homogeneous=False),
    "transposed conv": Member(
        lambda: nn.Sequential(
            nn.ConvTranspose2d(2, 4, 2, groups=2), nn.ReLU(), nn.ConvTranspose2d(4, 2, 1, bias=False), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2),
        ),
        (2, 2, 2),
    ),
    "autoencoder": Member(
        lambda: nn.Sequential(
            nn.Conv1d(1, 2, 2, stride=2), nn.ReLU(), nn.Conv1d(2, 1, 1), nn.ReLU(),
            nn.ConvTranspose1d(1, 2, 2, stride=2), nn.ReLU(), nn.ConvTranspose1d(2, 1, 1),
        ),
        (1, 4),
    ),
    "conv 3-D": Member(
        lambda: nn.Sequential(
            nn.Conv3d(1, 2, 2), nn.ReLU(), nn.MaxPool3d(2, 1), nn.Conv3d(2, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool3d(1),
            nn.Flatten(), nn.Linear(2, 2),
        ),
        (1, 3, 3, 3),
    ),
    "tied weights": Member(Tied, (3,)),
    "one weight in two modules": Member(OneWeight, (2,)),
    "frozen layer": Member(lambda: frozen(dense(3, 4, 3, 4, 2), "2.weight", "2.bias"), (3,)),
    "frozen bias": Member(lambda: frozen(dense(2, 4, 3, 2), "0.bias"), (2,)),
    "LayerNorm and a ReLU-MLP block": Member(lambda: Transformer(attention=False), (2, 2), homogeneous=False),
    "attention and a ReLU-MLP block": Member(lambda: Transformer(attention=True), (2, 2), homogeneous=False),
    "ReLU6 and Hardtanh between": Member(
        lambda: nn.Sequential(
            nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2), nn.ReLU6(), nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2),
            nn.Hardtanh(), nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1),
        ),
        (2,),
        homogeneous=False,
    ),
    "linear bottleneck": Member(
        lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2), nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2)),
        (3,),
    ),
    "tokens, permuted": Member(Tokens, (3, 2)),
    "parameters of its own, gated": Member(Product, (3,), homogeneous=False),
}  # fmt: skip
"""Every architecture: those above, and streams, concatenations, norms, tied and frozen weights, pinned units."""
