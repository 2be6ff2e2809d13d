"""EC with any base optimizer: one of ``torch.optim`` run on the class coordinates instead of the weights."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from eclab.errors import SettingError
from eclab.network.frozen import on_edges
from eclab.network.network import TracedNetwork
from eclab.optim import checks
from eclab.optim.space import BalancedSpace, PathSpace, Space
from eclab.paths.rebase import changed, changes, rebased


class EC(Optimizer):
    r"""Any optimizer of ``torch.optim`` on the class coordinates.

    .. math::
        v \leftarrow \mathrm{Base}(v, \partial L/\partial v), \qquad
        w_e = v_e / (c^{in}(u)\, c^{out}(v)) \quad\text{(weight allocation)}

    The base optimizer is given the coordinates of the basis paths for weights and ``δ = ∂L/∂v`` for gradients. Its
    momentum, second moments and weight decay are thereby those of ``v``: they live in class space, and rescaling the
    weights in mid-run does not change what the network goes on to learn. Parameters that are no edges between units
    take the base's step as they are, in a second group.

    Args:
        net: the network, from :func:`eclab.trace`. Construction changes no weight.
        base: an optimizer class, ``torch.optim.Adam`` for one, or any callable that takes parameter groups.
        chart: name of the skeleton, edges by hand, or a :class:`~eclab.paths.chart.Chart` of this network.
        guard: ρ in [0, 1): a skeleton coordinate keeps its sign and at least this fraction of its value in one step.
        metric: ``"path"``, steps in the coordinates ``v``; or ``"balanced"``, steps at the balanced member of the class
            (:class:`~eclab.optim.space.BalancedSpace`), relative to the size of ``v``: it needs no chart, and a
            normally initialised network trains from where it is.
        rebase: in [0, 1): where the guard has held a move, skeleton edges below this fraction of their largest sibling
            are replaced (:func:`~eclab.paths.rebase.rebased`). The base then starts anew, since second moments have no
            law of transformation. 0 for never.
        **options: of the base, ``lr`` above all.

    Attributes:
        base: the base optimizer; it shares groups and state with this one.
        guarded_moves: how many skeleton moves the guard has held back.
        rebased_units: how many skeleton edges were replaced.

    Raises:
        SettingError: a number is out of range, or the base evaluates the loss within its step, as LBFGS does.
        ChartError: the network has no free unit, or the chart belongs to another network.

    Example:
        >>> import torch, eclab
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
        >>> x = torch.ones(4, 2)
        >>> net = eclab.trace(model, x)
        >>> eclab.start_skeleton_(net)
        >>> optimizer = eclab.EC(net, torch.optim.Adam, lr=0.01)
        >>> model(x).square().mean().backward()
        >>> optimizer.step()
        >>> optimizer.guarded_moves
        0

    Source: Meng et al. 2018 (arXiv:1802.03713), algorithm 1, with the update of the base for that of SGD; theory §3.
    """

    def __init__(
        self,
        net: TracedNetwork,
        base: Callable[..., Optimizer],
        *,
        chart: Any = "diagonal",
        guard: float = 0.1,
        metric: str = "path",
        rebase: float = 0.0,
        **options: Any,
    ) -> None:
        checks.check_network(net, "EC")
        checks.check_metric(metric)
        _refuse_strange_base(base)
        self.net, self.metric = net, metric
        self.chart = self._first_chart = checks.chart_of(net, chart)
        shared = {"guard": guard, "rebase": rebase}
        checks.check_numbers({**options, **shared})
        self.base = base([group | shared for group in checks.groups(net, self.chart.weights)], **options)
        super().__init__([{"params": [torch.zeros(())]}], {})
        self._share()
        self.param_groups[0] |= {"guarded_moves": 0, "rebased": [], "rebased_units": 0, "chart": self._mark}

    def _share(self) -> None:
        """One set of groups and one state for the base and for whoever looks at this optimizer."""
        self.param_groups, self.state, self.defaults = self.base.param_groups, self.base.state, self.base.defaults

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
        """Adds parameters from outside the network; they take the base's step, with settings of their own."""
        if "base" in self.__dict__ and self.param_groups is self.base.param_groups:
            self.base.add_param_group({"space": "weights"} | param_group)
        else:
            super().add_param_group(param_group)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step of the base on the coordinates.

        Args:
            closure: re-evaluates the model and returns the loss.

        Returns:
            The closure's loss.

        Raises:
            NonFiniteError: a gradient or the step is NaN or infinite; no weight was changed.
            ChartError: some gradients are missing, or the chart ends at these weights. Where no parameter has a
                gradient nothing happens, as in ``torch.optim``.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            checks.check_numbers(group)
        with on_edges(self.net):
            self._class_step()
        return loss

    def _class_step(self) -> None:
        weights: list[Tensor] = self.param_groups[0]["params"]
        gradients = [weight.grad for weight in weights]
        checks.check_finite(self._outside(), "outside the class")
        if all(gradient is None for gradient in gradients):
            if any(p.grad is not None for p in self._outside()):
                self._base_step()
            return
        checks.check_gradients(self.net, self.chart.weights, gradients)
        with self._in_class_space(gradients):
            self._base_step()

    def _base_step(self) -> None:
        """The base's step without torch's hooks around it: for who listens to all optimizers this is one step."""
        step = type(self.base).step
        if getattr(step, "hooked", False):
            step = step.__wrapped__  # type: ignore[attr-defined]
        step(self.base)

    @torch.no_grad()
    def train(self, mode: bool = True) -> None:
        """For schedule-free bases: goes from the averaged point to the one that training steps from."""
        switch = getattr(self.base, "train" if mode else "eval", None)
        if switch is None:
            return
        if not self.state or all(group.get("train_mode") is mode for group in self.param_groups):
            switch()  # nothing is to move, and a round trip through the coordinates would cost a rounding
            return
        with on_edges(self.net), self._in_class_space(None):
            switch()

    def eval(self) -> None:
        """For schedule-free bases: goes to the averaged point, an average of coordinates; nothing for other bases."""
        self.train(False)

    def _outside(self) -> list[Tensor]:
        return [p for group in self.param_groups[1:] for p in group["params"]]

    @property
    def _space(self) -> Space:
        if self.metric == "balanced":
            return BalancedSpace(self.net, self.chart.weights)
        return PathSpace(self.chart, float(self.param_groups[0]["guard"]))

    @contextmanager
    def _in_class_space(self, gradients: list[Tensor | None] | None) -> Iterator[None]:
        """The parameters hold coordinates and their gradients inside; new weights, or the old ones, after it."""
        group = self.param_groups[0]
        weights: list[Tensor] = group["params"]
        space = self._space
        at = space.enter([weight.detach() for weight in weights], gradients)
        before = [(p, p.data, p.grad) for p in (*weights, *self._outside())]
        try:
            for weight, value, delta in zip(weights, at.values, at.deltas, strict=True):
                weight.data, weight.grad = value, delta
            for p in self._outside():
                p.data = p.data.clone()
            yield
            at.values = [weight.data for weight in weights]
            moved = [p.data for p in self._outside()]
            new, guarded = space.leave(at)
        finally:
            for p, data, gradient in before:
                p.data, p.grad = data, gradient
        for p, value in zip((*weights, *self._outside()), (*new, *moved), strict=True):
            p.copy_(value)
        self._count(guarded)

    def _count(self, guarded: int) -> None:
        group = self.param_groups[0]
        group["guarded_moves"] += guarded
        if not guarded or not group["rebase"]:
            return
        chart = rebased(self.chart, float(group["rebase"]))
        if chart is not None:
            group["rebased_units"] += len(changes(self.chart, chart))
            self.chart = chart
            group["rebased"] = changes(self._first_chart, chart)
            for weight in group["params"]:
                self.state.pop(weight, None)

    def __getstate__(self) -> dict[str, Any]:
        kept = ("net", "metric", "chart", "_first_chart", "base")
        return super().__getstate__() | {name: getattr(self, name) for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if self.base.state is not self.state:
            self.base.__setstate__({"state": self.state, "param_groups": self.param_groups})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads what :meth:`state_dict` returned.

        Raises:
            CheckpointError: it was saved with another chart or metric, so its state belongs to other coordinates.
        """
        first = (state_dict.get("param_groups") or [{}])[0]
        checks.check_mark(first.get("chart"), self._mark, type(self).__name__)
        super().load_state_dict(state_dict)
        self.chart = changed(self._first_chart, first["rebased"]) if first["rebased"] else self._first_chart


def _refuse_strange_base(base: object) -> None:
    if not callable(base):
        raise SettingError(
            f"the base is {base!r}", allowed="an optimizer class", fix="pass torch.optim.Adam, say, and not an instance"
        )
    step = getattr(base, "step", None)
    closure = inspect.signature(step).parameters.get("closure") if step is not None else None
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise SettingError(
            f"{getattr(base, '__name__', base)} evaluates the loss within its step, where the weights hold coordinates",
            allowed="an optimizer that steps from gradients alone, as SGD, Adam or RMSprop do",
        )
