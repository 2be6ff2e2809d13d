"""The EC-SGD step on the compiled CPU core; threads share out the rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.graph import increment_version

from eclab.errors import TraceError
from eclab.kernels import cpu_core as core
from eclab.kernels.layout import COLS, ROWS, Ints, Layout, layout
from eclab.kernels.plan import Plan
from eclab.kernels.settings import Outcome, StepSettings

Floats = NDArray[np.floating[Any]]

_SHARE = 1 << 20
"""Weights a thread must have to itself to be worth waking: right after a backward pass torch's own threads still spin
for a while on the other cores, and smaller shares were slower in two threads than in one."""

_LIKE: dict[torch.dtype, Floats] = {torch.float32: np.empty(0, np.float32), torch.float64: np.empty(0, np.float64)}


@dataclass(frozen=True, eq=False)
class _Job:
    """A layout and, for some numbers of threads, which rows each of them takes."""

    layout: Layout
    work: dict[int, list[Ints]]

    def shares(self, threads: int) -> list[Ints]:
        count = max(1, min(threads, self.layout.num_elements // _SHARE))
        if count not in self.work:
            self.work[count] = _share_out(self.layout, count)
        return self.work[count]


_JOBS: WeakKeyDictionary[Plan, _Job] = WeakKeyDictionary()


def can_step(weights: Sequence[Tensor], gradients: Sequence[Tensor | None], buffers: Sequence[Tensor | None]) -> bool:
    """Whether the core takes these tensors: float32 or float64 alike, on the CPU, without gaps."""
    dtype = weights[0].dtype
    return dtype in _LIKE and all(
        tensor is None or (tensor.dtype is dtype and tensor.is_cpu and tensor.is_contiguous())
        for tensors in (weights, gradients, buffers)
        for tensor in tensors
    )


def step(
    plan: Plan,
    weights: Sequence[Tensor],
    gradients: Sequence[Tensor | None],
    buffers: Sequence[Tensor | None],
    settings: StepSettings,
) -> Outcome:
    """One step, in place; nothing is changed where some number of it is not finite."""
    job = _job(plan, weights)
    like = _LIKE[weights[0].dtype]
    here, work = job.layout, job.shares(torch.get_num_threads())
    w, g, m = _addresses(weights, gradients, buffers)
    totals = np.zeros((len(work), here.num_scales))
    _in_threads(core.row_sums, [(part, here.blocks, here.units, w, g, like, totals[k]) for k, part in enumerate(work)])
    numbers = np.array(
        (
            settings.lr,
            settings.momentum,
            settings.weight_decay,
            settings.nesterov,
            settings.guard,
            -1.0 if settings.maximize else 1.0,
        ),
        np.float64,
    )
    values, new = np.empty(len(here.a) + len(here.b)), np.zeros((2, len(here.b)))
    sides = np.empty((8 if settings.momentum else 4, here.num_scales))
    guarded = core.prepare(here.a, here.b, here.scale_free, w, g, m, like, numbers, totals, values, new, sides)
    if guarded < 0:
        return Outcome(finite=False, guarded=0)
    if settings.momentum:
        rest = (w, g, m, like, sides, settings.momentum, settings.weight_decay, float(settings.nesterov))
        _in_threads(core.accumulate, [(part, here.blocks, here.units, *rest) for part in work])
    else:
        _in_threads(core.update, [(part, here.blocks, here.units, w, g, like, sides) for part in work])
    core.write_skeleton(here.a, here.b, w, m, like, values, new, settings.momentum)
    _tell_autograd(weights, buffers)
    return Outcome(finite=True, guarded=guarded)


def _tell_autograd(*sides: Sequence[Tensor | None]) -> None:
    """What was written behind torch's back counts as written in place, so that a stale backward is refused."""
    for side in sides:
        for tensor in side:
            if tensor is not None:
                increment_version(tensor)


def _job(plan: Plan, weights: Sequence[Tensor]) -> _Job:
    job = _JOBS.get(plan)
    if job is None:
        job = _JOBS[plan] = _Job(layout(plan, [tuple(weight.shape) for weight in weights]), {})
    elif any(weight.shape != shape for weight, shape in zip(weights, job.layout.shapes, strict=True)):
        raise TraceError(
            f"the weights have shapes {[tuple(weight.shape) for weight in weights]} and had {[*job.layout.shapes]}",
            fix="trace the model again after changing a shape, and build a new optimizer",
        )
    return job


def _addresses(*sides: Sequence[Tensor | None]) -> Ints:
    """int64 ``[sides, weights]``: where the tensors' data are; 0 for none."""
    return np.array([[0 if tensor is None else tensor.data_ptr() for tensor in side] for side in sides], np.int64)


def _share_out(here: Layout, count: int) -> list[Ints]:
    """Rows of all blocks in ``count`` shares of about the same number of weights: ``[n, 3]`` of block, row, rows."""
    sizes = here.blocks[:, ROWS] * here.blocks[:, COLS]
    ends = np.linspace(0, sizes.sum(), count + 1)[1:]
    shares: list[list[tuple[int, int, int]]] = [[] for _ in range(count)]
    done, share = 0.0, 0
    for number, (rows, cols) in enumerate(here.blocks[:, (ROWS, COLS)]):
        first = 0
        while first < rows:
            fit = int(np.ceil((ends[share] - done) / max(cols, 1)))
            taken = rows - first if share == count - 1 else min(rows - first, fit)
            if taken > 0:
                shares[share].append((number, first, taken))
                first, done = first + taken, done + taken * cols
            if done >= ends[share] and share < count - 1:
                share += 1
    return [np.array(share, dtype=np.int64).reshape(-1, 3) for share in shares]


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="eclab core")


def _in_threads(function: Callable[..., Any], calls: list[tuple[Any, ...]]) -> None:
    """Runs the last call here and the others beside it."""
    waiting = [_pool().submit(function, *call) for call in calls[:-1]]
    function(*calls[-1])
    for each in waiting:
        each.result()
