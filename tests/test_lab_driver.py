"""One thread does the work, callbacks only put commands in line, and stop is quick."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from eclab.widgets.driver import Driver
from eclab.widgets.messages import Message
from eclab.widgets.opening import first_setup
from eclab.widgets.session import LabSession


class Wire:
    """What a page would have got, with the time and the thread it was sent from."""

    def __init__(self) -> None:
        self.got: list[tuple[float, Message]] = []
        self.threads: set[str] = set()

    def __call__(self, message: Message) -> None:
        self.got.append((time.monotonic(), message))
        self.threads.add(threading.current_thread().name)

    def kinds(self) -> list[str]:
        return [message.content["type"] for _, message in self.got]

    def frames(self) -> list[dict[str, Any]]:
        return [message.content for _, message in self.got if message.content["type"] == "frame"]


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.002)


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def driver(wire: Wire) -> Iterator[Driver]:
    settings = {"epochs": 10_000, "device": "cpu", "batch_size": 50}
    session = LabSession(first_setup("2-6-5-2", None, None, "circle", settings), wire)
    session.defer = lambda make, then: None
    made = Driver(session)
    yield made
    made.close()


def test_the_thread_starts_with_the_first_command_and_ends_with_close(driver: Driver):
    before = threading.active_count()
    driver.post({"cmd": "step"})
    assert threading.active_count() == before + 1
    driver.close()
    assert threading.active_count() == before
    with pytest.raises(RuntimeError, match="closed"):
        driver.call(lambda: None)
    driver.post({"cmd": "step"})  # a page that did not know yet
    assert threading.active_count() == before


def test_posting_returns_at_once_though_work_is_under_way(driver: Driver):
    driver.put(lambda: time.sleep(0.5))
    started = time.monotonic()
    for _ in range(100):
        driver.post({"cmd": "inspect", "kind": "layer", "layer": 1})
    assert time.monotonic() - started < 0.2


def test_only_the_newest_of_a_moving_pointer_s_questions_is_answered(driver: Driver, wire: Wire):
    gate = threading.Event()

    def hold() -> None:
        gate.wait(5)

    driver.put(hold)
    for unit in range(6):
        driver.post({"cmd": "inspect", "id": str(unit), "kind": "unit", "layer": 1, "unit": unit})
    for c in (2.0, 3.0, 4.0):
        driver.post({"cmd": "rescale", "id": str(c), "layer": "0", "unit": 1, "c": c, "commit": False})
    driver.post({"cmd": "rescale", "id": "end", "layer": "0", "unit": 1, "c": 5.0, "commit": True})
    driver.post({"cmd": "rescale", "id": "next", "layer": "0", "unit": 1, "c": 5.0, "commit": False})
    gate.set()
    until(lambda: len(wire.got) >= 3)
    assert [message.content["id"] for _, message in wire.got] == ["5", "end", "next"]


def test_a_job_s_result_and_its_error_come_back(driver: Driver):
    assert driver.call(lambda: threading.current_thread().name) == "eclab lab"
    with pytest.raises(ZeroDivisionError):
        driver.call(lambda: 1 // 0)
    assert driver.call(lambda: driver.call(lambda: 3)) == 3


def test_at_most_ten_messages_a_second_and_every_record_once(driver: Driver, wire: Wire):
    driver.post({"cmd": "hello"})
    driver.post({"cmd": "map", "on": True})
    driver.post({"cmd": "play"})
    end = time.monotonic() + 30
    while len(wire.frames()) < 20 or wire.kinds().count("map") < 3:
        assert time.monotonic() < end, "it sends too little"
        if wire.frames():
            driver.post({"cmd": "ack", "n": wire.frames()[-1]["n"]})
        time.sleep(0.01)
    driver.post({"cmd": "pause"})
    driver.idle.wait(5)
    until(lambda: not driver.work.changed)
    times = [at for at, message in wire.got if message.content["type"] in ("frame", "map")]
    for start in times:
        assert sum(start <= at <= start + 1 for at in times) <= 10
    counted = 0
    for frame in wire.frames():
        assert frame["curve"]["from"] == counted
        counted += frame["curve"]["rows"]
    assert counted == 2 * wire.frames()[-1]["step"] > 0
    assert wire.threads == {"eclab lab"}


def test_a_page_that_does_not_answer_gets_two_frames_and_loses_nothing(driver: Driver, wire: Wire):
    driver.post({"cmd": "hello"})
    driver.post({"cmd": "play"})
    time.sleep(1.0)
    assert len(wire.frames()) == 2
    driver.post({"cmd": "pause"})
    driver.idle.wait(5)
    driver.post({"cmd": "ack", "n": 2})
    until(lambda: len(wire.frames()) >= 3)
    assert wire.frames()[-1]["curve"]["from"] == sum(frame["curve"]["rows"] for frame in wire.frames()[:-1])
    assert wire.frames()[-1]["running"] is False


@pytest.mark.parametrize("command", ["stop", "pause"])
def test_stop_acts_within_200_ms(command: str, wire: Wire):
    settings = {"epochs": 50, "device": "cpu", "eval_every": 1}
    session = LabSession(first_setup("64-64x4-10", None, None, "digits", settings), wire)
    driver = Driver(session)
    driver.post({"cmd": "play"})
    until(lambda: session.bench.need_race().position > 3)
    started = time.monotonic()
    driver.post({"cmd": command})
    assert driver.idle.wait(5)
    assert time.monotonic() - started < 0.2
    position = session.bench.need_race().position
    time.sleep(0.1)
    assert session.bench.need_race().position == position
    driver.close()


def test_a_long_evaluation_is_given_up_when_stopped(wire: Wire, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("eclab.race.measure.EVALUATION_CHUNK", 1)
    settings = {"epochs": 50, "device": "cpu", "eval_every": 1}
    session = LabSession(first_setup("64-64x4-10", None, None, "digits", settings), wire)
    asked = threading.Event()
    race = session.bench.need_race()
    cut = race._stop
    assert cut is not None

    def slow() -> bool:
        asked.set()
        time.sleep(0.01)
        return cut()

    race.interrupt_with(slow)
    driver = Driver(session)
    driver.post({"cmd": "play"})
    assert asked.wait(10)
    started = time.monotonic()
    driver.post({"cmd": "stop"})
    assert driver.idle.wait(5)
    assert time.monotonic() - started < 0.2
    assert race.records[0].test_acc is None
    driver.close()


def test_closing_while_it_plays_ends_the_thread(driver: Driver):
    driver.post({"cmd": "play"})
    until(lambda: driver.work.bench.race.position > 3)  # type: ignore[attr-defined]  # the work here is a session
    started = time.monotonic()
    driver.close()
    assert time.monotonic() - started < 1.0
    assert "eclab lab" not in [thread.name for thread in threading.enumerate()]


def test_whoever_waits_when_it_closes_is_told(driver: Driver):
    release = threading.Event()
    problems: list[BaseException] = []

    def hold() -> None:
        release.wait(5)

    def wait() -> None:
        try:
            driver.call(lambda: None)
        except RuntimeError as problem:
            problems.append(problem)

    driver.put(hold)
    waiting = threading.Thread(target=wait)
    waiting.start()
    until(lambda: len(driver._pending) == 1)
    closing = threading.Thread(target=driver.close)
    closing.start()
    waiting.join(5)
    assert "closed" in str(problems[0])
    release.set()
    closing.join(5)


def test_an_error_nobody_expected_is_logged_and_the_thread_goes_on(driver: Driver, caplog: pytest.LogCaptureFixture):
    def fail() -> None:
        raise RuntimeError("no channel")

    driver.put(fail)
    assert driver.call(lambda: 7) == 7
    assert "no channel" in caplog.text


def test_what_is_made_aside_goes_on_in_the_lab_s_thread(driver: Driver):
    told: list[tuple[str, str]] = []

    def note(found: object) -> None:
        told.append((str(found), threading.current_thread().name))

    driver.aside(lambda: threading.current_thread().name, note, note)
    until(lambda: len(told) == 1)
    driver.aside(lambda: 1 // 0, note, note)
    until(lambda: len(told) == 2)
    assert [thread for _, thread in told] == ["eclab lab", "eclab lab"]
    assert told[0][0] == "eclab charts"
    assert "by zero" in told[1][0]


@pytest.mark.parametrize("fails", [False, True])
def test_a_lab_that_closed_while_something_was_made_aside_says_nothing(driver: Driver, fails: bool):
    release = threading.Event()
    told: list[object] = []

    def make() -> int:
        release.wait(5)
        return 1 // (0 if fails else 1)

    driver.aside(make, told.append, told.append)
    (thread,) = driver._aside
    driver.close()
    release.set()
    driver.close(aside=True)
    assert not thread.is_alive()
    assert told == []
    assert not driver._aside


def test_a_process_that_ends_waits_for_what_is_made_aside(driver: Driver):
    done = threading.Event()

    def make() -> None:
        time.sleep(0.3)
        done.set()

    driver.aside(make, lambda _: None, lambda _: None)
    driver.close(aside=True)
    assert done.is_set()
