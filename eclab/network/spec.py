"""What a feed-forward network is, in words: a specification with a text form, a JSON form, edits and a builder."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from eclab.errors import SpecError
from eclab.network.spec_build import activation_module, layer_module
from eclab.network.spec_layers import (
    LAYER_TYPES,
    MAX_VALUES,
    Conv2d,
    Layer,
    Linear,
    Shape,
    Weighty,
    make_layer,
    whole,
    written,
)
from eclab.network.spec_text import ACTIVATIONS, MAX_LAYERS, activation_name, at_layer, read_text

__all__ = ["ACTIVATIONS", "LAYER_TYPES", "SCHEMA", "Layer", "NetworkSpec"]

SCHEMA = 1
MAX_WEIGHTS = 1_000_000_000


@dataclass(frozen=True, repr=False)
class NetworkSpec:
    """A sequence of layers with one activation behind every weighty layer but the last, which gives the outputs.

    Args:
        input_shape: shape of one sample, (features,) or (channels, height, width).
        layers: linear, conv2d, max_pool, avg_pool, adaptive_avg_pool, flatten, dropout; see `LAYER_TYPES`.
        activation: one of `ACTIVATIONS`.

    Raises:
        SpecError: anything that could not be built; it names the layer and the shapes.

    Example:
        >>> spec = NetworkSpec.parse("1x28x28-c8k3-p2-f-10")
        >>> spec.shapes()
        ((8, 28, 28), (8, 14, 14), (1568,), (10,))
        >>> spec.widen(0, 16).text
        '1x28x28-c16k3-p2-f-10 · ReLU'
    """

    input_shape: Shape
    layers: tuple[Layer, ...]
    activation: str = "relu"

    def __post_init__(self) -> None:
        shape: object = self.input_shape
        sides = tuple(shape) if isinstance(shape, (tuple, list)) else (shape,)
        if len(sides) not in (1, 3):
            raise SpecError(
                f"the input shape is {written(sides)}", allowed="one number of features, or channels x height x width"
            )
        object.__setattr__(self, "input_shape", tuple(whole(side, "input size") for side in sides))
        layers: object = self.layers
        object.__setattr__(self, "layers", tuple(layers) if isinstance(layers, (tuple, list)) else (layers,))
        object.__setattr__(self, "activation", activation_name(self.activation))
        self._check()

    def _check(self) -> None:
        for i, layer in enumerate(self.layers):
            if not isinstance(layer, Layer):
                raise SpecError(f"layer {i} is {layer!r}", allowed="a layer of " + ", ".join(LAYER_TYPES))
        if not any(layer.weighty for layer in self.layers):
            raise SpecError("the network has no layer with weights", fix="add a linear layer for the outputs")
        if len(self.layers) > MAX_LAYERS:
            raise SpecError(f"the network has {len(self.layers):,} layers", allowed=f"at most {MAX_LAYERS:,}")
        last = self.shapes()[-1]
        if len(last) != 1:
            raise SpecError(
                f"the network ends in a picture {written(last)}",
                allowed="one flat row of outputs",
                fix="end it with a flatten layer, and a linear layer as wide as there are classes",
            )
        for i in range(self.output, len(self.layers)):
            if self.layers[i].type == "dropout":
                raise SpecError(f"{self._where(i)} drops outputs", fix=f"move it in front of layer {self.output}")
        if self.num_weights > MAX_WEIGHTS:
            raise SpecError(
                f"the network has {self.num_weights:,} weights", allowed=f"at most {MAX_WEIGHTS:,}", fix="narrow it"
            )

    # Reading and writing

    @classmethod
    def parse(cls, text: str, *, activation: str = "relu", bias: bool = False) -> NetworkSpec:
        """Reads the short text form: input, then layers, joined by dashes; an activation may follow.

        ``64`` linear · ``c8k3`` convolution, 8 channels, kernel 3 (``s2`` stride 2, ``p0`` padding, else kernel // 2) ·
        a ``b`` behind either: with bias · ``p2`` max-pool · ``a2`` average pool · ``g1`` adaptive average pool ·
        ``f`` flatten (put in by itself in front of a linear layer) · ``d0.5`` dropout · ``64x4`` four times ``64``.

        Args:
            text: the form above, such as ``784-64x4-10`` or ``1x28x28-c8k3-p2-c16k3-p2-f-10 · PReLU``.
            activation: the activation if the text names none.
            bias: True gives every layer a bias.

        Raises:
            SpecError: what cannot be read or built.

        Example:
            >>> NetworkSpec.parse("1x8x8-16-10, tanh")
            NetworkSpec.parse('1x8x8-f-16-10 · Tanh')
        """
        shape, layers, named = read_text(text, bias)
        return cls(shape, layers, named or activation)

    @classmethod
    def from_dict(cls, form: object) -> NetworkSpec:
        """Reads the JSON form as Python objects; see `to_dict`.

        Raises:
            SpecError: what cannot be read or built, or a schema newer than this eclab's.
        """
        if not isinstance(form, dict):
            raise SpecError(f"the specification is a {type(form).__name__}", allowed="a JSON object")
        schema = form.get("schema")
        if isinstance(schema, int) and schema > SCHEMA:
            raise SpecError(
                f"the specification has schema version {schema}",
                allowed=f"versions up to {SCHEMA}",
                fix="it was written by a newer eclab: update this one",
            )
        if isinstance(schema, bool) or schema != SCHEMA:
            raise SpecError(f"the specification's schema is {schema!r}", allowed=str(SCHEMA), fix='state "schema": 1')
        known = ("schema", "input", "activation", "layers")
        for key in form:
            if key not in known:
                raise SpecError(f"the specification has an entry {key!r}", allowed=", ".join(known))
        for key in ("input", "layers"):
            if not isinstance(form.get(key), list):
                raise SpecError(f"the specification's {key!r} is {form.get(key)!r}", allowed="a list")
        layers: list[Layer] = []
        for i, entry in enumerate(form["layers"]):
            with at_layer(i):
                layers.append(_read_entry(entry))
        return cls(tuple(form["input"]), tuple(layers), form.get("activation", "relu"))

    @classmethod
    def from_json(cls, text: str) -> NetworkSpec:
        """Reads what `to_json` wrote.

        Raises:
            SpecError: no JSON, or anything `from_dict` refuses.
        """
        try:
            form = json.loads(text)
        except (ValueError, TypeError, RecursionError) as error:
            raise SpecError(f"the specification is no JSON ({error})", fix="use a file eclab has written") from error
        return cls.from_dict(form)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form as Python objects: schema, input, activation, layers with all their settings."""
        return {
            "schema": SCHEMA,
            "input": list(self.input_shape),
            "activation": self.activation,
            "layers": [layer.to_dict() for layer in self.layers],
        }

    def to_json(self, indent: int | None = None) -> str:
        """The JSON form as text; `from_json` gives the same specification back."""
        return json.dumps(self.to_dict(), indent=indent)

    @property
    def text(self) -> str:
        """The whole specification in one line; `parse` gives the same specification back."""
        chain = "-".join([written(self.input_shape), *(layer.token for layer in self.layers)])
        return f"{chain} · {ACTIVATIONS[self.activation]}"

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"NetworkSpec.parse({self.text!r})"

    # Facts

    @property
    def output(self) -> int:
        """The index of the layer that gives the outputs: the last one with weights."""
        return max(i for i, layer in enumerate(self.layers) if layer.weighty)

    @property
    def num_outputs(self) -> int:
        """The number of values a sample comes out with."""
        return self.shapes()[-1][0]

    @property
    def bias(self) -> bool:
        """Whether every weighty layer has a bias."""
        return all(layer.bias for layer in self.layers if isinstance(layer, Weighty))

    @property
    def num_weights(self) -> int:
        """Weights and biases, counted without building; PReLU slopes are no edges and do not count."""
        before = (self.input_shape, *self.shapes())
        return sum(y.num_weights(before[i]) for i, y in enumerate(self.layers) if isinstance(y, Weighty))

    def shapes(self) -> tuple[Shape, ...]:
        """The shape of one sample behind every layer."""
        shape, shapes = self.input_shape, []
        _check_size(shape, "the input")
        for i, layer in enumerate(self.layers):
            try:
                shape = layer.output_shape(shape)
            except SpecError as error:
                raise SpecError(f"{self._where(i)}: {error.seen}", allowed=error.allowed, fix=error.fix) from error
            _check_size(shape, self._where(i))
            shapes.append(shape)
        return tuple(shapes)

    def _where(self, i: int) -> str:
        return f"layer {i} ({self.layers[i].type} {self.layers[i].token})"

    def modules(self) -> tuple[str, ...]:
        """For every layer its module path in what `build` returns.

        Example:
            >>> NetworkSpec.parse("784-64-64-10").modules()
            ('0', '2', '4')
        """
        paths, place = [], 0
        for i, layer in enumerate(self.layers):
            paths.append(str(place))
            place += 2 if self._activated(i, layer) else 1
        return tuple(paths)

    def _activated(self, i: int, layer: Layer) -> bool:
        return layer.weighty and i != self.output

    # Building

    def build(self, seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Sequential:
        """A torch module on the CPU with torch's default initialisation, the same for the same seed.

        The weights are drawn in float32 from a generator of their own, so every dtype gets the same network and the
        global random state stays as it was.

        Args:
            seed: any whole number torch accepts as a seed.
            dtype: a floating dtype.
        """
        kind: object = dtype
        if not isinstance(kind, torch.dtype) or not kind.is_floating_point:
            raise SpecError(f"the dtype is {dtype}", allowed="a floating dtype such as torch.float32")
        generator = torch.Generator().manual_seed(whole(seed, "seed", least=0, most=2**63 - 1))
        modules: list[nn.Module] = []
        before = (self.input_shape, *self.shapes())
        for i, layer in enumerate(self.layers):
            modules.append(layer_module(layer, before[i], generator))
            if self._activated(i, layer):
                modules.append(activation_module(self.activation, before[i + 1][0]))
        return nn.Sequential(*modules).to(dtype)

    # Edits: each returns a new, valid specification or raises SpecError; this one never changes

    def _with(self, layers: Sequence[Layer]) -> NetworkSpec:
        return replace(self, layers=tuple(layers))

    def _layer(self, i: int) -> Layer:
        return self.layers[whole(i, "layer index", least=0, most=len(self.layers) - 1)]

    def add_layer(self, after: int, kind: str, width: int | None = None, **settings: Any) -> NetworkSpec:
        """A layer more, behind layer `after` (-1: behind the input).

        Args:
            after: index of the layer it follows.
            kind: a layer type, such as "linear" or "conv2d".
            width: units of a linear layer, channels of a convolution, size of a pool.
            settings: further ones of the type (kernel, stride, padding, bias, size, p); bias as in the whole network.
        """
        after = whole(after, "layer index", least=-1, most=len(self.layers) - 1)
        name = "width" if kind == "linear" else "channels" if kind == "conv2d" else "size"
        given = settings if width is None else {name: width, **settings}
        if kind in ("linear", "conv2d"):
            given = {"bias": self.bias, **given}
            if after >= self.output:
                fix = f"add it behind one of the layers -1 to {self.output - 1}"
                raise SpecError(f"behind {self._where(self.output)} it would become the output layer", fix=fix)
        with at_layer(after + 1):
            layer = make_layer(kind, given)
        return self._with([*self.layers[: after + 1], layer, *self.layers[after + 1 :]])

    def remove_layer(self, i: int) -> NetworkSpec:
        """The network without layer `i`; the output layer stays."""
        self._layer(i)
        if i == self.output:
            raise SpecError(f"{self._where(i)} gives the outputs", fix="remove another layer, or widen this one")
        return self._with([*self.layers[:i], *self.layers[i + 1 :]])

    def change(self, i: int, **settings: Any) -> NetworkSpec:
        """Layer `i` with other settings; a convolution's padding follows its kernel as long as it is kernel // 2."""
        layer = self._layer(i)
        old = layer.to_dict()
        if isinstance(layer, Conv2d) and "kernel" in settings and layer.padding == layer.kernel // 2:
            del old["padding"]
        with at_layer(i):
            new = make_layer(old.pop("type"), {**old, **settings})
        return self._with([*self.layers[:i], new, *self.layers[i + 1 :]])

    def widen(self, i: int, width: int) -> NetworkSpec:
        """Layer `i` with `width` neurons or channels; it may also become narrower."""
        layer = self._layer(i)
        if not layer.weighty:
            raise SpecError(f"{self._where(i)} has no units", fix="choose a linear or conv2d layer")
        return self.change(i, **{"width" if isinstance(layer, Linear) else "channels": width})

    def set_kernel(self, i: int, kernel: int) -> NetworkSpec:
        """Convolution `i` with a kernel of `kernel` x `kernel` pixels."""
        return self.change(i, kernel=kernel)

    def set_activation(self, name: str) -> NetworkSpec:
        """The same layers with another activation."""
        return replace(self, activation=name)

    def set_bias(self, bias: bool) -> NetworkSpec:
        """Every weighty layer with, or every one without, a bias."""
        return self._with([replace(y, bias=bias) if isinstance(y, (Linear, Conv2d)) else y for y in self.layers])

    def for_data(self, input_shape: Sequence[int], num_classes: int) -> NetworkSpec:
        """The same hidden layers for other data: new input, as many outputs as classes.

        A network with a flat input takes pictures flat.
        """
        shape = tuple(input_shape)
        flat = len(self.input_shape) == 1 and len(shape) == 3
        fitted = replace(self, input_shape=(math.prod(shape),) if flat else shape, layers=_layers_for(self, shape))
        return fitted.widen(fitted.output, num_classes)


def _layers_for(spec: NetworkSpec, shape: Shape) -> tuple[Layer, ...]:
    """The layers of a picture network whose pictures become flat: its flatten layer is then one too many."""
    dense = all(layer.type in ("linear", "flatten", "dropout") for layer in spec.layers)
    return tuple(y for y in spec.layers if y.type != "flatten") if dense and len(shape) == 1 else spec.layers


def _check_size(shape: Shape, where: str) -> None:
    if math.prod(shape) > MAX_VALUES:
        raise SpecError(f"{where} has {written(shape)} values a sample", allowed=f"at most {MAX_VALUES:,}")


def _read_entry(entry: object) -> Layer:
    if not isinstance(entry, dict) or "type" not in entry:
        raise SpecError(f"it is {entry!r}", allowed="a JSON object with a type", fix='write {"type": "linear", ...}')
    return make_layer(entry["type"], {str(name): value for name, value in entry.items() if name != "type"})
