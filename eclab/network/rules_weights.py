"""Rules of the operations that have weights: new units stand behind them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from eclab.network.frozen import FrozenNorm
from eclab.network.graph import Op, Ref
from eclab.network.labels import compact, per_axis, place_along
from eclab.network.rule import Labels, NoRuleError, Tracer, arguments, at, carried, constant_source


def weighted(
    tracer: Tracer,
    op: Op,
    kind: str,
    weight: Any,
    bias: Any,
    tails: Tensor,
    axes: tuple[int, int],
    *,
    groups: int = 1,
    name: str | None = None,
) -> Tensor:
    """New units behind a weight; ``axes`` are the weight's (head, tail) axes and ``tails`` broadcast to its shape."""
    name = name or tracer.parameter(weight)
    if name is None:
        raise NoRuleError(
            f"the weight{at(op)} is {'a buffer' if tracer.fixed(weight) else 'computed'}, not a parameter"
        )
    bias_name = tracer.parameter(bias)
    shape = tracer.shape(weight)[:: -1 if tracer.transposed(weight) else 1]
    units = tracer.new_units(op.shape[1] if kind == "transposed" else shape[axes[0]], op)
    tracer.edges(name, kind, _heads(units, shape, axes[0]), tails, axes, groups)
    if bias_name is not None:
        tracer.edges(bias_name, "bias", units, constant_source())
    elif isinstance(bias, Ref):
        tracer.pin(units, f"its bias{at(op)} is {'a buffer' if tracer.fixed(bias) else 'computed'}, not a parameter")
    tracer.layer(op, kind, name, bias_name, units)
    return units


def _heads(units: Tensor, shape: tuple[int, ...], axis: int) -> Tensor:
    if len(units) == shape[axis]:
        return place_along(units, axis, len(shape))
    # A grouped transposed convolution: the outputs of one group stand along `axis`, the groups along the other one.
    groups = len(units) // shape[axis]
    rows = units.reshape(groups, shape[axis]).repeat_interleave(shape[1 - axis] // groups, 0)
    return rows.reshape(*rows.shape, *[1] * (len(shape) - 2))


def linear(tracer: Tracer, op: Op) -> Tensor:
    """``x Wᵀ + b``."""
    value, weight, bias = arguments(op, input=None, weight=None, bias=None)
    return _affine(tracer, op, value, weight, bias, 0)


def matmul(tracer: Tracer, op: Op) -> Tensor:
    """``x W``."""
    value, weight = op.args[:2]
    return _affine(tracer, op, value, weight, None, 1)


def addmm(tracer: Tracer, op: Op) -> Tensor:
    """``b + x W``."""
    bias, value, weight = op.args[:3]
    if any(factor != 1 for _, factor in op.kwargs) or (isinstance(bias, Ref) and len(tracer.shape(bias)) != 1):
        raise NoRuleError
    return _affine(tracer, op, value, weight, bias, 1)


def _affine(tracer: Tracer, op: Op, value: Any, weight: Any, bias: Any, head: int) -> Tensor:
    """A matrix times the last axis of a value; ``head`` is the axis of the matrix that runs over new units."""
    turned = tracer.transposed(weight)
    if tracer.labels(weight) is not None:
        raise NoRuleError(
            f"{op.name.removeprefix('aten.')}{at(op)} multiplies two values that both come from the input"
        )
    if len(tracer.shape(weight)) != 2:
        raise NoRuleError
    head = 1 - head if turned else head
    tails = per_axis(tracer.merge, carried(tracer, value), -1)
    place = place_along(tails, 1 - head, 2)
    return weighted(tracer, op, "linear", weight, bias, place, (head, 1 - head), name=turned).expand(op.shape)


def einsum(tracer: Tracer, op: Op) -> Tensor:
    """A matrix that takes one axis of a value to another, as ``einsum("nchw,dc->ndhw", x, W)``."""
    equation, operands = op.args[:2]
    inputs, _, output = equation.replace(" ", "").partition("->")
    terms = inputs.split(",")
    if len(operands) != 2 or not output or "." in equation:
        raise NoRuleError
    which = 0 if tracer.parameter(operands[0]) else 1
    matrix, value = terms[which], terms[1 - which]
    new, summed = set(matrix) - set(value), set(matrix) - set(output)
    kept = set(value) - summed
    if (
        len(matrix) != 2
        or len(new) != 1
        or len(summed) != 1
        or kept | new != set(output)
        or len(set(value)) < len(value)
    ):
        raise NoRuleError
    head, tail = matrix.index(new.pop()), matrix.index(summed.pop())
    tails = per_axis(tracer.merge, carried(tracer, operands[1 - which]), value.index(matrix[tail]))
    units = weighted(tracer, op, "linear", operands[which], None, place_along(tails, tail, 2), (head, tail))
    return place_along(units, output.index(matrix[head]), len(op.shape)).expand(op.shape)


def conv(tracer: Tracer, op: Op) -> Tensor:
    """A convolution with any kernel, stride, padding, dilation and groups."""
    names = {"input": None, "weight": None, "bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1}
    value, weight, bias, *_, groups = arguments(op, **names)
    channels = per_axis(tracer.merge, carried(tracer, value), 1)
    if tracer.parameter(weight) is None and groups == len(channels) == op.shape[1] and tracer.fixed(weight):
        if bias is None:  # a fixed filter for every channel, as a blur
            return place_along(channels, 1, len(op.shape)).expand(op.shape)
        raise NoRuleError
    rows = channels.reshape(groups, -1)
    if groups > 1:
        rows = rows.repeat_interleave(op.shape[1] // groups, 0)
    tails = rows.reshape(*rows.shape, *[1] * (len(op.shape) - 2))
    units = weighted(tracer, op, "conv", weight, bias, tails, (0, 1), groups=groups)
    return place_along(units, 1, len(op.shape)).expand(op.shape)


def conv_transpose(tracer: Tracer, op: Op) -> Tensor:
    """A transposed convolution with any groups."""
    names = {"input": None, "weight": None, "bias": None, "stride": 1, "padding": 0, "output_padding": 0, "groups": 1}
    value, weight, bias, *_, groups = arguments(op, **names)
    channels = per_axis(tracer.merge, carried(tracer, value), 1)
    tails = place_along(channels, 0, len(op.shape))
    units = weighted(tracer, op, "transposed", weight, bias, tails, (1, 0), groups=groups)
    return place_along(units, 1, len(op.shape)).expand(op.shape)


def embedding(tracer: Tracer, op: Op) -> Tensor:
    """A table of vectors: a matrix that leads from the tokens, which are ground, to one unit an axis."""
    weight = op.args[0]
    if tracer.parameter(weight) is None:
        raise NoRuleError(f"the table{at(op)} is computed, not a parameter")
    return weighted(tracer, op, "linear", weight, None, constant_source().reshape(1, 1), (1, 0)).expand(op.shape)


def embedding_bag(tracer: Tracer, op: Op) -> Labels:
    """Sums, means or maxima of rows of a table."""
    names = {"weight": None, "indices": None, "offsets": None, "scale": False, "mode": 0, "sparse": False, "per": None}
    *_, factors = arguments(op, **names)
    if isinstance(factors, Ref):
        raise NoRuleError
    tokens = constant_source().reshape(1, 1)
    units = weighted(tracer, op, "linear", op.args[0], None, tokens, (1, 0)).expand(op.parts[0])
    return (units, *[None] * (len(op.parts) - 1))


def batch_norm(tracer: Tracer, op: Op) -> Labels:
    """Per channel: with statistics of the batch or of every sample, or with frozen ones."""
    value, weight, bias, *_statistics, training = op.args[:6]
    channels = per_axis(tracer.merge, carried(tracer, value), 1)
    shape = op.parts[0]
    units = _normalised(tracer, op, channels, weight, bias) if training else _frozen(tracer, op, channels, weight, bias)
    labels = place_along(units, 1, len(shape)).expand(shape)
    return labels if op.shape else (labels, *[None] * (len(op.parts) - 1))


def group_norm(tracer: Tracer, op: Op) -> Tensor:
    """Statistics of every group of channels: the scale that the group has in common is free."""
    value, groups, weight, bias = arguments(op, input=None, num_groups=1, weight=None, bias=None)
    channels = per_axis(tracer.merge, carried(tracer, value), 1)
    together = channels.reshape(groups, -1)
    tracer.tie(together[:, :1].expand_as(together), together)
    units = _normalised(tracer, op, channels, weight, bias)
    return place_along(units, 1, len(op.shape)).expand(op.shape)


def _normalised(tracer: Tracer, op: Op, channels: Tensor, weight: Any, bias: Any) -> Tensor:
    """Units behind a norm that takes the scale of what comes in away: γ and β lead to them from ground."""
    gamma, beta = tracer.parameter(weight), tracer.parameter(bias)
    units = tracer.new_units(len(channels), op)
    tracer.normed(channels)
    if gamma is None:
        tracer.pin(units, f"the norm{at(op)} has no factor that is a parameter, which fixes its scale")
    else:
        tracer.edges(gamma, "scale", units, constant_source())
    _offset(tracer, op, units, gamma, beta, bias)
    return units


def _frozen(tracer: Tracer, op: Op, channels: Tensor, weight: Any, bias: Any) -> Tensor:
    """An affine map of every channel: γ/σ leads from it, β − γ μ/σ from ground."""
    gamma, beta = tracer.parameter(weight), tracer.parameter(bias)
    units = tracer.new_units(len(channels), op)
    mean, variance = (tracer.buffer(ref) for ref in op.args[3:5])
    movable = beta is not None and tracer.trains_alone(beta)
    if gamma is not None and beta is not None and mean is not None and variance is not None and movable:
        tracer.frozen(FrozenNorm(gamma, beta, mean, variance, float(op.args[7])))
    else:
        tracer.pin(channels, f"batch-norm{at(op)} subtracts a fixed mean, and has no offset that could move along")
    if gamma is None:
        tracer.pin(units, f"the norm{at(op)} has no factor that is a parameter, which fixes its scale")
        tracer.link(channels, units)
    else:
        tracer.edges(gamma, "scale", units, channels)
    _offset(tracer, op, units, gamma, beta, bias)
    return units


def _offset(tracer: Tracer, op: Op, units: Tensor, gamma: str | None, beta: str | None, bias: Any) -> None:
    if beta is not None:
        tracer.edges(beta, "bias", units, constant_source())
    elif isinstance(bias, Ref):
        tracer.pin(units, f"the offset of the norm{at(op)} is no parameter")
    if gamma is not None:
        tracer.layer(op, "norm", gamma, beta, units)


def plus_parameter(tracer: Tracer, op: Op, value: Tensor, parameter: Any) -> Tensor:
    """A learned offset: a bias of every unit it is added to."""
    shape, name = tracer.shape(parameter), tracer.reshaped(parameter)
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


def times_parameter(tracer: Tracer, op: Op, value: Tensor, parameter: Any) -> Tensor:
    """A learned factor: a weight from every unit to a new one where it has one entry a unit.

    A factor that several units share scales none of them: it is no edge, as a PReLU slope is none.
    """
    shape, name = tracer.shape(parameter), tracer.reshaped(parameter)
    labels = value.expand(op.shape)
    full = (1,) * (len(op.shape) - len(shape)) + shape
    (short,) = compact(labels)
    own = all(mine == 1 or theirs > 1 for mine, theirs in zip(short.shape, full, strict=True))
    if name is None or not own or torch.Size(full).numel() == 1:
        return labels
    tails = short.expand(full)
    units = tracer.new_units(tails.numel(), op).reshape(full)
    tracer.edges(name, "scale", units.reshape(shape), tails.reshape(shape))
    return units.expand(op.shape)
