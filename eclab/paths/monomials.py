"""Any path as a product of basis paths, with whole-number exponents."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from eclab.errors import ChartError
from eclab.paths.chart import Chart
from eclab.paths.skeleton import Edge


def exponents(chart: Chart, edges: Iterable[Edge]) -> dict[Edge, int]:
    """A path's value as a monomial in the class coordinates: ``v_p = ∏_e v_e^{n_e}``.

    Where the tree weights are 1, ``w_e = v_e / cout(head)`` off the tree, and ``cout(u)`` is the coordinate of the
    first b-edge on the b-chain of ``u`` that is no tree edge (1 where there is none). So every non-tree edge of the
    path counts +1, and for each of them that b-edge counts −1. A path's value does not depend on how the tree weights
    are scaled, so this holds whatever they are.

    Args:
        chart: the chart.
        edges: a path from ground to ground, as in :attr:`TopPath.edges` or :attr:`BasisPath.edges`.

    Returns:
        The exponents that are not 0, by the edge whose coordinate it is.

    Raises:
        ChartError: the edges are no path from ground to ground.

    Example:
        >>> import torch, eclab
        >>> from torch.nn import Linear, ReLU, Sequential
        >>> model = Sequential(Linear(2, 2, bias=False), ReLU(), Linear(2, 2, bias=False))
        >>> net = eclab.trace(model, torch.ones(1, 2))
        >>> path = next(path for path in net.top_paths(8) if [e.index for e in path.edges] == [(1, 0), (0, 1)])
        >>> {str(edge): n for edge, n in exponents(net.chart(), path.edges).items()}
        {'0.weight[1,0]': 1, '2.weight[1,1]': -1, '2.weight[0,1]': 1}

    Source: Meng et al. 2018 (arXiv:1802.03713), section 3, basis paths; any widths: theory §2.
    """
    path = tuple(edges)
    _refuse_no_path(chart, path)
    found: dict[Edge, int] = {}
    for edge in path:
        if not edge.parameter or chart.role(edge) == "tree":
            continue
        found[edge] = found.get(edge, 0) + 1
        below = _first_coordinate_below(chart, edge.head)
        if below is not None:
            found[below] = found.get(below, 0) - 1
    return {edge: n for edge, n in found.items() if n}


def _first_coordinate_below(chart: Chart, unit: int) -> Edge | None:
    scale = int(chart.net.scale_of[unit])
    while scale in chart.skeleton.b:
        edge = chart.skeleton.b[scale]
        if chart.role(edge) != "tree":
            return edge
        scale = int(chart.net.scale_of[edge.head])
    return None


def _refuse_no_path(chart: Chart, path: tuple[Edge, ...]) -> None:
    scale = chart.net.scale_of
    joined = all(one.head == two.tail for one, two in pairwise(path))
    if not path or not joined or scale[path[0].tail] or scale[path[-1].head]:
        raise ChartError(
            f"{' · '.join(map(str, path)) or 'nothing'} is no path from ground to ground",
            allowed="edges that follow one another from an input or bias to an output or pinned unit",
            fix="take the edges of a path from net.top_paths() or chart.basis_path()",
        )
