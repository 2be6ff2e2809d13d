"""The networks that everyone knows, at their real sizes: read fast, in little memory, and stepped through exactly."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import eclab
from tests.architectures import ARCHITECTURES, basic_block, bottleneck, densenet, resnet, vgg16

BENCHMARK = Path(__file__).parent.parent / "benchmarks" / "tracing.py"
F64 = torch.float64

# free scales in training mode: every convolution's channels, and those behind every batch-norm, streams counted once
FREE = {
    "ResNet-18": 7_680,
    "ResNet-50": 38_016,
    "DenseNet-121": 52_064,
    "VGG-16": 12_416,
    "MobileNetV2": 17_768,
    "MobileNetV2, ReLU": 33_320,
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_they_are_read_whole(name: str) -> None:
    architecture = ARCHITECTURES[name]
    with torch.device("meta"):  # reading needs shapes only
        model, x = architecture.build(), torch.zeros(2, 3, 224, 224)
    net = eclab.trace(model, x)
    assert sum(p.numel() for p in model.parameters()) == architecture.num_weights == net.num_weights
    assert net.num_units == FREE[name]
    assert {unit.reason for unit in net.units if unit.reason} <= {"it is an output"} or name == "MobileNetV2"


SMALL: dict[str, Callable[[], nn.Module]] = {
    "ResNet, basic blocks": lambda: resnet(basic_block, (2, 1, 1, 1), 10, 8),
    "ResNet, bottlenecks": lambda: resnet(bottleneck, (2, 1, 1, 1), 10, 4),
    "DenseNet": lambda: densenet((3, 2, 2, 2), 4, 10),
    "VGG-16": lambda: vgg16(10, 4, 16),
}
"""The same plans with fewer channels and blocks, for pictures of 32 pixels."""


def gap(one: Tensor, two: Tensor) -> float:
    return ((one - two).abs().max() / one.abs().max()).item()


@pytest.mark.parametrize("name", SMALL)
def test_one_step_from_two_members_gives_one_function(name: str) -> None:
    torch.manual_seed(0)
    one = SMALL[name]().double()
    for module in one.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-30
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    x, y = torch.randn(8, 3, 32, 32, dtype=F64), torch.randint(10, (8,))
    net = eclab.trace(one, x)
    eclab.start_skeleton_(net)
    two = copy.deepcopy(one)
    eclab.random_rescale_(eclab.trace(two, x), 0.5, torch.Generator().manual_seed(1))
    assert gap(one(x), two(x)) < 1e-7
    assert not torch.allclose(next(one.parameters()), next(two.parameters()))
    start = one(x).detach()
    for model in (one, two):
        optimizer = eclab.ECSGD(eclab.trace(model, x), lr=1e-6)
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    moved = gap(start, one(x))
    assert moved > 0
    assert gap(one(x), two(x)) < 1e-6 + 1e-4 * moved
    v, w = (eclab.trace(model, x).chart().coordinates() for model in (one, two))
    for parameter, value in v.items():
        if not any(edge.parameter == parameter for edge in net.chart().tree):
            torch.testing.assert_close(w[parameter], value, rtol=1e-6, atol=1e-9 * float(value.abs().max()))


def measured(name: str, *flags: str) -> dict[str, float]:
    command = [sys.executable, str(BENCHMARK), "--one", name, *flags]
    row: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return row


def test_reading_and_chart_of_a_hundred_million_weights_take_little_memory() -> None:
    """VGG-16 has 138 million weights, 553 MB of them."""
    assert measured("VGG-16", "--training")["memory"] < 64


@pytest.mark.timing
@pytest.mark.parametrize("name", ["ResNet-18", "ResNet-50", "DenseNet-121", "VGG-16", "MobileNetV2"])
def test_reading_takes_about_two_seconds(name: str) -> None:
    """2 s is the aim on an idle core; the bound leaves room for slower ones."""
    assert measured(name, "--training")["trace"] < 5


@pytest.mark.timing
def test_paths_of_a_large_network_are_found_fast() -> None:
    row = measured("ResNet-50")
    assert row["top"] < 5
    assert row["norm"] < 4  # 3 is the aim, and what an idle core shows
