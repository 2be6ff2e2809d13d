"""The member of a class with the least Σ w²: a convex problem in the logarithms of the scales."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from eclab.errors import EclabError, NonFiniteError, ScaleError, SettingError
from eclab.network.network import TracedNetwork, Weight

_KEPT_SQUARES = 2**20
_MOST_STEPS = 500
_ROUGH = 1.0


@dataclass(frozen=True)
class Balanced:
    """What a search for balanced scales found.

    Attributes:
        scales: ``c`` by number of the free scale, float64 ``[H + 1]``; entry 0 is ground, 1.
        imbalance: the largest ``|in − out| / (in + out)`` left.
        passes: how often the weights between free units were read.
    """

    scales: Tensor
    imbalance: float
    passes: int


class Balancer:
    r"""Finds balanced scales of one network again and again, as an optimizer does.

    Minimises, over ``ℓ = log c``, the convex

    .. math::
        \Phi(\ell) = \tfrac12 \sum_e w_e^2\, e^{2(\ell_{head} - \ell_{tail})} - \sum_{z\ \text{scale-free}} \ell_z

    whose gradient is ``in_v − out_v`` (``in_z − 1`` for a scale-free unit, so that there ``‖w_in‖ = 1``). Far from the
    minimum it takes steps ``⅛ log(out/in)`` of all units at once, which never raise Φ (an edge's
    ``e^{2(a − b)}`` is at most ``½ e^{4a} + ½ e^{−4b}``); near it, Newton's, by conjugate gradients on the Laplacian
    that the squared weights are of the network's graph.

    It holds O(H) numbers. During a search it needs one temporary of a layer's size, and keeps the squares of networks
    with at most 2²⁰ weights between free units (8 MiB).

    Args:
        net: the network.
    """

    def __init__(self, net: TracedNetwork) -> None:
        self.net = net
        weights = list({weight.name: weight for weight in net.weights}.values())
        scale = net.scale_of
        ends = [(scale[w.head] > 0, scale[w.tail] > 0) for w in weights]
        self._inner = [w for w, (head, tail) in zip(weights, ends, strict=True) if bool(head.any() and tail.any())]
        self._rim_in = [w for w, (head, tail) in zip(weights, ends, strict=True) if bool(head.any() and ~tail.any())]
        self._rim_out = [w for w, (head, tail) in zip(weights, ends, strict=True) if bool(tail.any() and ~head.any())]
        self._cyclic = _has_cycle(net, self._inner)
        self._keep = sum(w.numel for w in self._inner) <= _KEPT_SQUARES

    @torch.no_grad()
    def find(
        self,
        values: Mapping[str, Tensor] | None = None,
        start: Tensor | None = None,
        tolerance: float = 1e-12,
    ) -> Balanced:
        """The balanced scales; arguments and errors as :func:`balanced_scales` has them."""
        search = _Search(self, values, self._start(start), _checked(tolerance))
        return search.run()

    def _start(self, start: Tensor | None) -> Tensor:
        device = self.net.weights[0].parameter.device
        if start is None:
            return torch.zeros(self.net.num_units + 1, dtype=torch.float64, device=device)
        c = torch.as_tensor(start).detach().to(device, torch.float64)
        if c.shape != (self.net.num_units + 1,) or not bool((c.isfinite() & (c > 0)).all()) or float(c[0]) != 1:
            raise ScaleError(
                f"the start has shape {tuple(c.shape)} and values from {c.min():g} to {c.max():g}",
                allowed=f"{self.net.num_units + 1} finite scales > 0, the first one 1",
            )
        return c.log()


def _checked(tolerance: float) -> float:
    if not 0 < tolerance < 1:
        raise SettingError(f"the tolerance is {tolerance!r}", allowed="a number between 0 and 1, 1e-12 for one")
    return float(tolerance)


def _is_matrix(weight: Weight) -> bool:
    """Whether every tail of this weight leads to every head."""
    return weight.kind in ("linear", "conv", "transposed") and weight.groups == 1


def _has_cycle(net: TracedNetwork, inner: list[Weight]) -> bool:
    """Whether weights between free units lead around, as a residual block that reads and writes its stream does."""
    order = torch.zeros(net.num_units + 1, dtype=torch.int64)
    for _ in range(len(inner) + 1):
        before = order.clone()
        for weight in inner:
            head, tail = net.scale_of[weight.head], net.scale_of[weight.tail]
            if _is_matrix(weight):
                head, tail = head.reshape(-1), order[tail[tail > 0]].max().expand(head.numel())
            else:
                head, tail = head.expand(weight.shape), torch.where(tail > 0, order[tail], -1).expand(weight.shape)
            order.scatter_reduce_(0, head.reshape(-1), tail.reshape(-1) + 1, "amax")
        order[0] = 0
        if torch.equal(order, before):
            return False
    return True


class _Squares:
    """``Σ_e q_e y_e`` into heads and out of tails, for the squares (or other values) of one weight."""

    def __init__(self, weight: Weight, values: Mapping[str, Tensor] | None) -> None:
        self.weight, self._given = weight, None if values is None else values[weight.name]
        self.matrix = _is_matrix(weight)
        self._held: Tensor | None = None

    def read(self, *, keep: bool) -> Tensor:
        """float64, the weight's shape; ``[heads, tails]`` where the weight is a matrix between units."""
        if self._held is not None:
            return self._held
        given = self.weight.parameter.detach() if self._given is None else self._given
        q = given.double()
        if self._given is None:
            q = q.square() if q is given else q.square_()
        if self.matrix:
            other = [axis for axis in range(q.ndim) if axis not in self.weight.axes]
            q = q.permute(*self.weight.axes, *other).flatten(2).sum(2) if other else q.permute(self.weight.axes)
        if keep:
            self._held = q
        return q


class _Search:
    """One search: the state of Newton's method on log-scales."""

    def __init__(self, balancer: Balancer, values: Mapping[str, Tensor] | None, ell: Tensor, tolerance: float) -> None:
        net = balancer.net
        self.net, self.ell, self.tolerance, self.passes = net, ell, tolerance, 0
        self._keep = balancer._keep
        self._scale = net.scale_of.to(ell.device)
        self._squares = [_Squares(weight, values) for weight in balancer._inner]
        self._ends = {w.name: (w.head.to(ell.device), w.tail.to(ell.device)) for w in balancer._inner}
        self._rim = (self._rim_sum(balancer._rim_in, values, into=True), self._rim_sum(balancer._rim_out, values))
        self._push = torch.zeros_like(ell)
        self._push[net.scale_free.to(ell.device)] = 1.0
        self._measure()
        finite = self.into.isfinite().all() & self.out.isfinite().all()
        if not bool(finite):
            raise self._non_finite(values)
        self._active = (self.into > 0) & (self.out + self._push > 0)
        self._active[0] = False
        if balancer._cyclic:
            self._active &= self._reached()

    def _rim_sum(self, weights: list[Weight], values: Mapping[str, Tensor] | None, *, into: bool = False) -> Tensor:
        """Σ of the squares between ground and free units, which no step changes."""
        total = torch.zeros(self.net.num_nodes, dtype=torch.float64, device=self.ell.device)
        for weight in weights:
            q = values[weight.name].double() if values else weight.parameter.detach().double().square()
            add = weight.sum_into_heads if into else weight.sum_into_tails
            total += add(q, self.net.num_nodes)
        return self._by_scale(total)

    def _by_scale(self, by_unit: Tensor) -> Tensor:
        return torch.zeros_like(self.ell).index_add_(0, self._scale, by_unit)

    def _flows(self, down: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
        """``(Σ_in q y_tail, Σ_out q x_head)`` by scale, for ``y = down`` and ``x = up``, both by scale."""
        y, x = down[self._scale], up[self._scale]
        into, out = torch.zeros_like(y), torch.zeros_like(x)
        for squares in self._squares:
            weight, q = squares.weight, squares.read(keep=self._keep)
            head, tail = self._ends[weight.name]
            if squares.matrix:
                head, tail = head.reshape(-1), tail.reshape(-1)
                into.index_add_(0, head, torch.mv(q, y[tail]))
                out.index_add_(0, tail, torch.mv(q.T, x[head]))
            else:
                into += weight.sum_into_heads(q * y[tail], len(y))
                out += weight.sum_into_tails(q * x[head], len(x))
        self.passes += 1
        return self._by_scale(into), self._by_scale(out)

    def _measure(self) -> None:
        """``in`` and ``out`` of every scale where the search now stands."""
        self._grow = (2 * self.ell).exp()
        into, out = self._flows(1 / self._grow, self._grow)
        self.into = self._grow * (into + self._rim[0])
        self.out = (out + self._rim[1]) / self._grow

    def _reached(self) -> Tensor:
        """Scales with a way of non-zero weights from ground, or a fixed unit, and back to one."""
        fixed = (~self._active).double()
        forward = fixed + (self._rim[0] > 0)
        backward = fixed + (self._rim[1] > 0) + self._push
        for _ in range(len(self.ell)):
            into, out = self._flows(forward.clamp(max=1), backward.clamp(max=1))
            more = ((into > 0) & (forward == 0)) | ((out > 0) & (backward == 0))
            if not bool(more.any()):
                break
            forward, backward = forward + (into > 0), backward + (out > 0)
        return (forward > 0) & (backward > 0)

    def _residual(self) -> Tensor:
        return torch.where(self._active, self.into - self.out - self._push, 0.0)

    def _imbalance(self) -> float:
        size = torch.where(self._active, self.into + self.out + self._push, 1.0)
        return float((self._residual().abs() / size).max())

    def _objective(self) -> float:
        """2Φ."""
        return float((self.into + self._rim[1] / self._grow - 2 * self._push * self.ell).sum())

    def run(self) -> Balanced:
        imbalance = self._imbalance()
        for _ in range(_MOST_STEPS):
            if imbalance <= self.tolerance or not self._advance(imbalance):
                break
            imbalance = self._imbalance()
        if imbalance > max(self.tolerance, 1e-9):
            raise EclabError(
                f"no balanced scales were found: in and out still differ by {imbalance:.1e} of their sum",
                fix="rescale the network towards weights of one size first, or use a model in float64",
            )
        return Balanced(self.ell.exp(), imbalance, self.passes)

    def _advance(self, imbalance: float) -> bool:
        """One step that does not raise Φ; False where rounding lets nothing improve any more."""
        ratio = torch.where(self._active, (self.out + self._push).log() - self.into.log(), 0.0)
        surely_down = self.ell + ratio / 8 * (1 + self._push)
        if float(ratio.abs().max()) > _ROUGH:
            self._to(surely_down)
            return True
        before, objective = (self.ell, self._grow, self.into, self.out), self._objective()
        step = self._newton(min(0.1, max(imbalance, 0.1 * self.tolerance / imbalance)))
        for halving in range(3):
            self._to(before[0] + step / 2**halving)
            if self._imbalance() < imbalance and self._objective() <= objective + 1e-12 * abs(objective):
                return True
        self.ell, self._grow, self.into, self.out = before
        if imbalance < 1e-9:
            return False
        self._to(surely_down)
        return True

    def _to(self, ell: Tensor) -> None:
        self.ell = ell
        self._measure()

    def _newton(self, accuracy: float) -> Tensor:
        """The step with ``Lap · step = −residual/2``, by conjugate gradients with the diagonal as preconditioner."""
        diagonal = torch.where(self._active, self.into + self.out, 1.0)
        r = -self._residual() / 2
        step = torch.zeros_like(r)
        z = r / diagonal
        p, rz = z, torch.dot(r, z)
        goal = accuracy**2 * float(rz)
        for _ in range(min(2 * len(r), 200)):
            along = self._laplacian(p, diagonal)
            alpha = rz / torch.dot(p, along)
            step, r = step + alpha * p, r - alpha * along
            z = r / diagonal
            rz, old = torch.dot(r, z), rz
            if float(rz) <= goal:
                break
            p = z + rz / old * p
        return step

    def _laplacian(self, y: Tensor, diagonal: Tensor) -> Tensor:
        into, out = self._flows(y / self._grow, y * self._grow)
        product = diagonal * y - self._grow * into - out / self._grow
        return torch.where(self._active, product, 0.0)

    def _non_finite(self, values: Mapping[str, Tensor] | None) -> EclabError:
        for weight in self.net.weights:
            value = weight.parameter if values is None else values[weight.name]
            if not bool(value.isfinite().all()):
                return NonFiniteError(f"'{weight.name}' holds {float(value[~value.isfinite()][0])}")
        return NonFiniteError("the squares of the weights overflow", fix="rescale the network to smaller weights first")


def balanced_scales(
    net: TracedNetwork,
    *,
    values: Mapping[str, Tensor] | None = None,
    start: Tensor | None = None,
    tolerance: float = 1e-12,
) -> Tensor:
    """The scales that lead to the member of the class with the least ``Σ w²``.

    ``argmin_c Σ_e w_e² (c_head / c_tail)²``; there ``Σ_in w² = Σ_out w²`` for every free unit. Units before a
    batch-norm with training statistics could shrink for ever; for them ``‖w_in‖ = 1`` (minimised is then
    ``Σ w² − Σ log c²`` over those). Units whose incoming or outgoing weights are all 0 keep ``c = 1``.

    Args:
        net: the network; nothing is changed.
        values: by parameter name, non-negative tensors of the parameters' shapes, to balance in place of ``w²``.
        start: scales to start from, float64 ``[H + 1]``; those of a step earlier make the search a few passes long.
            Started from scales that lead to the same member, two members of a class go the same way to rounding.
        tolerance: the search ends where ``|in − out| ≤ tolerance · (in + out)`` for every unit.

    Returns:
        ``c`` by number of the free scale (``net.scale_of``), float64 ``[H + 1]`` on the weights' device; entry 0, for
        ground, is 1.

    Raises:
        NonFiniteError: a weight is NaN or infinite, or its square overflows.
        ScaleError, SettingError: the start or the tolerance is out of range.

    Example:
        >>> import torch, eclab
        >>> from eclab.classes import balanced_scales
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Linear(1, 1, bias=False), torch.nn.ReLU(), torch.nn.Linear(1, 1, bias=False))
        >>> model[0].weight.data.fill_(8.0), model[2].weight.data.fill_(2.0)
        (tensor([[8.]]), tensor([[2.]]))
        >>> balanced_scales(eclab.trace(model, torch.ones(1, 1)))
        tensor([1.0000, 0.5000], dtype=torch.float64)

    Source: P. Stock et al., Equi-normalization of neural networks (ICLR 2019), whose sweeps go to the same minimum;
    E. E. Osborne, On pre-conditioning of matrices (1960), the same problem for one matrix.
    """
    return Balancer(net).find(values, start, tolerance).scales
