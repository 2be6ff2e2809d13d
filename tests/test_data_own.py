"""Own arrays and torch data sets as data: taken as they are, or refused with the reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import IterableDataset, Subset, TensorDataset

from eclab import data
from eclab.data.dataset import stratified_split
from eclab.errors import DataError
from tests.data_checks import refused, same


def arrays(count: int = 40, shape: tuple[int, ...] = (3,), classes: int = 4) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(count, *shape)), np.arange(count) % classes


@pytest.mark.parametrize("shape", [(3,), (2, 5), (1, 4, 4)])
def test_own_arrays(shape: tuple[int, ...]) -> None:
    x, y = arrays(shape=shape)
    d = data.wrap((x, y), (x[:5], y[:5]), name="mine")
    assert (d.name, d.input_shape, d.num_classes) == ("mine", shape, 4)
    assert torch.equal(d.x_train, torch.from_numpy(x).float())
    assert torch.equal(d.y_test, torch.from_numpy(y[:5]))
    x[:] = 0
    assert d.x_train.abs().sum() > 0


def test_own_data_are_split_by_class() -> None:
    x, y = arrays()
    d = data.wrap((x, y), test_share=0.3, seed=5)
    assert torch.bincount(d.y_test).tolist() == [3, 3, 3, 3]
    both = torch.cat([d.x_train, d.x_test])
    assert sorted(both[:, 0].tolist()) == sorted(torch.from_numpy(x).float()[:, 0].tolist())
    assert same(d, data.wrap((x, y), test_share=0.3, seed=5))
    assert not same(d, data.wrap((x, y), test_share=0.3, seed=6))


@given(st.lists(st.integers(0, 4), min_size=2, max_size=60), st.floats(0.05, 0.95), st.integers(0, 99))
def test_a_split_is_a_partition_of_every_class(labels: list[int], share: float, seed: int) -> None:
    y = torch.tensor(labels)
    try:
        keep, held = stratified_split(y, share, seed)
    except DataError:
        sizes = [labels.count(label) for label in set(labels)]
        taken = sum(round(share * size) for size in sizes)
        assert taken in (0, len(labels))
        return
    assert sorted([*keep.tolist(), *held.tolist()]) == list(range(len(labels)))
    for label in set(labels):
        assert int((y[held] == label).sum()) == round(share * labels.count(label))


@pytest.mark.parametrize(
    "convert",
    [
        lambda x, y: (torch.tensor(x), torch.tensor(y)),
        lambda x, y: (torch.tensor(x, requires_grad=True), torch.tensor(y, dtype=torch.uint8)),
        lambda x, y: (x.tolist(), y.tolist()),
        lambda x, y: (x.astype(np.float16), y.astype(np.uint16)),
        lambda x, y: (np.broadcast_to(x, x.shape), np.flip(np.flip(y))),
        lambda x, y: [x.astype(np.longdouble), y.astype(np.int8)],
        lambda x, y: TensorDataset(torch.tensor(x), torch.tensor(y)),
        lambda x, y: Subset(TensorDataset(torch.tensor(x), torch.tensor(y)), range(len(y))),
    ],
)
def test_forms_of_own_data(convert: Callable[..., Any]) -> None:
    x, y = arrays()
    d = data.wrap(convert(x, y))
    torch.testing.assert_close(d.x_train, data.wrap((x, y)).x_train, atol=2e-3, rtol=0)
    assert torch.equal(d.y_train, data.wrap((x, y)).y_train)
    assert not d.x_train.requires_grad


def test_integer_and_boolean_samples() -> None:
    d = data.wrap((np.array([[0, 255], [1, 2]], np.uint8), [0, 1]), (np.array([[True, False]]), [1]))
    assert d.x_train.tolist() == [[0, 255], [1, 2]]
    assert d.x_test.tolist() == [[1, 0]]


class Items(TorchDataset[Any]):
    """A map-style data set of whatever it is given."""

    def __init__(self, *items: Any) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> Any:
        return self.items[i]


class Stream(IterableDataset[Any]):
    """A data set without a length."""

    def __iter__(self) -> Iterator[Any]:
        return iter(())


def test_a_torch_data_set() -> None:
    train = Items(*((torch.full((1, 2, 2), float(i)), i % 2) for i in range(6)))
    test = Items((np.ones((1, 2, 2)), np.int64(1)), (np.zeros((1, 2, 2)), torch.tensor(0)))
    d = data.wrap(train, test)
    assert d.x_train[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert d.y_train.tolist() == [0, 1, 0, 1, 0, 1]
    assert d.y_test.tolist() == [1, 0]
    assert d.input_shape == (1, 2, 2)


X, Y = np.ones((4, 2)), np.array([0, 1, 0, 1])
POINT = torch.zeros(2)


@pytest.mark.parametrize(
    ("train", "said"),
    [
        (X, "the training data are a ndarray"),
        (None, "the training data are a NoneType"),
        ((X, Y, Y), "the training data are a tuple"),
        ((X, Y[:3]), "4 training samples and 3 labels"),
        ((X[:0], Y[:0]), "0 training samples and 0 labels"),
        ((X[:, 0], Y), "float32 of shape (4,)"),
        ((X[:, :0], Y), "at least one number a sample"),
        ((X + 1j, Y), "of type complex128"),
        ((torch.ones(4, 2, dtype=torch.complex64), Y), "of type complex64"),
        ((X.astype(str), Y), "of type <U"),
        ((X.astype(object), Y), "of type object"),
        (([[1, 2], [3]], Y[:2]), "the training samples are no array"),
        ((np.where(np.eye(4, 2) > 0, np.nan, 1), Y), "2 of 4 training samples hold values that are NaN or infinite"),
        ((X * [1, np.inf], Y), "first sample 0"),
        (
            (X * np.array([1, 1, 1e39, 1])[:, None], Y),
            "1 of 4 training samples hold values that are NaN or infinite in float32, first sample 2",
        ),
        ((torch.full((4, 2), 1e39, dtype=torch.float64), Y), "NaN or infinite in float32"),
        ((X, Y.astype(float)), "shape (4,) and type float64"),
        ((X, torch.tensor(Y).bfloat16()), "shape (4,) and type float64"),
        ((X, Y.astype(bool)), "type bool"),
        ((X, Y.astype(str)), "type <U"),
        ((X, np.eye(4, dtype=int)), "shape (4, 4)"),
        ((X, torch.tensor(0)), "shape ()"),
        ((X, Y - 1), "the smallest of the training labels is -1"),
        ((X, np.array([0, 1, 0, 2**63], dtype=np.uint64)), "the smallest of the training labels is -"),
        ((X, Y * 0), "own data has one class only"),
        ((X, Y * 10**9), "own data has the label 1,000,000,000"),
        (Stream(), "has no length"),
        (Items(), "is empty"),
        (Items(POINT), "item 0 of the training data is a Tensor"),
        (Items((POINT, 0), (POINT, 0, 1)), "item 1 of the training data is a tuple"),
        (Items(("picture", 0)), "sample 0 of the training data is a str"),
        (Items((POINT, 0), (torch.zeros(3), 1)), "sample 1 of the training data has shape (3,), sample 0 (2,)"),
        (Items((POINT, 0), (POINT, 1.5)), "type float64"),
        (TensorDataset(POINT[None]), "the training data are a tuple"),
    ],
)
def test_own_data_that_are_refused(train: Any, said: str) -> None:
    assert said in refused(lambda: data.wrap(train))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"test": (X, Y[:1])}, "4 test samples and 1 labels"),
        ({"test": (np.ones((4, 3)), Y)}, "training samples of shape (2,) and test samples of shape (3,)"),
        ({"test": (X, Y + 1), "num_classes": 2}, "the test labels of own data go from 1 to 2"),
        ({"num_classes": 1}, "the number of classes of own data is 1"),
        ({"num_classes": 2.0}, "the number of classes of own data is 2.0"),
        ({"num_classes": True}, "the number of classes of own data is True"),
        ({"seed": -1}, "the seed is -1"),
        ({"seed": 1.5}, "the seed is 1.5"),
        ({"name": ""}, "the name of the data is ''"),
        ({"name": None}, "the name of the data is None"),
        ({"test_share": 0}, "the test share is 0"),
        ({"test_share": 1.0}, "the test share is 1.0"),
        ({"test_share": float("nan")}, "the test share is nan"),
        ({"test_share": True}, "the test share is True"),
        ({"test_share": "0.2"}, "the test share is '0.2'"),
        ({"test_share": 0.01}, "leaves none on one side"),
        ({"test_share": 0.99}, "leaves none on one side"),
    ],
)
def test_settings_of_own_data_that_are_refused(arguments: dict[str, Any], said: str) -> None:
    assert said in refused(lambda: data.wrap((X, Y), **arguments))


@pytest.mark.parametrize(
    ("labels", "fix"),
    [
        (np.eye(4, dtype=int), "argmax"),
        (Y[:, None], "y[:, 0]"),
        (Y.astype(float), "astype(int)"),
        (Y > 0, "astype(int)"),
        (Y.astype(str), "return_inverse"),
    ],
)
def test_labels_of_another_kind_come_with_the_way_to_convert_them(labels: Any, fix: str) -> None:
    assert fix in refused(lambda: data.wrap((X, labels))).split("To fix it")[1]


def test_numbers_of_numpy_are_numbers() -> None:
    numbers: Any = {"num_classes": np.int64(3), "seed": np.int8(1)}
    assert data.wrap((X, Y), test_share=0.5, **numbers).num_classes == 3
    numbers = {"noise": np.float32(0.25), "samples": np.int16(8)}
    assert same(data.load("xor", **numbers), data.load("xor", noise=0.25, samples=8))


def test_sparse_samples_are_taken_densely() -> None:
    assert same(data.wrap((torch.tensor(X).to_sparse(), Y), test_share=0.5), data.wrap((X, Y), test_share=0.5))


def test_more_classes_than_labels_seen() -> None:
    assert data.wrap((X, Y), test_share=0.5, num_classes=7).classes == ("0", "1", "2", "3", "4", "5", "6")


def test_whatever_stands_for_data() -> None:
    x, y = arrays()
    d = data.load("spiral")
    assert data.as_dataset(d) is d
    assert same(data.as_dataset("spiral", seed=4), data.load("spiral", seed=4))
    assert same(data.as_dataset((x, y), seed=4), data.wrap((x, y), seed=4))
    assert same(data.as_dataset((x, y, x, y)), data.wrap((x, y), (x, y)))
    tensors = TensorDataset(torch.tensor(x), torch.tensor(y))
    assert same(data.as_dataset((tensors, tensors)), data.wrap((x, y), (x, y)))
    assert same(data.as_dataset(tensors), data.wrap((x, y)))
    assert "NoneType" in refused(lambda: data.as_dataset(None))
