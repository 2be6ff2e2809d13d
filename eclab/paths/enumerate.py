"""Every path, one by one: slow, obvious, and independent of charts and dynamic programming. For small networks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from eclab.errors import EclabError
from eclab.network.network import SOURCE, Link, TracedNetwork
from eclab.paths.skeleton import Edge

Path = tuple[Edge, ...]


def segments(net: TracedNetwork, limit: int = 20_000) -> list[Path]:
    """Every path from ground to ground; their values are what rescaling leaves as it is.

    Ground is the constant source, the inputs, every unit that cannot scale, and as an end also what goes into a
    batch-norm with training statistics. A path ends at the first ground unit
    that it reaches, so a whole path through a pinned unit is several of these, one behind the other.

    Args:
        net: the traced network.
        limit: how many paths to find at most.

    Returns:
        The paths, each as its edges from first to last.

    Raises:
        EclabError: there are more paths than the limit.

    Example:
        >>> import torch, eclab
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
        >>> len(segments(eclab.trace(model, torch.ones(1, 2))))
        20

    Source: theory §1, path and ground.
    """
    ends = {0, *net.scale_free.tolist()}
    ground = {number for number, scale in enumerate(net.scale_of.tolist()) if scale in ends}
    starts = [unit for unit in sorted(ground) if net.scale_of[unit] == 0]
    return _walk(net, starts, lambda unit: unit in ground, stop_there=True, limit=limit)


def whole_paths(net: TracedNetwork, limit: int = 20_000) -> list[Path]:
    """Every path from a source to an output, through pinned units too: what counts and largest paths speak of.

    Args:
        net: the traced network.
        limit: how many paths to find at most.

    Returns:
        The paths, each as its edges from first to last.

    Raises:
        EclabError: there are more paths than the limit.

    Source: theory §1, path.
    """
    heads = {edge.head for edge in _edges(net)}
    starts = [unit for unit in range(net.num_nodes) if unit == SOURCE or unit not in heads]
    outputs = set(net.outputs.tolist())
    return _walk(net, starts, lambda unit: unit in outputs, stop_there=False, limit=limit)


def path_matrix(net: TracedNetwork, limit: int = 20_000) -> NDArray[np.int64]:
    """The (path × edge) 0/1 matrix of theory §1 over :func:`segments`.

    Where a batch-norm with training statistics takes a unit's scale away, no path through the unit has a value of its
    own, but the ratio of two that end there has: such rows are the difference to the first path that ends there.

    Args:
        net: the traced network.
        limit: how many paths to find at most.

    Returns:
        int64 ``[paths, m]``; columns are the weights, parameter by parameter in the order of ``net.weights``.

    Raises:
        EclabError: there are more paths than the limit.
    """
    column = columns(net)
    paths = segments(net, limit)
    matrix = np.zeros((len(paths), len(column)), dtype=np.int64)
    for row, path in enumerate(paths):
        for edge in path:
            if edge.parameter:
                matrix[row, column[edge.parameter, edge.index]] += 1
    free = set(net.scale_free.tolist())
    first: dict[int, NDArray[np.int64]] = {}
    for row, path in enumerate(paths):
        scale = int(net.scale_of[path[-1].head])
        if scale in free:
            matrix[row] -= first.setdefault(scale, matrix[row].copy())
    return matrix


def rank(net: TracedNetwork, limit: int = 20_000) -> int:
    """The rank of :func:`path_matrix`, which is ``m − H``.

    Args:
        net: the traced network.
        limit: how many paths to find at most.

    Raises:
        EclabError: there are more paths than the limit.
    """
    return int(np.linalg.matrix_rank(path_matrix(net, limit)))


def columns(net: TracedNetwork) -> dict[tuple[str, tuple[int, ...]], int]:
    """The number of every weight, parameter by parameter; a shared one has one number."""
    found: dict[tuple[str, tuple[int, ...]], int] = {}
    for weight in net.weights:
        for index in np.ndindex(weight.shape):
            found.setdefault((weight.name, index), len(found))
    return found


def _edges(net: TracedNetwork) -> list[Edge]:
    weights = [Edge(w.name, index, *w.ends(index)) for w in net.weights for index in np.ndindex(w.shape)]
    links = [edges for edges in net.edges if isinstance(edges, Link)]
    pairs = [pair for link in links for pair in zip(link.tail.tolist(), link.head.tolist(), strict=True)]
    return [*weights, *(Edge("", (), tail, head) for tail, head in pairs)]


def _walk(
    net: TracedNetwork, starts: list[int], is_end: Callable[[int], bool], *, stop_there: bool, limit: int
) -> list[Path]:
    """Depth-first search; a path is complete at every end it meets, and goes on behind it unless told to stop."""
    leaving: dict[int, list[Edge]] = {}
    for edge in _edges(net):
        leaving.setdefault(edge.tail, []).append(edge)
    found: list[Path] = []
    waiting: list[Path] = [(edge,) for unit in starts for edge in leaving.get(unit, [])]
    while waiting:
        path = waiting.pop()
        head = path[-1].head
        if is_end(head):
            found.append(path)
            if len(found) > limit:
                raise EclabError(
                    f"the network has more than {limit} paths",
                    allowed="a network small enough to list them",
                    fix="count them with net.count_paths(), or find the largest with net.top_paths()",
                )
            if stop_there:
                continue
        waiting += [(*path, edge) for edge in leaving.get(head, [])]
    return found
