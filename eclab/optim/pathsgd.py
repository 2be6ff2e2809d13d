"""Path-SGD: gradient descent that divides by how much path value runs through each weight."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from eclab.errors import NonFiniteError
from eclab.network.frozen import on_edges
from eclab.network.network import TracedNetwork, Weight
from eclab.optim import checks
from eclab.optim.plain import MOMENTUM, refuse_zero_rate, sgd_step
from eclab.paths.kappa import kappa


class PathSGD(Optimizer):
    r"""Path-SGD: the steepest descent with respect to the path norm, coordinate by coordinate.

    .. math::
        w_e \leftarrow w_e - \frac{\eta}{\kappa_e} \frac{\partial L}{\partial w_e}, \qquad
        \kappa_e = \sum_{p \ni e}\ \prod_{e' \in p,\ e' \ne e} w_{e'}^2

    It does not change under rescaling, as EC-SGD, and needs no chart. ``κ`` is worked out anew at every step, in
    float64, by one forward and one backward pass of one sample (:func:`~eclab.paths.kappa.kappa`, which says what it is
    for convolutions, pooling and batch-norm). Momentum and weight decay are those of ``torch.optim.SGD`` in ``u_e = w_e
    √κ_e``, which no rescaling changes: the momentum buffer survives rescaling in mid-run, and weight decay is the
    gradient of ``½ λ Σ_p v_p²``, which is ``λ κ_e w_e``. Weights that no path with a value runs through (``κ = 0``)
    have no gradient and stay. Parameters that are no edges between units take the plain SGD step, in a second group.

    Args:
        net: the network, from :func:`eclab.trace`. Construction changes no weight.
        lr: learning rate η > 0; its scale is that of the path norm, not SGD's.
        momentum: factor μ ≥ 0 of the momentum buffer.
        weight_decay: factor λ ≥ 0 of the squared path norm.
        nesterov: whether to use Nesterov's momentum; needs ``momentum > 0``.
        maximize: whether to ascend.

    Raises:
        SettingError: a number is out of range, at construction and for rates changed later at the next step.
        ChartError: the network has no free unit, or operations whose paths are not known.

    Example:
        >>> import torch, eclab
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
        >>> x = torch.ones(4, 2)
        >>> optimizer = eclab.PathSGD(eclab.trace(model, x), lr=0.1)
        >>> model(x).square().mean().backward()
        >>> optimizer.step()

    Source: B. Neyshabur, R. Salakhutdinov and N. Srebro, Path-SGD: path-normalized optimization in deep neural networks
    (NIPS 2015), algorithm 1.
    """

    def __init__(
        self,
        net: TracedNetwork,
        lr: float = 0.1,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        checks.check_network(net, "PathSGD")
        self.net = net
        self.weights: tuple[Weight, ...] = tuple({weight.name: weight for weight in net.weights}.values())
        defaults: dict[str, Any] = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
        }
        checks.check_numbers(defaults)
        refuse_zero_rate(lr)
        kappa(net)  # refuses at once what it would refuse at the first step
        super().__init__(checks.groups(net, self.weights), defaults)
        self.param_groups[0]["chart"] = self._mark

    @property
    def _mark(self) -> str:
        shapes = ";".join(f"{weight.name}{weight.shape}" for weight in self.weights)
        return f"path kernel {hashlib.sha256(shapes.encode()).hexdigest()[:16]}"

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
            NonFiniteError: a gradient, κ or the step is NaN or infinite; no weight was changed.
            ChartError: some gradients are missing while others are there.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            checks.check_numbers(group)
        checks.check_finite([p for group in self.param_groups[1:] for p in group["params"]], "outside the class")
        with on_edges(self.net):
            gradients = [weight.grad for weight in self.param_groups[0]["params"]]
            if any(gradient is not None for gradient in gradients):
                checks.check_gradients(self.net, self.weights, gradients)
                self._path_step(self.param_groups[0], gradients)
        for group in self.param_groups[1:]:
            sgd_step(self, group)
        return loss

    def _path_step(self, group: dict[str, Any], gradients: list[Tensor | None]) -> None:
        weights: list[Tensor] = group["params"]
        checks.check_all_finite(self.weights, weights, gradients)
        sizes = kappa(self.net)
        moved: list[tuple[Tensor, Tensor, Tensor | None]] = []
        for weight, w, gradient in zip(self.weights, weights, gradients, strict=True):
            if gradient is None:
                continue
            new, buffer = self._moved(group, w, gradient, sizes.pop(weight.name))
            if not checks.all_finite([new]):
                raise NonFiniteError(
                    f"the step of '{weight.name}' overflows; no weight was changed", fix="lower the learning rate"
                )
            moved.append((w, new, buffer))
        for w, new, buffer in moved:
            w.copy_(new)
            if buffer is not None:
                self.state[w][MOMENTUM] = buffer

    def _moved(self, group: dict[str, Any], w: Tensor, gradient: Tensor, size: Tensor) -> tuple[Tensor, Tensor | None]:
        """The new weight and buffer: SGD's step in ``u = w √κ``, with ``√κ`` held fixed."""
        root = size.sqrt_().to(w.dtype)
        inverse = root.reciprocal()
        inverse.masked_fill_(root == 0, 0.0)
        direction = gradient * inverse
        if group["maximize"]:
            direction.neg_()
        if group["weight_decay"]:
            direction.add_(w * root, alpha=float(group["weight_decay"]))
        buffer = None
        if group["momentum"]:
            held = self.state[w].get(MOMENTUM) if w in self.state else None
            momentum = float(group["momentum"])
            buffer = direction.clone() if held is None else momentum * held + direction
            direction = direction.add_(buffer, alpha=momentum) if group["nesterov"] else buffer
        return w.addcmul(direction, inverse, value=-float(group["lr"])), buffer

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"net": self.net, "weights": self.weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads what :meth:`state_dict` returned.

        Raises:
            CheckpointError: it is the state of another optimizer, or of one for another network.
        """
        first = (state_dict.get("param_groups") or [{}])[0]
        checks.check_mark(first.get("chart"), self._mark, type(self).__name__)
        super().load_state_dict(state_dict)
