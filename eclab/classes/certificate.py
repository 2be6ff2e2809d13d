"""Are two networks members of one class, and by which scales?"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from eclab.errors import SettingError
from eclab.network.frozen import on_edges
from eclab.network.network import TracedNetwork, Weight
from eclab.network.run import run
from eclab.network.trace import trace_network


@dataclass(frozen=True)
class Certificate:
    """The answer of :func:`same_class`; true where the networks are members of one class.

    Attributes:
        same: whether ``w_b = g_c(w_a)`` up to the tolerance.
        scales: the ``c`` of every free unit, float64 ``[width]`` by layer name; empty where shapes differ.
        max_deviation: the largest ``|w_b − g_c(w_a)|``, relative to the largest one into the same unit.
        where: the weight with that deviation, or what differs in words.
        output_deviation: largest difference of an output at ``x``, relative to the largest output; None where the
            networks differ in shape.
        tolerance: what ``max_deviation`` was compared with.
    """

    same: bool
    scales: dict[str, Tensor] = field(repr=False)
    max_deviation: float
    where: str
    output_deviation: float | None
    tolerance: float

    def __bool__(self) -> bool:
        return self.same


@torch.no_grad()
def same_class(
    a: nn.Module | TracedNetwork, b: nn.Module | TracedNetwork, x: Any, *, tolerance: float | None = None
) -> Certificate:
    """Whether two networks are one up to positive rescaling of hidden units, and by which scales.

    Looks for ``c`` with ``w_b = g_c(w_a)``: down the network every unit takes its ``c`` from the largest weight that
    leads to it, then *all* weights are compared. Units are not permuted: two networks that differ in the order of
    their units are different classes here.

    Args:
        a, b: modules, or networks from :func:`eclab.trace`.
        x: samples that both take; they are traced on it, and their outputs compared.
        tolerance: for the relative deviation; 1e-9 in float64 and 1e-4 in float32 without it.

    Returns:
        The certificate.

    Raises:
        TraceError: a model cannot be traced on ``x``.
        SettingError: the tolerance is not positive.

    Example:
        >>> import copy, torch, eclab
        >>> one = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1)).double()
        >>> two, x = copy.deepcopy(one), torch.ones(1, 2, dtype=torch.float64)
        >>> eclab.rescale_(eclab.trace(two, x), "0", 1, 10.0)
        >>> certificate = eclab.same_class(one, two, x)
        >>> bool(certificate), [round(c, 6) for c in certificate.scales["0"].tolist()]
        (True, [1.0, 10.0, 1.0])

    Source: theory §1, class; row M8 of the method's table.
    """
    one = a if isinstance(a, TracedNetwork) else trace_network(a, x)
    two = b if isinstance(b, TracedNetwork) else trace_network(b, x)
    limit = tolerance_for(tolerance, one, two)
    differs = shape_difference(one, two)
    if differs:
        return Certificate(False, {}, float("inf"), differs, None, limit)
    c, deviation, where = relation(one, two)
    scales = {layer.name: c[layer.units] for layer in one.hidden_layers()}
    return Certificate(deviation <= limit, scales, deviation, where, _output_deviation(one, two, x), limit)


def relation(one: TracedNetwork, two: TracedNetwork) -> tuple[Tensor, float, str]:
    """The ``c`` of every unit with ``two ≈ g_c(one)``, float64 ``[num_nodes]``, the largest deviation, and where."""
    with on_edges(one), on_edges(two):
        c = _find_scales(one, two)
        return c, *_largest_deviation(one, two, c)


def tolerance_for(given: float | None, one: TracedNetwork, two: TracedNetwork) -> float:
    if given is not None:
        if not given > 0:
            raise SettingError(f"the tolerance is {given!r}", allowed="a number > 0")
        return float(given)
    exact = all(w.parameter.dtype == torch.float64 for w in (*one.weights, *two.weights))
    return 1e-9 if exact else 1e-4


def shape_difference(one: TracedNetwork, two: TracedNetwork) -> str:
    """What differs between two networks before any weight is looked at; empty where nothing does."""
    shapes_one = [(w.kind, w.shape) for w in one.weights]
    shapes_two = [(w.kind, w.shape) for w in two.weights]
    if shapes_one != shapes_two:
        return f"the weights have shapes {[s for _, s in shapes_one]} and {[s for _, s in shapes_two]}"
    if not torch.equal(one.scale_of, two.scale_of):
        return "different units are pinned"
    calls_one = [(op.target, op.args) for op in one.operations if op.kind == "call"]
    calls_two = [(op.target, op.args) for op in two.operations if op.kind == "call"]
    if calls_one != calls_two:
        return "the models run different operations"
    for name_one, name_two in zip(one.outside, two.outside, strict=True):
        p, q = one.model.get_parameter(name_one), two.model.get_parameter(name_two)
        if p.shape != q.shape or not torch.allclose(p.double(), q.to(p.device).double(), rtol=1e-6, atol=0):
            return f"'{name_one}' differs, which no rescaling changes"
    return ""


def _values(weight: Weight) -> Tensor:
    return weight.parameter.detach().to("cpu", torch.float64)


def _find_scales(one: TracedNetwork, two: TracedNetwork) -> Tensor:
    """``c`` per unit: from the largest weight into its scale, else (all 0) the largest one out of it, else 1."""
    pairs = [(w, _values(w), _values(v)) for w, v in zip(one.weights, two.weights, strict=True)]
    c = torch.ones(one.num_units + 1, dtype=torch.float64)
    found = torch.arange(one.num_units + 1) == 0
    for weight, p, q in pairs:
        head, tail = one.scale_of[weight.head], one.scale_of[weight.tail]
        usable = found[tail] & (p != 0) & (q != 0) & (q.sign() == p.sign())
        size = torch.where(usable, (p / c[tail]).abs(), -1.0)
        _take_largest(c, found, head.expand(p.shape), q / p * c[tail], size)
    for weight, p, q in reversed(pairs):
        head, tail = one.scale_of[weight.head], one.scale_of[weight.tail]
        usable = found[head] & (p != 0) & (q != 0) & (q.sign() == p.sign())
        size = torch.where(usable, (p * c[head]).abs(), -1.0)
        _take_largest(c, found, tail.expand(p.shape), p / q * c[head], size)
    return c[one.scale_of]


def _take_largest(c: Tensor, found: Tensor, scales: Tensor, ratio: Tensor, size: Tensor) -> None:
    """Sets ``c`` of scales not found yet to the ratio at their largest usable weight."""
    scales, ratio, size = scales.reshape(-1), ratio.reshape(-1), size.reshape(-1)
    best = torch.full_like(c, -1.0).scatter_reduce_(0, scales, size, "amax")
    here = (size == best[scales]) & (size >= 0) & ~found[scales]
    c[scales[here]] = ratio[here]
    found[scales[here]] = True


def _largest_deviation(one: TracedNetwork, two: TracedNetwork, c: Tensor) -> tuple[float, str]:
    into = torch.zeros(one.num_nodes, dtype=torch.float64)
    gaps = []
    for w, v in zip(one.weights, two.weights, strict=True):
        p, q = _values(w), _values(v)
        moved = p * c[w.head] / c[w.tail]
        into.scatter_reduce_(
            0, w.head.expand(p.shape).reshape(-1), torch.maximum(moved.abs(), q.abs()).reshape(-1), "amax"
        )
        gaps.append((w, (moved - q).abs()))
    worst, where = 0.0, ""
    for w, gap in gaps:
        size = into[w.head]
        relative = torch.where(gap == 0, 0.0, gap / size).nan_to_num(nan=float("inf"))
        largest = float(relative.max())
        if largest > worst or not where:
            place = [int(i) for i in (relative == relative.max()).nonzero()[0]]
            worst, where = largest, f"{w.name}{place}"
    return worst, where


def _output_deviation(one: TracedNetwork, two: TracedNetwork, x: Any) -> float:
    like = torch.zeros((), dtype=torch.float64, device=one.weights[0].parameter.device)
    outputs = [run(net, x, like=like)[-1] for net in (one, two)]
    gap = max(float((p - q).abs().max()) for p, q in zip(*outputs, strict=True))
    size = max(float(value.abs().max()) for pair in outputs for value in pair)
    return gap / size if size else gap
