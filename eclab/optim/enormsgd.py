"""ENorm-SGD: plain SGD that goes back towards the balanced member of the class after every step."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from eclab.classes.balance import Balancer
from eclab.errors import NonFiniteError, SettingError
from eclab.network.frozen import on_edges
from eclab.network.network import TracedNetwork, Weight
from eclab.optim import checks
from eclab.optim.plain import MOMENTUM, refuse_zero_rate, sgd_on, sgd_step

_TOLERANCE = 1e-12


class ENormSGD(Optimizer):
    r"""SGD followed by equi-normalization: sweeps towards the member of the class with the least ``Σ w²``.

    .. math::
        w \leftarrow w - \eta\,\partial L/\partial w, \qquad
        \text{then, layer by layer,}\quad c_v = \Bigl(\frac{\sum_{out} w^2}{\sum_{in} w^2}\Bigr)^{1/4}

    A sweep does not change the function: biases are scaled with their units (the authors' code leaves out those of
    linear layers), and the momentum buffer, a gradient, is divided by what its weight is multiplied with. With
    ``sweeps=None`` it is balanced to convergence, before the first step too, so that every step is the one at the
    balanced member: the trajectory is then that of the class, without momentum the one of ``ECSGD(metric="balanced")``.
    Parameters that are no edges between units take the plain SGD step, in a second group.

    Args:
        net: the network, from :func:`eclab.trace`. Construction changes no weight.
        lr: learning rate η > 0.
        momentum: factor μ ≥ 0 of the momentum buffer.
        weight_decay: L2 factor λ ≥ 0 on the weights.
        nesterov: whether to use Nesterov's momentum; needs ``momentum > 0``.
        sweeps: balancing sweeps after each step, at least 1; None for convergence.
        maximize: whether to ascend.

    Raises:
        SettingError: a number is out of range, at construction and for rates changed later at the next step.
        ChartError: the network has no free unit.

    Example:
        >>> import torch, eclab
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
        >>> x = torch.ones(4, 2)
        >>> optimizer = eclab.ENormSGD(eclab.trace(model, x), lr=0.1)
        >>> model(x).square().mean().backward()
        >>> optimizer.step()

    Source: P. Stock, B. Graham, R. Gribonval and H. Jégou, Equi-normalization of neural networks (ICLR 2019).
    """

    def __init__(
        self,
        net: TracedNetwork,
        lr: float = 0.1,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        sweeps: int | None = 1,
        *,
        maximize: bool = False,
    ) -> None:
        checks.check_network(net, "ENormSGD")
        self.net = net
        self.weights: tuple[Weight, ...] = tuple({weight.name: weight for weight in net.weights}.values())
        defaults: dict[str, Any] = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "sweeps": sweeps,
            "maximize": maximize,
        }
        checks.check_numbers(defaults)
        refuse_zero_rate(lr)
        _check_sweeps(sweeps)
        super().__init__(checks.groups(net, self.weights), defaults)
        self.param_groups[0]["chart"] = self._mark
        self._prepare()

    def _prepare(self) -> None:
        scale = self.net.scale_of
        self._balancer = Balancer(self.net)
        self._heads = [scale[weight.head] * (not weight.shared) for weight in self.weights]
        self._tails = [scale[weight.tail] * (not weight.shared) for weight in self.weights]

    @property
    def _mark(self) -> str:
        shapes = ";".join(f"{weight.name}{weight.shape}" for weight in self.weights)
        return f"enorm {hashlib.sha256(shapes.encode()).hexdigest()[:16]}"

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
            ChartError: some gradients are missing while others are there.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            checks.check_numbers(group)
        _check_sweeps(self.param_groups[0]["sweeps"])
        checks.check_finite([p for group in self.param_groups[1:] for p in group["params"]], "outside the class")
        with on_edges(self.net):
            gradients = [weight.grad for weight in self.param_groups[0]["params"]]
            if any(gradient is not None for gradient in gradients):
                checks.check_gradients(self.net, self.weights, gradients)
                self._class_step(self.param_groups[0], gradients)
        for group in self.param_groups[1:]:
            sgd_step(self, group)
        return loss

    def _class_step(self, group: dict[str, Any], gradients: list[Tensor | None]) -> None:
        weights: list[Tensor] = group["params"]
        checks.check_all_finite(self.weights, weights, gradients)
        values, deltas = [weight.clone() for weight in weights], list(gradients)
        if group["sweeps"] is None:
            c = self._balancer.find(tolerance=_TOLERANCE).scales
            values = self._rescaled(c, values)
            deltas = self._rescaled(1 / c, deltas)
        buffers = self._stepped(group, values, deltas)
        c = self._scales_after(values, group["sweeps"])
        values, buffers = self._rescaled(c, values), self._rescaled(1 / c, buffers)
        checks.refuse_overflow(values)
        for weight, value, buffer in zip(weights, values, buffers, strict=True):
            weight.copy_(value)
            if buffer is not None:
                self.state[weight][MOMENTUM] = buffer

    def _stepped(self, group: dict[str, Any], values: list[Tensor], deltas: list[Tensor | None]) -> list[Tensor | None]:
        """SGD's step on the values, in place; the new buffers. State is left as it is."""
        weights: list[Tensor] = group["params"]
        held: list[Tensor | None] = [self.state[w].get(MOMENTUM) if w in self.state else None for w in weights]
        held = [None if buffer is None else buffer.clone() for buffer in held]
        used = [k for k, delta in enumerate(deltas) if delta is not None]
        found = sgd_on(
            group,
            [values[k] for k in used],
            [delta for delta in deltas if delta is not None],
            [held[k] for k in used],
        )
        by_number = dict(zip(used, found, strict=True))
        return [by_number.get(k) for k in range(len(weights))]

    def _scales_after(self, values: list[Tensor], sweeps: int | None) -> Tensor:
        squares = {weight.name: value.double().square() for weight, value in zip(self.weights, values, strict=True)}
        try:
            if sweeps is None:
                return self._balancer.find(squares, tolerance=_TOLERANCE).scales
            search = self._balancer.search(squares)
        except NonFiniteError:
            raise NonFiniteError("the step overflows; no weight was changed", fix="lower the learning rate") from None
        for _ in range(sweeps):
            search.sweep()
        return search.ell.exp()

    @overload
    def _rescaled(self, c: Tensor, values: list[Tensor]) -> list[Tensor]: ...

    @overload
    def _rescaled(self, c: Tensor, values: list[Tensor | None]) -> list[Tensor | None]: ...

    def _rescaled(self, c: Tensor, values: Any) -> Any:
        """Each times ``c_head / c_tail``, worked out in float64."""
        moved: list[Tensor | None] = []
        for value, heads, tails in zip(values, self._heads, self._tails, strict=True):
            if value is None:
                moved.append(None)
            else:
                head, tail = c[heads.to(c.device)], 1 / c[tails.to(c.device)]
                moved.append((value.double() * head).mul_(tail).to(value.dtype))
        return moved

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"net": self.net, "weights": self.weights}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._prepare()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads what :meth:`state_dict` returned.

        Raises:
            CheckpointError: it is the state of another optimizer, or of one for another network.
        """
        first = (state_dict.get("param_groups") or [{}])[0]
        checks.check_mark(first.get("chart"), self._mark, type(self).__name__)
        super().load_state_dict(state_dict)


def _check_sweeps(sweeps: object) -> None:
    whole = isinstance(sweeps, int) and not isinstance(sweeps, bool) and sweeps >= 1
    if sweeps is not None and not whole:
        raise SettingError(f"sweeps is {sweeps!r}", allowed="a whole number of at least 1, or None for convergence")
