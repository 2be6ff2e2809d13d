"""A data set as tensors, and how own arrays become one."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sized
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import TensorDataset

from eclab.errors import DataError

MAX_CLASSES = 100_000
_LABELS = "one whole number a sample, counted from 0"


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Training and test samples with their labels. Make one with `eclab.data.load` or `eclab.data.wrap`.

    Args:
        name: what it is called on screen.
        x_train: [samples, *input_shape], floating; pictures are [samples, channels, height, width].
        y_train: [samples], int64, from 0 to num_classes - 1.
        x_test: as x_train.
        y_test: as y_train.
        classes: one name a class.
        source: where the numbers are from and how they were scaled.
        recipe: the arguments with which `eclab.data.load` gives the same samples again; empty for own data.
    """

    name: str
    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    classes: tuple[str, ...]
    source: str = ""
    recipe: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for part, x, y in (("training", self.x_train, self.y_train), ("test", self.x_test, self.y_test)):
            if len(x) != len(y) or len(x) == 0:
                raise DataError(
                    f"{self.name} has {len(x)} {part} samples and {len(y)} labels",
                    allowed="as many labels as samples, at least 1",
                )
            if y.ndim != 1 or y.dtype != torch.int64:
                raise DataError(f"the {part} labels of {self.name} are {_described(y)}", allowed=_LABELS)
            low, high = int(y.min()), int(y.max())
            if low < 0 or high >= self.num_classes:
                raise DataError(
                    f"the {part} labels of {self.name} go from {low} to {high}",
                    allowed=f"0 to {self.num_classes - 1}",
                    fix="count the classes from 0, or state num_classes",
                )
        if self.x_train.shape[1:] != self.x_test.shape[1:] or self.x_train.ndim < 2:
            raise DataError(
                f"{self.name} has training samples of shape {tuple(self.x_train.shape[1:])} and test samples of shape "
                f"{tuple(self.x_test.shape[1:])}",
                allowed="one shape for both, at least one number a sample",
            )

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.classes)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return tuple(self.x_train.shape[1:])

    @property
    def features(self) -> int:
        """The numbers in one sample."""
        return math.prod(self.input_shape)

    @property
    def is_2d(self) -> bool:
        """Whether a sample is a point in the plane, so that decisions can be drawn."""
        return self.input_shape == (2,)

    def flat(self) -> Dataset:
        """The same samples as rows [samples, features]."""
        return replace(self, x_train=self.x_train.flatten(1), x_test=self.x_test.flatten(1))

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Dataset:
        """The same data on a device, the samples (never the labels) in a floating dtype."""
        return replace(
            self,
            x_train=self.x_train.to(device=device, dtype=dtype),
            y_train=self.y_train.to(device=device),
            x_test=self.x_test.to(device=device, dtype=dtype),
            y_test=self.y_test.to(device=device),
        )

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.input_shape))
        dtype = str(self.x_train.dtype).removeprefix("torch.")
        few = ", ".join(self.classes) if self.num_classes <= 10 else f"{self.classes[0]} ... {self.classes[-1]}"
        return (
            f"Dataset {self.name}: {len(self.x_train):,} training and {len(self.x_test):,} test samples of {shape}, "
            f"{self.num_classes} classes ({few}), {dtype} on {self.x_train.device}; {self.source}"
        )


def wrap(
    train: Any,
    test: Any = None,
    *,
    name: str = "own data",
    num_classes: int | None = None,
    test_share: float = 0.2,
    seed: int = 0,
) -> Dataset:
    """Own data as a `Dataset`, taken as they are: float32, labels int64, on the CPU, nothing standardised.

    Args:
        train: a pair (x, y) of arrays or tensors, x [samples, ...] and y [samples] whole numbers from 0, or a
            `torch.utils.data.Dataset` with a length whose items are such pairs (it is read once, whole).
        test: the same for testing; None takes a part of every class from `train`.
        name: what it is called on screen.
        num_classes: if None, the largest label + 1.
        test_share: the part of every class that goes into the test samples if `test` is None; above 0, below 1.
        seed: of that split.

    Returns:
        the data set; it shares no memory with numpy arrays, but may with float32 tensors.

    Raises:
        DataError: shapes, lengths or labels that do not fit, or values that are not finite.

    Example:
        >>> import numpy as np
        >>> wrap((np.eye(4), np.array([0, 1, 0, 1])), test_share=0.5).num_classes
        2
    """
    _check_name(name)
    x, y = _pair(train, "training")
    held = None if test is None else _pair(test, "test")
    largest = int(y.max()) if held is None else int(max(y.max(), held[1].max()))
    count = _class_count(name, largest, num_classes)
    seed = whole(seed, "seed", 0)
    if held is None:
        keep, rest = stratified_split(y, test_share, seed)
        x, y, held = x[keep], y[keep], (x[rest], y[rest])
    return Dataset(name, x, y, *held, classes=tuple(map(str, range(count))), source="own data, as given")


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not name.strip():
        raise DataError(f"the name of the data is {name!r}", allowed="a text that is not blank")


def whole(value: object, what: str, least: int, most: int | None = None) -> int:
    """A whole number of any kind within bounds, else a DataError that names `what`."""
    allowed = f"a whole number of at least {least}" if most is None else f"a whole number from {least} to {most:,}"
    try:
        number = operator.index(value)  # type: ignore[arg-type]  # whatever has no __index__ is refused below
    except TypeError:
        raise DataError(f"the {what} is {value!r}", allowed=allowed) from None
    if isinstance(value, bool) or number < least or (most is not None and number > most):
        raise DataError(f"the {what} is {value!r}", allowed=allowed)
    return number


def _class_count(name: str, largest: int, wanted: object) -> int:
    count = largest + 1 if wanted is None else whole(wanted, f"number of classes of {name}", 2, MAX_CLASSES)
    if count == 1:
        fix = "bring samples of another class too, or state num_classes"
        raise DataError(f"{name} has one class only: every label is 0", allowed=f"2 to {MAX_CLASSES:,}", fix=fix)
    if count > MAX_CLASSES:
        fix = "count the classes from 0"
        raise DataError(f"{name} has the label {largest:,}", allowed=f"0 to {MAX_CLASSES - 1:,}", fix=fix)
    return count


def stratified_split(labels: Tensor, test_share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of training and test samples, in order: of every class the same share, drawn by `seed`."""
    share: object = test_share
    if not isinstance(share, (int, float)) or not 0 < share < 1:
        raise DataError(f"the test share is {test_share!r}", allowed="a number above 0 and below 1")
    rng, held = np.random.default_rng(seed), torch.zeros(len(labels), dtype=torch.bool)
    for label in np.unique(labels.numpy()):
        members = torch.nonzero(labels == int(label)).flatten()
        order = torch.from_numpy(rng.permutation(len(members)))
        held[members[order[: round(test_share * len(members))]]] = True
    if held.all() or not held.any():
        seen = f"a test share of {test_share} of {len(labels)} samples leaves none on one side"
        raise DataError(seen, fix="give test samples of their own, or another share")
    return torch.nonzero(~held).flatten(), torch.nonzero(held).flatten()


def _pair(data: Any, part: str) -> tuple[Tensor, Tensor]:
    if isinstance(data, TensorDataset):
        data = data.tensors
    if isinstance(data, TorchDataset):
        data = _read_all(data, part)
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        allowed = "a pair (x, y), or a torch.utils.data.Dataset of such pairs"
        raise DataError(f"the {part} data are a {type(data).__name__}", allowed=allowed)
    x, y = _samples(data[0], part), _labels(data[1], part)
    if len(x) != len(y) or len(x) == 0:
        raise DataError(f"there are {len(x)} {part} samples and {len(y)} labels", allowed="as many of both, at least 1")
    return x, y


def _read_all(data: TorchDataset[Any], part: str) -> tuple[Tensor, list[Any]]:
    if not isinstance(data, Sized):
        fix = "collect it into arrays first"
        raise DataError(f"the {part} data set has no length", allowed="a map-style torch data set", fix=fix)
    samples: list[Tensor] = []
    labels: list[Any] = []
    for i in range(len(data)):
        item = data[i]
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise DataError(f"item {i} of the {part} data is a {type(item).__name__}", allowed="a pair (x, y)")
        if not isinstance(item[0], (Tensor, np.ndarray)):
            fix = "give the data set a transform to tensors, such as torchvision's ToTensor()"
            raise DataError(f"sample {i} of the {part} data is a {type(item[0]).__name__}", allowed="an array", fix=fix)
        samples.append(torch.as_tensor(item[0]).detach().cpu())
        labels.append(item[1].item() if isinstance(item[1], (Tensor, np.ndarray, np.generic)) else item[1])
        if samples[i].shape != samples[0].shape:
            seen = (
                f"sample {i} of the {part} data has shape {tuple(samples[i].shape)}, sample 0 {tuple(samples[0].shape)}"
            )
            raise DataError(seen, allowed="one shape for all")
    if not samples:
        raise DataError(f"the {part} data set is empty", allowed="at least 1 sample")
    return torch.stack(samples), labels


def _samples(value: Any, part: str) -> Tensor:
    if isinstance(value, Tensor) and not value.is_complex():
        x = value.detach().to_dense().to("cpu", torch.float32)
    else:
        array = _array(value, f"{part} samples")
        if array.dtype.kind not in "biuf":
            raise DataError(f"the {part} samples are of type {array.dtype}", allowed="real numbers")
        with np.errstate(over="ignore"):  # what overflows float32 is refused below
            x = torch.from_numpy(np.array(array, dtype=np.float32))
    if x.ndim < 2:
        fix = "give single numbers as x[:, None]"
        raise DataError(f"the {part} samples are {_described(x)}", allowed="[samples, ...]", fix=fix)
    if 0 in x.shape[1:]:
        raise DataError(f"the {part} samples are {_described(x)}", allowed="at least one number a sample")
    wrong = torch.nonzero(~torch.isfinite(x.flatten(1)).all(1))
    if len(wrong):
        seen = f"{len(wrong)} of {len(x)} {part} samples hold values that are NaN or infinite in float32"
        raise DataError(f"{seen}, first sample {int(wrong[0])}", fix="remove or replace them")
    return x


def _labels(value: Any, part: str) -> Tensor:
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value = (value.double() if value.is_floating_point() else value).numpy()  # numpy knows no bfloat16
    array = _array(value, f"{part} labels")
    if array.ndim != 1 or array.dtype.kind not in "iu":
        seen = f"the {part} labels have shape {array.shape} and type {array.dtype}"
        raise DataError(seen, allowed=_LABELS, fix=_label_fix(array))
    y = torch.from_numpy(array.astype(np.int64))
    if len(y) and int(y.min()) < 0:
        raise DataError(f"the smallest of the {part} labels is {int(y.min())}", allowed=_LABELS)
    return y


def _label_fix(array: np.ndarray[Any, np.dtype[Any]]) -> str:
    if array.ndim == 2:
        return "convert one-hot rows with y.argmax(1), a column with y[:, 0]"
    if array.dtype.kind in "bf":
        return "convert them to whole numbers, as with y.astype(int) or y.long()"
    return "number the classes from 0, as numpy.unique(y, return_inverse=True)[1] does"


def _array(value: Any, what: str) -> np.ndarray[Any, np.dtype[Any]]:
    try:
        return np.asarray(value)
    except (ValueError, TypeError) as error:
        raise DataError(f"the {what} are no array ({error})", fix="give a numpy array or a torch tensor") from error


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"
