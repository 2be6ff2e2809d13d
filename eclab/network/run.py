"""Runs a traced network with other weights or in another dtype, without touching the module."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from eclab.errors import TraceError
from eclab.network.graph import Op, Ref, inputs_of, read_graph, resolve
from eclab.network.network import TracedNetwork

Call = Callable[[Op, tuple[Any, ...], dict[str, Any]], Any]

_SIZED = frozenset({"aten.view", "aten._unsafe_view", "aten.reshape", "aten.expand"})
_NOISE = frozenset(f"aten.{name}" for name in ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"))
_PROBABILITY = {
    "aten.scaled_dot_product_attention": 4,
    "aten.lstm": 6,
    "aten.gru": 6,
    "aten.rnn_tanh": 6,
    "aten.rnn_relu": 6,
}
"""Where other operations are told how much to drop, or that they train."""


def plain_call(op: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Runs one operation as the model would, out of place, and without the noise of training."""
    if op.name in _NOISE:
        return args[0]
    if op.name in ("aten.rrelu", "aten.rrelu_with_noise"):
        low, high = (*args[1:], 0.125, 1 / 3)[:2] if op.name == "aten.rrelu" else (*args[2:], 0.125, 1 / 3)[:2]
        return torch.nn.functional.leaky_relu(args[0], (low + high) / 2)
    place = _PROBABILITY.get(op.name)
    if place is not None and place < len(args):
        args = (*args[:place], type(args[place])(0), *args[place + 1 :])
    if "dropout_p" in kwargs:
        kwargs = kwargs | {"dropout_p": 0.0}
    namespace, packet, overload = op.target.split(".") if op.target.count(".") == 2 else ("", "", "")
    target = f"{namespace}.{packet.rstrip('_')}.{overload}" if packet.endswith("_") else op.target
    return resolve(target)(*args, **kwargs)


def run(
    net: TracedNetwork,
    x: Any,
    parameters: Mapping[str, Tensor] | None = None,
    *,
    like: Tensor | None = None,
    call: Call = plain_call,
) -> list[Any]:
    """The values of all operations on ``x``; the last one is the tuple of the model's outputs.

    Args:
        net: the traced network.
        x: input with a batch axis, or a tuple of inputs.
        parameters: weights by name to use in place of the model's own.
        like: a tensor whose dtype and device inputs, weights and buffers are converted to.
        call: how an operation is run.

    Returns:
        One value per entry of ``net.operations``.
    """
    try:
        return _run(net, net.operations, x, parameters, like, call)
    except RuntimeError:
        operations = _read_again(net, x)
        if operations is None:
            raise
        return _run(net, operations, x, parameters, like, call)


def _read_again(net: TracedNetwork, x: Any) -> tuple[Op, ...] | None:
    """The operations for another batch size, where a model has left it in places that cannot be told from others.

    None where the model would now do something else than when it was traced, as in another mode.
    """
    size = inputs_of(x)[0].shape[0]
    known: dict[int, tuple[Op, ...]] = net.__dict__.setdefault("_by_batch", {})
    if size not in known:
        try:
            known[size] = tuple(read_graph(net.model, x, samples=size))
        except TraceError:  # these samples do not fit the model at all, as the first error says better
            return None
    found = known[size]
    same = [(op.kind, op.target) for op in found] == [(op.kind, op.target) for op in net.operations]
    return found if same and size != _Batch(net, x).traced else None


def _run(
    net: TracedNetwork,
    operations: tuple[Op, ...],
    x: Any,
    parameters: Mapping[str, Tensor] | None,
    like: Tensor | None,
    call: Call,
) -> list[Any]:
    inputs = iter(inputs_of(x))
    batch = _Batch(net, x)
    own = dict(net.model.named_parameters(remove_duplicate=False)) | dict(net.model.named_buffers())
    given = parameters or {}
    values: list[Any] = []
    for op in operations:
        value: Any
        if op.kind == "input":
            value = _converted(next(inputs), like)
        elif op.kind == "parameter":
            value = _converted(given.get(op.target, own[op.target]), like)
        elif op.kind == "buffer":
            # Batch-norm writes its running statistics; a question asked of a model must not.
            value = _converted(given.get(op.target, own[op.target]), like).clone()
        elif op.kind == "constant":
            value = _converted(op.args[0], like)
        elif op.kind == "output":
            value = tuple(values[ref] for ref in op.refs())
        else:
            args = _filled(op.args, values)
            args = batch.fitted(op, args) if operations is net.operations else args
            value = call(op, args, {key: _filled(item, values) for key, item in op.kwargs})
            if isinstance(value, Tensor):  # what the model makes or converts by itself
                value = _converted(value, like)
        values.append(value)
    return values


class _Batch:
    """The batch size, which ``x.view(len(x), -1)`` has left in the operations as a number."""

    def __init__(self, net: TracedNetwork, x: Any) -> None:
        self.traced = next(op.shape[0] for op in net.operations if op.kind == "input")
        self.given = inputs_of(x)[0].shape[0]

    def fitted(self, op: Op, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments of an operation with the given batch size in place of the traced one."""
        sized = op.name in _SIZED and op.shape[:1] == (self.traced,) and args[1][:1] == (self.traced,)
        if self.given == self.traced or not sized:
            return args
        return (args[0], (self.given, *args[1][1:]), *args[2:])


def _converted(value: Tensor, like: Tensor | None) -> Tensor:
    return value.to(like) if like is not None and value.is_floating_point() else value


def _filled(value: Any, values: list[Any]) -> Any:
    if isinstance(value, Ref):
        return values[value.index]
    if isinstance(value, tuple):
        return tuple(_filled(item, values) for item in value)
    return value


def active_units(net: TracedNetwork, x: Any) -> Tensor:
    """Which units are on: bool ``[batch, num_nodes]``.

    A unit is off where a ReLU holds it at 0 in every position; units that pass none are on.
    """
    values = run(net, x)
    first = inputs_of(x)[0]
    on = torch.ones(first.shape[0], net.num_nodes, dtype=torch.bool, device=first.device)
    for number, labels in net.gates:
        units = labels.reshape(-1).to(first.device)
        lit = (values[number] != 0).flatten(1).int()
        if lit.shape != (len(on), len(units)):  # no sample stands by itself here
            lit = lit.reshape(-1, len(units)).amax(0).expand(len(on), -1)
        times = torch.zeros(on.shape, dtype=torch.int32, device=first.device).index_add_(1, units, lit)
        touched = torch.unique(units)
        on[:, touched] &= times[:, touched] > 0
    return on
