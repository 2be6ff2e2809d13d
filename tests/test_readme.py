"""The README's example runs as it stands there, and its commands exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from eclab.network.rules import markdown
from eclab.race import Race, load

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_python_example_runs() -> None:
    code, _ = blocks("python")
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["212", "16", "196"]  # 8·16 + 16 + 16·4 + 4 weights, 16 hidden units


def test_the_race_of_the_example_runs_and_can_be_read_back(tmp_path: Path) -> None:
    _, code = blocks("python")
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = load(tmp_path / "runs" / "first")
    assert done.stdout.startswith("1 sgd ")
    assert done.stdout.rstrip().endswith(str(result))
    assert len(done.stdout[: done.stdout.index("lane ")].splitlines()) == len(result.frame)
    resumed = Race.resume(tmp_path / "runs" / "first.safetensors")
    assert (resumed.position, resumed.finished) == (result.config["position"], True)


def test_the_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"^make (\w+)", "\n".join(blocks("sh")), flags=re.MULTILINE))
    assert named == {"lab", "test"}
    for target in named:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)


def test_every_linked_file_exists() -> None:
    links = [*re.findall(r"\]\(([^):]+)\)", README), *re.findall(r'(?:src|srcset)="([^":]+)"', README)]
    missing = [link for link in links if not (ROOT / link).exists()]
    assert not missing


def test_the_table_of_operations_is_that_of_the_rules() -> None:
    """Written anew with ``python -m eclab.network.rules``."""
    found = re.search(r"<!-- operations: [^>]*-->\n(.*?)<!-- end of operations -->", README, flags=re.DOTALL)
    assert found is not None
    assert found[1] == markdown()
