"""EC-SGD: exact, the same for a whole class, guarded, and refusing before it changes anything."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import eclab
from eclab import ChartError, EclabError, NonFiniteError, SettingError
from eclab.facade import Network
from tests.zoo import ZOO, dense, joined

F64 = torch.float64


def wide_narrow_wide() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(1)
    return dense(8, 20, 6, 16, 4).double(), torch.randn(32, 8, dtype=F64)


def convolution() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(2)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 4, 3, stride=2, padding=1, bias=False),
        nn.LeakyReLU(0.1),
        nn.AvgPool2d(2, 1),
        nn.Flatten(),
        nn.Linear(16, 8),
        nn.PReLU(8),
        nn.Linear(8, 3),
    )
    return model.double(), torch.randn(32, 1, 12, 12, dtype=F64)


MODELS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {"dense": wide_narrow_wide, "conv": convolution}


def pair(make: Callable[[], tuple[nn.Module, Tensor]], sigma: float = 2.0) -> tuple[Network, Network, Tensor]:
    """A network at the paper's start, another member of its class, and a batch."""
    model, x = make()
    one = eclab.trace(model, x)
    eclab.start_skeleton_(one)
    two = copy.deepcopy(one)
    eclab.random_rescale_(two, sigma, torch.Generator().manual_seed(7))
    return one, two, x


def backward(net: Network, x: Tensor, target: Tensor | float = 0.0) -> None:
    net.model.zero_grad()
    (joined(net.model(x)) - target).square().mean().backward()


def weights(net: Network) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in net.model.parameters()])


def gap(one: Network, two: Network, x: Tensor) -> float:
    """The largest difference of the outputs, relative to the largest output."""
    with torch.no_grad():
        a, b = joined(one.model(x)), joined(two.model(x))
    return float((a - b).abs().max() / a.abs().max())


# theory §6 -----------------------------------------------------------------------------------------------------------


def worked_example() -> tuple[Network, Tensor]:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2, bias=False)).double()
    values = [[[1, -0.5], [0.25, 2]], [0.5, -0.25], [[1.5, 0.5], [-0.5, 0.8]]]
    for p, value in zip(model.parameters(), values, strict=True):
        p.data = torch.tensor(value, dtype=F64)
    x = torch.tensor([[1, 2], [0.5, -1]], dtype=F64)
    return eclab.trace(model, x), x


def worked_loss(net: Network, x: Tensor) -> Tensor:
    loss: Tensor = (net.model(x) - torch.eye(2, dtype=F64)).square().sum() / 4
    return loss


def is_close(found: Tensor, expected: Any, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(found, torch.tensor(expected, dtype=F64), rtol=0, atol=tolerance)


def test_the_worked_example_row_by_row() -> None:
    net, x = worked_example()
    loss = worked_loss(net, x)
    loss.backward()
    is_close(loss.detach(), 4.9725)
    W1, b1, W2 = (weight.parameter for weight in net.weights)
    for p, gradient in zip(
        (W1, b1, W2),
        ([[1.6375, -0.975], [1.6175, 3.235]], [2.7, 1.6175], [[2.125, 3.5], [-0.575, 5.9]]),
        strict=True,
    ):
        assert p.grad is not None
        is_close(p.grad, gradient)

    chart = net.chart("diagonal")
    assert [str(edge) for edge in chart.tree] == ["0.weight[0,0]", "0.weight[1,1]"]
    assert [str(edge) for edge in chart.b_edges] == ["2.weight[0,0]", "2.weight[1,1]"]
    v = chart.coordinates()
    is_close(v["0.weight"], [[1, -0.75], [0.2, 2]])  # the diagonal holds the tree weights themselves
    is_close(v["0.bias"], [0.75, -0.2])
    is_close(v["2.weight"], [[1.5, 1.0], [-0.5, 1.6]])

    delta = chart.gradients()
    is_close(delta["0.weight"], [[0, -0.65], [2.021875, 0]])
    is_close(delta["0.bias"], [1.8, 2.021875])
    is_close(delta["2.weight"], [[0.9, 1.75], [-0.575, 2.95]])
    assert W2.grad is not None
    T = (W2 * W2.grad - v["2.weight"] * delta["2.weight"]).diagonal().detach()  # δ_b = (w_b g_b − T_u) / v_b
    is_close(T, [1.8375, 0])

    optimizer = eclab.ECSGD(net, lr=0.1)
    optimizer.step()
    is_close(W1.detach(), [[1, -0.485816], [-0.003352, 2]], 5e-7)  # as many digits as theory gives
    is_close(b1.detach(), [0.404255, -0.616379], 5e-7)
    is_close(W2.detach(), [[1.41, 0.4125], [-0.4425, 0.6525]])
    is_close(W1.detach(), [[1, -0.685 / 1.41], [(0.2 - 0.2021875) / 0.6525, 2]])
    is_close(b1.detach(), [0.57 / 1.41, (-0.2 - 0.2021875) / 0.6525])
    assert optimizer.guarded_moves == 0


# the class -----------------------------------------------------------------------------------------------------------

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {"lr": 0.02},
    "momentum": {"lr": 0.003, "momentum": 0.9},
    "nesterov and weight decay": {"lr": 0.003, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    "guarded": {"lr": 0.02, "guard": 0.98},
}


@pytest.mark.parametrize("kind", VARIANTS)
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_50_steps_from_two_members_of_a_class_give_one_function(
    make: Callable[[], tuple[nn.Module, Tensor]], kind: str
) -> None:
    one, two, x = pair(make)
    start = copy.deepcopy(one)
    optimizers = [eclab.ECSGD(net, **VARIANTS[kind]) for net in (one, two)]
    for step in range(50):
        batch, target = torch.randn_like(x), torch.randn_like(joined(one.model(x)))
        for net, optimizer in zip((one, two), optimizers, strict=True):
            backward(net, batch, target)
            optimizer.step()
        assert gap(one, two, x) < 1e-9, f"step {step}"
    assert gap(start, one, x) > 1e-2, "nothing was learnt"
    assert optimizers[0].guarded_moves == optimizers[1].guarded_moves
    assert (optimizers[0].guarded_moves > 0) == (kind == "guarded")
    assert eclab.same_class(one, two, x, tolerance=1e-7)


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_sgd_depends_on_the_member(make: Callable[[], tuple[nn.Module, Tensor]]) -> None:
    one, two, x = pair(make)
    target = torch.randn_like(joined(one.model(x)))
    assert gap(one, two, x) < 1e-12
    for net in (one, two):
        backward(net, x, target)
        torch.optim.SGD(net.model.parameters(), lr=0.05).step()
    assert gap(one, two, x) > 1e-2


def test_rescaling_between_steps_changes_nothing() -> None:
    """Momentum lives in class space, so it survives."""
    one, two, x = pair(wide_narrow_wide, sigma=0.0)
    generator = torch.Generator().manual_seed(3)
    optimizers = [eclab.ECSGD(net, lr=0.01, momentum=0.9) for net in (one, two)]
    for _ in range(20):
        eclab.random_rescale_(two, 1.0, generator)
        for net, optimizer in zip((one, two), optimizers, strict=True):
            backward(net, x, 1.0)
            optimizer.step()
        assert gap(one, two, x) < 1e-9


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), sigma=st.floats(0, 4), name=st.sampled_from(sorted(ZOO)))
def test_one_step_is_the_same_for_any_member_of_any_class(seed: int, sigma: float, name: str) -> None:
    one, x = ZOO[name].trace(seed)
    eclab.start_skeleton_(one)
    two = copy.deepcopy(one)
    eclab.random_rescale_(two, sigma, torch.Generator().manual_seed(seed))
    for net in (one, two):
        backward(net, x, 1.0)
        eclab.ECSGD(net, lr=0.05).step()
    assert gap(one, two, x) < 1e-9


def test_float32_weights_with_scales_that_leave_its_range() -> None:
    """Chains of 1e±30 still give the step of the balanced member."""
    model, x = wide_narrow_wide()
    one = eclab.trace(model.float(), x.float())
    eclab.start_skeleton_(one)
    two = copy.deepcopy(one)
    eclab.apply_scales_(
        two, {"0": torch.full((20,), 1e-16), "2": torch.full((6,), 1e-30), "4": torch.full((16,), 1e-20)}
    )
    for net in (one, two):
        backward(net, x.float(), 1.0)
        eclab.ECSGD(net, lr=0.05).step()
    assert bool(weights(two).isfinite().all())
    assert gap(one, two, x.float()) < 1e-4


def test_a_deep_network_in_float32() -> None:
    """60 layers whose chains run to 2^60: the step equals that of the balanced member."""
    torch.manual_seed(0)
    model, x = dense(3, *[3] * 60, 2, bias=False), torch.rand(8, 3)
    one = eclab.trace(model, x)
    for p in model.parameters():
        p.data.fill_(0.01)
    eclab.start_skeleton_(one)
    two = copy.deepcopy(one)
    eclab.apply_scales_(two, {layer.name: torch.full((3,), 2.0**k) for k, layer in enumerate(one.layers[:-1])})
    for net in (one, two):
        backward(net, x, 1.0)
        eclab.ECSGD(net, lr=1e-3).step()
    assert gap(one, two, x) < 1e-4


# memory --------------------------------------------------------------------------------------------------------------


def plan_numbers(net: Network) -> int:
    """How many numbers the compiled chart holds."""
    plan = net.chart().plan
    edges = [t for e in (*plan.tree, *plan.b_edges) for t in (*e.index, e.scale, e.other, e.in_tree)]
    return sum(t.numel() for t in (*plan.heads, *plan.tails, *edges, *(t for pair in plan.passes for t in pair)))


def test_what_the_optimizer_holds_grows_with_the_units_not_the_weights() -> None:
    sizes = []
    for width in (128, 256):
        net = eclab.trace(dense(100, width, width, 10), torch.zeros(1, 100))
        optimizer = eclab.ECSGD(net)
        eclab.start_skeleton_(net)
        backward(net, torch.rand(4, 100), 1.0)
        optimizer.step()
        assert not optimizer.state
        sizes.append(plan_numbers(net))
        assert sizes[-1] < 16 * net.num_units
        assert sizes[-1] < net.num_weights / 8
    assert sizes[1] < 2.1 * sizes[0]


# the guard -----------------------------------------------------------------------------------------------------------


def two_weights(guard: float, w: float = 1.0) -> tuple[Network, eclab.ECSGD]:
    """``f = w₂ relu(w₁ x)``, whose one coordinate is ``v = w₁ w₂``."""
    model = dense(1, 1, 1, bias=False).double()
    for p in model.parameters():
        p.data.fill_(w)
    net = eclab.trace(model, torch.ones(1, 1, dtype=F64))
    return net, eclab.ECSGD(net, lr=1.0, guard=guard)


@pytest.mark.parametrize(
    ("gradient", "guard", "expected", "guarded"),
    [
        (0.5, 0.1, 0.5, 0),
        (0.85, 0.1, 0.15, 0),
        (0.95, 0.1, 0.1, 1),
        (3.0, 0.1, 0.1, 1),  # would change the sign
        (3.0, 0.4, 0.4, 1),
        (-3.0, 0.1, 4.0, 0),  # growth is free
    ],
)
def test_a_skeleton_coordinate_keeps_a_fraction_of_its_value(
    gradient: float, guard: float, expected: float, guarded: int
) -> None:
    net, optimizer = two_weights(guard)
    sign = 1.0 if gradient > 0 else -1.0
    (sign * net.model(torch.full((1, 1), abs(gradient), dtype=F64))).sum().backward()
    optimizer.step()
    assert net.weights[1].parameter.item() == pytest.approx(expected)
    assert net.weights[0].parameter.item() == 1.0
    assert optimizer.guarded_moves == guarded
    assert optimizer.param_groups[0]["guarded_moves"] == guarded


def test_guarded_moves_add_up_and_travel_with_the_state() -> None:
    net, optimizer = two_weights(0.5)
    for _ in range(3):
        net.model.zero_grad()
        net.model(torch.full((1, 1), 10.0, dtype=F64)).sum().backward()
        optimizer.step()
    assert optimizer.guarded_moves == 3
    assert net.weights[1].parameter.item() == pytest.approx(0.125)
    other = eclab.ECSGD(net)
    other.load_state_dict(optimizer.state_dict())
    assert other.guarded_moves == 3


def test_with_guard_0_the_edge_of_the_chart_is_an_error() -> None:
    """Guard 0 lets a coordinate fall to 0, where there are no weights for it."""
    net, optimizer = two_weights(0.0)
    net.model(torch.ones(1, 1, dtype=F64)).sum().backward()
    with pytest.raises(NonFiniteError, match="no weight was changed"):
        optimizer.step()
    assert weights(net).tolist() == [1.0, 1.0]


# what is refused -----------------------------------------------------------------------------------------------------

Spoil = Callable[[Network], object]


def _set_gradient(name: str, value: float) -> Spoil:
    def spoil(net: Network) -> None:
        gradient = net.model.get_parameter(name).grad
        assert gradient is not None
        gradient.reshape(-1)[-1] = value

    return spoil


def _lose_gradient(net: Network) -> None:
    net.model.get_parameter("3.weight").grad = None


def _zero_skeleton(net: Network) -> None:
    net.model.get_parameter("7.weight").data[0, 2] = 0.0  # a channel's middle position behind the flatten


def _infinite_weight(net: Network) -> None:
    net.model.get_parameter("3.weight").data[0, 0, 0, 0] = torch.inf


REFUSED: dict[str, tuple[Spoil, type[EclabError], str]] = {
    "NaN in a weight's gradient": (
        _set_gradient("3.weight", torch.nan),
        NonFiniteError,
        r"gradient of '3\.weight'.*nan",
    ),
    "infinite bias gradient": (_set_gradient("7.bias", torch.inf), NonFiniteError, r"gradient of '7\.bias'.*inf"),
    "NaN at an output": (_set_gradient("9.weight", torch.nan), NonFiniteError, r"gradient of '9\.weight'"),
    "NaN outside the class": (_set_gradient("8.weight", torch.nan), NonFiniteError, "outside the class"),
    "missing gradient": (_lose_gradient, ChartError, r"gradient of 3\.weight is missing"),
    "zero on the skeleton": (_zero_skeleton, ChartError, r"7\.weight\[0,2\] is 0"),
    "infinite weight": (_infinite_weight, NonFiniteError, r"weight of '3\.weight'"),
}


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("case", REFUSED)
def test_a_refused_step_changes_nothing(case: str, momentum: float) -> None:
    spoil, kind, words = REFUSED[case]
    model, x = convolution()
    net = eclab.trace(model, x)
    eclab.start_skeleton_(net)
    optimizer = eclab.ECSGD(net, lr=0.01, momentum=momentum)
    backward(net, x, 1.0)
    optimizer.step()
    backward(net, x, 1.0)
    spoil(net)
    before, state = weights(net), copy.deepcopy(optimizer.state_dict())
    with pytest.raises(kind, match=words):
        optimizer.step()
    assert torch.equal(weights(net).nan_to_num(), before.nan_to_num())
    after = optimizer.state_dict()
    assert after["param_groups"] == state["param_groups"]
    for number, entry in state["state"].items():
        assert torch.equal(entry["momentum_buffer"], after["state"][number]["momentum_buffer"])


def test_zero_weights_off_the_skeleton_train() -> None:
    model, x = wide_narrow_wide()
    net = eclab.trace(model, x)
    for p in model.parameters():
        p.data.zero_()
    eclab.start_skeleton_(net)
    backward(net, x, 1.0)
    eclab.ECSGD(net, lr=0.05).step()
    assert int((weights(net) != 0).sum()) > 200


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "lr 0": ({"lr": 0.0}, "lr is 0"),
    "lr negative": ({"lr": -1.0}, "lr is -1"),
    "lr NaN": ({"lr": float("nan")}, "lr is nan"),
    "lr infinite": ({"lr": float("inf")}, "lr is inf"),
    "lr text": ({"lr": "fast"}, "lr is 'fast'"),
    "lr text of a number": ({"lr": "0.1"}, "lr is '0.1'"),
    "lr switch": ({"lr": True}, "lr is True"),
    "momentum": ({"momentum": -0.1}, "momentum is -0.1"),
    "weight decay": ({"weight_decay": -1e-4}, "weight_decay is"),
    "nesterov": ({"nesterov": True}, "nesterov is on and momentum is 0"),
    "guard 1": ({"guard": 1.0}, "guard is 1.0"),
    "guard negative": ({"guard": -0.1}, "guard is -0.1"),
}


@pytest.mark.parametrize("case", BAD)
def test_settings_out_of_range(case: str) -> None:
    arguments, words = BAD[case]
    net, _ = ZOO["one hidden layer"].trace()
    with pytest.raises(SettingError, match=words) as caught:
        eclab.ECSGD(net, **arguments)
    assert "Allowed" in str(caught.value)


def test_a_rate_that_a_schedule_spoils_is_refused_at_the_next_step() -> None:
    model, x = wide_narrow_wide()
    net = eclab.trace(model, x)
    eclab.start_skeleton_(net)
    optimizer = eclab.ECSGD(net)
    backward(net, x)
    before = weights(net)
    optimizer.param_groups[0]["lr"] = float("nan")
    with pytest.raises(SettingError, match="lr is nan"):
        optimizer.step()
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.step()
    torch.testing.assert_close(weights(net), before, rtol=1e-12, atol=0)


def test_a_network_without_free_units_is_refused() -> None:
    net = eclab.trace(nn.Linear(3, 2), torch.ones(1, 3))
    with pytest.raises(ChartError, match="no unit that scales freely"):
        eclab.ECSGD(net)


def test_a_module_in_place_of_a_network_is_refused() -> None:
    with pytest.raises(SettingError, match=r"eclab\.trace"):
        eclab.ECSGD(nn.Linear(3, 2))  # type: ignore[arg-type]


def test_charts_of_another_network_and_unknown_ones_are_refused() -> None:
    one, two = ZOO["deep"].trace()[0], ZOO["deep"].trace()[0]
    with pytest.raises(ChartError, match="another network"):
        eclab.ECSGD(one, chart=two.chart())
    with pytest.raises(ChartError, match="no chart 'crooked'"):
        eclab.ECSGD(one, chart="crooked")


# frozen weights ------------------------------------------------------------------------------------------------------


def test_frozen_weights_stay_as_they_are() -> None:
    model, x = wide_narrow_wide()
    frozen = model.get_parameter("2.weight").requires_grad_(False)
    net = eclab.trace(model, x)
    eclab.start_skeleton_(net)
    kept, before = frozen.clone(), weights(net)
    optimizer = eclab.ECSGD(net, lr=0.05, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        backward(net, x, 1.0)
        optimizer.step()
    assert torch.equal(frozen, kept)
    assert not torch.equal(weights(net), before)


def test_freezing_after_the_trace_is_refused() -> None:
    model, x = wide_narrow_wide()
    net = eclab.trace(model, x)
    optimizer = eclab.ECSGD(net)
    model.get_parameter("2.weight").requires_grad_(False)
    backward(net, x)
    before = weights(net)
    with pytest.raises(ChartError, match=r"2\.weight was frozen.*trace the model again"):
        optimizer.step()
    assert torch.equal(weights(net), before)


def test_slopes_and_other_parameters_outside_take_the_sgd_step() -> None:
    model, x = convolution()
    net = eclab.trace(model, x)
    eclab.start_skeleton_(net)
    slopes = model.get_parameter("8.weight")
    twin = slopes.detach().clone().requires_grad_()
    settings: dict[str, Any] = {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.01, "nesterov": True}
    optimizer, sgd = eclab.ECSGD(net, **settings), torch.optim.SGD([twin], **settings)
    for _ in range(5):
        backward(net, x, 1.0)
        assert slopes.grad is not None
        twin.grad = slopes.grad.clone()
        optimizer.step()
        sgd.step()
        assert torch.equal(slopes, twin)
    assert not net.weights[0].name.startswith("8")
