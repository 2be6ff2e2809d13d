"""The basis-path norm, as a number to report and as a term of a loss."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from eclab.errors import ChartError, SettingError
from eclab.kernels import torch_core as core
from eclab.network.network import TracedNetwork
from eclab.paths import functional
from eclab.paths.chart import Chart

_FORMS = ("value", "log")

_RANGE = 100
"""Decades that the p-th power of a weight may use of float64's 308 before the weights are scaled first."""


def basis_path_norm(
    net: TracedNetwork | Chart, p: float = 2.0, *, skeleton: str = "value", root: bool = False
) -> Tensor:
    """The size of the basis paths' values: a number for a whole class, and a regulariser for it.

    ``Σ_e |v_e|^p`` over the ``m − H`` basis paths; with ``root`` its p-th root; for ``p = inf`` the largest ``|v_e|``.

    It is a function of the live parameters, so ``(loss + λ * basis_path_norm(net)).backward()`` trains with it under
    any optimizer. ``λ/2`` times it (``p=2``) is for :class:`eclab.ECSGD` what ``weight_decay=λ`` is, to rounding. The
    values are worked out in float64 whatever the parameters are, relative to the largest of them.

    Args:
        net: the network, with its diagonal chart; or a chart.
        p: a number of at least 1; ``float("inf")`` for the largest.
        skeleton: what a skeleton path (that of a b-edge, which other paths are divided by) enters with: ``"value"``,
            ``|v_b|`` like all others; or ``"log"``, ``|log |v_b||``, which is small where ``|v_b|`` is near 1 and so
            keeps it from 0 as well as from growing. ``p=inf, skeleton="log"`` is the norm of the paper.
        root: whether to take the p-th root; for ``p = inf`` there is none to take.

    Returns:
        A float64 scalar on the parameters' device, with a gradient wherever they have one.

    Raises:
        SettingError: ``p`` or ``skeleton`` is none of these.
        ChartError: a skeleton weight is 0 where its logarithm is asked for.

    Example:
        >>> import torch, eclab
        >>> from torch.nn import Linear, ReLU, Sequential
        >>> model = Sequential(Linear(1, 2, bias=False), ReLU(), Linear(2, 1, bias=False))
        >>> model[0].weight.data = torch.tensor([[2.0], [3.0]])
        >>> model[2].weight.data = torch.tensor([[5.0, -4.0]])
        >>> net = eclab.trace(model, torch.ones(1, 1))
        >>> round(eclab.basis_path_norm(net, p=1).item(), 6)  # 2·5 + 3·4: of two paths both are basis paths
        22.0
        >>> eclab.rescale_(net, "0", 1, 10.0)
        >>> round(eclab.basis_path_norm(net, p=1).item(), 6)
        22.0

    Source: S. Zheng et al., Capacity control of ReLU neural networks by basis-path norm (AAAI 2019, arXiv:1809.07122),
    whose norm is the supremum of ``|log |v_b||`` over the skeleton's paths and ``|v_e|`` over the others. Sums of p-th
    powers, which have a gradient at every path, any widths, biases and the choice of the chart are eclab's.
    """
    chart = net if isinstance(net, Chart) else Chart(net)
    exponent = _exponent(p)
    if skeleton not in _FORMS:
        raise SettingError(f"skeleton is {skeleton!r}", allowed=" or ".join(map(repr, _FORMS)))
    if exponent == math.inf:
        values = _values(chart, skeleton)
        return torch.stack([part.amax() for part in values if part.numel()]).amax()
    terms = _terms(chart, exponent, skeleton)
    peak = max(scale for _, scale in terms)
    if not peak > 0:
        return torch.stack([part for part, _ in terms]).sum()  # every path is 0, and so is the norm
    total = torch.stack([part * (scale / peak) ** exponent for part, scale in terms]).sum()
    return peak * total.pow(1 / exponent) if root else peak**exponent * total


def _exponent(p: float) -> float:
    try:
        exponent = float(p)
    except (TypeError, ValueError):
        exponent = math.nan
    if not exponent >= 1:
        raise SettingError(f"p is {p!r}", allowed='a number of at least 1, or float("inf")', fix="use p=1 or p=2")
    return exponent


def _terms(chart: Chart, p: float, form: str) -> list[tuple[Tensor, float]]:
    """``Σ |v|^p`` weight by weight and last of the skeleton, each as a number times the p-th power of a scale.

    ``Σ_e |cin w_e cout|^p`` is bilinear in the factors' powers, so no tensor of coordinates is made.
    """
    weights = functional.live_weights(chart)
    plan = chart.plan_on(next(iter(weights.values())).device)
    cin, cout = functional.path_factors(plan, list(weights.values()))
    off = functional.without_skeleton(chart, weights).values()
    terms = []
    for weight, heads, tails in zip(off, plan.heads, plan.tails, strict=True):
        (into, one), (out, two) = (_scaled(factor) for factor in (cin[tails], cout[heads]))
        own, three = _scaled(weight.double(), only_beyond=_RANGE / p)
        terms.append((_sum_of_products(*(_power(factor, p) for factor in (own, into, out))), one * two * three))
    on = [core.values_at(list(weights.values()), edges)[~edges.in_tree] for edges in plan.b_edges]
    ends = [(edges.scale[~edges.in_tree], edges.other[~edges.in_tree]) for edges in plan.b_edges]
    values = [cin[near] * value * cout[far] for value, (near, far) in zip(on, ends, strict=True)]
    skeleton, scale = _scaled(_skeleton_form(torch.cat([cin.new_empty(0), *values]), form))
    return [*terms, (_power(skeleton, p).sum(), scale)]


def _scaled(values: Tensor, only_beyond: float = 0.0) -> tuple[Tensor, float]:
    """The values over the size of the largest, and that size: powers then stay in range.

    A large tensor is left as it is, with size 1, as long as the decimal logarithm is not ``only_beyond`` a number.
    """
    ends = torch.aminmax(values.detach()) if values.numel() else None
    largest = max(-float(ends.min), float(ends.max)) if ends else 0.0
    if largest == 0 or not math.isfinite(largest):
        return values, largest and 1.0
    if abs(math.log10(largest)) < only_beyond:
        return values, 1.0
    return values / largest, largest


def _power(values: Tensor, p: float) -> Tensor:
    """``|values|^p``, the common powers by as few operations as they need."""
    return values.square() if p == 2 else values.abs() if p == 1 else values.abs().pow(p)


def _sum_of_products(weight: Tensor, into: Tensor, out: Tensor) -> Tensor:
    """``Σ out · weight · into``, where the factors broadcast to the weight."""
    if weight.ndim == 2 and into.shape == (1, weight.shape[1]) and out.shape == (weight.shape[0], 1):
        return out[:, 0] @ (weight @ into[0])
    return (weight * into * out).sum()


def _skeleton_form(values: Tensor, form: str) -> Tensor:
    """``|v_b|`` or ``|log |v_b||``."""
    sizes = values.abs()
    if form == "value":
        return sizes
    if not bool((sizes > 0).all()):
        raise ChartError(
            "a skeleton path has the value 0, which has no logarithm",
            allowed='skeleton weights that are not 0, or skeleton="value"',
            fix="take another chart: this one ends here",
        )
    return sizes.log().abs()


def _values(chart: Chart, form: str) -> list[Tensor]:
    """``|v_e|`` of every basis path, float64: by parameter, with 0 on the skeleton, and last those of the skeleton."""
    weights = {name: value.double() for name, value in functional.live_weights(chart).items()}
    coordinates = functional.coordinates(chart, weights)
    skeleton = _skeleton_form(functional.skeleton_values(chart, coordinates), form)
    return [*(part.abs() for part in functional.without_skeleton(chart, coordinates).values()), skeleton]
