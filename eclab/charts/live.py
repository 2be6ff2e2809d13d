"""Charts the lab draws once and then feeds: specifications with named data and signals instead of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from eclab.charts.look import LaneLook, axes, lane_colour, lane_dash, themed
from eclab.charts.palette import THEMES

WIDTH, HEIGHT = 320, 168


@dataclass(frozen=True)
class LiveSpec:
    """One live chart.

    Args:
        name: "loss", "loss-linear", "accuracy", "train-accuracy", "gradient", "gauge" or "speed".
        title: to be written above it.
        note: what is on the y axis, in a few words.
        column: the record's column that is drawn; for "speed" it is "ms", forward, backward and step together.
        scale: "log" (positive values only), "linear" or "symlog".
        chart: the Altair chart. Its data sources "curve" and "smooth" take rows {lane, x, y}, "events" takes rows
            {x, text, kind}. Its parameters, signals in Vega, are "hoverX", the crosshair's x or null, and "domainX",
            the zoom [from, to] or null for everything; "width" and "height" are the whole size in pixels.
    """

    name: str
    title: str
    note: str
    column: str
    scale: str
    chart: alt.LayerChart

    def spec(self) -> dict[str, Any]:
        """The Vega-Lite specification, ready to be compiled."""
        form: dict[str, Any] = self.chart.to_dict(validate=True)
        return form


@dataclass(frozen=True)
class _Kind:
    name: str
    title: str
    note: str
    column: str
    scale: str
    format: str = "~g"
    domain: tuple[float, float] | None = None


_KINDS = (
    _Kind("loss", "Loss", "cross-entropy of the batch, log", "loss", "log", "log"),
    _Kind("loss-linear", "Loss", "cross-entropy of the batch", "loss", "linear"),
    _Kind("accuracy", "Test accuracy", "share of the test data", "test_acc", "linear", "~%", (0.0, 1.0)),
    _Kind("train-accuracy", "Training accuracy", "share of the batch", "train_acc", "linear", "~%", (0.0, 1.0)),
    _Kind("gradient", "Gradient norm", "‖∂L/∂w‖, log", "grad_norm", "log", "log"),
    _Kind("gauge", "Gauge drift", "Σ ‖in‖² − ‖out‖²", "gauge_drift", "symlog", "symlog"),
    _Kind("speed", "Speed", "steps a second", "ms", "linear", "~s"),
)


def live_specs(lanes: Sequence[LaneLook], theme: str = "light") -> tuple[LiveSpec, ...]:
    """The lab's charts for these lanes: compile each once, then only feed its data and signals.

    Args:
        lanes: what has a label and a colour, such as `Race.lanes`.
        theme: "light" or "dark".

    Example:
        >>> from eclab.race import parse_lanes
        >>> specs = live_specs(parse_lanes("sgd,ec-sgd"))
        >>> [spec.name for spec in specs][:3], sorted(param["name"] for param in specs[0].spec()["params"])
        (['loss', 'loss-linear', 'accuracy'], ['domainX', 'hoverX'])
    """
    return tuple(
        LiveSpec(kind.name, kind.title, kind.note, kind.column, kind.scale, _chart(kind, lanes, theme))
        for kind in _KINDS
    )


def _chart(kind: _Kind, lanes: Sequence[LaneLook], theme: str) -> alt.LayerChart:
    x = alt.X("x:Q", scale=_x_scale(), axis=axes(theme, form="~s", ticks=5), title=None)
    y = alt.Y("y:Q", scale=_y_scale(kind), axis=axes(theme, form=kind.format, ticks=5), title=None)
    colour, dash = lane_colour(lanes, theme), lane_dash(lanes)
    raw = alt.Chart(alt.NamedData(name="curve")).mark_line(opacity=0.28, strokeWidth=1, clip=True)
    line = alt.Chart(alt.NamedData(name="smooth")).mark_line(strokeWidth=2, strokeJoin="round", clip=True)
    layers = [
        raw.encode(x=x, y=y, color=colour),
        line.encode(x=x, y=y, color=colour, strokeDash=dash),
        *_events(theme),
        _crosshair(theme),
    ]
    params = [alt.param(name="hoverX", value=None), alt.param(name="domainX", value=None)]
    chart = (
        alt.LayerChart(layer=layers)
        .add_params(*params)
        .properties(width=WIDTH, height=HEIGHT, autosize=alt.AutoSizeParams(type="fit", contains="padding"))
    )
    return themed(chart, theme)


def _x_scale() -> alt.Scale:
    return alt.Scale(
        zero=False,
        nice=False,
        domainMin=alt.ExprRef("domainX ? domainX[0] : null"),
        domainMax=alt.ExprRef("domainX ? domainX[1] : null"),
    )


def _y_scale(kind: _Kind) -> alt.Scale:
    if kind.domain is not None:
        return alt.Scale(domain=list(kind.domain))
    if kind.scale == "linear":
        return alt.Scale(zero=kind.name == "speed")
    return alt.Scale(type="log" if kind.scale == "log" else "symlog", nice=False)


def _events(theme: str) -> list[alt.Chart]:
    colours = THEMES[theme]
    base = alt.Chart(alt.NamedData(name="events"))
    shade: Any = alt.condition("datum.kind === 'diverged'", alt.value(colours["warn"]), alt.value(colours["mute"]))
    rule = base.mark_rule(strokeDash=[3, 3], opacity=0.8, clip=True).encode(x="x:Q", color=shade)
    side, gap = alt.ExprRef("datum.late ? 'right' : 'left'"), alt.ExprRef("datum.late ? -4 : 4")
    text = base.mark_text(align=side, baseline="top", dx=gap, fontSize=10, limit=190, clip=True)
    return [rule, text.encode(x="x:Q", y=alt.value(0), text="text:N", color=shade)]


def _crosshair(theme: str) -> alt.Chart:
    # A value, not a field: as a field it would stretch the x axis.
    place = alt.ExprRef("hoverX === null ? -9 : scale('x', hoverX)")
    seen = alt.ExprRef("hoverX === null ? 0 : 0.6")
    rule = alt.Chart(alt.InlineData(values=[{}])).mark_rule(
        strokeWidth=1, color=THEMES[theme]["ink"], opacity=seen, clip=True
    )
    crosshair: alt.Chart = rule.encode(x=alt.value(place))
    return crosshair
