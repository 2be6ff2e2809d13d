"""Arguments several commands share, and how they print."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from eclab.errors import SettingError

if TYPE_CHECKING:
    from eclab.network.spec import NetworkSpec

WIDE = 200
"""Columns of a table that goes to a file or a pipe, where wrapped cells are harder to read than long lines."""


class Commands(Protocol):
    """What argparse hands out for adding commands to."""

    def add_parser(self, name: str, **settings: Any) -> argparse.ArgumentParser: ...


def command(
    commands: Commands, name: str, run: Callable[[argparse.Namespace], int], help_text: str, epilog: str = ""
) -> argparse.ArgumentParser:
    """A new command with its help."""
    parser = commands.add_parser(
        name,
        help=help_text,
        description=help_text[0].upper() + help_text[1:] + ".",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def add_network(parser: argparse.ArgumentParser) -> None:
    """--net, --activation and --bias."""
    parser.add_argument("--net", metavar="TEXT", help="layers, such as 784-64x4-10 or 1x28x28-c8k3-p2-f-10")
    parser.add_argument("--activation", metavar="NAME", help="relu (default), leaky_relu, prelu, tanh, ...")
    parser.add_argument("--bias", action="store_true", default=None, help="give every layer a bias")


def network(given: argparse.Namespace) -> NetworkSpec:
    """The specification the words describe.

    Raises:
        SettingError: there is no --net.
        SpecError: it is no network.
    """
    from eclab.network.spec import NetworkSpec

    if not given.net:
        raise SettingError("no network is given", allowed="--net with its layers", fix="write --net 784-64-64-10")
    return NetworkSpec.parse(given.net, activation=given.activation or "relu", bias=bool(given.bias))


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[int] = ()) -> None:
    """A table on standard output, as wide as the terminal or, in a pipe, as it needs to be."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, show_header=any(head))
    aligned = set(right)
    for number, title in enumerate(head):
        table.add_column(Text(title), justify="right" if number in aligned else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console(width=None if sys.stdout.isatty() else WIDE).print(table)


def say(text: str = "") -> None:
    """A line on standard output."""
    sys.stdout.write(text + "\n")


def hint(text: str) -> None:
    """A line on standard error: for whoever watches, not for a file."""
    sys.stderr.write(text + "\n")
