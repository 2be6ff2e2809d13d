"""What no network can be is refused: one SpecError that names the place and the shapes."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eclab.errors import SpecError
from eclab.network.spec import SCHEMA, NetworkSpec
from eclab.network.spec_layers import MaxPool


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the input"),
        ("784", "no layer with weights"),
        ("784-d0.5", "no layer with weights"),
        ("0-10", "input size is 0"),
        ("4x4-10", "input shape is 4x4"),
        ("784-0-10", "layer 0: the linear layer's width is 0"),
        ("784--5-10", "layer 0: there is nothing between its dashes, or its number is negative"),
        ("784-64-1000001", "layer 1: the linear layer's width is 1000001"),
        ("784-64-" + "9" * 5000, "5000 digits"),
        ("784-6.5-10", "layer 0: it is written '6.5'"),
        ("784-64x0-10", "repetition is 0"),
        ("784-64x1001-10", "repetition is 1001"),
        ("784-64x900-64x900-10", "more than 1,000 layers"),
        ("784-x-10", "layer 0"),
        ("784-٣-10", "layer 0"),
        ("784-64-10 rleu", "the activation is 'rleu'"),
        ("784-c8k3-10", "layer 0 (conv2d c8k3): it needs a picture, but gets 784 flat features"),
        ("1x8x8-16-c8k3-10", "layer 2 (conv2d c8k3): it needs a picture, but gets 16 flat"),
        ("1x8x8-c8k3", "ends in a picture 8x8x8"),
        ("1x8x8-p9-10", "layer 0 (max_pool p9): its size 9x9 is larger than the picture 8x8"),
        ("1x8x8-g9-10", "layer 0 (adaptive_avg_pool g9)"),
        ("1x8x8-p2x4-10", "layer 3 (max_pool p2): its size 2x2 is larger than the picture 1x1"),
        ("1x8x8-c4k11p1-10", "layer 0 (conv2d c4k11p1): its kernel 11x11 is larger than the padded picture 10x10"),
        ("1x8x8-c4k3s0-10", "conv2d layer's stride is 0"),
        ("1x8x8-c0-10", "conv2d layer's channels is 0"),
        ("1x8x8-f-f-10", "layer 1 (flatten f)"),
        ("8-d1.0-2", "dropout layer's p is 1.0"),
        ("8-4-2-d0.5", "layer 2 (dropout d0.5) drops outputs"),
        ("1000000-1000000-10", "1,000,010,000,000 weights"),
        ("1x100000x100000-p1000-10", "the input has 1x100000x100000 values"),
        ("1x1000x1000-c1000k1-10", "layer 0 (conv2d c1000k1) has 1000x1000x1000 values"),
    ],
)
def test_texts_that_are_refused(text: str, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        NetworkSpec.parse(text)
    assert said in str(caught.value)


@pytest.mark.parametrize("text", [None, 784, ["784"], b"784-10"])
def test_what_is_no_text_is_refused(text: Any) -> None:
    with pytest.raises(SpecError, match="the network is"):
        NetworkSpec.parse(text)


def entry(**settings: Any) -> dict[str, Any]:
    return {"schema": 1, "input": [8], "layers": [{"type": "linear", "width": 4}, settings]}


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ([], "a list"),
        ({}, "schema is None"),
        ({"schema": "1", "input": [8], "layers": []}, "schema is '1'"),
        ({"schema": True, "input": [8], "layers": []}, "schema is True"),
        ({"schema": 0, "input": [8], "layers": []}, "schema is 0"),
        ({"schema": 1, "layers": []}, "'input' is None"),
        ({"schema": 1, "input": [8]}, "'layers' is None"),
        ({"schema": 1, "input": [8], "layers": []}, "no layer with weights"),
        ({"schema": 1, "input": [], "layers": []}, "input shape"),
        ({"schema": 1, "input": [8.0], "layers": []}, "input size is 8.0"),
        ({"schema": 1, "input": [None], "layers": []}, "input size is None"),
        ({"schema": 1, "input": [8], "layers": [], "depth": 3}, "entry 'depth'"),
        ({"schema": 1, "input": [8], "layers": [7]}, "layer 0: it is 7"),
        ({"schema": 1, "input": [8], "layers": [{"width": 3}]}, "layer 0: it is {'width': 3}"),
        ({"schema": 1, "input": [8], "layers": [{"type": "linear", "width": 2}], "activation": 3}, "activation is 3"),
        (entry(type="liner", width=2), "write 'linear'"),
        (entry(type=["linear"], width=2), "layer type is ['linear']"),
        (entry(type="linear"), "layer 1: the linear layer has no width"),
        (entry(type="linear", width=0), "layer 1: the linear layer's width is 0"),
        (entry(type="linear", width=-3), "layer 1: the linear layer's width is -3"),
        (entry(type="linear", width=2.0), "layer 1: the linear layer's width is 2.0"),
        (entry(type="linear", width=True), "layer 1: the linear layer's width is True"),
        (entry(type="linear", width="2"), "layer 1: the linear layer's width is '2'"),
        (entry(type="linear", width=10**7), "layer 1: the linear layer's width is 10000000"),
        (entry(type="linear", width=2, bias=1), "layer 1: the linear layer's bias is 1"),
        (entry(type="linear", width=2, bais=True), "write 'bias'"),
        (entry(type="dropout", p=math.nan), "p is nan"),
        (entry(type="dropout", p=-0.1), "p is -0.1"),
        (entry(type="dropout", p=True), "p is True"),
        (entry(type="conv2d", channels=2, kernel=3, padding=-1), "conv2d layer's padding is -1"),
        (entry(type="conv2d", channels=2, kernel="3"), "conv2d layer's kernel is '3'"),
        (entry(type="conv2d", channels=2), "layer 1 (conv2d c2k3): it needs a picture, but gets 4 flat features"),
    ],
)
def test_json_forms_that_are_refused(form: Any, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        NetworkSpec.from_dict(form)
    assert said in str(caught.value)


def test_json_must_state_the_flatten_layer() -> None:
    form = {"schema": 1, "input": [1, 8, 8], "layers": [{"type": "linear", "width": 2}]}
    with pytest.raises(SpecError) as caught:
        NetworkSpec.from_dict(form)
    assert "layer 0 (linear 2): it needs flat features, but gets a picture 1x8x8" in str(caught.value)
    assert "put a flatten layer in front of it" in str(caught.value)


def test_a_newer_schema_says_so() -> None:
    form = {**NetworkSpec.parse("4-3-2").to_dict(), "schema": SCHEMA + 1, "hyperlayers": []}
    with pytest.raises(SpecError, match=rf"schema version {SCHEMA + 1}.*up to {SCHEMA}.*newer eclab: update"):
        NetworkSpec.from_dict(form)


@pytest.mark.parametrize("text", ["", "{", "nonsense", "[" * 100_000, "3", "null", '{"schema": 1', "9" * 5000])
def test_broken_json_is_refused(text: str) -> None:
    with pytest.raises(SpecError):
        NetworkSpec.from_json(text)


@given(st.text(alphabet="0123456789xcksp afgdb-.·rel", max_size=24))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        spec = NetworkSpec.parse(text)
    except SpecError:
        return
    assert NetworkSpec.parse(spec.text) == spec


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-2, 5), st.floats(), st.sampled_from(["linear", "conv2d", "relu"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["type", "width", "bias", "kernel", "channels", "size"]), inner, max_size=4),
    ),
    max_leaves=12,
)


@given(JSON, JSON, JSON)
def test_any_json_is_read_or_refused(shape: Any, layers: Any, activation: Any) -> None:
    form = {"schema": 1, "input": shape, "layers": layers, "activation": activation}
    try:
        spec = NetworkSpec.from_dict(form)
    except SpecError:
        return
    assert NetworkSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize(
    ("method", "arguments", "said"),
    [
        ("widen", (1, 4), "layer 1 (max_pool p2) has no units"),
        ("widen", (0, 0), "layer 0: the conv2d layer's channels is 0"),
        ("widen", (0, 2.5), "channels is 2.5"),
        ("widen", (0, True), "channels is True"),
        ("widen", (4, 3), "layer index is 4"),
        ("widen", (-1, 3), "layer index is -1"),
        ("widen", ("0", 3), "layer index is '0'"),
        ("remove_layer", (3,), "layer 3 (linear 10) gives the outputs"),
        ("remove_layer", (2,), "layer 2 (linear 10): it needs flat features, but gets a picture 8x4x4"),
        ("remove_layer", (9,), "layer index is 9"),
        ("add_layer", (3, "linear", 4), "behind layer 3 (linear 10) it would become the output layer"),
        ("add_layer", (0, "linear", 4), "layer 1 (linear 4): it needs flat features, but gets a picture 8x8x8"),
        ("add_layer", (2, "conv2d", 4), "layer 3 (conv2d c4k3): it needs a picture, but gets 128 flat features"),
        ("add_layer", (1, "max_pool", 5), "layer 2 (max_pool p5): its size 5x5 is larger than the picture 4x4"),
        ("add_layer", (0, "linear"), "layer 1: the linear layer has no width"),
        ("add_layer", (0, "dense", 4), "layer type is 'dense'"),
        ("add_layer", (0, ["linear"], 4), "layer type is ['linear']"),
        ("add_layer", (1, "dropout", 4), "no setting 'size'"),
        ("add_layer", (-2, "conv2d", 4), "layer index is -2"),
        ("set_kernel", (1, 3), "layer 1: a max_pool layer has no setting 'kernel'"),
        ("set_kernel", (0, 0), "layer 0: the conv2d layer's kernel is 0"),
        ("set_activation", ("step",), "activation is 'step'"),
        ("set_activation", (None,), "activation is None"),
        ("set_bias", ("yes",), "bias is 'yes'"),
        ("for_data", ((2,), 2), "layer 0 (conv2d c8k3): it needs a picture, but gets 2 flat features"),
        ("for_data", ((1, 8, 8), 0), "width is 0"),
    ],
)
def test_edits_that_are_refused_change_nothing(method: str, arguments: tuple[Any, ...], said: str) -> None:
    spec = NetworkSpec.parse("1x8x8-c8k3-p2-f-10")
    with pytest.raises(SpecError) as caught:
        getattr(spec, method)(*arguments)
    assert said in str(caught.value)
    assert spec == NetworkSpec.parse("1x8x8-c8k3-p2-f-10")


def test_a_kernel_larger_than_the_padded_picture_is_refused() -> None:
    spec = NetworkSpec.parse("1x8x8-c8k3p0-f-10")
    with pytest.raises(SpecError, match=r"layer 0 .*kernel 9x9 is larger than the padded picture 8x8"):
        spec.set_kernel(0, 9)


@pytest.mark.parametrize("layers", [None, (), "784-10", (3,), (MaxPool(2),), ("linear",)])
def test_layers_that_are_none_are_refused(layers: Any) -> None:
    with pytest.raises(SpecError):
        NetworkSpec((1, 8, 8), layers)
