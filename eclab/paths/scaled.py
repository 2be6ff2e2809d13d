"""Positive numbers of any size: a mantissa and the logarithm of a scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from eclab.network.graph import Op, resolve


@dataclass(frozen=True)
class Scaled:
    """``mantissa · exp(log_scale)``.

    Attributes:
        mantissa: of the value's shape, in [0, 1]; in the weights' dtype, or float64 where that would lose something.
        log_scale: float64, broadcasts to it; −∞ where the mantissa is 0 throughout.
    """

    mantissa: Tensor
    log_scale: Tensor

    def logs(self) -> Tensor:
        """The logarithm of every element, float64."""
        return self.mantissa.double().log() + self.log_scale


def scaled(value: Scaled | Tensor) -> Scaled:
    """The model's input is still a plain tensor."""
    if isinstance(value, Scaled):
        return value
    return Scaled(value, value.new_zeros((1,) * value.ndim, dtype=torch.float64))


def doubled(value: Scaled) -> Scaled:
    """The same with a float64 mantissa."""
    return Scaled(value.mantissa.double(), value.log_scale)


def named_arguments(op: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """An operation's arguments by name, with the defaults of those not given."""
    schema = resolve(op.target)._schema.arguments  # type: ignore[attr-defined]
    named = {argument.name: argument.default_value for argument in schema}
    return named | dict(zip(named, args, strict=False)) | kwargs


def per_channel(value: Scaled, axis: int) -> tuple[Tensor, Tensor]:
    """The mantissa and the log-scale ``[channels]`` once all elements of a channel share one scale."""
    channels = value.mantissa.shape[axis]
    rows = value.log_scale.movedim(axis, 0).flatten(1)
    scale = rows.amax(1)
    shift = torch.where(scale.isfinite(), scale, 0.0)
    place = [1] * value.mantissa.ndim
    place[axis] = len(shift)
    if rows.shape[1] == 1:
        return value.mantissa, scale.expand(channels)
    within = (value.log_scale - shift.reshape(place)).exp().to(value.mantissa.dtype)
    return value.mantissa * within, scale.expand(channels)


def normalised(mantissa: Tensor, scale: Tensor, axis: int) -> Scaled:
    """Brings the largest element of every channel to 1; ``scale`` is ``[channels]`` or broadcasts to the mantissa."""
    place = [1] * mantissa.ndim
    place[axis] = mantissa.shape[axis]
    peak = mantissa.movedim(axis, 0).flatten(1).amax(1).reshape(place)
    scale = scale.reshape(place) if scale.ndim == 1 else scale
    return Scaled(mantissa / torch.where(peak > 0, peak, 1.0), scale.double() + peak.double().log())


def power(value: Tensor, p: float) -> Scaled:
    """``|value|^p`` of a plain tensor."""
    return Scaled((value != 0).to(value.dtype), p * value.double().abs().log())


def sum_of(one: Scaled, two: Scaled) -> Scaled:
    """The sum of both."""
    scale = torch.maximum(one.log_scale, two.log_scale)
    shift = torch.where(scale.isfinite(), scale, 0.0)
    first, second = (part.mantissa * (part.log_scale - shift).exp().to(part.mantissa.dtype) for part in (one, two))
    return normalised(first + second, scale, 1 if scale.ndim > 1 else 0)
