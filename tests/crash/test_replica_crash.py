"""A replica that is killed while it fills or follows: its file is true at one position, and it goes on from there."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest
from folded_log import step
from server_harness import serving
from test_replica import append, assert_equal, history, of, running

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.crash

FOLLOW = """
import sys
from events.client import ServerAddress
from projections import replica
replica.RANGE, replica.NEAR = 40, 30
with replica.Replica(ServerAddress(sys.argv[1]), sys.argv[2], config={"threads": 1}) as following:
    while True:
        following.wait(following.position + 1, 60)
        print(following.position, flush=True)
"""


def killed_at(url: str, file: Path, position: int) -> None:
    """Lets a process fill and follow until it says that it is at the position, and kills it in the middle of things."""
    command = [sys.executable, "-c", FOLLOW, url, str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= position:
                break
        process.kill()


async def test_what_is_left_by_a_kill_is_true_at_its_position_and_is_completed(tmp_path: Path) -> None:
    file = tmp_path / "runs.duckdb"
    async with serving(tmp_path / "data") as client:
        await append(client, "one", *history(400))
        store = client.server.studio.store

        async def write() -> None:
            n = 16
            while True:
                await append(client, "one", step(n), step(n, 1))
                n += 1

        writing = asyncio.create_task(write())
        try:
            before = 0
            for round_ in range(1, 7):
                goal = min(150 * round_, store.head)
                await asyncio.to_thread(killed_at, client.server.url, file, goal)
                with duckdb.connect(str(file)) as con:
                    at, events, distinct = con.execute(
                        "SELECT (SELECT position FROM replica), count(*), count(DISTINCT position) FROM events"
                    ).fetchall()[0]
                    step_, last = con.execute("SELECT (SELECT step FROM trainings), max(step) FROM metrics").fetchall()[
                        0
                    ]
                assert events == distinct == at >= max(goal, before)
                assert step_ == last
                before = at
        finally:
            writing.cancel()
        async with running(of(client, file)) as replica:
            assert replica.position == before
            await assert_equal(client, replica)
