"""What is said of what happens while the page is open, whichever page that is."""

from __future__ import annotations

from urllib.parse import quote

from events.control import TrainingInterrupted
from events.event import Event
from events.training import TrainingCompleted, TrainingFailed

from .. import text
from ..answers import Training
from .trainings import seconds_since_start

TOLD = (TrainingCompleted, TrainingFailed, TrainingInterrupted)
"""The events that are told."""

Toast = dict[str, str | float]

_SECONDS = {"done": 12.0, "plain": 8.0, "bad": 30.0, "warn": 0.0}
"""How long each stays; 0: until it is dismissed."""


def toast(tone: str, title: str, said: str = "", *, href: str = "", label: str = "Open") -> Toast:
    """A toast; its `tone` (done, plain, bad or warn) says how long it stays."""
    return {"tone": tone, "title": title, "text": said, "href": href, "label": label, "seconds": _SECONDS[tone]}


def of_event(event: Event, training: Training, now: float) -> Toast:
    """What is said of an event of `TOLD`; `now` in s since 1970."""
    name = training.name or training.id
    href = f"?training={quote(training.id, safe='')}"
    match event:
        case TrainingCompleted():
            took = seconds_since_start(training, now)
            said = [f"took {text.duration(took)}"] if took is not None else []
            said += [f"FVU {text.metric(training.fvu)}"] if training.fvu is not None else []
            return toast("done", f"{name} is completed", ", ".join(said), href=href)
        case TrainingFailed(error=error):
            return toast("bad", f"{name} has failed", error, href=href)
        case TrainingInterrupted(reason=reason):
            return toast("bad", f"{name} was interrupted", reason, href=href)
        case _:
            raise ValueError(f"{type(event).__name__} is not told.")
