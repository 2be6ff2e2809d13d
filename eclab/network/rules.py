"""One rule per operation: how the units of its inputs become the units of its value.

A value is described by its *labels*, an int64 tensor of the value's own shape that holds the number of the unit each
element belongs to. Whatever moves elements about (reshape, flatten, cat …) is then applied to the labels as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from eclab.network.graph import Op, Ref, resolve
from eclab.network.labels import compact, per_axis, place_along


class Tracer(Protocol):
    """What a rule may ask of the trace."""

    def labels(self, ref: Any) -> Tensor | None:
        """Labels of an argument; None for one that carries no unit (a number, a parameter, a buffer)."""

    def parameter(self, ref: Any) -> str | None:
        """Name of the parameter an argument is, or None."""

    def shape(self, ref: Any) -> tuple[int, ...]:
        """Shape of an argument's value."""

    def new_units(self, count: int, op: Op) -> Tensor:
        """Numbers of ``count`` new units, int64 ``[count]``."""

    def merge(self, one: Tensor, other: Tensor) -> None:
        """Element by element, these are the same unit."""

    def link(self, tails: Tensor, heads: Tensor) -> None:
        """Element by element an edge of weight 1, whose two ends so share one scale."""

    def edges(self, name: str, kind: str, heads: Tensor, tails: Tensor, axes: tuple[int, int] = (0, 1)) -> None:
        """The weights of a parameter, ends broadcasting to its shape."""

    def layer(self, op: Op, kind: str, weight: str, bias: str | None, units: Tensor) -> None:
        """These units are a layer, drawn and named as one."""

    def normed(self, units: Tensor) -> None:
        """These units go into a normalisation that takes their scale away."""

    def pin(self, units: Tensor, reason: str) -> None:
        """These units cannot scale."""

    def activate(self, op: Op, name: str, *, gate: bool) -> None:
        """The value went through an activation; ``gate`` where that can switch a unit off."""


class NoRuleError(Exception):
    """Raised by a rule for a form of its operation that it does not know; the units are then pinned.

    Its text, if it has one, becomes the reason.
    """


Labelling = Callable[[Tracer, Op], Tensor]


@dataclass(frozen=True)
class Rule:
    """How one operation treats scales.

    Attributes:
        names: the operations it is for, ``"aten.relu"``.
        label: labels of the value from those of the inputs.
        words: what it is called in the table of supported operations.
        homogeneous: whether ``f(c·x) = c·f(x)`` for every ``c > 0``; the units are pinned where it is not.
        note: what a reader of the table should know.
    """

    names: tuple[str, ...]
    label: Labelling
    words: str
    homogeneous: bool = True
    note: str = ""


def carried(tracer: Tracer, ref: Any) -> Tensor:
    """Labels of an argument that must carry units."""
    labels = tracer.labels(ref)
    if labels is None:
        raise NoRuleError
    return labels


def arguments(op: Op, **defaults: Any) -> tuple[Any, ...]:
    """An operation's arguments by position or name, with their defaults."""
    named = dict(op.kwargs)
    return tuple(
        op.args[place] if place < len(op.args) else named.get(name, default)
        for place, (name, default) in enumerate(defaults.items())
    )


def at(op: Op) -> str:
    """``" at 'features.3'"``: where an operation stands, for messages."""
    return f" at '{op.module}'" if op.module else ""


def weighted(tracer: Tracer, op: Op, kind: str, weight: Any, bias: Any, tails: Tensor, axes: tuple[int, int]) -> Tensor:
    """New units behind a weight; ``axes`` are the weight's (head, tail) axes and ``tails`` broadcast to its shape."""
    name, bias_name = tracer.parameter(weight), tracer.parameter(bias)
    if name is None:
        raise NoRuleError(f"the weight{at(op)} is computed, not a parameter")
    shape = tracer.shape(weight)
    units = tracer.new_units(op.shape[1] if kind == "transposed" else shape[axes[0]], op)
    tracer.edges(name, kind, _heads(units, shape, axes[0]), tails, axes)
    if bias_name is not None:
        tracer.edges(bias_name, "bias", units, torch.zeros(1, dtype=torch.int64))
    elif isinstance(bias, Ref):
        tracer.pin(units, f"its bias{at(op)} is computed, not a parameter")
    tracer.layer(op, kind, name, bias_name, units)
    return units


def _heads(units: Tensor, shape: tuple[int, ...], axis: int) -> Tensor:
    if len(units) == shape[axis]:
        return place_along(units, axis, len(shape))
    # A grouped transposed convolution: the outputs of one group stand along `axis`, the groups along the other one.
    groups = len(units) // shape[axis]
    rows = units.reshape(groups, shape[axis]).repeat_interleave(shape[1 - axis] // groups, 0)
    return rows.reshape(*rows.shape, *[1] * (len(shape) - 2))


def _linear(tracer: Tracer, op: Op) -> Tensor:
    value, weight, bias = arguments(op, input=None, weight=None, bias=None)
    tails = per_axis(tracer.merge, carried(tracer, value), -1)
    return weighted(tracer, op, "linear", weight, bias, tails[None, :], (0, 1)).expand(op.shape)


def _matmul(tracer: Tracer, op: Op) -> Tensor:
    value, weight = op.args[:2]
    if tracer.parameter(weight) is None or len(tracer.shape(weight)) != 2:
        raise NoRuleError
    tails = per_axis(tracer.merge, carried(tracer, value), -1)
    return weighted(tracer, op, "linear", weight, None, tails[:, None], (1, 0)).expand(op.shape)


def _conv(tracer: Tracer, op: Op) -> Tensor:
    names = {"input": None, "weight": None, "bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1}
    value, weight, bias, *_, groups = arguments(op, **names)
    channels = per_axis(tracer.merge, carried(tracer, value), 1).reshape(groups, -1)
    if groups > 1:
        channels = channels.repeat_interleave(op.shape[1] // groups, 0)
    tails = channels.reshape(*channels.shape, *[1] * (len(op.shape) - 2))
    units = weighted(tracer, op, "conv", weight, bias, tails, (0, 1))
    return place_along(units, 1, len(op.shape)).expand(op.shape)


def _conv_transpose(tracer: Tracer, op: Op) -> Tensor:
    names = {"input": None, "weight": None, "bias": None}
    value, weight, bias = arguments(op, **names)
    channels = per_axis(tracer.merge, carried(tracer, value), 1)
    tails = place_along(channels, 0, len(op.shape))
    units = weighted(tracer, op, "transposed", weight, bias, tails, (1, 0))
    return place_along(units, 1, len(op.shape)).expand(op.shape)


def _batch_norm(tracer: Tracer, op: Op) -> Tensor:
    value, weight, bias, _mean, _var, training = op.args[:6]
    channels = per_axis(tracer.merge, carried(tracer, value), 1)
    gamma, beta = tracer.parameter(weight), tracer.parameter(bias)
    units = tracer.new_units(len(channels), op)
    if training:
        tracer.normed(channels)
        source = torch.zeros(1, dtype=torch.int64)
        if gamma is None:
            tracer.pin(units, f"batch-norm{at(op)} without a factor fixes its scale")
        else:
            tracer.edges(gamma, "scale", units, source)
    else:
        tracer.pin(channels, f"batch-norm{at(op)} with frozen statistics subtracts a fixed mean")
        if gamma is None:
            tracer.pin(units, f"batch-norm{at(op)} without a factor fixes its scale")
            tracer.link(channels, units)
        else:
            tracer.edges(gamma, "scale", units, channels)
    if beta is not None:
        tracer.edges(beta, "bias", units, torch.zeros(1, dtype=torch.int64))
    if gamma is not None:
        tracer.layer(op, "norm", gamma, beta, units)
    return place_along(units, 1, len(op.shape)).expand(op.shape)


def _add(tracer: Tracer, op: Op) -> Tensor:
    one, two = op.args[:2]
    labels = [tracer.labels(arg) for arg in (one, two)]
    if labels[0] is not None and labels[1] is not None:
        return _sum(tracer, op, labels[0], labels[1])
    value, other = (labels[0], two) if labels[0] is not None else (labels[1], one)
    if value is None or tracer.parameter(other) is None:
        raise NoRuleError
    return _add_parameter(tracer, op, value, other)


def _sum(tracer: Tracer, op: Op, one: Tensor, two: Tensor) -> Tensor:
    """Each pair of summands becomes a new unit, and all three share one scale."""
    one, two = compact(one.expand(op.shape), two.expand(op.shape))
    count = int(two.max()) + 1
    distinct, place = torch.unique(one * count + two, return_inverse=True)
    units = tracer.new_units(len(distinct), op)
    tracer.link(distinct // count, units)
    tracer.link(distinct % count, units)
    return units[place].expand(op.shape)


def _add_parameter(tracer: Tracer, op: Op, value: Tensor, parameter: Any) -> Tensor:
    """A learned offset: a bias of every unit it is added to."""
    shape, name = tracer.shape(parameter), tracer.parameter(parameter)
    labels = value.expand(op.shape)
    if name is None or len(shape) > len(op.shape):
        raise NoRuleError
    for axis, size in enumerate((1,) * (len(op.shape) - len(shape)) + shape):
        if size == 1:
            first = labels.narrow(axis, 0, 1)
            differs = labels != first
            tracer.merge(first.expand_as(labels)[differs], labels[differs])
            labels = first
    tracer.edges(name, "bias", labels.reshape(shape), torch.zeros((), dtype=torch.int64))
    return value.expand(op.shape)


def _times(tracer: Tracer, op: Op) -> Tensor:
    """A fixed factor scales with its unit; a factor that is not a plain number has no rule."""
    one, two = op.args[:2]
    numbers = [arg for arg in (one, two) if isinstance(arg, int | float)]
    if len(numbers) != 1 or (op.name == "aten.div" and isinstance(one, int | float)):
        raise NoRuleError
    return carried(tracer, one if isinstance(two, int | float) else two)


def _pool(tracer: Tracer, op: Op) -> Tensor:
    labels = carried(tracer, op.args[0])
    channels = per_axis(tracer.merge, labels, 1)
    return place_along(channels, 1, len(op.shape)).expand(op.shape)


def _mean(tracer: Tracer, op: Op) -> Tensor:
    value, axes, keep = arguments(op, input=None, dim=None, keepdim=False)
    labels = carried(tracer, value)
    if axes is None or 0 in [axis % labels.ndim for axis in axes]:
        raise NoRuleError
    for axis in sorted((axis % labels.ndim for axis in axes), reverse=True):
        first = labels.narrow(axis, 0, 1)
        if bool((labels != first).any()):
            raise NoRuleError
        labels = first if keep else first.squeeze(axis)
    return labels.expand(op.shape)


def _keep(tracer: Tracer, op: Op) -> Tensor:
    return carried(tracer, op.args[0])


def _activation(name: str, *, gate: bool) -> Labelling:
    def label(tracer: Tracer, op: Op) -> Tensor:
        tracer.activate(op, name, gate=gate)
        return carried(tracer, op.args[0])

    return label


def _bent(name: str) -> Labelling:
    def label(tracer: Tracer, op: Op) -> Tensor:
        labels = carried(tracer, op.args[0])
        tracer.activate(op, name, gate=False)
        tracer.pin(labels, f"{name}{at(op)} is not positively homogeneous: {name}(c·z) ≠ c·{name}(z)")
        return labels

    return label


def _move(tracer: Tracer, op: Op) -> Tensor:
    # The labels are views with stride 0, which `view` refuses where `reshape` does the same thing.
    target = op.target.replace("aten.view.", "aten.reshape.").replace("aten._unsafe_view.", "aten.reshape.")

    def moved(arg: Any) -> Any:
        if isinstance(arg, Ref):
            return carried(tracer, arg)
        return [moved(item) for item in arg] if isinstance(arg, tuple) else arg

    found: Tensor = resolve(target)(*(moved(arg) for arg in op.args), **dict(op.kwargs))
    return found


MOVES = (
    "view", "_unsafe_view", "reshape", "flatten", "unflatten", "permute", "transpose", "t", "squeeze", "unsqueeze",
    "expand", "slice", "select", "movedim", "swapaxes", "cat", "concat", "stack", "narrow",
)  # fmt: skip
_BENT = (
    "sigmoid", "tanh", "gelu", "silu", "elu", "selu", "celu", "softplus", "hardtanh", "hardswish", "hardsigmoid",
    "mish", "log_sigmoid", "softsign", "exp", "sin", "cos", "relu6",
)  # fmt: skip


def _aten(*names: str) -> tuple[str, ...]:
    return tuple(f"aten.{name}" for name in names)


RULES: tuple[Rule, ...] = (
    Rule(_aten("linear"), _linear, "Linear"),
    Rule(_aten("matmul", "mm"), _matmul, "x @ W", note="W a parameter with two axes"),
    Rule(_aten("conv1d", "conv2d", "conv3d"), _conv, "Conv1d, Conv2d, Conv3d", note="any kernel, stride, groups"),
    Rule(
        _aten("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
        _conv_transpose,
        "ConvTranspose1d, 2d, 3d",
        note="any groups",
    ),
    Rule(
        _aten("batch_norm"),
        _batch_norm,
        "BatchNorm1d, 2d, 3d",
        note="training statistics: two redundancies a channel, exact up to eps; frozen statistics pin what enters",
    ),
    Rule(_aten("relu"), _activation("relu", gate=True), "ReLU"),
    Rule(_aten("leaky_relu"), _activation("leaky_relu", gate=False), "LeakyReLU"),
    Rule(_aten("prelu"), _activation("prelu", gate=False), "PReLU", note="its slopes take the base step"),
    Rule(_aten(*(f"max_pool{n}d" for n in (1, 2, 3))), _pool, "MaxPool"),
    Rule(_aten(*(f"avg_pool{n}d" for n in (1, 2, 3))), _pool, "AvgPool"),
    Rule(_aten(*(f"adaptive_avg_pool{n}d" for n in (1, 2, 3))), _pool, "AdaptiveAvgPool"),
    Rule(_aten("mean", "sum"), _mean, "mean, sum", note="over positions, not over units"),
    Rule(_aten("add", "sub"), _add, "addition", note="its operands share one scale a channel"),
    Rule(_aten("mul", "div"), _times, "times a number"),
    Rule(_aten("neg"), _keep, "minus"),
    Rule(_aten("dropout", "feature_dropout"), _keep, "Dropout"),
    Rule(_aten("contiguous", "clone", "alias", "detach", "to"), _keep, "Identity"),
    Rule(_aten(*MOVES), _move, "Flatten, reshape, permute, slices, concatenation"),
    *(Rule(_aten(name), _bent(name), name, homogeneous=False) for name in _BENT),
)

BY_NAME: dict[str, Rule] = {name: rule for rule in RULES for name in rule.names}


def supported() -> list[tuple[str, str, str]]:
    """The table of operations: ``(what it is, "scales freely" or "pins its units", note)``.

    Example:
        >>> ("ReLU", "scales freely", "") in supported()
        True
    """
    return [(rule.words, "scales freely" if rule.homogeneous else "pins its units", rule.note) for rule in RULES]
