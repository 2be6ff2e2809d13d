"""The page's commands: one method for each, by its name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eclab.errors import SettingError
from eclab.network.spec import NetworkSpec
from eclab.widgets import building, inspecting, messages
from eclab.widgets.assets import compiled_charts, vega_bundle
from eclab.widgets.messages import Message

if TYPE_CHECKING:
    from eclab.widgets.session import LabSession


class Handlers:
    """What each command of :data:`eclab.widgets.commands.COMMANDS` does.

    A method raises an :class:`eclab.EclabError` before anything has changed, and returns the answer if there is one.

    Args:
        lab: the session it is done to.
    """

    def __init__(self, lab: LabSession) -> None:
        self._lab = lab

    # -- the page -----------------------------------------------------------------------------------------------------

    def hello(self) -> None:
        """A page is there, new or reloaded: it gets everything."""
        self._lab.gate.open()
        self._lab.show_all()
        lab = self._lab
        lab.defer(compiled_charts, lambda charts: lab.emit(Message.plain("charts", charts=charts)))

    def history(self) -> Message:
        """A page has missed a part of the curves."""
        return messages.history(self._lab.bench.race, self._lab.run)

    def vega(self) -> None:
        """The library that draws the charts, once a page."""
        lab = self._lab
        lab.defer(vega_bundle, lambda code: lab.emit(Message({"type": "vega", "size": len(code)}, [code])))

    def view(self, lane: str) -> None:
        """Show another lane's network."""
        self._lab.viewed = self._lab.bench.lane(lane).name
        self._lab.show_state()

    def window(self, layer: int, start: int, count: int) -> None:
        """Show other units of a folded layer."""
        self._lab.bench.picture.move_window(layer, start, count)
        self._lab.show_state()

    # -- build --------------------------------------------------------------------------------------------------------

    def spec(self, spec: str) -> None:
        """Another network, from its JSON."""
        self._lab.acts.build(building.with_spec(self._lab.setup, NetworkSpec.from_json(spec)), "network from a file")

    def edit(self, op: str, **asked: Any) -> None:
        """One change of the network."""
        self._lab.acts.build(building.edited(self._lab.setup, op, asked), _EDITS[op])

    def preset(self, name: str) -> Message | None:
        """A network to start from, or a race with a known outcome."""
        setup, why = building.with_preset(self._lab.setup, name)
        self._lab.acts.build(setup, f"preset {name}")
        return _info("build", why) if why else None

    def data(self, name: str) -> Message | None:
        """Other data."""
        setup, done = building.with_data(self._lab.setup, name)
        self._lab.acts.build(setup, f"data {name}")
        return _info("build", done) if done else None

    def start(self, start: str) -> None:
        """Where lanes start from."""
        self._lab.acts.build(self._lab.setup.having(start=start), "start")

    def undo(self) -> Message:
        """Take back what was done last."""
        return _quiet(f"undone: {self._lab.acts.undo()}")

    def redo(self) -> Message:
        """Do again what was undone last."""
        return _quiet(f"done again: {self._lab.acts.redo()}")

    def save(self) -> Message:
        """The network as a file."""
        return Message.plain("file", name="network.eclab.json", text=self._lab.spec_json())

    # -- race ---------------------------------------------------------------------------------------------------------

    def play(self) -> None:
        """Let the race go on."""
        self._lab.play()

    def pause(self) -> Message:
        """Hold the race; a step under way gives up its evaluation. The page hears of it before its next frame."""
        self._lab.pause()
        return Message.plain("held", step=self._lab.bench.need_race().position)

    def stop(self) -> Message:
        """As pause."""
        return self.pause()

    def step(self) -> None:
        """One step."""
        self._lab.play()
        self._lab.pause()
        self._lab.step()

    def reset(self) -> None:
        """Back to the start, with the settings as they are now."""
        self._lab.acts.reset()

    def rewind(self, step: int | None, factor: float) -> None:
        """Back to before a lane diverged, or before a step."""
        self._lab.acts.rewind(step, factor)

    def lane_add(self, kind: str, lr: float | None) -> Message:
        """One lane more."""
        return _info("timeline", self._lab.acts.add_lane(kind, lr))

    def lane_remove(self, lane: str) -> Message:
        """One lane less."""
        return _info("timeline", self._lab.acts.remove_lane(lane))

    def lr(self, lane: str | None, value: float) -> None:
        """A lane's learning rate, or that of all."""
        self._lab.acts.set_lr(lane, value)

    def batch(self, value: int) -> None:
        """Samples a step."""
        self._lab.acts.set_batch_size(value)

    def epochs(self, value: int) -> None:
        """Passes over the data."""
        self._lab.acts.set_epochs(value)

    def decay(self, value: float) -> None:
        """Weight decay of all lanes."""
        self._lab.acts.set_decay(value)

    def map(self, on: bool) -> None:
        """Show or hide the decision map."""
        if on and not self._lab.is_2d:
            raise SettingError("a decision map needs points in the plane", allowed="circle, xor, gauss and spiral")
        self._lab.show_map(on)

    # -- classes and paths --------------------------------------------------------------------------------------------

    def rescale(self, layer: str, unit: int | None, c: float, commit: bool, lanes: str) -> Message:
        """Rescale a unit or a layer; answers with what the inspector shows of it."""
        lab, shown = self._lab, self._lab.lane()
        chosen = lab.bench.running(shown.name if lanes == "one" else None)
        lab.acts.rescale(
            f"scale of {lab.bench.picture.unit_label(lab.bench.picture.number(layer), unit)}",
            lambda: lab.scaling.drag(layer, unit, c, chosen, commit=commit),
            over=commit,
        )
        return lab.inspect_units(shown, lab.bench.picture.number(layer), unit)

    def unbalance(self, sigma: float) -> Message:
        """Rescale all units at random; no output changes."""
        self._lab.acts.rescale("unbalance", lambda: self._lab.scaling.unbalance(sigma))
        return _info("classes", f"all free units rescaled at random, σ = {sigma:g}; no output has changed")

    def unscale(self) -> Message:
        """Take back what was rescaled since the last training step."""
        scaling = self._lab.scaling
        if not scaling.moved:
            return _info("classes", "no unit was rescaled since the last step")
        self._lab.acts.rescale("reset of the scales", scaling.undo)
        return _info("classes", "all scales are back at 1")

    def same(self, a: str | None, b: str | None) -> Message:
        """Whether two lanes are members of one class."""
        names = [lane.name for lane in self._lab.bench.lanes]
        if len(names) < 2 and b is None:
            raise SettingError("there is only one network to compare", fix="give the lab two lanes")
        one, two = self._lab.bench.lane(a or names[0]), self._lab.bench.lane(b or names[1])
        return Message.plain("same", **inspecting.same(self._lab.bench, one, two))

    def inspect(self, kind: str, lane: str | None, layer: int | None, unit: int | None, **place: Any) -> Message:
        """What the inspector asks for."""
        shown = self._lab.lane(lane)
        if kind == "edge":
            return Message.plain("inspect", **inspecting.edge(self._lab.bench, shown, self._lab.now(shown), place))
        if kind == "lane":
            return Message.plain("inspect", **inspecting.lane_facts(self._lab.bench, shown, self._lab.now(shown)))
        if layer is None or (kind == "unit" and unit is None):
            raise SettingError(f"a {kind} was asked for without its place", allowed="layer, and unit for a unit")
        return self._lab.inspect_units(shown, layer, unit if kind == "unit" else None)

    def paths(self, k: int, active: bool) -> Message:
        """The largest paths."""
        return Message.plain("paths", **inspecting.paths(self._lab.bench, self._lab.lane(), k, active))


_EDITS = {
    "add": "new layer",
    "remove": "removal of a layer",
    "widen": "width of a layer",
    "activation": "activation",
    "bias": "bias",
}


def _info(where: str, text: str) -> Message:
    return Message.plain("message", level="info", where=where, text=text)


def _quiet(text: str) -> Message:
    """For screen readers; everybody else sees it happen."""
    return Message.plain("message", level="quiet", where="stage", text=text)
