"""The traced network: weights as edges between units, and which units scale freely."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from eclab.errors import ScaleError, TraceError
from eclab.network.frozen import FrozenNorm
from eclab.network.graph import Op

SOURCE = 0
"""Number of the constant source, the tail of every bias."""


@dataclass(frozen=True, eq=False)
class Weight:
    """One parameter as edges between units.

    Attributes:
        name: the parameter's name in the model, ``"0.weight"``.
        kind: ``"linear"``, ``"conv"``, ``"transposed"`` (convolution), ``"scale"`` (a factor a unit) or ``"bias"``.
        head, tail: int64, units that each weight leads to and comes from; they broadcast to the parameter's shape, so
            a dense layer of 512 × 784 holds 512 × 1 and 1 × 784 numbers.
        shape: the parameter's shape when it was traced.
        axes: the axes that run over heads and over tails.
        groups: groups of a convolution, which cut axis 0 into equal parts; else 1.
        shared: whether the model uses this parameter more than once; the units it touches are then pinned.
    """

    name: str
    kind: str
    head: Tensor
    tail: Tensor
    shape: tuple[int, ...]
    axes: tuple[int, int] = (0, 1)
    groups: int = 1
    shared: bool = False
    module: nn.Module = field(repr=False, default_factory=nn.Identity)

    @property
    def parameter(self) -> nn.Parameter:
        """The live parameter in the model; a :class:`TraceError` where its shape is no longer the traced one."""
        parameter = self.module.get_parameter(self.name)
        if tuple(parameter.shape) != self.shape:
            raise TraceError(
                f"'{self.name}' has shape {tuple(parameter.shape)} and had {self.shape} when the model was traced",
                fix="trace the model again after changing its shape",
            )
        return parameter

    @property
    def numel(self) -> int:
        """Number of weights."""
        return int(torch.Size(self.shape).numel())

    def ends(self, index: tuple[int, ...]) -> tuple[int, int]:
        """Tail and head unit of the weight at ``index``."""
        return int(self.tail.expand(self.shape)[index]), int(self.head.expand(self.shape)[index])

    def sum_into_heads(self, values: Tensor, num_units: int) -> Tensor:
        """Σ of ``values`` (shaped like the parameter) over the weights into each unit: float, ``[num_units]``."""
        return _sum_by(values, self.head, num_units)

    def sum_into_tails(self, values: Tensor, num_units: int) -> Tensor:
        """Σ of ``values`` (shaped like the parameter) over the weights out of each unit: float, ``[num_units]``."""
        return _sum_by(values, self.tail, num_units)


def _sum_by(values: Tensor, units: Tensor, num_units: int) -> Tensor:
    units = units.reshape((1,) * (values.ndim - units.ndim) + units.shape)
    spread = [axis for axis, size in enumerate(units.shape) if size == 1]
    sums = values.sum(spread, keepdim=True) if spread else values
    total = torch.zeros(num_units, dtype=values.dtype, device=values.device)
    return total.index_add_(0, units.reshape(-1).to(values.device), sums.reshape(-1))


@dataclass(frozen=True, eq=False)
class Link:
    """Edges of fixed weight 1, as an addition has them: both ends share one scale.

    Attributes:
        head, tail: int64 ``[n]``, units.
    """

    head: Tensor
    tail: Tensor


@dataclass(frozen=True)
class Unit:
    """A neuron or channel: what scales as one.

    Attributes:
        number: its number in the network; 0 is the constant source, then the inputs.
        layer: name of the layer that makes it, ``"0"``.
        index: its place in that layer.
        state: ``"free"``, ``"tied"`` (free, and shared by several places) or ``"pinned"``.
        reason: why it cannot scale, in words; empty where it can.
    """

    number: int
    layer: str
    index: int
    state: str
    reason: str = ""

    @property
    def name(self) -> str:
        """``"0[3]"``: unit 3 of layer 0."""
        return f"{self.layer}[{self.index}]"


@dataclass(frozen=True, eq=False)
class Layer:
    """An operation with weights, and the units it makes.

    Attributes:
        name: the module's path, ``"0"``.
        kind: ``"linear"``, ``"conv"``, ``"transposed"`` or ``"norm"`` (batch-norm with its factors).
        weight, bias: names of its parameters; ``bias`` may be None.
        units: int64 ``[width]``, numbers of its units.
        shape: the weight's shape.
        activation: what its units go through, ``"relu"``; empty for none.
        output: whether its units are outputs of the model.
        grid: spatial size of its feature map, ``(28, 28)``; empty for a linear layer.
    """

    name: str
    kind: str
    weight: str
    bias: str | None
    units: Tensor
    shape: tuple[int, ...]
    activation: str
    output: bool
    grid: tuple[int, ...] = ()

    @property
    def width(self) -> int:
        """Number of units."""
        return len(self.units)


@dataclass(eq=False, repr=False)
class TracedNetwork:
    """A model seen as weights between units, some of which scale freely (theory: the group G acts on these).

    Made by :func:`eclab.trace`. Keeps a reference to the model and copies no weight.

    Attributes:
        model: the traced module itself.
        edges: all edges in the order the model uses them: weights, and links of additions.
        layers: the operations with weights, in the same order.
        units: all but the constant source and the inputs.
        inputs: number of input units; they are numbered from 1.
        scale_of: int64 ``[num_nodes]``; for each unit the number of its free scale, from 1; 0 where it is pinned. Units
            tied by an addition have the same number.
        scale_free: int64, the scales that nothing downstream feels, as those of units before a batch-norm with training
            statistics.
        outside: names of the parameters that are no edges (PReLU slopes, LayerNorm …), which take the base step.
        outputs: int64, units where paths end: the model's outputs, each once and in order.
        operations: the model's operations.
        gates: ``(operation, units)`` of every activation that can switch a unit off.
        frozen_norms: batch-norms with frozen statistics whose parameters stand for affine edges.
    """

    model: nn.Module
    edges: tuple[Weight | Link, ...]
    layers: tuple[Layer, ...]
    units: tuple[Unit, ...]
    inputs: int
    scale_of: Tensor
    scale_free: Tensor
    outside: tuple[str, ...]
    outputs: Tensor
    operations: tuple[Op, ...] = field(repr=False, default=())
    gates: tuple[tuple[int, Tensor], ...] = field(repr=False, default=())
    frozen_norms: tuple[FrozenNorm, ...] = field(repr=False, default=())

    @property
    def num_nodes(self) -> int:
        """Number of units of any kind: the constant source, the inputs, and :attr:`units`."""
        return len(self.scale_of)

    @cached_property
    def weights(self) -> tuple[Weight, ...]:
        """Every parameter that is an edge between units, in the order the model uses them."""
        return tuple(edges for edges in self.edges if isinstance(edges, Weight))

    @cached_property
    def num_weights(self) -> int:
        """``m``, the number of weights; a shared one counts once."""
        return sum({weight.name: weight.numel for weight in self.weights}.values())

    @cached_property
    def num_units(self) -> int:
        """``H``, the number of free scales: hidden units that scale freely, tied ones counted once."""
        return int(self.scale_of.max())

    @property
    def class_dim(self) -> int:
        """``m − H``, the dimension of the class space."""
        return self.num_weights - self.num_units

    def __repr__(self) -> str:
        widths = " → ".join(f"{layer.name}:{layer.width}" for layer in self.layers)
        return f"{type(self).__name__}({widths}, m={self.num_weights:,}, H={self.num_units:,})"

    def weight(self, name: str) -> Weight:
        """The weight of that name; a :class:`ScaleError` that lists the names where there is none."""
        for weight in self.weights:
            if weight.name == name:
                return weight
        names = ", ".join(dict.fromkeys(weight.name for weight in self.weights))
        raise ScaleError(f"there is no weight '{name}'", allowed=names, fix="use one of these names")

    def layer(self, name: str) -> Layer:
        """The layer of that name; a :class:`ScaleError` that lists the names where there is none."""
        for layer in self.layers:
            if layer.name == str(name):
                return layer
        names = ", ".join(layer.name for layer in self.layers)
        raise ScaleError(f"there is no layer '{name}'", allowed=names, fix="use one of these names")

    def unit(self, number: int) -> Unit:
        """The hidden or output unit with this number."""
        return self.units[number - self.inputs - 1]

    def unit_name(self, number: int) -> str:
        """A unit in words: ``"bias"``, ``"input 3"`` or ``"0[3]"``."""
        if number == SOURCE:
            return "bias"
        return f"input {number - 1}" if number <= self.inputs else self.unit(number).name

    def hidden_layers(self) -> Iterator[Layer]:
        """The layers that have a unit which scales freely."""
        return (layer for layer in self.layers if bool((self.scale_of[layer.units] > 0).any()))
