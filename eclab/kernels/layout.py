"""A chart as flat arrays for compiled cores: blocks of the weights, and the chains in the order they are walked.

A compiled core sees every weight as matrices, its first axis by all others. In each *block* of rows the units at both
ends depend on the row alone or on the column alone, so that every factor of the step is one of the row times one of the
column: ``[out, in]`` layers and convolutions have heads by row and tails by column, transposed ones the other way
round, and a grouped convolution is one block a group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eclab.kernels.plan import Edges, Plan

Ints = NDArray[np.int64]

WEIGHT, START, ROWS, COLS, HEADS, HEADS_BY_ROW, TAILS, TAILS_BY_ROW = range(8)
"""Columns of ``Layout.blocks``."""


@dataclass(frozen=True, eq=False)
class Layout:
    """What a compiled core is given of a chart; O(H + widths) numbers.

    Attributes:
        shapes: the shape of every weight.
        blocks: int64 ``[blocks, 8]``: the weight's number, the block's first element in it, rows, columns, where its
            heads begin in ``units`` and whether they go by row, and the same of its tails.
        units: int64, the scales at rows and columns of all blocks, one behind the other.
        a: int64 ``[H, 5]``, down the a-forest: scale, scale of the tail, the weight's number, the place in it, and
            whether the b-edge of the tail is this very edge, which passes ``T`` on.
        b: int64 ``[b-edges, 5]``, from the outputs back: scale, scale of the head, weight, place, whether in the tree.
        scale_free: int64, scales without a b-edge.
        num_scales: ``H + 1``.
    """

    shapes: tuple[tuple[int, ...], ...]
    blocks: Ints
    units: Ints
    a: Ints
    b: Ints
    scale_free: Ints
    num_scales: int

    @cached_property
    def num_elements(self) -> int:
        """How many weights all blocks hold together."""
        return int((self.blocks[:, ROWS] * self.blocks[:, COLS]).sum())


def layout(plan: Plan, shapes: Sequence[tuple[int, ...]]) -> Layout:
    """The arrays for a plan and the shapes of its weights."""
    units: list[Tensor] = []
    blocks: list[list[int]] = []
    filled = 0
    for number, (heads, tails, shape) in enumerate(zip(plan.heads, plan.tails, shapes, strict=True)):
        head, tail = (_as_matrix(part, shape) for part in (heads, tails))
        rows, cols = _size(shape)
        for first, count in _runs(head, tail, rows):
            found = [_by_row_or_column(part, first, count) for part in (head, tail)]
            entry = [number, first * cols, count, cols]
            for listed, by_row in found:
                entry += [filled, int(by_row)]
                units.append(listed)
                filled += len(listed)
            blocks.append(entry)
    passing = {(int(t), int(h)) for tail, head in plan.passes for t, h in zip(tail, head, strict=True)}
    a = _edges(plan.tree, shapes)
    a[:, 4] = [(int(tail), int(scale)) in passing for scale, tail in a[:, :2]]
    return Layout(
        tuple(shapes),
        np.array(blocks, dtype=np.int64).reshape(-1, 8),
        torch.cat(units).numpy(),
        a,
        _edges(plan.b_edges, shapes),
        plan.scale_free.numpy(),
        plan.num_scales,
    )


def _size(shape: tuple[int, ...]) -> tuple[int, int]:
    """A weight's size as a matrix; one without axes is 1 × 1."""
    rows = shape[0] if shape else 1
    return rows, int(torch.Size(shape).numel()) // max(rows, 1)


def _as_matrix(units: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Scales that broadcast to ``shape``, as ``[1 or rows, 1 or columns]``."""
    units = units.reshape((1,) * (max(1, len(shape)) - units.ndim) + units.shape)
    if all(size == 1 for size in units.shape[1:]):
        return units.reshape(-1, 1)
    return units.expand(units.shape[0], *shape[1:]).reshape(units.shape[0], -1)


def _runs(head: Tensor, tail: Tensor, rows: int) -> list[tuple[int, int]]:
    """``(first, count)`` of the longest runs of rows with the same columns."""
    new = torch.zeros(rows, dtype=torch.bool)
    new[0] = True
    for units in (head, tail):
        if len(units) == rows > 1 and units.shape[1] > 1:
            new[1:] |= (units[1:] != units[:-1]).any(1)
    first = new.nonzero().flatten().tolist()
    return list(zip(first, np.diff([*first, rows]).tolist(), strict=True))


def _by_row_or_column(units: Tensor, first: int, count: int) -> tuple[Tensor, bool]:
    if units.shape[1] > 1:
        return units[first if len(units) > 1 else 0], False
    return (units[first : first + count, 0] if len(units) > 1 else units[0].expand(count)), True


def _edges(batches: tuple[Edges, ...], shapes: Sequence[tuple[int, ...]]) -> Ints:
    rows: list[Ints] = [np.zeros((0, 5), dtype=np.int64)]
    for edges in batches:
        index = tuple(axis.numpy() for axis in edges.index)
        place = np.ravel_multi_index(index, shapes[edges.weight]) if index else np.zeros(len(edges.scale), np.int64)
        number = np.full(len(edges.scale), edges.weight)
        rows.append(np.stack([edges.scale.numpy(), edges.other.numpy(), number, place, edges.in_tree.numpy()], 1))
    return np.concatenate(rows).astype(np.int64)
