"""The lab without a front end: its state, and the page's commands as methods."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from eclab.errors import EclabError, SettingError
from eclab.race.settings import whole
from eclab.widgets import inspecting, messages
from eclab.widgets.acts import Acts
from eclab.widgets.bench import Bench, LaneView, Setup
from eclab.widgets.commands import parse
from eclab.widgets.frames import FrameGate
from eclab.widgets.handlers import Handlers
from eclab.widgets.measure import Measure, measure
from eclab.widgets.messages import Message
from eclab.widgets.stating import state_message

if TYPE_CHECKING:
    from eclab.paths.chart import Chart
    from eclab.race.store import Result
    from eclab.widgets.scaling import Scaling

log = logging.getLogger("eclab")

Emit = Callable[[Message], None]

MAP_SIZE = 64
MAP_POINTS = 400
MAP_PAUSE = 0.4
"""Seconds between two decision maps."""


class LabSession:
    """Everything the lab is, except the page: a bench, what was done to it, a race that plays, rescalings, a map.

    All methods are for one thread; only :meth:`interrupt` may be called from others.

    Args:
        setup: what to show first.
        emit: takes the messages to the page.

    Attributes:
        bench: what stands in the lab now.
        acts: all that can be undone.
        playing: whether the race goes on by itself.
        changed: whether there is something the page has not seen.
        viewed: the lane whose network the page shows.
        run: changes with every new race, so that a page knows whose curves it has.
        defer: runs the first function where it does not hold up the lab, then the second with its result.
    """

    def __init__(self, setup: Setup, emit: Emit | None = None) -> None:
        self.emit: Emit = emit or _nowhere
        self.gate = FrameGate()
        self.defer: Callable[[Callable[[], Any], Callable[[Any], None]], None] = lambda make, then: then(make())
        self.playing = self.changed = False
        self.run = 0
        self.viewed = ""
        self.failure: BaseException | None = None
        self.on_new_network: Callable[[], None] = lambda: None
        self._cut = threading.Event()
        self._until: int | None = None
        self._map_on, self._map_at = False, 0.0
        self._charted: Chart | None = None
        self.stand(Bench(setup))
        self.acts = Acts(self)
        self._handlers = Handlers(self)

    # -- for the driver -----------------------------------------------------------------------------------------------

    def handle(self, content: Mapping[str, Any]) -> None:
        """Run one command of the page. What is wrong becomes a message in place, and nothing has changed then."""
        self._cut.clear()
        where, answer = "stage", content.get("id")
        try:
            command, arguments = parse(content)
            where = command.where
            found = getattr(self._handlers, command.name)(**arguments)
            if isinstance(found, Message):
                self._send(found, answer)
        except EclabError as problem:
            self._tell("error", where, str(problem), answer)
        except Exception as problem:
            log.exception("the lab could not run %r", content.get("cmd"))
            self._tell("error", where, f"{type(problem).__name__}: {problem}", answer)

    def advance(self) -> None:
        """One step of the race; waits while a unit is being dragged."""
        if self.scaling.dragging:
            time.sleep(0.005)
            return
        try:
            self.step()
        except EclabError as problem:
            self._fail(problem, str(problem))
        except Exception as problem:
            log.exception("the race stopped")
            self._fail(problem, f"{type(problem).__name__}: {problem}")

    def interrupt(self) -> None:
        """From any thread: an evaluation under way is given up."""
        self._cut.set()

    def flush(self) -> None:
        """Send the page what it has not seen: a frame, or the decision map in its place."""
        try:
            if self._map_due():
                self._map_at = time.monotonic()
                self._map_stale = False
                self.gate.spend()
                self.emit(self._map())
            else:
                self.changed = self._map_on and self._map_stale
                if self.lane().chart is not self._charted:
                    # it has re-based
                    self.emit(self.state())
                self.emit(self.frame(self.gate.take()))
        except Exception:
            self.changed = False
            log.exception("a frame could not be sent")

    # -- what Lab and the commands use --------------------------------------------------------------------------------

    @property
    def setup(self) -> Setup:
        """What stands in the lab, as it was asked for."""
        return self.bench.setup

    @property
    def scaling(self) -> Scaling:
        """The rescalings since the last training step."""
        return self.bench.scaling

    def lane(self, name: str | None = None) -> LaneView:
        """A lane; without a name the one the page shows."""
        return self.bench.lane(name if name is not None else self.viewed)

    def play(self, until: int | None = None) -> None:
        """Let the race go on, to the end or to a step."""
        race = self.bench.need_race()
        if race.finished:
            diverged = all(lane.state == "diverged" for lane in self.bench.lanes)
            fix = (
                "rewind it, or lower the learning rate and reset it" if diverged else "reset it, or give it more epochs"
            )
            raise SettingError("the race is over", fix=fix)
        self.scaling.end_drag()
        if not self.playing:
            self.acts.travel("training")
            self.bench.moments.pass_by(race)
        self._until, self.failure = until, None
        self.playing = self.changed = True

    def pause(self) -> None:
        """Hold the race where it is."""
        self.playing = False
        self.changed = True

    def start_run(self, steps: int | None, epochs: int | None) -> None:
        """Let the race go on for some steps, some epochs, or to the end."""
        race = self.bench.need_race()
        if epochs is not None:
            race.set_epochs(math.ceil(race.order.seen) + whole(epochs, "the number of epochs"))
            if race.position == 0:
                race.events[:] = [event for event in race.events if event.kind != "epochs"]
        self.play(None if steps is None else race.position + whole(steps, "the number of steps"))

    def end_run(self) -> Result:
        """The race's result so far; what stopped it is raised."""
        if self.failure is not None:
            problem, self.failure = self.failure, None
            raise problem
        return self.bench.need_race().result()

    def rescale(self, layer: str, unit: int | None, c: float, lane: str | None) -> None:
        """Rescale a unit or a layer of one lane, or of all."""
        lanes = self.bench.running() if lane is None else [self.bench.lane(lane)]
        label = self.bench.picture.unit_label(self.bench.picture.number(layer), unit)
        self.acts.rescale(f"scale of {label}", lambda: self.scaling.drag(layer, unit, c, lanes, commit=True))

    def now(self, lane: LaneView) -> Measure:
        """The lane's measure as its weights are now."""
        if lane.name not in self._measures:
            self._measures[lane.name] = measure(lane, self.bench.x, self.bench.y)
        return self._measures[lane.name]

    def state(self) -> Message:
        """All that changes only with the network, the data or the view."""
        self._charted = self.lane().chart
        return state_message(self)

    def frame(self, number: int) -> Message:
        """All that moves while the race goes on."""
        lane, race, picture = self.lane(), self.bench.race, self.bench.picture
        where, blocks = messages.weights(picture, lane)
        rows = self._new_rows(race)
        content = {
            "type": "frame",
            "n": number,
            "run": self.run,
            "lanes": [messages.lane_now(one, self._latest.get(one.name, {}), picture) for one in self.bench.lanes],
            **messages.race_now(race, self.playing, picture),
            "undo": self.acts.deeds.undoable,
            "redo": self.acts.deeds.redoable,
            "rewind": self._rewind_step(),
            "curve": {"from": self._sent - len(rows), "rows": len(rows), "columns": list(messages.CURVE_COLUMNS)},
            **where,
            "scales": messages.scales_shown(picture, self.scaling.by_unit(lane)),
        }
        return Message(content, [rows.tobytes(), blocks])

    def _rewind_step(self) -> int | None:
        """Where rewinding goes to, once a lane has diverged."""
        if all(lane.state != "diverged" for lane in self.bench.lanes):
            return None
        moment = self.acts.rewindable()
        return None if moment is None else moment.position

    # -- for the commands ---------------------------------------------------------------------------------------------

    @property
    def is_2d(self) -> bool:
        """Whether the data are points in the plane."""
        return self.bench.race is not None and self.bench.race.task.is_2d

    @property
    def map_on(self) -> bool:
        """Whether the decision map is drawn."""
        return self._map_on

    def show_map(self, on: bool) -> None:
        """Whether the decision map is drawn."""
        self._map_on = self._map_stale = on
        self._map_at = 0.0
        self.changed = True

    def spec_json(self) -> str:
        """The network's JSON; an error for a model of one's own."""
        if self.setup.spec is None:
            raise SettingError(
                "the network is a model of your own and has no specification", fix="save it with torch.save as usual"
            )
        return self.setup.spec.to_json(indent=1)

    def stand(self, bench: Bench) -> None:
        self.bench = bench
        self.run += 1
        self.playing, self._until = False, None
        self._measures: dict[str, Measure] = {}
        self._latest: dict[str, dict[str, float]] = {}
        self._sent = 0
        self._map_on = self._map_on and self.is_2d
        self._map_stale = True
        names = [lane.name for lane in bench.lanes]
        self.viewed = self.viewed if self.viewed in names else names[-1]
        if bench.race is not None:
            bench.race.interrupt_with(self._cut.is_set)

    def step(self) -> None:
        race = self.bench.need_race()
        records = race.step()
        self.changed = True
        if records:
            self.scaling.forget()
            self._measures.clear()
            self._map_stale = True
            self.bench.moments.pass_by(race)
        if not records or race.finished or (self._until is not None and race.position >= self._until):
            self.playing = False

    def _fail(self, problem: BaseException, text: str) -> None:
        self.playing, self.failure = False, problem
        self.changed = True
        self._tell("error", "timeline", text, None)

    def weights_changed(self) -> None:
        self._measures.clear()
        self.changed = True

    def inspect_units(self, lane: LaneView, layer: int, unit: int | None) -> Message:
        bench, now = self.bench, self.now(lane)
        if unit is None:
            return Message.plain("inspect", **inspecting.layer(bench, lane, self.scaling, now, layer))
        return Message.plain("inspect", **inspecting.unit(bench, lane, self.scaling, now, layer, unit))

    def _new_rows(self, race: Any) -> Any:
        count = 0 if race is None else len(race.records)
        if race is None or count == self._sent:
            return messages.no_rows()
        rows = messages.curve(race.records.rows(self._sent, count))
        self._sent = count
        messages.update_latest(self._latest, rows, [lane.name for lane in self.bench.lanes])
        return rows

    def show_all(self) -> None:
        """State, history and a frame, at once: a page must never show one network with another's curves."""
        if not self.gate.opened:
            self.changed = True
            return
        self.emit(self.state())
        self._new_rows(self.bench.race)
        self.emit(messages.history(self.bench.race, self.run))
        self.flush()

    def show_state(self) -> None:
        if self.gate.opened:
            self.emit(self.state())
        self.changed = True

    def _map_due(self) -> bool:
        return self._map_on and self._map_stale and time.monotonic() - self._map_at >= MAP_PAUSE

    def _map(self) -> Message:
        race = self.bench.need_race()
        points = race.task.x[:MAP_POINTS], race.task.y[:MAP_POINTS]
        return messages.decision_map(race, [lane.name for lane in self.bench.lanes], points, MAP_SIZE)

    def _send(self, message: Message, answer: Any) -> None:
        self.emit(Message({**message.content, "id": answer}, message.buffers))

    def _tell(self, level: str, where: str, text: str, answer: Any) -> None:
        self.emit(Message.plain("message", level=level, where=where, text=text, id=answer))


def _nowhere(message: Message) -> None:
    """No page: nobody to tell."""
