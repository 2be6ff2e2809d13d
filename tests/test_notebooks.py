"""Every notebook from top to bottom, without a browser, with the numbers it records."""

from __future__ import annotations

import ast
import io
import runpy
import tokenize
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest

from eclab.errors import SettingError
from eclab.notebook import parameter_names, run

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
NAMES = (
    "00-lab", "01-equivalent-classes", "02-path-structure", "03-race-fnn", "04-race-cnn",
    "05-any-network", "06-choosing-a-chart",
)  # fmt: skip

Numbers = dict[str, Any]

# -- how they are written ----------------------------------------------------------------------------------------------


def read(name: str) -> nbformat.NotebookNode:
    found: nbformat.NotebookNode = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    return found


def code_of(name: str) -> list[str]:
    return [cell.source for cell in read(name).cells if cell.cell_type == "code"]


def checked(source: str) -> set[str]:
    """The names that a cell's call of eclab.parameters checks."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    call = next(call for call in calls if ast.unparse(call.func) == "eclab.parameters")
    return {keyword.arg for keyword in call.keywords if keyword.arg}


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_typed_explained_and_checked_in_the_next_cell(name: str) -> None:
    first, second = code_of(name)[:2]
    lines = ast.parse(first).body
    assert all(isinstance(line, ast.AnnAssign) and line.value is not None for line in lines)
    tokens = tokenize.generate_tokens(io.StringIO(first).readline)
    explained = {token.start[0] for token in tokens if token.type == tokenize.COMMENT}
    assert explained == {line.lineno for line in lines}
    assert checked(second) == set(parameter_names(FOLDER / f"{name}.ipynb"))


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_parameter_is_an_error(name: str) -> None:
    known = parameter_names(FOLDER / f"{name}.ipynb")[0]
    with pytest.raises(SettingError, match=f"no parameter '{known}s'.*did you mean '{known}'"):
        run(FOLDER / f"{name}.ipynb", {f"{known}s": 1})


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_type_of_any_parameter_is_an_error(name: str, tmp_path: Path) -> None:
    first, second = code_of(name)[:2]
    for known in parameter_names(FOLDER / f"{name}.ipynb"):
        for wrong in ("None", "object()", "float('nan')", "[]"):
            script = tmp_path / "cells.py"
            script.write_text(f"{first}\n{known} = {wrong}\n{second}", encoding="utf-8")
            with pytest.raises(SettingError, match=f"the parameter {known} is"):
                runpy.run_path(str(script))


@pytest.mark.parametrize("name", NAMES)
def test_cells_have_ids_that_stay(name: str) -> None:
    notebook = read(name)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    assert all(len(one) < 30 and not any(part.isdigit() for part in one) for one in ids), "ids are words"


# -- what they record --------------------------------------------------------------------------------------------------


def lab(found: Numbers, *, m: int, H: int, steps: int, accuracy: float) -> None:
    assert (found["m"], found["H"], found["class_dim"]) == (m, H, m - H)
    assert found["steps"] == steps
    assert found["lab_on_the_page_is_at_step"] == 0
    assert found["first_loss_difference"] == 0.0
    assert found["accuracy_sgd"] > accuracy
    assert found["accuracy_ec_sgd"] > accuracy
    assert found["weights_changed"] > H
    assert found["change_is_rounding"]
    assert 0 < found["change"] < 1e-4


def classes(found: Numbers, *, m: int, H: int, worst_sgd: float) -> None:
    assert (found["m"], found["H"], found["class_dim"]) == (m, H, m - H)
    assert found["change"] <= found["bound"] < 1e-11
    assert found["same_class"]
    assert found["same_class_deviation"] < 1e-14
    assert not found["stranger_is_same_class"]
    assert 1e-6 < found["stranger_deviation"] < 0.02
    assert found["gradient_ratio_sgd"] > 10
    assert found["gradient_ratio_ec_sgd"] == pytest.approx(1, abs=1e-12)
    assert found["coordinate_difference"] < 1e-13
    assert found["gradient_difference"] < 1e-12
    assert found["weight_gradient_difference"] > 1
    assert found["hand_loss"] == pytest.approx(4.9725, abs=1e-12)
    assert found["hand_T"] == pytest.approx(1.8375, abs=1e-12)
    assert found["hand_W1_01"] == pytest.approx(-0.485816, abs=5e-7)
    assert found["hand_error"] < 1e-14
    assert found["worst_ec_sgd"] < 1e-9
    assert found["worst_sgd"] > worst_sgd


def paths(
    found: Numbers, *, m: int, H: int, count: int, paper_rule: int, big: int, functional: range, dense: bool = True
) -> None:
    assert (found["m"], found["H"], found["class_dim"]) == (m, H, m - H)
    assert found["paths_counted"] == found["paths_listed"] == count
    assert found["path_rank"] == found["basis_paths"] == m - H
    assert found["tree_edges"] == H
    assert found["unit_triangular"]
    assert found["paper_rule"] == paper_rule
    assert found["monomial_error"] < 1e-13
    assert found["top_error"] < 1e-14
    assert found["norm_difference"] < 1e-12
    assert found["weight_norm_ratio"] > 1.1
    assert found["functional_rank"] in functional
    assert found["big_paths"] == big
    assert found["big_top_paths"] == 100
    assert found["deep_paths"] == 64**31 * 10
    assert found["ratio_784_64x4_10"] == pytest.approx(256 / (784 * 64 + 3 * 64 * 64 + 640))
    if dense:
        assert found["sum_error"] < 1e-13
        assert found["norm_error"] < 1e-12


def start_and_end(found: Numbers, *, steps: int, balanced: float, lost: float, apart: float) -> None:
    """What a race from a balanced and from an unbalanced start must show."""
    assert found["steps"] == steps
    assert found["same_class"]
    assert found["same_class_deviation"] < 1e-5
    assert found["sgd_balanced"] > balanced
    assert found["ec_sgd_balanced"] > balanced
    assert abs(found["sgd_balanced"] - found["ec_sgd_balanced"]) < apart
    assert found["sgd_unbalanced"] < lost
    assert found["ec_sgd_unbalanced"] > balanced
    assert found["ec_sgd_stayed"] < 0.02


def race_fnn(found: Numbers, *, class_dim: int, runs: int, **ends: Any) -> None:
    start_and_end(found, **ends)
    assert found["class_dim"] == class_dim
    assert 1 <= found["sgd_diverged"] <= runs
    assert found["ec_sgd_diverged"] == 0
    assert found["first_losses_equal"]
    assert found["drift_sgd"] > 0
    assert found["drift_ec_sgd"] > 0
    assert found["best_unbalanced_ec_sgd"] > found["best_unbalanced_sgd"] + 0.02
    assert found["overhead_percent"] > -50


def race_cnn(found: Numbers, *, m: int, H: int, count: int, **ends: Any) -> None:
    start_and_end(found, **ends)
    assert (found["m"], found["H"], found["class_dim"]) == (m, H, m - H)
    assert found["paths"] == count
    assert found["path_value"] == pytest.approx(found["coordinate"], rel=1e-12)
    assert found["change_is_rounding"]
    assert found["change"] < 1e-11


def choosing_a_chart(found: Numbers, *, m: int, H: int, ratio: float, trained: float, balanced: float) -> None:
    assert (found["m"], found["H"], found["class_dim"]) == (m, H, m - H)
    assert found["monomial_error"] < 1e-12
    assert found["strongest_changed"] == 0 < found["heaviest_changed"]
    assert found["skeleton_median_strongest"] > 3 * found["skeleton_median_diagonal"]
    assert found["ratio, diagonal and strongest"] > ratio
    assert found["ratio, two charts at random"] > 1.2
    assert -1 < found["cosine, two charts at random"] < 0.99
    assert found["paper_start_changed"] == 0
    assert 0.02 < found["beyond_the_edge"] < 0.98
    assert found["guard_holds_from_strongest"] > found["guard_holds_from_diagonal"]
    assert found["rebase_weights_changed"] == 0 < found["rebase_edges"]
    assert found["rebased_units"] > 0
    assert found["twin_step_balanced"] < 1e-5
    assert found["twin_step_sgd"] > 0.1
    assert found["paper's: EC-SGD, diagonal"] > trained
    assert found["random: EC-SGD, strongest"] < 0.5
    assert found["random: EC-SGD, balanced"] > balanced
    assert found["balanced_stayed"] < 0.02
    assert found["spurious_gradient"] == 0.0
    assert found["spurious_class_gradient_beside"] == pytest.approx(4.95, rel=1e-9)
    assert found["sharpness_class_deviation"] < 1e-9
    assert abs(found["sharpness_weights_ratio"] - 1) > 0.2


def any_network(found: Numbers, *, m: int, H: int, states: tuple[int, int, int], reasons: list[str]) -> None:
    assert (found["m"], found["H"], found["class_dim"]) == (m, H, m - H)
    assert tuple(found[f"units_{state}"] for state in ("free", "tied", "pinned")) == states
    for words in reasons:
        assert words in found["reasons"]
    assert found["weights_moved"] > 0.1
    assert found["function_moved"] < 1e-13
    assert found["same_class"] is True
    assert found["gap_SGD"] > 1e-5
    for name in ("EC-SGD", "EC-Adam"):
        assert found[f"gap_{name}"] < 1e-12
        assert found[f"loss_fell_{name}"] is True
    assert (found["free_before_rule"], found["free_after_rule"]) == (0, 6)
    assert "the rule of aten.softshrink at '1' does not hold" in found["wrong_rule_refused"]


CASES: dict[str, tuple[str, Numbers, Callable[..., None], Numbers]] = {
    "lab": ("00-lab", {}, lab, {"m": 1440, "H": 32, "steps": 100, "accuracy": 0.8}),
    "lab, points in the plane": (
        "00-lab",
        {"data": "circle", "network": "2-8b-8b-2b", "steps": 60},
        lab,
        {"m": 114, "H": 16, "steps": 60, "accuracy": 0.6},
    ),
    "classes": ("01-equivalent-classes", {}, classes, {"m": 1440, "H": 32, "worst_sgd": 10}),
    "classes of a CNN": (
        "01-equivalent-classes",
        {"network": "1x8x8-c4k3-p2-c8k3-p2-f-10", "sigma": 1.0, "seed": 1},
        classes,
        {"m": 644, "H": 12, "worst_sgd": 1},
    ),
    "paths": (
        "02-path-structure",
        {},
        paths,
        {"m": 36, "H": 10, "count": 192, "paper_rule": 48, "big": 784 * 512**3 * 10, "functional": range(10, 27)},
    ),
    "paths with biases": (
        "02-path-structure",
        {"network": "3-5b-4b-2b", "big": "64-32x5-10", "seed": 1},
        paths,
        {"m": 54, "H": 9, "count": 170, "paper_rule": 46, "big": 64 * 32**5 * 10, "functional": range(30, 46)},
    ),
    "paths of a CNN": (
        "02-path-structure",
        {"network": "1x4x4-c2k3-p2-c2k3-f-3", "top": 3},
        paths,
        {"m": 78, "H": 4, "count": 3888, "paper_rule": 74, "big": 784 * 512**3 * 10, "functional": range(60, 75)}
        | {"dense": False},
    ),
    "race": (
        "03-race-fnn",
        {},
        race_fnn,
        {
            "class_dim": 17_024 - 256,
            "runs": 5,
            "steps": 138,
            "balanced": 0.92,
            "lost": 0.3,
            "apart": 0.02,
        },
    ),
    "race of a CNN": (
        "04-race-cnn",
        {},
        race_cnn,
        {
            "m": 1864,
            "H": 24,
            "count": 414_720,
            "steps": 115,
            "balanced": 0.83,
            "lost": 0.4,
            "apart": 0.06,
        },
    ),
    "residual streams": (
        "05-any-network",
        {},
        any_network,
        {"m": 1085, "H": 22, "states": (12, 30, 3), "reasons": ["it is an output"]},
    ),
    "frozen batch-norm": (
        "05-any-network",
        {"architecture": "batchnorm"},
        any_network,
        {"m": 293, "H": 20, "states": (20, 0, 3), "reasons": ["it is an output"]},
    ),
    "transformer in training": (
        "05-any-network",
        {"architecture": "transformer", "training": True},
        any_network,
        {
            "m": 667,
            "H": 16,
            "states": (16, 0, 211),
            "reasons": ["attention at 'layer.self_attn' lets no scale through"],
        },
    ),
    "gate and ReLU6": (
        "05-any-network",
        {"architecture": "own"},
        any_network,
        {"m": 293, "H": 4, "states": (4, 0, 22), "reasons": ["relu6", "sigmoid", "used more than once"]},
    ),
    "charts": (
        "06-choosing-a-chart",
        {},
        choosing_a_chart,
        {"m": 4416, "H": 96, "ratio": 1e4, "trained": 0.88, "balanced": 0.8},
    ),
    "charts of a CNN": (
        "06-choosing-a-chart",
        {"network": "1x8x8-c4k3-p2-c8k3-p2-f-10", "rates": [0.1], "epochs": 2, "seeds": 1, "draws": 5, "seed": 1},
        choosing_a_chart,
        {"m": 644, "H": 12, "ratio": 100, "trained": 0.5, "balanced": 0.4},
    ),
}

# the same with Fashion-MNIST, which not every machine has
FASHION_CASES: dict[str, tuple[str, Numbers, Callable[..., None], Numbers]] = {
    "race": (
        "03-race-fnn",
        {
            "data": "fashion-mnist",
            "network": "784-64x4-10",
            "limit": 20_000,
            "epochs": 1,
            "lr": 0.05,
            "seeds": 2,
            "rates": [0.1],
        },
        race_fnn,
        {
            "class_dim": 63_104 - 256,
            "runs": 2,
            "steps": 313,
            "balanced": 0.75,
            "lost": 0.3,
            "apart": 0.05,
        },
    ),
    "race of a CNN": (
        "04-race-cnn",
        {
            "data": "fashion-mnist",
            "network": "1x28x28-c4k5s2-p2-c8k3-p2-f-10",
            "activation": "leaky_relu",
            "limit": 6_000,
            "epochs": 1,
            "seeds": 1,
            "unbalance": 2.0,
        },
        race_cnn,
        {
            "m": 1108,
            "H": 12,
            "count": 648_000,
            "steps": 94,
            "balanced": 0.6,
            "lost": 0.3,
            "apart": 0.06,
        },
    ),
}


def run_and_hold(case: tuple[str, Numbers, Callable[..., None], Numbers], folder: Path) -> None:
    name, parameters, holds, expected = case
    output = folder / f"{name}.ipynb"
    found = run(FOLDER / f"{name}.ipynb", parameters, output, timeout=300)
    holds(found, **expected)
    shown = output.read_text(encoding="utf-8")
    assert '"stderr"' not in shown, "a cell warned"
    assert "cdn." not in shown, "an output would fetch something"


@pytest.mark.notebook
@pytest.mark.parametrize("case", CASES)
def test_a_run_records_the_numbers(case: str, tmp_path: Path) -> None:
    run_and_hold(CASES[case], tmp_path)


@pytest.mark.notebook
@pytest.mark.usefixtures("fashion_mnist")
@pytest.mark.parametrize("case", FASHION_CASES)
def test_a_run_on_fashion_mnist_records_the_numbers(case: str, tmp_path: Path) -> None:
    run_and_hold(FASHION_CASES[case], tmp_path)
