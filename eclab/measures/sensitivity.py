"""How much the EC step depends on the chart: the same step in two charts, seen in the outputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from eclab.errors import EclabError, NonFiniteError, SettingError
from eclab.measures.objective import Loss, Objective, Space, chart_of, space_of
from eclab.measures.table import Printed, Row
from eclab.network.network import TracedNetwork

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class ChartSensitivity(Printed):
    """The function steps of several charts; prints as a table.

    Attributes:
        charts: the charts' names; charts that share one are numbered.
        lr: the learning rate ``η`` of the steps; None for infinitesimal ones, per unit of ``η``.
        steps: float64 ``[charts, samples · outputs]``, how each step changes the outputs.
        plain: float64 ``[samples · outputs]``, the same for plain gradient descent on the weights.
        guarded: per chart, how many skeleton moves the guard held back.
    """

    charts: tuple[str, ...]
    lr: float | None
    steps: Tensor = field(repr=False)
    plain: Tensor = field(repr=False)
    guarded: tuple[int, ...]

    @property
    def ratio(self) -> float:
        """Size of the first chart's function step over the second's."""
        return float(self.steps[0].norm() / self.steps[1].norm())

    @property
    def cosine(self) -> float:
        """Cosine of the angle between the first two charts' function steps."""
        return _cosine(self.steps[0], self.steps[1])

    def ratios(self) -> Tensor:
        """float64 ``[charts, charts]``: size of the row's step over that of the column's."""
        sizes: Tensor = torch.linalg.vector_norm(self.steps, dim=1)
        return sizes[:, None] / sizes[None, :]

    def cosines(self) -> Tensor:
        """float64 ``[charts, charts]``: cosines between the steps."""
        unit: Tensor = self.steps / torch.linalg.vector_norm(self.steps, dim=1, keepdim=True)
        return (unit @ unit.T).clamp(-1, 1)

    @property
    def frame(self) -> pd.DataFrame:
        """A row a chart: size of its step, that over plain gradient descent's, the cosine with it, guarded moves."""
        import pandas as pd

        size = float(self.plain.norm())
        rows = [
            {
                "chart": name,
                "size": float(step.norm()),
                "size / plain": float(step.norm()) / size if size else math.inf,
                "cosine with plain": _cosine(step, self.plain),
                "guarded": held,
            }
            for name, step, held in zip(self.charts, self.steps, self.guarded, strict=True)
        ]
        return pd.DataFrame(rows)

    def rows(self) -> list[Row]:
        """The table: ``(quantity, value, what it is)``."""
        what = "per unit of η" if self.lr is None else f"at η = {self.lr:g}"
        rows = [
            (f"‖Δf‖, {name}", f"{float(step.norm()):.4g}", f"size of the function step {what}")
            for name, step in zip(self.charts, self.steps, strict=True)
        ]
        rows.append(("‖Δf‖, plain", f"{float(self.plain.norm()):.4g}", "that of gradient descent on the weights"))
        if any(self.guarded):
            rows.append(("guarded", ", ".join(map(str, self.guarded)), "skeleton moves held back, chart by chart"))
        rows.append(("ratio", f"{self.ratio:.4g}", f"{self.charts[0]} over {self.charts[1]}"))
        rows.append(("cosine", f"{self.cosine:.4f}", f"between {self.charts[0]} and {self.charts[1]}"))
        return rows


def chart_sensitivity(
    net: TracedNetwork,
    x: Any,
    y: Any,
    charts: Sequence[Any] = ("diagonal", "strongest"),
    *,
    lr: float | None = None,
    loss: Loss = None,
    guard: float = 0.1,
) -> ChartSensitivity:
    """Size ratio and cosine of the function steps that one EC step makes in different charts.

    With ``δ = ∂L/∂v`` in each chart: ``Δf = −∂f/∂v · δ`` for the outputs ``f`` on ``x`` (``lr=None``), or
    ``Δf = f(v − η δ) − f(v)`` with the guard. The EC step is the same for every member of a class, and another one for
    every chart: this says how much that matters here.

    Args:
        net: the network; it is only read.
        x, y: samples as the model takes them, and their targets.
        charts: two or more, each a name, edges by hand, or a chart of this network.
        lr: learning rate ``η > 0`` of the step; None for the infinitesimal one.
        loss: ``"cross_entropy"``, ``"mse"`` or a function of ``(outputs, y)``; by default the first where ``y`` holds
            whole numbers, else the second.
        guard: in a step with ``lr`` a skeleton coordinate keeps its sign and at least this fraction of its value.

    Returns:
        The steps, their sizes, ratio and cosine; it prints as a table. Parameters outside every class do not move.

    Raises:
        SettingError: fewer than two charts, or a number out of range.
        DataError: the samples do not fit the model, or the targets do not fit the loss.
        ChartError: a skeleton weight of one of the charts is 0, or a chart belongs to another network.
        EclabError: the gradient is 0, so that no chart moves anything.
        NonFiniteError: a weight, the loss or a step is not finite.

    Example:
        >>> import torch, eclab
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
        >>> x = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
        >>> net = eclab.trace(model, x)
        >>> y = torch.zeros(8, 2)
        >>> found = eclab.chart_sensitivity(net, x, y, charts=("diagonal", {"0[1]": ("2.weight", (0, 1))}))
        >>> found.charts, found.ratio > 0, -1 <= found.cosine <= 1
        (('diagonal', 'by hand'), True, True)

    Source: theory §5; the measure is eclab's own.
    """
    _check(charts, lr, guard)
    objective = Objective(net, x, y, loss)
    spaces = [space_of(chart_of(net, chart), "class") for chart in charts]
    found = [_function_step(objective, space, lr, guard) for space in spaces]
    plain, _ = _function_step(objective, space_of(spaces[0].chart, "weights"), lr, guard)
    steps = torch.stack([step for step, _ in found])
    if not bool(steps.isfinite().all()):
        raise NonFiniteError("the function step is not finite", fix="take a smaller lr, or None")
    if not bool(steps.any(1).all()):
        raise EclabError(
            "the gradient is 0, or moves no output on these samples",
            allowed="a point that is no critical point of the loss",
            fix="take more samples, or weights under which fewer units are dead",
        )
    return ChartSensitivity(_names(spaces), lr, steps, plain, tuple(held for _, held in found))


def _check(charts: Sequence[Any], lr: float | None, guard: float) -> None:
    if isinstance(charts, str) or len(charts) < 2:
        raise SettingError(f"charts is {charts!r}", allowed='two or more charts, ("diagonal", "strongest") for one')
    if lr is not None and not 0 < lr < math.inf:
        raise SettingError(f"lr is {lr!r}", allowed="a finite number > 0, or None for an infinitesimal step")
    if not 0 <= guard < 1:
        raise SettingError(f"guard is {guard!r}", allowed="a number from 0 up to, not including, 1")


def _names(spaces: Sequence[Space]) -> tuple[str, ...]:
    names = [space.chart.name for space in spaces]
    return tuple(
        name if names.count(name) == 1 else f"{name} {names[: k + 1].count(name)}" for k, name in enumerate(names)
    )


def _function_step(objective: Objective, space: Space, lr: float | None, guard: float) -> tuple[Tensor, int]:
    """The change of the outputs, and how many skeleton moves the guard held back."""
    z = space.point.clone().requires_grad_()
    value = objective(space.weights(z))
    if not bool(value.isfinite()):
        raise NonFiniteError(f"the loss is {float(value.detach())}", fix="look at x, y and the weights")
    (delta,) = torch.autograd.grad(value, z, materialize_grads=True)
    z = z.detach()
    if lr is None:
        return _slope_along(lambda at: objective.flat_outputs(space.weights(at)), z, -delta), 0
    moved = z - lr * delta
    held = moved[space.skeleton] / z[space.skeleton] < guard
    kept = torch.where(held, guard * z[space.skeleton], moved[space.skeleton])
    moved = moved.index_put((space.skeleton,), kept)
    with torch.no_grad():
        step = objective.flat_outputs(space.weights(moved)) - objective.flat_outputs(space.weights(z))
    return step, int(held.sum())


def _slope_along(function: Callable[[Tensor], Tensor], z: Tensor, d: Tensor) -> Tensor:
    """``∂f/∂z · d`` by differentiating ``uᵀ ∂f/∂z``, which is linear in ``u``, once more."""
    z = z.requires_grad_()
    outputs = function(z)
    u = torch.zeros_like(outputs, requires_grad=True)
    (pulled,) = torch.autograd.grad(outputs, z, u, create_graph=True, materialize_grads=True)
    (slope,) = torch.autograd.grad(pulled, u, d, materialize_grads=True)
    return slope


def _cosine(one: Tensor, two: Tensor) -> float:
    length = float(one.norm() * two.norm())
    return max(-1.0, min(1.0, float(one @ two) / length)) if length else math.nan
