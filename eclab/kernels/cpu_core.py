"""The path core on a CPU, compiled by Numba: loops over blocks of rows, and chains over scales.

Importing it imports Numba. Compiled code is kept beside this file, so that only the first step ever waits for it; for
that reason too the functions are plain loops, which compile fast. Every one releases the interpreter's lock, so that
threads of Python share out the rows.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba.core import cgutils, types
from numba.extending import intrinsic
from numba.np.numpy_support import carray

from eclab.kernels.layout import COLS, HEADS, HEADS_BY_ROW, START, TAILS, TAILS_BY_ROW, WEIGHT

_sum = numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"}, error_model="numpy")
# the order of a product is what keeps it in range, so it may not be changed here
_exact = numba.njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")


def _as_pointer(_context: Any, address: Any) -> Any:
    """An address, int64, as the pointer that ``carray`` takes."""

    def generate(_target: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], cgutils.voidptr_t)

    return types.voidptr(address), generate


_pointer: Any = intrinsic(_as_pointer)


@_exact
def row_sums(work, blocks, units, weights, gradients, like, total):  # type: ignore[no-untyped-def]
    """Adds ``Σ_{e into v} w_e g_e`` of some rows to ``total[v]``, float64 ``[H + 1]``.

    Args:
        work: int64 ``[n, 3]``: a block, its first row and how many rows.
        blocks, units: of the layout.
        weights, gradients: int64, addresses of the tensors' data; a gradient of 0 is none.
        like: an empty array of the weights' dtype.
    """
    zero = np.zeros(1, like.dtype)[0]
    for k in range(len(work)):
        block = blocks[work[k, 0]]
        if gradients[block[WEIGHT]] == 0:
            continue
        cols = block[COLS]
        first = block[START] + work[k, 1] * cols
        size = work[k, 2] * cols
        w = carray(_pointer(weights[block[WEIGHT]]), first + size, like.dtype)[first:]
        g = carray(_pointer(gradients[block[WEIGHT]]), first + size, like.dtype)[first:]
        heads = units[block[HEADS] :]
        if block[HEADS_BY_ROW]:
            for row in range(work[k, 2]):
                place = row * cols
                total[heads[work[k, 1] + row]] += _dot(w[place : place + cols], g[place : place + cols], zero)
        else:
            for row in range(work[k, 2]):
                place = row * cols
                _add_products(total, heads[:cols], w[place : place + cols], g[place : place + cols])


@_sum
def _dot(w, g, zero):  # type: ignore[no-untyped-def]
    """``Σ w g``: sums of up to 256 in the weights' dtype, these in float64."""
    total = 0.0
    for start in range(0, len(w), 256):
        one, two = w[start : start + 256], g[start : start + 256]
        part = zero
        for i in range(len(one)):
            part += one[i] * two[i]
        total += part
    return total


@_exact
def _add_products(total, heads, w, g):  # type: ignore[no-untyped-def]
    for i in range(len(w)):
        total[heads[i]] += np.float64(w[i] * g[i])


@_exact
def _load(address, place, like):  # type: ignore[no-untyped-def]
    return np.float64(carray(_pointer(address), place + 1, like.dtype)[place])


@_exact
def _store(address, place, like, value):  # type: ignore[no-untyped-def]
    carray(_pointer(address), place + 1, like.dtype)[place] = value


@_exact
def prepare(a, b, scale_free, weights, gradients, buffers, like, numbers, totals, values, new, sides):  # type: ignore[no-untyped-def]
    """Everything of a step that belongs to units: chains, ``T``, ``δ_b``, the guard. Changes no weight.

    Args:
        a, b, scale_free: of the layout.
        weights, gradients, buffers: int64, addresses of the tensors' data; 0 is none.
        like: an empty array of the weights' dtype.
        numbers: float64: rate, momentum, weight decay, whether Nesterov's, guard, sign of the gradient.
        totals: float64 ``[threads, H + 1]``, the row sums.
        values: float64, gets the weights of the tree edges and then those of the b-edges.
        new: float64 ``[2, b-edges]``, gets the new b-weights and the new momentum there.
        sides: float64 ``[4, H + 1]`` for :func:`update` or ``[8, H + 1]`` for :func:`accumulate`; filled.

    Returns:
        The number of guarded moves; −1 where some number is not finite or a path value 0.
    """
    scales = totals.shape[1]
    cin, cout, flow = np.ones(scales), np.ones(scales), np.zeros(scales)
    _chains(a, b, scale_free, weights, like, cin, cout, values)
    for part in range(len(totals)):
        for scale in range(scales):
            flow[scale] += numbers[5] * totals[part, scale]
    for k in range(len(a)):
        if gradients[a[k, 2]] != 0:
            flow[a[k, 0]] -= values[k] * numbers[5] * _load(gradients[a[k, 2]], a[k, 3], like)
        if a[k, 4]:
            flow[a[k, 0]] += flow[a[k, 1]]
    new_cout = cout.copy()
    guarded = _skeleton_step(b, gradients, buffers, like, numbers, cin, cout, values[len(a) :], flow, new_cout, new)
    for scale in range(scales):
        size = abs(cin[scale] * cout[scale] * new_cout[scale])
        if not (np.isfinite(flow[scale]) and np.isfinite(size) and size > 0.0):
            return -1
    _fill_sides(numbers, cin, cout, new_cout, sides)
    return guarded


@_exact
def _chains(a, b, scale_free, weights, like, cin, cout, values):  # type: ignore[no-untyped-def]
    """``cin`` down the a-forest and ``cout`` from the outputs back; the skeleton's weights into ``values``."""
    for k in range(len(a)):
        values[k] = _load(weights[a[k, 2]], a[k, 3], like)
        cin[a[k, 0]] = cin[a[k, 1]] * values[k]
    for k in range(len(scale_free)):
        cout[scale_free[k]] = 1.0 / cin[scale_free[k]]
    for k in range(len(b)):
        value = _load(weights[b[k, 2]], b[k, 3], like)
        values[len(a) + k] = value
        cout[b[k, 0]] = value * cout[b[k, 1]]


@_exact
def _skeleton_step(b, gradients, buffers, like, numbers, cin, cout, values, flow, new_cout, new):  # type: ignore[no-untyped-def]
    """``δ_b`` and the guard; the new b-weights, momentum and chain. The number of guarded moves."""
    guarded = 0
    for k in range(len(b)):
        scale, head, value = b[k, 0], b[k, 1], values[k]
        v = cin[scale] * value * cout[head]
        delta = 0.0
        if not b[k, 4]:
            own = value * numbers[5] * _load(gradients[b[k, 2]], b[k, 3], like) if gradients[b[k, 2]] != 0 else 0.0
            delta = (own - flow[scale]) / v
        direction = delta + numbers[2] * v
        if numbers[1] != 0.0 and buffers[b[k, 2]] != 0:
            new[1, k] = numbers[1] * _load(buffers[b[k, 2]], b[k, 3], like) + direction
            direction = direction + numbers[1] * new[1, k] if numbers[3] != 0.0 else new[1, k]
        moved = v - numbers[0] * direction
        if not b[k, 4] and moved / v < numbers[4]:
            guarded += 1
            moved = numbers[4] * v
        new[0, k] = value if b[k, 4] else moved / (cin[scale] * new_cout[head])
        new_cout[scale] = new[0, k] * new_cout[head]
    return guarded


@_exact
def _fill_sides(numbers, cin, cout, new_cout, sides):  # type: ignore[no-untyped-def]
    """The head's and the tail's part of every factor of the update.

    Without momentum ``w ← (1 − ηλ) w cout/cout' − η g / (cin² cout cout')``, with it ``w ← w cout/cout' − η m / (cin
    cout')`` where ``m ← μ m + δ + λ v``.
    """
    lr, decay, sign = numbers[0], numbers[2], numbers[5]
    for k in range(len(cin)):
        a, b = 1.0 / cin[k], 1.0 / cout[k]
        sides[0, k] = cout[k] / new_cout[k]
        sides[1, k] = 1.0
        sides[2, k] = lr / new_cout[k]
        sides[3, k] = a
        if len(sides) == 8:
            sides[4, k] = sign * b
            sides[5, k] = a
            sides[6, k] = cout[k]
            sides[7, k] = cin[k]
        else:
            sides[0, k] *= 1.0 - lr * decay
            sides[2, k] *= sign * b
            sides[3, k] *= a


@_exact
def _times_side(part, units, side):  # type: ignore[no-untyped-def]
    for i in range(len(part)):
        part[i] *= side[units[i]]


@_exact
def _largest(part):  # type: ignore[no-untyped-def]
    largest = 0.0
    for i in range(len(part)):
        largest = max(largest, abs(part[i]))
    return largest if 0.0 < largest < np.inf else 1.0


@_exact
def _factors(block, first, units, head_side, tail_side, down, across):  # type: ignore[no-untyped-def]
    """A factor that is one of the head times one of the tail, as one of the row times one of the column.

    Args:
        block, first: the block and the first row.
        head_side, tail_side: float64 ``[H + 1]``, the two parts by scale.
        down, across: the weights' dtype, ``[rows]`` and ``[columns]``, filled. Both get the same largest value, so
            that they fit the dtype whatever the range of the two parts alone.
    """
    rows, cols = len(down), len(across)
    row, col = np.ones(rows), np.ones(cols)
    for at, by_row, side in ((HEADS, HEADS_BY_ROW, head_side), (TAILS, TAILS_BY_ROW, tail_side)):
        if block[by_row]:
            _times_side(row, units[block[at] + first : block[at] + first + rows], side)
        else:
            _times_side(col, units[block[at] : block[at] + cols], side)
    balance = np.sqrt(_largest(row) / _largest(col))
    if not 0.0 < balance < np.inf:
        balance = 1.0
    for i in range(rows):
        down[i] = row[i] / balance
    for i in range(cols):
        across[i] = col[i] * balance


@_exact
def update(work, blocks, units, weights, gradients, like, sides):  # type: ignore[no-untyped-def]
    """``w ← w · keep − g · move`` of some rows, in place; skeleton entries are overwritten afterwards.

    Args:
        work, blocks, units, weights, gradients, like: as above.
        sides: float64 ``[4, H + 1]``: the head's and the tail's part of ``keep``, then of ``move``.
    """
    for k in range(len(work)):
        block, first, rows = blocks[work[k, 0]], work[k, 1], work[k, 2]
        if gradients[block[WEIGHT]] == 0:
            continue
        cols = block[COLS]
        start = block[START] + first * cols
        w = carray(_pointer(weights[block[WEIGHT]]), start + rows * cols, like.dtype)[start:]
        g = carray(_pointer(gradients[block[WEIGHT]]), start + rows * cols, like.dtype)[start:]
        down, across = np.empty((2, rows), like.dtype), np.empty((2, cols), like.dtype)
        for i in range(2):
            _factors(block, first, units, sides[2 * i], sides[2 * i + 1], down[i], across[i])
        for r in range(rows):
            at, to = r * cols, (r + 1) * cols
            _update_row(w[at:to], g[at:to], across[0], across[1], down[0, r], down[1, r])


@_exact
def _update_row(w, g, keep, move, by, to):  # type: ignore[no-untyped-def]
    for i in range(len(w)):
        w[i] = by * (keep[i] * w[i]) - to * (move[i] * g[i])


@_exact
def accumulate(work, blocks, units, weights, gradients, buffers, like, sides, momentum, decay, nesterov):  # type: ignore[no-untyped-def]
    """``m ← μ m + δ + λ v`` and ``w ← w · keep − move · (m, or δ + λ v + μ m)`` of some rows, in place.

    Args:
        sides: float64 ``[8, H + 1]``: the head's and the tail's part of ``keep``, ``move``, ``∂w/∂v`` and ``v/w``.
    """
    numbers = np.ones(4, like.dtype)
    numbers[0], numbers[1], numbers[2] = momentum, decay, nesterov
    if nesterov:
        numbers[3] = momentum
    for k in range(len(work)):
        block, first, rows = blocks[work[k, 0]], work[k, 1], work[k, 2]
        if gradients[block[WEIGHT]] == 0:
            continue
        cols = block[COLS]
        start = block[START] + first * cols
        w = carray(_pointer(weights[block[WEIGHT]]), start + rows * cols, like.dtype)[start:]
        g = carray(_pointer(gradients[block[WEIGHT]]), start + rows * cols, like.dtype)[start:]
        m = carray(_pointer(buffers[block[WEIGHT]]), start + rows * cols, like.dtype)[start:]
        down, across = np.empty((4, rows), like.dtype), np.empty((4, cols), like.dtype)
        for i in range(4):
            _factors(block, first, units, sides[2 * i], sides[2 * i + 1], down[i], across[i])
        for r in range(rows):
            at, to = r * cols, (r + 1) * cols
            _accumulate_row(w[at:to], g[at:to], m[at:to], across, down[:, r], numbers)


@_exact
def _accumulate_row(w, g, m, across, down, numbers):  # type: ignore[no-untyped-def]
    keep, move, slope, value = down[0], down[1], down[2], down[3]
    mu, decay, own, last = numbers[0], numbers[1], numbers[2], numbers[3]
    for i in range(len(w)):
        delta = slope * (across[2, i] * g[i]) + decay * (value * (across[3, i] * w[i]))
        m[i] = mu * m[i] + delta
        w[i] = keep * (across[0, i] * w[i]) - move * (across[1, i] * (own * delta + last * m[i]))


@_exact
def write_skeleton(a, b, weights, buffers, like, values, new, momentum):  # type: ignore[no-untyped-def]
    """Puts b-edges to their new values and momentum, and tree edges back as they were."""
    for k in range(len(b)):
        _store(weights[b[k, 2]], b[k, 3], like, new[0, k])
        if momentum != 0.0 and buffers[b[k, 2]] != 0:
            _store(buffers[b[k, 2]], b[k, 3], like, new[1, k])
    for k in range(len(a)):
        _store(weights[a[k, 2]], a[k, 3], like, values[k])
