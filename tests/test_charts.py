"""Charts: palette, what is drawn, and the live specifications the lab feeds."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import vl_convert
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from eclab.charts import (
    LANE_COLOURS,
    LANE_DASHES,
    LANE_TEXT,
    THEMES,
    accuracy_chart,
    gauge_chart,
    gradient_chart,
    live_specs,
    loss_chart,
    race_chart,
    smooth,
    speed_chart,
    thin,
)
from eclab.charts.series import MOST_POINTS, finite, limits, rounded
from eclab.errors import SettingError
from eclab.race import Race, Result, parse_lanes

# -- palette ----------------------------------------------------------------------------------------------------------

# Machado, Oliveira, Fernandes 2009, severity 1
BLINDNESS = {
    "none": np.eye(3),
    "protan": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.052]]
    ),
    "deutan": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]
    ),
    "tritan": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]]
    ),
}
SEEN = 0.04
"""Distance in OKLab at which two thin lines are told apart; about twice the smallest that side by side shows."""


def linear(colour: str) -> NDArray[np.float64]:
    part = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted(float(linear(colour) @ [0.2126, 0.7152, 0.0722]) for colour in (one, other))
    return (lighter + 0.05) / (darker + 0.05)


def oklab(light: NDArray[np.float64]) -> NDArray[np.float64]:
    cones = np.array(
        [
            [0.4122214708, 0.5363325363, 0.0514459929],
            [0.2119034982, 0.6806995451, 0.1073969566],
            [0.0883024619, 0.2817188376, 0.6299787005],
        ]
    )
    axes = np.array(
        [
            [0.2104542553, 0.7936177850, -0.0040720468],
            [1.9779984951, -2.4285922050, 0.4505937099],
            [0.0259040371, 0.7827717662, -0.8086757660],
        ]
    )
    lab: NDArray[np.float64] = axes @ np.cbrt(cones @ np.clip(light, 0, 1))
    return lab


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_lane_colours_have_contrast_as_lines_and_as_text(theme: str) -> None:
    for ground in (THEMES[theme]["background"], THEMES[theme]["panel"]):
        assert all(contrast(colour, ground) >= 3 for colour in LANE_COLOURS[theme])
        assert all(contrast(colour, ground) >= 4.5 for colour in LANE_TEXT[theme])
        assert contrast(THEMES[theme]["mute"], ground) >= 4.5
        assert contrast(THEMES[theme]["warn"], ground) >= 4.5


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("kind", BLINDNESS)
def test_lane_colours_are_told_apart(theme: str, kind: str) -> None:
    seen = [oklab(BLINDNESS[kind] @ linear(colour)) for colour in LANE_COLOURS[theme]]
    apart = {pair: np.linalg.norm(seen[pair[0]] - seen[pair[1]]) for pair in itertools.combinations(range(8), 2)}
    assert min(apart.values()) > SEEN
    assert apart[0, 1] > 3 * SEEN, "SGD and EC-SGD at a glance"


def test_further_lanes_differ_without_any_colour() -> None:
    assert len(LANE_DASHES) == len(LANE_COLOURS["light"]) == 8
    assert LANE_DASHES[:2] == ((), ())
    assert len(set(LANE_DASHES[2:])) == 6


# -- series -----------------------------------------------------------------------------------------------------------

NUMBERS = arrays.arrays(float, st.integers(1, 3000), elements=st.floats(-1e6, 1e6))


@given(NUMBERS, st.integers(4, 5000))
def test_thinning_keeps_real_points_the_ends_and_the_extremes(y: NDArray[np.float64], points: int) -> None:
    x = np.arange(len(y), dtype=float)
    kept, values = thin(x, y, points)
    assert len(kept) <= min(points, MOST_POINTS) or len(kept) == len(y) <= MOST_POINTS
    assert (y[kept.astype(int)] == values).all()
    assert (np.diff(kept) > 0).all()
    assert (kept[0], kept[-1]) == (0, len(y) - 1)
    assert (values.min(), values.max()) == (y.min(), y.max())


@given(NUMBERS, st.floats(0, 0.99))
def test_smoothing_stays_within_the_values_and_has_no_start_up_bias(y: NDArray[np.float64], weight: float) -> None:
    x = np.arange(len(y), dtype=float)
    places, line = smooth(x, y, weight)
    assert len(places) == len(line) <= 200
    slack = 1e-6 * (1 + np.abs(y).max())
    assert y.min() - slack <= line.min()
    assert line.max() <= y.max() + slack
    assert np.isclose(line[0], y[: max(1, int(places[0]) + 1)].mean(), atol=slack)


def test_finite_and_rounded() -> None:
    x, y = finite([1, 2, math.nan, 4, 5], [1.0, math.inf, 3.0, -4.0, 0.0])
    assert (x.tolist(), y.tolist()) == ([1, 4, 5], [1, -4, 0])
    assert finite([1, 2], [0.0, 1.0], positive=True)[0].tolist() == [2]
    assert rounded(123456789.0) == 123457000
    assert rounded(-1.23456789e-12) == -1.23457e-12
    assert rounded(0.0) == 0


def test_empty_series() -> None:
    assert [len(part) for part in (*thin([], []), *smooth([], []))] == [0, 0, 0, 0]


# -- charts for notebooks ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def result() -> Result:
    race = Race(
        "64-12-10", "digits", lanes="sgd:1e12,ec-sgd:0.1,sgd:0.1", device="cpu", epochs=2, batch_size=16, seed=1
    )
    race.run(steps=30)
    race.unbalance(1.0)
    race.set_lr("sgd-2", 0.05)
    return race.run()


def drawn(chart: Any) -> dict[str, Any]:
    form: dict[str, Any] = chart.to_dict()
    return form


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_chart_of_a_race_compiles_and_draws(result: Result, theme: str) -> None:
    form = drawn(result.chart(theme=theme))
    assert [panel["title"] for panel in form["concat"]] == [
        *("Loss", "Test accuracy", "Gradient norm"),
        *("Gauge drift", "Speed"),
    ]
    svg = vl_convert.vegalite_to_svg(json.dumps(form))
    assert LANE_COLOURS[theme][1] in svg
    assert "unbalanced" in svg
    assert "NaN" not in svg
    assert "Infinity" not in json.dumps(form)


def test_one_zoom_and_one_crosshair_for_all_panels(result: Result) -> None:
    form = drawn(result.chart())
    names = [layer["name"] for panel in form["concat"] for layer in panel["layer"] if "name" in layer]
    assert {param["name"]: param["views"] for param in form["params"]} == {"hover": names, "zoom": names}
    signals = {signal["name"] for signal in vl_convert.vegalite_to_vega(form)["signals"]}
    assert {"hover", "zoom", "zoom_x"} <= signals
    assert "autosize" not in form.get("config", {}), "it is for single charts only"
    assert form["resolve"]["scale"]["x"] == "shared"


def test_no_line_has_more_points_than_it_may() -> None:
    import pandas as pd

    steps = np.arange(1, 20_001)
    wave = 1.5 + np.sin(steps / 500)
    columns = ["epoch", "time", "loss", "train_acc", "test_acc", "grad_norm", "gauge_drift", "lr"]
    frame = pd.DataFrame(dict.fromkeys(columns, wave) | {"step": steps, "lane": "sgd", "guarded": 0})
    frame["ms_forward_backward"] = frame["ms_step"] = 1.0
    form = drawn(race_chart(frame, points=100_000))
    sizes = [len(rows) for rows in form["datasets"].values()]
    assert 0.9 * MOST_POINTS < max(sizes) <= MOST_POINTS
    usual = drawn(race_chart(frame))
    assert max(len(rows) for rows in usual["datasets"].values()) <= 240
    assert len(json.dumps(usual)) < 150_000


@pytest.mark.parametrize("draw", [loss_chart, accuracy_chart, gradient_chart, gauge_chart, speed_chart])
@pytest.mark.parametrize("x", ["step", "epoch", "time"])
def test_single_charts(result: Result, draw: Any, x: str) -> None:
    form = drawn(draw(result.frame, result.lanes, events=result.events, x=x))
    svg = vl_convert.vegalite_to_svg(json.dumps(form))
    assert "NaN" not in svg
    assert {"step": "step", "epoch": "epoch", "time": "seconds of training"}[x] in svg


def test_what_is_drawn_is_what_was_recorded(result: Result) -> None:
    form = drawn(accuracy_chart(result.frame, result.lanes))
    rows = [row for data in form["datasets"].values() for row in data if row.get("lane") == "EC-SGD"]
    records = result.frame[(result.frame["lane"] == "ec-sgd") & result.frame["test_acc"].notna()]
    assert [row["x"] for row in rows] == records["step"].tolist()
    assert [row["y"] for row in rows] == [rounded(value) for value in records["test_acc"]]


def test_events_at_one_step_are_one_mark_and_divergence_is_a_warning(result: Result) -> None:
    form = drawn(loss_chart(result.frame, result.lanes, events=result.events))
    marks = [row for data in form["datasets"].values() for row in data if "text" in row]
    assert [mark["kind"] for mark in marks] == ["diverged", ""]
    assert "unbalanced, σ = 1; SGD lr 0.1 lr 0.1 → 0.05" in [mark["text"] for mark in marks]
    assert ": " in marks[0]["text"], "which layer it was is for the hint"
    assert marks[0]["text"].startswith(marks[0]["short"] + ": "), "that it diverged, and when, is for the picture"


def test_a_lane_that_diverges_does_not_squeeze_the_others(result: Result) -> None:
    assert result.frame["grad_norm"].max() > 1e6
    scale = drawn(gradient_chart(result.frame, result.lanes))["layer"][0]["encoding"]["y"]["scale"]
    kept = result.frame[result.frame["lane"] == "ec-sgd"]["grad_norm"]
    assert kept.max() < scale["domainMax"] < 1e6
    assert limits([]) == (None, None)
    assert limits([-1.0] * 99 + [-1e9]) == (-30.0, None)


def test_a_frame_alone_has_its_lanes_in_their_colours(result: Result) -> None:
    svg = vl_convert.vegalite_to_svg(json.dumps(drawn(accuracy_chart(result.frame))))
    assert LANE_COLOURS["light"][1] in svg
    assert LANE_COLOURS["light"][2] in svg


@pytest.mark.parametrize(
    ("look", "text"),
    [
        ({"theme": "pink"}, "the theme is 'pink'"),
        ({"x": "hour"}, "the x axis is 'hour'"),
        ({"smoothing": 1.0}, "the smoothing is 1.0"),
        ({"colour": "red"}, "no setting colour"),
    ],
)
def test_bad_settings_are_refused(result: Result, look: dict[str, Any], text: str) -> None:
    with pytest.raises(SettingError, match=text):
        race_chart(result.frame, **look)
    with pytest.raises(SettingError, match="no records"):
        race_chart(result.frame.iloc[:0])


# -- live specifications ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compiled() -> dict[str, dict[str, Any]]:
    specs = live_specs(parse_lanes("sgd,ec-sgd,sgd"))
    return {spec.name: vl_convert.vegalite_to_vega(json.dumps(spec.spec())) for spec in specs}


def test_live_charts_have_their_named_data_and_signals(compiled: dict[str, dict[str, Any]]) -> None:
    assert list(compiled) == ["loss", "loss-linear", "accuracy", "train-accuracy", "gradient", "gauge", "speed"]
    for vega in compiled.values():
        assert {"curve", "smooth", "events"} <= {data["name"] for data in vega["data"]}
        assert {"hoverX", "domainX"} <= {signal["name"] for signal in vega["signals"]}
        assert {"x", "y", "color"} <= {scale["name"] for scale in vega["scales"]}
        assert vega["autosize"] == {"type": "fit", "contains": "padding"}
        assert len(json.dumps(vega)) < 12_000


def test_live_charts_load_nothing_and_hold_no_numbers(compiled: dict[str, dict[str, Any]]) -> None:
    for vega in compiled.values():
        assert "url" not in json.dumps(vega["data"])
        assert all(data.get("values", [{}]) == [{}] for data in vega["data"])


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_live_charts_have_the_lanes_colours(theme: str) -> None:
    spec = live_specs(parse_lanes("sgd,ec-sgd"), theme)[0].spec()
    scale = spec["layer"][0]["encoding"]["color"]["scale"]
    assert (scale["domain"], scale["range"]) == (["SGD", "EC-SGD"], list(LANE_COLOURS[theme][:2]))


def fed(vega: dict[str, Any], **signals: Any) -> str:
    rows = [{"lane": lane, "x": x, "y": 10.0 ** (-x / 50)} for lane in ("SGD", "EC-SGD") for x in range(1, 101)]
    form = json.loads(json.dumps(vega))
    for data in form["data"]:
        if data["name"] in ("curve", "smooth"):
            data["values"] = rows
        if data["name"] == "events":
            data["values"] = [{"x": 40, "text": "SGD diverged", "kind": "diverged"}]
    for signal in form["signals"]:
        signal["value"] = signals.get(signal["name"])
    svg: str = vl_convert.vega_to_svg(form)
    return svg


def test_live_charts_draw_what_they_are_fed(compiled: dict[str, dict[str, Any]]) -> None:
    for name, vega in compiled.items():
        svg = fed(vega)
        assert "SGD diverged" in svg, name
        assert THEMES["light"]["warn"] in svg
        assert "NaN" not in svg


def test_the_crosshair_and_the_zoom_follow_their_signals(compiled: dict[str, dict[str, Any]]) -> None:
    vega = compiled["loss"]
    plain, zoomed = fed(vega), fed(vega, domainX=[40, 50])
    assert ">80<" in plain
    assert ">42<" in zoomed
    assert ">80<" not in zoomed
    assert 'x2="0"' in plain
    ink = THEMES["light"]["ink"]
    assert fed(vega, hoverX=50).count(f'stroke="{ink}"') == plain.count(f'stroke="{ink}"')
    assert fed(vega, hoverX=50) != plain


def test_log_axes_are_labelled_in_powers_of_ten(compiled: dict[str, dict[str, Any]]) -> None:
    form = json.loads(json.dumps(compiled["gradient"]))
    for data in form["data"]:
        if data["name"] in ("curve", "smooth"):
            data["values"] = [{"lane": "SGD", "x": x, "y": 10.0 ** (2 * x - 8)} for x in range(1, 8)]
    svg = vl_convert.vega_to_svg(form)
    assert "10⁴" in svg
    assert "10⁻⁶" in svg
    assert ">1<" in svg


def test_importing_eclab_loads_no_charts() -> None:
    code = "import sys, eclab, eclab.race; sys.exit('altair' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
