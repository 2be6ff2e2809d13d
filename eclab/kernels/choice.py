"""Which back end runs the path core: plain torch, or code compiled for the tensors' device."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from types import ModuleType, TracebackType

from torch import Tensor

from eclab.errors import SettingError
from eclab.kernels import torch_step
from eclab.kernels.plan import Plan
from eclab.kernels.settings import Outcome, StepSettings

BACKENDS = ("auto", "torch", "cpu")

_asked = "auto"


class backend:  # noqa: N801 - it is called like a function, with or without `with`
    """Forces a back end of the path core, or lets the tensors' device choose.

    Args:
        name: ``"auto"``, the choice by device and dtype; ``"torch"``, the readable definition, for any device and
            dtype; ``"cpu"``, compiled by Numba, for float32 and float64 on the CPU.

    Attributes:
        name: what is asked for from now on.

    Raises:
        SettingError: there is no such back end, or what it needs is not installed.

    Example:
        >>> import eclab
        >>> with eclab.kernels.backend("torch"):
        ...     eclab.kernels.backend.asked()
        'torch'
        >>> eclab.kernels.backend.asked()
        'auto'
    """

    def __init__(self, name: str = "auto") -> None:
        global _asked
        if name not in BACKENDS:
            raise SettingError(f"there is no back end {name!r}", allowed=", ".join(map(repr, BACKENDS)))
        if name == "cpu" and _cpu() is None:
            raise SettingError(
                "the back end 'cpu' needs Numba, which cannot be used here",
                fix="pip install numba, give it a folder to write in (NUMBA_CACHE_DIR), or use 'auto'",
            )
        self._before, self.name = _asked, name
        _asked = name

    @staticmethod
    def asked() -> str:
        """The back end asked for at present."""
        return _asked

    def __enter__(self) -> backend:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _asked
        _asked = self._before


@cache
def _cpu() -> ModuleType | None:
    """The compiled core; None without Numba, or where it finds no place to keep compiled code."""
    try:
        from eclab.kernels import cpu_step
    except (ImportError, RuntimeError):
        return None
    return cpu_step


def chosen(weights: Sequence[Tensor], gradients: Sequence[Tensor | None], buffers: Sequence[Tensor | None]) -> str:
    """The back end that will take these tensors: the one asked for, or the fastest that can.

    Raises:
        SettingError: the one asked for cannot take them.
    """
    cpu = _cpu() if _asked != "torch" and weights[0].is_cpu else None
    if cpu is None:
        if _asked == "cpu":
            raise SettingError(
                f"the weights are on {weights[0].device}", allowed="weights on the CPU for back end 'cpu'"
            )
        return "torch"
    if cpu.can_step(weights, gradients, buffers):
        return "cpu"
    if _asked == "cpu":
        raise SettingError(
            f"the weights are {weights[0].dtype} and not all alike and without gaps",
            allowed="contiguous float32 or float64 weights and gradients for back end 'cpu'",
            fix="use eclab.kernels.backend('auto')",
        )
    return "torch"


def step(
    plan: Plan,
    weights: Sequence[Tensor],
    gradients: Sequence[Tensor | None],
    buffers: Sequence[Tensor | None],
    settings: StepSettings,
) -> Outcome:
    """One EC-SGD step, in place, on the back end of :func:`chosen`; arguments as :func:`torch_step.step` has them."""
    kernel = _cpu() if chosen(weights, gradients, buffers) == "cpu" else torch_step
    assert kernel is not None
    outcome: Outcome = kernel.step(plan, weights, gradients, buffers, settings)
    return outcome
