"""How long ``import eclab`` takes beyond torch's own import, and what the first use of each name adds.

Run: python benchmarks/import_time.py [--repeat 7]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys

CASES = {
    "import eclab": ("", "import eclab"),
    "import eclab, torch loaded before": ("import torch", "import eclab"),
    "first use of eclab.trace": ("import torch", "import eclab; eclab.trace"),
    "first use of eclab.ECSGD": ("import torch", "import eclab; eclab.ECSGD"),
    "first use of eclab.Race": ("import torch", "import eclab; eclab.Race"),
    "first use of eclab.Lab": ("import torch", "import eclab; eclab.Lab"),
    "import torch": ("", "import torch"),
}


def milliseconds(before: str, statement: str) -> float:
    """Wall time of the statement in a fresh interpreter, in ms."""
    code = (
        f"import json, time; {before or 'pass'}\nstart = time.perf_counter()\n{statement}\n"
        "print(json.dumps((time.perf_counter() - start) * 1000))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=7, help="fresh interpreters for each row (default: 7)")
    repeat = parser.parse_args().repeat
    print(f"{'':34}  {'median ms':>9}  {'max ms':>8}")
    for name, (before, statement) in CASES.items():
        times = [milliseconds(before, statement) for _ in range(repeat)]
        print(f"{name:34}  {statistics.median(times):9.1f}  {max(times):8.1f}")


if __name__ == "__main__":
    main()
