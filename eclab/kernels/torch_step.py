"""The EC-SGD step over the torch path core: everything is worked out and checked before the first weight changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from eclab.kernels import torch_core as core
from eclab.kernels.plan import Plan
from eclab.kernels.settings import Outcome, StepSettings

_SAFE = 1e30
"""Factors of a float32 weight stay within 1/_SAFE … _SAFE, or are balanced against each other first."""


@dataclass(eq=False)
class Prepared:
    """A step worked out for the skeleton and not yet applied.

    Attributes:
        chain: the chart at the old weights.
        cout: float64 ``[H + 1]``, the new products along the b-chains.
        b_weights: the new weights of the b-edges.
        b_buffers: the new momentum of the b-coordinates; empty without momentum.
        guarded: int64 scalar, how many b-coordinates the guard held back.
        wide: whether some factor leaves the safe range of float32.
        finite: whether every number of the step is finite and no path value became 0.
    """

    chain: core.Chains
    cout: Tensor
    b_weights: list[Tensor]
    b_buffers: list[Tensor]
    guarded: int
    wide: bool
    finite: bool


def step(
    plan: Plan,
    weights: Sequence[Tensor],
    gradients: Sequence[Tensor | None],
    buffers: Sequence[Tensor | None],
    settings: StepSettings,
) -> Outcome:
    """One step, in place; nothing is changed where some number of it is not finite.

    Args:
        plan: the chart.
        weights: the parameters, in the plan's order.
        gradients: theirs; None for a frozen weight.
        buffers: the momentum of their coordinates; None for a frozen weight, and for all without momentum.
        settings: the numbers of the step.
    """
    if settings.maximize:
        gradients = [None if gradient is None else -gradient for gradient in gradients]
    prepared = prepare(plan, weights, gradients, buffers, settings)
    if prepared.finite:
        apply(plan, weights, gradients, buffers, settings, prepared)
    return Outcome(prepared.finite, prepared.guarded)


def prepare(
    plan: Plan,
    weights: Sequence[Tensor],
    gradients: Sequence[Tensor | None],
    buffers: Sequence[Tensor | None],
    settings: StepSettings,
) -> Prepared:
    """Phases 1 and 2 of the step: row sums, then everything that belongs to units. Changes nothing."""
    chain = core.chains(plan, weights)
    sums = core.row_sums(plan, weights, gradients)
    flow = core.through_flow(plan, chain, sums, gradients)
    v_new, b_buffers = [], []
    guarded = torch.zeros((), dtype=torch.int64, device=sums.device)
    deltas = core.b_gradients(plan, chain, flow, gradients)
    for edges, v, delta in zip(plan.b_edges, chain.b_coordinates(plan), deltas, strict=True):
        direction = delta + settings.weight_decay * v
        if settings.momentum:
            old = buffers[edges.weight]
            direction = direction if old is None else settings.momentum * old[edges.index].double() + direction
            b_buffers.append(direction)
            if settings.nesterov:
                direction = delta + settings.weight_decay * v + settings.momentum * direction
        moved = v - settings.lr * direction
        held = (moved / v < settings.guard) & ~edges.in_tree
        guarded += held.sum()
        v_new.append(torch.where(held, settings.guard * v, moved))
    cout, b_weights = core.allocate_b(plan, chain, v_new)
    guarded_moves, wide, finite = _judge(chain, cout, sums, guarded)
    return Prepared(chain, cout, b_weights, b_buffers, guarded_moves, wide, finite)


def _judge(chain: core.Chains, cout: Tensor, sums: Tensor, guarded: Tensor) -> tuple[int, bool, bool]:
    """All that the host must know of a step, in one transfer."""
    sizes = torch.stack([chain.cin, chain.cout, cout]).abs()
    largest, smallest, total, held = torch.stack(
        [sizes.amax(), sizes.amin(), sums.abs().sum(), guarded.double()]
    ).tolist()
    finite = largest < float("inf") and smallest > 0 and total < float("inf")
    return int(held), not (largest < _SAFE**0.5 and smallest > _SAFE**-0.5), finite


def apply(
    plan: Plan,
    weights: Sequence[Tensor],
    gradients: Sequence[Tensor | None],
    buffers: Sequence[Tensor | None],
    settings: StepSettings,
    prepared: Prepared,
) -> None:
    """Phase 3: the update of every weight with weight allocation, in place.

    Without momentum a weight becomes ``(1 − ηλ) w cout/cout' − η g / (cin² cout cout')``.
    """
    chain, cout = prepared.chain, prepared.cout
    alpha = chain.cout / cout
    for k, (weight, gradient) in enumerate(zip(weights, gradients, strict=True)):
        if gradient is None:  # a frozen weight; its ends are ground, so no factor reaches it
            continue
        heads, tails, buffer = plan.heads[k], plan.tails[k], buffers[k]
        if buffer is None:
            keep = (1 - settings.lr * settings.weight_decay) * alpha
            beta = (settings.lr / (chain.cout * cout))[heads]
            gamma = (1 / chain.cin.square())[tails]
        else:
            _accumulate(weight, gradient, buffer, heads, tails, chain, settings)
            direction = buffer
            if settings.nesterov:
                direction = _direction(weight, gradient, heads, tails, chain, settings).add_(
                    buffer, alpha=settings.momentum
                )
            keep, gradient = alpha, direction
            beta, gamma = (settings.lr / cout)[heads], (1 / chain.cin)[tails]
        if prepared.wide:
            beta, gamma = core.split_pair(beta, gamma)
        move = gradient * gamma.to(weight.dtype)
        weight.mul_(core.spread(keep, heads, weight)).addcmul_(move, beta.to(weight.dtype), value=-1)
    core.write_skeleton(plan, weights, chain, prepared.b_weights)
    for edges, new in zip(plan.b_edges, prepared.b_buffers, strict=False):
        held = buffers[edges.weight]
        if held is not None:
            held.index_put_(edges.index, new.to(held.dtype))


def _direction(
    weight: Tensor,
    gradient: Tensor,
    heads: Tensor,
    tails: Tensor,
    chain: core.Chains,
    settings: StepSettings,
) -> Tensor:
    """``δ + λ v`` of a whole weight; what it holds at skeleton edges is overwritten later."""
    cin, cout = chain.cin[tails], chain.cout[heads]
    direction = gradient * (1 / cin).to(weight.dtype) * (1 / cout).to(weight.dtype)
    if settings.weight_decay:
        decayed = weight * cin.to(weight.dtype) * cout.to(weight.dtype)
        direction = direction.add_(decayed, alpha=settings.weight_decay)
    return direction


def _accumulate(
    weight: Tensor,
    gradient: Tensor,
    buffer: Tensor,
    heads: Tensor,
    tails: Tensor,
    chain: core.Chains,
    settings: StepSettings,
) -> None:
    buffer.mul_(settings.momentum).add_(_direction(weight, gradient, heads, tails, chain, settings))
