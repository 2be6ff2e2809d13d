"""All that is done in the lab and can be undone: building, lanes, settings, rescaling, training, reset and rewind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from eclab.errors import SettingError
from eclab.widgets import laning
from eclab.widgets.bench import Bench
from eclab.widgets.deeds import Deed, Deeds
from eclab.widgets.moments import MOST_BYTES, Moment

if TYPE_CHECKING:
    from eclab.race.record import Event
    from eclab.widgets.bench import Setup
    from eclab.widgets.scaling import Place
    from eclab.widgets.session import LabSession

TRAINING = "training"


class Acts:
    """What can be done, each with its way back.

    Args:
        lab: the session it is done to.

    Attributes:
        deeds: what was done so far.
    """

    def __init__(self, lab: LabSession) -> None:
        self._lab = lab
        self.deeds = Deeds()
        self._grip: tuple[Place, _Marks] | None = None

    def undo(self) -> str:
        """Take back what was done last; returns what it was."""
        if self.deeds.undoable is None:
            raise SettingError("there is nothing to undo")
        label = self.deeds.undo().label
        self._lab.changed = True
        return label

    def redo(self) -> str:
        """Do again what was undone last; returns what it is."""
        if self.deeds.redoable is None:
            raise SettingError("there is nothing to redo")
        label = self.deeds.redo().label
        self._lab.changed = True
        return label

    # -- other networks, data and lanes -------------------------------------------------------------------------------

    def build(self, setup: Setup, label: str) -> None:
        """Build another setup and put it in place of this one; if it cannot be built, this one stays."""
        self._swap(Bench(setup), label)

    def add_lane(self, kind: str, lr: float | None = None) -> str:
        """One lane more; returns what that means for the race, in words."""
        lab, old = self._lab, self._lab.bench.need_race()
        bench = Bench(laning.with_lane(self.setup_now(), old, kind, lr))
        new = bench.need_race()
        label, anew = new.lanes[-1].label, old.position > 0
        if not anew:
            laning.carry_over(old, new)
            bench.scaling.take_over(lab.bench.scaling)
        self._swap(bench, f"lane {label}")
        return f"{label} joins, and the race starts anew; undo brings back the one before" if anew else f"{label} joins"

    def remove_lane(self, name: str) -> str:
        """One lane less; the others go on where they are."""
        lab, old = self._lab, self._lab.bench.need_race()
        label, playing = old.lane(name).label, lab.playing
        bench = Bench(laning.without_lane(self.setup_now(), old, name))
        laning.carry_over(old, bench.need_race())
        bench.scaling.take_over(lab.bench.scaling)
        self._swap(bench, f"removal of {label}")
        lab.playing = playing and not bench.need_race().finished
        return f"{label} has left the race"

    def _swap(self, bench: Bench, label: str) -> None:
        old = self._lab.bench
        bench.picture.keep_windows(old.picture)
        # before it is shown, or the page would not yet know that it can be undone
        self.deeds.push(Deed(label, lambda: self._show(old), lambda: self._show(bench), size=old.size))
        self._show(bench)

    def _show(self, bench: Bench) -> None:
        self._grip = None
        self._lab.stand(bench)
        self._lab.on_new_network()
        self._lab.show_all()

    # -- the race at other steps --------------------------------------------------------------------------------------

    def travel(self, label: str) -> None:
        """What comes next can be undone: the race goes back to where it is now."""
        race = self._lab.bench.need_race()
        key = (label, self._lab.run)
        if race.broken or (label == TRAINING and self.deeds.continues(key)):
            return
        before = Moment(race)
        if 2 * before.size > MOST_BYTES:
            return
        after: list[Moment] = []

        def undo() -> None:
            now = [Moment(race)]
            self._put(before)
            after[:] = now

        self.deeds.push(Deed(label, undo, lambda: self._put(after[0]), size=2 * before.size, key=key))

    def reset(self) -> None:
        """Back to the start, with the settings as they are now."""
        race = self._lab.bench.need_race()
        self.travel("reset")
        race.reset()
        self._moved()

    def rewind(self, step: int | None = None, factor: float = 1.0) -> None:
        """Back to a moment before a step, or before the first lane diverged; its lanes may go on at another rate.

        Args:
            step: go to the last moment kept before this one; None for the step at which a lane diverged first.
            factor: of the learning rate of the lanes that had diverged: the lower one of then and now.
        """
        race, moment = self._lab.bench.need_race(), self.rewindable(step)
        gone = {lane.name: lane.lr for lane in race.lanes if not lane.running}
        if moment is None:
            raise SettingError("no earlier step was kept to rewind to", fix="reset the race instead")
        self.travel("rewind")
        moment.put(race)
        for name, rate in gone.items() if factor != 1 else ():
            race.set_lr(name, factor * min(rate, race.lane(name).lr))
        self._moved()

    def rewindable(self, step: int | None = None) -> Moment | None:
        """The moment that rewinding goes to; None where there is none."""
        bench = self._lab.bench
        if bench.race is None:
            return None
        if step is None:
            step = min((e.step for e in bench.race.events if e.kind == "diverged"), default=bench.race.position)
        return bench.moments.before(step)

    def _put(self, moment: Moment) -> None:
        moment.put(self._lab.bench.need_race())
        self._moved()

    def _moved(self) -> None:
        """The race is at another step than it was."""
        lab, race = self._lab, self._lab.bench.need_race()
        lab.bench.moments.went_back(race.position)
        lab.bench.setup = self.setup_now()
        lab.scaling.forget()
        lab.stand(lab.bench)
        lab.show_all()

    # -- settings -----------------------------------------------------------------------------------------------------

    def set_lr(self, lane: str | None, lr: float) -> None:
        """The learning rate of a lane, or of all; it holds for the network's next build too."""
        race = self._lab.bench.need_race()
        before = {one.name: one.lr for one in race.lanes}
        self._change(
            "learning rate" if lane is None else f"learning rate of {race.lane(lane).label}",
            lambda: race.set_lr(lane, lr),
            lambda: _each(race.set_lr, before),
        )

    def set_batch_size(self, count: int) -> None:
        """Samples a step."""
        race = self._lab.bench.need_race()
        before = race.batch_size
        self._change("batch size", lambda: race.set_batch_size(count), lambda: race.set_batch_size(before))

    def set_epochs(self, count: int) -> None:
        """Passes over the data."""
        race = self._lab.bench.need_race()
        before = race.epochs
        self._change("epochs", lambda: race.set_epochs(count), lambda: race.set_epochs(before))

    def set_decay(self, decay: float) -> None:
        """Weight decay of all lanes."""
        race = self._lab.bench.need_race()
        before = {one.name: one.weight_decay for one in race.lanes}
        self._change(
            "weight decay",
            lambda: race.set_weight_decay(decay),
            lambda: _each(lambda name, old: race.set_weight_decay(old, name), before),
        )

    def _change(self, label: str, do: Callable[[], Any], undo: Callable[[], Any]) -> None:
        marks = _Marks(self._lab)
        do()
        done = _Marks(self._lab)

        def way(act: Callable[[], Any], then: _Marks) -> Callable[[], None]:
            def run() -> None:
                act()
                then.put()
                self._keep()

            return run

        self.deeds.push(Deed(label, way(undo, marks), way(do, done)))
        self._keep()

    def _keep(self) -> None:
        """What was set while it runs also holds for the network's next build."""
        self._lab.bench.setup = self.setup_now()
        self._lab.show_state()

    def setup_now(self) -> Setup:
        """The setup, with the race's settings as they are now."""
        setup, race = self._lab.setup, self._lab.bench.need_race()
        changes: dict[str, Any] = {
            "lanes": laning.lanes_now(race),
            "lr": race.lanes[0].lr,
            "batch_size": race.batch_size,
            "epochs": race.epochs,
        }
        decays = {lane.weight_decay for lane in race.lanes}
        return setup.having(**changes, **({"weight_decay": decays.pop()} if len(decays) == 1 else {}))

    # -- rescaling ----------------------------------------------------------------------------------------------------

    def rescale(self, label: str, act: Callable[[], Any], *, over: bool = True) -> Any:
        """Rescale, so that it can be undone; while a unit is dragged, all of the drag is one deed.

        Args:
            label: what is rescaled.
            act: does it.
            over: whether a drag is over.
        """
        lab = self._lab
        if self._grip is None or not lab.scaling.dragging:
            self._grip = lab.scaling.place(), _Marks(lab)
        (here, marks), found = self._grip, act()
        if over:
            self._grip, there, done = None, lab.scaling.place(), _Marks(lab)
            deed = Deed(
                label,
                lambda: self._move(there, here, marks),
                lambda: self._move(here, there, done),
                key=(label, lab.run, marks.position),
            )
            self.deeds.push(deed)
        lab.weights_changed()
        return found

    def _move(self, here: Place, there: Place, marks: _Marks) -> None:
        self._lab.scaling.move(here, there)
        marks.put()
        self._lab.weights_changed()


def _each(act: Callable[[str, float], None], values: Mapping[str, float]) -> None:
    for name, value in values.items():
        act(name, value)


class _Marks:
    """The marks on the charts at one step.

    They are put back with what they marked as long as no step was taken since; later they are a part of the story.
    """

    def __init__(self, lab: LabSession) -> None:
        self._race = lab.bench.race
        self.position = 0 if self._race is None else self._race.position
        self._events: list[Event] = [] if self._race is None else list(self._race.events)

    def put(self) -> None:
        """As they were, if the race is still there."""
        if self._race is not None and self._race.position == self.position:
            self._race.events[:] = self._events
