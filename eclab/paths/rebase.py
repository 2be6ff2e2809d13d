"""Re-basing: another skeleton edge where the present one has become weak against its siblings (theory §4)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from eclab.errors import ChartError
from eclab.kernels import torch_core as core
from eclab.network.frozen import works_on_edges
from eclab.network.network import TracedNetwork
from eclab.paths.by_hand import ordered
from eclab.paths.chart import Chart
from eclab.paths.skeleton import Edge, Skeleton
from eclab.paths.strongest import edge_at, largest, skeleton_weights


@torch.no_grad()
@works_on_edges
def rebased(chart: Chart, threshold: float) -> Chart | None:
    """The chart with every weak skeleton edge replaced by its strongest sibling; no weight changes.

    With ``p_e = cin(u) w_e cout(v)``, the value of the path ``a-chain(u) + e + b-chain(v)``, an edge ``a(v)`` or
    ``b(u)`` is weak where ``|p| < threshold · max |p_e|`` over its siblings, the weights that lead to the same unit or
    leave it. The ``p_e`` are path values, so all members of a class re-base alike. Siblings through which the chains
    would run in a circle do not count.

    Args:
        chart: the chart, at the weights as they are now.
        threshold: in (0, 1); how weak an edge may become.

    Returns:
        The new chart, or None where no edge is weak.

    Source: theory §4; the rule is eclab's own.
    """
    net = chart.net
    weights, plan = chart.parameters(), chart.plan
    chain = core.chains(plan, [weight.detach().cpu() for weight in weights])
    a = _replaced(chart, chain.cin, threshold, by_head=True)
    b = _replaced(chart, chain.cout, threshold, by_head=False)
    if a == chart.skeleton.a and b == chart.skeleton.b:
        return None
    try:
        return Chart(net, Skeleton(ordered(net, a, by_head=True), ordered(net, b, by_head=False)))
    except ChartError:  # edges chosen by hand may run against the order of the layers, and together in a circle
        return None


def changes(old: Chart, new: Chart) -> list[list[object]]:
    """What re-basing changed, as plain data: ``["a" or "b", scale, parameter, index]`` an edge."""
    return [
        [side, scale, edge.parameter, list(edge.index)]
        for side, before, after in (("a", old.skeleton.a, new.skeleton.a), ("b", old.skeleton.b, new.skeleton.b))
        for scale, edge in after.items()
        if before[scale] != edge
    ]


def changed(chart: Chart, listed: list[list[object]]) -> Chart:
    """The chart with the changes that :func:`changes` listed."""
    sides: dict[object, dict[int, Edge]] = {"a": dict(chart.skeleton.a), "b": dict(chart.skeleton.b)}
    for side, scale, parameter, index in listed:
        place = tuple(int(i) for i in index)  # type: ignore[attr-defined]
        weight = chart.net.weight(str(parameter))
        sides[side][int(scale)] = Edge(weight.name, place, *weight.ends(place))  # type: ignore[call-overload]
    a, b = sides["a"], sides["b"]
    return Chart(chart.net, Skeleton(ordered(chart.net, a, by_head=True), ordered(chart.net, b, by_head=False)))


def _replaced(chart: Chart, chain: Tensor, threshold: float, *, by_head: bool) -> dict[int, Edge]:
    net = chart.net
    chosen = chart.skeleton.a if by_head else chart.skeleton.b
    logs = chain.abs().log()
    offers = _offers(net, logs, _rank(net, by_head=by_head), by_head=by_head)
    found = dict(chosen)
    for scale, edge in chosen.items():
        far = int(net.scale_of[edge.tail if by_head else edge.head])
        own = float(net.weight(edge.parameter).parameter[edge.index].abs().double().log() + logs[far])
        best, sibling = offers.get(scale, (own, edge))
        if own - best < math.log(threshold):
            found[scale] = sibling
    return found


def _rank(net: TracedNetwork, *, by_head: bool) -> Tensor:
    """int64 ``[H + 1]``: which weight reaches a scale first, from the inputs on or from the outputs back; 0 on ground.

    Edges from later to earlier ranks cannot run in a circle.
    """
    rank = torch.zeros(net.num_units + 1, dtype=torch.int64)
    weights = skeleton_weights(net)
    for place, weight in enumerate(weights if by_head else weights[::-1], start=1):
        near = torch.unique(net.scale_of[weight.head if by_head else weight.tail])
        fresh = near[(near > 0) & (rank[near] == 0)]
        rank[fresh] = place
    return rank


def _offers(net: TracedNetwork, logs: Tensor, rank: Tensor, *, by_head: bool) -> dict[int, tuple[float, Edge]]:
    """For every scale its largest sibling whose far end comes before it, and so keeps the forest."""
    offers: dict[int, tuple[float, Edge]] = {}
    scale = net.scale_of
    for weight in skeleton_weights(net):
        before = rank[scale] < int(rank[scale[weight.head if by_head else weight.tail]].max())
        found = largest(weight, torch.where(before, logs[scale], -torch.inf), by_head=by_head)
        for unit, log, place in zip(found.units.tolist(), found.logs.tolist(), found.places.tolist(), strict=True):
            mine = int(scale[unit])
            if log <= offers.get(mine, (-float("inf"), None))[0]:
                continue
            edge = edge_at(weight, place)
            if rank[scale[edge.tail if by_head else edge.head]] < rank[mine]:
                offers[mine] = (log, edge)
    return offers
