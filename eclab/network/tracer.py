"""The state of a trace: labels flow through the operations; what a rule sees of it is ``rule.Tracer``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from eclab.network.frozen import FrozenNorm
from eclab.network.graph import Op, Ref, resolve
from eclab.network.labels import compact
from eclab.network.network import Link
from eclab.network.rule import NoRuleError, at
from eclab.network.rules import BY_NAME

_REORDERED = frozenset(f"aten.{name}" for name in ("view", "reshape", "unsqueeze", "squeeze", "flatten", "unflatten"))
_TURNED = frozenset(f"aten.{name}" for name in ("t", "numpy_T", "mT", "transpose"))
_SAME = frozenset(f"aten.{name}" for name in ("detach", "alias", "contiguous", "lift_fresh_copy", "clone", "to"))
SHAPE_ONLY = frozenset(
    f"aten.{name}"
    for name in ("zeros_like", "ones_like", "empty_like", "full_like", "new_zeros", "new_ones", "new_full")
)
"""Operations that read nothing of a value but its shape."""

PASSES_ON = _REORDERED | _TURNED | _SAME
"""Operations whose value is a parameter in another form."""

_MADE = frozenset(f"aten.{name}" for name in ("zeros", "ones", "full", "arange", "eye", "scalar_tensor", "linspace"))
_MOST_CONSTANTS = 1 << 20
_MOST_SOURCES = 1 << 16
"""Above so many elements, those of a value without weights are one unit a channel."""


@dataclass
class Edges:
    """A parameter's edges before the units have their last numbers."""

    name: str
    kind: str
    head: Tensor
    tail: Tensor
    axes: tuple[int, int]
    groups: int


@dataclass
class LayerDraft:
    """A layer before the units have their last numbers."""

    name: str
    kind: str
    weight: str
    bias: str | None
    units: Tensor
    shape: tuple[int, ...]
    grid: tuple[int, ...]
    activation: str = ""


Answer = TypeVar("Answer")


@dataclass
class Trace:
    """The state of one trace.

    Attributes:
        values: labels of every operation's value so far; a tuple where it returns several.
        items: weights and links in the order of the operations.
        merges, ties: pairs of units that are one, and that share one scale.
        norms: units that go into a normalisation.
        pins: units that cannot scale, and why.
    """

    model: nn.Module
    operations: list[Op]
    parameters: dict[str, nn.Parameter]
    count: int = 1
    values: dict[int, Tensor | tuple[Tensor | None, ...]] = field(default_factory=dict)
    items: list[Edges | Link] = field(default_factory=list)
    layers: list[LayerDraft] = field(default_factory=list)
    inputs: list[Tensor] = field(default_factory=list)
    named: list[tuple[Tensor, str]] = field(default_factory=list)
    merges: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    ties: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    norms: list[Tensor] = field(default_factory=list)
    pins: list[tuple[Tensor, str]] = field(default_factory=list)
    gates: list[int] = field(default_factory=list)
    frozen_norms: list[FrozenNorm] = field(default_factory=list)
    made_by: dict[int, LayerDraft] = field(default_factory=dict)
    current: int = 0
    _nothing: int = -1
    _pinned: set[int] = field(default_factory=set)
    _known: dict[tuple[str, int], Any] = field(default_factory=dict)

    def labels(self, ref: Any) -> Tensor | None:
        value = self.values.get(ref.index) if isinstance(ref, Ref) else None
        return value[0] if isinstance(value, tuple) else value

    def parameter(self, ref: Any) -> str | None:
        op = self._operation(ref)
        if op is not None and op.name in _SAME:
            return self.parameter(op.args[0])
        return op.target if op is not None and op.kind == "parameter" else None

    def reshaped(self, ref: Any) -> str | None:
        op = self._operation(ref)
        if op is not None and op.name in _REORDERED:
            return self.reshaped(op.args[0])
        return self.parameter(ref)

    def transposed(self, ref: Any) -> str | None:
        op = self._operation(ref)
        if op is None or op.name not in _TURNED or len(op.shape) != 2:
            return None
        return self.parameter(op.args[0])

    def fixed(self, ref: Any) -> bool:
        return self._once("fixed", ref, self._is_fixed)

    def _is_fixed(self, op: Op) -> bool:
        if op.kind != "call":
            return op.kind in ("buffer", "constant")
        return op.name in SHAPE_ONLY or all(self.fixed(Ref(number)) for number in op.refs())

    def constant(self, ref: Any) -> Tensor | None:
        return self._once("constant", ref, self._evaluated)

    def _evaluated(self, op: Op) -> Tensor | None:
        if op.kind == "constant":
            value: Tensor = op.args[0]
            return value
        if op.kind == "buffer":
            buffer = self.model.get_buffer(op.target)
            return None if buffer.is_floating_point() or buffer.numel() > _MOST_CONSTANTS else buffer
        small = bool(op.parts) and torch.Size(op.parts[0]).numel() <= _MOST_CONSTANTS
        if op.kind != "call" or not small or op.shape != op.parts[0]:
            return None
        if op.name in SHAPE_ONLY:
            numbers = {"aten.zeros_like": 0.0, "aten.new_zeros": 0.0, "aten.ones_like": 1.0, "aten.new_ones": 1.0}
            return torch.full(op.shape, numbers[op.name]) if op.name in numbers else None
        if not op.refs() and op.name not in _MADE:
            return None
        known = {number: self.constant(Ref(number)) for number in op.refs()}
        if any(value is None for value in known.values()):
            return None

        def filled(arg: Any) -> Any:
            if isinstance(arg, tuple):
                return [filled(item) for item in arg]
            return known[arg.index] if isinstance(arg, Ref) else arg

        function = resolve(op.target.replace("_.", ".") if op.target.startswith("aten.") else op.target)
        found = function(*(filled(arg) for arg in op.args), **{key: filled(arg) for key, arg in op.kwargs})
        return found if isinstance(found, Tensor) else None

    def zero(self, ref: Any) -> bool:
        if isinstance(ref, Ref):
            value = self.constant(ref)
            return value is not None and not bool(value.any())
        return isinstance(ref, int | float) and ref == 0

    def buffer(self, ref: Any) -> str | None:
        op = self._operation(ref)
        return op.target if op is not None and op.kind == "buffer" else None

    def frozen(self, norm: FrozenNorm) -> None:
        self.frozen_norms.append(norm)

    def trains_alone(self, name: str) -> bool:
        return self.parameters[name].requires_grad and self.times_read.get(name) == 1

    @cached_property
    def times_read(self) -> dict[str, int]:
        """How often the model reads each parameter."""
        return _times_read(self.operations)

    def shape(self, ref: Any) -> tuple[int, ...]:
        return self.operations[ref.index].shape if isinstance(ref, Ref) else ()

    def pinned(self, units: Tensor) -> bool:
        return set(torch.unique(compact(units)[0]).tolist()) <= self._pinned

    def new_units(self, count: int, op: Op) -> Tensor:
        units = torch.arange(self.count, self.count + count, dtype=torch.int64)
        self.count += count
        self.named.append((units, op.module or op.name))
        return units

    def source(self, op: Op, shape: tuple[int, ...] | None = None) -> Tensor:
        shape = op.shape if shape is None else shape
        size = torch.Size(shape[1:])
        if size.numel() > _MOST_SOURCES and len(size) > 1 and op.kind != "input":
            size = torch.Size([size[0], *[1] * (len(size) - 1)])
        units = self.new_units(size.numel(), op)
        if op.kind == "input":
            self.inputs.append(units)
        return units.reshape(1, *size).expand(shape) if shape else units.reshape(())

    def nothing(self, *, make: bool = True) -> int:
        if self._nothing < 0 and make:
            units = self.new_units(1, self.operations[self.current])
            self.pin(units, "it is always 0")
            self._nothing = int(units[0])
        return self._nothing

    def merge(self, one: Tensor, other: Tensor) -> None:
        self.merges.append((one.reshape(-1), other.reshape(-1)))

    def tie(self, one: Tensor, other: Tensor) -> None:
        self.ties.append((one.reshape(-1), other.reshape(-1)))

    def link(self, tails: Tensor, heads: Tensor) -> None:
        self.items.append(Link(head=heads, tail=tails))

    def edges(
        self, name: str, kind: str, heads: Tensor, tails: Tensor, axes: tuple[int, int] = (0, 1), groups: int = 1
    ) -> None:
        shape = self.parameters[name].shape
        ends = [end.reshape(shape) if end.numel() == shape.numel() else end for end in (heads, tails)]
        self.items.append(Edges(name, kind, ends[0], ends[1], axes, groups))

    def layer(self, op: Op, kind: str, weight: str, bias: str | None, units: Tensor) -> None:
        grid = op.shape[2:] if kind in ("conv", "transposed") else ()
        shape = tuple(self.parameters[weight].shape)
        draft = LayerDraft(weight.removesuffix(".weight"), kind, weight, bias, units, shape, grid)
        self.layers.append(draft)
        self.made_by[self.current] = draft

    def normed(self, units: Tensor) -> None:
        self.norms.append(units)

    def pin(self, units: Tensor, reason: str) -> None:
        found = torch.unique(compact(units)[0])
        self.pins.append((found, reason))
        self._pinned.update(found.tolist())

    def activate(self, op: Op, name: str, *, gate: bool) -> None:
        draft = self.made_by.get(op.refs()[0])
        if draft is not None and not draft.activation:
            draft.activation = name
        if gate:
            self.gates.append(self.current)

    def run(self) -> None:
        """Goes through the operations once."""
        for number, op in enumerate(self.operations):
            self.current = number
            if op.kind == "input" and op.parts:
                self.values[number] = units = self.source(op)
                self.pin(units, "it is an input")
            elif op.kind == "call":
                self._call(op)

    def _call(self, op: Op) -> None:
        given = [ref for ref in op.refs() if ref in self.values and op.name not in SHAPE_ONLY]
        if not given:
            return
        if op.target == "operator.getitem":
            self._item(op)
        else:
            self._ruled(op, given)
        made_by = self.made_by.get(given[0])
        if made_by is not None and self.current in self.values:
            self.made_by.setdefault(self.current, made_by)

    def _item(self, op: Op) -> None:
        value = self.values[op.refs()[0]]
        labels = value[op.args[1]] if isinstance(value, tuple) else value
        if labels is not None:
            self.values[self.current] = labels

    def _ruled(self, op: Op, given: list[int]) -> None:
        try:
            if op.name not in BY_NAME:
                raise NoRuleError
            labels = BY_NAME[op.name].label(self, op)
        except NoRuleError as error:
            if not op.parts and not self._is_read(self.current):
                return
            labels = self._unruled(op, given, str(error))
        self.values[self.current] = labels

    def _unruled(self, op: Op, given: list[int], words: str) -> Tensor | tuple[Tensor | None, ...]:
        for ref in given:
            value = self.values[ref]
            for labels in value if isinstance(value, tuple) else (value,):
                if labels is not None:
                    self.pin(labels, words or f"{op.name}{at(op)} has no rule, so its inputs keep their scale")
        found = tuple(self.source(op, shape) for shape in op.parts)
        for labels in found:
            self.pin(labels, words or f"it comes from {op.name}{at(op)}, which has no rule")
        return found[0] if op.parts == (op.shape,) else found

    def _is_read(self, number: int) -> bool:
        return any(number in op.refs() for op in self.operations[number + 1 :])

    def _operation(self, ref: Any) -> Op | None:
        return self.operations[ref.index] if isinstance(ref, Ref) else None

    def _once(self, question: str, ref: Any, answer: Callable[[Op], Answer]) -> Answer:
        key = (question, ref.index)
        if key not in self._known:
            self._known[key] = answer(self.operations[ref.index])
        found: Answer = self._known[key]
        return found


def _times_read(operations: list[Op]) -> dict[str, int]:
    """How often each parameter is read, a mere view of it counting as often as that is read."""
    readers: dict[int, list[int]] = {}
    for number, op in enumerate(operations):
        for ref in op.refs():
            readers.setdefault(ref, []).append(number)

    def times(number: int) -> int:
        passed_on = operations[number].name in PASSES_ON
        return sum(times(reader) for reader in readers.get(number, [])) if passed_on else 1

    found: dict[str, int] = {}
    for number, op in enumerate(operations):
        if op.kind == "parameter":
            found[op.target] = found.get(op.target, 0) + sum(times(reader) for reader in readers.get(number, []))
    return found
