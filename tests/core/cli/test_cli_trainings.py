"""Commands on the trainings of a running server."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import threading
from pathlib import Path

import httpx
import pytest
from cli_harness import Cli

from events.control import PauseRequested
from events.training import TrainingFailed, TrainingPaused, TrainingResumed, TrainingStopped

pytestmark = pytest.mark.slow


def test_ls_show_and_logs_say_what_the_log_says(served: Cli) -> None:
    with served.training("a readable name") as training:
        training.log("the first line", "the second [bold]line[/]")
        training.log("a warning", level="WARNING")
        training.step(3, fvu=0.125)
        listed = served("ls")
        assert listed.status == 0
        line = next(line for line in listed.out.splitlines() if training.id in line)
        assert "running" in line
        assert "a readable name" in line
        assert "0.125" in line
        row = served("show", training.id, "--json").json()
        assert (row["id"], row["step"], row["fvu"]) == (training.id, 3, 0.125)
        assert "a readable name" in served("show", training.id).out
        lines = served("logs", training.id).out.splitlines()
        assert [line.split("  ", 1)[1] for line in lines] == [
            "INFO     the first line", "INFO     the second [bold]line[/]", "WARNING  a warning",
        ]  # fmt: skip
        assert served("logs", training.id, "-n", "1").out.endswith("a warning\n")
        assert "first" not in served("logs", training.id, "--level", "warning").out
        rows = [json.loads(line) for line in served("logs", training.id, "--json").out.splitlines()]
        assert [row["version"] for row in rows] == sorted(row["version"] for row in rows)
        assert served("ls", "--status", "failed,queued", "--json").json()["counts"]["running"] >= 1


def test_the_beginning_of_an_id_is_enough_where_no_other_has_it(served: Cli) -> None:
    with served.training() as one, served.training() as other:
        unique = next(n for n in range(1, 15) if one.id[:n] != other.id[:n])
        assert served("show", one.id[: unique + 4].upper(), "--json").json()["id"] == one.id
        refused = served("show", one.id[: unique - 1])
        assert refused.status == 1
        assert one.id in refused.err
        assert other.id in refused.err
        inside = served("show", one.id[unique:])
        assert (inside.status, "begins with" in inside.err) == (1, True)


@pytest.mark.parametrize("command", ["show", "logs", "pause", "resume", "stop", "checkpoint", "wait"])
def test_an_unknown_training_is_refused_with_a_sentence(served: Cli, command: str) -> None:
    for wanted in ("00000000000000", "zzz"):
        refused = served(command, wanted)
        assert refused.status == 1
        assert wanted in refused.err
        assert len(refused.err.splitlines()) == 1


def test_pause_reaches_the_writer_and_a_refusal_gives_the_reason(served: Cli) -> None:
    with served.training() as training:
        training.step(1)
        asked = served("pause", training.id, "--json")
        assert asked.status == 0, asked.err
        assert asked.json()["position"] > 0
        refused = served("pause", training.id)
        assert (refused.status, refused.out) == (1, "")
        assert "pausing already" in refused.err
        training.emit(TrainingPaused(step=1))


def first_remark(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    return process.stderr.readline()


def test_wait_ends_when_the_status_is_reached(served: Cli) -> None:
    with served.training() as training:
        training.step(1)
        waiting = served.start("wait", training.id, "--until", "paused,completed", "--json")
        assert "is running; waiting until it is completed or paused" in first_remark(waiting)
        training.emit(TrainingPaused(step=1), TrainingResumed(step=1))
        out, said = waiting.communicate(timeout=60)
        assert waiting.returncode == 0, said
        # Also a status that has been left again by now was reached.
        assert json.loads(out)["status"] == "paused"
        training.complete(2)
        assert served("wait", training.id).status == 0


def test_wait_ends_with_1_where_another_final_status_comes(served: Cli) -> None:
    with served.training() as training:
        training.step(1)
        waiting = served.start("wait", training.id, "--until", "completed")
        assert "is running" in first_remark(waiting)
        training.emit(TrainingFailed(error="the numbers went bad"))
        _, said = waiting.communicate(timeout=60)
        assert waiting.returncode == 1
        assert "failed, not completed: the numbers went bad" in said


def test_wait_gives_up_with_124_when_time_is_up(served: Cli) -> None:
    with served.training() as training:
        training.step(1)
        late = served("wait", training.id, "--until", "completed", "--timeout", "0.3", "--json")
        assert late.status == 124
        assert late.json() == {"id": training.id, "status": "running", "reason": None, "reached": False}
        assert "still running, not completed, after 0.3 seconds" in late.err


def test_followed_logs_have_no_gap_and_no_duplicate_at_the_seam(served: Cli) -> None:
    with served.training() as training:
        stop = threading.Event()
        count = 0

        def write() -> None:
            nonlocal count
            while not stop.is_set():
                training.log(f"line {count}")
                count += 1

        writer = threading.Thread(target=write)
        writer.start()
        process = served.start("logs", training.id, "-f", "-n", "5", "--json")
        try:
            assert process.stdout is not None
            lines = [json.loads(process.stdout.readline()) for _ in range(60)]
        finally:
            stop.set()
            writer.join()
            process.terminate()
            process.communicate()
        numbers = [int(line["message"].split()[1]) for line in lines]
        assert numbers == list(range(numbers[0], numbers[0] + 60))
        assert len({line["version"] for line in lines}) == 60


def test_followed_logs_keep_to_their_level(served: Cli) -> None:
    with served.training() as training:
        process = served.start("logs", training.id, "-f", "-n", "0", "--level", "warning", "--json")
        try:
            assert process.stdout is not None
            seen: list[str] = []
            reader = threading.Thread(target=lambda: seen.append(process.stdout.readline()))
            reader.start()
            while not seen:
                training.log("passed over")
                training.log("worth a look", level="ERROR")
                reader.join(0.2)
        finally:
            process.terminate()
            process.communicate()
        assert json.loads(seen[0])["message"] == "worth a look"


def test_rebuild_and_verify_work_through_the_server(served: Cli) -> None:
    with served.training() as training:
        training.step(1)
        rebuilt = served("rebuild")
        assert rebuilt.status == 0, rebuilt.err
        verified = served("verify", "--json")
        assert verified.status == 0, verified.err
        assert verified.json()["matches"]
        assert len(verified.json()["verified"]) >= 5


def test_a_backup_through_the_server_is_restored_and_served_elsewhere(served: Cli, tmp_path: Path) -> None:
    with served.training() as training:
        training.step(3)
        made = served("backup", str(tmp_path / "backup"), "--json")
    assert made.status == 0, made.err
    elsewhere = Cli(tmp_path / "elsewhere")
    restored = elsewhere("restore", str(tmp_path / "backup"), "--json")
    assert restored.status == 0, restored.err
    assert restored.json()["position"] == made.json()["position"]
    again = elsewhere("restore", str(tmp_path / "backup"))
    assert (again.status, "is there already" in again.err) == (1, True)
    with elsewhere.up():
        assert elsewhere("show", training.id, "--json").json()["step"] == 3
        assert elsewhere("verify", "--json").json()["matches"]
    offline = elsewhere("backup", str(tmp_path / "second"))
    assert (offline.status, (tmp_path / "second" / "backup.json").exists()) == (0, True)


def test_a_command_acts_as_the_user_who_typed_it(served: Cli) -> None:
    me = f"user:{pwd.getpwuid(os.geteuid()).pw_name}"
    with served.training() as training:
        training.step(1)
        for command in ("checkpoint", "stop"):
            assert served(command, training.id).status == 0
        done = httpx.get(
            f"{served('status', '--json').json()['url']}/api/v1/trainings/{training.id}/activity", trust_env=False
        ).json()["data"]
        assert [(row["actor"], row["type"]) for row in done[:2]] == [
            (me, "StopRequested"),
            (me, "CheckpointRequested"),
        ]
        training.emit(TrainingStopped(step=1))


def test_a_control_event_is_what_the_command_recorded(served: Cli) -> None:
    with served.training() as training:
        training.step(1)
        position = served("pause", training.id, "--json").json()["position"]
        address = served("status", "--json").json()["url"]
        from events.client import Follower

        for recorded in Follower(address, after=position - 1, stream=f"control-{training.id}"):
            assert recorded.position == position
            assert isinstance(recorded.data, PauseRequested)
            assert recorded.actor.startswith("user:")
            break
        training.emit(TrainingPaused(step=1))
