"""Re-basing by brute force: every edge's path value multiplied out, and the weak ones replaced."""

from __future__ import annotations

import math

import numpy as np

from eclab.network.frozen import works_on_edges
from eclab.network.network import TracedNetwork, Weight
from eclab.optim.reference_basis import a_chain, b_chain
from eclab.paths.skeleton import Edge, Skeleton


@works_on_edges
def rebased_skeleton(net: TracedNetwork, skeleton: Skeleton, threshold: float) -> tuple[Skeleton, int]:
    """The skeleton in which each edge below ``threshold`` of its largest sibling is replaced by that one.

    Args:
        net: the network, at the weights as they are now.
        skeleton: the present one.
        threshold: in (0, 1).

    Returns:
        The new skeleton, and how many edges were replaced.

    Source: theory §4; the rule is that of :func:`eclab.paths.rebase.rebased`.
    """
    a = {scale: _kept_or_strongest(net, skeleton, scale, threshold, by_head=True) for scale in skeleton.a}
    b = {scale: _kept_or_strongest(net, skeleton, scale, threshold, by_head=False) for scale in skeleton.b}
    replaced = [a[s] != edge for s, edge in skeleton.a.items()] + [b[s] != edge for s, edge in skeleton.b.items()]
    return Skeleton(a, b), sum(replaced)


def _kept_or_strongest(net: TracedNetwork, skeleton: Skeleton, scale: int, threshold: float, *, by_head: bool) -> Edge:
    own = (skeleton.a if by_head else skeleton.b)[scale]
    values = {edge: _size(net, skeleton, edge) for edge in _siblings(net, scale, by_head=by_head)}
    best = max(values, key=lambda edge: values[edge], default=own)
    return best if _size(net, skeleton, own) < threshold * values.get(best, 0.0) else own


def _siblings(net: TracedNetwork, scale: int, *, by_head: bool) -> list[Edge]:
    """The weights into (or out of) a scale whose other end comes before it, so that chains never run in a circle."""
    place = _places(net, by_head=by_head)
    found = []
    for weight in _candidates(net):
        for index in np.ndindex(weight.shape):
            edge = Edge(weight.name, index, *weight.ends(index))
            near, far = (edge.head, edge.tail) if by_head else (edge.tail, edge.head)
            if int(net.scale_of[near]) == scale and place[int(net.scale_of[far])] < place[scale]:
                found.append(edge)
    return found


def _places(net: TracedNetwork, *, by_head: bool) -> dict[int, float]:
    """At which weight each scale is reached first, counted from the inputs, or from the outputs back; 0 for ground."""
    found: dict[int, float] = dict.fromkeys(range(net.num_units + 1), 0.0)
    weights = _candidates(net) if by_head else _candidates(net)[::-1]
    for place, weight in reversed([*enumerate(weights, start=1)]):
        for unit in (weight.head if by_head else weight.tail).reshape(-1).tolist():
            found[int(net.scale_of[unit])] = place
    return found | {0: 0.0}


def _candidates(net: TracedNetwork) -> list[Weight]:
    return [weight for weight in net.weights if weight.kind != "bias" and not weight.shared]


def _size(net: TracedNetwork, skeleton: Skeleton, edge: Edge) -> float:
    """``|cin(u) w_e cout(v)|``, where a chain that ends before a batch-norm counts relative to its unit."""
    down = b_chain(net, skeleton, edge.head)
    last = down[-1].head if down else edge.head
    relative = a_chain(net, skeleton, last)
    size = math.prod(_weight(net, e) for e in (*a_chain(net, skeleton, edge.tail), edge, *down))
    return abs(size / math.prod(_weight(net, e) for e in relative))


def _weight(net: TracedNetwork, edge: Edge) -> float:
    return float(net.weight(edge.parameter).parameter.detach()[edge.index])
