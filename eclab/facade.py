"""The public network: the traced structure with the questions one may ask of it."""

from __future__ import annotations

from typing import Any

from torch import nn

from eclab.classes.audit import Audit, audit, summary
from eclab.network.network import TracedNetwork
from eclab.network.trace import trace_network
from eclab.paths.by_hand import Choice
from eclab.paths.chart import Chart
from eclab.paths.counts import count_paths
from eclab.paths.norms import path_norm
from eclab.paths.skeleton import Skeleton
from eclab.paths.top import TopPath, top_paths


class Network(TracedNetwork):
    """A model seen as weights between units, some of which scale freely; made by :func:`trace`."""

    def chart(self, skeleton: str | Choice | Skeleton = "diagonal") -> Chart:
        """The chart of a skeleton: coordinates, gradients and basis paths; see :class:`~eclab.paths.chart.Chart`.

        Args:
            skeleton: ``"diagonal"`` (the paper's), ``"strongest"``, or edges by hand,
                ``{"0[3]": ("0.weight", (3, 5))}``.
        """
        return Chart(self, skeleton)

    def audit(self, x: Any = None) -> Audit:
        """``m``, ``H``, ``m − H``, ranks and dead units as a table; see :func:`~eclab.classes.audit.audit`."""
        return audit(self, x)

    def count_paths(self) -> int:
        """How many paths lead from a source to an output, exactly; see :func:`~eclab.paths.counts.count_paths`."""
        return count_paths(self)

    def top_paths(self, k: int = 10, x: Any = None) -> list[TopPath]:
        """The ``k`` largest paths by ``|value|``, active on ``x``; see :func:`~eclab.paths.top.top_paths`."""
        return top_paths(self, k, x)

    def path_norm(self, p: float = 1.0, log: bool = True) -> float:
        """``(Σ |v_p|^p)^{1/p}`` of the unrolled network; see :func:`~eclab.paths.norms.path_norm`."""
        return path_norm(self, p, log)

    def __str__(self) -> str:
        return summary(self).text()

    def _repr_html_(self) -> str:
        return summary(self).html()


def trace(model: nn.Module, x: Any, *, verify: bool = False) -> Network:
    """Reads a model: its weights as edges between units, and which units scale freely.

    Args:
        model: any ``nn.Module`` that ``torch.export`` reads. What is not positively homogeneous, or has no rule, pins
            the units it touches; ``net.units`` says which and why.
        x: example input, ``[batch, …]`` as the model takes it, or a tuple of inputs.
        verify: whether to check every rule in numbers: all free units are rescaled at random in float64, and each
            operation's value must scale with its units. Worth its few forward passes after :func:`register_rule`.

    Returns:
        The network. It keeps a reference to the model and copies no weight; trace again after changing a shape.

    Raises:
        TraceError: the model is no module, cannot be exported, does not take ``x``, has weights that are not real,
            lie on several devices or have sparse gradients, or a rule does not hold; all problems are named at once.

    Example:
        >>> import torch, eclab
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
        >>> net = eclab.trace(model, torch.ones(1, 2))
        >>> net.num_weights, net.num_units, net.class_dim
        (17, 3, 14)

    Source: theory §1.
    """
    found = trace_network(model, x, verify=verify)
    return Network(**{name: getattr(found, name) for name in found.__dataclass_fields__})
