"""Wishes wait for the loop, each is carried out once."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from core.training.control import Wishes
from events.control import CheckpointRequested, PauseRequested, ResumeRequested, StopRequested
from events.event import Event, Recorded, event_type


def _recorded(event: Event, at: int) -> Recorded:
    return Recorded(
        position=at,
        stream="control-x",
        version=at,
        type=event_type(event),
        occurred_at=at,
        recorded_at=at,
        data=event,
    )


@pytest.mark.parametrize(("event", "stop"), [(PauseRequested(), False), (StopRequested(), True)])
def test_a_pause_or_a_stop_makes_the_loop_leave(event: Event, stop: bool) -> None:
    wishes = Wishes()
    assert not wishes.leave
    wishes.on_control(_recorded(event, 5))
    assert wishes.leave
    assert wishes.stop is stop
    assert wishes.latest == 5


def test_a_stop_outweighs_a_pause() -> None:
    wishes = Wishes()
    wishes.on_control(_recorded(PauseRequested(), 1))
    wishes.on_control(_recorded(StopRequested(), 2))
    assert wishes.stop


def test_a_checkpoint_is_taken_once() -> None:
    wishes = Wishes()
    wishes.on_control(_recorded(CheckpointRequested(), 1))
    assert not wishes.leave
    assert wishes.take_checkpoint()
    assert not wishes.take_checkpoint()


def test_what_an_earlier_process_carried_out_is_not_done_again() -> None:
    wishes = Wishes()
    wishes.on_control(_recorded(PauseRequested(), 10))  # sent before the checkpoint was read
    wishes.forget_up_to(10)
    wishes.on_control(_recorded(PauseRequested(), 10))
    wishes.on_control(_recorded(ResumeRequested(), 11))
    assert not wishes.leave
    wishes.on_control(_recorded(PauseRequested(), 12))
    assert wishes.leave


@pytest.fixture
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_pause(number: signal.Signals) -> None:
    wishes = Wishes()
    wishes.listen_to_signals()
    os.kill(os.getpid(), number)
    assert wishes.leave
    assert not wishes.stop
