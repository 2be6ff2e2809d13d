"""The member of a class whose path kernel has the most uniform diagonal: PathCond's objective."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from eclab.classes.moves import Move, move
from eclab.classes.potential import Minimum, ScaleGraph, Search
from eclab.network.network import TracedNetwork
from eclab.paths.kappa import kappa


@torch.no_grad()
def conditioned_scales(
    net: TracedNetwork, *, values: Mapping[str, Tensor] | None = None, tolerance: float = 1e-12
) -> Minimum:
    """The scales that lead to the conditioned member; see :func:`condition_`.

    Args:
        net: the network; nothing is changed.
        values: the diagonal of the path kernel by parameter name; worked out without it.
        tolerance: how far the search goes, relative to the flows of ``κ`` through a unit.
    """
    diagonal = kappa(net) if values is None else values
    graph = ScaleGraph.of(net)
    # κ_e goes as (c_tail/c_head)², so the search runs in −log c.
    device = net.weights[0].parameter.device
    push, count = torch.zeros(net.num_units + 1, dtype=torch.float64, device=device), 0
    scale = net.scale_of.to(device)
    for weight in {weight.name: weight for weight in net.weights}.values():
        there = (diagonal[weight.name] > 0).double()
        push.index_add_(0, scale, weight.sum_into_heads(there, net.num_nodes))
        push.index_add_(0, scale, -weight.sum_into_tails(there, net.num_nodes))
        count += int(there.sum())
    push[0] = 0.0
    found = Search(graph, graph.log_scales(None), diagonal, push, count).run(tolerance)
    return Minimum(1 / found.scales, found.imbalance, found.passes)


def kernel_imbalance(net: TracedNetwork) -> float:
    """``log(mean κ) − mean(log κ)`` over the weights with ``κ > 0``: 0 where the kernel's diagonal is uniform."""
    diagonal = torch.cat([value.reshape(-1) for value in kappa(net).values()])
    diagonal = diagonal[diagonal > 0]
    if not len(diagonal):
        return 0.0
    return float(diagonal.log().logsumexp(0) - math.log(len(diagonal)) - diagonal.log().mean())


def condition_(net: TracedNetwork, *, tolerance: float = 1e-12) -> Move:
    r"""Moves to the member of the class whose path kernel has the most uniform diagonal; the function stays.

    Of the path kernel ``G = ∂v/∂wᵀ ∂v/∂w`` with diagonal ``κ``, it minimises the distance of ``diag(αG)`` from the
    identity by the log-determinant divergence, over the scales and ``α > 0``:

    .. math::
        \min_{c,\,\alpha}\ \alpha \sum_e \kappa_e - \sum_e \log(\alpha \kappa_e)
        \quad\Longleftrightarrow\quad \min_c\ m \log \sum_e \kappa_e - \sum_e \log \kappa_e

    which is convex in ``log c``. The authors' code goes around the units one by one for at most ten rounds; this goes
    to the minimum. Weights with ``κ = 0``, which no path with a value runs through, are left out of both sums. The
    parameters' ``.grad`` is rescaled along.

    Args:
        net: the network; its model's weights, and gradients if there are any, are changed in place. What kappa is in
            convolutional networks and behind batch-norm: :func:`eclab.paths.kappa.kappa`.
        tolerance: of the search; see :func:`~eclab.classes.balanced_scales`.

    Returns:
        The report; its objective is ``log(mean κ) − mean(log κ)``, 0 for a uniform diagonal.

    Raises:
        ChartError: the network holds operations whose paths are not known. No weight was changed.
        NonFiniteError, ScaleError: as :func:`eclab.balance_`. No weight was changed.

    Example:
        >>> import torch, eclab
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Linear(1, 1, bias=False), torch.nn.ReLU(), torch.nn.Linear(1, 1, bias=False))
        >>> model[0].weight.data.fill_(8.0), model[2].weight.data.fill_(2.0)
        (tensor([[8.]]), tensor([[2.]]))
        >>> report = eclab.condition_(eclab.trace(model, torch.ones(1, 1)))
        >>> model[0].weight.item(), model[2].weight.item(), report.value[1]
        (4.0, 4.0, 0.0)

    Source: A. Lebeurrier, T. Vayer and R. Gribonval, Path-conditioned training: a principled way to rescale ReLU neural
    networks (arXiv:2602.19799, 2026).
    """
    found = conditioned_scales(net, tolerance=tolerance)
    return move(
        net,
        found.scales,
        "conditioned",
        objective="log mean κ − mean log κ",
        measure=lambda: kernel_imbalance(net),
        passes=found.passes,
    )
