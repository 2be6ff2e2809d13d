"""A thread that drains a race, and takes commands between its steps."""

from __future__ import annotations

import atexit
import threading
import time
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

from eclab.race import settings
from eclab.race.race import Race
from eclab.race.record import Record

LINGER = 2.0
"""Seconds an idle thread waits for the next command before it ends; the next command starts another."""

BREATH_EVERY, BREATH = 0.025, 0.0005
"""Seconds: so often the thread really sleeps, so long, and others get the interpreter without asking for it."""

_LIVE: weakref.WeakSet[Driver] = weakref.WeakSet()


class Driver:
    """Plays a race on a daemon thread: play, pause, step, stop, and commands between two steps.

    Nothing here trains: the thread only drains the generator. A lockstep step is never cut in two, so `stop` acts when
    the step under way is over, and an evaluation under way is broken off. Between the steps the thread lets go of the
    interpreter, so a notebook's kernel stays usable.

    Args:
        race: the race.
        on_step: called with the records after every lockstep step.
        on_change: called with the state whenever it changes.
        on_error: called with whatever went wrong in a step, a sent command or a callback; without it the traceback
            goes to standard error. Nothing is swallowed.
        pace: at most so many steps a second; None for as fast as it goes. May be changed at any time.

    All callbacks run on the driver's thread; they should only enqueue.

    Attributes:
        race: the race it plays.
        state: "paused", "playing", "stopping" (a step is still under way), "stopped", "finished", "failed" or "closed";
            `on_change` hears of all but "stopping" and "closed".
        error: what made the state "failed", else None.

    Example:
        >>> driver = Driver(Race("64-8-10", "digits", epochs=1, device="cpu"))
        >>> driver.step(3)
        >>> driver.wait(timeout=60), driver.race.position, driver.state
        (True, 3, 'paused')
        >>> driver.submit(lambda race: race.set_lr(None, 0.2)).result(timeout=60)
        >>> driver.close()
        True
    """

    def __init__(
        self,
        race: Race,
        *,
        on_step: Callable[[list[Record]], None] | None = None,
        on_change: Callable[[str], None] | None = None,
        on_error: Callable[[BaseException], None] | None = None,
        pace: float | None = None,
    ) -> None:
        self.pace = None if pace is None else settings.positive(pace, "the pace")
        self._on_step, self._on_change, self._on_error = on_step, on_change, on_error
        self._news = threading.Condition()
        self._commands: deque[tuple[Callable[..., Any], tuple[Any, ...], Future[Any] | None]] = deque()
        self._thread: threading.Thread | None = None
        self._left: float = 0.0
        self._rest = self._state = "paused"
        self._halted = self._closed = self._busy = False
        self._stopping = threading.Event()
        self.error: BaseException | None = None
        self._take(race)
        _LIVE.add(self)

    def _take(self, race: Race) -> None:
        self.race = race
        race.interrupt_with(self._stopping.is_set)

    # -- from any thread ----------------------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """What the driver is doing."""
        with self._news:
            if self._closed:
                return "closed"
            return "stopping" if self._state == "playing" and self._halted else self._state

    @property
    def playing(self) -> bool:
        """Whether steps are being taken, the last one included."""
        return self.state in ("playing", "stopping")

    def play(self) -> None:
        """Take steps until the race is finished or someone says otherwise."""
        self._go(float("inf"))

    def step(self, n: int = 1) -> None:
        """Take n steps, then pause."""
        self._go(settings.whole(n, "the number of steps"))

    def _go(self, steps: float) -> None:
        with self._news:
            self._left, self._rest, self._halted = steps, "paused", False
            self._stopping.clear()
            self._wake()

    def pause(self) -> None:
        """Stop after the step under way; `play` goes on from there."""
        self._halt("paused")

    def stop(self, timeout: float = 0.2) -> bool:
        """Stop now, breaking off an evaluation under way, and wait a moment for it.

        Args:
            timeout: seconds to wait.

        Returns:
            Whether nothing is under way any more. False while one long step still runs (a very big batch); the state is
            then "stopping", and no further step follows.
        """
        self._stopping.set()
        self._halt("stopped")
        return self.wait(timeout)

    def _halt(self, rest: str) -> None:
        with self._news:
            self._left, self._rest, self._halted = 0.0, rest, True
            self._wake()

    def reset(self) -> Future[None]:
        """Pause and bring the race back to its start."""
        self.pause()
        return self.submit(Race.reset)

    def replace(self, race: Race) -> Future[None]:
        """Pause and go on with another race."""
        self.pause()
        return self.submit(lambda _: self._take(race))

    def submit(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        """Call `function(race, *args)` on the thread between two steps; result or error are in the future."""
        future: Future[Any] = Future()
        self._enqueue(function, args, future)
        return future

    def send(self, function: Callable[..., Any], *args: Any) -> None:
        """Like `submit` for callers that do not wait: an error goes to `on_error`."""
        self._enqueue(function, args, None)

    def _enqueue(self, function: Callable[..., Any], args: tuple[Any, ...], future: Future[Any] | None) -> None:
        with self._news:
            if not self._closed:
                self._commands.append((function, args, future))
            elif future is not None:
                future.cancel()
            self._wake()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until nothing is under way: no step, no command. Returns whether that came true in time."""
        with self._news:
            return self._news.wait_for(lambda: not self._busy, timeout)

    def close(self, timeout: float = 1.0) -> bool:
        """Stop for good; commands not yet run are cancelled. Returns whether the thread has ended."""
        self._stopping.set()
        with self._news:
            self._closed, self._left = True, 0.0
            thread = self._thread
            self._news.notify_all()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)
        return thread is None or not thread.is_alive()

    def _wake(self) -> None:
        if self._closed:
            return
        self._busy = True
        if self._thread is None:
            self._thread = threading.Thread(target=self._drain, name="eclab-race", daemon=True)
            self._thread.start()
        self._news.notify_all()

    # -- on the thread ------------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        try:
            while (job := self._next_job()) is not None:
                job()
        finally:
            with self._news:
                self._end()

    def _next_job(self) -> Callable[[], None] | None:
        """What to do next, waiting for it a while; None to end the thread."""
        with self._news:
            while not self._closed:
                if self._commands:
                    return partial(self._run, *self._commands.popleft())
                finished = self.race.finished
                if self._left > 0 and not finished:
                    self._left -= 1
                    return self._one_step
                self._left = 0.0
                rest = "finished" if finished and self._rest == "paused" else self._rest
                if self._state != rest:
                    return partial(self._change, rest)
                self._busy = False
                self._news.notify_all()
                self._news.wait(LINGER)
                if not self._busy:
                    break
            self._end()
            return None

    def _end(self) -> None:
        if self._thread is not threading.current_thread():
            return
        self._thread, self._busy = None, False
        for _, _, future in self._commands:
            if future is not None:
                future.cancel()
        self._commands.clear()
        self._news.notify_all()

    def _one_step(self) -> None:
        started = time.monotonic()
        self._change("playing")
        _, error = _attempt(self._step_and_tell)
        if error is not None:
            with self._news:
                self.error, self._left, self._rest = error, 0.0, "failed"
            self._report(error)
        self._breathe(started)

    def _step_and_tell(self) -> None:
        records = self.race.step()
        if self._on_step is not None:
            self._on_step(records)

    def _breathe(self, started: float) -> None:
        """Let others have the interpreter, and keep the pace."""
        now = time.monotonic()
        if now - self._breath > BREATH_EVERY:
            time.sleep(BREATH)
            self._breath = now
        else:
            time.sleep(0)
        with self._news:
            while self._left > 0 and not self._commands and (pace := self.pace) is not None:
                left = started + 1 / pace - time.monotonic()
                if left <= 0:
                    break
                self._news.wait(left)

    _breath = 0.0

    def _run(self, function: Callable[..., Any], args: Sequence[Any], future: Future[Any] | None) -> None:
        if future is not None and not future.set_running_or_notify_cancel():
            return
        result, error = _attempt(function, self.race, *args)
        if future is None:
            if error is not None:
                self._report(error)
        elif error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    def _change(self, state: str) -> None:
        with self._news:
            if self._state == state:
                return
            self._state = state
            if state == "playing":
                self.error = None
            else:
                self._halted = False
            self._news.notify_all()
        if self._on_change is not None:
            _, error = _attempt(self._on_change, state)
            if error is not None:
                self._report(error)

    def _report(self, error: BaseException) -> None:
        untold: BaseException | None = error
        if self._on_error is not None:
            _, untold = _attempt(self._on_error, error)
        if untold is not None:
            traceback.print_exception(untold)


def _attempt(function: Callable[..., Any], *args: Any) -> tuple[Any, Exception | None]:
    """What the call returns, and what it raises: on a thread nobody else would hear of it."""
    try:
        return function(*args), None
    except Exception as error:  # noqa: BLE001 - every error is handed on, whatever it is
        return None, error


@atexit.register
def _close_all() -> None:
    """A daemon thread that is inside torch while the interpreter goes away may crash it."""
    for driver in list(_LIVE):
        driver.close(timeout=0.5)
