"""The short text form of a network specification, and the names of activations."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from eclab.errors import SpecError
from eclab.network.spec_layers import Layer, Linear, Shape, did_you_mean, make_layer, whole

MAX_LAYERS = 1000

# Name -> how it is written for people.
ACTIVATIONS = {
    "relu": "ReLU",
    "leaky_relu": "LeakyReLU",
    "prelu": "PReLU",
    "prelu-channel": "PReLU-channel",
    "identity": "Identity",
    "tanh": "Tanh",
    "sigmoid": "Sigmoid",
    "gelu": "GELU",
    "silu": "SiLU",
}
_TOKENS: dict[str, tuple[str, ...]] = {
    # Type -> pattern, then the settings its groups stand for; a missing group leaves the default.
    "linear": (r"(\d+)(b)?", "width", "bias"),
    "conv2d": (r"c(\d+)(?:k(\d+))?(?:s(\d+))?(?:p(\d+))?(b)?", "channels", "kernel", "stride", "padding", "bias"),
    "max_pool": (r"p(\d+)?", "size"),
    "avg_pool": (r"a(\d+)?", "size"),
    "adaptive_avg_pool": (r"g(\d+)?", "size"),
    "flatten": (r"f",),
    "dropout": (r"d(\d*\.?\d+)?", "p"),
}
_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2212"
_FIX = "write input, layers and outputs with dashes, such as 784-64-64-10 or 1x28x28-c8k3-p2-f-10"


def read_text(text: object, bias: bool) -> tuple[Shape, tuple[Layer, ...], str]:
    """Input shape, layers and activation ("" if none is named) of a text; see `NetworkSpec.parse`."""
    if not isinstance(text, str):
        raise SpecError(f"the network is {text!r}", allowed="a text", fix=_FIX)
    tidy = re.sub(rf"\s*[-{_DASHES}]\s*", "-", text.strip()).replace("\u00d7", "x")
    chain, *rest = re.split(r"[\s·,|]+", tidy, maxsplit=1)
    first, *tokens = chain.split("-")
    if not re.fullmatch(r"\d+(x\d+)*", first, re.ASCII):
        raise SpecError(f"the input in {text!r} is {first!r}", allowed="a shape such as 784 or 1x28x28", fix=_FIX)
    shape = tuple(_number(side, "input size") for side in first.split("x"))
    layers: list[Layer] = []
    for token in tokens:
        with at_layer(len(layers)):
            repeated = _read_token(token, bias)
        if isinstance(repeated[0], Linear) and _is_picture(shape, layers):
            layers.append(make_layer("flatten", {}))
        layers += repeated
        if len(layers) > MAX_LAYERS:
            raise SpecError(f"the network has more than {MAX_LAYERS:,} layers", allowed=f"at most {MAX_LAYERS:,}")
    return shape, tuple(layers), rest[0] if rest else ""


def activation_name(name: object) -> str:
    """The name in `ACTIVATIONS` that is meant.

    Example:
        >>> activation_name("LeakyReLU"), activation_name("leaky-relu")
        ('leaky_relu', 'leaky_relu')
    """
    squeezed = {re.sub("[-_ ]", "", known): known for known in ACTIVATIONS}
    key = re.sub("[-_ ()]", "", name.lower()) if isinstance(name, str) else ""
    if key not in squeezed:
        known = ", ".join(ACTIVATIONS)
        raise SpecError(f"the activation is {name!r}", allowed=known, fix=did_you_mean(str(name), ACTIVATIONS))
    return squeezed[key]


@contextmanager
def at_layer(i: int) -> Iterator[None]:
    """What is refused inside is about layer `i`."""
    try:
        yield
    except SpecError as error:
        raise SpecError(f"layer {i}: {error.seen}", allowed=error.allowed, fix=error.fix) from error


def _number(digits: str, what: str) -> int:
    # Python itself refuses to read thousands of digits, in words that help nobody.
    if len(digits) > 18:
        raise SpecError(f"the {what} has {len(digits)} digits", allowed="a number that fits a computer")
    return int(digits)


def _is_picture(shape: Shape, layers: Sequence[Layer]) -> bool:
    return len(shape) == 3 and not any(layer.type in ("flatten", "linear") for layer in layers)


def _read_token(token: str, bias: bool) -> list[Layer]:
    for kind, (pattern, *names) in _TOKENS.items():
        match = re.fullmatch(pattern + r"(?:x(\d+))?", token, re.ASCII)
        if match is not None:
            *groups, times = match.groups()
            settings: dict[str, Any] = {"bias": bias} if "bias" in names else {}
            settings |= {name: _setting(name, text) for name, text in zip(names, groups, strict=True) if text}
            count = whole(_number(times or "1", "repetition"), "repetition", most=MAX_LAYERS)
            return [make_layer(kind, settings)] * count
    seen = f"it is written {token!r}" if token else "there is nothing between its dashes, or its number is negative"
    raise SpecError(seen, allowed="64, c8k3 (s2, p0), p2, a2, g1, f or d0.5; 64x3 for three of them", fix=_FIX)


def _setting(name: str, text: str) -> bool | float | int:
    return True if name == "bias" else float(text) if name == "p" else _number(text, name)
