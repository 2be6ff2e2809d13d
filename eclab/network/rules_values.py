"""Rules of the operations without weights: sums, products, pooling, activations, and what only moves elements."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from eclab.network.graph import Op, Ref, resolve
from eclab.network.labels import compact, distinct, per_axis, place_along
from eclab.network.rule import Labelling, Labels, NoRuleError, Tracer, arguments, at, carried
from eclab.network.rules_weights import plus_parameter, times_parameter


def keep(tracer: Tracer, op: Op) -> Labels:
    """The value has the units of the first input."""
    labels = carried(tracer, op.args[0])
    return labels if op.shape == labels.shape else (labels, *[None] * (len(op.parts) - 1))


def activation(name: str, *, gate: bool) -> Labelling:
    """A positively homogeneous activation; ``gate`` where it switches units off."""

    def label(tracer: Tracer, op: Op) -> Tensor:
        tracer.activate(op, name, gate=gate)
        return carried(tracer, op.args[0])

    return label


def bent(name: str) -> Labelling:
    """An activation, element by element, that is not positively homogeneous."""

    def label(tracer: Tracer, op: Op) -> Tensor:
        labels = carried(tracer, op.args[0])
        called = "relu6" if name == "hardtanh" and op.args[1:] == (0.0, 6.0) else name
        tracer.activate(op, called, gate=False)
        tracer.pin(labels, f"{called}{at(op)} is not positively homogeneous: {called}(c·z) ≠ c·{called}(z)")
        return labels

    return label


def barrier(words: str) -> Labelling:
    """An operation that mixes its inputs in a way no scale goes through: they are pinned, and so is the value."""

    def label(tracer: Tracer, op: Op) -> Labels:
        reason = f"{words}{at(op)} lets no scale through"
        for ref in op.refs():
            labels = tracer.labels(Ref(ref))
            if labels is not None:
                tracer.pin(labels, reason)
        values = tuple(tracer.source(op, shape) for shape in op.parts)
        for value in values:
            tracer.pin(value, reason)
        return values[0] if op.shape == op.parts[0] else values

    return label


def clamp(tracer: Tracer, op: Op) -> Tensor:
    """``max(z, 0)`` or ``min(z, 0)``."""
    value, low, high = arguments(op, input=None, min=None, max=None)
    if op.name == "aten.clamp_max":
        low, high = None, low
    ends = [end for end in (low, high) if end is not None]
    if len(ends) == 1 and tracer.zero(ends[0]):
        return _gated(tracer, op, value)
    return _cut(tracer, op, value)


def threshold(tracer: Tracer, op: Op) -> Tensor:
    """``z`` where it is above 0, else 0."""
    value, edge, below = op.args[:3]
    return _gated(tracer, op, value) if edge == below == 0 else _cut(tracer, op, value)


def _gated(tracer: Tracer, op: Op, value: Any) -> Tensor:
    tracer.activate(op, "relu", gate=True)
    return carried(tracer, value)


def _cut(tracer: Tracer, op: Op, value: Any) -> Tensor:
    labels = carried(tracer, value)
    name = op.name.removeprefix("aten.")
    tracer.pin(labels, f"{name}{at(op)} cuts off at a fixed value other than 0")
    return labels


def extremum(tracer: Tracer, op: Op) -> Labels:
    """Larger or smaller of two values, or along an axis; what is compared shares one scale."""
    if op.name in ("aten.maximum", "aten.minimum") or (op.name in ("aten.max", "aten.min") and _two(op)):
        one, two = op.args[:2]
        first, second = tracer.labels(one), tracer.labels(two)
        if first is not None and second is not None:
            return _sum(tracer, op, first, second)
        if tracer.zero(two if first is not None else one):
            return _gated(tracer, op, one if first is not None else two)
        raise NoRuleError(f"{op.name.removeprefix('aten.')}{at(op)} compares with a fixed value other than 0")
    value, axes, keepdim = arguments(op, input=None, dim=None, keepdim=False)
    axes = (axes,) if isinstance(axes, int) else axes
    labels = _reduced(tracer, op, carried(tracer, value), axes, keepdim, tie=True).expand(op.parts[0])
    return labels if op.shape else (labels, *[None] * (len(op.parts) - 1))


def _two(op: Op) -> bool:
    return len(op.args) > 1 and isinstance(op.args[1], Ref)


def mean(tracer: Tracer, op: Op) -> Tensor:
    """A mean or sum over positions; a sum over different units is an addition of them."""
    value, axes, keepdim = arguments(op, input=None, dim=None, keepdim=False)
    tie = op.name == "aten.sum"
    return _reduced(tracer, op, carried(tracer, value), axes, keepdim, tie=tie).expand(op.shape)


def _reduced(tracer: Tracer, op: Op, labels: Tensor, axes: Any, keepdim: bool, *, tie: bool) -> Tensor:
    """Labels without these axes; units that differ along them are tied to one new unit each, or refused."""
    if not axes or 0 in [axis % labels.ndim for axis in axes]:
        raise NoRuleError(f"{op.name.removeprefix('aten.')}{at(op)} runs over the samples too")
    gone = sorted((axis % labels.ndim for axis in axes), reverse=True)
    first = labels
    for axis in gone:
        first = first.narrow(axis, 0, 1)
    if bool((labels != first).any()):
        if not tie:
            raise NoRuleError(f"{op.name.removeprefix('aten.')}{at(op)} runs over different units")
        first = _tied(tracer, op, labels, gone)
    if keepdim:
        return first
    for axis in gone:
        first = first.squeeze(axis)
    return first


def _tied(tracer: Tracer, op: Op, labels: Tensor, gone: list[int]) -> Tensor:
    """One new unit for each set of units that are reduced to one."""
    kept = [axis for axis in range(labels.ndim) if axis not in gone]
    short = compact(labels)[0]
    rows = short.permute(*kept, *gone)
    shape = rows.shape[: len(kept)]
    groups, place = torch.unique(rows.reshape(shape.numel(), -1), dim=0, return_inverse=True)
    units = tracer.new_units(len(groups), op)
    tracer.link(groups.reshape(-1), units.repeat_interleave(groups.shape[1]))
    found = units[place].reshape(shape)
    for axis in sorted(gone):
        found = found.unsqueeze(axis)
    return found.expand([1 if axis in gone else size for axis, size in enumerate(labels.shape)])


def add(tracer: Tracer, op: Op) -> Tensor:
    """A sum of two values, or a learned offset."""
    one, two = op.args[:2]
    first, second = tracer.labels(one), tracer.labels(two)
    if first is not None and second is not None:
        return _sum(tracer, op, first, second)
    value, other = (first, two) if first is not None else (second, one)
    if value is None:
        raise NoRuleError
    if tracer.zero(other):
        return value.expand(op.shape)
    if tracer.reshaped(other) is not None:
        return plus_parameter(tracer, op, value, other)
    tracer.pin(value, f"{op.name.removeprefix('aten.')}{at(op)} adds something that does not scale along")
    return value.expand(op.shape)


def _sum(tracer: Tracer, op: Op, one: Tensor, two: Tensor) -> Tensor:
    """Each pair of summands becomes a new unit, and all three share one scale; what is always 0 adds nothing."""
    one, two = compact(one.expand(op.shape), two.expand(op.shape))
    count = int(two.max()) + 1
    distinct_pairs, place = torch.unique(one * count + two, return_inverse=True)
    first, second = distinct_pairs // count, distinct_pairs % count
    nothing = tracer.nothing(make=False)
    units = torch.where(first == nothing, second, first)
    both = (first != nothing) & (second != nothing)
    if bool(both.any()):
        fresh = tracer.new_units(int(both.sum()), op)
        units[both] = fresh
        tracer.link(first[both], fresh)
        tracer.link(second[both], fresh)
    return units[place].expand(op.shape)


def times(tracer: Tracer, op: Op) -> Tensor:
    """A product with what does not scale: a number, a buffer, a learned factor, or a value that is pinned anyway."""
    one, two = op.args[:2]
    first, second = tracer.labels(one), tracer.labels(two)
    if first is not None and second is not None:
        return _product(tracer, op, first, second)
    if first is None and op.name == "aten.div":
        raise NoRuleError(f"div{at(op)} divides by a value of the network")
    value, other = (carried(tracer, one), two) if first is not None else (carried(tracer, two), one)
    if tracer.reshaped(other) is not None and op.name == "aten.mul":
        return times_parameter(tracer, op, value, other)
    return value.expand(op.shape)


def _product(tracer: Tracer, op: Op, first: Tensor, second: Tensor) -> Tensor:
    """A gate whose value is pinned, as behind a sigmoid, is a fixed factor for the other's scale."""
    if tracer.pinned(second):
        return first.expand(op.shape)
    if tracer.pinned(first) and op.name == "aten.mul":
        return second.expand(op.shape)
    raise NoRuleError(f"{op.name.removeprefix('aten.')}{at(op)} multiplies two activations")


def sign(tracer: Tracer, op: Op) -> Tensor:
    """The sign of a value, or its comparison with 0: the same whatever the scale, which stays free."""
    carried(tracer, op.args[0])
    if len(op.args) > 1 and not tracer.zero(op.args[1]):
        raise NoRuleError(f"{op.name.removeprefix('aten.')}{at(op)} compares with something other than 0")
    labels = tracer.source(op)
    tracer.pin(labels, f"it is a sign{at(op)}")
    return labels


def where(tracer: Tracer, op: Op) -> Tensor:
    """One value or another, or 0, by a condition that no scale changes."""
    condition, one, two = op.args[:3]
    asked = tracer.labels(condition)
    if asked is not None and not tracer.pinned(asked):
        raise NoRuleError
    first, second = tracer.labels(one), tracer.labels(two)
    if first is not None and second is not None:
        return _sum(tracer, op, first, second)
    if not tracer.zero(two if first is not None else one):
        raise NoRuleError(f"where{at(op)} puts in a fixed value other than 0")
    return carried(tracer, one if first is not None else two).expand(op.shape)


def masked_fill(tracer: Tracer, op: Op) -> Tensor:
    """Zeros where a mask says so that no scale changes."""
    value, mask, filled = op.args[:3]
    asked = tracer.labels(mask)
    if (asked is not None and not tracer.pinned(asked)) or not tracer.zero(filled):
        raise NoRuleError(f"masked_fill{at(op)} puts in a fixed value other than 0")
    return carried(tracer, value).expand(op.shape)


def pool(tracer: Tracer, op: Op) -> Labels:
    """Whatever maps every channel, along axis 1, for itself."""
    channels = per_axis(tracer.merge, carried(tracer, op.args[0]), 1)
    labels = place_along(channels, 1, len(op.parts[0])).expand(op.parts[0])
    return labels if op.shape else (labels, *[None] * (len(op.parts) - 1))


def pad(tracer: Tracer, op: Op) -> Tensor:
    """Zeros, or copies of what is there, around a value."""
    value, widths, mode, filled = arguments(op, input=None, pad=(), mode="constant", value=None)
    labels = carried(tracer, value)
    if mode == "constant" and filled:
        raise NoRuleError(f"pad{at(op)} puts in {filled:g}, which does not scale")
    axes = {labels.ndim - 1 - place // 2 for place, width in enumerate(widths) if width}
    short = distinct(labels)
    if all(short.shape[axis] == 1 for axis in axes):
        return short.expand(op.shape)
    if mode != "constant":
        raise NoRuleError
    return torch.nn.functional.pad(labels, widths, value=tracer.nothing())


def move(tracer: Tracer, op: Op) -> Labels:
    """The same on the labels: whatever puts elements elsewhere."""
    # The labels are views with stride 0, which `view` refuses where `reshape` does the same thing.
    target = op.target.replace("aten.view.", "aten.reshape.").replace("aten._unsafe_view.", "aten.reshape.")

    def moved(arg: Any) -> Any:
        if isinstance(arg, Ref):
            return carried(tracer, arg)
        return [moved(item) for item in arg] if isinstance(arg, tuple) else arg

    found = resolve(target)(*(moved(arg) for arg in op.args), **dict(op.kwargs))
    return tuple(found) if isinstance(found, list) else found


def cat(tracer: Tracer, op: Op) -> Tensor:
    """Values side by side along an axis; a part that holds only zeros has no unit."""
    parts, axis = arguments(op, tensors=(), dim=0)
    known = [tracer.labels(part) for part in parts]
    if any(labels is None and not tracer.zero(part) for labels, part in zip(known, parts, strict=True)):
        raise NoRuleError(f"cat{at(op)} puts something fixed beside its values")
    labels = [
        torch.tensor(tracer.nothing()).expand(tracer.shape(part)) if found is None else found
        for found, part in zip(known, parts, strict=True)
    ]
    joined = torch.cat(list(compact(*labels, keep=axis)), axis)
    return joined.expand(op.shape)


def taken(tracer: Tracer, op: Op) -> Tensor:
    """Elements picked by places that are fixed."""

    def place(arg: Any) -> Any:
        if isinstance(arg, tuple):
            return [place(item) for item in arg]
        found = tracer.constant(arg) if isinstance(arg, Ref) else arg
        if found is None and isinstance(arg, Ref):
            raise NoRuleError(f"{op.name.removeprefix('aten.')}{at(op)} picks elements by places that are computed")
        return found

    found: Tensor = resolve(op.target)(carried(tracer, op.args[0]), *(place(arg) for arg in op.args[1:]))
    return found


def like(tracer: Tracer, op: Op) -> Tensor:
    """In the shape of another value."""
    labels = carried(tracer, op.args[0])
    return labels.reshape(op.shape) if labels.numel() == torch.Size(op.shape).numel() else labels.expand(op.shape)
