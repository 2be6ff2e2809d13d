"""What the path core knows of a chart, as index arrays on one device: O(H) numbers, never a mask of the weights."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Edges:
    """Some skeleton edges that lie in one weight.

    Attributes:
        weight: number of the weight in the plan.
        index: one int64 ``[n]`` tensor per axis of the weight: where the edges are.
        scale: int64 ``[n]``, the free scale each edge belongs to (its head for tree edges, its tail for b-edges).
        other: int64 ``[n]``, the scale at the edge's other end; 0 on ground.
        in_tree: bool ``[n]``; whether a b-edge is a tree edge too. All True for tree edges.
    """

    weight: int
    index: tuple[Tensor, ...]
    scale: Tensor
    other: Tensor
    in_tree: Tensor


@dataclass(frozen=True, eq=False)
class Plan:
    """A chart compiled for the path core.

    Attributes:
        num_scales: ``H + 1``; number 0 is ground, whose scale is 1.
        heads, tails: per weight, int64, the scale each weight leads to and comes from, broadcasting to its shape.
        tree: tree edges in an order in which each one's tail comes before it (down the a-forest).
        b_edges: b-edges in an order in which each one's head comes before it (from the outputs back).
        scale_free: int64, scales without a b-edge, whose coordinates are relative to their tree edge.
        passes: ``(from, to)`` int64 pairs down the a-forest: ``T_to += T_from`` where a b-edge is a tree edge.
    """

    num_scales: int
    heads: tuple[Tensor, ...]
    tails: tuple[Tensor, ...]
    tree: tuple[Edges, ...]
    b_edges: tuple[Edges, ...]
    scale_free: Tensor
    passes: tuple[tuple[Tensor, Tensor], ...]

    def to(self, device: torch.device | str) -> Plan:
        """The same plan with its arrays on ``device``."""

        def moved(edges: Edges) -> Edges:
            return replace(
                edges,
                index=tuple(axis.to(device) for axis in edges.index),
                scale=edges.scale.to(device),
                other=edges.other.to(device),
                in_tree=edges.in_tree.to(device),
            )

        return Plan(
            self.num_scales,
            tuple(head.to(device) for head in self.heads),
            tuple(tail.to(device) for tail in self.tails),
            tuple(moved(edges) for edges in self.tree),
            tuple(moved(edges) for edges in self.b_edges),
            self.scale_free.to(device),
            tuple((one.to(device), two.to(device)) for one, two in self.passes),
        )
