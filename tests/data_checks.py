"""What the tests of data sets ask again and again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from eclab.data import Dataset
from eclab.errors import DataError


def refused(call: Callable[[], Any]) -> str:
    """The message of the one `DataError` that the call ends in."""
    with pytest.raises(DataError) as caught:
        call()
    assert type(caught.value) is DataError
    return str(caught.value)


def same(a: Dataset, b: Dataset) -> bool:
    """Whether both hold the same numbers."""
    pairs = ((a.x_train, b.x_train), (a.y_train, b.y_train), (a.x_test, b.x_test), (a.y_test, b.y_test))
    return all(torch.equal(p, q) for p, q in pairs)
