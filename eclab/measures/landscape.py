"""Loss and gradient on a slice through a point: in weight space, and in class space as far as the chart reaches."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eclab.errors import ChartError, SettingError
from eclab.measures.grid import Measured
from eclab.measures.objective import SPACES, Loss, Objective, Space, chart_of, space_of
from eclab.network.network import TracedNetwork
from eclab.paths.chart import Chart

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]
_NAMED = re.compile(r"(?P<parameter>[^\[\]]+)\[(?P<index>\d+(?:,\s*\d+)*)\]")


@dataclass(frozen=True, eq=False)
class Slice:
    """Loss and gradient on a grid in one space; a number that is missing has its reason beside it.

    Attributes:
        space: ``"weights"`` or ``"class"``.
        axes: what the one or two axes are: a weight's name, or ``"direction 1"``.
        a, b: float64, the grid along the first and the second axis; ``b`` is ``[0]`` where there is one axis.
        centre: where the network itself is on the grid, ``(a, b)``.
        loss: float64 ``[len(b), len(a)]``.
        gradient: the same, length of the gradient in the space's own variables, ``‖∂L/∂w‖`` or ``‖∂L/∂v‖``.
        class_gradient: the same, ``‖∂L/∂v‖``.
        reasons: the same shape; in words, why a number is missing there; empty where none is.
    """

    space: str
    axes: tuple[str, ...]
    a: Floats
    b: Floats
    centre: tuple[float, float]
    loss: Floats = field(repr=False)
    gradient: Floats = field(repr=False)
    class_gradient: Floats = field(repr=False)
    reasons: tuple[tuple[str, ...], ...] = field(repr=False)

    @property
    def frame(self) -> pd.DataFrame:
        """One row a point: space, a, b, loss, gradient, class_gradient, reason."""
        import pandas as pd

        b, a = np.meshgrid(self.b, self.a, indexing="ij")
        columns = {"a": a, "b": b, "loss": self.loss, "gradient": self.gradient, "class_gradient": self.class_gradient}
        flat = {name: values.reshape(-1) for name, values in columns.items()}
        return pd.DataFrame({"space": self.space, **flat, "reason": [words for row in self.reasons for words in row]})


@dataclass(frozen=True, eq=False)
class Landscape:
    """Slices of the loss through one network.

    Attributes:
        slices: one a space.
    """

    slices: tuple[Slice, ...]

    def __getitem__(self, space: str) -> Slice:
        """The slice in ``"weights"`` or ``"class"`` space."""
        for found in self.slices:
            if found.space == space:
                return found
        raise SettingError(f"there is no slice in {space!r}", allowed=", ".join(repr(one.space) for one in self.slices))

    @property
    def frame(self) -> pd.DataFrame:
        """All slices, one row a point: space, a, b, loss, gradient, class_gradient, reason."""
        import pandas as pd

        return pd.concat([found.frame for found in self.slices], ignore_index=True)

    def chart(self, theme: str = "light") -> Any:
        """An Altair chart: loss and lengths of the gradients; grey where a number is missing, with the reason.

        Args:
            theme: ``"light"`` or ``"dark"``.
        """
        from eclab.charts.landscape import landscape_chart

        return landscape_chart(self.slices, theme=theme)


def landscape(
    net: TracedNetwork,
    x: Any,
    y: Any,
    *,
    axes: Any = None,
    span: float | tuple[float, float] | None = None,
    points: int = 25,
    spaces: Sequence[str] = ("weights", "class"),
    chart: str | Chart = "diagonal",
    loss: Loss = None,
    seed: int = 0,
) -> Landscape:
    """Loss and gradient length on a one- or two-dimensional slice, in weight space and in class space.

    ``L(z + a d₁ + b d₂)`` with ``z = w`` or ``z = v``; or two weights (coordinates) take the values ``a`` and ``b`` and
    the others stay. In weight space the length of the class gradient stands beside that of the weights' gradient: near
    a spurious critical point the latter vanishes alone.

    Args:
        net: the network; it is only read.
        x, y: samples as the model takes them, and their targets.
        axes: one or two weights, each ``"0.weight[1,0]"`` or ``("0.weight", (1, 0))``; or directions, each a mapping
            from parameter names to tensors of their shapes (missing ones count as 0); or a mapping from ``"weights"``
            and ``"class"`` to such lists. None for two random directions, normal and orthogonal: in weight space as
            long as ``w`` in every parameter, in class space relative to every coordinate (``d_e = ξ_e |v_e|``), which
            is what keeps within the chart. A weight of the tree is no coordinate; the class slice leaves that axis out.
        span: for directions how many of them to go, for named weights the values they take: ``(low, high)``, or a
            number for ``(−span, span)``. None for 1, or for twice the weight's present size.
        points: grid points along an axis.
        spaces: ``"weights"``, ``"class"`` or both.
        chart: name of the skeleton or a chart of this network.
        loss: ``"cross_entropy"``, ``"mse"`` or a function of ``(outputs, y)``; by default the first where ``y`` holds
            whole numbers, else the second.
        seed: of the random directions.

    Returns:
        The slices with arrays, a DataFrame and :meth:`Landscape.chart`. In class space numbers are missing where a
        skeleton coordinate is 0 or has changed its sign, which is beyond the edge of the chart; in weight space the
        class gradient is where a skeleton weight is 0. ``reasons`` says so, point by point.

    Raises:
        SettingError: a setting is out of range or an axis cannot be read.
        DataError: the samples do not fit the model, or the targets do not fit the loss.
        ChartError: a named weight lies outside its parameter, or all of them are of the tree; or in class space the
            network itself is at the edge of the chart.

    Example:
        >>> import torch, eclab
        >>> from torch.nn import Linear, ReLU, Sequential
        >>> model = Sequential(Linear(1, 1, bias=False), ReLU(), Linear(1, 1, bias=False)).double()
        >>> x = torch.tensor([[1.0], [2.0]]).double()
        >>> for weight in model.parameters():
        ...     weight = weight.data.fill_(0.5)
        >>> net = eclab.trace(model, x)
        >>> found = eclab.landscape(net, x, x, axes=["0.weight[0,0]", "2.weight[0,0]"], span=1.0, points=5)
        >>> found["weights"].gradient[2, 2].item()  # w₁ = w₂ = 0: every weight's slope is 0
        0.0
        >>> found["class"].axes, found["class"].a.tolist()
        (('2.weight[0,0]',), [-1.0, -0.5, 0.0, 0.5, 1.0])
        >>> found["class"].gradient.round(9).tolist()  # L = (v − 1)² 5/2 with v = w₁ w₂
        [[nan, nan, nan, 2.5, 0.0]]
        >>> found["class"].reasons[0][0]
        "2.weight[0,0]'s path changes its sign: beyond the edge of the chart"

    Source: theory §5, spurious critical points; random directions after H. Li et al., Visualizing the loss landscape of
    neural nets (NeurIPS 2018), in weight space scaled by parameter instead of by filter.
    """
    if points < 2:
        raise SettingError(f"points is {points!r}", allowed="a whole number of at least 2")
    if isinstance(spaces, str) or not spaces:
        raise SettingError(f"spaces is {spaces!r}", allowed=f"one or both of {', '.join(map(repr, SPACES))}")
    objective = Objective(net, x, y, loss)
    used = chart_of(net, chart)
    found = []
    for name in spaces:
        space = space_of(used, name)
        lines = _lines(space, axes.get(name) if _by_space(axes) else axes, span, points, seed)
        found.append(_slice(objective, space, lines))
    return Landscape(tuple(found))


@dataclass(frozen=True, eq=False)
class _Line:
    """One axis: its grid, and how it moves the variables."""

    name: str
    grid: Tensor
    centre: float
    direction: Tensor | None = None
    variable: int = -1

    def moved(self, z: Tensor, value: Tensor) -> Tensor:
        if self.direction is not None:
            return z + value * self.direction
        return z.index_fill(0, torch.tensor([self.variable], device=z.device), float(value))


def _grid(ends: tuple[float, float], points: int) -> Tensor:
    """Evenly spaced, with an exact 0 where rounding would only come near it: that is where charts end."""
    grid = torch.linspace(*ends, points, dtype=torch.float64)
    return torch.where(grid.abs() < 1e-9 * (ends[1] - ends[0]), 0.0, grid)


def _by_space(axes: Any) -> bool:
    return isinstance(axes, Mapping) and bool(axes) and set(axes) <= set(SPACES)


def _lines(space: Space, axes: Any, span: Any, points: int, seed: int) -> list[_Line]:
    if axes is None:
        directions = _random_directions(space, seed)
        return [_direction(space, f"direction {k + 1}", d, span, points) for k, d in enumerate(directions)]
    listed = [axes] if isinstance(axes, str | Mapping) or _is_place(axes) else list(axes)
    if not 1 <= len(listed) <= 2:
        raise SettingError(f"{len(listed)} axes were given", allowed="one or two")
    lines: list[_Line] = []
    left_out: list[str] = []
    for k, axis in enumerate(listed):
        if isinstance(axis, Mapping):
            lines.append(_direction(space, f"direction {k + 1}", _given(space, axis), span, points))
            continue
        parameter, index = _place(axis)
        if space.name == "class" and any((e.parameter, e.index) == (parameter, index) for e in space.chart.tree):
            left_out.append(f"{parameter}{list(index)}")
            continue
        variable = space.variable(parameter, index)
        present = float(space.point[variable])
        grid = _grid(_ends(span, 2 * abs(present) or 1.0), points)
        lines.append(_Line(space.name_of(variable), grid, present, variable=variable))
    if not lines:
        raise ChartError(
            f"{', '.join(left_out)} {'is a tree edge' if len(left_out) == 1 else 'are tree edges'}, no coordinates",
            allowed="in class space at least one weight outside chart.tree",
            fix='name another weight, or ask for spaces=["weights"] alone',
        )
    return lines


def _is_place(axis: Any) -> bool:
    return isinstance(axis, tuple) and len(axis) == 2 and isinstance(axis[0], str) and not isinstance(axis[1], str)


def _place(axis: Any) -> tuple[str, tuple[int, ...]]:
    match = _NAMED.fullmatch(axis) if isinstance(axis, str) else None
    if match:
        return match["parameter"], tuple(int(i) for i in match["index"].split(","))
    if _is_place(axis):
        return axis[0], tuple(int(i) for i in axis[1])
    raise SettingError(
        f"the axis {axis!r} cannot be read",
        allowed='"0.weight[1,0]", ("0.weight", (1, 0)), or a mapping from parameter names to tensors',
    )


def _ends(span: Any, default: float) -> tuple[float, float]:
    low, high = (-default, default) if span is None else span if isinstance(span, tuple | list) else (-span, span)
    if not -math.inf < low < high < math.inf:
        raise SettingError(f"span is {span!r}", allowed="a number > 0, or (low, high) with low < high")
    return float(low), float(high)


def _direction(space: Space, name: str, direction: Tensor, span: Any, points: int) -> _Line:
    grid = _grid(_ends(span, 1.0), points)
    return _Line(name, grid, 0.0, direction=direction.to(space.point))


def _given(space: Space, direction: Mapping[str, Tensor]) -> Tensor:
    unknown = [name for name in direction if name not in space.origin]
    wrong = [n for n, value in direction.items() if n not in unknown and value.shape != space.origin[n].shape]
    if unknown or wrong:
        raise SettingError(
            f"the direction holds {', '.join(unknown) or ', '.join(wrong)}"
            + (", which is no weight of the network" if unknown else ", of another shape than the parameter"),
            allowed=", ".join(f"{name} {tuple(value.shape)}" for name, value in space.origin.items()),
        )
    parts = [direction.get(name, torch.zeros_like(value)) for name, value in space.origin.items()]
    return torch.cat([part.detach().to(space.point).reshape(-1) for part in parts])[space.free]


def _random_directions(space: Space, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    found: list[Tensor] = []
    for _ in range(min(2, len(space.free))):
        parts = []
        for value in space.origin.values():
            noise = torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value)
            parts.append(noise.reshape(-1))
        d = torch.cat(parts)[space.free]
        d = d * space.point.abs() if space.name == "class" else _scaled_by_parameter(space, d)
        for other in found:
            size = d.norm()
            d = d - (d @ other) / (other @ other) * other
            d = d * size / d.norm()
        found.append(d)
    return found


def _scaled_by_parameter(space: Space, d: Tensor) -> Tensor:
    """In every parameter as long as the variables there."""
    ends = torch.tensor([value.numel() for value in space.origin.values()], device=d.device).cumsum(0)
    block = torch.searchsorted(ends, space.free, right=True)
    sums = torch.zeros(len(ends), dtype=d.dtype, device=d.device)
    lengths, own = (sums.index_add(0, block, values.square()).sqrt() for values in (space.point, d))
    return d * (lengths / own.clamp(min=1e-300))[block]


def _slice(objective: Objective, space: Space, lines: list[_Line]) -> Slice:
    first, second = lines[0], lines[1] if len(lines) > 1 else None
    rows = second.grid if second else torch.zeros(1, dtype=torch.float64)
    measured = Measured(objective, space)
    across = []
    for b in rows:
        start = second.moved(space.point, b) if second else space.point
        across.append(measured.at(torch.stack([first.moved(start, a) for a in first.grid])))
    loss, gradient, of_class = (np.stack([found[k] for found in across]) for k in range(3))
    centre = (first.centre, second.centre if second else 0.0)
    names = tuple(line.name for line in lines)
    reasons = tuple(found[3] for found in across)
    return Slice(space.name, names, first.grid.numpy(), rows.numpy(), centre, loss, gradient, of_class, reasons)
