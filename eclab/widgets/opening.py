"""How a lab is opened: from what a user passes to the first setup."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from eclab.errors import SettingError
from eclab.widgets import presets
from eclab.widgets.bench import Settings, Setup
from eclab.widgets.commands import did_you_mean

if TYPE_CHECKING:
    from eclab.data import Dataset

DATA = "digits"


def know_only(settings: Mapping[str, Any]) -> None:
    """A :class:`SettingError` for a setting there is none of, with the one that is close.

    Example:
        >>> try:
        ...     know_only({"epoch": 3})
        ... except SettingError as error:
        ...     print(error.seen, "-", error.fix)
        the lab has no setting 'epoch' - did you mean 'epochs'?
    """
    known = ("data", *Settings.names())
    for name in settings:
        if name not in known:
            raise SettingError(
                f"the lab has no setting {name!r}", allowed=", ".join(known), fix=did_you_mean(name, known)
            )


def first_setup(model: Any, x: Any, y: Any, data: Any, settings: Mapping[str, Any]) -> Setup:
    """What the lab shows first.

    Args:
        model: None, a network's text, a NetworkSpec, or an nn.Module.
        x, y: samples and classes of one's own.
        data: a data set, by name or as it is.
        settings: of the race.

    Raises:
        SettingError: the arguments do not go together.
    """
    if data is not None and x is not None:
        raise SettingError("both data and x were given", allowed="one of them", fix="leave one out")
    if y is not None and x is None:
        raise SettingError("classes y were given without inputs x", fix="pass both: eclab.Lab(model, x, y)")
    if isinstance(model, nn.Module):
        return _own_model(model, x, y, data, settings)
    return _own_spec(model, x, y, data, settings)


def _own_model(model: nn.Module, x: Any, y: Any, data: Any, settings: Mapping[str, Any]) -> Setup:
    # the user's weights are what the lab was opened for, so they stay unless the paper's start is asked for
    found = Settings(**{"start": "model", **settings})
    if x is None and data is None:
        raise SettingError("a model came without inputs", fix="pass a few samples: eclab.Lab(model, x)")
    if x is not None and y is None:
        return Setup(None, model, None, _inputs(x), found)
    return Setup(None, model, _dataset(x, y, data, found.seed), None, found)


def _inputs(x: Any) -> Tensor:
    try:
        found = torch.as_tensor(x)
    except (TypeError, ValueError, RuntimeError) as problem:
        raise SettingError(f"the inputs x are a {type(x).__name__}", allowed="numbers [samples, ...]") from problem
    if found.ndim < 2 or not len(found):
        raise SettingError(
            f"the inputs x have the shape {tuple(found.shape)}",
            allowed="at least one sample along the first axis: [samples, ...]",
            fix="pass a few samples as the model would get them",
        )
    return found


def _own_spec(model: Any, x: Any, y: Any, data: Any, settings: Mapping[str, Any]) -> Setup:
    from eclab.network.spec import NetworkSpec

    found = Settings(**settings)
    if x is not None and y is None:
        raise SettingError("inputs x were given without classes y", fix="pass both: eclab.Lab(spec, x, y)")
    if not (model is None or isinstance(model, str | NetworkSpec)):
        raise SettingError(
            f"the model is a {type(model).__name__}",
            allowed='a text such as "64-16-16-10", an eclab.NetworkSpec, or a torch.nn.Module',
        )
    dataset = _dataset(x, y, data, found.seed)
    if model is None:
        return Setup(presets.network_for("dense", dataset), None, dataset, None, found)
    return Setup(NetworkSpec.parse(model) if isinstance(model, str) else model, None, dataset, None, found)


def _dataset(x: Any, y: Any, data: Any, seed: int) -> Dataset:
    import eclab.data

    if x is not None:
        return eclab.data.as_dataset((x, y), seed=seed)
    return eclab.data.as_dataset(DATA if data is None else data, seed=seed)
