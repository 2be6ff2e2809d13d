"""The group action: unit ``i``: incoming weights times ``c_i``, outgoing ones divided by it (theory §1)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real

import torch
from torch import Tensor

from eclab.errors import ChartError, ScaleError, SettingError
from eclab.network.frozen import works_on_edges
from eclab.network.network import Layer, TracedNetwork
from eclab.paths.chart import Chart


def rescale_(net: TracedNetwork, layer: str, unit: int | Tensor, scale: float | None = None) -> None:
    """Rescales one unit with those tied to it, or all units of a layer; the function stays what it was.

    ``w_in ← c · w_in`` (bias included), ``w_out ← w_out / c``.

    Args:
        net: the network; its model's weights are changed in place.
        layer: name of the layer, ``"0"``.
        unit: number of the unit in its layer; or a float tensor ``[width]``, one scale a unit, for the whole layer.
        scale: ``c > 0``, where ``unit`` is a number.

    Raises:
        ScaleError: no such layer or unit, a scale that is not positive and finite, a unit that is pinned (with the
            reason), or weights that would overflow or vanish. No weight was changed.

    Example:
        >>> import torch, eclab
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1)).double()
        >>> x = torch.ones(1, 2, dtype=torch.float64)
        >>> net, before = eclab.trace(model, x), model(x).item()
        >>> eclab.rescale_(net, "0", 1, 10.0)
        >>> abs(model(x).item() - before) < 1e-12
        True

    Source: Meng et al. 2018 (arXiv:1802.03713), section 3.1, positive scaling; theory §1.
    """
    found = net.layer(layer)
    if isinstance(unit, Tensor):
        if scale is not None:
            raise ScaleError("a tensor of scales and a scale were given", allowed="one of them")
        apply_scales_(net, {found.name: unit})
        return
    if scale is None:
        raise ScaleError("the scale is missing", allowed="rescale_(net, layer, unit, scale) or a tensor of scales")
    if unit not in range(found.width):
        raise ScaleError(f"there is no unit {unit!r} in layer '{found.name}'", allowed=f"0 … {found.width - 1}")
    scales = torch.ones(found.width, dtype=torch.float64)
    mine = net.scale_of[found.units]
    tied = (mine == mine[unit]) & (mine > 0)
    tied[unit] = True
    scales[tied] = _positive(scale, found, unit)
    apply_scales_(net, {found.name: scales})


def _positive(scale: float, layer: Layer, unit: int) -> float:
    try:
        value = math.nan if isinstance(scale, str | bool) else float(scale)
    except (TypeError, ValueError):
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise ScaleError(
            f"the scale of unit {unit} of layer '{layer.name}' is {scale!r}",
            allowed="a finite number > 0; a negative one would change the function",
            fix="give a positive scale, 10.0 for one",
        )
    return value


@torch.no_grad()
def apply_scales_(net: TracedNetwork, scales: Mapping[str, Tensor]) -> None:
    """Rescales several layers at once: ``g_c(w)`` for the ``c`` given.

    Each weight is rounded once, whatever the number of layers. The parameters' ``.grad`` is left as it is, and so is
    the gradient at the member before; :func:`eclab.walk_` and the other moves with a report take it along.

    Args:
        net: the network; its model's weights are changed in place.
        scales: by layer name, a float tensor ``[width]`` of scales ``c > 0``; 1 for a unit that is pinned.

    Raises:
        ScaleError: as :func:`rescale_`. No weight was changed.

    Source: theory §1.
    """
    moved_by(net, numbered(net, scales))


def numbered(net: TracedNetwork, scales: Mapping[str, Tensor]) -> Tensor:
    """Scales by layer name as scales by number, float64 ``[H + 1]``; errors as :func:`apply_scales_`."""
    by_scale = torch.ones(net.num_units + 1, dtype=torch.float64)
    by_scale[net.scale_of] = _factors(net, scales)
    return by_scale


@torch.no_grad()
@works_on_edges
def moved_by(net: TracedNetwork, c: Tensor, *, gradients: bool = False) -> None:
    """Rescales all weights by ``c_head / c_tail``, for scales by number of the free scale, float64 ``[H + 1]``.

    Args:
        net: the network; its model's weights are changed in place, each rounded once.
        c: finite and positive; entry 0, for ground, is 1.
        gradients: whether the parameters' ``.grad`` is divided by the same factor, as the gradient at the new member
        is.

    Raises:
        ScaleError: weights, or gradients, would leave the range of their dtype. Nothing was changed.
    """
    factor = c.to("cpu", torch.float64)[net.scale_of]
    new: list[tuple[Tensor, Tensor]] = []
    for weight in {weight.name: weight for weight in net.weights}.values():
        head, tail = factor[weight.head], factor[weight.tail]
        if bool((head == 1).all()) and bool((tail == 1).all()):
            continue
        old = weight.parameter
        ratio = (head / tail).to(old.device)
        new.append((old, _moved(f"'{weight.name}'", old, ratio)))
        if gradients and old.grad is not None:
            new.append((old.grad, _moved(f"the gradient of '{weight.name}'", old.grad, 1 / ratio, may_vanish=True)))
    for tensor, value in new:
        tensor.copy_(value)


def _moved(what: str, old: Tensor, ratio: Tensor, *, may_vanish: bool = False) -> Tensor:
    moved = (old.double() * ratio).to(old.dtype)
    lost = ~moved.isfinite()
    if not may_vanish:
        lost |= (moved == 0) & (old != 0)
    if bool(lost.any()):
        raise ScaleError(
            f"{what} would leave the range of {str(old.dtype).removeprefix('torch.')}",
            allowed="scales that leave every weight finite and non-zero",
            fix="use a scale nearer to 1, or a model in float64",
        )
    return moved


def _factors(net: TracedNetwork, scales: Mapping[str, Tensor]) -> Tensor:
    """``c`` per unit of the network, float64 ``[num_nodes]``, after every check."""
    by_scale = torch.ones(net.num_units + 1, dtype=torch.float64)
    asked: list[tuple[Layer, Tensor]] = []
    for name, given in scales.items():
        layer = net.layer(name)
        c = torch.as_tensor(given).detach().to("cpu", torch.float64)
        if c.shape != (layer.width,):
            raise ScaleError(
                f"the scales of layer '{layer.name}' have shape {tuple(c.shape)}", allowed=f"({layer.width},)"
            )
        bad = ~(c.isfinite() & (c > 0))
        if bool(bad.any()):
            unit = int(bad.nonzero()[0, 0])
            _positive(float(c[unit]), layer, unit)
        stuck = (net.scale_of[layer.units] == 0) & (c != 1)
        if bool(stuck.any()):
            pinned = net.unit(int(layer.units[stuck][0]))
            raise ScaleError(
                f"unit {pinned.index} of layer '{layer.name}' cannot scale: {pinned.reason}",
                allowed="a scale of 1 for pinned units",
                fix="rescale a unit whose state in net.units is free",
            )
        by_scale[net.scale_of[layer.units]] = c
        asked.append((layer, c))
    factor = by_scale[net.scale_of]
    for layer, c in asked:
        if bool((factor[layer.units] != c).any()):
            raise ScaleError(
                f"units of layer '{layer.name}' are tied to others that were given other scales",
                allowed="the same scale for units that an addition ties",
            )
    return factor


def random_scales(net: TracedNetwork, sigma: float, generator: torch.Generator | None = None) -> dict[str, Tensor]:
    """Log-normal scales ``c = exp(σ z)`` for every free unit, by layer name; 1 for pinned units."""
    spread: object = sigma
    if isinstance(spread, bool) or not isinstance(spread, Real) or not 0 <= sigma < math.inf:
        raise SettingError(f"sigma is {sigma!r}", allowed="a finite number of at least 0")
    z = torch.randn(net.num_units, generator=generator, dtype=torch.float64)
    c = torch.cat([torch.ones(1, dtype=torch.float64), torch.exp(sigma * z)])
    return {layer.name: c[net.scale_of[layer.units]] for layer in net.hidden_layers()}


def random_rescale_(
    net: TracedNetwork, sigma: float = 1.0, generator: torch.Generator | None = None
) -> dict[str, Tensor]:
    """Moves to a random member of the class: ``c = exp(σ z)``, ``z`` standard normal, one for every free unit.

    Args:
        net: the network; its model's weights are changed in place.
        sigma: σ ≥ 0; 1 makes typical scales between 0.4 and 2.7.
        generator: a CPU generator for ``z``; torch's global one without it.

    Returns:
        The scales used, float64 ``[width]`` by layer name, for :func:`apply_scales_` on a copy.

    Raises:
        SettingError: σ is negative or not finite.
        ScaleError: weights would overflow. No weight was changed.

    Source: theory §3, log-normal ``c``.
    """
    scales = random_scales(net, sigma, generator)
    apply_scales_(net, scales)
    return scales


@torch.no_grad()
@works_on_edges
def start_skeleton_(net: TracedNetwork, chart: Chart | None = None) -> None:
    """The paper's start: every skeleton weight becomes 1. **This changes the function.**

    Path values of the skeleton are then 1, where EC-SGD's step has the size of SGD's. Compare optimizers from the same
    start: give it to all of them.

    Args:
        net: the network; its model's weights are changed in place.
        chart: whose skeleton; the diagonal one without it.

    Raises:
        ChartError: the chart belongs to another network.

    Source: Meng et al. 2018, section 5, initialisation; theory §4.
    """
    if chart is not None and chart.net is not net:
        raise ChartError("the chart belongs to another network", fix="use net.chart() of this network")
    used = chart or Chart(net)
    parameters = used.parameters()
    plan = used.plan_on(parameters[0].device)
    for edges in (*plan.tree, *plan.b_edges):
        parameters[edges.weight][edges.index] = 1.0
