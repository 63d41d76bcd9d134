"""What is said of what happens while the page is open."""

from __future__ import annotations

import pytest

from events.control import TrainingInterrupted
from events.event import Event
from events.training import TrainingCompleted, TrainingFailed, TrainingStopped
from ui.answers import Training
from ui.state import news
from ui.state.trainings import tab_title

TRAINING = Training(id="a b", name="wide", status="completed", started_at=0, ended_at=90_000_000, fvu=0.117)


@pytest.mark.parametrize(
    ("event", "tone", "title", "text"),
    [
        (TrainingCompleted(step=9), "done", "wide is completed", "took 1 min 30 s, FVU 0.117"),
        (TrainingFailed(error="No memory."), "bad", "wide has failed", "No memory."),
        (TrainingInterrupted(reason="Its process is gone."), "bad", "wide was interrupted", "Its process is gone."),
    ],
)
def test_an_end_is_told_with_the_trainings_name_and_the_way_there(
    event: Event, tone: str, title: str, text: str
) -> None:
    assert isinstance(event, news.TOLD)
    said = news.of_event(event, TRAINING, now=90.0)
    assert (said["tone"], said["title"], said["text"], said["href"]) == (tone, title, text, "?training=a%20b")


def test_the_name_is_the_id_where_there_is_none_and_what_is_not_known_is_left_out() -> None:
    said = news.of_event(TrainingCompleted(step=9), Training(id="a", name="", status=""), now=90.0)
    assert (said["title"], said["text"], said["label"]) == ("a is completed", "", "Open")
    with pytest.raises(ValueError, match="TrainingStopped is not told"):
        news.of_event(TrainingStopped(step=9), TRAINING, now=90.0)


def test_the_more_somebody_is_needed_the_longer_it_stays_and_what_was_refused_until_it_is_dismissed() -> None:
    seconds = [float(news.toast(tone, "x")["seconds"]) for tone in ("plain", "done", "bad")]
    assert seconds == sorted(set(seconds)) and seconds[0] >= 5
    assert news.toast("warn", "x")["seconds"] == 0


@pytest.mark.parametrize(
    ("status", "title"),
    [
        ("queued", "wide"),
        ("running", "42 % · wide"),
        ("pausing", "42 % · wide"),
        ("paused", "wide"),
        ("completed", "Completed · wide"),
        ("failed", "Failed · wide"),
    ],
)
def test_a_tab_is_called_by_how_far_its_training_is(status: str, title: str) -> None:
    assert tab_title(Training(id="a", name="wide", status=status, step=42, total_steps=100)) == title
