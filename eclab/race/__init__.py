"""Side-by-side training as a generator of records: race, store, resume, verdict."""

from eclab.race.lanes import Kind, Lane, LaneSpec, kinds, parse_lanes, register
from eclab.race.race import Race
from eclab.race.record import COLUMNS, Event, Record, RecordLog

__all__ = [
    "COLUMNS",
    "Event",
    "Kind",
    "Lane",
    "LaneSpec",
    "Race",
    "Record",
    "RecordLog",
    "kinds",
    "parse_lanes",
    "register",
]
