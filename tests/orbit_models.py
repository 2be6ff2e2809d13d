"""Networks whose classes the tests of orbit moves walk along, and a convex solver to compare with."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize, root
from torch import Tensor, nn

from eclab.facade import Network, trace
from tests.zoo import MEMBERS, Member


class Residual(nn.Module):
    """Two residual blocks on one stream: a bottleneck, and one that reads and writes the stream directly."""

    def __init__(self, width: int = 5) -> None:
        super().__init__()
        self.stem = nn.Linear(3, width)
        self.down, self.up = nn.Linear(width, 4), nn.Linear(4, width)
        self.direct = nn.Linear(width, width)
        self.head = nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Stem, two blocks, head."""
        x = torch.relu(self.stem(x))
        x = x + self.up(torch.relu(self.down(x)))
        scores: Tensor = self.head(torch.relu(x + self.direct(x)))
        return scores


def normed() -> nn.Sequential:
    """Two batch-norms, for training mode."""
    return nn.Sequential(
        nn.Conv1d(2, 5, 2, bias=False),
        nn.BatchNorm1d(5, eps=1e-14),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(15, 3),
        nn.BatchNorm1d(3, eps=1e-14),
        nn.ReLU(),
        nn.Linear(3, 3),
    )


def residual_net(dtype: torch.dtype = torch.float64) -> tuple[Network, Tensor]:
    """The residual network and samples."""
    torch.manual_seed(1)
    x = torch.randn(6, 3, dtype=dtype)
    return trace(Residual().to(dtype), x), x


def normed_net(dtype: torch.dtype = torch.float64) -> tuple[Network, Tensor]:
    """The network with batch-norms in training mode and samples."""
    torch.manual_seed(2)
    x = torch.randn(6, 2, 4, dtype=dtype)
    return trace(normed().to(dtype).train(), x), x


def every_net(members: Mapping[str, Member] = MEMBERS) -> dict[str, tuple[Network, Tensor]]:
    """Networks of the zoo, the residual one and the one with batch-norms, in float64."""
    return {name: member.trace() for name, member in members.items()} | {
        "residual": residual_net(),
        "batch-norm, training": normed_net(),
    }


def edge_list(net: Network, values: Mapping[str, Tensor]) -> tuple[NDArray[np.int64], NDArray[np.int64], Tensor]:
    """Scales at head and tail of every weight, and its value: one entry a weight."""
    weights = list({weight.name: weight for weight in net.weights}.values())
    heads = torch.cat([net.scale_of[w.head].expand(w.shape).reshape(-1) for w in weights])
    tails = torch.cat([net.scale_of[w.tail].expand(w.shape).reshape(-1) for w in weights])
    return heads.numpy(), tails.numpy(), torch.cat([values[w.name].reshape(-1).double() for w in weights])


def convex_minimum(net: Network, squares: Mapping[str, Tensor], sign: int = 1) -> NDArray[np.float64]:
    """Log-scales ``[H + 1]`` that minimise ``½ Σ_e q_e exp(2 sign (ℓ_head − ℓ_tail)) − sign Σ_scale-free ℓ``."""
    head, tail, q = edge_list(net, squares)
    n = net.num_units + 1
    push = np.zeros(n)
    push[net.scale_free.numpy()] = 1.0

    def parts(free: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        ell = np.concatenate([[0.0], free])
        return ell, q.numpy() * np.exp(2 * sign * (ell[head] - ell[tail]))

    def objective(free: NDArray[np.float64]) -> float:
        ell, e = parts(free)
        return float(e.sum() / 2 - sign * (push * ell).sum())

    def gradient(free: NDArray[np.float64]) -> NDArray[np.float64]:
        _, e = parts(free)
        slope: NDArray[np.float64] = sign * (np.bincount(head, e, n) - np.bincount(tail, e, n) - push)[1:]
        return slope

    def hessian(free: NDArray[np.float64]) -> NDArray[np.float64]:
        _, e = parts(free)
        matrix = np.zeros((n, n))
        for one, two, way in ((head, head, 2), (tail, tail, 2), (head, tail, -2), (tail, head, -2)):
            np.add.at(matrix, (one, two), way * e)
        return matrix[1:, 1:]

    rough = minimize(objective, np.zeros(n - 1), jac=gradient, hess=hessian, method="trust-exact")
    exact = root(gradient, rough.x, jac=hessian, method="hybr", options={"xtol": 1e-15})
    return np.concatenate([[0.0], exact.x])
