"""Batch-norm with frozen statistics as the affine edges that it is.

``u = γ (z − μ)/σ + β = γ̃ z + β̃`` with ``γ̃ = γ/σ`` and ``β̃ = β − γ μ/σ``. Paths run through ``γ̃`` and ``β̃``, and a
rescaling acts on these: ``γ̃ ← γ̃ c_u / c_z``, ``β̃ ← β̃ c_u``. Of the parameters that the model holds, ``β`` so moves
along when ``z`` is rescaled. What works on paths or classes does so :func:`on_edges`: meanwhile the parameters hold
``γ̃`` and ``β̃``, and their gradients those with respect to them, ``σ g_γ + μ g_β`` and ``g_β``.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from eclab.network.network import TracedNetwork

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class FrozenNorm:
    """Names of what one batch-norm with frozen statistics holds.

    Attributes:
        gamma, beta: its parameters, ``γ`` and ``β``.
        mean, variance: its buffers, ``μ`` and ``σ²``.
        eps: what is added to the variance.
    """

    gamma: str
    beta: str
    mean: str
    variance: str
    eps: float

    def statistics(self, model: nn.Module, like: Tensor) -> tuple[Tensor, Tensor]:
        """``μ`` and ``σ`` in float64, on the device of ``like``."""
        mean, variance = model.get_buffer(self.mean), model.get_buffer(self.variance)
        return mean.to(like.device).double(), (variance.to(like.device).double() + self.eps).sqrt()


class _Inside(threading.local):
    """How deep the calls of this thread are within one model's edges."""

    depth = 0


_locks: WeakKeyDictionary[nn.Module, tuple[threading.RLock, _Inside]] = WeakKeyDictionary()
_making = threading.Lock()


@contextmanager
def on_edges(net: TracedNetwork) -> Iterator[None]:
    """Inside, parameters and gradients of frozen batch-norms are those of the edges ``γ̃`` and ``β̃``.

    What was not changed inside is the very same afterwards. The memory the parameters had is not written before the
    end, so a graph that was recorded can still be differentiated if nothing was changed. One thread at a time.

    Args:
        net: the network; one without frozen batch-norms costs nothing.
    """
    if not net.frozen_norms:
        yield
        return
    with _making:
        lock, inside = _locks.setdefault(net.model, (threading.RLock(), _Inside()))
    with lock:
        if inside.depth:
            yield
            return
        inside.depth += 1
        held = [_Held(norm, net.model) for norm in net.frozen_norms]
        try:
            yield
        finally:
            inside.depth -= 1
            for norm in held:
                norm.put_back()


class _Held:
    """One norm whose parameters hold their edges for a while."""

    def __init__(self, norm: FrozenNorm, model: nn.Module) -> None:
        self.gamma, self.beta = model.get_parameter(norm.gamma), model.get_parameter(norm.beta)
        self.mean, self.sigma = norm.statistics(model, self.gamma)
        self.old = [(p.data, p.grad) for p in (self.gamma, self.beta)]
        factor, offset = self.gamma.data.double(), self.beta.data.double()
        self.gamma.data = (factor / self.sigma).to(self.gamma.dtype)
        self.beta.data = (offset - factor * self.mean / self.sigma).to(self.beta.dtype)
        if self.gamma.grad is not None and self.beta.grad is not None:
            joined = self.sigma * self.gamma.grad.double() + self.mean * self.beta.grad.double()
            self.gamma.grad, self.beta.grad = joined.to(self.gamma.grad.dtype), self.beta.grad.clone()
        self.given = [(p.data.clone(), None if p.grad is None else p.grad.clone()) for p in (self.gamma, self.beta)]

    def put_back(self) -> None:
        """The parameters with these edges, and the gradients with respect to them."""
        now = [(p.data, p.grad) for p in (self.gamma, self.beta)]
        for p, (data, gradient) in zip((self.gamma, self.beta), self.old, strict=True):
            p.data, p.grad = data, gradient
        with torch.no_grad():
            self._weights(now)
            self._gradients(now)

    def _weights(self, now: list[tuple[Tensor, Tensor | None]]) -> None:
        if all(torch.equal(data, before) for (data, _), (before, _) in zip(now, self.given, strict=True)):
            return
        factor, offset = (data.double() for data, _ in now)
        if not torch.equal(now[0][0], self.given[0][0]):
            self.gamma.copy_(factor * self.sigma)
        self.beta.copy_(offset + factor * self.mean)

    def _gradients(self, now: list[tuple[Tensor, Tensor | None]]) -> None:
        (joined, own), (before, own_before) = (pair[1] for pair in now), (pair[1] for pair in self.given)
        if joined is None or own is None or before is None or own_before is None:
            return
        if torch.equal(joined, before) and torch.equal(own, own_before):
            return
        if self.gamma.grad is not None and self.beta.grad is not None:
            self.beta.grad.copy_(own)
            self.gamma.grad.copy_((joined.double() - self.mean * own.double()) / self.sigma)


def works_on_edges(function: Callable[P, R]) -> Callable[P, R]:
    """Runs a function or method :func:`on_edges` of the network that is its first argument, or its ``net``."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        first: Any = args[0]
        with on_edges(first if hasattr(first, "frozen_norms") else first.net):
            return function(*args, **kwargs)

    return wrapped


def edges_of(net: TracedNetwork, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``γ̃`` and ``β̃`` in place of ``γ`` and ``β``, as a function that can be differentiated.

    Args:
        net: the network; its buffers are read, not its parameters.
        weights: tensors by parameter name.

    Returns:
        The same tensors but for those of frozen batch-norms.
    """
    found = dict(weights)
    for norm in net.frozen_norms:
        gamma, beta = weights[norm.gamma], weights[norm.beta]
        mean, sigma = norm.statistics(net.model, gamma)
        found[norm.gamma] = (gamma.double() / sigma).to(gamma.dtype)
        found[norm.beta] = (beta.double() - gamma.double() * mean / sigma).to(beta.dtype)
    return found


def weights_of(net: TracedNetwork, edges: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parameters with these edges, the inverse of :func:`edges_of`; it can be differentiated too."""
    found = dict(edges)
    for norm in net.frozen_norms:
        gamma, beta = edges[norm.gamma], edges[norm.beta]
        mean, sigma = norm.statistics(net.model, gamma)
        found[norm.gamma] = (gamma.double() * sigma).to(gamma.dtype)
        found[norm.beta] = (beta.double() + gamma.double() * mean).to(beta.dtype)
    return found


def edge_gradients(net: TracedNetwork, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gradients with respect to the edges from those with respect to the parameters: ``σ g_γ + μ g_β`` and ``g_β``."""
    found = dict(gradients)
    for norm in net.frozen_norms:
        if norm.gamma in gradients and norm.beta in gradients:
            gamma, beta = gradients[norm.gamma], gradients[norm.beta]
            mean, sigma = norm.statistics(net.model, gamma)
            found[norm.gamma] = (sigma * gamma.double() + mean * beta.double()).to(gamma.dtype)
    return found
