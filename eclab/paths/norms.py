"""Path norms of the unrolled network, in log space."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from eclab.errors import ChartError, NonFiniteError, SettingError
from eclab.network.graph import Op
from eclab.network.network import TracedNetwork
from eclab.network.rule import at
from eclab.network.run import plain_call, run
from eclab.network.tracer import SHAPE_ONLY
from eclab.paths.scaled import Scaled
from eclab.paths.unrolled import WEIGHTED, Handler, handler_of


@torch.no_grad()
def path_norm(net: TracedNetwork, p: float = 1.0, log: bool = True) -> float:
    """The p-norm of all path values of the unrolled network.

    ``‖v‖_p = (Σ_paths |v_p|^p)^{1/p}``, by one forward pass of ``|w|^p`` on ones.

    Unrolled means that every position of a feature map counts, as the literature has it. A max-pool is a sum over its
    window, an average pool one over ``n`` positions with weights ``1/n``; activations and dropout are the identity.
    The norm is the same for every member of a class. Every channel has a scale of its own, a float64 logarithm, so that
    neither depth nor a large ``p`` leaves the range. What stands beside it is float64; but float32 with ``p ≤ 2`` for
    float32 networks of more than a million weights, where that is a relative error of about 1e-6 and saves time: the
    norm then costs two to three forward passes of one sample.

    Args:
        net: the traced network; its weights are only read.
        p: a finite number > 0.
        log: whether to return the natural logarithm of the norm.

    Returns:
        ``log ‖v‖_p``; or the norm itself, which is infinite where it is more than float64 holds.

    Raises:
        SettingError: ``p`` is out of range.
        ChartError: the network holds operations through which paths have no value; all are named.
        NonFiniteError: a weight is NaN or infinite.

    Example:
        >>> import torch, eclab
        >>> from torch.nn import Linear, ReLU, Sequential
        >>> model = Sequential(Linear(1, 2, bias=False), ReLU(), Linear(2, 1, bias=False))
        >>> model[0].weight.data = torch.tensor([[2.0], [3.0]])
        >>> model[2].weight.data = torch.tensor([[5.0, -4.0]])
        >>> round(eclab.trace(model, torch.ones(1, 1)).path_norm(p=1, log=False), 9)  # 2·5 + 3·4
        22.0

    Source: B. Neyshabur, R. Tomioka and N. Srebro, Norm-based capacity control in neural networks (COLT 2015); pooling
    and biases: A. Gonon et al., A path-norm toolkit for modern networks (ICLR 2024); theory §1.
    """
    exponent = _exponent(p)
    carried = _carried(net)
    _refuse_non_finite(net)

    def call(op: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        handler = carried.get(id(op))
        if handler is not None:
            return handler(op, args, kwargs, exponent)
        return plain_call(op, tuple(arg.mantissa if isinstance(arg, Scaled) else arg for arg in args), kwargs)

    like = _precision(net)
    ones = tuple(torch.ones((1, *op.shape[1:])) for op in net.operations if op.kind == "input")
    values = run(net, ones, like=like, call=call)
    ends = {ref: values[ref] for ref in net.operations[-1].refs()}
    logs = [end.logs()[0].reshape(-1) for end in ends.values() if isinstance(end, Scaled)]
    norm = torch.cat(logs).logsumexp(0) / exponent
    return float(norm if log else norm.exp())


_SMALL = 1 << 20
"""Up to so many weights float64 costs nothing that one would notice."""

_NORMS = frozenset({"aten.batch_norm", "aten.instance_norm"})


def _exponent(p: float) -> float:
    try:
        exponent = 0.0 if isinstance(p, str | bool) else float(p)
    except (TypeError, ValueError):
        exponent = 0.0
    if not 0 < exponent < float("inf"):
        raise SettingError(f"p is {p!r}", allowed="a finite number > 0", fix="use p=1 or p=2")
    return exponent


def _precision(net: TracedNetwork) -> Tensor:
    """float64; for large networks the weights' dtype, and at least float32."""
    weights = [weight.parameter for weight in net.weights]
    double = net.num_weights <= _SMALL or any(p.dtype == torch.float64 for p in weights)
    return torch.zeros((), dtype=torch.float64 if double else torch.float32, device=weights[0].device)


def _carried(net: TracedNetwork) -> dict[int, Handler]:
    """What paths run through, by the operation's identity; a :class:`ChartError` for those they cannot."""
    numbers = {number for number, op in enumerate(net.operations) if op.kind == "input"}
    carried: dict[int, Handler] = {}
    problems: list[str] = []
    for number, op in enumerate(net.operations):
        reached = [ref in numbers for ref in op.refs()]
        if op.kind != "call" or not op.parts or not any(reached) or op.name in SHAPE_ONLY:
            continue
        handler = handler_of(op)
        problem = _problem(op, reached) if handler is not None else f"{op.name.removeprefix('aten.')}{at(op)}"
        if problem or handler is None:
            problems.append(problem)
        else:
            carried[id(op)] = handler
        numbers.add(number)
    if problems or not carried:
        raise ChartError(
            f"paths have no value through {'; '.join(dict.fromkeys(problems)) or 'a model without operations'}",
            allowed="linear and convolution layers, ReLU and its kin, pooling, dropout, flatten and reshapes",
            fix="take the norm of the part of the model before it",
        )
    return carried


def _problem(op: Op, reached: list[bool]) -> str:
    """Why paths have no value through this form of an operation that they otherwise run through; empty if they do."""
    name = op.name.removeprefix("aten.")
    if op.name in _NORMS and op.args[5]:
        fix = " (use model.eval() before tracing)" if op.name == "aten.batch_norm" else ""
        return f"{name}{at(op)} with training statistics{fix}"
    if op.name in WEIGHTED and reached != [True] + [False] * (len(reached) - 1):
        return f"{name}{at(op)} with a weight computed from the input"
    if op.name in ("aten.mul", "aten.div") and sum(reached) > 1:
        return f"{name}{at(op)} of two values that both come from the input"
    return ""


def _refuse_non_finite(net: TracedNetwork) -> None:
    for weight in net.weights:
        value: Tensor = weight.parameter
        if not bool(value.isfinite().all()):
            raise NonFiniteError(
                f"'{weight.name}' holds {float(value[~value.isfinite()][0])}",
                allowed="finite weights",
                fix="start again from weights that are finite",
            )
