"""Picture sets from OpenML, through scikit-learn, which keeps what it has downloaded."""

from __future__ import annotations

import socket
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from typing import Any

import numpy as np

from eclab.data.files import Bytes, Pictures
from eclab.errors import DataError

# OpenML's number of the set, training samples (they come first), test samples, shape of one.
OPENML: dict[str, tuple[int, int, int, tuple[int, int, int]]] = {
    "mnist": (554, 60_000, 10_000, (1, 28, 28)),
    "fashion-mnist": (40996, 60_000, 10_000, (1, 28, 28)),
    "cifar10": (40927, 50_000, 10_000, (3, 32, 32)),
}
_TIMEOUT_SECONDS = 30.0


def download(name: str) -> Pictures:
    """A picture set from OpenML, or from scikit-learn's copy of an earlier download.

    Raises:
        DataError: no network, or an answer that is not the data set.
    """
    number, train, test, shape = OPENML[name]
    x, y = _fetch(name, number)
    if x.shape != (train + test, int(np.prod(shape))) or y.shape != (train + test,):
        seen = f"OpenML's data set {number} has the shapes {x.shape} and {y.shape}"
        raise DataError(seen, allowed=f"{train + test:,} samples of {'x'.join(map(str, shape))} of {name}")
    pictures = x.reshape(-1, *shape)
    return Pictures(pictures[:train], y[:train], pictures[train:], y[train:], source=f"OpenML {number}")


def _fetch(name: str, number: int) -> tuple[Bytes, Bytes]:
    from sklearn.datasets import fetch_openml

    try:
        with _timeout(_TIMEOUT_SECONDS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it tries again; the error says it all
            bunch: Any = fetch_openml(data_id=number, as_frame=False, parser="auto", n_retries=1)
        return _bytes(bunch.data), _bytes(bunch.target)
    except (OSError, ValueError, EOFError, HTTPException, zlib.error) as error:
        raise DataError(f"{name} cannot be read from OpenML ({error})", fix="go online") from error


def _bytes(values: Any) -> Bytes:
    numbers = np.asarray(values).astype(np.float64, copy=False)
    if not ((numbers >= 0) & (numbers <= 255) & (numbers == np.floor(numbers))).all():
        raise ValueError("its values are not whole numbers from 0 to 255")
    return numbers.astype(np.uint8)


@contextmanager
def _timeout(seconds: float) -> Iterator[None]:
    # scikit-learn opens its connection without a limit: behind a silent firewall that would hang for minutes.
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds if before is None else before)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
