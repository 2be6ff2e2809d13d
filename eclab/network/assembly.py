"""From a finished trace to a :class:`TracedNetwork`: equal units are merged, then each scale is free or pinned."""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from eclab.network.labels import compact
from eclab.network.network import SOURCE, Layer, Link, TracedNetwork, Unit, Weight
from eclab.network.tracer import Edges, LayerDraft, Trace


def numbered(trace: Trace) -> dict[int, Tensor]:
    """Labels of every operation's value by the units' last numbers; those of a tuple of values are left out."""
    number, _ = _renumber(trace)
    return {place: _renamed(labels, number) for place, labels in trace.values.items() if isinstance(labels, Tensor)}


def finish(trace: Trace) -> TracedNetwork:
    """The network that a trace has found."""
    number, inputs = _renumber(trace)
    names = Counter(edges.name for edges in trace.items if isinstance(edges, Edges))
    items = tuple(_renumbered(edges, number, trace, names) for edges in trace.items)
    ties = [(number[one], number[other]) for one, other in trace.ties]
    graph = _Graph(items, int(number.max()) + 1, inputs, _numbers(trace.norms, number), ties)
    reasons = _reasons(trace, number, graph)
    scale_of, scale_free = _scales(graph, reasons)
    outputs = _ends(trace, number, graph)
    return TracedNetwork(
        model=trace.model,
        edges=items,
        layers=tuple(_layer(draft, number, outputs) for draft in trace.layers),
        units=_units(trace, number, graph, scale_of, reasons),
        inputs=inputs,
        scale_of=scale_of,
        scale_free=scale_free,
        outside=tuple(name for name in trace.parameters if name not in names),
        outputs=outputs,
        operations=tuple(trace.operations),
        gates=tuple(
            (gate, _renamed(_one_sample(labels), number))
            for gate in trace.gates
            for labels in _each(trace.values[gate])
        ),
        frozen_norms=tuple(trace.frozen_norms),
    )


def _renumbered(edges: Edges | Link, number: Tensor, trace: Trace, names: Counter[str]) -> Weight | Link:
    if isinstance(edges, Link):
        return Link(number[edges.head], number[edges.tail])
    shape = tuple(trace.parameters[edges.name].shape)
    shared = names[edges.name] > 1
    head, tail = number[edges.head], number[edges.tail]
    return Weight(edges.name, edges.kind, head, tail, shape, edges.axes, edges.groups, shared, trace.model)


def _numbers(labels: list[Tensor], number: Tensor) -> set[int]:
    return {unit for units in labels for unit in number[units].tolist()}


def _components(count: int, pairs: list[tuple[Tensor, Tensor]]) -> NDArray[np.int64]:
    """For each of ``count`` things the number of its component under these pairs."""
    one = np.concatenate([np.zeros(0, np.int64), *(pair[0].numpy() for pair in pairs)])
    two = np.concatenate([np.zeros(0, np.int64), *(pair[1].numpy() for pair in pairs)])
    links = coo_array((np.ones(len(one), dtype=np.int8), (one, two)), shape=(count, count))
    return connected_components(links, directed=False)[1].astype(np.int64)


def _renumber(trace: Trace) -> tuple[Tensor, int]:
    """Numbers without gaps after merging: the constant source, the inputs, then all others in order."""
    component = _components(trace.count, trace.merges)
    is_input = np.zeros(trace.count, dtype=bool)
    for units in trace.inputs:
        is_input[units.numpy()] = True
    first = np.full(component.max() + 1, trace.count)
    np.minimum.at(first, component, np.arange(trace.count))
    rank = np.where(first == SOURCE, -1, np.where(is_input[first], 0, 1))
    order = np.lexsort((first, rank))
    position = np.empty_like(order)
    position[order] = np.arange(len(order))
    return torch.from_numpy(position[component].astype(np.int64)), int((rank == 0).sum())


class _Graph:
    """Which units edges lead to and leave, and which units share a scale."""

    def __init__(
        self,
        items: tuple[Weight | Link, ...],
        nodes: int,
        inputs: int,
        normed: set[int],
        ties: list[tuple[Tensor, Tensor]],
    ) -> None:
        self.nodes, self.inputs, self.normed = nodes, inputs, normed
        enters, leaves, weighs = (torch.zeros(nodes, dtype=torch.bool) for _ in range(3))
        for edges in items:
            enters[edges.head.reshape(-1)] = True
            leaves[edges.tail.reshape(-1)] = True
            if isinstance(edges, Weight):
                weighs[edges.tail.reshape(-1)] = True
        self.enters, self.leaves, self.weighs = enters.tolist(), leaves.tolist(), weighs.tolist()
        ties = ties + [(edges.head, edges.tail) for edges in items if isinstance(edges, Link)]
        self.component = _components(nodes, ties).tolist()
        self.members: dict[int, list[int]] = {}
        for unit, component in enumerate(self.component):
            self.members.setdefault(component, []).append(unit)


def _reasons(trace: Trace, number: Tensor, graph: _Graph) -> dict[int, str]:
    """Why a unit is pinned, for every one that is; the first reason found is the one given."""
    reasons: dict[int, str] = {}
    for units, reason in trace.pins:
        for unit in torch.unique(number[units]).tolist():
            reasons.setdefault(unit, reason)
    for unit in range(graph.inputs + 1, graph.nodes):
        if not graph.leaves[unit] and unit not in graph.normed:
            reasons.setdefault(unit, "no weight leaves it")
        if not graph.enters[unit]:
            reasons.setdefault(unit, "no weight leads to it")
    for members in graph.members.values():
        pinned = next((unit for unit in members if unit in reasons), None)
        if len(members) > 1 and pinned is not None:
            for unit in members:
                reasons.setdefault(unit, f"it shares its scale with a unit that cannot scale: {reasons[pinned]}")
    return reasons


def _scales(graph: _Graph, reasons: dict[int, str]) -> tuple[Tensor, Tensor]:
    """The scale of each unit, and which scales nothing downstream feels."""
    scale_of = [0] * graph.nodes
    free: list[int] = []
    count = 0
    for members in sorted(graph.members.values()):
        if members[0] > graph.inputs and members[0] not in reasons:
            count += 1
            for unit in members:
                scale_of[unit] = count
            if not any(graph.weighs[unit] for unit in members):
                free.append(count)
    return torch.tensor(scale_of), torch.tensor(free, dtype=torch.int64)


def _ends(trace: Trace, number: Tensor, graph: _Graph) -> Tensor:
    """Where paths end: the model's outputs, and what only receives weights, as logits before a softmax."""
    ends_at = [trace.values[ref] for ref in trace.operations[-1].refs() if ref in trace.values]
    found = [_renamed(_one_sample(labels), number).reshape(-1) for value in ends_at for labels in _each(value)]
    listed = [unit for labels in found for unit in labels.tolist() if graph.enters[unit]]
    ends = (unit for unit in range(graph.nodes) if graph.enters[unit] and not graph.leaves[unit])
    listed += [unit for unit in ends if unit not in graph.normed]
    return torch.tensor([unit for unit in dict.fromkeys(listed) if unit > graph.inputs], dtype=torch.int64)


def _each(value: Tensor | tuple[Tensor | None, ...]) -> list[Tensor]:
    """The labels of all tensors that an operation returns."""
    return [labels for labels in (value if isinstance(value, tuple) else (value,)) if labels is not None]


def _one_sample(labels: Tensor) -> Tensor:
    """The labels of the first sample, which are those of all; of a value without a batch axis, all it has."""
    if labels.ndim == 0 or (labels.stride(0) != 0 and bool((labels != labels[:1]).any())):
        return labels
    return labels[0]


def _renamed(labels: Tensor, number: Tensor) -> Tensor:
    """The same labels by the units' last numbers; what is only repeated takes no memory."""
    return number[compact(labels)[0]].expand(labels.shape) if labels.ndim else number[labels]


def _layer(draft: LayerDraft, number: Tensor, outputs: Tensor) -> Layer:
    units = number[draft.units]
    output = bool(torch.isin(units, outputs).all())
    return Layer(
        draft.name, draft.kind, draft.weight, draft.bias, units, draft.shape, draft.activation, output, draft.grid
    )


def _units(trace: Trace, number: Tensor, graph: _Graph, scale_of: Tensor, reasons: dict[int, str]) -> tuple[Unit, ...]:
    listed = [*((draft.units, draft.name) for draft in trace.layers), *trace.named]
    layer_of, place_in = np.zeros(graph.nodes, np.int64), np.zeros(graph.nodes, np.int64)
    for place, (labels, _) in reversed([*enumerate(listed)]):  # the first place named is the one that stays
        units = number[labels].numpy()[::-1]
        layer_of[units], place_in[units] = place, np.arange(len(units))[::-1]
    names = [listed[place][1] for place in layer_of.tolist()]
    scales, places = scale_of.tolist(), place_in.tolist()
    sharing = np.bincount(scale_of.numpy()).tolist()
    return tuple(
        Unit(node, names[node], places[node], "pinned", reasons[node])
        if node in reasons
        else Unit(node, names[node], places[node], "tied" if sharing[scales[node]] > 1 else "free")
        for node in range(graph.inputs + 1, graph.nodes)
    )
