"""Random networks: recipes of plain data that hypothesis draws and prints, and the modules they build."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from tests.zoo import EPS

Shape = tuple[int, ...]
"""Of one sample: channels, then positions."""


@dataclass(frozen=True)
class Step:
    """One operation of a recipe.

    Attributes:
        kind: what it does.
        reads: numbers of the values it reads; 0 is the input, and step ``k`` makes value ``k + 1``.
        options: its settings, by name.
        frozen: whether its parameters are.
    """

    kind: str
    reads: tuple[int, ...]
    options: tuple[tuple[str, Any], ...] = ()
    frozen: bool = False


@dataclass(frozen=True)
class Recipe:
    """A network: steps in order, and a head that reads every value that nothing else reads.

    Attributes:
        shape: of one input sample.
        steps: what is done.
        outputs: width of the head.
        seed: of the weights and of the data.
    """

    shape: Shape
    steps: tuple[Step, ...]
    outputs: int
    seed: int

    def build(self) -> Drawn:
        """The model in float64, with weights drawn from the seed, in training mode where it has batch statistics."""
        torch.manual_seed(self.seed)
        return Drawn(self).double()

    def data(self, samples: int = 6) -> Tensor:
        """An input batch, float64."""
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randn(samples, *self.shape, generator=generator, dtype=torch.float64)

    def has(self, *kinds: str) -> bool:
        """Whether it has a step of one of these kinds."""
        return any(step.kind in kinds for step in self.steps)


class Drawn(nn.Module):
    """The module of a recipe."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        shapes = [recipe.shape]
        made: list[nn.Module] = []
        for step in recipe.steps:
            given = [shapes[number] for number in step.reads]
            options = dict(step.options)
            part = made[options["step"]] if step.kind == "again" else MAKERS[step.kind](given, options)
            for p in part.parameters():
                p.requires_grad_(not step.frozen and p.requires_grad)
            made.append(part)
            shapes.append(shape_behind(step.kind, given, options, part))
        self.parts = nn.ModuleList(made)
        read = {number for step in recipe.steps for number in step.reads}
        self.ends = [number for number in range(len(shapes)) if number not in read]
        width = sum(torch.Size(shapes[number]).numel() for number in self.ends)
        self.head = nn.Linear(width, recipe.outputs)

    def forward(self, x: Tensor) -> Tensor:
        """All steps in order, then the head over what nothing else has read."""
        values = [x]
        for step, part in zip(self.recipe.steps, self.parts, strict=True):
            values.append(part(*(values[number] for number in step.reads)))
        scores: Tensor = self.head(torch.cat([values[number].flatten(1) for number in self.ends], 1))
        return scores


class Plain(nn.Module):
    """A function without parameters."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *values: Tensor) -> Tensor:
        """The function's value."""
        return self.function(*values)


class Product(nn.Module):
    """``x @ W + p`` with parameters of its own."""

    def __init__(self, before: int, after: int, bias: bool) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.randn(before, after) / before**0.5)
        self.p = nn.Parameter(torch.randn(after)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """The product, with the offset if there is one."""
        value = x @ self.W
        return value if self.p is None else value + self.p


class OverChannels(nn.Module):
    """A linear layer over the channels of a signal, as on tokens: transposed, applied, transposed back."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.layer = nn.Linear(before, after)

    def forward(self, x: Tensor) -> Tensor:
        """The same layer at every position."""
        value: Tensor = self.layer(x.permute(0, 2, 1)).permute(0, 2, 1)
        return value


class Projected(nn.Module):
    """``x + layer(y)``: a skip whose width is learned."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The sum."""
        value: Tensor = x + self.layer(y)
        return value


def kernel(kind: str, rank: int) -> Callable[..., nn.Module]:
    """``nn.Conv1d`` for ``("Conv", 1)``."""
    found: Callable[..., nn.Module] = getattr(nn, f"{kind}{rank}d")
    return found


def _dense(given: list[Shape], o: dict[str, Any]) -> nn.Module:
    return nn.Linear(given[0][0], o["width"], bias=o["bias"])


def _conv(given: list[Shape], o: dict[str, Any]) -> nn.Module:
    return kernel("Conv", len(given[0]) - 1)(
        given[0][0], o["width"], o["size"], o["stride"], o["padding"], groups=o["groups"], bias=o["bias"]
    )


def _transposed(given: list[Shape], o: dict[str, Any]) -> nn.Module:
    return kernel("ConvTranspose", len(given[0]) - 1)(
        given[0][0], o["width"], o["size"], o["stride"], groups=o["groups"], bias=o["bias"]
    )


def _norm(given: list[Shape], o: dict[str, Any]) -> nn.Module:
    made: nn.Module = kernel("BatchNorm", max(len(given[0]) - 1, 1))(given[0][0], eps=EPS, affine=o["affine"])
    if o["affine"]:
        for p in made.parameters():
            nn.init.uniform_(p, 0.5, 1.5)
    return FrozenNorm(made) if o["statistics"] == "frozen" else made


class FrozenNorm(nn.Module):
    """A batch-norm that stays in evaluation mode, with statistics of its own."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.norm = norm
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2.0)

    def forward(self, x: Tensor) -> Tensor:
        """An affine map a channel."""
        return functional.batch_norm(
            x, self.norm.running_mean, self.norm.running_var, self.norm.weight, self.norm.bias, False
        )


def _other_norm(given: list[Shape], o: dict[str, Any]) -> nn.Module:
    """InstanceNorm, GroupNorm or LayerNorm."""
    made: nn.Module
    if o["of"] == "instance":
        made = kernel("InstanceNorm", len(given[0]) - 1)(given[0][0], eps=EPS, affine=True)
    elif o["of"] == "group":
        made = nn.GroupNorm(o["groups"], given[0][0], eps=EPS)
    else:
        made = nn.LayerNorm(given[0], eps=EPS)
    for p in made.parameters():
        nn.init.uniform_(p, 0.5, 1.5)
    return made


class Factor(nn.Module):
    """A learned factor a channel."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.rand(shape[0], *[1] * (len(shape) - 1)) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        """The product."""
        return x * self.factor


def _project(given: list[Shape], _o: dict[str, Any]) -> nn.Module:
    one, two = given
    rank = len(one) - 1
    return Projected(kernel("Conv", rank)(two[0], one[0], 1) if rank else nn.Linear(two[0], one[0]))


def _pool(given: list[Shape], o: dict[str, Any]) -> nn.Module:
    return kernel(o["of"], len(given[0]) - 1)(2, o["stride"])


_BENDS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky": lambda: nn.LeakyReLU(0.2),
    "prelu": nn.PReLU,
    "tanh": nn.Tanh,
    "relu6": nn.ReLU6,
    "hardtanh": nn.Hardtanh,
    "abs": lambda: Plain(torch.abs),
    "clamp": lambda: Plain(lambda x: x.clamp(min=0)),
    "split": lambda: Plain(lambda x: torch.cat(x.chunk(2, 1)[::-1], 1)),
    "every other": lambda: Plain(lambda x: x[:, ::2]),
    "sum over channels": lambda: Plain(lambda x: x.sum(1, keepdim=True)),
    "largest channel": lambda: Plain(lambda x: x.amax(1, keepdim=True)),
    "gated by itself": lambda: Plain(lambda x: x * torch.sigmoid(x)),
    "softmax": lambda: nn.Softmax(1),
}
_GRID: dict[str, Callable[[], nn.Module]] = {
    "nearest": lambda: nn.Upsample(scale_factor=2),
    "pad": lambda: Plain(lambda x: functional.pad(x, (1, 0))),
    "reflect": lambda: Plain(lambda x: functional.pad(x, (0, 1), mode="replicate")),
    "roll": lambda: Plain(lambda x: x.flip(-1)),
    "largest": lambda: Plain(lambda x: x.amax(-1, keepdim=True)),
}

MAKERS: dict[str, Callable[[list[Shape], dict[str, Any]], nn.Module]] = {
    "dense": _dense,
    "product": lambda given, o: Product(given[0][0], o["width"], o["bias"]),
    "over channels": lambda given, o: OverChannels(given[0][0], o["width"]),
    "conv": _conv,
    "transposed": _transposed,
    "pool": _pool,
    "norm": _norm,
    "bend": lambda given, o: _BENDS[o["of"]](),
    "grid": lambda given, o: _GRID[o["of"]](),
    "other norm": _other_norm,
    "factor": lambda given, o: Factor(given[0]),
    "add": lambda given, o: Plain(torch.add),
    "sub": lambda given, o: Plain(torch.sub),
    "maximum": lambda given, o: Plain(torch.maximum),
    "minimum": lambda given, o: Plain(torch.minimum),
    "gate": lambda given, o: Plain(lambda x, y: x * torch.sigmoid(y)),
    "times each other": lambda given, o: Plain(torch.mul),
    "project": _project,
    "cat": lambda given, o: Plain(lambda *values: torch.cat(values, 1)),
    "flatten": lambda given, o: nn.Flatten(),
    "mean": lambda given, o: Plain(lambda x: x.flatten(2).mean(-1)),
    "times": lambda given, o: Plain(lambda x: -0.5 * x),
}


def shape_behind(kind: str, given: list[Shape], options: dict[str, Any], part: nn.Module) -> Shape:
    """The shape of one sample of a step's value."""
    if kind == "cat":
        return (sum(shape[0] for shape in given), *given[0][1:])
    mode = part.training
    with torch.no_grad():
        value = part.eval()(*(torch.zeros(2, *shape) for shape in given))
    part.train(mode)
    return tuple(value.shape[1:])


# drawing -------------------------------------------------------------------------------------------------------------


def _layer(draw: Any, shape: Shape) -> tuple[str, dict[str, Any]]:
    rank = len(shape) - 1
    kinds = ["dense", "dense", "product"] if rank == 0 else ["conv", "conv", "transposed"]
    kind = draw(st.sampled_from([*kinds, "over channels"] if rank == 1 else kinds))
    options: dict[str, Any] = {"width": draw(st.integers(1, 4)), "bias": draw(st.booleans())}
    if kind in ("conv", "transposed"):
        common = [n for n in range(1, 5) if shape[0] % n == 0]
        options["groups"] = draw(st.sampled_from(common))
        options["width"] = options["groups"] * draw(st.integers(1, max(1, 4 // options["groups"])))
        options |= {"size": draw(st.integers(1, 2)), "stride": draw(st.integers(1, 2)), "padding": 0}
        if kind == "conv":
            options["padding"] = options["size"] - 1 if min(shape[1:]) == 1 else draw(st.integers(0, 1))
    return kind, options


def _norm_options(draw: Any) -> tuple[str, dict[str, Any]]:
    return "norm", {
        "affine": draw(st.sampled_from([True, True, False])),
        "statistics": draw(st.sampled_from(["batch", "batch", "frozen"])),
    }


def _bend_options(draw: Any) -> tuple[str, dict[str, Any]]:
    rare = [name for name in _BENDS if name != "relu"]
    return "bend", {"of": draw(st.sampled_from(["relu"] * (len(rare) // 2) + rare))}


def _meeting(draw: Any, shapes: list[Shape], number: int) -> tuple[str, tuple[int, ...]] | None:
    """An addition, a projected skip or a concatenation of this value with an earlier one of fitting shape."""
    shape = shapes[number]
    fits = [k for k, other in enumerate(shapes) if k != number and other[1:] == shape[1:]]
    if not fits:
        return None
    other = draw(st.sampled_from(fits))
    kinds = ["project", "cat"]
    if shapes[other] == shape:
        kinds += ["add", "add", "add", "sub", "maximum", "minimum", "gate", "times each other"]
    return draw(st.sampled_from(kinds)), (number, other)


def _change(draw: Any, shape: Shape) -> tuple[str, dict[str, Any]]:
    kinds = ["times", "factor"] + (["flatten", "mean"] if len(shape) > 1 else [])
    if len(shape) > 1 and min(shape[1:]) > 1:
        kinds += ["pool", "pool"]
    if len(shape) == 2 and shape[1] <= 4:
        kinds += ["grid", "grid"]
    kind = draw(st.sampled_from(kinds))
    options: dict[str, Any] = {}
    if kind == "pool":
        options = {"of": draw(st.sampled_from(["MaxPool", "AvgPool"])), "stride": draw(st.integers(1, 2))}
    if kind == "grid":
        options = {"of": draw(st.sampled_from(list(_GRID)))}
    return kind, options


def _norm_step(draw: Any, shape: Shape) -> tuple[str, dict[str, Any]]:
    """A batch-norm, or one of the norms of single samples where there is enough to take a spread of."""
    kinds = ["batch", "batch", "batch"]
    if len(shape) > 1 and torch.Size(shape[1:]).numel() > 2:
        kinds += ["instance", "group"]
    if shape[0] > 2:
        kinds += ["layer"]
    kind = draw(st.sampled_from(kinds))
    if kind == "batch":
        return _norm_options(draw)
    groups = [n for n in range(1, 5) if shape[0] % n == 0]
    return "other norm", {"of": kind, "groups": draw(st.sampled_from(groups))}


def _again(draw: Any, steps: list[Step], shapes: list[Shape], shape: Shape) -> int | None:
    """An earlier layer that takes this shape, to be used a second time."""
    fits = [
        k
        for k, step in enumerate(steps)
        if step.kind in ("dense", "conv", "product") and shapes[step.reads[0]][0] == shape[0]
        and len(shapes[step.reads[0]]) == len(shape)
        and (len(shape) == 1 or shapes[step.reads[0]] == shape)
    ]  # fmt: skip
    return draw(st.sampled_from(fits)) if fits else None


@st.composite
def recipes(draw: Any, longest: int = 9) -> Recipe:
    """A network of up to ``longest`` operations over an input of features, a signal or an image."""
    rank = draw(st.integers(0, 2))
    shape: Shape = (draw(st.integers(1, 3)), *[draw(st.integers(2, 4)) for _ in range(rank)])
    shapes: list[Shape] = [shape]
    steps: list[Step] = []
    for _ in range(draw(st.integers(3, longest))):
        number = draw(st.sampled_from([len(shapes) - 1] * 3 + list(range(len(shapes)))))
        what = draw(
            st.sampled_from(
                ["layer"] * 4 + ["bend"] * 4 + ["meeting"] * 3 + ["norm", "norm", "change", "change", "again"]
            )
        )
        step = _step(draw, what, steps, shapes, number)
        shapes.append(_shape_of(step, steps, shapes))
        steps.append(step)
    return Recipe(shape, tuple(steps), draw(st.integers(1, 2)), draw(st.integers(0, 10**6)))


def _step(draw: Any, what: str, steps: list[Step], shapes: list[Shape], number: int) -> Step:
    """A step of the kind wanted; a layer where the values do not allow that kind."""
    shape = shapes[number]
    if what == "meeting":
        met = _meeting(draw, shapes, number)
        if met is not None:
            return Step(met[0], met[1])
    if what == "again":
        earlier = _again(draw, steps, shapes, shape)
        if earlier is not None:
            return Step("again", (number,), (("step", earlier),))
    makers = {"change": _change, "norm": _norm_step}
    kind, options = _bend_options(draw) if what == "bend" else makers.get(what, _layer)(draw, shape)
    frozen = kind in ("dense", "conv") and draw(st.integers(0, 11)) == 0
    return Step(kind, (number,), tuple(options.items()), frozen)


def _shape_of(step: Step, steps: list[Step], shapes: list[Shape]) -> Shape:
    given = [shapes[number] for number in step.reads]
    used = steps[dict(step.options)["step"]] if step.kind == "again" else step
    options = dict(used.options)
    return shape_behind(step.kind, given, options, MAKERS[used.kind](given, options))
