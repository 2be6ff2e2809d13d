"""EC by brute force: every path listed, gradients by least squares. What the fast optimizers are compared with.

They share the skeleton with the fast ones and nothing else: coordinates are found among the products of all paths,
``∂L/∂v`` solves ``Jᵀ δ = ∂L/∂w``, and weights come from the system of monomials
(:class:`~eclab.optim.reference_basis.ReferenceBasis`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from eclab.errors import ChartError
from eclab.network.network import TracedNetwork
from eclab.optim.reference_basis import Floats, ReferenceBasis
from eclab.optim.reference_rebase import rebased_skeleton
from eclab.paths.by_hand import Choice
from eclab.paths.chart import Chart


class _Reference:
    """What the twins have in common: the basis, the guard, and weights that are read and written as one vector."""

    def __init__(self, net: TracedNetwork, chart: str | Choice | Chart, guard: float, rebase: float) -> None:
        self.net = net
        self.guard, self.rebase = guard, rebase
        self.guarded_moves = self.rebased_units = 0
        self.basis = ReferenceBasis(net, (chart if isinstance(chart, Chart) else Chart(net, chart)).skeleton)

    def _read(self) -> tuple[Floats, Floats, Floats]:
        """All weights, their gradients, and the coordinates."""
        w, g = self.basis.read()
        if not w.all():
            raise ChartError("a weight is 0", allowed="weights that are not 0", fix="use the fast optimizer")
        return w, g, self.basis.coordinates(w)

    def _move(self, w: Floats, v: Floats, wanted: Floats) -> ReferenceBasis | None:
        """Guard, weight allocation, and another basis where the guard acted on weak edges; then returns the old one."""
        held = self.basis.on_skeleton & (wanted / v < self.guard)
        self.guarded_moves += int(held.sum())
        self.basis.write(self.basis.allocate(w, np.where(held, self.guard * v, wanted)))
        if not held.any() or not self.rebase:
            return None
        skeleton, replaced = rebased_skeleton(self.net, self.basis.skeleton, self.rebase)
        if not replaced:
            return None
        self.rebased_units += replaced
        old, self.basis = self.basis, ReferenceBasis(self.net, skeleton)
        return old


class ReferenceECSGD(_Reference):
    """EC-SGD for networks so small that all their paths can be listed; arguments and step as :class:`ECSGD`.

    No optimizer of ``torch.optim``: it reads the parameters' ``.grad``, writes the weights, and has ``step()``.
    No weight may be 0.

    Args:
        net: the network, from :func:`eclab.trace`.
        lr, momentum, weight_decay, nesterov, chart, guard, rebase, maximize: as :class:`ECSGD`.

    Attributes:
        guarded_moves: how many skeleton moves the guard has held back.
        rebased_units: how many skeleton edges were replaced.

    Raises:
        EclabError: there are more than 20,000 paths.

    Source: Meng et al. 2018 (arXiv:1802.03713), section 4, from its definitions; theory §2–4.
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
        rebase: float = 0.0,
        maximize: bool = False,
    ) -> None:
        super().__init__(net, chart, guard, rebase)
        self.lr, self.momentum, self.weight_decay, self.nesterov = lr, momentum, weight_decay, nesterov
        self.maximize = maximize
        self.buffer: Floats | None = None
        self.outside_buffers: dict[str, Tensor] = {}

    @torch.no_grad()
    def step(self) -> None:
        """One step from the parameters' ``.grad``."""
        w, g, v = self._read()
        stepped = self._base_step(v, self.basis.gradients(w, g))
        old = self._move(w, v, np.where(self.basis.trains, stepped, v))
        if old is not None and self.buffer is not None:  # momentum is a gradient: over the weights to the new basis
            w, _ = old.read()
            self.buffer = self.basis.gradients(w, old.jacobian(w).T @ self.buffer)
        for name in self.net.outside:
            self._outside_step(name, self.net.model.get_parameter(name))

    def _base_step(self, v: Floats, delta: Floats) -> Floats:
        """What ``torch.optim.SGD`` does to parameters ``v`` with gradients ``δ``."""
        d = (-delta if self.maximize else delta) + self.weight_decay * v
        if self.momentum:
            self.buffer = d if self.buffer is None else self.momentum * self.buffer + d
            d = d + self.momentum * self.buffer if self.nesterov else self.buffer
        return v - self.lr * d

    def _outside_step(self, name: str, parameter: Tensor) -> None:
        """The same for a parameter that is no edge."""
        if parameter.grad is None:
            return
        d = (-parameter.grad if self.maximize else parameter.grad) + self.weight_decay * parameter
        if self.momentum:
            old = self.outside_buffers.get(name)
            buffer = d if old is None else self.momentum * old + d
            self.outside_buffers[name] = buffer
            d = d + self.momentum * buffer if self.nesterov else buffer
        parameter -= self.lr * d


class ReferenceEC(_Reference):
    """EC with any base optimizer, by brute force: the base steps one vector ``v``, the values of all basis paths.

    No optimizer of ``torch.optim``: it reads the parameters' ``.grad``, writes the weights, and has ``step()``, and for
    schedule-free bases ``train()`` and ``eval()``. No weight may be 0.

    Args:
        net: the network, from :func:`eclab.trace`.
        base: an optimizer class whose step treats every number by itself, as that of SGD, Adam or RMSprop does.
        chart, guard, rebase: as :class:`EC`.
        **options: of the base.

    Attributes:
        v: the coordinates of weights that are not frozen, float64 ``[m − H]``; the base's first parameter, before those
            that are no edges.
        guarded_moves: how many skeleton moves the guard has held back.
        rebased_units: how many skeleton edges were replaced.

    Raises:
        EclabError: there are more than 20,000 paths.

    Source: Meng et al. 2018 (arXiv:1802.03713), section 4, from its definitions; theory §2–4.
    """

    def __init__(
        self,
        net: TracedNetwork,
        base: Callable[..., Optimizer],
        *,
        chart: str | Choice | Chart = "diagonal",
        guard: float = 0.1,
        rebase: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(net, chart, guard, rebase)
        self.v = nn.Parameter(torch.ones(int(self.basis.trains.sum()), dtype=torch.float64))
        self.base = base([self.v, *map(net.model.get_parameter, net.outside)], **options)

    def step(self) -> None:
        """One step of the base from the parameters' ``.grad``."""
        w, g, _ = self._read()
        self.v.grad = torch.from_numpy(self.basis.gradients(w, g)[self.basis.trains])
        self._let(self.base.step)

    def train(self) -> None:
        """A schedule-free base goes to the point that training steps from."""
        self._let(getattr(self.base, "train", lambda: None))

    def eval(self) -> None:
        """A schedule-free base goes to its averaged point."""
        self._let(getattr(self.base, "eval", lambda: None))

    @torch.no_grad()
    def _let(self, change: Callable[[], object]) -> None:
        """Lets the base change the coordinates of the present weights, and gives the weights the new ones."""
        w, _, v = self._read()
        trains = self.basis.trains
        self.v.copy_(torch.from_numpy(v[trains]))
        change()
        wanted = v.copy()
        wanted[trains] = self.v.detach().numpy()
        if self._move(w, v, wanted) is not None:  # second moments have no law of transformation
            self.base.state.pop(self.v, None)
