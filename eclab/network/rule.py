"""What a rule is: how the units of an operation's inputs become the units of its value.

A value is described by its *labels*, an int64 tensor of the value's own shape that holds the number of the unit each
element belongs to. Whatever moves elements about (reshape, flatten, cat …) is then applied to the labels as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from eclab.network.frozen import FrozenNorm
from eclab.network.graph import Op


class Tracer(Protocol):
    """What a rule may ask of the trace."""

    def labels(self, ref: Any) -> Tensor | None:
        """Labels of an argument; None for one that carries no unit (a number, a parameter, a buffer)."""

    def parameter(self, ref: Any) -> str | None:
        """Name of the parameter an argument is, or None."""

    def reshaped(self, ref: Any) -> str | None:
        """Name of the parameter that an argument is with its elements in the same order, or None."""

    def transposed(self, ref: Any) -> str | None:
        """Name of the matrix that an argument is the transpose of, or None."""

    def fixed(self, ref: Any) -> bool:
        """Whether an argument depends on no input and no parameter of the model."""

    def zero(self, ref: Any) -> bool:
        """Whether an argument is the number 0, or a tensor that holds nothing else whatever the input."""

    def shape(self, ref: Any) -> tuple[int, ...]:
        """Shape of an argument's value."""

    def pinned(self, units: Tensor) -> bool:
        """Whether all of these units are known to be unable to scale."""

    def new_units(self, count: int, op: Op) -> Tensor:
        """Numbers of ``count`` new units, int64 ``[count]``."""

    def source(self, op: Op, shape: tuple[int, ...] | None = None) -> Tensor:
        """Labels of a value that no weight leads to, as new units that the batch axis shares."""

    def constant(self, ref: Any) -> Tensor | None:
        """The value of an argument that is known now and stays what it is, or None."""

    def nothing(self, *, make: bool = True) -> int:
        """Number of the unit that is 0 always, as what a padding adds; −1 where none was needed so far."""

    def merge(self, one: Tensor, other: Tensor) -> None:
        """Element by element, these are the same unit."""

    def tie(self, one: Tensor, other: Tensor) -> None:
        """Element by element, these units share one scale, though no edge runs between them."""

    def link(self, tails: Tensor, heads: Tensor) -> None:
        """Element by element an edge of weight 1, whose two ends so share one scale."""

    def edges(
        self, name: str, kind: str, heads: Tensor, tails: Tensor, axes: tuple[int, int] = (0, 1), groups: int = 1
    ) -> None:
        """The weights of a parameter, ends broadcasting to its shape."""

    def layer(self, op: Op, kind: str, weight: str, bias: str | None, units: Tensor) -> None:
        """These units are a layer, drawn and named as one."""

    def normed(self, units: Tensor) -> None:
        """These units go into a normalisation that takes their scale away."""

    def buffer(self, ref: Any) -> str | None:
        """Name of the buffer an argument is, or None."""

    def frozen(self, norm: FrozenNorm) -> None:
        """A batch-norm with frozen statistics, whose parameters stand for affine edges."""

    def trains_alone(self, name: str) -> bool:
        """Whether a parameter trains and is read once only."""

    def pin(self, units: Tensor, reason: str) -> None:
        """These units cannot scale."""

    def activate(self, op: Op, name: str, *, gate: bool) -> None:
        """The value went through an activation; ``gate`` where that can switch a unit off."""


class NoRuleError(Exception):
    """Raised by a rule for a form of its operation that it does not know; the units are then pinned.

    Its text, if it has one, becomes the reason.
    """


Labels = Tensor | tuple[Tensor | None, ...]
"""Labels of a value, or of each tensor that an operation returns; None for one without units."""

Labelling = Callable[[Tracer, Op], Labels]


@dataclass(frozen=True)
class Rule:
    """How one operation treats scales.

    Attributes:
        names: the operations it is for, ``"aten.relu"``.
        label: labels of the value from those of the inputs.
        words: what it is called in the table of supported operations.
        homogeneous: whether ``f(c·x) = c·f(x)`` for every ``c > 0``; the units are pinned where it is not.
        note: what a reader of the table should know.
        elementwise: whether a path runs through it unchanged, as through an activation.
    """

    names: tuple[str, ...]
    label: Labelling
    words: str
    homogeneous: bool = True
    note: str = ""
    elementwise: bool = False


def carried(tracer: Tracer, ref: Any) -> Tensor:
    """Labels of an argument that must carry units."""
    labels = tracer.labels(ref)
    if labels is None:
        raise NoRuleError
    return labels


def arguments(op: Op, **defaults: Any) -> tuple[Any, ...]:
    """An operation's arguments by position or name, with their defaults."""
    named = dict(op.kwargs)
    return tuple(
        op.args[place] if place < len(op.args) else named.get(name, default)
        for place, (name, default) in enumerate(defaults.items())
    )


def at(op: Op) -> str:
    """``" at 'features.3'"``: where an operation stands, for messages."""
    return f" at '{op.module}'" if op.module else ""


def constant_source() -> Tensor:
    """The tail of every bias."""
    return torch.zeros(1, dtype=torch.int64)
