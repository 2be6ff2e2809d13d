"""The basis-path norm, as a number to report and as a term of a loss."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from eclab.errors import ChartError, SettingError
from eclab.network.network import TracedNetwork
from eclab.paths import functional
from eclab.paths.chart import Chart

_FORMS = ("value", "log")


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
    values = _values(chart, skeleton)
    peaks = torch.stack([part.amax() for part in values if part.numel()])
    if exponent == math.inf:
        return peaks.amax()
    peak = peaks.detach().amax()
    if not bool(peak > 0):
        return peaks.sum()  # every path is 0, and so is the norm
    total = torch.stack([(part / peak).pow(exponent).sum() for part in values]).sum()
    return peak * total.pow(1 / exponent) if root else peak.pow(exponent) * total


def _exponent(p: float) -> float:
    try:
        exponent = float(p)
    except (TypeError, ValueError):
        exponent = math.nan
    if not exponent >= 1:
        raise SettingError(f"p is {p!r}", allowed='a number of at least 1, or float("inf")', fix="use p=1 or p=2")
    return exponent


def _values(chart: Chart, form: str) -> list[Tensor]:
    """``|v_e|`` of every basis path, float64: by parameter, with 0 on the skeleton, and last those of the skeleton."""
    weights = {name: value.double() for name, value in functional.live_weights(chart).items()}
    coordinates = functional.coordinates(chart, weights)
    skeleton = functional.skeleton_values(chart, coordinates).abs()
    if form == "log":
        if not bool((skeleton > 0).all()):
            raise ChartError(
                "a skeleton path has the value 0, which has no logarithm",
                allowed='skeleton weights that are not 0, or skeleton="value"',
                fix="take another chart: this one ends here",
            )
        skeleton = skeleton.log().abs()
    return [*(part.abs() for part in functional.without_skeleton(chart, coordinates).values()), skeleton]
