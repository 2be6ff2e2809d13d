"""EC-SGD: gradient descent on the values of basis paths, as a ``torch.optim`` optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer
from torch.optim.sgd import sgd

from eclab import kernels
from eclab.errors import SettingError
from eclab.kernels import torch_core as core
from eclab.kernels import torch_maps as maps
from eclab.kernels.settings import StepSettings
from eclab.network.frozen import on_edges
from eclab.network.network import TracedNetwork
from eclab.optim import checks
from eclab.optim.space import BalancedSpace
from eclab.paths.by_hand import Choice
from eclab.paths.chart import Chart
from eclab.paths.rebase import changed, changes, rebased

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
        chart: name of the skeleton, edges by hand, or a :class:`~eclab.paths.chart.Chart` of this network.
        guard: ρ in [0, 1): a skeleton coordinate keeps its sign and at least this fraction of its value in one step.
        metric: ``"path"``, steps in the coordinates ``v``; or ``"balanced"``, the plain step at the balanced member of
            the class (:class:`~eclab.optim.space.BalancedSpace`), which is relative to the size of ``v``: it needs no
            chart, and a normally initialised network trains from where it is.
        rebase: in [0, 1): where the guard has held a move, skeleton edges below this fraction of their largest sibling
            are replaced (:func:`~eclab.paths.rebase.rebased`); momentum moves over to the new coordinates. 0 for never.
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
        chart: str | Choice | Chart = "diagonal",
        guard: float = 0.1,
        *,
        metric: str = "path",
        rebase: float = 0.0,
        maximize: bool = False,
    ) -> None:
        checks.check_network(net, "ECSGD")
        checks.check_metric(metric)
        self.net, self.metric = net, metric
        self.chart = self._first_chart = checks.chart_of(net, chart)
        defaults: dict[str, Any] = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "guard": guard,
            "rebase": rebase,
            "maximize": maximize,
        }
        checks.check_numbers(defaults)
        if float(lr) == 0:
            raise SettingError("lr is 0", allowed="a finite number > 0", fix="give lr such a number, 0.1 for one")
        super().__init__(checks.groups(net, self.chart.weights), defaults)
        self.param_groups[0] |= {"guarded_moves": 0, "rebased": [], "rebased_units": 0, "chart": self._mark}

    @property
    def _mark(self) -> str:
        return self._first_chart.fingerprint if self.metric == "path" else self.metric

    @property
    def guarded_moves(self) -> int:
        """How many skeleton moves the guard has held back since the start (theory §4)."""
        return int(self.param_groups[0]["guarded_moves"])

    @property
    def rebased_units(self) -> int:
        """How many skeleton edges were replaced by a stronger sibling since the start (theory §4)."""
        return int(self.param_groups[0]["rebased_units"])

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
            NonFiniteError: a gradient, a weight or what the step does to the skeleton is NaN or infinite; no weight was
                changed. A finite step that takes a weight off the skeleton out of its dtype's range leaves it infinite,
                as in ``torch.optim``, and is refused at the next one.
            ChartError: some gradients are missing, or a skeleton path has the value 0, so that the chart ends there.
                Where no parameter has a gradient nothing happens, as in ``torch.optim``.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            checks.check_numbers(group)
        checks.check_finite([p for group in self.param_groups[1:] for p in group["params"]], "outside the class")
        group = self.param_groups[0]
        with on_edges(self.net):
            gradients = [weight.grad for weight in group["params"]]
            if any(gradient is not None for gradient in gradients):
                checks.check_gradients(self.net, self.chart.weights, gradients)
                (self._class_step if self.metric == "path" else self._balanced_step)(group, gradients)
        for group in self.param_groups[1:]:
            self._base_step(group, group["params"], [p.grad for p in group["params"]])
        return loss

    def _class_step(self, group: dict[str, Any], gradients: list[Tensor | None]) -> None:
        weights: list[Tensor] = group["params"]
        settings = StepSettings(
            lr=float(group["lr"]),
            momentum=float(group["momentum"]),
            weight_decay=float(group["weight_decay"]),
            nesterov=bool(group["nesterov"]),
            guard=float(group["guard"]),
            maximize=bool(group["maximize"]),
        )
        pairs = zip(weights, gradients, strict=True)
        buffers = [self._buffer(w) if settings.momentum and g is not None else None for w, g in pairs]
        plan = self.chart.plan_on(weights[0].device)
        outcome = kernels.step(plan, weights, gradients, buffers, settings)
        if not outcome.finite:
            raise checks.diagnosis(self.chart.weights, weights, gradients, self.chart)
        self._keep(weights, buffers)
        group["guarded_moves"] += outcome.guarded
        if outcome.guarded and group["rebase"]:
            self._rebase(group)

    def _rebase(self, group: dict[str, Any]) -> None:
        """Another skeleton where this one has become weak. Momentum is a gradient and goes over like one."""
        chart = rebased(self.chart, float(group["rebase"]))
        if chart is None:
            return
        weights: list[Tensor] = group["params"]
        buffers = [self.state[w].get(_MOMENTUM) if w in self.state else None for w in weights]
        if any(buffer is not None for buffer in buffers):
            plans = [each.plan_on(weights[0].device) for each in (self.chart, chart)]
            old, new = (core.chains(plan, weights) for plan in plans)
            covector = maps.weight_gradients(plans[0], weights, buffers, old)
            self._keep(weights, maps.class_gradients(plans[1], weights, covector, new))
        group["rebased_units"] += len(changes(self.chart, chart))
        group["rebased"] = changes(self._first_chart, chart)
        self.chart = chart

    def _balanced_step(self, group: dict[str, Any], gradients: list[Tensor | None]) -> None:
        weights: list[Tensor] = group["params"]
        space = BalancedSpace(self.net, self.chart.weights)
        at = space.enter(weights, gradients)
        old = [self.state[w].get(_MOMENTUM) if w in self.state else None for w in weights]
        buffers = self._sgd(group, at.values, at.deltas, [None if b is None else b.clone() for b in old])
        for weight, value in zip(weights, space.leave(at)[0], strict=True):
            weight.copy_(value)
        self._keep(weights, buffers)

    def _base_step(self, group: dict[str, Any], params: list[Tensor], gradients: list[Tensor | None]) -> None:
        old = [self.state[p].get(_MOMENTUM) if p in self.state else None for p in params]
        self._keep(params, self._sgd(group, params, gradients, old))

    @staticmethod
    def _sgd(
        group: dict[str, Any], values: list[Tensor], gradients: list[Tensor | None], buffers: list[Tensor | None]
    ) -> list[Tensor | None]:
        """The step of ``torch.optim.SGD`` on ``values``, in place; the new momentum buffers."""
        used = [k for k, gradient in enumerate(gradients) if gradient is not None]
        found = [buffers[k] for k in used]
        sgd(
            [values[k] for k in used],
            [gradient for gradient in gradients if gradient is not None],
            found,
            weight_decay=float(group["weight_decay"]),
            momentum=float(group["momentum"]),
            lr=float(group["lr"]),
            dampening=0.0,
            nesterov=bool(group["nesterov"]),
            maximize=bool(group["maximize"]),
        )
        new = list(buffers)
        for k, buffer in zip(used, found, strict=True):
            new[k] = buffer
        return new

    def _keep(self, parameters: list[Tensor], buffers: list[Tensor | None]) -> None:
        for parameter, buffer in zip(parameters, buffers, strict=True):
            if buffer is not None:
                self.state[parameter][_MOMENTUM] = buffer

    def _buffer(self, weight: Tensor) -> Tensor:
        held = self.state[weight].get(_MOMENTUM) if weight in self.state else None
        return held if held is not None else torch.zeros_like(weight)

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {
            "net": self.net,
            "metric": self.metric,
            "chart": self.chart,
            "_first_chart": self._first_chart,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads what :meth:`state_dict` returned.

        Raises:
            CheckpointError: it was saved with another chart or metric, so its momentum belongs to other coordinates.
        """
        first = (state_dict.get("param_groups") or [{}])[0]
        checks.check_mark(first.get("chart"), self._mark, "ECSGD")
        super().load_state_dict(state_dict)
        self.chart = changed(self._first_chart, first["rebased"]) if first["rebased"] else self._first_chart
