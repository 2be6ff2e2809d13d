"""From a module to its :class:`TracedNetwork`: labels flow through the operations, then equal units are merged."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn

from eclab.errors import TraceError
from eclab.network.graph import Op, Ref, read_graph
from eclab.network.labels import compact
from eclab.network.network import SOURCE, Layer, Link, TracedNetwork, Unit, Weight
from eclab.network.rules import BY_NAME, NoRuleError, at


@dataclass
class _Edges:
    """A parameter's edges before the units have their last numbers."""

    name: str
    kind: str
    head: Tensor
    tail: Tensor
    axes: tuple[int, int]
    groups: int


@dataclass
class _LayerDraft:
    name: str
    kind: str
    weight: str
    bias: str | None
    units: Tensor
    shape: tuple[int, ...]
    grid: tuple[int, ...]
    activation: str = ""


@dataclass
class _Trace:
    """The state of one trace; what the rules see of it is ``rules.Tracer``."""

    model: nn.Module
    operations: list[Op]
    parameters: dict[str, nn.Parameter]
    count: int = 1
    values: dict[int, Tensor] = field(default_factory=dict)
    items: list[_Edges | Link] = field(default_factory=list)
    layers: list[_LayerDraft] = field(default_factory=list)
    inputs: list[Tensor] = field(default_factory=list)
    named: list[tuple[Tensor, str]] = field(default_factory=list)
    merges: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    norms: list[Tensor] = field(default_factory=list)
    pins: list[tuple[Tensor, str]] = field(default_factory=list)
    gates: list[int] = field(default_factory=list)
    made_by: dict[int, _LayerDraft] = field(default_factory=dict)
    current: int = 0

    def labels(self, ref: Any) -> Tensor | None:
        return self.values.get(ref.index) if isinstance(ref, Ref) else None

    def parameter(self, ref: Any) -> str | None:
        if isinstance(ref, Ref) and self.operations[ref.index].kind == "parameter":
            return self.operations[ref.index].target
        return None

    def shape(self, ref: Any) -> tuple[int, ...]:
        return self.operations[ref.index].shape if isinstance(ref, Ref) else ()

    def new_units(self, count: int, op: Op) -> Tensor:
        units = torch.arange(self.count, self.count + count, dtype=torch.int64)
        self.count += count
        self.named.append((units, op.module or op.name))
        return units

    def merge(self, one: Tensor, other: Tensor) -> None:
        self.merges.append((one.reshape(-1), other.reshape(-1)))

    def link(self, tails: Tensor, heads: Tensor) -> None:
        self.items.append(Link(head=heads, tail=tails))

    def edges(self, name: str, kind: str, heads: Tensor, tails: Tensor, axes: tuple[int, int] = (0, 1)) -> None:
        groups = dict(self.operations[self.current].kwargs).get("groups", 1)
        args = self.operations[self.current].args
        place = {"conv": 6, "transposed": 6}.get(kind, len(args))
        self.items.append(_Edges(name, kind, heads, tails, axes, args[place] if place < len(args) else groups))

    def layer(self, op: Op, kind: str, weight: str, bias: str | None, units: Tensor) -> None:
        grid = op.shape[2:] if kind in ("conv", "transposed") else ()
        shape = tuple(self.parameters[weight].shape)
        draft = _LayerDraft(_layer_name(weight), kind, weight, bias, units, shape, grid)
        self.layers.append(draft)
        self.made_by[self.current] = draft

    def normed(self, units: Tensor) -> None:
        self.norms.append(units)

    def pin(self, units: Tensor, reason: str) -> None:
        self.pins.append((torch.unique(compact(units)[0]), reason))

    def activate(self, op: Op, name: str, *, gate: bool) -> None:
        draft = self.made_by.get(op.refs()[0])
        if draft is not None and not draft.activation:
            draft.activation = name
        if gate:
            self.gates.append(self.current)

    def source(self, op: Op) -> Tensor:
        """Labels of a value that no weight leads to: each element is a unit of its own."""
        units = self.new_units(int(torch.Size(op.shape[1:]).numel()), op)
        if op.kind == "input":
            self.inputs.append(units)
        return units.reshape(1, *op.shape[1:]).expand(op.shape)

    def run(self) -> None:
        for number, op in enumerate(self.operations):
            self.current = number
            if op.kind == "input" and op.shape:
                self.values[number] = units = self.source(op)
                self.pin(units, "it is an input")
            elif op.kind == "call" and op.shape:
                self._call(op)

    def _call(self, op: Op) -> None:
        given = [ref for ref in op.refs() if ref in self.values]
        if not given:
            return
        try:
            if op.name not in BY_NAME:
                raise NoRuleError
            labels = BY_NAME[op.name].label(self, op)
        except NoRuleError as error:
            reason = str(error) or f"{op.name}{at(op)} has no rule, so its inputs keep their scale"
            for ref in given:
                self.pin(self.values[ref], reason)
            labels = self.source(op)
            self.pin(labels, str(error) or f"it comes from {op.name}{at(op)}, which has no rule")
        self.values[self.current] = labels
        made_by = self.made_by.get(given[0])
        if made_by is not None:
            self.made_by.setdefault(self.current, made_by)


def _layer_name(parameter: str) -> str:
    return parameter.removesuffix(".weight")


def trace_network(model: nn.Module, x: Any) -> TracedNetwork:
    """Reads which weights, units and scales a model has; see :func:`eclab.trace`."""
    if not isinstance(model, nn.Module):
        raise TraceError(
            f"the model is {type(model).__name__}", allowed="a torch.nn.Module", fix="pass the module itself"
        )
    parameters = dict(model.named_parameters())
    _refuse_strange(parameters)
    trace = _Trace(model, read_graph(model, x), parameters)
    trace.run()
    _pin_outputs(trace)
    _pin_by_parameter(trace)
    return _finish(trace)


def _refuse_strange(parameters: dict[str, nn.Parameter]) -> None:
    problems = [f"'{name}' is {p.dtype}" for name, p in parameters.items() if not p.is_floating_point()]
    devices = {str(p.device) for p in parameters.values()}
    if len(devices) > 1:
        problems.append(f"the weights lie on {', '.join(sorted(devices))}")
    if problems:
        raise TraceError(
            "; ".join(problems), allowed="real floating-point weights on one device", fix="convert or move them first"
        )


def _pin_outputs(trace: _Trace) -> None:
    for ref in trace.operations[-1].refs():
        if ref in trace.values:
            trace.pin(trace.values[ref], "it is an output")


def _pin_by_parameter(trace: _Trace) -> None:
    """Pins what a shared or frozen parameter touches."""
    uses: dict[int, list[_Edges]] = {}
    for edges in trace.items:
        if isinstance(edges, _Edges):
            uses.setdefault(id(trace.parameters[edges.name]), []).append(edges)
    reads = Counter(ref for op in trace.operations for ref in op.refs())
    times = {op.target: reads[number] for number, op in enumerate(trace.operations) if op.kind == "parameter"}
    for found in uses.values():
        name = found[0].name
        if len(found) > 1 or times.get(name, 0) > 1:
            for edges in found:
                trace.pin(_both_ends(edges), f"the weight '{name}' is used more than once")
        if not trace.parameters[name].requires_grad:
            trace.pin(_both_ends(found[0]), f"the weight '{name}' is frozen (requires_grad is False)")


def _both_ends(edges: _Edges) -> Tensor:
    return torch.cat([edges.head.reshape(-1), edges.tail.reshape(-1)])


def _finish(trace: _Trace) -> TracedNetwork:
    number, inputs = _renumber(trace)
    names = Counter(edges.name for edges in trace.items if isinstance(edges, _Edges))
    items = tuple(_renumbered(edges, number, trace, names) for edges in trace.items)
    graph = _Graph(items, int(number.max()) + 1, inputs, _numbers(trace.norms, number))
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
        gates=tuple((gate, number[trace.values[gate][0]]) for gate in trace.gates),
    )


def _renumbered(edges: _Edges | Link, number: Tensor, trace: _Trace, names: Counter[str]) -> Weight | Link:
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


def _renumber(trace: _Trace) -> tuple[Tensor, int]:
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

    def __init__(self, items: tuple[Weight | Link, ...], nodes: int, inputs: int, normed: set[int]) -> None:
        self.nodes, self.inputs, self.normed = nodes, inputs, normed
        enters, leaves, weighs = (torch.zeros(nodes, dtype=torch.bool) for _ in range(3))
        for edges in items:
            enters[edges.head.reshape(-1)] = True
            leaves[edges.tail.reshape(-1)] = True
            if isinstance(edges, Weight):
                weighs[edges.tail.reshape(-1)] = True
        self.enters, self.leaves, self.weighs = enters.tolist(), leaves.tolist(), weighs.tolist()
        ties = [(edges.head, edges.tail) for edges in items if isinstance(edges, Link)]
        self.component = _components(nodes, ties).tolist()
        self.members: dict[int, list[int]] = {}
        for unit, component in enumerate(self.component):
            self.members.setdefault(component, []).append(unit)


def _reasons(trace: _Trace, number: Tensor, graph: _Graph) -> dict[int, str]:
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
                reasons.setdefault(unit, f"an addition ties it to a unit that cannot scale: {reasons[pinned]}")
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


def _ends(trace: _Trace, number: Tensor, graph: _Graph) -> Tensor:
    """Where paths end: the model's outputs, and what only receives weights, as logits before a softmax."""
    found = [number[trace.values[ref][0]].reshape(-1) for ref in trace.operations[-1].refs() if ref in trace.values]
    listed = [unit for labels in found for unit in labels.tolist() if graph.enters[unit]]
    ends = (unit for unit in range(graph.nodes) if graph.enters[unit] and not graph.leaves[unit])
    listed += [unit for unit in ends if unit not in graph.normed]
    return torch.tensor([unit for unit in dict.fromkeys(listed) if unit > graph.inputs], dtype=torch.int64)


def _layer(draft: _LayerDraft, number: Tensor, outputs: Tensor) -> Layer:
    units = number[draft.units]
    output = bool(torch.isin(units, outputs).all())
    return Layer(
        draft.name, draft.kind, draft.weight, draft.bias, units, draft.shape, draft.activation, output, draft.grid
    )


def _units(trace: _Trace, number: Tensor, graph: _Graph, scale_of: Tensor, reasons: dict[int, str]) -> tuple[Unit, ...]:
    places: dict[int, list[tuple[str, int]]] = {}
    for labels, name in [*((draft.units, draft.name) for draft in trace.layers), *trace.named]:
        for index, unit in enumerate(number[labels].tolist()):
            places.setdefault(unit, []).append((name, index))
    scales = scale_of.tolist()
    sharing = Counter(scales)
    units = []
    for node in range(graph.inputs + 1, graph.nodes):
        state = "pinned" if node in reasons else "tied" if sharing[scales[node]] > 1 else "free"
        units.append(Unit(node, *places[node][0], state, reasons.get(node, "")))
    return tuple(units)
