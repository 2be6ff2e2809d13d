"""Labels: int64 tensors of a value's shape that hold the number of the unit each element belongs to."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def per_axis(merge: Callable[[Tensor, Tensor], None], labels: Tensor, axis: int) -> Tensor:
    """The units along ``axis``, int64 ``[size]``; elements that differ only in other places are merged into one."""
    (short,) = compact(labels, keep=axis)
    rows = short.movedim(axis, 0).flatten(1)
    first = rows[:, :1]
    differs = rows != first
    if bool(differs.any()):
        merge(first.expand_as(rows)[differs], rows[differs])
    return first[:, 0]


def compact(*labels: Tensor, keep: int | None = None) -> tuple[Tensor, ...]:
    """The same labels, of one shape, with every axis that all of them are only repeated along cut to size 1."""
    ndim = labels[0].ndim
    for axis in range(ndim):
        repeated = all(part.stride(axis) == 0 for part in labels)
        if repeated and (keep is None or axis != keep % ndim):
            labels = tuple(part.narrow(axis, 0, 1) for part in labels)
    return labels


def place_along(units: Tensor, axis: int, ndim: int) -> Tensor:
    """The units along one axis of an otherwise flat tensor of ``ndim`` axes."""
    shape = [1] * ndim
    shape[axis] = len(units)
    return units.reshape(shape)


def distinct(labels: Tensor) -> Tensor:
    """The same labels with every axis that they are only repeated along cut to size 1, however they lie in memory."""
    for axis in range(labels.ndim):
        first = labels.narrow(axis, 0, 1)
        if labels.stride(axis) == 0 or bool((labels == first).all()):
            labels = first
    return labels
