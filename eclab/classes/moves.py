"""Moving a network along its class, with a report of what that changed."""

from __future__ import annotations

import html
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from eclab.classes.group import moved_by
from eclab.network.frozen import works_on_edges
from eclab.network.network import TracedNetwork, Weight


@dataclass(frozen=True)
class Move:
    """What an orbit move did; prints as a table.

    Attributes:
        name: what kind of move it was.
        scales: the ``c`` used, float64 ``[width]`` by layer name, for :func:`eclab.apply_scales_` on a copy.
        norm: ``‖w‖`` of all weights between units, before and after.
        grad_norm: ``‖∂L/∂w‖`` of the same weights, before and after; None where gradients are missing.
        objective: in words, what the move makes small or large; empty where nothing.
        value: the objective before and after.
        passes: how often the weights were read to find the scales.
    """

    name: str
    scales: dict[str, Tensor] = field(repr=False)
    norm: tuple[float, float]
    grad_norm: tuple[float, float] | None
    objective: str = ""
    value: tuple[float, float] | None = None
    passes: int = 0

    def rows(self) -> list[tuple[str, str, str]]:
        """The table: ``(quantity, before, after)``."""
        rows = [("‖w‖", *_pair(self.norm))]
        if self.grad_norm is not None:
            rows.append(("‖∂L/∂w‖", *_pair(self.grad_norm)))
        if self.value is not None:
            rows.append((self.objective, *_pair(self.value)))
        for name, c in self.scales.items():
            rows.append((f"c of layer {name}", "1", f"{float(c.min()):.3g} … {float(c.max()):.3g}"))
        return rows

    def __str__(self) -> str:
        rows = [(self.name, "before", "after"), *self.rows()]
        left, middle = (max(len(row[k]) for row in rows) for k in (0, 1))
        return "\n".join(f"{name:<{left}}  {before:>{middle}}  {after}" for name, before, after in rows)

    def _repr_html_(self) -> str:
        cell = '<td style="text-align:{}">{}</td>'
        body = "".join(
            f"<tr>{cell.format('left', html.escape(name))}{cell.format('right', before)}"
            f"{cell.format('right', after)}</tr>"
            for name, before, after in self.rows()
        )
        head = f"<tr><th>{html.escape(self.name)}</th><th>before</th><th>after</th></tr>"
        return f'<table style="font-variant-numeric:tabular-nums">{head}{body}</table>'


def _pair(values: tuple[float, float]) -> tuple[str, str]:
    return f"{values[0]:.6g}", f"{values[1]:.6g}"


@torch.no_grad()
def move(
    net: TracedNetwork,
    c: Tensor,
    name: str,
    *,
    objective: str = "",
    measure: Callable[[], float] | None = None,
    passes: int = 0,
    finish: Callable[[], None] | None = None,
) -> Move:
    """Rescales by ``c``, gradients along with the weights, and reports.

    Args:
        net: the network; its weights, and their ``.grad`` where there is one, are changed in place.
        c: by number of the free scale, float64 ``[H + 1]``.
        name, objective, passes: for the report.
        measure: gives the objective's value; called before and after.
        finish: called on the rescaled network, before the after-values are taken.

    Raises:
        ScaleError: weights or gradients would leave their dtype's range. Nothing was changed.
    """
    before = norm(net), gradient_norm(net), measure() if measure else None
    moved_by(net, c, gradients=True)
    if finish is not None:
        finish()
    after = norm(net), gradient_norm(net), measure() if measure else None
    return Move(
        name,
        by_layer(net, c),
        (before[0], after[0]),
        None if before[1] is None or after[1] is None else (before[1], after[1]),
        objective,
        None if before[2] is None or after[2] is None else (before[2], after[2]),
        passes,
    )


def by_layer(net: TracedNetwork, c: Tensor) -> dict[str, Tensor]:
    """Scales by number of the free scale as scales by layer name."""
    c = c.to("cpu", torch.float64)
    return {layer.name: c[net.scale_of[layer.units]] for layer in net.hidden_layers()}


def parameters_once(net: TracedNetwork) -> list[Weight]:
    """The weights between units, each parameter once."""
    return list({weight.name: weight for weight in net.weights}.values())


@works_on_edges
def norm(net: TracedNetwork) -> float:
    """``‖w‖`` of all weights between units, in float64."""
    return math.sqrt(sum(float(weight.parameter.detach().double().square().sum()) for weight in parameters_once(net)))


@works_on_edges
def gradient_norm(net: TracedNetwork) -> float | None:
    """``‖∂L/∂w‖`` of all weights between units, in float64; None where one that trains has none."""
    total = 0.0
    for weight in parameters_once(net):
        if weight.parameter.grad is not None:
            total += float(weight.parameter.grad.double().square().sum())
        elif weight.parameter.requires_grad:
            return None
    return math.sqrt(total)
