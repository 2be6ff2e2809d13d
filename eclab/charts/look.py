"""What all charts have in common: theme, axes, lane colours."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import altair as alt

from eclab.charts.palette import FONT, LANE_COLOURS, LANE_DASHES, THEMES
from eclab.errors import SettingError

Chart = TypeVar("Chart", alt.LayerChart, alt.HConcatChart, alt.VConcatChart, alt.ConcatChart)


class LaneLook(Protocol):
    """What a chart needs to know of a lane."""

    @property
    def label(self) -> str: ...
    @property
    def colour(self) -> int: ...


def check_theme(theme: str) -> str:
    """ "light" or "dark".

    Raises:
        SettingError: any other word.
    """
    if theme not in THEMES:
        raise SettingError(f"the theme is {theme!r}", allowed=" or ".join(f'"{name}"' for name in THEMES))
    return theme


def themed(chart: Chart, theme: str, background: str = "transparent") -> Chart:
    """The chart with the theme's colours and JupyterLab's font."""
    colours = THEMES[check_theme(theme)]
    configured: Chart = chart.configure(
        background=background,
        font=FONT,
        padding=4,
        view=alt.ViewConfig(stroke=None),
        axis=alt.AxisConfig(titleColor=colours["mute"], titleFontSize=11, titleFontWeight="normal"),
        title=alt.TitleConfig(color=colours["ink"], fontSize=12, anchor="start", frame="group", offset=8),
        legend=alt.LegendConfig(
            labelColor=colours["ink"], titleColor=colours["mute"], labelFontSize=12, symbolOpacity=1
        ),
    )
    return configured


MOST_DECADES = 45
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_POWERS = json.dumps(
    [f"10{str(power).translate(_RAISED)}" for power in range(-MOST_DECADES, MOST_DECADES + 1)], ensure_ascii=False
)
_PLAIN = "datum.value === 0 || (abs(datum.value) >= 0.001 && abs(datum.value) < 1e4)"
_DECADE = "round(log(abs(datum.value)) / LN10)"
POWER_LABELS = (
    f"{_PLAIN} ? format(datum.value, '~g') : "
    f"abs(abs(datum.value) / pow(10, {_DECADE}) - 1) > 1e-6 ? format(datum.value, '.1~e') : "
    f"(datum.value < 0 ? '−' : '') + {_POWERS}[{_DECADE} + {MOST_DECADES}]"
)
"""Vega expression for the labels of a log axis: 0.01, 1, 100, 10⁴."""

SYMLOG_TICKS = (0.0, *(sign * 10.0**power for power in range(0, 31, 2) for sign in (-1, 1)))
"""Where a symlog axis has its ticks, as Vega's own choice leaves most of it bare; those outside it are not drawn."""


def axes(theme: str, *, form: str, ticks: int, title: str | None = None) -> alt.Axis:
    """A quiet axis: hairline grid, small labels, no line of its own.

    Args:
        theme: "light" or "dark".
        form: a number format of d3, or "log" or "symlog" for powers of ten.
        ticks: about how many.
        title: what it shows.
    """
    colours = THEMES[check_theme(theme)]
    powers = form in ("log", "symlog")
    labels: dict[str, Any] = {"labelExpr": POWER_LABELS} if powers else {"format": form}
    if form == "symlog":
        labels["values"] = list(SYMLOG_TICKS)
    options: dict[str, Any] = {
        **labels,
        "domain": False,
        "gridColor": colours["grid"],
        "labelColor": colours["mute"],
        "labelFontSize": 10,
        "labelFlush": False,
        "tickColor": colours["line"],
        "tickCount": ticks,
        "tickSize": 0,
        "title": title,
    }
    return alt.Axis(**options)


def lane_colour(lanes: Sequence[LaneLook], theme: str, legend: alt.Legend | None = None) -> alt.Color:
    """Each lane its colour."""
    colours = LANE_COLOURS[check_theme(theme)]
    scale = alt.Scale(
        domain=[lane.label for lane in lanes], range=[colours[lane.colour % len(colours)] for lane in lanes]
    )
    return alt.Color("lane:N", scale=scale, legend=legend)


def lane_dash(lanes: Sequence[LaneLook], legend: alt.Legend | None = None) -> alt.StrokeDash:
    """Further lanes dashed, so that colour is never the only difference."""
    dashes = [list(LANE_DASHES[lane.colour % len(LANE_DASHES)]) or [1, 0] for lane in lanes]
    scale = alt.Scale(domain=[lane.label for lane in lanes], range=dashes)
    return alt.StrokeDash("lane:N", scale=scale, legend=legend)
