"""ECSGD against torch.optim.SGD on the CPU: the step alone and the whole training iteration, as a Markdown table.

All contenders take turns within one run, each on its own copy of the network from the same start; a ratio is the median
of the ratios within a turn, so that what else the machine does falls on both sides alike.

Run: python benchmarks/step.py [--threads 2] [--rounds 200] [--batch 256] [--momentum 0.9] [--large]
"""

from __future__ import annotations

import argparse
import copy
import datetime as dt
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

import eclab

NETWORKS = {
    "784-64×3-10": (784, 64, 64, 64, 10),
    "784-512×3-10": (784, 512, 512, 512, 10),
}
LARGE = {"784-2048×3-10": (784, 2048, 2048, 2048, 10)}
LR = 1e-3


@dataclass
class Contender:
    """An optimizer on its own copy of the network, and what it took in every round, in ms."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    steps: list[float] = field(default_factory=list)
    iterations: list[float] = field(default_factory=list)

    def iterate(self, x: Tensor, y: Tensor) -> None:
        """One training iteration, timed as a whole and its step alone."""
        start = time.perf_counter()
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.model(x), y).backward()  # type: ignore[no-untyped-call]
        before = time.perf_counter()
        self.optimizer.step()
        end = time.perf_counter()
        self.steps.append((end - before) * 1000)
        self.iterations.append((end - start) * 1000)


def mlp(widths: tuple[int, ...]) -> nn.Sequential:
    """A ReLU network without biases, with the paper's start."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after, bias=False), nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    eclab.start_skeleton_(eclab.trace(model, torch.zeros(1, widths[0])))
    return model


def contenders(widths: tuple[int, ...], momentum: float) -> dict[str, Contender]:
    """SGD as torch chooses it, SGD fused, and ECSGD."""
    start = mlp(widths)
    build: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
        "SGD": lambda model: torch.optim.SGD(model.parameters(), lr=LR, momentum=momentum),
        "SGD, fused": lambda model: torch.optim.SGD(model.parameters(), lr=LR, momentum=momentum, fused=True),
        "ECSGD": lambda model: eclab.ECSGD(eclab.trace(model, torch.zeros(1, widths[0])), lr=LR, momentum=momentum),
    }
    models = {name: copy.deepcopy(start) for name in build}
    return {name: Contender(models[name], make(models[name])) for name, make in build.items()}


def measure(widths: tuple[int, ...], batch: int, rounds: int, momentum: float) -> dict[str, Contender]:
    """Runs all contenders in turns; the first tenth warms up and is not counted."""
    found = contenders(widths, momentum)
    x, y = torch.randn(batch, widths[0]), torch.randint(widths[-1], (batch,))
    for number in range(rounds + rounds // 10):
        order = list(found.values())
        for contender in order if number % 2 else reversed(order):
            contender.iterate(x, y)
    for contender in found.values():
        contender.steps, contender.iterations = contender.steps[-rounds:], contender.iterations[-rounds:]
    return found


def ratio(one: list[float], other: list[float]) -> str:
    """Median of the ratios round by round."""
    return f"{statistics.median(a / b for a, b in zip(one, other, strict=True)):.2f}"


def rows(name: str, found: dict[str, Contender]) -> list[str]:
    """A table row for each contender."""
    sgd, fused = found["SGD"], found["SGD, fused"]
    return [
        f"| {name} | {who} | {statistics.median(c.steps):.3f} | {ratio(c.steps, sgd.steps)} | "
        f"{ratio(c.steps, fused.steps)} | {statistics.median(c.iterations):.2f} | "
        f"{ratio(c.iterations, sgd.iterations)} | {ratio(c.iterations, fused.iterations)} |"
        for who, c in found.items()
    ]


def machine() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0].split(":", 1)[1].strip() if names else platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=200, help="counted iterations of each contender (default: 200)")
    parser.add_argument("--momentum", type=float, default=0.0)
    parser.add_argument("--large", action="store_true", help="784-2048×3-10 too")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    print(
        f"{machine()}, {given.threads} threads, batch {given.batch}, float32, momentum {given.momentum:g}; "
        f"eclab {eclab.__version__}, torch {torch.__version__}, Python {platform.python_version()}; "
        f"{dt.datetime.now(tz=dt.UTC).date()}; medians of {given.rounds} interleaved rounds.\n"
    )
    print("| network | optimizer | step, ms | to SGD | to fused | iteration, ms | to SGD | to fused |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, widths in (NETWORKS | (LARGE if given.large else {})).items():
        for row in rows(name, measure(widths, given.batch, given.rounds, given.momentum)):
            print(row, flush=True)


if __name__ == "__main__":
    main()
