"""One forward pass of ``|w|^p`` through a network, operation by operation in log space: what a path norm is made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from eclab.network.graph import Op, resolve
from eclab.network.rules import MOVES
from eclab.network.run import plain_call


@dataclass(frozen=True)
class Scaled:
    """``mantissa · exp(log_scale)``.

    Attributes:
        mantissa: float64, of the value's shape, in [0, 1].
        log_scale: float64, broadcasts to it; −∞ where the mantissa is 0 throughout.
    """

    mantissa: Tensor
    log_scale: Tensor

    def logs(self) -> Tensor:
        """The logarithm of every element."""
        return self.mantissa.log() + self.log_scale


Handler = Callable[[Op, tuple[Any, ...], dict[str, Any], float], Scaled]


def _scaled(value: Scaled | Tensor) -> Scaled:
    """The model's input is still a plain tensor."""
    if isinstance(value, Scaled):
        return value
    return Scaled(value, value.new_zeros((1,) * value.ndim))


def named_arguments(op: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """An operation's arguments by name, with the defaults of those not given."""
    schema = resolve(op.target)._schema.arguments  # type: ignore[attr-defined]
    named = {argument.name: argument.default_value for argument in schema}
    return named | dict(zip(named, args, strict=False)) | kwargs


def _per_channel(value: Scaled, axis: int) -> tuple[Tensor, Tensor]:
    """The mantissa and the log-scale ``[channels]`` once all elements of a channel share one scale."""
    channels = value.mantissa.shape[axis]
    rows = value.log_scale.movedim(axis, 0).flatten(1)
    scale = rows.amax(1)
    shift = torch.where(scale.isfinite(), scale, 0.0)
    place = [1] * value.mantissa.ndim
    place[axis] = len(shift)
    return value.mantissa * (value.log_scale - shift.reshape(place)).exp(), scale.expand(channels)


def _normalised(mantissa: Tensor, scale: Tensor, axis: int) -> Scaled:
    """Brings the largest element of every channel to 1; ``scale`` is ``[channels]`` or broadcasts to the mantissa."""
    place = [1] * mantissa.ndim
    place[axis] = mantissa.shape[axis]
    peak = mantissa.movedim(axis, 0).flatten(1).amax(1).reshape(place)
    scale = scale.reshape(place) if scale.ndim == 1 else scale
    return Scaled(mantissa / torch.where(peak > 0, peak, 1.0), scale + peak.log())


def _powers(weight: Tensor, bias: Tensor | None, tails: Tensor, p: float) -> tuple[Tensor, Tensor | None, Tensor]:
    """``|w|^p · exp(scale of its tail)`` and ``|b|^p``, each row divided by ``exp`` of the third, ``[rows]``."""
    logs = p * weight.abs().log() + tails
    row = logs.flatten(1).amax(1)
    bias_logs = None if bias is None else p * bias.abs().log()
    if bias_logs is not None:
        row = torch.maximum(row, bias_logs)
    row = torch.where(row.isfinite(), row, 0.0)
    scaled = (logs - row.reshape(-1, *[1] * (weight.ndim - 1))).exp()
    return scaled, None if bias_logs is None else (bias_logs - row).exp(), row


def _linear(op: Op, args: tuple[Any, ...], kwargs: dict[str, Any], p: float) -> Scaled:
    named = named_arguments(op, args, kwargs)
    mantissa, scale = _per_channel(_scaled(named["input"]), -1)
    weight, bias, row = _powers(named["weight"], named["bias"], scale, p)
    return _normalised(functional.linear(mantissa, weight, bias), row, -1)


def _conv(op: Op, args: tuple[Any, ...], kwargs: dict[str, Any], p: float) -> Scaled:
    named = named_arguments(op, args, kwargs)
    mantissa, scale = _per_channel(_scaled(named["input"]), 1)
    groups, weight = named["groups"], named["weight"]
    tails = scale.reshape(groups, -1).repeat_interleave(len(weight) // groups, 0)
    tails = tails.reshape(*tails.shape, *[1] * (weight.ndim - 2))
    weight, bias, row = _powers(weight, named["bias"], tails, p)
    value = plain_call(op, (), named | {"input": mantissa, "weight": weight, "bias": bias})
    return _normalised(value, row, 1)


def _conv_transpose(op: Op, args: tuple[Any, ...], kwargs: dict[str, Any], p: float) -> Scaled:
    named = named_arguments(op, args, kwargs)
    mantissa, scale = _per_channel(_scaled(named["input"]), 1)
    groups, weight = named["groups"], named["weight"]
    # rows are outputs: [in, out/g, …] becomes [out, in/g, …] and back
    rows = weight.reshape(groups, -1, *weight.shape[1:]).transpose(1, 2).flatten(0, 1)
    tails = scale.reshape(groups, -1).repeat_interleave(weight.shape[1], 0)
    rows, bias, row = _powers(rows, named["bias"], tails.reshape(*tails.shape, *[1] * (weight.ndim - 2)), p)
    weight = rows.reshape(groups, -1, *rows.shape[1:]).transpose(1, 2).flatten(0, 1)
    value = plain_call(op, (), named | {"input": mantissa, "weight": weight, "bias": bias})
    return _normalised(value, row, 1)


def _matmul(_op: Op, args: tuple[Any, ...], _kwargs: dict[str, Any], p: float) -> Scaled:
    mantissa, scale = _per_channel(_scaled(args[0]), -1)
    weight, _, row = _powers(args[1].T, None, scale, p)
    return _normalised(functional.linear(mantissa, weight), row, -1)


def _batch_norm(op: Op, args: tuple[Any, ...], kwargs: dict[str, Any], p: float) -> Scaled:
    """Frozen statistics: the factor ``γ/σ`` and the offset ``β − γ μ/σ`` of every channel."""
    named = named_arguments(op, args, kwargs)
    value = _scaled(named["input"])
    deviation = (named["running_var"] + named["eps"]).sqrt()
    factor = deviation.reciprocal() * (1.0 if named["weight"] is None else named["weight"])
    offset = -factor * named["running_mean"] + (0.0 if named["bias"] is None else named["bias"])
    place = [1, -1, *[1] * (value.mantissa.ndim - 2)]
    scaled = Scaled(value.mantissa, value.log_scale + p * factor.abs().log().reshape(place))
    return _sum_of(scaled, _power(offset.reshape(place), p))


def _power(value: Tensor, p: float) -> Scaled:
    """``|value|^p`` of a plain tensor."""
    return Scaled((value != 0).to(value.dtype), p * value.abs().log())


def _sum_of(one: Scaled, two: Scaled) -> Scaled:
    scale = torch.maximum(one.log_scale, two.log_scale)
    shift = torch.where(scale.isfinite(), scale, 0.0)
    total = sum(part.mantissa * (part.log_scale - shift).exp() for part in (one, two))
    return _normalised(torch.as_tensor(total), scale, 1)


def _add(_op: Op, args: tuple[Any, ...], kwargs: dict[str, Any], p: float) -> Scaled:
    one, two = (part if isinstance(part, Scaled) else _power(part, p) for part in args[:2])
    alpha = abs(float(kwargs.get("alpha", 1)))
    return _sum_of(one, Scaled(two.mantissa, two.log_scale + p * math.log(alpha)))


def _times(op: Op, args: tuple[Any, ...], _kwargs: dict[str, Any], p: float) -> Scaled:
    value, number = args[:2] if isinstance(args[0], Scaled) else args[1::-1]
    sign = -1 if op.name == "aten.div" else 1
    return Scaled(value.mantissa * bool(number), value.log_scale + sign * p * math.log(abs(number) or 1))


def _mean(op: Op, args: tuple[Any, ...], kwargs: dict[str, Any], p: float) -> Scaled:
    named = named_arguments(op, args, kwargs)
    value, axes = _scaled(named["self"]), [axis % _scaled(named["self"]).mantissa.ndim for axis in named["dim"]]
    mantissa, scale = _per_channel(value, 1)
    n = math.prod(mantissa.shape[axis] for axis in axes) if op.name == "aten.mean" else 1
    summed = mantissa.sum(axes, keepdim=named["keepdim"])
    return _normalised(summed, scale - p * math.log(n), 1)


def _joined(op: Op, args: tuple[Any, ...], kwargs: dict[str, Any], p: float) -> Scaled:
    parts = [part if isinstance(part, Scaled) else _power(part, p) for part in args[0]]
    full = [(part.mantissa, part.log_scale.expand_as(part.mantissa)) for part in parts]
    return Scaled(*(resolve(op.target)(list(column), *args[1:], **kwargs) for column in zip(*full, strict=True)))


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


def _max_pool(op: Op, args: tuple[Any, ...], kwargs: dict[str, Any], _p: float) -> Scaled:
    named = named_arguments(op, args, kwargs)
    mantissa, scale = _per_channel(_scaled(named["self"]), 1)
    left = per_axis_numbers(named["padding"], mantissa.ndim - 2)
    return _normalised(window_sum(mantissa, named, left, op.shape[2:]), scale, 1)


def _avg_pool(op: Op, args: tuple[Any, ...], kwargs: dict[str, Any], p: float) -> Scaled:
    named = named_arguments(op, args, kwargs)
    mantissa, scale = _per_channel(_scaled(named["self"]), 1)
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
    return _normalised(summed, scale.reshape(1, -1, *[1] * len(size)) - p * n.log(), 1)


def _adaptive_avg_pool(op: Op, args: tuple[Any, ...], kwargs: dict[str, Any], p: float) -> Scaled:
    named = named_arguments(op, args, kwargs)
    mantissa, scale = _per_channel(_scaled(named["self"]), 1)
    axes = len(op.shape) - 2
    n = mantissa.new_ones([1] * (axes + 2))
    for axis, (before, after) in enumerate(zip(mantissa.shape[2:], op.shape[2:], strict=True)):
        widths = [-(-(i + 1) * before // after) - i * before // after for i in range(after)]
        n = n * mantissa.new_tensor(widths).reshape([-1 if k == axis + 2 else 1 for k in range(axes + 2)])
    summed = plain_call(op, (mantissa,), {key: value for key, value in named.items() if key != "self"}) * n
    return _normalised(summed, scale.reshape(1, -1, *[1] * axes) - p * n.log(), 1)


def _same(_op: Op, args: tuple[Any, ...], _kwargs: dict[str, Any], _p: float) -> Scaled:
    return _scaled(args[0])


def _move(op: Op, args: tuple[Any, ...], kwargs: dict[str, Any], _p: float) -> Scaled:
    value = _scaled(args[0])
    # the scale is a view with stride 0, which `view` refuses where `reshape` does the same thing
    target = op.target.replace("aten.view.", "aten.reshape.").replace("aten._unsafe_view.", "aten.reshape.")
    both = (value.mantissa, value.log_scale.expand_as(value.mantissa))
    return Scaled(*(resolve(target)(part, *args[1:], **kwargs) for part in both))


_SAME = (
    "relu", "leaky_relu", "prelu", "neg", "dropout", "feature_dropout", "contiguous", "clone", "alias", "detach", "to",
)  # fmt: skip

HANDLERS: dict[str, Handler] = {
    "aten.linear": _linear,
    "aten.matmul": _matmul,
    "aten.mm": _matmul,
    **{f"aten.conv{n}d": _conv for n in (1, 2, 3)},
    **{f"aten.conv_transpose{n}d": _conv_transpose for n in (1, 2, 3)},
    "aten.batch_norm": _batch_norm,
    "aten.add": _add,
    "aten.sub": _add,
    "aten.mul": _times,
    "aten.div": _times,
    "aten.mean": _mean,
    "aten.sum": _mean,
    **{f"aten.max_pool{n}d": _max_pool for n in (1, 2, 3)},
    **{f"aten.avg_pool{n}d": _avg_pool for n in (1, 2, 3)},
    **{f"aten.adaptive_avg_pool{n}d": _adaptive_avg_pool for n in (1, 2, 3)},
    **{f"aten.{name}": _same for name in _SAME},
    **{f"aten.{name}": _move for name in MOVES},
    **{f"aten.{name}": _joined for name in ("cat", "concat", "stack")},
}
"""What each operation does to a value on its way; whatever is not here has no paths through it."""

WEIGHTED = frozenset(
    name for name, handler in HANDLERS.items() if handler in (_linear, _matmul, _conv, _conv_transpose, _batch_norm)
)
"""Operations whose second argument is a weight, which must not depend on the input."""
