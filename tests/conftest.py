"""What every test may rely on: fixed seeds, no network, and no silent skips on the build machine."""

from __future__ import annotations

import ipaddress
import os
import shutil
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
import torch

if TYPE_CHECKING:
    from collections.abc import Generator

ROOT = Path(__file__).resolve().parent.parent
ON_CI = os.environ.get("CI", "").lower() in {"1", "true"}
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")

hypothesis.settings.register_profile("eclab", deadline=None, derandomize=ON_CI, database=None)
hypothesis.settings.register_profile("nightly", deadline=None, database=None, max_examples=2000, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("ECLAB_HYPOTHESIS", "eclab"))


def pytest_configure(config: pytest.Config) -> None:
    """Workers that each use every core only wait for one another."""
    if hasattr(config, "workerinput"):
        torch.set_num_threads(1)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """On the build machine a skipped test is a failed one, unless it needs a GPU."""
    report = yield
    if ON_CI and report.skipped and item.get_closest_marker("gpu") is None:
        report.outcome, report.longrepr = "failed", f"skipped on the build machine: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a whole file that skips itself while it is read."""
    report = yield
    if ON_CI and report.skipped:
        report.outcome, report.longrepr = "failed", f"skipped on the build machine: {report.longrepr}"
    return report


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    """The order in which workers take the tests must not change their numbers."""
    torch.manual_seed(0)


def _is_local(address: Any) -> bool:
    if not isinstance(address, tuple):
        return True  # a Unix socket
    host = str(address[0])
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@pytest.fixture(autouse=True, scope="session")
def no_network() -> Generator[None]:
    """A test that would reach outside this machine fails instead."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if not _is_local(address):
            raise OSError(f"tests stay on this machine; refused to connect to {address!r}")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded)
        yield


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of the browser that Playwright drives (its own download is never needed)."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser: install one of {', '.join(BROWSERS)}")
    return found


@pytest.fixture(scope="session")
def node() -> str:
    """Path of the JavaScript engine that Playwright brings along, to run the views' DOM-free functions."""
    from playwright._impl._driver import compute_driver_executable

    return compute_driver_executable()[0]


@pytest.fixture(scope="session")
def fashion_mnist() -> Path:
    """Folder of the Fashion-MNIST files as Debian's dataset-fashion-mnist installs them."""
    if not FASHION_MNIST.is_dir():
        pytest.skip("no Fashion-MNIST: apt-get install dataset-fashion-mnist")
    return FASHION_MNIST
