"""Readers of the standard files: IDX (MNIST, Fashion-MNIST) and CIFAR-10's binary version. No pickle is ever loaded."""

from __future__ import annotations

import gzip
import math
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eclab.errors import DataError

Bytes = NDArray[np.uint8]

_IDX = {
    "x_train": ("train-images", 3),
    "y_train": ("train-labels", 1),
    "x_test": ("t10k-images", 3),
    "y_test": ("t10k-labels", 1),
}
_CIFAR_BATCHES = [f"data_batch_{i}.bin" for i in range(1, 6)]
_CIFAR_ARCHIVE = "cifar-10-binary.tar.gz"
_CIFAR_PICKLES = ("cifar-10-batches-py", "cifar-10-python.tar.gz", "data_batch_1")
_CIFAR_RECORD = 1 + 3 * 32 * 32


@dataclass(frozen=True)
class Pictures:
    """A picture set as in its files: x [N, channels, height, width], y [N]."""

    x_train: Bytes
    y_train: Bytes
    x_test: Bytes
    y_test: Bytes
    source: str


def read_idx(path: Path, ndim: int) -> Bytes:
    """One IDX file of unsigned bytes, gzipped or not, with `ndim` dimensions.

    Raises:
        DataError: it cannot be read, is truncated, or is something else; names the file.
    """
    with _reading(path):
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    header = 4 + 4 * ndim
    if len(content) < header or content[:4] != bytes([0, 0, 8, ndim]):
        seen = f"{path} starts with the bytes {content[:4].hex(' ') or '(none)'}"
        raise DataError(seen, allowed=f"00 00 08 0{ndim}, an IDX file of bytes", fix="get the file again")
    shape = struct.unpack(f">{ndim}I", content[4:header])
    if len(content) - header != math.prod(shape):
        seen = f"{path} holds {len(content) - header:,} values, but announces {'x'.join(map(str, shape))}"
        raise DataError(seen, fix="it is truncated or corrupt: get it again")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def idx_file(folder: Path, stem: str, ndim: int) -> Path | None:
    """The file of that stem under one of its usual names, gzipped or not."""
    for name in (f"{stem}-idx{ndim}-ubyte", f"{stem}.idx{ndim}-ubyte"):
        for path in (folder / f"{name}.gz", folder / name):
            if path.is_file():
                return path
    return None


def has_idx(folder: Path) -> bool:
    """Whether any of the four files is there."""
    return any(idx_file(folder, *kind) for kind in _IDX.values())


def read_idx_set(folder: Path) -> Pictures:
    """The four files of MNIST or Fashion-MNIST.

    Raises:
        DataError: a file is missing or corrupt, or they do not belong together; names the file.
    """
    parts: dict[str, Bytes] = {}
    paths: dict[str, Path] = {}
    for part, (stem, ndim) in _IDX.items():
        path = idx_file(folder, stem, ndim)
        if path is None:
            missing = folder / f"{stem}-idx{ndim}-ubyte.gz"
            raise DataError(f"{missing} is missing", fix=f"put it beside the other files in {folder}")
        parts[part], paths[part] = read_idx(path, ndim), path
    for x, y in (("x_train", "y_train"), ("x_test", "y_test")):
        if parts[x].shape[1:] != (28, 28) or len(parts[x]) == 0:
            seen = f"{paths[x]} holds {'x'.join(map(str, parts[x].shape))} pixels"
            raise DataError(seen, allowed="at least one picture of 28x28", fix="get the file again")
        if len(parts[x]) != len(parts[y]):
            seen = f"{paths[x]} holds {len(parts[x]):,} pictures, {paths[y]} {len(parts[y]):,} labels"
            raise DataError(seen, allowed="as many of both", fix="get both files again, from one place")
        _check_labels(parts[y], paths[y])
    pictures = {part: values[:, None] if part.startswith("x") else values for part, values in parts.items()}
    return Pictures(**pictures, source=f"files in {folder}")


def has_cifar(folder: Path) -> bool:
    """Whether CIFAR-10's binary version is there, unpacked or packed."""
    return (folder / _CIFAR_BATCHES[0]).is_file() or (folder / _CIFAR_ARCHIVE).is_file()


def has_cifar_pickles(folder: Path) -> bool:
    """Whether CIFAR-10's Python version is there, which is not read."""
    return any((folder / name).exists() for name in _CIFAR_PICKLES)


def read_cifar(folder: Path) -> Pictures:
    """CIFAR-10 from the files of its binary version, or from the archive they come in.

    Raises:
        DataError: a file is missing, truncated or corrupt; names the file.
    """
    archive = folder / _CIFAR_ARCHIVE
    if (folder / _CIFAR_BATCHES[0]).is_file():
        x_train, y_train, x_test, y_test = _cifar_parts(folder, _unpacked(folder))
        return Pictures(x_train, y_train, x_test, y_test, source=f"files in {folder}")
    with _reading(archive), tarfile.open(archive, "r:*") as tar:
        members = {Path(member.name).name: member for member in tar.getmembers() if member.isfile()}

        def read(name: str) -> bytes | None:
            stream = tar.extractfile(members[name]) if name in members else None
            return stream.read() if stream else None

        x_train, y_train, x_test, y_test = _cifar_parts(archive, read)
    return Pictures(x_train, y_train, x_test, y_test, source=str(archive))


def _unpacked(folder: Path) -> Callable[[str], bytes | None]:
    def read(name: str) -> bytes | None:
        path = folder / name
        if not path.is_file():
            return None
        with _reading(path):
            return path.read_bytes()

    return read


def _cifar_parts(place: Path, read: Callable[[str], bytes | None]) -> tuple[Bytes, Bytes, Bytes, Bytes]:
    batches = [_cifar_batch(place / name, read(name)) for name in [*_CIFAR_BATCHES, "test_batch.bin"]]
    training = np.concatenate(batches[:-1])
    return *_cifar_split(training), *_cifar_split(batches[-1])


def _cifar_batch(path: Path, content: bytes | None) -> Bytes:
    if content is None:
        raise DataError(f"{path} is missing", fix="get CIFAR-10's binary version again")
    if not content or len(content) % _CIFAR_RECORD:
        seen = f"{path} holds {len(content):,} bytes"
        raise DataError(
            seen, allowed=f"a multiple of {_CIFAR_RECORD:,}", fix="it is truncated or corrupt: get it again"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, _CIFAR_RECORD)
    _check_labels(records[:, 0], path)
    return records


def _cifar_split(records: Bytes) -> tuple[Bytes, Bytes]:
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0]


def _check_labels(labels: Bytes, path: Path) -> None:
    if labels.max() > 9:
        raise DataError(f"{path} holds the label {labels.max()}", allowed="0 to 9", fix="get the file again")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        seen = f"{path} cannot be read ({str(error) or type(error).__name__})"
        raise DataError(seen, fix="it is truncated, corrupt or not readable: get it again") from error
