"""How much path value runs through each weight: the diagonal of the path kernel, and what Path-SGD divides by."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from eclab.errors import ChartError, NonFiniteError
from eclab.network.graph import Op, resolve
from eclab.network.network import TracedNetwork
from eclab.network.rules import BY_NAME, MOVES
from eclab.network.run import plain_call, run
from eclab.paths.scaled import named_arguments
from eclab.paths.unrolled_pools import per_axis_numbers, window_sum


@dataclass(frozen=True)
class Squares:
    """``Σ v²`` over the paths that end at each element of a value, of the value's shape."""

    sums: Tensor


Handler = Callable[[Op, dict[str, Any]], Tensor]


class _PathsEndError(Exception):
    """Raised by a handler for a form of its operation that paths do not run through."""


def kappa(net: TracedNetwork) -> dict[str, Tensor]:
    r"""``κ_e``, the sum over the paths through ``e`` of the product of their other weights, squared.

    .. math::
        \kappa_e = \sum_{p \ni e}\ \prod_{e' \in p,\ e' \ne e} w_{e'}^2
                 = \frac{\partial}{\partial (w_e^2)} \sum_p v_p^2

    That is the diagonal entry of the path kernel ``∂v/∂wᵀ ∂v/∂w``. It comes from one forward and one backward pass of
    the unrolled network with squared weights on an input of ones: a kernel tap has the sum over the positions it is
    used at, a max-pool is a sum over its window, an average pool one over ``n`` positions with weights ``1/n``,
    activations and dropout are the identity. Batch-norm with frozen statistics is an affine map of each channel, the
    mean being a path from ground; with training statistics it divides by ``Σ_p v_p²`` over the paths into the channel
    (their mean over positions), which takes the place of the variance and is held fixed. Behind what is not positively
    homogeneous paths start anew. Under rescaling ``κ_e ← κ_e (c_tail / c_head)²``.

    Args:
        net: the network; its weights are only read.

    Returns:
        By parameter name a non-negative float64 tensor of the parameter's shape, for every weight between units.

    Raises:
        ChartError: the network holds a positively homogeneous operation whose paths are not known; all are named.
        NonFiniteError: a weight is NaN or infinite, or the products leave the range of float64.

    Example:
        >>> import torch, eclab
        >>> from eclab.paths.kappa import kappa
        >>> from torch.nn import Linear, ReLU, Sequential
        >>> model = Sequential(Linear(1, 2, bias=False), ReLU(), Linear(2, 1, bias=False))
        >>> model[0].weight.data = torch.tensor([[2.0], [3.0]])
        >>> model[2].weight.data = torch.tensor([[5.0, -4.0]])
        >>> {name: value.flatten().tolist() for name, value in kappa(eclab.trace(model, torch.ones(1, 1))).items()}
        {'0.weight': [25.0, 16.0], '2.weight': [4.0, 9.0]}

    Source: B. Neyshabur, R. Salakhutdinov and N. Srebro, Path-SGD (NIPS 2015), section 4; convolutions: the same
    network unrolled; batch-norm: B. Neyshabur et al., Data-dependent path normalization (ICLR 2016), in spirit;
    A. Lebeurrier et al., Path-conditioned training (arXiv:2602.19799), the path kernel's diagonal.
    """
    names = list(dict.fromkeys(weight.name for weight in net.weights))
    like = torch.zeros((), dtype=torch.float64, device=net.weights[0].parameter.device)
    with torch.enable_grad():
        weights = {name: net.weight(name).parameter.detach().to(like).requires_grad_() for name in names}
        total = _all_paths(net, weights, like)
        found = torch.autograd.grad(total, list(weights.values()), allow_unused=True, materialize_grads=True)
    by_name = dict(zip(names, found, strict=True))
    for name, value in by_name.items():
        if not bool(value.isfinite().all()):
            raise _not_finite(net, name)
    return by_name


def _not_finite(net: TracedNetwork, name: str) -> NonFiniteError:
    for weight in net.weights:
        value: Tensor = weight.parameter
        if not bool(value.isfinite().all()):
            return NonFiniteError(
                f"'{weight.name}' holds {float(value[~value.isfinite()][0])}", allowed="finite weights"
            )
    return NonFiniteError(
        f"the path values through '{name}' leave the range of float64",
        fix="rescale the network first: eclab.balance_(net)",
    )


def _all_paths(net: TracedNetwork, weights: dict[str, Tensor], like: Tensor) -> Tensor:
    """``Σ_p v_p²``, differentiable with respect to the squares."""
    carried = _carried(net)
    ends: list[Squares] = []

    def call(op: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if id(op) not in carried:
            return plain_call(op, args, kwargs)
        try:
            if op.name not in HANDLERS:
                raise _PathsEndError
            return Squares(HANDLERS[op.name](op, named_arguments(op, args, kwargs)))
        except _PathsEndError:
            ends.extend(arg for arg in args if isinstance(arg, Squares))
            return Squares(like.new_ones(op.shape))

    ones = tuple(torch.ones(op.shape) for op in net.operations if op.kind == "input")
    ends += [value for value in run(net, ones, weights, like=like, call=call)[-1] if isinstance(value, Squares)]
    # Every sample of the traced batch has all the paths.
    return torch.stack([end.sums.sum() for end in ends]).sum() / len(ones[0])


def _carried(net: TracedNetwork) -> set[int]:
    """The operations that paths run through, by identity; a :class:`ChartError` for those they cannot."""
    numbers = {number for number, op in enumerate(net.operations) if op.kind == "input"}
    carried: set[int] = set()
    problems: list[str] = []
    for number, op in enumerate(net.operations):
        if op.kind != "call" or not any(ref in numbers for ref in op.refs()):
            continue
        known = op.name in HANDLERS or op.name not in BY_NAME or not BY_NAME[op.name].homogeneous
        if not known:
            problems.append(op.name.removeprefix("aten.") + (f" at '{op.module}'" if op.module else ""))
        numbers.add(number)
        carried.add(id(op))
    if problems:
        raise ChartError(
            f"the paths through {', '.join(dict.fromkeys(problems))} are not known",
            allowed="linear and convolution layers, ReLU and its kin, pooling, batch-norm, additions and reshapes",
        )
    return carried


def _squared(value: Any) -> Any:
    """The square, with 1 as its derivative: what is differentiated by is the square itself."""
    return None if value is None else value.detach().square() + (value - value.detach())


def _sums(value: Any) -> Tensor:
    """The sums of a value on its way; the model's input is a plain tensor of ones, as its squares are."""
    if isinstance(value, Squares):
        return value.sums
    if not isinstance(value, Tensor):
        raise _PathsEndError
    return value


def _factor(value: Any) -> Any:
    """The square of what a value is multiplied by or what is added to it, which must not come from the input."""
    if isinstance(value, Squares):
        raise _PathsEndError
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
    value, gamma, beta = _sums(named["input"]), _squared(named["weight"]), _squared(named["bias"])
    place = [1, -1, *[1] * (value.ndim - 2)]
    if named["training"]:
        size = value.detach().movedim(1, 0).flatten(1).mean(1)
        value = value / torch.where(size > 0, size, 1.0).reshape(place)
    else:
        value = value + named["running_mean"].square().reshape(place)
        value = value / (named["running_var"] + named["eps"]).reshape(place)
    value = value if gamma is None else value * gamma.reshape(place)
    return value if beta is None else value + beta.reshape(place)


def _add(_op: Op, named: dict[str, Any]) -> Tensor:
    one, two = (_sums(value) if isinstance(value, Squares) else _factor(value) for value in _pair(named))
    result: Tensor = one + float(named.get("alpha", 1)) ** 2 * two
    return result


def _pair(named: dict[str, Any]) -> tuple[Any, Any]:
    return named["self"], named["other"]


def _times(op: Op, named: dict[str, Any]) -> Tensor:
    one, two = _pair(named)
    if op.name == "aten.div":
        quotient: Tensor = _sums(one) / _factor(two)
        return quotient
    value, number = (one, two) if isinstance(one, Squares) or not isinstance(two, Squares) else (two, one)
    product: Tensor = _sums(value) * _factor(number)
    return product


def _mean(op: Op, named: dict[str, Any]) -> Tensor:
    value = _sums(named["self"])
    if not named.get("dim"):
        raise _PathsEndError
    summed: Tensor = value.sum(named["dim"], keepdim=named["keepdim"])
    if op.name == "aten.sum":
        return summed
    averaged: Tensor = summed / math.prod(value.shape[axis] for axis in named["dim"]) ** 2
    return averaged


def _max_pool(op: Op, named: dict[str, Any]) -> Tensor:
    value = _sums(named["self"])
    return window_sum(value, named, per_axis_numbers(named["padding"], value.ndim - 2), op.shape[2:])


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
    for axis, (before, after) in enumerate(zip(value.shape[2:], op.shape[2:], strict=True), start=2):
        widths = [-(-(i + 1) * before // after) - i * before // after for i in range(after)]
        place = [-1 if k == axis else 1 for k in range(value.ndim)]
        pooled = pooled / value.new_tensor(widths).reshape(place)
    return pooled


def _same(_op: Op, named: dict[str, Any]) -> Tensor:
    return _sums(named["self"] if "self" in named else named["input"])


def _moved(op: Op, named: dict[str, Any]) -> Tensor:
    def inner(value: Any) -> Any:
        return value.sums if isinstance(value, Squares) else _squared(value) if isinstance(value, Tensor) else value

    key = next(iter(named))
    moved = [inner(item) for item in named[key]] if isinstance(named[key], tuple | list) else inner(named[key])
    # the sums may be a view with stride 0, which `view` refuses where `reshape` does the same thing
    target = op.target.replace("aten.view.", "aten.reshape.").replace("aten._unsafe_view.", "aten.reshape.")
    value: Tensor = resolve(target)(moved, *list(named.values())[1:])
    return value


_SAME = (
    "relu", "leaky_relu", "prelu", "neg", "dropout", "feature_dropout", "contiguous", "clone", "alias", "detach", "to",
    "rrelu", "abs", "clamp", "clamp_min", "clamp_max", "threshold", "lift_fresh_copy",
)  # fmt: skip
_SEVERAL = ("chunk", "split", "split_with_sizes", "tensor_split", "unbind")
"""Operations with several values, which have no sums here."""

HANDLERS: dict[str, Handler] = {
    **{f"aten.{name}": _weighted for name in ("linear", *(f"conv{n}d" for n in (1, 2, 3)))},
    **{f"aten.conv_transpose{n}d": _weighted for n in (1, 2, 3)},
    "aten.matmul": _matmul,
    "aten.mm": _matmul,
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
    **{f"aten.{name}": _moved for name in (*MOVES, "cat", "concat", "concatenate") if name not in _SEVERAL},
}
"""What each operation does to the squares on their way."""
