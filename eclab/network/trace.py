"""From a module to its :class:`TracedNetwork`: labels flow through the operations, then equal units are merged."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn

from eclab.errors import TraceError
from eclab.network.graph import Op, Ref, read_graph
from eclab.network.network import SOURCE, Layer, TracedNetwork, Unit, Weight
from eclab.network.rules import BY_NAME, unit_numbers


@dataclass
class _Edges:
    """A weight before its units have their last numbers."""

    name: str
    kind: str
    head: Tensor
    tail: Tensor
    groups: int = 1


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
    edges: list[_Edges] = field(default_factory=list)
    layers: list[_LayerDraft] = field(default_factory=list)
    inputs: list[Tensor] = field(default_factory=list)
    foreign: list[tuple[Tensor, str]] = field(default_factory=list)
    merges: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    pins: list[tuple[Tensor, str]] = field(default_factory=list)
    gates: list[int] = field(default_factory=list)
    made_by: dict[int, _LayerDraft] = field(default_factory=dict)
    current: int = 0

    def labels(self, ref: Any) -> Tensor:
        return self.values[ref.index]

    def parameter(self, ref: Any) -> str | None:
        if isinstance(ref, Ref) and self.operations[ref.index].kind == "parameter":
            return self.operations[ref.index].target
        return None

    def merge(self, one: Tensor, other: Tensor) -> None:
        self.merges.append((one.reshape(-1), other.reshape(-1)))

    def pin(self, units: Tensor, reason: str) -> None:
        self.pins.append((torch.unique(units), reason))

    def activate(self, op: Op, name: str, *, gate: bool) -> None:
        draft = self.made_by.get(op.refs()[0])
        if draft is not None and not draft.activation:
            draft.activation = name
        if gate:
            self.gates.append(self.current)

    def add_layer(
        self, op: Op, kind: str, weight: Any, bias: Any, tails: Tensor, axes: tuple[int, int], groups: int = 1
    ) -> Tensor:
        shape = self.operations[weight.index].shape
        width = shape[axes[0]]
        units = self._new(width)
        name = self.parameter(weight)
        place = [1] * len(shape)
        place[axes[0]] = width
        if name is None:
            self.pin(torch.cat([units, tails.reshape(-1)]), _computed(op))
            self.foreign.append((units, op.module or op.name))
        else:
            self.edges.append(_Edges(name, kind, units.reshape(place), tails, groups))
        bias_name = self.parameter(bias)
        if bias_name is not None:
            self.edges.append(_Edges(bias_name, "bias", units, torch.tensor([SOURCE])))
        elif isinstance(bias, Ref):
            self.pin(units, _computed(op))
        grid = op.shape[2:] if kind == "conv" else ()
        draft = _LayerDraft(_layer_name(name or op.module), kind, name or "", bias_name, units, shape, grid)
        if name is not None:
            self.layers.append(draft)
            self.made_by[self.current] = draft
        return units

    def _new(self, width: int) -> Tensor:
        units = unit_numbers(self.count, width)
        self.count += width
        return units

    def source(self, op: Op) -> Tensor:
        """Labels of a value that no weight leads to: each element is a unit of its own."""
        units = self._new(int(torch.Size(op.shape[1:]).numel()))
        if op.kind == "input":
            self.inputs.append(units)
        else:
            self.foreign.append((units, op.module or op.name))
        return units.reshape(1, *op.shape[1:]).expand(op.shape)

    def run(self) -> None:
        for number, op in enumerate(self.operations):
            self.current = number
            if op.kind == "input" and op.shape:
                self.values[self.current] = units = self.source(op)
                self.pin(units, "it is an input")
            elif op.kind == "call" and op.shape:
                self._call(op)

    def _call(self, op: Op) -> None:
        carried = [ref for ref in op.refs() if ref in self.values]
        if not carried:
            return
        rule = BY_NAME.get(op.name)
        if rule is None or op.refs()[0] not in self.values:
            where = f" at '{op.module}'" if op.module else ""
            for ref in carried:
                self.pin(self.values[ref], f"{op.name}{where} has no rule, so its inputs keep their scale")
            self.values[self.current] = labels = self.source(op)
            self.pin(labels, f"it comes from {op.name}{where}, which has no rule")
            return
        self.values[self.current] = rule.label(self, op)
        made_by = self.made_by.get(op.refs()[0])
        if made_by is not None:
            self.made_by.setdefault(self.current, made_by)


def _computed(op: Op) -> str:
    return f"the weight at '{op.module}' is computed, not a parameter"


def _layer_name(parameter: str) -> str:
    return parameter.removesuffix(".weight") if parameter else parameter


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
    for edges in trace.edges:
        uses.setdefault(id(trace.parameters[edges.name]), []).append(edges)
    reads: dict[str, int] = {}
    for op in trace.operations:
        for ref in op.refs():
            if trace.operations[ref].kind == "parameter":
                reads[trace.operations[ref].target] = reads.get(trace.operations[ref].target, 0) + 1
    for found in uses.values():
        name = found[0].name
        if len(found) > 1 or reads.get(name, 0) > 1:
            for edges in found:
                trace.pin(_both_ends(edges), f"the weight '{name}' is used more than once")
        if not trace.parameters[name].requires_grad:
            trace.pin(_both_ends(found[0]), f"the weight '{name}' is frozen (requires_grad is False)")


def _both_ends(edges: _Edges) -> Tensor:
    return torch.cat([edges.head.reshape(-1), edges.tail.reshape(-1)])


def _finish(trace: _Trace) -> TracedNetwork:
    number, inputs = _renumber(trace)
    edges = [_Edges(e.name, e.kind, number[e.head], number[e.tail], e.groups) for e in trace.edges]
    nodes = int(number.max()) + 1
    reasons = _reasons(trace, number, edges, nodes, inputs)
    free = torch.tensor([node > inputs and node not in reasons for node in range(nodes)])
    scale_of = torch.where(free, free.cumsum(0), 0)
    names = [e.name for e in edges]
    weights = tuple(
        Weight(
            e.name,
            e.kind,
            e.head,
            e.tail,
            tuple(trace.parameters[e.name].shape),
            e.groups,
            names.count(e.name) > 1,
            trace.model,
        )
        for e in edges
    )
    outputs = _ends(trace, number, edges, nodes, inputs)
    layers = tuple(_layer(draft, number, outputs) for draft in trace.layers)
    edge_names = set(names)
    return TracedNetwork(
        model=trace.model,
        weights=weights,
        layers=layers,
        units=_units(trace, number, nodes, inputs, reasons),
        inputs=inputs,
        scale_of=scale_of,
        outside=tuple(name for name in trace.parameters if name not in edge_names),
        outputs=outputs,
        operations=tuple(trace.operations),
        gates=tuple((gate, number[trace.values[gate][0]]) for gate in trace.gates),
    )


def _renumber(trace: _Trace) -> tuple[Tensor, int]:
    """Numbers without gaps after merging: the constant source, the inputs, then all others in order."""
    one = torch.cat([pair[0] for pair in trace.merges]) if trace.merges else torch.zeros(0, dtype=torch.int64)
    two = torch.cat([pair[1] for pair in trace.merges]) if trace.merges else torch.zeros(0, dtype=torch.int64)
    links = coo_array((np.ones(len(one), dtype=np.int8), (one.numpy(), two.numpy())), shape=(trace.count, trace.count))
    _, component = connected_components(links, directed=False)
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


def _reasons(trace: _Trace, number: Tensor, edges: list[_Edges], nodes: int, inputs: int) -> dict[int, str]:
    """Why a unit is pinned, for every one that is; the first reason found is the one given."""
    reasons: dict[int, str] = {}
    for units, reason in trace.pins:
        for unit in torch.unique(number[units]).tolist():
            reasons.setdefault(unit, reason)
    enters, leaves = _touched(edges, nodes)
    for unit in range(inputs + 1, nodes):
        if not bool(leaves[unit]):
            reasons.setdefault(unit, "no weight leaves it")
        if not bool(enters[unit]):
            reasons.setdefault(unit, "no weight leads to it")
    return reasons


def _ends(trace: _Trace, number: Tensor, edges: list[_Edges], nodes: int, inputs: int) -> Tensor:
    """Where paths end: the model's outputs, and what only receives weights, as logits before a softmax."""
    enters, leaves = _touched(edges, nodes)
    found = [number[trace.values[ref][0]].reshape(-1) for ref in trace.operations[-1].refs() if ref in trace.values]
    listed = [unit for labels in found for unit in labels.tolist() if bool(enters[unit])]
    listed += (enters & ~leaves).nonzero().flatten().tolist()
    return torch.tensor([unit for unit in dict.fromkeys(listed) if unit > inputs], dtype=torch.int64)


def _touched(edges: list[_Edges], nodes: int) -> tuple[Tensor, Tensor]:
    """Bool ``[nodes]`` each: whether a weight leads to the unit, whether one leaves it."""
    enters, leaves = torch.zeros(nodes, dtype=torch.bool), torch.zeros(nodes, dtype=torch.bool)
    for e in edges:
        enters[e.head.reshape(-1)] = True
        leaves[e.tail.reshape(-1)] = True
    return enters, leaves


def _layer(draft: _LayerDraft, number: Tensor, outputs: Tensor) -> Layer:
    units = number[draft.units]
    output = bool(torch.isin(units, outputs).all())
    return Layer(
        draft.name, draft.kind, draft.weight, draft.bias, units, draft.shape, draft.activation, output, draft.grid
    )


def _units(trace: _Trace, number: Tensor, nodes: int, inputs: int, reasons: dict[int, str]) -> tuple[Unit, ...]:
    places: dict[int, list[tuple[str, int]]] = {}
    for draft in trace.layers:
        for index, unit in enumerate(number[draft.units].tolist()):
            places.setdefault(unit, []).append((draft.name, index))
    for labels, name in trace.foreign:
        for index, unit in enumerate(number[labels].tolist()):
            places.setdefault(unit, []).append((name, index))
    units = []
    for node in range(inputs + 1, nodes):
        found = places[node]
        state = "pinned" if node in reasons else "tied" if len(found) > 1 else "free"
        units.append(Unit(node, *found[0], state, reasons.get(node, "")))
    return tuple(units)
