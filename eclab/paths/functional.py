"""A chart as pure functions ``v(w)`` and ``w(v)``, through which torch differentiates as often as one likes.

:class:`~eclab.paths.chart.Chart` reads and writes the live weights; these take tensors and return tensors. Nothing is
written in place, so ``torch.autograd`` and ``torch.func`` go through them; every level of a chain makes one new tensor
of ``H + 1`` numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from eclab.kernels import torch_core as core
from eclab.kernels.plan import Edges, Plan
from eclab.network.frozen import edge_gradients, edges_of, weights_of
from eclab.paths.chart import Chart

Named = dict[str, Tensor]
"""One tensor for each parameter that has coordinates, of its shape."""


def live_weights(chart: Chart) -> Named:
    """The live parameters by name; what is computed from them can be differentiated down to them."""
    return {weight.name: weight.parameter for weight in chart.weights}


def coordinates(chart: Chart, weights: Mapping[str, Tensor]) -> Named:
    """The values of the basis paths at any weights, as a function that can be differentiated.

    ``v_e = cin(u) · w_e · cout(v)``; tree entries are no coordinates and hold the weight.

    Args:
        chart: the chart; its network's own weights are not read.
        weights: ``w`` by parameter name, floating point, of the parameters' shapes.

    Returns:
        As :meth:`Chart.coordinates <eclab.paths.chart.Chart.coordinates>`: a tensor for each parameter, of its dtype.

    Example:
        >>> import torch, eclab
        >>> from eclab.paths import functional
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 2))
        >>> chart = eclab.trace(model, torch.ones(1, 2)).chart()
        >>> v = functional.coordinates(chart, functional.live_weights(chart))
        >>> v["0.bias"].sum().backward()
        >>> bool((model[0].bias.grad == model[2].weight.diagonal()).all())  # v = b · cout
        True

    Source: theory §2.
    """
    plan, tensors = _ordered(chart, edges_of(chart.net, weights))
    cin, cout = path_factors(plan, tensors)
    values = [
        tensor * core.spread(cin, tail, tensor) * core.spread(cout, head, tensor)
        for tensor, head, tail in zip(tensors, plan.heads, plan.tails, strict=True)
    ]
    tree = [tensors[edges.weight][edges.index] for edges in plan.tree]
    return _named(chart, _with_entries(values, plan.tree, tree))


def allocate(chart: Chart, coordinates: Mapping[str, Tensor]) -> Named:
    """The weights with these coordinates, as a function that can be differentiated: weight allocation (WA).

    ``w_e = v_e / (cin(u) · cout(v))``, from the outputs back. Tree entries are read as the tree's weights, so this is
    the inverse of :func:`coordinates` on all ``m`` entries.

    Args:
        chart: the chart; its network's own weights are neither read nor written.
        coordinates: as :func:`coordinates` returns them. The edge of the chart is not checked here: a skeleton
            coordinate of 0 gives infinite weights.

    Returns:
        The weights by parameter name.

    Source: Meng et al. 2018, section 4.3 (WA); theory §2.
    """
    plan, values = _ordered(chart, coordinates)
    cin = _cin(plan, values)
    cout, b_weights = _cout_of_coordinates(plan, values, cin)
    weights = [
        value * core.spread(1 / cin, tail, value) * core.spread(1 / cout, head, value)
        for value, head, tail in zip(values, plan.heads, plan.tails, strict=True)
    ]
    tree = [values[edges.weight][edges.index] for edges in plan.tree]
    edges = _named(chart, _with_entries(_with_entries(weights, plan.b_edges, b_weights), plan.tree, tree))
    return weights_of(chart.net, edges)


def gradients(chart: Chart, weights: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> Named:
    """``δ_e = ∂L/∂v_e`` at any weights by the inverse chain rule (ICR).

    Args:
        chart: the chart; its network's own weights are not read.
        weights: ``w`` by parameter name.
        gradients: ``∂L/∂w`` at these weights by parameter name.

    Returns:
        As :meth:`Chart.gradients <eclab.paths.chart.Chart.gradients>`; 0 at tree entries. Where a skeleton weight is 0
        the chart has no such point, and entries are infinite or NaN.

    Source: Meng et al. 2018, section 4.2 (ICR); theory §3.
    """
    plan, tensors = _ordered(chart, edges_of(chart.net, weights))
    _, grads = _ordered(chart, edge_gradients(chart.net, gradients))
    chain = core.chains(plan, tensors)
    flow = core.through_flow(plan, chain, core.row_sums(plan, tensors, grads), grads)
    deltas = [
        grad * core.spread(1 / chain.cin, tail, grad) * core.spread(1 / chain.cout, head, grad)
        for grad, head, tail in zip(grads, plan.heads, plan.tails, strict=True)
    ]
    deltas = _with_entries(deltas, plan.b_edges, core.b_gradients(plan, chain, flow, grads))
    return _named(chart, _with_entries(deltas, plan.tree, [torch.zeros_like(value) for value in chain.tree]))


def skeleton_values(chart: Chart, coordinates: Mapping[str, Tensor]) -> Tensor:
    """The coordinates of skeleton paths: those of b-edges outside the tree, float64 ``[n]``."""
    plan, values = _ordered(chart, coordinates)
    found = [core.values_at(values, edges)[~edges.in_tree] for edges in plan.b_edges]
    return torch.cat([values[0].new_empty(0, dtype=torch.float64), *found])


def without_skeleton(chart: Chart, coordinates: Mapping[str, Tensor]) -> Named:
    """The coordinates with 0 in place of those of skeleton paths and of the tree's entries."""
    plan, values = _ordered(chart, coordinates)
    skeleton = (*plan.b_edges, *plan.tree)
    return _named(chart, _with_entries(values, skeleton, [values[0].new_zeros(len(e.scale)) for e in skeleton]))


def path_factors(plan: Plan, weights: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """``cin`` and ``cout`` of every scale, float64 ``[H + 1]`` each, 1 on ground."""
    cin = _cin(plan, weights)
    cout = _cout_start(plan, cin)
    for edges in plan.b_edges:
        cout = cout.scatter(0, edges.scale, core.values_at(weights, edges) * cout[edges.other])
    return cin, cout


def _cin(plan: Plan, weights: Sequence[Tensor]) -> Tensor:
    cin = torch.ones(plan.num_scales, dtype=torch.float64, device=weights[0].device)
    for edges in plan.tree:
        cin = cin.scatter(0, edges.scale, cin[edges.other] * core.values_at(weights, edges))
    return cin


def _cout_start(plan: Plan, cin: Tensor) -> Tensor:
    """``cout`` before any b-edge: scales without one have coordinates relative to their tree edge."""
    return torch.ones_like(cin).scatter(0, plan.scale_free, 1 / cin[plan.scale_free])


def _cout_of_coordinates(plan: Plan, values: Sequence[Tensor], cin: Tensor) -> tuple[Tensor, list[Tensor]]:
    cout = _cout_start(plan, cin)
    b_weights = []
    for edges in plan.b_edges:
        value = core.values_at(values, edges)
        w = torch.where(edges.in_tree, value, value / (cin[edges.scale] * cout[edges.other]))
        cout = cout.scatter(0, edges.scale, w * cout[edges.other])
        b_weights.append(w)
    return cout, b_weights


def _ordered(chart: Chart, tensors: Mapping[str, Tensor]) -> tuple[Plan, list[Tensor]]:
    found = [tensors[weight.name] for weight in chart.weights]
    return chart.plan_on(found[0].device), found


def _with_entries(tensors: Sequence[Tensor], batches: Sequence[Edges], values: Sequence[Tensor]) -> list[Tensor]:
    """The tensors with other values at these edges; each tensor is copied once, whatever the number of batches."""
    by_weight: dict[int, list[tuple[Edges, Tensor]]] = {}
    for edges, value in zip(batches, values, strict=True):
        by_weight.setdefault(edges.weight, []).append((edges, value))
    changed = list(tensors)
    for number, found in by_weight.items():
        index = tuple(torch.cat(axis) for axis in zip(*(edges.index for edges, _ in found), strict=True))
        value = torch.cat([value for _, value in found]).to(tensors[number].dtype)
        changed[number] = tensors[number].index_put(index, value)
    return changed


def _named(chart: Chart, tensors: Sequence[Tensor]) -> Named:
    return {weight.name: tensor for weight, tensor in zip(chart.weights, tensors, strict=True)}
