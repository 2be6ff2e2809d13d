"""Standard files of picture sets: where they are found, and one clear error that names the file or the fix."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import tarfile
from collections.abc import Callable
from http.client import IncompleteRead
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import sklearn.datasets
from hypothesis import given
from hypothesis import strategies as st

from eclab import data
from eclab.data import catalog
from tests.data_checks import refused, same

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


def idx(array: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_idx_set(folder: Path, train: int = 30, test: int = 12, seed: int = 0, packed: bool = True) -> Path:
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for name, shape, high in (
        (IMAGES, (train, 28, 28), 256),
        (LABELS, (train,), 10),
        (TEST_IMAGES, (test, 28, 28), 256),
        (TEST_LABELS, (test,), 10),
    ):
        content = idx(rng.integers(0, high, shape, dtype=np.uint8))
        (folder / (name + ".gz" * packed)).write_bytes(gzip.compress(content) if packed else content)
    return folder


def cifar_records(count: int, seed: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    rng = np.random.default_rng(seed)
    return np.hstack(
        [rng.integers(0, 10, (count, 1), dtype=np.uint8), rng.integers(0, 256, (count, 3072), dtype=np.uint8)]
    )


def write_cifar(folder: Path, per_batch: int = 4) -> dict[str, bytes]:
    folder.mkdir(parents=True, exist_ok=True)
    batches = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    contents = {name: cifar_records(per_batch, seed).tobytes() for seed, name in enumerate(batches)}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return contents


@pytest.fixture(autouse=True)
def nothing_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """No folder is set, Debian's is not there, and whoever asks the network has not said so."""

    def fetch(**arguments: Any) -> Any:
        raise AssertionError(f"a download was tried: {arguments}")

    monkeypatch.delenv("ECLAB_DATA", raising=False)
    monkeypatch.setattr(catalog, "_DEBIAN", {"fashion-mnist": Path("/nowhere/fashion-mnist")})
    monkeypatch.setattr(sklearn.datasets, "fetch_openml", fetch)


def test_available_lists_what_is_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_idx_set(tmp_path / "mnist")
    write_cifar(tmp_path / "cifar10")
    monkeypatch.setenv("ECLAB_DATA", str(tmp_path))
    assert data.available()[5:] == ("mnist", "cifar10")


def test_own_sets_need_no_file() -> None:
    assert data.available() == ("digits", "circle", "xor", "gauss", "spiral")


@pytest.mark.parametrize("spelling", ["Fashion_MNIST", "FashionMNIST", "fashion mnist", "fashion-mnist"])
def test_spellings(spelling: str, tmp_path: Path) -> None:
    write_idx_set(tmp_path)
    assert data.load(spelling, root=tmp_path).name == "fashion-mnist"


# Standard files


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_idx_files(name: str, packed: bool, tmp_path: Path) -> None:
    write_idx_set(tmp_path, packed=packed)
    d = data.load(name, root=tmp_path)
    assert (d.x_train.shape, d.x_test.shape, d.num_classes) == ((30, 1, 28, 28), (12, 1, 28, 28), 10)
    assert str(tmp_path) in d.source
    content = (tmp_path / (IMAGES + ".gz" * packed)).read_bytes()
    pixels = np.frombuffer(gzip.decompress(content) if packed else content, np.uint8, offset=16).astype(np.float64)
    expected = ((pixels - pixels.mean()) / pixels.std()).reshape(30, 1, 28, 28)
    np.testing.assert_allclose(d.x_train.numpy(), expected, atol=1e-6)
    labels = np.random.default_rng(0)
    labels.integers(0, 256, (30, 28, 28), dtype=np.uint8)
    assert d.y_train.tolist() == labels.integers(0, 10, 30, dtype=np.uint8).tolist()


def test_idx_files_with_a_dot_in_their_names(tmp_path: Path) -> None:
    write_idx_set(tmp_path, packed=False)
    for path in list(tmp_path.iterdir()):
        path.rename(path.with_name(path.name.replace("-idx", ".idx")))
    assert len(data.load("mnist", root=tmp_path).x_train) == 30


@pytest.mark.parametrize("folder", ["", "fashion-mnist", "FashionMNIST/raw"])
def test_folders_below_the_one_that_is_set(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_idx_set(tmp_path / folder, train=7)
    monkeypatch.setenv("ECLAB_DATA", str(tmp_path))
    assert len(data.load("fashion-mnist").x_train) == 7
    assert same(data.load("fashion-mnist"), data.load("fashion-mnist", root=tmp_path))


def test_the_folder_that_is_set_comes_before_debians(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_idx_set(tmp_path / "debian", train=5)
    monkeypatch.setattr(catalog, "_DEBIAN", {"fashion-mnist": tmp_path / "debian"})
    assert len(data.load("fashion-mnist").x_train) == 5
    monkeypatch.setenv("ECLAB_DATA", str(tmp_path / "own"))
    assert len(data.load("fashion-mnist").x_train) == 5
    write_idx_set(tmp_path / "own" / "fashion-mnist", train=6)
    assert len(data.load("fashion-mnist").x_train) == 6


def test_debians_fashion_mnist(fashion_mnist: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.delenv("ECLAB_DATA", raising=False)
    d = data.load("fashion-mnist", limit=1000)
    assert (len(d.x_train), len(d.x_test)) == (1000, 1000)
    assert str(fashion_mnist) in d.source
    assert d.y_train[:10].tolist() == [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]
    assert abs(d.x_train.min().item() + 0.2860 / 0.3530) < 1e-3  # the known mean and deviation of its pixels
    assert "fashion-mnist" in data.available()


def test_mnist_is_not_taken_for_fashion_mnist(fashion_mnist: Path) -> None:
    message = refused(lambda: data.load("mnist", root=fashion_mnist))
    assert f"the files in {fashion_mnist} are those of fashion-mnist, not of mnist" in message


def test_the_files_of_mnist_are_known(tmp_path: Path) -> None:
    write_idx_set(tmp_path, train=16)
    first = np.array([5, 0, 4, 1, 9, 2, 1, 3, 1, 4, 3, 5, 3, 6, 1, 7], np.uint8)  # as everyone has seen them drawn
    (tmp_path / f"{LABELS}.gz").write_bytes(gzip.compress(idx(first)))
    assert data.load("mnist", root=tmp_path).y_train.tolist() == first.tolist()
    assert "are those of mnist, not of fashion-mnist" in refused(lambda: data.load("fashion-mnist", root=tmp_path))


def spoilt(spoil: Callable[[bytes], bytes], packed: bool) -> Callable[[bytes], bytes]:
    """Spoils what is inside of a packed file, or the file itself."""
    return (lambda content: gzip.compress(spoil(gzip.decompress(content)))) if packed else spoil


@pytest.mark.parametrize(
    ("name", "spoil", "said"),
    [
        (IMAGES, lambda b: b[:-100], "cannot be read"),
        (IMAGES, lambda b: b[: len(b) // 2], "cannot be read"),
        (LABELS, lambda b: b[:40] + bytes([b[40] ^ 255]) + b[41:], "cannot be read"),
        (TEST_IMAGES, lambda b: b"", "starts with the bytes (none)"),
        (TEST_IMAGES, lambda b: b"<html>404</html>", "starts with the bytes 3c 68 74 6d"),
        (IMAGES, spoilt(lambda b: b[:-1], True), "holds 23,519 values, but announces 30x28x28"),
        (IMAGES, spoilt(lambda b: b + b"\0", True), "holds 23,521 values"),
        (IMAGES, spoilt(lambda b: b[:9], True), "starts with the bytes 00 00 08 03"),
        (IMAGES, spoilt(lambda b: b"\0\0\x0d\x03" + b[4:], True), "starts with the bytes 00 00 0d 03"),
        (TEST_LABELS, spoilt(lambda b: idx(np.zeros((12, 1, 1), np.uint8)), True), "starts with the bytes 00 00 08 03"),
        (TEST_LABELS, spoilt(lambda b: idx(np.full(12, 10, np.uint8)), True), "holds the label 10"),
        (TEST_LABELS, spoilt(lambda b: idx(np.zeros(11, np.uint8)), True), "12 pictures"),
        (IMAGES, spoilt(lambda b: idx(np.zeros((30, 8, 8), np.uint8)), True), "holds 30x8x8 pixels"),
        (IMAGES, spoilt(lambda b: idx(np.zeros((0, 28, 28), np.uint8)), True), "holds 0x28x28 pixels"),
    ],
)
def test_a_corrupt_idx_file_is_named(name: str, spoil: Callable[[bytes], bytes], said: str, tmp_path: Path) -> None:
    write_idx_set(tmp_path)
    path = tmp_path / f"{name}.gz"
    path.write_bytes(spoil(path.read_bytes()))
    message = refused(lambda: data.load("mnist", root=tmp_path))
    assert str(path) in message
    assert said in message


@given(which=st.integers(0, 3), draw=st.data())
def test_no_truncation_goes_unnoticed(
    tmp_path_factory: pytest.TempPathFactory, which: int, draw: st.DataObject
) -> None:
    folder = write_idx_set(tmp_path_factory.mktemp("cut"), train=2, test=2)
    path = sorted(folder.iterdir())[which]
    content = path.read_bytes()
    path.write_bytes(content[: draw.draw(st.integers(0, len(content) - 1))])
    assert str(path) in refused(lambda: data.load("mnist", root=folder))


@pytest.mark.parametrize("name", [IMAGES, LABELS, TEST_IMAGES, TEST_LABELS])
def test_a_missing_companion_is_named(name: str, tmp_path: Path) -> None:
    write_idx_set(tmp_path)
    (tmp_path / f"{name}.gz").unlink()
    assert f"{tmp_path / name}.gz is missing" in refused(lambda: data.load("mnist", root=tmp_path))


def test_a_folder_in_place_of_a_file_counts_as_missing(tmp_path: Path) -> None:
    write_idx_set(tmp_path)
    (tmp_path / f"{LABELS}.gz").unlink()
    (tmp_path / f"{LABELS}.gz").mkdir()
    assert f"{LABELS}.gz is missing" in refused(lambda: data.load("mnist", root=tmp_path))


@pytest.mark.parametrize("archive", [True, False])
def test_cifar_in_its_binary_version(archive: bool, tmp_path: Path) -> None:
    contents = write_cifar(tmp_path / "cifar-10-batches-bin")
    if archive:
        with tarfile.open(tmp_path / "cifar-10-binary.tar.gz", "w:gz") as tar:
            tar.add(tmp_path / "cifar-10-batches-bin", "cifar-10-batches-bin")
        for path in (tmp_path / "cifar-10-batches-bin").iterdir():
            path.unlink()
    d = data.load("cifar10", root=tmp_path)
    assert (d.x_train.shape, d.x_test.shape) == ((20, 3, 32, 32), (4, 3, 32, 32))
    assert d.classes[3] == "cat"
    first = np.frombuffer(contents["data_batch_1.bin"], np.uint8)
    assert d.y_train[0] == first[0]
    assert d.y_test[0] == contents["test_batch.bin"][0]
    green = np.stack(
        [np.frombuffer(contents[f"data_batch_{i}.bin"], np.uint8).reshape(4, -1)[:, 1025:2049] for i in range(1, 6)]
    )
    expected = (first[1025] - green.mean()) / green.std()
    assert abs(d.x_train[0, 1, 0, 0].item() - expected) < 1e-5
    assert d.x_train.double().mean((0, 2, 3)).abs().max() < 1e-6


class Bomb:
    """Whoever unpickles it fails the test."""

    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ("a pickle was loaded",)


@pytest.mark.parametrize("set_by", ["root", "ECLAB_DATA"])
@pytest.mark.parametrize("place", ["cifar-10-batches-py/data_batch_1", "cifar-10-python.tar.gz", "data_batch_1"])
def test_no_pickle_is_loaded(place: str, set_by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_bytes(pickle.dumps(Bomb()))
    root = None
    if set_by == "root":
        root = tmp_path
    else:
        monkeypatch.setenv("ECLAB_DATA", str(tmp_path))
    message = refused(lambda: data.load("cifar10", root=root))
    assert "made of pickles; no pickle is ever loaded" in message
    assert "get cifar-10-binary.tar.gz, the binary version" in message
    assert "cifar10" not in data.available()


def test_pickles_beside_the_binary_version_do_no_harm(tmp_path: Path) -> None:
    write_cifar(tmp_path / "cifar-10-batches-bin")
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(pickle.dumps(Bomb()))
    assert len(data.load("cifar10", root=tmp_path).x_train) == 20


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "is missing"),
        (b"", "holds 0 bytes"),
        (bytes(3073 * 2 - 1), "holds 6,145 bytes"),
        (bytes([77]) + bytes(3072), "holds the label 77"),
    ],
)
def test_a_corrupt_cifar_file_is_named(content: bytes | None, said: str, tmp_path: Path) -> None:
    write_cifar(tmp_path)
    path = tmp_path / "data_batch_3.bin"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    message = refused(lambda: data.load("cifar10", root=tmp_path))
    assert f"{path} {said}" in message


@pytest.mark.parametrize("spoil", [lambda b: b[: len(b) // 2], lambda b: b[:5], lambda b: b"", lambda b: b"no archive"])
def test_a_corrupt_cifar_archive_is_named(spoil: Callable[[bytes], bytes], tmp_path: Path) -> None:
    write_cifar(tmp_path / "batches")
    path, packed = tmp_path / "cifar-10-binary.tar.gz", io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        tar.add(tmp_path / "batches", "batches")
    path.write_bytes(spoil(packed.getvalue()))
    assert f"{path} cannot be read" in refused(lambda: data.load("cifar10", root=tmp_path))


def test_an_archive_without_its_files_is_named(tmp_path: Path) -> None:
    path = tmp_path / "cifar-10-binary.tar.gz"
    with tarfile.open(path, "w:gz"):
        pass
    assert "data_batch_1.bin is missing" in refused(lambda: data.load("cifar10", root=tmp_path))


# Missing files and the network


def test_files_that_are_not_there_are_named_with_the_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    message = refused(lambda: data.load("fashion-mnist", root=tmp_path))
    assert f"{IMAGES}.gz" in message
    assert str(tmp_path) in message
    assert "apt install dataset-fashion-mnist" in message
    assert "ECLAB_DATA" in message
    message = refused(lambda: data.load("mnist", download=False))
    assert "it is not set" in message
    monkeypatch.setenv("ECLAB_DATA", str(tmp_path / "gone"))
    message = refused(lambda: data.load("mnist", download=False))
    assert f"{tmp_path / 'gone'} (there is no such folder)" in message
    assert "/nowhere/fashion-mnist" in refused(lambda: data.load("fashion-mnist", download=False))


@pytest.mark.parametrize(
    "failure",
    [
        URLError(OSError("no route to host")),
        TimeoutError("timed out"),
        IncompleteRead(b""),
        ValueError("md5 checksum of local file does not match"),
        EOFError("Compressed file ended"),
    ],
)
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10"])
def test_offline_is_one_clear_error(name: str, failure: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(**arguments: Any) -> Any:
        raise failure

    monkeypatch.setattr(sklearn.datasets, "fetch_openml", fetch)
    message = refused(lambda: data.load(name))
    assert "cannot be read from OpenML" in message
    assert "To fix it: go online, or" in message
    assert "ECLAB_DATA" in message
    assert ("apt install" in message) == (name == "fashion-mnist")


@pytest.mark.parametrize(("name", "number"), [("mnist", 554), ("fashion-mnist", 40996)])
def test_a_download_is_split_as_the_files_are(name: str, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.arange(70_000, dtype=np.int64)[:, None].repeat(784, axis=1) % 256
    labels = (np.arange(70_000) // 7 % 10).astype(str).astype(object)

    def fetch(**arguments: Any) -> Any:
        assert arguments["data_id"] == number
        assert arguments["as_frame"] is False
        return SimpleNamespace(data=pixels, target=labels)

    monkeypatch.setattr(sklearn.datasets, "fetch_openml", fetch)
    d = data.load(name, limit=300)
    assert d.y_train.tolist() == [i // 7 % 10 for i in range(300)]
    assert d.y_test.tolist() == [i // 7 % 10 for i in range(60_000, 60_300)]
    assert d.x_test[0, 0, 0, 0] == d.x_train[60_000 % 256, 0, 0, 0]
    assert f"OpenML {number}" in d.source


@pytest.mark.parametrize(
    ("pixels", "labels", "said"),
    [
        (np.zeros((10, 784)), np.zeros(10), "has the shapes (10, 784) and (10,)"),
        (np.full((1, 784), 0.5), np.zeros(1), "not whole numbers"),
        (np.full((1, 784), np.nan), np.zeros(1), "not whole numbers"),
        (np.full((1, 784), 256), np.zeros(1), "not whole numbers"),
        (np.zeros((1, 784)), np.array(["five"], dtype=object), "could not convert"),
    ],
)
def test_an_answer_that_is_not_the_set(pixels: Any, labels: Any, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sklearn.datasets, "fetch_openml", lambda **_: SimpleNamespace(data=pixels, target=labels))
    assert said in refused(lambda: data.load("mnist"))
