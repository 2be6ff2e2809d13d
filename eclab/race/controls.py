"""What can be done to a race between two steps, and asked of it: rescaling, rates, maps, speed."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eclab.classes import apply_scales_
from eclab.errors import ScaleError, SettingError
from eclab.race import settings
from eclab.race.batches import stream
from eclab.race.lanes import Lane
from eclab.race.measure import EVALUATION_CHUNK, evaluating
from eclab.race.task import need_free_units, random_scales_

if TYPE_CHECKING:
    from eclab.facade import Network
    from eclab.race.race import Race

FEWEST_PAIRS = 10


def copy_network(net: Network) -> Network:
    """The network over a copy of its model."""
    for parameter in net.model.parameters():
        parameter.grad = None
    return copy.deepcopy(net)


def change(race: Race, key: str, word: str, value: float, lanes: Sequence[Lane]) -> None:
    """Set a number of some lanes' optimizers and mark what changed."""
    changed = [lane for lane in lanes if getattr(lane, key) != value]
    before = {lane.name: getattr(lane, key) for lane in changed}
    for lane in changed:
        lane.set(key, value)
    if len(changed) == len(race.lanes) > 1 and len(set(before.values())) == 1:
        race.note(_kind(key), f"{word} {before[changed[0].name]:g} → {value:g}")
        return
    for lane in changed:
        race.note(_kind(key), f"{lane.label} {word} {before[lane.name]:g} → {value:g}", lane.name)


def _kind(key: str) -> str:
    return "lr" if key == "lr" else "decay"


def rescale(race: Race, scales: Mapping[str, Any], note: str | None, names: Sequence[str] | None) -> dict[str, Tensor]:
    """See `Race.rescale`."""
    lanes = _running(race, names)
    used = _as_tensors(lanes[0].net, scales)
    with unchanged_on_error(lanes):
        for lane in lanes:
            apply_scales_(lane.net, used)
            _need_finite(lane)
    text = _scales_text(used) if note is None else note
    if text:
        race.note("rescale", text, None if names is None or len(names) != 1 else lanes[0].name)
    return used


def unbalance(race: Race, sigma: float, names: Sequence[str] | None) -> dict[str, Tensor]:
    """See `Race.unbalance`."""
    spread = settings.positive(sigma, "the unbalance")
    need_free_units(race.start_net)
    lanes = _running(race, names)
    generator = torch.Generator().manual_seed(stream(race.config.seed, f"unbalance {race.unbalances + 1}"))
    with unchanged_on_error(lanes):
        used = random_scales_(lanes[0].net, spread, generator)
        for lane in lanes[1:]:
            apply_scales_(lane.net, used)
        for lane in lanes:
            _need_finite(lane)
    race.unbalances += 1
    race.note("rescale", f"unbalanced, σ = {spread:g}", None if names is None or len(names) != 1 else lanes[0].name)
    return used


def _running(race: Race, names: Sequence[str] | None) -> list[Lane]:
    wanted = race.lanes if names is None else [race.lane(name) for name in names]
    lanes = [lane for lane in wanted if lane.running]
    if not lanes:
        raise SettingError("no lane is running that could be rescaled", fix="reset the race")
    return lanes


def _as_tensors(net: Network, scales: Mapping[str, Any]) -> dict[str, Tensor]:
    if not isinstance(scales, Mapping):
        raise ScaleError(f"the scales are {scales!r}", allowed="{layer: a factor, or a factor for each of its units}")
    found: dict[str, Tensor] = {}
    for name, scale in scales.items():
        try:
            values = torch.as_tensor(scale)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ScaleError(f"the scale of layer {name!r} is {scale!r}", allowed="finite numbers > 0") from error
        found[name] = values.expand(net.layer(name).width) if values.ndim == 0 else values
    return found


def _scales_text(scales: Mapping[str, Tensor]) -> str:
    parts: list[str] = []
    for name, values in scales.items():
        moved = (values != 1).nonzero().reshape(-1)
        if len(moved) == 1:
            parts.append(f"{name}[{int(moved[0])}] × {float(values[moved[0]]):.3g}")
        elif len(moved):
            parts.append(f"{len(moved)} units of {name}")
    return f"rescaled {', '.join(parts)}" if parts else ""


@contextmanager
def unchanged_on_error(lanes: Sequence[Lane]) -> Iterator[None]:
    """Put the weights of all lanes back if the block fails."""
    before = [[parameter.detach().clone() for parameter in lane.model.parameters()] for lane in lanes]
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for lane, weights in zip(lanes, before, strict=True):
                for parameter, old in zip(lane.model.parameters(), weights, strict=True):
                    parameter.copy_(old)
        raise


def _need_finite(lane: Lane) -> None:
    for name, parameter in lane.model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise ScaleError(
                f"the rescaling makes {name} of {lane.label} overflow {parameter.dtype}", fix="choose smaller factors"
            )


def extent(race: Race) -> tuple[float, float, float, float]:
    """See `Race.map_extent`."""
    if not race.task.is_2d:
        shape = "×".join(str(length) for length in race.task.input_shape)
        raise SettingError(
            f"a decision map needs points in the plane, and {race.task.name} has samples of {shape}",
            allowed="data with two inputs, such as circle, xor, gauss and spiral",
        )
    points = torch.cat([race.task.x, race.task.x_test])
    low, high = points.amin(0).double(), points.amax(0).double()
    margin = 0.1 * (high - low).clamp_min(1e-6)
    (left, bottom), (right, top) = (low - margin).tolist(), (high + margin).tolist()
    return left, right, bottom, top


def decision_map(race: Race, lane: Lane, resolution: int) -> NDArray[np.float32]:
    """See `Race.decision_map`."""
    left, right, bottom, top = extent(race)
    side = settings.whole(resolution, "the resolution", least=2, most=1024)
    across = torch.linspace(left, right, side, dtype=race.task.x.dtype, device=race.task.x.device)
    down = torch.linspace(top, bottom, side, dtype=race.task.x.dtype, device=race.task.x.device)
    points = torch.stack(torch.meshgrid(across, down, indexing="xy"), dim=-1).reshape(-1, 2)
    with lane.judged(), evaluating(lane.model):
        chunks = [lane.model(points[at : at + EVALUATION_CHUNK]) for at in range(0, len(points), EVALUATION_CHUNK)]
    chances = torch.softmax(torch.cat(chunks).float(), dim=1)
    shaped: NDArray[np.float32] = chances.reshape(side, side, -1).cpu().numpy()
    return shaped


def steps_per_second(lane: Lane) -> float | None:
    """See `Race.steps_per_second`."""
    if not lane.recent:
        return None
    return 1e3 / statistics.median(milliseconds for _, milliseconds in list(lane.recent))


def overhead(race: Race, lane: str | None, against: str | None) -> float | None:
    """See `Race.overhead`."""
    one = _first(race, "ec-sgd") if lane is None else race.lane(lane)
    other = _first(race, "sgd") if against is None else race.lane(against)
    if one is None or other is None:
        return None
    theirs = dict(list(other.recent))
    ratios = [mine / theirs[step] for step, mine in list(one.recent) if theirs.get(step, 0.0) > 0]
    return 100 * (statistics.median(ratios) - 1) if len(ratios) >= FEWEST_PAIRS else None


def _first(race: Race, kind: str) -> Lane | None:
    return next((lane for lane in race.lanes if lane.spec.kind == kind), None)
