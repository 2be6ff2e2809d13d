"""Data flow one way, and ``import eclab`` is light."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import eclab

PACKAGE = Path(eclab.__file__).parent

CORE = {"errors", "network", "kernels", "paths", "classes"}

# layer -> the layers it may import
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "network": {"errors"},
    "kernels": {"errors"},
    "paths": {"errors", "network", "kernels"},
    "classes": {"errors", "network", "kernels", "paths"},
    "facade": CORE,
    "measures": CORE | {"facade"},
    "optim": CORE,
    "data": {"errors"},
    "race": CORE | {"facade", "optim", "data"},
    "charts": {"errors", "network", "paths", "classes", "race"},
    "widgets": CORE | {"facade", "optim", "data", "race", "charts"},
    "notebook": {"errors"},
    "cli": CORE | {"facade", "optim", "data", "race", "charts", "notebook"},
}

# what a method may reach for at the moment of the call, since the public names put the method there
ON_CALL = {("race", "charts"): "result.chart()", ("measures", "charts"): "landscape(...).chart()"}

# third-party package -> the only layers that may import it
ONLY_IN = {
    "altair": {"charts", "widgets"},
    "anywidget": {"widgets"},
    "cupy": {"kernels"},
    "ipywidgets": {"widgets"},
    "papermill": {"cli", "notebook"},
    "sklearn": {"data"},
    "vl_convert": {"charts", "widgets"},
}

HEAVY = {"altair", "anywidget", "cupy", "IPython", "ipywidgets", "matplotlib", "sklearn", "vl_convert"}


@dataclass(frozen=True)
class Import:
    """One import statement: who, what, and whether it waits until a function is called."""

    file: str
    line: int
    layer: str
    target: str
    late: bool


def layer_of(path: Path) -> str:
    """The layer that a module of the package belongs to; the package's own __init__ belongs to none."""
    first = path.relative_to(PACKAGE).parts[0]
    return "" if first == "__init__.py" else first.removesuffix(".py")


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def targets(node: ast.AST, package: list[str]) -> list[str]:
    """Full dotted names that an import statement (or import_module call) brings in."""
    match node:
        case ast.Import():
            return [alias.name for alias in node.names]
        case ast.ImportFrom():
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            return [f"eclab.{alias.name}" for alias in node.names] if module == "eclab" else [module]
        case ast.Call(func=ast.Attribute(attr="import_module") | ast.Name(id="import_module")):
            return [arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
        case _:
            return []


def walk(node: ast.AST, late: bool = False) -> list[tuple[ast.AST, bool]]:
    """Every node with whether it lies within a function or a TYPE_CHECKING block."""
    found = [(node, late)]
    inner = late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or is_type_checking(node)
    for child in ast.iter_child_nodes(node):
        found += walk(child, inner)
    return found


def imports_of(path: Path) -> list[Import]:
    package = ["eclab", *path.relative_to(PACKAGE).parts[:-1]]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [
        Import(str(path.relative_to(PACKAGE.parent)), getattr(node, "lineno", 0), layer_of(path), target, late)
        for node, late in walk(tree)
        for target in targets(node, package)
    ]


def all_imports() -> list[Import]:
    return [found for path in sorted(PACKAGE.rglob("*.py")) if layer_of(path) for found in imports_of(path)]


def refusal(found: Import) -> str | None:
    """Why an import breaks the table, or None."""
    top, *rest = found.target.split(".")
    if top != "eclab":
        allowed = ONLY_IN.get(top, {found.layer})
        return None if found.layer in allowed else f"{top} belongs to {', '.join(sorted(allowed))}"
    if not rest:
        return "imports the whole package; import the module that defines the name"
    if rest[0] == "__version__":
        return None
    layer = rest[0] if rest[0] in MAY_IMPORT else eclab._HOME.get(rest[0], f"eclab.{rest[0]}").split(".")[1]
    if layer == found.layer or layer in MAY_IMPORT.get(found.layer, set()):
        return None
    if found.late and (found.layer, layer) in ON_CALL:
        return None
    return f"{found.layer} may not import {layer}"


def test_every_module_stands_in_a_layer() -> None:
    layers = {layer_of(path) for path in PACKAGE.rglob("*.py")} - {""}
    assert layers <= set(MAY_IMPORT), f"not in the layer table: {layers - set(MAY_IMPORT)}"


def test_contributing_shows_the_layers_in_their_order() -> None:
    rows = re.findall(r"^\| `eclab/(\w+)[./]", (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.M)
    assert rows == list(MAY_IMPORT)
    for place, layer in enumerate(rows):
        assert MAY_IMPORT[layer] <= set(rows[:place]), f"{layer} stands above what it imports"


def test_layers_import_only_what_stands_above_them() -> None:
    broken = [f"{found.file}:{found.line}: {why}" for found in all_imports() if (why := refusal(found))]
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize(
    ("source", "broken"),
    [
        ("from eclab.race import Race", True),
        ("from eclab import Race", True),
        ("from ..race.store import save", True),
        ("import eclab.widgets.lab", True),
        ("import eclab", True),
        ("import altair", True),
        ("def f():\n    import sklearn.datasets", True),
        ("def f():\n    import importlib\n    importlib.import_module('eclab.race')", True),
        ("from eclab.paths import Chart", True),
        ("def f():\n    from eclab.paths import Chart", True),
        ("from ..errors import TraceError", False),
        ("from .spec import NetworkSpec", False),
        ("from eclab import TraceError, __version__", False),
    ],
)
def test_the_walk_sees_each_kind_of_import(
    source: str, broken: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path / "eclab")
    module = tmp_path / "eclab" / "network" / "trial.py"
    module.parent.mkdir(parents=True)
    module.write_text(source, encoding="utf-8")
    assert any(map(refusal, imports_of(module))) == broken


def test_only_a_late_import_may_use_the_exceptions() -> None:
    early, late = (Import("eclab/race/result.py", 1, "race", "eclab.charts", late) for late in (False, True))
    assert refusal(early) == "race may not import charts"
    assert refusal(late) is None


def loaded_after(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after the statement."""
    code = f"import sys; {statement}; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_import_eclab_loads_nothing_heavy() -> None:
    loaded = loaded_after("import eclab; dir(eclab); eclab.EclabError")
    assert not loaded & (HEAVY | {"numpy", "pandas", "torch"})


def test_the_core_needs_neither_charts_nor_widgets() -> None:
    loaded = loaded_after("import eclab; eclab.trace; eclab.ECSGD; eclab.same_class")
    assert not loaded & HEAVY


def test_a_race_needs_neither_charts_nor_widgets() -> None:
    assert not loaded_after("import eclab; eclab.Race; eclab.Result") & (HEAVY - {"sklearn"})


def test_every_public_name_resolves() -> None:
    for name in eclab.__all__:
        assert getattr(eclab, name) is not None
    assert set(eclab.__all__) <= set(dir(eclab))


def test_the_three_lists_of_public_names_agree() -> None:
    tree = ast.parse(Path(eclab.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if is_type_checking(node))
    typed = {
        (f"{statement.module}.{alias.name}")
        for statement in ast.walk(block)
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    lazy = {f"{module}.{name}" for name, module in eclab._HOME.items()} | {f"eclab.{name}" for name in eclab._MODULES}
    assert typed == lazy
    assert sorted(eclab.__all__) == sorted({*eclab._HOME, *eclab._MODULES, "__version__"})


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'Racer'.*Race"):
        _ = eclab.Racer  # type: ignore[attr-defined]
