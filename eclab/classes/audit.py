"""The dimension of a class space, counted and measured."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eclab.errors import EclabError, TraceError
from eclab.network.network import TracedNetwork
from eclab.network.run import active_units, run

_MOST_WEIGHTS = 2_000
_MOST_ENTRIES = 20_000_000


@dataclass(frozen=True)
class Audit:
    """What is known of a network's class space; prints as a table.

    Attributes:
        num_weights, num_units, class_dim: ``m``, ``H``, ``m − H``.
        ratio: ``H/m``, the share of weight space that rescaling makes redundant.
        path_rank: rank of the path matrix, which theory says is ``m − H``; None for networks too large to enumerate.
        functional_rank: rank of ∂outputs/∂weights over the samples; None without samples or for large networks.
        dead_units: names of free units that are off on every sample; None without samples.
        states: how many hidden and output units are free, tied and pinned.
        pinned: why units are pinned, with how many each.
    """

    num_weights: int
    num_units: int
    class_dim: int
    ratio: float
    path_rank: int | None
    functional_rank: int | None
    dead_units: tuple[str, ...] | None
    states: dict[str, int]
    pinned: dict[str, int]

    def rows(self) -> list[tuple[str, str, str]]:
        """The table: ``(quantity, value, what it is)``."""
        rows = [
            ("m", f"{self.num_weights:,}", "weights"),
            ("H", f"{self.num_units:,}", "units that scale freely"),
            ("m − H", f"{self.class_dim:,}", "dimension of the class space"),
            ("H/m", f"{self.ratio:.3%}", "share that rescaling makes redundant"),
        ]
        if self.path_rank is not None:
            rows.append(("path rank", f"{self.path_rank:,}", "rank of the path matrix, by enumeration"))
        if self.functional_rank is not None:
            rows.append(("functional rank", f"{self.functional_rank:,}", "rank of ∂outputs/∂weights on these samples"))
        if self.dead_units is not None:
            named = ": " + ", ".join(self.dead_units[:5]) + (" …" if len(self.dead_units) > 5 else "")
            words = "off on all of these samples" + (named if self.dead_units else "")
            rows.append(("dead units", f"{len(self.dead_units):,}", words))
        rows += [("pinned", f"{count:,}", reason) for reason, count in self.pinned.items()]
        return rows

    def text(self) -> str:
        """The table as text."""
        rows = self.rows()
        left, middle = (max(len(row[k]) for row in rows) for k in (0, 1))
        return "\n".join(f"{name:<{left}}  {value:>{middle}}  {words}" for name, value, words in rows)

    def html(self) -> str:
        """The table as HTML."""
        cell = '<td style="text-align:{}">{}</td>'
        body = "".join(
            f"<tr>{cell.format('left', html.escape(name))}{cell.format('right', value)}"
            f"{cell.format('left', html.escape(words))}</tr>"
            for name, value, words in self.rows()
        )
        return f'<table style="font-variant-numeric:tabular-nums">{body}</table>'

    def __str__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        return self.html()


def summary(net: TracedNetwork) -> Audit:
    """What is known without samples and without enumerating anything."""
    states: dict[str, int] = {"free": 0, "tied": 0, "pinned": 0}
    pinned: dict[str, int] = {}
    for unit in net.units:
        states[unit.state] += 1
        if unit.state == "pinned":
            pinned[unit.reason] = pinned.get(unit.reason, 0) + 1
    ratio = net.num_units / net.num_weights if net.num_weights else 0.0
    return Audit(net.num_weights, net.num_units, net.class_dim, ratio, None, None, None, states, pinned)


def audit(net: TracedNetwork, x: Any = None) -> Audit:
    """Counts and measures the class space of a network.

    Args:
        net: the network.
        x: samples as the model takes them, for the functional rank and dead units.

    Returns:
        ``m``, ``H``, ``m − H`` and ``H/m`` always; the path rank where the paths are few enough to enumerate
        (at most 2,000 weights and 20,000 paths); with ``x`` the dead units, and the functional rank where its matrix
        has at most 2·10⁷ entries. The functional rank is at most ``m − H``; dead units lower it.

    Raises:
        TraceError: ``x`` does not fit the model.

    Example:
        >>> import torch, eclab
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
        >>> table = eclab.trace(model, torch.ones(1, 2)).audit()
        >>> table.class_dim, table.path_rank
        (14, 14)

    Source: theory §1, dimension.
    """
    found = summary(net)
    dead = functional = None
    if x is not None:
        off = ~_on(net, x).any(0).cpu() & (net.scale_of > 0)
        dead = tuple(net.unit_name(int(unit)) for unit in off.nonzero().flatten())
        functional = _functional_rank(net, x)
    return Audit(
        found.num_weights,
        found.num_units,
        found.class_dim,
        found.ratio,
        _path_rank(net),
        functional,
        dead,
        found.states,
        found.pinned,
    )


def _on(net: TracedNetwork, x: Any) -> Tensor:
    try:
        return active_units(net, x)
    except RuntimeError as error:
        raise TraceError(
            f"the samples do not fit the model ({str(error).strip().splitlines()[0]})",
            allowed="samples as the model takes them",
            fix="pass x of the shape that the network was traced with",
        ) from error


def _path_rank(net: TracedNetwork) -> int | None:
    if net.num_weights > _MOST_WEIGHTS:
        return None
    try:
        from eclab.paths.enumerate import rank

        return rank(net)
    except EclabError:  # too many paths to enumerate, which is an answer here
        return None


def _functional_rank(net: TracedNetwork, x: Any) -> int | None:
    """Rank of the Jacobian of all outputs on all samples, by rows of reverse-mode differentiation in float64."""
    like = torch.zeros((), dtype=torch.float64, device=net.weights[0].parameter.device)
    names = list(dict.fromkeys(weight.name for weight in net.weights))
    weights = {name: net.weight(name).parameter.detach().to(like).requires_grad_() for name in names}
    outputs = torch.cat([value.reshape(-1) for value in run(net, x, weights, like=like)[-1]])
    if len(outputs) * net.num_weights > _MOST_ENTRIES:
        return None
    rows = [_flat_gradient(output, list(weights.values())) for output in outputs]
    return int(np.linalg.matrix_rank(torch.stack(rows).cpu().numpy()))


def _flat_gradient(output: Tensor, weights: list[Tensor]) -> Tensor:
    grads = torch.autograd.grad(output, weights, retain_graph=True, materialize_grads=True)
    return torch.cat([grad.reshape(-1) for grad in grads])
