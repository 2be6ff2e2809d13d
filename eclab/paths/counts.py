"""How many paths a network has, exactly."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from eclab.network.network import SOURCE, Link, TracedNetwork, Weight

Counts = NDArray[np.object_]


def count_paths(net: TracedNetwork) -> int:
    """The number of paths from a source to an output.

    ``n_v = Σ_{e = (u → v)} n_u``, with 1 at every source, summed over the outputs.

    Sources are the constant source of the biases, the inputs, and values no weight leads to. Kernel taps and the
    positions behind a flatten are parallel edges. Paths run through pinned hidden units.

    Args:
        net: the traced network.

    Returns:
        An exact integer of any size.

    Example:
        >>> import torch, eclab
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
        >>> net = eclab.trace(model, torch.ones(1, 2))
        >>> net.count_paths()  # 2·3·2 from inputs, 3·2 and 2 from biases
        20

    Source: theory §1, path; dynamic programming along the graph.
    """
    count: Counts = np.zeros(net.num_nodes, dtype=object)
    count[sources(net)] = 1
    for edges in net.edges:
        add_counts(edges, count)
    return int(sum(count[net.outputs.numpy()]))


def sources(net: TracedNetwork) -> NDArray[np.bool_]:
    """Bool ``[num_nodes]``: where paths start, which is where no weight leads to."""
    start = np.ones(net.num_nodes, dtype=bool)
    for edges in net.edges:
        start[edges.head.reshape(-1).numpy()] = False
    start[SOURCE] = True
    return start


def add_counts(weight: Weight | Link, count: Counts) -> None:
    """Adds to every head what its tails hold, one term for each of the parallel edges."""
    if isinstance(weight, Link):
        np.add.at(count, weight.head.numpy(), count[weight.tail.numpy()])
        return
    head, values = weight.head.numpy(), np.asarray(count[weight.tail.numpy()], dtype=object)  # one tail is no array
    head = head.reshape((1,) * (len(weight.shape) - head.ndim) + head.shape)
    values = values.reshape((1,) * (len(weight.shape) - values.ndim) + values.shape)
    for axis, size in enumerate(weight.shape):
        if head.shape[axis] == 1:
            values = values.sum(axis, keepdims=True) * (size if values.shape[axis] == 1 else 1)
    np.add.at(count, head.reshape(-1), np.broadcast_to(values, head.shape).reshape(-1))
