"""What can race: the optimizers by name, and how each is built over a network."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from eclab.classes import condition_
from eclab.errors import SettingError
from eclab.optim import EC, ECSGD, ENormSGD, PathSGD

if TYPE_CHECKING:
    from eclab.facade import Network

NAME = re.compile(r"\w[\w.-]*")

_INTERPOLATION = 0.9


@dataclass(frozen=True)
class Kind:
    """An optimizer that can race.

    Args:
        name: as written in a lane, without spaces.
        label: as shown.
        make: network and options -> optimizer.
        options: names of the options `make` takes besides lr, momentum and weight_decay.
        needs_free_units: whether it works on class coordinates and so needs a unit that can be rescaled.
        colour: the place in the charts' palette that is its own, or None for the next that is free.
        momentum: whether it has one; the race's is kept from those that have none.
        prepare: what a lane does to its start before its first step; it must not change the function.
    """

    name: str
    label: str
    make: Callable[..., torch.optim.Optimizer]
    options: tuple[str, ...] = ()
    needs_free_units: bool = False
    colour: int | None = None
    momentum: bool = True
    prepare: Callable[[Network], object] | None = None


KINDS: dict[str, Kind] = {}


def register(kind: Kind) -> None:
    """Let an optimizer race. `make(net, lr=..., momentum=..., weight_decay=..., **options)` builds it.

    An optimizer with methods `train` and `eval`, as schedule-free ones have, is in training mode at every step; its
    accuracy is that of the weights it has in evaluation mode.

    Raises:
        SettingError: the name is taken, or cannot be written in a lane.
    """
    if kind.name in KINDS or not NAME.fullmatch(kind.name):
        raise SettingError(
            f"an optimizer cannot race as {kind.name!r}", allowed="a new name of letters, digits, '-', '_' and '.'"
        )
    KINDS[kind.name] = kind


def kinds() -> tuple[str, ...]:
    """Names of the optimizers that can race.

    Example:
        >>> kinds()[:2]
        ('sgd', 'ec-sgd')
    """
    return tuple(KINDS)


Make = Callable[..., torch.optim.Optimizer]


def _on_weights(base: Callable[..., torch.optim.Optimizer]) -> Make:
    """An optimizer of torch on the weights."""

    def make(net: Network, **options: Any) -> torch.optim.Optimizer:
        return base(net.model.parameters(), **options)

    return make


def _without_momentum(make: Make) -> Make:
    """For optimizers that have no momentum of SGD's kind."""

    def made(net: Network, *, momentum: float = 0.0, **options: Any) -> torch.optim.Optimizer:
        del momentum
        return make(net, **options)

    return made


def _in_class_space(base: Callable[..., torch.optim.Optimizer]) -> Make:
    """An optimizer of torch on the class coordinates."""

    def make(net: Network, **options: Any) -> torch.optim.Optimizer:
        return EC(net, base, **options)

    return make


def _balanced(net: Network, **options: Any) -> torch.optim.Optimizer:
    return ECSGD(net, metric="balanced", **options)


def _schedule_free(params: Any, *, momentum: float = 0.0, **options: Any) -> torch.optim.Optimizer:
    """Schedule-free SGD; what it calls momentum is the share of the average in the point it steps from."""
    try:
        package = importlib.import_module("schedulefree")
    except ImportError as error:
        raise SettingError(
            "the package schedulefree is not installed", fix="pip install schedulefree, or leave the lane out"
        ) from error
    found: torch.optim.Optimizer = package.SGDScheduleFree(params, momentum=momentum or _INTERPOLATION, **options)
    return found


_CHART = ("chart", "guard")
_EC_SGD = ("nesterov", *_CHART, "rebase")
_ADAM = ("betas", "eps", "amsgrad")
_FREE = ("warmup_steps", "r", "weight_lr_power")

_adam = torch.optim.Adam
_made = (
    Kind("sgd", "SGD", _on_weights(torch.optim.SGD), ("nesterov", "dampening"), colour=0),
    Kind("ec-sgd", "EC-SGD", ECSGD, (*_EC_SGD, "metric"), needs_free_units=True, colour=1),
    Kind("ec-sgd-balanced", "EC-SGD balanced", _balanced, ("nesterov",), needs_free_units=True),
    Kind("adam", "Adam", _without_momentum(_on_weights(_adam)), _ADAM, colour=2, momentum=False),
    Kind("adamw", "AdamW", _without_momentum(_on_weights(torch.optim.AdamW)), _ADAM, momentum=False),
    Kind("rmsprop", "RMSprop", _on_weights(torch.optim.RMSprop), ("alpha", "eps", "centered")),
    Kind(
        "ec-adam",
        "EC-Adam",
        _without_momentum(_in_class_space(_adam)),
        (*_ADAM, *_CHART, "metric"),
        needs_free_units=True,
        colour=3,
        momentum=False,
    ),
    Kind("path-sgd", "Path-SGD", PathSGD, ("nesterov",), needs_free_units=True, colour=4),
    Kind("enorm-sgd", "ENorm-SGD", ENormSGD, ("nesterov", "sweeps"), needs_free_units=True, colour=5),
    Kind(
        "pathcond-sgd",
        "PathCond, SGD",
        _on_weights(torch.optim.SGD),
        ("nesterov", "dampening"),
        needs_free_units=True,
        colour=6,
        prepare=condition_,
    ),
    Kind("schedule-free", "Schedule-free", _on_weights(_schedule_free), _FREE, colour=7),
    Kind(
        "ec-schedule-free",
        "EC schedule-free",
        _in_class_space(_schedule_free),
        (*_FREE, *_CHART, "metric"),
        needs_free_units=True,
    ),
)
for _kind in _made:
    register(_kind)
