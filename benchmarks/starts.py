"""How a normally initialised network trains in class space: the metric, the strongest chart and the paper's start.

Every way of training runs at every rate from the same seeds; the table shows the test accuracy after the last epoch,
mean ± standard deviation over seeds, and in how many runs a loss or a step was not finite. `SGD` and `SGD, paper's
start` are there for comparison; only the paper's start changes the function before the first step.

Run: python benchmarks/starts.py --data digits --net 64-64-64-64-10 --epochs 20 [--seeds 5] [--rates 0.01,0.1]
"""

from __future__ import annotations

import argparse
import datetime as dt
import math
import platform
import statistics
import sys
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

import eclab
from eclab.data import Dataset

Make = Callable[[eclab.Network, float], torch.optim.Optimizer]

WAYS: dict[str, tuple[bool, Make]] = {
    "SGD": (False, lambda net, lr: torch.optim.SGD(net.model.parameters(), lr=lr)),
    "SGD, paper's start": (True, lambda net, lr: torch.optim.SGD(net.model.parameters(), lr=lr)),
    "EC-SGD, paper's start": (True, lambda net, lr: eclab.ECSGD(net, lr=lr)),
    "EC-SGD, diagonal chart": (False, lambda net, lr: eclab.ECSGD(net, lr=lr)),
    "EC-SGD, diagonal, re-based at 0.5": (False, lambda net, lr: eclab.ECSGD(net, lr=lr, rebase=0.5)),
    "EC-SGD, strongest chart": (False, lambda net, lr: eclab.ECSGD(net, lr=lr, chart="strongest")),
    'EC-SGD, metric="balanced"': (False, lambda net, lr: eclab.ECSGD(net, lr=lr, metric="balanced")),
}
"""Name -> (whether the skeleton's weights start at 1, the optimizer)."""

UNBALANCED = 'EC-SGD, metric="balanced", start unbalanced σ = 2'


def batches(samples: int, size: int, epochs: int, seed: int) -> Iterator[Tensor]:
    """Which samples each step sees, the same for all ways of one seed."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        order = torch.randperm(samples, generator=generator)
        yield from (order[first : first + size] for first in range(0, samples - size + 1, size))


def train(way: str, lr: float, seed: int, data: Dataset, given: argparse.Namespace) -> float:
    """The test accuracy after the last epoch; NaN where a loss or a step was not finite."""
    skeleton, make = WAYS[way]
    model = eclab.NetworkSpec.parse(given.net).build(seed=seed)
    x, x_test = (part.flatten(1) for part in (data.x_train, data.x_test))
    net = eclab.trace(model, x[:2])
    if skeleton:
        eclab.start_skeleton_(net)
    if way == UNBALANCED:
        eclab.random_rescale_(net, 2.0, torch.Generator().manual_seed(seed))
    optimizer = make(net, lr)
    for chosen in batches(len(x), given.batch, given.epochs, seed):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x[chosen]), data.y_train[chosen])
        loss.backward()  # type: ignore[no-untyped-call]
        if not math.isfinite(loss.item()):
            return math.nan
        try:
            optimizer.step()
        except (eclab.NonFiniteError, eclab.ChartError):
            return math.nan
    with torch.no_grad():
        return float((model(x_test).argmax(1) == data.y_test).float().mean())


def cell(found: list[float]) -> str:
    """``0.971 ± 0.004``, and how many runs ended early."""
    good = [value for value in found if math.isfinite(value)]
    lost = f"{len(found) - len(good)}/{len(found)} ended"
    if not good:
        return lost
    spread = f" ± {statistics.stdev(good):.3f}" if len(good) > 1 else ""
    return f"{statistics.mean(good):.3f}{spread}" + (f", {lost}" if len(good) < len(found) else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--net", default="64-64-64-64-10")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rates", default="1e-9,1e-6,0.001,0.01,0.03,0.1,0.3,1")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    WAYS[UNBALANCED] = WAYS['EC-SGD, metric="balanced"']
    data = eclab.data.load(given.data)
    rates = [float(rate) for rate in given.rates.split(",")]
    print(
        f"{given.data}, {given.net}, float32, batch {given.batch}, {given.epochs} epochs, constant rate, {given.seeds} "
        f"seeds; eclab {eclab.__version__}, torch {torch.__version__}, Python {platform.python_version()}; "
        f"{dt.datetime.now(tz=dt.UTC).date()}. Test accuracy after the last epoch.\n"
    )
    print("| | " + " | ".join(f"lr {rate:g}" for rate in rates) + " |")
    print("| --- |" + " ---: |" * len(rates))
    for way in WAYS:
        cells = []
        for rate in rates:
            cells.append(cell([train(way, rate, seed, data, given) for seed in range(given.seeds)]))
            print(way, rate, cells[-1], file=sys.stderr, flush=True)
        print(f"| {way} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
