"""One rule per operation: what it leaves free it leaves free in numbers, and what it pins it pins with a reason."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as everybody calls it

import eclab
from eclab.network.rules import supported

F64 = torch.float64
Function = Callable[["Around", Tensor], Any]


class Around(nn.Module):
    """A convolution, the operation in question, and a linear layer behind it; with what an operation may need."""

    mask: Tensor
    blur: Tensor
    row: Tensor

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function
        self.first = nn.Conv2d(1, 4, 1)
        self.factor, self.offset = nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(1, 4, 1, 1))
        self.one = nn.Parameter(torch.randn(1))
        self.matrix = nn.Parameter(torch.randn(5, 4))
        self.gate = nn.Sequential(nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 4), nn.Sigmoid())
        self.group, self.instance = nn.GroupNorm(2, 4), nn.InstanceNorm2d(4, affine=True)
        self.layer = nn.LayerNorm(6)
        self.lstm, self.two = nn.LSTM(36, 3, batch_first=True), nn.Bilinear(6, 6, 3)
        self.register_buffer("mask", torch.tensor([[True, False, True] * 2] * 6))
        self.register_buffer("blur", torch.rand(4, 1, 3, 3))
        self.register_buffer("row", torch.rand(4, 1, 1))
        self.last = nn.LazyLinear(2)

    def forward(self, x: Tensor) -> Tensor:
        value: Tensor = self.last(self.function(self, self.first(x)).flatten(1))
        return value


def gated(m: Around, h: Tensor) -> Tensor:
    weight: Tensor = m.gate(h.mean((2, 3)))
    return h * weight[:, :, None, None]


def unpooled(h: Tensor) -> Tensor:
    value, places = F.max_pool2d(h, 2, return_indices=True)
    return F.max_unpool2d(value, places, [2, 2])


# how the four units before it and, where it has some, the units behind it are: "free", "tied" or words of the reason
FREE: dict[str, tuple[Function, str]] = {
    "F.relu": (lambda m, h: F.relu(h), "free"),
    "relu in place": (lambda m, h: torch.relu_(h), "free"),
    "clamp(min=0)": (lambda m, h: h.clamp(min=0), "free"),
    "clamp_min 0": (lambda m, h: torch.clamp_min(h, 0), "free"),
    "clamp(max=0)": (lambda m, h: h.clamp(max=0), "free"),
    "threshold 0": (lambda m, h: F.threshold(h, 0, 0), "free"),
    "maximum with 0": (lambda m, h: torch.maximum(h, torch.tensor(0.0)), "free"),
    "maximum with zeros": (lambda m, h: torch.maximum(torch.zeros_like(h), h), "free"),
    "h · (h > 0)": (lambda m, h: h * (h > 0), "free"),
    "where(h > 0, h, 0)": (lambda m, h: torch.where(h > 0, h, 0.0), "free"),
    "abs": (lambda m, h: h.abs(), "free"),
    "CReLU": (lambda m, h: F.relu(torch.cat([h, -h], 1)), "free"),
    "leaky relu": (lambda m, h: F.leaky_relu(h, 0.3), "free"),
    "rrelu": (lambda m, h: F.rrelu(h), "free"),
    "dropout": (lambda m, h: F.dropout2d(F.dropout(h, 0.5, m.training), 0.5, m.training), "free"),
    "max_pool": (lambda m, h: F.max_pool2d(h, 3, 2, 1), "free"),
    "max_pool, indices, unpool": (lambda m, h: unpooled(h), "free"),
    "adaptive max": (lambda m, h: F.adaptive_max_pool2d(h, 2), "free"),
    "adaptive average": (lambda m, h: F.adaptive_avg_pool2d(h, (3, 2)), "free"),
    "average": (lambda m, h: F.avg_pool2d(h, 2), "free"),
    "amax over positions": (lambda m, h: h.amax((2, 3)), "free"),
    "max over an axis": (lambda m, h: h.max(2).values, "free"),
    "mean over positions": (lambda m, h: h.mean((-1, -2), keepdim=True), "free"),
    "sum over positions": (lambda m, h: h.sum(3), "free"),
    "maxout": (lambda m, h: h.unflatten(1, (2, 2)).amax(2), "tied"),
    "sum over channels": (lambda m, h: h.sum(1), "tied"),
    "minimum of two": (lambda m, h: torch.minimum(h[:, :2], h[:, 2:]), "tied"),
    "addition": (lambda m, h: h[:, :2] + h[:, 2:], "tied"),
    "difference": (lambda m, h: h[:, :2] - 2 * h[:, 2:], "tied"),
    "plus 0": (lambda m, h: h + 0, "free"),
    "pixel shuffle": (lambda m, h: F.pixel_unshuffle(F.pixel_shuffle(h, 2), 3), "free"),
    "channel shuffle": (lambda m, h: nn.ChannelShuffle(2)(h), "free"),
    "nearest": (lambda m, h: F.interpolate(h, scale_factor=2), "free"),
    "bilinear": (lambda m, h: F.interpolate(h, size=(4, 4), mode="bilinear"), "free"),
    "bicubic": (lambda m, h: F.interpolate(h, size=(7, 7), mode="bicubic"), "free"),
    "zero padding": (lambda m, h: F.pad(h, (1, 2, 0, 1)), "free"),
    "reflection": (lambda m, h: F.pad(h, (1, 2, 0, 1), mode="reflect"), "free"),
    "channels of zeros": (lambda m, h: F.pad(h, (0, 0, 0, 0, 2, 1)), "free"),
    "zeros beside": (lambda m, h: torch.cat([h, torch.zeros_like(h)], 1), "free"),
    "unflatten, permute": (lambda m, h: h.flatten(1).unflatten(1, (4, 36)).permute(0, 2, 1), "free"),
    "chunk": (lambda m, h: torch.cat(h.chunk(2, 1)[::-1], 1), "free"),
    "split, unbind": (lambda m, h: torch.stack([*h.split([1, 3], 1)[1].unbind(1)], 1)[:, [2, 0]], "some"),
    "repeat, tile, flip, roll": (lambda m, h: h.repeat(1, 2, 1, 1).tile(1, 1, 2, 1).flip(1).roll(1, 1), "free"),
    "index": (lambda m, h: h[:, torch.tensor([3, 2, 1, 0])], "free"),
    "index_select": (lambda m, h: h.index_select(1, torch.tensor([3, 2, 1, 0, 0])), "free"),
    "expand_as": (lambda m, h: h.mean((2, 3), keepdim=True).expand_as(h), "free"),
    "transposed matrix": (lambda m, h: h.mean((2, 3)) @ m.matrix.T, "free"),
    "addmm": (lambda m, h: torch.addmm(m.matrix[:, 0] * 0, h.mean((2, 3)), m.matrix.t()), "pinned elsewhere"),
    "einsum": (lambda m, h: torch.einsum("nchw,dc->ndhw", h, m.matrix), "free"),
    "a factor a channel": (lambda m, h: h * m.factor[:, None, None], "free"),
    "a factor for all": (lambda m, h: m.one * h, "free"),
    "an offset a channel": (lambda m, h: h + m.offset, "free"),
    "a buffer as factor": (lambda m, h: h * m.row, "free"),
    "a fixed blur": (lambda m, h: F.conv2d(h, m.blur, groups=4), "free"),
    "a mask": (lambda m, h: h.masked_fill(m.mask, 0.0), "free"),
    "a gate": (gated, "free"),
    "times the input": (lambda m, h: h * h.detach().sign(), "free"),
    "group norm": (lambda m, h: m.group(h), "tied"),
    "instance norm": (lambda m, h: m.instance(h), "free"),
    "to and fro": (lambda m, h: h.contiguous().clone().to(torch.float64), "free"),
}  # fmt: skip

PINNED: dict[str, tuple[Function, str]] = {
    "relu6": (lambda m, h: F.relu6(h), "relu6 is not positively homogeneous"),
    "hardtanh": (lambda m, h: F.hardtanh(h), "hardtanh is not positively homogeneous"),
    "elu": (lambda m, h: F.elu(h), "elu is not positively homogeneous"),
    "square": (lambda m, h: h**2, "pow is not positively homogeneous"),
    "clamp(min=-1)": (lambda m, h: h.clamp(min=-1), "clamp cuts off at a fixed value other than 0"),
    "threshold 1": (lambda m, h: F.threshold(h, 1, 0), "threshold cuts off"),
    "maximum with 1": (lambda m, h: torch.maximum(h, torch.ones_like(h)), "compares with a fixed value other than 0"),
    "h > 1": (lambda m, h: h * (h > 1), "gt compares with something other than 0"),
    "where, else 1": (lambda m, h: torch.where(h > 0, h, 1.0), "puts in a fixed value other than 0"),
    "padding with 1": (lambda m, h: F.pad(h, (1, 1), value=1.0), "puts in 1, which does not scale"),
    "plus 1": (lambda m, h: h + 1, "adds something that does not scale along"),
    "1 minus": (lambda m, h: 1 - h, "adds something that does not scale along"),
    "plus a buffer": (lambda m, h: h + m.row, "adds something that does not scale along"),
    "two activations": (lambda m, h: h[:, :2] * h[:, 2:], "mul multiplies two activations"),
    "GLU": (lambda m, h: F.glu(h, 1), "GLU lets no scale through"),
    "divided by": (lambda m, h: 1 / (1 + h.abs()), "div divides by a value|adds something"),
    "softmax": (lambda m, h: h.softmax(1), "Softmax lets no scale through"),
    "layer norm": (lambda m, h: m.layer(h), "LayerNorm, RMSNorm at 'layer' lets no scale through"),
    "LSTM": (lambda m, h: m.lstm(h.flatten(2))[0], "LSTM, GRU, RNN at 'lstm' lets no scale through"),
    "bilinear form": (lambda m, h: m.two(h, h), "Bilinear at 'two' lets no scale through"),
    "mean over channels": (lambda m, h: h.mean(1), "mean runs over different units"),
    "everything": (lambda m, h: h / h.amax(), "amax runs over the samples too|no rule|max"),
    "cumsum": (lambda m, h: h.cumsum(2), "aten.cumsum has no rule, so its inputs keep their scale"),
    "a number": (lambda m, h: h[:1].sum().expand(2, 1) * 1, "runs over the samples"),
    "computed places": (lambda m, h: h.gather(1, h.argmax(1, keepdim=True)), "has no rule"),
    "sort": (lambda m, h: h.sort(1).values, "aten.sort has no rule"),
}


def traced(function: Function, *, training: bool) -> tuple[eclab.Network, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(2, 1, 6, 6, dtype=F64)
    model = Around(function).double()
    model(x)
    return eclab.trace(model.train(training), x, verify=True), x


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", FREE)
def test_what_a_rule_leaves_free_is_free(name: str, training: bool) -> None:
    function, expected = FREE[name]
    net, x = traced(function, training=training)
    states = [net.unit(int(unit)).state for unit in net.layer("first").units]
    if expected == "some":
        assert sorted(states) == ["free", "free", "pinned", "pinned"]
    elif expected in ("free", "tied"):
        assert states == [expected] * 4, [net.unit(int(unit)).reason for unit in net.layer("first").units]
    net.model.eval()
    before = net.model(x)
    eclab.random_rescale_(eclab.trace(net.model, x), 1.0, torch.Generator().manual_seed(1))
    slack = 1e-3 if "norm" in name else 1e-10  # a norm takes a scale away up to its eps
    torch.testing.assert_close(net.model(x), before, rtol=slack, atol=slack)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", PINNED)
def test_what_a_rule_pins_has_a_reason(name: str, training: bool) -> None:
    function, words = PINNED[name]
    net, x = traced(function, training=training)
    assert net.model(x).shape == (2, 2)  # reading it has left it whole
    units = [net.unit(int(unit)) for unit in net.layer("first").units]
    assert {unit.state for unit in units} == {"pinned"}
    assert re.search(words, units[0].reason), units[0].reason


# rules of the user's own ----------------------------------------------------------------------------------------------


@torch.library.custom_op("eclab_tests::steep", mutates_args=())
def steep(z: Tensor) -> Tensor:
    """Twice a ReLU, as an operation that eclab cannot look into."""
    return 2 * z.clamp(min=0)


@steep.register_fake
def _(z: Tensor) -> Tensor:
    return torch.empty_like(z)


@torch.library.custom_op("eclab_tests::norms", mutates_args=())
def norms(z: Tensor) -> Tensor:
    """The length of every channel."""
    return z.square().sum((2, 3)).sqrt()


@norms.register_fake
def _(z: Tensor) -> Tensor:
    return z.new_empty(z.shape[:2])


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.block, self.last = nn.Conv2d(1, 4, 1), nn.Module(), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        value: Tensor = self.last(norms(steep(self.first(x))))
        return value


@pytest.fixture
def registered() -> Any:
    rules: list[Any] = []
    yield rules
    for rule in reversed(rules):
        eclab.remove_rule(rule)


def own() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return Own().double(), torch.randn(3, 1, 4, 4, dtype=F64)


def test_an_operation_without_a_rule_pins_and_one_with_a_rule_does_not(registered: list[Any]) -> None:
    model, x = own()
    net = eclab.trace(model, x, verify=True)
    assert net.num_units == 0
    assert {net.unit(int(u)).reason for u in net.layer("first").units} == {
        "eclab_tests.steep has no rule, so its inputs keep their scale"
    }
    registered.append(eclab.register_rule(steep, "elementwise", words="a steep ReLU", note="ours"))
    registered.append(eclab.register_rule("eclab_tests.norms", "channels"))
    net = eclab.trace(model, x, verify=True)
    assert {net.unit(int(u)).state for u in net.layer("first").units} == {"free"}
    before = model(x)
    eclab.rescale_(net, "first", 2, 7.0)
    torch.testing.assert_close(model(x), before, rtol=1e-12, atol=1e-12)
    assert ("a steep ReLU", "scales freely", "ours") in supported()
    # its paths count; its channels' lengths are no sum over paths, which the norm says
    assert net.count_paths() == 4 * 2 * 2 + 2
    with pytest.raises(eclab.ChartError, match=r"paths have no value through eclab_tests\.norms"):
        net.path_norm()


def test_paths_run_through_a_rule_that_works_element_by_element(registered: list[Any]) -> None:
    registered.append(eclab.register_rule(torch.ops.eclab_tests.steep, "elementwise"))

    class Steep(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            value: Tensor = steep(x)
            return value

    torch.manual_seed(0)
    layers = [nn.Linear(3, 4), nn.Linear(4, 2)]
    x = torch.ones(1, 3)
    own_net = eclab.trace(nn.Sequential(layers[0], Steep(), layers[1]), x)
    plain = eclab.trace(nn.Sequential(layers[0], nn.ReLU(), layers[1]), x)
    assert own_net.path_norm(1) == plain.path_norm(1)
    assert own_net.top_paths(3)[0].value == plain.top_paths(3)[0].value


def test_a_labelling_function_of_ones_own(registered: list[Any]) -> None:
    def lengths(tracer: Any, op: Any) -> Tensor:
        labels: Tensor = tracer.labels(op.args[0])
        return labels[:, :, 0, 0]

    registered.append(eclab.register_rule(["eclab_tests.norms"], lengths, words="lengths"))
    registered.append(eclab.register_rule(steep, "elementwise"))
    assert eclab.trace(*own(), verify=True).num_units == 4


def test_a_rule_that_breaks_homogeneity_is_found_in_numbers(registered: list[Any]) -> None:
    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(4, 3), nn.Hardshrink(), nn.ReLU())

        def forward(self, x: Tensor) -> Tensor:
            value: Tensor = self.body(x)
            return value

    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), Inner(), nn.Linear(3, 2))
    registered.append(eclab.register_rule("aten.hardshrink", "elementwise", replace=True))
    x = torch.randn(2, 2)
    assert eclab.trace(model, x).num_units == 7  # unasked it is believed
    with pytest.raises(eclab.TraceError, match=r"the rule of aten\.hardshrink at '2\.body\.1' does not hold"):
        eclab.trace(model, x, verify=True)


def test_rules_that_are_refused() -> None:
    with pytest.raises(eclab.SettingError, match=r"aten\.relu has a rule already.*replace=True"):
        eclab.register_rule(torch.ops.aten.relu.default, "elementwise")
    with pytest.raises(eclab.SettingError, match="the rule is 'homogeneous'"):
        eclab.register_rule("eclab_tests.other", "homogeneous")
    with pytest.raises(eclab.SettingError, match="names no operation"):
        eclab.register_rule(nn.ReLU, "elementwise")
    with pytest.raises(eclab.SettingError, match="no operation is named"):
        eclab.register_rule([], "elementwise")
    rule = eclab.register_rule("aten.relu", "pins", replace=True)
    assert eclab.trace(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)), torch.ones(1, 2)).num_units == 0
    eclab.remove_rule(rule)
    assert eclab.trace(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)), torch.ones(1, 2)).num_units == 3
    with pytest.raises(eclab.SettingError, match=r"the rule of aten\.relu is not in force"):
        eclab.remove_rule(rule)
