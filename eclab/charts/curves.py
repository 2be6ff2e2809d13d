"""Records -> Altair charts, for notebooks: raw values faint, smoothed ones strong, events as marks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import altair as alt
import numpy as np
from numpy.typing import NDArray

from eclab.charts.look import axes, check_theme, lane_colour, lane_dash, themed
from eclab.charts.palette import THEMES
from eclab.charts.series import finite, limits, rounded, smooth, thin
from eclab.errors import SettingError

if TYPE_CHECKING:
    import pandas as pd

WIDTH, HEIGHT = 300, 170
_X = {"step": ("step", "step"), "epoch": ("epoch", "epoch"), "time": ("time", "seconds of training")}


@dataclass(frozen=True)
class Lane:
    """How a lane is drawn: its name in the records, its label and its place in the palette."""

    name: str
    label: str
    colour: int


@dataclass(frozen=True)
class Mark:
    """Something to mark at a step, as a race's events are."""

    step: int
    text: str
    kind: str = ""


@dataclass(frozen=True)
class _View:
    """What all charts of one figure share."""

    frame: pd.DataFrame
    lanes: Sequence[Lane]
    events: Sequence[Any]
    theme: str
    x: str
    smoothing: float
    points: int


def loss_chart(frame: pd.DataFrame, lanes: Iterable[Any] | None = None, *, log: bool = True, **look: Any) -> Any:
    """Loss of the batches against steps, on a log axis.

    Args:
        frame: a result's frame, or the part of it to draw.
        lanes: what has a name, label and colour; None for the lanes in the frame.
        log: whether the loss axis is logarithmic.
        look: events, theme, x, smoothing, points; see `race_chart`.
    """
    return _single(frame, lanes, look, lambda view: _loss(view, log=log))


def accuracy_chart(frame: pd.DataFrame, lanes: Iterable[Any] | None = None, **look: Any) -> Any:
    """Test accuracy against steps; the points are the evaluations. Arguments as for `loss_chart`."""
    return _single(frame, lanes, look, _accuracy)


def gradient_chart(frame: pd.DataFrame, lanes: Iterable[Any] | None = None, *, log: bool = True, **look: Any) -> Any:
    """Length of the gradient in weight space against steps. Arguments as for `loss_chart`."""
    return _single(frame, lanes, look, lambda view: _gradient(view, log=log))


def gauge_chart(frame: pd.DataFrame, lanes: Iterable[Any] | None = None, **look: Any) -> Any:
    """Gauge drift, the sum over free units of |w_in|^2 - |w_out|^2, against steps. Arguments as for `loss_chart`."""
    return _single(frame, lanes, look, _gauge)


def speed_chart(frame: pd.DataFrame, lanes: Iterable[Any] | None = None, **look: Any) -> Any:
    """Steps a second (forward, backward and optimizer) against steps. Arguments as for `loss_chart`."""
    return _single(frame, lanes, look, _speed)


def race_chart(frame: pd.DataFrame, lanes: Iterable[Any] | None = None, events: Iterable[Any] = (), **look: Any) -> Any:
    """All curves of a race in one figure, with a shared zoom and crosshair.

    Args:
        frame: a result's frame.
        lanes: what has a name, label and colour, such as `Race.lanes`; None for the lanes in the frame.
        events: what has a step, text and kind, such as `Race.events`.
        look: theme "light" or "dark"; x "step", "epoch" or "time" (seconds of the lane's own training); smoothing 0 to
            below 1, the weight of what came before; points, how many a line may have (at most 2,000).

    Returns:
        An Altair chart. Drag to zoom all panels, double-click to zoom out.

    Raises:
        SettingError: an unknown theme or axis, a smoothing out of range, a frame without records.

    Example:
        >>> from eclab.race import Race
        >>> result = Race("64-8-10", "digits", epochs=1, device="cpu").run()
        >>> [panel["title"] for panel in race_chart(result.frame).to_dict()["concat"]]
        ['Loss', 'Test accuracy', 'Gradient norm', 'Gauge drift', 'Speed']
    """
    view = _view(frame, lanes, {"events": events, **look})
    panels = [_loss(view, log=True), _accuracy(view), _gradient(view, log=True), _gauge(view), _speed(view)]
    chart = alt.ConcatChart(concat=panels, columns=3, spacing=24)
    _interact(chart, chart.concat)
    chart = chart.resolve_scale(color="shared", strokeDash="shared", x="shared")
    return themed(chart, view.theme, THEMES[view.theme]["background"])


def _single(frame: pd.DataFrame, lanes: Iterable[Any] | None, look: dict[str, Any], make: Any) -> Any:
    view = _view(frame, lanes, look)
    panel = make(view)
    _interact(panel, [panel])
    return themed(panel, view.theme, THEMES[view.theme]["background"])


def _interact(chart: Any, panels: Sequence[Any]) -> None:
    """One zoom and one crosshair for all panels.

    Altair puts a selection on one view only, so the selections are written out here. They find the layers with the
    points by name; "points_2" is the form Altair itself gives the names in the third of several charts, so it stays.
    """
    views = []
    for number, panel in enumerate(panels):
        points = next(layer for layer in panel.layer if getattr(layer.mark, "type", "") == "point")
        points.name = f"points_{number}"
        views.append(points.name)
    hover = {"type": "point", "encodings": ["x"], "nearest": True, "on": "pointermove", "clear": "pointerout"}
    zoom = {"type": "interval", "encodings": ["x"]}
    chart.params = [
        alt.TopLevelSelectionParameter(name="hover", select=hover, views=views),
        alt.TopLevelSelectionParameter(name="zoom", select=zoom, bind="scales", views=views),
    ]


def _view(frame: pd.DataFrame, lanes: Iterable[Any] | None, look: dict[str, Any]) -> _View:
    known: dict[str, Any] = {"events": (), "theme": "light", "x": "step", "smoothing": 0.6, "points": 240}
    unknown = sorted(set(look) - set(known))
    if unknown:
        raise SettingError(f"a chart has no setting {', '.join(unknown)}", allowed=", ".join(known))
    wanted = {**known, **look}
    if wanted["x"] not in _X:
        raise SettingError(f"the x axis is {wanted['x']!r}", allowed=" or ".join(f'"{name}"' for name in _X))
    if not 0 <= wanted["smoothing"] < 1:
        raise SettingError(f"the smoothing is {wanted['smoothing']}", allowed="a number >= 0 and < 1")
    if frame.empty:
        raise SettingError("there are no records to draw", fix="take a step first")
    found = lanes_in(frame) if lanes is None else [Lane(lane.name, lane.label, lane.colour) for lane in lanes]
    points = max(4, int(wanted["points"]))
    return _View(
        frame,
        found,
        list(wanted["events"]),
        check_theme(wanted["theme"]),
        wanted["x"],
        wanted["smoothing"],
        points,
    )


def lanes_in(frame: pd.DataFrame) -> list[Lane]:
    """The lanes of a frame in the order they appear, labelled by their names; SGD orange and EC-SGD blue."""
    own = {"sgd": 0, "ec-sgd": 1}
    names = [str(name) for name in frame["lane"].unique()]
    free = iter([*range(2, 8), 1, 0])
    return [Lane(name, name, own[name] if name in own else next(free)) for name in names]


def _loss(view: _View, *, log: bool) -> Any:
    scale = alt.Scale(type="log", nice=False) if log else alt.Scale(zero=False)
    return _panel(view, "Loss", "cross-entropy of the batch", "loss", scale, form="log" if log else "~g")


def _accuracy(view: _View) -> Any:
    return _panel(view, "Test accuracy", "", "test_acc", alt.Scale(zero=False), form="~%", raw=False)


def _gradient(view: _View, *, log: bool) -> Any:
    scale = alt.Scale(type="log", nice=False) if log else alt.Scale(zero=False)
    return _panel(view, "Gradient norm", "‖∂L/∂w‖", "grad_norm", scale, form="log" if log else "~g")


def _gauge(view: _View) -> Any:
    scale = alt.Scale(type="symlog", nice=False)
    return _panel(view, "Gauge drift", "Σ ‖w in‖² − ‖w out‖²", "gauge_drift", scale, form="symlog", raw=False)


def _speed(view: _View) -> Any:
    return _panel(view, "Speed", "steps a second", "speed", alt.Scale(zero=True), form="~s")


def _panel(
    view: _View,
    title: str,
    y_title: str,
    column: str,
    scale: alt.Scale,
    *,
    form: str = "~g",
    raw: bool = True,
) -> Any:
    faint, strong = _rows(view, column, log=form == "log", raw=raw)
    x = alt.X("x:Q", title=_X[view.x][1], axis=axes(view.theme, form="~s", ticks=5, title=_X[view.x][1]))
    x = x.scale(zero=False, nice=False)
    scale = scale.copy()
    for end, value in zip(("domainMin", "domainMax"), limits([row["y"] for row in faint or strong]), strict=True):
        if value is not None:
            scale[end] = value
    y = alt.Y("y:Q", title=y_title or None, scale=scale)
    y = y.axis(axes(view.theme, form=form, ticks=5, title=y_title or None))
    legend = alt.Legend(title=None, orient="bottom", symbolType="stroke", symbolStrokeWidth=3)
    colour, dash = lane_colour(view.lanes, view.theme, legend), lane_dash(view.lanes, legend)
    base = alt.Chart()
    layers: list[Any] = []
    if raw:
        layers.append(base.mark_line(opacity=0.28, strokeWidth=1, clip=True).encode(x=x, y=y, color=colour))
    layers.append(
        alt.Chart(alt.InlineData(values=strong) if raw else alt.Undefined)
        .mark_line(strokeWidth=2, strokeJoin="round", clip=True)
        .encode(x=x, y=y, color=colour, strokeDash=dash)
    )
    seen = alt.OpacityValue(0, condition={"param": "hover", "empty": False, "value": 0.5})
    layers.append(base.mark_rule(color=THEMES[view.theme]["mute"], strokeWidth=1).encode(x=x, opacity=seen))
    layers.append(_hover_points(view, form).encode(x=x, y=y, color=colour))
    layers += _events(view)
    data = alt.InlineData(values=faint if raw else strong)
    return alt.LayerChart(data=data, layer=layers, title=title, width=WIDTH, height=HEIGHT)


def _hover_points(view: _View, form: str) -> Any:
    number = ".1%" if form == "~%" else ".4~g"
    place = "," if view.x == "step" else ".4~g"
    # Vega-Lite's own tooltip of the nearest point has no lane: there the point is in datum.datum.
    point = "(datum.datum || datum)"
    tip = f"{{'lane': {point}.lane, '{view.x}': format({point}.x, '{place}'), 'value': format({point}.y, '{number}')}}"
    seen = alt.OpacityValue(0, condition={"param": "hover", "empty": False, "value": 1})
    return alt.Chart().mark_point(filled=True, size=36, clip=True, tooltip=alt.ExprRef(tip)).encode(opacity=seen)


def _rows(view: _View, column: str, *, log: bool, raw: bool) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    faint: list[dict[str, Any]] = []
    strong: list[dict[str, Any]] = []
    for lane in view.lanes:
        records = view.frame[view.frame["lane"] == lane.name]
        x, y = finite(records[_X[view.x][0]].to_numpy(), _values(records, column), positive=log)
        if raw:
            faint += _points(lane.label, *thin(x, y, view.points))
            # On a log axis the mean of the logarithms, or a single peak would lift the line for a long stretch.
            places, line = smooth(x, np.log(y) if log else y, view.smoothing, min(120, view.points))
            strong += _points(lane.label, places, np.exp(line) if log else line)
        else:
            strong += _points(lane.label, *thin(x, y, view.points))
    return faint, strong


def _values(records: pd.DataFrame, column: str) -> NDArray[np.float64]:
    if column != "speed":
        return records[column].to_numpy(dtype=float)
    milliseconds = (records["ms_forward_backward"] + records["ms_step"]).to_numpy(dtype=float)
    done = records["ms_step"].to_numpy(dtype=float) > 0
    return np.where(done, 1e3 / np.maximum(milliseconds, 1e-9), np.nan)


def _points(label: str, x: NDArray[np.float64], y: NDArray[np.float64]) -> list[dict[str, Any]]:
    return [
        {"lane": label, "x": rounded(across), "y": rounded(up)}
        for across, up in zip(x.tolist(), y.tolist(), strict=True)
    ]


def _events(view: _View) -> list[Any]:
    rows = [
        {
            "x": _place(view, step),
            "text": "; ".join(event.text for event in view.events if event.step == step),
            "short": "; ".join(event.text.partition(":")[0] for event in view.events if event.step == step),
            "kind": "diverged" if any(e.kind == "diverged" for e in view.events if e.step == step) else "",
        }
        for step in sorted({event.step for event in view.events})
    ]
    if not rows:
        return []
    colours = THEMES[view.theme]
    base = alt.Chart(alt.InlineData(values=rows))
    shade: Any = alt.condition("datum.kind === 'diverged'", alt.value(colours["warn"]), alt.value(colours["mute"]))
    rule = base.mark_rule(strokeDash=[3, 3], opacity=0.8, clip=True)
    text = base.mark_text(align="left", baseline="top", dx=4, fontSize=10, limit=140, clip=True)
    return [
        rule.encode(x="x:Q", color=shade, tooltip=alt.Tooltip("text:N", title="event")),
        text.encode(x="x:Q", y=alt.value(0), text="short:N", color=shade),
    ]


def _place(view: _View, step: int) -> float:
    """Where a step is on the x axis; for time, by the first lane's clock."""
    if view.x == "step":
        return float(step)
    first = view.frame[view.frame["lane"] == view.frame["lane"].iloc[0]]
    before = first[first["step"] <= step]
    return rounded(float(before[_X[view.x][0]].iloc[-1])) if len(before) else 0.0
