"""Data sets: what they hold, where they are found, and one clear error for whatever is wrong with them."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import tarfile
from collections.abc import Callable, Iterator
from http.client import IncompleteRead
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import sklearn.datasets
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import IterableDataset, Subset, TensorDataset

from eclab import data
from eclab.data import catalog
from eclab.data.dataset import stratified_split
from eclab.data.toys import SCALE, TOYS
from eclab.errors import DataError
from eclab.network.spec import NetworkSpec

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


def refused(call: Callable[[], Any]) -> str:
    with pytest.raises(DataError) as caught:
        call()
    assert type(caught.value) is DataError
    return str(caught.value)


def same(a: data.Dataset, b: data.Dataset) -> bool:
    pairs = ((a.x_train, b.x_train), (a.y_train, b.y_train), (a.x_test, b.x_test), (a.y_test, b.y_test))
    return all(torch.equal(p, q) for p, q in pairs)


# Names


def test_names_in_the_order_they_are_shown() -> None:
    assert data.names() == ("digits", "circle", "xor", "gauss", "spiral", "fashion-mnist", "mnist", "cifar10")
    assert data.available() == ("digits", "circle", "xor", "gauss", "spiral")


def test_available_lists_what_is_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_idx_set(tmp_path / "mnist")
    write_cifar(tmp_path / "cifar10")
    monkeypatch.setenv("ECLAB_DATA", str(tmp_path))
    assert data.available()[5:] == ("mnist", "cifar10")


@pytest.mark.parametrize("name", data.available()[:5])
def test_every_own_set_keeps_the_contract(name: str) -> None:
    d = data.load(name)
    assert d.name == name
    for x, y in ((d.x_train, d.y_train), (d.x_test, d.y_test)):
        assert x.dtype is torch.float32
        assert y.dtype is torch.int64
        assert x.shape == (len(y), *d.input_shape)
        assert x.isfinite().all()
        assert set(y.tolist()) == set(range(d.num_classes))
    assert d.features == d.flat().x_test.shape[1]
    assert d.is_2d == (name in TOYS)
    assert same(d, data.load(name))


@pytest.mark.parametrize("spelling", ["Fashion_MNIST", "FashionMNIST", "fashion mnist", "fashion-mnist"])
def test_spellings(spelling: str, tmp_path: Path) -> None:
    write_idx_set(tmp_path)
    assert data.load(spelling, root=tmp_path).name == "fashion-mnist"


@pytest.mark.parametrize(
    ("name", "fix"), [("digitts", "'digits'"), ("cifar100", "'cifar10'"), ("imagenet-22k", "wrap")]
)
def test_an_unknown_name_lists_the_known_ones(name: str, fix: str) -> None:
    message = refused(lambda: data.load(name))
    assert name in message
    assert "digits, circle, xor" in message
    assert fix in message.split("To fix it")[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"name": None}, "the data set is None"),
        ({"seed": -1}, "the seed is -1"),
        ({"seed": 0.5}, "the seed is 0.5"),
        ({"seed": True}, "the seed is True"),
        ({"limit": 0}, "the limit is 0"),
        ({"limit": "9"}, "the limit is '9'"),
        ({"noise": 0.1}, "noise or samples is given for digits"),
        ({"samples": 9}, "noise or samples is given for digits"),
        ({"root": "/tmp"}, "a root folder is given for digits"),
        ({"name": "spiral", "noise": 0.6}, "the noise is 0.6"),
        ({"name": "spiral", "noise": -0.1}, "the noise is -0.1"),
        ({"name": "spiral", "noise": float("nan")}, "the noise is nan"),
        ({"name": "spiral", "noise": True}, "the noise is True"),
        ({"name": "spiral", "samples": 1}, "the number of samples is 1"),
        ({"name": "spiral", "samples": 2.5}, "the number of samples is 2.5"),
    ],
)
def test_settings_that_are_refused(arguments: dict[str, Any], said: str) -> None:
    assert said in refused(lambda: data.load(**arguments))


# Digits


def test_digits_are_split_the_same_way_in_every_class() -> None:
    d = data.load()
    assert (len(d.x_train), len(d.x_test), d.input_shape, d.num_classes) == (1438, 359, (1, 8, 8), 10)
    counts, held = torch.bincount(d.y_train), torch.bincount(d.y_test)
    assert torch.equal(held, (0.2 * (counts + held)).round().long())
    assert not same(d, data.load(seed=1))


def test_digits_lose_and_double_no_picture() -> None:
    d = data.load(seed=3)
    original = sklearn.datasets.load_digits()
    rows = torch.cat([d.x_train, d.x_test]).flatten(1)
    # Standardising is increasing and affine, so 0 and 16 fix it.
    low, high = rows.min(), rows.max()
    values = ((rows - low) / (high - low) * 16).round().long().numpy()
    ours = sorted(zip(map(tuple, values.tolist()), torch.cat([d.y_train, d.y_test]).tolist(), strict=True))
    theirs = sorted(zip(map(tuple, original.data.astype(int).tolist()), original.target.tolist(), strict=True))
    assert ours == theirs


def test_pictures_are_standardised_by_their_training_part() -> None:
    x = data.load().x_train.double()
    assert abs(x.mean().item()) < 1e-6
    assert abs(x.std(correction=0).item() - 1) < 1e-6


def test_limit_keeps_the_first_of_both() -> None:
    d, few = data.load(), data.load(limit=50)
    assert torch.equal(few.x_train, d.x_train[:50])
    assert torch.equal(few.y_test, d.y_test[:50])
    assert few.num_classes == 10
    assert few.x_train.untyped_storage().nbytes() == few.x_train.nbytes
    assert same(data.load(limit=10**9), d)


# Toys


@given(st.sampled_from(list(TOYS)), st.integers(2, 101), st.integers(0, 2**40), st.floats(0, 0.5))
def test_toys_are_balanced_and_seeded(name: str, samples: int, seed: int, noise: float) -> None:
    d = data.load(name, seed=seed, samples=samples, noise=noise)
    assert len(d.x_train) == len(d.x_test) == samples
    for y in (d.y_train, d.y_test):
        assert int(y.sum()) == samples // 2
    assert same(d, data.load(name, seed=seed, samples=samples, noise=noise))
    assert not same(d, data.load(name, seed=seed + 1, samples=samples, noise=noise))
    assert not torch.equal(d.x_train, d.x_test)


def test_toys_without_noise_have_their_shapes() -> None:
    drawn = {name: data.load(name, noise=0, samples=2000) for name in TOYS}
    points = {name: (d.x_train.double() * SCALE, d.y_train) for name, d in drawn.items()}
    x, y = points["circle"]
    radius = x.norm(dim=1)
    assert radius[y == 1].max() <= 2.5
    assert radius[y == 0].min() >= 3.5
    assert radius.max() <= 5.0001
    for label in (0, 1):
        quadrants = torch.bincount((x[y == label, 0] > 0) * 2 + (x[y == label, 1] > 0))
        assert quadrants.min() > 200
    x, y = points["xor"]
    assert torch.equal(x.prod(1) > 0, y == 1) or torch.equal(x.prod(1) > 0, y == 0)
    assert x.abs().min() >= 0.2999
    quadrants = torch.bincount((x[:, 0] > 0) * 2 + (x[:, 1] > 0))
    assert quadrants.min() > 400
    x, y = points["gauss"]
    for label, centre in ((0, -2.0), (1, 2.0)):
        assert (x[y == label].mean(0) - centre).abs().max() < 0.1
        assert (x[y == label].var(0) - 0.5).abs().max() < 0.1
    x, y = points["spiral"]
    radius, turn = x.norm(dim=1), torch.atan2(x[:, 0], x[:, 1])
    expected = radius / 5 * 1.75 * 2 * torch.pi + (1 - y) * torch.pi
    assert torch.cos(turn - expected).min() > 0.999


@pytest.mark.parametrize("name", TOYS)
def test_noise_moves_points_and_scale_stays_near_one(name: str) -> None:
    calm, noisy = (data.load(name, noise=noise, samples=4000).x_train for noise in (0.0, 0.5))
    assert noisy.var() > calm.var() * 1.01
    assert 0.5 < calm.var().item() < 2


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


# Own data


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
        ((X, Y * 0), "own data has 1 classes"),
        ((X, Y * 10**9), "own data has 1000000001 classes"),
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
        ({"num_classes": 1}, "has 1 classes"),
        ({"num_classes": 2.0}, "has 2.0 classes"),
        ({"num_classes": True}, "has True classes"),
        ({"test_share": 0}, "the test share is 0"),
        ({"test_share": 1.0}, "the test share is 1.0"),
        ({"test_share": float("nan")}, "the test share is nan"),
        ({"test_share": True}, "the test share is True"),
        ({"test_share": 0.01}, "leaves none on one side"),
        ({"test_share": 0.99}, "leaves none on one side"),
    ],
)
def test_settings_of_own_data_that_are_refused(arguments: dict[str, Any], said: str) -> None:
    assert said in refused(lambda: data.wrap((X, Y), **arguments))


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


# The data set itself


def test_moving_converts_samples_but_never_labels() -> None:
    d = data.load("spiral").to("cpu", torch.float64)
    assert (d.x_train.dtype, d.x_test.dtype) == (torch.float64, torch.float64)
    assert (d.y_train.dtype, d.y_test.dtype) == (torch.int64, torch.int64)
    assert same(d.to(), d)


def test_flat_rows() -> None:
    d = data.load(limit=3)
    assert torch.equal(d.flat().x_train, d.x_train.reshape(3, 64))
    assert d.flat().input_shape == (64,)
    assert d.flat().classes == d.classes


def test_data_sets_compare_by_identity() -> None:
    d = data.load("xor")
    assert len({d, d, d.flat()}) == 2


def test_a_data_set_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        data.load("xor").name = "other"  # type: ignore[misc]  # that it is frozen is the test


def test_repr_says_what_it_is() -> None:
    x, y = np.ones((24, 1)), np.arange(24) % 12
    assert "Dataset mine: 24 training and 24 test samples of 1, 12 classes (0 ... 11)" in repr(
        data.wrap((x, y), (x, y), name="mine")
    )
    assert "1,438 training and 359 test samples of 1x8x8, 10 classes (0, 1, 2" in repr(data.load())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"y_train": torch.zeros(3, dtype=torch.int64)}, "4 training samples and 3 labels"),
        ({"y_test": torch.zeros(4)}, "the test labels of d are float32 of shape (4,)"),
        ({"y_test": torch.full((4,), 2)}, "go from 2 to 2"),
        ({"x_test": torch.zeros(4, 3)}, "test samples of shape (3,)"),
        ({"x_train": torch.zeros(0, 2), "y_train": torch.zeros(0, dtype=torch.int64)}, "0 training samples"),
    ],
)
def test_no_inconsistent_data_set_exists(changes: dict[str, Any], said: str) -> None:
    x, y = torch.zeros(4, 2), torch.tensor(Y)
    fields: dict[str, Any] = {"name": "d", "x_train": x, "y_train": y, "x_test": x, "y_test": y, "classes": ("0", "1")}
    data.Dataset(**fields)
    assert said in refused(lambda: data.Dataset(**{**fields, **changes}))


# Presets


def test_presets_can_be_raced() -> None:
    assert len({preset.name for preset in data.presets()}) == len(data.presets())
    assert {preset.sgd for preset in data.presets()} == {"good", "bad"}
    for preset in data.presets():
        spec = NetworkSpec.parse(preset.network)
        features, classes = {"digits": (64, 10), "fashion-mnist": (784, 10)}[preset.data]
        assert spec.input_shape == (features,)
        assert spec.num_outputs == classes
        assert not spec.bias
        assert preset.lr > 0
        assert preset.epochs >= 1
        assert preset.unbalance >= 0
        assert "SGD" in preset.why.replace("EC-SGD", "", 1)
