"""Walking between two members of a class, and to the member that a chart names."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from eclab.classes.certificate import relation, shape_difference, tolerance_for
from eclab.classes.group import moved_by, numbered
from eclab.classes.moves import Move, gradient_norm, move, norm, parameters_once
from eclab.classes.moves import by_layer as scales_by_layer
from eclab.errors import ChartError, EclabError, ScaleError, SettingError
from eclab.kernels.torch_core import chains
from eclab.network.frozen import works_on_edges
from eclab.network.network import TracedNetwork
from eclab.paths.chart import Chart


class Walk:
    """The way from a network as it is to another member of its class, ``g_{c^t}(w)`` for ``0 ≤ t ≤ 1``.

    Each weight goes geometrically from one end to the other; both ends are reached bit for bit, and every point between
    is rounded once, however often one goes back and forth.

    Args:
        net: the network that walks; its weights now are the start. They are copied.
        other: the other end: a network of the same class (its weights are copied), or scales by layer name as
            :func:`eclab.apply_scales_` takes them.

    Attributes:
        scales: the ``c`` of the other end, float64 ``[width]`` by layer name.

    Raises:
        ScaleError: the networks are not of one class, or the scales are out of range.

    Example:
        >>> import torch, eclab
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1)).double()
        >>> x = torch.ones(1, 2, dtype=torch.float64)
        >>> net, before = eclab.trace(model, x), model(x).item()
        >>> walk = eclab.Walk(net, {"0": torch.tensor([1.0, 100.0, 1.0])})
        >>> _ = walk.to_(0.5)
        >>> abs(model(x).item() - before) < 1e-12
        True
        >>> walk.c(0.5)["0"].round(decimals=9).tolist()
        [1.0, 10.0, 1.0]

    Source: theory §1; row C3 of the method's table.
    """

    def __init__(self, net: TracedNetwork, other: TracedNetwork | Mapping[str, Tensor]) -> None:
        self.net, self.t = net, 0.0
        self._end: dict[str, Tensor] | None = None
        if isinstance(other, TracedNetwork):
            self._log_c = _between(net, other).log()
            pairs = zip(parameters_once(net), parameters_once(other), strict=True)
            self._end = {one.name: two.parameter.detach().to(one.parameter).clone() for one, two in pairs}
        else:
            self._log_c = numbered(net, other).log()
        self._start = _copies(net)

    @property
    def scales(self) -> dict[str, Tensor]:
        """The ``c`` of the other end by layer name."""
        return self.c(1.0)

    def c(self, t: float) -> dict[str, Tensor]:
        """``c^t`` by layer name, float64 ``[width]``."""
        return scales_by_layer(self.net, (t * self._log_c).exp())

    @torch.no_grad()
    def to_(self, t: float) -> Move:
        """Goes to ``g_{c^t}(w)``: 0 is the start, 1 the other end. Gradients there were at the start are taken along.

        Raises:
            SettingError: ``t`` is not between 0 and 1.
            ScaleError: weights would leave the range of their dtype. Nothing was changed.
        """
        if not 0 <= t <= 1:
            raise SettingError(f"t is {t!r}", allowed="a number from 0, the start, to 1, the other end")
        here, before = _copies(self.net), (norm(self.net), gradient_norm(self.net))
        _put(self.net, self._start)
        try:
            if t > 0:
                moved_by(self.net, (t * self._log_c).exp(), gradients=True)
        except EclabError:
            _put(self.net, here)
            raise
        if t == 1 and self._end is not None:
            for weight in parameters_once(self.net):
                weight.parameter.copy_(self._end[weight.name])
        self.t = float(t)
        after = norm(self.net), gradient_norm(self.net)
        gradients = None if before[1] is None or after[1] is None else (before[1], after[1])
        return Move(f"walked to t = {t:g}", self.c(t), (before[0], after[0]), gradients)


_Copies = dict[str, tuple[Tensor, Tensor | None]]


def _copies(net: TracedNetwork) -> _Copies:
    parameters = [(weight.name, weight.parameter) for weight in parameters_once(net)]
    return {name: (p.detach().clone(), None if p.grad is None else p.grad.clone()) for name, p in parameters}


def _put(net: TracedNetwork, copies: _Copies) -> None:
    for weight in parameters_once(net):
        value, gradient = copies[weight.name]
        weight.parameter.detach().copy_(value)
        if gradient is not None:
            if weight.parameter.grad is None:
                weight.parameter.grad = gradient.clone()
            else:
                weight.parameter.grad.copy_(gradient)


def _between(one: TracedNetwork, two: TracedNetwork) -> Tensor:
    """The scales by number that lead from one member to the other; a :class:`ScaleError` where nothing does."""
    differs = shape_difference(one, two)
    if not differs:
        c, deviation, where = relation(one, two)
        if deviation <= tolerance_for(None, one, two):
            by_scale = torch.ones(one.num_units + 1, dtype=torch.float64)
            by_scale[one.scale_of] = c
            return by_scale
        differs = f"the nearest rescaling leaves {where} off by {deviation:.1e}, relative to its unit's largest weight"
    raise ScaleError(
        f"the two networks are not of one class: {differs}",
        allowed="two networks that differ by positive rescalings of hidden units",
        fix="see eclab.same_class for what differs",
    )


def walk_(net: TracedNetwork, other: TracedNetwork | Mapping[str, Tensor], t: float = 1.0) -> Move:
    """Moves a network part of the way to another member of its class: ``g_{c^t}(w)``; the function stays.

    ``c_i^t`` is the geometric way: half-way a unit that is scaled by 100 in all is scaled by 10. Use
    :class:`eclab.Walk` to go back and forth.

    Args:
        net: the network; its model's weights, and gradients if there are any, are changed in place.
        other: a network of the same class, or scales by layer name.
        t: 0 leaves it where it is, 1 brings it to the other's weights bit for bit.

    Returns:
        The report.

    Raises:
        SettingError: ``t`` is not between 0 and 1.
        ScaleError: the networks are not of one class, or the scales are out of range. Nothing was changed.
    """
    return Walk(net, other).to_(t)


@torch.no_grad()
@works_on_edges
def canonicalize_(net: TracedNetwork, chart: Chart | None = None) -> Move:
    """Moves to the member of the class whose tree weights are 1 or −1; the function stays what it was.

    ``c_v = 1/|cin(v)|``: there is one such member for every chart and class. The skeleton's path values are what they
    were; :func:`eclab.start_skeleton_`, the paper's start, makes them 1 and changes the function.

    Args:
        net: the network; its model's weights, and gradients if there are any, are changed in place.
        chart: whose tree; the diagonal one without it.

    Returns:
        The report.

    Raises:
        ChartError: the chart belongs to another network, or a tree weight is 0, which no rescaling changes.
        ScaleError: weights would leave the range of their dtype. Nothing was changed.

    Example:
        >>> import torch, eclab
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
        >>> net = eclab.trace(model, torch.ones(1, 2))
        >>> report = eclab.canonicalize_(net)
        >>> [abs(float(net.weight(edge.parameter).parameter.detach()[edge.index])) for edge in net.chart().tree]
        [1.0, 1.0, 1.0]

    Source: theory §4, gauge; Meng et al. 2018 (arXiv:1802.03713), section 4.
    """
    if chart is not None and chart.net is not net:
        raise ChartError("the chart belongs to another network", fix="use net.chart() of this network")
    used = chart or Chart(net)
    weights = used.parameters()
    plan = used.plan_on(weights[0].device)
    for edge in used.tree:
        if edge.parameter and float(net.weight(edge.parameter).parameter[edge.index]) == 0:
            raise ChartError(f"the tree weight {edge} is 0, which no rescaling changes", fix="choose another chart")
    scales = 1 / chains(plan, weights).cin.abs()
    if not bool((scales.isfinite() & (scales > 0)).all()):
        raise ScaleError("the products along the tree leave the range of float64", fix="eclab.balance_(net) first")

    def to_signs() -> None:
        for edges in plan.tree:
            parameter = weights[edges.weight]
            parameter.index_put_(edges.index, parameter[edges.index].sign())

    return move(
        net,
        scales,
        "canonical",
        objective="largest ||tree weight| − 1|",
        measure=lambda: max(
            (float((weights[e.weight][e.index].abs() - 1).abs().max()) for e in plan.tree), default=0.0
        ),
        finish=to_signs,
    )
