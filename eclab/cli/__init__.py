"""The `eclab` command: race, audit, doctor, lab."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from eclab import __version__
from eclab.errors import EclabError

BAD_INPUT, INTERRUPTED = 1, 130
"""Exit codes: something eclab refuses; Ctrl-C. A word argparse does not know gives 2."""


def build_parser() -> argparse.ArgumentParser:
    """The command line, with a help text for each command."""
    from eclab.cli import audit, doctor, lab, race

    parser = argparse.ArgumentParser(
        prog="eclab",
        description="Train ReLU networks in their equivalent class space.",
        epilog="`eclab COMMAND --help` explains a command.",
    )
    parser.add_argument("--version", action="version", version=f"eclab {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for part in (lab, race, audit, doctor):
        part.add(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: the words after `eclab`; None for the process's own.

    Returns:
        The exit code: 0, or not 0 with one clear line on standard error.

    Example:
        >>> main(["audit", "--net", "2-4-2"]) == 0  # doctest: +ELLIPSIS
        2-4-2 · ReLU
        ...
        True
    """
    given = build_parser().parse_args(arguments)
    try:
        return int(given.run(given))
    except EclabError as error:
        sys.stderr.write(f"eclab: {' '.join(str(error).split())}\n")
        return BAD_INPUT
    except KeyboardInterrupt:
        sys.stderr.write("eclab: interrupted\n")
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output has gone, as `head` does; at exit the interpreter would still try to flush to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BAD_INPUT
