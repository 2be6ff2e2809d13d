"""From a module to its :class:`TracedNetwork`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from eclab.errors import TraceError
from eclab.network.assembly import finish, numbered
from eclab.network.graph import Op, inputs_of, read_graph
from eclab.network.network import TracedNetwork
from eclab.network.tracer import Edges, Trace
from eclab.network.verify import verify_rules


def trace_network(model: nn.Module, x: Any, *, verify: bool = False) -> TracedNetwork:
    """Reads which weights, units and scales a model has; see :func:`eclab.trace`."""
    if not isinstance(model, nn.Module):
        raise TraceError(
            f"the model is {type(model).__name__}", allowed="a torch.nn.Module", fix="pass the module itself"
        )
    parameters = dict(model.named_parameters())
    problems = [*_strange_weights(parameters), *_elsewhere(parameters, x), *_sparse_modules(model)]
    try:
        operations = read_graph(model, x)
    except TraceError as error:
        if not problems:
            raise
        problems.append(error.seen)
        operations = []
    problems += _sparse_calls(operations, problems)
    if problems:
        raise TraceError(
            "; ".join(problems),
            allowed="real floating-point weights with dense gradients, on one device with x, in a readable model",
            fix="convert or move them first",
        )
    with torch.device("cpu"):  # labels are small and stay here, whatever the default device is
        trace = Trace(model, operations, parameters)
        trace.run()
        _pin_outputs(trace)
        _pin_by_parameter(trace)
        net = finish(trace)
    if verify:
        verify_rules(net, numbered(trace), x)
    return net


def _strange_weights(parameters: dict[str, nn.Parameter]) -> list[str]:
    return [f"'{name}' is {p.dtype}" for name, p in parameters.items() if not p.is_floating_point()]


def _elsewhere(parameters: dict[str, nn.Parameter], x: Any) -> list[str]:
    """What lies on another device than most of the weights do."""
    by_device: dict[str, list[str]] = {}
    for name, p in parameters.items():
        by_device.setdefault(str(p.device), []).append(name)
    if not by_device:
        return []
    home = max(by_device, key=lambda device: len(by_device[device]))
    problems = [
        f"{', '.join(map(repr, names[:5]))}{' …' if len(names) > 5 else ''} on {device}, the other weights on {home}"
        for device, names in by_device.items()
        if device != home
    ]
    problems += [f"x is on {item.device}, the weights on {home}" for item in inputs_of(x) if str(item.device) != home]
    return problems


def _sparse_modules(model: nn.Module) -> list[str]:
    kinds = (nn.Embedding, nn.EmbeddingBag)
    return [
        f"the gradient of '{name}.weight' is sparse (sparse=True)"
        for name, module in model.named_modules()
        if isinstance(module, kinds) and module.sparse
    ]


def _sparse_calls(operations: list[Op], known: list[str]) -> list[str]:
    """Functional embeddings with sparse gradients, which no module shows."""
    places = {"aten.embedding": 4, "aten.embedding_bag": 5}
    found = []
    for op in operations:
        place = places.get(op.name, len(op.args))
        sparse = op.args[place] if place < len(op.args) else dict(op.kwargs).get("sparse", False)
        if sparse and not any(f"'{op.module}.weight'" in problem for problem in known):
            found.append(f"the gradient of the table at '{op.module}' is sparse (sparse=True)")
    return found


def _pin_outputs(trace: Trace) -> None:
    for ref in trace.operations[-1].refs():
        value = trace.values.get(ref)
        for labels in value if isinstance(value, tuple) else (value,):
            if labels is not None:
                trace.pin(labels, "it is an output")


def _pin_by_parameter(trace: Trace) -> None:
    """Pins what a shared or frozen parameter touches."""
    uses: dict[int, list[Edges]] = {}
    for edges in trace.items:
        if isinstance(edges, Edges):
            uses.setdefault(id(trace.parameters[edges.name]), []).append(edges)
    times = trace.times_read
    for found in uses.values():
        name = found[0].name
        if len(found) > 1 or times.get(name, 0) > 1:
            for edges in found:
                trace.pin(_both_ends(edges), f"the weight '{name}' is used more than once")
        if not trace.parameters[name].requires_grad:
            trace.pin(_both_ends(found[0]), f"the weight '{name}' is frozen (requires_grad is False)")


def _both_ends(edges: Edges) -> Tensor:
    return torch.cat([edges.head.reshape(-1), edges.tail.reshape(-1)])
