"""Which weights, units and scales a model has."""

from __future__ import annotations

import copy
import logging
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import eclab
from eclab.errors import ScaleError, TraceError
from eclab.network.network import SOURCE
from eclab.network.run import active_units, run
from tests.zoo import ZOO, dense, joined

F64 = torch.float64

# name -> (m, H, layers, units in net.units)
SIZES: dict[str, tuple[int, int, int, int]] = {
    "one hidden layer": (32, 5, 2, 7),
    "one hidden layer, no bias": (20, 4, 2, 6),
    "wide-narrow-wide": (24 + 14 + 15 + 12, 13, 4, 15),
    "wide-narrow-wide, no bias": (20 + 10 + 12 + 18, 13, 4, 16),
    "equal widths, no bias": (27, 6, 3, 9),
    "some biases": (12 + 12 + 12, 7, 3, 10),
    "a width of 1": (9 + 4 + 8 + 10, 8, 4, 10),
    "deep": (8 * 6, 14, 8, 16),
    "leaky ReLU": (16 + 15 + 8, 7, 3, 9),
    "one PReLU slope": (16 + 15 + 8, 7, 3, 9),
    "PReLU slopes, dropout, identity": (16 + 15 + 8, 7, 3, 9),
    "tanh between": (9 + 8 + 12 + 10, 7, 4, 11),
    "conv 3×3, max-pool": (20 + 27, 2, 2, 5),
    "conv 1-D, stride, dilation, average pool": (18 + 14 + 10, 5, 3, 7),
    "conv 5×5 and 1×1, adaptive pool": (52 + 9 + 36, 5, 3, 7),
    "conv 2×2, stride 2, deep": (10 + 12 + 27 + 8, 7, 4, 9),
    "grouped conv": (20 + 10 + 10, 6, 3, 8),
    "all convolution": (57 + 26, 3, 2, 5),
    "functional": (10 + 18, 2, 2, 4),
    "two branches": (9 + 4 + 8 + 6, 5, 4, 8),
}


@pytest.mark.parametrize("name", ZOO)
def test_sizes(name: str) -> None:
    net, _ = ZOO[name].trace()
    m, H, layers, units = SIZES[name]
    assert (net.num_weights, net.num_units, net.class_dim) == (m, H, m - H)
    assert (len(net.layers), len(net.units)) == (layers, units)
    assert sum(weight.numel for weight in net.weights) + sum(
        net.model.get_parameter(outside).numel() for outside in net.outside
    ) == sum(p.numel() for p in net.model.parameters())
    assert net.num_nodes == 1 + net.inputs + units


@settings(max_examples=40)
@given(name=st.sampled_from(sorted(ZOO)), seed=st.integers(0, 1000), sigma=st.floats(0.1, 3))
def test_scaling_the_free_units_leaves_the_function(name: str, seed: int, sigma: float) -> None:
    """Straight from heads and tails: ``w_e ← w_e c_head / c_tail``."""
    net, x = ZOO[name].trace(seed)
    before = joined(net.model(x)).detach()
    c = torch.where(net.scale_of > 0, torch.exp(sigma * torch.randn(net.num_nodes, dtype=F64)), 1.0)
    with torch.no_grad():
        for weight in net.weights:
            weight.parameter.mul_(c[weight.head] / c[weight.tail])
    after = joined(net.model(x)).detach()
    torch.testing.assert_close(after, before, rtol=1e-10, atol=1e-10 * float(before.abs().max()))


@pytest.mark.parametrize("name", ZOO)
def test_no_unit_that_is_pinned_could_scale(name: str) -> None:
    """Each pinned hidden unit changes the function when it is scaled: none is pinned for nothing."""
    net, x = ZOO[name].trace()
    before = joined(net.model(x)).detach()
    for unit in net.units:
        if unit.state == "free" or unit.number in net.outputs:
            continue
        other = copy.deepcopy(net)
        c = torch.ones(net.num_nodes, dtype=F64)
        c[unit.number] = 3.0
        with torch.no_grad():
            for weight in other.weights:
                weight.parameter.mul_(c[weight.head] / c[weight.tail])
        assert not torch.allclose(joined(other.model(x)).detach(), before), unit


@pytest.mark.parametrize("name", ZOO)
def test_every_unit_has_a_state_and_every_pinned_one_a_reason(name: str) -> None:
    net, _ = ZOO[name].trace()
    for unit in net.units:
        assert unit.state in ("free", "tied", "pinned")
        assert bool(unit.reason) == (unit.state == "pinned")
        assert (int(net.scale_of[unit.number]) > 0) == (unit.state != "pinned")
        assert net.unit(unit.number) is unit
    assert sorted(net.scale_of[net.scale_of > 0].tolist()) == list(range(1, net.num_units + 1))
    assert not net.scale_of[: 1 + net.inputs].any()


def reasons(net: eclab.Network) -> dict[str, str]:
    return {unit.name: unit.reason for unit in net.units}


def test_outputs_are_pinned_and_hidden_units_free() -> None:
    net = eclab.trace(dense(2, 2, 1), torch.ones(1, 2))
    assert [(u.name, u.state, u.reason) for u in net.units] == [
        ("0[0]", "free", ""),
        ("0[1]", "free", ""),
        ("2[0]", "pinned", "it is an output"),
    ]
    assert net.outputs.tolist() == [5]
    assert [net.unit_name(number) for number in range(net.num_nodes)] == [
        "bias",
        "input 0",
        "input 1",
        "0[0]",
        "0[1]",
        "2[0]",
    ]


@pytest.mark.parametrize(
    ("activation", "words"),
    [
        (nn.Tanh(), "tanh at '1' is not positively homogeneous"),
        (nn.Sigmoid(), "sigmoid at '1'"),
        (nn.GELU(), "gelu at '1'"),
        (nn.SiLU(), "silu at '1'"),
        (nn.ELU(), "elu at '1'"),
        (nn.Softplus(), "softplus at '1'"),
        (nn.Softmax(dim=-1), "Softmax at '1' lets no scale through"),
        (nn.LayerNorm(3), "LayerNorm.* at '1' lets no scale through"),
    ],
)
def test_what_is_not_homogeneous_pins_its_units_and_says_so(activation: nn.Module, words: str) -> None:
    model = nn.Sequential(nn.Linear(2, 3), activation, nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    net = eclab.trace(model, torch.ones(2, 2))
    found = reasons(net)
    assert {net.unit(int(u)).state for u in net.layer("0").units} == {"pinned"}
    assert {net.unit(int(u)).state for u in net.layer("2").units} == {"free"}
    for index in range(3):
        assert re.search(words, found[f"0[{index}]"])


def test_activations_pools_and_output_are_known_by_layer() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1),
        nn.Identity(),
        nn.PReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(8, 4),
        nn.Dropout(),
        nn.LeakyReLU(),
        nn.Linear(4, 3),
        nn.Tanh(),
        nn.Linear(3, 2),
    )
    net = eclab.trace(model, torch.ones(1, 1, 4, 4))
    assert [(layer.name, layer.kind, layer.activation, layer.output) for layer in net.layers] == [
        ("0", "conv", "prelu", False),
        ("5", "linear", "leaky_relu", False),
        ("8", "linear", "tanh", False),
        ("10", "linear", "", True),
    ]
    assert [layer.width for layer in net.layers] == [2, 4, 3, 2]
    assert [layer.grid for layer in net.layers] == [(4, 4), (), (), ()]
    assert (net.layers[0].weight, net.layers[0].bias) == ("0.weight", "0.bias")
    assert net.outside == ("2.weight",)


def test_positions_behind_a_flatten_are_parallel_edges_of_one_channel() -> None:
    net = eclab.trace(nn.Sequential(nn.Conv1d(1, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(6, 1)), torch.ones(1, 1, 4))
    one, two = net.layer("0").units.tolist()
    last = net.weight("3.weight")
    assert last.tail.reshape(-1).tolist() == [one] * 3 + [two] * 3
    assert last.ends((0, 4)) == (two, int(net.outputs[0]))
    assert net.weight("0.bias").tail.tolist() == [SOURCE]
    assert net.weight("0.weight").tail.reshape(-1).tolist() == [1]


def test_sums_into_heads_and_tails_are_those_of_loops() -> None:
    for name in ("wide-narrow-wide", "grouped conv", "conv 3×3, max-pool"):
        net, _ = ZOO[name].trace()
        for weight in net.weights:
            values = torch.randn(weight.shape, dtype=F64)
            into, out = torch.zeros(net.num_nodes, dtype=F64), torch.zeros(net.num_nodes, dtype=F64)
            for index in torch.cartesian_prod(*[torch.arange(n) for n in weight.shape]).reshape(-1, len(weight.shape)):
                place = tuple(index.tolist())
                tail, head = weight.ends(place)
                into[head] += values[place]
                out[tail] += values[place]
            torch.testing.assert_close(weight.sum_into_heads(values, net.num_nodes), into)
            torch.testing.assert_close(weight.sum_into_tails(values, net.num_nodes), out)


class Tied(nn.Module):
    """One layer used twice, between two of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.twice, self.last = nn.Linear(2, 3), nn.Linear(3, 3), nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        x = torch.relu(self.twice(torch.relu(self.twice(x))))
        return self.last(x)  # type: ignore[no-any-return]


def test_a_weight_used_twice_pins_what_it_touches() -> None:
    net = eclab.trace(Tied(), torch.ones(1, 2))
    assert net.num_units == 0
    assert "'twice.weight' is used more than once" in reasons(net)["first[0]"]
    assert net.num_weights == 9 + 12 + 4


def test_two_layers_that_share_one_parameter_are_pinned() -> None:
    model = dense(2, 2, 2, 2)
    assert isinstance(model[2], nn.Linear)
    assert isinstance(model[4], nn.Linear)
    model[4].weight = model[2].weight
    net = eclab.trace(model, torch.ones(1, 2))
    assert net.num_units == 0
    assert net.num_weights == 4 + 2 + 4 + 2 + 2


def test_a_frozen_weight_pins_what_it_touches() -> None:
    model = dense(2, 3, 3, 3, 1)
    model.get_parameter("4.weight").requires_grad_(False)
    net = eclab.trace(model, torch.ones(1, 2))
    states = {layer.name: {net.unit(int(u)).state for u in layer.units} for layer in net.layers}
    assert states == {"0": {"free"}, "2": {"pinned"}, "4": {"pinned"}, "6": {"pinned"}}
    assert "frozen" in reasons(net)["2[0]"]


class Both(nn.Module):
    """Returns its features beside its scores."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(2, 3), nn.Linear(3, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = torch.relu(self.body(x))
        return features, self.head(features)


def test_a_unit_that_is_an_output_too_is_pinned() -> None:
    net = eclab.trace(Both(), torch.ones(1, 2))
    assert net.num_units == 0
    assert net.outputs.tolist() == [3, 4, 5, 6]


def test_a_unit_that_leads_nowhere_is_pinned() -> None:
    model = nn.Sequential(nn.Conv1d(2, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(2, 1))
    net = eclab.trace(model, torch.ones(1, 2, 2))
    assert net.num_units == 2

    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(2, 4), nn.Linear(2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.two(torch.relu(self.one(x))[:, :2])  # type: ignore[no-any-return]

    net = eclab.trace(Half(), torch.ones(3, 2))
    assert net.num_units == 2
    assert reasons(net)["one[3]"] == "no weight leaves it"


class Joined(nn.Module):
    """Two inputs of their own shapes; nothing but their logits meet."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = dense(2, 3, 2), dense(4, 2, 2)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return self.one(x), self.two(y)


def test_several_inputs() -> None:
    x, y = torch.randn(2, 2), torch.randn(2, 4)
    net = eclab.trace(Joined(), (x, y))
    assert (net.inputs, net.num_units) == (6, 5)
    assert net.weight("two.0.weight").tail.reshape(-1).tolist() == [3, 4, 5, 6]
    first, second = run(net, (x, y))[-1]
    torch.testing.assert_close(first, net.model(x, y)[0])
    torch.testing.assert_close(second, net.model(x, y)[1])


def test_a_computed_weight_pins_what_it_touches() -> None:
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(2, 3)), nn.ReLU(), nn.Linear(3, 1))
    net = eclab.trace(model, torch.ones(1, 2))
    assert net.num_units == 0
    assert "is computed, not a parameter" in reasons(net)[next(iter(reasons(net)))]


def test_the_trace_copies_no_weight_and_follows_the_module() -> None:
    model = dense(2, 3, 1)
    net = eclab.trace(model, torch.ones(1, 2))
    assert net.model is model
    assert net.weights[0].parameter is model.get_parameter("0.weight")
    model.get_parameter("0.weight").data.fill_(7)
    assert float(net.weights[0].parameter[0, 0].detach()) == 7
    assert model.training


def test_a_weight_that_has_changed_its_shape_is_refused() -> None:
    model = dense(2, 3, 1)
    net = eclab.trace(model, torch.ones(1, 2))
    model[0] = nn.Linear(2, 4)
    with pytest.raises(TraceError, match=r"has shape \(4, 2\) and had \(3, 2\).*trace the model again"):
        _ = net.weights[0].parameter


def test_unknown_names_list_the_known_ones() -> None:
    net = eclab.trace(dense(2, 3, 1), torch.ones(1, 2))
    with pytest.raises(ScaleError, match=r"no weight 'x'.*0\.weight, 0\.bias"):
        net.weight("x")
    with pytest.raises(ScaleError, match=r"no layer '7'.*0, 2"):
        net.layer("7")


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (torch.ones(1, 3), r"cannot be read at '0' on an input of shape \(1, 3\)"),
        (torch.ones(()), r"has shape \(\)"),
        (torch.ones(0, 2), r"has shape \(0, 2\)"),
        ([[1.0, 2.0]], "the example input is list"),
        (None, "the example input is NoneType"),
    ],
)
def test_inputs_that_do_not_fit(x: object, words: str, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(TraceError, match=words):
        eclab.trace(dense(2, 3, 1), x)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR], (
        "one error, and no log beside it"
    )


def test_things_that_are_no_model() -> None:
    with pytest.raises(TraceError, match="the model is function"):
        eclab.trace(lambda x: x, torch.ones(1, 2))  # type: ignore[arg-type]
    complex_model = nn.Linear(2, 2, dtype=torch.complex64)
    with pytest.raises(TraceError, match=r"'weight' is torch\.complex64; 'bias' is torch\.complex64"):
        eclab.trace(complex_model, torch.ones(1, 2))


class Branching(nn.Module):
    """Its path depends on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) if x.sum() > 0 else x


def test_control_flow_that_depends_on_the_data_is_refused_in_words() -> None:
    with pytest.raises(TraceError, match="Branching cannot be read"):
        eclab.trace(Branching(), torch.ones(1, 2))


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("samples", [1, 3])
def test_running_the_graph_is_running_the_model(name: str, samples: int) -> None:
    net, _ = ZOO[name].trace()
    x = torch.randn(samples, *ZOO[name].shape, dtype=F64)
    torch.testing.assert_close(joined(run(net, x)[-1]), joined(net.model(x)))
    doubled = {key: value * 2 for key, value in net.model.state_dict().items()}
    with torch.no_grad():
        expected = joined(torch.func.functional_call(net.model, doubled, (x,)))
    torch.testing.assert_close(joined(run(net, x, doubled)[-1]).detach(), expected)


class WithConstants(nn.Module):
    """A buffer and a constant made while it runs."""

    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 3)
        self.register_buffer("shift", torch.tensor([1.0, 2.0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x + self.shift) * torch.tensor([1.0, 2.0, 3.0])  # type: ignore[no-any-return]


def test_buffers_and_constants_run_too() -> None:
    x = torch.randn(5, 2)
    net = eclab.trace(WithConstants(), x)
    torch.testing.assert_close(run(net, x)[-1][0], net.model(x))
    assert run(net, x, like=torch.zeros((), dtype=F64))[-1][0].dtype == F64


@pytest.mark.parametrize("name", [name for name, member in ZOO.items() if member.homogeneous])
def test_units_are_on_where_their_relu_lets_something_through(name: str) -> None:
    net, x = ZOO[name].trace(samples=3)
    on = active_units(net, x)
    assert on.shape == (3, net.num_nodes)
    assert bool(on[:, : 1 + net.inputs].all())
    layer = net.layers[0]
    if layer.activation == "relu":
        first = next(m for m in net.model.modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d))
        try:
            z = first(x)
        except RuntimeError:
            return  # the first layer of this one sees a part of the input
        lit = (z > 0).flatten(2).any(2) if z.ndim > 2 else z > 0
        assert torch.equal(on[:, layer.units], lit)
