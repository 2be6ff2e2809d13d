"""No more than ten frames a second, and none to a page that does not answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eclab.widgets.frames import IN_FLIGHT, PATIENCE, FrameGate


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_nothing_leaves_before_a_page_is_there(clock: Clock):
    gate = FrameGate(clock)
    assert not gate.ready()
    assert gate.wait() is None
    gate.open()
    assert gate.ready()


def test_a_page_that_does_not_answer_gets_two_frames_then_one_in_five_seconds(clock: Clock):
    gate = FrameGate(clock)
    gate.open()
    sent = []
    while clock.now < 20:
        if gate.ready():
            sent.append((gate.take(), clock.now))
        clock.now += 0.01
    early = [number for number, at in sent if at < PATIENCE]
    assert early == [1, 2]
    assert len(sent) == 2 + int(20 / PATIENCE) - 1


def test_an_answer_lets_the_next_one_go(clock: Clock):
    gate = FrameGate(clock)
    gate.open()
    for _ in range(IN_FLIGHT):
        gate.take()
        clock.now += 1
    assert not gate.ready()
    gate.acknowledge(1)
    assert gate.ready()


def test_answers_that_make_no_sense_change_nothing(clock: Clock):
    gate = FrameGate(clock)
    gate.open()
    gate.take()
    gate.take()
    clock.now += 1
    for number in (99, -1, 0):
        gate.acknowledge(number)
    assert not gate.ready()


def test_a_new_page_owes_no_answers(clock: Clock):
    gate = FrameGate(clock)
    gate.open()
    gate.take()
    gate.take()
    clock.now += 1
    gate.open()
    assert gate.ready()


@given(st.lists(st.floats(0.001, 0.3), min_size=20, max_size=200))
def test_no_second_holds_more_than_ten(pauses: list[float]):
    clock = Clock()
    gate = FrameGate(clock)
    gate.open()
    times = []
    for pause in pauses:
        if gate.ready():
            gate.acknowledge(gate.take())
            times.append(clock.now)
        clock.now += pause
    for start in times:
        assert sum(start <= at <= start + 1 for at in times) <= 10


def test_what_is_sent_in_place_of_a_frame_counts(clock: Clock):
    gate = FrameGate(clock)
    gate.open()
    gate.spend()
    assert not gate.ready()
    clock.now += 0.2
    assert gate.ready()
