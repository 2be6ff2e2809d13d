"""A skeleton chosen by hand: for some units their own edges, for the others those of the diagonal chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any

from eclab.errors import ChartError
from eclab.network.network import TracedNetwork, Unit
from eclab.paths.skeleton import Edge, Skeleton, diagonal

Choice = Mapping[Any, Any]
"""From a unit, ``"0[3]"`` or ``("0", 3)``, to one or two edges, each ``("0.weight", (3, 5))`` or an ``Edge``."""


def by_hand(net: TracedNetwork, choice: Choice) -> Skeleton:
    """The diagonal skeleton with some edges replaced.

    An edge that leads into its unit becomes its ``a``, one that leaves it its ``b``.

    Args:
        net: the traced network.
        choice: from a unit (``"0[3]"``, ``("0", 3)`` or a :class:`~eclab.network.network.Unit`) to one edge or a list
            of two, each ``("0.weight", (3, 5))``: a parameter's name and a place in it.

    Returns:
        The skeleton.

    Raises:
        ChartError: a unit or an edge does not exist, an edge does not touch its unit, a unit is pinned, or the edges
            run in a circle. All that is wrong is reported together.

    Example:
        >>> import torch, eclab
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 2))
        >>> net = eclab.trace(model, torch.ones(1, 2))
        >>> [str(edge) for edge in net.chart({"0[1]": ("0.weight", (1, 0))}).tree]
        ['0.weight[0,0]', '0.weight[1,0]']

    Source: theory §2: any choice of an incoming and an outgoing edge a unit, the incoming ones a forest.
    """
    start = diagonal(net)
    a, b = dict(start.a), dict(start.b)
    problems: list[str] = []
    for key, edges in choice.items():
        try:
            unit = _unit(net, key)
            for edge in _edges(net, edges):
                _take(net, unit, edge, a, b)
        except ChartError as error:
            problems.append(error.seen)
    if problems:
        raise ChartError(
            "; ".join(problems),
            allowed="for each free unit weights that lead to it or leave it, as {'0[3]': ('0.weight', (3, 5))}",
            fix="net.units lists the units and why some cannot scale",
        )
    return Skeleton(ordered(net, a, by_head=True), ordered(net, b, by_head=False))


def ordered(net: TracedNetwork, chosen: Mapping[int, Edge], *, by_head: bool) -> dict[int, Edge]:
    """The edges with each one's far end before it; a :class:`ChartError` where they run in a circle."""
    scale = net.scale_of
    far = {mine: int(scale[edge.tail if by_head else edge.head]) for mine, edge in chosen.items()}
    try:
        order = list(TopologicalSorter({mine: [there] for mine, there in far.items()}).static_order())
    except CycleError as error:
        circle = [str(chosen[mine]) for mine in error.args[1][:-1]]
        raise ChartError(
            f"the {'a' if by_head else 'b'}-edges {', '.join(circle)} run in a circle",
            allowed="a forest: from every unit the chain of its edges ends on an input, a bias, a pinned unit or an "
            "output",
            fix="choose another edge for one of these units",
        ) from None
    return {mine: chosen[mine] for mine in order if mine in chosen}


def _unit(net: TracedNetwork, key: Any) -> Unit:
    if isinstance(key, tuple) and len(key) == 2:
        key = f"{key[0]}[{key[1]}]"
    found = key if isinstance(key, Unit) else next((unit for unit in net.units if unit.name == key), None)
    if found is None:
        raise ChartError(f"there is no unit {key!r}")
    if found.state == "pinned":
        raise ChartError(f"unit {found.name} cannot scale: {found.reason}")
    return found


def _edges(net: TracedNetwork, given: Any) -> list[Edge]:
    single = isinstance(given, Edge) or (isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], str))
    listed: Sequence[Any] = [given] if single else given if isinstance(given, Sequence) else []
    if not 1 <= len(listed) <= 2 or isinstance(given, str):
        raise ChartError(f"{given!r} is no edge")
    return [edge if isinstance(edge, Edge) else _edge(net, edge) for edge in listed]


def _edge(net: TracedNetwork, given: Any) -> Edge:
    try:
        name, place = given
        index = tuple(int(i) for i in place)
    except (TypeError, ValueError):
        raise ChartError(f"{given!r} is no edge") from None
    weight = next((weight for weight in net.weights if weight.name == name), None)
    if weight is None:
        raise ChartError(f"there is no weight {name!r}")
    if len(index) != len(weight.shape) or any(not 0 <= i < n for i, n in zip(index, weight.shape, strict=True)):
        raise ChartError(f"{name}{list(index)} is outside its shape {weight.shape}")
    return Edge(name, index, *weight.ends(index))


def _take(net: TracedNetwork, unit: Unit, edge: Edge, a: dict[int, Edge], b: dict[int, Edge]) -> None:
    mine = int(net.scale_of[unit.number])
    head, tail = int(net.scale_of[edge.head]), int(net.scale_of[edge.tail])
    if (mine in (head, tail)) is False or head == tail:
        raise ChartError(f"{edge} neither leads to unit {unit.name} nor leaves it")
    if mine == head:
        a[mine] = edge
    elif mine in b:
        b[mine] = edge
    else:
        raise ChartError(f"unit {unit.name} lies before a batch-norm and has no outgoing edge to choose")
