"""EC with any base optimizer: the base's own step, on coordinates; the same for a whole class, also after rescaling."""

from __future__ import annotations

import copy
import io
import math
import pickle
from typing import Any

import pytest
import schedulefree
import torch
from torch import Tensor, nn

import eclab
from eclab import ChartError, CheckpointError, NonFiniteError, SettingError
from eclab.classes.balance import balanced_scales
from eclab.facade import Network
from tests.test_ecsgd import MODELS, backward, pair, wide_narrow_wide
from tests.zoo import ZOO, dense, joined

BASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "SGD": (torch.optim.SGD, {"lr": 0.05}),
    "Nesterov, decay": (torch.optim.SGD, {"lr": 0.02, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    "Adam": (torch.optim.Adam, {"lr": 0.01}),
    "Adam, decay": (torch.optim.Adam, {"lr": 0.01, "weight_decay": 0.01, "amsgrad": True}),
    "AdamW": (torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.05}),
    "RMSprop": (torch.optim.RMSprop, {"lr": 0.003, "momentum": 0.5}),
    "Adagrad": (torch.optim.Adagrad, {"lr": 0.01}),
    "NAdam": (torch.optim.NAdam, {"lr": 0.005}),
    "schedule-free SGD": (schedulefree.SGDScheduleFree, {"lr": 0.02}),
    "schedule-free AdamW": (schedulefree.AdamWScheduleFree, {"lr": 0.01}),
}
SGD_SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {"lr": 0.05},
    "momentum": {"lr": 0.02, "momentum": 0.9},
    "decay": {"lr": 0.05, "weight_decay": 0.1},
    "Nesterov, decay": {"lr": 0.02, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    "maximize": {"lr": 1e-4, "momentum": 0.5, "maximize": True},
}
bases = pytest.mark.parametrize("base", BASES)


def train(net: Network, optimizer: torch.optim.Optimizer, x: Tensor, steps: int = 1) -> None:
    for _ in range(steps):
        backward(net, x)
        optimizer.step()


def made(net: Network, base: str, **more: Any) -> eclab.EC:
    kind, options = BASES[base]
    optimizer = eclab.EC(net, kind, **(options | more))
    optimizer.train()
    return optimizer


def gap(one: Network, two: Network, x: Tensor) -> float:
    p, q = joined(one.model(x)).detach(), joined(two.model(x)).detach()
    return float((p - q).abs().max() / p.abs().max())


def weights(net: Network) -> list[Tensor]:
    return [p.detach().clone() for p in net.model.parameters()]


def identical(one: list[Tensor], two: list[Tensor]) -> bool:
    return all(torch.equal(p, q) for p, q in zip(one, two, strict=True))


# one class, one trajectory ------------------------------------------------------------------------------------------


@bases
@pytest.mark.parametrize("model", MODELS)
def test_two_members_rescaled_again_in_mid_run_stay_one_function(base: str, model: str) -> None:
    one, two, x = pair(MODELS[model])
    start = copy.deepcopy(one)
    optimizers = made(one, base), made(two, base)
    for step in range(50):
        if step in (10, 30):
            eclab.random_rescale_(two, 1.0, torch.Generator().manual_seed(step))
        train(one, optimizers[0], x)
        train(two, optimizers[1], x)
    for optimizer in optimizers:
        optimizer.eval()
    assert gap(one, two, x) < 1e-9
    assert gap(start, one, x) > 1e-2, "nothing has moved"


@pytest.mark.parametrize("base", ["SGD", "Adam"])
def test_the_base_alone_is_not_that_indifferent(base: str) -> None:
    one, two, x = pair(wide_narrow_wide, sigma=1.0)
    kind, options = BASES[base]
    for net in (one, two):
        train(net, kind(net.model.parameters(), lr=options["lr"] / 10), x, 50)
    assert not gap(one, two, x) < 1e-2


@bases
def test_at_the_balanced_member_too(base: str) -> None:
    """float64 1e-9: the balanced member is found to 1e-12, and 50 steps carry that on."""
    torch.manual_seed(0)
    model, x = dense(8, 20, 6, 16, 4).double(), torch.randn(32, 8, dtype=torch.float64)
    one = eclab.trace(model, x)
    two = copy.deepcopy(one)
    eclab.random_rescale_(two, 1.0, torch.Generator().manual_seed(7))
    start = copy.deepcopy(one)
    optimizers = made(one, base, metric="balanced"), made(two, base, metric="balanced")
    for step in range(50):
        if step == 20:
            eclab.random_rescale_(two, 1.0, torch.Generator().manual_seed(step))
        train(one, optimizers[0], x)
        train(two, optimizers[1], x)
    for optimizer in optimizers:
        optimizer.eval()
    assert gap(one, two, x) < 1e-9
    assert gap(start, one, x) > 1e-2, "nothing has moved"


# ECSGD and EC(SGD) ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", SGD_SETTINGS)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("metric", ["path", "balanced"])
def test_ecsgd_is_ec_with_sgd(settings: str, model: str, metric: str) -> None:
    one, _, x = pair(MODELS[model])
    two = copy.deepcopy(one)
    fused = eclab.ECSGD(one, metric=metric, **SGD_SETTINGS[settings])
    general = eclab.EC(two, torch.optim.SGD, metric=metric, **SGD_SETTINGS[settings])
    steps = 5 if settings == "maximize" else 50
    train(one, fused, x, steps)
    train(two, general, x, steps)
    pairs = zip(one.model.parameters(), two.model.parameters(), strict=True)
    assert max(float((p - q).detach().abs().max() / p.detach().abs().max()) for p, q in pairs) < 1e-11
    assert fused.guarded_moves == general.guarded_moves


@pytest.mark.parametrize("name", ZOO)
def test_they_agree_on_every_architecture(name: str) -> None:
    one, x = ZOO[name].trace()
    eclab.start_skeleton_(one)
    two = copy.deepcopy(one)
    settings: dict[str, Any] = {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.01}
    train(one, eclab.ECSGD(one, **settings), x, 20)
    train(two, eclab.EC(two, torch.optim.SGD, **settings), x, 20)
    assert gap(one, two, x) < 1e-11


def test_the_balanced_step_is_the_plain_one_at_the_balanced_member() -> None:
    """By hand: balance a copy with the solver, take SGD's step there, compare the functions."""
    model, x = wide_narrow_wide()
    one, two = eclab.trace(model, x), eclab.trace(copy.deepcopy(model), x)
    c = balanced_scales(two)[two.scale_of]
    with torch.no_grad():
        for weight in two.weights:
            weight.parameter.mul_(c[weight.head] / c[weight.tail])
    train(one, eclab.ECSGD(one, lr=0.1, metric="balanced"), x)
    train(two, torch.optim.SGD(two.model.parameters(), lr=0.1), x)
    assert gap(one, two, x) < 1e-11


def test_parameters_outside_every_class_take_the_bases_step() -> None:
    one, two, x = pair(MODELS["conv"])
    outside = [two.model.get_parameter(name) for name in two.outside]
    assert outside
    two.model.load_state_dict(one.model.state_dict())
    backward(one, x)
    backward(two, x)
    eclab.EC(one, torch.optim.Adam, lr=0.01).step()
    torch.optim.Adam(outside, lr=0.01).step()
    for name, p in zip(two.outside, outside, strict=True):
        torch.testing.assert_close(one.model.get_parameter(name), p, rtol=1e-12, atol=0)


# the contract --------------------------------------------------------------------------------------------------------


@bases
def test_a_state_dict_continues_bit_for_bit(base: str) -> None:
    one, _, x = pair(wide_narrow_wide)
    optimizer = made(one, base)
    train(one, optimizer, x, 5)
    file = io.BytesIO()
    torch.save({"model": one.model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    train(one, optimizer, x, 5)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    two = copy.deepcopy(one)
    two.model.load_state_dict(saved["model"])
    resumed = made(two, base, lr=1.0)
    resumed.load_state_dict(saved["optimizer"])
    train(two, resumed, x, 5)
    if base == "NAdam":  # its mu_product is float32 and torch loads it as the weights' float64
        assert gap(one, two, x) < 1e-9
    else:
        assert identical(weights(one), weights(two))


@bases
def test_a_pickled_and_a_copied_optimizer_go_on_alike(base: str) -> None:
    one, _, x = pair(wide_narrow_wide)
    optimizer = made(one, base)
    train(one, optimizer, x, 3)
    twins = pickle.loads(pickle.dumps((one, optimizer))), copy.deepcopy((one, optimizer))  # noqa: S301
    train(one, optimizer, x, 3)
    for net, twin in twins:
        assert twin.param_groups is twin.base.param_groups
        train(net, twin, x, 3)
        assert identical(weights(one), weights(net))


def test_schedulers_hooks_and_closures_reach_the_base() -> None:
    one, _, x = pair(wide_narrow_wide)
    optimizer = eclab.EC(one, torch.optim.Adam, lr=0.01)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    calls: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))

    def closure() -> float:
        backward(one, x)
        return 1.5

    assert optimizer.step(closure) == 1.5
    scheduler.step()
    assert calls == ["before", "after"]
    assert optimizer.base.param_groups[0]["lr"] == 0.005
    extra = nn.Parameter(torch.ones(2))
    extra.grad = torch.ones(2)
    optimizer.add_param_group({"params": [("extra", extra)], "lr": 0.5})
    train(one, optimizer, x)
    assert float(extra.detach()[0]) == pytest.approx(0.5)


def test_no_gradient_no_step_and_construction_changes_nothing() -> None:
    one, _, _ = pair(wide_narrow_wide)
    before = weights(one)
    eclab.EC(one, torch.optim.Adam, lr=0.01).step()
    eclab.EC(one, torch.optim.Adam, lr=0.01, metric="balanced").step()
    assert identical(before, weights(one))


# refusals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "options", "words"),
    [
        (torch.optim.LBFGS, {}, "evaluates the loss within its step"),
        ("adam", {}, "the base is 'adam'"),
        (torch.optim.Adam, {"lr": math.nan}, "lr is nan"),
        (torch.optim.Adam, {"guard": 1.0}, "guard is 1.0"),
        (torch.optim.Adam, {"rebase": -0.5}, "rebase is -0.5"),
        (torch.optim.Adam, {"metric": "euclid"}, "the metric is 'euclid'"),
    ],
)
def test_what_cannot_be_built_is_refused(base: Any, options: dict[str, Any], words: str) -> None:
    one, _, _ = pair(wide_narrow_wide)
    with pytest.raises(SettingError, match=words):
        eclab.EC(one, base, **options)


@pytest.mark.parametrize("metric", ["path", "balanced"])
def test_bad_gradients_change_nothing(metric: str) -> None:
    one, _, x = pair(wide_narrow_wide)
    optimizer = eclab.EC(one, torch.optim.Adam, lr=0.01, metric=metric)
    before = weights(one)
    backward(one, x)
    one.weights[0].parameter.grad[0, 0] = math.inf  # type: ignore[index]
    with pytest.raises(NonFiniteError, match=r"gradient of '0.weight' holds inf"):
        optimizer.step()
    backward(one, x)
    one.weights[0].parameter.grad = None
    with pytest.raises(ChartError, match=r"gradient of 0\.weight is missing"):
        optimizer.step()
    assert identical(before, weights(one))
    assert not optimizer.state


def test_an_overflowing_step_changes_no_weight() -> None:
    one, _, x = pair(MODELS["conv"])
    before = weights(one)
    backward(one, x)
    with pytest.raises(NonFiniteError, match="overflows"):
        eclab.EC(one, torch.optim.SGD, lr=1e308).step()
    assert identical(before, weights(one))
    assert all(p.grad is not None for p in one.model.parameters())


def test_path_values_below_float32_are_refused_with_a_way_out() -> None:
    torch.manual_seed(0)
    model = dense(2, *[4] * 60, 2, bias=False)
    net = eclab.trace(model, torch.ones(1, 2))
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(0.1)
            p.grad = torch.zeros_like(p)
    with pytest.raises(ChartError, match=r"smaller than torch\.float32 holds"):
        eclab.EC(net, torch.optim.Adam, lr=0.01).step()


def test_the_state_of_another_chart_or_metric_is_refused() -> None:
    one, two, _ = pair(wide_narrow_wide)
    state = eclab.EC(one, torch.optim.Adam, lr=0.01).state_dict()
    for optimizer in (
        eclab.EC(two, torch.optim.Adam, lr=0.01, metric="balanced"),
        eclab.EC(two, torch.optim.Adam, lr=0.01, chart={"0[3]": ("0.weight", (3, 0))}),
    ):
        with pytest.raises(CheckpointError, match="belongs to chart"):
            optimizer.load_state_dict(state)


# clipping ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["path", "balanced"])
@pytest.mark.parametrize("norm_type", [1.0, 2.0, math.inf])
def test_clipping_is_by_the_norm_in_class_space(metric: str, norm_type: float) -> None:
    one, two, x = pair(MODELS["conv"])
    norms = []
    for net in (one, two):
        optimizer = eclab.ECSGD(net, lr=0.1, metric=metric)
        backward(net, x)
        norms.append(float(eclab.clip_class_grad_norm_(optimizer, 0.01, norm_type)))
        assert float(eclab.clip_class_grad_norm_(optimizer, 1.0, norm_type)) == pytest.approx(0.01, rel=1e-9)
        optimizer.step()
    assert norms[0] == pytest.approx(norms[1], rel=1e-9)
    assert gap(one, two, x) < 1e-9


def test_clipping_agrees_with_the_charts_gradients() -> None:
    one, _, x = pair(wide_narrow_wide)
    backward(one, x)
    chart = one.chart()
    before = {name: delta.clone() for name, delta in chart.gradients().items()}
    norm = eclab.clip_class_grad_norm_(chart, 1e-3)
    assert float(norm) == pytest.approx(math.sqrt(sum(float(d.square().sum()) for d in before.values())), rel=1e-12)
    for name, delta in chart.gradients().items():
        torch.testing.assert_close(delta, before[name] * (1e-3 / norm), rtol=1e-12, atol=0)
    small = float(eclab.clip_class_grad_norm_(chart, 10.0))
    assert small == pytest.approx(1e-3)


def test_clipping_refuses_bad_numbers_and_missing_gradients() -> None:
    one, _, x = pair(wide_narrow_wide)
    chart = one.chart()
    with pytest.raises(ChartError, match="missing"):
        eclab.clip_class_grad_norm_(chart, 1.0)
    backward(one, x)
    for bad in (0.0, -1.0, math.nan, math.inf, "1"):
        with pytest.raises(SettingError, match="max_norm"):
            eclab.clip_class_grad_norm_(chart, bad)  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="norm_type"):
        eclab.clip_class_grad_norm_(chart, 1.0, 0.5)
