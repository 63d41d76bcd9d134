"""The whole line under fire: a real server, a real trainer on a language model's activations, and kill -9."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from bare_server import wait_for
from cli_harness import Cli, write_corpus

from events.client import Follower, LogReplaced
from events.event import Recorded
from events.training import StepTrained, TrainingStarted
from events.wire import CaughtUp

pytestmark = [pytest.mark.crash, pytest.mark.timeout(400)]

STEPS = 320
"""So many that a training is still under way whenever somebody has looked at it and acts."""
PATIENCE = 120.0


class Server:
    """`saestudio up` in a process of its own, which may be killed and started again on the same data."""

    def __init__(self, cli: Cli) -> None:
        self._cli = cli
        self.start()

    def start(self) -> None:
        self._process = self._cli.start("up", "--json", "--no-browser", "--no-dashboard", "--port=0")
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, self._process.communicate()[1]
        said = httpx.Response(200, content=line).json()
        self.url: str = said["url"]
        self.pid: int = said["pid"]

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()

    def end(self) -> None:
        self._process.terminate()
        _, said = self._process.communicate(timeout=60)
        assert self._process.returncode == 0, said

    def ask(self, method: str, path: str, **options: Any) -> Any:
        answer = httpx.request(method, f"{self.url}/api/v1/{path}", timeout=60, trust_env=False, **options)
        assert answer.is_success, answer.text
        return answer.json()


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path / "data")


@contextmanager
def serving(cli: Cli) -> Iterator[Server]:
    server = Server(cli)
    try:
        yield server
    except BaseException:
        server.kill()
        raise
    else:
        server.end()


def start_training(server: Server, corpus: Path) -> str:
    config = {
        "model": "demo",
        "datasets": [str(write_corpus(corpus))],
        "architecture_type": "topk",
        "training_layers": [1, 2],
        "latent_dim": 512,
        "k": 8,
        "batch_size": 256,
        "total_steps": STEPS,
        "checkpoint_interval": 20,
        "eval_interval": 0,
    }
    return server.ask("POST", "trainings", json={"name": "under fire", "config": config})["id"]


def row(server: Server, training: str) -> dict[str, Any]:
    return server.ask("GET", f"trainings/{training}")


def reaches(server: Server, training: str, step: int) -> Callable[[], bool]:
    return lambda: row(server, training)["step"] >= step


def is_(server: Server, training: str, status: str) -> Callable[[], bool]:
    def there() -> bool:
        found = row(server, training)
        assert found["status"] != "failed", found["reason"]
        return found["status"] == status

    return there


def history(server: Server, training: str) -> list[tuple[int, int]]:
    rows = server.ask("GET", f"trainings/{training}/metrics", params={"limit": 1_000_000, "order": "asc"})["data"]
    return [(one["step"], one["sae"]) for one in rows]


def every_step_once() -> list[tuple[int, int]]:
    return [(step, sae) for step in range(1, STEPS + 1) for sae in (0, 1)]


def stream(server: Server, name: str) -> list[Recorded]:
    found: list[Recorded] = []
    for message in Follower(server.url, stream=name).sync_messages():
        if isinstance(message, list):
            found += message
        elif isinstance(message, CaughtUp):
            break
    return found


def check_log(server: Server, training: str) -> list[Recorded]:
    """The stream has every version once, and every projection is what a rebuild makes of the log."""
    facts = stream(server, f"training-{training}")
    assert [one.version for one in facts] == list(range(1, len(facts) + 1))
    assert [one.position for one in facts] == sorted({one.position for one in facts})
    job = server.ask("POST", "maintenance/verify")["id"]
    wait_for(lambda: server.ask("GET", f"maintenance/{job}")["status"] != "running", PATIENCE)
    verified = server.ask("GET", f"maintenance/{job}")
    assert verified["status"] == "completed", verified["detail"]
    assert verified["verified"]
    assert all(table["matches"] for table in verified["verified"]), verified["verified"]
    return facts


def spooled_steps(data: Path, training: str) -> int:
    """How many steps lie in the trainer's spool, counted without its help."""
    folder = data / "trainings" / training / "spool"
    return sum(path.read_bytes().count(b"StepTrained") for path in folder.iterdir() if path.is_file())


def test_a_killed_trainer_loses_no_step_is_interrupted_and_resumes_to_a_history_with_every_step_once(
    cli: Cli, tmp_path: Path
) -> None:
    with serving(cli) as server:
        training = start_training(server, tmp_path / "text.txt")
        wait_for(reaches(server, training, 50), PATIENCE)
        os.kill(row(server, training)["pid"], signal.SIGKILL)
        wait_for(is_(server, training, "interrupted"), PATIENCE)
        assert "SIGKILL" in row(server, training)["reason"]
        taken_in = [one.data for one in stream(server, f"training-{training}") if isinstance(one.data, StepTrained)]
        assert len(taken_in) >= spooled_steps(cli.data_dir, training) > 0

        server.ask("POST", f"trainings/{training}/control", json={"action": "resume"})
        wait_for(is_(server, training, "completed"), PATIENCE)
        assert history(server, training) == every_step_once()
        facts = check_log(server, training)
        resumed = next(one.data for one in facts if one.type == "TrainingResumed")
        assert resumed.step % 20 == 0
        assert resumed.step > 0


def test_a_trainer_goes_on_without_its_server_and_the_next_one_has_every_step_once(cli: Cli, tmp_path: Path) -> None:
    with serving(cli) as server:
        training = start_training(server, tmp_path / "text.txt")
        wait_for(reaches(server, training, 20), PATIENCE)
        pid = row(server, training)["pid"]
        server.kill()
        before = spooled_steps(cli.data_dir, training)
        wait_for(lambda: spooled_steps(cli.data_dir, training) > before, PATIENCE)
        os.kill(pid, 0)
        server.start()
        wait_for(is_(server, training, "completed"), PATIENCE)
        assert history(server, training) == every_step_once()
        started = [one.data for one in check_log(server, training) if isinstance(one.data, TrainingStarted)]
        assert [one.pid for one in started] == [pid]


def test_with_both_killed_the_next_server_takes_in_what_was_spooled_and_the_training_can_go_on(
    cli: Cli, tmp_path: Path
) -> None:
    with serving(cli) as server:
        training = start_training(server, tmp_path / "text.txt")
        wait_for(reaches(server, training, 30), PATIENCE)
        pid = row(server, training)["pid"]
        server.kill()
        os.kill(pid, signal.SIGKILL)
        spooled = spooled_steps(cli.data_dir, training)
        server.start()
        wait_for(is_(server, training, "interrupted"), PATIENCE)
        steps = [one for one in stream(server, f"training-{training}") if one.type == "StepTrained"]
        assert len(steps) >= spooled
        server.ask("POST", f"trainings/{training}/control", json={"action": "resume"})
        wait_for(is_(server, training, "completed"), PATIENCE)
        assert history(server, training) == every_step_once()
        check_log(server, training)


async def follow(url: str, after: int, upto: asyncio.Future[int], reconnections: int) -> list[Recorded]:
    """Everything after a position up to the one that `upto` will name, with a new connection now and then."""
    found: list[Recorded] = []
    position = after
    for remaining in range(reconnections, -1, -1):
        follower = Follower(url, after=position)
        async with aclosing(aiter(follower)) as events:
            async for recorded in events:
                found.append(recorded)
                position = recorded.position
                if upto.done() and position >= upto.result():
                    return found
                if remaining and len(found) % 25 == 0:
                    break
    return found


async def test_followers_of_a_live_training_all_see_the_same_and_replay_shows_the_same_values(
    cli: Cli, tmp_path: Path
) -> None:
    with serving(cli) as server:
        training = await asyncio.to_thread(start_training, server, tmp_path / "text.txt")
        await asyncio.to_thread(wait_for, reaches(server, training, 10), PATIENCE)
        middle: int = (await asyncio.to_thread(row, server, training))["position"]
        upto: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        live = [
            asyncio.create_task(follow(server.url, 0, upto, 0)),
            asyncio.create_task(follow(server.url, middle, upto, 0)),
            asyncio.create_task(follow(server.url, 0, upto, 10)),
        ]
        await asyncio.to_thread(wait_for, is_(server, training, "completed"), PATIENCE)
        head: int = (await asyncio.to_thread(server.ask, "GET", "events"))["head"]
        upto.set_result(head)
        # One more event, so that a follower that had everything already wakes up and ends.
        await asyncio.to_thread(server.ask, "PATCH", f"trainings/{training}", json={"note": "done"})
        whole, second_half, cut = await asyncio.gather(*live)
        replayed = await follow(server.url, 0, upto, 0)
    assert [one.position for one in replayed[:head]] == list(range(1, head + 1))
    assert whole[:head] == replayed[:head] == cut[:head]
    assert second_half[: head - middle] == replayed[middle:head]


def test_a_killed_trainers_standard_error_is_told(cli: Cli, tmp_path: Path) -> None:
    with serving(cli) as server:
        training = start_training(server, tmp_path / "text.txt")
        wait_for(lambda: row(server, training)["pid"] is not None, PATIENCE)
        pid = row(server, training)["pid"]
        with (cli.data_dir / "trainings" / training / "stderr.log").open("a") as errors:
            subprocess.run(["echo", "a last word"], stdout=errors, check=True)
        os.kill(pid, signal.SIGKILL)
        wait_for(is_(server, training, "interrupted"), PATIENCE)
        control = [one for one in stream(server, f"control-{training}") if one.type == "TrainingInterrupted"]
        assert "a last word" in control[-1].data.stderr_tail  # type: ignore[attr-defined]


def test_a_damaged_write_ahead_log_is_noticed_and_refilled_from_spools_and_journal(cli: Cli, tmp_path: Path) -> None:
    with serving(cli) as server:
        training = start_training(server, tmp_path / "text.txt")
        server.ask("PATCH", f"trainings/{training}", json={"note": "kept in the journal"})
        wait_for(reaches(server, training, 30), PATIENCE)
        seen = stream(server, f"training-{training}")
        log_id = health(server)["log_id"]
        server.kill()
        wal = cli.data_dir / "log.duckdb.wal"
        content = wal.read_bytes()
        assert content
        # DuckDB opens this without a word, as it was at its last checkpoint.
        wal.write_bytes(bytes(64) + content[64:])
        server.start()
        assert health(server)["log_id"] != log_id
        follower = Follower(server.url, after=seen[-1].position, log_id=log_id)
        with pytest.raises(LogReplaced):
            next(iter(follower))
        wait_for(is_(server, training, "completed"), PATIENCE)
        assert row(server, training)["note"] == "kept in the journal"
        assert history(server, training) == every_step_once()
        facts = check_log(server, training)
        assert [one.data for one in facts][: len(seen)] == [one.data for one in seen]


def health(server: Server) -> dict[str, Any]:
    return httpx.get(f"{server.url}/healthz", trust_env=False).json()
