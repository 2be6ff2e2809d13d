"""What the Build lens does: from one setup to the next, without changing either."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from eclab.errors import SettingError, SpecError
from eclab.widgets import laning, presets

if TYPE_CHECKING:
    from collections.abc import Mapping

    from eclab.network.spec import NetworkSpec
    from eclab.widgets.bench import Setup


def with_spec(setup: Setup, spec: NetworkSpec) -> Setup:
    """Another network on the same data."""
    if setup.data is None:
        raise SettingError(
            "there are no labels to train another network on",
            fix="choose a data set first, or pass labels: eclab.Lab(model, x, y)",
        )
    return replace(setup, spec=spec, model=None, x=None)


def edited(setup: Setup, op: str, asked: Mapping[str, Any]) -> Setup:
    """The network with one edit of the Build lens; errors name layers as the page does.

    See :func:`_edited` for arguments and errors.
    """
    try:
        return _edited(setup, op, asked)
    except SpecError as problem:
        if setup.spec is None:
            raise
        names = _page_names(setup.spec, op, asked)
        raise SpecError(
            _renamed(problem.seen, names), allowed=problem.allowed, fix=_renamed(problem.fix or "", names) or None
        ) from problem


def _renamed(text: str, names: Mapping[int, str]) -> str:
    def name(found: re.Match[str]) -> str:
        return names.get(int(found[1]), found[0])

    return re.sub(r"\blayer (\d+)( \([^)]*\))?", name, text)


def _page_names(spec: NetworkSpec, op: str, asked: Mapping[str, Any]) -> dict[int, str]:
    """What the page calls the entries of the specification an edit leads to, by their place in it."""
    names: list[str] = []
    number = 0
    for place, layer in enumerate(spec.layers):
        number += layer.weighty
        plain = f"the {layer.type.replace('_', '-')} behind {f'layer {number}' if number else 'the inputs'}"
        names.append("the output layer" if place == spec.output else f"layer {number}" if layer.weighty else plain)
    if op == "add" and asked["spec_after"] is not None:
        names.insert(asked["spec_after"] + 1, "the new layer")
    if op == "remove" and asked["spec_index"] is not None and asked["spec_index"] != spec.output:
        del names[asked["spec_index"] : asked["spec_index"] + 1]
    return dict(enumerate(names))


def _edited(setup: Setup, op: str, asked: Mapping[str, Any]) -> Setup:
    """The network with one edit of the Build lens.

    Args:
        setup: what there is.
        op: "add", "remove", "widen", "activation" or "bias".
        asked: the command's other arguments.

    Raises:
        SpecError: the edit gives no network that could be built; it names the layer and the shapes.
        SettingError: the network is a model of the user's own, or an argument is missing.
    """
    spec = setup.spec
    if spec is None:
        raise SettingError(
            "the network is a model of your own, which the lab does not edit",
            fix="choose a preset to start from a network of the lab",
        )
    value = asked["value"]
    if op == "activation":
        if not isinstance(value, str):
            raise SettingError(f"the activation is {value!r}", allowed="a name")
        return with_spec(setup, spec.set_activation(value))
    if op == "bias":
        if not isinstance(value, bool):
            raise SettingError(f"the bias is {value!r}", allowed="true or false")
        return with_spec(setup, spec.set_bias(value))
    place = asked["spec_after" if op == "add" else "spec_index"]
    if place is None:
        raise SettingError(f"'{op}' came without its place", allowed="the number of a layer in the specification")
    if op == "remove":
        return with_spec(setup, spec.remove_layer(place))
    if asked["width"] is None:
        raise SettingError(f"'{op}' came without a width", allowed="a whole number of at least 1")
    if op == "widen":
        return with_spec(setup, spec.widen(place, asked["width"]))
    return with_spec(setup, spec.add_layer(place, asked["kind"], asked["width"]))


def with_data(setup: Setup, name: str) -> tuple[Setup, str]:
    """The same network on other data, its first and last layer fitted; a dense one where it cannot be.

    Returns:
        The setup, and what was done to the network in words.
    """
    import eclab.data

    data = eclab.data.load(name, seed=setup.settings.seed)
    if setup.spec is not None:
        try:
            spec = setup.spec.for_data(data.input_shape, data.num_classes)
            if not presets.needs_bias(data) or spec.bias:
                return replace(setup, data=data, spec=spec), ""
            why = "the layers now have biases: without them a network sees only in which direction a point lies"
            return replace(setup, data=data, spec=spec.set_bias(True)), why
        except SpecError as problem:
            reason = f"the network does not suit {name} ({problem.seen}), so a fully connected one took its place"
    else:
        reason = f"your own model stays as it was; {name} comes with a fully connected network"
    return replace(setup, data=data, spec=presets.network_for("dense", data), model=None, x=None), reason


def with_preset(setup: Setup, name: str) -> tuple[Setup, str]:
    """A network of the lab on the same data, or a race with a known outcome; and a word on what to expect."""
    import eclab.data
    from eclab.network.spec import NetworkSpec

    if setup.data is not None:
        spec = presets.network_for(name, setup.data)
        if spec is not None:
            return with_spec(setup, spec), ""
    preset = presets.race_preset(name)
    data = setup.data if setup.data is not None and setup.data.name == preset.data else eclab.data.load(preset.data)
    spec = NetworkSpec.parse(preset.network).for_data((data.features,), data.num_classes)
    found = replace(setup, spec=spec, model=None, x=None, data=data)
    lanes = laning.without_rates(setup.settings.lanes)
    settings = {"lr": preset.lr, "epochs": preset.epochs, "unbalance": preset.unbalance, "start": "skeleton"}
    return found.having(lanes=lanes, **settings), preset.why
