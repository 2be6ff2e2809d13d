"""Between weights and class coordinates in plain torch: values, gradients both ways, and weight allocation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from eclab.kernels import torch_core as core
from eclab.kernels.plan import Edges, Plan


def coordinates(plan: Plan, weights: Sequence[Tensor], chain: core.Chains) -> list[Tensor]:
    """``v_e = cin(u) · w_e · cout(v)`` of every weight; tree entries are no coordinates and are left at 0."""
    values = [
        _times(weight, chain.cin[tails], chain.cout[heads])
        for weight, heads, tails in zip(weights, plan.heads, plan.tails, strict=True)
    ]
    _put(plan.tree, values, [torch.zeros_like(value) for value in chain.tree])
    return values


def class_gradients(
    plan: Plan, weights: Sequence[Tensor], gradients: Sequence[Tensor | None], chain: core.Chains
) -> list[Tensor | None]:
    """``δ = ∂L/∂v`` by the inverse chain rule; 0 at tree entries, None where a weight has no gradient."""
    flow = core.through_flow(plan, chain, core.row_sums(plan, weights, gradients), gradients)
    deltas = [
        None if gradient is None else _times(gradient, 1 / chain.cin[tails], 1 / chain.cout[heads])
        for gradient, heads, tails in zip(gradients, plan.heads, plan.tails, strict=True)
    ]
    _put(plan.b_edges, deltas, core.b_gradients(plan, chain, flow, gradients))
    _put(plan.tree, deltas, [torch.zeros_like(value) for value in chain.tree])
    return deltas


def weight_gradients(
    plan: Plan, weights: Sequence[Tensor], deltas: Sequence[Tensor | None], chain: core.Chains
) -> list[Tensor | None]:
    """``∂L/∂w = (∂v/∂w)ᵀ δ``, the chain rule that :func:`class_gradients` inverts.

    Off the skeleton ``g_e = cin(u) cout(v) δ_e``. On a b-edge ``w_b g_b = v_b δ_b + T_u``, with
    ``T_v = Σ_{e into v} v_e δ_e + Σ_{b-edges into v} T_tail``. The tree's follow from ``Σ_in w g = Σ_out w g``.
    """
    flow = torch.zeros_like(chain.cin)
    gradients: list[Tensor | None] = []
    for delta, heads, tails in zip(deltas, plan.heads, plan.tails, strict=True):
        gradients.append(None if delta is None else _times(delta, chain.cin[tails], chain.cout[heads]))
    _put(plan.tree, gradients, [torch.zeros_like(value) for value in chain.tree])  # whatever the deltas hold there
    flow += core.row_sums(plan, weights, gradients)
    for edges in reversed(plan.b_edges):
        flow.index_add_(0, edges.other, flow[edges.scale])
    on_b = []
    for edges, value, v in zip(plan.b_edges, chain.b, chain.b_coordinates(plan), strict=True):
        delta = deltas[edges.weight]
        own = v * delta[edges.index].double() if delta is not None else torch.zeros_like(v)
        on_b.append(torch.where(edges.in_tree, 0.0, (own + flow[edges.scale]) / value))
    _put(plan.b_edges, gradients, on_b)
    _put(plan.tree, gradients, _on_the_tree(plan, weights, gradients, chain))
    return gradients


def _on_the_tree(
    plan: Plan, weights: Sequence[Tensor], gradients: Sequence[Tensor | None], chain: core.Chains
) -> list[Tensor]:
    """What the tree edges must carry so that every scale gives out what it takes in."""
    missing = column_sums(plan, weights, gradients) - core.row_sums(plan, weights, gradients)
    found: list[Tensor] = []
    for edges, value in zip(reversed(plan.tree), reversed(chain.tree), strict=True):
        carried = missing[edges.scale]
        missing.index_add_(0, edges.other, carried)
        found.append(carried / value)
    return found[::-1]


def column_sums(plan: Plan, weights: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> Tensor:
    """``Σ_{e out of u} w_e g_e`` per scale, float64 ``[H + 1]``; entry 0 has what comes from ground."""
    total = torch.zeros(plan.num_scales, dtype=torch.float64, device=weights[0].device)
    for weight, gradient, tails in zip(weights, gradients, plan.tails, strict=True):
        if gradient is not None:
            product = (weight * gradient).double()
            units = tails.reshape((1,) * (product.ndim - tails.ndim) + tails.shape)
            spread = [axis for axis, size in enumerate(units.shape) if size == 1]
            sums = product.sum(spread, keepdim=True) if spread else product
            total.index_add_(0, units.reshape(-1), sums.reshape(-1))
    return total


def allocated(plan: Plan, chain: core.Chains, values: Sequence[Tensor], v_new: Sequence[Tensor]) -> list[Tensor]:
    """Weight allocation (WA): the weights with these coordinates and the tree weights of ``chain``, as new tensors.

    Args:
        plan, chain: the chart, and its chains at the present weights.
        values: the new coordinates, shaped like the weights and in their dtype; not read on the skeleton.
        v_new: float64, the new coordinates of the b-edges, one tensor per entry of the plan.
    """
    cout, b_weights = core.allocate_b(plan, chain, v_new)
    new = [
        _times(value, 1 / chain.cin[tails], 1 / cout[heads])
        for value, heads, tails in zip(values, plan.heads, plan.tails, strict=True)
    ]
    core.write_skeleton(plan, new, chain, b_weights)
    return new


def _times(tensor: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """``tensor ⊙ first ⊙ second`` in the tensor's dtype, whatever the factors' range alone."""
    one, two = core.split_pair(first, second)
    return tensor * one.to(tensor.dtype) * two.to(tensor.dtype)


def _put(batches: Sequence[Edges], tensors: Sequence[Tensor | None], values: Sequence[Tensor]) -> None:
    for edges, value in zip(batches, values, strict=True):
        tensor = tensors[edges.weight]
        if tensor is not None:
            tensor.index_put_(edges.index, value.to(tensor.dtype))
