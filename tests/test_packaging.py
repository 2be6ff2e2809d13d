"""What is shipped: the wheel, the two conda environments, the constraints."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import eclab

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SHIPPED = ("*.py", "*.js", "*.css", "py.typed")

# where conda-forge calls a package otherwise
CONDA_NAME = {
    "torch": "pytorch",
    "playwright": "playwright-python",
    "cupy-cuda13x": "cupy",
    "dask[distributed]": "dask",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def text_of(wheel: zipfile.ZipFile, suffix: str) -> str:
    return wheel.read(next(name for name in wheel.namelist() if name.endswith(suffix))).decode()


def test_the_wheel_holds_every_source_and_static_file(wheel: zipfile.ZipFile) -> None:
    expected = {path.relative_to(ROOT).as_posix() for kind in SHIPPED for path in (ROOT / "eclab").rglob(kind)}
    for needed in ("eclab/py.typed", "eclab/static/lab.js", "eclab/static/lab.css"):
        assert needed in expected
    assert expected <= set(wheel.namelist())


def test_the_wheel_holds_nothing_else(wheel: zipfile.ZipFile) -> None:
    info = f"eclab-{eclab.__version__}.dist-info"
    assert {name.split("/")[0] for name in wheel.namelist()} == {"eclab", info}
    assert f"{info}/licenses/LICENSE" in wheel.namelist()


def test_the_wheel_tells_version_python_and_command(wheel: zipfile.ZipFile) -> None:
    metadata = text_of(wheel, "/METADATA").splitlines()
    for line in (f"Version: {eclab.__version__}", "Requires-Python: >=3.11", "License-Expression: BSD-3-Clause"):
        assert line in metadata
    assert "eclab = eclab.cli:main" in text_of(wheel, "/entry_points.txt")


def conda_packages(file: str) -> dict[str, str]:
    """Package -> version condition, of a conda environment file."""
    environment: dict[str, Any] = yaml.safe_load((ROOT / file).read_text(encoding="utf-8"))
    assert environment["channels"] == ["conda-forge"]
    lines = [Requirement(line) for line in environment["dependencies"]]
    return {line.name: str(line.specifier) for line in lines}


def needed(*extras: str, **renamed: str) -> dict[str, str]:
    """The same, as pyproject.toml asks for it, under conda-forge's names."""
    optional = PROJECT["optional-dependencies"]
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in optional[extra])]
    names = {**CONDA_NAME, **renamed}
    required = {"python": PROJECT["requires-python"]}
    for line in map(Requirement, lines):
        key = f"{line.name}[{','.join(sorted(line.extras))}]" if line.extras else line.name
        required[names.get(key, canonicalize_name(key))] = str(line.specifier)
    return required


def test_the_development_environment_has_what_pyproject_needs() -> None:
    packages = conda_packages("environment.yml")
    assert needed("test", "dask", "cuda13").items() <= packages.items()


def test_the_binder_environment_has_what_pyproject_needs_and_no_more() -> None:
    packages = conda_packages("binder/environment.yml")
    assert packages == {**needed(torch="pytorch-cpu"), "pip": ""}


def test_binder_adds_the_package_and_leaves_its_dependencies_to_conda() -> None:
    script = ROOT / "binder" / "postBuild"
    assert "pip install --no-cache-dir --no-deps ." in script.read_text(encoding="utf-8")
    assert script.stat().st_mode & 0o111


def test_the_constraints_pin_every_dependency_within_its_range() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in lines if "==" in line}
    for line in map(Requirement, [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["test"]]):
        assert line.specifier.contains(pins[canonicalize_name(line.name)]), line


def test_the_constraints_name_no_local_build() -> None:
    assert "+" not in (ROOT / "constraints.txt").read_text(encoding="utf-8")
