"""The driver: play, pause, step, stop, commands between steps, errors that reach someone, a usable interpreter."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from eclab.errors import SettingError
from eclab.race import Driver, Race
from eclab.race import driver as module


def small(**settings) -> Race:
    return Race("64-12-12-10", "digits", **{"device": "cpu", "epochs": 2, "seed": 3, **settings})


class Listener:
    """Writes down what a driver tells."""

    def __init__(self) -> None:
        self.records: list = []
        self.states: list[str] = []
        self.errors: list[BaseException] = []
        self.threads: set[str] = set()

    def step(self, records) -> None:
        self.records += records
        self.threads.add(threading.current_thread().name)


@pytest.fixture
def heard() -> Listener:
    return Listener()


@pytest.fixture
def drive(heard: Listener):
    drivers: list[Driver] = []

    def make(race: Race | None = None, **settings) -> Driver:
        calls = {"on_step": heard.step, "on_change": heard.states.append, "on_error": heard.errors.append}
        driver = Driver(race or small(), **{**calls, **settings})
        drivers.append(driver)
        return driver

    yield make
    closed = [driver.close(timeout=20) for driver in drivers]
    assert all(closed)


def test_play_runs_to_the_end_on_a_daemon_thread(drive, heard: Listener) -> None:
    driver = drive()
    assert driver.state == "paused"
    driver.play()
    assert driver.wait(60)
    assert driver.state == "finished"
    assert heard.states == ["playing", "finished"]
    assert heard.records == list(driver.race.records)
    assert heard.threads == {"eclab-race"}
    assert driver.race.finished


def test_it_trains_exactly_as_run_does(drive) -> None:
    plain = small()
    plain.run()
    driver = drive()
    driver.step(7)
    driver.wait(60)
    driver.play()
    driver.wait(60)
    for one, other in zip(plain.lanes, driver.race.lanes, strict=True):
        assert all(torch.equal(value, other.model.state_dict()[name]) for name, value in one.model.state_dict().items())


def test_step_takes_that_many_and_pauses(drive, heard: Listener) -> None:
    driver = drive()
    driver.step()
    assert driver.wait(60)
    assert (driver.race.position, driver.state) == (1, "paused")
    driver.step(4)
    assert driver.wait(60)
    assert driver.race.position == 5
    assert heard.states == ["playing", "paused"] * 2
    with pytest.raises(SettingError):
        driver.step(0)


def test_pause_and_play_again(drive) -> None:
    driver = drive(small(epochs=500))
    driver.play()
    _until(lambda: driver.race.position > 3)
    driver.pause()
    assert driver.wait(60)
    at = driver.race.position
    assert driver.state == "paused"
    time.sleep(0.05)
    assert driver.race.position == at
    driver.play()
    _until(lambda: driver.race.position > at)


def test_commands_run_between_steps_while_playing(drive) -> None:
    driver = drive(small(epochs=500))
    driver.play()
    driver.submit(lambda race, lr: race.set_lr(None, lr), 0.02).result(60)
    assert driver.playing
    assert driver.submit(lambda race: race.evaluate("sgd")).result(60) > 0
    assert driver.race.lanes[0].lr == 0.02
    assert driver.submit(lambda race: race.broken).result(60) == "", "commands come between steps"


def test_commands_run_while_paused_and_their_errors_are_in_the_future(drive, heard: Listener) -> None:
    driver = drive()
    assert driver.submit(lambda race: race.position).result(60) == 0
    with pytest.raises(SettingError, match="the learning rate is -1"):
        driver.submit(Race.set_lr, None, -1).result(60)
    assert heard.errors == []
    driver.send(Race.set_lr, None, -1)
    assert driver.wait(60)
    assert [type(error) for error in heard.errors] == [SettingError]
    assert driver.state == "paused"


def test_reset_and_replace(drive) -> None:
    driver = drive(small(epochs=500))
    driver.play()
    _until(lambda: driver.race.position > 3)
    driver.reset().result(60)
    assert driver.race.position == 0
    other = small(lanes="sgd")
    driver.replace(other).result(60)
    assert driver.race is other
    driver.step()
    driver.wait(60)
    assert (other.position, driver.state) == (1, "paused")


def test_playing_a_finished_race_says_finished_and_more_epochs_go_on(drive, heard: Listener) -> None:
    driver = drive(small(epochs=1))
    driver.play()
    driver.wait(60)
    driver.play()
    driver.wait(60)
    assert driver.state == "finished"
    driver.submit(Race.set_epochs, 2).result(60)
    driver.play()
    driver.wait(60)
    assert driver.race.order.epoch == 2
    assert heard.states[-1] == "finished"


def test_an_error_in_a_step_is_told_and_stops(drive, heard: Listener) -> None:
    driver = drive()
    driver.race.lanes[1].model.register_forward_hook(_fail)
    driver.play()
    assert driver.wait(60)
    assert driver.state == "failed"
    assert [str(error) for error in heard.errors] == ["out of memory"]
    assert driver.error is heard.errors[0]
    driver.play()
    driver.wait(60)
    assert "in the middle of a step" in str(heard.errors[-1])


def test_an_error_in_a_callback_is_told_too(drive, heard: Listener) -> None:
    driver = drive(on_step=_fail)
    driver.play()
    assert driver.wait(60)
    assert driver.state == "failed"
    assert str(driver.error) == "out of memory"
    assert len(heard.errors) == 1


def test_without_a_listener_errors_go_to_standard_error(drive, capfd) -> None:
    driver = drive(on_step=_fail, on_error=None)
    driver.step()
    assert driver.wait(60)
    assert "out of memory" in capfd.readouterr().err


def _fail(*_):
    raise RuntimeError("out of memory")


def test_close_ends_the_thread_and_cancels_what_waits(drive) -> None:
    driver = drive(small(epochs=500))
    driver.play()
    assert driver.close(20)
    assert driver.state == "closed"
    assert driver.submit(lambda race: race).cancelled()
    at = driver.race.position
    driver.play()
    time.sleep(0.05)
    assert driver.race.position == at


def test_an_idle_thread_ends_and_comes_back(drive, monkeypatch) -> None:
    monkeypatch.setattr(module, "LINGER", 0.01)
    driver = drive()
    driver.step()
    driver.wait(60)
    _until(lambda: "eclab-race" not in {thread.name for thread in threading.enumerate()})
    driver.step()
    assert driver.wait(60)
    assert driver.race.position == 2


def test_pace(drive) -> None:
    driver = drive(small(epochs=500), pace=20)
    driver.step(1)
    driver.wait(60)
    started = time.monotonic()
    driver.step(5)
    driver.wait(60)
    assert time.monotonic() - started > 0.19
    with pytest.raises(SettingError):
        drive(pace=0)


@pytest.mark.timing
def test_stop_acts_within_200_ms(drive, heard: Listener) -> None:
    driver = drive(small(epochs=10_000))
    for _ in range(5):
        driver.play()
        at = driver.race.position
        _until(lambda at=at: driver.race.position > at)
        started = time.monotonic()
        assert driver.stop()
        assert time.monotonic() - started < 0.2
        assert driver.state == "stopped"
    at = driver.race.position
    time.sleep(0.05)
    assert driver.race.position == at


@pytest.mark.timing
def test_stop_acts_within_200_ms_at_a_slow_pace_and_in_an_evaluation(drive) -> None:
    race = Race("64-800-800-10", "digits", lanes="sgd,ec-sgd", device="cpu", epochs=500, eval_every=1, batch_size=32)
    race.task.__dict__["x_test"] = race.task.x_test.repeat(400, 1)
    race.task.__dict__["y_test"] = race.task.y_test.repeat(400)
    driver = drive(race)
    driver.play()
    _until(lambda: driver.state == "playing")
    time.sleep(0.5)
    assert driver.stop(), "an evaluation of 140,000 samples would take seconds"
    driver.replace(small(epochs=500)).result(60)
    driver.pace = 0.1
    driver.play()
    _until(lambda: driver.race.position == 1)
    started = time.monotonic()
    assert driver.stop()
    assert time.monotonic() - started < 0.2


@pytest.mark.timing
def test_a_step_under_way_is_finished_and_stop_says_that_it_is(drive) -> None:
    driver = drive()
    release, inside = threading.Event(), threading.Event()

    def slow(*_):
        inside.set()
        release.wait(20)

    handle = driver.race.lanes[0].model.register_forward_hook(slow)
    driver.play()
    assert inside.wait(20)
    started = time.monotonic()
    assert not driver.stop()
    assert time.monotonic() - started < 0.4
    assert driver.state == "stopping"
    release.set()
    handle.remove()
    assert driver.wait(60)
    assert driver.state == "stopped"
    assert driver.race.position == 1
    assert len(driver.race.records) == 2, "no lane is left behind"


@pytest.mark.timing
def test_the_interpreter_stays_usable_while_a_race_plays(drive) -> None:
    driver = drive(small(epochs=100_000))
    driver.play()
    _until(lambda: driver.race.position > 20)
    waits = []
    for _ in range(40):
        started = time.monotonic()
        sum(range(1000))
        time.sleep(0.002)
        waits.append(time.monotonic() - started)
    assert sorted(waits)[20] < 0.05
    assert max(waits) < 0.3
    assert driver.playing


def _until(true, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.001)
