"""From many records to the points of a line: what is drawn is real, extremes stay, and a line stays short."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

MOST_POINTS = 2000
"""Points a drawn line may have."""

Points = tuple[NDArray[np.float64], NDArray[np.float64]]


def finite(x: ArrayLike, y: ArrayLike, *, positive: bool = False) -> Points:
    """The points whose x and y are numbers, and with `positive` whose y is above 0, as a log axis needs.

    Example:
        >>> [part.tolist() for part in finite([1, 2, 3], [0.5, float("nan"), -1.0], positive=True)]
        [[1.0], [0.5]]
    """
    across, up = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    keep = np.isfinite(across) & np.isfinite(up)
    if positive:
        keep &= up > 0
    return across[keep], up[keep]


def thin(x: ArrayLike, y: ArrayLike, points: int = MOST_POINTS) -> Points:
    """At most so many of the points, first and last, and the lowest and highest of every stretch, so no peak is lost.

    Args:
        x: positions, ascending.
        y: values.
        points: at most so many, 4 to 2,000.

    Returns:
        Positions and values, both of them given ones.

    Example:
        >>> x = np.arange(10_000.0); y = np.zeros(10_000); y[5_003] = 7
        >>> kept, values = thin(x, y, 100)
        >>> len(kept) <= 100, values.max().item(), kept[0].item(), kept[-1].item()
        (True, 7.0, 0.0, 9999.0)
    """
    across, up = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    most = max(4, min(int(points), MOST_POINTS))
    if len(across) <= most:
        return across, up
    kept = {0, len(across) - 1}
    for start, stop in _stretches(len(across), (most - 2) // 2):
        part = up[start:stop]
        kept |= {start + int(part.argmin()), start + int(part.argmax())}
    order = np.array(sorted(kept))
    return across[order], up[order]


def smooth(x: ArrayLike, y: ArrayLike, weight: float = 0.6, stretches: int = 200) -> Points:
    """A line through the means of at most so many stretches, then an exponential mean without its start-up bias.

    s_k = weight * s_{k-1} + (1 - weight) * y_k, divided by 1 - weight^k.

    Args:
        x: positions, ascending.
        y: values.
        weight: of what came before, 0 (means only) to below 1.
        stretches: the line has at most so many points.

    Example:
        >>> [part.tolist() for part in smooth([1, 2, 3], [1.0, 1.0, 1.0], 0.9)]
        [[1.0, 2.0, 3.0], [1.0, 1.0, 1.0]]
    """
    across, up = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    parts = list(_stretches(len(across), max(1, min(stretches, MOST_POINTS))))
    places = [float(across[stop - 1]) for _, stop in parts]
    means = [float(up[start:stop].mean()) for start, stop in parts]
    past, bias, line = 0.0, 1.0, []
    for mean in means:
        past, bias = weight * past + (1 - weight) * mean, bias * weight
        line.append(past / (1 - bias))
    return np.array(places), np.array(line)


def limits(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Where an axis should end when a few values are far beyond all others, as before a lane diverges.

    An end is given where values go beyond 30 times the 95th percentile of their size; lines leave the picture there.

    Example:
        >>> limits([1.0] * 100 + [1e30]), limits([1.0, 2.0, 3.0])
        ((None, 30.0), (None, None))
    """
    if not values:
        return None, None
    array = np.asarray(values, dtype=float)
    most = 30 * float(np.quantile(np.abs(array), 0.95))
    low = -most if array.min() < -most else None
    return low, most if array.max() > most else None


def _stretches(length: int, count: int) -> Sequence[tuple[int, int]]:
    edges = np.linspace(0, length, min(count, length) + 1).astype(int)
    return [(int(start), int(stop)) for start, stop in pairwise(edges) if stop > start]


def rounded(value: float, digits: int = 6) -> float:
    """The number with so many significant digits, to keep charts small in notebooks.

    Example:
        >>> rounded(0.123456789)
        0.123457
    """
    if value == 0 or not math.isfinite(value):
        return value
    return round(value, digits - 1 - math.floor(math.log10(abs(value))))
