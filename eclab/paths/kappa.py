"""How much path value runs through each weight: the diagonal of the path kernel, and what Path-SGD divides by."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from eclab.errors import ChartError, NonFiniteError
from eclab.network.frozen import works_on_edges
from eclab.network.graph import Op, Ref
from eclab.network.network import TracedNetwork
from eclab.network.rules import BY_NAME
from eclab.network.run import plain_call, run
from eclab.network.tracer import SHAPE_ONLY
from eclab.paths.scaled import named_arguments
from eclab.paths.squares import PathsEndError, Squares, handler_of


@works_on_edges
def kappa(net: TracedNetwork) -> dict[str, Tensor]:
    r"""``κ_e``, the sum over the paths through ``e`` of the product of their other weights, squared.

    .. math::
        \kappa_e = \sum_{p \ni e}\ \prod_{e' \in p,\ e' \ne e} w_{e'}^2
                 = \frac{\partial}{\partial (w_e^2)} \sum_p v_p^2

    That is the diagonal entry of the path kernel ``∂v/∂wᵀ ∂v/∂w``. It comes from one forward and one backward pass of
    the unrolled network with squared weights on an input of ones: a kernel tap has the sum over the positions it is
    used at, a max-pool is a sum over its window, an average pool one over ``n`` positions with weights ``1/n``,
    activations and dropout are the identity. Batch-norm with frozen statistics has the edges ``γ/σ`` and
    ``β − γ μ/σ`` of each channel; with training statistics it divides by ``Σ_p v_p²`` over the paths into the channel
    (their mean over positions), which takes the place of the variance and is held fixed. Behind what is not positively
    homogeneous paths start anew. Under rescaling ``κ_e ← κ_e (c_tail / c_head)²``.

    Args:
        net: the network; its weights are only read.

    Returns:
        By parameter name a non-negative float64 tensor of the parameter's shape, for every weight between units.

    Raises:
        ChartError: the network holds a positively homogeneous operation whose paths are not known; all are named.
        NonFiniteError: a weight is NaN or infinite, or the products leave the range of float64.

    Example:
        >>> import torch, eclab
        >>> from eclab.paths.kappa import kappa
        >>> from torch.nn import Linear, ReLU, Sequential
        >>> model = Sequential(Linear(1, 2, bias=False), ReLU(), Linear(2, 1, bias=False))
        >>> model[0].weight.data = torch.tensor([[2.0], [3.0]])
        >>> model[2].weight.data = torch.tensor([[5.0, -4.0]])
        >>> {name: value.flatten().tolist() for name, value in kappa(eclab.trace(model, torch.ones(1, 1))).items()}
        {'0.weight': [25.0, 16.0], '2.weight': [4.0, 9.0]}

    Source: B. Neyshabur, R. Salakhutdinov and N. Srebro, Path-SGD (NIPS 2015), section 4; convolutions: the same
    network unrolled; batch-norm: B. Neyshabur et al., Data-dependent path normalization (ICLR 2016), in spirit;
    A. Lebeurrier et al., Path-conditioned training (arXiv:2602.19799), the path kernel's diagonal.
    """
    names = list(dict.fromkeys(weight.name for weight in net.weights))
    like = torch.zeros((), dtype=torch.float64, device=net.weights[0].parameter.device)
    with torch.enable_grad():
        weights = {name: net.weight(name).parameter.detach().to(like).requires_grad_() for name in names}
        total = _all_paths(net, weights, like)
        found = torch.autograd.grad(total, list(weights.values()), allow_unused=True, materialize_grads=True)
    by_name = dict(zip(names, found, strict=True))
    for name, value in by_name.items():
        if not bool(value.isfinite().all()):
            raise _not_finite(net, name)
    return by_name


def _not_finite(net: TracedNetwork, name: str) -> NonFiniteError:
    for weight in net.weights:
        value: Tensor = weight.parameter
        if not bool(value.isfinite().all()):
            return NonFiniteError(
                f"'{weight.name}' holds {float(value[~value.isfinite()][0])}", allowed="finite weights"
            )
    return NonFiniteError(
        f"the path values through '{name}' leave the range of float64",
        fix="rescale the network first: eclab.balance_(net)",
    )


def _all_paths(net: TracedNetwork, weights: dict[str, Tensor], like: Tensor) -> Tensor:
    """``Σ_p v_p²``, differentiable with respect to the squares."""
    carried = _carried(net)
    ends: list[Squares] = []

    def call(op: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if id(op) not in carried:
            return plain_call(op, tuple(arg.sums if isinstance(arg, Squares) else arg for arg in args), kwargs)
        handler = handler_of(op)
        try:
            if handler is None:
                raise PathsEndError
            return _wrapped(handler(op, _on_edges(net, op, _named(op, args, kwargs))))
        except PathsEndError:
            ends.extend(arg for arg in args if isinstance(arg, Squares))
            anew = [like.new_ones(shape) for shape in op.parts or [op.shape]]
            return _wrapped(anew if len(anew) > 1 else anew[0])

    ones = tuple(torch.ones(op.shape) for op in net.operations if op.kind == "input")
    ends += [value for value in run(net, ones, weights, like=like, call=call)[-1] if isinstance(value, Squares)]
    # Every sample of the traced batch has all the paths.
    return torch.stack([end.sums.sum() for end in ends]).sum() / len(ones[0])


def _named(op: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    if op.name == "operator.getitem":
        return {"self": args[0], "place": args[1]}
    return named_arguments(op, args, kwargs)


def _on_edges(net: TracedNetwork, op: Op, named: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a frozen batch-norm whose ``γ`` and ``β`` are those of its edges, without its statistics."""
    if op.name not in ("aten.batch_norm", "aten.instance_norm") or op.args[5]:
        return named
    gamma = net.operations[op.args[1].index].target if isinstance(op.args[1], Ref) else ""
    if gamma not in {norm.gamma for norm in net.frozen_norms}:
        return named
    mean, variance = torch.zeros_like(named["running_mean"]), torch.ones_like(named["running_var"])
    return named | {"running_mean": mean, "running_var": variance, "eps": 0.0}


def _wrapped(value: Any) -> Any:
    if isinstance(value, list):
        return [_wrapped(item) for item in value]
    return Squares(value) if isinstance(value, Tensor) else value


def _carried(net: TracedNetwork) -> set[int]:
    """The operations that paths run through, by identity; a :class:`ChartError` for those they cannot."""
    numbers = {number for number, op in enumerate(net.operations) if op.kind == "input"}
    carried: set[int] = set()
    problems: list[str] = []
    for number, op in enumerate(net.operations):
        if op.kind != "call" or op.name in SHAPE_ONLY or not any(ref in numbers for ref in op.refs()):
            continue
        if handler_of(op) is None and op.name in BY_NAME and BY_NAME[op.name].homogeneous:
            problems.append(op.name.removeprefix("aten.") + (f" at '{op.module}'" if op.module else ""))
        numbers.add(number)
        carried.add(id(op))
    if problems:
        raise ChartError(
            f"the paths through {', '.join(dict.fromkeys(problems))} are not known",
            allowed="linear and convolution layers, ReLU and its kin, pooling, batch-norm, additions and reshapes",
        )
    return carried
