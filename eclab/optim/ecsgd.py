"""EC-SGD: gradient descent on the values of basis paths, as a ``torch.optim`` optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer
from torch.optim.sgd import sgd

from eclab.errors import ChartError, CheckpointError, EclabError, NonFiniteError, SettingError
from eclab.kernels import torch_step as kernel
from eclab.network.network import TracedNetwork
from eclab.paths.chart import Chart

_MOMENTUM = "momentum_buffer"


class ECSGD(Optimizer):
    r"""SGD on the class coordinates: the same step for every member of a class.

    .. math::
        v \leftarrow v - \eta\,\partial L/\partial v, \qquad
        w_e = v_e / (c^{in}(u)\, c^{out}(v)) \quad\text{(weight allocation)}

    Momentum, Nesterov and weight decay are those of ``torch.optim.SGD`` applied to ``v``; their state lives in class
    space and survives any rescaling of the weights. Parameters that are no edges between units (PReLU slopes,
    LayerNorm …) are in a second group and take the plain SGD step.

    Args:
        net: the network, from :func:`eclab.trace`. Construction changes no weight.
        lr: learning rate η > 0. In path coordinates; the paper's start (:func:`eclab.start_skeleton_`) makes the rates
            comparable with SGD's.
        momentum: factor μ ≥ 0 of the momentum buffer.
        weight_decay: L2 factor λ ≥ 0 on the coordinates.
        nesterov: whether to use Nesterov's momentum; needs ``momentum > 0``.
        chart: name of the skeleton or a :class:`~eclab.paths.chart.Chart` of this network.
        guard: ρ in [0, 1): a skeleton coordinate keeps its sign and at least this fraction of its value in one step.
        maximize: whether to ascend.

    Raises:
        SettingError: a number is out of range, at construction and for rates changed later at the next step.
        ChartError: the network has no free unit, or the chart belongs to another network.

    Example:
        >>> import torch, eclab
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
        >>> x = torch.ones(4, 2)
        >>> net = eclab.trace(model, x)
        >>> eclab.start_skeleton_(net)
        >>> optimizer = eclab.ECSGD(net, lr=0.1)
        >>> model(x).square().mean().backward()
        >>> optimizer.step()
        >>> optimizer.guarded_moves
        0

    Source: Meng et al. 2018 (arXiv:1802.03713), algorithm 1; G-SGD, ICLR 2019; biases, any widths and the guard:
    theory §2–4.
    """

    def __init__(
        self,
        net: TracedNetwork,
        lr: float = 0.1,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        chart: str | Chart = "diagonal",
        guard: float = 0.1,
        *,
        maximize: bool = False,
    ) -> None:
        if not isinstance(net, TracedNetwork):
            raise SettingError(
                f"the first argument is {type(net).__name__}",
                allowed="a network from eclab.trace(model, x)",
                fix="call ECSGD(eclab.trace(model, x), lr=...)",
            )
        self.net = net
        self.chart = _chart_of(net, chart)
        defaults: dict[str, Any] = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "guard": guard,
            "maximize": maximize,
        }
        _check(defaults)
        if float(lr) == 0:
            raise SettingError("lr is 0", allowed="a finite number > 0", fix="give lr such a number, 0.1 for one")
        super().__init__(self._groups(), defaults)
        self.param_groups[0] |= {"guarded_moves": 0, "chart": self.chart.fingerprint}

    def _groups(self) -> list[dict[str, Any]]:
        inside = {weight.name for weight in self.chart.weights}
        parameters = dict(self.net.model.named_parameters())
        groups: list[dict[str, Any]] = [
            {"params": [(weight.name, parameters[weight.name]) for weight in self.chart.weights], "space": "class"}
        ]
        outside = [(name, p) for name, p in parameters.items() if name not in inside]
        if outside:
            groups.append({"params": outside, "space": "weights"})
        return groups

    @property
    def guarded_moves(self) -> int:
        """How many skeleton moves the guard has held back since the start (theory §4)."""
        return int(self.param_groups[0]["guarded_moves"])

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds parameters from outside the network; they take the plain SGD step, with a rate of their own."""
        super().add_param_group({"space": "weights"} | param_group)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step.

        Args:
            closure: re-evaluates the model and returns the loss.

        Returns:
            The closure's loss.

        Raises:
            NonFiniteError: a gradient or the step is NaN or infinite; no weight was changed.
            ChartError: some gradients are missing, or a skeleton path has the value 0, so that the chart ends there.
                Where no parameter has a gradient nothing happens, as in ``torch.optim``.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            _check(group)
        outside = [p for group in self.param_groups[1:] for p in group["params"]]
        _refuse_non_finite(outside, "outside the class")
        self._class_step(self.param_groups[0])
        for group in self.param_groups[1:]:
            self._base_step(group)
        return loss

    def _class_step(self, group: dict[str, Any]) -> None:
        weights: list[Tensor] = group["params"]
        gradients = [weight.grad for weight in weights]
        if all(gradient is None for gradient in gradients):
            return
        self._refuse_missing(gradients)
        if group["maximize"]:
            gradients = [None if gradient is None else -gradient for gradient in gradients]
        settings = kernel.StepSettings(
            lr=float(group["lr"]),
            momentum=float(group["momentum"]),
            weight_decay=float(group["weight_decay"]),
            nesterov=bool(group["nesterov"]),
            guard=float(group["guard"]),
        )
        pairs = zip(weights, gradients, strict=True)
        buffers = [self._buffer(w) if settings.momentum and g is not None else None for w, g in pairs]
        plan = self.chart.plan_on(weights[0].device)
        prepared = kernel.prepare(plan, weights, gradients, buffers, settings)
        if not prepared.finite:
            raise self._diagnosis(weights, gradients)
        kernel.apply(plan, weights, gradients, buffers, settings, prepared)
        for weight, buffer in zip(weights, buffers, strict=True):
            if buffer is not None:
                self.state[weight][_MOMENTUM] = buffer
        group["guarded_moves"] += prepared.guarded

    def _base_step(self, group: dict[str, Any]) -> None:
        params = [p for p in group["params"] if p.grad is not None]
        buffers = [self.state[p].get(_MOMENTUM) if group["momentum"] else None for p in params]
        sgd(
            params,
            [p.grad for p in params],
            buffers,
            weight_decay=float(group["weight_decay"]),
            momentum=float(group["momentum"]),
            lr=float(group["lr"]),
            dampening=0.0,
            nesterov=bool(group["nesterov"]),
            maximize=bool(group["maximize"]),
        )
        for p, buffer in zip(params, buffers, strict=True):
            if buffer is not None:
                self.state[p][_MOMENTUM] = buffer

    def _buffer(self, weight: Tensor) -> Tensor:
        held = self.state[weight].get(_MOMENTUM) if weight in self.state else None
        return held if held is not None else torch.zeros_like(weight)

    def _refuse_missing(self, gradients: Sequence[Tensor | None]) -> None:
        without = [w for w, gradient in zip(self.chart.weights, gradients, strict=True) if gradient is None]
        missing = [w.name for w in without if w.parameter.requires_grad]
        if missing:
            raise ChartError(
                f"the gradient of {', '.join(missing)} is missing while others are there",
                allowed="gradients for all weights of the network, or for none",
                fix="check that the loss depends on the whole network and that backward() ran",
            )
        scale = self.net.scale_of
        frozen = [w.name for w in without if bool(scale[w.head].any() or scale[w.tail].any())]
        if frozen:
            raise ChartError(
                f"{', '.join(frozen)} was frozen (requires_grad is False) after the model was traced",
                allowed="weights that train as they did when the model was traced",
                fix="trace the model again and build a new optimizer",
            )

    def _diagnosis(self, weights: list[Tensor], gradients: list[Tensor | None]) -> EclabError:
        """What was wrong with a step that was not taken."""
        for weight, tensor, gradient in zip(self.chart.weights, weights, gradients, strict=True):
            for what, value in (("gradient", gradient), ("weight", tensor)):
                if value is not None and not bool(value.isfinite().all()):
                    return NonFiniteError(
                        f"the {what} of '{weight.name}' holds {_first_bad(value)}; no weight was changed",
                        fix="lower the learning rate, or look at the loss and the data of this step",
                    )
        for edge in (*self.chart.tree, *self.chart.b_edges):
            if float(self.net.weight(edge.parameter).parameter[edge.index]) == 0:
                return ChartError(
                    f"the skeleton weight {edge} is 0, where the chart ends; no weight was changed",
                    allowed="skeleton weights that are not 0",
                    fix="start from eclab.start_skeleton_(net), or from weights without exact zeros on the skeleton",
                )
        return NonFiniteError(
            "the step overflows; no weight was changed",
            fix="lower the learning rate, or start from eclab.start_skeleton_(net)",
        )

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"net": self.net, "chart": self.chart}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads what :meth:`state_dict` returned.

        Raises:
            CheckpointError: it was saved with another chart, so its momentum belongs to other coordinates.
        """
        seen = state_dict["param_groups"][0].get("chart") if state_dict.get("param_groups") else None
        if seen != self.chart.fingerprint:
            raise CheckpointError(
                f"the optimizer state belongs to chart {seen}",
                allowed=f"chart {self.chart.fingerprint}, that of this network",
                fix="build ECSGD with the network and the chart it was saved with",
            )
        super().load_state_dict(state_dict)


def _chart_of(net: TracedNetwork, chart: str | Chart) -> Chart:
    if net.num_units == 0:
        raise ChartError(
            "the network has no unit that scales freely, so its class is a single point",
            allowed="a network with at least one free hidden unit",
            fix="use torch.optim.SGD, or look at net.units for why each one is pinned",
        )
    if isinstance(chart, Chart):
        if chart.net is not net:
            raise ChartError("the chart belongs to another network", fix="use net.chart() of this network")
        return chart
    return Chart(net, chart)


def _check(group: dict[str, Any]) -> None:
    """Refuses numbers no step can be taken with; learning-rate schedules may have changed them since."""
    for name, allowed, end in (
        ("lr", "a finite number > 0 (a schedule may end at 0)", math.inf),
        ("momentum", "a finite number of at least 0", math.inf),
        ("weight_decay", "a finite number of at least 0", math.inf),
        ("guard", "a number from 0 up to, not including, 1", 1.0),
    ):
        try:
            value = float(group[name])
        except (TypeError, ValueError):
            value = math.nan
        if not 0 <= value < end:
            raise SettingError(f"{name} is {group[name]!r}", allowed=allowed, fix=f"give {name} such a number")
    if group["nesterov"] and not group["momentum"]:
        raise SettingError("nesterov is on and momentum is 0", allowed="nesterov with momentum > 0")


def _refuse_non_finite(parameters: Iterable[Tensor], where: str) -> None:
    for p in parameters:
        if p.grad is not None and not bool(p.grad.isfinite().all()):
            raise NonFiniteError(
                f"the gradient of a parameter {where} holds {_first_bad(p.grad)}; no weight was changed",
                fix="lower the learning rate, or look at the loss and the data of this step",
            )


def _first_bad(value: Tensor) -> str:
    return str(float(value[~value.isfinite()].reshape(-1)[0]))
