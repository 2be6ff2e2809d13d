"""The page's sources become one module; what is costly to make is made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from eclab.race.lanes import MOST_LANES
from eclab.widgets import assets
from eclab.widgets.assets import AssetError, cached, compiled_charts, join_modules


def test_modules_come_after_what_they_import_and_once():
    joined = join_modules(
        {
            "lab.js": 'import { b } from "./b.js";\nimport { a } from "./a.js";\nexport default { a, b };',
            "b.js": 'import { a } from "./a.js";\nexport function b() { return a; }',
            "a.js": "export const a = 1;",
        }
    )
    assert joined == ("// a.js\nconst a = 1;\n// b.js\nfunction b() { return a; }\n// lab.js\nexport default { a, b };")


def test_comments_and_indentation_are_dropped():
    source = "/**\n * Doc.\n * @param {number} a\n */\nexport function f(a) {\n  // why\n  return a; // kept\n}\n\n"
    assert join_modules({"lab.js": source}) == "// lab.js\nfunction f(a) {\nreturn a; // kept\n}"


@pytest.mark.parametrize(
    ("sources", "words"),
    [
        ({}, "needs lab.js|lab.js, which is not there"),
        ({"lab.js": 'import { a } from "./gone.js";'}, "lab.js needs gone.js"),
        ({"lab.js": 'import { a as b } from "./a.js";', "a.js": ""}, "renames"),
        ({"lab.js": 'import * as a from "./a.js";', "a.js": ""}, "not of the form"),
        ({"lab.js": "import {\n  a,\n} from './a.js';", "a.js": ""}, "lab.js:1 is not of the form"),
        ({"lab.js": 'import { a } from "./a.js";\nconst a = 2;', "a.js": "export const a = 1;"}, "both define a"),
        (
            {
                "lab.js": 'import { a } from "./a.js";',
                "a.js": 'import { b } from "./b.js";',
                "b.js": 'import { a } from "./a.js";',
            },
            "circle: lab.js -> a.js -> b.js -> a.js",
        ),
    ],
)
def test_what_the_joiner_cannot_join_it_refuses(sources: dict[str, str], words: str):
    with pytest.raises(AssetError, match=words):
        join_modules(sources)


def test_the_page_is_one_small_module():
    esm = assets.esm()
    assert esm.count("export default") == 1
    assert "\nimport " not in esm
    assert "\nexport " not in esm.replace("\nexport default", "")
    assert len(esm.encode()) < 140_000
    assert assets.css()


def test_the_cache_makes_a_thing_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ECLAB_CACHE", str(tmp_path / "new" / "folder"))
    calls = []

    def make() -> bytes:
        calls.append(1)
        return b"made"

    assert [cached("key", make), cached("key", make)] == [b"made", b"made"]
    assert len(calls) == 1
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == ["key"]


def test_a_cache_that_cannot_be_written_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("ECLAB_CACHE", str(blocked))
    assert cached("key", lambda: b"made") == b"made"


@pytest.fixture(scope="module")
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def test_charts_are_compiled_vega_with_a_place_for_every_lane(cache_folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ECLAB_CACHE", str(cache_folder))
    charts = compiled_charts()
    assert {"loss", "accuracy", "gauge"} <= {chart["name"] for chart in charts}
    for chart in charts:
        assert chart["spec"]["$schema"].endswith("/vega/v6.json")
        assert {"curve", "smooth", "events"} <= {data["name"] for data in chart["spec"]["data"]}
        assert {"hoverX", "domainX"} <= {signal["name"] for signal in chart["spec"]["signals"]}
        scales = {scale["name"]: scale for scale in chart["spec"]["scales"]}
        for name in ("color", "strokeDash"):
            assert scales[name]["domain"] == [str(colour) for colour in range(MOST_LANES)]
            assert len(scales[name]["range"]) == MOST_LANES
    assert compiled_charts() == charts
    assert len(list(cache_folder.iterdir())) == 1


def test_the_vega_bundle_is_a_module_without_imports(cache_folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ECLAB_CACHE", str(cache_folder))
    code = assets.vega_bundle().decode()
    assert "as embed}" in code or "export const embed" in code
    assert "import " not in code[:200]
    assert "https://cdn" not in code
