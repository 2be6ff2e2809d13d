"""Pooling of unrolled networks: each position of a window is a path of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from eclab.network.graph import Op, resolve
from eclab.network.run import plain_call
from eclab.paths.scaled import Scaled, named_arguments, normalised, per_channel, scaled


def per_axis_numbers(value: int | Sequence[int], axes: int) -> tuple[int, ...]:
    """A pooling argument as one number an axis."""
    numbers = (value,) if isinstance(value, int) else tuple(value)
    return numbers * axes if len(numbers) == 1 else numbers


def window_sum(value: Tensor, named: dict[str, Any], left: tuple[int, ...], size: Sequence[int]) -> Tensor:
    """Sum over every window; ``left`` zeros stand before each axis and as many as needed behind it."""
    axes = len(size)
    kernel = per_axis_numbers(named["kernel_size"], axes)
    stride = per_axis_numbers(named["stride"] or kernel, axes)
    dilation = per_axis_numbers(named.get("dilation", 1), axes)
    pads: list[int] = []
    for axis in reversed(range(axes)):
        reach = (size[axis] - 1) * stride[axis] + dilation[axis] * (kernel[axis] - 1) + 1
        pads += [left[axis], max(0, reach - value.shape[2 + axis] - left[axis])]
    flat = functional.pad(value, pads).flatten(0, 1).unsqueeze(1)
    convolve = (functional.conv1d, functional.conv2d, functional.conv3d)[axes - 1]
    summed = convolve(flat, value.new_ones(1, 1, *kernel), stride=stride, dilation=dilation)
    return summed.reshape(*value.shape[:2], *size)


def max_pool(op: Op, args: tuple[Any, ...], kwargs: dict[str, Any], _p: float) -> Scaled:
    """A sum over the window."""
    named = named_arguments(op, args, kwargs)
    mantissa, scale = per_channel(scaled(named["self"]), 1)
    left = per_axis_numbers(named["padding"], mantissa.ndim - 2)
    return normalised(window_sum(mantissa, named, left, op.parts[0][2:]), scale, 1)


def avg_pool(op: Op, args: tuple[Any, ...], kwargs: dict[str, Any], p: float) -> Scaled:
    """A sum over the window with weights ``1/n``."""
    named = named_arguments(op, args, kwargs)
    mantissa, scale = per_channel(scaled(named["self"]), 1)
    size = op.shape[2:]
    left = per_axis_numbers(named["padding"], len(size))
    summed = window_sum(mantissa, named, left, size)
    present = mantissa.new_ones(1, 1, *mantissa.shape[2:])
    if named.get("divisor_override"):
        n = present.new_full((1,) * present.ndim, named["divisor_override"])
    elif named["count_include_pad"]:
        around = [width for axis in reversed(left) for width in (axis, axis)]
        n = window_sum(functional.pad(present, around, value=1.0), named, (0,) * len(size), size)
    else:
        n = window_sum(present, named, left, size)
    return normalised(summed, scale.reshape(1, -1, *[1] * len(size)) - p * n.log(), 1)


def adaptive_avg_pool(op: Op, args: tuple[Any, ...], kwargs: dict[str, Any], p: float) -> Scaled:
    """The same with windows that share the grid."""
    named = named_arguments(op, args, kwargs)
    mantissa, scale = per_channel(scaled(named["self"]), 1)
    axes = len(op.shape) - 2
    n = mantissa.new_ones([1] * (axes + 2))
    for axis, (before, after) in enumerate(zip(mantissa.shape[2:], op.shape[2:], strict=True)):
        widths = [-(-(i + 1) * before // after) - i * before // after for i in range(after)]
        n = n * mantissa.new_tensor(widths).reshape([-1 if k == axis + 2 else 1 for k in range(axes + 2)])
    summed = plain_call(op, (mantissa,), {key: value for key, value in named.items() if key != "self"}) * n
    return normalised(summed, scale.reshape(1, -1, *[1] * axes) - p * n.log(), 1)


def adaptive_max_pool(op: Op, args: tuple[Any, ...], kwargs: dict[str, Any], _p: float) -> Scaled:
    """Sums over windows that share the grid."""
    named = named_arguments(op, args, kwargs)
    value, size = scaled(named["self"]), op.parts[0][2:]
    mantissa, scale = per_channel(value, 1)
    for axis, after in enumerate(size):
        before = mantissa.shape[2 + axis]
        ends = [(i * before // after, -(-(i + 1) * before // after)) for i in range(after)]
        rows = [mantissa.narrow(2 + axis, low, high - low).sum(2 + axis, keepdim=True) for low, high in ends]
        mantissa = torch.cat(rows, 2 + axis)
    return normalised(mantissa, scale, 1)


def nearest(op: Op, args: tuple[Any, ...], kwargs: dict[str, Any], _p: float) -> Scaled:
    """Copies of what is nearest."""
    mantissa, scale = per_channel(scaled(args[0]), 1)
    place = [1, -1, *[1] * (mantissa.ndim - 2)]
    return Scaled(resolve(op.target)(mantissa, *args[1:], **kwargs), scale.reshape(place))
