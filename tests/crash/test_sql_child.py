"""Statements that DuckDB does not let go of when it is told to: the process goes, and with it nothing else."""

from __future__ import annotations

import asyncio
import resource
import time
from pathlib import Path

import pytest
from server_harness import Client
from serving import cpu_seconds
from test_hostile_sql import Watched, ready, watched, whole
from test_sql import ask

from projections.ask import GRACE

__all__ = ["watched"]

pytestmark = [pytest.mark.crash, pytest.mark.timeout(180)]

LONG = "repeat('a', 400000)"
DEAF = [
    f"SELECT levenshtein({LONG}, repeat('b', 400000))",
    f"SELECT DISTINCT levenshtein({LONG}, repeat('b', 400000))",
    f"SELECT count(*) FROM range(4) WHERE levenshtein({LONG}, repeat('b', 400000)) > range",
    f"SELECT editdist3({LONG}, repeat('b', 400000))",
    f"SELECT list_transform([1, 2], x -> levenshtein({LONG}, repeat('b', 400000)) + x)",
    f"SELECT max(levenshtein({LONG}, repeat('b', 400000)))",
    f"WITH x AS MATERIALIZED (SELECT levenshtein({LONG}, repeat('b', 400000)) AS n) FROM x",
    f"SELECT * FROM range(1) ORDER BY levenshtein({LONG}, repeat('b', 400000) || range)",
    f"SELECT row_number() OVER (ORDER BY levenshtein({LONG}, repeat('b', 400000) || range)) FROM range(1)",
    f"SELECT CASE WHEN levenshtein({LONG}, repeat('b', 400000) || range) > 1 THEN 1 END FROM range(2)",
]


@pytest.mark.parametrize("statement", DEAF, ids=range(len(DEAF)))
async def test_a_statement_that_does_not_end_costs_the_process_and_nothing_else(
    watched: Watched, statement: str
) -> None:
    same = await ready(watched)
    began = time.monotonic()
    answer = await ask(watched.client, statement, seconds=0.5)
    assert answer.status_code == 503, answer.text
    assert "process ended" in answer.json()["detail"]
    assert answer.headers["retry-after"]
    assert time.monotonic() - began > GRACE
    await whole(watched)
    assert not same()
    await watched.unharmed()


async def test_a_client_that_goes_does_not_leave_such_a_statement_behind(watched: Watched) -> None:
    same = await ready(watched)
    asking = asyncio.create_task(ask(watched.client, DEAF[0], seconds=300))
    analyst = watched.client.server.studio.analyst
    assert analyst.child is not None
    assert analyst.child.pid is not None
    idle = cpu_seconds(analyst.child.pid)
    async with asyncio.timeout(60):
        while cpu_seconds(analyst.child.pid) < idle + 0.3:  # noqa: ASYNC110 it is at work once it takes time
            await asyncio.sleep(0.01)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    async with asyncio.timeout(60):
        while same():  # noqa: ASYNC110 a process has no event
            await asyncio.sleep(0.05)
    await whole(watched)
    await watched.unharmed()


async def test_killing_the_process_over_and_over_only_delays_answers(watched: Watched, tmp_path: Path) -> None:
    await ready(watched)
    client: Client = watched.client
    child = client.server.studio.analyst.child
    assert child is not None
    for _ in range(5):
        child.kill()
        await whole(watched)
    await watched.unharmed()


async def test_a_full_disk_costs_the_process_and_nothing_else(watched: Watched) -> None:
    same = await ready(watched)
    child = watched.client.server.studio.analyst.child
    assert child is not None
    assert child.pid is not None
    # No file of the process can grow: it meets errors where a full disk would raise them.
    resource.prlimit(child.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    await watched.append()
    async with asyncio.timeout(60):
        while same():  # noqa: ASYNC110 a process has no event
            await asyncio.sleep(0.05)
    await watched.unharmed()
    await whole(watched)
    await watched.unharmed()
