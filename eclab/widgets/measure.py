"""What the inspector shows of a lane at one moment: weights, coordinates, and the gradients of both, by unit."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from eclab.errors import EclabError
from eclab.paths.kappa import kappa
from eclab.paths.norms import path_norm

if TYPE_CHECKING:
    from eclab.facade import Network
    from eclab.paths.skeleton import Edge
    from eclab.widgets.bench import LaneView


@dataclass(frozen=True, eq=False)
class Measure:
    """A lane at one moment.

    Attributes:
        coordinates: v, by parameter.
        weight_gradients: ∂L/∂w, by parameter; empty where there is none.
        class_gradients: ∂L/∂v, by parameter; empty where there is none.
        into, out_of: squares by unit, float64 ``[num_nodes]``: "w" of the weights into and out of it, "g" of their
            gradients, "d" of their coordinates' gradients; the last two may be missing.
        why: why a number is missing, in words; empty where none is.
        net: the network it was measured on; :attr:`shares` reads its weights when it is first asked for.
    """

    net: Network
    coordinates: dict[str, Tensor]
    weight_gradients: dict[str, Tensor]
    class_gradients: dict[str, Tensor]
    into: dict[str, Tensor]
    out_of: dict[str, Tensor]
    why: str = ""

    @cached_property
    def shares(self) -> tuple[dict[str, Tensor], Tensor]:
        """How much of ``Σ v_p²`` over all paths runs through each weight, and into each unit; a class has one answer.

        Returns:
            By parameter ``κ_e w_e² / Σ_p v_p²``, and float64 ``[num_nodes]``; both empty where paths have no value.
        """
        try:
            total = math.exp(min(2 * path_norm(self.net, p=2), 700.0))
            sizes = kappa(self.net)
        except EclabError:
            return {}, torch.empty(0)
        weights = {weight.name: weight.parameter.detach().double() for weight in self.net.weights}
        found = {name: size * weights[name].square() / total for name, size in sizes.items()}
        into = torch.zeros(self.net.num_nodes, dtype=torch.float64)
        for weight in self.net.weights:
            into += weight.sum_into_heads(found[weight.name], self.net.num_nodes).cpu()
        return found, into

    def share(self, *, edge: Edge | None = None, unit: int | None = None) -> float | None:
        """The share of a weight or of a unit; None where it has none."""
        by_weight, into = self.shares
        if edge is not None:
            return float(by_weight[edge.parameter][edge.index]) if edge.parameter in by_weight else None
        return float(into[unit]) if unit is not None and len(into) else None

    def gauge(self, units: Tensor) -> float:
        """‖in‖² − ‖out‖² of some units together, which plain gradient flow conserves and EC flow does not."""
        return float((self.into["w"] - self.out_of["w"])[units].sum())

    def norms(self, units: Tensor) -> dict[str, float | None]:
        """‖incoming‖, ‖outgoing‖, ‖∂L/∂w‖ and ‖∂L/∂v‖ of some units together; None where there is no gradient."""

        def length(*parts: Tensor) -> float:
            return float(torch.stack([part[units].sum() for part in parts]).sum().sqrt())

        return {
            "in_norm": length(self.into["w"]),
            "out_norm": length(self.out_of["w"]),
            "grad_w": length(self.into["g"], self.out_of["g"]) if "g" in self.into else None,
            "grad_v": length(self.into["d"], self.out_of["d"]) if "d" in self.into else None,
        }


def measure(lane: LaneView, x: Tensor, y: Tensor | None) -> Measure:
    """Measures a lane on a few samples; its weights, gradients and mode stay as they are.

    Args:
        lane: the lane.
        x: samples ``[B, *input_shape]``.
        y: their classes, or None: then there are no gradients.
    """
    net = lane.net
    weights = {weight.name: weight.parameter.detach() for weight in net.weights}
    gradients: dict[str, Tensor] = {}
    deltas: dict[str, Tensor] = {}
    why = "no gradient without labels: eclab.Lab(model, x, y)"
    if y is not None:
        gradients = _gradients(net, x, y)
        deltas, why = _class_gradients(lane, gradients)
    found: Iterable[tuple[str, Mapping[str, Tensor]]] = (("w", weights), ("g", gradients), ("d", deltas))
    into: dict[str, Tensor] = {}
    out_of: dict[str, Tensor] = {}
    for key, tensors in found:
        if tensors:
            into[key], out_of[key] = squares_by_unit(net, tensors)
    if not why and not all(bool(sums.isfinite().all()) for sums in into.values()):
        why = "it is not finite: the weights of this lane have grown beyond all bounds"
    return Measure(net, lane.chart.coordinates(), gradients, deltas, into, out_of, why)


def _gradients(net: Network, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """∂L/∂w of the mean cross-entropy, dropout off."""
    names = {weight.name: weight.parameter for weight in net.weights if weight.parameter.requires_grad}
    training = net.model.training
    net.model.eval()
    try:
        with torch.enable_grad():
            loss = functional.cross_entropy(net.model(x), y)
            found = torch.autograd.grad(loss, list(names.values()), materialize_grads=True)
    finally:
        net.model.train(training)
    known = dict(zip(names, found, strict=True))
    return {weight.name: known.get(weight.name, torch.zeros_like(weight.parameter)) for weight in net.weights}


def _class_gradients(lane: LaneView, gradients: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    try:
        return lane.chart.gradients(gradients), ""
    except EclabError as problem:
        return {}, str(problem)


def squares_by_unit(net: Network, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Σ of squares over the weights into and out of every unit: float64 ``[num_nodes]`` each."""
    into = torch.zeros(net.num_nodes, dtype=torch.float64)
    out_of = torch.zeros(net.num_nodes, dtype=torch.float64)
    for weight in net.weights:
        squares = tensors[weight.name].double().square()
        into += weight.sum_into_heads(squares, net.num_nodes).cpu()
        out_of += weight.sum_into_tails(squares, net.num_nodes).cpu()
    return into, out_of
