"""What is measured: the outputs and the loss of a network at any weights, and the variables they are a function of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as nnf

from eclab.errors import ChartError, DataError, NonFiniteError, SettingError
from eclab.network.network import TracedNetwork
from eclab.network.run import run
from eclab.paths import functional
from eclab.paths.chart import Chart
from eclab.paths.skeleton import Edge

Loss = str | Callable[[Any, Any], Tensor] | None
"""``"cross_entropy"``, ``"mse"``, a function of ``(outputs, y)``; None: the first for classes, the second else."""

LOSSES: dict[str, Callable[[Any, Any], Tensor]] = {"cross_entropy": nnf.cross_entropy, "mse": nnf.mse_loss}
"""Losses that have a name: the means of ``torch.nn.functional``."""

SPACES = ("class", "weights")


class Objective:
    """A network's outputs and loss on given samples, in float64, as functions of the weights.

    Dropout counts as identity, and batch-norm reads its statistics without writing them.

    Args:
        net: the traced network; it is only read.
        x: samples as the model takes them.
        y: targets for the loss; None where only outputs are asked for.
        loss: see :data:`Loss`.

    Raises:
        SettingError: the loss is unknown, or ``net`` is no traced network.
        DataError: the samples do not fit the model, or the targets do not fit the loss.
    """

    def __init__(self, net: TracedNetwork, x: Any, y: Any = None, loss: Loss = None) -> None:
        if not isinstance(net, TracedNetwork):
            raise SettingError(
                f"the first argument is {type(net).__name__}", allowed="what eclab.trace(model, x) returns"
            )
        self.net, self.x = net, x
        self.like = torch.zeros((), dtype=torch.float64, device=net.weights[0].parameter.device)
        self.y = _moved(y, self.like)
        self.loss = _loss_function(loss, self.y)
        with torch.no_grad():
            try:
                outputs = self.outputs({})
            except RuntimeError as error:
                shapes = ", ".join(str(tuple(op.shape)) for op in net.operations if op.kind == "input")
                raise DataError(
                    f"the samples do not fit the model: {str(error).splitlines()[0]}",
                    allowed=f"samples like those it was traced with, {shapes}, in any number",
                    fix="run model(x) first",
                ) from None
        _check_targets(loss, self.loss, outputs, self.y)

    def outputs(self, weights: Mapping[str, Tensor]) -> Any:
        """The model's outputs: a tensor, or a tuple of them where it has several."""
        found = run(self.net, self.x, weights, like=self.like)[-1]
        return found[0] if len(found) == 1 else found

    def flat_outputs(self, weights: Mapping[str, Tensor]) -> Tensor:
        """All outputs on all samples in one row."""
        found = self.outputs(weights)
        return torch.cat([value.reshape(-1) for value in (found if isinstance(found, tuple) else (found,))])

    def __call__(self, weights: Mapping[str, Tensor]) -> Tensor:
        """The loss, a float64 scalar; a :class:`SettingError` where the loss function returns none."""
        value: Any = self.loss(self.outputs(weights), self.y)
        if not isinstance(value, Tensor) or value.ndim:
            seen = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise SettingError(f"the loss returns {seen}", allowed="one number, as a tensor without axes")
        return value.double()


def _moved(y: Any, like: Tensor) -> Any:
    if not isinstance(y, Tensor):
        return y
    return y.to(like) if y.is_floating_point() else y.to(like.device)


def _loss_function(loss: Loss, y: Any) -> Callable[[Any, Any], Tensor]:
    if loss is None:
        whole = isinstance(y, Tensor) and not y.is_floating_point()
        return LOSSES["cross_entropy" if whole else "mse"]
    if isinstance(loss, str):
        if loss not in LOSSES:
            raise SettingError(
                f"there is no loss {loss!r}", allowed=f"{', '.join(map(repr, LOSSES))}, or a function of (outputs, y)"
            )
        return LOSSES[loss]
    return loss


def _check_targets(given: Loss, loss: Callable[[Any, Any], Tensor], outputs: Any, y: Any) -> None:
    """A :class:`DataError` where a loss that has a name would fail on these targets, or broadcast them."""
    if callable(given):
        return
    seen = ""
    if isinstance(outputs, tuple):
        seen = f"the model has {len(outputs)} outputs"
    elif not isinstance(y, Tensor):
        seen = f"the targets are {type(y).__name__}"
    elif loss is LOSSES["mse"] and y.shape != outputs.shape:
        seen = f"the targets have shape {tuple(y.shape)} and the outputs {tuple(outputs.shape)}"
    elif loss is LOSSES["cross_entropy"]:
        seen = _misfit(outputs, y)
    if seen:
        raise DataError(
            seen,
            allowed='one output, and targets of its shape for "mse", classes or probabilities for "cross_entropy"',
            fix="give such targets, or a loss function of (outputs, y)",
        )


def _misfit(outputs: Tensor, y: Tensor) -> str:
    """What is wrong with targets for the cross-entropy, or nothing."""
    if y.is_floating_point():
        right = y.shape == outputs.shape
    else:
        right = outputs.ndim > 1 and y.shape == (outputs.shape[0], *outputs.shape[2:])
    if not right:
        return f"the targets have shape {tuple(y.shape)} and the outputs {tuple(outputs.shape)}"
    if not y.is_floating_point() and y.numel() and not 0 <= int(y.min()) <= int(y.max()) < outputs.shape[1]:
        return f"the classes go from {int(y.min())} to {int(y.max())} and there are {outputs.shape[1]} outputs"
    return ""


@dataclass(frozen=True, eq=False)
class Space:
    """The variables of a measure as one vector: all trainable weights, or the coordinates of the class.

    Attributes:
        name: ``"weights"`` or ``"class"``.
        chart: the chart whose coordinates they are; in weight space it only says which parameters count.
        origin: float64 by parameter name: the weights, or the coordinates with the tree's weights at tree entries.
        free: int64 ``[d]``, which of all entries, parameter by parameter, are variables: ``d = m`` or ``m − H``, less
            the frozen ones.
        skeleton: int64, which of the variables are coordinates of skeleton paths; empty in weight space.
    """

    name: str
    chart: Chart
    origin: dict[str, Tensor] = field(repr=False)
    free: Tensor = field(repr=False)
    skeleton: Tensor = field(repr=False)

    @cached_property
    def point(self) -> Tensor:
        """The variables at the network's own weights, float64 ``[d]``."""
        return self._entries[self.free]

    def weights(self, z: Tensor) -> dict[str, Tensor]:
        """The weights that the variables ``z`` (float64 ``[d]``) stand for; torch differentiates through it."""
        named = self.named(self._entries.index_put((self.free,), z))
        return functional.allocate(self.chart, named) if self.name == "class" else named

    def named(self, entries: Tensor) -> dict[str, Tensor]:
        """A vector of all entries, parameter by parameter, as tensors by name."""
        sizes = [value.numel() for value in self.origin.values()]
        parts = zip(self.origin.items(), torch.split(entries, sizes), strict=True)
        return {name: part.reshape(value.shape) for (name, value), part in parts}

    @cached_property
    def _entries(self) -> Tensor:
        return torch.cat([value.reshape(-1) for value in self.origin.values()])

    def crossed(self, z: Tensor) -> Tensor:
        """bool ``[…, skeleton]``, which skeleton coordinates of ``z`` ``[…, d]`` are 0 or changed their sign.

        There the chart has ended.
        """
        return ~(z[..., self.skeleton] * self.point[self.skeleton] > 0)

    def variable(self, parameter: str, index: tuple[int, ...]) -> int:
        """Which variable this weight is.

        Raises:
            ChartError: it is none: the index lies outside, the weight is frozen, or a tree edge in class space.
        """
        weight = self.chart.net.weight(parameter)
        if len(index) != len(weight.shape) or any(not 0 <= i < n for i, n in zip(index, weight.shape, strict=True)):
            raise ChartError(f"{parameter}{list(index)} is outside its shape {weight.shape}", allowed="an index in it")
        place = 0
        for i, n in zip(index, weight.shape, strict=True):
            place = place * n + i
        for name, value in self.origin.items():
            if name == parameter:
                break
            place += value.numel()
        found = (self.free == place).nonzero()
        if not len(found):
            raise ChartError(
                f"{parameter}{list(index)} is no variable of the {self.name} space: it is "
                + ("a tree edge or frozen" if self.name == "class" else "frozen"),
                allowed="a weight that trains" + (" and is not in chart.tree" if self.name == "class" else ""),
            )
        return int(found[0, 0])

    def name_of(self, variable: int) -> str:
        """The weight a variable belongs to, ``"0.weight[1,0]"``."""
        return self.entry_name(int(self.free[variable]))

    def entry_name(self, place: int) -> str:
        """The weight at this place among all entries, ``"0.weight[1,0]"``."""
        for name, value in self.origin.items():
            if place < value.numel():
                index = torch.unravel_index(torch.tensor(place), value.shape)
                return f"{name}[{','.join(str(int(i)) for i in index)}]"
            place -= value.numel()
        raise IndexError(place)


def chart_of(net: TracedNetwork, chart: Any) -> Chart:
    """The chart given, or the one of that name; a :class:`ChartError` where it belongs to another network."""
    if not isinstance(chart, Chart):
        return Chart(net, chart)
    if chart.net is not net:
        raise ChartError("the chart belongs to another network", fix="use net.chart() of this network")
    return chart


def space_of(chart: Chart, name: str) -> Space:
    """The variables of the class space or of the weight space at the network's own weights.

    Raises:
        SettingError: the space is unknown.
        ChartError: a skeleton weight is 0, so that the point lies outside the chart.
        NonFiniteError: a weight is NaN or infinite.
    """
    if name not in SPACES:
        raise SettingError(f"there is no space {name!r}", allowed=" or ".join(map(repr, SPACES)))
    weights = {weight.name: weight.parameter.detach().double() for weight in chart.weights}
    for key, value in weights.items():
        if not bool(value.isfinite().all()):
            raise NonFiniteError(f"'{key}' holds {float(value[~value.isfinite()][0])}", allowed="finite weights")
    trains = torch.cat([_full(value, weight.parameter.requires_grad) for value, weight in _pairs(weights, chart)])
    if name == "weights":
        none = torch.empty(0, dtype=torch.int64, device=trains.device)
        return Space(name, chart, weights, trains.nonzero().flatten(), none)
    refuse_zero_skeleton(chart, weights)
    origin = functional.coordinates(chart, weights)
    tree, skeleton = (marked(chart, edges) for edges in (chart.tree, chart.b_edges))
    free = (trains & ~tree).nonzero().flatten()
    return Space(name, chart, origin, free, (skeleton & ~tree)[free].nonzero().flatten())


def _pairs(weights: Mapping[str, Tensor], chart: Chart) -> Any:
    return zip(weights.values(), chart.weights, strict=True)


def _full(value: Tensor, flag: bool) -> Tensor:
    return torch.full((value.numel(),), flag, dtype=torch.bool, device=value.device)


def marked(chart: Chart, edges: Iterable[Edge]) -> Tensor:
    """bool over all entries, parameter by parameter: where these edges are."""
    marks = {w.name: torch.zeros(w.shape, dtype=torch.bool, device=w.parameter.device) for w in chart.weights}
    for edge in edges:
        if edge.parameter:
            marks[edge.parameter][edge.index] = True
    return torch.cat([mark.reshape(-1) for mark in marks.values()])


def refuse_zero_skeleton(chart: Chart, weights: Mapping[str, Tensor]) -> None:
    """A :class:`ChartError` that names the first skeleton weight which is 0: there the chart has no coordinates."""
    for edge in (*chart.tree, *chart.b_edges):
        if edge.parameter and float(weights[edge.parameter][edge.index]) == 0:
            raise ChartError(
                f"the skeleton weight {edge} is 0, where the chart ends",
                allowed="skeleton weights that are not 0",
                fix="take another chart, or look at space='weights'",
            )
