"""The layers a network specification is made of: their settings, shapes and short text."""

from __future__ import annotations

import difflib
import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import MISSING, asdict, dataclass, fields
from decimal import Decimal
from typing import Any, ClassVar, final

from eclab.errors import SpecError

Shape = tuple[int, ...]

MAX_UNITS = 1_000_000
MAX_VALUES = 100_000_000


def whole(value: object, what: str, *, least: int = 1, most: int = MAX_UNITS) -> int:
    """A whole number in range, or a `SpecError` that says what was seen. True and 3.0 are not whole numbers here."""
    allowed = f"a whole number from {least:,} to {most:,}"
    try:
        number = operator.index(value)  # type: ignore[arg-type]  # whatever has no __index__ is refused below
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise SpecError(f"the {what} is {value!r}", allowed=allowed, fix="write it as a whole number")
    if not least <= number <= most:
        raise SpecError(f"the {what} is {number}", allowed=allowed, fix=f"choose a {what} in that range")
    return number


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A fix for a misspelt name."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"write {near[0]!r}" if near else "choose one of these"


def written(shape: Shape) -> str:
    """A shape as the text form writes it.

    Example:
        >>> written((1, 28, 28))
        '1x28x28'
    """
    return "x".join(map(str, shape))


@dataclass(frozen=True)
class Layer(ABC):
    """One layer of a specification. Shapes are those of one sample: (features,) or (channels, height, width)."""

    type: ClassVar[str]
    weighty: ClassVar[bool] = False

    @property
    @abstractmethod
    def token(self) -> str:
        """The layer in the short text form, such as ``c8k3``."""

    @abstractmethod
    def output_shape(self, before: Shape) -> Shape:
        """The shape behind this layer; `SpecError` when it does not fit behind `before`."""

    def to_dict(self) -> dict[str, Any]:
        """Its JSON form."""
        return {"type": self.type, **asdict(self)}

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _whole(self, name: str, least: int = 1) -> None:
        self._set(name, whole(getattr(self, name), f"{self.type} layer's {name}", least=least))

    def _picture(self, before: Shape) -> tuple[int, int, int]:
        if len(before) != 3:
            fix = "move it in front of the flatten layer, or give the network pictures (channels x height x width)"
            raise SpecError(f"it needs a picture, but gets {written(before)} flat features", fix=fix)
        return before[0], before[1], before[2]


class Weighty(Layer):
    """A layer with weights, hence with units of its own. `bias` is a field of its subclasses, where it comes last."""

    weighty: ClassVar[bool] = True
    bias: bool

    @property
    @abstractmethod
    def units(self) -> int:
        """Its neurons or channels."""

    @abstractmethod
    def num_weights(self, before: Shape) -> int:
        """How many weights it has behind `before`, biases included."""

    def _check_bias(self) -> None:
        if not isinstance(self.bias, bool):
            raise SpecError(f"the {self.type} layer's bias is {self.bias!r}", allowed="true or false")


@final
@dataclass(frozen=True)
class Linear(Weighty):
    """A fully connected layer of `width` units."""

    type: ClassVar[str] = "linear"
    width: int
    bias: bool = False

    def __post_init__(self) -> None:
        self._whole("width")
        self._check_bias()

    @property
    def units(self) -> int:
        return self.width

    @property
    def token(self) -> str:
        return f"{self.width}{'b' * self.bias}"

    def output_shape(self, before: Shape) -> Shape:
        if len(before) != 1:
            raise SpecError(
                f"it needs flat features, but gets a picture {written(before)}",
                fix="put a flatten layer in front of it",
            )
        return (self.width,)

    def num_weights(self, before: Shape) -> int:
        return self.width * (before[0] + self.bias)


@final
@dataclass(frozen=True)
class Conv2d(Weighty):
    """A convolution with `channels` outputs and square kernels; sizes in pixels."""

    type: ClassVar[str] = "conv2d"
    channels: int
    kernel: int
    stride: int
    padding: int
    bias: bool = False

    def __post_init__(self) -> None:
        for name in ("channels", "kernel", "stride"):
            self._whole(name)
        self._whole("padding", least=0)
        self._check_bias()

    @property
    def units(self) -> int:
        return self.channels

    @property
    def token(self) -> str:
        stride = f"s{self.stride}" if self.stride != 1 else ""
        padding = f"p{self.padding}" if self.padding != self.kernel // 2 else ""
        return f"c{self.channels}k{self.kernel}{stride}{padding}{'b' * self.bias}"

    def output_shape(self, before: Shape) -> Shape:
        _, height, width = self._picture(before)
        padded = (height + 2 * self.padding, width + 2 * self.padding)
        if self.kernel > min(padded):
            raise SpecError(
                f"its kernel {self.kernel}x{self.kernel} is larger than the padded picture {written(padded)}",
                fix=f"take a kernel of at most {min(padded)}, or more padding",
            )
        return (self.channels, *((side - self.kernel) // self.stride + 1 for side in padded))

    def num_weights(self, before: Shape) -> int:
        return self.channels * (before[0] * self.kernel**2 + self.bias)


@dataclass(frozen=True)
class Pool(Layer):
    """Pooling; `size` in pixels."""

    size: int

    def __post_init__(self) -> None:
        self._whole("size")

    def _fitting(self, before: Shape) -> tuple[int, int, int]:
        channels, height, width = self._picture(before)
        if self.size > min(height, width):
            raise SpecError(
                f"its size {self.size}x{self.size} is larger than the picture {written((height, width))}",
                fix=f"take a size of at most {min(height, width)}, or remove the layer",
            )
        return channels, height, width


@dataclass(frozen=True)
class WindowPool(Pool):
    """Pooling of size x size windows side by side; what is left over at the border is dropped, as torch does."""

    size: int = 2

    def output_shape(self, before: Shape) -> Shape:
        channels, height, width = self._fitting(before)
        return (channels, height // self.size, width // self.size)


@final
@dataclass(frozen=True)
class MaxPool(WindowPool):
    """The largest value of every window."""

    type: ClassVar[str] = "max_pool"

    @property
    def token(self) -> str:
        return f"p{self.size}"


@final
@dataclass(frozen=True)
class AvgPool(WindowPool):
    """The mean of every window."""

    type: ClassVar[str] = "avg_pool"

    @property
    def token(self) -> str:
        return f"a{self.size}"


@final
@dataclass(frozen=True)
class AdaptiveAvgPool(Pool):
    """Means over as many windows as make a picture of size x size."""

    type: ClassVar[str] = "adaptive_avg_pool"
    size: int = 1

    @property
    def token(self) -> str:
        return f"g{self.size}"

    def output_shape(self, before: Shape) -> Shape:
        return (self._fitting(before)[0], self.size, self.size)


@final
@dataclass(frozen=True)
class Flatten(Layer):
    """Pictures to flat features."""

    type: ClassVar[str] = "flatten"

    @property
    def token(self) -> str:
        return "f"

    def output_shape(self, before: Shape) -> Shape:
        return (math.prod(self._picture(before)),)


@final
@dataclass(frozen=True)
class Dropout(Layer):
    """In training every value is zero with probability `p`."""

    type: ClassVar[str] = "dropout"
    p: float = 0.5

    def __post_init__(self) -> None:
        p: object = self.p
        if isinstance(p, bool) or not isinstance(p, (int, float)) or not 0 <= p < 1:
            raise SpecError(f"the dropout layer's p is {p!r}", allowed="a number from 0 up to, but not, 1")
        self._set("p", float(p))

    @property
    def token(self) -> str:
        # An exponent would bring in a dash, which separates layers.
        return f"d{format(Decimal(repr(self.p)), 'f')}"

    def output_shape(self, before: Shape) -> Shape:
        return before


LAYER_TYPES: dict[str, type[Layer]] = {
    kind.type: kind for kind in (Linear, Conv2d, MaxPool, AvgPool, AdaptiveAvgPool, Flatten, Dropout)
}


def make_layer(kind: object, settings: dict[str, Any]) -> Layer:
    """A layer by its type's name; a convolution left open gets stride 1 and the padding kernel // 2.

    Example:
        >>> make_layer("conv2d", {"channels": 8, "kernel": 5})
        Conv2d(channels=8, kernel=5, stride=1, padding=2, bias=False)
    """
    if not isinstance(kind, str) or kind not in LAYER_TYPES:
        known = ", ".join(LAYER_TYPES)
        raise SpecError(f"the layer type is {kind!r}", allowed=known, fix=did_you_mean(str(kind), LAYER_TYPES))
    if kind == "conv2d":
        kernel = whole(settings.get("kernel", 3), "conv2d layer's kernel")
        settings = {"kernel": kernel, "stride": 1, "padding": kernel // 2, **settings}
    layer = LAYER_TYPES[kind]
    names = [field.name for field in fields(layer)]
    for name in settings:
        if name not in names:
            allowed = ", ".join(names) or "none"
            raise SpecError(f"a {kind} layer has no setting {name!r}", allowed=allowed, fix=did_you_mean(name, names))
    for field in fields(layer):
        if field.default is MISSING and field.name not in settings:
            raise SpecError(f"the {kind} layer has no {field.name}", fix=f"state its {field.name}")
    return layer(**settings)
