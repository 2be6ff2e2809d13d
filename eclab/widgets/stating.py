"""The state message: what the page has to know before anything moves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eclab.network.spec import ACTIVATIONS
from eclab.race.kinds import kinds
from eclab.race.lanes import parse_lanes
from eclab.widgets import messages, presets
from eclab.widgets.messages import Message
from eclab.widgets.picture import MOST_UNITS

if TYPE_CHECKING:
    from eclab.widgets.bench import Bench, LaneView
    from eclab.widgets.session import LabSession

RANGES = {"lr": [1e-6, 100.0], "c": [1e-3, 1e3], "width": [1, 4096], "sigma": [0.1, 4.0], "window": [1, MOST_UNITS]}
"""What the page's controls offer; typed values may go further."""


def state_message(session: LabSession) -> Message:
    """Everything that changes only with the network, the data, the settings or the view."""
    bench, setup = session.bench, session.setup
    picture, race = bench.picture, bench.race
    content: dict[str, Any] = {
        "type": "state",
        "run": session.run,
        "facts": facts(bench),
        "spec": None if setup.spec is None else setup.spec.to_dict(),
        "datasets": datasets(),
        "activations": [{"name": name, "label": label} for name, label in ACTIVATIONS.items()],
        "presets": [*presets.shape_presets(setup.data), *presets.race_presets()],
        "layers": messages.layers(picture, setup.spec),
        "links": messages.links(picture),
        "joins": picture.shown_joins(),
        "skeleton": picture.skeleton(session.lane().chart),
        "lanes": [lane_facts(lane) for lane in bench.lanes],
        "kinds": lane_kinds() if race is not None else [],
        "is_2d": session.is_2d,
        "map_on": session.map_on,
        "own_model": setup.spec is None,
        "trainable": race is not None,
        "hints": hints(bench),
        "ranges": RANGES,
        "race": {
            "start": setup.settings.start,
            "unbalance": setup.settings.unbalance,
            "batch_size": 0 if race is None else race.batch_size,
            "weight_decay": setup.settings.weight_decay,
            "view_lane": session.viewed,
            "total_steps": 0 if race is None else race.total_steps,
            "epochs": 0 if race is None else race.epochs,
            "seed": setup.settings.seed,
        },
    }
    return Message(content, [])


def facts(bench: Bench) -> dict[str, Any]:
    """The top bar."""
    net, setup = bench.net, bench.setup
    name = setup.spec.text if setup.spec is not None else None
    data = setup.data.name if setup.data is not None else "own samples"
    return {
        "net": name or f"{type(net.model).__name__} {messages.network_name(net.layers, net.inputs)}",
        "data": data,
        "m": net.num_weights,
        "H": net.num_units,
        "class_dim": net.class_dim,
        "ratio": net.num_units / net.num_weights if net.num_weights else 0.0,
        "device": bench.device,
    }


def lane_facts(lane: LaneView) -> dict[str, Any]:
    """What a lane is called and how it is shown."""
    return {"name": lane.name, "label": lane.label, "colour": lane.colour, "lr": lane.lr}


def lane_kinds() -> list[dict[str, Any]]:
    """What can race."""
    return [{"name": name, "label": parse_lanes([name])[0].label} for name in kinds()]


def datasets() -> list[dict[str, Any]]:
    """The data sets there are, and which of them need the network."""
    import eclab.data

    there = eclab.data.available()
    return [
        {
            "name": name,
            "label": name,
            "available": True,
            "reason": "" if name in there else "not on this machine; it will be downloaded",
        }
        for name in eclab.data.names()
    ]


def hints(bench: Bench) -> list[str]:
    """What to do next, where something is missing."""
    found = []
    net = bench.net
    if net.num_units == 0:
        reasons = sorted({unit.reason for unit in net.units if unit.reason and unit.layer != net.layers[-1].name})
        found.append("No unit can be rescaled: " + ("; ".join(reasons) or "there is no hidden layer") + ".")
    if bench.race is None:
        found.append("Without labels there is no race: pass them as eclab.Lab(model, x, y).")
    return found
