"""``eclab.Lab``: the whole lab in one widget. It owns the page's channel and the thread; the work is in the session."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import anywidget
import traitlets

from eclab.errors import SettingError
from eclab.widgets import assets
from eclab.widgets.driver import Driver
from eclab.widgets.messages import Message
from eclab.widgets.opening import first_setup, know_only
from eclab.widgets.session import LabSession
from eclab.widgets.stating import facts as bench_facts

if TYPE_CHECKING:
    from eclab.facade import Network
    from eclab.network.spec import NetworkSpec
    from eclab.race.race import Race
    from eclab.race.store import Result
    from eclab.widgets.bench import Bench

T = TypeVar("T")


class Lab(anywidget.AnyWidget):
    """Build a network, see its classes and paths, and race optimizers on it, in one widget.

    Without a browser it works the same: :meth:`run` blocks and returns the race's result.

    Args:
        model: a network's text such as ``"2-6-6-4-2"``, an ``eclab.NetworkSpec``, or an ``nn.Module`` of one's own,
            which is copied and never changed. Without it a small network that suits the data.
        x: inputs for a model of one's own, ``[samples, ...]``.
        y: their classes, int ``[samples]``; without them there is no race.
        data: name of a data set, or an ``eclab.data.Dataset``; ``"digits"`` when neither it nor ``x`` is given.
        settings: as for :class:`eclab.Race`, by name: lanes, lr, epochs, batch_size, seed, device, start, unbalance,
            momentum, weight_decay, eval_every, dtype.

    Raises:
        SettingError: an unknown or bad setting; the message names what is close to it.
        SpecError, TraceError, DataError: the network or the data cannot be used.

    Example:
        >>> lab = Lab("2-6-6-2", data="circle", epochs=2, device="cpu")
        >>> result = lab.run()
        >>> lab.race.finished
        True
        >>> lab.close()
    """

    settings = traitlets.Dict().tag(sync=True)
    _spec = traitlets.Unicode("").tag(sync=True)

    def __init__(self, model: Any = None, x: Any = None, y: Any = None, *, data: Any = None, **settings: Any) -> None:
        know_only(settings)
        self._session = LabSession(first_setup(model, x, y, data, settings))
        self._esm, self._css = assets.esm(), assets.css()
        super().__init__(settings={"lens": "build"}, _spec=self._spec_text())
        self._driver = Driver(self._session)
        self._session.emit = self._emit
        self._session.defer = self._defer
        self._session.on_new_network = self._remember_spec
        self.on_msg(self._on_message)

    # -- the page -----------------------------------------------------------------------------------------------------

    def _on_message(self, _widget: object, content: Mapping[str, Any], _buffers: object) -> None:
        self._driver.post(content)

    def _emit(self, message: Message) -> None:
        self.send(message.content, message.buffers or None)

    def open(self) -> None:
        """Open the channel to the page."""
        super().open()
        listen_while_busy(self.comm)

    def _defer(self, make: Callable[[], Any], then: Callable[[Any], None]) -> None:
        """Off the lab's thread, and back on it with the result."""
        self._driver.aside(make, then, self._no_charts)

    def _no_charts(self, problem: Exception) -> None:
        text = f"the charts cannot be drawn: {type(problem).__name__}: {problem}"
        self._emit(Message.plain("message", level="error", where="timeline", text=text, id=None))

    def _spec_text(self) -> str:
        spec = self._session.setup.spec
        return "" if spec is None else spec.to_json()

    def _remember_spec(self) -> None:
        self._spec = self._spec_text()

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        """The widget, and a plain text for wherever there is none."""
        found = super()._repr_mimebundle_(**kwargs)
        data, metadata = found if found is not None else ({}, {})
        return {**data, "text/plain": self.summary()}, metadata

    def __repr__(self) -> str:
        return self.summary()

    def close(self) -> None:
        """Stop the race, end the thread, and close the widget."""
        driver = getattr(self, "_driver", None)
        if driver is not None:
            driver.close()
        super().close()

    # -- the notebook -------------------------------------------------------------------------------------------------

    @property
    def race(self) -> Race:
        """The race; pause before changing anything on it by hand.

        Raises:
            SettingError: there are no labels to train on.
        """
        return self._session.bench.need_race()

    @property
    def spec(self) -> NetworkSpec | None:
        """The network's specification; None for a model of one's own."""
        return self._session.setup.spec

    def net(self, lane: str | None = None) -> Network:
        """The network of a lane; without a name, of the one the page shows."""
        return self._session.lane(lane).net

    def summary(self) -> str:
        """What is in the lab, in a few lines of text."""
        return summary(self._session.bench)

    def play(self) -> None:
        """Let the race go on in the background."""
        self._call(self._session.play)

    def pause(self) -> None:
        """Hold the race after the step under way."""
        self._session.interrupt()
        self._call(self._session.pause)

    def stop(self) -> None:
        """As :meth:`pause`; the race can be played on."""
        self.pause()

    def step(self, steps: int = 1) -> None:
        """Take some steps, and block meanwhile."""
        self.run(steps=steps)

    def reset(self) -> None:
        """Back to the start, with the settings as they are now."""
        self._session.interrupt()
        self._call(self._session.acts.reset)

    def rewind(self, step: int | None = None) -> None:
        """Back to the last moment kept before a step; without one, to before the first lane diverged.

        Raises:
            SettingError: no such moment was kept.
        """
        self._session.interrupt()
        self._call(lambda: self._session.acts.rewind(step))

    def undo(self) -> str:
        """Take back what was done last, by the page or from here; returns what it was."""
        self._session.interrupt()
        return self._call(self._session.acts.undo)

    def redo(self) -> str:
        """Do again what was undone last; returns what it is."""
        self._session.interrupt()
        return self._call(self._session.acts.redo)

    def add_lane(self, kind: str, lr: float | None = None) -> None:
        """Let one optimizer more race; a race that has begun starts anew, so that all lanes see the same.

        Args:
            kind: as in ``lanes``, such as ``"sgd"``.
            lr: its learning rate; without it that of the first lane, or a small one for adaptive optimizers.
        """
        self._call(lambda: self._session.acts.add_lane(kind, lr))

    def remove_lane(self, lane: str) -> None:
        """Take a lane out of the race; the others go on where they are."""
        self._call(lambda: self._session.acts.remove_lane(lane))

    def run(self, steps: int | None = None, epochs: int | None = None) -> Result:
        """Train, and block until it is done; the page follows.

        Args:
            steps: at most so many steps; without it, to the end of the last epoch.
            epochs: passes over the data from here on; without it, what is left.

        Returns:
            Everything recorded since the start.

        Raises:
            SettingError: the race is over, or there are no labels.
        """
        self._call(lambda: self._session.start_run(steps, epochs))
        try:
            self._driver.wait_until_idle()
        except KeyboardInterrupt:
            self.pause()
            raise
        return self._call(self._session.end_run)

    def set_lr(self, lr: float, lane: str | None = None) -> None:
        """Change the learning rate of a lane, or of all, from the next step on."""
        self._call(lambda: self._session.acts.set_lr(lane, lr))

    def rescale(self, layer: str, unit: int | None, c: float, lane: str | None = None) -> None:
        """Rescale a unit, or with None all free units of a layer, by ``c > 0``; no output changes.

        Args:
            layer: the layer's name, ``"0"``.
            unit: the unit's index.
            c: the factor.
            lane: only this one's network; without it, that of every lane.
        """
        self._call(lambda: self._session.rescale(str(layer), unit, c, lane))

    def save(self, path: str | Path) -> Path:
        """Write the network's specification as JSON; :meth:`load` reads it."""
        target = Path(path)
        target.write_text(self._call(self._session.spec_json), encoding="utf-8")
        return target

    @classmethod
    def load(cls, path: str | Path, **settings: Any) -> Lab:
        """A lab with a network that :meth:`save` wrote.

        Args:
            path: the file.
            settings: data and settings, as for the lab itself.

        Raises:
            SpecError: no specification, or one of a newer version.
            SettingError: there is no such file.
        """
        from eclab.network.spec import NetworkSpec

        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as problem:
            raise SettingError(
                f"{path} cannot be read ({problem})", fix="name a file that lab.save() wrote"
            ) from problem
        return cls(NetworkSpec.from_json(text), **settings)

    def _call(self, job: Callable[[], T]) -> T:
        return self._driver.call(job)


def listen_while_busy(comm: Any) -> None:
    """Let the page's messages arrive on the thread that JupyterLab sends them to, not on the one that spoke last.

    ipykernel 7 hands them to whichever thread wrote to the channel last. For a lab that is the main thread
    as often as not, where they would wait until the cell ends; pause and stop must not wait for ``lab.run()``.
    """
    if hasattr(comm, "_reply_subshell_for"):
        comm._reply_subshell_for = lambda _data, sent_to: sent_to


def summary(bench: Bench) -> str:
    """What stands on a bench, in text."""
    facts = bench_facts(bench)
    lines = [
        f"eclab.Lab: {facts['net']} on {facts['data']}, {facts['device']}",
        f"m = {facts['m']:,} weights, H = {facts['H']:,} free units, m − H = {facts['class_dim']:,}, "
        f"H/m = {facts['ratio']:.2%}",
    ]
    race = bench.race
    if race is not None:
        lanes = ", ".join(
            f"{lane.label} (lr {lane.lr:g}{', ' + lane.verdict if lane.verdict else ''})" for lane in race.lanes
        )
        lines.append(f"step {race.position:,} of {race.total_steps:,}; {lanes}")
    return "\n".join(lines)
