"""κ through operations that the zoo has few of: it scales as it must under rescaling, whatever is on the way."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import eclab
from eclab.classes.group import numbered
from eclab.paths.kappa import kappa

F64 = torch.float64


class Around(nn.Module):
    """A convolution, something, and a convolution."""

    def __init__(self, between: Callable[[Tensor], Tensor], width: int = 4) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(width, 2, 1)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        """Conv, between, conv, mean over positions."""
        value: Tensor = self.last(self.between(self.first(x))).mean((2, 3))
        return value


class Extra(nn.Module):
    """An addition to a product of two matrices, and a gate from a branch of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.offset = nn.Parameter(torch.randn(3, 5)), nn.Parameter(torch.randn(5))
        self.gate, self.last = nn.Linear(3, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        """addmm, times a sigmoid gate, ReLU, linear."""
        value: Tensor = self.last(torch.relu(torch.addmm(self.offset, x, self.weight) * torch.sigmoid(self.gate(x))))
        return value


def halves(x: Tensor) -> Tensor:
    one, two = x.chunk(2, 1)
    return torch.maximum(one, two)


BETWEEN: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "chunk and maximum": (halves, 2),
    "split, cat": (lambda x: torch.cat(x.split([1, 3], 1)[::-1], 1), 4),
    "amax over positions": (lambda x: torch.relu(x).amax((2, 3), keepdim=True), 4),
    "max with places": (lambda x: x.max(3, keepdim=True)[0], 4),
    "maximum with 0": (lambda x: torch.maximum(x, torch.zeros_like(x)), 4),
    "adaptive max-pool": (lambda x: functional.adaptive_max_pool2d(x, (2, 3)), 4),
    "max-pool with places": (lambda x: functional.max_pool2d(x, 2, return_indices=True)[0], 4),
    "nearest": (lambda x: functional.interpolate(x, scale_factor=2), 4),
    "reflected": (lambda x: functional.pad(x, (1, 1, 1, 1), mode="reflect"), 4),
    "padded with zeros": (lambda x: functional.pad(x, (1, 0, 2, 1)), 4),
    "clamp": (lambda x: x.clamp(min=0), 4),
    "absolute value": (lambda x: x.abs(), 4),
    "masked by itself": (lambda x: x.masked_fill(x < 0, 0.0), 4),
    "where by itself": (lambda x: torch.where(x > 0, x, 0.1 * x), 4),
    "times a number, less": (lambda x: 1.5 * x - x.roll(1, 3), 4),
    "some channels": (lambda x: x[:, torch.tensor([3, 0])], 2),
    "pixel shuffle": (lambda x: functional.pixel_shuffle(x, 2), 1),
}


def agrees(model: nn.Module, x: Tensor) -> None:
    """κ transforms as ``(c_tail/c_head)²``, and Path-SGD's function does not depend on the member."""
    net = eclab.trace(model.double(), x)
    assert net.num_units > 0
    before = kappa(net)
    c = eclab.random_rescale_(net, 1.0, torch.Generator().manual_seed(0))
    after, scale = kappa(net), numbered(net, c)[net.scale_of]
    for weight in net.weights:
        expected = before[weight.name] * (scale[weight.tail] / scale[weight.head]) ** 2
        assert torch.allclose(after[weight.name], expected, rtol=1e-10, atol=0), weight.name
        assert bool((expected > 0).any()), weight.name


@pytest.mark.parametrize("name", BETWEEN)
def test_kappa_scales_through(name: str) -> None:
    torch.manual_seed(0)
    between, width = BETWEEN[name]
    model, x = Around(between, width), torch.randn(3, 2, 6, 6, dtype=F64)
    agrees(model, x)
    net = eclab.trace(model, x)
    try:
        expected = 2 * net.path_norm(2)
    except eclab.ChartError:  # path norms do not know this one
        return
    last = [weight for weight in net.weights if weight.name.startswith("last")]
    total = sum(float((w.parameter.detach().square() * kappa(net)[w.name]).sum()) for w in last)
    assert math.log(total) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "norm",
    [
        lambda: nn.GroupNorm(2, 4),
        lambda: nn.GroupNorm(4, 4, affine=False),
        lambda: nn.InstanceNorm2d(4, affine=True),
        lambda: nn.BatchNorm2d(4),
        lambda: nn.BatchNorm2d(4, affine=False),
    ],
)
def test_kappa_scales_through_norms(norm: Callable[[], nn.Module], training: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1), norm(), nn.ReLU(), nn.Conv2d(4, 3, 1), nn.ReLU(),
        nn.Flatten(), nn.Linear(48, 2),
    )  # fmt: skip
    agrees(model.train(training), torch.randn(3, 2, 6, 6, dtype=F64))


def test_kappa_scales_through_addmm_and_gates() -> None:
    torch.manual_seed(0)
    agrees(Extra(), torch.randn(4, 3, dtype=F64))


def test_operations_without_known_paths_are_refused() -> None:
    model = Around(lambda x: functional.interpolate(x, scale_factor=2, mode="bilinear"))
    net = eclab.trace(model.double(), torch.randn(2, 2, 6, 6, dtype=F64))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(eclab.ChartError, match="upsample_bilinear2d"):
        eclab.PathSGD(net)
    with pytest.raises(eclab.ChartError, match="upsample_bilinear2d"):
        eclab.condition_(net)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
