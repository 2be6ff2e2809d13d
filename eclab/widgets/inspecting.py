"""Answers to the inspector: what is known of a unit, a layer, a weight, a lane, and of the largest paths."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from eclab.classes import function_change, same_class
from eclab.errors import SettingError
from eclab.network.run import active_units, run
from eclab.paths.skeleton import Edge
from eclab.widgets.measure import Measure, squares_by_unit
from eclab.widgets.messages import finite

if TYPE_CHECKING:
    from eclab.facade import Network
    from eclab.widgets.bench import Bench, LaneView
    from eclab.widgets.scaling import Scaling

_ROLES = {"tree": "tree", "b-edge": "skeleton b-edge", "basis": "basis"}


def unit(bench: Bench, lane: LaneView, scaling: Scaling, now: Measure, layer: int, index: int) -> dict[str, Any]:
    """A unit: whether it scales, its scale, and its numbers before and after."""
    number = bench.picture.unit(layer, index)
    found = bench.net.unit(number)
    factors = scaling.by_unit(lane)
    return {
        "kind": "unit",
        "lane": lane.name,
        "layer": layer,
        "unit": index,
        "name": found.name,
        "state": found.state,
        "reason": found.reason,
        "c": 1.0 if factors is None else float(factors[number]),
        "share": finite(now.share(unit=number)),
        **_before_after(bench, lane, scaling, now, torch.tensor([number])),
    }


def layer(bench: Bench, lane: LaneView, scaling: Scaling, now: Measure, index: int) -> dict[str, Any]:
    """A layer: how many of its units scale, and the numbers of all of them together."""
    if index == 0:
        return {"kind": "layer", "lane": lane.name, "layer": 0, "parameters": 0, "free": 0, "tied": 0,
                "pinned": bench.net.inputs, "before": None, "after": None, "change": None}  # fmt: skip
    found = bench.picture.layer(index)
    states = [bench.net.unit(int(number)).state for number in found.units]
    parameters = sum(bench.net.weight(name).numel for name in (found.weight, found.bias) if name)
    factors = scaling.by_unit(lane)
    return {
        "kind": "layer",
        "lane": lane.name,
        "layer": index,
        "name": found.name,
        "parameters": parameters,
        **{state: states.count(state) for state in ("free", "tied", "pinned")},
        "reason": next((u.reason for u in (bench.net.unit(int(n)) for n in found.units) if u.reason), ""),
        "c": _common(None if factors is None else factors[found.units.cpu()]),
        **_before_after(bench, lane, scaling, now, found.units),
    }


def _common(totals: Tensor | None) -> float | None:
    """The one factor of all units that were rescaled, or None where they differ."""
    if totals is None:
        return 1.0
    moved = sorted({factor for factor in totals.tolist() if factor != 1})
    return 1.0 if not moved else float(moved[0]) if len(moved) == 1 else None


def _before_after(bench: Bench, lane: LaneView, scaling: Scaling, now: Measure, units: Tensor) -> dict[str, Any]:
    base = scaling.before(lane)
    units = units.cpu()
    after = _finite(now.norms(units))
    before = after
    change: dict[str, Any] = {"max_abs": 0.0, "bound": 0.0, "same": True}
    if base is not None:
        before = _finite(base.measure.norms(units))
        moved = function_change(base.state, lane.net, bench.x)
        same = None if moved.bound is None else bool(moved)
        change = {"max_abs": finite(moved.max_abs), "bound": finite(moved.bound), "same": same}
        if moved.bound is None:
            change["size"] = _output_size(lane, bench.x)
    gauge = {"start": _gauge_at_start(bench, units), "now": finite(now.gauge(units))}
    return {"before": before, "after": after, "change": change, "gauge": gauge, "why": now.why}


def _gauge_at_start(bench: Bench, units: Tensor) -> float | None:
    """‖in‖² − ‖out‖² of these units together where all lanes began; None without a race."""
    return None if bench.race is None else finite(float(_gauges(bench.race.start_net)[units].sum()))


@lru_cache(maxsize=2)
def _gauges(start: Network) -> Tensor:
    """‖in‖² − ‖out‖² of every unit of a network that no longer changes: float64 ``[num_nodes]``."""
    into, out_of = squares_by_unit(start, {weight.name: weight.parameter.detach() for weight in start.weights})
    return into - out_of


def _output_size(lane: LaneView, x: Tensor) -> float | None:
    """The largest output, to compare a change with where no bound for rounding is known."""
    return finite(max(float(output.detach().abs().max()) for output in run(lane.net, x)[-1]))


def _finite(numbers: Mapping[str, float | None]) -> dict[str, float | None]:
    return {name: finite(value) for name, value in numbers.items()}


def edge(bench: Bench, lane: LaneView, now: Measure, asked: Mapping[str, Any]) -> dict[str, Any]:
    """A weight: its value, coordinate, gradients, its part in the skeleton and its basis path."""
    found, taps = _find_edge(bench, asked)
    role = lane.chart.role(found)
    weight = lane.net.weight(found.parameter).parameter.detach()
    tree = role == "tree"
    answer = {
        "kind": "edge",
        "lane": lane.name,
        **bench.picture.edge(found),
        "parameter": found.parameter,
        "index": list(found.index),
        "taps": taps,
        "role": _ROLES[role],
        "w": finite(float(weight[found.index])),
        "v": None if tree else _entry(now.coordinates, found),
        "dL_dw": _entry(now.weight_gradients, found),
        "dL_dv": None if tree else _entry(now.class_gradients, found),
        "why": "a tree edge is no coordinate: its weight stays as it is" if tree else now.why,
        "share": finite(now.share(edge=found)),
        "path": None,
    }
    if not tree:
        path = lane.chart.basis_path(found.parameter, found.index)
        answer["path"] = {
            **_path(bench, path.edges, path.values, path.value),
            "monomial": path.monomial,
            "active": _active(bench, lane, path.edges),
        }
    return answer


def _find_edge(bench: Bench, asked: Mapping[str, Any]) -> tuple[Edge, int]:
    taps = 1
    parameter, index = asked["parameter"], asked["index"]
    if parameter is None or index is None:
        if None in (asked["link"], asked["tail"], asked["head"]):
            raise SettingError(
                "a weight was asked for without its place", allowed="link, tail and head, or parameter and index"
            )
        parameter, index = bench.picture.find_edge(asked["link"], asked["tail"], asked["head"])
        taps = bench.picture.links[asked["link"]].parallel
    weight = bench.net.weight(parameter)
    place = tuple(index)
    if len(place) != len(weight.shape) or any(not 0 <= i < n for i, n in zip(place, weight.shape, strict=True)):
        raise SettingError(f"{parameter}{list(place)} is outside its shape {list(weight.shape)}")
    return Edge(parameter, place, *weight.ends(place)), taps


def _entry(tensors: Mapping[str, Tensor], found: Edge) -> float | None:
    return finite(float(tensors[found.parameter][found.index])) if found.parameter in tensors else None


def _path(bench: Bench, edges: Sequence[Edge], values: Iterable[float], value: float) -> dict[str, Any]:
    placed = [
        {**bench.picture.edge(one), "parameter": one.parameter, "index": list(one.index), "value": finite(weight)}
        for one, weight in zip(edges, values, strict=True)
    ]
    return {"edges": placed, "value": finite(value)}


def _values(lane: LaneView, edges: Sequence[Edge]) -> list[float]:
    return [
        float(lane.net.weight(one.parameter).parameter.detach()[one.index]) if one.parameter else 1.0 for one in edges
    ]


def _active(bench: Bench, lane: LaneView, edges: Sequence[Edge]) -> bool:
    """Whether all units of the path are on for the first sample."""
    on = active_units(lane.net, bench.x[:1])[0]
    return all(bool(on[one.head]) for one in edges)


def paths(bench: Bench, lane: LaneView, k: int, active: bool) -> dict[str, Any]:
    """The number of paths, exactly, and the largest ones; only those active on the first sample if asked."""
    if not 1 <= k <= 1000:
        raise SettingError(f"{k} paths were asked for", allowed="1 to 1000")
    found = lane.net.top_paths(k, bench.x[:1] if active else None)
    rows = [
        {
            **_path(bench, path.edges, _values(lane, path.edges), path.value),
            "log_value": finite(path.log_value),
            "monomial": " · ".join(map(str, path.edges)),
            "output": bench.picture.edge(path.edges[-1])["head"],
            "active": True if active else _active(bench, lane, path.edges),
        }
        for path in found
    ]
    return {"lane": lane.name, "count": str(lane.net.count_paths()), "rows": rows}


def lane_facts(bench: Bench, lane: LaneView, now: Measure) -> dict[str, Any]:
    """A lane: where it stands, and the norms of its whole network."""
    every = torch.arange(bench.net.inputs + 1, bench.net.num_nodes)
    race = bench.race
    return {
        "kind": "lane",
        "lane": lane.name,
        "label": lane.label,
        "state": lane.state,
        "verdict": bench.picture.in_page_words(lane.verdict),
        "lr": lane.lr,
        "guarded": lane.guarded,
        "rebased": lane.rebased,
        "steps_per_second": None if race is None else finite(race.steps_per_second(lane.name)),
        "after": _finite(now.norms(every)),
        "why": now.why,
    }


def same(bench: Bench, one: LaneView, two: LaneView) -> dict[str, Any]:
    """Whether two lanes' networks are members of one class, in numbers and in words."""
    found = same_class(one.net, two.net, bench.x)
    if found.same:
        text = f"{one.label} and {two.label} are members of one class"
    else:
        text = f"{one.label} and {two.label} are in different classes: {found.where} differs most"
    return {
        "same": found.same,
        "max_deviation": finite(found.max_deviation),
        "output_deviation": finite(found.output_deviation),
        "tolerance": found.tolerance,
        "where": found.where,
        "text": text,
        "scales": {name: [finite(c) for c in values.tolist()] for name, values in found.scales.items()},
    }
