"""Random networks keep theory's promises: whatever graph is drawn, trace, classes, charts, paths and steps agree."""

from __future__ import annotations

import copy

import numpy as np
import torch
from hypothesis import assume, event, given
from numpy.typing import NDArray
from torch import Tensor, nn

import eclab
from eclab.errors import EclabError
from eclab.facade import Network
from eclab.network.frozen import on_edges, weights_of
from eclab.network.network import TracedNetwork
from eclab.optim.reference import ReferenceECSGD
from eclab.paths.enumerate import Path, columns, path_matrix, whole_paths
from tests.drawn_graphs import Recipe, recipes
from tests.zoo import EPS

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.GroupNorm, nn.LayerNorm)
SMALL = 1000
"""Paths that are listed one by one; larger networks keep to what needs no list."""


@given(recipe=recipes())
def test_a_drawn_network_keeps_the_promises(recipe: Recipe) -> None:
    model, x = recipe.build(), recipe.data()
    assume(is_well_conditioned(model, x))
    net = eclab.trace(model, x)
    event("some unit scales freely" if net.num_units else "none does")
    scales_leave_the_function(net, x)
    scales_are_all_that_leave_it(net, x, recipe)
    flows_are_conserved(net, x)
    paths_agree_with_the_list(net, recipe)
    if net.num_units:
        coordinates_come_back(net)
        one_step_is_the_same_for_the_class(net, x, recipe)


def is_well_conditioned(model: nn.Module, x: Tensor) -> bool:
    """Whether no norm divides by a spread that is all rounding, as behind units that are off on every sample."""
    spreads: list[float] = []

    def look(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        value = inputs[0].detach()
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            value = value.transpose(0, 1).flatten(1)
        elif isinstance(module, nn.InstanceNorm1d | nn.InstanceNorm2d):
            value = value.flatten(0, 1).flatten(1)
        else:
            value = value.reshape(len(value) * getattr(module, "num_groups", 1), -1)
        spreads.append(float((value.std(1) / (value.abs().amax(1) + EPS)).min()))

    hooks = [module.register_forward_pre_hook(look) for module in model.modules() if isinstance(module, NORMS)]
    with torch.no_grad():
        y = model(x)
    for hook in hooks:
        hook.remove()
    return min(spreads, default=1.0) > 1e-3 and bool((y.abs() > 1e-3).any())


def outputs(net: Network, x: Tensor) -> Tensor:
    with torch.no_grad():
        value: Tensor = net.model(x)
    return value


def is_same(one: Tensor, two: Tensor, tolerance: float = 1e-9) -> bool:
    return float((one - two).abs().max()) <= tolerance * float(two.abs().max())


# classes -------------------------------------------------------------------------------------------------------------


def generators(net: TracedNetwork) -> NDArray[np.float64]:
    """For every free scale how it moves the logarithm of each weight: float64 ``[H, m]``."""
    number = columns(net)
    found = np.zeros((net.num_units + 1, len(number)))
    for weight in net.weights:
        for index in np.ndindex(weight.shape):
            tail, head = (int(net.scale_of[unit]) for unit in weight.ends(index))
            if not weight.shared:
                found[head, number[weight.name, index]] += 1
                found[tail, number[weight.name, index]] -= 1
    return found[1:]


def scales_leave_the_function(net: Network, x: Tensor) -> None:
    """All scales at once, and each one alone."""
    before, weights = outputs(net, x), {key: value.clone() for key, value in net.model.state_dict().items()}
    for sigma in (0.5, 2.0):
        eclab.random_rescale_(net, sigma, torch.Generator().manual_seed(1))
        assert is_same(outputs(net, x), before), f"all scales, σ = {sigma}"
        net.model.load_state_dict(weights)
    for layer in net.hidden_layers():
        for place, unit in enumerate(layer.units.tolist()):
            if int(net.scale_of[unit]):
                eclab.rescale_(net, layer.name, place, 3.0)
                assert is_same(outputs(net, x), before), f"unit {place} of '{layer.name}'"
                net.model.load_state_dict(weights)


def scales_are_all_that_leave_it(net: Network, x: Tensor, recipe: Recipe) -> None:
    """The rescalings of single weights that keep the function, found by numerics, are those of the free scales.

    ``f(w ⊙ exp(εt)) = f(w)`` at every ``w`` makes ``t`` a null vector of ``J(w) diag(w)`` at every ``w``. Weights that
    move no output anywhere (a bias before a batch-norm, a kernel tap that sees padding alone) are left out.
    """
    if net.num_weights > 150:
        return
    G = generators(net)
    rows, used = np.zeros((0, net.num_weights)), 0
    for attempt in range(100):
        more = log_jacobian(net, x, attempt)
        if more is None:
            continue
        rows, used = np.concatenate([rows, more]), used + 1
        seen = np.abs(rows).max(0) > 1e-9 * np.abs(rows).max(initial=1e-300)
        nullity = int(seen.sum()) - rank_of(rows[:, seen])
        known = rank_of(G[:, seen])
        assert np.abs(rows @ G.T).max(initial=0) < 1e-8 * np.abs(rows).max(initial=1), "a free scale moves the outputs"
        if nullity == known:
            return
    if used < 50:  # rounding rules at most weights, where a norm comes behind what saturates
        return
    assert nullity > known
    assert more_may_keep_it(recipe), f"{nullity} rescalings keep the function, {known} of them are known"


def more_may_keep_it(recipe: Recipe) -> bool:
    """Whether rescalings may be left that are none of units.

    A weight that is used twice, or frozen, pins whatever it touches, two factors of a product pin each other, and what
    is added and subtracted again ties though it cancels. A LayerNorm pins what enters, though it takes away the scale
    that all of that has in common. Where positions of a channel see different taps of a kernel, each could scale apart.
    The offset that pins what goes into frozen statistics is of no account where a later norm takes it away again.
    """
    options = [dict(step.options) for step in recipe.steps]
    apart = [o for step, o in zip(recipe.steps, options, strict=True) if step.kind == "transposed" and o["size"] > 1]
    padded = [o for o in options if o.get("padding")]
    kinds = {o["statistics"] for o in options if "statistics" in o}
    shifted = "frozen" in kinds and ("batch" in kinds or recipe.has("other norm"))
    layer_norm = any(o.get("of") in ("layer", "softmax") for o in options)  # a softmax of one channel is constant
    return (
        bool(apart or padded or shifted or layer_norm)
        or recipe.has("again", "times each other", "sub")
        or any(step.frozen for step in recipe.steps)
    )


def rank_of(matrix: NDArray[np.float64]) -> int:
    """The rank up to rounding; 0 of an empty matrix."""
    return int(np.linalg.matrix_rank(matrix, tol=1e-8 * np.abs(matrix).max())) if matrix.size else 0


def log_jacobian(net: Network, x: Tensor, attempt: int) -> NDArray[np.float64] | None:
    """``∂outputs/∂log w`` at random weights, float64 ``[samples · outputs, m]``; None where rounding would rule."""
    model = copy.deepcopy(net.model)
    generator = torch.Generator().manual_seed(attempt)
    gain = (1.0, 4.0, 10.0)[attempt % 3]  # ReLU6 is a ReLU to small values, and a constant to large ones
    edges = {
        weight.name: (gain * torch.randn(weight.shape, generator=generator, dtype=x.dtype)).requires_grad_()
        for weight in net.weights
    }
    weights = weights_of(net, edges)
    with torch.no_grad():
        for name, value in weights.items():
            model.get_parameter(name).copy_(value)
    x = torch.randn(max(len(x), net.num_weights // 8), *x.shape[1:], generator=generator, dtype=x.dtype)
    if not is_well_conditioned(model, x):
        return None
    y = torch.func.functional_call(model, weights, (x,)).reshape(-1)
    rows, leaves = torch.eye(len(y), dtype=y.dtype), list(edges.values())
    slopes = torch.autograd.grad(y, leaves, rows, is_grads_batched=True, allow_unused=True, materialize_grads=True)
    by_log = [(slope * leaf.detach()).reshape(len(y), -1) for slope, leaf in zip(slopes, leaves, strict=True)]
    return torch.cat(by_log, 1).numpy()


def flows_are_conserved(net: Network, x: Tensor) -> None:
    """``Σ_in w g = Σ_out w g`` at every free scale."""
    net.model.zero_grad()
    net.model(x).square().mean().backward()
    with on_edges(net):
        flows = [
            torch.zeros(p.shape) if p.grad is None else p.detach() * p.grad
            for p in {weight.name: weight.parameter for weight in net.weights}.values()
        ]
        flow = torch.cat([each.double().reshape(-1) for each in flows]).numpy()
    assert np.abs(generators(net) @ flow).max(initial=0) < 1e-9 * np.abs(flow).max(initial=1e-300)


# paths ---------------------------------------------------------------------------------------------------------------


def paths_agree_with_the_list(net: Network, recipe: Recipe) -> None:
    """Counts, largest paths, and the rank of all paths, where they are few enough to list."""
    if net.count_paths() > SMALL:
        return
    listed = whole_paths(net)
    assert net.count_paths() == len(listed)
    with on_edges(net):
        sizes = sorted((size_of(net, path) for path in listed), reverse=True)
    found = [abs(path.value) for path in net.top_paths(len(listed) + 1)]
    np.testing.assert_allclose(found, sizes, rtol=1e-11)
    try:
        matrix = path_matrix(net, SMALL)
    except EclabError:
        return
    assert feels_more_than_paths(recipe) or np.linalg.matrix_rank(matrix) == net.class_dim


def feels_more_than_paths(recipe: Recipe) -> bool:
    """A group-norm feels the ratio of its channels, no product of path values where they lead elsewhere too."""
    return any(("of", "group") in step.options for step in recipe.steps)


def size_of(net: Network, path: Path) -> float:
    return float(
        np.prod([abs(float(net.weight(e.parameter).parameter.detach()[e.index])) for e in path if e.parameter])
    )


# charts and steps ----------------------------------------------------------------------------------------------------


def coordinates_come_back(net: Network) -> None:
    for name in ("diagonal", "strongest"):
        chart = net.chart(name)
        before = [p.detach().clone() for p in net.model.parameters()]
        chart.allocate(chart.coordinates())
        for p, q in zip(net.model.parameters(), before, strict=True):
            torch.testing.assert_close(p.detach(), q, rtol=1e-11, atol=0)


def one_step_is_the_same_for_the_class(net: Network, x: Tensor, recipe: Recipe) -> None:
    """From the paper's start, two members of a class and the twin take one step to one function."""
    eclab.start_skeleton_(net)
    with torch.no_grad():
        for weight in net.weights:
            if weight.parameter.requires_grad:
                weight.parameter[weight.parameter == 0] = 0.1
    if not is_well_conditioned(net.model, x):
        return
    nets = [net, copy.deepcopy(net), copy.deepcopy(net)]
    eclab.random_rescale_(nets[1], 1.0, torch.Generator().manual_seed(3))
    before = outputs(net, x)
    for each in nets:
        each.model.zero_grad()
        each.model(x).square().mean().backward()
    rate = 0.01 / max(float(before.square().mean()), 1.0)
    eclab.ECSGD(net, lr=rate).step()
    eclab.ECSGD(nets[1], lr=rate).step()
    if not is_well_conditioned(net.model, x):
        return
    after = outputs(net, x)
    assert is_same(outputs(nets[1], x), after), "another member of the class goes elsewhere"
    if net.count_paths() <= SMALL and not feels_more_than_paths(recipe):
        ReferenceECSGD(nets[2], lr=rate).step()
        assert is_same(outputs(nets[2], x), after), "the twin goes elsewhere"
