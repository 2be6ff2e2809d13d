"""The path core in plain torch: the definition that faster ones are compared with.

What belongs to units (chains, T, factors) is float64 whatever the weights are: there are only ``H`` of each, and
products along a deep chain leave the range of float32 long before that of float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from eclab.kernels.plan import Edges, Plan


@dataclass(eq=False)
class Chains:
    """The state of a chart at some weights.

    Attributes:
        cin, cout: float64 ``[H + 1]``, products along the a- and b-chains; 1 on ground (theory §2).
        tree, b: float64 values of the skeleton edges, one tensor per entry of the plan.
    """

    cin: Tensor
    cout: Tensor
    tree: list[Tensor]
    b: list[Tensor]

    def b_coordinates(self, plan: Plan) -> list[Tensor]:
        """``v_b = cin(u) · w_b · cout(head)`` of every b-edge."""
        return [
            self.cin[edges.scale] * value * self.cout[edges.other]
            for edges, value in zip(plan.b_edges, self.b, strict=True)
        ]


def values_at(tensors: Sequence[Tensor], edges: Edges) -> Tensor:
    """float64 ``[n]``: the tensors' entries at these edges."""
    return tensors[edges.weight][edges.index].double()


def chains(plan: Plan, weights: Sequence[Tensor]) -> Chains:
    """Products along the chains: ``cin`` down the a-forest, ``cout`` from the outputs back."""
    cin = torch.ones(plan.num_scales, dtype=torch.float64, device=weights[0].device)
    cout = torch.ones_like(cin)
    tree = [values_at(weights, edges) for edges in plan.tree]
    b = [values_at(weights, edges) for edges in plan.b_edges]
    for edges, value in zip(plan.tree, tree, strict=True):
        cin[edges.scale] = cin[edges.other] * value
    cout[plan.scale_free] = 1 / cin[plan.scale_free]
    for edges, value in zip(plan.b_edges, b, strict=True):
        cout[edges.scale] = value * cout[edges.other]
    return Chains(cin, cout, tree, b)


def row_sums(plan: Plan, weights: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> Tensor:
    """``Σ_{e into v} w_e g_e`` per scale, float64 ``[H + 1]``; entry 0 has what leads to ground.

    Any NaN or infinity in a gradient shows in these sums.
    """
    total = torch.zeros(plan.num_scales, dtype=torch.float64, device=weights[0].device)
    for weight, gradient, heads in zip(weights, gradients, plan.heads, strict=True):
        if gradient is not None:
            total.index_add_(0, heads.reshape(-1), _sum_over_tails(weight, gradient, heads).double())
    return total


def _sum_over_tails(weight: Tensor, gradient: Tensor, heads: Tensor) -> Tensor:
    spread = [axis for axis, size in enumerate(heads.shape) if size == 1]
    if spread and spread == [*range(1, weight.ndim)]:
        sums: Tensor = torch.linalg.vecdot(weight.flatten(1), gradient.flatten(1))
        return sums
    product = weight * gradient
    return (product.sum(spread) if spread else product).reshape(-1)


def through_flow(plan: Plan, chain: Chains, sums: Tensor, gradients: Sequence[Tensor | None]) -> Tensor:
    """``T`` of theory §3, float64 ``[H + 1]``, from the row sums: the part of ``Σ w g`` that flows along b-chains."""
    flow = sums.clone()
    for edges, value in zip(plan.tree, chain.tree, strict=True):
        gradient = gradients[edges.weight]
        if gradient is not None:
            flow[edges.scale] -= value * gradient[edges.index].double()
    for tail, head in plan.passes:
        flow[head] += flow[tail]
    return flow


def b_gradients(plan: Plan, chain: Chains, flow: Tensor, gradients: Sequence[Tensor | None]) -> list[Tensor]:
    """``δ_b = (w_b g_b − T_u) / v_b`` of every b-edge; 0 where the b-edge is a tree edge and so no coordinate."""
    deltas = []
    for edges, value, v in zip(plan.b_edges, chain.b, chain.b_coordinates(plan), strict=True):
        gradient = gradients[edges.weight]
        own = value * gradient[edges.index].double() if gradient is not None else torch.zeros_like(value)
        delta = (own - flow[edges.scale]) / v
        deltas.append(torch.where(edges.in_tree, 0.0, delta))
    return deltas


def allocate_b(plan: Plan, chain: Chains, v_new: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """The new ``cout`` and the new b-weights from the new b-coordinates, from the outputs back (WA)."""
    cout = torch.ones_like(chain.cout)
    cout[plan.scale_free] = chain.cout[plan.scale_free]
    b_weights = []
    for edges, value, v in zip(plan.b_edges, chain.b, v_new, strict=True):
        w = torch.where(edges.in_tree, value, v / (chain.cin[edges.scale] * cout[edges.other]))
        cout[edges.scale] = w * cout[edges.other]
        b_weights.append(w)
    return cout, b_weights


def spread(factor: Tensor, scales: Tensor, like: Tensor) -> Tensor:
    """A factor per scale as one per weight, broadcasting to the weight's shape, in the weight's dtype."""
    return factor[scales].to(like.dtype)


def split_pair(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """The same product ``first ⊗ second`` with the range shared evenly, so that both factors fit the weights' dtype."""
    balance = (first.abs().amax() / second.abs().amax()).sqrt()
    balance = torch.where(balance.isfinite() & (balance > 0), balance, 1.0)
    return first / balance, second * balance


def write_skeleton(plan: Plan, weights: Sequence[Tensor], chain: Chains, b_weights: Sequence[Tensor]) -> None:
    """Puts tree edges back as they were and b-edges to their new values."""
    for edges, w in zip(plan.b_edges, b_weights, strict=True):
        weights[edges.weight].index_put_(edges.index, w.to(weights[edges.weight].dtype))
    for edges, value in zip(plan.tree, chain.tree, strict=True):
        weights[edges.weight].index_put_(edges.index, value.to(weights[edges.weight].dtype))
