"""What all charts have in common: theme, axes, lane colours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import altair as alt

from eclab.charts.palette import FONT, LANE_COLOURS, LANE_DASHES, THEMES
from eclab.errors import SettingError

if TYPE_CHECKING:
    from eclab.charts.live import LaneLook

Chart = TypeVar("Chart", alt.LayerChart, alt.HConcatChart, alt.ConcatChart)


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
    return chart.configure(
        background=background,
        font=FONT,
        padding=4,
        autosize=alt.AutoSizeParams(type="fit", contains="padding"),
        view=alt.ViewConfig(stroke=None),
        axis=alt.AxisConfig(titleColor=colours["mute"], titleFontSize=11, titleFontWeight="normal"),
        title=alt.TitleConfig(color=colours["ink"], fontSize=12, anchor="start", offset=8),
        legend=alt.LegendConfig(labelColor=colours["ink"], titleColor=colours["mute"], labelFontSize=12),
    )


def axes(theme: str, *, format: str, ticks: int, title: str | None = None) -> alt.Axis:
    """A quiet axis: hairline grid, small labels, no line of its own."""
    colours = THEMES[check_theme(theme)]
    options: dict[str, Any] = {
        "domain": False,
        "format": format,
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
