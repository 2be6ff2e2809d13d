"""Gradient clipping by the norm in class space."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from eclab.errors import SettingError
from eclab.network.frozen import on_edges
from eclab.optim.checks import check_gradients
from eclab.optim.ec import EC
from eclab.optim.ecsgd import ECSGD
from eclab.optim.space import BalancedSpace, PathSpace
from eclab.paths.chart import Chart


@torch.no_grad()
def clip_class_grad_norm_(where: EC | ECSGD | Chart, max_norm: float, norm_type: float = 2.0) -> Tensor:
    """Scales all gradients so that the norm of ``∂L/∂v`` is at most ``max_norm``.

    ``g ← g · min(1, max_norm / ‖δ‖)``. The norm of ``∂L/∂w``, which ``torch.nn.utils.clip_grad_norm_`` looks at, is
    another at every member of a class; that of ``δ`` is not. The inverse chain rule is linear, so scaling ``g`` scales
    ``δ`` alike. Parameters outside every class count with their own gradients.

    Args:
        where: an :class:`~eclab.optim.ec.EC` or :class:`~eclab.optim.ecsgd.ECSGD`, whose coordinates and metric are
            meant; or a chart.
        max_norm: a finite number > 0, the largest norm to leave.
        norm_type: p ≥ 1 of the norm; ``inf`` for the largest entry.

    Returns:
        The norm before clipping, a float64 scalar tensor.

    Raises:
        SettingError: ``max_norm`` or ``norm_type`` is out of range.
        ChartError: a gradient is missing.
        NonFiniteError: a gradient is NaN or infinite. No gradient was changed.

    Example:
        >>> import torch, eclab
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
        >>> net = eclab.trace(model, torch.ones(4, 2))
        >>> optimizer = eclab.ECSGD(net, lr=0.1)
        >>> model(torch.ones(4, 2)).square().mean().backward()
        >>> _ = eclab.clip_class_grad_norm_(optimizer, 1e-3)
        >>> bool(eclab.clip_class_grad_norm_(optimizer, 1.0) < 1.01e-3)
        True

    Source: theory §3; R. Pascanu, T. Mikolov and Y. Bengio, On the difficulty of training recurrent neural networks
    (ICML 2013), for the clipping.
    """
    _check(max_norm, "max_norm", 0.0)
    if norm_type != math.inf:
        _check(norm_type, "norm_type", 1.0)
    with on_edges(where.net):
        return _clipped(where, max_norm, norm_type)


def _clipped(where: EC | ECSGD | Chart, max_norm: float, norm_type: float) -> Tensor:
    chart = where if isinstance(where, Chart) else where.chart
    weights = [p.detach() for p in chart.parameters()]
    gradients = [p.grad for p in chart.parameters()]
    check_gradients(chart.net, chart.weights, gradients)
    balanced = not isinstance(where, Chart) and where.metric == "balanced"
    space = BalancedSpace(chart.net, chart.weights) if balanced else PathSpace(chart, 0.0)
    deltas = space.enter(weights, gradients).deltas
    outside = [] if isinstance(where, Chart) else [p.grad for g in where.param_groups[1:] for p in g["params"]]
    found = [torch.linalg.vector_norm(d.double(), norm_type) for d in (*deltas, *outside) if d is not None]
    norm: Tensor = torch.linalg.vector_norm(torch.stack(found), norm_type)
    if float(norm) > max_norm:
        for gradient in (*gradients, *outside):
            if gradient is not None:
                gradient.mul_(max_norm / norm)
    return norm


def _check(value: object, name: str, least: float) -> None:
    if not (isinstance(value, int | float) and math.isfinite(value) and value >= least and value > 0):
        allowed = "a finite number > 0" if least == 0 else f"a number of at least {least:g}, or inf"
        raise SettingError(f"{name} is {value!r}", allowed=allowed)
