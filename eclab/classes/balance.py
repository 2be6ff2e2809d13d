"""The member of a class with the least Σ w²."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from eclab.classes.moves import Move, move, norm
from eclab.classes.potential import Minimum, ScaleGraph, Search
from eclab.network.frozen import works_on_edges
from eclab.network.network import TracedNetwork


class Balancer:
    """Finds balanced scales of one network again and again, as an optimizer does.

    Args:
        net: the network.
    """

    def __init__(self, net: TracedNetwork) -> None:
        self.net, self.graph = net, ScaleGraph.of(net)

    def search(self, values: Mapping[str, Tensor] | None = None, start: Tensor | None = None) -> Search:
        """The search at its start."""
        ell = self.graph.log_scales(start)
        push = torch.zeros_like(ell)
        push[self.net.scale_free.to(ell.device)] = 1.0
        return Search(self.graph, ell, values, push)

    @torch.no_grad()
    @works_on_edges
    def find(
        self, values: Mapping[str, Tensor] | None = None, start: Tensor | None = None, tolerance: float = 1e-12
    ) -> Minimum:
        """The balanced scales; arguments and errors as :func:`balanced_scales` has them."""
        return self.search(values, start).run(tolerance)


def balanced_scales(
    net: TracedNetwork,
    *,
    values: Mapping[str, Tensor] | None = None,
    start: Tensor | None = None,
    tolerance: float = 1e-12,
) -> Tensor:
    """The scales that lead to the member of the class with the least ``Σ w²``.

    ``argmin_c Σ_e w_e² (c_head / c_tail)²``; there ``Σ_in w² = Σ_out w²`` for every free unit. Units before a
    batch-norm with training statistics could shrink for ever; for them ``‖w_in‖ = 1`` (minimised is then
    ``Σ w² − Σ log c²`` over those). Units whose incoming or outgoing weights are all 0 keep ``c = 1``.

    Args:
        net: the network; nothing is changed.
        values: by parameter name, non-negative tensors of the parameters' shapes, to balance in place of ``w²``.
        start: scales to start from, float64 ``[H + 1]``; those of a step earlier make the search a few passes long.
            Started from scales that lead to the same member, two members of a class go the same way to rounding.
        tolerance: the search ends where ``|in − out| ≤ tolerance · (in + out)`` for every unit.

    Returns:
        ``c`` by number of the free scale (``net.scale_of``), float64 ``[H + 1]`` on the weights' device; entry 0, for
        ground, is 1.

    Raises:
        NonFiniteError: a weight is NaN or infinite, or its square overflows.
        ScaleError, SettingError: the start or the tolerance is out of range.

    Example:
        >>> import torch, eclab
        >>> from eclab.classes import balanced_scales
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Linear(1, 1, bias=False), torch.nn.ReLU(), torch.nn.Linear(1, 1, bias=False))
        >>> model[0].weight.data.fill_(8.0), model[2].weight.data.fill_(2.0)
        (tensor([[8.]]), tensor([[2.]]))
        >>> balanced_scales(eclab.trace(model, torch.ones(1, 1)))
        tensor([1.0000, 0.5000], dtype=torch.float64)

    Source: P. Stock et al., Equi-normalization of neural networks (ICLR 2019), whose sweeps go to the same minimum;
    E. E. Osborne, On pre-conditioning of matrices (1960), the same problem for one matrix.
    """
    return Balancer(net).find(values, start, tolerance).scales


def balance_(net: TracedNetwork, *, tolerance: float = 1e-12) -> Move:
    """Moves to the balanced member of the class, the one with the least ``‖w‖``; the function stays what it was.

    Biases count as incoming weights, as they scale with their unit. Units before a batch-norm with training statistics
    get ``‖w_in‖ = 1``; see :func:`~eclab.classes.balanced_scales`. The parameters' ``.grad`` is rescaled along.

    Args:
        net: the network; its model's weights, and gradients if there are any, are changed in place.
        tolerance: how far ``Σ_in w²`` and ``Σ_out w²`` may differ, relative to their sum; in float32 the weights'
            own rounding then leaves about 1e-7.

    Returns:
        The report: norms before and after, and the scales used.

    Raises:
        NonFiniteError: a weight is NaN or infinite. No weight was changed.
        ScaleError: weights would leave the range of their dtype. No weight was changed.

    Example:
        >>> import torch, eclab
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Linear(1, 1, bias=False), torch.nn.ReLU(), torch.nn.Linear(1, 1, bias=False))
        >>> model[0].weight.data.fill_(8.0), model[2].weight.data.fill_(2.0)
        (tensor([[8.]]), tensor([[2.]]))
        >>> report = eclab.balance_(eclab.trace(model, torch.ones(1, 1)))
        >>> model[0].weight.item(), model[2].weight.item()
        (4.0, 4.0)
        >>> print(report)
        balanced       before  after
        ‖w‖           8.24621  5.65685
        Σ w²               68  32
        c of layer 0        1  0.5 … 0.5

    Source: P. Stock et al., Equi-normalization of neural networks (ICLR 2019); unlike the authors' code the biases of
    linear layers are scaled with their units, so that the function does not change.
    """
    found = Balancer(net).find(tolerance=tolerance)
    return move(net, found.scales, "balanced", objective="Σ w²", measure=lambda: norm(net) ** 2, passes=found.passes)
