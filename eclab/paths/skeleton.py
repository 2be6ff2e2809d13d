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
    """One weight as an edge: ``parameter[index]`` from unit ``tail`` to unit ``head``.

    ``parameter`` is empty for an edge of fixed weight 1, as an addition has them.
    """

    parameter: str
    index: tuple[int, ...]
    tail: int
    head: int

    def __str__(self) -> str:
        return f"{self.parameter}[{','.join(map(str, self.index))}]" if self.parameter else "1"


@dataclass(frozen=True)
class Skeleton:
    """A skeleton by scale: ``a[s]`` and ``b[s]`` for every free scale ``s``, in the order they were resolved.

    A scale that nothing downstream feels (before a batch-norm with training statistics) has no ``b``.

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
    a = _resolve(net, (edge for weight in matrices for edge in _into_heads(weight)), set(), by_head=True)
    ends = set(net.scale_free.tolist())
    b = _resolve(net, (edge for weight in reversed(matrices) for edge in _out_of_tails(weight)), ends, by_head=False)
    return Skeleton(a, b)


def _resolve(net: TracedNetwork, candidates: Iterator[Edge], ends: set[int], *, by_head: bool) -> dict[int, Edge]:
    """Takes the first candidate of every free scale whose far end is resolved; repeats while that resolves more.

    Chains end on ground and at the scales in ``ends``, which need no edge.
    """
    scale = net.scale_of.tolist()
    chosen: dict[int, Edge] = {}
    waiting = list(candidates)
    while waiting:
        left = []
        for edge in waiting:
            near, far = (edge.head, edge.tail) if by_head else (edge.tail, edge.head)
            mine, there = scale[near], scale[far]
            if mine == 0 or mine in chosen or mine in ends:
                continue
            if there == 0 or there in chosen or there in ends:
                chosen[mine] = edge
            else:
                left.append(edge)
        if len(left) == len(waiting):
            break
        waiting = left
    done = {0, *chosen, *ends}
    missing = [unit.name for unit in net.units if scale[unit.number] not in done]
    if missing:
        raise ChartError(
            f"no skeleton edge {'leads to' if by_head else 'leaves'} {', '.join(missing[:5])}",
            allowed="units that a weight connects with the inputs and the outputs",
            fix="remove these units or pin them",
        )
    return chosen


def _into_heads(weight: Weight) -> Iterator[Edge]:
    """For each unit the weight leads to, its edge from unit ``v mod n_in``."""
    if weight.kind == "scale":
        yield from _factors(weight)
        return
    for heads, tails in _blocks(weight):
        middle = _middle(tails)
        for place, (head, row) in enumerate(heads):
            tail, column = middle[place % len(middle)]
            yield _edge(weight, row, column, tail, head)


def _out_of_tails(weight: Weight) -> Iterator[Edge]:
    """For each unit the weight leaves, its edge to unit ``u mod n_out``."""
    if weight.kind == "scale":
        yield from _factors(weight)
        return
    for heads, tails in _blocks(weight):
        for place, (tail, column) in enumerate(_middle(tails)):
            head, row = heads[place % len(heads)]
            yield _edge(weight, row, column, tail, head)


def _factors(weight: Weight) -> Iterator[Edge]:
    for place in range(weight.numel):
        index = tuple(int(i) for i in torch.unravel_index(torch.tensor(place), weight.shape))
        yield Edge(weight.name, index, *weight.ends(index))


Ends = list[tuple[int, int]]
"""Units with their places along one axis of a weight."""


def _blocks(weight: Weight) -> Iterator[tuple[Ends, Ends]]:
    """Each group of a weight as its heads and its tails; groups cut axis 0."""
    plane = (*weight.shape[:2], *[1] * (len(weight.shape) - 2))
    head, tail = (
        end[tuple(slice(0, 1) if k > 1 else slice(None) for k in range(end.ndim))] for end in (weight.head, weight.tail)
    )
    head, tail = head.expand(plane).reshape(plane[:2]), tail.expand(plane).reshape(plane[:2])
    size = weight.shape[0] // weight.groups
    for group in range(weight.groups):
        first = group * size
        down, across = range(first, first + size), range(weight.shape[1])
        if weight.axes[0] == 0:
            yield _listed(head[first : first + size, 0], down), _listed(tail[first], across)
        else:
            yield _listed(head[first], across), _listed(tail[first : first + size, 0], down)


def _listed(units: Tensor, places: range) -> Ends:
    return list(zip(units.tolist(), places, strict=True))


def _middle(ends: Ends) -> Ends:
    """Each distinct unit with the middle one of its places."""
    places: dict[int, list[int]] = {}
    for unit, place in ends:
        places.setdefault(unit, []).append(place)
    return [(unit, found[len(found) // 2]) for unit, found in places.items()]


def _edge(weight: Weight, row: int, column: int, tail: int, head: int) -> Edge:
    first, second = (row, column) if weight.axes[0] == 0 else (column, row)
    return Edge(weight.name, (first, second, *(size // 2 for size in weight.shape[2:])), tail, head)


def index_tensors(edges: list[Edge]) -> tuple[Tensor, ...]:
    """The edges' places in their weight, one int64 tensor per axis."""
    return tuple(torch.tensor(axis, dtype=torch.int64) for axis in zip(*(edge.index for edge in edges), strict=True))
