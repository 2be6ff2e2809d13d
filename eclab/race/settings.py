"""Checks of a race's settings, in one place, so that every way of giving them refuses the same things."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real

import torch

from eclab.errors import SettingError

HIGHEST_RATE = 1e30
HIGHEST_SEED = 2**63 - 1


def positive(value: object, what: str) -> float:
    """A finite number above 0, else a SettingError that names `what`."""
    number = _number(value, what, "a finite number > 0")
    if not (math.isfinite(number) and number > 0):
        raise SettingError(f"{what} is {value}", allowed="a finite number > 0", fix=f"give {what} a value such as 0.1")
    return number


def rate(value: object, what: str = "the learning rate") -> float:
    """A learning rate: a finite number above 0, and not so large that single precision cannot hold its product."""
    number = positive(value, what)
    if number > HIGHEST_RATE:
        raise SettingError(f"{what} is {value}", allowed=f"a finite number > 0 and at most {HIGHEST_RATE:g}")
    return number


def non_negative(value: object, what: str) -> float:
    """A finite number of at least 0, else a SettingError that names `what`."""
    number = _number(value, what, "a finite number >= 0")
    if not (math.isfinite(number) and number >= 0):
        raise SettingError(f"{what} is {value}", allowed="a finite number >= 0", fix=f"use 0 to switch {what} off")
    return number


def below_one(value: object, what: str) -> float:
    """A number in [0, 1), as a momentum must be."""
    number = non_negative(value, what)
    if number >= 1:
        raise SettingError(f"{what} is {value}", allowed="a number >= 0 and < 1", fix="0.9 is a common choice")
    return number


def whole(value: object, what: str, *, least: int = 1, most: int | None = None, fix: str | None = None) -> int:
    """A whole number within bounds, else a SettingError that names `what`."""
    allowed = f"a whole number of at least {least}" if most is None else f"a whole number from {least} to {most}"
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise SettingError(f"{what} is {value!r}", allowed=allowed, fix=fix)
    number = int(value)
    if number < least or (most is not None and number > most):
        raise SettingError(f"{what} is {number}", allowed=allowed, fix=fix)
    return number


def batch_size(value: object, samples: int, data: str, least: int = 1) -> int:
    """A batch size the training data can fill, and the model can take."""
    fix = f"choose at most that many; {data} has {samples} training samples"
    if least > 1:
        fix += f"; this model needs {least} in a batch, as batch normalization does"
    return whole(value, "the batch size", least=least, most=samples, fix=fix)


def one_of(value: object, allowed: Sequence[str], what: str) -> str:
    """One of a few words."""
    if value not in allowed:
        raise SettingError(f"{what} is {value!r}", allowed=" or ".join(f'"{word}"' for word in allowed))
    return str(value)


def device(name: str | torch.device) -> torch.device:
    """The torch device of that name; "auto" is the first CUDA device if there is one, else the CPU.

    Raises:
        SettingError: no such device, or it is not there.

    Example:
        >>> device("cpu")
        device(type='cpu')
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    allowed, fix = (
        '"auto", "cpu", "cuda", or one of several such as "cuda:1"',
        "use auto; `eclab doctor` lists the devices",
    )
    try:
        found = torch.device(name)
        float(torch.zeros(1, device=found))  # a device without memory, as "meta" is, has no value to give
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0].split(". ")[0]
        raise SettingError(f"the device {str(name)!r} cannot be used ({reason})", allowed=allowed, fix=fix) from error
    return found


def lane_rates(lr: object, names: Sequence[str], preset: Mapping[str, float]) -> dict[str, float]:
    """The learning rate of every lane from one number or a mapping; a rate given with the lane itself wins.

    Args:
        lr: one rate for all, or a rate for each lane by name.
        names: the lanes.
        preset: rates that were given with the lane, as in "sgd:0.2".

    Raises:
        SettingError: a rate that is not finite and positive, a lane that is not in the race, or one without a rate.
    """
    if not isinstance(lr, Mapping):
        every = rate(lr)
        return {name: preset.get(name, every) for name in names}
    unknown = [str(name) for name in lr if name not in names]
    if unknown:
        raise SettingError(
            f"a learning rate is given for {', '.join(unknown)}, which no lane is called", allowed=", ".join(names)
        )
    missing = [name for name in names if name not in lr and name not in preset]
    if missing:
        raise SettingError(
            f"no learning rate is given for {', '.join(missing)}", fix="give one number for all, or one for each lane"
        )
    rates = {name: rate(value, f"the learning rate of {name}") for name, value in lr.items()}
    return {name: preset[name] if name in preset else rates[name] for name in names}


def dtype_name(dtype: torch.dtype) -> str:
    """ "float32" or "float64"."""
    if dtype not in (torch.float32, torch.float64):
        raise SettingError(f"the dtype is {dtype}", allowed="torch.float32 or torch.float64")
    return str(dtype).removeprefix("torch.")


def _number(value: object, what: str, allowed: str) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise SettingError(f"{what} is {value!r}", allowed=allowed)
    return float(value)
