"""The status table over HTTP: what can be wanted in every status, what then follows, and why the rest is refused."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
from server_harness import CONFIG, Client

from core import run as runs
from events.control import (
    PauseRequested,
    ResumeRequested,
    StopRequested,
    TrainingCreated,
    TrainingInterrupted,
)
from events.event import Event
from events.ids import new_id
from events.streams import Append
from events.training import StepTrained, TrainingCompleted, TrainingFailed, TrainingPaused, TrainingStopped

STEP = StepTrained(
    step=1, loss=0, loss_reconstruction=0, l0=0, l0_fraction=0, fvu=0, learning_rate=0, grad_norm=0, tokens=0,
    tokens_per_second=0,
)  # fmt: skip

REACHED: dict[str, tuple[Event, ...]] = {
    "queued": (TrainingCreated(name="here"),),
    "starting": (),
    "running": (STEP,),
    "pausing": (STEP, PauseRequested()),
    "paused": (STEP, PauseRequested(), TrainingPaused(step=1)),
    "resuming": (STEP, TrainingPaused(step=1), ResumeRequested()),
    "stopping": (STEP, StopRequested()),
    "stopped": (STEP, StopRequested(), TrainingStopped(step=1)),
    "interrupted": (STEP, TrainingInterrupted(reason="Its process is gone.")),
    "completed": (STEP, TrainingCompleted(step=1)),
    "failed": (STEP, TrainingFailed(error="no memory")),
}
"""The events that bring a training into each status, after its creation elsewhere."""

FIRST_RUNNING = "it can be paused once it is running."
TABLE: dict[str, dict[str, str]] = {
    "queued": {
        "pause": FIRST_RUNNING,
        "resume": "there is nothing to resume.",
        "stop": "→ stopped",
        "checkpoint": "Only a running training can save a checkpoint",
        "delete": "→ deleted",
    },
    "starting": {
        "pause": FIRST_RUNNING,
        "resume": "there is nothing to resume.",
        "stop": "→ stopping",
        "checkpoint": "Only a running training can save a checkpoint",
        "delete": "stop it before deleting it.",
    },
    "running": {
        "pause": "→ pausing",
        "resume": "there is nothing to resume.",
        "stop": "→ stopping",
        "checkpoint": "→ running",
        "delete": "stop it before deleting it.",
    },
    "pausing": {
        "pause": "is pausing already.",
        "resume": "it can be resumed once that is done.",
        "stop": "→ stopping",
        "checkpoint": "Only a running training can save a checkpoint",
        "delete": "stop it before deleting it.",
    },
    "paused": {
        "pause": "is paused already.",
        "resume": "→ resuming",
        "stop": "→ stopped",
        "checkpoint": "Only a running training can save a checkpoint",
        "delete": "→ deleted",
    },
    "resuming": {
        "pause": FIRST_RUNNING,
        "resume": "there is nothing to resume.",
        # No process was started for it yet.
        "stop": "→ stopped",
        "checkpoint": "Only a running training can save a checkpoint",
        "delete": "→ deleted",
    },
    "stopping": {
        "pause": "Only a running training can be paused",
        "resume": "it can be resumed once that is done.",
        "stop": "is stopping already.",
        "checkpoint": "Only a running training can save a checkpoint",
        "delete": "stop it before deleting it.",
    },
    "stopped": {
        "pause": "Only a running training can be paused",
        "resume": "→ resuming",
        "stop": "there is nothing to stop.",
        "checkpoint": "Only a running training can save a checkpoint",
        "delete": "→ deleted",
    },
    "interrupted": {
        "pause": "Only a running training can be paused",
        "resume": "→ resuming",
        "stop": "→ stopped",
        "checkpoint": "Only a running training can save a checkpoint",
        "delete": "→ deleted",
    },
    "completed": {
        "pause": "Only a running training can be paused",
        "resume": "it has no steps left to resume.",
        "stop": "there is nothing to stop.",
        "checkpoint": "Only a running training can save a checkpoint",
        "delete": "→ deleted",
    },
    "failed": {
        "pause": "Only a running training can be paused",
        "resume": "→ resuming",
        "stop": "there is nothing to stop.",
        "checkpoint": "Only a running training can save a checkpoint",
        "delete": "→ deleted",
    },
}
"""Status → action → the status that follows at once, or the words of the refusal."""


async def brought(client: Client, status: str, spec: Path) -> str:
    """A training in a status, with the run folder that a resume wants."""
    studio, training, events = client.server.studio, new_id(), REACHED[status]
    if status != "queued":
        events = (TrainingCreated(name="elsewhere", launcher="external"), *events)
    folder = studio.settings.run_folder(training)
    await asyncio.to_thread(folder.mkdir)
    await asyncio.to_thread(shutil.copy, spec, folder)
    streams = ["control" if type(event).__module__ == "events.control" else "training" for event in events]
    for stream, event in zip(streams, events, strict=True):
        await studio.append(Append(f"{stream}-{training}", [event]))
    assert await client.status(training) == status
    return training


@pytest.mark.slow
@pytest.mark.parametrize("status", TABLE)
async def test_every_action_is_carried_out_or_refused_with_its_reason(client: Client, status: str) -> None:
    studio = client.server.studio
    example = await client.create(total_steps=1)
    await client.until(example, "completed")
    spec = studio.settings.run_folder(example) / runs.RUN_FILE
    # Nothing is started or interrupted by itself: only what is asked for changes anything.
    await studio.launcher.stop()
    for action, expected in TABLE[status].items():
        training = await brought(client, status, spec)
        head = studio.store.head
        if action == "delete":
            answer = await client.http.delete(f"/api/v1/trainings/{training}")
        else:
            answer = await client.control(training, action)
        after = await client.http.get(f"/api/v1/trainings/{training}")
        if not expected.startswith("→ "):
            assert answer.status_code == 409, action
            assert answer.headers["content-type"] == "application/problem+json"
            assert expected in answer.json()["detail"]
            assert status in answer.json()["detail"]
            assert (after.json()["status"], studio.store.head) == (status, head), action
        elif action == "delete":
            assert (answer.status_code, after.status_code) == (200, 404)
            assert (await client.control(training, "resume")).status_code == 404
        else:
            assert answer.status_code == 202, action
            assert after.json()["status"] == expected.removeprefix("→ "), action


async def test_a_retry_is_a_new_training_that_names_the_old_one_which_stays_as_it_is(client: Client) -> None:
    old = await client.create(name="first", seed=13)
    before = await client.until(old, "failed")
    config = {**CONFIG, "seed": 7}
    body = {"config": config, "name": "again", "retry_of": old}
    answer = await client.http.post("/api/v1/trainings", json=body)
    assert answer.status_code == 201
    new = await client.until(answer.json()["id"], "completed")
    assert new["id"] != old
    assert (new["retry_of"], new["step"], before["retry_of"]) == (old, 40, None)
    assert await client.get(f"trainings/{old}") == {**before, "position": (await client.get("devices"))["position"]}
    rows = {row["name"]: row["retry_of"] for row in (await client.get("trainings"))["data"]}
    assert rows == {"first": None, "again": old}
    (created,) = (await client.get("events", stream=f"control-{new['id']}", type="TrainingCreated"))["data"]
    assert created["data"]["retry_of"] == old
