"""From the layers of a specification to torch modules."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from eclab.network.spec_layers import AdaptiveAvgPool, AvgPool, Conv2d, Dropout, Layer, Linear, MaxPool, Shape

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "identity": nn.Identity,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}


def layer_module(layer: Layer, before: Shape, generator: torch.Generator) -> nn.Module:
    """The torch module of a layer behind a sample of shape `before`, its weights drawn from `generator`.

    The draws are those of `reset_parameters` of torch's own layers, which take no generator.
    """
    module = _module(layer, before)
    if isinstance(module, (nn.Linear, nn.Conv2d)):
        module.to_empty(device="cpu")
        nn.init.kaiming_uniform_(module.weight, a=math.sqrt(5), generator=generator)
        if module.bias is not None:
            bound = 1 / math.sqrt(module.weight[0].numel())
            nn.init.uniform_(module.bias, -bound, bound, generator=generator)
    return module


def activation_module(name: str, units: int) -> nn.Module:
    """The activation behind a layer of `units` neurons or channels."""
    if name in ("prelu", "prelu-channel"):
        return nn.PReLU(units if name == "prelu-channel" else 1, device="cpu", dtype=torch.float32)
    return _ACTIVATIONS[name]()


def _module(layer: Layer, before: Shape) -> nn.Module:
    # On the meta device torch's own initialisation draws nothing.
    meta, dtype = torch.device("meta"), torch.float32
    match layer:
        case Linear():
            return nn.Linear(before[0], layer.width, layer.bias, meta, dtype)
        case Conv2d(channels, kernel, stride, padding, bias):
            return nn.Conv2d(before[0], channels, kernel, stride, padding, bias=bias, device=meta, dtype=dtype)
        case MaxPool():
            return nn.MaxPool2d(layer.size)
        case AvgPool():
            return nn.AvgPool2d(layer.size)
        case AdaptiveAvgPool():
            return nn.AdaptiveAvgPool2d(layer.size)
        case Dropout():
            return nn.Dropout(layer.p)
        case _:
            return nn.Flatten()
