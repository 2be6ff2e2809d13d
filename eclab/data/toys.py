"""Four small problems in the plane, after those of the TensorFlow Playground, seeded.

Source: the shapes follow `dataset.ts` of tensorflow/playground (Smilkov and Carter, 2016): its points within +-5 are
halved and a bit more, to +-2, which is close to variance 1; the classes are exactly balanced; noise from 0 to 0.5.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
RADIUS = 5.0
SCALE = 2.5


def circle(rng: np.random.Generator, half: int, noise: float) -> tuple[Points, Points]:
    """A disc inside a ring; noise moves points across the gap."""

    def ring(inner: float, outer: float) -> Points:
        r, angle = rng.uniform(inner, outer, half), rng.uniform(0, 2 * np.pi, half)
        return np.stack([r * np.sin(angle), r * np.cos(angle)], axis=1) + _jitter(rng, half, noise * RADIUS / 3)

    return ring(0.7 * RADIUS, RADIUS), ring(0.0, 0.5 * RADIUS)


def xor(rng: np.random.Generator, half: int, noise: float) -> tuple[Points, Points]:
    """Four squares; the two on a diagonal are one class."""
    points = []
    for flip in (-1.0, 1.0):
        first = rng.uniform(0.3, RADIUS + 0.3, (half, 2)) * rng.choice([-1.0, 1.0], (half, 1))
        points.append(first * np.array([1.0, flip]) + _jitter(rng, half, noise * RADIUS / 2))
    return points[0], points[1]


def gauss(rng: np.random.Generator, half: int, noise: float) -> tuple[Points, Points]:
    """Two round clouds; the standard deviation grows with the noise."""
    deviation = np.sqrt(0.5 + 7 * noise)
    return rng.normal(-2.0, deviation, (half, 2)), rng.normal(2.0, deviation, (half, 2))


def spiral(rng: np.random.Generator, half: int, noise: float) -> tuple[Points, Points]:
    """Two arms of a spiral, 1.75 turns each."""

    def arm(start: float) -> Points:
        along = (np.arange(half) + rng.uniform(0, 1, half)) / half
        angle = 1.75 * along * 2 * np.pi + start
        arm = np.stack([np.sin(angle), np.cos(angle)], axis=1) * (along * RADIUS)[:, None]
        return arm + _jitter(rng, half, noise)

    return arm(np.pi), arm(0.0)


def _jitter(rng: np.random.Generator, count: int, size: float) -> Points:
    return rng.uniform(-1.0, 1.0, (count, 2)) * size


TOYS: dict[str, Callable[[np.random.Generator, int, float], tuple[Points, Points]]] = {
    "circle": circle,
    "xor": xor,
    "gauss": gauss,
    "spiral": spiral,
}


def draw(name: str, rng: np.random.Generator, samples: int, noise: float) -> tuple[Points, NDArray[np.int64]]:
    """Shuffled points [samples, 2] within about +-2 and their labels, half of them 0 (one more if odd)."""
    zero, one = TOYS[name](rng, (samples + 1) // 2, noise)
    points = np.concatenate([zero, one[: samples // 2]]) / SCALE
    labels = np.repeat(np.array([0, 1], dtype=np.int64), [len(zero), samples // 2])
    order = rng.permutation(samples)
    return points[order], labels[order]
