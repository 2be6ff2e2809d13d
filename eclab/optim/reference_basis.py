"""Basis paths by brute force: every path listed, and a chart's coordinates found among their products."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eclab.errors import EclabError
from eclab.network.frozen import works_on_edges
from eclab.network.network import TracedNetwork
from eclab.paths.enumerate import columns, path_matrix
from eclab.paths.skeleton import Edge, Skeleton

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


class ReferenceBasis:
    """The basis paths of a skeleton as rows of exponents, with coordinates, gradients and weights from their algebra.

    The coordinate of a weight ``e = (u → v)`` off the tree is the product of path values in which, apart from tree
    weights, just ``e`` and the b-chain of ``v`` occur. Which product that is, least squares over all paths finds; where
    a batch-norm takes a scale away or an addition lies on the way, it is a ratio. It shares the skeleton with
    :class:`~eclab.paths.chart.Chart` and nothing else.

    Args:
        net: the network.
        skeleton: a- and b-edges of every free scale.

    Attributes:
        B: float64 ``[m − H, m]``, whole numbers: ``v_p = ∏_e w_e^{B[p, e]}``; columns as in
            :func:`~eclab.paths.enumerate.columns`.
        on_tree: bool ``[m]``, the tree weights, which are no coordinates.
        on_skeleton: bool ``[m − H]``, the coordinates of b-edges, which the guard watches.
        trains: bool ``[m − H]``, the coordinates of weights that are not frozen.
        edges: for every row the weight whose coordinate it is.

    Raises:
        EclabError: there are more than 20,000 paths, or the skeleton spans no basis of them.

    Source: theory §2.
    """

    def __init__(self, net: TracedNetwork, skeleton: Skeleton) -> None:
        self.net, self.skeleton = net, skeleton
        column = columns(net)
        tree = {column[edge.parameter, edge.index] for edge in skeleton.a.values()}
        self.on_tree: Flags = np.array([number in tree for number in range(len(column))])
        self.edges = [edge for edge in _first_edges(net) if column[edge.parameter, edge.index] not in tree]
        wanted: Floats = np.zeros((len(self.edges), len(column)))
        for row, edge in enumerate(self.edges):
            for member in (edge, *b_chain(net, skeleton, edge.head)):
                wanted[row, column[member.parameter, member.index]] += 1
        self.B = _among_products(path_matrix(net), wanted, ~self.on_tree)
        self.E = _whole(np.linalg.inv(self.B[:, ~self.on_tree]).astype(np.float64), "the basis paths are no basis")
        self.solve_gradient: Floats = np.linalg.pinv(self.B.T).astype(np.float64)
        chosen = set(skeleton.b.values())
        self.on_skeleton: Flags = np.array([edge in chosen for edge in self.edges])
        self.trains: Flags = np.array([net.weight(edge.parameter).parameter.requires_grad for edge in self.edges])

    def coordinates(self, w: Floats) -> Floats:
        """``v_p = ∏_e w_e^{B[p, e]}`` of every basis path, float64 ``[m − H]``, from all weights ``[m]``."""
        v: Floats = np.power(w, self.B).prod(1)
        return v

    def jacobian(self, w: Floats) -> Floats:
        """``∂v_p/∂w_e``: float64 ``[m − H, m]``."""
        J: Floats = self.B * self.coordinates(w)[:, None] / w
        return J

    def gradients(self, w: Floats, g: Floats) -> Floats:
        """The ``δ`` with ``Σ_p (∂v_p/∂w_e) δ_p = g_e``, each of these equations taken ``w_e`` times.

        That there is one is the conservation law ``Σ_in w g = Σ_out w g``.
        """
        flow = w * g
        through = self.solve_gradient @ flow
        residual = np.abs(self.B.T @ through - flow).max() / np.abs(flow).max(initial=1e-300)
        if residual > 1e-6:
            raise EclabError(
                f"the gradient is none of a function of the paths: it misses by {residual:.1e} of its size"
            )
        delta: Floats = through / self.coordinates(w)
        return delta

    def allocate(self, w: Floats, v: Floats) -> Floats:
        """The weights with these coordinates and the tree weights of ``w``, from the inverse of the exponents."""
        free = ~self.on_tree
        given = v / np.power(w[self.on_tree], self.B[:, self.on_tree]).prod(1)
        new = w.copy()
        new[free] = np.power(given, self.E).prod(1)
        return new

    @works_on_edges
    def read(self) -> tuple[Floats, Floats]:
        """All weights and their gradients as one vector each, in the order of the columns; 0 where there is none."""
        parameters = self._parameters()
        w = torch.cat([p.detach().reshape(-1) for p in parameters]).double()
        g = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in parameters]).double()
        return w.numpy(), g.numpy()

    @works_on_edges
    def write(self, w: Floats) -> None:
        """Puts a vector of all weights into the parameters that train."""
        first = 0
        for p in self._parameters():
            if p.requires_grad:
                p.data.copy_(torch.from_numpy(w[first : first + p.numel()]).reshape(p.shape))
            first += p.numel()

    def _parameters(self) -> list[Tensor]:
        return list({weight.name: weight.parameter for weight in self.net.weights}.values())


def b_chain(net: TracedNetwork, skeleton: Skeleton, unit: int) -> list[Edge]:
    """The b-edges that follow one another from a unit to ground."""
    found: list[Edge] = []
    while int(net.scale_of[unit]) in skeleton.b:
        found.append(skeleton.b[int(net.scale_of[unit])])
        unit = found[-1].head
    return found


def a_chain(net: TracedNetwork, skeleton: Skeleton, unit: int) -> list[Edge]:
    """The a-edges that lead from ground to a unit, the last one first."""
    found: list[Edge] = []
    while int(net.scale_of[unit]) in skeleton.a:
        found.append(skeleton.a[int(net.scale_of[unit])])
        unit = found[-1].tail
    return found


def _first_edges(net: TracedNetwork) -> list[Edge]:
    """Every weight as an edge; of a shared one its first use, since all that it touches is ground."""
    found: dict[tuple[str, tuple[int, ...]], Edge] = {}
    for weight in net.weights:
        for index in np.ndindex(weight.shape):
            found.setdefault((weight.name, index), Edge(weight.name, index, *weight.ends(index)))
    return list(found.values())


def _among_products(paths: NDArray[np.int64], wanted: Floats, free: Flags) -> Floats:
    """The products of paths, ``[rows, m]``, that have the wanted exponents off the tree; those on it follow."""
    listed = np.unique(paths, axis=0).astype(np.float64)
    factors = np.linalg.lstsq(listed[:, free].T, wanted[:, free].T, rcond=None)[0]
    products = _whole(factors.T @ listed, "a coordinate is no product of path values")
    if not np.array_equal(products[:, free], wanted[:, free]):
        raise EclabError("a coordinate is no product of path values")
    return products


def _whole(matrix: Floats, refusal: str) -> Floats:
    """The matrix, whose entries are whole numbers but for rounding."""
    rounded: Floats = np.rint(matrix)
    if np.abs(matrix - rounded).max(initial=0) > 1e-6:
        raise EclabError(refusal)
    return rounded + 0.0
