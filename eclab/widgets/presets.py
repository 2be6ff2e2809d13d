"""Networks to start from, fitted to the data, and races with known outcomes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eclab.errors import SettingError

if TYPE_CHECKING:
    from eclab.data import Dataset
    from eclab.network.spec import NetworkSpec

_DENSE = {
    "dense": ("fully connected", "16-16"),
    "wide": ("one wide layer", "64"),
    "deep": ("narrow and deep", "16x7"),
    "uneven": ("uneven widths", "12-6-9"),
}
_CONV = {
    "conv": ("convolutional", "c8k3-p2-c16k3-p2-f"),
    "conv-deep": ("convolutional, deeper", "c8k3-c8k3-p2-c16k3-g1-f"),
}
_PLANE = {"dense": "6-6-4"}


def shape_presets(data: Dataset | None) -> list[dict[str, Any]]:
    """The networks one can start from with these data, as the page lists them."""
    pictures = data is not None and len(data.input_shape) == 3
    reason = "" if pictures else "it needs pictures, such as digits or fashion-mnist"
    dense = [_entry(name, label, "") for name, (label, _) in _DENSE.items()]
    conv = [_entry(name, label, reason) for name, (label, _) in _CONV.items()]
    return dense + conv


def race_presets() -> list[dict[str, Any]]:
    """The races with measured outcomes, as the page lists them."""
    import eclab.data

    there = eclab.data.available()
    return [
        {**_entry(preset.name, preset.name, "" if preset.data in there else f"{preset.data} is not on this machine"),
         "why": preset.why}
        for preset in eclab.data.presets()
    ]  # fmt: skip


def _entry(name: str, label: str, reason: str) -> dict[str, Any]:
    return {"name": name, "label": label, "available": not reason, "reason": reason}


def network_for(name: str, data: Dataset) -> NetworkSpec | None:
    """The network of that name for these data; None where no network is called so.

    Raises:
        SettingError: it does not suit the data.

    Example:
        >>> import eclab.data
        >>> network_for("dense", eclab.data.load("spiral")).text
        '2-6b-6b-4b-2b · ReLU'
    """
    from eclab.network.spec import NetworkSpec

    if name in _CONV:
        if len(data.input_shape) != 3:
            raise SettingError(
                f"a convolution needs pictures, and {data.name} has {data.features} numbers a sample",
                allowed=", ".join(_DENSE),
                fix="choose data such as digits or fashion-mnist first",
            )
        shape = "x".join(map(str, data.input_shape))
        return NetworkSpec.parse(f"{shape}-{_CONV[name][1]}-{data.num_classes}")
    if name not in _DENSE:
        return None
    hidden = _PLANE.get(name, _DENSE[name][1]) if data.is_2d else _DENSE[name][1]
    return NetworkSpec.parse(f"{data.features}-{hidden}-{data.num_classes}", bias=needs_bias(data))


def needs_bias(data: Dataset) -> bool:
    """Whether the network should have biases: without them it sees only the direction in which a point lies."""
    return data.is_2d


def race_preset(name: str) -> Any:
    """The race of that name.

    Raises:
        SettingError: there is none; the message lists what there is.
    """
    import eclab.data

    presets = {preset.name: preset for preset in eclab.data.presets()}
    if name not in presets:
        raise SettingError(f"there is no preset {name!r}", allowed=", ".join([*_DENSE, *_CONV, *presets]))
    return presets[name]
