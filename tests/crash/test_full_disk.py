"""A full disk: the training goes on in memory, the server refuses in words, and both recover without a restart."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from bare_server import wait_for
from cli_harness import Cli
from test_whole_line import (
    PATIENCE,
    STEPS,
    Server,
    check_log,
    every_step_once,
    history,
    is_,
    reaches,
    row,
    serving,
    start_training,
)

pytestmark = [pytest.mark.crash, pytest.mark.timeout(400)]


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path / "data")


@contextmanager
def full_disk(pid: int) -> Iterator[None]:
    """No file of the process can grow meanwhile: it meets errors where a full disk would raise them."""
    limits = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)


def lines(server: Server, training: str, q: str) -> list[str]:
    found = server.ask("GET", f"trainings/{training}/logs", params={"q": q, "limit": 100})["data"]
    return [line["message"] for line in found if line["level"] in ("WARNING", "ERROR")]


def spool_says(cli: Cli, training: str, words: bytes) -> bool:
    """Whether the trainer has written a line that the server may not have yet."""
    folder = cli.data_dir / "trainings" / training / "spool"
    return any(words in path.read_bytes() for path in folder.iterdir())


def test_a_training_whose_disk_is_full_goes_on_and_says_so(cli: Cli, tmp_path: Path) -> None:
    with serving(cli) as server:
        training = start_training(server, tmp_path / "text.txt")
        wait_for(reaches(server, training, 10), PATIENCE)
        with full_disk(row(server, training)["pid"]):
            before = row(server, training)["step"]
            wait_for(lambda: lines(server, training, "could not be saved"), PATIENCE)
            wait_for(lambda: "could not be saved" in (row(server, training)["reason"] or ""), PATIENCE)
            wait_for(reaches(server, training, before + 40), PATIENCE)
            assert row(server, training)["status"] == "running"
        wait_for(lambda: row(server, training)["reason"] is None, PATIENCE)
        wait_for(is_(server, training, "completed"), PATIENCE)
        assert history(server, training) == every_step_once()
        check_log(server, training)
        kept = server.ask("GET", f"trainings/{training}/checkpoints")["data"]
        assert kept[0]["step"] == STEPS


def test_a_server_whose_disk_is_full_refuses_in_words_and_takes_everything_later(cli: Cli, tmp_path: Path) -> None:
    with serving(cli) as server:
        training = start_training(server, tmp_path / "text.txt")
        wait_for(reaches(server, training, 10), PATIENCE)
        with full_disk(server.pid):
            refused = httpx.patch(
                f"{server.url}/api/v1/trainings/{training}", json={"note": "x" * 5_000}, trust_env=False, timeout=60
            )
            assert (refused.status_code, refused.headers["content-type"]) == (507, "application/problem+json")
            assert refused.json()["detail"].startswith("The disk of the log is full")
            wait_for(lambda: spool_says(cli, training, b"server takes no events now"), PATIENCE)
            # Readers are served, and what they read stands still.
            stood = row(server, training)["step"]
            assert row(server, training)["status"] == "running"
        wait_for(lambda: row(server, training)["step"] > stood, PATIENCE)
        assert server.ask("PATCH", f"trainings/{training}", json={"note": "there is space"})["note"] == "there is space"
        wait_for(is_(server, training, "completed"), PATIENCE)
        assert history(server, training) == every_step_once()
        check_log(server, training)
        assert lines(server, training, "server takes no events now")
