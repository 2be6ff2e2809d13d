"""Settings known to go well, or badly, with SGD: what to try first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Preset:
    """One race worth seeing.

    Args:
        name: what it is called on screen.
        data: the data set's name.
        network: the network's text, without biases.
        lr: learning rate of every lane.
        epochs: how many were measured.
        unbalance: standard deviation of log c, with which every lane's start is rescaled; 0: not at all.
        sgd: how SGD does.
        why: what to expect, with the accuracies measured.
    """

    name: str
    data: str
    network: str
    lr: float
    epochs: int
    unbalance: float
    sgd: Literal["good", "bad"]
    why: str


_PRESETS = (
    Preset(
        *("digits, a good rate", "digits", "64-64x4-10", 0.1, 20, 0.0, "good"),
        why="A balanced start and a rate that suits both: SGD 0.968 and EC-SGD 0.969, level.",
    ),
    Preset(
        *("digits, a high rate", "digits", "64-64x4-10", 0.3, 20, 0.0, "bad"),
        why="Three times the good rate: SGD falls to 0.762, EC-SGD stays at 0.968.",
    ),
    Preset(
        *("Fashion-MNIST, unbalanced", "fashion-mnist", "784-64x4-10", 0.1, 3, 1.0, "bad"),
        why="The same function with its units rescaled: SGD goes to NaN, EC-SGD does not notice and reaches 0.855.",
    ),
    Preset(
        *("Fashion-MNIST, very unbalanced", "fashion-mnist", "784-64x4-10", 0.03, 3, 2.0, "bad"),
        why="Rescaled further, even a small rate is too high for SGD (NaN); EC-SGD reaches 0.857.",
    ),
    Preset(
        *("Fashion-MNIST, narrow and deep, small rate", "fashion-mnist", "784-16x7-10", 0.02, 3, 0.0, "good"),
        why="Seven narrow layers at a small rate: 0.833 for both.",
    ),
    Preset(
        *("Fashion-MNIST, narrow and deep, high rate", "fashion-mnist", "784-16x7-10", 0.2, 3, 0.0, "bad"),
        why="Ten times the rate: SGD falls to 0.558, EC-SGD to 0.780.",
    ),
)


def presets() -> tuple[Preset, ...]:
    """Races with measured outcomes, test accuracy after `epochs`; paper's start (skeleton = 1) in both lanes.

    Example:
        >>> [preset.name for preset in presets() if preset.data == "digits"]
        ['digits, a good rate', 'digits, a high rate']
    """
    return _PRESETS
