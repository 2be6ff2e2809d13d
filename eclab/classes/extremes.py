"""The members of a class with the smallest and the largest gradient."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from eclab.classes.moves import Move, gradient_norm, move, parameters_once
from eclab.classes.potential import Group, ScaleGraph, Search
from eclab.errors import ChartError, NonFiniteError, SettingError
from eclab.network.frozen import works_on_edges
from eclab.network.network import TracedNetwork

_SWEEPS = 50
_RANDOM_STARTS = 4


@torch.no_grad()
def extremal_(net: TracedNetwork, which: str = "largest", bound: float = 10.0) -> Move:
    r"""Moves to the member of the class whose gradient is smallest, or largest within a bound; the function stays.

    The gradient goes as ``g_e ← g_e c_tail / c_head``, so ``Σ g²`` is convex in ``log c``. Its minimum is found to
    rounding. Its maximum over ``1/bound ≤ c ≤ bound`` lies at a corner; which one is a hard combinatorial question, so
    what is returned is the best of several ascents, from which no change of a single unit leads any higher.

    Args:
        net: the network; its model's weights and gradients are changed in place. Call ``loss.backward()`` first.
        which: ``"smallest"`` or ``"largest"``.
        bound: the largest factor by which a unit is scaled, > 1; for ``"largest"`` alone.

    Returns:
        The report: the gradient's norm before and after. Units that no gradient reaches, and for ``"smallest"`` those
        before a batch-norm with training statistics (whose gradient could shrink for ever), keep their scale.

    Raises:
        SettingError: ``which`` or the bound is out of range.
        ChartError: a gradient is missing.
        NonFiniteError: a gradient is NaN or infinite. Nothing was changed.

    Example:
        >>> import torch, eclab
        >>> torch.manual_seed(0) is not None
        True
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1)).double()
        >>> x = torch.randn(8, 2, dtype=torch.float64)
        >>> net = eclab.trace(model, x)
        >>> model(x).square().mean().backward()
        >>> up, down = eclab.extremal_(net, "largest"), eclab.extremal_(net, "smallest")
        >>> up.grad_norm[0] < up.grad_norm[1] and down.grad_norm[1] < up.grad_norm[0]
        True

    Source: theory §1; the picture of gradients along the orbit, row C2 of the method's table.
    """
    squares = _squared_gradients(net)
    graph = ScaleGraph.of(net)
    # g_e² goes as (c_tail/c_head)², so the search runs in −log c.
    search = Search(graph, graph.log_scales(None), squares)
    if which == "smallest":
        scales = 1 / search.run(1e-12).scales
    elif which == "largest":
        scales = (-_highest_corner(search, math.log(_checked(bound)))).exp()
    else:
        raise SettingError(f"which is {which!r}", allowed='"smallest" or "largest"')
    return move(net, scales, f"{which} gradient", passes=search.passes)


def _checked(bound: float) -> float:
    if not 1 < bound < math.inf:
        raise SettingError(f"the bound is {bound!r}", allowed="a finite factor > 1, 10 for one")
    return float(bound)


@works_on_edges
def _squared_gradients(net: TracedNetwork) -> dict[str, Tensor]:
    weights = parameters_once(net)
    missing = [w.name for w in weights if w.parameter.grad is None and w.parameter.requires_grad]
    if missing:
        raise ChartError(
            f"the gradient of {', '.join(missing)} is missing",
            allowed="a gradient for every weight that trains",
            fix="call loss.backward() first",
        )
    if not math.isfinite(gradient_norm(net) or 0.0):
        raise NonFiniteError("a gradient is NaN or infinite", fix="look at the loss and the data of this step")
    parameters = {weight.name: weight.parameter for weight in weights}
    return {
        name: torch.zeros_like(p, dtype=torch.float64) if p.grad is None else p.grad.double().square()
        for name, p in parameters.items()
    }


def _highest_corner(search: Search, reach: float) -> Tensor:
    """The best of the corners ``ℓ = ±reach`` that ascents from several starts end at."""
    best, highest = search.ell, -math.inf
    for start in _starts(search, reach):
        corner = _ascend(search, start, reach)
        search.to(corner)
        if search.objective() > highest:
            best, highest = corner, search.objective()
    return best


def _starts(search: Search, reach: float) -> list[Tensor]:
    even = torch.zeros_like(search.ell)
    for number, group in enumerate(search.graph.groups):
        even[group.scales.to(even.device)] = reach * (-1) ** number
    generator = torch.Generator().manual_seed(0)
    signs = [torch.randint(0, 2, even.shape, generator=generator).to(even) * 2 - 1 for _ in range(_RANDOM_STARTS)]
    flat = [torch.zeros_like(even), torch.full_like(even, reach), torch.full_like(even, -reach)]
    starts = [*flat, even, -even, *(reach * sign for sign in signs)]
    return [torch.where(search.into + search.out > 0, start, 0.0) * _not_ground(start) for start in starts]


def _not_ground(like: Tensor) -> Tensor:
    mask = torch.ones_like(like)
    mask[0] = 0.0
    return mask


def _ascend(search: Search, start: Tensor, reach: float) -> Tensor:
    ell = start.clone()
    for _ in range(_SWEEPS):
        before = ell.clone()
        for group in search.graph.groups:
            _raise_group(search, ell, group, reach)
        if torch.equal(ell, before):
            break
    return ell


def _raise_group(search: Search, ell: Tensor, group: Group, reach: float) -> None:
    """Puts every unit of a group to its better end; one at a time where they lead to one another."""
    parts = [group] if group.independent else [Group(one[None], group.touching, True) for one in group.scales]
    for part in parts:
        search.ell = ell
        into, out = search.around(part)
        scales = part.scales.to(ell.device)
        here = ell[scales]
        top = into * (2 * (reach - here)).exp() + out * (-2 * (reach - here)).exp()
        bottom = into * (-2 * (reach + here)).exp() + out * (2 * (reach + here)).exp()
        high = torch.full_like(here, reach)
        ends = torch.where(top > bottom, high, -high)
        level = torch.where(top == bottom, torch.where(here == 0, high, here), ends)
        ell[scales] = torch.where(into + out > 0, level, here)
