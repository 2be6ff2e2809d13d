"""`eclab doctor`: versions, devices and data sets found; what is missing, and how to mend it."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from eclab import __version__
from eclab.cli.words import Commands, command, print_table, say

OLDEST_PYTHON = (3, 11)


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Args:
        what: the part.
        found: what is there.
        fix: how to mend it; empty where nothing is wrong.
        needed: whether eclab cannot do without it.
    """

    what: str
    found: str
    fix: str = ""
    needed: bool = False


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    command(commands, "doctor", run, "show versions, devices and data sets, and how to mend what is missing")


def run(given: argparse.Namespace) -> int:
    """Print the report; 1 if something eclab needs is missing."""
    del given
    findings = [*examine()]
    print_table(("part", "found", "to fix it"), [(one.what, one.found, one.fix) for one in findings])
    broken = [one.what for one in findings if one.needed and one.fix]
    say()
    say(f"Missing: {', '.join(broken)}." if broken else "Everything eclab needs is here.")
    return 1 if broken else 0


def examine() -> Iterator[Finding]:
    """Look at everything."""
    yield from versions()
    yield from devices()
    yield from notebooks()
    yield from data_sets()


def versions() -> Iterator[Finding]:
    """Python, eclab and what it requires."""
    old = sys.version_info[:2] < OLDEST_PYTHON
    fix = f"use Python {'.'.join(map(str, OLDEST_PYTHON))} or newer" if old else ""
    yield Finding("python", platform.python_version(), fix, needed=True)
    yield Finding("eclab", __version__)
    for package, least in requirements():
        yield check_package(package, least)


def requirements() -> list[tuple[str, str]]:
    """Packages eclab needs and their oldest versions, from its own metadata."""
    try:
        lines = metadata.requires("eclab") or []
    except metadata.PackageNotFoundError:
        return []
    from packaging.requirements import Requirement

    found = [Requirement(line) for line in lines]
    return [
        (one.name, next((spec.version for spec in one.specifier if spec.operator == ">="), ""))
        for one in found
        if one.marker is None or one.marker.evaluate({"extra": ""})
    ]


def check_package(package: str, least: str) -> Finding:
    """Whether a package is there and new enough."""
    from packaging.version import Version

    wanted = f"{package}>={least}" if least else package
    try:
        version = metadata.version(package)
    except metadata.PackageNotFoundError:
        return Finding(package, "missing", f"pip install '{wanted}'", needed=True)
    if least and Version(version) < Version(least):
        return Finding(package, f"{version}, older than {least}", f"pip install --upgrade '{wanted}'", needed=True)
    return Finding(package, version)


def devices() -> Iterator[Finding]:
    """CPU and GPUs as torch sees them."""
    import torch

    yield Finding("CPU", f"{os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads")
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            yield Finding(f"cuda:{number}", torch.cuda.get_device_name(number))
        yield _cupy(str(torch.version.cuda or ""))
    elif shutil.which("nvidia-smi"):
        yield Finding("GPU", "there, but torch cannot use it", "install a CUDA build of torch: pytorch.org/get-started")
    else:
        yield Finding("GPU", "none (not needed)")


def _cupy(cuda: str) -> Finding:
    names = [name for name in ("cupy-cuda13x", "cupy-cuda12x", "cupy") if _version(name)]
    if names:
        return Finding("cupy", f"{names[0]} {_version(names[0])}")
    extra = "cuda12" if cuda.startswith("12") else "cuda13"
    return Finding("cupy", "missing (faster kernels on the GPU)", f"pip install 'eclab[{extra}]'")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def notebooks() -> Iterator[Finding]:
    """A kernel for notebooks to run in."""
    try:
        from jupyter_client.kernelspec import KernelSpecManager
    except ImportError:
        yield Finding("notebook kernel", "jupyter_client is missing", "pip install jupyterlab", needed=True)
        return
    kernels = sorted(KernelSpecManager().find_kernel_specs())
    fix = "" if "python3" in kernels else f"{sys.executable} -m ipykernel install --sys-prefix"
    yield Finding("notebook kernel", ", ".join(kernels) or "none", fix, needed=True)


def data_sets() -> Iterator[Finding]:
    """Which data sets are on this machine."""
    from eclab.data import available, names

    root = os.environ.get("ECLAB_DATA")
    if root is not None and not Path(root).is_dir():
        yield Finding("ECLAB_DATA", f"{root}, which is no folder", "set it to the folder with the data sets")
    here = available()
    yield Finding("data sets", ", ".join(here))
    for name in names():
        if name not in here:
            yield Finding(name, "not on this machine", "is downloaded at first use, or put its files below ECLAB_DATA")
