"""The network as the page draws it: layers, the bands of weights between them, and the skeleton; index tables only."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eclab.errors import SettingError
from eclab.network.network import Weight

if TYPE_CHECKING:
    from eclab.facade import Network
    from eclab.paths.chart import Chart
    from eclab.paths.skeleton import Edge

MOST_UNITS = 40
"""Units of a layer that are drawn at once."""

FOLDED_UNITS = 16
"""Units of a folded layer that are drawn to begin with."""


@dataclass(frozen=True)
class Window:
    """The units of a layer that are drawn: ``start`` to ``start + count - 1``."""

    start: int
    count: int

    @property
    def units(self) -> slice:
        """As a slice."""
        return slice(self.start, self.start + self.count)


@dataclass(frozen=True, eq=False)
class Column:
    """Units that are drawn above each other: a layer's, or those of an addition or another operation without weights.

    Attributes:
        name: the layer's, or the module's path.
        kind: the layer's, or ``"sum"`` for an addition, ``"op"`` for what is neither.
        units: int64 ``[width]``, numbers of its units.
        weight, bias: names of its parameters; empty for none.
        shape: of the weight.
        activation, output, grid: as of a layer.
    """

    name: str
    kind: str
    units: Tensor
    weight: str = ""
    bias: str | None = None
    shape: tuple[int, ...] = ()
    activation: str = ""
    output: bool = False
    grid: tuple[int, ...] = ()

    @property
    def width(self) -> int:
        """Number of units."""
        return len(self.units)


@dataclass(frozen=True, eq=False)
class Link:
    """The weights of one parameter between two layers.

    Attributes:
        source, target: numbers of the layers, 0 for the inputs.
        weight: which of the network's weights it is.
        parameter, shape: the weight's name and shape.
        columns: int64 ``[units of the source, parallel columns]``; where in axis 1 of the parameter each unit's
            weights stand (several behind a flatten).
        taps: kernel taps a column has.
        turned: whether axis 0 of the parameter runs over tails, as in a transposed convolution.
    """

    source: int
    target: int
    weight: int
    parameter: str
    shape: tuple[int, ...]
    columns: Tensor
    taps: int
    turned: bool = False

    def block(self, net: Network, rows: Window, columns: Window) -> Tensor:
        """The weights of a lane's network between two windows: ``[rows, columns, parallel edges]``."""
        parameter = net.weights[self.weight].parameter.detach()
        if self.turned:
            parameter = parameter.transpose(0, 1)
        flat = parameter.reshape(parameter.shape[0], parameter.shape[1], -1)[rows.units]
        chosen = self.columns[columns.units]
        picked = flat[:, chosen.reshape(-1).to(flat.device)]
        return picked.reshape(len(flat), len(chosen), -1)

    def middle(self, tail: int, head: int) -> tuple[int, ...]:
        """Place in the parameter of the middle one of the parallel weights from unit ``tail`` to unit ``head``."""
        across = self.columns[tail]
        place = int(across[len(across) // 2])
        first = (place, head) if self.turned else (head, place)
        return (*first, *(size // 2 for size in self.shape[2:]))

    @property
    def parallel(self) -> int:
        """How many parallel weights connect two units."""
        return self.columns.shape[1] * self.taps


def _columns(net: Network) -> tuple[Column, ...]:
    """The layers, and between them the units that no layer makes, in the order of the units."""
    columns = [
        Column(
            layer.name,
            layer.kind,
            layer.units,
            layer.weight,
            layer.bias,
            layer.shape,
            layer.activation,
            layer.output,
            layer.grid,
        )
        for layer in net.layers
    ]
    made = {unit for column in columns for unit in column.units.tolist()}
    added = {head for edge in net.edges if not isinstance(edge, Weight) for head in edge.head.reshape(-1).tolist()}
    outputs = set(net.outputs.tolist())
    others: dict[str, list[int]] = {}
    for unit in net.units:
        if unit.number not in made:
            others.setdefault(unit.layer, []).append(unit.number)
    names = {column.name for column in columns}
    for name, units in others.items():
        kind = "sum" if units[0] in added else "op"
        title = name if name not in names else f"{name} ({kind})"
        columns.append(Column(title, kind, torch.tensor(units), output=outputs.issuperset(units)))
    return tuple(sorted(columns, key=lambda column: int(column.units.min())))


def _label(name: str) -> str:
    return f"layer {name}" if name.isdigit() else name


class Picture:
    """Everything about a network's drawing that does not change while it trains.

    Args:
        net: the network; all lanes have the same structure.
        numbered: whether layers are called by their place, and not by the names a model of one's own gives them.

    Attributes:
        layers: what is drawn above each other; number 0 of the drawing is the inputs, number ``i + 1`` is
            ``layers[i]``.
        widths: units of every layer, the inputs' first.
        labels: what the page calls them.
        links: the bands of weights; their order is that of the weights in the network.
        joins: (source, target, pairs of units) of what leads on unchanged, or by weights that are not drawn one by one.
        windows: what is drawn of each layer.
    """

    def __init__(self, net: Network, *, numbered: bool = False) -> None:
        self.net = net
        self.layers = _columns(net)
        self.widths = (net.inputs, *(layer.width for layer in self.layers))
        names = [str(place) if numbered else layer.name for place, layer in enumerate(self.layers, 1)]
        self.labels = (
            "inputs",
            *("outputs" if layer.output else _label(name) for layer, name in zip(self.layers, names, strict=True)),
        )
        self._number = {layer.name: number for number, layer in enumerate(self.layers, 1)}
        self._of_parameter = {
            name: number for number, layer in enumerate(self.layers, 1) for name in (layer.weight, layer.bias) if name
        }
        self._places = self._find_places()
        self.links = tuple(link for weight in range(len(net.weights)) for link in self._links(weight))
        self._link_of = {(link.parameter, link.source): number for number, link in enumerate(self.links)}
        self.joins = self._find_joins()
        self.windows = [Window(0, width if width <= MOST_UNITS else FOLDED_UNITS) for width in self.widths]

    def number(self, name: str) -> int:
        """Number of the layer of that name."""
        if name not in self._number:
            raise SettingError(f"there is no layer {name!r}", allowed=", ".join(self._number))
        return self._number[name]

    def unit_label(self, number: int, unit: int | None) -> str:
        """What the page calls a unit, counted from 1; with None the whole layer."""
        word = "channel" if self.layer(number).kind == "conv" else "unit"
        return self.labels[number] if unit is None else f"{word} {unit + 1} of {self.labels[number]}"

    def in_page_words(self, text: str) -> str:
        """A text about modules and parameters with the layers named as the page names them."""

        def module(found: re.Match[str]) -> str:
            number = self._number.get(found[1])
            return f'module "{found[1]}"' if number is None else self.labels[number]

        def parameter(found: re.Match[str]) -> str:
            return (
                f"{found[0]} ({self.labels[self._of_parameter[found[0]]]})"
                if found[0] in self._of_parameter
                else found[0]
            )

        return re.sub(r"[\w.]+\.\w+", parameter, re.sub(r'layer "([^"]+)"', module, text))

    def layer(self, number: int) -> Column:
        """The layer with weights of that number, from 1."""
        if not 1 <= number <= len(self.layers):
            raise SettingError(f"the layer is {number}", allowed=f"1 to {len(self.layers)}")
        return self.layers[number - 1]

    def unit(self, number: int, unit: int) -> int:
        """Checks a unit of a layer and gives its number in the network."""
        layer = self.layer(number)
        if not 0 <= unit < layer.width:
            raise SettingError(f"the unit is {unit}", allowed=f"0 to {layer.width - 1} in layer {layer.name!r}")
        return int(layer.units[unit])

    def move_window(self, number: int, start: int, count: int) -> None:
        """Draw other units of a layer; what sticks out at an end is moved inside."""
        if not 0 <= number < len(self.widths):
            raise SettingError(f"the layer is {number}", allowed=f"0 to {len(self.widths) - 1}")
        if not 1 <= count <= MOST_UNITS:
            raise SettingError(f"the window has {count} units", allowed=f"1 to {MOST_UNITS}")
        width = self.widths[number]
        count = min(count, width)
        self.windows[number] = Window(max(0, min(start, width - count)), count)

    def folded(self, number: int) -> bool:
        """Whether the layer has more units than are drawn at once."""
        return self.widths[number] > MOST_UNITS

    def keep_windows(self, old: Picture) -> None:
        """Take over the windows of another drawing where they still fit."""
        for number, window in enumerate(old.windows[: len(self.windows)]):
            if self.widths[number] == old.widths[number]:
                self.windows[number] = window

    def shown(self, edges: NDArray[np.int64]) -> list[list[int]]:
        """Those of the edges (link, tail, head) whose both ends are drawn."""
        if not len(edges):
            return []
        ends = np.array([(link.source, link.target) for link in self.links])[edges[:, 0]]
        starts = np.array([window.start for window in self.windows])
        counts = np.array([window.count for window in self.windows])
        inside = np.ones(len(edges), dtype=bool)
        for side in (0, 1):
            offset = edges[:, side + 1] - starts[ends[:, side]]
            inside &= (offset >= 0) & (offset < counts[ends[:, side]])
        listed: list[list[int]] = edges[inside].tolist()
        return listed

    def edge(self, edge: Edge) -> dict[str, Any]:
        """Where an edge is in the drawing; a bias has no link and the tail -1."""
        target = self._of_parameter.get(edge.parameter, len(self.layers))
        target, head = self._place(edge.head, target)
        if edge.tail == 0:
            return {"link": None, "from": target - 1, "to": target, "tail": -1, "head": head}
        source, tail = self._place(edge.tail, target - 1)
        link = self._link_of.get((edge.parameter, source))
        return {"link": link, "from": source, "to": target, "tail": tail, "head": head}

    def find_edge(self, link: int, tail: int, head: int) -> tuple[str, tuple[int, ...]]:
        """Parameter and place of the (middle) weight between two units of a link."""
        if not 0 <= link < len(self.links):
            raise SettingError(f"the link is {link}", allowed=f"0 to {len(self.links) - 1}")
        found = self.links[link]
        for unit, number in ((tail, found.source), (head, found.target)):
            if not 0 <= unit < self.widths[number]:
                raise SettingError(f"the unit is {unit}", allowed=f"0 to {self.widths[number] - 1}")
        return found.parameter, found.middle(tail, head)

    def _find_places(self) -> dict[int, list[tuple[int, int]]]:
        places: dict[int, list[tuple[int, int]]] = {unit: [(0, unit - 1)] for unit in range(1, self.net.inputs + 1)}
        for number, layer in enumerate(self.layers, 1):
            for index, unit in enumerate(layer.units.tolist()):
                places.setdefault(unit, []).append((number, index))
        return places

    def _place(self, unit: int, most: int) -> tuple[int, int]:
        """Layer and index of a unit; where it stands in several layers, the last one up to ``most``."""
        found = self._places[unit]
        return next((place for place in reversed(found) if place[0] <= most), found[0])

    def _links(self, which: int) -> list[Link]:
        """A parameter's links; none for a bias, nor where groups of rows have different tails (not drawn yet)."""
        weight = self.net.weights[which]
        if weight.kind in ("bias", "scale") or weight.groups > 1:
            return []
        target = self._of_parameter[weight.name]
        found: dict[int, dict[int, list[int]]] = {}
        for column, unit in enumerate(weight.tail.reshape(-1).tolist()):
            if unit in self._places:
                source, index = self._place(unit, target - 1)
                found.setdefault(source, {}).setdefault(index, []).append(column)
        taps = int(torch.Size(weight.shape[2:]).numel())
        return [
            Link(
                source,
                target,
                which,
                weight.name,
                weight.shape,
                torch.tensor([units[index] for index in sorted(units)]),
                taps,
                turned=weight.axes == (1, 0),
            )
            for source, units in found.items()
            if len(units) == self.widths[source] and len({len(columns) for columns in units.values()}) == 1
        ]

    def _find_joins(self) -> tuple[tuple[int, int, NDArray[np.int64]], ...]:
        """Additions; batch-norms, which take each unit to the one behind it; and grouped convolutions."""
        found: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for tail, head in self._pairs():
            target, to = self._place(head, len(self.layers))
            source, at = self._place(tail, target - 1)
            found.setdefault((source, target), []).append((at, to))
        return tuple((*ends, np.unique(np.array(pairs), axis=0)) for ends, pairs in found.items())

    def _pairs(self) -> Iterator[tuple[int, int]]:
        for edge in self.net.edges:
            grouped = isinstance(edge, Weight) and edge.groups > 1
            if isinstance(edge, Weight) and not grouped:
                continue
            ends = np.broadcast_arrays(edge.tail.cpu().numpy(), edge.head.cpu().numpy())
            yield from zip(*(side.reshape(-1).tolist() for side in ends), strict=True)
        for before, layer in pairwise(self.layers):
            if layer.kind == "norm" and before.width == layer.width:
                yield from zip(before.units.tolist(), layer.units.tolist(), strict=True)

    def shown_joins(self) -> list[dict[str, Any]]:
        """The joins whose both ends are drawn."""
        rows = []
        for source, target, pairs in self.joins:
            ends = (self.windows[source], self.windows[target])
            inside = np.ones(len(pairs), dtype=bool)
            for side, window in enumerate(ends):
                inside &= (pairs[:, side] >= window.start) & (pairs[:, side] < window.start + window.count)
            rows.append({"from": source, "to": target, "pairs": pairs[inside].tolist()})
        return rows

    def skeleton(self, chart: Chart) -> dict[str, list[list[int]]]:
        """The chart's skeleton, as far as it is drawn: (link, tail, head) of the tree and of the b-edges."""
        return {"tree": self.shown(self._skeleton(chart.tree)), "b": self.shown(self._skeleton(chart.b_edges))}

    def _skeleton(self, edges: Sequence[Edge]) -> NDArray[np.int64]:
        placed: list[Mapping[str, Any]] = [self.edge(edge) for edge in edges]
        rows = [(place["link"], place["tail"], place["head"]) for place in placed if place["link"] is not None]
        return np.array(rows, dtype=np.int64).reshape(-1, 3)
