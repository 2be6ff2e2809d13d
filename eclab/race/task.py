"""What a race is about: the data on the device in the shape the model takes, and the network every lane starts from."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from eclab.classes import random_rescale_, start_skeleton_
from eclab.errors import DataError, ScaleError, SettingError
from eclab.facade import trace
from eclab.race.batches import stream

if TYPE_CHECKING:
    from eclab.data import Dataset
    from eclab.facade import Network
    from eclab.network.spec import NetworkSpec


@dataclass(frozen=True)
class Task:
    """Training and test data on the race's device.

    Args:
        name: the data set's.
        x, y: training inputs [N, *input_shape] and classes, int64 [N].
        x_test, y_test: the same for the test data.
        num_classes: number of classes.
        fingerprint: checksum of all of it as it was given, to know the data again.
        recipe: how `eclab.data.load` gives it again; empty for own data.
    """

    name: str
    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor
    num_classes: int
    fingerprint: str
    recipe: Mapping[str, Any]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample as the model takes it."""
        return tuple(self.x.shape[1:])

    @property
    def is_2d(self) -> bool:
        """Whether a sample is a point in the plane."""
        return self.input_shape == (2,)


def find_data(data: Any) -> Dataset:
    """A data set from its name, from own arrays, or as it is.

    Raises:
        DataError: there is none of that name, or the arrays do not fit together.
    """
    import eclab.data

    return eclab.data.as_dataset(data)


def fingerprint(data: Dataset) -> str:
    """A checksum of a data set's arrays."""
    total = 0
    for part in (data.x_train, data.y_train, data.x_test, data.y_test):
        total = zlib.crc32(part.detach().cpu().contiguous().numpy().tobytes(), total)
    return f"{total:08x}"


def build_model(model: object, seed: int, dtype: torch.dtype, device: torch.device) -> tuple[nn.Module, str | None]:
    """A copy of the model that the race owns, and the specification's JSON where it came from one.

    Args:
        model: an nn.Module (it is copied and never touched), a NetworkSpec, or its text such as "784-64-64-10".
        seed: of the initial weights of a specification.

    Raises:
        SettingError: neither of these.
        SpecError: a text that is no network.
    """
    from eclab.network.spec import NetworkSpec

    if isinstance(model, nn.Module):
        return copy.deepcopy(model).to(device=device, dtype=dtype), None
    spec = NetworkSpec.parse(model) if isinstance(model, str) else model
    if not isinstance(spec, NetworkSpec):
        raise SettingError(
            f"the model is a {type(model).__name__}",
            allowed='a torch.nn.Module, an eclab.NetworkSpec, or a text such as "784-64-64-10"',
        )
    return spec.build(seed=seed, dtype=dtype).to(device), spec.to_json()


def spec_from(json: str) -> NetworkSpec:
    """The specification a checkpoint or a run names."""
    from eclab.network.spec import NetworkSpec

    return NetworkSpec.from_json(json)


def make_task(data: Dataset, model: nn.Module, dtype: torch.dtype, device: torch.device) -> Task:
    """The data in the shape the model takes: as they are, or flat.

    Raises:
        DataError: there are no samples.
        SettingError: the model takes neither shape, or has not one output for each class.
    """
    if len(data.x_train) == 0 or len(data.x_test) == 0:
        raise DataError(
            f"{data.name} has {len(data.x_train)} training and {len(data.x_test)} test samples",
            allowed="at least one of each",
        )
    shape = _fitting_shape(data, model, dtype, device)

    def inputs(x: Tensor) -> Tensor:
        return x.reshape(len(x), *shape).to(device=device, dtype=dtype)

    return Task(
        data.name,
        inputs(data.x_train),
        data.y_train.to(device),
        inputs(data.x_test),
        data.y_test.to(device),
        data.num_classes,
        fingerprint(data),
        dict(data.recipe),
    )


def _fitting_shape(data: Dataset, model: nn.Module, dtype: torch.dtype, device: torch.device) -> tuple[int, ...]:
    shapes = [tuple(data.x_train.shape[1:])]
    flat = (int(data.x_train[0].numel()),)
    if flat not in shapes:
        shapes.append(flat)
    found: list[str] = []
    for shape in shapes:
        sample = data.x_train[:2].reshape(-1, *shape).to(device=device, dtype=dtype)
        outputs = _outputs(model, sample)
        if isinstance(outputs, str):
            found.append(f"for inputs of {_size(shape)}: {outputs}")
        elif outputs != (len(sample), data.num_classes):
            found.append(f"for inputs of {_size(shape)} its outputs have the shape {_size(outputs[1:])}")
        else:
            return shape
    raise SettingError(
        f"the model does not fit {data.name} ({'; '.join(found)})",
        allowed=f"inputs of {' or '.join(_size(shape) for shape in shapes)} and {data.num_classes} outputs",
        fix="change the model's first or last layer, or choose other data",
    )


def _outputs(model: nn.Module, sample: Tensor) -> tuple[int, ...] | str:
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            outputs = model(sample)
    except Exception as error:  # noqa: BLE001 - whatever a model of one's own raises, it does not take this shape
        return (str(error).strip().splitlines() or [type(error).__name__])[0]
    finally:
        model.train(training)
    return tuple(outputs.shape) if isinstance(outputs, Tensor) else f"it gives a {type(outputs).__name__}"


def _size(shape: Sequence[int]) -> str:
    return "×".join(str(length) for length in shape) or "nothing"


def start_network(model: nn.Module, task: Task, start: str, unbalance: float, seed: int) -> Network:
    """Trace the model and bring it to the start that all lanes share.

    Args:
        model: the race's own copy; its weights are changed.
        start: "skeleton" sets the skeleton's weights to 1 (the paper's start), "model" keeps the weights.
        unbalance: sigma of a log-normal random rescaling of all free units; 0 for none.

    Raises:
        TraceError: the model cannot be read.
        SettingError: a rescaling is asked of a model without a free unit, or a parameter gets no gradient.
    """
    model.train()
    net = trace(model, task.x[:2])
    _check_gradients(net, task)
    if start == "skeleton" and net.num_units:
        start_skeleton_(net)
    if unbalance:
        need_free_units(net)
        generator = torch.Generator().manual_seed(stream(seed, "unbalance"))
        random_scales_(net, unbalance, generator)
    return net


def random_scales_(net: Network, sigma: float, generator: torch.Generator) -> dict[str, Tensor]:
    """`random_rescale_`, with an error that speaks of the unbalance."""
    try:
        return random_rescale_(net, sigma=sigma, generator=generator)
    except ScaleError as error:
        raise ScaleError(
            f"an unbalance of {sigma:g} takes weights beyond {next(net.model.parameters()).dtype}",
            allowed="a standard deviation of log c that leaves every weight finite and non-zero",
            fix="choose a smaller one: 2.0 already spreads the units over factors of thousands",
        ) from error


def need_free_units(net: Network) -> None:
    """A SettingError unless there is a unit to rescale."""
    if net.num_units == 0:
        raise SettingError(
            "the model has no free unit, so it cannot be unbalanced",
            allowed="a model with at least one hidden unit that can be rescaled",
            fix="add a hidden layer with ReLU, or leave the unbalance at 0",
        )


def _check_gradients(net: Network, task: Task) -> None:
    model = copy.deepcopy(net.model)
    functional.cross_entropy(model(task.x[:2]), task.y[:2]).backward()  # type: ignore[no-untyped-call]
    edges = {weight.name for weight in net.weights}
    missing = [name for name, parameter in model.named_parameters() if name in edges and parameter.grad is None]
    if missing:
        raise SettingError(
            f"the loss gives no gradient for {', '.join(missing)}",
            allowed="every weight of the network takes part in training",
            fix="set requires_grad to True, and let the model's output depend on it",
        )


def is_random(model: nn.Module, x: Tensor) -> bool:
    """Whether a training forward draws random numbers, as dropout does."""
    with torch.random.fork_rng(devices=_cuda(x)), torch.no_grad():
        before = _random_states(x)
        copy.deepcopy(model).train()(x[:2])
        return any(not torch.equal(old, new) for old, new in zip(before, _random_states(x), strict=True))


def least_batch(model: nn.Module, task: Task) -> int:
    """How many samples a training batch needs: 2 where the model normalizes over the batch, else 1."""
    tried = copy.deepcopy(model).train()
    try:
        with torch.random.fork_rng(devices=_cuda(task.x)), torch.no_grad():
            tried(task.x[:1])
    except ValueError:
        return 2
    return 1


class SharedNoise:
    """The same dropout masks in every lane: a step's random numbers depend on the seed and the step alone.

    Args:
        seed: of the race.
        step: number of the step.
        x: a batch, for its device.
    """

    def __init__(self, seed: int, step: int, x: Tensor) -> None:
        self._fork: Any = torch.random.fork_rng(devices=_cuda(x))
        self._number = stream(seed, f"noise {step}")

    def __enter__(self) -> None:
        self._fork.__enter__()
        torch.manual_seed(self._number)

    def __exit__(self, *error: object) -> None:
        self._fork.__exit__(*error)


def _cuda(x: Tensor) -> list[torch.device]:
    return [x.device] if x.device.type == "cuda" else []


def _random_states(x: Tensor) -> list[Tensor]:
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in _cuda(x))]
