"""Models of one's own in the lab: additions, batch-norm, groups, pinned units; whatever traces can be looked at."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import eclab
from eclab.errors import SettingError
from tests.lab_page import Page, same_weights


class Block(nn.Module):
    """Two convolutions with batch-norm, and the stream they are added to."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.a = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.n = nn.BatchNorm2d(channels)
        self.b = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.m = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.m(self.b(torch.relu(self.n(self.a(x))))))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = nn.Conv2d(1, 4, 3, padding=1), Block(4), Block(4)
        self.head = nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.two(self.one(torch.relu(self.stem(x)))).mean((2, 3)))
        return out


class Concatenated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(64, 3), nn.Linear(64, 4), nn.Linear(7, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        out: Tensor = self.c(torch.cat([functional.relu(self.a(x)), functional.relu(self.b(x))], 1))
        return out


class SumAtTheEnd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(64, 10), nn.Sequential(nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        out: Tensor = self.a(x) + self.b(x)
        return out


MODELS: dict[str, Callable[[], nn.Module]] = {
    "residual": Residual,
    "concatenated": Concatenated,
    "sum at the end": SumAtTheEnd,
    "grouped": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10)
    ),
    "transposed": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.ConvTranspose2d(4, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(192, 10)
    ),
    "pinned": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(64, 5), nn.Tanh(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 10)
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_unit_and_weight_of_a_model_can_be_looked_at(name: str):
    torch.manual_seed(0)
    page = Page(MODELS[name](), data="digits", epochs=1, start="skeleton")
    page.send("hello")
    page.steps(2)
    state = page.state()
    net = page.session.bench.net
    drawn = {unit for layer in page.session.bench.picture.layers for unit in layer.units.tolist()}
    assert drawn == {unit.number for unit in net.units}
    assert state["layers"][-1]["output"]
    for number, layer in enumerate(state["layers"][1:], 1):
        for unit in range(layer["width"]):
            answer = page.ask("inspect", kind="unit", layer=number, unit=unit)
            assert answer["type"] == "inspect", answer
    for number, link in enumerate(state["links"]):
        for tail in range(state["layers"][link["from"]]["width"]):
            answer = page.ask("inspect", kind="edge", link=number, tail=tail, head=0)
            assert (answer["from"], answer["to"], answer["tail"]) == (link["from"], link["to"], tail)
            parameter = page.session.lane().net.weight(answer["parameter"]).parameter.detach()
            value = float(parameter[tuple(answer["index"])])
            assert answer["w"] == value
    paths = page.ask("paths", k=5)
    assert len(paths["rows"]) == 5
    for row in paths["rows"]:
        assert row["edges"][-1]["to"] == len(state["layers"]) - 1
    for message in [*page.got, page.frame()]:
        json.dumps(message.content, allow_nan=False)


@pytest.mark.parametrize("name", MODELS)
def test_every_column_but_the_pinned_ones_can_be_rescaled(name: str):
    torch.manual_seed(0)
    page = Page(MODELS[name](), data="digits", epochs=1)
    start, state = page.weights(), page.state()
    for number, layer in enumerate(state["layers"][1:-1], 1):
        if layer["units"][0]["state"] == "pinned":
            assert "cannot be rescaled" in page.error("rescale", layer=layer["name"], unit=0, c=3.0)
            continue
        answer = page.ask("rescale", layer=layer["name"], unit=0, c=3.0)
        assert answer["c"] == pytest.approx(3.0), layer["name"]
        change = answer["change"]
        if name in ("residual", "pinned"):
            assert change["same"] is None
            assert change["max_abs"] < 1e-4 * change["size"]  # batch-norm's ε is not rescaled
        else:
            assert change["same"], (layer["name"], change)
        assert page.frame().content["scales"][str(number)][0] == pytest.approx(3.0)
        page.send("unscale")
    assert same_weights(page.weights(), start)
    page.send("unbalance", sigma=0.5)
    page.send("rescale", layer=state["layers"][1]["name"], unit=None, c=0.5)
    assert page.ask("same")["same"]


def test_what_an_addition_ties_has_one_ring():
    page = Page(Residual(), data="digits", epochs=1)
    state = page.state()
    tied = [layer["index"] for layer in state["layers"] if layer["units"][0]["state"] == "tied"]
    assert len(tied) == 5
    page.send("rescale", layer="one", unit=2, c=4.0)
    scales = page.frame().content["scales"]
    assert sorted(map(int, scales)) == tied
    assert all(scales[str(index)][2] == 4.0 for index in tied)
    kinds = [layer["kind"] for layer in state["layers"]]
    assert kinds == ["input", "conv", *["conv", "norm", "conv", "norm", "sum"] * 2, "linear"]
    assert [layer["label"] for layer in state["layers"]][:3] == ["inputs", "stem", "one.a"]
    joins = {(join["from"], join["to"]): join["pairs"] for join in state["joins"]}
    assert joins[1, 6] == joins[5, 6] == joins[2, 3] == [[k, k] for k in range(4)]


def test_the_picture_follows_a_chart_that_re_bases():
    page = Page("2-6-5-2", data="circle")
    page.send("hello")
    lane = page.session.lane("ec-sgd")
    page.send("view", lane="ec-sgd")
    lane._lane.optimizer.chart = lane.net.chart("strongest")  # type: ignore[union-attr]  # as re-basing does
    got = len(page.got)
    page.session.flush()
    assert [message.content["type"] for message in page.got[got:]] == ["state", "frame"]
    got = len(page.got)
    page.session.flush()
    assert [message.content["type"] for message in page.got[got:]] == ["frame"]


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (torch.randn(5, 2), "cannot take samples of 2"),
        (torch.randn(3), r"shape \(3,\)"),
        (torch.empty(0, 3), r"shape \(0, 3\)"),
        ("abc", "the inputs x are a str"),
        (object(), "the inputs x are a object"),
    ],
)
def test_inputs_that_do_not_fit_the_model_are_one_error(x: object, words: str):
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with pytest.raises(SettingError, match=words):
        eclab.Lab(model, x)


def test_a_model_without_a_free_unit_says_so():
    page = Page(nn.Linear(3, 2), torch.randn(5, 3))
    state = page.state()
    assert "No unit can be rescaled" in state["hints"][0]
    assert "no labels" in page.error("play")
    assert "cannot" in page.error("rescale", layer=state["layers"][1]["name"], unit=0, c=2.0)
    assert page.ask("paths")["count"] == "8"
    with pytest.raises(SettingError, match=r"no free unit.*hidden layer"):
        eclab.Lab(nn.Linear(3, 2), torch.randn(5, 3), torch.tensor([0, 1, 0, 1, 0]))
    lab = eclab.Lab(nn.Linear(3, 2), torch.randn(9, 3), torch.arange(9) % 2, lanes="sgd")
    assert "H = 0" in repr(lab)
    lab.close()
