"""Where an optimizer steps: the coordinates of a chart, or the balanced member of the class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from eclab.classes.balance import Balancer
from eclab.errors import ChartError, NonFiniteError
from eclab.kernels import torch_core as core
from eclab.kernels import torch_maps as maps
from eclab.network.network import TracedNetwork, Weight
from eclab.optim.checks import diagnosis
from eclab.paths.chart import Chart

MaybeTensors = Sequence[Tensor | None]


@dataclass(eq=False)
class Entered:
    """A point of class space, as tensors shaped like the weights.

    Attributes:
        values: its coordinates, new tensors that a step may change.
        deltas: the gradient with respect to them; None for a frozen weight.
        chain: of the chart, at the weights it was entered from.
    """

    values: list[Tensor]
    deltas: list[Tensor | None]
    chain: core.Chains | None = None


class Space(Protocol):
    """A set of coordinates that are the same for every member of a class."""

    def enter(self, weights: Sequence[Tensor], gradients: MaybeTensors | None) -> Entered:
        """Coordinates and gradients of the present weights; changes nothing."""

    def leave(self, at: Entered) -> tuple[list[Tensor], int]:
        """New weights for the coordinates now in ``at.values``, and how many moves the guard held back."""


class PathSpace:
    """The coordinates ``v`` of a chart, guarded at its edge (theory §2–4).

    Args:
        chart: the chart.
        guard: ρ_min, the least fraction of its value that a skeleton coordinate keeps in one step.
    """

    def __init__(self, chart: Chart, guard: float) -> None:
        self.chart, self.guard = chart, guard

    def enter(self, weights: Sequence[Tensor], gradients: MaybeTensors | None) -> Entered:
        """``v`` and ``δ``; a :class:`NonFiniteError` or :class:`ChartError` where there are none."""
        plan = self.chart.plan_on(weights[0].device)
        chain = core.chains(plan, weights)
        given = gradients if gradients is not None else [None] * len(weights)
        if not _finite([chain.cin, 1 / chain.cin, chain.cout, 1 / chain.cout, *weights, *given]):
            raise diagnosis(self.chart.weights, weights, given, self.chart)
        at = Entered(maps.coordinates(plan, weights, chain), [*given], chain)
        self._refuse_out_of_range(at, weights)
        if gradients is not None:
            at.deltas = maps.class_gradients(plan, weights, gradients, chain)
        if not _finite([*at.values, *at.deltas]):
            raise diagnosis(self.chart.weights, weights, given, self.chart)
        return at

    def _refuse_out_of_range(self, at: Entered, weights: Sequence[Tensor]) -> None:
        """A skeleton coordinate that the weights' dtype holds as 0 has no step."""
        plan = self.chart.plan_on(weights[0].device)
        for edges, value in zip(plan.b_edges, self._on_b(at), strict=True):
            if bool(((value == 0) & ~edges.in_tree).any()):
                weight = self.chart.weights[edges.weight]
                raise ChartError(
                    f"path values through '{weight.name}' are smaller than {weights[0].dtype} holds",
                    allowed="skeleton paths with a value other than 0",
                    fix='start from eclab.start_skeleton_(net), use metric="balanced", or a model in float64',
                )

    def _on_b(self, at: Entered) -> list[Tensor]:
        return [core.values_at(at.values, edges) for edges in self.chart.plan_on(at.values[0].device).b_edges]

    def leave(self, at: Entered) -> tuple[list[Tensor], int]:
        """Guard and weight allocation (WA)."""
        plan, chain = self.chart.plan_on(at.values[0].device), at.chain
        assert chain is not None
        guarded = 0
        v_new = []
        pairs = zip(plan.b_edges, chain.b_coordinates(plan), self._on_b(at), strict=True)
        for edges, v, moved in pairs:
            held = (moved / v < self.guard) & ~edges.in_tree
            guarded += int(held.sum())
            v_new.append(torch.where(held, self.guard * v, moved))
        new = maps.allocated(plan, chain, at.values, v_new)
        _refuse_overflow(new)
        return new, guarded


class BalancedSpace:
    """The member of the class with the least ``Σ w²``: its weights are functions of the class, and so coordinates.

    A gradient step there is one of size relative to the path values: ``Δv_e`` goes with the square of
    ``cin(u) · cout(v)`` at the balanced member. It needs no chart and no guard. After a step the weights stay at that
    member, which is why the next one is near.

    Args:
        net: the network.
        weights: its weights, one entry a parameter.
    """

    def __init__(self, net: TracedNetwork, weights: tuple[Weight, ...]) -> None:
        self.net, self.weights = net, weights
        self._balancer = Balancer(net)
        scale = net.scale_of
        self._heads = [scale[weight.head] * (not weight.shared) for weight in weights]
        self._tails = [scale[weight.tail] * (not weight.shared) for weight in weights]

    def enter(self, weights: Sequence[Tensor], gradients: MaybeTensors | None) -> Entered:
        """The weights of the balanced member and the gradient there."""
        given = gradients if gradients is not None else [None] * len(weights)
        if not _finite([*weights, *given]):
            raise diagnosis(self.weights, weights, given, None)
        c = self._balancer.find().scales
        values: list[Tensor] = []
        deltas: list[Tensor | None] = []
        for weight, gradient, heads, tails in zip(weights, given, self._heads, self._tails, strict=True):
            factor = (c[heads] / c[tails]).to(weight.device)
            values.append((weight.double() * factor).to(weight.dtype))
            deltas.append(None if gradient is None else (gradient.double() / factor).to(gradient.dtype))
        return Entered(values, deltas)

    def leave(self, at: Entered) -> tuple[list[Tensor], int]:
        """The coordinates are weights already."""
        _refuse_overflow(at.values)
        return at.values, 0


def _finite(tensors: Sequence[Tensor | None]) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in tensors if tensor is not None)


def _refuse_overflow(new: Sequence[Tensor]) -> None:
    if not _finite(new):
        raise NonFiniteError(
            "the step overflows; no weight was changed",
            fix="lower the learning rate, or start from eclab.start_skeleton_(net)",
        )
