"""The named data sets: where each is looked for, and how it becomes a `Dataset`."""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset as TorchDataset

from eclab.data import files
from eclab.data.dataset import Dataset, stratified_split, whole, wrap
from eclab.data.download import download as download_pictures
from eclab.data.files import Bytes, Pictures
from eclab.data.toys import TOYS, draw
from eclab.errors import DataError

MOST_SAMPLES = 1_000_000
DIGITS = tuple("0123456789")
CLASSES = {
    "fashion-mnist": (
        *("T-shirt", "trouser", "pullover", "dress", "coat"),
        *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
    ),
    "mnist": DIGITS,
    "cifar10": (
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    ),
}
# Folders a set is looked for in, below the root; the empty one is the root itself.
_FOLDERS = {
    "fashion-mnist": ("fashion-mnist", "fashion_mnist", "FashionMNIST/raw", "FashionMNIST", ""),
    "mnist": ("mnist", "MNIST/raw", "MNIST", ""),
    "cifar10": ("cifar10", "cifar-10", "cifar-10-batches-bin", "CIFAR10", "cifar10/cifar-10-batches-bin", ""),
}
_DEBIAN = {"fashion-mnist": Path("/usr/share/datasets/fashion-mnist")}
# MNIST and Fashion-MNIST have the same file names; these are the labels of their first training pictures.
_FIRST_LABELS = {
    "mnist": [5, 0, 4, 1, 9, 2, 1, 3, 1, 4, 3, 5, 3, 6, 1, 7],
    "fashion-mnist": [9, 0, 0, 3, 0, 2, 7, 2, 5, 5, 0, 9, 5, 5, 7, 9],
}
_FILES = {
    "fashion-mnist": "train-images-idx3-ubyte.gz and its three companions",
    "mnist": "train-images-idx3-ubyte.gz and its three companions",
    "cifar10": "cifar-10-binary.tar.gz, or data_batch_1.bin and its five companions",
}


def names() -> tuple[str, ...]:
    """The data sets `load` knows."""
    return ("digits", *TOYS, *CLASSES)


def available() -> tuple[str, ...]:
    """Those of `names` that need no network: what ships with scikit-learn, is computed, or is on this machine."""
    return ("digits", *TOYS, *(name for name in CLASSES if _on_disk(name)))


def load(
    name: str = "digits",
    *,
    seed: int = 0,
    root: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    noise: float | None = None,
    samples: int | None = None,
    download: bool = True,
) -> Dataset:
    """A data set by name.

    `digits` (scikit-learn's 8x8 pictures, split 80 : 20 in every class); `circle`, `xor`, `gauss`, `spiral` (points in
    the plane); `fashion-mnist`, `mnist`, `cifar10` from their standard files: below `root`, else below the folder in
    the environment variable ECLAB_DATA, else where Debian's package dataset-fashion-mnist puts them, else from OpenML.
    Pictures are standardised: mean 0, variance 1 over all training pixels (cifar10: of each channel).

    Args:
        name: one of `names()`.
        seed: of a toy's points, and of the split of digits.
        root: folder of the files, or one above; if given, no other place is tried.
        limit: keep the first `limit` training and the first `limit` test samples.
        noise: of a toy, from 0 to 0.5; default 0.1.
        samples: training points of a toy, and as many for testing, up to a million; default 500.
        download: False never uses the network.

    Raises:
        DataError: an unknown name or setting, a file that is missing or corrupt, no network; names the file or the fix.

    Example:
        >>> load("spiral", samples=200)
        Dataset spiral: 200 training and 200 test samples of 2, 2 classes (0, 1), float32 on cpu; seed 0, noise 0.1
    """
    name, seed = _known(name), whole(seed, "seed", 0)
    if name not in TOYS and (noise is not None or samples is not None):
        raise DataError(f"noise or samples is given for {name}", allowed="both are for " + ", ".join(TOYS))
    recipe: dict[str, Any] = {"name": name}
    if name in CLASSES:
        data = _standardised(name, _pictures(name, root, download), CLASSES[name])
    elif root is not None:
        raise DataError(f"a root folder is given for {name}", allowed="it is for " + ", ".join(CLASSES))
    elif name in TOYS:
        recipe |= {"seed": seed, "noise": _noise(noise), "samples": _samples(samples)}
        data = _toy(**recipe)
    else:
        recipe["seed"] = seed
        data = _digits(seed)
    if limit is not None:
        recipe["limit"] = whole(limit, "limit", 1)
        data = _first(data, recipe["limit"])
    return replace(data, recipe=recipe)


def as_dataset(data: Any, *, seed: int = 0) -> Dataset:
    """Whatever may stand for data: a name, a `Dataset`, (x, y), (x, y, x_test, y_test), or a torch data set.

    Raises:
        DataError: as `load` and `wrap`.
    """
    if isinstance(data, Dataset):
        return data
    if isinstance(data, str):
        return load(data, seed=seed)
    if isinstance(data, (tuple, list)) and len(data) == 4:
        return wrap((data[0], data[1]), (data[2], data[3]))
    if isinstance(data, (tuple, list)) and len(data) == 2 and isinstance(data[0], TorchDataset):
        return wrap(data[0], data[1])
    return wrap(data, seed=seed)


def _known(name: object) -> str:
    squeezed = {re.sub("[-_ ]", "", known): known for known in names()}
    key = re.sub("[-_ ]", "", name.lower()) if isinstance(name, str) else ""
    if key not in squeezed:
        near = difflib.get_close_matches(key, squeezed, n=1)
        fix = f"write {squeezed[near[0]]!r}" if near else "bring own data with eclab.data.wrap"
        raise DataError(f"the data set is {name!r}", allowed=", ".join(names()), fix=fix)
    return squeezed[key]


def _first(data: Dataset, limit: int) -> Dataset:
    return replace(
        data,
        x_train=data.x_train[:limit].clone(),
        y_train=data.y_train[:limit].clone(),
        x_test=data.x_test[:limit].clone(),
        y_test=data.y_test[:limit].clone(),
    )


def _noise(noise: object) -> float:
    level = 0.1 if noise is None else noise
    number = math.nan if isinstance(level, bool) or not isinstance(level, Real) else float(level)
    if not 0 <= number <= 0.5:
        raise DataError(f"the noise is {level!r}", allowed="a number from 0 to 0.5")
    return number


def _samples(samples: object) -> int:
    return whole(500 if samples is None else samples, "number of samples", 2, MOST_SAMPLES)


def _toy(name: str, seed: int, noise: float, samples: int) -> Dataset:
    def part(stream: int) -> tuple[torch.Tensor, torch.Tensor]:
        points, labels = draw(name, np.random.default_rng([seed, stream]), samples, noise)
        return torch.from_numpy(points.astype(np.float32)), torch.from_numpy(labels)

    return Dataset(name, *part(0), *part(1), ("0", "1"), f"seed {seed}, noise {noise:g}")


def _digits(seed: int) -> Dataset:
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    x, y = bunch.images[:, None].astype(np.uint8), bunch.target.astype(np.uint8)
    keep, held = (index.numpy() for index in stratified_split(torch.from_numpy(y), 0.2, seed))
    pictures = Pictures(x[keep], y[keep], x[held], y[held], source=f"scikit-learn, split by seed {seed}")
    return _standardised("digits", pictures, DIGITS)


def _standardised(name: str, pictures: Pictures, classes: tuple[str, ...]) -> Dataset:
    """Mean 0 and variance 1 over the training pixels of every channel, through a table of the 256 values."""
    x_train = np.empty(pictures.x_train.shape, np.float32)
    x_test = np.empty(pictures.x_test.shape, np.float32)
    for channel in range(pictures.x_train.shape[1]):
        table = _standardising(pictures.x_train[:, channel])
        x_train[:, channel] = table[pictures.x_train[:, channel]]
        x_test[:, channel] = table[pictures.x_test[:, channel]]
    y_train, y_test = (torch.from_numpy(y.astype(np.int64)) for y in (pictures.y_train, pictures.y_test))
    source = f"{pictures.source}; standardised"
    return Dataset(name, torch.from_numpy(x_train), y_train, torch.from_numpy(x_test), y_test, classes, source)


def _standardising(pixels: Bytes) -> np.ndarray[Any, np.dtype[np.float32]]:
    share = np.bincount(pixels.ravel(), minlength=256) / pixels.size
    values = np.arange(256.0)
    mean = share @ values
    deviation = np.sqrt(share @ (values - mean) ** 2) or 1.0
    return ((values - mean) / deviation).astype(np.float32)


def _pictures(name: str, root: str | os.PathLike[str] | None, download: bool) -> Pictures:
    place = _folder(name, root)
    if place is None:
        missing = f"{_FILES[name]} of {name} are not {_looked_in(name, root)}"
        if root is not None or not download:
            raise DataError(missing, fix=_how_to_get(name))
        try:
            return download_pictures(name)
        except DataError as error:
            raise DataError(f"{missing}; {error.seen}", fix=f"go online, or {_how_to_get(name)}") from error
    pictures = files.read_cifar(place) if name == "cifar10" else files.read_idx_set(place)
    for other, labels in _FIRST_LABELS.items():
        if name in _FIRST_LABELS and other != name and pictures.y_train[: len(labels)].tolist() == labels:
            raise DataError(f"the files in {place} are those of {other}, not of {name}", fix=_how_to_get(name))
    return pictures


def _folder(name: str, root: str | os.PathLike[str] | None) -> Path | None:
    """The first folder that holds (some of) the files of the set."""
    holds: Callable[[Path], bool] = files.has_cifar if name == "cifar10" else files.has_idx
    found = next((folder for folder in _places(name, root) if holds(folder)), None)
    if name == "cifar10" and found is None:
        pickles = next((folder for folder in _places(name, root) if files.has_cifar_pickles(folder)), None)
        if pickles:
            seen = f"{pickles} holds CIFAR-10's Python version, which is made of pickles; no pickle is ever loaded"
            raise DataError(seen, allowed=_FILES[name], fix=_how_to_get(name))
    return found


def _on_disk(name: str) -> bool:
    try:
        return _folder(name, None) is not None
    except DataError:
        return False


def _places(name: str, root: str | os.PathLike[str] | None) -> Iterator[Path]:
    above = _above(root)
    if above is not None:
        yield from (above / folder for folder in _FOLDERS[name])
    if root is None and name in _DEBIAN:
        yield _DEBIAN[name]


def _above(root: str | os.PathLike[str] | None) -> Path | None:
    named = os.environ.get("ECLAB_DATA") if root is None else root
    if not isinstance(named, (str, os.PathLike, type(None))):
        raise DataError(f"the root folder is {named!r}", allowed="a path")
    return Path(named).expanduser() if named else None


def _looked_in(name: str, root: str | os.PathLike[str] | None) -> str:
    above = _above(root)
    if above is None:
        place = "in a folder named by ECLAB_DATA (it is not set)"
    elif not above.is_dir():
        place = f"in {above} (there is no such folder)"
    else:
        place = f"in {above} or below it in {', '.join(filter(None, _FOLDERS[name]))}"
    return f"{place}, nor in {_DEBIAN[name]}" if root is None and name in _DEBIAN else place


def _how_to_get(name: str) -> str:
    own = f"put its files into a folder {name} and name the folder above in ECLAB_DATA or root"
    if name == "cifar10":
        return "get cifar-10-binary.tar.gz, the binary version; " + own
    return "apt install dataset-fashion-mnist, or " + own if name == "fashion-mnist" else own
