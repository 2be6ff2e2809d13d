"""What reading a large network costs: processor time and memory, as a Markdown table.

``python benchmarks/tracing.py`` measures every architecture of ``tests/architectures.py`` in a process of its own on
one core. Times are processor time, so that other work on the machine does not count; memory is the largest resident
size beyond that of the model.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

NAMES = ("ResNet-18", "ResNet-50", "DenseNet-121", "VGG-16", "MobileNetV2")
HEAD = (
    "| network, 224 px | weights | H | trace, s | chart, s | MB beyond the weights | 100 largest paths, s |"
    " forward, ms | path norm, forwards |"
)


def _peak() -> float:
    """The largest resident size so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(name: str, *, training: bool) -> dict[str, float | str]:
    """One row of the table."""
    import torch

    import eclab
    from tests.architectures import ARCHITECTURES

    torch.set_num_threads(1)
    torch.manual_seed(0)
    small = torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 1), torch.nn.BatchNorm2d(2), torch.nn.Flatten(), torch.nn.Linear(8, 2)
    )
    eclab.trace(small, torch.ones(2, 1, 2, 2)).chart().coordinates()  # loads what is loaded once a process
    model = ARCHITECTURES[name].build().train(training)
    x = torch.ones(2, 3, 224, 224)
    touched = sum(float(p.detach().reshape(-1)[::512].sum()) for p in model.parameters())
    before, started = _peak(), time.process_time()
    net = eclab.trace(model, x)
    traced = time.process_time()
    _ = net.chart().plan
    charted, after = time.process_time(), _peak()
    row: dict[str, float | str] = {
        "name": f"{name}, {'training' if training else 'evaluation'}",
        "weights": sum(p.numel() for p in model.parameters()),
        "H": net.num_units,
        "trace": traced - started,
        "chart": charted - traced,
        "memory": after - before,
        "touched": touched,
    }
    if not training:
        started = time.process_time()
        net.top_paths(100)
        row["top"] = time.process_time() - started
        row |= _norm(net, model, x[:1])
    return row


def _norm(net: object, model: object, x: object) -> dict[str, float]:
    import torch

    import eclab

    assert isinstance(net, eclab.Network)
    assert isinstance(model, torch.nn.Module)

    def best(run: object) -> float:
        assert callable(run)
        times = []
        for _ in range(5):
            started = time.process_time()
            run()
            times.append(time.process_time() - started)
        return min(times)

    with torch.no_grad():
        forward = best(lambda: model(x))
    return {"forward": forward, "norm": best(lambda: net.path_norm(1)) / forward}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", help="measure this network only and print JSON")
    parser.add_argument("--training", action="store_true")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, training=options.training)))
        return
    print(HEAD)
    print("| --- |" + " ---: |" * (HEAD.count("|") - 2))
    for name in NAMES:
        for mode in ([], ["--training"]):
            command = [sys.executable, __file__, "--one", name, *mode]
            row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            cells = [f"{row['trace']:.2f}", f"{row['chart']:.2f}", f"{row['memory']:.0f}"]
            cells += (
                [f"{row['top']:.2f}", f"{1e3 * row['forward']:.0f}", f"{row['norm']:.1f}"] if "top" in row else [""] * 3
            )
            print(f"| {row['name']} | {row['weights']:,} | {row['H']:,} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
