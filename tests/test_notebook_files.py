"""Notebooks as they lie in git: no outputs, and parameters that a caller may set."""

from __future__ import annotations

from pathlib import Path

import nbformat

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
EXPECTED = ("00-lab", "01-equivalent-classes", "02-path-structure", "03-race-fnn", "04-race-cnn", "06-choosing-a-chart")


def notebooks() -> dict[str, nbformat.NotebookNode]:
    return {path.stem: nbformat.read(path, as_version=4) for path in sorted(FOLDER.glob("*.ipynb"))}


def test_all_are_there_and_valid() -> None:
    found = notebooks()
    assert set(EXPECTED) <= set(found)
    for notebook in found.values():
        nbformat.validate(notebook)


def test_none_holds_outputs() -> None:
    for name, notebook in notebooks().items():
        assert "widgets" not in notebook.metadata, f"{name}: saved widget state; run make format"
        for number, cell in enumerate(notebook.cells):
            kept = cell.cell_type == "code" and (cell.outputs or cell.execution_count is not None)
            assert not kept, f"{name}, cell {number}: outputs in git; run make format"


def test_each_has_one_parameters_cell() -> None:
    for name, notebook in notebooks().items():
        tagged = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
        assert len(tagged) == 1, f"{name}: {len(tagged)} cells are tagged 'parameters'; papermill needs exactly one"


def test_each_runs_in_the_environments_own_kernel() -> None:
    for name, notebook in notebooks().items():
        assert notebook.metadata["kernelspec"]["name"] == "python3", name
