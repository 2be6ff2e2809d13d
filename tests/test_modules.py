"""Models as people write them, in training and in evaluation mode: rules hold in numbers, reasons are given."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import eclab
from eclab.errors import TraceError
from eclab.network.run import run
from tests.architectures import mobilenet_v2

F64 = torch.float64
modes = pytest.mark.parametrize("training", [True, False])


def states(net: eclab.Network, layer: str) -> set[str]:
    return {net.unit(int(unit)).state for unit in net.layer(layer).units}


def reason(net: eclab.Network, layer: str, place: int = 0) -> str:
    return net.unit(int(net.layer(layer).units[place])).reason


def outputs(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    values = value.values() if isinstance(value, dict) else value
    return [tensor for item in values for tensor in outputs(item)]


def check(model: nn.Module, x: Any, *, training: bool, slack: float = 1e-10) -> eclab.Network:
    """Traces with verification, and rescales every free unit at random: the function stays what it was."""
    net = eclab.trace(model.double().train(training), x, verify=True)
    inputs = x if isinstance(x, tuple) else (x,)
    other = copy.deepcopy(model)

    def values(of: nn.Module) -> list[Tensor]:
        torch.manual_seed(3)
        return outputs(of(*inputs))

    before = values(other)
    eclab.random_rescale_(eclab.trace(other, x), 1.0, torch.Generator().manual_seed(4))
    for one, two in zip(before, values(other), strict=True):
        torch.testing.assert_close(two, one, rtol=slack, atol=slack * one.abs().max().item())
    return net


@modes
def test_a_transformer_layer_leaves_the_hidden_units_of_its_mlp_free(training: bool) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, activation="relu", batch_first=True)
    model = nn.Sequential(nn.Linear(3, 8), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(8, 2))
    x = torch.randn(2, 5, 3, dtype=F64)
    net = check(model, x, training=training)
    assert net.num_units == 32
    for number in range(2):
        assert states(net, f"1.layers.{number}.linear1") == {"free"}
        assert states(net, f"1.layers.{number}.linear2") == {"pinned"}
        assert states(net, f"1.layers.{number}.self_attn.out_proj") == {"pinned"}
    assert "lets no scale through" in reason(net, "1.layers.0.linear2")
    assert "1.layers.0.norm1.weight" in net.outside
    assert torch.backends.mha.get_fastpath_enabled()
    more = torch.randn(7, 5, 3, dtype=F64)  # another batch size than the one that was read
    torch.testing.assert_close(run(net, more)[-1][0], model.eval()(more))


NORMS: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    # free scales with training and with evaluation statistics; 4 of them are those of the last hidden layer
    "affine": (lambda: nn.BatchNorm2d(4), 12, 12),
    "cumulative": (lambda: nn.BatchNorm2d(4, momentum=None), 12, 12),
    "not affine": (lambda: nn.BatchNorm2d(4, affine=False), 8, 4),
    "no running statistics": (lambda: nn.BatchNorm2d(4, track_running_stats=False), 12, 12),
    "neither": (lambda: nn.BatchNorm2d(4, affine=False, track_running_stats=False), 8, 8),
    "instance": (lambda: nn.InstanceNorm2d(4, affine=True), 12, 12),
    "instance, not affine": (lambda: nn.InstanceNorm2d(4), 8, 8),
    "instance, tracked": (lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True), 12, 12),
    "group": (lambda: nn.GroupNorm(2, 4), 10, 10),
    "group, not affine": (lambda: nn.GroupNorm(4, 4, affine=False), 8, 8),
}


@modes
@pytest.mark.parametrize("name", NORMS)
def test_norms(name: str, training: bool) -> None:
    torch.manual_seed(0)
    make, trained, frozen = NORMS[name]
    norm = make()
    norm.eps = 1e-30  # type: ignore[assignment]
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), norm, nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2)
    )
    x = torch.randn(6, 1, 6, 6, dtype=F64)
    model.double()(x)
    net = check(model, x, training=training)
    assert net.num_units == (trained if training else frozen)


@modes
@pytest.mark.parametrize(("kind", "size"), [(nn.BatchNorm1d, (5,)), (nn.BatchNorm3d, (3, 2, 2))])
def test_norms_of_other_dimensions(kind: type[nn.Module], size: tuple[int, ...], training: bool) -> None:
    torch.manual_seed(0)
    conv = nn.Conv1d if len(size) == 1 else nn.Conv3d
    model = nn.Sequential(conv(2, 3, 1), kind(3, eps=1e-30), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2)).double()
    x = torch.randn(6, 2, *size, dtype=F64)
    model(x)
    net = check(model, x, training=training)
    assert net.num_units == 6


class Shared(nn.Module):
    """One block within another, twice; a functional layer on a parameter of one's own; a buffer as weight."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        self.outer = nn.ModuleList([nn.Sequential(self.inner, nn.Linear(4, 4), nn.ReLU(), self.inner)])
        self.weight, self.last = nn.Parameter(torch.randn(6, 4)), nn.Linear(3, 2)
        self.register_buffer("kernel", torch.randn(3, 6))

    def forward(self, x: Tensor) -> Tensor:
        h = functional.relu(functional.linear(self.outer[0](x), self.weight))
        value: Tensor = self.last(functional.relu(functional.linear(h, self.kernel)))
        return value


@modes
def test_shared_modules_and_weights_that_are_buffers_pin_with_the_reason(training: bool) -> None:
    torch.manual_seed(0)
    net = check(Shared(), torch.randn(2, 4, dtype=F64), training=training)
    assert "'inner.0.weight' is used more than once" in reason(net, "outer.0.1")
    assert reason(net, "weight") == "the weight is a buffer, not a parameter"
    assert net.num_units == 0


@modes
@pytest.mark.parametrize("name", ["weight_norm", "spectral_norm", "orthogonal"])
def test_parametrized_weights_pin(name: str, training: bool) -> None:
    torch.manual_seed(0)
    made = getattr(nn.utils.parametrizations, name)(nn.Linear(3, 4))
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), made, nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    net = check(model, torch.randn(2, 3, dtype=F64), training=training)
    assert reason(net, "0") == "the weight at '2' is computed, not a parameter"
    assert states(net, "4") == {"free"}


@modes
def test_mobilenets_bottlenecks_are_linear_and_relu6_pins(training: bool) -> None:
    x = torch.randn(2, 3, 32, 32, dtype=F64)
    clipped = eclab.trace(mobilenet_v2(10).double().train(training), x)
    plain = check(mobilenet_v2(10, clip=nn.ReLU), x, training=False)
    reasons = Counter(unit.reason.split(" at ")[0] for unit in clipped.units if unit.reason)
    assert reasons["relu6"] > 10_000
    assert plain.num_units > 16_000
    assert states(eclab.trace(plain.model.train(), x), "4.branch.6") <= {"free", "tied"}  # the narrow, linear layer


class Squeeze(nn.Module):
    """A gate of its own mean: squeeze and excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.down, self.up, self.last = (
            nn.Conv2d(1, 4, 3),
            nn.Linear(4, 2),
            nn.Linear(2, 4),
            nn.Linear(4, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        h = functional.relu(self.first(x))
        gate = torch.sigmoid(self.up(functional.relu(self.down(h.mean((2, 3))))))
        value: Tensor = self.last((h * gate[:, :, None, None]).mean((2, 3)))
        return value


class Shortcut(nn.Module):
    """A residual block whose skip drops every second position and adds channels of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = nn.Conv2d(1, 2, 1), nn.Conv2d(2, 6, 3, 2, 1), nn.Conv2d(6, 6, 3, 1, 1)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = functional.relu(self.stem(x))
        skip = functional.pad(h[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
        h = functional.relu(self.two(functional.relu(self.one(h))) + skip)
        value: Tensor = self.head(h.mean((2, 3)))
        return value


class Scaled(nn.Module):
    """A residual branch with a learned factor a channel, as ConvNeXt has it, and an offset of the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch, self.head = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.factor, self.offset = nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.stem(x)) + self.offset
        h = h + self.factor * torch.relu(self.branch(h))
        value: Tensor = self.head(h)
        return value


class Words(nn.Module):
    """Tokens, their mean, and a small network on it."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.hidden, self.last = nn.Embedding(7, 4, padding_idx=0), nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        value: Tensor = self.last(torch.relu(self.hidden(self.table(tokens).mean(1))))
        return value


class Named(nn.Module):
    """Two inputs; a dictionary with a tuple in it comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(2, 3), nn.Linear(3, 3)
        self.head, self.tail = nn.Linear(3, 2), nn.Linear(3, 1)

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Any]:
        h = torch.relu(self.one(x)) + torch.relu(self.two(y))
        return {"scores": self.head(h), "more": (self.tail(h), h.detach().sign())}


MODELS: dict[str, tuple[Callable[[], nn.Module], Any, int]] = {
    "squeeze and excitation": (Squeeze, torch.randn(2, 1, 5, 5, dtype=F64), 4 + 2),
    "channels of zeros": (Shortcut, torch.randn(2, 1, 4, 4, dtype=F64), 2 + 6 + 4),
    "layer scale": (Scaled, torch.randn(2, 3, dtype=F64), 4 + 4),
    "tokens": (Words, torch.randint(7, (3, 6)), 4 + 5),
    "dictionary": (Named, (torch.randn(2, 2, dtype=F64), torch.randn(2, 3, dtype=F64)), 3),
    "transposed": (
        lambda: nn.Sequential(
            nn.Conv3d(1, 4, 2), nn.ReLU(), nn.ConvTranspose3d(4, 6, 2, groups=2), nn.ReLU(), nn.Flatten(),
            nn.Linear(162, 2),
        ),
        torch.randn(2, 1, 3, 3, 3, dtype=F64),
        10,
    ),
    "depthwise, strided": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3, 2, groups=2), nn.Conv2d(4, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8, padding=1),
            nn.Conv2d(8, 3, 1), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(3, 2),
        ),
        torch.randn(2, 2, 7, 7, dtype=F64),
        4 + 8 + 8 + 3,
    ),
}  # fmt: skip


@modes
@pytest.mark.parametrize("name", MODELS)
def test_models(name: str, training: bool) -> None:
    torch.manual_seed(0)
    make, x, free = MODELS[name]
    net = check(make(), x, training=training)
    assert net.num_units == free, Counter(unit.reason for unit in net.units)
    net.chart()


def test_an_lstm_pins_what_it_touches_and_says_so() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.before, self.lstm, self.hidden = nn.Linear(2, 3), nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 5)
            self.last = nn.Linear(5, 1)

        def forward(self, x: Tensor) -> Tensor:
            value: Tensor = self.last(torch.relu(self.hidden(self.lstm(torch.relu(self.before(x)))[0][:, -1])))
            return value

    model = Recurrent()
    x = torch.randn(2, 6, 2)
    before = model(x)
    net = eclab.trace(model, x, verify=True)
    assert reason(net, "before") == "LSTM, GRU, RNN at 'lstm' lets no scale through"
    assert states(net, "hidden") == {"free"}
    torch.testing.assert_close(model(x), before)


class InPlace(nn.Module):
    """Writes into a part of a value that it reads again."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        h[:, :2].relu_()
        h[:, 3] = 1.0
        value: Tensor = self.last(h)
        return value


def test_writing_into_a_view_is_followed() -> None:
    torch.manual_seed(0)
    model, x = InPlace().double(), torch.randn(3, 3, dtype=F64)
    net = check(model, x, training=True)
    torch.testing.assert_close(run(net, x)[-1][0], model(x))


# what is refused ----------------------------------------------------------------------------------------------------


class Branch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def test_control_flow_names_the_module_it_is_in() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU(), Branch()))
    with pytest.raises(TraceError, match=r"Sequential cannot be read at '1\.1' on an input"):
        eclab.trace(model, torch.ones(2, 2))


def test_an_input_of_a_wrong_shape_names_the_module_it_does_not_fit() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), nn.Linear(4, 2))
    with pytest.raises(TraceError, match=r"cannot be read at '1' on an input of shape \(2, 2\)"):
        eclab.trace(model, torch.ones(2, 2))


def test_weights_on_several_devices_are_named() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 1, device="meta"))
    with pytest.raises(TraceError, match=r"'4\.weight', '4\.bias' on meta, the other weights on cpu"):
        eclab.trace(model, torch.ones(2, 2))
    with pytest.raises(TraceError, match="x is on meta, the weights on cpu"):
        eclab.trace(model[:3], torch.ones(2, 2, device="meta"))


def test_all_problems_are_in_one_message() -> None:
    class Many(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.branch = nn.Embedding(5, 2, sparse=True), Branch()
            self.spin = nn.Linear(2, 2, dtype=torch.complex64)
            self.count = nn.Parameter(torch.ones(2, dtype=torch.int64), requires_grad=False)
            self.far = nn.Linear(2, 2, device="meta")

        def forward(self, tokens: Tensor) -> Tensor:
            value: Tensor = self.branch(self.words(tokens))
            return value

    with pytest.raises(TraceError) as caught:
        eclab.trace(Many(), torch.tensor([[1, 2]]))
    for words in (
        "'spin.weight' is torch.complex64", "'count' is torch.int64", "'far.weight', 'far.bias' on meta",
        "the gradient of 'words.weight' is sparse", "cannot be read at 'branch'",
    ):  # fmt: skip
        assert words in str(caught.value)


def test_sparse_gradients_of_a_functional_embedding_are_found() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(5, 2))

        def forward(self, tokens: Tensor) -> Tensor:
            return functional.embedding(tokens, self.table, sparse=True)

    with pytest.raises(TraceError, match=r"the gradient of the table at '0' is sparse"):
        eclab.trace(nn.Sequential(Functional(), nn.ReLU(), nn.Linear(2, 1)), torch.tensor([[1, 2]]))
