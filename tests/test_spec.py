"""The network specification: its forms agree, its edits are valid or refused, and what it builds is what it says."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from eclab.errors import SpecError
from eclab.network.spec import ACTIVATIONS, LAYER_TYPES, NetworkSpec
from eclab.network.spec_layers import Conv2d, Dropout, Flatten, Layer, Linear, Shape

WIDTHS = st.integers(1, 9)
BIAS = st.booleans()
ACTIVATION = st.sampled_from(list(ACTIVATIONS))
DROPOUT = st.floats(0, 1, exclude_max=True).map(Dropout)


@st.composite
def picture_layers(draw: st.DrawFn, shape: Shape) -> tuple[list[Layer], Shape]:
    """Layers that fit on pictures of that shape, and the shape behind them."""
    layers: list[Layer] = []
    for _ in range(draw(st.integers(0, 4))):
        side = min(shape[1:])
        kind = draw(st.sampled_from(["conv2d", "max_pool", "avg_pool", "adaptive_avg_pool", "dropout"]))
        if kind == "conv2d":
            padding = draw(st.integers(0, 3))
            kernel = draw(st.integers(1, min(side + 2 * padding, 7)))
            layer: Layer = Conv2d(draw(WIDTHS), kernel, draw(st.integers(1, 3)), padding, draw(BIAS))
        elif kind == "dropout":
            layer = draw(DROPOUT)
        else:
            layer = LAYER_TYPES[kind](draw(st.integers(1, side)))  # type: ignore[call-arg]  # every pool takes a size
        layers.append(layer)
        shape = layer.output_shape(shape)
    return layers, shape


@st.composite
def specs(draw: st.DrawFn) -> NetworkSpec:
    """Any valid specification of moderate size."""
    input_shape: Shape = (draw(WIDTHS),)
    layers: list[Layer] = []
    if draw(st.booleans()):
        input_shape = (draw(st.integers(1, 3)), draw(st.integers(1, 12)), draw(st.integers(1, 12)))
        layers, _ = draw(picture_layers(input_shape))
        layers.append(Flatten())
    dense = st.one_of(st.builds(Linear, WIDTHS, BIAS), DROPOUT)
    layers += [*draw(st.lists(dense, max_size=4)), Linear(draw(WIDTHS), draw(BIAS))]
    return NetworkSpec(input_shape, tuple(layers), draw(ACTIVATION))


def outputs_behind(spec: NetworkSpec, model: nn.Sequential, x: torch.Tensor) -> dict[str, Shape]:
    """The shape of one sample behind every module, as torch sees it."""
    shapes: dict[str, Shape] = {}
    for path, module in model.named_children():
        x = module(x)
        shapes[path] = tuple(x.shape[1:])
    return shapes


# Forms


@given(specs())
def test_text_and_json_give_the_same_specification_back(spec: NetworkSpec) -> None:
    assert NetworkSpec.parse(spec.text) == spec
    assert NetworkSpec.from_json(spec.to_json()) == spec
    assert NetworkSpec.from_dict(spec.to_dict()) == spec
    assert NetworkSpec.from_json(NetworkSpec.parse(spec.text).to_json(indent=1)).text == spec.text


@given(specs())
def test_the_repr_evaluates_to_the_specification(spec: NetworkSpec) -> None:
    text = repr(spec).removeprefix("NetworkSpec.parse('").removesuffix("')")
    assert NetworkSpec.parse(text) == spec


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("784-64-64-10", "784-64-64-10 · ReLU"),
        ("784-64x4-10", "784-64-64-64-64-10 · ReLU"),
        ("784-64×2-10", "784-64-64-10 · ReLU"),
        ("2–6–6–4–2 · ReLU", "2-6-6-4-2 · ReLU"),
        (" 2 - 6b - 2 , leaky-relu ", "2-6b-2 · LeakyReLU"),
        ("2-6bx2-2b prelu channel", "2-6b-6b-2b · PReLU-channel"),
        ("1x28x28-c8k3-p2-c16k3-p2-f-10", "1x28x28-c8k3-p2-c16k3-p2-f-10 · ReLU"),
        ("1x28x28-c8-p-a-g-10", "1x28x28-c8k3-p2-a2-g1-f-10 · ReLU"),
        ("3x32x32-c8k5s2p0bx2-10", "3x32x32-c8k5s2p0b-c8k5s2p0b-f-10 · ReLU"),
        ("1x8x8-c4k3p1-c4k3p2-10", "1x8x8-c4k3-c4k3p2-f-10 · ReLU"),
        ("1x8x8-64-10", "1x8x8-f-64-10 · ReLU"),
        ("8-d-4-d.25-3", "8-d0.5-4-d0.25-3 · ReLU"),
        ("8-4-3 · ", "8-4-3 · ReLU"),
    ],
)
def test_text_is_read_generously_and_written_one_way(text: str, canonical: str) -> None:
    assert NetworkSpec.parse(text).text == canonical


def test_text_with_defaults_of_the_caller() -> None:
    assert NetworkSpec.parse("4-3-2", activation="tanh", bias=True).text == "4-3b-2b · Tanh"
    assert NetworkSpec.parse("4-3-2 relu", activation="tanh").activation == "relu"


def test_json_form_is_the_documented_one() -> None:
    form = json.loads(NetworkSpec.parse("1x8x8-c4k3b-p2-10").to_json())
    assert form == {
        "schema": 1,
        "input": [1, 8, 8],
        "activation": "relu",
        "layers": [
            {"type": "conv2d", "channels": 4, "kernel": 3, "stride": 1, "padding": 1, "bias": True},
            {"type": "max_pool", "size": 2},
            {"type": "flatten"},
            {"type": "linear", "width": 10, "bias": False},
        ],
    }


def test_json_may_leave_out_what_has_a_default() -> None:
    layers = [{"type": "conv2d", "channels": 4, "kernel": 5}, {"type": "flatten"}, {"type": "linear", "width": 2}]
    spec = NetworkSpec.from_dict({"schema": 1, "input": [1, 8, 8], "layers": layers})
    assert spec == NetworkSpec.parse("1x8x8-c4k5-2")
    assert spec.layers[0] == Conv2d(channels=4, kernel=5, stride=1, padding=2, bias=False)


# What it says of itself


@settings(max_examples=60, deadline=None)
@given(specs())
def test_shapes_modules_and_weights_are_those_of_the_built_network(spec: NetworkSpec) -> None:
    model = spec.build().eval()
    behind = outputs_behind(spec, model, torch.zeros(2, *spec.input_shape))
    paths = spec.modules()
    assert len(paths) == len(spec.layers) == len(set(paths))
    assert tuple(behind[path] for path in paths) == spec.shapes()
    slopes = sum(p.numel() for m in model if isinstance(m, nn.PReLU) for p in m.parameters())
    assert spec.num_weights == sum(p.numel() for p in model.parameters()) - slopes
    kinds: dict[str, type[nn.Module]] = {"linear": nn.Linear, "conv2d": nn.Conv2d, "flatten": nn.Flatten}
    for layer, path in zip(spec.layers, paths, strict=True):
        assert isinstance(model[int(path)], kinds.get(layer.type, nn.Module))
    assert spec.num_outputs == behind[str(len(model) - 1)][0]


def test_every_weighty_layer_but_the_last_is_activated() -> None:
    model = NetworkSpec.parse("1x8x8-c4k3-p2-d0.1-6-5 · LeakyReLU").build()
    kinds = [type(module).__name__ for module in model]
    assert kinds == ["Conv2d", "LeakyReLU", "MaxPool2d", "Dropout", "Flatten", "Linear", "LeakyReLU", "Linear"]


def test_a_convolution_may_give_the_outputs() -> None:
    spec = NetworkSpec.parse("1x8x8-c4k3-c10k1-g1-f")
    assert [type(m) for m in spec.build()] == [nn.Conv2d, nn.ReLU, nn.Conv2d, nn.AdaptiveAvgPool2d, nn.Flatten]
    assert (spec.output, spec.num_outputs, spec.modules()) == (1, 10, ("0", "2", "3", "4"))


@pytest.mark.parametrize(("name", "label"), list(ACTIVATIONS.items()))
def test_activations_have_torch_modules_and_labels(name: str, label: str) -> None:
    spec = NetworkSpec.parse(f"2-3-4 {label}")
    assert spec.activation == name
    module = spec.build()[1]
    assert type(module).__name__ == label.removesuffix("-channel")
    if isinstance(module, nn.PReLU):
        assert module.weight.tolist() == [0.25] * (3 if name == "prelu-channel" else 1)


def test_prelu_channel_has_one_slope_a_channel() -> None:
    module = NetworkSpec.parse("1x4x4-c5k3-2 prelu-channel").build()[1]
    assert isinstance(module, nn.PReLU)
    assert module.num_parameters == 5


# Building


def test_build_draws_what_torch_draws_and_leaves_the_global_state_alone() -> None:
    spec = NetworkSpec.parse("2x6x6-c3k3b-p2-c4k3s2-7b-5")
    torch.manual_seed(11)
    before = torch.get_rng_state()
    ours = spec.build(seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(3)
    theirs = nn.Sequential(
        *(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(16, 7), nn.ReLU(), nn.Linear(7, 5, bias=False)),
    )
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert all(torch.equal(p, q) for p, q in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_seed_and_dtype() -> None:
    spec = NetworkSpec.parse("5-4b-3 prelu")
    single, double, other = spec.build(1), spec.build(1, torch.float64), spec.build(2)
    assert all(
        q.dtype is torch.float64 and torch.equal(p.double(), q)
        for p, q in zip(single.parameters(), double.parameters(), strict=True)
    )
    assert not torch.equal(single[0].weight, other[0].weight)  # type: ignore[arg-type]  # a Linear's weight
    assert all(p.requires_grad and p.is_leaf for p in double.parameters())


def test_build_ignores_global_defaults() -> None:
    spec = NetworkSpec.parse("3-2b-2")
    expected = spec.build(5).state_dict()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            model = spec.build(5)
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(p.dtype is torch.float32 and torch.equal(p, expected[name]) for name, p in model.state_dict().items())


@pytest.mark.parametrize(
    "arguments", [{"seed": -1}, {"seed": 1.5}, {"seed": True}, {"dtype": torch.int64}, {"dtype": 3}]
)
def test_build_refuses(arguments: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        NetworkSpec.parse("3-2").build(**arguments)


# Edits

EDITS = st.one_of(
    st.tuples(
        st.just("add_layer"), st.integers(-2, 6), st.sampled_from(list(LAYER_TYPES)), st.one_of(st.none(), WIDTHS)
    ),
    st.tuples(st.just("remove_layer"), st.integers(-1, 6)),
    st.tuples(st.just("widen"), st.integers(-1, 6), st.integers(0, 9)),
    st.tuples(st.just("set_kernel"), st.integers(0, 6), st.integers(0, 9)),
    st.tuples(st.just("set_activation"), ACTIVATION),
    st.tuples(st.just("set_bias"), BIAS),
)


@settings(max_examples=150, deadline=None)
@given(specs(), st.lists(EDITS, min_size=1, max_size=6))
def test_any_edits_end_in_a_valid_specification(spec: NetworkSpec, edits: list[tuple[Any, ...]]) -> None:
    for method, *arguments in edits:
        before, form = spec, spec.to_json()
        try:
            spec = getattr(spec, method)(*arguments)
        except SpecError:
            assert spec is before
        assert before.to_json() == form
        assert spec.num_outputs >= 1
        assert NetworkSpec.parse(spec.text) == NetworkSpec.from_json(spec.to_json()) == spec
    model = spec.build().eval()
    assert model(torch.zeros(2, *spec.input_shape)).shape == (2, *spec.shapes()[-1])


@given(specs(), st.data())
def test_an_added_layer_can_be_removed_again(spec: NetworkSpec, data: st.DataObject) -> None:
    flat = [-1] if len(spec.input_shape) == 1 else []
    flat += [i for i, shape in enumerate(spec.shapes()) if len(shape) == 1]
    after = data.draw(st.sampled_from([i for i in flat if i < spec.output]))
    width = data.draw(WIDTHS)
    wider = spec.add_layer(after, "linear", width)
    assert wider.layers[after + 1] == Linear(width, spec.bias)
    assert wider.num_outputs == spec.num_outputs
    assert wider.remove_layer(after + 1) == spec


@given(specs(), st.data())
def test_widening_there_and_back(spec: NetworkSpec, data: st.DataObject) -> None:
    i = data.draw(st.sampled_from([i for i, layer in enumerate(spec.layers) if layer.weighty]))
    layer = spec.layers[i]
    assert isinstance(layer, (Linear, Conv2d))
    wider = spec.widen(i, layer.units + 3)
    assert wider.shapes()[i][0] == spec.shapes()[i][0] + 3
    assert wider.num_weights > spec.num_weights
    assert wider.widen(i, layer.units) == spec


@given(specs())
def test_bias_everywhere_or_nowhere(spec: NetworkSpec) -> None:
    units = sum(layer.units for layer in spec.layers if isinstance(layer, (Linear, Conv2d)))
    assert spec.set_bias(True).num_weights - spec.set_bias(False).num_weights == units
    assert spec.set_bias(True).bias
    assert not spec.set_bias(False).bias


def test_edits_of_a_convolutional_network() -> None:
    spec = NetworkSpec.parse("1x28x28-c8k3-p2-f-10")
    assert spec.add_layer(1, "conv2d", 16).text == "1x28x28-c8k3-p2-c16k3-f-10 · ReLU"
    assert spec.add_layer(2, "linear", 32, bias=True).text == "1x28x28-c8k3-p2-f-32b-10 · ReLU"
    assert spec.add_layer(0, "max_pool").text == "1x28x28-c8k3-p2-p2-f-10 · ReLU"
    assert spec.add_layer(-1, "conv2d", 4, kernel=5, stride=2).text == "1x28x28-c4k5s2-c8k3-p2-f-10 · ReLU"
    assert spec.add_layer(1, "dropout", p=0.25).text == "1x28x28-c8k3-p2-d0.25-f-10 · ReLU"
    assert spec.set_kernel(0, 5).text == "1x28x28-c8k5-p2-f-10 · ReLU"
    assert spec.change(0, stride=2, padding=0).text == "1x28x28-c8k3s2p0-p2-f-10 · ReLU"
    assert spec.change(0, padding=0).set_kernel(0, 5).text == "1x28x28-c8k5p0-p2-f-10 · ReLU"
    assert spec.change(1, size=4).shapes()[1] == (8, 7, 7)
    assert spec.remove_layer(1).shapes()[1] == (8 * 28 * 28,)


def test_a_new_layer_has_a_bias_where_the_network_has_them() -> None:
    assert NetworkSpec.parse("4-3b-2b").add_layer(0, "linear", 5).text == "4-3b-5b-2b · ReLU"
    assert NetworkSpec.parse("4-3-2").add_layer(0, "linear", 5).text == "4-3-5-2 · ReLU"


@pytest.mark.parametrize(
    ("text", "shape", "classes", "result"),
    [
        ("784-64-10", (2,), 2, "2-64-2 · ReLU"),
        ("2-6b-2", (1, 8, 8), 10, "64-6b-10 · ReLU"),
        ("1x28x28-f-64-10", (1, 8, 8), 10, "1x8x8-f-64-10 · ReLU"),
        ("1x28x28-f-64-10", (2,), 2, "2-64-2 · ReLU"),
        ("1x28x28-c8k3-p2-f-10", (3, 32, 32), 5, "3x32x32-c8k3-p2-f-5 · ReLU"),
    ],
)
def test_a_network_is_fitted_to_other_data(text: str, shape: Shape, classes: int, result: str) -> None:
    spec = NetworkSpec.parse(text).for_data(shape, classes)
    assert spec.text == result
    assert math.prod(spec.input_shape) == math.prod(shape)


def test_a_specification_is_a_value() -> None:
    a, b = NetworkSpec.parse("4-3-2"), NetworkSpec.parse("4-3-2")
    assert a == b
    assert len({a, b}) == 1
    with pytest.raises(AttributeError):
        a.activation = "tanh"  # type: ignore[misc]  # that it is frozen is the test
