"""One forward pass of ``|w|^p`` through a network, operation by operation in log space: what a path norm is made of."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from eclab.network.graph import Op, resolve
from eclab.network.rules import BY_NAME, MOVES, RULES
from eclab.network.run import plain_call
from eclab.paths import unrolled_pools as pools
from eclab.paths.scaled import Scaled, doubled, named_arguments, normalised, per_channel, power, scaled, sum_of

Handler = Callable[[Op, tuple[Any, ...], dict[str, Any], float], Any]
"""From an operation, its arguments and ``p`` to its value: one :class:`Scaled`, or a list of them."""

_NEAR = 40.0
"""Scales within ``exp(±40)`` and their products stay far within the range of float32."""


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


def _weighed(
    value: Scaled, axis: int, weight: Tensor, bias: Tensor | None, p: float, apply: Callable[[Tensor, Tensor], Tensor]
) -> Scaled:
    """``apply(value, |w|^p) + |b|^p`` where the channels' scales are near one another, as they nearly always are."""
    # what came through a layer of a wide range is float64
    mantissa, scale = per_channel(Scaled(value.mantissa.to(weight.dtype), value.log_scale), axis)
    shift = scale[scale.isfinite()].amax() if bool(scale.isfinite().any()) else scale.new_zeros(())
    place = [1] * mantissa.ndim
    place[axis] = len(scale)
    inside = mantissa * (scale - shift).exp().reshape(place).to(mantissa.dtype)
    out = 1 if axis == 1 else -1
    found = normalised(apply(inside, _to_the(weight, p)), shift, out)
    if bias is None:
        return found
    place = [1] * found.mantissa.ndim
    place[out] = len(bias)
    return sum_of(found, power(bias.reshape(place), p))


def _to_the(weight: Tensor, p: float) -> Tensor:
    """``|w|^p``; squares cost a tenth of other powers."""
    return weight.square() if p == 2 else weight.abs() if p == 1 else weight.abs().pow(p)


def _near(value: Scaled, axis: int, weight: Tensor, p: float) -> bool:
    """Whether powers and scales fit the weights' dtype side by side, with as much room again."""
    if p > 2:
        return False
    _, scale = per_channel(value, axis)
    finite = scale[scale.isfinite()]
    spread = float(finite.amax() - finite.amin()) if len(finite) else 0.0
    low, high = torch.aminmax(weight)
    largest = max(abs(float(low)), abs(float(high)))
    return spread < _NEAR and largest < math.exp(_NEAR / 2)


def _linear(op: Op, args: tuple[Any, ...], kwargs: dict[str, Any], p: float) -> Scaled:
    named = named_arguments(op, args, kwargs)
    return _affine(scaled(named["input"]), named["weight"], named["bias"], p)


def _affine(value: Scaled, weight: Tensor, bias: Tensor | None, p: float) -> Scaled:
    if _near(value, -1, weight, p):
        return _weighed(value, -1, weight, bias, p, functional.linear)
    mantissa, scale = per_channel(doubled(value), -1)
    rows, offset, row = _powers(weight.double(), None if bias is None else bias.double(), scale, p)
    return normalised(functional.linear(mantissa, rows, offset), row, -1)


def _conv(op: Op, args: tuple[Any, ...], kwargs: dict[str, Any], p: float) -> Scaled:
    named = named_arguments(op, args, kwargs)
    value, groups, weight, bias = scaled(named["input"]), named["groups"], named["weight"], named["bias"]

    def apply(inside: Tensor, powers: Tensor, offset: Tensor | None = None) -> Tensor:
        found: Tensor = plain_call(op, (), named | {"input": inside, "weight": powers, "bias": offset})
        return found

    if _near(value, 1, weight, p):
        return _weighed(value, 1, weight, bias, p, apply)
    mantissa, scale = per_channel(doubled(value), 1)
    tails = scale.reshape(groups, -1).repeat_interleave(len(weight) // groups, 0)
    tails = tails.reshape(*tails.shape, *[1] * (weight.ndim - 2))
    rows, offset, row = _powers(weight.double(), None if bias is None else bias.double(), tails, p)
    return normalised(apply(mantissa, rows, offset), row, 1)


def _conv_transpose(op: Op, args: tuple[Any, ...], kwargs: dict[str, Any], p: float) -> Scaled:
    named = named_arguments(op, args, kwargs)
    mantissa, scale = per_channel(doubled(scaled(named["input"])), 1)
    groups, weight, bias = named["groups"], named["weight"].double(), named["bias"]
    # rows are outputs: [in, out/g, …] becomes [out, in/g, …] and back
    rows = weight.reshape(groups, -1, *weight.shape[1:]).transpose(1, 2).flatten(0, 1)
    tails = scale.reshape(groups, -1).repeat_interleave(weight.shape[1], 0)
    tails = tails.reshape(*tails.shape, *[1] * (weight.ndim - 2))
    rows, offset, row = _powers(rows, None if bias is None else bias.double(), tails, p)
    powers = rows.reshape(groups, -1, *rows.shape[1:]).transpose(1, 2).flatten(0, 1)
    value = plain_call(op, (), named | {"input": mantissa, "weight": powers, "bias": offset})
    return normalised(value, row, 1)


def _matmul(_op: Op, args: tuple[Any, ...], _kwargs: dict[str, Any], p: float) -> Scaled:
    return _affine(scaled(args[0]), args[1].T, None, p)


def _addmm(_op: Op, args: tuple[Any, ...], _kwargs: dict[str, Any], p: float) -> Scaled:
    return _affine(scaled(args[1]), args[2].T, args[0], p)


def _batch_norm(op: Op, args: tuple[Any, ...], kwargs: dict[str, Any], p: float) -> Scaled:
    """Frozen statistics: the factor ``γ/σ`` and the offset ``β − γ μ/σ`` of every channel."""
    named = named_arguments(op, args, kwargs)
    value = scaled(named["input"])
    deviation = (named["running_var"].double() + named["eps"]).sqrt()
    factor = deviation.reciprocal() * (1.0 if named["weight"] is None else named["weight"].double())
    offset = -factor * named["running_mean"].double() + (0.0 if named["bias"] is None else named["bias"].double())
    place = [1, -1, *[1] * (value.mantissa.ndim - 2)]
    spread = Scaled(value.mantissa, value.log_scale + p * factor.abs().log().reshape(place))
    shift = power(offset.reshape(place), p)
    return sum_of(spread, Scaled(shift.mantissa.to(value.mantissa.dtype), shift.log_scale))


def _add(_op: Op, args: tuple[Any, ...], kwargs: dict[str, Any], p: float) -> Scaled:
    one, two = (part if isinstance(part, Scaled) else power(part, p) for part in args[:2])
    alpha = abs(float(kwargs.get("alpha", 1)))
    return sum_of(one, Scaled(two.mantissa, two.log_scale + p * math.log(alpha)))


def _times(op: Op, args: tuple[Any, ...], _kwargs: dict[str, Any], p: float) -> Scaled:
    """A fixed factor: a number or a tensor, ``|f|^p``."""
    value, factor = args[:2] if isinstance(args[0], Scaled) else args[1::-1]
    sign = -1 if op.name == "aten.div" else 1
    logs = p * torch.as_tensor(factor).to(value.log_scale).abs().log()
    some = logs.isfinite()
    logs = torch.where(some, logs, 0.0)
    return Scaled(value.mantissa * some.to(value.mantissa.dtype), value.log_scale + sign * logs)


def _masked(op: Op, args: tuple[Any, ...], _kwargs: dict[str, Any], _p: float) -> Scaled:
    value = scaled(args[0])
    return Scaled(resolve(op.target)(value.mantissa, args[1], 0.0), value.log_scale)


def _mean(op: Op, args: tuple[Any, ...], kwargs: dict[str, Any], p: float) -> Scaled:
    named = named_arguments(op, args, kwargs)
    value, dim = scaled(named["self"]), named["dim"]
    axes = [axis % value.mantissa.ndim for axis in ((dim,) if isinstance(dim, int) else dim)]
    mantissa, scale = per_channel(value, 1)
    n = math.prod(mantissa.shape[axis] for axis in axes) if op.name == "aten.mean" else 1
    if 1 in axes:  # the channels do not stay apart
        return _whole(value, axes, named["keepdim"])
    summed = mantissa.sum(axes, keepdim=named["keepdim"])
    return normalised(summed, scale - p * math.log(n), 1)


def _whole(value: Scaled, axes: list[int], keepdim: bool) -> Scaled:
    scale = value.log_scale.amax()
    shift = scale if bool(scale.isfinite()) else torch.zeros_like(scale)
    flat = value.mantissa * (value.log_scale - shift).exp().to(value.mantissa.dtype)
    return normalised(
        flat.sum(axes, keepdim=keepdim), shift.reshape([1] * (flat.ndim - (0 if keepdim else len(axes)))), 1
    )


def _either(op: Op, args: tuple[Any, ...], kwargs: dict[str, Any], p: float) -> Scaled:
    """A maximum or minimum counts the paths of all it compares, as a max-pool does; one with 0 is a ReLU."""
    scaled = [part for part in args[:2] if isinstance(part, Scaled)]
    if len(scaled) == 2:
        return sum_of(*scaled)
    alone = op.name in ("aten.maximum", "aten.minimum") or (len(args) > 1 and isinstance(args[1], Tensor))
    return scaled[0] if alone else _mean(op, args, kwargs, p)


def _joined(op: Op, args: tuple[Any, ...], kwargs: dict[str, Any], p: float) -> Scaled:
    parts = [part if isinstance(part, Scaled) else power(part, p) for part in args[0]]
    full = [(part.mantissa, part.log_scale.expand_as(part.mantissa)) for part in parts]
    return Scaled(*(resolve(op.target)(list(column), *args[1:], **kwargs) for column in zip(*full, strict=True)))


def _pad(op: Op, args: tuple[Any, ...], kwargs: dict[str, Any], _p: float) -> Scaled:
    value = scaled(args[0])
    both = (value.mantissa, value.log_scale.expand_as(value.mantissa))
    return Scaled(*(resolve(op.target)(part, *args[1:], **kwargs) for part in both))


def _item(_op: Op, args: tuple[Any, ...], _kwargs: dict[str, Any], _p: float) -> Any:
    return args[0][args[1]] if isinstance(args[0], list) else args[0]


def _same(_op: Op, args: tuple[Any, ...], _kwargs: dict[str, Any], _p: float) -> Scaled:
    return scaled(args[0])


def _move(op: Op, args: tuple[Any, ...], kwargs: dict[str, Any], _p: float) -> Any:
    value = scaled(args[0])
    # the scale is a view with stride 0, which `view` refuses where `reshape` does the same thing
    target = op.target.replace("aten.view.", "aten.reshape.").replace("aten._unsafe_view.", "aten.reshape.")
    both = (value.mantissa, value.log_scale.expand_as(value.mantissa))
    moved = [resolve(target)(part, *args[1:], **kwargs) for part in both]
    return (
        [Scaled(*pair) for pair in zip(*moved, strict=True)] if isinstance(moved[0], list | tuple) else Scaled(*moved)
    )


def _like(_op: Op, args: tuple[Any, ...], _kwargs: dict[str, Any], _p: float) -> Scaled:
    value, shape = scaled(args[0]), args[1].mantissa.shape if isinstance(args[1], Scaled) else args[1].shape
    both = (value.mantissa, value.log_scale.expand_as(value.mantissa))
    same = value.mantissa.numel() == math.prod(shape)
    return Scaled(*(part.reshape(shape) if same else part.expand(shape) for part in both))


_SAME = (
    "relu", "leaky_relu", "prelu", "rrelu", "rrelu_with_noise", "abs", "clamp", "clamp_min", "clamp_max", "threshold",
    "neg", "dropout", "feature_dropout", "contiguous", "clone", "alias", "detach", "to", "lift_fresh_copy",
)  # fmt: skip

HANDLERS: dict[str, Handler] = {
    "operator.getitem": _item,
    "aten.linear": _linear,
    "aten.matmul": _matmul,
    "aten.mm": _matmul,
    "aten.addmm": _addmm,
    **{f"aten.conv{n}d": _conv for n in (1, 2, 3)},
    **{f"aten.conv_transpose{n}d": _conv_transpose for n in (1, 2, 3)},
    "aten.batch_norm": _batch_norm,
    "aten.instance_norm": _batch_norm,
    **{f"aten.{name}": _add for name in ("add", "sub", "rsub")},
    "aten.mul": _times,
    "aten.div": _times,
    "aten.mean": _mean,
    "aten.sum": _mean,
    **{f"aten.{name}": _either for name in ("maximum", "minimum", "max", "min", "amax", "amin")},
    **{f"aten.max_pool{n}d{end}": pools.max_pool for n in (1, 2, 3) for end in ("", "_with_indices")},
    **{f"aten.avg_pool{n}d": pools.avg_pool for n in (1, 2, 3)},
    **{f"aten.adaptive_avg_pool{n}d": pools.adaptive_avg_pool for n in (1, 2, 3)},
    **{f"aten.adaptive_max_pool{n}d": pools.adaptive_max_pool for n in (1, 2, 3)},
    **{f"aten.upsample_nearest{n}d": pools.nearest for n in (1, 2, 3)},
    "aten._upsample_nearest_exact2d": pools.nearest,
    "aten.pad": _pad,
    "aten.masked_fill": _masked,
    "aten.expand_as": _like,
    "aten.view_as": _like,
    "aten.reshape_as": _like,
    **{f"aten.{name}": _same for name in _SAME},
    **{f"aten.{name}": _move for name in (*MOVES, "index", "index_select")},
    **{f"aten.{name}": _joined for name in ("cat", "concat", "concatenate", "stack")},
}
"""What each operation does to a value on its way; whatever is not here has no paths through it."""


def handler_of(op: Op) -> Handler | None:
    """What an operation does to a value; a registered rule that works element by element lets it through as it is."""
    rule = BY_NAME.get(op.name)
    if rule is not None and rule not in RULES:
        return _same if rule.elementwise else None
    return HANDLERS.get(op.name)


WEIGHTED = frozenset(
    name for name, handler in HANDLERS.items() if handler in (_linear, _matmul, _conv, _conv_transpose, _batch_norm)
)
"""Operations whose second argument is a weight, which must not depend on the input."""
