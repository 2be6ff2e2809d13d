"""The skeleton of the largest path values, by dynamic programming along the graph."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from eclab.errors import ChartError
from eclab.network.network import TracedNetwork, Weight
from eclab.paths.skeleton import Edge, Skeleton

_CHUNK = 1 << 20
"""Weights looked at together: temporaries stay at some tens of MB for layers of any size."""


@dataclass(frozen=True, eq=False)
class Largest:
    """For some units, each once, the largest weight at them times what stands at its other end.

    Attributes:
        units: int64 ``[n]``.
        logs: float64 ``[n]``, ``log |w_e| + far[other end]``; −∞ where there is none.
        places: int64 ``[n]``, the weight's place in its flattened parameter.
    """

    units: Tensor
    logs: Tensor
    places: Tensor


@torch.no_grad()
def strongest(net: TracedNetwork) -> Skeleton:
    """The skeleton that runs along the largest path values at the present weights.

    ``a(v) = argmax_{e=(u→v)} |cin(u) w_e|`` down the network, ``b(u) = argmax_{e=(u→v)} |w_e cout(v)|`` from the
    outputs back. A rescaling multiplies all candidates of a unit alike, so the choice is the same for every member of
    a class (but for ties). Biases and shared weights are left out. Of the layers that lead into one tied scale the
    first counts, of those that leave it the last.

    Args:
        net: the traced network.

    Returns:
        The skeleton; it does not follow the weights when they change.

    Raises:
        ChartError: all paths through a free unit have the value 0, so no chart reaches it.

    Source: theory §2; the choice is eclab's own.
    """
    matrices = skeleton_weights(net)
    ends = net.scale_free
    a, cin = _resolve(net, matrices, ground(net), by_head=True)
    far = ground(net)
    far[ends] = -cin[ends]
    b, _ = _resolve(net, matrices[::-1], far, by_head=False, ends=set(ends.tolist()))
    return Skeleton(a, b)


def skeleton_weights(net: TracedNetwork) -> list[Weight]:
    """The weights that skeleton edges are taken from: no biases, and none that is used twice."""
    return [weight for weight in net.weights if weight.kind != "bias" and not weight.shared]


def ground(net: TracedNetwork) -> Tensor:
    """``log |cin|`` or ``log |cout|`` before anything is chosen, float64 ``[H + 1]``: 0 on ground, −∞ elsewhere."""
    logs = torch.full((net.num_units + 1,), -torch.inf, dtype=torch.float64)
    logs[0] = 0.0
    return logs


def _resolve(
    net: TracedNetwork, weights: list[Weight], logs: Tensor, *, by_head: bool, ends: set[int] | None = None
) -> tuple[dict[int, Edge], Tensor]:
    """Takes the largest candidate of every scale at the first weight that offers one."""
    chosen: dict[int, Edge] = {}
    scale = net.scale_of.tolist()
    closed = {0} | (ends or set())
    for weight in weights:
        found = largest(weight, logs[net.scale_of], by_head=by_head)
        offers: dict[int, tuple[float, int]] = {}
        for unit, log, place in zip(*(part.tolist() for part in (found.units, found.logs, found.places)), strict=True):
            mine = scale[unit]
            if mine not in closed and log > offers.get(mine, (-np.inf, 0))[0]:
                offers[mine] = (log, place)
        for mine, (log, place) in offers.items():
            chosen[mine] = edge_at(weight, place)
            logs[mine] = log
        closed |= offers.keys()
    _refuse_unreached(net, closed, by_head=by_head)
    return chosen, logs


def _refuse_unreached(net: TracedNetwork, closed: set[int], *, by_head: bool) -> None:
    scales = net.scale_of.tolist()
    missing = [unit.name for unit in net.units if scales[unit.number] not in closed]
    if missing:
        raise ChartError(
            f"every path {'into' if by_head else 'out of'} {', '.join(missing[:5])} has the value 0",
            allowed="units that a weight other than 0 connects with the inputs and the outputs",
            fix="start from weights that are not 0, or remove or pin these units",
        )


def edge_at(weight: Weight, place: int) -> Edge:
    """The edge at a place of the flattened parameter."""
    index = tuple(int(i) for i in np.unravel_index(place, weight.shape))
    return Edge(weight.name, index, *weight.ends(index))


def largest(weight: Weight, far: Tensor, *, by_head: bool) -> Largest:
    """The largest ``log |w_e| + far[other end]`` at every unit a weight leads to (``by_head``) or leaves.

    Args:
        weight: the weight.
        far: float64 ``[num_nodes]``, what stands at an edge's other end.
        by_head: whether to collect by the units it leads to.
    """
    parts = list(_parts(weight, far, by_head=by_head))
    units, logs, places = (torch.cat([part[k] for part in parts]) for k in range(3))
    distinct, group = torch.unique(units, return_inverse=True)
    best = torch.full((len(distinct),), -torch.inf, dtype=torch.float64).scatter_reduce_(0, group, logs, "amax")
    wins = (logs == best[group]).nonzero().flatten().flip(0)  # of equal ones the first
    first = torch.zeros_like(distinct)
    first[group[wins]] = places[wins]
    return Largest(distinct, best, first)


def _parts(weight: Weight, far: Tensor, *, by_head: bool) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The same for some rows of the parameter at a time, in which a unit may still stand several times."""
    near, other = (
        _like(end, weight) for end in ((weight.head, weight.tail) if by_head else (weight.tail, weight.head))
    )
    rows = max(1, _CHUNK // max(1, weight.numel // weight.shape[0])) if weight.shape else 1
    value = weight.parameter.detach().reshape(weight.shape or (1,))
    row = value[0].numel()
    for first in range(0, len(value), rows):
        part = value[first : first + rows]
        logs = part.cpu().double().abs().log() + far[_rows(other, first, rows)]
        places = (first * row + torch.arange(part.numel())).reshape(part.shape)
        units = _rows(near, first, rows)
        spread = [axis for axis, size in enumerate(units.shape) if size == 1]
        kept = [axis for axis in range(part.ndim) if axis not in spread]
        lines, at = (t.permute(*kept, *spread).reshape(units.numel(), -1) for t in (logs, places))
        best, column = lines.max(1)
        yield units.reshape(-1), best, at.gather(1, column[:, None])[:, 0]


def _like(units: Tensor, weight: Weight) -> Tensor:
    ndim = max(1, len(weight.shape))
    return units.reshape((1,) * (ndim - units.ndim) + units.shape)


def _rows(units: Tensor, first: int, rows: int) -> Tensor:
    return units if len(units) == 1 else units[first : first + rows]
