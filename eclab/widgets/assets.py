"""What the page needs from disk: its JavaScript as one module, its style sheet, and the Vega bundle.

anywidget takes one JavaScript file, the sources under ``eclab/static`` are several small ones. :func:`join_modules`
puts them into one text: each module once, after those it imports, without its import lines and ``export`` words. That
is a whole bundler as long as the sources keep three rules, which :func:`join_modules` checks: imports are one line
each, name what they take, and no two modules use the same top-level name.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eclab.race.lanes import MOST_LANES

if TYPE_CHECKING:
    from eclab.charts.look import LaneLook

ENTRY = "lab.js"
_IMPORT = re.compile(r"""^import \{([^}]*)\} from "\./([\w-]+\.js)";\s*$""")
_EXPORT = re.compile(r"^export (?!default\b)")
_JSDOC = re.compile(r"/\*\*.*?\*/", re.DOTALL)
_TOP_NAME = re.compile(r"^(?:export )?(?:async )?(?:function\*?|class|const|let|var) +([A-Za-z_$][\w$]*)")


class AssetError(RuntimeError):
    """The page's sources break a rule of the joiner: a mistake in the package, never the user's."""


def join_modules(sources: Mapping[str, str], entry: str = ENTRY) -> str:
    """One ES module out of several.

    Args:
        sources: text of each module by file name.
        entry: the module to start from; its ``export default`` is kept.

    Returns:
        The joined text.

    Raises:
        AssetError: a module is missing, an import is not one plain line, or two modules share a top-level name.

    Example:
        >>> lab = 'import { a } from "./a.js";\\nexport default a;'
        >>> print(join_modules({"lab.js": lab, "a.js": "export const a = 1;"}))
        // a.js
        const a = 1;
        // lab.js
        export default a;
    """
    order: list[str] = []
    _visit(entry, sources, order, ())
    owner: dict[str, str] = {}
    parts = []
    for name in order:
        for line in sources[name].splitlines():
            found = _TOP_NAME.match(line)
            if found and owner.setdefault(found[1], name) != name:
                raise AssetError(f"{owner[found[1]]} and {name} both define {found[1]}; rename one of them")
        body = [_EXPORT.sub("", line) for line in sources[name].splitlines() if not _IMPORT.match(line)]
        parts.append(f"// {name}\n" + _without_comments("\n".join(body)))
    return "\n".join(parts)


def _without_comments(text: str) -> str:
    """Without JSDoc, lines that are only a comment, blank lines and indentation: every saved notebook holds a copy.

    The sources keep to what makes this safe: no string holds the beginning of a JSDoc comment, no template literal
    has more than one line.
    """
    lines = (line.strip() for line in _JSDOC.sub("", text).splitlines())
    return "\n".join(line for line in lines if line and not line.startswith("//"))


def _visit(name: str, sources: Mapping[str, str], order: list[str], above: tuple[str, ...]) -> None:
    if name in order:
        return
    if name in above:
        raise AssetError(f"modules import each other in a circle: {' -> '.join((*above, name))}")
    if name not in sources:
        raise AssetError(f"{above[-1] if above else 'the lab'} needs {name}, which is not there")
    for number, line in enumerate(sources[name].splitlines(), 1):
        found = _IMPORT.match(line)
        if found:
            if " as " in found[1]:
                raise AssetError(f"{name}:{number} renames what it imports")
            _visit(found[2], sources, order, (*above, name))
        elif re.match(r"import\b(?!\()", line):
            raise AssetError(f'{name}:{number} is not of the form: import {{ a, b }} from "./x.js";')
    order.append(name)


def _static(suffix: str) -> dict[str, str]:
    folder = resources.files("eclab").joinpath("static")
    files = sorted((file for file in folder.iterdir() if file.name.endswith(suffix)), key=lambda file: file.name)
    return {file.name: file.read_text(encoding="utf-8") for file in files}


@cache
def esm() -> str:
    """The page's JavaScript as one ES module."""
    return join_modules(_static(".js"))


@cache
def css() -> str:
    """The page's style sheet."""
    return "\n".join(_static(".css").values())


@cache
def vega_bundle() -> bytes:
    """An ES module that exports Vega-Embed as ``embed``, from vl-convert's own copy: nothing is downloaded."""
    import vl_convert

    snippet = "export const embed = vegaEmbed;"
    key = f"vega-{version('vl-convert-python')}-{_digest(snippet)}.js"
    return cached(key, lambda: vl_convert.javascript_bundle(snippet).encode())


@dataclass(frozen=True)
class _Place:
    """A lane of the compiled charts; the page puts the race's lanes into the places of their colours."""

    label: str
    colour: int


def compiled_charts() -> list[dict[str, Any]]:
    """The lab's live charts, compiled to Vega, with a lane for every colour: name, title, note, column, scale, spec.

    They are compiled once and kept in the cache folder, so that Altair is not even imported the next time.
    """
    lanes = [_Place(str(colour), colour) for colour in range(MOST_LANES)]
    key = f"charts-{version('vl-convert-python')}-{_digest(repr(lanes) + _charts_source())}.json"
    found: list[dict[str, Any]] = json.loads(cached(key, lambda: json.dumps(_compile(lanes)).encode()))
    return found


def _compile(lanes: Sequence[LaneLook]) -> list[dict[str, Any]]:
    import vl_convert

    from eclab.charts.live import live_specs

    return [
        {
            "name": one.name,
            "title": one.title,
            "note": one.note,
            "column": one.column,
            "scale": one.scale,
            "spec": vl_convert.vegalite_to_vega(one.spec()),
        }
        for one in live_specs(lanes)
    ]


def _charts_source() -> str:
    """The charts' own source, so that a change of it is not hidden by the cache."""
    folder = resources.files("eclab").joinpath("charts")
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".py")), key=lambda file: file.name)
    return "".join(file.read_text(encoding="utf-8") for file in files)


def cached(key: str, make: Callable[[], bytes]) -> bytes:
    """The bytes stored under ``key`` in the user's cache folder, made when they are not there yet.

    A cache that cannot be read or written costs time and nothing else.
    """
    path = cache_folder() / key
    try:
        return path.read_bytes()
    except OSError:
        content = make()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as part:
            part.write(content)
        Path(part.name).replace(path)
    except OSError as problem:
        return _uncached(content, problem)
    return content


def _uncached(content: bytes, problem: OSError) -> bytes:
    """Reported once to those who look at logs; the page works all the same."""
    import logging

    logging.getLogger("eclab").info("the cache folder cannot be written: %s", problem)
    return content


def cache_folder() -> Path:
    """``$ECLAB_CACHE``, else ``eclab`` in the user's cache folder as the platform has it."""
    if named := os.environ.get("ECLAB_CACHE"):
        return Path(named)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "eclab" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "eclab"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "eclab"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
