"""Data sets by name: what they hold, and one clear error for what there is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sklearn.datasets
import torch
from hypothesis import given
from hypothesis import strategies as st

from eclab import data
from eclab.data.toys import SCALE, TOYS
from eclab.network.spec import NetworkSpec
from tests.data_checks import refused, same

# Names


def test_names_in_the_order_they_are_shown() -> None:
    assert data.names() == ("digits", "circle", "xor", "gauss", "spiral", "fashion-mnist", "mnist", "cifar10")


@pytest.mark.parametrize("name", data.names()[:5])
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
        ({"name": "spiral", "samples": 10**13}, "the number of samples is 10000000000000"),
        ({"name": "mnist", "root": 5}, "the root folder is 5"),
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


@pytest.mark.parametrize(
    "arguments",
    [
        {"name": "digits", "seed": 3, "limit": 50},
        {"name": "spiral", "seed": 2, "noise": 0.3, "samples": 20},
        {"name": "xor"},
        {"name": "digits"},
    ],
)
def test_the_recipe_gives_the_same_again(arguments: dict[str, Any]) -> None:
    d = data.load(**arguments)
    assert same(d, data.load(**d.recipe))
    assert arguments.items() <= d.recipe.items()
    assert d.flat().to(dtype=torch.float64).recipe == d.recipe
    assert data.wrap((d.x_train, d.y_train)).recipe == {}


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
    x, y = torch.zeros(4, 2), torch.tensor([0, 1, 0, 1])
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
