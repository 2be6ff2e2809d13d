"""Slices of the loss -> Altair charts: a map for two axes, lines for one; grey where a number is missing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import altair as alt
import numpy as np
from numpy.typing import NDArray

from eclab.charts.look import POWER_LABELS, axes, check_theme, themed
from eclab.charts.palette import LANE_COLOURS, THEMES
from eclab.charts.series import rounded

SIDE = 190
_RAMPS = {"light": ["#f4f8fb", "#9cc4e4", "#2b7bba", "#0b2f52"], "dark": ["#12202c", "#1f4d75", "#63b0ee", "#eaf5ff"]}
"""Small to large values; both ends stay apart from the grey of what is missing."""


_BLEED = 1.04
"""Cells overlap a little, or the ground would show between them as a grid."""

_FAINTEST = 0.02
"""The share of smallest values drawn alike, in the ramp's first colour: a value near 0 would take all of it."""


class SliceLike(Protocol):
    """What a chart needs of a slice."""

    @property
    def space(self) -> str: ...
    @property
    def axes(self) -> tuple[str, ...]: ...
    @property
    def a(self) -> NDArray[np.float64]: ...
    @property
    def b(self) -> NDArray[np.float64]: ...
    @property
    def centre(self) -> tuple[float, float]: ...
    @property
    def loss(self) -> NDArray[np.float64]: ...
    @property
    def gradient(self) -> NDArray[np.float64]: ...
    @property
    def class_gradient(self) -> NDArray[np.float64]: ...
    @property
    def reasons(self) -> tuple[tuple[str, ...], ...]: ...


def landscape_chart(slices: Sequence[SliceLike], *, theme: str = "light") -> Any:
    """Loss and gradients of some slices, one row a space.

    Args:
        slices: such as `Landscape.slices`.
        theme: "light" or "dark".

    Returns:
        An Altair chart. A cross marks the network itself. What is missing is grey and tells its reason when hovered.

    Raises:
        SettingError: an unknown theme.
    """
    check_theme(theme)
    rows = [alt.HConcatChart(hconcat=_panels(found, theme), spacing=26) for found in slices]
    return themed(alt.VConcatChart(vconcat=rows, spacing=26), theme, THEMES[theme]["background"])


def _panels(found: SliceLike, theme: str) -> list[Any]:
    where = "weight space" if found.space == "weights" else "class space"
    columns = [(f"Loss, {where}", found.loss), ("Length of ∂L/∂v", found.class_gradient)]
    if found.space == "weights":
        columns.insert(1, ("Length of ∂L/∂w", found.gradient))
    draw = _map if len(found.axes) == 2 else _line
    return [draw(found, title, values, theme) for title, values in columns]


def _cells(found: SliceLike, values: NDArray[np.float64]) -> list[dict[str, Any]]:
    """One row a point: its cell, its value or why there is none."""
    half_a, half_b = (_BLEED * float(grid[1] - grid[0]) / 2 if len(grid) > 1 else 0.5 for grid in (found.a, found.b))
    return [
        {
            "a": rounded(float(a)),
            "b": rounded(float(b)),
            "a1": rounded(float(a) - half_a),
            "a2": rounded(float(a) + half_a),
            "b1": rounded(float(b) - half_b),
            "b2": rounded(float(b) + half_b),
            "value": rounded(float(values[i, j])) if math.isfinite(values[i, j]) else None,
            "reason": found.reasons[i][j],
        }
        for i, b in enumerate(found.b)
        for j, a in enumerate(found.a)
    ]


def _map(found: SliceLike, title: str, values: NDArray[np.float64], theme: str) -> Any:
    cells = _cells(found, values)
    known = [cell for cell in cells if cell["value"] is not None]
    missing = [cell for cell in cells if cell["value"] is None]
    x = alt.X("a1:Q", scale=alt.Scale(nice=False, zero=False), axis=_axis(theme, found.axes[0]))
    y = alt.Y("b1:Q", scale=alt.Scale(nice=False, zero=False), axis=_axis(theme, found.axes[1]))
    corners = {"x": x, "x2": "a2:Q", "y": y, "y2": "b2:Q"}
    tips = [
        alt.Tooltip("a:Q", title=found.axes[0], format=".4~g"),
        alt.Tooltip("b:Q", title=found.axes[1], format=".4~g"),
    ]
    layers: list[Any] = []
    if known:
        shown = [*tips, alt.Tooltip("value:Q", title=title, format=".4~g")]
        colour = alt.Color("value:Q", scale=_scale(known, theme), legend=_legend(theme))
        layers.append(
            alt.Chart(alt.InlineData(values=known)).mark_rect().encode(**corners, color=colour, tooltip=shown)
        )
    if missing:
        told = [*tips, alt.Tooltip("reason:N", title="missing")]
        grey = alt.Chart(alt.InlineData(values=missing)).mark_rect(color=THEMES[theme]["line"])
        layers.append(grey.encode(**corners, tooltip=told))
    layers.append(_cross(found, theme))
    return alt.LayerChart(layer=layers, title=title, width=SIDE, height=SIDE).resolve_scale(color="independent")


def _line(found: SliceLike, title: str, values: NDArray[np.float64], theme: str) -> Any:
    cells = _cells(found, values)
    known = [cell for cell in cells if cell["value"] is not None]
    missing = [cell for cell in cells if cell["value"] is None]
    ends = [float(found.a[0]), float(found.a[-1])]
    x = alt.X("a:Q", scale=alt.Scale(domain=ends, nice=False), axis=_axis(theme, found.axes[0]))
    y = alt.Y("value:Q", scale=alt.Scale(zero=True), axis=axes(theme, form="~g", ticks=5, title=None))
    tips = [alt.Tooltip("a:Q", title=found.axes[0], format=".4~g")]
    layers: list[Any] = []
    if missing:
        across = alt.X("a1:Q", scale=alt.Scale(domain=ends, nice=False), axis=_axis(theme, found.axes[0]))
        grey = alt.Chart(alt.InlineData(values=missing)).mark_rect(color=THEMES[theme]["line"], clip=True)
        layers.append(grey.encode(x=across, x2="a2:Q", tooltip=[*tips, alt.Tooltip("reason:N", title="missing")]))
    shown = [*tips, alt.Tooltip("value:Q", title=title, format=".4~g")]
    line = alt.Chart(alt.InlineData(values=known)).mark_line(
        color=LANE_COLOURS[theme][1], strokeWidth=2, point=alt.OverlayMarkDef(size=14, filled=True)
    )
    layers.append(line.encode(x=x, y=y, tooltip=shown))
    here = alt.Chart(alt.InlineData(values=[{"a": found.centre[0]}]))
    layers.append(here.mark_rule(color=THEMES[theme]["mute"], strokeDash=[3, 3], clip=True).encode(x="a:Q"))
    return alt.LayerChart(layer=layers, title=title, width=SIDE * 1.25, height=SIDE)


def _cross(found: SliceLike, theme: str) -> Any:
    """Where the network is; outside the picture it is left out."""
    inside = all(grid[0] <= at <= grid[-1] for at, grid in zip(found.centre, (found.a, found.b), strict=True))
    place = [{"a": found.centre[0], "b": found.centre[1]}] if inside else []
    mark = alt.Chart(alt.InlineData(values=place)).mark_point(
        shape="cross", angle=45, size=90, filled=True, color=LANE_COLOURS[theme][0], stroke=THEMES[theme]["background"]
    )
    return mark.encode(x="a:Q", y="b:Q")


def _scale(known: Sequence[dict[str, Any]], theme: str) -> alt.Scale:
    """Logarithmic, as losses and gradients go over many decades; an exact 0 is drawn as the smallest value."""
    sizes = [cell["value"] for cell in known if cell["value"] > 0]
    if not sizes or min(sizes) == max(sizes):
        return alt.Scale(range=_RAMPS[theme])
    low = rounded(float(np.quantile(sizes, _FAINTEST)))
    return alt.Scale(type="log", range=_RAMPS[theme], domain=[low, max(sizes)], clamp=True, nice=False)


def _axis(theme: str, title: str) -> alt.Axis:
    return axes(theme, form="~g", ticks=5, title=title)


def _legend(theme: str) -> alt.Legend:
    return alt.Legend(
        title=None, orient="right", gradientLength=SIDE - 40, gradientThickness=9, labelExpr=POWER_LABELS,
        labelColor=THEMES[theme]["mute"], labelFontSize=9, tickCount=4,
    )  # fmt: skip
