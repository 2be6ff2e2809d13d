"""One rule per operation: how the units of its inputs become the units of its value.

A value is described by its *labels*, an int64 tensor of the value's own shape that holds the number of the unit each
element belongs to. Whatever moves elements about (reshape, flatten, permute …) is then applied to the labels as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from eclab.network.graph import Op, Ref, resolve


class Tracer(Protocol):
    """What a rule may ask of the trace."""

    def labels(self, ref: Any) -> Tensor:
        """Labels of an argument."""

    def parameter(self, ref: Any) -> str | None:
        """Name of the parameter an argument is, or None."""

    def merge(self, one: Tensor, other: Tensor) -> None:
        """Element by element, these are the same unit."""

    def pin(self, units: Tensor, reason: str) -> None:
        """These units cannot scale."""

    def add_layer(
        self, op: Op, kind: str, weight: Any, bias: Any, tails: Tensor, axes: tuple[int, int], groups: int = 1
    ) -> Tensor:
        """New units behind a weight; returns their numbers ``[width]``. ``axes``: the weight's (head, tail) axis."""

    def activate(self, op: Op, name: str, *, gate: bool) -> None:
        """The value went through an activation; ``gate`` where that can switch a unit off."""


Labelling = Callable[[Tracer, Op], Tensor]


@dataclass(frozen=True)
class Rule:
    """How one operation treats scales.

    Attributes:
        names: the operations it is for, ``"aten.relu"``.
        label: labels of the value from those of the inputs.
        words: what it is called in the table of supported operations.
        homogeneous: whether ``f(c·x) = c·f(x)`` for every ``c > 0``; the units are pinned where it is not.
    """

    names: tuple[str, ...]
    label: Labelling
    words: str
    homogeneous: bool = True


def per_axis(tracer: Tracer, labels: Tensor, axis: int) -> Tensor:
    """The units along ``axis``; elements that differ only in other places become one unit."""
    rows = labels.movedim(axis, 0).flatten(1)
    first = rows[:, :1]
    differs = rows != first
    if bool(differs.any()):
        tracer.merge(first.expand_as(rows)[differs], rows[differs])
    return first[:, 0]


def _linear(tracer: Tracer, op: Op) -> Tensor:
    value, weight, bias = (*op.args, None)[:3]
    tails = per_axis(tracer, tracer.labels(value), -1)
    units = tracer.add_layer(op, "linear", weight, bias, tails[None, :], (0, 1))
    return units.expand(op.shape)


def _conv(tracer: Tracer, op: Op) -> Tensor:
    value, weight, bias, _stride, _padding, _dilation, groups = _conv_arguments(op)
    labels = tracer.labels(value)
    spatial = len(op.shape) - 2
    channels = per_axis(tracer, labels, 1).reshape(groups, -1)
    if groups == 1:
        tails = channels.reshape(1, -1, *[1] * spatial)
    else:
        tails = channels.repeat_interleave(op.shape[1] // groups, 0).reshape(op.shape[1], -1, *[1] * spatial)
    units = tracer.add_layer(op, "conv", weight, bias, tails, (0, 1), groups)
    return units.reshape(1, -1, *[1] * spatial).expand(op.shape)


def _conv_arguments(op: Op) -> tuple[Any, ...]:
    defaults = (None, None, None, (1,), (0,), (1,), 1)
    given = op.args + defaults[len(op.args) :]
    named = dict(op.kwargs)
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    return tuple(named.get(name, value) for name, value in zip(names, given, strict=True))


def _pool(tracer: Tracer, op: Op) -> Tensor:
    labels = tracer.labels(op.args[0])
    spatial = labels.ndim - 2
    channels = per_axis(tracer, labels, 1)
    return channels.reshape(1, -1, *[1] * spatial).expand(op.shape)


def _keep(tracer: Tracer, op: Op) -> Tensor:
    return tracer.labels(op.args[0])


def _activation(name: str, *, gate: bool) -> Labelling:
    def label(tracer: Tracer, op: Op) -> Tensor:
        tracer.activate(op, name, gate=gate)
        return tracer.labels(op.args[0])

    return label


def _bent(name: str) -> Labelling:
    def label(tracer: Tracer, op: Op) -> Tensor:
        labels = tracer.labels(op.args[0])
        tracer.activate(op, name, gate=False)
        where = f" at '{op.module}'" if op.module else ""
        tracer.pin(labels, f"{name}{where} is not positively homogeneous: {name}(c·z) ≠ c·{name}(z)")
        return labels

    return label


def _move(tracer: Tracer, op: Op) -> Tensor:
    # The labels are views with stride 0, which `view` refuses where `reshape` does the same thing.
    target = op.target.replace("aten.view.", "aten.reshape.").replace("aten._unsafe_view.", "aten.reshape.")
    args = [tracer.labels(arg) if isinstance(arg, Ref) else arg for arg in op.args]
    moved: Tensor = resolve(target)(*args, **dict(op.kwargs))
    return moved


_MOVES = (
    "view", "_unsafe_view", "reshape", "flatten", "unflatten", "permute", "transpose", "t", "squeeze", "unsqueeze",
    "expand", "slice", "select", "movedim", "swapaxes",
)  # fmt: skip
_BENT = (
    "sigmoid", "tanh", "gelu", "silu", "elu", "selu", "celu", "softplus", "hardtanh", "hardswish", "hardsigmoid",
    "mish", "log_sigmoid", "softsign", "exp", "sin", "cos", "relu6",
)  # fmt: skip

RULES: tuple[Rule, ...] = (
    Rule(("aten.linear",), _linear, "Linear"),
    Rule(("aten.conv1d", "aten.conv2d", "aten.conv3d"), _conv, "Conv1d, Conv2d, Conv3d (any kernel, stride, groups)"),
    Rule(("aten.relu",), _activation("relu", gate=True), "ReLU"),
    Rule(("aten.leaky_relu",), _activation("leaky_relu", gate=False), "LeakyReLU"),
    Rule(("aten.prelu",), _activation("prelu", gate=False), "PReLU (its slopes take the base step)"),
    Rule(tuple(f"aten.max_pool{n}d" for n in (1, 2, 3)), _pool, "MaxPool"),
    Rule(tuple(f"aten.avg_pool{n}d" for n in (1, 2, 3)), _pool, "AvgPool"),
    Rule(tuple(f"aten.adaptive_avg_pool{n}d" for n in (1, 2, 3)), _pool, "AdaptiveAvgPool"),
    Rule(("aten.dropout", "aten.feature_dropout"), _keep, "Dropout"),
    Rule(("aten.contiguous", "aten.clone", "aten.alias", "aten.detach", "aten.to"), _keep, "Identity"),
    Rule(tuple(f"aten.{name}" for name in _MOVES), _move, "Flatten, reshape, permute, slices"),
    *(Rule((f"aten.{name}",), _bent(name), name, homogeneous=False) for name in _BENT),
)

BY_NAME: dict[str, Rule] = {name: rule for rule in RULES for name in rule.names}


def supported() -> list[tuple[str, str]]:
    """The table of operations: ``(what it is, "scales freely" or "pins its units")``.

    Example:
        >>> ("ReLU", "scales freely") in supported()
        True
    """
    return [(rule.words, "scales freely" if rule.homogeneous else "pins its units") for rule in RULES]


def unit_numbers(first: int, count: int) -> Tensor:
    """``first, first + 1, …`` as int64."""
    return torch.arange(first, first + count, dtype=torch.int64)
