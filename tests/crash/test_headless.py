"""Trainings without a server, and what the next server makes of them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_harness import Cli, small, write_corpus

from events.client import Follower
from events.event import Recorded
from events.training import StepTrained, TrainingCompleted

pytestmark = [pytest.mark.crash, pytest.mark.timeout(300)]


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    cli = Cli(tmp_path / "data")
    yield cli
    cli.close()


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "text.txt")


def recorded(url: str, stream: str) -> list[Recorded]:
    """Everything that a stream holds."""
    found: list[Recorded] = []
    for message in Follower(url, stream=stream).sync_messages():
        if isinstance(message, list):
            found += message
        elif type(message).__name__ == "CaughtUp":
            break
    return found


def steps(events: list[Recorded]) -> list[int]:
    return [one.data.step for one in events if isinstance(one.data, StepTrained)]


def told_step(process: subprocess.Popen[str]) -> int:
    """The next step that the terminal shows."""
    assert process.stderr is not None
    while (found := re.match(r"step ([\d,]+) of", line := process.stderr.readline())) is None:
        assert line, process.communicate()
    return int(found[1].replace(",", ""))


def trainer_of(process: subprocess.Popen[str]) -> int:
    """The pid that the terminal names."""
    assert process.stderr is not None
    while (found := re.search(r", process (\d+)$", line := process.stderr.readline().rstrip())) is None:
        assert line, process.communicate()
    return int(found[1])


def test_a_training_without_a_server_is_taken_in_whole_with_its_own_times(cli: Cli, corpus: Path) -> None:
    done = cli.start("train", *small(corpus, total_steps=25), "--name", "on its own", "--json")
    out, said = done.communicate()
    assert done.returncode == 0, said
    training_id = json.loads(out)["id"]
    ended = (cli.data_dir / "trainings" / training_id / "stderr.log").stat().st_mtime

    with cli.up() as server:
        row = cli("show", training_id, "--json").json()
        events = recorded(server["url"], f"training-{training_id}")
        control = recorded(server["url"], f"control-{training_id}")
    assert (row["name"], row["status"], row["step"], row["launcher"]) == ("on its own", "completed", 25, "external")
    assert steps(events) == list(range(1, 26))
    assert [one.version for one in events] == list(range(1, len(events) + 1))
    assert isinstance(events[-1].data, TrainingCompleted)
    # What happened has the time at which it happened, not the one at which the server heard of it.
    times = [one.occurred_at for one in events if isinstance(one.data, StepTrained)]
    assert times == sorted(times)
    assert times[-1] <= (ended + 1) * 1e6 < events[0].recorded_at + 1e6
    assert control[0].type == "TrainingCreated"
    assert control[0].occurred_at == row["created_at"] < times[0]

    # It is taken in once: another start adds nothing.
    with cli.up() as server:
        assert len(recorded(server["url"], f"training-{training_id}")) == len(events)


def test_a_live_training_is_not_disturbed_by_a_server_that_starts_and_dies(cli: Cli, corpus: Path) -> None:
    training = cli.start("train", *small(corpus, total_steps=100_000))
    trainer = trainer_of(training)
    before = told_step(training)
    (folder,) = (cli.data_dir / "trainings").iterdir()
    server = cli.start("up", "--json", "--no-browser", "--no-dashboard", "--port=0")
    assert server.stdout is not None
    # The trainer finds the server by itself, and tells it everything from its first event on.
    found = next(iter(Follower(json.loads(server.stdout.readline())["url"], types=["TrainingStarted"])))
    assert found.stream == f"training-{folder.name}"
    assert cli("wait", folder.name, "--until", "running", "--timeout", "120").status == 0
    row = cli("show", folder.name, "--json").json()
    assert row["pid"] == trainer
    server.send_signal(signal.SIGKILL)
    server.communicate()
    assert told_step(training) > before
    training.send_signal(signal.SIGINT)
    out, said = training.communicate()
    assert training.returncode == 130, said
    last = int(re.search(r"paused after step ([\d,]+)", out)[1].replace(",", ""))  # type: ignore[index]

    with cli.up() as again:
        row = cli("show", folder.name, "--json").json()
        events = recorded(again["url"], f"training-{folder.name}")
    assert (row["status"], row["step"], row["reason"]) == ("paused", last, None)
    assert steps(events) == list(range(1, last + 1))
    assert [one.version for one in events] == list(range(1, len(events) + 1))


def test_a_headless_trainer_killed_in_the_midst_loses_no_step_and_goes_on_to_its_end(cli: Cli, corpus: Path) -> None:
    training = cli.start("train", *small(corpus, total_steps=1_000, checkpoint_interval=50))
    trainer = trainer_of(training)
    told_step(training)
    os.kill(trainer, signal.SIGKILL)
    _, said = training.communicate()
    assert training.returncode == 1
    (folder,) = (cli.data_dir / "trainings").iterdir()
    assert f"Training {folder.name} interrupted" in said
    assert f"resume {folder.name}" in said

    with cli.up() as server:
        row = cli("show", folder.name, "--json").json()
        assert row["status"] == "interrupted"
        first = recorded(server["url"], f"training-{folder.name}")
        assert steps(first) == list(range(1, row["step"] + 1))
    resumed = cli.start("resume", folder.name, "--json")
    out, said = resumed.communicate()
    assert resumed.returncode == 0, said
    assert json.loads(out)["status"] == "completed"

    with cli.up() as server:
        row: dict[str, Any] = cli("show", folder.name, "--json").json()
        events = recorded(server["url"], f"training-{folder.name}")
        assert (row["status"], row["step"]) == ("completed", 1_000)
        assert events[: len(first)] == first
        import httpx

        history = httpx.get(f"{server['url']}/api/v1/trainings/{folder.name}/metrics", params={"limit": 10_000}).json()
    assert [one["step"] for one in history["data"]] == list(range(1, 1_001))


def test_a_trainer_whose_terminal_was_killed_goes_on_by_itself(cli: Cli, corpus: Path) -> None:
    training = cli.start("train", *small(corpus, total_steps=400))
    told_step(training)
    training.kill()
    training.communicate()
    (folder,) = (cli.data_dir / "trainings").iterdir()
    with cli.up() as server:
        ended = next(iter(Follower(server["url"], types=["TrainingCompleted"])))
        assert ended.stream == f"training-{folder.name}"
        row = cli("show", folder.name, "--json").json()
        assert (row["status"], row["step"]) == ("completed", 400)
