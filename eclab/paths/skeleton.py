"""The choice of a skeleton: for every free unit one weight that leads to it (a) and one that leaves it (b)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from eclab.errors import ChartError
from eclab.network.network import TracedNetwork, Weight


@dataclass(frozen=True)
class Edge:
    """One weight as an edge: ``parameter[index]`` from unit ``tail`` to unit ``head``."""

    parameter: str
    index: tuple[int, ...]
    tail: int
    head: int

    def __str__(self) -> str:
        return f"{self.parameter}[{','.join(map(str, self.index))}]"


@dataclass(frozen=True)
class Skeleton:
    """A skeleton by scale: ``a[s]`` and ``b[s]`` for every free scale ``s``, in the order they were resolved.

    ``a`` is ordered down from ground (each edge's tail before it), ``b`` from the outputs back.
    """

    a: dict[int, Edge]
    b: dict[int, Edge]


def diagonal(net: TracedNetwork) -> Skeleton:
    """The paper's choice, for any widths: ``a(v)`` from unit ``v mod n_in``, ``b(u)`` to unit ``u mod n_out``.

    Of parallel edges (a kernel's taps, a channel's positions behind a flatten) it is the middle one.

    Args:
        net: the traced network.

    Returns:
        The skeleton; its a-edges are a forest rooted at ground.

    Raises:
        ChartError: a free unit has no weight that can be its a- or b-edge.

    Source: Meng et al. 2018 (arXiv:1802.03713), section 4, skeleton weights; any widths: theory §2.
    """
    matrices = [weight for weight in net.weights if weight.kind != "bias" and not weight.shared]
    a = _resolve(net, (edge for weight in matrices for edge in _into_heads(weight)), by_head=True)
    b = _resolve(net, (edge for weight in reversed(matrices) for edge in _out_of_tails(weight)), by_head=False)
    return Skeleton(a, b)


def _resolve(net: TracedNetwork, candidates: Iterator[Edge], *, by_head: bool) -> dict[int, Edge]:
    """Takes the first candidate of every free scale whose far end is resolved; repeats while that resolves more."""
    scale = net.scale_of.tolist()
    chosen: dict[int, Edge] = {}
    waiting = list(candidates)
    while waiting:
        left = []
        for edge in waiting:
            near, far = (edge.head, edge.tail) if by_head else (edge.tail, edge.head)
            mine, there = scale[near], scale[far]
            if mine == 0 or mine in chosen:
                continue
            if there == 0 or there in chosen:
                chosen[mine] = edge
            else:
                left.append(edge)
        if len(left) == len(waiting):
            break
        waiting = left
    missing = [unit.name for unit in net.units if scale[unit.number] and scale[unit.number] not in chosen]
    if missing:
        raise ChartError(
            f"no skeleton edge {'leads to' if by_head else 'leaves'} {', '.join(missing[:5])}",
            allowed="units that a weight connects with the inputs and the outputs",
            fix="remove these units or pin them",
        )
    return chosen


def _into_heads(weight: Weight) -> Iterator[Edge]:
    """For each unit the weight leads to, its edge from unit ``v mod n_in``."""
    rows = weight.shape[0] // weight.groups
    heads = weight.head.reshape(-1).tolist()
    for group in range(weight.groups):
        middle = _middle_columns(weight, group)
        for place in range(rows):
            unit, column = middle[place % len(middle)]
            yield _edge(weight, group * rows + place, column, unit, heads[group * rows + place])


def _out_of_tails(weight: Weight) -> Iterator[Edge]:
    """For each unit the weight leaves, its edge to unit ``u mod n_out``."""
    rows = weight.shape[0] // weight.groups
    heads = weight.head.reshape(-1).tolist()
    for group in range(weight.groups):
        for place, (unit, column) in enumerate(_middle_columns(weight, group)):
            row = group * rows + place % rows
            yield _edge(weight, row, column, unit, heads[row])


def _edge(weight: Weight, row: int, column: int, tail: int, head: int) -> Edge:
    return Edge(weight.name, (row, column, *(size // 2 for size in weight.shape[2:])), tail, head)


def _middle_columns(weight: Weight, group: int) -> list[tuple[int, int]]:
    """The distinct tail units of a group, each with the middle one of its columns."""
    tails = weight.tail.reshape(weight.tail.shape[0], -1)
    row = group * (weight.shape[0] // weight.groups) if weight.groups > 1 else 0
    places: dict[int, list[int]] = {}
    for column, unit in enumerate(tails[row].tolist()):
        places.setdefault(unit, []).append(column)
    return [(unit, columns[len(columns) // 2]) for unit, columns in places.items()]


def index_tensors(edges: list[Edge]) -> tuple[Tensor, ...]:
    """The edges' places in their weight, one int64 tensor per axis."""
    return tuple(torch.tensor(axis, dtype=torch.int64) for axis in zip(*(edge.index for edge in edges), strict=True))
