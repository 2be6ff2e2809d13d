"""Loss and gradients at many points of a space at once, with the reason for every number that is missing."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eclab.measures.objective import Objective, Space, marked
from eclab.paths import functional

Floats = NDArray[np.float64]
Points = tuple[Floats, Floats, Floats, tuple[str, ...]]
"""Loss, length of the gradient, length of the class gradient, and why one of them is missing; one entry a point."""

_ENTRIES = 2**21
"""Numbers that the points evaluated together may have."""


class Measured:
    """Evaluates a loss at points of a space.

    Args:
        objective: the loss as a function of the weights.
        space: the variables.
    """

    def __init__(self, objective: Objective, space: Space) -> None:
        self.objective, self.space = objective, space
        tree = marked(space.chart, space.chart.tree)
        self._on_skeleton = (tree | marked(space.chart, space.chart.b_edges)).nonzero().flatten()
        trains = torch.zeros_like(tree).index_fill(0, space.free, True)
        self._coordinates = (trains & ~tree).nonzero().flatten()

    def at(self, z: Tensor) -> Points:
        """The numbers at the points ``z``, float64 ``[n, d]``."""
        n = len(z)
        numbers = torch.full((3, n), math.nan, dtype=z.dtype, device=z.device)
        reasons = [self._beyond(point) for point in z]
        inside = torch.tensor([not words for words in reasons], dtype=torch.bool, device=z.device)
        numbers[:2, inside] = torch.stack(self._evaluated(self._loss, z[inside]))
        if self.space.name == "class":
            numbers[2] = numbers[1]
        else:
            numbers[2] = self._class_gradients(z, reasons)
        lost = ~numbers.isfinite()
        for k in (lost.any(0) & inside).nonzero().flatten().tolist():
            loss, length, _ = numbers[:, k].tolist()
            if lost[:2, k].any():
                reasons[k] = f"the loss is {loss:g} and its gradient {length:g} long"
            elif not reasons[k]:
                reasons[k] = "the class gradient is longer than float64 holds"
        numbers[:2, lost[:2].any(0)] = math.nan
        loss, gradient, of_class = numbers.masked_fill(lost, math.nan).cpu().numpy()
        return loss, gradient, of_class, tuple(reasons)

    def _loss(self, z: Tensor) -> Tensor:
        return self.objective(self.space.weights(z))

    def _beyond(self, z: Tensor) -> str:
        crossed = self.space.crossed(z)
        if not bool(crossed.any()):
            return ""
        which = int(self.space.skeleton[crossed.nonzero()[0, 0]])
        zero = float(z[which]) == 0
        what = "is 0: the edge of the chart" if zero else "changes its sign: beyond the edge of the chart"
        return f"{self.space.name_of(which)}'s path {what}"

    def _class_gradients(self, z: Tensor, reasons: list[str]) -> Tensor:
        """``‖∂L/∂v‖`` at weights ``z``, through weight allocation; writes a reason where there is none."""

        def coordinates(point: Tensor) -> Tensor:
            v = functional.coordinates(self.space.chart, self.space.weights(point))
            return torch.cat([value.reshape(-1) for value in v.values()])

        def loss(v: Tensor) -> Tensor:
            return self.objective(functional.allocate(self.space.chart, self.space.named(v)))

        zero = torch.vmap(self._skeleton)(z) == 0
        for k in zero.any(1).nonzero().flatten().tolist():
            name = self.space.entry_name(int(self._on_skeleton[zero[k].nonzero()[0, 0]]))
            reasons[k] = f"the skeleton weight {name} is 0: no class gradient at the edge of the chart"
        inside = ~zero.any(1)
        lengths = torch.full((len(z),), math.nan, dtype=z.dtype, device=z.device)
        if bool(inside.any()):
            v = torch.vmap(coordinates)(z[inside])
            lengths[inside] = self._evaluated(loss, v, self._coordinates)[1]
        return lengths

    def _skeleton(self, z: Tensor) -> Tensor:
        """The weights of the skeleton."""
        return torch.cat([value.reshape(-1) for value in self.space.weights(z).values()])[self._on_skeleton]

    def _evaluated(
        self, loss: Callable[[Tensor], Tensor], z: Tensor, among: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The loss and the length of its gradient (``among`` some of the variables), ``[n]`` each.

        All at once where torch can; a model or loss it cannot batch goes point by point.
        """
        kept = slice(None) if among is None else among
        if not len(z):
            return z.new_zeros(0), z.new_zeros(0)

        def both(point: Tensor) -> tuple[Tensor, Tensor]:
            slope, value = torch.func.grad_and_value(loss)(point)
            return value, torch.linalg.vector_norm(slope[kept])

        try:
            value, length = torch.vmap(both, chunk_size=max(1, _ENTRIES // z.shape[1]))(z)
        except RuntimeError:
            value, length = (torch.stack(column) for column in zip(*map(self._one(loss, kept), z), strict=True))
        return value.detach(), length.detach()

    @staticmethod
    def _one(loss: Callable[[Tensor], Tensor], kept: Tensor | slice) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        def both(point: Tensor) -> tuple[Tensor, Tensor]:
            point = point.detach().requires_grad_()
            value = loss(point)
            (slope,) = torch.autograd.grad(value, point, materialize_grads=True)
            return value.detach(), torch.linalg.vector_norm(slope[kept])

        return both
