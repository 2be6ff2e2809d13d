"""EC-SGD by brute force: every path listed, gradients by least squares. What the fast optimizer is compared with.

It shares the skeleton with the fast one and nothing else: basis paths are found among all paths, coordinates are
products, ``∂L/∂v`` solves ``Jᵀ δ = ∂L/∂w``, and weights come from the system of monomials.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eclab.errors import ChartError, EclabError
from eclab.network.network import TracedNetwork
from eclab.paths.chart import Chart
from eclab.paths.enumerate import Path, columns, segments
from eclab.paths.skeleton import Edge

Floats = NDArray[np.float64]


class ReferenceECSGD:
    """EC-SGD for networks so small that all their paths can be listed; arguments and step as :class:`ECSGD`.

    No optimizer of ``torch.optim``: it reads the parameters' ``.grad``, writes the weights, and has ``step()``.
    No weight may be 0.

    Args:
        net: the network, from :func:`eclab.trace`.
        lr, momentum, weight_decay, nesterov, chart, guard, maximize: as :class:`ECSGD`.

    Attributes:
        guarded_moves: how many skeleton moves the guard has held back.

    Raises:
        EclabError: there are more than 20,000 paths.

    Source: Meng et al. 2018 (arXiv:1802.03713), section 4, from its definitions; theory §2–4.
    """

    def __init__(
        self,
        net: TracedNetwork,
        lr: float = 0.1,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        chart: str | Chart = "diagonal",
        guard: float = 0.1,
        *,
        maximize: bool = False,
    ) -> None:
        self.net = net
        self.lr, self.momentum, self.weight_decay, self.nesterov = lr, momentum, weight_decay, nesterov
        self.guard, self.maximize = guard, maximize
        self.guarded_moves = 0
        chart = chart if isinstance(chart, Chart) else Chart(net, chart)
        column = columns(net)
        tree = {column[edge.parameter, edge.index] for edge in chart.tree}
        self.on_tree = np.array([number in tree for number in range(len(column))])
        paths = basis_paths(net, set(chart.tree), set(chart.b_edges))
        self.B: Floats = np.zeros((len(paths), len(column)))
        for row, path in enumerate(paths.values()):
            self.B[row, [column[edge.parameter, edge.index] for edge in path]] = 1
        self.on_skeleton = np.array([edge in chart.b_edges for edge in paths])
        self.buffer: Floats | None = None
        self.outside_buffers: dict[str, Tensor] = {}

    @torch.no_grad()
    def step(self) -> None:
        """One step from the parameters' ``.grad``."""
        w, g = self._read()
        if not w.all():
            raise ChartError("a weight is 0", allowed="weights that are not 0", fix="use the fast ECSGD")
        v = self.coordinates(w)
        v_new = self._base_step(v, self.gradients(w, g))
        held = self.on_skeleton & (v_new / v < self.guard)
        self.guarded_moves += int(held.sum())
        self._write(self.allocate(w, np.where(held, self.guard * v, v_new)))
        for name in self.net.outside:
            self._outside_step(name, self.net.model.get_parameter(name))

    def coordinates(self, w: Floats) -> Floats:
        """``v_p = ∏_{e ∈ p} w_e`` of every basis path, float64 ``[m − H]``, from all weights ``[m]``."""
        v: Floats = np.where(self.B == 1, w, 1.0).prod(1)
        return v

    def jacobian(self, w: Floats) -> Floats:
        """``∂v_p/∂w_e``, the product of the other weights on the path: float64 ``[m − H, m]``."""
        J: Floats = np.zeros_like(self.B)
        for row, edges in enumerate(self.B == 1):
            for e in edges.nonzero()[0]:
                J[row, e] = np.prod([w[other] for other in edges.nonzero()[0] if other != e])
        return J

    def gradients(self, w: Floats, g: Floats) -> Floats:
        """The ``δ`` with ``Jᵀ δ = g``. That there is one is the conservation law ``Σ_in w g = Σ_out w g``."""
        JT = self.jacobian(w).T
        delta = np.asarray(np.linalg.lstsq(JT, g, rcond=None)[0], dtype=np.float64)
        residual = np.abs(JT @ delta - g).max() / np.abs(g).max(initial=1e-300)
        if residual > 1e-6:
            raise EclabError(
                f"the gradient is none of a function of the paths: it misses by {residual:.1e} of its size"
            )
        return delta

    def allocate(self, w: Floats, v: Floats) -> Floats:
        """The weights with these coordinates and the tree weights of ``w``: solves ``B log w = log v``."""
        free = ~self.on_tree
        right = np.log(v.astype(complex)) - self.B[:, self.on_tree] @ np.log(w[self.on_tree].astype(complex))
        solved = np.linalg.solve(self.B[:, free].astype(complex), right)
        turns = np.rint(solved.imag / np.pi)
        if np.abs(solved.imag / np.pi - turns).max() > 1e-6:
            raise EclabError("the signs of the path values fit no weights")
        new = w.copy()
        new[free] = np.exp(solved.real) * np.where(turns % 2 == 0, 1.0, -1.0)
        return new

    def _base_step(self, v: Floats, delta: Floats) -> Floats:
        """What ``torch.optim.SGD`` does to parameters ``v`` with gradients ``δ``."""
        d = (-delta if self.maximize else delta) + self.weight_decay * v
        if self.momentum:
            self.buffer = d if self.buffer is None else self.momentum * self.buffer + d
            d = d + self.momentum * self.buffer if self.nesterov else self.buffer
        return v - self.lr * d

    def _outside_step(self, name: str, parameter: Tensor) -> None:
        """The same for a parameter that is no edge."""
        if parameter.grad is None:
            return
        d = (-parameter.grad if self.maximize else parameter.grad) + self.weight_decay * parameter
        if self.momentum:
            old = self.outside_buffers.get(name)
            buffer = d if old is None else self.momentum * old + d
            self.outside_buffers[name] = buffer
            d = d + self.momentum * buffer if self.nesterov else buffer
        parameter -= self.lr * d

    def _parameters(self) -> list[Tensor]:
        return list({weight.name: weight.parameter for weight in self.net.weights}.values())

    def _read(self) -> tuple[Floats, Floats]:
        """All weights and their gradients as one vector each, in the order of :func:`columns`."""
        parameters = self._parameters()
        w = torch.cat([p.detach().reshape(-1) for p in parameters]).double()
        g = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in parameters]).double()
        return w.numpy(), g.numpy()

    def _write(self, w: Floats) -> None:
        first = 0
        for p in self._parameters():
            p.copy_(torch.from_numpy(w[first : first + p.numel()]).reshape(p.shape))
            first += p.numel()


def basis_paths(net: TracedNetwork, tree: set[Edge], b_edges: set[Edge]) -> dict[Edge, Path]:
    """Of all paths those of the form ``a-chain + e + b-chain``, by their ``e`` outside the tree."""
    found: dict[Edge, Path] = {}
    for path in segments(net):
        for place, edge in enumerate(path):
            if edge not in tree and tree.issuperset(path[:place]) and b_edges.issuperset(path[place + 1 :]):
                found[edge] = path
    return found
