"""The one thread that works for a lab: it runs commands and steps of the race in turn, and nothing else has to wait."""

from __future__ import annotations

import atexit
import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any, Protocol, TypeVar

from eclab.widgets.frames import FrameGate

T = TypeVar("T")

log = logging.getLogger("eclab")

CLOSED = "this lab has been closed; make a new one with eclab.Lab()"

_REPLACED_BY_NEWER = ("rescale", "inspect", "window")
"""Commands of which only the newest counts while they wait in line: a drag or a moving pointer sends many."""

ASIDE_ENDS = 20.0
"""Seconds a process that ends waits for charts being compiled: longer than that takes on a slow machine."""

BREATH_EVERY, BREATH = 0.010, 0.001
"""Seconds: so often the thread sleeps while it trains, and so long."""

_INTERRUPTING = frozenset(
    {
        "pause",
        "stop",
        "reset",
        "spec",
        "edit",
        "preset",
        "data",
        "start",
        "undo",
        "redo",
        "rewind",
        "lane_add",
        "lane_remove",
    }
)
"""Commands that a step under way need not finish for."""


class Work(Protocol):
    """What a driver drives; :class:`eclab.widgets.session.LabSession` is one."""

    playing: bool
    changed: bool
    gate: FrameGate

    def handle(self, content: Mapping[str, Any]) -> None:
        """Run one command of the page; never raises."""

    def advance(self) -> None:
        """One step of the race; never raises."""

    def interrupt(self) -> None:
        """Called from any thread: give up what takes long at the next chance."""

    def flush(self) -> None:
        """Send what has changed; never raises."""


class Driver:
    """A queue of commands, a thread that drains it, and between two commands the steps of the race.

    The thread starts with the first command and is a daemon; nothing of the work is ever touched from another thread.

    Args:
        work: what to drive.
    """

    def __init__(self, work: Work) -> None:
        self.work, self.gate = work, work.gate
        self._pending: deque[Mapping[str, Any] | Callable[[], None]] = deque()
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._aside: set[threading.Thread] = set()
        self._breath = 0.0
        self.idle = threading.Event()
        self.idle.set()

    def post(self, content: Mapping[str, Any]) -> None:
        """Put a page's command in line and return at once."""
        command = content.get("cmd")
        if command == "ack":
            number = content.get("n")
            self.gate.acknowledge(number if isinstance(number, int) else 0)
            self._notify()
            return
        if command in _INTERRUPTING:
            self.work.interrupt()
        with self._wake:
            if self._pending and _supersedes(content, self._pending[-1]):
                self._pending.pop()
        # a page that speaks while the lab closes gets no answer; its channel is closed next
        self._offer(content)

    def call(self, job: Callable[[], T]) -> T:
        """Run a job on the thread and wait for its result; an exception of the job is raised here."""
        if threading.current_thread() is self._thread:
            return job()
        waiting = _Waiting(job)
        self.put(waiting)
        found: T = waiting.future.result()
        return found

    def wait_until_idle(self) -> None:
        """Block until the race is at rest; Ctrl-C gets through."""
        while not self.idle.wait(0.2):
            pass

    def aside(self, make: Callable[[], T], then: Callable[[T], None], failed: Callable[[Exception], None]) -> None:
        """Run a job on a thread of its own, then go on with what it made, or with its error, on the lab's thread.

        Nothing of either happens once the lab has been closed.
        """

        def work() -> None:
            try:
                made = make()
            except Exception as problem:
                log.exception("the charts could not be prepared")
                self._offer(partial(failed, problem))
            else:
                self._offer(partial(then, made))
            finally:
                self._aside.discard(threading.current_thread())

        thread = threading.Thread(target=work, name="eclab charts", daemon=True)
        self._aside.add(thread)
        thread.start()

    def close(self, timeout: float = 5.0, *, aside: bool = False) -> None:
        """End the thread; what is still in line is not run.

        Args:
            timeout: seconds to wait for the step under way.
            aside: whether to wait for the jobs aside too, as a process that ends must: they are inside native code.
        """
        self.work.interrupt()
        with self._wake:
            self._closed = True
            left = [*self._pending]
            self._pending.clear()
            self._wake.notify_all()
        for item in left:
            if isinstance(item, _Waiting):
                item.future.set_exception(RuntimeError(CLOSED))
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout)
        if aside:
            for thread in tuple(self._aside):
                thread.join(ASIDE_ENDS)
        self.idle.set()

    def put(self, item: Mapping[str, Any] | Callable[[], None]) -> None:
        """Put a command or a job in line and return at once.

        Raises:
            RuntimeError: the lab has been closed.
        """
        if not self._offer(item):
            raise RuntimeError(CLOSED)

    def _offer(self, item: Mapping[str, Any] | Callable[[], None]) -> bool:
        """As :meth:`put`, for threads and pages that may find the lab closed; whether it was taken."""
        with self._wake:
            if self._closed:
                return False
            self._pending.append(item)
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name="eclab lab", daemon=True)
                self._thread.start()
                _close_at_exit(self)
            self._wake.notify_all()
            return True

    def _notify(self) -> None:
        with self._wake:
            self._wake.notify_all()

    def _loop(self) -> None:
        while not self._closed:
            try:
                self._turn()
            except Exception:
                # whatever it was, a lab without its thread would hang for good
                log.exception("the lab goes on after an error")

    def _turn(self) -> None:
        self._run_pending()
        if self.work.playing:
            self.idle.clear()
            self.work.advance()
            self._breathe()
        else:
            self.idle.set()
            self._sleep()
        if (self.work.changed or self.work.playing) and self.gate.ready():
            self.work.flush()

    def _breathe(self) -> None:
        """Really sleep now and then: a kernel takes a message in many turns, and would wait 5 ms for each of them."""
        if time.monotonic() - self._breath > BREATH_EVERY:
            time.sleep(BREATH)
            self._breath = time.monotonic()

    def _run_pending(self) -> None:
        while True:
            with self._wake:
                if not self._pending or self._closed:
                    return
                item = self._pending.popleft()
            if callable(item):
                item()
            else:
                self.work.handle(item)
            if self.work.playing:
                # before a caller of call() can ask whether the race is at rest
                self.idle.clear()
            if isinstance(item, _Waiting):
                item.answer()

    def _sleep(self) -> None:
        """Until there is something in line, or a frame that waits may leave."""
        with self._wake:
            if not self._pending and not self._closed:
                self._wake.wait(self.gate.wait() if self.work.changed else None)


class _Waiting:
    """A job whose caller waits for it.

    Args:
        job: what to run.
    """

    def __init__(self, job: Callable[[], Any]) -> None:
        self.future: Future[Any] = Future()
        self._job = job
        self._found: Any = None
        self._problem: BaseException | None = None

    def __call__(self) -> None:
        try:
            self._found = self._job()
        except BaseException as problem:  # noqa: BLE001 - it is raised again where the caller waits
            self._problem = problem

    def answer(self) -> None:
        """Let the caller go on."""
        if self._problem is None:
            self.future.set_result(self._found)
        else:
            self.future.set_exception(self._problem)


def _supersedes(new: Mapping[str, Any], old: Mapping[str, Any] | Callable[[], None]) -> bool:
    if callable(old) or new.get("cmd") not in _REPLACED_BY_NEWER or old.get("cmd") != new["cmd"]:
        return False
    if new["cmd"] == "inspect":
        return True
    same = all(old.get(key) == new.get(key) for key in ("layer", "unit", "lanes"))
    return same and old.get("commit") is not True


def _close_at_exit(driver: Driver) -> None:
    """A thread inside torch while the interpreter ends would crash the process; the weak reference lets labs go."""
    reference = weakref.ref(driver)

    def close() -> None:
        living = reference()
        if living is not None:
            living.close(2.0, aside=True)

    atexit.register(close)
