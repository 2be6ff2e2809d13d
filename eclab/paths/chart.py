"""Charts: a skeleton, the basis paths it spans, and coordinates and gradients on them (theory §2–3)."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from eclab.errors import ChartError
from eclab.kernels import torch_core as core
from eclab.kernels import torch_maps as maps
from eclab.kernels.plan import Edges, Plan
from eclab.network.frozen import edge_gradients, on_edges, works_on_edges
from eclab.network.network import TracedNetwork, Weight
from eclab.paths.by_hand import Choice, by_hand
from eclab.paths.skeleton import Edge, Skeleton, diagonal, index_tensors
from eclab.paths.strongest import strongest

SKELETONS = {"diagonal": diagonal, "strongest": strongest}
"""Skeletons that have a name."""


@dataclass(frozen=True)
class BasisPath:
    """One basis path: an a-chain, the edge it belongs to, and a b-chain.

    Where it ends on a unit before a batch-norm with training statistics, which has no scale of its own, its value is
    relative to that unit's a-chain.

    Attributes:
        edges: its edges from ground to ground.
        values: their weights.
        value: the path's value ``v``, their product; divided by that of the a-chain before a batch-norm.
        monomial: the product in words, ``"0.weight[1,0] · 2.weight[1,1]"``.
    """

    edges: tuple[Edge, ...]
    values: tuple[float, ...]
    value: float
    monomial: str


class Chart:
    """A skeleton of a network and the coordinates it gives: the values of the ``m − H`` basis paths.

    ``v_e = cin(u) · w_e · cout(v)`` for every weight ``e = (u → v)`` outside the tree.

    Args:
        net: the traced network; the chart follows its weights as they change and stores none of them.
        skeleton: ``"diagonal"``, the paper's choice; ``"strongest"``, the largest path values at the present weights
            (:func:`~eclab.paths.strongest.strongest`); a mapping from units to their edges
            (:func:`~eclab.paths.by_hand.by_hand`), the others as in the diagonal chart; or a
            :class:`~eclab.paths.skeleton.Skeleton`.

    Attributes:
        name: ``"diagonal"``, ``"strongest"`` or ``"by hand"``.
        tree: the a-edges, one for every free unit; they are no coordinates.
        b_edges: the b-edges, one for every free unit; some are tree edges too.

    Raises:
        ChartError: the name is unknown, a free unit has no possible skeleton edge, or the edges chosen by hand are no
            skeleton: not a forest, or at a unit that cannot scale.

    Example:
        >>> import torch, eclab
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 2))
        >>> net = eclab.trace(model, torch.ones(1, 2))
        >>> [str(edge) for edge in net.chart().tree]
        ['0.weight[0,0]', '0.weight[1,1]']

    Source: Meng et al. 2018 (arXiv:1802.03713), sections 3–4; any widths and biases: theory §2.
    """

    def __init__(self, net: TracedNetwork, skeleton: str | Choice | Skeleton = "diagonal") -> None:
        self.net = net
        self.name = skeleton if isinstance(skeleton, str) else "by hand"
        with on_edges(net):
            self.skeleton = _skeleton(net, skeleton)
        self.tree: tuple[Edge, ...] = tuple(self.skeleton.a.values())
        self.b_edges: tuple[Edge, ...] = tuple(self.skeleton.b.values())
        self._plans: dict[torch.device, Plan] = {}

    @cached_property
    def weights(self) -> tuple[Weight, ...]:
        """The weights that have coordinates: one entry a parameter."""
        return tuple({weight.name: weight for weight in self.net.weights}.values())

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the skeleton: two charts with the same one have the same coordinates."""
        sides = (self.skeleton.a, self.skeleton.b)
        listed = ";".join(str(edge) for side in sides for _, edge in sorted(side.items()))
        return hashlib.sha256(listed.encode()).hexdigest()[:16]

    def plan_on(self, device: torch.device) -> Plan:
        """The chart as index arrays for the path core, on the device of the weights; made once a device."""
        if device not in self._plans:
            self._plans[device] = self.plan.to(device)
        return self._plans[device]

    @cached_property
    def plan(self) -> Plan:
        """The chart as index arrays on the CPU."""
        scale = self.net.scale_of
        numbers = {weight.name: k for k, weight in enumerate(self.weights)}
        tree_edges = set(self.tree)
        return Plan(
            num_scales=self.net.num_units + 1,
            heads=tuple(scale[weight.head] * (not weight.shared) for weight in self.weights),
            tails=tuple(scale[weight.tail] * (not weight.shared) for weight in self.weights),
            tree=_batches(self.skeleton.a, scale, numbers, tree_edges, by_head=True),
            b_edges=_batches(self.skeleton.b, scale, numbers, tree_edges, by_head=False),
            scale_free=self.net.scale_free,
            passes=_passes(self.skeleton, scale),
        )

    def parameters(self) -> list[Tensor]:
        """The live parameters, in the order of :attr:`weights`."""
        return [weight.parameter for weight in self.weights]

    def _live(self) -> tuple[list[Tensor], Plan]:
        weights = self.parameters()
        return weights, self.plan_on(weights[0].device)

    @torch.no_grad()
    @works_on_edges
    def coordinates(self) -> dict[str, Tensor]:
        """``v_e = cin(u) · w_e · cout(v)``, the values of the basis paths.

        Returns:
            For each parameter a tensor of its shape and dtype. Tree entries are no coordinates and hold the weight.
        """
        weights, plan = self._live()
        chain = core.chains(plan, weights)
        values = maps.coordinates(plan, weights, chain)
        for edges, value in zip(plan.tree, chain.tree, strict=True):
            values[edges.weight].index_put_(edges.index, value.to(values[edges.weight].dtype))
        return self._named(values)

    @torch.no_grad()
    @works_on_edges
    def gradients(self, gradients: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """``δ_e = ∂L/∂v_e`` by the inverse chain rule (ICR) from the weights' gradients.

        ``δ_e = g_e / (cin(u) cout(v))`` off the b-edges, ``δ_b = (w_b g_b − T_u) / v_b`` on them.

        Args:
            gradients: ``∂L/∂w`` by parameter name; without it the parameters' ``.grad``.

        Returns:
            For each parameter a tensor of its shape and dtype; 0 at tree entries, which are no coordinates.

        Raises:
            ChartError: a gradient is missing.

        Source: Meng et al. 2018, section 4.2 (ICR); any widths and biases: theory §3.
        """
        weights, plan = self._live()
        grads = self._gradients(gradients)
        deltas = maps.class_gradients(plan, weights, grads, core.chains(plan, weights))
        return self._named([delta for delta in deltas if delta is not None])

    @torch.no_grad()
    @works_on_edges
    def allocate(self, coordinates: Mapping[str, Tensor]) -> None:
        """Weight allocation (WA): writes the weights that have these coordinates; tree weights stay as they are.

        ``w_e = v_e / (cin(u) · cout(v))``, from the outputs back.

        Args:
            coordinates: as :meth:`coordinates` returns them; tree entries are not read.

        Raises:
            ChartError: an entry is missing or has another shape, is not finite, or a b-edge's coordinate is 0 or has
                changed its sign, which is the edge of the chart. No weight was changed.

        Source: Meng et al. 2018, section 4.3 (WA); theory §2.
        """
        weights, plan = self._live()
        values = self._checked(coordinates, weights)
        chain = core.chains(plan, weights)
        v_new = [core.values_at(values, edges) for edges in plan.b_edges]
        self._refuse_edge_of_chart(plan, chain, v_new)
        for weight, new in zip(weights, maps.allocated(plan, chain, values, v_new), strict=True):
            weight.copy_(new)

    @torch.no_grad()
    @works_on_edges
    def basis_path(self, parameter: str, index: Sequence[int] | int) -> BasisPath:
        """The basis path of one weight: ``a-chain(u) + e + b-chain(v)``.

        Args:
            parameter: name of the parameter, ``"0.weight"``.
            index: the weight's place in it, ``(row, column)``; of a bias also just the row.

        Returns:
            Its edges in order, their weights, the path's value and the product in words.

        Raises:
            ChartError: the index lies outside the parameter, or the weight is a tree edge and so has no path.
            ScaleError: no such parameter.

        Source: theory §2.
        """
        weight = self.net.weight(parameter)
        place = tuple(int(i) for i in ((index,) if isinstance(index, int) else index))
        if len(place) != len(weight.shape) or any(not 0 <= i < n for i, n in zip(place, weight.shape, strict=False)):
            raise ChartError(f"{parameter}[{place}] is outside its shape {weight.shape}", allowed="an index within it")
        edge = Edge(parameter, place, *weight.ends(place))
        if edge in self.skeleton.a.values():
            raise ChartError(
                f"{edge} is a tree edge, which is no coordinate and has no basis path",
                allowed="any weight outside chart.tree",
                fix="choose another weight, or look at the paths that run through it with net.top_paths()",
            )
        edges = (*self._chain(edge.tail, up=True), edge, *self._chain(edge.head, up=False))
        values = tuple(float(self.net.weight(e.parameter).parameter[e.index]) for e in edges)
        value, monomial = math.prod(values), " · ".join(map(str, edges))
        end = edges[-1].head
        if int(self.net.scale_of[end]) in self.net.scale_free.tolist():
            chain = self._chain(end, up=True)
            value /= math.prod(float(self.net.weight(e.parameter).parameter[e.index]) for e in chain)
            monomial += f" / ({' · '.join(map(str, chain))})"
        return BasisPath(edges, values, value, monomial)

    def role(self, edge: Edge) -> str:
        """``"tree"``, ``"b-edge"`` or ``"basis"``: what a weight is in this chart; a tree edge may be a b-edge too."""
        if edge in self._tree_set:
            return "tree"
        return "b-edge" if edge in self._b_set else "basis"

    @cached_property
    def _tree_set(self) -> frozenset[Edge]:
        return frozenset(self.tree)

    @cached_property
    def _b_set(self) -> frozenset[Edge]:
        return frozenset(self.b_edges)

    def _chain(self, unit: int, *, up: bool) -> list[Edge]:
        chain: list[Edge] = []
        scale = int(self.net.scale_of[unit])
        chosen = self.skeleton.a if up else self.skeleton.b
        while scale in chosen:
            edge = chosen[scale]
            chain.append(edge)
            scale = int(self.net.scale_of[edge.tail if up else edge.head])
        return chain[::-1] if up else chain

    def _named(self, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
        return {weight.name: tensor for weight, tensor in zip(self.weights, tensors, strict=True)}

    def _gradients(self, given: Mapping[str, Tensor] | None) -> list[Tensor]:
        given = None if given is None else edge_gradients(self.net, given)
        found = [weight.parameter.grad if given is None else given.get(weight.name) for weight in self.weights]
        missing = [weight.name for weight, grad in zip(self.weights, found, strict=True) if grad is None]
        if missing:
            raise ChartError(
                f"the gradient of {', '.join(missing)} is missing",
                allowed="a gradient for every weight of the network",
                fix="call loss.backward() first",
            )
        return [grad for grad in found if grad is not None]

    def _checked(self, coordinates: Mapping[str, Tensor], weights: Sequence[Tensor]) -> list[Tensor]:
        given: object = coordinates
        problems = [] if isinstance(given, Mapping) else [f"the coordinates are a {type(given).__name__}"]
        for weight, parameter in zip(() if problems else self.weights, weights, strict=not problems):
            value = coordinates.get(weight.name)
            if value is None:
                problems.append(f"'{weight.name}' is missing")
            elif value.shape != parameter.shape:
                problems.append(f"'{weight.name}' has shape {tuple(value.shape)}, not {tuple(parameter.shape)}")
            elif not bool(value.isfinite().all()):
                problems.append(f"'{weight.name}' holds a value that is not finite")
        if problems:
            raise ChartError(
                "; ".join(problems), allowed="one finite tensor a parameter, as chart.coordinates() returns them"
            )
        return [coordinates[weight.name].to(p) for weight, p in zip(self.weights, weights, strict=True)]

    def _refuse_edge_of_chart(self, plan: Plan, chain: core.Chains, v_new: Sequence[Tensor]) -> None:
        for edges, old, new in zip(plan.b_edges, chain.b_coordinates(plan), v_new, strict=True):
            crossed = ~(old * new > 0) & ~edges.in_tree
            if bool(crossed.any()):
                place = tuple(int(axis[crossed.nonzero()[0, 0]]) for axis in edges.index)
                raise ChartError(
                    f"the coordinate of {self.weights[edges.weight].name}{list(place)} goes from "
                    f"{float(old[crossed][0]):.3g} to {float(new[crossed][0]):.3g}",
                    allowed="a skeleton coordinate keeps its sign and is not 0: that is the edge of the chart",
                    fix="take a smaller step",
                )


def _skeleton(net: TracedNetwork, asked: str | Choice | Skeleton) -> Skeleton:
    if isinstance(asked, Skeleton):
        return asked
    if isinstance(asked, Mapping):
        return by_hand(net, asked)
    if asked not in SKELETONS:
        names = ", ".join(map(repr, SKELETONS))
        raise ChartError(
            f"there is no chart {asked!r}",
            allowed=f"{names}, or a mapping from units to edges such as {{'0[3]': ('0.weight', (3, 5))}}",
        )
    return SKELETONS[asked](net)


def _batches(
    chosen: dict[int, Edge], scale: Tensor, numbers: dict[str, int], tree: set[Edge], *, by_head: bool
) -> tuple[Edges, ...]:
    """Skeleton edges in order of their depth, those of one depth and one weight together."""
    depth: defaultdict[int, int] = defaultdict(int)
    groups: dict[tuple[int, int], list[tuple[int, int, Edge]]] = {}
    for mine, edge in chosen.items():
        other = int(scale[edge.tail if by_head else edge.head])
        depth[mine] = depth[other] + 1
        groups.setdefault((depth[mine], numbers[edge.parameter]), []).append((mine, other, edge))
    return tuple(
        Edges(
            weight=number,
            index=index_tensors([edge for _, _, edge in found]),
            scale=torch.tensor([mine for mine, _, _ in found]),
            other=torch.tensor([other for _, other, _ in found]),
            in_tree=torch.tensor([edge in tree for _, _, edge in found]),
        )
        for (_, number), found in ((key, sorted(groups[key], key=lambda item: item[0])) for key in sorted(groups))
    )


def _passes(skeleton: Skeleton, scale: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
    """Tree edges that are b-edges too, as (tail, head) scales, in order of depth down the a-forest."""
    depth: defaultdict[int, int] = defaultdict(int)
    levels: dict[int, list[tuple[int, int]]] = {}
    for head, edge in skeleton.a.items():
        tail = int(scale[edge.tail])
        depth[head] = depth[tail] + 1
        if tail and skeleton.b.get(tail) == edge:
            levels.setdefault(depth[head], []).append((tail, head))
    return tuple(
        (torch.tensor([tail for tail, _ in pairs]), torch.tensor([head for _, head in pairs]))
        for pairs in (sorted(levels[level]) for level in sorted(levels))
    )
