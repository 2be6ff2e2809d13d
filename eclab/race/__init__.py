"""Side-by-side training as a generator of records: race, driver, store, resume, verdict."""

from eclab.race.driver import Driver
from eclab.race.kinds import Kind, kinds, register
from eclab.race.lanes import Lane, LaneSpec, parse_lanes
from eclab.race.race import Race
from eclab.race.record import COLUMNS, Event, Record, RecordLog
from eclab.race.store import LaneEnd, Result, load
from eclab.race.verdict import LaneVerdict, Verdict

__all__ = [
    "COLUMNS",
    "Driver",
    "Event",
    "Kind",
    "Lane",
    "LaneEnd",
    "LaneSpec",
    "LaneVerdict",
    "Race",
    "Record",
    "RecordLog",
    "Result",
    "Verdict",
    "kinds",
    "load",
    "parse_lanes",
    "register",
]
