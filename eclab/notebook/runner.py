"""Runs a notebook from top to bottom without a browser, with other parameters."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eclab import errors
from eclab.errors import EclabError, SettingError
from eclab.notebook.records import Plain, cells_of, recorded


def parameter_names(path: str | Path) -> tuple[str, ...]:
    """The parameters of a notebook: the names its cell tagged "parameters" sets, in their order.

    Raises:
        SettingError: there is no such file, or it is no notebook.
    """
    import papermill

    cells_of(path)  # papermill's own complaint would be a traceback through the upgrade of older formats
    return tuple(papermill.inspect_notebook(str(path)))


def run(
    path: str | Path,
    parameters: Mapping[str, Any] | None = None,
    output: str | Path | None = None,
    *,
    timeout: float | None = None,
    progress: bool = False,
) -> dict[str, Plain]:
    """Runs a notebook in a fresh kernel and blocks until its last cell is done.

    Args:
        path: the notebook; it is not changed. Its cells run in its folder.
        parameters: values by name for its cell tagged "parameters"; plain numbers, texts, True, False, None, and lists
            and dicts of these.
        output: where the notebook with its outputs is written, also when a cell fails; nowhere without it.
        timeout: seconds that one cell may take.
        progress: whether to show a progress bar.

    Returns:
        What its cells gave to :func:`eclab.record`, by name.

    Raises:
        SettingError: a parameter is unknown or no plain value, which is found before anything runs; or it is refused by
            the notebook's own check.
        EclabError: a cell failed.

    Example::

        numbers = run("notebooks/01-equivalent-classes.ipynb", {"sigma": 1.0}, output="runs/01.ipynb")
    """
    known, given = parameter_names(path), dict(parameters or {})
    _refuse_unknown(path, given, known)
    for name, value in given.items():
        if not _is_plain(value):
            raise SettingError(
                f"the parameter {name} is of type {type(value).__name__}",
                allowed="numbers, texts, True, False, None, and lists and dicts of these",
            )
    return recorded(_execute(Path(path), given, None if output is None else Path(output), timeout, progress))


def _execute(path: Path, given: dict[str, Any], output: Path | None, timeout: float | None, progress: bool) -> Any:
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    target = None if output is None else str(output.resolve())
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
    try:
        return papermill.execute_notebook(
            str(path.resolve()),
            target,
            given,
            progress_bar=progress,
            cwd=str(path.resolve().parent),
            execution_timeout=None if timeout is None else math.ceil(timeout),
        )
    except papermill.PapermillExecutionError as error:
        raise _from_kernel(path, error, target) from error
    except CellTimeoutError as error:
        raise EclabError(f"a cell of {path} took longer than {timeout} s", fix="give it a longer timeout") from error
    except DeadKernelError as error:
        raise EclabError(f"the kernel of {path} died", fix="look at the memory and the log of Jupyter") from error


def _refuse_unknown(path: str | Path, given: Mapping[str, Any], known: tuple[str, ...]) -> None:
    unknown = [name for name in given if name not in known]
    if not unknown:
        return
    close = difflib.get_close_matches(unknown[0], known, n=1)
    raise SettingError(
        f"{Path(path).name} has no parameter {', '.join(map(repr, unknown))}",
        allowed=", ".join(known) or "none; no cell of it is tagged parameters",
        fix=f"did you mean {close[0]!r}?" if close else None,
    )


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(one) for key, one in value.items())
    return value is None or type(value) in (bool, int, float, str)


def _from_kernel(path: Path, error: Any, output: str | None) -> EclabError:
    """The error of a cell: eclab's own ones as they were, others with the place where they came up."""
    kind = getattr(errors, str(error.ename), None)
    if isinstance(kind, type) and issubclass(kind, EclabError):
        return kind(str(error.evalue))
    where = f"; {output} holds the traceback" if output else ""
    return EclabError(f"cell {error.cell_index + 1} of {path.name} failed with {error.ename}: {error.evalue}{where}")
