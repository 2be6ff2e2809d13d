"""The largest paths of a network, lazily and in exact order."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from eclab.errors import NonFiniteError, SettingError
from eclab.network.frozen import on_edges
from eclab.network.graph import inputs_of
from eclab.network.network import Link, TracedNetwork, Weight
from eclab.network.run import active_units
from eclab.paths.counts import sources
from eclab.paths.skeleton import Edge

Floats = NDArray[np.float64]
Place = tuple[int, int]
"""An edge as (number of its weight, place in the flattened parameter)."""

_SINK, _START = -1, -2
"""Stand behind all outputs and before all sources; the edges to and from them have weight 1."""

_NO_EDGE: Place = (_SINK, 0)


@dataclass(frozen=True)
class TopPath:
    """One of the largest paths.

    Attributes:
        edges: its edges from a source to an output.
        value: the product of their weights; 0 or infinite where that leaves the range of float64.
        log_value: ``log |value|``, which never does.
        output: number of the output unit where it ends.
        active: True where a sample was given, for which every unit on the path is on; None without one.
    """

    edges: tuple[Edge, ...]
    value: float
    log_value: float
    output: int
    active: bool | None = None


@torch.no_grad()
def top_paths(net: TracedNetwork, k: int = 10, x: Any = None) -> list[TopPath]:
    """The ``k`` paths with the largest ``|value|``, in order.

    Paths are those of the weight graph (channels and kernel taps), from a source to an output. A path with a zero
    weight is left out.

    Args:
        net: the traced network.
        k: how many paths, at least 1; fewer are returned where the network has fewer.
        x: one sample with its batch axis; then only paths whose units are all on for it.

    Returns:
        The paths, largest first.

    Raises:
        SettingError: ``k`` is no whole number of at least 1, or ``x`` is not one sample.
        NonFiniteError: a weight is NaN or infinite.

    Example:
        >>> import torch, eclab
        >>> from torch.nn import Linear, ReLU, Sequential
        >>> model = Sequential(Linear(1, 2, bias=False), ReLU(), Linear(2, 1, bias=False))
        >>> net = eclab.trace(model, torch.ones(1, 1))
        >>> model[0].weight.data = torch.tensor([[2.0], [3.0]])
        >>> model[2].weight.data = torch.tensor([[5.0, -4.0]])
        >>> [path.value for path in net.top_paths(2)]
        [-12.0, 10.0]

    Source: V. Jiménez and A. Marzal, Computing the K shortest paths: a new algorithm and an experimental comparison
    (WAE 1999), the recursive enumeration algorithm, on ``−log |w|``.
    """
    if type(k) is not int or k < 1:
        raise SettingError(f"k is {k!r}", allowed="a whole number of at least 1")
    on: NDArray[np.bool_] | None = None
    if x is not None:
        if any(item.shape[0] != 1 for item in inputs_of(x)):
            raise SettingError(
                f"x has {inputs_of(x)[0].shape[0]} samples",
                allowed="one sample with its batch axis",
                fix="pass x[:1]; which units are on differs from sample to sample",
            )
        on = active_units(net, x)[0].cpu().numpy()
    with on_edges(net):
        search = _Search(net, on, k)
        return [search.path(number) for number in islice(search.ranks(), k)]


class _Found(NamedTuple):
    """A path to a unit: the path of this rank to the tail, and one more edge."""

    log_value: float
    place: Place
    tail: int
    rank: int


@dataclass(eq=False)
class _Node:
    """The paths to one unit that are known, and where the next one may come from.

    Attributes:
        found: the paths known, largest first.
        order: the edges that lead here, by the best path through them; ``taken`` of them are in ``found``.
        heap: further paths through edges that are in ``found``, as (−log value, age, entry for ``found``).
    """

    order: list[tuple[float, Place, int]]
    found: list[_Found] = field(default_factory=list)
    taken: int = 0
    heap: list[tuple[float, int, _Found]] = field(default_factory=list)
    age: int = 0

    def push(self, candidate: _Found) -> None:
        """Adds a candidate."""
        self.age += 1
        heapq.heappush(self.heap, (-candidate.log_value, self.age, candidate))

    def pop(self) -> bool:
        """Moves the largest candidate to ``found``; False where there is none."""
        fresh = self.order[self.taken][0] if self.taken < len(self.order) else -math.inf
        if self.heap and -self.heap[0][0] > fresh:
            self.found.append(heapq.heappop(self.heap)[2])
        elif fresh > -math.inf:
            self.found.append(_Found(*self.order[self.taken], rank=0))
            self.taken += 1
        else:
            return False
        return True


class _Search:
    """The recursive enumeration algorithm, with a list in place of the recursion so that depth does not matter."""

    def __init__(self, net: TracedNetwork, on: NDArray[np.bool_] | None, k: int) -> None:
        self.net = net
        self.on = on
        self.k = k
        self.values = [_values(edges) for edges in net.edges]
        self.best = np.where(sources(net), 0.0, -np.inf)
        for number, edges in enumerate(net.edges):
            self._relax(number, edges)
        self.nodes: dict[int, _Node] = {}

    def _relax(self, number: int, edges: Weight | Link) -> None:
        """The largest path to every head, by dynamic programming: ``log|v|`` of the best tail and edge."""
        through = self._logs(number, ()) + self.best[edges.tail.numpy()]
        spread = tuple(axis for axis, size in enumerate(edges.head.shape) if size == 1)
        heads = edges.head.reshape(-1).numpy()
        best = through.max(spread).reshape(-1) if spread else through.reshape(-1)
        np.maximum.at(self.best, heads, best)
        if self.on is not None:
            self.best[heads[~self.on[heads]]] = -np.inf

    def _logs(self, number: int, where: tuple[int | slice, ...]) -> Floats:
        with np.errstate(divide="ignore"):
            logs: Floats = np.log(np.abs(self.values[number][where]))
        return logs

    @cached_property
    def _rows(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """All (weight, entry of its head table) pairs by the unit they lead to, and where each unit's begin."""
        heads = [edges.head.reshape(-1).numpy() for edges in self.net.edges]
        numbers = np.repeat(np.arange(len(heads)), [len(units) for units in heads])
        rows = np.concatenate([np.arange(len(units)) for units in heads])
        units = np.concatenate(heads)
        order = np.argsort(units, kind="stable")
        begin = np.searchsorted(units[order], np.arange(self.net.num_nodes + 1))
        return np.stack([numbers, rows], 1)[order], begin

    def rows_into(self, unit: int) -> list[Place]:
        """The (weight, entry of its head table) pairs that lead to a unit."""
        pairs, begin = self._rows
        return [(int(number), int(row)) for number, row in pairs[begin[unit] : begin[unit + 1]]]

    def node(self, unit: int) -> _Node:
        """The unit's entry, made when it is first asked for."""
        if unit not in self.nodes:
            self.nodes[unit] = node = _Node(self._ends() if unit == _SINK else self._edges_into(unit))
            node.pop()
        return self.nodes[unit]

    def _ends(self) -> list[tuple[float, Place, int]]:
        reached = [unit for unit in self.net.outputs.tolist() if self.best[unit] > -np.inf]
        reached.sort(key=lambda unit: -self.best[unit])
        return [(float(self.best[unit]), _NO_EDGE, unit) for unit in reached]

    def _edges_into(self, unit: int) -> list[tuple[float, Place, int]]:
        rows = self.rows_into(unit)
        if not rows:
            return [(0.0, _NO_EDGE, _START)]
        logs, places, tails = [np.zeros(0)], [np.zeros((0, 2), np.int64)], [np.zeros(0, np.int64)]
        for number, row in rows:
            edges, shape = self.net.edges[number], self.values[number].shape
            where = _entry(edges.head.shape, row)
            tail = edges.tail.expand(shape)[where].reshape(-1).numpy()
            logs.append(self._logs(number, where).reshape(-1) + self.best[tail])
            places.append(np.stack([np.full(len(tail), number), _flat(shape, where)], 1))
            tails.append(tail)
        log, place, tail = np.concatenate(logs), np.concatenate(places), np.concatenate(tails)
        order = np.flatnonzero(log > -np.inf)
        if len(order) > self.k:  # no more of them can be needed
            order = order[log[order] >= np.partition(log[order], -self.k)[-self.k]]
        order = order[np.argsort(-log[order], kind="stable")][: self.k]
        listed = zip(log[order].tolist(), place[order].tolist(), tail[order].tolist(), strict=True)
        return [(value, (at[0], at[1]), unit) for value, at, unit in listed]

    def ranks(self) -> Iterator[int]:
        """0, 1, … for as long as there is another path."""
        if not self.node(_SINK).found:
            return
        yield 0
        rank = 1
        while self._advance(_SINK):
            yield rank
            rank += 1

    def _advance(self, unit: int) -> bool:
        """Finds the next path to a unit. What it needs is the next path to the tail of the last one, and so on down."""
        waiting = [unit]
        last = self.node(unit).found[-1]
        while last.tail != _START and len(self.node(last.tail).found) == last.rank + 1:
            waiting.append(last.tail)
            last = self.node(last.tail).found[-1]
        more = False
        for unit in reversed(waiting):
            node = self.nodes[unit]
            last = node.found[-1]
            known = self.nodes[last.tail].found if last.tail != _START else []
            if len(known) > last.rank + 1:
                step = self._edge_log(last.place)
                node.push(last._replace(log_value=known[last.rank + 1].log_value + step, rank=last.rank + 1))
            more = node.pop()
        return more

    def path(self, rank: int) -> TopPath:
        """The path with this rank, from its last edge back to the source."""
        end = self.node(_SINK).found[rank]
        edges, value, unit, rank = [], 1.0, end.tail, end.rank
        while (last := self.node(unit).found[rank]).tail != _START:
            edges.append(self._edge(last.place, last.tail, unit))
            value *= self._value(last.place)
            unit, rank = last.tail, last.rank
        return TopPath(tuple(reversed(edges)), value, end.log_value, end.tail, None if self.on is None else True)

    def _edge(self, place: Place, tail: int, head: int) -> Edge:
        weight = self.net.edges[place[0]]
        if isinstance(weight, Link):
            return Edge("", (), tail, head)
        return Edge(weight.name, tuple(map(int, np.unravel_index(place[1], weight.shape))), tail, head)

    def _value(self, place: Place) -> float:
        return 1.0 if place == _NO_EDGE else float(self.values[place[0]].reshape(-1)[place[1]])

    def _edge_log(self, place: Place) -> float:
        return math.log(abs(self._value(place)))


def _entry(shape: tuple[int, ...], number: int) -> tuple[int | slice, ...]:
    """Where the edges to one entry of a head table are: its place on the axes it varies on, all of the others."""
    place = np.unravel_index(number, shape)
    return tuple(int(i) if size > 1 else slice(None) for i, size in zip(place, shape, strict=True))


def _flat(shape: tuple[int, ...], where: tuple[int | slice, ...]) -> NDArray[np.int64]:
    """Places in the flattened parameter of what ``where`` selects."""
    axes = [np.arange(size)[i] for i, size in zip(where, shape, strict=True)]
    grid = np.meshgrid(*(np.atleast_1d(axis) for axis in axes), indexing="ij")
    return np.ravel_multi_index(tuple(grid), shape).reshape(-1).astype(np.int64)


def _values(weight: Weight | Link) -> Floats:
    if isinstance(weight, Link):
        return np.ones(weight.head.shape)
    values: Floats = weight.parameter.detach().to("cpu", torch.float64).numpy()
    if not np.isfinite(values).all():
        raise NonFiniteError(
            f"'{weight.name}' holds {values[~np.isfinite(values)][0]}",
            allowed="finite weights",
            fix="start again from weights that are finite",
        )
    return values
