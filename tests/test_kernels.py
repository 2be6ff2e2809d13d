"""Every back end of the path core takes the step that the torch definition takes; one body for all of them."""

from __future__ import annotations

import copy
import subprocess
import sys
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import eclab
from eclab import SettingError, TraceError
from eclab.facade import Network
from eclab.kernels import choice, cpu_core, cpu_step, torch_step
from eclab.kernels.layout import COLS, HEADS, HEADS_BY_ROW, ROWS, START, TAILS, TAILS_BY_ROW, WEIGHT, layout
from eclab.kernels.settings import StepSettings
from eclab.kernels.warm_up import warm_up
from tests.test_ecsgd import backward
from tests.zoo import ZOO, dense, joined

COMPILED = {"cpu": cpu_step}
SETTINGS = {
    "plain": StepSettings(lr=0.01),
    "decay": StepSettings(lr=0.01, weight_decay=0.1),
    "momentum": StepSettings(lr=0.01, momentum=0.9, weight_decay=0.01),
    "Nesterov": StepSettings(lr=0.01, momentum=0.9, weight_decay=0.01, nesterov=True),
    "maximize": StepSettings(lr=0.01, momentum=0.5, maximize=True),
    "guarded": StepSettings(lr=0.5, guard=0.9),
}
WITHIN = {torch.float64: 1e-12, torch.float32: 1e-5}
"""Of the largest entry of a tensor: what the order of summation may change."""

State = tuple[list[Tensor], list[Tensor | None]]


def gradients_of(net: Network, x: Tensor) -> None:
    net.model.zero_grad()
    output = joined(net.model(x))
    (output * torch.linspace(-1, 1, output.numel(), dtype=output.dtype).reshape(output.shape)).mean().backward()


def after(kernel: Any, net: Network, numbers: StepSettings) -> tuple[Any, State]:
    """A step on copies of the weights, with momentum from a fixed seed; poisoned memory lies around the copies."""
    chart = net.chart()
    generator = torch.Generator().manual_seed(3)
    weights, buffers = [], []
    for p in chart.parameters():
        around = torch.full((p.numel() + 64,), torch.nan, dtype=p.dtype)
        inside = around[32 : 32 + p.numel()].view(p.shape)
        inside.copy_(p.detach())
        weights.append(inside)
        held = 0.1 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
        buffers.append(held if numbers.momentum and p.grad is not None else None)
    outcome = kernel.step(chart.plan, weights, [p.grad for p in chart.parameters()], buffers, numbers)
    for weight in weights:
        storage = torch.tensor([], dtype=weight.dtype).set_(weight.untyped_storage())
        assert bool(storage[:32].isnan().all() and storage[-32:].isnan().all()), "written outside a weight"
    return outcome, (weights, buffers)


def assert_equal(kernel: Any, net: Network, numbers: StepSettings) -> Any:
    found, one = after(kernel, net, numbers)
    wanted, two = after(torch_step, net, numbers)
    assert found == wanted
    for got, expected in zip((*one[0], *one[1]), (*two[0], *two[1]), strict=True):
        if got is not None and expected is not None:
            size = float(expected.abs().max())
            assert float((got - expected).abs().max()) <= WITHIN[got.dtype] * size
    return found


@pytest.mark.parametrize("kernel", COMPILED.values(), ids=COMPILED)
@pytest.mark.parametrize("dtype", WITHIN, ids=str)
@pytest.mark.parametrize("name", ZOO)
def test_every_architecture(kernel: Any, name: str, dtype: torch.dtype) -> None:
    net, x = ZOO[name].trace()
    net.model.to(dtype)
    eclab.start_skeleton_(net)
    gradients_of(net, x.to(dtype))
    for numbers in SETTINGS.values():
        assert assert_equal(kernel, net, numbers).finite


@pytest.mark.parametrize("kernel", COMPILED.values(), ids=COMPILED)
def test_the_guard_is_counted_alike(kernel: Any) -> None:
    net, x = ZOO["wide-narrow-wide"].trace()
    eclab.start_skeleton_(net)
    gradients_of(net, 10 * x)
    assert assert_equal(kernel, net, SETTINGS["guarded"]).guarded > 0


widths = st.lists(st.integers(1, 70) | st.sampled_from([255, 256, 257, 1023, 8193]), min_size=3, max_size=4).filter(
    lambda found: sum(a * b for a, b in pairwise(found)) < 600_000
)


@pytest.mark.parametrize("kernel", COMPILED.values(), ids=COMPILED)
@settings(max_examples=15)
@given(found=widths, bias=st.booleans(), double=st.booleans(), kind=st.sampled_from(sorted(SETTINGS)))
def test_dense_layers_of_any_width(kernel: Any, found: list[int], bias: bool, double: bool, kind: str) -> None:
    torch.manual_seed(0)
    dtype = torch.float64 if double else torch.float32
    model = dense(*found, bias=bias).to(dtype)
    x = torch.randn(3, found[0], dtype=dtype)
    net = eclab.trace(model, x)
    eclab.start_skeleton_(net)
    gradients_of(net, x)
    assert_equal(kernel, net, SETTINGS[kind])


@pytest.mark.parametrize("kernel", COMPILED.values(), ids=COMPILED)
@settings(max_examples=15)
@given(
    groups=st.integers(1, 3), inner=st.integers(1, 3), taps=st.tuples(st.integers(1, 5), st.integers(1, 3)),
    transposed=st.booleans(), kind=st.sampled_from(sorted(SETTINGS)),
)  # fmt: skip
def test_convolutions_of_any_shape(
    kernel: Any, groups: int, inner: int, taps: tuple[int, int], transposed: bool, kind: str
) -> None:
    torch.manual_seed(0)
    width = 2 * groups
    layer = nn.ConvTranspose2d if transposed else nn.Conv2d
    model = nn.Sequential(
        nn.Conv2d(2, width, 3, padding=1), nn.ReLU(), layer(width, inner * groups, taps, groups=groups), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * inner * groups, 2),
    ).double()  # fmt: skip
    x = torch.randn(3, 2, 6, 6, dtype=torch.float64)
    net = eclab.trace(model, x)
    eclab.start_skeleton_(net)
    gradients_of(net, x)
    assert_equal(kernel, net, SETTINGS[kind])


@pytest.mark.parametrize("kernel", COMPILED.values(), ids=COMPILED)
def test_a_step_that_is_not_finite_changes_nothing(kernel: Any) -> None:
    net, x = ZOO["conv 3×3, max-pool"].trace()
    gradients_of(net, x)
    skeleton = net.chart().tree[0].index
    for spoil in (lambda p: p.grad.view(-1)[0].fill_(torch.inf), lambda p: p.data[skeleton].fill_(0.0)):
        bad = copy.deepcopy(net)
        for one, two in zip(bad.model.parameters(), net.model.parameters(), strict=True):
            one.grad = two.grad.clone()  # type: ignore[union-attr]
        spoil(bad.weights[0].parameter)
        for name, numbers in SETTINGS.items():
            outcome, (weights, buffers) = after(kernel, bad, numbers)
            assert not outcome.finite, name
            for got, before in zip(weights, bad.chart().parameters(), strict=True):
                assert torch.equal(got, before), name
            kept = after(torch_step, bad, numbers)[1][1]
            assert all(a is None or torch.equal(a, b) for a, b in zip(buffers, kept, strict=True))  # type: ignore[arg-type]


def test_threads_share_out_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = ZOO["wide-narrow-wide"].trace()
    eclab.start_skeleton_(net)
    gradients_of(net, x)
    alone = after(cpu_step, net, SETTINGS["momentum"])[1][0]
    for threads in (2, 3, 7):
        other = copy.deepcopy(net)
        for one, two in zip(other.model.parameters(), net.model.parameters(), strict=True):
            one.grad = two.grad
        monkeypatch.setattr(cpu_step, "_SHARE", 5)
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        shares = cpu_step._job(other.chart().plan, other.chart().parameters()).shares(threads)
        assert len(shares) == threads
        assert sum(int((part[:, 2] > 0).sum()) for part in shares) >= threads
        for got, wanted in zip(after(cpu_step, other, SETTINGS["momentum"])[1][0], alone, strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("name", ZOO)
def test_the_layout_is_the_plan(name: str) -> None:
    """Slow twin: element by element, heads and tails from the blocks are those of the network."""
    net, _ = ZOO[name].trace()
    chart = net.chart()
    plan, weights = chart.plan, chart.weights
    here = layout(plan, [weight.shape for weight in weights])
    heads, tails = ([np.full(int(np.prod(w.shape)), -1) for w in weights] for _ in range(2))
    for block in here.blocks:
        for row in range(block[ROWS]):
            for col in range(block[COLS]):
                place = block[START] + row * block[COLS] + col
                for side, at, by_row in ((heads, HEADS, HEADS_BY_ROW), (tails, TAILS, TAILS_BY_ROW)):
                    assert side[block[WEIGHT]][place] == -1
                    side[block[WEIGHT]][place] = here.units[block[at] + (row if block[by_row] else col)]
    for number, weight in enumerate(weights):
        for side, expected in ((heads, plan.heads), (tails, plan.tails)):
            assert side[number].tolist() == expected[number].expand(weight.shape).reshape(-1).tolist()


# the choice ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def trained() -> tuple[Network, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(4, 3)
    net = eclab.trace(dense(3, 5, 4, 2), x)
    eclab.start_skeleton_(net)
    backward(net, x)
    return net, x


def chosen(net: Network) -> str:
    parameters = net.chart().parameters()
    return choice.chosen(parameters, [p.grad for p in parameters], [None] * len(parameters))


def test_the_tensors_choose(trained: tuple[Network, Tensor]) -> None:
    net, _ = trained
    assert chosen(net) == "cpu"
    with eclab.kernels.backend("torch"):
        assert chosen(net) == "torch"
    assert chosen(net) == "cpu"
    net.weights[0].parameter.grad = torch.randn(3, 5).T
    assert chosen(net) == "torch"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_takes_the_torch_path(trained: tuple[Network, Tensor], dtype: torch.dtype) -> None:
    net, x = trained
    net.model.to(dtype)
    backward(net, x.to(dtype))
    assert chosen(net) == "torch"
    before = [p.detach().clone() for p in net.model.parameters()]
    eclab.ECSGD(net, lr=0.1).step()
    assert not all(torch.equal(p, q) for p, q in zip(net.model.parameters(), before, strict=True))
    with eclab.kernels.backend("cpu"), pytest.raises(SettingError, match="contiguous float32 or float64"):
        eclab.ECSGD(net, lr=0.1).step()


def test_an_unknown_back_end_is_refused() -> None:
    with pytest.raises(SettingError, match=r"no back end 'gpu'.*'auto', 'torch', 'cpu'"):
        eclab.kernels.backend("gpu")
    assert eclab.kernels.backend.asked() == "auto"


def test_a_missing_numba_leaves_the_torch_path(
    trained: tuple[Network, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "_cpu", lambda: None)
    assert chosen(trained[0]) == "torch"
    with pytest.raises(SettingError, match="needs Numba"):
        eclab.kernels.backend("cpu")


def test_a_stale_backward_is_refused_on_every_path(trained: tuple[Network, Tensor]) -> None:
    """The graph of a loss holds the weights of before the step; torch must see that they were overwritten."""
    net, x = trained
    for name in ("cpu", "torch"):
        with eclab.kernels.backend(name):
            backward(net, x)
            loss = net.model(x).square().mean()
            eclab.ECSGD(net, lr=0.01).step()
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                loss.backward()


def test_without_a_place_for_compiled_code_the_torch_path_serves() -> None:
    code = (
        "import sys; sys.modules['numba'] = None\n"
        "import torch, eclab\n"
        "model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))\n"
        "optimizer = eclab.ECSGD(eclab.trace(model, torch.ones(1, 2)), lr=0.1)\n"
        "model(torch.ones(1, 2)).sum().backward()\n"
        "optimizer.step()\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_the_core_can_be_compiled_ahead() -> None:
    warm_up()
    for function in (cpu_core.update, cpu_core.accumulate):
        compiled = " ".join(str(types) for types in function.signatures)
        assert "float32" in compiled
        assert "float64" in compiled


def test_a_weight_resized_in_mid_run_is_refused(trained: tuple[Network, Tensor]) -> None:
    net, _ = trained
    optimizer = eclab.ECSGD(net, lr=0.1)
    optimizer.step()
    weight = net.weights[0].parameter
    weight.data = torch.randn(6, 3)
    weight.grad = torch.randn(6, 3)
    with pytest.raises(TraceError, match="trace the model again"):
        optimizer.step()


def test_optimizers_agree_on_both_paths(trained: tuple[Network, Tensor]) -> None:
    one, x = trained
    two = copy.deepcopy(one)
    outcomes = []
    for net, name in ((one, "cpu"), (two, "torch")):
        with eclab.kernels.backend(name):
            optimizer = eclab.ECSGD(net, lr=0.05, momentum=0.9)
            for _ in range(20):
                backward(net, x)
                optimizer.step()
        outcomes.append(joined(net.model(x)).detach())
    torch.testing.assert_close(outcomes[0], outcomes[1], rtol=1e-4, atol=1e-5)
