"""`eclab audit`: how much of a network's weight space is redundant."""

from __future__ import annotations

import argparse
import math

from eclab.cli.words import Commands, add_network, command, network, print_table, say

SAMPLES = 256


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = command(commands, "audit", run, "count weights, free units, classes and paths of a network")
    add_network(parser)
    parser.add_argument("--data", metavar="NAME", help=f"data set; {SAMPLES} of its samples give rank and dead units")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the initial weights (default 0)")


def run(given: argparse.Namespace) -> int:
    """Trace and print."""
    import torch

    from eclab.facade import trace
    from eclab.race.settings import whole

    spec = network(given)
    model = spec.build(seed=whole(given.seed, "the seed", least=0))
    samples = None
    if given.data is not None:
        from eclab.data import load
        from eclab.race.task import make_task

        task = make_task(load(given.data), model, torch.float32, torch.device("cpu"))
        samples = task.x[:SAMPLES]
    net = trace(model, torch.zeros(1, *spec.input_shape) if samples is None else samples)
    found = net.audit(samples)
    say(spec.text)
    print_table(("", "", ""), found.rows(), right=(1,))
    paths = net.count_paths()
    short = f"{paths:,}" if paths < 10**15 else f"about 10^{math.log10(paths):.1f}"
    say(f"{short} paths from inputs and biases to outputs")
    return 0
