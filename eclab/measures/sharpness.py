"""Sharpness of the loss in class space, which no rescaling changes, and in weight space, which it does."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eclab.errors import EclabError, NonFiniteError, SettingError
from eclab.measures.objective import Loss, Objective, Space, chart_of, space_of
from eclab.measures.table import Printed, Row
from eclab.network.network import TracedNetwork
from eclab.paths.chart import Chart

_ASCENT = 12
"""Steps of the ascent to the worst point of the ball, from each start."""


@dataclass(frozen=True)
class Sharpness(Printed):
    """How sharply the loss bends at a point; prints as a table.

    Attributes:
        space: ``"class"`` or ``"weights"``.
        chart: the chart's name; its coordinates are the variables in class space.
        dimension: number of variables, ``m − H`` or ``m``, less the frozen ones.
        loss, gradient: the loss ``L`` and the length of its gradient.
        largest: largest eigenvalue of the Hessian.
        trace: trace of the Hessian.
        trace_error: standard error of the trace; 0 where it is exact.
        epsilon, radius: ``ε``, and ``ε ‖z‖``, the radius of the ball of :attr:`increase`.
        increase: the largest ``L(z + d) − L(z)`` found with ``‖d‖ ≤ ε ‖z‖``.
        held: how many skeleton coordinates the guard held at the edge of the chart there.
        spread: largest over smallest ``|z|``; infinite where one is 0.
    """

    space: str
    chart: str
    dimension: int
    loss: float
    gradient: float
    largest: float
    trace: float
    trace_error: float
    epsilon: float
    radius: float
    increase: float
    held: int
    spread: float

    @property
    def relative_increase(self) -> float:
        """``max (L(z + d) − L(z)) / (1 + L(z))``, the form of Keskar et al. 2017."""
        return self.increase / (1 + self.loss)

    def rows(self) -> list[Row]:
        """The table: ``(quantity, value, what it is)``."""
        variables = "coordinates of the class" if self.space == "class" else "weights"
        about = "exact" if self.trace_error == 0 else f"± {self.trace_error:.2g}"
        letter = "v" if self.space == "class" else "w"
        held = f", {self.held} skeleton coordinates at the edge of the chart" if self.held else ""
        return [
            ("d", f"{self.dimension:,}", variables + (f", chart {self.chart!r}" if self.space == "class" else "")),
            ("L", f"{self.loss:.6g}", "loss"),
            (f"‖∂L/∂{letter}‖", f"{self.gradient:.6g}", "length of the gradient"),
            ("λ max", f"{self.largest:.6g}", "largest eigenvalue of the Hessian"),
            ("tr H", f"{self.trace:.6g}", f"trace of the Hessian, {about}"),
            ("ΔL", f"{self.increase:.6g}", f"largest increase found within {self.epsilon:g} ‖{letter}‖{held}"),
            (f"max|{letter}|/min|{letter}|", f"{self.spread:.3g}", "spread of the variables"),
        ]


def sharpness(
    net: TracedNetwork,
    x: Any,
    y: Any,
    *,
    loss: Loss = None,
    chart: str | Chart = "diagonal",
    space: str = "class",
    epsilon: float = 1e-3,
    guard: float = 0.1,
    probes: int = 64,
    exact: int = 256,
    seed: int = 0,
) -> Sharpness:
    """Hessian and worst-case increase of the loss over the values of basis paths (PSI-flatness), or over the weights.

    With ``z = v`` (``space="class"``) or ``z = w``: ``λ_max(∂²L/∂z²)``, ``tr ∂²L/∂z²``, and the largest
    ``L(z + d) − L(z)`` with ``‖d‖ ≤ ε ‖z‖``. In class space all three are the same for every member of a class; in
    weight space one can make them what one likes by rescaling (Dinh et al. 2017).

    The Hessian is that of the smooth piece of the loss the point lies on (a ReLU has no curvature of its own). Up to
    ``exact`` variables it is worked out whole; beyond, ``λ_max`` by Lanczos iterations and the trace by Hutchinson's
    estimate, both from Hessian-vector products. The increase is found by projected gradient ascent from the gradient
    and from both directions of the sharpest eigenvector, so it is a lower bound of the maximum. Everything is evaluated
    in float64, dropout as identity.

    Args:
        net: the network; it is only read.
        x, y: samples as the model takes them, and their targets.
        loss: ``"cross_entropy"``, ``"mse"`` or a function of ``(outputs, y)``; by default the first where ``y`` holds
            whole numbers, else the second.
        chart: name of the skeleton or a chart of this network. **The measure depends on it**: another chart has other
            basis paths.
        space: ``"class"`` or ``"weights"`` (those that are edges; parameters outside every class stay fixed).
        epsilon: ``ε > 0``, the radius of the ball relative to the point.
        guard: in class space a skeleton coordinate keeps its sign and at least this fraction of its value.
        probes: random vectors of Hutchinson's estimate.
        exact: up to how many variables the Hessian is worked out whole.
        seed: of the random vectors.

    Returns:
        The numbers; they print as a table.

    Raises:
        SettingError: a setting is out of range.
        DataError: the samples do not fit the model, or the targets do not fit the loss.
        ChartError: a skeleton weight is 0, or the chart belongs to another network.
        NonFiniteError: a weight or the loss is NaN or infinite.

    Example:
        >>> import torch, eclab
        >>> from torch.nn import Linear, ReLU, Sequential
        >>> model = Sequential(Linear(1, 1, bias=False), ReLU(), Linear(1, 1, bias=False)).double()
        >>> for weight, value in zip(model.parameters(), (2.0, 0.5)):
        ...     weight.data.fill_(value).shape
        torch.Size([1, 1])
        torch.Size([1, 1])
        >>> x = torch.tensor([[1.0], [2.0]]).double()
        >>> net = eclab.trace(model, x)
        >>> round(eclab.sharpness(net, x, x).largest, 9)  # L = (v − 1)² mean(x²), v = w₁ w₂: L″ = 5
        5.0
        >>> round(eclab.sharpness(net, x, x, space="weights").largest, 9)  # 5 (w₁² + w₂²) where L is least
        21.25

    Source: M. Yi et al., Positively scale-invariant flatness of ReLU neural networks (arXiv:1903.02237), who put the
    values of basis paths in the place of weights; there flatness goes with the spread of these values. Worst case: N.
    Keskar et al., ICLR 2017. Rescaling: L. Dinh et al., ICML 2017. Any widths and biases: theory §2.
    """
    _check(epsilon=epsilon, guard=guard, probes=probes, exact=exact)
    objective = Objective(net, x, y, loss)
    variables = space_of(chart_of(net, chart), space)
    bend = _Curvature(objective, variables)
    generator = torch.Generator().manual_seed(seed)
    largest, direction, trace, error = _spectrum(bend, probes, exact, generator)
    radius = epsilon * float(variables.point.norm())
    increase, held = _worst(bend, radius, guard, direction)
    sizes = variables.point.abs()
    smallest = float(sizes.min())
    return Sharpness(
        space=space,
        chart=variables.chart.name,
        dimension=len(variables.free),
        loss=bend.loss,
        gradient=float(bend.gradient.norm()),
        largest=largest,
        trace=trace,
        trace_error=error,
        epsilon=epsilon,
        radius=radius,
        increase=increase,
        held=held,
        spread=float(sizes.max()) / smallest if smallest else math.inf,
    )


def _check(*, epsilon: float, guard: float, probes: int, exact: int) -> None:
    for name, value, good, allowed in (
        ("epsilon", epsilon, 0 < epsilon < math.inf, "a finite number > 0"),
        ("guard", guard, 0 < guard < 1, "a number between 0 and 1"),
        ("probes", probes, probes >= 2, "a whole number of at least 2"),
        ("exact", exact, exact >= 0, "a whole number of at least 0"),
    ):
        if not good:
            raise SettingError(f"{name} is {value!r}", allowed=allowed, fix=f"give {name} such a number")


class _Curvature:
    """Loss, gradient and Hessian at a point, as a function of a space's variables."""

    def __init__(self, objective: Objective, space: Space) -> None:
        self.objective, self.space = objective, space
        self.z = space.point.clone().requires_grad_()
        value = objective(space.weights(self.z))
        self.loss = float(value.detach())
        if not math.isfinite(self.loss):
            raise NonFiniteError(
                f"the loss is {self.loss}", allowed="a finite loss", fix="look at x, y and the weights"
            )
        (self._slope,) = torch.autograd.grad(value, self.z, create_graph=True)
        self.gradient = self._slope.detach()

    def times(self, d: Tensor) -> Tensor:
        """``∂²L/∂z² · d``."""
        if not self._slope.requires_grad:
            return torch.zeros_like(d)
        (product,) = torch.autograd.grad(self._slope, self.z, d, retain_graph=True, materialize_grads=True)
        return product

    def at(self, d: Tensor) -> tuple[float, Tensor]:
        """The increase ``L(z + d) − L(z)`` and the gradient there."""
        z = (self.z.detach() + d).requires_grad_()
        value = self.objective(self.space.weights(z))
        (slope,) = torch.autograd.grad(value, z)
        return float(value.detach()) - self.loss, slope


def _spectrum(
    bend: _Curvature, probes: int, exact: int, generator: torch.Generator
) -> tuple[float, Tensor, float, float]:
    """Largest eigenvalue, its eigenvector, the trace and its standard error."""
    n = len(bend.z)
    if n <= max(exact, 2):
        rows = [bend.times(unit) for unit in torch.eye(n, dtype=bend.z.dtype, device=bend.z.device)]
        hessian = torch.stack(rows)
        values, vectors = torch.linalg.eigh((hessian + hessian.T) / 2)
        return float(values[-1]), vectors[:, -1], float(hessian.trace()), 0.0
    largest, direction = _lanczos(bend, generator)
    found = []
    for _ in range(probes):
        probe = torch.randint(0, 2, (n,), generator=generator).to(bend.z) * 2 - 1
        found.append(float(probe @ bend.times(probe)))
    return largest, direction, float(np.mean(found)), float(np.std(found, ddof=1) / math.sqrt(probes))


def _lanczos(bend: _Curvature, generator: torch.Generator) -> tuple[float, Tensor]:
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

    n = len(bend.z)

    def matvec(d: NDArray[np.float64]) -> NDArray[np.float64]:
        product: NDArray[np.float64] = bend.times(torch.from_numpy(d.reshape(-1)).to(bend.z)).cpu().numpy()
        return product

    operator = LinearOperator((n, n), matvec=matvec, dtype=np.float64)
    start = torch.randn(n, generator=generator, dtype=torch.float64).numpy()
    try:
        values, vectors = eigsh(operator, k=1, which="LA", v0=start, tol=1e-10)
    except ArpackNoConvergence:
        raise EclabError(
            "the largest eigenvalue of the Hessian was not found: Lanczos iterations did not converge",
            fix=f"work the Hessian out whole with exact={n}, or take fewer weights",
        ) from None
    return float(values[0]), torch.from_numpy(vectors[:, 0].copy()).to(bend.z)


def _worst(bend: _Curvature, radius: float, guard: float, direction: Tensor) -> tuple[float, int]:
    """The largest increase found in the ball, and how many skeleton coordinates stand at the guard there."""
    z, skeleton = bend.z.detach(), bend.space.skeleton
    furthest = (guard - 1) * z[skeleton]  # the move that leaves a skeleton coordinate this fraction of its value

    def inside(d: Tensor) -> Tensor:
        ratio = d[skeleton] / z[skeleton]
        d = d.index_put((skeleton,), torch.where(ratio < guard - 1, furthest, d[skeleton]))
        return d * min(1.0, radius / max(float(d.norm()), 1e-300))

    best, held = 0.0, 0
    for start in (bend.gradient, direction, -direction):
        if not bool(start.any()):
            continue
        d = inside(start / start.norm() * radius)
        for k in range(_ASCENT):
            increase, slope = bend.at(d)
            if increase > best:
                best, held = increase, int((d[skeleton] == furthest).sum())
            length = float(slope.norm())
            if not 0 < length < math.inf:
                break
            d = inside(d + slope * (radius / length / (1 + k) ** 0.5))
    return best, held
