"""What each operation does to the squares of path values on their way: the parts of :mod:`eclab.paths.kappa`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from eclab.network.graph import Op, resolve
from eclab.network.rules import BY_NAME, MOVES, RULES
from eclab.network.run import plain_call
from eclab.paths.unrolled_pools import per_axis_numbers, window_sum


@dataclass(frozen=True)
class Squares:
    """``Σ v²`` over the paths that end at each element of a value, of the value's shape."""

    sums: Tensor


Handler = Callable[[Op, dict[str, Any]], Any]
"""Takes an operation and its arguments by name; gives the sums, or a list of them where there are several values."""


class PathsEndError(Exception):
    """Raised by a handler for a form of its operation that paths do not run through."""


class _Square(torch.autograd.Function):
    """The square, with 1 as its derivative: what is differentiated by is the square itself."""

    @staticmethod
    def forward(_ctx: Any, value: Tensor) -> Tensor:
        """``w²``."""
        return value.square()

    @staticmethod
    def backward(_ctx: Any, gradient: Tensor) -> Tensor:
        """As it comes."""
        return gradient


def _squared(value: Any) -> Any:
    return None if value is None else _Square.apply(value)  # type: ignore[no-untyped-call]


def _sums(value: Any) -> Tensor:
    """The sums of a value on its way; the model's input is a plain tensor of ones, as its squares are."""
    if isinstance(value, Squares):
        return value.sums
    if not isinstance(value, Tensor):
        raise PathsEndError
    return value


def _factor(value: Any) -> Any:
    """The square of what a value is multiplied by or what is added to it, which must not come from the input."""
    if isinstance(value, Squares):
        raise PathsEndError
    return _squared(value) if isinstance(value, Tensor) else value**2


def _weighted(op: Op, named: dict[str, Any]) -> Tensor:
    squares = {key: _factor(named[key]) for key in ("weight", "bias") if named.get(key) is not None}
    value: Tensor = plain_call(op, (), named | squares | {"input": _sums(named["input"])})
    return value


def _matmul(op: Op, named: dict[str, Any]) -> Tensor:
    squares = {key: _factor(named[key]) for key in ("other", "mat2") if key in named}
    value: Tensor = plain_call(op, (), named | squares | {"self": _sums(named["self"])})
    return value


def _batch_norm(_op: Op, named: dict[str, Any]) -> Tensor:
    """Also instance-norm. With statistics of the batch it divides by the mean of the sums, which is held fixed."""
    value = _sums(named["input"])
    place = [1, -1, *[1] * (value.ndim - 2)]
    if named.get("training", named.get("use_input_stats")):
        value = _divided(value, value.detach().movedim(1, 0).flatten(1).mean(1).reshape(place))
    else:
        value = value + named["running_mean"].square().reshape(place)
        value = value / (named["running_var"] + named["eps"]).reshape(place)
    return _affine(value, named["weight"], named["bias"], place)


def _group_norm(_op: Op, named: dict[str, Any]) -> Tensor:
    value = _sums(named["input"])
    place = [1, -1, *[1] * (value.ndim - 2)]
    groups = value.detach().reshape(len(value), named["num_groups"], -1).mean(2)
    sizes = groups.repeat_interleave(value.shape[1] // named["num_groups"], 1)
    value = _divided(value, sizes.reshape(*value.shape[:2], *place[2:]))
    return _affine(value, named["weight"], named["bias"], place)


def _divided(value: Tensor, size: Tensor) -> Tensor:
    return value / torch.where(size > 0, size, 1.0)


def _affine(value: Tensor, gamma: Any, beta: Any, place: list[int]) -> Tensor:
    value = value if gamma is None else value * _squared(gamma).reshape(place)
    return value if beta is None else value + _squared(beta).reshape(place)


def _add(op: Op, named: dict[str, Any]) -> Tensor:
    one, two = (_sums(value) if isinstance(value, Squares) else _factor(value) for value in _pair(named))
    one, two = (two, one) if op.name == "aten.rsub" else (one, two)
    result: Tensor = one + float(named.get("alpha", 1)) ** 2 * two
    return result


def _pair(named: dict[str, Any]) -> tuple[Any, Any]:
    return named["self"], named["other"]


def _times(op: Op, named: dict[str, Any]) -> Tensor:
    one, two = _pair(named)
    if op.name == "aten.div":
        quotient: Tensor = _sums(one) / _factor(two)
        return quotient
    if isinstance(one, Squares) and isinstance(two, Squares):  # a path of each: their values are multiplied
        return one.sums * two.sums
    value, number = (one, two) if isinstance(one, Squares) or not isinstance(two, Squares) else (two, one)
    product: Tensor = _sums(value) * _factor(number)
    return product


def _mean(op: Op, named: dict[str, Any]) -> Tensor:
    value = _sums(named["self"])
    if not named.get("dim"):
        raise PathsEndError
    summed: Tensor = value.sum(named["dim"], keepdim=named["keepdim"])
    if op.name == "aten.sum":
        return summed
    averaged: Tensor = summed / math.prod(value.shape[axis] for axis in named["dim"]) ** 2
    return averaged


def _max_pool(op: Op, named: dict[str, Any]) -> Any:
    value = _sums(named["self"])
    summed = window_sum(value, named, per_axis_numbers(named["padding"], value.ndim - 2), op.parts[0][2:])
    return [summed, None] if len(op.parts) > 1 else summed


def _adaptive_max_pool(op: Op, named: dict[str, Any]) -> Any:
    value = _sums(named["self"])
    size = tuple(op.parts[0][2:])
    pool = getattr(functional, f"adaptive_avg_pool{len(size)}d")
    summed = pool(value, size) * _window_sizes(value, size)
    return [summed, None] if len(op.parts) > 1 else summed


def _avg_pool(op: Op, named: dict[str, Any]) -> Tensor:
    value = _sums(named["self"])
    left = per_axis_numbers(named["padding"], value.ndim - 2)
    ones = torch.ones_like(value[:1, :1])
    share = plain_call(op, (), named | {"self": ones}) / window_sum(ones, named, left, op.shape[2:])
    result: Tensor = plain_call(op, (), named | {"self": value}) * share
    return result


def _adaptive_avg_pool(op: Op, named: dict[str, Any]) -> Tensor:
    value = _sums(named["self"])
    pooled: Tensor = plain_call(op, (), named | {"self": value})
    return pooled / _window_sizes(value, op.shape[2:])


def _window_sizes(value: Tensor, after: tuple[int, ...]) -> Tensor:
    """How many positions each window of an adaptive pooling has."""
    sizes = value.new_ones([1] * value.ndim)
    for axis, size in enumerate(after, start=2):
        before = value.shape[axis]
        widths = [-(-(i + 1) * before // size) - i * before // size for i in range(size)]
        sizes = sizes * value.new_tensor(widths).reshape([-1 if k == axis else 1 for k in range(value.ndim)])
    return sizes


def _either(op: Op, named: dict[str, Any]) -> Any:
    """A maximum or minimum counts the paths of all it compares, as a max-pool does; one with 0 is a ReLU."""
    both = [named[key] for key in ("self", "other") if isinstance(named.get(key), Squares)]
    if len(both) == 2:
        return both[0].sums + both[1].sums
    if "other" in named:
        return both[0].sums
    if named.get("dim") in (None, (), []):
        raise PathsEndError
    summed = _sums(named["self"]).sum(named["dim"], keepdim=named["keepdim"])
    return [summed, None] if len(op.parts) > 1 else summed


def _addmm(op: Op, named: dict[str, Any]) -> Tensor:
    if (named.get("alpha", 1), named.get("beta", 1)) != (1, 1):
        raise PathsEndError
    squares = {key: _factor(named[key]) for key in ("self", "mat2")}
    value: Tensor = plain_call(op, (), named | squares | {"mat1": _sums(named["mat1"])})
    return value


def _pad(op: Op, named: dict[str, Any]) -> Tensor:
    filled = named.get("value")
    value: Tensor = plain_call(op, (), named | {"self": _sums(named["self"]), "value": filled and filled**2})
    return value


def _masked(_op: Op, named: dict[str, Any]) -> Tensor:
    value = _sums(named["self"])
    return value if isinstance(named["mask"], Squares) else value.masked_fill(named["mask"], 0.0)


def _where(_op: Op, named: dict[str, Any]) -> Tensor:
    """By a fixed condition one or the other; else, as activations have it, the paths of both."""
    one, two = (_sums(v) if isinstance(v, Squares) else _factor(v) for v in _pair(named))
    if isinstance(named["condition"], Squares):
        both: Tensor = one + two
        return both
    like = one if isinstance(one, Tensor) else two
    chosen: Tensor = torch.where(named["condition"], torch.as_tensor(one).to(like), torch.as_tensor(two).to(like))
    return chosen


def _fixed(op: Op, named: dict[str, Any]) -> Tensor:
    """A sign or a comparison: a switch, which no path runs through."""
    return _sums(named["self"]).new_ones(op.shape)


def _plain(op: Op, named: dict[str, Any]) -> Tensor:
    """What only repeats positions."""
    first = next(iter(named))
    value: Tensor = plain_call(op, (), named | {first: _sums(named[first])})
    return value


def _like(_op: Op, named: dict[str, Any]) -> Tensor:
    value, other = _sums(named["self"]), named["other"]
    shape = (other.sums if isinstance(other, Squares) else other).shape
    return value.reshape(shape) if value.numel() == math.prod(shape) else value.expand(shape)


def _item(_op: Op, named: dict[str, Any]) -> Any:
    values, place = named["self"], named["place"]
    found = values[place] if isinstance(values, list) else values
    return found.sums if isinstance(found, Squares) else found  # the places of a maximum are no path values


def _same(_op: Op, named: dict[str, Any]) -> Tensor:
    return _sums(named["self"] if "self" in named else named["input"])


def _moved(op: Op, named: dict[str, Any]) -> Any:
    def inner(value: Any) -> Any:
        return value.sums if isinstance(value, Squares) else _squared(value) if isinstance(value, Tensor) else value

    key = next(iter(named))
    moved = [inner(item) for item in named[key]] if isinstance(named[key], tuple | list) else inner(named[key])
    # the sums may be a view with stride 0, which `view` refuses where `reshape` does the same thing
    target = op.target.replace("aten.view.", "aten.reshape.").replace("aten._unsafe_view.", "aten.reshape.")
    value = resolve(target)(moved, *list(named.values())[1:])
    return list(value) if isinstance(value, list | tuple) else value


_SAME = (
    "relu", "leaky_relu", "prelu", "neg", "dropout", "feature_dropout", "contiguous", "clone", "alias", "detach", "to",
    "rrelu", "rrelu_with_noise", "abs", "clamp", "clamp_min", "clamp_max", "threshold", "lift_fresh_copy",
)  # fmt: skip

HANDLERS: dict[str, Handler] = {
    **{f"aten.{name}": _weighted for name in ("linear", *(f"conv{n}d" for n in (1, 2, 3)))},
    **{f"aten.conv_transpose{n}d": _weighted for n in (1, 2, 3)},
    "operator.getitem": _item,
    "aten.addmm": _addmm,
    "aten.matmul": _matmul,
    "aten.mm": _matmul,
    "aten.batch_norm": _batch_norm,
    "aten.instance_norm": _batch_norm,
    "aten.group_norm": _group_norm,
    "aten.add": _add,
    "aten.sub": _add,
    "aten.rsub": _add,
    "aten.mul": _times,
    "aten.div": _times,
    "aten.mean": _mean,
    "aten.sum": _mean,
    **{f"aten.{name}": _either for name in ("maximum", "minimum", "max", "min", "amax", "amin")},
    **{f"aten.max_pool{n}d{end}": _max_pool for n in (1, 2, 3) for end in ("", "_with_indices")},
    **{f"aten.adaptive_max_pool{n}d": _adaptive_max_pool for n in (1, 2, 3)},
    **{f"aten.upsample_nearest{n}d": _plain for n in (1, 2, 3)},
    "aten._upsample_nearest_exact2d": _plain,
    "aten.pad": _pad,
    "aten.masked_fill": _masked,
    "aten.where": _where,
    **{f"aten.{name}": _fixed for name in ("sign", "gt", "ge", "lt", "le")},
    **{f"aten.{name}": _like for name in ("expand_as", "view_as", "reshape_as")},
    **{f"aten.avg_pool{n}d": _avg_pool for n in (1, 2, 3)},
    **{f"aten.adaptive_avg_pool{n}d": _adaptive_avg_pool for n in (1, 2, 3)},
    **{f"aten.{name}": _same for name in _SAME},
    **{f"aten.{name}": _moved for name in (*MOVES, "cat", "concat", "concatenate", "index", "index_select")},
}
"""What each operation does to the squares on their way."""


def handler_of(op: Op) -> Handler | None:
    """What an operation does to the squares; a registered rule that works element by element lets them through."""
    rule = BY_NAME.get(op.name)
    if rule is not None and rule not in RULES:
        return _same if rule.elementwise else None
    return HANDLERS.get(op.name)
