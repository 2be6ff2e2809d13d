"""How far a function has moved, beside how far rounding alone can move it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from eclab.network.graph import Op
from eclab.network.network import TracedNetwork
from eclab.network.rules import BY_NAME
from eclab.network.run import plain_call, run


@dataclass(frozen=True)
class FunctionChange:
    """The largest change of an output.

    Attributes:
        max_abs: ``max |N(x; w') − N(x; w)|`` over samples and outputs.
        bound: what rounding each weight once can do at most; None where the network holds something without a bound.
    """

    max_abs: float
    bound: float | None

    def __bool__(self) -> bool:
        """Whether the change is no more than rounding."""
        return self.bound is not None and self.max_abs <= self.bound


@torch.no_grad()
def function_change(before: Mapping[str, Tensor], net: TracedNetwork, x: Any) -> FunctionChange:
    """How far the outputs at ``x`` are from those at earlier weights, beside the bound for rounding.

    Both are evaluated in float64, so that only the weights' own rounding counts: each rescaled weight carries one
    rounding of relative size ``u``, and a path of ``L`` weights one of ``(1 + u)^L − 1``. As ReLU and pooling do not
    enlarge a difference,

    ``|ΔN_k(x)| ≤ ((1 + u)^L − 1) · Σ_p |v_p| |x|``  (plus the evaluation's own, with float64's ``u``).

    Args:
        before: the earlier weights by name.
        net: the network with its weights as they are now.
        x: samples as the model takes them.

    Returns:
        The change and the bound. Dropout counts as identity.

    Source: N. Higham, Accuracy and Stability of Numerical Algorithms, section 3.1, on theory §1.
    """
    like = torch.zeros((), dtype=torch.float64, device=net.weights[0].parameter.device)
    old = run(net, x, before, like=like)[-1]
    new = run(net, x, like=like)[-1]
    change = max(float((a - b).abs().max()) for a, b in zip(old, new, strict=True))
    return FunctionChange(change, _bound(net, x, before, like))


def _bound(net: TracedNetwork, x: Any, before: Mapping[str, Tensor], like: Tensor) -> float | None:
    calls = [op for op in net.operations if op.kind == "call"]
    bounded = [op.name in BY_NAME and BY_NAME[op.name].homogeneous and op.name != "aten.batch_norm" for op in calls]
    if not all(bounded):
        return None
    rounding = torch.finfo(net.weights[0].parameter.dtype).eps / 2
    weights = {name: value.abs() for name, value in before.items()}
    magnitude = run(net, _absolute(x), weights, like=like, call=_majorant)[-1]
    largest = max(float(value.max()) for value in magnitude)
    summands = sum(math.prod(layer.shape[1:]) + 3 for layer in net.layers)
    evaluation = 2 * summands * torch.finfo(torch.float64).eps
    return (math.expm1(len(net.layers) * math.log1p(rounding)) + evaluation) * largest


def _absolute(x: Any) -> Any:
    return tuple(item.abs() for item in x) if isinstance(x, tuple | list) else x.abs()


def _majorant(op: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Runs an operation on magnitudes; an activation enlarges them by at most its steepest slope."""
    if op.name == "aten.leaky_relu":
        return args[0] * max(1.0, abs(args[1] if len(args) > 1 else 0.01))
    if op.name == "aten.prelu":
        slope = args[1].clamp(min=1.0)
        return args[0] * slope.reshape(1, -1, *[1] * (args[0].ndim - 2))
    if op.name == "aten.sub":
        return args[0] + args[1]
    if op.name == "aten.neg":
        return args[0]
    value = plain_call(op, args, kwargs)
    return value.abs() if op.name in ("aten.mul", "aten.div") else value
