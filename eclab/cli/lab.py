"""`eclab lab`: JupyterLab, open on the lab's notebook."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from eclab.cli.words import Commands, command, hint
from eclab.errors import SettingError

NOTEBOOK = Path("notebooks") / "00-lab.ipynb"
OWN = Path("eclab-lab.ipynb")
_CELLS = (
    ("markdown", "# The lab\n\nBuild a network, look at its classes and paths, and race SGD against EC-SGD."),
    ("code", "import eclab\n\neclab.Lab()"),
)


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = command(commands, "lab", run, "open JupyterLab on the lab's notebook")
    parser.add_argument("notebook", nargs="?", type=Path, metavar="NOTEBOOK", help=f"default {NOTEBOOK}, or a new one")
    parser.add_argument("--port", type=int, metavar="N", help="port of the server")
    parser.add_argument("--no-browser", action="store_true", help="only print the address")


def run(given: argparse.Namespace) -> int:
    """Find or write the notebook and start JupyterLab; its exit code."""
    from eclab.race.settings import whole

    if find_spec("jupyterlab") is None:
        raise SettingError("JupyterLab is not installed", fix="pip install jupyterlab")
    port = None if given.port is None else whole(given.port, "the port", most=65535)
    notebook = find_notebook(given.notebook)
    hint(f"eclab: opening {notebook}")
    words = [sys.executable, "-m", "jupyterlab", *opened_on(notebook)]
    words += ["--port", str(port)] if port is not None else []
    words += ["--no-browser"] if given.no_browser else []
    words += ["--allow-root"] if is_root() else []
    return subprocess.call(words)


def opened_on(notebook: Path) -> list[str]:
    """JupyterLab's options by which the address it prints leads to the notebook.

    Example:
        >>> opened_on(Path("/home/me/my notebooks/00-lab.ipynb"))[:2]
        ['--ServerApp.root_dir=/home/me/my notebooks', '--LabApp.default_url=/lab/tree/00-lab.ipynb']
    """
    place = notebook.resolve()
    return [
        f"--ServerApp.root_dir={place.parent}",
        f"--LabApp.default_url=/lab/tree/{quote(place.name)}",
        "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]


def is_root() -> bool:
    """Whether this is the administrator, as in most containers; JupyterLab starts for him only when it is told to."""
    return hasattr(os, "geteuid") and os.geteuid() == 0


def find_notebook(wanted: Path | None) -> Path:
    """The notebook asked for, the project's own, or a new one in this folder.

    Raises:
        SettingError: the one asked for is not there.
    """
    if wanted is not None:
        if not wanted.is_file():
            raise SettingError(f"there is no notebook {wanted}", fix="leave it out to open the lab's own")
        return wanted
    project = Path(__file__).resolve().parents[2] / NOTEBOOK
    for known in (NOTEBOOK, project, OWN):
        if known.is_file():
            return known
    OWN.write_text(json.dumps(template(), indent=1) + "\n", encoding="utf-8")
    return OWN


def template() -> dict[str, object]:
    """A notebook with nothing but the lab.

    Example:
        >>> [cell["cell_type"] for cell in template()["cells"]]
        ['markdown', 'code']
    """
    cells: list[dict[str, object]] = []
    for number, (kind, source) in enumerate(_CELLS):
        cell: dict[str, object] = {"cell_type": kind, "id": f"lab-{number}", "metadata": {}, "source": source}
        cells.append({**cell, "execution_count": None, "outputs": []} if kind == "code" else cell)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
