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
        why: what to expect, with the test accuracies measured over two to five seeds.
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
        why="A balanced start and a rate that suits both: SGD and EC-SGD are level, at about 0.96.",
    ),
    Preset(
        *("digits, a high rate", "digits", "64-64x4-10", 0.3, 20, 0.0, "bad"),
        why="Three times the good rate: SGD ends anywhere from 0.59 to 0.96, EC-SGD at 0.94 to 0.97.",
    ),
    Preset(
        *("Fashion-MNIST, unbalanced", "fashion-mnist", "784-64x4-10", 0.1, 3, 1.0, "bad"),
        why="The same function with its units rescaled: SGD goes to NaN, EC-SGD does not notice and reaches 0.85.",
    ),
    Preset(
        *("Fashion-MNIST, very unbalanced", "fashion-mnist", "784-64x4-10", 0.03, 3, 2.0, "bad"),
        why="Rescaled further, even a small rate is too high for SGD (NaN); EC-SGD reaches 0.86.",
    ),
    Preset(
        *("Fashion-MNIST, narrow and deep, small rate", "fashion-mnist", "784-16x7-10", 0.02, 3, 0.0, "good"),
        why="Seven narrow layers at a small rate: 0.83 for both SGD and EC-SGD.",
    ),
    Preset(
        *("Fashion-MNIST, narrow and deep, high rate", "fashion-mnist", "784-16x7-10", 0.2, 3, 0.0, "bad"),
        why="Ten times the rate: SGD falls to 0.40 to 0.56, EC-SGD stays at 0.74 to 0.82.",
    ),
)


def presets() -> tuple[Preset, ...]:
    """Races with measured outcomes: batches of 64, constant rate, the paper's start (skeleton = 1) in both lanes.

    Example:
        >>> [preset.name for preset in presets() if preset.data == "digits"]
        ['digits, a good rate', 'digits, a high rate']
    """
    return _PRESETS
