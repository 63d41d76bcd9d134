"""SQL asked of the server: what it answers, within which limits, and what becomes of it without its process."""

from __future__ import annotations

import asyncio
import contextlib
import io
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pyarrow.ipc
import pyarrow.parquet
import pytest
from server_harness import Client, serving

from core.server import analyst
from core.server.child import Child
from events.control import TrainingCreated
from events.streams import Append
from events.training import StepTrained, TrainingConfig

pytestmark = pytest.mark.slow


def steps(count: int, start: int = 1) -> list[StepTrained]:
    return [
        StepTrained(
            step=n, loss=1 / n, loss_reconstruction=1 / n, l0=9, l0_fraction=0.1, fvu=0.5 / n, learning_rate=1e-3,
            dead_latents=n, grad_norm=1, tokens=n * 64, tokens_per_second=10,
        )
        for n in range(start, start + count)
    ]  # fmt: skip


async def fill(client: Client, count: int = 100) -> int:
    config = TrainingConfig(model="tiny", datasets=("words",), total_steps=count)
    store = client.server.studio.store
    store.append(Append("control-one", [TrainingCreated(name="first", config=config)], actor="user:ada")).result()
    return store.append(Append("training-one", steps(count))).result()[0].position


@pytest.fixture
async def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Client]:
    # Every end counts as late, so that the next start does not wait.
    monkeypatch.setattr(Child, "SOON", 0.0)
    async with serving(tmp_path / "data") as found:
        await fill(found)
        yield found


async def ask(client: Client, statement: str, **asked: Any) -> Any:
    return await client.http.post("/api/v1/sql", json={"statement": statement, **asked})


async def answered(client: Client, statement: str, **asked: Any) -> Any:
    """The answer, once the database is there."""
    async with asyncio.timeout(100):
        while True:
            answer = await ask(client, statement, **asked)
            if answer.status_code == 200:
                return answer.json()
            assert answer.status_code == 503, answer.text
            assert int(answer.headers["retry-after"]) >= 1
            await asyncio.sleep(0.05)


async def test_a_question_is_answered_at_the_position_that_the_answer_names(client: Client) -> None:
    store = client.server.studio.store
    answer = await answered(client, "SELECT training, max(step), sum(tokens), avg(fvu) > 0 FROM metrics GROUP BY ALL")
    assert answer["data"] == [["one", 100, 323_200, True]]
    assert [column["type"] for column in answer["columns"]] == ["VARCHAR", "BIGINT", "HUGEINT", "BOOLEAN"]
    assert (answer["rows"], answer["cut"], answer["position"], answer["head"]) == (1, None, store.head, store.head)
    for n in range(101, 120):
        position = (await asyncio.wrap_future(store.append(Append("training-one", steps(1, n)))))[0].position
        answer = await answered(client, "SELECT max(step), max(position) FROM metrics", after=position)
        assert answer["data"] == [[n, position]]
        assert answer["position"] == position
    # There is no such position yet, and nobody waits for it for long.
    late = await ask(client, "SELECT 1", after=10**9)
    assert late.status_code == 503
    assert "not yet" in late.json()["detail"]


async def test_parameters_are_values_and_never_text_of_the_statement(client: Client) -> None:
    name = "'; DROP TABLE x; --"
    assert (await answered(client, "SELECT $1, $2 + 1", parameters=[name, 2]))["data"] == [[name, 3]]
    assert (await answered(client, "SELECT $n", parameters={"n": None}))["data"] == [[None]]
    wrong = await ask(client, "SELECT $1")
    assert wrong.status_code == 422
    assert "1" in wrong.json()["detail"]


async def test_values_of_every_type_come_as_json(client: Client) -> None:
    answer = await answered(
        client,
        "SELECT 'nan'::DOUBLE, [1, NULL], {'a': 1.5}, MAP {'k': 1}, DATE '2026-01-02', INTERVAL 1 DAY, 'x'::BLOB,"
        " 1.25::DECIMAL(9, 2), 123456789012345678901234567890::HUGEINT, NULL, '{}'::JSON",
    )
    assert answer["data"][0][:5] == [None, [1, None], {"a": 1.5}, [["k", 1]], "2026-01-02"]
    assert answer["data"][0][6:] == ["eA==", 1.25, 123456789012345678901234567890, None, "{}"]
    far = await ask(client, "SELECT 'infinity'::TIMESTAMP, TIMESTAMP '290000-01-01'")
    assert far.status_code == 422
    assert "cast it to VARCHAR" in far.json()["detail"]


async def test_a_wrong_statement_gets_duckdbs_words_with_line_and_column(client: Client) -> None:
    await answered(client, "SELECT 1")
    expected = {
        "SELEC 1": "Line 1, column 1: Parser Error",
        "SELECT 1,\n  los\nFROM metrics": "Line 2, column 3: Binder Error",
        "SELECT 1 FROM\n nothing": "Line 2, column 2: Catalog Error",
        "SELECT " + "1 + " * 60 + "los FROM metrics": f"Line 1, column {8 + 240}: Binder Error",
        "": "There is nothing to answer. Try: SELECT * FROM trainings",
        "-- only a remark": "There is nothing to answer",
        "SELECT 1; SELECT 2": "One statement is answered at a time; these are 2.",
        "SELECT " + " " * 100_000 + "1": "A statement may have 100,000 characters",
    }
    for statement, sentence in expected.items():
        answer = await ask(client, statement)
        assert answer.status_code == 422, answer.text
        assert sentence in answer.json()["detail"], answer.text
        assert answer.json()["errors"][0]["field"] == "statement"


async def test_what_goes_wrong_after_the_first_rows_is_said_too(client: Client) -> None:
    await answered(client, "SELECT 1")
    late = "SELECT CAST(CASE WHEN i < 9000 THEN '1' ELSE 'x' END AS INTEGER) AS n FROM range(10000) AS t(i)"
    answer = await ask(client, late)
    assert answer.status_code == 422, answer.text
    assert "Could not convert string 'x'" in answer.text
    # Where rows are on their way already, a stream says it at its end; a file has no place for it, and no end.
    late = late.replace("9000", "3000000").replace("10000", "3000001")
    answer = await ask(client, late, format="arrow", limit=10_000_000)
    rows, end = read_stream(answer.content)
    assert 0 < rows < 3_000_001
    assert b"Could not convert string 'x'" in end["error"]
    with pytest.raises(httpx.RemoteProtocolError):
        await ask(client, late, format="csv", limit=10_000_000)
    # That was nobody's fault but the question's.
    assert (await answered(client, "SELECT 42"))["data"] == [[42]]


async def test_an_answer_comes_whole_as_a_file_that_others_read(client: Client) -> None:
    await answered(client, "SELECT 1")
    asked = "SELECT range AS n, 'a,' || range AS s FROM range(150000)"
    answer = await ask(client, asked, format="parquet")
    assert answer.headers["content-type"] == "application/vnd.apache.parquet"
    file = pyarrow.parquet.ParquetFile(io.BytesIO(answer.content))
    assert file.metadata.num_row_groups == 2
    assert file.read().column("n").to_pylist() == list(range(150_000))
    answer = await ask(client, asked, format="csv")
    assert answer.headers["content-type"].startswith("text/csv")
    lines = answer.text.splitlines()
    assert (lines[0], lines[-1], len(lines)) == ('"n","s"', '149999,"a,149999"', 150_001)
    empty = await ask(client, "SELECT training FROM metrics WHERE false", format="parquet")
    assert pyarrow.parquet.read_table(io.BytesIO(empty.content)).num_rows == 0
    # It could not say that rows are missing.
    with pytest.raises(httpx.RemoteProtocolError):
        await ask(client, asked, format="csv", limit=100_000)
    unfit = await ask(client, "SELECT [1] AS many", format="csv")
    assert (unfit.status_code, unfit.json()["detail"]) == (
        422,
        "Column many has lists or structs, which CSV has not; cast it to VARCHAR.",
    )


async def test_readers_that_do_not_read_lose_their_places_and_others_are_told_who_has_them(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    await answered(client, "SELECT 1")
    free = client.server.studio.analyst._free
    much = {"statement": "SELECT repeat('x', 1000) FROM range(1000000)", "format": "arrow"}
    async with contextlib.AsyncExitStack() as open_:

        async def stall() -> None:
            each = [client.http.stream("POST", "/api/v1/sql", json=much) for _ in range(analyst.AT_ONCE)]
            for one in each:
                await open_.enter_async_context(one)

        await stall()
        monkeypatch.setattr(analyst, "WAIT", 0.1)
        told = await ask(client, "SELECT 2")
        assert told.status_code == 503
        assert told.json()["detail"].count("(SELECT repeat('x', 1000) FROM range(1000000))") == analyst.AT_ONCE
        assert "user:" in told.json()["detail"]
    await until(lambda: not free.locked())
    async with contextlib.AsyncExitStack() as open_:
        monkeypatch.setattr(analyst, "STALLED", 0.2)
        monkeypatch.setattr(analyst, "WAIT", 30.0)
        await stall()
        # Who takes a break is left alone until somebody else wants the place.
        assert free.locked()
        assert (await answered(client, "SELECT 42"))["data"] == [[42]]
        assert len(client.server.studio.analyst._holders) < analyst.AT_ONCE


def read_stream(content: bytes) -> tuple[int, dict[str, bytes]]:
    """The rows of an Arrow stream, and what it says at its end."""
    rows, end = 0, None
    with pyarrow.ipc.open_stream(content) as reader:
        while True:
            try:
                batch, end = reader.read_next_batch_with_custom_metadata()
            except StopIteration:
                break
            rows += batch.num_rows
    assert end is not None
    return rows, {name.decode(): said for name, said in end.items()}


async def test_every_kind_of_question_is_answered(client: Client) -> None:
    for statement in (
        "FROM trainings",
        "VALUES (1)",
        "DESCRIBE metrics",
        "SHOW TABLES",
        "SUMMARIZE metrics",
        "EXPLAIN SELECT 1",
        "EXPLAIN ANALYZE SELECT count(*) FROM metrics",
        "WITH a AS (SELECT 1 AS x), b AS MATERIALIZED (FROM a) SELECT x FROM b UNION ALL FROM a",
        "WITH RECURSIVE r AS (SELECT 1 AS a UNION ALL SELECT a + 1 FROM r WHERE a < 3) FROM r",
        "SELECT * FROM range(3), (SELECT unnest([1, 2]))",
        "SELECT column_name FROM duckdb_columns() WHERE table_name = 'metrics'",
        "SELECT table_name FROM information_schema.tables",
        "SELECT count(*) FROM raw.step_trained",
    ):
        assert (await answered(client, statement))["rows"] >= 1, statement


async def test_an_answer_beyond_the_limit_is_cut_and_says_so(client: Client) -> None:
    answer = await answered(client, "SELECT * FROM range(100000)", limit=30_000)
    assert (answer["rows"], len(answer["data"])) == (30_000, 30_000)
    assert answer["cut"].startswith("Only the first 30,000 rows are here")
    exact = await answered(client, "SELECT * FROM range(30000)", limit=30_000)
    assert (exact["rows"], exact["cut"]) == (30_000, None)
    fat = await answered(client, "SELECT repeat('x', 100000) FROM range(100000)", limit=100_000)
    assert fat["rows"] < 1_000
    assert "bytes" in fat["cut"]
    assert (await ask(client, "SELECT 1", limit=1_000_000)).status_code == 422
    assert (await ask(client, "SELECT 1", seconds=0)).status_code == 422
    late = await ask(client, "SELECT count(*) FROM range(100000000) a, range(100000) b", seconds=0.2)
    assert late.status_code == 422
    assert "took longer than the 0.2 s" in late.json()["detail"]


async def test_an_answer_streams_as_arrow_and_says_at_its_end_whether_it_was_cut(client: Client) -> None:
    await answered(client, "SELECT 1")
    answer = await ask(client, "SELECT range AS n FROM range(200000)", format="arrow", limit=150_000)
    with pyarrow.ipc.open_stream(answer.content) as reader:
        assert reader.schema.metadata[b"position"] == str(client.server.studio.store.head).encode()
    rows, end = read_stream(answer.content)
    assert (rows, end["rows"]) == (150_000, b"150000")
    assert b"150,000" in end["cut"]
    wrong = await ask(client, "SELECT los FROM metrics", format="arrow")
    assert (wrong.status_code, wrong.headers["content-type"]) == (422, "application/problem+json")


async def test_a_client_that_goes_takes_its_question_with_it(client: Client) -> None:
    await answered(client, "SELECT 1")
    asked = client.server.studio.analyst
    asking = [
        asyncio.create_task(ask(client, "SELECT count(*) FROM range(100000000) a, range(100000) b", seconds=300))
        for _ in range(8)
    ]
    await until(asked._free.locked)
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)
    # All places are free again, in the same process.
    assert asked.child is not None
    assert (await answered(client, "SELECT 42"))["data"] == [[42]]
    assert asked.child.restarts == 0


async def test_the_database_is_started_by_the_first_question_and_may_be_lost(client: Client) -> None:
    studio = client.server.studio
    assert studio.analyst.child is None
    counted = "SELECT count(*), max(step) FROM metrics"
    assert (await answered(client, counted))["data"] == [[100, 100]]
    child = studio.analyst.child
    assert child is not None
    folder = studio.settings.sql
    for lose in (lambda: None, lambda: shutil.rmtree(folder), lambda: (folder / "replica.duckdb").write_bytes(b"x")):
        before = child.restarts
        (folder / "replica.duckdb.wal").unlink(missing_ok=True)
        lose()
        child.kill()
        await until(lambda child=child, before=before: child.restarts > before)
        head = store_one(client)
        assert (await answered(client, counted, after=head))["data"][0][0] == 100
    assert (await client.http.get("/healthz")).json()["status"] == "ok"


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 a process has no event
            await asyncio.sleep(0.02)


def store_one(client: Client) -> int:
    """Appends something that is no step."""
    store = client.server.studio.store
    return store.append(Append("template-x", [TrainingCreated(name="x")])).result()[0].position


async def test_the_token_of_the_child_is_its_own_and_the_gate_is_before_sql(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", host="0.0.0.0") as client:
        answer = await ask(client, "SELECT 1")
        assert answer.status_code == 401
        assert client.server.studio.analyst.child is None
        studio = client.server.studio
        headers = {"Authorization": f"Bearer {studio.settings.token_file.read_text().strip()}"}
        answer = await client.http.post("/api/v1/sql", json={"statement": "SELECT 1"}, headers=headers)
        assert answer.status_code in (200, 503)
        assert studio.analyst.child is not None
        token = studio.analyst.child._environment["SAESTUDIO_TOKEN"]
        assert studio.access.bearer(token) == "sql"
        assert studio.access.only_reads(token)
