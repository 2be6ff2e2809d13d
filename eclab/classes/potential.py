"""Convex problems in the logarithms of the scales, on the graph of a network's weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from eclab.errors import EclabError, NonFiniteError, ScaleError, SettingError
from eclab.network.network import TracedNetwork, Weight

_KEPT_VALUES = 2**20
_MOST_STEPS = 500
_ROUGH = 1.0
_LONGEST = 20.0


@dataclass(frozen=True)
class Minimum:
    """Where a search ended.

    Attributes:
        scales: ``c`` by number of the free scale, float64 ``[H + 1]``; entry 0 is ground, 1.
        imbalance: the largest ``|in − out − push| / (in + out + |push|)`` left.
        passes: how often the weights between free units were read.
    """

    scales: Tensor
    imbalance: float
    passes: int


class ScaleGraph:
    r"""Which free units a network's weights lie between: what every problem in its log-scales shares.

    A problem is to minimise, over ``ℓ = log c``, the convex

    .. math::
        \Phi(\ell) = \tfrac12 \sum_e q_e\, e^{2(\ell_{head} - \ell_{tail})} - \sum_v push_v\, \ell_v

    (or ``(n/2) log Σ`` in place of the half sum) whose gradient is ``in_v − out_v − push_v``, the flows of ``q`` into
    and out of a unit. Far from the minimum the search takes, for all units at once, half of the step that would bring
    each one alone to its minimum; that never raises Φ, as an edge's ``e^{2(a − b)}`` is at most ``½ e^{4a} + ½
    e^{−4b}``. Near it, it takes Newton's step, by conjugate gradients on the Laplacian that ``q`` makes of the graph.

    The graph holds O(H) numbers. A search needs one temporary of a layer's size, and keeps the values of networks with
    at most 2²⁰ weights between free units (8 MiB).

    Args:
        net: the network.
    """

    def __init__(self, net: TracedNetwork) -> None:
        self.net = net
        weights = list({weight.name: weight for weight in net.weights}.values())
        free = net.scale_of > 0
        ends = [(free[weight.head], free[weight.tail]) for weight in weights]
        pairs = list(zip(weights, ends, strict=True))
        self.inner = [w for w, (head, tail) in pairs if bool(head.any() and tail.any())]
        self.rim_in = [w for w, (head, tail) in pairs if bool(head.any() and ~tail.any())]
        self.rim_out = [w for w, (head, tail) in pairs if bool(tail.any() and ~head.any())]
        self.ground = [w for w, (head, tail) in pairs if not bool(head.any() or tail.any())]
        self.cyclic = _has_cycle(net, self.inner)
        self.keep = sum(w.numel for w in self.inner) <= _KEPT_VALUES

    @classmethod
    def of(cls, net: TracedNetwork) -> ScaleGraph:
        """The graph of a network, made once: it depends on the structure alone, and a copy of the network copies it."""
        graph: ScaleGraph = net.__dict__.get("_scale_graph") or cls(net)
        net.__dict__["_scale_graph"] = graph
        return graph

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """The free scales, layer by layer."""
        return _groups(self.net, self.inner)

    def log_scales(self, scales: Tensor | None) -> Tensor:
        """Logarithms of scales given by the user, float64 ``[H + 1]``; zeros without any."""
        device = self.net.weights[0].parameter.device
        if scales is None:
            return torch.zeros(self.net.num_units + 1, dtype=torch.float64, device=device)
        c = torch.as_tensor(scales).detach().to(device, torch.float64)
        if c.shape != (self.net.num_units + 1,) or not bool((c.isfinite() & (c > 0)).all()) or float(c[0]) != 1:
            raise ScaleError(
                f"the start has shape {tuple(c.shape)} and values from {c.min():g} to {c.max():g}",
                allowed=f"{self.net.num_units + 1} finite scales > 0, the first one 1",
            )
        return c.log()


@dataclass(frozen=True)
class Group:
    """The free scales that one layer's units have and no layer before it.

    Attributes:
        scales: int64, their numbers.
        touching: which of the inner weights lead to or from them.
        independent: whether no weight leads from one of them to another.
    """

    scales: Tensor
    touching: tuple[int, ...]
    independent: bool


def _groups(net: TracedNetwork, inner: list[Weight]) -> tuple[Group, ...]:
    seen = torch.zeros(net.num_units + 1, dtype=torch.bool)
    seen[0] = True
    groups: list[Group] = []
    for layer in net.layers:
        scales = torch.unique(net.scale_of[layer.units])
        scales = scales[~seen[scales]]
        if len(scales):
            seen[scales] = True
            here = torch.zeros_like(seen)
            here[scales] = True
            ends = [(here[net.scale_of[w.head]], here[net.scale_of[w.tail]]) for w in inner]
            touching = tuple(k for k, (head, tail) in enumerate(ends) if bool(head.any() or tail.any()))
            groups.append(Group(scales, touching, not any(bool((head & tail).any()) for head, tail in ends)))
    return tuple(groups)


def _own_step(into: Tensor, out: Tensor, push: Tensor) -> Tensor:
    root = (push.square() + 4 * into * out).sqrt()
    top = torch.where(push > 0, push + root, 2 * out)
    bottom = torch.where(push > 0, 2 * into, root - push)
    return (top / bottom).log() / 2


def is_matrix(weight: Weight) -> bool:
    """Whether every tail of this weight leads to every head."""
    return weight.kind in ("linear", "conv", "transposed") and weight.groups == 1


def _has_cycle(net: TracedNetwork, inner: list[Weight]) -> bool:
    """Whether weights between free units lead around, as a residual block that reads and writes its stream does."""
    order = torch.zeros(net.num_units + 1, dtype=torch.int64)
    for _ in range(len(inner) + 1):
        before = order.clone()
        for weight in inner:
            head, tail = net.scale_of[weight.head], net.scale_of[weight.tail]
            if is_matrix(weight):
                head, tail = head.reshape(-1), order[tail[tail > 0]].max().expand(head.numel())
            else:
                head, tail = head.expand(weight.shape), torch.where(tail > 0, order[tail], -1).expand(weight.shape)
            order.scatter_reduce_(0, head.reshape(-1), tail.reshape(-1) + 1, "amax")
        order[0] = 0
        if torch.equal(order, before):
            return False
    return True


class Values:
    """``q`` of one weight: the square of its parameter, or a tensor given in its place."""

    def __init__(self, weight: Weight, given: Mapping[str, Tensor] | None) -> None:
        self.weight, self._given = weight, None if given is None else given[weight.name]
        self.matrix = is_matrix(weight)
        self._held: Tensor | None = None

    def whole(self) -> Tensor:
        """float64, of the parameter's shape."""
        return self._given.double() if self._given is not None else self.weight.parameter.detach().double().square()

    def read(self, *, keep: bool) -> Tensor:
        """The same, summed over parallel edges to ``[heads, tails]`` where the weight is a matrix between units."""
        if self._held is not None:
            return self._held
        q = self.whole()
        if self.matrix:
            axes = self.weight.axes
            other = [axis for axis in range(q.ndim) if axis not in axes]
            q = q.permute(*axes, *other).flatten(2).sum(2) if other else q.permute(axes)
        if keep:
            self._held = q
        return q


class Search:
    """One search for a minimum of Φ: the state of Newton's method on log-scales.

    Args:
        graph: the network's graph.
        ell: where to start, float64 ``[H + 1]``.
        given: ``q`` by parameter name; squared weights without it.
        push: float64 ``[H + 1]``; none without it.
        count: ``n`` of the logarithmic form; the plain one without it.
    """

    def __init__(
        self,
        graph: ScaleGraph,
        ell: Tensor,
        given: Mapping[str, Tensor] | None = None,
        push: Tensor | None = None,
        count: int | None = None,
    ) -> None:
        self.graph, self.net, self.ell, self.passes, self._count = graph, graph.net, ell, 0, count
        self._given, self._rough = given, math.inf
        self._scale = self.net.scale_of.to(ell.device)
        self.inner = [Values(weight, given) for weight in graph.inner]
        self._ends = {w.name: (w.head.to(ell.device), w.tail.to(ell.device)) for w in graph.inner}
        self.rim_in, self.rim_out = self._rim_sum(graph.rim_in, into=True), self._rim_sum(graph.rim_out, into=False)
        self._constant = sum(float(Values(w, given).whole().sum()) for w in graph.ground) if count else 0.0
        self.push = torch.zeros_like(ell) if push is None else push
        self._measure()
        if not bool((self.into.isfinite() & self.out.isfinite()).all()):
            raise self._non_finite()
        self.active = ((self.into > 0) | (self.push < 0)) & ((self.out > 0) | (self.push > 0))
        self.active[0] = False
        if graph.cyclic and count is None:
            self.active &= self._reached()

    def _rim_sum(self, weights: list[Weight], *, into: bool) -> Tensor:
        """Σ of ``q`` between ground and free units, which no step changes."""
        total = torch.zeros(self.net.num_nodes, dtype=torch.float64, device=self.ell.device)
        for weight in weights:
            add = weight.sum_into_heads if into else weight.sum_into_tails
            total += add(Values(weight, self._given).whole(), self.net.num_nodes)
        return self._by_scale(total)

    def _by_scale(self, by_unit: Tensor) -> Tensor:
        return torch.zeros_like(self.ell).index_add_(0, self._scale, by_unit)

    def flows(self, down: Tensor, up: Tensor, only: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
        """``(Σ_in q y_tail, Σ_out q x_head)`` by scale, for ``y = down`` and ``x = up``, both by scale.

        With ``only`` just these of the inner weights are summed.
        """
        y, x = down[self._scale], up[self._scale]
        into, out = torch.zeros_like(y), torch.zeros_like(x)
        for values in self.inner if only is None else [self.inner[k] for k in only]:
            weight, q = values.weight, values.read(keep=self.graph.keep)
            head, tail = self._ends[weight.name]
            if values.matrix:
                head, tail = head.reshape(-1), tail.reshape(-1)
                into.index_add_(0, head, torch.mv(q, y[tail]))
                out.index_add_(0, tail, torch.mv(q.T, x[head]))
            else:
                into += weight.sum_into_heads(q * y[tail], len(y))
                out += weight.sum_into_tails(q * x[head], len(x))
        self.passes += only is None
        return self._by_scale(into), self._by_scale(out)

    def _measure(self) -> None:
        """``in`` and ``out`` of every scale where the search now stands."""
        self._grow = (2 * self.ell).exp()
        into, out = self.flows(1 / self._grow, self._grow)
        self.into = self._grow * (into + self.rim_in)
        self.out = (out + self.rim_out) / self._grow
        self._total = self.into.sum() + (self.rim_out / self._grow).sum() + self._constant
        if self._count is None:
            self._factor = torch.ones_like(self._total)
        else:
            self._factor = self._count / self._total
            self.into, self.out = self._factor * self.into, self._factor * self.out

    def _reached(self) -> Tensor:
        """Scales with a way of non-zero weights from ground, or from a fixed unit, and back to one."""
        fixed = (~self.active).double()
        forward = fixed + (self.rim_in > 0)
        backward = fixed + (self.rim_out > 0) + (self.push > 0)
        for _ in range(len(self.ell)):
            into, out = self.flows(forward.clamp(max=1), backward.clamp(max=1))
            more = ((into > 0) & (forward == 0)) | ((out > 0) & (backward == 0))
            if not bool(more.any()):
                break
            forward, backward = forward + (into > 0), backward + (out > 0)
        return (forward > 0) & (backward > 0)

    def residual(self) -> Tensor:
        """The gradient of Φ; 0 for units that are left where they are."""
        return torch.where(self.active, self.into - self.out - self.push, 0.0)

    def imbalance(self) -> float:
        """The largest residual, relative to the flows through its unit."""
        size = torch.where(self.active, self.into + self.out + self.push.abs(), 1.0)
        return float((self.residual().abs() / size).max())

    def objective(self) -> float:
        """2Φ."""
        total = self._total if self._count is None else self._count * self._total.log()
        return float(total - 2 * torch.dot(self.push, self.ell))

    def run(self, tolerance: float) -> Minimum:
        """Steps until the imbalance is at most the tolerance, or rounding lets nothing improve any more."""
        if not 0 < tolerance < 1:
            raise SettingError(f"the tolerance is {tolerance!r}", allowed="a number between 0 and 1, 1e-12 for one")
        imbalance = self.imbalance()
        for _ in range(_MOST_STEPS):
            if imbalance <= tolerance or not self._advance(imbalance, tolerance):
                break
            imbalance = self.imbalance()
        if imbalance > max(tolerance, 1e-9):
            raise EclabError(
                f"no minimum was found: in and out still differ by {imbalance:.1e} of their sum",
                fix="rescale the network towards weights of one size first, or use a model in float64",
            )
        return Minimum(self.ell.exp(), imbalance, self.passes)

    def _advance(self, imbalance: float, tolerance: float) -> bool:
        """One step that does not raise Φ; False where rounding lets nothing improve any more."""
        surely_down = self.unit_steps() / 2
        size, self._rough = self._rough, float(surely_down.abs().max())
        # Unit by unit is best for units far off by themselves, and hopeless for a drift through many layers.
        if self._rough > _ROUGH / 8 and self._rough < 0.8 * size:
            self.to(self.ell + surely_down)
            return True
        before = (self.ell, self._grow, self.into, self.out, self._total, self._factor)
        objective = self.objective()
        step = self._newton(min(0.1, max(imbalance, 0.1 * tolerance / imbalance)))
        step = step * min(1.0, _LONGEST / float(step.abs().max()))
        for halving in range(5):
            self.to(before[0] + step / 2**halving)
            gained = objective - self.objective()
            slack = 1e-12 * abs(objective)
            if gained > slack or (self.imbalance() < imbalance and gained >= -slack):
                return True
        self.ell, self._grow, self.into, self.out, self._total, self._factor = before
        if imbalance < 1e-9:
            return False
        self.to(self.ell + surely_down)
        return True

    def unit_steps(self) -> Tensor:
        """For every unit the step at which Φ is least if all others stay: ``¼ log(out/in)`` where nothing pushes.

        ``in x − out/x = push`` for ``x = e^{2 step}``.
        """
        return torch.where(self.active, _own_step(self.into, self.out, self.push), 0.0)

    def around(self, group: Group) -> tuple[Tensor, Tensor]:
        """``in`` and ``out`` of a group's scales where the search stands; reads only the weights that touch it."""
        scales = group.scales.to(self.ell.device)
        into, out = self.flows((-2 * self.ell).exp(), (2 * self.ell).exp(), group.touching)
        grow = (2 * self.ell[scales]).exp()
        return grow * (into + self.rim_in)[scales], (out + self.rim_out)[scales] / grow

    def sweep(self) -> None:
        """Brings one group of units after another to its minimum while the others stay, as ENorm does.

        What was measured is then out of date: ``to(search.ell)`` measures anew.
        """
        ell = self.ell.clone()
        for group in self.graph.groups:
            scales = group.scales.to(ell.device)
            self.ell = ell
            step = _own_step(*self.around(group), self.push[scales])
            ell[scales] += torch.where(self.active[scales], step, 0.0) / (1 if group.independent else 2)
        self.ell = ell
        self.passes += 2

    def to(self, ell: Tensor) -> None:
        """Go there and measure."""
        self.ell = ell
        self._measure()

    def _newton(self, accuracy: float) -> Tensor:
        """The step with ``½ Hess · step = −½ gradient``, by conjugate gradients with the diagonal as preconditioner."""
        diagonal = torch.where(self.active, self.into + self.out, 1.0)
        r = -self.residual() / 2
        step = torch.zeros_like(r)
        z = r / diagonal
        p, rz = z, torch.dot(r, z)
        goal = accuracy**2 * float(rz)
        for _ in range(min(2 * len(r), 200)):
            along = self._curvature(p, diagonal)
            alpha = rz / torch.dot(p, along)
            step, r = step + alpha * p, r - alpha * along
            z = r / diagonal
            rz, old = torch.dot(r, z), rz
            if float(rz) <= goal:
                break
            p = z + rz / old * p
        return step

    def _curvature(self, y: Tensor, diagonal: Tensor) -> Tensor:
        """Half the Hessian of Φ times ``y``: the Laplacian of the flows, less a rank-one term of the logarithm."""
        into, out = self.flows(y / self._grow, y * self._grow)
        product = diagonal * y - self._factor * (self._grow * into + out / self._grow)
        if self._count is not None:
            net_flow = torch.where(self.active, self.into - self.out, 0.0)
            product = product - net_flow * (torch.dot(net_flow, y) / self._count)
        return torch.where(self.active, product, 0.0)

    def _non_finite(self) -> EclabError:
        for weight in self.net.weights:
            value = weight.parameter if self._given is None else self._given[weight.name]
            if not bool(value.isfinite().all()):
                return NonFiniteError(f"'{weight.name}' holds {float(value[~value.isfinite()][0])}")
        return NonFiniteError("the squares of the weights overflow", fix="rescale the network to smaller weights first")
