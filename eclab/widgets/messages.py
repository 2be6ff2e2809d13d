"""The messages to the page: plain contents and binary buffers, built from a race and its drawing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eclab.race.record import COLUMNS

if TYPE_CHECKING:
    from eclab.network.network import Layer
    from eclab.network.spec import NetworkSpec
    from eclab.race.race import Race
    from eclab.widgets.bench import LaneView
    from eclab.widgets.picture import Picture

CURVE_COLUMNS = (
    "lane",
    "step",
    "loss",
    "train_acc",
    "test_acc",
    "grad_norm",
    "gauge_drift",
    "ms_forward_backward",
    "ms_step",
    "guarded",
)
"""What a record is to the page; all float64, a missing test accuracy is NaN."""

MOST_POINTS = 2000
"""Records of a lane in a history."""

_PICK = [COLUMNS.index(name) for name in CURVE_COLUMNS]


@dataclass(frozen=True)
class Message:
    """What goes to the page."""

    content: dict[str, Any]
    buffers: list[bytes]

    @classmethod
    def plain(cls, kind: str, /, **content: Any) -> Message:
        """A message without buffers."""
        return cls({"type": kind, **content}, [])


def finite(value: float | None) -> float | None:
    """The number, or None where it is none: JSON has no NaN."""
    return float(value) if value is not None and math.isfinite(value) else None


def curve(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows of a race's log as the page gets them."""
    return np.ascontiguousarray(rows[:, _PICK])


def thinned(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """At most 2,000 rows a lane, evenly spread; half of them are kept for rows with a test accuracy, which are rarer.

    Args:
        rows: float64 ``[records, 10]``, columns as in ``CURVE_COLUMNS``.
    """
    keep = np.zeros(len(rows), dtype=bool)
    for lane in np.unique(rows[:, 0]):
        mine = np.flatnonzero(rows[:, 0] == lane)
        tested = mine[~np.isnan(rows[mine, CURVE_COLUMNS.index("test_acc")])]
        if len(mine) <= MOST_POINTS:
            keep[mine] = True
            continue
        for chosen in (mine, tested):
            keep[chosen[_spread(len(chosen), MOST_POINTS // 2)]] = True
    return rows[keep]


def _spread(length: int, count: int) -> NDArray[np.int64]:
    """At most ``count`` places from 0 to ``length - 1``, evenly, both ends included."""
    places: NDArray[np.int64] = np.unique(np.linspace(0, length - 1, min(count, length)).round().astype(np.int64))
    return places


def no_rows() -> NDArray[np.float64]:
    """A curve without records."""
    return np.empty((0, len(CURVE_COLUMNS)))


def update_latest(latest: dict[str, dict[str, float]], rows: NDArray[np.float64], names: Sequence[str]) -> None:
    """Keep each lane's newest loss and accuracies.

    Args:
        latest: by lane; changed in place.
        rows: new records, columns as in ``CURVE_COLUMNS``.
        names: the lanes.
    """
    for number, name in enumerate(names):
        mine = rows[rows[:, 0] == number]
        if not len(mine):
            continue
        mine_latest = latest.setdefault(name, {})
        for column in ("loss", "train_acc", "test_acc"):
            values = mine[:, CURVE_COLUMNS.index(column)]
            known = values[~np.isnan(values)] if column == "test_acc" else values
            if len(known):
                mine_latest[column] = float(known[-1])


def history(race: Race | None, run: int) -> Message:
    """Everything recorded since the start of the race."""
    count = 0 if race is None else len(race.records)
    rows = no_rows() if race is None else thinned(curve(race.records.rows(0, count)))
    content = {"type": "history", "run": run, "next": count, "rows": len(rows), "columns": list(CURVE_COLUMNS)}
    return Message(content, [rows.tobytes()])


def weights(picture: Picture, lane: LaneView) -> tuple[dict[str, Any], bytes]:
    """The weights that are drawn: one float32 block a link, and for a convolution each channel's mean kernel."""
    blocks: list[dict[str, int]] = []
    kernels: list[dict[str, int]] = []
    parts: list[Tensor] = []
    offset = 0
    for number, link in enumerate(picture.links):
        rows, columns = picture.windows[link.target], picture.windows[link.source]
        block = link.block(lane.net, rows, columns)
        parts.append(_signed_size(block))
        blocks.append({"link": number, "rows": block.shape[0], "cols": block.shape[1], "offset": offset})
        offset += parts[-1].numel()
        if len(link.shape) > 2:
            mean = block.mean(1)
            height, width = (*link.shape[2:], 1)[:2]
            kernels.append({"layer": link.target, "rows": len(mean), "kh": height, "kw": width, "offset": offset})
            parts.append(mean)
            offset += mean.numel()
    values = torch.cat([part.reshape(-1).float().cpu() for part in parts]) if parts else torch.empty(0)
    return {"blocks": blocks, "kernels": kernels}, values.contiguous().numpy().tobytes()


def _signed_size(block: Tensor) -> Tensor:
    """One number for parallel weights: the sign of their sum times their length."""
    if block.shape[2] == 1:
        return block[:, :, 0]
    size: Tensor = torch.linalg.vector_norm(block, dim=2)
    return size.copysign(block.sum(2))


def lane_now(lane: LaneView, latest: Mapping[str, float], picture: Picture) -> dict[str, Any]:
    """A lane's line in the timeline."""
    return {
        "name": lane.name,
        "state": lane.state,
        "lr": lane.lr,
        "loss": finite(latest.get("loss")),
        "train_acc": finite(latest.get("train_acc")),
        "test_acc": finite(latest.get("test_acc")),
        "verdict": picture.in_page_words(lane.verdict),
        "guarded": lane.guarded,
        "rebased": lane.rebased,
    }


def race_now(race: Race | None, playing: bool, picture: Picture) -> dict[str, Any]:
    """Where the race stands."""
    if race is None:
        nothing = {"step": 0, "total_steps": 0, "epoch": 0.0, "time": 0.0, "running": False, "finished": False}
        return {**nothing, "steps_per_second": {}, "overhead": None, "events": []}
    return {
        "step": race.position,
        "total_steps": race.total_steps,
        "epoch": race.order.seen,
        "time": max(lane.time for lane in race.lanes),
        "running": playing,
        "finished": race.finished,
        "steps_per_second": {lane.name: finite(race.steps_per_second(lane.name)) for lane in race.lanes},
        "overhead": finite(race.overhead()),
        "events": [
            {"step": e.step, "text": picture.in_page_words(e.text), "kind": e.kind, "lane": e.lane} for e in race.events
        ],
    }


def layers(picture: Picture, spec: NetworkSpec | None) -> list[dict[str, Any]]:
    """The drawing's layers, the inputs first."""
    indices = {} if spec is None else {path: number for number, path in enumerate(spec.modules())}
    rows = [_input_layer(picture, spec)]
    for number, layer in enumerate(picture.layers, 1):
        window = picture.windows[number]
        units = [picture.net.unit(unit) for unit in layer.units[window.units].tolist()]
        index = indices.get(layer.name)
        rows.append(
            {
                "index": number,
                "name": layer.name,
                "label": picture.labels[number],
                "kind": layer.kind,
                "width": layer.width,
                "activation": layer.activation,
                "bias": layer.bias is not None,
                "kernel": list(layer.shape[2:]) or None,
                "spec_index": index,
                "after": _after(spec, index),
                "shape": [layer.width, *layer.grid],
                "output": layer.output,
                **_window(picture, number),
                "units": [{"state": unit.state, "reason": unit.reason} for unit in units],
            }
        )
    return rows


def _input_layer(picture: Picture, spec: NetworkSpec | None) -> dict[str, Any]:
    window = picture.windows[0]
    return {
        "index": 0,
        "name": "inputs",
        "label": "inputs",
        "kind": "input",
        "width": picture.widths[0],
        "activation": "",
        "bias": False,
        "kernel": None,
        "spec_index": None,
        "after": _after(spec, -1),
        "shape": None if spec is None else list(spec.input_shape),
        "output": False,
        **_window(picture, 0),
        "units": [{"state": "pinned", "reason": "an input has no incoming weights"}] * window.count,
    }


def _window(picture: Picture, number: int) -> dict[str, Any]:
    window = picture.windows[number]
    return {
        "window": {"start": window.start, "count": window.count},
        "folded": picture.folded(number),
    }


def _after(spec: NetworkSpec | None, index: int | None) -> list[str]:
    """The operations without weights behind a layer, in words."""
    if spec is None or index is None:
        return []
    texts = []
    for layer in spec.layers[index + 1 :]:
        if layer.weighty:
            break
        settings = {key: value for key, value in layer.to_dict().items() if key in ("size", "p")}
        texts.append(" ".join([layer.type.replace("_", "-"), *(f"{value:g}" for value in settings.values())]))
    return texts


def links(picture: Picture) -> list[dict[str, Any]]:
    """The bands of weights."""
    return [
        {
            "from": link.source,
            "to": link.target,
            "parameter": link.parameter,
            "shape": list(link.shape),
            "parallel": link.parallel,
        }
        for link in picture.links
    ]


def network_name(layers_: Sequence[Layer], inputs: int) -> str:
    """An own model in a few words: its widths, of a deep one the first and the last."""
    widths = [str(width) for width in (inputs, *(layer.width for layer in layers_))]
    return "–".join(widths if len(widths) <= 8 else [*widths[:3], "…", *widths[-2:]])


def scales_shown(picture: Picture, scales: Tensor | None) -> dict[str, list[float]]:
    """The factors of the units that are drawn, for the layers that have any; ``scales`` by unit, ``[num_nodes]``."""
    shown: dict[str, list[float]] = {}
    for number, layer in enumerate(picture.layers if scales is not None else (), 1):
        factors = scales[layer.units.cpu()]  # type: ignore[index]  # there are no layers where it is None
        if bool((factors != 1).any()):
            shown[str(number)] = factors[picture.windows[number].units].tolist()
    return shown


def decision_map(race: Race, lanes: Iterable[str], points: tuple[Tensor, Tensor], size: int) -> Message:
    """The class each lane gives every point of the plane, as bytes, the first two lanes' difference, and data points.

    With two classes a byte is 255·P(class 1); with more, class·q + confidence·(q−1), q = ⌊256 / classes⌋.
    """
    names = list(lanes)
    maps = [race.decision_map(name, size) for name in names]
    x, y = points
    buffers = [_map_bytes(chances) for chances in maps]
    if len(maps) > 1:
        apart = 0.5 * np.abs(maps[0] - maps[1]).sum(2)
        buffers.append((255 * np.nan_to_num(apart)).round().astype(np.uint8).tobytes())
    table = torch.cat([x.float(), y.reshape(-1, 1).float()], dim=1).cpu().contiguous()
    content = {
        "type": "map",
        "lanes": names,
        "size": size,
        "classes": maps[0].shape[2],
        "extent": list(race.map_extent),
        "points": len(table),
    }
    return Message(content, [*buffers, table.numpy().tobytes()])


def _map_bytes(chances: NDArray[np.float32]) -> bytes:
    chances = np.nan_to_num(chances)
    classes = chances.shape[2]
    if classes == 2:
        return (255 * chances[:, :, 1]).round().astype(np.uint8).tobytes()
    step = 256 // classes
    best = chances.argmax(2)
    sure = np.floor(chances.max(2) * (step - 1))
    picture: NDArray[np.uint8] = (best * step + sure).astype(np.uint8)
    return picture.tobytes()
