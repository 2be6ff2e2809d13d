"""What every optimizer of a network checks before its first weight changes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from eclab.errors import ChartError, CheckpointError, EclabError, NonFiniteError, SettingError
from eclab.network.network import TracedNetwork, Weight
from eclab.paths.chart import Chart

METRICS = ("path", "balanced")

_RANGES = {
    "lr": ("a finite number > 0 (a schedule may end at 0)", math.inf),
    "momentum": ("a finite number of at least 0", math.inf),
    "weight_decay": ("a finite number of at least 0", math.inf),
    "guard": ("a number from 0 up to, not including, 1", 1.0),
    "rebase": ("a number from 0 up to, not including, 1; 0 for never", 1.0),
}


def check_numbers(group: dict[str, Any]) -> None:
    """Refuses numbers no step can be taken with; learning-rate schedules may have changed them since."""
    for name, (allowed, end) in _RANGES.items():
        if name not in group:
            continue
        try:
            value = math.nan if isinstance(group[name], str | bool) else float(group[name])
        except (TypeError, ValueError):
            value = math.nan
        if not 0 <= value < end:
            raise SettingError(f"{name} is {group[name]!r}", allowed=allowed, fix=f"give {name} such a number")
    if group.get("nesterov") and not group["momentum"]:
        raise SettingError("nesterov is on and momentum is 0", allowed="nesterov with momentum > 0")


def check_network(net: object, optimizer: str) -> None:
    """Refuses what is no traced network, and one whose class is a single point."""
    if not isinstance(net, TracedNetwork):
        raise SettingError(
            f"the first argument is {type(net).__name__}",
            allowed="a network from eclab.trace(model, x)",
            fix=f"call {optimizer}(eclab.trace(model, x), ...)",
        )
    if net.num_units == 0:
        raise ChartError(
            "the network has no unit that scales freely, so its class is a single point",
            allowed="a network with at least one free hidden unit",
            fix="use an optimizer of torch.optim, or look at net.units for why each one is pinned",
        )


def check_metric(metric: object) -> None:
    """Refuses a metric that is not known."""
    if metric not in METRICS:
        raise SettingError(f"the metric is {metric!r}", allowed=" or ".join(map(repr, METRICS)))


def check_mark(seen: object, mine: str, optimizer: str) -> None:
    """Refuses the state of an optimizer whose coordinates were others."""
    if seen != mine:
        raise CheckpointError(
            f"the optimizer state belongs to chart {seen}",
            allowed=f"chart {mine}, that of this network",
            fix=f"build {optimizer} with the network, the chart and the metric it was saved with",
        )


def chart_of(net: TracedNetwork, chart: Any) -> Chart:
    """The chart an optimizer was asked to use."""
    if isinstance(chart, Chart):
        if chart.net is not net:
            raise ChartError("the chart belongs to another network", fix="use net.chart() of this network")
        return chart
    return Chart(net, chart)


def groups(net: TracedNetwork, weights: Sequence[Weight]) -> list[dict[str, Any]]:
    """Parameter groups: the weights that have coordinates, then, if there are any, those outside every class."""
    inside = {weight.name for weight in weights}
    parameters = dict(net.model.named_parameters())
    found: list[dict[str, Any]] = [
        {"params": [(weight.name, parameters[weight.name]) for weight in weights], "space": "class"}
    ]
    outside = [(name, p) for name, p in parameters.items() if name not in inside]
    if outside:
        found.append({"params": outside, "space": "weights"})
    return found


def check_gradients(net: TracedNetwork, weights: Sequence[Weight], gradients: Sequence[Tensor | None]) -> None:
    """Refuses a step for which some weights have no gradient, or one that is not dense."""
    without = [w for w, gradient in zip(weights, gradients, strict=True) if gradient is None]
    missing = [w.name for w in without if w.parameter.requires_grad]
    if missing:
        raise ChartError(
            f"the gradient of {', '.join(missing)} is missing while others are there",
            allowed="gradients for all weights of the network, or for none",
            fix="check that the loss depends on the whole network and that backward() ran",
        )
    scale = net.scale_of
    frozen = [w.name for w in without if bool(scale[w.head].any() or scale[w.tail].any())]
    if frozen:
        raise ChartError(
            f"{', '.join(frozen)} was frozen (requires_grad is False) after the model was traced",
            allowed="weights that train as they did when the model was traced",
            fix="trace the model again and build a new optimizer",
        )
    sparse = [
        w.name for w, g in zip(weights, gradients, strict=True) if g is not None and g.layout is not torch.strided
    ]
    if sparse:
        raise ChartError(f"the gradient of {', '.join(sparse)} is sparse", allowed="dense gradients")


def check_finite(parameters: Iterable[Tensor], where: str) -> None:
    """Refuses a gradient that is NaN or infinite."""
    for p in parameters:
        if p.grad is not None and not bool(p.grad.isfinite().all()):
            raise NonFiniteError(
                f"the gradient of a parameter {where} holds {first_bad(p.grad)}; no weight was changed",
                fix="lower the learning rate, or look at the loss and the data of this step",
            )


def all_finite(tensors: Iterable[Tensor | None]) -> bool:
    """Whether no tensor holds NaN or infinity; one pass over each, without a temporary of its size."""
    ends = [torch.stack(torch.aminmax(tensor)) for tensor in tensors if tensor is not None and tensor.numel()]
    return all(bool(end.isfinite().all()) for end in ends)


def check_all_finite(weights: Sequence[Weight], tensors: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
    """Refuses a weight or gradient of the network that is NaN or infinite."""
    if not all_finite([*tensors, *gradients]):
        raise diagnosis(weights, tensors, gradients, None)


def refuse_overflow(values: Sequence[Tensor]) -> None:
    """Refuses new weights that are not finite."""
    if not all_finite(values):
        raise NonFiniteError("the step overflows; no weight was changed", fix="lower the learning rate")


def diagnosis(
    weights: Sequence[Weight], tensors: Sequence[Tensor], gradients: Sequence[Tensor | None], chart: Chart | None
) -> EclabError:
    """What was wrong with a step that was not taken."""
    for weight, tensor, gradient in zip(weights, tensors, gradients, strict=True):
        for what, value in (("gradient", gradient), ("weight", tensor)):
            if value is not None and not bool(value.isfinite().all()):
                return NonFiniteError(
                    f"the {what} of '{weight.name}' holds {first_bad(value)}; no weight was changed",
                    fix="lower the learning rate, or look at the loss and the data of this step",
                )
    for edge in () if chart is None else (*chart.tree, *chart.b_edges):
        if chart is not None and float(chart.net.weight(edge.parameter).parameter[edge.index]) == 0:
            return ChartError(
                f"the skeleton weight {edge} is 0, where the chart ends; no weight was changed",
                allowed="skeleton weights that are not 0",
                fix="start from eclab.start_skeleton_(net), or from weights without exact zeros on the skeleton",
            )
    return NonFiniteError(
        "the step overflows; no weight was changed",
        fix="lower the learning rate, or start from eclab.start_skeleton_(net)",
    )


def first_bad(value: Tensor) -> str:
    """The first entry that is NaN or infinite, as text."""
    return str(float(value[~value.isfinite()].reshape(-1)[0]))
