"""Statements of somebody who means harm: each is refused or contained, with a reason, and the log never notices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from server_harness import Client, serving
from test_sql import ask, fill, steps

from core.server.child import Child
from events.client import Follower
from events.streams import Append

pytestmark = pytest.mark.slow

DEEP = "(" * 5_000 + "1" + ")" * 5_000


def reaching(data: Path) -> dict[str, dict[str, str]]:
    """Class → statement → words of the reason why it is refused. `data` is the server's data directory."""
    log, own, secret = data / "log.duckdb", data / "sql" / "replica.duckdb", data / "token"
    return {
        "files": {
            f"SELECT * FROM read_text('{secret}')": "read_text is not available",
            f"SELECT * FROM read_blob('{log}')": "read_blob is not available",
            f"SELECT * FROM read_csv('{secret}')": "read_csv is not available",
            f"SELECT * FROM '{data}/x.parquet'": "file system operations are disabled",
            f"SELECT * FROM parquet_scan('{data}/x.parquet')": "parquet_scan is not available",
            f"SELECT * FROM glob('{data}/*')": "glob is not available",
            f"SELECT * FROM sniff_csv('{secret}')": "sniff_csv is not available",
            f"SELECT * FROM query('SELECT * FROM read_text(''{secret}'')')": "query is not available",
        },
        "network": {
            "SELECT * FROM read_csv('http://127.0.0.1:1/x.csv')": "read_csv is not available",
            "SELECT * FROM 'https://example.com/x.parquet'": "file system operations are disabled",
            "SELECT * FROM read_json_auto('s3://bucket/x.json')": "read_json_auto is not available",
            "ATTACH 'http://127.0.0.1:1/x.duckdb'": "This is ATTACH",
        },
        "extensions": {
            "INSTALL httpfs": "This is LOAD",
            "LOAD httpfs": "This is LOAD",
            "SELECT * FROM duckdb_extensions()": "duckdb_extensions is not available",
            "FORCE INSTALL httpfs FROM community": "This is LOAD",
        },
        "settings": {
            "SET enable_external_access = true": "This is SET",
            "SET memory_limit = '100GB'": "This is SET",
            "RESET lock_configuration": "This is SET",
            "PRAGMA enable_profiling": "This is PRAGMA",
            "USE raw": "Only questions are answered",
            "SELECT current_setting('temp_directory')": "current_setting is not available",
            "SELECT * FROM duckdb_settings()": "duckdb_settings is not available",
            "SELECT set_config('memory_limit', '1TB', false)": "set_config is not available",
            "CALL force_checkpoint()": "This is CALL",
        },
        "environment": {
            "SELECT getenv('SAESTUDIO_TOKEN')": "getenv is not available",
            "SELECT getvariable('x')": "getvariable is not available",
            "SELECT * FROM duckdb_secrets()": "duckdb_secrets is not available",
            "SELECT * FROM read_text('/proc/self/environ')": "read_text is not available",
        },
        "writing": {
            f"COPY (SELECT 1) TO '{data}/x.csv'": "This is COPY",
            f"WITH x AS (COPY (SELECT 1) TO '{log}') SELECT 1": "has COPY in it",
            f"WITH x AS (COPY (SELECT 1) TO '{own}') SELECT 1": "has COPY in it",
            "WITH x AS (DELETE FROM raw.step_trained RETURNING 1) FROM x": "has DELETE in it",
            "WITH x AS (INSERT INTO raw.logs SELECT * FROM raw.logs RETURNING 1) FROM x": "has INSERT in it",
            "WITH x AS (UPDATE raw.replica SET position = 0 RETURNING 1) FROM x": "has UPDATE in it",
            f"SELECT (WITH x AS (COPY (SELECT 1) TO '{own}') SELECT 1)": "has COPY in it",
            "DELETE FROM raw.step_trained": "This is DELETE",
            "DROP VIEW metrics": "This is DROP",
            "CREATE TABLE main.x AS SELECT 1": "This is CREATE",
            "CREATE MACRO metrics() AS TABLE SELECT 1": "This is CREATE",
            "TRUNCATE raw.step_trained": "This is DELETE",
            f"EXPORT DATABASE '{data}/export'": "This is EXPORT",
            "EXPLAIN ANALYZE DELETE FROM raw.step_trained": "Only questions are answered",
            f"-- explain \nEXPLAIN ANALYZE COPY (SELECT 1) TO '{own}' (FORMAT csv)": "has nothing before it",
            "/* explain */ EXPLAIN ANALYZE CREATE TEMP TABLE x AS SELECT 1": "has nothing before it",
            "-- explain \nEXPLAIN ANALYZE SELECT current_setting('temp_directory')": "has nothing before it",
            "EXPLAIN ANALYZE WITH x AS (DELETE FROM raw.step_trained RETURNING 1) FROM x": "has DELETE in it",
            "SELECT * FROM json_execute_serialized_sql('{}')": "json_execute_serialized_sql is not available",
            "SELECT 1; DROP VIEW metrics": "One statement is answered at a time",
            "BEGIN": "This is TRANSACTION",
            "ROLLBACK": "This is TRANSACTION",
            "PREPARE x AS SELECT 1": "This is PREPARE",
        },
        "attaching and locks": {
            f"ATTACH '{log}' AS stolen": "This is ATTACH",
            f"ATTACH '{log}' (READ_ONLY)": "This is ATTACH",
            "DETACH replica": "This is DETACH",
            f"SELECT * FROM read_blob('{data}/lock')": "read_blob is not available",
            "COPY FROM DATABASE replica TO memory": "Only questions are answered",
        },
        "what the server is": {
            "SELECT * FROM duckdb_databases()": "duckdb_databases is not available",
            "SELECT * FROM duckdb_databases": "duckdb_databases is not available",
            "SELECT * FROM pragma_database_list": "pragma_database_list is not available",
            "SELECT * FROM pg_catalog.pg_settings": "pg_catalog is not available",
            "SELECT * FROM sqlite_master": "sqlite_master is not available",
            "SELECT * FROM duckdb_logs()": "duckdb_logs is not available",
            "SELECT write_log('x')": "write_log is not available",
            "SELECT * FROM asked": "does not exist",
        },
    }


SIZE: dict[str, str] = {
    "SELECT len(range(2000000000))": "memory",
    "SELECT string_agg(repeat('x', 100000), ',') FROM range(100000)": "memory",
    "SELECT list(range) FROM range(1000000000)": "memory",
    "SELECT sleep_ms(600000)": "not available",
    "WITH RECURSIVE r AS (SELECT 1 AS a UNION ALL SELECT a + 1 FROM r) SELECT count(*) FROM r": "took longer",
    "SELECT count(*) FROM range(1000000000) a, range(1000000000) b": "took longer",
    "SELECT " + "1, " * 30_000 + "1": "",
    "SELECT '" + "x" * 10_000_000 + "'": "",
    f"SELECT {DEEP}": "",
    "SELECT " + " + ".join(["1"] * 20_000): "",
    "SELECT * FROM range(1000000000) ORDER BY hash(range) DESC": "",
    "SELECT count(DISTINCT md5(range::VARCHAR || b::VARCHAR)) FROM range(100000000), range(10) t(b)": "",
    "\x00SELECT 1": "",
    "SELECT '😀' || chr(0) || chr(55296)": "",
}
"""What asks for too much → words of the reason; empty: whatever it gets, it is a sentence or an answer."""


@dataclass
class Watched:
    """A server whose log is written and followed all the while."""

    client: Client
    data: Path
    positions: list[int] = field(default_factory=list)
    step: int = 100

    async def append(self) -> int:
        self.step += 1
        store = self.client.server.studio.store
        appended = await asyncio.wrap_future(store.append(Append("training-one", steps(1, self.step))))
        return appended[0].position

    async def unharmed(self) -> None:
        """The log answers and is whole, takes events, and its follower has missed nothing."""
        health = (await self.client.http.get("/healthz")).json()
        assert health["status"] == "ok"
        head = await self.append()
        async with asyncio.timeout(60):
            while not self.positions or self.positions[-1] < head:  # noqa: ASYNC110 it is in a task of its own
                await asyncio.sleep(0.01)
        assert self.positions == list(range(1, head + 1))
        verified = await asyncio.to_thread(self.client.server.studio.projections.verify)
        assert [one for one in verified if not one.matches] == []


@pytest.fixture
async def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Watched]:
    monkeypatch.setattr(Child, "SOON", 0.0)
    data = tmp_path / "data"
    async with serving(data) as client:
        await fill(client)
        found = Watched(client, data)

        async def follow() -> None:
            async for recorded in Follower(client.server.url):
                found.positions.append(recorded.position)

        following = asyncio.create_task(follow())
        yield found
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def whole(watched: Watched) -> None:
    """The replica still has what it had, once it is there."""
    head = await watched.append()
    async with asyncio.timeout(100):
        while True:
            answer = await ask(watched.client, "SELECT count(*), max(step) FROM metrics", after=head)
            if answer.status_code == 200:
                break
            assert answer.status_code == 503, answer.text
            await asyncio.sleep(0.05)
    assert answer.json()["data"] == [[watched.step, watched.step]]


async def ready(watched: Watched) -> Callable[[], bool]:
    """Waits for the database; whether its process is the same one as now."""
    await whole(watched)
    child = watched.client.server.studio.analyst.child
    assert child is not None
    pid = child.pid
    return lambda: child.pid == pid


CLASSES = list(reaching(Path("/x")))


def test_the_corpus_is_large() -> None:
    count = sum(len(each) for each in reaching(Path("/x")).values()) + len(SIZE)
    assert count >= 40


@pytest.mark.parametrize("kind", CLASSES)
async def test_what_reaches_out_is_refused_with_a_reason(watched: Watched, kind: str) -> None:
    same = await ready(watched)
    before = {str(path) for path in watched.data.rglob("*")}
    for statement, words in reaching(watched.data)[kind].items():
        answer = await ask(watched.client, statement)
        assert answer.status_code == 422, (statement, answer.text)
        assert words in answer.json()["detail"], (statement, answer.text)
        assert str(watched.data / "sql") not in answer.text or str(watched.data / "sql") in statement
    assert same()
    await whole(watched)
    await watched.unharmed()
    made = {str(path) for path in watched.data.rglob("*")} - before
    # The log's write-ahead log comes and goes by itself.
    assert {path for path in made if "/sql/" not in path and not path.endswith("/log.duckdb.wal")} == set()


@pytest.mark.parametrize("statement", list(SIZE), ids=[each[:40] for each in SIZE])
async def test_what_asks_for_too_much_is_contained(watched: Watched, statement: str) -> None:
    await ready(watched)
    answer = await ask(watched.client, statement, seconds=15 if SIZE[statement] == "memory" else 1)
    assert answer.status_code in ((422,) if SIZE[statement] else (200, 413, 422, 503)), answer.text[:1_000]
    if answer.status_code != 200:
        assert SIZE[statement] in answer.json()["detail"]
        assert answer.json()["detail"].endswith((".", "!", "?")), answer.text
    await whole(watched)
    await watched.unharmed()
