"""What is measured on a lane: one training step, accuracy, gauge, and where a value stopped being finite."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from eclab.errors import EclabError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eclab.facade import Network
    from eclab.network.network import Weight
    from eclab.race.lanes import Lane

EVALUATION_CHUNK = 256


@dataclass(frozen=True, slots=True)
class Step:
    """What one training step of one lane gave; `trouble` says what was not finite, else it is empty."""

    loss: float
    correct: float
    grad_norm: float
    ms_forward_backward: float
    ms_step: float
    trouble: str = ""


def train_step(lane: Lane, x: Tensor, y: Tensor) -> Step:
    """One forward, backward and optimizer step. If anything is not finite the weights stay as they were.

    Args:
        lane: the lane; its model is in training mode.
        x: the batch's inputs, [B, *input_shape].
        y: the batch's classes, int64 [B].
    """
    started = _now(x.device)
    lane.optimizer.zero_grad()
    outputs = lane.model(x)
    loss = functional.cross_entropy(outputs, y)
    loss.backward()  # type: ignore[no-untyped-call]
    passed = _now(x.device)
    value = float(loss.detach())
    correct = float((outputs.detach().argmax(1) == y).sum()) / len(y)
    milliseconds = 1e3 * (passed - started)
    norm = gradient_norm(lane.model.parameters()) if math.isfinite(value) else math.nan
    if not math.isfinite(value):
        return Step(value, correct, norm, milliseconds, 0.0, where_not_finite(lane.model, x))
    if not math.isfinite(norm):
        return Step(value, correct, norm, milliseconds, 0.0, _bad_gradient(lane.model))
    named = list(lane.model.named_parameters())
    stepped = _now(x.device)
    trouble = _guarded_step(lane, norm, named)
    return Step(value, correct, norm, milliseconds, 1e3 * (_now(x.device) - stepped), trouble)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _guarded_step(lane: Lane, norm: float, named: list[tuple[str, nn.Parameter]]) -> str:
    """The optimizer's step; where it comes near overflow, with a copy of the weights to go back to."""
    limit = torch.finfo(named[0][1].dtype).max
    risky = named if lane.lr * norm > limit**0.75 else []
    before = [parameter.detach().clone() for _, parameter in risky]
    try:
        lane.optimizer.step()
    except EclabError as error:
        return error.seen
    for name, parameter in risky:
        if not bool(torch.isfinite(parameter).all()):
            with torch.no_grad():
                for (_, changed), old in zip(risky, before, strict=True):
                    changed.copy_(old)
            return f"the step makes the weight {name} overflow"
    return ""


def gradient_norm(parameters: Iterable[nn.Parameter]) -> float:
    """Euclidean length of all gradients together, in double precision where single precision overflows.

    Example:
        >>> w = nn.Parameter(torch.zeros(2)); w.grad = torch.tensor([3e30, 4e30]); f"{gradient_norm([w]):.0e}"
        '5e+30'
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return 0.0
    norm = float(nn.utils.get_total_norm(gradients))
    if math.isfinite(norm):
        return norm
    return float(nn.utils.get_total_norm([gradient.double() for gradient in gradients]))


def _bad_gradient(model: nn.Module) -> str:
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all()):
            return f"the gradient of {name} is not finite"
    return "the gradient is not finite"


def where_not_finite(model: nn.Module, x: Tensor) -> str:
    """The first weight, or else the first layer's output, that is not finite for this batch, in words.

    Args:
        model: the model.
        x: the batch's inputs.
    """
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            return f"the weight {name} is not finite"
    found: list[str] = []
    last: list[str] = []

    def look(name: str, module: nn.Module) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            text = f'layer "{name}" ({type(module).__name__})'
            last[:] = [text]
            if isinstance(output, Tensor) and not found and not bool(torch.isfinite(output).all()):
                found.append(text)

        return hook

    leaves = [(name, module) for name, module in model.named_modules() if not any(module.children())]
    handles = [module.register_forward_hook(look(name, module)) for name, module in leaves]
    try:
        with torch.no_grad():
            model(x)
    finally:
        for handle in handles:
            handle.remove()
    if found:
        return f"the output of {found[0]} is not finite"
    return f"the loss overflows behind {last[0] if last else 'the output layer'}"


def accuracy(
    model: nn.Module, x: Tensor, y: Tensor, stop: Callable[[], bool] | None = None, chunk: int = EVALUATION_CHUNK
) -> float | None:
    """Share of samples classified correctly, in evaluation mode and in chunks.

    Args:
        model: the model; its mode is as before afterwards.
        x: inputs [N, *input_shape].
        y: classes, int64 [N].
        stop: asked before every chunk; True gives up.
        chunk: samples at once; with the batch size, a chunk takes less time than a training step.

    Returns:
        A share from 0 to 1, or None when given up.
    """
    correct = torch.zeros((), dtype=torch.int64, device=y.device)
    with evaluating(model):
        for start in range(0, len(x), chunk):
            if stop is not None and stop():
                return None
            outputs = model(x[start : start + chunk])
            correct += (outputs.argmax(1) == y[start : start + chunk]).sum()
    return float(correct) / len(x)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; the mode is as before afterwards."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


class Gauge:
    """The gauge of a network: per free unit |w_in|^2 - |w_out|^2, which gradient flow in weight space conserves.

    A weight between two free units counts once with + and once with -, so in the sum over all units only the weights
    at the rim are left (those with exactly one free end), and only these are read.

    Args:
        net: the network.

    Example:
        >>> import eclab
        >>> net = eclab.trace(nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1)), torch.zeros(1, 1))
        >>> with torch.no_grad():
        ...     for weight, value in zip(net.weights, (3.0, 0.0, 2.0, 5.0), strict=True):
        ...         _ = weight.parameter.fill_(value)
        >>> Gauge(net).total()
        5.0
    """

    def __init__(self, net: Network) -> None:
        self._net, self._free = net, net.scale_of.cpu() > 0
        self._whole: list[tuple[Weight, float]] = []
        self._mixed: list[tuple[Weight, Tensor]] = []
        for weight in {weight.name: weight for weight in net.weights}.values():
            signs = self._free[weight.head.cpu()].float() - self._free[weight.tail.cpu()].float()
            if bool((signs == signs.reshape(-1)[0]).all()):
                self._whole.append((weight, float(signs.reshape(-1)[0])))
            else:
                self._mixed.append((weight, signs.to(weight.parameter.device)))

    def total(self) -> float:
        """Sum over the free units of |w_in|^2 - |w_out|^2, biases included."""
        parts: list[Tensor] = []
        with torch.no_grad():
            for weight, sign in self._whole:
                if sign:
                    flat = weight.parameter.reshape(-1)
                    parts.append(sign * torch.dot(flat, flat))
            parts += [(weight.parameter.square() * signs).sum() for weight, signs in self._mixed]
        return float(torch.stack(parts).sum()) if parts else 0.0

    def per_unit(self) -> dict[str, Tensor]:
        """|w_in|^2 - |w_out|^2 of every unit, by layer: float64 [width]; NaN for units that cannot scale."""
        total = torch.zeros(self._net.num_nodes, dtype=torch.float64)
        with torch.no_grad():
            for weight in self._net.weights:
                squares = weight.parameter.detach().double().cpu().square()
                total += weight.sum_into_heads(squares, self._net.num_nodes)
                total -= weight.sum_into_tails(squares, self._net.num_nodes)
        values = total.masked_fill(~self._free, math.nan)
        return {layer.name: values[layer.units.cpu()] for layer in self._net.layers}
