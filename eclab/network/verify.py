"""Do the rules hold in numbers? Every operation's value is compared with what its units' scales say it must be."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from eclab.errors import TraceError
from eclab.network.frozen import edges_of, weights_of
from eclab.network.graph import Op, inputs_of
from eclab.network.network import TracedNetwork
from eclab.network.rule import at
from eclab.network.run import plain_call, run

_TOLERANCE = 1e-7
_SIGMAS = (0.5, 2.0, 4.0)
_EPS = {
    "aten.batch_norm": 7,
    "aten._native_batch_norm_legit_functional": 7,
    "aten.group_norm": 4,
    "aten.instance_norm": 7,
}
"""Where an operation's eps stands: a norm takes a scale away up to it, so next to none is used here."""
_TINY = 1e-30

Values = list[Any]


@torch.no_grad()
def verify_rules(net: TracedNetwork, labels: dict[int, Tensor], x: Any) -> None:
    """Rescales every free unit at random, several times, and looks for the first operation that does not follow.

    In float64, on the first samples of ``x`` and on noise. With the labels of its value an operation promises that
    every element scales with its unit; the first one that breaks this though all it reads keeps it has a wrong rule.

    Args:
        net: the traced network; nothing in it is changed.
        labels: for the number of every operation the units of its value.
        x: input as the model takes it.

    Raises:
        TraceError: a rule does not hold; it names the operation and its module.

    Source: theory §1, the function does not change under ``g_c``.
    """
    like = torch.zeros((), dtype=torch.float64, device=next(net.model.parameters()).device)
    generator = torch.Generator().manual_seed(0)
    own = {weight.name: weight.parameter.detach().to(like) for weight in net.weights}
    few = tuple(item[:2] for item in inputs_of(x))
    for sigma in _SIGMAS:
        before = run(net, few, own, like=like, call=_with_tiny_eps)
        c = torch.cat([torch.zeros(1), sigma * torch.randn(net.num_units, generator=generator)]).double().exp()
        c = c[net.scale_of].to(like)
        after = run(net, few, _rescaled(net, own, c), like=like, call=_with_tiny_eps)
        _compare(net, labels, c, before, after)
        few = tuple(
            torch.randn(item.shape, generator=generator).to(item) if item.is_floating_point() else item for item in few
        )


def _rescaled(net: TracedNetwork, own: dict[str, Tensor], c: Tensor) -> dict[str, Tensor]:
    edges = edges_of(net, own)
    moved = {weight.name: edges[weight.name] * (c[weight.head] / c[weight.tail]) for weight in net.weights}
    return weights_of(net, moved)


def _with_tiny_eps(op: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    place = _EPS.get(op.name)
    training = op.name == "aten.group_norm" or (place is not None and bool(args[5]))
    if place is not None and training and len(args) > place:
        args = (*args[:place], _TINY, *args[place + 1 :])
    return plain_call(op, args, kwargs)


def _compare(net: TracedNetwork, labels: dict[int, Tensor], c: Tensor, before: Values, after: Values) -> None:
    broken: set[int] = set()
    for number, op in enumerate(net.operations):
        holds = number not in labels or _follows(before[number], after[number], c[labels[number]])
        if not holds and not broken.intersection(op.refs()):
            raise TraceError(
                f"the rule of {op.name}{at(op)} does not hold: its value does not scale with its units",
                allowed="f(c·z) = c·f(z) for every c > 0 where a rule lets a scale through",
                fix="register a rule that pins its units, or correct it",
            )
        if not holds:
            broken.add(number)


def _follows(before: Any, after: Any, c: Tensor) -> bool:
    if not isinstance(before, Tensor) or not before.is_floating_point() or not bool(before.isfinite().all()):
        return True
    gap = after / c.expand(before.shape) - before
    return bool(gap.abs().amax() <= _TOLERANCE * before.abs().amax()) if before.numel() else True
