"""The networks that everyone knows, at their ImageNet sizes, each in a few lines: ResNet, DenseNet, VGG, MobileNetV2.

They follow the papers' tables and carry as many weights as the well-known implementations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


def conv_norm(i: int, o: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution without bias that keeps the grid, and its batch-norm."""
    return nn.Sequential(nn.Conv2d(i, o, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(o))


class Residual(nn.Module):
    """``relu(branch(x) + skip(x))``; the skip is learned where the shape changes."""

    def __init__(self, branch: nn.Module, skip: nn.Module) -> None:
        super().__init__()
        self.branch, self.skip = branch, skip

    def forward(self, x: Tensor) -> Tensor:
        """The sum of both."""
        value: Tensor = functional.relu(self.branch(x) + self.skip(x))
        return value


def basic_block(i: int, width: int, stride: int) -> tuple[nn.Module, int]:
    """Two 3×3 convolutions, as in ResNet-18."""
    branch = nn.Sequential(conv_norm(i, width, 3, stride), nn.ReLU(inplace=True), conv_norm(width, width))
    skip = nn.Identity() if stride == 1 and i == width else conv_norm(i, width, 1, stride)
    return Residual(branch, skip), width


def bottleneck(i: int, width: int, stride: int) -> tuple[nn.Module, int]:
    """1×1, 3×3 and 1×1 convolutions, as in ResNet-50."""
    o = 4 * width
    branch = nn.Sequential(
        conv_norm(i, width, 1), nn.ReLU(inplace=True),
        conv_norm(width, width, 3, stride), nn.ReLU(inplace=True),
        conv_norm(width, o, 1),
    )  # fmt: skip
    skip = nn.Identity() if stride == 1 and i == o else conv_norm(i, o, 1, stride)
    return Residual(branch, skip), o


Block = Callable[[int, int, int], tuple[nn.Module, int]]


def resnet(block: Block, depths: Sequence[int], classes: int = 1000, width: int = 64) -> nn.Sequential:
    """He et al. 2016, table 1."""
    layers: list[nn.Module] = [*conv_norm(3, width, 7, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    channels = width
    for stage, depth in enumerate(depths):
        for place in range(depth):
            made, channels = block(channels, width * 2**stage, 2 if stage and not place else 1)
            layers.append(made)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


class DenseLayer(nn.Module):
    """Batch-norm, ReLU, 1×1, batch-norm, ReLU, 3×3; what comes in stands before what comes out."""

    def __init__(self, i: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(i), nn.Conv2d(i, 4 * growth, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(4 * growth), nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """The features so far and the new ones."""
        new = self.conv1(functional.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(functional.relu(self.norm2(new)))], 1)


def densenet(depths: Sequence[int], growth: int = 32, classes: int = 1000) -> nn.Sequential:
    """Huang et al. 2017, table 1."""
    channels = 2 * growth
    layers: list[nn.Module] = [*conv_norm(3, channels, 7, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    for stage, depth in enumerate(depths):
        for _ in range(depth):
            layers.append(DenseLayer(channels, growth))
            channels += growth
        layers += [nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
        if stage < len(depths) - 1:
            layers += [nn.Conv2d(channels, channels // 2, 1, bias=False), nn.AvgPool2d(2)]
            channels //= 2
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def vgg16(classes: int = 1000, width: int = 64, hidden: int = 4096) -> nn.Sequential:
    """Simonyan and Zisserman 2015, table 1, column D."""
    layers: list[nn.Module] = []
    channels = 3
    for size, depth in ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3)):
        for _ in range(depth):
            layers += [nn.Conv2d(channels, width * size, 3, padding=1), nn.ReLU(inplace=True)]
            channels = width * size
        layers.append(nn.MaxPool2d(2))
    layers += [nn.AdaptiveAvgPool2d(7), nn.Flatten(), nn.Linear(49 * channels, hidden), nn.ReLU(inplace=True)]
    layers += [nn.Dropout(), nn.Linear(hidden, hidden), nn.ReLU(inplace=True), nn.Dropout()]
    return nn.Sequential(*layers, nn.Linear(hidden, classes))


class Inverted(nn.Module):
    """Widen, filter each channel, narrow without an activation; added to what came in where the shape allows."""

    def __init__(self, i: int, o: int, stride: int, expand: int, clip: type[nn.Module]) -> None:
        super().__init__()
        hidden = i * expand
        widen = [*conv_norm(i, hidden, 1), clip()] if expand > 1 else []
        self.branch = nn.Sequential(
            *widen, *conv_norm(hidden, hidden, 3, stride, hidden), clip(), *conv_norm(hidden, o, 1)
        )
        self.adds = stride == 1 and i == o

    def forward(self, x: Tensor) -> Tensor:
        """The branch, and the skip around it."""
        value: Tensor = self.branch(x)
        return x + value if self.adds else value


def mobilenet_v2(classes: int = 1000, clip: type[nn.Module] = nn.ReLU6) -> nn.Sequential:
    """Sandler et al. 2018, table 2."""
    table = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    layers: list[nn.Module] = [*conv_norm(3, 32, 3, 2), clip()]
    channels = 32
    for expand, o, depth, stride in table:
        for place in range(depth):
            layers.append(Inverted(channels, o, stride if place == 0 else 1, expand, clip))
            channels = o
    layers += [*conv_norm(channels, 1280, 1), clip(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2)]
    return nn.Sequential(*layers, nn.Linear(1280, classes))


@dataclass(frozen=True)
class Architecture:
    """A network, and what is known of it.

    Attributes:
        build: makes it.
        num_weights: of the well-known implementation, in all.
    """

    build: Callable[[], nn.Module]
    num_weights: int


ARCHITECTURES: dict[str, Architecture] = {
    "ResNet-18": Architecture(lambda: resnet(basic_block, (2, 2, 2, 2)), 11_689_512),
    "ResNet-50": Architecture(lambda: resnet(bottleneck, (3, 4, 6, 3)), 25_557_032),
    "DenseNet-121": Architecture(lambda: densenet((6, 12, 24, 16)), 7_978_856),
    "VGG-16": Architecture(vgg16, 138_357_544),
    "MobileNetV2": Architecture(mobilenet_v2, 3_504_872),
    "MobileNetV2, ReLU": Architecture(lambda: mobilenet_v2(clip=nn.ReLU), 3_504_872),
}
